"""Turn vectors of any rank, and transfers, into 1-D vectors of power-of-two widths and plain loads and stores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects import arith, vector
from xdsl.dialects import math as mathd
from xdsl.dialects.builtin import (
    DenseArrayBase,
    ModuleOp,
    VectorType,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from stepwell.diagnostics import unsupported
from stepwell.dialects.stepwell import TARGET_KEY, TargetAttr
from stepwell.transforms.vector.unroll_transfers import (
    constant_mask,
    contiguous,
    create_mask,
    transfer_read,
    transfer_write,
)
from stepwell.transforms.vector.unroller import (
    INDEX,
    Handler,
    Pieces,
    Unroller,
    is_integer,
    no_overflow,
    piece_type,
)

_DEFAULT_LANES = 64
"""Lanes of the widest vector where no target says otherwise: four registers of 16 floats."""
_REGISTERS_A_PANEL = 4


# --- structured control flow: a vector that is carried becomes its pieces ---------------------------


def _expand_args(u: Unroller, block: Block) -> None:
    for arg in list(block.args):
        if u.keeps(arg.type):
            continue
        type: Any = arg.type
        place = arg.index
        shape = u.shape(type)
        pieces: Pieces = []
        for number, (_, _, width) in enumerate(shape.places()):
            new = block.insert_arg(piece_type(type.element_type, width), place + number)
            pieces.append(new)
        u.pieces[arg] = pieces


def _flat(u: Unroller, values: Sequence[SSAValue]) -> list[SSAValue]:
    return [piece for value in values for piece in u.get(value)]


def _flat_types(u: Unroller, types: Sequence[Attribute]) -> list[Attribute]:
    found: list[Attribute] = []
    for type in types:
        if u.keeps(type):
            found.append(type)
        else:
            assert isinstance(type, VectorType), "what is cut is a vector"
            found += [piece_type(type.element_type, width) for _, _, width in u.shape(type).places()]
    return found


def _structured(u: Unroller, op: Operation) -> None:
    """`scf.for`, `scf.if`, `scf.while`: the same op on pieces, its regions unrolled in place."""
    types = [result.type for result in op.results]
    fixed = 3 if op.name == "scf.for" else 1 if op.name == "scf.if" else 0
    operands = [*op.operands[:fixed], *_flat(u, op.operands[fixed:])]
    regions = [op.detach_region(region) for region in list(op.regions)]
    new = type(op).create(
        operands=operands,
        result_types=_flat_types(u, types),
        properties=op.properties,
        attributes=op.attributes,
        regions=regions,
    )
    u.replace_op(op, new)
    done = 0
    for result in op.results:
        count = 1 if u.keeps(result.type) else u.shape(result.type).count()  # pyright: ignore
        pieces: list[SSAValue] = list(new.results[done : done + count])
        done += count
        if u.keeps(result.type):
            result.replace_all_uses_with(pieces[0])
        else:
            u.pieces[result] = pieces
    u.dead.append(op)
    for region in regions:
        for block in region.blocks:
            _expand_args(u, block)
            u.block(block)
            u.cut_blocks.append(block)


def _terminator(u: Unroller, op: Operation) -> None:
    """`scf.yield`, `scf.condition`: pass the pieces on."""
    if all(value not in u.pieces for value in op.operands):
        return
    fixed = 1 if op.name == "scf.condition" else 0
    op.operands = [*op.operands[:fixed], *_flat(u, op.operands[fixed:])]


# --- element-wise ----------------------------------------------------------------------------------


def _elementwise(u: Unroller, op: Operation) -> None:
    """The op on each piece; a scalar operand serves every piece."""
    if u.untouched(op):
        return
    (result,) = op.results
    type: Any = result.type
    assert isinstance(type, VectorType), "what is unrolled makes a vector"
    element = type.element_type
    operands = [u.get(value) if isinstance(value.type, VectorType) else None for value in op.operands]
    pieces: Pieces = []
    cls = op.__class__
    for number, (_, _, width) in enumerate(u.shape(type).places()):
        values = [old if cut is None else cut[number] for old, cut in zip(op.operands, operands, strict=True)]
        pieces.append(u.emit(cls, values, piece_type(element, width), op.properties))
    u.replace(op, pieces)


def _constant(u: Unroller, op: Any) -> None:
    type = op.results[0].type
    if u.keeps(type):
        return
    attr = op.properties["value"]
    values = list(attr.get_values())
    shape = u.shape(type)
    pieces: Pieces = []
    total = math.prod(type.get_shape())
    splat = len(values) == 1 or len(set(values)) == 1
    if splat:
        value = values[0]
        pieces = [u.splat_constant(value, type.element_type, width) for _, _, width in shape.places()]
    else:
        assert len(values) == total, "a dense attribute holds every element or one"
        strides = [math.prod(type.get_shape()[d + 1 :]) for d in range(len(type.get_shape()))]
        for row, offset, width in shape.places():
            start = sum(c * s for c, s in zip((*row, offset), strides, strict=True))
            part = values[start : start + width]
            if width == 1:
                pieces.append(u.splat_constant(part[0], type.element_type, 1))
            else:
                pieces.append(u.constant(DenseAttr.from_list(VectorType(type.element_type, [width]), part)))
    u.replace(op, pieces)


def _fma(u: Unroller, op: Operation) -> None:
    if u.untouched(op):
        return
    type: Any = op.results[0].type
    operands = [u.get(value) for value in op.operands]
    pieces: Pieces = []
    for number, (_, _, width) in enumerate(u.shape(type).places()):
        values = [cut[number] for cut in operands]
        if width == 1:
            fast = {"fastmath": arith.FastMathFlagsAttr("none")}
            pieces.append(u.emit(mathd.FmaOp, values, type.element_type, fast))
        else:
            pieces.append(u.emit(vector.FMAOp, values, VectorType(type.element_type, [width])))
    u.replace(op, pieces)


# --- shapes ----------------------------------------------------------------------------------------


def _broadcast(u: Unroller, op: Any) -> None:
    source, type = op.operands[0], op.results[0].type
    if u.untouched(op) and not isinstance(source.type, VectorType):
        return
    shape = u.shape(type)
    if not isinstance(source.type, VectorType):
        u.replace(op, [u.splat(source, width) for _, _, width in shape.places()])
        return
    old = u.get(source)
    old_shape, old_dims = u.shape(source.type), list(source.type.get_shape())
    pieces: Pieces = []
    for row, offset, width in shape.places():
        full = (*row, offset)[len(type.get_shape()) - len(old_dims) :]
        at = [0 if size == 1 else c for size, c in zip(old_dims, full, strict=True)]
        number, lane = old_shape.locate(at)
        stretched = not old_dims or old_dims[-1] == 1
        pieces.append(u.splat(u.extract(old[number], lane), width) if stretched else old[number])
    u.replace(op, pieces)


def _gather_lanes(u: Unroller, op: Any, where: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    """A result whose element at `c` is the element at `where(c)` of the first operand."""
    u.replace(op, _gathered(u, op, op.results[0].type, where))


def _gathered(u: Unroller, op: Any, type: Any, where: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Pieces:
    """The pieces of a vector of `type` whose element at `c` is the element at `where(c)` of the first operand of `op`."""
    source = op.operands[0]
    old, old_shape = u.get(source), u.shape(source.type)
    pieces: Pieces = []
    for row, offset, width in u.shape(type).places():
        lanes = []
        for lane in range(width):
            coordinates = (*row, offset + lane) if type.get_shape() else ()
            number, at = old_shape.locate(where(coordinates))
            lanes.append((old[number], at))
        pieces.append(u.assemble(lanes, type.element_type))
    return pieces


def _deinterleave(u: Unroller, op: Any) -> None:
    halves = [
        _gathered(u, op, result.type, lambda c, odd=odd: (*c[:-1], 2 * c[-1] + odd))
        for odd, result in enumerate(op.results)
    ]
    u.replace(op, *halves)


def _shape_cast(u: Unroller, op: Any) -> None:
    source, target = op.operands[0].type.get_shape(), op.results[0].type.get_shape()

    def where(coordinates: tuple[int, ...]) -> tuple[int, ...]:
        flat = 0
        for size, c in zip(target, coordinates, strict=True):
            flat = flat * size + c
        found = []
        for size in reversed(source):
            found.append(flat % size)
            flat //= size
        return tuple(reversed(found))

    _gather_lanes(u, op, where)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _rejoined(u: Unroller, pieces: Pieces, have: int, want: int, element: Attribute) -> Pieces:
    """The same elements in order, in pieces of `want` lanes instead of `have`; both are powers of two."""
    if have > want:
        return [
            u.emit(
                vector.ShuffleOp,
                (piece, piece),
                VectorType(element, [want]),
                {"mask": DenseArrayBase.from_list(i64, list(range(start, start + want)))},
            )
            for piece in pieces
            for start in range(0, have, want)
        ]
    while have < want:
        mask = DenseArrayBase.from_list(i64, list(range(2 * have)))
        pieces = [
            u.emit(vector.ShuffleOp, pair, VectorType(element, [2 * have]), {"mask": mask})
            for pair in zip(pieces[::2], pieces[1::2], strict=True)
        ]
        have *= 2
    return pieces


def _turn_block(u: Unroller, op: Any) -> bool:
    """
    Transpose a block whose sides are powers of two by perfect shuffles.

    Interleaving the two halves of 2^n elements rotates the bits of every element's index by one: after
    log2(rows) times the row bits stand where the column bits stood.
    """
    type = op.vector.type
    rows, columns = type.get_shape()
    if not (_is_power_of_two(rows) and _is_power_of_two(columns)):
        return False
    if min(rows, columns) < 2 or max(rows, columns) > u.limit:
        return False
    limit = min(rows * columns // 2, max(rows, columns))
    element = type.element_type
    pieces = _rejoined(u, list(u.get(op.vector)), columns, limit, element)
    out = VectorType(element, [limit])
    masks = [
        DenseArrayBase.from_list(i64, [start + lane // 2 + (lane % 2) * limit for lane in range(limit)])
        for start in (0, limit // 2)
    ]
    for _ in range(rows.bit_length() - 1):
        half = len(pieces) // 2
        pieces = [
            u.emit(vector.ShuffleOp, pair, out, {"mask": mask})
            for pair in zip(pieces[:half], pieces[half:], strict=True)
            for mask in masks
        ]
    u.replace(op, _rejoined(u, pieces, limit, rows, element))
    return True


def _transpose(u: Unroller, op: Any) -> None:
    order = [int(v) for v in op.properties["permutation"].iter_values()]
    if order == [1, 0] and _turn_block(u, op):
        return

    def where(coordinates: tuple[int, ...]) -> tuple[int, ...]:
        found = [0] * len(order)
        for place, dim in enumerate(order):
            found[dim] = coordinates[place]
        return tuple(found)

    _gather_lanes(u, op, where)


def _extract_strided_slice(u: Unroller, op: Any) -> None:
    offsets = [int(v.value.data) for v in op.properties["offsets"].data]
    strides = [int(v.value.data) for v in op.properties["strides"].data]

    def where(coordinates: tuple[int, ...]) -> tuple[int, ...]:
        moved = [o + s * c for o, s, c in zip(offsets, strides, coordinates, strict=False)]
        return (*moved, *coordinates[len(moved) :])

    _gather_lanes(u, op, where)


def _insert_strided_slice(u: Unroller, op: Any) -> None:
    source, dest = op.operands
    offsets = [int(v.value.data) for v in op.properties["offsets"].data]
    steps = [int(v.value.data) for v in op.properties["strides"].data]
    inner = source.type.get_shape()
    lead = len(offsets) - len(inner)
    source_shape, dest_shape = u.shape(source.type), u.shape(dest.type)
    type = op.results[0].type
    pieces: Pieces = []
    for row, offset, width in dest_shape.places():
        lanes = []
        for lane in range(width):
            at = (*row, offset + lane)
            moved = [c - o for c, o in zip(at, offsets, strict=True)]
            steps_full = [1] * lead + steps
            inside = all(m == 0 for m in moved[:lead]) and all(
                m >= 0 and m % s == 0 and m // s < size
                for m, s, size in zip(moved[lead:], steps_full[lead:], inner, strict=True)
            )
            if inside:
                place = [m // s for m, s in zip(moved[lead:], steps_full[lead:], strict=True)]
                number, where = source_shape.locate(place)
                lanes.append((u.get(source)[number], where))
            else:
                number, where = dest_shape.locate(at)
                lanes.append((u.get(dest)[number], where))
        pieces.append(u.assemble(lanes, type.element_type))
    u.replace(op, pieces)


def _extract(u: Unroller, op: Any) -> None:
    source, result = op.operands[0], op.results[0]
    if u.untouched(op) and not isinstance(result.type, VectorType):
        return
    position = [int(v) for v in op.static_position.iter_values()]
    if len(op.operands) > 1:
        raise unsupported(op, "extracts at a position known only at run time", "use memory")
    shape, old = u.shape(source.type), u.get(source)
    inner = result.type.get_shape() if isinstance(result.type, VectorType) else ()
    if not inner:
        number, lane = shape.locate(position)
        u.replace(op, [u.extract(old[number], lane)])
        return
    start, _ = shape.locate([*position, *[0] * len(inner)])
    u.replace(op, old[start : start + u.shape(result.type).count()])


def _insert(u: Unroller, op: Any) -> None:
    source, dest = op.operands[0], op.operands[1]
    if u.untouched(op) and not isinstance(source.type, VectorType):
        return
    position = [int(v) for v in op.static_position.iter_values()]
    if len(op.operands) > 2:
        raise unsupported(op, "inserts at a position known only at run time", "use memory")
    shape, pieces = u.shape(dest.type), list(u.get(dest))
    inner = source.type.get_shape() if isinstance(source.type, VectorType) else ()
    if inner:
        start, _ = shape.locate([*position, *[0] * len(inner)])
        new = u.get(source)
        pieces[start : start + len(new)] = new
    else:
        number, lane = shape.locate(position)
        piece = pieces[number]
        if isinstance(piece.type, VectorType):
            place = {"static_position": DenseArrayBase.from_list(i64, [lane])}
            pieces[number] = u.emit(vector.InsertOp, (u.get(source)[0], piece), piece.type, place)
        else:
            pieces[number] = u.get(source)[0]
    u.replace(op, pieces)


def _from_elements(u: Unroller, op: Any) -> None:
    type = op.results[0].type
    scalars = list(op.operands)
    pieces: Pieces = []
    done = 0
    for _, _, width in u.shape(type).places():
        pieces.append(u.assemble([(scalar, 0) for scalar in scalars[done : done + width]], type.element_type))
        done += width
    u.replace(op, pieces)


def _step(u: Unroller, op: Any) -> None:
    type = op.results[0].type
    if u.keeps(type):
        return
    pieces: Pieces = []
    for _, offset, width in u.shape(type).places():
        if width == 1:
            pieces.append(u.index(offset))
        else:
            lanes = list(range(offset, offset + width))
            pieces.append(u.constant(DenseAttr.from_list(VectorType(INDEX, [width]), lanes)))
    u.replace(op, pieces)


# --- reductions ------------------------------------------------------------------------------------

_FLOAT_KINDS = {
    "add": arith.AddfOp, "mul": arith.MulfOp, "minimumf": arith.MinimumfOp, "maximumf": arith.MaximumfOp,
    "minnumf": arith.MinnumfOp, "maxnumf": arith.MaxnumfOp,
}  # fmt: skip
_INTEGER_KINDS = {
    "add": arith.AddiOp, "mul": arith.MuliOp, "minsi": arith.MinSIOp, "maxsi": arith.MaxSIOp,
    "minui": arith.MinUIOp, "maxui": arith.MaxUIOp, "and": arith.AndIOp, "or": arith.OrIOp, "xor": arith.XOrIOp,
}  # fmt: skip


def _combine(u: Unroller, kind: str, a: SSAValue, b: SSAValue) -> SSAValue:
    element = a.type.element_type if isinstance(a.type, VectorType) else a.type
    if is_integer(element):
        properties = no_overflow() if kind in ("add", "mul") else {}
        return u.emit(_INTEGER_KINDS[kind], (a, b), a.type, properties)
    fast = {"fastmath": arith.FastMathFlagsAttr("none")}
    return u.emit(_FLOAT_KINDS[kind], (a, b), a.type, fast)


def _combine_all(u: Unroller, kind: str, values: list[SSAValue]) -> SSAValue:
    """A balanced tree, so that the chain is short; the order is fixed."""
    while len(values) > 1:
        paired = [_combine(u, kind, a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = paired + ([values[-1]] if len(values) % 2 else [])
    return values[0]


def _reduce_lanes(u: Unroller, kind: str, pieces: list[SSAValue]) -> SSAValue:
    """One scalar out of all lanes of pieces that differ only in their place along the last dim."""
    by_width: dict[Attribute, list[SSAValue]] = {}
    for piece in pieces:
        by_width.setdefault(piece.type, []).append(piece)
    scalars = []
    for type, group in by_width.items():
        value = _combine_all(u, kind, group)
        if isinstance(type, VectorType):
            properties: dict[str, Attribute] = {
                "kind": vector.CombiningKindAttr(vector.CombiningKindFlag(kind)),
                "fastmath": arith.FastMathFlagsAttr("none"),
            }
            value = u.emit(vector.ReductionOp, (value,), type.element_type, properties)
        scalars.append(value)
    return _combine_all(u, kind, scalars)


def _reduction(u: Unroller, op: Any) -> None:
    if u.untouched(op):
        return
    kind = str(op.kind.data.value)
    value = _reduce_lanes(u, kind, u.get(op.operands[0]))
    if len(op.operands) > 1:
        value = _combine(u, kind, value, op.operands[1])
    u.replace(op, [value])


def _multi_reduction(u: Unroller, op: Any) -> None:
    source, acc = op.operands
    kind = str(op.properties["kind"].data.value)
    dims = _dims(op.properties["reduction_dims"])
    shape, pieces = u.shape(source.type), u.get(source)
    rank = len(source.type.get_shape())
    groups: dict[tuple[int, ...], dict[int, list[SSAValue]]] = {}
    for number, (row, _, _) in enumerate(shape.places()):
        key = tuple(c for d, c in enumerate(row) if d not in dims)
        groups.setdefault(key, {}).setdefault(number % len(shape.cuts), []).append(pieces[number])
    result = op.results[0]
    scalar_result = not isinstance(result.type, VectorType)
    old_acc = [acc] if scalar_result else u.get(acc)
    if rank - 1 not in dims:
        reduced = [_combine_all(u, kind, cut) for group in groups.values() for cut in group.values()]
        u.replace(op, [_combine(u, kind, a, b) for a, b in zip(reduced, old_acc, strict=True)])
        return
    scalars = []
    for group in groups.values():
        cuts = [_combine_all(u, kind, cut) for cut in group.values()]
        scalars.append(_reduce_lanes(u, kind, cuts))
    if scalar_result:
        u.replace(op, [_combine(u, kind, scalars[0], acc)])
        return
    new: Pieces = []
    done = 0
    for _, _, width in u.shape(result.type).places():
        lanes = [(scalar, 0) for scalar in scalars[done : done + width]]
        new.append(u.assemble(lanes, result.type.element_type))
        done += width
    u.replace(op, [_combine(u, kind, a, b) for a, b in zip(new, old_acc, strict=True)])


def _dims(attr: Any) -> list[int]:
    if isinstance(attr, DenseArrayBase):
        return [int(v) for v in attr.get_values()]
    return [int(entry.value.data) for entry in attr.data]


_HANDLERS: dict[str, Handler] = {
    "arith": _elementwise,
    "math": _elementwise,
    "scf.for": _structured,
    "scf.if": _structured,
    "scf.while": _structured,
    "scf.yield": _terminator,
    "scf.condition": _terminator,
    "arith.constant": _constant,
    "vector.fma": _fma,
    "vector.broadcast": _broadcast,
    "vector.splat": _broadcast,
    "vector.shape_cast": _shape_cast,
    "vector.deinterleave": _deinterleave,
    "vector.transpose": _transpose,
    "vector.extract_strided_slice": _extract_strided_slice,
    "vector.insert_strided_slice": _insert_strided_slice,
    "vector.extract": _extract,
    "vector.insert": _insert,
    "vector.from_elements": _from_elements,
    "vector.step": _step,
    "vector.create_mask": create_mask,
    "vector.constant_mask": constant_mask,
    "vector.reduction": _reduction,
    "vector.multi_reduction": _multi_reduction,
    "vector.transfer_read": transfer_read,
    "vector.transfer_write": transfer_write,
    "vector.load": contiguous("load"),
    "vector.store": contiguous("store"),
}


@dataclass(frozen=True)
class UnrollVectorsPass(ModulePass):
    """
    Cut vectors into 1-D pieces of a power of two lanes, at most `lanes`; transfers into loads and stores.
    Requires: memref level. Ensures: vectors are 1-D; the transfers left are in bounds, 1-D and strided.
    """

    name = "unroll-vectors"
    lanes: int | None = None
    """Lanes of the widest vector; by default four registers of f32 on the module's target."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        limit = self.lanes
        if limit is None:
            attr = op.attributes.get(TARGET_KEY)
            limit = _DEFAULT_LANES
            if isinstance(attr, TargetAttr):
                limit = _REGISTERS_A_PANEL * attr.target().lanes(4)
        for func in list(op.ops):
            if func.name == "func.func":
                Unroller(limit, _HANDLERS).run(func)
