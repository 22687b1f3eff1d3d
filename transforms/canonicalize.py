"""Fold constants and identities into the one form that other passes look for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xdsl.context import Context
from xdsl.dialects import affine, arith, memref, scf, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.traits import HasCanonicalizationPatternsTrait
from xdsl.transforms.canonicalization_patterns.scf import (
    IfPropagateConstantCondition,
    SimplifyTrivialLoops,
    SingleBlockExecuteInliner,
)

from stepwell.compat import matcher_of
from stepwell.rewriting import rewrite
from stepwell.transforms.dce import remove_dead_ops
from stepwell.transforms.rules.loading import load_rules

# Integers


def constant_integer(value: SSAValue) -> int | None:
    """The value of a scalar integer or index constant, as its bits read as a signed number."""
    owner = value.owner
    if isinstance(owner, arith.ConstantOp) and isinstance(attribute := owner.value, IntegerAttr):
        return attribute.value.data
    return None


def _width(kind: Attribute) -> int:
    return kind.width.data if isinstance(kind, IntegerType) else 64


def _signed(value: int, width: int) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> (width - 1) else value


def _unsigned(value: int, width: int) -> int:
    return value & ((1 << width) - 1)


def _truncated(a: int, b: int) -> int:
    """a / b rounded towards zero."""
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


# Division by zero and shifts by the width or more are left alone: conversions give them a result.
_SIGNED: dict[type[Operation], Callable[[int, int], int | None]] = {
    arith.AddiOp: lambda a, b: a + b,
    arith.SubiOp: lambda a, b: a - b,
    arith.MuliOp: lambda a, b: a * b,
    arith.DivSIOp: lambda a, b: _truncated(a, b) if b else None,
    arith.FloorDivSIOp: lambda a, b: a // b if b else None,
    arith.CeilDivSIOp: lambda a, b: -(-a // b) if b else None,
    arith.RemSIOp: lambda a, b: a - b * _truncated(a, b) if b else None,
    arith.MinSIOp: min,
    arith.MaxSIOp: max,
    arith.AndIOp: lambda a, b: a & b,
    arith.OrIOp: lambda a, b: a | b,
    arith.XOrIOp: lambda a, b: a ^ b,
}
_UNSIGNED: dict[type[Operation], Callable[[int, int, int], int | None]] = {
    arith.DivUIOp: lambda a, b, width: a // b if b else None,
    arith.CeilDivUIOp: lambda a, b, width: -(-a // b) if b else None,
    arith.RemUIOp: lambda a, b, width: a % b if b else None,
    arith.MinUIOp: lambda a, b, width: min(a, b),
    arith.MaxUIOp: lambda a, b, width: max(a, b),
    arith.ShLIOp: lambda a, b, width: a << b if b < width else None,
    arith.ShRUIOp: lambda a, b, width: a >> b if b < width else None,
    arith.ShRSIOp: lambda a, b, width: _signed(a, width) >> b if b < width else None,
}
_COMMUTATIVE = (
    arith.AddiOp, arith.MuliOp, arith.AndIOp, arith.OrIOp, arith.XOrIOp,
    arith.MinSIOp, arith.MaxSIOp, arith.MinUIOp, arith.MaxUIOp,
)  # fmt: skip


def _constant(value: int, kind: Any) -> arith.ConstantOp:
    return arith.ConstantOp(IntegerAttr(_signed(value, _width(kind)), kind))


# op(c1, c2) == c ; c + x == x + c, so that rules look for constants on the right
class FoldIntegers(RewritePattern):
    op_class = (*_SIGNED, *_UNSIGNED)

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        lhs, rhs = op.operands
        kind = lhs.type
        if not isinstance(kind, IntegerType | IndexType):
            return
        a, b = constant_integer(lhs), constant_integer(rhs)
        if a is not None and b is not None:
            width = _width(kind)
            if type(op) in _UNSIGNED:
                folded = _UNSIGNED[type(op)](_unsigned(a, width), _unsigned(b, width), width)
            else:
                folded = _SIGNED[type(op)](_signed(a, width), _signed(b, width))
            if folded is not None:
                rewriter.replace(op, _constant(folded, kind))
        elif a is not None and isinstance(op, _COMMUTATIVE):
            rewriter.replace(op, type(op)(rhs, lhs))  # pyright: ignore[reportCallIssue]


# (x + c1) + c2 == x + (c1 + c2), for *, and, or, xor, min and max too: all of them associative
class GatherConstants(RewritePattern):
    op_class = _COMMUTATIVE

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        inner, kind = op.operands[0].owner, op.operands[0].type
        outer = constant_integer(op.operands[1])
        if type(inner) is not type(op) or outer is None or not isinstance(kind, IntegerType | IndexType):
            return
        assert isinstance(inner, Operation)
        first = constant_integer(inner.operands[1])
        if first is None or constant_integer(inner.operands[0]) is not None:
            return
        width = _width(kind)
        if type(op) in _UNSIGNED:
            folded = _UNSIGNED[type(op)](_unsigned(first, width), _unsigned(outer, width), width)
        else:
            folded = _SIGNED[type(op)](_signed(first, width), _signed(outer, width))
        assert folded is not None, "associative ops have a result everywhere"
        constant = _constant(folded, kind)
        rewriter.replace(op, [constant, type(op)(inner.operands[0], constant.result)])  # pyright: ignore


# cast(c) == c' ; index_cast(index_cast(x)) == x where the types agree and nothing was cut off
class FoldIntegerCasts(RewritePattern):
    op_class = (arith.IndexCastOp, arith.ExtUIOp, arith.ExtSIOp, arith.TruncIOp)

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        source, kind = op.operands[0], op.results[0].type
        if not isinstance(kind, IntegerType | IndexType):
            return
        value = constant_integer(source)
        if value is not None:
            width = _width(source.type)
            value = _unsigned(value, width) if isinstance(op, arith.ExtUIOp) else _signed(value, width)
            rewriter.replace(op, _constant(value, kind))
        elif isinstance(op, arith.IndexCastOp) and isinstance(inner := source.owner, arith.IndexCastOp):
            if inner.input.type == kind and _width(source.type) >= _width(kind):
                rewriter.replace(op, [], [inner.input])


# Sizes and shapes


def _static_extent(kind: Attribute, axis: int) -> int | None:
    if not isinstance(kind, TensorType | MemRefType):
        return None
    shape = kind.get_shape()
    return shape[axis] if 0 <= axis < len(shape) and shape[axis] != DYNAMIC_INDEX else None


# dim(x, i) == the extent in x's type, or else the value that x was made with
class FoldDim(RewritePattern):
    op_class = (tensor.DimOp, memref.DimOp)

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        source = op.operands[0]
        axis = constant_integer(op.operands[1])
        if axis is None:
            return
        if (extent := _static_extent(source.type, axis)) is not None:
            rewriter.replace(op, _constant(extent, IndexType()))
        elif (value := _extent_value(source, axis)) is not None:
            if isinstance(value, int):
                rewriter.replace(op, _constant(value, IndexType()))
            else:
                rewriter.replace(op, [], [value])
        elif (same := _same_extent(source, axis)) is not None:
            rewriter.replace(op, type(op)(same, op.operands[1]))  # pyright: ignore[reportCallIssue]


def _extent_value(value: SSAValue, axis: int) -> SSAValue | int | None:
    """The size operand that gave `value` its dynamic extent `axis`."""
    owner = value.owner
    if isinstance(owner, tensor.EmptyOp):
        return owner.dynamic_sizes[_dynamic_before(value, axis)]
    if isinstance(owner, memref.AllocOp | memref.AllocaOp):
        return owner.dynamic_sizes[_dynamic_before(value, axis)]
    if isinstance(owner, tensor.ExtractSliceOp) and _rank(owner.source) == _rank(owner.result):
        sizes = owner.static_sizes.get_values()
        if sizes[axis] != DYNAMIC_INDEX:
            return int(sizes[axis])
        return owner.sizes[sum(size == DYNAMIC_INDEX for size in sizes[:axis])]
    return None


def _same_extent(value: SSAValue, axis: int) -> SSAValue | None:
    """A value that has the same extent `axis` as `value`."""
    owner = value.owner
    if isinstance(owner, tensor.InsertSliceOp | tensor.InsertOp):
        return owner.dest
    if isinstance(owner, tensor.CastOp | memref.CastOp) and isinstance(
        owner.source.type, TensorType | MemRefType
    ):
        return owner.source
    if isinstance(owner, Operation) and owner.name in ("linalg.generic", "linalg.fill"):
        return owner.operands[len(owner.operands) - len(owner.results) + owner.results.index(value)]  # pyright: ignore
    return None


def _dynamic_before(value: SSAValue, axis: int) -> int:
    return sum(extent == DYNAMIC_INDEX for extent in value.type.get_shape()[:axis])  # pyright: ignore


def _rank(value: SSAValue) -> int:
    return len(value.type.get_shape())  # pyright: ignore[reportAttributeAccessIssue]


# a view of all of x == x ; cast(x) to its own type == x
class DropIdentityViews(RewritePattern):
    op_class = (
        tensor.CastOp,
        tensor.CollapseShapeOp,
        tensor.ExpandShapeOp,
        memref.CastOp,
        memref.CollapseShapeOp,
        memref.ExpandShapeOp,
    )

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        if op.operands[0].type == op.results[0].type:
            rewriter.replace(op, [], [op.operands[0]])


def _covers(op: tensor.ExtractSliceOp | tensor.InsertSliceOp, whole: SSAValue) -> bool:
    """Whether the slice is all of `whole`: offsets 0, strides 1, the static extents."""
    return (
        all(offset == 0 for offset in op.static_offsets.get_values())
        and all(stride == 1 for stride in op.static_strides.get_values())
        and tuple(op.static_sizes.get_values()) == tuple(whole.type.get_shape())  # pyright: ignore
        and DYNAMIC_INDEX not in op.static_sizes.get_values()
    )


# extract_slice(x)[0][extents][1] == x
class DropWholeExtracts(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.ExtractSliceOp, rewriter: PatternRewriter):
        if op.source.type == op.result.type and _covers(op, op.source):
            rewriter.replace(op, [], [op.source])


# insert_slice(x into y)[0][extents][1] == x
class DropWholeInserts(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.InsertSliceOp, rewriter: PatternRewriter):
        if op.source.type == op.result.type and _covers(op, op.dest):
            rewriter.replace(op, [], [op.source])


# cast(cast(x)) == cast(x) where the middle type knows less than both ends; == x where the ends agree
class ComposeCasts(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: tensor.CastOp, rewriter: PatternRewriter):
        inner = op.source.owner
        if not isinstance(inner, tensor.CastOp):
            return
        first, middle, last = inner.source.type, op.source.type, op.dest.type
        if first == last:
            rewriter.replace(op, [], [inner.source])
        elif _less_static(middle, first):
            rewriter.replace(op, tensor.CastOp(inner.source, last))  # pyright: ignore[reportArgumentType]


def _less_static(a: Attribute, b: Attribute) -> bool:
    """Whether tensor type `a` is `b` with some extents forgotten."""
    if not (isinstance(a, TensorType) and isinstance(b, TensorType)):
        return False
    return all(x in (y, DYNAMIC_INDEX) for x, y in zip(a.get_shape(), b.get_shape(), strict=True))


# expand(collapse(x)) == x and collapse(expand(x)) == x where the groups and the types agree
class CancelReshapes(RewritePattern):
    op_class = (tensor.ExpandShapeOp, tensor.CollapseShapeOp)

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        inner = op.operands[0].owner
        if (
            isinstance(inner, tensor.ExpandShapeOp | tensor.CollapseShapeOp)
            and type(inner) is not type(op)
            and inner.reassociation == op.properties["reassociation"]
            and inner.src.type == op.results[0].type
        ):
            rewriter.replace(op, [], [inner.src])


# apply(map)(c...) == c ; apply(x -> x)(y) == y
class FoldAffineApply(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: affine.ApplyOp, rewriter: PatternRewriter):
        values = [constant_integer(operand) for operand in op.mapOperands]
        mapping = op.map.data
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            try:
                (result,) = mapping.eval(known[: mapping.num_dims], known[mapping.num_dims :])
            except ZeroDivisionError:
                return
            rewriter.replace(op, _constant(result, IndexType()))
        elif mapping.num_dims == 1 and mapping.num_symbols == 0 and str(mapping.results[0]) == "d0":
            rewriter.replace(op, [], [op.mapOperands[0]])


_PATTERNS: tuple[RewritePattern, ...] = (
    FoldIntegers(),
    GatherConstants(),
    FoldIntegerCasts(),
    FoldDim(),
    DropIdentityViews(),
    DropWholeExtracts(),
    DropWholeInserts(),
    ComposeCasts(),
    CancelReshapes(),
    FoldAffineApply(),
    SimplifyTrivialLoops(),
    IfPropagateConstantCondition(),
    SingleBlockExecuteInliner(),
)

_OWN = (arith.SignlessIntegerBinaryOperation, arith.FloatingPointLikeBinaryOperation, scf.ForOp, scf.IfOp)
"""xDSL's forms of these are replaced: they overflow on f16, and give division by zero no meaning."""


class _Forms(RewritePattern):
    """The canonical forms that an op class carries: xDSL's, or those beside one of our dialects."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter):
        for name, match in _forms_of(type(op)):
            match(op, rewriter)
            if rewriter.has_done_action:
                rewriter.rule = name  # pyright: ignore[reportAttributeAccessIssue]
                return


@cache
def _forms_of(op_class: type[Operation]) -> Sequence[tuple[str, Callable[[Any, PatternRewriter], None]]]:
    found: list[tuple[str, Callable[[Any, PatternRewriter], None]]] = []
    for pattern in _PATTERNS:
        classes, match = matcher_of(pattern)
        if classes is None or issubclass(op_class, classes):
            found.append((type(pattern).__name__, match))
    traits = getattr(op_class, "traits", None)
    if traits is not None and not issubclass(op_class, _OWN):
        for trait in traits.traits:
            if isinstance(trait, HasCanonicalizationPatternsTrait):
                for pattern in trait.get_patterns(op_class):
                    found.append((type(pattern).__name__, matcher_of(pattern)[1]))
    return tuple(found)


_RULES = Path(__file__).with_name("canonicalize.pat")
"""Arithmetic that returns an operand or zero. Floats: only what is exact for every value, -0.0 and NaN included."""


def canonicalize(op: Operation, ctx: Context) -> bool:
    """Bring the ops nested in `op` into canonical form and drop dead ones; True if anything changed."""
    changed = remove_dead_ops(op)
    if rewrite(op, [*load_rules(_RULES, ctx).patterns(ctx), _Forms()]):
        remove_dead_ops(op)
        changed = True
    return changed


@dataclass(frozen=True)
class CanonicalizePass(ModulePass):
    """
    Fold integer constants and identities, sizes that are known, views of everything, loops and branches
    that are decided; then drop what is dead. Floats change only where the result is exact.
    Requires: verified IR. Ensures: no pattern of this pass applies, no dead op is left.
    """

    name = "canonicalize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        canonicalize(op, ctx)

    def apply_to_function(self, ctx: Context, function: FuncOp) -> None:
        canonicalize(function, ctx)
