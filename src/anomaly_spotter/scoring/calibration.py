"""Held-out good pictures' anomaly maps -> the constants that give a score its meaning.

After calibration 0 is the typical pixel of a good part and 1 the decision limit that keeps the promised false reject
rate. Both constants are fixed here and never depend on the picture that is inspected.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from anomaly_spotter.scoring import conformal
from anomaly_spotter.scoring.maps import image_score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import CalibrationConfig, ScoringConfig

_PIXELS_PER_PICTURE = 16_384  # a random sample bounds the memory of the pixel quantiles
_SMALLEST_SCALE = 1e-9  # a model without any error on good parts still gets a finite scale


class _Measured(NamedTuple):
    """Raw scores ``float64 [N]``, and the median and a high quantile of the pixels."""

    scores: NDArray[np.float64]
    centre: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """What was learned from the held-out good pictures.

    Attributes:
        scores: Their image scores on the calibrated scale, ascending.
        centre: Raw anomaly value that becomes 0 (median pixel of good parts).
        scale: Raw distance from ``centre`` that becomes 1.
        threshold: Decision limit on the calibrated scale; 1.0 as calibrated.
        pixel_threshold: Pixel score from which on a pixel belongs to a defect.
        promise: The guarantee behind ``threshold``.
        refused: Good pictures without a score, because their part could not be found or is cut off.
        mask_share: Share of a defective picture's strongest pixel from which on pixels are marked, if that is above
            ``pixel_threshold``; see :mod:`~anomaly_spotter.scoring.extent`.
    """

    scores: tuple[float, ...]
    centre: float
    scale: float
    threshold: float
    pixel_threshold: float
    promise: conformal.Promise
    refused: int = 0
    mask_share: float = 0.0

    @classmethod
    def fit(
        cls,
        raw_maps: Iterable[NDArray[np.float32]],
        scoring: ScoringConfig,
        calibration: CalibrationConfig,
        refused: int = 0,
    ) -> Self:
        """Calibrate on raw, smoothed maps ``float32 [h, w]`` of good pictures; read once, streamed.

        ``refused`` more good pictures have no map and count as rejected.

        Raises:
            ValueError: No map at all, or a map with a value that is not finite.
        """
        measured = _measure(raw_maps, scoring)
        if measured is None:
            raise ValueError("calibration needs the map of at least one good picture")
        return cls._of(measured.scores, measured.centre, measured.high, refused, calibration)

    def with_more(
        self,
        raw_maps: Iterable[NDArray[np.float32]],
        scoring: ScoringConfig,
        calibration: CalibrationConfig,
        refused: int = 0,
    ) -> Self:
        """The same with more good pictures; read once, streamed.

        The old scores stay as they were measured. The centre and the pixel threshold become the means of the old and
        the new ones, weighted by the number of pictures, because the old maps are gone.

        Args:
            raw_maps: Raw, smoothed maps ``float32 [h, w]`` of the new pictures; may be none.
            scoring: As for :meth:`fit`.
            calibration: What is promised.
            refused: More good pictures without a map.

        Raises:
            ValueError: A map with a value that is not finite.
        """
        old, high = self.raw_scores, self.centre + self.scale * self.pixel_threshold
        new = _measure(raw_maps, scoring)
        if new is None:
            return self._of(old, self.centre, high, self.refused + refused, calibration, self.mask_share)
        share = len(new.scores) / (len(new.scores) + len(old))
        return self._of(
            np.concatenate([old, new.scores]),
            self.centre + share * (new.centre - self.centre),
            high + share * (new.high - high),
            self.refused + refused,
            calibration,
            self.mask_share,
        )

    @property
    def raw_scores(self) -> NDArray[np.float64]:
        """The calibration scores on the scale of the raw maps, ascending."""
        return self.centre + self.scale * self._sorted_scores

    @property
    def raw_limit(self) -> float:
        """The decision limit on the scale of the raw maps."""
        return self.centre + self.scale * self.threshold

    def promising(self, calibration: CalibrationConfig) -> Self:
        """The same scores with the limit that another rate or confidence asks for, which becomes 1."""
        high = self.centre + self.scale * self.pixel_threshold
        return self._of(self.raw_scores, self.centre, high, self.refused, calibration, self.mask_share)

    def promise_at(self, rate: float, confidence: float | None) -> conformal.Promise:
        """What these scores could promise at another rate; changes nothing."""
        return conformal.promise(len(self.scores) + self.refused, rate, confidence, self.refused)

    @classmethod
    def _of(
        cls,
        raw_scores: NDArray[np.float64],
        centre: float,
        high: float,
        refused: int,
        calibration: CalibrationConfig,
        mask_share: float = 0.0,
    ) -> Self:
        """From raw scores, the raw median pixel, the raw pixel limit and the number of refused pictures."""
        raw = np.sort(raw_scores)
        promise = conformal.promise(
            len(raw) + refused, calibration.false_reject_rate, calibration.confidence, refused
        )
        limit = conformal.limit(raw, promise)
        scale = max(limit - centre, _SMALLEST_SCALE)
        return cls(
            scores=tuple(((raw - centre) / scale).tolist()),
            centre=centre,
            scale=scale,
            threshold=(limit - centre) / scale,
            pixel_threshold=(high - centre) / scale,
            promise=promise,
            refused=refused,
            mask_share=mask_share,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`.

        Raises:
            KeyError: Something is missing.
            TypeError: Something has another type.
            ValueError: The values cannot come from a calibration.
        """
        own = cls(
            **{
                **values,
                "scores": tuple(float(score) for score in values["scores"]),
                "promise": conformal.Promise(**values["promise"]),
            }
        )
        promise = own.promise
        numbers = (*own.scores, own.centre, own.scale, own.threshold, own.pixel_threshold, own.mask_share)
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise TypeError("the calibration holds something else than finite numbers")
        counts = (own.refused, promise.rank, promise.count, promise.needed)
        if not all(isinstance(count, int) for count in counts) or not 0 < promise.rate < 1:
            raise TypeError("the calibration's promise holds something else than counts and rates")
        if not (
            own.scale > 0
            and own.scores == tuple(sorted(own.scores))
            and promise.count == len(own.scores) + own.refused
            and 1 <= promise.rank <= len(own.scores)
        ):
            raise ValueError("the calibration's scores, scale and promise do not fit together")
        return own

    def to_dict(self) -> dict[str, Any]:
        """All constants as JSON-able values."""
        return asdict(self)

    def normalise(self, raw_map: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw map -> pixel scores on the calibrated scale, unclamped."""
        return ((raw_map - np.float32(self.centre)) / np.float32(self.scale)).astype(np.float32)

    def score(self, raw_map: NDArray[np.float32], config: ScoringConfig) -> float:
        """Raw map -> image score on the calibrated scale, in double precision so that ties stay ties."""
        return (image_score(raw_map, config) - self.centre) / self.scale

    def p_value(self, score: float) -> float:
        """How often a good part scores at least this high, in (0, 1]."""
        at_least = (
            self.refused + len(self.scores) - int(np.searchsorted(self._sorted_scores, score, side="left"))
        )
        return (1 + at_least) / (len(self.scores) + self.refused + 1)

    @cached_property
    def _sorted_scores(self) -> NDArray[np.float64]:
        return np.asarray(self.scores, dtype=np.float64)


def _measure(raw_maps: Iterable[NDArray[np.float32]], scoring: ScoringConfig) -> _Measured | None:
    """``None`` when there is no map."""
    rng = np.random.default_rng(0)
    scores: list[float] = []
    pixels: list[NDArray[np.float32]] = []
    for raw_map in raw_maps:
        scores.append(image_score(raw_map, scoring))
        sampled = rng.choice(raw_map.size, min(raw_map.size, _PIXELS_PER_PICTURE), replace=False)
        pixels.append(_counted(raw_map.ravel()[sampled]))
    if not np.isfinite(scores).all():
        raise ValueError("an anomaly map holds values that are not finite; the model is broken")
    if not pixels:
        return None
    good_pixels = np.concatenate(pixels)
    high = float(np.quantile(good_pixels, 1 - scoring.pixel_false_positive_rate))
    return _Measured(np.asarray(scores, dtype=np.float64), float(np.median(good_pixels)), high)


def _counted(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without those that do not count: they were all made as calm as the calmest one, and are no typical pixels."""
    calm = pixels == pixels.min()
    return pixels[~calm] if 1 < np.count_nonzero(calm) < len(pixels) else pixels
