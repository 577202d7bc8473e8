"""Tracking against a real MLflow server: away at first, then there; and a served model that decides as the bundle does."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from anomaly_spotter.config import TrackingConfig
from anomaly_spotter.spotter import Spotter
from anomaly_spotter.tracking.courier import sync
from anomaly_spotter.tracking.delivery import CHAMPION, prepare
from anomaly_spotter.tracking.tracker import Tracker, spool_folder
from tests.conftest import write_products
from tests.e2e.test_cli import sets
from tests.tracking.servers import free_port, running, spot, tracking_server

EXPERIMENT = "anomaly-spotter"


QUICK = ("--preset", "gaussian", "--set", "model.features=gradients", "--set", "preprocessing.long_side=64")


@pytest.fixture(scope="module")
def world(tmp_path_factory, data_root, spotter, bundle):
    """Trainings tracked while the server was away; then the server, and what was delivered later."""
    prepare()
    from mlflow import MlflowClient

    folder, port = tmp_path_factory.mktemp("tracking"), free_port()
    address, out = f"http://127.0.0.1:{port}", folder / "out"
    trained = spot(
        "train", "--data", data_root, "--category", "disc", "--out", out, *QUICK, "--track", address
    )
    said: list[str] = []
    settings = TrackingConfig(enabled=True, uri=address, champion="always")
    with Tracker(settings, out, said.append) as tracker, tracker.run("disc-unet", spotter.config) as tracked:
        tracked.trained(spotter, bundle)
    waiting = sync(spool_folder(out)).waiting
    with tracking_server(folder, port):
        delivered = spot("track-sync", "--out", out)
        yield SimpleNamespace(
            folder=folder,
            out=out,
            address=address,
            client=MlflowClient(address, address),
            trained=trained,
            said=said,
            waiting=waiting,
            delivered=delivered,
        )


def runs(world, name: str) -> list:
    experiment = world.client.get_experiment_by_name(EXPERIMENT).experiment_id
    return list(world.client.search_runs([experiment], f"tags.`mlflow.runName` = '{name}'"))


def artifacts(world, run_id: str, folder: str | None = None) -> set[str]:
    return {item.path for item in world.client.list_artifacts(run_id, folder)}


def test_a_server_that_is_away_never_stops_training(world):
    assert world.trained.returncode == 0, world.trained.stderr
    bundle = world.out / "models/disc-gaussian.spot"
    assert world.trained.stdout.splitlines()[-1] == str(bundle)
    assert bundle.is_file()
    for told in (world.trained.stderr, "\n".join(world.said)):
        assert told.count("does not take the record now") == 1
        assert "track-sync" in told
    assert list(world.waiting) == ["disc-gaussian", "disc-unet"]
    assert world.delivered.returncode == 0, world.delivered.stderr
    assert world.delivered.stdout.split("\n")[:2] == ["delivered: disc-gaussian", "delivered: disc-unet"]
    assert list(spool_folder(world.out).iterdir()) == []
    (found,) = runs(world, "disc-gaussian")
    assert found.data.tags["identity"] == Spotter.load(bundle).identity


def test_everything_about_a_training_is_on_the_server(world, spotter):
    (found,) = runs(world, "disc-unet")
    data, history = found.data, spotter.provenance["history"]
    assert found.info.status == "FINISHED"
    assert data.params["training.epochs"] == "3"
    assert data.params["calibration.false_reject_rate"] == "0.1"
    assert not any(name.startswith("tracking") for name in data.params)
    for key in ("train_loss", "val_loss", "learning_rate"):
        curve = world.client.get_metric_history(found.info.run_id, key)
        assert [(point.step, point.value) for point in curve] == [(row["epoch"], row[key]) for row in history]
    assert data.metrics["calibration/threshold"] == spotter.calibration.threshold
    assert data.metrics["promise/rate"] == spotter.calibration.promise.rate
    assert data.tags["data_sha256"] == spotter.provenance["data_sha256"]
    assert data.tags.get("git_commit") == spotter.provenance["commit"]
    assert data.tags["guarantee"] == spotter.guarantee
    assert data.tags["identity"] == spotter.identity
    assert {"training.json", "calibration.json", "bundle"} <= artifacts(world, found.info.run_id)
    local = world.client.download_artifacts(found.info.run_id, "bundle/disc-unet.spot", str(world.folder))
    assert Spotter.load(local).identity == spotter.identity


def test_pyfunc_gives_the_verdicts_of_the_bundle(world, data_root, bundle, monkeypatch):
    import mlflow

    files = sorted((data_root / "disc/test").glob("*/*.png"))
    expected = Spotter.load(bundle, engine="auto").inspect(files)
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", world.address
    )  # MLflow's own functions would set it for all tests
    model = mlflow.pyfunc.load_model(f"models:/disc@{CHAMPION}")
    encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    pixels = np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files])
    for given in (
        pd.DataFrame({"picture": [str(file) for file in files]}),
        pd.DataFrame({"anything": encoded}),
        pixels[..., None].repeat(3, axis=3),
        list(pixels),
    ):
        answer = model.predict(given)
        assert list(answer["verdict"]) == [found.verdict.value for found in expected]
        assert list(answer["score"]) == pytest.approx([found.score for found in expected], abs=1e-6)
        assert list(answer["p_value"]) == [found.p_value for found in expected]
        assert [[tuple(region["box"]) for region in row] for row in answer["regions"]] == [
            [region.box for region in found.regions] for found in expected
        ]
    mild = model.predict([str(file) for file in files], params={"threshold": 1e6})
    assert set(mild["verdict"]) == {"OK"}
    (bad,) = model.predict(["nowhere.png"]).to_dict("records")
    assert bad["verdict"] is None
    assert "nowhere.png" in bad["error"]


def test_mlflow_serves_the_verdicts_of_the_bundle(world, data_root, bundle):
    files = [data_root / "disc/test/bar/000.png", data_root / "disc/test/good/000.png"]
    expected = Spotter.load(bundle, engine="auto").inspect(files)
    port = free_port()
    with running(
        world.folder / "serve.log", f"http://127.0.0.1:{port}/ping",
        "models", "serve", "-m", f"models:/disc@{CHAMPION}", "--env-manager", "local",
        "--host", "127.0.0.1", "--port", port, "--workers", 1,
        MLFLOW_TRACKING_URI=world.address,
    ):  # fmt: skip
        as_text = [[base64.b64encode(file.read_bytes()).decode()] for file in files]
        as_array = np.stack([cv2.imread(str(file)) for file in files]).tolist()
        for body in (
            {"dataframe_split": {"columns": ["picture"], "data": as_text}},
            {"dataframe_split": {"columns": ["picture"], "data": [[str(file)] for file in files]}},
            {"inputs": as_array},
        ):
            rows = ask(port, body)
            assert [row["verdict"] for row in rows] == [found.verdict.value for found in expected]
            assert [row["score"] for row in rows] == pytest.approx(
                [found.score for found in expected], abs=1e-6
            )
            assert [len(row["regions"]) for row in rows] == [len(found.regions) for found in expected]
        (row,) = ask(port, {"dataframe_split": {"columns": ["picture"], "data": [["absent.png"]]}})
        assert row["error"].startswith("absent.png")


def ask(port: int, body: dict) -> list[dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return list(json.load(answer)["predictions"])


def test_process_all_makes_a_parent_and_its_children(world, tmp_path):
    data = write_products(tmp_path / "data", train=12, test=2)
    done = spot(
        "process-all", "--data", data, "--out", tmp_path / "out", *sets(), "--set", "training.epochs=1",
        "--track", world.address, "--tensorboard",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (parent,) = runs(world, "process-all")
    assert "summary.json" in artifacts(world, parent.info.run_id)
    assert parent.data.metrics["categories/finished"] == 2
    experiment = parent.info.experiment_id
    children = world.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.info.run_name for child in children} == {"disc-unet", "plate-unet"}
    for child in children:
        name = child.info.run_name
        result = json.loads((tmp_path / f"out/metrics/{name}.json").read_text())
        assert child.info.status == "FINISHED"
        for key in ("auroc", "recall", "f1", "false_reject_rate", "f1_max"):
            assert child.data.metrics[f"image/{key}"] == pytest.approx(result["image"][key])
        report = artifacts(world, child.info.run_id, "report")
        assert {"report/report.html", "report/roc.png", "report/scores.png"} <= report
        assert "evaluation.json" in artifacts(world, child.info.run_id)
        assert list((tmp_path / "out/tensorboard" / name).glob("events.out.tfevents.*"))
    assert world.client.get_model_version_by_alias("plate", CHAMPION).version
    (version,) = world.client.search_model_versions("name = 'plate'")
    assert version.tags["guarantee"]


def test_the_champion_stays_until_another_is_named(world, spotter, bundle, tmp_path):
    for policy, expected in (("never", None), ("first", "2"), ("first", "2"), ("always", "4")):
        settings = TrackingConfig(enabled=True, uri=world.address, registered_model="part/a", champion=policy)
        with Tracker(settings, tmp_path) as tracker, tracker.run("again") as tracked:
            tracked.trained(spotter, bundle)
        champion = world.client.get_registered_model("part_a").aliases.get(CHAMPION)
        assert (champion and str(champion)) == expected


def test_what_was_sent_twice_is_there_once(world, spotter, bundle, tmp_path):
    """The answers to all of it were lost: the journal is replayed from its start, and knows no run."""
    from anomaly_spotter.tracking.delivery import Store
    from anomaly_spotter.tracking.journal import Head, Journal
    from anomaly_spotter.tracking.run import TrackedRun
    from anomaly_spotter.tracking.sinks import JournalSink

    journal = Journal.create(tmp_path, Head("twice", world.address, None, EXPERIMENT))
    tracked = TrackedRun([JournalSink(journal)], TrackingConfig(registered_model="twice"))
    tracked.status("RUNNING")
    tracked.trained(spotter, bundle)
    keep = {name: journal.kept(name) for event in journal.events() if (name := event.get("files"))}
    copies = {
        name: {file.name: file.read_bytes() for file in folder.iterdir()} for name, folder in keep.items()
    }
    Store(world.address).deliver(journal)
    model_id = runs(world, "twice")[0].outputs.model_outputs[0].model_id
    journal.mark(delivered=0, run_id=None, model_id=model_id)
    for name, files in copies.items():
        for file, content in files.items():
            (keep[name] / file).parent.mkdir(parents=True, exist_ok=True)
            (keep[name] / file).write_bytes(content)
    Store(world.address).deliver(journal)
    journal.close()
    (found,) = runs(world, "twice")
    assert len(world.client.get_metric_history(found.info.run_id, "val_loss")) == 3
    assert len(world.client.search_model_versions("name = 'twice'")) == 1


def test_an_evaluation_has_the_identity_of_what_it_measured(world, data_root, bundle):
    done = spot(
        "evaluate", "--bundle", bundle, "--data", data_root, "--category", "disc",
        f"--track={world.address}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = runs(world, "disc-unet evaluation")
    assert found.data.tags["identity"] == Spotter.load(bundle).identity
    assert found.data.metrics["image/auroc"] == 1.0
    assert "evaluation.json" in artifacts(world, found.info.run_id)


def test_an_interrupted_run_is_continued_not_repeated(world, tmp_path):
    settings = TrackingConfig(enabled=True, uri=world.address)
    history = tmp_path / "history.jsonl"
    rows = [{"epoch": n, "train_loss": 1 / n, "val_loss": 2 / n, "learning_rate": 0.1} for n in (1, 2, 3)]
    with (
        pytest.raises(KeyboardInterrupt),
        Tracker(settings, tmp_path) as tracker,
        tracker.run("broken off", history=history),
    ):
        history.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
        raise KeyboardInterrupt
    (first,) = runs(world, "broken off")
    assert first.info.status == "KILLED"
    with Tracker(settings, tmp_path) as tracker, tracker.run("broken off", history=history, resume=True):
        history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (second,) = runs(world, "broken off")
    assert second.info.run_id == first.info.run_id
    assert second.info.status == "FINISHED"
    curve = world.client.get_metric_history(second.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0), (3, 2 / 3)]


def test_what_another_process_left_is_delivered_by_the_next_one(world, tmp_path):
    """A process was killed in the middle of a run: no end was written, and its lock is gone with it."""
    code = (
        "import os, sys; from pathlib import Path\n"
        "from anomaly_spotter.config import TrackingConfig\n"
        "from anomaly_spotter.tracking.tracker import Tracker\n"
        f"settings = TrackingConfig(enabled=True, uri={world.address!r})\n"
        f"with Tracker(settings, Path({str(tmp_path)!r})) as tracker, tracker.run('killed') as run:\n"
        "    run.metrics({'x': 1.0}); os._exit(9)\n"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 9
    said: list[str] = []
    done = sync(spool_folder(tmp_path), said.append)
    assert done.delivered == ["killed"], said
    (found,) = runs(world, "killed")
    assert found.info.status == "KILLED"
    assert found.data.metrics == {"x": 1.0}
