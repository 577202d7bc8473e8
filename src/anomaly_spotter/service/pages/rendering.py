"""Templates to pages: who asks, in which language and colours, and what an error looks like in a browser."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service.pages.words import LANGUAGES, Words, negotiate
from anomaly_spotter.service.security import Principal, caller
from anomaly_spotter.service.station import Station

NAVIGATION = (
    ("inspect", "Inspect"),
    ("history", "History"),
    ("train", "Train"),
    ("models", "Models"),
    ("monitor", "Monitor"),
)
THEMES = ("auto", "light", "dark")
LANGUAGE_COOKIE, THEME_COOKIE = "language", "theme"


@dataclass(frozen=True, slots=True)
class Person:
    """Whoever looks at a page.

    Attributes:
        name: As in the history.
        is_engineer: Whether models may be trained and changed.
    """

    name: str
    is_engineer: bool

    @classmethod
    def of(cls, who: Principal) -> "Person":
        """The caller of a request as a page shows him."""
        return cls(who.name, who.role == "engineer")


def station(request: Request) -> Station:
    """The running station."""
    found: Station = request.app.state.station
    return found


def words(request: Request) -> Words:
    """The language this browser is answered in."""
    return Words(negotiate(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language")))


def is_partial(request: Request) -> bool:
    """Whether a script of the page asks, not the person by navigating."""
    return "hx-request" in request.headers


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template with what all of them need: words, colours, the person and the CSRF token."""
    theme = request.cookies.get(THEME_COOKIE, "auto")
    try:
        who = caller(request)
    except (
        HTTPException,
        SpotterError,
    ):  # an error page is shown to strangers too, and while the database is away
        who = None
    context = {
        "_": words(request),
        "theme": theme if theme in THEMES else "auto",
        "languages": LANGUAGES,
        "navigation": NAVIGATION,
        "page": request.url.path.split("/")[1],
        "person": None if who is None else Person.of(who),
        "csrf": "" if who is None else who.csrf or "",
        **values,
    }
    return HTMLResponse(
        _environment().get_template(template).render(context), status, {"Cache-Control": "no-store"}
    )


def redirect(request: Request, to: str) -> Response:
    """Send the browser to another page, whether htmx asks or the person."""
    if is_partial(request):
        return Response(headers={"HX-Redirect": to})
    return RedirectResponse(to, 303)


class PageRoute(APIRoute):
    """Errors of a page: to the login where nobody is signed in, else a page with the error.

    What a script asked for is answered as everywhere, with a problem document.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with its errors shown."""
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                if error.status_code == 401:
                    here = request.url.path if request.method == "GET" and not is_partial(request) else "/"
                    return redirect(request, f"/login?next={quote(here)}")
                if is_partial(request):
                    raise
                return _error(request, error.status_code, str(error.detail))
            except RequestValidationError as error:
                if is_partial(request):
                    raise
                return _error(request, 422, "; ".join(str(each["msg"]) for each in error.errors()))
            except SpotterError as error:
                if is_partial(request):
                    raise
                return _error(request, 404 if request.method == "GET" else 422, str(error))

        return shown


def _error(request: Request, status: int, detail: str) -> Response:
    text = words(request)
    title = text("There is no such page") if status == 404 else text("This did not work")
    return render(request, "error.html", status, title=title, detail=detail)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("anomaly_spotter.service"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
