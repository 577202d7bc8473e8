"""The grid of patch features: arithmetic that needs no PyTorch, shared by the PyTorch models and the compiled ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRIDE = 8  # canvas pixels per grid cell, both ways
AROUND = 9  # cells that are compared at a place: its own and its neighbours, row by row

RANGE = 90
"""Counts either way of a memory's patches.

Processors multiply ``uint8`` by ``int8`` fastest. Those without VNNI instructions add two such products in 16 bits, which
hold 2 x 180 x 90 (a count of a query is kept as that count + 90) and no more.
"""


def beyond_range(bank: NDArray[np.int8]) -> bool:
    """Whether any count of a memory lies beyond :data:`RANGE`, as no fitted one's does."""
    return int(bank.min(initial=0)) < -RANGE or int(bank.max(initial=0)) > RANGE


def enlarge(grid_map: NDArray[np.float32]) -> NDArray[np.float32]:
    """A value per grid cell -> a value per canvas pixel, ``float32 [H, W]``, bilinear."""
    size = (grid_map.shape[1] * STRIDE, grid_map.shape[0] * STRIDE)
    return np.asarray(cv2.resize(grid_map, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def nearest(
    squares: NDArray[np.float32], patches: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which patch is nearest to each cell, and at which place it was found.

    Args:
        squares: Squared distances, ``[h * w, 9]``: of each place to the cells around it; ``[1, h * w]`` of a memory
            without places.
        patches: The nearest patch for each of them, same shape.
        size: ``(h, w)``.

    Returns:
        Patch and place of each cell, ``int64 [h * w]`` both.
    """
    height, width = size
    places = np.arange(height * width)
    if len(squares) == 1:
        return patches[0], places
    offset = _to_cells(squares, size, np.inf).argmin(axis=0).ravel()
    candidates = _to_cells(patches, size, 0).reshape(AROUND, -1)
    rows, columns = places // width - (offset // 3 - 1), places % width - (offset % 3 - 1)
    return candidates[offset, places], rows * width + columns


def _to_cells(by_place: NDArray[np.generic], size: tuple[int, int], beyond: float) -> NDArray[np.generic]:
    """From values per place and query, ``[h * w, 9]``, to values per cell and the place it was compared at, ``[9, h, w]``.

    The cell at (y, x) is query (dy, dx) of the place (y - dy, x - dx); places outside hold ``beyond``.
    """
    height, width = size
    grid = np.pad(by_place.T.reshape(AROUND, height, width), ((0, 0), (1, 1), (1, 1)), constant_values=beyond)
    return np.stack(
        [
            grid[3 * (dy + 1) + dx + 1, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
    )
