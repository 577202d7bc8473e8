"""Verbs for a detector in use: ``extend``, ``recalibrate``, ``rates`` and ``drift``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomaly_spotter.cli.console import EXIT_DEFECT, EXIT_OK, EXIT_UNREADABLE, announce, stages
from anomaly_spotter.cli.detectors import detector_of, open_for_inspection, open_model, with_detector
from anomaly_spotter.cli.inspection import expand
from anomaly_spotter.cli.options import (
    BundleFile,
    Confidence,
    Engine,
    JsonFile,
    Pictures,
    Product,
    Rate,
    SkipBad,
)
from anomaly_spotter.errors import PictureError, SpotterError

if TYPE_CHECKING:
    from anomaly_spotter.spotter import Spotter

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="New model file; beside the old one with the next version number if not given."
    ),
]
Defects = Annotated[
    Path | None,
    typer.Option(help="Folder of a few known defects: shows what each rate would find. Moves nothing."),
]


def extend(
    bundle: BundleFile,
    good: Annotated[
        Path,
        typer.Option(help="Folder of good pictures, accepted and rejected ones alike, as they came."),
    ],
    defects: Defects = None,
    skip_bad: SkipBad = False,
    product: Product = None,
    out: Out = None,
) -> None:
    """Teach a detector more good pictures and recalibrate; writes a new file, whose path is printed last.

    Corrected false alarms are learned as good. Give all good parts of a shift, not only those: pictures picked by
    their verdict shift the decision limit.
    """
    target = _target(bundle, out)
    model = open_model(bundle, product)
    old = detector_of(model, bundle, product)
    with stages() as progress:
        new = old.extend(good, skip_bad=skip_bad, progress=progress, announce=announce)
    _tell(old, new, defects)
    typer.echo(with_detector(model, product, new).save(target))


def recalibrate(
    bundle: BundleFile,
    good: Annotated[
        Path | None,
        typer.Option(
            help="Folder of good pictures that the detector has NOT learned from; they alone calibrate. "
            "Without it only the rate or confidence changes."
        ),
    ] = None,
    false_reject_rate: Rate = None,
    confidence: Confidence = None,
    on_average: Annotated[
        bool, typer.Option("--on-average", help="Promise the rate on average again, without a confidence.")
    ] = False,
    defects: Defects = None,
    skip_bad: SkipBad = False,
    product: Product = None,
    out: Out = None,
) -> None:
    """Move the decision limit to another promise; writes a new file, whose path is printed last."""
    target = _target(bundle, out)
    model = open_model(bundle, product)
    old = detector_of(model, bundle, product)
    with stages() as progress:
        new = old.recalibrate(
            good,
            false_reject_rate=false_reject_rate,
            confidence=confidence,
            on_average=on_average,
            skip_bad=skip_bad,
            progress=progress,
            announce=announce,
        )
    _tell(old, new, defects)
    typer.echo(with_detector(model, product, new).save(target))


def rates(
    bundle: BundleFile,
    defects: Annotated[Path, typer.Option(help="Folder of a few known defects, or one picture.")],
    json: JsonFile = None,
    product: Product = None,
) -> None:
    """Show what share of known defects each false reject rate would find. Moves nothing, writes no model."""
    from anomaly_spotter.files import write_json
    from anomaly_spotter.views.terminal import print_rates, rates_to_dict

    spotter = detector_of(open_model(bundle, product), bundle, product)
    found = spotter.recall_at_rates(_pictures(defects))
    print_rates(found)
    for line in found.unreadable:
        announce(f"UNREADABLE  {line}")
    if json is not None:
        write_json(json, {"bundle": spotter.describe(), **rates_to_dict(found)})
    if found.unreadable:
        raise typer.Exit(EXIT_UNREADABLE)


def drift(
    bundle: BundleFile,
    paths: Pictures,
    json: JsonFile = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Chance of a false alarm, of each of the two tests.", min=1e-9, max=0.1)
    ] = 0.01,
    defects: Annotated[
        float, typer.Option(help="Share of the parts that may be defects without counting as drift.")
    ] = 0.05,
    product: Product = None,
    engine: Engine = None,
) -> None:
    """Tell whether the calibration still holds on recent pictures, in the order of their names.

    Exit 0: nothing has changed, 1: something has, 3: nothing has, but some pictures are unreadable, 2: error, or too
    few pictures to tell.
    """
    from anomaly_spotter.files import write_json
    from anomaly_spotter.scoring.drift import FEWEST, DriftSettings
    from anomaly_spotter.views.terminal import print_drift

    spotter = detector_of(open_for_inspection(bundle, product, engine), bundle, product)
    files = expand(paths)
    settings = DriftSettings(max(len(files), FEWEST), false_alarm_rate, defects)
    watch = spotter.drift_watch(settings)
    unreadable: list[str] = []
    for _, found in spotter.inspect_stream(files, explain=False):
        if isinstance(found, PictureError):
            unreadable.append(str(found))
            announce(f"UNREADABLE  {found}")
        else:
            watch.add_inspection(found)
    report = watch.report()
    print_drift(report)
    if json is not None:
        write_json(json, {"bundle": spotter.describe(), **report.to_dict(), "unreadable": unreadable})
    if report.status == "too few":
        raise SpotterError(f"{report.count} readable pictures are too few to tell; give at least {FEWEST}")
    if report.status == "changed":
        raise typer.Exit(EXIT_DEFECT)
    raise typer.Exit(EXIT_UNREADABLE if unreadable else EXIT_OK)


def _target(bundle: Path, out: Path | None) -> Path:
    """Where the new detector goes; nothing is ever overwritten."""
    from anomaly_spotter.bundle import next_version

    if out is None:
        return next_version(bundle)
    if out.exists():
        raise SpotterError(f"{out} exists already; a detector is never overwritten, choose another --out")
    return out


def _tell(old: Spotter, new: Spotter, defects: Path | None) -> None:
    """Show what the new detector promises and finds."""
    from anomaly_spotter.views.terminal import print_rates

    found = None if defects is None else new.recall_at_rates(_pictures(defects))
    before, after = old.calibration, new.calibration
    typer.echo(f"calibration pictures: {before.promise.count} before, {after.promise.count} now")
    limit = (after.raw_limit - before.centre) / before.scale
    typer.echo(f"decision limit: {before.threshold:.3f} before, {limit:.3f} now, on the old scale of scores")
    typer.echo(new.guarantee)
    if (missing := after.promise.needed - after.promise.count) > 0:
        typer.echo(f"{missing} more good pictures are needed for that: 'extend --good' adds them.")
    if found is not None:
        print_rates(found)
        for line in found.unreadable:
            announce(f"UNREADABLE  {line}")


def _pictures(place: Path) -> list[Path]:
    """The pictures in a folder, or the one that was named itself."""
    from anomaly_spotter.inputs.layouts.dataset import list_pictures

    if place.is_file():
        return [place]
    found = list_pictures(place) if place.is_dir() else []
    if not found:
        raise SpotterError(f"{place} holds no pictures; name a folder with pictures of known defects")
    return found
