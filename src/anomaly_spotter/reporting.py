"""Evaluation -> HTML report and pictures: picks what is worth showing, inspects it once more, hands it to the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly_spotter.errors import PictureError
from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views import plots
from anomaly_spotter.views.files import write_picture
from anomaly_spotter.views.overlay import resized
from anomaly_spotter.views.report import ReportContent, write_report
from anomaly_spotter.views.sheets import contact_sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from anomaly_spotter.evaluation import Evaluation, PictureResult
    from anomaly_spotter.scoring.inspection import Inspection
    from anomaly_spotter.spotter import Spotter

SHOWN = 8  # pictures per gallery
LARGEST_SIDE = 1024  # pixels; larger pictures are shown reduced
FILE_NAME = "report.html"


def write_evaluation_report(spotter: Spotter, evaluation: Evaluation, folder: Path) -> Path:
    """Write ``folder/report.html``, one self-contained page, and beside it the plots and a contact sheet as PNG.

    Returns:
        The page.

    Raises:
        SpotterError: A file cannot be written.
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
        remarks=_remarks(spotter),
    )
    _write_pictures(content, spotter.calibration.threshold, folder)
    return write_report(content, folder / FILE_NAME)


def _write_pictures(content: ReportContent, threshold: float, folder: Path) -> None:
    figures = {
        "scores": plots.score_histogram(content.pictures, content.calibration_scores, threshold),
        "roc": plots.roc(content.pictures),
        "precision_recall": plots.precision_recall(content.pictures),
        "recall_by_kind": plots.recall_bars(content.summary["per_kind"]),
        "training": plots.training_curves(content.history),
    }
    for name, figure in figures.items():
        plots.save_figure(figure, folder / f"{name}.png")
    worst = [(found, _caption(found, "missed")) for found in content.misses]
    worst += [(found, _caption(found, "false reject")) for found in content.false_rejects]
    if worst:
        write_picture(folder / "worst_misses_and_false_rejects.png", contact_sheet(worst))


def _caption(found: Inspection, what: str) -> str:
    name = "" if found.source is None else f"{found.source.parent.name}/{found.source.name}"
    return f"{what}: {name}"


def _inspect(spotter: Spotter, rows: Sequence[PictureResult]) -> list[Inspection]:
    chosen = [row.path for row in rows[:SHOWN]]
    return [_shown(found) for found in _readable(spotter, chosen)]


def _readable(spotter: Spotter, paths: Iterable[Path]) -> Iterable[Inspection]:
    return (found for _, found in spotter.inspect_stream(paths) if not isinstance(found, PictureError))


def _shown(found: Inspection) -> Inspection:
    height, width = found.picture.shape[:2]
    factor = LARGEST_SIDE / max(height, width)
    return (
        found
        if factor >= 1
        else resized(found, max(1, round(width * factor)), max(1, round(height * factor)))
    )


def _remarks(spotter: Spotter) -> list[str]:
    remarks = [f"{count} training pictures: {note}." for note, count in spotter.provenance["notes"].items()]
    if spotter.provenance["interrupted"]:
        remarks.append("Training was interrupted; the best epoch up to then is used.")
    return remarks
