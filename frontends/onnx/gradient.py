"""Reverse-mode differentiation of what the importer has made, by operators of the standard."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from xdsl.ir import Operation, SSAValue

from stepwell.dialects.graph import GraphOp
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import ints, one, scalar, transpose

Pullback = Callable[[Emitter, GraphOp, SSAValue], Sequence[SSAValue | None]]
"""From an op and the derivative by its result to the derivatives by its operands, before they are summed to their shapes."""

PULLBACKS: dict[str, Pullback] = {}
"""ONNX operator to its pullback."""


def _pulls(*ops: str) -> Callable[[Pullback], Pullback]:
    def enter(pullback: Pullback) -> Pullback:
        PULLBACKS.update(dict.fromkeys(ops, pullback))
        return pullback

    return enter


def gradients(call: Call, emitter: Emitter, y: SSAValue, xs: Sequence[SSAValue]) -> list[SSAValue]:
    """The derivatives of the sum of `y` by each of `xs`; zeros where `y` does not depend on it."""
    order = _between(y, set(xs))
    found: dict[SSAValue, SSAValue] = {y: _ones(emitter, y)}
    for op in reversed(order):
        derivative = found.get(op.results[0])
        if derivative is None:
            continue
        pullback = PULLBACKS.get(op.ONNX_NAME)
        if pullback is None:
            raise emitter.missing(call, f"the gradient of {op.name}", "differentiate before export")
        for value, part in zip(op.operands, pullback(emitter, op, derivative), strict=True):
            if part is None:
                continue
            part = _summed_to(call, emitter, part, value)
            found[value] = part if value not in found else one(emitter, "Add", found[value], part)
    return [found[x] if x in found else one(emitter, "Mul", x, scalar(emitter, x, 0.0)) for x in xs]


def _between(y: SSAValue, xs: set[SSAValue]) -> list[GraphOp]:
    """The ops on which `y` depends and that depend on one of `xs`, in an order in which they can run."""
    order: list[GraphOp] = []
    depends: dict[SSAValue, bool] = dict.fromkeys(xs, True)
    pending = [y]
    while pending:
        value = pending[-1]
        owner = value.owner
        if value in depends or not isinstance(owner, Operation):
            depends.setdefault(value, False)
            pending.pop()
            continue
        waiting = [v for v in owner.operands if v not in depends]
        if waiting:
            pending += waiting
            continue
        depends[value] = any(depends[v] for v in owner.operands)
        if depends[value] and isinstance(owner, GraphOp):
            order.append(owner)
        pending.pop()
    return order


def _ones(emitter: Emitter, like: SSAValue) -> SSAValue:
    return one(emitter, "Expand", scalar(emitter, like, 1.0), one(emitter, "Shape", like))


def _summed_to(call: Call, emitter: Emitter, value: SSAValue, like: SSAValue) -> SSAValue:
    """`value` summed over the axes along which `like` was repeated."""
    have, want = emitter.shape(value), emitter.shape(like)
    lead = len(have) - len(want)
    repeated = [axis + lead for axis, extent in enumerate(want) if extent == 1 and have[axis + lead] != 1]
    if any(have[axis + lead] != extent for axis, extent in enumerate(want) if axis + lead not in repeated):
        raise emitter.missing(call, "extents that may or may not be repeated", "give static shapes")
    if repeated:
        value = one(emitter, "ReduceSum", value, ints(emitter, *repeated), keepdims=1)
    if lead:
        value = one(emitter, "ReduceSum", value, ints(emitter, *range(lead)), keepdims=0)
    return value


@_pulls("Identity")
def _identity(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [d]


@_pulls("Add")
def _add(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [d, d]


@_pulls("Sub")
def _sub(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [d, one(emitter, "Neg", d)]


@_pulls("Mul")
def _mul(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    a, b = op.operands
    return [one(emitter, "Mul", d, b), one(emitter, "Mul", d, a)]


@_pulls("Div")
def _div(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    upper = one(emitter, "Div", d, op.operands[1])
    return [upper, one(emitter, "Neg", one(emitter, "Mul", upper, op.results[0]))]


@_pulls("Neg")
def _neg(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [one(emitter, "Neg", d)]


@_pulls("Exp")
def _exp(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [one(emitter, "Mul", d, op.results[0])]


@_pulls("Log")
def _log(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [one(emitter, "Div", d, op.operands[0])]


@_pulls("Sqrt")
def _sqrt(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    return [one(emitter, "Div", d, one(emitter, "Mul", op.results[0], scalar(emitter, d, 2.0)))]


@_pulls("Relu")
def _relu(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    positive = one(emitter, "Greater", op.operands[0], scalar(emitter, d, 0.0))
    return [one(emitter, "Where", positive, d, scalar(emitter, d, 0.0))]


# tanh' = 1 - tanh^2
@_pulls("Tanh")
def _tanh(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    square = one(emitter, "Mul", op.results[0], op.results[0])
    return [one(emitter, "Mul", d, one(emitter, "Sub", scalar(emitter, d, 1.0), square))]


# sigmoid' = sigmoid (1 - sigmoid)
@_pulls("Sigmoid")
def _sigmoid(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    y = op.results[0]
    slope = one(emitter, "Mul", y, one(emitter, "Sub", scalar(emitter, d, 1.0), y))
    return [one(emitter, "Mul", d, slope)]


# d(a b) = da b + a db
@_pulls("MatMul")
def _matmul(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    a, b = op.operands
    if min(len(emitter.shape(a)), len(emitter.shape(b))) < 2:
        raise NotImplementedError("the gradient of a product with a vector")
    return [one(emitter, "MatMul", d, _turned(emitter, b)), one(emitter, "MatMul", _turned(emitter, a), d)]


def _turned(emitter: Emitter, value: SSAValue) -> SSAValue:
    rank = len(emitter.shape(value))
    return transpose(emitter, value, *range(rank - 2), rank - 1, rank - 2)


@_pulls("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    back = one(emitter, "Reshape", d, one(emitter, "Shape", op.operands[0]))
    return [back, *[None] * (len(op.operands) - 1)]


@_pulls("Transpose")
def _transpose(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    rank = len(emitter.shape(d))
    order = op.get("perm") or range(rank - 1, -1, -1)
    return [transpose(emitter, d, *np.argsort(list(order)).tolist())]


@_pulls("ReduceSum", "ReduceMean")
def _reduction(emitter: Emitter, op: GraphOp, d: SSAValue) -> Sequence[SSAValue | None]:
    x = op.operands[0]
    axes = op.operands[1] if len(op.operands) > 1 else None
    if axes is None and op.get("noop_with_empty_axes"):
        return [d]
    kept = one(emitter, op.ONNX_NAME, x, axes, keepdims=1)
    spread = one(
        emitter, "Expand", one(emitter, "Reshape", d, one(emitter, "Shape", kept)), one(emitter, "Shape", x)
    )
    if op.ONNX_NAME == "ReduceMean":
        ratio = [
            one(
                emitter,
                "Cast",
                one(emitter, "Size", v),
                to=onnx.helper.np_dtype_to_tensor_dtype(emitter.dtype(d)),
            )
            for v in (kept, x)
        ]
        spread = one(emitter, "Mul", spread, one(emitter, "Div", *ratio))
    return [spread, *[None] * (len(op.operands) - 1)]
