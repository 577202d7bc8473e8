"""What was inspected: look it up, page through it, export it, and let a person confirm or correct a verdict."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, select, update

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.database import inspections
from anomaly_spotter.service.folders import ID
from anomaly_spotter.service.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Select

    from anomaly_spotter.service.database import Database
    from anomaly_spotter.service.spool import Spool

_CSV_PAGE = 1000
_CSV_COLUMNS = (
    "id", "time", "model", "product", "verdict", "score", "threshold", "p_value", "regions", "reason", "file",
    "width", "height", "milliseconds", "by", "review", "review_note", "review_by", "review_time",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class UnknownInspectionError(SpotterError):
    """There is no inspection with that identifier."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which inspections are meant; what is not given does not matter.

    Attributes:
        model: Name of the model.
        product: Name of the product.
        verdict: ``OK`` or ``DEFECT``, of the model.
        review: ``OK``, ``DEFECT``, ``none`` (nobody has looked), ``any`` (somebody has), or ``corrected`` (he disagreed).
        since: From this time on, seconds since 1970 (UTC).
        until: Before this time.
        min_score: At least this score; parts that could not be judged count as infinite.
        max_score: At most this score.
    """

    model: str | None = None
    product: str | None = None
    verdict: str | None = None
    review: str | None = None
    since: float | None = None
    until: float | None = None
    min_score: float | None = None
    max_score: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the inspections asked for, newest first.

    Attributes:
        records: The inspections.
        cursor: Give it back to get the next page; ``None`` on the last one.
    """

    records: tuple[Record, ...]
    cursor: str | None


class History:
    """The kept inspections."""

    def __init__(self, database: Database, spool: Spool) -> None:
        self._database, self._spool = database, spool

    def page(self, query: Query, limit: int = 50, cursor: str | None = None) -> Page:
        """Inspections, newest first; a page does not change when newer ones arrive.

        Raises:
            SpotterError: The cursor is none of this station.
            DatabaseAwayError: The database cannot be reached.
        """
        chosen = _chosen(query)
        if cursor is not None:
            chosen = chosen.where(inspections.c.id < _read_cursor(cursor))
        with self._database.read() as connection:
            rows = connection.execute(chosen.limit(limit + 1)).mappings().all()
        records = tuple(Record.from_row(row) for row in rows[:limit])
        return Page(records, _write_cursor(records[-1].id) if len(rows) > limit else None)

    def get(self, identifier: str) -> Record:
        """One inspection, also one that waits for the database.

        Raises:
            UnknownInspectionError: There is none.
            DatabaseAwayError: The database cannot be reached.
        """
        if (waiting := self._spool.get(identifier)) is not None:
            return waiting
        with self._database.read() as connection:
            row = (
                connection.execute(select(inspections).where(inspections.c.id == identifier))
                .mappings()
                .first()
            )
        if row is None:
            raise UnknownInspectionError(f"there is no inspection '{identifier[:40]}'")
        return Record.from_row(row)

    def review(self, identifier: str, verdict: str | None, note: str | None, by: str) -> Record:
        """Confirm or correct a verdict; ``None`` takes it back.

        Raises:
            UnknownInspectionError: There is none.
            DatabaseAwayError: The database cannot be reached.
        """
        self._spool.flush()
        values: dict[str, Any] = {
            "review": verdict,
            "review_note": None if verdict is None else note,
            "review_by": None if verdict is None else by,
            "review_at": None if verdict is None else time.time(),
        }
        with self._database.write() as connection:
            changed = connection.execute(
                update(inspections).where(inspections.c.id == identifier).values(values)
            )
        if not changed.rowcount:
            raise UnknownInspectionError(f"there is no inspection '{identifier[:40]}'")
        return self.get(identifier)

    def csv(self, query: Query) -> Iterator[str]:
        """The inspections as the lines of a CSV file (RFC 4180), newest first, in bounded memory.

        Raises:
            DatabaseAwayError: The database cannot be reached.
        """
        yield _line(_CSV_COLUMNS)
        cursor: str | None = None
        while True:
            page = self.page(query, _CSV_PAGE, cursor)
            yield from (_line(_csv_row(record)) for record in page.records)
            cursor = page.cursor
            if cursor is None:
                return


def _chosen(query: Query) -> Select[Any]:
    return select(inspections).where(*_conditions(query)).order_by(inspections.c.id.desc())


def _conditions(query: Query) -> list[ColumnElement[bool]]:
    table = inspections.c
    exact = {table.model: query.model, table.product: query.product, table.verdict: query.verdict}
    found: list[ColumnElement[bool]] = [
        column == value for column, value in exact.items() if value is not None
    ]
    if query.review in ("OK", "DEFECT"):
        found.append(table.review == query.review)
    elif query.review == "none":
        found.append(table.review.is_(None))
    elif query.review == "any":
        found.append(table.review.is_not(None))
    elif query.review == "corrected":
        found.append(and_(table.review.is_not(None), table.review != table.verdict))
    if query.since is not None:
        found.append(table.at >= query.since)
    if query.until is not None:
        found.append(table.at < query.until)
    if query.min_score is not None:
        found.append(table.score >= query.min_score)
    if query.max_score is not None:
        found.append(table.score <= query.max_score)
    return found


def _write_cursor(identifier: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(identifier)).decode().rstrip("=")


def _read_cursor(cursor: str) -> str:
    try:
        identifier = base64.urlsafe_b64decode(f"{cursor}==").hex()
    except (binascii.Error, ValueError):
        identifier = ""
    if not ID.fullmatch(identifier):
        raise SpotterError("the cursor is damaged; give back the one of the page before as it was")
    return identifier


def _csv_row(record: Record) -> list[object]:
    return [
        record.id,
        _iso(record.at),
        _text(record.model),
        _text(record.product),
        record.verdict,
        record.score,
        record.threshold,
        record.p_value,
        len(record.regions),
        _text(record.reason),
        _text(record.file),
        record.width,
        record.height,
        record.milliseconds,
        _text(record.by),
        record.review,
        _text(record.review_note),
        _text(record.review_by),
        None if record.review_at is None else _iso(record.review_at),
    ]


def _text(value: str | None) -> str | None:
    """A text that no spreadsheet takes for a formula."""
    return f"'{value}" if value and value.startswith(_FORMULA) else value


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _line(values: object) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(values)  # type: ignore[arg-type]
    return buffer.getvalue()
