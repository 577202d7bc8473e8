"""Verbs that measure: ``evaluate``, ``benchmark`` and ``learning-curve``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from anomaly_spotter.cli.console import announce, interruptible, progress_bar
from anomaly_spotter.cli.detectors import detector_of, open_model
from anomaly_spotter.cli.options import (
    Align,
    Budget,
    BundleFile,
    Categories,
    Category,
    Confidence,
    ConfigFile,
    Data,
    Epochs,
    JsonFile,
    Layout,
    Preset,
    Product,
    Rate,
    Seed,
    Settings,
    load_config,
    names,
    overrides,
)
from anomaly_spotter.cli.tracking import TensorBoard, Track, tracker, tracking_settings
from anomaly_spotter.errors import ConfigError, SpotterError


def evaluate(
    bundle: BundleFile,
    data: Data,
    category: Category = None,
    layout: Layout = None,
    json: JsonFile = None,
    report: Annotated[Path | None, typer.Option(help="Folder for the HTML report.")] = None,
    product: Product = None,
    track: Track = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Measure a bundle on labelled test pictures, at its calibrated threshold.

    In a model file of several products, the detector of --product, by default that of the category. With --track, OUT is
    the folder above the bundle's models folder.
    """
    from anomaly_spotter.files import write_json
    from anomaly_spotter.inputs.layouts import load_dataset
    from anomaly_spotter.reporting import FILE_NAME, write_evaluation_report
    from anomaly_spotter.views.terminal import print_evaluation

    model = open_model(bundle, product)
    dataset = load_dataset(data, category, layout)
    spotter = detector_of(model, bundle, product or dataset.category)
    settings = load_config(None, None, tracking_settings(track, tensorboard=tensorboard))
    above = bundle.parent.parent if bundle.parent.name == "models" else bundle.parent
    with (
        tracker(settings, above) as tracking,
        tracking.run(f"{bundle.stem} evaluation", spotter.config) as run,
        progress_bar("evaluating") as progress,
    ):
        run.about(spotter)
        found = spotter.evaluate(dataset, progress=progress)
        if report is not None:
            write_evaluation_report(spotter, found, report)
        run.evaluated(found.to_dict(), report)
    print_evaluation(found)
    for line in found.unreadable:
        announce(f"UNREADABLE  {line}")
    if json is not None:
        write_json(json, found.to_dict())
    if report is not None:
        typer.echo(report / FILE_NAME)


def benchmark(
    data: Data,
    categories: Categories = None,
    models: Annotated[
        str, typer.Option(help="Comma-separated: registry names, preset:NAME, or all (the whole registry).")
    ] = "all",
    seeds: Annotated[
        str, typer.Option(help="Comma-separated seeds; means and deviations are over them.")
    ] = "0",
    false_reject_rate: Rate = None,
    robustness: Annotated[
        bool, typer.Option("--robustness/--no-robustness", help="Measure perturbed test pictures too.")
    ] = True,
    layout: Layout = None,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the cells that were finished before.")
    ] = False,
    track: Track = None,
    tensorboard: TensorBoard = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for tables, plots and results.")] = Path(
        "outputs/benchmark"
    ),
) -> None:
    """Measure models x categories x seeds: quality, robustness, time and memory; prints the page's path last."""
    from anomaly_spotter.fleet.benchmark import parse_seeds, run_benchmark
    from anomaly_spotter.tracking.cells import track_cell
    from anomaly_spotter.views.terminal import print_summary

    tracked = [setting for setting in settings or [] if setting.startswith("tracking.")]
    chosen = load_config(None, None, [*tracked, *tracking_settings(track, tensorboard=tensorboard)])
    with (
        interruptible(),
        tracker(chosen, out) as tracking,
        tracking.run("benchmark", tags={"data": str(data)}, resume=resume) as run,
    ):
        found = run_benchmark(
            data,
            out,
            categories=None if categories is None else names(categories),
            models=names(models),
            seeds=parse_seeds(names(seeds)),
            settings=overrides(settings, false_reject_rate=false_reject_rate),
            layout=layout,
            robustness=robustness,
            resume=resume,
            announce=announce,
            measured=partial(track_cell, tracking, run),
        )
        run.folder(out, "benchmark")
    if found.results:
        print_summary(found.by_name, {})
    typer.echo(found.page)
    if found.failed:
        raise SpotterError(f"{len(found.failed)} cells failed, see {found.page}")


def learning_curve(
    data: Data,
    category: Category = None,
    preset: Preset = None,
    model: Annotated[str | None, typer.Option(help="memory, gaussian, unet, or auto to choose.")] = None,
    sizes: Annotated[str, typer.Option(help="Comma-separated numbers of good pictures.")] = "5,10,20,50,100",
    repeats: Annotated[int, typer.Option(help="Random draws per number of good pictures.", min=1)] = 3,
    epochs: Epochs = None,
    seed: Seed = None,
    false_reject_rate: Rate = None,
    confidence: Confidence = None,
    budget: Budget = None,
    align: Align = None,
    layout: Layout = None,
    config: ConfigFile = None,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what was measured before with the same settings.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the table and the plot.")] = Path(
        "outputs/learning_curve"
    ),
) -> None:
    """Measure how quality grows with the number of good pictures, and say how many more a wanted rate needs."""
    from anomaly_spotter.fleet.learning_curve import learning_curve as measure
    from anomaly_spotter.inputs.layouts import load_dataset
    from anomaly_spotter.views.terminal import print_learning_curve

    asked = overrides(
        settings,
        model=model,
        epochs=epochs,
        seed=seed,
        false_reject_rate=false_reject_rate,
        confidence=confidence,
        budget=budget,
        align=align,
    )
    chosen = load_config(preset, config, asked, model)
    try:
        numbers = [int(text) for text in names(sizes)]
    except ValueError:
        raise ConfigError(f"sizes must be whole numbers such as 5,10,20; found {sizes}") from None
    dataset = load_dataset(data, category, layout)
    with interruptible():
        found = measure(
            dataset, chosen, out, sizes=numbers, repeats=repeats, resume=resume, announce=announce
        )
    print_learning_curve(found.summary)
    if found.plot is not None:
        typer.echo(found.plot)
    typer.echo(found.file)
