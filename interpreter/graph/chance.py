"""What random operators draw: the same bits as the compiled code where there is a seed."""

import secrets
import struct
from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp, numpy_dtype
from stepwell.interpreter.graph.evaluation import evaluates

Array = Any


def philox(counter: Array, key: tuple[int, int]) -> Array:
    """
    Philox4x32-10: four words `[4, n]` for each of `n` counters `[4, n]`; the reference of the compiled form.
    """
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        high = np.uint64(32)
        a, b, c, d = (
            (second >> high) ^ b ^ np.uint64(k0), second & mask, (first >> high) ^ d ^ np.uint64(k1), first & mask,
        )  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d]).astype(np.uint32)


def _words(op: GraphOp, count: int) -> Array:
    seed = op.get("seed")
    key = (secrets.randbits(32), secrets.randbits(32))
    if seed is not None:
        key = (struct.unpack("<I", struct.pack("<f", seed))[0], 0)
    place = np.arange(count, dtype=np.uint64)
    zero = np.zeros_like(place)
    return philox((place & np.uint64(0xFFFFFFFF), place >> np.uint64(32), zero, zero), key)


def _fraction(high: Array, low: Array, dtype: Any) -> Array:
    if dtype == np.float32:
        return (high >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return ((high >> np.uint32(5)) * 2.0**26 + (low >> np.uint32(6))) * 2.0**-53


def _shape(op: GraphOp, x: Array) -> tuple[int, ...]:
    return tuple(op.get("shape")) if x is None else x.shape


def _dtype(op: GraphOp) -> tuple[Any, Any]:
    """The element type of the result, and that of the computation."""
    dtype = numpy_dtype(op.results[0].type.element_type)  # pyright: ignore[reportAttributeAccessIssue]
    return dtype, np.float64 if dtype == np.float64 else np.float32


def _uniform(op: GraphOp, shape: tuple[int, ...], wide: Any, low: float, high: float, dtype: Any) -> Array:
    words = _words(op, int(np.prod(shape)))
    value = (_fraction(words[0], words[1], wide) * wide(high - low) + wide(low)).astype(dtype)
    if high > low:
        value = np.where(value.astype(np.float64) >= high, wide(low), value)
    return value.astype(dtype).reshape(shape)


@evaluates("random_uniform", "random_uniform_like")
def _random_uniform(op: GraphOp, x: Array = None) -> Array:
    dtype, wide = _dtype(op)
    return _uniform(op, _shape(op, x), wide, op.get("low"), op.get("high"), dtype)


@evaluates("random_normal", "random_normal_like")
def _random_normal(op: GraphOp, x: Array = None) -> Array:
    dtype, wide = _dtype(op)
    shape = _shape(op, x)
    words = _words(op, int(np.prod(shape)))
    if wide is np.float32:
        first = (words[0].astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
        turn = _fraction(words[1], words[1], np.float32)
    else:
        first, turn = 1 - _fraction(words[0], words[1], wide), _fraction(words[2], words[3], wide)
    radius = np.sqrt(np.maximum(np.log(first) * wide(-2), 0))
    wave = np.cos(turn * wide(2 * np.pi))
    return (radius * wave * wide(op.get("scale")) + wide(op.get("mean"))).astype(dtype).reshape(shape)


@evaluates("bernoulli")
def _bernoulli(op: GraphOp, p: Array) -> Array:
    wide = np.float64 if p.dtype == np.float64 else np.float32
    return _uniform(op, p.shape, wide, 0.0, 1.0, wide) < p


@evaluates("multinomial")
def _multinomial(op: GraphOp, x: Array) -> Array:
    wide = x.astype(np.float64)
    weights = np.exp(wide - wide.max(1, keepdims=True))
    sums = np.cumsum(weights / weights.sum(1, keepdims=True), 1)
    drawn = _uniform(op, (x.shape[0], op.get("sample_size")), np.float64, 0.0, 1.0, np.float64) * sums[:, -1:]
    return np.minimum((sums[:, None, :] <= drawn[:, :, None]).sum(2), x.shape[1] - 1)
