"""Constants: small ones become globals of the module, large ones a place in the blob of weights."""

from typing import Any

from xdsl.dialects.builtin import (
    BytesAttr,
    DenseResourceAttr,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    i1,
    i8,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.dialects.llvm import GlobalOp, LinkageAttr, LLVMArrayType, LLVMFunctionType
from xdsl.ir import Attribute, Operation

from stepwell.conversion.to_llvm.core import (
    PTR,
    UNNAMED,
    FunctionLowering,
    byte_size,
    memory_type,
    static_shape,
)
from stepwell.diagnostics import unsupported
from stepwell.dialects.llvm import FuncOp
from stepwell.resources import WEIGHTS_KEY

WEIGHTS_SYMBOL = "stepwell_weights"
WEIGHTS_BYTES_KEY = "stepwell.weights_bytes"
ALIGNMENT = 64


def _count(type: Any) -> int:
    count = 1
    for size in static_shape(type):
        count *= size
    return count


def _globals(module: ModuleOp) -> list[Any]:
    return [op for op in module.ops if op.name == "memref.global"]


def lay_out_weights(module: ModuleOp) -> None:
    """Write `stepwell.weights = {key = offset}`: 64-byte aligned, in the order of the globals."""
    if WEIGHTS_KEY in module.attributes:
        return
    offsets: dict[str, Attribute] = {}
    end = 0
    for op in _globals(module):
        value = op.properties["initial_value"]
        if not isinstance(value, DenseResourceAttr):
            continue
        key = value.resource_handle.data
        if key in offsets:
            continue
        offsets[key] = IntegerAttr(end, i64)
        size = _count(op.properties["type"]) * byte_size(op.properties["type"].element_type)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    module.attributes[WEIGHTS_KEY] = DictionaryAttr(offsets)
    module.attributes[WEIGHTS_BYTES_KEY] = IntegerAttr(end, i64)


def _symbol_table(module: ModuleOp) -> dict[str, Any]:
    return {op.properties["sym_name"].data: op for op in module.ops if "sym_name" in op.properties}  # pyright: ignore


def convert_globals(module: ModuleOp) -> None:
    """Every small `memref.global` becomes an `llvm.mlir.global`; declares the blob if it is needed."""
    lay_out_weights(module)
    symbols = _symbol_table(module)
    for op in _globals(module):
        value, type = op.properties["initial_value"], op.properties["type"]
        if isinstance(value, DenseResourceAttr):
            if WEIGHTS_SYMBOL not in symbols:
                blob = GlobalOp(LLVMArrayType(0, i8), WEIGHTS_SYMBOL, "external", constant=True, alignment=64)
                module.body.block.insert_op_before(blob, module.body.block.first_op)  # pyright: ignore
                symbols[WEIGHTS_SYMBOL] = blob
            continue
        if not isinstance(value, DenseAttr):
            raise unsupported(op, "has no value that is known", "give it a dense value")
        element = memory_type(type.element_type)
        if type.element_type == i1:
            data = [int(v) for v in value.get_values()]  # pyright: ignore
            flat = DenseAttr.from_list(TensorType(i8, [len(data)]), data)
        else:
            # `memory_type` gives integers and floats only; xDSL wants it said in the type.
            flat = DenseAttr(TensorType(element, [len(value)]), value.data)  # pyright: ignore[reportArgumentType]
        name = op.properties["sym_name"].data
        new = GlobalOp(
            LLVMArrayType(_count(type), element), name, "private", constant=True, value=_full(flat, type),
            alignment=ALIGNMENT,
        )  # fmt: skip
        new.location = op.location
        module.body.block.insert_op_before(new, op)
        op.detach()
        op.erase()


def _full(value: DenseAttr, type: Any) -> DenseAttr:
    """A splat spelled out (dense attributes of one value keep one)."""
    count = _count(type)
    if len(value) == count:
        return value
    return DenseAttr(TensorType(value.get_element_type(), [count]), BytesAttr(value.data.data * count))


def drop_globals(module: ModuleOp) -> None:
    """Remove the globals whose bytes are in the blob, once no op reads them."""
    for op in _globals(module):
        op.detach()
        op.erase()


def lower_get_global(module: ModuleOp):
    """The handler of `memref.get_global` in `module`."""
    symbols = _symbol_table(module)
    offsets = module.attributes[WEIGHTS_KEY].data  # pyright: ignore

    def lower(low: FunctionLowering, op: Any) -> None:
        name = op.properties["name"].root_reference.data
        target, type = symbols[name], op.results[0].type
        if target.name == "memref.global":
            key = target.properties["initial_value"].resource_handle.data
            base = low.emit("mlir.addressof", (), PTR, {"global_name": SymbolRefAttr(WEIGHTS_SYMBOL)})
            pointer = low.gep_constant(base, offsets[key].value.data, i8)
        else:
            pointer = low.emit("mlir.addressof", (), PTR, {"global_name": op.properties["name"]})
        low.buffers[op.results[0]] = low.contiguous(pointer, type, ())

    return lower


def declare(module: ModuleOp, functions: dict[str, LLVMFunctionType]) -> None:
    """Declarations in front of everything, of the external functions that are not there yet."""
    symbols = _symbol_table(module)
    new: list[Operation] = []
    for name in sorted(functions):
        if name not in symbols:
            new.append(
                FuncOp(
                    StringAttr(name),
                    functions[name],
                    LinkageAttr("external"),
                    other_props={"unnamed_addr": UNNAMED},
                )
            )
    first = module.body.block.first_op
    if new and first is not None:
        module.body.block.insert_ops_before(new, first)
    elif new:
        module.body.block.add_ops(new)
