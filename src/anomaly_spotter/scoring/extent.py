"""How far a mark reaches: from which share of its strongest pixel a picture's mask is drawn.

Smoothing and large receptive fields spread a defect's signal, so a fixed pixel limit draws a strong defect too large.
Synthetic defects on good pictures, whose true extent is known, tell the share that draws them best. It moves marks only,
never a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SHARES = tuple(round(0.05 * step, 2) for step in range(17))
"""What is tried, 0 to 0.8; 0 leaves the pixel limit alone."""

_FEWEST = 5  # marked defects from which a share can be told


def mask_limit(peak: float, pixel_threshold: float, share: float) -> float:
    """Pixel score from which on a pixel of a defective picture is marked, never above its strongest one, ``peak``."""
    return min(max(pixel_threshold, share * peak), peak)


def best_share(
    marked: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]], pixel_threshold: float
) -> float:
    """The share of :data:`SHARES` with the largest mean F1 of mask against truth.

    Args:
        marked: Pixel scores ``float32 [h, w]`` and true extents ``bool [h, w]`` of synthetic defects that were found.
        pixel_threshold: The calibrated pixel limit.

    Returns:
        The share; 0 when there are too few defects to tell.
    """
    scores = np.array([[_f1(each, pixel_threshold, share) for share in SHARES] for each in marked])
    return SHARES[int(scores.mean(axis=0).argmax())] if len(scores) >= _FEWEST else 0.0


def _f1(marked: tuple[NDArray[np.float32], NDArray[np.bool_]], pixel_threshold: float, share: float) -> float:
    pixel_scores, truth = marked
    mask = pixel_scores >= mask_limit(float(pixel_scores.max()), pixel_threshold, share)
    return 2 * int((mask & truth).sum()) / max(1, int(mask.sum()) + int(truth.sum()))
