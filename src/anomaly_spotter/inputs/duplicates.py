"""Pictures of the same part: thumbnails in, pairs that show one and the same part out.

A perceptual hash proposes pairs; what tells "the same part again" from "another good part in the same pose" is the
fine detail that is left after everything the pictures have in common is taken away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

THUMBNAIL_SIDE = 64
HASH_LIMIT = 10
"""Pairs whose 64-bit difference hashes differ in more bits are not looked at."""
DETAIL_LIMIT = 0.96
"""Least correlation of the remaining detail. Measured on three real categories: copies (JPEG quality 75, half size,
noise, other gain) reach 0.99; the same part photographed again 0.968 and 0.998; different parts at most 0.946."""
MIN_PICTURES = 8
"""With fewer pictures, what they have in common cannot be told from what is particular to two of them."""

_DETAIL_SIGMA = 2.0
_BLOCK = 1024


def thumbnail(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink ``uint8 [H, W]`` to ``uint8 [64, 64]``, whatever its shape."""
    small = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def find_near_duplicates(thumbnails: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, int, float]]:
    """Yield ``(i, j, correlation)`` with ``i < j`` for thumbnails of the same part; nothing below 8 pictures.

    Light and contrast may differ between the two. Memory stays bounded: blocks of 1024 pictures are compared.
    """
    count = len(thumbnails)
    if count < MIN_PICTURES:
        return
    hashes = np.concatenate(
        [_hashes(thumbnails[start : start + _BLOCK]) for start in range(0, count, _BLOCK)]
    )
    common = np.zeros(THUMBNAIL_SIDE**2, np.float64)
    for start in range(0, count, _BLOCK):
        common += _details(thumbnails[start : start + _BLOCK]).sum(axis=0)
    common /= max(float(np.linalg.norm(common)), 1e-12)
    for first in range(0, count, _BLOCK):
        rows = hashes[first : first + _BLOCK]
        row_details = None
        for second in range(first, count, _BLOCK):
            agreement = rows @ hashes[second : second + _BLOCK].T  # 64 - 2 x differing bits
            is_close = agreement >= 64 - 2 * HASH_LIMIT
            if first == second:
                is_close = np.triu(is_close, 1)
            if not is_close.any():
                continue
            if row_details is None:
                row_details = _without(common, _details(thumbnails[first : first + _BLOCK]))
            column_details = _without(common, _details(thumbnails[second : second + _BLOCK]))
            correlation = row_details @ column_details.T
            for i, j in np.argwhere(is_close & (correlation >= DETAIL_LIMIT)):
                yield first + int(i), second + int(j), float(min(correlation[i, j], 1.0))


def _hashes(thumbnails: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Difference hashes as ``float32 [N, 64]`` of -1 and 1: does the grey rise from one cell to the next?"""
    cells = np.stack([cv2.resize(each, (9, 8), interpolation=cv2.INTER_AREA) for each in thumbnails]).astype(
        int
    )
    return np.where(cells[:, :, 1:] > cells[:, :, :-1], 1, -1).astype(np.float32).reshape(len(cells), 64)


def _details(thumbnails: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Fine detail as rows of unit length, ``float32 [N, 4096]``; zero where a thumbnail has none."""
    floats = np.stack(thumbnails).astype(np.float32)
    details = np.stack([each - cv2.GaussianBlur(each, (0, 0), _DETAIL_SIGMA) for each in floats])
    return _unit(details.reshape(len(details), -1))


def _without(common: NDArray[np.float64], details: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the direction that all pictures share out of each row; what is left has unit length again."""
    direction = common.astype(np.float32)
    return _unit(details - np.outer(details @ direction, direction))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-4, rows / np.maximum(lengths, 1e-4), 0).astype(np.float32)
