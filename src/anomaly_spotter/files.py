"""Whole-or-nothing file writing, used by every stage that leaves something on disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from typing import TYPE_CHECKING, Any

from anomaly_spotter.errors import SpotterError

if TYPE_CHECKING:
    from pathlib import Path

_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def write_atomic(path: Path, data: bytes) -> Path:
    """Write ``data`` beside ``path``, flush it to the disk and rename it over; missing folders are made.

    A full disk, a crash or a pulled plug leaves the old file or the new one, never half of one.

    Raises:
        SpotterError: The folder or file cannot be written (no permission, disk full, name too long).
    """
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = error.strerror or type(error).__name__
        cure = "free some space" if error.errno == errno.ENOSPC else "choose another folder"
        raise SpotterError(f"cannot write {path}: {reason}; {cure}") from None
    return path


def clear_parts(folder: Path) -> None:
    """Remove what writers that were killed half way left in or below ``folder``; call it where no other process writes.

    Raises:
        OSError: A file cannot be removed.
    """
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def safe_name(text: str) -> str:
    """``text`` as a file name; one from a manifest must not lead out of its folder, nor to a device of Windows."""
    name = re.sub(r"[^\w\-. ]", "_", text).strip(". ") or "category"
    return f"_{name}" if _DEVICE.match(name) else name


def write_json(path: Path, values: Any) -> Path:
    """Write JSON-able ``values``, indented, whole or not at all.

    Raises:
        SpotterError: As :func:`write_atomic`.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 holds lone surrogates; their escapes are valid JSON.
    return write_atomic(path, text.encode("utf-8", "backslashreplace"))
