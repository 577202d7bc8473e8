"""Rigid motions between the aligned frame and the picture, and sampling a picture through one.

Pixel centres lie at whole numbers. Angles are radians, positive from x to y (clockwise on screen).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Motion:
    """Where the frame's centre lies in the picture, and how the frame is turned there."""

    x: float
    y: float
    angle: float

    def moved(self, right: float, down: float, turn: float = 0.0) -> Self:
        """Move the frame by ``(right, down)`` along its own axes, then turn it about its centre."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return type(self)(
            self.x + cos * right - sin * down, self.y + sin * right + cos * down, self.angle + turn
        )

    def scaled(self, factor: float) -> Self:
        """The same motion in a picture resized by ``factor``."""
        return type(self)(_resized(self.x, factor), _resized(self.y, factor), self.angle)

    def matrix(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Frame pixel (x, y) of a frame ``(width, height)`` -> picture pixel (x, y): ``float64 [2, 3]``."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        centre_x, centre_y = (size[0] - 1) / 2, (size[1] - 1) / 2
        return np.array(
            [
                [cos, -sin, self.x - cos * centre_x + sin * centre_y],
                [sin, cos, self.y - sin * centre_x - cos * centre_y],
            ]
        )

    def to_frame(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Picture points ``[N, 2]`` -> points relative to the frame's centre ``[N, 2]``."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.asarray((points - (self.x, self.y)) @ np.array([[cos, -sin], [sin, cos]]), np.float64)


def sample(picture: NDArray[Any], motion: Motion, size: tuple[int, int]) -> NDArray[Any]:
    """What the frame ``(width, height)`` sees of ``picture [H, W]``; zero where it reaches over the border."""
    return np.asarray(
        cv2.warpAffine(
            picture, motion.matrix(size), size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=0
        )
    )


def resize(picture: NDArray[Any], factor: float) -> NDArray[Any]:
    """Shrink by exactly ``factor`` (both sides alike, whatever the rounding of the size)."""
    if factor >= 1.0:
        return picture
    if min(picture.shape[:2]) * factor < 1:  # a sliver: OpenCV would round its short side to nothing
        height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
        return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))


def wrapped(angle: NDArray[np.float64] | float, period: float = math.tau) -> NDArray[np.float64]:
    """Angles brought into ``[-period / 2, period / 2)``."""
    return np.asarray((np.asarray(angle) + period / 2) % period - period / 2, np.float64)


def _resized(coordinate: float, factor: float) -> float:
    return (coordinate + 0.5) * factor - 0.5
