"""The station's web pages: HTML from Jinja2 templates, made alive by htmx and a little JavaScript of our own.

Pages call the same functions as the REST API and only translate their answers, into English or Italian.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from starlette.staticfiles import StaticFiles

from anomaly_spotter.service.pages import account, comparing, history, inspection, models, monitor, training

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.responses import Response
    from starlette.types import Scope


class _Files(StaticFiles):
    """Style, scripts and font: kept by the browser, and asked for again only where they have changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def install(app: FastAPI) -> None:
    """Add the pages, and the files they load, to the station's application."""
    folder = resources.files("anomaly_spotter.service") / "static"
    app.mount("/static", _Files(directory=str(folder)), name="static")
    for page in (inspection, history, training, models, comparing, monitor, account):
        app.include_router(page.router, include_in_schema=False)
