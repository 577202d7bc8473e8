"""Picture -> network canvas, and anomaly map -> picture: one fixed geometry, learned from the good pictures.

Aspect ratio is kept and the rest of the canvas padded by repeating the border (``squash`` stretches instead, as the
original recipe did). The same object prepares pictures for training and for inspection, so both see the same pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import PreprocessingConfig

MULTIPLE = 16  # three down-sampling levels, and a stem that folds 2 x 2 pixels


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies on the canvas, in canvas pixels."""

    left: int
    top: int
    width: int
    height: int

    def crop(self, on_canvas: NDArray[Any]) -> NDArray[Any]:
        """The picture's part of a canvas array ``[H, W, ...]`` (a view)."""
        return on_canvas[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """The fitted geometry.

    Attributes:
        height: Canvas height in pixels, a multiple of 16.
        width: Canvas width in pixels, a multiple of 16.
        channels: 1 (grey) or 3 (RGB).
        aspect: ``keep`` or ``squash``.
        white_level: Value that counts as white in 16-bit pictures.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    aspect: Literal["keep", "squash"]
    white_level: int = 65535

    @classmethod
    def fit(
        cls,
        config: PreprocessingConfig,
        sizes: Sequence[tuple[int, int]],
        *,
        is_grey: bool,
        white_level: int = 65535,
    ) -> Self:
        """Choose the canvas from the good pictures' sizes ``(width, height)`` and colour."""
        channels: Literal[1, 3] = (
            1 if (config.colour == "grey" or (config.colour == "auto" and is_grey)) else 3
        )
        if config.aspect == "squash":
            return cls(config.long_side, config.long_side, channels, "squash", white_level)
        largest = max(max(size) for size in sizes)
        long_side = min(config.long_side, _round_up(largest))
        ratio = float(np.median([width / height for width, height in sizes]))  # robust to a few odd pictures
        width, height = (long_side, long_side / ratio) if ratio >= 1 else (long_side * ratio, long_side)
        return cls(_round(height), _round(width), channels, "keep", white_level)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The geometry as JSON-able values."""
        return asdict(self)

    def placement(self, shape: Sequence[int]) -> Placement:
        """Where a picture of ``shape`` ``[H, W, ...]`` comes to lie."""
        if self.aspect == "squash":
            return Placement(0, 0, self.width, self.height)
        scale = min(self.width / shape[1], self.height / shape[0])
        width = min(self.width, max(1, round(shape[1] * scale)))
        height = min(self.height, max(1, round(shape[0] * scale)))
        return Placement((self.width - width) // 2, (self.height - height) // 2, width, height)

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a picture ``[H, W]`` or ``[H, W, 3]`` onto the canvas: ``uint8 [height, width, channels]``."""
        place = self.placement(pixels.shape)
        shrinks = place.width < pixels.shape[1] or place.height < pixels.shape[0]
        if self.channels == 1:
            pixels = to_grey(pixels)
        if pixels.shape[:2] != (place.height, place.width):
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            pixels = _u8(cv2.resize(pixels, (place.width, place.height), interpolation=interpolation))
        if self.channels == 3:
            pixels = to_rgb(pixels)
        right, bottom = self.width - place.left - place.width, self.height - place.top - place.height
        if place.left or place.top or right or bottom:
            pixels = _u8(
                cv2.copyMakeBorder(
                    pixels, place.top, bottom, place.left, right, borderType=cv2.BORDER_REPLICATE
                )
            )
        return pixels.reshape(self.height, self.width, self.channels)

    def map_to_picture(self, on_picture: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
        """Enlarge a placed map ``float32 [h, w]`` to the picture's own pixels ``float32 [H, W]``."""
        enlarged = cv2.resize(on_picture, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        return np.asarray(enlarged, dtype=np.float32)

    def canvas_to_picture(self, canvas: NDArray[np.uint8], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a canvas picture ``uint8 [height, width, channels]`` back to the size and colour of ``like``."""
        placed = np.ascontiguousarray(self.placement(like.shape).crop(canvas))
        size = (like.shape[1], like.shape[0])
        enlarged = _u8(cv2.resize(placed, size, interpolation=cv2.INTER_LINEAR)).reshape(*like.shape[:2], -1)
        return to_grey(enlarged) if like.ndim == 2 else to_rgb(enlarged)


def to_network(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``uint8 [B, H, W, C]`` in 0..255 -> ``float32 [B, C, H, W]`` in [-1, 1]."""
    scaled = batch.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def from_network(batch: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``float32 [B, C, H, W]`` in [-1, 1] -> ``uint8 [B, H, W, C]`` in 0..255, rounded."""
    levels = np.rint((batch.transpose(0, 2, 3, 1) + 1.0) * 127.5)
    return np.ascontiguousarray(np.clip(levels, 0, 255).astype(np.uint8))


def to_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[H, W]``, ``[H, W, 1]`` or RGB ``[H, W, 3]`` -> ``[H, W]`` (ITU-R BT.601 luma)."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return _u8(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    return pixels.reshape(pixels.shape[:2])


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` -> ``[H, W, 3]``."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    return _u8(cv2.cvtColor(pixels.reshape(pixels.shape[:2]), cv2.COLOR_GRAY2RGB))


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture has no colour: one channel, or three equal ones."""
    if pixels.ndim == 2:
        return True
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _round(length: float) -> int:
    return max(MULTIPLE, round(length / MULTIPLE) * MULTIPLE)


def _round_up(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _u8(pixels: Any) -> NDArray[np.uint8]:
    return np.asarray(pixels, dtype=np.uint8)
