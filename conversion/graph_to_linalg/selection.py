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


def _corners(build: Body, boxes: SSAValue, batch: Scalar, box: Scalar, centred: bool) -> list[Scalar]:
    """The low and the high ends of a box on both axes."""
    a, b, c, d = (build.extract(boxes, [batch, box, build.constant(k, INDEX)]) for k in range(4))
    if centred:
        return [a - c * 0.5, b - d * 0.5, a + c * 0.5, b + d * 0.5]
    return [a.minimum(c), b.minimum(d), a.maximum(c), b.maximum(d)]


def _overlaps(one: list[Scalar], other: list[Scalar], limit: Scalar) -> Scalar:
    """Whether the intersection of two boxes over their union exceeds `limit`."""
    sides = [one[k + 2].minimum(other[k + 2]) - one[k].maximum(other[k]) for k in (0, 1)]
    shared = sides[0].maximum(0.0) * sides[1].maximum(0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    union = areas[0] + areas[1] - shared
    return shared.above(0.0) & (shared / union).above(limit)


# For each batch and class: the best box that is left is kept, and those that overlap it are struck out.
@lowers("non_max_suppression")
def _non_max_suppression(low: Lowering, op: Any) -> SSAValue:
    boxes, scores, most, iou, least = [*low.operands(op), None, None, None][:5]
    centred = bool(low.attr(op, "center_point_box"))
    batches, classes, count = low.shape(scores)
    element = low.element(scores)

    def scalar(value: SSAValue | None, default: float | int, type: Any) -> SSAValue:
        return low.constant(default, type) if value is None else low.extract(value, [0] * low.rank(value))

    limit, floor = scalar(iou, 0.0, element), scalar(least, float("-inf"), element)
    wanted = scalar(most, 0, i64)
    wanted = low.value(arith.IndexCastOp(wanted, INDEX))
    rounds = low.dim_of(
        low.value(arith.MinSIOp(low.value(arith.MaxSIOp(wanted, low.constant(0))), low.index(count)))
    )
    rows = product((batches, classes)) * rounds
    d = dims(1)

    def pick(
        build_mask: Scalar, best: Scalar, place: Scalar, batch: SSAValue, kind: SSAValue
    ) -> list[Scalar]:
        build = build_mask.body
        here = build.index(0)
        score = build.extract(scores, [build.wrap(batch), build.wrap(kind), here])
        better = build_mask & (score.above(best) | place.below(0))
        return [build.select(better, score, best), build.select(better, here.cast(i64), place)]

    def keep(batch: SSAValue, kind: SSAValue, box: SSAValue, carried: list[SSAValue]) -> None:
        """The branch for a box that was found: its row is written, and what overlaps it is struck out."""
        result, at, alive = carried
        for column, value in enumerate((batch, kind, box)):
            number = low.value(arith.IndexCastOp(value, i64))
            places = [at, low.constant(column)]
            result = low.value(
                tensor.InsertOp.build(operands=[number, result, places], result_types=[result.type])
            )

        def strike(mask: Scalar) -> Scalar:
            build = mask.body
            own, chosen = build.index(0), build.wrap(box)
            where = build.wrap(batch)
            hit = _overlaps(
                _corners(build, boxes, where, own, centred),
                _corners(build, boxes, where, chosen, centred),
                build.wrap(limit),
            )
            return mask & ~hit & own.differs(chosen)

        left = low.map(strike, [alive], (count,), i1)
        low.add(scf.YieldOp(result, low.value(arith.AddiOp(at, low.constant(1))), left))

    def one(i: SSAValue, outer: list[SSAValue]) -> list[SSAValue]:
        batch, kind = delinearized(low, i, (batches, classes))
        initial = low.empty((count,), i1)

        def starts(out: Scalar) -> Scalar:
            build = out.body
            score = build.extract(scores, [build.wrap(batch), build.wrap(kind), build.index(0)])
            return score.above(build.wrap(floor))

        (alive,) = low.generic("p", [], [(initial, d)], starts)

        def choose(_: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            best = low.fill(float("-inf"), (), element)
            place = low.fill(-1, (), i64)
            _, found = low.generic(
                "r", [(carried[2], d)], [(best, []), (place, [])], lambda m, b, p: pick(m, b, p, batch, kind)
            )
            box = low.scalar_index(found)
            hit = low.value(arith.CmpiOp(box, low.constant(0), "sge"))
            then, otherwise = Block(), Block()
            with low.inside(then):
                keep(batch, kind, box, carried)
            with low.inside(otherwise):
                low.add(scf.YieldOp(*carried))
            branch = scf.IfOp(hit, [v.type for v in carried], Region(then), Region(otherwise))
            low.add(branch)
            return list(branch.results)

        return loop(low, rounds, [*outer, alive], choose)[:2]

    table = low.empty((rows, 3), i64)
    result, total = loop(low, product((batches, classes)), [table, low.constant(0)], one)
    return low.slice(low.reshaped(result, (rows, 3)), [0, 0], [low.dim_of(total), 3])
