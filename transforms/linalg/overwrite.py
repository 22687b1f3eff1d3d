"""Let element-wise ops on tiles write over what they read for the last time; part of `tile-and-fuse`."""

from xdsl.dialects import scf, tensor
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Block, Operation, OpResult, SSAValue
from xdsl.rewriter import Rewriter

from stepwell.transforms.linalg.structure import generic, is_elementwise, is_identity, maps_of, output_map


# y[i] = f(x[i], z[i]) overwrites x where nothing reads x afterwards
def overwrite_dead_tiles(block: Block) -> None:
    """Element-wise ops with a buffer of their own write over an operand that is read for the last time."""
    order = {op: i for i, op in enumerate(block.ops)}
    for op in list(block.ops):
        if not (is_elementwise(op) and isinstance(op, linalg.GenericOp)):
            continue
        target = op.outputs[0]
        if not isinstance(target.owner, tensor.EmptyOp) or not is_identity(output_map(op)):
            continue
        for k, (value, map) in enumerate(zip(op.inputs, maps_of(op), strict=False)):
            if value.type != target.type or not is_identity(map) or not _is_made_in(value, block):
                continue
            last = max(order[_in_block(use.operation, block)] for use in value.uses)
            if last == order[op] and list(op.inputs).count(value) == 1:
                _write_over(op, k)
                break


def _is_made_in(value: SSAValue, block: Block) -> bool:
    """A tensor that an op of `block` writes in a buffer that the block has for it."""
    owner = value.owner
    return (
        isinstance(owner, linalg.GenericOp | scf.ForOp | tensor.InsertSliceOp)
        and owner.parent is block
        and isinstance(_buffer_of(value).owner, tensor.EmptyOp)
    )


def _buffer_of(value: SSAValue) -> SSAValue:
    """The tensor over which `value` is written."""
    while isinstance(value, OpResult):
        op = value.op
        if isinstance(op, tensor.ExtractSliceOp):
            value = op.source
        elif isinstance(op, linalg.GenericOp):
            value = op.outputs[value.index]
        elif isinstance(op, scf.ForOp):
            value = op.iter_args[value.index]
        elif isinstance(op, tensor.InsertSliceOp):
            value = op.dest
        elif isinstance(op, linalg.FillOp):
            value = op.outputs[value.index]
        else:
            break
    return value


def _in_block(op: Operation, block: Block) -> Operation:
    while op.parent is not block:
        outer = op.parent_op()
        assert outer is not None, "a tile is read inside the block that makes it"
        op = outer
    return op


def _write_over(op: linalg.GenericOp, k: int) -> None:
    """Make input `k` of `op` its output: the body reads the old element where it read the input."""
    body = op.body.block
    value, maps = op.inputs[k], maps_of(op)
    body.args[k].replace_all_uses_with(body.args[len(op.inputs)])
    body.erase_arg(body.args[k])
    inputs = [*op.inputs[:k], *op.inputs[k + 1 :]]
    new = generic(inputs, [value], [*maps[:k], *maps[k + 1 :]], op, op.detach_region(op.body))
    Rewriter.replace_op(op, new)
