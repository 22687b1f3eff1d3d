"""Unrolling of what touches memory: masks, transfers, loads and stores, piece by piece (`unroll-vectors`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xdsl.dialects import arith, memref, scf, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    ArrayAttr,
    BoolAttr,
    DenseArrayBase,
    IntegerAttr,
    VectorType,
    i1,
    i32,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.dialects.ub import PoisonOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap

from stepwell.diagnostics import unsupported
from stepwell.dialects.arith import CmpiOp, SelectOp
from stepwell.transforms.vector.unroller import INDEX, Handler, Pieces, Unroller, no_overflow, strides_of

# --- masks -----------------------------------------------------------------------------------------


def _lane_mask(u: Unroller, count: SSAValue, width: int) -> SSAValue:
    """The first `count` of `width` lanes."""
    if (known := u.known(count)) is not None:
        if known >= width:
            return u.splat_constant(1, i1, width)
        if known <= 0:
            return u.splat_constant(0, i1, width)
    if width == 1:
        key = ("any", count)
        predicate = {"predicate": IntegerAttr(4, i64)}  # sgt
        return u.shared(key, lambda: u.emit(CmpiOp, (count, u.index(0)), i1, predicate))
    type = VectorType(i1, [width])
    return u.shared(("mask", count, width), lambda: u.emit(vector.CreateMaskOp, (count,), type))


def _both(u: Unroller, a: SSAValue | None, b: SSAValue | None) -> SSAValue | None:
    """The conjunction of two conditions of one type, None being true."""
    if a is None or b is None:
        return b if a is None else a
    if a is b:
        return a
    return u.shared(("and", a, b), lambda: u.emit(arith.AndIOp, (a, b), a.type))


def _below(u: Unroller, index: SSAValue, bound: SSAValue) -> SSAValue:
    predicate = {"predicate": IntegerAttr(2, i64)}  # slt
    return u.shared(("below", index, bound), lambda: u.emit(CmpiOp, (index, bound), i1, predicate))


def _masked_count(u: Unroller, row_ok: SSAValue | None, count: SSAValue) -> SSAValue:
    """`row_ok ? count : 0`."""
    if row_ok is None:
        return count
    key = ("count", row_ok, count)
    return u.shared(key, lambda: u.emit(SelectOp, (row_ok, count, u.index(0)), INDEX))


def create_mask(u: Unroller, op: Any) -> None:
    type = op.results[0].type
    if u.keeps(type):
        return
    *outer, last = list(op.operands)
    pieces: Pieces = []
    for row, offset, width in u.shape(type).places():
        ok: SSAValue | None = None
        for c, bound in zip(row, outer, strict=True):
            ok = _both(u, ok, _below(u, u.index(c), bound))
        pieces.append(_lane_mask(u, _masked_count(u, ok, u.add(last, -offset)), width))
    u.replace(op, pieces)


def constant_mask(u: Unroller, op: Any) -> None:
    sizes = [int(v) for v in op.properties["mask_dim_sizes"].iter_values()]
    type = op.results[0].type
    pieces: Pieces = []
    for row, offset, width in u.shape(type).places():
        inside = all(c < size for c, size in zip(row, sizes[:-1], strict=True))
        count = min(max(sizes[-1] - offset, 0), width) if inside else 0
        if width == 1 or count in (0, width):
            pieces.append(u.splat_constant(1 if count else 0, i1, width))
        else:
            lanes = [int(lane < count) for lane in range(width)]
            pieces.append(u.constant(DenseAttr.from_list(VectorType(i1, [width]), lanes)))
    u.replace(op, pieces)


# --- memory ----------------------------------------------------------------------------------------


@dataclass
class _Access:
    """One piece of a transfer: where it is, how it runs through memory, which lanes exist."""

    indices: list[SSAValue]
    width: int
    dim: int | None
    """The memref dim that the lanes run along; None: every lane is the same element."""
    row_ok: SSAValue | None
    """Whether the coordinates outside the lanes exist; None: they do."""
    count: SSAValue | None
    """How many lanes exist, if that is not all of them."""


def _accesses(
    u: Unroller, op: Any, type: VectorType, memref_value: SSAValue, clamp: bool = False
) -> Iterator[_Access]:
    """
    The pieces of a transfer. `clamp`: a row that does not exist is the last one that does, so that reading it
    needs no mask (one in the loop of a contraction costs 40 %).
    """
    exprs = op.permutation_map.data.results
    in_bounds = [bool(flag.value.data) for flag in op.in_bounds.data] if op.in_bounds is not None else []
    in_bounds += [False] * (len(exprs) - len(in_bounds))
    dims = [expr.position if isinstance(expr, AffineDimExpr) else None for expr in exprs]
    extents = memref_value.type.get_shape()  # pyright: ignore
    indices = list(op.indices)

    def extent(dim: int) -> SSAValue:
        if extents[dim] != DYNAMIC_INDEX:
            return u.index(extents[dim])
        return _dim(u, memref_value, dim)

    for row, offset, width in u.shape(type).places():
        at = list(indices)
        row_ok: SSAValue | None = None
        for c, dim, inside in zip(row, dims[:-1], in_bounds[:-1], strict=True):
            if dim is None:
                continue
            at[dim] = u.add(indices[dim], c)
            if inside or _surely_below(u, at[dim], extents[dim]):
                continue
            if clamp:
                at[dim] = _clamped(u, at[dim], memref_value, dim, extent(dim))
            else:
                row_ok = _both(u, row_ok, _below(u, at[dim], extent(dim)))
        last = dims[-1] if dims else None
        count: SSAValue | None = None
        if last is not None:
            at[last] = u.add(indices[last], offset)
            if not in_bounds[-1] and not _surely_below(u, u.add(at[last], 0), extents[last], width):
                place, size = at[last], extent(last)
                known, total = u.known(place), u.known(size)
                if known is not None and total is not None:
                    count = u.index(max(total - known, 0))
                else:
                    key = ("left", place, size)
                    count = u.shared(
                        key, lambda a=size, b=place: u.emit(arith.SubiOp, (a, b), INDEX, no_overflow())
                    )
        yield _Access(at, width, last, row_ok, count)


def _clamped(u: Unroller, index: SSAValue, memref_value: SSAValue, dim: int, extent: SSAValue) -> SSAValue:
    """`index`, or the last index of `dim`; 0 where the dim is empty."""
    last = u.shared(("last", memref_value, dim), lambda: _last_index(u, extent))
    return u.shared(("clamped", index, last), lambda: u.emit(arith.MinUIOp, (index, last), INDEX))


def _last_index(u: Unroller, extent: SSAValue) -> SSAValue:
    if (known := u.known(extent)) is not None:
        return u.index(max(known - 1, 0))
    less = u.emit(arith.SubiOp, (extent, u.index(1)), INDEX, no_overflow())
    return u.emit(arith.MaxSIOp, (less, u.index(0)), INDEX)


def _surely_below(u: Unroller, index: SSAValue, extent: int, width: int = 1) -> bool:
    known = u.known(index)
    return known is not None and extent != DYNAMIC_INDEX and known + width <= extent


def _dim(u: Unroller, memref_value: SSAValue, dim: int) -> SSAValue:
    """`memref.dim`, made where the memref is."""
    key = ("dim", memref_value, dim)
    found = u._shared.get(key)
    if found is not None:
        return found
    op = memref.DimOp.create(operands=(memref_value, u.index(dim)), result_types=(INDEX,))
    owner = memref_value.owner
    if isinstance(owner, Block):
        first = _after_constants(owner)
        owner.insert_op_before(op, first)
    else:
        assert owner.parent is not None, "the op is in a block"
        owner.parent.insert_op_after(op, owner)
    u._shared[key] = op.results[0]
    return op.results[0]


def _after_constants(block: Block) -> Operation:
    for op in block.ops:
        if op.name != "arith.constant":
            return op
    raise AssertionError("a block ends in a terminator")


def _conjoin_mask(u: Unroller, access: _Access, given: SSAValue | None) -> SSAValue | None:
    """The lanes that exist and that the op's own mask keeps; None: all of them."""
    mask: SSAValue | None = None
    if access.count is not None:
        mask = _lane_mask(u, _masked_count(u, access.row_ok, access.count), access.width)
    elif access.row_ok is not None:
        mask = u.splat(access.row_ok, access.width)
    return _both(u, mask, given)


def _given_masks(u: Unroller, op: Any, type: VectorType) -> list[SSAValue | None]:
    """The op's mask, piece by piece; its dims are the memref dims that the vector covers, in memref order."""
    count = u.shape(type).count()
    if op.mask is None:
        return [None] * count
    dims = [e.position if isinstance(e, AffineDimExpr) else None for e in op.permutation_map.data.results]
    covered = [dim for dim in dims if dim is not None]
    if covered != sorted(covered) or (dims and dims[-1] is None):
        raise unsupported(op, "has a mask under a permutation or a broadcast", "mask the result instead")
    mask_shape, masks = u.shape(op.mask.type), u.get(op.mask)
    found: list[SSAValue | None] = []
    for row, offset, _ in u.shape(type).places():
        place = [c for c, dim in zip((*row, offset), dims, strict=True) if dim is not None]
        found.append(masks[mask_shape.locate(place)[0]])
    return found


_LANE_MAPS: dict[tuple[int, int], AffineMapAttr] = {}


def _lane_map(rank: int, dim: int) -> AffineMapAttr:
    key = (rank, dim)
    if key not in _LANE_MAPS:
        _LANE_MAPS[key] = AffineMapAttr(AffineMap(rank, 0, (AffineDimExpr(dim),)))
    return _LANE_MAPS[key]


def _transfer_properties(op: Any, dim: int, rank: int, masked: bool) -> dict[str, Attribute]:
    segments = [1, rank, 1, int(masked)] if op.name == "vector.transfer_read" else [1, 1, rank, int(masked)]
    return {
        "permutation_map": _lane_map(rank, dim),
        "in_bounds": ArrayAttr([BoolAttr.from_bool(True)]),
        "operandSegmentSizes": DenseArrayBase.from_list(i32, segments),
    }


def _scalar_load(u: Unroller, memref_value: SSAValue, indices: list[SSAValue]) -> SSAValue:
    type: Any = memref_value.type
    return u.emit(memref.LoadOp, (memref_value, *indices), type.element_type, _PLAIN)


_PLAIN: dict[str, Attribute] = {"nontemporal": BoolAttr.from_bool(False)}


def transfer_read(u: Unroller, op: Any) -> None:
    source, result = op.source, op.results[0]
    type, memref_type = result.type, source.type
    strides = strides_of(memref_type)
    rank = len(strides)
    element = type.element_type
    pieces: Pieces = []
    loaded: dict[tuple[object, ...], SSAValue] = {}
    masks = _given_masks(u, op, type)
    padding, clamp = op.padding, False
    if isinstance(padding.owner, PoisonOp):
        padding, clamp = u.splat_constant(0, element, 1), op.mask is None
    for access, given in zip(_accesses(u, op, type, source, clamp), masks, strict=True):
        key = (tuple(access.indices), access.width, given)
        if key in loaded:
            pieces.append(loaded[key])
            continue
        if access.dim is None or access.width == 1:
            ok = _conjoin_mask(u, _Access(access.indices, 1, access.dim, access.row_ok, access.count), given)
            value = _scalar_read(u, op, source, access, ok, padding)
            value = u.splat(value, access.width)
        else:
            mask = _conjoin_mask(u, access, given)
            piece = VectorType(element, [access.width])
            if access.dim == rank - 1 and strides[access.dim] == 1:
                if mask is None:
                    value = u.emit(vector.LoadOp, (source, *access.indices), piece, _PLAIN)
                else:
                    other = u.splat(padding, access.width)
                    value = u.emit(vector.MaskedLoadOp, (source, *access.indices, mask, other), piece)
            else:
                operands = (source, *access.indices, padding, *(() if mask is None else (mask,)))
                properties = _transfer_properties(op, access.dim, rank, mask is not None)
                value = u.emit(vector.TransferReadOp, operands, piece, properties)
        loaded[key] = value
        pieces.append(value)
    u.replace(op, pieces)


def _scalar_read(
    u: Unroller, op: Any, source: SSAValue, access: _Access, ok: SSAValue | None, padding: SSAValue
) -> SSAValue:
    """One element, or the padding where it does not exist; no address is out of bounds."""
    if ok is None:
        return _scalar_load(u, source, access.indices)
    indices = list(access.indices)
    for expr in op.permutation_map.data.results:
        if isinstance(expr, AffineDimExpr) and u.known(indices[expr.position]) != 0:
            place = indices[expr.position]
            key = ("safe", ok, place)
            indices[expr.position] = u.shared(
                key, lambda p=place: u.emit(SelectOp, (ok, p, u.index(0)), INDEX)
            )
    value = _scalar_load(u, source, indices)
    return u.emit(SelectOp, (ok, value, padding), value.type)


def transfer_write(u: Unroller, op: Any) -> None:
    """
    A tail of one element is a scalar store: of a masked store of one lane that was truncated LLVM up to 22 writes the
    whole lane that was there before, past the element (llvm-project#179489).
    """
    source, type = op.source, op.vector.type
    strides = strides_of(source.type)
    rank = len(strides)
    pieces = u.get(op.vector)
    masks = _given_masks(u, op, type)
    for piece, access, given in zip(pieces, _accesses(u, op, type, source), masks, strict=True):
        if access.width > 1 and given is None and access.count is not None and u.known(access.count) == 1:
            _scalar_write(u, source, access.indices, u.extract(piece, 0), access.row_ok)
            continue
        mask = _conjoin_mask(u, access, given)
        if access.width == 1:
            _scalar_write(u, source, access.indices, piece, mask)
        elif access.dim is not None and access.dim == rank - 1 and strides[access.dim] == 1:
            if mask is None:
                u.emit(vector.StoreOp, (piece, source, *access.indices), None, _PLAIN)
            else:
                u.emit(vector.MaskedStoreOp, (source, *access.indices, mask, piece))
        else:
            assert access.dim is not None, "a write does not broadcast"
            operands = (piece, source, *access.indices, *(() if mask is None else (mask,)))
            properties = _transfer_properties(op, access.dim, rank, mask is not None)
            u.emit(vector.TransferWriteOp, operands, None, properties)
    u.dead.append(op)


def _scalar_write(u: Unroller, source: SSAValue, indices: list[SSAValue], value: SSAValue,
                  ok: SSAValue | None) -> None:  # fmt: skip
    if ok is None:
        u.emit(memref.StoreOp, (value, source, *indices), None, _PLAIN)
        return
    store = memref.StoreOp.create(operands=(value, source, *indices), properties=_PLAIN)
    guarded = scf.IfOp(ok, [], [store, scf.YieldOp()], None)
    assert u.at is not None, "ops are emitted in front of the op that is unrolled"
    u.replace_op(u.at, guarded)


def contiguous(kind: str) -> Handler:
    """`vector.load`, `vector.store`, n-D: piece by piece."""

    def unroll(u: Unroller, op: Any) -> None:
        if u.untouched(op):
            return
        is_load = kind == "load"
        base, first = (op.operands[0], 1) if is_load else (op.operands[1], 2)
        type = op.results[0].type if is_load else op.operands[0].type
        indices = list(op.operands[first:])
        rank, depth = len(indices), len(type.get_shape())
        pieces: Pieces = []
        values = [] if is_load else u.get(op.operands[0])
        for number, (row, offset, width) in enumerate(u.shape(type).places()):
            at = list(indices)
            for place, c in enumerate((*row, offset)[:depth]):
                at[rank - depth + place] = u.add(indices[rank - depth + place], c)
            if is_load and width == 1:
                pieces.append(_scalar_load(u, base, at))
            elif is_load:
                piece = VectorType(type.element_type, [width])
                pieces.append(u.emit(vector.LoadOp, (base, *at), piece, _PLAIN))
            elif width == 1:
                _scalar_write(u, base, at, values[number], None)
            else:
                u.emit(vector.StoreOp, (values[number], base, *at), None, _PLAIN)
        if is_load:
            u.replace(op, pieces)
        else:
            u.dead.append(op)

    return unroll
