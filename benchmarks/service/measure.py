"""How fast a station answers, against the bare detector in the same run: requests per second and p50, p99 by clients.

    .venv/bin/python benchmarks/service/measure.py --bundle outputs/models/screw-memory.spot --picture part.png

The station runs in a process of its own on loopback, on SQLite, with every picture and record kept; each client sends
its next picture when the last one is answered. Every request carries a picture that differs in one pixel, so that
nothing is kept twice. Both take turns, several rounds, and the median is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np

from anomaly_spotter.inputs.decode import decode_bytes
from anomaly_spotter.products import load
from anomaly_spotter.runtime import fastest_installed


def variants(picture: Path, most: int) -> list[bytes]:
    pixels = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
    found = []
    for number in range(most):
        pixels.reshape(-1)[number % pixels.size] ^= 1
        found.append(cv2.imencode(".png", pixels)[1].tobytes())
    return found


def bare(bundle: Path, pictures: list[bytes], seconds: float) -> list[float]:
    """Seconds per picture, decoding included, of one thread that does nothing else."""
    spotter = load(bundle, engine=fastest_installed())
    white = spotter.preprocessor.white_level
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        picture = decode_bytes(pictures[len(times) % len(pictures)], name="picture", white_level=white)
        list(spotter.inspect_decoded([picture], explain=False))
        times.append(time.perf_counter() - start)
    return times


def served(url: str, clients: int, pictures: list[bytes], seconds: float) -> tuple[float, list[float]]:
    """Answers per second, and seconds per answer, of so many clients at once."""
    times: list[float] = []
    lock = threading.Lock()
    begin = time.perf_counter()

    def client(number: int) -> None:
        # The standard library's client: the clients share the processors with the station.
        http = HTTPConnection(urlsplit(url).netloc, timeout=120)
        for turn in count(number, clients):
            start = time.perf_counter()
            http.request(
                "POST", "/api/v1/inspections", pictures[turn % len(pictures)], {"content-type": "image/png"}
            )
            answer = http.getresponse()
            told = answer.read()
            end = time.perf_counter()
            assert answer.status == 201, told
            with lock:
                times.append(end - start)
            if end - begin > seconds:
                break
        http.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / (time.perf_counter() - begin), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    pictures = variants(asked.picture, 256)
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "anomaly_spotter", "serve", "--api-only", "--port", "0"),
                *("--models", str(asked.bundle.parent), "--data", folder),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url = server.stdout.readline().removeprefix("station at ").strip()
            httpx.post(f"{url}api/v1/models/{asked.bundle.stem}/activate", timeout=120).raise_for_status()
            served(url, 1, pictures, 1.0)
            for _ in range(asked.rounds):
                alone = bare(asked.bundle, pictures, asked.seconds)
                rows.setdefault("bare", []).append(row(len(alone) / sum(alone), alone))
                for clients in asked.clients:
                    rows.setdefault(f"{clients} clients", []).append(
                        row(*served(url, clients, pictures, asked.seconds))
                    )
        finally:
            server.terminate()
            server.wait()
    table = {
        name: {key: median(each[key] for each in found) for key in found[0]} for name, found in rows.items()
    }
    for name, each in table.items():
        print(
            f"{name:>12}  {each['per_second']:8.1f} /s  p50 {each['p50_ms']:7.1f} ms  p99 {each['p99_ms']:7.1f} ms"
        )
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=2))


def row(per_second: float, seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"per_second": per_second, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99}


if __name__ == "__main__":
    main()
