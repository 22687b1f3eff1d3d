"""Meaning of `tensor`: slices, reshapes and single elements of numpy arrays."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DYNAMIC_INDEX, ShapedType, TensorType
from xdsl.ir import Attribute, Operation, SSAValue

from stepwell.diagnostics import compile_error
from stepwell.interpreter.machine import Machine, Results, meaning, poison
from stepwell.resources import dtype_of


def mixed(machine: Machine, static: Attribute, dynamic: Sequence[SSAValue]) -> list[int]:
    """The numbers of a list that is partly static and partly operands."""
    values = iter(dynamic)
    numbers = static.get_values()  # pyright: ignore
    return [machine.integer(next(values)) if n == DYNAMIC_INDEX else int(n) for n in numbers]


def slices_of(machine: Machine, op: Any, array: np.ndarray) -> tuple[slice, ...]:
    """The slices that the offsets, sizes and strides of `op` name in `array`, checked to lie inside."""
    offsets = mixed(machine, op.static_offsets, op.offsets)
    sizes = mixed(machine, op.static_sizes, op.sizes)
    strides = mixed(machine, op.static_strides, op.strides)
    slices: list[slice] = []
    for axis, (offset, size, stride) in enumerate(zip(offsets, sizes, strides, strict=True)):
        last = offset + (size - 1) * stride
        if size and (offset < 0 or size < 0 or not 0 <= last < array.shape[axis]):
            raise compile_error(
                op,
                f"elements {offset} to {last} of axis {axis} leave its extent {array.shape[axis]}",
                "clamp them",
            )
        slices.append(
            slice(offset, last + 1 if size else offset, stride) if stride > 0 else slice(offset, None, stride)
        )
    return tuple(slices)


def shape_of(machine: Machine, type: Attribute, dynamic: Sequence[SSAValue]) -> list[int]:
    """The run-time shape of a type whose unknown extents are `dynamic`, in order."""
    assert isinstance(type, ShapedType)
    values = iter(dynamic)
    return [machine.integer(next(values)) if n == DYNAMIC_INDEX else n for n in type.get_shape()]


def drop_unit_axes(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """`array` seen with the rank of `shape`, a static shape with unknowns: axes of extent 1 are dropped."""
    if array.ndim == len(shape):
        return array
    units = [axis for axis, extent in enumerate(array.shape) if extent == 1]
    for axes in combinations(units, array.ndim - len(shape)):
        view = array.squeeze(axes)
        if all(want in (DYNAMIC_INDEX, got) for got, want in zip(view.shape, shape, strict=True)):
            return view
    raise ValueError(f"shape {list(array.shape)} has not the unit axes to become {list(shape)}")


@meaning("tensor.empty")
def _empty(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    assert isinstance(type, TensorType)
    return (machine.own(poison(shape_of(machine, type, op.operands), dtype_of(type.get_element_type()))),)


@meaning("tensor.dim", "memref.dim")
def _dim(machine: Machine, op: Operation) -> Results:
    return (np.int64(np.shape(machine[op.operands[0]])[machine.integer(op.operands[1])]),)


@meaning("tensor.rank", "memref.rank")
def _rank(machine: Machine, op: Operation) -> Results:
    return (np.int64(np.ndim(machine[op.operands[0]])),)


@meaning("tensor.cast")
def _cast(machine: Machine, op: Operation) -> Results:
    x = machine[op.operands[0]]
    type = op.results[0].type
    if isinstance(type, ShapedType):
        for got, want in zip(x.shape, type.get_shape(), strict=True):
            if want not in (DYNAMIC_INDEX, got):
                raise compile_error(
                    op, f"the tensor has shape {list(x.shape)}, not that of {type}", "cast to its shape"
                )
    return (x,)


@meaning("tensor.bitcast")
def _bitcast(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    assert isinstance(type, TensorType)
    return (machine[op.operands[0]].view(dtype_of(type.get_element_type())),)


def checked_indices(
    machine: Machine, op: Operation, array: np.ndarray, indices: Sequence[Any]
) -> tuple[Any, ...]:
    """`indices` into `array`, an error where one leaves it; clamped at points that do not ask for the value."""
    checked: list[Any] = []
    for axis, index in enumerate(indices):
        extent = array.shape[axis]
        if np.any(np.asarray(index) < 0) or np.any(np.asarray(index) >= extent):
            if not machine.masked or extent == 0:
                raise compile_error(
                    op,
                    f"index {np.min(index)} to {np.max(index)} leaves the extent {extent} of axis {axis}",
                    "clamp it",
                )
            index = np.clip(index, 0, extent - 1)
        checked.append(index)
    return tuple(checked)


@meaning("tensor.extract", "memref.load")
def _extract(machine: Machine, op: Operation) -> Results:
    array, *indices = machine.get(op.operands)
    return (array[checked_indices(machine, op, array, indices)],)


@meaning("tensor.insert")
def _insert(machine: Machine, op: Operation) -> Results:
    scalar, dest, *indices = machine.get(op.operands)
    if not machine.may_overwrite(op.operands[1], op):
        dest = machine.own(dest.copy())
    dest[checked_indices(machine, op, dest, indices)] = scalar
    return (dest,)


@meaning("tensor.from_elements")
def _from_elements(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    assert isinstance(type, TensorType)
    values = np.array(
        [np.asarray(v).item() for v in machine.get(op.operands)], dtype_of(type.get_element_type())
    )
    return (values.reshape(type.get_shape()),)


@meaning("tensor.splat")
def _splat(machine: Machine, op: Operation) -> Results:
    shape = shape_of(machine, op.results[0].type, op.operands[1:])
    return (machine.own(np.full(shape, machine[op.operands[0]])),)


@meaning("tensor.extract_slice")
def _extract_slice(machine: Machine, op: Any) -> Results:
    source = machine[op.source]
    return (drop_unit_axes(source[slices_of(machine, op, source)], op.result.type.get_shape()),)


@meaning("tensor.insert_slice")
def _insert_slice(machine: Machine, op: Any) -> Results:
    source, dest = machine[op.source], machine[op.dest]
    if not machine.may_overwrite(op.dest, op):
        dest = machine.own(dest.copy())
    place = dest[slices_of(machine, op, dest)]
    place[...] = source.reshape(place.shape)
    return (dest,)


def reassociation_of(op: Operation) -> list[list[int]]:
    """The groups of axes of a reshape."""
    return [[i.value.data for i in group] for group in op.properties["reassociation"]]  # pyright: ignore


@meaning("tensor.collapse_shape", "memref.collapse_shape")
def _collapse_shape(machine: Machine, op: Operation) -> Results:
    x = machine[op.operands[0]]
    groups = reassociation_of(op)
    return (x.reshape([int(np.prod([x.shape[a] for a in group], dtype=np.int64)) for group in groups]),)


@meaning("tensor.expand_shape", "memref.expand_shape")
def _expand_shape(machine: Machine, op: Operation) -> Results:
    x = machine[op.operands[0]]
    shape = mixed(machine, op.properties["static_output_shape"], op.operands[1:])
    if int(np.prod(shape, dtype=np.int64)) != x.size:
        raise compile_error(
            op, f"shape {list(x.shape)} does not expand to {shape}", "keep the number of elements"
        )
    return (x.reshape(shape),)


@meaning("tensor.reshape")
def _reshape(machine: Machine, op: Operation) -> Results:
    x, shape = machine.get(op.operands)
    return (x.reshape([int(n) for n in shape]),)


@meaning("tensor.concat")
def _concat(machine: Machine, op: Operation) -> Results:
    return (np.concatenate(machine.get(op.operands), op.properties["dim"].value.data),)  # pyright: ignore


@meaning("tensor.pad")
def _pad(machine: Machine, op: Any) -> Results:
    x = machine[op.source]
    low, high = mixed(machine, op.static_low, op.low), mixed(machine, op.static_high, op.high)
    shape = [lo + n + hi for lo, n, hi in zip(low, x.shape, high, strict=True)]
    grid = np.indices(shape, sparse=True) if shape else ()
    (value,) = machine.run_region(op.region, list(grid))
    result = np.array(np.broadcast_to(np.asarray(value, x.dtype), shape))
    # a negative amount crops
    source = tuple(slice(max(0, -lo), n - max(0, -hi)) for lo, n, hi in zip(low, x.shape, high, strict=True))
    place = tuple(slice(max(0, lo), s - max(0, hi)) for lo, s, hi in zip(low, shape, high, strict=True))
    result[place] = x[source]
    return (machine.own(result),)


@meaning("tensor.generate")
def _generate(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    assert isinstance(type, TensorType)
    shape = shape_of(machine, type, op.operands)
    grid = list(np.indices(shape, sparse=True)) if shape else []
    (value,) = machine.run_region(op.regions[0], grid)
    return (machine.own(np.array(np.broadcast_to(value, shape), dtype_of(type.get_element_type()))),)
