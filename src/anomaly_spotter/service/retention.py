"""How long pictures are kept: what is older, or more than the disk is to hold, is removed; the verdicts stay.

Only files below the station's own folder are looked at, by the time they were last put there, so that stations that
share a database do not remove each other's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import select

from anomaly_spotter.service.database import inspections

if TYPE_CHECKING:
    from anomaly_spotter.service.audit import AuditLog
    from anomaly_spotter.service.database import Database
    from anomaly_spotter.service.pictures import PictureStore
    from anomaly_spotter.service.settings import StationSettings

_LOG = logging.getLogger("anomaly_spotter.service")
_PAUSE = 600.0  # seconds between two looks at the folder
_MINUTE = 60.0
_DAY = 86_400.0
_YOUNGEST = 2  # minutes in which an inspection has written its record


class Retention:
    """Removes pictures from time to time, where the station was told how long to keep them."""

    def __init__(
        self, settings: StationSettings, database: Database, pictures: PictureStore, audit: AuditLog
    ) -> None:
        self._days, self._bytes = settings.keep_days, settings.keep_bytes
        self._keeps_reviewed = settings.keep_reviewed
        self._database, self._pictures, self._audit = database, pictures, audit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
        if self._days is not None or self._bytes is not None:
            self._thread.start()

    def sweep(self) -> int:
        """Remove what is no longer to be kept; returns how many files.

        Raises:
            DatabaseAwayError: It cannot be told what was reviewed, nor written down what is removed.
        """
        spared = self._reviewed() if self._keeps_reviewed else frozenset()
        by_minute: Counter[int] = (
            Counter()
        )  # bytes that may go; a year of minutes is small, a year of files is not
        fixed = 0
        for file in self._pictures.files():
            if file.digest in spared:
                fixed += file.bytes
            else:
                by_minute[int(file.at // _MINUTE)] += file.bytes
        first_kept = self._first_kept(by_minute, fixed)
        if not any(minute < first_kept for minute in by_minute):
            return 0
        before = first_kept * _MINUTE
        with self._audit.change(
            "station", "pictures removed", "", days=self._days, bytes=self._bytes
        ) as said:
            removed = [
                file.bytes
                for file in self._pictures.files()
                if file.at < before and file.digest not in spared and self._pictures.remove(file)
            ]
            said.update(files=len(removed), removed_bytes=sum(removed), before=before)
        return len(removed)

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _first_kept(self, by_minute: Counter[int], fixed: int) -> int:
        """The minute from which on everything is kept."""
        first = 0
        if self._days is not None:
            first = int((time.time() - self._days * _DAY) // _MINUTE)
        if self._bytes is not None:
            left = self._bytes - fixed
            for minute in sorted(by_minute, reverse=True):
                left -= by_minute[minute]
                if left < 0:
                    first = max(first, minute + 1)
                    break
        return min(first, int(time.time() // _MINUTE) - _YOUNGEST)

    def _reviewed(self) -> frozenset[str]:
        """The files of inspections that a person has looked at; they are few, and recalibration needs them."""
        table = inspections.c
        query = select(table.picture, table.heat, table.mask, table.normal).where(table.review.is_not(None))
        with self._database.read() as connection:
            return frozenset(digest for row in connection.execute(query) for digest in row if digest)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.sweep()
            except Exception:  # noqa: BLE001  the thread must live on
                _LOG.exception("old pictures cannot be removed")
            self._stop.wait(_PAUSE)
