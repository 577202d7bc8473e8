"""Results to plots: score histogram, ROC, precision-recall, recall per kind, training curves.

Every function returns a :class:`matplotlib.figure.Figure` that belongs to no window system and no global state.
:func:`to_svg` makes it part of a page (following the page's light or dark theme), :func:`save_figure` a PNG file.
"""

from __future__ import annotations

import io
import re
import threading
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.extras import needed
from anomaly_spotter.files import write_atomic
from anomaly_spotter.metrics import precision_recall_points, roc_curve_points
from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views.lettering import clean

with needed("evaluate", "plots and reports need Matplotlib", "matplotlib"):
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from anomaly_spotter.evaluation import PictureResult

INK, MUTED, GRID = "#1b2026", "#626b75", "#dde1e6"
GOOD, DEFECT, CALIBRATION = "#2f6fab", "#c2410c", "#7b8794"
_THEME = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    GOOD: "--plot-good",
    DEFECT: "--plot-defect",
    CALIBRATION: "--plot-calibration",
}
_MOST_DOTS = 1500
_WIDE, _HALF = 10.0, 4.8  # inches
_SVG_SETTINGS_LOCK = threading.Lock()


def score_histogram(
    pictures: Sequence[PictureResult], calibration_scores: Sequence[float], threshold: float
) -> Figure:
    """Scores of good and defective test pictures with the decision limit; below, one row of dots per kind.

    Args:
        pictures: Test pictures; any number, any kinds.
        calibration_scores: Held-out good pictures' image scores, drawn as an outline.
        threshold: The decision limit.
    """
    groups = _groups(pictures, calibration_scores)
    figure = Figure(figsize=(_WIDE, 2.9 + 0.3 * len(groups)), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.1, 0.3 * len(groups) + 0.2])
    _style(upper, "pictures")
    _style(lower, "", xlabel="image score (0 = typical good part, larger = stranger)")
    everything = np.array([value for _, values, _ in groups for value in values] + [threshold, 0.0])
    everything = everything[np.isfinite(everything)]
    _score_axis(lower, everything, threshold)
    edges = _edges(lower, everything)
    classes: dict[str, list[float]] = {"good": [], "defective": []}
    for picture in pictures:
        classes["defective" if picture.is_defect else "good"].append(picture.score)
    for (label, values), colour in zip(classes.items(), (GOOD, DEFECT), strict=True):
        if values:
            upper.hist(values, edges, color=colour, alpha=0.62, label=f"{label} ({len(values)})")
    if len(calibration_scores):
        label = f"calibration, good ({len(calibration_scores)})"
        upper.hist(calibration_scores, edges, color=CALIBRATION, histtype="step", linewidth=1.3, label=label)
    if upper.has_data():
        _legend(upper)
        upper.set_ylim(top=1.2 * upper.get_ylim()[1])  # room for the word "limit"
    upper.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    upper.tick_params(labelbottom=False, length=0)
    for row, (_, values, colour) in enumerate(groups):
        shown = _thinned(values)
        offset = ((np.arange(len(shown)) * 0.618034) % 1 - 0.5) * 0.5
        lower.scatter(shown, row + offset, s=9, color=colour, alpha=0.6, linewidths=0)
    lower.set_ylim(len(groups) - 0.4, -0.6)
    lower.yaxis.set_major_locator(FixedLocator(range(len(groups))))
    lower.set_yticklabels([f"{_plain(name)} ({len(values)})" for name, values, _ in groups])
    lower.tick_params(axis="y", length=0)
    lower.grid(axis="y", visible=False)
    for axes in (upper, lower):
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    right = _is_far_right(upper, threshold)
    upper.annotate(
        f"limit {threshold:.3g}",
        (threshold, 1),
        xycoords=upper.get_xaxis_transform(),
        xytext=(-5 if right else 5, -2),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        color=INK,
        fontsize=10,
    )
    return figure


def roc(pictures: Sequence[PictureResult]) -> Figure:
    """ROC curve with the point at which the detector works; an empty frame that says so with one class only."""
    figure, axes = _square("good parts rejected", "defects found")
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    curve = roc_curve_points(*_scores_and_labels(pictures)) if pictures else None
    if curve is None:
        return _without_curve(figure, axes)
    axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=GOOD, linewidth=2)
    _, recall, false_rejects = _operating_point(pictures)
    _mark_point(axes, false_rejects, recall)
    return figure


def precision_recall(pictures: Sequence[PictureResult]) -> Figure:
    """Precision-recall curve with the operating point; an empty frame that says so with one class only."""
    figure, axes = _square("defects found (recall)", "rejects that are right (precision)")
    curve = precision_recall_points(*_scores_and_labels(pictures)) if pictures else None
    if curve is None:
        return _without_curve(figure, axes)
    share = sum(picture.is_defect for picture in pictures) / len(pictures)
    axes.axhline(share, color=GRID, linewidth=1)
    axes.plot(curve.recall, curve.precision, color=GOOD, linewidth=2, drawstyle="steps-pre")
    precision, recall, _ = _operating_point(pictures)
    if precision is not None:
        _mark_point(axes, recall, precision)
    return figure


def recall_bars(per_kind: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """How many defects of each kind were found, weakest kind first.

    Args:
        per_kind: Kind -> ``{"recall": share in [0, 1], "count": n}``; either may be ``None`` or missing.
    """
    rows = sorted(per_kind.items(), key=lambda item: (_number(item[1].get("recall"), -1.0), item[0]))
    figure = Figure(figsize=(_WIDE, 0.75 + 0.36 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots()
    _style(axes, "", xlabel="defects found")
    for row, (_, values) in enumerate(rows):
        recall = _number(values.get("recall"), float("nan"))
        axes.barh(row, 1, height=0.56, color=GRID, alpha=0.5)
        if isfinite(recall):
            axes.barh(row, recall, height=0.56, color=GOOD)
        text = f"{100 * recall:.0f} %" if isfinite(recall) else "–"
        axes.text(1.015, row, text, va="center", color=INK, fontsize=10)
    axes.set_xlim(0, 1.09)
    axes.set_ylim(max(1, len(rows)) - 0.4, -0.6)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
    axes.set_yticklabels([f"{_plain(kind)} ({_count(values.get('count'))})" for kind, values in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    return figure


def training_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Losses by epoch, the best validation epoch marked, and the learning rate below.

    Args:
        history: One row per epoch with ``epoch``, ``train_loss``, ``val_loss``, ``learning_rate``; missing values
            leave gaps.
    """
    figure = Figure(figsize=(_WIDE, 3.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    _style(upper, "loss")
    _style(lower, "learning\nrate", xlabel="epoch")
    epochs = np.array([_number(row.get("epoch"), index) for index, row in enumerate(history)])
    losses = {"training": _column(history, "train_loss"), "validation": _column(history, "val_loss")}
    marker = "o" if len(history) < 3 else ""
    for (name, values), colour in zip(losses.items(), (CALIBRATION, GOOD), strict=True):
        if np.isfinite(values).any():
            upper.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, label=name)
    validation = losses["validation"]
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        label = f"best, epoch {epochs[best]:.0f}"
        upper.plot(epochs[best], validation[best], "o", color=DEFECT, markersize=6, label=label)
    known = np.concatenate([values[np.isfinite(values)] for values in losses.values()])
    if known.size and known.min() > 0 and known.max() > 15 * known.min():
        upper.set_yscale("log")
        upper.yaxis.set_minor_locator(NullLocator())
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rate = _column(history, "learning_rate")
    if np.isfinite(rate).any():
        lower.plot(epochs, rate, color=CALIBRATION, linewidth=1.5, marker=marker)
        top = float(np.nanmax(rate))
        lower.set_ylim(0, 1.2 * top if top > 0 else 1)
        lower.yaxis.set_major_locator(FixedLocator([0, top]))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    lower.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    if upper.has_data():
        _legend(upper)
    upper.tick_params(labelbottom=False)
    return figure


def to_svg(figure: Figure, name: str, description: str = "") -> str:
    """A figure as an ``<svg>`` element for a page: same bytes for the same figure, words stay words.

    Colours become CSS variables of the page (``--ink``, ``--muted``, ``--line``, ``--plot-good``, …) with the light
    colours as fallback, and there is no fixed size: the page decides.

    Args:
        figure: The figure.
        name: Unique on the page; letters, digits and hyphens. It prefixes every id.
        description: What a screen reader says.
    """
    buffer = io.StringIO()
    # The two settings are only read from matplotlib's globals, hence the lock around the moment they differ.
    with _SVG_SETTINGS_LOCK, mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style\b.*?</style>\s*", "", svg, flags=re.DOTALL)  # it would style the whole page
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    spoken = re.sub(r'[&<>"]', " ", clean(description or name))
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    look = 'stroke-linejoin="round" style="font-family: var(--plot-font, sans-serif)"'
    head = f'<svg {namespaces} {view_box[0] if view_box else ""} {look} role="img" aria-label="{spoken}"'
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'(?<= id=")(?=[^"]*")|(?<=href="#)|(?<=url\(#)', f"{name}-", body)
    for colour, variable in _THEME.items():
        body = re.sub(rf"(?<=[:\s]){colour}\b", f"var({variable}, {colour})", body)
    return f"{head}>{body}"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file on white, whole or not at all.

    Raises:
        SpotterError: The file cannot be written.
    """
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return write_atomic(path, buffer.getvalue())


def _groups(
    pictures: Sequence[PictureResult], calibration_scores: Sequence[float]
) -> list[tuple[str, list[float], str]]:
    """Rows of dots: name, scores, colour; calibration and good first, then the kinds by name."""
    good = [picture.score for picture in pictures if not picture.is_defect]
    kinds: dict[str, list[float]] = {}
    for picture in sorted((picture for picture in pictures if picture.is_defect), key=lambda p: p.kind):
        kinds.setdefault(picture.kind, []).append(picture.score)
    rows = [("calibration, good", list(calibration_scores), CALIBRATION), ("test, good", good, GOOD)]
    rows += [(kind, scores, DEFECT) for kind, scores in kinds.items()]
    return [row for row in rows if row[1]] or rows[:1]


def _score_axis(axes: Axes, scores: NDArray[np.float64], threshold: float) -> None:
    """Linear around the limit; logarithmic beyond twice the limit where some scores are far out."""
    knee = 2 * max(abs(threshold), 0.5)
    low, high = float(scores.min()), float(scores.max())
    pad = 0.03 * (high - low) or 0.1
    axes.set_xlim(low - pad, high + pad)
    if high <= 4 * knee:
        return
    axes.set_xscale("symlog", linthresh=knee, linscale=1.6)
    axes.set_xlim(low - 0.05 * knee, high * 1.15)
    decades = [step * 10.0**power for power in range(-1, 13) for step in (1, 2, 5)]
    ticks = [0.0, knee / 2, knee] + [tick for tick in decades if tick > 1.6 * knee]
    ticks += [-tick for tick in ticks[1:]]
    axes.xaxis.set_major_locator(FixedLocator(sorted(tick for tick in ticks if low <= tick <= high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _is_far_right(axes: Axes, score: float) -> bool:
    return bool(axes.transAxes.inverted().transform(axes.transData.transform((score, 0)))[0] > 0.85)


def _edges(axes: Axes, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Histogram edges that look equally wide on the axis's scale."""
    scale = axes.xaxis.get_transform()
    low, high = scale.transform(np.array([scores.min(), scores.max() + 1e-9]))
    return np.asarray(scale.inverted().transform(np.linspace(low, high, 49)), np.float64)


def _thinned(values: Sequence[float]) -> NDArray[np.float64]:
    """At most 1,500 of the values, evenly by rank, extremes included."""
    ranked = np.sort(np.asarray(values, np.float64))
    if ranked.size <= _MOST_DOTS:
        return ranked
    return np.asarray(ranked[np.linspace(0, ranked.size - 1, _MOST_DOTS).round().astype(int)], np.float64)


def _scores_and_labels(pictures: Sequence[PictureResult]) -> tuple[list[float], list[bool]]:
    # Parts that could not be judged rank above all others: their score is infinite.
    highest = max((picture.score for picture in pictures if isfinite(picture.score)), default=0.0)
    scores = [min(picture.score, highest + 1) for picture in pictures]
    return scores, [picture.is_defect for picture in pictures]


def _operating_point(pictures: Sequence[PictureResult]) -> tuple[float | None, float, float]:
    """Precision (``None`` if nothing was rejected), recall and false reject rate; both classes must be present."""
    rejected = [picture for picture in pictures if picture.verdict is Verdict.DEFECT]
    hits = sum(picture.is_defect for picture in rejected)
    defects = sum(picture.is_defect for picture in pictures)
    precision = hits / len(rejected) if rejected else None
    return precision, hits / defects, (len(rejected) - hits) / (len(pictures) - defects)


def _mark_point(axes: Axes, x: float, y: float) -> None:
    axes.plot(x, y, "o", color=DEFECT, markersize=8, markeredgecolor="white", markeredgewidth=1, zorder=5)
    right, top = x > 0.6, y > 0.25
    axes.annotate(
        "working point",
        (x, y),
        xytext=(-9 if right else 9, -9 if top else 9),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if top else "bottom",
        color=INK,
        fontsize=10,
    )


def _square(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_HALF, 4.5), layout="constrained")
    axes = figure.subplots()
    _style(axes, ylabel, xlabel)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    return figure, axes


def _without_curve(figure: Figure, axes: Axes) -> Figure:
    axes.text(
        0.5,
        0.5,
        "needs good and defective\ntest pictures",
        ha="center",
        va="center",
        color=MUTED,
        fontsize=11,
    )
    return figure


def _style(axes: Axes, ylabel: str, xlabel: str = "") -> None:
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=10, color=GRID, which="both")
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel, color=MUTED, fontsize=10)
    axes.set_ylabel(ylabel, color=MUTED, fontsize=10)


def _legend(axes: Axes) -> None:
    """One line of keys above the plot, where no bar or curve can hide them."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        borderaxespad=0.2,
        borderpad=0,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handlelength=1.2,
    )


def _column(history: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    return np.array([_number(row.get(key), float("nan")) for row in history], np.float64)


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and isfinite(value) else otherwise


def _count(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) and isfinite(value) else "–"


def _plain(name: str) -> str:
    """A user's word as matplotlib shall print it: no control characters, no mathematics between dollar signs."""
    short = clean(name)
    return (short if len(short) <= 40 else f"{short[:24]}…{short[-14:]}").replace("$", r"\$")
