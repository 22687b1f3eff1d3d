"""Reductions over axes, and what is made of them: softmax, arg_max, cumulative sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import AnyFloat, IntegerType, i1, i64
from xdsl.ir import Attribute, Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.contraction import accumulator_of
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, Shape, dims, lowers
from stepwell.conversion.graph_to_linalg.runtime_axes import (
    axis_count,
    axis_flags,
    chosen,
    normalised_axes,
    without_axes,
)
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.dialects.graph.shape import Dim, product


def lowest_of(element: Attribute, unsigned: bool = False) -> float | int:
    """What every value of the type is at least."""
    if isinstance(element, AnyFloat):
        return float("-inf")
    assert isinstance(element, IntegerType)
    return 0 if unsigned or element == i1 else -(1 << (element.width.data - 1))


def highest_of(element: Attribute, unsigned: bool = False) -> float | int:
    """What every value of the type is at most."""
    if isinstance(element, AnyFloat):
        return float("inf")
    assert isinstance(element, IntegerType)
    if element == i1:
        return 1
    return (1 << element.width.data) - 1 if unsigned else (1 << (element.width.data - 1)) - 1


@dataclass(frozen=True)
class _Kind:
    """How a reduction starts, what it makes of each element, how it combines, and what it makes of the end."""

    combine: Callable[[Scalar, Scalar], Scalar]
    start: Callable[[Attribute, bool], float | int]
    each: Callable[[Scalar], Scalar] = lambda x: x
    finish: Callable[[Scalar], Scalar] | None = None


def _add(acc: Scalar, x: Scalar) -> Scalar:
    return acc + x


def _zero(element: Attribute, unsigned: bool) -> int:
    return 0


_KINDS: dict[str, _Kind] = {
    "sum": _Kind(_add, _zero),
    "mean": _Kind(_add, _zero),
    "max": _Kind(lambda acc, x: x.maximum(acc), lowest_of),
    "min": _Kind(lambda acc, x: x.minimum(acc), highest_of),
    "prod": _Kind(lambda acc, x: acc * x, lambda e, u: 1),
    "l1": _Kind(_add, _zero, Scalar.absolute),
    "l2": _Kind(_add, _zero, lambda x: x * x, lambda x: _float_root(x)),
    "sum_square": _Kind(_add, _zero, lambda x: x * x),
    "log_sum": _Kind(_add, _zero, lambda x: x, lambda x: x.log()),
}


_LONG_SUM = 4096
"""Most elements that are added one after the other where a sum runs over several axes."""


def _float_root(x: Scalar) -> Scalar:
    if x.is_float:
        return x.sqrt()
    from xdsl.dialects.builtin import f64

    return x.cast(f64).sqrt().cast(x.type, x.unsigned)


def reduced_shape(shape: Sequence[Dim], axes: Sequence[int]) -> Shape:
    return tuple(e for a, e in enumerate(shape) if a not in axes)


def fold(
    low: Lowering, inputs: Sequence[SSAValue], axes: Sequence[int], element: Attribute, start: float | int,
    body: Callable[..., Scalar], unsigned: Sequence[bool] = (), at: Sequence[Any] | None = None,
    shape: Shape | None = None,
) -> SSAValue:  # fmt: skip
    """
    A reduction of `inputs` over `axes` of `shape` (the first one's) with `body(*inputs, acc)`; the axes
    are gone. Inputs after the first that lack the axes are read without them.
    """
    shape = low.shape(inputs[0]) if shape is None else shape
    d = dims(len(shape))
    kept = [x for a, x in enumerate(d) if a not in axes]
    places = at if at is not None else [
        d if low.rank(v) == len(shape) else kept for v in inputs
    ]  # fmt: skip
    init = low.fill(start, reduced_shape(shape, axes), element)
    iterators = "".join("r" if a in axes else "p" for a in range(len(shape)))
    (result,) = low.generic(
        iterators, list(zip(inputs, places, strict=True)), [(init, kept)], body, unsigned=unsigned
    )
    return result


def keep_axes(low: Lowering, value: SSAValue, shape: Shape, axes: Sequence[int]) -> SSAValue:
    """A reduced value with an extent of 1 in place of each of `axes` of `shape`."""
    return low.reshape(value, tuple(1 if a in axes else e for a, e in enumerate(shape)))


def reduce(
    low: Lowering, x: SSAValue, axes: Sequence[int], kind: str, keep: bool, unsigned: bool = False
) -> SSAValue:
    """The reduction `kind` of `x` over `axes`."""
    shape, element = low.shape(x), low.element(x)
    wide, body = _step(kind, element, unsigned)
    start, count = _KINDS[kind].start(element, unsigned), product(shape[a] for a in axes)
    if _is_long_sum(kind, wide, axes, count):
        *rest, last = sorted(axes)
        rows = fold(low, [x], [last], wide, start, body, [unsigned, unsigned])
        result = fold(low, [rows], rest, wide, start, lambda v, acc: acc + v)
    else:
        result = fold(low, [x], axes, wide, start, body, [unsigned, unsigned])
    result = _finished(low, result, kind, count, element, unsigned)
    return keep_axes(low, result, shape, axes) if keep else result


# sum over i, j of x[i, j] = sum over i of (sum over j of x[i, j]), whose rounding grows with I + J instead of I * J
def _is_long_sum(kind: str, wide: Attribute, axes: Sequence[int], count: Dim) -> bool:
    """Whether a sum is made of the sums of its rows, which also are work for more than one thread."""
    if len(axes) < 2 or not isinstance(wide, AnyFloat) or _KINDS[kind].combine is not _add:
        return False
    return not isinstance(count, int) or count > _LONG_SUM


def _step(kind: str, element: Attribute, unsigned: bool) -> tuple[Attribute, Callable[..., Scalar]]:
    """The type that the reduction is made in, and how it takes in one element."""
    wide = accumulator_of(element) if kind not in ("max", "min") else element
    how = _KINDS[kind]

    def body(v: Scalar, acc: Scalar) -> Scalar:
        v, acc.unsigned = v.cast(wide, unsigned), unsigned
        return how.combine(acc, how.each(v))

    def all_or_any(v: Scalar, acc: Scalar) -> Scalar:
        return acc & v if kind in ("min", "prod") else acc | v

    return wide, all_or_any if element == i1 else body


def _finished(
    low: Lowering, result: SSAValue, kind: str, count: Dim, element: Attribute, unsigned: bool
) -> SSAValue:
    """What the reduction makes of its sum of `count` elements."""
    finish = _KINDS[kind].finish
    if kind == "mean":

        def mean(v: Scalar) -> Scalar:
            v.unsigned = unsigned
            if v.is_float:
                return v * (1.0 / count) if isinstance(count, int) else v / v.body.extent(count).cast(v.type)
            return v / (v.lift(count) if isinstance(count, int) else v.body.extent(count).cast(v.type))

        finish = mean

    if finish is None and low.element(result) == element:
        return result
    return low.map(finish or (lambda v: v), [result], low.shape(result), element)


# A reduction over axes that are known at run time is pooling, with a window that is all of an axis or 1:
# out[i] = sum of x[i + k]   where an axis has the extents (1 of i, n of k) if it is reduced, else (n of i, 1 of k)
def reduce_at_run_time(
    low: Lowering, x: SSAValue, axes: SSAValue, kind: str, keep: bool, unsigned: bool, none_is_all: bool
) -> SSAValue:
    """The reduction `kind` of `x` over the axes that the value `axes` holds when the model runs."""
    shape, element = low.shape(x), low.element(x)
    rank = len(shape)
    flags = axis_flags(low, axes, rank)
    if none_is_all and isinstance(count := axis_count(low, axes), SSAValue):
        none = low.value(arith.CmpiOp(count, low.constant(0), "eq"))
        flags = [low.value(arith.OrIOp(flag, none)) for flag in flags]
    out = tuple(chosen(low, flag, 1, extent) for flag, extent in zip(flags, shape, strict=True))
    window = tuple(chosen(low, flag, extent, 1) for flag, extent in zip(flags, shape, strict=True))
    wide, body = _step(kind, element, unsigned)
    d = dims(2 * rank)
    init = low.fill(_KINDS[kind].start(element, unsigned), out, wide)
    (result,) = low.generic(
        "p" * rank + "r" * rank,
        [(x, [d[a] + d[rank + a] for a in range(rank)]), (low.empty(window, element), d[rank:])],
        [(init, d[:rank])],
        lambda v, _, acc: body(v, acc),
        unsigned=[unsigned, False, unsigned],
    )
    result = _finished(low, result, kind, product(window), element, unsigned)
    if keep:
        return result
    return low.reshape(result, without_axes(low, shape, flags, rank - low.shape(axes)[0]))  # pyright: ignore


def axes_of(low: Lowering, op: Any, rank: int) -> list[int]:
    """The axes of a `reduce_*`: an operand or an attribute, all where there are none."""
    values = op.operand_list()
    axes: list[int] | None = None
    if len(values) > 1 and values[1] is not None:
        axes = low.known_integers(values[1], "the operand axes")
    elif low.attr(op, "axes") is not None:
        axes = low.attr(op, "axes")
    if not axes:
        return [] if low.attr(op, "noop_with_empty_axes") else list(range(rank))
    return sorted({a % rank for a in axes})


def late_axes(low: Lowering, op: Any) -> SSAValue | None:
    """The operand `axes` where its values are known at run time only."""
    values = op.operand_list()
    if len(values) < 2 or values[1] is None or low.known(values[1]) is not None:
        return None
    return low[values[1]]


def _enter(kind: str) -> None:
    @lowers(f"reduce_{kind}")
    def lower(low: Lowering, op: Any) -> SSAValue:
        x = low[op.operands[0]]
        unsigned = low.unsigned(op)[0]
        if (late := late_axes(low, op)) is not None:
            none_is_all = not low.attr(op, "noop_with_empty_axes")
            keep = bool(low.attr(op, "keepdims"))
            return reduce_at_run_time(low, x, late, kind, keep, unsigned, none_is_all)
        axes = axes_of(low, op, low.rank(x))
        if not axes:
            how = _KINDS[kind]
            each, finish = how.each, how.finish or (lambda v: v)
            return low.map(lambda v: finish(each(v)), [x], low.shape(x), low.element(x), unsigned=[unsigned])
        return reduce(low, x, axes, kind, bool(low.attr(op, "keepdims")), unsigned)


for _kind in _KINDS:
    _enter(_kind)


def _exponentials(low: Lowering, x: SSAValue, axes: Sequence[int]) -> tuple[SSAValue, SSAValue, SSAValue]:
    """For `x` along `axes`: its maximum, `exp(x - maximum)`, and the sum of that, the last two wide."""
    shape, element = low.shape(x), low.element(x)
    wide = accumulator_of(element)
    # A NaN makes the sum NaN, so the maximum need not: one instruction in place of three.
    top = fold(low, [x], axes, element, lowest_of(element), lambda v, acc: v.maximum_number(acc))
    kept = [e for a, e in enumerate(dims(len(shape))) if a not in axes]
    # Nothing is above its maximum: the bound 0 changes nothing, but tells `expand-math`, where powers that cannot overflow cost less.
    powers = low.map(
        lambda v, m: (v - m).minimum(0.0).exp(), [x, top], shape, wide, at=[dims(len(shape)), kept]
    )
    total = fold(low, [powers], axes, wide, 0.0, lambda v, acc: acc + v)
    return top, powers, total


# softmax(x) = exp(x - max) / sum(exp(x - max)), which no large x can overflow
@lowers("softmax")
def _softmax(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    axis = low.attr(op, "axis") % low.rank(x)
    return softmax(low, x, axis)


def softmax(low: Lowering, x: SSAValue, axis: int) -> SSAValue:
    """The softmax of `x` along `axis`."""
    _, powers, total = _exponentials(low, x, [axis])
    d = dims(low.rank(x))
    kept = [e for a, e in enumerate(d) if a != axis]
    # One division a row; the sum is at least 1, so its reciprocal is finite and exact but for rounding.
    wide = low.element(total)
    shares = low.map(lambda s: 1.0 / s, [total], low.shape(total), wide)
    return low.map(lambda v, s: v * s, [powers, shares], low.shape(x), low.element(x), at=[d, kept])


@lowers("log_softmax")
def _log_softmax(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    axis = low.attr(op, "axis") % low.rank(x)
    top, _, total = _exponentials(low, x, [axis])
    logs = low.map(lambda s: s.log(), [total], low.shape(total), low.element(total))
    d = dims(low.rank(x))
    kept = [e for a, e in enumerate(d) if a != axis]
    return low.map(
        lambda v, m, s: (v - m) - s, [x, top, logs], low.shape(x), low.element(x), at=[d, kept, kept]
    )


@lowers("reduce_log_sum_exp")
def _reduce_log_sum_exp(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    axes = axes_of(low, op, low.rank(x))
    if not axes:
        return x
    top, _, total = _exponentials(low, x, axes)
    result = low.map(lambda s, m: s.log() + m, [total, top], low.shape(total), low.element(x))
    return keep_axes(low, result, low.shape(x), axes) if low.attr(op, "keepdims") else result


@lowers("hardmax")
def _hardmax(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    axis = low.attr(op, "axis") % low.rank(x)
    where = arg_extreme(low, x, axis, True, False, False)
    d = dims(low.rank(x))
    kept = [e for a, e in enumerate(d) if a != axis]

    def body(_: Scalar, best: Scalar) -> Scalar:
        here = best.body.index(axis).cast(i64)
        return best.body.select(
            here.equals(best), best.body.constant(1, low.element(x)), best.body.constant(0, low.element(x))
        )

    return low.map(body, [x, where], low.shape(x), low.element(x), at=[d, kept], widen=False)


def arg_extreme(low: Lowering, x: SSAValue, axis: int, largest: bool, last: bool, unsigned: bool) -> SSAValue:
    """The index of the extreme element along `axis`, which is gone: the first or the last of equal ones."""
    shape, element = low.shape(x), low.element(x)
    d = dims(len(shape))
    kept = [e for a, e in enumerate(d) if a != axis]
    rest = reduced_shape(shape, [axis])
    start = (lowest_of if largest else highest_of)(element, unsigned)
    best, place = low.fill(start, rest, element), low.fill(0, rest, i64)

    def body(v: Scalar, top: Scalar, at: Scalar) -> list[Scalar]:
        v.unsigned = top.unsigned = unsigned
        if largest:
            better = v.at_least(top) if last else v.above(top)
        else:
            better = v.at_most(top) if last else v.below(top)
        here = v.body.index(axis).cast(i64)
        return [v.body.select(better, v, top), v.body.select(better, here, at)]

    iterators = "".join("r" if a == axis else "p" for a in range(len(shape)))
    return low.generic(iterators, [(x, d)], [(best, kept), (place, kept)], body)[1]


def _enter_arg(name: str, largest: bool) -> None:
    @lowers(name)
    def lower(low: Lowering, op: Any) -> SSAValue:
        x = low[op.operands[0]]
        axis = low.attr(op, "axis") % low.rank(x)
        unsigned = low.unsigned(op)[0]
        result = arg_extreme(low, x, axis, largest, bool(low.attr(op, "select_last_index")), unsigned)
        return keep_axes(low, result, low.shape(x), [axis]) if low.attr(op, "keepdims") else result


_enter_arg("arg_max", True)
_enter_arg("arg_min", False)


def _enter_running(name: str, combine: Callable[[Scalar, Scalar], Scalar], start: int) -> None:
    """`cum_sum` and its like: one loop over the axis, a slice at a time."""

    @lowers(name)
    def lower(low: Lowering, op: Any) -> SSAValue:
        x = low[op.operands[0]]
        if low.known(op.operands[1]) is None:
            return _along_late_axis(low, op, x)
        (axis,) = low.known_integers(op.operands[1], "the operand axis")
        return running(low, op, x, axis % low.rank(x))

    # Row-major, an axis lies between what is before it and what is behind it: [before, n, behind].
    def _along_late_axis(low: Lowering, op: Any, x: SSAValue) -> SSAValue:
        shape = low.shape(x)
        (axis,) = normalised_axes(low, low[op.operands[1]], len(shape))
        before, extent, behind = (low.constant(1) for _ in range(3))
        for own, size in enumerate(shape):
            here, later = (low.value(arith.CmpiOp(low.constant(own), axis, how)) for how in ("eq", "ugt"))
            size = low.index(size)
            extent = low.value(arith.SelectOp(here, size, extent))
            behind = low.value(arith.MuliOp(behind, low.value(arith.SelectOp(later, size, low.constant(1)))))
            sooner = low.value(arith.CmpiOp(low.constant(own), axis, "ult"))
            before = low.value(arith.MuliOp(before, low.value(arith.SelectOp(sooner, size, low.constant(1)))))
        flat = low.reshape(x, tuple(low.dim_of(v) for v in (before, extent, behind)))
        return low.reshape(running(low, op, flat, 1), shape)

    def running(low: Lowering, op: Any, x: SSAValue, axis: int) -> SSAValue:
        shape, element = low.shape(x), low.element(x)
        exclusive, reverse = bool(low.attr(op, "exclusive")), bool(low.attr(op, "reverse"))
        line = tuple(1 if a == axis else e for a, e in enumerate(shape))
        out, total = low.empty(shape, element), low.fill(start, line, element)
        block = Block(arg_types=[INDEX, out.type, total.type])
        i, result, total_so_far = block.args
        low.reshaped(result, shape)
        low.reshaped(total_so_far, line)
        extent = low.index(shape[axis])
        with low.inside(block):
            place: SSAValue = i
            if reverse:
                last = low.value(arith.SubiOp(extent, low.constant(1)))
                place = low.value(arith.SubiOp(last, i))
            offsets: list[Dim] = [low.dim_of(place) if a == axis else 0 for a in range(len(shape))]
            piece = low.slice(x, offsets, line)
            new = low.map(combine, [total_so_far, piece], line, element)
            written = low.insert(total_so_far if exclusive else new, result, offsets)
            block.add_op(scf.YieldOp(written, new))
        loop = scf.ForOp(low.constant(0), extent, low.constant(1), [out, total], Region(block))
        return low.reshaped(low.value(loop), shape)


_enter_running("cum_sum", lambda acc, x: acc + x, 0)
_enter_running("cum_prod", lambda acc, x: acc * x, 1)
