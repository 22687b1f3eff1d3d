"""Moving data: reshapes, transposes, slices, pads and copies; no arithmetic on the elements."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    TensorType,
    i64,
)
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr

from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, Shape, dims, lowers
from stepwell.conversion.graph_to_linalg.runtime_axes import (
    axis_count,
    axis_flags,
    check,
    entries,
    for_each_axis,
    with_axes,
    without_axes,
)
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.conversion.graph_to_linalg.text import string_constant
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph.shape import Dim, maximum, minimum, product
from stepwell.dialects.text import STRING


@lowers("constant")
def _constant(low: Lowering, op: Any) -> SSAValue:
    value = op.properties["value"]
    if isinstance(value, ArrayAttr):
        return string_constant(low, [s.data for s in value], op.results[0].type.get_shape())
    if not isinstance(value, DenseIntOrFPElementsAttr | DenseResourceAttr):
        raise unsupported(op, f"a constant of {type(value).__name__}", "use a dense tensor")
    return low.dense(value)


@lowers("transpose")
def _transpose(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    return low.transpose(x, low.attr(op, "perm") or list(range(low.rank(x)))[::-1])


def known_shape(low: Lowering, op: Any, runtime: Sequence[Any]) -> Shape:
    """
    The shape of the result; an extent that the types do not know is made by the function at its place in
    `runtime`, from values at run time.
    """
    return tuple(
        extent if low.resolvable(extent) else runtime[axis]()
        for axis, extent in enumerate(low.result_shape(op))
    )


@lowers("reshape")
def _reshape(low: Lowering, op: Any) -> SSAValue:
    x, target = low.operands(op)
    own = low.shape(x)
    shape = low.result_shape(op)
    missing = [a for a, e in enumerate(shape) if not low.resolvable(e)]
    if not missing:
        return low.reshape(x, shape)
    zero_copies = not low.attr(op, "allowzero")

    def asked(axis: int) -> SSAValue:
        value = low.scalar_index(target, axis)
        if zero_copies and axis < len(own):
            is_zero = low.value(arith.CmpiOp(value, low.constant(0), "eq"))
            value = low.value(arith.SelectOp(is_zero, low.index(own[axis]), value))
        return value

    values = [low.index(e) if a not in missing else asked(a) for a, e in enumerate(shape)]
    # one of them may be -1: what the others leave
    others: SSAValue | None = None
    for value in values:
        positive = low.value(arith.MaxSIOp(value, low.constant(1)))
        others = positive if others is None else low.value(arith.MuliOp(others, positive))
    assert others is not None
    rest = low.value(arith.DivSIOp(low.index(product(own)), others))
    result: list[Dim] = list(shape)
    for axis in missing:
        open_ = low.value(arith.CmpiOp(values[axis], low.constant(0), "slt"))
        result[axis] = low.dim_of(low.value(arith.SelectOp(open_, rest, values[axis])))
    return low.reshape(x, tuple(result))


@lowers("flatten")
def _flatten(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    axis = low.attr(op, "axis")
    axis = axis + low.rank(x) if axis < 0 else axis
    own = low.shape(x)
    return low.reshape(x, (product(own[:axis]), product(own[axis:])))


@lowers("squeeze")
def _squeeze(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    own, rank = low.shape(x), low.rank(x)
    listed = op.operand_list()
    if len(listed) > 1 and listed[1] is not None:
        if low.known(listed[1]) is None:
            flags = axis_flags(low, low[listed[1]], rank)
            _check_units(low, own, flags)
            return low.reshape(x, without_axes(low, own, flags, len(low.result_shape(op))))
        axes = {a % rank for a in low.known_integers(listed[1], "the operand axes")}
    else:
        axes = {a for a, e in enumerate(own) if e == 1}
    shape = tuple(e for a, e in enumerate(own) if a not in axes)
    unknown_units = [a for a in axes if own[a] != 1]
    if unknown_units:
        units = tuple(1 if a in axes else e for a, e in enumerate(own))
        x = low.reshaped(low.value(tensor.CastOp(x, low.type_of(units, low.element(x)))), units)
    return low.reshape(x, shape)


def _check_units(low: Lowering, shape: Shape, flags: Sequence[SSAValue]) -> None:
    """End the run where an axis with a flag has another extent than 1."""
    for flag, extent in zip(flags, shape, strict=True):
        if extent != 1:
            size = low.value(arith.SelectOp(flag, low.index(extent), low.constant(1)))
            unit = low.value(arith.CmpiOp(size, low.constant(1), "eq"))
            check(low, unit, "graph.squeeze: an axis to drop has another extent than 1")


@lowers("unsqueeze")
def _unsqueeze(low: Lowering, op: Any) -> SSAValue:
    x, late = low.operands(op)
    if low.known(op.operands[1]) is None:
        return low.reshape(x, with_axes(low, low.shape(x), axis_flags(low, late, len(low.result_shape(op)))))
    axes = low.known_integers(op.operands[1], "the operand axes")
    rank = low.rank(x) + len(axes)
    places = {a % rank for a in axes}
    extents = iter(low.shape(x))
    return low.reshape(x, tuple(1 if a in places else next(extents) for a in range(rank)))


@lowers("concat")
def _concat(low: Lowering, op: Any) -> SSAValue:
    values = low.operands(op)
    axis = low.attr(op, "axis") % low.rank(values[0])
    return concat(low, values, axis)


def concat(low: Lowering, values: Sequence[SSAValue], axis: int) -> SSAValue:
    """The values one behind the other along `axis`."""
    if len(values) == 1:
        return values[0]
    shapes = [low.shape(v) for v in values]
    total: Dim = 0
    for s in shapes:
        total = total + s[axis]
    shape = tuple(
        total if a == axis else next((s[a] for s in shapes if isinstance(s[a], int)), shapes[0][a])
        for a in range(len(shapes[0]))
    )
    result = low.empty(shape, low.element(values[0]))
    at: Dim = 0
    for value, own in zip(values, shapes, strict=True):
        if own[axis] != 0:
            offsets: list[Dim] = [at if a == axis else 0 for a in range(len(shape))]
            sizes = [own[a] if a == axis else shape[a] for a in range(len(shape))]
            value = _cast_to(low, value, sizes)
            result = low.insert(value, result, offsets, sizes=sizes)
        at = at + own[axis]
    return result


def _cast_to(low: Lowering, value: SSAValue, shape: Sequence[Dim]) -> SSAValue:
    """`value` with the type of `shape`, which it is known to have."""
    want = low.type_of(shape, low.element(value))
    return value if value.type == want else low.reshaped(low.value(tensor.CastOp(value, want)), tuple(shape))


@lowers("split")
def _split(low: Lowering, op: Any) -> list[SSAValue]:
    x = low[op.operands[0]]
    own = low.shape(x)
    axis = low.attr(op, "axis") % len(own)
    listed = op.operand_list()
    given = len(listed) > 1 and listed[1] is not None
    at: Dim = 0
    pieces: list[SSAValue] = []
    for i in range(len(op.results)):
        size = low.result_shape(op, i)[axis]
        if not low.resolvable(size):
            assert given, "the parts follow from the number of results"
            size = low.dim_of(low.scalar_index(low[listed[1]], i))
        offsets: list[Dim] = [at if a == axis else 0 for a in range(len(own))]
        pieces.append(low.slice(x, offsets, [size if a == axis else e for a, e in enumerate(own)]))
        at = at + size
    return pieces


@lowers("slice")
def _slice(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    own = low.shape(x)
    rank = len(own)
    listed = [*op.operand_list(), None, None][:5]
    late = any(v is not None and low.known(v) is None for v in listed[3:5])
    if late or not isinstance(low.shape(low[listed[1]])[0], int):
        return _slice_at_run_time(low, x, [None if v is None else low[v] for v in listed[1:5]])
    count = listed[1].type.get_shape()[0]
    axes = low.known_integers(listed[3], "the operand axes") if listed[3] is not None else list(range(count))
    steps = low.known_integers(listed[4], "the operand steps") if listed[4] is not None else [1] * count
    offsets: list[Dim] = [0] * rank
    sizes: list[Dim] = list(own)
    strides = [1] * rank
    result = low.result_shape(op)
    for i, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        axis %= rank
        start, end = (_bound(low, listed[k], i) for k in (1, 2))
        strides[axis] = step
        offsets[axis], computed = _range(low, own[axis], start, end, step)
        sizes[axis] = result[axis] if low.resolvable(result[axis]) else computed()
    if all(s > 0 for s in strides):
        return low.slice(x, offsets, sizes, strides)
    return _read_backwards(low, x, offsets, sizes, strides)


def _slice_at_run_time(low: Lowering, x: SSAValue, bounds: Sequence[SSAValue | None]) -> SSAValue:
    """A slice whose axes or steps are known at run time only: each element is read at its computed place."""
    own = low.shape(x)
    starts, ends, axes, steps = bounds
    assert starts is not None and ends is not None
    count = low.shape(starts)[0]
    zero, one = low.constant(0), low.constant(1)
    given = []
    for values in (starts, ends, steps):
        if values is not None:
            # A bound of the far end must not overflow when an extent is added to it.
            far = entries(low, values, len(own))
            given.append([low.value(arith.MaxSIOp(v, low.constant(-(1 << 62)))) for v in far])
        else:
            given.append([one] * (count if isinstance(count, int) else len(own)))
    if axes is None:
        axes = low.tensor_constant(np.arange(count if isinstance(count, int) else len(own)))
        axes = axes if isinstance(count, int) else low.slice(axes, [0], [count])
    sizes = [low.index(e) for e in own]
    first = for_each_axis(low, axes, given[0], [zero] * len(own))
    last = for_each_axis(low, axes, given[1], sizes)
    step = for_each_axis(low, axes, given[2], [one] * len(own))
    offsets: list[Dim] = []
    shape: list[Dim] = []
    for n, start, end, by in zip(sizes, first, last, step, strict=True):
        check(low, low.value(arith.CmpiOp(by, zero, "ne")), "graph.slice: a step is 0")
        back = low.value(arith.CmpiOp(by, zero, "slt"))
        top = low.value(arith.SelectOp(back, low.value(arith.SubiOp(n, one)), n))
        bottom = low.value(arith.SelectOp(back, low.constant(-1), zero))
        start = _into(low, start, n, zero, top)
        end = _into(low, end, n, bottom, top)
        gap = low.value(arith.SubiOp(end, start))
        gap = low.value(arith.SelectOp(back, low.value(arith.SubiOp(zero, gap)), gap))
        stride = low.value(arith.SelectOp(back, low.value(arith.SubiOp(zero, by)), by))
        gap = low.value(arith.MaxSIOp(gap, zero))
        # ceil(gap / stride), also for strides so large that a sum overflows
        whole = low.value(arith.DivUIOp(gap, stride))
        rest = low.value(arith.RemUIOp(gap, stride))
        more = low.value(arith.SelectOp(low.value(arith.CmpiOp(rest, zero, "ne")), one, zero))
        shape.append(low.dim_of(low.value(arith.AddiOp(whole, more))))
        offsets.append(low.dim_of(start))
    return _read_backwards(low, x, offsets, shape, [low.dim_of(s) for s in step])


def _into(low: Lowering, bound: SSAValue, size: SSAValue, bottom: SSAValue, top: SSAValue) -> SSAValue:
    """A bound, counted from the end where it is negative, and moved to the nearest place from `bottom` to `top`."""
    negative = low.value(arith.CmpiOp(bound, low.constant(0), "slt"))
    bound = low.value(arith.SelectOp(negative, low.value(arith.AddiOp(bound, size)), bound))
    return low.value(arith.MinSIOp(low.value(arith.MaxSIOp(bound, bottom)), top))


def _bound(low: Lowering, old: SSAValue, position: int) -> int | SSAValue:
    """A start or an end: a number if it is constant."""
    known = low.known(old)
    return int(known.reshape(-1)[position]) if known is not None else low.scalar_index(low[old], position)


def _range(
    low: Lowering, extent: Dim, start: int | SSAValue, end: int | SSAValue, step: int
) -> tuple[Dim, Any]:
    """The first element of a slice, and a function that makes its extent."""
    lowest, highest = (0, extent) if step > 0 else (-1, extent - 1)
    first = _clamped(low, start, extent, 0, highest)

    def size() -> Dim:
        last = _clamped(low, end, extent, lowest, highest if step > 0 else extent - 1)
        return maximum(
            0,
            (last - first + step - (1 if step > 0 else -1)) // step
            if step > 0
            else (first - last - step - 1) // -step,
        )

    return first, size


# A negative bound counts from the end; what lies outside is moved to the nearest place.
def _clamped(low: Lowering, bound: int | SSAValue, extent: Dim, lowest: int, highest: Dim) -> Dim:
    if isinstance(bound, int):
        if bound >= 0 and isinstance(highest, int):
            return min(bound, highest)
        if bound >= 0:
            # 2^31 and more mean "to the end"
            return highest if bound >= (1 << 31) - 1 else minimum(highest, bound)
        if highest != extent and bound == -1:
            return highest
        inside = lowest if bound <= -(1 << 31) + 1 else maximum(lowest, extent + bound)
        # The last element of an empty axis is -1, below 0.
        return inside if highest == extent else minimum(inside, highest)
    size = low.index(extent)
    negative = low.value(arith.CmpiOp(bound, low.constant(0), "slt"))
    wrapped = low.value(arith.SelectOp(negative, low.value(arith.AddiOp(bound, size)), bound))
    above = low.value(arith.MaxSIOp(wrapped, low.constant(lowest)))
    return low.dim_of(low.value(arith.MinSIOp(above, low.index(highest))))


def _read_backwards(
    low: Lowering, x: SSAValue, offsets: Sequence[Dim], sizes: Sequence[Dim], strides: Sequence[Dim]
) -> SSAValue:
    """A slice with a negative step or an unknown one: each element is read at its computed place."""

    def body(like: Scalar) -> Scalar:
        build = like.body
        places = [
            build.index(a) * build.extent(strides[a]) + build.extent(offsets[a])
            if (offsets[a] != 0 or strides[a] != 1)
            else build.index(a)
            for a in range(len(sizes))
        ]
        return build.extract(x, places)

    out = low.empty(sizes, low.element(x))
    return low.generic("p" * len(sizes), [], [(out, dims(len(sizes)))], body)[0]


@lowers("expand")
def _expand(low: Lowering, op: Any) -> SSAValue:
    x, target = low.operands(op)
    own = low.shape(x)
    result_rank = len(low.result_shape(op))

    def asked(axis: int) -> Dim:
        count = low.shape(target)[0]
        assert isinstance(count, int), "the rank of the result is known, so is the number of its extents"
        skip = result_rank - count
        mine = axis - (result_rank - len(own))
        value = low.scalar_index(target, axis - skip) if axis >= skip else None
        if mine < 0 or own[mine] == 1:
            assert value is not None
            return low.dim_of(value)
        size = low.index(own[mine])
        return low.dim_of(size if value is None else low.value(arith.MaxSIOp(size, value)))

    shape = known_shape(low, op, [lambda a=a: asked(a) for a in range(result_rank)])
    return broadcast(low, x, shape)


def broadcast(low: Lowering, x: SSAValue, shape: Shape) -> SSAValue:
    """`x` repeated along its axes of extent 1, and along axes in front of them, to `shape`."""
    if low.shape(x) == tuple(shape):
        return x
    return low.map(lambda v: v, [x], shape, low.element(x), widen=False)


# tile(x, r)[i] = x[i mod n]: the axes [r, n] of a broadcast, collapsed
@lowers("tile")
def _tile(low: Lowering, op: Any) -> SSAValue:
    x, repeats = low.operands(op)
    own = low.shape(x)
    known = low.known(op.operands[1])
    times: list[Dim] = (
        [int(r) for r in known.reshape(-1)] if known is not None
        else [low.dim_of(low.scalar_index(repeats, a)) for a in range(len(own))]
    )  # fmt: skip
    spread: list[Dim] = []
    at: list[int] = []
    for r, n in zip(times, own, strict=True):
        if r != 1:
            spread.append(r)
        at.append(len(spread))
        spread.append(n)
    d = dims(len(spread))
    copied = low.map(lambda v: v, [x], spread, low.element(x), at=[[d[a] for a in at]], widen=False)
    return low.reshape(copied, tuple(r * n for r, n in zip(times, own, strict=True)))


@lowers("pad")
def _pad(low: Lowering, op: Any) -> SSAValue:
    x, pads, value, _ = [*low.operands(op), None, None][:4]
    listed = [*op.operand_list(), None, None]
    rank = low.rank(x)
    known = low.known(listed[1])
    before: list[Dim] = [0] * rank
    after: list[Dim] = [0] * rank
    late = listed[3] is not None and low.known(listed[3]) is None
    if late:
        assert listed[3] is not None, "only axes that are given can be known late"
        places = low[listed[3]]
        count = axis_count(low, places)
        for side, first in ((before, 0), (after, count)):
            part = low.slice(
                pads, [low.dim_of(first) if isinstance(first, SSAValue) else first], low.shape(places)
            )
            amounts = entries(low, part, rank)
            side[:] = map(low.dim_of, for_each_axis(low, places, amounts, [low.constant(0)] * rank))
    axes = (
        list(range(rank))
        if listed[3] is None
        else []
        if late
        else [a % rank for a in low.known_integers(listed[3], "the operand axes")]
    )
    for i, axis in enumerate(axes):
        for side, position in ((before, i), (after, i + len(axes))):
            side[axis] = (
                int(known.reshape(-1)[position])
                if known is not None
                else low.dim_of(low.scalar_index(pads, position))
            )
    mode = low.attr(op, "mode") or "constant"
    if mode == "constant":
        x, before, after = _cropped(low, x, before, after)
    if mode == "constant" and low.element(x) == STRING:
        return _pad_strings(low, x, before, after, value)
    if mode == "constant":
        filler: Any = 0
        if value is not None:
            constant = low.data(value)
            filler = (
                constant.reshape(-1)[0].item()
                if constant is not None
                else low.extract(value, [0] * low.rank(value))
            )
        return low.pad(x, before, after, filler)
    return _pad_by_index(low, x, before, after, mode)


def _cropped(
    low: Lowering, x: SSAValue, before: list[Dim], after: list[Dim]
) -> tuple[SSAValue, list[Dim], list[Dim]]:
    """`x` without what amounts below 0 take away, and the amounts that are left, all at least 0."""

    def parts(amount: Dim) -> tuple[Dim, Dim]:
        if isinstance(amount, int):
            return max(0, -amount), max(0, amount)
        # What the run reads is no extent: it may be below 0, and only instructions find out.
        value, zero = low.index(amount), low.constant(0)
        minus = low.value(arith.SubiOp(zero, value))
        cut, added = (low.value(arith.MaxSIOp(v, zero)) for v in (minus, value))
        return low.dim_of(cut), low.dim_of(added)

    sides = [[parts(amount) for amount in side] for side in (before, after)]
    cut = [[c for c, _ in side] for side in sides]
    before, after = ([a for _, a in side] for side in sides)
    return low.crop(x, *cut), before, after


def _pad_strings(low: Lowering, x: SSAValue, before: list[Dim], after: list[Dim], value: Any) -> SSAValue:
    """Strings inside a tensor of copies of one string."""
    filler = string_constant(low, [""], ()) if value is None else low.reshape(value, ())
    shape = tuple(b + n + a for b, n, a in zip(before, low.shape(x), after, strict=True))
    return low.insert(x, broadcast(low, filler, shape), before)


def _pad_by_index(low: Lowering, x: SSAValue, before: list[Dim], after: list[Dim], mode: str) -> SSAValue:
    """Padding with elements of `x` itself: reflected, repeated or wrapped round."""
    own = low.shape(x)
    shape = tuple(b + n + a for b, n, a in zip(before, own, after, strict=True))

    def place(body: Any, axis: int) -> Scalar:
        i = body.index(axis)
        if before[axis] == 0 and after[axis] == 0:
            return i
        n = body.extent(own[axis])
        i = i - body.extent(before[axis])
        if mode == "edge":
            return i.maximum(0).minimum(n - 1)
        if mode == "wrap":
            rest = Scalar(body, body.add(arith.RemSIOp(i.value, n.value)))
            return body.select(rest.below(0), rest + n, rest)
        # reflect: a walk to and fro with period 2n - 2
        period = ((n - 1) * 2).maximum(1)
        rest = Scalar(body, body.add(arith.RemSIOp(i.value, period.value))).absolute()
        return rest.minimum(period - rest).minimum(n - 1).maximum(0)

    def body(out: Scalar) -> Scalar:
        return out.body.extract(x, [place(out.body, a) for a in range(len(own))])

    out = low.empty(shape, low.element(x))
    return low.generic("p" * len(own), [], [(out, dims(len(own)))], body)[0]


@lowers("depth_to_space")
def _depth_to_space(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    n, c, h, w = low.shape(x)
    b = low.attr(op, "blocksize")
    rest = c // (b * b)  # pyright: ignore
    if (low.attr(op, "mode") or "DCR") == "DCR":
        split = low.transpose(low.reshape(x, (n, b, b, rest, h, w)), [0, 3, 4, 1, 5, 2])
    else:
        split = low.transpose(low.reshape(x, (n, rest, b, b, h, w)), [0, 1, 4, 2, 5, 3])
    return low.reshape(split, (n, rest, h * b, w * b))


@lowers("space_to_depth")
def _space_to_depth(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    n, c, h, w = low.shape(x)
    b = low.attr(op, "blocksize")
    split = low.reshape(x, (n, c, h // b, b, w // b, b))  # pyright: ignore
    order = [0, 3, 5, 1, 2, 4] if (low.attr(op, "mode") or "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    return low.reshape(low.transpose(split, order), (n, c * b * b, h // b, w // b))  # pyright: ignore


@lowers("shape")
def _shape(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    extents = low.shape(x)
    rank = len(extents)
    start, end = low.attr(op, "start") or 0, low.attr(op, "end")
    end = rank if end is None else end
    start = max(0, start + rank if start < 0 else min(start, rank))
    end = max(0, end + rank if end < 0 else min(end, rank))
    return _integers(low, extents[start:end])


@lowers("size")
def _size(low: Lowering, op: Any) -> SSAValue:
    return low.reshape(_integers(low, [product(low.shape(low[op.operands[0]]))]), ())


def _integers(low: Lowering, extents: Sequence[Dim]) -> SSAValue:
    """Extents as a 1-D tensor of i64."""
    if all(isinstance(e, int) for e in extents):
        return low.tensor_constant(np.array(extents, np.int64).reshape(-1))
    elements = [
        low.constant(e, i64) if isinstance(e, int) else low.value(arith.IndexCastOp(low.index(e), i64))
        for e in extents
    ]
    return low.value(
        tensor.FromElementsOp.build(operands=[elements], result_types=[TensorType(i64, [len(elements)])])
    )


@lowers("constant_of_shape")
def _constant_of_shape(low: Lowering, op: Any) -> SSAValue:
    (target,) = low.operands(op)
    rank = len(low.result_shape(op))
    shape = known_shape(low, op, [lambda a=a: low.dim_of(low.scalar_index(target, a)) for a in range(rank)])
    value = op.properties.get("value")
    filler: Any = 0
    if value is not None:
        from stepwell.resources import value_of

        filler = value_of(value, low.ctx).reshape(-1)[0].item()
    return low.fill(filler, shape, low.result_element(op))


@lowers("range")
def _range_op(low: Lowering, op: Any) -> SSAValue:
    start, limit, delta = low.operands(op)
    element = low.result_element(op)

    def count() -> Dim:
        a, b, step = (low.extract(v, [0] * low.rank(v)) for v in (start, limit, delta))
        if isinstance(element, AnyFloat):
            from xdsl.dialects import math

            quotient = low.value(arith.DivfOp(low.value(arith.SubfOp(b, a)), step))
            whole = low.value(arith.FPToSIOp(low.value(math.CeilOp(quotient)), i64))
        else:
            whole = low.value(arith.CeilDivSIOp(low.value(arith.SubiOp(b, a)), step))
        if whole.type != i64:
            whole = low.value(arith.ExtSIOp(whole, i64))
        index = low.value(arith.IndexCastOp(whole, INDEX))
        return low.dim_of(low.value(arith.MaxSIOp(index, low.constant(0))))

    shape = known_shape(low, op, [count])
    d: list[list[AffineExpr | int]] = [[0] * low.rank(v) for v in (start, delta)]

    def body(a: Scalar, step: Scalar) -> Scalar:
        return a + a.body.index(0).cast(a.type, a.unsigned) * step

    return low.map(body, [start, delta], shape, element, at=d)


@lowers("trilu")
def _trilu(low: Lowering, op: Any) -> SSAValue:
    x, k = [*low.operands(op), None][:2]
    shape, rank = low.shape(x), low.rank(x)
    known = low.known(op.operand_list()[1]) if k is not None else None
    offset: Any = 0 if k is None else int(known.reshape(-1)[0]) if known is not None else low.scalar_index(k)
    upper = bool(low.attr(op, "upper"))

    def body(v: Scalar) -> Scalar:
        row, column = v.body.index(rank - 2), v.body.index(rank - 1)
        diagonal = (
            row + (v.body.wrap(offset) if isinstance(offset, SSAValue) else offset)
            if isinstance(offset, SSAValue) or offset
            else row
        )
        return v.body.select(column.at_least(diagonal) if upper else column.at_most(diagonal), v, 0)

    return low.map(body, [x], shape, low.element(x), widen=False)


@lowers("eye_like")
def _eye_like(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    element, k = low.result_element(op), low.attr(op, "k") or 0

    def body(out: Scalar) -> Scalar:
        build = out.body
        hit = build.index(1).equals(build.index(0) + k)
        return build.select(hit, build.constant(1, element), build.constant(0, element))

    result = low.empty(low.shape(x), element)
    return low.generic("pp", [], [(result, dims(2))], body)[0]


@lowers("reverse_sequence")
def _reverse_sequence(low: Lowering, op: Any) -> SSAValue:
    x, lengths = low.operands(op)
    batch, time = low.attr(op, "batch_axis"), low.attr(op, "time_axis")
    d = dims(low.rank(x))

    def body(length: Scalar) -> Scalar:
        build, n = length.body, length.as_index()
        places = [build.index(a) for a in range(len(d))]
        t = places[time]
        places[time] = build.select(t.below(n), n - 1 - t, t)
        return build.extract(x, places)

    return low.map(body, [lengths], low.shape(x), low.element(x), at=[[d[batch]]], widen=False)
