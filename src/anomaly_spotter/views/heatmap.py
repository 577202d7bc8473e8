"""Anomaly map to colour: the "inferno" heat map on a scale fixed by calibration, so that two pictures compare.

Pixel scores come in on the scale of :class:`~anomaly_spotter.scoring.inspection.Inspection`: 0 is the typical pixel
of a good part, 1 the decision limit. They are clamped here, for the eye only, never where they are ranked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOW, HIGH = 0.0, 2.0
"""The pixel scores shown as the darkest and the brightest colour; the decision limit 1 sits halfway."""


def unit_scale(anomaly_map: NDArray[np.float32], low: float = LOW, high: float = HIGH) -> NDArray[np.float32]:
    """Map ``low..high`` to 0..1 and clamp what lies outside.

    Args:
        anomaly_map: ``float32 [H, W]`` pixel scores. NaN counts as ``low``.
        low: Score shown as 0.
        high: Score shown as 1. Where it is not above ``low`` (a constant map on its own range) all is 0.

    Returns:
        ``float32 [H, W]`` in [0, 1].
    """
    span = float(high) - float(low)
    if not (np.isfinite(span) and span > 0):
        return np.zeros(anomaly_map.shape, np.float32)
    unit = (anomaly_map.astype(np.float32, copy=False) - np.float32(low)) / np.float32(span)
    clamped: NDArray[np.float32] = np.clip(np.nan_to_num(unit, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    return clamped


def heatmap(anomaly_map: NDArray[np.float32], low: float = LOW, high: float = HIGH) -> NDArray[np.uint8]:
    """Colour an anomaly map with "inferno": black is calm, red is the decision limit, yellow is far beyond it.

    Args:
        anomaly_map: ``float32 [H, W]`` pixel scores.
        low: Score shown as the darkest colour.
        high: Score shown as the brightest colour. ``low=map.min(), high=map.max()`` gives the per-picture display
            of the ``seed`` preset, which makes every picture look as if it had a defect.

    Returns:
        ``uint8 [H, W, 3]`` RGB.
    """
    index = np.rint(unit_scale(anomaly_map, low, high) * 255).astype(np.uint8)
    return colour(index)


def colour_bar(width: int, height: int) -> NDArray[np.uint8]:
    """The colours from ``low`` (left) to ``high`` (right), to be put under a heat map.

    Args:
        width: Pixels, at least 1.
        height: Pixels, at least 1.

    Returns:
        ``uint8 [height, width, 3]`` RGB.
    """
    ramp = np.rint(np.linspace(0, 255, width)).astype(np.uint8)
    return colour(np.tile(ramp, (height, 1)))


def colour(index: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Look up ``uint8 [H, W]`` in the 256 inferno colours, giving ``uint8 [H, W, 3]`` RGB."""
    # OpenCV's table holds the same 256 colours as matplotlib's, without matplotlib's import time.
    bgr = cv2.applyColorMap(np.ascontiguousarray(index), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
