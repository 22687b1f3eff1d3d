"""Loads and calls what the back end built; imports neither onnx nor xdsl."""

from stepwell.runtime.model import Model, TensorInfo, load

__all__ = ["Model", "TensorInfo", "load"]
