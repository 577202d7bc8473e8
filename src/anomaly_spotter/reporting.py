"""Evaluation -> HTML report: picks the pictures worth showing, inspects them once more, and hands them to the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly_spotter.errors import PictureError
from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views.report import ReportContent, write_report

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anomaly_spotter.evaluation import Evaluation, PictureResult
    from anomaly_spotter.scoring.inspection import Inspection
    from anomaly_spotter.spotter import Spotter

SHOWN = 8  # pictures per gallery
FILE_NAME = "report.html"


def write_evaluation_report(spotter: Spotter, evaluation: Evaluation, folder: Path) -> Path:
    """Write ``folder/report.html``, one self-contained page; returns its path.

    Raises:
        SpotterError: The file cannot be written.
    """
    by_score = sorted(evaluation.pictures, key=lambda row: row.score)
    misses = [row for row in by_score if row.is_miss]
    false_rejects = [row for row in reversed(by_score) if row.is_false_reject]
    hits = [row for row in reversed(by_score) if row.is_defect and row.verdict is Verdict.DEFECT]
    data = evaluation.summary["data"]
    content = ReportContent(
        title=f"{data['category']}: {spotter.config.model.name}, preset {spotter.config.preset}",
        summary=evaluation.summary,
        pictures=evaluation.pictures,
        calibration_scores=spotter.calibration.scores,
        guarantee=spotter.guarantee,
        history=spotter.provenance["history"],
        misses=_inspect(spotter, misses),
        false_rejects=_inspect(spotter, false_rejects),
        hits=_inspect(spotter, hits),
        remarks=_remarks(spotter, evaluation),
    )
    return write_report(content, folder / FILE_NAME)


def _inspect(spotter: Spotter, rows: Iterable[PictureResult]) -> list[Inspection]:
    chosen = [row.path for row in rows][:SHOWN]
    return [found for _, found in spotter.inspect_stream(chosen) if not isinstance(found, PictureError)]


def _remarks(spotter: Spotter, evaluation: Evaluation) -> list[str]:
    remarks = []
    if spotter.provenance["interrupted"]:
        remarks.append("Training was interrupted; the best epoch up to then is used.")
    remarks += [f"Not evaluated: {reason}" for reason in evaluation.unreadable]
    return remarks
