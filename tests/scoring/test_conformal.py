"""The promise about good parts: tabulated values, and resampling that shows it is kept as often as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.scoring import conformal


@pytest.mark.parametrize(
    ("rate", "confidence", "needed"),
    [
        (0.05, None, 19), (0.01, None, 99),
        (0.10, 0.95, 29), (0.05, 0.95, 59), (0.02, 0.95, 149), (0.01, 0.95, 299), (0.005, 0.95, 598),
    ],
)  # fmt: skip
def test_pictures_needed_matches_the_table_of_order_statistics(rate, confidence, needed):
    assert conformal.pictures_needed(rate, confidence) == needed
    assert conformal.promise(needed, rate, confidence).is_kept
    assert not conformal.promise(needed - 1, rate, confidence).is_kept


def test_too_few_pictures_give_the_best_rate_and_say_what_is_missing():
    promise = conformal.promise(9, 0.01)
    assert promise.rank == 9
    assert promise.rate == pytest.approx(0.1)
    assert "1 in 10" in promise.words(1 / 3)
    assert "needs 99, so 297 good pictures in all" in promise.words(1 / 3)


def test_words_say_the_rate_the_confidence_and_the_condition():
    assert conformal.promise(59, 0.05, 0.95).words(1 / 3) == (
        "At most 1 in 20 good parts will be rejected, with 95 % confidence, "
        "as long as camera, light and part stay as they were."
    )


def test_the_words_never_promise_more_than_the_rate():
    assert "28.4 % of good parts" in conformal.promise(9, 0.01, 0.95).words(
        1 / 3
    )  # 1 - 0.05 ** (1 / 9) = 0.2831...


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.5, "1 in 2 good"),
        (0.9, "90 % of good"),  # never "1 in 1"
        (0.3, "30 % of good"),
        (1 / 10.05, "1 in 10 good"),  # half a percent more than the rate
        (1 / 10.2, "9.9 % of good"),
        (0.0731, "7.4 % of good"),
        (0.073, "7.3 % of good"),
    ],
)
def test_a_rate_in_words_is_never_smaller_than_it_is(rate, words):
    assert f"At most {words} parts" in conformal.Promise(rate, rate, None, 9, 9, 9).words(1.0)


def test_just_enough_pictures_of_which_too_many_were_refused_are_not_called_too_few():
    needed = conformal.pictures_needed(0.1)
    assert "could not be judged" in conformal.promise(needed, 0.1, refused=1).words(1.0)
    assert f"it needs {needed}" in conformal.promise(needed - 1, 0.1).words(1.0)
    assert conformal.promise(needed, 0.1).is_kept


@given(
    count=st.integers(1, 400),
    rate=st.floats(0.005, 0.5),
    confidence=st.sampled_from([None, 0.5, 0.9, 0.95, 0.99]),
)
def test_rank_is_the_lowest_that_keeps_the_promise(count, rate, confidence):
    promise = conformal.promise(count, rate, confidence)
    assert 1 <= promise.rank <= count

    def kept_rate(rank: int) -> float:
        if confidence is None:
            return (count + 1 - rank) / (count + 1)
        return beta.ppf(confidence, count + 1 - rank, rank)

    assert promise.rate == pytest.approx(min(kept_rate(promise.rank), max(rate, promise.rate)), abs=1e-9)
    if promise.is_kept and promise.rank > 1:
        assert kept_rate(promise.rank) <= rate + 1e-6
        assert kept_rate(promise.rank - 1) > rate - 1e-6


# --- good pictures that could not be judged ---------------------------------------------------------------------------


@given(
    count=st.integers(1, 300),
    refused=st.integers(0, 20),
    rate=st.floats(0.005, 0.5),
    confidence=st.sampled_from([None, 0.9, 0.95]),
)
def test_refused_pictures_count_as_infinite_scores(count, refused, rate, confidence):
    """The limit is that of all scores, the refused ones at infinity, but never infinite itself."""
    all_judged = conformal.promise(count, rate, confidence)
    promise = conformal.promise(count, rate, confidence, refused=min(refused, count - 1))
    judged = count - min(refused, count - 1)
    assert promise.count == count
    assert promise.rank == min(all_judged.rank, judged)
    if all_judged.rank <= judged:
        assert promise == all_judged
    else:
        assert promise.rate == pytest.approx(conformal.promised_rate(count, judged, confidence))
        assert promise.rate > all_judged.rate


def test_more_refused_pictures_than_the_rate_allows_break_the_promise_and_say_so():
    assert conformal.promise(100, 0.05, refused=4).is_kept
    promise = conformal.promise(100, 0.05, refused=5)
    assert not promise.is_kept
    assert promise.rate == pytest.approx(6 / 101)
    words = promise.words(1.0)
    assert "At most 6 % of good parts" in words
    assert "too many of the 100 good pictures could not be judged" in words
    assert "it needs" not in words


@pytest.mark.parametrize(("count", "often", "rate"), [(60, 0.03, 0.1), (60, 0.1, 0.1), (20, 0.05, 0.02)])
def test_resampling_keeps_the_promise_where_parts_are_refused(count, often, rate):
    """Parts are refused now and then, at calibration and in production; both count as rejected."""
    rng = np.random.default_rng(5)
    excess = []
    for _ in range(4000):
        scores = np.where(rng.random(count + 5) < often, np.inf, rng.gamma(2.0, size=count + 5))
        judged = np.sort(scores[:count][np.isfinite(scores[:count])])
        promise = conformal.promise(count, rate, refused=count - len(judged))
        rejected = np.mean(scores[count:] > conformal.limit(judged, promise))
        excess.append(rejected - promise.rate)
    assert np.mean(excess) <= 4 * np.std(excess) / np.sqrt(len(excess))


@pytest.mark.parametrize(
    "bad", [(0, 0.1, None), (5, 0.0, None), (5, 1.0, None), (5, 0.1, 0.0), (5, 0.1, 1.0)]
)
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="need count"):
        conformal.promise(*bad)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (99, 0.01), (137, 0.05), (12, 0.01)])
def test_resampling_keeps_the_average_promise(count, rate):
    """Many calibrations on fresh good scores: new good parts are rejected at most as often as promised."""
    rng = np.random.default_rng(1)
    promise = conformal.promise(count, rate)
    calibration = np.sort(rng.gamma(2.0, size=(20_000, count)), axis=1)
    new = rng.gamma(2.0, size=20_000)
    rejected = (new > calibration[:, promise.rank - 1]).mean()
    noise = 4 * np.sqrt(promise.rate * (1 - promise.rate) / len(new))
    assert abs(rejected - promise.rate) < noise


@pytest.mark.parametrize(
    ("count", "rate", "confidence"), [(59, 0.05, 0.95), (93, 0.05, 0.95), (30, 0.1, 0.8)]
)
def test_resampling_keeps_the_promise_with_confidence(count, rate, confidence):
    """The share of calibrations whose true false reject rate is within the promise is at least the confidence."""
    rng = np.random.default_rng(2)
    promise = conformal.promise(count, rate, confidence)
    limits = np.sort(rng.random((20_000, count)), axis=1)[:, promise.rank - 1]
    true_rates = 1 - limits  # scores are uniform, so the rate beyond a limit is known exactly
    kept = (true_rates <= promise.rate).mean()
    assert kept >= confidence - 4 * np.sqrt(confidence * (1 - confidence) / 20_000)


def test_p_values_of_good_parts_are_valid_and_ties_count_against_rejection():
    rng = np.random.default_rng(3)
    calibration = np.sort(rng.normal(size=49))
    assert conformal.p_value(calibration[-1], calibration) == pytest.approx(2 / 50)
    assert conformal.p_value(calibration[-1] + 1e-9, calibration) == pytest.approx(1 / 50)
    assert conformal.p_value(-10.0, calibration) == 1.0
    p_values = np.array(
        [conformal.p_value(rng.normal(), np.sort(rng.normal(size=49))) for _ in range(20_000)]
    )
    for level in (0.02, 0.1, 0.5):
        assert (p_values <= level).mean() <= level + 4 * np.sqrt(level / 20_000)


def test_which_share_of_the_good_pictures_gives_scores():
    unet = SpotterConfig.load("unet", overrides={"calibration": {"max_fraction": 0.4}}, environment={})
    assert conformal.held_out_share(unet) == 0.4
    assert conformal.held_out_share(SpotterConfig.load("memory", environment={})) == 1.0
