"""The command line: parses, calls the public API, prints. Heavy imports happen inside the verbs that need them."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from anomaly_spotter import __version__
from anomaly_spotter.cli.console import EXIT_ERROR
from anomaly_spotter.cli.data import audit, sample
from anomaly_spotter.cli.inspection import info, overlay, predict
from anomaly_spotter.cli.living import drift, extend, rates, recalibrate
from anomaly_spotter.cli.measuring import benchmark, evaluate, learning_curve
from anomaly_spotter.cli.shipping import export, watch
from anomaly_spotter.cli.station import access, serve
from anomaly_spotter.cli.tracking import TrackableCommand, track_sync
from anomaly_spotter.cli.training import process_all, train
from anomaly_spotter.errors import SpotterError

_VERBS = (
    sample,
    audit,
    train,
    evaluate,
    predict,
    overlay,
    process_all,
    benchmark,
    extend,
    recalibrate,
    rates,
    drift,
    learning_curve,
    export,
    watch,
    serve,
    info,
    track_sync,
)

app = typer.Typer(
    name="anomaly-spotter",
    help="Learns good parts from good pictures alone, then says OK or DEFECT, shows where, and how sure.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # plain help starts three times faster
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: every error becomes one line on stderr and a non-zero exit.

    A file name that is not UTF-8 must not end a batch, so what cannot be printed is escaped. With the environment
    variable ``ANOMALY_SPOTTER_DEBUG`` set, unforeseen errors show their traceback.
    """
    # Idle OpenMP threads spin; where two runs share the processors, each waits for threads that the other's spinning
    # keeps from running. Giving up after some ten microseconds costs a run that is alone nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
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

for _verb in _VERBS:
    app.command(cls=TrackableCommand)(_verb)
app.add_typer(access)
