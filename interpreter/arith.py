"""Meaning of `arith` and `math`: integers wrap and never trap, floats follow IEEE 754."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects.builtin import (
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    ShapedType,
)
from xdsl.ir import Attribute, Operation

from stepwell.interpreter.machine import MEANINGS, Machine, Results, meaning, poison
from stepwell.resources import dtype_of, value_of

Function = Callable[..., Any]


def _element(type: Attribute) -> Attribute:
    return type.get_element_type() if isinstance(type, ShapedType) else type  # pyright: ignore


def _unsigned(x: Any) -> Any:
    """The bits of a signed integer array read as unsigned."""
    x = np.asarray(x)
    return x if x.dtype.kind in "ub" else x.view(f"u{x.dtype.itemsize}")


def _like(x: Any, pattern: Any) -> Any:
    """Bits of `x` in the dtype of `pattern`, which has the same width."""
    dtype = np.asarray(pattern).dtype
    return np.asarray(x).astype(dtype)


def _register(name: str, function: Function) -> None:
    def run(machine: Machine, op: Operation) -> Results:
        return (function(*machine.get(op.operands)),)

    MEANINGS[name] = run


# x / 0 = 0 and MIN / -1 = MIN: defined, so that no input can trap
def _divide(a: Any, b: Any, *, floor: bool = False, ceil: bool = False) -> Any:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == np.bool_:
        return a & b
    safe = np.where((b == 0) | (b == -1 if a.dtype.kind == "i" else False), 1, b).astype(a.dtype)
    q = a // safe
    exact = q * safe == a
    if ceil:
        q = np.where(exact, q, q + 1)
    elif not floor:
        q = np.where(~exact & ((a < 0) != (safe < 0)), q + 1, q)
    if a.dtype.kind == "i":
        q = np.where(b == -1, -a, q)
    return np.where(b == 0, 0, q).astype(a.dtype)


def _remainder(a: Any, b: Any) -> Any:
    return np.where(np.asarray(b) == 0, 0, a - _divide(a, b) * b).astype(np.asarray(a).dtype)


def _shift(a: Any, b: Any, how: Function) -> Any:
    a, b = np.asarray(a), np.asarray(b)
    bits = a.dtype.itemsize * 8
    out = (_unsigned(b) >= bits).astype(bool)
    return np.where(out, 0, how(a, np.where(out, 0, b).astype(a.dtype))).astype(a.dtype)


def _on_unsigned(function: Function) -> Function:
    return lambda a, b: _like(function(_unsigned(a), _unsigned(b)), a)


_INTEGER: dict[str, Function] = {
    "addi": lambda a, b: a ^ b if np.asarray(a).dtype == np.bool_ else np.add(a, b),
    "subi": lambda a, b: a ^ b if np.asarray(a).dtype == np.bool_ else np.subtract(a, b),
    "muli": np.multiply,
    "andi": np.bitwise_and,
    "ori": np.bitwise_or,
    "xori": np.bitwise_xor,
    "divsi": _divide,
    "divui": _on_unsigned(_divide),
    "floordivsi": lambda a, b: _divide(a, b, floor=True),
    "ceildivsi": lambda a, b: _divide(a, b, ceil=True),
    "ceildivui": _on_unsigned(lambda a, b: _divide(a, b, ceil=True)),
    "remsi": _remainder,
    "remui": _on_unsigned(_remainder),
    "minsi": np.minimum,
    "maxsi": np.maximum,
    "minui": _on_unsigned(np.minimum),
    "maxui": _on_unsigned(np.maximum),
    "shli": lambda a, b: _shift(a, b, np.left_shift),
    "shrsi": lambda a, b: _shift(a, b, np.right_shift),
    "shrui": lambda a, b: _like(_shift(_unsigned(a), _unsigned(b), np.right_shift), a),
}
_FLOAT: dict[str, Function] = {
    "addf": np.add,
    "subf": np.subtract,
    "mulf": np.multiply,
    "divf": np.divide,
    "remf": np.fmod,
    "negf": np.negative,
    "maximumf": np.maximum,
    "minimumf": np.minimum,
    "maxnumf": np.fmax,
    "minnumf": np.fmin,
    "select": lambda c, a, b: np.where(c, a, b) if isinstance(c, np.ndarray) else (a if c else b),
}

UFUNCS: dict[str, np.ufunc] = {
    "arith.addf": np.add, "arith.mulf": np.multiply, "arith.maximumf": np.maximum, "arith.minimumf": np.minimum,
    "arith.maxnumf": np.fmax, "arith.minnumf": np.fmin, "arith.addi": np.add, "arith.muli": np.multiply,
    "arith.maxsi": np.maximum, "arith.minsi": np.minimum, "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or, "arith.xori": np.bitwise_xor,
}  # fmt: skip
"""The associative ops that a reduction may use, with what numpy calls them."""

for _name, _function in (_INTEGER | _FLOAT).items():
    _register(f"arith.{_name}", _function)


def _by_element(function: Callable[[float], float]) -> Function:
    def run(x: Any) -> Any:
        x = np.asarray(x)
        return np.vectorize(function, otypes=[np.float64])(x).astype(x.dtype) if x.size else x

    return run


_MATH: dict[str, Function] = {
    "absf": np.abs, "absi": np.abs, "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
    "atan": np.arctan, "atanh": np.arctanh, "atan2": np.arctan2, "cbrt": np.cbrt, "ceil": np.ceil,
    "copysign": np.copysign, "cos": np.cos, "cosh": np.cosh, "erf": _by_element(math.erf), "erfc": _by_element(math.erfc), "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "floor": np.floor, "fma": lambda a, b, c: a * b + c, "log": np.log, "log10": np.log10,
    "log1p": np.log1p, "log2": np.log2, "powf": np.power, "roundeven": np.rint,
    "round": lambda x: np.copysign(np.floor(np.abs(x) + np.asarray(0.5, np.asarray(x).dtype)), x),
    "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "tan": np.tan,
    "tanh": np.tanh, "trunc": np.trunc, "ctpop": lambda x: np.bitwise_count(_unsigned(x)).astype(np.asarray(x).dtype),
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite,
}  # fmt: skip

FUNCTIONS = _MATH
"""The functions of `math` on numpy arrays, by name."""


def _register_math(name: str, function: Function) -> None:
    def run(machine: Machine, op: Operation) -> Results:
        operands = machine.get(op.operands)
        result = function(*operands)
        if op.results[0].type == op.operands[0].type:
            result = np.asarray(result).astype(np.asarray(operands[0]).dtype, copy=False)
        return (result,)

    MEANINGS[f"math.{name}"] = run


for _name, _function in _MATH.items():
    _register_math(_name, _function)


def _power(base: Any, exponent: Any) -> Any:
    """Integer power; a negative exponent gives what truncated division of 1 gives."""
    base, exponent = np.broadcast_arrays(base, exponent)
    result = np.ones_like(base)
    square, left = base.copy(), np.maximum(exponent, 0).copy()
    while np.any(left > 0):
        result = np.where(left & 1, result * square, result)
        square, left = square * square, left >> 1
    inverse = np.where(base == 1, 1, np.where(base == -1, np.where(exponent & 1, -1, 1), 0))
    return np.where(exponent < 0, inverse, result).astype(base.dtype)


_register("math.ipowi", _power)


@meaning("ub.poison")
def _poison(machine: Machine, op: Operation) -> Results:
    """A value that nothing may depend on: one that shows."""
    dtype = dtype_of(op.results[0].type)
    return (poison((), dtype)[()],)


@meaning("arith.constant")
def _constant(machine: Machine, op: Operation) -> Results:
    value = op.properties["value"]
    if isinstance(value, IntegerAttr):
        data = value.value.data
        if isinstance(value.type, IndexType):
            return (np.int64(data),)
        if value.type.width.data == 1:
            return (np.bool_(data != 0),)
        bits = value.type.width.data
        return (dtype_of(value.type).type(data - (1 << bits) if data >= 1 << (bits - 1) else data),)
    if isinstance(value, FloatAttr):
        return (dtype_of(value.type).type(value.value.data),)
    return (
        np.asarray(value_of(value, machine.ctx)).astype(dtype_of(_element(op.results[0].type)), copy=False),
    )


_COMPARE_INTEGERS: list[Function] = [
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
    lambda a, b: _unsigned(a) < _unsigned(b), lambda a, b: _unsigned(a) <= _unsigned(b),
    lambda a, b: _unsigned(a) > _unsigned(b), lambda a, b: _unsigned(a) >= _unsigned(b),
]  # fmt: skip


@meaning("arith.cmpi")
def _compare_integers(machine: Machine, op: Operation) -> Results:
    predicate = op.properties["predicate"]
    assert isinstance(predicate, IntegerAttr)
    return (_COMPARE_INTEGERS[predicate.value.data](*machine.get(op.operands)),)


@meaning("arith.cmpf")
def _compare_floats(machine: Machine, op: Operation) -> Results:
    predicate = op.properties["predicate"]
    assert isinstance(predicate, IntegerAttr)
    a, b = machine.get(op.operands)
    number = predicate.value.data
    nan = np.isnan(a) | np.isnan(b)
    if number in (0, 15):
        return (np.full_like(nan, number == 15),)
    if number in (7, 14):
        return (~nan if number == 7 else nan,)
    ordered = number < 7
    compare = [np.equal, np.greater, np.greater_equal, np.less, np.less_equal, np.not_equal][
        number - 1 if ordered else number - 8
    ]
    result = compare(a, b)
    return ((result & ~nan) if ordered else (result | nan),)


@meaning("arith.index_cast", "arith.extsi", "arith.trunci", "arith.sitofp", "arith.extf", "arith.truncf")
def _cast(machine: Machine, op: Operation) -> Results:
    x = np.asarray(machine[op.operands[0]])
    if x.dtype == np.bool_ and op.name in ("arith.extsi", "arith.sitofp", "arith.index_cast"):
        x = -x.astype(np.int8)  # the one bit is the sign
    element = _element(op.results[0].type)
    if isinstance(element, IntegerType) and element.width.data == 1:
        return ((x & 1).astype(np.bool_),)
    return (x.astype(dtype_of(element)),)


@meaning("arith.extui", "arith.uitofp", "arith.index_castui")
def _cast_unsigned(machine: Machine, op: Operation) -> Results:
    return (_unsigned(machine[op.operands[0]]).astype(dtype_of(_element(op.results[0].type))),)


# A value out of range becomes the nearest one in range, NaN becomes 0 (LLVM leaves both undefined; lowerings
# guard for it, so this only matters for points that nobody reads).
@meaning("arith.fptosi", "arith.fptoui")
def _float_to_integer(machine: Machine, op: Operation) -> Results:
    x = np.asarray(machine[op.operands[0]]).astype(np.float64)
    dtype = dtype_of(_element(op.results[0].type))
    if dtype.kind == "b":
        return (np.trunc(x) != 0,)
    signed = op.name == "arith.fptosi"
    target = dtype if signed else np.dtype(f"u{dtype.itemsize}")
    info = np.iinfo(target)
    low, high = float(info.min), float(info.max)
    inside = np.where(np.isnan(x), 0, np.clip(x, low, np.nextafter(high, 0) if dtype.itemsize == 8 else high))
    result = inside.astype(target)
    if dtype.itemsize == 8:
        result = np.where(x >= high, target.type(info.max), result)
    return (result.astype(dtype),)


@meaning("arith.bitcast")
def _bitcast(machine: Machine, op: Operation) -> Results:
    x = np.asarray(machine[op.operands[0]])
    return (x.view(dtype_of(_element(op.results[0].type))),)


@meaning("math.fpowi")
def _float_to_integer_power(machine: Machine, op: Operation) -> Results:
    base, exponent = machine.get(op.operands)
    return (np.power(base, np.asarray(exponent).astype(np.asarray(base).dtype)),)
