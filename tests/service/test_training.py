"""Data sets and jobs: archives that attack, training to the end, cancel, a crash, recalibration."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from anomaly_spotter.bundle import read_manifest
from anomaly_spotter.errors import DatasetError
from anomaly_spotter.service import disk
from anomaly_spotter.service.datasets import Datasets, TooLargeError, UnknownDatasetError
from anomaly_spotter.service.settings import Limits, StationSettings
from tests.conftest import TINY
from tests.service.conftest import Live, png, process, running, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS = {f"{section}.{name}": value for section, values in TINY.items() for name, value in values.items()}


def archive(files: dict[str, bytes], *, packing: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def good(count: int, folder: str = "", start: int = 0) -> dict[str, bytes]:
    return {f"{folder}{number:03}.png": png(start + number) for number in range(count)}


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        entry = zipfile.ZipInfo("link.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(archive(good(1)))
    data[6] |= 1  # of the member's own header
    data[data.find(b"PK\1\2") + 8] |= 1  # of the directory
    return bytes(data)


def lying() -> bytes:
    """The directory says 10 bytes, the member unpacks to many more."""
    data = bytearray(archive({"a.png": bytes(2_000_000)}, packing=zipfile.ZIP_DEFLATED))
    at = data.find(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    return bytes(data)


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: archive({"../evil.png": png(1)}), DatasetError),
        (lambda: archive({"a/../../evil.png": png(1)}), DatasetError),
        (lambda: archive({"/etc/evil.png": png(1)}), DatasetError),
        (lambda: archive({"..\\evil.png": png(1)}), DatasetError),
        (lambda: archive({"C:\\evil.png": png(1)}), DatasetError),
        (linked, DatasetError),
        (encrypted, DatasetError),
        (lying, DatasetError),
        (lambda: archive({"bomb.png": bytes(20_000_000)}, packing=zipfile.ZIP_DEFLATED), TooLargeError),
        (lambda: archive(good(31)), TooLargeError),
        (lambda: archive({f"{n}.png": bytes(300_000) for n in range(4)}), TooLargeError),
        (lambda: archive({"readme.txt": b"no pictures"}), DatasetError),
        (lambda: archive({"A.png": png(1), "./A.png": png(2)}), DatasetError),
        (lambda: b"no zip file", DatasetError),
        (lambda: archive(good(3))[:-40], DatasetError),
    ],
)
def test_archives_that_attack(
    settings: StationSettings, tmp_path: Path, make: Callable[[], bytes], error: type[Exception]
) -> None:
    limits = Limits(dataset_files=30, unpacked_bytes=1_000_000)
    datasets = Datasets(settings.model_copy(update={"limits": limits}))
    file = tmp_path / "sent.zip"
    file.write_bytes(make())
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(error):
        datasets.add_archive(file, "evil", "me")
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert datasets.list() == ()


def test_only_pictures_are_taken_out_under_names_of_their_own(
    settings: StationSettings, tmp_path: Path
) -> None:
    datasets = Datasets(settings)
    file = tmp_path / "sent.zip"
    inside = {
        "part/train/good/a:b*.png": png(1),
        "part/train/good/.hidden.png": png(2),
        "__MACOSX/part/._a.png": b"x",
        "part/manifest.csv": b"path,label\n/etc/passwd,good\n",
        "part/train/good/ü.PNG": png(3),
    }
    file.write_bytes(archive(inside))
    made = datasets.add_archive(file, "parts", "me")
    files = datasets.files(made.id)
    found = sorted(path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file())
    assert found == ["part/train/good/a_b_.png", "part/train/good/ü.PNG"]
    assert (made.pictures, made.categories) == (2, ("part",))
    assert datasets.get(made.id) == made
    datasets.delete(made.id)
    with pytest.raises(UnknownDatasetError):
        datasets.get(made.id)


@pytest.mark.parametrize(
    "name", ["..", "../outside", "/etc", "link", "a/../../outside", "missing", "", "file.png", "a\0b"]
)
def test_no_folder_outside_the_configured_one(settings: StationSettings, tmp_path: Path, name: str) -> None:
    root = tmp_path / "pictures"
    (root / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "file.png").write_bytes(png(1))
    datasets = Datasets(settings.model_copy(update={"datasets": root}))
    assert datasets.folders() == ("a", "a/b")
    if name == "":
        assert datasets.folder(name) == root.resolve()
        return
    with pytest.raises(UnknownDatasetError):
        datasets.folder(name)
    with pytest.raises(UnknownDatasetError):
        Datasets(settings).folder("a")


# --- jobs -------------------------------------------------------------------------------------------------------------


def upload(live: Live, files: dict[str, bytes]) -> str:
    answer = live.client.post(
        "/api/v1/datasets?name=parts", content=archive(files), headers={"content-type": "application/zip"}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def train(live: Live, dataset: str, **more: Any) -> dict[str, Any]:
    asked = {"name": "fresh", "dataset": dataset, "preset": "unet", "settings": SETTINGS, **more}
    answer = live.client.post("/api/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_nearly_full_disk_takes_no_data_set_job_or_model(
    settings: StationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"total": 10**9, "used": 0, "free": 10**9})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    own = next(settings.models.iterdir())
    with running(settings.model_copy(update={"limits": Limits(free_bytes=1000)})) as live:
        dataset = upload(live, good(3))
        usage.free = 1500  # room for 500 bytes more
        packed = {"content": archive(good(3)), "headers": {"content-type": "application/zip"}}
        parts = {"files": [("files", ("a.png", png(1), "image/png"))]}
        model = {"content": own.read_bytes(), "headers": {"content-type": "application/octet-stream"}}
        asked: dict[str, dict[str, Any]] = {
            "datasets?name=a": packed,
            "datasets?name=b": parts,
            "models?name=c": model,
        }
        for address, how in asked.items():
            answer = live.client.post(f"/api/v1/{address}", **how)
            assert (answer.status_code, "which may take 500 more" in answer.json()["detail"]) == (507, True)
        usage.free = 999
        answer = live.client.post("/api/v1/jobs", json={"name": "d", "dataset": dataset})
        assert (answer.status_code, "no model is made" in answer.json()["detail"]) == (507, True)
        assert [each["id"] for each in live.client.get("/api/v1/datasets").json()] == [dataset]
        assert live.client.get("/api/v1/jobs").json() == []
        assert list(settings.models.iterdir()) == [own]
        usage.free = 10**9
        assert live.client.post("/api/v1/datasets?name=b", **parts).status_code == 201


def events(live: Live, job: str, after: int = 0) -> list[tuple[str, dict[str, Any]]]:
    """Everything that a watcher is sent until the job has ended."""
    found = []
    headers = {"Last-Event-ID": str(after)}
    with live.client.stream("GET", f"/api/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
    return found


def test_train_from_an_archive_to_a_model_that_inspects(live: Live, settings: StationSettings) -> None:
    dataset = upload(live, {**good(20, "part/train/good/"), "part/train/good/bad.png": b"no picture"})
    audit = live.client.get(f"/api/v1/datasets/{dataset}/audit").json()
    assert audit["counts"]["train"] == {"good": 21}
    assert any("bad.png" in str(warning) or "broken" in str(warning) for warning in audit["warnings"])
    assert str(settings.data) not in json.dumps(audit)

    refused = {
        "preprocessing.region": "/etc/passwd",
        "model.weights": "/etc/passwd",
        "training.epoch": 1,
        "a": 1,
    }
    for name, value in refused.items():
        asked = {"name": "x", "dataset": dataset, "settings": {name: value}}
        assert live.client.post("/api/v1/jobs", json=asked).status_code == 422
    for wrong in ({"name": "../x", "dataset": dataset}, {"name": "x"}, {"name": "x", "dataset": "0" * 32}):
        assert live.client.post("/api/v1/jobs", json=wrong).status_code in (404, 422)

    stopped = events(live, train(live, dataset)["id"])  # the broken picture
    assert stopped[-1][1]["state"] == "failed"
    assert "part/train/good/bad.png" in stopped[-1][1]["error"]
    assert str(settings.data) not in json.dumps(stopped)

    job = train(live, dataset, skip_bad=True)
    seen = events(live, job["id"])
    kinds = [kind for kind, _ in seen]
    assert {"progress", "epoch", "remark", "made"} <= set(kinds)
    epochs = [event["epoch"] for kind, event in seen if kind == "epoch"]
    assert epochs == list(range(epochs[0], epochs[0] + 3))
    assert kinds[-1] == "end"
    ended = seen[-1][1]
    assert (ended["state"], ended["model"], ended["by"]) == ("done", "fresh", "local")
    assert events(live, job["id"], after=len(seen) - 1) == [seen[-1]]  # a watcher who comes back
    live.client.post("/api/v1/models/fresh/activate").raise_for_status()
    assert live.inspect(png(99, defect=True))["verdict"] == "DEFECT"
    assert live.inspect(png(99))["model"] == "fresh"

    # confirm good parts, then recalibrate: a new version, the old one stays as it was
    before = (settings.models / "fresh.spot").read_bytes()
    few = live.client.post("/api/v1/models/fresh/recalibrate")
    assert (few.status_code, few.json()["type"].rpartition(":")[2]) == (409, "job-state")
    for seed in range(200, 224):
        found = live.inspect(png(seed))
        live.client.put(
            f"/api/v1/inspections/{found['id']}/review", json={"verdict": "OK"}
        ).raise_for_status()
    status = live.client.get("/api/v1/models/fresh/drift").json()
    assert status["state"] in ("holds", "changed", "broken")
    assert status["reviewed_good"] >= 24
    assert status["sentences"]
    again = live.client.post("/api/v1/models/fresh/recalibrate")
    assert again.status_code == 202, again.text
    assert events(live, again.json()["id"])[-1][1]["model"] == "fresh.v2"
    assert (settings.models / "fresh.spot").read_bytes() == before
    manifest = read_manifest(settings.models / "fresh.v2.spot")
    assert manifest["provenance"]["changes"][0]["how"] == "recalibrate"
    assert manifest["calibration"]["promise"]["count"] == status["reviewed_good"]


def test_drift_is_told_in_words_and_as_a_metric(live: Live) -> None:
    too_few = live.client.get("/api/v1/models/disc-unet/drift").json()
    assert too_few["state"] == "too few"
    for seed in range(40):
        live.inspect(png(seed, defect=True))
    status = live.client.get("/api/v1/models/disc-unet/drift").json()
    assert (status["state"], status["promise_holds"]) == ("broken", False)
    assert any("Review the recent parts" in line for line in status["advice"])
    metrics = live.client.get("/metrics").text
    assert 'anomaly_spotter_calibration_holds{model="disc-unet",product=""} 0.0' in metrics
    assert 'anomaly_spotter_drift{model="disc-unet",product=""} 1.0' in metrics


def test_cancel_and_the_queue(settings: StationSettings) -> None:
    endless = {**SETTINGS, "training.epochs": 100_000}
    with running(settings.model_copy(update={"limits": Limits(jobs=1)})) as live:
        dataset = upload(live, good(12))
        first = train(live, dataset, settings=endless)["id"]
        until(lambda: live.station.jobs.get(first).state == "running", "the first job runs")
        second = train(live, dataset, settings=endless)["id"]
        third = live.client.post("/api/v1/jobs", json={"name": "x", "dataset": dataset})
        assert third.status_code == 503
        assert live.client.post(f"/api/v1/jobs/{second}/cancel").json()["state"] == "cancelled"
        assert live.client.post(f"/api/v1/jobs/{first}/cancel").json()["state"] == "cancelled"
        assert events(live, first)[-1][1]["state"] == "cancelled"
        assert live.client.post(f"/api/v1/jobs/{first}/cancel").status_code == 409
        until(lambda: live.station.jobs._process is None, "the process has ended")
        assert [job["state"] for job in live.client.get("/api/v1/jobs").json()] == ["cancelled"] * 2
        assert [model["name"] for model in live.client.get("/api/v1/models").json()] == ["disc-unet"]


def test_a_crash_loses_nothing_that_was_acknowledged(settings: StationSettings) -> None:
    """Killed in the middle of inspections and of a training; the training goes on when it is resumed."""
    from concurrent.futures import ThreadPoolExecutor

    import httpx

    arguments = ("--models", str(settings.models), "--data", str(settings.data))
    acknowledged: list[str] = []
    with process(*arguments) as (server, url):
        client = httpx.Client(base_url=url, timeout=120)
        live = Live(url, None, client)  # type: ignore[arg-type]
        job = train(live, upload(live, good(16)), settings={**SETTINGS, "training.epochs": 100_000})["id"]
        until(lambda: any(e["event"] == "epoch" for e in _diary(settings, job)), "an epoch is finished")

        def inspect(seed: int) -> None:
            try:
                acknowledged.append(live.inspect(png(seed))["id"])
            except httpx.HTTPError:
                return
            if len(acknowledged) == 20:
                server.kill()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(inspect, range(60)))
        assert server.wait(60) != 0
    assert len(acknowledged) >= 20
    # As a file may be left that was being written.
    half = settings.data / "pictures/00/.0123456789abcdef.part"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(b"half")
    epochs = len([e for e in _diary(settings, job) if e["event"] == "epoch"])
    with running(settings) as live:
        kept = live.client.get("/api/v1/inspections?limit=500").json()["inspections"]
        assert set(acknowledged) <= {each["id"] for each in kept}
        assert not list(settings.data.rglob("*.part"))
        found = live.client.get(f"/api/v1/jobs/{job}").json()
        assert (found["state"], found["error"]) == ("interrupted", "the station went down")
        assert live.client.post(f"/api/v1/jobs/{job}/resume").status_code == 202
        until(
            lambda: [e["epoch"] for e in _diary(settings, job) if e["event"] == "epoch"][-1] > epochs + 1,
            "it goes on behind the epoch where it stopped",
        )
        live.client.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()


def _diary(settings: StationSettings, job: str) -> list[dict[str, Any]]:
    path = settings.data / "jobs" / job / "events.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
