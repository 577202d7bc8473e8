"""A learning curve to a plot: how well defects separate, and recall and false rejects at the limit, by good pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from anomaly_spotter.views.plots import CALIBRATION, DEFECT, GOOD
from anomaly_spotter.views.plots import _legend as legend
from anomaly_spotter.views.plots import _style as style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 10.0, 3.8  # inches
_SEPARATION = "#2f7d5b"


def learning_plot(summary: Mapping[str, Any]) -> Figure:
    """Means over the draws as lines, lowest to highest as a band.

    Args:
        summary: As :class:`anomaly_spotter.fleet.learning_curve.LearningCurve` describes it.
    """
    rows = summary["rows"]
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2)
    defects = (
        "test pictures" if summary["measured_by"] == "test" else "synthetic defects on left-out pictures"
    )
    for axes, ylabel in ((left, f"image AUROC, {defects}"), (right, "share at the calibrated limit")):
        style(axes, ylabel, xlabel="good pictures (logarithmic)")
        _sizes(axes, [row["size"] for row in rows])
    _line(left, rows, "auroc", "AUROC", _SEPARATION)
    lowest = min((row["auroc"]["low"] for row in rows if row["auroc"]), default=0.9)
    left.set_ylim(max(0.0, min(lowest, 0.95) - 0.02), 1.005)
    _line(right, rows, "recall", "defects found", DEFECT)
    _line(right, rows, "false_reject_rate", "good parts rejected", GOOD)
    right.plot(
        [row["size"] for row in rows],
        [row["promised_rate"] for row in rows],
        color=CALIBRATION,
        linewidth=1.4,
        linestyle="--",
        label="rejects promised",
    )
    right.set_ylim(-0.03, 1.03)
    legend(left)
    legend(right)
    return figure


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str, label: str, colour: str) -> None:
    known = [row for row in rows if row[key]]
    sizes = [row["size"] for row in known]
    axes.plot(
        sizes,
        [row[key]["mean"] for row in known],
        color=colour,
        linewidth=1.8,
        marker="o",
        markersize=5,
        label=label,
    )
    axes.fill_between(
        sizes,
        [row[key]["low"] for row in known],
        [row[key]["high"] for row in known],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _sizes(axes: Axes, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.15, max(sizes) * 1.15)
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
