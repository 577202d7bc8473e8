"""A fitted model as one or two stages, each an ONNX graph that an inference engine compiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.errors import BundleError
from anomaly_spotter.models.cells import AROUND, RANGE, STRIDE, beyond_range
from anomaly_spotter.models.graph.builder import Graph
from anomaly_spotter.models.graph.networks import (
    add_features,
    add_levels,
    add_projected,
    add_unet,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

    from anomaly_spotter.config import ModelConfig

    Arrays = Mapping[str, NDArray[np.generic]]

_PLACES = 256  # of the memory compared at a time, so that products stay in the cache


@dataclass(frozen=True)
class Stage:
    """A part of a model that one engine runs.

    Attributes:
        name: ``features``, ``distances``, ``nearest`` or ``network``.
        model: The graph.
        is_exact: Whether lower precision would change what whole numbers say, so that only fp32 engines may run it.
    """

    name: str
    model: onnx.ModelProto
    is_exact: bool = False


def stages(config: ModelConfig, canvas: tuple[int, int, int], arrays: Arrays) -> list[Stage]:
    """The stages that give the anomaly map, in order; what one gives the next takes.

    The last gives ``map``: per grid cell for ``memory`` and ``gaussian``, per pixel for ``unet``, which gives the
    restored picture ``restored`` ``float32 [1, C, H, W]`` too.

    Args:
        config: Settings of the model.
        canvas: ``(H, W, C)``.
        arrays: The model's arrays in the bundle.

    Raises:
        BundleError: An array is missing, or they do not fit together.
        ConfigError: The features run in PyTorch only.
        MissingExtraError: The package onnx is not installed.
    """
    try:
        if config.name == "unet":
            return [_network_stage(config, canvas, arrays)]
        return [features_stage(config.features, canvas, arrays), _distances_stage(config, canvas, arrays)]
    except KeyError as error:
        raise BundleError(f"the model lacks {error}; use the original file") from None
    except (ValueError, TypeError, IndexError) as error:
        raise BundleError(
            f"the model's arrays do not fit together ({error}); use the original file"
        ) from None


def features_stage(name: str, canvas: tuple[int, int, int], arrays: Arrays) -> Stage:
    """``canvas`` ``uint8 [H, W, C]`` -> ``grid`` ``float32 [h, w, d]``: patch features, projected where there is a projection."""
    graph = Graph()
    grid = _add_grid(graph, graph.input("canvas", np.uint8, canvas), name, canvas, arrays)
    return Stage("features", graph.model({"grid": (grid, np.float32, [*_cells(canvas), None])}))


def nearest_stage(canvas: tuple[int, int, int], arrays: Arrays) -> Stage:
    """A memory's ``grid`` ``[h, w, d]`` -> ``squares`` and ``patches`` as :func:`anomaly_spotter.models.cells.nearest` takes them."""
    graph = Graph()
    height, width = _cells(canvas)
    grid = graph.input("grid", np.float32, [height, width, _depth(arrays)])
    squares, patches = _add_squares(graph, grid, (height, width), arrays, with_patches=True)
    shape = [None, None]
    outputs = {"squares": (squares, np.float32, shape), "patches": (patches, np.int64, shape)}
    return Stage("nearest", graph.model(outputs), is_exact=True)


def add_model(
    graph: Graph, canvas: str, config: ModelConfig, shape: tuple[int, int, int], arrays: Arrays
) -> str:
    """Add a whole model: ``canvas`` ``uint8 [H, W, C]`` -> raw anomaly map ``float32 [H, W]``."""
    if config.name == "unet":
        return _add_network(graph, canvas, config, shape, arrays)[0]
    grid = _add_grid(graph, canvas, config.features, shape, arrays)
    distances = _add_distances(graph, grid, config, _cells(shape), arrays)
    return _add_enlarged(graph, graph.reshape(distances, 1, 1, *_cells(shape)), STRIDE, shape)


def _network_stage(config: ModelConfig, canvas: tuple[int, int, int], arrays: Arrays) -> Stage:
    graph = Graph()
    total, restored = _add_network(graph, graph.input("canvas", np.uint8, canvas), config, canvas, arrays)
    height, width, channels = canvas
    outputs = {
        "map": (total, np.float32, [height, width]),
        "restored": (restored, np.float32, [1, channels, height, width]),
    }
    return Stage("network", graph.model(outputs))


def _distances_stage(config: ModelConfig, canvas: tuple[int, int, int], arrays: Arrays) -> Stage:
    graph = Graph()
    size = _cells(canvas)
    grid = graph.input("grid", np.float32, [*size, _depth(arrays)])
    distances = _add_distances(graph, grid, config, size, arrays)
    return Stage("distances", graph.model({"map": (distances, np.float32, size)}), is_exact=True)


def _add_network(
    graph: Graph, canvas: str, config: ModelConfig, shape: tuple[int, int, int], arrays: Arrays
) -> tuple[str, str]:
    """The U-Net's evidence ``[H, W]`` and its restored picture ``[1, C, H, W]``."""
    levels = add_levels(graph, canvas)
    restored, marked, expected, picture = add_unet(graph, levels, config, arrays)
    difference = graph("Sub", picture, restored)
    spread = np.asarray(arrays["spread"], np.float32)
    total = None
    for kind, unit in zip(config.evidence, spread, strict=True):
        if kind == "grey":
            error = (
                graph("Mul", difference, difference)
                if config.error == "squared"
                else graph("Abs", difference)
            )
            evidence = graph("ReduceMean", error, np.array([1]), keepdims=0)
        elif kind == "gradient":
            evidence = _add_slope(graph, difference)
        elif kind == "segmentation" and marked is not None:
            evidence = graph("Softplus", marked)
        elif expected is not None:
            seen = add_projected(
                graph, add_features(graph, levels, shape[:2], config.features, arrays), arrays
            )
            distance = graph("ReduceL2", graph("Sub", seen, expected), np.array([1]), keepdims=1)
            evidence = _add_enlarged(graph, distance, STRIDE, shape)
        weighed = graph("Mul", graph.reshape(evidence, *shape[:2]), np.array(1 / unit, np.float32))
        total = weighed if total is None else graph("Add", total, weighed)
    assert total is not None  # noqa: S101  the settings demand at least one kind
    return total, restored


def _add_slope(graph: Graph, difference: str) -> str:
    """Length of the gradient, the mean over channels."""
    padded = graph("Pad", difference, np.array([0, 0, 1, 1] * 2), mode="edge")
    across = graph(
        "Sub", graph.part(padded, [1, 2], [-1, 0], [2, 3]), graph.part(padded, [1, 0], [-1, -2], [2, 3])
    )
    down = graph(
        "Sub", graph.part(padded, [2, 1], [0, -1], [2, 3]), graph.part(padded, [0, 1], [-2, -1], [2, 3])
    )
    squares = graph("Add", graph("Mul", across, across), graph("Mul", down, down))
    return graph("ReduceMean", graph("Sqrt", squares), np.array([1]), keepdims=0)


def _add_grid(graph: Graph, canvas: str, name: str, shape: tuple[int, int, int], arrays: Arrays) -> str:
    """``uint8 [H, W, C]`` -> ``float32 [h, w, d]``."""
    features = add_features(graph, add_levels(graph, canvas), shape[:2], name, arrays)
    if "components" in arrays:
        features = add_projected(graph, features, arrays)
    return graph("Squeeze", graph("Transpose", features, perm=[0, 2, 3, 1]), np.array([0]))


def _add_distances(
    graph: Graph, grid: str, config: ModelConfig, size: tuple[int, int], arrays: Arrays
) -> str:
    """``[h, w, d]`` -> how strange each cell is, ``[h, w]``."""
    if config.name == "gaussian":
        return _add_mahalanobis(graph, grid, size, arrays)
    squares, _ = _add_squares(graph, grid, size, arrays)
    if len(arrays["bank"]) > 1:
        squares = _add_least(graph, squares, size)
    roots = graph("Mul", graph("Sqrt", squares), np.asarray(arrays["step"], np.float32))
    return graph.reshape(roots, *size)


def _add_mahalanobis(graph: Graph, grid: str, size: tuple[int, int], arrays: Arrays) -> str:
    mean, whiten = (np.asarray(arrays[key], np.float32) for key in ("gaussian_mean", "whiten"))
    offsets = graph("Sub", graph.reshape(grid, -1, mean.shape[1]), mean)
    if len(mean) == 1:
        white = graph("MatMul", offsets, whiten[0])
    else:
        product = graph("MatMul", graph("Unsqueeze", offsets, np.array([1])), whiten)
        white = graph("Squeeze", product, np.array([1]))
    return graph.reshape(graph("Sqrt", graph.total(graph("Mul", white, white), 1)), *size)


def _add_squares(
    graph: Graph, grid: str, size: tuple[int, int], arrays: Arrays, *, with_patches: bool = False
) -> tuple[str, str]:
    """Squared distances in counts from each place's nearest patch, ``[P, Q]``, and, if asked for, which patch that is.

    Products of whole numbers in that range add up exactly, on any processor and in any order. See
    :meth:`anomaly_spotter.models.memory.MemoryModel.distances`.

    Raises:
        ValueError: A count of the memory lies beyond the range.
    """
    bank = np.asarray(arrays["bank"], np.int8)
    if beyond_range(bank):
        raise ValueError(f"patches beyond {RANGE} counts")
    centre, step = (np.asarray(arrays[key], np.float32) for key in ("centre", "step"))
    flat = graph("Round", graph("Div", graph.reshape(grid, -1, bank.shape[2]), step))
    neighbours = _around(size) if len(bank) > 1 else np.arange(size[0] * size[1])[None]
    counts = graph("Sub", graph("Gather", flat, neighbours, axis=0), np.round(centre / step)[:, None])
    queries = graph("Clip", counts, np.array(-RANGE, np.float32), np.array(RANGE, np.float32))
    squares = graph(
        "Add",
        graph("ReduceSumSquare", queries, np.array([2]), keepdims=0),
        graph("ReduceSumSquare", graph("Sub", counts, queries), np.array([2]), keepdims=0),
    )
    closest, patches = _add_closest(graph, queries, bank, with_patches=with_patches)
    twice = graph("Mul", graph.cast(closest, np.float32), np.array(2, np.float32))
    return graph("Sub", squares, twice), patches


def _add_closest(
    graph: Graph, queries: str, bank: NDArray[np.int8], *, with_patches: bool
) -> tuple[str, str]:
    """The largest ``q . b - |b|^2 / 2`` of the patches of each place, ``int32 [P, Q]``, and which patch has it."""
    unsigned = graph.cast(graph("Add", queries, np.array(RANGE, np.float32)), np.uint8)
    best, which = [], []
    for start in range(0, len(bank), _PLACES):
        rows = slice(start, min(start + _PLACES, len(bank)))
        some = unsigned if len(bank) <= _PLACES else graph.part(unsigned, [start], [rows.stop], [0])
        columns = np.ascontiguousarray(bank[rows].transpose(0, 2, 1))
        patches = bank[rows].astype(np.float32)  # whole numbers below 2^24: exact
        norms = np.ceil(np.einsum("pkd,pkd->pk", patches, patches) / 2).astype(np.int32)
        if len(bank) == 1:  # a plain matrix, which engines pack once
            some, columns = graph("Squeeze", some, np.array([0])), columns[0]
        product = graph("MatMulInteger", some, columns, np.array(RANGE, np.uint8))
        if len(bank) == 1:
            product = graph("Unsqueeze", product, np.array([0]))
        closeness = graph("Sub", product, norms[:, None])
        best.append(graph.maximum(closeness, 2))
        if with_patches:
            which.append(graph("ArgMax", closeness, axis=2, keepdims=0))
    if len(best) == 1:
        return best[0], which[0] if with_patches else ""
    return graph("Concat", *best, axis=0), graph("Concat", *which, axis=0) if with_patches else ""


def _around(size: tuple[int, int]) -> NDArray[np.int64]:
    """The numbers of the nine cells around each place, ``[h * w, 9]``; beyond the border the border repeats."""
    height, width = size
    places = np.pad(np.arange(height * width).reshape(size), 1, mode="edge")
    parts = [places[top : top + height, left : left + width] for top, left in np.ndindex(3, 3)]
    return np.stack(parts, axis=-1).reshape(-1, AROUND)


def _add_least(graph: Graph, squares: str, size: tuple[int, int]) -> str:
    """From ``[h * w, 9]``, by place and cell around it, to the least of each cell, ``[h, w]``."""
    height, width = size
    by_offset = graph.reshape(graph("Transpose", squares, perm=[1, 0]), AROUND, height, width)
    infinite = np.array(np.finfo(np.float32).max, np.float32)
    grid = graph("Pad", by_offset, np.array([0, 1, 1] * 2), infinite)
    shifted = []
    for number in range(AROUND):
        dy, dx = number // 3 - 1, number % 3 - 1
        starts = [number, 1 - dy, 1 - dx]
        ends = [number + 1, 1 - dy + height, 1 - dx + width]
        shifted.append(graph.part(grid, starts, ends, [0, 1, 2]))
    return graph("Min", *shifted)


def _add_enlarged(graph: Graph, x: str, times: int, shape: tuple[int, int, int]) -> str:
    """``[1, 1, h, w]`` -> ``[H, W]``, bilinear."""
    scales = np.array([1, 1, times, times], np.float32)
    larger = graph("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    return graph.reshape(larger, *shape[:2])


def _cells(canvas: tuple[int, int, int]) -> tuple[int, int]:
    return canvas[0] // STRIDE, canvas[1] // STRIDE


def _depth(arrays: Arrays) -> int:
    """Depth of the projected features.

    Raises:
        ValueError: What they are compared with has another one.
    """
    depth = int(arrays["components"].shape[1])
    known = arrays["bank"].shape[2] if "bank" in arrays else arrays["gaussian_mean"].shape[1]
    if depth != known:
        raise ValueError(f"features are projected to a depth of {depth}, and compared at {known}")
    return depth
