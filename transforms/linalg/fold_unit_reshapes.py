"""Read through reshapes that only add or drop extents of 1."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import tensor
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, ModuleOp, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.transforms.linalg.structure import contraction_operands, generic, maps_of


@dataclass(frozen=True)
class FoldUnitReshapesPass(ModulePass):
    """
    Read through reshapes that only add or drop extents of 1.

    A generic that reads `expand_shape` or `collapse_shape` of a value reads the value itself, its map without
    (or with a 0 for) the axes of extent 1: a statistic kept with `keepdims` reaches its reader without a reshape
    between, so that both can be one kernel. Requires: tensor stage. Ensures: no input of a `linalg.generic`, contractions
    excepted, is a reshape whose groups have at most one axis that is not 1.
    """

    name = "fold-unit-reshapes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        reshapes: dict[Operation, None] = {}
        for reader in [o for o in op.walk() if isinstance(o, linalg.GenericOp)]:
            if contraction_operands(reader) is None and may_rewrite():
                _fold(reader, reshapes)
        for reshape in reshapes:
            _erase_unread(reshape, reshapes)


def _erase_unread(reshape: Operation, reshapes: dict[Operation, None]) -> None:
    """Erase `reshape`, and the reshape that it alone read, and so on."""
    while reshape in reshapes and reshape.parent is not None and not reshape.results[0].uses:
        source = reshape.operands[0].owner
        Rewriter.erase_op(reshape)
        if not isinstance(source, Operation):
            return
        reshape = source


def _fold(reader: linalg.GenericOp, reshapes: dict[Operation, None]) -> None:
    inputs: list[SSAValue] = list(reader.inputs)
    maps = maps_of(reader)
    changed = False
    for k in range(len(inputs)):
        while isinstance(
            reshape := inputs[k].owner, tensor.ExpandShapeOp | tensor.CollapseShapeOp
        ) and isinstance(reshape.src.type, TensorType):
            if (read := _read_source(reshape, maps[k])) is None:
                break
            if not _names_all_dims([*maps[:k], read, *maps[k + 1 :]]):
                break  # a dim whose extent no operand says could not be run through
            inputs[k], maps[k] = reshape.src, read
            reshapes[reshape] = None
            changed = True
    if changed:
        new = generic(inputs, reader.outputs, maps, reader, reader.detach_region(reader.body))
        Rewriter.replace_op(reader, new)
        note_rewrite("read_through_reshapes", new.name, new.location)


def _names_all_dims(maps: list[AffineMap]) -> bool:
    named = {e.position for m in maps for e in m.results if isinstance(e, AffineDimExpr)}
    return len(named) == maps[0].num_dims


# expand(x)[i, 0, j] == x[i, j]   and   collapse(x)[i, j] == x[i, 0, j]
def _read_source(reshape: tensor.ExpandShapeOp | tensor.CollapseShapeOp, read: AffineMap) -> AffineMap | None:
    """The map that reads the source where `read` reads the reshaped value; None if a group is a real merge."""
    groups = _groups(reshape)
    expands = isinstance(reshape, tensor.ExpandShapeOp)
    split = (reshape.results[0] if expands else reshape.src).type
    assert isinstance(split, TensorType)
    extents = split.get_shape()
    zero = AffineExpr.constant(0)
    # A scalar has no group: all that it is made of are ones.
    exprs: list[AffineExpr] = [] if expands or groups else [zero] * len(extents)
    for i, group in enumerate(groups):
        wide = [axis for axis in group if extents[axis] != 1]
        if len(wide) > 1:
            return None
        if expands:
            exprs.append(read.results[wide[0]] if wide else zero)
        else:
            exprs.extend(read.results[i] if [axis] == wide else zero for axis in group)
    return AffineMap(read.num_dims, 0, tuple(exprs))


def _groups(reshape: tensor.ExpandShapeOp | tensor.CollapseShapeOp) -> list[list[int]]:
    groups: list[list[int]] = []
    for group in reshape.reassociation.data:
        assert isinstance(group, ArrayAttr)
        groups.append([axis.value.data for axis in group.data if isinstance(axis, IntegerAttr)])
    return groups
