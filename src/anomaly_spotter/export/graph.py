"""A whole detector as one ONNX graph: raw ``uint8`` picture in, score, p-value, anomaly map and mask out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.models.graph import Graph, add_model
from anomaly_spotter.models.graph.decision import (
    Placing,
    add_counted,
    add_decision,
    add_light,
    add_mask,
    add_smoothed,
    add_weighed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from anomaly_spotter.spotter import Spotter


def detector_graph(spotter: Spotter, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The graph of a detector.

    Without alignment the input is ``picture`` ``uint8 [H, W, C]`` of any size, and ``anomaly_map`` and ``mask`` are of
    that size. With alignment the inputs are ``canvas`` ``uint8 [height, width, C]``, the part in its normal pose, and
    ``counts`` ``bool [height, width]``, where it is inside the picture and the region of interest; the outputs are on the
    canvas. ``canvas_map`` is the model's raw map, from which the Python package decides.

    Raises:
        ConfigError: The model's features run in PyTorch only.
    """
    preprocessor, config = spotter.preprocessor, spotter.config
    shape = (preprocessor.height, preprocessor.width, preprocessor.channels)
    graph = Graph()
    placing = counts = None
    if preprocessor.aligner is None:
        picture = graph.input("picture", np.uint8, ["H", "W", shape[2]])
        placing = Placing(graph, picture, preprocessor)
        planes = placing.canvas(picture)
    else:
        picture = graph.input("canvas", np.uint8, shape)
        counts = graph.input("counts", np.bool_, shape[:2])
        planes = graph("Transpose", graph.cast(picture, np.float32), perm=[2, 0, 1])
    if preprocessor.illumination is not None:
        planes = add_light(graph, planes, preprocessor.illumination, shape)
    canvas = graph("Reshape", graph("Transpose", planes, perm=[1, 2, 0]), np.array(shape))
    raw = add_model(graph, canvas, config.model, shape, spotter.model.state())
    smoothed = add_smoothed(graph, raw, config.scoring.smoothing_sigma, shape[:2])
    if spotter.location is not None:
        smoothed = add_weighed(graph, smoothed, spotter.location, shape[:2])
    if placing is not None:
        smoothed = placing.crop(smoothed)
        if preprocessor.region is not None:
            counts = placing.crop(graph.constant(preprocessor.region, np.bool_))
    if counts is not None:
        smoothed = add_counted(graph, smoothed, counts)
    score, p_value, pixels = add_decision(
        graph, smoothed, spotter.calibration, config.scoring, shape[0] * shape[1]
    )
    if placing is not None:
        pixels = placing.enlarge(pixels)
    mask = add_mask(graph, pixels, score, spotter.calibration)
    size = ["H", "W"] if placing is not None else shape[:2]
    return graph.model(
        {
            "score": (score, np.float32, [1]),
            "p_value": (p_value, np.float32, [1]),
            "anomaly_map": (pixels, np.float32, size),
            "mask": (mask, np.uint8, size),
            "canvas_map": (raw, np.float32, shape[:2]),
        },
        metadata,
    )
