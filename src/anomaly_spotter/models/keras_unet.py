"""The U-Net of :mod:`~anomaly_spotter.models.unet` in Keras 3, on TensorFlow, PyTorch or JAX: same layers, same numbers.

Keras keeps channels last: pictures are ``float32 [B, H, W, C]`` in [-1, 1]. Weights are exchanged with PyTorch, the ONNX
graphs and the bundles under PyTorch's names and in PyTorch's layout. Nothing but Keras's own layers and operations is
used, so that a saved model loads where this package is not installed, and with ``safe_mode``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.cells import STRIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig

    Arrays = Mapping[str, NDArray[np.generic]]
    Size = tuple[int, int, int]

_EPSILON, _MOMENTUM = 1e-5, 0.9  # PyTorch's defaults; Keras counts the momentum from the other end
_REFERENCE = "reference"
_COUNTER = "num_batches_tracked"  # of training steps, which PyTorch keeps and nobody reads


def build(size: Size, config: ModelConfig, dtype: str = "float32") -> keras.Model:
    """The network: ``picture`` ``[B, H, W, C]`` in [-1, 1] -> a dictionary of its outputs.

    ``picture`` is the good picture ``[B, H, W, C]``; ``marked``, where the settings ask for it, the log odds of a defect
    ``[B, H, W, 1]``; ``features`` the good picture's patch features ``[B, H/8, W/8, d]``.

    Args:
        size: ``(H, W, C)``, H and W multiples of 8 times the stem.
        config: Its settings.
        dtype: A policy of Keras: ``float32``, or ``mixed_bfloat16`` to train faster where the processor can.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        picture = keras.Input(size, name="picture", dtype="float32")
        return keras.Model(picture, _outputs(picture, size, config), name="unet")
    finally:
        keras.config.set_dtype_policy(before)


def load(network: keras.Model, arrays: Arrays) -> None:
    """Set the weights of a network from arrays named and laid out as ``UNet.state_dict()`` has them.

    Raises:
        BundleError: An array is missing or of another shape.
    """
    try:
        for layer in _weighted(network):
            key = _key(layer)
            if isinstance(layer, layers.EinsumDense):
                layer.set_weights([np.zeros(arrays[key].shape[1]), _last(arrays[key])[0]])
            elif isinstance(layer, layers.BatchNormalization):
                names = ("weight", "bias", "running_mean", "running_var")
                layer.set_weights([np.asarray(arrays[f"{key}.{name}"]) for name in names])
            else:
                kernel = np.asarray(arrays[f"{key}.weight"]).transpose(2, 3, 1, 0)
                layer.set_weights([kernel, *([arrays[f"{key}.bias"]] if layer.use_bias else [])])
    except (KeyError, ValueError) as error:
        raise BundleError(f"the weights do not fit the model: {' '.join(str(error).split())}") from None


def weights(network: keras.Model) -> dict[str, NDArray[np.generic]]:
    """Inverse of :func:`load`: complete for ``UNet.load_state_dict()``."""
    found: dict[str, NDArray[np.generic]] = {}
    for layer in _weighted(network):
        key, values = _key(layer), layer.get_weights()
        if isinstance(layer, layers.EinsumDense):
            found[key] = np.ascontiguousarray(values[1].transpose(2, 0, 1)[None])
        elif isinstance(layer, layers.BatchNormalization):
            names = ("weight", "bias", "running_mean", "running_var")
            found |= {f"{key}.{name}": value for name, value in zip(names, values, strict=True)}
            found[f"{key}.{_COUNTER}"] = np.zeros((), np.int64)
        else:
            found[f"{key}.weight"] = np.ascontiguousarray(values[0].transpose(3, 2, 0, 1))
            if layer.use_bias:
                found[f"{key}.bias"] = values[1]
    return found


def _outputs(picture: Any, size: Size, config: ModelConfig) -> dict[str, Any]:
    stem, channels = config.stem, size[2]
    w0, w1, w2, w3 = config.widths
    seen = picture
    if config.reference:
        seen = layers.Concatenate()([picture, _constant(size)(picture)])
    folded = _unshuffled(seen, stem)
    x0 = _double_conv(folded, w0, "encode0", config)  # [B, H, W, w0], H and W those of the folded picture
    x1 = _double_conv(layers.MaxPooling2D(2)(x0), w1, "encode1", config)  # [B, H/2, W/2, w1]
    x2 = _double_conv(layers.MaxPooling2D(2)(x1), w2, "encode2", config)  # [B, H/4, W/4, w2]
    x = _double_conv(layers.MaxPooling2D(2)(x2), w3, "bottom", config)  # [B, H/8, W/8, w3]
    x = _double_conv(_join(x, x2, skip=config.skips[2]), w2, "decode2", config)  # [B, H/4, W/4, w2]
    found = {}
    if "features" in config.evidence:
        found["features"] = _head(_to_grid(x, stem), w3, config.dimensions, "expect", config)
    x = _double_conv(_join(x, x1, skip=config.skips[1]), w1, "decode1", config)  # [B, H/2, W/2, w1]
    x = _double_conv(_join(x, x0, skip=config.skips[0]), w0, "decode0", config)  # [B, H, W, w0]
    painted = layers.Conv2D(channels * stem**2, 1, activation="tanh", name="output")(x)
    found["picture"] = _shuffled(painted, stem)
    if "segmentation" in config.evidence:
        head = _head(layers.Concatenate()([x, x0]), w0, stem**2, "segment", config)
        found["marked"] = _shuffled(head, stem)
    return found


def _weighted(network: keras.Model) -> list[Any]:
    """The layers with weights that a bundle keeps as the network's."""
    kinds = (layers.EinsumDense, layers.BatchNormalization, layers.Conv2D)
    return [layer for layer in network.layers if isinstance(layer, kinds)]


def _key(layer: Any) -> str:
    return str(layer.name).replace("_", ".")


def _last(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """``[B, C, H, W] -> [B, H, W, C]``."""
    return np.asarray(array).transpose(0, 2, 3, 1)


def _constant(size: Size) -> Any:
    """A layer that answers any batch of finite pictures with its own picture: 0 times the one, plus the other."""
    return layers.EinsumDense(
        "bhwc,c->bhwc",
        output_shape=size,
        bias_axes="hwc",
        kernel_initializer="zeros",
        trainable=False,
        name=_REFERENCE,
    )


def _unshuffled(x: Any, stem: int) -> Any:
    """``pixel_unshuffle``: ``stem`` x ``stem`` pixels become channels, those of one channel side by side."""
    if stem == 1:
        return x
    height, width, channels = x.shape[1] // stem, x.shape[2] // stem, x.shape[3]
    x = layers.Reshape((height, stem, width, stem, channels))(x)
    return layers.Reshape((height, width, channels * stem**2))(layers.Permute((1, 3, 5, 2, 4))(x))


def _shuffled(x: Any, stem: int) -> Any:
    """``pixel_shuffle``, the inverse."""
    if stem == 1:
        return x
    height, width, channels = x.shape[1], x.shape[2], x.shape[3] // stem**2
    x = layers.Reshape((height, width, channels, stem, stem))(x)
    return layers.Reshape((height * stem, width * stem, channels))(layers.Permute((1, 4, 2, 5, 3))(x))


def _join(below: Any, beside: Any, *, skip: bool) -> Any:
    up = layers.UpSampling2D(2, interpolation="bilinear")(below)  # corners are not aligned, as in PyTorch
    return layers.Concatenate()([up, beside]) if skip else up


def _to_grid(x: Any, stem: int) -> Any:
    """From a quarter of the folded picture's resolution to the cells of the patch features."""
    shrink = STRIDE // (4 * stem)
    return x if shrink <= 1 else layers.AveragePooling2D(shrink)(x)


def _head(x: Any, width: int, channels: int, key: str, config: ModelConfig) -> Any:
    hidden = _conv3(x, width, f"{key}_0", f"{key}_1", config)
    return layers.Conv2D(channels, 1, name=f"{key}_{3 if config.batch_norm else 2}")(hidden)


def _double_conv(x: Any, width: int, key: str, config: ModelConfig) -> Any:
    step = 3 if config.batch_norm else 2
    for number in (0, step):
        x = _conv3(x, width, f"{key}_{number}", f"{key}_{number + 1}", config)
    return x


def _conv3(x: Any, width: int, key: str, norm: str, config: ModelConfig) -> Any:
    x = layers.Conv2D(width, 3, padding="same", use_bias=not config.batch_norm, name=key)(x)
    if config.batch_norm:
        x = layers.BatchNormalization(momentum=_MOMENTUM, epsilon=_EPSILON, name=norm)(x)
    return layers.ReLU()(x)
