"""Multiply the rows of a product instead of the longer rows of its factor."""

from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects import arith, math, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, AffineMapAttr, FloatAttr, ModuleOp, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.attrs import IteratorType, IteratorTypeAttr
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from stepwell.dialects.stepwell import target_of
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    generic,
    is_elementwise,
    is_identity,
    maps_of,
    output_map,
    reduction_dims,
    through_casts,
)

_ROUNDED_SHARE = 3
"""The operations that an element of a factor needs where it is rounded: it is multiplied, narrowed and widened again."""

_GUESS = 64
"""What a dynamic extent is taken for where tensors are weighed."""


@dataclass(frozen=True)
class MoveRowFactorsPass(ModulePass):
    """
    Multiply the rows of a product instead of the longer rows of its factor.

    The shares of a softmax are powers times one number a row; a product of them with values multiplies (or divides) its
    own row instead, where that is no less work. Where the shares are rounded to 16 bits between, the product reads the powers before
    that: each rounding is saved, and what it loses. Only powers `exp(x - max)` are left as they are, which are at most 1, so that nothing
    overflows that did not; results differ by rounding, so `fp = "strict"` turns it off. Requires: tensor stage with
    a target. Ensures: such a product reads the powers.
    """

    name = "move-row-factors"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if target_of(op).fp == "strict":
            return
        for product in [o for o in op.walk() if isinstance(o, linalg.GenericOp)]:
            for k in contraction_operands(product) or ():
                if (found := _Scaled.of(product, k)) is not None and may_rewrite():
                    _move(product, k, found)
                    break


@dataclass(frozen=True)
class _Scaled:
    """A factor of a product that is `rows` with each row multiplied by a number."""

    op: linalg.GenericOp
    rows: SSAValue
    number: SSAValue
    at: AffineMap
    """Where the number of an element of the product's result lies."""

    @staticmethod
    def of(product: linalg.GenericOp, k: int) -> "_Scaled | None":
        """Input `k` of `product` if it is such a factor, and the product's rows are no longer than its own."""
        op, read = product.inputs[k].owner, maps_of(product)[k]
        if not (isinstance(op, linalg.GenericOp) and is_elementwise(op) and is_identity(output_map(op))):
            return None
        if len(op.inputs) != 2 or len(list(op.results[0].uses)) != 1 or not _starts_at_zero(product):
            return None
        wide, rounded = _multiplied(op), _rounding(op) is not None
        if wide is None or not is_identity(maps_of(op)[wide]) or not _is_power(op.inputs[wide]):
            return None
        written = {
            e.position: axis
            for axis, e in enumerate(output_map(product).results)
            if isinstance(e, AffineDimExpr)
        }
        places: list[AffineExpr] = []
        for axis in maps_of(op)[1 - wide].results:
            dim = read.results[axis.position] if isinstance(axis, AffineDimExpr) else None
            if not isinstance(dim, AffineDimExpr) or dim.position not in written:
                return None
            places.append(AffineExpr.dimension(written[dim.position]))
        result = product.results[0].type
        types = (result, *(v.type for v in op.inputs))
        if len({t.element_type for t in types if isinstance(t, TensorType)}) != 1:
            return None
        if rounded and not _widened_at_once(product, k):
            return None
        if _elements(result) > (_ROUNDED_SHARE if rounded else 1) * _elements(op.inputs[wide].type):
            return None
        at = AffineMap(output_map(product).num_dims - len(reduction_dims(product)), 0, tuple(places))
        return _Scaled(op, op.inputs[wide], op.inputs[1 - wide], at)


# sum_k (p[r, k] * s[r]) * v[k, n] == s[r] * sum_k p[r, k] * v[k, n]   (in the reals; a rounding of p * s is left out)
def _move(product: linalg.GenericOp, k: int, scaled: _Scaled) -> None:
    inputs = list(product.inputs)
    inputs[k] = scaled.rows
    rank = len(output_map(product).results)
    identity = AffineMap.identity(rank)
    location = product.location
    empty = _empty_behind(product)
    assert empty is not None, "checked by _starts_at_zero"
    if (rounding := _rounding(scaled.op)) is not None:
        Rewriter.replace_op(rounding, [], [rounding.input])
        Rewriter.replace_value_with_new_type(scaled.op.body.block.args[2], rounding.input.type)
        _read_wide(product.body.block.args[k], scaled.rows)
    plain = generic(inputs, product.outputs, maps_of(product), product, product.detach_region(product.body))
    target = empty.clone()
    body = scaled.op.detach_region(scaled.op.body)
    operands = [plain.results[0], scaled.number]
    maps = [identity, scaled.at]
    if scaled.rows is scaled.op.inputs[1]:
        operands.reverse()
        maps.reverse()
    rows = linalg.GenericOp(
        operands,
        [target.tensor],
        body,
        [AffineMapAttr(m) for m in (*maps, identity)],
        [IteratorTypeAttr(IteratorType.PARALLEL)] * rank,
        [target.tensor.type],
    )
    rows.location = scaled.op.location
    Rewriter.replace_op(product, [plain, target, rows], [rows.results[0]])
    Rewriter.erase_op(scaled.op)
    note_rewrite("move_row_factor", plain.name, location)


def _multiplied(op: linalg.GenericOp) -> int | None:
    """Which of the two inputs of `op` is multiplied or divided by the other, one number for many elements."""
    body = op.body.block
    terminator = body.last_op
    assert terminator is not None, "a body ends in linalg.yield"
    rounding = _rounding(op)
    value = (rounding.input if rounding is not None else terminator.operands[0]).owner
    if len(body.ops) != 2 + (rounding is not None) or not isinstance(value, arith.MulfOp | arith.DivfOp):
        return None
    if {id(v) for v in value.operands} != {id(body.args[0]), id(body.args[1])}:
        return None
    maps = maps_of(op)
    wide = 0 if len(maps[0].results) > len(maps[1].results) else 1
    return wide if isinstance(value, arith.MulfOp) or value.lhs is body.args[wide] else None


def _rounding(op: linalg.GenericOp) -> arith.TruncFOp | None:
    """The op that rounds what `op` computes."""
    last = _yielded(op)
    return last if isinstance(last, arith.TruncFOp) else None


def _widened_at_once(product: linalg.GenericOp, k: int) -> bool:
    """Whether all that `product` does with input `k` is to widen it to the type of its result."""
    result = product.results[0].type
    assert isinstance(result, TensorType)
    users = [use.operation for use in product.body.block.args[k].uses]
    return all(isinstance(u, arith.ExtFOp) and u.result.type == result.element_type for u in users)


def _read_wide(argument: BlockArgument, rows: SSAValue) -> None:
    """Make an argument of a body one of the elements of `rows`, which need no widening."""
    assert isinstance(rows.type, TensorType)
    widenings = [use.operation for use in argument.uses]
    wide = Rewriter.replace_value_with_new_type(argument, rows.type.element_type)
    for op in widenings:
        Rewriter.replace_op(op, [], [wide])


def _is_power(value: SSAValue) -> bool:
    """`value` is exp(x - m), m a maximum: between 0 and 1."""
    op = value.owner
    if not isinstance(op, linalg.GenericOp) or not is_elementwise(op):
        return False
    power = _yielded(op)
    difference = power.operand.owner if isinstance(power, math.ExpOp) else None
    if isinstance(difference, arith.MinimumfOp):  # with 0, which it is not above
        difference = difference.lhs.owner
    if not isinstance(difference, arith.SubfOp):
        return False
    argument = through_casts(difference.rhs)
    if not isinstance(argument, BlockArgument) or argument.index >= len(op.inputs):
        return False
    largest = op.inputs[argument.index].owner
    return (
        isinstance(largest, linalg.GenericOp)
        and bool(reduction_dims(largest))
        and isinstance(_yielded(largest), arith.MaximumfOp | arith.MaxnumfOp)
    )


def _yielded(op: linalg.GenericOp) -> Operation | None:
    terminator = op.body.block.last_op
    owner = terminator.operands[0].owner if terminator else None
    return owner if isinstance(owner, Operation) else None


def _starts_at_zero(op: linalg.GenericOp) -> bool:
    fill = op.outputs[0].owner
    if not isinstance(fill, linalg.FillOp) or _empty_behind(op) is None:
        return False
    zero = fill.inputs[0].owner
    value = zero.value if isinstance(zero, arith.ConstantOp) else None
    return isinstance(value, FloatAttr) and value.value.data == 0.0


def _empty_behind(op: linalg.GenericOp) -> tensor.EmptyOp | None:
    fill = op.outputs[0].owner
    empty = fill.outputs[0].owner if isinstance(fill, linalg.FillOp) else None
    return empty if isinstance(empty, tensor.EmptyOp) else None


def _elements(type: object) -> int:
    assert isinstance(type, TensorType)
    return prod(_GUESS if e == DYNAMIC_INDEX else e for e in type.get_shape())
