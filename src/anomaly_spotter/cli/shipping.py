"""Verbs that put a detector to work beside other programs: ``export`` and ``watch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anomaly_spotter.cli.options import BundleFile, Engine, Product


def export(
    bundle: BundleFile,
    out: Annotated[Path, typer.Option("--out", help="New folder for the export.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="onnx or openvino, from picture to verdict; of a U-Net also keras, saved_model or tflite: its network, from "
            "canvas to anomaly map.",
        ),
    ] = "onnx",
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
    """Write a detector as one model of another kind, checked against it, with examples."""
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


def watch(
    bundle: BundleFile,
    folder: Annotated[Path, typer.Option("--in", help="Folder that the camera writes pictures to.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for results, outside --in.")],
    settle: Annotated[
        float, typer.Option(help="Seconds a file must stay as it is before it counts as complete.", min=0.0)
    ] = 0.5,
    patience: Annotated[
        float, typer.Option(help="Seconds before a complete file that cannot be read is reported.", min=0.0)
    ] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Stop when every file that is there is done.")] = False,
    webhook: Annotated[str | None, typer.Option(help="POST each result as JSON to this address.")] = None,
    mqtt: Annotated[
        str | None, typer.Option(help="Publish each result as JSON: mqtt://HOST[:PORT]/TOPIC.")
    ] = None,
    product: Product = None,
    engine: Engine = None,
) -> None:
    """Inspect pictures as a camera drops them, each once; goes on where it stopped. Ctrl-C ends it."""
    import signal
    import threading

    from anomaly_spotter.cli.detectors import inspections, open_for_inspection
    from anomaly_spotter.fleet.watching import Mqtt, Watch, Webhook

    messengers = [kind(address) for kind, address in ((Webhook, webhook), (Mqtt, mqtt)) if address]
    spotter = open_for_inspection(bundle, product, engine)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    watching = Watch(
        lambda paths: inspections(spotter, paths, product, explain=False),
        folder,
        out,
        settle,
        patience,
        messengers,
    )
    _show(watching, stop, once=once)


def _show(watching: Any, stop: Any, *, once: bool) -> None:
    """A row per result, and a counter below the rows on a terminal, at the end elsewhere."""
    from rich.console import Console

    from anomaly_spotter.views.terminal import watch_counter, watch_header, watch_row

    console = Console()
    typer.echo(watch_header())
    with console.status(watch_counter(watching.counts)) as status:

        def report(result: dict[str, Any]) -> None:
            console.print(watch_row(result), highlight=False, markup=False, soft_wrap=True)
            status.update(watch_counter(watching.counts))

        watching.run(report, stop, once=once)
    typer.echo(watch_counter(watching.counts))
