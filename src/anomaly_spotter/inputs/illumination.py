"""Light normalisation: brings every canvas to the light of the good parts, so that a lamp's drift is no defect."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

QUANTILES = (0.25, 0.75)  # of a canvas; robust against defects that cover less than a quarter
GAIN = (0.6, 1.7)  # a part without contrast must not be blown up to noise
BLUR = 0.125  # of the long side: standard deviation of the local background
DARKEST = 8.0  # background level below which division would only blow up noise
FLATTEST = 8.0  # spread of levels below which it is noise
SMALL = 64  # pixels of the long side on which the background is blurred


@dataclass(frozen=True, slots=True)
class Illumination:
    """The light that canvases are brought to.

    Attributes:
        method: ``robust`` shifts and stretches the grey levels as a whole; ``background`` divides by the local
            background, which also evens out shadows and gradients (and large stains).
        low: Typical level of the lower quartile of good canvases (``background``: not used).
        high: Typical level of their upper quartile (``background``: their mean level).
    """

    method: Literal["robust", "background"]
    low: float
    high: float

    @classmethod
    def fit(cls, method: Literal["robust", "background"], canvases: Iterable[NDArray[np.uint8]]) -> Self:
        """Learn the typical light of good canvases ``uint8 [H, W, C]``."""
        quartiles = np.median([_quartiles(canvas) for canvas in canvases], axis=0)
        return cls(method, float(quartiles[0]), float(quartiles[1]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    def apply(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The canvas ``uint8 [H, W, C]`` under normal light, same shape."""
        if self.method == "background":
            return self._flattened(canvas)
        low, high = _quartiles(canvas)
        gain = float(np.clip((self.high - self.low) / max(high - low, 1.0), *GAIN))
        if self.high - self.low < FLATTEST:  # nearly one level: its spread is noise, only the shift is known
            gain = 1.0
        middle, wanted = (low + high) / 2, (self.low + self.high) / 2
        table = np.clip((np.arange(256) - middle) * gain + wanted, 0, 255)
        return np.asarray(np.rint(table).astype(np.uint8)[canvas])

    def _flattened(self, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = canvas.shape[:2]
        scale = min(1.0, SMALL / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(canvas.mean(axis=2, dtype=np.float32), size, interpolation=cv2.INTER_AREA)
        blurred = cv2.GaussianBlur(small, (0, 0), BLUR * max(size), borderType=cv2.BORDER_REPLICATE)
        background = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
        gain = (self.low + self.high) / 2 / np.maximum(background, DARKEST)
        return np.asarray(np.clip(np.rint(canvas * gain[..., None]), 0, 255).astype(np.uint8))


def _quartiles(canvas: NDArray[np.uint8]) -> tuple[float, float]:
    counts = np.bincount(canvas.ravel(), minlength=256)
    cumulative = np.cumsum(counts) / canvas.size
    low, high = (_quantile(cumulative, share) for share in QUANTILES)
    return low, high


def _quantile(cumulative: NDArray[np.float64], share: float) -> float:
    """Interpolated inside a grey level, so that a light change of half a level is seen."""
    level = int(np.searchsorted(cumulative, share))
    below = cumulative[level - 1] if level else 0.0
    return float(level - 0.5 + (share - below) / max(cumulative[level] - below, 1e-12))
