"""Quantised operators: what the operator of that name makes of the real numbers, or products of integers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.layers import activate, without_activation
from stepwell.frontends.onnx.contrib.rules import add, contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import (
    cast,
    cut,
    extent,
    given,
    ints,
    one,
    operand,
    reshape,
    scalar,
    squeeze,
    transpose,
    unsqueeze,
)


def _real(call: Call, emitter: Emitter, place: int) -> SSAValue:
    """The operand at `place`, with the scale and zero point behind it, as real numbers."""
    return one(emitter, "DequantizeLinear", *(given(call, place + k) for k in range(3)))


def _quantised(call: Call, emitter: Emitter, value: SSAValue, place: int) -> Sequence[SSAValue]:
    """`value` in the scale and zero point at `place`."""
    return emitter.emit("QuantizeLinear", value, given(call, place), given(call, place + 1))


# quantise(f(dequantise(a), dequantise(b)))
@contrib("QLinearAdd", "QLinearMul")
def _quantised_binary(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    sides = [_real(call, emitter, place) for place in (0, 3)]
    return _quantised(call, emitter, one(emitter, call.op.removeprefix("QLinear"), *sides), 6)


@contrib("QLinearSigmoid", "QLinearLeakyRelu")
def _quantised_unary(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain = {name: value for name, value in call.attributes.items() if name == "alpha"}
    result = one(emitter, call.op.removeprefix("QLinear"), _real(call, emitter, 0), **plain)
    return _quantised(call, emitter, result, 3)


@contrib("QLinearSoftmax")
def _quantised_softmax(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, axis = _real(call, emitter, 0), call.attributes.get("axis", -1)
    rank = len(emitter.shape(x))
    if call.attributes["opset"] >= 13 or axis % max(rank, 1) == rank - 1:
        return _quantised(call, emitter, one(emitter, "Softmax", x, axis=axis), 3)
    flat = one(emitter, "Softmax", one(emitter, "Flatten", x, axis=axis), axis=-1)
    return _quantised(call, emitter, one(emitter, "Reshape", flat, one(emitter, "Shape", x)), 3)


@contrib("QLinearAveragePool", "QLinearGlobalAveragePool")
def _quantised_pool(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain = dict(call.attributes)
    last, x = plain.pop("channels_last", 0), _real(call, emitter, 0)
    rank = len(emitter.shape(x))
    if last:
        x = transpose(emitter, x, 0, rank - 1, *range(1, rank - 1))
    result = one(emitter, call.op.removeprefix("QLinear"), x, **plain)
    if last:
        result = transpose(emitter, result, 0, *range(2, rank), 1)
    return _quantised(call, emitter, result, 3)


@contrib("QLinearReduceMean")
def _quantised_mean(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    axes = ints(emitter, *call.attributes["axes"]) if call.attributes.get("axes") else None
    result = one(
        emitter, "ReduceMean", _real(call, emitter, 0), axes, keepdims=call.attributes.get("keepdims", 1)
    )
    return _quantised(call, emitter, result, 3)


@contrib("QLinearConcat")
def _quantised_concat(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    parts = [_real(call, emitter, place) for place in range(2, len(call.operands), 3)]
    return _quantised(call, emitter, one(emitter, "Concat", *parts, axis=call.attributes["axis"]), 0)


@contrib("QLinearWhere")
def _quantised_where(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    result = one(emitter, "Where", operand(call), _real(call, emitter, 1), _real(call, emitter, 4))
    return _quantised(call, emitter, result, 7)


# Products: real = (a - a_zero) @ (b - b_zero) * (a_scale * b_scale) + bias


def real_product(
    emitter: Emitter,
    a: SSAValue,
    b: SSAValue,
    scales: tuple[SSAValue, SSAValue],
    zeros: tuple[SSAValue | None, SSAValue | None],
    bias: SSAValue | None,
) -> SSAValue:
    """The product of quantised matrices as real numbers."""
    product = cast(emitter, one(emitter, "MatMulInteger", a, b, *zeros), emitter.dtype(scales[0]))
    return add(emitter, one(emitter, "Mul", product, one(emitter, "Mul", *scales)), bias)


@contrib("DynamicQuantizeMatMul")
def _dynamic_matmul(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    a, a_scale, a_zero = emitter.emit("DynamicQuantizeLinear", operand(call), results=3)
    scales = (a_scale, operand(call, 2))
    return [real_product(emitter, a, operand(call, 1), scales, (a_zero, given(call, 3)), given(call, 4))]


@contrib("MatMulIntegerToFloat")
def _integer_matmul(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    scales, zeros = (operand(call, 2), operand(call, 3)), (given(call, 4), given(call, 5))
    return [real_product(emitter, operand(call), operand(call, 1), scales, zeros, given(call, 6))]


# qgemm = alpha * a_scale * b_scale * ((a - a_zero) @ (b - b_zero) + c), quantised if there is a scale for that
@contrib("QGemm")
def _quantised_gemm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    a, b = operand(call), operand(call, 3)
    if call.attributes.get("transA", 0):
        a = transpose(emitter, a, 1, 0)
    if call.attributes.get("transB", 0):
        b = transpose(emitter, b, 1, 0)
    product = add(
        emitter, one(emitter, "MatMulInteger", a, b, given(call, 2), given(call, 5)), given(call, 6)
    )
    scale = one(emitter, "Mul", operand(call, 1), operand(call, 4))
    if (alpha := call.attributes.get("alpha", 1.0)) != 1.0:
        scale = one(emitter, "Mul", scale, scalar(emitter, scale, alpha))
    real = one(emitter, "Mul", cast(emitter, product, np.float32), scale)
    return [real] if given(call, 7) is None else _quantised(call, emitter, real, 7)


# Weights of few bits


# B[n, block, byte] holds the blocks of row n, the lower bits of a byte first; W[n, k] = (B - zero) * scale of its block.
@contrib("MatMulNBits")
def _matmul_of_few_bits(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes = call.attributes
    rows, depth, block = attributes["N"], attributes["K"], attributes["block_size"]
    bits = attributes.get("bits", 4)
    packed, scales = (emitter.value(operand(call, place)) for place in (1, 2))
    zero, groups = given(call, 3), given(call, 4)
    zeros = None if zero is None else emitter.value(zero)
    group = None if groups is None else emitter.value(groups)
    if (
        packed is None
        or scales is None
        or (zero is not None and zeros is None)
        or (groups is not None and group is None)
    ):
        raise emitter.missing(call, "weights that are not constants", "make them initializers")
    if bits not in (2, 4, 8) or block < 1 or rows < 1 or depth < 1:
        raise emitter.missing(call, f"{bits} bits in blocks of {block}", "use 2, 4 or 8 bits")
    blocks = -(-depth // block)
    if packed.size != rows * blocks * block * bits // 8 or scales.size != rows * blocks:
        why = f"{packed.size} bytes and {scales.size} scales for {rows} rows of {blocks} blocks of {block}"
        raise emitter.error(call, why, "export the model again")
    numbers = unpacked(packed.reshape(rows, -1), bits)[:, : blocks * block]
    scale = scales.astype(np.float32).reshape(rows, blocks)
    if zeros is None:
        point = np.full((rows, blocks), 1 << (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        point = unpacked(zeros.reshape(rows, -1), bits)[:, :blocks]
    else:
        point = zeros.astype(np.float32).reshape(rows, blocks)
    place = np.arange(depth) // block if group is None else group.reshape(-1)[:depth].astype(np.int64)
    if place.size != depth or place.min() < 0 or place.max() >= blocks:
        raise emitter.error(call, "g_idx names a block that does not exist", "export the model again")
    weights = (numbers[:, :depth] - point[:, place]) * scale[:, place]
    a = operand(call)
    weights = np.ascontiguousarray(weights.T).astype(emitter.dtype(a))
    return [add(emitter, one(emitter, "MatMul", a, emitter.constant(weights)), given(call, 5))]


def unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of a few bits each in the bytes of each row, the lower ones first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (data.astype(np.uint8)[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.reshape(*data.shape[:-1], -1).astype(np.float32)


_FP4 = (0.0, 0.0052083333, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
_NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
_BNB4 = {0: np.array([*_FP4, *(-value for value in _FP4)], np.float32), 1: np.array(_NF4, np.float32)}
"""What each code of four bits stands for, by `quant_type`."""


# B holds the codes of a matrix [N, K] in one row, the upper four bits of a byte first; absmax[i] scales block i of it.
@contrib("MatMulBnb4")
def _matmul_of_codes(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, a = call.attributes, operand(call)
    packed, scales = (emitter.value(operand(call, place)) for place in (1, 2))
    if packed is None or scales is None:
        raise emitter.missing(call, "weights that are not constants", "make them initializers")
    if not attributes.get("transB", 1):
        raise emitter.missing(call, "the product with the matrix itself", "export for inference")
    rows, depth, block = attributes["N"], attributes["K"], attributes["block_size"]
    size, table = rows * depth, _BNB4.get(attributes["quant_type"])
    if table is None or block < 1 or packed.size != -(-size // 2) or scales.size != -(-size // block):
        why = f"{packed.size} bytes and {scales.size} scales for {rows} rows of {depth} in blocks of {block}"
        raise emitter.error(call, why, "export the model again")
    codes = np.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], axis=1).reshape(-1)[:size]
    real = table[codes] * np.repeat(scales.astype(np.float32).reshape(-1), block)[:size]
    weights = np.ascontiguousarray(real.reshape(rows, depth).T).astype(emitter.dtype(a))
    return [one(emitter, "MatMul", a, emitter.constant(weights))]


# gather(dequantise(data)), the places out of range zero; the numbers of data are 4 or 8 bits wide
@contrib("GatherBlockQuantized")
def _gather_quantised(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, data, scales = call.attributes, operand(call), operand(call, 2)
    kind, rank = emitter.dtype(data), len(emitter.shape(data))
    axis = attributes.get("gather_axis", 0) % rank
    along = attributes.get("quantize_axis", 1) % rank
    block, bits = attributes.get("block_size", 128), attributes.get("bits", 4)
    packed = kind == np.uint8
    if packed and (axis != 0 or bits not in (2, 4, 8)):
        raise emitter.missing(call, f"{bits} bits along axis {axis}", "gather 2, 4 or 8 bits along axis 0")
    if axis == along:
        raise emitter.missing(call, "blocks along the axis of the indices", "quantise along another axis")
    count = extent(emitter, data, axis)
    places = cast(emitter, operand(call, 1), np.int64)
    if not packed:
        data = cast(emitter, data, np.int8 if kind.kind in "iu" or kind.name.endswith("int4") else np.float32)
    added = len(emitter.shape(places)) - 1
    behind = along if along < axis else along + added
    valid, index = _within(emitter, places, squeeze(emitter, count, 0))
    values = one(emitter, "Gather", data, index, axis=axis)
    if packed and bits < 8:
        values = _unpacked_last(emitter, values, bits)
    depth, wide = emitter.shape(values)[behind], emitter.dtype(scales)
    if not isinstance(depth, int):
        raise emitter.missing(call, "data of unknown extent", "make it an initializer")
    groups = emitter.constant(np.arange(depth) // (block or depth))

    def per_block(table: SSAValue, last: int | None = None) -> SSAValue:
        """A table of blocks as numbers for the gathered values."""
        own = emitter.shape(table)[axis]
        taken = (
            one(emitter, "Gather", table, index, axis=axis)
            if own != 1 or own == emitter.shape(operand(call))[axis]
            else table
            if not added
            else unsqueeze(emitter, table, *range(axis + 1, axis + 1 + added))
            if added > 0
            else squeeze(emitter, table, axis)
        )
        if last is not None:
            taken = cut(emitter, _unpacked_last(emitter, taken, bits), -1, 0, last)
        return one(emitter, "Gather", cast(emitter, taken, np.float32), groups, axis=behind)

    values, zero = cast(emitter, values, np.float32), given(call, 3)
    if zero is not None:
        last = emitter.shape(scales)[-1]
        assert isinstance(last, int)
        if not packed:
            zero = cast(emitter, zero, np.int8)
        values = one(emitter, "Sub", values, per_block(zero, last if packed and bits < 8 else None))
    elif packed:
        values = one(emitter, "Sub", values, scalar(emitter, values, 1 << (bits - 1)))
    real = cast(emitter, one(emitter, "Mul", values, per_block(scales)), wide)
    around = len(emitter.shape(values)) - axis - added - 1
    if around:
        valid = unsqueeze(emitter, valid, *range(added + 1, added + 1 + around))
    return [one(emitter, "Where", valid, real, scalar(emitter, real, 0.0))]


def _within(emitter: Emitter, places: SSAValue, count: SSAValue) -> tuple[SSAValue, SSAValue]:
    """Which indices are in range, and the indices with 0 for the others."""
    low = one(emitter, "GreaterOrEqual", places, one(emitter, "Neg", count))
    valid = one(emitter, "And", low, one(emitter, "Less", places, count))
    return valid, one(emitter, "Where", valid, places, emitter.constant(np.array(0)))


def _unpacked_last(emitter: Emitter, value: SSAValue, bits: int) -> SSAValue:
    """The numbers of a few bits in bytes, as bytes of their own along the last axis."""
    rank = len(emitter.shape(value))
    shifts = emitter.constant(np.arange(0, 8, bits, dtype=np.uint8))
    mask = emitter.constant(np.array((1 << bits) - 1, np.uint8))
    moved = one(emitter, "BitShift", unsqueeze(emitter, value, rank), shifts, direction="RIGHT")
    return reshape(emitter, one(emitter, "BitwiseAnd", moved, mask), *[0] * (rank - 1), -1)


# Channels last


@contrib("NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "QLinearConv")
def _channels_last(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain: dict[str, Any] = without_activation(call)
    quantised = call.op == "QLinearConv"
    x = operand(call)
    rank = len(emitter.shape(x))
    first, back = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
    if not quantised or plain.pop("channels_last", 0):
        x = transpose(emitter, x, *first)
    else:
        return emitter.emit("QLinearConv", *call.operands, **plain)
    if call.op == "NhwcMaxPool":
        return [transpose(emitter, one(emitter, "MaxPool", x, **plain), *back)]
    if quantised:
        return [transpose(emitter, one(emitter, "QLinearConv", x, *call.operands[1:], **plain), *back)]
    # ONNX Runtime's filters of these are [out, in, height, width] all the same
    result = transpose(emitter, one(emitter, "Conv", x, *call.operands[1:3], **plain), *back)
    return [activate(call, emitter, add(emitter, result, given(call, 3)))]
