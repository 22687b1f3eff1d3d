"""Normalisations: row statistics as reductions, then one element-wise pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import f64
from xdsl.ir import Attribute, SSAValue

from stepwell.conversion.graph_to_linalg.contraction import accumulator_of
from stepwell.conversion.graph_to_linalg.convolution import is_channels_last
from stepwell.conversion.graph_to_linalg.lowering import Lowering, dims, lowers, signless
from stepwell.conversion.graph_to_linalg.reduction import fold, keep_axes
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph.shape import Dim, product


def _mean_of(low: Lowering, total: SSAValue, count: Dim) -> SSAValue:
    def body(s: Scalar) -> Scalar:
        return s * (1.0 / count) if isinstance(count, int) else s / s.body.extent(count).cast(s.type)

    return low.map(body, [total], low.shape(total), low.element(total))


def statistics(low: Lowering, x: SSAValue, axes: Sequence[int], epsilon: float) -> tuple[SSAValue, SSAValue]:
    """The mean of `x` over `axes` and `1 / sqrt(variance + epsilon)`, without those axes, in two passes."""
    shape, wide = low.shape(x), accumulator_of(low.element(x))
    count = product(shape[a] for a in axes)
    mean = _mean_of(low, fold(low, [x], axes, wide, 0.0, lambda v, acc: acc + v.cast(wide)), count)

    def square(v: Scalar, m: Scalar, acc: Scalar) -> Scalar:
        distance = v.cast(wide) - m
        return acc + distance * distance

    total = fold(low, [x, mean], axes, wide, 0.0, square)
    return mean, _inverse_root(low, total, count, epsilon)


def _inverse_root(low: Lowering, total: SSAValue, count: Dim, epsilon: float) -> SSAValue:
    def body(s: Scalar) -> Scalar:
        mean = s * (1.0 / count) if isinstance(count, int) else s / s.body.extent(count).cast(s.type)
        return 1.0 / (mean + epsilon).sqrt()

    return low.map(body, [total], low.shape(total), low.element(total))


def _of_type(low: Lowering, value: SSAValue, element: Attribute) -> SSAValue:
    """`value` in another type of floats."""
    if low.element(value) == element:
        return value
    return low.map(lambda v: v.cast(element), [value], low.shape(value), element, widen=False)


@lowers("layer_normalization")
def _layer_normalization(low: Lowering, op: Any) -> list[SSAValue]:
    x, scale, bias = [*low.operands(op), None][:3]
    rank = low.rank(x)
    axes = list(range(low.attr(op, "axis") % rank, rank))
    shape = low.shape(x)
    mean, inverse = statistics(low, x, axes, low.attr(op, "epsilon"))
    d = dims(rank)
    kept = d[: axes[0]]

    def body(v: Scalar, m: Scalar, s: Scalar, *affine: Scalar) -> Scalar:
        result = (v - m) * s * affine[0]
        return result + affine[1] if len(affine) > 1 else result

    inputs = [v for v in (x, mean, inverse, scale, bias) if v is not None]
    at = [d, kept, kept, *([None] * (len(inputs) - 3))]
    result = low.map(body, inputs, shape, low.element(x), at=at)
    listed = op.result_list()
    extra = [
        keep_axes(low, _of_type(low, v, signless(r.type.element_type)), shape, axes)
        for v, r in zip((mean, inverse), [*listed[1:], None, None], strict=False)
        if r is not None
    ]
    return [result, *extra]


@lowers("rms_normalization")
def _rms_normalization(low: Lowering, op: Any) -> SSAValue:
    x, scale = low.operands(op)[:2]
    rank = low.rank(x)
    axes = list(range(low.attr(op, "axis") % rank, rank))
    wide = accumulator_of(low.element(x))
    total = fold(low, [x], axes, wide, 0.0, lambda v, acc: acc + v.cast(wide) * v.cast(wide))
    inverse = _inverse_root(low, total, product(low.shape(x)[a] for a in axes), low.attr(op, "epsilon"))
    element = low.result_element(op)  # that of the scale, which may be another than that of x
    mixed = low.element(x) != element
    full = f64 if f64 in (low.element(x), element) else wide
    d = dims(rank)

    def body(v: Scalar, s: Scalar, g: Scalar) -> Scalar:
        return (v.cast(full) * s.cast(full) * g.cast(full)).cast(element) if mixed else v * s * g

    return low.map(body, [x, inverse, scale], low.shape(x), element, at=[d, d[: axes[0]], None])


@lowers("batch_normalization")
def _batch_normalization(low: Lowering, op: Any) -> SSAValue:
    if low.attr(op, "training_mode") or len(op.results) > 1:
        raise unsupported(op, "it is in training mode", "export the model for inference")
    x, scale, bias, mean, variance = low.operands(op)
    epsilon = low.attr(op, "epsilon")
    factor, offset = _affine(low, scale, bias, mean, variance, epsilon)
    d = dims(low.rank(x))
    channel = d[-1] if is_channels_last(low, op) else d[min(1, len(d) - 1)]
    return low.map(
        lambda v, a, b: v * a + b,
        [x, factor, offset],
        low.shape(x),
        low.element(x),
        at=[d, [channel], [channel]],
    )


# scale * (x - mean) / sqrt(variance + e) + bias == x * a + b   with a = scale / sqrt(..), b = bias - mean * a
def _affine(
    low: Lowering, scale: SSAValue, bias: SSAValue, mean: SSAValue, variance: SSAValue, epsilon: float
) -> tuple[SSAValue, SSAValue]:
    known = [low.data(v) for v in (scale, bias, mean, variance)]
    if all(k is not None for k in known):
        s, b, m, v = (np.asarray(k, np.float64) for k in known)
        a = s / np.sqrt(v + epsilon)
        element = low.element(scale)
        return low.tensor_constant(a.astype(np.float32), element), low.tensor_constant(
            (b - m * a).astype(np.float32), element
        )
    shape, element = low.shape(scale), low.element(scale)
    factor = low.map(lambda s, v: s / (v + epsilon).sqrt(), [scale, variance], shape, element)
    offset = low.map(lambda b, m, a: b - m * a, [bias, mean, factor], shape, element)
    return factor, offset


@lowers("instance_normalization")
def _instance_normalization(low: Lowering, op: Any) -> SSAValue:
    x, scale, bias = low.operands(op)
    rank = low.rank(x)
    mean, inverse = statistics(low, x, list(range(2, rank)), low.attr(op, "epsilon"))
    d = dims(rank)
    return low.map(
        lambda v, m, s, a, b: (v - m) * s * a + b,
        [x, mean, inverse, scale, bias],
        low.shape(x),
        low.element(x),
        at=[d, d[:2], d[:2], [d[1]], [d[1]]],
    )


@lowers("group_normalization")
def _group_normalization(low: Lowering, op: Any) -> SSAValue:
    x, scale, bias = low.operands(op)
    shape = low.shape(x)
    groups = low.attr(op, "num_groups")
    channels = shape[1]
    each = channels // groups  # pyright: ignore
    grouped = low.reshape(x, (shape[0], groups, each, *shape[2:]))
    rank = low.rank(grouped)
    mean, inverse = statistics(low, grouped, list(range(2, rank)), low.attr(op, "epsilon"))
    d = dims(rank)
    if low.shape(scale)[0] == channels:
        scale, bias = (low.reshape(v, (groups, each)) for v in (scale, bias))
        at = d[1:3]
    else:
        at = [d[1]]
    result = low.map(
        lambda v, m, s, a, b: (v - m) * s * a + b,
        [grouped, mean, inverse, scale, bias],
        low.shape(grouped),
        low.element(x),
        at=[d, d[:2], d[:2], at, at],
    )
    return low.reshape(result, shape)


# y = x / (bias + alpha / size * sum of x^2 over a window of channels) ^ beta
@lowers("lrn")
def _lrn(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    size = low.attr(op, "size")
    alpha, beta, bias = (low.attr(op, k) for k in ("alpha", "beta", "bias"))
    rank, shape, element = low.rank(x), low.shape(x), low.element(x)
    before = (size - 1) // 2
    edges = [[0] * rank, [0] * rank]
    edges[0][1], edges[1][1] = before, size - 1 - before
    padded = low.pad(x, edges[0], edges[1], 0.0)
    d = dims(rank + 1)
    wide = accumulator_of(element)
    init, window = low.fill(0.0, shape, wide), low.empty((size,), wide)
    (squares,) = low.generic(
        "p" * rank + "r",
        [(padded, [d[0], d[1] + d[rank], *d[2:rank]]), (window, [d[rank]])],
        [(init, d[:rank])],
        lambda v, _, acc: acc + v.cast(wide) * v.cast(wide),
    )

    def body(v: Scalar, s: Scalar) -> Scalar:
        return v / (s * (alpha / size) + bias).power(s.lift(beta))

    return low.map(body, [x, squares], shape, element)


@lowers("mean_variance_normalization")
def _mean_variance_normalization(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    rank = low.rank(x)
    axes = sorted(a % rank for a in low.attr(op, "axes") or [0, 2, 3])
    mean, inverse = statistics(low, x, axes, 1e-9)
    d = dims(rank)
    kept = [e for a, e in enumerate(d) if a not in axes]
    return low.map(
        lambda v, m, s: (v - m) * s, [x, mean, inverse], low.shape(x), low.element(x), at=[d, kept, kept]
    )


@lowers("lp_normalization")
def _lp_normalization(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    axis, p = low.attr(op, "axis") % low.rank(x), low.attr(op, "p")
    wide = accumulator_of(low.element(x))

    def body(v: Scalar, acc: Scalar) -> Scalar:
        v = v.cast(wide)
        return acc + (v.absolute() if p == 1 else v * v)

    total = fold(low, [x], [axis], wide, 0.0, body)
    if p != 1:
        total = low.map(lambda s: s.sqrt(), [total], low.shape(total), wide)
    d = dims(low.rank(x))
    kept = [e for a, e in enumerate(d) if a != axis]
    return low.map(
        lambda v, n: v.body.select(n.equals(0.0), 0.0 * v, v / n),
        [x, total],
        low.shape(x),
        low.element(x),
        at=[d, kept],
    )
