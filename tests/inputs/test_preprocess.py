from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_spotter.config import PreprocessingConfig
from anomaly_spotter.inputs.alignment import fit_aligner
from anomaly_spotter.inputs.illumination import Illumination
from anomaly_spotter.inputs.preprocess import MULTIPLE, Preprocessor, from_network, is_grey, to_network
from tests.inputs.test_alignment import SIDE, Scene

KEY = Scene("key")


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
    place = canvas.place(picture)
    prepared = canvas.prepare(picture, place)
    assert prepared.shape == (64, 96, channels)
    assert prepared.dtype == np.uint8
    assert place.reason is None
    assert place.outside is None
    placed = place.crop(np.zeros((64, 96), np.float32))
    assert placed.shape == (place.height, place.width)
    assert canvas.map_to_picture(placed, place, shape).shape == (height, width)
    assert canvas.canvas_to_picture(prepared, place, picture).shape == shape


def test_aspect_ratio_is_kept_and_the_map_returns_to_the_same_place():
    canvas = Preprocessor(height=64, width=64, channels=1, aspect="keep")
    picture = np.zeros((100, 200), np.uint8)
    picture[40:60, 150:180] = 255
    place = canvas.place(picture)
    prepared = canvas.prepare(picture, place)[..., 0]
    assert (place.width, place.height, place.left, place.top) == (64, 32, 0, 16)
    back = canvas.map_to_picture(place.crop(prepared).astype(np.float32), place, picture.shape)
    ys, xs = np.nonzero(back > 128)
    assert abs(ys.min() - 40) <= 2
    assert abs(ys.max() - 59) <= 2
    assert abs(xs.min() - 150) <= 2
    assert abs(xs.max() - 179) <= 2


def test_padding_repeats_the_border():
    canvas = Preprocessor(height=64, width=64, channels=1, aspect="keep")
    picture = np.full((32, 64), 77, np.uint8)
    assert (canvas.prepare(picture, canvas.place(picture)) == 77).all()


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
    assert Preprocessor.from_parts(json.loads(json.dumps(fitted.to_dict())), fitted.arrays()) == fitted


def test_everything_learned_comes_back_from_plain_values_and_arrays(aligned):
    region = np.zeros((aligned.height, aligned.width), bool)
    region[5:40, 7:50] = True
    fitted = dataclasses.replace(aligned, region=region, illumination=Illumination("robust", 51.25, 180.5))
    again = Preprocessor.from_parts(json.loads(json.dumps(fitted.to_dict())), fitted.arrays())
    assert again.illumination == fitted.illumination
    np.testing.assert_array_equal(again.region, region)
    picture = KEY.draw(np.random.default_rng(9))
    before, after = fitted.place(picture), again.place(picture)
    np.testing.assert_array_equal(after.matrix, before.matrix)
    np.testing.assert_array_equal(after.outside, before.outside)
    np.testing.assert_array_equal(again.prepare(picture, after), fitted.prepare(picture, before))


# --- where a point of the picture lies on the canvas ------------------------------------------------------------------


def spot(shape, x, y):
    """A picture with one soft bright spot, whose centre of mass is (x, y)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))).astype(np.float32)


def centre_of_mass(picture):
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    weight = np.where(picture > 0.05 * picture.max(), picture, 0).astype(float)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("aspect", ["keep", "squash"])
@pytest.mark.parametrize("shape", [(120, 200), (64, 96), (30, 40), (101, 77)])
def test_a_point_goes_to_where_the_matrix_says_and_returns(aspect, shape):
    canvas = Preprocessor(height=64, width=96, channels=1, aspect=aspect)
    x, y = 0.6 * shape[1], 0.4 * shape[0]
    picture = np.rint(spot(shape, x, y)).astype(np.uint8)
    place = canvas.place(picture)
    prepared = canvas.prepare(picture, place)[..., 0]
    np.testing.assert_allclose(place.matrix @ [*centre_of_mass(prepared), 1], (x, y), atol=0.5)
    back = canvas.map_to_picture(place.crop(prepared).astype(np.float32), place, shape)
    np.testing.assert_allclose(centre_of_mass(back), (x, y), atol=0.5)
    shown = canvas.canvas_to_picture(prepared[..., None], place, picture)
    np.testing.assert_allclose(centre_of_mass(shown), (x, y), atol=0.5)


@pytest.fixture(scope="module", params=[160, 64], ids=["full-size", "reduced"])
def aligned(request) -> Preprocessor:
    aligner = fit_aligner("template", KEY.goods(16))[0]
    config = PreprocessingConfig(long_side=request.param)
    return Preprocessor.fit(config, [(SIDE, SIDE)], is_grey=True, aligner=aligner)


def test_an_aligned_canvas_shows_the_whole_frame_in_its_middle_and_hardly_enlarged(aligned):
    frame = aligned.aligner.frame
    assert aligned.height % MULTIPLE == aligned.width % MULTIPLE == 0
    picture = KEY.draw(np.random.default_rng(2), (80.0, 80.0, 0.5))
    right, bottom = frame[0] - 1, frame[1] - 1
    corners = np.array([[0, right, right, 0], [0, 0, bottom, bottom], [1, 1, 1, 1]])
    x, y = on_canvas(aligned.place(picture).matrix, aligned.aligner.locate(picture).matrix @ corners)
    assert min(x.min(), y.min()) >= -0.5
    assert x.max() <= aligned.width - 0.5
    assert y.max() <= aligned.height - 0.5
    middle = (aligned.width - 1) / 2, (aligned.height - 1) / 2
    np.testing.assert_allclose((x.mean(), y.mean()), middle, atol=0.5)
    assert (x.max() - x.min()) / right < 1 + MULTIPLE / min(frame)


def on_canvas(matrix, points):
    """Picture points ``[2, ...]`` -> canvas points."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    return np.tensordot(inverse[:, :2], points, 1) + inverse[:, 2].reshape(2, *[1] * (np.ndim(points) - 1))


@pytest.mark.parametrize("turn", [-2.5, -0.4, 0.0, 1.1, 3.0])
def test_a_marked_point_of_a_turned_part_returns_to_its_place(aligned, turn):
    rng = np.random.default_rng(3)
    pose = (84.0, 77.0, turn)
    bare = KEY.draw(rng, pose)
    place = aligned.place(bare)
    assert place.reason is None
    assert (place.left, place.top, place.width, place.height) == (0, 0, aligned.width, aligned.height)
    mark = 84 + 20 * math.cos(turn), 77 + 20 * math.sin(turn)  # on the part, 20 pixels along its axis
    marked = spot(bare.shape, *mark).astype(np.uint8)
    on_canvas = aligned.prepare(marked, place)[..., 0]
    found = centre_of_mass(on_canvas)
    np.testing.assert_allclose(place.matrix @ [*found, 1], mark, atol=0.5)
    back = aligned.map_to_picture(on_canvas.astype(np.float32), place, bare.shape)
    np.testing.assert_allclose(centre_of_mass(back), mark, atol=0.5)


def test_turned_parts_look_alike_on_the_canvas(aligned):
    rng = np.random.default_rng(4)
    pictures = [KEY.draw(rng, (80.0, 80.0, turn)) for turn in (-2.0, 0.3, 1.4)]
    canvases = [aligned.prepare(one, aligned.place(one)).astype(float) for one in pictures]
    off = [np.abs(one - canvases[0]).mean() for one in canvases[1:]]
    assert max(off) < 6  # of 130 grey levels between part and ground; two thirds of a pixel of misfit
    assert np.abs(canvases[0] - canvases[0][:, ::-1]).mean() > 3 * max(off)


def test_around_the_canvas_the_picture_is_shown_as_it_is(aligned):
    picture = KEY.draw(np.random.default_rng(5), (80.0, 80.0, 0.0))
    place = aligned.place(picture)
    shown = aligned.canvas_to_picture(255 - aligned.prepare(picture, place), place, picture)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    x, y = on_canvas(place.matrix, np.array([columns, rows]))
    beyond = (x < -1) | (y < -1) | (x > aligned.width) | (y > aligned.height)
    assert 0.2 < beyond.mean() < 0.8
    np.testing.assert_array_equal(shown[beyond], picture[beyond])
    inside = (x > 1) & (y > 1) & (x < aligned.width - 2) & (y < aligned.height - 2)
    assert np.abs(shown[inside].astype(int) - (255 - picture[inside].astype(int))).mean() < 8
    ones = np.ones((aligned.height, aligned.width), np.float32)
    ones[10, 10] = 0.5  # what the map does not reach is as calm as its calmest place
    seen = aligned.map_to_picture(ones, place, picture.shape)
    assert (seen[beyond] == 0.5).all()
    assert (seen[inside] == 1).mean() > 0.99


def test_outside_tells_what_lies_beyond_the_pictures_border(aligned):
    middle = aligned.place(KEY.draw(np.random.default_rng(6), (80.0, 80.0, 0.0)))
    near = KEY.draw(np.random.default_rng(6), (58.0, 80.0, 0.0))  # the part ends six pixels from the border
    place = aligned.place(near)
    assert place.reason is None
    assert middle.outside is None or not middle.outside[aligned.height // 2].any()
    assert place.outside is not None
    rows, columns = np.mgrid[: aligned.height, : aligned.width]
    x, y = np.tensordot(place.matrix[:, :2], [columns, rows], 1) + place.matrix[:, 2, None, None]
    expected = (x < 0) | (y < 0) | (x > SIDE - 1) | (y > SIDE - 1)
    np.testing.assert_array_equal(place.outside, expected)
    canvas_map = np.where(place.outside, 50, 1).astype(np.float32)
    canvas_map[~place.outside] += np.random.default_rng(0).random((~place.outside).sum())
    counted = place.counted(canvas_map)
    assert counted.max() < 3
    np.testing.assert_array_equal(counted[~place.outside], canvas_map[~place.outside])


def test_what_lies_beyond_the_border_or_the_region_is_joined(aligned):
    region = np.ones((aligned.height, aligned.width), bool)
    region[:, : aligned.width // 2] = False
    with_region = dataclasses.replace(aligned, region=region)
    near = KEY.draw(np.random.default_rng(6), (58.0, 80.0, 0.0))
    np.testing.assert_array_equal(with_region.place(near).outside, aligned.place(near).outside | ~region)


def test_a_region_is_cut_to_the_part_of_the_canvas_that_shows_the_picture():
    region = np.zeros((64, 96), bool)
    region[:, 40:] = True
    canvas = Preprocessor(height=64, width=96, channels=1, aspect="keep", region=region)
    picture = np.zeros((64, 64), np.uint8)  # lies in columns 16..79
    place = canvas.place(picture)
    assert place.outside.shape == (64, 64)
    assert place.outside[:, :24].all()
    assert not place.outside[:, 24:].any()


def test_where_nothing_counts_everything_does():
    """A region that this picture does not reach must not leave a map without a score."""
    region = np.zeros((64, 96), bool)
    region[:, :8] = True
    canvas = Preprocessor(height=64, width=96, channels=1, aspect="keep", region=region)
    place = canvas.place(np.zeros((64, 64), np.uint8))
    canvas_map = np.random.default_rng(0).random((64, 96)).astype(np.float32)
    np.testing.assert_array_equal(place.counted(canvas_map), canvas_map[:, 16:80])
