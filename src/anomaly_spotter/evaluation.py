"""What a detector is worth on labelled test pictures: the numbers of the evaluation JSON, at the calibrated threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from anomaly_spotter.scoring.inspection import Verdict


@dataclass(frozen=True, slots=True)
class PictureResult:
    """One test picture's outcome.

    Attributes:
        path: The picture.
        kind: ``"good"`` or the name of the defect kind.
        is_defect: The label.
        verdict: The decision at the calibrated threshold.
        score: Image score, unclamped, 1.0 = decision limit at calibration.
        p_value: Conformal p-value in (0, 1].
    """

    path: Path
    kind: str
    is_defect: bool
    verdict: Verdict
    score: float
    p_value: float
