"""A real station on a port of its own, in a thread of the test's process or in a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest

from anomaly_spotter.service import create_app
from anomaly_spotter.service.serving import listen, server_of
from anomaly_spotter.service.settings import StationSettings
from tests.conftest import draw_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomaly_spotter.service.station import Station

PATIENCE = 120.0  # seconds; a loaded machine is slow


def png(rng: np.random.Generator | int = 0, *, defect: bool = False) -> bytes:
    generator = np.random.default_rng(rng) if isinstance(rng, int) else rng
    return cv2.imencode(".png", draw_part(generator, defect=defect)[0])[1].tobytes()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s in vain until {what}")


@dataclass
class Live:
    """A running station, and a client of it."""

    url: str
    station: Station
    client: httpx.Client

    def inspect(self, picture: bytes, **how: Any) -> dict[str, Any]:
        answer = self.client.post(
            "/api/v1/inspections", content=picture, headers={"content-type": "image/png"}, **how
        )
        assert answer.status_code == 201, answer.text
        return answer.json()["inspections"][0]


@contextlib.contextmanager
def running(settings: StationSettings) -> Iterator[Live]:
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create_app(settings)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        until(lambda: server.started, "the station has started")
        yield Live(url, app.state.station, client)
        app.state.station.is_closing = True
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextlib.contextmanager
def process(
    *arguments: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``anomaly-spotter serve`` in a process of its own, and its address."""
    started = subprocess.Popen(
        [sys.executable, "-m", "anomaly_spotter", "serve", "--api-only", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        line = started.stdout.readline() if started.stdout else ""
        assert line.startswith("station at "), line
        yield started, line.removeprefix("station at ").strip().rstrip("/")
    finally:
        started.kill()
        started.wait()


@pytest.fixture
def settings(tmp_path: Path, bundle: Path) -> StationSettings:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(bundle, models)
    return StationSettings(models=models, data=tmp_path / "data", pages=False)


@pytest.fixture
def live(settings: StationSettings) -> Iterator[Live]:
    with running(settings) as found:
        yield found


class Postgres:
    """A PostgreSQL server of our own, on loopback and a free port."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs = folder, programs
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", str(folder / "db"), "-U", "station", "-A", "trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://station@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "-D", str(self.folder / "db"), "-w", "-t", "120", "-l", log, "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "db"), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:  # the server refuses to run as root
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server here (make system-deps)")
    folder = Path(tempfile.mkdtemp(prefix="spotter-pg-"))  # short: the path of a socket has at most 107 bytes
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    server = Postgres(folder, found[-1].parent)
    yield server
    with contextlib.suppress(subprocess.CalledProcessError):
        server.stop()
    shutil.rmtree(folder, ignore_errors=True)
