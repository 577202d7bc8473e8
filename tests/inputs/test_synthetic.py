"""What synthetic defects promise: same input, same defect; the mask is where the picture changed; every kind, any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anomaly_spotter.inputs.synthetic import SYNTHETIC_KINDS, VISIBLE, corrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


def flat(height: int = 64, width: int = 64, channels: int = 1, level: int = 128) -> Pixels:
    return np.full((height, width, channels), level, dtype=np.uint8)


def noisy(height: int = 64, width: int = 64, channels: int = 1, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def part(height: int = 128, width: int = 128, channels: int = 1) -> Pixels:
    """A striped dark bar on a bright, calm background."""
    picture = np.random.default_rng(1).normal(200, 1, (height, width, channels))
    rows = slice(height * 3 // 8, height * 5 // 8)
    picture[rows] = 90 + 40 * np.sin(np.arange(width) / 2)[None, :, None]
    return picture.astype(np.uint8)


def check(picture: Pixels, changed: Pixels, mask: NDArray[np.bool_]) -> None:
    assert (changed.dtype, changed.shape) == (np.uint8, picture.shape)
    assert (mask.dtype, mask.shape) == (np.bool_, picture.shape[:2])
    difference = np.abs(changed.astype(int) - picture).max(axis=2)
    assert (difference[~mask] < VISIBLE).all()
    if mask.any():
        near_change = ndimage.binary_dilation(difference >= VISIBLE, np.ones((5, 5)))
        assert near_change[mask].mean() > 0.9  # only small gaps are closed


@pytest.mark.parametrize("kind", [None, *SYNTHETIC_KINDS])
def test_equal_generators_give_equal_defects(kind: str | None):
    picture, donor, kinds = part(), noisy(128, 128), kind and (kind,)
    first, second = (corrupt(picture, donor, np.random.default_rng(3), kinds=kinds) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], corrupt(picture, donor, np.random.default_rng(4), kinds=kinds)[0])


def test_inputs_are_left_alone():
    picture, donor = part(), noisy(128, 128)
    before, donor_before = picture.copy(), donor.copy()
    for seed in range(20):
        corrupt(picture, donor, np.random.default_rng(seed))
    assert np.array_equal(picture, before)
    assert np.array_equal(donor, donor_before)


@pytest.mark.parametrize("kind", SYNTHETIC_KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        flat,
        noisy,
        part,
        lambda **k: flat(16, 16, **k),
        lambda **k: noisy(16, 16, **k),
        lambda **k: part(40, 150, **k),
    ],
)
def test_every_kind_alone_on_any_picture(kind: str, channels: int, make):
    picture = make(channels=channels)
    donor = noisy(*picture.shape, seed=5)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        check(picture, *corrupt(picture, donor, rng, kinds=(kind,)))
        check(picture, *corrupt(picture, picture, rng, kinds=(kind,)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    channels=st.sampled_from([1, 3]),
    level=st.sampled_from([0, 128, 255]),
    strength=st.floats(0.05, 4),
    seed=st.integers(0, 2**32),
)
def test_any_size_and_strength(
    height: int, width: int, channels: int, level: int, strength: float, seed: int
):
    rng = np.random.default_rng(seed)
    for picture in (noisy(height, width, channels), flat(height, width, channels, level)):
        check(picture, *corrupt(picture, noisy(height, width, channels, 9), rng, strength))


@pytest.mark.parametrize("kind", SYNTHETIC_KINDS)
def test_every_kind_shows_on_a_part(kind: str):
    rng = np.random.default_rng(0)
    shown = [corrupt(part(), noisy(128, 128), rng, kinds=(kind,))[1].any() for _ in range(30)]
    assert np.mean(shown) > 0.85


def test_something_always_shows_with_all_kinds():
    rng = np.random.default_rng(0)
    assert all(corrupt(part(), part(), rng)[1].any() for _ in range(100))


def test_blurring_a_flat_picture_shows_nothing():
    picture = flat()
    changed, mask = corrupt(picture, picture, np.random.default_rng(0), kinds=("blur",))
    assert not mask.any()
    assert np.array_equal(changed, picture)


def test_defects_prefer_the_part_but_do_not_only_fall_there():
    rng = np.random.default_rng(0)
    masks = np.mean([corrupt(part(), part(), rng, kinds=("spot",))[1] for _ in range(300)], axis=0)
    on_part, on_ground = masks[48:80].mean(), masks[np.r_[0:40, 88:128]].mean()
    assert on_part > 2 * on_ground > 0


def test_strength_scales_the_change():
    def mean_change(strength: float) -> float:
        rng, picture = np.random.default_rng(0), part()
        changes = [
            np.abs(corrupt(picture, picture, rng, strength)[0].astype(int) - picture).mean()
            for _ in range(60)
        ]
        return float(np.mean(changes))

    assert mean_change(0.3) < mean_change(1) < mean_change(2)


def test_sizes_spread_from_small_to_large():
    rng = np.random.default_rng(0)
    areas = [corrupt(part(), part(), rng, kinds=("spot",))[1].mean() for _ in range(200)]
    assert np.quantile(areas, 0.1) < 0.01
    assert np.quantile(areas, 0.95) > 0.05


def test_a_transplant_comes_from_the_donor():
    changed, mask = corrupt(
        flat(level=100), flat(level=250), np.random.default_rng(2), 3, kinds=("transplant",)
    )
    assert mask.any()
    assert changed[mask].max() > 150


@pytest.mark.parametrize(
    ("picture", "donor", "strength", "kinds", "message"),
    [
        (flat(15, 40), flat(15, 40), 1.0, None, "16 pixels"),
        (flat(channels=2), flat(channels=2), 1.0, None, r"\[H, W, 1 or 3\]"),
        (flat()[..., 0], flat()[..., 0], 1.0, None, r"\[H, W, 1 or 3\]"),
        (flat().astype(np.float32), flat(), 1.0, None, "uint8"),
        (flat(), flat(32, 64), 1.0, None, "donor"),
        (flat(), flat(), 0.0, None, "strength"),
        (flat(), flat(), float("nan"), None, "strength"),
        (flat(), flat(), 1.0, ("rust",), "rust"),
        (flat(), flat(), 1.0, (), "kinds"),
        (flat(), flat(), 1.0, "scar", "kinds"),
    ],
)
def test_bad_arguments_are_refused(picture, donor, strength, kinds, message):
    with pytest.raises(ValueError, match=message):
        corrupt(picture, donor, np.random.default_rng(0), strength, kinds)
