"""Some places of a good part vary more than others: anomaly maps in units of what is usual at each place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

CELL = 8  # canvas pixels that share their statistics, both ways
_FLOOR = 0.5  # of the median deviation: a place that never varied must not turn noise into an alarm
_FEWEST = 8  # maps from which a deviation can be told


@dataclass(frozen=True, eq=False)
class LocationScale:
    """Mean and deviation of good maps at each place.

    Attributes:
        total: ``float64 [h, w]``, sum of the good maps, averaged over cells of ``cell`` x ``cell`` pixels.
        squares: ``float64 [h, w]``, sum of their squares.
        count: Number of good maps.
        cell: Pixels that share their statistics, both ways.
    """

    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: int
    cell: int = CELL

    @classmethod
    def fit(cls, maps: Iterable[NDArray[np.float32]], cell: int = CELL) -> Self | None:
        """Learn from smoothed canvas maps ``float32 [H, W]`` of good pictures; ``None`` when they are too few."""
        total = squares = np.zeros((1, 1))
        count = 0
        for canvas_map in maps:
            cells = _cells(canvas_map, cell)
            total, squares, count = total + cells, squares + cells**2, count + 1
        return cls(total, squares, count, cell) if count >= _FEWEST else None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Inverse of :meth:`arrays`.

        Raises:
            KeyError: An array is missing.
        """
        total, squares = (np.array(arrays[name], np.float64) for name in ("total", "squares"))
        return cls(total, squares, int(np.array(arrays["count"])[0]))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {"total": self.total, "squares": self.squares, "count": np.array([self.count])}

    def apply(self, canvas_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """A smoothed canvas map ``float32 [H, W]`` in deviations from the mean good map."""
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        deviation = np.maximum(deviation, max(_FLOOR * float(np.median(deviation)), 1e-9))
        size = (canvas_map.shape[1], canvas_map.shape[0])
        enlarged = (
            cv2.resize(cells.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
            for cells in (mean, deviation)
        )
        return np.asarray((canvas_map - next(enlarged)) / next(enlarged), np.float32)

    def without(self, canvas_map: NDArray[np.float32]) -> LocationScale:
        """The same without one of the maps it was fitted on."""
        cells = _cells(canvas_map, self.cell)
        return LocationScale(self.total - cells, self.squares - cells**2, self.count - 1, self.cell)


def _cells(canvas_map: NDArray[np.float32], cell: int) -> NDArray[np.float64]:
    size = (canvas_map.shape[1] // cell, canvas_map.shape[0] // cell)
    return np.asarray(cv2.resize(canvas_map, size, interpolation=cv2.INTER_AREA), dtype=np.float64)
