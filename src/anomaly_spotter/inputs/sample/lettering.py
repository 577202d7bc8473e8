"""Own stroke letters for imprints and stamps, so that pictures do not depend on a font or on OpenCV's version."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from anomaly_spotter.inputs.sample.surface import Map

Points = tuple[tuple[float, float], ...]

_WIDTH = 0.62  # of a letter, where its height is 1
_ADVANCE = 0.86  # from one letter to the next
_EDGE = 0.3  # empty border around a text
_SCALE = 96  # pixels per letter height while drawing


def _arc(x: float, y: float, half_x: float, half_y: float, start: float, end: float) -> Points:
    """Return an elliptic arc as points; angles in degrees, clockwise from the right (y points down)."""
    angles = np.radians(np.linspace(start, end, 33))
    return tuple((x + half_x * math.cos(angle), y + half_y * math.sin(angle)) for angle in angles)


# Each letter is a few pen strokes in a box of width _WIDTH and height 1, y down.
_STROKES: dict[str, tuple[Points, ...]] = {
    "0": (_arc(0.31, 0.5, 0.31, 0.5, 0, 360),),
    "1": (((0.10, 0.22), (0.36, 0.0), (0.36, 1.0)),),
    "2": ((*_arc(0.31, 0.29, 0.29, 0.29, 195, 390), (0.02, 1.0), (0.62, 1.0)),),
    "3": (_arc(0.29, 0.26, 0.27, 0.26, 205, 450), _arc(0.29, 0.74, 0.31, 0.26, -90, 155)),
    "4": (((0.48, 1.0), (0.48, 0.0), (0.0, 0.70), (0.62, 0.70)),),
    "5": (((0.56, 0.0), (0.10, 0.0), (0.06, 0.44)), ((0.06, 0.44), *_arc(0.29, 0.68, 0.32, 0.32, -135, 145))),
    "7": (((0.0, 0.0), (0.62, 0.0), (0.22, 1.0)),),
    "8": (_arc(0.31, 0.25, 0.26, 0.25, 0, 360), _arc(0.31, 0.75, 0.31, 0.25, 0, 360)),
    "A": (((0.0, 1.0), (0.31, 0.0), (0.62, 1.0)), ((0.12, 0.65), (0.50, 0.65))),
    "C": (_arc(0.35, 0.5, 0.34, 0.5, 45, 315),),
    "E": (((0.60, 0.0), (0.04, 0.0), (0.04, 1.0), (0.60, 1.0)), ((0.04, 0.48), (0.5, 0.48))),
    "H": (((0.02, 0.0), (0.02, 1.0)), ((0.60, 0.0), (0.60, 1.0)), ((0.02, 0.5), (0.60, 0.5))),
    "K": (((0.04, 0.0), (0.04, 1.0)), ((0.60, 0.0), (0.04, 0.60)), ((0.22, 0.42), (0.62, 1.0))),
    "L": (((0.06, 0.0), (0.06, 1.0), (0.58, 1.0)),),
    "M": (((0.0, 1.0), (0.04, 0.0), (0.31, 0.62), (0.58, 0.0), (0.62, 1.0)),),
    "N": (((0.03, 1.0), (0.03, 0.0), (0.59, 1.0), (0.59, 0.0)),),
    "P": (((0.05, 1.0), (0.05, 0.0), *_arc(0.33, 0.27, 0.27, 0.27, -90, 90), (0.05, 0.54)),),
    "T": (((0.0, 0.0), (0.62, 0.0)), ((0.31, 0.0), (0.31, 1.0))),
}
LETTERS = "".join(_STROKES)


def lettering(text: str, weight: float) -> tuple[Map, int]:
    """Return a text drawn with a round pen.

    Args:
        text: characters of `LETTERS`.
        weight: pen width, fraction of the letters' height.

    Returns:
        How much of each pixel is ink, ``float32 [H, W]`` in [0, 1] with the text in the middle, and the height of a
        letter in pixels.
    """
    width = (len(text) - 1) * _ADVANCE + _WIDTH + 2 * _EDGE
    canvas = np.zeros((round((1 + 2 * _EDGE) * _SCALE), round(width * _SCALE)), np.uint8)
    for index, letter in enumerate(text):
        for points in _STROKES[letter]:
            pen = (np.array(points) + np.array([index * _ADVANCE + _EDGE, _EDGE])) * _SCALE
            cv2.polylines(
                canvas, [np.round(pen).astype(np.int32)], False, 255, round(weight * _SCALE), cv2.LINE_AA
            )
    return canvas.astype(np.float32) / np.float32(255), _SCALE
