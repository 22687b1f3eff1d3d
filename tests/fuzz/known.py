"""What ONNX Runtime itself does wrong, and what either engine may do, so that a difference there is no fault."""

import re
from collections.abc import Callable

import numpy as np
import onnx

from stepwell.comparison import Difference


def _reduces_nothing(model: onnx.ModelProto, found: Difference) -> bool:
    reduces = any(node.op_type.startswith(("Reduce", "Arg")) for node in model.graph.node)
    wanted = found.why.rpartition("instead of ")[2]
    return reduces and found.why.startswith("shape ") and "0" in wanted.strip("[]").split(", ")


def _resizes_an_infinity(model: onnx.ModelProto, found: Difference) -> bool:
    return found.want == "nan" and any(node.op_type == "Resize" for node in model.graph.node)


def _multiplies_padding(model: onnx.ModelProto, found: Difference) -> bool:
    return found.got == "nan" and any(node.op_type == "ConvTranspose" for node in model.graph.node)


def _loses_a_nan(model: onnx.ModelProto, found: Difference) -> bool:
    recurrent = any(node.op_type in ("LSTM", "GRU", "RNN") for node in model.graph.node)
    return recurrent and found.got == "nan"


def _takes_the_limit(model: onnx.ModelProto, found: Difference) -> bool:
    gelu = any(node.op_type in ("Gelu", "FastGelu") for node in model.graph.node)
    return gelu and found.want == "nan" and found.got in ("-0", "0")


def _ranks_a_nan(model: onnx.ModelProto, found: Difference) -> bool:
    ranks = any(node.op_type == "TopK" for node in model.graph.node)
    return ranks and "nan" in (found.got, found.want)


def _normalises_by_an_infinity(model: onnx.ModelProto, found: Difference) -> bool:
    named = {
        name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[1:]
    }
    arrays = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in named]
    return "nan" in (found.got, found.want) and not all(np.isfinite(array).all() for array in arrays)


def _normalises_across_an_infinity(model: onnx.ModelProto, found: Difference) -> bool:
    return found.want == "nan" and any(node.op_type == "LRN" for node in model.graph.node)


def _starts_at_a_nan(model: onnx.ModelProto, found: Difference) -> bool:
    name = model.graph.output[found.output].name
    ranks = any(node.op_type in ("ArgMin", "ArgMax") and name in node.output for node in model.graph.node)
    return ranks and found.want == "0"


def _sums_past_a_nan(model: onnx.ModelProto, found: Difference) -> bool:
    sums = any(node.op_type == "ReduceLogSumExp" for node in model.graph.node)
    return sums and (found.got, found.want) == ("nan", "inf")


def _passes_over_a_nan(model: onnx.ModelProto, found: Difference) -> bool:
    compares = any(
        node.op_type == "MaxPool"
        or (node.op_type.startswith("Scatter") and _reduction(node) in (b"max", b"min"))
        for node in model.graph.node
    )
    return compares and (found.got == "nan" or _is_place_of_a_maximum(model, found))


def _is_place_of_a_maximum(model: onnx.ModelProto, found: Difference) -> bool:
    """Whether what differs is where a MaxPool found its maxima, in a model whose weights have a NaN."""
    name = model.graph.output[found.output].name
    places = {
        node.output[1] for node in model.graph.node if node.op_type == "MaxPool" and len(node.output) > 1
    }
    arrays = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    return name in places and any(a.dtype.kind == "f" and np.isnan(a).any() for a in arrays)


def _reduction(node: onnx.NodeProto) -> bytes:
    return next((attribute.s for attribute in node.attribute if attribute.name == "reduction"), b"none")


KNOWN: list[tuple[str, Callable[[onnx.ModelProto, Difference], bool]]] = [
    ("the reduction of a tensor without elements keeps the extent that it reduces over", _reduces_nothing),
    ("a resized infinity is multiplied by weights of 0 beside it", _resizes_an_infinity),
    ("weights that are not finite meet the padding of a transposed convolution", _multiplies_padding),
    ("the gates of a recurrent cell clip a NaN to a number", _loses_a_nan),
    (
        "statistics that are not finite: the scale and the shift that they make are added, or folded",
        _normalises_by_an_infinity,
    ),
    (
        "ONNX Runtime's LRN slides a sum over the channels, which stays NaN once an infinity has left it",
        _normalises_across_an_infinity,
    ),
    ("ONNX Runtime's ArgMin and ArgMax pass over a NaN unless it comes first", _starts_at_a_nan),
    ("the logarithm of a sum of exponentials is infinite, whatever NaN is summed too", _sums_past_a_nan),
    ("a maximum over a window, or of what is scattered, passes over a NaN", _passes_over_a_nan),
    ("Gelu of minus infinity is its limit, 0, not the product of the infinity and 0", _takes_the_limit),
    ("where TopK puts a NaN depends on where it stands", _ranks_a_nan),
]
"""The reason, and whether it explains a difference."""


def reason(model: onnx.ModelProto, found: Difference) -> str:
    """Why the difference is no fault of stepwell; empty if no known reason explains it."""
    return next((why for why, explains in KNOWN if explains(model, found)), "")


LIMITS: list[tuple[str, str]] = [
    (
        "an operand without elements whose other extents do not fit (ONNX Runtime leaves it out of a Concat)",
        r"graph\.concat: the extents .* must be equal; .*inputs .*[\[ ]0[,\]]",
    ),
    (
        "a window larger than what it moves over (ONNX Runtime refuses it of convolutions; of pools it gives what its"
        " division, which rounds towards zero, happens to give)",
        r"(pool: the extent .* must be at least|: the window reaches over \d+ elements)",
    ),
]
"""The reason, and what the refusals say that it explains."""


def refusal(message: str) -> str:
    """Why stepwell refuses what ONNX Runtime takes; empty if no known limit explains it."""
    return next((why for why, says in LIMITS if re.search(says, message)), "")
