"""What the rules are written with that express an operator by others."""

from typing import Any

import numpy as np
import onnx
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.upgrades import Call, Emitter


def one(emitter: Emitter, op: str, *operands: SSAValue | None, **attributes: Any) -> SSAValue:
    (result,) = emitter.emit(op, *operands, **attributes)
    return result


def floats(emitter: Emitter, values: Any, dtype: Any = np.float32) -> SSAValue:
    return emitter.constant(np.array(values, dtype))


def ints(emitter: Emitter, *values: int) -> SSAValue:
    return emitter.constant(np.array(values, np.int64))


def integer(emitter: Emitter, value: int) -> SSAValue:
    return emitter.constant(np.array(value, np.int64))


def scalar(emitter: Emitter, like: SSAValue, value: float) -> SSAValue:
    return emitter.constant(np.array(value, emitter.dtype(like)))


def cast(emitter: Emitter, value: SSAValue, dtype: Any) -> SSAValue:
    if emitter.dtype(value) == dtype:
        return value
    return one(emitter, "Cast", value, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def operand(call: Call, place: int = 0) -> SSAValue:
    value = call.operands[place]
    assert value is not None, "the operand is required"
    return value


def given(call: Call, place: int) -> SSAValue | None:
    """An operand that may be absent."""
    return call.operands[place] if place < len(call.operands) else None


def extent(emitter: Emitter, value: SSAValue, axis: int) -> SSAValue:
    """One extent as a list of one."""
    return one(emitter, "Shape", value, start=axis, end=axis + 1)


def counting(emitter: Emitter, count: SSAValue, start: SSAValue | None = None) -> SSAValue:
    """`start, start + 1, ...` up to `count`, both scalars of int64."""
    return one(emitter, "Range", start or integer(emitter, 0), count, integer(emitter, 1))


def reshape(emitter: Emitter, value: SSAValue, *extents: int) -> SSAValue:
    """`value` with other extents; 0 keeps one, -1 is what is left."""
    return one(emitter, "Reshape", value, ints(emitter, *extents))


def transpose(emitter: Emitter, value: SSAValue, *axes: int) -> SSAValue:
    return one(emitter, "Transpose", value, perm=list(axes))


def unsqueeze(emitter: Emitter, value: SSAValue, *axes: int) -> SSAValue:
    return one(emitter, "Unsqueeze", value, ints(emitter, *axes))


def squeeze(emitter: Emitter, value: SSAValue, *axes: int) -> SSAValue:
    return one(emitter, "Squeeze", value, ints(emitter, *axes))


def cut(emitter: Emitter, value: SSAValue, axis: int, start: int, end: int) -> SSAValue:
    """The entries from `start` up to `end` along `axis`."""
    return one(emitter, "Slice", value, *(ints(emitter, v) for v in (start, end, axis)))
