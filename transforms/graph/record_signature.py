"""Write the interface of `@main` down before any pass can change it."""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    UnrankedTensorType,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute
from xdsl.passes import ModulePass

from stepwell.diagnostics import compile_error, unsupported
from stepwell.dialects.graph import (
    STRING,
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    dims_of,
    numpy_dtype,
)
from stepwell.dialects.text import STRING as TEXT_STRING

SIGNATURE_KEY = "stepwell.signature"
"""The module attribute that holds the interface."""


def describe(op: FuncOp, name: str, type: Attribute) -> DictionaryAttr:
    """
    One input or output: `{name, kind, dtype, shape}`; a symbolic extent is a string. Of a sequence, optional or map dtype
    and shape are those of the tensors that it is made of, of a map its values; there is no shape where their rank is open.
    """
    layers = ""
    while isinstance(type, SequenceType | OptionalType | MapType):
        if isinstance(type, MapType):
            layers += f"map from {_dtype_name(type.key)} to "
        else:
            layers += "sequence of " if isinstance(type, SequenceType) else "optional "
        type = type.element
    if not isinstance(type, TensorType | UnrankedTensorType | NothingType):
        raise unsupported(op, f"{name} has the type {type}", "use tensors at the interface")
    entries: dict[str, Attribute] = {
        "name": StringAttr(name),
        "kind": StringAttr(f"{layers}tensor"),
        "dtype": StringAttr(_dtype_name(type.element_type)),
    }
    if isinstance(type, TensorType):
        shape = [IntegerAttr(d, i64) if isinstance(d, int) else StringAttr(str(d)) for d in dims_of(type)]
        entries["shape"] = ArrayAttr[Attribute](shape)
    return DictionaryAttr(entries)


def _dtype_name(element: Attribute) -> str:
    return "string" if element in (STRING, TEXT_STRING) else numpy_dtype(element).name


@dataclass(frozen=True)
class RecordSignaturePass(ModulePass):
    """
    Write the interface of `@main` down before any pass can change it.
    Requires: a public function `@main`. Ensures: `stepwell.signature = {inputs = [...], outputs = [...]}` on the
    module, each entry `{name, kind, dtype, shape}` in the order of `@main`; one that is there already is kept.
    """

    name = "record-signature"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if SIGNATURE_KEY in op.attributes:
            return
        for function in op.ops:
            if isinstance(function, FuncOp) and function.sym_name.data == "main":
                op.attributes[SIGNATURE_KEY] = _signature(function)
                return
        raise compile_error(op, "the module has no function @main", "name the entry function `main`")


def _signature(function: FuncOp) -> DictionaryAttr:
    def entries(types: list[Attribute], attributes: ArrayAttr[DictionaryAttr] | None, kind: str) -> ArrayAttr:
        described: list[DictionaryAttr] = []
        for place, type in enumerate(types):
            own = attributes.data[place].data if attributes else {}
            name = own.get("graph.name", StringAttr(f"{kind}{place}"))
            assert isinstance(name, StringAttr), "graph.name is a text"
            described.append(describe(function, name.data, type))
        return ArrayAttr(described)

    type = function.function_type
    return DictionaryAttr(
        {
            "inputs": entries(list(type.inputs), function.arg_attrs, "input"),
            "outputs": entries(list(type.outputs), function.res_attrs, "output"),
        }
    )
