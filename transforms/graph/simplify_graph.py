"""Drop the operators that change nothing, and make of shape computations the constants that they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.graph import (
    ConstantOp,
    Expr,
    GraphOp,
    dims_of,
    known_integers,
    numpy_dtype,
)
from stepwell.transforms.graph.emitter import (
    Emitter,
    Rule,
    apply_rules,
    element_type,
    same_extents,
    static_shape,
)
from stepwell.transforms.graph.fold_transposes import TRANSPOSE_RULES

Values = Sequence[SSAValue | None]


def _operand(op: GraphOp, place: int) -> SSAValue | None:
    listed = op.operand_list()
    return listed[place] if place < len(listed) else None


# identity(x) == x
def drop_identity(op: GraphOp, emitter: Emitter) -> Values | None:
    return [op.operands[0]]


# dropout(x) == x   when it does not train; its mask is all true
def drop_dropout(op: GraphOp, emitter: Emitter) -> Values | None:
    training = _operand(op, 2)
    if training is not None and emitter.splat(training) != False:  # noqa: E712 (a numpy bool, or None)
        return None
    results = op.result_list()
    if len(results) > 1 and results[1] is not None and results[1].uses:
        return None
    return [op.operands[0], None]


# f(x) == x   for an operator of several operands that has one
def drop_single_operand(op: GraphOp, emitter: Emitter) -> Values | None:
    if len(op.operands) != 1 or not same_extents(op.operands[0], op.results[0]):
        return None
    return [op.operands[0]]


# cast(x : T, T) == x
def drop_same_cast(op: GraphOp, emitter: Emitter) -> Values | None:
    if element_type(op.operands[0]) == element_type(op.results[0]):
        return [op.operands[0]]
    return None


# reshape(x, shape of x) == x;  the same for expand, slice with steps of 1, tile, flatten, squeeze, unsqueeze
def drop_same_shape(op: GraphOp, emitter: Emitter) -> Values | None:
    data, result = op.operands[0], op.results[0]
    if not same_extents(data, result) or not all(_is_known(d) for d in dims_of(data.type)):
        return None
    if op.ONNX_NAME == "Slice":
        steps = _operand(op, 4)
        if steps is not None and (known := known_integers(steps)) != [1] * len(known or ()):
            return None
    if op.ONNX_NAME == "Tile":
        counts = known_integers(op.operands[1])
        if counts is None or any(count != 1 for count in counts):
            return None
    return [data]


def _is_known(dim: Any) -> bool:
    return not isinstance(dim, Expr) or dim.is_known


# pad(x, 0, ..., 0) == x
def drop_empty_pad(op: GraphOp, emitter: Emitter) -> Values | None:
    pads = known_integers(op.operands[1])
    return [op.operands[0]] if pads is not None and not any(pads) else None


_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


# reshape(reshape(x, s), t) == reshape(x, t)   where flatten, squeeze and unsqueeze are reshapes
def compose_reshapes(op: GraphOp, emitter: Emitter) -> Values | None:
    inner = op.operands[0].owner
    if not isinstance(inner, GraphOp) or inner.ONNX_NAME not in _RESHAPES:
        return None
    return _reshape_to_type(inner.operands[0], op, emitter)


# reshape(x, computed shape) == reshape(x, constant)   where all extents but one are numbers
def settle_reshape(op: GraphOp, emitter: Emitter) -> Values | None:
    if isinstance(op.operands[1].owner, ConstantOp):
        return None
    return _reshape_to_type(op.operands[0], op, emitter)


def _reshape_to_type(data: SSAValue, op: GraphOp, emitter: Emitter) -> Values | None:
    extents = [d if isinstance(d, int) else -1 for d in dims_of(op.results[0].type)]
    if extents.count(-1) > 1 or 0 in extents:
        return None
    made = emitter.emit("Reshape", data, emitter.ints(extents), allowzero=0)
    if made.results[0].type != op.results[0].type:
        # The extent that is left to the op has to keep the name it had.
        made.results = made.results[:0]
        made.set_results([op.results[0].type])
    return [made.results[0]]


# An integer tensor of rank <= 1 whose elements are numbers by the shapes alone is a constant.
def fold_shape_value(op: GraphOp, emitter: Emitter) -> Values | None:
    if len(op.results) != 1:
        return None
    values = known_integers(op.results[0])
    shape = static_shape(op.results[0])
    if values is None or shape is None:
        return None
    array = np.array(values, np.int64).reshape(shape)
    element = element_type(op.results[0])
    return [emitter.constant(array.astype(numpy_dtype(element)), element)]


# x + (-0.0) == x - 0.0 == x * 1 == x / 1 == x ** 1 == x;  integers: x + 0 == x  (x + 0.0 turns -0.0 into 0.0)
def drop_neutral_operand(op: GraphOp, emitter: Emitter) -> Values | None:
    left, right = op.operands[0], op.operands[1]
    commutes = op.ONNX_NAME in ("Add", "Mul", "And", "Or", "Xor")
    for data, other in ((left, right), (right, left))[: 2 if commutes else 1]:
        if same_extents(data, op.results[0]) and _is_neutral(op.ONNX_NAME, emitter.splat(other)):
            return [data]
    return None


def _is_neutral(name: str, value: Any) -> bool:
    if value is None:
        return False
    if name in ("Mul", "Div", "Pow"):
        return bool(value == 1)
    if name in ("Add", "Sub"):
        if not value == 0:
            return False
        is_float = np.asarray(value).dtype.kind not in "iub"
        return not is_float or bool(np.signbit(np.float64(value))) == (name == "Add")
    return bool(value) == (name == "And")  # and(x, true), or(x, false), xor(x, false)


# neg(neg(x)) == x;  not(not(x)) == x;  bitwise_not likewise
def drop_double_negation(op: GraphOp, emitter: Emitter) -> Values | None:
    inner = op.operands[0].owner
    return [inner.operands[0]] if isinstance(inner, GraphOp) and type(inner) is type(op) else None


# relu(relu(x)) == relu(x);  the same for abs, ceil, floor, round, sign
def drop_repeated(op: GraphOp, emitter: Emitter) -> Values | None:
    return [op.operands[0]] if type(op.operands[0].owner) is type(op) else None


# where(true, x, y) == x
def choose_known_branch(op: GraphOp, emitter: Emitter) -> Values | None:
    chosen = emitter.splat(op.operands[0])
    if chosen is None:
        return None
    data = op.operands[1 if chosen else 2]
    return [data] if same_extents(data, op.results[0]) else None


# clip(x) == x   without bounds
def drop_unbounded_clip(op: GraphOp, emitter: Emitter) -> Values | None:
    return [op.operands[0]] if len(op.operands) == 1 else None


# split(x, 1 part) == x
def drop_single_split(op: GraphOp, emitter: Emitter) -> Values | None:
    return [op.operands[0]] if len(op.results) == 1 and same_extents(op.operands[0], op.results[0]) else None


# slice(slice(x)) and the like are left to graph-to-linalg, where they are one indexing map.

_SHAPE_OPERATORS = (
    "Abs", "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Max", "Min",
    "Mod", "Mul", "Neg", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "ScatterND", "Shape",
    "Size", "Slice", "Split", "Squeeze", "Sub", "Sum", "Tile", "Unsqueeze", "Where",
)  # fmt: skip


# pool(x) == global_pool(x)   if its one window covers every element of x and no padding
def widen_window(op: GraphOp, emitter: Emitter) -> Values | None:
    spatial = dims_of(op.operands[0].type)[2:]
    window = op.get("kernel_shape")
    if not all(isinstance(d, int) for d in spatial) or any(d != 1 for d in dims_of(op.results[0].type)[2:]):
        return None
    if any(op.get("pads") or ()) or any(d != 1 for d in op.get("dilations") or ()):
        return None
    if op.get("auto_pad") not in (None, "NOTSET", "VALID") or len(op.result_list()) > 1:
        return None
    if any(w < d for w, d in zip(window, spatial, strict=True)):
        return None
    if op.get("count_include_pad") and list(window) != list(spatial):
        return None
    return [emitter.make(f"Global{op.ONNX_NAME}", op.operands[0], layout=op.get("layout"))]


_RULES: dict[str, list[Rule]] = {
    "AveragePool": [widen_window],
    "MaxPool": [widen_window],
    "Identity": [drop_identity],
    "Dropout": [drop_dropout],
    "Cast": [drop_same_cast],
    "Transpose": TRANSPOSE_RULES,
    "Reshape": [drop_same_shape, compose_reshapes, settle_reshape],
    "Flatten": [drop_same_shape, compose_reshapes],
    "Squeeze": [drop_same_shape, compose_reshapes],
    "Unsqueeze": [compose_reshapes],
    "Expand": [drop_same_shape],
    "Slice": [drop_same_shape],
    "Tile": [drop_same_shape],
    "Pad": [drop_empty_pad],
    "Split": [drop_single_split],
    "Where": [choose_known_branch],
    "Clip": [drop_unbounded_clip],
    **{name: [drop_single_operand] for name in ("Concat", "Max", "Mean", "Min", "Sum")},
    **{name: [drop_neutral_operand] for name in ("Add", "And", "Div", "Mul", "Or", "Pow", "Sub", "Xor")},
    **{name: [drop_double_negation] for name in ("BitwiseNot", "Neg", "Not")},
    **{name: [drop_repeated] for name in ("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")},
}
for _name in _SHAPE_OPERATORS:
    _RULES[_name] = [fold_shape_value, *_RULES.get(_name, [])]


@dataclass(frozen=True)
class SimplifyGraphPass(ModulePass):
    """
    Drop the operators that change nothing, and make of shape computations the constants that they are.
    Requires: verified IR. Ensures: no identity, no dropout of inference, no cast, transpose, reshape, expand, slice,
    pad or arithmetic that returns its operand; reshapes are not chained; an integer tensor of rank <= 1 whose elements
    follow from static extents is a constant; no unused pure op.
    """

    name = "simplify-graph"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        apply_rules(op, ctx, _RULES)
