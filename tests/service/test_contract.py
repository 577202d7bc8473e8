"""The live station against its own OpenAPI description: schemathesis sends what fits and what does not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.service.conftest import Live

pytest.importorskip("schemathesis")


def test_schemathesis_finds_nothing(live: Live, tmp_path: Path) -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
            f"{live.url}/api/v1/openapi.json",
            "--phases=examples,fuzzing",
            "--max-examples=8",
            # A description cannot tell which bytes are a picture, and which names exist.
            "--exclude-checks=positive_data_acceptance",
            "--mode=all",
            "--generation-deterministic",
            "--request-timeout=60",
            "--suppress-health-check=all",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]


def test_every_operation_is_described(live: Live) -> None:
    schema = live.client.get("/api/v1/openapi.json").json()
    operations = [each for path in schema["paths"].values() for each in path.values()]
    assert len(operations) > 25
    assert len({each["operationId"] for each in operations}) == len(operations)
    for each in operations:
        assert each["summary"]
        assert each["description"]
    for name in ("InspectionAnswer", "ReviewAsked", "TrainingAsked", "ComparisonAsked", "Problem"):
        assert schema["components"]["schemas"][name]["example"], name
