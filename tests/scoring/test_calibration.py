from __future__ import annotations

import math

import numpy as np
import pytest

from anomaly_spotter.config import CalibrationConfig, ScoringConfig
from anomaly_spotter.scoring.calibration import Calibration

SCORING = ScoringConfig(smoothing_sigma=0.0)


def good_maps(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [rng.gamma(2.0, 0.1, (16, 24)).astype(np.float32) for _ in range(count)]


def fit(maps, rate=0.1, **scoring):
    return Calibration.fit(
        maps, SCORING.model_copy(update=scoring), CalibrationConfig(false_reject_rate=rate)
    )


def test_one_is_the_decision_limit_and_zero_the_typical_good_pixel():
    maps = good_maps(np.random.default_rng(0), 9)
    calibration = fit(maps)
    assert calibration.threshold == 1.0
    assert calibration.scores == tuple(sorted(calibration.scores))
    assert max(calibration.scores) == 1.0  # nine pictures, 10 %: the limit is the largest score
    assert np.median([calibration.normalise(m) for m in maps]) == pytest.approx(0, abs=1e-6)


def test_the_strongest_calibration_picture_is_not_rejected_and_anything_above_is():
    maps = good_maps(np.random.default_rng(1), 19)
    calibration = fit(maps, rate=0.05)
    scores = [calibration.score(m, SCORING) for m in maps]
    assert max(scores) == calibration.threshold
    assert not any(score > calibration.threshold for score in scores)
    strange = maps[0].copy()
    strange[3, 4] = 99.0
    assert calibration.score(strange, SCORING) > 10  # what is ranked is never clamped


def test_scores_do_not_depend_on_other_pixels_of_the_inspected_picture():
    calibration = fit(good_maps(np.random.default_rng(2), 9))
    flat = np.zeros((4, 4), np.float32)
    flat[0, 0] = 5
    stretched = flat.copy()
    stretched[3, 3] = -100
    assert calibration.score(flat, SCORING) == calibration.score(stretched, SCORING)


def test_pixel_threshold_leaves_the_asked_share_of_good_pixels():
    maps = good_maps(np.random.default_rng(3), 40)
    calibration = fit(maps, pixel_false_positive_rate=0.02)
    above = np.mean([calibration.normalise(m) > calibration.pixel_threshold for m in maps])
    assert above == pytest.approx(0.02, abs=0.002)


def test_a_model_without_any_error_on_good_parts_still_calibrates():
    calibration = fit([np.zeros((4, 4), np.float32)] * 9)
    assert np.isfinite(calibration.scale)
    assert calibration.score(np.full((4, 4), 0.1, np.float32), SCORING) > calibration.threshold


def test_dict_round_trip_is_exact():
    calibration = fit(good_maps(np.random.default_rng(4), 9))
    assert Calibration.from_dict(calibration.to_dict()) == calibration


def test_resampled_good_maps_keep_the_promised_rate_end_to_end():
    """From maps, not from scores: pooling, constants and limit together keep what was promised."""
    rng = np.random.default_rng(5)
    rejected = []
    for _ in range(400):
        calibration = fit(good_maps(rng, 19), rate=0.05)
        rejected += [calibration.score(m, SCORING) > calibration.threshold for m in good_maps(rng, 10)]
    # The ten new maps of a calibration share its limit, so the noise is that of 400 calibrations.
    assert np.mean(rejected) == pytest.approx(0.05, abs=4 * 0.05 / np.sqrt(400))


def test_refused_pictures_count_in_the_promise_and_in_p_values():
    rng = np.random.default_rng(6)
    settings = CalibrationConfig(false_reject_rate=0.1)
    maps = good_maps(rng, 29)
    whole, refused = (
        Calibration.fit(some, SCORING, settings, number) for some, number in ((maps, 0), (maps[:27], 2))
    )
    assert refused.refused == 2
    assert len(refused.scores) == 27
    assert refused.promise.count == whole.promise.count == 29
    # Of 30 parts three may be rejected: the new one and two more, which are those that could not be judged.
    assert whole.promise.rank == 27
    assert refused.promise.rank == 27
    assert refused.promise.is_kept
    assert refused.threshold == max(refused.scores) == 1.0
    assert refused.p_value(np.inf) == pytest.approx(3 / 30)
    assert refused.p_value(1.0) == pytest.approx(4 / 30)
    assert refused.p_value(-np.inf) == 1.0
    assert Calibration.from_dict(refused.to_dict()) == refused


def test_too_many_refused_pictures_leave_a_limit_and_an_honest_rate():
    found = Calibration.fit(
        good_maps(np.random.default_rng(7), 20), SCORING, CalibrationConfig(false_reject_rate=0.05), 5
    )
    assert not found.promise.is_kept
    assert found.promise.rate == pytest.approx(6 / 26)
    assert found.threshold == max(found.scores)


def test_maps_that_are_not_finite_are_refused():
    broken = good_maps(np.random.default_rng(8), 3)
    broken[1][2, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit(broken)


def test_more_pictures_join_the_old_ones_on_the_raw_scale():
    """Killed mutants: the way back to raw values multiplies by the scale."""
    maps = good_maps(np.random.default_rng(9), 20)
    old = fit(maps[:12], pixel_false_positive_rate=0.05)
    expected = sorted(float(each.max()) for each in maps[:12])
    np.testing.assert_allclose(old.raw_scores, expected, rtol=1e-6)
    assert old.raw_limit == pytest.approx(expected[old.promise.rank - 1])
    scoring = SCORING.model_copy(update={"pixel_false_positive_rate": 0.05})
    both = old.with_more(maps[12:], scoring, CalibrationConfig(false_reject_rate=0.1))
    np.testing.assert_allclose(both.raw_scores, sorted(float(each.max()) for each in maps), rtol=1e-6)
    high = [np.quantile(np.stack(some), 0.95) for some in (maps[:12], maps[12:])]
    centre = [np.median(np.stack(some)) for some in (maps[:12], maps[12:])]
    assert both.centre == pytest.approx((12 * centre[0] + 8 * centre[1]) / 20, rel=1e-5)
    raw_high = both.centre + both.scale * both.pixel_threshold
    assert raw_high == pytest.approx((12 * high[0] + 8 * high[1]) / 20, rel=1e-5)
    other = both.promising(CalibrationConfig(false_reject_rate=0.3))
    np.testing.assert_allclose(other.raw_scores, both.raw_scores, rtol=1e-9)
    assert other.centre + other.scale * other.pixel_threshold == pytest.approx(raw_high)
    assert other.raw_limit < both.raw_limit


def test_refused_pictures_join_the_old_ones_too():
    maps = good_maps(np.random.default_rng(10), 30)
    settings = CalibrationConfig(false_reject_rate=0.2)
    old = Calibration.fit(maps[:20], SCORING, settings, 2)
    for new, refused in ((maps[20:], 3), ([], 3)):
        both = old.with_more(new, SCORING, settings, refused)
        assert both.refused == 5
        assert both.promise.count == 20 + len(new) + 5
        assert both.p_value(1e9) == 6 / (both.promise.count + 1)
    assert old.with_more([], SCORING, settings).raw_limit == pytest.approx(old.raw_limit)
    offered = old.promise_at(0.3, None)
    assert (offered.count, offered.rank) == (22, 23 - math.floor(0.3 * 23))
    assert old.promise_at(0.05, None).rank == 20  # two were refused: no limit can promise that


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": [0.2, 0.1, 1.0]},
        {"scores": [0.1, 0.2, "one"]},
        {"scores": [0.1, 0.2, float("nan")]},
        {"scores": [0.1, 0.2]},
        {"scale": 0.0},
        {"scale": -1.0},
        {"centre": float("inf")},
        {"threshold": None},
        {"mask_share": []},
        {"refused": 1},
        {"refused": 0.0},
        {"promise": {"rank": 0}},
        {"promise": {"rank": 4}},
        {"promise": {"rank": 2.0}},
        {"promise": {"count": 4}},
        {"promise": {"needed": "3"}},
        {"promise": {"rate": 0.0}},
        {"promise": {"rate": 1.0}},
    ],
)
def test_a_damaged_calibration_is_refused(damage):
    whole = fit([np.full((4, 4), score, np.float32) for score in (1.0, 2.0, 3.0)], rate=0.3).to_dict()
    whole["scores"] = [0.1, 0.2, 1.0]
    assert Calibration.from_dict(whole).promise.rank == 3
    damaged = whole | {key: value for key, value in damage.items() if key != "promise"}
    damaged["promise"] = whole["promise"] | damage.get("promise", {})
    with pytest.raises((TypeError, ValueError)):
        Calibration.from_dict(damaged)


def test_pixels_that_do_not_count_are_no_typical_pixels():
    """Beside a part all are as calm as the calmest one of it; a single calmest pixel is a pixel like the others."""
    rng = np.random.default_rng(11)
    maps = [rng.uniform(1, 2, (20, 20)).astype(np.float32) for _ in range(9)]
    typical = np.median(np.stack(maps))
    assert fit(maps).centre == pytest.approx(typical, rel=1e-6)
    for each in maps:
        each[:12] = each.min()
    counted = np.median(np.concatenate([each[each > each.min()] for each in maps]))
    assert fit(maps).centre == pytest.approx(counted, rel=1e-6)
    pair = [np.array([[1, 1], [5, 9]], np.float32)] * 9
    assert fit(pair).centre == 7  # two that are equally calm already do not count
