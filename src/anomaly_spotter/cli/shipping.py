"""The verb that makes a detector ready for other programs: ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly_spotter.cli.options import BundleFile, Product


def export(
    bundle: BundleFile,
    out: Annotated[Path, typer.Option("--out", help="New folder for the export.")],
    to: Annotated[str, typer.Option("--to", help="onnx or openvino.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, bf16 (OpenVINO) or int8.")] = "fp32",
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also compare on these pictures, or folders of them, from file to verdict. Repeatable."
        ),
    ] = None,
    allow_drift: Annotated[
        bool, typer.Option("--allow-drift", help="Keep an export that decides differently.")
    ] = False,
    product: Product = None,
) -> None:
    """Write one ONNX or OpenVINO model from picture to verdict, checked against the detector, with examples."""
    from anomaly_spotter.cli.console import announce
    from anomaly_spotter.cli.detectors import detector_of, open_model
    from anomaly_spotter.cli.inspection import expand
    from anomaly_spotter.export import export as write_export

    spotter = detector_of(open_model(bundle, product, engine="torch"), bundle, product)
    made = write_export(
        spotter,
        out,
        to=to,
        precision=precision,
        pictures=expand(pictures or []),
        allow_drift=allow_drift,
        announce=announce,
    )
    typer.echo(made.model)
