"""Who may do what at which address: the caller of a request, and the right it needs.

A program shows an API key (``Authorization: Bearer``, or ``X-API-Key``), a browser the cookie of a session. A change
that comes from a browser must carry the session's token too, so that no other page can make it. As long as nobody has
credentials, whoever sits at the machine itself is an engineer named ``local``.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from anomaly_spotter.service.accounts import ROLES
from anomaly_spotter.service.problems import ProblemError

if TYPE_CHECKING:
    from anomaly_spotter.service.station import Station

COOKIE = "station_session"
CSRF_HEADER = "x-csrf-token"
_SAFE = ("GET", "HEAD", "OPTIONS")
_ASK = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller.

    Attributes:
        name: As it stands in the history and the audit log.
        scopes: What he may do.
        csrf: The token that changes from his browser must carry; ``None`` for a program with a key.
    """

    name: str
    scopes: frozenset[str]
    csrf: str | None = None

    @property
    def role(self) -> str:
        """``engineer`` where everything is allowed, else ``operator``."""
        return "engineer" if "admin" in self.scopes else "operator"


def caller(request: Request) -> Principal:
    """Who sent the request.

    Raises:
        ProblemError: 401, nobody that the station knows; 403, a change without the session's token.
    """
    station = station_of(request)
    if key := _key(request):
        found = station.accounts.of_key(key)
        if found is None:
            raise ProblemError(
                401, "unknown-key", "this API key is not accepted; ask for a new one", headers=_ASK
            )
        return Principal(*found)
    token = request.cookies.get(COOKIE)
    session = station.accounts.session(token) if token else None
    if session is not None:
        who = Principal(session.name, ROLES[session.role], session.csrf)
        _require_token(request, who)
        return who
    if not station.is_open():
        raise ProblemError(
            401, "log-in", "log in, or send an API key as 'Authorization: Bearer KEY'", headers=_ASK
        )
    who = Principal("local", ROLES["engineer"], station.csrf)
    if "origin" in request.headers or "sec-fetch-site" in request.headers:  # a browser
        _require_token(request, who)
    return who


def station_of(request: Request) -> "Station":
    """The station behind the application."""
    station: Station = request.app.state.station
    return station


def needs(scope: str) -> Callable[..., Principal]:
    """A dependency that lets only callers with a scope pass; ``admin`` has all of them."""

    def check(who: Annotated[Principal, Depends(caller)]) -> Principal:
        if scope not in who.scopes and "admin" not in who.scopes:
            raise ProblemError(
                403, "forbidden", f"this needs the right '{scope}'; ask for a key or role that has it"
            )
        return who

    return check


def _key(request: Request) -> str | None:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip() or None
    return request.headers.get("x-api-key")


def _require_token(request: Request, who: Principal) -> None:
    if request.method in _SAFE:
        return
    sent = request.headers.get(CSRF_HEADER, "")
    if not secrets.compare_digest(sent.encode(), (who.csrf or "").encode()):
        raise ProblemError(403, "csrf", "the page is out of date; load it again")


Reader = Annotated[Principal, Depends(caller)]
Inspects = Annotated[Principal, Depends(needs("inspect"))]
Reviews = Annotated[Principal, Depends(needs("review"))]
Administers = Annotated[Principal, Depends(needs("admin"))]
