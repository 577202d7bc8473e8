"""A memory of aligned parts from end to end: parts at any angle, one that is broken, one that is missing."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from anomaly_spotter import Spotter, Verdict
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import BundleError
from anomaly_spotter.reporting import write_evaluation_report
from anomaly_spotter.views.overlay import overlay
from anomaly_spotter.views.sheets import four_panel
from anomaly_spotter.views.terminal import inspection_row, inspection_to_dict
from tests.conftest import write_png
from tests.inputs.test_alignment import SIDE, Scene

SETTINGS = {
    "preprocessing": {"alignment": "template", "long_side": 160},
    "model": {"name": "memory", "places": "local", "features": "lite0", "dimensions": 32},
    "scoring": {"smoothing_sigma": 4.0, "pooling": "max"},
    "calibration": {"false_reject_rate": 0.1},
}
KEY = Scene("key")
GOOD, NO_PART = 29, np.full((SIDE, SIDE), 190, np.uint8)


def broken(rng):
    """A part with a light hole near one end, and where it is."""
    x, y, turn = pose = KEY.pose(rng)
    hole = round(x - 25 * math.cos(turn)), round(y - 25 * math.sin(turn))
    picture = KEY.draw(rng, pose)
    mask = np.zeros_like(picture)
    cv2.circle(mask, hole, 5, 255, -1)
    picture[mask > 0] = 150
    return picture, mask


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "key"
    rng = np.random.default_rng(0)
    for index in range(GOOD):
        write_png(folder / "train/good" / f"{index:02}.png", KEY.draw(rng))
    for index in range(12):
        write_png(folder / "test/good" / f"{index:02}.png", KEY.draw(rng))
    for index in range(6):
        picture, mask = broken(rng)
        write_png(folder / "test/hole" / f"{index:02}.png", picture)
        write_png(folder / "ground_truth/hole" / f"{index:02}_mask.png", mask)
    write_png(folder / "test/missing/00.png", NO_PART)
    return folder.parent


@pytest.fixture(scope="module")
def fitted(root):
    config = SpotterConfig.load("default", overrides=SETTINGS, environment={})
    return Spotter.fit(root, "key", config=config)


@pytest.fixture(scope="module")
def loaded(fitted, tmp_path_factory):
    return Spotter.load(fitted.save(tmp_path_factory.mktemp("bundle") / "key-memory.spot"))


def test_all_good_pictures_are_learned_and_calibrate(fitted):
    assert fitted.provenance["train_counts"] == {"train": GOOD, "validation": 0, "calibration": GOOD}
    assert fitted.provenance["alignment"] == "template"
    assert fitted.provenance["auto"] is None
    assert fitted.provenance["skipped"] == []
    assert fitted.calibration.promise.count == GOOD
    assert fitted.calibration.promise.is_kept
    assert "At most 1 in 10 good parts" in fitted.guarantee


@pytest.mark.parametrize("turn", [-3.0, -1.2, 0.1, 2.0])
def test_a_good_part_is_ok_at_any_angle(loaded, turn):
    rng = np.random.default_rng(10)
    verdicts = [loaded.inspect(KEY.draw(rng, (80.0 + shift, 80.0, turn))).verdict for shift in (-6, 0, 6)]
    assert verdicts.count(Verdict.OK) >= 2  # one in ten may be rejected


def test_a_defect_is_found_where_it_is(loaded):
    rng = np.random.default_rng(11)
    for _ in range(4):
        picture, mask = broken(rng)
        found = loaded.inspect(picture)
        assert found.verdict is Verdict.DEFECT
        assert found.reason is None
        x, y = found.regions[0].peak_position
        assert cv2.dilate(mask, np.ones((13, 13)))[y, x]
        assert found.anomaly_map.shape == found.mask.shape == picture.shape
        rows, columns = np.nonzero(mask)
        normal = found.normal[rows, columns].astype(int)
        assert found.normal.shape == picture.shape
        assert np.abs(normal - 60).mean() < 45  # the part's own level, not the hole's 150


def test_a_missing_part_is_a_defect_with_its_reason_and_no_score(loaded):
    found = loaded.inspect(NO_PART)
    assert found.verdict is Verdict.DEFECT
    assert found.reason == "no part found"
    assert math.isinf(found.score)
    assert not found.mask.any()
    row = inspection_to_dict(found)
    assert row["score"] is None
    assert row["verdict"] == "DEFECT"
    assert row["reason"] == "no part found"
    json.dumps(row, allow_nan=False)
    assert "no part found" in inspection_row(found)
    assert overlay(found).shape[2] == 3
    assert four_panel(found).shape[2] == 3


def test_what_was_saved_decides_the_same(fitted, loaded):
    rng = np.random.default_rng(12)
    for picture in (KEY.draw(rng), broken(rng)[0], NO_PART):
        before, after = fitted.inspect(picture), loaded.inspect(picture)
        assert (after.score, after.verdict, after.reason) == (before.score, before.verdict, before.reason)
        np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
        if before.normal is not None:
            np.testing.assert_array_equal(after.normal, before.normal)


def test_same_pictures_same_detector(fitted, root):
    again = Spotter.fit(root, "key", config=fitted.config)
    assert again.calibration == fitted.calibration
    for name, value in fitted.model.state().items():
        np.testing.assert_array_equal(again.model.state()[name], value)


def test_evaluation_and_report_take_parts_that_cannot_be_judged(loaded, root, tmp_path):
    found = loaded.evaluate(root, "key")
    summary = found.summary
    assert summary["image"]["auroc"] == 1.0
    assert summary["image"]["recall"] == 1.0
    assert summary["per_kind"]["missing"] == {"count": 1, "auroc": 1.0, "recall": 1.0}
    assert summary["pixel"]["auroc"] > 0.95
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    (missing,) = [row for row in written["pictures"] if row["kind"] == "missing"]
    assert (missing["score"], missing["verdict"]) == (None, "DEFECT")
    page = write_evaluation_report(loaded, found, tmp_path)
    assert "missing" in page.read_text(encoding="utf-8")


def test_good_pictures_without_a_part_are_left_out_and_count_as_rejected(root, tmp_path):
    rng = np.random.default_rng(13)
    for index in range(40):
        write_png(tmp_path / f"{index:02}.png", KEY.draw(rng))
    write_png(tmp_path / "blank.png", NO_PART)
    told = []
    config = SpotterConfig.load(
        "default",
        overrides={**SETTINGS, "model": {**SETTINGS["model"], "features": "gradients"}},
        environment={},
    )
    fitted = Spotter.fit(tmp_path, config=config, announce=told.append)
    assert fitted.calibration.refused == 1
    assert len(fitted.calibration.scores) == 40
    assert fitted.calibration.promise.count == 41
    assert any("blank.png: no part found" in line for line in told)
    assert any("blank.png" in line for line in fitted.provenance["skipped"])
    assert fitted.inspect(NO_PART).p_value == pytest.approx(2 / 42)


def test_a_bundle_without_its_template_is_refused(fitted, tmp_path):
    from dataclasses import replace

    from anomaly_spotter.bundle import read_bundle, write_bundle

    path = fitted.save(tmp_path / "whole.spot")
    stored = read_bundle(path)
    arrays = {name: value for name, value in stored.arrays.items() if "template" not in name}
    with pytest.raises(BundleError, match="does not fit this version"):
        Spotter.load(write_bundle(tmp_path / "cut.spot", replace(stored, arrays=arrays)))
