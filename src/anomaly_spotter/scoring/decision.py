"""Raw anomaly map of one picture -> verdict, mask and regions.

The image score decides first; a mask is drawn only where the verdict is DEFECT, so a good part never shows one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.inputs.condition import condition
from anomaly_spotter.scoring.extent import mask_limit
from anomaly_spotter.scoring.inspection import Inspection, Region, Verdict
from anomaly_spotter.scoring.maps import min_max, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly_spotter.config import ScoringConfig
    from anomaly_spotter.inputs.decode import Picture
    from anomaly_spotter.inputs.preprocess import Placement, Preprocessor
    from anomaly_spotter.scoring.calibration import Calibration
    from anomaly_spotter.scoring.location import LocationScale

DISPLAY_RANGE = (0.0, 2.0)  # typical good pixel .. twice the decision limit


@dataclass(frozen=True, slots=True)
class Judge:
    """Applies fixed scoring settings and calibration constants to maps."""

    config: ScoringConfig
    calibration: Calibration
    preprocessor: Preprocessor
    location: LocationScale | None = None

    def judge(
        self,
        picture: Picture,
        place: Placement,
        canvas_map: NDArray[np.float32],
        normal: NDArray[np.uint8] | None = None,
        threshold: float | None = None,
    ) -> Inspection:
        """Decide about one picture.

        Args:
            picture: The decoded picture.
            place: Where it lies on the canvas.
            canvas_map: Raw map of the model, ``float32 [h, w]`` on the canvas.
            normal: The model's normal look on the canvas, ``uint8 [h, w, C]``.
            threshold: Decision limit instead of the calibrated one.
        """
        limit = self.calibration.threshold if threshold is None else threshold
        taken = condition(picture.pixels, place, self.preprocessor)
        if place.reason is not None:
            p_value = self.calibration.p_value(math.inf)
            return replace(refused(picture, place.reason, limit, p_value), condition=taken)
        raw = placed_map(canvas_map, place, self.config, self.location)
        score = self.calibration.score(raw, self.config)
        if not math.isfinite(score):
            raise SpotterError(
                "the model gave a score that is not finite; its weights are broken, train again"
            )
        verdict = Verdict.DEFECT if score > limit else Verdict.OK
        pixel_scores = self.preprocessor.map_to_picture(
            self.calibration.normalise(raw), place, picture.pixels.shape
        )
        mask = np.zeros(pixel_scores.shape, dtype=bool)
        regions: tuple[Region, ...] = ()
        if verdict is Verdict.DEFECT:
            mask, regions = draw_regions(pixel_scores, self._mask(pixel_scores), self.config.min_area)
        low, high = float(pixel_scores.min()), float(pixel_scores.max())
        return Inspection(
            verdict=verdict,
            score=score,
            threshold=limit,
            p_value=self.calibration.p_value(score),
            anomaly_map=pixel_scores,
            mask=mask,
            regions=regions,
            picture=picture.pixels,
            normal=None
            if normal is None
            else self.preprocessor.canvas_to_picture(normal, place, picture.pixels),
            notes=picture.notes,
            display_range=(low, high) if self.config.display == "minmax" else DISPLAY_RANGE,
            condition=taken,
        )

    def _mask(self, pixel_scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self.config.mask == "otsu":
            return otsu_mask(pixel_scores)
        # A part that was called DEFECT is never left without a mark: its strongest pixel always counts.
        limit = mask_limit(
            float(pixel_scores.max()), self.calibration.pixel_threshold, self.calibration.mask_share
        )
        return np.asarray(pixel_scores >= limit)


def refused(picture: Picture, reason: str, limit: float, p_value: float) -> Inspection:
    """A part that cannot be judged is a DEFECT with its reason, and no score to compare with."""
    shape = picture.pixels.shape[:2]
    return Inspection(
        verdict=Verdict.DEFECT,
        score=math.inf,
        threshold=limit,
        p_value=p_value,
        anomaly_map=np.zeros(shape, dtype=np.float32),
        mask=np.zeros(shape, dtype=bool),
        regions=(),
        picture=picture.pixels,
        notes=picture.notes,
        display_range=DISPLAY_RANGE,
        reason=reason,
    )


def placed_map(
    canvas_map: NDArray[np.float32],
    place: Placement,
    config: ScoringConfig,
    location: LocationScale | None = None,
) -> NDArray[np.float32]:
    """Smooth a raw canvas map, weigh its places, and cut the picture's part out, so that padding never scores."""
    smoothed = smooth(canvas_map, config.smoothing_sigma)
    return place.counted(smoothed if location is None else location.apply(smoothed))


def otsu_mask(anomaly_map: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The original recipe's mask: Otsu's threshold (1979) on the min-max normalised map.

    A constant map gives an empty mask. Any other map gives a non-empty one, defect or not.
    """
    stretched = min_max(anomaly_map)
    if not stretched.any():
        return np.zeros(anomaly_map.shape, dtype=bool)
    return np.asarray(stretched > _otsu_threshold(stretched))


def _otsu_threshold(values: NDArray[np.float32]) -> float:
    """The middle of the histogram bin, of 256, that splits the values into the two classes farthest apart.

    To the last bit that of ``skimage.filters.threshold_otsu``, which computes in single precision too.
    """
    counts, edges = np.histogram(values, bins=256)
    middles, counts = (edges[:-1] + edges[1:]) / 2, counts.astype(np.float32)
    below, above = _cumulative(counts)
    sum_below, sum_above = _cumulative(counts * middles)
    return float(middles[np.argmax(below * above * (sum_below / below - sum_above / above) ** 2)])


def _cumulative(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sums on both sides of each split, ``[N - 1]``: of all values before it, and of all after it."""
    return np.cumsum(values)[:-1], np.cumsum(values[::-1])[::-1][1:]


def draw_regions(
    pixel_scores: NDArray[np.float32], mask: NDArray[np.bool_], min_area: int
) -> tuple[NDArray[np.bool_], tuple[Region, ...]]:
    """Split a mask into 8-connected regions, strongest first, and drop those below ``min_area`` pixels.

    The region with the strongest pixel is kept whatever its size: it is why the part was rejected.

    Returns:
        The mask of the kept regions, ``bool [H, W]``, and the regions.
    """
    _, found, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    labels, stats = np.asarray(found, np.int32), np.asarray(stats, np.int32)
    inside = np.flatnonzero(mask)
    own = labels.ravel()[inside]
    peaks = np.full(len(stats), -np.inf, np.float32)
    np.maximum.at(peaks, own, pixel_scores.ravel()[inside])
    # Regions of equal strength come in reading order, which labels are not always in.
    first = np.zeros(len(stats), np.intp)
    first[own[::-1]] = inside[::-1]
    ranked = np.lexsort((first[1:], -peaks[1:])) + 1  # 0 is the background
    kept = [
        label for rank, label in enumerate(ranked) if rank == 0 or stats[label, cv2.CC_STAT_AREA] >= min_area
    ]
    if len(kept) < len(ranked):
        mask = np.isin(labels, kept)
    return mask, tuple(_region(label, labels, pixel_scores, stats[label], centroids[label]) for label in kept)


def _region(
    label: int,
    labels: NDArray[np.int32],
    pixel_scores: NDArray[np.float32],
    stats: NDArray[np.int32],
    centroid: NDArray[np.float64],
) -> Region:
    left, top, width, height, area = (int(value) for value in stats)
    box = np.s_[top : top + height, left : left + width]
    inside = labels[box] == label
    scores = np.where(inside, pixel_scores[box], -np.inf)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    contours, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)
    )
    return Region(
        area=area,
        box=(left, top, width, height),
        centroid=(float(centroid[0]), float(centroid[1])),
        peak=float(scores[row, column]),
        peak_position=(left + int(column), top + int(row)),
        mean_score=float(scores[inside].mean(dtype=np.float64)),
        contour=np.asarray(max(contours, key=len), dtype=np.int32).reshape(-1, 2),
    )
