"""Structured control flow as blocks: a loop-carried value is a block argument."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, cast

from xdsl.dialects.builtin import IntegerAttr, VectorType, i32, i64
from xdsl.ir import Block, Operation, SSAValue

from stepwell.conversion.to_llvm.core import FunctionLowering, Handler, Linear, Size, byte_size
from stepwell.transforms.vector.version_masked_tiles import WHOLE_TILE_KEY

_ACCUMULATORS, _UNROLL = 4, 4
"""
An innermost loop that carries this many vectors is a contraction, and runs two steps at a time: on Sapphire
Rapids the loop's own three integer ops take 8 % of the slots of the two FMA ports (83 -> 91 % of peak).
"""
_AHEAD_BYTES, _LINE_BYTES, _LONG_LOOP = 2048, 64, 16
"""
How far ahead a contraction asks for its panel. The panel runs through memory faster than the hardware's prefetcher
follows: with weights that are in no near cache, 49x2048x512 gains 14 % and 3136x64x256 loses nothing.
"""
_FEW_ROWS, _FAR_BYTES, _FAR_LEAST_BYTES = range(2, 7), 16384, 1 << 20
"""
Products of so many rows, which are one tile, wait for memory, not for their multiply-adds, and ask farther ahead, to L2, for weights of so
many bytes, which are hardly in L2 already: four layers of 768x3072 1.1 to 1.3, 1024x1024 from memory 1.06 to 1.15. One row alone is
better without, since every request takes the place of a load: GPT-2's decoding 0.96 with one for every fourth line.
"""
_READ = {"rw": IntegerAttr(0, i32), "hint": IntegerAttr(3, i32), "cache": IntegerAttr(1, i32)}
_READ_L2 = {**_READ, "hint": IntegerAttr(2, i32)}
_FEWEST_TILES = 2
"""
Tiles of rows over one panel from which on they fetch the next panel to L2, each tile its share: the first tile would wait for
memory otherwise, since weights that are in no cache come at a third of the speed at which one tile reads them. (An MLP of
32 rows, which are three tiles, 1.2.)
"""
_LARGEST_PANEL = 3 << 18
"""Bytes of a panel two of which fit L2 beside the rows that they are multiplied by."""


@dataclass(frozen=True)
class _RowTiles:
    """Which tile of rows over a panel this is, and how many elements of each row of the next panel it asks for."""

    tile: SSAValue
    share: Size


def _prefetch(low: FunctionLowering, loop: Any, rows: int, tiles: _RowTiles | None) -> None:
    """
    Ask for what the contraction `loop`, which sums `rows` rows, will load from its panel: the next part where that is known (`tiles`:
    what is known of it at run time only), else some steps ahead.
    """
    asked: set[SSAValue] = set()
    for op in loop.body.block.ops:
        if op.name != "vector.load" or op.operands[0] in asked:
            continue
        if rows >= _ACCUMULATORS and _prefetch_next_panel(low, op, loop, tiles):
            asked.add(op.operands[0])
        else:
            _prefetch_ahead(low, op, loop, rows)


def _row_lanes(loop: Any, buffer: SSAValue) -> int:
    """The elements that `loop` loads from a row of `buffer`, in one piece or in several."""
    loads = (op for op in loop.body.block.ops if op.name == "vector.load" and op.operands[0] is buffer)
    return sum(prod(load.results[0].type.get_shape()) for load in loads)


def _tiles_at_run_time(low: FunctionLowering, loop: Any) -> _RowTiles | None:
    """The tiles of rows over the panel that the contraction `loop` loads, if only the run knows how many they are."""
    for op in loop.body.block.ops:
        if op.name == "vector.load":
            found = _tiles_of_rows(low, list(op.operands[1:]))
            if found is not None and isinstance(number := found[1], SSAValue):
                lanes = _row_lanes(loop, op.operands[0])
                share = low.emit(
                    "udiv", (low.emit("add", (number, low.integer(lanes - 1)), i64), number), i64
                )
                return _RowTiles(found[0], share)
    return None


def _prefetch_ahead(low: FunctionLowering, load: Any, loop: Any, rows: int) -> None:
    """Ask for what `load` will read from the rows of a panel some iterations of `loop` later."""
    buffer, indices = low.buffer(load.operands[0]), list(load.operands[1:])
    step = loop.body.block.args[0]
    if step not in indices[:-1]:
        return
    stride = buffer.strides[indices.index(step)]
    if not isinstance(stride, int):
        return
    size = byte_size(buffer.element)
    (lanes,) = load.results[0].type.get_shape()
    here = low.address(buffer, [low.value(index) for index in indices])
    extents = [extent if isinstance(extent, int) else 0 for extent in buffer.sizes]
    is_far = rows in _FEW_ROWS and _is_read_once(loop, indices) and prod(extents) * size >= _FAR_LEAST_BYTES
    if rows < _ACCUMULATORS and not is_far:
        return
    distance, hint = (_FAR_BYTES, _READ_L2) if is_far else (_AHEAD_BYTES, _READ)
    steps = max(1, distance // (stride * size))
    for offset in range(0, lanes, _LINE_BYTES // size):
        pointer = low.gep_constant(here, steps * stride + offset, buffer.element)
        low.emit("intr.prefetch", (pointer,), None, hint)


def _prefetch_next_panel(low: FunctionLowering, load: Any, loop: Any, tiles: _RowTiles | None) -> bool:
    """
    Ask for this tile's share of the panel, or of the part of a panel, that follows in memory, a little for each row that `load`
    reads in `loop` and those around it; False where it does not read a panel row by row, or few tiles of rows go over it.
    """
    buffer, indices = low.buffer(load.operands[0]), list(load.operands[1:])
    lanes = _row_lanes(loop, load.operands[0])
    if not all(isinstance(stride, int) for stride in buffer.strides):
        return False
    place = low.place(buffer, [low.value(index) for index in indices])
    factors, panel, inner = dict(place.terms), lanes, []
    while (induction := _induction(low, loop)) in factors:
        assert induction is not None, "a factor is one of a value"
        factor, trips = factors.pop(induction), _trips(loop)
        if factor != panel or trips is None:
            return False
        inner.append((induction, factor))
        panel, loop = panel * trips, loop.parent_op()
    if not inner or panel * byte_size(buffer.element) > _LARGEST_PANEL:
        return False
    found = _tiles_around(low, loop, factors) or _tiles_of_rows(low, indices)
    if found is not None and isinstance(number := found[1], int):
        if number < _FEWEST_TILES:
            return False
        tiles = _RowTiles(found[0], -(-lanes // number))
    if found is None or tiles is None:
        return False
    line = _LINE_BYTES // byte_size(buffer.element)
    tile, share = tiles.tile, tiles.share
    # Each line is asked for about twice: once more costs as much as the first time, since the nearest cache does not get it
    # (256x256x256: 4 % for eight times).
    steps = (
        next(n for n in (_UNROLL, 2, 1) if 2 * n * share <= line or n == 1) if isinstance(share, int) else 2
    )
    begin = low.point(buffer.pointer, Linear(place.constant, tuple(factors.items())), buffer.element)
    start = low.gep_constant(begin, panel, buffer.element)
    start = low.gep(start, _product(low, tile, panel // lanes, share), buffer.element)
    with _every(low, inner[0][0], steps):
        row = Linear(0, tuple((_product(low, step, factor // lanes, share), 1) for step, factor in inner))
        address = low.gep(start, low.materialise(row), buffer.element)
        for offset in range(0, share if isinstance(share, int) else line, line):
            low.emit("intr.prefetch", (low.gep_constant(address, offset, buffer.element),), None, _READ_L2)
    return True


def _product(low: FunctionLowering, value: SSAValue, factor: int, share: Size) -> SSAValue:
    return low.integer_of(low.multiply(value, low.multiply(share, factor)))


@contextmanager
def _every(low: FunctionLowering, induction: SSAValue, steps: int) -> Iterator[None]:
    """
    What is emitted within happens in each `steps`-th iteration, where `steps` divides `_UNROLL`: clang unrolls the loop, and no
    branch is left.
    """
    if steps == 1:
        yield
        return
    place = low.emit("and", (induction, low.integer(steps - 1)), i64)
    then, after = Block(), Block()
    low.branch_if(low.compare("eq", place, low.integer(0)), then, after)
    low.start(then)
    low.push_scope()
    yield
    low.branch(after, [])
    low.pop_scope()
    low.start(after)


def _induction(low: FunctionLowering, loop: Any) -> SSAValue | None:
    """The new value that counts the steps of `loop`; None for what is no loop."""
    return low.values.get(loop.body.block.args[0]) if getattr(loop, "name", "") == "scf.for" else None


def _trips(loop: Any) -> int | None:
    """How often the body of a loop runs that counts by ones from zero, if that is a number."""
    first, end, step = (_number(value) for value in (loop.lb, loop.ub, loop.step))
    return end if first == 0 and step == 1 else None


def _tiles_around(
    low: FunctionLowering, loop: Any, factors: dict[SSAValue, int]
) -> tuple[SSAValue, int] | None:
    """
    The number of the tile that the loops are at that do not move in the panel, from `loop` outwards, and how many there are;
    None where there is no such loop.
    """
    found, count = Linear(), 1
    while (induction := _induction(low, loop)) is not None and induction not in factors:
        first, end, step = (_number(value) for value in (loop.lb, loop.ub, loop.step))
        if first != 0 or end is None or step is None:
            break
        at = low.emit("udiv", (induction, low.integer(step)), i64) if step > 1 else induction
        found = found.plus(Linear(0, ((at, count),)))
        count, loop = count * -(-end // step), loop.parent_op()
    return (low.materialise(found), count) if count > 1 else None


def _tiles_of_rows(low: FunctionLowering, indices: list[SSAValue]) -> tuple[SSAValue, Size] | None:
    """
    Which tile of rows a kernel is at, and of how many, where its tiles walk down the rows of one panel before those of the next:
    the last index that comes of the number of the tile does so by `%tile / n`, or by `%tile / n1 / n2`.
    """
    if (found := _tile_number(indices)) is None:
        return None
    value, divisors = found
    number = cast(Size, 1)
    for divisor in divisors:
        number = low.multiply(number, low.size(divisor))
    if isinstance(number, SSAValue):  # a division by 0 would trap
        number = low.select(low.compare("eq", number, low.integer(0)), low.integer(1), number)
    return low.emit("urem", (low.value(value), low.integer_of(number)), i64), number


def _tile_number(indices: list[SSAValue]) -> tuple[SSAValue, list[SSAValue]] | None:
    """The number of the tile that the last index with one comes of, and what it is divided by."""
    for index in reversed(indices):
        value, divisors = index, list[SSAValue]()
        while isinstance(owner := value.owner, Operation) and owner.name in (
            "arith.divui",
            "arith.muli",
            "arith.remui",
        ):
            if owner.name == "arith.muli":
                divisors = []  # what is divided afterwards is no number of a tile any more
            elif owner.name == "arith.divui":
                divisors.append(owner.operands[1])
            value = owner.operands[0]
        if value is not index and isinstance(value.owner, Block):
            return value, divisors
    return None


def _is_read_once(loop: Any, indices: list[SSAValue]) -> bool:
    """Whether each tile of the kernel reads a panel of its own in `loop`: all rows are one tile."""
    found = _tile_number(indices)
    return found is not None and not found[1] and found[0].owner is loop.parent_block()


def _number(value: SSAValue) -> int | None:
    """The number that an index constant is."""
    owner = value.owner
    if not isinstance(owner, Operation) or owner.name != "arith.constant":
        return None
    attribute = owner.properties["value"]
    return attribute.value.data if isinstance(attribute, IntegerAttr) else None


def _for(low: FunctionLowering, op: Any) -> None:
    old = op.body.block
    initial = low.flatten_all(op.iter_args)
    accumulators = sum(isinstance(value.type, VectorType) for value in initial)
    is_contraction = accumulators >= _ACCUMULATORS and not any(inner.regions for inner in old.ops)
    end = _number(op.ub)
    is_long = end is None or end >= _LONG_LOOP

    has_rows = accumulators in _FEW_ROWS and any(inner.name == "vector.fma" for inner in old.ops)
    prefetch = low.prefetch and (is_contraction or has_rows) and is_long
    tiles = _tiles_at_run_time(low, op) if prefetch and WHOLE_TILE_KEY in op.attributes else None

    def body(induction, carried):
        low.define(old.args[0], induction)
        low.unflatten_all(old.args[1:], carried)
        low.lower_ops(old, until_terminator=True)
        if prefetch:
            _prefetch(low, op, accumulators, tiles)
        assert old.last_op is not None, "a loop ends in scf.yield"
        return low.flatten_all(old.last_op.operands)

    bounds = (low.value(op.lb), low.value(op.ub), low.value(op.step))
    unroll = _UNROLL if is_contraction else 1
    results = low.loop(*bounds, initial, body, unroll)
    low.unflatten_all(op.results, results)


def _if(low: FunctionLowering, op: Any) -> None:
    has_else = bool(op.false_region.blocks)
    then, after = Block(), Block(arg_types=low.flat_types_all(op.results))
    other = Block() if has_else else after
    low.branch_if(low.value(op.cond), then, other)
    for block, region in ((then, op.true_region), (other, op.false_region)):
        if not region.blocks:
            continue
        low.start(block)
        low.push_scope()
        low.lower_ops(region.block, until_terminator=bool(op.results) or _ends_in_yield(region.block))
        yielded = region.block.last_op.operands if _ends_in_yield(region.block) else ()  # pyright: ignore
        low.branch(after, low.flatten_all(list(yielded)))
        low.pop_scope()
    low.start(after)
    low.unflatten_all(op.results, after.args)


def _ends_in_yield(block: Block) -> bool:
    return block.last_op is not None and block.last_op.name == "scf.yield"


def _while(low: FunctionLowering, op: Any) -> None:
    before, body = op.before_region.block, op.after_region.block
    condition, yielded = before.last_op, body.last_op
    header = Block(arg_types=low.flat_types_all(before.args))
    inside = Block(arg_types=low.flat_types_all(body.args))
    after = Block(arg_types=low.flat_types_all(op.results))
    low.branch(header, low.flatten_all(op.arguments))
    low.start(header)
    low.push_scope()
    low.unflatten_all(before.args, header.args)
    low.lower_ops(before, until_terminator=True)
    passed = low.flatten_all(condition.args)
    low.branch_if(low.value(condition.condition), inside, after, passed, passed)
    low.start(inside)
    low.unflatten_all(body.args, inside.args)
    low.lower_ops(body, until_terminator=True)
    low.branch(header, low.flatten_all(yielded.operands))
    low.pop_scope()
    low.start(after)
    low.unflatten_all(op.results, after.args)


def _index_switch(low: FunctionLowering, op: Any) -> None:
    after = Block(arg_types=low.flat_types_all(op.results))
    value = low.value(op.arg)
    cases = [int(case) for case in op.cases.get_values()]
    for case, region in zip([*cases, None], [*op.case_regions, op.default_region], strict=True):
        following = Block()
        if case is not None:
            inside = Block()
            low.branch_if(low.compare("eq", value, low.integer(case)), inside, following)
            low.start(inside)
        low.push_scope()
        low.lower_ops(region.block, until_terminator=True)
        assert region.block.last_op is not None, "a case ends in scf.yield"
        low.branch(after, low.flatten_all(region.block.last_op.operands))
        low.pop_scope()
        if case is not None:
            low.start(following)
    low.start(after)
    low.unflatten_all(op.results, after.args)


def _execute_region(low: FunctionLowering, op: Any) -> None:
    block = op.region.block
    low.lower_ops(block, until_terminator=True)
    assert block.last_op is not None, "the region ends in scf.yield"
    for old, inner in zip(op.results, block.last_op.operands, strict=True):
        if inner in low.buffers:
            low.buffers[old] = low.buffers[inner]
        else:
            low.define(old, low.value(inner))


CONTROL: dict[str, Handler] = {
    "scf.for": _for,
    "scf.if": _if,
    "scf.while": _while,
    "scf.index_switch": _index_switch,
    "scf.execute_region": _execute_region,
}
