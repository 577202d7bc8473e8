from __future__ import annotations

import numpy as np
import pytest

from anomaly_spotter.config import AugmentationConfig
from anomaly_spotter.inputs.augment import augment


def picture(channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 40, channels), dtype=np.uint8)


def test_nothing_asked_nothing_changed():
    out = augment(picture(), AugmentationConfig(), np.random.default_rng(1))
    np.testing.assert_array_equal(out, picture())


@pytest.mark.parametrize("channels", [1, 3])
def test_same_draw_same_picture_and_shape(channels):
    config = AugmentationConfig(rotate=30, flip=True, gain=0.2, offset=20)
    first, second = (augment(picture(channels), config, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (24, 40, channels)
    assert not np.array_equal(first, augment(picture(channels), config, np.random.default_rng(4)))


def test_flips_reach_all_four_orientations():
    seen = {
        augment(picture(), AugmentationConfig(flip=True), np.random.default_rng(s)).tobytes()
        for s in range(40)
    }
    source = picture()
    expected = {
        np.ascontiguousarray(p).tobytes() for p in (source, source[::-1], source[:, ::-1], source[::-1, ::-1])
    }
    assert seen == expected


def test_light_stays_in_range_and_within_the_asked_change():
    flat = np.full((8, 8, 1), 250, np.uint8)
    config = AugmentationConfig(gain=0.1, offset=15)
    values = [int(augment(flat, config, np.random.default_rng(s))[0, 0, 0]) for s in range(50)]
    assert max(values) == 255
    assert min(values) >= 250 * 0.9 - 15 - 1
