"""Time and memory of the streamed pixel metrics, and how far they are from the exact values.

Usage: python benchmarks/pixel_metrics.py [--pictures 160] [--size 512] [--exact]
"""

from __future__ import annotations

import argparse
import resource
import time
import tracemalloc
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.metrics import PixelMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Picture = tuple["NDArray[np.float32]", "NDArray[np.bool_]", "NDArray[np.bool_]"]


def pictures(count: int, size: int) -> Iterator[Picture]:
    """Smooth noise around 1, stranger inside a disc on every second picture."""
    rng = np.random.default_rng(0)
    for index in range(count):
        noise = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), 2)
        mask = np.zeros((size, size), dtype=np.uint8)
        if index % 2:
            x, y = (int(v) for v in rng.integers(0, size, 2))
            cv2.circle(mask, (x, y), int(rng.integers(3, max(4, size // 8))), 1, -1)
        truth = mask.astype(bool)
        anomaly_map = 1 + noise + np.float32(0.3) * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)
        yield anomaly_map, truth, anomaly_map > 1.25


def streamed(count: int, size: int) -> tuple[float, PixelMetrics]:
    """Return the seconds spent in the metrics alone (not in making pictures), and the metrics."""
    metrics, seconds = PixelMetrics(), 0.0
    for picture in pictures(count, size):
        start = time.perf_counter()
        metrics.update(*picture)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    metrics.compute()
    return seconds + time.perf_counter() - start, metrics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument(
        "--exact", action="store_true", help="also compare AUROC with scikit-learn's exact value"
    )
    options = parser.parse_args()

    seconds, metrics = streamed(options.pictures, options.size)
    tracemalloc.start()
    streamed(min(options.pictures, 16), options.size)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{options.pictures} pictures of {options.size}x{options.size}: {seconds:.2f} s")
    print(f"peak traced memory {traced / 2**20:.0f} MiB, peak of the process {_peak_mib():.0f} MiB")
    print(metrics.compute())
    if options.exact:
        from sklearn.metrics import roc_auc_score

        maps, truths, _ = zip(*pictures(options.pictures, options.size), strict=True)
        exact = roc_auc_score(np.concatenate(truths, axis=None), np.concatenate(maps, axis=None))
        print(f"pixel AUROC minus the exact value: {(metrics.compute().auroc or 0) - exact:+.1e}")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
