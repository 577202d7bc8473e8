"""What a detector is worth on labelled test pictures: the numbers of the evaluation JSON, at the calibrated threshold.

Only values named ``*_max`` look at the test labels to choose a threshold.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter import provenance
from anomaly_spotter.errors import DatasetError, PictureError
from anomaly_spotter.extras import require
from anomaly_spotter.inputs.audit import trivial_statistics
from anomaly_spotter.inputs.decode import read_mask
from anomaly_spotter.metrics import PixelMetrics, auroc, image_metrics
from anomaly_spotter.scoring.inspection import Verdict, finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from anomaly_spotter.inputs.layouts import Dataset, Sample
    from anomaly_spotter.scoring.inspection import Inspection


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

    @property
    def is_miss(self) -> bool:
        """A defect that was called OK."""
        return self.is_defect and self.verdict is Verdict.OK

    @property
    def is_false_reject(self) -> bool:
        """A good part that was called DEFECT."""
        return not self.is_defect and self.verdict is Verdict.DEFECT


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics and outcomes on a test split.

    Attributes:
        summary: ``bundle`` (the detector's origin), ``evaluated`` (this measurement's time, versions, commit and
            machine), ``data``, ``image``, ``pixel`` (``None`` without masks), ``per_kind``, ``timing`` (waiting for
            verdicts: decoding that overlaps with these metrics is not in it), ``unreadable``.
        pictures: One row per picture that could be read.
    """

    summary: dict[str, Any]
    pictures: tuple[PictureResult, ...]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """One line for every picture or mask that could not be used."""
        return tuple(self.summary["unreadable"])

    def to_dict(self) -> dict[str, Any]:
        """The evaluation JSON: the summary, and one row per picture."""
        rows = [
            {
                "path": str(row.path),
                "kind": row.kind,
                "verdict": row.verdict.value,
                "score": finite(row.score),
                "p_value": row.p_value,
            }
            for row in self.pictures
        ]
        return {**self.summary, "pictures": rows}


def evaluate(
    dataset: Dataset,
    inspected: Iterable[tuple[Sample, Inspection | PictureError]],
    threshold: float,
    bundle: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure verdicts and maps against labels and masks; streamed, bounded memory.

    Args:
        dataset: Labelled data.
        inspected: ``(sample, inspection or error)`` for each test sample.
        threshold: The calibrated decision limit.
        bundle: Provenance of the detector, copied into the summary.
        progress: Called with (done, total).

    Raises:
        DatasetError: There are no test pictures, or none can be read.
        MissingExtraError: scikit-learn is not installed.
    """
    require("evaluate", "measuring needs scikit-learn", "sklearn")
    if not dataset.test:
        raise DatasetError(
            f"{dataset.root} has no test pictures in layout '{dataset.layout}'; "
            "evaluation needs labelled good and defective ones"
        )
    rows: list[PictureResult] = []
    unreadable: list[str] = []
    statistics: dict[str, list[float]] = defaultdict(list)
    pixel_metrics, has_masks = PixelMetrics(), False
    seconds, started = 0.0, time.perf_counter()
    for done, (sample, found) in enumerate(inspected, start=1):
        seconds += time.perf_counter() - started
        if isinstance(found, PictureError):
            unreadable.append(str(found))
        else:
            rows.append(_row(sample, found))
            for name, value in trivial_statistics(found.picture, sample.path.stat().st_size).items():
                statistics[name].append(value)
            try:
                has_masks |= _update_pixels(pixel_metrics, sample, found)
            except PictureError as error:
                unreadable.append(str(error))
        if progress is not None:
            progress(done, len(dataset.test))
        started = time.perf_counter()
    if not rows:
        raise DatasetError(f"none of the {len(unreadable)} test pictures can be read: {unreadable[0]}")
    labels = np.array([row.is_defect for row in rows])
    scores = _ranked([row.score for row in rows])
    baselines = {
        f"{name}_auroc": _either_direction(auroc(values, labels)) for name, values in statistics.items()
    }
    summary = {
        "bundle": dict(bundle),
        "evaluated": provenance.stamp(),
        "data": {
            "category": dataset.category,
            "sha256": dataset.digest(),
            "counts": dict(sorted(Counter(f"test/{row.kind}" for row in rows).items())),
        },
        "image": {**asdict(image_metrics(scores, labels, threshold)), "baselines": baselines},
        "pixel": asdict(pixel_metrics.compute()) if has_masks else None,
        "per_kind": _per_kind(rows),
        "timing": {
            "pictures": len(rows),
            "seconds": round(seconds, 3),
            "ms_per_picture": round(1000 * seconds / len(rows), 2),
        },
        "unreadable": unreadable,
    }
    return Evaluation(summary, tuple(rows))


def _row(sample: Sample, found: Inspection) -> PictureResult:
    return PictureResult(
        sample.path, sample.kind, sample.is_defect, found.verdict, found.score, found.p_value
    )


def _update_pixels(metrics: PixelMetrics, sample: Sample, found: Inspection) -> bool:
    """Add a picture whose truth is known to the pixel: good ones, and defects with masks."""
    if sample.is_defect and not sample.masks:
        return False
    shape = (found.picture.shape[0], found.picture.shape[1])
    truth = read_mask(sample.masks, shape) if sample.is_defect else np.zeros(shape, dtype=bool)
    metrics.update(found.anomaly_map, truth, found.mask)
    return sample.is_defect


def _per_kind(rows: Iterable[PictureResult]) -> dict[str, dict[str, float | int | None]]:
    by_kind: dict[str, list[PictureResult]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind if row.is_defect else "good"].append(row)
    good = [row.score for row in by_kind.pop("good", [])]
    table: dict[str, dict[str, float | int | None]] = {}
    for kind, found in sorted(by_kind.items()):
        scores = [row.score for row in found]
        table[kind] = {
            "count": len(found),
            "auroc": auroc(_ranked(good + scores), [False] * len(good) + [True] * len(scores)),
            "recall": sum(row.verdict is Verdict.DEFECT for row in found) / len(found),
        }
    return table


def _either_direction(value: float | None) -> float | None:
    return None if value is None else max(value, 1 - value)


def _ranked(scores: list[float]) -> NDArray[np.float64]:
    """Parts that could not be judged (infinite score) rank above all others, at a finite value."""
    values = np.array(scores, dtype=np.float64)
    highest = float(values[np.isfinite(values)].max(initial=1.0))
    return np.where(np.isinf(values), highest + 1, values)
