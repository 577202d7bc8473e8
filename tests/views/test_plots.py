"""Plots: every amount of data draws, SVG is clean and repeatable, matplotlib's settings stay as they were."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import cv2
import matplotlib as mpl
import numpy as np
import pytest

from anomaly_spotter.views import plots

HISTORY = [
    {"epoch": i + 1, "train_loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1), "learning_rate": 1e-4}
    for i in range(9)
]


def drawn(figure):
    svg = plots.to_svg(figure, "plot")
    ET.fromstring(svg)
    return svg


@pytest.mark.parametrize("labels", ["both", "good", "defective", "none"])
def test_every_mix_of_classes_draws(results, labels):
    rows = [
        row
        for row in results
        if labels == "both" or (labels != "none" and row.is_defect == (labels == "defective"))
    ]
    assert ("crack" in drawn(plots.score_histogram(rows, [0.1, 0.4], 1.0))) == (
        labels in ("both", "defective")
    )
    for figure in (plots.roc(rows), plots.precision_recall(rows)):
        assert ("working point" in drawn(figure)) == (labels == "both")


def test_one_picture_and_equal_scores(results):
    drawn(plots.score_histogram(results[:1], [], 1.0))
    drawn(plots.score_histogram([replace(row, score=1.0) for row in results], [1.0, 1.0], 1.0))


def test_far_scores_get_a_logarithmic_tail(results):
    far = [replace(row, score=row.score * 1000 if row.kind == "crack" else row.score) for row in results]
    figure = plots.score_histogram(far, [0.3], 1.0)
    assert figure.axes[1].get_xscale() == "symlog"
    assert plots.score_histogram(results, [0.3], 1.0).axes[1].get_xscale() == "linear"
    drawn(figure)


def test_many_pictures_stay_a_small_file(results):
    many = [replace(results[0], score=float(score)) for score in np.linspace(0, 1, 30_000)]
    assert len(drawn(plots.score_histogram(many, [0.3], 1.0))) < 400_000


def test_working_point_is_where_the_decisions_are(results):
    good = [row for row in results if not row.is_defect]
    bad = [row for row in results if row.is_defect]
    expected = (
        sum(row.verdict == "DEFECT" for row in good) / len(good),
        sum(row.verdict == "DEFECT" for row in bad) / len(bad),
    )
    figure = plots.roc(results)
    points = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert (points[0].get_xdata()[0], points[0].get_ydata()[0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    "history",
    [
        [],
        HISTORY[:1],
        HISTORY,
        [{"epoch": 1}],
        [{"train_loss": float("nan"), "val_loss": float("inf")}, {"train_loss": 0.5}],
    ],
)
def test_training_curves_with_gaps(history):
    drawn(plots.training_curves(history))


def test_recall_bars_with_gaps_and_weakest_first():
    figure = plots.recall_bars(
        {"a": {"recall": 0.9, "count": 10}, "b": {"recall": 0.1}, "c": {"recall": None}}
    )
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["c (–)", "b (–)", "a (10)"]
    drawn(figure)
    drawn(plots.recall_bars({}))


@pytest.mark.parametrize(
    "kind", ["<script>alert(1)</script>", "$\\frac{1}{0}$", "a & b", "_hidden", "x" * 300, "tab\x07\udcff"]
)
def test_hostile_kind_names_are_only_text(results, kind):
    rows = [replace(row, kind=kind) if row.is_defect else row for row in results]
    for svg in (
        drawn(plots.score_histogram(rows, [], 1.0)),
        drawn(plots.recall_bars({kind: {"recall": 1.0}})),
    ):
        assert "<script" not in svg


def test_svg_is_repeatable_and_for_a_page(results):
    first, second = (plots.to_svg(plots.roc(results), "one", 'ROC "curve" <b>') for _ in range(2))
    assert first == second
    assert first.startswith("<svg ")
    head = first.split(">", 1)[0]
    assert "width" not in head
    assert "height" not in head
    assert not any(unwanted in first for unwanted in ("<?xml", "<!DOCTYPE", "<metadata", "<style", "DejaVu"))
    assert "var(--ink, #1b2026)" in first
    other = plots.to_svg(plots.roc(results), "two")
    ids = [{node.get("id") for node in ET.fromstring(svg).iter()} - {None} for svg in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_global_settings_stay(results, tmp_path):
    before = dict(mpl.rcParams)
    plots.to_svg(plots.roc(results), "plot")
    plots.save_figure(plots.recall_bars({}), tmp_path / "bars.png")
    assert dict(mpl.rcParams) == before


def test_save_figure_is_a_repeatable_png(results, tmp_path):
    paths = [plots.save_figure(plots.roc(results), tmp_path / f"{index}.png") for index in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert cv2.imread(str(paths[0])).shape[0] > 300
