"""One cell of a benchmark: one model fitted and measured on one category with one seed, in a process of its own.

``python -m anomaly_spotter.fleet.benchmark_cell`` reads a :class:`Job` as JSON from its standard input and writes its
result file. A process per cell keeps time and peak memory clean, and a crash or a full memory to itself.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.errors import DatasetError, PictureError, SpotterError
from anomaly_spotter.files import write_json
from anomaly_spotter.fleet.perturbations import PERTURBATIONS
from anomaly_spotter.inputs.layouts import load_dataset
from anomaly_spotter.inputs.store import read_ahead
from anomaly_spotter.metrics import image_metrics
from anomaly_spotter.scoring import conformal
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from anomaly_spotter.evaluation import Evaluation
    from anomaly_spotter.inputs.layouts import Dataset, Sample

RATES = (0.05, 0.01)
"""False reject rates that every cell is also measured at, from the same calibration scores."""
UNCHANGED = "as it is"
"""The row of the robustness table that the others are compared with."""
_TIMED = 20  # pictures, one at a time
_MEGABYTE = 1e6
_LARGEST = (
    sys.float_info.max
)  # a part that cannot be judged ranks above all others; metrics want finite scores


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured: a registry name or ``preset:NAME``, a category, and the seed of every random draw."""

    model: str
    category: str
    seed: int

    def __str__(self) -> str:
        return f"{self.category}, {self.model}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Job:
    """A cell and how to measure it.

    Attributes:
        cell: What.
        data: Data set root.
        layout: Its layout, or ``None`` to find it.
        config: The whole configuration tree.
        robustness: Whether to measure perturbed pictures too.
        file: Where the result goes.
    """

    cell: Cell
    data: str
    layout: str | None
    config: dict[str, Any]
    robustness: bool
    file: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of :meth:`to_json`."""
        tree = json.loads(text)
        return cls(**{**tree, "cell": Cell(**tree["cell"])})

    @property
    def identity(self) -> dict[str, Any]:
        """The settings of a result; one with others is not this cell's."""
        perturbations = list(PERTURBATIONS) if self.robustness else []
        return {"cell": asdict(self.cell), "config": self.config, "perturbations": perturbations}


def main() -> None:
    """Measure the job on standard input; an error a user can mend is the last line on stderr, with exit code 2."""
    try:
        job = Job.from_json(sys.stdin.read())
        write_json(Path(job.file), measure(job))
    except SpotterError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def measure(job: Job) -> dict[str, Any]:
    """Fit, save, load, evaluate and time one cell.

    Returns:
        The result: :attr:`Job.identity`, the evaluation JSON without its rows, and ``promise``, ``at_rate``,
        ``robustness`` (``None`` if not asked for) and ``cost``.

    Raises:
        SpotterError: As :meth:`Spotter.fit` and :meth:`Spotter.evaluate`.
    """
    dataset = load_dataset(Path(job.data), job.cell.category, job.layout)
    if not dataset.test:  # before minutes of training
        raise DatasetError(f"{dataset.root} has no test pictures; a benchmark needs good and defective ones")
    spotter, cost = _fit_and_ship(dataset, SpotterConfig.parse(job.config))
    cost["ms_single"] = _single_latency(spotter, dataset.test)
    evaluation = spotter.evaluate(dataset)
    cost["ms_per_picture"] = evaluation.summary["timing"]["ms_per_picture"]
    robustness = _robustness(spotter, evaluation, dataset) if job.robustness else None
    cost["peak_mb"] = peak_memory_mb()
    return {
        **job.identity,
        **evaluation.summary,
        "bundle": {
            key: value
            for key, value in evaluation.summary["bundle"].items()
            if key not in ("history", "config")
        },
        "fitted_config": evaluation.summary["bundle"]["config"],
        "data": {**evaluation.summary["data"], "train": len(dataset.train)},
        "guarantee": spotter.guarantee,
        "promise": {"rate": spotter.calibration.promise.rate, "pictures": spotter.calibration.promise.count},
        "at_rate": _at_rates(spotter, evaluation),
        "robustness": robustness,
        "cost": cost,
        "processors": {"count": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")},
    }


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in units of 10^6 bytes; ``None`` where it cannot be known."""
    try:  # Linux: ru_maxrss starts at the parent's peak there, this does not
        status = Path("/proc/self/status").read_text(encoding="ascii")
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return round(int(kilobytes) * 1024 / _MEGABYTE, 1)
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MEGABYTE, 1)


def _fit_and_ship(dataset: Dataset, config: SpotterConfig) -> tuple[Spotter, dict[str, float | None]]:
    """Fit, write and read the bundle: what is measured is what would be shipped. Also what that cost."""
    with tempfile.TemporaryDirectory(prefix="anomaly-spotter-") as scratch:
        started = time.perf_counter()
        fitted = Spotter.fit(dataset, config=config, run_dir=Path(scratch) / "run")
        seconds, peak = round(time.perf_counter() - started, 2), peak_memory_mb()
        bundle = fitted.save(Path(scratch) / "cell.spot")
        megabytes = round(bundle.stat().st_size / _MEGABYTE, 2)
        return Spotter.load(bundle), {"fit_seconds": seconds, "fit_peak_mb": peak, "bundle_mb": megabytes}


def _single_latency(spotter: Spotter, samples: Sequence[Sample]) -> float | None:
    """Median milliseconds from one decoded picture to its inspection; the first is left out as warm-up."""
    seconds: list[float] = []
    for _, pixels in islice(_decoded(spotter, samples), _TIMED + 1):
        started = time.perf_counter()
        next(spotter.inspect_stream([pixels], explain=False))
        seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds[1:]), 2) if len(seconds) > 1 else None


def _decoded(spotter: Spotter, samples: Sequence[Sample]) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
    """The readable pictures; the evaluation names the others."""
    found = read_ahead((sample.path for sample in samples), spotter.preprocessor.white_level)
    for sample, (_, picture) in zip(samples, found, strict=True):
        if not isinstance(picture, PictureError):
            yield sample, picture.pixels


def _at_rates(spotter: Spotter, evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """Honest numbers at other false reject rates: the limits come from the calibration scores alone."""
    calibration = spotter.calibration
    scores, labels = _scores(evaluation), [row.is_defect for row in evaluation.pictures]
    found: dict[str, dict[str, float | None]] = {}
    for rate in RATES if calibration.scores else ():
        promise = conformal.promise(
            len(calibration.scores) + calibration.refused,
            rate,
            spotter.config.calibration.confidence,
            calibration.refused,
        )
        limit = conformal.limit(calibration.scores, promise)
        at_limit = image_metrics(scores, labels, limit)
        found[str(rate)] = {
            "promised_rate": promise.rate,
            "precision": at_limit.precision,
            "recall": at_limit.recall,
            "f1": at_limit.f1,
            "false_reject_rate": at_limit.false_reject_rate,
        }
    return found


def _scores(evaluation: Evaluation) -> list[float]:
    return [min(row.score, _LARGEST) for row in evaluation.pictures]


def _robustness(
    spotter: Spotter, evaluation: Evaluation, dataset: Dataset
) -> dict[str, dict[str, float | None]]:
    """AUROC, recall and false rejects at the calibrated limit, for the pictures as they are and perturbed."""
    labels: list[bool] = []

    def variants() -> Iterator[NDArray[np.uint8]]:
        for index, (sample, pixels) in enumerate(_decoded(spotter, dataset.test)):
            labels.append(sample.is_defect)
            yield from (perturb(pixels, index) for perturb in PERTURBATIONS.values())

    scores: list[float] = []
    for _, found in spotter.inspect_stream(variants(), explain=False):
        if isinstance(found, PictureError):
            raise found
        scores.append(min(found.score, _LARGEST))
    by_variant = np.reshape(scores, (len(labels), len(PERTURBATIONS))).T.tolist()
    threshold = spotter.calibration.threshold
    unchanged = image_metrics(_scores(evaluation), [row.is_defect for row in evaluation.pictures], threshold)
    perturbed = (image_metrics(column, labels, threshold) for column in by_variant)
    table = zip((UNCHANGED, *PERTURBATIONS), chain([unchanged], perturbed), strict=True)
    keys = ("auroc", "recall", "false_reject_rate")
    return {name: {key: getattr(metrics, key) for key in keys} for name, metrics in table}


if __name__ == "__main__":
    main()
