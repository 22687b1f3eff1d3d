"""`value`: a `!value.any` is a pointer to a `stepwell_value` of the runtime, each op a call of it."""

from typing import Any

from xdsl.dialects.builtin import IntegerAttr, i32, i64
from xdsl.dialects.llvm import LLVMFunctionType
from xdsl.ir import Attribute, SSAValue

from stepwell.conversion.to_llvm.core import DYNAMIC, PTR, Handler, static_shape
from stepwell.dialects.value import dlpack_type

VALUE_FUNCTIONS: dict[str, LLVMFunctionType] = {
    "stepwell_rt_absent": LLVMFunctionType([PTR], PTR),
    "stepwell_rt_present": LLVMFunctionType([PTR, PTR], i32),
    "stepwell_rt_wrap": LLVMFunctionType([PTR, PTR, i64, i64, PTR], PTR),
    "stepwell_rt_unwrap": LLVMFunctionType([PTR, PTR, i64, i64, PTR], PTR),
    "stepwell_rt_empty": LLVMFunctionType([PTR], PTR),
    "stepwell_rt_length": LLVMFunctionType([PTR, PTR], i64),
    "stepwell_rt_at": LLVMFunctionType([PTR, PTR, i64], PTR),
    "stepwell_rt_insert": LLVMFunctionType([PTR, PTR, PTR, i64], PTR),
    "stepwell_rt_erase": LLVMFunctionType([PTR, PTR, i64], PTR),
    "stepwell_rt_map": LLVMFunctionType([PTR, PTR, PTR], PTR),
    "stepwell_rt_keys": LLVMFunctionType([PTR, PTR], PTR),
    "stepwell_rt_values": LLVMFunctionType([PTR, PTR], PTR),
    "stepwell_rt_output_value": LLVMFunctionType([PTR, i64, PTR], i32),
}
"""What `runtime/c/stepwell_rt.h` declares for values."""

_WORD: dict[str, Attribute] = {"alignment": IntegerAttr(8, i64), "ordering": IntegerAttr(0, i64)}


def _type_number(low: Any, element: Attribute) -> SSAValue:
    code, bits = dlpack_type(element)
    return low.integer(code * 256 + bits)


def _wrap(low: Any, op: Any) -> None:
    buffer = low.buffer(op.input)
    pointer = low.point(buffer.pointer, buffer.offset, buffer.element)
    layout = low.fill("layout", i64, [low.integer_of(size) for size in (*buffer.sizes, *buffer.strides)])
    operands = [low.context, pointer, _type_number(low, op.element), low.integer(len(buffer.sizes)), layout]
    low.define(op.output, low.checked(low.runtime("stepwell_rt_wrap", operands)))


def _unwrap(low: Any, op: Any) -> None:
    shape = static_shape(op.output.type)
    dims = low.fill("extents", i64, [low.integer(-1 if size == DYNAMIC else size) for size in shape])
    operands = [
        low.context,
        low.value(op.input),
        _type_number(low, op.element),
        low.integer(len(shape)),
        dims,
    ]
    pointer = low.checked(low.runtime("stepwell_rt_unwrap", operands))
    sizes = [
        low.emit("load", (low.gep_constant_cached(dims, axis, i64),), i64, dict(_WORD))
        for axis, size in enumerate(shape)
        if size == DYNAMIC
    ]
    low.buffers[op.output] = low.contiguous(pointer, op.output.type, sizes)


def _present(low: Any, op: Any) -> None:
    status = low.runtime("stepwell_rt_present", [low.context, low.value(op.input)])
    low.define(op.output, low.compare("ne", status, low.integer(0, i32)))


def _length(low: Any, op: Any) -> None:
    length = low.runtime("stepwell_rt_length", [low.context, low.value(op.sequence)])
    low.stop_unless(low.compare("sge", length, low.integer(0)))
    low.define(op.output, length)


def _calls(function: str, *names: str) -> Handler:
    """The op as a call with its operands `names`, of which the result is a value."""

    def lower(low: Any, op: Any) -> None:
        operands = [low.context, *(low.value(getattr(op, name)) for name in names)]
        low.define(op.output, low.checked(low.runtime(function, operands)))

    return lower


def give_value(low: Any, number: int, result: SSAValue) -> None:
    """Let output `number` be a value."""
    operands = [low.context, low.integer(number), low.value(result)]
    status = low.runtime("stepwell_rt_output_value", operands)
    low.stop_if_not(low.compare("eq", status, low.integer(0, i32)), status)


VALUES: dict[str, Handler] = {
    "value.wrap": _wrap,
    "value.unwrap": _unwrap,
    "value.absent": _calls("stepwell_rt_absent"),
    "value.present": _present,
    "value.empty": _calls("stepwell_rt_empty"),
    "value.length": _length,
    "value.at": _calls("stepwell_rt_at", "sequence", "position"),
    "value.insert": _calls("stepwell_rt_insert", "sequence", "element", "position"),
    "value.erase": _calls("stepwell_rt_erase", "sequence", "position"),
    "value.map": _calls("stepwell_rt_map", "keys", "values"),
    "value.keys": _calls("stepwell_rt_keys", "input"),
    "value.values": _calls("stepwell_rt_values", "input"),
}
