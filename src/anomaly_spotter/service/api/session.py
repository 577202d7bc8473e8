"""Log in, log out, and who is calling."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from anomaly_spotter.service import sessions
from anomaly_spotter.service.accounts import ROLES
from anomaly_spotter.service.security import Principal, Reader

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
def log_in(login: Login, request: Request, response: Response) -> Caller:
    """Sets the session's cookie."""
    token, session = sessions.sign_in(request, login.name, login.password)
    sessions.set_cookie(request, response, token)
    return _shown(Principal(session.name, ROLES[session.role], session.csrf))


@router.delete("", status_code=204, summary="Log out")
def log_out(request: Request, response: Response, who: Reader) -> None:
    """Ends the session and takes the cookie back."""
    sessions.sign_out(request, response, who)


def _shown(who: Principal) -> Caller:
    return Caller(name=who.name, role=who.role, scopes=sorted(who.scopes), csrf=who.csrf)
