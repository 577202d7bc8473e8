"""Benchmark summary to plots: AUROC by category and model, quality against time, and what perturbations change."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from anomaly_spotter.views.plots import CALIBRATION, DEFECT, GOOD, GRID, INK, MUTED, save_figure
from anomaly_spotter.views.plots import _legend as legend
from anomaly_spotter.views.plots import _plain as plain
from anomaly_spotter.views.plots import _style as style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    Row = Mapping[str, Any]

_COLOURS = (GOOD, DEFECT, "#2f7d5b", "#7b4ea3", "#b07d12", "#3a3f45", "#b03a78", "#5a9bbf")
_MARKERS = "osD^vP*X"
_WIDTH = 10.0  # inches


def write_benchmark_plots(summary: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Write the plots that the summary allows as PNG; returns the files by what they show.

    Args:
        summary: Rows as :func:`anomaly_spotter.fleet.benchmark_summary.summarise` makes them.
        folder: Where to.

    Raises:
        SpotterError: A file cannot be written.
    """
    figures: dict[str, Figure] = {}
    if any(row["image"]["auroc"] for row in summary):
        figures = {"auroc": auroc_plot(summary), "cost": cost_plot(summary)}
    if any(row["robustness"] for row in summary):
        figures["robustness"] = robustness_plot(summary)
    return {name: save_figure(figure, folder / f"benchmark_{name}.png") for name, figure in figures.items()}


def auroc_plot(summary: Sequence[Row]) -> Figure:
    """One line per category, one mark per model with its deviation, and the best trivial baseline as a bar."""
    categories, models = _distinct(summary, "category"), _distinct(summary, "model")
    spacing = 0.32 + 0.1 * len(models)
    figure = Figure(figsize=(_WIDTH, 1.2 + spacing * len(categories)), layout="constrained")
    axes = figure.subplots()
    style(axes, "", xlabel="image AUROC")
    offsets = _offsets(len(models))
    lowest = 1.0
    for row in summary:
        value = row["image"]["auroc"]
        if value is None:
            continue
        number = models.index(row["model"])
        y = categories.index(row["category"]) + offsets[number]
        lowest = min(lowest, value["mean"] - (value["deviation"] or 0))
        axes.errorbar(value["mean"], y, xerr=value["deviation"], capsize=3, **_mark(number), linewidth=1.3)
    for line, category in enumerate(categories):
        row = next(row for row in summary if row["category"] == category)
        trivial = [value["mean"] for value in row["image"]["baselines"].values() if value]
        if trivial:
            axes.vlines(max(trivial), line - 0.38, line + 0.38, color=CALIBRATION, linewidth=2.5)
            lowest = min(lowest, max(trivial))
    for number, model in enumerate(models):
        axes.plot([], [], label=plain(model), linestyle="none", **_mark(number))
    axes.plot([], [], label="best trivial baseline", color=CALIBRATION, linewidth=2.5)
    axes.set_xlim(*_auroc_range(lowest))
    axes.xaxis.set_major_locator(_auroc_ticks(lowest))
    _lines(axes, [plain(category) for category in categories])
    legend(axes)
    return figure


def cost_plot(summary: Sequence[Row]) -> Figure:
    """Image AUROC against milliseconds per decoded picture: faint for each category, full for the mean of a model."""
    models = _distinct(summary, "model")
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    style(axes, "image AUROC", xlabel="milliseconds per picture, one at a time (logarithmic)")
    axes.set_xscale("log")
    times: list[float] = []
    lowest = 1.0
    for number, model in enumerate(models):
        points = [
            (row["cost"]["ms_single"]["mean"], row["image"]["auroc"]["mean"])
            for row in summary
            if row["model"] == model and row["image"]["auroc"] and row["cost"]["ms_single"]
        ]
        if not points:
            continue
        milliseconds, scores = zip(*points, strict=True)
        times += milliseconds
        lowest = min(lowest, *scores)
        mark = _mark(number)
        if len(points) > 1:
            axes.plot(milliseconds, scores, linestyle="none", alpha=0.35, **(mark | {"markersize": 5}))
        centre = (float(np.exp(np.mean(np.log(milliseconds)))), statistics.fmean(scores))
        axes.plot(*centre, linestyle="none", **(mark | {"markersize": 11}))
        axes.annotate(
            f"{plain(model)}: {centre[1]:.3f}, {centre[0]:.3g} ms",
            centre,
            xytext=(10, 0),
            textcoords="offset points",
            color=mark["color"],
            fontsize=10,
            va="center",
        )
    if times:
        axes.set_xlim(min(times) / 1.6, max(times) * 3)
    ticks = [step * 10.0**power for power in range(-2, 5) for step in (1, 2, 5)]
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(*_auroc_range(lowest))
    axes.yaxis.set_major_locator(_auroc_ticks(lowest))
    return figure


def robustness_plot(summary: Sequence[Row]) -> Figure:
    """How far each perturbation moves AUROC, recall and false rejects, mean over the categories of each model."""
    measured = [row for row in summary if row["robustness"]]
    base, *names = measured[0]["robustness"]
    models = _distinct(measured, "model")
    offsets = _offsets(len(models))
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.34 * len(names)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "auroc": "change of AUROC",
        "recall": "change of recall",
        "false_reject_rate": "change of false rejects",
    }
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        style(axes, "", xlabel=title)
        axes.axvline(0, color=MUTED, linewidth=1)
        seen = [-0.005, 0.005]
        for number, model in enumerate(models):
            rows = [row["robustness"] for row in measured if row["model"] == model]
            mark = _mark(number) | {"markersize": 5}
            for line, name in enumerate(names):
                changes = [row[name][key]["mean"] - row[base][key]["mean"] for row in rows if row[name][key]]
                if changes:
                    seen.append(statistics.fmean(changes))
                    y = line + offsets[number]
                    axes.hlines(y, 0, seen[-1], color=mark["color"], linewidth=1.6)
                    axes.plot(seen[-1], y, **mark)
        pad = 0.07 * (max(seen) - min(seen))
        axes.set_xlim(min(seen) - pad, max(seen) + pad)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))
        _lines(axes, names)
    panels[1].tick_params(labelleft=False)
    panels[2].tick_params(labelleft=False)
    keys = [
        Line2D([], [], linestyle="none", label=plain(model), **_mark(n)) for n, model in enumerate(models)
    ]
    figure.legend(
        handles=keys,
        loc="outside upper left",
        ncols=6,
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handlelength=1.2,
    )
    return figure


def _auroc_range(lowest: float) -> tuple[float, float]:
    """Axis limits from a little below the lowest value to a little above 1, never so narrow that noise looks large."""
    low = max(0.0, min(lowest, 0.95))
    return low - 0.08 * (1 - low), 1 + 0.05 * (1 - low)


def _auroc_ticks(lowest: float) -> FixedLocator:
    low, _ = _auroc_range(lowest)
    return FixedLocator(
        [
            tick
            for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, 1.0)
            if low <= tick < 1.0001
        ]
    )


def _mark(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "markersize": 7,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def _offsets(count: int) -> list[float]:
    """Vertical places of ``count`` marks on one line, from -0.3 to 0.3."""
    return [0.0] if count == 1 else list(np.linspace(-0.3, 0.3, count))


def _lines(axes: Axes, labels: Sequence[str]) -> None:
    """Name the lines 0, 1, ... from top to bottom."""
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.yaxis.set_major_locator(FixedLocator(range(len(labels))))
    axes.set_yticklabels(list(labels))
    axes.tick_params(axis="y", length=0)
    for boundary in range(1, len(labels)):
        axes.axhline(boundary - 0.5, color=GRID, linewidth=0.7)
    axes.grid(axis="y", visible=False)


def _distinct(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))
