"""Does the calibration still hold? Recent parts against the calibration scores and the training pictures' conditions.

Two questions are asked. Do the last parts, as a whole, look like those of the calibration (a window, for abrupt
changes, with a stated rate of false alarms per window)? And has there been enough evidence so far, part by part, that
scores are rising or falling (a martingale, for slow ones, with a bound on ever giving a false alarm)?

Defects are no drift: both take up to ``odd`` of the parts out of the count. Only more than that, or a shift of the
good ones, is a change. Conditions are tested on their own, so that the report can say what to look after.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from anomaly_spotter.errors import ConfigError, SpotterError
from anomaly_spotter.inputs.condition import NAMES, Condition
from anomaly_spotter.scoring import drift_words as words
from anomaly_spotter.scoring.martingale import Evidence, Martingale
from anomaly_spotter.scoring.two_samples import (
    adjusted,
    chance_of_higher,
    chance_of_lower,
    chance_of_other,
    chance_of_rejects,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.scoring.calibration import Calibration
    from anomaly_spotter.scoring.inspection import Inspection

Direction = Literal["higher", "lower", "spread"]
Status = Literal["too few", "steady", "changed"]

FEWEST = 20
"""Recent parts, and good pictures with known conditions, below which nothing is compared."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """How closely is watched.

    Attributes:
        window: How many of the last parts are compared as a whole, at least :data:`FEWEST`.
        false_alarm_rate: Chance of a false alarm per window, over all its tests; and, apart from that, of the
            martingale ever giving one. In (0, 0.1].
        odd: Share of the parts that may be defects without counting as drift, in [0, 0.5).
        seed: Of the randomised p-values of the martingale.

    Raises:
        ConfigError: A value is out of range.
    """

    window: int = 200
    false_alarm_rate: float = 0.01
    odd: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window < FEWEST or not 0 < self.false_alarm_rate <= 0.1 or not 0 <= self.odd < 0.5:
            raise ConfigError(
                f"drift needs a window of {FEWEST} or more, a false alarm rate in (0, 0.1] and a share of defects in "
                f"[0, 0.5); found {self.window}, {self.false_alarm_rate} and {self.odd}"
            )


@dataclass(frozen=True, slots=True)
class Finding:
    """One test of a window.

    Attributes:
        name: ``scores``, ``rejects``, or one of :data:`~anomaly_spotter.inputs.condition.NAMES`.
        direction: Where it went: ``higher``, ``lower`` or, for a condition, ``spread`` (the middle is where it was).
        chance: How often a window differs as much although nothing has changed, all tests of the window allowed for.
        is_change: Whether that is less than the false alarm rate.
        usual: Median of the reference; for ``rejects``, the number of rejects to be expected in such a window.
        recent: Median of the window; for ``rejects``, their number.
        words: One sentence.
    """

    name: str
    direction: Direction
    chance: float
    is_change: bool
    usual: float
    recent: float
    words: str


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What has changed, since when, how sure that is, and what to do.

    Attributes:
        status: ``changed`` when any test gives an alarm, ``too few`` when there are less than :data:`FEWEST` parts.
        promise_holds: False when good parts are, or will be, rejected more often than was promised.
        count: Parts watched so far.
        window: How many of them were compared as a whole.
        since: Label of the first part of the window; ``None`` when it has none.
        settings: How closely is watched.
        findings: All tests of the window, alarms first.
        evidence: Of the martingale.
        alarm_at: Label of the part at which the martingale gave its alarm.
        began_at: Label of the part from which on its evidence grew.
        sentences: All that is to be said, in plain words: what, since when, how sure.
        advice: What to do about it.
    """

    status: Status
    promise_holds: bool
    count: int
    window: int
    since: str | None
    settings: DriftSettings
    findings: tuple[Finding, ...]
    evidence: Evidence
    alarm_at: str | None
    began_at: str | None
    sentences: tuple[str, ...]
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values; an infinite median is ``None``."""
        values = asdict(self)
        for finding in values["findings"]:
            for name in ("usual", "recent"):
                finding[name] = finding[name] if math.isfinite(finding[name]) else None
        return values


class DriftWatch:
    """Watches the parts that a detector inspects, one at a time; its state can be stored.

    Parts that a person has found to be defects are best left out. The window moves on with every part; each report
    is right on its own as often as stated, but reports whose windows overlap are not independent tries.

    Args:
        calibration: Of the detector that inspects.
        conditions: Those of its good pictures, ``float32 [N, 7]``; may have no rows.
        settings: How closely is watched.

    Example:
        >>> watch = spotter.drift_watch()                               # doctest: +SKIP
        >>> watch.add(found.score, found.condition, "2026-03-01 08:15") # doctest: +SKIP
        >>> watch.report().sentences                                    # doctest: +SKIP
    """

    def __init__(
        self, calibration: Calibration, conditions: NDArray[np.float32], settings: DriftSettings | None = None
    ) -> None:
        self.settings = DriftSettings() if settings is None else settings
        self._calibration, self._conditions = calibration, np.asarray(conditions, np.float32)
        self._reference = np.array([*calibration.scores, *[math.inf] * calibration.refused])
        self._martingale = Martingale(
            self._reference,
            false_alarm_rate=self.settings.false_alarm_rate,
            odd=self.settings.odd,
            seed=self.settings.seed,
        )
        self._window: deque[tuple[float, Condition | None, str | None]] = deque(maxlen=self.settings.window)
        self._began_at: str | None = None
        self._alarm_at: str | None = None

    @property
    def count(self) -> int:
        """Parts so far."""
        return self._martingale.count

    def add(self, score: float, condition: Condition | None = None, label: str | None = None) -> None:
        """Take the next part.

        Args:
            score: As inspected by the detector, on the scale of its calibration; infinite where it could not be judged.
            condition: How its picture was taken; only scores are compared without it.
            label: What the report calls it, for example when it was inspected.

        Raises:
            ValueError: The score is NaN.
        """
        count, alarm = self.count, self._martingale.evidence.alarm
        self._martingale.add(score)
        self._window.append((score, condition, label))
        evidence = self._martingale.evidence
        if alarm is None and evidence.began >= count:
            self._began_at = label
        if alarm is None and evidence.alarm is not None:
            self._alarm_at = label

    def add_inspection(self, found: Inspection, label: str | None = None) -> None:
        """The same for an inspection; its file is the label if none is given."""
        own = None if found.source is None else str(found.source)
        self.add(found.score, found.condition, own if label is None else label)

    def report(self) -> DriftReport:
        """What there is to say now; takes some milliseconds."""
        findings = self._findings() if len(self._window) >= FEWEST else ()
        evidence = self._martingale.evidence
        changes = [finding for finding in findings if finding.is_change]
        status: Status = "steady"
        if changes or evidence.alarm is not None:
            status = "changed"
        elif not findings:
            status = "too few"
        since = self._window[0][2] if self._window else None
        rises = [(finding.name, finding.direction) for finding in changes]
        more_rejects = ("rejects", "higher") in rises or ("scores", "higher") in rises
        return DriftReport(
            status=status,
            promise_holds=not more_rejects and evidence.direction != 1,
            count=self.count,
            window=len(self._window),
            since=since,
            settings=self.settings,
            findings=findings,
            evidence=evidence,
            alarm_at=self._alarm_at,
            began_at=self._began_at,
            sentences=tuple(self._sentences(status, findings, since)),
            advice=words.advice(
                status, {finding.name: finding.direction for finding in changes}, evidence.direction, FEWEST
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole state as JSON-able values, some 100 kB at most; see :meth:`from_dict`."""
        rows = [
            [score if math.isfinite(score) else None, None if taken is None else taken.to_dict(), label]
            for score, taken, label in self._window
        ]
        return {
            "format": _FORMAT,
            "calibration": self._fingerprint(),
            "settings": asdict(self.settings),
            "martingale": self._martingale.to_dict(),
            "window": rows,
            "began_at": self._began_at,
            "alarm_at": self._alarm_at,
        }

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], calibration: Calibration, conditions: NDArray[np.float32]
    ) -> Self:
        """Inverse of :meth:`to_dict`, for the same detector.

        Raises:
            SpotterError: The state is of another calibration or format, or incomplete.
        """
        try:
            watch = cls(calibration, conditions, DriftSettings(**values["settings"]))
            if values["format"] != _FORMAT or values["calibration"] != watch._fingerprint():
                raise SpotterError(
                    "the state of the drift watch belongs to another calibration or version; start a new watch"
                )
            watch._martingale = Martingale.from_dict(values["martingale"], watch._reference)
            for score, taken, label in values["window"]:
                known = None if taken is None else Condition.from_dict(taken)
                watch._window.append((math.inf if score is None else float(score), known, label))
            watch._began_at, watch._alarm_at = values["began_at"], values["alarm_at"]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise SpotterError(
                f"the state of the drift watch is damaged ({error}); start a new watch"
            ) from None
        return watch

    def _fingerprint(self) -> str:
        scale = [self._calibration.centre, self._calibration.scale]
        return hashlib.sha256(np.concatenate([self._reference, scale]).tobytes()).hexdigest()

    def _findings(self) -> tuple[Finding, ...]:
        tests = [*self._score_tests(), *self._condition_tests()]
        chances = adjusted([test.chance for test in tests])
        found = [
            Finding(
                test.name,
                test.direction,
                chance,
                chance <= self.settings.false_alarm_rate,
                test.usual,
                test.recent,
                words.finding(test.name, test.direction, test.usual, test.recent, chance, len(self._window)),
            )
            for test, chance in zip(tests, chances, strict=True)
        ]
        return tuple(sorted(found, key=lambda finding: finding.chance))

    def _score_tests(self) -> Iterator[_Test]:
        recent = np.array([score for score, _, _ in self._window])
        odd = self._odd(len(recent))
        usual, now = _median(self._reference), _median(recent)
        yield _Test("scores", "higher", chance_of_higher(self._reference, recent, odd), usual, now)
        yield _Test("scores", "lower", chance_of_lower(self._reference, recent, odd), usual, now)
        promise = self._calibration.promise
        rejects = int((recent > self._calibration.threshold).sum())
        chance = chance_of_rejects(promise.count, promise.rank, len(recent), rejects - odd)
        expected = len(recent) * (promise.count + 1 - promise.rank) / (promise.count + 1)
        yield _Test("rejects", "higher", chance, expected, float(rejects))

    def _condition_tests(self) -> Iterator[_Test]:
        # float32, as the reference is stored: else equal values would differ by their rounding.
        rows = np.array([taken.row() for _, taken, _ in self._window if taken is not None], np.float32)
        for column, name in enumerate(NAMES):
            reference = _known(self._conditions, column)
            recent = _known(rows, column)
            if min(len(reference), len(recent)) < FEWEST:
                continue
            centre = 0.0
            if name == "angle":
                centre = _mean_angle(np.concatenate([reference, recent]))
                reference, recent = _turned(reference, centre), _turned(recent, centre)
            chance = chance_of_other(reference, recent, self._odd(len(recent)))
            usual, now = _median(reference), _median(recent)
            low, high = np.quantile(reference, [0.25, 0.75])
            direction: Direction = "spread" if low <= now <= high else "higher" if now > usual else "lower"
            yield _Test(name, direction, chance, usual + centre, now + centre)

    def _odd(self, count: int) -> int:
        """How many of so many recent parts may be anything."""
        return math.ceil(self.settings.odd * count - 1e-9)

    def _sentences(self, status: Status, findings: tuple[Finding, ...], since: str | None) -> Iterator[str]:
        rate, odd = self.settings.false_alarm_rate, self._odd(len(self._window))
        yield words.window(status, len(self._window), since, rate, odd, FEWEST)
        yield from (finding.words for finding in findings if finding.is_change)
        evidence = self._martingale.evidence
        if evidence.alarm is not None:
            yield words.alarm(evidence, self._alarm_at, self._began_at, rate)
        if findings and len(self._conditions) == 0:
            yield words.NO_CONDITIONS


@dataclass(frozen=True, slots=True)
class _Test:
    """A finding before its neighbours are allowed for."""

    name: str
    direction: Direction
    chance: float
    usual: float
    recent: float


def _known(rows: NDArray[np.float32], column: int) -> NDArray[np.float32]:
    """The values of a column that are there."""
    if not len(rows):
        return np.zeros(0, np.float32)
    return np.asarray(rows[~np.isnan(rows[:, column]), column], np.float32)


def _median(values: NDArray[np.floating]) -> float:
    """The lower of the two middle ones, since the mean of infinities is none."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _mean_angle(degrees: NDArray[np.floating]) -> float:
    """Direction of the mean of all unit vectors; the same whichever of them are recent."""
    radians = np.sort(np.radians(np.asarray(degrees, np.float64)))
    return math.degrees(math.atan2(float(np.sin(radians).sum()), float(np.cos(radians).sum())))


def _turned(degrees: NDArray[np.floating], centre: float) -> NDArray[np.floating]:
    """Angles from ``centre`` in [-180, 180)."""
    return np.asarray((np.asarray(degrees, np.float64) - centre + 180) % 360 - 180)
