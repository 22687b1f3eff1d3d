"""`graph.sequence_map` as the loop that it is."""

from collections.abc import Sequence

import numpy as np
from xdsl.dialects.builtin import TensorType, i1, i64
from xdsl.ir import Region, SSAValue

from stepwell.dialects.graph import (
    LoopOp,
    SequenceAtOp,
    SequenceInsertOp,
    SequenceMapOp,
    SequenceType,
    YieldOp,
    tensor_type,
)
from stepwell.transforms.graph.emitter import Emitter


# sequence_map(f, s, x) == out, where for i < length(s): out = insert(out, f(s[i], x))
def sequence_map_as_loop(op: SequenceMapOp, emitter: Emitter) -> Sequence[SSAValue | None]:
    """The results of a loop that takes over the body of `op`."""
    yes = emitter.constant(np.array(True))
    length = emitter.make("SequenceLength", op.input_sequence)
    empty = [emitter.make("SequenceEmpty", dtype=_element(result)) for result in op.results]
    block = op.body.detach_block(op.body.block)
    given, last = list(block.args), block.last_op
    assert last is not None, "a body ends in a yield"
    step = block.insert_arg(tensor_type([], i64), 0)
    block.insert_arg(tensor_type([], i1), 1)
    made = [block.insert_arg(result.type, 2 + i) for i, result in enumerate(op.results)]
    for operand, argument in zip(reversed(op.operands), reversed(given), strict=True):
        element = operand
        if isinstance(operand.type, SequenceType):
            # The argument's type, whose symbols the body uses.
            read = SequenceAtOp.build([operand, step], result_types=[argument.type])
            read.location = op.location
            assert block.first_op is not None
            block.insert_op_before(read, block.first_op)
            element = read.results[0]
        argument.replace_all_uses_with(element)
        block.erase_arg(argument)
    grown: list[SSAValue] = []
    for sequence, value in zip(made, last.operands, strict=True):
        push = SequenceInsertOp.build([sequence, value])
        push.location = op.location
        block.insert_op_before(push, last)
        grown.append(push.results[0])
    block.insert_op_before(YieldOp.build([yes, *grown]), last)
    last.detach()
    last.erase()
    loop = LoopOp.build([length, None, *empty], regions=[Region(block)])
    loop.location = op.location
    assert op.parent is not None
    op.parent.insert_op_before(loop, op)
    return list(loop.results)


def _element(sequence: SSAValue) -> object:
    assert isinstance(sequence.type, SequenceType) and isinstance(sequence.type.element, TensorType)
    return sequence.type.element.element_type
