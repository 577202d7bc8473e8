"""Train, evaluate and report categories one after the other on this machine; finished ones are kept on resume."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anomaly_spotter.bundle import SUFFIX
from anomaly_spotter.errors import DatasetError, Interrupted, SpotterError
from anomaly_spotter.files import safe_name, write_json
from anomaly_spotter.inputs.layouts import find_categories, load_dataset
from anomaly_spotter.products import ProductSpotter
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.fitting import Progress
    from anomaly_spotter.inputs.layouts import Dataset

_LONGEST = 200  # bytes of products' names in a file's name, of which 255 are allowed


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted category.

    Attributes:
        spotter: The detector.
        bundle: Its file.
    """

    spotter: Spotter
    bundle: Path


@dataclass(frozen=True, slots=True)
class TrainedProducts:
    """Fitted products.

    Attributes:
        spotter: Their detectors in one.
        bundle: Its file.
    """

    spotter: ProductSpotter
    bundle: Path


@dataclass(frozen=True, slots=True)
class Summary:
    """What ``process_all`` did.

    Attributes:
        table: The summary file.
        results: Evaluation JSON by category, see :class:`anomaly_spotter.evaluation.Evaluation`.
        reports: HTML report by category.
        failed: Reason by category that could not be finished.
        untested: Categories that were trained but have no test pictures.
    """

    table: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    untested: list[str] = field(default_factory=list)


def train_category(
    dataset: Dataset,
    config: SpotterConfig,
    out: Path,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    show_progress: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Trained:
    """Fit one category and write ``out/models/C-M.spot``, ``out/metrics/C-M.train.json`` and the run folder.

    Raises:
        SpotterError: As :meth:`Spotter.fit`, or a file cannot be written.
    """
    name = _name(dataset.category, config)
    spotter = Spotter.fit(
        dataset,
        config=config,
        run_dir=out / "runs" / name,
        resume=resume,
        skip_bad=skip_bad,
        show_progress=show_progress,
        progress=progress,
        announce=announce,
    )
    bundle = spotter.save(out / "models" / f"{name}{SUFFIX}")
    write_json(out / "metrics" / f"{name}.train.json", spotter.describe())
    return Trained(spotter, bundle)


def train_products(
    datasets: Sequence[Dataset],
    config: SpotterConfig,
    out: Path,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    show_progress: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> TrainedProducts:
    """Fit several categories and write ``out/models/A+B-M.spot``, ``out/metrics/A+B-M.train.json`` and run folders.

    Raises:
        SpotterError: As :meth:`ProductSpotter.fit`, or a file cannot be written.
        Interrupted: Ctrl-C; ``resume`` goes on.
    """
    names = "+".join(safe_name(dataset.category) for dataset in datasets)
    if len(names.encode()) > _LONGEST:
        names = f"{len(datasets)} products"
    name = f"{names}-{config.model.name}"
    spotter = ProductSpotter.fit(
        datasets,
        config=config,
        run_dir=out / "runs",
        resume=resume,
        skip_bad=skip_bad,
        show_progress=show_progress,
        progress=progress,
        announce=announce,
    )
    bundle = spotter.save(out / "models" / f"{name}{SUFFIX}")
    write_json(out / "metrics" / f"{name}.train.json", spotter.describe())
    return TrainedProducts(spotter, bundle)


def process_all(
    data: Path,
    categories: Sequence[str] | None,
    config: SpotterConfig,
    out: Path,
    *,
    layout: str | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    show_progress: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Train, evaluate and report every category; one that fails does not stop the others.

    Args:
        data: Data set root.
        categories: Names, or ``None`` for all that are found.
        config: Settings for every category.
        out: Folder for ``models``, ``metrics``, ``reports`` and ``runs``.
        layout: Layout by name instead of by detection.
        resume: Skip categories that were finished with these settings and pictures, and continue a broken-off one.
        skip_bad: Leave unusable training pictures out.
        show_progress: Draw progress bars.
        announce: Told in one line what comes next.

    Raises:
        DatasetError: No category found.
        Interrupted: Ctrl-C; what was finished is kept, and ``resume`` goes on.
    """
    from anomaly_spotter.reporting import FILE_NAME, write_evaluation_report  # plots are slow to import

    names = list(categories) if categories is not None else find_categories(data, layout)
    if not names:
        raise DatasetError(f"{data} holds no category in a known layout; give --layout or another folder")
    summary = Summary(table=out / "metrics" / "summary.json")
    for number, category in enumerate(names, start=1):
        where = f"[{number}/{len(names)}] {category}"
        try:
            dataset = load_dataset(data, category, layout)
            result_file = out / "metrics" / f"{_name(dataset.category, config)}.json"
            report_dir = out / "reports" / _name(dataset.category, config)
            finished = _finished(result_file, out, dataset, config) if resume else None
            if finished is None:
                announce(f"{where}: training")
                trained = train_category(
                    dataset,
                    config,
                    out,
                    resume=resume,
                    skip_bad=skip_bad,
                    show_progress=show_progress,
                    announce=announce,
                )
                if trained.spotter.provenance["interrupted"]:
                    raise Interrupted
                if not dataset.test:
                    announce(f"{where}: no test pictures, trained only")
                    summary.untested.append(category)
                    continue
                announce(f"{where}: evaluating")
                evaluation = trained.spotter.evaluate(dataset)
                write_evaluation_report(trained.spotter, evaluation, report_dir)
                finished = evaluation.to_dict()
                write_json(result_file, finished)  # last: its presence means the category is finished
            else:
                announce(f"{where}: finished before, kept")
            summary.results[category] = finished
            summary.reports[category] = report_dir / FILE_NAME
        except SpotterError as error:
            announce(f"{where}: failed: {error}")
            summary.failed[category] = f"{category}: {error}"
    write_json(
        summary.table, {"categories": summary.results, "failed": summary.failed, "untested": summary.untested}
    )
    return summary


def _name(category: str, config: SpotterConfig) -> str:
    """File name of a category's results."""
    return f"{safe_name(category)}-{config.model.name}"


def _finished(result_file: Path, out: Path, dataset: Dataset, config: SpotterConfig) -> dict[str, Any] | None:
    """The stored result, if it came from the same pictures and settings and its bundle is still there."""
    if not (out / "models" / f"{_name(dataset.category, config)}{SUFFIX}").is_file():
        return None
    try:
        stored = json.loads(result_file.read_text(encoding="utf-8"))
        same_settings = stored["bundle"]["asked"] == config.to_dict()
        same_pictures = stored["data"]["sha256"] == dataset.digest()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(stored) if same_settings and same_pictures else None
