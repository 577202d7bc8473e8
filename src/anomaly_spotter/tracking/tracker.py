"""The tracked work of one command: opens runs, and delivers their journals on a thread beside the training.

A server that is away is told to the user once; what it misses stays in the spool below the output folder, from where
the next tracked command, or ``track-sync``, delivers it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from anomaly_spotter.errors import ConfigError, Interrupted
from anomaly_spotter.tracking.courier import Courier
from anomaly_spotter.tracking.journal import FAILED, FINISHED, KILLED, RUNNING, Head, Journal, waiting
from anomaly_spotter.tracking.run import History, TrackedRun
from anomaly_spotter.tracking.sinks import JournalSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from anomaly_spotter.config import SpotterConfig, TrackingConfig
    from anomaly_spotter.tracking.sinks import Sink

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK")  # of a distributed training, whose first process alone tracks


def spool_folder(out: Path) -> Path:
    """Where runs wait for delivery."""
    return out / "mlflow" / "spool"


class Tracker:
    """Records the runs of one command as its settings ask; with tracking off, all of it does nothing.

    Args:
        settings: Where to.
        out: The command's output folder; the local store and the spool lie below it.
        announce: Told in one line each what the user should know.

    Raises:
        MissingExtraError: MLflow is asked for and not installed.
        ConfigError: The server's address holds a password.

    Example:
        >>> with Tracker(config.tracking, out, print) as tracker:  # doctest: +SKIP
        ...     with tracker.run("hazelnut-unet", config) as run:
        ...         spotter = Spotter.fit(data, config=config)
        ...         run.trained(spotter, spotter.save(out / "hazelnut.spot"))
    """

    def __init__(
        self, settings: TrackingConfig, out: Path, announce: Callable[[str], None] = lambda _: None
    ) -> None:
        self.settings, self.out = settings, out
        self._is_first = all(os.environ.get(rank, "0") == "0" for rank in _RANKS)
        self._store: tuple[str, str | None] | None = None
        if settings.enabled and self._is_first:
            from anomaly_spotter.tracking.delivery import prepare

            self._store = _store(settings, out)
            prepare()
        self._courier = Courier(spool_folder(out), None if self._store is None else self._store[0], announce)

    def __enter__(self) -> Self:
        if self.settings.enabled or self.settings.tensorboard:
            self._courier.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._courier.finish()

    def part_of(self, parent: TrackedRun) -> Callable[[str, SpotterConfig, Path, bool], Any]:
        """What :func:`anomaly_spotter.fleet.local.process_all` calls for each category: runs within ``parent``."""
        return lambda name, config, history, resume: self.run(
            name, config, history=history, resume=resume, parent=parent
        )

    @contextmanager
    def run(
        self,
        name: str,
        config: SpotterConfig | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        history: Path | None = None,
        resume: bool = False,
        parent: TrackedRun | None = None,
    ) -> Iterator[TrackedRun]:
        """One run, from its beginning to its end.

        Args:
            name: Its name.
            config: Its parameters.
            tags: What tells it from others.
            history: A ``history.jsonl``, whose epochs are told as they are written.
            resume: Go on with an interrupted run of this name, if there is one, instead of beginning another.
            parent: The run that this one is a part of.
        """
        journal, known = None, 0
        sinks: list[Sink] = []
        if self._store is not None:
            journal = self._journal(name, parent, resume=resume)
            known = max((e["step"] for e in journal.events() if e["kind"] == "metrics"), default=0)
            sinks.append(JournalSink(journal))
        if self.settings.tensorboard and self._is_first:
            from anomaly_spotter.tracking.tensorboard import TensorBoardSink

            sinks.append(TensorBoardSink(self.out / "tensorboard" / name))
        run = TrackedRun(
            sinks,
            self.settings,
            None if history is None else History(history, is_continued=resume),
            known,
            None if journal is None else journal.head.key,
        )
        run.status(RUNNING)
        run.asked({} if config is None else config.to_dict(), tags or {})
        self._courier.take(run, journal)
        status = FINISHED
        try:
            yield run
        except (Interrupted, KeyboardInterrupt):
            status = KILLED
            raise
        except BaseException:
            status = FAILED
            raise
        finally:
            run.follow()
            run.status(KILLED if run.is_interrupted else status)
            self._courier.ended(run)

    def _journal(self, name: str, parent: TrackedRun | None, *, resume: bool) -> Journal:
        """A new journal, or with ``resume`` that of the last attempt, unless it came to its end."""
        uri, artifacts = self._store or ("", None)
        head = Head(name, uri, artifacts, self.settings.experiment, None if parent is None else parent.key)
        found: Journal | None = None
        journal: Journal | None
        for journal in waiting(spool_folder(self.out)):
            if resume and head.continues(journal.head) and journal.status != FINISHED:
                journal, found = found, journal  # the newest attempt is taken up, an older one put to rest
            if journal is not None:
                journal.close(remove=head.replaces(journal.head) and journal.is_delivered)
        return found or Journal.create(spool_folder(self.out), head)


def _store(settings: TrackingConfig, out: Path) -> tuple[str, str | None]:
    """Where to track to, and where its files go if it is a database of ours on this disk.

    Raises:
        ConfigError: The address holds a password, which would be written to the spool.
    """
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        folder = (out / "mlflow").absolute()
        return f"sqlite:///{(folder / 'mlflow.db').as_posix()}", (folder / "artifacts").as_uri()
    if uri.startswith("http") and urlsplit(uri).password is not None:
        raise ConfigError(
            "a tracking server's address must not hold a password; give it in MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    return uri, None
