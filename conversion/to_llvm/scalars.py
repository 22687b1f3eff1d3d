"""`arith` and `math` on scalars and 1-D vectors. No op traps: division and shifts have defined results.

`x / 0 == 0`, `x % 0 == 0`, `INT_MIN / -1 == INT_MIN`, a shift by the width or more gives 0, and a float out of
an integer's range saturates (NaN gives 0).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xdsl.dialects import scf
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    VectorType,
    bf16,
    f32,
    i1,
    i16,
    i32,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.ir import Attribute, Block, SSAValue

from stepwell.conversion.to_llvm.core import FunctionLowering, Handler, llvm_type, lower_constant
from stepwell.diagnostics import unsupported

_FALSE = IntegerAttr(0, i1)


def element_type(type: Attribute) -> Attribute:
    return type.element_type if isinstance(type, VectorType) else type


def with_element(type: Attribute, element: Attribute) -> Attribute:
    """`type` with another element type."""
    return VectorType(element, type.shape) if isinstance(type, VectorType) else element


# --- integers --------------------------------------------------------------------------------------


def _integer(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = low.value(op.operands[0]), low.value(op.operands[1])
        result = low.emit(name, (a, b), a.type)
        low.define(op.results[0], result)
        if a.type != i64:
            return
        left, right = low.linear_of(a), low.linear_of(b)
        if name == "add":
            low.linear[result] = left.plus(right)
        elif name == "sub":
            low.linear[result] = left.plus(right.times(-1))
        elif name == "mul" and not right.terms:
            low.linear[result] = left.times(right.constant)
        elif name == "mul" and not left.terms:
            low.linear[result] = right.times(left.constant)

    return lower


def _known(value: SSAValue) -> int | None:
    """The value of an integer constant or of a splat of one."""
    owner = value.owner
    attr = owner.properties.get("value") if hasattr(owner, "properties") else None  # pyright: ignore
    if isinstance(attr, IntegerAttr):
        return attr.value.data
    if isinstance(attr, DenseAttr) and isinstance(attr.get_element_type(), IntegerType):
        values = set(attr.get_values())
        return int(values.pop()) if len(values) == 1 else None  # pyright: ignore
    return None


def divide(low: FunctionLowering, name: str, a: SSAValue, b: SSAValue) -> SSAValue:
    """`udiv`, `sdiv`, `urem`, `srem` with the defined results of the module's docstring."""
    known = _known(b)
    if known is not None and known not in (0, -1):
        return low.emit(name, (a, b), a.type)
    zero, one = low.splat(0, b.type), low.splat(1, b.type)
    is_zero = low.compare("eq", b, zero)
    safe = low.select(is_zero, one, b)
    if name in ("udiv", "urem"):
        return low.select(is_zero, zero, low.emit(name, (a, safe), a.type))
    is_minus_one = low.compare("eq", b, low.splat(-1, b.type))
    safe = low.select(is_minus_one, one, safe)
    result = low.emit(name, (a, safe), a.type)
    if name == "sdiv":
        result = low.select(is_minus_one, low.emit("sub", (zero, a), a.type), result)
    return low.select(is_zero, zero, result)


def _division(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = (low.value(operand) for operand in op.operands)
        low.define(op.results[0], divide(low, name, a, b))

    return lower


def _rounded_division(up: bool) -> Handler:
    """floor(a / b) == q - 1 and ceil(a / b) == q + 1, where q truncates, if a % b != 0 and q rounded away."""

    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = (low.value(operand) for operand in op.operands)
        quotient, rest = divide(low, "sdiv", a, b), divide(low, "srem", a, b)
        zero = low.splat(0, a.type)
        inexact = low.compare("ne", rest, zero)
        signs = low.compare("sge" if up else "slt", low.emit("xor", (a, b), a.type), zero)
        adjust = low.emit("and", (inexact, signs), inexact.type)
        moved = low.emit("add", (quotient, low.splat(1 if up else -1, a.type)), a.type)
        low.define(op.results[0], low.select(adjust, moved, quotient))

    return lower


def _ceildivui(low: FunctionLowering, op: Any) -> None:
    """ceil(a / b) == (a - 1) / b + 1 for a > 0, else 0."""
    a, b = (low.value(operand) for operand in op.operands)
    zero, one = low.splat(0, a.type), low.splat(1, a.type)
    less = low.emit("sub", (a, one), a.type)
    result = low.emit("add", (divide(low, "udiv", less, b), one), a.type)
    low.define(op.results[0], low.select(low.compare("eq", a, zero), zero, result))


def _shift(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = (low.value(operand) for operand in op.operands)
        element = element_type(a.type)
        assert isinstance(element, IntegerType), "shifts are on integers"
        width = element.width.data
        known = _known(b)
        if known is not None and 0 <= known < width:
            result = low.emit(name, (a, b), a.type)
            if name == "shl" and a.type == i64:
                low.linear[result] = low.linear_of(a).times(1 << known)
            low.define(op.results[0], result)
            return
        zero = low.splat(0, a.type)
        fits = low.compare("ult", b, low.splat(width, b.type))
        shifted = low.emit(name, (a, low.select(fits, b, zero)), a.type)
        low.define(op.results[0], low.select(fits, shifted, zero))

    return lower


def _cmpi(low: FunctionLowering, op: Any) -> None:
    a, b = low.value(op.lhs), low.value(op.rhs)
    type = with_element(a.type, i1)
    low.define(op.result, low.emit("icmp", (a, b), type, {"predicate": op.predicate}))


def _index_cast(signed: bool) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        value, type = low.value(op.operands[0]), llvm_type(op.results[0].type)
        source, target = element_type(value.type), element_type(type)
        assert isinstance(source, IntegerType), "index casts are on integers"
        assert isinstance(target, IntegerType), "index casts are on integers"
        if source.width.data < target.width.data:
            value = low.emit("sext" if signed else "zext", (value,), type)
        elif source.width.data > target.width.data:
            value = low.emit("trunc", (value,), type)
        low.define(op.results[0], value)

    return lower


def _extended_multiply(signed: bool) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = low.value(op.operands[0]), low.value(op.operands[1])
        element = element_type(a.type)
        assert isinstance(element, IntegerType), "products are on integers"
        width = element.width.data
        wide = with_element(a.type, IntegerType(2 * width))
        extend = "sext" if signed else "zext"
        product = low.emit("mul", (low.emit(extend, (a,), wide), low.emit(extend, (b,), wide)), wide)
        high = low.emit("lshr", (product, low.splat(width, wide)), wide)
        low.define(op.results[0], low.emit("trunc", (product,), a.type))
        low.define(op.results[1], low.emit("trunc", (high,), a.type))

    return lower


def _addui_extended(low: FunctionLowering, op: Any) -> None:
    a, b = low.value(op.operands[0]), low.value(op.operands[1])
    total = low.emit("add", (a, b), a.type)
    low.define(op.results[0], total)
    low.define(op.results[1], low.compare("ult", total, a))


# --- floats and conversions ------------------------------------------------------------------------


_ON_BITS = frozenset(("fneg", "intr.fabs", "intr.copysign"))


def _arithmetic(
    low: FunctionLowering,
    name: str,
    operands: Sequence[SSAValue],
    properties: Mapping[str, Attribute] | None = None,
) -> SSAValue:
    """`llvm.<name>` on floats of one type; on bf16 in f32, rounded once."""
    type = operands[0].type
    if name in _ON_BITS or not isinstance(element_type(type), BFloat16Type):
        return low.emit(name, operands, type, properties)
    wide = with_element(type, f32)
    operands = [widened_from_bf16(low, value) for value in operands]
    return narrowed_to_bf16(low, low.emit(name, operands, wide, properties))


def widened_from_bf16(low: FunctionLowering, value: SSAValue) -> SSAValue:
    """
    bf16 as f32, by a shift: of an `fpext` LLVM knows that the value is a bf16, computes in that type again and calls
    `__truncsfbf2`.
    """
    bits = low.emit("bitcast", (value,), with_element(value.type, i16))
    wide = with_element(value.type, i32)
    bits = low.emit("shl", (low.emit("zext", (bits,), wide), low.splat(16, wide)), wide)
    return low.emit("bitcast", (bits,), with_element(value.type, f32))


def _computable(low: FunctionLowering, value: SSAValue) -> SSAValue:
    """`value`, or what is bf16 as f32."""
    is_bf16 = isinstance(element_type(value.type), BFloat16Type)
    return widened_from_bf16(low, value) if is_bf16 else value


def narrowed_to_bf16(low: FunctionLowering, value: SSAValue) -> SSAValue:
    """
    f32 or f64 to the nearest bf16, ties to even, on the bits: LLVM calls `__truncsfbf2` where the CPU has no instruction,
    which no libgcc before 13 has, and takes `vcvtneps2bf16` where it has, which flushes denormals.
    """
    if isinstance(element_type(value.type), Float64Type):
        value = _rounded_to_odd(low, value)
    bits_type = with_element(value.type, i32)
    bits = low.emit("bitcast", (value,), bits_type)
    sixteen = low.splat(16, bits_type)
    last = low.emit("and", (low.emit("lshr", (bits, sixteen), bits_type), low.splat(1, bits_type)), bits_type)
    half = low.emit("add", (last, low.splat(0x7FFF, bits_type)), bits_type)
    rounded = low.emit("add", (bits, half), bits_type)
    size = low.emit("and", (bits, low.splat(0x7FFFFFFF, bits_type)), bits_type)
    is_nan = low.compare("sgt", size, low.splat(0x7F800000, bits_type))
    rounded = low.select(is_nan, low.emit("or", (bits, low.splat(1 << 22, bits_type)), bits_type), rounded)
    high = low.emit("lshr", (rounded, sixteen), bits_type)
    high = low.emit("trunc", (high,), with_element(value.type, i16))
    return low.emit("bitcast", (high,), with_element(value.type, bf16))


def _rounded_to_odd(low: FunctionLowering, value: SSAValue) -> SSAValue:
    """f64 to the one of the two f32 around it whose last bit is 1, or to itself: rounding that once more is exact."""
    single = with_element(value.type, f32)
    bits_type = with_element(value.type, i32)
    nearest = low.emit("fptrunc", (value,), single)
    back = low.emit("fpext", (nearest,), value.type)
    properties = {"fastmathFlags": low.strict}
    sizes = [low.emit("intr.fabs", (x,), value.type, properties) for x in (back, value)]
    flags = with_element(value.type, i1)
    beyond = low.emit("fcmp", sizes, flags, {"predicate": IntegerAttr(2, i64), **properties})
    inexact = low.emit("fcmp", sizes, flags, {"predicate": IntegerAttr(6, i64), **properties})
    bits = low.emit("bitcast", (nearest,), bits_type)
    below = low.emit("sub", (bits, low.emit("zext", (beyond,), bits_type)), bits_type)
    odd = low.emit("or", (below, low.emit("zext", (inexact,), bits_type)), bits_type)
    return low.emit("bitcast", (odd,), single)


def _float(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        operands = [low.value(operand) for operand in op.operands]
        low.define(op.results[0], _arithmetic(low, name, operands, low.fastmath))

    return lower


def _extremum(name: str, other: str) -> Handler:
    """
    max(x, c) == (x <= c ? c : x) for a constant c that is no NaN: NaN passes, and -0 < +0 holds with `<`
    in place of `<=` where c is -0; min alike. Two instructions where the intrinsic takes four. Where either zero will do,
    `<` it is: x86 has one instruction for that.
    """

    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = low.value(op.operands[0]), low.value(op.operands[1])
        if _known_float(a) is not None:
            a, b = b, a
        bound = _known_float(b)
        if bound is None or bound != bound:
            low.define(op.results[0], _arithmetic(low, name, (a, b), low.extremum))
            return
        is_negative_zero = bound == 0 and math.copysign(1, bound) < 0
        strict = is_negative_zero if other == "l" else bound == 0 and not is_negative_zero
        strict = strict or low.extremum["fastmathFlags"] != low.strict
        predicate = {("l", False): 5, ("l", True): 4, ("g", False): 3, ("g", True): 2}[other, strict]
        properties = {"predicate": IntegerAttr(predicate, i64), "fastmathFlags": low.strict}
        pair = _computable(low, a), _computable(low, b)
        beyond = low.emit("fcmp", pair, with_element(a.type, i1), properties)
        low.define(op.results[0], low.select(beyond, b, a))

    return lower


def _number_extremum(name: str, predicate: int) -> Handler:
    """
    The other operand where one is NaN: maxnum(x, a) == (x > a ? x : a) for an `a` that is never NaN, as the maximum of what was met so
    far; minnum alike. One instruction of x86 where the intrinsic takes three.
    """

    def lower(low: FunctionLowering, op: Any) -> None:
        a, b = (low.value(operand) for operand in op.operands)
        known = [is_never_nan(operand) for operand in op.operands]
        if not any(known) or isinstance(element_type(a.type), BFloat16Type):
            low.define(op.results[0], _arithmetic(low, name, (a, b), low.fastmath))
            return
        low.define(op.results[0], better_number(low, *((a, b) if known[1] else (b, a)), predicate))

    return lower


MORE, LESS = 2, 4
"""`fcmp ogt` and `olt`."""


def better_number(low: FunctionLowering, value: SSAValue, best: SSAValue, predicate: int) -> SSAValue:
    """`value` if it compares so with `best`, which is not NaN; else `best`."""
    properties = {"predicate": IntegerAttr(predicate, i64), "fastmathFlags": low.strict}
    is_better = low.emit("fcmp", (value, best), with_element(value.type, i1), properties)
    return low.select(is_better, value, best)


def is_never_nan(value: SSAValue, assumed: frozenset[SSAValue] = frozenset()) -> bool:
    """Whether a value of a function at memref level is no NaN: a constant, an extremum of such a number, or one a loop carries."""
    if value in assumed:
        return True
    owner = value.owner
    if isinstance(owner, Block):
        loop = owner.parent_op()
        if not isinstance(loop, scf.ForOp) or value.index == 0:  # pyright: ignore
            return False
        return _is_carried_without_nan(loop, value.index - 1, assumed)  # pyright: ignore
    if isinstance(owner, scf.ForOp):
        return _is_carried_without_nan(owner, value.index, assumed)  # pyright: ignore
    if owner.name in ("arith.maxnumf", "arith.minnumf"):
        return any(is_never_nan(operand, assumed) for operand in owner.operands)
    known = _known_float(value)
    return known is not None and known == known


def _is_carried_without_nan(loop: scf.ForOp, number: int, assumed: frozenset[SSAValue]) -> bool:
    argument, last = loop.body.block.args[number + 1], loop.body.block.last_op
    assert last is not None, "a loop ends in scf.yield"
    return is_never_nan(loop.iter_args[number], assumed) and is_never_nan(
        last.operands[number], assumed | {argument}
    )


def _known_float(value: SSAValue) -> float | None:
    owner = value.owner
    attr = owner.properties.get("value") if hasattr(owner, "properties") else None  # pyright: ignore
    if isinstance(attr, FloatAttr):
        return attr.value.data
    if isinstance(attr, DenseAttr) and not isinstance(attr.get_element_type(), IntegerType):
        first = attr.data.data[: len(attr.data.data) // len(attr)]
        if attr.data.data == first * len(attr):
            return float(next(iter(attr.get_values())))  # pyright: ignore
    return None


def _cmpf(low: FunctionLowering, op: Any) -> None:
    a, b = (_computable(low, low.value(operand)) for operand in (op.lhs, op.rhs))
    properties = {"predicate": op.predicate, "fastmathFlags": low.strict}
    low.define(op.result, low.emit("fcmp", (a, b), with_element(a.type, i1), properties))


def _select(low: FunctionLowering, op: Any) -> None:
    if op.results[0].type.name == "memref":
        raise unsupported(op, "chooses between memrefs", "use scf.if")
    condition, a, b = (low.value(operand) for operand in op.operands)
    if not isinstance(condition.type, VectorType):
        low.define(op.results[0], low.select(condition, a, b))
        return
    low.define(op.results[0], low.select(condition, a, b))


def _convert(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        value = low.value(op.operands[0])
        low.define(op.results[0], low.emit(name, (value,), llvm_type(op.results[0].type)))

    return lower


_16_BIT = (BFloat16Type, Float16Type)


def _change_float(name: str) -> Handler:
    """Between f16 and bf16 there is no instruction: go through f32, which holds both."""

    def lower(low: FunctionLowering, op: Any) -> None:
        value, type = low.value(op.operands[0]), op.results[0].type
        source, target = element_type(value.type), element_type(type)
        both = source != target and isinstance(source, _16_BIT) and isinstance(target, _16_BIT)
        if source != target and isinstance(source, BFloat16Type):
            value, source = widened_from_bf16(low, value), f32
        elif both:
            value = low.emit("fpext", (value,), with_element(value.type, f32))
        if source != target and isinstance(target, BFloat16Type):
            value = narrowed_to_bf16(low, value)
        elif source != target:
            value = low.emit("fptrunc" if both else name, (value,), type)
        low.define(op.results[0], value)

    return lower


def _to_integer(name: str) -> Handler:
    """Saturating; an i1 is made from i8 (LLVM would saturate -1.0 to i1 true)."""

    def lower(low: FunctionLowering, op: Any) -> None:
        value, type = low.value(op.operands[0]), llvm_type(op.results[0].type)
        low.define(op.results[0], low.emit(name, (_computable(low, value),), type))

    return lower


def _from_integer(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        value, type = low.value(op.operands[0]), op.results[0].type
        if isinstance(element_type(type), BFloat16Type):
            value = narrowed_to_bf16(low, low.emit(name, (value,), with_element(type, f32)))
        else:
            value = low.emit(name, (value,), type)
        low.define(op.results[0], value)

    return lower


def _trunci(low: FunctionLowering, op: Any) -> None:
    value = low.value(op.operands[0])
    low.define(op.results[0], low.emit("trunc", (value,), llvm_type(op.results[0].type)))


# --- math ------------------------------------------------------------------------------------------

_LIBM = {
    "acos": 1, "acosh": 1, "asin": 1, "asinh": 1, "atan": 1, "atan2": 2, "atanh": 1, "cbrt": 1, "cos": 1,
    "cosh": 1, "erf": 1, "erfc": 1, "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log10": 1, "log1p": 1,
    "log2": 1, "powf": 2, "sin": 1, "sinh": 1, "tan": 1, "tanh": 1,
}  # fmt: skip
"""The `math` ops that become calls of the C library, and how many operands they have."""


def libm_name(op: str, type: Attribute) -> str:
    """The C function of `math.<op>` on f32 or f64."""
    name = "pow" if op == "powf" else op
    return name if isinstance(type, Float64Type) else f"{name}f"


def _library(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        operands = [low.value(operand) for operand in op.operands]
        type = operands[0].type
        element = element_type(type)
        narrow = isinstance(element, _16_BIT)
        if not narrow and not isinstance(element, Float32Type | Float64Type):
            raise unsupported(op, f"has no library function on {element}", "use f32 or f64")
        wide = f32 if narrow else element
        callee = libm_name(name, wide)
        low.declare(callee, [wide] * len(operands), wide)

        def one(arguments: list[SSAValue]) -> SSAValue:
            if narrow:
                arguments = [
                    widened_from_bf16(low, value)
                    if isinstance(element, BFloat16Type)
                    else low.emit("fpext", (value,), wide)
                    for value in arguments
                ]
            result = low.call(callee, arguments, wide)
            if isinstance(element, BFloat16Type):
                return narrowed_to_bf16(low, result)
            return low.emit("fptrunc", (result,), element) if narrow else result

        if not isinstance(type, VectorType):
            low.define(op.results[0], one(operands))
            return
        result = low.poison(type)
        for lane in range(type.get_shape()[0]):
            position = low.integer(lane)
            lanes = [low.emit("extractelement", (value, position), element) for value in operands]
            result = low.emit("insertelement", (result, one(lanes), position), type)
        low.define(op.results[0], result)

    return lower


def _rsqrt(low: FunctionLowering, op: Any) -> None:
    value = low.value(op.operands[0])
    root = _arithmetic(low, "intr.sqrt", (value,), low.fastmath)
    low.define(op.results[0], _arithmetic(low, "fdiv", (low.splat(1.0, value.type), root), low.fastmath))


def _flagged(name: str, flag: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        value = low.value(op.operands[0])
        low.define(op.results[0], low.emit(name, (value,), value.type, {flag: _FALSE}))

    return lower


def _intrinsic(name: str) -> Handler:
    def lower(low: FunctionLowering, op: Any) -> None:
        operands = [low.value(operand) for operand in op.operands]
        low.define(op.results[0], low.emit(name, operands, operands[0].type))

    return lower


def _fpowi(low: FunctionLowering, op: Any) -> None:
    base, exponent = (low.value(operand) for operand in op.operands)
    if exponent.type != i32:
        raise unsupported(op, f"has an exponent of {exponent.type}", "use an i32 exponent")
    low.define(op.results[0], low.emit("intr.powi", (base, exponent), base.type, low.fastmath))


def _classify(predicate: int, positive: bool) -> Callable[[FunctionLowering, Any], None]:
    """isnan(x) == (x uno x); isinf(x) == (|x| == inf)."""

    def lower(low: FunctionLowering, op: Any) -> None:
        value = _computable(low, low.value(op.operands[0]))
        other = value
        if positive:
            value = low.emit("intr.fabs", (value,), value.type, low.fastmath)
            other = low.splat(float("inf"), value.type)
        properties = {"predicate": IntegerAttr(predicate, i64), "fastmathFlags": low.strict}
        low.define(op.results[0], low.emit("fcmp", (value, other), with_element(value.type, i1), properties))

    return lower


SCALARS: dict[str, Handler] = {
    "arith.constant": lower_constant,
    **{
        f"arith.{name}": _integer(target)
        for name, target in (
            ("addi", "add"), ("subi", "sub"), ("muli", "mul"), ("andi", "and"), ("ori", "or"), ("xori", "xor"),
            ("minsi", "intr.smin"), ("maxsi", "intr.smax"), ("minui", "intr.umin"), ("maxui", "intr.umax"),
        )
    },
    "arith.divui": _division("udiv"),
    "arith.divsi": _division("sdiv"),
    "arith.remui": _division("urem"),
    "arith.remsi": _division("srem"),
    "arith.floordivsi": _rounded_division(up=False),
    "arith.ceildivsi": _rounded_division(up=True),
    "arith.ceildivui": _ceildivui,
    "arith.shli": _shift("shl"),
    "arith.shrui": _shift("lshr"),
    "arith.shrsi": _shift("ashr"),
    "arith.cmpi": _cmpi,
    "arith.cmpf": _cmpf,
    "arith.select": _select,
    "arith.index_cast": _index_cast(signed=True),
    "arith.index_castui": _index_cast(signed=False),
    "arith.mulsi_extended": _extended_multiply(signed=True),
    "arith.mului_extended": _extended_multiply(signed=False),
    "arith.addui_extended": _addui_extended,
    **{
        f"arith.{name}": _float(target)
        for name, target in (
            ("addf", "fadd"), ("subf", "fsub"), ("mulf", "fmul"), ("divf", "fdiv"), ("remf", "frem"),
            ("negf", "fneg"),
        )
    },
    "arith.maxnumf": _number_extremum("intr.maxnum", MORE),
    "arith.minnumf": _number_extremum("intr.minnum", LESS),
    "arith.maximumf": _extremum("intr.maximum", "l"),
    "arith.minimumf": _extremum("intr.minimum", "g"),
    "arith.extf": _change_float("fpext"),
    "arith.truncf": _change_float("fptrunc"),
    "arith.fptosi": _to_integer("intr.fptosi.sat"),
    "arith.fptoui": _to_integer("intr.fptoui.sat"),
    **{
        f"arith.{name}": _convert(target)
        for name, target in (
            ("extsi", "sext"), ("extui", "zext"), ("bitcast", "bitcast"),
        )
    },
    "arith.sitofp": _from_integer("sitofp"),
    "arith.uitofp": _from_integer("uitofp"),
    "arith.trunci": _trunci,
    **{f"math.{name}": _library(name) for name in _LIBM},
    **{
        f"math.{name}": _float(f"intr.{target}")
        for name, target in (
            ("absf", "fabs"), ("ceil", "ceil"), ("copysign", "copysign"), ("floor", "floor"), ("fma", "fma"),
            ("round", "round"), ("roundeven", "roundeven"), ("sqrt", "sqrt"), ("trunc", "trunc"),
        )
    },
    "vector.fma": _float("intr.fma"),
    "math.rsqrt": _rsqrt,
    "math.fpowi": _fpowi,
    "math.absi": _flagged("intr.abs", "is_int_min_poison"),
    "math.ctlz": _flagged("intr.ctlz", "is_zero_poison"),
    "math.cttz": _flagged("intr.cttz", "is_zero_poison"),
    "math.ctpop": _intrinsic("intr.ctpop"),
    "math.isnan": _classify(14, positive=False),
    "math.isinf": _classify(1, positive=True),
    "math.isfinite": _classify(4, positive=True),
}  # fmt: skip
