"""What takes an order: a stable merge sort of indices, and `unique`, which reads its result."""

from collections.abc import Callable
from typing import Any

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import AnyFloat, i1, i64
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg import text
from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.dialects.graph.shape import Dim, product
from stepwell.dialects.text import STRING, RankOp

Precedes = Callable[[SSAValue, SSAValue], SSAValue]
"""Whether the element at the first index must stand before that at the second; makes its ops where it is called."""


def _insert(low: Lowering, value: SSAValue, into: SSAValue, at: SSAValue) -> SSAValue:
    return low.value(tensor.InsertOp.build(operands=[value, into, [at]], result_types=[into.type]))


def _read(low: Lowering, source: SSAValue, at: SSAValue) -> SSAValue:
    return low.value(tensor.ExtractOp(source, [at], low.element(source)))


def _body(low: Lowering) -> Body:
    return Body(low.block, low, low.op)


# Runs of `width` elements are in order; each pass merges pairs of runs, so `ceil(log2 count)` passes sort.
def stable_order(low: Lowering, count: Dim, precedes: Precedes) -> SSAValue:
    """The indices from 0 to `count` in order, as a 1-D tensor of `index`; equal elements keep theirs."""
    size = low.index(count)
    start = low.empty((count,), INDEX)
    (start,) = low.generic("p", [], [(start, dims(1))], lambda out: out.body.index(0))
    spare = low.empty((count,), INDEX)

    def merge_all(width: SSAValue, source: SSAValue, target: SSAValue) -> SSAValue:
        build = _body(low)
        pair = (build.wrap(width) * 2).value
        pairs = (build.wrap(size) + build.wrap(pair) - 1).floor_divided_by(build.wrap(pair))

        def merge(number: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            build = _body(low)
            n = build.wrap(size)
            begin = (build.wrap(number) * build.wrap(pair)).value
            middle = (build.wrap(begin) + build.wrap(width)).minimum(n).value
            end = (build.wrap(begin) + build.wrap(pair)).minimum(n).value

            def step(k: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
                build = _body(low)
                target, i, j = carried
                left, right = build.wrap(i), build.wrap(j)
                # a run that is used up is read at its last element, which is then not taken
                last = build.wrap(size) - 1
                first = _read(low, source, left.minimum(last).value)
                second = _read(low, source, right.minimum(last).value)
                before = build.wrap(precedes(second, first))
                take_right = right.below(build.wrap(end)) & (left.at_least(build.wrap(middle)) | before)
                taken = build.select(take_right, build.wrap(second), build.wrap(first))
                target = _insert(low, taken.value, target, (build.wrap(begin) + build.wrap(k)).value)
                return [
                    target,
                    build.select(take_right, left, left + 1).value,
                    build.select(take_right, right + 1, right).value,
                ]

            length = low.dim_of((build.wrap(end) - build.wrap(begin)).value)
            return loop(low, length, [carried[0], begin, middle], step)[:1]

        return loop(low, low.dim_of(pairs.value), [target], merge)[0]

    before = Block(arg_types=[INDEX, start.type, spare.type])
    with low.inside(before):
        width, *tensors = before.args
        low.add(scf.ConditionOp(low.value(arith.CmpiOp(width, size, "slt")), width, *tensors))
    after = Block(arg_types=[INDEX, start.type, spare.type])
    with low.inside(after):
        width, source, target = after.args
        for argument in (source, target):
            low.reshaped(argument, (count,))
        merged = merge_all(width, source, target)
        low.add(scf.YieldOp(low.value(arith.AddiOp(width, width)), merged, source))
    repeat = scf.WhileOp(
        [low.constant(1), start, spare], [INDEX, start.type, spare.type], Region(before), Region(after)
    )
    low.add(repeat)
    return low.reshaped(repeat.results[1], (count,))


class Rows:
    """The rows of a matrix, compared element by element; NaN equals NaN and comes last."""

    def __init__(self, low: Lowering, rows: SSAValue, unsigned: bool):
        self.low, self.rows, self.unsigned = low, rows, unsigned
        self.width = low.shape(rows)[1]

    def _element(self, row: SSAValue, column: SSAValue) -> Scalar:
        low = self.low
        build = _body(low)
        return build.extract(self.rows, [build.wrap(row), build.wrap(column)], self.unsigned).widened()

    def _orders(self, a: Scalar, b: Scalar) -> tuple[Scalar, Scalar]:
        """Whether `a` comes before `b`, and whether they are the same."""
        if not isinstance(a.type, AnyFloat):
            return a.below(b), a.equals(b)
        nan_a, nan_b = a.is_nan(), b.is_nan()
        return a.below(b) | (nan_b & ~nan_a), a.equals(b) | (nan_a & nan_b)

    def _compare(self, first: SSAValue, second: SSAValue) -> tuple[SSAValue, SSAValue]:
        """Whether row `first` comes before row `second`, and whether they are the same."""
        low = self.low
        if self.width == 1:
            zero = low.constant(0)
            below, same = self._orders(self._element(first, zero), self._element(second, zero))
            return below.value, same.value
        width = low.index(self.width)
        types = [INDEX, i1, i1]
        head = Block(arg_types=types)
        with low.inside(head):
            column, below, same = head.args
            inside = low.value(arith.CmpiOp(column, width, "slt"))
            low.add(scf.ConditionOp(low.value(arith.AndIOp(inside, same)), *head.args))
        body = Block(arg_types=types)
        with low.inside(body):
            column = body.args[0]
            below, same = self._orders(self._element(first, column), self._element(second, column))
            low.add(scf.YieldOp(low.value(arith.AddiOp(column, low.constant(1))), below.value, same.value))
        start = [low.constant(0), low.constant(0, i1), low.constant(1, i1)]
        repeat = scf.WhileOp(start, types, Region(head), Region(body))
        low.add(repeat)
        return repeat.results[1], repeat.results[2]

    def precedes(self, first: SSAValue, second: SSAValue) -> SSAValue:
        return self._compare(first, second)[0]

    def equal(self, first: SSAValue, second: SSAValue) -> SSAValue:
        return self._compare(first, second)[1]


# Equal rows stand side by side in the stable order, and the first of them is the one that occurs first.
@lowers("unique")
def _unique(low: Lowering, op: Any) -> list[SSAValue]:
    x = low[op.operands[0]]
    axis = low.attr(op, "axis")
    if axis is None:
        x, axis = low.reshape(x, (product(low.shape(x)),)), 0
    axis %= low.rank(x)
    shape = low.shape(x)
    count = shape[axis]
    front = [axis, *(a for a in range(len(shape)) if a != axis)]
    rows = low.reshape(low.transpose(x, front), (count, product(shape[a] for a in front[1:])))
    if low.element(rows) == STRING:
        compared = Rows(low, text.apply(low, RankOp, [rows], low.shape(rows)), False)
    else:
        compared = Rows(low, rows, low.unsigned(op)[0])
    order = stable_order(low, count, compared.precedes)
    firsts, inverse = low.empty((count,), INDEX), low.empty((count,), INDEX)
    counts = low.fill(0, (count,), i64)
    firsts, inverse, counts, found = _grouped(low, compared, order, [firsts, inverse, counts])
    if not low.attr(op, "sorted"):
        firsts, inverse, counts, found = _by_appearance(low, count, firsts, inverse, counts)
    groups = low.dim_of(found)
    firsts, counts = (low.slice(v, [0], [groups]) for v in (firsts, counts))
    out = tuple(groups if a == axis else e for a, e in enumerate(shape))
    d = dims(len(shape))

    def picked(first: Scalar) -> Scalar:
        places = [first.body.index(a) for a in range(len(shape))]
        places[axis] = first
        return first.body.extract(x, places)

    y = low.map(picked, [firsts], out, low.element(x), at=[[d[axis]]], widen=False)
    numbers = [low.map(lambda v: v.cast(i64), [v], low.shape(v), i64, widen=False) for v in (firsts, inverse)]
    values = [y, *numbers, counts]
    return [v for v, r in zip(values, op.result_list(), strict=False) if r is not None]


def _grouped(
    low: Lowering, rows: Rows, order: SSAValue, outputs: list[SSAValue]
) -> tuple[SSAValue, SSAValue, SSAValue, SSAValue]:
    """For each group of equal rows, in order, its first index and its size; for each row its group; their number."""
    (count,) = low.shape(order)

    def body(k: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        firsts, inverse, counts, groups = carried
        build = _body(low)
        here = _read(low, order, k)
        before = _read(low, order, (build.wrap(k) - 1).maximum(0).value)
        same = build.wrap(rows.equal(here, before)) & build.wrap(k).above(0)
        group = build.select(same, build.wrap(groups) - 1, build.wrap(groups))
        first = build.select(same, build.wrap(_read(low, firsts, group.value)), build.wrap(here))
        firsts = _insert(low, first.value, firsts, group.value)
        inverse = _insert(low, group.value, inverse, here)
        more = build.wrap(_read(low, counts, group.value)) + 1
        return [firsts, inverse, _insert(low, more.value, counts, group.value), (group + 1).value]

    firsts, inverse, counts, groups = loop(low, count, [*outputs, low.constant(0)], body)
    return firsts, inverse, counts, groups


# Group g was renumbered when row firsts[g], its first one, was met.
def _by_appearance(
    low: Lowering, count: Dim, firsts: SSAValue, inverse: SSAValue, counts: SSAValue
) -> tuple[SSAValue, SSAValue, SSAValue, SSAValue]:
    """The same groups in the order of their first rows."""
    start = [low.empty((count,), INDEX) for _ in range(3)]

    def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        numbers, new_firsts, new_inverse, new_counts, groups = carried
        build = _body(low)
        old = _read(low, inverse, i)
        first = _read(low, firsts, old)
        is_first = build.wrap(first).equals(build.wrap(i))
        number = build.select(is_first, build.wrap(groups), build.wrap(_read(low, numbers, old)))
        # an index that is not new is written again as it was
        known = build.select(is_first, build.wrap(i), build.wrap(first))
        return [
            _insert(low, number.value, numbers, old),
            _insert(low, known.value, new_firsts, number.value),
            _insert(low, number.value, new_inverse, i),
            _insert(low, _read(low, counts, old), new_counts, number.value),
            build.select(is_first, build.wrap(groups) + 1, build.wrap(groups)).value,
        ]

    fresh = [*start, low.empty((count,), i64), low.constant(0)]
    _, new_firsts, new_inverse, new_counts, groups = loop(low, count, fresh, body)
    return new_firsts, new_inverse, new_counts, groups
