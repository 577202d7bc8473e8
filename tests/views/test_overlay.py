"""The overlay: the picture's shape, calm areas untouched, contours where the regions are."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_spotter.inputs.preprocess import to_rgb
from anomaly_spotter.scoring.inspection import Verdict
from anomaly_spotter.views.overlay import draw_regions, mask_picture, overlay, resized

SHAPES = [(1, 1), (1, 40), (8, 8), (32, 32), (96, 128), (200, 1600), (1600, 200)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("banner", [False, True])
def test_keeps_the_size_of_the_picture(make_inspection, shape, colour, banner):
    shown = overlay(make_inspection(*shape, colour=colour), banner=banner)
    assert shown.shape == (*shape, 3)
    assert shown.dtype == np.uint8


def test_a_calm_part_keeps_its_look(make_inspection):
    inspection = make_inspection(defect=False)
    np.testing.assert_array_equal(overlay(inspection), to_rgb(inspection.picture))


def test_heat_and_contour_change_only_the_defect(make_inspection):
    inspection = make_inspection(colour=True)
    changed = (overlay(inspection) != inspection.picture).any(axis=2)
    assert changed[inspection.mask].mean() > 0.9
    assert changed[~inspection.mask].mean() < 0.05


def test_opacity_zero_leaves_only_contours(make_inspection):
    inspection = make_inspection()
    np.testing.assert_array_equal(
        overlay(inspection, 0), draw_regions(to_rgb(inspection.picture), inspection.regions)
    )
    with pytest.raises(ValueError, match=r"opacity must be in \[0, 1\], found 1.5"):
        overlay(inspection, 1.5)


def test_the_inspection_is_not_drawn_on(make_inspection):
    inspection = make_inspection(colour=True)
    before = inspection.picture.copy()
    overlay(inspection, banner=True)
    np.testing.assert_array_equal(inspection.picture, before)


def test_a_speck_in_a_large_picture_is_ringed(make_inspection):
    part = make_inspection(9, 9).regions[0]
    canvas = np.zeros((1000, 1000, 3), np.uint8)
    drawn = np.argwhere(draw_regions(canvas, [part]).any(axis=2))
    assert np.ptp(drawn, axis=0).max() > 12


def test_the_display_range_is_the_inspections_own(make_inspection):
    fixed = make_inspection(defect=False)
    stretched = make_inspection(defect=False, display_range=(0.0, 0.1))
    assert (overlay(fixed) != overlay(stretched)).any()


@pytest.mark.parametrize("size", [(64, 48), (256, 192), (1, 1), (128, 96)])
def test_resized_moves_everything_together(make_inspection, size):
    inspection = make_inspection(normal=True)
    small = resized(inspection, *size)
    width, height = size
    for array in (small.picture, small.normal, small.anomaly_map, small.mask):
        assert array.shape[:2] == (height, width)
    region = small.regions[0]
    assert region.contour[:, 0].max() <= width
    assert region.centroid == pytest.approx((64.5 * width / 128 - 0.5, 48.5 * height / 96 - 0.5))
    assert (small.verdict, small.score, region.peak) == (Verdict.DEFECT, 3.0, 3.0)


def test_mask_picture(make_inspection):
    inspection = make_inspection()
    shown = mask_picture(inspection)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown == 255, inspection.mask)
    assert set(np.unique(shown)) == {0, 255}


def test_a_part_that_cannot_be_judged_shows_its_reason_instead_of_a_score(make_inspection):
    shown = [
        overlay(make_inspection(200, 900, defect=False, score=np.inf, reason=reason), banner=True)
        for reason in (None, "no part found", "more than one part")
    ]
    assert (shown[0] != shown[1]).any()
    assert (shown[1] != shown[2]).any()
    assert (shown[1][40:] == shown[2][40:]).all()  # only the banner differs
