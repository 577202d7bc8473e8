"""Verbs that use a detector: ``predict``, ``overlay`` and ``info``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from anomaly_spotter.cli.console import EXIT_DEFECT, EXIT_OK, EXIT_UNREADABLE, progress_bar
from anomaly_spotter.cli.detectors import inspections, open_for_inspection
from anomaly_spotter.cli.options import (
    Address,
    BundleFile,
    Engine,
    EngineOrRay,
    JsonFile,
    OptionalPictures,
    Pictures,
    Product,
)
from anomaly_spotter.errors import PictureError, SpotterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly_spotter.fleet.judged import Judged
    from anomaly_spotter.fleet.on_ray import Inspect
    from anomaly_spotter.scoring.inspection import Inspection

RAY = "ray"


def predict(
    bundle: BundleFile,
    paths: OptionalPictures = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for overlays and masks.")] = None,
    json: JsonFile = None,
    threshold: Annotated[
        float | None, typer.Option(help="Decision limit instead of the calibrated one (1.0 = as calibrated).")
    ] = None,
    product: Product = None,
    engine: EngineOrRay = None,
    address: Address = None,
    camera: Annotated[int | None, typer.Option(help="Number of a camera, until Ctrl-C.", min=0)] = None,
    every: Annotated[int, typer.Option(help="Of a video or camera, every N-th frame.", min=1)] = 1,
) -> None:
    """Decide about pictures or the frames of videos, one row each. Exit 0: all OK, 1: some DEFECT, 3: some unreadable, 2: error.

    A model file of several products recognises each picture's product, unless --product names it. --engine ray also
    writes the rows as Parquet: beside the JSON, or results.parquet among the overlays.
    """
    from anomaly_spotter.files import write_json
    from anomaly_spotter.fleet.judged import write_parquet
    from anomaly_spotter.scoring.inspection import Verdict

    on_ray = engine == RAY
    spotter = open_for_inspection(bundle, product, None if on_ray else engine)
    sources = _sources(paths or [], camera, every)
    inspect = partial(inspections, product=product, threshold=threshold, explain=False)
    results = (
        _on_ray(partial(_opened, bundle, product, inspect), sources, out, address)
        if on_ray
        else _here(partial(inspect, spotter), sources, out)
    )
    rows: list[dict[str, Any]] = []
    worst, complete = EXIT_OK, False
    try:
        for found in results:
            rows.append(found.row)
            typer.echo(found.line)
            if "error" in found.row:
                worst = EXIT_UNREADABLE
            elif found.row["verdict"] == Verdict.DEFECT and worst == EXIT_OK:
                worst = EXIT_DEFECT
        complete = True
    finally:  # an interrupted or failed run keeps the rows it has
        if json is not None:
            write_json(json, {"bundle": spotter.describe(), "complete": complete, "pictures": rows})
        if on_ray and (json is not None or out is not None):
            write_parquet(
                json.with_suffix(".parquet") if json is not None else cast("Path", out) / "results.parquet",
                rows,
            )
    raise typer.Exit(worst)


def _here(
    inspect: Callable[[Iterable[Path | NDArray[Any]]], Iterator[tuple[Any, Inspection | PictureError]]],
    sources: Iterator[tuple[Path, str, Path | NDArray[Any]]],
    out: Path | None,
) -> Iterator[Judged]:
    from anomaly_spotter.fleet.judged import judged

    seen: deque[tuple[Path, str]] = deque()
    for _, found in inspect(_noted(sources, seen)):
        path, name = seen.popleft()
        yield judged(path, name, found, out)


def _on_ray(
    open_model: Callable[[], Inspect],
    sources: Iterator[tuple[Path, str, Path | NDArray[Any]]],
    out: Path | None,
    address: str | None,
) -> Iterator[Judged]:
    from anomaly_spotter.fleet.on_ray import pictures_on_ray

    pictures: list[tuple[Path, str]] = []
    for path, name, source in sources:
        if not isinstance(source, Path):
            raise SpotterError(f"{path}: --engine ray takes picture files, not videos or cameras")
        pictures.append((path, name))
    with progress_bar("pictures") as progress:
        results = pictures_on_ray(open_model, pictures, out=out, address=address)
        for done, found in enumerate(results, start=1):
            yield found
            progress(done, len(pictures))


def _opened(bundle: Path, product: str | None, inspect: Callable[..., Any]) -> Inspect:
    """In an actor: what inspects files."""
    return partial(inspect, open_for_inspection(bundle, product, None))


def overlay(
    bundle: BundleFile,
    paths: Pictures,
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")],
    product: Product = None,
    engine: Engine = None,
) -> None:
    """Write four-panel pictures: input, reconstruction, heat map, overlay with contours."""
    from anomaly_spotter.views.files import output_names, write_picture
    from anomaly_spotter.views.sheets import four_panel

    spotter = open_for_inspection(bundle, product, engine)
    files = expand(paths)
    names = output_names(files)
    unreadable = False
    for (_, found), path in zip(inspections(spotter, files, product), files, strict=True):
        if isinstance(found, PictureError):
            unreadable = True
            typer.echo(f"UNREADABLE  {found}")
        else:
            typer.echo(write_picture(out / f"{names[path]}_panel.png", four_panel(found)))
    raise typer.Exit(EXIT_UNREADABLE if unreadable else EXIT_OK)


def info(bundle: Annotated[Path, typer.Argument(help="Model file (.spot).")], json: JsonFile = None) -> None:
    """Show what a bundle is: trained on what, when, with which settings, and what it promises."""
    from anomaly_spotter.bundle import read_manifest
    from anomaly_spotter.files import write_json
    from anomaly_spotter.views.manifest import print_manifest

    manifest = read_manifest(bundle)
    print_manifest(bundle, manifest)
    if json is not None:
        write_json(json, manifest)


def _sources(
    paths: list[Path], camera: int | None, every: int
) -> Iterator[tuple[Path, str, Path | NDArray[Any]]]:
    """What to inspect: how it is called, the name of its outputs, and the file or frame."""
    from anomaly_spotter.inputs.video import SUFFIXES, frames
    from anomaly_spotter.views.files import output_names

    if not paths and camera is None:
        raise SpotterError("nothing to inspect; name pictures, folders, videos or a --camera")
    videos = [path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    files = expand([path for path in paths if path not in videos])
    names = output_names(files)
    yield from ((path, names[path], path) for path in files)
    streams: list[tuple[Path | int, str]] = [(video, video.stem) for video in videos]
    if camera is not None:
        streams.append((camera, f"camera{camera}"))
    for stream, name in streams:
        for number, frame in frames(stream, every):
            yield (
                Path(f"{stream if isinstance(stream, Path) else name}#{number}"),
                f"{name}_{number:06}",
                frame,
            )


def _noted(
    sources: Iterator[tuple[Path, str, Path | NDArray[Any]]], seen: deque[tuple[Path, str]]
) -> Iterator[Path | NDArray[Any]]:
    """The files and frames; their names are kept until their inspections come, which is some pictures later."""
    for path, name, source in sources:
        seen.append((path, name))
        yield source


def expand(paths: list[Path]) -> list[Path]:
    """Folders become the pictures in them; a file that does not exist stays, to be reported in its row."""
    from anomaly_spotter.inputs.layouts.dataset import list_pictures

    files: list[Path] = []
    for path in paths:
        found = list_pictures(path) if path.is_dir() else [path]
        if not found:
            raise SpotterError(f"{path} holds no pictures; name a folder or files with pictures")
        files += found
    return list(dict.fromkeys(files))
