"""
Axes that are known at run time only: the rank of the result follows from how many there are, its extents are
computed in `@main` from flags, one for each axis.
"""

from collections.abc import Sequence

from xdsl.dialects import arith, cf
from xdsl.dialects.builtin import StringAttr, i1
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.lowering import Lowering, Shape
from stepwell.dialects.graph.shape import Dim


def axis_count(low: Lowering, axes: SSAValue) -> int | SSAValue:
    """How many axes the operand holds."""
    if not low.rank(axes):
        return 1
    (count,) = low.shape(axes)
    return count if isinstance(count, int) else low.index(count)


def entries(low: Lowering, values: SSAValue, limit: int) -> list[SSAValue]:
    """The entries of a vector as `index` values; of one whose length only the run knows `limit`, with zeros behind it."""
    count = axis_count(low, values)
    if isinstance(count, int):
        return [low.scalar_index(values, i) for i in range(count)]
    fits = low.value(arith.CmpiOp(count, low.constant(limit), "ule"))
    assert low.op is not None
    check(low, fits, f"{low.op.name}: an operand has more than {limit} entries")
    padded = low.insert(values, low.fill(0, (limit,), low.element(values)), [0])
    return [low.scalar_index(padded, i) for i in range(limit)]


def check(low: Lowering, condition: SSAValue, message: str) -> None:
    """End the run with `message` where `condition` does not hold."""
    low.add(cf.AssertOp(condition, StringAttr(message)))


def normalised_axes(low: Lowering, axes: SSAValue, rank: int) -> list[SSAValue]:
    """
    The axes as `index` values from 0 to `rank - 1`; the run ends where one is none of these. Where only the run knows
    how many there are, they are as many as there can be: what is too much is `rank`.
    """
    assert low.op is not None
    found, count = [], axis_count(low, axes)
    for i, axis in enumerate(entries(low, axes, rank)):
        negative = low.value(arith.CmpiOp(axis, low.constant(0), "slt"))
        wrapped = low.value(arith.AddiOp(axis, low.constant(rank)))
        axis = low.value(arith.SelectOp(negative, wrapped, axis))
        # Below 0 is far above `rank` without the sign.
        inside = low.value(arith.CmpiOp(axis, low.constant(rank), "ult"))
        if isinstance(count, SSAValue):
            beyond = low.value(arith.CmpiOp(count, low.constant(i), "ule"))
            inside = low.value(arith.OrIOp(inside, beyond))
            axis = low.value(arith.SelectOp(beyond, low.constant(rank), axis))
        check(low, inside, f"{low.op.name}: an axis is outside of the {rank} of the tensor")
        found.append(axis)
    return found


def axis_flags(low: Lowering, axes: SSAValue, rank: int) -> list[SSAValue]:
    """For each of `rank` axes, whether the operand `axes` names it; the run ends where it names one twice."""
    assert low.op is not None
    named = normalised_axes(low, axes, rank)
    flags: list[SSAValue] = []
    total: SSAValue | None = None
    for axis in range(rank):
        flag: SSAValue | None = None
        for name in named:
            same = low.value(arith.CmpiOp(name, low.constant(axis), "eq"))
            flag = same if flag is None else low.value(arith.OrIOp(flag, same))
        flag = low.constant(0, i1) if flag is None else flag
        flags.append(flag)
        one = low.value(arith.SelectOp(flag, low.constant(1), low.constant(0)))
        total = one if total is None else low.value(arith.AddiOp(total, one))
    if total is not None and len(named) > 1:
        count = axis_count(low, axes)
        count = low.constant(count) if isinstance(count, int) else count
        distinct = low.value(arith.CmpiOp(total, count, "eq"))
        check(low, distinct, f"{low.op.name}: an axis is named twice")
    return flags


def chosen(low: Lowering, flag: SSAValue, then: Dim, otherwise: Dim) -> Dim:
    """One of two extents."""
    return low.dim_of(low.value(arith.SelectOp(flag, low.index(then), low.index(otherwise))))


def without_axes(low: Lowering, shape: Sequence[Dim], flags: Sequence[SSAValue], rank: int) -> Shape:
    """The `rank` extents whose flag is not set, in order."""
    places = _places(low, flags)
    result: list[Dim] = []
    for axis in range(rank):
        extent = low.constant(1)
        for own, size in enumerate(shape):
            here = low.value(arith.CmpiOp(places[own], low.constant(axis), "eq"))
            kept = low.value(arith.XOrIOp(flags[own], low.constant(1, i1)))
            taken = low.value(arith.AndIOp(here, kept))
            extent = low.value(arith.SelectOp(taken, low.index(size), extent))
        result.append(low.dim_of(extent))
    return tuple(result)


def with_axes(low: Lowering, shape: Sequence[Dim], flags: Sequence[SSAValue]) -> Shape:
    """An extent of 1 where a flag is set, those of `shape` in order where none is."""
    places = _places(low, flags)
    result: list[Dim] = []
    for axis, flag in enumerate(flags):
        extent = low.constant(1)
        for own, size in enumerate(shape):
            here = low.value(arith.CmpiOp(places[axis], low.constant(own), "eq"))
            extent = low.value(arith.SelectOp(here, low.index(size), extent))
        result.append(low.dim_of(low.value(arith.SelectOp(flag, low.constant(1), extent))))
    return tuple(result)


def _places(low: Lowering, flags: Sequence[SSAValue]) -> list[SSAValue]:
    """For each axis how many before it have no flag."""
    count: SSAValue = low.constant(0)
    places = []
    for flag in flags:
        places.append(count)
        step = low.value(arith.SelectOp(flag, low.constant(0), low.constant(1)))
        count = low.value(arith.AddiOp(count, step))
    return places


def for_each_axis(
    low: Lowering, axes: SSAValue, values: Sequence[SSAValue], default: Sequence[SSAValue]
) -> list[SSAValue]:
    """For each axis the value that goes with its entry in `axes`, else its default."""
    rank = len(default)
    named = normalised_axes(low, axes, rank)
    result = list(default)
    for axis in range(rank):
        for name, value in zip(named, values, strict=True):
            same = low.value(arith.CmpiOp(name, low.constant(axis), "eq"))
            result[axis] = low.value(arith.SelectOp(same, value, result[axis]))
    return result
