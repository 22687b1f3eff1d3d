"""The graph dialect out to ONNX: each op is the operator that it is named after, so there is no table of operators."""

from stepwell.backends.onnx.exporting import export_onnx
from stepwell.backends.onnx.writing import write_onnx

__all__ = ["export_onnx", "write_onnx"]
