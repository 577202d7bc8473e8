"""Anomaly Spotter: learns good parts from good pictures alone, then says OK or DEFECT, shows where, and how sure.

The public API is :class:`Spotter`, or :class:`ProductSpotter` for several products, with :class:`Inspection` as its
answer; :func:`load` reads the file of either. Names are loaded on first use, so that
``import anomaly_spotter`` and the command line's ``--help`` cost no PyTorch import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_spotter.config import SpotterConfig
    from anomaly_spotter.errors import (
        BundleError,
        ConfigError,
        DatasetError,
        MissingExtraError,
        PictureError,
        SpotterError,
    )
    from anomaly_spotter.evaluation import Evaluation
    from anomaly_spotter.inputs.condition import Condition
    from anomaly_spotter.inputs.layouts import Dataset, Sample, load_dataset
    from anomaly_spotter.products import ProductSpotter, load
    from anomaly_spotter.scoring.drift import DriftReport, DriftSettings, DriftWatch
    from anomaly_spotter.scoring.inspection import Inspection, Region, Verdict
    from anomaly_spotter.spotter import Spotter

__version__ = "0.1.0"

_HOME = {
    "Spotter": "spotter",
    "ProductSpotter": "products",
    "load": "products",
    "Evaluation": "evaluation",
    "Inspection": "scoring.inspection",
    "Condition": "inputs.condition",
    "DriftReport": "scoring.drift",
    "DriftSettings": "scoring.drift",
    "DriftWatch": "scoring.drift",
    "Region": "scoring.inspection",
    "Verdict": "scoring.inspection",
    "Dataset": "inputs.layouts",
    "Sample": "inputs.layouts",
    "load_dataset": "inputs.layouts",
    "SpotterConfig": "config",
    "SpotterError": "errors",
    "PictureError": "errors",
    "DatasetError": "errors",
    "ConfigError": "errors",
    "BundleError": "errors",
    "MissingExtraError": "errors",
}

__all__ = [
    "BundleError",
    "Condition",
    "ConfigError",
    "Dataset",
    "DatasetError",
    "DriftReport",
    "DriftSettings",
    "DriftWatch",
    "Evaluation",
    "Inspection",
    "MissingExtraError",
    "PictureError",
    "ProductSpotter",
    "Region",
    "Sample",
    "Spotter",
    "SpotterConfig",
    "SpotterError",
    "Verdict",
    "__version__",
    "load",
    "load_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"anomaly_spotter.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
