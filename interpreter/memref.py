"""Meaning of `memref` and `schedule`: a memref is a numpy view; memory that nobody wrote is poisoned."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from xdsl.dialects.builtin import IntegerAttr, MemRefType, SymbolRefAttr
from xdsl.ir import Operation

from stepwell.diagnostics import compile_error
from stepwell.interpreter.llvm import launch_kernel
from stepwell.interpreter.machine import Machine, Results, meaning, poison
from stepwell.interpreter.tensor import checked_indices, drop_unit_axes, mixed, shape_of, slices_of
from stepwell.resources import dtype_of, value_of


@meaning("memref.alloc", "memref.alloca")
def _alloc(machine: Machine, op: Any) -> Results:
    type = op.results[0].type
    return (poison(shape_of(machine, type, op.dynamic_sizes), dtype_of(type.element_type)),)


@meaning("schedule.arena")
def _arena(machine: Machine, op: Operation) -> Results:
    return (_poisoned_bytes(machine.integer(op.operands[0])),)


def _poisoned_bytes(size: int) -> np.ndarray:
    """Bytes that are NaN as f64, f32 and f16 at every alignment."""
    return np.full(size, 0xFF, np.uint8).view(np.int8)


@meaning("memref.view")
def _view(machine: Machine, op: Any) -> Results:
    type = op.results[0].type
    source, start = machine[op.source], machine.integer(op.byte_shift)
    shape, dtype = shape_of(machine, type, op.sizes), dtype_of(type.element_type)
    if dtype.kind == "O":  # numpy keeps no objects in bytes
        return (poison(shape, dtype),)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if start < 0 or start + size > source.size:
        raise compile_error(
            op, f"bytes {start} to {start + size} leave the {source.size} of the buffer", "enlarge it"
        )
    return (source[start : start + size].view(dtype).reshape(shape),)


@meaning("memref.dealloc", "memref.assume_alignment")
def _nothing(machine: Machine, op: Operation) -> Results:
    return machine.get(op.operands)[: len(op.results)]


@meaning("memref.cast", "memref.memory_space_cast")
def _cast(machine: Machine, op: Operation) -> Results:
    return (machine[op.operands[0]],)


@meaning("memref.subview")
def _subview(machine: Machine, op: Any) -> Results:
    source = machine[op.source]
    return (drop_unit_axes(source[slices_of(machine, op, source)], op.result.type.get_shape()),)


@meaning("memref.reinterpret_cast")
def _reinterpret_cast(machine: Machine, op: Any) -> Results:
    source = machine[op.source]
    (offset,) = mixed(machine, op.static_offsets, op.offsets)
    sizes = mixed(machine, op.static_sizes, op.sizes)
    strides = mixed(machine, op.static_strides, op.strides)
    flat = source.reshape(-1)
    reach = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if all(sizes) and (offset < 0 or reach >= flat.size):
        raise compile_error(op, f"element {reach} leaves the {flat.size} of the buffer", "shrink the view")
    return (as_strided(flat[offset:], sizes, [s * flat.itemsize for s in strides]),)


@meaning("memref.store")
def _store(machine: Machine, op: Operation) -> Results:
    value, array, *indices = machine.get(op.operands)
    array[checked_indices(machine, op, array, indices)] = value
    return []


@meaning("memref.copy")
def _copy(machine: Machine, op: Operation) -> Results:
    source, destination = machine.get(op.operands)
    destination[...] = source
    return []


@meaning("memref.transpose")
def _transpose(machine: Machine, op: Any) -> Results:
    permutation = [e.position for e in op.properties["permutation"].data.results]
    return (machine[op.operands[0]].transpose(permutation),)


@meaning("memref.get_global")
def _get_global(machine: Machine, op: Operation) -> Results:
    name = op.properties["name"]
    assert isinstance(name, SymbolRefAttr)
    key = name.root_reference.data
    if key not in machine.globals:
        definition = machine.functions[key]
        type = op.results[0].type
        assert isinstance(type, MemRefType)
        initial = "value" if definition.name == "llvm.mlir.global" else "initial_value"
        value = value_of(definition.properties[initial], machine.ctx)
        array = np.array(value, dtype_of(type.get_element_type())).reshape(type.get_shape())
        array.flags.writeable = False
        machine.globals[key] = array
    return (machine.globals[key],)


# Two ranges, the last first, each with its own poisoned scratch, as two threads might run them.
@meaning("schedule.launch")
def _launch(machine: Machine, op: Any) -> Results:
    tiles = machine.integer(op.tiles)
    middle = tiles // 2
    for part in (range(middle, tiles), range(middle)):
        if part and not run_tiles(machine, op, part):
            break
    return []


def run_tiles(machine: Machine, op: Any, tiles: range) -> bool:
    """Run some tiles of the launch `op`; False if its kernel has no tiles and has run as a whole."""
    name = op.callee.root_reference.data
    kernel = machine.functions.get(name)
    if kernel is None:
        raise compile_error(op, f"no kernel @{name}", "define it")
    if not kernel.regions[0].blocks:
        machine.call(name, [*machine.get(op.arguments), np.int64(0), np.int64(1)], op)
        return False
    size = kernel.attributes.get("stepwell.scratch_bytes")
    scratch = size.value.data if isinstance(size, IntegerAttr) else 0
    if kernel.name == "llvm.func":
        launch_kernel(machine, op, kernel, tiles.start, tiles.stop, scratch)
        return True
    arguments = machine.get(op.arguments)
    extra = len(kernel.regions[0].block.args) - len(arguments)
    more: list[Any] = [np.int64(tiles.start), np.int64(tiles.stop)] if extra >= 2 else []
    if extra in (1, 3):
        assert isinstance(size, IntegerAttr), "a kernel with scratch says how much"
        more.append(_poisoned_bytes(scratch))
    machine.call(name, [*arguments, *more], op)
    return extra >= 2
