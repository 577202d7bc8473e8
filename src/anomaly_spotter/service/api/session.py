"""Log in, log out, and who is calling."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from anomaly_spotter.service.accounts import ROLES, LoginError
from anomaly_spotter.service.api.answers import TheStation
from anomaly_spotter.service.security import COOKIE, Principal, Reader

router = APIRouter(prefix="/session", tags=["session"])


class Login(BaseModel):
    """Who wants in."""

    name: Annotated[str, Field(max_length=100, examples=["anna"])]
    password: Annotated[str, Field(max_length=1024, examples=["correct horse battery"])]


class Caller(BaseModel):
    """Who is calling; `csrf` goes into the header `X-CSRF-Token` of changes that a browser makes."""

    name: str
    role: str
    scopes: list[str]
    csrf: str | None


@router.get("", summary="Who is calling")
def get(who: Reader) -> Caller:
    """The caller and what he may do."""
    return _shown(who)


@router.post("", summary="Log in")
def log_in(login: Login, request: Request, response: Response, station: TheStation) -> Caller:
    """Sets the session's cookie."""
    address = request.client.host if request.client else "unknown"
    try:
        token, session = station.accounts.log_in(
            login.name, login.password, address, station.settings.session_hours
        )
    except LoginError:
        station.audit.add(login.name, "login", address, "failed")
        raise
    station.audit.add(session.name, "login", address)
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(3600 * station.settings.session_hours),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return _shown(Principal(session.name, ROLES[session.role], session.csrf))


@router.delete("", status_code=204, summary="Log out")
def log_out(request: Request, response: Response, station: TheStation, who: Reader) -> None:
    """Ends the session and takes the cookie back."""
    if token := request.cookies.get(COOKIE):
        station.accounts.log_out(token)
        station.audit.add(who.name, "logout", "")
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _shown(who: Principal) -> Caller:
    return Caller(name=who.name, role=who.role, scopes=sorted(who.scopes), csrf=who.csrf)
