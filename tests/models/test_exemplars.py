"""Exemplars: what comes out looks like what went in, in bounded memory, and damage is named."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models import exemplars
from anomaly_spotter.models.exemplars import Exemplars
from tests.models.conftest import drawn


def smooth_pictures(count, channels=1, height=48, width=64):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    waves = [
        128
        + 100 * np.sin(rows[..., None] / 9 + rng.uniform(0, 6, channels)) * np.cos(columns[..., None] / 11)
        for _ in range(count)
    ]
    return [wave.astype(np.uint8) for wave in waves]


def places(height=6, width=8):
    return np.arange(height * width).reshape(height, width)


@pytest.mark.parametrize("channels", [1, 3])
def test_cells_of_one_picture_at_their_places_give_that_picture(channels):
    pictures = smooth_pictures(3, channels)
    kept = Exemplars.collect(pictures, 3)
    for number, picture in enumerate(pictures):
        shown = kept.compose(np.full((6, 8), number), places())
        assert shown.shape == picture.shape
        assert shown.dtype == np.uint8
        assert np.abs(shown.astype(int) - picture).mean() < 3  # JPEG and blending


def test_colours_keep_their_order():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 200, 40
    shown = Exemplars.collect([picture], 1).compose(np.zeros((4, 4), int), places(4, 4))
    np.testing.assert_allclose(shown.mean(axis=(0, 1)), (200, 0, 40), atol=6)


def test_cells_come_from_the_chosen_pictures_and_places():
    dark, light = (np.full((48, 64, 1), level, np.uint8) for level in (30, 220))
    light[:, :32] = 120
    kept = Exemplars.collect([dark, light], 2)
    chosen = np.zeros((6, 8), int)
    chosen[:, 4:] = 1
    shown = kept.compose(chosen, places())[..., 0].astype(int)
    assert abs(shown[:, :24].mean() - 30) < 3
    assert abs(shown[:, 44:].mean() - 220) < 3
    elsewhere = kept.compose(np.ones((6, 8), int), np.zeros((6, 8), int))  # every cell shows the first
    assert abs(elsewhere.astype(int).mean() - 120) < 3
    assert (np.diff(shown[20, 20:44]) >= -6).all()  # patches blend without a seam that overshoots


def test_many_large_pictures_are_reduced_to_bounded_memory(monkeypatch):
    pictures = smooth_pictures(6)
    full = Exemplars.collect(pictures, 6)
    assert full._tiles.nbytes == 6 * 48 * 64
    monkeypatch.setattr(exemplars, "_LARGEST", 6 * 48 * 64 // 4)
    small = Exemplars.collect(pictures, 6)
    assert small._tiles.nbytes == 6 * 48 * 64 // 4
    assert len(small.files) < len(full.files)
    shown = small.compose(np.full((6, 8), 4), places())
    assert shown.shape == pictures[4].shape
    assert np.abs(shown.astype(int) - pictures[4]).mean() < 8
    monkeypatch.setattr(exemplars, "_LARGEST", 1)
    assert Exemplars.collect(pictures, 6)._tiles.shape == (6, 6, 8, 1, 1, 1)  # never less than a pixel a cell


@pytest.mark.parametrize("channels", [1, 3])
def test_state_round_trip_is_exact(channels):
    kept = Exemplars.collect(drawn(4, channels=channels), 4)
    again = Exemplars.from_state(kept.state())
    assert again.canvas == kept.canvas == (48, 64, channels)
    pictures, cells = np.random.default_rng(0).integers(0, 4, (6, 8)), places()[::-1]
    np.testing.assert_array_equal(again.compose(pictures, cells), kept.compose(pictures, cells))


@pytest.mark.parametrize("name", ["exemplars", "exemplar_ends", "exemplar_canvas"])
def test_missing_arrays_are_named(name):
    state = Exemplars.collect(drawn(2), 2).state()
    del state[name]
    with pytest.raises(BundleError, match=f"'{name}'"):
        Exemplars.from_state(state)


def test_a_canvas_without_three_sides_is_refused():
    state = Exemplars.collect(drawn(2), 2).state()
    with pytest.raises(BundleError, match="do not fit"):
        Exemplars.from_state(state | {"exemplar_canvas": np.array([48, 64])})


@pytest.mark.parametrize("damage", ["emptied", "other-size", "wrong-ends"])
def test_damaged_pictures_are_one_clear_error_when_they_are_asked_for(damage):
    kept = Exemplars.collect(drawn(2), 2)
    state = kept.state()
    if damage == "emptied":
        state["exemplars"] = np.zeros_like(state["exemplars"])
    elif damage == "other-size":
        state["exemplar_canvas"] = np.array([64, 64, 1])
    else:
        state["exemplar_ends"] = np.array([5, 9])
    with pytest.raises(BundleError, match="damaged"):
        Exemplars.from_state(state).compose(np.zeros((6, 8), int), places())
