"""Mixtures of experts: every expert sees every token, and what the router did not choose is weighed by zero."""

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.quantised import unpacked
from stepwell.frontends.onnx.contrib.rules import add, contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import (
    cut,
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

_ALL = int(np.iinfo(np.int64).max)


@contrib("MoE")
def _experts(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    layers = [(operand(call, 2), given(call, 3)), (operand(call, 4), given(call, 5))]
    if (gate := given(call, 6)) is not None:
        layers.append((gate, given(call, 7)))
    turned = [(transpose(emitter, weights, 0, 2, 1), bias) for weights, bias in layers]
    return [_mixture(call, emitter, turned, None)]


@contrib("QMoE")
def _quantised_experts(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes = call.attributes
    if attributes.get("quant_type", "int") != "int" or attributes.get("weights_prepacked", 0) == 1:
        raise emitter.missing(call, "experts of floats of few bits, or prepacked", "export with integers")
    bits, layers = attributes.get("expert_weight_bits", 4), []
    for number, (place, zeros) in enumerate(((2, 11), (5, 12), (8, 13)), 1):
        if given(call, place) is None:
            continue
        own = attributes.get(f"fc{number}_expert_weight_bits", bits)
        layers.append((_real_weights(call, emitter, place, zeros, own), given(call, place + 2)))
    return [_mixture(call, emitter, layers, given(call, 14))]


def _real_weights(call: Call, emitter: Emitter, place: int, zeros: int, bits: int) -> SSAValue:
    """The weights at `place` as real numbers `[experts, in, out]`; their scales stand behind them."""
    found = [operand(call, place), operand(call, place + 1), given(call, zeros)]
    packed, scales, points = (None if value is None else emitter.value(value) for value in found)
    if packed is None or scales is None or (found[2] is not None and points is None):
        raise emitter.missing(call, "weights that are not constants", "make them initializers")
    numbers = unpacked(packed, bits)
    scales = scales.astype(np.float32)
    if scales.ndim == 2:
        scales = scales[..., None]
        points = None if points is None else unpacked(points, bits)[..., : scales.shape[1], None]
    elif points is not None:
        points = unpacked(points, bits)[..., : scales.shape[-1]]
    depth, blocks = numbers.shape[-1], scales.shape[-1]
    block = call.attributes.get("block_size", 0) or depth
    if blocks * block != depth:
        raise emitter.error(call, f"{blocks} scales for rows of {depth}", "export the model again")

    if points is None:
        points = np.full_like(scales, 1 << (bits - 1))
    points, scales = (np.repeat(values, block, axis=-1) for values in (points, scales))
    real = (numbers - points) * scales
    kind = emitter.dtype(operand(call))
    return emitter.constant(np.ascontiguousarray(real.swapaxes(1, 2)).astype(kind))


def _mixture(
    call: Call,
    emitter: Emitter,
    layers: Sequence[tuple[SSAValue, SSAValue | None]],
    weights: SSAValue | None,
) -> SSAValue:
    """The sum of the chosen experts of each token. A layer is weights `[experts, in, out]` and a bias `[experts, out]`."""
    if call.attributes.get("use_sparse_mixer", 0):
        raise emitter.missing(call, "a sparse mixer", "export with the ordinary router")
    x, router = operand(call), operand(call, 1)
    shape = one(emitter, "Shape", x)
    tokens = unsqueeze(emitter, _rows(emitter, x), 0)

    def dense(value: SSAValue, layer: int) -> SSAValue:
        matrix, bias = layers[layer]
        product = one(emitter, "MatMul", value, matrix)
        return product if bias is None else add(emitter, product, unsqueeze(emitter, bias, 1))

    hidden = _activated(call, emitter, dense(tokens, 0), dense(tokens, 2) if len(layers) > 2 else None)
    every = dense(hidden, 1)  # [experts, tokens, width]
    share = unsqueeze(emitter, transpose(emitter, _routed(call, emitter, router, weights), 1, 0), 2)
    total = one(emitter, "ReduceSum", one(emitter, "Mul", every, share), ints(emitter, 0), keepdims=0)
    return one(emitter, "Reshape", total, shape)


def _rows(emitter: Emitter, value: SSAValue) -> SSAValue:
    if len(emitter.shape(value)) == 2:
        return value
    width = cut(emitter, one(emitter, "Shape", value), 0, -1, _ALL)
    return one(emitter, "Reshape", value, one(emitter, "Concat", ints(emitter, -1), width, axis=0))


def _routed(call: Call, emitter: Emitter, router: SSAValue, weights: SSAValue | None) -> SSAValue:
    """The share of each expert in each token `[tokens, experts]`."""
    count = ints(emitter, call.attributes.get("k", 1))
    normal = call.attributes.get("normalize_routing_weights", 0)
    best, chosen = emitter.emit("TopK", router, count, results=2, axis=-1, largest=1, sorted=1)
    if weights is not None:
        share = one(emitter, "GatherElements", weights, chosen, axis=1)
        if normal:
            total = one(emitter, "ReduceSum", share, ints(emitter, 1), keepdims=1)
            share = one(emitter, "Div", share, total)
    elif normal:
        share = one(emitter, "Softmax", best, axis=-1)
    else:
        share = one(emitter, "GatherElements", one(emitter, "Softmax", router, axis=-1), chosen, axis=1)
    blank = one(emitter, "Expand", scalar(emitter, share, 0.0), one(emitter, "Shape", router))
    return one(emitter, "ScatterElements", blank, chosen, share, axis=1)


def _activated(call: Call, emitter: Emitter, value: SSAValue, other: SSAValue | None) -> SSAValue:
    name = call.attributes.get("activation_type", "relu")
    if name == "swiglu":
        return _swiglu(call, emitter, value, other)
    if name == "silu":
        result = one(emitter, "Mul", value, one(emitter, "Sigmoid", value))
    elif name == "gelu":
        result = one(emitter, "Gelu", value, approximate="tanh")
    elif name == "relu":
        result = one(emitter, "Relu", value)
    elif name == "identity":
        result = value
    else:
        raise emitter.missing(call, f"the activation {name!r}", "export with relu, gelu, silu or swiglu")
    return result if other is None else one(emitter, "Mul", result, other)


# swiglu(g, l) = G * sigmoid(alpha * G) * (L + beta)   where G = min(g, limit), L = clip(l, -limit, limit)
def _swiglu(call: Call, emitter: Emitter, value: SSAValue, other: SSAValue | None) -> SSAValue:
    how = call.attributes.get("swiglu_fusion", 0)
    if how == 0 and other is not None:
        gate, linear = value, other
    elif how == 1:  # one and one
        pairs = reshape(emitter, value, 0, 0, -1, 2)
        gate, linear = (squeeze(emitter, cut(emitter, pairs, 3, k, k + 1), 3) for k in (0, 1))
    elif how == 2:
        gate, linear = emitter.emit("Split", value, results=2, axis=-1, num_outputs=2)
    else:
        raise emitter.missing(call, f"swiglu of fusion {how} without a third layer", "export with fusion 1")
    if (limit := call.attributes.get("swiglu_limit")) is not None:
        low, high = scalar(emitter, value, -limit), scalar(emitter, value, limit)
        gate = one(emitter, "Min", gate, high)
        linear = one(emitter, "Clip", linear, low, high)
    turned = one(emitter, "Mul", gate, scalar(emitter, gate, call.attributes.get("activation_alpha", 1.0)))
    opened = one(emitter, "Mul", gate, one(emitter, "Sigmoid", turned))
    beta = call.attributes.get("activation_beta", 0.0)
    return one(emitter, "Mul", opened, one(emitter, "Add", linear, scalar(emitter, linear, beta)))
