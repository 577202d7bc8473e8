from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anomaly_spotter.config import CalibrationConfig, ScoringConfig
from anomaly_spotter.inputs.decode import Picture
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.decision import Judge, draw_regions, otsu_mask
from anomaly_spotter.scoring.inspection import Verdict

CANVAS = Preprocessor(height=32, width=64, channels=1, aspect="keep")


def judge(**scoring) -> Judge:
    config = ScoringConfig(smoothing_sigma=0.0, **scoring)
    rng = np.random.default_rng(0)
    maps = [rng.random((32, 64)).astype(np.float32) for _ in range(19)]
    calibration = Calibration.fit(maps, config, CalibrationConfig(false_reject_rate=0.05))
    return Judge(config, calibration, CANVAS)


def picture(height=64, width=128) -> Picture:
    return Picture(np.full((height, width), 100, np.uint8))


def defect_map() -> np.ndarray:
    canvas = np.full((32, 64), 0.5, np.float32)
    canvas[10:14, 20:30] = 8.0
    canvas[25:27, 50:53] = 6.0
    return canvas


def test_a_good_part_has_no_mask_and_no_region():
    found = judge().judge(picture(), np.full((32, 64), 0.5, np.float32))
    assert found.verdict is Verdict.OK
    assert not found.mask.any()
    assert found.regions == ()


def test_a_defect_is_marked_in_the_pictures_own_pixels():
    found = judge().judge(picture(), defect_map())
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
    assert judge().judge(picture(64, 64), canvas).verdict is Verdict.OK


def test_small_regions_are_dropped_but_never_the_reason_of_the_verdict():
    found = judge(min_area=60).judge(picture(), defect_map())
    assert len(found.regions) == 1
    huge = judge(min_area=100_000).judge(picture(), defect_map())
    assert len(huge.regions) == 1
    assert huge.mask.any()


def test_a_defect_below_the_pixel_threshold_is_still_marked():
    strict = judge()
    found = strict.judge(picture(), np.full((32, 64), 0.5, np.float32), threshold=-10.0)
    assert found.verdict is Verdict.DEFECT
    assert found.mask.any()
    assert found.threshold == -10.0


def test_display_range_is_fixed_or_the_pictures_own():
    assert judge().judge(picture(), defect_map()).display_range == (0.0, 2.0)
    found = judge(display="minmax", mask="otsu").judge(picture(), defect_map())
    assert found.display_range == (found.anomaly_map.min(), found.anomaly_map.max())


def test_otsu_finds_the_two_bright_areas_and_nothing_in_a_constant_map():
    mask = otsu_mask(defect_map())
    assert mask.sum() == 4 * 10 + 2 * 3
    assert not otsu_mask(np.full((5, 5), 3.0, np.float32)).any()


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
