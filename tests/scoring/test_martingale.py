"""The conformal test martingale against an independent implementation, and what it promises."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from anomaly_spotter.scoring import martingale
from anomaly_spotter.scoring.martingale import Martingale


def simple_jumper(reference, stream, odd, jump, seed):
    """The capital after each part, in plain capitals instead of logarithms, straight from the definition."""
    capital = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}
    history = []
    for number, score in enumerate(stream):
        seen = list(reference) + list(stream[:number])
        lot = random.Random(f"{seed} {number}").random()
        above, equal = sum(other > score for other in seen), sum(other == score for other in seen)
        p_value = (above + lot * (equal + 1)) / (len(seen) + 1)
        total = sum(capital.values())
        capital = {
            bet: ((1 - jump) * own + jump / 3 * total)
            * (1 + bet * (p_value - 0.5))
            / (1 + odd * abs(bet) / 2)
            for bet, own in capital.items()
        }
        history.append(sum(capital.values()))
    return np.array(history)


@pytest.mark.parametrize("odd", [0.0, 0.05])
def test_capital_against_the_definition(odd):
    rng = np.random.default_rng(0)
    reference = np.round(rng.normal(size=30), 1)  # with ties
    stream = np.concatenate([np.round(rng.normal(size=60), 1), rng.normal(2, 1, 60), [np.inf, np.inf]])
    gambler, capital = Martingale(reference, odd=odd, seed=3), []
    for score in stream:
        gambler.add(score)
        capital.append(gambler.evidence.capital)
    expected = np.log10(simple_jumper(reference, stream, odd, 0.001, 3))
    np.testing.assert_allclose(capital, expected, rtol=1e-9, atol=1e-12)
    assert gambler.evidence.highest == pytest.approx(max(expected))
    crossed = np.flatnonzero(expected >= np.log10(200))
    assert gambler.evidence.alarm == crossed[0] + 1
    lowest = int(np.argmin([0, *expected[: crossed[0]]]))
    assert gambler.evidence.began == lowest
    assert gambler.evidence.direction == 1


def alarms(runs: int, length: int, draw, *, rate: float = 0.2, odd: float = 0.0, count: int = 40) -> float:
    """Share of runs that ever give an alarm."""
    given = 0
    for run in range(runs):
        rng = np.random.default_rng([7, run])
        gambler = Martingale(rng.normal(size=count), false_alarm_rate=rate, odd=odd, seed=run)
        for score in draw(rng, length):
            gambler.add(float(score))
        given += gambler.evidence.alarm is not None
    return given / runs


def test_false_alarms_at_any_time_stay_below_the_bound(monkeypatch):
    """Over several runs of the gambler too, with few and shared calibration scores and with ties."""
    monkeypatch.setattr(martingale, "LONGEST_RUN", 100)
    bound = 0.2 + 4 * np.sqrt(0.2 * 0.8 / 150)
    found = alarms(150, 250, lambda rng, length: rng.normal(size=length))
    assert found <= bound
    assert alarms(100, 100, lambda rng, length: np.round(rng.normal(size=length)), count=20) <= bound


def test_defects_up_to_the_stated_share_are_no_drift_but_are_without_it():
    def with_defects(rng, length):
        return np.where(rng.random(length) < 0.1, np.inf, rng.normal(size=length))

    assert alarms(60, 300, with_defects, odd=0.1) <= 0.2 + 4 * np.sqrt(0.2 * 0.8 / 60)
    assert (
        alarms(20, 300, lambda rng, length: np.where(rng.random(length) < 0.4, 9.0, rng.normal(size=length)))
        == 1
    )


@pytest.mark.parametrize("direction", [1, -1])
def test_a_slow_drift_is_found_with_its_direction_and_its_beginning(direction):
    rng = np.random.default_rng(5)
    gambler = Martingale(rng.normal(size=100), odd=0.05)
    for score in rng.normal(size=300):
        gambler.add(score)
    assert gambler.evidence.alarm is None
    for step, score in enumerate(rng.normal(size=400)):
        gambler.add(score + direction * 0.01 * step)
    evidence = gambler.evidence
    assert evidence.alarm is not None
    assert 320 < evidence.alarm < 650
    assert 250 <= evidence.began < evidence.alarm
    assert evidence.direction == direction


def test_the_state_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(martingale, "LONGEST_RUN", 50)
    rng = np.random.default_rng(6)
    reference, stream = rng.normal(size=20), [*rng.normal(size=70), np.inf, *rng.normal(3, 1, 40)]
    whole, part = Martingale(reference, seed=1), Martingale(reference, seed=1)
    for score in stream[:80]:
        whole.add(score)
        part.add(score)
    restored = Martingale.from_dict(json.loads(json.dumps(part.to_dict(), allow_nan=False)), reference)
    assert restored.evidence == whole.evidence
    for score in stream[80:]:
        whole.add(score)
        restored.add(score)
    assert restored.evidence == whole.evidence
    assert restored.to_dict() == whole.to_dict()
    assert whole.evidence.count == 111
    assert len(whole.to_dict()["scores"]) == 11
    assert whole.evidence.limit == pytest.approx(np.log10(100 * 8))  # the third run


def test_an_alarm_stays_and_what_is_no_number_is_refused():
    gambler = Martingale(np.arange(50.0))
    for score in range(100, 160):
        gambler.add(score)
    first = gambler.evidence.alarm
    for score in range(50):
        gambler.add(score)
    assert gambler.evidence.alarm == first
    assert gambler.evidence.direction == 1
    with pytest.raises(ValueError, match="NaN"):
        gambler.add(float("nan"))
    assert gambler.count == 110
