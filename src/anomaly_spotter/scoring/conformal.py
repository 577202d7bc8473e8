"""What held-out good scores allow to promise: conformal p-values, decision limits and the words for them.

Only the order of the scores is used, no distribution is fitted, so the promise holds for any score as long as new
good parts come from the same process as the calibration pictures (exchangeability). Vovk, Gammerman & Shafer,
*Algorithmic Learning in a Random World*, 2005; the version with a stated confidence is the binomial tolerance limit
of Wilks, 1941 (Vovk, *Conditional validity of inductive conformal predictors*, 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.scoring.binomial import chances_of_at_most, rate_above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import SpotterConfig

_ROUNDING = 1e-9  # lets 0.05 * (19 + 1) count as 1


@dataclass(frozen=True, slots=True)
class Promise:
    """A decision limit as an order statistic of the calibration scores, and what it guarantees.

    Attributes:
        asked_rate: The false reject rate that was asked for.
        rate: The false reject rate that is promised; larger than ``asked_rate`` when there are too few pictures.
        confidence: ``None``: on average over calibrations; otherwise with this probability for this calibration.
        rank: The limit is the ``rank``-th smallest calibration score, 1-based.
        count: Number of calibration pictures.
        needed: Calibration pictures that ``asked_rate`` needs.
    """

    asked_rate: float
    rate: float
    confidence: float | None
    rank: int
    count: int
    needed: int

    @property
    def is_kept(self) -> bool:
        """Whether the asked rate could be promised."""
        return self.rate <= self.asked_rate + _ROUNDING

    def words(self, held_out: float) -> str:
        """The promise in one sentence that a quality manager can sign, and what is missing for the asked one.

        Args:
            held_out: Share of the good pictures that calibration may take, to count what is missing in good pictures.
        """
        trust = "on average" if self.confidence is None else f"with {_percent(self.confidence)} confidence"
        sentence = (
            f"At most {_share(self.rate)} good parts will be rejected, {trust}, "
            "as long as camera, light and part stay as they were."
        )
        if self.is_kept:
            return sentence
        if self.count >= self.needed:
            return (
                f"{sentence} The asked rate of {_percent(self.asked_rate)} cannot be promised: "
                f"too many of the {self.count} good pictures could not be judged."
            )
        return (
            f"{sentence} The asked rate of {_percent(self.asked_rate)} cannot be promised from "
            f"{self.count} calibration pictures: it needs {self.needed}, "
            f"so {math.ceil(self.needed / held_out - _ROUNDING)} good pictures in all."
        )


def promise(count: int, rate: float, confidence: float | None = None, refused: int = 0) -> Promise:
    """Choose the lowest decision limit that keeps the false reject rate, or the best there is.

    On average: with ``count`` scores and rank ``k`` a new good score exceeds the limit with probability
    ``(count + 1 - k) / (count + 1)``. With confidence: the rate of this calibration is Beta(count + 1 - k, k)
    distributed, and the rank is the smallest whose quantile at ``confidence`` stays below ``rate``. ``refused`` of the
    ``count`` good pictures could not be judged: they count as rejected whatever the limit.

    Raises:
        ValueError: ``count`` below 1, or a rate or confidence outside (0, 1).
    """
    if count < 1 or not 0 < rate < 1 or not (confidence is None or 0 < confidence < 1):
        raise ValueError(f"need count >= 1 and 0 < rate, confidence < 1; found {count}, {rate}, {confidence}")
    needed = pictures_needed(rate, confidence)
    highest = max(1, count - refused)
    if count < needed:
        return Promise(rate, promised_rate(count, highest, confidence), confidence, highest, count, needed)
    if confidence is None:
        rank = count + 1 - math.floor(rate * (count + 1) + _ROUNDING)
    else:
        # P(Binomial(count, rate) <= j) is the chance that a limit with j scores above it breaks its promise.
        broken = chances_of_at_most(count - 1, count, rate)
        rank = count - int(np.flatnonzero(broken <= 1 - confidence + _ROUNDING)[-1])
    if rank > highest:
        return Promise(rate, promised_rate(count, highest, confidence), confidence, highest, count, needed)
    return Promise(rate, min(rate, promised_rate(count, rank, confidence)), confidence, rank, count, needed)


def promised_rate(count: int, rank: int, confidence: float | None) -> float:
    """The false reject rate that a limit at ``rank`` of ``count`` scores guarantees."""
    if confidence is None:
        return (count + 1 - rank) / (count + 1)
    return rate_above(count - rank, count, confidence)


def pictures_needed(rate: float, confidence: float | None = None) -> int:
    """Smallest number of calibration pictures from which ``rate`` can be promised at all."""
    if confidence is None:
        return math.ceil(1 / rate - 1 - _ROUNDING)
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate) - _ROUNDING)


def p_value(score: float, sorted_scores: NDArray[np.float64]) -> float:
    """Conformal p-value ``(1 + #{calibration >= score}) / (count + 1)``, in (0, 1]."""
    at_least = len(sorted_scores) - int(np.searchsorted(sorted_scores, score, side="left"))
    return (1 + at_least) / (len(sorted_scores) + 1)


def limit(sorted_scores: Sequence[float] | NDArray[np.float64], kept: Promise) -> float:
    """The decision limit: a picture is DEFECT when its score is greater."""
    return float(sorted_scores[kept.rank - 1])


def held_out_share(config: SpotterConfig) -> float:
    """Largest share of the good pictures that gives calibration scores: all, where models are leave-one-out."""
    return config.calibration.max_fraction if config.model.name == "unet" else 1.0


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _share(rate: float) -> str:
    """A rate as "1 in 20" when that is not further off than 1 %, else as "7.3 % of"; never smaller than it is."""
    one_in = math.floor(1 / rate + _ROUNDING)
    if one_in >= 2 and (1 / one_in) / rate - 1 < 0.01:
        return f"1 in {one_in}"
    return f"{math.ceil(rate * 1000 - _ROUNDING) / 10:.3g} % of"
