"""Contractions: matrix products, einsum, convolutions."""

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType, i32
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, result_def, var_operand_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    Premise,
    broadcast,
    channels_first,
    dims,
    element_type,
    integer,
    integers,
    laid_out,
    may_stretch,
    operator,
    real,
    require_parameter,
    require_rank,
    require_same,
    same_dim,
    same_elements,
    string,
    take_for_granted,
)
from stepwell.dialects.graph.shape import Dim, ceildiv, floordiv, maximum, minimum, print_dims, tensor_type


def matmul_shape(op: GraphOp, a: SSAValue, b: SSAValue) -> list[Dim]:
    """numpy's rule: batches broadcast, a vector counts as a row on the left and as a column on the right."""
    left, right = dims(a), dims(b)
    if not left or not right:
        raise VerifyException(f"{op.name}: operands of types {a.type} and {b.type} must have rank 1 or more")
    row, column = len(left) == 1, len(right) == 1
    left = [1, *left] if row else left
    right = [*right, 1] if column else right
    require_same(op, left[-1], right[-2], f"inner extents of [{print_dims(left)}] and [{print_dims(right)}]")
    batch = broadcast(op, [left[:-2], right[:-2]])
    return batch + ([] if row else [left[-2]]) + ([] if column else [right[-1]])


def _require_parameters(op: GraphOp, *groups: tuple[Sequence[SSAValue | None], SSAValue, int]) -> None:
    """
    Scales and zero points of each of some factors: one number, one for each index of an axis of it (1 where it has none),
    or what broadcasts to it.
    """
    for values, factor, axis in groups:
        shape = dims(factor)
        for value in values:
            if value is None or len(extents := dims(value)) <= 1:
                extent = shape[axis] if -axis <= len(shape) > 1 else 1
                require_parameter(op, value, extent, f"scales or zero points of {factor.type}")
            elif len(extents) != len(shape) or not all(map(may_stretch, extents, shape)):
                raise VerifyException(f"{op.name}: {value.type} does not broadcast to {factor.type}")


@operator
class MatMulOp(GraphOp):
    """The matrix product `[.., m, k] x [.., k, n] -> [.., m, n]`, batches broadcasting as in numpy."""

    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(matmul_shape(self, self.a, self.b), same_elements(self, self.a, self.b))]


@operator
class MatMulIntegerOp(GraphOp):
    """
    The matrix product of 8-bit integers less their zero points, in i32. Zero points: a scalar, or one a row
    or column.
    """

    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    a_zero_point = opt_operand_def(TENSOR)
    b_zero_point = opt_operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape = matmul_shape(self, self.a, self.b)
        _require_parameters(self, ([self.a_zero_point], self.a, -2), ([self.b_zero_point], self.b, -1))
        return [tensor_type(shape, i32)]


@operator
class GemmOp(GraphOp):
    """
    `alpha * a' b' + beta * c`, where `a'` is `a` or (`trans_a`) its transpose; `c` broadcasts to `[m, n]`.
    """

    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    c = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    alpha = real(1.0)
    beta = real(1.0)
    trans_a = integer(0)
    trans_b = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, *self.operands)
        left, right = require_rank(self, self.a, 2), require_rank(self, self.b, 2)
        m, k = reversed(left) if self.get("trans_a") else left
        l, n = reversed(right) if self.get("trans_b") else right
        require_same(self, k, l, f"inner extents of {self.a.type} and {self.b.type}")
        if self.c is not None:
            extra = dims(self.c)
            target = [m, n]
            fits = len(extra) <= 2 and all(
                may_stretch(d, t) for d, t in zip(reversed(extra), reversed(target), strict=False)
            )
            if not fits:
                raise VerifyException(
                    f"{self.name}: c {self.c.type} does not broadcast to [{print_dims(target)}]"
                )
        return [tensor_type([m, n], found)]


@operator
class EinsumOp(GraphOp):
    """
    The sum over all subscripts that the right side of `equation` lacks, of the product of the inputs. `...`
    stands for broadcast leading axes; without `->` the result has the subscripts that occur once, in
    alphabetic order.
    """

    inputs = var_operand_def(TENSOR)
    output = result_def(TENSOR)
    equation = string()

    def terms(self) -> tuple[list[str], str]:
        """The subscripts of each input and of the output, without blanks; `.` stands for the ellipsis."""
        equation = self.get("equation").replace(" ", "").replace("...", ".")
        left, arrow, right = equation.partition("->")
        inputs = left.split(",")
        for term in [*inputs, right]:
            plain = term.replace(".", "", 1)
            if not (plain == "" or (plain.isascii() and plain.isalpha())):
                raise VerifyException(
                    f"{self.name}: term {term!r} of {equation[:200]!r} may hold letters and one '...'"
                )
        if not arrow:
            letters = "".join(inputs).replace(".", "")
            right = ("." if "." in left else "") + "".join(
                sorted(c for c in set(letters) if letters.count(c) == 1)
            )
        return inputs, right

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, *self.operands)
        inputs, output = self.terms()
        if len(inputs) != len(self.operands):
            raise VerifyException(
                f"{self.name}: {self.get('equation')[:200]!r} has {len(inputs)} terms for"
                f" {len(self.operands)} inputs"
            )
        sizes: dict[str, Dim] = {}
        batches: list[list[Dim]] = []
        for term, value in zip(inputs, self.operands, strict=True):
            shape = dims(value)
            letters = term.replace(".", "")
            extra = len(shape) - len(letters)
            if extra < 0 or (extra and "." not in term):
                raise VerifyException(f"{self.name}: term {term!r} does not fit the operand {value.type}")
            at = term.find(".")
            if at >= 0:
                batches.append(shape[at : at + extra])
                shape = shape[:at] + shape[at + extra :]
            for letter, dim in zip(letters, shape, strict=True):
                if letter in sizes and (sizes[letter] == 1 or dim == 1):
                    sizes[letter] = dim if sizes[letter] == 1 else sizes[letter]
                else:
                    sizes[letter] = require_same(self, sizes.get(letter, dim), dim, f"subscript {letter!r}")
        result: list[Dim] = []
        for letter in output:
            if letter == ".":
                result += broadcast(self, batches)
            elif letter not in sizes or output.count(letter) > 1:
                raise VerifyException(
                    f"{self.name}: subscript {letter!r} of the result must occur once, and in an input"
                )
            else:
                result.append(sizes[letter])
        return [tensor_type(result, found)]


class Window:
    """
    The geometry of a sliding window over the spatial axes: what `pads`, `auto_pad`, `strides`, `dilations`
    and `kernel_shape` come to. `pads_begin` and `pads_end` are extents, for `SAME_*` over unknown extents may
    be symbolic.
    """

    def __init__(self, op: GraphOp, spatial: Sequence[Dim], kernel: Sequence[Dim], ceil_mode: bool = False):
        rank = len(spatial)
        self.kernel = list(kernel)
        if len(self.kernel) != rank:
            raise VerifyException(f"{op.name}: the kernel [{print_dims(kernel)}] must have {rank} extents")
        self.strides = _spatial(op, "strides", rank, 1)
        self.dilations = _spatial(op, "dilations", rank, 1)
        mode = op.get("auto_pad") or "NOTSET"
        if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise VerifyException(
                f"{op.name}: auto_pad {mode!r} must be NOTSET, VALID, SAME_UPPER or SAME_LOWER"
            )
        pads = op.get("pads") if mode == "NOTSET" else None
        pads = tuple(pads or (0,) * (2 * rank))
        if len(pads) != 2 * rank:
            raise VerifyException(
                f"{op.name}: has {len(pads)} pads, must have {2 * rank} for {rank} spatial axes"
            )
        self.pads_begin: list[Dim] = list(pads[:rank])
        self.pads_end: list[Dim] = list(pads[rank:])
        self.spatial = list(spatial)
        self.output: list[Dim] = []
        self.reach: list[Dim] = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        for i, extent in enumerate(spatial):
            stride, reach = self.strides[i], self.reach[i]
            if mode.startswith("SAME"):
                out = ceildiv(extent, stride)
                total = maximum((out - 1) * stride + reach - extent, 0)
                small = floordiv(total, 2)
                big = total - small
                lower = mode == "SAME_LOWER"
                self.pads_begin[i], self.pads_end[i] = (big, small) if lower else (small, big)
            else:
                room = extent + self.pads_begin[i] + self.pads_end[i] - reach
                # In ceil mode a window may reach past the end, if it begins inside.
                if isinstance(room, int) and room <= (-stride if ceil_mode else -1):
                    raise VerifyException(
                        f"{op.name}: the window reaches over {reach} elements of spatial axis {i}, which has"
                        f" {extent} and padding {self.pads_begin[i]} + {self.pads_end[i]}"
                    )
                least = reach - (stride - 1) if ceil_mode else reach
                take_for_granted(Premise(room + reach, least, "at least"))
                out = (ceildiv if ceil_mode else floordiv)(room, stride) + 1
                if ceil_mode:
                    # A window must begin inside the input or its leading padding.
                    last = ceildiv(extent + self.pads_begin[i], stride)
                    if isinstance(out, int) and isinstance(last, int):
                        out = min(out, last)
                    elif stride > 1:
                        out = minimum(out, last)
            self.output.append(out)


def _spatial(op: GraphOp, name: str, rank: int, default: int) -> list[int]:
    values = list(op.get(name) or [default] * rank)
    if len(values) != rank or any(v < 1 for v in values):
        raise VerifyException(
            f"{op.name}: {name} {values} must be {rank} positive integers, one a spatial axis"
        )
    return values


def _kernel(op: GraphOp, weights: Sequence[Dim]) -> list[Dim]:
    given = op.get("kernel_shape")
    if given is not None and (
        len(given) != len(weights) or not all(same_dim(g, w) for g, w in zip(given, weights, strict=True))
    ):
        raise VerifyException(
            f"{op.name}: kernel_shape {list(given)} is not that of the weights [{print_dims(weights)}]"
        )
    return list(given) if given is not None else list(weights)


def conv_window(op: GraphOp, x: SSAValue, w: SSAValue) -> Window:
    """The window of a convolution `[n, c, ..] * [m, c / group, ..]`; checks ranks, channels and groups."""
    shape, weights = channels_first(op, x), dims(w)
    if len(shape) < 3 or len(weights) != len(shape):
        raise VerifyException(
            f"{op.name}: input {x.type} and weights {w.type} must have one rank, of at"
            f" least 3 (batch, channels, space)"
        )
    group = op.get("group")
    if group < 1:
        raise VerifyException(f"{op.name}: group {group} must be positive")
    channels, out_channels = shape[1], weights[0]
    require_same(op, channels, weights[1] * group, f"input channels and weight channels times {group} groups")
    if not same_dim(out_channels // group * group, out_channels):
        raise VerifyException(f"{op.name}: {out_channels} output channels do not divide into {group} groups")
    return Window(op, shape[2:], _kernel(op, weights[2:]))


def _conv_shape(op: GraphOp, x: SSAValue, w: SSAValue, bias: SSAValue | None) -> list[Dim]:
    window = conv_window(op, x, w)
    channels = dims(w)[0]
    if bias is not None:
        (extent,) = require_rank(op, bias, 1)
        require_same(op, extent, channels, "extent of the bias and output channels")
    return laid_out(op, [dims(x)[0], channels, *window.output])


class _Windowed(GraphOp):
    """
    The attributes of a convolution; all sizes are per spatial axis, `pads` first all begins, then all ends.
    """

    dilations = integers()
    group = integer(1)
    kernel_shape = integers()
    pads = integers()
    strides = integers()


class _ConvLike(_Windowed):
    """
    `layout` is that of the input and the result: `nchw`, or channels last, `nhwc`; weights are
    `[m, c / group, ..]` in both.
    """

    auto_pad = string("NOTSET")
    layout = string("nchw")


@operator
class ConvOp(_ConvLike):
    """
    The cross-correlation of `x[n, c, ..]` with `w[m, c / group, ..]`, plus `b[m]`: `y[n, m, ..]`.

    `winograd` is how it is computed: by tiles of 2 by 2 or 4 by 4 outputs with Winograd's algorithm, or directly (0, the
    default). Only a 3x3 convolution with constant float weights, stride and dilation 1 and one group can have tiles.
    """

    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    winograd = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, *self.operands)
        tile, kernel = self.get("winograd"), dims(self.w)[2:]
        if tile not in (0, 2, 4):
            raise VerifyException(f"{self.name}: winograd {tile} must be 0, 2 or 4")
        moves = {*(self.get("strides") or ()), *(self.get("dilations") or ()), self.get("group")} - {1}
        if tile and (list(kernel) != [3, 3] or moves):
            raise VerifyException(
                f"{self.name}: winograd {tile} needs a 3 by 3 kernel with strides, dilations and group 1, not"
                f" {list(kernel)} with strides {self.get('strides')}, dilations {self.get('dilations')},"
                f" group {self.get('group')}"
            )
        return [tensor_type(_conv_shape(self, self.x, self.w, self.b), found)]


@operator
class ConvIntegerOp(_ConvLike):
    """The convolution of 8-bit integers less their zero points, in i32."""

    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    x_zero_point = opt_operand_def(TENSOR)
    w_zero_point = opt_operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape = _conv_shape(self, self.x, self.w, None)
        require_parameter(self, self.x_zero_point, 1, "zero points of the input")
        require_parameter(self, self.w_zero_point, dims(self.w)[0], "zero points of the weights")
        return [tensor_type(shape, i32)]


@operator
class QLinearConvOp(_ConvLike):
    """The convolution of quantised tensors, requantised to `y_scale`, `y_zero_point`; the bias `b` is i32."""

    x = operand_def(TENSOR)
    x_scale = operand_def(TENSOR)
    x_zero_point = operand_def(TENSOR)
    w = operand_def(TENSOR)
    w_scale = operand_def(TENSOR)
    w_zero_point = operand_def(TENSOR)
    y_scale = operand_def(TENSOR)
    y_zero_point = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        found = element_type(self.y_zero_point)
        shape = _conv_shape(self, self.x, self.w, self.b)
        for value in (self.x_scale, self.x_zero_point, self.y_scale, self.y_zero_point):
            require_parameter(self, value, 1, "scales or zero points of the input or the result")
        for value in (self.w_scale, self.w_zero_point):
            require_parameter(self, value, dims(self.w)[0], "scales or zero points of the weights")
        return [tensor_type(shape, found)]


@operator
class QLinearMatMulOp(GraphOp):
    """
    The matrix product of quantised tensors, requantised to `y_scale`, `y_zero_point`, which are one each; those of `a`
    may be one a row, those of `b` one a column.
    """

    a = operand_def(TENSOR)
    a_scale = operand_def(TENSOR)
    a_zero_point = operand_def(TENSOR)
    b = operand_def(TENSOR)
    b_scale = operand_def(TENSOR)
    b_zero_point = operand_def(TENSOR)
    y_scale = operand_def(TENSOR)
    y_zero_point = operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape = matmul_shape(self, self.a, self.b)
        _require_parameters(
            self,
            ([self.a_scale, self.a_zero_point], self.a, -2),
            ([self.b_scale, self.b_zero_point], self.b, -1),
        )
        for value in (self.y_scale, self.y_zero_point):
            require_parameter(self, value, 1, "scales or zero points of the result")
        return [tensor_type(shape, element_type(self.y_zero_point))]


@operator
class ConvTransposeOp(_ConvLike):
    """
    The transpose of a convolution: every input element adds its multiple of `w[c, m / group, ..]` to the
    result. The extent is `stride * (in - 1) + output_padding + dilation * (kernel - 1) + 1 - pads`, or
    `output_shape`.
    """

    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    output_padding = integers()
    output_shape = integers()

    def geometry(
        self, shape: Sequence[Dim] | None = None, weights: Sequence[Dim] | None = None
    ) -> tuple[list[Dim], list[Dim], list[Dim], list[int], list[int]]:
        """
        Output extents, begin pads, end pads, strides, dilations, per spatial axis (of the operands' types).
        """
        shape = channels_first(self, self.x) if shape is None else shape
        weights = dims(self.w) if weights is None else weights
        if len(shape) < 3 or len(weights) != len(shape):
            raise VerifyException(
                f"{self.name}: input {self.x.type} and weights {self.w.type} must have one"
                f" rank, of at least 3"
            )
        require_same(self, shape[1], weights[0], "input channels and first extent of the weights")
        rank = len(shape) - 2
        group = self.get("group")
        if group < 1 or (isinstance(shape[1], int) and shape[1] % group):
            raise VerifyException(f"{self.name}: {shape[1]} input channels do not divide into {group} groups")
        kernel = _kernel(self, weights[2:])
        strides, dilations = _spatial(self, "strides", rank, 1), _spatial(self, "dilations", rank, 1)
        extra = list(self.get("output_padding") or (0,) * rank)
        wanted, mode = self.get("output_shape"), self.get("auto_pad")
        pads = tuple((self.get("pads") if mode == "NOTSET" else None) or (0,) * (2 * rank))
        if len(extra) != rank or len(pads) != 2 * rank or (wanted is not None and len(wanted) != rank):
            raise VerifyException(
                f"{self.name}: output_padding, pads and output_shape must fit {rank} spatial axes"
            )
        output: list[Dim] = []
        begins: list[Dim] = []
        ends: list[Dim] = []
        for i in range(rank):
            extent, stride = shape[2 + i], strides[i]
            full = (extent - 1) * stride + extra[i] + (kernel[i] - 1) * dilations[i] + 1
            if wanted is not None or mode.startswith("SAME"):
                out: Dim = wanted[i] if wanted is not None else extent * stride
                total = maximum(full - out, 0)
                half = floordiv(total, 2)
                begin, end = (half, total - half) if mode == "SAME_UPPER" else (total - half, half)
            else:
                begin, end = pads[i], pads[rank + i]
                out = full - begin - end
            output.append(out)
            begins.append(begin)
            ends.append(end)
        return output, begins, ends, strides, dilations

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, *self.operands)
        channels = dims(self.w)[1] * self.get("group") if isinstance(self.w.type, TensorType) else 0
        if self.b is not None:
            (extent,) = require_rank(self, self.b, 1)
            require_same(self, extent, channels, "extent of the bias and output channels")
        return [tensor_type(laid_out(self, [dims(self.x)[0], channels, *self.geometry()[0]]), found)]


@operator
class DeformConvOp(_Windowed):
    """
    A convolution whose taps are displaced by `offset` (read by bilinear interpolation) and scaled by `mask`.
    """

    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    offset = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    mask = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    offset_group = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(_conv_shape(self, self.x, self.w, self.b), same_elements(self, self.x, self.w))]


@operator
class CausalConvWithStateOp(GraphOp):
    """
    A depthwise causal convolution over the last axis of `input[n, c, l]`: the past `k - 1` columns come from
    `past_state` (zero if absent), and `present_state` is what the next call needs.
    """

    input = operand_def(TENSOR)
    weight = operand_def(TENSOR)
    bias = opt_operand_def(TENSOR)
    past_state = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    present_state = result_def(TENSOR)
    activation = string("none")

    def output_types(self) -> Sequence[Attribute]:
        shape, kernel = dims(self.input), dims(self.weight)
        if len(shape) != 3 or len(kernel) != 3:
            raise VerifyException(
                f"{self.name}: input {self.input.type} and weight {self.weight.type} must have rank 3"
            )
        require_same(self, kernel[0], shape[1], "channels of the weight and of the input")
        require_same(self, kernel[1], 1, "input channels a channel")
        if self.bias is not None:
            require_same(
                self, require_rank(self, self.bias, 1)[0], shape[1], "extent of the bias and channels"
            )
        if self.past_state is not None:
            past = require_rank(self, self.past_state, 3)
            for own, other in zip(past, (*shape[:2], kernel[2] - 1), strict=True):
                require_same(self, own, other, "extents of past_state and those of the input before it")
        return [self.input.type, tensor_type([shape[0], shape[1], kernel[-1] - 1], element_type(self.input))]


@operator
class DetOp(GraphOp):
    """The determinant of each matrix `[.., n, n] -> [..]`."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.x)
        if len(shape) < 2 or not same_dim(shape[-1], shape[-2]):
            raise VerifyException(f"{self.name}: operand {self.x.type} must be square matrices")
        return [tensor_type(shape[:-2], element_type(self.x))]
