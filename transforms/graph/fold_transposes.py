"""Compose chains of `graph.transpose`, drop those that move nothing, transpose before padding."""

from dataclasses import dataclass
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from stepwell.transforms.rules.loading import apply_patterns, load_rules

TRANSPOSE_RULES = Path(__file__).with_name("fold_transposes.pat")


@dataclass(frozen=True)
class FoldTransposesPass(ModulePass):
    """
    Compose chains of `graph.transpose` and drop those that move nothing.
    Requires: verified IR. Ensures: no `graph.transpose` reads another one, none is the identity, and one that moves
    extents of 1 only is a `graph.reshape`.
    """

    name = "fold-transposes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        apply_patterns(op, ctx, load_rules(TRANSPOSE_RULES, ctx).patterns(ctx))
