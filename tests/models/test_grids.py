"""Feature grids of good pictures: all of them while they fit, a seeded part of them when not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomaly_spotter.models import grids
from anomaly_spotter.models.grids import GoodGrids
from tests.models.conftest import config, drawn


def test_every_picture_is_a_member_while_memory_lasts():
    pictures = drawn(7)
    steps = []
    good = GoodGrids.fit(pictures, config(dimensions=5), seed=0, progress=lambda *step: steps.append(step))
    assert good.members.tolist() == list(range(7))
    assert good.grids.shape == (7, 6, 8, 5)
    assert good.grids.dtype == torch.float16
    torch.testing.assert_close(good.grids[4].float(), good.features.of(pictures[4]), rtol=1e-3, atol=1e-2)
    assert steps == [(done, 7) for done in range(1, 8)]
    assert good.scored() == [(index, index) for index in range(7)]


@pytest.fixture
def crowded(monkeypatch):
    """Room for the features of five pictures only."""
    monkeypatch.setattr(grids, "_LARGEST", 5 * 6 * 8 * 4 + 3)


def test_of_too_many_pictures_a_seeded_part_is_kept(crowded):
    pictures = drawn(20)
    good, again, other = (GoodGrids.fit(pictures, config(dimensions=4), seed) for seed in (1, 1, 2))
    assert len(good.members) == 5
    assert sorted(good.members.tolist()) == good.members.tolist()
    np.testing.assert_array_equal(good.members, again.members)
    assert torch.equal(good.grids, again.grids)
    assert good.members.tolist() != other.members.tolist()
    assert len(set(good.members.tolist()) - set(range(5))) > 0  # not simply the first


def test_pictures_that_are_no_members_still_calibrate(crowded):
    pictures = drawn(20)
    good = GoodGrids.fit(pictures, config(dimensions=4), seed=1)
    seen = {}

    def score(grid, member):
        seen[len(seen)] = member
        return grid.sum(dim=2).numpy()

    found = dict(good.left_out(score))
    assert sorted(found) == list(range(20))
    for picture, member in good.scored():
        assert seen[picture] == member
        assert (member is None) == (picture not in good.members)
        if member is not None:
            assert good.members[member] == picture
        expected = good.features.of(pictures[picture]).sum(dim=2).numpy()
        np.testing.assert_allclose(found[picture], expected, rtol=2e-3, atol=0.1)


def test_the_number_of_calibration_maps_is_bounded_and_evenly_spread(monkeypatch):
    monkeypatch.setattr(grids, "_MOST_SCORES", 4)
    good = GoodGrids.fit(drawn(13), config(), seed=0)
    assert [picture for picture, _ in good.scored()] == [0, 4, 8, 12]


def test_the_projection_needs_only_some_pictures(monkeypatch):
    monkeypatch.setattr(grids, "_PROJECTION_PICTURES", 3)
    pictures = drawn(9)
    good = GoodGrids.fit(pictures, config(), seed=0)
    same = GoodGrids.fit([pictures[index] for index in (0, 4, 8)], config(), seed=0)
    assert torch.equal(good.features.components, same.features.components)
