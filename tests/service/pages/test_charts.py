"""Charts are whole XML without style or script, show what they are given, and escape words."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_spotter.service.pages.charts import WIDTH, Line, gauge, lines, score_histogram
from anomaly_spotter.service.pages.words import Words

EN = Words("en")
finite = st.floats(-5, 50, allow_nan=False)


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    for element in root.iter():
        assert "style" not in element.attrib
        assert not [name for name in element.attrib if name.startswith("on")]
    return root


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter("text")]


@given(st.lists(finite, min_size=1, max_size=40), st.lists(st.one_of(finite, st.just(math.inf)), max_size=40))
def test_bars_stay_inside_whatever_the_scores(calibration, recent):
    root = parsed(score_histogram(calibration, recent, 1.0, EN))
    for bar in root.iter("rect"):
        assert 0 <= float(bar.attrib["x"]) <= WIDTH
        assert 0 <= float(bar.attrib["y"]) <= 280
        assert float(bar.attrib["height"]) >= 0


def test_bars_add_up_to_all_calibration_parts():
    root = parsed(score_histogram([0.1, 0.2, 0.2, 0.9], [], 1.0, EN))
    heights = [float(bar.attrib["height"]) for bar in root.iter("rect")]
    assert len(heights) == 3
    assert max(heights) == pytest.approx(sum(heights) / 2, rel=0.01)  # two of the four parts share a bar
    assert "4 good parts" in root.attrib["aria-label"]


@given(st.lists(st.tuples(finite, st.one_of(finite, st.none())), min_size=1, max_size=30))
def test_curves_leave_gaps_where_nothing_is_known(points):
    points = sorted(points, key=lambda point: point[0])
    root = parsed(lines([Line("rate", points)], EN, label="rate", x_labels=[]))
    drawn = [each for each in root.iter("path") if each.attrib["class"] == "line"]
    dots = list(root.iter("circle"))
    runs = [run for run in "".join("x" if y is not None else " " for _, y in points).split() if run]
    assert len(drawn) + len(dots) == len(runs)


def test_a_level_is_drawn_and_named():
    root = parsed(lines([Line("rate", [(0, 0.1), (1, 0.2)])], EN, label="rate", x_labels=[(0, "9:00")], percent=True, level=(0.05, "promised")))  # fmt: skip
    assert {"promised", "9:00"} <= set(texts(root))
    assert any(text.endswith("%") for text in texts(root))


@given(st.one_of(st.none(), finite))
def test_the_needle_lies_on_its_side_of_the_limit(score):
    root = parsed(gauge(score, 1.0, EN))
    limit = float(next(root.iter("path")).attrib["d"].split()[0].removeprefix("M"))
    needles = list(root.iter("circle"))
    assert len(needles) == (score is not None)
    if score is not None and abs(score - 1) > 0.05:
        assert (float(needles[0].attrib["cx"]) > limit) == (score > 1)


def test_words_are_escaped():
    svg = lines([Line("x", [(0, 1)])], EN, label='<script>"', x_labels=[(0, "<b>&")])
    assert texts(parsed(svg))[-1] == "<b>&"
    assert "<script>" not in svg
