"""Verbs about pictures before anything is learned: ``sample`` and ``audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly_spotter.cli.console import progress_bar
from anomaly_spotter.cli.options import Category, Data, JsonFile, Layout


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

    with progress_bar("rendering") as progress:
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


def audit(data: Data, category: Category = None, layout: Layout = None, json: JsonFile = None) -> None:
    """Look a data set over: counts, sizes, broken files, duplicates, masks and shortcuts."""
    from anomaly_spotter.files import write_json
    from anomaly_spotter.inputs.audit import audit as run_audit
    from anomaly_spotter.inputs.layouts import load_dataset
    from anomaly_spotter.views.terminal import print_audit

    dataset = load_dataset(data, category, layout)
    with progress_bar("auditing") as progress:
        found = run_audit(dataset, progress=progress)
    print_audit(found)
    if json is not None:
        write_json(json, found.to_json())
