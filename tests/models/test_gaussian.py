"""The Gaussians against NumPy and SciPy: distances, shrinkage, and the leave-one-out formula against fitting again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.cells import enlarge
from anomaly_spotter.models.gaussian import GaussianModel
from anomaly_spotter.models.grids import GoodGrids
from tests.models.conftest import config, draw, drawn, synthetic, without

LOCAL, GLOBAL = config(name="gaussian"), config(name="gaussian", places="global")
BOTH = pytest.mark.parametrize("settings", [LOCAL, GLOBAL], ids=["local", "global"])
HALF = 3e-3  # relative error that storing the factors in half precision may bring


@pytest.fixture(scope="module")
def good() -> GoodGrids:
    return GoodGrids.fit(drawn(20), LOCAL, seed=0)


def by_place(good: GoodGrids, settings) -> np.ndarray:
    """Patches ``[P, n, d]`` in double precision."""
    cells = good.grids.double().numpy()
    if settings.places == "global":
        return cells.reshape(1, -1, cells.shape[3])
    return cells.reshape(len(cells), -1, cells.shape[3]).transpose(1, 0, 2)


def oracle_shrinkage(patches: np.ndarray) -> float:
    """Chen et al. 2010, eq. 23, with the traces averaged over the places."""
    count, depth = patches.shape[1:]
    covariances = [np.cov(place.T, bias=True) for place in patches]
    square_trace = np.mean([np.trace(one @ one) for one in covariances])
    trace_square = np.mean([np.trace(one) ** 2 for one in covariances])
    above = (1 - 2 / depth) * square_trace + trace_square
    return min(1.0, above / ((count + 1 - 2 / depth) * (square_trace - trace_square / depth)))


def gaussian_of(patches: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and inverse of the shrunk covariance, of the patches ``[n, d]`` of one place."""
    covariance = np.cov(patches.T, bias=True)
    depth = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / depth * np.eye(depth)
    return patches.mean(axis=0), np.linalg.inv(shrunk + 1e-6 * np.eye(depth))


def expected_distances(patches: np.ndarray, shrinkage: float, grid: np.ndarray) -> np.ndarray:
    height, width = grid.shape[:2]
    gaussians = [gaussian_of(place, shrinkage) for place in patches] * (height * width // len(patches))
    cells = grid.reshape(height * width, -1)
    pairs = zip(cells, gaussians, strict=True)
    return np.array([mahalanobis(cell, *one) for cell, one in pairs]).reshape(height, width)


def strange(good: GoodGrids) -> torch.Tensor:
    picture = draw(np.random.default_rng(77))
    picture[24:34, 30:44] = 255
    return good.features.of(picture)


@BOTH
def test_distances_are_scipys_mahalanobis_distances(good, settings):
    model, _ = GaussianModel.fit(good, settings, seed=0)
    patches = by_place(good, settings)
    shrinkage = oracle_shrinkage(patches)
    assert 1e-4 < shrinkage < 0.9
    for grid in (strange(good), good.grids[2].float()):
        expected = expected_distances(patches, shrinkage, grid.double().numpy())
        np.testing.assert_allclose(model.distances(grid).numpy(), expected, rtol=HALF, atol=0.01)


@BOTH
def test_maps_come_in_canvas_pixels_and_show_no_normal_look(good, settings):
    model, _ = GaussianModel.fit(good, settings, seed=0)
    pictures = np.stack(drawn(3, seed=4))
    maps, looks = model.anomaly_maps(pictures)
    assert maps.shape == (3, 48, 64)
    assert maps.dtype == np.float32
    expected = enlarge(model.distances(good.features.of(pictures[1])).numpy())
    np.testing.assert_array_equal(maps[1], expected)
    assert [look() for look in looks] == [None] * 3


def test_good_patches_are_as_far_as_their_number_of_dimensions():
    """With many samples the squared distance of a fresh patch is chi-squared distributed."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6)) + 2 * np.eye(6)
    grids = (rng.normal(size=(400, 3, 4, 6)) @ mix).astype(np.float32)
    model, _ = GaussianModel.fit(synthetic(grids), LOCAL, seed=0)
    fresh = (rng.normal(size=(200, 3, 4, 6)) @ mix).astype(np.float32)
    squares = [float((model.distances(torch.from_numpy(one)) ** 2).mean()) for one in fresh]
    assert np.mean(squares) == pytest.approx(6, rel=0.1)


def test_features_that_never_vary_do_not_break_the_fit():
    grids = np.random.default_rng(0).normal(size=(12, 3, 4, 5)).astype(np.float32)
    grids[..., 4] = 1.5
    model, left_out = GaussianModel.fit(synthetic(grids), LOCAL, seed=0)
    assert all(np.isfinite(one).all() for _, one in left_out())
    assert torch.isfinite(model.distances(torch.from_numpy(grids[0] + 1))).all()
    constant, left_out = GaussianModel.fit(synthetic(np.ones((6, 3, 4, 5), np.float32)), LOCAL, seed=0)
    assert all(one.max() == 0 for _, one in left_out())
    assert float(constant.distances(torch.full((3, 4, 5), 1.1)).min()) > 10


def light_tailed(rng, count):
    return rng.normal(size=(count, 3, 4, 8))


def heavy_tailed(rng, count):
    """Most pictures are much alike and some are far off: the ridge of those without such a picture is smaller."""
    return rng.standard_t(2.5, size=(count, 3, 4, 1)) * rng.normal(size=(count, 3, 4, 8))


@pytest.mark.parametrize("drawn_from", [light_tailed, heavy_tailed])
@pytest.mark.parametrize("count", [6, 20, 80])
def test_the_map_of_a_picture_is_that_of_gaussians_without_it_and_never_calmer(count, drawn_from):
    """Against fitting again with the same shrinkage; the bound holds for pictures that are not far off."""
    grids = drawn_from(np.random.default_rng(count), count).astype(np.float32)
    good = synthetic(grids)
    patches = by_place(good, LOCAL)
    shrinkage = oracle_shrinkage(patches)
    lengths = ((patches - patches.mean(axis=1, keepdims=True)) ** 2).sum(axis=2)  # [P, n]
    far_off = (lengths > lengths.mean(axis=1, keepdims=True)).T
    _, left_out = GaussianModel.fit(good, LOCAL, seed=0)
    bound = count / (count - 1)
    ratios = []
    for index, found in left_out():
        others = by_place(without(good, index), LOCAL)
        exact = expected_distances(others, shrinkage, good.grids[index].double().numpy())
        ratio = (found / enlarge(exact.astype(np.float32))) ** 2
        assert ratio.min() > 1 - 2 * HALF
        if not far_off[index].any():
            assert ratio.max() < bound + 2 * HALF
        ratios.append(ratio)
    assert np.median(ratios) < bound + 2 * HALF
    assert np.max(ratios) < 2.5


@pytest.mark.parametrize("count", [4, 15])
def test_the_map_of_a_picture_is_that_of_one_gaussian_without_all_its_patches(count):
    """Patches of one picture are much alike: each alone hardly moves the Gaussian, all together they do."""
    rng = np.random.default_rng(count)
    grids = (rng.normal(size=(count, 3, 4, 8)) + 3 * rng.normal(size=(count, 1, 1, 8))).astype(np.float32)
    good = synthetic(grids)
    model, left_out = GaussianModel.fit(good, GLOBAL, seed=0)
    for index, found in left_out():
        refitted, _ = GaussianModel.fit(without(good, index), GLOBAL, seed=0)
        expected = enlarge(refitted.distances(good.grids[index].float()).numpy())
        np.testing.assert_allclose(found, expected, rtol=HALF)
        assert found.max() > 1.05 * float(model.distances(good.grids[index].float()).max())


@BOTH
def test_asking_for_the_maps_changes_nothing(good, settings):
    before = good.grids.clone()
    model, left_out = GaussianModel.fit(good, settings, seed=0)
    state = {name: value.copy() for name, value in model.state().items()}
    first, second = dict(left_out()), dict(left_out())
    assert torch.equal(good.grids, before)
    for name, value in model.state().items():
        np.testing.assert_array_equal(value, state[name])
    for index, one in first.items():
        np.testing.assert_array_equal(second[index], one)


@BOTH
def test_pictures_that_are_no_members_are_judged_by_the_model_itself(settings, monkeypatch):
    monkeypatch.setattr("anomaly_spotter.models.grids._LARGEST", 6 * 6 * 8 * 12)
    pictures = drawn(10)
    crowded = GoodGrids.fit(pictures, settings, seed=0)
    assert len(crowded.members) == 6
    model, left_out = GaussianModel.fit(crowded, settings, seed=0)
    maps = dict(left_out())
    strangers = [index for index in range(10) if index not in crowded.members]
    assert len(maps) == 10
    for index in strangers:
        np.testing.assert_array_equal(maps[index], model.anomaly_maps(pictures[index][None])[0][0])


def test_many_places_are_inverted_in_pieces(good, monkeypatch):
    whole, _ = GaussianModel.fit(good, LOCAL, seed=0)
    monkeypatch.setattr("anomaly_spotter.models.gaussian._ROWS", 7)
    pieces, _ = GaussianModel.fit(good, LOCAL, seed=0)
    for name, value in whole.state().items():
        np.testing.assert_allclose(pieces.state()[name], value, rtol=2e-3, atol=2e-3)


@BOTH
def test_state_round_trip_gives_the_same_maps_to_the_bit(good, settings):
    model, _ = GaussianModel.fit(good, settings, seed=0)
    again = GaussianModel.from_state(settings, 1, model.state())
    pictures = np.stack(drawn(3, seed=8))
    np.testing.assert_array_equal(again.anomaly_maps(pictures)[0], model.anomaly_maps(pictures)[0])
    assert set(again.state()) == set(model.state())


@pytest.mark.parametrize(
    "damage",
    [
        {"gaussian_mean": None},
        {"whiten": None},
        {"components": None},
        {"gaussian_mean": np.s_[:-1]},
        {"gaussian_mean": np.s_[:, :-1]},
        {"whiten": np.s_[:-1]},
        {"whiten": np.s_[:, :-1]},
        {"components": np.s_[:, :-1]},
    ],
    ids=str,
)
def test_damaged_arrays_are_one_clear_error(good, damage):
    state = GaussianModel.fit(good, LOCAL, seed=0)[0].state()
    ((name, piece),) = damage.items()
    array = state.pop(name)
    if piece is not None:
        state[name] = array[piece]
    with pytest.raises(BundleError, match="use the original file") as caught:
        GaussianModel.from_state(LOCAL, 1, state)
    assert "\n" not in str(caught.value)
