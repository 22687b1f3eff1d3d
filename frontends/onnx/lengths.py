"""
Operands whose length decides a rank. Where only the run knows the length of a `shape` or of `axes`, the rank that
the file declares for the result says what it must be; a reshape holds the run to it.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from xdsl.dialects.builtin import TensorType
from xdsl.ir import SSAValue

from stepwell.dialects.graph import dims_of
from stepwell.frontends.onnx.upgrades import Call, Emitter

_SAME_RANK = frozenset(
    """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh DequantizeLinear Elu Erf Exp
    Floor Gelu HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LeakyRelu Log LogSoftmax Mish Neg Not QuantizeLinear
    Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh
    ThresholdedRelu Transpose Trilu
    """.split()
)
"""Operators whose first result has the rank of their first operand, whatever it is."""


def declared_ranks(graph: onnx.GraphProto) -> dict[str, int]:
    """The ranks that `graph` gives to its values, and those that follow for the operands that these are made of."""
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    for node in reversed(graph.node):
        if node.op_type in _SAME_RANK and not node.domain and node.output and node.input:
            if (rank := ranks.get(node.output[0])) is not None:
                ranks.setdefault(node.input[0], rank)
    return ranks


def settle_lengths(call: Call, rules: Emitter, declared: int | None) -> None:
    """Give the operands of `call` that decide a rank the length that follows from `declared`, the rank of its result."""
    if call.domain or call.op not in _PLACES:
        return
    for place in _PLACES[call.op]:
        value = call.operands[place] if place < len(call.operands) else None
        if value is None or not isinstance(value.type, TensorType) or not value.type.get_num_dims():
            continue
        if isinstance(dims_of(value.type)[-1], int):
            continue
        length = _length(call, declared)
        if length is not None and length >= 0:
            # 0 keeps the extents before it, which only indices have.
            kept = [0] * (value.type.get_num_dims() - 1)
            shape = rules.constant(np.array([*kept, length], np.int64))
            (call.operands[place],) = rules.emit("Reshape", _behind_ones(call, rules, value, length), shape)


_REDUCTIONS = tuple(
    f"Reduce{kind}"
    for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)

_PLACES: dict[str, Sequence[int]] = {
    "AffineGrid": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "GatherND": (1,),
    "Reshape": (1,),
    "ScatterND": (1,),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    **dict.fromkeys(_REDUCTIONS, (1,)),
}
"""The operands of each operator whose last extent decides a rank, or the number of results."""


def _length(call: Call, rank: int | None) -> int | None:
    """How long an operand must be for a result of `rank`; None where that does not follow."""
    ranks = [
        v.type.get_num_dims() if v is not None and isinstance(v.type, TensorType) else 0
        for v in call.operands
    ]
    if call.op == "Split":
        return len(call.used)
    if call.op == "ScatterND":
        return ranks[1] - 1 + ranks[0] - ranks[2]
    if rank is None:
        return None
    match call.op:
        case "AffineGrid" | "ConstantOfShape" | "Expand" | "Reshape":
            return rank
        case "Col2Im":
            return rank - 2
        case "GatherND":
            return ranks[0] + ranks[1] - 1 - call.attributes.get("batch_dims", 0) - rank
        case "Squeeze":
            return ranks[0] - rank
        case "Unsqueeze":
            return rank - ranks[0]
    # Of a reduction to a scalar the axes may be all, or none, which means all.
    return ranks[0] - rank if rank and not call.attributes.get("keepdims", 1) else None


# expand(x, s) == expand(x, [1, ..., 1] ++ s)   for a result of the rank of x
def _behind_ones(call: Call, rules: Emitter, value: SSAValue, rank: int) -> SSAValue:
    """`value`, and for an expansion that may be to fewer extents than the operand has, ones before it."""
    if call.op != "Expand" or call.operands[0].type.get_num_dims() < rank:  # pyright: ignore
        return value
    (length,) = rules.emit("Shape", value)
    (missing,) = rules.emit("Sub", rules.constant(np.array([rank], np.int64)), length)
    (ones,) = rules.emit("ConstantOfShape", missing, value=np.array([1], np.int64))
    (behind,) = rules.emit("Concat", ones, value, axis=0)
    return behind
