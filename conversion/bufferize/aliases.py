"""Which tensors share a buffer, and which writes must go to a buffer of their own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from xdsl.dialects import arith, func, scf, tensor, vector
from xdsl.dialects.builtin import DYNAMIC_INDEX, IntegerAttr, TensorType
from xdsl.ir import Block, BlockArgument, Operation, OpResult, SSAValue, Use

from stepwell.dialects.scf import ForallOp, InParallelOp
from stepwell.dialects.tensor import ParallelInsertSliceOp
from stepwell.dialects.text import TextOp
from stepwell.dialects.value import UnwrapOp

Slice = tensor.ExtractSliceOp | tensor.InsertSliceOp | ParallelInsertSliceOp
DISJOINT = "stepwell.disjoint"
"""On a call: what it reads of a buffer that it also writes lies outside of what it writes."""
_RESHAPES = (tensor.ExpandShapeOp, tensor.CollapseShapeOp)
_LOOPS = (scf.ForOp, scf.WhileOp, ForallOp)


@dataclass(eq=False)
class Buffer:
    """Memory that some tensors share."""

    writable: bool = True
    values: list[SSAValue] = field(default_factory=list)


def destinations(op: Operation, kernels: Mapping[str, int]) -> list[tuple[int, OpResult | None]]:
    """The operands that `op` writes, by index, each with the result that holds the new value."""
    match op:
        case tensor.InsertOp() | tensor.InsertSliceOp():
            return [(1, op.result)]
        case vector.TransferWriteOp() if op.result is not None:
            return [(1, op.result)]
        case ParallelInsertSliceOp():
            return [(1, None)]
        case TextOp() if op.result is not None:
            return [(len(op.inputs), op.result)]
        case func.CallOp() if op.callee.string_value() in kernels:
            first = len(op.operands) - len(op.results)
            return [(first + i, result) for i, result in enumerate(op.results)]
    return []


def is_tensor(value: SSAValue) -> bool:
    return isinstance(value.type, TensorType)


def slice_parameters(op: Slice) -> tuple[tuple[SSAValue | int, ...], ...]:
    """Offsets, sizes and strides, constants as integers, so that equal slices compare equal."""
    lists: list[tuple[SSAValue | int, ...]] = []
    for static, dynamic in (
        (op.static_offsets, op.offsets),
        (op.static_sizes, op.sizes),
        (op.static_strides, op.strides),
    ):
        values = iter(dynamic)
        lists.append(tuple(_constant(next(values)) if v == DYNAMIC_INDEX else v for v in static.get_values()))
    return tuple(lists)


def _constant(value: SSAValue) -> SSAValue | int:
    if isinstance(value.owner, arith.ConstantOp) and isinstance(value.owner.value, IntegerAttr):
        return value.owner.value.value.data
    return value


def previous(value: SSAValue, kernels: Mapping[str, int]) -> SSAValue | None:
    """The tensor that `value` is a newer version of, of the same shape; None where there is none."""
    if isinstance(value, BlockArgument):
        owner = value.block.parent_op()
        if isinstance(owner, scf.WhileOp) and value.block is owner.after_region.block:
            condition = owner.before_region.block.last_op
            assert isinstance(condition, scf.ConditionOp)
            return condition.operands[1 + value.index]
        return None
    assert isinstance(value, OpResult)
    op = value.op
    match op:
        case tensor.CastOp():
            return op.source
        case scf.ForOp():
            return op.iter_args[value.index]
        case ForallOp():
            return op.outputs[value.index]
        case _:
            for index, result in destinations(op, kernels):
                if result is value:
                    return op.operands[index]
    return None


def versions(value: SSAValue, kernels: Mapping[str, int]) -> Iterator[SSAValue]:
    """`value` and the tensors it is a newer version of, newest first."""
    current: SSAValue | None = value
    while current is not None:
        yield current
        current = previous(current, kernels)


def _keeps_shape(value: SSAValue, argument: SSAValue, kernels: Mapping[str, int]) -> bool:
    """Whether `value` is a newer version of `argument` on every path, hence of the same extents."""
    for version in versions(value, kernels):
        if version is argument:
            return True
        if isinstance(version, OpResult) and isinstance(version.op, scf.IfOp):
            branches = [region.block.last_op for region in version.op.regions]
            return all(
                branch is not None and _keeps_shape(branch.operands[version.index], argument, kernels)
                for branch in branches
            )
    return False


class Aliases:
    """
    The result of walking a function once, in program order:

    - `buffer[v]`: the memory that tensor `v` lives in.
    - `whole[v]`: the oldest tensor that is the same view of the same memory. Versions made in place share it.
    - `copied`: (op, operand index) pairs whose destination must first be copied to a buffer of its own.
    - `in_slice`: insertions whose source is already in its place.
    - `carried`: loop arguments that travel as memrefs, as their extents may change.
    - `swaps`: (terminator, operand index) whose copy must go through a temporary.
    """

    def __init__(self, function: func.FuncOp, kernels: Mapping[str, int], is_kernel: bool):
        self._kernels = kernels
        self.buffer: dict[SSAValue, Buffer] = {}
        self.whole: dict[SSAValue, SSAValue] = {}
        self.copied: set[tuple[Operation, int]] = set()
        self.in_slice: set[Operation] = set()
        self.carried: set[SSAValue] = set()
        self.swaps: set[tuple[Operation, int]] = set()
        self.order: dict[Operation, int] = {}
        self._end: dict[Operation, int] = {}
        self._number(function)
        block = function.body.block
        first = len(block.args) - len(function.function_type.outputs) if is_kernel else len(block.args)
        for arg in block.args:
            if is_tensor(arg):
                self._new(arg, writable=arg.index >= first)
        self._block(block)

    # Positions

    def _number(self, op: Operation) -> None:
        self.order[op] = len(self.order)
        for region in op.regions:
            for block in region.blocks:
                for inner in block.ops:
                    self._number(inner)
        self._end[op] = len(self.order) - 1

    def _inside(self, op: Operation, scope: Operation) -> bool:
        return self.order[scope] < self.order[op] <= self._end[scope]

    def defined_inside(self, value: SSAValue, scope: Operation) -> bool:
        owner = value.owner
        if isinstance(owner, Block):
            parent = owner.parent_op()
            return parent is scope or (parent is not None and self._inside(parent, scope))
        return self._inside(owner, scope)

    # Conflicts

    def _may_follow(self, use: Operation, write: Operation, value: SSAValue) -> bool:
        """Whether `use` of `value` may run at or after `write`."""
        loop: Operation | None = None
        branches: list[scf.IfOp] = []
        scope = write.parent_op()
        while scope is not None and not isinstance(scope, func.FuncOp):
            if isinstance(scope, _LOOPS) and not self.defined_inside(value, scope):
                loop = scope
            elif isinstance(scope, scf.IfOp) and self._inside(use, scope):
                branches.append(scope)
            scope = scope.parent_op()
        if loop is not None and self._inside(use, loop):
            return True  # in the next iteration
        if use is write or self.order[use] < self.order[write]:
            return False
        return not any(_region_in(use, branch) is not _region_in(write, branch) for branch in branches)

    def _reaches_slice(self, use: Use, write_dest: SSAValue) -> bool:
        """Whether `use` puts a newer version of a slice that holds `write_dest` back where it was taken."""
        op = use.operation
        if not isinstance(op, tensor.InsertSliceOp | ParallelInsertSliceOp) or use.index != 1:
            return False
        view = self.whole[write_dest]
        while isinstance(view.owner, tensor.ExtractSliceOp):
            if self._puts_back(op, view.owner):
                return True
            view = self.whole[view.owner.source]
        return False

    def _puts_back(
        self, use: tensor.InsertSliceOp | ParallelInsertSliceOp, taken: tensor.ExtractSliceOp
    ) -> bool:
        return (
            use.source.type == taken.result.type
            and slice_parameters(use) == slice_parameters(taken)
            and self.whole.get(use.dest, use.dest) is self.whole[taken.source]
            and any(v is taken.result for v in versions(use.source, self._kernels))
        )

    def _conflicts(self, write: Operation, index: int) -> bool:
        """Whether writing operand `index` in place would change a value that is read afterwards."""
        dest = write.operands[index]
        buffer = self.buffer[dest]
        if not buffer.writable:
            return True
        for value in buffer.values:
            if isinstance(value.owner, tensor.EmptyOp):
                continue  # its contents are undefined, so reading them later is harmless
            for use in value.uses:
                reader = use.operation
                if isinstance(reader, tensor.DimOp):
                    continue
                if reader is write and use.index != index:
                    if (write in self.in_slice and use.index == 0) or DISJOINT in write.attributes:
                        continue
                    return True
                if self._may_follow(reader, write, value) and not self._reaches_slice(use, dest):
                    return True
        return False

    # Walk

    def _new(self, value: SSAValue, writable: bool = True) -> None:
        self.buffer[value] = Buffer(writable, [value])
        self.whole[value] = value

    def _alias(self, value: SSAValue, of: SSAValue, same_view: bool) -> None:
        buffer = self.buffer[of]
        self.buffer[value] = buffer
        buffer.values.append(value)
        self.whole[value] = self.whole[of] if same_view else value

    def is_slice(self, value: SSAValue) -> bool:
        """Whether `value` may lie in its buffer with gaps between its rows."""
        owner = self.whole[value].owner
        if isinstance(owner, _RESHAPES):
            return self.is_slice(owner.src)
        return isinstance(owner, tensor.ExtractSliceOp)

    def _block(self, block: Block) -> None:
        for op in block.ops:
            match op:
                case scf.ForOp():
                    self._for(op)
                case scf.WhileOp():
                    self._while(op)
                case scf.IfOp():
                    self._if(op)
                case ForallOp():
                    self._forall(op)
                case InParallelOp():
                    for inner in op.region.block.ops:
                        self._write(inner)
                case tensor.ExtractSliceOp():
                    self._alias(op.result, op.source, False)
                case tensor.ExpandShapeOp() | tensor.CollapseShapeOp():
                    self._alias(op.result, op.src, False)
                case tensor.CastOp():
                    self._alias(op.dest, op.source, True)
                case UnwrapOp():
                    self._new(op.output, writable=False)
                case arith.ConstantOp():
                    if is_tensor(op.result):
                        self._new(op.result, writable=False)
                case _:
                    if not self._write(op):
                        for region in op.regions:
                            for inner in region.blocks:
                                self._block(inner)
                        for result in op.results:
                            if is_tensor(result):
                                self._new(result)

    def _write(self, op: Operation) -> bool:
        pairs = destinations(op, self._kernels)
        for index, result in pairs:
            dest = op.operands[index]
            if isinstance(op, tensor.InsertSliceOp | ParallelInsertSliceOp):
                taken = self.whole[op.source].owner
                if isinstance(taken, tensor.ExtractSliceOp) and self._puts_back(op, taken):
                    self.in_slice.add(op)
            if isinstance(op, ParallelInsertSliceOp):
                continue
            strided = isinstance(op, func.CallOp | TextOp) and self.is_slice(dest)
            copied = self._into(op, index, strided)
            if copied:
                self.in_slice.discard(op)
            if result is not None:
                self._new(result) if copied else self._alias(result, dest, True)
        return bool(pairs)

    def _into(self, op: Operation, index: int, always: bool = False) -> bool:
        """Decide about the destination `index` of `op`; whether it is copied."""
        if always or self._conflicts(op, index):
            self.copied.add((op, index))
            return True
        return False

    def _enter(self, op: Operation, index: int, argument: SSAValue) -> None:
        """Let `argument` of the body of `op` be the buffer of operand `index`, or a copy of it."""
        if self._into(op, index):
            self._new(argument)
        else:
            self._alias(argument, op.operands[index], argument.type == op.operands[index].type)

    def _forall(self, op: ForallOp) -> None:
        first = len(op.operands) - len(op.outputs)
        for i, arg in enumerate(op.shared_outs):
            self._enter(op, first + i, arg)
        self._block(op.region.block)
        for arg, result in zip(op.shared_outs, op.res, strict=True):
            self._alias(result, arg, True)

    def _leave(self, terminator: Operation, offset: int, arguments: list[SSAValue]) -> None:
        """Mark which values of `terminator` must pass through a temporary on the way to `arguments`."""
        buffers = {id(self.buffer[arg]) for arg in arguments if is_tensor(arg)}
        for i, arg in enumerate(arguments):
            value = terminator.operands[offset + i]
            if (
                is_tensor(arg)
                and self.whole[value] is not self.whole[arg]
                and id(self.buffer[value]) in buffers
            ):
                self.swaps.add((terminator, offset + i))

    def _changes_extents(self, value: SSAValue, argument: SSAValue) -> bool:
        type = argument.type
        assert isinstance(type, TensorType)
        return DYNAMIC_INDEX in type.get_shape() and not _keeps_shape(value, argument, self._kernels)

    def _for(self, op: scf.ForOp) -> None:
        block = op.body.block
        terminator = block.last_op
        assert isinstance(terminator, scf.YieldOp)
        for i, arg in enumerate(block.args[1:]):
            if not is_tensor(arg):
                continue
            self._enter(op, 3 + i, arg)
            if self._changes_extents(terminator.operands[i], arg):
                self.carried.add(arg)
                self.whole[arg] = arg
        self._block(block)
        self._leave(terminator, 0, list(block.args[1:]))
        for arg, result in zip(block.args[1:], op.res, strict=True):
            if arg in self.carried:
                self.carried.add(result)
                self._new(result)
            elif is_tensor(arg):
                self._alias(result, arg, True)

    def _while(self, op: scf.WhileOp) -> None:
        before, after = op.before_region.block, op.after_region.block
        condition, terminator = before.last_op, after.last_op
        assert isinstance(condition, scf.ConditionOp) and isinstance(terminator, scf.YieldOp)
        for i, arg in enumerate(before.args):
            if not is_tensor(arg):
                continue
            self._enter(op, i, arg)
            if self._changes_extents(terminator.operands[i], arg):
                self.carried.add(arg)
                self.whole[arg] = arg
        self._block(before)
        for value, arg, result in zip(condition.operands[1:], after.args, op.res, strict=True):
            if not is_tensor(value):
                continue
            origin = self.whole[value]
            if any(origin is self.whole[b] for b in before.args if is_tensor(b) and b not in self.carried):
                self._alias(arg, value, True)
                self._alias(result, value, True)
            else:
                self._new(arg)
                self._new(result)
                if DYNAMIC_INDEX in value.type.get_shape():  # pyright: ignore
                    self.carried |= {arg, result}
        self._block(after)
        self._leave(terminator, 0, list(before.args))

    def _if(self, op: scf.IfOp) -> None:
        for region in op.regions:
            if region.blocks:
                self._block(region.block)
        for i, result in enumerate(op.output):
            if not is_tensor(result):
                continue
            yields = [region.block.last_op for region in op.regions]
            values = [y.operands[i] for y in yields if y is not None]
            if self.whole[values[0]] is self.whole[values[1]] and not self.defined_inside(
                self.whole[values[0]], op
            ):
                self._alias(result, values[0], True)
            else:
                self._new(result)


def _region_in(op: Operation, scope: Operation):
    """The region of `scope` that holds `op`."""
    current = op
    while current.parent_op() is not scope:
        parent = current.parent_op()
        assert parent is not None, "op lies inside scope"
        current = parent
    return current.parent_region()
