"""Random changes that leave a good part good: rotation, mirroring, gain and offset of the light.

A draw depends only on the random generator given, so that an epoch can be repeated exactly after a crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly_spotter.config import AugmentationConfig


def augment(
    picture: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A randomly turned, mirrored and re-lit copy of ``picture`` ``uint8 [H, W, C]``, same shape.

    Uncovered corners are filled by reflection. The four random numbers are always drawn, used or not, so that
    switching one setting off does not change the others' draws.
    """
    angle, mirror, gain, offset = rng.uniform(-1, 1), rng.integers(4), rng.uniform(-1, 1), rng.uniform(-1, 1)
    if config.rotate:
        picture = _rotate(picture, angle * config.rotate)
    if config.flip:
        picture = picture[:: -1 if mirror & 1 else 1, :: -1 if mirror & 2 else 1]
    if config.gain or config.offset:
        picture = _relight(picture, 1.0 + gain * config.gain, offset * config.offset)
    return np.ascontiguousarray(picture)


def _rotate(picture: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(
        picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(turned, dtype=np.uint8).reshape(picture.shape)


def _relight(picture: NDArray[np.uint8], gain: float, offset: float) -> NDArray[np.uint8]:
    levels = np.clip(np.arange(256, dtype=np.float32) * gain + offset, 0, 255)
    table = np.rint(levels).astype(np.uint8)
    return np.asarray(table[picture], dtype=np.uint8)
