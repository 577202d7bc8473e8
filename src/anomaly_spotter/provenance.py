"""Where a result comes from: versions, commit, machine and time, as stored in every bundle and result file."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import anomaly_spotter

_LIBRARIES = ("torch", "lightning", "numpy", "opencv-python-headless", "timm")


def stamp() -> dict[str, Any]:
    """Creation time (UTC, ISO 8601), package version, source commit if known, library versions and machine."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": anomaly_spotter.__version__,
        "commit": source_commit(),
        "versions": {"python": platform.python_version()} | _installed() | _keras(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
    }


def source_commit() -> str | None:
    """The commit of the source checkout this package runs from, ``-dirty`` if changed; ``None`` when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(  # noqa: S603  a fixed command
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _installed() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _keras() -> dict[str, str]:
    """Keras and its backend, in a process that has loaded them: where nobody asked for Keras, it computed nothing."""
    keras = sys.modules.get("keras")
    if keras is None:
        return {}
    backend = keras.config.backend()
    return {name: str(sys.modules[name].__version__) for name in ("keras", backend)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
