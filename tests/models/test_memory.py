"""The memory against brute force: distances, leave-one-out maps, the nearest normal picture and the bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models import memory
from anomaly_spotter.models.cells import RANGE, enlarge
from anomaly_spotter.models.grids import GoodGrids
from anomaly_spotter.models.memory import MemoryModel
from tests.models.conftest import config, draw, drawn, synthetic, without

LOCAL, GLOBAL = config(places="local"), config(places="global")
BOTH = pytest.mark.parametrize("settings", [LOCAL, GLOBAL], ids=["local", "global"])


@pytest.fixture(scope="module")
def good() -> GoodGrids:
    return GoodGrids.fit(drawn(9), LOCAL, seed=0)


def strange_grid(good: GoodGrids) -> torch.Tensor:
    picture = draw(np.random.default_rng(77))
    picture[24:34, 30:44] = 255
    return good.features.of(picture)


def brute_force(model: MemoryModel, grid: torch.Tensor, ignored: np.ndarray | None = None) -> np.ndarray:
    """Nearest neighbours by comparing everything with everything, one cell after the other."""
    patches = model.bank.numpy().astype(np.float64)  # [P, K, d]
    if ignored is not None:
        patches = patches[:, ~ignored]
    centre, cells = model.centre.numpy(), grid.numpy()
    height, width = cells.shape[:2]
    found = np.full((height, width), np.inf)
    for y, x in np.ndindex(height, width):
        if len(patches) == 1:
            around = [0]
        else:
            around = [
                row * width + column
                for row in range(max(0, y - 1), min(height, y + 2))
                for column in range(max(0, x - 1), min(width, x + 2))
            ]
        for place in around:
            counts = np.rint(cells[y, x] / model.step.numpy()) - np.rint(centre[place] / model.step.numpy())
            query = np.clip(counts, -RANGE, RANGE)
            squares = (
                np.square(patches[place] - query).sum(axis=1) + np.square(patches[place]).sum(axis=1) % 2
            )
            nearest = squares.min() + np.square(counts - query).sum()
            found[y, x] = min(found[y, x], np.sqrt(nearest) * float(model.step[0]))
    return found


@BOTH
def test_distances_equal_brute_force(good, settings):
    model, _ = MemoryModel.fit(good, settings, seed=0)
    for grid in (strange_grid(good), good.grids[2].float()):
        expected = brute_force(model, grid)
        np.testing.assert_allclose(model.distances(grid).numpy(), expected, rtol=1e-5, atol=1e-5)
    picture = draw(np.random.default_rng(5))
    maps, _ = model.anomaly_maps(np.stack([picture, picture]))
    expected = enlarge(brute_force(model, good.features.of(picture)).astype(np.float32))
    assert maps.shape == (2, 48, 64)
    assert maps.dtype == np.float32
    for one in maps:
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)


@BOTH
def test_rounding_moves_distances_by_less_than_the_counts_diagonal(good, settings):
    model, _ = MemoryModel.fit(good, settings, seed=0)
    depth = good.grids.shape[3]
    cells = good.grids.float()
    patches = cells.reshape(-1, depth) if settings is GLOBAL else cells.flatten(1, 2)
    shown = good.features.of(draw(np.random.default_rng(6)))
    if settings is GLOBAL:
        exact = torch.cdist(shown.reshape(-1, depth), patches).amin(dim=1)
        found = model.distances(shown).flatten()
        assert float((found - exact).abs().max()) < float(model.step) * depth**0.5
    far = shown + 3 * RANGE * model.step  # beyond the range: still told apart by how far
    assert (model.distances(far + model.step * RANGE) > model.distances(far)).all()


@BOTH
def test_the_stored_memory_is_the_good_patches_to_half_a_count(good, settings):
    model, _ = MemoryModel.fit(good, settings, seed=0)
    stored = model.bank.float() * model.step + model.centre[:, None]
    depth = good.grids.shape[3]
    cells = good.grids.float()
    original = cells.reshape(1, -1, depth) if settings is GLOBAL else cells.flatten(1, 2).transpose(0, 1)
    assert stored.shape == original.shape
    assert float(((stored - original).abs() <= model.step * 0.51 + 1e-3).float().mean()) > 0.999


@BOTH
def test_the_map_of_a_picture_is_that_of_the_memory_without_its_own_patches(good, settings):
    model, left_out = MemoryModel.fit(good, settings, seed=0)
    cells = good.grids.shape[1] * good.grids.shape[2]
    owners = np.repeat(np.arange(9), cells) if settings is GLOBAL else np.arange(9)
    found = dict(left_out())
    assert sorted(found) == list(range(9))
    for index, own_map in found.items():
        expected = brute_force(model, good.grids[index].float(), ignored=owners == index)
        np.testing.assert_allclose(own_map, enlarge(expected.astype(np.float32)), rtol=1e-5, atol=1e-5)


@BOTH
def test_leaving_a_picture_out_equals_fitting_without_it(good, settings):
    """Up to the scale of counts, which is chosen with the picture in."""
    _, left_out = MemoryModel.fit(good, settings, seed=0)
    for index, own_map in left_out():
        refitted, _ = MemoryModel.fit(without(good, index), settings, seed=0)
        expected = enlarge(refitted.distances(good.grids[index].float()).numpy())
        assert expected.min() > 0
        assert np.abs(own_map - expected).mean() < 0.1 * expected.mean()


@BOTH
def test_leaving_a_picture_out_nearly_equals_starting_anew_without_it(settings):
    """From pixels, so with principal components and the scale of counts learned without the picture too."""
    pictures = drawn(12)
    _, left_out = MemoryModel.fit(GoodGrids.fit(pictures, settings, seed=0), settings, seed=0)
    for index, own_map in left_out():
        others = GoodGrids.fit(pictures[:index] + pictures[index + 1 :], settings, seed=0)
        refitted, _ = MemoryModel.fit(others, settings, seed=0)
        expected = refitted.anomaly_maps(pictures[index][None])[0][0]
        # Of the few patches of the texture an outlier sets the scale, which makes counts coarse.
        share = 0.2 if settings is GLOBAL else 0.1
        assert np.abs(own_map - expected).mean() < share * expected.mean()


@BOTH
def test_a_picture_that_is_known_is_calm_and_left_out_it_is_not(good, settings):
    model, left_out = MemoryModel.fit(good, settings, seed=0)
    known = model.anomaly_maps(np.stack(good.canvases))[0]
    for index, own_map in left_out():
        assert known[index].max() < 0.3 * own_map.max()


def test_a_patch_may_move_by_one_cell_but_not_by_two():
    rng = np.random.default_rng(0)
    grids = rng.normal(0, 0.1, (6, 7, 9, 4)).astype(np.float32)
    grids[:, 3, 4] += 10
    model, _ = MemoryModel.fit(synthetic(grids), LOCAL, seed=0)
    for offset, is_known in ((0, True), (1, True), (2, False)):
        moved = rng.normal(0, 0.1, (7, 9, 4)).astype(np.float32)
        moved[3, 4 + offset] += 10
        found = model.distances(torch.from_numpy(moved))[3, 4 + offset]
        assert (float(found) < 2) is is_known
    anywhere, _ = MemoryModel.fit(synthetic(grids), GLOBAL, seed=0)
    assert float(anywhere.distances(torch.from_numpy(moved)).max()) < 2


@pytest.mark.parametrize("channels", [1, 3])
@BOTH
def test_the_nearest_normal_picture_looks_like_a_good_one(settings, channels):
    pictures = drawn(8, channels=channels)
    model, _ = MemoryModel.fit(GoodGrids.fit(pictures, settings, seed=0), settings, seed=0)
    shown = draw(np.random.default_rng(50), channels=channels)
    broken = shown.copy()
    broken[36:44, 40:56] = 255
    _, looks = model.anomaly_maps(np.stack([pictures[3], shown, broken]))
    known, fresh, mended = (look() for look in looks)
    assert known.shape == fresh.shape == mended.shape == (48, 64, channels)
    assert known.dtype == np.uint8
    assert np.abs(known.astype(int) - pictures[3]).mean() < 4
    assert np.abs(fresh.astype(int) - shown).mean() < 16
    if settings is LOCAL:  # the defect is replaced by what good parts show there
        assert np.abs(mended[36:44, 40:56].astype(int) - shown[36:44, 40:56]).mean() < 25
        assert np.abs(broken[36:44, 40:56].astype(int) - shown[36:44, 40:56]).mean() > 100


@BOTH
def test_state_round_trip_gives_the_same_maps_and_looks_to_the_bit(good, settings):
    model, _ = MemoryModel.fit(good, settings, seed=0)
    again = MemoryModel.from_state(settings, 1, model.state())
    pictures = np.stack(drawn(3, seed=8))
    before, looks = model.anomaly_maps(pictures)
    after, looks_again = again.anomaly_maps(pictures)
    np.testing.assert_array_equal(after, before)
    for look, look_again in zip(looks, looks_again, strict=True):
        np.testing.assert_array_equal(look_again(), look())
    assert set(again.state()) == set(model.state())


def test_same_seed_same_memory(good, monkeypatch):
    monkeypatch.setattr(memory, "_GLOBAL_PATCHES", 100)
    one, same, other = (MemoryModel.fit(good, GLOBAL, seed)[0].state() for seed in (1, 1, 2))
    for name, value in one.items():
        np.testing.assert_array_equal(same[name], value)
    assert not np.array_equal(other["bank"], one["bank"])


def _cut(state, name, piece):
    return state | {name: state[name][piece]}


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda state, name=name: {key: state[key] for key in state if key != name} for name in (
            "bank", "centre", "step", "origins", "mean", "components", "exemplars", "exemplar_ends"
        )),
        lambda state: _cut(state, "bank", np.s_[0]),
        lambda state: _cut(state, "bank", np.s_[:, :-1]),
        lambda state: _cut(state, "bank", np.s_[:, :, :-1]),
        lambda state: _cut(state, "centre", np.s_[:-1]),
        lambda state: _cut(state, "step", np.s_[:-1]),
        lambda state: _cut(state, "origins", np.s_[:-1]),
        lambda state: _cut(state, "components", np.s_[:, :-1]),
    ],
)  # fmt: skip
def test_damaged_arrays_are_one_clear_error(good, damage):
    state = MemoryModel.fit(good, LOCAL, seed=0)[0].state()
    with pytest.raises(BundleError, match="use the original file") as caught:
        MemoryModel.from_state(LOCAL, 1, damage(state))
    assert "\n" not in str(caught.value)


# --- too many pictures ------------------------------------------------------------------------------------------------


def test_no_more_good_pictures_than_asked_are_remembered(good):
    model, left_out = MemoryModel.fit(good, config(prototypes=4), seed=0)
    assert model.bank.shape[1] == 4
    assert len(model.exemplars.ends) == 4
    maps = dict(left_out())
    assert len(maps) == 9  # the others calibrate too, against all four
    calmest = [maps[index].max() for index in range(9)]
    assert min(calmest) > 0.2 * max(calmest)


def test_the_memory_is_bounded_in_bytes(good, monkeypatch):
    monkeypatch.setattr(memory, "_LARGEST", 3 * 6 * 8 * 12 + 5)
    assert MemoryModel.fit(good, LOCAL, seed=0)[0].bank.shape == (48, 3, 12)
    monkeypatch.setattr(memory, "_LARGEST", 1)
    assert MemoryModel.fit(good, LOCAL, seed=0)[0].bank.shape == (
        48,
        2,
        12,
    )  # one alone could not be left out


def test_a_global_memory_is_bounded_and_leaves_out_what_it_kept(good, monkeypatch):
    monkeypatch.setattr(memory, "_GLOBAL_PATCHES", 60)
    model, left_out = MemoryModel.fit(good, GLOBAL, seed=3)
    assert model.bank.shape == (1, 60, 12)
    flat = good.grids.float().reshape(-1, 12)
    counts = (flat / model.step).round() - (model.centre / model.step).round()
    # Which picture a patch came from is found by the original that is it, not read off the model.
    is_it = (model.bank[0].float()[:, None] == counts.clamp(-RANGE, RANGE)).all(dim=2)
    assert is_it.any(dim=1).all()
    owners = (is_it.int().argmax(dim=1) // 48).numpy()
    alike = is_it[is_it.sum(dim=1) > 1].any(dim=0).reshape(9, 48).any(dim=1)  # of two pictures, perhaps
    assert alike.sum() < 5
    for index, own_map in left_out():
        if alike[index]:
            continue
        expected = brute_force(model, good.grids[index].float(), ignored=owners == index)
        np.testing.assert_allclose(own_map, enlarge(expected.astype(np.float32)), rtol=1e-5, atol=1e-5)


def test_of_too_many_pictures_those_that_are_no_members_are_compared_with_all(monkeypatch):
    monkeypatch.setattr("anomaly_spotter.models.grids._LARGEST", 5 * 6 * 8 * 12)
    pictures = drawn(11)
    crowded = GoodGrids.fit(pictures, LOCAL, seed=0)
    assert len(crowded.members) == 5
    model, left_out = MemoryModel.fit(crowded, LOCAL, seed=0)
    maps = dict(left_out())
    stranger = next(index for index in range(11) if index not in crowded.members)
    np.testing.assert_array_equal(maps[stranger], model.anomaly_maps(pictures[stranger][None])[0][0])
    shown = model.anomaly_maps(pictures[crowded.members[2]][None])[1][0]()
    assert np.abs(shown.astype(int) - pictures[crowded.members[2]]).mean() < 4
