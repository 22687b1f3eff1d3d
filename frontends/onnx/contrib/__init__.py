"""Operators of `com.microsoft` that exporters write, expressed by operators of the standard."""

from stepwell.frontends.onnx.contrib import attention, embedding, layers, quantised
from stepwell.frontends.onnx.contrib.rules import CONTRIB, DEFAULT_DOMAIN

__all__ = ["CONTRIB", "DEFAULT_DOMAIN", "attention", "embedding", "layers", "quantised"]
