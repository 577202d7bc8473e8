"""The region of interest: drawn as a picture or as polygons, carried to the canvas and to turned parts."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from anomaly_spotter.config import PreprocessingConfig
from anomaly_spotter.errors import DatasetError, SpotterError
from anomaly_spotter.fitting import fit_preprocessor
from anomaly_spotter.inputs.alignment import fit_aligner
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.inputs.region import part_region, region_on_canvas
from anomaly_spotter.inputs.store import read_good
from tests.conftest import write_png
from tests.inputs.test_alignment import SIDE, Scene

CANVAS = Preprocessor(height=64, width=96, channels=1, aspect="keep")
REFERENCE = np.zeros((128, 192), np.uint8)
BOX = [[40, 20], [119, 20], [119, 79], [40, 79]]


def polygons(path, **content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_picture_and_a_polygon_of_the_same_area_are_the_same_region(tmp_path):
    drawn = np.zeros(REFERENCE.shape, np.uint8)
    drawn[20:80, 40:120] = 255
    from_picture = region_on_canvas(write_png(tmp_path / "r.png", drawn), REFERENCE, CANVAS)
    from_polygon = region_on_canvas(polygons(tmp_path / "r.json", include=[BOX]), REFERENCE, CANVAS)
    np.testing.assert_array_equal(from_picture, from_polygon)
    assert from_picture.shape == (64, 96)
    assert from_picture.dtype == bool
    rows, columns = np.nonzero(from_picture)  # the canvas is half as large
    assert abs(rows.min() - 10) <= 1
    assert abs(rows.max() - 39) <= 1
    assert abs(columns.min() - 20) <= 1
    assert abs(columns.max() - 59) <= 1


def test_what_is_ignored_is_cut_out_of_what_is_included(tmp_path):
    hole = [[60, 40], [80, 40], [80, 60], [60, 60]]
    whole = region_on_canvas(polygons(tmp_path / "a.json", include=[BOX]), REFERENCE, CANVAS)
    holed = region_on_canvas(polygons(tmp_path / "b.json", include=[BOX], ignore=[hole]), REFERENCE, CANVAS)
    assert not holed[25, 35]
    assert holed[12, 25]
    assert not (holed & ~whole).any()
    assert 90 < (whole & ~holed).sum() < 140  # about 10 x 10 canvas pixels


def test_without_include_everything_counts_but_what_is_ignored(tmp_path):
    found = region_on_canvas(polygons(tmp_path / "r.json", ignore=[BOX]), REFERENCE, CANVAS)
    assert not found[25, 35]
    assert found[0].all()
    assert found[-1].all()


def test_several_polygons_are_joined(tmp_path):
    second = [[150, 100], [180, 100], [165, 120]]
    found = region_on_canvas(polygons(tmp_path / "r.json", include=[BOX, second]), REFERENCE, CANVAS)
    assert found[25, 35]
    assert found[53, 82]
    assert not found[55, 60]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not a region"),
        ("[]", "is not a region"),
        ("{}", "expected the keys"),
        ('{"include": []}', "expected the keys"),
        ('{"includes": [[[0, 0], [5, 0], [5, 5]]]}', "expected the keys"),
        ('{"include": [[[0, 0], [5, 5]]]}', "at least three"),
        ('{"include": [[[0, 0, 1], [5, 5, 1], [6, 7, 1]]]}', "at least three"),
        ('{"include": [[[0, 0], [5, 5], [NaN, 7]]]}', "at least three"),
        ('{"include": [[["a", 0], [5, 5], [6, 7]]]}', "is not a region"),
        ('{"include": 7}', "is not a region"),
        ('{"include": [[[500, 500], [600, 500], [600, 600]]]}', "leaves nothing to inspect"),
        ('{"ignore": [[[-5, -5], [300, -5], [300, 300], [-5, 300]]]}', "leaves nothing to inspect"),
    ],
)
def test_files_that_are_no_region_get_one_clear_line(tmp_path, content, expected):
    file = tmp_path / "r.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=expected) as caught:
        region_on_canvas(file, REFERENCE, CANVAS)
    assert "r.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "none.png"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(SpotterError, match=name.replace(".", r"\.")):
        region_on_canvas(tmp_path / name, REFERENCE, CANVAS)


def test_a_picture_of_another_size_or_all_black_is_refused(tmp_path):
    other = write_png(tmp_path / "other.png", np.full((64, 96), 255, np.uint8))
    with pytest.raises(SpotterError, match="96 x 64 pixels"):
        region_on_canvas(other, REFERENCE, CANVAS)
    black = write_png(tmp_path / "black.png", REFERENCE)
    with pytest.raises(DatasetError, match="leaves nothing to inspect"):
        region_on_canvas(black, REFERENCE, CANVAS)


def test_the_region_is_part_of_the_fitted_preprocessor(tmp_path):
    rng = np.random.default_rng(0)
    good = read_good(
        [write_png(tmp_path / f"{i}.png", rng.integers(0, 256, (128, 192), np.uint8)) for i in range(4)]
    )
    settings = PreprocessingConfig(long_side=96, region=polygons(tmp_path / "r.json", include=[BOX]))
    fitted = fit_preprocessor(good, settings)
    np.testing.assert_array_equal(fitted.region, region_on_canvas(settings.region, good[0], CANVAS))
    place = fitted.place(good[2])
    np.testing.assert_array_equal(place.outside, ~fitted.region)


@pytest.fixture(scope="module")
def key() -> Preprocessor:
    aligner = fit_aligner("template", Scene("key").goods(16))[0]
    sizes = [(SIDE, SIDE)]
    return Preprocessor.fit(PreprocessingConfig(long_side=256), sizes, is_grey=True, aligner=aligner)


@pytest.mark.parametrize("turn", [-2.0, 0.0, 2.6])
def test_the_region_turns_with_the_part(tmp_path, key, turn):
    """Drawn on one end of one part; on any other picture that end of the part counts, and the other does not."""
    rng = np.random.default_rng(1)

    def at(pose, along):
        return np.array([pose[0] + along * math.cos(pose[2]), pose[1] + along * math.sin(pose[2])])

    drawn_on = 78.0, 83.0, 0.7
    disc = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(disc, [round(float(value)) for value in at(drawn_on, 35)], 15, 255, -1)
    file = write_png(tmp_path / "end.png", disc)
    region = region_on_canvas(file, Scene("key").draw(rng, drawn_on), key)
    assert region.sum() == pytest.approx((disc > 0).sum(), rel=0.1)
    pose = 82.0, 79.0, turn
    place = key.place(Scene("key").draw(rng, pose))
    inverse = np.linalg.inv(np.vstack([place.matrix, [0, 0, 1]]))[:2]
    for along, counts in ((35, True), (25, True), (-35, False), (0, False)):
        x, y = np.rint(inverse @ [*at(pose, along), 1]).astype(int)
        assert bool(region[y, x]) is counts


def test_a_region_drawn_on_a_picture_without_a_part_is_refused(tmp_path, key):
    everything = write_png(tmp_path / "r.png", np.full((SIDE, SIDE), 255, np.uint8))
    with pytest.raises(DatasetError, match="cannot be aligned: no part found"):
        region_on_canvas(everything, np.full((SIDE, SIDE), 190, np.uint8), key)


def _aligned_preprocessor(pictures: list[np.ndarray]) -> Preprocessor:
    aligner, _ = fit_aligner("template", pictures)
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
    return Preprocessor.fit(PreprocessingConfig(), sizes, is_grey=True, aligner=aligner)


def _bars(count: int) -> list[np.ndarray]:
    """A dark bar with a knob, turned a little differently each time, on a light ground."""
    rng = np.random.default_rng(3)
    pictures = []
    for _ in range(count):
        picture = np.full((200, 260), 200, np.uint8)
        picture[85:115, 50:210] = 60
        cv2.circle(picture, (195, 100), 30, 40, -1)
        turn = cv2.getRotationMatrix2D((130, 100), float(rng.uniform(-20, 20)), 1)
        picture = cv2.warpAffine(picture, turn, (260, 200), borderValue=200)
        pictures.append(np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8))
    return pictures


def test_the_region_of_aligned_parts_is_where_they_lie_with_a_margin() -> None:
    pictures = _bars(12)
    preprocessor = _aligned_preprocessor(pictures)
    region = part_region(pictures, preprocessor)
    assert region is not None
    canvases = [preprocessor.prepare(one, preprocessor.place(one)) for one in pictures]
    part = np.mean([canvas.squeeze() < 130 for canvas in canvases], axis=0) > 0.5
    assert region[part].all()
    around = cv2.dilate(part.astype(np.uint8), np.ones((41, 41), np.uint8)).astype(bool)
    assert not region[~around].any()


def test_pictures_as_taken_and_parts_that_fill_the_canvas_have_no_such_region() -> None:
    pictures = _bars(12)
    as_taken = Preprocessor.fit(PreprocessingConfig(), [(260, 200)], is_grey=True)
    assert part_region(pictures, as_taken) is None
    assert part_region([], _aligned_preprocessor(pictures)) is None
