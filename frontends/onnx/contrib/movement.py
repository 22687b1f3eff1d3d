"""What moves, selects or counts elements."""

from collections.abc import Sequence

import numpy as np
import onnx
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import (
    cast,
    counting,
    cut,
    extent,
    given,
    integer,
    ints,
    one,
    operand,
    reshape,
    scalar,
    squeeze,
    transpose,
    unsqueeze,
)


@contrib("SampleOp")
def _same(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("Identity", operand(call))


@contrib("ExpandDims")
def _expand_dims(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    axis = emitter.value(operand(call, 1))
    if axis is None or axis.size != 1:
        raise emitter.missing(call, "an axis known only when run", "make it an initializer")
    return [unsqueeze(emitter, operand(call), int(axis.item()))]


@contrib("GatherND")
def _gather_nd(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("GatherND", operand(call), cast(emitter, operand(call, 1), np.int64))


# The pads may be [1, 2 * rank], the value [1].
@contrib("Pad")
def _pad(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    value = given(call, 2)
    pads = reshape(emitter, operand(call, 1), -1)
    if value is not None:
        value = reshape(emitter, value)
    return emitter.emit("Pad", operand(call), pads, value, mode=call.attributes.get("mode", "constant"))


@contrib("Unique")
def _unique(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    values, _, places, counts = emitter.emit("Unique", operand(call), results=4, sorted=0)
    return [values, places, counts]


@contrib("GridSample")
def _grid_sample(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain = dict(call.attributes)
    mode = plain.pop("mode", "bilinear")
    plain["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return emitter.emit("GridSample", *call.operands, **plain)


# unfold(x)[.., n, .., k] = x[.., n * step + k, ..]
@contrib("UnfoldTensor")
def _unfold(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, size, step = operand(call), call.attributes["size"], call.attributes.get("step", 1)
    rank = len(emitter.shape(x))
    axis = call.attributes.get("dim", -1) % max(rank, 1)
    if size < 1 or step < 1:
        raise emitter.error(call, f"slices of {size}, {step} apart", "export the model again")
    room = one(emitter, "Sub", squeeze(emitter, extent(emitter, x, axis), 0), integer(emitter, size))
    count = one(emitter, "Add", one(emitter, "Div", room, integer(emitter, step)), integer(emitter, 1))
    first = one(emitter, "Mul", counting(emitter, count), integer(emitter, step))
    places = one(emitter, "Add", unsqueeze(emitter, first, 1), ints(emitter, *range(size)))
    taken = one(emitter, "Gather", x, places, axis=axis)
    order = [k for k in range(rank + 1) if k != axis + 1] + [axis + 1]
    return [transpose(emitter, taken, *order)]


# Boxes of images, resized to one size. The centres of the corners of a box are those of the result's corner pixels.
@contrib("CropAndResize")
def _crop_and_resize(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, boxes, size = operand(call), operand(call, 1), cast(emitter, operand(call, 3), np.int64)
    nearest = call.attributes.get("mode", "bilinear") == "nearest"
    image = transpose(emitter, x, 0, 2, 3, 1)
    owner = cast(emitter, reshape(emitter, operand(call, 2), -1, 1, 1, 1), np.int64)
    rows = _places(emitter, x, boxes, size, 0)  # [boxes, height]
    columns = _places(emitter, x, boxes, size, 1)
    inside = one(
        emitter, "And", unsqueeze(emitter, rows[0], 2), unsqueeze(emitter, columns[0], 1)
    )  # [boxes, height, width]
    inside = unsqueeze(emitter, inside, 3)

    def pixels(row: SSAValue, column: SSAValue) -> SSAValue:
        """`[boxes, height, width, channels]`"""
        shape = one(emitter, "Shape", inside)
        parts = (owner, unsqueeze(emitter, row, 2, 3), unsqueeze(emitter, column, 1, 3))
        index = one(emitter, "Concat", *(one(emitter, "Expand", p, shape) for p in parts), axis=3)
        return one(emitter, "GatherND", image, index)

    if nearest:
        half = scalar(emitter, x, 0.5)
        at = [
            cast(emitter, one(emitter, "Floor", one(emitter, "Add", place[1], half)), np.int64)
            for place in (rows, columns)
        ]
        result = pixels(at[0], at[1])
    else:
        low, high = zip(*(_around(emitter, place[1]) for place in (rows, columns)), strict=True)
        down, right = (
            one(emitter, "Sub", place[1], one(emitter, "Floor", place[1])) for place in (rows, columns)
        )
        across = unsqueeze(emitter, right, 1, 3)
        top = _between(emitter, pixels(low[0], low[1]), pixels(low[0], high[1]), across)
        bottom = _between(emitter, pixels(high[0], low[1]), pixels(high[0], high[1]), across)
        result = _between(emitter, top, bottom, unsqueeze(emitter, down, 2, 3))
    outside = scalar(emitter, x, call.attributes.get("extrapolation_value", 0.0))
    return [transpose(emitter, one(emitter, "Where", inside, result, outside), 0, 3, 1, 2)]


def _places(
    emitter: Emitter, x: SSAValue, boxes: SSAValue, size: SSAValue, axis: int
) -> tuple[SSAValue, SSAValue]:
    """Of each box `[boxes, extent]` along an axis: whether a pixel of the result is in the image, and where, within it."""
    dtype = emitter.dtype(x)
    start, end = cut(emitter, boxes, 1, axis, axis + 1), cut(emitter, boxes, 1, axis + 2, axis + 3)
    last = cast(emitter, one(emitter, "Sub", extent(emitter, x, 2 + axis), ints(emitter, 1)), dtype)
    count = cut(emitter, size, 0, axis, axis + 1)
    steps = one(emitter, "Sub", count, ints(emitter, 1))
    number = cast(emitter, counting(emitter, squeeze(emitter, count, 0)), dtype)
    apart = one(emitter, "Mul", one(emitter, "Sub", end, start), last)
    apart = one(emitter, "Div", apart, cast(emitter, one(emitter, "Max", steps, ints(emitter, 1)), dtype))
    spread = one(
        emitter,
        "Add",
        one(emitter, "Mul", start, last),
        one(emitter, "Mul", unsqueeze(emitter, number, 0), apart),
    )
    middle = one(
        emitter, "Mul", one(emitter, "Mul", one(emitter, "Add", start, end), scalar(emitter, x, 0.5)), last
    )
    place = one(emitter, "Where", one(emitter, "Greater", steps, ints(emitter, 0)), spread, middle)
    zero = scalar(emitter, x, 0.0)
    above = one(emitter, "GreaterOrEqual", place, zero)
    inside = one(emitter, "And", above, one(emitter, "LessOrEqual", place, last))
    return inside, one(emitter, "Where", inside, place, zero)


def _around(emitter: Emitter, place: SSAValue) -> tuple[SSAValue, SSAValue]:
    """The pixels before and behind a place."""
    low, high = (cast(emitter, one(emitter, op, place), np.int64) for op in ("Floor", "Ceil"))
    return low, high


def _between(emitter: Emitter, low: SSAValue, high: SSAValue, part: SSAValue) -> SSAValue:
    return one(emitter, "Add", low, one(emitter, "Mul", one(emitter, "Sub", high, low), part))


# Tokens


# -inf for each token that would repeat the last `ngram_size` of a row
@contrib("NGramRepeatBlock")
def _repeat_block(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    ids, scores, size = operand(call), operand(call, 1), call.attributes["ngram_size"]
    if size < 1:
        raise emitter.error(call, f"runs of {size} tokens", "export the model again")
    zero = integer(emitter, 0)
    room = one(emitter, "Sub", squeeze(emitter, extent(emitter, ids, 1), 0), integer(emitter, size - 1))
    starts = unsqueeze(emitter, counting(emitter, one(emitter, "Max", room, zero)), 1)
    places = one(emitter, "Add", starts, ints(emitter, *range(size)))
    runs = one(emitter, "Gather", ids, places, axis=1)  # [batch, runs, size]
    token = squeeze(emitter, cut(emitter, runs, 2, size - 1, size), 2)
    if size > 1:
        behind = one(emitter, "Add", ints(emitter, *range(size - 1)), room)
        last = one(emitter, "Gather", ids, one(emitter, "Max", behind, zero), axis=1)
        same = one(emitter, "Equal", cut(emitter, runs, 2, 0, size - 1), unsqueeze(emitter, last, 1))
        differ = cast(emitter, one(emitter, "Not", same), np.int64)
        count = one(emitter, "ReduceSum", differ, ints(emitter, 2), keepdims=0)
        repeats = one(emitter, "Equal", count, zero)
        low, high = (scalar(emitter, scores, sign * np.inf) for sign in (-1, 1))
        bound = one(emitter, "Where", repeats, low, high)
    else:
        low = scalar(emitter, scores, -np.inf)
        bound = one(emitter, "Expand", low, one(emitter, "Shape", token))
    return emitter.emit("ScatterElements", scores, token, bound, axis=1, reduction="min")


_C1, _C2 = 0xCC9E2D51, 0x1B873593


def _unsigned(emitter: Emitter, value: int) -> SSAValue:
    return emitter.constant(np.array(value, np.uint32))


def _rotated(emitter: Emitter, value: SSAValue, by: int) -> SSAValue:
    left = one(emitter, "BitShift", value, _unsigned(emitter, by), direction="LEFT")
    right = one(emitter, "BitShift", value, _unsigned(emitter, 32 - by), direction="RIGHT")
    return one(emitter, "BitwiseOr", left, right)


def _shifted_in(emitter: Emitter, value: SSAValue, by: int) -> SSAValue:
    """`value ^ value >> by`"""
    shifted = one(emitter, "BitShift", value, _unsigned(emitter, by), direction="RIGHT")
    return one(emitter, "BitwiseXor", value, shifted)


# MurmurHash3_x86_32 of the 4 or 8 bytes of an element
@contrib("MurmurHash3")
def _murmur(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, types = operand(call), onnx.TensorProto
    kind = emitter.dtype(x)
    if kind.kind not in "iuf" or kind.itemsize not in (4, 8):
        raise emitter.missing(call, f"the hash of {emitter.element_type(x)}", "hash before the model")
    if kind.itemsize == 4:
        words = [one(emitter, "BitCast", x, to=types.UINT32)]
    else:
        bits = one(emitter, "BitCast", x, to=types.UINT64)
        by = emitter.constant(np.array(32, np.uint64))
        low = one(emitter, "BitwiseAnd", bits, emitter.constant(np.array(0xFFFFFFFF, np.uint64)))
        high = one(emitter, "BitShift", bits, by, direction="RIGHT")
        words = [cast(emitter, part, np.uint32) for part in (low, high)]
    result = _unsigned(emitter, call.attributes.get("seed", 0) & 0xFFFFFFFF)
    for word in words:
        word = _rotated(emitter, one(emitter, "Mul", word, _unsigned(emitter, _C1)), 15)
        word = one(emitter, "Mul", word, _unsigned(emitter, _C2))
        result = _rotated(emitter, one(emitter, "BitwiseXor", result, word), 13)
        result = one(emitter, "Mul", result, _unsigned(emitter, 5))
        result = one(emitter, "Add", result, _unsigned(emitter, 0xE6546B64))
    result = one(emitter, "BitwiseXor", result, _unsigned(emitter, kind.itemsize))
    result = _shifted_in(emitter, result, 16)
    result = _shifted_in(emitter, one(emitter, "Mul", result, _unsigned(emitter, 0x85EBCA6B)), 13)
    result = _shifted_in(emitter, one(emitter, "Mul", result, _unsigned(emitter, 0xC2B2AE35)), 16)
    if call.attributes.get("positive", 1):
        return [result]
    return emitter.emit("BitCast", result, to=types.INT32)
