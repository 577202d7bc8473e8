"""Damaged model files, exports and pictures, as many as fit into some minutes: nothing but clear errors may come out.

    python -m tests.fuzz --minutes 10 [--seed 0]

What it finds is printed with its seed and belongs into the regression tests.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from anomaly_spotter import Spotter, load
from anomaly_spotter.bundle import Bundle, read_bundle, write_bundle
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.export import export
from anomaly_spotter.inputs.decode import read_info, read_picture
from tests.conftest import draw_part
from tests.test_products import CONFIG

KINDS = ("bundle", "member", "picture", "picture", "picture", "export", "forged", "forged export")
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


def twisted(values: Any, rng: np.random.Generator) -> Any:
    """JSON-able values with one of them changed into something else, dropped or doubled."""
    if isinstance(values, dict | list) and values and rng.random() < 0.9:
        keys = list(values) if isinstance(values, dict) else list(range(len(values)))
        key = keys[int(rng.integers(len(keys)))]
        copy = dict(values) if isinstance(values, dict) else list(values)
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = twisted(copy[key], rng)
        return copy
    strange = (
        None,
        True,
        -1,
        0,
        1,
        3,
        2**31,
        10**20,
        1e-300,
        -0.5,
        1e300,
        "",
        "x",
        "../x",
        "unet",
        [],
        {},
        [1, 2],
    )
    return strange[int(rng.integers(len(strange)))]


def bent(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An array of another shape, type or content."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return array[..., :-1] if array.ndim and array.shape[-1] else array[None]
    if kind == 1:
        return array.reshape(-1)
    if kind == 2:
        return array.astype([np.float64, np.uint8, np.int64, np.float16][int(rng.integers(4))])
    if kind == 3:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    values = array.copy()
    if values.size:
        extreme = np.nan if np.issubdtype(values.dtype, np.floating) else np.iinfo(values.dtype).max
        values.reshape(-1)[int(rng.integers(values.size))] = extreme
    return values


def forged(stored: Bundle, rng: np.random.Generator) -> Bundle:
    """A bundle whose hashes are right and whose contents are not: what somebody could send on purpose."""
    if rng.random() < 0.6:
        section = str(rng.choice(["config", "preprocessing", "calibration", "provenance"]))
        return dataclasses.replace(stored, **{section: twisted(getattr(stored, section), rng)})
    name = str(rng.choice(list(stored.arrays)))
    arrays = {key: value for key, value in stored.arrays.items() if key != name or rng.random() < 0.9}
    if name in arrays:
        arrays[name] = bent(arrays[name], rng)
    return dataclasses.replace(stored, arrays=arrays)


def forge_export(folder: Path, description: dict[str, Any], arrays: bytes, rng: np.random.Generator) -> None:
    """An export with a description changed on purpose, or arrays, under right hashes."""
    if rng.random() < 0.5:
        changed, content = twisted(description, rng), arrays
    else:
        whole = load_arrays(arrays)
        name = str(rng.choice(list(whole)))
        content = save_arrays({**whole, name: np.ascontiguousarray(bent(whole[name], rng))})
        digest = hashlib.sha256(content).hexdigest()
        changed = {**description, "files": {**description["files"], "detector.safetensors": digest}}
    (folder / "detector.safetensors").write_bytes(content)
    (folder / "detector.json").write_text(json.dumps(changed))


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
        arrays, stored = (made / "detector.safetensors").read_bytes(), read_bundle(bundle)
        part = draw_part(rng, defect=True)[0]
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
            kind = KINDS[seed % len(KINDS)]
            try:
                if kind == "export":
                    (made / "detector.safetensors").write_bytes(arrays)
                    (made / "detector.json").write_bytes(mutated(json.dumps(description).encode(), rng))
                    load(made)
                elif kind == "forged export":
                    forge_export(made, description, arrays, rng)
                    load(made).inspect(part)
                elif kind == "forged":
                    engine = "torch" if rng.random() < 0.5 else "onnxruntime"
                    load(write_bundle(folder / "forged.spot", forged(stored, rng)), engine=engine).inspect(
                        part
                    )
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
