"""Fold batch normalisation, and scales and shifts by channel, into the weights of the layer before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.graph import GraphOp, dims_of
from stepwell.rewriting import fuse_locations
from stepwell.transforms.graph.emitter import Emitter, apply_rules, element_type

Values = Sequence[SSAValue | None]


def affine_of(op: GraphOp, emitter: Emitter) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The normalisation as `y = a * x + b` by channel, in float64:
    `a = scale / sqrt(variance + epsilon)`, `b = bias - mean * a`; None if a parameter is no constant, or if one of
    them is not finite: times a weight of 0 it would be NaN whatever the layer computes.
    """
    if op.get("training_mode"):
        return None
    given = [emitter.value(value) for value in op.operands[1:5]]
    scale, bias, mean, variance = (None if g is None else g.astype(np.float64) for g in given)
    if scale is None or bias is None or mean is None or variance is None:
        return None
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + op.get("epsilon"))
        shift = bias - mean * factor
    return (factor, shift) if np.isfinite(factor).all() and np.isfinite(shift).all() else None


# bn(conv(x, w) + c) == conv(x, a * w) + (a * c + b)
def fold_batch_norm(op: GraphOp, emitter: Emitter) -> Values | None:
    affine = affine_of(op, emitter)
    results = op.result_list()
    if affine is None or any(r is not None and r.uses for r in results[1:]):
        return None
    folded = _scaled(op.operands[0], *affine, emitter)
    return None if folded is None else [folded, *[None] * (len(results) - 1)]


# k * (conv(x, w) + c) == conv(x, k * w) + k * c   for a constant k that varies along the channels only
def fold_channel_scale(op: GraphOp, emitter: Emitter) -> Values | None:
    for data, other in ((op.operands[0], op.operands[1]), (op.operands[1], op.operands[0])):
        factor = _by_channel(data, other, emitter)
        if factor is None or data.type != op.results[0].type:
            continue
        if (folded := _scaled(data, factor, np.zeros_like(factor), emitter)) is not None:
            return [folded]
    return None


# (conv(x, w) + c) + k == conv(x, w) + (c + k)
def fold_channel_shift(op: GraphOp, emitter: Emitter) -> Values | None:
    for data, other in ((op.operands[0], op.operands[1]), (op.operands[1], op.operands[0])):
        shift = _by_channel(data, other, emitter)
        if shift is None or data.type != op.results[0].type:
            continue
        if (folded := _scaled(data, np.ones_like(shift), shift, emitter)) is not None:
            return [folded]
    return None


_LAYERS = ("Conv", "ConvTranspose", "Gemm")


def _layer(data: SSAValue) -> GraphOp | None:
    """The layer that makes `data`, if nothing else reads it."""
    owner = data.owner
    if not isinstance(owner, GraphOp) or owner.ONNX_NAME not in _LAYERS or len(list(data.uses)) != 1:
        return None
    return owner


def _by_channel(data: SSAValue, other: SSAValue, emitter: Emitter) -> np.ndarray | None:
    """The constant `other` as one value a channel of `data`, if it broadcasts that way."""
    layer, values = _layer(data), emitter.value(other)
    if layer is None or values is None or values.dtype.kind != "f":
        return None
    rank, channels = len(dims_of(data.type)), dims_of(data.type)[1]
    if not isinstance(channels, int) or values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(extent != 1 for axis, extent in enumerate(shape) if axis != 1):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float64)


def _scaled(data: SSAValue, factor: np.ndarray, shift: np.ndarray, emitter: Emitter) -> SSAValue | None:
    """A layer like the one that makes `data`, with the result `factor * data + shift` by channel."""
    if (layer := _layer(data)) is None:
        return None
    operands = [*layer.operand_list(), None][:3]
    weights, bias = emitter.value(operands[1]), emitter.value(operands[2])
    if weights is None or operands[1] is None or (operands[2] is not None and bias is None):
        return None
    wide = weights.astype(np.float64)
    if layer.ONNX_NAME == "Gemm":
        if layer.get("beta") != 1.0 and bias is not None:
            bias = bias * layer.get("beta")
        column = factor if not layer.get("trans_b") else factor[:, None]
        wide = wide * column
        if bias is not None and (bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1)):
            return None
        bias = None if bias is None else bias.reshape(-1)
    elif layer.ONNX_NAME == "Conv":
        wide = wide * factor.reshape(-1, *[1] * (wide.ndim - 1))
    else:
        groups = layer.get("group")
        inputs, outputs, *kernel = wide.shape
        grouped = wide.reshape(groups, inputs // groups, outputs, *kernel)
        grouped = grouped * factor.reshape(groups, 1, outputs, *[1] * len(kernel))
        wide = grouped.reshape(wide.shape)
    element, dtype = element_type(operands[1]), weights.dtype
    total = shift if bias is None else bias.astype(np.float64) * factor + shift
    total = np.broadcast_to(total, factor.shape)
    properties = {k: v for k, v in layer.properties.items() if not k.endswith("SegmentSizes")}
    if layer.ONNX_NAME == "Gemm":
        properties.pop("beta", None)
    new_weights = operands[1] if (factor == 1).all() else emitter.constant(wide.astype(dtype), element)
    new_bias = emitter.constant(total.astype(dtype), element)
    made = emitter.emit(layer.ONNX_NAME, operands[0], new_weights, new_bias, **properties)
    made.location = fuse_locations([layer.location, made.location])
    return made.results[0]


@dataclass(frozen=True)
class FoldBatchNormPass(ModulePass):
    """
    Fold batch normalisation, and scales and shifts by channel, into the weights of the layer before.
    Requires: verified IR. Ensures: no `graph.batch_normalization` (of inference, with constant parameters) and no
    multiplication or addition of a constant by channel follows a convolution or `graph.gemm` with constant weights that
    it alone reads. The weights are computed in float64 and rounded once.
    """

    name = "fold-batch-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        rules = {
            "BatchNormalization": [fold_batch_norm],
            "Mul": [fold_channel_scale],
            "Add": [fold_channel_shift],
        }
        apply_rules(op, ctx, rules)
