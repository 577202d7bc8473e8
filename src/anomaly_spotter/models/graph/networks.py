"""Convolutional networks as ONNX nodes: the backbone's patch features and the U-Net.

Each function mirrors the PyTorch module of the same part (:mod:`~anomaly_spotter.models.backbone`,
:mod:`~anomaly_spotter.models.features`, :mod:`~anomaly_spotter.models.unet`); tests hold them equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.errors import ConfigError
from anomaly_spotter.models.cells import STRIDE
from anomaly_spotter.models.lite import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig
    from anomaly_spotter.models.graph.builder import Graph

    Arrays = Mapping[str, NDArray[np.generic]]

_MIRRORED = 16  # canvas pixels around the picture, as in models/features.py
_EPSILON = 1e-5  # of the U-Net's batch normalisation


def add_levels(graph: Graph, canvas: str) -> str:
    """``uint8 [H, W, C] -> float32 [1, C, H, W]`` in 0..255."""
    channels_first = graph("Transpose", graph.cast(canvas, np.float32), perm=[2, 0, 1])
    return graph("Unsqueeze", channels_first, np.array([0]))


def add_features(graph: Graph, levels: str, size: tuple[int, int], name: str, arrays: Arrays) -> str:
    """Patch features ``float32 [1, D, H/8, W/8]`` of ``levels`` ``[1, C, H, W]``.

    Args:
        graph: Gets the nodes.
        levels: The input.
        size: ``(H, W)``.
        name: As in the settings.
        arrays: With the backbone's weights as ``backbone.*``.

    Raises:
        ConfigError: The features are a network of timm's, which only PyTorch runs.
    """
    if name == "gradients":
        return _add_gradients(graph, levels)
    if name not in VARIANTS:
        raise ConfigError(f"the features '{name}' run in PyTorch only; install 'anomaly-spotter[train,hub]'")
    mode = "reflect" if min(size) > _MIRRORED else "edge"
    around = np.array([0, 0, _MIRRORED, _MIRRORED] * 2)
    padded = graph("Pad", levels, around, mode=mode)
    fine, middle, coarse = (
        _add_cut(graph, graph("AveragePool", layer, kernel_shape=[3, 3], strides=[1, 1]), cut)
        for layer, cut in zip(_add_backbone(graph, padded, size, name, arrays), (3, 1, 0), strict=True)
    )
    fine = graph("AveragePool", fine, kernel_shape=[2, 2], strides=[2, 2])
    return graph("Concat", fine, middle, _add_doubled(graph, coarse), axis=1)


def add_projected(graph: Graph, features: str, arrays: Arrays) -> str:
    """Principal components ``[1, d, h, w]`` of ``features`` ``[1, D, h, w]``."""
    mean, components = (np.asarray(arrays[key], np.float64) for key in ("mean", "components"))
    weight = components.T.astype(np.float32)[:, :, None, None]
    return graph("Conv", features, weight, (-mean @ components).astype(np.float32))


def add_unet(
    graph: Graph, levels: str, config: ModelConfig, arrays: Arrays
) -> tuple[str, str | None, str | None, str]:
    """The network: restored picture, log odds of a defect, expected features, and the picture it saw.

    All are ``[1, ., ., .]``; pictures are ``[1, C, H, W]`` in [-1, 1].
    """
    own = {
        name.removeprefix("network."): value for name, value in arrays.items() if name.startswith("network.")
    }
    picture = graph("Sub", graph("Div", levels, np.array(127.5, np.float32)), np.array(1.0, np.float32))
    seen = picture if not config.reference else graph("Concat", picture, _f32(own["reference"]), axis=1)
    folded = seen if config.stem == 1 else graph("SpaceToDepth", seen, blocksize=config.stem)
    own["encode0.0.weight"] = _as_folded(own["encode0.0.weight"], config.stem)

    def join(below: str, skip: str, level: int) -> str:
        up = _add_doubled(graph, below)
        return graph("Concat", up, skip, axis=1) if config.skips[level] else up

    def halved(x: str) -> str:
        return graph("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    x0 = _add_double_conv(graph, folded, own, "encode0", norm=config.batch_norm)
    x1 = _add_double_conv(graph, halved(x0), own, "encode1", norm=config.batch_norm)
    x2 = _add_double_conv(graph, halved(x1), own, "encode2", norm=config.batch_norm)
    x = _add_double_conv(graph, halved(x2), own, "bottom", norm=config.batch_norm)
    x = _add_double_conv(graph, join(x, x2, 2), own, "decode2", norm=config.batch_norm)
    expected = None
    if "features" in config.evidence:
        expected = _add_head(
            graph, _add_to_grid(graph, x, config.stem), own, "expect", norm=config.batch_norm
        )
    x = _add_double_conv(graph, join(x, x1, 1), own, "decode1", norm=config.batch_norm)
    x = _add_double_conv(graph, join(x, x0, 0), own, "decode0", norm=config.batch_norm)
    painted = graph("Tanh", graph("Conv", x, _f32(own["output.weight"]), _f32(own["output.bias"])))
    restored = _add_unfolded(graph, painted, config.stem)
    marked = None
    if "segmentation" in config.evidence:
        both = graph("Concat", x, x0, axis=1)
        head = _add_head(graph, both, own, "segment", norm=config.batch_norm)
        marked = _add_unfolded(graph, head, config.stem)
    return restored, marked, expected, picture


def _add_backbone(graph: Graph, padded: str, size: tuple[int, int], name: str, arrays: Arrays) -> list[str]:
    """Layers at strides 4, 8 and 16 of levels ``[1, C, H, W]`` with the border mirrored around them."""
    own = {
        key.removeprefix("backbone."): _f32(value)
        for key, value in arrays.items()
        if key.startswith("backbone.")
    }
    height, width = (side + 2 * _MIRRORED for side in size)

    def conv(x: str, key: str, stride: int = 1, *, depthwise: bool = False) -> str:
        nonlocal height, width
        weight = own[f"{key}.weight"]
        kernel = weight.shape[2]
        (top, bottom), (left, right) = (_same(side, kernel, stride) for side in (height, width))
        height, width = -(-height // stride), -(-width // stride)
        return graph(
            "Conv",
            x,
            weight,
            own[f"{key}.bias"],
            strides=[stride, stride],
            pads=[top, left, bottom, right],
            group=weight.shape[0] if depthwise else 1,
        )

    def relu6(x: str) -> str:
        return graph("Clip", x, np.array(0, np.float32), np.array(6, np.float32))

    scaled = graph("Div", graph("Sub", padded, np.array(127, np.float32)), np.array(128, np.float32))
    x = relu6(conv(scaled, "stem", 2))
    layers, width_in = [], 32
    taps = VARIANTS[name].taps()
    for index, (_, stride, expansion, width_out) in enumerate(VARIANTS[name].blocks()):
        key = f"blocks.{index}"
        y = x if expansion == 1 else relu6(conv(x, f"{key}.expand"))
        y = relu6(conv(y, f"{key}.depthwise", stride, depthwise=True))
        y = conv(y, f"{key}.project")
        x = graph("Add", x, y) if stride == 1 and width_in == width_out else y
        width_in = width_out
        if index in taps:
            layers.append(x)
        if index == taps[-1]:
            break
    return layers


def _same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and behind, as TensorFlow's "same"."""
    if stride == 1:
        return kernel // 2, kernel // 2
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def _add_gradients(graph: Graph, levels: str) -> str:
    """Histograms of oriented gradients, ``[1, 2 * 8 + C, h, w]``."""
    grey = graph("ReduceMean", levels, np.array([1]), keepdims=1)
    padded = graph("Pad", grey, np.array([0, 0, 1, 1] * 2), mode="edge")
    dx = graph(
        "Sub", graph.part(padded, [1, 2], [-1, 0], [2, 3]), graph.part(padded, [1, 0], [-1, -2], [2, 3])
    )
    dy = graph(
        "Sub", graph.part(padded, [2, 1], [0, -1], [2, 3]), graph.part(padded, [0, 1], [-2, -1], [2, 3])
    )
    angles = np.arange(8, dtype=np.float32) * np.float32(2 * np.pi / 8)
    cosines, sines = (f(angles).astype(np.float32).reshape(1, -1, 1, 1) for f in (np.cos, np.sin))
    along = graph("Add", graph("Mul", dx, cosines), graph("Mul", dy, sines))
    squares = graph("Add", graph("Mul", dx, dx), graph("Mul", dy, dy))
    magnitude = graph("Add", graph("Sqrt", squares), np.array(1e-3, np.float32))
    sharp = graph("Pow", graph("Relu", graph("Div", along, magnitude)), np.array(4, np.float32))
    cells = {"kernel_shape": [STRIDE, STRIDE], "strides": [STRIDE, STRIDE]}
    small = graph("AveragePool", graph("Mul", sharp, magnitude), **cells)
    wide = graph("AveragePool", small, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    level = graph("Div", graph("AveragePool", levels, **cells), np.array(4, np.float32))
    return graph("Concat", graph("Sqrt", small), graph("Sqrt", wide), level, axis=1)


def _add_cut(graph: Graph, x: str, cut: int) -> str:
    return x if cut == 0 else graph.part(x, [cut, cut], [-cut, -cut], [2, 3])


def _add_doubled(graph: Graph, x: str) -> str:
    """Twice the height and width, bilinear."""
    scales = np.array([1, 1, 2, 2], np.float32)
    return graph("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")


def _add_to_grid(graph: Graph, x: str, stem: int) -> str:
    """From a quarter of the folded picture's resolution to the cells of the patch features."""
    shrink = STRIDE // (4 * stem)
    if shrink <= 1:
        return x
    return graph("AveragePool", x, kernel_shape=[shrink, shrink], strides=[shrink, shrink])


def _as_folded(weight: NDArray[np.generic], stem: int) -> NDArray[np.generic]:
    """The weights ``[out, in, 3, 3]`` behind ``pixel_unshuffle``, which puts the channel first, behind SpaceToDepth.

    A Gather of the channels would do the same, but OpenVINO (2026.4) moves it into the weights the wrong way round.
    """
    out, channels, *kernel = weight.shape
    return weight.reshape(out, -1, stem**2, *kernel).swapaxes(1, 2).reshape(out, channels, *kernel)


def _add_unfolded(graph: Graph, x: str, stem: int) -> str:
    return x if stem == 1 else graph("DepthToSpace", x, blocksize=stem, mode="CRD")


def _add_double_conv(graph: Graph, x: str, own: Arrays, key: str, *, norm: bool) -> str:
    step = 3 if norm else 2
    for number in (0, step):
        x = graph(
            "Relu", _add_conv3(graph, x, own, f"{key}.{number}", f"{key}.{number + 1}" if norm else None)
        )
    return x


def _add_head(graph: Graph, x: str, own: Arrays, key: str, *, norm: bool) -> str:
    hidden = graph("Relu", _add_conv3(graph, x, own, f"{key}.0", f"{key}.1" if norm else None))
    last = 3 if norm else 2
    return graph("Conv", hidden, _f32(own[f"{key}.{last}.weight"]), _f32(own[f"{key}.{last}.bias"]))


def _add_conv3(graph: Graph, x: str, own: Arrays, key: str, norm: str | None) -> str:
    """A 3 x 3 convolution with the batch normalisation behind it folded in."""
    weight = _f32(own[f"{key}.weight"])
    if norm is None:
        bias = _f32(own[f"{key}.bias"])
    else:
        gain = _f32(own[f"{norm}.weight"]) / np.sqrt(_f32(own[f"{norm}.running_var"]) + np.float32(_EPSILON))
        bias = _f32(own[f"{norm}.bias"]) - _f32(own[f"{norm}.running_mean"]) * gain
        weight = weight * gain[:, None, None, None]
    return graph("Conv", x, weight, bias, pads=[1, 1, 1, 1])


def _f32(array: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(array, np.float32)
