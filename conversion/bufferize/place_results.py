"""Before bufferization: let each value be computed where it will end up."""

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, IntegerAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from stepwell.conversion.bufferize.aliases import versions
from stepwell.dialects.scf import InParallelOp
from stepwell.dialects.tensor import ParallelInsertSliceOp


def place_results(func: FuncOp, is_kernel: bool) -> None:
    """
    Give every use its own `tensor.empty`, next to it; in a kernel, let what starts in a `tensor.empty`
    and ends in a destination start in that destination.
    """
    for op in list(func.walk()):
        if isinstance(op, tensor.EmptyOp):
            _split(op)
    if not is_kernel:
        return
    order = {op: i for i, op in enumerate(func.walk())}
    block = func.body.block
    terminator = block.last_op
    assert isinstance(terminator, ReturnOp)
    first = len(block.args) - len(terminator.operands)
    for i, value in enumerate(terminator.operands):
        destination = block.args[first + i]
        root = _root(value)
        if root is not None and destination.first_use is None and root.tensor.type == destination.type:
            _replace(root, destination)
    for op in list(func.walk()):
        if isinstance(op, tensor.InsertSliceOp | ParallelInsertSliceOp):
            root = _root(op.source)
            if root is None or root.tensor.type != op.source.type:
                continue
            needed = [op.dest, *op.offsets, *op.sizes, *op.strides]
            if root in order and all(_dominates(value, root, order) for value in needed):
                segments = [list(op.offsets), list(op.sizes), list(op.strides)]
                piece = tensor.ExtractSliceOp.build(
                    operands=[op.dest, *segments],
                    properties={
                        key: op.properties[key]
                        for key in ("static_offsets", "static_sizes", "static_strides")
                    },
                    result_types=[root.tensor.type],
                )
                assert root.parent is not None
                piece.location = op.location
                root.parent.insert_op_before(piece, root)
                order[piece] = order[root]
                _replace(root, piece.result)


def _root(value: SSAValue) -> tensor.EmptyOp | None:
    """The `tensor.empty` that `value` is a version of, through writes that only it sees."""
    *_, oldest = versions(value, {})
    return oldest.owner if isinstance(oldest.owner, tensor.EmptyOp) else None


def _replace(op: tensor.EmptyOp, value: SSAValue) -> None:
    op.tensor.replace_all_uses_with(value)
    op.detach()
    op.erase()


def _split(op: tensor.EmptyOp) -> None:
    block = op.parent
    assert block is not None
    type = op.tensor.type
    assert isinstance(type, TensorType)
    sizes = iter(op.dynamic_sizes)
    extents = [next(sizes) if extent == DYNAMIC_INDEX else extent for extent in type.get_shape()]
    rest: list[tuple[Operation, int]] = []
    for use in list(op.tensor.uses):
        user = use.operation
        if isinstance(user, tensor.DimOp) and (axis := constant_of(user.index)) is not None:
            extent = extents[axis]
            if isinstance(extent, int):
                constant = arith.ConstantOp(IntegerAttr(extent, IndexType()))
                block.insert_op_before(constant, op)
                extent = constant.result
            user.result.replace_all_uses_with(extent)
            user.detach()
            user.erase()
        else:
            rest.append((user, use.index))
    puts_back = {user: taken for user, index in rest if (taken := _taken(user, index, op)) is not None}
    for user, index in rest:
        if user in puts_back:
            continue
        place = user
        if isinstance(parent := user.parent_op(), InParallelOp):
            place = parent
        copy = tensor.EmptyOp(op.dynamic_sizes, type)
        copy.location = op.location
        copy.tensor.name_hint = op.tensor.name_hint
        assert place.parent is not None
        place.parent.insert_op_before(copy, place)
        user.operands[index] = copy.tensor
        for insertion, taken in puts_back.items():
            if taken is user:
                insertion.operands[1] = copy.tensor
    op.detach()
    op.erase()


def _taken(user: Operation, index: int, op: tensor.EmptyOp) -> Operation | None:
    """The slice of `op` that `user` inserts a newer version of into `op`: the two mean one buffer."""
    if not isinstance(user, tensor.InsertSliceOp) or index != 1:
        return None
    *_, oldest = versions(user.source, {})
    taken = oldest.owner
    if not isinstance(taken, tensor.ExtractSliceOp) or taken.source is not op.tensor:
        return None
    return taken if taken.parent is user.parent else None


def constant_of(value: SSAValue) -> int | None:
    owner = value.owner
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return None


def _dominates(value: SSAValue, op: Operation, order: dict[Operation, int]) -> bool:
    owner = value.owner
    block = owner if isinstance(owner, Block) else owner.parent
    here: Operation | None = op
    while here is not None and here.parent is not block:
        here = here.parent_op()
    if here is None:
        return False
    return isinstance(owner, Block) or order[owner] < order[here]
