"""Element-wise ops: one scalar function, applied to every element under numpy's broadcasting."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from xdsl.dialects.builtin import i1
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def, result_def, var_operand_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    Known,
    broadcast,
    dims,
    element,
    element_type,
    integer,
    operator,
    real,
    same_elements,
    string,
)
from stepwell.dialects.graph.shape import Dim, floordiv, maximum, minimum, mod, tensor_type
from stepwell.dialects.graph.types import FLOATS, SIGNED, STRING, UNSIGNED

_INTEGERS = SIGNED | UNSIGNED
_DOMAINS: dict[str, frozenset[Attribute]] = {
    "numeric": FLOATS | _INTEGERS,
    "float": FLOATS,
    "integer": _INTEGERS,
    "bool": frozenset((i1,)),
    "any": FLOATS | _INTEGERS | {i1, STRING},
}


def _check_domain(op: GraphOp, domain: str, found: Attribute) -> Attribute:
    if found not in _DOMAINS[domain]:
        raise VerifyException(f"{op.name}: element type {found} must be of kind {domain}")
    return found


class UnaryOp(GraphOp):
    """One operand, the result of the same shape and (unless the op says otherwise) element type."""

    DOMAIN: ClassVar[str] = "float"
    RESULT: ClassVar[Attribute | None] = None

    def output_types(self) -> Sequence[Attribute]:
        _check_domain(self, self.DOMAIN, element_type(self.operands[0]))
        if self.RESULT is not None:
            return [tensor_type(dims(self.operands[0]), self.RESULT)]
        return [self.operands[0].type]


class _XToY(UnaryOp):
    x = operand_def(TENSOR)
    y = result_def(TENSOR)


class _InputToOutput(UnaryOp):
    input = operand_def(TENSOR)
    output = result_def(TENSOR)


class BinaryOp(GraphOp):
    """Two operands of one element type that broadcast."""

    DOMAIN: ClassVar[str] = "numeric"
    RESULT: ClassVar[Attribute | None] = None

    def output_types(self) -> Sequence[Attribute]:
        found = _check_domain(self, self.DOMAIN, same_elements(self, *self.operands))
        shape = broadcast(self, [dims(v) for v in self.operands])
        return [tensor_type(shape, self.RESULT or found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        if (a := known(self.operands[0])) is None or (b := known(self.operands[1])) is None:
            return None
        if len(a) != len(b):
            if 1 not in (len(a), len(b)):
                return None
            a, b = (a * len(b), b) if len(a) == 1 else (a, b * len(a))
        out = [self.symbolic_element(p, q) for p, q in zip(a, b, strict=True)]
        return None if any(d is None for d in out) else [d for d in out if d is not None]

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        """The result for one pair of elements, where it can be said."""
        return None


class _ABToC(BinaryOp):
    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    c = result_def(TENSOR)


class _XYToZ(BinaryOp):
    x = operand_def(TENSOR)
    y = operand_def(TENSOR)
    z = result_def(TENSOR)


class VariadicOp(GraphOp):
    """One or more operands of one element type that broadcast."""

    data_0 = var_operand_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        if not self.operands:
            raise VerifyException(f"{self.name}: takes at least one operand")
        found = _check_domain(self, "numeric", same_elements(self, *self.operands))
        return [tensor_type(broadcast(self, [dims(v) for v in self.operands]), found)]


@operator
class AbsOp(_XToY):
    """`|x|`; of the most negative integer it is itself."""

    DOMAIN = "numeric"


@operator
class CeilOp(_XToY):
    """The smallest integer not below `x`."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        # Tracked values are integers already.
        return known(self.operands[0])


@operator
class FloorOp(_XToY):
    """The largest integer not above `x`."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        # Tracked values are integers already.
        return known(self.operands[0])


@operator
class HardSwishOp(_XToY):
    """`x * max(0, min(1, x/6 + 1/2))`."""


@operator
class MishOp(_XToY):
    """`x * tanh(log(1 + exp(x)))`."""


@operator
class NegOp(_XToY):
    """`-x`; of the most negative integer it is itself."""

    DOMAIN = "numeric"

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        found = known(self.operands[0])
        return None if found is None else [-d for d in found]


@operator
class ReciprocalOp(_XToY):
    """`1 / x`."""


@operator
class ReluOp(_XToY):
    """`max(x, 0)`; NaN stays NaN."""

    DOMAIN = "numeric"


@operator
class RoundOp(_XToY):
    """The nearest integer, ties to the even one."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        # Tracked values are integers already.
        return known(self.operands[0])


@operator
class SigmoidOp(_XToY):
    """`1 / (1 + exp(-x))`."""


@operator
class SoftplusOp(_XToY):
    """`log(1 + exp(x))`."""


@operator
class SqrtOp(_XToY):
    """The square root; of a negative number NaN."""


@operator
class AcosOp(_InputToOutput):
    """The inverse cosine, in `[0, pi]`."""


@operator
class AcoshOp(_InputToOutput):
    """The inverse hyperbolic cosine."""


@operator
class AsinOp(_InputToOutput):
    """The inverse sine, in `[-pi/2, pi/2]`."""


@operator
class AsinhOp(_InputToOutput):
    """The inverse hyperbolic sine."""


@operator
class AtanOp(_InputToOutput):
    """The inverse tangent, in `(-pi/2, pi/2)`."""


@operator
class AtanhOp(_InputToOutput):
    """The inverse hyperbolic tangent."""


@operator
class CosOp(_InputToOutput):
    """The cosine of an angle in radians."""


@operator
class CoshOp(_InputToOutput):
    """The hyperbolic cosine."""


@operator
class ExpOp(_InputToOutput):
    """`e` to the power of `x`."""


@operator
class LogOp(_InputToOutput):
    """The natural logarithm."""


@operator
class SinOp(_InputToOutput):
    """The sine of an angle in radians."""


@operator
class SinhOp(_InputToOutput):
    """The hyperbolic sine."""


@operator
class SoftsignOp(_InputToOutput):
    """`x / (1 + |x|)`."""


@operator
class TanOp(_InputToOutput):
    """The tangent of an angle in radians."""


@operator
class TanhOp(_InputToOutput):
    """The hyperbolic tangent."""


@operator
class ErfOp(_InputToOutput):
    """The error function."""

    DOMAIN = "numeric"


@operator
class SignOp(_InputToOutput):
    """-1, 0 or 1 as `x` is negative, zero or positive; NaN of NaN."""

    DOMAIN = "numeric"


@operator
class CeluOp(_XToY):
    """`max(0, x) + min(0, alpha * (exp(x/alpha) - 1))`."""

    alpha = real(1.0)


@operator
class EluOp(_XToY):
    """`x` where positive, else `alpha * (exp(x) - 1)`."""

    alpha = real(1.0)


@operator
class GeluOp(_XToY):
    """`x * Phi(x)` with the normal distribution's `Phi`, or its approximation by `tanh`."""

    approximate = string("none")


@operator
class HardSigmoidOp(_XToY):
    """`max(0, min(1, alpha*x + beta))`."""

    alpha = real(0.2)
    beta = real(0.5)


@operator
class LeakyReluOp(_XToY):
    """`x` where not negative, else `alpha * x`."""

    alpha = real(0.01)


@operator
class SeluOp(_XToY):
    """`gamma * (alpha * (exp(x) - 1))` where `x <= 0`, else `gamma * x`."""

    alpha = real(1.6732631921768188)
    gamma = real(1.0507010221481323)


@operator
class SwishOp(_XToY):
    """`x * sigmoid(alpha * x)`."""

    alpha = real(1.0)


@operator
class ThresholdedReluOp(_XToY):
    """`x` where above `alpha`, else 0."""

    alpha = real(1.0)


@operator
class ShrinkOp(_InputToOutput):
    """`x + bias` where `x < -lambd`, `x - bias` where `x > lambd`, else 0."""

    DOMAIN = "numeric"
    bias = real(0.0)
    lambd = real(0.5)


@operator
class NotOp(_XToY):
    """Logical negation."""

    DOMAIN = "bool"

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        found = known(self.operands[0])
        return None if found is None else [1 - d for d in found]


@operator
class BitwiseNotOp(_XToY):
    """All bits inverted."""

    DOMAIN = "integer"


@operator
class IsNaNOp(_XToY):
    """True where `x` is not a number."""

    RESULT = i1


@operator
class IsInfOp(_XToY):
    """True where `x` is infinite, of a sign that is asked for."""

    RESULT = i1
    detect_negative = integer(1)
    detect_positive = integer(1)


@operator
class AddOp(_ABToC):
    """`a + b`; integers wrap round."""

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return a + b


@operator
class SubOp(_ABToC):
    """`a - b`; integers wrap round."""

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return a - b


@operator
class MulOp(_ABToC):
    """`a * b`; integers wrap round."""

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return a * b


@operator
class DivOp(_ABToC):
    """
    `a / b`; of integers truncated to zero, where `x / 0` is 0 and the most negative number by -1 is itself.
    """

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        if isinstance(a, int) and isinstance(b, int):
            quotient = abs(a) // abs(b) if b else 0
            if element_type(self.a) in FLOATS and (not b or quotient * abs(b) != abs(a)):
                return None
            return quotient if (a < 0) == (b < 0) else -quotient
        if element_type(self.a) in FLOATS:
            return None
        # Extents are not negative, so truncating and flooring agree.
        return floordiv(a, b)


@operator
class ModOp(_ABToC):
    """The rest of `a / b` with the sign of `b`, or with `fmod` that of `a`; of integers by 0 it is 0."""

    fmod = integer(0)

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        if self.get("fmod") and not (isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0):
            return None
        return 0 if b == 0 else mod(a, b)


@operator
class PowOp(_XYToZ):
    """`x` to the power of `y`, in the element type of `x`; the exponent may have another one."""

    def output_types(self) -> Sequence[Attribute]:
        found = _check_domain(self, "numeric", element_type(self.x))
        _check_domain(self, "numeric", element_type(self.y))
        return [tensor_type(broadcast(self, [dims(self.x), dims(self.y)]), found)]

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        if not isinstance(b, int) or not 0 <= b <= 8:
            return None
        result: Dim = 1
        for _ in range(b):
            result = result * a
        return result


@operator
class BitShiftOp(_XYToZ):
    """
    `x` shifted by `y` bits to the `direction` (LEFT, RIGHT); by the width or more it is 0 (-1 if `x < 0` goes
    right).
    """

    DOMAIN = "integer"
    direction = string()


@operator
class AndOp(_ABToC):
    """True where both are."""

    DOMAIN = "bool"


@operator
class OrOp(_ABToC):
    """True where one is."""

    DOMAIN = "bool"


@operator
class XorOp(_ABToC):
    """True where exactly one is."""

    DOMAIN = "bool"


@operator
class BitwiseAndOp(_ABToC):
    """The bits that both have."""

    DOMAIN = "integer"


@operator
class BitwiseOrOp(_ABToC):
    """The bits that one has."""

    DOMAIN = "integer"


@operator
class BitwiseXorOp(_ABToC):
    """The bits that exactly one has."""

    DOMAIN = "integer"


@operator
class GreaterOp(_ABToC):
    """`a > b`; false if one is NaN."""

    RESULT = i1

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return int(a > b) if isinstance(a, int) and isinstance(b, int) else None


@operator
class GreaterOrEqualOp(_ABToC):
    """`a >= b`; false if one is NaN."""

    RESULT = i1

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return int(a >= b) if isinstance(a, int) and isinstance(b, int) else None


@operator
class LessOp(_ABToC):
    """`a < b`; false if one is NaN."""

    RESULT = i1

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return int(a < b) if isinstance(a, int) and isinstance(b, int) else None


@operator
class LessOrEqualOp(_ABToC):
    """`a <= b`; false if one is NaN."""

    RESULT = i1

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        return int(a <= b) if isinstance(a, int) and isinstance(b, int) else None


@operator
class EqualOp(_ABToC):
    """`a == b`; false if one is NaN."""

    DOMAIN = "any"
    RESULT = i1

    def symbolic_element(self, a: Dim, b: Dim) -> Dim | None:
        difference = a - b
        if isinstance(difference, int):
            return int(difference == 0)
        # An extent is never negative, so it differs from a marker such as the -1 of Expand.
        if (isinstance(a, int) and a < 0) or (isinstance(b, int) and b < 0):
            return 0
        return None


@operator
class PReluOp(GraphOp):
    """
    `x` where not negative, else `slope * x`. ONNX broadcasts the slope to `x` alone; an `x` of extent 1 broadcasts to the
    slope too, as in ONNX Runtime: of an extent that is not known only the run tells.
    """

    x = operand_def(TENSOR)
    slope = operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, self.x, self.slope)
        if len(dims(self.slope)) > len(dims(self.x)):
            raise VerifyException(f"{self.name}: slope {self.slope.type} does not broadcast to {self.x.type}")
        return [tensor_type(broadcast(self, [dims(self.x), dims(self.slope)]), found)]


@operator
class SwiGLUOp(GraphOp):
    """`a * sigmoid(alpha * a) * b`."""

    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    y = result_def(TENSOR)
    alpha = real(1.0)

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, self.a, self.b)
        return [tensor_type(broadcast(self, [dims(self.a), dims(self.b)]), found)]


@operator
class MaxOp(VariadicOp):
    """The largest of the operands; NaN if one is."""

    max = result_def(TENSOR)

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return _extremum(self.operands, known, maximum)


@operator
class MinOp(VariadicOp):
    """The smallest of the operands; NaN if one is."""

    min = result_def(TENSOR)

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return _extremum(self.operands, known, minimum)


def _extremum(values: Sequence[SSAValue], known: Known, choose: Callable[..., Dim]) -> list[Dim] | None:
    lists: list[list[Dim]] = []
    for value in values:
        if (found := known(value)) is None:
            return None
        lists.append(found)
    length = max(len(f) for f in lists)
    if any(len(f) not in (1, length) for f in lists):
        return None
    return [choose(*(f[i if len(f) == length else 0] for f in lists)) for i in range(length)]


@operator
class SumOp(VariadicOp):
    """The sum of the operands."""

    sum = result_def(TENSOR)


@operator
class MeanOp(VariadicOp):
    """The arithmetic mean of the operands."""

    mean = result_def(TENSOR)


@operator
class ClipOp(GraphOp):
    """
    `min(max(x, min), max)`; a bound that is absent does not bind; where `min > max` the result is `max`.
    """

    input = operand_def(TENSOR)
    min = opt_operand_def(TENSOR)
    max = opt_operand_def(TENSOR)
    output = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        same_elements(self, self.input, self.min, self.max)
        for bound in (self.min, self.max):
            if bound is not None and any(isinstance(d, int) and d != 1 for d in dims(bound)):
                raise VerifyException(f"{self.name}: bound {bound.type} must be a scalar")
        return [self.input.type]


@operator
class WhereOp(GraphOp):
    """`x` where the condition holds, else `y`; all three broadcast."""

    condition = operand_def(TENSOR)
    x = operand_def(TENSOR)
    y = operand_def(TENSOR)
    output = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        _check_domain(self, "bool", element_type(self.condition))
        found = same_elements(self, self.x, self.y)
        return [tensor_type(broadcast(self, [dims(v) for v in self.operands]), found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        conditions, x, y = (known(v) for v in self.operands)
        if conditions is None or x is None or y is None:
            return None
        length = max(len(conditions), len(x), len(y))
        if any(len(v) not in (1, length) for v in (conditions, x, y)):
            return None
        conditions, x, y = (v * length if len(v) != length else v for v in (conditions, x, y))
        if not all(isinstance(c, int) for c in conditions):
            return None
        return [p if c else q for c, p, q in zip(conditions, x, y, strict=True)]


@operator
class CastOp(GraphOp):
    """
    Convert to the element type `to`. Floats become integers by truncation, and saturate; float8 results
    saturate unless `saturate` is 0; numbers become booleans by `x != 0`.
    """

    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    to = element()
    saturate = integer(1)
    round_mode = string("up")

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(dims(self.input), self.to)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        found = known(self.input)
        if found is None or self.to != i1:
            return found
        return [int(d != 0) for d in found] if all(isinstance(d, int) for d in found) else None


@operator
class CastLikeOp(GraphOp):
    """Convert to the element type of `target_type`, as `graph.cast`."""

    input = operand_def(TENSOR)
    target_type = operand_def(TENSOR)
    output = result_def(TENSOR)
    saturate = integer(1)
    round_mode = string("up")

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(dims(self.input), element_type(self.target_type))]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return known(self.input) if element_type(self.target_type) != i1 else None


@operator
class BitCastOp(GraphOp):
    """The same bits read as the element type `to`, which has the same width."""

    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    to = element()

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(dims(self.input), self.to)]


@operator
class DropoutOp(GraphOp):
    """
    The identity in inference. With `training_mode` true and a positive `ratio`, elements become 0 at random
    and the others grow by `1 / (1 - ratio)`; `mask` says which were kept.
    """

    data = operand_def(TENSOR)
    ratio = opt_operand_def(TENSOR)
    training_mode = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    mask = opt_result_def(TENSOR)
    seed = integer(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        return [self.data.type, tensor_type(dims(self.data), i1)]
