"""Exports: one ONNX or OpenVINO model from picture to verdict, checked against the detector it comes from."""

from anomaly_spotter.export.writing import FORMATS, PRECISIONS, Export, export

__all__ = ["FORMATS", "PRECISIONS", "Export", "export"]
