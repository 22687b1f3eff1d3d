"""Merge element-wise generics into the generics that read them."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    AnyFloat,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Block, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from stepwell.remarks import applied, missed
from stepwell.rewriting import fuse_locations, may_rewrite, note_rewrite
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    generic,
    index_expression,
    is_elementwise,
    is_permutation,
    maps_of,
    output_map,
    reduction_dims,
    substitute,
)


@dataclass(frozen=True)
class FuseElementwisePass(ModulePass):
    """
    Merge element-wise generics into the generics that read them, and splat constants and fills into bodies.

    A producer is merged when its consumer reads each element of it exactly once and nothing else reads it, or
    when it costs nothing to repeat. Contractions take no producer: their inner loop would repeat it. Reductions take
    none with a loop in its body, which has the order of its own dims to run in.
    Requires: tensor stage. Ensures: no element-wise generic has a single reader that could hold it.
    """

    name = "fuse-elementwise"
    max_body_ops: int = 64
    """Ops in the body of a merged generic; keeps compile time linear in the length of a chain."""
    max_inputs: int = 12
    """Inputs of a merged generic; more streams than this thrash the L1 cache's ways."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for block in [b for inner in op.walk() for r in inner.regions for b in r.blocks]:
            if isinstance(block.parent_op(), linalg.GenericOp):
                continue
            for candidate in list(block.ops):
                if isinstance(candidate, linalg.GenericOp):
                    self._absorb_producers(candidate)

    def _absorb_producers(self, consumer: linalg.GenericOp) -> None:
        consumer = _drop_repeated_inputs(consumer)
        k = 0
        while k < len(consumer.inputs) and may_rewrite():
            value = consumer.inputs[k]
            if (scalar := _splat_value(value)) is not None and not _gives_extents(consumer, k):
                consumer = _inline_scalar(consumer, k, scalar)
                note_rewrite("inline_scalar", consumer.name, consumer.location)
            elif (obstacle := self._obstacle(consumer, k)) is None:
                consumer = _merge(consumer, k)
                applied(
                    consumer, "the producer of an operand is merged into one loop", ops=_body_size(consumer)
                )
                note_rewrite("merge_producer", consumer.name, consumer.location)
            else:
                if obstacle:
                    missed(consumer, f"operand {k} is not merged: {obstacle}")
                k += 1

    def _obstacle(self, consumer: linalg.GenericOp, k: int) -> str | None:
        """Why the producer of input `k` stays apart; empty where there is none to merge, None where it may be merged."""
        producer = consumer.inputs[k].owner
        if not (isinstance(producer, linalg.GenericOp) and is_elementwise(producer)):
            return ""
        if producer.parent is not consumer.parent or not is_permutation(output_map(producer)):
            return "it is made in another block, or its elements more than once"
        if contraction_operands(consumer) is not None:
            return "the inner loop of a contraction would repeat it"
        if reduction_dims(consumer) and any(inner.regions for inner in producer.body.block.ops):
            return "it has a loop of its own, and the reduction another order of dims"
        if _gives_extents(consumer, k) and not _reads_every_dim(producer):
            return "nothing else says how often the loop runs"
        if (inputs := len(consumer.inputs) - 1 + len(producer.inputs)) > self.max_inputs:
            return f"the loop would read {inputs} tensors, the limit is {self.max_inputs}"
        size = _body_size(producer) + _body_size(consumer)
        if size > self.max_body_ops:
            return f"the loop would have {size} ops, the limit is {self.max_body_ops}"
        users = {use.operation for use in producer.results[0].uses}
        if len(users) > 1:
            is_free = not producer.inputs and _body_size(producer) <= 2
            return None if is_free else f"{len(users)} ops read it, and each would compute it again"
        reads_once = all(
            is_permutation(m)
            for value, m in zip(consumer.inputs, maps_of(consumer), strict=False)
            if value is consumer.inputs[k]
        )
        return None if reads_once or not producer.inputs else "each of its elements is read more than once"


def _gives_extents(op: linalg.GenericOp, k: int) -> bool:
    """Whether the iterations of some dim are known from operand `k` alone."""
    maps = maps_of(op)
    others = {e for i, m in enumerate(maps) if i != k for e in m.results if isinstance(e, AffineDimExpr)}
    return any(isinstance(e, AffineDimExpr) and e not in others for e in maps[k].results)


def _reads_every_dim(op: linalg.GenericOp) -> bool:
    """Whether the inputs alone say how often each dim runs."""
    maps = maps_of(op)[: len(op.inputs)]
    known = {expr for m in maps for expr in m.results if isinstance(expr, AffineDimExpr)}
    return len(known) == output_map(op).num_dims


def _body_size(op: linalg.GenericOp) -> int:
    return len(op.body.block.ops) - 1


def _splat_value(value: SSAValue) -> SSAValue | FloatAttr | IntegerAttr | None:
    """The one element of a splat constant or of a `linalg.fill`, else None."""
    owner = value.owner
    if isinstance(owner, linalg.FillOp):
        return owner.inputs[0]
    if isinstance(owner, arith.ConstantOp) and isinstance(dense := owner.value, DenseIntOrFPElementsAttr):
        element, data = dense.get_element_type(), dense.data.data
        width = element.compile_time_size
        if data and data == data[:width] * (len(data) // width):
            if isinstance(element, AnyFloat):
                return FloatAttr(element.unpack(data[:width], 1)[0], element)
            assert isinstance(element, IntegerType | IndexType), f"no op computes on {element}"
            return IntegerAttr(element.unpack(data[:width], 1)[0], element)
    return None


def _inline_scalar(
    consumer: linalg.GenericOp, k: int, scalar: SSAValue | FloatAttr | IntegerAttr
) -> linalg.GenericOp:
    block = consumer.body.block
    argument = block.args[k]
    if argument.uses:
        if not isinstance(scalar, SSAValue):
            constant = arith.ConstantOp(scalar)
            _insert_first(block, constant)
            scalar = constant.result
        argument.replace_all_uses_with(scalar)
    return _rebuild(consumer, k, (), ())


def _insert_first(block: Block, op: Operation) -> None:
    Rewriter.insert_op(op, InsertPoint.at_start(block))


# generic_c(generic_p(x)) == generic_cp(x): p's dims are the indices at which c reads p's result
def _merge(consumer: linalg.GenericOp, k: int) -> linalg.GenericOp:
    producer = consumer.inputs[k].owner
    assert isinstance(producer, linalg.GenericOp)
    shared = len({use.operation for use in producer.results[0].uses}) > 1
    if shared or sum(v is consumer.inputs[k] for v in consumer.inputs) > 1:
        clone = producer.clone()
        Rewriter.insert_op(clone, InsertPoint.before(consumer))
        consumer.operands[k] = clone.results[0]
        producer = clone
    block, inner = consumer.body.block, producer.body.block
    read = maps_of(consumer)[k]
    dims: list[AffineExpr] = [AffineExpr.constant(0)] * output_map(producer).num_dims
    for expr, at in zip(output_map(producer).results, read.results, strict=True):
        assert isinstance(expr, AffineDimExpr)
        dims[expr.position] = at
    maps = [substitute(m, dims, read.num_dims) for m in maps_of(producer)[: len(producer.inputs)]]

    arguments = [
        block.insert_arg(arg.type, k + 1 + i) for i, arg in enumerate(inner.args[: len(producer.inputs)])
    ]
    for old, new in zip(inner.args, arguments, strict=False):
        old.replace_all_uses_with(new)
    terminator = inner.last_op
    assert isinstance(terminator, linalg.YieldOp)
    result = terminator.operands[0]
    terminator.detach()
    first = block.first_op
    assert first is not None
    for op in list(inner.ops):
        op.detach()
        block.insert_op_before(op, first)
        if isinstance(op, linalg.IndexOp):
            _reindex(op, dims[op.dim.value.data])
    block.args[k].replace_all_uses_with(result)
    terminator.erase()
    inputs = list(producer.inputs)
    merged = _rebuild(consumer, k, inputs, maps)
    merged.location = fuse_locations([producer.location, consumer.location])
    Rewriter.erase_op(producer)
    return _drop_repeated_inputs(merged)


def _reindex(op: linalg.IndexOp, expr: AffineExpr) -> None:
    """Replace `linalg.index` of the producer by the consumer's expression for that dim."""
    if isinstance(expr, AffineDimExpr):
        new = linalg.IndexOp(expr.position)
        Rewriter.replace_op(op, new)
        return
    ops, value = index_expression(expr)
    Rewriter.replace_op(op, ops, [value])


def _rebuild(
    consumer: linalg.GenericOp, k: int, inputs: list[SSAValue] | tuple[()], maps: list[AffineMap] | tuple[()]
) -> linalg.GenericOp:
    """`consumer` with input `k` (whose block argument is unused now) replaced by `inputs`."""
    old_maps = maps_of(consumer)
    block = consumer.body.block
    block.erase_arg(block.args[k])
    new = generic(
        [*consumer.inputs[:k], *inputs, *consumer.inputs[k + 1 :]],
        consumer.outputs,
        [*old_maps[:k], *maps, *old_maps[k + 1 :]],
        consumer,
        consumer.detach_region(consumer.body),
    )
    Rewriter.replace_op(consumer, new)
    return new


def _drop_repeated_inputs(op: linalg.GenericOp) -> linalg.GenericOp:
    """Read a value that enters twice through the same map only once."""
    seen: dict[tuple[SSAValue, AffineMap], int] = {}
    k = 0
    while k < len(op.inputs):
        key = (op.inputs[k], maps_of(op)[k])
        if (first := seen.setdefault(key, k)) != k:
            block = op.body.block
            block.args[k].replace_all_uses_with(block.args[first])
            op = _rebuild(op, k, (), ())
        else:
            k += 1
    return op
