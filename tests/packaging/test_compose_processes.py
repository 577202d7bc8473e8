"""The processes that compose.yaml starts, started here: the same arguments and health checks, other folders and ports.

The database is SQLite instead of the container's PostgreSQL, on which the station's own tests run it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml

import anomaly_spotter
from anomaly_spotter.cli import app
from tests.packaging.test_docker import COMPOSE, stages

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
SECONDS = 300


def placed(arguments: list[str], folder: Path, port: str, inner: str) -> list[str]:
    """Arguments of a container as arguments of a process on this machine's loopback."""
    for name in ("models", "data", "mlflow"):
        (folder / name).mkdir(exist_ok=True)
        arguments = [
            part.replace(f"/{name}", f"{folder}/{name}", 1) if f"/{name}" in part else part
            for part in arguments
        ]
    return [part.replace("0.0.0.0", "127.0.0.1").replace(inner, port) for part in arguments]


def is_healthy(check: list[str], port: str, inner: str) -> bool:
    command = [str(BIN / "python"), *(part.replace(inner, port) for part in check[1:])]
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def health_check_of(stage: str) -> list[str]:
    line = next(line for line in stages()[stage] if line.startswith("HEALTHCHECK"))
    return list(yaml.safe_load(line.split(" CMD ")[1]))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    running: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "log.txt"

    def start(command: list[str], check: list[str], port: str, inner: str, **environment: str) -> None:
        sources = str(Path(anomaly_spotter.__file__).parents[1])
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": sources, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=os.name != "nt",
            )
        running.append(process)
        deadline = time.monotonic() + SECONDS
        while not is_healthy(check, port, inner):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.5)

    yield start
    for process in running:
        if os.name == "nt":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_the_station_s_command_serves_and_is_healthy(tmp_path, bundle, started):
    if "serve" not in typer.main.get_command(app).commands:
        pytest.skip("no verb 'serve' in this build")
    service = COMPOSE["services"]["station"]
    port = free_port()
    command = placed(service["command"], tmp_path, port, "8000")
    shutil.copy(bundle, tmp_path / "models" / "disc.spot")
    environment = {"ANOMALY_SPOTTER_DB": f"sqlite:///{tmp_path / 'data' / 'station.db'}"}
    assert set(service["environment"]) == {"ANOMALY_SPOTTER_DB", "PGPASSWORD"}
    made = subprocess.run(
        [BIN / "anomaly-spotter", "access", "add-user", "anna", "--role", "engineer"],
        env={**os.environ, **environment, "ANOMALY_SPOTTER_PASSWORD": "a long password"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert made.returncode == 0, made.stderr
    started([str(BIN / "anomaly-spotter"), *command], health_check_of("station"), port, "8000", **environment)


def test_the_image_s_own_command_is_that_of_compose():
    (line,) = [line for line in stages()["station"] if line.startswith("CMD ")]
    own = yaml.safe_load(line.removeprefix("CMD "))
    assert COMPOSE["services"]["station"]["command"][: len(own)] == own


@pytest.mark.slow
def test_mlflow_s_command_serves_and_is_healthy(tmp_path, started):
    service = COMPOSE["services"]["mlflow"]
    program = BIN / service["entrypoint"][0]
    if not program.is_file():
        pytest.skip("mlflow is not installed: pip install 'anomaly-spotter[track]'")
    port = free_port()
    command = placed(service["command"], tmp_path, port, "5000")
    started([str(program), *command], service["healthcheck"]["test"][1:], port, "5000", HOME=str(tmp_path))
    assert (tmp_path / "mlflow" / "mlflow.db").is_file()
