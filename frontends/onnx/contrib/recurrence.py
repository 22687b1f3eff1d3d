"""Linear attention with its gates, streams that mix, and the recurrent layers of quantised weights."""

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

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

_ALL = int(np.iinfo(np.int64).max)


def _wide(emitter: Emitter, value: SSAValue) -> SSAValue:
    return cast(emitter, value, np.float32)


def _like(emitter: Emitter, value: SSAValue, call: Call) -> SSAValue:
    """`value` in the type of the call's first operand."""
    return cast(emitter, value, emitter.dtype(operand(call)))


def _sum(emitter: Emitter, value: SSAValue, axis: int, keep: bool = False) -> SSAValue:
    return one(emitter, "ReduceSum", value, ints(emitter, axis), keepdims=int(keep))


def _rms(emitter: Emitter, value: SSAValue, epsilon: float) -> SSAValue:
    """`value` over the root of the mean of its squares along the last axis."""
    square = one(emitter, "ReduceMean", one(emitter, "Mul", value, value), ints(emitter, -1), keepdims=1)
    root = one(emitter, "Sqrt", one(emitter, "Add", square, scalar(emitter, value, epsilon)))
    return one(emitter, "Div", value, root)


def _refuse_window(call: Call, emitter: Emitter) -> None:
    if call.attributes.get("state_window", 0):
        raise emitter.missing(call, "a window of states", "export with the last state only")


@contrib("LinearAttention")
def _linear_attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    _refuse_window(call, emitter)
    plain = {name: value for name, value in call.attributes.items() if name != "state_window"}
    return emitter.emit("LinearAttention", *call.operands, results=len(call.used), **plain)


# A depthwise convolution whose past is what the last call left.
@contrib("CausalConvWithState")
def _causal_convolution(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, x, weights = call.attributes, operand(call), operand(call, 1)
    _refuse_window(call, emitter)
    activation = attributes.get("activation", "none")
    if attributes.get("ndim", 1) != 1 or activation not in ("none", "silu", "swish"):
        raise emitter.missing(
            call, "more than one axis, or another activation than silu", "export in the ordinary form"
        )
    channels, _, taps = emitter.shape(weights)
    if not isinstance(channels, int) or not isinstance(taps, int):
        raise emitter.missing(call, "weights of unknown extents", "make them an initializer")
    last, dilation = attributes.get("channels_last", 0), attributes.get("dilation", 1)
    past, shape = given(call, 3), one(emitter, "Shape", x)
    if last:
        x = _channels_second(emitter, x)
        past = None if past is None else _channels_second(emitter, past)
    held = (taps - 1) * dilation
    if past is None:
        blank = one(emitter, "Concat", extent(emitter, x, 0), ints(emitter, channels, held), axis=0)
        past = one(emitter, "Expand", scalar(emitter, x, 0.0), blank)
    total = one(emitter, "Concat", past, x, axis=2)
    result = one(
        emitter, "Conv", total, weights, given(call, 2), group=channels, kernel_shape=[taps], strides=[1],
        pads=[0, 0], dilations=[dilation],
    )  # fmt: skip
    if activation != "none":
        result = one(emitter, "Mul", result, one(emitter, "Sigmoid", result))
    state = cut(emitter, total, 2, -held if held else _ALL, _ALL)
    if last:
        result, state = (transpose(emitter, value, 0, 2, 1) for value in (result, state))
        trailing = cut(emitter, shape, 0, 2, _ALL)
        inner = one(emitter, "Concat", ints(emitter, 0, held), trailing, axis=0)
        result, state = one(emitter, "Reshape", result, shape), one(emitter, "Reshape", state, inner)
    return [result, state][: len(call.used)]


def _channels_second(emitter: Emitter, value: SSAValue) -> SSAValue:
    """`[batch, length, ..]` as `[batch, channels, length]`."""
    return transpose(emitter, reshape(emitter, value, 0, 0, -1), 0, 2, 1)


@contrib("LinearAttentionGate")
def _gates_of_linear_attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    a, b = _wide(emitter, operand(call)), given(call, 3)
    steps = one(emitter, "Softplus", one(emitter, "Add", a, operand(call, 1)))
    results = [_like(emitter, one(emitter, "Mul", steps, operand(call, 2)), call)]
    if b is not None:
        results.append(_like(emitter, one(emitter, "Sigmoid", _wide(emitter, b)), call))
    return results


@contrib("GatedRMSNorm")
def _gated_rms_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, scale, gate = (operand(call, place) for place in range(3))
    activation = call.attributes.get("activation", "silu")
    if activation not in ("silu", "swish", "sigmoid"):
        raise emitter.missing(call, f"the gate {activation!r}", "use silu or sigmoid")
    (width,) = emitter.shape(scale)
    if not isinstance(width, int):
        raise emitter.missing(call, "a scale of unknown extent", "make it an initializer")
    rank, shape = len(emitter.shape(x)), one(emitter, "Shape", x)
    groups = reshape(emitter, _wide(emitter, x), *[0] * (rank - 1), -1, width)
    normal = one(
        emitter, "Mul", _rms(emitter, groups, call.attributes.get("epsilon", 1e-5)), _wide(emitter, scale)
    )
    normal, gate = one(emitter, "Reshape", normal, shape), _wide(emitter, gate)
    opened = one(emitter, "Sigmoid", gate)
    if activation != "sigmoid":
        opened = one(emitter, "Mul", gate, opened)
    return [_like(emitter, one(emitter, "Mul", normal, opened), call)]


# The key of a position judges its value, and the query of the stream says how much of it goes in.
@contrib("EngramGate")
def _engram_gate(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    epsilon = call.attributes.get("epsilon", 1e-5)
    keys, queries, value = (_wide(emitter, operand(call, place)) for place in range(3))
    keys, queries = (
        one(emitter, "Mul", _rms(emitter, x, epsilon), _wide(emitter, operand(call, place)))
        for x, place in ((keys, 3), (queries, 4))
    )
    width = one(emitter, "Sqrt", _wide(emitter, extent(emitter, keys, 3)))
    dot = one(emitter, "Div", _sum(emitter, one(emitter, "Mul", keys, queries), -1, keep=True), width)
    size = one(emitter, "Max", one(emitter, "Abs", dot), scalar(emitter, dot, 1e-6))
    signed = one(emitter, "Mul", one(emitter, "Sign", dot), one(emitter, "Sqrt", size))
    gated = one(emitter, "Mul", one(emitter, "Sigmoid", signed), unsqueeze(emitter, value, 2))
    results = [_like(emitter, gated, call)]
    if len(call.used) > 1:
        normal = one(emitter, "Mul", _rms(emitter, gated, epsilon), _wide(emitter, operand(call, 5)))
        results.append(_like(emitter, normal, call))
    return results


@contrib("GatedAdd")
def _gated_add(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, y, gate = (operand(call, place) for place in range(3))
    return [one(emitter, "Add", x, one(emitter, "Mul", y, gate))]


@contrib("ScaledSiLU")
def _scaled_silu(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, scale = operand(call), given(call, 1)
    if scale is None:
        factor = scalar(emitter, _wide(emitter, x), call.attributes.get("alpha", 1.0))
    else:
        factor = _wide(emitter, scale)
    scaled = _like(emitter, one(emitter, "Mul", _wide(emitter, x), factor), call)
    return [one(emitter, "Mul", scaled, one(emitter, "Sigmoid", scaled))]


# Streams that run side by side: [.., streams, width], or the two axes as one


def _streams(call: Call, emitter: Emitter, value: SSAValue) -> tuple[SSAValue, int]:
    """`value` in float32 with an axis of its own for the streams, and the rank of that."""
    count, rank = call.attributes.get("num_branches", 0), len(emitter.shape(value))
    value = _wide(emitter, value)
    if not count:
        return value, rank
    return reshape(emitter, value, *[0] * (rank - 1), count, -1), rank + 1


def _gates(emitter: Emitter, gates: SSAValue, rank: int) -> SSAValue:
    """Gates `[.., streams]` or `[.., streams, 1 or width]` as `[.., streams, 1 or width]`."""
    gates = _wide(emitter, gates)
    return gates if len(emitter.shape(gates)) == rank else unsqueeze(emitter, gates, -1)


@contrib("BranchwiseRMSNorm")
def _branchwise_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, scale = operand(call), given(call, 1)
    groups, rank = _streams(call, emitter, x)
    result = _rms(emitter, groups, call.attributes.get("epsilon", 1e-5))
    if scale is not None:
        scale = _wide(emitter, scale)
        streams = emitter.shape(groups)[rank - 2]
        if len(emitter.shape(scale)) == 1 and emitter.shape(scale)[0] != emitter.shape(groups)[-1]:
            if not isinstance(streams, int):
                raise emitter.missing(call, "an unknown number of streams", "give the extent a number")
            scale = reshape(emitter, scale, streams, -1)
        result = one(emitter, "Mul", result, scale)
    return [_like(emitter, one(emitter, "Reshape", result, one(emitter, "Shape", x)), call)]


@contrib("HyperConnectionPreMix")
def _mixed_before(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    streams, rank = _streams(call, emitter, operand(call))
    gates, flat = operand(call, 1), len(emitter.shape(operand(call)))
    count = call.attributes.get("num_branches", 0)
    if count and len(emitter.shape(gates)) == flat and emitter.shape(gates)[-1] != count:
        gates, _ = _streams(call, emitter, gates)
    mixed = _sum(emitter, one(emitter, "Mul", streams, _gates(emitter, gates, rank)), rank - 2)
    if (factor := call.attributes.get("reduction_scale", 1.0)) != 1.0:
        mixed = one(emitter, "Mul", mixed, scalar(emitter, mixed, factor))
    return [_like(emitter, mixed, call)]


@contrib("HyperConnectionPostMix")
def _mixed_after(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, mix = operand(call), given(call, 3)
    streams, rank = _streams(call, emitter, x)
    if mix is not None:
        axes = (*range(rank - 2), rank - 1, rank - 2)
        streams = one(emitter, "MatMul", transpose(emitter, _wide(emitter, mix), *axes), streams)
    block = unsqueeze(emitter, _wide(emitter, operand(call, 1)), -2)
    own = one(emitter, "Mul", _gates(emitter, operand(call, 2), rank), block)
    result = one(emitter, "Reshape", add(emitter, streams, own), one(emitter, "Shape", x))
    return [_like(emitter, result, call)]


# Positions of three kinds: time, height and width each turn a part of the columns.
@contrib("MRotaryEmbedding")
def _rotary_of_three(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, x, places = call.attributes, operand(call), operand(call, 1)
    if attributes.get("is_packed_batching", 0) or attributes.get("scale", 1.0) != 1.0:
        raise emitter.missing(call, "packed batches or scaled positions", "export in the ordinary form")
    sections, half = attributes["mrope_section"], emitter.shape(operand(call, 2))[-1]
    if not isinstance(half, int) or len(sections) != 3:
        raise emitter.missing(call, "tables of unknown width", "make them initializers")
    kind = np.repeat([0, 1, 2], sections)
    if attributes.get("mrope_layout", 0):
        kind = np.zeros(half, np.int64)
        for stream in (1, 2):
            kind[stream : 3 * sections[stream] : 3] = stream
    if len(kind) != half:
        raise emitter.error(call, f"sections of {sections} for {half} columns", "export the model again")
    by_kind = [squeeze(emitter, cut(emitter, places, 0, k, k + 1), 0) for k in range(3)]
    tables = []
    for place in (2, 3):
        table = operand(call, place)
        own = [one(emitter, "Gather", table, stream, axis=0) for stream in by_kind]
        rest = one(emitter, "Where", emitter.constant(kind == 1), own[1], own[2])
        tables.append(one(emitter, "Where", emitter.constant(kind == 0), own[0], rest))
    plain = {name: attributes.get(name, 0) for name in ("num_heads", "rotary_embedding_dim", "interleaved")}
    if len(emitter.shape(x)) == 3 and plain["num_heads"] < 1:
        raise emitter.error(call, "an input of rank 3 without the number of heads", "export it again")
    return emitter.emit("RotaryEmbedding", x, *tables, **plain)


# LSTM on W [directions, input, 4 * hidden] and R alike, of 8 bits. ONNX Runtime rounds the inputs of its products to 8
# bits as well; here they stay as they are.
@contrib("DynamicQuantizeLSTM")
def _quantised_lstm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    weights = []
    for place, scale in ((1, 8), (2, 10)):
        steps, zeros = operand(call, scale), operand(call, scale + 1)
        quantised = cast(emitter, operand(call, place), np.int32)
        if len(emitter.shape(steps)) == 1:
            steps, zeros = (unsqueeze(emitter, value, 1) for value in (steps, zeros))
        zero = unsqueeze(emitter, cast(emitter, zeros, np.int32), 1)
        real = cast(emitter, one(emitter, "Sub", quantised, zero), np.float32)
        real = one(emitter, "Mul", real, unsqueeze(emitter, steps, 1))
        weights.append(transpose(emitter, real, 0, 2, 1))
    known = (
        "activation_alpha",
        "activation_beta",
        "activations",
        "clip",
        "direction",
        "hidden_size",
        "input_forget",
    )
    plain = {name: value for name, value in call.attributes.items() if name in known}
    rest = (given(call, place) for place in range(3, 8))
    return emitter.emit("LSTM", operand(call), *weights, *rest, results=3, **plain)[: len(call.used)]
