"""What element-wise ops compute."""

import math
from typing import Any

import ml_dtypes
import numpy as np

from stepwell.dialects.graph import GraphOp, numpy_dtype
from stepwell.errors import RunError
from stepwell.interpreter.graph.evaluation import EVALUATE, evaluates, widen
from stepwell.interpreter.text import format_float, parse_float, parse_float32, parse_integer

Array = Any


def _map(name: str, function: Any) -> None:
    evaluates(name)(lambda op, *xs: function(*xs))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Array) -> Array:
    """The error function, computed in double precision."""
    return _erf(x).astype(x.dtype) if x.size else x


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))` without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def softplus(x: Array) -> Array:
    """`log(1 + exp(x))` without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


for _name, _function in {
    "abs": np.abs, "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh,
    "atan": np.arctan, "atanh": np.arctanh, "ceil": np.ceil, "floor": np.floor, "cos": np.cos, "cosh":
    np.cosh, "exp": np.exp, "log": np.log, "neg": np.negative, "round": np.rint, "sin": np.sin, "sinh":
    np.sinh, "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh, "sign": np.sign, "not": np.logical_not,
    "bitwise_not": np.invert, "is_nan": np.isnan, "erf": erf, "sigmoid": sigmoid, "softplus": softplus,
    "reciprocal": lambda x: np.divide(1, x, dtype=x.dtype), "relu": lambda x: np.where(x < 0, x.dtype.type(0),
    x), "softsign": lambda x: x / (1 + np.abs(x)), "mish": lambda x: x * np.tanh(softplus(x)),
    "hard_swish": lambda x: x * (np.clip(x + 3, 0, 6) / 6),
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor, "greater": np.greater, "less": np.less,
    "greater_or_equal": np.greater_equal, "less_or_equal": np.less_equal, "equal": np.equal,
    "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "where": np.where, "prelu": lambda x, slope: np.where(x < 0, x * slope, x),
}.items():  # fmt: skip
    _map(_name, _function)


@evaluates("div")
def _div(op: GraphOp, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    # |a| // |b| in the unsigned type: no overflow for the most negative number.
    if a.dtype.kind == "u":
        return np.where(b == 0, 0, a // np.where(b == 0, 1, b))
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    p, q = np.abs(a).astype(unsigned), np.abs(b).astype(unsigned)
    quotient = np.where(q == 0, 0, p // np.where(q == 0, 1, q)).astype(a.dtype)
    return np.where((a < 0) == (b < 0), quotient, -quotient)


@evaluates("mod")
def _mod(op: GraphOp, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.fmod(a, b) if op.get("fmod") else np.mod(a, b)
    safe = np.where((b == 0) | (b == (-1 if b.dtype.kind == "i" else 0)), 1, b).astype(b.dtype)
    return np.fmod(a, safe) if op.get("fmod") else np.mod(a, safe)


@evaluates("pow")
def _pow(op: GraphOp, x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.power(x, y.astype(np.result_type(x, y) if y.dtype.kind == "f" else x.dtype))
    if y.dtype.kind == "f":
        return np.trunc(np.power(x.astype(np.float64), y))
    x, y = np.broadcast_arrays(x, y)
    negative = y < 0
    power = np.power(x, np.where(negative, 0, y).astype(x.dtype))
    # A negative exponent leaves 1, -1 or 0.
    return np.where(negative, np.where(np.abs(x) == 1, np.power(x, np.abs(y) % 2), 0), power)


@evaluates("bit_shift")
def _bit_shift(op: GraphOp, x: Array, y: Array) -> Array:
    width = x.dtype.itemsize * 8
    count = np.minimum(y.astype(np.uint64), width - 1).astype(x.dtype)
    beyond = y.astype(np.uint64) >= width
    if op.get("direction") == "LEFT":
        return np.where(beyond, 0, np.left_shift(x, count))
    return np.where(beyond, np.where(x < 0, -1, 0), np.right_shift(x, count))


def _alpha(op: GraphOp, x: Array, key: str = "alpha") -> Any:
    return x.dtype.type(op.get(key))


@evaluates("leaky_relu")
def _leaky_relu(op: GraphOp, x: Array) -> Array:
    return np.where(x < 0, x * _alpha(op, x), x)


@evaluates("elu")
def _elu(op: GraphOp, x: Array) -> Array:
    return np.where(x < 0, _alpha(op, x) * np.expm1(x), x)


@evaluates("celu")
def _celu(op: GraphOp, x: Array) -> Array:
    alpha = _alpha(op, x)
    return np.where(x < 0, alpha * np.expm1(x / alpha), x)


@evaluates("selu")
def _selu(op: GraphOp, x: Array) -> Array:
    return _alpha(op, x, "gamma") * np.where(x <= 0, _alpha(op, x) * np.expm1(x), x)


@evaluates("gelu")
def _gelu(op: GraphOp, x: Array) -> Array:
    if op.get("approximate") == "tanh":
        inner = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
        return x.dtype.type(0.5) * x * (1 + np.tanh(inner))
    return x.dtype.type(0.5) * x * (1 + erf(x / x.dtype.type(math.sqrt(2))))


@evaluates("swish")
def _swish(op: GraphOp, x: Array) -> Array:
    return x * sigmoid(_alpha(op, x) * x)


@evaluates("swi_glu")
def _swiglu(op: GraphOp, a: Array, b: Array) -> Array:
    return a * sigmoid(_alpha(op, a) * a) * b


@evaluates("hard_sigmoid")
def _hard_sigmoid(op: GraphOp, x: Array) -> Array:
    return np.clip(_alpha(op, x) * x + _alpha(op, x, "beta"), 0, 1)


@evaluates("thresholded_relu")
def _thresholded_relu(op: GraphOp, x: Array) -> Array:
    return np.where(x > _alpha(op, x), x, 0)


@evaluates("shrink")
def _shrink(op: GraphOp, x: Array) -> Array:
    bias, limit = _alpha(op, x, "bias"), op.get("lambd")
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0))


@evaluates("is_inf")
def _is_inf(op: GraphOp, x: Array) -> Array:
    return (np.isposinf(x) & bool(op.get("detect_positive"))) | (
        np.isneginf(x) & bool(op.get("detect_negative"))
    )


def _fold(function: Any) -> Any:
    def run(op: GraphOp, *xs: Array) -> Array:
        result = xs[0]
        for x in xs[1:]:
            result = function(result, x)
        return result

    return run


EVALUATE["graph.max"] = _fold(np.maximum)
EVALUATE["graph.min"] = _fold(np.minimum)
EVALUATE["graph.sum"] = _fold(np.add)
EVALUATE["graph.mean"] = lambda op, *xs: _fold(np.add)(op, *xs) / xs[0].dtype.type(len(xs))


@evaluates("clip")
def _clip(op: GraphOp, x: Array, low: Array = None, high: Array = None) -> Array:
    if low is not None:
        x = np.maximum(x, low.reshape(()))
    return x if high is None else np.minimum(x, high.reshape(()))


@evaluates("dropout")
def _dropout(op: GraphOp, x: Array, ratio: Array = None, training: Array = None) -> Array:
    rate = 0.5 if ratio is None else float(ratio.reshape(()))
    if training is None or not bool(training.reshape(())) or rate == 0:
        return x, np.ones(x.shape, bool)
    seed = op.get("seed")
    mask = np.random.RandomState(seed).uniform(0, 1, x.shape) >= rate
    return mask * x / x.dtype.type(1 - rate), mask


_LARGEST = {
    "float8_e4m3fn": 448.0,
    "float8_e4m3fnuz": 240.0,
    "float8_e5m2": 57344.0,
    "float8_e5m2fnuz": 57344.0,
}


_FLOAT_DIGITS = 8
"""Significant digits of a float as a string, of any width, as ONNX Runtime writes it."""


def _spelt(value: Any, text: Any) -> Any:
    if value is None:
        raise RunError(f"graph.cast: {text!r:.60} is not a number; pass strings that are")
    return value


def cast(x: Array, dtype: np.dtype, saturate: bool = True, round_mode: str = "up") -> Array:
    """
    `x` in another element type: truncation to integers, which saturate; rounding to even between floats.
    """
    if dtype.kind == "O":
        if x.dtype.kind in "bOiu" or "int" in x.dtype.name:
            texts = [v if x.dtype.kind == "O" else str(int(v)) for v in x.ravel().tolist()]
        else:
            texts = [format_float(float(v), _FLOAT_DIGITS) for v in x.ravel()]
        return np.array([*texts, None], object)[:-1].reshape(x.shape)
    if x.dtype.kind == "O":
        if dtype.kind == "V" or ("int" not in dtype.name and dtype.kind != "b"):
            parse = parse_float if dtype == np.float64 else parse_float32
            values = [_spelt(parse(v), v) for v in x.ravel()]
            return cast(
                np.array(values, np.float64 if dtype == np.float64 else np.float32).reshape(x.shape), dtype
            )
        wrapped = [_spelt(parse_integer(v), v) % (1 << 64) for v in x.ravel()]
        return np.array(wrapped, np.uint64).reshape(x.shape).astype(np.int64).astype(dtype)
    if dtype.kind == "b":
        return widen(x) != 0
    name = dtype.name
    if name in _LARGEST:
        wide = x.astype(np.float32)
        if saturate:
            wide = np.where(np.isnan(wide), wide, np.clip(wide, -_LARGEST[name], _LARGEST[name])).astype(
                np.float32
            )
        return wide.astype(dtype)
    if name in ("int4", "uint4", "int2", "uint2"):
        info = ml_dtypes.iinfo(dtype)
        wide = widen(x)
        # Rounded to even, and the low bits kept.
        whole = (np.rint(wide) if wide.dtype.kind == "f" else wide).astype(np.int64)
        span = int(info.max) - int(info.min) + 1
        return ((whole - int(info.min)) % span + int(info.min)).astype(dtype)
    if name == "float8_e8m0fnu":
        # A power of two: the exponent rounded as asked, 255 for NaN.
        wide = np.abs(widen(x).astype(np.float64))
        exponent = np.log2(np.where(wide > 0, wide, 2.0**-127))
        exponent = {"up": np.ceil, "down": np.floor}.get(round_mode, np.rint)(exponent)
        high = 127 if saturate else 128
        bits = np.clip(np.where(np.isfinite(exponent), exponent, high), -127, high) + 127
        return np.where(np.isnan(wide), 255, bits).astype(np.uint8).view(dtype)
    if dtype.kind in "iu" and (x.dtype.kind == "f" or x.dtype.kind == "V"):
        wide = np.trunc(widen(x).astype(np.float64))
        info = np.iinfo(dtype)
        inside = (wide >= float(info.min)) & (wide < float(info.max) + 1)
        clipped = np.where(wide < 0, info.min, info.max).astype(dtype)
        return np.where(
            inside, np.where(inside, wide, 0).astype(dtype), np.where(np.isnan(wide), 0, clipped)
        ).astype(dtype)
    return widen(x).astype(dtype)


@evaluates("cast", exact=True)
def _cast(op: GraphOp, x: Array) -> Array:
    return cast(x, numpy_dtype(op.properties["to"]), bool(op.get("saturate")), op.get("round_mode"))


@evaluates("cast_like", exact=True)
def _cast_like(op: GraphOp, x: Array, like: Array) -> Array:
    return cast(x, like.dtype, bool(op.get("saturate")), op.get("round_mode"))


@evaluates("bit_cast", exact=True)
def _bit_cast(op: GraphOp, x: Array) -> Array:
    return np.ascontiguousarray(x).view(numpy_dtype(op.properties["to"])).reshape(x.shape)
