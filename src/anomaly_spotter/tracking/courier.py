"""The thread that follows histories and delivers journals while the command works on, and the delivery of what waits."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomaly_spotter.errors import SpotterError
from anomaly_spotter.tracking.journal import FINISHED, KILLED, RUNNING, waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomaly_spotter.tracking.journal import Journal
    from anomaly_spotter.tracking.run import TrackedRun

_PAUSE = 1.0  # seconds between two looks at what there is to deliver
_PATIENCE = 30.0  # seconds until a server that failed is asked again


@dataclass(slots=True)
class Synced:
    """What :func:`sync` did: runs delivered, and why others still wait, by their name."""

    delivered: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)


def sync(spool: Path, announce: Callable[[str], None] = lambda _: None) -> Synced:
    """Deliver every run that waits in a spool and that no process works on.

    An interrupted run stays there, small, for a resume to go on with.

    Raises:
        MissingExtraError: MLflow is not installed, and something waits.
    """
    from anomaly_spotter.tracking.delivery import Store, Undelivered, prepare

    done = Synced()
    stores: dict[str, Store] = {}
    away: dict[str, str] = {}
    for journal in waiting(spool):
        name, uri = journal.head.name, journal.head.uri
        prepare()
        if journal.status == RUNNING:  # whoever wrote it is gone
            journal.append("status", status=KILLED)
        had_pending = not journal.is_delivered
        try:
            if uri in away:
                raise Undelivered(away[uri])
            stores.setdefault(uri, Store(uri)).deliver(journal, announce)
        except Undelivered as error:
            away[uri] = done.waiting[name] = str(error)
            journal.close()
            continue
        if had_pending:
            done.delivered.append(name)
        journal.close(remove=journal.status == FINISHED)
    return done


class Courier:
    """Delivers the journals of this process's runs.

    Args:
        spool: Where they lie.
        uri: Where they go; ``None`` only follows histories.
        announce: Told in one line each what the user should know.
    """

    def __init__(self, spool: Path, uri: str | None, announce: Callable[[str], None]) -> None:
        self._spool, self._uri, self._announce = spool, uri, announce
        self._runs: list[TrackedRun] = []
        self._journals: list[Journal] = []
        self._told, self._asked_again_at = False, 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store = None
        if uri is not None:
            from anomaly_spotter.tracking.delivery import Store

            self._store = Store(uri)

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def take(self, run: TrackedRun, journal: Journal | None) -> None:
        """Follow a run from now on, and deliver its journal."""
        self._runs = [*self._runs, run]
        if journal is not None:
            self._journals = [*self._journals, journal]

    def ended(self, run: TrackedRun) -> None:
        """There is nothing more to follow; the journal is still delivered."""
        self._runs = [each for each in self._runs if each is not run]

    def finish(self) -> None:
        """Deliver what is left, and what earlier commands left; say what could not be."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._store is None:
            return
        left = [journal for journal in self._journals if not journal.is_delivered]
        for journal in self._journals:
            if journal.is_delivered and journal.head.parent is None:
                self._announce(
                    f"tracked in {_shown(self._uri)}: run {journal.state['run_id']} ({journal.head.name})"
                )
            journal.close(remove=journal.is_delivered and journal.status == FINISHED)
        waits = len(left) or len(sync(self._spool, self._announce).waiting)
        if waits:
            self._announce(
                f"warning: tracking: {waits} runs wait in {self._spool}; the next tracked command delivers them, or: "
                f"anomaly-spotter track-sync --out {self._spool.parent.parent}"
            )

    def _work(self) -> None:
        while not self._stop.wait(_PAUSE):
            self._look(is_last=False)
        self._look(is_last=True)

    def _look(self, *, is_last: bool) -> None:
        from anomaly_spotter.tracking.delivery import Undelivered

        try:
            for run in self._runs:
                run.follow()
            if self._store is not None and (is_last or time.monotonic() >= self._asked_again_at):
                for journal in self._journals:
                    self._store.deliver(journal, self._announce)
        except (Undelivered, SpotterError, OSError) as error:
            self._asked_again_at = time.monotonic() + _PATIENCE
            if not self._told:
                self._told = True
                self._announce(
                    f"warning: tracking: {_shown(self._uri)} does not take the record now ({error}); going on, it waits in "
                    f"{self._spool}"
                )


def _shown(uri: str | None) -> str:
    """An address without its password."""
    return re.sub(r"(\w+://)[^/@]+@", r"\1", uri or "TensorBoard's folder")
