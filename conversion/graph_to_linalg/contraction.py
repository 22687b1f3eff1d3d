"""Matrix products: a generic whose body is multiply and add, on an accumulator that starts at 0."""

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import AnyFloat, f32, i32
from xdsl.ir import Attribute, SSAValue
from xdsl.ir.affine import AffineExpr

from stepwell.conversion.graph_to_linalg.lowering import Lowering, Shape, dims, is_unsigned, lowers
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.diagnostics import unsupported

Exprs = Sequence[AffineExpr | int]


def accumulator_of(element: Attribute) -> Attribute:
    """The type that sums of products of `element` are kept in: f32 for a narrower float."""
    return f32 if isinstance(element, AnyFloat) and element.bitwidth < 32 else element


def contract(
    low: Lowering, iterators: str, a: tuple[SSAValue, Exprs], b: tuple[SSAValue, Exprs], shape: Shape, out: Exprs
) -> SSAValue:  # fmt: skip
    """`out += a * b` over the dims, from 0; narrow floats are widened and the sum rounded at the end."""
    element = low.element(a[0])
    wide = accumulator_of(element)
    init = low.fill(0, shape, wide)

    def body(x: Scalar, y: Scalar, total: Scalar) -> Scalar:
        return total + x.cast(wide) * y.cast(wide)

    (result,) = low.generic(iterators, [a, b], [(init, out)], body)
    return result if wide == element else low.map(lambda x: x, [result], shape, element)


def _broadcast(low: Lowering, value: SSAValue, batch: Shape, keep: int) -> SSAValue:
    """`value` with its leading axes, but the last `keep`, stretched to `batch` if that is known at run time only."""
    own = low.shape(value)
    if all(e in (b, 1) for e, b in zip(own[: len(own) - keep][::-1], batch[::-1], strict=False)):
        return value
    shape = (*batch, *own[len(own) - keep :])
    return low.map(lambda x: x, [value], shape, low.element(value), widen=False)


def matmul(low: Lowering, a: SSAValue, b: SSAValue) -> SSAValue:
    """numpy's matmul: leading axes are broadcast, a vector is a row on the left and a column on the right."""
    keep_a, keep_b = min(low.rank(a), 2), min(low.rank(b), 2)
    batch_a, batch_b = low.shape(a)[: low.rank(a) - keep_a], low.shape(b)[: low.rank(b) - keep_b]
    batch = low.broadcast_shape([batch_a, batch_b]) if batch_a or batch_b else ()
    a, b = _broadcast(low, a, batch, keep_a), _broadcast(low, b, batch, keep_b)
    rows, columns = keep_a == 2, keep_b == 2
    parallel = len(batch) + rows + columns
    d = dims(parallel + 1)
    k = d[parallel]

    def lead(value: SSAValue, keep: int) -> list[AffineExpr | int]:
        own = low.shape(value)
        extents = own[: len(own) - keep]
        skip = len(batch) - len(extents)
        return [0 if e == 1 and batch[skip + i] != 1 else d[skip + i] for i, e in enumerate(extents)]

    at_a = [*lead(a, keep_a), *([d[len(batch)]] if rows else []), k]
    at_b = [*lead(b, keep_b), k, *([d[parallel - 1]] if columns else [])]
    shape = (*batch, *([low.shape(a)[-2]] if rows else []), *([low.shape(b)[-1]] if columns else []))
    return contract(low, "p" * parallel + "r", (a, at_a), (b, at_b), shape, d[:parallel])


@lowers("matmul")
def _matmul(low: Lowering, op: Any) -> SSAValue:
    a, b = low.operands(op)
    return matmul(low, a, b)


@lowers("gemm")
def _gemm(low: Lowering, op: Any) -> SSAValue:
    a, b, c = [*low.operands(op), None][:3]
    if low.attr(op, "trans_a"):
        a = low.transpose(a, [1, 0])
    if low.attr(op, "trans_b"):
        b = low.transpose(b, [1, 0])
    product = matmul(low, a, b)
    alpha, beta = low.attr(op, "alpha"), low.attr(op, "beta")
    shape, element = low.shape(product), low.element(product)

    def scaled(x: Scalar, factor: float) -> Scalar:
        return x if factor == 1.0 else x * (factor if x.is_float else int(factor))

    if c is not None and beta != 0.0:
        return low.map(lambda x, y: scaled(x, alpha) + scaled(y, beta), [product, c], shape, element)
    return product if alpha == 1.0 else low.map(lambda x: scaled(x, alpha), [product], shape, element)


def parameter(
    low: Lowering, value: SSAValue, shape: Shape, axis: int | None
) -> tuple[SSAValue, list[AffineExpr | int] | None]:
    """
    A scale or a zero point of a tensor of `shape`, one number or one for each index of `axis`, and where it is read;
    None where it is broadcast, as of an extent with a name only the run knows whether it is 1.
    """
    own, rank = low.shape(value), len(shape)
    if axis is None or all(extent == 1 for extent in own):
        zeros: list[AffineExpr | int] = [0] * len(own)
        return value, zeros
    extent, *more = own
    if more:
        return value, None
    axis %= rank
    if extent == shape[axis] or isinstance(extent, int):
        return value, [dims(rank)[axis]]
    return low.reshape(value, (extent, *[1] * (rank - 1 - axis))), None


def to_i32(
    low: Lowering,
    value: SSAValue,
    unsigned: bool,
    zero: SSAValue | None,
    zero_unsigned: bool,
    axis: int | None = None,
) -> SSAValue:
    """The integers minus their zero point (a scalar, or one for each index of `axis`), as i32."""
    inputs = [value]
    at: list[Sequence[AffineExpr | int] | None] = [dims(low.rank(value))]
    if zero is not None:
        zero, place = parameter(low, zero, low.shape(value), axis)
        inputs.append(zero)
        at.append(place)

    def body(x: Scalar, *z: Scalar) -> Scalar:
        wide = x.as_integer(i32, False)
        return wide - z[0].as_integer(i32, False) if z else wide

    return low.map(
        body, inputs, low.shape(value), i32, at=at, unsigned=[unsigned, zero_unsigned][: len(inputs)]
    )


@lowers("matmul_integer")
def _matmul_integer(low: Lowering, op: Any) -> SSAValue:
    a, b, za, zb = [*low.operands(op), None, None][:4]
    old = [*op.operand_list(), None, None]
    flags = [v is not None and is_unsigned(v.type.element_type) for v in old[:4]]
    a = to_i32(low, a, flags[0], za, flags[2], low.rank(a) - 2)
    b = to_i32(low, b, flags[1], zb, flags[3], low.rank(b) - 1)
    return matmul(low, a, b)


# A chain of two-operand contractions; a label is summed in the first one after which nobody needs it.
@lowers("einsum")
def _einsum(low: Lowering, op: Any) -> SSAValue:
    values = low.operands(op)
    terms, output = _labels(low, op, values)
    extents: dict[str, Any] = {}
    for value, labels in zip(values, terms, strict=True):
        for label, extent in zip(labels, low.shape(value), strict=True):
            if extents.get(label, 1) == 1:
                extents[label] = extent
    value, labels = values[0], terms[0]
    for i in range(1, len(values)):
        later = {*output, *(x for t in terms[i + 1 :] for x in t)}
        result = [x for x in dict.fromkeys([*labels, *terms[i]]) if x in later]
        if i == len(values) - 1:
            result = list(output)
        value = _contract_labels(low, (value, labels), (values[i], terms[i]), result, extents)
        labels = result
    if list(labels) != list(output):
        value = _sum_labels(low, value, labels, output, extents)
    return value


def _labels(low: Lowering, op: Any, values: list[SSAValue]) -> tuple[list[list[str]], list[str]]:
    """The labels of the axes of every operand and of the result; an ellipsis becomes numbered labels."""
    equation = low.attr(op, "equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms: list[list[str]] = []
    widest = 0
    for term, value in zip(left.split(","), values, strict=True):
        letters = term.replace("...", "")
        count = low.rank(value) - len(letters)
        if count and "..." not in term:
            raise unsupported(
                op, f"{term} does not name the {low.rank(value)} axes of its operand", "correct it"
            )
        widest = max(widest, count)
        dots = [f".{i}" for i in range(count, 0, -1)]
        before, _, after = term.partition("...")
        terms.append([*before, *dots, *after])
    dots = [f".{i}" for i in range(widest, 0, -1)]
    if arrow:
        before, found, after = right.partition("...")
        return terms, [*before, *(dots if found else []), *after]
    once = sorted(
        x for x in {y for t in terms for y in t if y[0] != "."} if sum(t.count(x) for t in terms) == 1
    )
    return terms, [*dots, *once]


def _places(
    low: Lowering, value: SSAValue, labels: Sequence[str], order: list[str], extents: dict[str, Any]
) -> Exprs:
    d = dims(len(order))
    return [
        0 if extent == 1 and extents[label] != 1 else d[order.index(label)]
        for label, extent in zip(labels, low.shape(value), strict=True)
    ]


def _contract_labels(
    low: Lowering, a: tuple[SSAValue, Sequence[str]], b: tuple[SSAValue, Sequence[str]], out: list[str],
    extents: dict[str, Any],
) -> SSAValue:  # fmt: skip
    summed = [x for x in dict.fromkeys([*a[1], *b[1]]) if x not in out]
    order = [*out, *summed]
    shape = tuple(extents[x] for x in out)
    d = dims(len(order))
    at_a, at_b = _places(low, *a, order, extents), _places(low, *b, order, extents)
    if not summed:
        return low.map(lambda x, y: x * y, [a[0], b[0]], shape, low.element(a[0]), at=[at_a, at_b])
    return contract(low, "p" * len(out) + "r" * len(summed), (a[0], at_a), (b[0], at_b), shape, d[: len(out)])


def _sum_labels(
    low: Lowering, value: SSAValue, labels: Sequence[str], out: Sequence[str], extents: dict[str, Any]
) -> SSAValue:  # fmt: skip
    summed = [x for x in dict.fromkeys(labels) if x not in out]
    order = [*out, *summed]
    shape = tuple(extents[x] for x in out)
    element = low.element(value)
    at = _places(low, value, labels, order, extents)
    if not summed:
        return low.map(lambda x: x, [value], shape, element, at=[at], widen=False)
    wide = accumulator_of(element)
    init = low.fill(0, shape, wide)
    (total,) = low.generic(
        "p" * len(out) + "r" * len(summed),
        [(value, at)],
        [(init, dims(len(order))[: len(out)])],
        lambda x, acc: acc + x.cast(wide),
    )
    return total if wide == element else low.map(lambda x: x, [total], shape, element)
