"""The part against its background: picture in, outline of the biggest thing that is not background out.

The background is a second-order surface per channel, fitted robustly from the picture's border inwards, so shading,
grey level and gain may change from picture to picture; what differs from it by more than a threshold (Otsu's, held
near the one of the good pictures) is foreground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.alignment.motion import resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK_FACTOR = 0.5
"""The foreground is found at this share of the working resolution."""
_GRID = 52  # the background is fitted on at most so many cells of the long side
_RING = 0.08  # the border's share of a side
_CLOSING = 5  # pixels of the mask: bridges highlights and thin gaps
_NOISE_LIMIT = 5.0  # foreground differs by more than so many deviations of the background
_THRESHOLD_RANGE = (0.6, 1.6)  # how far a picture's own threshold may be from that of the good pictures
_EDGE_GAIN = 18.0  # square root of grey levels a pixel -> 8 bits


@dataclass(frozen=True, slots=True)
class Observation:
    """What is kept of a picture.

    Attributes:
        edges: Compressed gradient magnitude at the working scale, ``uint8 [h, w]``.
        contrast: Difference from the background at half that scale, ``uint8 [h / 2, w / 2]``.
        noise: Deviation of the background from its own surface, in grey levels.
    """

    edges: NDArray[np.uint8]
    contrast: NDArray[np.uint8]
    noise: float


@dataclass(frozen=True, slots=True)
class Level:
    """How much a place must differ from the background to count as foreground, learned from good pictures.

    Attributes:
        usual: Median of Otsu's thresholds, in grey levels.
        strictness: What Otsu's threshold is multiplied with: high against shadows, low for shaded parts.
    """

    usual: float
    strictness: float


@dataclass(frozen=True, slots=True)
class Blob:
    """The biggest foreground thing; lengths in pixels of the working scale.

    Attributes:
        area: Filled area.
        x: Centre of area.
        y: Centre of area.
        angle: Direction of the long axis, radians in (-pi / 2, pi / 2].
        elongation: Deviation along the long axis divided by that across.
        contact: Length of its outline on the picture's border.
        rival: Area of the second biggest thing.
        outline: Points ``float64 [N, 2]``.
    """

    area: float
    x: float
    y: float
    angle: float
    elongation: float
    contact: float
    rival: float
    outline: NDArray[np.float64]


def observe(pixels: NDArray[np.uint8], scale: float) -> Observation:
    """Reduce a picture ``[H, W]`` or RGB ``[H, W, 3]`` to what alignment needs of it."""
    reduced = resize(pixels, scale)
    contrast, noise = _contrast(resize(reduced, MASK_FACTOR))
    return Observation(_edges(reduced), contrast, noise)


def threshold_of(observation: Observation) -> float:
    """Otsu's threshold between background and part, in grey levels of contrast."""
    level, _ = cv2.threshold(observation.contrast, 0, 255, cv2.THRESH_OTSU)
    return max(float(level), _NOISE_LIMIT * observation.noise, 1.0)


def find_blob(observation: Observation, level: Level) -> Blob | None:
    """The biggest foreground thing, or None in an empty picture."""
    low, high = (share * level.usual for share in _THRESHOLD_RANGE)
    threshold = min(max(threshold_of(observation), low), high) * level.strictness
    threshold = max(threshold, _NOISE_LIMIT * observation.noise)
    mask = np.asarray(observation.contrast > threshold, np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_CLOSING, _CLOSING))
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel), np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    by_area = sorted(outlines, key=cv2.contourArea, reverse=True)
    rival = cv2.contourArea(by_area[1]) if len(by_area) > 1 else 0.0
    return _blob(np.asarray(by_area[0]), rival, mask.shape)


def _blob(outline: NDArray[np.int32], rival: float, shape: tuple[int, ...]) -> Blob | None:
    moments = cv2.moments(outline)
    if moments["m00"] <= 0:
        return None
    spread = math.hypot(2 * moments["mu11"], moments["mu20"] - moments["mu02"])
    total = moments["mu20"] + moments["mu02"]
    points = outline.reshape(-1, 2)
    at_border = (points == 0) | (points == (shape[1] - 1, shape[0] - 1))
    enlarged = np.asarray((points + 0.5) / MASK_FACTOR - 0.5, np.float64)
    return Blob(
        area=moments["m00"] / MASK_FACTOR**2,
        x=(moments["m10"] / moments["m00"] + 0.5) / MASK_FACTOR - 0.5,
        y=(moments["m01"] / moments["m00"] + 0.5) / MASK_FACTOR - 0.5,
        angle=0.5 * math.atan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]),
        elongation=math.sqrt((total + spread) / max(total - spread, 1e-9)),
        contact=float(np.count_nonzero(at_border.any(axis=1))) / MASK_FACTOR,
        rival=rival / MASK_FACTOR**2,
        outline=enlarged,
    )


def _edges(reduced: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Root mean square of the gradient over the channels: a part may differ from its ground in colour alone."""
    channels = 1 if reduced.ndim == 2 else reduced.shape[2]
    squared = np.zeros(reduced.shape[:2], np.float32)
    across, down = np.empty_like(squared), np.empty_like(squared)
    for channel in range(
        channels
    ):  # one at a time, in place: touching fresh memory costs more than the arithmetic
        smooth = cv2.GaussianBlur(cv2.extractChannel(reduced, channel), (3, 3), 0)
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, across, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, down, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
        cv2.accumulateSquare(across, squared)
        cv2.accumulateSquare(down, squared)
    squared /= np.float32(channels)
    compressed = cv2.sqrt(cv2.sqrt(squared, squared), squared)  # so that no single highlight rules the match
    return np.asarray(cv2.convertScaleAbs(compressed, alpha=_EDGE_GAIN), np.uint8)


def _contrast(reduced: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Root mean square over the channels of the difference from the background, and the background's noise."""
    height, width = reduced.shape[:2]
    smooth = cv2.GaussianBlur(reduced, (3, 3), 0).reshape(height, width, -1)
    coarse = resize(smooth, 1 / math.ceil(max(width, height) / _GRID))
    surface, noise = _background(coarse.reshape(*coarse.shape[:2], -1).astype(np.float32))
    background = cv2.resize(surface, (width, height), interpolation=cv2.INTER_LINEAR).reshape(smooth.shape)
    difference = smooth.astype(np.float32) - background
    distance = np.sqrt(np.einsum("hwc,hwc->hw", difference, difference) / np.float32(smooth.shape[2]))
    return np.asarray(cv2.convertScaleAbs(distance), np.uint8), noise


def _background(coarse: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Fit the surface to the border first, then to every cell that agrees: ``[h, w, C]`` and its noise."""
    height, width, channels = coarse.shape
    basis, is_ring = _basis(height, width)
    cells = coarse.reshape(-1, channels)
    start = np.median(cells[is_ring], axis=0)
    away = np.abs(cells - start).max(axis=1)
    trusted = is_ring & (away <= np.quantile(away[is_ring], 0.6))
    surface = np.broadcast_to(start, cells.shape)
    for terms, eligible in ((3, is_ring), (6, is_ring), (6, None), (6, None)):
        chosen = basis[trusted, :terms]
        weights = np.linalg.solve(
            chosen.T @ chosen + 1e-3 * np.eye(terms, dtype=np.float32), chosen.T @ cells[trusted]
        )
        surface = basis[:, :terms] @ weights
        away = np.abs(cells - surface).max(axis=1)
        noise = max(1.4826 * float(np.median(away[trusted])), 0.5)
        trusted = away <= 3.0 * noise
        if eligible is not None:
            trusted &= eligible
        if np.count_nonzero(trusted) < 24:
            break
    return np.ascontiguousarray(surface.reshape(coarse.shape), np.float32), noise


@lru_cache(maxsize=8)
def _basis(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Polynomials on the grid ``float32 [h * w, 6]``, and which cells are the border's ``bool [h * w]``."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    is_ring = np.maximum(np.abs(x), np.abs(y)) > 1 - 2 * _RING
    return basis.astype(np.float32), is_ring.reshape(-1)
