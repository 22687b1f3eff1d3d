"""Store the constant factor of contractions in the order in which the register tile reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    FixedBitwidthType,
    Float32Type,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Attribute, Block, Operation
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from stepwell.dialects.stepwell import target_of
from stepwell.resources import constant_attr, value_of
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.targets import Target
from stepwell.transforms.linalg.indices import linear
from stepwell.transforms.linalg.register_tiles import register_tile, tall_rows
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    extents_of,
    generic,
    is_elementwise,
    maps_of,
    output_map,
    parallel_dims,
    reduction_dims,
)

_PANEL_COSTS = {4: 1.0, 2: 1.03, 3: 1.04, 1: 1.06}
"""
Widths of a panel in vector registers, and what a column costs in each. Wider tiles need fewer loads a multiply-add (64 against 16
columns: 1.04 measured at 16 lanes), so a narrower panel must save more than that in padding. Three registers are for what only one
would fill otherwise (3136x24x144 1.19, 784x40x240 1.11, 784x256x144 1.10 times as fast); of two, tiles can be taller.
"""
_FEW_ROWS, _NEAR = 64, 0.4
"""
Matrix products of up to this many rows have panels as wide as their tile, since its height decides how many rows of it are idle
(four of 36 with tiles of 6x64 for 32 rows, one of 33 with 11x32; from 8 to 56 rows 1.0 to 1.8 times as fast). Narrow panels read the
rows more often, and where rows of the result share cache lines write those twice: of more rows they are worth it (128x768 by 768:
1.05) only where the rows take no more than this share of L2 (128 of 1536 1.09; 196 of 1536 and 128 of 3072 0.93 to 0.97) and the result's begin
at cache lines (128x768 by 50001: 0.95).
"""
_PAIR_REGISTERS = {True: 5, False: 3}
"""Registers of columns, each in two lanes, beside which enough rows have accumulators, with 32 registers and with fewer."""
_PAIR_STEPS, _PAIR_ROWS = 32, 4
"""Steps from which on adding the lanes at the end is little, and rows from which on whole tiles of them are."""


@dataclass(frozen=True)
class PackWeightsPass(ModulePass):
    """
    Store the constant factor of contractions in the order in which the register tile reads it.

    `W[k, n]` becomes `P[n floordiv w, k, n mod w]`, zero-padded to whole panels of `w` columns, for any order and
    number of reduction dims (`W[kh, kw, ic, oc]`) and leading parallel dims (groups); the iteration space is
    unchanged. Where half a register would be padding, `P[n floordiv w, k floordiv 2, n mod w, k mod 2]`: two steps
    of each column lie side by side, and are summed side by side (`_pairs`).
    Requires: tensor stage with a target. Ensures: a constant factor of a contraction whose
    last output dim it holds alone is read panel by panel with unit stride.
    """

    name = "pack-weights"
    tall_tiles: bool = True
    """As in `assign-schedules`: panels are as wide as its tiles."""
    pairs: bool = True
    """Two steps of a sum side by side where half a register of columns would be padding."""
    three_registers: bool = True
    """Panels of three registers where only one would fill otherwise."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = target_of(op)
        packed: dict[tuple, arith.ConstantOp] = {}
        for contraction in [o for o in op.walk() if isinstance(o, linalg.GenericOp)]:
            if (factors := contraction_operands(contraction)) is not None:
                location = contraction.location
                for factor in factors if may_rewrite() else ():
                    if _pack(contraction, factor, target, ctx, packed, self):
                        note_rewrite("pack_factor", "linalg.generic", location)
                        break


def _pack(
    op: linalg.GenericOp,
    k: int,
    target: Target,
    ctx: Context,
    packed: dict[tuple, arith.ConstantOp],
    options: PackWeightsPass,
) -> bool:
    """Repack factor `k` of `op` if it is a constant panel operand."""
    source = op.inputs[k].owner
    if not isinstance(source, arith.ConstantOp) or not isinstance(
        source.value, DenseResourceAttr | DenseIntOrFPElementsAttr
    ):
        return False
    maps = maps_of(op)
    read = [e.position for e in maps[k].results if isinstance(e, AffineDimExpr)]
    written = [e.position for e in output_map(op).results if isinstance(e, AffineDimExpr)]
    if len(read) != len(maps[k].results) or not written or (column := written[-1]) not in read:
        return False
    other = next(i for i in contraction_operands(op) or () if i != k)
    if any(column in e.used_dims() for e in maps[other].results):
        return False
    type = source.result.type
    assert isinstance(type, TensorType)
    if not isinstance(element := type.element_type, FixedBitwidthType) or element.bitwidth < 8:
        return False
    extents = dict(zip(read, type.get_shape(), strict=True))
    if prod(extents[d] for d in read if d != column) < 2:
        return False
    lanes = target.lanes(element.size)
    width = panel_width(extents[column], lanes, options.three_registers)
    aligned = extents[column] % lanes == 0
    if (rows := _rows(op, other, read, written, aligned, target)) is not None:
        # A tile of half a panel would stride through memory.
        tall = tall_rows(op, other, rows.dim, target) if options.tall_tiles else 0
        tile = register_tile(rows.extent, extents[column], lanes, target, None, tall=tall)
        width = width if width == 3 * lanes else min(width, max(lanes, tile[1]))
    order = [d for d in parallel_dims(op) if d in read and d != column]
    order += [column] + [d for d in reduction_dims(op) if d in read]
    step = _pairs(op, other, column, order, lanes, target) if options.pairs else None
    if step is not None:
        width = extents[column]
    # An equal constant of another block need not dominate this one.
    key = (source.parent, source.value, tuple(order), tuple(read), width, step)
    constant = packed.get(key)
    if constant is None:
        array = value_of(source.value, ctx).transpose([read.index(d) for d in order])
        blocked = _panels(array, order.index(column), width)
        if step is not None:
            *outer, steps, columns = blocked.shape
            blocked = np.ascontiguousarray(blocked.reshape(*outer, steps // 2, 2, columns).swapaxes(-1, -2))
        constant = arith.ConstantOp(constant_attr(blocked, ctx, element))
        constant.location = source.location
        constant.result.name_hint = source.result.name_hint
        Rewriter.insert_op(constant, InsertPoint.after(source))
        packed[key] = constant
    column_expr = AffineExpr.dimension(column)
    exprs: list[AffineExpr] = []
    for d in order:
        parts = width if d == column else 2 if d == step else 1
        exprs.append(AffineExpr.dimension(d) // parts if parts > 1 else AffineExpr.dimension(d))
    exprs.append(column_expr % width)
    if step is not None:
        exprs.append(AffineExpr.dimension(step) % 2)
    maps[k] = AffineMap(maps[k].num_dims, 0, tuple(exprs))
    _replace_input(op, k, constant, maps)
    if not source.result.uses:
        Rewriter.erase_op(source)
    return True


def _pairs(
    op: linalg.GenericOp, other: int, column: int, order: Sequence[int], lanes: int, target: Target
) -> int | None:
    """
    The dim of the sum of which two steps are summed side by side in one register, each column in two lanes, which are added at the
    end: where the columns fill half a register besides whole ones. (24 columns of 144 steps take 0.83 of the time of 32.) None
    where that does not pay, or where `--fp=strict` keeps the order of the sum.
    """
    extents, maps = extents_of(op), maps_of(op)
    columns, step = extents[column], order[-1]
    most = _PAIR_REGISTERS[target.vector_registers >= 32]
    if target.fp == "strict" or columns % lanes != lanes // 2 or not lanes < columns <= most * lanes // 2:
        return None
    types = [value.type for value in (*op.inputs, *op.outputs)]
    if {type.element_type for type in types if isinstance(type, TensorType)} != {Float32Type()}:
        return None
    batch = prod(extents[d] for d in parallel_dims(op) if d in order and d != column)
    if len(op.inputs) != 2 or batch > 1 or extents[step] % 2:
        return None
    sums = prod(extents[d] for d in reduction_dims(op))
    rows = prod(extents.get(d, 0) for d in parallel_dims(op) if d != column)
    if sums < _PAIR_STEPS or rows < _PAIR_ROWS or DYNAMIC_INDEX in extents.values():
        return None
    last = maps[other].results[-1] if maps[other].results else None
    return step if last == AffineExpr.dimension(step) else None


@dataclass(frozen=True)
class _Rows:
    """What a register tile has rows of: the output dim, and how many there are where dims around it become one with it."""

    dim: int
    extent: int


def _rows(
    op: linalg.GenericOp,
    other: int,
    read: Sequence[int],
    written: Sequence[int],
    aligned: bool,
    target: Target,
) -> _Rows | None:
    """
    The rows of the factor `other` that panels are as wide as a tile of, if their number is known and above one; None where wide
    panels are better (`_FEW_ROWS`). `aligned`: the rows of the result begin at cache lines.
    """
    extents = extents_of(op)
    window = [e for e in maps_of(op)[other].results if not isinstance(e, AffineDimExpr)]
    slides = {d for e in window for d in e.used_dims()}
    reads_all = any(d in slides and extents.get(d, 1) != 1 for d in reduction_dims(op))
    is_point = not reads_all and all(set(terms[0].values()) == {1} for e in window if (terms := linear(e)))
    if is_point and not _is_written_apart(op):  # of one point without a stride all rows become one dim
        dims = [d for d in written if d not in read]
        extent = prod(max(0, extents.get(d, 0)) for d in dims)
        if extent > _FEW_ROWS and not (aligned and _stays_near(op.inputs[other].type, target)):
            return None
    else:
        dims = [d for d in written if d in slides]
        extent = extents.get(dims[-1], 0) if dims else 0
    return _Rows(dims[-1], extent) if extent > 1 else None


def _stays_near(rows: Attribute, target: Target) -> bool:
    """Whether `rows`, which each panel reads anew, stay in L2 beside the panels and the result."""
    assert isinstance(rows, TensorType) and isinstance(rows.element_type, FixedBitwidthType)
    return prod(rows.get_shape()) * rows.element_type.size <= target.l2_bytes * _NEAR


def _is_written_apart(op: linalg.GenericOp) -> bool:
    """
    Whether rows of the result do not become one dim although `op` reads them as one: they are written into a padded buffer, or
    tiled as those of a window with a stride are that is added to them.
    """
    while True:
        readers = {use.operation for use in op.results[0].uses}
        if any(isinstance(reader, tensor.PadOp) and _pads_rows(reader) for reader in readers):
            return True
        reader = readers.pop() if len(readers) == 1 else None
        if not isinstance(reader, linalg.GenericOp) or not is_elementwise(reader):
            return False
        if any(_has_strided_window(value.owner) for value in reader.inputs if value.owner is not op):
            return True
        op = reader


def _pads_rows(pad: tensor.PadOp) -> bool:
    sides = (pad.static_low.get_values(), pad.static_high.get_values())
    return any(amount != 0 for side in sides for amount in side[:-1])


def _has_strided_window(op: Operation | Block) -> bool:
    if not isinstance(op, linalg.GenericOp) or (factors := contraction_operands(op)) is None:
        return False
    exprs = [e for k in factors for e in maps_of(op)[k].results]
    return any(max(terms[0].values(), default=1) > 1 for e in exprs if (terms := linear(e)))


def panel_width(columns: int, lanes: int, three_registers: bool = True) -> int:
    """
    The width of a panel for a factor of `columns` columns: up to four registers of `lanes` elements, fewer
    where padding to whole panels would cost more than a narrower tile does.
    """
    costs = {n * lanes: cost for n, cost in _PANEL_COSTS.items() if n != 3 or three_registers}
    return min(costs, key=lambda width: -(-columns // width) * width * costs[width])


def _panels(array: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Split `axis` into panels of `width`, zero-padded, the position in the panel last."""
    missing = -array.shape[axis] % width
    if missing:
        array = np.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
    shape = array.shape
    split = array.reshape(*shape[:axis], shape[axis] // width, width, *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(split, axis + 1, -1))


def _replace_input(op: linalg.GenericOp, k: int, new: Operation, maps: Sequence[AffineMap]) -> None:
    inputs = list(op.inputs)
    inputs[k] = new.results[0]
    Rewriter.replace_op(op, generic(inputs, op.outputs, maps, op, op.detach_region(op.body)))
