"""Whether IR is valid: every op's own rules, SSA dominance, and rules that xDSL leaves unchecked."""

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, BlockArgument, ErasedSSAValue, Operation, Region, SSAValue
from xdsl.traits import IsolatedFromAbove, IsTerminator, NoTerminator
from xdsl.utils.exceptions import VerifyException

from stepwell.compat import deep_recursion
from stepwell.diagnostics import InvalidIR
from stepwell.dominance import dominator_tree


def verify_module(module: Operation) -> None:
    """Raise `InvalidIR` on the first op nested in `module` that breaks a rule."""
    with deep_recursion():
        _verify_op(module, set())


def _verify_op(op: Operation, defined: set[SSAValue]) -> None:
    """Check `op`; `defined` are the values that it may use."""
    for index, operand in enumerate(op.operands):
        if operand not in defined:
            _raise_undefined(op, index, operand)
    if op.successors:
        _verify_successors(op)
    try:
        op.verify_()
    except InvalidIR:
        raise
    except VerifyException as error:
        raise InvalidIR(op, str(error)) from error
    for region in op.regions:
        isolated = op.has_trait(IsolatedFromAbove, value_if_unregistered=False)
        _verify_region(op, region, set() if isolated else defined)


def _raise_undefined(op: Operation, index: int, operand: SSAValue) -> None:
    name = f"%{operand.name_hint}" if operand.name_hint else f"operand {index}"
    if isinstance(operand, ErasedSSAValue):
        raise InvalidIR(op, f"{name} was erased")
    if isinstance(operand, BlockArgument):
        raise InvalidIR(op, f"{name} is an argument of a block that does not dominate this use")
    raise InvalidIR(op, f"{name} does not dominate this use: it is defined later or in another region")


def _verify_successors(op: Operation) -> None:
    block = op.parent
    if block is None or block.last_op is not op:
        raise InvalidIR(op, "an op with successors must end its block")
    for successor in op.successors:
        if successor.parent is not block.parent:
            raise InvalidIR(op, "branches to a block of another region")
        if block.parent is not None and successor is block.parent.blocks.first:
            raise InvalidIR(op, "branches to the entry block of its region")


def _verify_region(op: Operation, region: Region, defined: set[SSAValue]) -> None:
    blocks = list(region.blocks)
    if not blocks:
        return
    if isinstance(op, ModuleOp):
        # The body of a module is a graph region: order does not matter there.
        visible = {*defined, *(result for inner in blocks[0].ops for result in inner.results)}
        for inner in blocks[0].ops:
            _verify_op(inner, visible)
        return
    needs_terminator = not op.has_trait(NoTerminator, value_if_unregistered=True)
    for block in blocks:
        last = block.last_op
        if last is None and needs_terminator:
            raise InvalidIR(op, "has a block without a terminator")
        if last is not None and (needs_terminator or len(blocks) > 1):
            if not last.has_trait(IsTerminator, value_if_unregistered=True):
                raise InvalidIR(last, f"ends a block of {op.name} but is no terminator")
        for inner in block.ops:
            if inner is not last and inner.has_trait(IsTerminator, value_if_unregistered=False):
                raise InvalidIR(inner, "is a terminator but does not end its block")
    if len(blocks) == 1:
        _verify_block(blocks[0], defined, ())
        return
    children = dominator_tree(blocks)
    stack: list[tuple[Block, list[SSAValue] | None]] = [(blocks[0], None)]
    while stack:
        block, added = stack.pop()
        if added is not None:
            defined.difference_update(added)
            continue
        stack.append((block, _verify_block(block, defined, None)))
        stack.extend((child, None) for child in children.get(block, ()))


def _verify_block(block: Block, defined: set[SSAValue], keep: tuple[()] | None) -> list[SSAValue]:
    """Check the ops of `block`; the values it adds to `defined` stay there only if `keep` is None."""
    added: list[SSAValue] = list(block.args)
    defined.update(added)
    for op in block.ops:
        _verify_op(op, defined)
        added.extend(op.results)
        defined.update(op.results)
    if keep is not None:
        defined.difference_update(added)
    return added
