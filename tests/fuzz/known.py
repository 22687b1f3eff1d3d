"""What ONNX Runtime itself does wrong, and what either engine may do, so that a difference there is no fault."""

from collections.abc import Callable

import onnx

from stepwell.comparison import Difference


def _reduces_nothing(model: onnx.ModelProto, found: Difference) -> bool:
    reduces = any(node.op_type.startswith("Reduce") for node in model.graph.node)
    wanted = found.why.rpartition("instead of ")[2]
    return reduces and found.why.startswith("shape ") and "0" in wanted.strip("[]").split(", ")


def _resizes_an_infinity(model: onnx.ModelProto, found: Difference) -> bool:
    return found.want == "nan" and any(node.op_type == "Resize" for node in model.graph.node)


def _multiplies_padding(model: onnx.ModelProto, found: Difference) -> bool:
    return found.got == "nan" and any(node.op_type == "ConvTranspose" for node in model.graph.node)


KNOWN: list[tuple[str, Callable[[onnx.ModelProto, Difference], bool]]] = [
    ("the reduction of a tensor without elements keeps the extent that it reduces over", _reduces_nothing),
    ("a resized infinity is multiplied by weights of 0 beside it", _resizes_an_infinity),
    ("weights that are not finite meet the padding of a transposed convolution", _multiplies_padding),
]
"""The reason, and whether it explains a difference."""


def reason(model: onnx.ModelProto, found: Difference) -> str:
    """Why the difference is no fault of stepwell; empty if no known reason explains it."""
    return next((why for why, explains in KNOWN if explains(model, found)), "")
