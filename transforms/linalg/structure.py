"""What a `linalg.generic` computes, read off its maps and its body; shared by the passes of this folder."""

from collections.abc import Sequence

from xdsl.dialects import arith
from xdsl.dialects.builtin import AffineMapAttr, IndexType, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.attrs import IteratorType
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)

MULTIPLIES = (arith.MulfOp, arith.MuliOp, arith.AndIOp)
ADDS = (arith.AddfOp, arith.AddiOp, arith.OrIOp)


def maps_of(op: linalg.GenericOp) -> list[AffineMap]:
    """The indexing maps of `op`, inputs then outputs."""
    return [attr.data for attr in op.indexing_maps.data]


def output_map(op: linalg.GenericOp, result: int = 0) -> AffineMap:
    """The indexing map of the `result`-th output of `op`."""
    return op.indexing_maps.data[len(op.inputs) + result].data


def extents_of(op: linalg.GenericOp) -> dict[int, int]:
    """The extent of each iteration dim that an operand has as an axis."""
    return {
        expr.position: extent
        for operand, map in zip(op.operands, maps_of(op), strict=True)
        if isinstance(operand.type, TensorType)
        for extent, expr in zip(operand.type.get_shape(), map.results, strict=True)
        if isinstance(expr, AffineDimExpr)
    }


def parallel_dims(op: linalg.GenericOp) -> list[int]:
    """The iteration dims of `op` that are parallel."""
    return [i for i, t in enumerate(op.iterator_types.data) if t.data == IteratorType.PARALLEL]


def reduction_dims(op: linalg.GenericOp) -> list[int]:
    """The iteration dims of `op` that are reductions."""
    return [i for i, t in enumerate(op.iterator_types.data) if t.data != IteratorType.PARALLEL]


def is_elementwise(op: Operation) -> bool:
    """A generic without reductions that overwrites its one output: a pure function of its inputs."""
    return (
        isinstance(op, linalg.GenericOp)
        and len(op.results) == 1
        and not reduction_dims(op)
        and not any(op.body.block.args[len(op.inputs) + i].uses for i in range(len(op.outputs)))
    )


def element_bytes(value: SSAValue) -> int:
    """Bytes of one element of a tensor in memory."""
    assert isinstance(value.type, TensorType)
    return max(1, getattr(value.type.element_type, "bitwidth", 64) // 8)


def is_permutation(map: AffineMap) -> bool:
    """Each dim of the iteration space is exactly one result."""
    dims = [e.position for e in map.results if isinstance(e, AffineDimExpr)]
    return len(dims) == len(map.results) == map.num_dims and sorted(dims) == list(range(map.num_dims))


def is_identity(map: AffineMap) -> bool:
    """Result `i` is dim `i`."""
    return len(map.results) == map.num_dims and all(
        isinstance(e, AffineDimExpr) and e.position == i for i, e in enumerate(map.results)
    )


def substitute(map: AffineMap, dims: Sequence[AffineExpr], num_dims: int) -> AffineMap:
    """`map` with its dim `i` replaced by `dims[i]`, over `num_dims` dims."""
    return AffineMap(num_dims, 0, tuple(e.replace_dims_and_symbols(list(dims), []) for e in map.results))


def contraction_operands(op: Operation) -> tuple[int, int] | None:
    """
    The positions of the two factors of a contraction, a generic whose body is `acc + a * b` (in either
    order, integer or float, possibly behind widening casts); None for anything else.
    """
    if not isinstance(op, linalg.GenericOp) or len(op.outputs) != 1 or not reduction_dims(op):
        return None
    block = op.body.block
    accumulator = block.args[len(op.inputs)]
    total = block.last_op.operands[0].owner if block.last_op else None
    if not isinstance(total, ADDS):
        return None
    products = [v for v in total.operands if v is not accumulator]
    if len(products) != 1 or not isinstance(product := products[0].owner, MULTIPLIES):
        return None
    factors = [through_casts(v) for v in product.operands]
    if not all(isinstance(f, BlockArgument) and f.block is block for f in factors):
        return None
    a, b = (f.index for f in factors if isinstance(f, BlockArgument))
    if a >= len(op.inputs) or b >= len(op.inputs) or a == b:
        return None
    return a, b


def through_casts(value: SSAValue) -> SSAValue:
    """What `value` is widened from."""
    while isinstance(op := value.owner, arith.ExtSIOp | arith.ExtUIOp | arith.ExtFOp):
        value = op.operands[0]
    return value


def generic(
    inputs: Sequence[SSAValue],
    outputs: Sequence[SSAValue],
    maps: Sequence[AffineMap],
    like: linalg.GenericOp,
    body,
) -> linalg.GenericOp:
    """A generic over the iteration space of `like` with other operands, maps and (detached) body."""
    new = linalg.GenericOp(
        list(inputs),
        list(outputs),
        body,
        [AffineMapAttr(m) for m in maps],
        like.iterator_types,
        [o.type for o in outputs] if like.results else [],
        like.doc,
        like.library_call,
    )
    new.attributes.update(like.attributes)
    new.location = like.location
    for old, result in zip(like.results, new.results, strict=True):
        result.name_hint = old.name_hint
    return new


def constant_dim(expr: AffineExpr) -> int | None:
    """The value of a constant expression, else None."""
    return expr.value if isinstance(expr, AffineConstantExpr) else None


_INDEX_OPS = {
    AffineBinaryOpKind.Add: arith.AddiOp,
    AffineBinaryOpKind.Mul: arith.MuliOp,
    AffineBinaryOpKind.FloorDiv: arith.FloorDivSIOp,
    AffineBinaryOpKind.CeilDiv: arith.CeilDivSIOp,
    AffineBinaryOpKind.Mod: arith.RemUIOp,
}


def index_expression(expr: AffineExpr) -> tuple[list[Operation], SSAValue]:
    """The ops that compute `expr` over `linalg.index` values inside a body, and its value."""
    if isinstance(expr, AffineDimExpr):
        op: Operation = linalg.IndexOp(expr.position)
        return [op], op.results[0]
    if isinstance(expr, AffineConstantExpr):
        op = arith.ConstantOp.from_int_and_width(expr.value, IndexType())
        return [op], op.results[0]
    assert isinstance(expr, AffineBinaryOpExpr), f"an indexing map without symbols, got {expr}"
    left_ops, left = index_expression(expr.lhs)
    right_ops, right = index_expression(expr.rhs)
    op = _INDEX_OPS[expr.kind](left, right)
    return [*left_ops, *right_ops, op], op.results[0]
