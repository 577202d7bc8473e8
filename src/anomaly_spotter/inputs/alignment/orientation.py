"""Whether a part's turn can be told at all, and how far it varies: two templates' turns in, an orientation out.

Two templates are learned from two halves of the good pictures, and every picture is registered to both. Where the
turn can be told, the two answers differ by the same angle for all pictures; where the part has n equal orientations,
by that angle up to multiples of 1 / n turn; where it has none, by anything. Parts in a fixed pose are turned only if the
two templates agree on the turn better than the turns vary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.inputs.alignment.motion import wrapped
from anomaly_spotter.inputs.alignment.registration import Orientation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AGREEMENT = 0.85  # length of the mean direction of the differences: 1 all alike, 0 random
_FIXED = math.radians(25)  # parts turned by less lie in a fixed pose
_SLIGHT = math.radians(1.5)  # turns that small do not show whether they can be told
_SLACK = math.radians(5)
_FOLDS_ALONG_AXIS = (1, 2)
_FOLDS = (1, 2, 3, 4, 5, 6, 8)


def judge(
    first: NDArray[np.float64], second: NDArray[np.float64], *, follows_axis: bool
) -> tuple[Orientation, int]:
    """How parts lie, and their number of equal orientations (0: the turn cannot be told).

    Args:
        first: Turn of each picture's part against the first template, radians ``[N]``.
        second: The same against the second template.
        follows_axis: Whether the part is elongated.
    """
    unturned = Orientation(follows_axis, 0.0, math.pi / 2 if follows_axis else 0.0)
    fold = _fold(first - second, _FOLDS_ALONG_AXIS if follows_axis else _FOLDS)
    if not fold:
        return unturned, 0
    period = math.tau / fold
    base = _middle(first, fold)
    away = wrapped(first - base, period)
    widest = float(np.quantile(np.abs(away), 0.98))
    if widest > min(_FIXED, period / 4):
        return Orientation(follows_axis, base if fold > 1 else 0.0, period / 2), fold
    if follows_axis:
        return Orientation(follows_axis, base, 1.5 * widest + _SLACK), fold
    disagreement = wrapped(first - second - _middle(first - second, fold), period)
    if _deviation(away) > _SLIGHT and _deviation(disagreement) > 0.5 * _deviation(away):
        return unturned, 0
    return Orientation(follows_axis, 0.0, 2.0 * widest + _SLACK), fold  # a fixed pose is kept as it is


def _middle(angles: NDArray[np.float64], fold: int) -> float:
    return float(np.angle(np.exp(1j * fold * angles).mean())) / fold


def _deviation(angles: NDArray[np.float64]) -> float:
    return 1.4826 * float(np.median(np.abs(angles)))


def _fold(difference: NDArray[np.float64], folds: tuple[int, ...]) -> int:
    for fold in folds:
        if abs(np.exp(1j * fold * difference).mean()) >= _AGREEMENT:
            return fold
    return 0
