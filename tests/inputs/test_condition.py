"""What is measured of a picture, against NumPy, under light, blur and motion; and that detectors keep it."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

from anomaly_spotter import known as known_module
from anomaly_spotter.bundle import read_bundle, write_bundle
from anomaly_spotter.inputs import condition as condition_module
from anomaly_spotter.inputs.condition import NAMES, Condition, condition, evenly
from anomaly_spotter.inputs.preprocess import Placement, Preprocessor, to_grey
from anomaly_spotter.known import Known
from anomaly_spotter.spotter import Spotter
from tests.conftest import draw_part, write_png

PLAIN = Preprocessor(64, 64, 1, "keep")


def measured(pixels: np.ndarray) -> Condition:
    return condition(pixels, PLAIN.place(pixels), PLAIN)


@pytest.mark.parametrize("shape", [(40, 56), (513, 30), (40, 56, 3), (1, 9), (9, 1), (1, 1)])
def test_values_against_numpy(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    grey = to_grey(pixels).astype(float)
    found = measured(pixels)
    assert found.brightness == pytest.approx(grey.mean())
    assert found.contrast == pytest.approx(grey.std())
    squares = np.concatenate([np.diff(grey, axis=axis).ravel() ** 2 for axis in (0, 1)])
    expected = np.sqrt(squares.mean()) / max(grey.std(), 1) if squares.size else 0
    assert found.sharpness == pytest.approx(expected)
    assert (found.angle, found.x, found.y, found.fit) == (None,) * 4


def test_a_large_picture_is_measured_on_some_of_its_lines():
    rng = np.random.default_rng(1)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (3001, 400)).astype(np.uint8), (0, 0), 2)
    whole, found = pixels.astype(float), measured(pixels)
    assert found.brightness == pytest.approx(whole.mean(), rel=0.01)
    assert found.contrast == pytest.approx(whole.std(), rel=0.02)
    squares = np.concatenate([np.diff(whole, axis=axis).ravel() ** 2 for axis in (0, 1)])
    assert found.sharpness == pytest.approx(np.sqrt(squares.mean()) / whole.std(), rel=0.02)


def test_light_moves_brightness_and_contrast_only_and_blur_moves_sharpness():
    part = draw_part(np.random.default_rng(2))[0]
    usual = measured(part)
    darker, paler = (measured(np.rint(each).astype(np.uint8)) for each in (part * 1.0 - 15, part * 0.6 + 20))
    assert darker.brightness == pytest.approx(usual.brightness - 15, abs=0.1)
    assert darker.contrast == pytest.approx(usual.contrast, rel=0.01)
    assert darker.sharpness == pytest.approx(usual.sharpness, rel=0.02)
    assert paler.contrast == pytest.approx(0.6 * usual.contrast, rel=0.01)
    assert paler.sharpness == pytest.approx(usual.sharpness, rel=0.03)
    assert measured(cv2.GaussianBlur(part, (0, 0), 2)).sharpness < 0.7 * usual.sharpness


class Aligned:
    """Stands for an aligner: only whether there is one counts here."""


def test_the_pose_is_that_of_the_frame_in_the_picture():
    turn, (x, y) = np.radians(-20), (30.0, 12.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 1.5
    matrix = np.column_stack([rotation, np.array([x, y]) - rotation @ [31.5, 31.5]])
    aligned = dataclasses.replace(PLAIN, aligner=Aligned())
    place = Placement(matrix, 0, 0, 64, 64, quality=0.8)
    found = condition(np.zeros((41, 51), np.uint8), place, aligned)
    assert found.angle == pytest.approx(-20)
    assert (found.x, found.y) == pytest.approx((30 - 25, 12 - 20))
    assert found.fit == 0.8
    refused = dataclasses.replace(place, reason="no part found")
    assert condition(np.zeros((41, 51), np.uint8), refused, aligned).angle is None


def test_rows_and_dicts_keep_everything():
    known = Condition(1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 0.7)
    partly = Condition(1.0, 2.0, 3.0)
    for each in (known, partly):
        assert Condition.from_row(each.row()) == each
        assert Condition.from_dict(json.loads(json.dumps(each.to_dict()))) == each
    assert NAMES == ("brightness", "contrast", "sharpness", "angle", "x", "y", "fit")
    assert Condition.from_dict({"brightness": 1, "contrast": 2, "sharpness": 3}) == partly


def test_evenly_spread_numbers():
    assert evenly(0, 5) == []
    assert evenly(1, 5) == [0]
    assert evenly(4, 10) == [0, 1, 2, 3]
    assert evenly(101, 3) == [0, 50, 100]


def test_an_inspection_tells_how_its_picture_was_taken(spotter, data_root):
    file = next((data_root / "disc/test/good").iterdir())
    found = spotter.inspect(file)
    assert found.condition == measured(found.picture)


def test_a_detector_keeps_those_of_its_good_pictures(spotter, bundle, tmp_path):
    rows = spotter.known.conditions
    assert rows.dtype == np.float32
    assert rows.shape == (30, 7)
    assert 90 < np.median(rows[:, 0]) < 130
    assert np.isnan(rows[:, 3:]).all()
    np.testing.assert_array_equal(Spotter.load(bundle).known.conditions, rows)


def test_no_more_than_a_bounded_number_are_kept(spotter, monkeypatch):
    monkeypatch.setattr(condition_module, "MOST_ROWS", 5)
    monkeypatch.setattr(known_module, "MOST_ROWS", 6)

    class Few:
        """Two good pictures, as canvases are."""

        preprocessor = PLAIN

        def __len__(self):
            return 9

        def pixels(self, index):
            return np.full((8, 8), index, np.uint8)

        def place(self, index):
            return PLAIN.place(self.pixels(index))

    rows = condition_module.conditions_of(Few())
    assert rows[:, 0].tolist() == [0, 2, 4, 6, 8]
    both = Known(conditions=rows).with_conditions_of(Few())
    assert both[:, 0].tolist() == [0, 2, 6, 0, 4, 8]


def test_extended_and_recalibrated_detectors_keep_them_too(spotter, tmp_path):
    rng = np.random.default_rng(9)
    for index in range(12):
        write_png(tmp_path / f"{index}.png", draw_part(rng)[0] // 2)
    extended, recalibrated = spotter.extend(tmp_path), spotter.recalibrate(tmp_path)
    np.testing.assert_array_equal(extended.known.conditions[:30], spotter.known.conditions)
    assert len(extended.known.conditions) == 42
    assert len(recalibrated.known.conditions) == 12
    assert recalibrated.known.conditions[:, 0].max() < 70
    promised = spotter.recalibrate(false_reject_rate=0.2)
    np.testing.assert_array_equal(promised.known.conditions, spotter.known.conditions)


def test_older_and_damaged_files(spotter, bundle, tmp_path):
    stored = read_bundle(bundle)
    arrays = {name: array for name, array in stored.arrays.items() if name != "known.conditions"}
    older = Spotter.load(write_bundle(tmp_path / "old.spot", dataclasses.replace(stored, arrays=arrays)))
    assert older.known.conditions.shape == (0, 7)
    arrays["known.conditions"] = np.zeros((3, 2), np.float32)
    damaged = write_bundle(tmp_path / "bad.spot", dataclasses.replace(stored, arrays=arrays))
    with pytest.raises(Exception, match="does not fit this version") as caught:
        Spotter.load(damaged)
    assert type(caught.value).__name__ == "BundleError"
