"""Move the larger local buffers of kernels from the stack to memory that the host provides."""

from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    i8,
    i64,
)
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from stepwell.diagnostics import unsupported
from stepwell.dialects.memref import ALIGNMENT
from stepwell.dialects.schedule import LaunchOp
from stepwell.transforms.memref.recompute import Recompute, element_bytes, upper_bound

SCRATCH_KEY = "stepwell.scratch_bytes"
_STACK_BYTES = 4096
"""Buffers up to this stay on the stack: the pool's threads have small ones."""
_MAX_BYTES = 1 << 47
"""The address space of a process."""
_INDEX = IndexType()
_BYTES = MemRefType(i8, [DYNAMIC_INDEX])


@dataclass(frozen=True)
class PromoteScratchPass(ModulePass):
    """
    Turn stack buffers of kernels above 4 KiB into views of one last argument `%scratch`, whose size is noted
    as `stepwell.scratch_bytes`; and buffers of unbounded extent into views of an argument that the host
    allocates for all tiles. Requires: lift-parallel. Ensures: every `memref.alloca` is static and small.
    """

    name = "promote-scratch"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        launches: dict[str, list[LaunchOp]] = {}
        for inner in op.walk():
            if isinstance(inner, LaunchOp):
                launches.setdefault(inner.callee.string_value(), []).append(inner)
        for kernel in op.body.block.ops:
            if isinstance(kernel, func.FuncOp) and "stepwell.kernel" in kernel.attributes:
                _promote(kernel, launches.get(kernel.sym_name.data, []))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _promote(kernel: func.FuncOp, launches: list[LaunchOp]) -> None:
    offset = 0
    scratch: list[tuple[memref.AllocaOp, int]] = []
    unbounded: list[memref.AllocaOp] = []
    for op in kernel.walk():
        if not isinstance(op, memref.AllocaOp):
            continue
        type = op.memref.type
        assert isinstance(type, MemRefType)
        bounds = [upper_bound(size) for size in op.dynamic_sizes]
        static = prod(extent for extent in type.get_shape() if extent != DYNAMIC_INDEX)
        if any(bound is None for bound in bounds):
            unbounded.append(op)
            continue
        size = static * prod(max(b, 0) for b in bounds if b is not None) * element_bytes(type.element_type)
        if offset + size > _MAX_BYTES:
            raise unsupported(
                op, f"a tile needs {size} bytes of working memory", "check the sizes it is allocated with"
            )
        if size > _STACK_BYTES or bounds:
            scratch.append((op, offset))
            offset += _aligned(size)
    for op in unbounded:
        _to_host(kernel, op, launches)
    if scratch:
        block = kernel.body.block
        argument = block.insert_arg(_BYTES, len(block.args))
        argument.name_hint = "scratch"
        kernel.attributes[SCRATCH_KEY] = IntegerAttr(offset, i64)
        _refresh_type(kernel, len(block.args) - 1)
        for op, start in scratch:
            constant = arith.ConstantOp(IntegerAttr(start, _INDEX))
            _replace(op, [constant], argument, constant.result)


def _refresh_type(kernel: func.FuncOp, inserted: int) -> None:
    kernel.properties["function_type"] = FunctionType.from_lists([a.type for a in kernel.body.block.args], [])
    if kernel.arg_attrs is not None:
        attributes = list(kernel.arg_attrs)
        attributes.insert(inserted, DictionaryAttr({}))
        kernel.properties["arg_attrs"] = ArrayAttr(attributes)


def _replace(op: memref.AllocaOp, new: list[Operation], base: SSAValue, offset: SSAValue) -> None:
    """Turn `op` into a view of `base` at byte `offset`, which `new` computes."""
    assert op.parent is not None and isinstance(op.memref.type, MemRefType)
    view = memref.ViewOp(base, offset, op.dynamic_sizes, op.memref.type)
    view.result.name_hint = op.memref.name_hint
    for inner in (*new, view):
        inner.location = op.location
    op.parent.insert_ops_before([*new, view], op)
    op.memref.replace_all_uses_with(view.result)
    op.detach()
    op.erase()


def _to_host(kernel: func.FuncOp, op: memref.AllocaOp, launches: list[LaunchOp]) -> None:
    """
    Let the host allocate `op` for all tiles at once, tile `t` using the bytes from `t * size`: its size is
    known at each launch, but not when the threads' scratch is reserved.
    """
    block = kernel.body.block
    parameters = list(block.args[:-2])
    type = op.memref.type
    assert isinstance(type, MemRefType)
    sizes = iter(op.dynamic_sizes)
    extents: list[SSAValue | int] = [next(sizes) if e == DYNAMIC_INDEX else e for e in type.get_shape()]
    # An extent that differs between tiles, such as that of a tail, takes its bound.
    extents = [e if isinstance(e, int) or (bound := upper_bound(e)) is None else bound for e in extents]
    unknown = [e for e in extents if not isinstance(e, int)]
    for launch in launches:
        recompute = Recompute(dict(zip(parameters, launch.arguments, strict=True)), launch)
        if not all(recompute.possible(size) for size in unknown):
            raise unsupported(
                op, "its extents depend on data inside the kernel", "compute them in the host function"
            )
        bytes_of_tile = recompute.product(
            [*(e if isinstance(e, int) else recompute(e) for e in extents), element_bytes(type.element_type)]
        )
        total = recompute.product([_round_up(recompute, bytes_of_tile), launch.tiles])
        size = recompute.constant(total) if isinstance(total, int) else total
        alloc = memref.AllocOp([size], [], _BYTES, IntegerAttr(ALIGNMENT, i64))
        alloc.location = launch.location
        assert launch.parent is not None
        launch.parent.insert_op_before(alloc, launch)
        new = LaunchOp(launch.callee.string_value(), launch.tiles, [*launch.arguments, alloc.memref])
        new.properties.update({k: v for k, v in launch.properties.items() if k != "operandSegmentSizes"})
        new.attributes.update(launch.attributes)
        new.location = launch.location
        launch.parent.insert_op_before(new, launch)
        launches[launches.index(launch)] = new
        launch.detach()
        launch.erase()
    argument = block.insert_arg(_BYTES, len(block.args) - 2)
    argument.name_hint = "buffers"
    _refresh_type(kernel, len(block.args) - 3)
    tile = _tile_of(op, block.args[-2])
    here = Recompute({}, op)
    bytes_of_tile = _round_up(here, here.product([*extents, element_bytes(type.element_type)]))
    offset = here.product([bytes_of_tile, tile])
    start = here.constant(offset) if isinstance(offset, int) else offset
    _replace(op, [], argument, start)


def _round_up(recompute: Recompute, size: SSAValue | int) -> SSAValue | int:
    if isinstance(size, int):
        return _aligned(size)
    # ceil(size / 64) * 64
    parts = recompute.emit(arith.CeilDivUIOp(size, recompute.constant(ALIGNMENT)))
    return recompute.emit(arith.MuliOp(parts, recompute.constant(ALIGNMENT)))


def _tile_of(op: Operation, begin: SSAValue) -> SSAValue:
    """The number of the tile that `op` runs in; the first of the range where it stands before the loop."""
    scope = op.parent_op()
    while scope is not None:
        if isinstance(scope, scf.ForOp) and scope.lb is begin:
            argument = scope.body.block.args[0]
            assert isinstance(argument, BlockArgument)
            return argument
        scope = scope.parent_op()
    # Threads run ranges that do not overlap, so the first tile of the range is nobody else's.
    return begin
