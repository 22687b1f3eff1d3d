"""Operators of the default domain that were experimental once: what old exporters wrote and ONNX Runtime still reads."""

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import experimental
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cut, floats, ints, one, operand, reshape, scalar


def _scaled(emitter: Emitter, value: SSAValue, factor: float) -> SSAValue:
    return value if factor == 1.0 else one(emitter, "Mul", value, scalar(emitter, value, factor))


@experimental("Affine", "Scale", "ImageScaler")
def _affine(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    factor = call.attributes.get("alpha" if call.op == "Affine" else "scale", 1.0)
    result = _scaled(emitter, operand(call), factor)
    if call.op == "ImageScaler":  # one bias a channel
        bias = floats(emitter, call.attributes["bias"], emitter.dtype(result))
        result = one(emitter, "Add", result, reshape(emitter, bias, 1, -1, 1, 1))
    elif beta := call.attributes.get("beta", 0.0):
        result = one(emitter, "Add", result, scalar(emitter, result, beta))
    return [result]


# f(x) = alpha * tanh(beta * x), alpha * log(1 + exp(beta * x))
@experimental("ScaledTanh", "ParametricSoftplus")
def _scaled_activation(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    inner = {"ScaledTanh": "Tanh", "ParametricSoftplus": "Softplus"}[call.op]
    result = one(emitter, inner, _scaled(emitter, operand(call), call.attributes.get("beta", 1.0)))
    return [_scaled(emitter, result, call.attributes.get("alpha", 1.0))]


@experimental("Crop")
def _crop(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    left, top, right, bottom = call.attributes["border"]
    x, size = operand(call), call.attributes.get("scale")
    ends = (top + size[0], left + size[1]) if size else (-bottom or _ALL, -right or _ALL)
    for axis, start, end in zip((2, 3), (top, left), ends, strict=True):
        x = cut(emitter, x, axis, start, end)
    return [x]


_ALL = int(np.iinfo(np.int64).max)


@experimental("DynamicSlice")
def _dynamic_slice(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("Slice", *call.operands)


@experimental("ThresholdedRelu", until=10)
def _thresholded(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("ThresholdedRelu", operand(call), alpha=call.attributes.get("alpha", 1.0))


@experimental("MeanVarianceNormalization", until=9)
def _normalise(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    axes = [0, 1, 2, 3] if call.attributes.get("across_channels", 0) else [0, 2, 3]
    x = operand(call)
    if call.attributes.get("normalize_variance", 1):
        return emitter.emit("MeanVarianceNormalization", x, axes=axes)
    return emitter.emit("Sub", x, one(emitter, "ReduceMean", x, ints(emitter, *axes), keepdims=1))
