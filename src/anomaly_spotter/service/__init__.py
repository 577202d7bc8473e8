"""The station: REST API, web pages and inspection history around the public API. Needs the extra ``[serve]``."""

from __future__ import annotations

import importlib.util
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anomaly_spotter.extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from anomaly_spotter.service.settings import StationSettings

_NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "argon2", "prometheus_client", "python_multipart")

_OTHERS = 32  # threads for everything but inspections


def create_app(settings: StationSettings) -> FastAPI:
    """The station as an ASGI application; its :class:`~anomaly_spotter.service.station.Station` is ``app.state.station``.

    Raises:
        MissingExtraError: A package of the extra is not installed.
        SpotterError: The database cannot be used, or the settings allow what is not safe.
    """
    require_extra()
    from anyio import to_thread
    from fastapi import FastAPI

    from anomaly_spotter import __version__
    from anomaly_spotter.service import api, problems
    from anomaly_spotter.service.guard import Guard
    from anomaly_spotter.service.station import Station

    station = Station(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # More threads than inspections may run, so that whoever is too many is told so, and not left waiting.
        to_thread.current_default_thread_limiter().total_tokens = settings.limits.waiting + _OTHERS
        yield
        station.close()

    app = FastAPI(
        title="Anomaly Spotter station",
        version=__version__,
        description=api.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.station = station
    app.add_middleware(Guard, settings=settings)
    problems.install(app)
    app.include_router(api.router)
    app.include_router(api.root)
    if settings.pages:
        from anomaly_spotter.service import pages

        getattr(pages, "install", lambda _: None)(app)
    return app


def require_extra() -> None:
    """See that everything a station needs is installed.

    Raises:
        MissingExtraError: It is not.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_extra("serve", f"the station needs {', '.join(missing)}")
