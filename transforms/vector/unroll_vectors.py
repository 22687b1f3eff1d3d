"""Turn vectors of any rank, and transfers, into 1-D vectors of power-of-two widths and plain loads and stores."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects import arith, memref, scf, vector
from xdsl.dialects import math as mathd
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    ArrayAttr,
    BoolAttr,
    DenseArrayBase,
    FloatAttr,
    IndexType,
    IntAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    NoneAttr,
    StridedLayoutAttr,
    VectorType,
    i1,
    i32,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.dialects.ub import PoisonOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap
from xdsl.passes import ModulePass

from stepwell.diagnostics import unsupported
from stepwell.dialects.arith import CmpiOp, SelectOp
from stepwell.dialects.stepwell import TARGET_KEY, TargetAttr

_INDEX = IndexType()
_DEFAULT_LANES = 64
"""Lanes of the widest vector where no target says otherwise: four registers of 16 floats."""
_REGISTERS_A_PANEL = 4

Pieces = list[SSAValue]
"""A vector in row-major order of its leading dims, each row cut into power-of-two pieces; one lane is a scalar."""


def widths(lanes: int, limit: int) -> list[int]:
    """Powers of two, falling, that add up to `lanes`, none above `limit`."""
    found = [limit] * (lanes // limit)
    rest = lanes % limit
    while rest:
        width = 1 << (rest.bit_length() - 1)
        found.append(width)
        rest -= width
    return found


@dataclass(frozen=True)
class _Shape:
    """How a vector type is cut: `rows` over the leading dims, `cuts` = (offset, width) along the last."""

    leading: tuple[int, ...]
    lanes: int
    cuts: tuple[tuple[int, int], ...]

    @staticmethod
    def of(type: VectorType, limit: int) -> "_Shape":
        shape = type.get_shape()
        lanes = shape[-1] if shape else 1
        offset, cuts = 0, []
        for width in widths(lanes, limit):
            cuts.append((offset, width))
            offset += width
        return _Shape(tuple(shape[:-1]), lanes, tuple(cuts))

    def rows(self) -> Iterator[tuple[int, ...]]:
        return _points(self.leading)

    def places(self) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Each piece: its leading coordinates, its first lane, its width."""
        for row in self.rows():
            for offset, width in self.cuts:
                yield row, offset, width

    def count(self) -> int:
        return math.prod(self.leading) * len(self.cuts)

    def locate(self, coordinates: Sequence[int]) -> tuple[int, int]:
        """The piece that holds an element, and its lane there."""
        row = 0
        for size, coordinate in zip(self.leading, coordinates[:-1], strict=True):
            row = row * size + coordinate
        lane = coordinates[-1] if coordinates else 0
        for number, (offset, width) in enumerate(self.cuts):
            if offset <= lane < offset + width:
                return row * len(self.cuts) + number, lane - offset
        raise AssertionError("the cuts cover every lane")


def _points(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not shape:
        yield ()
        return
    for first in range(shape[0]):
        for rest in _points(shape[1:]):
            yield (first, *rest)


def _piece_type(element: Attribute, width: int) -> Attribute:
    return element if width == 1 else VectorType(element, [width])


def _strides(type: MemRefType) -> list[int]:
    """Strides of a memref; -1 where they are not known."""
    if isinstance(type.layout, StridedLayoutAttr):
        return [stride.data if isinstance(stride, IntAttr) else -1 for stride in type.layout.strides]
    if not isinstance(type.layout, NoneAttr):
        return [-1] * len(type.get_shape())
    found, stride = [], 1
    for size in reversed(type.get_shape()):
        found.append(stride)
        stride = -1 if size == DYNAMIC_INDEX or stride == -1 else stride * size
    return list(reversed(found))


class _Unroller:
    """Rewrites one function in place; ops without vectors are left where they are."""

    def __init__(self, limit: int):
        self.limit = limit
        self.pieces: dict[SSAValue, Pieces] = {}
        self.dead: list[Operation] = []
        self.at: Operation | None = None
        self.entry: Block | None = None
        self.cut_blocks: list[Block] = []
        """Blocks of whose arguments some are cut and wait to be erased."""
        self._constants: dict[Attribute, SSAValue] = {}
        self._shared: dict[object, SSAValue] = {}
        self._known: dict[SSAValue, int] = {}

    # --- emitting ---------------------------------------------------------------------------------

    def emit(self, cls: type[Operation], operands: Sequence[SSAValue], type: Attribute | None = None,
             properties: Mapping[str, Attribute] | None = None) -> SSAValue:  # fmt: skip
        assert self.at is not None, "ops are emitted in front of the op that is unrolled"
        op = cls.create(
            operands=operands,
            result_types=() if type is None else (type,),
            properties=properties or {},
            location=self.at.location,
        )
        assert self.at.parent is not None, "the op is in a block"
        self.at.parent.insert_op_before(op, self.at)
        return op.results[0] if type is not None else None  # pyright: ignore

    def constant(self, attr: Attribute) -> SSAValue:
        """`arith.constant` in the entry block, one a function."""
        found = self._constants.get(attr)
        if found is None:
            type = attr.type if isinstance(attr, IntegerAttr | FloatAttr) else attr.get_type()  # pyright: ignore
            op = arith.ConstantOp.create(properties={"value": attr}, result_types=(type,))
            assert self.entry is not None, "constants stand in the entry block"
            first = self.entry.first_op
            assert first is not None, "a function has a terminator"
            self.entry.insert_op_before(op, first)
            found = self._constants[attr] = op.results[0]
            if isinstance(attr, IntegerAttr) and isinstance(attr.type, IndexType):
                self._known[found] = attr.value.data
        return found

    def index(self, value: int) -> SSAValue:
        return self.constant(IntegerAttr(value, _INDEX))

    def known(self, value: SSAValue) -> int | None:
        """The value of an index constant."""
        if value in self._known:
            return self._known[value]
        owner = value.owner
        if isinstance(owner, Operation) and owner.name == "arith.constant":
            attr = owner.properties["value"]
            if isinstance(attr, IntegerAttr):
                self._known[value] = attr.value.data
                return attr.value.data
        return None

    def add(self, value: SSAValue, amount: int) -> SSAValue:
        """`value + amount`, shared inside a block."""
        if amount == 0:
            return value
        if (known := self.known(value)) is not None:
            return self.index(known + amount)
        assert self.at is not None, "ops are emitted in front of the op that is unrolled"
        key = ("add", value, amount, self.at.parent)
        if key not in self._shared:
            self._shared[key] = self.emit(arith.AddiOp, (value, self.index(amount)), _INDEX, _no_overflow())
        return self._shared[key]

    def shared(self, key: tuple[object, ...], make: Callable[[], SSAValue]) -> SSAValue:
        """One value a block for `key`."""
        assert self.at is not None, "ops are emitted in front of the op that is unrolled"
        full = (*key, self.at.parent)
        if full not in self._shared:
            self._shared[full] = make()
        return self._shared[full]

    def splat(self, value: SSAValue, width: int) -> SSAValue:
        if width == 1:
            return value
        owner = value.owner
        if isinstance(owner, Operation) and owner.name == "arith.constant":
            attr = owner.properties["value"]
            if isinstance(attr, IntegerAttr | FloatAttr):
                return self.splat_constant(attr.value.data, value.type, width)
        type = VectorType(value.type, [width])
        return self.shared(("splat", value, width), lambda: self.emit(vector.BroadcastOp, (value,), type))

    def splat_constant(self, value: int | float, element: Attribute, width: int) -> SSAValue:
        if width == 1:
            attr = FloatAttr(value, element) if not _is_integer(element) else IntegerAttr(int(value), element)  # pyright: ignore
            return self.constant(attr)
        return self.constant(DenseAttr.from_list(VectorType(element, [width]), [value]))  # pyright: ignore

    def extract(self, piece: SSAValue, lane: int) -> SSAValue:
        """One lane of a piece."""
        if not isinstance(type := piece.type, VectorType):
            return piece
        position = {"static_position": DenseArrayBase.from_list(i64, [lane])}
        return self.emit(vector.ExtractOp, (piece,), type.element_type, position)

    def assemble(self, lanes: list[tuple[SSAValue, int]], element: Attribute) -> SSAValue:
        """A piece out of single lanes of others: itself, one shuffle, or inserts."""
        width = len(lanes)
        sources = list(dict.fromkeys(piece for piece, _ in lanes))
        first = sources[0]
        if width == 1:
            return self.extract(*lanes[0])
        type = VectorType(element, [width])
        if len(sources) == 1 and isinstance(first.type, VectorType):
            places = [lane for _, lane in lanes]
            if first.type == type and places == list(range(width)):
                return first
            mask = {"mask": DenseArrayBase.from_list(i64, places)}
            return self.emit(vector.ShuffleOp, (first, first), type, mask)
        if len(sources) == 1:
            return self.splat(first, width)
        if len(sources) == 2 and isinstance(first.type, VectorType) and first.type == sources[1].type:
            size = first.type.get_shape()[0]
            places = [lane + (0 if piece is first else size) for piece, lane in lanes]
            mask = {"mask": DenseArrayBase.from_list(i64, places)}
            return self.emit(vector.ShuffleOp, (first, sources[1]), type, mask)
        result = self.splat(self.extract(*lanes[0]), width)
        for place, (piece, lane) in enumerate(lanes[1:], start=1):
            position = {"static_position": DenseArrayBase.from_list(i64, [place])}
            result = self.emit(vector.InsertOp, (self.extract(piece, lane), result), type, position)
        return result

    # --- the walk ---------------------------------------------------------------------------------

    def shape(self, type: VectorType) -> _Shape:
        return _Shape.of(type, self.limit)

    def keeps(self, type: Attribute) -> bool:
        """Whether a value of this type stays as it is."""
        if not isinstance(type, VectorType):
            return True
        shape = type.get_shape()
        return len(shape) == 1 and 1 < shape[0] <= self.limit and shape[0] & (shape[0] - 1) == 0

    def get(self, value: SSAValue) -> Pieces:
        found = self.pieces.get(value)
        return [value] if found is None else found

    def run(self, func: Operation) -> None:
        region = func.regions[0]
        if not region.blocks:
            return
        self.entry = region.blocks[0]
        self.block(self.entry)
        for op in reversed(self.dead):
            op.detach()
            op.erase(safe_erase=False)
        for block in self.cut_blocks:
            _drop_args(self, block)
        for op in [op for op in self.entry.ops if isinstance(op, PoisonOp) and not op.result.uses]:
            op.detach()
            op.erase()

    def block(self, block: Block) -> None:
        for op in list(block.ops):
            handler = _HANDLERS.get(op.name)
            if handler is None and self._untouched(op):
                for region in op.regions:
                    for inner in region.blocks:
                        self.block(inner)
                continue
            self.at = op
            if handler is None and op.name.split(".")[0] in ("arith", "math"):
                handler = _elementwise
            if handler is None:
                raise unsupported(op, "has no unrolled form", "write it with transfers and arith")
            handler(self, op)

    def _untouched(self, op: Operation) -> bool:
        return all(self.keeps(value.type) and value not in self.pieces for value in op.operands) and all(
            self.keeps(result.type) for result in op.results
        )

    def replace(self, op: Operation, *pieces: Pieces) -> None:
        """The results of `op` are now `pieces`; where the type stays, uses are redirected."""
        for result, new in zip(op.results, pieces, strict=True):
            if self.keeps(result.type):
                result.replace_all_uses_with(new[0])
            else:
                self.pieces[result] = new
        self.dead.append(op)

    def replace_op(self, op: Operation, new: Operation) -> None:
        assert op.parent is not None, "the op is in a block"
        op.parent.insert_op_before(new, op)
        new.location = op.location


def _no_overflow() -> dict[str, Attribute]:
    return {"overflowFlags": arith.IntegerOverflowAttr("none")}


def _is_integer(element: Attribute) -> bool:
    return isinstance(element, IntegerType | IndexType)


# --- structured control flow: a vector that is carried becomes its pieces ---------------------------


def _expand_args(u: _Unroller, block: Block) -> None:
    for arg in list(block.args):
        if u.keeps(arg.type):
            continue
        type: Any = arg.type
        place = arg.index
        shape = u.shape(type)
        pieces: Pieces = []
        for number, (_, _, width) in enumerate(shape.places()):
            new = block.insert_arg(_piece_type(type.element_type, width), place + number)
            pieces.append(new)
        u.pieces[arg] = pieces


def _drop_args(u: _Unroller, block: Block) -> None:
    """Erase the block arguments whose uses are gone."""
    for arg in list(block.args):
        if arg in u.pieces and not u.keeps(arg.type):
            block.erase_arg(arg, safe_erase=False)


def _flat(u: _Unroller, values: Sequence[SSAValue]) -> list[SSAValue]:
    return [piece for value in values for piece in u.get(value)]


def _flat_types(u: _Unroller, types: Sequence[Attribute]) -> list[Attribute]:
    found: list[Attribute] = []
    for type in types:
        if u.keeps(type):
            found.append(type)
        else:
            assert isinstance(type, VectorType), "what is cut is a vector"
            found += [_piece_type(type.element_type, width) for _, _, width in u.shape(type).places()]
    return found


def _structured(u: _Unroller, op: Operation) -> None:
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


def _terminator(u: _Unroller, op: Operation) -> None:
    """`scf.yield`, `scf.condition`: pass the pieces on."""
    if all(value not in u.pieces for value in op.operands):
        return
    fixed = 1 if op.name == "scf.condition" else 0
    op.operands = [*op.operands[:fixed], *_flat(u, op.operands[fixed:])]


# --- element-wise ----------------------------------------------------------------------------------


def _elementwise(u: _Unroller, op: Operation) -> None:
    """The op on each piece; a scalar operand serves every piece."""
    if u._untouched(op):
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
        pieces.append(u.emit(cls, values, _piece_type(element, width), op.properties))
    u.replace(op, pieces)


def _constant(u: _Unroller, op: Any) -> None:
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


def _fma(u: _Unroller, op: Operation) -> None:
    if u._untouched(op):
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


def _broadcast(u: _Unroller, op: Any) -> None:
    source, type = op.operands[0], op.results[0].type
    if u._untouched(op) and not isinstance(source.type, VectorType):
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


def _gather_lanes(u: _Unroller, op: Any, where: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    """A result whose element at `c` is the element at `where(c)` of the first operand."""
    source, type = op.operands[0], op.results[0].type
    old, old_shape = u.get(source), u.shape(source.type)
    pieces: Pieces = []
    for row, offset, width in u.shape(type).places():
        lanes = []
        for lane in range(width):
            coordinates = (*row, offset + lane) if type.get_shape() else ()
            number, at = old_shape.locate(where(coordinates))
            lanes.append((old[number], at))
        pieces.append(u.assemble(lanes, type.element_type))
    u.replace(op, pieces)


def _shape_cast(u: _Unroller, op: Any) -> None:
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


def _rejoined(u: _Unroller, pieces: Pieces, have: int, want: int, element: Attribute) -> Pieces:
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


def _turn_block(u: _Unroller, op: Any) -> bool:
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


def _transpose(u: _Unroller, op: Any) -> None:
    order = [int(v) for v in op.properties["permutation"].iter_values()]
    if order == [1, 0] and _turn_block(u, op):
        return

    def where(coordinates: tuple[int, ...]) -> tuple[int, ...]:
        found = [0] * len(order)
        for place, dim in enumerate(order):
            found[dim] = coordinates[place]
        return tuple(found)

    _gather_lanes(u, op, where)


def _extract_strided_slice(u: _Unroller, op: Any) -> None:
    offsets = [int(v.value.data) for v in op.properties["offsets"].data]
    strides = [int(v.value.data) for v in op.properties["strides"].data]

    def where(coordinates: tuple[int, ...]) -> tuple[int, ...]:
        moved = [o + s * c for o, s, c in zip(offsets, strides, coordinates, strict=False)]
        return (*moved, *coordinates[len(moved) :])

    _gather_lanes(u, op, where)


def _insert_strided_slice(u: _Unroller, op: Any) -> None:
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


def _extract(u: _Unroller, op: Any) -> None:
    source, result = op.operands[0], op.results[0]
    if u._untouched(op) and not isinstance(result.type, VectorType):
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


def _insert(u: _Unroller, op: Any) -> None:
    source, dest = op.operands[0], op.operands[1]
    if u._untouched(op) and not isinstance(source.type, VectorType):
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


def _from_elements(u: _Unroller, op: Any) -> None:
    type = op.results[0].type
    scalars = list(op.operands)
    pieces: Pieces = []
    done = 0
    for _, _, width in u.shape(type).places():
        pieces.append(u.assemble([(scalar, 0) for scalar in scalars[done : done + width]], type.element_type))
        done += width
    u.replace(op, pieces)


def _step(u: _Unroller, op: Any) -> None:
    type = op.results[0].type
    if u.keeps(type):
        return
    pieces: Pieces = []
    for _, offset, width in u.shape(type).places():
        if width == 1:
            pieces.append(u.index(offset))
        else:
            lanes = list(range(offset, offset + width))
            pieces.append(u.constant(DenseAttr.from_list(VectorType(_INDEX, [width]), lanes)))
    u.replace(op, pieces)


# --- masks -----------------------------------------------------------------------------------------


def _lane_mask(u: _Unroller, count: SSAValue, width: int) -> SSAValue:
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


def _both(u: _Unroller, a: SSAValue | None, b: SSAValue | None) -> SSAValue | None:
    """The conjunction of two conditions of one type, None being true."""
    if a is None or b is None:
        return b if a is None else a
    if a is b:
        return a
    return u.shared(("and", a, b), lambda: u.emit(arith.AndIOp, (a, b), a.type))


def _below(u: _Unroller, index: SSAValue, bound: SSAValue) -> SSAValue:
    predicate = {"predicate": IntegerAttr(2, i64)}  # slt
    return u.shared(("below", index, bound), lambda: u.emit(CmpiOp, (index, bound), i1, predicate))


def _masked_count(u: _Unroller, row_ok: SSAValue | None, count: SSAValue) -> SSAValue:
    """`row_ok ? count : 0`."""
    if row_ok is None:
        return count
    key = ("count", row_ok, count)
    return u.shared(key, lambda: u.emit(SelectOp, (row_ok, count, u.index(0)), _INDEX))


def _create_mask(u: _Unroller, op: Any) -> None:
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


def _constant_mask(u: _Unroller, op: Any) -> None:
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


# --- reductions ------------------------------------------------------------------------------------

_FLOAT_KINDS = {
    "add": arith.AddfOp, "mul": arith.MulfOp, "minimumf": arith.MinimumfOp, "maximumf": arith.MaximumfOp,
    "minnumf": arith.MinnumfOp, "maxnumf": arith.MaxnumfOp,
}  # fmt: skip
_INTEGER_KINDS = {
    "add": arith.AddiOp, "mul": arith.MuliOp, "minsi": arith.MinSIOp, "maxsi": arith.MaxSIOp,
    "minui": arith.MinUIOp, "maxui": arith.MaxUIOp, "and": arith.AndIOp, "or": arith.OrIOp, "xor": arith.XOrIOp,
}  # fmt: skip


def _combine(u: _Unroller, kind: str, a: SSAValue, b: SSAValue) -> SSAValue:
    element = a.type.element_type if isinstance(a.type, VectorType) else a.type
    if _is_integer(element):
        properties = _no_overflow() if kind in ("add", "mul") else {}
        return u.emit(_INTEGER_KINDS[kind], (a, b), a.type, properties)
    fast = {"fastmath": arith.FastMathFlagsAttr("none")}
    return u.emit(_FLOAT_KINDS[kind], (a, b), a.type, fast)


def _combine_all(u: _Unroller, kind: str, values: list[SSAValue]) -> SSAValue:
    """A balanced tree, so that the chain is short; the order is fixed."""
    while len(values) > 1:
        paired = [_combine(u, kind, a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = paired + ([values[-1]] if len(values) % 2 else [])
    return values[0]


def _reduce_lanes(u: _Unroller, kind: str, pieces: list[SSAValue]) -> SSAValue:
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


def _reduction(u: _Unroller, op: Any) -> None:
    if u._untouched(op):
        return
    kind = str(op.kind.data.value)
    value = _reduce_lanes(u, kind, u.get(op.operands[0]))
    if len(op.operands) > 1:
        value = _combine(u, kind, value, op.operands[1])
    u.replace(op, [value])


def _multi_reduction(u: _Unroller, op: Any) -> None:
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
    u: _Unroller, op: Any, type: VectorType, memref_value: SSAValue, clamp: bool = False
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
                        key, lambda a=size, b=place: u.emit(arith.SubiOp, (a, b), _INDEX, _no_overflow())
                    )
        yield _Access(at, width, last, row_ok, count)


def _clamped(u: _Unroller, index: SSAValue, memref_value: SSAValue, dim: int, extent: SSAValue) -> SSAValue:
    """`index`, or the last index of `dim`; 0 where the dim is empty."""
    last = u.shared(("last", memref_value, dim), lambda: _last_index(u, extent))
    return u.shared(("clamped", index, last), lambda: u.emit(arith.MinUIOp, (index, last), _INDEX))


def _last_index(u: _Unroller, extent: SSAValue) -> SSAValue:
    if (known := u.known(extent)) is not None:
        return u.index(max(known - 1, 0))
    less = u.emit(arith.SubiOp, (extent, u.index(1)), _INDEX, _no_overflow())
    return u.emit(arith.MaxSIOp, (less, u.index(0)), _INDEX)


def _surely_below(u: _Unroller, index: SSAValue, extent: int, width: int = 1) -> bool:
    known = u.known(index)
    return known is not None and extent != DYNAMIC_INDEX and known + width <= extent


def _dim(u: _Unroller, memref_value: SSAValue, dim: int) -> SSAValue:
    """`memref.dim`, made where the memref is."""
    key = ("dim", memref_value, dim)
    found = u._shared.get(key)
    if found is not None:
        return found
    op = memref.DimOp.create(operands=(memref_value, u.index(dim)), result_types=(_INDEX,))
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


def _conjoin_mask(u: _Unroller, access: _Access, given: SSAValue | None) -> SSAValue | None:
    """The lanes that exist and that the op's own mask keeps; None: all of them."""
    mask: SSAValue | None = None
    if access.count is not None:
        mask = _lane_mask(u, _masked_count(u, access.row_ok, access.count), access.width)
    elif access.row_ok is not None:
        mask = u.splat(access.row_ok, access.width)
    return _both(u, mask, given)


def _given_masks(u: _Unroller, op: Any, type: VectorType) -> list[SSAValue | None]:
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


def _scalar_load(u: _Unroller, memref_value: SSAValue, indices: list[SSAValue]) -> SSAValue:
    type: Any = memref_value.type
    return u.emit(memref.LoadOp, (memref_value, *indices), type.element_type, _PLAIN)


_PLAIN: dict[str, Attribute] = {"nontemporal": BoolAttr.from_bool(False)}


def _transfer_read(u: _Unroller, op: Any) -> None:
    source, result = op.source, op.results[0]
    type, memref_type = result.type, source.type
    strides = _strides(memref_type)
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
    u: _Unroller, op: Any, source: SSAValue, access: _Access, ok: SSAValue | None, padding: SSAValue
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
                key, lambda p=place: u.emit(SelectOp, (ok, p, u.index(0)), _INDEX)
            )
    value = _scalar_load(u, source, indices)
    return u.emit(SelectOp, (ok, value, padding), value.type)


def _transfer_write(u: _Unroller, op: Any) -> None:
    source, type = op.source, op.vector.type
    strides = _strides(source.type)
    rank = len(strides)
    pieces = u.get(op.vector)
    masks = _given_masks(u, op, type)
    for piece, access, given in zip(pieces, _accesses(u, op, type, source), masks, strict=True):
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


def _scalar_write(u: _Unroller, source: SSAValue, indices: list[SSAValue], value: SSAValue,
                  ok: SSAValue | None) -> None:  # fmt: skip
    if ok is None:
        u.emit(memref.StoreOp, (value, source, *indices), None, _PLAIN)
        return
    store = memref.StoreOp.create(operands=(value, source, *indices), properties=_PLAIN)
    guarded = scf.IfOp(ok, [], [store, scf.YieldOp()], None)
    assert u.at is not None, "ops are emitted in front of the op that is unrolled"
    u.replace_op(u.at, guarded)


def _contiguous(kind: str) -> Callable[[_Unroller, Any], None]:
    """`vector.load`, `vector.store`, n-D: piece by piece."""

    def unroll(u: _Unroller, op: Any) -> None:
        if u._untouched(op):
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


_HANDLERS: dict[str, Callable[[_Unroller, Any], None]] = {
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
    "vector.transpose": _transpose,
    "vector.extract_strided_slice": _extract_strided_slice,
    "vector.insert_strided_slice": _insert_strided_slice,
    "vector.extract": _extract,
    "vector.insert": _insert,
    "vector.from_elements": _from_elements,
    "vector.step": _step,
    "vector.create_mask": _create_mask,
    "vector.constant_mask": _constant_mask,
    "vector.reduction": _reduction,
    "vector.multi_reduction": _multi_reduction,
    "vector.transfer_read": _transfer_read,
    "vector.transfer_write": _transfer_write,
    "vector.load": _contiguous("load"),
    "vector.store": _contiguous("store"),
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
                _Unroller(limit).run(func)
