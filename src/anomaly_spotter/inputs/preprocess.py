"""Picture -> network canvas, and anomaly map -> picture: one fixed geometry, learned from the good pictures.

Without alignment the picture's aspect ratio is kept and the rest of the canvas padded by repeating the border
(``squash`` stretches instead, as the original recipe did). With it, the part is brought into its normal pose first.
The same object prepares pictures for training and for inspection, so both see the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import cv2
import numpy as np

from anomaly_spotter.inputs.alignment import Aligner
from anomaly_spotter.inputs.illumination import Illumination

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.config import PreprocessingConfig
    from anomaly_spotter.inputs.alignment import Reason

MULTIPLE = 16  # three down-sampling levels, and a stem that folds 2 x 2 pixels
LONGEST_SIDE = 2**15
"""Pixels of a canvas side that a model file may claim."""

_WHITEST = 65535  # of 16 bits
_SHRINK_FIRST = 0.75  # below this scale pixels are averaged before they are warped
_ALIGNER, _REGION = "aligner.", "region"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies on the canvas.

    Attributes:
        matrix: ``float64 [2, 3]``, canvas (x, y) -> picture (x, y), pixel centres at whole numbers.
        left: First canvas column that shows the picture.
        top: First canvas row that shows the picture.
        width: Columns that show the picture.
        height: Rows that show the picture.
        reason: Why the part cannot be judged; ``None`` when it can.
        outside: ``bool [height, width]``, canvas pixels beyond the picture's border or the region of interest;
            ``None`` when there are none.
        quality: How well the part's edges match the mean good part, -1..1; ``None`` without alignment.
    """

    matrix: NDArray[np.float64]
    left: int
    top: int
    width: int
    height: int
    reason: Reason | None = None
    outside: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)
    quality: float | None = None

    def crop(self, on_canvas: NDArray[Any]) -> NDArray[Any]:
        """The picture's part of a canvas array ``[H, W, ...]`` (a view)."""
        return on_canvas[self.top : self.top + self.height, self.left : self.left + self.width]

    def counted(self, canvas_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """The picture's part of a map ``float32 [H, W]``; what does not count is as calm as the calmest place."""
        placed = self.crop(canvas_map)
        if self.outside is None or self.outside.all():
            return placed
        return np.where(self.outside, placed[~self.outside].min(), placed)


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """The fitted geometry.

    Attributes:
        height: Canvas height in pixels, a multiple of 16.
        width: Canvas width in pixels, a multiple of 16.
        channels: 1 (grey) or 3 (RGB).
        aspect: ``keep`` or ``squash``; without meaning when parts are aligned.
        white_level: Value that counts as white in 16-bit pictures.
        illumination: Light that every canvas is brought to; ``None`` leaves it.
        aligner: Finds the part's pose; ``None`` takes the picture as it is.
        region: ``bool [height, width]`` of the canvas, where defects count; ``None`` everywhere.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    aspect: Literal["keep", "squash"]
    white_level: int = 65535
    illumination: Illumination | None = None
    aligner: Aligner | None = field(default=None, repr=False, compare=False)
    region: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        config: PreprocessingConfig,
        sizes: Sequence[tuple[int, int]],
        *,
        is_grey: bool,
        white_level: int = 65535,
        aligner: Aligner | None = None,
    ) -> Self:
        """Choose the canvas from the good pictures' sizes ``(width, height)`` and colour, or the aligned frame."""
        channels: Literal[1, 3] = (
            1 if (config.colour == "grey" or (config.colour == "auto" and is_grey)) else 3
        )
        if aligner is not None:
            frame = aligner.frame
            scale = min(1.0, config.long_side / max(frame))
            width, height = (_round_up(round(side * scale)) for side in frame)
            return cls(height, width, channels, "keep", white_level, aligner=aligner)
        if config.aspect == "squash":
            return cls(config.long_side, config.long_side, channels, "squash", white_level)
        largest = max(max(size) for size in sizes)
        long_side = min(config.long_side, _round_up(largest))
        ratio = float(np.median([width / height for width, height in sizes]))  # robust to a few odd pictures
        across, down = (long_side, long_side / ratio) if ratio >= 1 else (long_side * ratio, long_side)
        return cls(_round(down), _round(across), channels, "keep", white_level)

    @classmethod
    def from_parts(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Inverse of :meth:`to_dict` and :meth:`arrays`.

        Raises:
            ValueError: They do not fit together.
        """
        settings = dict(values)
        aligner, light = settings.pop("aligner", None), settings.pop("illumination", None)
        own = {key.removeprefix(_ALIGNER): value for key, value in arrays.items() if key.startswith(_ALIGNER)}
        region = arrays.get(_REGION)
        fitted = cls(
            **settings,
            illumination=None if light is None else Illumination(**light),
            aligner=None if aligner is None else Aligner.from_parts(aligner, own),
            region=None if region is None else np.asarray(region, bool),
        )
        fitted._check()
        return fitted

    def _check(self) -> None:
        """Refuse what a damaged or forged file may claim, before anything is allocated by it."""
        sides: tuple[object, ...] = (self.height, self.width)
        numbers: tuple[object, ...] = (*sides, self.channels, self.white_level)
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"a canvas of {numbers}")
        if not all(
            MULTIPLE <= side <= LONGEST_SIDE and side % MULTIPLE == 0 for side in (self.height, self.width)
        ):
            raise ValueError(f"a canvas of {self.height} x {self.width} pixels")
        if self.channels not in (1, 3) or self.aspect not in ("keep", "squash"):
            raise ValueError(f"{self.channels} channels, aspect {self.aspect}")
        if not 0 < self.white_level <= _WHITEST:
            raise ValueError(f"a white level of {self.white_level}")
        if self.region is not None and self.region.shape != sides:
            raise ValueError(f"a region of {self.region.shape} on a canvas of {sides}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-able values."""
        names = ("height", "width", "channels", "aspect", "white_level")
        return {
            **{name: getattr(self, name) for name in names},
            "illumination": None if self.illumination is None else self.illumination.to_dict(),
            "aligner": None if self.aligner is None else self.aligner.to_dict(),
        }

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What was learned as named arrays."""
        aligner = {} if self.aligner is None else self.aligner.arrays()
        region = {} if self.region is None else {_REGION: self.region.astype(np.uint8)}
        return {**{f"{_ALIGNER}{name}": value for name, value in aligner.items()}, **region}

    def place(self, pixels: NDArray[np.uint8]) -> Placement:
        """Where a picture ``[H, W]`` or ``[H, W, 3]`` comes to lie."""
        if self.aligner is None:
            return self._with_region(self._boxed(pixels.shape))
        pose = self.aligner.locate(pixels)
        frame_width, frame_height = self.aligner.frame
        scale = max(frame_width / self.width, frame_height / self.height)
        left, top = (frame_width - scale * self.width) / 2, (frame_height - scale * self.height) / 2
        to_frame = _scaling(scale, scale, left, top)
        matrix = np.vstack([pose.matrix, [0, 0, 1]]) @ to_frame
        outside = self._beyond(matrix[:2], pixels.shape)
        placement = Placement(
            matrix[:2], 0, 0, self.width, self.height, pose.reason, outside, float(pose.quality)
        )
        return self._with_region(placement)

    def prepare(self, pixels: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
        """Bring a picture ``[H, W]`` or ``[H, W, 3]`` onto the canvas: ``uint8 [height, width, channels]``."""
        pixels = to_grey(pixels) if self.channels == 1 else to_rgb(pixels)
        canvas = self._resized(pixels, place) if self.aligner is None else self._warped(pixels, place.matrix)
        canvas = canvas.reshape(self.height, self.width, self.channels)
        return canvas if self.illumination is None else self.illumination.apply(canvas)

    def map_to_picture(
        self, on_canvas: NDArray[np.float32], place: Placement, shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """Bring a placed map ``float32 [h, w]`` to the picture's own pixels ``float32 [H, W]``.

        Pixels that no part of the canvas shows are as calm as the calmest place.
        """
        size = (shape[1], shape[0])
        if self.aligner is None:
            enlarged = cv2.resize(on_canvas, size, interpolation=cv2.INTER_LINEAR)
        else:
            enlarged = cv2.warpAffine(
                on_canvas,
                place.matrix,
                size,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=float(on_canvas.min()),
            )
        return np.asarray(enlarged, dtype=np.float32)

    def canvas_to_picture(
        self, canvas: NDArray[np.uint8], place: Placement, like: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Bring a canvas picture ``uint8 [height, width, channels]`` back to the place, size and colour of ``like``."""
        size = (like.shape[1], like.shape[0])
        if self.aligner is None:
            placed = np.ascontiguousarray(place.crop(canvas))
            enlarged = _u8(cv2.resize(placed, size, interpolation=cv2.INTER_LINEAR))
        else:  # around the canvas the picture is shown as it is
            enlarged = (to_grey(like) if self.channels == 1 else to_rgb(like)).copy()
            cv2.warpAffine(
                canvas,
                place.matrix,
                size,
                dst=enlarged,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_TRANSPARENT,
            )
        enlarged = enlarged.reshape(*like.shape[:2], -1)
        return to_grey(enlarged) if like.ndim == 2 else to_rgb(enlarged)

    def _boxed(self, shape: Sequence[int]) -> Placement:
        if self.aspect == "squash":
            width, height = self.width, self.height
        else:
            scale = min(self.width / shape[1], self.height / shape[0])
            width = min(self.width, max(1, round(shape[1] * scale)))
            height = min(self.height, max(1, round(shape[0] * scale)))
        left, top = (self.width - width) // 2, (self.height - height) // 2
        x, y = shape[1] / width, shape[0] / height
        matrix = _scaling(x, y, (0.5 - left) * x - 0.5, (0.5 - top) * y - 0.5)
        return Placement(matrix[:2], left, top, width, height)

    def _resized(self, pixels: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
        shrinks = place.width < pixels.shape[1] or place.height < pixels.shape[0]
        if pixels.shape[:2] != (place.height, place.width):
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            pixels = _u8(cv2.resize(pixels, (place.width, place.height), interpolation=interpolation))
        right, bottom = self.width - place.left - place.width, self.height - place.top - place.height
        if not (place.left or place.top or right or bottom):
            return pixels
        sides = (place.top, bottom, place.left, right)
        return _u8(cv2.copyMakeBorder(pixels, *sides, borderType=cv2.BORDER_REPLICATE))

    def _warped(self, pixels: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
        scale = 1 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if scale < _SHRINK_FIRST:
            size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
            x, y = size[0] / pixels.shape[1], size[1] / pixels.shape[0]
            pixels = _u8(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
            matrix = (_scaling(x, y, x / 2 - 0.5, y / 2 - 0.5) @ np.vstack([matrix, [0, 0, 1]]))[:2]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (self.width, self.height)
        return _u8(cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))

    def _beyond(self, matrix: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_] | None:
        """Canvas pixels that lie beyond the border of a picture of ``shape``."""
        corners = matrix @ np.array(
            [[0, self.width - 1, 0, self.width - 1], [0, 0, self.height - 1, self.height - 1], [1, 1, 1, 1]]
        )
        last = np.array([[shape[1] - 1], [shape[0] - 1]])
        if ((corners >= 0) & (corners <= last)).all():
            return None
        x, y = np.arange(self.width), np.arange(self.height)[:, None]
        u, v = (row[0] * x + row[1] * y + row[2] for row in matrix)
        return np.asarray((u < 0) | (u > last[0]) | (v < 0) | (v > last[1]))

    def _with_region(self, place: Placement) -> Placement:
        if self.region is None:
            return place
        outside = ~place.crop(self.region)
        return replace(place, outside=outside if place.outside is None else outside | place.outside)


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


def _scaling(x: float, y: float, left: float, top: float) -> NDArray[np.float64]:
    return np.array([[x, 0.0, left], [0.0, y, top], [0.0, 0.0, 1.0]])


def _u8(pixels: Any) -> NDArray[np.uint8]:
    return np.asarray(pixels, dtype=np.uint8)
