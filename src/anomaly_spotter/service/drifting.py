"""Does a model's calibration still hold? Its kept inspections, in order, through the drift watch of the public API."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import or_, select

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.inputs.condition import Condition
from anomaly_spotter.service.database import inspections
from anomaly_spotter.service.jobs import FEWEST_REVIEWED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric
    from sqlalchemy import Row

    from anomaly_spotter.scoring.drift import DriftReport, DriftWatch
    from anomaly_spotter.service.database import Database
    from anomaly_spotter.service.detectors import Detector
    from anomaly_spotter.service.jobs import Jobs
    from anomaly_spotter.service.registry import Registry

_MOST = 50_000  # newest inspections that a watch begins with

State = Literal["too few", "holds", "changed", "broken"]


@dataclass(frozen=True, slots=True)
class DriftStatus:
    """Whether a calibration holds, in words and numbers.

    Attributes:
        model: Name of the model.
        product: Which of its products; ``None`` where there is one detector.
        state: ``too few`` parts to tell; ``holds``; ``changed``: something is different, the promise still holds;
            ``broken``: good parts are rejected more often than was promised.
        promise_holds: False exactly when ``broken``.
        sentences: What has changed, since when, and how sure that is.
        advice: What to do.
        reviewed_good: Good parts that a person has confirmed.
        reviewed_needed: How many a recalibration needs.
        report: The whole report; see :class:`anomaly_spotter.DriftReport`.
    """

    model: str
    product: str | None
    state: State
    promise_holds: bool
    sentences: tuple[str, ...]
    advice: tuple[str, ...]
    reviewed_good: int
    reviewed_needed: int
    report: dict[str, Any]


@dataclass(slots=True)
class _Watched:
    """A watch, and the last inspection that it has seen."""

    watch: DriftWatch
    last: str = ""
    report: DriftReport | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class DriftMonitor(Collector):
    """A watch for each detector, fed from the database whenever somebody asks."""

    def __init__(self, database: Database, registry: Registry, jobs: Jobs) -> None:
        self._database, self._models, self._jobs = database, registry, jobs
        self._lock = threading.Lock()
        self._watched: dict[tuple[str, str | None], _Watched] = {}

    def report(self, model: str | None = None, product: str | None = None) -> DriftReport:
        """The report on a model, or on one of its products, as the public API gives it.

        Raises:
            UnknownModelError: There is no such model.
            SpotterError: It holds several products and none is named.
            DatabaseAwayError: The database cannot be reached.
        """
        detector = self._models.detector(model)
        detector.spotter(product)
        return self._report(detector, product if detector.products else None)

    def status(self, model: str | None = None, product: str | None = None) -> DriftStatus:
        """Whether the calibration of a model, or of one of its products, holds; and what to do.

        Raises:
            SpotterError: As :meth:`report`.
        """
        report = self.report(model, product)
        detector = self._models.detector(model)
        named = product if detector.products else None
        reviewed = len(self._jobs.reviewed_good(detector.name, named))
        return DriftStatus(
            model=detector.name,
            product=named,
            state=_state(report),
            promise_holds=report.promise_holds,
            sentences=report.sentences,
            advice=(*report.advice, *_proposal(report, reviewed)),
            reviewed_good=reviewed,
            reviewed_needed=FEWEST_REVIEWED,
            report=report.to_dict(),
        )

    def collect(self) -> Iterator[Metric]:
        """The active model's calibration as Prometheus metrics; none while it cannot be told."""
        holds = GaugeMetricFamily(
            "anomaly_spotter_calibration_holds",
            "0 when good parts are rejected more often than was promised.",
            labels=("model", "product"),
        )
        changed = GaugeMetricFamily(
            "anomaly_spotter_drift",
            "1 when scores or pictures are no longer like those of the calibration.",
            labels=("model", "product"),
        )
        try:
            detector = self._models.detector()
            for product in detector.products or (None,):
                report = self._report(detector, product)
                labels = (detector.name, product or "")
                holds.add_metric(labels, float(report.promise_holds))
                changed.add_metric(labels, float(report.status == "changed"))
        except SpotterError:
            return
        yield from (holds, changed)

    def _report(self, detector: Detector, product: str | None) -> DriftReport:
        with self._lock:
            key = (detector.identity, product)
            if key not in self._watched:
                self._watched[key] = _Watched(detector.spotter(product).drift_watch())
            watched = self._watched[key]
        with watched.lock:
            for row in self._newer(detector, product, watched.last):
                condition = None if row.condition is None else Condition.from_dict(row.condition)
                when = datetime.fromtimestamp(row.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                watched.watch.add(row.score, condition, when)
                watched.last, watched.report = row.id, None
            if watched.report is None:
                watched.report = watched.watch.report()
            return watched.report

    def _newer(self, detector: Detector, product: str | None, last: str) -> list[Row[Any]]:
        """Inspections behind the last one seen, oldest first, without those that a person has found to be defects."""
        table = inspections.c
        query = select(table.id, table.at, table.score, table.condition).where(
            table.bundle == detector.identity,
            table.id > last,
            or_(table.review.is_(None), table.review == "OK"),
        )
        if product is not None:
            query = query.where(table.product == product)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(table.id.desc()).limit(_MOST)).all()
        return list(reversed(rows))


def _state(report: DriftReport) -> State:
    if not report.promise_holds:
        return "broken"
    if report.status == "too few":
        return "too few"
    return "changed" if report.status == "changed" else "holds"


def _proposal(report: DriftReport, reviewed: int) -> tuple[str, ...]:
    """What the station can do about it."""
    if report.status != "changed":
        return ()
    if reviewed < FEWEST_REVIEWED:
        words = (
            f"Review the recent parts in the history: {reviewed} good ones are confirmed, {FEWEST_REVIEWED} are needed "
            "to recalibrate. Confirm them as they come, accepted and rejected ones alike."
        )
        return (words,)
    return (f"Recalibrate on the {reviewed} confirmed good parts: a new version, the present one stays.",)
