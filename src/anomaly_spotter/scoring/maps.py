"""Anomaly map arithmetic on single maps ``float32 [H, W]``: smoothing, display normalisation, image score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly_spotter.config import ScoringConfig


def smooth(anomaly_map: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian smoothing, kernel cut at 4 sigma, mirrored borders (as ``scipy.ndimage.gaussian_filter``).

    Args:
        anomaly_map: ``float32 [H, W]``.
        sigma: Standard deviation in pixels of the map; 0 returns the map unchanged.
    """
    if sigma <= 0:
        return anomaly_map
    side = 2 * math.ceil(4 * sigma) + 1
    smoothed = cv2.GaussianBlur(anomaly_map, (side, side), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smoothed, dtype=np.float32)


def min_max(anomaly_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map stretched to [0, 1] by its own extremes; a constant map becomes 0. For display and Otsu only.

    Never rank pictures by it: every picture, good or not, reaches 1.
    """
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if high <= low:
        return np.zeros_like(anomaly_map)
    return ((anomaly_map - low) / (high - low)).astype(np.float32)


def image_score(anomaly_map: NDArray[np.float32], config: ScoringConfig) -> float:
    """Pool a map into one score: its maximum, or the mean of its highest ``top_fraction`` of pixels."""
    if config.pooling == "max":
        return float(anomaly_map.max())
    count = max(1, round(config.top_fraction * anomaly_map.size))
    # Negated: NumPy's partition is forty times slower where much of a map holds its least value, as beside a part.
    top = np.partition(-anomaly_map, count - 1, axis=None)[:count]
    return float(-top.mean(dtype=np.float64))
