"""Sequences and optionals: a `!value.any` each; reading or making many elements is a loop over them."""

from typing import Any

from xdsl.dialects import arith, cf, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, TensorType, i1, i64
from xdsl.ir import Attribute, SSAValue

from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, lowered_type, lowers
from stepwell.dialects import value
from stepwell.dialects.graph import OptionalType
from stepwell.dialects.graph.shape import Dim, ceildiv


def wrapped(low: Lowering, new: SSAValue, old_type: Attribute) -> SSAValue:
    """A new value as a `!value.any`; `old_type` is its type in the graph."""
    if not isinstance(old_type, TensorType):
        return new
    return low.value(value.WrapOp(new, old_type.element_type))


def unwrapped(low: Lowering, handle: SSAValue, type: Attribute) -> SSAValue:
    """The tensor of the graph's type `type` that `handle` holds."""
    assert isinstance(type, TensorType), "only tensors are unwrapped"
    return low.value(value.UnwrapOp(handle, type.element_type, lowered_type(type)))


def _scalar(low: Lowering, scalar: SSAValue) -> SSAValue:
    type = TensorType(scalar.type, [])
    return low.value(tensor.FromElementsOp.build(operands=[[scalar]], result_types=[type]))


def _assert(low: Lowering, holds: SSAValue, why: str, fix: str) -> None:
    assert low.op is not None, "a check is made for an op"
    low.add(cf.AssertOp(holds, f"{low.op.name}: {why}; {fix}"))


def _position(low: Lowering, new: SSAValue) -> SSAValue:
    return low.scalar_index(new)


# --- sequences ------------------------------------------------------------------------------------


@lowers("sequence_empty")
def _empty(low: Lowering, op: Any) -> SSAValue:
    return low.value(value.EmptyOp())


@lowers("sequence_construct")
def _construct(low: Lowering, op: Any) -> SSAValue:
    sequence = low.value(value.EmptyOp())
    for place, operand in enumerate(op.operands):
        element = wrapped(low, low[operand], operand.type)
        sequence = low.value(value.InsertOp(element, sequence, low.constant(place)))
    return sequence


@lowers("sequence_length")
def _length(low: Lowering, op: Any) -> SSAValue:
    length = low.value(value.LengthOp(low[op.operands[0]]))
    return _scalar(low, low.value(arith.IndexCastOp(length, i64)))


@lowers("sequence_at")
def _at(low: Lowering, op: Any) -> SSAValue:
    sequence, position = low.operands(op)
    element = low.value(value.AtOp(sequence, _position(low, position)))
    type = op.results[0].type
    return unwrapped(low, element, type) if isinstance(type, TensorType) else element


@lowers("sequence_insert")
def _insert(low: Lowering, op: Any) -> SSAValue:
    sequence, new, position = [*low.operands(op), None][:3]
    element = wrapped(low, new, op.operands[1].type)
    place = low.value(value.LengthOp(sequence)) if position is None else _position(low, position)
    return low.value(value.InsertOp(element, sequence, place))


@lowers("sequence_erase")
def _erase(low: Lowering, op: Any) -> SSAValue:
    sequence, position = [*low.operands(op), None][:2]
    place = low.constant(-1) if position is None else _position(low, position)
    return low.value(value.EraseOp(sequence, place))


# out = empty(sum of extents);  for i: out[offset : offset + extent_i] = sequence[i]
@lowers("concat_from_sequence")
def _concat(low: Lowering, op: Any) -> SSAValue:
    sequence, type = low[op.operands[0]], op.results[0].type
    stacked = bool(low.attr(op, "new_axis"))
    rank = type.get_num_dims() - stacked
    axis = low.attr(op, "axis") % type.get_num_dims()
    held = op.operands[0].type.element
    shape = held.get_shape() if isinstance(held, TensorType) else [DYNAMIC_INDEX] * rank
    element = TensorType(type.element_type, shape)
    count = low.dim_of(low.value(value.LengthOp(sequence)))

    def piece_at(i: SSAValue) -> SSAValue:
        return unwrapped(low, low.value(value.AtOp(sequence, i)), element)

    first = low.shape(piece_at(low.constant(0)))
    if stacked:
        extent: Dim = count
    elif isinstance(first[axis], int):
        extent = low.dim_of(low.value(arith.MuliOp(low.index(count), low.index(first[axis]))))
    else:

        def added(i: SSAValue, total: list[SSAValue]) -> list[SSAValue]:
            own = low.index(low.shape(piece_at(i))[axis])
            return [low.value(arith.AddiOp(total[0], own))]

        extent = low.dim_of(loop(low, count, [low.constant(0)], added)[0])
    line = first if stacked else (*first[:axis], *first[axis + 1 :])
    whole = low.empty((*line[:axis], extent, *line[axis:]), low.result_element(op))

    def placed(i: SSAValue, now: list[SSAValue]) -> list[SSAValue]:
        out, offset = now
        piece = piece_at(i)
        own = low.shape(piece)
        rest = own if stacked else (*own[:axis], *own[axis + 1 :])
        for got, want in zip(rest, line, strict=True):
            if got != want:
                same = low.value(arith.CmpiOp(low.index(got), low.index(want), "eq"))
                _assert(low, same, "elements of a sequence differ in other axes", "make their extents equal")
        size: Dim = 1 if stacked else own[axis]
        sizes = (*line[:axis], size, *line[axis:])
        piece = low.reshape(piece, (*own[:axis], 1, *own[axis:])) if stacked else piece
        offsets = [low.dim_of(offset) if a == axis else 0 for a in range(len(sizes))]
        inserted = low.insert(low.reshaped(piece, sizes), out, offsets)
        return [inserted, low.value(arith.AddiOp(offset, low.index(size)))]

    return loop(low, count, [whole, low.constant(0)], placed)[0]


# for i: sequence += input[offset : offset + size_i]
@lowers("split_to_sequence")
def _split(low: Lowering, op: Any) -> SSAValue:
    x, split = [*low.operands(op), None][:2]
    shape = low.shape(x)
    axis = low.attr(op, "axis") % len(shape)
    extent = shape[axis]
    dropped = split is None and not low.attr(op, "keepdims")
    listed = split if split is not None and low.rank(split) == 1 else None
    each: Dim = 1
    count: Dim = extent
    if listed is not None:
        count = low.shape(listed)[0]
    elif split is not None:
        known = low.known(op.operands[1])
        each = int(known) if known is not None else low.dim_of(low.scalar_index(split))
        positive = low.value(arith.CmpiOp(low.index(each), low.constant(0), "sgt"))
        _assert(low, positive, "the extent of a piece must be positive", "pass another split")
        rounded = low.value(arith.CeilDivSIOp(low.index(extent), low.index(each)))
        count = ceildiv(extent, each) if isinstance(each, int) and each > 0 else low.dim_of(rounded)

    def size_at(i: SSAValue, offset: SSAValue) -> Dim:
        left = low.value(arith.SubiOp(low.index(extent), offset))
        if listed is None:
            exact = each == 1 or (isinstance(extent, int) and isinstance(each, int) and extent % each == 0)
            return each if exact else low.dim_of(low.value(arith.MinSIOp(low.index(each), left)))
        given = low.value(arith.IndexCastOp(low.extract(listed, [i]), INDEX))
        fits = low.value(arith.CmpiOp(given, left, "sle"))
        positive = low.value(arith.CmpiOp(given, low.constant(0), "sge"))
        fits = low.value(arith.AndIOp(fits, positive))
        _assert(low, fits, "the pieces are larger than the whole", "pass another split")
        return low.dim_of(given)

    def pushed(i: SSAValue, now: list[SSAValue]) -> list[SSAValue]:
        sequence, offset = now
        size = size_at(i, offset)
        offsets = [low.dim_of(offset) if a == axis else 0 for a in range(len(shape))]
        piece = low.slice(x, offsets, [*shape[:axis], size, *shape[axis + 1 :]])
        if dropped:
            piece = low.reshape(piece, (*shape[:axis], *shape[axis + 1 :]))
        element = wrapped(low, piece, op.operands[0].type)
        following = low.value(arith.AddiOp(offset, low.index(size)))
        return [low.value(value.InsertOp(element, sequence, i)), following]

    sequence, end = loop(low, count, [low.value(value.EmptyOp()), low.constant(0)], pushed)
    if listed is not None:
        whole = low.value(arith.CmpiOp(end, low.index(extent), "eq"))
        _assert(low, whole, "the pieces are smaller than the whole", "pass another split")
    return sequence


# --- optionals ------------------------------------------------------------------------------------


@lowers("optional")
def _optional(low: Lowering, op: Any) -> SSAValue:
    if not op.operands:
        return low.value(value.AbsentOp())
    return wrapped(low, low[op.operands[0]], op.operands[0].type)


@lowers("optional_has_element")
def _has_element(low: Lowering, op: Any) -> SSAValue:
    if op.operands and isinstance(op.operands[0].type, OptionalType):
        return _scalar(low, low.value(value.PresentOp(low[op.operands[0]])))
    return _scalar(low, low.constant(bool(op.operands), i1))


@lowers("optional_get_element")
def _get_element(low: Lowering, op: Any) -> SSAValue:
    new, type = low[op.operands[0]], op.results[0].type
    if not isinstance(op.operands[0].type, OptionalType):
        return new
    present = low.value(value.PresentOp(new))
    _assert(low, present, "the optional is absent", "ask graph.optional_has_element first")
    return unwrapped(low, new, type) if isinstance(type, TensorType) else new
