"""
Element types that no machine computes on: floats of 8 bits and less, integers of 4 and 2. Below graph they are `i8`,
one element a byte (the bits of a smaller one in its low end, zeros above), and casts are written out in `arith`.
"""

from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    IntegerType,
    Signedness,
    f4E2M1FN,
    f8E4M3FN,
    f8E4M3FNUZ,
    f8E5M2,
    f8E5M2FNUZ,
    f8E8M0FNU,
    f32,
    i8,
    i32,
)
from xdsl.ir import Attribute

from stepwell.conversion.graph_to_linalg.scalar import Scalar


@dataclass(frozen=True)
class Format:
    """A small float: sign, `exponent` and `mantissa` bits; codes beyond `largest` are infinity or NaN."""

    exponent: int
    mantissa: int
    bias: int
    largest: int
    """The code of the largest finite number, without sign."""
    infinity: int | None = None
    nan: int | None = None
    unsigned_zero: bool = False
    """Zero has no sign: the code of -0 is the only NaN."""

    @property
    def bits(self) -> int:
        return self.exponent + self.mantissa


FORMATS: dict[Attribute, Format] = {
    f8E4M3FN: Format(4, 3, 7, 0x7E, nan=0x7F),
    f8E4M3FNUZ: Format(4, 3, 8, 0x7F, nan=0x80, unsigned_zero=True),
    f8E5M2: Format(5, 2, 15, 0x7B, infinity=0x7C, nan=0x7E),
    f8E5M2FNUZ: Format(5, 2, 16, 0x7F, nan=0x80, unsigned_zero=True),
    f4E2M1FN: Format(2, 1, 1, 0x7),
}

MOVES = frozenset(
    f"graph.{name}"
    for name in """
        bit_cast cast cast_like compress concat concat_from_sequence constant constant_of_shape depth_to_space dequantize_linear expand
        flatten gather gather_elements gather_nd identity if loop quantize_linear reshape reverse_sequence scan
        optional optional_get_element optional_has_element scatter_elements scatter_nd sequence_at
        sequence_construct sequence_empty sequence_erase sequence_insert sequence_length split_to_sequence shape size slice space_to_depth split squeeze tensor_scatter tile transpose
        trilu unsqueeze where
    """.split()
)
"""Operators that convert these types, or only move them."""


def is_small(element: Attribute) -> bool:
    """Whether elements of this type of the graph are kept as bytes."""
    if isinstance(element, IntegerType):
        return 1 < element.width.data < 8
    return element in FORMATS or element == f8E8M0FNU


def decoded(x: Scalar, element: Attribute) -> Scalar:
    """The number in a byte: an `f32`, or an `i32`."""
    if isinstance(element, IntegerType):
        width = element.width.data
        wide = Scalar(x.body, x.value, True).as_integer(i32, True)
        if element.signedness.data == Signedness.UNSIGNED:
            return wide & ((1 << width) - 1)
        up = wide.shifted(32 - width, True)
        return x.body.wrap(x.body.add(arith.ShRSIOp(up.value, up.lift(32 - width).value)))
    code = Scalar(x.body, x.value, True).as_integer(i32, True)
    code.unsigned = False
    select = x.body.select
    if element == f8E8M0FNU:
        # 2^(code - 127): the exponent field of an f32, but for the ends
        bits = select(code.equals(0), 0x00400000, code.shifted(23, True))
        return _as_float(select(code.equals(0xFF), 0x7FC00000, bits))
    form = FORMATS[element]
    rest = code & ((1 << form.bits) - 1)
    # As an f32 of the same fields it is too small by 2^(127 - bias), subnormal numbers included.
    number = _as_float(rest.shifted(23 - form.mantissa, True)) * float(2.0 ** (127 - form.bias))
    sign = (code.shifted(31 - form.bits, True)) & -(1 << 31)
    bits = _bits_of(number) | sign
    if form.infinity is not None:
        bits = select(rest.equals(form.infinity), sign | 0x7F800000, bits)
        bits = select(rest.above(form.infinity), sign | 0x7FC00000, bits)
    elif form.nan is not None:
        bits = select((code if form.unsigned_zero else rest).equals(form.nan), sign | 0x7FC00000, bits)
    return _as_float(bits)


def encoded(x: Scalar, element: Attribute, saturate: bool = True, round_mode: str = "up") -> Scalar:
    """The byte of a number: as an integer modulo `2^width`, as a float rounded to nearest with ties to even."""
    if isinstance(element, IntegerType):
        width = element.width.data
        return (x.as_integer(i32, False) & ((1 << width) - 1)).as_integer(i8, True)
    x = x.as_float(f32)
    if element == f8E8M0FNU:
        return _exponent_of(x, saturate, round_mode)
    form = FORMATS[element]
    select = x.body.select
    bits = _bits_of(x)
    sign = (Scalar(x.body, bits.value, True).shifted(31 - form.bits, False)) & (1 << form.bits)
    sign.unsigned = False
    magnitude = bits & 0x7FFFFFFF
    drop = 23 - form.mantissa
    # Half of what is dropped, less one where the last kept bit is even, carries exactly where it is to round up.
    odd = _right(magnitude, drop) & 1
    normal = _right(magnitude + odd + ((1 << (drop - 1)) - 1), drop) - ((127 - form.bias) << form.mantissa)
    # Subnormal: adding a power of two whose last place is theirs rounds, and leaves the code in the low bits.
    power = (127 + 24 - form.bias - form.mantissa) << 23
    anchor = _as_float(x.body.constant(power, i32))
    small = _bits_of(_as_float(magnitude) + anchor) - power
    code = select(magnitude.below((128 - form.bias) << 23), small, normal)
    infinite = 0x7F800000
    beyond = code.above(form.largest) | magnitude.at_least(infinite)
    if saturate or (form.infinity is None and form.nan is None):
        held: Scalar | int = form.largest
    else:
        held = form.infinity if form.infinity is not None else form.nan  # pyright: ignore
    code = select(beyond, held, code)
    code = code | (select(code.equals(0), 0, sign) if form.unsigned_zero else sign)
    if form.unsigned_zero and not saturate:
        code = select(beyond, form.nan, code)  # pyright: ignore
    # A format without NaN has -0 in its place.
    nan = 1 << form.bits if form.nan is None else form.nan
    marked = code.lift(nan) if form.unsigned_zero or form.nan is None else sign | nan
    code = select(magnitude.above(infinite), marked, code)
    return code.as_integer(i8, True)


def _exponent_of(x: Scalar, saturate: bool, round_mode: str) -> Scalar:
    """The code of a number as a power of two: its exponent, rounded."""
    select = x.body.select
    bits = _bits_of(x)
    magnitude = bits & 0x7FFFFFFF
    # 2^-127, the smallest code, is a subnormal f32; multiplied by 2^32 every such number has an exponent field.
    scaled = _bits_of(_as_float(magnitude) * float(2.0**32))
    exponent = select(magnitude.below(1 << 23), _right(scaled, 23) - 32, _right(magnitude, 23))
    mantissa = select(magnitude.below(1 << 23), scaled, magnitude) & 0x7FFFFF
    if round_mode == "up":
        exponent = exponent + select(mantissa.above(0), x.body.constant(1, i32), 0)
    elif round_mode == "nearest":
        exponent = exponent + select(mantissa.at_least(0x400000), x.body.constant(1, i32), 0)
    nothing = 0 if saturate else 0xFF
    code = select(exponent.below(0), 0 if saturate else 0xFF, exponent)
    code = select(code.above(0xFE), 0xFE if saturate else 0xFF, code)
    code = select(magnitude.equals(0), nothing, code)
    return select(magnitude.above(0x7F800000), 0xFF, code).as_integer(i8, True)


def _right(x: Scalar, by: int) -> Scalar:
    """A logical shift to the right."""
    return x.body.wrap(x.body.add(arith.ShRUIOp(x.value, x.lift(by).value)))


def _as_float(bits: Scalar) -> Scalar:
    return bits.body.wrap(bits.body.add(arith.BitcastOp(bits.value, f32)))


def _bits_of(x: Scalar) -> Scalar:
    return x.body.wrap(x.body.add(arith.BitcastOp(x.value, i32)))
