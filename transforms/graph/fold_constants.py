"""Compute at compile time what depends on constants alone, as long as the result is small."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.graph import ONNX_NAMES, STRING, GraphOp, numpy_dtype
from stepwell.interpreter.graph import can_evaluate, evaluate
from stepwell.resources import constant_attr
from stepwell.transforms.graph.emitter import Emitter, apply_rules, element_type

_NEVER = {
    "Bernoulli", "Constant", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip
"""Operators whose results are not functions of their operands."""

_HEAVY = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
_HEAVY_LIMIT_BYTES = 16 << 20
"""A contraction of larger constants is left to the compiled code: numpy would take seconds."""


class _Folder:
    """The rule, and what is left of the budget of the whole module."""

    def __init__(self, limit_bytes: int, budget_bytes: int):
        self.limit, self.budget = limit_bytes, budget_bytes

    # f(c_1, ..., c_n) == the constant that the interpreter computes
    def fold(self, op: GraphOp, emitter: Emitter) -> Sequence[SSAValue | None] | None:
        if op.regions or op.ONNX_NAME in _NEVER or not can_evaluate(op):
            return None
        operands: list[np.ndarray | None] = []
        read = 0
        for value in op.operand_list():
            array = emitter.value(value)
            if value is not None and array is None:
                return None
            operands.append(array)
            read += 0 if array is None else array.nbytes
        wanted = 0
        for result in op.results:
            if (size := _bytes_of(result)) is None:
                return None
            wanted += size
        if wanted > max(self.limit, 2 * read) or wanted > self.budget:
            return None
        if op.ONNX_NAME in _HEAVY and read > _HEAVY_LIMIT_BYTES:
            return None
        self.budget -= wanted
        arrays = iter(evaluate(op, operands))
        return [None if r is None else self._constant(next(arrays), r, emitter) for r in op.result_list()]

    def _constant(self, array: np.ndarray, result: SSAValue, emitter: Emitter) -> SSAValue:
        return emitter.emit_constant(constant_attr(array, emitter.ctx, element_type(result)))


def _bytes_of(value: SSAValue) -> int | None:
    """How much a result takes, None if that is not known or it is no tensor of numbers."""
    type = value.type
    if not isinstance(type, TensorType) or not type.has_static_shape() or type.element_type == STRING:
        return None
    return int(np.prod(type.get_shape(), dtype=object)) * numpy_dtype(type.element_type).itemsize


@dataclass(frozen=True)
class FoldConstantsPass(ModulePass):
    """
    Compute at compile time what depends on constants alone, as long as the result is small.
    Requires: verified IR. Ensures: no op that the interpreter computes has only constant operands, unless its result
    is larger than `limit_bytes` and than twice its operands, or the budget is spent; unused ops are gone. The same
    module gives the same constants.
    """

    name = "fold-constants"
    limit_bytes: int = 1 << 20
    """A result of at most this size is folded whatever it is made from."""
    budget_bytes: int = 1 << 30
    """All results of one run together take at most this."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        folder = _Folder(self.limit_bytes, self.budget_bytes)
        apply_rules(op, ctx, {name: [folder.fold] for name in ONNX_NAMES})
