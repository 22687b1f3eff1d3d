"""Compute an index again at another place, from what is known there."""

from xdsl.dialects import arith, memref
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, IntegerAttr, MemRefType
from xdsl.ir import Attribute, Operation, OpResult, SSAValue

_INDEX = IndexType()
_DIVISIONS = (
    arith.CeilDivSIOp,
    arith.CeilDivUIOp,
    arith.DivSIOp,
    arith.DivUIOp,
    arith.FloorDivSIOp,
    arith.RemSIOp,
    arith.RemUIOp,
)


class Recompute:
    """
    Copies of index computations in front of `place`, each made once. `known` maps values of the old
    place, such as arguments, to values of the new one.
    """

    def __init__(self, known: dict[SSAValue, SSAValue], place: Operation):
        self._known = dict(known)
        self._place = place
        self._made: dict[tuple[str, tuple[Attribute, ...], tuple[SSAValue, ...]], SSAValue] = {}

    def possible(self, value: SSAValue) -> bool:
        """Whether `value` follows from what is known by arithmetic and extents."""
        if value in self._known:
            return True
        if not isinstance(value, OpResult):
            return False
        op = value.op
        if isinstance(op, memref.DimOp):
            return op.source in self._known or (
                (extent := extent_of(op)) is not None and self.possible(extent)
            )
        if isinstance(op, _DIVISIONS) and op.parent is not self._place.parent and not _integer(op.rhs):
            return False  # a branch may keep the divisor from being 0
        return op.name.startswith("arith.") and all(self.possible(v) for v in op.operands)

    def __call__(self, value: SSAValue) -> SSAValue:
        """The copy of `value`, which must be `possible`."""
        if value in self._known:
            return self._known[value]
        assert isinstance(value, OpResult)
        op = value.op
        if isinstance(op, memref.DimOp) and op.source not in self._known:
            extent = extent_of(op)
            assert extent is not None
            result = self(extent)
        elif isinstance(op, memref.DimOp):
            source = self._known[op.source]
            axis = _integer(op.index)
            extent = None if axis is None else _known_extent(source, axis)
            if extent is not None:
                result = self.constant(extent) if isinstance(extent, int) else extent
            else:
                result = self._emit(memref.DimOp(source, self(op.index)))
        else:
            operands = [self(v) for v in op.operands]
            result = self._emit(op.clone(dict(zip(op.operands, operands, strict=True))), value.index)
        self._known[value] = result
        return result

    def constant(self, value: int) -> SSAValue:
        return self._emit(arith.ConstantOp(IntegerAttr(value, _INDEX)))

    def product(self, extents: list[SSAValue | int]) -> SSAValue | int:
        """The product of `extents`, an int where all are."""
        static, dynamic = 1, []
        for extent in extents:
            number = extent if isinstance(extent, int) else _integer(extent)
            if number is None:
                dynamic.append(extent)
            else:
                static *= number
        result: SSAValue | None = None
        for extent in dynamic:
            result = extent if result is None else self._emit(arith.MuliOp(result, extent))
        if result is None or static == 0:
            return static
        return result if static == 1 else self._emit(arith.MuliOp(result, self.constant(static)))

    def emit(self, op: Operation) -> SSAValue:
        """`op` at the place, or the equal one that already stands there."""
        return self._emit(op)

    def _emit(self, op: Operation, index: int = 0) -> SSAValue:
        attributes = (*op.properties.values(), *op.attributes.values())
        key = (op.name, attributes, tuple(op.operands))
        if key not in self._made:
            block = self._place.parent
            assert block is not None
            block.insert_op_before(op, self._place)
            self._made[key] = op.results[index]
        else:
            op.erase()
        return self._made[key]


def _integer(value: SSAValue) -> int | None:
    owner = value.owner
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return None


def extent_of(op: memref.DimOp) -> SSAValue | None:
    """The size operand that `op` reads back, where its buffer was allocated or viewed with one."""
    axis = _integer(op.index)
    extent = None if axis is None else _known_extent(op.source, axis)
    return extent if isinstance(extent, SSAValue) else None


def _known_extent(buffer: SSAValue, axis: int) -> SSAValue | int | None:
    type, source = buffer.type, buffer.owner
    assert isinstance(type, MemRefType)
    shape = type.get_shape()
    if shape[axis] != DYNAMIC_INDEX:
        return shape[axis]
    if not isinstance(source, memref.AllocOp | memref.AllocaOp | memref.ViewOp):
        return None
    position = sum(extent == DYNAMIC_INDEX for extent in shape[:axis])
    return (source.sizes if isinstance(source, memref.ViewOp) else source.dynamic_sizes)[position]


def upper_bound(value: SSAValue) -> int | None:
    """A constant that `value` never exceeds, where its form says one."""
    if (number := _integer(value)) is not None:
        return number
    owner = value.owner
    if isinstance(owner, arith.MinUIOp | arith.MinSIOp):
        bounds = [b for b in map(upper_bound, owner.operands) if b is not None]
        return min(bounds, default=None)
    if isinstance(owner, arith.AddiOp | arith.MaxSIOp | arith.MaxUIOp):
        left, right = map(upper_bound, owner.operands)
        if left is None or right is None:
            return None
        return left + right if isinstance(owner, arith.AddiOp) else max(left, right)
    if isinstance(owner, arith.SubiOp | arith.MuliOp):
        left, right = upper_bound(owner.lhs), _integer(owner.rhs)
        if left is None or right is None:
            return None
        if isinstance(owner, arith.SubiOp):
            return left - right
        return left * right if right >= 0 else None
    return None


def element_bytes(type: Attribute) -> int:
    """Bytes of one element in memory: `i1` and smaller integers take one, `index` eight."""
    if isinstance(type, IndexType):
        return 8
    width = getattr(type, "bitwidth", None)
    if width is None:
        width = type.width.data  # pyright: ignore
    return (width + 7) // 8
