"""Stage 2 as ONNX graphs, built from a bundle's arrays without PyTorch, for ONNX Runtime and OpenVINO."""

from anomaly_spotter.models.graph.builder import Graph
from anomaly_spotter.models.graph.detectors import Stage, add_model, features_stage, nearest_stage, stages

__all__ = ["Graph", "Stage", "add_model", "features_stage", "nearest_stage", "stages"]
