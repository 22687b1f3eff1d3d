"""Refine the type of every value from the arguments on; extents that nothing defines get a name."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Attribute, Operation, Region
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import VerifyException

from stepwell.diagnostics import compile_error
from stepwell.dialects.graph import Dim, Expr, GraphOp, dims_of, fresh_symbol, tensor_type
from stepwell.transforms.graph.emitter import functions_of, set_type, update_function_type


@dataclass(frozen=True)
class InferShapesPass(ModulePass):
    """
    Refine the type of every value from the arguments on; extents that nothing defines get a name.
    Requires: verified IR. Ensures: every result has the type that its op infers, where the op knows less the type that
    it had, and no unnamed extent; the function type of each function follows from its body.
    """

    name = "infer-shapes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in functions_of(op):
            for argument in function.body.block.args:
                set_type(argument, _named(argument.type, function))
            infer_region(function.body)
            update_function_type(function)


def infer_region(region: Region) -> None:
    """Refine the results of the ops in a region, in program order."""
    for block in region.blocks:
        for op in block.ops:
            for inner in op.regions:
                infer_region(inner)
            if isinstance(op, GraphOp):
                _infer(op)


def _infer(op: GraphOp) -> None:
    try:
        types: Sequence[Attribute] = op.infer_types()
    except VerifyException as error:
        raise compile_error(op, str(error), "correct the model") from error
    for result, type in zip(list(op.results), types, strict=True):
        if result.type != type:
            set_type(result, _named(merge(type, result.type), op))
        else:
            set_type(result, _named(type, op))


def merge(inferred: Attribute, known: Attribute) -> Attribute:
    """The inferred type, with the extents of the known one where the inferred ones have no name or no number."""
    if not isinstance(inferred, TensorType) or not isinstance(known, TensorType):
        return inferred
    if inferred.get_num_dims() != known.get_num_dims():
        return inferred
    dims: list[Dim] = []
    for new, old in zip(dims_of(inferred), dims_of(known), strict=True):
        dims.append(old if isinstance(new, Expr) and (not new.is_known or isinstance(old, int)) else new)
    return tensor_type(dims, inferred.element_type)


def _named(type: Attribute, op: Operation) -> Attribute:
    if not isinstance(type, TensorType) or type.has_static_shape():
        return type
    dims = [fresh_symbol(op) if isinstance(d, Expr) and not d.is_known else d for d in dims_of(type)]
    return tensor_type(dims, type.element_type)
