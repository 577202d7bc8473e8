"""Verbs that learn: ``train`` and ``process-all``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from anomaly_spotter.cli.console import announce, interruptible, stages
from anomaly_spotter.cli.options import (
    Align,
    Budget,
    Categories,
    Confidence,
    ConfigFile,
    Data,
    Epochs,
    Layout,
    Preset,
    Rate,
    Region,
    RegionOn,
    Resume,
    Seed,
    Settings,
    SkipBad,
    load_config,
    names,
    overrides,
)
from anomaly_spotter.errors import SpotterError


class Engine(StrEnum):
    """Where ``process-all`` runs."""

    LOCAL = "local"
    RAY = "ray"


def train(
    data: Data,
    category: Annotated[
        str | None,
        typer.Option(help="Category below the data root; several, A,B, become products in one model file."),
    ] = None,
    preset: Preset = None,
    model: Annotated[str | None, typer.Option(help="memory, gaussian, unet, or auto to choose.")] = None,
    budget: Budget = None,
    align: Align = None,
    region: Region = None,
    region_on: RegionOn = None,
    epochs: Epochs = None,
    seed: Seed = None,
    false_reject_rate: Rate = None,
    confidence: Confidence = None,
    layout: Layout = None,
    config: ConfigFile = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for models, metrics and runs.")] = Path(
        "outputs"
    ),
) -> None:
    """Learn good parts, calibrate, and write OUT/models/CATEGORY-MODEL.spot; its path is printed last.

    Several categories become one file, OUT/models/A+B-MODEL.spot, which recognises the product on a picture.
    """
    from anomaly_spotter.fleet.local import train_category, train_products
    from anomaly_spotter.inputs.layouts import load_dataset

    asked = overrides(
        settings,
        model=model,
        epochs=epochs,
        seed=seed,
        false_reject_rate=false_reject_rate,
        confidence=confidence,
        budget=budget,
        align=align,
        region=region,
        region_on=region_on,
    )
    chosen = load_config(preset, config, asked, model)
    datasets = [load_dataset(data, name, layout) for name in _categories(data, category, layout)]
    if len(datasets) > 1:
        with interruptible(), stages() as progress:
            several = train_products(
                datasets,
                chosen,
                out,
                resume=resume,
                skip_bad=skip_bad,
                show_progress=True,
                progress=progress,
                announce=announce,
            )
        for product, spotter in several.spotter.spotters.items():
            typer.echo(f"{product}: {spotter.guarantee}")
        typer.echo(several.bundle)
        return
    with interruptible(), stages() as progress:
        trained = train_category(
            datasets[0],
            chosen,
            out,
            resume=resume,
            skip_bad=skip_bad,
            show_progress=True,
            progress=progress,
            announce=announce,
        )
    if trained.spotter.provenance["interrupted"]:
        announce("interrupted: the best epoch so far is calibrated and kept; --resume goes on")
    typer.echo(trained.spotter.guarantee)
    typer.echo(trained.bundle)


def process_all(
    data: Data,
    categories: Categories = None,
    engine: Annotated[Engine, typer.Option(help="Where to run.")] = Engine.LOCAL,
    preset: Preset = None,
    epochs: Epochs = None,
    seed: Seed = None,
    false_reject_rate: Rate = None,
    confidence: Confidence = None,
    layout: Layout = None,
    config: ConfigFile = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for models, metrics and reports.")] = Path(
        "outputs"
    ),
) -> None:
    """Train, evaluate and report every category, then print one table. --resume skips finished ones."""
    from anomaly_spotter.fleet.local import process_all as run_all
    from anomaly_spotter.views.terminal import print_summary

    if engine is Engine.RAY:
        raise SpotterError("engine 'ray' is not part of this version; use --engine local")
    asked = overrides(
        settings, epochs=epochs, seed=seed, false_reject_rate=false_reject_rate, confidence=confidence
    )
    chosen = load_config(preset, config, asked)
    with interruptible():
        summary = run_all(
            data,
            None if categories is None else names(categories),
            chosen,
            out,
            layout=layout,
            resume=resume,
            skip_bad=skip_bad,
            show_progress=True,
            announce=announce,
        )
    print_summary(summary.results, summary.reports)
    if summary.failed:
        raise SpotterError(f"{len(summary.failed)} categories failed: {'; '.join(summary.failed.values())}")


def _categories(data: Path, category: str | None, layout: str | None) -> list[str | None]:
    """``"A,B"`` as two names, unless there is a category with a comma in its name."""
    from anomaly_spotter.inputs.layouts import find_categories

    if category is None or "," not in category or category in find_categories(data, layout):
        return [category]
    return [*names(category)] or [category]
