"""One picture of the sample and its exact defect mask, from (category, kind, seed).

The same part is rendered with and without its flaw before the sensor adds noise; the mask is where the two differ.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.sample import capsule, hazelnut, screw
from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.surface import Map, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

GOOD = "good"
CATEGORIES: tuple[str, ...] = ("capsule", "hazelnut", "screw")
DEFECT_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"capsule": capsule.KINDS, "hazelnut": hazelnut.KINDS, "screw": screw.KINDS}
)
MIN_SIZE = 64  # pixels; below it threads and letters melt away

_SCENES: Mapping[str, Callable[[str, int, int, int], Map]] = {
    "capsule": capsule.scene,
    "hazelnut": hazelnut.scene,
    "screw": screw.scene,
}
_EXPOSURES: Mapping[str, float] = {
    "capsule": capsule.EXPOSURE,
    "hazelnut": hazelnut.EXPOSURE,
    "screw": screw.EXPOSURE,
}
_VISIBLE = 4.0  # grey levels: a smaller difference drowns in the sensor's noise
_STRONG = 12.0  # grey levels: a flaw must reach this somewhere, or nobody could see it
_LEAST_AREA, _GREATEST_AREA = 0.001, 0.04  # of the picture
_ATTEMPTS = 12  # flaws tried on a part before the best so far is taken


def render(
    category: str, kind: str, seed: int, size: int = 320
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one picture.

    The part, its pose, its light and the noise depend on ``(category, seed, size)`` alone, so ``kind="good"`` with the
    same seed is the same part before it was damaged.

    Args:
        category: one of `CATEGORIES`.
        kind: "good" or one of ``DEFECT_KINDS[category]``.
        seed: any integer >= 0.
        size: side of the square picture in pixels, at least 64.

    Returns:
        The picture, ``uint8`` RGB ``[size, size, 3]`` (screw: grey ``[size, size]``), and the defect's mask,
        ``bool [size, size]``, all False for "good" and never empty otherwise.

    Raises:
        DatasetError: the category or kind is unknown, the seed negative or the size too small.
    """
    _check(category, kind, seed, size)
    scene = _SCENES[category]
    clean = scene(GOOD, seed, size, 0)
    mask = np.zeros((size, size), dtype=np.bool_)
    if kind != GOOD:
        clean, mask = _damaged(scene, kind, seed, clean)
    camera = Camera.draw(stream(seed, "camera"), _EXPOSURES[category])
    return camera.sense(clean, stream(seed, "sensor")), mask


def _check(category: str, kind: str, seed: int, size: int) -> None:
    if category not in CATEGORIES:
        raise DatasetError(
            f"the sample has the categories {', '.join(CATEGORIES)}, not {category!r}: choose one of them"
        )
    if kind != GOOD and kind not in DEFECT_KINDS[category]:
        kinds = ", ".join((GOOD, *DEFECT_KINDS[category]))
        raise DatasetError(f"the sample's {category} has the kinds {kinds}, not {kind!r}: choose one of them")
    if seed < 0:
        raise DatasetError(f"the sample's seed must be at least 0, found {seed}: choose another")
    if size < MIN_SIZE:
        raise DatasetError(
            f"the sample's pictures must be at least {MIN_SIZE} pixels wide, found {size}: ask for more"
        )


def _damaged(
    scene: Callable[[str, int, int, int], Map], kind: str, seed: int, good: Map
) -> tuple[Map, NDArray[np.bool_]]:
    """Return (noiseless picture, mask) of the part with a flaw that can be seen and has a realistic size."""
    size = good.shape[0]
    tried: list[tuple[float, Map, NDArray[np.bool_]]] = []
    for attempt in range(_ATTEMPTS):
        flawed = scene(kind, seed, size, attempt)
        difference = np.abs(flawed - good)
        if difference.ndim == 3:
            difference = difference.max(axis=2)
        mask = _solid(difference > _VISIBLE)
        area = float(mask.mean())
        if _LEAST_AREA <= area <= _GREATEST_AREA and difference.max() >= _STRONG:
            return flawed, mask
        # A flaw may fall where it hardly shows, say into the dark flank. Keep the nearest miss, draw another.
        tried.append((abs(float(np.log(max(area, 1e-9) / _LEAST_AREA))), flawed, mask))
    _, flawed, mask = min(tried, key=lambda attempt: attempt[0])
    return flawed, mask


def _solid(differs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps of a pixel or two and fill what is enclosed; nothing that differs is left out."""
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, reach)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(closed, contours, -1, 1, cv2.FILLED) > 0)
