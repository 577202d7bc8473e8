"""Everything around the model as ONNX nodes: a picture onto the canvas, the map to a score, a p-value and a mask.

Mirrors :mod:`~anomaly_spotter.inputs.preprocess`, :mod:`~anomaly_spotter.inputs.illumination` and
:mod:`~anomaly_spotter.scoring`. Pictures may have any size, so resizing is a product with matrices that the graph makes
from the size; grey levels may differ by one from OpenCV's, which rounds in its own way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from anomaly_spotter.inputs.illumination import BLUR, DARKEST, FLATTEST, GAIN, QUANTILES, SMALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomaly_spotter.config import ScoringConfig
    from anomaly_spotter.inputs.illumination import Illumination
    from anomaly_spotter.inputs.preprocess import Preprocessor
    from anomaly_spotter.models.graph.builder import Graph
    from anomaly_spotter.scoring.calibration import Calibration
    from anomaly_spotter.scoring.location import LocationScale


class Placing:
    """Where a picture of any size lies on the canvas, as values in the graph."""

    def __init__(self, graph: Graph, picture: str, preprocessor: Preprocessor) -> None:
        self._graph, self._canvas = graph, (preprocessor.height, preprocessor.width)
        size = graph("Shape", picture)
        self.picture = [graph.part(size, [axis], [axis + 1], [0]) for axis in (0, 1)]  # int64 [1] each
        sides = [graph.cast(side, np.float64) for side in self.picture]
        if preprocessor.aspect == "squash":
            self.placed = [graph.constant([side], np.int64) for side in self._canvas]
        else:
            scale = graph(
                "Min",
                *(
                    graph("Div", np.array([float(side)]), own)
                    for side, own in zip(self._canvas, sides, strict=True)
                ),
            )
            self.placed = [
                graph.cast(
                    graph(
                        "Clip", graph("Round", graph("Mul", own, scale)), np.array(1.0), np.array(float(side))
                    ),
                    np.int64,
                )
                for side, own in zip(self._canvas, sides, strict=True)
            ]
        self.first = [
            graph("Div", graph("Sub", np.array([side]), placed), np.array([2]))
            for side, placed in zip(self._canvas, self.placed, strict=True)
        ]
        self._shrinks = graph(
            "Or", *(graph("Less", placed, own) for placed, own in zip(self.placed, self.picture, strict=True))
        )

    def canvas(self, picture: str) -> str:
        """``uint8 [H, W, C]`` -> levels ``float32 [C, height, width]``, the border repeated around it."""
        graph = self._graph
        planes = graph("Transpose", graph.cast(picture, np.float32), perm=[2, 0, 1])
        rows, columns = (self._onto_canvas(axis) for axis in (0, 1))
        across = graph("MatMul", planes, graph("Transpose", columns, perm=[1, 0]))
        levels, half = graph("MatMul", rows, across), np.array(0.5, np.float32)
        # OpenCV rounds halves up where it averages areas, and down where it interpolates.
        up, down = graph("Floor", graph("Add", levels, half)), graph("Ceil", graph("Sub", levels, half))
        return _cut(graph, graph("Where", self._shrinks, up, down))

    def crop(self, canvas_map: str) -> str:
        """The picture's part of a map ``[height, width]``."""
        graph = self._graph
        starts = graph("Concat", *self.first, axis=0)
        ends = graph("Add", starts, graph("Concat", *self.placed, axis=0))
        return graph("Slice", canvas_map, starts, ends, np.array([0, 1]))

    def enlarge(self, placed_map: str) -> str:
        """A placed map at the picture's size ``[H, W]``, bilinear."""
        graph = self._graph
        rows, columns = (
            _linear(graph, _range(graph, own), placed, own)
            for own, placed in zip(self.picture, self.placed, strict=True)
        )
        across = graph("MatMul", placed_map, graph("Transpose", columns, perm=[1, 0]))
        return graph("MatMul", rows, across)

    def _onto_canvas(self, axis: int) -> str:
        """Matrix ``float32 [canvas side, picture side]``."""
        graph = self._graph
        placed, own = self.placed[axis], self.picture[axis]
        index = graph("Sub", np.arange(self._canvas[axis]), self.first[axis])
        last = graph("Sub", placed, np.array([1]))
        index = graph("Max", graph("Min", index, last), np.array([0]))
        number = graph.cast(index, np.float32)
        return graph(
            "Where", self._shrinks, _area(graph, number, own, placed), _linear(graph, number, own, placed)
        )


def add_light(graph: Graph, planes: str, illumination: Illumination, canvas: tuple[int, int, int]) -> str:
    """Levels ``float32 [C, H, W]`` under the light of the good parts."""
    if illumination.method == "background":
        return _add_flattened(graph, planes, illumination, canvas)
    low, high = _add_quartiles(graph, planes)
    wanted = illumination.high - illumination.low
    gain = np.array(1.0, np.float32)
    scale: str | NDArray[np.float32] = gain
    if wanted >= FLATTEST:
        spread = graph("Max", graph("Sub", high, low), np.array(1.0, np.float32))
        scale = graph(
            "Clip",
            graph("Div", np.array(wanted, np.float32), spread),
            *(np.array(g, np.float32) for g in GAIN),
        )
    middle = graph("Mul", graph("Add", low, high), np.array(0.5, np.float32))
    moved = graph("Mul", graph("Sub", planes, middle), scale)
    level = np.array((illumination.low + illumination.high) / 2, np.float32)
    return _rounded(graph, graph("Add", moved, level))


def add_smoothed(graph: Graph, canvas_map: str, sigma: float, canvas: tuple[int, int]) -> str:
    """Gaussian smoothing of ``[H, W]`` with mirrored borders, as :func:`anomaly_spotter.scoring.maps.smooth`."""
    if sigma <= 0:
        return canvas_map
    reach = math.ceil(4 * sigma)
    kernel = np.asarray(cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F), np.float32).ravel()
    x = canvas_map
    for axis, side in enumerate(canvas):
        mirrored = np.pad(np.arange(side), reach, mode="symmetric")
        x = graph("Gather", x, mirrored, axis=axis)
    x = graph("Unsqueeze", x, np.array([0, 1]))
    x = graph("Conv", graph("Conv", x, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
    return graph("Squeeze", x, np.array([0, 1]))


def add_weighed(graph: Graph, canvas_map: str, location: LocationScale, canvas: tuple[int, int]) -> str:
    """``[H, W]`` in deviations from what is usual at each place."""
    zero = location.apply(np.zeros(canvas, np.float32))
    slope = location.apply(np.ones(canvas, np.float32)) - zero
    return graph("Add", graph("Mul", canvas_map, slope), zero)


def add_counted(graph: Graph, placed_map: str, counts: str) -> str:
    """Where ``bool`` ``counts`` is false, the map is as calm as its calmest place that counts."""
    largest = np.array(np.finfo(np.float32).max, np.float32)
    calmest = graph("ReduceMin", graph("Where", counts, placed_map, largest), keepdims=0)
    return graph("Where", counts, placed_map, calmest)


def add_decision(
    graph: Graph, placed_map: str, calibration: Calibration, scoring: ScoringConfig, most: int
) -> tuple[str, str, str]:
    """Image score and p-value ``float32 [1]``, and pixel scores of the placed map ``[h, w]`` of at most ``most`` pixels."""
    flat = graph.reshape(placed_map, -1)
    if scoring.pooling == "max":
        pooled = graph("ReduceMax", flat, np.array([0]), keepdims=1)
    else:
        pooled = _add_top_mean(graph, flat, scoring.top_fraction, most)
    centre, scale = (np.array([value], np.float32) for value in (calibration.centre, calibration.scale))
    score = graph("Div", graph("Sub", pooled, centre), scale)
    below = graph.cast(graph("Less", np.asarray(calibration.scores, np.float32), score), np.float32)
    known = len(calibration.scores) + calibration.refused
    above = graph(
        "Sub", np.array([known + 1], np.float32), graph("ReduceSum", below, np.array([0]), keepdims=1)
    )
    p_value = graph("Div", above, np.array([known + 1], np.float32))
    return score, p_value, graph("Div", graph("Sub", placed_map, centre), scale)


def add_mask(graph: Graph, pixel_scores: str, score: str, calibration: Calibration) -> str:
    """``uint8 [H, W]``, 255 where a defect is: at the calibrated limits, before regions are dropped for their size."""
    strongest = graph("ReduceMax", pixel_scores, keepdims=0)
    spread = graph("Mul", strongest, np.array(calibration.mask_share, np.float32))
    limit = graph("Min", strongest, graph("Max", spread, np.array(calibration.pixel_threshold, np.float32)))
    marked = graph("GreaterOrEqual", pixel_scores, limit)
    is_defect = graph("Greater", score, np.array([calibration.threshold], np.float32))
    return graph("Mul", graph.cast(graph("And", marked, is_defect), np.uint8), np.array(255, np.uint8))


def _add_top_mean(graph: Graph, flat: str, fraction: float, most: int) -> str:
    """Mean of the highest ``fraction`` of the values, ``[1]``.

    OpenVINO wants to know before how many are sought, so as many as there can be are, and the first ones count.
    """
    largest = max(1, round(fraction * most))
    lowest = np.full(largest, np.finfo(np.float32).min, np.float32)
    values, _ = graph.several("TopK", 2, graph("Concat", flat, lowest, axis=0), np.array([largest]))
    # Counted, not asked for: OpenVINO 2026.4 rounds arithmetic on sizes away, and took the mean of one value.
    is_value = graph.cast(graph("Greater", flat, lowest[:1]), np.float32)
    share = graph(
        "Mul", graph("ReduceSum", is_value, np.array([0]), keepdims=1), np.array(fraction, np.float32)
    )
    count = graph("Max", graph("Round", share), np.array([1], np.float32))
    counts = graph("Less", np.arange(largest, dtype=np.float32), count)
    total = graph(
        "ReduceSum", graph("Where", counts, values, np.array(0, np.float32)), np.array([0]), keepdims=1
    )
    return graph("Div", total, count)


def _rounded(graph: Graph, levels: str) -> str:
    """Whole grey levels 0..255."""
    return _cut(graph, graph("Round", levels))


def _cut(graph: Graph, levels: str) -> str:
    return graph("Clip", levels, np.array(0, np.float32), np.array(255, np.float32))


def _range(graph: Graph, length: str) -> str:
    """``0 .. length - 1`` as ``float32``."""
    last = graph("Squeeze", length, np.array([0]))
    return graph.cast(graph("Range", np.array(0), last, np.array(1)), np.float32)


def _linear(graph: Graph, number: str, source: str, target: str) -> str:
    """Bilinear weights ``[len(number), source]``: pixel ``number`` of ``target`` pixels out of ``source`` ones."""
    scale = graph("Div", graph.cast(source, np.float32), graph.cast(target, np.float32))
    half = np.array(0.5, np.float32)
    at = graph("Sub", graph("Mul", graph("Add", number, half), scale), half)
    last = graph.cast(graph("Sub", source, np.array([1])), np.float32)
    at = graph("Max", graph("Min", at, last), np.array([0], np.float32))
    apart = graph("Abs", graph("Sub", graph("Unsqueeze", at, np.array([1])), _range(graph, source)))
    return graph("Relu", graph("Sub", np.array(1, np.float32), apart))


def _area(graph: Graph, number: str, source: str, target: str) -> str:
    """Weights ``[len(number), source]`` of the average over the area that a pixel covers."""
    scale = graph("Div", graph.cast(source, np.float32), graph.cast(target, np.float32))
    one = np.array(1, np.float32)
    begin = graph("Unsqueeze", graph("Mul", number, scale), np.array([1]))
    end = graph("Add", begin, scale)
    pixel = _range(graph, source)
    covered = graph("Sub", graph("Min", end, graph("Add", pixel, one)), graph("Max", begin, pixel))
    return graph("Div", graph("Relu", covered), scale)


def _add_quartiles(graph: Graph, planes: str) -> tuple[str, str]:
    """Lower and upper quartile of the grey levels, interpolated inside a level, ``float32 []``."""
    levels = graph.reshape(graph.cast(planes, np.int64), -1)
    ones = graph("ConstantOfShape", graph("Shape", levels), value=graph.tensor([1.0]))
    counts = graph("ScatterElements", np.zeros(256, np.float32), levels, ones, axis=0, reduction="add")
    total = graph.cast(graph("Size", levels), np.float32)
    cumulative = graph("Div", graph("CumSum", counts, np.array(0)), total)
    before = graph("Concat", np.zeros(1, np.float32), cumulative, axis=0)
    low, high = (_add_quantile(graph, cumulative, before, share) for share in QUANTILES)
    return low, high


def _add_quantile(graph: Graph, cumulative: str, before: str, share: float) -> str:
    wanted = np.array(share, np.float32)
    is_below = graph.cast(graph("Less", cumulative, wanted), np.int64)
    level = graph("ReduceSum", is_below, np.array([0]), keepdims=0)
    below = graph("Gather", before, level)
    inside = graph("Sub", graph("Gather", cumulative, level), below)
    part = graph("Div", graph("Sub", wanted, below), graph("Max", inside, np.array(1e-12, np.float32)))
    return graph("Add", graph("Sub", graph.cast(level, np.float32), np.array(0.5, np.float32)), part)


def _add_flattened(
    graph: Graph, planes: str, illumination: Illumination, canvas: tuple[int, int, int]
) -> str:
    height, width = canvas[:2]
    scale = min(1.0, SMALL / max(height, width))
    small = [max(1, round(side * scale)) for side in (height, width)]
    mean = graph("ReduceMean", planes, np.array([0]), keepdims=0)
    sigma = BLUR * max(small)
    # Shrinking, blurring and enlarging along an axis are each a matrix: OpenCV applied to the identity gives it.
    down, up = [], []
    for side, few in zip((height, width), small, strict=True):
        area = cv2.resize(np.eye(side, dtype=np.float32), (side, few), interpolation=cv2.INTER_AREA)
        kernel = cv2.getGaussianKernel(round(sigma * 8 + 1) | 1, sigma, cv2.CV_32F)
        one = np.ones((1, 1), np.float32)
        down.append(cv2.sepFilter2D(area, -1, one, kernel, borderType=cv2.BORDER_REPLICATE))
        up.append(cv2.resize(np.eye(few, dtype=np.float32), (few, side), interpolation=cv2.INTER_LINEAR))
    rows, columns = (np.asarray(each, np.float32) for each in down)
    blurred = graph("MatMul", rows, graph("MatMul", mean, np.ascontiguousarray(columns.T)))
    rows, columns = (np.asarray(each, np.float32) for each in up)
    background = graph("MatMul", rows, graph("MatMul", blurred, np.ascontiguousarray(columns.T)))
    level = np.array((illumination.low + illumination.high) / 2, np.float32)
    gain = graph("Div", level, graph("Max", background, np.array(DARKEST, np.float32)))
    return _rounded(graph, graph("Mul", planes, gain))
