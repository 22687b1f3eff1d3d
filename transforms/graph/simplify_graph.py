"""Drop the operators that change nothing, and make of shape computations the constants that they are."""

from dataclasses import dataclass
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from stepwell.transforms.graph.fold_transposes import TRANSPOSE_RULES
from stepwell.transforms.rules.loading import apply_patterns, load_rules

GRAPH_RULES = Path(__file__).with_name("simplify_graph.pat")
"""The rules; what slices of slices and the like are is left to graph-to-linalg, where they are one indexing map."""


@dataclass(frozen=True)
class SimplifyGraphPass(ModulePass):
    """
    Drop the operators that change nothing, and make of shape computations the constants that they are.
    Requires: verified IR. Ensures: no identity, no dropout of inference, no cast, transpose, reshape, expand, slice,
    pad or arithmetic that returns its operand; reshapes are not chained; an integer tensor of rank <= 1 whose elements
    follow from static extents is a constant; no unused pure op.
    """

    name = "simplify-graph"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        patterns = [
            pattern
            for path in (GRAPH_RULES, TRANSPOSE_RULES)
            for pattern in load_rules(path, ctx).patterns(ctx)
        ]
        apply_patterns(op, ctx, patterns)
