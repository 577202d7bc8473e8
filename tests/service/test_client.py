"""The examples of clients, run against a station with keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anomaly_spotter.service.accounts import Accounts
from anomaly_spotter.service.database import Database
from tests.conftest import REPOSITORY
from tests.service.conftest import png, running

if TYPE_CHECKING:
    from pathlib import Path

    from anomaly_spotter.service.settings import StationSettings

EXAMPLES = REPOSITORY / "examples" / "station"


@pytest.mark.parametrize("command", [[sys.executable, "client.py"], ["sh", "client.sh"]])
def test_client(settings: StationSettings, tmp_path: Path, command: list[str]) -> None:
    if shutil.which("curl") is None and command[0] == "sh":
        pytest.skip("no curl here (make system-deps)")
    _, key = Accounts(Database(settings.database_url)).add_key("line-3", ["inspect"])
    picture = tmp_path / "part.png"
    picture.write_bytes(png(1, defect=True))
    with running(settings) as live:
        for own in (key, "spot_wrong"):
            done = subprocess.run(
                [*command, str(picture)],
                cwd=EXAMPLES,
                env={**os.environ, "STATION": live.url, "STATION_KEY": own},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if own != key:
                assert "not accepted" in done.stdout + done.stderr
                assert done.returncode != 0
                continue
            assert "DEFECT" in done.stdout, done.stderr
            if command[0] == "sh":
                assert (done.returncode, "part.png" in done.stdout) == (0, True)
            else:
                assert done.returncode == 1
                assert picture.with_suffix(".overlay.png").read_bytes().startswith(b"\x89PNG")
        (record,) = live.client.get("/api/v1/inspections", headers={"X-API-Key": key}).json()["inspections"]
        assert (record["file"], record["by"]) == ("part.png", "line-3")
