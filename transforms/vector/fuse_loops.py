"""Let a loop over what another loop has just written run inside it, on the values in registers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeGuard

from xdsl.context import Context
from xdsl.dialects import func, scf, tensor, vector
from xdsl.dialects.builtin import IndexType, ModuleOp, TensorType
from xdsl.ir import Block, Operation, OpResult, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr
from xdsl.passes import ModulePass
from xdsl.traits import is_side_effect_free

from stepwell.dialects.stepwell import target_of
from stepwell.remarks import applied
from stepwell.rewriting import fuse_locations, may_rewrite, note_rewrite
from stepwell.transforms.linalg.form_kernels import KERNEL
from stepwell.transforms.linalg.indices import constant_of

_Read = vector.TransferReadOp | tensor.ExtractOp


@dataclass(frozen=True)
class FuseLoopsPass(ModulePass):
    """
    Make one loop of two with the same bounds, where the second reads of what the first writes what the same step of the first has written:
    the sum of a softmax's powers, what is summed of a normalisation's rows. Loops inside the two are fused in turn, and
    a value that is read where it was just written is taken from its register.

    Nothing is computed in another order: an accumulator of either loop sees the same values one after the other. What fits L1 is read again
    at no cost, while two loops need more registers than one: softmax of rows of 30,000 1.05, of 1500 0.90 to 0.98. So it is
    done for what does not fit. Requires: loops over tensors, `set-target`. Ensures: the same loops, fewer.
    """

    name = "fuse-loops"
    always: bool = False
    """Fuse loops over what fits L1 too."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        least = 0 if self.always else target_of(op).l1_bytes
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and KERNEL in function.attributes:
                _fuse_in(function.body, least)


def _fuse_in(region: Region, least_bytes: int) -> None:
    for block in region.blocks:
        loops: list[scf.ForOp] = []
        for second in [op for op in block.ops if isinstance(op, scf.ForOp)]:
            for place in reversed(range(len(loops))):
                fusion = _Fusion(loops[place], second)
                if fusion.is_possible() and fusion.bytes() > least_bytes and may_rewrite():
                    loops[place] = fusion.fuse()
                    break
            else:
                loops.append(second)
        for op in list(block.ops):
            if isinstance(op, vector.TransferReadOp):
                _forward(op)
        for op in block.ops:
            for inner in op.regions:
                _fuse_in(inner, least_bytes)


@dataclass
class _Fusion:
    """Two loops of one block, the first in front of the second."""

    first: scf.ForOp
    second: scf.ForOp
    reads: list[tuple[Operation, int]] = field(default_factory=list)
    """Reads in the second loop of what the first writes, and of which result."""
    overwritten: list[tuple[Operation, int]] = field(default_factory=list)
    """Reads in the first loop of what the second overwrites, and by which of its results."""
    copied: list[int] = field(default_factory=list)
    """Initial values of the second loop that are empty tensors which others use too."""
    hoisted: list[Operation] = field(default_factory=list)

    def is_possible(self) -> bool:
        if not self._same_bounds():
            return False
        inside = set(self.second.walk())
        captured: dict[SSAValue, list[Operation]] = {}
        for op in inside:
            if op is not self.second:
                for value in op.operands:
                    owner = value.owner
                    scope = owner if isinstance(owner, Operation) else owner.parent_op()
                    if scope not in inside:
                        captured.setdefault(value, []).append(op)
        if not all(self._may_read(value, ops) for value, ops in captured.items()) or not self.reads:
            return False
        return all(self._may_start(j, value) for j, value in enumerate(self.second.iter_args))

    def bytes(self) -> int:
        """What lies between the two loops; more than any cache if that is known at run time only."""
        types = [self.first.results[k].type for k in {k for _, k in self.reads}]
        sizes = [
            prod(t.get_shape()) * max(1, getattr(t.element_type, "bitwidth", 64) // 8)
            if t.has_static_shape()
            else 1 << 62
            for t in types
            if isinstance(t, TensorType)
        ]
        return sum(sizes)

    def _same_bounds(self) -> bool:
        """Whether both loops take the same steps, whole ones of constant width."""
        pairs = zip(self.first.operands[:3], self.second.operands[:3], strict=True)
        if any(a is not b and (constant_of(a) is None or constant_of(a) != constant_of(b)) for a, b in pairs):
            return False
        lower, upper, step = (constant_of(v) for v in self.first.operands[:3])
        return None not in (lower, upper, step) and (upper - lower) % step == 0  # pyright: ignore

    def _may_read(self, value: SSAValue, ops: Sequence[Operation]) -> bool:
        """Whether `ops` of the second loop may read `value`, defined outside, at the place of the first."""
        behind: list[vector.TransferWriteOp] = []
        made = value
        while made.owner is not self.first and isinstance(write := made.owner, vector.TransferWriteOp):
            if write.parent is not self.first.parent:
                break
            behind.append(write)
            made = write.source
        if not isinstance(made, OpResult) or made.op is not self.first:
            return value not in self.first.iter_args and self._is_available(value)
        axes = _written_axes(self.first, made.index)
        for op in ops:
            if not _is_read_of(op, value):
                return False
            axes &= _axes(op.indices, _shape_by_axis(op), self.second)
            self.reads.append((op, made.index))
        last = constant_of(self.first.ub)
        assert last is not None, "the bounds are constant"
        for write in behind:  # what lies behind the loop's elements is not read in it
            starts = [constant_of(index) for index in write.indices]
            axes &= {axis for axis, start in enumerate(starts) if start is not None and start >= last}
        return bool(axes)

    def _may_start(self, j: int, value: SSAValue) -> bool:
        """Whether the second loop may have its initial value `value` at the place of the first."""
        if not isinstance(value.type, TensorType):
            return self._is_available(value)
        if isinstance(value.owner, tensor.EmptyOp):
            if len(list(value.uses)) > 1:
                self.copied.append(j)
            return self._is_available(value)
        # Written over in place: only steps of the first loop may have read it, of each what the same step of the second writes.
        if value.owner is self.first or not self._is_available(value):
            return False
        axes = _written_axes(self.second, j)
        reads = [use.operation for use in value.uses if use.operation is not self.second]
        for op in reads:
            if not self.first.is_ancestor(op) or op is self.first or not _is_read_of(op, value):
                return False
            axes &= _axes(op.indices, _shape_by_axis(op), self.first)
            self.overwritten.append((op, j))
        return bool(reads) and bool(axes) and list(self.second.operands).count(value) == 1

    def _is_available(self, value: SSAValue) -> bool:
        """Whether `value` is there in front of the first loop, perhaps if what makes it is moved there."""
        owner = value.owner
        block = self.first.parent
        if isinstance(owner, Block) or owner.parent is not block or owner in self.hoisted:
            return True
        if owner.is_before_in_block(self.first):
            return True
        if owner is self.first or owner.regions or not is_side_effect_free(owner):
            return False
        if isinstance(owner, _Read | vector.TransferWriteOp | tensor.InsertOp):
            return False  # a buffer may be overwritten between the two
        if not all(self._is_available(v) for v in owner.operands):
            return False
        self.hoisted.append(owner)
        return True

    def fuse(self) -> scf.ForOp:
        first, second = self.first, self.second
        block = first.parent
        assert block is not None
        for op in self.hoisted:
            op.detach()
            block.insert_op_before(op, first)
        starts = list(second.iter_args)
        for j in self.copied:
            empty = starts[j].owner
            assert isinstance(empty, tensor.EmptyOp)
            block.insert_op_before(copy := empty.clone(), first)
            starts[j] = copy.tensor
        carried = [*first.iter_args, *starts]
        body = Block(arg_types=[IndexType(), *(v.type for v in carried)])
        made = _move(first, body, body.args[1 : 1 + len(first.iter_args)])
        for op, j in self.overwritten:
            op.operands[0] = body.args[1 + len(first.iter_args) + j]
        for op, k in self.reads:
            op.operands[0] = made[k]
        also = _move(second, body, body.args[1 + len(first.iter_args) :])
        body.add_op(scf.YieldOp(*made, *also))
        fused = scf.ForOp(first.lb, first.ub, first.step, carried, body)
        fused.location = fuse_locations([first.location, second.location])
        block.insert_op_before(fused, first)
        for old, new in zip([*first.results, *second.results], fused.results, strict=True):
            new.name_hint = old.name_hint
            old.replace_all_uses_with(new)
        for loop in (second, first):
            loop.detach()
            loop.erase()
        for op, _ in self.reads:
            _forward(op)
        applied(fused, "a loop over what another has just written runs inside it")
        note_rewrite("fuse_loops", fused.name, fused.location)
        return fused


def _move(loop: scf.ForOp, body: Block, carried: Sequence[SSAValue]) -> list[SSAValue]:
    """Move the ops of `loop` to the end of `body`; what they yield."""
    own = loop.body.block
    for old, new in zip(own.args, [body.args[0], *carried], strict=True):
        new.name_hint = old.name_hint
        old.replace_all_uses_with(new)
    last = own.last_op
    assert isinstance(last, scf.YieldOp)
    made = list(last.operands)
    for op in list(own.ops):
        op.detach()
        if op is last:
            op.erase()
        else:
            body.add_op(op)
    return made


def _is_read_of(op: Operation, value: SSAValue) -> TypeGuard[_Read]:
    """Whether `op` reads `value` and does nothing else with it."""
    return isinstance(op, _Read) and op.operands[0] is value and list(op.operands).count(value) == 1


def _shape_by_axis(op: Operation) -> Callable[[int], int]:
    """The extent, along each axis of its tensor, of what a transfer moves; 1 for a single element."""
    if not isinstance(op, vector.TransferReadOp | vector.TransferWriteOp):
        return lambda axis: 1
    value = op.vector if isinstance(op, vector.TransferWriteOp) else op.result
    exprs = op.permutation_map.data.results
    extents = {
        expr.position: extent
        for expr, extent in zip(exprs, value.type.get_shape(), strict=True)  # pyright: ignore
        if isinstance(expr, AffineDimExpr)
    }
    return lambda axis: extents.get(axis, 1)


def _axes(indices: Sequence[SSAValue], extent: Callable[[int], int], loop: scf.ForOp) -> set[int]:
    """The axes along which an access at `indices` stays within the step of `loop`."""
    step = constant_of(loop.step)
    assert step is not None, "the step is constant"
    variable = loop.body.block.args[0]
    return {axis for axis, index in enumerate(indices) if index is variable and extent(axis) <= step}


def _written_axes(loop: scf.ForOp, k: int) -> set[int]:
    """The axes along which every step of `loop` writes, of its result `k`, only its own part."""
    last = loop.body.block.last_op
    assert isinstance(last, scf.YieldOp)
    found = _axes_of_chain(last.operands[k], loop.body.block.args[1 + k], loop)
    return found if found is not None else set()


def _axes_of_chain(value: SSAValue, start: SSAValue, loop: scf.ForOp) -> set[int] | None:
    """Those of all writes that make `value` of `start`; None if there are none."""
    axes: set[int] | None = None
    while value is not start:
        if not isinstance(value, OpResult):
            return set()
        op = value.op
        if isinstance(op, vector.TransferWriteOp):
            here, value = _axes(op.indices, _shape_by_axis(op), loop), op.source
        elif isinstance(op, tensor.InsertOp):
            here, value = _axes(op.indices, _shape_by_axis(op), loop), op.dest
        elif isinstance(op, scf.ForOp):
            inner, k = op.body.block, value.index
            assert isinstance(inner.last_op, scf.YieldOp)
            here = _axes_of_chain(inner.last_op.operands[k], inner.args[1 + k], loop)
            value = op.iter_args[k]
        else:
            return set()
        if here is not None:
            axes = here if axes is None else axes & here
    return axes


# read(write(v, t)) == v   at the same place; lanes that are no elements of the tensor may be anything
def _forward(op: Operation) -> None:
    source = op.operands[0].owner
    if isinstance(op, vector.TransferReadOp) and isinstance(source, vector.TransferWriteOp):
        if op.result.type != source.vector.type or op.permutation_map != source.permutation_map:
            return
        whole = all(bound.value.data for bound in op.in_bounds.data)
        if not whole and op.padding.owner.name != "ub.poison":  # pyright: ignore
            return
        value = source.vector
    elif isinstance(op, tensor.ExtractOp) and isinstance(source, tensor.InsertOp):
        value = source.scalar
    else:
        return
    if all(_is_same(a, b) for a, b in zip(op.indices, source.indices, strict=True)):
        op.results[0].replace_all_uses_with(value)
        op.detach()
        op.erase()


def _is_same(a: SSAValue, b: SSAValue) -> bool:
    return a is b or ((number := constant_of(a)) is not None and number == constant_of(b))
