"""Binomial chances and limits in NumPy, so that a PC which only inspects can fix a decision limit without SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALVINGS = 60  # of [0, 1]: beyond the precision of a float


def chances_of_at_most(most: int, count: int, rate: float) -> NDArray[np.float64]:
    """Chances ``[most + 1]`` of at most 0, 1, ... ``most`` hits in ``count`` tries with chance ``rate`` each.

    Args:
        most: From 0 to ``count``.
        count: At least 1.
        rate: In (0, 1).
    """
    hits = np.arange(1, most + 1)
    # Each term from the one before, as logarithms: the first ones are too small for a float.
    steps = np.log((count - hits + 1) / hits) + np.log(rate) - np.log1p(-rate)
    logs = count * np.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    return np.asarray(np.minimum(np.cumsum(np.exp(logs)), 1.0), np.float64)


def rate_above(hits: int, count: int, confidence: float) -> float:
    """The rate at which more than ``hits`` hits in ``count`` tries come with the chance ``confidence``.

    With ``hits`` seen, the true rate is below this one with that confidence (Clopper & Pearson 1934).

    Args:
        hits: From 0 to ``count - 1``.
        count: At least 1.
        confidence: In (0, 1).
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if chances_of_at_most(hits, count, middle)[-1] > 1 - confidence:
            low = middle
        else:
            high = middle
    return high
