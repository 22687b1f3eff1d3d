"""Give numbers to named extents of the whole module."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import VerifyException

from stepwell.diagnostics import compile_error
from stepwell.dialects.graph import GraphOp, OptionalType, SequenceType, dims_of, tensor_type
from stepwell.dialects.graph.shape import substitute, symbols_of
from stepwell.dialects.stepwell import DIM_NAMES_KEY, plain_data
from stepwell.transforms.graph.emitter import blocks_of, functions_of, set_type, update_function_type


@dataclass(frozen=True)
class SpecialiseDimsPass(ModulePass):
    """
    Give numbers to named extents of the whole module: `specialise-dims{dims="batch:4","height:224"}`.
    A name is a symbol's or, after an import that had to rename it, the model's own (`stepwell.dim_names`), which
    may stand for several symbols.
    Requires: verified IR. Ensures: none of the given symbols is in any type; a symbol that no argument has is an
    error. Run `infer-shapes` afterwards to refine what follows from the numbers.
    """

    name = "specialise-dims"
    dims: tuple[str, ...] = ()
    """Extents to fix, each `name:number`."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        values = self._values(op)
        if not values:
            return
        symbols: dict[str, list[str]] = {}
        own_names = plain_data(op.attributes.get(DIM_NAMES_KEY)) or {}
        for function in functions_of(op):
            for argument in function.body.block.args:
                for symbol in _symbols(argument.type):
                    symbols.setdefault(own_names.get(symbol, symbol), []).append(symbol)
                    symbols.setdefault(symbol, [symbol])
        if unknown := sorted(set(values) - symbols.keys()):
            known = ", ".join(sorted(symbols.keys() - own_names.keys())) or "none"
            raise compile_error(
                op, f"no argument has the extent {', '.join(unknown)}", f"the named extents: {known}"
            )
        values = {symbol: number for name, number in values.items() for symbol in symbols[name]}
        for function in functions_of(op):
            _substitute_in(function, values)

    def _values(self, op: ModuleOp) -> dict[str, int]:
        values: dict[str, int] = {}
        for entry in self.dims:
            name, _, number = entry.rpartition(":")
            if not (number.isascii() and number.isdigit()):
                raise compile_error(op, f"{entry!r} gives no extent", "write name:number, such as batch:4")
            values[name] = int(number)
        return values


def _symbols(type: Attribute) -> set[str]:
    if isinstance(type, SequenceType | OptionalType):
        return _symbols(type.element)
    if not isinstance(type, TensorType) or type.has_static_shape():
        return set()
    return {name for dim in dims_of(type) for name in symbols_of(dim)}


def _substitute_in(function: FuncOp, values: dict[str, int]) -> None:
    changed: dict[Attribute, Attribute] = {}

    def new_type(type: Attribute) -> Attribute:
        if (known := changed.get(type)) is not None:
            return known
        result = type
        if isinstance(type, SequenceType | OptionalType):
            assert isinstance(type, ParametrizedAttribute)
            result = type.__class__(new_type(type.element))
        elif isinstance(type, TensorType) and not type.has_static_shape():
            result = tensor_type([substitute(d, values) for d in dims_of(type)], type.element_type)
        changed[type] = result
        return result

    try:
        for block in blocks_of(function.body):
            for argument in list(block.args):
                set_type(argument, new_type(argument.type))
            for inner in block.ops:
                for result in list(inner.results):
                    set_type(result, new_type(result.type))
        for block in blocks_of(function.body):
            for inner in block.ops:
                if isinstance(inner, GraphOp):  # extents that were taken to be equal may not be so
                    inner.verify_()
    except VerifyException as error:
        given = ", ".join(f"{name}={number}" for name, number in values.items())
        raise compile_error(function, f"with {given}: {error}", "choose other extents") from error
    update_function_type(function)
