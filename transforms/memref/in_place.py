"""Which output of a kernel may take the memory of an input: a proof from the indices of all their accesses."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import gcd, inf
from typing import Any

from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import DYNAMIC_INDEX, IntegerAttr, MemRefType, VectorType
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr

OVERLAP_KEY = "stepwell.overlapping_tiles"


class _Unknown(Exception):
    """An access, or an index, of a form that the proof does not cover."""


@dataclass(frozen=True)
class _Form:
    """`constant + sum(factor * atom)`; an atom is a value that is not itself a sum."""

    constant: int = 0
    factors: tuple[tuple[SSAValue, int], ...] = ()

    def __add__(self, other: "_Form") -> "_Form":
        sums = dict(self.factors)
        for atom, factor in other.factors:
            sums[atom] = sums.get(atom, 0) + factor
        kept = [(atom, factor) for atom, factor in sums.items() if factor]
        return _Form(self.constant + other.constant, tuple(sorted(kept, key=_identity)))

    def times(self, factor: int) -> "_Form":
        if not factor:
            return _Form()
        return _Form(self.constant * factor, tuple((atom, factor * by) for atom, by in self.factors))


def _identity(pair: tuple[SSAValue, int]) -> int:
    return id(pair[0])


@dataclass(frozen=True)
class _Box:
    """What one op touches of an argument: along dim d the elements `[forms[d], forms[d] + extents[d])`."""

    op: Operation
    forms: tuple[_Form, ...]
    extents: tuple[int, ...]


def may_write_over(kernel: func.FuncOp, read: BlockArgument, written: BlockArgument) -> bool:
    """
    Whether `kernel` computes the same where its arguments `read` and `written`, of one type, are the same memory, its
    tiles in any order and side by side. It does if no element is read once it may have been written, by that tile or
    another: each read finds, for all elements that a write shares with it, the write later in the same iteration of
    the loops around both. False where that cannot be shown.
    """
    if read.type != written.type or OVERLAP_KEY in kernel.attributes:
        return False
    try:
        reads, writes = list(_boxes(read, reading=True)), list(_boxes(written, reading=False))
        indices = _Indices(kernel)
        return all(indices.ordered(a, b) for a in reads for b in writes)
    except _Unknown:
        return False


def _boxes(argument: SSAValue, *, reading: bool) -> Iterator[_Box]:
    """All that is read of `argument`, or all that is written; unknown if there is any other use."""
    type = argument.type
    assert isinstance(type, MemRefType)
    todo: list[tuple[SSAValue, tuple[_Form, ...], tuple[int, ...]]] = [
        (argument, (_Form(),) * type.get_num_dims(), tuple(range(type.get_num_dims())))
    ]
    while todo:
        value, base, dims = todo.pop()
        for use in value.uses:
            op: Any = use.operation
            if isinstance(op, memref.SubviewOp):
                todo.append((op.result, *_subview(op, base, dims)))
            elif isinstance(op, memref.DimOp):
                continue
            elif isinstance(op, memref.LoadOp) and reading:
                yield _box(op, base, dims, op.indices, {})
            elif isinstance(op, memref.StoreOp) and not reading and use.index == 1:
                yield _box(op, base, dims, op.indices, {})
            elif isinstance(op, vector.TransferReadOp) and reading:
                yield _box(op, base, dims, op.indices, _extents(op, op.result.type))
            elif isinstance(op, vector.TransferWriteOp) and not reading and use.index == 1:
                yield _box(op, base, dims, op.indices, _extents(op, op.vector.type))
            else:
                raise _Unknown


def _subview(
    op: memref.SubviewOp, base: tuple[_Form, ...], dims: tuple[int, ...]
) -> tuple[tuple[_Form, ...], tuple[int, ...]]:
    """Where the view's element 0 lies in the argument, and which dims of the argument its dims are."""
    if any(stride != 1 for stride in op.static_strides.get_values()):
        raise _Unknown
    dynamic = iter(op.offsets)
    forms = list(base)
    for dim, offset in zip(dims, op.static_offsets.get_values(), strict=True):
        forms[dim] += _form(next(dynamic)) if offset == DYNAMIC_INDEX else _Form(offset)
    type = op.result.type
    assert isinstance(type, MemRefType)
    if (dropped := len(dims) - type.get_num_dims()) == 0:
        return tuple(forms), dims
    unit = [at for at, size in enumerate(op.static_sizes.get_values()) if size == 1]
    if len(unit) != dropped:
        raise _Unknown
    return tuple(forms), tuple(dim for at, dim in enumerate(dims) if at not in unit)


def _extents(op: Any, type: Any) -> dict[int, int]:
    """The extent of a transfer's vector along each dim of its memref that it moves along."""
    assert isinstance(type, VectorType)
    found: dict[int, int] = {}
    for expr, extent in zip(op.permutation_map.data.results, type.get_shape(), strict=True):
        if isinstance(expr, AffineDimExpr):
            found[expr.position] = extent
        elif not isinstance(expr, AffineConstantExpr):
            raise _Unknown
    return found


def _box(
    op: Operation, base: tuple[_Form, ...], dims: tuple[int, ...], indices: Any, extents: dict[int, int]
) -> _Box:
    forms, sizes = list(base), [1] * len(base)
    for at, (dim, index) in enumerate(zip(dims, indices, strict=True)):
        forms[dim] += _form(index)
        sizes[dim] = extents.get(at, 1)
    return _Box(op, tuple(forms), tuple(sizes))


def _constant(value: SSAValue) -> int | None:
    owner = value.owner
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return None


def _form(value: SSAValue) -> _Form:
    if (constant := _constant(value)) is not None:
        return _Form(constant)
    owner = value.owner
    if isinstance(owner, arith.AddiOp):
        return _form(owner.lhs) + _form(owner.rhs)
    if isinstance(owner, arith.MuliOp):
        for factor, other in ((owner.lhs, owner.rhs), (owner.rhs, owner.lhs)):
            if (constant := _constant(factor)) is not None:
                return _form(other).times(constant)
    if (loop := _loop_of(value)) is not None and (_constant(loop.lb) or 0) < 0:
        raise _Unknown  # all that follows takes indices for unsigned
    return _Form(0, ((value, 1),))


def _loop_of(value: SSAValue) -> scf.ForOp | None:
    """The loop whose induction variable `value` is."""
    if isinstance(value, BlockArgument) and value.index == 0:
        if isinstance(loop := value.owner.parent_op(), scf.ForOp):
            return loop
    return None


def _divisor(value: SSAValue) -> int:
    """A number that divides `value`; 0 divides only 0."""
    if (constant := _constant(value)) is not None:
        return constant
    owner = value.owner
    if (loop := _loop_of(value)) is not None:
        return gcd(_divisor(loop.lb), _constant(loop.step) or 1)
    if isinstance(owner, arith.MuliOp):
        return _divisor(owner.lhs) * _divisor(owner.rhs)
    if isinstance(owner, arith.AddiOp):
        return gcd(_divisor(owner.lhs), _divisor(owner.rhs))
    if (whole := _whole_steps(value)) is not None:
        return whole[1]
    return 1


def _whole_steps(value: SSAValue) -> tuple[SSAValue, int] | None:
    """`(n, s)` of `n - n mod s`: where the whole vectors of a loop end."""
    owner = value.owner
    if isinstance(owner, arith.SubiOp) and isinstance(rest := owner.rhs.owner, arith.RemUIOp):
        if rest.lhs is owner.lhs and (step := _constant(rest.rhs)):
            return owner.lhs, step
    return None


def _most(value: SSAValue) -> float:
    """The largest that `value`, an unsigned number, can be."""
    if (constant := _constant(value)) is not None:
        return constant
    owner = value.owner
    if (loop := _loop_of(value)) is not None:
        step, bound = _divisor(value), _most(loop.ub)
        if not step:
            return 0
        return max(bound - 1, 0) // step * step if bound < inf else inf
    if isinstance(owner, arith.MinUIOp):
        return min(_most(owner.lhs), _most(owner.rhs))
    if isinstance(owner, arith.RemUIOp) and (divisor := _constant(owner.rhs)):
        return min(divisor - 1, _most(owner.lhs))
    if isinstance(owner, arith.DivUIOp) and (divisor := _constant(owner.rhs)):
        most = _most(owner.lhs)
        return most // divisor if most < inf else inf
    if (whole := _whole_steps(value)) is not None:
        most = _most(whole[0])
        return most // whole[1] * whole[1] if most < inf else inf
    return inf


def _least(value: SSAValue) -> int:
    """A number that `value` is not below."""
    if (constant := _constant(value)) is not None:
        return constant
    loop = _loop_of(value)
    return _least(loop.lb) if loop is not None else 0


@dataclass(frozen=True)
class _Indices:
    """What the indices of a kernel say about who touches an element when."""

    kernel: func.FuncOp

    @cached_property
    def _parts(self) -> list[tuple[SSAValue, SSAValue, SSAValue]]:
        """`(t, t div n, t mod n)`: how the number of a tile is taken apart."""
        divisions: list[arith.DivUIOp] = []
        remainders: list[arith.RemUIOp] = []
        for op in self.kernel.walk():
            if isinstance(op, arith.DivUIOp):
                divisions.append(op)
            elif isinstance(op, arith.RemUIOp):
                remainders.append(op)
        return [
            (a.lhs, a.result, b.result)
            for a in divisions
            for b in remainders
            if a.lhs is b.lhs and _constant(a.rhs) is not None and _constant(a.rhs) == _constant(b.rhs)
        ]

    def ordered(self, read: _Box, write: _Box) -> bool:
        """
        Whether every element that both touch is read before it is written. The loops around both have to be known
        from the element; then both touch it in one iteration of them, and the order of the ops in it decides.
        """
        block, first, second = _meeting(read.op, write.op)
        known: set[SSAValue] = set()
        apart = False
        for a, b, size_a, size_b in zip(read.forms, write.forms, read.extents, write.extents, strict=True):
            dim_apart, told = _along_a_dim(a, b, size_a, size_b)
            apart |= dim_apart
            known |= told
        while more := {t for t, div, mod in self._parts if t not in known and div in known and mod in known}:
            known |= more
        if not all(loop.body.block.args[0] in known for loop in _loops_around(block)):
            return False
        return apart or first.is_before_in_block(second)


def _meeting(a: Operation, b: Operation) -> tuple[Block, Operation, Operation]:
    """The innermost block around both ops, and the op of it that holds each."""
    above: dict[Block, Operation] = {}
    op: Operation | None = a
    while op is not None and op.parent is not None:
        above[op.parent] = op
        op = op.parent_op()
    op = b
    while op is not None and op.parent is not None:
        if op.parent in above:
            return op.parent, above[op.parent], op
        op = op.parent_op()
    raise _Unknown


def _loops_around(block: Block) -> Iterator[scf.ForOp]:
    """The loops around `block`, the innermost first."""
    op = block.parent_op()
    while op is not None and not isinstance(op, func.FuncOp):
        if isinstance(op, scf.ForOp):
            yield op
        elif not isinstance(op, scf.IfOp):
            raise _Unknown
        op = op.parent_op()


def _stride(atom: SSAValue, factor: int) -> int:
    """How far two different values of `factor * atom` lie apart at least."""
    return factor * (_divisor(atom) or 1)


def _along_a_dim(a: _Form, b: _Form, size_a: int, size_b: int) -> tuple[bool, set[SSAValue]]:
    """
    What follows for two boxes that hold one element from where they lie along one dim: that there are none such,
    and which atoms, of those that both places depend on, have the same value in both.
    """
    if any(factor < 0 for _, factor in (*a.factors, *b.factors)):
        return False, set()
    shared = [pair for pair in a.factors if pair in b.factors]
    own_a = _Form(a.constant, tuple(pair for pair in a.factors if pair not in shared))
    own_b = _Form(b.constant, tuple(pair for pair in b.factors if pair not in shared))
    (begin_a, end_a), (begin_b, end_b) = _span(own_a, size_a), _span(own_b, size_b)
    told = _told(shared, max(end_a, end_b) - min(begin_a, begin_b))
    apart = end_a <= begin_b or end_b <= begin_a or _split(own_a, own_b, size_a, size_b)
    return apart and len(told) == len(shared), set(told)


def _span(form: _Form, extent: int) -> tuple[int, float]:
    """The begin of the first box at `form` and the end of the last one."""
    begin: int = form.constant
    end: float = form.constant + extent
    for atom, factor in form.factors:
        begin += factor * _least(atom)
        end += factor * _most(atom)
    return begin, end


def _split(a: _Form, b: _Form, size_a: int, size_b: int) -> bool:
    """
    Whether one form is the variable of a loop over whole vectors and the other that of the loop over the rest behind
    it: the last whole one ends where the rest begins.
    """
    for (whole, size), (rest, _) in (((a, size_a), (b, size_b)), ((b, size_b), (a, size_a))):
        if whole.constant != rest.constant or len(whole.factors) != 1 or len(rest.factors) != 1:
            return False
        (one, by_one), (other, by_other) = whole.factors[0], rest.factors[0]
        loop, behind = _loop_of(one), _loop_of(other)
        if loop is None or behind is None or by_one != 1 or by_other != 1:
            return False
        if loop.ub is behind.lb and not _divisor(loop.ub) % size and not _divisor(one) % size:
            return True
    return False


def _told(factors: list[tuple[SSAValue, int]], span: float) -> list[SSAValue]:
    """
    The atoms, those of the largest strides first, whose values an element tells: all that it may be part of, whatever
    the values of the atoms behind, ends before that of the next value begins.
    """
    atoms = sorted(factors, key=lambda pair: -_stride(*pair))
    found: list[SSAValue] = []
    for at, (atom, factor) in enumerate(atoms):
        if _stride(atom, factor) < sum(by * _most(other) for other, by in atoms[at + 1 :]) + span:
            break
        found.append(atom)
    return found
