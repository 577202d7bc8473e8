"""What a tracking server is told about a detector and its evaluation: plain parameters, metrics and tags.

Names of metrics are paths with slashes, as in the result files; only those ending in ``_max`` come from a threshold that
was chosen with the test labels.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomaly_spotter.spotter import Spotter

_FITTED = "fitted."
_NUMBERS = ("fit_seconds", "train_pictures_per_second", "epochs")
_FOREIGN = re.compile(r"[^\w\-./ ]")  # what MLflow allows in names on every system


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration tree as ``section.setting`` -> text.

    Example:
        >>> parameters({"training": {"epochs": 3}, "preset": "unet"})
        {'training.epochs': '3', 'preset': 'unet'}
    """
    return {".".join(path): str(value) for path, value in _leaves(config)}


def fitted_parameters(asked: Mapping[str, Any], fitted: Mapping[str, Any]) -> dict[str, str]:
    """What fitting settled that was asked for otherwise (``auto``), under names of its own: parameters never change."""
    before = parameters(asked)
    return {
        f"{_FITTED}{name}": value for name, value in parameters(fitted).items() if before.get(name) != value
    }


def numbers(tree: Mapping[str, Any]) -> dict[str, float]:
    """Every finite number of a tree by its path.

    Example:
        >>> numbers({"image": {"auroc": 0.9, "f1_max": None}, "per_kind": {"crack": {"count": 3}}})
        {'image/auroc': 0.9, 'per_kind/crack/count': 3.0}
    """
    return {
        _FOREIGN.sub("_", "/".join(part.replace("/", "_") for part in path)): float(value)
        for path, value in _leaves(tree)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def training_metrics(spotter: Spotter) -> dict[str, float]:
    """Calibration, promise, counts and durations of a fitted detector."""
    calibration, provenance = spotter.calibration, spotter.provenance
    return numbers(
        {
            "calibration": {
                "threshold": calibration.threshold,
                "pixel_threshold": calibration.pixel_threshold,
                "pictures": len(calibration.scores),
                "refused": calibration.refused,
            },
            "promise": dataclasses.asdict(calibration.promise),
            "pictures": provenance.get("train_counts", {}),
            "training": {name: provenance[name] for name in _NUMBERS if name in provenance},
        }
    )


def evaluation_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation JSON or a benchmark cell."""
    sections = ("image", "pixel", "per_kind", "timing", "at_rate", "robustness", "cost")
    return numbers({name: result[name] for name in sections if result.get(name)})


def origin(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say what a detector was made from: pictures, source, settings."""
    tags = {
        "category": provenance.get("category"),
        "model": provenance.get("model"),
        "preset": provenance.get("preset"),
        "data_sha256": provenance.get("data_sha256"),
        "git_commit": provenance.get("commit"),
        "mlflow.source.git.commit": provenance.get("commit"),  # where MLflow's pages look for it
        "anomaly_spotter_version": provenance.get("version"),
        "interrupted": provenance.get("interrupted"),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def detector_tags(spotter: Spotter) -> dict[str, str]:
    """Origin, promise and identity; the identity ties evaluations to the run that trained what they measured."""
    return {**origin(spotter.provenance), "guarantee": spotter.guarantee, "identity": spotter.identity}


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value
