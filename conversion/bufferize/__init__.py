"""Turn tensors into buffers: every write in place unless a later read needs the old value."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import FunctionType, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.passes import ModulePass

from stepwell.conversion.bufferize.buffers import FunctionRewriter, Globals, memref_of
from stepwell.conversion.bufferize.place_results import place_results
from stepwell.conversion.linalg_to_loops import lower_pads
from stepwell.diagnostics import compile_error
from stepwell.dialects.schedule import RUNTIME_KEY


@dataclass(frozen=True)
class BufferizePass(ModulePass):
    """
    Turn tensors into memrefs, one shot, in destination-passing style: kernels write their last arguments
    and return nothing, `@main` returns buffers marked `stepwell.output`.
    Requires: no linalg op on tensors. Ensures: no tensor is left.
    """

    name = "bufferize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        functions = {f.sym_name.data: f for f in op.body.block.ops if isinstance(f, FuncOp)}
        kernels = {
            name: len(f.function_type.outputs)
            for name, f in functions.items()
            if is_kernel(f) or is_runtime(f)
        }
        module_globals = Globals(op)
        for func in functions.values():
            if is_runtime(func):
                inputs = [memref_of(t) if isinstance(t, TensorType) else t for t in func.function_type.inputs]
                func.properties["function_type"] = FunctionType.from_lists(inputs, [])
                continue
            if func.is_declaration:
                if any(
                    isinstance(t, TensorType)
                    for t in (*func.function_type.inputs, *func.function_type.outputs)
                ):
                    raise compile_error(func, "a declaration on tensors has no buffers", "define it")
                continue
            lower_pads(func)
            place_results(func, is_kernel(func))
            FunctionRewriter(func, kernels, module_globals).run()
        for inner in op.walk():
            for value in (*inner.operands, *inner.results):
                if isinstance(value.type, TensorType):
                    raise compile_error(inner, f"{value.type} is still a tensor", "report this as a bug")


def is_kernel(func: FuncOp) -> bool:
    return "stepwell.kernel" in func.attributes


def is_runtime(func: FuncOp) -> bool:
    return RUNTIME_KEY in func.attributes
