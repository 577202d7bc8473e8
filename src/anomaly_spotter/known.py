"""What a detector has seen: fingerprints of pictures, so that none counts twice, and a few canvases to try engines on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from anomaly_spotter.models.exemplars import Exemplars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

_LEARNED, _CALIBRATED = "learned", "calibrated"
_EXAMPLES = 12


@dataclass(frozen=True, slots=True)
class Known:
    """Fingerprints of the good pictures behind a detector; empty where an older file does not tell.

    Attributes:
        learned: Of those the model may have seen; they say nothing about new parts.
        calibrated: Of those behind the calibration scores.
        examples: A few good canvases, on which an export or another inference engine shows that it decides the same;
            ``None`` where an older file has none.
    """

    learned: frozenset[int] = frozenset()
    calibrated: frozenset[int] = frozenset()
    examples: Exemplars | None = None

    @classmethod
    def of(cls, fingerprints: Iterable[int], canvases: Sequence[NDArray[np.uint8]]) -> Self:
        """Pictures that the model and its calibration share."""
        found = frozenset(fingerprints)
        chosen = np.unique(np.linspace(0, len(canvases) - 1, _EXAMPLES).astype(int)).tolist()
        return cls(found, found, Exemplars.collect((canvases[index] for index in chosen), len(chosen)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Inverse of :meth:`arrays`; nothing is known without arrays."""
        empty = np.zeros(0, np.uint64)
        learned, calibrated = (arrays.get(name, empty).tolist() for name in (_LEARNED, _CALIBRATED))
        examples = Exemplars.from_state(arrays) if "exemplars" in arrays else None
        return cls(frozenset(learned), frozenset(calibrated), examples)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        fingerprints: dict[str, NDArray[np.generic]] = {
            name: np.array(sorted(numbers), np.uint64)
            for name, numbers in ((_LEARNED, self.learned), (_CALIBRATED, self.calibrated))
        }
        return fingerprints | ({} if self.examples is None else self.examples.state())
