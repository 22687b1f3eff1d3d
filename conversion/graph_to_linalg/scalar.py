"""Scalars in the body of a `linalg.generic`: Python operators that make `arith` and `math` ops."""

from collections.abc import Callable, Sequence
from math import exp
from typing import TYPE_CHECKING, Any, Union

from xdsl.dialects import arith, math, tensor
from xdsl.dialects.builtin import AnyFloat, IndexType, IntegerType, UnknownLoc, f32, f64, i1, i64
from xdsl.dialects.linalg.ops import IndexOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

if TYPE_CHECKING:
    from stepwell.conversion.graph_to_linalg.lowering import Lowering

Operand = Union["Scalar", int, float]
_INDEX = IndexType()
_SIGMOID_ZERO = -1500.0
"""Up to here e^x is 0 however large what it is multiplied by, in f64 too."""


class Body:
    """The block that is being filled, with its constants."""

    def __init__(self, block: Block, lowering: "Lowering", source: Operation | None):
        self.block = block
        self.lowering = lowering
        self._location = None if source is None else source.location
        self._constants: dict[Attribute, SSAValue] = {}
        self._indices: dict[int, SSAValue] = {}

    def add(self, op: Operation) -> SSAValue:
        if self._location is not None and isinstance(op.location, UnknownLoc):
            op.location = self._location
        self.block.add_op(op)
        return op.results[0]

    def constant(self, value: int | float, type: Attribute, unsigned: bool = False) -> "Scalar":
        from stepwell.conversion.graph_to_linalg.lowering import scalar_attr

        attribute = scalar_attr(value, type)
        found = self._constants.get(attribute)
        if found is None:
            found = self._constants[attribute] = self.add(arith.ConstantOp(attribute))
        return Scalar(self, found, unsigned)

    def index(self, dim: int) -> "Scalar":
        """The index of dim `dim` of the generic."""
        found = self._indices.get(dim)
        if found is None:
            found = self._indices[dim] = self.add(IndexOp(dim))
        return Scalar(self, found)

    def wrap(self, value: SSAValue, unsigned: bool = False) -> "Scalar":
        """A scalar of the function around."""
        return Scalar(self, value, unsigned)

    def extent(self, dim: Any) -> "Scalar":
        """An extent as an `index`."""
        if isinstance(dim, int):
            return self.constant(dim, _INDEX)
        return self.wrap(self.lowering.index(dim))

    def extract(self, value: SSAValue, indices: "Sequence[Scalar]", unsigned: bool = False) -> "Scalar":
        """An element of a tensor of the function around."""
        element = self.lowering.element(value)
        return Scalar(self, self.add(tensor.ExtractOp(value, [i.value for i in indices], element)), unsigned)

    def select(self, condition: "Scalar", a: Operand, b: Operand) -> "Scalar":
        like = a if isinstance(a, Scalar) else b
        if not isinstance(like, Scalar):
            raise TypeError("select needs a scalar on one side")
        x, y = like.lift(a), like.lift(b)
        return Scalar(self, self.add(arith.SelectOp(condition.value, x.value, y.value)), like.unsigned)

    def any_of(self, *conditions: "Scalar") -> "Scalar":
        result = conditions[0]
        for c in conditions[1:]:
            result = result | c
        return result

    def all_of(self, *conditions: "Scalar") -> "Scalar":
        result = conditions[0]
        for c in conditions[1:]:
            result = result & c
        return result

    def when(self, condition: "Scalar", then: "Callable[[Body], Scalar]", otherwise: Operand) -> "Scalar":
        """`scf.if`: the value of `then`, computed only if `condition` holds."""
        from xdsl.dialects import scf

        block, other = Block(), Block()
        inner = Body(block, self.lowering, None)
        value = then(inner)
        block.add_op(scf.YieldOp(value.value))
        if isinstance(otherwise, Scalar):
            other.add_op(scf.YieldOp(otherwise.value))
        else:
            else_body = Body(other, self.lowering, None)
            constant = else_body.constant(otherwise, value.type).value
            other.add_op(scf.YieldOp(constant))
        op = scf.IfOp(condition.value, [value.type], Region(block), Region(other))
        return Scalar(self, self.add(op), value.unsigned)

    def fit(self, value: Operand, type: Attribute) -> SSAValue:
        """`value` as one of `type`: a float of another width is converted."""
        if not isinstance(value, Scalar):
            return self.constant(value, type).value
        if value.type == type:
            return value.value
        if isinstance(value.type, AnyFloat) and isinstance(type, AnyFloat):
            return value.as_float(type).value
        raise TypeError(f"a body yields {value.type} where {type} is wanted")


class Scalar:
    """A scalar value; `unsigned` says how its integer bits are read."""

    __slots__ = ("body", "unsigned", "value")

    def __init__(self, body: Body, value: SSAValue, unsigned: bool = False):
        self.body, self.value, self.unsigned = body, value, unsigned

    @property
    def type(self) -> Attribute:
        return self.value.type

    @property
    def is_float(self) -> bool:
        return isinstance(self.value.type, AnyFloat)

    @property
    def is_bool(self) -> bool:
        return self.value.type == i1

    @property
    def bits(self) -> int:
        type = self.value.type
        return type.width.data if isinstance(type, IntegerType) else 64

    def lift(self, other: Operand) -> "Scalar":
        """`other` as a scalar of this one's type."""
        if isinstance(other, Scalar):
            return other
        return self.body.constant(other, self.type, self.unsigned)

    def _new(self, op: Operation, unsigned: bool | None = None) -> "Scalar":
        return Scalar(self.body, self.body.add(op), self.unsigned if unsigned is None else unsigned)

    def _binary(self, other: Operand, floats: Any, integers: Any, swap: bool = False) -> "Scalar":
        right = self.lift(other)
        a, b = (right, self) if swap else (self, right)
        return self._new((floats if self.is_float else integers)(a.value, b.value))

    def __add__(self, other: Operand) -> "Scalar":
        return self._binary(other, arith.AddfOp, arith.AddiOp)

    def __radd__(self, other: Operand) -> "Scalar":
        return self._binary(other, arith.AddfOp, arith.AddiOp, swap=True)

    def __sub__(self, other: Operand) -> "Scalar":
        return self._binary(other, arith.SubfOp, arith.SubiOp)

    def __rsub__(self, other: Operand) -> "Scalar":
        return self._binary(other, arith.SubfOp, arith.SubiOp, swap=True)

    def __mul__(self, other: Operand) -> "Scalar":
        return self._binary(other, arith.MulfOp, arith.MuliOp)

    def __rmul__(self, other: Operand) -> "Scalar":
        return self._binary(other, arith.MulfOp, arith.MuliOp, swap=True)

    def __neg__(self) -> "Scalar":
        return self._new(arith.NegfOp(self.value)) if self.is_float else self.lift(0) - self

    def __truediv__(self, other: Operand) -> "Scalar":
        return (
            self._new(arith.DivfOp(self.value, self.lift(other).value))
            if self.is_float
            else self.divided(other)
        )

    def __rtruediv__(self, other: Operand) -> "Scalar":
        return self.lift(other) / self

    def __and__(self, other: Operand) -> "Scalar":
        return self._new(arith.AndIOp(self.value, self.lift(other).value))

    def __or__(self, other: Operand) -> "Scalar":
        return self._new(arith.OrIOp(self.value, self.lift(other).value))

    def __xor__(self, other: Operand) -> "Scalar":
        return self._new(arith.XOrIOp(self.value, self.lift(other).value))

    def __invert__(self) -> "Scalar":
        return self ^ (1 if self.is_bool else -1)

    # x / 0 == 0 and MIN / -1 == MIN, which LLVM leaves undefined (and x86 traps)
    def _guarded(
        self, other: Operand, signed: Any, unsigned: Any, by_zero: "Operand", negated: bool
    ) -> "Scalar":
        if not isinstance(other, Scalar) and other not in (0, -1):
            divisor = self.lift(other)
            return self._new((unsigned if self.unsigned else signed)(self.value, divisor.value))
        divisor = self.lift(other)
        zero = divisor.equals(0)
        if self.unsigned:
            safe = self.body.select(zero, 1, divisor)
            result = self._new(unsigned(self.value, safe.value))
        else:
            minus = divisor.equals(-1)
            safe = self.body.select(zero | minus, 1, divisor)
            result = self._new(signed(self.value, safe.value))
            result = self.body.select(minus, -self if negated else self.lift(0), result)
        return self.body.select(zero, by_zero, result)

    def divided(self, other: Operand) -> "Scalar":
        """Integer division that rounds to zero."""
        return self._guarded(other, arith.DivSIOp, arith.DivUIOp, 0, True)

    def remainder(self, other: Operand) -> "Scalar":
        """What `divided` leaves: the sign is that of the dividend."""
        assert not self.is_float, "the remainder of integers"
        return self._guarded(other, arith.RemSIOp, arith.RemUIOp, 0, False)

    def floor_divided_by(self, other: "Scalar") -> "Scalar":
        """Division of an `index` by one that is positive, rounded down."""
        return self._new(arith.FloorDivSIOp(self.value, other.value))

    def remainder_of(self, other: "Scalar") -> "Scalar":
        """What is left of an `index` that is not negative by one that is positive."""
        return self._new(arith.RemUIOp(self.value, other.value))

    def floor_divided(self, other: int) -> "Scalar":
        """Division by a positive number that rounds down, of an `index`."""
        return self._new(arith.FloorDivSIOp(self.value, self.lift(other).value))

    def minimum(self, other: Operand) -> "Scalar":
        """The smaller; NaN if one is."""
        return self._binary(other, arith.MinimumfOp, arith.MinUIOp if self.unsigned else arith.MinSIOp)

    def maximum(self, other: Operand) -> "Scalar":
        """The larger; NaN if one is."""
        return self._binary(other, arith.MaximumfOp, arith.MaxUIOp if self.unsigned else arith.MaxSIOp)

    def maximum_number(self, other: Operand) -> "Scalar":
        """The larger; the other one if one is NaN."""
        return self._binary(other, arith.MaxnumfOp, arith.MaxUIOp if self.unsigned else arith.MaxSIOp)

    def shifted(self, other: Operand, left: bool) -> "Scalar":
        """The bits moved by `other`; a distance of all bits or more leaves 0, or copies of the sign."""
        right = self.lift(other)
        too_far = ~right.below(self.bits, unsigned=True)
        if not left and not self.unsigned:
            return self._new(arith.ShRSIOp(self.value, self.body.select(too_far, self.bits - 1, right).value))
        safe = self.body.select(too_far, 0, right)
        moved = self._new((arith.ShLIOp if left else arith.ShRUIOp)(self.value, safe.value))
        return self.body.select(too_far, 0, moved)

    # Comparisons

    def _compare(self, other: Operand, floats: str, signed: str, unsigned: str | None = None) -> "Scalar":
        right = self.lift(other)
        if self.is_float:
            return self._new(arith.CmpfOp(self.value, right.value, floats), False)
        plain = self.unsigned or self.is_bool
        return self._new(
            arith.CmpiOp(self.value, right.value, unsigned if plain and unsigned else signed), False
        )

    def equals(self, other: Operand) -> "Scalar":
        return self._compare(other, "oeq", "eq")

    def differs(self, other: Operand) -> "Scalar":
        return self._compare(other, "une", "ne")

    def below(self, other: Operand, unsigned: bool = False) -> "Scalar":
        return self._compare(other, "olt", "ult" if unsigned else "slt", "ult")

    def at_most(self, other: Operand) -> "Scalar":
        return self._compare(other, "ole", "sle", "ule")

    def above(self, other: Operand) -> "Scalar":
        return self._compare(other, "ogt", "sgt", "ugt")

    def at_least(self, other: Operand) -> "Scalar":
        return self._compare(other, "oge", "sge", "uge")

    def is_nan(self) -> "Scalar":
        return self._new(arith.CmpfOp(self.value, self.value, "uno"), False)

    # Mathematics

    def _math(self, op: Any) -> "Scalar":
        return self._new(op(self.value))

    def exp(self) -> "Scalar":
        return self._math(math.ExpOp)

    def log(self) -> "Scalar":
        return self._math(math.LogOp)

    def log1p(self) -> "Scalar":
        return self._math(math.Log1pOp)

    def sqrt(self) -> "Scalar":
        return self._math(math.SqrtOp)

    def tanh(self) -> "Scalar":
        return self._math(math.TanhOp)

    def erf(self) -> "Scalar":
        return self._math(math.ErfOp)

    def floor(self) -> "Scalar":
        return self._math(math.FloorOp)

    def ceil(self) -> "Scalar":
        return self._math(math.CeilOp)

    def round_even(self) -> "Scalar":
        return self._math(math.RoundEvenOp)

    def truncated(self) -> "Scalar":
        return self._math(math.TruncOp)

    def unary(self, op: Any) -> "Scalar":
        """A unary op of `math`."""
        return self._math(op)

    def absolute(self) -> "Scalar":
        if self.is_float:
            return self._math(math.AbsFOp)
        return self if self.unsigned or self.is_bool else self.maximum(-self)

    def power(self, other: "Scalar") -> "Scalar":
        return self._new(math.PowFOp(self.value, other.value))

    def fma(self, factor: Operand, term: Operand) -> "Scalar":
        """`self * factor + term`, rounded once."""
        return self._new(math.FmaOp(self.value, self.lift(factor).value, self.lift(term).value))

    def polynomial(self, coefficients: Sequence[float]) -> "Scalar":
        """The polynomial in `self`, highest power first."""
        result = self.lift(coefficients[0])
        for coefficient in coefficients[1:]:
            result = result.fma(self, coefficient)
        return result

    def sigmoid(self) -> "Scalar":
        """e^x / (1 + e^x) below 0, where e^-x is beyond the largest number before the result is 0."""
        small = (-self.absolute()).exp()
        share = self.lift(1.0) / (small + 1.0)
        return self.body.select(self.below(0.0), small * share, share)

    def small_exp(self, most: float = 0.0) -> "tuple[Scalar, Scalar]":
        """
        e and f with e^x = e * f for x <= `most` (above: e^most), where no digit of e is lost to denormals: f is 1, or e^-37 (e^-300
        in f64) far below 0, where 1 + e is 1. A product with a large number may be normal where e^x is not. e^-37 is nearly an f32.
        """
        shift = 300.0 if self.type == f64 else 37.0
        is_tiny, select = self.below(-2.0 * shift), self.body.select
        # Where nothing is above `most` the bound tells `expand-math` just that: powers that cannot overflow cost less.
        shifted = select(is_tiny, self + shift, self).minimum(most)
        return shifted.exp(), select(is_tiny, exp(-shift), self.lift(1.0))

    def times_sigmoid(self, slope: "Scalar", lost: "Scalar | None" = None) -> "Scalar":
        """
        `self * (slope + lost).sigmoid()`, where `lost` is what `slope` lost by rounding. That counts below 0 only, where
        e^(s + l) / (1 + e^(s + l)) is about e^s / (1 + e^s - l).
        """
        e, scale = (-slope.absolute()).small_exp()
        is_below, select = slope.below(0.0), self.body.select
        rest = e if lost is None else e - select(is_below & slope.above(_SIGMOID_ZERO), lost, 0.0)
        quotient = select(is_below, self * e, self) / (rest + 1.0)
        return select(is_below, quotient * scale, quotient)

    def clamp(self, low: Operand, high: Operand) -> "Scalar":
        return self.maximum(low).minimum(high)

    # Conversions

    def widened(self) -> "Scalar":
        """f32 in place of a narrower float."""
        if isinstance(self.type, AnyFloat) and self.type.bitwidth < 32:
            return self._new(arith.ExtFOp(self.value, f32))
        return self

    def as_float(self, type: Attribute) -> "Scalar":
        """The value as a float of `type`, rounded to nearest."""
        source = self.type
        if source == type:
            return self
        if isinstance(source, AnyFloat):
            assert isinstance(type, AnyFloat)
            if source.bitwidth == type.bitwidth:  # f16 and bf16
                return self.as_float(f32).as_float(type)
            op = arith.ExtFOp if source.bitwidth < type.bitwidth else arith.TruncFOp
            return self._new(op(self.value, type), False)
        if isinstance(source, IndexType):
            return Scalar(self.body, self.body.add(arith.IndexCastOp(self.value, i64))).as_float(type)
        unsigned = self.unsigned or self.is_bool
        assert isinstance(type, AnyFloat), f"{type} is no float"
        return self._new((arith.UIToFPOp if unsigned else arith.SIToFPOp)(self.value, type), False)

    def as_index(self) -> "Scalar":
        if isinstance(self.type, IndexType):
            return self
        if self.unsigned and self.bits < 64:
            return self.as_integer(i64, False).as_index()
        return self._new(arith.IndexCastOp(self.value, _INDEX), False)

    def as_integer(self, type: Attribute, unsigned: bool) -> "Scalar":
        """
        An integer as one of another width (modulo 2^bits), a bool as 0 or 1; a float is rounded to zero and
        held at the ends of the range, NaN is 0.
        """
        assert isinstance(type, IntegerType)
        width = type.width.data
        if isinstance(self.type, IndexType):
            wide = Scalar(self.body, self.body.add(arith.IndexCastOp(self.value, i64)))
            return wide.as_integer(type, unsigned)
        if self.is_float:
            return self._float_to_integer(type, width, unsigned)
        if self.bits == width:
            return Scalar(self.body, self.value, unsigned)
        if self.bits > width:
            return self._new(arith.TruncIOp(self.value, type), unsigned)
        extend = arith.ExtUIOp if self.unsigned or self.is_bool else arith.ExtSIOp
        return self._new(extend(self.value, type), unsigned)

    def _float_to_integer(self, type: IntegerType, width: int, unsigned: bool) -> "Scalar":
        low = 0 if unsigned else -(1 << (width - 1))
        high = (1 << width) - 1 if unsigned else (1 << (width - 1)) - 1
        x = self
        assert isinstance(x.type, AnyFloat)
        if width <= 16 and x.type.bitwidth >= 32:  # both ends are exact in f32
            number = self.body.select(x.is_nan(), 0.0, x).clamp(float(low), float(high))
            return self._converted(number, type, unsigned)
        top = float(high + 1)
        above, below = x.at_least(top), x.below(float(low))
        out = self.body.any_of(above, below, x.is_nan())
        result = self._converted(self.body.select(out, 0.0, x), type, unsigned)
        result = self.body.select(above, high, result)
        return self.body.select(below, low, result)

    def _converted(self, number: "Scalar", type: Attribute, unsigned: bool) -> "Scalar":
        assert isinstance(type, IntegerType), f"{type} is no integer"
        op = arith.FPToUIOp if unsigned else arith.FPToSIOp
        return Scalar(self.body, self.body.add(op(number.value, type)), unsigned)

    def as_bool(self) -> "Scalar":
        return self if self.is_bool else self.differs(0)

    def cast(self, type: Attribute, unsigned: bool = False) -> "Scalar":
        """The value as one of `type`, as ONNX's Cast has it."""
        if type == i1:
            return self.as_bool()
        if isinstance(type, AnyFloat):
            return self.as_float(type)
        if isinstance(type, IndexType):
            return self.as_index()
        return self.as_integer(type, unsigned)
