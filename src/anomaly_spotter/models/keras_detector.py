"""The fitted U-Net in Keras 3 as an engine: a canvas picture in, its anomaly map and its restored picture out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from anomaly_spotter.errors import BundleError, ConfigError
from anomaly_spotter.models import keras_unet
from anomaly_spotter.models.cells import STRIDE
from anomaly_spotter.models.keras_features import features, slopes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig

    Arrays = Mapping[str, NDArray[np.generic]]
    Size = tuple[int, int, int]

_NETWORK = "network."


class KerasSession:
    """Behind the contract of the engines (:class:`~anomaly_spotter.models.engines.Session`)."""

    def __init__(self, model: keras.Model) -> None:
        model.compile(
            jit_compile=keras.backend.backend() == "jax"
        )  # XLA takes long to compile, and gains nothing
        self._model = model

    def __call__(self, *values: NDArray[Any]) -> list[NDArray[Any]]:
        """``uint8 [H, W, C]`` -> map ``float32 [H, W]`` and restored picture ``float32 [1, C, H, W]``."""
        found = self._model.predict_on_batch(values[0][None])
        return [np.asarray(found["map"])[0], np.asarray(found["restored"]).transpose(0, 3, 1, 2)]


def detector(config: ModelConfig, size: Size, arrays: Arrays, batch: int | None = None) -> keras.Model:
    """``canvas`` ``uint8 [B, H, W, C]`` -> ``map`` ``float32 [B, H, W]`` and ``restored`` ``float32 [B, H, W, C]``.

    Args:
        config: Settings of the model.
        size: ``(H, W, C)`` of the canvas.
        arrays: The model's arrays in the bundle.
        batch: Fixed number of pictures; any if not given.

    Raises:
        ConfigError: The model is no U-Net, or its features run in PyTorch only.
        BundleError: An array is missing or does not fit.
    """
    if config.name != "unet":
        raise ConfigError(
            f"Keras runs the U-Net only; this is a '{config.name}': name another engine or format"
        )
    network = keras_unet.build(size, config)
    own = {key.removeprefix(_NETWORK): value for key, value in arrays.items() if key.startswith(_NETWORK)}
    keras_unet.load(network, own)
    canvas = keras.Input(batch_shape=(batch, *size), dtype="uint8", name="canvas")
    levels = layers.Rescaling(1.0, dtype="float32")(canvas)
    picture = layers.Rescaling(1 / 127.5, -1.0)(levels)
    try:
        restored = network(picture)
        kinds = _evidence(picture, levels, restored, config, arrays)
        total = None
        for kind, unit in zip(kinds, np.asarray(arrays["spread"], np.float64), strict=True):
            weighed = layers.Rescaling(float(1 / unit))(kind)
            total = weighed if total is None else layers.Add()([total, weighed])
    except (KeyError, ValueError) as error:
        raise BundleError(f"the model's arrays do not fit ({error}); use the original file") from None
    outputs = {"map": layers.Reshape(size[:2], name="map")(total), "restored": restored["picture"]}
    model = keras.Model(canvas, outputs, name="detector")
    model.trainable = False
    return model


def _evidence(
    picture: Any, levels: Any, restored: Mapping[str, Any], config: ModelConfig, arrays: Arrays
) -> list[Any]:
    """Each kind of evidence that the settings name, ``[B, H, W, 1]``; as in :mod:`~anomaly_spotter.models.unet`."""
    difference = layers.Subtract()([picture, restored["picture"]])
    kinds = []
    for kind in config.evidence:
        if kind == "grey":
            error = ops.square(difference) if config.error == "squared" else ops.abs(difference)
            kinds.append(ops.mean(error, axis=-1, keepdims=True))
        elif kind == "gradient":
            across, down = slopes(difference, "slope")
            length = ops.sqrt(ops.square(across) + ops.square(down))
            kinds.append(ops.mean(length, axis=-1, keepdims=True))
        elif kind == "segmentation":
            kinds.append(ops.softplus(restored["marked"]))
        else:
            seen = features(levels, config.features, arrays)
            apart = ops.square(layers.Subtract()([seen, restored["features"]]))
            distance = ops.sqrt(ops.sum(apart, axis=-1, keepdims=True))
            kinds.append(layers.UpSampling2D(STRIDE, interpolation="bilinear")(distance))
    return kinds
