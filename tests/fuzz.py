"""Damaged model files, exports and pictures, as many as fit into some minutes: nothing but clear errors may come out.

    python -m tests.fuzz --minutes 10 [--seed 0]

What it finds is printed with its seed and belongs into the regression tests.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from anomaly_spotter import Spotter, load
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.export import export
from anomaly_spotter.inputs.decode import read_info, read_picture
from tests.conftest import draw_part
from tests.test_products import CONFIG

FORMATS = (".png", ".jpg", ".bmp", ".tiff", ".webp")


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut, doubled, zeroed or swapped for telling values."""
    values = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        if not values:
            return b""
        start = int(rng.integers(0, len(values)))
        if rng.random() < 0.5:  # headers are where it hurts
            start = min(start, int(rng.integers(0, min(len(values), 200))))
        length = int(rng.integers(1, 64))
        kind = rng.integers(0, 6)
        if kind == 0:
            values[start] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del values[start:]
        elif kind == 2:
            values[start:start] = values[start : start + length]
        elif kind == 3:
            values[start : start + length] = bytes(length)
        elif kind == 4:
            values[start : start + 4] = b"\xff\xff\xff\xff" if rng.random() < 0.5 else b"\x7f\xff\xff\xff"
        else:
            values[start : start + length] = rng.bytes(length)
    return bytes(values)


def repacked(bundle: bytes, rng: np.random.Generator) -> bytes:
    """A bundle whose zip is whole, with a damaged member."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = str(rng.choice(list(members)))
    members[name] = mutated(members[name], rng)
    if rng.random() < 0.2:
        members["../" + name] = members[name]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rng = np.random.default_rng(0)
        good = folder / "good"
        good.mkdir()
        for index in range(20):
            cv2.imwrite(str(good / f"{index}.png"), draw_part(rng)[0])
        bundle = Spotter.fit(good, config=CONFIG).save(folder / "a.spot")
        made = export(load(bundle, engine="torch"), folder / "export").folder
        description = json.loads((made / "detector.json").read_text())
        seeds = {
            suffix: cv2.imencode(suffix, np.dstack([draw_part(rng)[0]] * 3))[1].tobytes()
            for suffix in FORMATS
        }
        seeds["16.png"] = cv2.imencode(".png", draw_part(rng)[0].astype(np.uint16) * 200)[1].tobytes()
        content = bundle.read_bytes()
        end = time.monotonic() + 60 * arguments.minutes
        seed = arguments.seed
        while time.monotonic() < end:
            seed += 1
            rng = np.random.default_rng(seed)
            kind = ("bundle", "member", "picture", "picture", "picture", "export")[seed % 6]
            try:
                if kind == "export":
                    (made / "detector.json").write_bytes(mutated(json.dumps(description).encode(), rng))
                    load(made)
                elif kind == "picture":
                    suffix = str(rng.choice(list(seeds)))
                    path = folder / f"picture{suffix}"
                    path.write_bytes(mutated(seeds[suffix], rng))
                    read_info(path)
                    read_picture(path)
                else:
                    path = folder / "damaged.spot"
                    path.write_bytes(mutated(content, rng) if kind == "bundle" else repacked(content, rng))
                    load(path, engine="onnxruntime")
                counts[f"{kind}: accepted"] += 1
            except SpotterError as error:
                counts[f"{kind}: refused"] += 1
                if "\n" in str(error):
                    print(f"seed {seed}: {kind}: several lines: {error}", flush=True)
            except Exception:
                counts[f"{kind}: UNCLEAR"] += 1
                print(f"seed {seed}: {kind}\n{traceback.format_exc()}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:>8} {name}")


if __name__ == "__main__":
    main()
