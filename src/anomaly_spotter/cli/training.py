"""Verbs that learn: ``train`` and ``process-all``."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomaly_spotter.cli.console import announce, interruptible, stages
from anomaly_spotter.cli.options import (
    Address,
    Align,
    Budget,
    Categories,
    Confidence,
    ConfigFile,
    Data,
    Devices,
    Epochs,
    Framework,
    Layout,
    Nodes,
    Preset,
    Rate,
    Region,
    RegionOn,
    Resume,
    Seed,
    Settings,
    SkipBad,
    Strategy,
    load_config,
    names,
    overrides,
)
from anomaly_spotter.cli.tracking import Champion, TensorBoard, Track, tracker, tracking_settings
from anomaly_spotter.errors import SpotterError

if TYPE_CHECKING:
    from anomaly_spotter.fleet.local import Runner


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
    framework: Framework = None,
    epochs: Epochs = None,
    seed: Seed = None,
    false_reject_rate: Rate = None,
    confidence: Confidence = None,
    layout: Layout = None,
    config: ConfigFile = None,
    settings: Settings = None,
    devices: Devices = None,
    nodes: Nodes = None,
    strategy: Strategy = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    track: Track = None,
    champion: Champion = False,
    tensorboard: TensorBoard = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for models, metrics and runs.")] = Path(
        "outputs"
    ),
) -> None:
    """Learn good parts, calibrate, and write OUT/models/CATEGORY-MODEL.spot; its path is printed last.

    Several categories become one file, OUT/models/A+B-MODEL.spot, which recognises the product on a picture.
    """
    from anomaly_spotter.fleet.local import HISTORY, run_folder, train_category, train_products
    from anomaly_spotter.inputs.layouts import load_dataset
    from anomaly_spotter.processes import leads, member

    here = member()
    if here.count > 1:  # under torchrun
        devices, nodes = devices or here.devices, nodes or here.count // here.devices
    asked = overrides(
        settings,
        model=model,
        framework=framework,
        epochs=epochs,
        seed=seed,
        false_reject_rate=false_reject_rate,
        confidence=confidence,
        budget=budget,
        align=align,
        region=region,
        region_on=region_on,
        devices=devices,
        nodes=nodes,
        strategy=strategy,
    )
    asked += tracking_settings(track, tensorboard=tensorboard, champion=champion)
    chosen = load_config(preset, config, asked, model, framework)
    datasets = [load_dataset(data, name, layout) for name in _categories(data, category, layout)]
    if len(datasets) > 1:
        with (
            interruptible(),
            stages() as progress,
            tracker(chosen, out) as tracking,
            tracking.run("+".join(dataset.category for dataset in datasets), chosen) as run,
        ):
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
            if not leads(chosen.training):
                return
            run.trained(several.spotter, several.bundle)
            for product, spotter in several.spotter.spotters.items():
                with tracking.run(product, spotter.config, parent=run) as part:
                    part.fitted(spotter)
        for product, spotter in several.spotter.spotters.items():
            typer.echo(f"{product}: {spotter.guarantee}")
        typer.echo(several.bundle)
        return
    folder = run_folder(datasets[0], chosen, out)
    with (
        interruptible(),
        stages() as progress,
        tracker(chosen, out) as tracking,
        tracking.run(folder.name, chosen, history=folder / HISTORY, resume=resume) as run,
    ):
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
        if not leads(chosen.training):
            return
        run.trained(trained.spotter, trained.bundle)
    if trained.spotter.provenance["interrupted"]:
        announce("interrupted: the best epoch so far is calibrated and kept; --resume goes on")
    typer.echo(trained.spotter.guarantee)
    typer.echo(trained.bundle)


def process_all(
    data: Data,
    categories: Categories = None,
    engine: Annotated[
        Engine,
        typer.Option(help="local: one after the other; ray: as many at a time as there are processors."),
    ] = Engine.LOCAL,
    address: Address = None,
    preset: Preset = None,
    framework: Framework = None,
    epochs: Epochs = None,
    seed: Seed = None,
    false_reject_rate: Rate = None,
    confidence: Confidence = None,
    layout: Layout = None,
    config: ConfigFile = None,
    settings: Settings = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    track: Track = None,
    champion: Champion = False,
    tensorboard: TensorBoard = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for models, metrics and reports.")] = Path(
        "outputs"
    ),
) -> None:
    """Train, evaluate and report every category, then print one table. --resume skips finished ones."""
    from anomaly_spotter.fleet.local import in_turn
    from anomaly_spotter.fleet.local import process_all as run_all
    from anomaly_spotter.processes import member
    from anomaly_spotter.views.terminal import print_summary

    if member().count > 1:
        raise SpotterError(
            "process-all starts its processes itself; leave torchrun out, --set training.devices=N"
        )
    runner: Runner = partial(in_turn, show_progress=True)
    if engine is Engine.RAY:
        from anomaly_spotter.fleet.on_ray import categories_on_ray

        runner = partial(categories_on_ray, address=address)
    asked = overrides(
        settings,
        framework=framework,
        epochs=epochs,
        seed=seed,
        false_reject_rate=false_reject_rate,
        confidence=confidence,
    )
    asked += tracking_settings(track, tensorboard=tensorboard, champion=champion)
    chosen = load_config(preset, config, asked, framework=framework)
    with (
        interruptible(),
        tracker(chosen, out) as tracking,
        tracking.run("process-all", chosen, tags={"data": str(data)}, resume=resume) as run,
    ):
        summary = run_all(
            data,
            None if categories is None else names(categories),
            chosen,
            out,
            layout=layout,
            resume=resume,
            skip_bad=skip_bad,
            run=partial(runner, observe=tracking.part_of(run)),
            announce=announce,
        )
        run.files({summary.table.name: summary.table})
        run.metrics({"categories/finished": len(summary.results), "categories/failed": len(summary.failed)})
    if engine is Engine.RAY:
        from anomaly_spotter.fleet.judged import write_parquet

        rows = (
            {"product": name, **row} for name, result in summary.results.items() for row in result["pictures"]
        )
        write_parquet(summary.table.with_suffix(".parquet"), rows)
    print_summary(summary.results, summary.reports)
    if summary.failed:
        raise SpotterError(f"{len(summary.failed)} categories failed: {'; '.join(summary.failed.values())}")


def _categories(data: Path, category: str | None, layout: str | None) -> list[str | None]:
    """``"A,B"`` as two names, unless there is a category with a comma in its name."""
    from anomaly_spotter.inputs.layouts import find_categories

    if category is None or "," not in category or category in find_categories(data, layout):
        return [category]
    return [*names(category)] or [category]
