"""Learning curves: random subsets, measured on what was left out, resumable, and the sentence about missing pictures."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import cv2
import pytest

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import ConfigError, DatasetError
from anomaly_spotter.fleet import learning_curve as module
from anomaly_spotter.fleet.learning_curve import learning_curve, missing_pictures, summarise, trend
from anomaly_spotter.inputs.layouts import load_dataset
from tests.conftest import write_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def config() -> SpotterConfig:
    overrides = {
        "preprocessing": {"long_side": 64, "alignment": "none"},
        "model": {"name": "memory", "features": "gradients", "dimensions": 12},
        "scoring": {"smoothing_sigma": 3.0, "pooling": "max"},
        "calibration": {"false_reject_rate": 0.1},
    }
    return SpotterConfig.load("memory", overrides=overrides, environment={})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("curve"), train=16, test=4)


def test_labelled_test_pictures_measure(root, config, tmp_path):
    told: list[str] = []
    dataset = load_dataset(root, "disc")
    found = learning_curve(
        dataset, config, tmp_path, sizes=(2, 6, 50), repeats=2, announce=told.append
    ).summary
    assert found["measured_by"] == "test"
    assert [(row["size"], row["repeats"]) for row in found["rows"]] == [(6, 2), (16, 1)]
    assert set(found["failed"]) == {"2-0", "2-1"}
    assert "at least 4 are needed" in found["failed"]["2-0"]
    assert told[0] == "only 16 good pictures: that is the largest size"
    last = found["rows"][-1]
    assert last["auroc"]["mean"] == 1.0
    assert last["is_promised"]
    assert not found["rows"][0]["is_promised"]
    assert [cell["good"] for cell in found["cells"]] == [4, 4, 4]
    assert found["sentences"][-1].endswith("the 16 there are suffice.")
    assert json.loads((tmp_path / "learning_curve.json").read_text()) == found
    assert cv2.imread(str(tmp_path / "learning_curve.png")).shape[1] > 600


def test_synthetic_defects_measure_where_nothing_is_labelled(root, config, tmp_path):
    shutil.copytree(root / "disc/train/good", tmp_path / "good")
    dataset = load_dataset(tmp_path / "good")
    found = learning_curve(dataset, config, tmp_path / "out", sizes=(5, 16), repeats=2)
    assert found.summary["measured_by"] == "synthetic"
    small, whole = found.summary["rows"]
    assert small["auroc"]["mean"] > 0.6
    assert {cell["good"] for cell in found.summary["cells"]} == {11, 0}
    assert whole["auroc"] is whole["recall"] is None
    assert found.plot is not None


def test_an_interrupted_curve_goes_on(root, config, tmp_path, monkeypatch):
    dataset = load_dataset(root, "disc")
    first = learning_curve(dataset, config, tmp_path, sizes=(5, 8), repeats=2).summary
    (tmp_path / "cells/8-1.json").unlink()
    fitted: list[tuple[int, int]] = []
    measure = module._measure

    def counted(dataset, config, size, repeat):
        fitted.append((size, repeat))
        return measure(dataset, config, size, repeat)

    monkeypatch.setattr(module, "_measure", counted)
    second = learning_curve(dataset, config, tmp_path, sizes=(5, 8), repeats=2, resume=True).summary
    assert fitted == [(8, 1)]
    drop = {"fit_seconds"}
    assert [{k: v for k, v in cell.items() if k not in drop} for cell in second["cells"]] == [
        {k: v for k, v in cell.items() if k not in drop} for cell in first["cells"]
    ]
    other = SpotterConfig.parse({**config.to_dict(), "training": {**config.to_dict()["training"], "seed": 3}})
    learning_curve(dataset, other, tmp_path, sizes=(5,), repeats=1, resume=True)
    assert fitted == [(8, 1), (5, 0)]  # other settings are measured anew


def test_the_sentence_counts_what_is_missing(config):
    def at(rate: float, confidence: float | None = None, name: str = "memory") -> SpotterConfig:
        tree = config.to_dict()
        tree["calibration"] |= {"false_reject_rate": rate, "confidence": confidence}
        tree["model"]["name"] = name
        return SpotterConfig.parse(tree)

    assert missing_pictures(at(0.01), 40).endswith(
        "on average, 99 good pictures are needed: 59 more than the 40 there are."
    )
    assert "with 95 % confidence, 299 good pictures" in missing_pictures(at(0.01, 0.95), 40)
    assert "297 good pictures are needed: 257 more" in missing_pictures(at(0.01, name="unet"), 40)
    assert "the 99 there are suffice" in missing_pictures(at(0.01), 99)


def test_the_trend_is_told_from_the_spread():
    def cells(size: int, *values: float) -> list[dict[str, object]]:
        rest = {"recall": None, "false_reject_rate": None, "f1": None, "promised_rate": 0.1}
        return [
            {"size": size, "auroc": value, "is_promised": True, "fit_seconds": 1.0, **rest}
            for value in values
        ]

    rising = summarise(cells(10, 0.8, 0.82) + cells(20, 0.9, 0.92))
    assert trend(rising) == ["From 10 to 20 good pictures AUROC changed by +0.100: more pictures still help."]
    flat = summarise(cells(10, 0.9, 0.98) + cells(20, 0.94, 0.96))
    assert "within the spread" in trend(flat)[0]
    assert trend(summarise(cells(10, 0.9))) == []


def test_bad_requests_are_named(root, config, tmp_path):
    dataset = load_dataset(root, "disc")
    with pytest.raises(ConfigError, match="at least 1"):
        learning_curve(dataset, config, tmp_path, sizes=(0, 5))
    with pytest.raises(DatasetError, match="no size could be measured"):
        learning_curve(dataset, config, tmp_path, sizes=(2,), repeats=1)
