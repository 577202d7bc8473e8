from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from anomaly_spotter.config import CalibrationConfig, ScoringConfig
from anomaly_spotter.errors import SpotterError
from anomaly_spotter.inputs.alignment import Reason
from anomaly_spotter.inputs.decode import Picture
from anomaly_spotter.inputs.preprocess import Placement, Preprocessor
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.decision import Judge, draw_regions, otsu_mask, placed_map
from anomaly_spotter.scoring.inspection import Inspection, Verdict, finite
from anomaly_spotter.scoring.location import LocationScale
from anomaly_spotter.scoring.maps import min_max

CANVAS = Preprocessor(height=32, width=64, channels=1, aspect="keep")


def judge(refused=0, **scoring) -> Judge:
    config = ScoringConfig(smoothing_sigma=0.0, **scoring)
    rng = np.random.default_rng(0)
    maps = [rng.random((32, 64)).astype(np.float32) for _ in range(19)]
    calibration = Calibration.fit(maps, config, CalibrationConfig(false_reject_rate=0.05), refused)
    return Judge(config, calibration, CANVAS)


def decide(by: Judge, shown: Picture, canvas_map: np.ndarray, **more) -> Inspection:
    return by.judge(shown, by.preprocessor.place(shown.pixels), canvas_map, **more)


def picture(height=64, width=128) -> Picture:
    return Picture(np.full((height, width), 100, np.uint8))


def defect_map() -> np.ndarray:
    canvas = np.full((32, 64), 0.5, np.float32)
    canvas[10:14, 20:30] = 8.0
    canvas[25:27, 50:53] = 6.0
    return canvas


def test_a_good_part_has_no_mask_and_no_region():
    found = decide(judge(), picture(), np.full((32, 64), 0.5, np.float32))
    assert found.verdict is Verdict.OK
    assert not found.mask.any()
    assert found.regions == ()


def test_a_defect_is_marked_in_the_pictures_own_pixels():
    found = decide(judge(), picture(), defect_map())
    assert found.verdict is Verdict.DEFECT
    assert found.score > found.threshold
    assert found.p_value == pytest.approx(1 / 20)
    assert found.anomaly_map.shape == found.mask.shape == (64, 128)
    strongest, second = found.regions
    left, top, width, height = strongest.box
    assert abs(left - 40) <= 2
    assert abs(top - 20) <= 2
    assert abs(width - 20) <= 3
    assert abs(height - 8) <= 3
    assert strongest.peak > second.peak
    assert strongest.peak >= strongest.mean_score
    x, y = strongest.peak_position
    assert found.anomaly_map[y, x] == pytest.approx(strongest.peak)
    assert strongest.area + second.area == found.mask.sum()
    assert found.mask[strongest.contour[:, 1], strongest.contour[:, 0]].all()


def test_padding_never_scores():
    canvas = np.full((32, 64), 0.5, np.float32)
    canvas[:, :8] = 100.0  # a square picture lies in columns 16..47
    assert decide(judge(), picture(64, 64), canvas).verdict is Verdict.OK


def test_places_beyond_the_picture_or_the_region_of_interest_never_score():
    place = CANVAS.place(picture().pixels)
    outside = np.zeros((32, 64), bool)
    outside[:, :33] = True  # of the two marks only the weaker one is left
    place = dataclasses.replace(place, outside=outside)
    raw = placed_map(defect_map(), place, ScoringConfig(smoothing_sigma=0.0))
    assert raw.max() == 6.0
    assert (raw[outside] == raw[~outside].min()).all()
    found = judge().judge(picture(), place, defect_map())
    assert found.score == pytest.approx(judge().calibration.score(raw, judge().config))
    assert len(found.regions) == 1
    assert found.regions[0].box[0] > 2 * 33


def test_a_part_that_cannot_be_judged_is_a_defect_with_a_reason_and_no_score():
    place = dataclasses.replace(CANVAS.place(picture().pixels), reason=Reason.NO_PART)
    found = judge().judge(picture(), place, np.full((32, 64), 0.5, np.float32))
    assert found.verdict is Verdict.DEFECT
    assert found.reason is Reason.NO_PART
    assert (found.score, finite(found.score)) == (math.inf, None)
    assert found.p_value == pytest.approx(1 / 20)
    assert found.anomaly_map.shape == found.mask.shape == (64, 128)
    assert not found.mask.any()
    assert found.regions == ()
    assert found.normal is None
    lenient = judge().judge(picture(), place, np.full((32, 64), 0.5, np.float32), threshold=1e9)
    assert lenient.verdict is Verdict.DEFECT  # no threshold makes a missing part good


def test_good_parts_that_were_refused_at_calibration_make_a_refusal_less_telling():
    place = dataclasses.replace(CANVAS.place(picture().pixels), reason=Reason.MISFIT)
    found = judge(refused=2).judge(picture(), place, np.full((32, 64), 0.5, np.float32))
    assert found.p_value == pytest.approx(3 / 22)


def test_a_place_is_measured_against_what_is_usual_there():
    rng = np.random.default_rng(3)
    maps = [rng.random((32, 64)).astype(np.float32) for _ in range(12)]
    for one in maps:
        one[:, :16] *= 10  # the left quarter varies ten times as much
    location = LocationScale.fit(maps)
    config = ScoringConfig(smoothing_sigma=0.0, normalise="location")
    place: Placement = CANVAS.place(picture().pixels)
    calm = np.full((32, 64), 0.5, np.float32)
    calm[:, :16] = 5.0
    left, right = calm.copy(), calm.copy()
    left[16, 4] += 3.0
    right[16, 52] += 3.0
    score = {
        name: placed_map(one, place, config, location).max()
        for name, one in (("left", left), ("right", right))
    }
    assert score["right"] > 5 * score["left"]


def test_a_score_that_is_not_finite_is_an_error_not_a_verdict():
    broken = defect_map()
    broken[3, 3] = np.nan
    with pytest.raises(SpotterError, match="not finite"):
        decide(judge(), picture(), broken)


def test_small_regions_are_dropped_but_never_the_reason_of_the_verdict():
    found = decide(judge(min_area=60), picture(), defect_map())
    assert len(found.regions) == 1
    huge = decide(judge(min_area=100_000), picture(), defect_map())
    assert len(huge.regions) == 1
    assert huge.mask.any()


def test_a_defect_below_the_pixel_threshold_is_still_marked():
    strict = judge()
    found = decide(strict, picture(), np.full((32, 64), 0.5, np.float32), threshold=-10.0)
    assert found.verdict is Verdict.DEFECT
    assert found.mask.any()
    assert found.threshold == -10.0


def test_display_range_is_fixed_or_the_pictures_own():
    assert decide(judge(), picture(), defect_map()).display_range == (0.0, 2.0)
    found = decide(judge(display="minmax", mask="otsu"), picture(), defect_map())
    assert found.display_range == (found.anomaly_map.min(), found.anomaly_map.max())


def test_otsu_finds_the_two_bright_areas_and_nothing_in_a_constant_map():
    mask = otsu_mask(defect_map())
    assert mask.sum() == 4 * 10 + 2 * 3
    assert not otsu_mask(np.full((5, 5), 3.0, np.float32)).any()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 60), st.sampled_from([0, 2, 8]))
def test_otsus_mask_is_that_of_scikit_image(seed, height, width, levels):
    scores = np.random.default_rng(seed).gamma(1.0, size=(height, width)).astype(np.float32)
    if levels:
        scores = np.round(scores * levels) / np.float32(levels)
    stretched = min_max(scores)
    expected = stretched > threshold_otsu(stretched) if stretched.any() else np.zeros_like(stretched, bool)
    assert np.array_equal(otsu_mask(scores), expected)


@settings(deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 3]),
)
def test_regions_are_those_of_scikit_image(mask, seed, levels):
    """Equal peaks too, which come with few levels, keep their order."""
    scores = np.random.default_rng(seed).random(mask.shape).astype(np.float32)
    if levels:
        scores = np.round(scores * levels) / np.float32(levels)
    expected = sorted(
        regionprops(label(mask, connectivity=2), intensity_image=scores),
        key=lambda region: -float(region.intensity_max),
    )
    _, regions = draw_regions(scores, mask, 1)
    assert len(regions) == len(expected)
    for region, other in zip(regions, expected, strict=True):
        top, left, bottom, right = other.bbox
        assert region.box == (left, top, right - left, bottom - top)
        assert (region.area, region.peak) == (other.area, other.intensity_max)
        assert region.centroid == other.centroid[::-1]
        assert region.mean_score == pytest.approx(other.intensity_mean)
        assert scores[region.peak_position[::-1]] == region.peak


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)), st.integers(1, 30)
)
def test_regions_cover_the_mask_exactly(mask, min_area):
    scores = np.random.default_rng(0).random(mask.shape).astype(np.float32)
    kept, regions = draw_regions(scores, mask, min_area)
    assert sum(region.area for region in regions) == kept.sum()
    assert not (kept & ~mask).any()
    assert [region.peak for region in regions] == sorted((region.peak for region in regions), reverse=True)
    assert all(region.area >= min_area for region in regions[1:])
    if mask.any():
        assert regions[0].peak == scores[mask].max()
