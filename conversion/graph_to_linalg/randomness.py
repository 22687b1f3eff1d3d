"""
Random numbers: element `i` of a tensor is a function of a key and of `i`, so neither the number of threads nor the order of
the elements matters. The key is made of the seed of the operator; one without a seed asks the runtime for a new key
each time it runs.
"""

import struct
from math import pi
from typing import Any

import numpy as np
from xdsl.dialects import math, tensor
from xdsl.dialects.builtin import AnyFloat, Float64Type, f32, f64, i1, i32, i64
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import Lowering, Shape, dims, lowers
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph.shape import Dim, product

RANDOM_KEY = "stepwell_rt_random_key"
"""The kernel of the runtime that makes a new key: it writes two words."""

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


# Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
def philox(counter: list[Scalar], key: list[Scalar]) -> list[Scalar]:
    """Four random words of 32 bits for a counter of four words and a key of two."""
    build = counter[0].body

    def high_and_low(x: Scalar, factor: int) -> tuple[Scalar, Scalar]:
        wide = x.as_integer(i64, True) * build.constant(factor, i64, True)
        return wide.shifted(32, left=False).as_integer(i32, True), wide.as_integer(i32, True)

    a, b, c, d = counter
    k0, k1 = key
    for number in range(_ROUNDS):
        if number:
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
        high_a, low_a = high_and_low(a, _MULTIPLIERS[0])
        high_c, low_c = high_and_low(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a
    return [a, b, c, d]


def key_of_seed(seed: float) -> tuple[int, int]:
    """The key of a generator whose operator has the attribute `seed`."""
    return struct.unpack("<I", struct.pack("<f", seed))[0], 0


def _key(low: Lowering, op: Any) -> SSAValue:
    """The key of `op`, two words."""
    seed = low.attr(op, "seed")
    if seed is not None:
        return low.tensor_constant(np.array(key_of_seed(float(seed)), np.uint32).view(np.int32))
    return low.call_runtime(RANDOM_KEY, [], [low.empty((2,), i32)])[0]


def _words(build: Body, k0: Scalar, k1: Scalar) -> list[Scalar]:
    """The four words of the element of a one-dimensional generic."""
    place = build.index(0).as_integer(i64, True)
    zero = build.constant(0, i32, True)
    halves = [place.as_integer(i32, True), place.shifted(32, left=False).as_integer(i32, True)]
    for word in (k0, k1):
        word.unsigned = True
    return philox([*halves, zero, zero], [k0, k1])


def _fraction(high: Scalar, low: Scalar, type: Any) -> Scalar:
    """A number in `[0, 1)`: of 24 bits in f32, of 53 in f64."""
    if type == f32:
        return high.shifted(8, left=False).cast(f32) * 2.0**-24
    top = high.shifted(5, left=False).cast(f64) * 2.0**26
    return (top + low.shifted(6, left=False).cast(f64)) * 2.0**-53


def _computed_in(element: Any) -> Any:
    return f64 if isinstance(element, Float64Type) else f32


def _drawn(low: Lowering, op: Any, shape: Shape, element: Any, body: Any) -> SSAValue:
    """A tensor whose elements are `body` of the words of each."""
    total = product(shape)
    key = _key(low, op)
    d = dims(1)
    init = low.empty((total,), element)

    def full(k0: Scalar, k1: Scalar, out: Scalar) -> Scalar:
        return body(_words(out.body, k0, k1)).cast(element)

    (flat,) = low.generic("p", [(key, [0]), (key, [1])], [(init, d)], full)
    return low.reshape(flat, shape)


def _float_element(low: Lowering, op: Any) -> Any:
    element = low.result_element(op)
    if not isinstance(element, AnyFloat):
        raise unsupported(op, f"random numbers of type {element}", "give dtype a type of floats")
    return element


def uniform(low: Lowering, op: Any, shape: Shape, element: Any, bottom: float, top: float) -> SSAValue:
    """Numbers in `[bottom, top)`."""
    type = _computed_in(element)

    def body(words: list[Scalar]) -> Scalar:
        value = (_fraction(words[0], words[1], type) * (top - bottom) + bottom).cast(element)
        wide = value.widened()
        # rounding may reach the end that is not in the interval
        return wide.body.select(wide.at_least(top), bottom, wide) if top > bottom else wide

    return _drawn(low, op, shape, element, body)


# sqrt(-2 ln u) * cos(2 pi v) has the normal distribution where u and v are uniform (Box and Muller)
def _normal(low: Lowering, op: Any, shape: Shape, element: Any, mean: float, scale: float) -> SSAValue:
    type = _computed_in(element)

    def body(words: list[Scalar]) -> Scalar:
        build = words[0].body
        if type == f32:
            first = (words[0].cast(f32) + 0.5) * 2.0**-32
            turn = _fraction(words[1], words[1], f32)
        else:
            first = 1.0 - _fraction(words[0], words[1], f64)
            turn = _fraction(words[2], words[3], f64)
        radius = (first.log() * -2.0).maximum(0.0).sqrt()
        wave = Scalar(build, build.add(math.CosOp((turn * (2.0 * pi)).value)))
        return radius * wave * scale + mean

    return _drawn(low, op, shape, element, body)


@lowers("random_uniform", "random_uniform_like")
def _random_uniform(low: Lowering, op: Any) -> SSAValue:
    ends = float(low.attr(op, "low")), float(low.attr(op, "high"))
    return uniform(low, op, _shape(low, op), _float_element(low, op), *ends)


@lowers("random_normal", "random_normal_like")
def _random_normal(low: Lowering, op: Any) -> SSAValue:
    mean, scale = float(low.attr(op, "mean")), float(low.attr(op, "scale"))
    return _normal(low, op, _shape(low, op), _float_element(low, op), mean, scale)


def _shape(low: Lowering, op: Any) -> Shape:
    return low.shape(low[op.operands[0]]) if op.operands else low.result_shape(op)


# x < p with the probability p, if x is uniform in [0, 1)
@lowers("bernoulli")
def _bernoulli(low: Lowering, op: Any) -> SSAValue:
    p = low[op.operands[0]]
    element = low.result_element(op)
    type = _computed_in(low.element(p))
    chance = uniform(low, op, low.shape(p), type, 0.0, 1.0)

    def body(u: Scalar, p: Scalar) -> Scalar:
        return u.below(p.cast(type)).cast(element)

    return low.map(body, [chance, p], low.shape(p), element, widen=False)


_STATE = 624
_SHIFT = 397
_UPPER, _LOWER = 0x80000000, 0x7FFFFFFF
_TWIST = 0x9908B0DF


def _mersenne_state(seed: int) -> np.ndarray:
    """The state of MT19937 that the seed gives."""
    word, state = seed & 0xFFFFFFFF, []
    for place in range(_STATE):
        state.append(word)
        word = (1812433253 * (word ^ (word >> 30)) + place + 1) & 0xFFFFFFFF
    return np.array(state, np.uint32)


# MT19937 of Matsumoto and Nishimura (1998), a word at a time.
def legacy_uniform(low: Lowering, seed: int, count: Dim) -> SSAValue:
    """
    `count` numbers in `[0, 1)` of NumPy's legacy generator, `RandomState(seed)`, which is what ONNX's reference
    implementation of Dropout draws its mask from.
    """
    state = low.tensor_constant(_mersenne_state(seed).view(np.int32))
    result = low.empty((count,), f64)

    def next_word(state: SSAValue, at: SSAValue) -> tuple[SSAValue, SSAValue, SSAValue]:
        build = Body(low.block, low, low.op)

        def read(offset: int) -> Scalar:
            place = build.wrap(at) + offset
            place = build.select(place.at_least(_STATE), place - _STATE, place)
            return build.extract(state, [place], unsigned=True)

        mixed = (read(0) & _UPPER) | (read(1) & _LOWER)
        twisted = mixed.shifted(1, left=False) ^ build.select((mixed & 1).differs(0), _TWIST, mixed.lift(0))
        word = read(_SHIFT) ^ twisted
        state = low.value(
            tensor.InsertOp.build(operands=[word.value, state, [at]], result_types=[state.type])
        )
        for shift, left, mask in (
            (11, False, None), (7, True, 0x9D2C5680), (15, True, 0xEFC60000), (18, False, None),
        ):  # fmt: skip
            moved = word.shifted(shift, left)
            word = word ^ (moved if mask is None else moved & mask)
        following = build.wrap(at) + 1
        following = build.select(following.at_least(_STATE), 0, following)
        return state, following.value, word.value

    def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        result, state, at = carried
        state, at, first = next_word(state, at)
        state, at, second = next_word(state, at)
        build = Body(low.block, low, low.op)
        number = _fraction(build.wrap(first, True), build.wrap(second, True), f64)
        inserted = tensor.InsertOp.build(operands=[number.value, result, [i]], result_types=[result.type])
        return [low.value(inserted), state, at]

    return loop(low, count, [result, state, low.constant(0)], body)[0]


# y = x / (1 - ratio) where a number in [0, 1) is at least the ratio, else 0; the ratio of inference is 0
@lowers("dropout")
def _dropout(low: Lowering, op: Any) -> list[SSAValue]:
    x, ratio, training = [*low.operands(op), None, None][:3]
    if training is not None and (known := low.known(op.operand_list()[2])) is not None and not known.any():
        training = None
    if training is None:
        ones = [low.fill(True, low.shape(x), low.result_element(op, 1))] if len(op.results) > 1 else []
        return [x, *ones]
    shape, element = low.shape(x), low.element(x)
    seed = low.attr(op, "seed")
    if seed is not None:
        drawn = low.reshape(legacy_uniform(low, int(seed), product(shape)), shape)
    else:
        drawn = uniform(low, op, shape, f64, 0.0, 1.0)
    rate = low.constant(0.5, f64) if ratio is None else low.extract(ratio, [0] * low.rank(ratio))
    flag = low.extract(training, [0] * low.rank(training))
    build = Body(low.block, low, low.op)
    rate = build.select(build.wrap(flag), build.wrap(rate).cast(f64), 0.0).value
    rates = low.fill(rate, (), f64)
    type = _computed_in(element)

    def body(v: Scalar, u: Scalar, rate: Scalar) -> list[Scalar]:
        kept = u.at_least(rate)
        scale = (1.0 / (1.0 - rate)).cast(type)
        return [v.body.select(kept, v.cast(type) * scale, 0.0), kept]

    y, mask = low.maps(body, [x, drawn, rates], shape, [element, i1], widen=False)
    return [y, mask][: len(op.results)]
