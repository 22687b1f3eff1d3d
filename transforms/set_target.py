"""Write the description of the machine to compile for on the module."""

from dataclasses import dataclass
from typing import Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from stepwell.dialects.stepwell import TARGET_KEY, TargetAttr
from stepwell.targets import resolve_target


@dataclass(frozen=True)
class SetTargetPass(ModulePass):
    """
    Write `stepwell.target = #stepwell.target<...>`, every number spelled out, on the module.
    Requires: nothing. Ensures: no later pass has to look at the machine or at a flag.
    """

    name = "set-target"
    target: str = "native"
    """A name that clang's -march knows, or "native": this machine, looked at now and nowhere else."""
    fp: Literal["default", "strict", "fast"] = "default"
    """"strict" keeps the source's order of operations, "fast" lets sums be reordered at will."""
    threads: int = 1
    """How many threads a compiled model uses unless it is told otherwise when it is loaded."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = resolve_target(self.target, fp=self.fp, threads=self.threads)
        op.attributes[TARGET_KEY] = TargetAttr.of(target)
