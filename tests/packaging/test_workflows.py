"""The workflows of CI and release: what they call must exist, and they may do no more than they need."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".github" / "workflows"
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def commands(name: str) -> str:
    jobs: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["jobs"]
    return "\n".join(step["run"] for job in jobs.values() for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_call_what_there_is(name: str):
    text = commands(name)
    for target in re.findall(r"make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    for path in re.findall(r"(?:tests|docs)/[\w/.]*\w", text):
        assert (REPOSITORY / path).exists(), path
    for extras in re.findall(r"\[([a-z,]+)\]\"", text):
        extra = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(extras.split(",")) <= set(extra["optional-dependencies"])


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_may_only_read_unless_they_publish(name: str):
    workflow = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert [job for job, about in workflow["jobs"].items() if "permissions" in about] in ([], ["publish"])


def test_a_release_is_tested_built_and_described_before_it_is_published():
    text = commands("release.yml")
    order = [
        "make test",
        "make licences",
        "-m build",
        "--version",
        "cyclonedx-py",
        "sha256sum",
        "gh release create",
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_the_tag_check_matches_the_version_line():
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert (
        f'version = "{version}"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    )
