"""A data set's faults, before anything is learned from it: broken files, duplicates, wrong masks, and shortcuts.

A shortcut is a property that has nothing to do with defects and still tells the good test pictures from the defective
ones, such as their brightness. A detector that leans on it looks better than it is. Every picture is decoded once, in a
few threads, and only small summaries are kept (4 kB a picture).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

import cv2
import numpy as np

from anomaly_spotter.errors import PictureError
from anomaly_spotter.inputs.decode import (
    Picture,
    PictureInfo,
    decode_bytes,
    read_info,
    read_mask,
    white_level,
)
from anomaly_spotter.inputs.duplicates import find_near_duplicates, thumbnail
from anomaly_spotter.inputs.findings import (
    SHORTCUT_AUROC,
    Audit,
    Duplicate,
    Fault,
    Separation,
    is_beyond_chance,
)
from anomaly_spotter.inputs.headers import read_file
from anomaly_spotter.inputs.preprocess import to_grey
from anomaly_spotter.metrics import auroc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.layouts import Dataset, Sample

__all__ = ["SHORTCUT_AUROC", "Audit", "Duplicate", "Fault", "Separation", "audit", "trivial_statistics"]

STATISTICS = ("mean_grey", "contrast", "sharpness", "file_size")
MAX_THREADS = 4


def audit(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> Audit:
    """Look through every picture of a data set.

    Args:
        dataset: As :func:`anomaly_spotter.inputs.layouts.load_dataset` returns it.
        progress: Called with ``(done, total)`` after each picture, in the caller's thread.

    Returns:
        The findings; a broken file is one of them, no error.
    """
    samples = dataset.samples
    white = white_level(sample.path for sample in samples)
    records: list[_Record] = []
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        for record in pool.map(lambda sample: _look(sample, white), samples):
            records.append(record)
            if progress is not None:
                progress(len(records), len(samples))
    seen = [record for record in records if isinstance(record, _Seen)]
    exact = _exact_duplicates(seen)
    return Audit(
        root=dataset.root,
        category=dataset.category,
        layout=dataset.layout,
        counts={
            split: _tally(sample.kind for sample in samples if sample.split == split)
            for split in ("train", "test")
        },
        sizes=_tally(f"{each.info.width}x{each.info.height}" for each in seen),
        modes=_tally(each.info.mode for each in seen),
        notes=_tally(note for each in seen for note in each.notes),
        broken=tuple(record for record in records if isinstance(record, Fault)),
        exact_duplicates=exact,
        near_duplicates=_near_duplicates(seen, exact),
        missing_masks=_paths_with(seen, "missing"),
        misfitting_masks=tuple(each.mask for each in seen if isinstance(each.mask, Fault)),
        empty_masks=_paths_with(seen, "empty"),
        masks_for_good=_paths_with(seen, "for good"),
        shortcuts=_separations(seen, "test/good", "test defects"),
        shifts=_separations(seen, "train/good", "test/good"),
    )


def trivial_statistics(picture: Picture | NDArray[np.uint8], file_size: int) -> dict[str, float]:
    """Statistics that know nothing of defects; what separates by them alone proves nothing about a detector.

    Args:
        picture: ``uint8 [H, W]`` or ``[H, W, 3]`` RGB, or the :class:`Picture` that holds it.
        file_size: Bytes of its file.

    Returns:
        ``mean_grey`` and ``contrast`` (standard deviation) in grey levels 0 to 255, ``sharpness`` (variance of the
        Laplacian) and ``file_size`` in bytes.
    """
    grey = to_grey(picture.pixels if isinstance(picture, Picture) else picture)
    mean, deviation = cv2.meanStdDev(grey)
    _, edge = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return {
        "mean_grey": float(mean[0, 0]),
        "contrast": float(deviation[0, 0]),
        "sharpness": float(edge[0, 0]) ** 2,
        "file_size": float(file_size),
    }


# --- one picture ------------------------------------------------------------------------------------------------------

_MaskState = Literal["fits", "missing", "empty", "for good"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of one readable picture."""

    sample: Sample
    info: PictureInfo
    notes: tuple[str, ...]
    digest: bytes
    statistics: dict[str, float]
    thumbnail: NDArray[np.uint8] = field(repr=False)
    mask: _MaskState | Fault

    @property
    def group(self) -> str:
        """``train/good``, ``test/good``, ``test defects`` or ``train defects``."""
        return f"{self.sample.split} defects" if self.sample.is_defect else f"{self.sample.split}/good"


_Record = _Seen | Fault


def _look(sample: Sample, white: int) -> _Record:
    try:
        info = read_info(sample.path)
        data = read_file(sample.path)
        picture = decode_bytes(data, name=str(sample.path), white_level=white)
    except PictureError as error:
        return Fault(sample.path, str(error))
    return _Seen(
        sample,
        info,
        picture.notes,
        hashlib.sha256(data).digest(),
        trivial_statistics(picture, len(data)),
        thumbnail(to_grey(picture.pixels)),
        _look_at_mask(sample, picture.pixels.shape[:2]),
    )


def _look_at_mask(sample: Sample, shape: tuple[int, int]) -> _MaskState | Fault:
    if not sample.masks:
        return "missing" if sample.is_defect and sample.split == "test" else "fits"
    try:
        is_marked = bool(read_mask(sample.masks, shape).any())
    except PictureError as error:
        return Fault(sample.path, str(error))
    if sample.is_defect:
        return "fits" if is_marked else "empty"
    return "for good" if is_marked else "fits"


# --- all pictures -----------------------------------------------------------------------------------------------------


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _paths_with(seen: Sequence[_Seen], state: _MaskState) -> tuple[Path, ...]:
    return tuple(each.sample.path for each in seen if each.mask == state)


def _exact_duplicates(seen: Sequence[_Seen]) -> tuple[Duplicate, ...]:
    """Each training or test picture against the first training picture with the same bytes."""
    first_with: dict[bytes, Sample] = {}
    found = []
    for each in seen:  # training comes first
        first = first_with.setdefault(each.digest, each.sample)
        if first is not each.sample and first.split == "train":
            found.append(Duplicate(first.path, each.sample.path, each.sample.split == "test", 1.0))
    return tuple(found)


def _near_duplicates(seen: Sequence[_Seen], exact: Sequence[Duplicate]) -> tuple[Duplicate, ...]:
    copies = {pair.second for pair in exact}
    single = [each for each in seen if each.sample.path not in copies]
    found = []
    for i, j, correlation in find_near_duplicates([each.thumbnail for each in single]):
        first, second = single[i].sample, single[j].sample
        if first.split == "train":
            found.append(Duplicate(first.path, second.path, second.split == "test", correlation))
    return tuple(sorted(found, key=lambda pair: -pair.correlation))


def _separations(seen: Sequence[_Seen], first: str, second: str) -> tuple[Separation, ...]:
    """Compare two groups in every statistic; empty if one of them has no pictures."""
    a = [each.statistics for each in seen if each.group == first]
    b = [each.statistics for each in seen if each.group == second]
    if not a or not b:
        return ()
    return tuple(
        _separation(name, first, second, [each[name] for each in a], [each[name] for each in b])
        for name in STATISTICS
    )


def _separation(name: str, first: str, second: str, a: list[float], b: list[float]) -> Separation:
    higher = cast("float", auroc(a + b, [0] * len(a) + [1] * len(b)))  # neither group is empty
    return Separation(
        statistic=name,
        first=first,
        second=second,
        first_mean=float(np.mean(a)),
        second_mean=float(np.mean(b)),
        auroc=max(higher, 1 - higher),
        is_second_higher=higher > 0.5,
        is_significant=is_beyond_chance(higher, len(a), len(b)),
    )
