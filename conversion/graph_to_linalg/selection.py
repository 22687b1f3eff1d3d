"""Results that depend on an order or on a count: top_k, non_zero, compress, non_max_suppression."""

from typing import Any

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import i1, i64
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.indexing import delinearized, loop
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.reduction import highest_of, lowest_of
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.dialects.graph.shape import Dim, product


# The j-th element in order is the best of those that come after the (j-1)-th, where an element comes after
# another if it is worse, or equal with a larger index. So k reductions do, with nothing to mark or to move.
@lowers("top_k")
def _top_k(low: Lowering, op: Any) -> list[SSAValue]:
    x, k = low.operands(op)
    shape, element, rank = low.shape(x), low.element(x), low.rank(x)
    axis = low.attr(op, "axis") % rank
    largest, unsigned = bool(low.attr(op, "largest")), low.unsigned(op)[0]
    count = low.result_shape(op)[axis]
    if not low.resolvable(count):
        count = low.dim_of(low.scalar_index(k))
    out = tuple(count if a == axis else e for a, e in enumerate(shape))
    rest = tuple(e for a, e in enumerate(shape) if a != axis)
    line = tuple(1 if a == axis else e for a, e in enumerate(shape))
    d = dims(rank)
    kept = [e for a, e in enumerate(d) if a != axis]
    # before the first: better than anything, and index -1
    edge = (highest_of if largest else lowest_of)(element, unsigned)
    worst = (lowest_of if largest else highest_of)(element, unsigned)
    start = [
        low.empty(out, element), low.empty(out, i64), low.fill(edge, rest, element), low.fill(-1, rest, i64)
    ]  # fmt: skip
    iterators = "".join("r" if a == axis else "p" for a in range(rank))

    def pick(v: Scalar, last: Scalar, at: Scalar, best: Scalar, place: Scalar) -> list[Scalar]:
        v.unsigned = last.unsigned = best.unsigned = unsigned
        here = v.body.index(axis).cast(i64)
        worse = v.below(last) if largest else v.above(last)
        after = worse | (v.equals(last) & here.above(at))
        better = v.above(best) if largest else v.below(best)
        taken = after & (better | place.below(0))
        return [v.body.select(taken, v, best), v.body.select(taken, here, place)]

    def body(j: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        values, indices, last, at = carried
        best, place = low.fill(worst, rest, element), low.fill(-1, rest, i64)
        best, place = low.generic(
            iterators, [(x, d), (last, kept), (at, kept)], [(best, kept), (place, kept)], pick
        )
        offsets: list[Dim] = [low.dim_of(j) if a == axis else 0 for a in range(rank)]
        values = low.insert(low.reshape(best, line), values, offsets)
        indices = low.insert(low.reshape(place, line), indices, offsets)
        return [values, indices, best, place]

    return loop(low, count, start, body)[:2]


def _count_true(low: Lowering, mask: SSAValue) -> SSAValue:
    """How many elements are true, as an index."""
    d = dims(low.rank(mask))
    init = low.fill(0, (), i64)
    (total,) = low.generic("r" * len(d), [(mask, d)], [(init, [])], lambda m, acc: acc + m.cast(i64))
    return low.scalar_index(total)


def true_positions(low: Lowering, mask: SSAValue) -> tuple[SSAValue, Dim]:
    """The row-major positions of the true elements of `mask`, as a 1-D tensor of i64, and their number."""
    shape = low.shape(mask)
    count = low.dim_of(_count_true(low, mask))
    out = low.empty((count,), i64)

    def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        result, at = carried
        hit = low.value(tensor.ExtractOp(mask, delinearized(low, i, shape), i1))
        then, otherwise = Block(), Block()
        with low.inside(then):
            number = low.value(arith.IndexCastOp(i, i64))
            written = low.value(
                tensor.InsertOp.build(operands=[number, result, [at]], result_types=[result.type])
            )
            low.add(scf.YieldOp(written, low.value(arith.AddiOp(at, low.constant(1)))))
        with low.inside(otherwise):
            low.add(scf.YieldOp(result, at))
        branch = low.add(scf.IfOp(hit, [result.type, INDEX], Region(then), Region(otherwise)))
        return list(branch.results)

    result, _ = loop(low, product(shape), [out, low.constant(0)], body)
    return low.reshaped(result, (count,)), count


def _coordinate(build: Body, position: Scalar, shape: Any, axis: int) -> Scalar:
    """The index along `axis` of the element at a row-major position."""
    inner = product(shape[axis + 1 :])
    place = (
        position
        if inner == 1
        else Scalar(build, build.add(arith.DivUIOp(position.value, build.extent(inner).value)))
    )
    if axis == 0:
        return place
    return Scalar(build, build.add(arith.RemUIOp(place.value, build.extent(shape[axis]).value)))


@lowers("non_zero")
def _non_zero(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    shape, rank = low.shape(x), low.rank(x)
    mask = low.map(lambda v: v.as_bool(), [x], shape, i1, widen=False)
    positions, count = true_positions(low, mask)
    result = low.empty((rank, count), i64)
    for axis in range(rank):

        def body(p: Scalar, axis: int = axis) -> Scalar:
            return _coordinate(p.body, p.as_index(), shape, axis).cast(i64)

        row = low.map(body, [positions], (count,), i64)
        result = low.insert(low.reshape(row, (1, count)), result, [axis, 0])
    return result


@lowers("compress")
def _compress(low: Lowering, op: Any) -> SSAValue:
    x, condition = low.operands(op)
    axis = low.attr(op, "axis")
    if axis is None:
        x, axis = low.reshape(x, (product(low.shape(x)),)), 0
    axis %= low.rank(x)
    shape = low.shape(x)
    positions, count = true_positions(low, condition)
    out = tuple(count if a == axis else e for a, e in enumerate(shape))
    d = dims(len(shape))

    def body(p: Scalar) -> Scalar:
        places = [p.body.index(a) for a in range(len(shape))]
        places[axis] = p.as_index()
        return p.body.extract(x, places)

    return low.map(body, [positions], out, low.element(x), at=[[d[axis]]], widen=False)
