"""A picture file's header: format, size, mode, orientation, and whether the file is complete. Nothing is decoded.

Pillow's readers parse the headers; every failure is a one-line :class:`PictureError`. Importing this module turns
the warnings of Pillow's TIFF reader off for the process: they tell of damage that ends in an error here.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from anomaly_spotter.errors import PictureError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What the header says; nothing was decoded.

    Attributes:
        width: Pixels per row, after the EXIF orientation, as :func:`read_picture` returns it.
        height: Rows, likewise.
        mode: Pillow's mode: ``1``, ``L``, ``LA``, ``P``, ``RGB``, ``RGBA``, ``CMYK``...; 16-bit pictures end in ``;16``
            (``I;16`` is 16-bit grey).
        format: ``PNG``, ``JPEG``, ``BMP``, ``TIFF`` or ``WEBP``.
        file_size: Bytes.
    """

    width: int
    height: int
    mode: str
    format: str
    file_size: int


@dataclass(frozen=True, slots=True)
class Header:
    """As :class:`PictureInfo`, with the size as stored and the EXIF orientation (1 to 8; 1 is upright)."""

    format: str
    mode: str
    width: int
    height: int
    orientation: int = 1


def read_info(path: str | Path) -> PictureInfo:
    """Read the header of a picture file.

    Raises:
        PictureError: The file is missing, empty, unreadable or not a picture.
    """
    try:
        with Path(path).open("rb") as file:
            file_size = file.seek(0, io.SEEK_END)
            header = read_header(file, str(path))
    except (OSError, ValueError) as error:
        raise _file_error(path, error) from error
    width, height = header.width, header.height
    if header.orientation >= 5:
        width, height = height, width
    return PictureInfo(width, height, header.mode, header.format, file_size)


def read_file(path: str | Path) -> bytes:
    """Read a file's bytes.

    Raises:
        PictureError: It is missing, a folder, or not readable.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise _file_error(path, error) from error


def read_header(file: IO[bytes], name: str) -> Header:
    """Read the header from an open file, which is left at any position; ``name`` stands in error messages.

    Raises:
        PictureError: Empty, no picture, a damaged header, or pixels of a type that cannot be used.
    """
    file.seek(0)
    start = file.read(32)
    if not start:
        raise PictureError(f"{name}: the file is empty (0 bytes); copy or export the picture again")
    reader = next((reader for magic, reader in _READERS if start.startswith(magic)), None)
    if reader is None or (reader is WebPImageFile and start[8:12] != b"WEBP"):
        raise PictureError(f"{name}: not a picture; expected PNG, JPEG, BMP, TIFF or WebP")
    try:
        file.seek(0)
        header = _describe(reader(file, name), file, start)  # Image.open would try foreign formats as well
    except Exception as error:
        raise PictureError(
            f"{name}: the {reader.format} header is truncated or corrupt; copy or export the picture again"
        ) from error
    if header.width < 1 or header.height < 1:
        raise PictureError(f"{name}: the picture has no pixels; export it again")
    if header.mode in ("F", "I"):
        raise PictureError(
            f"{name}: 32-bit and floating point pixels are not supported; export it with 8 or 16 bits"
        )
    return header


def require_complete(data: bytes, picture_format: str, name: str) -> None:
    """Refuse a file that stops early: some decoders fill the rest with grey and say nothing.

    Raises:
        PictureError: The end is missing, or a PNG's checksum is wrong.
    """
    try:
        is_complete = _IS_COMPLETE[picture_format](data) if picture_format in _IS_COMPLETE else True
    except (struct.error, IndexError):
        is_complete = False
    if not is_complete:
        raise PictureError(
            f"{name}: the {picture_format} file is truncated or damaged; copy or export the picture again"
        )


# --- headers ----------------------------------------------------------------------------------------------------------

_READERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"RIFF", WebPImageFile),
)
_16_BIT_MODES = {"L": "I;16", "I": "I;16", "LA": "LA;16", "RGB": "RGB;16", "RGBA": "RGBA;16"}


def _describe(image: ImageFile, file: IO[bytes], start: bytes) -> Header:
    width, height = image.size
    mode, is_16_bit = image.mode, False
    if isinstance(image, TiffImageFile):  # newer Pillow turns the size
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        is_16_bit = image.tag_v2.get(258, (1,))[0] == 16
    elif isinstance(image, PngImageFile):
        is_16_bit = start[24] == 16
    if is_16_bit:
        mode = _16_BIT_MODES.get(mode.partition(";")[0], mode)
    return Header(str(image.format), mode, width, height, _orientation(image, file))


def _orientation(image: ImageFile, file: IO[bytes]) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it is damaged."""
    try:
        if isinstance(image, TiffImageFile):
            orientation = image.tag_v2.get(0x0112, 1)
        elif isinstance(image, PngImageFile):  # its getexif() would decode the picture
            exif = Image.Exif()
            exif.load(_png_exif(file))
            orientation = exif.get(0x0112, 1)
        else:
            orientation = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - a damaged remark is no reason to refuse the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _png_exif(file: IO[bytes]) -> bytes:
    """The content of a PNG's eXIf chunk, which may stand before or after the pixels; empty if there is none."""
    position = 8
    while True:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"eXIf":
            return file.read(length)
        if kind == b"IEND":
            return b""
        position += 12 + int(length)


# --- the ends of files ------------------------------------------------------------------------------------------------


def _png_is_complete(data: bytes) -> bool:
    """Walk the chunks to IEND; the checksums of the critical ones (upper-case names) must hold."""
    view, position = memoryview(data), 8
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + int(length)
        (checksum,) = struct.unpack_from(">I", data, end)
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : end]) != checksum:
            return False
        if kind == b"IEND":
            return True
        position = end + 4


def _jpeg_is_complete(data: bytes) -> bool:
    """Walk the segments to the first scan, then look for the end marker: a thumbnail in EXIF has one of its own."""
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
        elif marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        else:
            (length,) = struct.unpack_from(">H", data, position + 2)
            position += 2 + int(length)
    return False


_IS_COMPLETE = {"PNG": _png_is_complete, "JPEG": _jpeg_is_complete}


def _file_error(path: str | Path, error: OSError | ValueError) -> PictureError:
    if isinstance(error, FileNotFoundError):
        return PictureError(f"{path}: no such file; check the path")
    if isinstance(error, OSError) and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises in its turn
        return PictureError(f"{path}: a folder, not a picture; name a file in it")
    if isinstance(error, PermissionError):
        return PictureError(f"{path}: permission denied; allow this user to read it")
    return PictureError(
        f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the path"
    )
