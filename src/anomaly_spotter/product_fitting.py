"""Good pictures of several products -> a detector for each, and the recogniser that tells them apart."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomaly_spotter.errors import DatasetError, Interrupted, SpotterError
from anomaly_spotter.files import safe_name
from anomaly_spotter.inputs.store import read_good
from anomaly_spotter.spotter import Spotter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.fitting import Progress
    from anomaly_spotter.inputs.layouts import Dataset
    from anomaly_spotter.inputs.store import GoodPictures
    from anomaly_spotter.recognition import Recogniser


def fit_products(
    datasets: Sequence[Dataset],
    config: SpotterConfig,
    run_dir: Path | None,
    *,
    resume: bool,
    skip_bad: bool,
    show_progress: bool,
    report: Progress,
    tell: Callable[[str], None],
) -> tuple[dict[str, Spotter], Recogniser]:
    """Fit what a :class:`~anomaly_spotter.products.ProductSpotter` is made of; see its ``fit``."""
    _check_names([dataset.category for dataset in datasets])
    spotters: dict[str, Spotter] = {}
    for dataset in datasets:
        name = dataset.category
        with _named(name):
            spotters[name] = Spotter.fit(
                dataset,
                config=config,
                run_dir=None if run_dir is None else run_dir / f"{safe_name(name)}-{config.model.name}",
                resume=resume,
                skip_bad=skip_bad,
                show_progress=show_progress,
                progress=_stages_of(name, report),
                announce=_remarks_of(name, tell),
            )
        if spotters[name].provenance["interrupted"]:
            raise Interrupted
    recogniser = _fit_recogniser(datasets, spotters, report, skip_bad=skip_bad)
    for name, mistaken, own in zip(spotters, recogniser.mistaken, recogniser.left_out, strict=True):
        if mistaken:
            tell(
                f"warning: {name}: {mistaken} of {len(own)} good pictures were not recognised, or as another "
                "product, when they were left out of learning; name the product at inspection"
            )
    return spotters, recogniser


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise DatasetError(
            f"several products need at least two categories, found {', '.join(names) or 'none'}; "
            "Spotter.fit learns one"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DatasetError(f"the category '{twice}' is named twice; name each product once")


def _fit_recogniser(
    datasets: Sequence[Dataset], spotters: Mapping[str, Spotter], report: Progress, *, skip_bad: bool
) -> Recogniser:
    # Not before the detectors: they say in words when PyTorch is not installed.
    from anomaly_spotter.models.features import GRADIENTS
    from anomaly_spotter.recognition import BACKBONE, Recogniser

    def good(dataset: Dataset) -> GoodPictures:
        name = dataset.category
        stages = _stages_of(name, report)
        with _named(name):
            return read_good(
                [sample.path for sample in dataset.train],
                skip_bad=skip_bad,
                white=spotters[name].preprocessor.white_level,
                progress=lambda done, total: stages("recognising", done, total),
            )

    wants_backbone = any(spotter.config.model.features != GRADIENTS for spotter in spotters.values())
    channels = max(spotter.preprocessor.channels for spotter in spotters.values())
    products = (good(dataset) for dataset in datasets)  # one product's pictures in memory at a time
    return Recogniser.fit(products, BACKBONE if wants_backbone else GRADIENTS, channels)


@contextmanager
def _named(product: str) -> Iterator[None]:
    """Errors say which product they are about."""
    try:
        yield
    except SpotterError as error:
        raise type(error)(f"product '{product}': {error}") from error


def _stages_of(product: str, report: Progress) -> Progress:
    return lambda stage, done, total: report(f"{product}: {stage}", done, total)


def _remarks_of(product: str, tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: tell(f"{product}: {line}")
