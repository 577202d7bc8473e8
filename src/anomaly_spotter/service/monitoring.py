"""Numbers about a running station: counters and latencies for Prometheus, statistics of the newest inspections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import func, select

from anomaly_spotter.scoring.inspection import finite
from anomaly_spotter.service.database import inspections

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.registry import Collector

    from anomaly_spotter.service.database import Database
    from anomaly_spotter.service.records import Record
    from anomaly_spotter.service.registry import Registry

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One of the newest inspections, as a point in a plot.

    Attributes:
        id: Its identifier.
        at: When, in seconds since 1970 (UTC).
        score: Its score; ``None`` where the part could not be judged.
        verdict: ``OK`` or ``DEFECT``.
        review: What a person says.
    """

    id: str
    at: float
    score: float | None
    verdict: str
    review: str | None


@dataclass(frozen=True, slots=True)
class Stats:
    """What a model did lately.

    Attributes:
        model: Its name.
        total: Inspections in the time asked for.
        defects: How many of them were called DEFECT.
        reject_rate: Their share; ``None`` without inspections.
        reviewed: How many a person has looked at.
        false_rejects: DEFECT by the model, OK by the person.
        missed: OK by the model, DEFECT by the person.
        per_hour: Inspections per hour, between the first and the last of the newest.
        p50_ms: Median time of decoding and deciding, of the newest.
        p95_ms: 95 % were faster.
        recent: The newest, oldest first.
        calibration_scores: Scores of the good pictures behind the decision limit, by product.
        thresholds: The decision limit, by product.
    """

    model: str
    total: int
    defects: int
    reject_rate: float | None
    reviewed: int
    false_rejects: int
    missed: int
    per_hour: float | None
    p50_ms: float | None
    p95_ms: float | None
    recent: tuple[Scored, ...]
    calibration_scores: dict[str, tuple[float, ...]]
    thresholds: dict[str, float]


class Monitor:
    """Counts what happens, and looks back."""

    def __init__(self, database: Database, registry: Registry, recent: int) -> None:
        self._database, self._models, self._recent = database, registry, recent
        self._counters = CollectorRegistry()
        self._inspections = Counter(
            "anomaly_spotter_inspections",
            "Inspected pictures.",
            ("model", "verdict"),
            registry=self._counters,
        )
        self._seconds = Histogram(
            "anomaly_spotter_inspection_seconds",
            "Decoding and deciding, per picture.",
            ("model",),
            buckets=_SECONDS,
            registry=self._counters,
        )
        self._refused = Counter(
            "anomaly_spotter_refused", "Requests refused because too many ran.", registry=self._counters
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Let a number appear among the metrics; it is asked for whenever they are read."""
        Gauge(name, help_text, registry=self._counters).set_function(value)

    def collect(self, collector: Collector) -> None:
        """Let the numbers of a collector appear among the metrics."""
        self._counters.register(collector)

    def count(self, record: Record) -> None:
        """Note one inspection."""
        self._inspections.labels(record.model, record.verdict).inc()
        self._seconds.labels(record.model).observe(record.milliseconds / 1e3)

    def refused(self) -> None:
        """Note a request that was refused because too many ran."""
        self._refused.inc()

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._counters)

    def stats(self, model: str, since: float = 0.0) -> Stats:
        """What a model did since a time.

        Raises:
            UnknownModelError: There is no such model.
            DatabaseAwayError: The database cannot be reached.
        """
        detectors = self._models.calibrations(model)
        table = inspections.c
        asked = (table.model == model, table.at >= since)
        newest = select(table.id, table.at, table.score, table.verdict, table.review, table.milliseconds)
        counted = select(table.verdict, table.review, func.count()).group_by(table.verdict, table.review)
        with self._database.read() as connection:
            groups = [(row[0], row[1], row[2]) for row in connection.execute(counted.where(*asked))]
            rows = connection.execute(
                newest.where(*asked).order_by(table.id.desc()).limit(self._recent)
            ).all()
        total = sum(count for _, _, count in groups)
        defects = sum(count for verdict, _, count in groups if verdict == "DEFECT")
        times = [row.milliseconds for row in rows]
        span = rows[0].at - rows[-1].at if rows else 0.0
        return Stats(
            model=model,
            total=total,
            defects=defects,
            reject_rate=defects / total if total else None,
            reviewed=sum(count for _, review, count in groups if review is not None),
            false_rejects=sum(count for *both, count in groups if both == ["DEFECT", "OK"]),
            missed=sum(count for *both, count in groups if both == ["OK", "DEFECT"]),
            per_hour=(len(rows) - 1) * _HOUR / span if span > 0 else None,
            p50_ms=_quantile(times, 0.5),
            p95_ms=_quantile(times, 0.95),
            recent=tuple(
                Scored(row.id, row.at, finite(row.score), row.verdict, row.review) for row in reversed(rows)
            ),
            calibration_scores={name: each.scores for name, each in detectors.items()},
            thresholds={name: each.threshold for name, each in detectors.items()},
        )


def _quantile(values: list[float], share: float) -> float | None:
    finite_values = [value for value in values if math.isfinite(value)]
    return float(np.quantile(finite_values, share)) if finite_values else None
