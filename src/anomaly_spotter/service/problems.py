"""Errors of the REST API as problem details (RFC 9457), the same form for every one, validation included."""

from __future__ import annotations

import logging
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from anomaly_spotter.errors import SpotterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request
    from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
_OTHERWISE = (422, "unprocessable")
_LOG = logging.getLogger("anomaly_spotter.service")


class ProblemError(HTTPException):
    """An answer other than success.

    Attributes:
        kind: What happened, as one or two words; the tail of the problem's ``type``.
        more: Further members of the problem.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind, self.more = kind, more


def not_found(what: str, name: str) -> ProblemError:
    """404: there is no such thing."""
    return ProblemError(404, "not-found", f"there is no {what} '{name}'")


def problem(
    request: Request,
    status: int,
    kind: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """The answer for a problem."""
    content = {
        "type": f"urn:anomaly-spotter:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        **(more or {}),
    }
    return JSONResponse(content, status, dict(headers or {}), media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(SpotterError, _spotter)
    app.add_exception_handler(Exception, _unforeseen)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  narrows the type
    if isinstance(error, ProblemError):
        return problem(request, error.status_code, error.kind, error.detail, error.headers, error.more)
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return problem(request, error.status_code, kind, str(error.detail), error.headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  narrows the type
    errors = [
        {"where": "/".join(str(part) for part in each["loc"]), "message": each["msg"]}
        for each in error.errors()
    ]
    detail = "; ".join(f"{each['where']}: {each['message']}" for each in errors)
    return problem(request, 422, "validation", detail, more={"errors": errors})


async def _spotter(request: Request, error: Exception) -> Response:
    from anomaly_spotter.service.accounts import TooManyAttemptsError

    if isinstance(error, TooManyAttemptsError):
        return problem(request, 429, "too-many-attempts", str(error), {"Retry-After": str(error.seconds)})
    status, kind = next(
        (found for cause, found in _meanings().items() if isinstance(error, cause)), _OTHERWISE
    )
    return problem(request, status, kind, str(error), {"Retry-After": "2"} if status == 503 else None)


async def _unforeseen(request: Request, error: Exception) -> Response:
    _LOG.error("unforeseen error for %s %s", request.method, request.url.path, exc_info=error)
    return problem(request, 500, "unforeseen", "something went wrong inside the station; its log tells more")


@cache
def _meanings() -> dict[type[SpotterError], tuple[int, str]]:
    """What the errors of the station's parts mean in HTTP."""
    from anomaly_spotter.service.accounts import LoginError
    from anomaly_spotter.service.database import DatabaseAwayError
    from anomaly_spotter.service.datasets import TooLargeError, UnknownDatasetError
    from anomaly_spotter.service.detectors import UnknownProductError
    from anomaly_spotter.service.disk import StorageError
    from anomaly_spotter.service.history import UnknownInspectionError
    from anomaly_spotter.service.inspecting import BusyError, KeyReusedError
    from anomaly_spotter.service.jobs import JobStateError, QueueFullError, UnknownJobError
    from anomaly_spotter.service.pictures import PictureGoneError
    from anomaly_spotter.service.registry import ModelInUseError, UnknownModelError

    return {
        LoginError: (401, "login"),
        UnknownModelError: (404, "no-model"),
        UnknownProductError: (404, "no-product"),
        UnknownInspectionError: (404, "no-inspection"),
        UnknownDatasetError: (404, "no-data-set"),
        UnknownJobError: (404, "no-job"),
        PictureGoneError: (410, "picture-gone"),
        JobStateError: (409, "job-state"),
        ModelInUseError: (409, "model-in-use"),
        TooLargeError: (413, "too-large"),
        QueueFullError: (503, "queue-full"),
        KeyReusedError: (422, "key-reused"),
        BusyError: (503, "busy"),
        StorageError: (507, "storage"),
        DatabaseAwayError: (503, "database-away"),
    }
