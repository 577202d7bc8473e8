"""One picture of the sample and its exact defect mask, from (category, kind, seed).

The same part is rendered with and without its flaw before the sensor adds noise; the mask is where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.sample import board, cap, capsule, casting, fabric, hazelnut, rail, screw
from anomaly_spotter.inputs.sample.camera import Camera
from anomaly_spotter.inputs.sample.surface import Map, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Category:
    """How one category is drawn, and which of its flaws can be seen and have a realistic size."""

    kinds: tuple[str, ...]
    scene: Callable[[str, int, int, int], Map]
    exposure: float
    area: tuple[float, float] = (0.001, 0.04)  # least and greatest, of the picture
    strong: float = 12.0  # grey levels: a flaw must reach this somewhere, or nobody could see it


GOOD = "good"
_TABLE: Mapping[str, _Category] = MappingProxyType(
    {
        "board": _Category(board.KINDS, board.scene, board.EXPOSURE, area=(2e-5, 0.002)),
        "cap": _Category(cap.KINDS, cap.scene, cap.EXPOSURE, area=(0.0008, 0.045)),
        "capsule": _Category(capsule.KINDS, capsule.scene, capsule.EXPOSURE),
        "casting": _Category(
            casting.KINDS, casting.scene, casting.EXPOSURE, area=(0.0006, 0.03), strong=10.0
        ),
        "fabric": _Category(fabric.KINDS, fabric.scene, fabric.EXPOSURE, area=(0.0008, 0.03)),
        "hazelnut": _Category(hazelnut.KINDS, hazelnut.scene, hazelnut.EXPOSURE),
        "rail": _Category(rail.KINDS, rail.scene, rail.EXPOSURE, area=(0.0006, 0.06)),
        "screw": _Category(screw.KINDS, screw.scene, screw.EXPOSURE),
    }
)
CATEGORIES: tuple[str, ...] = tuple(_TABLE)
DEFECT_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: category.kinds for name, category in _TABLE.items()}
)
MIN_SIZE = 64  # pixels; below it threads and letters melt away
_VISIBLE = 4.0  # grey levels: a smaller difference drowns in the sensor's noise
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
        size: scale of the picture, at least 64: the side in pixels of the square categories. A board is 3.2 times
            as high and 4.8 times as wide, a rail 0.6 and 1.8 times, a casting within 15 % of it either way.

    Returns:
        The picture, ``uint8`` RGB ``[H, W, 3]`` (casting, rail and screw: grey ``[H, W]``), and the defect's mask,
        ``bool [H, W]``, all False for "good" and never empty otherwise.

    Raises:
        DatasetError: the category or kind is unknown, the seed negative or the size too small.
    """
    _check(category, kind, seed, size)
    drawn = _TABLE[category]
    clean = drawn.scene(GOOD, seed, size, 0)
    mask = np.zeros(clean.shape[:2], dtype=np.bool_)
    if kind != GOOD:
        clean, mask = _damaged(drawn, kind, seed, size, clean)
    camera = Camera.draw(stream(seed, "camera"), drawn.exposure)
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
    category: _Category, kind: str, seed: int, size: int, good: Map
) -> tuple[Map, NDArray[np.bool_]]:
    """Return (noiseless picture, mask) of the part with a flaw that can be seen and has a realistic size."""
    least, greatest = category.area
    tried: list[tuple[float, Map, NDArray[np.bool_]]] = []
    for attempt in range(_ATTEMPTS):
        flawed = category.scene(kind, seed, size, attempt)
        difference = np.abs(flawed - good)
        if difference.ndim == 3:
            difference = difference.max(axis=2)
        mask = _solid(difference > _VISIBLE)
        area = float(mask.mean())
        if least <= area <= greatest and difference.max() >= category.strong:
            return flawed, mask
        # A flaw may fall where it hardly shows, say into the dark flank. Keep the nearest miss, draw another.
        tried.append((abs(float(np.log(max(area, 1e-9) / least))), flawed, mask))
    _, flawed, mask = min(tried, key=lambda attempt: attempt[0])
    return flawed, mask


def _solid(differs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps of a pixel or two and fill what is enclosed; nothing that differs is left out."""
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, reach)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(closed, contours, -1, 1, cv2.FILLED) > 0)
