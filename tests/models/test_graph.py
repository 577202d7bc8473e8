"""Every model as an ONNX graph against itself in PyTorch, on both engines, and what happens when one cannot run it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from anomaly_spotter.config import ModelConfig
from anomaly_spotter.errors import BundleError, ConfigError, MissingExtraError
from anomaly_spotter.models import engines, feature_model
from anomaly_spotter.models.cells import RANGE
from anomaly_spotter.models.compiled import CompiledModel
from anomaly_spotter.models.engines import EXACT, available, open_session
from anomaly_spotter.models.features import BackboneFeatures, PatchFeatures, extractor
from anomaly_spotter.models.graph import Graph, stages
from anomaly_spotter.models.grids import GoodGrids
from anomaly_spotter.models.unet import UNet, UNetModel
from tests.models.conftest import config, draw, drawn

SIZES = [(48, 64, 1), (80, 32, 3), (16, 160, 1)]


def compiled(model, settings: ModelConfig, canvas: tuple[int, int, int], engine: str) -> CompiledModel:
    arrays = model.state()
    sessions = {
        stage.name: open_session(stage.model.SerializeToString(), engine)
        for stage in stages(settings, canvas, arrays)
    }
    return CompiledModel(settings, canvas, arrays, sessions)


def assert_same(model, settings, canvas, engine, rtol=2e-3) -> None:
    pictures = np.stack(drawn(3, seed=9, height=canvas[0], width=canvas[1], channels=canvas[2]))
    pictures[2, 4:12, 10:20] = 255
    expected, looks = model.anomaly_maps(pictures)
    found, other_looks = compiled(model, settings, canvas, engine).anomaly_maps(pictures)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * float(expected.max()))
    for look, other in zip(looks, other_looks, strict=True):
        normal, other_normal = look(), other()
        assert (normal is None) is (other_normal is None)
        if normal is not None:
            assert other_normal.shape == normal.shape
            assert np.abs(normal.astype(int) - other_normal).mean() < 1


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("places", ["local", "global"])
@pytest.mark.parametrize("name", ["memory", "gaussian"])
@pytest.mark.parametrize("features", ["gradients", "lite0"])
def test_memory_and_gaussians_are_the_same_on_every_engine(engine, places, name, features):
    for canvas in SIZES:
        settings = config(name=name, places=places, features=features)
        size = dict(zip(("height", "width", "channels"), canvas, strict=True))
        good = GoodGrids.fit(drawn(9, **size), settings, seed=0)
        model, _ = feature_model(name).fit(good, settings, seed=0)
        assert_same(model, settings, canvas, engine)


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize(
    ("evidence", "error", "norm", "reference"),
    [
        (("grey",), "squared", False, False),
        (("grey", "gradient"), "absolute", True, True),
        (("features", "segmentation"), "squared", True, True),
    ],
)
def test_the_unet_is_the_same_on_every_engine(engine, stem, evidence, error, norm, reference):
    settings = config(
        name="unet", evidence=evidence, error=error, batch_norm=norm, reference=reference, stem=stem,
        widths=(8, 12, 16, 16), skips=(False, True, True), features="lite0",
    )  # fmt: skip
    for canvas in [(64, 96, 1), (48, 32, 3)]:
        torch.manual_seed(0)
        height, width, channels = canvas
        network = UNet(channels, settings, torch.rand(1, channels, height, width) if reference else None)
        with torch.no_grad():
            for value in network.buffers():
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) + 0.5)
            for value in network.parameters():
                if value.ndim == 4:
                    value *= 4  # at first a network hardly looks at its picture, so channels in a wrong order would not show
        extract = extractor("lite0", channels)
        grids = [extract(torch.rand(1, channels, height, width) * 255) for _ in range(2)]
        features = (
            PatchFeatures.fit(extract, grids, settings.dimensions, 0) if "features" in evidence else None
        )
        model = UNetModel(network, settings, torch.rand(len(evidence)) + 0.5, features)
        assert_same(model, settings, canvas, engine)


def test_products_of_the_memory_add_up_exactly():
    """Given the same features, both engines and PyTorch give the same distances to the last bit of the square."""
    settings = config(places="local")
    good = GoodGrids.fit(drawn(12), settings, seed=0)
    model, _ = feature_model("memory").fit(good, settings, seed=0)
    grid = good.features.of(draw(np.random.default_rng(3))).clone()
    with torch.inference_mode():
        grid[2, 3] += 1000  # far beyond the range of counts
    expected = model.distances(grid).numpy()
    (stage,) = [each for each in stages(settings, (48, 64, 1), model.state()) if each.name == "distances"]
    for engine in EXACT:
        (found,) = open_session(stage.model.SerializeToString(), engine)(grid.numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("places", ["local", "global"])
@pytest.mark.parametrize("engine", EXACT)
def test_the_largest_products_of_a_memory_fit_into_16_bits(engine, places):
    """Where every count is at the end of its range, processors without VNNI instructions would cut wider ones off."""
    settings = config(places=places)
    good = GoodGrids.fit(drawn(12), settings, seed=0)
    fitted, _ = feature_model("memory").fit(good, settings, seed=0)
    state = fitted.state()
    signs = np.random.default_rng(0).choice([-1, 1], state["bank"].shape[2])
    rows = np.stack([signs, -signs, np.ones_like(signs)] * state["bank"].shape[1])[: state["bank"].shape[1]]
    state["bank"] = np.broadcast_to(rows * RANGE, state["bank"].shape).astype(np.int8)
    state["centre"] = np.zeros_like(state["centre"])
    grid = np.broadcast_to(signs * RANGE * state["step"], good.grids.shape[1:]).astype(np.float32).copy()
    grid[1, 2] = 0
    model = feature_model("memory").from_state(settings, 1, state)
    expected = model.distances(torch.from_numpy(grid)).numpy()
    (stage,) = [each for each in stages(settings, (48, 64, 1), state) if each.name == "distances"]
    (found,) = open_session(stage.model.SerializeToString(), engine)(grid)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.count_nonzero(expected) == 1


def test_a_memory_beyond_the_range_of_counts_is_refused():
    settings = config()
    good = GoodGrids.fit(drawn(5), settings, seed=0)
    state = feature_model("memory").fit(good, settings, seed=0)[0].state()
    state["bank"] = state["bank"].copy()
    state["bank"][0, 0, 0] = -RANGE - 1
    with pytest.raises(BundleError, match="do not fit together"):
        stages(settings, (48, 64, 1), state)
    with pytest.raises(BundleError, match="do not fit together"):
        feature_model("memory").from_state(settings, 1, state)


def test_the_graph_is_valid_and_self_contained():
    settings = config(features="lite0")
    good = GoodGrids.fit(drawn(5), settings, seed=0)
    model, _ = feature_model("memory").fit(good, settings, seed=0)
    for stage in stages(settings, (48, 64, 1), model.state()):
        onnx.checker.check_model(stage.model, full_check=True)
        assert {node.domain for node in stage.model.graph.node} == {""}


def test_what_a_graph_lacks_is_named():
    settings = config()
    good = GoodGrids.fit(drawn(5), settings, seed=0)
    model, _ = feature_model("memory").fit(good, settings, seed=0)
    state = model.state()
    del state["centre"]
    with pytest.raises(BundleError, match="centre"):
        stages(settings, (48, 64, 1), state)


def test_networks_of_timm_ask_for_pytorch():
    settings = ModelConfig.model_construct(**{**config().model_dump(), "features": "timm:resnet18"})
    arrays = {"mean": np.zeros(4, np.float32), "components": np.zeros((4, 2), np.float32)}
    with pytest.raises(ConfigError, match="PyTorch only"):
        stages(settings, (48, 64, 1), arrays)


@pytest.mark.parametrize("engine", EXACT)
def test_a_graph_that_an_engine_cannot_run_gets_one_line(engine):
    graph = Graph()
    value = graph.input("x", np.float32, [2])
    made = graph("FantasyOperator", value)
    broken = graph.model({"y": (made, np.float32, [2])})
    with pytest.raises(BundleError, match=f"^{engine} cannot run the model") as caught:
        open_session(broken.SerializeToString(), engine)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="cannot run"):
        open_session(b"not a graph", engine)


def test_a_missing_engine_names_its_extra(monkeypatch):
    monkeypatch.setitem(engines._PACKAGES, "openvino", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"anomaly-spotter\["):
        open_session(b"", "openvino")
    assert "openvino" not in available()


def test_backbone_grid_of_a_large_picture_is_the_same_in_bands_and_whole():
    """PyTorch works in bands, the graph does not: both see the same features."""
    rng = np.random.default_rng(0)
    levels = torch.from_numpy(rng.uniform(0, 255, (1, 1, 2048, 1536)).astype(np.float32))
    extract = extractor("lite0", 1)
    assert isinstance(extract, BackboneFeatures)
    banded, whole = extract(levels), extract._grid(levels)
    assert float((banded - whole).abs().max()) < 0.02 * float(whole.abs().max())
