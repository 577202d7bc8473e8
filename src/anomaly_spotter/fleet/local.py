"""Train, evaluate and report categories one after the other on this machine; finished ones are kept on resume."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from anomaly_spotter.bundle import SUFFIX
from anomaly_spotter.errors import DatasetError, Interrupted, SpotterError
from anomaly_spotter.files import safe_name, write_json
from anomaly_spotter.fleet.observing import unobserved
from anomaly_spotter.inputs.layouts import find_categories, load_dataset
from anomaly_spotter.processes import leads
from anomaly_spotter.products import ProductSpotter
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.fitting import Progress
    from anomaly_spotter.fleet.observing import Observe
    from anomaly_spotter.inputs.layouts import Dataset

HISTORY = "history.jsonl"  # in a run folder: one line per epoch
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
    return Trained(spotter, _written(spotter, out, name, config))


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
    return TrainedProducts(spotter, _written(spotter, out, name, config))


@dataclass(frozen=True, slots=True)
class Category:
    """All that is needed to train, evaluate and report a category, here or on another machine.

    Attributes:
        name: Its name below the data set root.
        data: Data set root.
        config: Settings.
        out: Folder for ``models``, ``metrics``, ``reports`` and ``runs``.
        layout: Layout by name instead of by detection.
        resume: Keep it if it was finished with these settings and pictures, else go on where it broke off.
        skip_bad: Leave unusable training pictures out.
    """

    name: str
    data: Path
    config: SpotterConfig
    out: Path
    layout: str | None = None
    resume: bool = False
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a category.

    Attributes:
        category: Its name.
        words: The same for the user.
        result: Evaluation JSON; ``None`` where there are no test pictures, or it failed.
        report: HTML report.
        failed: Why it could not be finished.
        bundle: Its model file, where it was trained now and not kept from before.
    """

    category: str
    words: str
    result: dict[str, Any] | None = None
    report: Path | None = None
    failed: str | None = None
    bundle: Path | None = None


class Runner(Protocol):
    """Where categories are processed, and in which order they come back."""

    def __call__(
        self,
        categories: Sequence[Category],
        announce: Callable[[str], None],
        *,
        observe: Observe = unobserved,
    ) -> Iterable[Outcome]:
        """Process all of them, telling in one line each what happens, watched by ``observe``."""
        ...


def process_category(
    category: Category,
    *,
    show_progress: bool = False,
    announce: Callable[[str], None] = lambda _: None,
    observe: Observe = unobserved,
) -> Outcome:
    """Train, evaluate and report one category, watched by ``observe``.

    Raises:
        Interrupted: Ctrl-C; ``resume`` goes on.
    """
    from anomaly_spotter.reporting import FILE_NAME, write_evaluation_report  # plots are slow to import

    name, config, out = category.name, category.config, category.out
    try:
        dataset = load_dataset(category.data, name, category.layout)
        result_file = out / "metrics" / f"{_name(dataset.category, config)}.json"
        report_dir = out / "reports" / _name(dataset.category, config)
        finished = _finished(result_file, out, dataset, config) if category.resume else None
        if finished is not None:
            return Outcome(name, "finished before, kept", finished, report_dir / FILE_NAME)
        folder = run_folder(dataset, config, out)
        with observe(folder.name, config, folder / HISTORY, category.resume) as seen:
            announce("training")
            trained = train_category(
                dataset,
                config,
                out,
                resume=category.resume,
                skip_bad=category.skip_bad,
                show_progress=show_progress,
                announce=announce,
            )
            seen.trained(trained.spotter, trained.bundle)
            if trained.spotter.provenance["interrupted"]:
                raise Interrupted
            if not dataset.test:
                return Outcome(name, "no test pictures, trained only", bundle=trained.bundle)
            announce("evaluating")
            evaluation = trained.spotter.evaluate(dataset)
            write_evaluation_report(trained.spotter, evaluation, report_dir)
            finished = evaluation.to_dict()
            write_json(result_file, finished)  # last: its presence means the category is finished
            seen.evaluated(finished, report_dir)
    except SpotterError as error:
        return Outcome(name, f"failed: {error}", failed=f"{name}: {error}")
    return Outcome(name, "finished", finished, report_dir / FILE_NAME, bundle=trained.bundle)


def in_turn(
    categories: Sequence[Category],
    announce: Callable[[str], None],
    *,
    show_progress: bool = False,
    observe: Observe = unobserved,
) -> Iterator[Outcome]:
    """Process categories one after the other on this machine, each watched by ``observe``."""
    for number, category in enumerate(categories, start=1):
        where = f"[{number}/{len(categories)}] {category.name}: "
        outcome = process_category(
            category,
            show_progress=show_progress,
            announce=partial(_tell, announce, where),
            observe=observe,
        )
        announce(where + outcome.words)
        yield outcome


def process_all(
    data: Path,
    categories: Sequence[str] | None,
    config: SpotterConfig,
    out: Path,
    *,
    layout: str | None = None,
    resume: bool = False,
    skip_bad: bool = False,
    run: Runner = in_turn,
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
        run: Where they are processed: :func:`in_turn` here, or on a Ray cluster, see
            :mod:`anomaly_spotter.fleet.on_ray`.
        announce: Told in one line what happens.

    Raises:
        DatasetError: No category found.
        Interrupted: Ctrl-C; what was finished is kept, and ``resume`` goes on.
    """
    names = list(categories) if categories is not None else find_categories(data, layout)
    if not names:
        raise DatasetError(f"{data} holds no category in a known layout; give --layout or another folder")
    works = [Category(name, data, config, out, layout, resume, skip_bad) for name in names]
    outcomes = {outcome.category: outcome for outcome in run(works, announce)}
    summary = Summary(table=out / "metrics" / "summary.json")
    for name in names:
        outcome = outcomes[name]
        if outcome.failed is not None:
            summary.failed[name] = outcome.failed
        elif outcome.result is None or outcome.report is None:
            summary.untested.append(name)
        else:
            summary.results[name], summary.reports[name] = outcome.result, outcome.report
    write_json(
        summary.table, {"categories": summary.results, "failed": summary.failed, "untested": summary.untested}
    )
    return summary


def told_afterwards(category: Category, outcome: Outcome, observe: Observe) -> None:
    """Tell ``observe`` of a category that was trained elsewhere, once it is finished."""
    if outcome.bundle is None:
        return
    folder = category.out / "runs" / outcome.bundle.name.removesuffix(SUFFIX)
    with observe(folder.name, category.config, folder / HISTORY, category.resume) as seen:
        seen.trained(Spotter.load(outcome.bundle), outcome.bundle)
        if outcome.result is not None and outcome.report is not None:
            seen.evaluated(outcome.result, outcome.report.parent)


def run_folder(dataset: Dataset, config: SpotterConfig, out: Path) -> Path:
    """Where a category's checkpoints and history are; its name is that of the category's other files."""
    return out / "runs" / _name(dataset.category, config)


def _tell(announce: Callable[[str], None], where: str, line: str) -> None:
    announce(where + line)


def _written(spotter: Spotter | ProductSpotter, out: Path, name: str, config: SpotterConfig) -> Path:
    """The bundle's place; of several processes that trained together the first one writes."""
    bundle = out / "models" / f"{name}{SUFFIX}"
    if leads(config.training):
        spotter.save(bundle)
        write_json(out / "metrics" / f"{name}.train.json", spotter.describe())
    return bundle


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
