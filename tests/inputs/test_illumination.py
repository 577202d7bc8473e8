"""Light normalisation: a drift of the lamp goes, the part's own look stays."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from anomaly_spotter.inputs.illumination import Illumination


def scene(rng, channels=1, height=96, width=128):
    picture = np.full((height, width), 90, np.uint8)
    cv2.circle(picture, (50, 48), 34, 170, -1, cv2.LINE_AA)
    cv2.rectangle(picture, (90, 20), (115, 60), 130, -1)
    noisy = picture[..., None] + rng.normal(0, 3, (height, width, channels))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def lit(canvas, gain, shift):
    return np.clip(np.rint(canvas * float(gain) + shift), 0, 255).astype(np.uint8)


@pytest.fixture(params=[1, 3], ids=["grey", "rgb"])
def good(request):
    rng = np.random.default_rng(0)
    return [scene(rng, request.param) for _ in range(8)]


@pytest.mark.parametrize(("gain", "shift"), [(1, 20), (1, -30), (0.8, 0), (1.15, 5), (0.7, 40), (1.3, -50)])
def test_a_shift_and_a_gain_of_the_whole_picture_are_removed(good, gain, shift):
    light = Illumination.fit("robust", good)
    reference = light.apply(good[0]).astype(int)
    changed = lit(good[0], gain, shift)
    found = light.apply(changed)
    assert found.shape == good[0].shape
    assert found.dtype == np.uint8
    before = np.abs(changed.astype(int) - good[0]).mean()
    assert before > 8
    assert np.abs(found - reference).mean() < 1.5
    assert np.abs(found - reference).mean() < before / 8


def test_good_pictures_in_usual_light_are_left_nearly_as_they_are(good):
    light = Illumination.fit("robust", good)
    for one in good:
        assert np.abs(light.apply(one).astype(int) - one).mean() < 1.5


def test_a_defect_keeps_its_contrast(good):
    """The quartiles do not see what is small, so the light is not read off the defect."""
    light = Illumination.fit("robust", good)
    broken = good[0].copy()
    broken[40:58, 40:62] = 0  # a thirtieth of the picture
    expected, found = light.apply(good[0]).astype(int), light.apply(broken).astype(int)
    untouched = np.ones(broken.shape[:2], bool)
    untouched[40:58, 40:62] = False
    assert np.abs(found - expected)[untouched].mean() < 2
    assert (expected - found)[~untouched].mean() > 100


@pytest.mark.parametrize("method", ["robust", "background"])
@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_picture_without_contrast_is_not_blown_up_to_noise(good, method, level):
    light = Illumination.fit(method, good)
    rng = np.random.default_rng(1)
    faint = np.clip(level + rng.integers(-1, 2, good[0].shape), 0, 255).astype(np.uint8)
    found = light.apply(faint)
    assert found.shape == faint.shape
    assert np.ptp(found.astype(int)) <= 40


def test_good_pictures_of_one_level_only_have_their_level_moved():
    rng = np.random.default_rng(2)
    flat = [(120 + rng.integers(-2, 3, (32, 48, 1))).astype(np.uint8) for _ in range(5)]
    light = Illumination.fit("robust", flat)
    found = light.apply(flat[0] + 30)
    assert abs(found.mean() - flat[0].mean()) < 1
    assert np.ptp(found) == np.ptp(flat[0])


def test_a_slope_of_the_light_is_evened_out(good):
    light = Illumination.fit("background", good)
    slope = np.linspace(0.6, 1.3, good[0].shape[1])[None, :, None]
    reference = light.apply(good[0]).astype(int)
    sloped = np.clip(good[0] * slope, 0, 255).astype(np.uint8)
    found = light.apply(sloped).astype(int)
    assert found.shape == good[0].shape
    before = np.abs(sloped.astype(int) - good[0]).mean()
    assert np.abs(found - reference).mean() < before / 3


def test_a_small_scratch_survives_the_division_by_the_background(good):
    light = Illumination.fit("background", good)
    scratched = good[0].copy()
    scratched[30:32, 40:70] = 20
    off = light.apply(scratched).astype(int) - light.apply(good[0]).astype(int)
    assert off[30:32, 40:70].mean() < -60
    assert np.abs(off[60:]).mean() < 3


@pytest.mark.parametrize("method", ["robust", "background"])
@pytest.mark.parametrize("size", [(16, 16), (16, 400), (33, 70)])
def test_any_canvas_keeps_its_shape(method, size):
    canvas = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert Illumination.fit(method, [canvas]).apply(canvas).shape == (*size, 3)


def test_round_trip_is_exact(good):
    light = Illumination.fit("robust", good)
    assert Illumination(**json.loads(json.dumps(light.to_dict()))) == light
    assert light.low < light.high
