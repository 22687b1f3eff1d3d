"""Control flow: `graph.if` is `scf.if`, `graph.loop` `scf.while` and `graph.scan` `scf.for`, on the tensors they carry."""

from collections.abc import Sequence
from typing import Any

from xdsl.dialects import arith, cf, scf, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, StringAttr, TensorType, i1, i64
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, lowered_type, lowers
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.conversion.graph_to_linalg.sequences import wrapped
from stepwell.dialects.graph.shape import Dim, product, unknown
from stepwell.dialects.value import ANY


def _branch(low: Lowering, region: Region, types: list[Any]) -> Region:
    """A branch's ops, ended by `scf.yield`."""
    block = Block()
    old = region.block
    with low.inside(block):
        values = _body(low, old)
        low.add(scf.YieldOp(*_all_as(low, values, types, _handed_out(old))))
    return Region(block)


def _as(low: Lowering, value: SSAValue, type: Any, old_type: Any = None) -> SSAValue:
    """`value` with another static knowledge of its shape, or as an optional; `old_type` is its type in the graph."""
    if value.type == type:
        return value
    return wrapped(low, value, old_type) if type == ANY else low.value(tensor.CastOp(value, type))


def _all_as(low: Lowering, values: Any, types: Any, old_types: Any) -> list[SSAValue]:
    return [_as(low, v, t, o) for v, t, o in zip(values, types, old_types, strict=True)]


def _handed_out(old: Block) -> list[Any]:
    """The types in the graph of what a block hands out."""
    assert old.last_op is not None, "a region ends in a yield"
    return [v.type for v in old.last_op.operands]


def _body(low: Lowering, old: Block) -> list[SSAValue]:
    """Lower a block but its terminator; the new values that the terminator hands on."""
    last = old.last_op
    for inner in old.ops:
        if inner is not last:
            low.convert(inner)
    assert last is not None
    return [low[v] for v in last.operands]


def _scalar(low: Lowering, value: SSAValue) -> SSAValue:
    return low.extract(value, [0] * low.rank(value))


@lowers("if")
def _if(low: Lowering, op: Any) -> list[SSAValue]:
    condition = _scalar(low, low[op.operands[0]])
    types = [lowered_type(r.type) for r in op.results]
    then, otherwise = op.regions
    new = scf.IfOp(condition, types, _branch(low, then, types), _branch(low, otherwise, types))
    low.add(new)
    return list(new.results)


_FIRST_ROOM = 16
"""Iterations that a stacked output has room for at first, where their number is not known; it doubles."""
_MOST_ROOM = 1 << 16
"""A larger limit is no estimate of the number of iterations."""


# The values carried keep a type that every iteration has: extents that the body changes are dynamic.
@lowers("loop")
def _loop(low: Lowering, op: Any) -> list[SSAValue]:
    limit, go = [*op.operand_list(), None, None][:2]
    start = [low[v] for v in op.operand_list()[2:]]
    old = op.regions[0].block
    count = len(start)
    types = [
        _wider(lowered_type(a.type), lowered_type(r.type))
        for a, r in zip(old.args[2:], op.results, strict=False)
    ]
    start = _all_as(low, start, types, [v.type for v in op.operand_list()[2:]])
    known = low.known(limit) if limit is not None else None
    stacks = [_stack(low, op, i, known) for i in range(count, len(op.results))]
    for stack in stacks:
        start += stack.start()
        types += stack.types
    upper = low.scalar_index(low[limit]) if limit is not None else None
    first = _scalar(low, low[go]) if go is not None else low.constant(True, i1)
    before = Block(arg_types=[INDEX, i1, *types])
    with low.inside(before):
        i, flag, *carried = before.args
        keep: SSAValue = flag
        if upper is not None:
            keep = low.value(arith.AndIOp(flag, low.value(arith.CmpiOp(i, upper, "slt"))))
        low.add(scf.ConditionOp(keep, i, *carried))
    after = Block(arg_types=[INDEX, *types])
    with low.inside(after):
        i, *carried = after.args
        number, flag_type = (lowered_type(a.type) for a in old.args[:2])
        assert isinstance(number, TensorType) and isinstance(flag_type, TensorType)
        wide = low.value(arith.IndexCastOp(i, number.element_type))
        low.bind(old.args[0], _tensor_of(low, wide, number))
        low.bind(old.args[1], _tensor_of(low, low.constant(True, i1), flag_type))
        for argument, value in zip(old.args[2:], carried[:count], strict=True):
            low.bind(argument, value)
        again, *values = _body(low, old)
        old_types = _handed_out(old)[1:]
        made = values[count:]
        values = _all_as(low, values[:count], types[:count], old_types[:count])
        for stack, own, value in zip(stacks, _parts(stacks, carried[count:]), made, strict=True):
            values += stack.pushed(own, i, value)
        following = low.value(arith.AddiOp(i, low.constant(1)))
        low.add(
            scf.YieldOp(
                following,
                _scalar(low, again),
                *(_as(low, v, t) for v, t in zip(values, types, strict=True)),
            )
        )
    repeat = scf.WhileOp([low.constant(0), first, *start], [INDEX, *types], Region(before), Region(after))
    low.add(repeat)
    ran, *results = repeat.results
    extent = low.dim_of(ran)
    return [
        *results[:count],
        *(
            stack.popped(own, extent)
            for stack, own in zip(stacks, _parts(stacks, results[count:]), strict=True)
        ),
    ]


def _parts(stacks: "Sequence[_Stack | _OpenStack]", values: Sequence[SSAValue]) -> list[list[SSAValue]]:
    """The values that a loop carries for each stack."""
    rest, parts = list(values), []
    for stack in stacks:
        parts.append(rest[: len(stack.types)])
        rest = rest[len(stack.types) :]
    return parts


def _stack(low: Lowering, op: Any, position: int, limit: Any) -> "_Stack | _OpenStack":
    line = low.result_shape(op, position)[1:]
    return (_Stack if all(low.resolvable(e) for e in line) else _OpenStack)(low, op, position, limit)


class _Stack:
    """Values of a loop's iterations along a new first axis, in a tensor that grows where their number is open."""

    def __init__(self, low: Lowering, op: Any, position: int, limit: Any):
        self.low = low
        shape = low.result_shape(op, position)
        self.line = shape[1:]
        self.element = low.result_element(op, position)
        bound = None if limit is None else int(limit.reshape(-1)[0])
        self.bounded = bound is not None and bound <= _MOST_ROOM
        self.room = max(bound, 0) if bound is not None and self.bounded else _FIRST_ROOM
        self.type = low.type_of([unknown(), *self.line], self.element)
        self.types = [self.type]

    def start(self) -> list[SSAValue]:
        empty = self.low.empty((self.room, *self.line), self.element)
        return [_as(self.low, empty, self.type)]

    def pushed(self, own: list[SSAValue], i: SSAValue, value: SSAValue) -> list[SSAValue]:
        """The stack with `value` at place `i`."""
        low, (total,) = self.low, own
        if not self.bounded:
            total = self._grown(total, i)
        room = low.dim_of(low.value(tensor.DimOp(total, low.constant(0))))
        low.reshaped(total, (room, *self.line))
        piece = low.reshape(value, (1, *low.shape(value)))
        piece = _as(low, piece, low.type_of([1, *self.line], self.element))
        low.reshaped(piece, (1, *self.line))
        return [low.insert(piece, total, [low.dim_of(i), *[0] * len(self.line)])]

    def _grown(self, total: SSAValue, i: SSAValue) -> SSAValue:
        """`total`, or a copy with twice the room where place `i` lies beyond it."""
        low = self.low
        room = low.value(tensor.DimOp(total, low.constant(0)))
        full = low.value(arith.CmpiOp(i, room, "sge"))
        more, same = Block(), Block()
        with low.inside(more):
            twice = low.dim_of(low.value(arith.MuliOp(room, low.constant(2))))
            larger = low.empty((twice, *self.line), self.element)
            sizes = (low.dim_of(room), *self.line)
            low.reshaped(total, sizes)
            low.add(scf.YieldOp(low.insert(total, larger, [0] * len(sizes))))
        with low.inside(same):
            low.add(scf.YieldOp(total))
        return low.value(scf.IfOp(full, [self.type], Region(more), Region(same)))

    def popped(self, own: list[SSAValue], count: Any) -> SSAValue:
        """The first `count` places."""
        low, (total,) = self.low, own
        room = low.dim_of(low.value(tensor.DimOp(total, low.constant(0))))
        low.reshaped(total, (room, *self.line))
        return low.slice(total, [0] * (1 + len(self.line)), [count, *self.line])


class _OpenStack:
    """
    Values whose extents the body alone knows: their elements one behind the other in a tensor that grows, and the extents
    of the first, which all others must have. Without an iteration each of these extents is 0.
    """

    def __init__(self, low: Lowering, op: Any, position: int, limit: Any):
        self.low, self.op, self.position = low, op, position
        self.element = low.result_element(op, position)
        self.rank = len(low.result_shape(op, position)) - 1
        self.type = low.type_of([unknown()], self.element)
        self.types = [self.type, *[INDEX] * self.rank]

    def start(self) -> list[SSAValue]:
        empty = self.low.empty((_FIRST_ROOM,), self.element)
        return [_as(self.low, empty, self.type), *[self.low.constant(0)] * self.rank]

    def pushed(self, own: list[SSAValue], i: SSAValue, value: SSAValue) -> list[SSAValue]:
        """The stack with `value` at place `i`."""
        low, (total, *extents) = self.low, own
        found = [low.index(e) for e in low.shape(value)]
        first = low.value(arith.CmpiOp(i, low.constant(0), "eq"))
        for known, extent in zip(extents, found, strict=True):
            same = low.value(arith.CmpiOp(known, extent, "eq"))
            good = low.value(arith.OrIOp(first, same))
            low.add(
                cf.AssertOp(
                    good, StringAttr(f"{self.op.name}: output {self.position} stacks values of other shapes")
                )
            )
        size = low.index(product(low.shape(value)))
        begin = low.value(arith.MuliOp(i, size))
        end = low.value(arith.AddiOp(begin, size))
        total = self._grown(total, begin, end)
        piece = low.reshape(value, (low.dim_of(size),))
        low.reshaped(piece, (low.dim_of(size),))
        return [low.insert(piece, total, [low.dim_of(begin)]), *found]

    def _grown(self, total: SSAValue, begin: SSAValue, end: SSAValue) -> SSAValue:
        """`total`, or a copy of what lies before `begin` with room for at least twice as much as `end`."""
        low = self.low
        room = low.value(tensor.DimOp(total, low.constant(0)))
        full = low.value(arith.CmpiOp(end, room, "sgt"))
        more, same = Block(), Block()
        with low.inside(more):
            twice = low.dim_of(low.value(arith.MuliOp(end, low.constant(2))))
            larger = low.empty((twice,), self.element)
            low.reshaped(total, (low.dim_of(room),))
            kept = low.slice(total, [0], [low.dim_of(begin)])
            low.add(scf.YieldOp(low.insert(kept, larger, [0])))
        with low.inside(same):
            low.add(scf.YieldOp(total))
        grown = low.value(scf.IfOp(full, [self.type], Region(more), Region(same)))
        return low.reshaped(grown, (low.dim_of(low.value(tensor.DimOp(grown, low.constant(0)))),))

    def popped(self, own: list[SSAValue], count: Any) -> SSAValue:
        """The first `count` values."""
        low, (total, *extents) = self.low, own
        shape = (count, *(low.dim_of(e) for e in extents))
        low.reshaped(total, (low.dim_of(low.value(tensor.DimOp(total, low.constant(0)))),))
        return low.reshape(low.slice(total, [0], [low.dim_of(low.index(product(shape)))]), shape)


# states = initial;  for t: states, outs[t] = body(states, inputs[t])
@lowers("scan")
def _scan(low: Lowering, op: Any) -> list[SSAValue]:
    values = low.operands(op)
    scanned = low.attr(op, "num_scan_inputs")
    states = len(values) - scanned
    old = op.regions[0].block
    outputs = len(op.results) - states
    in_axes = [
        axis % low.rank(v)
        for v, axis in zip(values[states:], low.attr(op, "scan_input_axes") or [0] * scanned, strict=True)
    ]
    out_axes = [
        axis % len(low.result_shape(op, states + i))
        for i, axis in enumerate(low.attr(op, "scan_output_axes") or [0] * outputs)
    ]
    backwards_in = low.attr(op, "scan_input_directions") or [0] * scanned
    backwards_out = low.attr(op, "scan_output_directions") or [0] * outputs
    extents = [low.shape(v)[axis] for v, axis in zip(values[states:], in_axes, strict=True)]
    count = next((e for e in extents if isinstance(e, int)), extents[0])
    types = [
        _wider(_wider(lowered_type(v.type), lowered_type(a.type)), lowered_type(r.type))
        for v, a, r in zip(op.operands, old.args, op.results[:states], strict=False)
    ][:states]
    carried = [_as(low, v, t) for v, t in zip(values[:states], types, strict=True)]
    shapes: list[list[Dim]] = []
    stacks: dict[int, _OpenStack] = {}
    for i in range(outputs):
        shape = list(low.result_shape(op, states + i))
        shape[out_axes[i]] = count
        shapes.append(shape)
        if all(low.resolvable(e) for e in shape):
            carried.append(low.empty(shape, low.result_element(op, states + i)))
        else:
            stacks[i] = _OpenStack(low, op, states + i, None)
            carried += stacks[i].start()

    def parts(values: Sequence[SSAValue]) -> list[list[SSAValue]]:
        """The values that the loop carries for each output."""
        rest, found = list(values[states:]), []
        for i in range(outputs):
            size = len(stacks[i].types) if i in stacks else 1
            found.append(rest[:size])
            rest = rest[size:]
        return found

    def place(t: SSAValue, backwards: int) -> Dim:
        if not backwards:
            return low.dim_of(t)
        last = low.value(arith.SubiOp(low.index(count), low.constant(1)))
        return low.dim_of(low.value(arith.SubiOp(last, t)))

    def body(t: SSAValue, now: list[SSAValue]) -> list[SSAValue]:
        for argument, value in zip(old.args[:states], now[:states], strict=True):
            low.bind(argument, value)
        for k, (value, axis) in enumerate(zip(values[states:], in_axes, strict=True)):
            own = low.shape(value)
            offsets = [place(t, backwards_in[k]) if a == axis else 0 for a in range(len(own))]
            line = low.slice(value, offsets, [1 if a == axis else e for a, e in enumerate(own)])
            low.bind(old.args[states + k], low.reshape(line, (*own[:axis], *own[axis + 1 :])))
        made = _body(low, old)
        following = [_as(low, v, t) for v, t in zip(made[:states], types, strict=True)]
        for k, (value, axis, own_parts) in enumerate(zip(made[states:], out_axes, parts(now), strict=True)):
            if k in stacks:
                following += stacks[k].pushed(own_parts, t, value)
                continue
            shape = shapes[k]
            line = tuple(1 if a == axis else e for a, e in enumerate(shape))
            offsets = [place(t, backwards_out[k]) if a == axis else 0 for a in range(len(shape))]
            own = low.shape(value)
            piece = low.reshape(value, (*own[:axis], 1, *own[axis:]))
            piece = low.reshaped(_as(low, piece, low.type_of(line, low.element(piece))), line)
            following.append(low.insert(piece, own_parts[0], offsets))
        return following

    ran = loop(low, count, carried, body)
    results = ran[:states]
    for k, own_parts in enumerate(parts(ran)):
        if k not in stacks:
            results += own_parts
            continue
        stacked, axis = stacks[k].popped(own_parts, count), out_axes[k]
        if backwards_out[k]:
            stacked = _backwards(low, stacked, count)
        rank = low.rank(stacked)
        results.append(low.transpose(stacked, [*range(1, axis + 1), 0, *range(axis + 1, rank)]))
    return results


# backwards(x)[i, ..] = x[count - 1 - i, ..]
def _backwards(low: Lowering, value: SSAValue, count: Dim) -> SSAValue:
    number = _tensor_of(low, low.value(arith.IndexCastOp(low.index(count), i64)), TensorType(i64, []))

    def body(count: Scalar) -> Scalar:
        build = count.body
        first, *rest = (build.index(a) for a in range(low.rank(value)))
        return build.extract(value, [count.as_index() - 1 - first, *rest])

    return low.map(body, [number], low.shape(value), low.element(value), at=[[]], widen=False)


def _tensor_of(low: Lowering, scalar: SSAValue, type: TensorType) -> SSAValue:
    return low.value(tensor.FromElementsOp.build(operands=[[scalar]], result_types=[type]))


def _wider(a: Any, b: Any) -> Any:
    """The type that knows of two shapes what both agree on."""
    if ANY in (a, b):
        return ANY
    assert isinstance(a, TensorType) and isinstance(b, TensorType)
    shape = [x if x == y else DYNAMIC_INDEX for x, y in zip(a.get_shape(), b.get_shape(), strict=True)]
    return TensorType(a.element_type, shape)
