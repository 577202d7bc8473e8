"""Frames of a video file or a camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm")


def frames(source: Path | int, every: int = 1) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Every ``every``-th frame, RGB ``uint8 [H, W, 3]``, with its number from 0.

    Args:
        source: A video file, or the number of a camera, which never ends.
        every: 1 for all frames.

    Raises:
        PictureError: It cannot be opened, or holds no frame.
    """
    name = f"camera {source}" if isinstance(source, int) else str(source)
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    number = 0
    try:
        while capture.isOpened() and capture.grab():
            if number % every == 0:
                is_decoded, frame = capture.retrieve()
                if not is_decoded:
                    raise PictureError(
                        f"{name}: frame {number} cannot be decoded; the video is damaged there"
                    )
                yield number, np.ascontiguousarray(frame[:, :, ::-1], np.uint8)
            number += 1
    finally:
        capture.release()
    if number == 0:
        cure = "check that it is connected and not in use" if isinstance(source, int) else "is it a video?"
        raise PictureError(f"{name} cannot be opened or holds no frame; {cure}")
