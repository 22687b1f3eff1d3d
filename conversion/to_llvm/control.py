"""Structured control flow as blocks: a loop-carried value is a block argument."""

from typing import Any

from xdsl.dialects.builtin import VectorType
from xdsl.ir import Block

from stepwell.conversion.to_llvm.core import FunctionLowering, Handler

_ACCUMULATORS, _UNROLL = 4, 4
"""
An innermost loop that carries this many vectors is a contraction, and runs two steps at a time: on Sapphire
Rapids the loop's own three integer ops take 8 % of the slots of the two FMA ports (83 -> 91 % of peak).
"""


def _for(low: FunctionLowering, op: Any) -> None:
    old = op.body.block

    def body(induction, carried):
        low.define(old.args[0], induction)
        low.unflatten_all(old.args[1:], carried)
        low.lower_ops(old, until_terminator=True)
        assert old.last_op is not None, "a loop ends in scf.yield"
        return low.flatten_all(old.last_op.operands)

    bounds = (low.value(op.lb), low.value(op.ub), low.value(op.step))
    initial = low.flatten_all(op.iter_args)
    accumulators = sum(isinstance(value.type, VectorType) for value in initial)
    is_innermost = not any(inner.regions for inner in old.ops)
    unroll = _UNROLL if is_innermost and accumulators >= _ACCUMULATORS else 1
    results = low.loop(*bounds, initial, body, unroll)
    low.unflatten_all(op.results, results)


def _if(low: FunctionLowering, op: Any) -> None:
    has_else = bool(op.false_region.blocks)
    then, after = Block(), Block(arg_types=low.flat_types_all(op.results))
    other = Block() if has_else else after
    low.branch_if(low.value(op.cond), then, other)
    for block, region in ((then, op.true_region), (other, op.false_region)):
        if not region.blocks:
            continue
        low.start(block)
        low.push_scope()
        low.lower_ops(region.block, until_terminator=bool(op.results) or _ends_in_yield(region.block))
        yielded = region.block.last_op.operands if _ends_in_yield(region.block) else ()  # pyright: ignore
        low.branch(after, low.flatten_all(list(yielded)))
        low.pop_scope()
    low.start(after)
    low.unflatten_all(op.results, after.args)


def _ends_in_yield(block: Block) -> bool:
    return block.last_op is not None and block.last_op.name == "scf.yield"


def _while(low: FunctionLowering, op: Any) -> None:
    before, body = op.before_region.block, op.after_region.block
    condition, yielded = before.last_op, body.last_op
    header = Block(arg_types=low.flat_types_all(before.args))
    inside = Block(arg_types=low.flat_types_all(body.args))
    after = Block(arg_types=low.flat_types_all(op.results))
    low.branch(header, low.flatten_all(op.arguments))
    low.start(header)
    low.push_scope()
    low.unflatten_all(before.args, header.args)
    low.lower_ops(before, until_terminator=True)
    passed = low.flatten_all(condition.args)
    low.branch_if(low.value(condition.condition), inside, after, passed, passed)
    low.start(inside)
    low.unflatten_all(body.args, inside.args)
    low.lower_ops(body, until_terminator=True)
    low.branch(header, low.flatten_all(yielded.operands))
    low.pop_scope()
    low.start(after)
    low.unflatten_all(op.results, after.args)


def _index_switch(low: FunctionLowering, op: Any) -> None:
    after = Block(arg_types=low.flat_types_all(op.results))
    value = low.value(op.arg)
    cases = [int(case) for case in op.cases.get_values()]
    for case, region in zip([*cases, None], [*op.case_regions, op.default_region], strict=True):
        following = Block()
        if case is not None:
            inside = Block()
            low.branch_if(low.compare("eq", value, low.integer(case)), inside, following)
            low.start(inside)
        low.push_scope()
        low.lower_ops(region.block, until_terminator=True)
        assert region.block.last_op is not None, "a case ends in scf.yield"
        low.branch(after, low.flatten_all(region.block.last_op.operands))
        low.pop_scope()
        if case is not None:
            low.start(following)
    low.start(after)
    low.unflatten_all(op.results, after.args)


def _execute_region(low: FunctionLowering, op: Any) -> None:
    block = op.region.block
    low.lower_ops(block, until_terminator=True)
    assert block.last_op is not None, "the region ends in scf.yield"
    for old, inner in zip(op.results, block.last_op.operands, strict=True):
        if inner in low.buffers:
            low.buffers[old] = low.buffers[inner]
        else:
            low.define(old, low.value(inner))


CONTROL: dict[str, Handler] = {
    "scf.for": _for,
    "scf.if": _if,
    "scf.while": _while,
    "scf.index_switch": _index_switch,
    "scf.execute_region": _execute_region,
}
