"""Binomial chances and limits against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr, betaincinv

from anomaly_spotter.scoring.binomial import chances_of_at_most, rate_above

RATES = st.floats(1e-6, 1 - 1e-6)


@given(st.integers(1, 5000), RATES, st.data())
def test_chances_are_scipys(count, rate, data):
    most = data.draw(st.integers(0, count))
    expected = bdtr(np.arange(most + 1), count, rate)
    assert chances_of_at_most(most, count, rate) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(1, 5000), st.floats(1e-4, 1 - 1e-4), st.data())
def test_limits_are_scipys(count, confidence, data):
    hits = data.draw(st.integers(0, count - 1))
    assert rate_above(hits, count, confidence) == pytest.approx(
        betaincinv(hits + 1, count - hits, confidence), rel=1e-9
    )


def test_many_tries_neither_overflow_nor_vanish():
    assert chances_of_at_most(50_000, 100_000, 0.5)[-1] == pytest.approx(bdtr(50_000, 100_000, 0.5), rel=1e-6)
