"""A job's own process: trains or recalibrates as its request says, and writes down what happens, line by line.

Run as ``python -m anomaly_spotter.service.training_job FOLDER``. It ends when the station does: the station holds the
other end of its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_spotter.bundle import SUFFIX
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.datasets import without_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REQUEST, EVENTS, MADE = "request.json", "events.jsonl", "made"
EXIT_FAILED, EXIT_ORPHAN = 2, 3
_OFTEN = 0.2  # seconds between two reports of the same stage
_LOOK = 0.5  # seconds between two looks for a finished epoch


class Diary:
    """Appends events, one JSON object a line: ``{"event": ..., "at": ..., ...}``, without where the folders are."""

    def __init__(self, path: Path, *folders: Path) -> None:
        self._path, self._folders, self._lock = path, folders, threading.Lock()
        self._told: dict[str, float] = {}

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        line = without_folders(
            json.dumps({"event": event, "at": time.time(), **values}, allow_nan=False), *self._folders
        )
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def progress(self, stage: str, done: int, total: int) -> None:
        """Append how far a stage is, not more often than is of use."""
        now = time.monotonic()
        if done < total and now - self._told.get(stage, 0.0) < _OFTEN:
            return
        self._told[stage] = now
        self.write("progress", stage=stage, done=done, total=total)

    def remark(self, text: str) -> None:
        """Append something that the user should know."""
        self.write("remark", text=text)


def run(folder: Path, request: dict[str, Any], diary: Diary) -> Path:
    """Do what a job's request says; returns the file of the new model.

    Raises:
        SpotterError: As the training or recalibration that was asked for.
    """
    doing: dict[str, Callable[[Path, dict[str, Any], Diary], Path]] = {
        "train": _train,
        "recalibrate": _recalibrate,
    }
    return doing[request["kind"]](folder, request, diary)


def _train(folder: Path, request: dict[str, Any], diary: Diary) -> Path:
    from anomaly_spotter.fleet.local import train_category, train_products
    from anomaly_spotter.inputs.layouts import load_dataset

    config = SpotterConfig.load(request["preset"], overrides=request["settings"])
    categories = request["categories"] or [None]
    datasets = [load_dataset(request["data"], category) for category in categories]
    how: dict[str, Any] = {
        "resume": True,
        "skip_bad": request["skip_bad"],
        "progress": diary.progress,
        "announce": diary.remark,
    }
    out = folder / MADE
    with _epochs(out, config.training.epochs, diary):
        if len(datasets) > 1:
            several = train_products(datasets, config, out, **how)
            for product, spotter in several.spotter.spotters.items():
                diary.remark(f"{product}: {spotter.guarantee}")
            return several.bundle
        trained = train_category(datasets[0], config, out, **how)
    diary.remark(trained.spotter.guarantee)
    return trained.bundle


def _recalibrate(folder: Path, request: dict[str, Any], diary: Diary) -> Path:
    from anomaly_spotter.products import ProductSpotter, load
    from anomaly_spotter.runtime import fastest_installed

    model = load(request["bundle"], engine=request["engine"] or fastest_installed(), announce=diary.remark)
    product = request["product"]
    old = model.detector(product) if isinstance(model, ProductSpotter) else model
    new = old.recalibrate(folder / "good", skip_bad=True, progress=diary.progress, announce=diary.remark)
    before, after = old.calibration, new.calibration
    limit = (after.raw_limit - before.centre) / before.scale
    diary.remark(
        f"decision limit: {before.threshold:.3f} before, {limit:.3f} now, on the old scale of scores; "
        f"from {after.promise.count} good parts"
    )
    diary.remark(new.guarantee)
    whole = model.exchanged(product, new) if isinstance(model, ProductSpotter) else new
    return whole.save(folder / MADE / f"recalibrated{SUFFIX}")


@contextlib.contextmanager
def _epochs(out: Path, most: int, diary: Diary) -> Iterator[None]:
    """Tell each epoch that a network finishes meanwhile."""
    ended = threading.Event()
    told: dict[Path, int] = {}

    def look() -> None:
        for path in sorted(out.glob("runs/**/history.jsonl")):
            rows = path.read_text(encoding="utf-8").splitlines()
            for row in rows[told.get(path, 0) :]:
                values = {name: value for name, value in json.loads(row).items() if value == value}  # no NaN
                diary.write("epoch", **{**values, "of": most})
            told[path] = len(rows)

    def watch() -> None:
        while not ended.wait(_LOOK):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


def _end_with_the_station() -> None:
    # Returns when the station closes its end, or is gone. Unbuffered: a thread that waits in sys.stdin holds its lock, and
    # the interpreter aborts when it finds that held at the end.
    while os.read(0, 1024):
        pass
    os._exit(EXIT_ORPHAN)


def main(folder: Path) -> int:
    """The process: 0 when the model is there, otherwise the diary says why not."""
    request: dict[str, Any] = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    diary = Diary(folder / EVENTS, Path(request.get("data", folder)), folder)
    threading.Thread(target=_end_with_the_station, daemon=True).start()
    try:
        bundle = run(folder, request, diary)
    except SpotterError as error:
        diary.write("failed", error=str(error))
        return EXIT_FAILED
    except MemoryError:
        diary.write("failed", error="out of memory; use a smaller preprocessing.long_side")
        return EXIT_FAILED
    diary.write("made", bundle=bundle.relative_to(folder).as_posix())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
