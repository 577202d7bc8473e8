"""What one processor core does: pictures decoded, inspected and trained on per second of processor time, one thread.

Processor time hardly depends on what else the machine does; the load and the wall time are recorded beside it.
Run as ``python benchmarks/scale/measure.py [--pictures 32]``; results go to ``benchmarks/scale/results/scale.json``.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before anything counts processors

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.files import write_json
from anomaly_spotter.inputs.decode import read_picture
from anomaly_spotter.inputs.sample.writer import write_sample
from anomaly_spotter.products import load
from anomaly_spotter.provenance import stamp
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = {
    "gaussian": ["model.name=gaussian"],
    "memory": ["model.name=memory"],
    "unet": ["training.epochs=1", "training.pictures_per_epoch=32"],
}
RESULTS = Path(__file__).parent / "results" / "scale.json"


def measured(work: Callable[[], Any], pictures: int) -> dict[str, float]:
    """Milliseconds per picture."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "cpu_ms": round(1e3 * (time.process_time() - processor) / pictures, 2),
        "wall_ms": round(1e3 * (time.perf_counter() - wall) / pictures, 2),
    }


def inspected(bundle: Path, files: list[Path], engine: str) -> dict[str, Any]:
    started, processor = time.perf_counter(), time.process_time()
    spotter = load(bundle, engine=engine)
    opening = {
        "cpu_s": round(time.process_time() - processor, 2),
        "wall_s": round(time.perf_counter() - started, 2),
    }
    list(spotter.inspect_stream(files[:8], explain=False))  # warm
    found = measured(lambda: list(spotter.inspect_stream(files, explain=False)), len(files))
    return {"engine": engine, "open": opening, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--sides", default="256,512")
    parser.add_argument("--engines", default="onnxruntime,openvino-bf16")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    provenance = stamp()  # before the first result changes a tracked file
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_sample(root, ["hazelnut"], train=24, test_good=asked.pictures, per_kind=1)
        files = sorted((root / "hazelnut/test/good").glob("*.png"))
        height, width = read_picture(files[0]).pixels.shape[:2]
        data = {
            "pictures": len(files),
            "size": f"{width}x{height}",
            "bytes": round(sum(file.stat().st_size for file in files) / len(files)),
            "decode": measured(lambda: [read_picture(file) for file in files], len(files)),
        }
        for side in asked.sides.split(","):
            for name, settings in MODELS.items():
                overrides = [*settings, f"preprocessing.long_side={side}", "preprocessing.alignment=none"]
                config = SpotterConfig.load(name, overrides=overrides, environment={})
                processor = time.process_time()
                spotter = Spotter.fit(root, "hazelnut", config=config)
                row: dict[str, Any] = {"model": name, "long_side": int(side)}
                row["fit_cpu_s"] = round(time.process_time() - processor, 2)
                bundle = spotter.save(root / f"{name}-{side}.spot")
                row["bundle_bytes"] = bundle.stat().st_size
                row["inspect"] = [inspected(bundle, files, engine) for engine in asked.engines.split(",")]
                rows.append(row)
                print(row, flush=True)
                load_average = os.getloadavg()
                write_json(
                    RESULTS,
                    {
                        "measured": provenance,
                        "load_average": load_average,
                        "threads": 1,
                        "data": data,
                        "models": rows,
                    },
                )


if __name__ == "__main__":
    main()
