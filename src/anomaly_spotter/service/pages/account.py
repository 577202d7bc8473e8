"""Who works at the station: sign in and out, users, and the language and colours of a browser."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service import sessions
from anomaly_spotter.service.accounts import LoginError, TooManyAttemptsError
from anomaly_spotter.service.pages.rendering import (
    LANGUAGE_COOKIE,
    THEME_COOKIE,
    PageRoute,
    redirect,
    render,
    station,
    words,
)
from anomaly_spotter.service.security import Administers, Reader

router = APIRouter(route_class=PageRoute)

_YEAR = 365 * 24 * 3600
Text = Annotated[str, Form()]


@router.post("/preferences")
def preferences(
    language: Annotated[Literal["en", "it"] | None, Form()] = None,
    theme: Annotated[Literal["auto", "light", "dark"] | None, Form()] = None,
) -> Response:
    """Keep the language and the colours in this browser, and show the page again."""
    answer = Response(status_code=204, headers={"HX-Refresh": "true"})
    for name, value in ((LANGUAGE_COOKIE, language), (THEME_COOKIE, theme)):
        if value is not None:
            answer.set_cookie(name, value, max_age=_YEAR, samesite="strict", httponly=True)
    return answer


@router.get("/login")
def login_page(request: Request, next: str = "/") -> HTMLResponse:  # noqa: A002  the name in the address
    """Where a person signs in."""
    return render(request, "login.html", next=next, name="", error=None)


@router.post("/login")
def log_in(request: Request, name: Text, password: Text, next: Text = "/") -> Response:  # noqa: A002
    """Begin a session, and go on to the page that was asked for."""
    text = words(request)
    try:
        token, _ = sessions.sign_in(request, name, password)
    except LoginError:
        error = text("Name and password do not fit.")
        return render(request, "login.html", 422, next=next, name=name, error=error)
    except TooManyAttemptsError as refused:
        error = text("Too many failed attempts. Try again in {n} seconds.", n=refused.seconds)
        return render(request, "login.html", 422, next=next, name=name, error=error)
    answer = redirect(request, _own(next))
    sessions.set_cookie(request, answer, token)
    return answer


@router.post("/logout")
def log_out(request: Request, who: Reader) -> Response:
    """End the session."""
    answer = redirect(request, "/login")
    sessions.sign_out(request, answer, who)
    return answer


@router.get("/account")
def account(request: Request, _: Reader) -> HTMLResponse:
    """The person's own page; for engineers, with all users."""
    return _shown(request)


@router.post("/account/users")
def add_user(
    request: Request,
    who: Administers,
    name: Text,
    role: Annotated[Literal["operator", "engineer"], Form()],
    password: Text,
) -> HTMLResponse:
    """Make a user."""
    here = station(request)
    if here.is_open() and role != "engineer":
        return _shown(
            request, error=words(request)("The first user must be an engineer, or nobody could add another.")
        )
    try:
        with here.audit.change(who.name, "user added", name, role=role):
            here.accounts.add_user(name, role, password)
    except SpotterError as error:
        return _shown(request, error=str(error))
    return _shown(request, said=words(request)("{name} can sign in now.", name=name))


@router.post("/account/users/{name}/remove")
def remove_user(request: Request, who: Administers, name: str) -> HTMLResponse:
    """Remove a user; nobody can remove himself."""
    here = station(request)
    if name == who.name:
        return _shown(request, error=words(request)("Nobody can remove himself."))
    try:
        with here.audit.change(who.name, "user removed", name):
            here.accounts.remove_user(name)
    except SpotterError as error:
        return _shown(request, error=str(error))
    return _shown(request, said=words(request)("{name} is removed.", name=name))


def _shown(request: Request, **values: Any) -> HTMLResponse:
    here = station(request)
    return render(
        request,
        "account.html",
        **{
            "people": here.accounts.list_users(),
            "is_open": here.is_open(),
            "error": None,
            "said": None,
            **values,
        },
    )


def _own(address: str) -> str:
    """An address of this station, whatever was asked for."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_own else "/"
