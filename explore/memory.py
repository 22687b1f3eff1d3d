"""The memory plan of the host function over time: which bytes of the arena belong to which buffer, and when."""

from dataclasses import dataclass
from math import prod

from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import IntegerAttr, MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from stepwell.diagnostics import layers_of


@dataclass(frozen=True)
class Buffer:
    """Bytes `[offset, offset + size)` of the arena, in use from launch `first` to launch `last`."""

    name: str
    offset: int
    size: int
    first: int
    last: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The arena of a module at "memref"; `unknown` buffers have places that follow from run-time extents."""

    bytes: int
    launches: int
    buffers: tuple[Buffer, ...]
    unknown: int


def memory_plan(module: ModuleOp) -> Plan | None:
    """The plan that `plan-memory` made for `@main`; None where it has no arena."""
    main = next(
        (f for f in module.body.block.ops if isinstance(f, FuncOp) and f.sym_name.data == "main"), None
    )
    if main is None:
        return None
    steps = _steps(main)
    arena = next((op for op in main.body.block.ops if op.name == "schedule.arena"), None)
    if arena is None:
        return None
    buffers, unknown = [], 0
    for use in arena.results[0].uses:
        view = use.operation
        offset, size = _known(view.operands[1]), _size(view.results[0])
        if offset is None or size is None:
            unknown += 1
            continue
        users = [steps[op] for op in _users(view.results[0], steps)]
        if users:
            name = view.results[0].name_hint or f"buffer {len(buffers)}"
            buffers.append(Buffer(name, offset, size, min(users), max(users), layers_of(view.location)))
    total = _known(arena.operands[0]) or max((b.offset + b.size for b in buffers), default=0)
    return Plan(total, max(steps.values(), default=0) + 1, tuple(buffers), unknown)


def _steps(main: FuncOp) -> dict[Operation, int]:
    """The ops of the entry block, each with the number of launches before it."""
    steps, launches = {}, 0
    for op in main.body.block.ops:
        steps[op] = launches
        launches += sum(inner.name == "schedule.launch" for inner in op.walk())
    return steps


def _users(value: SSAValue, steps: dict[Operation, int]) -> list[Operation]:
    """The ops of the entry block that read or write the buffer, through views too."""
    found, todo = [], [value]
    while todo:
        for use in todo.pop().uses:
            op = outer = use.operation
            while outer not in steps:
                parent = outer.parent_op()
                assert parent is not None, "a user stands in @main"
                outer = parent
            views = [result for result in op.results if isinstance(result.type, MemRefType)]
            if views:
                todo.extend(views)
            else:
                found.append(outer)
    return found


def _known(value: SSAValue) -> int | None:
    owner = value.owner
    if isinstance(owner, ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return None


def _size(value: SSAValue) -> int | None:
    type = value.type
    if not isinstance(type, MemRefType) or any(extent < 0 for extent in type.get_shape()):
        return None
    return prod(type.get_shape()) * max(1, getattr(type.element_type, "bitwidth", 64) // 8)
