"""How good a detector is: image scores and anomaly maps in, numbers a paper or a customer would ask for out.

The curves of image scores come from scikit-learn (imported on first use: it costs a second). Pixel metrics are streamed, so that a
test set of any size fits in memory: every pixel is counted once in a histogram over the float32 line, and AUROC, F1_max
and AUPRO (per-region overlap, Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021) follow from cumulative
sums. Nothing is clamped or rescaled: what is ranked keeps its rank. A metric that is undefined is ``None``, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from anomaly_spotter.extras import needed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """How well image scores tell defects from good pictures.

    ``auroc``, ``average_precision`` and the ``f1_max`` pair need both classes; ``precision`` needs a picture called
    DEFECT, ``recall`` and ``f1`` a defective picture, ``false_reject_rate`` a good one. Each is ``None`` otherwise.

    Attributes:
        auroc: Area under the ROC curve, ties count half; in [0, 1].
        average_precision: Step-wise area under the precision-recall curve; in [0, 1].
        precision: Share of true defects among pictures called DEFECT at ``threshold``.
        recall: Share of defective pictures called DEFECT at ``threshold``.
        f1: Harmonic mean of the two at ``threshold``.
        false_reject_rate: Share of good pictures called DEFECT at ``threshold``.
        threshold: The calibrated limit; a picture is called DEFECT when ``score > threshold``.
        f1_max: Best F1 over all limits. It looks at the labels: an upper bound, not a promise.
        f1_max_threshold: The limit that reaches ``f1_max``: the largest score it still calls OK.
    """

    auroc: float | None
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    false_reject_rate: float | None
    threshold: float
    f1_max: float | None
    f1_max_threshold: float | None


@dataclass(frozen=True, slots=True)
class PixelResult:
    """How well anomaly maps and drawn masks locate defects, over all pixels of all pictures.

    The four ranking numbers need good and defective pixels; ``precision`` needs a drawn pixel, ``recall`` and ``f1`` a
    defective one. Each is ``None`` otherwise.

    Attributes:
        auroc: Area under the pixel ROC curve; in [0, 1].
        aupro: Mean overlap with the true regions, averaged over false positive rates up to 30 %; in [0, 1].
        aupro_05: The same up to 5 %.
        precision: Share of true defect pixels among the drawn ones.
        recall: Share of the true defect pixels that were drawn.
        f1: Harmonic mean of the two.
        f1_max: Best F1 over all limits on the map; looks at the labels.
    """

    auroc: float | None
    aupro: float | None
    aupro_05: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    f1_max: float | None


class RocCurve(NamedTuple):
    """Points of a ROC curve from (0, 0) to (1, 1); each array is ``float64 [K]``, ``thresholds`` start at +inf."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class PrecisionRecallCurve(NamedTuple):
    """Points by rising threshold, ``float64 [K + 1]``, the last is (1, 0); ``thresholds`` is ``float64 [K]``."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def image_metrics(scores: ArrayLike, is_defect: ArrayLike, threshold: float) -> ImageMetrics:
    """Judge image scores against the truth.

    Args:
        scores: ``float [N]``, any finite value, larger is stranger.
        is_defect: ``bool [N]`` (or 0 and 1), true for a defective picture.
        threshold: The calibrated limit; DEFECT means ``score > threshold``. May be infinite, not NaN.

    Returns:
        All image metrics.

    Raises:
        ValueError: If the arrays differ in length, a score is not finite, a label is not 0 or 1, or the threshold is NaN.

    Example:
        >>> found = image_metrics([0.1, 0.4, 0.9], [False, False, True], threshold=0.3)
        >>> found.auroc, found.precision, found.recall, found.false_reject_rate, found.f1_max_threshold
        (1.0, 0.5, 1.0, 0.5, 0.4)
    """
    values, defect = _checked_scores(scores, is_defect)
    if np.isnan(threshold):
        raise ValueError("threshold must be a number, found NaN; calibrate the detector first")
    flagged = values > threshold
    counts = _Confusion.of(flagged, defect)
    curve = precision_recall_points(values, defect)
    best, best_threshold = (None, None) if curve is None else _best_image_f1(values, curve)
    return ImageMetrics(
        auroc=auroc(values, defect),
        average_precision=None if curve is None else float(-np.diff(curve.recall) @ curve.precision[:-1]),
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        false_reject_rate=_ratio(counts.flagged - counts.hits, values.size - counts.defects),
        threshold=float(threshold),
        f1_max=best,
        f1_max_threshold=best_threshold,
    )


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Chance that a defect scores above a good picture, ties counting half.

    Args:
        scores: ``float [N]``, finite.
        labels: ``bool [N]``, true for a defect.

    Returns:
        A number in [0, 1], or ``None`` unless both classes are present.

    Raises:
        ValueError: If the arrays differ in length, a score is not finite or a label is not 0 or 1.

    Example:
        >>> auroc([1, 2, 2, 3], [0, 0, 1, 1])
        0.875
    """
    values, defect = _checked_scores(scores, labels)
    if not _both_classes(defect):
        return None
    good, strange = np.sort(values[~defect]), values[defect]
    # Half wins, so that ties are whole numbers too: good pictures below, and those not above.
    wins = (
        np.searchsorted(good, strange, side="left").sum() + np.searchsorted(good, strange, side="right").sum()
    )
    return float(wins / (2 * good.size * strange.size))


def roc_curve_points(scores: ArrayLike, labels: ArrayLike) -> RocCurve | None:
    """Points of the ROC curve for a plot; arguments, errors and ``None`` as :func:`auroc`."""
    values, defect = _checked_scores(scores, labels)
    if not _both_classes(defect):
        return None
    return RocCurve(*_scikit_learn().roc_curve(defect, values))


def precision_recall_points(scores: ArrayLike, labels: ArrayLike) -> PrecisionRecallCurve | None:
    """Points of the precision-recall curve for a plot; arguments, errors and ``None`` as :func:`auroc`."""
    values, defect = _checked_scores(scores, labels)
    if not _both_classes(defect):
        return None
    return PrecisionRecallCurve(*_scikit_learn().precision_recall_curve(defect, values))


class PixelMetrics:
    """Counts pixels picture by picture; :meth:`compute` may be called at any time.

    The result does not depend on the order of the pictures, to the last bit: all sums are sums of integers.
    Memory is bounded, however many pictures come: below 150 MB at the worst, 70 MB for 512x512 maps of one model.
    """

    def __init__(self) -> None:
        self._histogram = _ValueHistogram()
        self._drawn = _Confusion(0, 0, 0)

    def update(self, anomaly_map: ArrayLike, mask: ArrayLike, predicted: ArrayLike) -> None:
        """Add one picture. Pictures may differ in size; a rejected picture leaves the counts as they were.

        Args:
            anomaly_map: ``float32 [H, W]``, any finite value, larger is stranger.
            mask: ``bool [H, W]``, the truth; all false for a good picture.
            predicted: ``bool [H, W]``, the mask the detector drew at its calibrated thresholds.

        Raises:
            ValueError: If the three shapes differ or are not two-dimensional, or the map holds NaN or infinity.
        """
        values = np.asarray(anomaly_map, dtype=np.float32)
        truth, drawn = np.asarray(mask, dtype=bool), np.asarray(predicted, dtype=bool)
        if values.ndim != 2 or values.shape != truth.shape or values.shape != drawn.shape:
            raise ValueError(
                "anomaly_map, mask and predicted must share one shape [H, W], found "
                f"{values.shape}, {truth.shape} and {drawn.shape}; resize the map and the masks to the picture"
            )
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise ValueError(
                f"anomaly_map must be finite, found NaN or infinity in {bad} of {values.size} pixels; mend the model that made it"
            )
        keys = _order_keys(values)
        self._histogram = self._histogram.with_room_for(keys.ravel())
        self._histogram.add(keys[~truth], keys[truth], _region_weights(truth))
        self._drawn += _Confusion.of(drawn, truth)

    def compute(self) -> PixelResult:
        """Return the metrics of all pictures so far."""
        good, defect, region = self._histogram.cumulative()
        ranked = bool(good[-1] and defect[-1])
        return PixelResult(
            auroc=_area(_unit(good), _unit(defect), limit=1.0) if ranked else None,
            aupro=_area(_unit(good), _unit(region), limit=0.3) if ranked else None,
            aupro_05=_area(_unit(good), _unit(region), limit=0.05) if ranked else None,
            precision=self._drawn.precision,
            recall=self._drawn.recall,
            f1=self._drawn.f1,
            f1_max=float((2 * defect / (defect + good + defect[-1])).max()) if ranked else None,
        )


@dataclass(frozen=True, slots=True)
class _Confusion:
    """Counts of yes/no decisions against the truth."""

    hits: int
    flagged: int
    defects: int

    @classmethod
    def of(cls, flagged: NDArray[np.bool_], truth: NDArray[np.bool_]) -> _Confusion:
        return cls(*(int(np.count_nonzero(found)) for found in (flagged & truth, flagged, truth)))

    def __add__(self, other: _Confusion) -> _Confusion:
        return _Confusion(self.hits + other.hits, self.flagged + other.flagged, self.defects + other.defects)

    @property
    def precision(self) -> float | None:
        return _ratio(self.hits, self.flagged)

    @property
    def recall(self) -> float | None:
        return _ratio(self.hits, self.defects)

    @property
    def f1(self) -> float | None:
        return _ratio(2 * self.hits, self.flagged + self.defects) if self.defects else None


class _ValueHistogram:
    """Counts of 32-bit keys in pages of bins, allocated where values fall.

    A bin holds ``2**shift`` neighbouring keys. It starts exact (``shift = 0``); when the values touch more than
    ``_MAX_PAGES`` pages, bins double until they fit. The final shift is the smallest at which all values fit, whatever
    their order. At worst (values all over the float32 line) a key keeps its top 20 bits, a relative precision of 2**-11;
    a map spread over 16 octaves keeps 2**-16, and values crowded around a large offset stay exact.
    """

    _PAGE_BITS = 10
    _PAGE_MASK = (1 << _PAGE_BITS) - 1
    _MAX_PAGES = 1024

    def __init__(self, shift: int = 0) -> None:
        self._shift = shift
        self._slots = np.zeros(
            1 << (32 - shift - self._PAGE_BITS), dtype=np.uint16
        )  # page -> slot, 0 is absent
        self._pages = np.empty(0, dtype=np.uint32)  # the pages in slots 1, 2, ...
        # rows: good pixels, defect pixels, defect pixels weighted by 1 / size of their region
        self._counts = np.zeros((3, (self._MAX_PAGES + 1) << self._PAGE_BITS), dtype=np.int64)

    def with_room_for(self, keys: NDArray[np.uint32]) -> _ValueHistogram:
        """Open the pages that ``keys [N]`` fall in; returns itself, or a coarser copy if they are too many."""
        pages = keys >> (self._shift + self._PAGE_BITS)
        fresh = np.unique(pages[self._slots[pages] == 0])
        wanted, extra = np.concatenate([self._pages, fresh]), 0
        while wanted.size > self._MAX_PAGES:
            wanted, extra = np.unique(wanted >> 1), extra + 1
        if not extra:
            self._open(fresh)
            return self
        coarser = _ValueHistogram(self._shift + extra)
        coarser._open(wanted)
        own_keys, counts = self._occupied()
        bins = coarser._bins(own_keys)
        for row, count in zip(coarser._counts, counts, strict=True):
            np.add.at(row, bins, count)
        return coarser

    def add(self, good: NDArray[np.uint32], defect: NDArray[np.uint32], weights: NDArray[np.int64]) -> None:
        """Count the keys of good pixels ``[G]`` and of defect pixels ``[D]`` with their region weights ``[D]``."""
        defect_bins = self._bins(defect)
        np.add.at(self._counts[0], self._bins(good), 1)
        np.add.at(self._counts[1], defect_bins, 1)
        np.add.at(self._counts[2], defect_bins, weights)

    def cumulative(self) -> NDArray[np.int64]:
        """Good pixels, defect pixels and region weights at or above each limit, highest limit first; ``[3, K]`` from 0."""
        _, counts = self._occupied()
        return np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))

    def _open(self, pages: NDArray[np.uint32]) -> None:
        first = self._pages.size + 1
        self._slots[pages] = np.arange(first, first + pages.size)
        self._pages = np.concatenate([self._pages, pages])

    def _bins(self, keys: NDArray[np.uint32]) -> NDArray[np.int64]:
        coarse = keys >> self._shift
        bins: NDArray[np.int64] = self._slots[coarse >> self._PAGE_BITS].astype(np.int64) << self._PAGE_BITS
        return bins | (coarse & self._PAGE_MASK)

    def _occupied(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Lowest key ``[K]`` and counts ``[3, K]`` of the bins that hold pixels, highest key first."""
        bins = np.flatnonzero(self._counts[0] | self._counts[1])
        coarse = (self._pages[(bins >> self._PAGE_BITS) - 1] << self._PAGE_BITS) | (
            bins & self._PAGE_MASK
        ).astype(np.uint32)
        order = np.argsort(coarse)[::-1]
        return coarse[order] << self._shift, self._counts[:, bins[order]]


def _order_keys(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Map finite floats to integers of the same order: negative floats have all bits flipped, others the sign bit."""
    bits = (values + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


_REGION_UNIT = 1 << 40  # the weight of one region; integers, so that sums do not depend on the order


def _region_weights(truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """One over the size of its 8-connected region, for each defect pixel in scan order; ``[D]`` in ``_REGION_UNIT``."""
    if not truth.any():
        return np.empty(0, dtype=np.int64)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    return np.asarray(_REGION_UNIT // sizes[labels[truth]], dtype=np.int64)


def _unit(cumulative: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(cumulative / cumulative[-1], dtype=np.float64)


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Mean height of the rising curve ``y(x)`` for x from 0 to ``limit``, interpolated linearly at the limit."""
    inside = int(np.searchsorted(x, limit, side="right"))
    if inside < x.size:
        share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        x = np.append(x[:inside], limit)
        y = np.append(y[:inside], y[inside - 1] + share * (y[inside] - y[inside - 1]))
    return float(np.dot(np.diff(x), y[1:] + y[:-1]) / 2) / limit


def _scikit_learn() -> Any:
    with needed("evaluate", "measuring needs scikit-learn", "sklearn"):
        import sklearn.metrics
    return sklearn.metrics


def _checked_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, raw = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != raw.shape:
        raise ValueError(
            f"scores and labels must be one-dimensional and equally long, found {values.shape} and {raw.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"scores must be finite, found {values[~np.isfinite(values)][0]} among {values.size}; mend the model"
        )
    defect = raw.astype(bool)
    if not np.array_equal(defect, raw):
        raise ValueError(
            "labels must be true (defect) or false (good), found other values; compare them with the good class"
        )
    return values, defect


def _both_classes(defect: NDArray[np.bool_]) -> bool:
    return bool(defect.any() and not defect.all())


def _best_image_f1(values: NDArray[np.float64], curve: PrecisionRecallCurve) -> tuple[float, float]:
    """Best F1 over all limits, and the largest score that limit still calls OK (just below the lowest if none)."""
    precision, recall = curve.precision[:-1], curve.recall[:-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    best = int(f1.argmax())
    passed = values[values < curve.thresholds[best]]
    return float(f1[best]), float(passed.max() if passed.size else np.nextafter(values.min(), -np.inf))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
