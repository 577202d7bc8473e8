"""The U-Net's outputs and evidence: shapes, units of the sum, what a bundle keeps, and that it learns to expect."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_spotter.config import ModelConfig, SpotterConfig
from anomaly_spotter.errors import BundleError, ConfigError
from anomaly_spotter.models.features import PatchFeatures, extractor, levels
from anomaly_spotter.models.unet import UNet, UNetModel
from anomaly_spotter.training import train_unet

EVERYTHING = ("grey", "gradient", "features", "segmentation")
SMALL = {"widths": (4, 8, 8, 8), "stem": 2, "features": "gradients", "dimensions": 6}


def config(**settings) -> ModelConfig:
    return ModelConfig(**{**SMALL, **settings})


def canvases(count=4, height=48, width=80, channels=1) -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (count, 6, 10, channels), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(height // 6, axis=1).repeat(width // 10, axis=2))


def patch_features(pictures: np.ndarray, settings: ModelConfig) -> PatchFeatures:
    extract = extractor(settings.features, pictures.shape[3])
    return PatchFeatures.fit(extract, [extract(levels(one)) for one in pictures], settings.dimensions, 0)


def fitted(settings: ModelConfig, pictures: np.ndarray) -> UNetModel:
    torch.manual_seed(0)
    reference = torch.zeros(1, pictures.shape[3], *pictures.shape[1:3])
    network = UNet(pictures.shape[3], settings, reference).eval()
    features = patch_features(pictures, settings) if "features" in settings.evidence else None
    return UNetModel.fit(network, settings, features, list(pictures))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stem", [1, 2])
def test_outputs_have_the_sizes_they_promise(channels, stem):
    settings = config(stem=stem, evidence=EVERYTHING, reference=True)
    network = UNet(channels, settings, torch.zeros(1, channels, 48, 80)).eval()
    found = network(torch.rand(2, channels, 48, 80) * 2 - 1)
    assert found.picture.shape == (2, channels, 48, 80)
    assert found.picture.abs().max() <= 1
    assert found.marked.shape == (2, 1, 48, 80)
    assert found.features.shape == (2, 6, 6, 10)


def test_heads_that_no_evidence_needs_do_not_exist():
    found = UNet(1, config())(torch.zeros(1, 1, 48, 80))
    assert found.marked is None
    assert found.features is None
    names = dict(UNet(1, config()).named_parameters())
    assert not [name for name in names if name.startswith(("segment", "expect"))]


def test_a_single_evidence_is_taken_as_it_is_and_several_are_added_in_their_spread():
    pictures = canvases()
    alone = {kind: fitted(config(evidence=(kind,)), pictures) for kind in ("grey", "gradient")}
    assert all(model.spread.tolist() == [1.0] for model in alone.values())
    both = fitted(config(evidence=("grey", "gradient")), pictures)
    maps = {kind: model.anomaly_maps(pictures)[0] for kind, model in alone.items()}
    for spread, one in zip(both.spread.tolist(), maps.values(), strict=True):
        assert spread == pytest.approx(one.std(ddof=1), rel=1e-3)
    total = sum(one / spread for spread, one in zip(both.spread.tolist(), maps.values(), strict=True))
    np.testing.assert_allclose(both.anomaly_maps(pictures)[0], total, rtol=1e-4)


def test_the_gradient_error_sees_edges_and_not_levels():
    from anomaly_spotter.models.unet import _slope

    step = torch.zeros(1, 1, 16, 16)
    step[..., 8:] = 1.0
    assert _slope(torch.full((1, 1, 16, 16), 0.7)).abs().max() == 0
    found = _slope(step)[0]
    assert found[:, 7:9].min() == pytest.approx(1.0)
    assert found[:, :7].max() == found[:, 9:].max() == 0


@pytest.mark.parametrize("evidence", [("grey",), EVERYTHING])
def test_a_stored_model_decides_the_same(evidence):
    pictures = canvases(channels=3)
    settings = config(evidence=evidence, reference=True)
    model = fitted(settings, pictures)
    again = UNetModel.from_state(settings, 3, model.state())
    (maps, looks), (maps_again, looks_again) = model.anomaly_maps(pictures), again.anomaly_maps(pictures)
    np.testing.assert_array_equal(maps, maps_again)
    assert maps.shape == (4, 48, 80)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(looks[1](), looks_again[1]())


@pytest.mark.parametrize(
    "missing", ["spread", "network.output.weight", "network.reference", "components", "network.expect.2.bias"]
)
def test_a_model_that_lacks_something_is_refused(missing):
    settings = config(evidence=EVERYTHING, reference=True)
    state = fitted(settings, canvases()).state()
    with pytest.raises(BundleError):
        UNetModel.from_state(settings, 1, {name: value for name, value in state.items() if name != missing})


def test_segmentation_needs_synthetic_defects():
    overrides = {"model": {"evidence": ["segmentation"]}, "training": {"corruption": 0.0}}
    with pytest.raises(
        ConfigError, match=r"segmentation learns from synthetic defects.*training\.corruption"
    ):
        SpotterConfig.load("unet", overrides=overrides, environment={})


def test_training_teaches_what_to_expect_and_what_to_mark(tmp_path):
    """A disc with a bar: expected features lie nearer to the good part's than to the broken part's; the bar is marked."""
    from tests.conftest import draw_part

    rng = np.random.default_rng(0)
    good = np.stack([draw_part(rng)[0][:64, :96, None] for _ in range(26)])
    broken, mask = draw_part(rng, defect=True)
    settings = SpotterConfig.load(
        "unet",
        overrides={
            "model": {
                "widths": [16, 32, 32, 32], "stem": 2, "features": "gradients", "dimensions": 8,
                "reference": True, "evidence": list(EVERYTHING),
            },
            "training": {"epochs": 12, "batch_size": 8, "pictures_per_epoch": 96, "learning_rate": 4e-3},
        },
        environment={},
    )  # fmt: skip
    result = train_unet(good, np.arange(22), np.arange(22, 26), settings, tmp_path, show_progress=False)
    kinds, _ = result.model._evidence(broken[None, :64, :96, None])
    inside = torch.from_numpy(mask[:64, :96] > 0)
    assert inside.sum() > 100
    for name, kind in zip(settings.model.evidence, kinds, strict=True):
        if name != "gradient":  # lies on the rim
            assert kind[0][inside].mean() > 2 * kind[0][~inside].mean(), name
    assert result.history[-1]["val_loss"] < 0.7 * result.history[0]["val_loss"]
