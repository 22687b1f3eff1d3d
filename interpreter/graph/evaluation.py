"""The table of what each graph op computes, and how it is called.

Types narrower than the arithmetic are widened before and rounded once after an op: f16, bf16 and f8 compute
in float32, 2- and 4-bit integers in 8 bits. Integers wrap; no operation traps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation

from stepwell.diagnostics import unsupported
from stepwell.dialects.graph import GraphOp, numpy_dtype
from stepwell.dialects.graph.types import STRING
from stepwell.interpreter.text import to_bytes, to_text

EVALUATE: dict[str, Callable[..., Any]] = {}
"""
Op name to a function `(op, *operands)` (numpy arrays, lists for sequences, None where absent) of its outputs.
"""

_WIDER = {
    np.dtype(np.float16): np.float32,
    np.dtype(ml_dtypes.bfloat16): np.float32,
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.uint2): np.uint8,
}
_EXACT: set[str] = set()
"""Ops that take their operands unwidened."""


def evaluates(*names: str, exact: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into `EVALUATE` under `graph.<name>`; `exact`: it sees operands as they are."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert "graph." + name not in EVALUATE, f"graph.{name} has two meanings"
            EVALUATE["graph." + name] = function
            if exact:
                _EXACT.add("graph." + name)
        return function

    return enter


def widen(value: Any) -> Any:
    """The operand in a type that numpy computes in."""
    if not isinstance(value, np.ndarray):
        return value
    wide = _WIDER.get(value.dtype)
    if wide is None and value.dtype.kind == "V":
        wide = np.float32
    return value if wide is None else value.astype(wide)


def narrow(value: Any, type_: Any) -> Any:
    """A result as its type wants it."""
    if isinstance(type_, TensorType) and not isinstance(value, list):
        value = np.asarray(value)
        if type_.element_type == STRING:
            if value.dtype != object or any(type(s) is not str for s in value.flat):
                texts = [to_text(to_bytes(s)) for s in value.ravel().tolist()]
                value = np.array([*texts, None], object)[:-1].reshape(value.shape)
            return value
        dtype = numpy_dtype(type_.element_type)
        return value if value.dtype == dtype else value.astype(dtype)
    return value


def evaluate(op: GraphOp, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The results of `op` on these operands (ONNX's inputs in order, None where absent)."""
    function = EVALUATE.get(op.name)
    if function is None:
        raise unsupported(
            op, "the interpreter does not compute this operator", "run the compiled model instead"
        )
    if op.name not in _EXACT:
        operands = [widen(v) for v in operands]
    channels_last = op.get("layout") == "nhwc"
    if channels_last:
        operands = [np.moveaxis(operands[0], -1, 1), *operands[1:]]
    with np.errstate(all="ignore"):
        outputs = function(op, *operands)
    if not isinstance(outputs, tuple):
        outputs = (outputs,)
    if channels_last:
        outputs = tuple(np.moveaxis(v, 1, -1) if np.ndim(v) > 2 else v for v in outputs)
    kept = [v for v, keep in zip(outputs, op.present_outputs(len(outputs)), strict=True) if keep]
    return tuple(narrow(v, r.type) for v, r in zip(kept, op.results, strict=True))


def can_evaluate(op: Operation) -> bool:
    """Whether `evaluate` knows the op."""
    return op.name in EVALUATE
