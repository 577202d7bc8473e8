"""On a real Ray cluster of this machine: the results of one process, also when workers are killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from pyarrow import parquet

from anomaly_spotter.bundle import read_bundle
from anomaly_spotter.cli.inspection import _on_ray
from anomaly_spotter.errors import MissingExtraError, PictureError, SpotterError
from anomaly_spotter.fleet.judged import judged, write_parquet
from anomaly_spotter.fleet.local import Category
from anomaly_spotter.fleet.on_ray import CHUNK, categories_on_ray, pictures_on_ray
from anomaly_spotter.models import engines
from anomaly_spotter.spotter import Spotter
from tests.conftest import draw_part, write_png, write_products

SETTINGS = [
    "preprocessing.long_side=64",
    "preprocessing.alignment=none",
    "model.widths=[8, 16, 16, 16]",
    "model.evidence=[grey]",
    "training.batch_size=8",
    "training.pictures_per_epoch=64",
    "calibration.false_reject_rate=0.1",
]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # sums in the same order everywhere


def process_all(data: Path, out: Path, engine: str) -> list[str]:
    verb = [sys.executable, "-m", "anomaly_spotter", "process-all", "--data", str(data), "--out", str(out)]
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return [*verb, "--engine", engine, "--preset", "unet", "--epochs", "12", *sets]


def without_times(summary: Path) -> dict[str, dict[str, object]]:
    categories = json.loads(summary.read_text())["categories"]
    return {
        name: {key: result[key] for key in ("data", "image", "pixel", "per_kind", "unreadable", "pictures")}
        for name, result in categories.items()
    }


def workers(of: psutil.Process, task: str) -> list[psutil.Process]:
    found = []
    for process in of.children(recursive=True):
        try:
            if task in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def runs(process: psutil.Process) -> bool:
    """Whether it still works; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.alone
def test_process_all_with_a_killed_worker_gives_what_one_process_gives(tmp_path):
    data = write_products(tmp_path / "data")
    local, ray = tmp_path / "local", tmp_path / "ray"
    subprocess.run(process_all(data, local, "local"), env=ONE_THREAD, capture_output=True, check=True)
    process = subprocess.Popen(
        process_all(data, ray, "ray"),
        env=ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not list(ray.glob("runs/*/history.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no category began to train"
        time.sleep(0.02)
    everything = psutil.Process(process.pid).children(recursive=True)
    for worker in workers(psutil.Process(process.pid), "ray::_process"):
        worker.kill()
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert "its worker died (WorkerCrashedError); another goes on" in stderr
    assert "[2/2]" in stderr
    assert "Traceback" not in stderr
    assert without_times(ray / "metrics/summary.json") == without_times(local / "metrics/summary.json")
    for name in ("disc-unet.spot", "plate-unet.spot"):
        expected, found = (read_bundle(out / "models" / name) for out in (local, ray))
        assert found.calibration == expected.calibration
        assert found.provenance["history"] == expected.provenance["history"]
        for key, value in expected.arrays.items():
            np.testing.assert_array_equal(found.arrays[key], value)
    rows = parquet.read_table(ray / "metrics/summary.parquet").to_pylist()
    assert {row["product"] for row in rows} == {"disc", "plate"}
    assert len(rows) == 16
    deadline = time.monotonic() + 60
    while any(runs(each) for each in everything):
        assert time.monotonic() < deadline, "Ray's processes outlive the verb"
        time.sleep(0.1)


def opened(bundle: Path):
    return partial(Spotter.load(bundle, engine="onnxruntime").inspect_stream, explain=False)


def opened_to_die_once(bundle: Path, victim: Path, mark: Path):
    """Kills its own process in the middle of the pictures around ``victim``, the first time it sees them."""
    inspect = opened(bundle)

    def stream(paths):
        for path, found in inspect(paths):
            if path == victim and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield path, found

    return stream


@pytest.mark.slow
@pytest.mark.alone
def test_scoring_with_a_killed_actor_gives_what_one_process_gives(bundle, tmp_path):
    rng = np.random.default_rng(1)
    pictures = [
        (
            write_png(tmp_path / f"in/{number:03}.png", draw_part(rng, defect=number % 5 == 0)[0]),
            f"{number:03}",
        )
        for number in range(3 * CHUNK + 5)
    ]
    broken = tmp_path / "in/010.png"
    broken.write_bytes(b"not a picture")
    victim, mark = pictures[CHUNK + 7][0], tmp_path / "died"
    environment = dict(os.environ)
    found = list(
        pictures_on_ray(
            partial(opened_to_die_once, bundle, victim, mark), pictures, out=tmp_path / "overlays"
        )
    )
    assert mark.exists()
    assert dict(os.environ) == environment
    assert not workers(psutil.Process(), "ray::")
    inspected = opened(bundle)([path for path, _ in pictures])
    expected = [
        judged(path, name, each, None) for (path, name), (_, each) in zip(pictures, inspected, strict=True)
    ]
    assert [each.row["path"] for each in found] == [str(path) for path, _ in pictures]
    assert [each.line for each in found] == [each.line for each in expected]
    for one, other in zip(found, expected, strict=True):  # threads may differ, and with them the last digits
        assert one.row.keys() == other.row.keys()
        assert one.row.get("verdict") == other.row.get("verdict")
        assert one.row.get("score", 0) == pytest.approx(other.row.get("score", 0), rel=1e-5)
    assert found[10].row["error"]
    assert len(list((tmp_path / "overlays").glob("*_overlay.png"))) == len(pictures) - 1


def test_parquet_holds_the_rows_of_the_json(spotter, data_root, tmp_path):
    files = [*sorted((data_root / "disc/test").rglob("*.png")), Path("\udcff.png")]
    streamed = zip(files, spotter.inspect_stream(files[:-1], explain=False), strict=False)
    rows = [judged(path, path.stem, found, None).row for path, (_, found) in streamed]
    rows.append(judged(files[-1], "x", PictureError("cannot be read"), None).row)
    table = parquet.read_table(write_parquet(tmp_path / "r.parquet", rows))
    assert {"path", "verdict", "score", "p_value", "reason", "regions", "error"} <= set(table.column_names)
    read = table.to_pylist()
    for row, found in zip(rows[:-1], read, strict=False):
        assert {key: found[key] for key in row if key != "notes"} == {
            key: value for key, value in row.items() if key != "notes"
        }
    assert read[-1]["path"] == "\\udcff.png"
    assert read[-1]["error"] == "cannot be read"
    assert read[-1]["verdict"] is None
    assert any(row["regions"] for row in read)


def test_without_ray_one_line_names_the_extra(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = r"the engine 'ray' needs Ray: pip install 'anomaly-spotter\[ray\]'"
    with pytest.raises(MissingExtraError, match=line):
        list(categories_on_ray([Category("disc", tmp_path, tiny_config, tmp_path)], print))
    with pytest.raises(MissingExtraError, match=line):
        list(pictures_on_ray(list, [(tmp_path / "a.png", "a")]))


def test_frames_are_refused(tmp_path):
    frame = (Path("clip.avi#0"), "clip_000000", np.zeros((8, 8), np.uint8))
    with pytest.raises(SpotterError, match="takes picture files, not videos or cameras"):
        list(_on_ray(list, iter([frame]), None, None))


def test_an_engine_takes_no_more_threads_than_it_is_left(monkeypatch):
    monkeypatch.setattr(engines, "processors", lambda: 8)
    for wanted, threads in {"": 8, "1": 1, "3": 3, "64": 8, "0": 8, "4,2": 8}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert engines._threads() == threads
