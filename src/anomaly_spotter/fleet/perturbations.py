"""What a line does to a picture without making the part worse: other light, focus, noise, compression, position.

Pure functions on decoded pictures ``uint8 [H, W]`` or ``[H, W, 3]``; shape and type stay. Where content moves, the
border is filled by repeating its outermost pixels, so that no edge appears that the part does not have.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from anomaly_spotter.inputs.decode import decode_bytes
from anomaly_spotter.views.files import encode_picture

Pixels = NDArray[np.uint8]
Perturbation = Callable[[Pixels, int], Pixels]


def brightened(picture: Pixels, levels: float) -> Pixels:
    """Every pixel ``levels`` grey levels lighter (darker if negative), clipped to 0 to 255."""
    return _rounded(picture.astype(np.float32) + levels)


def amplified(picture: Pixels, gain: float) -> Pixels:
    """Every pixel times ``gain``, clipped."""
    return _rounded(picture.astype(np.float32) * gain)


def blurred(picture: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of ``sigma`` pixels."""
    return np.asarray(
        cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), dtype=np.uint8
    )


def noisy(picture: Pixels, deviation: float, seed: int) -> Pixels:
    """Gaussian noise of ``deviation`` grey levels, the same for the same ``seed`` and shape."""
    noise = np.random.default_rng(seed).standard_normal(picture.shape, dtype=np.float32)
    return _rounded(picture + np.float32(deviation) * noise)


def compressed(picture: Pixels, quality: int) -> Pixels:
    """The picture after a JPEG file of ``quality`` 1 to 100."""
    return decode_bytes(encode_picture(picture, ".jpg", quality), name="JPEG").pixels


def shifted(picture: Pixels, right: float, down: float) -> Pixels:
    """The content moved by pixels; fractions interpolate."""
    return _moved(picture, np.array([[1, 0, right], [0, 1, down]], dtype=np.float64))


def turned(picture: Pixels, degrees: float) -> Pixels:
    """The content turned about the centre, counter-clockwise."""
    return _moved(picture, cv2.getRotationMatrix2D(_centre(picture), degrees, 1.0))


def scaled(picture: Pixels, factor: float) -> Pixels:
    """The content larger or smaller about the centre, in a picture of the same size."""
    return _moved(picture, cv2.getRotationMatrix2D(_centre(picture), 0.0, factor))


PERTURBATIONS: dict[str, Perturbation] = {
    "15 grey levels lighter": lambda picture, _: brightened(picture, 15),
    "15 grey levels darker": lambda picture, _: brightened(picture, -15),
    "gain 1.1": lambda picture, _: amplified(picture, 1.1),
    "gain 0.9": lambda picture, _: amplified(picture, 0.9),
    "blur, sigma 1.5 px": lambda picture, _: blurred(picture, 1.5),
    "noise, 5 grey levels": lambda picture, index: noisy(picture, 5, seed=index),
    "JPEG quality 60": lambda picture, _: compressed(picture, 60),
    "shift by +5 px": lambda picture, _: shifted(picture, 5, 5),
    "shift by -5 px": lambda picture, _: shifted(picture, -5, -5),
    "turn by +3 degrees": lambda picture, _: turned(picture, 3),
    "turn by -3 degrees": lambda picture, _: turned(picture, -3),
    "10 % smaller": lambda picture, _: scaled(picture, 0.9),
}
"""By the name that the tables show; each takes the picture and its index in the test set, which seeds the noise."""


def _rounded(values: NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _centre(picture: Pixels) -> tuple[float, float]:
    return (picture.shape[1] - 1) / 2, (picture.shape[0] - 1) / 2


def _moved(picture: Pixels, matrix: NDArray[np.float64] | cv2.typing.MatLike) -> Pixels:
    size = (picture.shape[1], picture.shape[0])
    moved = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.uint8)
