"""The benchmark end to end: real cells in real processes, failures, resume, Ctrl-C and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from anomaly_spotter.errors import ConfigError, DatasetError
from anomaly_spotter.fleet import benchmark
from anomaly_spotter.fleet.benchmark import parse_seeds, run_benchmark
from anomaly_spotter.fleet.benchmark_cell import Cell, peak_memory_mb
from anomaly_spotter.fleet.perturbations import PERTURBATIONS
from tests.conftest import TINY, write_dataset

SETTINGS = [f"{section}.{key}={value}" for section, values in TINY.items() for key, value in values.items()]
SETTINGS += ["preprocessing.long_side=48", "training.epochs=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """``disc`` is in order; every good picture of ``bad`` is empty."""
    root = write_dataset(tmp_path_factory.mktemp("data"), train=20, test=3)
    shutil.copytree(root / "disc", root / "bad")
    for path in (root / "bad/train/good").iterdir():
        path.write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> tuple[Path, benchmark.Benchmark, list[str]]:
    out, said = tmp_path_factory.mktemp("out"), list[str]()
    found = run_benchmark(root, out, models=["unet"], settings=SETTINGS, announce=said.append)
    return out, found, said


def test_a_failing_category_is_recorded_and_does_not_stop_the_others(finished):
    out, found, said = finished
    assert list(found.failed) == ["bad, unet, seed 0"]
    assert "000.png" in found.failed["bad, unet, seed 0"]
    assert (out / "cells/bad-unet-0.log").is_file()
    assert [result["cell"]["category"] for result in found.results] == ["disc"]
    assert any(line.startswith("[2/2] disc, unet, seed 0: AUROC ") for line in said)


def test_a_cell_holds_quality_robustness_cost_and_origin(finished):
    _, found, _ = finished
    (cell,) = found.results
    assert cell["config"]["training"]["seed"] == 0
    assert len(cell["data"]["sha256"]) == 64
    assert cell["bundle"]["version"]
    assert cell["data"]["train"] == 20
    assert set(cell["at_rate"]) == {"0.05", "0.01"}
    assert cell["at_rate"]["0.01"]["promised_rate"] > 0.01  # 6 calibration pictures cannot promise it
    assert list(cell["robustness"]) == ["as it is", *PERTURBATIONS]
    assert cell["robustness"]["as it is"]["auroc"] == cell["image"]["auroc"]
    assert cell["robustness"]["as it is"]["recall"] == cell["image"]["recall"]
    assert {"aupro", "aupro_05", "f1"} <= set(cell["pixel"])
    assert all(value > 0 for value in cell["cost"].values())
    assert 100 < cell["cost"]["fit_peak_mb"] <= cell["cost"]["peak_mb"] < 4000


def test_page_json_and_plots_lie_side_by_side(finished):
    out, found, _ = finished
    page = found.page.read_text(encoding="utf-8")
    auroc = found.results[0]["image"]["auroc"]
    assert f"| disc | {auroc:.3f} |" in page
    assert "bad, unet, seed 0" in page
    assert "published, not measured" in page
    tree = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
    assert tree["benchmark"]["complete"]
    assert tree["summary"][0]["image"]["auroc"]["mean"] == auroc
    for name in ("auroc", "cost", "robustness"):
        assert f"](benchmark_{name}.png)" in page
        assert (out / f"benchmark_{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_resume_keeps_a_cell_with_the_same_settings_and_pictures_only(finished, root, tmp_path, monkeypatch):
    out = shutil.copytree(finished[0], tmp_path / "out")
    data = shutil.copytree(root, tmp_path / "data")
    ran: list[Cell] = []

    def run(job):
        ran.append(job.cell)
        return finished[1].results[0]

    def again(**changes):
        ran.clear()
        asked = {"categories": ["disc"], "models": ["unet"], "settings": SETTINGS, "resume": True}
        run_benchmark(data, out, **(asked | changes))
        return len(ran)

    monkeypatch.setattr(benchmark, "_run", run)
    assert again() == 0
    assert again(settings=[*SETTINGS, "training.epochs=3"]) == 1
    assert again(robustness=False) == 1
    assert again(seeds=[0, 1]) == 1
    assert again(resume=False) == 1
    (data / "disc/test/good/000.png").write_bytes((data / "disc/test/good/001.png").read_bytes())
    assert again() == 1
    (out / "cells/disc-unet-0.json").write_text("{}")
    assert again() == 1


def test_presets_models_and_seeds_make_the_cells(finished, root, tmp_path, monkeypatch):
    jobs = []

    def run(job):
        jobs.append(job)
        return finished[1].results[0]

    monkeypatch.setattr(benchmark, "_run", run)
    said: list[str] = []
    models = ["unet", "preset:seed", "unet"]
    run_benchmark(root, tmp_path, categories=["disc"], models=models, seeds=[3, 4], announce=said.append)
    assert [(job.cell.model, job.cell.seed) for job in jobs] == [
        ("unet", 3), ("unet", 4), ("preset:seed", 3), ("preset:seed", 4),
    ]  # fmt: skip
    assert jobs[2].config["preset"] == "seed"
    assert jobs[2].config["training"]["seed"] == 3
    assert jobs[0].config["preset"] == "unet"
    assert len({job.file for job in jobs}) == 4
    assert "left" in said[-2]


@pytest.mark.skipif(os.name == "nt", reason="a shell script plays the dying process")
def test_a_killed_process_is_told_from_an_error(root, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(benchmark.sys, "executable", str(script))
    found = run_benchmark(root, tmp_path / "out", categories=["disc"], models=["unet"])
    assert found.failed == {"disc, unet, seed 0": "the process was ended by SIGKILL; out of memory?"}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_keeps_finished_cells_and_leaves_no_process(finished, root, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0] / "cells", out / "cells")
    command = [sys.executable, "-m", "anomaly_spotter", "benchmark", "--data", str(root), "--out", str(out)]
    command += ["--categories", "disc", "--models", "unet", "--seeds", "0,1", "--resume"]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        # A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert "1 of 2 cells finished before" in process.stderr.readline()
    assert "[1/1] disc, unet, seed 1" in process.stderr.readline()
    time.sleep(1)
    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines() == ["interrupted; the same command with --resume goes on from here"]
    tree = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
    assert len(tree["cells"]) == 1
    assert not tree["benchmark"]["complete"]
    assert not list(scratch.iterdir())
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_bad_input_stops_before_the_first_cell(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no category 'cat'"):
        run_benchmark(root, tmp_path, categories=["cat"])
    with pytest.raises(DatasetError, match="holds no category"):
        run_benchmark(tmp_path / "empty", tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        run_benchmark(tmp_path / "none", tmp_path)
    for changes, word in (
        ({"models": ["magic"]}, "model.name"),
        ({"models": ["preset:magic"]}, "unknown preset 'magic'"),
        ({"models": []}, "at least one model"),
        ({"seeds": []}, "one seed"),
        ({"seeds": [-1]}, "training.seed"),
        ({"settings": ["training.speed=1"]}, "training.speed"),
    ):
        with pytest.raises(ConfigError, match=word):
            run_benchmark(root, tmp_path, categories=["disc"], **changes)
    with pytest.raises(ConfigError, match="whole numbers"):
        parse_seeds(["0", "one"])
    assert parse_seeds(["0", "2"]) == [0, 2]


def test_peak_memory_is_this_process_s_own():
    if peak_memory_mb() is None:
        pytest.skip("this system does not tell")
    block = bytearray(b"x" * 300_000_000)
    assert (peak_memory_mb() or 0) >= len(block) / 1e6
