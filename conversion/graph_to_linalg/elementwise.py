"""Element-wise operators: one all-parallel generic each, operands broadcast by their maps."""

from collections.abc import Callable
from typing import Any

from xdsl.dialects import arith, math, scf
from xdsl.dialects.builtin import AnyFloat, Float64Type, IndexType, IntegerType, TensorType, f32, f64, i1, i64
from xdsl.ir import Attribute, Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg import text
from stepwell.conversion.graph_to_linalg.lowering import Lowering, is_unsigned, lowers, signless
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.conversion.graph_to_linalg.small_types import decoded, encoded, is_small
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph import STRING
from stepwell.dialects.math import ErfcOp

Function = Callable[..., Any]


def elementwise(low: Lowering, op: Any, body: Function, *, widen: bool = True) -> SSAValue:
    """The result of a graph op whose operands all broadcast to its shape."""
    values = [v for v in low.operands(op) if v is not None]
    shape = low.broadcast_shape([low.shape(v) for v in values])
    return low.map(body, values, shape, low.result_element(op), unsigned=low.unsigned(op), widen=widen)


def _enter(name: str, body: Function) -> None:
    lowers(name)(lambda low, op: elementwise(low, op, body))


def _softplus(x: Scalar) -> Scalar:
    return x.maximum(0.0) + (-x.absolute()).exp().log1p()


# tanh(log(1 + e)) = 1 - 2 / d = e (1 - (e^2 + e) / d) with d = e (e + 2) + 2 for e = exp(x): the first from 0 on, the second
# below; from 20 on it is 1.
def _mish(x: Scalar) -> Scalar:
    select, is_below = x.body.select, x.below(0.0)
    e, scale = x.small_exp(most=20.0)
    whole = select(is_below, x * e, x)
    share = select(is_below, e.fma(e, e), 2.0) / e.fma(e + 2.0, 2.0)
    return select(x.above(20.0), x, whole * (x.lift(1.0) - share) * scale)


def _sign(x: Scalar) -> Scalar:
    select = x.body.select
    one = x.lift(1)
    below = x.lift(0) if x.unsigned else select(x.below(0), -1, 0 * x if x.is_float else x.lift(0))
    return select(x.above(0), one, below)


def _unary(op: Any) -> Function:
    return lambda x: x.unary(op)


_UNARY: dict[str, Function] = {
    "abs": Scalar.absolute,
    "acos": _unary(math.AcosOp),
    "acosh": _unary(math.AcoshOp),
    "asin": _unary(math.AsinOp),
    "asinh": _unary(math.AsinhOp),
    "atan": _unary(math.AtanOp),
    "atanh": _unary(math.AtanhOp),
    "bitwise_not": lambda x: ~x,
    "ceil": lambda x: x.ceil(),
    "cos": _unary(math.CosOp),
    "cosh": _unary(math.CoshOp),
    "erf": Scalar.erf,
    "exp": Scalar.exp,
    "floor": Scalar.floor,
    "hard_swish": lambda x: x * ((x + 3.0).clamp(0.0, 6.0) * (1.0 / 6.0)),
    "is_nan": Scalar.is_nan,
    "log": Scalar.log,
    "mish": _mish,
    "neg": lambda x: -x,
    "not": lambda x: ~x,
    "reciprocal": lambda x: 1.0 / x,
    "relu": lambda x: x.maximum(0),
    "round": Scalar.round_even,
    "sigmoid": Scalar.sigmoid,
    "sign": _sign,
    "sin": _unary(math.SinOp),
    "sinh": _unary(math.SinhOp),
    "softplus": _softplus,
    "softsign": lambda x: x / (x.absolute() + 1.0),
    "sqrt": Scalar.sqrt,
    "tan": _unary(math.TanOp),
    "tanh": Scalar.tanh,
}
_BINARY: dict[str, Function] = {
    "add": lambda a, b: a + b,
    "and": lambda a, b: a & b,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "div": lambda a, b: a / b,
    "greater": lambda a, b: a.above(b),
    "greater_or_equal": lambda a, b: a.at_least(b),
    "less": lambda a, b: a.below(b),
    "less_or_equal": lambda a, b: a.at_most(b),
    "mul": lambda a, b: a * b,
    "or": lambda a, b: a | b,
    "prelu": lambda x, slope: x.body.select(x.below(0), x * slope, x),
    "sub": lambda a, b: a - b,
    "where": lambda c, a, b: c.body.select(c, a, b),
    "xor": lambda a, b: a ^ b,
}
for _name, _body in (_UNARY | _BINARY).items():
    _enter(_name, _body)


@lowers("equal")
def _equal(low: Lowering, op: Any) -> SSAValue:
    type = op.operands[0].type
    if isinstance(type, TensorType) and type.element_type == STRING:
        return text.equal(low, op)
    return elementwise(low, op, Scalar.equals)


def _fold(combine: Function) -> Function:
    def body(*values: Scalar) -> Scalar:
        result = values[0]
        for value in values[1:]:
            result = combine(result, value)
        return result

    return body


_enter("max", _fold(Scalar.maximum))
_enter("min", _fold(Scalar.minimum))
_enter("sum", _fold(lambda a, b: a + b))


@lowers("mean")
def _mean(low: Lowering, op: Any) -> SSAValue:
    count = len(op.operands)
    return elementwise(low, op, lambda *values: _fold(lambda a, b: a + b)(*values) / float(count))


# The limit and the bias are no integers, so integers are compared and moved as f64.
def _shrunk(x: Scalar, limit: float, bias: float) -> Scalar:
    wide = x if x.is_float else x.cast(f64)
    inner = x.body.select(wide.above(limit), wide - bias, 0.0 * wide)
    return x.body.select(wide.below(-limit), wide + bias, inner).cast(x.type, x.unsigned)


def _swish(x: Scalar, alpha: float) -> Scalar:
    if alpha == 1.0:
        return x.times_sigmoid(x)
    slope = x * alpha
    return x.times_sigmoid(slope, lost=x.fma(alpha, -slope))


# name: (attributes, body of x and them)
_PARAMETRIC: dict[str, tuple[list[str], Function]] = {
    "celu": (["alpha"], lambda x, a: x.body.select(x.below(0.0), (x * (1.0 / a)).unary(math.ExpM1Op) * a, x)),
    "elu": (["alpha"], lambda x, a: x.body.select(x.below(0.0), x.unary(math.ExpM1Op) * a, x)),
    "hard_sigmoid": (["alpha", "beta"], lambda x, a, b: x.fma(a, b).clamp(0.0, 1.0)),
    "leaky_relu": (["alpha"], lambda x, a: x.body.select(x.below(0.0), x * a, x)),
    "selu": (
        ["alpha", "gamma"],
        lambda x, a, g: x.body.select(x.at_most(0.0), x.unary(math.ExpM1Op) * a, x) * g,
    ),
    "shrink": (
        ["lambd", "bias"],
        lambda x, limit, bias: _shrunk(x, limit, bias),
    ),
    "swish": (["alpha"], _swish),
    "thresholded_relu": (["alpha"], lambda x, a: x.body.select(x.above(a), x, 0.0)),
}


def _enter_parametric(name: str, names: list[str], body: Function) -> None:
    @lowers(name)
    def lower(low: Lowering, op: Any) -> SSAValue:
        values = [low.attr(op, n) for n in names]
        return elementwise(low, op, lambda x: body(x, *values))


for _name, (_names, _body) in _PARAMETRIC.items():
    _enter_parametric(_name, _names, _body)


_GELU_NUMERATOR = (0.004228951875120401, 0.041399989277124405, 0.18551532924175262, 0.441374272108078)
_GELU_REST = (6.489638508355711e-06, 0.010471760295331478, 0.10562653094530106, 0.42733097076416016)
_GELU_SLOPE = 2.5066049098968506
"""
exp(a^2 / 2) erfc(a / sqrt 2) / 2 ~ n / (c a n + 1 + a R(a)), n = 1/2 + a N(a), for 0 <= a <= 14.6, relative error 1.1e-8:
a weighted least-squares fit, then the best f32 near it. Nothing cancels, and what n loses by rounding nearly drops out.
"""
_GELU_ZERO = 14.6
"""From here on gelu(-a) is less than half of the least denormal."""


# gelu(x) = x (1 + erf(x / sqrt 2)) / 2 = x - y above 0 and -y below, with y = |x| erfc(|x| / sqrt 2) / 2. The first form
# loses all its digits below -5. What a^2 loses by rounding is put back: e^-(s + l)/2 = e^-s/2 (1 - l/2).
def _gelu_single(x: Scalar) -> Scalar:
    select = x.body.select
    a = x.absolute()
    a = select(a.above(_GELU_ZERO), _GELU_ZERO, a)
    square = a * a
    lost = a.fma(a, -square)
    power = (square * -0.5).exp()
    power = power.fma(lost * -0.5, power)
    part = (a * a.polynomial(_GELU_NUMERATOR)).fma(a, a * 0.5)
    quotient = part / (part.fma(_GELU_SLOPE, a * a.polynomial(_GELU_REST)) + 1.0)
    return power.fma(-quotient, select(x.below(0.0), -0.0, x))


_GELU_TANH = {
    f32: (
        _GELU_ZERO,
        1.5957691669464111,
        -4.534068032135963e-08,
        0.07135481387376785,
        2.3988323966106506e-09,
    ),
    f64: (22.0, 1.5957691216057308, -9.96930880911092e-17, 0.07135481627260025, -6.175149918155315e-19),
}
"""From where on gelu(-a) is 0, 2 sqrt(2 / pi) and 0.044715 times it, each as the nearest number of the type and the rest."""


# x (1 + tanh(v / 2)) / 2 = x sigmoid(v), v = a (c + d a^2) for a = |x|, whose rounding errors are gathered in `low`: an
# error of v is a relative one of e^-v.
def _gelu_by_tanh(x: Scalar) -> Scalar:
    zero, linear, linear_low, cubic, cubic_low = _GELU_TANH[x.type]
    select = x.body.select
    a = x.absolute()
    a = select(a.above(zero), zero, a)
    square = a * a
    square_low = a.fma(a, -square)
    term = square * cubic
    term_low = square.fma(cubic, -term) + square * cubic_low + square_low * cubic
    total = term + linear
    part = total - term
    total_low = (term - (total - part)) + (x.lift(linear) - part) + (term_low + linear_low)
    v = a * total
    low = a.fma(total, -v) + a * total_low
    e, scale = (-v).small_exp()
    y = (a * e.fma(-low, e)) / (e + 1.0)
    return y.fma(-scale, select(x.below(0.0), -0.0, x))


_SQRT_HALF, _SQRT_HALF_LOW = 0.7071067811865476, -4.833646656726457e-17
_ERFC_ZERO = 28.0
"""From here on erfc is less than half of the least denormal f64."""


# gelu(x) = x erfc(z) / 2, z = -x / sqrt 2. What z lost by rounding is put back where erfc is steep: erfc(z + l) is about
# erfc(z) (1 - 2 z l) there.
def _gelu_double(x: Scalar) -> Scalar:
    z = x * -_SQRT_HALF
    lost = x.fma(-_SQRT_HALF, -z) - x * _SQRT_HALF_LOW
    is_steep = z.above(0.0) & z.below(_ERFC_ZERO)
    tail = z.unary(ErfcOp)
    tail = tail.fma(x.body.select(is_steep, lost * z * -2.0, 0.0), tail)
    return x * 0.5 * tail


@lowers("gelu")
def _gelu(low: Lowering, op: Any) -> SSAValue:
    def exact(x: Scalar) -> Scalar:
        return _gelu_double(x) if x.type == f64 else _gelu_single(x)

    return elementwise(low, op, _gelu_by_tanh if low.attr(op, "approximate") == "tanh" else exact)


@lowers("clip")
def _clip(low: Lowering, op: Any) -> SSAValue:
    x, *limits = [*low.operands(op), None, None][:3]
    limits = [v if v is None or not low.rank(v) else low.reshape(v, ()) for v in limits]
    has_low, has_high = limits[0] is not None, limits[1] is not None

    def body(x: Scalar, *ends: Scalar) -> Scalar:
        rest = list(ends)
        result = x.maximum(rest.pop(0)) if has_low else x
        return result.minimum(rest.pop(0)) if has_high else result

    values = [x, *(v for v in limits if v is not None)]
    unsigned = [is_unsigned(op.operands[0].type.element_type)] * len(values)
    return low.map(body, values, low.shape(x), low.element(x), unsigned=unsigned)


@lowers("cast", "cast_like")
def _cast(low: Lowering, op: Any) -> SSAValue:
    source, target = op.operands[0].type.element_type, op.results[0].type.element_type
    if source != target and not all(
        isinstance(t, AnyFloat | IntegerType) or t == STRING for t in (source, target)
    ):
        raise unsupported(op, f"a cast from {source} to {target} needs complex numbers", "cast outside")
    saturate, round_mode = low.attr(op, "saturate") != 0, low.attr(op, "round_mode") or "up"
    return converted(low, low[op.operands[0]], source, target, saturate, round_mode)


def converted(
    low: Lowering,
    x: SSAValue,
    source: Attribute,
    target: Attribute,
    saturate: bool = True,
    round_mode: str = "up",
) -> SSAValue:
    """Elements of type `source` as those of type `target`, both of the graph."""
    if source == target:
        return x
    if target == STRING:
        if is_small(source):
            wide = i64 if isinstance(source, IntegerType) else f32
            x = low.map(lambda v: decoded(v, source).cast(wide), [x], low.shape(x), wide, widen=False)
            source = wide
        return text.formatted(low, x, source)
    if source == STRING:
        x, source = text.parsed(low, x, target)
    element = signless(target)
    small = is_small(source) or is_small(target)
    if element == low.element(x) and not isinstance(element, AnyFloat) and not small:
        return x  # the sign is in the ops, not in the type

    def body(v: Scalar) -> Scalar:
        if is_small(source):
            v = decoded(v, source)
        if is_small(target):
            return encoded(v, target, saturate, round_mode)
        return v.cast(element, is_unsigned(target))

    return low.map(body, [x], low.shape(x), element, unsigned=[is_unsigned(source)], widen=False)


@lowers("is_inf")
def _is_inf(low: Lowering, op: Any) -> SSAValue:
    negative, positive = low.attr(op, "detect_negative"), low.attr(op, "detect_positive")

    def body(x: Scalar) -> Scalar:
        if positive and negative:
            return x.absolute().equals(float("inf"))
        if positive or negative:
            return x.equals(float("inf") if positive else float("-inf"))
        return x.body.constant(0, low.result_element(op))

    return elementwise(low, op, body)


# x^2 = x*x, x^0.5 = sqrt x, x^1 = x, x^3 = x*x*x, x^-1 = 1/x   for a constant exponent
_POWERS: dict[float, Function] = {
    2.0: lambda x: x * x,
    0.5: lambda x: x.sqrt(),
    1.0: lambda x: x,
    3.0: lambda x: x * x * x,
    -1.0: lambda x: 1.0 / x,
    -0.5: lambda x: 1.0 / x.sqrt(),
}


@lowers("pow")
def _pow(low: Lowering, op: Any) -> SSAValue:
    base, exponent = low.operands(op)
    known = low.known(op.operands[1])
    element = low.result_element(op)
    if known is not None and known.size == 1 and isinstance(element, AnyFloat):
        short = _POWERS.get(float(known.reshape(())))
        if short is not None:
            shape = low.broadcast_shape([low.shape(base), low.shape(exponent)])
            return low.map(short, [base], shape, element)

    def body(a: Scalar, b: Scalar) -> Scalar:
        if not a.is_float and not b.is_float:
            return _integer_power(a, b)
        wide = f64 if Float64Type() in (a.type, b.type) or 64 in (_width(a), _width(b)) else f32
        result = a.cast(wide).power(b.cast(wide))
        return result.cast(a.type, a.unsigned)

    return elementwise(low, op, body)


# a^b == (a^2)^(b div 2) * a^(b mod 2), modulo 2^width; a negative power is 0, but of 1 and -1
def _integer_power(a: Scalar, b: Scalar) -> Scalar:
    build = a.body
    exponent = b.cast(a.type, b.unsigned)
    exponent.unsigned = b.unsigned
    magnitude = exponent.absolute()
    unit = a.equals(1) if a.unsigned else a.equals(1) | a.equals(-1)
    block = Block(arg_types=[IndexType(), a.type, a.type, a.type])
    inner = Body(block, build.lowering, None)
    _, result, base, rest = (inner.wrap(v) for v in block.args)
    odd = (rest & 1).differs(0)
    result = inner.select(odd, result * base, result)
    halved = inner.wrap(inner.add(arith.ShRUIOp(rest.value, rest.lift(1).value)))
    block.add_op(scf.YieldOp(result.value, (base * base).value, halved.value))
    begin, end, step = (build.constant(n, IndexType()).value for n in (0, a.bits, 1))
    start = [build.constant(1, a.type).value, a.value, magnitude.value]
    power = build.wrap(build.add(scf.ForOp(begin, end, step, start, Region(block))))
    power.unsigned = a.unsigned
    if exponent.unsigned:
        return power
    return build.select(exponent.below(0) & ~unit, 0, power)


def _width(x: Scalar) -> int:
    return 0 if x.is_float else x.bits


@lowers("mod")
def _mod(low: Lowering, op: Any) -> SSAValue:
    as_c = low.attr(op, "fmod")

    def body(a: Scalar, b: Scalar) -> Scalar:
        if a.is_float:
            # x mod infinity is x, which the formula makes NaN
            endless = b.absolute().equals(float("inf")) & a.absolute().below(float("inf"))
            rest = a.body.select(endless, a, a - b * (a / b).truncated())
            return rest if as_c else a.body.select((rest * b).below(0.0), rest + b, rest)
        rest = a.remainder(b)
        if as_c or a.unsigned:
            return rest
        # the sign follows the divisor
        wrong = rest.differs(0) & (rest ^ b).below(0)
        return a.body.select(wrong, rest + b, rest)

    return elementwise(low, op, body)


@lowers("bit_shift")
def _bit_shift(low: Lowering, op: Any) -> SSAValue:
    left = low.attr(op, "direction").upper() == "LEFT"
    return elementwise(low, op, lambda a, b: a.shifted(b, left))


@lowers("identity")
def _identity(low: Lowering, op: Any) -> SSAValue:
    return low[op.operands[0]]


@lowers("bit_cast")
def _bit_cast(low: Lowering, op: Any) -> SSAValue:
    x, element = low[op.operands[0]], low.result_element(op)
    if element == low.element(x):
        return x

    def body(v: Scalar) -> Scalar:
        if i1 in (v.type, element):  # a bool is a byte in memory
            return v.cast(element)
        return Scalar(v.body, v.body.add(arith.BitcastOp(v.value, element)))

    return low.map(body, [x], low.shape(x), element, widen=False)
