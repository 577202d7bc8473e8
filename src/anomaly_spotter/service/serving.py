"""Run a station on a socket until it is told to stop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.service import create_app

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from fastapi import FastAPI

    from anomaly_spotter.service.settings import StationSettings
    from anomaly_spotter.service.station import Station

_GRACE = 10  # seconds for requests in progress to end


def run(settings: StationSettings, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        settings: Where and what.
        announce: Told the address, once the port is taken.

    Raises:
        SpotterError: The address is in use, or as :func:`create_app`.
    """
    app = create_app(settings)
    listening = listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    announce(f"http://{shown}:{port}/")
    server_of(app).run(sockets=[listening])


def server_of(app: FastAPI) -> uvicorn.Server:
    """What serves a station; it stops when it is told to, also while somebody watches a job."""
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, proxy_headers=False, timeout_graceful_shutdown=_GRACE
    )
    return _Server(config, app.state.station)


class _Server(uvicorn.Server):
    """Tells whoever waits for news of a job to go, as soon as it is told to stop itself."""

    def __init__(self, config: uvicorn.Config, station: Station) -> None:
        super().__init__(config)
        self._station = station

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._station.is_closing = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        SpotterError: The address is in use, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else each answer's body waits 40 ms for an
    # acknowledgement of its header.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SpotterError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from None
    listening.listen(128)
    return listening
