"""How a picture was taken: its light, its sharpness and where its part lies, in a few numbers.

They decide nothing. Compared with those of the good pictures behind a detector, they tell whether a lamp, a lens or a
fixture has changed (see :mod:`anomaly_spotter.scoring.drift`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np

from anomaly_spotter.inputs.preprocess import to_grey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.preprocess import Placement, Preprocessor
    from anomaly_spotter.inputs.store import Canvases

MOST_ROWS = 1_000
"""Good pictures whose conditions a detector keeps, at most: 32 kB."""

_LINES = 512  # of a picture that are looked at, each with the one below it


@dataclass(frozen=True, slots=True)
class Condition:
    """What is measured of a picture; the pose only where parts are aligned and one was found.

    Attributes:
        brightness: Mean grey level, 0..255.
        contrast: Standard deviation of the grey levels.
        sharpness: Root mean square difference between neighbouring pixels in units of the contrast; a blurred picture
            has less, a noisy one more, a darker or paler one the same.
        angle: Direction of the aligned frame in the picture, degrees in [-180, 180), clockwise on screen.
        x: Where the frame's centre lies, pixels to the right of the picture's centre.
        y: The same, pixels below it.
        fit: How well the part's edges match the mean good part, -1..1.
    """

    brightness: float
    contrast: float
    sharpness: float
    angle: float | None = None
    x: float | None = None
    y: float | None = None
    fit: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """As JSON-able values."""
        return {name: getattr(self, name) for name in NAMES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; names that are missing are unknown."""
        return cls.from_row([values.get(name) for name in NAMES])

    def row(self) -> NDArray[np.float64]:
        """The values in the order of :data:`NAMES`, NaN where there is none: ``float64 [7]``."""
        return np.array([math.nan if value is None else value for value in self.to_dict().values()])

    @classmethod
    def from_row(cls, row: Any) -> Self:
        """Inverse of :meth:`row`."""
        known = (None if value is None or math.isnan(value) else float(value) for value in row)
        return cls(**dict(zip(NAMES, known, strict=True)))  # type: ignore[arg-type]


NAMES: tuple[str, ...] = tuple(field.name for field in fields(Condition))
"""What is measured, in the order of a row."""


def condition(pixels: NDArray[np.uint8], place: Placement, preprocessor: Preprocessor) -> Condition:
    """Measure a picture ``[H, W]`` or RGB ``[H, W, 3]`` that was placed by ``preprocessor``.

    Of a large picture some hundred lines are looked at, so that it takes well below a millisecond.
    """
    step = max(1, (pixels.shape[0] - 1) // _LINES)
    lines = to_grey(np.ascontiguousarray(pixels[::step]))
    # OpenCV converts no empty array: a picture of one line has none below it.
    below = to_grey(np.ascontiguousarray(pixels[1::step])) if len(pixels) > 1 else lines[:0]
    mean, deviation = (float(value.item()) for value in cv2.meanStdDev(lines))
    squares = pairs = 0.0
    for one, other in ((lines[: len(below)], below), (lines[:, :-1], lines[:, 1:])):
        if one.size:
            squares += cv2.norm(one, other, cv2.NORM_L2SQR)
            pairs += one.size
    sharpness = math.sqrt(squares / max(pairs, 1)) / max(deviation, 1.0)
    if preprocessor.aligner is None or place.reason is not None:
        return Condition(mean, deviation, sharpness)
    return Condition(mean, deviation, sharpness, **_pose(pixels.shape, place, preprocessor))


def conditions_of(canvases: Canvases) -> NDArray[np.float32]:
    """The conditions of good pictures: ``float32 [N, 7]``, of at most :data:`MOST_ROWS` of them, evenly chosen."""
    rows = [
        condition(canvases.pixels(index), canvases.place(index), canvases.preprocessor).row()
        for index in evenly(len(canvases), MOST_ROWS)
    ]
    return np.asarray(rows, np.float32).reshape(-1, len(NAMES))


def evenly(count: int, most: int) -> list[int]:
    """``most`` of the numbers below ``count``, evenly spread; all of them where they are fewer."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist() if count else []


def _pose(shape: tuple[int, ...], place: Placement, preprocessor: Preprocessor) -> dict[str, float | None]:
    centre = np.array([(preprocessor.width - 1) / 2, (preprocessor.height - 1) / 2, 1.0])
    x, y = place.matrix @ centre
    return {
        "angle": math.degrees(math.atan2(place.matrix[1, 0], place.matrix[0, 0])),
        "x": float(x) - (shape[1] - 1) / 2,
        "y": float(y) - (shape[0] - 1) / 2,
        "fit": place.quality,
    }
