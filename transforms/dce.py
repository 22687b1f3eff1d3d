"""Remove what nothing depends on."""

from collections.abc import Iterable
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr, SymbolRefAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation
from xdsl.passes import ModulePass

from stepwell.effects import is_removable, is_unused


# an op without uses and without effects == nothing
def remove_dead_ops(op: Operation) -> bool:
    """Erase the dead ops nested in `op`, users before producers; True if there were any."""
    changed = False
    for region in op.regions:
        for block in reversed(list(region.blocks)):
            inner = block.last_op
            while inner is not None:
                previous = inner.prev_op
                if is_unused(inner) and is_removable(inner):
                    inner.detach()
                    inner.erase()
                    changed = True
                elif inner.regions:
                    changed |= remove_dead_ops(inner)
                    if not inner.results and is_removable(inner):
                        inner.detach()
                        inner.erase()
                inner = previous
    return changed


# a private function that nothing names == nothing
def remove_dead_functions(module: ModuleOp) -> bool:
    """Erase private functions that no public one reaches; True if there were any."""
    private = {
        op.sym_name.data: op
        for op in module.body.block.ops
        if isinstance(op, FuncOp) and op.sym_visibility == StringAttr("private")
    }
    if not private:
        return False
    reached: set[str] = set()
    roots = [op for op in module.body.block.ops if op not in private.values()]
    pending = _symbols([*roots], module)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            if name in private:
                pending |= _symbols([private[name]], None) - reached
    dead = [op for name, op in private.items() if name not in reached]
    for op in dead:
        op.detach()
        op.erase()
    return bool(dead)


def _symbols(roots: Iterable[Operation], module: ModuleOp | None) -> set[str]:
    """The symbols that the attributes of `roots` and the ops inside them, and of `module`, refer to."""
    found: set[str] = set()

    def visit(attribute: Attribute) -> None:
        if isinstance(attribute, SymbolRefAttr):
            found.add(attribute.root_reference.data)
        elif isinstance(attribute, ArrayAttr):
            for element in attribute:
                visit(element)
        elif isinstance(attribute, DictionaryAttr):
            for element in attribute.data.values():
                visit(element)

    for root in roots:
        for op in root.walk():
            for attribute in (*op.properties.values(), *op.attributes.values()):
                visit(attribute)
    if module is not None:
        for attribute in module.attributes.values():
            visit(attribute)
    return found


@dataclass(frozen=True)
class DcePass(ModulePass):
    """
    Remove ops that have no effect and whose results are not used, and private functions nothing names.
    Requires: verified IR. Ensures: every op that is left has a use or an effect.
    """

    name = "dce"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        remove_dead_ops(op)
        remove_dead_functions(op)

    def apply_to_function(self, ctx: Context, function: FuncOp) -> None:
        remove_dead_ops(function)
