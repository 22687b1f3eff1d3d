"""What contractions, convolutions and pooling compute."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp
from stepwell.dialects.graph.contraction import ConvTransposeOp, EinsumOp, Window
from stepwell.dialects.graph.shape import Dim
from stepwell.interpreter.graph.evaluation import evaluates

Array = Any


@evaluates("matmul")
def _matmul(op: GraphOp, a: Array, b: Array) -> Array:
    return np.matmul(a, b)


@evaluates("gemm")
def _gemm(op: GraphOp, a: Array, b: Array, c: Array = None) -> Array:
    product = (a.T if op.get("trans_a") else a) @ (b.T if op.get("trans_b") else b)
    if (alpha := op.get("alpha")) != 1:
        product = (product * alpha).astype(a.dtype)
    if c is None:
        return product
    return product + (c * op.get("beta")).astype(a.dtype)


@evaluates("einsum")
def _einsum(op: GraphOp, *operands: Array) -> Array:
    assert isinstance(op, EinsumOp), "only einsum has an equation"
    inputs, output = op.terms()
    equation = (",".join(inputs) + "->" + output).replace(".", "...")
    return np.einsum(equation, *operands)


@evaluates("det")
def _det(op: GraphOp, x: Array) -> Array:
    return np.linalg.det(x)


def _numbers(extents: Sequence[Dim]) -> list[int]:
    """What a window has of an array, of which nothing is symbolic."""
    numbers = [extent for extent in extents if isinstance(extent, int)]
    assert len(numbers) == len(extents), f"{extents} of an array"
    return numbers


def windows(x: Array, window: Window, fill: Any) -> Array:
    """`[n, c, out.., kernel..]`: every window of the padded input."""
    rank = len(window.kernel)
    pads = [(0, 0), (0, 0)]
    output, reach = _numbers(window.output), _numbers(window.reach)
    begins, ends = _numbers(window.pads_begin), _numbers(window.pads_end)
    for i, begin in enumerate(begins):
        needed = (output[i] - 1) * window.strides[i] + reach[i]
        pads.append((begin, max(ends[i], needed - begin - x.shape[2 + i])))
    padded = np.pad(x, pads, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    places = [slice(0, (o - 1) * s + 1, s) for o, s in zip(output, window.strides, strict=True)]
    taps = [slice(None, None, d) for d in window.dilations]
    return view[(slice(None), slice(None), *places, *taps)]


def convolve(op: GraphOp, x: Array, w: Array) -> Array:
    """The convolution without bias, in the types of the operands."""
    rank = x.ndim - 2
    view = windows(x, Window(op, x.shape[2:], w.shape[2:]), 0)
    group = op.get("group")
    out, per = w.shape[0] // group, w.shape[1]
    parts = []
    axes = [1, *range(2 + rank, 2 + 2 * rank)]
    for g in range(group):
        piece = view[:, g * per : (g + 1) * per]
        kernel = w[g * out : (g + 1) * out]
        parts.append(np.moveaxis(np.tensordot(piece, kernel, axes=(axes, list(range(1, w.ndim)))), -1, 1))
    return np.concatenate(parts, axis=1)


def _bias(y: Array, b: Array) -> Array:
    return y if b is None else y + b.reshape(1, -1, *[1] * (y.ndim - 2))


@evaluates("conv")
def _conv(op: GraphOp, x: Array, w: Array, b: Array = None) -> Array:
    return _bias(convolve(op, x, w), b)


def _shifted(x: Array, zero: Array, rows: bool = False) -> Array:
    """`x - zero` in i32; a list of zero points holds one a row (or, not `rows`, a column)."""
    x = x.astype(np.int32)
    if zero is None:
        return x
    zero = zero.astype(np.int32)
    return x - (zero[:, None] if rows and zero.ndim == 1 and zero.size > 1 else zero)


@evaluates("conv_integer")
def _conv_integer(op: GraphOp, x: Array, w: Array, x_zero: Array = None, w_zero: Array = None) -> Array:
    w_zero = None if w_zero is None else w_zero.reshape(-1, *[1] * (w.ndim - 1))
    return convolve(op, _shifted(x, x_zero), _shifted(w, w_zero))


@evaluates("matmul_integer")
def _matmul_integer(op: GraphOp, a: Array, b: Array, a_zero: Array = None, b_zero: Array = None) -> Array:
    return np.matmul(_shifted(a, a_zero, rows=True), _shifted(b, b_zero))


def _requantised(value: Array, scale: Array, y_scale: Array, y_zero: Array) -> Array:
    real = np.rint(value.astype(np.float64) * scale / y_scale) + y_zero.astype(np.float64)
    info = np.iinfo(y_zero.dtype)
    return np.clip(real, info.min, info.max).astype(y_zero.dtype)


@evaluates("qlinear_conv")
def _qlinear_conv(
    op: GraphOp,
    x: Array,
    xs: Array,
    xz: Array,
    w: Array,
    ws: Array,
    wz: Array,
    ys: Array,
    yz: Array,
    b: Array = None,
) -> Array:
    shape = (-1, *[1] * (w.ndim - 1))
    y = _bias(convolve(op, _shifted(x, xz), _shifted(w, wz.reshape(shape))), b)
    scale = (xs.astype(np.float64) * ws).reshape(1, -1, *[1] * (w.ndim - 2))
    return _requantised(y, scale, ys, yz)


@evaluates("qlinear_matmul")
def _qlinear_matmul(
    op: GraphOp, a: Array, a_s: Array, az: Array, b: Array, bs: Array, bz: Array, ys: Array, yz: Array
) -> Array:
    rows = a_s[:, None] if a_s.ndim == 1 and a_s.size > 1 else a_s
    return _requantised(
        np.matmul(_shifted(a, az, rows=True), _shifted(b, bz)), rows.astype(np.float64) * bs, ys, yz
    )


@evaluates("conv_transpose")
def _conv_transpose(op: GraphOp, x: Array, w: Array, b: Array = None) -> Array:
    assert isinstance(op, ConvTransposeOp), "only conv_transpose has its geometry"
    output, begins, _, strides, dilations = op.geometry(x.shape, w.shape)
    group, rank = op.get("group"), x.ndim - 2
    per, out = x.shape[1] // group, w.shape[1]
    kernel = w.shape[2:]
    full = [max((x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1, output[i] + begins[i])
            for i in range(rank)]  # fmt: skip
    y = np.zeros((x.shape[0], out * group, *full), x.dtype)
    for g in range(group):
        piece, weights = x[:, g * per : (g + 1) * per], w[g * per : (g + 1) * per]
        for tap in itertools.product(*map(range, kernel)):
            places = tuple(
                slice(t * d, t * d + (e - 1) * s + 1, s)
                for t, d, e, s in zip(tap, dilations, x.shape[2:], strides, strict=True)
            )
            term = np.moveaxis(
                np.tensordot(piece, weights[(slice(None), slice(None), *tap)], axes=(1, 0)), -1, 1
            )
            y[(slice(None), slice(g * out, (g + 1) * out), *places)] += term
    crop = tuple(slice(p, p + e) for p, e in zip(begins, output, strict=True))
    return _bias(y[(slice(None), slice(None), *crop)], b)


def _pool_window(op: GraphOp, x: Array) -> Window:
    return Window(op, x.shape[2:], op.get("kernel_shape"), bool(op.get("ceil_mode")))


@evaluates("max_pool")
def _max_pool(op: GraphOp, x: Array) -> Array:
    window = _pool_window(op, x)
    rank = x.ndim - 2
    low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    view = windows(x, window, low)
    flat = view.reshape(*view.shape[: 2 + rank], -1)
    best = flat.argmax(axis=-1)
    values = np.take_along_axis(flat, best[..., None], axis=-1)[..., 0]
    taps = np.unravel_index(best, view.shape[2 + rank :])
    space = []
    output, begins = _numbers(window.output), _numbers(window.pads_begin)
    for i in range(rank):
        base = np.arange(output[i]) * window.strides[i] - begins[i]
        shape = [1] * values.ndim
        shape[2 + i] = -1
        space.append(base.reshape(shape) + taps[i] * window.dilations[i])
    extents = x.shape[2:]
    order = range(rank) if not op.get("storage_order") else range(rank - 1, -1, -1)
    index = np.zeros(values.shape, np.int64)
    for i in order:
        index = index * extents[i] + space[i]
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * rank)
    return values, index + planes * int(np.prod(extents))


@evaluates("average_pool")
def _average_pool(op: GraphOp, x: Array) -> Array:
    window = _pool_window(op, x)
    rank = x.ndim - 2
    axes = tuple(range(2 + rank, 2 + 2 * rank))
    total = windows(x, window, 0).sum(axis=axes)
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if op.get("count_include_pad"):
        pads = list(zip(_numbers(window.pads_begin), _numbers(window.pads_end), strict=True))
        padded = np.pad(ones, [(0, 0), (0, 0), *pads], constant_values=1)
        bare = Window(op, x.shape[2:], op.get("kernel_shape"), bool(op.get("ceil_mode")))
        bare.pads_begin, bare.pads_end = [0] * rank, [0] * rank
        return total / windows(padded, bare, 0).sum(axis=axes)
    return total / windows(ones, window, 0).sum(axis=axes)


@evaluates("lp_pool")
def _lp_pool(op: GraphOp, x: Array) -> Array:
    view, p = windows(x, _pool_window(op, x), 0), op.get("p")
    rank = x.ndim - 2
    total = (np.abs(view) ** p).sum(axis=tuple(range(2 + rank, 2 + 2 * rank)))
    return total ** x.dtype.type(1 / p)


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@evaluates("global_average_pool")
def _global_average_pool(op: GraphOp, x: Array) -> Array:
    return x.mean(axis=_space(x), keepdims=True)


@evaluates("global_max_pool")
def _global_max_pool(op: GraphOp, x: Array) -> Array:
    return x.max(axis=_space(x), keepdims=True)


@evaluates("global_lp_pool")
def _global_lp_pool(op: GraphOp, x: Array) -> Array:
    p = op.get("p")
    return (np.abs(x) ** p).sum(axis=_space(x), keepdims=True) ** x.dtype.type(1 / p)


@evaluates("max_unpool")
def _max_unpool(op: GraphOp, x: Array, index: Array, shape: Array = None) -> Array:
    rank = x.ndim - 2
    strides, pads = op.get("strides") or (1,) * rank, op.get("pads") or (0,) * (2 * rank)
    space = [
        (x.shape[2 + a] - 1) * strides[a] - pads[a] - pads[rank + a] + op.get("kernel_shape")[a]
        for a in range(rank)
    ]
    out = np.zeros((*x.shape[:2], *space), x.dtype)
    out.reshape(-1)[index.ravel()] = x.ravel()
    if shape is None:
        return out
    final = np.zeros(tuple(shape.tolist()), x.dtype)
    final[tuple(map(slice, out.shape))] = out
    return final


@evaluates("col2im")
def _col2im(op: GraphOp, x: Array, image: Array, block: Array) -> Array:
    rank = len(image)
    image, block = [int(v) for v in image], [int(v) for v in block]
    strides, dilations = op.get("strides") or (1,) * rank, op.get("dilations") or (1,) * rank
    pads = op.get("pads") or (0,) * (2 * rank)
    padded = [image[i] + pads[i] + pads[rank + i] for i in range(rank)]
    count = [(padded[i] - (block[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    columns = x.reshape(x.shape[0], -1, *block, *count)
    y = np.zeros((x.shape[0], columns.shape[1], *padded), x.dtype)
    for tap in itertools.product(*map(range, block)):
        places = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilations, count, strides, strict=True)
        )
        y[(slice(None), slice(None), *places)] += columns[(slice(None), slice(None), *tap)]
    crop = tuple(slice(pads[i], pads[i] + image[i]) for i in range(rank))
    return y[(slice(None), slice(None), *crop)]
