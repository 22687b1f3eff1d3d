"""Give every intermediate buffer of the host function its place in one arena."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DictionaryAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    UnitAttr,
    i8,
    i64,
)
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.traits import IsTerminator

from stepwell.dialects.memref import ALIGNMENT
from stepwell.dialects.schedule import ALIAS_KEY, ArenaOp, LaunchOp
from stepwell.remarks import applied, counted, listening, missed
from stepwell.transforms.memref.in_place import may_write_over
from stepwell.transforms.memref.recompute import Recompute, element_bytes

OUTPUT_KEY, DYNAMIC_KEY = "stepwell.output", "stepwell.dynamic"
ARENA_KEY, LIVE_KEY = "stepwell.arena_bytes", "stepwell.live_bytes"
_INDEX = IndexType()
_REPLACEMENTS = 20_000
"""Buffers that may be placed again to mend a plan: about 0.1 s; the networks of docs/performance.md need 2,000."""
_RESHAPES = ("memref.cast", "memref.collapse_shape", "memref.expand_shape")
_VIEWS = (
    "memref.cast",
    "memref.collapse_shape",
    "memref.expand_shape",
    "memref.reinterpret_cast",
    "memref.subview",
    "memref.view",
)


@dataclass(eq=False)
class _Buffer:
    """
    A buffer to place: `first` and `last` are the positions of the ops of the entry block that use it. `allocs` are
    those that it takes the place of: one, or several of which each is written over the one before it.
    """

    allocs: list[memref.AllocOp]
    first: int
    last: int
    size: SSAValue | int = 0
    offset: SSAValue | int = 0


@dataclass(eq=False)
class _Plan:
    """Where buffers of known size lie when they are placed in this order, and the bytes that they take."""

    order: list[_Buffer]
    offsets: dict[_Buffer, int]
    total: int


@dataclass(eq=False)
class _Slot:
    """A part of the arena for buffers of run-time size that do not live at the same time."""

    free_after: int
    sizes: list[SSAValue] = field(default_factory=list)
    buffers: list[_Buffer] = field(default_factory=list)


@dataclass(frozen=True)
class PlanMemoryPass(ModulePass):
    """
    Turn the `memref.alloc`s of the host function into views of one `schedule.arena`, buffers that do not live
    at the same time sharing bytes, and an output of a launch lying over an input that dies there where
    `may_write_over` allows it; outputs stay. A size that does not follow from the extents of the inputs
    leaves a `memref.alloc {stepwell.dynamic}`. Notes the static bytes taken and the most that live at once, which
    no plan can go below, as `stepwell.arena_bytes` and `stepwell.live_bytes`.
    Requires: buffers. Ensures: every `memref.alloc` is an output or dynamic.
    """

    name = "plan-memory"
    in_place: bool = True
    """Outputs of kernels over inputs that die there."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in op.body.block.ops:
            if (
                isinstance(function, func.FuncOp)
                and not function.is_declaration
                and "stepwell.kernel" not in function.attributes
            ):
                _plan(function, self.in_place)


def _why_dynamic(interval: tuple[int, int] | None) -> str:
    return "its life is not an interval of the program" if interval is None else "its size follows from data"


def _plan(function: func.FuncOp, in_place: bool) -> None:
    block = function.body.block
    positions = {op: i for i, op in enumerate(block.ops)}
    start = block.first_op
    assert start is not None
    allocs = [
        op for op in function.walk() if isinstance(op, memref.AllocOp) and OUTPUT_KEY not in op.attributes
    ]
    recompute = Recompute({arg: arg for arg in block.args}, start)
    static: list[_Buffer] = []
    dynamic: list[_Buffer] = []
    for alloc in allocs:
        interval = _interval(alloc, positions)
        if interval is None or not all(recompute.possible(size) for size in alloc.dynamic_sizes):
            alloc.attributes[DYNAMIC_KEY] = UnitAttr()
            missed(alloc, f"a buffer is allocated in every run: {_why_dynamic(interval)}")
            continue
        buffer = _Buffer([alloc], *interval)
        type = alloc.memref.type
        assert isinstance(type, MemRefType)
        sizes = iter(alloc.dynamic_sizes)
        extents = [recompute(next(sizes)) if e == DYNAMIC_INDEX else e for e in type.get_shape()]
        buffer.size = _round_up(recompute, recompute.product([*extents, element_bytes(type.element_type)]))
        (static if isinstance(buffer.size, int) else dynamic).append(buffer)
    if not static and not dynamic:
        return
    if in_place:
        static, dynamic = _shared_in_place(function, positions, static, dynamic)
    total = _place(static)
    function.attributes[ARENA_KEY] = IntegerAttr(total, i64)
    function.attributes[LIVE_KEY] = IntegerAttr(alive := _most_alive(static), i64)
    if listening() and static:
        held = sum(buffer.size for buffer in static if isinstance(buffer.size, int))
        facts = {"arena_bytes": total, "live_bytes": alive, "buffer_bytes": held, "buffers": len(static)}
        applied(function, f"{counted(len(static), 'buffer')} in an arena of {total} bytes", **facts)
    if dynamic:
        applied(function, f"{counted(len(dynamic), 'buffer')} in places that are computed at entry")
    end: SSAValue | int = total
    for slot in _slots(dynamic):
        size = slot.sizes[0]
        for other in slot.sizes[1:]:
            size = recompute.emit(arith.MaxUIOp(size, other))
        for buffer in slot.buffers:
            buffer.offset = end
        end = size if end == 0 else recompute.emit(arith.AddiOp(_index(recompute, end), size))
    # All that stands at the entry is made before the allocs, which may be the entry's first ops, go.
    size = _index(recompute, end)
    offsets = [_index(recompute, buffer.offset) for buffer in (*static, *dynamic)]
    arena = ArenaOp(size, MemRefType(i8, [DYNAMIC_INDEX]))
    arena.buffer.name_hint = "arena"
    block.insert_op_before(arena, start)
    for buffer, offset in zip((*static, *dynamic), offsets, strict=True):
        for alloc in buffer.allocs:
            _into_view(alloc, arena.buffer, offset)


def _into_view(alloc: memref.AllocOp, arena: SSAValue, offset: SSAValue) -> None:
    """Put a view of the arena into the place of `alloc`."""
    type = alloc.memref.type
    assert isinstance(type, MemRefType) and alloc.parent is not None
    view = memref.ViewOp(arena, offset, alloc.dynamic_sizes, type)
    view.location = alloc.location
    view.result.name_hint = alloc.memref.name_hint
    alloc.parent.insert_op_before(view, alloc)
    alloc.memref.replace_all_uses_with(view.result)
    alloc.detach()
    alloc.erase()


def _shared_in_place(
    function: func.FuncOp, positions: dict[Operation, int], static: list[_Buffer], dynamic: list[_Buffer]
) -> tuple[list[_Buffer], list[_Buffer]]:
    """
    The buffers, where a launch may write its output over an input that nothing reads after it one for the two.
    The arguments of a kernel that is launched so are marked: they are not `noalias`.
    """
    module = function.parent_op()
    assert isinstance(module, ModuleOp)
    kernels = {op.sym_name.data: op for op in module.body.block.ops if isinstance(op, func.FuncOp)}
    buffer_of: dict[SSAValue, _Buffer] = {b.allocs[0].memref: b for b in (*static, *dynamic)}
    proved: dict[tuple[str, int, int], bool] = {}
    gone: set[_Buffer] = set()
    for launch, position in positions.items():
        if not isinstance(launch, LaunchOp):
            continue
        name = launch.callee.root_reference.data
        kernel = kernels.get(name)
        if kernel is None or kernel.is_declaration:
            continue
        paired: set[int] = set()  # of two inputs that die only one can lie below an output
        for read, written in _dying_and_born(launch, position, positions, buffer_of):
            if read in paired or written in paired:
                continue
            if (key := (name, read, written)) not in proved:
                args = kernel.body.block.args
                proved[key] = may_write_over(kernel, args[read], args[written])
            if not proved[key]:
                continue
            paired |= {read, written}
            roots = [_whole_buffer(launch.arguments[at]) for at in (read, written)]
            before, after = (buffer_of[root] for root in roots if root is not None)
            _mark_aliases(kernel, (read, written))
            before.last = after.last
            before.allocs += after.allocs
            gone.add(after)
            for alloc in after.allocs:
                buffer_of[alloc.memref] = before
    return [b for b in static if b not in gone], [b for b in dynamic if b not in gone]


def _dying_and_born(
    launch: LaunchOp, position: int, positions: dict[Operation, int], buffer_of: dict[SSAValue, _Buffer]
) -> Iterator[tuple[int, int]]:
    """
    The numbers of two arguments of one type: a whole buffer that is not used after `launch`, and one that is
    not used before. No other argument lies in either.
    """
    roots = [_root(argument) for argument in launch.arguments]
    whole = [
        (at, root, buffer_of[root])
        for at, argument in enumerate(launch.arguments)
        if (root := _whole_buffer(argument)) and root in buffer_of and roots.count(root) == 1
    ]
    types = [argument.type for argument in launch.arguments]
    for read, _, before in whole:
        if before.last != position:
            continue
        for written, root, after in whole:
            # Equal types have equal sizes; those that are known at run time must be one value as well.
            if types[read] != types[written] or before.size != after.size or before is after:
                continue
            assert root is not None
            if _first_use(root, positions) == position:
                yield read, written


def _root(value: SSAValue) -> SSAValue:
    """The buffer that `value` is a view of."""
    while isinstance(value.owner, Operation) and value.owner.name in _VIEWS:
        value = value.owner.operands[0]
    return value


def _whole_buffer(value: SSAValue) -> SSAValue | None:
    """The buffer all of which `value` is a view of."""
    while isinstance(value.owner, Operation) and value.owner.name in _RESHAPES:
        value = value.owner.operands[0]
    return value if isinstance(value.owner, memref.AllocOp) else None


def _first_use(buffer: SSAValue, positions: dict[Operation, int]) -> int:
    """The position of the first op that reads or writes `buffer`."""
    first, todo = len(positions), [buffer]
    while todo:
        for use in todo.pop().uses:
            if use.operation.name in _VIEWS:
                todo.extend(use.operation.results)
            elif use.operation.name != "memref.dim":
                first = min(first, positions[_outermost(use.operation, positions)])
    return first


def _mark_aliases(kernel: func.FuncOp, arguments: tuple[int, ...]) -> None:
    count = len(kernel.body.block.args)
    given = kernel.arg_attrs.data if kernel.arg_attrs is not None else [DictionaryAttr({})] * count
    marked = [
        DictionaryAttr({**attrs.data, ALIAS_KEY: UnitAttr()}) if at in arguments else attrs
        for at, attrs in enumerate(given)
    ]
    kernel.properties["arg_attrs"] = ArrayAttr(marked)


def _index(recompute: Recompute, value: SSAValue | int) -> SSAValue:
    return recompute.constant(value) if isinstance(value, int) else value


def _round_up(recompute: Recompute, size: SSAValue | int) -> SSAValue | int:
    if isinstance(size, int):
        return -(-size // ALIGNMENT) * ALIGNMENT
    # ceil(size / 64) * 64
    lines = recompute.emit(arith.CeilDivUIOp(size, recompute.constant(ALIGNMENT)))
    return recompute.emit(arith.MuliOp(lines, recompute.constant(ALIGNMENT)))


def _interval(alloc: memref.AllocOp, positions: dict[Operation, int]) -> tuple[int, int] | None:
    """
    The first and last op of the entry block that uses the buffer, views of it included: a region op counts
    whole. None where the buffer leaves its region as a value, so that several may be alive.
    """
    first = last = positions[_outermost(alloc, positions)]
    todo: list[SSAValue] = [alloc.memref]
    while todo:
        for use in todo.pop().uses:
            op = use.operation
            if op.has_trait(IsTerminator):
                return None
            last = max(last, positions[_outermost(op, positions)])
            if op.name in _VIEWS:
                todo.extend(op.results)
            elif any(isinstance(result.type, MemRefType) for result in op.results):
                return None
    return first, last


def _outermost(op: Operation, positions: dict[Operation, int]) -> Operation:
    while op not in positions:
        parent = op.parent_op()
        assert parent is not None, "every op stands inside the function"
        op = parent
    return op


def _place(buffers: Sequence[_Buffer]) -> int:
    """
    Offsets for buffers of known size; the bytes taken. No one order is best for every network, so a few are
    tried: the largest first, the longest lived first, by area, and as they come. The better ones are mended by
    `_promote`, until nothing can be gained.
    """
    orders = (
        lambda b: (-b.size, b.first),
        lambda b: (b.first - b.last, -b.size),
        lambda b: (-b.size * (b.last - b.first + 1), b.first),
        lambda b: (b.first, -b.size),
        lambda b: (-b.last, -b.size),
    )
    together, least = _alive_together(buffers), _most_alive(buffers)
    plans: list[_Plan] = []
    for order in orders:
        plan = _placed(sorted(buffers, key=order), together)
        plans.append(plan)
        if plan.total == least:
            break
    best = min(plans, key=_total)
    budget = _REPLACEMENTS // max(len(buffers), 1)
    for plan in sorted(plans, key=_total):
        if best.total == least:
            break
        mended, budget = _promote(plan, together, least, budget)
        best = min(best, mended, key=_total)
    for buffer in buffers:
        buffer.offset = best.offsets[buffer]
    return best.total


def _total(plan: _Plan) -> int:
    return plan.total


def _promote(
    plan: _Plan, together: dict[_Buffer, list[_Buffer]], least: int, budget: int
) -> tuple[_Plan, int]:
    """
    A plan that takes no more than `plan`, and what is left of `budget`, the number of orders that may be tried.
    A buffer that sticks out at the top was laid on others that live with it: it goes in front of one of them, of
    the first that lowers the total, or, a step that may lead there, of the one that raises it least.
    """
    best, seen = plan, set[tuple[_Buffer, ...]]()
    while best.total > least:
        top = next(b for b in plan.order if plan.offsets[b] + _bytes(b) == plan.total)
        others = set(together[top])
        place = plan.order.index(top)
        following: _Plan | None = None
        for before in [at for at in range(place) if plan.order[at] in others]:
            order = [*plan.order[:before], top, *plan.order[before:place], *plan.order[place + 1 :]]
            if tuple(order) in seen:
                continue
            if budget <= 0:
                return best, budget
            budget -= 1
            candidate = _placed(order, together)
            if following is None or candidate.total < following.total:
                following = candidate
            if candidate.total < plan.total:
                break
        if following is None:
            return best, budget
        plan = following
        seen.add(tuple(plan.order))
        best = min(best, plan, key=_total)
    return best, budget


def _bytes(buffer: _Buffer) -> int:
    assert isinstance(buffer.size, int)
    return buffer.size


def _alive_together(buffers: Sequence[_Buffer]) -> dict[_Buffer, list[_Buffer]]:
    """For each buffer the others that live when it does; one sweep, since a chain of n ops has n of them."""
    together: dict[_Buffer, list[_Buffer]] = {buffer: [] for buffer in buffers}
    alive: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda b: b.first):
        alive = [other for other in alive if other.last >= buffer.first]
        for other in alive:
            together[other].append(buffer)
        together[buffer].extend(alive)
        alive.append(buffer)
    return together


def _placed(order: list[_Buffer], together: dict[_Buffer, list[_Buffer]]) -> _Plan:
    """Each buffer in turn into the tightest gap that those alive with it leave."""
    offsets: dict[_Buffer, int] = {}
    total = 0
    for buffer in order:
        needed = _bytes(buffer)
        best, best_gap, end = None, None, 0
        for offset, size in sorted((offsets[b], _bytes(b)) for b in together[buffer] if b in offsets):
            gap = offset - end
            if gap >= needed and (best_gap is None or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, offset + size)
        offsets[buffer] = end if best is None else best
        total = max(total, offsets[buffer] + needed)
    return _Plan(order, offsets, total)


def _most_alive(buffers: Sequence[_Buffer]) -> int:
    """The most bytes alive at one op: no plan needs less."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        assert isinstance(buffer.size, int)
        changes[buffer.first] = changes.get(buffer.first, 0) + buffer.size
        changes[buffer.last + 1] = changes.get(buffer.last + 1, 0) - buffer.size
    most = alive = 0
    for position in sorted(changes):
        alive += changes[position]
        most = max(most, alive)
    return most


def _slots(buffers: Sequence[_Buffer]) -> list[_Slot]:
    """
    Share the arena's dynamic part: buffers in order of first use take a slot that is free, one of the same
    size if there is one. Which of two sizes is larger is known at run time only, so a slot is their maximum.
    """
    slots: list[_Slot] = []
    for buffer in sorted(buffers, key=lambda b: b.first):
        assert isinstance(buffer.size, SSAValue)
        free = [slot for slot in slots if slot.free_after < buffer.first]
        same = [slot for slot in free if buffer.size in slot.sizes]
        slot = next(iter(same or free), None)
        if slot is None:
            slot = _Slot(buffer.last)
            slots.append(slot)
        slot.free_after = buffer.last
        slot.buffers.append(buffer)
        if buffer.size not in slot.sizes:
            slot.sizes.append(buffer.size)
    return slots


def live_ratio(function: func.FuncOp) -> float:
    """Bytes of the arena over the bytes that must be alive at once; 1 is perfect."""
    arena, live = function.attributes[ARENA_KEY], function.attributes[LIVE_KEY]
    assert isinstance(arena, IntegerAttr) and isinstance(live, IntegerAttr)
    return arena.value.data / live.value.data if live.value.data else 1.0
