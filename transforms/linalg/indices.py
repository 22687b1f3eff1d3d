"""Index arithmetic on extents that are Python ints where known: folds, and builds each op once a scope."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from xdsl.dialects import arith, tensor, vector
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, IntegerAttr, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.ub import PoisonOp
from xdsl.dialects.utils import get_dynamic_index_list
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)

from stepwell.dialects.scf import ForallOp

Extent = SSAValue | int
_INDEX = IndexType()
_Op = TypeVar("_Op", bound=Operation)


def constant_of(value: Extent) -> int | None:
    """The number that `value` is, if that is known."""
    if isinstance(value, int):
        return value
    if isinstance(value.owner, arith.ConstantOp) and isinstance(attr := value.owner.value, IntegerAttr):
        return attr.value.data
    return None


def bound_of(value: Extent) -> int | None:
    """A number that `value`, an extent, does not exceed, if one is known."""
    if (number := constant_of(value)) is not None:
        return number
    assert not isinstance(value, int), "a number is its own constant"
    if isinstance(op := value.owner, arith.MinUIOp | arith.MinSIOp):
        bounds = [b for operand in op.operands if (b := bound_of(operand)) is not None]
        return min(bounds, default=None)
    return None


class IndexBuilder:
    """
    Builds ops at the end of the current block, and constants at the head of the function.

    Everything is built once a scope: the same expression gives the same value, so that equal slices can be
    told by comparing values.
    """

    def __init__(self, entry: Block):
        self._entry = entry
        self._last_constant: Operation | None = None
        self._constants: dict[tuple[Attribute, object], SSAValue] = {}
        self._blocks: list[Block] = [entry]
        self._known: list[dict[tuple, SSAValue]] = [{}]
        self._added: list[Operation] = []
        for op in entry.ops:
            if not isinstance(op, arith.ConstantOp):
                break
            self._last_constant = op
            self._constants.setdefault((op.result.type, op.value), op.result)

    @property
    def block(self) -> Block:
        return self._blocks[-1]

    @contextmanager
    def inside(self, block: Block) -> Iterator[Block]:
        """Build into `block`; what is built outside of it stays known."""
        self._blocks.append(block)
        self._known.append({})
        try:
            yield block
        finally:
            self._blocks.pop()
            self._known.pop()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Take back every op that was added inside if an exception leaves it, also those in detached blocks."""
        start = len(self._added)
        try:
            yield
        except BaseException:
            for op in reversed(self._added[start:]):
                if op.parent is not None:  # else it went with the loop around it
                    op.detach()
                    op.erase(safe_erase=False)
            raise
        finally:
            del self._added[start:]

    def add(self, op: "_Op") -> "_Op":
        self.block.add_op(op)
        self._added.append(op)
        return op

    def attribute(self, value: Attribute, type: Attribute) -> SSAValue:
        """A constant, interned."""
        if (known := self._constants.get((type, value))) is None:
            # xDSL names four classes of values; which they are, `type` says here.
            op = arith.ConstantOp(value, type)  # pyright: ignore[reportArgumentType]
            if self._last_constant is not None:
                self._entry.insert_op_after(op, self._last_constant)
            elif self._entry.first_op is not None:
                self._entry.insert_op_before(op, self._entry.first_op)
            else:
                self._entry.add_op(op)
            self._last_constant = op
            known = self._constants[type, value] = op.result
        return known

    def poison(self, type: Attribute) -> SSAValue:
        """A value of which nothing that is kept depends, interned."""
        if (known := self._constants.get((type, PoisonOp))) is None:
            op = PoisonOp(type)
            self._entry.insert_op_before(op, first) if (
                first := self._entry.first_op
            ) else self._entry.add_op(op)
            known = self._constants[type, PoisonOp] = op.result
        return known

    def value(self, extent: Extent) -> SSAValue:
        """`extent` as an SSA value."""
        return self.attribute(IntegerAttr(extent, _INDEX), _INDEX) if isinstance(extent, int) else extent

    def values(self, extents: list[Extent]) -> list[SSAValue]:
        return [self.value(e) for e in extents]

    def _build(self, op: type[Operation], a: Extent, b: Extent) -> SSAValue:
        key = (op, a, b)
        for scope in self._known:
            if (known := scope.get(key)) is not None:
                return known
        built = self.add(op(self.value(a), self.value(b))).results[0]  # pyright: ignore[reportCallIssue]
        self._known[-1][key] = built
        return built

    def plus(self, a: Extent, b: Extent) -> Extent:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if isinstance(a, int):
            a, b = b, a
        return a if b == 0 and isinstance(b, int) else self._build(arith.AddiOp, a, b)

    def minus(self, a: Extent, b: Extent) -> Extent:
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        if isinstance(b, int):
            return self.plus(a, -b)
        return self._build(arith.SubiOp, a, b)

    def times(self, a: Extent, b: int) -> Extent:
        if isinstance(a, int):
            return a * b
        return a if b == 1 else 0 if b == 0 else self._build(arith.MuliOp, a, b)

    def least(self, a: Extent, b: Extent) -> Extent:
        """The smaller of two extents (they are never negative)."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self._build(arith.MinUIOp, a, b)

    def most(self, a: Extent, b: Extent) -> Extent:
        """The larger of two extents (they are never negative)."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        if b == 0 and isinstance(b, int):
            return a
        return self._build(arith.MaxUIOp, a, b)

    def quotient(self, a: Extent, b: int) -> Extent:
        if isinstance(a, int):
            return a // b
        return a if b == 1 else self._build(arith.DivUIOp, a, b)

    def remainder(self, a: Extent, b: int) -> Extent:
        if isinstance(a, int):
            return a % b
        return 0 if b == 1 else self._build(arith.RemUIOp, a, b)

    def expression(self, expr: AffineExpr, dims: list[Extent]) -> Extent:
        """`expr` at the non-negative point `dims`."""
        if isinstance(expr, AffineDimExpr):
            return dims[expr.position]
        if isinstance(expr, AffineConstantExpr):
            return expr.value
        assert isinstance(expr, AffineBinaryOpExpr), f"an indexing map without symbols, got {expr}"
        left = self.expression(expr.lhs, dims)
        if expr.kind == AffineBinaryOpKind.Add:
            return self.plus(left, self.expression(expr.rhs, dims))
        if not isinstance(right := expr.rhs, AffineConstantExpr):
            assert isinstance(expr.lhs, AffineConstantExpr), f"a product with a number, got {expr}"
            left, right = self.expression(expr.rhs, dims), expr.lhs
        if expr.kind == AffineBinaryOpKind.Mul:
            return self.times(left, right.value)
        if expr.kind == AffineBinaryOpKind.FloorDiv:
            return self.quotient(left, right.value)
        if expr.kind == AffineBinaryOpKind.Mod:
            return self.remainder(left, right.value)
        return self.quotient(self.plus(left, right.value - 1), right.value)

    def dim(self, value: SSAValue, axis: int) -> Extent:
        """The extent of `axis` of the tensor `value`: known, found at the value's origin, or a `tensor.dim`."""
        type = value.type
        assert isinstance(type, TensorType)
        if (static := type.get_shape()[axis]) != DYNAMIC_INDEX:
            return static
        if isinstance(value, OpResult):
            op = value.op
            if isinstance(op, tensor.EmptyOp):
                return op.dynamic_sizes[type.get_shape()[:axis].count(DYNAMIC_INDEX)]
            if isinstance(op, linalg.GenericOp | linalg.FillOp):
                return self.dim(op.outputs[value.index], axis)
            if isinstance(op, tensor.ExtractSliceOp) and len(op.static_sizes) == type.get_num_dims():
                return get_dynamic_index_list(op.static_sizes.get_values(), op.sizes, DYNAMIC_INDEX)[axis]
            if isinstance(op, tensor.CastOp):
                return self.dim(op.source, axis)
            if isinstance(op, vector.TransferWriteOp):
                return self.dim(op.source, axis)
            if isinstance(op, tensor.InsertOp):
                return self.dim(op.dest, axis)
            if hasattr(op, "iter_args"):
                return self.dim(op.iter_args[value.index], axis)  # pyright: ignore
        elif isinstance(value, BlockArgument) and isinstance(forall := value.block.parent_op(), ForallOp):
            return self.dim(forall.outputs[value.index - len(forall.static_step)], axis)
        key = (tensor.DimOp, value, axis)
        for scope in self._known:
            if (known := scope.get(key)) is not None:
                return known
        built = self.add(tensor.DimOp(value, self.value(axis))).result
        self._known[-1][key] = built
        return built


def linear(expr: AffineExpr) -> tuple[dict[int, int], int] | None:
    """The coefficient of each dim and the constant of a linear expression; None for any other."""
    if isinstance(expr, AffineDimExpr):
        return {expr.position: 1}, 0
    if isinstance(expr, AffineConstantExpr):
        return {}, expr.value
    if not isinstance(expr, AffineBinaryOpExpr):
        return None
    left, right = linear(expr.lhs), linear(expr.rhs)
    if left is None or right is None:
        return None
    if expr.kind == AffineBinaryOpKind.Add:
        sums = dict(left[0])
        for dim, factor in right[0].items():
            sums[dim] = sums.get(dim, 0) + factor
        return {d: f for d, f in sums.items() if f}, left[1] + right[1]
    if expr.kind == AffineBinaryOpKind.Mul:
        terms, number = (left, right[1]) if not right[0] else (right, left[1])
        if left[0] and right[0]:
            return None
        return {d: f * number for d, f in terms[0].items()}, terms[1] * number
    return None


def packed(expr: AffineExpr) -> tuple[AffineBinaryOpKind, int, int] | None:
    """`(kind, dim, width)` of `dim floordiv width` or `dim mod width`; None for any other expression."""
    if (
        isinstance(expr, AffineBinaryOpExpr)
        and expr.kind in (AffineBinaryOpKind.FloorDiv, AffineBinaryOpKind.Mod)
        and isinstance(expr.lhs, AffineDimExpr)
        and isinstance(expr.rhs, AffineConstantExpr)
    ):
        return expr.kind, expr.lhs.position, expr.rhs.value
    return None


@dataclass(frozen=True)
class Pairs:
    """How a factor of a sum lies in panels of pairs of steps: its last axes are `column mod width` and `step mod 2`."""

    column: int
    width: int
    step: int


def paired(map: AffineMap, reductions: Sequence[int]) -> Pairs | None:
    """How a factor that is read by `map` lies in pairs of steps of a sum over `reductions` (`pack-weights`); None for any other."""
    ends = [packed(e) for e in map.results[-2:]]
    if len(ends) < 2 or any(end is None or end[0] != AffineBinaryOpKind.Mod for end in ends):
        return None
    (_, column, width), (_, step, count) = (end for end in ends if end is not None)
    return (
        Pairs(column, width, step) if count == 2 and step in reductions and column not in reductions else None
    )


def domain_of(op: linalg.GenericOp, build: IndexBuilder) -> list[Extent] | None:
    """The extent of every iteration dim of `op`; None if an extent cannot be read off an operand."""
    extents: dict[int, Extent] = {}
    operands = [*zip(op.operands, (m.data for m in op.indexing_maps.data), strict=True)]
    found: dict[int, tuple[SSAValue, int]] = {}
    for operand, map in reversed(operands):
        if not isinstance(type := operand.type, TensorType):
            continue
        for axis, (expr, extent) in enumerate(zip(map.results, type.get_shape(), strict=True)):
            if not isinstance(expr, AffineDimExpr):
                continue
            if extent != DYNAMIC_INDEX:
                extents[expr.position] = extent
            else:
                found.setdefault(expr.position, (operand, axis))
    for dim, (operand, axis) in found.items():
        if dim not in extents:
            extents[dim] = build.dim(operand, axis)
    count = len(op.iterator_types)
    return [extents[d] for d in range(count)] if len(extents) == count else None
