"""Run-time checks of what the graph's types take for granted of extents that only the run knows."""

from typing import TYPE_CHECKING

from xdsl.dialects import arith, cf
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, Operation

from stepwell.dialects.graph import Dim, Expr, GraphOp, dims_of
from stepwell.dialects.graph.core import Premise, recorded_premises

if TYPE_CHECKING:
    from stepwell.conversion.graph_to_linalg.lowering import Lowering


def check_block(low: "Lowering", block: Block) -> None:
    """Check at the end of the block being made what the ops of `block` need and is known already."""
    for op in block.ops:
        if isinstance(op, GraphOp):
            low.op = op
            check_op(low, op)
    low.op = None


def check_op(low: "Lowering", op: Operation) -> None:
    """Check what `op` takes for granted, as far as it is known here and has not been checked before."""
    if not isinstance(op, GraphOp):
        return
    results = [r.type for r in op.results if isinstance(r.type, TensorType) and not r.type.has_static_shape()]
    operands = [
        v.type for v in op.operands if isinstance(v.type, TensorType) and not v.type.has_static_shape()
    ]
    if not results and not operands:
        return
    with recorded_premises() as premises:
        op.infer_types()
    for premise in dict.fromkeys(premises):
        _check(low, premise)
    for type in results:
        for dim in dims_of(type):
            check_extent(low, dim)


def check_extent(low: "Lowering", dim: Dim) -> None:
    """Check that an extent which may come out below 0 does not."""
    if not is_extent(dim):
        _check(low, Premise(dim, 0, "at least"))


def is_extent(dim: Dim) -> bool:
    """Whether the form of `dim` says that it is not negative."""
    if isinstance(dim, int):
        return dim >= 0
    for monomial, factor in dim.terms.items():
        if factor < 0:
            return False
        for atom in monomial:
            some = any if atom.kind == "max" else all
            if atom.kind not in ("symbol", "unknown") and not some(is_extent(a) for a in atom.args):
                return False
    return True


def _check(low: "Lowering", premise: Premise) -> None:
    """`cf.assert` of a premise that can be decided here, once wherever it holds from then on."""
    dims = (premise.a, premise.b)
    if premise in low.checked or not all(map(low.resolvable, dims)):
        return
    low.checked.add(premise)
    a, b = values = [low.index(d) for d in dims]
    holds = low.value(arith.CmpiOp(a, b, "sge" if premise.relation == "at least" else "eq"))
    may_be_one = {"broadcasts": dims, "stretches": dims[:1]}.get(premise.relation)
    if may_be_one:
        for dim, value in zip(may_be_one, values, strict=False):
            if isinstance(dim, Expr):
                is_one = low.value(arith.CmpiOp(value, low.constant(1), "eq"))
                holds = low.value(arith.OrIOp(holds, is_one))
    why = {
        "equal": f"the extents {premise.a} and {premise.b} must be equal",
        "broadcasts": f"the extents {premise.a} and {premise.b} must broadcast to each other",
        "stretches": f"the extent {premise.a} must be 1" + (f" or {premise.b}" if premise.b != 1 else ""),
        "at least": f"the extent {premise.a} must be at least {premise.b}",
    }[premise.relation]
    low.add(cf.AssertOp(holds, _message(low, why)))


def _message(low: "Lowering", why: str) -> str:
    """
    What: why; what to do. The place is left to the op's location: a text that names the file of the module
    would differ between a model and the `.ir` file of a stage of it.
    """
    assert low.op is not None, "a check is made for an op"
    return f"{low.op.name}: {why}; run with inputs of other shapes"
