"""The heat map: matplotlib's colours, rising brightness, one scale for all pictures."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_spotter.views.heatmap import colour_bar, heatmap, unit_scale


def test_colours_are_matplotlibs_inferno():
    ramp = np.linspace(0, 2, 256, dtype=np.float32)[None]
    expected = np.rint(mpl.colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    np.testing.assert_array_equal(heatmap(ramp)[0], expected)


def test_brightness_rises_with_the_score():
    shown = heatmap(np.linspace(-0.5, 2.5, 400, dtype=np.float32)[None])[0]
    luminance = shown @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) >= -1).all()  # a step of rounding at most
    assert luminance[-1] > luminance[0] + 200


def test_the_same_score_has_the_same_colour_in_every_picture():
    calm = np.full((4, 4), 0.2, np.float32)
    calm[0, 0] = 0.9
    wild = np.full((4, 4), 50.0, np.float32)
    wild[0, 0] = 0.9
    np.testing.assert_array_equal(heatmap(calm)[0, 0], heatmap(wild)[0, 0])


def test_range_per_picture_for_the_seed_preset():
    scores = np.array([[0.1, 0.2, 0.3]], np.float32)
    shown = heatmap(scores, low=float(scores.min()), high=float(scores.max()))
    np.testing.assert_array_equal(shown[0, [0, 2]], heatmap(np.array([[0.0, 2.0]], np.float32))[0])


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 0.0), (0.0, float("nan"))])
def test_an_empty_range_is_calm(low, high):
    assert not unit_scale(np.ones((3, 3), np.float32), low, high).any()


@given(st.floats(width=32), st.floats(-5, 5), st.floats(0.01, 10))
def test_any_score_lands_in_range(score, low, span):
    unit = unit_scale(np.array([[score]], np.float32), low, low + span)
    assert unit.dtype == np.float32
    assert 0 <= unit[0, 0] <= 1


def test_colour_bar_runs_from_left_to_right():
    bar = colour_bar(100, 8)
    assert bar.shape == (8, 100, 3)
    np.testing.assert_array_equal(bar[0, [0, -1]], heatmap(np.array([[0.0, 2.0]], np.float32))[0])
