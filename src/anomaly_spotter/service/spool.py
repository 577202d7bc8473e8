"""Inspections that wait on disk while the database is away, and are written in order when it is back.

One file per inspection, named by its time-ordered identifier; writing one twice changes nothing. What was acknowledged
is in the database or here, also after a crash.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from anomaly_spotter.files import write_atomic
from anomaly_spotter.service.database import Database, DatabaseAwayError, inspections
from anomaly_spotter.service.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOG = logging.getLogger("anomaly_spotter.service")
_RETRY = 1.0  # seconds between attempts to reach the database


class Spool:
    """Writes inspections to the database, or to disk until it can."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._waiting: dict[str, Record] = {}
        for path in sorted(folder.glob("*.json")):
            record = Record(**json.loads(path.read_text(encoding="utf-8")))
            self._waiting[record.id] = record
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def write(self, records: Sequence[Record]) -> None:
        """Keep inspections; when this returns they are safe.

        Raises:
            SpotterError: Neither the database nor the disk takes them.
            IntegrityError: One answers a picture of a request that was answered already.
        """
        if not self._waiting:
            try:
                with self._database.write() as connection:
                    connection.execute(insert(inspections), [record.to_row() for record in records])
            except DatabaseAwayError as error:
                _LOG.warning("%s; inspections are kept on disk until then", error)
            else:
                return
        with self._lock:
            for record in records:
                write_atomic(self._path(record), json.dumps(_values(record)).encode())
                self._waiting[record.id] = record

    def find(self, idempotency: str) -> list[Record]:
        """The waiting answers to a request."""
        with self._lock:
            return [record for record in self._waiting.values() if record.idempotency == idempotency]

    def get(self, identifier: str) -> Record | None:
        """A waiting inspection."""
        return self._waiting.get(identifier)

    def flush(self) -> bool:
        """Try to write what waits; returns whether nothing waits any more."""
        while self._waiting:
            with self._lock:
                first = min(self._waiting)
                record = self._waiting[first]
            try:
                self._insert(record)
            except DatabaseAwayError:
                return False
            with self._lock:
                self._path(record).unlink(missing_ok=True)
                del self._waiting[first]
        return True

    def close(self) -> None:
        """Stop the thread that writes."""
        self._stop.set()
        self._thread.join()

    def _insert(self, record: Record) -> None:
        with self._database.write() as connection:
            known = select(inspections.c.id).where(inspections.c.id == record.id)
            if connection.execute(known).first() is not None:
                return
            try:
                with connection.begin_nested():
                    connection.execute(insert(inspections), record.to_row())
            except (
                IntegrityError
            ):  # the same picture of the same request was answered before the database went away
                _LOG.warning("inspection %s answers a request a second time and is left out", record.id)

    def _run(self) -> None:
        while not self._stop.wait(_RETRY):
            try:
                self.flush()
            except Exception:  # noqa: BLE001  the thread must live on
                _LOG.exception("the waiting inspections cannot be written")

    def _path(self, record: Record) -> Path:
        return self._folder / f"{record.id}.json"


def _values(record: Record) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(record)
