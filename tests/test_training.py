"""Training survives what happens to it: kill -9 in any epoch, Ctrl-C, changed settings; and bf16 is as good as fp32."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anomaly_spotter.bundle import read_bundle
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import ConfigError, Interrupted, SpotterError
from anomaly_spotter.spotter import Spotter
from tests.conftest import TINY

EPOCHS = 6
SETTINGS = [
    "preprocessing.long_side=64",
    "preprocessing.alignment=none",
    "model.evidence=[grey]",
    "model.widths=[8, 16, 16, 16]",
    "training.batch_size=8",
    "training.pictures_per_epoch=64",
    "training.patience=20",
]


def command(data: Path, out: Path, *more: str) -> list[str]:
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    verb = [
        sys.executable,
        "-m",
        "anomaly_spotter",
        "train",
        "--data",
        str(data),
        "--category",
        "disc",
        "--preset",
        "unet",
    ]
    return [*verb, "--epochs", str(EPOCHS), "--false-reject-rate", "0.1", "--out", str(out), *sets, *more]


def start(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(data, out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_epochs(process: subprocess.Popen[str], out: Path, count: int) -> None:
    history = out / "runs/disc-unet/history.jsonl"
    deadline = time.monotonic() + 120
    while not history.is_file() or len(history.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "training never reached the epoch"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(data_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    done = subprocess.run(command(data_root, out), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(out / "models/disc-unet.spot")
    return read_bundle(out / "models/disc-unet.spot")


@pytest.mark.slow
@pytest.mark.parametrize("epochs_before_kill", [1, 3])
def test_a_killed_run_resumes_to_the_same_result(data_root, tmp_path, uninterrupted, epochs_before_kill):
    process = start(data_root, tmp_path)
    wait_for_epochs(process, tmp_path, epochs_before_kill)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "models/disc-unet.spot").exists()
    subprocess.run(command(data_root, tmp_path, "--resume"), capture_output=True, text=True, check=True)
    resumed = read_bundle(tmp_path / "models/disc-unet.spot")
    assert resumed.provenance["epochs"] == EPOCHS
    assert resumed.provenance["history"] == uninterrupted.provenance["history"]
    assert resumed.calibration == uninterrupted.calibration
    for name, value in uninterrupted.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], value)


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_epoch_and_the_run_can_go_on(data_root, tmp_path, uninterrupted):
    process = start(data_root, tmp_path)
    wait_for_epochs(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    bundle = read_bundle(Path(stdout.splitlines()[-1]))
    assert bundle.provenance["interrupted"]
    assert 2 <= bundle.provenance["epochs"] < EPOCHS
    subprocess.run(command(data_root, tmp_path, "--resume"), capture_output=True, text=True, check=True)
    resumed = read_bundle(tmp_path / "models/disc-unet.spot")
    assert not resumed.provenance["interrupted"]
    assert resumed.calibration == uninterrupted.calibration


def test_resume_refuses_other_settings_and_other_pictures(data_root, tmp_path, tiny_config):
    run = tmp_path / "run"
    Spotter.fit(data_root, "disc", config=tiny_config, run_dir=run)
    other = SpotterConfig.load("unet", overrides=TINY | {"preset": "x"}, environment={})
    with pytest.raises(ConfigError, match="its settings differ"):
        Spotter.fit(data_root, "disc", config=other, run_dir=run, resume=True)
    with pytest.raises(ConfigError, match="its good pictures differ"):
        Spotter.fit(data_root / "disc/test/good", config=tiny_config, run_dir=run, resume=True)


def test_resuming_a_finished_run_gives_it_again(data_root, tmp_path, tiny_config, spotter):
    run = tmp_path / "run"
    Spotter.fit(data_root, "disc", config=tiny_config, run_dir=run)
    (run / ".0123456789abcdef.part").write_bytes(b"what a killed process was writing")
    again = Spotter.fit(data_root, "disc", config=tiny_config, run_dir=run, resume=True)
    assert not list(run.glob(".*"))
    assert again.calibration == spotter.calibration
    assert again.provenance["history"] == spotter.provenance["history"]


def test_a_run_that_stopped_early_does_not_train_on_when_resumed(data_root, tmp_path):
    run = tmp_path / "run"
    training = {"epochs": 40, "batch_size": 8, "patience": 1, "learning_rate": 0.05, "schedule": "constant"}
    config = SpotterConfig.load("unet", overrides=TINY | {"training": training}, environment={})
    first = Spotter.fit(data_root, "disc", config=config, run_dir=run)
    again = Spotter.fit(data_root, "disc", config=config, run_dir=run, resume=True)
    assert len(first.provenance["history"]) < 40
    assert again.provenance["history"] == first.provenance["history"]
    assert again.calibration == first.calibration


def test_a_diverged_run_is_refused_instead_of_calling_everything_ok(data_root):
    training = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e30,
        "schedule": "constant",
        "precision": "fp32",
    }
    config = SpotterConfig.load("unet", overrides=TINY | {"training": training}, environment={})
    with pytest.raises(SpotterError, match=r"not finite|no validation loss is finite"):
        Spotter.fit(data_root, "disc", config=config)


def test_a_damaged_checkpoint_is_named(data_root, tmp_path, tiny_config):
    run = tmp_path / "run"
    Spotter.fit(data_root, "disc", config=tiny_config, run_dir=run)
    last = run / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(SpotterError, match=r"last\.ckpt is damaged"):
        Spotter.fit(data_root, "disc", config=tiny_config, run_dir=run, resume=True)


def test_a_folder_with_something_else_in_it_is_never_emptied(data_root, tmp_path, tiny_config):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="something else than an earlier run"):
        Spotter.fit(data_root, "disc", config=tiny_config, run_dir=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_memory_mapped_pictures_train_to_the_same_weights(
    data_root, tmp_path, tiny_config, spotter, monkeypatch
):
    from anomaly_spotter import lessons
    from anomaly_spotter.inputs import store

    seen = []
    make = lessons.Corrupted.__init__

    def watch(self, pictures, *rest, **named):
        seen.append(isinstance(pictures, np.memmap))
        make(self, pictures, *rest, **named)

    monkeypatch.setattr(store, "MEMORY_LIMIT", 1000)
    monkeypatch.setattr(lessons.Corrupted, "__init__", watch)
    mapped = Spotter.fit(data_root, "disc", config=tiny_config, run_dir=tmp_path / "run")
    assert seen == [True, True]
    assert mapped.calibration == spotter.calibration
    assert not (tmp_path / "run/pictures.u8").exists()


@pytest.mark.slow
def test_ctrl_c_stops_process_all_and_leaves_the_category_unfinished(data_root, tmp_path):
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    verb = [
        sys.executable,
        "-m",
        "anomaly_spotter",
        "process-all",
        "--data",
        str(data_root),
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        [*verb, "--preset", "unet", "--epochs", "50", *sets],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_epochs(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on" in stderr
    assert not (tmp_path / "metrics/disc-unet.json").exists()


def test_interrupt_before_the_first_epoch_has_nothing_to_keep(data_root, tmp_path, tiny_config, monkeypatch):
    from anomaly_spotter import training

    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in a shell's background
    begin_epoch = training._Book.on_train_epoch_start

    def interrupt_now(self, *hook):
        begin_epoch(self, *hook)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training._Book, "on_train_epoch_start", interrupt_now)
    with pytest.raises(Interrupted):
        Spotter.fit(data_root, "disc", config=tiny_config, run_dir=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


def test_early_stopping_stops_and_the_best_epoch_is_used(data_root, tmp_path):
    overrides = TINY | {
        "training": {
            "epochs": 60,
            "batch_size": 8,
            "patience": 1,
            "learning_rate": 0.05,
            "schedule": "constant",
        }
    }
    config = SpotterConfig.load("unet", overrides=overrides, environment={})
    history = Spotter.fit(data_root, "disc", config=config).provenance["history"]
    assert len(history) < 60
    assert history[-1]["val_loss"] >= min(row["val_loss"] for row in history)


@pytest.mark.parametrize("preset", ["seed", "unet"])
def test_both_presets_learn(data_root, preset):
    overrides = {
        "preprocessing": {"long_side": 64},
        "training": {"epochs": 8, "learning_rate": 1e-3, "batch_size": 8},
        "calibration": {"false_reject_rate": 0.1},
    }
    config = SpotterConfig.load(preset, overrides=overrides, environment={})
    history = Spotter.fit(data_root, "disc", config=config).provenance["history"]
    assert history[-1]["val_loss"] < 0.5 * history[0]["val_loss"]


def test_bf16_reaches_what_fp32_reaches(data_root):
    reached = {}
    for precision in ("fp32", "bf16"):
        training = {"epochs": 6, "batch_size": 8, "precision": precision, "pictures_per_epoch": 64}
        config = SpotterConfig.load("unet", overrides=TINY | {"training": training}, environment={})
        reached[precision] = Spotter.fit(data_root, "disc", config=config).provenance["history"][-1][
            "val_loss"
        ]
    assert reached["bf16"] == pytest.approx(reached["fp32"], rel=0.15)


def test_history_has_one_complete_row_per_epoch(spotter, tiny_config):
    history = spotter.provenance["history"]
    assert [row["epoch"] for row in history] == list(range(1, tiny_config.training.epochs + 1))
    assert all(
        np.isfinite([row["train_loss"], row["val_loss"], row["learning_rate"]]).all() for row in history
    )
    assert json.loads(json.dumps(history)) == history
