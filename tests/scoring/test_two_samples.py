"""Two-sample tests against brute force, SciPy, and what they promise about false alarms."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import ks_2samp, mannwhitneyu

from anomaly_spotter.scoring.two_samples import (
    adjusted,
    chance_of_higher,
    chance_of_lower,
    chance_of_other,
    chance_of_rejects,
)


def orders(n: int, m: int):
    """Every way in which ``m`` recent values can lie among ``n`` others."""
    everything = np.arange(n + m, dtype=float)
    for chosen in combinations(range(n + m), m):
        recent = everything[list(chosen)]
        yield np.setdiff1d(everything, recent), recent


@pytest.mark.parametrize(("n", "m"), [(6, 4), (4, 6), (9, 3), (1, 5)])
def test_all_orders_keep_every_stated_rate_exactly(n, m):
    tests = [chance_of_higher, chance_of_lower, chance_of_other]
    tests.append(
        lambda a, b: chance_of_rejects(n, max(1, n - 1), m, int((b > np.sort(a)[max(1, n - 1) - 1]).sum()))
    )
    for test in tests:
        chances = np.array([test(reference, recent) for reference, recent in orders(n, m)])
        # Where the normal limit is used in place of the exact rank sum, the tail is what counts.
        for rate in (0.04, 0.02, 0.01, 0.005, 0.001):
            assert (chances <= rate + 1e-12).mean() <= rate * (1.1 if test in tests[:2] else 1) + 1e-12


@pytest.mark.parametrize(("n", "m"), [(7, 4), (4, 6), (5, 5)])
def test_the_distance_has_its_exact_distribution(n, m):
    found = np.array(
        [(chance_of_other(*order), ks_2samp(*order, method="asymp").statistic) for order in orders(n, m)]
    )
    expected = [(found[:, 1] >= distance - 1e-9).mean() for distance in found[:, 1]]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)


def test_the_distance_of_many_values_against_scipy():
    rng = np.random.default_rng(0)
    reference, recent = rng.normal(size=300), rng.normal(0.2, 1.2, size=80)
    expected = ks_2samp(reference, recent, method="exact").pvalue
    assert chance_of_other(reference, recent) == pytest.approx(expected, rel=1e-6)
    assert chance_of_other(recent, reference) == pytest.approx(expected, rel=1e-6)
    assert chance_of_other(reference, recent + 100) == 1e-9
    assert chance_of_other(np.zeros(30), np.zeros(30)) == 1.0


@pytest.mark.parametrize(("n", "m"), [(10, 20), (20, 20), (30, 25), (60, 20)])
def test_the_normal_limit_is_never_below_the_exact_rank_sum_where_it_counts(n, m):
    recent = np.arange(m, dtype=float)
    for wins in range(n * m // 2, n * m + 1, max(1, n * m // 60)):
        reference = _with_wins(n, m, wins)
        exact = mannwhitneyu(recent, reference, alternative="greater", method="exact").pvalue
        assert (recent[:, None] > reference).sum() == wins
        found = chance_of_higher(reference, recent)
        assert found >= exact * (1 - 1e-9) or exact > 0.04
        assert found <= exact * 1.3 + 1e-3


def _with_wins(n: int, m: int, wins: int) -> np.ndarray:
    """Reference values below 0..m-1 so that ``wins`` pairs have the recent one higher."""
    full, rest = divmod(wins, m)
    values = [-1.0] * full + ([m - rest - 0.5] if full < n else [])
    return np.array(values + [m + 1.0] * (n - len(values)))[:n]


def test_ties_and_infinities_count_against_a_change():
    equal = np.ones(40)
    assert chance_of_higher(equal, equal) > 0.99
    assert chance_of_lower(equal, equal) > 0.99
    endless = np.full(30, np.inf)
    assert chance_of_higher(np.array([1.0, np.inf]), endless) > 0.5
    assert chance_of_higher(np.ones(100), endless) < 1e-10
    assert chance_of_lower(endless, np.ones(100)) < 1e-10


def test_the_most_extreme_order_of_few_values_is_not_rarer_than_it_is():
    low, high = np.arange(3.0), np.arange(3.0) + 10
    assert chance_of_higher(low, high) == pytest.approx(1 / comb(6, 3))
    assert chance_of_lower(high, low) == pytest.approx(1 / comb(6, 3))


@pytest.mark.parametrize("test", [chance_of_higher, chance_of_lower, chance_of_other])
def test_odd_values_change_nothing_that_good_ones_do_not(test):
    """However the odd values lie, the chance is at least that of any good ones in their places."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        reference, good = rng.normal(size=15), rng.normal(rng.normal(), size=12)
        spoilt = good.copy()
        spoilt[: rng.integers(0, 4)] = rng.choice([-50.0, 0.0, 50.0, np.inf])
        assert test(reference, spoilt, 3) >= test(reference, good) - 1e-12


def test_odd_values_of_a_window_that_is_all_odd():
    assert chance_of_higher(np.zeros(5), np.ones(3), 3) > 0.5
    assert chance_of_higher(np.zeros(5), np.ones(3), 5) > 0.5
    assert chance_of_other(np.zeros(5), np.ones(3), 3) == 1.0


@pytest.mark.parametrize(("count", "rank", "recent"), [(7, 6, 5), (7, 7, 5), (6, 3, 6), (4, 1, 8)])
def test_rejects_against_counting_all_orders(count, rank, recent):
    rejects = np.array(
        [(now > np.sort(reference)[rank - 1]).sum() for reference, now in orders(count, recent)]
    )
    for number in range(recent + 1):
        assert chance_of_rejects(count, rank, recent, number) == pytest.approx((rejects >= number).mean())
    assert chance_of_rejects(count, rank, recent, -2) == 1.0


def test_adjusted_is_holm():
    assert adjusted([0.01, 0.5, 0.02, 0.03]) == pytest.approx([0.04, 0.5, 0.06, 0.06])
    assert adjusted([0.9, 0.8]) == [1.0, 1.0]
    assert adjusted([]) == []
