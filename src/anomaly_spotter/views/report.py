"""Evaluation to report: one HTML file that a quality manager can read, archive and print, and that loads nothing else."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anomaly_spotter.files import write_atomic
from anomaly_spotter.inputs.preprocess import to_rgb
from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views import facts, plots, wording
from anomaly_spotter.views.files import encode_picture
from anomaly_spotter.views.overlay import overlay, resized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from anomaly_spotter.evaluation import PictureResult
    from anomaly_spotter.scoring.inspection import Inspection

_TILE = 400  # longest side of an embedded picture, in pixels
_TILE_QUALITY = 82
_MOST_LISTED = 200


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything a report tells.

    Attributes:
        title: Headline of the page.
        summary: The evaluation JSON: ``bundle``, ``data``, ``image``, ``pixel``, ``per_kind``, ``timing``. What is
            missing or ``None`` is shown as a dash.
        pictures: One row per test picture.
        calibration_scores: Image scores of the held-out good pictures that set the limit.
        guarantee: What is promised, in plain words.
        history: One row per training epoch: ``epoch``, ``train_loss``, ``val_loss``, ``learning_rate``.
        misses: Defects called OK, worst first.
        false_rejects: Good parts called DEFECT, worst first.
        hits: Defects that were found, clearest first.
        remarks: Warnings in plain words.
    """

    title: str
    summary: Mapping[str, Any]
    pictures: Sequence[PictureResult]
    calibration_scores: Sequence[float]
    guarantee: str
    history: Sequence[Mapping[str, float]]
    misses: Sequence[Inspection]
    false_rejects: Sequence[Inspection]
    hits: Sequence[Inspection]
    remarks: Sequence[str] = ()


def write_report(content: ReportContent, path: Path) -> Path:
    """Write :func:`render_report` to ``path``, whole or not at all, and nothing beside it.

    Raises:
        SpotterError: The file cannot be written.
    """
    return write_atomic(path, render_report(content).encode("utf-8"))


def render_report(content: ReportContent) -> str:
    """The report as one HTML page; the same content gives the same page, byte for byte.

    Args:
        content: What to tell; any part may be empty.

    Returns:
        HTML with styles, plots and pictures inside. It asks for no script, font or file from anywhere.
    """
    summary = content.summary
    counted = facts.Outcome.of(content.pictures, facts.section(summary, "image"))
    wrong = [row for row in content.pictures if row.is_defect == (row.verdict is Verdict.OK)]
    page = _environment().get_template("report.html.j2").render(
        title=content.title,
        headline=counted.headline(),
        certainty=counted.certainty(),
        outcome=counted,
        key_figures=facts.key_figures(summary, counted),
        remarks=[*content.remarks, *facts.baseline_warnings(summary)],
        guarantee=content.guarantee,
        observed=counted.observed_false_rejects(),
        metrics=facts.metric_groups(summary),
        baselines=facts.baselines(summary),
        kinds=facts.kinds(summary),
        plots=_plots(content),
        galleries=[
            ("Missed defects", "Called OK, although defective. Worst first.", _tiles(content.misses)),
            ("Good parts rejected", "Called DEFECT, although good. Worst first.", _tiles(content.false_rejects)),
            ("Defects found", "For comparison: the clearest correct findings.", _tiles(content.hits)),
        ],
        wrong=[facts.decision(row) for row in wrong[:_MOST_LISTED]],
        wrong_count=len(wrong),
        provenance=facts.provenance(summary),
        settings=facts.settings(summary),
        left_out=facts.left_out(summary),
        glossary=facts.GLOSSARY,
        story=facts.story(summary, counted),
    )  # fmt: skip
    return page.encode("utf-8", "replace").decode("utf-8")  # undecodable bytes of file names


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("anomaly_spotter.views"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": wording.number, "percent": wording.percent, "whole": wording.whole}
    return environment


def _plots(content: ReportContent) -> dict[str, Markup]:
    """The plots there is data for, by name, as inline SVG."""
    threshold = wording.as_number(facts.section(content.summary, "image").get("threshold"))
    labels = {row.is_defect for row in content.pictures}
    found: dict[str, tuple[Figure, str]] = {}
    if content.pictures or content.calibration_scores:
        figure = plots.score_histogram(
            content.pictures, content.calibration_scores, 1.0 if threshold is None else threshold
        )
        found["scores"] = (
            figure,
            "Histogram of image scores of good and defective parts with the decision limit",
        )
    if labels == {True, False}:
        found["roc"] = plots.roc(content.pictures), "ROC curve with the working point"
        found["precision_recall"] = (
            plots.precision_recall(content.pictures),
            "Precision-recall curve with the working point",
        )
    if content.history:
        found["training"] = plots.training_curves(content.history), "Training and validation loss by epoch"
    drawn = {}
    for name, (figure, words) in found.items():
        drawn[name] = Markup(plots.to_svg(figure, f"plot-{name}", words))  # noqa: S704  matplotlib escapes its words
    return drawn


def _tiles(inspections: Sequence[Inspection]) -> list[dict[str, Any]]:
    tiles = []
    for inspection in inspections:
        rows, columns = inspection.picture.shape[:2]
        factor = _TILE / max(rows, columns)
        shown = resized(inspection, max(1, round(columns * factor)), max(1, round(rows * factor)))
        tiles.append(
            {
                "name": facts.short_path(inspection.source),
                "verdict": inspection.verdict.value,
                "score": inspection.score,
                "threshold": inspection.threshold,
                "p_value": inspection.p_value,
                "wide": columns > 2 * rows,
                "picture": _data_uri(to_rgb(shown.picture)),
                "overlay": _data_uri(overlay(shown)),
            }
        )
    return tiles


def _data_uri(picture: NDArray[Any]) -> str:
    data = encode_picture(picture, ".jpg", _TILE_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
