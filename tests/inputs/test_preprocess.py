from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_spotter.config import PreprocessingConfig
from anomaly_spotter.inputs.preprocess import Preprocessor, from_network, is_grey, to_network


def fit(sizes, *, is_grey=True, **config) -> Preprocessor:
    return Preprocessor.fit(PreprocessingConfig(**config), sizes, is_grey=is_grey)


@pytest.mark.parametrize(
    ("sizes", "config", "canvas"),
    [
        ([(512, 512)], {"long_side": 256}, (256, 256)),
        ([(1600, 200)], {"long_side": 256}, (32, 256)),
        ([(200, 600)], {"long_side": 256}, (256, 80)),
        ([(100, 90)], {"long_side": 256}, (96, 112)),  # never enlarged beyond the next multiple of 16
        ([(640, 480), (640, 480), (10, 900)], {"long_side": 256}, (192, 256)),  # an odd one does not bend it
        ([(640, 480)], {"long_side": 128, "aspect": "squash"}, (128, 128)),
    ],
)
def test_canvas_follows_the_pictures(sizes, config, canvas):
    fitted = fit(sizes, **config)
    assert (fitted.height, fitted.width) == canvas


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    colour=st.booleans(),
    channels=st.sampled_from([1, 3]),
    aspect=st.sampled_from(["keep", "squash"]),
)
def test_any_picture_fits_any_canvas_and_comes_back(height, width, colour, channels, aspect):
    canvas = Preprocessor(height=64, width=96, channels=channels, aspect=aspect)
    shape = (height, width, 3) if colour else (height, width)
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    prepared = canvas.prepare(picture)
    assert prepared.shape == (64, 96, channels)
    assert prepared.dtype == np.uint8
    place = canvas.placement(shape)
    placed = place.crop(np.zeros((64, 96), np.float32))
    assert placed.shape == (place.height, place.width)
    assert canvas.map_to_picture(placed, shape).shape == (height, width)
    assert canvas.canvas_to_picture(prepared, picture).shape == shape


def test_aspect_ratio_is_kept_and_the_map_returns_to_the_same_place():
    canvas = Preprocessor(height=64, width=64, channels=1, aspect="keep")
    picture = np.zeros((100, 200), np.uint8)
    picture[40:60, 150:180] = 255
    prepared = canvas.prepare(picture)[..., 0]
    place = canvas.placement(picture.shape)
    assert (place.width, place.height, place.left, place.top) == (64, 32, 0, 16)
    back = canvas.map_to_picture(place.crop(prepared).astype(np.float32), picture.shape)
    ys, xs = np.nonzero(back > 128)
    assert abs(ys.min() - 40) <= 2
    assert abs(ys.max() - 59) <= 2
    assert abs(xs.min() - 150) <= 2
    assert abs(xs.max() - 179) <= 2


def test_padding_repeats_the_border():
    canvas = Preprocessor(height=64, width=64, channels=1, aspect="keep")
    assert (canvas.prepare(np.full((32, 64), 77, np.uint8)) == 77).all()


def test_network_scale_is_minus_one_to_one_and_exactly_reversible():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scaled = to_network(levels)
    assert scaled.shape == (1, 1, 16, 16)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(from_network(scaled), levels)


def test_grey_is_seen_in_any_form():
    grey = np.random.default_rng(0).integers(0, 256, (5, 6), dtype=np.uint8)
    assert is_grey(grey)
    assert is_grey(np.dstack([grey] * 3))
    assert not is_grey(np.dstack([grey, grey, grey // 2]))


def test_dict_round_trip():
    fitted = fit([(640, 480)], is_grey=False)
    assert fitted.channels == 3
    assert Preprocessor.from_dict(fitted.to_dict()) == fitted
