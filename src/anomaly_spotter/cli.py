"""The command line: parses, calls the public API, prints. Heavy imports happen inside the verbs that need them."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_spotter import __version__
from anomaly_spotter.errors import PictureError, SpotterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_OK, EXIT_DEFECT, EXIT_ERROR, EXIT_UNREADABLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="anomaly-spotter",
    help="Learns good parts from good pictures alone, then says OK or DEFECT, shows where, and how sure.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts three times faster
    pretty_exceptions_enable=False,
)


class Engine(StrEnum):
    """Where ``process-all`` runs."""

    LOCAL = "local"
    RAY = "ray"


Data = Annotated[
    Path, typer.Option("--data", help="Data set root, folder of good pictures, or CSV manifest.")
]
Category = Annotated[str | None, typer.Option(help="Category below the data root.")]
Layout = Annotated[
    str | None,
    typer.Option(help="mvtec, folder, csv, visa, btad, kolektor or loco; found by itself if not given."),
]
BundleFile = Annotated[Path, typer.Option("--bundle", help="Model file (.spot) written by 'train'.")]
Pictures = Annotated[list[Path], typer.Argument(help="Picture files, or folders of them.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]
Preset = Annotated[
    str, typer.Option(help="Settings to start from: default, demo (quick), or seed (the original recipe).")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with settings on top of the preset.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, e.g. training.batch_size=8. Repeatable.")
]
Epochs = Annotated[int | None, typer.Option(help="Largest number of passes over the good pictures.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw.")]
Rate = Annotated[
    float | None,
    typer.Option("--false-reject-rate", help="Share of good parts that may be rejected, e.g. 0.01."),
]
Confidence = Annotated[
    float | None,
    typer.Option(help="Promise the rate with this confidence, e.g. 0.95, instead of on average."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unusable pictures out instead of stopping.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run to the same result.")]


def main() -> None:
    """Entry point: every error becomes one line on stderr and a non-zero exit.

    A file name that is not UTF-8 must not end a batch, so what cannot be printed is escaped. With the environment
    variable ``ANOMALY_SPOTTER_DEBUG`` set, unforeseen errors show their traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SpotterError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        if "ANOMALY_SPOTTER_DEBUG" in os.environ:
            raise
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # the latter is PyTorch's
            _fail("out of memory; use a smaller preprocessing.long_side or training.batch_size")
        _fail(f"unforeseen {type(error).__name__}: {error}; ANOMALY_SPOTTER_DEBUG=1 shows where")


def _fail(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(EXIT_ERROR)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"anomaly-spotter {__version__}")
        raise typer.Exit


# The callback must also run for a bare "--version", which names no verb.
app.info.invoke_without_command = True


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", help="Folder to write the data set into.")],
    category: Annotated[
        list[str] | None,
        typer.Option(help="board, cap, capsule, casting, fabric, hazelnut, rail, screw; all if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = 0,
    train: Annotated[int, typer.Option(help="Good training pictures per category.", min=1)] = 200,
    test_good: Annotated[int, typer.Option(help="Good test pictures per category.", min=0)] = 40,
    per_kind: Annotated[int, typer.Option(help="Test pictures per defect kind.", min=0)] = 12,
) -> None:
    """Write the package's own procedural data set (MVTec AD layout, exact masks)."""
    from anomaly_spotter.inputs.sample import CATEGORIES, write_sample

    with _progress("rendering") as progress:
        folders = write_sample(
            out,
            category or CATEGORIES,
            seed,
            train=train,
            test_good=test_good,
            per_kind=per_kind,
            progress=progress,
        )
    for folder in folders:
        typer.echo(folder)


@app.command()
def audit(data: Data, category: Category = None, layout: Layout = None, json: JsonFile = None) -> None:
    """Look a data set over: counts, sizes, broken files, duplicates, masks and shortcuts."""
    from anomaly_spotter.files import write_json
    from anomaly_spotter.inputs.audit import audit as run_audit
    from anomaly_spotter.inputs.layouts import load_dataset
    from anomaly_spotter.views.terminal import print_audit

    dataset = load_dataset(data, category, layout)
    with _progress("auditing") as progress:
        found = run_audit(dataset, progress=progress)
    print_audit(found)
    if json is not None:
        write_json(json, found.to_json())


@app.command()
def train(
    data: Data,
    category: Category = None,
    preset: Preset = "default",
    model: Annotated[str | None, typer.Option(help="Model of the registry: unet.")] = None,
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
    """Learn good parts, calibrate, and write OUT/models/CATEGORY-MODEL.spot; its path is printed last."""
    from anomaly_spotter.fleet.local import train_category
    from anomaly_spotter.inputs.layouts import load_dataset

    overrides = _overrides(settings, model, epochs, seed, false_reject_rate, confidence)
    chosen = _config(preset, config, overrides)
    dataset = load_dataset(data, category, layout)
    with _interruptible(), _stages() as progress:
        trained = train_category(
            dataset,
            chosen,
            out,
            resume=resume,
            skip_bad=skip_bad,
            show_progress=True,
            progress=progress,
            announce=_announce,
        )
    if trained.spotter.provenance["interrupted"]:
        _announce("interrupted: the best epoch so far is calibrated and kept; --resume goes on")
    typer.echo(trained.spotter.guarantee)
    typer.echo(trained.bundle)


@app.command()
def evaluate(
    bundle: BundleFile,
    data: Data,
    category: Category = None,
    layout: Layout = None,
    json: JsonFile = None,
    report: Annotated[Path | None, typer.Option(help="Folder for the HTML report.")] = None,
) -> None:
    """Measure a bundle on labelled test pictures, at its calibrated threshold."""
    from anomaly_spotter.files import write_json
    from anomaly_spotter.inputs.layouts import load_dataset
    from anomaly_spotter.reporting import write_evaluation_report
    from anomaly_spotter.spotter import Spotter
    from anomaly_spotter.views.terminal import print_evaluation

    spotter = Spotter.load(bundle)
    dataset = load_dataset(data, category, layout)
    with _progress("evaluating") as progress:
        found = spotter.evaluate(dataset, progress=progress)
    print_evaluation(found)
    for line in found.unreadable:
        _announce(f"UNREADABLE  {line}")
    if json is not None:
        write_json(json, found.to_dict())
    if report is not None:
        typer.echo(write_evaluation_report(spotter, found, report))


@app.command()
def predict(
    bundle: BundleFile,
    paths: Pictures,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for overlays and masks.")] = None,
    json: JsonFile = None,
    threshold: Annotated[
        float | None, typer.Option(help="Decision limit instead of the calibrated one (1.0 = as calibrated).")
    ] = None,
) -> None:
    """Decide about pictures, one row each. Exit 0: all OK, 1: some DEFECT, 3: some unreadable, 2: error."""
    from anomaly_spotter.files import write_json
    from anomaly_spotter.scoring.inspection import Verdict
    from anomaly_spotter.spotter import Spotter
    from anomaly_spotter.views.files import output_names, write_picture
    from anomaly_spotter.views.overlay import mask_picture, overlay
    from anomaly_spotter.views.terminal import inspection_row, inspection_to_dict

    spotter = Spotter.load(bundle)
    files = _expand(paths)
    names = output_names(files)
    rows: list[dict[str, Any]] = []
    worst, complete = EXIT_OK, False
    try:
        for (_, found), path in zip(spotter.inspect_stream(files, threshold=threshold), files, strict=True):
            if isinstance(found, PictureError):
                worst = EXIT_UNREADABLE
                rows.append({"path": str(path), "error": str(found)})
                typer.echo(f"UNREADABLE  {found}")
                continue
            if found.verdict is Verdict.DEFECT and worst == EXIT_OK:
                worst = EXIT_DEFECT
            rows.append(inspection_to_dict(found))
            typer.echo(inspection_row(found))
            if out is not None:
                write_picture(out / f"{names[path]}_overlay.png", overlay(found))
                if found.mask.any():
                    write_picture(out / f"{names[path]}_mask.png", mask_picture(found))
        complete = True
    finally:  # an interrupted or failed run keeps the rows it has
        if json is not None:
            write_json(json, {"bundle": spotter.describe(), "complete": complete, "pictures": rows})
    raise typer.Exit(worst)


@app.command()
def overlay(
    bundle: BundleFile,
    paths: Pictures,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
) -> None:
    """Write four-panel pictures: input, reconstruction, heat map, overlay with contours."""
    from anomaly_spotter.spotter import Spotter
    from anomaly_spotter.views.files import output_names, write_picture
    from anomaly_spotter.views.sheets import four_panel

    spotter = Spotter.load(bundle)
    files = _expand(paths)
    names = output_names(files)
    unreadable = False
    for (_, found), path in zip(spotter.inspect_stream(files), files, strict=True):
        if isinstance(found, PictureError):
            unreadable = True
            typer.echo(f"UNREADABLE  {found}")
        else:
            typer.echo(write_picture(out / f"{names[path]}_panel.png", four_panel(found)))
    raise typer.Exit(EXIT_UNREADABLE if unreadable else EXIT_OK)


@app.command()
def process_all(
    data: Data,
    categories: Annotated[
        str | None, typer.Option(help="Comma-separated; all that are found if not given.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="Where to run.")] = Engine.LOCAL,
    preset: Preset = "default",
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
    chosen = _config(preset, config, _overrides(settings, None, epochs, seed, false_reject_rate, confidence))
    named = None if categories is None else [name.strip() for name in categories.split(",") if name.strip()]
    with _interruptible():
        summary = run_all(
            data,
            named,
            chosen,
            out,
            layout=layout,
            resume=resume,
            skip_bad=skip_bad,
            show_progress=True,
            announce=_announce,
        )
    print_summary(summary.results, summary.reports)
    if summary.failed:
        raise SpotterError(f"{len(summary.failed)} categories failed: {'; '.join(summary.failed.values())}")


@app.command()
def benchmark(
    data: Data,
    categories: Annotated[
        str | None, typer.Option(help="Comma-separated; all that are found if not given.")
    ] = None,
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
    out: Annotated[Path, typer.Option("--out", help="Folder for tables, plots and results.")] = Path(
        "outputs/benchmark"
    ),
) -> None:
    """Measure models x categories x seeds: quality, robustness, time and memory; prints the page's path last."""
    from anomaly_spotter.fleet.benchmark import parse_seeds, run_benchmark
    from anomaly_spotter.views.terminal import print_summary

    with _interruptible():
        found = run_benchmark(
            data,
            out,
            categories=None if categories is None else _names(categories),
            models=_names(models),
            seeds=parse_seeds(_names(seeds)),
            settings=_overrides(settings, None, None, None, false_reject_rate, None),
            layout=layout,
            robustness=robustness,
            resume=resume,
            announce=_announce,
        )
    if found.results:
        print_summary(found.by_name, {})
    typer.echo(found.page)
    if found.failed:
        raise SpotterError(f"{len(found.failed)} cells failed, see {found.page}")


@app.command()
def info(bundle: Annotated[Path, typer.Argument(help="Model file (.spot).")], json: JsonFile = None) -> None:
    """Show what a bundle is: trained on what, when, with which settings, and what it promises."""
    from anomaly_spotter.bundle import read_manifest
    from anomaly_spotter.files import write_json
    from anomaly_spotter.views.terminal import print_manifest

    manifest = read_manifest(bundle)
    print_manifest(bundle, manifest)
    if json is not None:
        write_json(json, manifest)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _config(preset: str, file: Path | None, overrides: list[str]) -> Any:
    from anomaly_spotter.config import SpotterConfig

    return SpotterConfig.load(preset, file, overrides)


def _overrides(
    settings: list[str] | None,
    model: str | None,
    epochs: int | None,
    seed: int | None,
    false_reject_rate: float | None,
    confidence: float | None,
) -> list[str]:
    named = {
        "model.name": model,
        "training.epochs": epochs,
        "training.seed": seed,
        "calibration.false_reject_rate": false_reject_rate,
        "calibration.confidence": confidence,
    }
    return [*(settings or []), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _expand(paths: list[Path]) -> list[Path]:
    """Folders become the pictures in them; a file that does not exist stays, to be reported in its row."""
    from anomaly_spotter.inputs.layouts.dataset import list_pictures

    files: list[Path] = []
    for path in paths:
        found = list_pictures(path) if path.is_dir() else [path]
        if not found:
            raise SpotterError(f"{path} holds no pictures; name a folder or files with pictures")
        files += found
    return list(dict.fromkeys(files))


def _announce(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time remaining on stderr, fed by (done, total); shown from the first call on."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars as :func:`_progress`, one for each stage that reports."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total, visible=done < total)

        yield report


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C outside the training loop: nothing is half-written, and the next call can take up the thread."""
    from anomaly_spotter.errors import Interrupted

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        typer.echo("interrupted; the same command with --resume goes on from here", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
