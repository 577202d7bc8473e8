"""Tracking without a server: the local store, servers that hang, TensorBoard, and what the command line says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest

from anomaly_spotter.config import SpotterConfig, TrackingConfig
from anomaly_spotter.errors import ConfigError, Interrupted
from anomaly_spotter.tracking.courier import sync
from anomaly_spotter.tracking.journal import KILLED, waiting
from anomaly_spotter.tracking.run import History, TrackedRun
from anomaly_spotter.tracking.tensorboard import TensorBoardSink
from anomaly_spotter.tracking.tracker import Tracker, spool_folder
from tests.e2e.test_cli import one_error_line
from tests.tracking.servers import spot

ROWS = [{"epoch": n, "train_loss": 1.0 / n, "val_loss": 2.0 / n, "learning_rate": 0.5} for n in (1, 2, 3)]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_untracked_work_leaves_nothing(tmp_path, spotter, bundle):
    with Tracker(TrackingConfig(), tmp_path) as tracker, tracker.run("quiet") as tracked:
        tracked.trained(spotter, bundle)
    assert list(tmp_path.iterdir()) == []


def test_the_own_store_lies_below_the_output_folder(tmp_path, spotter, bundle, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said: list[str] = []
    settings = TrackingConfig(enabled=True)
    with Tracker(settings, tmp_path, said.append) as tracker, tracker.run("disc", spotter.config) as tracked:
        tracked.trained(spotter, bundle)
    from mlflow import MlflowClient

    uri = f"sqlite:///{(tmp_path / 'mlflow/mlflow.db').as_posix()}"
    client = MlflowClient(uri, uri)
    (found,) = client.search_runs([client.get_experiment_by_name("anomaly-spotter").experiment_id])
    assert said == [f"tracked in {uri}: run {found.info.run_id} (disc)"]
    assert found.data.params["training.epochs"] == "3"
    assert len(client.get_metric_history(found.info.run_id, "train_loss")) == 3
    version = client.get_model_version_by_alias("disc", "champion")
    model = tmp_path / "mlflow/artifacts"
    assert version.source.startswith(model.as_uri())
    assert [path.read_bytes() for path in model.rglob("data/disc-unet.spot")] == [bundle.read_bytes()]
    assert not list(model.rglob("*.pkl"))
    assert not list(model.rglob("*.py"))
    assert list(spool_folder(tmp_path).iterdir()) == []


def test_a_server_that_never_answers_costs_no_run(tmp_path, spotter, bundle, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(64)
        said: list[str] = []
        settings = TrackingConfig(enabled=True, uri=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with Tracker(settings, tmp_path, said.append) as tracker, tracker.run("deaf") as tracked:
            tracked.trained(spotter, bundle)
    assert sum("does not take the record now" in line for line in said) == 1
    assert "track-sync" in said[-1]
    (journal,) = waiting(spool_folder(tmp_path))
    kinds = {event["kind"] for event in journal.pending()}
    assert kinds == {"status", "metrics", "tags", "files", "model"}
    journal.close()
    done = sync(spool_folder(tmp_path))  # and now nobody listens at all
    assert done.delivered == []
    assert list(done.waiting) == ["deaf"]


def test_failures_and_interrupts_end_the_run_and_go_on_up(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = TrackingConfig(enabled=True)
    with pytest.raises(Interrupted), Tracker(settings, tmp_path) as tracker, tracker.run("broken off"):
        raise Interrupted
    (journal,) = waiting(spool_folder(tmp_path))
    assert journal.status == KILLED
    assert journal.is_delivered  # and kept for a resume
    journal.close()
    with Tracker(settings, tmp_path) as tracker, tracker.run("broken off"):
        pass  # begun anew, which lays the old one to rest
    assert list(spool_folder(tmp_path).iterdir()) == []


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK", "NODE_RANK"])
def test_of_a_distributed_training_the_first_process_tracks(tmp_path, monkeypatch, rank):
    monkeypatch.setenv(rank, "1")
    settings = TrackingConfig(enabled=True, tensorboard=True)
    with Tracker(settings, tmp_path) as tracker, tracker.run("rank 1") as tracked:
        tracked.epochs(ROWS)
    assert list(tmp_path.iterdir()) == []


def test_an_address_with_a_password_is_refused(tmp_path):
    settings = TrackingConfig(enabled=True, uri="https://me:secret@host/")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        Tracker(settings, tmp_path)
    assert "secret" not in str(caught.value)


def test_history_is_followed_as_it_is_written(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(lines(ROWS))  # an earlier run's
    fresh, resumed = History(path, is_continued=False), History(path, is_continued=True)
    assert fresh.rows() == []
    assert resumed.rows() == ROWS
    path.unlink()
    assert fresh.rows() == []
    path.write_text(lines(ROWS[:1]))
    assert fresh.rows() == ROWS[:1]


class Recorder(TensorBoardSink):
    """Counts what it is told."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.steps: list[int] = []

    def metrics(self, values, step=0) -> None:
        super().metrics(values, step)
        self.steps.append(step)


def test_each_epoch_is_told_once(tmp_path):
    path = tmp_path / "history.jsonl"
    sink = Recorder(tmp_path / "events")
    tracked = TrackedRun([sink], TrackingConfig(), History(path, is_continued=False))
    for count in (1, 1, 3):
        path.write_text(lines(ROWS[:count]))
        tracked.follow()
    tracked.epochs(ROWS)
    assert sink.steps == [1, 2, 3]
    tracked.status("FINISHED")


def records(folder) -> list:
    """Read with TensorBoard's own reader, which checks every record's checksums."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

    (file,) = folder.glob("events.out.tfevents.*")
    reader = pywrap_tensorflow.PyRecordReader_New(str(file))
    found = []
    while True:
        try:
            reader.GetNext()
        except pywrap_tensorflow.errors.OutOfRangeError:
            return found
        found.append(Event.FromString(reader.record()))


def test_tensorboard_reads_curves_tables_and_figures(tmp_path, spotter, bundle):
    picture = np.full((4, 6, 3), 128, np.uint8)
    (tmp_path / "report").mkdir()
    cv2.imwrite(str(tmp_path / "report/roc.png"), picture)
    (tmp_path / "report/report.html").write_text("page")
    settings = TrackingConfig(tensorboard=True)
    with Tracker(settings, tmp_path) as tracker, tracker.run("disc-unet", spotter.config) as tracked:
        tracked.trained(spotter, bundle)
        tracked.folder(tmp_path / "report", "report")
    events = records(tmp_path / "tensorboard/disc-unet")
    assert events[0].file_version == "brain.Event:2"
    values = [(event.step, value) for event in events for value in event.summary.value]
    curve = [(step, value.simple_value) for step, value in values if value.tag == "val_loss"]
    assert curve == [
        (row["epoch"], pytest.approx(row["val_loss"], rel=1e-6)) for row in spotter.provenance["history"]
    ]
    assert {"calibration/threshold", "promise/rate"} <= {value.tag for _, value in values}
    (image,) = [value.image for _, value in values if value.tag == "report/roc"]
    assert (image.height, image.width) == (4, 6)
    (table,) = [value.tensor.string_val[0] for _, value in values if value.tag == "parameters"]
    assert b"| training.epochs | 3 |" in table
    assert not (tmp_path / "mlflow").exists()


def test_a_missing_extra_is_named_in_one_line(tmp_path, data_root):
    for module, options in (("mlflow", ["--track"]), ("tensorboard", ["--tensorboard"])):
        code = (
            f"import sys; sys.modules[{module!r}] = None\n"
            f"sys.argv[1:] = ['train', '--data', {str(data_root)!r}, '--category', 'disc', "
            f"'--out', {str(tmp_path)!r}, *{options!r}]\n"
            "from anomaly_spotter.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
        assert "anomaly-spotter[track]" in one_error_line(done)
        assert not (tmp_path / "runs").exists()


def test_a_benchmark_and_its_cells_are_parent_and_children(tmp_path, monkeypatch):
    from anomaly_spotter.tracking.cells import track_cell

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cell = {
        "cell": {"category": "disc", "model": "preset:seed", "seed": 1},
        "config": SpotterConfig.load("seed", environment={}).to_dict(),
        "bundle": {"category": "disc", "data_sha256": "ab"},
        "guarantee": "At most 1 in 10",
        "image": {"auroc": 0.9, "f1_max": 0.8},
        "robustness": {"darker": {"auroc": 0.7}},
        "cost": {"fit_seconds": 3.0, "peak_mb": None},
    }
    settings = TrackingConfig(enabled=True, experiment="bench")
    with Tracker(settings, tmp_path) as tracker, tracker.run("benchmark") as parent:
        track_cell(tracker, parent, cell)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{(tmp_path / 'mlflow/mlflow.db').as_posix()}")
    experiment = client.get_experiment_by_name("bench").experiment_id
    found = {each.info.run_name: each for each in client.search_runs([experiment])}
    child = found["disc-preset:seed-1"]
    assert child.data.tags["mlflow.parentRunId"] == found["benchmark"].info.run_id
    assert child.data.params["preset"] == "seed"
    assert child.data.metrics == {
        "image/auroc": 0.9, "image/f1_max": 0.8, "robustness/darker/auroc": 0.7, "cost/fit_seconds": 3.0,
    }  # fmt: skip


def test_track_takes_a_value_or_none(tmp_path):
    for arguments in (["--track", "--resume"], ["--resume", "--track"], ["--track", "http://h"]):
        done = spot("train", "--data", tmp_path / "absent", *arguments)
        assert "absent" in one_error_line(done)  # parsed, and then no such data
    assert "nothing waits" in spot("track-sync", "--out", tmp_path).stdout
