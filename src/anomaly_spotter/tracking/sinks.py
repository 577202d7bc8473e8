"""Where a run's record goes: the contract, and the journal that is delivered to MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anomaly_spotter.tracking.journal import Journal


class Sink(Protocol):
    """Takes what becomes known about one run."""

    def parameters(self, values: Mapping[str, str]) -> None:
        """Settings; each is told once and never changes."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Where things come from."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Finite numbers, of an epoch or (0) of the whole run."""

    def files(self, files: Mapping[str, Path | str], folder: str = "") -> None:
        """Files, or texts, by the name they get."""

    def model(self, bundle: Path, tags: Mapping[str, str], register: str | None, champion: str) -> None:
        """The model file, and under which name it enters the registry."""

    def status(self, status: str) -> None:
        """The run began, or ended."""


class JournalSink:
    """Writes all of it down for delivery."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def parameters(self, values: Mapping[str, str]) -> None:
        """As :class:`Sink`."""
        self.journal.append("parameters", values=dict(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """As :class:`Sink`."""
        self.journal.append("tags", values=dict(values))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """As :class:`Sink`."""
        self.journal.append("metrics", values=dict(values), step=step)

    def files(self, files: Mapping[str, Path | str], folder: str = "") -> None:
        """As :class:`Sink`."""
        self.journal.append("files", files=self.journal.keep(files), folder=folder)

    def model(self, bundle: Path, tags: Mapping[str, str], register: str | None, champion: str) -> None:
        """As :class:`Sink`."""
        kept = self.journal.keep({bundle.name: bundle})
        self.journal.append("model", files=kept, tags=dict(tags), register=register, champion=champion)

    def status(self, status: str) -> None:
        """As :class:`Sink`."""
        self.journal.append("status", status=status)
