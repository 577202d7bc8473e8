"""Users with passwords, their sessions, and API keys with scopes. Only hashes are kept.

Passwords are hashed with argon2. Keys and session tokens are 256 random bits, for which SHA-256 is enough. While the
database is away, keys and sessions that were seen before go on working.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.database import DatabaseAwayError, keys, new_id, sessions, users
from anomaly_spotter.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Collection

    from anomaly_spotter.service.database import Database

SCOPES = ("inspect", "review", "admin")
ROLES = {"operator": frozenset({"inspect", "review"}), "engineer": frozenset(SCOPES)}
SHORTEST_PASSWORD = 10
_LONGEST_PASSWORD = 1024
_KEY_START = "spot_"
_NAME = re.compile(r"[\w.@+-]{1,100}")
_FRESH = 5.0  # seconds for which a look into the database is trusted
_MOST_SESSIONS = 1000  # remembered


class LoginError(SpotterError):
    """Name and password do not fit."""


class TooManyAttemptsError(SpotterError):
    """Too many failed logins.

    Attributes:
        seconds: How long to wait.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many failed logins; try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Session:
    """A login.

    Attributes:
        name: The user.
        role: ``operator`` or ``engineer``, as it is now.
        csrf: Token that changes from the browser must carry.
        expires: When it ends, in seconds since 1970 (UTC).
    """

    name: str
    role: str
    csrf: str
    expires: float


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """An API key, without the key.

    Attributes:
        id: Identifier, to revoke it.
        name: What it is for.
        scopes: What it may do.
        created: When, in seconds since 1970 (UTC).
        is_revoked: Whether it is no longer accepted.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created: float
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class UserInfo:
    """A user, without the password.

    Attributes:
        name: To log in with.
        role: ``operator`` or ``engineer``.
        created: When, in seconds since 1970 (UTC).
    """

    name: str
    role: str
    created: float


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the database held a moment ago: roles by user, keys by digest."""

    roles: dict[str, str]
    keys: dict[str, tuple[str, frozenset[str]]]
    read: float


class Accounts:
    """Who may use a station.

    Attributes:
        database: Where they stand.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._hasher = PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex())
        self._hashing = threading.BoundedSemaphore(2)  # each hash takes 64 MiB
        self._throttle = Throttle()
        self._lock = threading.Lock()
        self._snapshot: _Snapshot | None = None
        self._sessions: dict[str, tuple[Session, float]] = {}

    def exist(self) -> bool:
        """Whether anybody has credentials; where nobody has, the station is open to this machine only.

        Raises:
            DatabaseAwayError: Never seen, and the database cannot be reached.
        """
        found = self._look()
        return bool(found.roles or found.keys)

    # --- keys -----------------------------------------------------------------------------------------------------

    def add_key(self, name: str, scopes: Collection[str]) -> tuple[KeyInfo, str]:
        """Make an API key; the key itself is returned once and kept nowhere.

        Raises:
            SpotterError: The name or a scope cannot be used.
        """
        _require_name(name)
        unknown = set(scopes) - set(SCOPES)
        if unknown or not scopes:
            raise SpotterError(f"no scope '{', '.join(sorted(unknown))}'; choose of {', '.join(SCOPES)}")
        key = _KEY_START + secrets.token_urlsafe(32)
        made = KeyInfo(
            new_id(), name, tuple(scope for scope in SCOPES if scope in scopes), time.time(), False
        )
        with self.database.write() as connection:
            connection.execute(
                insert(keys).values(
                    id=made.id,
                    name=name,
                    digest=_digest(key),
                    scopes=list(made.scopes),
                    created=made.created,
                    is_revoked=False,
                )
            )
        self._forget()
        return made, key

    def list_keys(self) -> list[KeyInfo]:
        """All keys, oldest first, revoked ones too."""
        with self.database.read() as connection:
            rows = connection.execute(select(keys).order_by(keys.c.id)).all()
        return [KeyInfo(row.id, row.name, tuple(row.scopes), row.created, row.is_revoked) for row in rows]

    def revoke_key(self, identifier: str) -> None:
        """Accept a key no more.

        Raises:
            SpotterError: There is none with that identifier.
        """
        with self.database.write() as connection:
            changed = connection.execute(update(keys).where(keys.c.id == identifier).values(is_revoked=True))
        if not changed.rowcount:
            raise SpotterError(f"there is no key '{identifier[:40]}'")
        self._forget()

    def of_key(self, key: str) -> tuple[str, frozenset[str]] | None:
        """Name and scopes of a key that is accepted.

        Raises:
            DatabaseAwayError: Never seen, and the database cannot be reached.
        """
        return self._look().keys.get(_digest(key))

    # --- users ----------------------------------------------------------------------------------------------------

    def add_user(self, name: str, role: str, password: str) -> UserInfo:
        """Make a user.

        Raises:
            SpotterError: The name is taken or cannot be used, there is no such role, or the password is too short.
        """
        _require_name(name)
        if role not in ROLES:
            raise SpotterError(f"no role '{role}'; choose one of {', '.join(ROLES)}")
        made = UserInfo(name, role, time.time())
        hashed = self._hash(password)
        try:
            with self.database.write() as connection:
                connection.execute(
                    insert(users).values(name=name, role=role, password=hashed, created=made.created)
                )
        except IntegrityError:
            raise SpotterError(
                f"there is a user '{name}' already; remove it first, or choose another name"
            ) from None
        self._forget()
        return made

    def list_users(self) -> list[UserInfo]:
        """All users by name."""
        with self.database.read() as connection:
            rows = connection.execute(select(users).order_by(users.c.name)).all()
        return [UserInfo(row.name, row.role, row.created) for row in rows]

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password, and end his sessions.

        Raises:
            SpotterError: There is no such user, or the password is too short.
        """
        hashed = self._hash(password)
        with self.database.write() as connection:
            changed = connection.execute(update(users).where(users.c.name == name).values(password=hashed))
            connection.execute(delete(sessions).where(sessions.c.name == name))
        if not changed.rowcount:
            raise SpotterError(f"there is no user '{name[:40]}'")
        self._forget()

    def remove_user(self, name: str) -> None:
        """Remove a user, and end his sessions; what he did stays in the history and the audit log.

        Raises:
            SpotterError: There is no such user.
        """
        with self.database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.name == name))
            changed = connection.execute(delete(users).where(users.c.name == name))
        if not changed.rowcount:
            raise SpotterError(f"there is no user '{name[:40]}'")
        self._forget()

    # --- sessions -------------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str, address: str, hours: float) -> tuple[str, Session]:
        """Begin a session; its token is returned once and kept nowhere.

        Raises:
            LoginError: Name and password do not fit.
            TooManyAttemptsError: This name or address has failed too often.
            DatabaseAwayError: The database cannot be reached.
        """
        guessed = (f"name {name[:100]}", f"address {address}")
        if seconds := self._throttle.wait(*guessed):
            raise TooManyAttemptsError(seconds)
        with self.database.read() as connection:
            row = connection.execute(select(users).where(users.c.name == name[:100])).first()
        if not self._fits(self._nobody if row is None else row.password, password) or row is None:
            self._throttle.failed(*guessed)
            raise LoginError("name and password do not fit")
        self._throttle.succeeded(*guessed)
        token, now = secrets.token_urlsafe(32), time.time()
        made = Session(row.name, row.role, secrets.token_urlsafe(32), now + 3600 * hours)
        with self.database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires < now))
            connection.execute(
                insert(sessions).values(
                    digest=_digest(token), name=made.name, csrf=made.csrf, expires=made.expires
                )
            )
        return token, made

    def session(self, token: str) -> Session | None:
        """The session of a token, as long as it lasts and the user exists.

        Raises:
            DatabaseAwayError: Never seen, and the database cannot be reached.
        """
        digest, now = _digest(token), time.time()
        with self._lock:
            seen = self._sessions.get(digest)
        if seen is None or now - seen[1] > _FRESH:
            try:
                found = self._read_session(digest)
            except DatabaseAwayError:
                if seen is None:
                    raise
                found = seen[0]
            with self._lock:
                self._sessions.pop(digest, None)
                if found is not None:
                    self._sessions[digest] = (found, now)
                while len(self._sessions) > _MOST_SESSIONS:
                    self._sessions.pop(next(iter(self._sessions)))
        else:
            found = seen[0]
        return found if found is not None and found.expires > now else None

    def log_out(self, token: str) -> None:
        """End a session."""
        with self.database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.digest == _digest(token)))
        self._forget()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _read_session(self, digest: str) -> Session | None:
        query = select(sessions.c.name, sessions.c.csrf, sessions.c.expires, users.c.role)
        query = query.join_from(sessions, users, sessions.c.name == users.c.name)
        with self.database.read() as connection:
            row = connection.execute(query.where(sessions.c.digest == digest)).first()
        return None if row is None else Session(row.name, row.role, row.csrf, row.expires)

    def _look(self) -> _Snapshot:
        seen = self._snapshot
        if seen is not None and time.monotonic() - seen.read < _FRESH:
            return seen
        try:
            with self.database.read() as connection:
                accepted = connection.execute(select(keys).where(keys.c.is_revoked.is_(False))).all()
                roles = connection.execute(select(users.c.name, users.c.role)).all()
        except DatabaseAwayError:
            if seen is None:
                raise
            return seen
        found = {row.digest: (row.name, frozenset(row.scopes)) for row in accepted}
        self._snapshot = _Snapshot({row.name: row.role for row in roles}, found, time.monotonic())
        return self._snapshot

    def _forget(self) -> None:
        with self._lock:
            self._snapshot = None
            self._sessions.clear()

    def _hash(self, password: str) -> str:
        if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
            raise SpotterError(
                f"a password needs {SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters, found {len(password)}"
            )
        with self._hashing:
            return self._hasher.hash(password)

    def _fits(self, hashed: str, password: str) -> bool:
        if len(password) > _LONGEST_PASSWORD:
            return False
        with self._hashing:
            try:
                return self._hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                return False


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SpotterError("a name is 1 to 100 letters, digits and . _ @ + -, without spaces")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
