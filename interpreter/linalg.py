"""Meaning of `linalg.generic`: its body evaluated once, on arrays that hold a value for each point.

An operand is seen through its indexing map as an array over the iteration space (a strided view where the
map is linear). A reduction by an associative op is one numpy reduction, a contraction one matrix product
for each point of the dims that occur in compound indices (`kh`, `kw` of a convolution); any other
reduction runs point by point over its reduction dims.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from xdsl.dialects.builtin import IntegerAttr
from xdsl.dialects.linalg.attrs import IteratorTypeAttr
from xdsl.ir import Block, Operation, OpResult, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)

from stepwell.diagnostics import compile_error
from stepwell.interpreter.arith import UFUNCS
from stepwell.interpreter.machine import Machine, Results, meaning


@meaning("linalg.fill")
def _fill(machine: Machine, op: Any) -> Results:
    value, out = machine[op.operands[0]], machine[op.operands[1]]
    if not op.results:
        out[...] = value
        return []
    return (machine.own(np.full(out.shape, value, out.dtype)),)


@meaning("linalg.index")
def _index(machine: Machine, op: Operation) -> Results:
    dim = op.properties["dim"]
    assert isinstance(dim, IntegerAttr)
    return (machine.points[-1][dim.value.data],)


def _linear(expr: AffineExpr) -> tuple[dict[int, int], int] | None:
    """Coefficients by dim and the constant of a linear expression; None if it is not linear."""
    match expr:
        case AffineDimExpr():
            return {expr.position: 1}, 0
        case AffineConstantExpr():
            return {}, expr.value
        case AffineBinaryOpExpr():
            a, b = _linear(expr.lhs), _linear(expr.rhs)
            if a is None or b is None:
                return None
            if expr.kind == AffineBinaryOpKind.Add:
                dims = dict(a[0])
                for dim, factor in b[0].items():
                    dims[dim] = dims.get(dim, 0) + factor
                return dims, a[1] + b[1]
            if expr.kind == AffineBinaryOpKind.Mul:
                (dims, constant), factor = (a, b[1]) if not b[0] else (b, a[1])
                return {d: f * factor for d, f in dims.items()}, constant * factor
    return None


def _evaluate(expr: AffineExpr, grid: Sequence[Any]) -> Any:
    """The value of `expr` where dim `d` has the values `grid[d]`."""
    match expr:
        case AffineDimExpr():
            return grid[expr.position]
        case AffineConstantExpr():
            return np.int64(expr.value)
        case AffineBinaryOpExpr():
            a, b = _evaluate(expr.lhs, grid), _evaluate(expr.rhs, grid)
            match expr.kind:
                case AffineBinaryOpKind.Add:
                    return a + b
                case AffineBinaryOpKind.Mul:
                    return a * b
                case AffineBinaryOpKind.Mod:
                    return a % b
                case AffineBinaryOpKind.FloorDiv:
                    return a // b
                case AffineBinaryOpKind.CeilDiv:
                    return -((-a) // b)
        case _:
            pass
    raise ValueError(f"{expr} is not an expression over dims")


def extents_of(op: Operation, maps: Sequence[AffineMap], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """The extent of each dim, found where it stands alone in a map, and checked to agree."""
    extents: list[int | None] = [None] * maps[0].num_dims
    for map, shape in zip(maps, shapes, strict=True):
        for expr, extent in zip(map.results, shape, strict=True):
            if isinstance(expr, AffineDimExpr):
                known = extents[expr.position]
                if known is not None and known != extent:
                    raise compile_error(
                        op,
                        f"dim d{expr.position} has the extents {known} and {extent}",
                        "make the shapes agree",
                    )
                extents[expr.position] = extent
    missing = [f"d{d}" for d, extent in enumerate(extents) if extent is None]
    if missing:
        raise compile_error(
            op, f"nothing gives the extents of {', '.join(missing)}", "add an operand that has them"
        )
    return [e for e in extents if e is not None]


def _view(
    op: Operation, array: np.ndarray, map: AffineMap, extents: Sequence[int], fixed: dict[int, int]
) -> np.ndarray:
    """
    `array` over the iteration space: axis `d` is dim `d`, of extent 1 where the map does not use it.
    The dims in `fixed` have one value, and extent 1.
    """
    extents = [1 if d in fixed else e for d, e in enumerate(extents)]
    if prod(extents) == 0:
        return np.zeros([0 if e == 0 else 1 for e in extents], array.dtype)
    linear = [_linear(e) for e in map.results]
    if all(x is not None for x in linear):
        offset, strides, used = 0, [0] * len(extents), [False] * len(extents)
        index: list[slice] = []
        for axis, term in enumerate(linear):
            assert term is not None
            dims, constant = term
            low = high = constant + sum(f * fixed[d] for d, f in dims.items() if d in fixed)
            index.append(slice(low, None))
            for d, factor in dims.items():
                if d in fixed:
                    continue
                reach = factor * (extents[d] - 1)
                low, high = low + min(reach, 0), high + max(reach, 0)
                strides[d] += factor * array.strides[axis]
                used[d] = True
            if low < 0 or high >= array.shape[axis]:
                raise compile_error(
                    op,
                    f"{map.results[axis]} runs from {low} to {high} on an axis of extent {array.shape[axis]}",
                    "make the operand large enough",
                )
            offset += (constant + sum(f * fixed[d] for d, f in dims.items() if d in fixed)) * array.strides[
                axis
            ]
        shape = [e if u else 1 for e, u in zip(extents, used, strict=True)]
        return as_strided(array[tuple(index)] if index else array, shape, strides, writeable=False)
    grid = _grid(extents, fixed)
    return np.asarray(array[tuple(_evaluate(e, grid) for e in map.results)]).reshape(
        np.broadcast_shapes((1,) * len(extents), *(np.shape(_evaluate(e, grid)) for e in map.results))
    )


def _grid(extents: Sequence[int], fixed: dict[int, int]) -> list[np.ndarray]:
    """For each dim its values, as an array that broadcasts over the iteration space."""
    rank = len(extents)
    return [
        np.array(fixed[d], np.int64).reshape((1,) * rank)
        if d in fixed
        else np.arange(e, dtype=np.int64).reshape([-1 if a == d else 1 for a in range(rank)])
        for d, e in enumerate(extents)
    ]


def contraction_of(block: Block) -> bool:
    """True for a body `(a, b, acc) -> acc + a * b`, with or without widening of `a` and `b`."""
    if len(block.args) != 3:
        return False
    casts = {"arith.extf", "arith.extsi", "arith.extui"}
    ops = [o for o in block.ops if o.name not in casts]
    if len(ops) != 3 or {o.name for o in block.ops if o.name in casts} & {"arith.extui"}:
        return False
    multiply, add, end = ops
    if (multiply.name, add.name) not in (("arith.mulf", "arith.addf"), ("arith.muli", "arith.addi")):
        return False

    def argument(value: SSAValue) -> SSAValue:
        return value.owner.operands[0] if isinstance(value, OpResult) and value.op.name in casts else value  # pyright: ignore

    a, b, acc = block.args
    return (
        {argument(v) for v in multiply.operands} == {a, b}
        and set(add.operands) == {multiply.results[0], acc}
        and list(end.operands) == [add.results[0]]
    )


def _contract(a: np.ndarray, b: np.ndarray, reduce: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Sum of `a * b` over the dims `reduce`, both being arrays over one iteration space; those dims become 1."""
    rank = a.ndim
    shape = np.broadcast_shapes(a.shape, b.shape)
    lone = [d for d in reduce if shape[d] != 1 and 1 in (a.shape[d], b.shape[d])]
    for d in lone:  # summed on the side that has it
        a, b = (a.sum(d, keepdims=True), b) if b.shape[d] == 1 else (a, b.sum(d, keepdims=True))
    k = [d for d in reduce if shape[d] != 1 and d not in lone]
    free = [d for d in range(rank) if d not in reduce]
    batch = [d for d in free if a.shape[d] == b.shape[d]]
    m = [d for d in free if d not in batch and a.shape[d] != 1]
    n = [d for d in free if d not in batch and a.shape[d] == 1]

    def lay(x: np.ndarray, *groups: list[int]) -> np.ndarray:
        order = [d for group in groups for d in group]
        x = x.transpose([*order, *(d for d in range(rank) if d not in order)])
        extents = iter(x.shape)
        return x.reshape([prod(next(extents) for _ in group) for group in groups])

    if (dtype.kind == "f" and dtype.itemsize == 2) or dtype.kind == "V":
        a, b = a.astype(np.float32), b.astype(np.float32)
    product = np.matmul(
        lay(a.astype(dtype, copy=False), batch, m, k), lay(b.astype(dtype, copy=False), batch, k, n)
    )
    order = [*batch, *m, *n]
    full = product.reshape([shape[d] for d in order] + [1] * (rank - len(order)))
    inverse = np.argsort([*order, *(d for d in range(rank) if d not in order)])
    return full.transpose(inverse).astype(dtype, copy=False)


def _combiner(block: Block, position: int) -> tuple[str, SSAValue] | None:
    """If result `position` is `acc <op> value` of an associative op: that op's name, and the value."""
    n_in = len(block.args) - len(block.last_op.operands)  # pyright: ignore
    acc = block.args[n_in + position]
    result = block.last_op.operands[position]  # pyright: ignore
    if not isinstance(result, OpResult) or result.op.name not in UFUNCS or result.op.parent is not block:
        return None
    if len(list(acc.uses)) != 1 or acc not in result.op.operands or len(list(result.uses)) != 1:
        return None
    left, right = result.op.operands
    return (result.op.name, right if left is acc else left) if left is not right else None


@meaning("linalg.generic")
def _generic(machine: Machine, op: Any) -> Results:
    block: Block = op.body.block
    maps: list[AffineMap] = [m.data for m in op.indexing_maps]
    n_in = len(op.inputs)
    arrays = [np.asarray(machine[v]) for v in op.operands]
    extents = extents_of(op, maps, [a.shape for a in arrays])
    kinds: list[IteratorTypeAttr] = list(op.iterator_types)
    reduce = [d for d, kind in enumerate(kinds) if kind.data.value != "parallel"]
    outs = [
        _view(op, arrays[n_in + i], maps[n_in + i], extents, dict.fromkeys(reduce, 0))
        for i in range(len(op.outputs))
    ]
    if prod(extents) == 0:
        results = outs
    elif not reduce:
        results = _run_body(machine, op, block, maps, arrays[:n_in], outs, extents, {})
    elif contraction_of(block):
        results = [_contraction(op, maps, arrays, outs[0], extents, reduce)]
    else:
        results = _reduction(machine, op, block, maps, arrays[:n_in], outs, extents, reduce)
    final: list[np.ndarray] = []
    for i, (value, out) in enumerate(zip(results, op.outputs, strict=True)):
        array = _place(np.asarray(value), maps[n_in + i], extents, reduce, arrays[n_in + i])
        if op.results:
            final.append(machine.own(array))
        else:
            machine[out][...] = array
    return final


def _place(
    value: np.ndarray, map: AffineMap, extents: Sequence[int], reduce: Sequence[int], out: np.ndarray
) -> np.ndarray:
    """Values over the iteration space, brought to the axes of the result (a permutation of dims, or a scatter)."""
    shape = [1 if d in reduce else e for d, e in enumerate(extents)]
    if value.ndim < len(shape):
        value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    value = np.broadcast_to(value, shape)
    if all(isinstance(e, AffineDimExpr) for e in map.results) and len(set(map.results)) == len(map.results):
        dims = [e.position for e in map.results if isinstance(e, AffineDimExpr)]
        rest = [d for d in range(len(shape)) if d not in dims]
        placed = value.transpose([*dims, *rest])
        return np.array(placed.reshape(placed.shape[: len(dims)]) if all(shape[d] == 1 for d in rest) else
                        placed[(..., *([-1] * len(rest)))], out.dtype)  # fmt: skip
    result = out.copy()
    grid = _grid(extents, dict.fromkeys(reduce, 0))
    result[tuple(np.broadcast_to(_evaluate(e, grid), shape) for e in map.results)] = value
    return result


def _run_body(
    machine: Machine, op: Operation, block: Block, maps: Sequence[AffineMap], inputs: Sequence[np.ndarray],
    accumulators: Sequence[Any], extents: Sequence[int], fixed: dict[int, int],
) -> list[Any]:  # fmt: skip
    """The body's yields at every point whose dims have their values in `fixed`, or all of them."""
    views = [_view(op, x, m, extents, fixed) for x, m in zip(inputs, maps, strict=False)]
    grid = _grid(extents, fixed)
    machine.points.append(dict(enumerate(grid)))
    results = machine.run_block(block, [*views, *accumulators])
    machine.points.pop()
    return results


def _contraction(
    op: Operation, maps: Sequence[AffineMap], arrays: Sequence[np.ndarray], out: np.ndarray,
    extents: Sequence[int], reduce: Sequence[int],
) -> np.ndarray:  # fmt: skip
    """Matrix products, one for each point of the reduction dims that share an index with another dim."""
    compound = {d for m in maps for e in m.results if not isinstance(e, AffineDimExpr) for d in e.used_dims()}
    looped = [d for d in reduce if d in compound]
    # each looped dim has few points, unless the map is a packed one: then its view is a gather anyway
    if prod(extents[d] for d in looped) > 4096 or any(
        _linear(e) is None for m in maps[:2] for e in m.results
    ):
        looped = []
    total = out
    for point in np.ndindex(*(extents[d] for d in looped)):
        fixed = dict(zip(looped, point, strict=True))
        a, b = (_view(op, arrays[i], maps[i], extents, fixed) for i in range(2))
        total = total + _contract(a, b, reduce, out.dtype)
    return total.astype(out.dtype, copy=False)


def _reduction(
    machine: Machine, op: Operation, block: Block, maps: Sequence[AffineMap], inputs: Sequence[np.ndarray],
    accumulators: Sequence[Any], extents: Sequence[int], reduce: Sequence[int],
) -> list[Any]:  # fmt: skip
    """One numpy reduction if every result is one of an associative op; else a loop over the reduction dims."""
    assert block.last_op is not None
    combiners = [_combiner(block, i) for i in range(len(accumulators))]
    if all(c is not None for c in combiners):
        _run_body(machine, op, block, maps, inputs, accumulators, extents, {})
        results: list[Any] = []
        for combiner, accumulator in zip(combiners, accumulators, strict=True):
            assert combiner is not None
            name, value = combiner
            terms = np.asarray(machine[value])
            terms = terms.reshape((1,) * (len(extents) - terms.ndim) + terms.shape)
            full = [e if d in reduce else terms.shape[d] for d, e in enumerate(extents)]
            dtype = np.asarray(accumulator).dtype
            folded = UFUNCS[name].reduce(np.broadcast_to(terms, full), axis=tuple(reduce), keepdims=True)
            results.append(UFUNCS[name](accumulator, folded.astype(dtype)))
        return results
    current = list(accumulators)
    for point in np.ndindex(*(extents[d] for d in reduce)):
        fixed = dict(zip(reduce, point, strict=True))
        current = _run_body(machine, op, block, maps, inputs, current, extents, fixed)
    return current
