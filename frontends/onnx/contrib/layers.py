"""Matrix products, activations, normalisations and fused layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import add, contrib, experimental
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, given, ints, one, operand, scalar, unsqueeze


def _same(*ops: str, **defaults: Any) -> None:
    """Operators that mean what the standard's operator of their name means today."""

    def rule(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
        return emitter.emit(
            call.op, *call.operands, results=len(call.used), **{**defaults, **call.attributes}
        )

    contrib(*ops)(rule)


_same("Gelu", "Trilu", "QuantizeLinear", "DequantizeLinear", "Range", "LayerNormalization")


# fused_matmul(A, B) = alpha * op(A) @ op(B)
@contrib("FusedMatMul", "TransposeMatMul")
def _fused_matmul(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    sides: list[SSAValue] = []
    for place, side in enumerate("AB"):
        value = operand(call, place)
        rank = len(emitter.shape(value))
        axes = list(range(rank))
        if rank > 1 and call.attributes.get(f"transBatch{side}"):
            axes = [*axes[1:-1], axes[0], axes[-1]]
        if rank > 1 and call.attributes.get(f"trans{side}"):
            axes[-2:] = [axes[-1], axes[-2]]
        if axes != list(range(rank)):
            (value,) = emitter.emit("Transpose", value, perm=axes)
        sides.append(value)
    (product,) = emitter.emit("MatMul", *sides)
    if (alpha := call.attributes.get("alpha", 1.0)) == 1.0:
        return [product]
    return emitter.emit("Mul", product, scalar(emitter, product, alpha))


@contrib("FastGelu")
def _fast_gelu(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("Gelu", add(emitter, *call.operands), approximate="tanh")


@contrib("BiasGelu")
def _bias_gelu(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("Gelu", add(emitter, *call.operands), approximate="none")


# quick_gelu(x) = x * sigmoid(alpha * x)
@contrib("QuickGelu")
def _quick_gelu(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("Swish", *call.operands, alpha=call.attributes.get("alpha", 1.702))


def _normalise(
    call: Call,
    emitter: Emitter,
    data: SSAValue,
    scale: SSAValue | None,
    bias: SSAValue | None,
    simplified: bool,
) -> SSAValue:
    epsilon = call.attributes.get("epsilon", 1e-5 if call.op.startswith("Simplified") else 1e-12)
    axis = call.attributes.get("axis", -1)
    if any(call.used[1:3]):
        raise emitter.missing(
            call, "its statistics of training are outputs", "export the model for inference"
        )
    if simplified:
        (result,) = emitter.emit("RMSNormalization", data, scale, axis=axis, epsilon=epsilon, stash_type=1)
    else:
        (result,) = emitter.emit(
            "LayerNormalization", data, scale, bias, axis=axis, epsilon=epsilon, stash_type=1
        )
    return result


@experimental("SimplifiedLayerNormalization")
@contrib("SimplifiedLayerNormalization")
def _simplified_layer_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    data, scale = call.operands
    assert data is not None
    return [_normalise(call, emitter, data, scale, None, simplified=True)]


# skip_layer_norm(x, skip) = layer_norm(x + skip + bias), and the sum itself as the fourth result
@contrib("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_layer_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    simplified = call.op == "SkipSimplifiedLayerNormalization"
    beta, bias = (None, given(call, 3)) if simplified else (given(call, 3), given(call, 4))
    total = add(emitter, call.operands[0], call.operands[1], bias)
    result = _normalise(call, emitter, total, call.operands[2], beta, simplified)
    return [result, total, total, total][: len(call.used)]


_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "Elu": ("alpha",),
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}
"""What may be fused, with its parameters in their order."""


def activate(call: Call, emitter: Emitter, data: SSAValue) -> SSAValue:
    """`data` behind the activation that the call has fused, if any."""
    attributes = call.attributes
    name, listed = attributes.get("activation", ""), attributes.get("activation_params", [])
    if not name:
        return data
    if name == "Clip":
        low, high = (scalar(emitter, data, bound) for bound in listed)
        return emitter.emit("Clip", data, low, high)[0]
    if name not in _ACTIVATIONS:
        raise emitter.missing(call, f"the fused activation {name!r}", "export without graph optimisations")
    own: dict[str, Any] = dict(zip(_ACTIVATIONS[name], listed, strict=False))
    for parameter in ("alpha", "beta", "gamma"):
        value = attributes.get(f"activation_{parameter}")
        if value is not None and parameter in _ACTIVATIONS[name]:
            own[parameter] = value
    return emitter.emit(name, data, **own)[0]


def without_activation(call: Call) -> dict[str, Any]:
    """The attributes of what the activation is fused to."""
    return {name: value for name, value in call.attributes.items() if not name.startswith("activation")}


@contrib("FusedConv")
def _fused_conv(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    (result,) = emitter.emit("Conv", *call.operands[:3], **without_activation(call))
    return [activate(call, emitter, add(emitter, result, given(call, 3)))]


@contrib("FusedGemm")
def _fused_gemm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    (result,) = emitter.emit("Gemm", *call.operands, **without_activation(call))
    return [activate(call, emitter, result)]


# cdist(a, b)[i, j] = |a[i] - b[j]|^2
@contrib("CDist")
def _distances(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    metric = call.attributes.get("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        raise emitter.missing(call, f"the metric {metric!r}", "use euclidean or sqeuclidean")
    left, right = unsqueeze(emitter, operand(call), 1), unsqueeze(emitter, operand(call, 1), 0)
    apart = one(emitter, "Sub", left, right)
    result = one(emitter, "ReduceSumSquare", apart, ints(emitter, 2), keepdims=0)
    return [one(emitter, "Sqrt", result) if metric == "euclidean" else result]


@contrib("MatMulInteger16")
def _product_of_shorts(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    sides = (cast(emitter, operand(call, place), np.int32) for place in (0, 1))
    return emitter.emit("MatMul", *sides)


@contrib("ConvTransposeWithDynamicPads")
def _transposed_convolution(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain, pads = dict(call.attributes), given(call, 2)
    if pads is not None:
        value = emitter.value(pads)
        if value is None:
            raise emitter.missing(call, "pads known only when run", "make them an initializer")
        plain["pads"] = value.reshape(-1).tolist()
    return emitter.emit("ConvTranspose", operand(call), operand(call, 1), given(call, 3), **plain)


@contrib("Inverse")
def _inverse(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x = operand(call)
    kind = emitter.dtype(x)
    wide = cast(emitter, x, np.float32 if kind.itemsize == 2 else kind)
    real = "double" if kind == np.float64 else "float"
    body = onnx.parser.parse_function(_INVERSE.replace("REAL", real))
    return [cast(emitter, value, kind) for value in emitter.inline(body, wide)]


# Gauss and Jordan with partial pivoting on [x | 1]: step i makes column i that of the unit matrix.
_INVERSE = """<domain: "stepwell.local", opset_import: ["": 21]> inverse (x) => (y) {
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    last = Constant <value_ints = [-1]> ()
    middle = Constant <value_ints = [1]> ()
    yes = Constant <value = bool {1}> ()
    shape = Shape (x)
    side = Shape <start = -1> (x)
    flat = Concat <axis = 0> (last, side, side)
    matrices = Reshape (x, flat)
    square = Concat <axis = 0> (side, side)
    blank = ConstantOfShape (square)
    unit = EyeLike <k = 0> (blank)
    like = CastLike (unit, x)
    all = Shape (matrices)
    units = Expand (like, all)
    start = Concat <axis = 2> (matrices, units)
    count = Squeeze (side)
    rows = Range (zero, count, one)
    double = Add (side, side)
    end = Loop (count, yes, start) <body = step (int64 i, bool go, REAL[b, n, m] r) => (bool on, REAL[b, n, m] s) {
        on = Identity (go)
        column = Gather <axis = 2> (r, i)
        sizes = Abs (column)
        done = Less (rows, i)
        none = CastLike (last, r)
        free = Where (done, none, sizes)
        pivot = ArgMax <axis = 1, keepdims = 1> (free)
        here = Equal (rows, i)
        there = Equal (rows, pivot)
        kept = Where (there, i, rows)
        order = Where (here, pivot, kept)
        index = Unsqueeze (order, last)
        swapped = GatherND <batch_dims = 1> (r, index)
        own = Gather <axis = 1> (swapped, i)
        corner = Gather <axis = 1> (own, i)
        below = Unsqueeze (corner, last)
        scaled = Div (own, below)
        line = Unsqueeze (scaled, middle)
        factors = Gather <axis = 2> (swapped, i)
        factor = Unsqueeze (factors, last)
        part = Mul (factor, line)
        rest = Sub (swapped, part)
        chosen = Unsqueeze (here, last)
        s = Where (chosen, line, rest)
    }>
    two = Constant <value_ints = [2]> ()
    right = Slice (end, side, double, two)
    y = Reshape (right, shape)
}"""
