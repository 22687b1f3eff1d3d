"""Turn f32 `math` into polynomials of `arith`, and what has none into calls of the C library lane by lane.

Largest errors, in units in the last place, are held by `tests/unit/transforms/test_expand_math.py` over the whole
range of f32, special values and denormals included. f16 and bf16 go through f32; f64 uses the C library.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects import arith, memref, scf, vector
from xdsl.dialects import math as mathd
from xdsl.dialects.builtin import (
    BFloat16Type,
    BoolAttr,
    DenseArrayBase,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    VectorType,
    f32,
    f64,
    i1,
    i32,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.arith import CmpfOp, CmpiOp, FPToSIOp, SelectOp, SIToFPOp
from stepwell.rewriting import may_rewrite, note_rewrite

_INDEX = IndexType()
_NONE = {"fastmath": arith.FastMathFlagsAttr("none")}
_WRAP = {"overflowFlags": arith.IntegerOverflowAttr("none")}
_FCMP = {"oeq": 1, "ogt": 2, "oge": 3, "olt": 4, "ole": 5, "one": 6, "une": 13}
_ICMP = {"eq": 0, "ne": 1, "slt": 2}

_MAGIC, _MAGIC_BITS = 12582912.0, 0x4B400000
"""1.5 * 2^23: a small float plus this has its nearest integer in the low bits of the mantissa."""


class _Builder:
    """Emits `arith` in front of an op, on scalars or vectors alike."""

    def __init__(self, entry: Block):
        self.entry = entry
        self.block = entry
        self.at: Operation | None = None
        self.location: Any = None
        self.constants: dict[Attribute, SSAValue] = {}

    def emit(self, cls: type[Operation], operands: list[SSAValue], type: Attribute,
             properties: Mapping[str, Attribute] | None = None) -> SSAValue:  # fmt: skip
        op = cls.create(
            operands=operands, result_types=(type,), properties=properties or {}, location=self.location
        )
        self.insert(op)
        return op.results[0]

    def insert(self, op: Operation) -> None:
        if self.at is None:
            self.block.add_op(op)
        else:
            self.block.insert_op_before(op, self.at)

    def constant(self, value: float, type: Attribute) -> SSAValue:
        """A scalar or splat, in the entry block, one a function."""
        element = type.element_type if isinstance(type, VectorType) else type
        if isinstance(type, VectorType):
            attr: Attribute = DenseAttr.from_list(type, [value])  # pyright: ignore
        elif isinstance(element, Float32Type | Float64Type):
            attr = FloatAttr(value, element)
        else:
            attr = IntegerAttr(int(value), element)  # pyright: ignore
        if attr not in self.constants:
            op = arith.ConstantOp.create(properties={"value": attr}, result_types=(type,))
            first = self.entry.first_op
            assert first is not None, "a function has a terminator"
            self.entry.insert_op_before(op, first)
            self.constants[attr] = op.results[0]
        return self.constants[attr]

    def lift(self, value: "float | SSAValue", like: SSAValue) -> SSAValue:
        return value if isinstance(value, SSAValue) else self.constant(value, like.type)

    # floats

    def add(self, a: SSAValue, b: float | SSAValue) -> SSAValue:
        return self.emit(arith.AddfOp, [a, self.lift(b, a)], a.type, _NONE)

    def sub(self, a: float | SSAValue, b: SSAValue) -> SSAValue:
        return self.emit(arith.SubfOp, [self.lift(a, b), b], b.type, _NONE)

    def mul(self, a: SSAValue, b: float | SSAValue) -> SSAValue:
        return self.emit(arith.MulfOp, [a, self.lift(b, a)], a.type, _NONE)

    def div(self, a: float | SSAValue, b: SSAValue) -> SSAValue:
        return self.emit(arith.DivfOp, [self.lift(a, b), b], b.type, _NONE)

    def fma(self, a: SSAValue, b: float | SSAValue, c: float | SSAValue) -> SSAValue:
        operands = [a, self.lift(b, a), self.lift(c, a)]
        if isinstance(a.type, VectorType):
            return self.emit(vector.FMAOp, operands, a.type)
        return self.emit(mathd.FmaOp, operands, a.type, _NONE)

    def neg(self, a: SSAValue) -> SSAValue:
        return self.emit(arith.NegfOp, [a], a.type, _NONE)

    def unary(self, cls: type[Operation], a: SSAValue) -> SSAValue:
        return self.emit(cls, [a], a.type, _NONE)

    def abs(self, a: SSAValue) -> SSAValue:
        return self.unary(mathd.AbsFOp, a)

    def copysign(self, a: SSAValue, sign: SSAValue) -> SSAValue:
        return self.emit(mathd.CopySignOp, [a, sign], a.type, _NONE)

    def horner(self, x: SSAValue, coefficients: list[float]) -> SSAValue:
        """The polynomial in `x`, highest power first, by fused steps."""
        result = self.constant(coefficients[0], x.type)
        for coefficient in coefficients[1:]:
            result = self.fma(result, x, coefficient)
        return result

    # conditions

    def like(self, type: Attribute, element: Attribute) -> Attribute:
        return VectorType(element, type.shape) if isinstance(type, VectorType) else element

    def compare(self, predicate: str, a: SSAValue, b: float | SSAValue) -> SSAValue:
        properties = {"predicate": IntegerAttr(_FCMP[predicate], i64), **_NONE}
        return self.emit(CmpfOp, [a, self.lift(b, a)], self.like(a.type, i1), properties)

    def icompare(self, predicate: str, a: SSAValue, b: float | SSAValue) -> SSAValue:
        properties = {"predicate": IntegerAttr(_ICMP[predicate], i64)}
        return self.emit(CmpiOp, [a, self.lift(b, a)], self.like(a.type, i1), properties)

    def select(self, condition: SSAValue, a: float | SSAValue, b: float | SSAValue) -> SSAValue:
        known = a if isinstance(a, SSAValue) else b
        assert isinstance(known, SSAValue), "a select between two constants needs no op"
        left, right = self.lift(a, known), self.lift(b, known)
        return self.emit(SelectOp, [condition, left, right], left.type)

    def both(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.emit(arith.AndIOp, [a, b], a.type)

    # bits

    def bits(self, a: SSAValue) -> SSAValue:
        wide = a.type.element_type if isinstance(a.type, VectorType) else a.type
        return self.emit(arith.BitcastOp, [a], self.like(a.type, i64 if wide == f64 else i32))

    def float_of(self, a: SSAValue, element: Attribute = f32) -> SSAValue:
        return self.emit(arith.BitcastOp, [a], self.like(a.type, element))

    def iadd(self, a: SSAValue, b: int | SSAValue) -> SSAValue:
        return self.emit(arith.AddiOp, [a, self.lift(b, a)], a.type, _WRAP)

    def isub(self, a: SSAValue, b: int | SSAValue) -> SSAValue:
        return self.emit(arith.SubiOp, [a, self.lift(b, a)], a.type, _WRAP)

    def shl(self, a: SSAValue, by: int) -> SSAValue:
        return self.emit(arith.ShLIOp, [a, self.lift(by, a)], a.type, _WRAP)

    def sar(self, a: SSAValue, by: int) -> SSAValue:
        return self.emit(arith.ShRSIOp, [a, self.lift(by, a)], a.type)

    def iand(self, a: SSAValue, b: int) -> SSAValue:
        return self.emit(arith.AndIOp, [a, self.lift(b, a)], a.type)

    def to_float(self, a: SSAValue, element: Attribute = f32) -> SSAValue:
        return self.emit(SIToFPOp, [a], self.like(a.type, element))

    def rounded(self, x: SSAValue, factor: float, bias: int = 0) -> tuple[SSAValue, SSAValue]:
        """
        The nearest integer to `x * factor`, |it| < 2^22: in the low bits of an i32, with `bias` added, and as a float.
        """
        shifted = self.fma(x, factor, _MAGIC + bias)
        return self.bits(shifted), self.add(shifted, -_MAGIC - bias)

    def nearest(self, x: SSAValue, factor: float) -> tuple[SSAValue, SSAValue]:
        """The nearest integer to `x * factor`, |it| < 2^22, as an i32 and as a float."""
        low, number = self.rounded(x, factor)
        return self.isub(low, _MAGIC_BITS), number

    def clamp(self, x: SSAValue, low: float, high: float) -> SSAValue:
        """`x` between two bounds; NaN stays NaN."""
        x = self.select(self.compare("ogt", x, high), high, x)
        return self.select(self.compare("olt", x, low), low, x)

    def power_of_two(self, exponent: SSAValue) -> SSAValue:
        """2^exponent for -126 <= exponent <= 127."""
        return self.float_of(self.shl(self.iadd(exponent, 127), 23))


# --- exponentials ----------------------------------------------------------------------------------

_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
_LOG2E = 1.4426950408889634
_EXP = [1.38206338e-3, 8.36867373e-3, 4.16682661e-2, 1.66665211e-1, 4.99999940e-1]
"""exp(r) ~ 1 + r + r^2 P(r) on [-ln2/2, ln2/2], minimax with coefficients of f32: within 2^-28.2 of it."""


def _scaled(b: _Builder, value: SSAValue, exponent: SSAValue) -> SSAValue:
    """value * 2^exponent in two steps, so that denormals and infinity come out right."""
    half = b.sar(exponent, 1)
    return b.mul(b.mul(value, b.power_of_two(half)), b.power_of_two(b.isub(exponent, half)))


def _reduced(b: _Builder, x: SSAValue, bias: int = 0) -> tuple[SSAValue, SSAValue]:
    """x = n ln2 + r, |r| <= ln2 / 2: n + `bias` in the low bits of an i32, and r."""
    low, n = b.rounded(x, _LOG2E, bias)
    r = b.fma(n, -_LN2_HIGH, x)
    return low, b.fma(n, -_LN2_LOW, r)


def _exp(b: _Builder, x: SSAValue, least: float = -math.inf, most: float = math.inf) -> SSAValue:
    """`least` and `most`: bounds of `x` that are known. The bits of the result are the same with and without them."""
    if most > 89:
        x = b.select(b.compare("ogt", x, 89.0), 89.0, x)
    if least < -104:
        x = b.select(b.compare("olt", x, -104.0), -104.0, x)
    # Its bias makes the rounded number the exponent of a power of two, at no cost.
    bias = 127 if least >= -87 and most <= 88 else 127 + 64 if most <= 43 else 0
    low, r = _reduced(b, x, bias)
    value = b.horner(r, [*_EXP, 1.0, 1.0])
    if not bias:
        return _scaled(b, value, b.isub(low, _MAGIC_BITS))
    value = b.mul(value, b.float_of(b.shl(low, 23)))
    return (
        value if bias == 127 else b.mul(value, 2.0**-64)
    )  # the first product is exact, the second rounds once


def _upper_bound(x: SSAValue) -> float:
    """A bound that the op behind `x` tells; infinity where it tells none. `x` may be NaN all the same."""
    op = x.owner
    if isinstance(op, arith.MinimumfOp):
        return min((bound for v in op.operands if (bound := _splat_of(v)) is not None), default=math.inf)
    negative = op.operands[0] if isinstance(op, arith.NegfOp) else None
    if isinstance(op, arith.MulfOp):
        for factor, other in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            if (constant := _splat_of(factor)) is not None and constant < 0:
                negative = other
    if negative is None:
        return math.inf
    owner = negative.owner
    is_square = isinstance(owner, arith.MulfOp) and owner.lhs is owner.rhs
    return 0.0 if is_square or isinstance(owner, mathd.AbsFOp) else math.inf


def _exp2(b: _Builder, x: SSAValue) -> SSAValue:
    x = b.clamp(x, -151.0, 129.0)
    integer, n = b.nearest(x, 1.0)
    r = b.mul(b.emit(arith.SubfOp, [x, n], x.type, _NONE), math.log(2))
    tail = b.fma(b.mul(r, r), b.horner(r, _EXP), r)
    return _scaled(b, b.add(tail, 1.0), integer)


def _expm1(b: _Builder, x: SSAValue) -> SSAValue:
    """2^n (e^r - 1) + (2^n - 1): no cancellation near 0; beyond 2^24 the 1 does not count."""
    low, r = _reduced(b, b.clamp(x, -30.0, 40.0), 127)
    tail = b.fma(b.mul(r, r), b.horner(r, _EXP), r)
    scale = b.float_of(b.shl(low, 23))
    one = b.constant(-1.0, x.type)
    small = b.fma(tail, scale, b.add(scale, one))
    result = b.select(b.compare("ogt", x, 40.0), _exp(b, x), small)
    return b.select(b.compare("oeq", x, 0.0), x, result)


# --- logarithms ------------------------------------------------------------------------------------

_LOG = [
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
]  # fmt: skip
"""log(1 + z) ~ z - z^2 / 2 + z^3 P(z) for 1 + z in [sqrt(1/2), sqrt(2)] (Cephes, logf)."""
_SQRT_HALF_BITS = 0x3F3504F3


def _split(b: _Builder, x: SSAValue) -> tuple[SSAValue, SSAValue]:
    """x = 2^e (1 + z): e as a float, and z. Denormals are scaled up first."""
    tiny = b.compare("olt", x, 2.0**-126)
    scaled = b.select(tiny, b.mul(x, 2.0**23), x)
    bits = b.bits(scaled)
    exponent = b.sar(b.isub(bits, _SQRT_HALF_BITS), 23)
    mantissa = b.float_of(b.isub(bits, b.shl(exponent, 23)))
    e = b.to_float(exponent)
    return b.select(tiny, b.add(e, -23.0), e), b.add(mantissa, -1.0)


def _log_edges(b: _Builder, x: SSAValue, result: SSAValue) -> SSAValue:
    """log(0) = -inf, log(inf) = inf, log(x < 0) = NaN, log(NaN) = NaN."""
    result = b.select(b.compare("oeq", x, math.inf), math.inf, result)
    result = b.select(b.compare("oeq", x, 0.0), -math.inf, result)
    return b.select(b.compare("oge", x, 0.0), result, math.nan)


def _log_core(b: _Builder, z: SSAValue) -> tuple[SSAValue, SSAValue]:
    """log(1 + z) = z + tail."""
    square = b.mul(z, z)
    cubic = b.mul(b.mul(square, z), b.horner(z, _LOG))
    return z, b.fma(square, -0.5, cubic)


def _log_positive(b: _Builder, x: SSAValue) -> SSAValue:
    e, z = _split(b, x)
    z, tail = _log_core(b, z)
    tail = b.fma(e, -2.12194440e-4, tail)
    return b.fma(e, 0.693359375, b.add(z, tail))


def _log(b: _Builder, x: SSAValue) -> SSAValue:
    return _log_edges(b, x, _log_positive(b, x))


def _log2(b: _Builder, x: SSAValue) -> SSAValue:
    e, z = _split(b, x)
    z, tail = _log_core(b, z)
    high = 1.44269502162933349609375
    low = b.mul(b.add(z, tail), _LOG2E - high)
    fine = b.fma(tail, high, low)
    return _log_edges(b, x, b.add(b.fma(z, high, fine), e))


def _log10(b: _Builder, x: SSAValue) -> SSAValue:
    e, z = _split(b, x)
    z, tail = _log_core(b, z)
    high = 0.434294492006301879883
    low = b.fma(e, math.log10(2) - 0.30103001, b.mul(b.add(z, tail), math.log10(math.e) - high))
    fine = b.fma(tail, high, low)
    return _log_edges(b, x, b.fma(e, 0.30103001, b.fma(z, high, fine)))


def _log1p(b: _Builder, x: SSAValue) -> SSAValue:
    """log(u) x / (u - 1) with u = 1 + x rounded (Kahan): the error of u cancels."""
    u = b.add(x, 1.0)
    ratio = b.div(x, b.add(u, -1.0))
    result = b.mul(_log(b, u), ratio)
    result = b.select(b.compare("oeq", u, 1.0), x, result)
    return b.select(b.compare("oeq", x, math.inf), math.inf, result)


# --- hyperbolic tangent and the error function --------------------------------------------------------

_TANH = [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1]
"""tanh(x) ~ x + x^3 P(x^2) for |x| <= 0.625 (Cephes, tanhf)."""


def _tanh(b: _Builder, x: SSAValue) -> SSAValue:
    size, square = b.abs(x), b.mul(x, x)
    small = b.fma(b.mul(square, size), b.horner(square, _TANH), size)
    double = b.add(size, size)  # the result is 1 long before 60
    exponential = _exp(b, b.select(b.compare("ogt", double, 60.0), 60.0, double), 0, 60)
    large = b.sub(1.0, b.div(2.0, b.add(exponential, 1.0)))
    return b.copysign(b.select(b.compare("ogt", size, 0.625), large, small), x)


_ERF_SMALL = [-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1]
"""erf(x) ~ x + x P(x^2) for |x| <= 0.927734375."""


def _erf(b: _Builder, x: SSAValue) -> SSAValue:
    """erf(x) = 1 - exp(-|x| - |x| Q(|x|)) for larger |x|."""
    size, square = b.abs(x), b.mul(x, x)
    small = b.fma(b.horner(square, _ERF_SMALL), x, x)
    t = b.select(b.compare("ogt", size, 4.0), 4.0, size)
    s = b.mul(t, t)
    r = b.fma(b.constant(-1.72853470e-5, x.type), t, 3.83197126e-4)
    u = b.fma(b.constant(-3.88396438e-3, x.type), t, 2.42546219e-2)
    r = b.fma(r, s, u)
    for coefficient in (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1):
        r = b.fma(r, t, coefficient)
    r = b.fma(r, t, b.neg(t))
    large = b.copysign(b.sub(1.0, _exp(b, r, -20, 0)), x)
    return b.select(b.compare("ogt", size, 0.927734375), large, small)


# --- trigonometry ----------------------------------------------------------------------------------

_TRIG_LIMIT = 48039.0
"""Beyond this the three-part pi/2 runs out of bits, and the C library is asked."""
_SIN = [2.86567956e-6, -1.98559923e-4, 8.33338592e-3, -1.66666672e-1]
_COS = [2.44677067e-5, -1.38877297e-3, 4.16666567e-2, -5.00000000e-1, 1.0]


def _quadrant(b: _Builder, x: SSAValue) -> tuple[SSAValue, SSAValue, SSAValue]:
    """x = q pi/2 + r: q as i32, sin r, cos r."""
    q, j = b.nearest(x, 0.636619747)
    r = b.fma(j, -1.57079601e00, x)
    r = b.fma(j, -3.13916473e-07, r)
    r = b.fma(j, -5.39030253e-15, r)
    s = b.mul(r, r)
    return q, b.fma(b.horner(s, _SIN), b.mul(r, s), r), b.horner(s, _COS)


def _trig(shift: int) -> Callable[[_Builder, SSAValue], SSAValue]:
    """sin(x + shift pi/2)."""

    def expand(b: _Builder, x: SSAValue) -> SSAValue:
        q, sin, cos = _quadrant(b, x)
        if shift:
            q = b.iadd(q, shift)
        odd = b.icompare("ne", b.iand(q, 1), 0)
        value = b.select(odd, cos, sin)
        negative = b.icompare("ne", b.iand(q, 2), 0)
        value = b.select(negative, b.neg(value), value)
        return value if shift else b.select(b.compare("oeq", x, 0.0), x, value)

    return expand


def _tan(b: _Builder, x: SSAValue) -> SSAValue:
    q, sin, cos = _quadrant(b, x)
    odd = b.icompare("ne", b.iand(q, 1), 0)
    value = b.div(b.select(odd, b.neg(cos), sin), b.select(odd, sin, cos))
    return b.select(b.compare("oeq", x, 0.0), x, value)


# --- powers ----------------------------------------------------------------------------------------


def _widen(b: _Builder, x: SSAValue) -> SSAValue:
    return b.emit(arith.ExtFOp, [x], b.like(x.type, f64))


def _log2_double(b: _Builder, x: SSAValue) -> SSAValue:
    """log2 of a normal positive f64, to 2^-44: log(m) = 2 atanh(s), s = (m - 1) / (m + 1)."""
    bits = b.bits(x)
    exponent = b.sar(b.isub(bits, 0x3FE6A09E667F3BCD), 52)
    mantissa = b.float_of(b.isub(bits, b.shl(exponent, 52)), f64)
    s = b.div(b.add(mantissa, -1.0), b.add(mantissa, 1.0))
    square = b.mul(s, s)
    series = b.horner(square, [2 * _LOG2E / k for k in range(17, 0, -2)])
    return b.fma(s, series, b.to_float(exponent, f64))


def _exp2_double(b: _Builder, x: SSAValue) -> SSAValue:
    """2^x for |x| <= 200, to 2^-44."""
    n = b.unary(mathd.RoundEvenOp, x)
    r = b.mul(b.emit(arith.SubfOp, [x, n], x.type, _NONE), math.log(2))
    value = b.horner(r, [1 / math.factorial(k) for k in range(11, -1, -1)])
    whole = b.emit(FPToSIOp, [n], b.like(x.type, i64))
    return b.mul(value, b.float_of(b.shl(b.iadd(whole, 1023), 52), f64))


def _power(b: _Builder, x: SSAValue, y: SSAValue) -> SSAValue:
    """2^(y log2 |x|) in f64, rounded once; then the sign and the cases that C's `pow` lists."""
    size = b.abs(x)
    logarithm = _log2_double(b, _widen(b, size))
    zero, infinite = b.compare("oeq", size, 0.0), b.compare("oeq", size, math.inf)
    logarithm = b.select(zero, -math.inf, b.select(infinite, math.inf, logarithm))
    exponent = b.clamp(b.mul(logarithm, _widen(b, y)), -200.0, 200.0)
    result = b.emit(arith.TruncFOp, [_exp2_double(b, exponent)], x.type)
    result = b.select(b.compare("oeq", x, x), result, x)
    whole = b.compare("oeq", b.unary(mathd.TruncOp, y), y)
    half = b.mul(y, 0.5)
    odd = b.both(whole, b.compare("one", b.unary(mathd.TruncOp, half), half))
    negative = b.icompare("slt", b.bits(x), 0)
    result = b.select(b.both(negative, odd), b.neg(result), result)
    fractional = b.compare("one", b.unary(mathd.TruncOp, y), y)
    undefined = b.both(b.both(b.compare("olt", x, 0.0), b.compare("one", x, -math.inf)), fractional)
    result = b.select(undefined, math.nan, result)
    y_infinite = b.compare("oeq", b.abs(y), math.inf)
    result = b.select(b.both(b.compare("oeq", size, 1.0), y_infinite), 1.0, result)
    result = b.select(b.compare("oeq", x, 1.0), 1.0, result)
    return b.select(b.compare("oeq", y, 0.0), 1.0, result)


def _splat_of(value: SSAValue) -> float | None:
    owner = value.owner
    if not isinstance(owner, Operation):
        return None
    if owner.name == "vector.broadcast":
        return _splat_of(owner.operands[0])
    attr = owner.properties.get("value") if owner.name == "arith.constant" else None
    if isinstance(attr, FloatAttr):
        return attr.value.data
    if isinstance(attr, DenseAttr):
        values = set(attr.get_values())
        return float(values.pop()) if len(values) == 1 else None  # pyright: ignore
    return None


def _pow(b: _Builder, x: SSAValue, y: SSAValue) -> SSAValue:
    """x^1, x^2, x^3, x^-1 and x^(1/2) need no logarithm; the last is +0 at -0 and inf at -inf."""
    match _splat_of(y):
        case 1.0:
            return x
        case 2.0:
            return b.mul(x, x)
        case 3.0:
            return b.mul(b.mul(x, x), x)
        case -1.0:
            return b.div(1.0, x)
        case 0.5:
            root = b.unary(mathd.SqrtOp, b.add(x, 0.0))
            return b.select(b.compare("oeq", x, -math.inf), math.inf, root)
    return _power(b, x, y)


_UNARY: dict[str, Callable[[_Builder, SSAValue], SSAValue]] = {
    "math.exp": lambda b, x: _exp(b, x, most=_upper_bound(x)),
    "math.exp2": _exp2,
    "math.expm1": _expm1,
    "math.log": _log,
    "math.log2": _log2,
    "math.log10": _log10,
    "math.log1p": _log1p,
    "math.tanh": _tanh,
    "math.erf": _erf,
    "math.sin": _trig(0),
    "math.cos": _trig(1),
    "math.tan": _tan,
}
_LIMITED = {"math.sin": _TRIG_LIMIT, "math.cos": _TRIG_LIMIT, "math.tan": _TRIG_LIMIT}
"""Expansions that hold up to an absolute value; beyond it, the C library."""

_LIBRARY = frozenset(
    f"math.{name}"
    for name in (
        "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cosh", "erfc", "sinh",
    )
)  # fmt: skip
_NARROW = (BFloat16Type, Float16Type)


def _element(type: Attribute) -> Attribute:
    return type.element_type if isinstance(type, VectorType) else type


def _by_lanes(b: _Builder, op: Operation, operands: list[SSAValue]) -> SSAValue:
    """The scalar op on each lane, in a loop through memory: a call a lane, but few ops."""
    type = operands[0].type
    cls = op.__class__
    if not isinstance(type, VectorType):
        return b.emit(cls, operands, type, dict(op.properties))
    (width,) = type.get_shape()
    room = MemRefType(type.element_type, [width])
    zero, one, end = (b.constant(value, _INDEX) for value in (0, 1, width))
    segments: dict[str, Attribute] = {"operandSegmentSizes": _segments(0, 0)}
    plain: dict[str, Attribute] = {"nontemporal": BoolAttr.from_bool(False)}
    rooms = []
    for value in operands:
        alignment = {"alignment": IntegerAttr(64, i64)}
        place = b.emit(memref.AllocaOp, [], room, {**segments, **alignment})
        b.insert(vector.StoreOp.create(operands=[value, place, zero], properties=plain))
        rooms.append(place)
    body = Block(arg_types=[_INDEX])
    lane = body.args[0]
    loads = [memref.LoadOp.create(operands=[r, lane], result_types=[type.element_type], properties=plain)
             for r in rooms]  # fmt: skip
    value = cls.create(
        operands=[load.results[0] for load in loads],
        result_types=[type.element_type],
        properties=op.properties,
    )
    store = memref.StoreOp.create(operands=[value.results[0], rooms[0], lane], properties=plain)
    body.add_ops([*loads, value, store, scf.YieldOp()])
    loop = scf.ForOp.create(operands=[zero, end, one], regions=[Region([body])])
    for inner in (loop, *loads, value, store):
        inner.location = b.location
    b.insert(loop)
    return b.emit(vector.LoadOp, [rooms[0], zero], type, plain)


def _segments(*sizes: int) -> Attribute:
    return DenseArrayBase.from_list(i32, list(sizes))


def _guarded(b: _Builder, op: Operation, x: SSAValue, limit: float) -> SSAValue:
    """The polynomial; where a lane is beyond `limit`, the C library for such lanes (and for no others)."""
    value = _UNARY[op.name](b, x)
    outside = b.compare("ogt", b.abs(x), limit)
    some = outside
    if isinstance(outside.type, VectorType):
        properties: dict[str, Attribute] = {
            "kind": vector.CombiningKindAttr(vector.CombiningKindFlag.OR),
            "fastmath": arith.FastMathFlagsAttr("none"),
        }
        some = b.emit(vector.ReductionOp, [outside], i1, properties)
    saved = b.block, b.at
    slow, fast = Block(), Block([scf.YieldOp(value)])
    b.block, b.at = slow, None
    slow.add_op(scf.YieldOp(b.select(outside, _by_lanes(b, op, [x]), value)))
    b.block, b.at = saved
    choice = scf.IfOp.create(
        operands=[some],
        result_types=[x.type],
        regions=[Region([slow]), Region([fast])],
        location=b.location,
    )
    b.insert(choice)
    return choice.results[0]


def _expand(b: _Builder, op: Operation) -> SSAValue | None:
    """The value of `op` by other ops; None: it stays."""
    type = op.results[0].type
    element = _element(type)
    is_known = op.name in _UNARY or op.name == "math.powf" or op.name in _LIBRARY
    if not is_known:
        return None
    if isinstance(element, _NARROW):
        wide = [b.emit(arith.ExtFOp, [value], b.like(type, f32)) for value in op.operands]
        result = _expand_single(b, op, wide)
        return b.emit(arith.TruncFOp, [result], type)
    if isinstance(element, Float32Type):
        if op.name in _LIBRARY and not isinstance(type, VectorType):
            return None
        return _expand_single(b, op, list(op.operands))
    if isinstance(type, VectorType):
        return _by_lanes(b, op, list(op.operands))
    return None


def _expand_single(b: _Builder, op: Operation, operands: list[SSAValue]) -> SSAValue:
    if op.name == "math.powf":
        return _pow(b, operands[0], operands[1])
    if op.name in _LIMITED:
        return _guarded(b, op, operands[0], _LIMITED[op.name])
    if op.name in _UNARY:
        return _UNARY[op.name](b, operands[0])
    return _by_lanes(b, op, operands)


@dataclass(frozen=True)
class ExpandMathPass(ModulePass):
    """
    `math` on f32 (and f16, bf16 through it) as polynomials; what has none, and f64 vectors, as library calls.
    Requires: vectors of rank 1 (unroll-vectors). Ensures: no transcendental `math` op on a vector is left.
    """

    name = "expand-math"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for func in op.ops:
            if func.name != "func.func" or not func.regions[0].blocks:
                continue
            builder = _Builder(func.regions[0].blocks[0])
            for inner in [inner for inner in func.walk() if inner.name.startswith("math.")]:
                assert inner.parent is not None, "an op of a function is in a block"
                builder.block, builder.at, builder.location = inner.parent, inner, inner.location
                if may_rewrite() and (value := _expand(builder, inner)) is not None:
                    inner.results[0].replace_all_uses_with(value)
                    inner.detach()
                    inner.erase()
                    note_rewrite(f"expand {inner.name}", inner.name, builder.location)
