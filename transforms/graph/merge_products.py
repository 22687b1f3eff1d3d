"""Compute products of one tensor with several constant matrices as one product with all of their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import AnyFloat, ModuleOp
from xdsl.ir import Block, OpResult, SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.graph import GraphOp, dims_of
from stepwell.dialects.stepwell import target_of
from stepwell.remarks import applied, missed
from stepwell.rewriting import fuse_locations, may_rewrite, note_rewrite
from stepwell.targets import Target
from stepwell.transforms.graph.emitter import (
    Emitter,
    blocks_of,
    element_type,
    functions_of,
    remove_dead_ops,
    replace,
    set_type,
    static_shape,
)

_LAUNCH_NS = 1500.0
"""What a launch costs two threads, which wait for each other at its end; one thread nearly nothing."""
_SERIAL_NS = 3000.0
"""Work that the runtime does on one thread: there launches are calls, and fewer of them save nothing."""
_LEAST_GAIN = 0.01
"""
The share of the time of the products that must be saved. Parts of larger rows cost their readers a little: three products of 32x768x768 merged
are as fast on two threads and 0.96 on one, of 128x768x768 level on both; of 8x512x512 1.09 and level, of 32x128x128 1.12 and 1.02.
"""
_PRODUCT_SPEED = 0.72
"""Speed of products inside a network, over the peak."""
_GUESS = 128
"""What an extent that is known at run time only is taken for."""
_VIEWS = frozenset({"Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that read a part of a tensor where it lies, or move data from there in a kernel of their own anyway."""
_PRODUCTS = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True)
class MergeProductsPass(ModulePass):
    """
    Compute products of one tensor with several constant matrices, perhaps plus a constant row each, as one product with the columns
    of all, and its parts by `graph.split`: queries, keys and values of attention, gates.

    Every element is the same sum in the same order. A product without a row to add is given one of -0.0, which changes no number. All but
    one launch are saved, which counts where products are short; it costs the element-wise operators that would be done in the registers
    of a product, and a copy where something cannot read a part of a tensor. Requires: `set-target`, weights folded. Ensures: two products
    of one tensor with constant matrices, of one operator and with equal factors, are apart only where the cost model says so, in a remark.
    """

    name = "merge-products"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = target_of(op)
        for function in functions_of(op):
            for block in list(blocks_of(function.body)):
                _merge_in(block, Emitter(ctx), target)
            remove_dead_ops(function.body)


@dataclass(frozen=True)
class _Product:
    """`x w` or `x w + row` with constant `w` and `row`, by columns."""

    op: GraphOp
    weights: SSAValue
    row: SSAValue | None
    end: GraphOp
    """The op that makes the result: `op`, or the addition of the row behind it."""

    @property
    def result(self) -> OpResult:
        return self.end.results[0]


def _merge_in(block: Block, emitter: Emitter, target: Target) -> None:
    siblings: dict[tuple, list[_Product]] = {}
    for op in block.ops:
        if isinstance(op, GraphOp) and op.ONNX_NAME in _PRODUCTS and (key := _kind(op)) is not None:
            product = _product(op, emitter)
            if product is not None:
                siblings.setdefault(key, []).append(product)
    for products in siblings.values():
        if len(products) > 1 and may_rewrite():
            _merge(products, emitter, target)


def _kind(op: GraphOp) -> tuple | None:
    """What products have in common that may be merged."""
    x, w = op.operands[:2]
    if x is w or not isinstance(element := element_type(w), AnyFloat) or element != element_type(x):
        return None
    shape = static_shape(w)
    if shape is None or len(shape) != 2:
        return None
    factors: tuple = ()
    if op.ONNX_NAME == "Gemm":
        factors = tuple(op.get(name) for name in ("alpha", "beta", "trans_a", "trans_b"))
    return op.ONNX_NAME, x, element, shape[1 if op.get("trans_b") else 0] if factors else shape[0], factors


def _product(op: GraphOp, emitter: Emitter) -> _Product | None:
    weights = op.operands[1]
    if emitter.value(weights) is None:
        return None
    columns = _columns(op)
    if op.ONNX_NAME == "Gemm":
        row = [*op.operand_list(), None][2]
        return _Product(op, weights, row, op) if row is None or _is_row(row, columns, emitter) else None
    uses = list(op.results[0].uses)
    adder = uses[0].operation if len(uses) == 1 else None
    if isinstance(adder, GraphOp) and adder.ONNX_NAME == "Add" and adder.parent is op.parent:
        row = adder.operands[1 - uses[0].index]
        if _is_row(row, columns, emitter) and adder.results[0].type == op.results[0].type:
            return _Product(op, weights, row, adder)
    return _Product(op, weights, None, op)


def _columns(op: GraphOp) -> int:
    shape = static_shape(op.operands[1])
    assert shape is not None, "only constants are merged"
    return shape[0 if op.ONNX_NAME == "Gemm" and op.get("trans_b") else 1]


def _is_row(value: SSAValue, columns: int, emitter: Emitter) -> bool:
    """Whether `value` is a constant with one number a column, or one for all."""
    shape = static_shape(value)
    if shape is None or emitter.value(value) is None:
        return False
    return all(extent == 1 for extent in shape[:-1]) and (not shape or shape[-1] in (1, columns))


# [x a + p, x b + q] == x [a, b] + [p, q]
def _merge(products: Sequence[_Product], emitter: Emitter, target: Target) -> None:
    first = products[0].op
    if (why := _is_no_gain(products, target)) is not None:
        missed(first, f"{len(products)} products of one tensor stay apart: {why}")
        return
    emitter.at(first)
    element = element_type(first.operands[1])
    axis = 0 if first.ONNX_NAME == "Gemm" and first.get("trans_b") else 1
    sizes = [_columns(p.op) for p in products]
    weights = emitter.constant(np.concatenate([_values(emitter, p.weights) for p in products], axis), element)
    rows = None
    if any(p.row is not None for p in products):
        rows = emitter.constant(_joined_rows(products, sizes, emitter), element)
    if first.ONNX_NAME == "Gemm":
        properties = {k: v for k, v in first.properties.items() if not k.endswith("SegmentSizes")}
        made = [emitter.emit("Gemm", first.operands[0], weights, rows, **properties)]
    else:
        made = [emitter.emit("MatMul", first.operands[0], weights)]
        made += [] if rows is None else [emitter.emit("Add", made[0].results[0], rows)]
    whole = made[-1].results[0]
    split = emitter.emit(
        "Split", whole, emitter.ints(sizes), axis=len(dims_of(whole.type)) - 1, outputs=len(sizes)
    )
    where = fuse_locations([p.op.location for p in products])
    for op in (*made, split):
        op.location = where
    applied(
        first, f"{len(products)} products of one tensor are one of {sum(sizes)} columns", columns=sum(sizes)
    )
    note_rewrite("merge_products", first.name, where)
    for product, part in zip(products, list(split.results), strict=True):
        replace(product.end, [set_type(part, product.result.type)])
        if product.end is not product.op:
            product.op.detach()
            product.op.erase()


def _values(emitter: Emitter, value: SSAValue) -> np.ndarray:
    values = emitter.value(value)
    assert values is not None, "only constants are merged"
    return values


def _joined_rows(products: Sequence[_Product], sizes: Sequence[int], emitter: Emitter) -> np.ndarray:
    """The rows to add, one behind the other; -0.0 where there is none: x + -0.0 == x for every x."""
    dtype = _values(emitter, products[0].weights).dtype
    rows = []
    for product, columns in zip(products, sizes, strict=True):
        row = np.array(-0.0, dtype) if product.row is None else _values(emitter, product.row)
        rows.append(np.broadcast_to(row.reshape(-1), (columns,)))
    return np.concatenate(rows)


def _is_no_gain(products: Sequence[_Product], target: Target) -> str | None:
    """Why `products` are better done one by one, None if as one they are faster."""
    first = products[0]
    element = _element_bytes(first.result)
    depth = _size(first.weights) // _columns(first.op)
    columns = sum(_columns(p.op) for p in products)
    rows = _size(first.result) // _columns(first.op)
    multiply = 2 * rows * depth * columns / (_PRODUCT_SPEED * target.flops_per_ns)
    weights = element * depth * columns
    if max(multiply, weights / target.cache_bytes_per_ns) < _SERIAL_NS:
        return "they are so small that one thread does them"
    saved = _LAUNCH_NS * (len(products) - 1) - sum(_cost_of_part(p, target) for p in products)
    if saved <= 0:
        return "what reads them is done in their registers, or would be a copy"
    if saved < _LEAST_GAIN * max(multiply, weights / target.dram_bytes_per_ns):
        return "they take so long that launches do not count"
    return None


def _cost_of_part(product: _Product, target: Target) -> float:
    """Nanoseconds that are lost if the result of `product` is a part of a larger tensor."""
    result = product.result
    readers = [use.operation for use in result.uses]
    if all(isinstance(r, GraphOp) and r.parent is product.op.parent and _reads_parts(r) for r in readers):
        return 0.0
    return _LAUNCH_NS + 2 * _size(result) * _element_bytes(result) / target.cache_bytes_per_ns


def _size(value: SSAValue) -> int:
    return prod(d if isinstance(d, int) else _GUESS for d in dims_of(value.type))


def _element_bytes(value: SSAValue) -> int:
    return max(1, getattr(element_type(value), "bitwidth", 32) // 8)


def _reads_parts(reader: GraphOp) -> bool:
    return reader.ONNX_NAME in _VIEWS or reader.ONNX_NAME in _PRODUCTS
