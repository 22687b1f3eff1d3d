"""Meaning of `vector`: a vector is a numpy array of its shape; transfers read and write tensors and memrefs."""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import ShapedType, VectorType
from xdsl.ir import Attribute, Operation
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineMap

from stepwell.diagnostics import compile_error
from stepwell.interpreter.machine import Machine, Results, meaning
from stepwell.resources import dtype_of

_KINDS: dict[str, np.ufunc] = {
    "add": np.add, "mul": np.multiply, "maximumf": np.maximum, "minimumf": np.minimum, "maxnumf": np.fmax,
    "minnumf": np.fmin, "maxsi": np.maximum, "minsi": np.minimum, "maxui": np.maximum, "minui": np.minimum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


def _shape(type: Attribute) -> tuple[int, ...]:
    assert isinstance(type, ShapedType)
    return type.get_shape()


def _ints(attribute: Any) -> list[int]:
    """The numbers of an integer array attribute, of either kind."""
    if hasattr(attribute, "get_values"):
        return [int(v) for v in attribute.get_values()]
    return [a.value.data for a in attribute]


def _asked(machine: Machine, op: Any, map: AffineMap, shape: tuple[int, ...]) -> np.ndarray:
    """The lanes that the op's mask asks for; what `in_bounds` promises holds for these only."""
    if op.mask is None:
        return np.ones(shape, bool)
    dims = [e.position for e in map.results if isinstance(e, AffineDimExpr)]
    mask = machine[op.mask].transpose([sorted(dims).index(d) for d in dims])
    kept = [n if isinstance(e, AffineDimExpr) else 1 for n, e in zip(shape, map.results, strict=True)]
    return np.broadcast_to(mask.reshape(kept), shape)


def _lanes(
    machine: Machine, op: Any, array: np.ndarray, shape: tuple[int, ...]
) -> tuple[tuple[Any, ...], np.ndarray]:
    """For each axis of `array` the index of every lane (clamped), and which lanes lie inside and are asked for."""
    map: AffineMap = op.permutation_map.data
    starts = [machine.integer(i) for i in op.indices]
    in_bounds = [bool(b.value.data) for b in op.in_bounds] if op.in_bounds else [False] * len(shape)
    index: list[Any] = [np.int64(s) for s in starts]
    asked = _asked(machine, op, map, shape)
    inside = asked
    for dim, expr in enumerate(map.results):
        if isinstance(expr, AffineConstantExpr):
            continue
        assert isinstance(expr, AffineDimExpr)
        axis, extent = expr.position, array.shape[expr.position]
        lane = (
            np.arange(shape[dim]).reshape([-1 if d == dim else 1 for d in range(len(shape))]) + starts[axis]
        )
        good = (lane >= 0) & (lane < extent)
        if in_bounds[dim] and not (good | ~asked).all():
            raise compile_error(
                op,
                f"lanes {lane.min()} to {lane.max()} of axis {axis} leave its extent {extent} but are marked in bounds",
                "mark the dim as out of bounds",
            )
        inside = inside & good
        index[axis] = np.clip(lane, 0, max(extent - 1, 0))
    for axis, i in enumerate(index):
        if inside.any() and (np.min(i) < 0 or np.max(i) >= array.shape[axis]):
            raise compile_error(
                op, f"index {i} leaves the extent {array.shape[axis]} of axis {axis}", "clamp it"
            )
    return tuple(index), inside


@meaning("vector.transfer_read")
def _transfer_read(machine: Machine, op: Any) -> Results:
    array = np.asarray(machine[op.source])
    shape = _shape(op.result.type)
    index, inside = _lanes(machine, op, array, shape)
    if not inside.any():
        return (np.full(shape, machine[op.padding], array.dtype),)
    read = np.broadcast_to(array[index], shape)
    return (np.where(inside, read, machine[op.padding]).astype(array.dtype),)


@meaning("vector.transfer_write")
def _transfer_write(machine: Machine, op: Any) -> Results:
    array = machine[op.source]
    vector = np.asarray(machine[op.vector])
    index, inside = _lanes(machine, op, array, vector.shape)
    if op.results and not machine.may_overwrite(op.source, op):
        array = machine.own(array.copy())
    if inside.any():
        full = tuple(np.broadcast_to(i, vector.shape)[inside] for i in index)
        array[full] = vector[inside]
    return (array,) if op.results else []


def _row(machine: Machine, op: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The memref's elements from the index on along its last axis, and how many there are before the end."""
    array = machine[op.base]
    *outer, start = (machine.integer(i) for i in op.indices)
    row = array[tuple(outer)] if outer else array
    return row, np.arange(start, start + length)


def _checked(op: Operation, row: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    if lanes.size and (lanes.min() < 0 or lanes.max() >= row.shape[0]):
        raise compile_error(
            op, f"lanes {lanes.min()} to {lanes.max()} leave the extent {row.shape[0]}", "mask them"
        )
    return lanes


@meaning("vector.load")
def _load(machine: Machine, op: Any) -> Results:
    shape = _shape(op.result.type)
    if len(shape) != 1:
        array = machine[op.base]
        starts = [machine.integer(i) for i in op.indices]
        lead = array.ndim - len(shape)
        block = array[(*starts[:lead], *(slice(s, s + n) for s, n in zip(starts[lead:], shape, strict=True)))]
        assert block.shape == shape, f"vector.load of {shape} leaves {array.shape}"
        return (block.copy(),)
    row, lanes = _row(machine, op, shape[0])
    return (row[_checked(op, row, lanes)],)


@meaning("vector.store")
def _store(machine: Machine, op: Any) -> Results:
    vector = machine[op.vector]
    if vector.ndim != 1:
        array = machine[op.base]
        starts = [machine.integer(i) for i in op.indices]
        lead = array.ndim - vector.ndim
        place = (*starts[:lead], *(slice(s, s + n) for s, n in zip(starts[lead:], vector.shape, strict=True)))
        assert array[place].shape == vector.shape, f"vector.store of {vector.shape} leaves {array.shape}"
        array[place] = vector
        return []
    row, lanes = _row(machine, op, len(vector))
    row[_checked(op, row, lanes)] = vector
    return []


@meaning("vector.maskedload")
def _masked_load(machine: Machine, op: Any) -> Results:
    mask, other = machine[op.mask], machine[op.pass_thru]
    result = np.array(np.broadcast_to(other, mask.shape))
    if not mask.any():
        # A place that nothing is read from need not exist.
        return (result,)
    row, lanes = _row(machine, op, len(mask))
    result[mask] = row[_checked(op, row, lanes[mask])]
    return (result,)


@meaning("vector.maskedstore")
def _masked_store(machine: Machine, op: Any) -> Results:
    mask, value = machine[op.mask], machine[op.value_to_store]
    if not mask.any():
        return []
    row, lanes = _row(machine, op, len(mask))
    row[_checked(op, row, lanes[mask])] = value[mask]
    return []


@meaning("vector.gather")
def _gather(machine: Machine, op: Any) -> Results:
    base, *indices, lanes, mask, other = machine.get(op.operands)
    flat = np.asarray(base).reshape(-1)
    start = int(np.ravel_multi_index([int(i) for i in indices], base.shape)) if indices else 0
    result = np.array(np.broadcast_to(other, mask.shape))
    result[mask] = flat[start + lanes[mask]]
    return (result,)


@meaning("vector.broadcast")
def _broadcast(machine: Machine, op: Operation) -> Results:
    return (np.broadcast_to(machine[op.operands[0]], _shape(op.results[0].type)),)


@meaning("vector.fma")
def _fma(machine: Machine, op: Operation) -> Results:
    a, b, c = machine.get(op.operands)
    return (a * b + c,)


@meaning("vector.create_mask")
def _create_mask(machine: Machine, op: Operation) -> Results:
    shape = _shape(op.results[0].type)
    mask = np.zeros(shape, bool)
    mask[tuple(slice(0, max(0, machine.integer(n))) for n in op.operands)] = True
    return (mask,)


@meaning("vector.constant_mask")
def _constant_mask(machine: Machine, op: Operation) -> Results:
    mask = np.zeros(_shape(op.results[0].type), bool)
    sizes = op.properties.get("mask_dim_sizes") or op.attributes["mask_dim_sizes"]
    mask[tuple(slice(0, n) for n in _ints(sizes))] = True
    return (mask,)


@meaning("vector.step")
def _step(machine: Machine, op: Operation) -> Results:
    return (np.arange(_shape(op.results[0].type)[0], dtype=np.int64),)


def _position(machine: Machine, op: Any) -> tuple[int, ...]:
    dynamic = iter(op.dynamic_position)
    minimum = -(1 << 63)
    return tuple(
        machine.integer(next(dynamic)) if p == minimum else p for p in op.static_position.get_values()
    )


@meaning("vector.extract")
def _extract(machine: Machine, op: Any) -> Results:
    return (machine[op.vector][_position(machine, op)],)


@meaning("vector.insert")
def _insert(machine: Machine, op: Any) -> Results:
    result = np.array(machine[op.dest])
    result[_position(machine, op)] = machine[op.source]
    return (result,)


@meaning("vector.shape_cast")
def _shape_cast(machine: Machine, op: Operation) -> Results:
    return (np.asarray(machine[op.operands[0]]).reshape(_shape(op.results[0].type)),)


@meaning("vector.deinterleave")
def _deinterleave(machine: Machine, op: Any) -> Results:
    source = np.asarray(machine[op.source])
    return source[..., ::2], source[..., 1::2]


@meaning("vector.transpose")
def _transpose(machine: Machine, op: Operation) -> Results:
    permutation = op.properties.get("permutation") or op.attributes["permutation"]
    return (np.asarray(machine[op.operands[0]]).transpose(_ints(permutation)),)


@meaning("vector.shuffle")
def _shuffle(machine: Machine, op: Any) -> Results:
    return (np.concatenate(machine.get(op.operands))[_ints(op.properties["mask"])],)


def _fold(kind: Any, values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    name = str(getattr(kind.data, "value", kind.data))
    if name in ("maxui", "minui"):
        unsigned = values.view(f"u{values.dtype.itemsize}")
        return _KINDS[name].reduce(unsigned, axis=axes).view(values.dtype)
    return _KINDS[name].reduce(values, axis=axes)


@meaning("vector.reduction")
def _reduction(machine: Machine, op: Operation) -> Results:
    values, *acc = machine.get(op.operands)
    kind: Any = op.properties["kind"]
    result = np.asarray(_fold(kind, np.asarray(values), (0,))).astype(values.dtype)
    if acc:
        result = _fold(kind, np.stack([result, np.asarray(acc[0])]), (0,))
    return (values.dtype.type(result),)


@meaning("vector.multi_reduction")
def _multi_reduction(machine: Machine, op: Operation) -> Results:
    values, acc = machine.get(op.operands)
    kind: Any = op.properties["kind"]
    axes = tuple(_ints(op.properties.get("reduction_dims") or op.attributes["reduction_dims"]))
    result = np.asarray(_fold(kind, np.asarray(values), axes)).astype(values.dtype)
    return (_fold(kind, np.stack([result, np.asarray(acc)]), (0,)).astype(values.dtype),)


@meaning("vector.outerproduct")
def _outerproduct(machine: Machine, op: Operation) -> Results:
    a, b, *acc = machine.get(op.operands)
    product = np.multiply.outer(a, b) if np.ndim(b) else a * b
    return ((product + acc[0]) if acc else product,)


@meaning("vector.contract")
def _contract(machine: Machine, op: Any) -> Results:
    a, b, acc = machine.get(op.operands[:3])
    maps = [m.data for m in op.properties["indexing_maps"]]
    letters = ["".join(chr(97 + e.position) for e in m.results) for m in maps]
    return (
        (np.einsum(f"{letters[0]},{letters[1]}->{letters[2]}", a, b) + acc).astype(np.asarray(acc).dtype),
    )


@meaning("vector.extract_strided_slice")
def _extract_strided_slice(machine: Machine, op: Operation) -> Results:
    offsets, sizes, strides = (_ints(op.properties[k]) for k in ("offsets", "sizes", "strides"))
    place = tuple(slice(o, o + n * s, s) for o, n, s in zip(offsets, sizes, strides, strict=True))
    return (machine[op.operands[0]][place],)


@meaning("vector.insert_strided_slice")
def _insert_strided_slice(machine: Machine, op: Operation) -> Results:
    source, dest = machine.get(op.operands)
    offsets, strides = _ints(op.properties["offsets"]), _ints(op.properties["strides"])
    sizes = [1] * (dest.ndim - source.ndim) + list(source.shape)
    strides = [1] * (dest.ndim - len(strides)) + strides
    result = np.array(dest)
    place = tuple(slice(o, o + n * s, s) for o, n, s in zip(offsets, sizes, strides, strict=True))
    result[place] = source.reshape(result[place].shape)
    return (result,)


@meaning("vector.from_elements")
def _from_elements(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    assert isinstance(type, VectorType)
    return (np.array(machine.get(op.operands), dtype_of(type.get_element_type())).reshape(type.get_shape()),)


@meaning("vector.bitcast")
def _bitcast(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    assert isinstance(type, VectorType)
    return (np.ascontiguousarray(machine[op.operands[0]]).view(dtype_of(type.get_element_type())),)
