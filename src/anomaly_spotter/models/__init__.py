"""Stage 2, picture to anomaly map. The registry names each model once; its module is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from anomaly_spotter.extras import needed

if TYPE_CHECKING:
    from anomaly_spotter.models.base import AnomalyModel, FeatureModel

REGISTRY = {
    "memory": ("anomaly_spotter.models.memory", "MemoryModel"),
    "gaussian": ("anomaly_spotter.models.gaussian", "GaussianModel"),
    "unet": ("anomaly_spotter.models.unet", "UNetModel"),
}


def model_class(name: str) -> type[AnomalyModel]:
    """The class behind a registry name.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    module, attribute = REGISTRY[name]
    with needed("train", f"the model '{name}' needs PyTorch", "torch"):
        found: type[AnomalyModel] = getattr(importlib.import_module(module), attribute)
    return found


def feature_model(name: str) -> type[FeatureModel]:
    """The class of a model that is built from patch features in one pass."""
    return cast("type[FeatureModel]", model_class(name))
