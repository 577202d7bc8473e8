"""What a verb shows while it works, and how it ends."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_OK, EXIT_DEFECT, EXIT_ERROR, EXIT_UNREADABLE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def announce(text: str) -> None:
    """A remark, on stderr."""
    typer.echo(text, err=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time remaining on stderr, fed by (done, total); shown from the first call on."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    own_stdout = not sys.stdout.isatty()  # rows that go to a file must not end on the terminal
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, redirect_stdout=not own_stdout
    ) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars as :func:`progress_bar`, one for each stage that reports."""
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
def interruptible() -> Iterator[None]:
    """Ctrl-C outside the training loop: nothing is half-written, and the next call can take up the thread."""
    from anomaly_spotter.errors import Interrupted

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        typer.echo("interrupted; the same command with --resume goes on from here", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
