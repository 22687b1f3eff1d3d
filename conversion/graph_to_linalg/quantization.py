"""Quantised tensors: integers with a scale and a zero point, one for the tensor or one for each channel."""

from typing import Any

from xdsl.dialects.builtin import IntegerType, f32, i32
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.contraction import matmul, parameter, to_i32
from stepwell.conversion.graph_to_linalg.convolution import add_bias, convolution, to_channels_first
from stepwell.conversion.graph_to_linalg.lowering import Lowering, Shape, dims, is_unsigned, lowers
from stepwell.conversion.graph_to_linalg.reduction import fold, highest_of, lowest_of
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.conversion.graph_to_linalg.small_types import decoded, encoded, is_small


def _linear(low: Lowering, op: Any) -> tuple[list[SSAValue], list[Any]]:
    """The tensor, the scales and the zero points that there are, and where each is read."""
    x, *parameters = [v for v in low.operands(op) if v is not None]
    shape, axis, block = low.shape(x), low.attr(op, "axis"), low.attr(op, "block_size")
    every = dims(len(shape))
    inputs: list[SSAValue] = [x]
    at: list[Any] = [every]
    for value in parameters:
        if block:
            place = [d // block if a == axis % len(shape) else d for a, d in enumerate(every)]
        else:
            one = not low.rank(parameters[0]) or not -len(shape) <= axis < len(shape)
            value, place = parameter(low, value, shape, None if one else axis)
        inputs.append(value)
        at.append(place)
    return inputs, at


def rounded(x: Scalar, zero: Scalar | None, element: Any, unsigned: bool) -> Scalar:
    """`x` to the nearest integer (even at ties), plus the zero point, held in the range of the type."""
    number = x.round_even()
    if zero is not None:
        number = number + zero.cast(f32)
    held = number.clamp(float(lowest_of(element, unsigned)), float(highest_of(element, unsigned)))
    return held.as_integer(element, unsigned)


@lowers("quantize_linear")
def _quantize_linear(low: Lowering, op: Any) -> SSAValue:
    inputs, at = _linear(low, op)
    element = low.result_element(op)
    target = op.results[0].type.element_type
    unsigned, saturate = is_unsigned(target), low.attr(op, "saturate") != 0

    def body(v: Scalar, s: Scalar, *z: Scalar) -> Scalar:
        if is_small(target):
            number = v.cast(f32) / s.cast(f32)
            number = number.round_even() if isinstance(target, IntegerType) else number
            if z:
                number = number + decoded(z[0], target).cast(f32)
            if isinstance(target, IntegerType):
                number = number.clamp(float(lowest_of(target, unsigned)), float(highest_of(target, unsigned)))
            return encoded(number, target, saturate)
        return rounded(v.cast(f32) / s.cast(f32), z[0] if z else None, element, unsigned)

    return low.map(
        body, inputs, low.shape(inputs[0]), element, at=at, unsigned=[False, False, unsigned][: len(inputs)]
    )


@lowers("dequantize_linear")
def _dequantize_linear(low: Lowering, op: Any) -> SSAValue:
    inputs, at = _linear(low, op)
    source = op.operands[0].type.element_type
    unsigned = is_unsigned(source)

    def body(v: Scalar, s: Scalar, *z: Scalar) -> Scalar:
        if is_small(source):
            number = decoded(v, source).cast(f32)
            return (number - decoded(z[0], source).cast(f32) if z else number) * s.cast(f32)
        number = v.as_integer(i32, False)
        if z:
            number = number - z[0].as_integer(i32, False)
        return number.cast(f32) * s.cast(f32)

    return low.map(
        body,
        inputs,
        low.shape(inputs[0]),
        low.result_element(op),
        at=at,
        unsigned=[unsigned, False, unsigned][: len(inputs)],
    )


@lowers("dynamic_quantize_linear")
def _dynamic_quantize_linear(low: Lowering, op: Any) -> list[SSAValue]:
    x = low[op.operands[0]]
    shape: Shape = low.shape(x)
    axes = list(range(len(shape)))
    element = low.result_element(op)
    bottom = fold(low, [x], axes, f32, 0.0, lambda v, acc: v.minimum(acc))
    top = fold(low, [x], axes, f32, 0.0, lambda v, acc: v.maximum(acc))
    scale = low.map(lambda a, b: (b - a) / 255.0, [bottom, top], (), f32)

    def zero_point(a: Scalar, s: Scalar) -> Scalar:
        return ((-a) / s).clamp(0.0, 255.0).round_even().as_integer(element, True)

    zero = low.map(zero_point, [bottom, scale], (), element)
    result = low.map(
        lambda v, s, z: rounded(v / s, z, element, True), [x, scale, zero], shape, element, unsigned=[False, False, True]
    )  # fmt: skip
    return [result, scale, zero]


def _requantized(
    low: Lowering, op: Any, total: SSAValue, scales: list[Any], zero: SSAValue, axes: tuple[int | None, int | None]
) -> SSAValue:  # fmt: skip
    """
    i32 sums in units of the first two of `scales`, which may be one for each index of their axis, as integers in units of
    the third.
    """
    element, unsigned = low.result_element(op), is_unsigned(op.results[0].type.element_type)
    shape = low.shape(total)
    parameters = [
        parameter(low, v, shape, axis) for v, axis in zip((*scales, zero), (*axes, None, None), strict=True)
    ]
    inputs, at = [total, *(v for v, _ in parameters)], [dims(len(shape)), *(place for _, place in parameters)]

    def body(v: Scalar, a: Scalar, b: Scalar, y: Scalar, z: Scalar) -> Scalar:
        factor = a.cast(f32) * b.cast(f32) / y.cast(f32)
        return rounded(v.cast(f32) * factor, z, element, unsigned)

    return low.map(body, inputs, shape, element, at=at, unsigned=[False] * 4 + [unsigned])


@lowers("qlinear_matmul")
def _qlinear_matmul(low: Lowering, op: Any) -> SSAValue:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = low.operands(op)
    flags = low.unsigned(op)
    a = to_i32(low, a, flags[0], a_zero, flags[2], low.rank(a) - 2)
    b = to_i32(low, b, flags[3], b_zero, flags[5], low.rank(b) - 1)
    total = matmul(low, a, b)
    columns = int(low.rank(b) > 1)
    axes = (
        low.rank(total) - 1 - columns if low.rank(a) > 1 else None,
        low.rank(total) - 1 if columns else None,
    )
    return _requantized(low, op, total, [a_scale, b_scale, y_scale], y_zero, axes)


@lowers("qlinear_conv")
def _qlinear_conv(low: Lowering, op: Any) -> SSAValue:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = [*low.operands(op), None][:9]
    flags = low.unsigned(op)
    x = to_i32(low, x, flags[0], x_zero, flags[2])
    w = to_i32(low, w, flags[3], w_zero, flags[5], 0)
    total, last = convolution(low, op, x, w)
    total = add_bias(low, total, bias)
    result = _requantized(low, op, total, [x_scale, w_scale, y_scale], y_zero, (None, low.rank(total) - 1))
    return result if last else to_channels_first(low, result)
