"""Which pictures a detector has seen, by fingerprints of their pixels, so that none counts twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

_LEARNED, _CALIBRATED = "learned", "calibrated"


@dataclass(frozen=True, slots=True)
class Known:
    """Fingerprints of the good pictures behind a detector; empty where an older file does not tell.

    Attributes:
        learned: Of those the model may have seen; they say nothing about new parts.
        calibrated: Of those behind the calibration scores.
    """

    learned: frozenset[int] = frozenset()
    calibrated: frozenset[int] = frozenset()

    @classmethod
    def of(cls, fingerprints: Iterable[int]) -> Self:
        """Pictures that the model and its calibration share."""
        found = frozenset(fingerprints)
        return cls(found, found)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Inverse of :meth:`arrays`; nothing is known without arrays."""
        empty = np.zeros(0, np.uint64)
        learned, calibrated = (arrays.get(name, empty).tolist() for name in (_LEARNED, _CALIBRATED))
        return cls(frozenset(learned), frozenset(calibrated))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        return {
            name: np.array(sorted(numbers), np.uint64)
            for name, numbers in ((_LEARNED, self.learned), (_CALIBRATED, self.calibrated))
        }
