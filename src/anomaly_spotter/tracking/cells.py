"""A benchmark's cells as tracked runs below the benchmark's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anomaly_spotter.config import SpotterConfig
from anomaly_spotter.tracking import facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomaly_spotter.tracking.run import TrackedRun
    from anomaly_spotter.tracking.tracker import Tracker


def track_cell(tracker: Tracker, benchmark: TrackedRun, result: Mapping[str, Any]) -> None:
    """Record one cell: settings, numbers, and its result file.

    Args:
        tracker: Of the command.
        benchmark: The run that the cell is a part of.
        result: As :func:`anomaly_spotter.fleet.benchmark_cell.measure` returns it.
    """
    cell = result["cell"]
    name = f"{cell['category']}-{cell['model']}-{cell['seed']}"
    tags = facts.origin(result["bundle"]) | {"guarantee": result["guarantee"]}
    with tracker.run(name, SpotterConfig.parse(result["config"]), tags=tags, parent=benchmark) as run:
        run.metrics(facts.evaluation_metrics(result))
        run.files({"cell.json": json.dumps(result, indent=2) + "\n"})
