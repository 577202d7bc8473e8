"""The audit log: who changed what and when, written before the change and completed after it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from anomaly_spotter.service.database import audit_log, new_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomaly_spotter.service.database import Database

_LONGEST = 255


@dataclass(frozen=True, slots=True)
class Entry:
    """One change.

    Attributes:
        id: Time-ordered identifier.
        at: When, in seconds since 1970 (UTC).
        who: Name of the user or key.
        what: For example ``model activated``.
        target: What was changed.
        outcome: ``done``, ``failed``, or ``begun`` where the station went down meanwhile.
        detail: More about it.
    """

    id: str
    at: float
    who: str
    what: str
    target: str
    outcome: str
    detail: dict[str, Any]


class AuditLog:
    """Appends to the log and reads it; nothing is ever taken out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def change(self, who: str, what: str, target: str, **detail: Any) -> Iterator[dict[str, Any]]:
        """Write a change down, then let it happen; what is put into the dictionary meanwhile is kept with it.

        Raises:
            DatabaseAwayError: It cannot be written down, so the change must not happen.
        """
        identifier = self.add(who, what, target, "begun", **detail)
        try:
            yield detail
        except BaseException as error:
            self._complete(identifier, "failed", {**detail, "error": str(error)[:_LONGEST]})
            raise
        self._complete(identifier, "done", detail)

    def add(self, who: str, what: str, target: str, outcome: str = "done", **detail: Any) -> str:
        """Write down what happened; returns the entry's identifier.

        Raises:
            DatabaseAwayError: The database cannot be reached.
        """
        entry = Entry(new_id(), time.time(), who[:_LONGEST], what, target[:_LONGEST], outcome, detail)
        values = {name: getattr(entry, name) for name in Entry.__slots__}
        with self._database.write() as connection:
            connection.execute(insert(audit_log).values(values))
        return entry.id

    def page(self, limit: int = 100, before: str | None = None) -> list[Entry]:
        """Entries, newest first; ``before`` is the identifier of the last one of the page before.

        Raises:
            DatabaseAwayError: The database cannot be reached.
        """
        query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit_log.c.id < before)
        with self._database.read() as connection:
            return [Entry(**dict(row)) for row in connection.execute(query).mappings()]

    def _complete(self, identifier: str, outcome: str, detail: dict[str, Any]) -> None:
        with self._database.write() as connection:
            connection.execute(
                update(audit_log).where(audit_log.c.id == identifier).values(outcome=outcome, detail=detail)
            )
