"""Files, bytes and arrays in, 8-bit pictures out; every failure is a one-line :class:`PictureError`.

The header is checked first (:mod:`anomaly_spotter.inputs.headers`), so that nothing oversized or cut off is decoded.
Importing this module turns OpenCV's own log off for the process: its complaints about broken files come as errors here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomaly_spotter.errors import PictureError
from anomaly_spotter.inputs.headers import (
    Header,
    PictureInfo,
    read_file,
    read_header,
    read_info,
    require_complete,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "Picture",
    "PictureInfo",
    "as_picture",
    "decode_bytes",
    "read_info",
    "read_mask",
    "read_picture",
    "white_level",
]

PICTURE_SUFFIXES: frozenset[str] = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 200_000_000
"""Default limit on width x height, checked before decoding: a few kilobytes can unpack to gigabytes."""
WHITE_LEVEL_SAMPLE = 64
"""How many 16-bit pictures :func:`white_level` decodes at most."""

_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
_set_log_level(0)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: ``uint8 [H, W]`` (grey) or ``uint8 [H, W, 3]`` (RGB), contiguous.
        notes: What was done to it beyond decoding, for example "alpha channel composited on black".
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_picture(path: str | Path, *, white_level: int = 65535, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read and decode a picture file.

    Args:
        path: PNG, JPEG, BMP, TIFF or WebP; what counts is the content, not the suffix.
        white_level: The 16-bit value that becomes 255; see :func:`white_level`. Without meaning for 8-bit pictures.
        max_pixels: Refuse more pixels than this.

    Raises:
        PictureError: The file is missing, empty, truncated, corrupt, too large or of a type that cannot be used.
    """
    return decode_bytes(read_file(path), name=str(path), white_level=white_level, max_pixels=max_pixels)


def decode_bytes(
    data: bytes, *, name: str, white_level: int = 65535, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Decode the bytes of a picture file; ``name`` stands in error messages. Otherwise as :func:`read_picture`."""
    pixels, notes = _decode(data, name, max_pixels)
    return _to_8_bit(pixels, notes, white_level)


def as_picture(array: object, *, white_level: int = 65535) -> Picture:
    """Take an array as a picture; the pixels are not copied where they can be used as they are.

    Args:
        array: ``uint8`` or ``uint16``, ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA), or
            anything that ``numpy.asarray`` turns into that.
        white_level: The ``uint16`` value that becomes 255.

    Raises:
        PictureError: Another type or shape, or no pixels at all.
    """
    pixels = np.asarray(array)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PictureError(
            f"array of type {pixels.dtype}: a picture is uint8 or uint16; {_cure(pixels.dtype)}"
        )
    if pixels.size == 0:
        raise PictureError(
            f"array of shape {pixels.shape}: it holds no pixels; pass at least one row and column"
        )
    if pixels.ndim == 3 and pixels.shape[2] > 4 and pixels.shape[0] in (1, 3, 4):
        raise PictureError(
            f"array of shape {pixels.shape}: the channels come last; use array.transpose(1, 2, 0)"
        )
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"array of shape {pixels.shape}: a picture is [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA); "
            "pass one picture at a time"
        )
    notes: list[str] = []
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    elif pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _composite(np.ascontiguousarray(pixels[:, :, :3]), pixels[:, :, 3], notes)
    return _to_8_bit(np.ascontiguousarray(pixels), notes, white_level)


def white_level(paths: Iterable[Path]) -> int:
    """Find the value that means white in a camera's 16-bit pictures.

    A 12-bit camera writes values up to 4095 into a 16-bit file; scaled by 65535 they would be black.

    Args:
        paths: Pictures of one camera. All headers are read, and of the 16-bit ones at most
            :data:`WHITE_LEVEL_SAMPLE`, evenly spread, are decoded. Unreadable files are skipped here.

    Returns:
        The smallest of 255, 1023, 4095, 16383, 65535 that no value exceeds; 65535 if none is a 16-bit picture.
    """
    deep = [path for path in paths if _is_16_bit(path)]
    if not deep:
        return 65535
    brightest = 0
    for index in np.unique(np.linspace(0, len(deep) - 1, WHITE_LEVEL_SAMPLE).astype(int)):
        try:
            pixels, _ = _decode(read_file(deep[index]), str(deep[index]), MAX_PIXELS)
        except PictureError:
            continue
        brightest = max(brightest, int(pixels.max()))
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if 2**bits - 1 >= brightest)


def read_mask(paths: Sequence[Path], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read the union of defect masks.

    Args:
        paths: Mask pictures; any value but zero is a defect (in a JPEG, whose zeros are not exact: above 127).
        shape: ``(H, W)`` of the picture they belong to.

    Returns:
        ``bool [H, W]``, true where a defect is; all false for no paths.

    Raises:
        PictureError: A mask cannot be read or has another size.
    """
    mask = np.zeros(shape, np.bool_)
    for path in paths:
        data = read_file(path)
        pixels, _ = _decode(data, str(path), MAX_PIXELS)
        if pixels.shape[:2] != tuple(shape):
            raise PictureError(
                f"{path}: the mask has {pixels.shape[1]} x {pixels.shape[0]} pixels, "
                f"its picture {shape[1]} x {shape[0]}; export both at the same size"
            )
        defect = pixels > (127 if data.startswith(b"\xff\xd8") else 0)
        mask |= defect if defect.ndim == 2 else defect.any(axis=2)
    return mask


# --- decoding ---------------------------------------------------------------------------------------------------------


def _decode(data: bytes, name: str, max_pixels: int) -> tuple[NDArray[Any], list[str]]:
    """Bytes to upright ``uint8`` or ``uint16`` pixels, ``[H, W]`` or ``[H, W, 3]`` RGB, and notes."""
    header = read_header(io.BytesIO(data), name)
    if header.width * header.height > max_pixels:
        raise PictureError(
            f"{name}: {header.width} x {header.height} pixels exceed the limit of {max_pixels}; "
            "make the picture smaller or raise max_pixels"
        )
    require_complete(data, header.format, name)
    # IMREAD_UNCHANGED would hand out the four inks of a CMYK TIFF as if the last were alpha.
    inks = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels: Any = cv2.imdecode(
            np.frombuffer(data, np.uint8), inks if header.mode == "CMYK" else cv2.IMREAD_UNCHANGED
        )
    except cv2.error:
        pixels = None
    if pixels is None:
        raise PictureError(f"{name}: the {header.format} data is corrupt; copy or export the picture again")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"{name}: {pixels.dtype} pixels are not supported; export it with 8 or 16 bits")

    notes: list[str] = []
    if pixels.ndim == 3:
        pixels = _to_rgb(pixels, header, notes)
    elif header.mode.startswith("LA"):
        notes.append("alpha channel ignored")  # OpenCV hands out only the grey of a grey TIFF with alpha
    if header.orientation != 1:
        notes.append(f"EXIF orientation {header.orientation} applied")
        if header.format != "TIFF":  # OpenCV turns a TIFF by itself, whatever the flags
            pixels = _turn_upright(pixels, header.orientation)
    return pixels, notes


def _to_rgb(pixels: NDArray[Any], header: Header, notes: list[str]) -> NDArray[Any]:
    """OpenCV's BGR or BGRA to RGB, or to ``[H, W]`` where the file is grey."""
    is_grey = header.mode[0] in "1LI"
    colour: NDArray[Any] = (
        np.ascontiguousarray(pixels[:, :, 0])
        if is_grey
        else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
    )
    if pixels.shape[2] == 3:
        return colour
    is_premultiplied = header.format == "TIFF" and pixels.dtype == np.uint8  # libtiff has done it
    return _composite(colour, pixels[:, :, 3], notes, is_premultiplied=is_premultiplied)


def _composite(
    colour: NDArray[Any], alpha: NDArray[Any], notes: list[str], *, is_premultiplied: bool = False
) -> NDArray[Any]:
    """Lay ``colour`` (``[H, W]`` or ``[H, W, 3]``) on black; an opaque ``alpha`` ``[H, W]`` changes nothing."""
    opaque = np.iinfo(colour.dtype).max
    if int(alpha.min()) == opaque:
        return colour
    notes.append("alpha channel composited on black")
    if is_premultiplied:
        return colour
    alpha = np.ascontiguousarray(alpha)
    alpha = alpha if colour.ndim == 2 else cv2.merge([alpha, alpha, alpha])
    return cv2.multiply(colour, alpha, scale=1.0 / float(opaque))


_UPRIGHT: dict[
    int, tuple[bool, int, int]
] = {  # orientation: transpose first, then step through rows and columns
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


def _turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    is_transposed, row_step, column_step = _UPRIGHT[orientation]
    upright = pixels.swapaxes(0, 1) if is_transposed else pixels
    return np.ascontiguousarray(upright[::row_step, ::column_step])


def _to_8_bit(pixels: NDArray[Any], notes: list[str], white: int) -> Picture:
    if pixels.dtype == np.uint8:
        return Picture(pixels, tuple(notes))
    if not 1 <= white <= 65535:
        raise PictureError(f"white_level is {white}; it is a 16-bit value, 1 to 65535")
    notes.append("16-bit scaled to 8-bit")
    if white < 65535 and int(pixels.max()) > white:
        notes.append(f"values above the white level {white} clipped")
    return Picture(
        cv2.convertScaleAbs(pixels, alpha=255.0 / white).astype(np.uint8, copy=False), tuple(notes)
    )


def _is_16_bit(path: Path) -> bool:
    try:
        return read_info(path).mode.endswith(";16")
    except PictureError:
        return False


def _cure(dtype: np.dtype[Any]) -> str:
    if dtype == np.bool_:
        return "use array.astype(numpy.uint8) * 255"
    if np.issubdtype(dtype, np.floating):
        return "for values in [0, 1] use (array * 255).round().astype(numpy.uint8)"
    return "for values in 0..255 use array.astype(numpy.uint8)"
