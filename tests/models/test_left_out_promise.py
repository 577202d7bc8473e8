"""Resampling: a limit from leave-one-out maps rejects fresh good parts no more often than promised.

Every model is fitted many times on few good pictures. Their maps by models without the picture itself calibrate, and
fresh pictures of the same process are judged by the model of all. Picture-wide variation and heavy tails are what
makes maps by a model that knows the picture too good to be true.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_spotter.config import CalibrationConfig, ScoringConfig, SpotterConfig
from anomaly_spotter.fitting import calibrate, fit_model
from anomaly_spotter.inputs.decode import Picture
from anomaly_spotter.inputs.preprocess import Preprocessor
from anomaly_spotter.models import feature_model
from anomaly_spotter.models.cells import enlarge
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.decision import Judge
from anomaly_spotter.scoring.inspection import Verdict
from tests.models.conftest import config, draw, synthetic

RATE = 0.1
LEARNED, FRESH, FITS = 19, 8, 60
SCORING = ScoringConfig(smoothing_sigma=0.0)


def light_tailed(rng, count):
    return rng.normal(size=(count, 4, 5, 8))


def heavy_tailed(rng, count):
    return rng.standard_t(3, size=(count, 4, 5, 1)) * rng.normal(size=(count, 4, 5, 24))


def picture_wide(rng, count):
    """Each picture is shifted as a whole, in more directions than there are pictures."""
    return 0.5 * rng.normal(size=(count, 4, 5, 24)) + rng.normal(size=(count, 1, 1, 24))


def not_above(rates, promised):
    """The mean of independent calibrations, but for four standard errors."""
    assert np.mean(rates) <= promised + 4 * np.std(rates) / np.sqrt(len(rates))


@pytest.mark.parametrize("process", [light_tailed, heavy_tailed, picture_wide])
@pytest.mark.parametrize("places", ["local", "global"])
@pytest.mark.parametrize("name", ["memory", "gaussian"])
def test_the_promised_false_reject_rate_is_kept(name, places, process):
    rng = np.random.default_rng(0)
    settings = config(name=name, places=places)
    rates = []
    for _ in range(FITS):
        grids = process(rng, LEARNED + FRESH).astype(np.float32)
        model, left_out = feature_model(name).fit(synthetic(grids[:LEARNED]), settings, seed=0)
        maps = (one for _, one in left_out())
        calibration = Calibration.fit(maps, SCORING, CalibrationConfig(false_reject_rate=RATE))
        assert calibration.promise.rate == pytest.approx(RATE)
        fresh = [enlarge(model.distances(torch.from_numpy(one)).numpy()) for one in grids[LEARNED:]]
        rates.append(np.mean([calibration.score(one, SCORING) > calibration.threshold for one in fresh]))
    assert FITS * FRESH >= 200
    not_above(rates, RATE)
    assert np.mean(rates) > 0.005  # nor is everything let through


class Shown(list):
    """Canvas pictures that lie on the canvas as they are."""

    def place(self, index):
        return CANVAS.place(self[index][..., 0])


CANVAS = Preprocessor(height=48, width=64, channels=1, aspect="keep")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"name": "memory"}},
        {"model": {"name": "gaussian"}},
        {"model": {"name": "gaussian", "places": "global"}, "scoring": {"pooling": "top_mean"}},
        {"model": {"name": "memory"}, "scoring": {"normalise": "location"}},
    ],
    ids=["memory", "gaussian", "gaussian-global-top-mean", "memory-per-location"],
)
def test_the_promise_is_kept_from_pictures_to_verdicts(settings):
    """Through features, projection, smoothing, places and pooling, each of which saw the good pictures too."""
    plain = {
        "model": {"features": "gradients", "dimensions": 12, **settings["model"]},
        "scoring": {"smoothing_sigma": 4.0, **settings.get("scoring", {})},
        "calibration": {"false_reject_rate": RATE},
    }
    whole = SpotterConfig.parse(plain)
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(30):
        good = Shown(draw(rng) for _ in range(LEARNED))
        model, left_out = fit_model(good, whole)
        calibration, location = calibrate(good, left_out, whole)
        judge = Judge(whole.scoring, calibration, CANVAS, location)
        fresh = [draw(rng) for _ in range(FRESH)]
        maps, _ = model.anomaly_maps(np.stack(fresh))
        verdicts = [
            judge.judge(Picture(one[..., 0]), CANVAS.place(one[..., 0]), found).verdict
            for one, found in zip(fresh, maps, strict=True)
        ]
        rates.append(np.mean([verdict is Verdict.DEFECT for verdict in verdicts]))
    assert 30 * FRESH >= 200
    not_above(rates, RATE)
