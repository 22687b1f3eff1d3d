"""`graph-to-linalg`: whole operators become `linalg.generic` on tensors, and what feeds them."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ComplexType, FunctionType, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block
from xdsl.passes import ModulePass

from stepwell.conversion.graph_to_linalg import (
    contraction,
    control,
    convolution,
    data_movement,
    elementwise,
    images,
    indexing,
    linear_algebra,
    maps,
    normalization,
    pooling,
    quantization,
    randomness,
    recurrent,
    reduction,
    resize,
    sampling,
    selection,
    sequences,
    signals,
    sorting,
    text,
    trees,
)
from stepwell.conversion.graph_to_linalg.checks import check_block
from stepwell.conversion.graph_to_linalg.lowering import LOWERINGS, Lowering, lowered_type, lowers
from stepwell.diagnostics import unsupported

__all__ = [
    "LOWERINGS", "GraphToLinalgPass", "Lowering", "contraction", "control", "convolution", "data_movement",
    "elementwise", "images", "indexing", "linear_algebra", "lowers", "maps", "normalization", "pooling", "quantization", "randomness",
    "recurrent", "reduction", "resize", "sampling", "selection", "sequences", "signals", "sorting", "text", "trees",
]  # fmt: skip


@dataclass(frozen=True)
class GraphToLinalgPass(ModulePass):
    """
    Lower every graph op to `linalg.generic` on tensors, `tensor`, `arith`, `math` and `scf`.
    What the types take for granted of extents that only the run knows (that two are equal, that none is negative)
    becomes `cf.assert`: at the head of the function where its arguments decide, else in front of the op.
    Requires: inferred shapes. Ensures: no graph op, no encoding and no signed type is left; an op that has
    no lowering is an error at its place.
    """

    name = "graph-to-linalg"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in list(op.body.block.ops):
            if isinstance(function, FuncOp) and function.body.blocks:
                _convert(ctx, op, function)


def _convert(ctx: Context, module: ModuleOp, function: FuncOp) -> None:
    """Build the body of `function` anew, then drop the old one."""
    for type in (*function.function_type.inputs, *function.function_type.outputs):
        if isinstance(type, TensorType) and isinstance(type.element_type, ComplexType):
            raise unsupported(function, f"it takes or returns {type}", "keep to tensors of real numbers")
    old = function.body.block
    new = Block(arg_types=[lowered_type(t) for t in function.function_type.inputs])
    lowering = Lowering(ctx, new)
    for before, after in zip(old.args, new.args, strict=True):
        after.name_hint, after.location = before.name_hint, before.location
        lowering.bind(before, after)
    check_block(lowering, old)
    lowering.convert_block(old)
    function.body.detach_block(old)
    old.erase(safe_erase=False)
    function.body.add_block(new)
    known = {f.sym_name.data for f in module.body.block.ops if isinstance(f, FuncOp)}
    module.body.block.add_ops(d for name, d in lowering.runtime_kernels.items() if name not in known)
    types = function.function_type
    function.properties["function_type"] = FunctionType.from_lists(
        [lowered_type(t) for t in types.inputs], [lowered_type(t) for t in types.outputs]
    )
