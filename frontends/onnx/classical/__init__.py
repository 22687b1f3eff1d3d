"""Operators of `ai.onnx.ml`, expressed by operators of the standard and walks through trees.

Where the specification leaves a form open, ONNX Runtime's reading is taken: it is what converters test against.
"""

from stepwell.frontends.onnx.classical import encoders, linear, maps, support_vectors, trees
from stepwell.frontends.onnx.classical.rules import CLASSICAL, CLASSICAL_DOMAIN

__all__ = ["CLASSICAL", "CLASSICAL_DOMAIN", "encoders", "linear", "maps", "support_vectors", "trees"]
