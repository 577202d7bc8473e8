"""A sequential test for slow drift that may be looked at after every part: the conformal test martingale.

Each new score gets a randomised conformal p-value among the calibration scores and all scores before it. As long as
all are exchangeable, these are independent and uniform, and a gambler who bets against that has a capital that ever
reaches ``1 / a`` with probability ``a`` at most (Ville 1939). The bets are those of the simple jumper (Vovk, Petej,
Nouretdinov, Ahlberg, Carlsson & Gammerman, *Retrain or not retrain*, 2021).

Defects must not make the gambler rich. He pays for it at every step: as if a share ``odd`` of the parts were defects
with the p-value that suits his bet best. The bound then holds as long as, whatever came before, the next part is a
defect with at most that probability, and defects score no lower than good parts.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

LONGEST_RUN = 5_000
"""Parts after which the gambler starts anew at the calibration scores, with half the chance of a false alarm left to
him: this bounds the memory, and a false alarm in any run is still as improbable as stated."""

_BETS = (-1.0, 0.0, 1.0)  # on low p-values (scores rise), on nothing, on high p-values (scores fall)
_JUMP = 0.001  # share of the capital that changes its bet at each step


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a martingale has to say.

    Attributes:
        count: Parts so far.
        capital: Decimal logarithm of the capital now; how many times 10 the evidence against no change is.
        highest: The highest it has been.
        limit: Where the alarm is.
        alarm: Number of the part at which it went off, 1-based; ``None`` when it has not.
        began: Number of the part after which the evidence began to grow towards the alarm, or towards where it is now.
        direction: 1 when scores have risen, -1 when they have fallen, 0 when there is no alarm.
    """

    count: int
    capital: float
    highest: float
    limit: float
    alarm: int | None
    began: int
    direction: int


class Martingale:
    """The gambler; fed with one score at a time.

    Args:
        reference: The calibration scores; infinite ones stand for good parts that could not be judged.
        false_alarm_rate: Probability that he ever gives an alarm although nothing has changed, in (0, 1).
        odd: Share of the parts that may be defects, in [0, 0.5].
        seed: Of the randomised p-values; the same parts in the same order give the same evidence.
    """

    def __init__(
        self,
        reference: Sequence[float] | NDArray[np.floating],
        *,
        false_alarm_rate: float = 0.01,
        odd: float = 0.05,
        seed: int = 0,
    ) -> None:
        self._reference = sorted(float(score) for score in reference)
        self._rate, self._odd, self._seed = false_alarm_rate, odd, seed
        self._scores: list[float] = []  # of this run, in the order they came
        self._before = 0  # parts of earlier runs
        self._runs = 0
        self._highest = 0.0
        self._alarm: tuple[int, int, int] | None = None  # at, began, direction
        self._start()

    @property
    def count(self) -> int:
        """Parts so far."""
        return self._before + len(self._scores)

    def add(self, score: float) -> None:
        """Take the next part's score; infinite where it could not be judged.

        Raises:
            ValueError: It is not a number.
        """
        if math.isnan(score):
            raise ValueError("a score must be a number or infinite, found NaN")
        if len(self._scores) == LONGEST_RUN:
            self._before += LONGEST_RUN
            self._runs += 1
            self._scores = []
            self._start()
        self._bet(self._p_value(score))
        insort(self._bag, score)
        self._scores.append(score)
        self._note()

    @property
    def evidence(self) -> Evidence:
        """What there is so far."""
        alarm, began, direction = self._alarm or (None, self._lowest_at, 0)
        return Evidence(
            self.count,
            self._log / math.log(10),
            self._highest / math.log(10),
            self._limit / math.log(10),
            alarm,
            began,
            direction,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values, but the reference; some 100 kB at most."""
        return {
            "false_alarm_rate": self._rate,
            "odd": self._odd,
            "seed": self._seed,
            "scores": [score if math.isfinite(score) else None for score in self._scores],
            "before": self._before,
            "runs": self._runs,
            "log": self._log,
            "shares": self._shares,
            "highest": self._highest,
            "lowest": self._lowest,
            "lowest_at": self._lowest_at,
            "alarm": self._alarm,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], reference: Sequence[float] | NDArray[np.floating]) -> Self:
        """Inverse of :meth:`to_dict`, with the same reference.

        Raises:
            KeyError: Something is missing.
            TypeError: Something has another type.
            ValueError: As above.
        """
        own = cls(
            reference,
            false_alarm_rate=float(values["false_alarm_rate"]),
            odd=float(values["odd"]),
            seed=int(values["seed"]),
        )
        own._before, own._runs = int(values["before"]), int(values["runs"])
        own._start()
        own._scores = [math.inf if score is None else float(score) for score in values["scores"]]
        own._bag = sorted(own._bag + own._scores)
        own._log = float(values["log"])
        own._shares = [float(values["shares"][place]) for place in range(len(_BETS))]
        own._highest, own._lowest = float(values["highest"]), float(values["lowest"])
        own._lowest_at = int(values["lowest_at"])
        if values["alarm"] is not None:
            at, began, direction = values["alarm"]
            own._alarm = (int(at), int(began), int(direction))
        return own

    def _start(self) -> None:
        self._bag = list(self._reference)
        self._log, self._shares = 0.0, [1 / len(_BETS)] * len(_BETS)  # of the capital, and how it is placed
        self._limit = -math.log(self._rate) + (self._runs + 1) * math.log(2)
        self._lowest, self._lowest_at = 0.0, self._before

    def _p_value(self, score: float) -> float:
        """Share of the bag and the score itself that is at least as high, ties by lot."""
        first, last = bisect_left(self._bag, score), bisect_right(self._bag, score)
        lot = random.Random(f"{self._seed} {self.count}").random()  # noqa: S311  a draw, no secret
        return float((len(self._bag) - last + lot * (last - first + 1)) / (len(self._bag) + 1))

    def _bet(self, p_value: float) -> None:
        won = [
            ((1 - _JUMP) * share + _JUMP / len(_BETS))
            * (1 + bet * (p_value - 0.5))
            / (1 + self._odd * abs(bet) / 2)
            for share, bet in zip(self._shares, _BETS, strict=True)
        ]
        total = math.fsum(won)
        self._log += math.log(total)
        self._shares = [capital / total for capital in won]

    def _note(self) -> None:
        self._highest = max(self._highest, self._log)
        if self._log <= self._lowest:
            self._lowest, self._lowest_at = self._log, self.count
        if self._alarm is None and self._log >= self._limit:
            direction = 1 if self._shares[0] > self._shares[2] else -1
            self._alarm = (self.count, self._lowest_at, direction)
