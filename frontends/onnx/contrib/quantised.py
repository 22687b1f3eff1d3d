"""Quantised operators: what the operator of that name makes of the real numbers, or products of integers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import add, contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, given, ints, one, operand, scalar, transpose


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
    axis, rank = call.attributes.get("axis", -1), len(emitter.shape(operand(call)))
    if call.attributes["opset"] < 13 and axis not in (-1, rank - 1):
        raise emitter.missing(
            call, f"the softmax of opset {call.attributes['opset']} over axes", "use the last axis"
        )
    return _quantised(call, emitter, one(emitter, "Softmax", _real(call, emitter, 0), axis=axis), 3)


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
    numbers = _unpacked(packed.reshape(rows, -1), bits)[:, : blocks * block]
    scale = scales.astype(np.float32).reshape(rows, blocks)
    if zeros is None:
        point = np.full((rows, blocks), 1 << (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        point = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks]
    else:
        point = zeros.astype(np.float32).reshape(rows, blocks)
    place = np.arange(depth) // block if group is None else group.reshape(-1)[:depth].astype(np.int64)
    if place.size != depth or place.min() < 0 or place.max() >= blocks:
        raise emitter.error(call, "g_idx names a block that does not exist", "export the model again")
    weights = (numbers[:, :depth] - point[:, place]) * scale[:, place]
    a = operand(call)
    weights = np.ascontiguousarray(weights.T).astype(emitter.dtype(a))
    return [add(emitter, one(emitter, "MatMul", a, emitter.constant(weights)), given(call, 5))]


def _unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of a few bits each in the bytes of each row, the lower ones first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (data.astype(np.uint8)[..., None] >> shifts) & ((1 << bits) - 1)
    return numbers.reshape(data.shape[0], -1).astype(np.float32)


# Channels last


@contrib("NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "QLinearConv")
def _channels_last(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain: dict[str, Any] = dict(call.attributes)
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
    if plain.pop("activation", "") or plain.pop("activation_params", None) or given(call, 3) is not None:
        raise emitter.missing(call, "a fused activation or sum", "export without graph optimisations")
    return [transpose(emitter, one(emitter, "Conv", x, *call.operands[1:3], **plain), *back)]
