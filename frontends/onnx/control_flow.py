"""`If`, `Loop`, `Scan` and `SequenceMap`: subgraphs become regions whose argument types hold in every iteration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp, TensorType, UnrankedTensorType, i1, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from stepwell.dialects.graph import (
    CastLikeOp,
    CastOp,
    Dim,
    Expr,
    GraphOp,
    IdentityOp,
    IfOp,
    NothingType,
    SequenceType,
    WhereOp,
    YieldOp,
    dims_of,
    fresh_symbol,
    joined,
    known_integers,
    tensor_type,
)
from stepwell.dialects.graph.elementwise import BinaryOp, UnaryOp, VariadicOp
from stepwell.errors import UnsupportedError
from stepwell.frontends.onnx import building
from stepwell.frontends.onnx.reading import failure

if TYPE_CHECKING:
    from stepwell.frontends.onnx.importing import Importer, Subgraph

_GENERALISATIONS = 8
"""How often the carried types of a loop may grow before they are given up."""


def build_with_regions(
    importer: "Importer",
    kind: type[GraphOp],
    operands: Sequence[SSAValue | None],
    attributes: dict[str, Any],
    subgraphs: "Mapping[str, Subgraph]",
) -> Sequence[SSAValue | None]:
    """The results of an op with regions; an `If` whose condition is known is the branch that it takes."""
    name = kind.ONNX_NAME
    if name == "If":
        known = known_integers(operands[0])
        if known is not None and len(known) == 1:
            return importer.run_subgraph(subgraphs["then_branch" if known[0] else "else_branch"], None)
        if _squeezes_or_not(subgraphs):
            return importer.run_subgraph(subgraphs["then_branch"], None)
    names = [region for region, _ in kind.get_irdl_definition().regions]
    types = _argument_types(importer, name, operands, attributes)
    own: set[str] = set()
    for _ in range(_GENERALISATIONS):
        regions = [_region(importer, subgraphs[region], types) for region in names]
        raised = _at_one_rank(importer, regions) if name == "If" else {}
        wider = _wider_types(importer, name, operands, attributes, types, regions, own)
        if wider is None:
            made = kind.build(operands, building.properties(kind, attributes), regions=regions)
            importer.raised.update((made.results[place], why) for place, why in raised.items())
            return importer.place(made)
        types = wider
        for region in regions:
            region.detach_block(region.block).erase()
    why = "the types of its carried values do not settle"
    raise UnsupportedError(f"{importer.where}: {why}; give static shapes")


# Exporters write squeeze(x, axis) of an extent that they do not know as `if extent == 1: squeeze(x) else: x`. No rank
# is known after that, so the model is taken to want what it says: an extent of 1, which Squeeze has checked in the run.
def _squeezes_or_not(subgraphs: "Mapping[str, Subgraph]") -> bool:
    """Whether the branches of an `If` differ by nothing but a Squeeze with given axes."""
    graphs = [subgraphs[branch].graph for branch in ("then_branch", "else_branch")]
    if any(len(graph.output) != 1 for graph in graphs):
        return False
    work = [[node for node in graph.node if node.op_type != "Constant"] for graph in graphs]
    if [[node.op_type for node in nodes] for nodes in work] != [["Squeeze"], ["Identity"]]:
        return False
    (squeeze,), (identity,) = work
    given = len(squeeze.input) == 2 or any(attribute.name == "axes" for attribute in squeeze.attribute)
    return given and squeeze.input[0] == identity.input[0]


# x + y == unsqueeze(x, 0) + y   where y has a greater rank than x
def _at_one_rank(importer: "Importer", regions: Sequence[Region]) -> dict[int, str]:
    """
    What a branch decides at run time may be extents, not ranks: a rank is part of every type behind it. So where the
    branches give an output two ranks, the lower gets extents of 1 in front. The places of such outputs, with the words
    for `refuse_told_ranks`, which sees to it that nothing tells the difference.
    """
    raised: dict[int, str] = {}
    ends = [region.block.last_op for region in regions]
    assert all(end is not None for end in ends), "a region ends in a yield"
    pairs = zip(*(end.operands for end in ends if end is not None), strict=False)
    for place, values in enumerate(pairs):
        ranks = [v.type.get_num_dims() for v in values if isinstance(v.type, TensorType)]
        if len(ranks) < 2 or ranks[0] == ranks[1]:
            continue
        lower = ranks.index(min(ranks))
        end = ends[lower]
        assert end is not None and end.parent is not None
        block = end.parent
        end.detach()
        with importer.inside(block):
            axes = importer.constant(np.arange(max(ranks) - min(ranks)))
            (end.operands[place],) = importer.emit("Unsqueeze", values[lower], axes)
        block.add_op(end)
        raised[place] = (
            f"{importer.where}: its branches give output {place} the ranks {ranks[0]} and {ranks[1]}"
        )
    return raised


def refuse_told_ranks(raised: Mapping[SSAValue, str]) -> None:
    """An error if an op can tell that a value of `raised` may have fewer extents, without the ones in front."""
    reasons, pending = dict(raised), list(raised)
    while pending:
        value = pending.pop()
        for use in list(value.uses):
            op = use.operation
            if isinstance(op, CastLikeOp) and use.index == 1:
                continue  # of this operand nothing but the element type counts
            if isinstance(op, YieldOp) and isinstance(branch := op.parent_op(), IfOp):
                results = [branch.results[use.index]]
            elif isinstance(op, UnaryOp | BinaryOp | VariadicOp | WhereOp | CastOp | CastLikeOp | IdentityOp):
                results = op.results
                if any(_decides_rank(v, op) for v in op.operands if v not in reasons):
                    continue
            else:
                why = f"{reasons[value]}, and {op.name} can tell them apart"
                raise UnsupportedError(f"{why}; reshape it to one rank in both")
            for result in results:
                if result not in reasons:
                    reasons[result] = reasons[value]
                    pending.append(result)


def _decides_rank(value: SSAValue, op: Operation) -> bool:
    """Whether an operand of an element-wise op has as many extents as the result."""
    types = (value.type, op.results[0].type)
    ranks = [t.get_num_dims() for t in types if isinstance(t, TensorType)]
    return len(ranks) == 2 and ranks[0] == ranks[1]


def _argument_types(
    importer: "Importer", name: str, operands: Sequence[SSAValue | None], attributes: dict[str, Any]
) -> list[Attribute]:
    """The types of the arguments of the one region of `name` (the branches of an `If` have none)."""
    if name == "If":
        return []
    if name == "Loop":
        carried = [v.type for v in operands[2:] if v is not None]
        return [tensor_type([], i64), tensor_type([], i1), *carried]
    given = [v.type for v in operands if v is not None]
    if name == "SequenceMap":
        return [_map_argument(importer, t) for t in given]
    count = attributes["num_scan_inputs"]
    states = len(given) - count
    axes = attributes.get("scan_input_axes") or [0] * count
    if count < 1 or states < 0 or len(axes) != count:
        why = f"{len(given)} inputs, {count} of them scanned, along {len(axes)} axes"
        raise failure(importer.where, why, "make the numbers fit")
    for place, axis in enumerate(axes, states):
        type = given[place]
        if not isinstance(type, TensorType) or not -type.get_num_dims() <= axis < type.get_num_dims():
            raise failure(importer.where, f"scan axis {axis} of {type}", "use an axis of the input")
        dims = dims_of(type)
        del dims[axis]
        given[place] = tensor_type(dims, type.element_type)
    return given


def _map_argument(importer: "Importer", type: Attribute) -> Attribute:
    """What a body is given of an input of `SequenceMap`: the elements of a sequence, each with extents of its own."""
    if not isinstance(type, SequenceType):
        return type
    element = type.element
    if isinstance(element, UnrankedTensorType | NothingType):
        why = "the rank of the elements of a sequence is not known"
        raise UnsupportedError(f"{importer.where}: {why}; declare their shape (extents may be symbols)")
    if not isinstance(element, TensorType):
        return element
    dims = [d if isinstance(d, int) else fresh_symbol(importer.function) for d in dims_of(element)]
    return tensor_type(dims, element.element_type)


def _region(importer: "Importer", subgraph: "Subgraph", types: Sequence[Attribute]) -> Region:
    block = Block(arg_types=types)
    # Symbols are counted function by function: while it grows, the region has to stand in the function.
    scaffold = ModuleOp(Region(block))
    importer.block.add_op(scaffold)
    results = importer.run_subgraph(subgraph, block)
    block.add_op(YieldOp.build(results))
    region = scaffold.detach_region(scaffold.body)
    scaffold.detach()
    scaffold.erase()
    return region


def _wider_types(
    importer: "Importer",
    name: str,
    operands: Sequence[SSAValue | None],
    attributes: dict[str, Any],
    types: Sequence[Attribute],
    regions: Sequence[Region],
    own: set[str],
) -> list[Attribute] | None:
    """
    Argument types that hold the carried values of every iteration, None if `types` do: an extent that changes from one
    iteration to the next becomes a symbol of its own (collected in `own`).
    """
    if name not in ("Loop", "Scan"):
        return None
    first = 2 if name == "Loop" else 0
    carried = len(operands) - (2 if name == "Loop" else attributes["num_scan_inputs"])
    last = regions[0].block.last_op
    assert last is not None, "a region ends in a yield"
    handed_out = list(last.operands)[1 if name == "Loop" else 0 :][:carried]
    wider, changed = list(types), False
    for place, value in enumerate(handed_out, first):
        old, new = wider[place], value.type
        if old == new:
            continue
        if not isinstance(old, TensorType) or not isinstance(new, TensorType):
            if (both := joined(old, new)) is None:
                raise UnsupportedError(
                    f"{importer.where}: a carried value is {old} and then {new}; keep its type"
                )
            changed |= both != old
            wider[place] = both
            continue
        if old.get_num_dims() != new.get_num_dims():
            raise UnsupportedError(f"{importer.where}: a carried value changes its rank; keep its rank")
        mixed: list[Dim] = []
        for a, b in zip(dims_of(old), dims_of(new), strict=True):
            if a != b and not (isinstance(a, Expr) and a.symbol_name in own):
                a = fresh_symbol(importer.function)
                own.add(str(a))
                changed = True
            mixed.append(a)
        wider[place] = tensor_type(mixed, old.element_type)
    return wider if changed else None
