"""One tracked run on disk until it is delivered: a line per event, copies of its files, and how far delivery came.

The folder holds ``head.json`` (what the run is), ``events.jsonl`` (appended to, never changed), ``files`` (copies, so
that a later run cannot replace what waits) and ``state.json`` (written by delivery). A process that works on a journal
holds its lock, which the system releases however the process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Event = dict[str, Any]

_HEAD, _STATE, _EVENTS, _FILES, _LOCK = "head.json", "state.json", "events.jsonl", "files", "lock.db"
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


@dataclass(frozen=True, slots=True)
class Head:
    """What a run is.

    Attributes:
        name: The run's name, for example ``hazelnut-unet``.
        uri: Where it is delivered to.
        artifacts: Where that store keeps files, if it is one of ours; ``None`` leaves it to the server.
        experiment: MLflow's experiment.
        parent: Key of the run that this one is part of.
        key: Identifies the run here and, as a tag, on the server.
        started: Milliseconds since 1970.
    """

    name: str
    uri: str
    artifacts: str | None
    experiment: str
    parent: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: int = field(default_factory=lambda: now())

    def replaces(self, other: Head) -> bool:
        """Whether the other one is an earlier attempt at this, which a new one puts to rest."""
        mine, its = ((head.name, head.uri, head.experiment, head.parent is None) for head in (self, other))
        return mine == its

    def continues(self, other: Head) -> bool:
        """Whether the other one is an earlier attempt at this as part of the same parent."""
        return self.replaces(other) and self.parent == other.parent


def now() -> int:
    """Milliseconds since 1970, as tracking servers count."""
    return time.time_ns() // 1_000_000


class Journal:
    """A run's folder, locked by this process until :meth:`close`."""

    def __init__(self, folder: Path, head: Head, lock: sqlite3.Connection) -> None:
        self.folder, self.head = folder, head
        self._lock = lock
        self._events_lock = threading.Lock()  # the run and its follower both append
        self.state: dict[str, Any] = _read(folder / _STATE) or {"delivered": 0}

    @classmethod
    def create(cls, spool: Path, head: Head) -> Journal:
        """Begin a run below ``spool``.

        Raises:
            SpotterError: The folder cannot be written.
        """
        folder = spool / head.key
        write_json(folder / _HEAD, dataclasses.asdict(head))
        lock = _locked(folder)
        if lock is None:
            raise SpotterError(f"cannot lock {folder}; choose an output folder on a local disk")
        return cls(folder, head, lock)

    @classmethod
    def open(cls, folder: Path) -> Journal | None:
        """Take up a journal that no process works on; ``None`` where one does, or where it is none."""
        values = _read(folder / _HEAD)
        if values is None or (lock := _locked(folder)) is None:
            return None
        try:
            head = Head(**values)
        except TypeError:  # of another version
            lock.close()
            return None
        journal = cls(folder, head, lock)
        journal._drop_half_line()
        return journal

    @property
    def status(self) -> str:
        """How the run ended, ``RUNNING`` if it did not."""
        return next(
            (event["status"] for event in reversed(self.events()) if event["kind"] == "status"), RUNNING
        )

    @property
    def is_delivered(self) -> bool:
        """Whether the server has everything."""
        return bool(self.state["delivered"] >= len(self.events()))

    def append(self, kind: str, **values: Any) -> None:
        """Add an event, flushed to the disk.

        Raises:
            OSError: The disk is full, or gone.
        """
        line = json.dumps({"kind": kind, "time": now(), **values}, allow_nan=False) + "\n"
        with self._events_lock, (self.folder / _EVENTS).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def keep(self, files: Mapping[str, Path | str]) -> str:
        """Copy files, or write texts, by their name; returns their folder's name for an event.

        Raises:
            OSError: A file cannot be copied.
        """
        name = uuid.uuid4().hex
        for file, content in files.items():
            target = self.folder / _FILES / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_text(content, encoding="utf-8", errors="backslashreplace")
        return name

    def kept(self, name: str) -> Path:
        """The folder that :meth:`keep` made."""
        return self.folder / _FILES / name

    def events(self) -> list[Event]:
        """All events so far, in order."""
        try:
            text = (self.folder / _EVENTS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def pending(self) -> list[Event]:
        """Events that are not delivered."""
        return self.events()[self.state["delivered"] :]

    def mark(self, **values: Any) -> None:
        """Remember what delivery found out, on disk."""
        self.state |= values
        write_json(self.folder / _STATE, self.state)

    def delivered(self, event: Event) -> None:
        """The next pending event is with the server; its files are no longer needed here."""
        self.mark(delivered=self.state["delivered"] + 1)
        if "files" in event:
            shutil.rmtree(self.kept(event["files"]), ignore_errors=True)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the journal, and delete it if asked to."""
        self._lock.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _drop_half_line(self) -> None:
        """What a killed process wrote half would spoil the line after it."""
        path = self.folder / _EVENTS
        if path.is_file():
            data = path.read_bytes()
            if not data.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)


def waiting(spool: Path) -> Iterator[Journal]:
    """Journals that nobody works on, oldest first; whoever takes one closes it."""
    heads = []
    with contextlib.suppress(OSError):
        heads = [
            (values.get("started", 0), folder)
            for folder in spool.iterdir()
            if (values := _read(folder / _HEAD))
        ]
    for _, folder in sorted(heads):
        if (journal := Journal.open(folder)) is not None:
            yield journal


def _locked(folder: Path) -> sqlite3.Connection | None:
    """SQLite's file lock: in the standard library, on every system, and gone with the process."""
    connection = sqlite3.connect(folder / _LOCK, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        connection.close()
        return None
    return connection


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
