"""Good pictures, held out, as candidates are tried on them: with synthetic defects painted on, and in another light."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.preprocess import to_grey
from anomaly_spotter.inputs.synthetic import SYNTHETIC_KINDS, corrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_STRENGTHS = (0.35, 0.7, 1.2)  # of the synthetic defects, faint to strong
DEFECTS = 8
"""Copies with synthetic defects of each picture."""
_LEAST_TEXTURE = 0.5  # under a synthetic defect, see _texture
_TEXTURE_SIDE, _TEXTURE_WINDOW = 256, 9  # pixels
_ATTEMPTS = 4  # to place a defect there


def paint(good: Sequence[NDArray[np.uint8]], hold: Sequence[int], seed: int) -> list[NDArray[np.uint8]]:
    """Copies of the held-out pictures with synthetic defects where there is something to see.

    A spot on an empty background separates nothing that matters: it would only reward what looks at the background.
    """
    painted = []
    for position, index in enumerate(hold):
        picture, donor = _volume(good[index]), _volume(good[hold[position - 1]])
        donor = donor if donor.shape == picture.shape else picture
        texture = _texture(picture)
        for number in range(DEFECTS):  # one kind each, so that strong kinds do not hide the others
            kind = SYNTHETIC_KINDS[(position * DEFECTS + number) % len(SYNTHETIC_KINDS)]
            strength = _STRENGTHS[number % len(_STRENGTHS)]
            rng = np.random.default_rng([seed, index, number])
            for _ in range(_ATTEMPTS):
                corrupted, mask = corrupt(picture, donor, rng, strength, [kind])
                if mask.any() and texture[mask].mean() > _LEAST_TEXTURE:
                    painted.append(corrupted.squeeze())
                    break
    return painted


def _texture(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Local gradient of ``uint8 [H, W, C]``, ``[H, W]``; 1 is what a tenth of the picture exceeds."""
    height, width = picture.shape[:2]
    scale = min(1.0, _TEXTURE_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(to_grey(picture), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    slope = np.hypot(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    local = cv2.blur(slope, (_TEXTURE_WINDOW, _TEXTURE_WINDOW))
    enlarged = cv2.resize(local, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged / max(float(np.quantile(local, 0.9)), 1e-6), dtype=np.float32)


def relit(pixels: NDArray[np.uint8], gain: float, offset: float) -> NDArray[np.uint8]:
    """The picture under a lamp ``gain`` times as bright, ``offset`` grey levels lighter."""
    levels = np.rint(pixels * np.float32(gain) + np.float32(offset))
    return np.asarray(np.clip(levels, 0, 255), dtype=np.uint8)


def _volume(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels.reshape(*pixels.shape[:2], -1)
