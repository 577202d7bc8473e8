"""Inspect a picture with a running station, and look up what it found; needs nothing but Python.

STATION=http://127.0.0.1:8000 STATION_KEY=spot_... python client.py part.png
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

STATION = os.environ.get("STATION", "http://127.0.0.1:8000").rstrip("/")
KEY = os.environ.get("STATION_KEY")  # not needed on the station's own machine while nobody has credentials
TRIES = 5


def call(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """One request; comes again later where the station asks for it, and says in words what is wrong otherwise."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if KEY:
        sent["Authorization"] = f"Bearer {KEY}"
    request = urllib.request.Request(f"{STATION}{path}", body, sent, method=method)  # noqa: S310
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (429, 503) and left:
                time.sleep(float(error.headers.get("Retry-After", 1)))
                continue
            raise SystemExit(json.loads(error.read())["detail"]) from None
    raise SystemExit("the station is too busy")


def inspect(picture: Path) -> dict[str, Any]:
    """The verdict about one picture. The key makes it safe to send it again: it counts once."""
    answer = call(
        "POST",
        "/api/v1/inspections",
        picture.read_bytes(),
        Content_Type="application/octet-stream",
        Idempotency_Key=str(uuid.uuid4()),
        X_File_Name=picture.name,
    )
    found: dict[str, Any] = json.loads(answer)["inspections"][0]
    return found


def main() -> int:
    """Exit 0 for OK, 1 for DEFECT; the overlay of a defect is written beside the picture."""
    picture = Path(sys.argv[1])
    found = inspect(picture)
    print(found["verdict"], found["score"], found["reason"] or "")  # noqa: T201
    if found["verdict"] == "OK":
        return 0
    for region in found["regions"]:
        print("  at", region["centroid"], "area", region["area"])  # noqa: T201
    picture.with_suffix(".overlay.png").write_bytes(call("GET", found["links"]["overlay"]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
