"""Two processes train as one with a batch twice as large; what kills one ends all, in words, and the run can go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from anomaly_spotter import lessons, processes
from anomaly_spotter.bundle import read_bundle
from anomaly_spotter.config import SpotterConfig, TrainingConfig
from anomaly_spotter.errors import ConfigError
from anomaly_spotter.processes import Member
from anomaly_spotter.spotter import Spotter
from tests.conftest import TINY

EPOCHS = 5
_PYTORCHS_OWN = ("TORCHINDUCTOR_", "PYTORCH_")  # set when parts of it are first imported
TOLERANCE = (
    1e-5  # relative; the mean of two halves' gradients is summed in another order than that of the whole
)
SETTINGS = {
    "preprocessing.long_side": "64",
    "preprocessing.alignment": "none",
    "model.evidence": "[grey]",
    "model.widths": "[8, 16, 16, 16]",
    "model.batch_norm": "false",  # each process normalises by its own half of the batch, a sum that does differ
    "training.pictures_per_epoch": "128",
    "training.patience": "20",
    "training.precision": "fp32",
    "training.batch_size": "16",
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def command(data: Path, out: Path, *more: str, under: list[str] | None = None) -> list[str]:
    verb = [sys.executable, *(under or ["-m"]), "anomaly_spotter", "train", "--data", str(data)]
    sets = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    options = [
        "--category",
        "disc",
        "--preset",
        "unet",
        "--epochs",
        str(EPOCHS),
        "--false-reject-rate",
        "0.1",
    ]
    return [*verb, *options, "--out", str(out), *sets, *more]


def start(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(process: subprocess.Popen[str], out: Path, number: int = 1) -> None:
    path = out / "runs/disc-unet/history.jsonl"
    deadline = time.monotonic() + 600
    while not path.is_file() or len(history(out)) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "training never reached the epoch"
        time.sleep(0.01)


def members(process: subprocess.Popen[str], word: str) -> list[psutil.Process]:
    """The processes that train, oldest first."""
    children = psutil.Process(process.pid).children()
    return sorted((each for each in children if word in " ".join(each.cmdline())), key=lambda each: each.pid)


def history(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "runs/disc-unet/history.jsonl").read_text().splitlines()]


def assert_same_curve(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert [row["epoch"] for row in found] == [row["epoch"] for row in expected]
    for key in ("train_loss", "val_loss", "learning_rate"):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=TOLERANCE)


@pytest.fixture(scope="module")
def large_batch(data_root, tmp_path_factory):
    """One process, batch 32."""
    out = tmp_path_factory.mktemp("one")
    subprocess.run(
        command(data_root, out, "--set", "training.batch_size=32"), capture_output=True, text=True, check=True
    )
    return out


@pytest.mark.slow
def test_two_processes_of_batch_16_learn_what_one_of_batch_32_does(data_root, tmp_path, large_batch):
    settings = SETTINGS | {"training.devices": "2", "training.epochs": str(EPOCHS)}
    settings["calibration.false_reject_rate"] = "0.1"
    config = SpotterConfig.load("unet", overrides=[f"{key}={value}" for key, value in settings.items()])
    environment, threads = dict(os.environ), torch.get_num_threads()
    spotter = Spotter.fit(data_root, "disc", config=config, run_dir=tmp_path / "runs/disc-unet")
    left = {name for name in os.environ.keys() - environment.keys() if not name.startswith(_PYTORCHS_OWN)}
    assert not left
    assert {name: os.environ.get(name) for name in environment} == environment
    assert torch.get_num_threads() == threads
    assert_same_curve(spotter.provenance["history"], history(large_batch))
    assert history(tmp_path) == spotter.provenance["history"]  # one, by the first process
    expected = Spotter.load(large_batch / "models/disc-unet.spot", engine="torch")
    for picture in sorted((data_root / "disc/test").rglob("*.png")):
        assert spotter.inspect(picture).score == pytest.approx(expected.inspect(picture).score, rel=1e-3)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_in_words_and_the_run_goes_on(data_root, tmp_path, large_batch):
    """Killed where the verb starts the processes, then where ``torchrun`` does, which brings the run to its end."""
    process = start(command(data_root, tmp_path, "--devices", "2"))
    wait_for_epoch(process, tmp_path)
    *rest, killed = members(process, "spawn_main")
    assert len(rest) == 1
    killed.kill()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 2
    assert [row for row in stderr.splitlines() if "error:" in row] == [stderr.splitlines()[-1]]
    assert "was killed by SIGKILL" in stderr
    assert "--resume goes on" in stderr
    assert "Traceback" not in stderr
    assert not any(each.is_running() for each in rest)
    known = len(history(tmp_path))
    assert known < EPOCHS

    line = command(data_root, tmp_path, "--resume", under=TORCHRUN)
    process = start(line)
    wait_for_epoch(process, tmp_path, known + 1)
    first, _ = members(process, "anomaly_spotter")
    first.kill()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "error: another process of this training has ended" in stderr
    assert known < len(history(tmp_path)) < EPOCHS

    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.count("disc-unet.spot") == 1  # by the first process
    assert (
        sum("validation loss" in row for row in done.stderr.splitlines()) == 1
    )  # the progress bar at its end
    assert_same_curve(history(tmp_path), history(large_batch))
    stored = read_bundle(tmp_path / "models/disc-unet.spot")
    assert stored.config["training"]["devices"] == 2
    assert stored.provenance["history"] == history(tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs/disc-unet").iterdir()) == [
        "best.ckpt",
        "history.jsonl",
        "last.ckpt",
        "run.json",
    ]


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_and_keeps_the_best_epoch(data_root, tmp_path):
    process = start(command(data_root, tmp_path, "--devices", "2", "--epochs", "500"))
    wait_for_epoch(process, tmp_path)
    both = members(process, "spawn_main")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert not any(each.is_running() for each in both)
    stored = read_bundle(Path(stdout.splitlines()[-1]))
    assert stored.provenance["interrupted"]
    assert 1 <= stored.provenance["epochs"] < 500


@pytest.mark.parametrize("pictures", [7, 40, 97, 128])
@pytest.mark.parametrize("per_epoch", [None, 31, 64, 100])
@pytest.mark.parametrize("count", [2, 3])
def test_the_processes_batches_together_are_the_batches_of_one(monkeypatch, pictures, per_epoch, count):
    def batches(here: Member, devices: int, batch_size: int) -> list[list[tuple[int, int]]]:
        monkeypatch.setattr(lessons, "member", lambda: here)
        settings = TrainingConfig(batch_size=batch_size, devices=devices, pictures_per_epoch=per_epoch)
        sampler = lessons.EpochSampler(pictures, settings, training=True)
        sampler.set_epoch(3)
        keys = list(sampler)
        assert len(keys) == len(sampler)
        return [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]

    alone = batches(Member(), 1, 8 * count)
    shared = [batches(Member(rank, count, count), count, 8) for rank in range(count)]
    assert {len(each) for each in shared} == {len(alone)}
    for step, whole in enumerate(alone):
        parts = [each[step] for each in shared]
        assert len({len(part) for part in parts}) == 1  # else a mean of means is not the mean
        assert set().union(*parts) <= set(whole)
        assert len(whole) - sum(len(part) for part in parts) < count


@pytest.mark.parametrize("pictures", [1, 2, 5])
def test_every_validation_picture_counts_equally(monkeypatch, pictures):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(lessons, "member", lambda rank=rank: Member(rank, 2, 2))
        seen += list(lessons.EpochSampler(pictures, TrainingConfig(devices=2), training=False))
    times = [seen.count((0, index)) for index in range(pictures)]
    assert len(set(times)) == 1
    assert times[0] >= 1


@pytest.mark.parametrize("name", ["memory", "gaussian"])
def test_models_without_gradients_say_that_devices_bring_nothing(data_root, name):
    config = SpotterConfig.load(name, overrides=["training.devices=2", "preprocessing.long_side=64"])
    lines: list[str] = []
    spotter = Spotter.fit(data_root, "disc", config=config, announce=lines.append)
    assert sum("several devices bring nothing" in line for line in lines) == 1
    assert spotter.model.name == name


def test_what_cannot_be_started_is_said_before_training(data_root, monkeypatch):
    def fit(**settings: object) -> None:
        training = TINY["training"] | settings
        Spotter.fit(
            data_root, "disc", config=SpotterConfig.load("unet", overrides=TINY | {"training": training})
        )

    with pytest.raises(
        ConfigError, match="MASTER_ADDR, MASTER_PORT, NODE_RANK is not set; start with torchrun"
    ):
        fit(nodes=2)
    with pytest.raises(ConfigError, match="64 processes cannot share 32 pictures"):
        fit(devices=64)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="fp16 needs a CUDA graphics card"):
            fit(precision="fp16")
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert not processes.leads(TrainingConfig(devices=2, nodes=2))
    with pytest.raises(ConfigError, match=r"set training\.devices=2 and training\.nodes=2"):
        processes.starts_others(TrainingConfig())
    with pytest.raises(ConfigError, match="name it as run_dir"):
        fit(devices=2, nodes=2)


def test_an_error_in_another_process_is_raised_here(data_root, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "history.jsonl").mkdir()  # cannot be written
    with pytest.raises(Exception, match=r"history\.jsonl|Is a directory|not permitted"):
        Spotter.fit(
            data_root,
            "disc",
            config=SpotterConfig.load(
                "unet", overrides=TINY | {"training": TINY["training"] | {"devices": 2}}
            ),
            run_dir=run,
        )
