"""Backbones of timm: the features of its own loading, what a bundle keeps of them, and what can be wrong with a weight file.

timm itself is needed for the first part only; the rest runs on a small stand-in that is built like it.
"""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anomaly_spotter import Spotter
from anomaly_spotter.bundle import Bundle, read_bundle, write_bundle
from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import BundleError, ConfigError, MissingExtraError
from anomaly_spotter.models.features import BackboneFeatures, extractor, levels
from anomaly_spotter.models.hub import HubBackbone
from anomaly_spotter.models.lite import STRIDES
from tests.models.conftest import drawn

if TYPE_CHECKING:
    from collections.abc import Callable

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


class Whole(nn.Module):
    """Stem and three stages to stride 32, and a head, with names and normalisation as timm's networks have."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6))
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width + 2, 3, 2, 1), nn.BatchNorm2d(width + 2), nn.ReLU(True))
                for width in (6, 8, 10)
            )
        )
        self.extra = nn.Sequential(*(nn.Linear(2, 2) for _ in range(extra)))
        self.head = nn.Linear(12, 5)


class FeaturesOnly(nn.ModuleDict):
    """A whole network's layers, taken apart as timm does."""

    def __init__(self, whole: Whole, strides: list[int]) -> None:
        stages = {f"stages_{index}": stage for index, stage in enumerate(whole.stages)}
        super().__init__({"stem": whole.stem, **stages})
        self.feature_info = SimpleNamespace(reduction=lambda: strides)
        self.pretrained_cfg = {"mean": MEAN, "std": STD}

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for layer in self.values():
            x = layer(x)
            outputs.append(x)
        return outputs


MODELS = {"small": (0, [4, 8, 16, 32]), "larger": (1, [4, 8, 16, 32]), "flat": (0, [16, 16, 16, 16])}
MODELS["liar"] = (0, [2, 4, 8, 16])


def create_model(name: str, pretrained: bool, features_only: bool = False) -> nn.Module:
    assert not pretrained
    extra, strides = MODELS[name]
    whole = Whole(extra)
    return FeaturesOnly(whole, strides) if features_only else whole


@pytest.fixture
def stand_in(monkeypatch):
    module = SimpleNamespace(
        __version__="1.2.3",
        is_model=MODELS.__contains__,
        list_models=lambda: sorted(MODELS),
        create_model=create_model,
    )
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.fixture
def no_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="timm is not installed: pip install 'anomaly-spotter[hub]'")


def trained(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with statistics as after training, and matrices that half precision holds; always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = build()
        for key, value in whole.state_dict().items():
            if key.endswith("running_mean"):
                value.normal_(0, 0.1)
            elif key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim > 1:
                value.copy_(value.half())
    return whole.eval()


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "small.pth"
    torch.save(trained(Whole).state_dict(), path)
    return path


def some_levels(channels: int = 1) -> torch.Tensor:
    return 255 * torch.rand(1, channels, 96, 144, generator=torch.Generator().manual_seed(1))


def features_of(backbone, picture):
    with torch.inference_mode():
        return backbone(picture)


def one_line(caught) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- timm itself ---


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "efficientnet_b0", "tiny_vit_5m_224", "cspnext_s", "mambaout_femto"]
)
def test_features_equal_those_of_timms_own_loading(timm, tmp_path, name):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} is too old for {name}")
    path = tmp_path / "weights.pth"
    torch.save(trained(partial(timm.create_model, name)).state_dict(), path)
    overlay = {"file": str(path)}
    reference = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
    config = reference.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        layers = reference.eval()((some_levels().expand(-1, 3, -1, -1) / 255 - mean) / std)
    if getattr(reference, "output_fmt", "NCHW") == "NHWC":
        layers = [layer.permute(0, 3, 1, 2) for layer in layers]
    expected = {layer.shape[2]: layer for layer in layers}  # the last one of each size stays
    with torch.inference_mode():
        backbone = HubBackbone.pretrained(name, path)
    again = HubBackbone.from_state(name, backbone.state())
    found, found_again = features_of(backbone, some_levels()), features_of(again, some_levels())
    for stride, layer, same in zip(STRIDES, found, found_again, strict=True):
        wanted = expected[96 // stride]
        torch.testing.assert_close(layer, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))
        assert torch.equal(layer, same)
    assert sum(value.nbytes for value in backbone.state().values()) < path.stat().st_size / 2


def test_timms_weights_of_another_depth_are_refused(timm, tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(timm.create_model("resnet34").state_dict(), path)
    with pytest.raises(ConfigError, match=r"timm's 'resnet18': it has layer1\.2\.\S+ besides"):
        HubBackbone.pretrained("resnet18", path)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "inception_v3"])
def test_timms_networks_without_such_layers_are_refused(timm, weights, name):
    with pytest.raises(ConfigError, match=rf"'{name}' cannot give layers at strides 4, 8 and 16") as caught:
        HubBackbone.pretrained(name, weights)
    one_line(caught)


def test_a_name_that_timm_does_not_know_is_refused(timm, weights):
    with pytest.raises(ConfigError, match=r"no model 'resnt18'; did you mean timm:resnet18\?"):
        HubBackbone.pretrained("resnt18", weights)


# --- what is kept ---


def reference_layers(picture: torch.Tensor) -> list[torch.Tensor]:
    whole = trained(Whole)
    x = (picture.expand(-1, 3, -1, -1) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    with torch.inference_mode():
        fine = whole.stem(x)
        middle = whole.stages[0](fine)
        return [fine, middle, whole.stages[1](middle)]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_as_the_network_was_trained(stand_in, weights, channels):
    picture = some_levels(channels)
    found = features_of(HubBackbone.pretrained("small", weights), picture)
    for layer, expected in zip(found, reference_layers(picture), strict=True):
        torch.testing.assert_close(layer, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["safetensors", "old", "training-state", "parallel", "half"])
def test_every_form_of_a_weight_file_gives_the_same(stand_in, tmp_path, form):
    state = trained(Whole).state_dict()
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "old":
        early = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        torch.save(early, path, _use_new_zipfile_serialization=False)
    elif form == "training-state":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save({key: value.half() if value.ndim > 1 else value for key, value in state.items()}, path)
    found = features_of(HubBackbone.pretrained("small", path), some_levels())
    for layer, expected in zip(found, reference_layers(some_levels()), strict=True):
        torch.testing.assert_close(layer, expected, rtol=1e-4, atol=1e-4)


def test_a_bundle_keeps_only_what_is_used_in_half_precision_where_that_is_exact(stand_in, weights):
    whole = Whole().state_dict()
    whole["stages.0.0.weight"][0, 0, 0, 0] = 1e5  # beyond half precision
    whole["stem.0.weight"][0, 0, 0, 0] = 1 / 3
    torch.save(whole, weights)
    backbone = HubBackbone.pretrained("small", weights)
    state = backbone.state()
    assert not any("stages_2" in key or "head" in key for key in state)
    assert state["network.stem.0.weight"].dtype == np.float16
    assert state["network.stages_0.0.weight"].dtype == np.float32
    np.testing.assert_array_equal(state["network.stages_0.0.weight"], whole["stages.0.0.weight"].numpy())
    np.testing.assert_array_equal(state["network.stem.0.bias"], whole["stem.0.bias"].numpy())
    again = HubBackbone.from_state("small", state)
    for before, after in zip(
        features_of(backbone, some_levels()), features_of(again, some_levels()), strict=True
    ):
        assert torch.equal(before, after)
    assert {key: value.dtype for key, value in again.state().items()} == {
        key: value.dtype for key, value in state.items()
    }


def test_the_weight_files_hash_goes_with_the_weights(stand_in, weights):
    state = HubBackbone.pretrained("small", weights).state()
    assert state["sha256"].tobytes() == hashlib.sha256(weights.read_bytes()).digest()
    assert torch.equal(
        HubBackbone.from_state("small", state).sha256, torch.from_numpy(np.array(state["sha256"]))
    )


def test_nothing_global_is_touched(stand_in, weights):
    before = torch.random.get_rng_state()
    backbone = HubBackbone.pretrained("small", weights)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert not backbone.training
    assert not any(weight.requires_grad for weight in backbone.parameters())


def test_patch_features_are_pooled_as_any_backbones(stand_in, weights):
    found = extractor("timm:small", 1, weights=weights)
    assert isinstance(found, BackboneFeatures)
    picture = levels(drawn(1, height=48, width=80)[0])
    grid = features_of(found, picture)
    assert grid.shape == (6, 10, 6 + 8 + 10)
    again = extractor("timm:small", 1, found.state())
    assert torch.equal(features_of(again, picture), grid)


# --- a whole detector ---


def settings(**model) -> SpotterConfig:
    model = {"name": "memory", "features": "timm:small", "dimensions": 8} | model
    return SpotterConfig.load(overrides={"model": model, "preprocessing": {"long_side": 64}})


@pytest.fixture
def good(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for index, picture in enumerate(drawn(8)):
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.mark.parametrize("name", ["memory", "gaussian"])
def test_a_detector_is_loaded_without_the_weight_file(stand_in, weights, good, tmp_path, name):
    spotter = Spotter.fit(good, config=settings(name=name, weights=weights))
    file = spotter.save(tmp_path / "part.spot")
    weights.unlink()
    again = Spotter.load(file)
    picture = good / "3.png"
    np.testing.assert_array_equal(again.inspect(picture).anomaly_map, spotter.inspect(picture).anomaly_map)
    assert again.identity == spotter.identity


def test_a_detector_that_needs_timm_says_so_where_it_is_missing(no_timm, good, tmp_path):
    file = Spotter.fit(good, config=settings(features="gradients")).save(tmp_path / "part.spot")
    stored = read_bundle(file)
    config = stored.config | {
        "model": stored.config["model"] | {"features": "timm:resnet18", "weights": "/elsewhere/resnet18.pth"}
    }
    edited = Bundle(config, stored.preprocessing, stored.calibration, stored.provenance, stored.arrays)
    write_bundle(file, edited)
    with pytest.raises(
        MissingExtraError, match=r"timm:resnet18.*pip install 'anomaly-spotter\[hub\]'"
    ) as caught:
        Spotter.load(file)
    one_line(caught)


# --- what can be wrong ---


def test_a_missing_timm_is_named_with_its_remedy(no_timm, weights):
    with pytest.raises(
        MissingExtraError, match=r"needs timm: pip install 'anomaly-spotter\[hub\]'"
    ) as caught:
        HubBackbone.pretrained("small", weights)
    one_line(caught)


def test_a_timm_that_does_not_fit_pytorch_is_named(monkeypatch, weights):
    def broken(_):
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr("anomaly_spotter.models.hub.importlib.import_module", broken)
    with pytest.raises(MissingExtraError, match=r"nms does not exist.*torchvision made for this") as caught:
        HubBackbone.pretrained("small", weights)
    one_line(caught)


class Code:
    def __reduce__(self):
        return (sys.exit, ("the code of the file must not run",))


@pytest.mark.parametrize(
    "damage", ["empty", "header", "half", "last-bytes", "text", "code", "safetensors", "empty-safetensors"]
)
def test_a_damaged_weight_file_is_one_clear_line(no_timm, weights, damage):
    data = weights.read_bytes()
    path = weights.with_suffix(".safetensors") if "safetensors" in damage else weights
    if damage == "code":
        torch.save({"stem.0.weight": Code()}, path)
    elif damage == "safetensors":
        save_file(Whole().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-10])
    else:
        kept = {"header": 30, "half": len(data) // 2, "last-bytes": len(data) - 3}
        path.write_bytes(b"no weights at all" if damage == "text" else data[: kept.get(damage, 0)])
    with pytest.raises(ConfigError, match=r"is truncated, or holds more than plain weights.*again") as caught:
        HubBackbone.pretrained("small", path)
    one_line(caught)


def test_a_missing_weight_file_is_one_clear_line(no_timm, tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(ConfigError, match=r"cannot read the weight file .*set model\.weights") as caught:
            HubBackbone.pretrained("small", path)
        one_line(caught)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stages.1.0.weight": None}, r"it lacks stages_1\.0\.weight"),
        ({"stem.0.weight": torch.zeros(6, 3, 2, 2)}, r"\[6, 3, 2, 2\] instead of \[6, 3, 4, 4\]"),
        ({"extra.0.weight": torch.zeros(2, 2)}, r"it has extra\.0\.weight besides"),
        ({"stem.0.bias": torch.full((6,), torch.nan)}, r"stem\.0\.bias is not finite"),
    ],
    ids=["lacks", "shape", "surplus", "not-finite"],
)
def test_another_models_weights_are_one_clear_line(stand_in, weights, change, problem):
    state = {key: value for key, value in (Whole().state_dict() | change).items() if value is not None}
    torch.save(state, weights)
    with pytest.raises(
        ConfigError, match=rf"weights of timm's 'small': .*{problem}; give the file"
    ) as caught:
        HubBackbone.pretrained("small", weights)
    one_line(caught)


def test_a_file_without_weights_is_one_clear_line(stand_in, weights):
    torch.save([1, 2], weights)
    with pytest.raises(ConfigError, match="it lacks stem"):
        HubBackbone.pretrained("small", weights)


def test_an_unknown_name_is_one_clear_line(stand_in, weights):
    with pytest.raises(ConfigError, match=r"timm 1\.2\.3 has no model 'smal'; did you mean timm:small\?"):
        HubBackbone.pretrained("smal", weights)
    with pytest.raises(ConfigError, match=r"no model 'zzz'; timm\.list_models\(\) gives all names"):
        HubBackbone.pretrained("zzz", weights)


@pytest.mark.parametrize(
    ("name", "reason"), [("flat", "its layers are at 16, 16"), ("liar", "a layer of 80 x 112 pixels is")]
)
def test_a_network_without_such_layers_is_one_clear_line(stand_in, weights, name, reason):
    with pytest.raises(
        ConfigError, match=rf"'{name}' cannot give layers at strides .*{reason}.*take another"
    ) as caught:
        HubBackbone.pretrained(name, weights)
    one_line(caught)


@pytest.mark.parametrize("damage", ["missing", "shape", "surplus"])
def test_damaged_arrays_are_one_clear_error(stand_in, weights, damage):
    state = HubBackbone.pretrained("small", weights).state()
    if damage == "missing":
        state.pop("mean")
    elif damage == "shape":
        state["network.stem.0.weight"] = state["network.stem.0.weight"][:-1]
    else:
        state["surprise"] = np.zeros(3, np.float16)
    with pytest.raises(BundleError, match="do not fit the installed timm's 'small'") as caught:
        HubBackbone.from_state("small", state)
    one_line(caught)


# --- settings ---


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"features": "timm:resnet18"}, r"model\.weights: .*needs its weight file"),
        ({"features": "lite0", "weights": "a.pth"}, r"model\.weights: .*only a backbone of timm"),
        ({"features": "lite9"}, r"model\.features: .*lite9"),
        ({"features": "timm:hf-hub:somebody/model", "weights": "a.pth"}, r"model\.features: .*hf-hub"),
    ],
    ids=["no-file", "no-timm", "unknown", "remote"],
)
def test_settings_that_do_not_go_together_are_refused(model, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        SpotterConfig.load(overrides={"model": model})
    one_line(caught)


def test_settings_with_a_weight_file_survive_a_bundle(tmp_path):
    config = settings(features="timm:resnet18.a1_in1k", weights=tmp_path / "r.pth")
    assert SpotterConfig.parse(config.to_dict()) == config
