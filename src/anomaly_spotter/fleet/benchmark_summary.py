"""Benchmark cells -> one row per model and category: means over the seeds, their deviation, the largest change."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from anomaly_spotter.fleet.benchmark_cell import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MEASURES = ("image", "pixel", "per_kind", "promise", "at_rate", "robustness", "cost")


def summarise(cells: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Group results by category and model, in the order in which they first appear.

    Returns:
        Rows with ``category``, ``model``, ``seeds``, ``data`` and, for each number of the cells, ``{"mean",
        "deviation", "count"}`` in the same tree; ``largest_change`` says which perturbation moves a number most.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["cell"]["category"], cell["cell"]["model"]), []).append(cell)
    return [_row(category, model, found) for (category, model), found in groups.items()]


def spread(trees: Sequence[Any]) -> Any:
    """Merge equally shaped trees of numbers: each leaf becomes its mean, sample deviation and count.

    ``None`` and missing leaves do not count; a leaf that no tree has stays ``None``.

    Example:
        >>> spread([{"auroc": 0.75}, {"auroc": 0.25}])["auroc"]["mean"]
        0.5
    """
    known = [tree for tree in trees if tree is not None]
    if known and isinstance(known[0], dict):
        keys = dict.fromkeys(key for tree in known for key in tree)
        return {key: spread([tree.get(key) for tree in known]) for key in keys}
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "deviation": deviation, "count": len(known)}


def _row(category: str, model: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    measures = {name: spread([cell[name] for cell in cells]) for name in _MEASURES}
    return {
        "category": category,
        "model": model,
        "seeds": [cell["cell"]["seed"] for cell in cells],
        "data": cells[0]["data"],
        **measures,
        "largest_change": _largest_changes(measures["robustness"]),
    }


def _largest_changes(robustness: Mapping[str, Any] | None) -> dict[str, dict[str, Any] | None] | None:
    """For each number the perturbation that moves its mean furthest from the pictures as they are, and how far."""
    if not robustness:
        return None
    changes: dict[str, dict[str, Any] | None] = {}
    for key, base in robustness[UNCHANGED].items():
        moved = {
            name: row[key]["mean"] - base["mean"]
            for name, row in robustness.items()
            if name != UNCHANGED and base and row[key]
        }
        worst = max(moved, key=lambda name: abs(moved[name]), default=None)
        changes[key] = None if worst is None else {"perturbation": worst, "change": moved[worst]}
    return changes
