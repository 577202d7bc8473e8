"""Other false reject rates than the one in force, against limits read off the sorted scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anomaly_spotter.config import CalibrationConfig, ScoringConfig
from anomaly_spotter.scoring.calibration import Calibration
from anomaly_spotter.scoring.rates import rate_table


def test_each_rate_has_its_limit_and_what_it_finds():
    raw = np.arange(1, 100, dtype=np.float32)  # 99 scores: the limit for 5 % is the 95th
    maps = [np.full((4, 4), score, np.float32) for score in raw]
    calibration = Calibration.fit(maps, ScoringConfig(), CalibrationConfig(false_reject_rate=0.05))
    defects = [(raw_score - calibration.centre) / calibration.scale for raw_score in (89, 90, 91, 96, 99)]
    rows = rate_table(calibration, [*defects, math.inf], [0.1, 0.01, 0.001])
    assert [row.promise.asked_rate for row in rows] == [0.1, 0.05, 0.01, 0.001]
    assert [row.is_current for row in rows] == [False, True, False, False]
    limits = [row.limit * calibration.scale + calibration.centre for row in rows]
    assert limits == pytest.approx([90, 95, 99, 99])
    assert [row.found for row in rows] == [4, 3, 1, 1]  # more than the limit, not equal to it
    assert [row.recall for row in rows] == pytest.approx([4 / 6, 3 / 6, 1 / 6, 1 / 6])
    assert [row.promise.is_kept for row in rows] == [True, True, True, False]
