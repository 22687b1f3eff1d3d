"""Compute everything once: equal ops on equal operands become one."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, Region
from xdsl.passes import ModulePass
from xdsl.traits import IsolatedFromAbove, IsTerminator

from stepwell.dominance import dominator_tree
from stepwell.effects import Effect, effect_of
from stepwell.rewriting import fuse_locations, may_rewrite, note_rewrite

_Key = tuple[object, ...]


# f(x) ; f(x) == f(x), where f has no effect, and the first one dominates the second
class _Merger:
    """One walk over the IR with a hash table whose entries go when their scope ends."""

    def __init__(self):
        self.known: dict[_Key, list[Operation]] = {}
        self.memory = 0
        """Counts the writes passed so far; equal reads have to see the same number."""
        self.changed = False

    def region(self, region: Region) -> None:
        blocks = list(region.blocks)
        if len(blocks) == 1:
            self._leave(self._block(blocks[0]))
            return
        if not blocks:
            return
        children = dominator_tree(blocks)
        stack: list[tuple[Block, list[_Key] | None]] = [(blocks[0], None)]
        while stack:
            block, added = stack.pop()
            if added is not None:
                self._leave(added)
                continue
            self.memory += 1
            stack.append((block, self._block(block)))
            stack.extend((child, None) for child in children.get(block, ()))

    def _leave(self, added: list[_Key]) -> None:
        for key in reversed(added):
            ops = self.known[key]
            ops.pop()
            if not ops:
                del self.known[key]

    def _block(self, block: Block) -> list[_Key]:
        """Merge the ops of `block`; the keys that it added to the table."""
        added: list[_Key] = []
        op = block.first_op
        while op is not None:
            following = op.next_op
            if op.regions:
                self._nested(op)
            effect = effect_of(op)
            if effect is Effect.ANY:
                self.memory += 1
            elif effect is not Effect.ALLOCATE and op.results and not op.has_trait(IsTerminator):
                self._merge(op, effect, added)
            op = following
        return added

    def _nested(self, op: Operation) -> None:
        effect = effect_of(op)
        outer, before = self.known, self.memory
        if op.has_trait(IsolatedFromAbove):
            self.known = {}
        for region in op.regions:
            if effect is Effect.ANY:  # a loop may write after the read that is merged
                self.memory += 1
            self.region(region)
        self.known = outer
        if effect is not Effect.ANY:
            self.memory = before

    def _merge(self, op: Operation, effect: Effect, added: list[_Key]) -> None:
        key: _Key = (
            type(op),
            op.name,
            tuple(op.operands),
            frozenset(op.properties.items()),
            frozenset(op.attributes.items()),
            tuple(op.result_types),
            self.memory if effect is Effect.READ else -1,
        )
        candidates = self.known.setdefault(key, [])
        for known in reversed(candidates) if may_rewrite() else ():
            if all(a.is_structurally_equivalent(b) for a, b in zip(known.regions, op.regions, strict=True)):
                self._replace(op, known)
                return
        candidates.append(op)
        added.append(key)

    def _replace(self, op: Operation, known: Operation) -> None:
        for old, new in zip(op.results, known.results, strict=True):
            old.replace_all_uses_with(new)
            new.name_hint = new.name_hint or old.name_hint
        if known.location != op.location and not _is_constant(op):
            known.location = fuse_locations([known.location, op.location])
        op.detach()
        op.erase()
        self.changed = True
        note_rewrite("merge_equal_ops", known.name, known.location)


def _is_constant(op: Operation) -> bool:
    return not op.operands and not op.regions


def merge_equal_ops(op: Operation) -> bool:
    """Merge equal ops in the regions of `op`; True if there were any."""
    merger = _Merger()
    for region in op.regions:
        merger.region(region)
    return merger.changed


@dataclass(frozen=True)
class CsePass(ModulePass):
    """
    Merge ops that compute the same: same op, operands, attributes and regions, no effects; reads of
    memory if nothing is written between them.
    Requires: verified IR. Ensures: no two equal pure ops where one dominates the other.
    """

    name = "cse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        merge_equal_ops(op)

    def apply_to_function(self, ctx: Context, function: FuncOp) -> None:
        merge_equal_ops(function)
