"""Control flow: `graph.if` is `scf.if`, `graph.loop` is `scf.while`, on the tensors they carry."""

from typing import Any

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, TensorType, i1
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, lowered_type, lowers


def _branch(low: Lowering, region: Region, types: list[Any]) -> Region:
    """A branch's ops, ended by `scf.yield`."""
    block = Block()
    old = region.block
    with low.inside(block):
        values = _body(low, old)
        low.add(scf.YieldOp(*(_as(low, v, t) for v, t in zip(values, types, strict=True))))
    return Region(block)


def _as(low: Lowering, value: SSAValue, type: Any) -> SSAValue:
    """`value` with another static knowledge of its shape."""
    return value if value.type == type else low.value(tensor.CastOp(value, type))


def _body(low: Lowering, old: Block) -> list[SSAValue]:
    """Lower a block but its terminator; the new values that the terminator hands on."""
    last = old.last_op
    for inner in old.ops:
        if inner is not last:
            low.convert(inner)
    assert last is not None
    return [low[v] for v in last.operands]


def _scalar(low: Lowering, value: SSAValue) -> SSAValue:
    return low.extract(value, [0] * low.rank(value))


@lowers("if")
def _if(low: Lowering, op: Any) -> list[SSAValue]:
    condition = _scalar(low, low[op.operands[0]])
    types = [lowered_type(r.type) for r in op.results]
    then, otherwise = op.regions
    new = scf.IfOp(condition, types, _branch(low, then, types), _branch(low, otherwise, types))
    low.add(new)
    return list(new.results)


# The values carried keep a type that every iteration has: extents that the body changes are dynamic.
@lowers("loop")
def _loop(low: Lowering, op: Any) -> list[SSAValue]:
    from stepwell.diagnostics import unsupported

    limit, go, *_ = op.operand_list()
    start = [low[v] for v in op.operand_list()[2:]]
    old = op.regions[0].block
    count = len(start)
    if len(op.results) != count:
        raise unsupported(op, "it collects scan outputs", "unroll it, or use Scan")
    types = [
        _wider(lowered_type(a.type), lowered_type(r.type))
        for a, r in zip(old.args[2:], op.results, strict=True)
    ]
    start = [_as(low, v, t) for v, t in zip(start, types, strict=True)]
    upper = low.scalar_index(low[limit]) if limit is not None else None
    first = _scalar(low, low[go]) if go is not None else low.constant(True, i1)
    before = Block(arg_types=[INDEX, i1, *types])
    with low.inside(before):
        i, flag, *carried = before.args
        keep: SSAValue = flag
        if upper is not None:
            keep = low.value(arith.AndIOp(flag, low.value(arith.CmpiOp(i, upper, "slt"))))
        low.add(scf.ConditionOp(keep, i, *carried))
    after = Block(arg_types=[INDEX, *types])
    with low.inside(after):
        i, *carried = after.args
        number, flag_type = (lowered_type(a.type) for a in old.args[:2])
        assert isinstance(number, TensorType) and isinstance(flag_type, TensorType)
        wide = low.value(arith.IndexCastOp(i, number.element_type))
        low.bind(old.args[0], _tensor_of(low, wide, number))
        low.bind(old.args[1], _tensor_of(low, low.constant(True, i1), flag_type))
        for argument, value in zip(old.args[2:], carried, strict=True):
            low.bind(argument, value)
        again, *values = _body(low, old)
        following = low.value(arith.AddiOp(i, low.constant(1)))
        low.add(
            scf.YieldOp(
                following, _scalar(low, again), *(_as(low, v, t) for v, t in zip(values, types, strict=True))
            )
        )
    loop = scf.WhileOp([low.constant(0), first, *start], [INDEX, *types], Region(before), Region(after))
    low.add(loop)
    return list(loop.results[1:])


def _tensor_of(low: Lowering, scalar: SSAValue, type: TensorType) -> SSAValue:
    return low.value(tensor.FromElementsOp.build(operands=[[scalar]], result_types=[type]))


def _wider(a: Any, b: Any) -> Any:
    """The type that knows of two shapes what both agree on."""
    assert isinstance(a, TensorType) and isinstance(b, TensorType)
    shape = [x if x == y else DYNAMIC_INDEX for x, y in zip(a.get_shape(), b.get_shape(), strict=True)]
    return TensorType(a.element_type, shape)
