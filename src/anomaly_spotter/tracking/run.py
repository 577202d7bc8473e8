"""One tracked run: turns what happens to a detector into parameters, metrics, tags and files for its sinks."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from anomaly_spotter.products import ProductSpotter
from anomaly_spotter.tracking import facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from anomaly_spotter.config import TrackingConfig
    from anomaly_spotter.spotter import Spotter
    from anomaly_spotter.tracking.sinks import Sink


class History:
    """Follows ``history.jsonl`` while training rewrites it, epoch by epoch.

    Args:
        path: The file; need not exist yet.
        is_continued: Whether rows that are there already belong to this run, because it is a resumed one.
    """

    def __init__(self, path: Path, *, is_continued: bool) -> None:
        self.path = path
        self._foreign = None if is_continued else self._signature()

    def rows(self) -> list[dict[str, float]]:
        """All epochs of this run so far."""
        if self._foreign is not None and self._signature() == self._foreign:
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return []

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


class TrackedRun:
    """What the verbs tell; does nothing where nothing is tracked (no sinks).

    Args:
        sinks: Where to.
        settings: How models are registered.
        history: Followed while the run lasts.
        epochs_known: How many epochs an earlier attempt at this run has told.
        key: Identifies the run where it is tracked by MLflow.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        settings: TrackingConfig,
        history: History | None = None,
        epochs_known: int = 0,
        key: str | None = None,
    ) -> None:
        self.sinks, self.settings, self.key = sinks, settings, key
        self.is_interrupted = False
        self._history, self._epochs = history, epochs_known
        self._epochs_lock = threading.Lock()

    def asked(self, config: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """What is to be done: the whole configuration, and what else tells this run from others."""
        for sink in self.sinks:
            if config:
                sink.parameters(facts.parameters(config))
            if tags:
                sink.tags(tags)

    def status(self, status: str) -> None:
        """The run began, or ended."""
        for sink in self.sinks:
            sink.status(status)

    def follow(self) -> None:
        """Tell the epochs that have ended since the last call."""
        if self._history is not None:
            self.epochs(self._history.rows())

    def epochs(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Losses and learning rate of each epoch (one row each, ``epoch`` counts from 1); each is told once."""
        with self._epochs_lock:
            for row in rows:
                step = int(row["epoch"])
                if step > self._epochs:
                    self._epochs = step
                    self.metrics(facts.numbers({k: v for k, v in row.items() if k != "epoch"}), step)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Finite numbers by their path, of an epoch or (0) of the whole run."""
        for sink in self.sinks:
            sink.metrics(values, step)

    def files(self, files: Mapping[str, Path | str], folder: str = "") -> None:
        """Files or texts by the name they get."""
        for sink in self.sinks:
            sink.files(files, folder)

    def folder(self, path: Path, folder: str) -> None:
        """All files right in ``path``."""
        self.files({file.name: file for file in sorted(path.iterdir()) if file.is_file()}, folder)

    def fitted(self, spotter: Spotter) -> None:
        """What is known of a fitted detector: origin, calibration, promise, and the epochs that led to it."""
        if not self.sinks:
            return
        self.is_interrupted = bool(spotter.provenance.get("interrupted"))
        self.epochs(spotter.provenance.get("history", []))
        self.metrics(facts.training_metrics(spotter))
        settled = facts.fitted_parameters(spotter.provenance.get("asked", {}), spotter.config.to_dict())
        for sink in self.sinks:
            if settled:
                sink.parameters(settled)
            sink.tags(facts.detector_tags(spotter))
        calibration = spotter.calibration.to_dict()
        self.files({"training.json": _json(spotter.describe()), "calibration.json": _json(calibration)})

    def trained(self, spotter: Spotter | ProductSpotter, bundle: Path) -> None:
        """A detector, or several products', was fitted and written: also its file, and the model for the registry."""
        if not self.sinks:
            return
        if isinstance(spotter, ProductSpotter):
            tags = {"products": ", ".join(spotter.products), "identity": spotter.identity}
            name = "+".join(spotter.products)
        else:
            self.fitted(spotter)
            tags, name = facts.detector_tags(spotter), str(spotter.provenance["category"])
        register = None if self.is_interrupted else self.settings.registered_model or name
        for sink in self.sinks:
            sink.tags(tags)
            sink.model(bundle, tags, register, self.settings.champion)
        self.files({bundle.name: bundle}, "bundle")

    def about(self, spotter: Spotter) -> None:
        """Which detector the run is about, where another run has trained it."""
        for sink in self.sinks:
            sink.tags(facts.detector_tags(spotter))

    def evaluated(self, result: Mapping[str, Any], report: Path | None = None) -> None:
        """A detector was measured: the evaluation JSON, its numbers, and the folder with the report and its figures."""
        self.metrics(facts.evaluation_metrics(result))
        for sink in self.sinks:
            sink.tags({"evaluation_data_sha256": str(result["data"]["sha256"])})
            sink.files({"evaluation.json": _json(result)})
        if report is not None and self.sinks:
            self.folder(report, "report")


def _json(values: Any) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
