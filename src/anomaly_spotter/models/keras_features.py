"""Patch features in Keras 3: :mod:`~anomaly_spotter.models.features` with its backbone, for evidence and exports.

Nothing here learns. The layers take their weights from a bundle's arrays as they are built; only Keras's own layers and
operations are used.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import layers, ops

from anomaly_spotter.errors import ConfigError
from anomaly_spotter.models.cells import STRIDE
from anomaly_spotter.models.lite import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]

_MIRRORED = 16  # canvas pixels around the picture, as in models/features.py
_ORIENTATIONS = 8


def features(levels: Any, name: str, arrays: Arrays) -> Any:
    """Projected patch features ``[B, H/8, W/8, d]`` of ``levels`` ``[B, H, W, C]`` in 0..255.

    Args:
        levels: Symbolic, with known H and W.
        name: Of the features, as in the settings.
        arrays: A bundle's arrays of the model: ``backbone.*``, ``mean`` and ``components``.

    Raises:
        ConfigError: The features are a network of timm's, which only PyTorch runs.
        KeyError: An array is missing.
    """
    if name != "gradients" and name not in VARIANTS:
        raise ConfigError(f"the features '{name}' run in PyTorch only; take lite0, lite1, lite2 or gradients")
    found = _gradients(levels) if name == "gradients" else _backbone_grid(levels, name, arrays)
    mean, components = (np.asarray(arrays[key], np.float64) for key in ("mean", "components"))
    kernel = components[None, None].astype(np.float32)
    return _convolved(found, kernel, bias=(-mean @ components).astype(np.float32), name="projection")


def padded_with_edge(x: Any, width: int) -> Any:
    """The outermost pixels repeated ``width`` times around ``[B, H, W, C]``."""
    for axis in (1, 2):
        length = x.shape[axis]
        first, last = (ops.take(x, [index] * width, axis=axis) for index in (0, length - 1))
        x = layers.Concatenate(axis=axis)([first, x, last])
    return x


def slopes(x: Any, name: str) -> tuple[Any, Any]:
    """Differences of the neighbours to the right and left, and below and above, of each pixel, ``[B, H, W, C]``."""
    kernels = np.zeros((2, 3, 3, x.shape[3], 1), np.float32)
    kernels[0, 1, 2], kernels[0, 1, 0] = 1, -1
    kernels[1, 2, 1], kernels[1, 0, 1] = 1, -1
    padded = padded_with_edge(x, 1)
    across, down = (
        _convolved(padded, kernel, depthwise=True, name=f"{name}_{axis}")
        for kernel, axis in zip(kernels, ("across", "down"), strict=True)
    )
    return across, down


def _backbone_grid(levels: Any, name: str, arrays: Arrays) -> Any:
    height, width = levels.shape[1:3]
    if min(height, width) > _MIRRORED:
        around = [[0, 0], [_MIRRORED, _MIRRORED], [_MIRRORED, _MIRRORED], [0, 0]]
        padded = ops.pad(levels, around, mode="reflect")
    else:
        padded = padded_with_edge(levels, _MIRRORED)
    fine, middle, coarse = (
        layers.Cropping2D(cut)(layers.AveragePooling2D(3, 1)(layer))
        for layer, cut in zip(_backbone(padded, name, arrays), (3, 1, 0), strict=True)
    )
    doubled = layers.UpSampling2D(2, interpolation="bilinear")(coarse)
    return layers.Concatenate()([layers.AveragePooling2D(2)(fine), middle, doubled])


def _backbone(padded: Any, name: str, arrays: Arrays) -> list[Any]:
    """Layers at strides 4, 8 and 16."""

    def conv(x: Any, key: str, stride: int = 1, *, depthwise: bool = False) -> Any:
        weight, bias = (
            np.asarray(arrays[f"backbone.{key}.{part}"], np.float32) for part in ("weight", "bias")
        )
        kernel = weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(2, 3, 1, 0)
        name = f"backbone_{key.replace('.', '_')}"
        return _convolved(x, kernel, bias=bias, stride=stride, same=True, depthwise=depthwise, name=name)

    def relu6(x: Any) -> Any:
        return layers.ReLU(max_value=6.0)(x)

    x = relu6(conv(layers.Rescaling(1 / 128, -127 / 128)(padded), "stem", 2))
    found = []
    taps = VARIANTS[name].taps()
    for index, (_, stride, expansion, width) in zip(count(), VARIANTS[name].blocks(), strict=False):
        key = f"blocks.{index}"
        y = x if expansion == 1 else relu6(conv(x, f"{key}.expand"))
        y = relu6(conv(y, f"{key}.depthwise", stride, depthwise=True))
        y = conv(y, f"{key}.project")
        x = layers.Add()([x, y]) if stride == 1 and x.shape[3] == width else y
        if index in taps:
            found.append(x)
        if index == taps[-1]:
            break
    return found


def _gradients(levels: Any) -> Any:
    """Histograms of oriented gradients, ``[B, h, w, 2 * 8 + C]``."""
    dx, dy = slopes(ops.mean(levels, axis=-1, keepdims=True), "grey")
    angles = np.arange(_ORIENTATIONS, dtype=np.float32) * np.float32(2 * np.pi / _ORIENTATIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)])[None, None].astype(np.float32)
    along = _convolved(layers.Concatenate()([dx, dy]), directions, name="directions")
    magnitude = ops.sqrt(ops.square(dx) + ops.square(dy)) + 1e-3
    energy = ops.square(ops.square(ops.relu(along / magnitude))) * magnitude
    small = layers.AveragePooling2D(STRIDE)(energy)
    wide = layers.AveragePooling2D(3, 1, padding="same")(small)  # what is outside does not count
    level = layers.Rescaling(0.25)(layers.AveragePooling2D(STRIDE)(levels))
    return layers.Concatenate()([ops.sqrt(small), ops.sqrt(wide), level])


def _convolved(
    x: Any,
    kernel: NDArray[np.float32],
    *,
    name: str,
    bias: NDArray[np.float32] | None = None,
    stride: int = 1,
    same: bool = False,
    depthwise: bool = False,
) -> Any:
    """A convolution that never learns; ``kernel`` is ``[h, w, in, out]``, of a depthwise one ``[h, w, in, 1]``."""
    options = {
        "kernel_size": kernel.shape[:2],
        "strides": stride,
        "padding": "same" if same else "valid",
        "use_bias": bias is not None,
        "trainable": False,
        "name": name,
    }
    layer = layers.DepthwiseConv2D(**options) if depthwise else layers.Conv2D(kernel.shape[3], **options)
    found = layer(x)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return found
