"""Begin and end the session of a browser, each with its line in the audit log; for the REST API and the pages alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly_spotter.service.accounts import LoginError
from anomaly_spotter.service.security import COOKIE, Principal, station_of

if TYPE_CHECKING:
    from fastapi import Request, Response

    from anomaly_spotter.service.accounts import Session


def sign_in(request: Request, name: str, password: str) -> tuple[str, Session]:
    """Begin a session; returns its token, for :func:`set_cookie`.

    Raises:
        LoginError: Name and password do not fit.
        TooManyAttemptsError: They did not fit too often.
    """
    station = station_of(request)
    address = request.client.host if request.client else "unknown"
    try:
        token, session = station.accounts.log_in(name, password, address, station.settings.session_hours)
    except LoginError:
        station.audit.add(name, "login", address, "failed")
        raise
    station.audit.add(session.name, "login", address)
    return token, session


def set_cookie(request: Request, response: Response, token: str) -> None:
    """Let the browser keep the token, out of reach of scripts and of other sites."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(3600 * station_of(request).settings.session_hours),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def sign_out(request: Request, response: Response, who: Principal) -> None:
    """End the session and take the cookie back."""
    if token := request.cookies.get(COOKIE):
        station = station_of(request)
        station.accounts.log_out(token)
        station.audit.add(who.name, "logout", "")
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
