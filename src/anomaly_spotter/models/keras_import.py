"""Keras 3, imported when it is asked for and not before, since TensorFlow takes seconds to start.

Which backend runs it is Keras's own setting, ``KERAS_BACKEND`` or its ``keras.json``: TensorFlow, unless the user has
chosen PyTorch or JAX.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from anomaly_spotter.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGES = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}


def keras_module(name: str) -> ModuleType:
    """A module of this package that is written in Keras, by its name below ``anomaly_spotter``.

    Raises:
        MissingExtraError: Keras or its backend is not installed.
        ConfigError: ``KERAS_BACKEND`` names no backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what the processor could do is no news for a user
    try:
        importlib.import_module("keras")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in _PACKAGES:
            raise MissingExtraError(
                f"Keras's backend {package} is not installed: pip install 'anomaly-spotter[keras]' for TensorFlow, or "
                f"pip install {_PACKAGES[package]}"
            ) from None
        if package != "keras":
            raise
        raise MissingExtraError("Keras is not installed: pip install 'anomaly-spotter[keras]'") from None
    except ValueError as error:
        raise ConfigError(
            f"KERAS_BACKEND is '{os.environ.get('KERAS_BACKEND')}'; choose tensorflow, torch or jax ({error})"
        ) from None
    return importlib.import_module(f"anomaly_spotter.{name}")


def keras_version() -> str:
    """What computes, for example ``keras 3.15.1 on tensorflow``; only once Keras is imported."""
    import keras

    return f"keras {keras.__version__} on {keras.backend.backend()}"
