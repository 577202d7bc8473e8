"""Real MLflow processes on loopback, for the tests of this folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
_PATIENCE = 600.0  # seconds; a loaded machine imports slowly


def spot(*arguments: object) -> subprocess.CompletedProcess[str]:
    """``anomaly-spotter ARGUMENTS`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "anomaly_spotter", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(log: Path, health: str, *arguments: object, **environment: str) -> Iterator[None]:
    """``mlflow ARGUMENTS`` until the context ends, from the moment it answers at ``health``."""
    bin_folder = Path(sys.executable).parent
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *map(str, arguments)],
            stdout=output,
            stderr=subprocess.STDOUT,
            # "models serve" starts uvicorn by its name.
            env={
                **os.environ,
                **_QUIET,
                **environment,
                "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            },
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _answers(health):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.3)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def tracking_server(folder: Path, port: int) -> Iterator[str]:
    """A tracking server with files and registry of its own; yields its address."""
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{(folder / 'server.db').as_posix()}"
    with running(
        folder / "server.log", f"{address}/health",
        "server", "--host", "127.0.0.1", "--port", port, "--workers", 1,
        "--backend-store-uri", store, "--artifacts-destination", folder / "server-files",
    ):  # fmt: skip
        yield address
