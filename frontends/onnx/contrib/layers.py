"""Matrix products, activations, normalisations and fused layers."""

from collections.abc import Sequence
from typing import Any

from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import add, contrib, experimental
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import given, operand, scalar


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
    (data,) = call.operands
    assert data is not None
    (scaled,) = emitter.emit("Mul", data, scalar(emitter, data, call.attributes.get("alpha", 1.702)))
    return emitter.emit("Mul", data, *emitter.emit("Sigmoid", scaled))


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
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}


def _activate(call: Call, emitter: Emitter, data: SSAValue, parameters: Sequence[float]) -> SSAValue:
    name = call.attributes.get("activation", "")
    if not name:
        return data
    if name == "Clip":
        low, high = (scalar(emitter, data, bound) for bound in parameters)
        return emitter.emit("Clip", data, low, high)[0]
    if name not in _ACTIVATIONS:
        raise emitter.missing(call, f"the fused activation {name!r}", "export without graph optimisations")
    given: dict[str, Any] = dict(zip(_ACTIVATIONS[name], parameters, strict=False))
    return emitter.emit(name, data, **given)[0]


@contrib("FusedConv")
def _fused_conv(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    own = {"activation", "activation_params"}
    plain = {name: value for name, value in call.attributes.items() if name not in own}
    (result,) = emitter.emit("Conv", *call.operands[:3], **plain)
    result = add(emitter, result, given(call, 3))
    return [_activate(call, emitter, result, call.attributes.get("activation_params", []))]


@contrib("FusedGemm")
def _fused_gemm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    plain = {name: value for name, value in call.attributes.items() if not name.startswith("activation")}
    (result,) = emitter.emit("Gemm", *call.operands, **plain)
    names = ("activation_alpha", "activation_beta")
    return [_activate(call, emitter, result, [call.attributes[n] for n in names if n in call.attributes])]
