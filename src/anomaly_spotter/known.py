"""What a detector has seen, kept with it.

Fingerprints of pictures, so that none counts twice; how they were taken; a few canvases to try engines on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from anomaly_spotter.inputs.condition import MOST_ROWS, NAMES, conditions_of, evenly
from anomaly_spotter.models.exemplars import Exemplars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.store import Canvases

_LEARNED, _CALIBRATED, _CONDITIONS = "learned", "calibrated", "conditions"
_EXAMPLES = 12


def _nothing() -> NDArray[np.float32]:
    return np.zeros((0, len(NAMES)), np.float32)


@dataclass(frozen=True, slots=True)
class Known:
    """Fingerprints of the good pictures behind a detector; empty where an older file does not tell.

    Attributes:
        learned: Of those the model may have seen; they say nothing about new parts.
        calibrated: Of those behind the calibration scores.
        examples: A few good canvases, on which an export or another inference engine shows that it decides the same;
            ``None`` where an older file has none.
        conditions: How good pictures were taken, ``float32 [N, 7]`` with the columns of
            :data:`~anomaly_spotter.inputs.condition.NAMES`; no rows where an older file does not tell.
    """

    learned: frozenset[int] = frozenset()
    calibrated: frozenset[int] = frozenset()
    examples: Exemplars | None = None
    conditions: NDArray[np.float32] = field(default_factory=_nothing, repr=False, compare=False)

    @classmethod
    def of(cls, fingerprints: Iterable[int], canvases: Canvases) -> Self:
        """Pictures that the model and its calibration share."""
        found = frozenset(fingerprints)
        chosen = evenly(len(canvases), _EXAMPLES)
        examples = Exemplars.collect((canvases[index] for index in chosen), len(chosen))
        return cls(found, found, examples, conditions_of(canvases))

    def with_conditions_of(self, canvases: Canvases) -> NDArray[np.float32]:
        """The conditions of these and more good pictures, evenly thinned where they are too many."""
        rows = np.concatenate([self.conditions, conditions_of(canvases)])
        return rows[evenly(len(rows), MOST_ROWS)]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Inverse of :meth:`arrays`; nothing is known without arrays.

        Raises:
            ValueError: An array has the wrong shape.
        """
        empty = np.zeros(0, np.uint64)
        learned, calibrated = (arrays.get(name, empty).tolist() for name in (_LEARNED, _CALIBRATED))
        examples = Exemplars.from_state(arrays) if "exemplars" in arrays else None
        rows = np.array(arrays.get(_CONDITIONS, _nothing()), np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(NAMES):
            raise ValueError(f"the good pictures' conditions have the shape {rows.shape}")
        return cls(frozenset(learned), frozenset(calibrated), examples, rows)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays."""
        fingerprints: dict[str, NDArray[np.generic]] = {
            name: np.array(sorted(numbers), np.uint64)
            for name, numbers in ((_LEARNED, self.learned), (_CALIBRATED, self.calibrated))
        }
        return {
            **fingerprints,
            **({_CONDITIONS: self.conditions} if len(self.conditions) else {}),
            **({} if self.examples is None else self.examples.state()),
        }
