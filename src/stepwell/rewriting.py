"""The one rewrite driver: patterns indexed by op class, benefit, an iteration cap, locations carried."""

from collections.abc import Sequence

from xdsl.dialects.builtin import UnknownLoc
from xdsl.ir import Operation, Region
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriterListener,
    PatternRewriteWalker,
    RewritePattern,
)


def rewrite(op: Operation | Region, patterns: Sequence[RewritePattern]) -> bool:
    """Apply `patterns` to the ops nested in `op` until none matches; True if anything changed."""
    current: list[Operation] = []

    class _Tracking(RewritePattern):
        inner = GreedyRewritePatternApplier(list(patterns), dce_enabled=False)

        def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
            current[:] = [op]
            self.inner.match_and_rewrite(op, rewriter)

    def carry(new: Operation) -> None:
        if current and isinstance(new.location, UnknownLoc):
            new.location = current[0].location

    listener = PatternRewriterListener(operation_insertion_handler=[carry])
    walker = PatternRewriteWalker(_Tracking(), listener=listener)
    regions = [op] if isinstance(op, Region) else list(op.regions)
    changed = False
    for region in regions:
        changed |= walker.rewrite_region(region)
    return changed
