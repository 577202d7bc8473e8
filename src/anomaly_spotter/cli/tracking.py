"""Tracking at the command line: the options of the verbs that can be tracked, and the verb ``track-sync``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from anomaly_spotter.cli.console import announce
from anomaly_spotter.errors import SpotterError

if TYPE_CHECKING:
    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.tracking.tracker import Tracker

_OWN_STORE = "own"
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="[URI]",
        help="Record the run with MLflow: at this tracking URI, else at MLFLOW_TRACKING_URI, else in OUT/mlflow.",
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard event files to OUT/tensorboard.")
]
Champion = Annotated[
    bool, typer.Option("--champion", help="With --track: this model becomes the registry's champion.")
]


class TrackableCommand(TyperCommand):
    """A command whose ``--track`` may stand without a value, which typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare ``--track`` its value."""
        for place, argument in enumerate(args):
            following = args[place + 1 : place + 2]
            if argument == "--track" and (not following or following[0].startswith("-")):
                args = [*args[: place + 1], _OWN_STORE, *args[place + 1 :]]
                break
        return super().parse_args(ctx, args)


def tracking_settings(track: str | None, *, tensorboard: bool, champion: bool = False) -> list[str]:
    """The options as ``section.setting=value``; what was not given stays as configured."""
    settings = [] if track is None else ["tracking.enabled=true"]
    if track not in (None, _OWN_STORE):
        settings.append(f"tracking.uri={track}")
    if tensorboard:
        settings.append("tracking.tensorboard=true")
    if champion:
        settings.append("tracking.champion=always")
    return settings


def tracker(config: SpotterConfig, out: Path) -> Tracker:
    """A tracker for the runs of one command, as configured."""
    from anomaly_spotter.tracking.tracker import Tracker

    return Tracker(config.tracking, out, announce)


def track_sync(
    out: Annotated[Path, typer.Option("--out", help="Output folder of the tracked commands.")] = Path(
        "outputs"
    ),
) -> None:
    """Deliver tracked runs that wait because their server was away; exit 2 while it still is."""
    from anomaly_spotter.tracking.courier import sync
    from anomaly_spotter.tracking.tracker import spool_folder

    done = sync(spool_folder(out), announce)
    for name in done.delivered:
        typer.echo(f"delivered: {name}")
    for name, reason in done.waiting.items():
        announce(f"waits: {name}: {reason}")
    if done.waiting:
        raise SpotterError(f"{len(done.waiting)} runs still wait in {spool_folder(out)}; try again later")
    if not done.delivered:
        typer.echo(f"nothing waits in {spool_folder(out)}")
