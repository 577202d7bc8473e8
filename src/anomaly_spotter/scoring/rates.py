"""Other false reject rates than the one in force: what limit each would give, and what it would find. Moves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomaly_spotter.scoring import conformal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomaly_spotter.scoring.calibration import Calibration

RATES = (0.1, 0.05, 0.02, 0.01, 0.005)
"""False reject rates that a table shows, besides the one in force."""


@dataclass(frozen=True, slots=True)
class RateRow:
    """One false reject rate.

    Attributes:
        promise: What the calibration scores promise when this rate is asked for.
        limit: The decision limit, on the scale where the one in force is 1.
        found: Known defects above it.
        count: Known defects.
        is_current: Whether this is the rate in force.
    """

    promise: conformal.Promise
    limit: float
    found: int
    count: int
    is_current: bool

    @property
    def recall(self) -> float:
        """Share of the known defects that is found."""
        return self.found / self.count


def rate_table(
    calibration: Calibration, defect_scores: Sequence[float], rates: Sequence[float] = RATES
) -> tuple[RateRow, ...]:
    """One row per rate and for the one in force, highest first.

    Args:
        calibration: Gives the limits, from good pictures alone, with the confidence that is in force.
        defect_scores: Scores of known defects on its scale, at least one.
        rates: False reject rates in (0, 1).
    """
    current = calibration.promise
    rows = []
    for rate in sorted({*rates, current.asked_rate}, reverse=True):
        promise = calibration.promise_at(rate, current.confidence)
        limit = conformal.limit(calibration.scores, promise)
        found = sum(score > limit for score in defect_scores)
        rows.append(RateRow(promise, limit, found, len(defect_scores), rate == current.asked_rate))
    return tuple(rows)
