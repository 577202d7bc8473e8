"""How fast a station answers, against the bare detector in the same run, and whether its memory stays flat.

    .venv/bin/python benchmarks/service/measure.py --bundle outputs/models/screw-memory.spot --picture part.png

The station runs in a process of its own on loopback, on SQLite, with every picture and record kept; each client sends
its next picture when the last one is answered. Pictures carry noise of their own and no file is sent twice, so that
nothing is kept twice (heat maps repeat after as many pictures as fit into 256 MB here). The bare detector and the
station take turns, several rounds, and the median is told. `--quick` is for a look whether it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import psutil

from anomaly_spotter.inputs.decode import decode_bytes
from anomaly_spotter.products import load
from anomaly_spotter.provenance import stamp
from anomaly_spotter.runtime import fastest_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomaly_spotter import Spotter

MEGABYTE = 1e6
MOST_BYTES, MOST_PICTURES = 256 * MEGABYTE, 1024
FEW = 8  # clients at which the overhead is told
SAMPLES = 20  # of the memory, over all requests
WARM_UP = 0.25  # share of the requests after which memory should no longer grow


class Pictures:
    """The picture with other noise each time, as files none of which comes twice."""

    def __init__(self, path: Path) -> None:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise SystemExit(f"error: {path} cannot be read as a picture; name a PNG or JPEG file")
        rng = np.random.default_rng(0)
        self._files: list[bytes] = []
        while len(self._files) < MOST_PICTURES and sum(map(len, self._files)) < MOST_BYTES:
            noisy = pixels.astype(np.int32) + rng.integers(-1, 2, pixels.shape)
            most = np.iinfo(pixels.dtype).max
            self._files.append(cv2.imencode(".png", noisy.clip(0, most).astype(pixels.dtype))[1].tobytes())
        self._numbers = count()

    def next(self) -> bytes:
        number = next(self._numbers)  # behind a PNG's end, where no decoder looks
        return self._files[number % len(self._files)] + number.to_bytes(8)


class Station:
    """``anomaly-spotter serve`` with one model, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process, self._address = psutil.Process(process.pid), urlsplit(url).netloc

    def megabytes(self) -> float:
        return float(self._process.memory_info().rss / MEGABYTE)

    def ask(self, clients: int, pictures: Pictures, is_over: Callable[[int], bool]) -> list[float]:
        """Seconds per answer of so many clients at once, until it is over by the number of answers."""
        times: list[float] = []
        wrong: list[str] = []

        def client() -> None:
            # The standard library's client: the clients share the processors with the station.
            http = HTTPConnection(self._address, timeout=120)
            while not wrong and not is_over(len(times)):
                start = time.perf_counter()
                http.request("POST", "/api/v1/inspections", pictures.next(), {"content-type": "image/png"})
                answer = http.getresponse()
                told = answer.read()
                times.append(time.perf_counter() - start)
                if answer.status != 201:
                    wrong.append(f"error: the station answered {answer.status}: {told.decode()}")
            http.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if wrong:
            raise SystemExit(wrong[0])
        return times


@contextlib.contextmanager
def serving(bundle: Path) -> Iterator[Station]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "anomaly_spotter", "serve", "--api-only", "--port", "0"),
                *("--models", str(bundle.parent), "--data", folder),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("station at "):
                raise SystemExit("error: the station did not start; see above")
            url = line.removeprefix("station at ").strip()
            httpx.post(f"{url}api/v1/models/{bundle.stem}/activate", timeout=120).raise_for_status()
            yield Station(process, url)
        finally:
            process.terminate()
            process.wait()


def bare(spotter: Spotter, pictures: Pictures, seconds: float) -> list[float]:
    """Seconds per picture, decoding included, of one thread that does nothing else."""
    white = spotter.preprocessor.white_level
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        picture = decode_bytes(pictures.next(), name="picture", white_level=white)
        list(spotter.inspect_decoded([picture], explain=False))
        times.append(time.perf_counter() - start)
    return times


def rates(
    station: Station, spotter: Spotter, pictures: Pictures, asked: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Answers per second and quantiles of their times, bare and by number of clients: medians over the rounds."""
    rounds: dict[str, list[dict[str, float]]] = {}
    bare(spotter, pictures, 1.0)
    station.ask(FEW, pictures, ends_in(1.0))
    for _ in range(asked.rounds):
        alone = bare(spotter, pictures, asked.seconds)
        rounds.setdefault("bare", []).append(row(alone, sum(alone)))
        for clients in asked.clients:
            start = time.perf_counter()
            times = station.ask(clients, pictures, ends_in(asked.seconds))
            rounds.setdefault(f"{clients} clients", []).append(row(times, time.perf_counter() - start))
    return {
        name: {key: median(each[key] for each in found) for key in found[0]} for name, found in rounds.items()
    }


def memory(station: Station, pictures: Pictures, requests: int) -> list[tuple[int, float]]:
    """Megabytes of the station's process after so many requests, from none to all of them."""
    samples = [(0, station.megabytes())]
    for part in range(SAMPLES):
        share = requests * (part + 1) // SAMPLES - requests * part // SAMPLES
        done = len(station.ask(FEW, pictures, lambda number, share=share: number >= share))
        samples.append((samples[-1][0] + done, station.megabytes()))
    return samples


def growth(samples: list[tuple[int, float]]) -> float:
    """Megabytes per 1,000 requests once warm, by least squares."""
    warm = [each for each in samples if each[0] >= WARM_UP * samples[-1][0]]
    return float(1000 * np.polyfit(*zip(*warm, strict=True), 1)[0])


def ends_in(seconds: float) -> Callable[[int], bool]:
    end = time.perf_counter() + seconds
    return lambda _: time.perf_counter() > end


def row(times: list[float], seconds: float) -> dict[str, float]:
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return {"per_second": len(times) / seconds, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=20_000, help="over which memory is watched; 0 leaves it out"
    )
    parser.add_argument("--quick", action="store_true", help="one short round and 400 requests")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.seconds, asked.requests = 1, 2.0, 400
    pictures = Pictures(asked.picture)
    engine = fastest_installed()
    spotter = load(asked.bundle, engine=engine)
    found: dict[str, object] = {
        "measured": stamp(),
        "detector": spotter.provenance,
        "bundle": asked.bundle.name,
        "engine": engine,
        "processors": os.cpu_count(),
        "seconds": asked.seconds,
        "rounds": asked.rounds,
    }
    with serving(asked.bundle) as station:
        table = rates(station, spotter, pictures, asked)
        for name, each in table.items():
            print(
                f"{name:>12}  {each['per_second']:8.1f} /s  p50 {each['p50_ms']:7.1f} ms  p99 {each['p99_ms']:7.1f} ms"
            )
        found["rates"] = table
        if f"{FEW} clients" in table:
            overhead = table["bare"]["per_second"] / table[f"{FEW} clients"]["per_second"] - 1
            print(
                f"overhead at {FEW} clients: {100 * overhead:.1f} % more time per picture than the bare detector"
            )
            found["overhead"] = overhead
        if asked.requests:
            samples = memory(station, pictures, asked.requests)
            (_, first), (number, last) = samples[0], samples[-1]
            print(
                f"memory: {first:.0f} MB, after {number} requests {last:.0f} MB, "
                f"{growth(samples):+.2f} MB per 1,000 requests after the first quarter"
            )
            found["memory"] = [{"requests": requests, "megabytes": each} for requests, each in samples]
            found["megabytes_per_1000_requests"] = growth(samples)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
