"""Writes the sample to a folder in MVTec AD's layout, on every core."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.errors import DatasetError, SpotterError
from anomaly_spotter.files import write_atomic
from anomaly_spotter.inputs.sample.picture import CATEGORIES, DEFECT_KINDS, GOOD, MIN_SIZE, render
from anomaly_spotter.inputs.sample.surface import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_BATCH = 8  # pictures handed to a process at a time
_WORTH_A_POOL = 48  # pictures; starting processes costs about as long as drawing these


@dataclass(frozen=True)
class _Job:
    """One picture to draw; its looks depend on these values alone, never on how many others there are."""

    category: str
    split: str  # "train" or "test"
    kind: str
    index: int
    seed: int
    size: int

    @property
    def picture_seed(self) -> int:
        return int(stream(self.seed, self.category, self.split, self.kind, self.index).integers(2**63))


def write_sample(
    out: Path,
    categories: Sequence[str] = CATEGORIES,
    seed: int = 0,
    *,
    train: int = 200,
    test_good: int = 40,
    per_kind: int = 12,
    size: int = 320,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the sample data set: the same parameters give the same bytes.

    Files already there under the same names are replaced, each in one step, so an interrupted run leaves whole files
    only and can simply be repeated.

    Args:
        out: folder to write to; made if missing.
        categories: which of `CATEGORIES`.
        seed: any integer >= 0.
        train: good pictures to learn from, per category.
        test_good: good pictures to test with, per category.
        per_kind: defective pictures per defect kind.
        size: side of the square pictures in pixels, at least 64.
        progress: called with (pictures done, pictures in all) as the work proceeds.

    Returns:
        The category folders, in the order of ``categories``.

    Raises:
        DatasetError: a category is unknown, a number is out of range, the folder cannot be written, or it holds
            other pictures already.
    """
    _check(categories, seed, {"train": train, "test_good": test_good, "per_kind": per_kind}, size)
    jobs = [
        job
        for category in dict.fromkeys(categories)
        for job in _jobs(category, seed, train, test_good, per_kind, size)
    ]
    _refuse_to_mix(out, categories, jobs)
    done = 0
    for count in _written(out, jobs):
        done += count
        if progress is not None:
            progress(done, len(jobs))
    return [out / category for category in dict.fromkeys(categories)]


def _check(categories: Sequence[str], seed: int, counts: dict[str, int], size: int) -> None:
    unknown = [category for category in categories if category not in CATEGORIES]
    if unknown:
        raise DatasetError(
            f"the sample has the categories {', '.join(CATEGORIES)}, not {', '.join(map(repr, unknown))}: choose among them"
        )
    for name, value in {**counts, "seed": seed, "size": size}.items():
        least = MIN_SIZE if name == "size" else 0
        if value < least:
            raise DatasetError(
                f"the sample's {name} must be at least {least}, found {value}: choose a larger number"
            )


def _refuse_to_mix(out: Path, categories: Sequence[str], jobs: Sequence[_Job]) -> None:
    """An earlier, larger sample would stay beside the new pictures and be taken for part of it."""
    planned = {file for job in jobs for file in _files(out, job)}
    for category in categories:
        other = next((file for file in (out / category).rglob("*.png") if file not in planned), None)
        if other is not None:
            raise DatasetError(
                f"{out / category} holds other pictures ({other.name}): choose an empty folder"
            )


def _jobs(category: str, seed: int, train: int, test_good: int, per_kind: int, size: int) -> Iterator[_Job]:
    for split, kind, count in (
        ("train", GOOD, train),
        ("test", GOOD, test_good),
        *(("test", kind, per_kind) for kind in DEFECT_KINDS[category]),
    ):
        for index in range(count):
            yield _Job(category, split, kind, index, seed, size)


def _files(out: Path, job: _Job) -> tuple[Path, ...]:
    """Return the job's picture file and, for a defect, its mask file."""
    root = out / job.category
    picture = root / job.split / job.kind / f"{job.index:03d}.png"
    if job.kind == GOOD:
        return (picture,)
    return picture, root / "ground_truth" / job.kind / f"{job.index:03d}_mask.png"


def _written(out: Path, jobs: Sequence[_Job]) -> Iterator[int]:
    """Draw and write all jobs, yielding how many pictures each finished step brought."""
    left = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    if _cores() > 1 and len(jobs) >= _WORTH_A_POOL and not multiprocessing.current_process().daemon:
        try:
            # "spawn" is safe whatever threads the calling program runs.
            with ProcessPoolExecutor(
                _cores(), multiprocessing.get_context("spawn"), initializer=_start_worker
            ) as pool:
                futures = {pool.submit(_write_batch, out, batch): batch for batch in left}
                try:
                    for future in as_completed(futures):
                        count = future.result()
                        left.remove(futures[future])
                        yield count
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        except (BrokenProcessPool, OSError):
            pass  # no processes here (a sandbox, a script without a main guard): this one draws what is left
    for batch in left:
        yield _write_batch(out, batch)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    cv2.setNumThreads(1)  # one process per core already


def _write_batch(out: Path, jobs: Sequence[_Job]) -> int:
    for job in jobs:
        picture, mask = render(job.category, job.kind, job.picture_seed, job.size)
        shown = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        images = (shown, mask.astype(np.uint8) * np.uint8(255))
        for file, image in zip(_files(out, job), images, strict=False):  # a good part has no mask file
            _write_png(file, np.asarray(image, dtype=np.uint8))
    return len(jobs)


def _write_png(file: Path, image: NDArray[np.uint8]) -> None:
    # Sensor noise has no repetitions to find: coding symbols alone is both faster and smaller here.
    coded, data = cv2.imencode(
        ".png", image, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    )
    if not coded:
        raise DatasetError(
            f"cannot write {file}: OpenCV failed to code it as PNG; install OpenCV with PNG support"
        )
    try:
        write_atomic(file, data.tobytes())
    except SpotterError as error:
        raise DatasetError(str(error)) from None
