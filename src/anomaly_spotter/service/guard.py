"""The gate before every request: host, origin and size are checked, and every answer gets the security headers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request

from anomaly_spotter.service.problems import ProblemError, problem
from anomaly_spotter.service.settings import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from anomaly_spotter.service.settings import StationSettings

_SAFE = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; manifest-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: StationSettings) -> None:
        self._app, self._limits = app, settings.limits
        self._hosts: frozenset[str] | None = None
        if settings.is_loopback or settings.hosts:
            self._hosts = frozenset({*LOOPBACK, settings.host.lower(), *map(str.lower, settings.hosts)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            limited = self._checked(scope, receive)
        except ProblemError as error:
            answer = problem(Request(scope), error.status_code, error.kind, error.detail)
            await answer(scope, receive, send_with_headers)
            return
        await self._app(scope, limited, send_with_headers)

    def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """The request's body, cut off at its limit.

        Raises:
            ProblemError: 400 or 403 for a foreign host or origin, 413 for a body that says it is too large.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise ProblemError(400, "host", "this station is not known by that name; add it by --allow-host")
        if scope["method"] not in _SAFE:
            _require_same_origin(headers, host)
        limit = self._limit(scope["path"])
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        return receive_limited

    def _limit(self, path: str) -> int:
        if path.endswith("/datasets"):
            return self._limits.dataset_bytes
        return self._limits.model_bytes if path.endswith("/models") else self._limits.upload_bytes


def _require_same_origin(headers: Headers, host: str) -> None:
    """Refuse a change that another site's page asks the browser for (cross-site request forgery)."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    is_foreign = site not in (None, "same-origin", "none")
    if is_foreign or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
        raise ProblemError(403, "origin", "changes are accepted from the station's own pages only")


def _name(host: str) -> str:
    """The host of a ``Host`` header, without the port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, "too-large", f"the request is larger than {limit} bytes; send less at once")
