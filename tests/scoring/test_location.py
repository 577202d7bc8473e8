"""What is usual at each place: deviations, leaving one map out, floors and the round trip."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_spotter.scoring.location import CELL, LocationScale


def maps(count=12, seed=0):
    rng = np.random.default_rng(seed)
    lively = 1 + np.add.outer(np.arange(32) // 8, np.arange(48) // 8)  # each place has its own spread
    return [
        (5 + lively * rng.normal(size=(4, 6)).repeat(8, 0).repeat(8, 1)).astype(np.float32)
        for _ in range(count)
    ]


def cells(one):
    return one.reshape(4, 8, 6, 8).mean(axis=(1, 3))


def test_maps_are_measured_in_deviations_from_the_mean_at_their_place():
    found = maps()
    fitted = LocationScale.fit(found)
    by_place = np.stack([cells(one.astype(float)) for one in found])
    mean, deviation = by_place.mean(axis=0), by_place.std(axis=0)
    deviation = np.maximum(deviation, np.median(deviation) / 2)
    fresh = maps(seed=1)[0]
    expected = (cells(fresh.astype(float)) - mean) / deviation
    unenlarged = LocationScale.fit([cells(one).astype(np.float32) for one in found], cell=1)
    np.testing.assert_allclose(unenlarged.apply(cells(fresh)), expected, rtol=1e-3, atol=1e-3)
    enlarged = fitted.apply(fresh)
    assert enlarged.shape == fresh.shape
    assert enlarged.dtype == np.float32
    middles = enlarged[4::8, 4::8]
    assert np.corrcoef(middles.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("cell", [CELL, 4, 1])
def test_without_a_map_is_fitting_without_it(cell):
    found = maps()
    fitted = LocationScale.fit(found, cell)
    for index in (0, 7):
        refitted = LocationScale.fit(found[:index] + found[index + 1 :], cell)
        left = fitted.without(found[index])
        assert left.count == refitted.count == 11
        assert left.cell == cell
        np.testing.assert_allclose(left.total, refitted.total, rtol=1e-9)
        np.testing.assert_allclose(left.squares, refitted.squares, rtol=1e-9)
        np.testing.assert_allclose(
            left.apply(found[index]), refitted.apply(found[index]), rtol=1e-4, atol=1e-4
        )
        assert left.apply(found[index]).max() > fitted.apply(found[index]).max()
    assert fitted.count == 12  # the whole is untouched
    np.testing.assert_array_equal(fitted.total, LocationScale.fit(found, cell).total)


def test_too_few_maps_tell_nothing():
    assert LocationScale.fit(maps(7)) is None
    assert LocationScale.fit(maps(8)) is not None
    assert LocationScale.fit([]) is None


def test_a_place_that_never_varied_does_not_turn_noise_into_an_alarm():
    found = maps(20)
    for one in found:
        one[:8, :8] = 1.0
    fitted = LocationScale.fit(found)
    usual = np.median([cells(one).std() for one in maps(20)])
    trembling = found[0].copy()
    trembling[:8, :8] += 0.01 * usual
    assert abs(fitted.apply(trembling)[3, 3]) < 0.1


def test_maps_that_are_all_alike_stay_finite():
    fitted = LocationScale.fit([np.full((32, 48), 2.5, np.float32)] * 9)
    same, other = (fitted.apply(np.full((32, 48), level, np.float32)) for level in (2.5, 2.6))
    assert np.isfinite(same).all()
    assert np.isfinite(other).all()
    assert other.min() > same.max()


def test_round_trip_is_exact():
    fitted = LocationScale.fit(maps())
    again = LocationScale.from_arrays(fitted.arrays())
    fresh = maps(seed=3)[0]
    np.testing.assert_array_equal(again.apply(fresh), fitted.apply(fresh))
    assert again.count == 12
    with pytest.raises(KeyError, match="squares"):
        LocationScale.from_arrays({"total": fitted.total, "count": np.array([12])})
