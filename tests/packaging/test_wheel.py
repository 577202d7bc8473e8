"""The wheel as a user gets it: built, looked into, installed into a fresh environment, and run there.

Nothing is downloaded: the fresh environment sees this one's third-party packages through a path file, so what is proven
is that the wheel itself is whole, not that an index resolves its requirements. That they resolve together is checked
against the versions installed here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from anomaly_spotter import __version__

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "src" / "anomaly_spotter"
LEFT_OUT = {"timm"}  # of the extra hub: needs a torchvision made for the PyTorch at hand, so not in [dev]


def run(*command: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**clean, **environment},
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source archive, and the wheel built from it."""
    pytest.importorskip("hatchling", reason="the build backend is not installed: pip install hatchling")
    out = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, REPOSITORY)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; returns its folder of programs."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    third_party = sysconfig.get_path("purelib")
    Path(paths["purelib"], "third_party.pth").write_text(f"{third_party}\n", encoding="utf-8")
    python = next(Path(paths["scripts"]).glob("python*"))
    pip = ("pip", "--python", python, "install", "--no-index", "--no-deps", "--force-reinstall", "--quiet")
    done = run(sys.executable, "-m", *pip, "--disable-pip-version-check", built[1])
    assert done.returncode == 0, done.stderr
    return Path(paths["scripts"])


def test_the_wheel_carries_everything_that_is_not_code(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    there = {
        f"anomaly_spotter/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - names == set()
    assert {name.split("/")[-1] for name in names if "/configs/" in name} >= {
        path.name for path in (REPOSITORY / "configs").glob("*.yaml")
    }
    assert "anomaly_spotter/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_carries_nothing_else(built):
    names = zipfile.ZipFile(built[1]).namelist()
    assert {name.split("/")[0] for name in names} == {
        "anomaly_spotter",
        f"anomaly_spotter-{__version__}.dist-info",
    }
    assert built[1].stat().st_size < 3 * 2**20


def test_the_source_archive_is_enough_to_build_and_test(built):
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "constraints.txt",
        "configs/default.yaml",
        "tests/conftest.py",
        "LICENSE",
    } <= names
    assert not any(name.startswith((".venv", "outputs/demo", "site/")) for name in names)


def test_a_fresh_environment_runs_the_installed_wheel(fresh, bundle, data_root, tmp_path):
    program = fresh / "anomaly-spotter"
    where = run(next(fresh.glob("python*")), "-c", "import anomaly_spotter; print(anomaly_spotter.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(fresh.parent), where.stdout + where.stderr
    shown = run(program, "--help")
    assert shown.returncode == 0
    assert "predict" in shown.stdout
    sampled = run(
        program, "sample", "--out", "data", "--category", "hazelnut",
        "--train", 4, "--test-good", 1, "--per-kind", 1, cwd=tmp_path,
    )  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    assert len(list((tmp_path / "data/hazelnut/train/good").glob("*.png"))) == 4
    defect = data_root / "disc/test/bar/000.png"
    found = run(
        program, "predict", "--bundle", bundle, "--json", tmp_path / "rows.json", defect, cwd=tmp_path
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert (
        json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["pictures"][0]["verdict"] == "DEFECT"
    )


def test_the_presets_are_found_in_the_installed_package(fresh, tmp_path):
    code = "from anomaly_spotter.config import preset_names, SpotterConfig as C; print([C.load(n).preset for n in preset_names()])"
    done = run(next(fresh.glob("python*")), "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        assert f"'{path.stem}'" in done.stdout


@pytest.mark.parametrize("extra", importlib.metadata.metadata("anomaly-spotter").get_all("Provides-Extra"))
def test_the_requirements_of_each_extra_hold_together_here(extra: str):
    unmet, looked_at = [], 0
    for text in importlib.metadata.requires("anomaly-spotter") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue  # the core's
        if requirement.name in LEFT_OUT or not requirement.marker.evaluate({"extra": extra}):
            looked_at += requirement.name in LEFT_OUT
            continue
        looked_at += 1
        version = importlib.metadata.version(requirement.name)
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{requirement} (found {version})")
    assert looked_at
    assert not unmet, unmet
