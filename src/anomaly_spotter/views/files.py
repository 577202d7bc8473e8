"""Views to disk: pictures encoded as PNG or JPEG and written whole or not at all, and the names they get."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

JPEG_QUALITY = 92
_SUFFIXES = (".png", ".jpg", ".jpeg")


def write_picture(path: Path, picture: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> Path:
    """Write a picture as PNG or JPEG, by the name's suffix. Missing folders are made.

    Args:
        path: Target, any Unicode; ``.png``, ``.jpg`` or ``.jpeg``. An existing file is replaced.
        picture: ``uint8 [H, W]`` grey or ``uint8 [H, W, 3]`` RGB.
        quality: JPEG quality, 1 to 100; PNG ignores it.

    Returns:
        ``path``.

    Raises:
        SpotterError: The suffix is another one, the array is no picture, or the file cannot be written.
    """
    path = Path(path)
    return write_atomic(path, encode_picture(picture, path.suffix, quality))


def encode_picture(picture: NDArray[np.uint8], suffix: str = ".png", quality: int = JPEG_QUALITY) -> bytes:
    """Encode ``uint8 [H, W]`` grey or ``uint8 [H, W, 3]`` RGB as the bytes of a PNG or JPEG file.

    Raises:
        SpotterError: The suffix is not one of ``.png``, ``.jpg``, ``.jpeg``, or the array is no picture.
    """
    suffix = suffix.lower()
    if suffix not in _SUFFIXES:
        raise SpotterError(
            f"Cannot write a picture as {suffix or 'a file without suffix'!r}; use .png or .jpg."
        )
    grey, rgb = picture.ndim == 2, picture.ndim == 3 and picture.shape[-1] == 3
    if picture.dtype != np.uint8 or picture.size == 0 or not (grey or rgb):
        raise SpotterError(
            f"Expected a picture uint8 [H, W] or [H, W, 3], found {picture.dtype} {list(picture.shape)}."
        )
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    try:
        done, data = cv2.imencode(suffix, picture if grey else picture[..., ::-1], options)
    except cv2.error as error:
        done, reason = False, error.err
    else:
        reason = "the encoder refused it"
    if not done:
        size = f"{picture.shape[1]} x {picture.shape[0]}"
        raise SpotterError(f"Cannot encode a picture of {size} pixels as {suffix}: {reason}.")
    return data.tobytes()


def output_names(sources: Iterable[Path]) -> dict[Path, str]:
    """A name without suffix for what is written about each source, no two alike on any file system.

    It is the file's stem where that is enough; otherwise as many folders as it takes are put in front
    (``crack_000``), and, where the folders agree too, the suffix behind (``000_png``).

    Args:
        sources: Picture files; repeated ones count once.
    """
    paths = list(dict.fromkeys(sources))
    names = {path: path.stem for path in paths}
    deepest = max((len(path.parts) for path in paths), default=1)
    for depth in range(1, deepest + 1):
        clashing = _clashing(names)
        for path in clashing:
            names[path] = "_".join([*path.parts[-depth - 1 : -1], path.stem]).replace("/", "")
    for path in _clashing(names):
        names[path] += path.suffix.replace(".", "_")
    for number, path in enumerate(_clashing(names), start=1):
        names[path] += f"_{number}"
    return names


def _clashing(names: Mapping[Path, str]) -> list[Path]:
    used = Counter(name.casefold() for name in names.values())
    return [path for path, name in names.items() if used[name.casefold()] > 1]
