"""Patch features: what they mean, that their projection is the principal components, and that nothing odd happens at borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.cells import STRIDE, enlarge
from anomaly_spotter.models.features import (
    GradientFeatures,
    PatchFeatures,
    extractor,
    levels,
)
from tests.models.conftest import Pixels, drawn


@pytest.fixture(scope="module")
def network():
    return extractor("lite0", 1)


def features_of(extract, picture):
    with torch.inference_mode():
        return extract(levels(picture))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (16, 16), (80, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_there_is_one_feature_vector_per_cell(network, height, width, channels):
    picture = drawn(1, height=height, width=width, channels=channels)[0]
    cells = height // STRIDE, width // STRIDE
    assert features_of(GradientFeatures(), picture).shape == (*cells, 16 + channels)
    if channels == 1:
        found = features_of(network, picture)
        assert found.shape == (*cells, 24 + 40 + 112)
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("level", [20, 140, 230])
def test_the_border_is_hardly_an_edge_to_network_features(network, level):
    """Zero padding shows as an edge around every picture; a mirrored border shows in the coarsest features only."""
    found = features_of(network, np.full((96, 128, 1), level, np.uint8))
    with torch.inference_mode():
        bare = network.backbone(torch.full((1, 1, 96, 128), float(level)))
    start = 0
    for layer, much in zip(bare, (1e-3, 0.3, 0.7), strict=True):
        own = found[..., start : start + layer.shape[1]]
        start += layer.shape[1]
        edge = float((own[0, 8] - own[6, 8]).abs().mean())
        height, width = layer.shape[2:]
        zero_edge = float((layer[0, :, 0, width // 2] - layer[0, :, height // 2, width // 2]).abs().mean())
        assert edge < much * zero_edge


def test_network_features_move_with_the_picture(network):
    """A shift by one cell of the coarsest grid shifts the features, so nothing is read off the wrong cell."""
    picture = drawn(1, height=160, width=192)[0]
    found = features_of(network, picture)
    inner = found[6:14, 6:16]
    spread = float((inner - inner.mean(dim=(0, 1))).abs().mean())
    for cells, axis in ((2, 1), (2, 0), (-2, 1)):
        moved = features_of(network, np.roll(picture, 8 * cells, axis=axis)).roll(-cells, dims=axis)
        assert float((moved[6:14, 6:16] - inner).abs().mean()) < 0.1 * spread
    unmoved = features_of(network, np.roll(picture, 8, axis=1))[6:14, 6:16]
    assert float((unmoved - inner).abs().mean()) > 0.4 * spread


def test_gradient_features_tell_the_direction_of_an_edge_and_its_sign():
    step = np.zeros((48, 48, 1), np.uint8)
    step[:, 28:] = 200
    names = {"right": step, "left": step[:, ::-1], "down": step.transpose(1, 0, 2)}
    names["up"] = names["down"][::-1]
    strongest = {
        name: int(
            features_of(GradientFeatures(), np.ascontiguousarray(one))[..., :8].amax(dim=(0, 1)).argmax()
        )
        for name, one in names.items()
    }
    assert strongest == {"right": 0, "down": 2, "left": 4, "up": 6}  # eighths of a turn


def test_gradient_features_do_not_depend_on_brightness_but_for_the_level():
    picture = (drawn(1)[0] // 2).astype(np.uint8)
    dark, light = features_of(GradientFeatures(), picture), features_of(GradientFeatures(), picture + 40)
    torch.testing.assert_close(dark[..., :16], light[..., :16])
    torch.testing.assert_close(light[..., 16] - dark[..., 16], torch.full((6, 8), 10.0))


def test_the_border_is_no_edge_to_gradient_features():
    flat = features_of(GradientFeatures(), np.full((32, 40, 1), 90, np.uint8))
    torch.testing.assert_close(flat, flat[2, 2].expand_as(flat))


def grids_of(pictures):
    return [features_of(GradientFeatures(), picture) for picture in pictures]


def test_the_projection_is_the_principal_components():
    grids = grids_of(drawn(10))
    fitted = PatchFeatures.fit(GradientFeatures(), grids, dimensions=6, seed=0)
    cells = torch.cat([grid.reshape(-1, 17) for grid in grids]).double().numpy()
    reference = PCA(6, svd_solver="full").fit(cells)
    np.testing.assert_allclose(fitted.mean.numpy(), reference.mean_, rtol=1e-5, atol=1e-5)
    cosines = np.abs((reference.components_ * fitted.components.numpy().T).sum(axis=1))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-5)
    projected = fitted.project(grids[3])
    assert projected.shape == (6, 8, 6)
    np.testing.assert_allclose(
        np.abs(projected.reshape(-1, 6).numpy()),
        np.abs(reference.transform(grids[3].reshape(-1, 17).numpy())),
        atol=1e-3,
    )


def test_all_components_keep_every_distance():
    grids = grids_of(drawn(6))
    fitted = PatchFeatures.fit(GradientFeatures(), grids, dimensions=512, seed=0)
    assert fitted.components.shape == (17, 17)
    before = torch.linalg.vector_norm(grids[0] - grids[1], dim=2)
    after = torch.linalg.vector_norm(fitted.project(grids[0]) - fitted.project(grids[1]), dim=2)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_the_projection_is_deterministic_by_its_seed(monkeypatch):
    grids = grids_of(drawn(8))
    monkeypatch.setattr("anomaly_spotter.models.features._SAMPLE", 80)  # ten cells of each picture
    first, again, other = (
        PatchFeatures.fit(GradientFeatures(), grids, dimensions=5, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first.components, again.components)
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.mean, other.mean)


def test_state_round_trip_gives_the_same_features_to_the_bit(network):
    picture = drawn(1)[0]
    grids = [features_of(network, one) for one in drawn(3)]
    fitted = PatchFeatures.fit(network, grids, dimensions=20, seed=0)
    again = PatchFeatures.from_state("lite0", 1, fitted.state())
    assert torch.equal(again.of(picture), fitted.of(picture))


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": None},
        {"components": None},
        {"mean": np.zeros(3, np.float32)},
        {"components": np.zeros(17, np.float32)},
    ],
    ids=["no-mean", "no-components", "mean-too-short", "components-flat"],
)
def test_damaged_projections_are_refused(damage):
    state = PatchFeatures.fit(GradientFeatures(), grids_of(drawn(3)), dimensions=5, seed=0).state()
    state = {name: value for name, value in (state | damage).items() if value is not None}
    with pytest.raises(BundleError, match="use the original file"):
        PatchFeatures.from_state("gradients", 1, state)


def test_enlarging_keeps_every_cell_in_its_place():
    ramp = np.add.outer(10.0 * np.arange(4), np.arange(6)).astype(np.float32)
    enlarged = enlarge(ramp)
    assert enlarged.shape == (32, 48)
    middles = (enlarged[3::8, 3::8] + enlarged[4::8, 4::8]) / 2  # a cell's middle lies between them
    np.testing.assert_allclose(middles[1:-1, 1:-1], ramp[1:-1, 1:-1], atol=1e-4)
    assert (enlarged.min(), enlarged.max()) == (ramp.min(), ramp.max())
    peak = np.zeros((4, 6), np.float32)
    peak[2, 1] = 1
    rows, columns = np.nonzero(enlarge(peak) > 0.5)
    assert (rows.mean(), columns.mean()) == (2 * 8 + 3.5, 1 * 8 + 3.5)


def test_the_tests_own_extractor_gives_each_cell_its_pixels():
    picture = drawn(1)[0]
    np.testing.assert_array_equal(Pixels()(levels(picture))[2, 5].numpy(), picture[16:24, 40:48, 0].ravel())


def test_large_pictures_in_bands_give_the_features_of_the_whole(network, monkeypatch):
    from anomaly_spotter.models import features

    picture = drawn(1, height=640, width=96)[0]
    whole = features_of(network, picture)
    sizes = []
    bare = type(network.backbone).forward
    monkeypatch.setattr(
        type(network.backbone), "forward", lambda self, x: sizes.append(x.shape[2]) or bare(self, x)
    )
    monkeypatch.setattr(features, "_BAND", 96 * 128)
    banded = features_of(network, picture)
    assert len(sizes) == 5
    assert max(sizes) == 128 + 2 * 128 + 2 * 16
    assert banded.shape == whole.shape
    error = (banded - whole).norm(dim=2) / whole.norm(dim=2)
    assert error.mean() < 1e-3
    assert error.max() < 0.02
