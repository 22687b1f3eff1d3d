"""How a vector is cut into 1-D pieces of power-of-two widths, and the walk that replaces each by its pieces."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.dialects import arith, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    DenseArrayBase,
    FloatAttr,
    IndexType,
    IntAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    NoneAttr,
    StridedLayoutAttr,
    VectorType,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.dialects.ub import PoisonOp
from xdsl.ir import Attribute, Block, Operation, SSAValue

from stepwell.diagnostics import unsupported

INDEX = IndexType()

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
class PieceShape:
    """How a vector type is cut: `rows` over the leading dims, `cuts` = (offset, width) along the last."""

    leading: tuple[int, ...]
    lanes: int
    cuts: tuple[tuple[int, int], ...]

    @staticmethod
    def of(type: VectorType, limit: int) -> "PieceShape":
        shape = type.get_shape()
        lanes = shape[-1] if shape else 1
        offset, cuts = 0, []
        for width in widths(lanes, limit):
            cuts.append((offset, width))
            offset += width
        return PieceShape(tuple(shape[:-1]), lanes, tuple(cuts))

    def rows(self) -> Iterator[tuple[int, ...]]:
        return points(self.leading)

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


def points(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not shape:
        yield ()
        return
    for first in range(shape[0]):
        for rest in points(shape[1:]):
            yield (first, *rest)


def piece_type(element: Attribute, width: int) -> Attribute:
    return element if width == 1 else VectorType(element, [width])


def strides_of(type: MemRefType) -> list[int]:
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


Handler = Callable[["Unroller", Any], None]


class Unroller:
    """
    Rewrites one function in place; ops without vectors are left where they are. `handlers` unroll ops by name, or all
    those of a dialect that have none of their own, by the dialect's.
    """

    def __init__(self, limit: int, handlers: Mapping[str, Handler]):
        self.handlers = handlers
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
        return self.constant(IntegerAttr(value, INDEX))

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
            self._shared[key] = self.emit(arith.AddiOp, (value, self.index(amount)), INDEX, no_overflow())
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
            attr = FloatAttr(value, element) if not is_integer(element) else IntegerAttr(int(value), element)  # pyright: ignore
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

    def shape(self, type: VectorType) -> PieceShape:
        return PieceShape.of(type, self.limit)

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
            handler = self.handlers.get(op.name)
            if handler is None and self.untouched(op):
                for region in op.regions:
                    for inner in region.blocks:
                        self.block(inner)
                continue
            self.at = op
            if handler is None:
                handler = self.handlers.get(op.name.split(".")[0])
            if handler is None:
                raise unsupported(op, "has no unrolled form", "write it with transfers and arith")
            handler(self, op)

    def untouched(self, op: Operation) -> bool:
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


def _drop_args(u: Unroller, block: Block) -> None:
    """Erase the block arguments whose uses are gone."""
    for arg in list(block.args):
        if arg in u.pieces and not u.keeps(arg.type):
            block.erase_arg(arg, safe_erase=False)


def no_overflow() -> dict[str, Attribute]:
    return {"overflowFlags": arith.IntegerOverflowAttr("none")}


def is_integer(element: Attribute) -> bool:
    return isinstance(element, IntegerType | IndexType)
