"""Which block of a region every path to another one goes through."""

from collections.abc import Iterable, Sequence

from xdsl.ir import Block


def dominator_tree(blocks: Sequence[Block]) -> dict[Block, list[Block]]:
    """
    The children of each block that can be reached from the first one.
    Reference: Cooper, Harvey, Kennedy, "A simple, fast dominance algorithm", 2001.
    """
    order = _reverse_postorder(blocks[0])
    number = {block: index for index, block in enumerate(order)}
    predecessors: dict[Block, list[Block]] = {block: [] for block in order}
    for block in order:
        for successor in _successors(block):
            predecessors[successor].append(block)
    parent: dict[Block, Block] = {order[0]: order[0]}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [p for p in predecessors[block] if p in parent]
            best = known[0]
            for other in known[1:]:
                while best is not other:
                    while number[best] > number[other]:
                        best = parent[best]
                    while number[other] > number[best]:
                        other = parent[other]
            if parent.get(block) is not best:
                parent[block] = best
                changed = True
    children: dict[Block, list[Block]] = {}
    for block in order[1:]:
        children.setdefault(parent[block], []).append(block)
    return children


def _reverse_postorder(entry: Block) -> list[Block]:
    order: list[Block] = []
    seen = {entry}
    stack: list[tuple[Block, Iterable[Block]]] = [(entry, iter(_successors(entry)))]
    while stack:
        block, rest = stack[-1]
        for successor in rest:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(_successors(successor))))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]


def _successors(block: Block) -> tuple[Block, ...]:
    return tuple(block.last_op.successors) if block.last_op is not None else ()
