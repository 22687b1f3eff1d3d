"""ONNX models in, the graph dialect out."""

from stepwell.frontends.onnx.importing import import_onnx

__all__ = ["import_onnx"]
