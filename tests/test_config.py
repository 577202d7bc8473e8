from __future__ import annotations

import pytest

from anomaly_spotter.config import SpotterConfig, preset_names
from anomaly_spotter.errors import ConfigError


def test_every_preset_is_valid_and_named():
    assert {"default", "seed"} <= set(preset_names())
    for name in preset_names():
        assert SpotterConfig.load(name, environment={}).preset == name


def test_seed_is_the_original_recipe():
    seed = SpotterConfig.load("seed", environment={})
    assert (seed.preprocessing.long_side, seed.preprocessing.aspect) == (128, "squash")
    assert (seed.augmentation.rotate, seed.augmentation.flip) == (180, True)
    assert (seed.model.skips, seed.model.error, seed.model.stem) == ((True, True, True), "squared", 1)
    training = seed.training
    assert (training.loss, training.learning_rate, training.batch_size) == ("mse", 1e-4, 32)
    assert (training.schedule, training.corruption) == ("constant", 0)
    assert training.patience is not None
    assert (seed.scoring.smoothing_sigma, seed.scoring.mask, seed.scoring.display) == (1.0, "otsu", "minmax")


def test_later_sources_win(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("training: {epochs: 5, batch_size: 7, seed: 1}\n", encoding="utf-8")
    environment = {"ANOMALY_SPOTTER__TRAINING__BATCH_SIZE": "9", "ANOMALY_SPOTTER__TRAINING__SEED": "2"}
    config = SpotterConfig.load("seed", file, ["training.seed=3"], environment)
    assert (config.training.epochs, config.training.batch_size, config.training.seed) == (5, 9, 3)
    assert config.training.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epoch=3"], "training.epoch: no such setting; did you mean epochs"),
        (["preprocesing.long_side=64"], "preprocesing: no such setting; did you mean preprocessing"),
        (["scoring.colour=red"], "scoring.colour: no such setting; there are smoothing_sigma, normalise"),
        (["training.epochs=0"], "training.epochs"),
        (["calibration.false_reject_rate=1.5"], "calibration.false_reject_rate"),
        (["preprocessing.long_side=100"], "multiple of 16"),
        (["nonsense"], "not an override"),
        (["model.name=magic"], "model.name"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        SpotterConfig.load("default", overrides=overrides, environment={})
    assert "\n" not in str(caught.value)


def test_bad_files_and_presets_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown preset 'x'; choose one of: .*seed"):
        SpotterConfig.load("x")
    with pytest.raises(ConfigError, match="cannot read"):
        SpotterConfig.load("seed", tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        SpotterConfig.load("seed", bad)
    bad.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="mapping"):
        SpotterConfig.load("seed", bad)


def test_dict_round_trip():
    config = SpotterConfig.load("default", environment={})
    assert SpotterConfig.parse(config.to_dict()) == config
