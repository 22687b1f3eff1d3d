"""Convolutions: channels last, padding in front, and a contraction over the kernel's window and channels.

`out[n, o.., oc] += in[n, o*s + k*d .., ic] * w[k.., ic, oc]`; in groups the channel axes are `[g, c]`; a
depthwise one has neither `oc` nor `ic`. With `layout = "nchw"` (ONNX's) data is transposed around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.dialects import tensor
from xdsl.dialects.builtin import i32
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.contraction import contract, to_i32
from stepwell.conversion.graph_to_linalg.data_movement import concat
from stepwell.conversion.graph_to_linalg.lowering import Lowering, dims, is_unsigned, lowers
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.conversion.graph_to_linalg.winograd import winograd
from stepwell.dialects.graph.shape import Dim, maximum


@dataclass
class Window:
    """A sliding window: for each spatial axis its extent, stride, dilation and the padding on both sides."""

    extents: list[Dim]
    strides: list[int]
    dilations: list[int]
    low: list[Dim]
    high: list[Dim]

    def reach(self, axis: int) -> Dim:
        """How many input elements the window spans."""
        return (self.extents[axis] - 1) * self.dilations[axis] + 1


def is_channels_last(low: Lowering, op: Any) -> bool:
    return low.attr(op, "layout") == "nhwc"


def window_of(
    low: Lowering, op: Any, extents: Sequence[Dim], sizes: Sequence[Dim], out: Sequence[Dim]
) -> Window:
    """The window of a convolution or a pooling over `sizes`, with `auto_pad` resolved."""
    count = len(extents)
    strides = low.attr(op, "strides") or [1] * count
    dilations = low.attr(op, "dilations") or [1] * count
    pads = low.attr(op, "pads") or [0] * (2 * count)
    window = Window(list(extents), strides, dilations, list(pads[:count]), list(pads[count:]))
    auto = low.attr(op, "auto_pad") or "NOTSET"
    if auto == "VALID":
        window.low, window.high = [0] * count, [0] * count
    for axis in range(count):
        need = (out[axis] - 1) * strides[axis] + window.reach(axis) - sizes[axis]  # pyright: ignore
        if auto.startswith("SAME"):
            total = maximum(need, 0)
            less, more = total // 2, (total + 1) // 2
            window.low[axis], window.high[axis] = (less, more)
            if auto == "SAME_LOWER":
                window.low[axis], window.high[axis] = (more, less)
        elif isinstance(need, int):
            # what the last window reads: less than asked for where the stride leaves a rest, more in ceil_mode
            window.high[axis] = max(need - window.low[axis], 0)  # pyright: ignore
        elif low.attr(op, "ceil_mode"):
            window.high[axis] = window.high[axis] + strides[axis] - 1
    return window


def to_channels_last(low: Lowering, x: SSAValue) -> SSAValue:
    rank = low.rank(x)
    return low.transpose(x, [0, *range(2, rank), 1])


def to_channels_first(low: Lowering, x: SSAValue) -> SSAValue:
    rank = low.rank(x)
    return low.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def convolve(
    low: Lowering, x: SSAValue, w: SSAValue, window: Window, group: int, out: Sequence[Dim]
) -> SSAValue:
    """The convolution of channels-last `x`, padded already, with ONNX's `w[oc, ic / group, k..]`."""
    count = len(out)
    spatial = range(2, 2 + count)
    batch, channels = low.shape(x)[0], low.shape(x)[-1]
    oc, ic = low.shape(w)[0], low.shape(w)[1]
    kernel = low.shape(w)[2:]
    each = oc // group
    sizes = tuple(out)

    def taps(d: Sequence[Any], first: int) -> list[Any]:
        """`o*s + k*d` for each spatial axis; dims 1.. are the output's, dims `first`.. the kernel's."""
        return [d[1 + i] * window.strides[i] + d[first + i] * window.dilations[i] for i in range(count)]

    if group == 1:
        w = low.transpose(w, [*spatial, 1, 0])  # [k.., ic, oc]
        d = dims(3 + 2 * count)
        k = 2 + count
        at_x = [d[0], *taps(d, k), d[k + count]]
        at_w = [*d[k : k + count], d[k + count], d[1 + count]]
        return contract(low, "p" * k + "r" * (count + 1), (x, at_x), (w, at_w), (batch, *sizes, oc), d[:k])
    if ic == 1 and each == 1:
        w = low.transpose(low.reshape(w, (oc, *kernel)), [*range(1, 1 + count), 0])  # [k.., g]
        d = dims(2 + 2 * count)
        k = 2 + count
        at_x = [d[0], *taps(d, k), d[1 + count]]
        at_w = [*d[k : k + count], d[1 + count]]
        return contract(low, "p" * k + "r" * count, (x, at_x), (w, at_w), (batch, *sizes, oc), d[:k])
    lone = ic == 1  # one input channel a group: no sum over channels
    shape = low.shape(x)
    x = x if lone else low.reshape(x, (*shape[:-1], group, ic))
    w = low.reshape(w, (group, each, *low.shape(w)[1:]))
    order = [0, *range(3, 3 + count), 2, 1]  # [g, k.., ic, oc]
    w = low.transpose(w, order)
    if lone:
        w = low.reshape(w, (group, *low.shape(w)[1 : 1 + count], each))
    k = 3 + count
    d = dims(k + count + (0 if lone else 1))
    inner = [] if lone else [d[k + count]]
    at_x = [d[0], *taps(d, k), d[1 + count], *inner]
    at_w = [d[1 + count], *d[k : k + count], *inner, d[2 + count]]
    result = contract(
        low, "p" * k + "r" * (count + len(inner)), (x, at_x), (w, at_w), (batch, *sizes, group, each), d[:k]
    )
    assert channels is not None
    return low.reshape(result, (batch, *sizes, oc))


def _spatial(op: Any, low: Lowering) -> tuple[bool, list[Dim]]:
    """Whether data is channels-last, and the extents of the result's spatial axes."""
    last = is_channels_last(low, op)
    shape = low.result_shape(op)
    return last, list(shape[1:-1] if last else shape[2:])


def convolution(low: Lowering, op: Any, x: SSAValue, w: SSAValue) -> tuple[SSAValue, bool]:
    """The convolution of an op's data and weights, channels last, and whether it is to stay so."""
    last, out = _spatial(op, low)
    if not last:
        x = to_channels_last(low, x)
    w = _with_kernel_shape(low, op, w)
    window = window_of(low, op, low.shape(w)[2:], low.shape(x)[1:-1], out)
    x = low.pad(x, [0, *window.low, 0], [0, *window.high, 0], 0)
    return convolve(low, x, w, window, low.attr(op, "group") or 1, out), last


def _with_kernel_shape(low: Lowering, op: Any, w: SSAValue) -> SSAValue:
    """`w` with the extents of the kernel that the op gives."""
    own, given = low.shape(w), low.attr(op, "kernel_shape")
    if not given or own[2:] == tuple(given):
        return w
    shape = (*own[:2], *given)
    return low.reshaped(low.value(tensor.CastOp(w, low.type_of(shape, low.element(w)))), shape)


def _by_winograd(low: Lowering, op: Any, x: SSAValue, w: SSAValue, tile: int) -> tuple[SSAValue, bool]:
    last, out = _spatial(op, low)
    if not last:
        x = to_channels_last(low, x)
    weights = low.data(w)
    assert weights is not None, "graph.conv with `winograd` has constant weights"
    window = window_of(low, op, [3, 3], low.shape(x)[1:-1], out)
    return winograd(low, x, weights, (window.low[0], window.low[1]), (out[0], out[1]), tile), last


def add_bias(low: Lowering, value: SSAValue, bias: SSAValue | None) -> SSAValue:
    """Plus one number for each channel, the last axis."""
    if bias is None:
        return value
    return low.map(lambda x, b: x + b, [value, bias], low.shape(value), low.element(value))


@lowers("conv")
def _conv(low: Lowering, op: Any) -> SSAValue:
    x, w, b = [*low.operands(op), None][:3]
    if tile := low.attr(op, "winograd"):
        result, last = _by_winograd(low, op, x, w, tile)
    else:
        result, last = convolution(low, op, x, w)
    result = add_bias(low, result, b)
    return result if last else to_channels_first(low, result)


@lowers("conv_integer")
def _conv_integer(low: Lowering, op: Any) -> SSAValue:
    x, w, zx, zw = [*low.operands(op), None, None][:4]
    old = [*op.operand_list(), None, None]
    flags = [v is not None and is_unsigned(v.type.element_type) for v in old[:4]]
    x = to_i32(low, x, flags[0], zx, flags[2])
    known = low.data(w)
    zero = low.data(zw) if zw is not None else np.zeros((), np.int8)
    if known is not None and zero is not None:
        known = known.view(np.uint8) if flags[1] else known
        zero = zero.view(np.uint8) if flags[3] and zero.dtype.itemsize == 1 else zero
        shift = (
            zero.astype(np.int32).reshape([-1] + [1] * (known.ndim - 1))
            if zero.size > 1
            else zero.astype(np.int32)
        )
        w = low.tensor_constant(known.astype(np.int32) - shift, i32)
    else:
        w = to_i32(low, w, flags[1], zw, flags[3], 0)
    result, last = convolution(low, op, x, w)
    return result if last else to_channels_first(low, result)


# A transposed convolution is a convolution with stride 1 of the input with zeros put in between, by the
# kernel turned round. With constant weights the zeros are left out: see `_by_phases`.
@lowers("conv_transpose")
def _conv_transpose(low: Lowering, op: Any) -> SSAValue:
    x, w, b = [*low.operands(op), None][:3]
    last, out = _spatial(op, low)
    if not last:
        x = to_channels_last(low, x)
    w = _with_kernel_shape(low, op, w)
    kernel = low.shape(w)[2:]
    count, group = len(kernel), low.attr(op, "group") or 1
    strides = low.attr(op, "strides") or [1] * count
    dilations = low.attr(op, "dilations") or [1] * count
    extra = low.attr(op, "output_padding") or [0] * count
    pads = low.attr(op, "pads") or [0] * (2 * count)
    auto = low.attr(op, "auto_pad") or "NOTSET"
    sizes = low.shape(x)[1:-1]
    begin: list[Dim] = list(pads[:count])
    if auto != "NOTSET" or low.attr(op, "output_shape"):
        for i in range(count):
            total = (sizes[i] - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - out[i]
            total = maximum(total, 0)
            half = total // 2
            begin[i] = (total - half) if auto == "SAME_LOWER" else half
            if auto == "NOTSET":
                begin[i] = half
    phases = _phases(low, op, x, w, strides, begin, out) if group == 1 and set(dilations) == {1} else None
    if phases is not None:
        result = _by_phases(low, x, w, b, phases, out)
        return result if last else to_channels_first(low, result)
    if any(s != 1 for s in strides):
        spread = tuple((n - 1) * s + 1 for n, s in zip(sizes, strides, strict=True))
        shape = (low.shape(x)[0], *spread, low.shape(x)[-1])
        zeros = low.fill(0, shape, low.element(x))
        x = low.insert(x, zeros, [0] * len(shape), [1, *strides, 1])
        sizes = spread
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    before = [r - p for r, p in zip(reach, begin, strict=True)]
    after = [o + r - n - f for o, r, n, f in zip(out, reach, sizes, before, strict=True)]
    x = low.pad(x, [0, *before, 0], [0, *after, 0], 0)
    result = convolve(
        low, x, _turned(low, w, group), Window(list(kernel), [1] * count, dilations, [], []), group, out
    )
    result = add_bias(low, result, b)
    return result if last else to_channels_first(low, result)


@dataclass
class _Phase:
    """
    One axis of a transposed convolution. Its outputs, `crop` unused ones in front, are `count` periods of `stride`;
    output `stride * q + r` is the sum over the taps `j` of `x[q + first + j] * w[tap(r, j)]`, with zeros outside.
    """

    stride: int
    crop: int
    count: Dim
    first: int
    taps: list[list[int | None]]
    """For each `r` and `j` the element of the kernel, None where there is none."""
    high: int
    """Zeros behind `x`; below 0, elements of it that nothing reads."""


def _phases(
    low: Lowering, op: Any, x: SSAValue, w: SSAValue, strides: list[int], begin: list[Dim], out: list[Dim]
) -> list[_Phase] | None:
    """The axes of a transposed convolution with a stride and known weights; None for others."""
    if low.data(w) is None or set(strides) == {1}:
        return None
    phases = []
    for size, kernel, s, before, extent in zip(
        low.shape(x)[1:-1], low.shape(w)[2:], strides, begin, out, strict=True
    ):
        if not isinstance(before, int) or not isinstance(kernel, int):
            return None
        # To crop what makes `before` a multiple of the stride leaves the fewest taps, often so does to crop nothing.
        options = [_taps(kernel, s, before - crop) for crop in (0, before % s)]
        crop = 0 if len(options[0][1][0]) <= len(options[1][1][0]) else before % s
        first, taps = options[crop > 0]
        count = (extent + (crop + s - 1)) // s
        high = count + (first + len(taps[0]) - 1) - size
        if not isinstance(high, int):
            return None
        phases.append(_Phase(s, crop, count, first, taps, high))
    return phases


# y[o] = sum over i, k with s * i + k - before == o of x[i] w[k]; with o == s * q + r and i == q + j: k == r + before - s * j
def _taps(kernel: int, s: int, before: int) -> tuple[int, list[list[int | None]]]:
    """The least `j` and for each `r` the elements of the kernel, from that `j` on."""
    first, last = -((kernel - 1 - before) // s), (s - 1 + before) // s
    places = [[r + before - s * j for j in range(first, last + 1)] for r in range(s)]
    return first, [[k if 0 <= k < kernel else None for k in row] for row in places]


def _by_phases(
    low: Lowering, x: SSAValue, w: SSAValue, b: SSAValue | None, phases: list[_Phase], out: list[Dim]
) -> SSAValue:
    """
    A transposed convolution as one contraction: `y[n, q0, r0, q1, (r1 oc)] += x[n, q0 + j0, q1 + j1, ic] * u[r0, j0, j1, ic, (r1 oc)]`,
    each output from the elements of the kernel that reach it. The phases of the last axis are columns beside the channels.
    """
    known = low.data(w)
    assert known is not None, "phases are of known weights"
    count, element, batch = len(phases), low.element(w), low.shape(x)[0]
    _ic, oc = known.shape[:2]
    u = known.transpose(*range(2, 2 + count), 0, 1)  # [k.., ic, oc]
    for axis, phase in enumerate(phases):  # k -> r, j
        u = np.concatenate([u, np.zeros_like(u.take([0], 2 * axis))], 2 * axis)
        places = np.array([[-1 if k is None else k for k in row] for row in phase.taps])
        u = u.take(places, 2 * axis)
    # [r0, j0, r1, j1, ic, oc] -> [r0, j0, j1, ic, r1, oc]
    order = [*range(0, 2 * count - 2, 2), *range(1, 2 * count, 2), 2 * count, 2 * count - 2, 2 * count + 1]
    u = np.ascontiguousarray(u.transpose(order))
    columns = phases[-1].stride * oc
    weights = low.tensor_constant(u.reshape(*u.shape[:-2], columns), element)
    x = low.pad(x, [0, *(-p.first for p in phases), 0], [0, *(p.high for p in phases), 0], 0)

    parallel = 2 * count + 1
    d = dims(parallel + count + 1)
    taps = d[parallel:-1]
    at_x = [d[0], *(d[1 + 2 * axis] + taps[axis] for axis in range(count)), d[-1]]
    at_w = [*(d[2 + 2 * axis] for axis in range(count - 1)), *taps, d[-1], d[parallel - 1]]
    shape = [batch, *(e for p in phases for e in (p.count, p.stride))]
    result = contract(
        low, "p" * parallel + "r" * (count + 1), (x, at_x), (weights, at_w), (*shape[:-1], columns), d[:parallel]
    )  # fmt: skip
    if b is not None:
        if (each := low.data(b)) is not None:
            repeated = low.tensor_constant(np.tile(each, phases[-1].stride), element)
        else:
            both = low.map(lambda v: v, [b], (phases[-1].stride, oc), element, widen=False)
            repeated = low.reshape(both, (columns,))
        result = add_bias(low, result, repeated)
    result = low.reshape(
        low.reshape(result, (*shape, oc)), (batch, *(p.count * p.stride for p in phases), oc)
    )
    whole = all(p.crop == 0 and p.count * p.stride == o for p, o in zip(phases, out, strict=True))
    return result if whole else low.slice(result, [0, *(p.crop for p in phases), 0], [batch, *out, oc])


def _turned(low: Lowering, w: SSAValue, group: int) -> SSAValue:
    """`w[ic, oc / g, k..]` as `[oc, ic / g, k..]` with every kernel axis reversed."""
    known = low.data(w)
    shape = low.shape(w)
    ic, each, *kernel = shape
    if known is not None:
        array = known.reshape(group, -1, *known.shape[1:]).swapaxes(1, 2)
        array = np.flip(array, tuple(range(3, array.ndim)))
        array = array.reshape(-1, *array.shape[2:])
        return low.tensor_constant(np.ascontiguousarray(array), low.element(w))
    w = low.reshape(w, (group, ic // group, each, *kernel))
    w = low.transpose(w, [0, 2, 1, *range(3, 3 + len(kernel))])
    d = dims(low.rank(w))
    known_extents = [k for k in kernel if isinstance(k, int)]
    if len(known_extents) == len(kernel):
        at = [*d[:3], *(d[3 + i] * -1 + (k - 1) for i, k in enumerate(known_extents))]
        w = low.map(lambda v: v, [w], low.shape(w), low.element(w), at=[at], widen=False)
    else:
        w = _read_backwards(low, w, 3)
    return low.reshape(w, (group * each, ic // group, *kernel))


def _read_backwards(low: Lowering, w: SSAValue, first: int) -> SSAValue:
    """`w` with the axes from `first` on reversed, whose extents only the run knows."""
    shape = low.shape(w)

    def body(like: Scalar) -> Scalar:
        build = like.body
        back = [build.extent(n) - 1 - build.index(first + i) for i, n in enumerate(shape[first:])]
        return build.extract(w, [*(build.index(a) for a in range(first)), *back])

    out = low.empty(shape, low.element(w))
    return low.generic("p" * len(shape), [], [(out, dims(len(shape)))], body)[0]


# y[n, c, l] = sum over k of x'[n, c, l + k] * w[c, 0, k]   where x' is the past before the input
@lowers("causal_conv_with_state")
def _causal_conv_with_state(low: Lowering, op: Any) -> list[SSAValue]:
    """As one op where the number of channels is not known; else the body that the standard gives it is imported."""
    x, w, bias, past = [*low.operands(op), None, None][:4]
    batch, channels, length = low.shape(x)
    taps, element = low.shape(w)[2], low.element(x)
    if past is None:
        past = low.fill(0, (batch, channels, taps - 1), element)
    before = concat(low, [past, x], 2)
    d = dims(4)
    at_x, at_w = [d[0], d[1], d[2] + d[3]], [d[1], 0, d[3]]
    y = contract(low, "pppr", (before, at_x), (w, at_w), (batch, channels, length), d[:3])
    if bias is not None:
        y = low.map(lambda v, b: v + b, [y, bias], low.shape(y), element, at=[d[:3], [d[1]]])
    if low.attr(op, "activation") in ("silu", "swish"):
        y = low.map(lambda v: v.times_sigmoid(v), [y], low.shape(y), element)
    return [y, low.slice(before, [0, 0, length], [batch, channels, taps - 1])]
