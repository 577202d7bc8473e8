from __future__ import annotations

import math

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.tracking import facts


def test_parameters_are_the_whole_flattened_configuration(tiny_config):
    found = facts.parameters(tiny_config.to_dict())
    assert found["training.epochs"] == "3"
    assert found["model.widths"] == "[8, 16, 16, 16]"
    assert {name.split(".")[0] for name in found} == {
        "preset", "preprocessing", "augmentation", "model", "auto", "training", "scoring", "calibration",
    }  # fmt: skip


def test_what_auto_settled_gets_names_of_its_own():
    asked, fitted = (
        {"model": {"name": "auto", "places": "local"}},
        {"model": {"name": "memory", "places": "local"}},
    )
    assert facts.fitted_parameters(asked, fitted) == {"fitted.model.name": "memory"}


def test_only_finite_numbers_are_metrics():
    tree = {
        "a": math.nan,
        "b": math.inf,
        "c": None,
        "d": True,
        "e": "text",
        "f": 2,
        "g": {"scratch/deep é%": 0.5},
    }
    assert facts.numbers(tree) == {"f": 2.0, "g/scratch_deep é_": 0.5}


def test_honest_and_oracle_numbers_keep_their_names(spotter, data_root):
    result = spotter.evaluate(data_root, "disc").to_dict()
    found = facts.evaluation_metrics(result)
    assert found["image/f1"] == result["image"]["f1"]
    assert found["image/f1_max"] == result["image"]["f1_max"]
    assert found["per_kind/bar/recall"] == result["per_kind"]["bar"]["recall"]
    assert not any("pictures/0" in name for name in found)  # rows of single pictures are no metrics


def test_training_metrics_hold_calibration_and_promise(spotter):
    found = facts.training_metrics(spotter)
    assert found["calibration/threshold"] == spotter.calibration.threshold
    assert found["promise/rate"] == spotter.calibration.promise.rate
    assert found["pictures/calibration"] == spotter.provenance["train_counts"]["calibration"]


def test_where_a_run_is_tracked_is_no_part_of_a_detector(spotter):
    config = SpotterConfig.load("unet", None, ["tracking.uri=http://somewhere", "tracking.enabled=true"], {})
    assert config.tracking.uri == "http://somewhere"
    assert "somewhere" not in str(config.to_dict())
    assert config.to_dict() == SpotterConfig.load("unet", environment={}).to_dict()
    by_environment = SpotterConfig.load("unet", environment={"ANOMALY_SPOTTER__TRACKING__ENABLED": "true"})
    assert by_environment.tracking.enabled
    assert "tracking" not in spotter.describe()["config"]
