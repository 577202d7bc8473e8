"""Whether recent values come from where the reference values came from: tests that hold for small samples and ties.

All of them use ranks only. As long as all values are exchangeable, a chance below ``a`` comes up with probability
``a`` at most; ties make it smaller. Up to ``odd`` of the recent values may be anything at all, for example the scores
of defects: the tests take the values that speak most for a change out of the count, which keeps that bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def chance_of_higher(reference: NDArray[np.floating], recent: NDArray[np.floating], odd: int = 0) -> float:
    """Chance that the recent values rank as high among all as they do, or higher, if nothing has changed.

    The rank sum test (Wilcoxon 1945, Mann & Whitney 1947), one-sided. The ``odd`` highest recent values count as if
    they were the lowest, so whatever the odd ones are, the rank sum is at most that of good parts in their places. Ties
    count against a change. The normal limit is used, whose tail is the heavier one, and never less than the chance of
    the most extreme order.

    Args:
        reference: ``[N]``, at least one; may hold infinities.
        recent: ``[M]``, at least one.
        odd: How many of the recent values may be anything.
    """
    below = np.searchsorted(np.sort(reference), recent, side="left")
    wins = int(np.sort(below)[: len(recent) - odd].sum()) if odd < len(recent) else 0
    n, m = len(reference), len(recent)
    away = (wins - 0.5 - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    most_extreme = math.exp(-_log_ways(n, m))
    return min(1.0, max(math.erfc(away / math.sqrt(2)) / 2, most_extreme))


def chance_of_lower(reference: NDArray[np.floating], recent: NDArray[np.floating], odd: int = 0) -> float:
    """As :func:`chance_of_higher`, for recent values that rank low."""
    return chance_of_higher(-np.asarray(reference), -np.asarray(recent), odd)


def chance_of_other(reference: NDArray[np.floating], recent: NDArray[np.floating], odd: int = 0) -> float:
    """Chance that the two distributions lie as far apart as they do, or farther, if nothing has changed.

    The test of Kolmogorov (1933) and Smirnov (1939), two-sided, with the exact distribution of the largest distance
    between the two cumulative shares. It sees a shift as well as a spread. Each odd value can move the distance by
    ``1 / M``, which is taken off.

    Args:
        reference: ``[N]``, at least one.
        recent: ``[M]``, at least one.
        odd: How many of the recent values may be anything.
    """
    n, m = len(reference), len(recent)
    values = np.concatenate([reference, recent])
    shares = [np.searchsorted(np.sort(own), values, side="right") for own in (reference, recent)]
    # Whole numbers, so that equal distances compare equal.
    distance = int(np.abs(shares[0] * m - shares[1] * n).max()) - odd * n
    return _chance_of_distance(n, m, distance)


def chance_of_rejects(count: int, rank: int, recent: int, rejects: int) -> float:
    """Chance that at least ``rejects`` of ``recent`` values exceed the ``rank``-th smallest of ``count`` others.

    Exact if all are exchangeable and without ties (with ties it is less): this happens exactly when at most
    ``count - rank`` of the highest ``rejects + count - rank`` values are among the ``count``.
    """
    if rejects <= 0:
        return 1.0
    above = count - rank
    drawn = rejects + above
    ways = sum(
        math.comb(count, i) * math.comb(recent, drawn - i) for i in range(max(0, drawn - recent), above + 1)
    )
    return float(ways / math.comb(count + recent, drawn)) if ways else 0.0


def adjusted(chances: Sequence[float]) -> list[float]:
    """Chances that allow for all of them having been looked at (Holm 1979), in the order given.

    If none of the changes took place, one of these is below ``a`` with probability ``a`` at most.
    """
    found = [1.0] * len(chances)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - step) * chances[index]))
        found[index] = largest
    return found


def _chance_of_distance(n: int, m: int, distance: int) -> float:
    """Chance that the cumulative shares, in units of ``1 / (n * m)``, are ever ``distance`` or more apart.

    Counts the orders of ``n`` and ``m`` values whose shares stay closer, as paths on a grid, row by row.
    """
    if distance <= 0:
        return 1.0
    if n > m:
        n, m = m, n
    columns = np.arange(m + 1) * n
    paths = (columns < distance).astype(np.float64)
    log_scale = 0.0
    for row in range(1, n + 1):
        paths = np.where(np.abs(columns - row * m) < distance, paths, 0.0).cumsum()
        paths[np.abs(columns - row * m) >= distance] = 0.0
        largest = paths.max()
        if largest == 0.0:
            return 1.0
        paths /= largest
        log_scale += math.log(largest)
    if paths[-1] == 0.0:
        return 1.0
    closer = math.exp(min(0.0, math.log(paths[-1]) + log_scale - _log_ways(n, m)))
    # Closer than rounding allows to tell, the chance is given as that of the rounding.
    return min(1.0, max(1.0 - closer, 1e-9))


def _log_ways(n: int, m: int) -> float:
    """Logarithm of the number of orders of two kinds of values."""
    return math.lgamma(n + m + 1) - math.lgamma(n + 1) - math.lgamma(m + 1)
