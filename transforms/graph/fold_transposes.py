"""Compose chains of `graph.transpose` and drop those that move nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.graph import TransposeOp, dims_of
from stepwell.transforms.graph.emitter import Emitter, Rule, apply_rules, static_shape


def permutation_of(op: TransposeOp) -> tuple[int, ...]:
    """The axes of the input in the order of the result; without `perm` they are reversed."""
    given = op.get("perm")
    rank = len(dims_of(op.operands[0].type))
    return tuple(given) if given is not None else tuple(reversed(range(rank)))


# transpose(transpose(x, p), q) == transpose(x, r)   where r[i] = p[q[i]]
def compose_transposes(op: TransposeOp, emitter: Emitter) -> Sequence[SSAValue] | None:
    inner = op.operands[0].owner
    if not isinstance(inner, TransposeOp):
        return None
    p, q = permutation_of(inner), permutation_of(op)
    return [emitter.make("Transpose", inner.operands[0], perm=[p[axis] for axis in q])]


# transpose(x, p) == x   where p keeps the order of all axes whose extent is not 1
def drop_identity_transpose(op: TransposeOp, emitter: Emitter) -> Sequence[SSAValue] | None:
    permutation = permutation_of(op)
    if permutation == tuple(range(len(permutation))):
        return [op.operands[0]]
    # Only axes of extent 1 move: no element changes its place, so it is a reshape.
    shape = static_shape(op.operands[0])
    if shape is not None:
        moved = [axis for axis in permutation if shape[axis] != 1]
        if moved == sorted(moved):
            extents = emitter.ints([shape[axis] for axis in permutation])
            return [emitter.make("Reshape", op.operands[0], extents, allowzero=1)]
    return None


TRANSPOSE_RULES: list[Rule] = [compose_transposes, drop_identity_transpose]


@dataclass(frozen=True)
class FoldTransposesPass(ModulePass):
    """
    Compose chains of `graph.transpose` and drop those that move nothing.
    Requires: verified IR. Ensures: no `graph.transpose` reads another one, none is the identity, and one that moves
    extents of 1 only is a `graph.reshape`.
    """

    name = "fold-transposes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        apply_rules(op, ctx, {"Transpose": TRANSPOSE_RULES})
