"""What an inspection PC lacks: inspection does without it, and every verb that does not says in one line what to install."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import MissingExtraError
from anomaly_spotter.extras import needed, require
from anomaly_spotter.spotter import Spotter

REPOSITORY = Path(__file__).parents[1]
LACKING = {"torch", "lightning", "sklearn", "scipy", "matplotlib", "skimage"}
BARE = LACKING | {"onnx", "onnxruntime", "openvino", "keras"}  # what lies beyond the core
CODE = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Lacking())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in LACKING else found(name, package)
from anomaly_spotter.cli import main
main()
"""


def run(*arguments: object, lacking: set[str] = LACKING) -> subprocess.CompletedProcess[str]:
    """The command line where packages cannot be imported: by default nothing of ``[train]`` and ``[evaluate]``."""
    code = f"LACKING = {lacking!r}\n{CODE}"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def check_asks_for(extra: str, done: subprocess.CompletedProcess[str]) -> None:
    """One line, which names the extra."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"pip install 'anomaly-spotter[{extra}]'" in done.stderr


@pytest.fixture(scope="module")
def learning_bundle(data_root, tmp_path_factory) -> Path:
    """A detector that can be taught more, unlike the U-Net of ``bundle``."""
    small = {"preprocessing": {"long_side": 64, "alignment": "none"}}
    config = SpotterConfig.load("memory", overrides=small, environment={})
    fitted = Spotter.fit(data_root, "disc", config=config)
    return fitted.save(tmp_path_factory.mktemp("learning") / "disc.spot")


def test_an_inspection_pc_inspects_and_lives_with_its_detector(bundle, data_root, tmp_path):
    pytest.importorskip("onnxruntime")
    defect, good = data_root / "disc/test/bar/000.png", data_root / "disc/test/good"
    calls: list[tuple[int, list[object]]] = [
        (0, ["info", bundle]),
        (1, ["predict", "--bundle", bundle, "--engine", "onnxruntime", "--out", tmp_path / "out", defect]),
        (0, ["overlay", "--bundle", bundle, "--engine", "onnxruntime", "--out", tmp_path / "out", defect]),
        (0, ["audit", "--data", data_root, "--category", "disc"]),
        (0, ["rates", "--bundle", bundle, "--defects", defect]),
        (0, ["recalibrate", "--bundle", bundle, "--good", good, "--confidence", 0.9, "--out", tmp_path / "new.spot"]),
    ]  # fmt: skip
    for code, arguments in calls:
        done = run(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("verb", "extra"),
    [
        ("evaluate", "evaluate"),
        ("train", "train"),
        ("process-all", "evaluate"),
        ("learning-curve", "train"),
        ("benchmark", "train"),
    ],
)
def test_a_verb_that_needs_more_says_so_in_one_line(bundle, data_root, tmp_path, verb, extra):
    more = {
        "evaluate": ["--category", "disc", "--bundle", bundle],
        "process-all": ["--out", tmp_path],
        "benchmark": ["--out", tmp_path],
    }.get(verb, ["--category", "disc", "--out", tmp_path])
    check_asks_for(extra, run(verb, "--data", data_root, *more))


def test_teaching_says_so_before_it_reads_pictures(learning_bundle, data_root):
    good = data_root / "disc/test/good"
    check_asks_for("train", run("extend", "--bundle", learning_bundle, "--good", good))


@pytest.mark.parametrize(
    ("engine", "extra"),
    [(None, "runtime"), ("onnxruntime", "runtime"), ("openvino", "openvino"), ("torch", "train")],
)
def test_the_core_alone_asks_for_the_engine_that_is_meant(bundle, data_root, engine, extra):
    wish = [] if engine is None else ["--engine", engine]
    done = run("predict", "--bundle", bundle, *wish, data_root / "disc/test/good", lacking=BARE)
    check_asks_for(extra, done)


@pytest.mark.parametrize(
    ("to", "lacking", "extra"),
    [
        ("onnx", "onnx", "runtime"),
        ("onnx", "onnxruntime", "runtime"),
        ("openvino", "onnx", "openvino"),
        ("openvino", "openvino", "openvino"),
        ("keras", "keras", "keras"),
    ],
)
def test_an_export_asks_for_what_writes_and_checks_it(bundle, tmp_path, to, lacking, extra):
    done = run("export", "--bundle", bundle, "--to", to, "--out", tmp_path / "x", lacking={lacking})
    check_asks_for(extra, done)


def test_training_in_keras_says_so_before_it_reads_pictures(data_root, tmp_path):
    wish = ["--framework", "keras", "--epochs", 1, "--out", tmp_path]
    check_asks_for("keras", run("train", "--data", data_root, "--category", "disc", *wish, lacking={"keras"}))


def test_measuring_in_python_says_so_before_it_begins(spotter, data_root, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else found(name))
    nothing = (pytest.fail("inspected") for _ in range(1))
    monkeypatch.setattr(type(spotter), "inspect_stream", lambda *_, **__: nothing)
    with pytest.raises(MissingExtraError, match=r"anomaly-spotter\[evaluate\]"):
        spotter.evaluate(data_root, "disc")


def test_only_the_named_packages_are_the_extra_s_fault():
    with (
        pytest.raises(MissingExtraError, match=r"^this needs it: pip install 'anomaly-spotter\[more\]'$"),
        needed("more", "this needs it", "no_such_package"),
    ):
        import no_such_package.inside
    with pytest.raises(ModuleNotFoundError), needed("more", "this needs it", "another"):
        import no_such_package  # noqa: F401
    require("more", "this needs it", "json", "numpy")
    with pytest.raises(MissingExtraError, match="this needs it"):
        require("more", "this needs it", "json", "no_such_package")


def test_every_extra_that_a_message_names_exists():
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        node.args[0].value
        for path in (REPOSITORY / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"needed", "require", "missing_extra"}
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"evaluate", "train", "ray"} <= named
    assert {extra for names in named for extra in names.split(",")} <= set(known["optional-dependencies"])
