"""Run the tiles that lie inside of every extent without masks."""

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    BoolAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    UnitAttr,
    VectorType,
)
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr
from xdsl.passes import ModulePass

from stepwell.remarks import applied
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.transforms.linalg.form_kernels import KERNEL

WHOLE_TILE_KEY = "stepwell.whole_tile"
"""On an innermost loop of a tile: everything that the tile spans exists."""
_INDEX = IndexType()
_Transfer = vector.TransferReadOp | vector.TransferWriteOp


@dataclass(frozen=True)
class VersionMaskedTilesPass(ModulePass):
    """
    Two versions of a tile whose extents only the run knows and which sums in an inner loop: where all that its masked transfers
    touch exists, one without masks, whose loops are marked `stepwell.whole_tile`; else the tile as it was. Rows that may
    not exist are read at clamped indices, which take a register each in the loop; without them it has one left to ask for the
    next panel by (`kernels-to-llvm`), and the two together are 1.09 on a product of 200x384x1536. A mask whose index moves inside
    of the tile stays. Requires: lift-parallel. Ensures: the same values are computed in the same order.
    """

    name = "version-masked-tiles"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in op.body.block.ops:
            if isinstance(kernel, func.FuncOp) and KERNEL in kernel.attributes:
                for loop in list(kernel.body.block.ops):
                    if isinstance(loop, scf.ForOp) and not loop.results:
                        _version(kernel, loop)


@dataclass(frozen=True)
class _Mask:
    """That `index + size` is at most the extent of `buffer` along `dim`."""

    buffer: SSAValue
    dim: int
    index: SSAValue
    size: int


def _version(kernel: func.FuncOp, tiles: scf.ForOp) -> None:
    body = tiles.body.block
    masks: dict[_Mask, None] = {}
    places: dict[Operation, list[int]] = {}
    sums = False
    for op in body.walk():
        if not isinstance(op, _Transfer):
            continue
        for place, mask in _masks(op):
            if all(_is_known_in(value, body) for value in _operands(mask)):
                masks[mask] = None
                places.setdefault(op, []).append(place)
                loop = op.parent_op()
                sums |= isinstance(loop, scf.ForOp) and loop is not tiles and bool(loop.results)
    if not sums or not may_rewrite():
        return
    applied(tiles, f"kernel @{kernel.sym_name.data}: whole tiles run without masks")
    last = body.last_op
    assert isinstance(last, scf.YieldOp), "the body of a loop ends in scf.yield"
    needed = {op for mask in masks for value in _operands(mask) for op in _computation(value, body)}
    ops = [op for op in body.ops if op is not last]
    for op in ops:
        op.detach()
    for op in ops:
        if op in needed:
            body.insert_op_before(op, last)
    condition = _all_hold(list(masks), body, last)
    rest = [op for op in ops if op not in needed]
    whole, part = Block(), Block(rest)
    copies: dict[SSAValue, SSAValue] = {}
    for op in rest:
        whole.add_op(op.clone(copies))
    for before, after in zip(part.walk(), whole.walk(), strict=True):
        if before in places:
            assert isinstance(after, _Transfer)
            flags = list(after.in_bounds.data)
            for place in places[before]:
                flags[place] = BoolAttr.from_bool(True)
            after.properties["in_bounds"] = ArrayAttr(flags)
        elif isinstance(after, scf.ForOp):
            after.attributes[WHOLE_TILE_KEY] = UnitAttr()
    for block in (whole, part):
        block.add_op(scf.YieldOp())
    body.insert_op_before(scf.IfOp(condition, [], Region(whole), Region(part)), last)
    note_rewrite("version_masked_tiles", tiles.name, tiles.location)


def _masks(op: _Transfer) -> Iterator[tuple[int, _Mask]]:
    """The masked dims of the vector of `op` whose extent only the run knows, and what it takes that nothing is masked."""
    buffer, vector_type = (
        (op.source, op.result.type) if isinstance(op, vector.TransferReadOp) else (op.source, op.vector.type)
    )
    assert isinstance(vector_type, VectorType)
    shape = vector_type.get_shape()
    for place, (flag, expr) in enumerate(
        zip(op.in_bounds.data, op.permutation_map.data.results, strict=True)
    ):
        if not flag.value.data and isinstance(expr, AffineDimExpr) and _is_unknown(buffer, expr.position):
            yield place, _Mask(buffer, expr.position, op.indices[expr.position], shape[place])


def _is_unknown(buffer: SSAValue, dim: int) -> bool:
    """Whether the buffer that `buffer` is, or is a part of, has an unknown extent along `dim`."""
    type = buffer.type
    assert isinstance(type, MemRefType)
    if type.get_shape()[dim] != DYNAMIC_INDEX:
        return False
    owner = buffer.owner
    if isinstance(owner, memref.SubviewOp):
        whole = owner.source.type
        assert isinstance(whole, MemRefType)
        return whole.get_num_dims() == type.get_num_dims() and _is_unknown(owner.source, dim)
    return True


def _operands(mask: _Mask) -> tuple[SSAValue, SSAValue]:
    """What a mask is decided by: the index, and the extent or the buffer that has it."""
    return mask.index, mask.buffer if (size := _size(mask)) is None else size


def _size(mask: _Mask) -> SSAValue | None:
    """The extent of a part of a buffer."""
    owner = mask.buffer.owner
    if not isinstance(owner, memref.SubviewOp):
        return None
    sizes = owner.static_sizes.get_values()
    return owner.sizes[sizes[: mask.dim].count(DYNAMIC_INDEX)]


def _is_known_in(value: SSAValue, body: Block) -> bool:
    """Whether `value` is defined outside of `body`, or computed in it of such values and of its argument by `arith` on indices."""
    owner = value.owner
    if isinstance(owner, Block):
        return owner is body or not body.is_ancestor(owner)
    if owner.parent is not body:
        return not body.is_ancestor(owner)
    return _is_index_arithmetic(owner) and all(_is_known_in(v, body) for v in owner.operands)


def _is_index_arithmetic(op: Operation) -> bool:
    return op.name.startswith("arith.") and all(isinstance(r.type, IndexType) for r in op.results)


def _computation(value: SSAValue, body: Block) -> Iterator[Operation]:
    """The ops of `body` that compute `value`."""
    owner = value.owner
    if isinstance(owner, Operation) and owner.parent is body:
        yield owner
        for operand in owner.operands:
            yield from _computation(operand, body)


def _all_hold(masks: list[_Mask], body: Block, before: Operation) -> SSAValue:
    """Whether nothing is masked, computed in front of an op."""

    def add(op: Operation) -> SSAValue:
        body.insert_op_before(op, before)
        return op.results[0]

    result: SSAValue | None = None
    for mask in masks:
        extent = _size(mask)
        if extent is None:
            extent = add(memref.DimOp(mask.buffer, add(_index(mask.dim))))
        end = add(arith.AddiOp(mask.index, add(_index(mask.size))))
        holds = add(arith.CmpiOp(end, extent, "ule"))
        result = holds if result is None else add(arith.AndIOp(result, holds))
    assert result is not None, "a tile of no mask has one version"
    return result


def _index(value: int) -> arith.ConstantOp:
    return arith.ConstantOp(IntegerAttr(value, _INDEX))
