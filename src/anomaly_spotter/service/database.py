"""The inspection database: SQLite in one file by default, PostgreSQL by URL. Tables, connections, schema version.

Times are seconds since 1970 (UTC) and identifiers are time-ordered hexadecimal UUIDs (version 7), so that both compare
alike in every database.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

SCHEMA_VERSION = 1
_PATIENCE = 5  # seconds to wait for a connection

metadata = MetaData()
schema = Table("station_schema", metadata, Column("version", Integer, primary_key=True))
inspections = Table(
    "inspections",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("model", String(255), nullable=False, index=True),
    Column("bundle", String(64), nullable=False),
    Column("product", String(255)),
    Column("verdict", String(6), nullable=False, index=True),
    Column("score", Double, nullable=False, index=True),  # infinite where there is a reason
    Column("threshold", Double, nullable=False),
    Column("p_value", Double, nullable=False),
    Column("reason", Text),
    Column("regions", JSON, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("file", String(255)),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("low", Double, nullable=False),  # the display range of the heat map
    Column("high", Double, nullable=False),
    Column("picture", String(64), nullable=False),  # SHA-256 of the stored files
    Column("heat", String(64), nullable=False),
    Column("mask", String(64)),
    Column("normal", String(64)),
    Column("condition", JSON),  # brightness, sharpness, pose
    Column("milliseconds", Double, nullable=False),
    Column("by", String(255), nullable=False),
    Column("idempotency", String(64)),
    Column("position", Integer),
    Column("review", String(6), index=True),
    Column("review_note", Text),
    Column("review_by", String(255)),
    Column("review_at", Double),
    Index("one_answer", "idempotency", "position", unique=True),
)
users = Table(
    "users",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("password", String(255), nullable=False),
    Column("created", Double, nullable=False),
)
keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("is_revoked", Boolean, nullable=False, default=False),
)
sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("expires", Double, nullable=False),
)
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("who", String(255), nullable=False),
    Column("what", String(64), nullable=False),
    Column("target", String(255), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("detail", JSON, nullable=False),
)


class DatabaseAwayError(SpotterError):
    """The database cannot be reached just now."""


class Database:
    """Connections to the inspection database; opening one creates or upgrades its tables.

    Raises:
        ConfigError: The URL cannot be used, or the database was written by a newer version.
        MissingExtraError: PostgreSQL's driver is not installed.
        DatabaseAwayError: The database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        waiting = "timeout" if self.is_sqlite else "connect_timeout"
        self.engine: Engine = create_engine(
            parsed, pool_size=16, max_overflow=32, pool_pre_ping=True, connect_args={waiting: _PATIENCE}
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        with self.write() as connection:
            _upgrade(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection to look things up with.

        Raises:
            DatabaseAwayError: The database cannot be reached.
        """
        with _reachable(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction; committed at the end, rolled back on an error.

        Raises:
            DatabaseAwayError: The database cannot be reached.
        """
        with (
            _reachable(),
            self.engine.connect().execution_options(is_writing=True) as connection,
            connection.begin(),
        ):
            yield connection

    def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            with self.read() as connection:
                connection.execute(text("SELECT 1"))
        except DatabaseAwayError:
            return False
        return True

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def new_id() -> str:
    """A UUID of version 7 as 32 hexadecimal digits: later ones sort behind earlier ones."""
    milliseconds, fraction = divmod(time.time_ns(), 1_000_000)
    chance = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    sequence = fraction * 4096 // 1_000_000  # orders those of one millisecond
    return f"{milliseconds << 80 | 7 << 76 | sequence << 64 | 2 << 62 | chance:032x}"


def plain_url(url: str) -> str:
    """The URL without its password, to be shown."""
    return _parsed(url).render_as_string(hide_password=True)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the database URL cannot be read; write sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigError(
            f"database {parsed.drivername} is not supported; use sqlite:///FILE or postgresql://USER@HOST/NAME"
        )
    if parsed.drivername != "sqlite" and find_spec("psycopg") is None:
        raise missing_extra("serve,postgres", "PostgreSQL needs its driver")
    return parsed


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        from sqlalchemy.exc import InterfaceError, OperationalError

        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            reason = str(error.orig).strip().splitlines()[0]
            raise DatabaseAwayError(f"the database cannot be used ({reason}); see that it runs") from None
        raise


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin in _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: an upgrade from reading to writing could not wait for another writer.
    is_writing = connection.get_execution_options().get("is_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _upgrade(connection: Connection) -> None:
    """Create what is missing. Every later version only adds tables and nullable columns."""
    if connection.dialect.name == "postgresql":  # two stations that start at once
        connection.execute(text("SELECT pg_advisory_xact_lock(7305109)"))
    version = None
    if inspect(connection).has_table(schema.name):
        version = connection.execute(select(schema.c.version)).scalar_one_or_none()
    if version is not None and version > SCHEMA_VERSION:
        raise ConfigError(
            f"the database has schema {version}, this version knows {SCHEMA_VERSION}; update anomaly-spotter"
        )
    if version == SCHEMA_VERSION:
        return
    metadata.create_all(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {definition}"))
    step = update(schema) if version is not None else insert(schema)
    connection.execute(step.values(version=SCHEMA_VERSION))


__all__ = [
    "SCHEMA_VERSION",
    "Database",
    "DatabaseAwayError",
    "SQLAlchemyError",
    "audit_log",
    "inspections",
    "keys",
    "new_id",
    "plain_url",
    "sessions",
    "users",
]
