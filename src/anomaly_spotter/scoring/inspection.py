"""The value object every view, the command line and the service take: one picture's verdict and its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from anomaly_spotter.inputs.condition import Condition


class Verdict(StrEnum):
    """The decision about one picture."""

    OK = "OK"
    DEFECT = "DEFECT"


@dataclass(frozen=True, slots=True)
class Region:
    """One connected defect region, in the inspected picture's own pixels.

    Attributes:
        area: Number of pixels.
        box: ``(left, top, width, height)`` in pixels.
        centroid: ``(x, y)`` in pixels.
        peak: Largest pixel score inside the region (see :class:`Inspection` for the scale).
        peak_position: ``(x, y)`` of that pixel.
        mean_score: Mean pixel score inside the region.
        contour: Outer contour, ``int32 [N, 2]`` of ``(x, y)`` pixels.
    """

    area: int
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    peak: float
    peak_position: tuple[int, int]
    mean_score: float
    contour: NDArray[np.int32] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found on one picture.

    Scores are on the scale fixed at calibration: 0 is the typical pixel of a good part, 1 is the decision limit that
    held when the model was calibrated. They are not clamped: 3.2 is stranger than 3.1, and values below 0 occur.

    Attributes:
        verdict: ``OK`` or ``DEFECT``: ``DEFECT`` exactly when ``score > threshold``.
        score: Image score; infinite when there is a ``reason``.
        threshold: The decision limit that was applied, same scale as ``score``.
        p_value: Conformal p-value in (0, 1]: how often a good part scores at least this high.
        anomaly_map: ``float32 [H, W]`` pixel scores, larger is stranger, in the picture's own pixels.
        mask: ``bool [H, W]``, true where a defect is; all false when the verdict is ``OK``.
        regions: Connected regions of ``mask``, strongest peak first.
        picture: ``uint8 [H, W]`` (grey) or ``uint8 [H, W, 3]`` (RGB), as it was inspected.
        normal: What the model holds to be the normal look of this picture (the reconstruction, or the nearest
            normal part), same shape as ``picture``; ``None`` if the model has none.
        source: The file it came from, ``None`` for an array.
        notes: Remarks for the user, for example "alpha channel composited on black".
        display_range: Pixel scores that heat maps draw as black and as white. Fixed at calibration so that two
            pictures compare; the picture's own extremes where the settings ask for them.
        reason: Why the part could not be judged at all (none found, more than one, cut off, misfit, of no known
            product), else ``None``.
        product: Whose detector judged, where there are several; ``None`` where there is one, or none was recognised.
        condition: Light, sharpness and pose of the picture; ``None`` where no detector judged.
    """

    verdict: Verdict
    score: float
    threshold: float
    p_value: float
    anomaly_map: NDArray[np.float32] = field(repr=False, compare=False)
    mask: NDArray[np.bool_] = field(repr=False, compare=False)
    regions: tuple[Region, ...]
    picture: NDArray[np.uint8] = field(repr=False, compare=False)
    normal: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    source: Path | None = None
    notes: tuple[str, ...] = ()
    display_range: tuple[float, float] = (0.0, 2.0)
    reason: str | None = None
    product: str | None = None
    condition: Condition | None = None


def finite(score: float) -> float | None:
    """A score as JSON knows it: ``None`` where a part could not be judged."""
    return score if math.isfinite(score) else None
