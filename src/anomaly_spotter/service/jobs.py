"""Jobs that make models: one at a time, each in a process of its own, so that inspections go on undisturbed.

A job is a folder: its request, its state and the diary of its process. It does not depend on who watches it. When the
station goes down its process ends with it, and the job is marked interrupted; resumed, it goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.files import write_atomic, write_json
from anomaly_spotter.service.database import new_id
from anomaly_spotter.service.disk import Disk
from anomaly_spotter.service.folders import Folders
from anomaly_spotter.service.history import Query
from anomaly_spotter.service.pictures import media_type
from anomaly_spotter.service.registry import require_name
from anomaly_spotter.service.training_job import EVENTS, MADE, REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anomaly_spotter.service.audit import AuditLog
    from anomaly_spotter.service.datasets import Datasets
    from anomaly_spotter.service.history import History
    from anomaly_spotter.service.pictures import PictureStore
    from anomaly_spotter.service.registry import Registry
    from anomaly_spotter.service.settings import StationSettings

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ENDED = ("done", "failed", "cancelled", "interrupted")
FEWEST_REVIEWED = 20
"""Good parts confirmed by a person that a recalibration needs."""
_STATE = "job.json"
_TAIL = 65_536  # bytes of a diary in which the last progress is looked for
_PATIENCE = 10.0  # seconds for a process to end when it is told to
_MOST_REVIEWED = 5000
# Settings that name files: a path from a request must not reach the disk.
_PATHS = ("preprocessing.region", "preprocessing.region_on", "model.weights")


class UnknownJobError(SpotterError):
    """There is no such job."""


class JobStateError(SpotterError):
    """A job is not in the state for that."""


class QueueFullError(SpotterError):
    """Too many jobs wait."""


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """What is to be trained.

    Attributes:
        name: Of the new model; if it is taken, the next version of it.
        dataset: An uploaded data set, or ...
        folder: ... a folder on the server.
        categories: Categories in it; several become products in one model. Not needed where there is only one.
        preset: Settings to start from.
        settings: Changes to them, for example ``{"training.epochs": 20}``.
        skip_bad: Leave unusable pictures out instead of stopping.
    """

    name: str
    dataset: str | None = None
    folder: str | None = None
    categories: tuple[str, ...] = ()
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job.

    Attributes:
        id: Time-ordered identifier.
        kind: ``train`` or ``recalibrate``.
        state: Where it is.
        title: What it makes.
        by: Who asked for it.
        created: When, in seconds since 1970 (UTC).
        started: When its process began.
        ended: When it ended.
        progress: ``{"stage", "done", "total"}``, the last that was reported.
        model: Name of the new model, once it is there.
        error: Why it failed.
    """

    id: str
    kind: Literal["train", "recalibrate"]
    state: State
    title: str
    by: str
    created: float
    started: float | None = None
    ended: float | None = None
    progress: dict[str, Any] | None = None
    model: str | None = None
    error: str | None = None


class Jobs:
    """The queue of jobs and the thread that works through it."""

    def __init__(
        self,
        settings: StationSettings,
        registry: Registry,
        datasets: Datasets,
        history: History,
        pictures: PictureStore,
        audit: AuditLog,
    ) -> None:
        self._folders = Folders(settings.data / "jobs", _STATE, "job", UnknownJobError)
        self._disk = Disk(self._folders.root, settings.limits.free_bytes)
        self._engine = settings.engine
        self._registry, self._datasets, self._history = registry, datasets, history
        self._pictures, self._audit = pictures, audit
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._most = settings.limits.jobs
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        for job in reversed(self.list()):
            if job.state == "running":
                self._save(
                    replace(job, state="interrupted", ended=time.time(), error="the station went down")
                )
            elif job.state == "queued":
                self._queue.put(job.id)
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    # --- ask ------------------------------------------------------------------------------------------------------

    def train(self, order: TrainingOrder, by: str) -> JobInfo:
        """Train a new model.

        Raises:
            ConfigError: An unknown preset or setting, or one that names a file.
            DatasetError: There are no such pictures.
            QueueFullError: Too many jobs wait.
            StorageError: The disk is nearly full.
            SpotterError: The name cannot be used for a model.
        """
        require_name(order.name)
        place = self._datasets.place(order.dataset, order.folder)
        settings = _safe_settings(order)
        for category in order.categories or (None,):
            self._datasets.dataset(place, category)
        request = {
            "kind": "train",
            "name": order.name,
            "data": str(place),
            "categories": list(order.categories),
            "preset": order.preset,
            "settings": settings,
            "skip_bad": order.skip_bad,
        }
        title = f"train {order.name} from {order.folder or self._datasets.get(order.dataset or '').name}"
        return self._add("train", title, by, request)

    def recalibrate(self, model: str, product: str | None, by: str) -> JobInfo:
        """Fix a model's decision limit anew from the good parts that a person has confirmed since it came into use.

        They become a new version of the model; the old one stays.

        Raises:
            UnknownModelError: There is no such model.
            JobStateError: There are too few confirmed good parts.
            QueueFullError: Too many jobs wait.
            StorageError: The disk is nearly full.
            SpotterError: The model holds several products and none is named.
        """
        self._registry.detector(model).spotter(product)
        files = self.reviewed_good(model, product)
        if len(files) < FEWEST_REVIEWED:
            raise JobStateError(
                f"{len(files)} different good parts of {product or model} are confirmed, {FEWEST_REVIEWED} are needed; "
                "review more of the recent parts in the history"
            )
        request = {
            "kind": "recalibrate",
            "name": model,
            "bundle": str(self._registry.path(model)),
            "product": product,
            "engine": self._engine,
        }
        return self._add("recalibrate", f"recalibrate {product or model}", by, request, files)

    def reviewed_good(self, model: str, product: str | None = None) -> tuple[str, ...]:
        """SHA-256 of the kept pictures of good parts that a person has confirmed, accepted and rejected ones alike."""
        query = Query(model=model, product=product, review="OK")
        found: dict[str, None] = {}
        cursor: str | None = None
        while len(found) < _MOST_REVIEWED:
            page = self._history.page(query, 500, cursor)
            found.update(
                dict.fromkeys(
                    record.picture for record in page.records if self._pictures.keeps(record.picture)
                )
            )
            cursor = page.cursor
            if cursor is None:
                break
        return tuple(found)

    def cancel(self, identifier: str) -> JobInfo:
        """Stop a job that waits or runs.

        Raises:
            UnknownJobError: There is none.
            JobStateError: It has ended.
        """
        with self._lock:
            job = self.get(identifier)
            if job.state in ENDED:
                raise JobStateError(f"the job has ended already: {job.state}")
            cancelled = replace(job, state="cancelled", ended=time.time())
            self._save(cancelled)
            if job.state == "running" and self._process is not None:
                _end(self._process)
        return cancelled

    def resume(self, identifier: str) -> JobInfo:
        """Let a job that was interrupted, cancelled or has failed go on where it stopped.

        Raises:
            UnknownJobError: There is none.
            JobStateError: It has not ended, or it is done.
            QueueFullError: Too many jobs wait.
            StorageError: The disk is nearly full.
        """
        with self._lock:
            job = self.get(identifier)
            if job.state not in ENDED or job.state == "done":
                raise JobStateError(f"the job cannot be resumed: {job.state}")
            self._require_room()
            queued = replace(job, state="queued", started=None, ended=None, error=None)
            self._save(queued)
            self._queue.put(identifier)
        return queued

    # --- look -----------------------------------------------------------------------------------------------------

    def list(self) -> tuple[JobInfo, ...]:
        """All jobs, newest first."""
        return tuple(self._described(*each) for each in reversed(list(self._folders.all())))

    def get(self, identifier: str) -> JobInfo:
        """A job.

        Raises:
            UnknownJobError: There is none.
        """
        return self._described(identifier, self._folders.read(identifier))

    def events(self, identifier: str, after: int = 0) -> tuple[dict[str, Any], ...]:
        """What has happened, in order, without the first ``after`` events.

        Raises:
            UnknownJobError: There is none.
        """
        return tuple(_complete_lines(self._folders.path(identifier) / EVENTS))[after:]

    def close(self) -> None:
        """Stop the running job, which can be resumed, and the thread."""
        self._closing.set()
        self._queue.put(None)
        with self._lock:
            if self._process is not None:
                _end(self._process)
        self._thread.join()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _add(
        self,
        kind: Literal["train", "recalibrate"],
        title: str,
        by: str,
        request: dict[str, Any],
        good: Sequence[str] = (),
    ) -> JobInfo:
        with self._lock:
            self._require_room()
            job = JobInfo(new_id(), kind, "queued", title, by, time.time())
            folder = self._folders.path(job.id)
            folder.mkdir()
            for number, digest in enumerate(good):
                data = self._pictures.get(digest)
                suffix = media_type(data).rpartition("/")[2]
                write_atomic(folder / "good" / f"{number:05}.{suffix}", data)
            write_json(folder / REQUEST, request)
            self._save(job)
            self._queue.put(job.id)
        return job

    def _require_room(self) -> None:
        if self._queue.qsize() >= self._most:
            raise QueueFullError(f"{self._most} jobs wait already; let some of them end first")
        self._disk.require(0, "no model is made; free some space")

    def _work(self) -> None:
        while (identifier := self._queue.get()) is not None and not self._closing.is_set():
            with contextlib.suppress(UnknownJobError):
                self._run(identifier)

    def _run(self, identifier: str) -> None:
        folder = self._folders.path(identifier)
        with self._lock:
            job = self.get(identifier)
            if job.state != "queued" or self._closing.is_set():
                return
            self._save(replace(job, state="running", started=time.time()))
            log = (folder / "process.log").open("ab")
            try:
                process = self._process = subprocess.Popen(  # noqa: S603  our own module, and a folder that we named
                    [sys.executable, "-m", "anomaly_spotter.service.training_job", str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )
            finally:
                log.close()
        code = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        with self._lock:
            self._process = None
            job = self.get(identifier)
            if job.state != "running":  # cancelled meanwhile
                return
            if self._closing.is_set():
                self._save(
                    replace(job, state="interrupted", ended=time.time(), error="the station was stopped")
                )
                return
            self._save(self._ended(job, folder, code))

    def _ended(self, job: JobInfo, folder: Path, code: int) -> JobInfo:
        """The job as its process left it; the new model goes to the others."""
        events = list(_complete_lines(folder / EVENTS))
        last = events[-1] if events else {}
        ended = replace(job, ended=time.time())
        if code != 0 or last.get("event") != "made":
            reason = last.get("error") or f"its process ended with {code}; see {folder.name}/process.log"
            return replace(ended, state="failed", error=str(reason))
        name = json.loads((folder / REQUEST).read_text(encoding="utf-8"))["name"]
        try:
            with self._audit.change(job.by, "model made", name, job=job.id) as detail:
                made = self._registry.add(folder / last["bundle"], name)
                detail["model"] = made.name
        except SpotterError as error:
            return replace(ended, state="failed", error=str(error).replace(f"{folder}{os.sep}", ""))
        for used in (folder / MADE / "runs", folder / "good"):
            shutil.rmtree(used, ignore_errors=True)
        return replace(ended, state="done", model=made.name)

    def _save(self, job: JobInfo) -> None:
        write_json(self._folders.path(job.id) / _STATE, {**asdict(job), "progress": None})

    def _described(self, identifier: str, values: dict[str, Any]) -> JobInfo:
        return JobInfo(**{**values, "progress": _last_progress(self._folders.path(identifier) / EVENTS)})


def _safe_settings(order: TrainingOrder) -> list[str]:
    """The settings as overrides, seen to be valid and to name no file."""
    for name in order.settings:
        if name.strip().lower() in _PATHS or "." not in name:
            raise ConfigError(f"the setting {name[:60]} cannot be given here; leave it out")
    overrides = [f"{name}={json.dumps(value)}" for name, value in order.settings.items()]
    config = SpotterConfig.load(order.preset, overrides=overrides)
    named = (config.preprocessing.region, config.preprocessing.region_on, config.model.weights)
    if any(path is not None for path in named):
        raise ConfigError("a setting that names a file cannot be given here; leave it out")
    return overrides


def _complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a diary; a line that is being written does not count yet."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _last_progress(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            event = json.loads(line)
            if event["event"] == "progress":
                return {name: event[name] for name in ("stage", "done", "total")}
            if event["event"] == "epoch":
                return {"stage": "training", "done": event["epoch"], "total": event["of"]}
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
