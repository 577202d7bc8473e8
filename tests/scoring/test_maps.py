from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from anomaly_spotter.config import ScoringConfig
from anomaly_spotter.scoring.maps import image_score, min_max, smooth


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_smoothing_equals_scipys_gaussian_filter(sigma):
    noise = np.random.default_rng(0).random((40, 61)).astype(np.float32)
    np.testing.assert_allclose(smooth(noise, sigma), gaussian_filter(noise, sigma), atol=2e-4)


def test_no_smoothing_returns_the_map():
    noise = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    assert smooth(noise, 0) is noise


def test_min_max_stretches_to_the_unit_interval_and_survives_a_constant_map():
    stretched = min_max(np.array([[2.0, 4.0, 10.0]], np.float32))
    np.testing.assert_allclose(stretched, [[0, 0.25, 1]])
    assert not min_max(np.full((3, 3), 7, np.float32)).any()


def test_pooling():
    ramp = np.arange(100, dtype=np.float32).reshape(10, 10)
    assert image_score(ramp, ScoringConfig(pooling="max")) == 99
    assert image_score(ramp, ScoringConfig(pooling="top_mean", top_fraction=0.03)) == 98
    assert image_score(ramp, ScoringConfig(pooling="top_mean", top_fraction=0.0001)) == 99


def test_the_kernel_is_cut_at_four_deviations():
    point = np.zeros((1, 31), np.float32)
    point[0, 15] = 1
    assert np.flatnonzero(smooth(point, 1.5)[0]).tolist() == list(range(9, 22))
