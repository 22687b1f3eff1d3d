"""Express operators that have no lowering of their own by simpler ones."""

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerType, ModuleOp, f32, f64, i32, i64
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from stepwell.diagnostics import unsupported
from stepwell.dialects.graph import GraphOp, dims_of, known_integers, numpy_dtype
from stepwell.transforms.graph.emitter import Emitter, Rule, apply_rules, element_type, static_shape
from stepwell.transforms.graph.fold_batch_norm import affine_of
from stepwell.transforms.graph.sequence_map import sequence_map_as_loop

Values = Sequence[SSAValue | None]


def _operand(op: GraphOp, place: int) -> SSAValue | None:
    listed = op.operand_list()
    return listed[place] if place < len(listed) else None


def _rank(value: SSAValue) -> int:
    return len(dims_of(value.type))


# --- element-wise ----------------------------------------------------------------------------------------------------


# sum(x, y, z) == (x + y) + z
def chain_sum(op: GraphOp, emitter: Emitter) -> Values:
    total, *rest = op.operands
    for value in rest:
        total = emitter.make("Add", total, value)
    return [total]


# mean(x_1, ..., x_n) == sum(x_1, ..., x_n) / n
def mean_as_sum(op: GraphOp, emitter: Emitter) -> Values:
    (total,) = chain_sum(op, emitter)
    assert total is not None
    return [emitter.make("Div", total, emitter.scalar(total, len(op.operands)))]


# max(x, y, z) == max(max(x, y), z)
def chain_extremum(op: GraphOp, emitter: Emitter) -> Values | None:
    if len(op.operands) <= 2:
        return None
    result, *rest = op.operands
    for value in rest:
        result = emitter.make(op.ONNX_NAME, result, value)
    return [result]


# prelu(x, slope) == where(x < 0, slope * x, x)
def expand_prelu(op: GraphOp, emitter: Emitter) -> Values:
    x, slope = op.operands
    negative = emitter.make("Less", x, emitter.scalar(x, 0))
    return [emitter.make("Where", negative, emitter.make("Mul", slope, x), x)]


# cast_like(x, y) == cast(x, type of y)
def cast_like_as_cast(op: GraphOp, emitter: Emitter) -> Values:
    properties = {k: v for k, v in op.properties.items() if k in ("saturate", "round_mode")}
    return [emitter.make("Cast", op.operands[0], to=element_type(op.operands[1]), **properties)]


# size(x) == product of shape(x)
def size_as_product(op: GraphOp, emitter: Emitter) -> Values:
    shape = static_shape(op.operands[0])
    if shape is not None:
        return [emitter.constant(np.array(int(np.prod(shape, dtype=object)), np.int64))]
    return [emitter.make("ReduceProd", emitter.make("Shape", op.operands[0]), emitter.ints([0]), keepdims=0)]


# --- contractions ----------------------------------------------------------------------------------------------------


# gemm(a, b, c) == alpha * (a' @ b') + beta * c   where ' transposes if asked
def gemm_as_matmul(op: GraphOp, emitter: Emitter) -> Values:
    a, b = op.operands[:2]
    if op.get("trans_a"):
        a = emitter.make("Transpose", a, perm=[1, 0])
    if op.get("trans_b"):
        b = _transposed(b, emitter)
    product = emitter.make("MatMul", a, b)
    if (alpha := op.get("alpha")) != 1.0:
        product = emitter.make("Mul", product, emitter.scalar(product, alpha))
    bias = _operand(op, 2)
    if bias is None or op.get("beta") == 0.0:
        return [product]
    if (beta := op.get("beta")) != 1.0:
        bias = emitter.make("Mul", bias, emitter.scalar(bias, beta))
    return [emitter.make("Add", product, bias)]


def _transposed(value: SSAValue, emitter: Emitter) -> SSAValue:
    """A constant matrix is transposed here and now."""
    array = emitter.value(value)
    if array is None:
        return emitter.make("Transpose", value, perm=[1, 0])
    return emitter.constant(np.ascontiguousarray(array.T), element_type(value))


# einsum("ab,bc->ac", x, y): diagonals taken, lone axes summed, then batched matrix products from left to right.
def expand_einsum(op: GraphOp, emitter: Emitter) -> Values | None:
    sides, output = _parse_equation(op)
    left, left_axes = _einsum_operand(op.operands[0], sides[0], [*sides[1:], output], op, emitter)
    for place in range(1, len(sides)):
        right, right_axes = _einsum_operand(
            op.operands[place], sides[place], [left_axes, *sides[place + 1 :], output], op, emitter
        )
        later = set("".join(sides[place + 1 :]) + output)
        left, left_axes = _contract(left, left_axes, right, right_axes, later, emitter)
    for axis in [a for a in left_axes if a not in output]:
        left = emitter.make("ReduceSum", left, emitter.ints([left_axes.index(axis)]), keepdims=0)
        left_axes = left_axes.replace(axis, "")
    permutation = [left_axes.index(axis) for axis in output]
    if permutation != list(range(len(permutation))):
        left = emitter.make("Transpose", left, perm=permutation)
    return [left]


def _parse_equation(op: GraphOp) -> tuple[list[str], str]:
    """The letters of each operand and of the result; an ellipsis becomes letters of its own."""
    text = op.get("equation").replace(" ", "")
    inputs, arrow, output = text.partition("->")
    sides = inputs.split(",")
    spare = [letter for letter in string.ascii_letters if letter not in text]
    ranks = [
        _rank(v) - len(s.replace("...", "")) for s, v in zip(sides, op.operands, strict=True) if "..." in s
    ]
    widest = max(ranks, default=0)
    if widest > len(spare):
        raise unsupported(op, "the equation needs more than 52 letters", "split the product")
    dots = "".join(spare[:widest])
    named = []
    for side, value in zip(sides, op.operands, strict=True):
        own = _rank(value) - len(side.replace("...", ""))
        named.append(side.replace("...", dots[widest - own :] if own else ""))
    if not arrow:
        every = "".join(sides).replace(".", "")
        output = dots + "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
    else:
        output = output.replace("...", dots)
    return named, output


def _einsum_operand(
    value: SSAValue, axes: str, others: Sequence[str], op: GraphOp, emitter: Emitter
) -> tuple[SSAValue, str]:
    """`value` with each letter once, and those summed that nobody else has."""
    for axis in sorted(set(axes)):
        if axes.count(axis) > 1:
            value, axes = _diagonal(value, axes, axis, emitter)
    for axis in sorted(set(axes) - set("".join(others))):
        value = emitter.make("ReduceSum", value, emitter.ints([axes.index(axis)]), keepdims=0)
        axes = axes.replace(axis, "")
    return value, axes


def _diagonal(value: SSAValue, axes: str, axis: str, emitter: Emitter) -> tuple[SSAValue, str]:
    # The diagonal of two axes brought to the end: nothing else is kept, and the sum over the last is taken.
    while axes.count(axis) > 1:
        first = axes.index(axis)
        second = axes.index(axis, first + 1)
        order = [place for place in range(len(axes)) if place not in (first, second)] + [first, second]
        value = emitter.make("Transpose", value, perm=order)
        axes = "".join(axes[place] for place in order)
        # Not a product with 1 and 0: an infinity beside the diagonal would make it NaN.
        kept = emitter.make("Where", _unit_mask(value, emitter), value, emitter.scalar(value, 0))
        value = emitter.make("ReduceSum", kept, emitter.ints([len(axes) - 1]), keepdims=0)
        axes = axes[:-1]
    return value, axes


def _unit_mask(value: SSAValue, emitter: Emitter) -> SSAValue:
    """Where the last two indices of `value` are equal."""
    extent = list(dims_of(value.type))[-1]
    if isinstance(extent, int):
        return emitter.constant(np.eye(extent, dtype=bool))
    count = emitter.make("Squeeze", emitter.make("Shape", value, start=-1))
    zero, one = (emitter.constant(np.array(number, np.int64)) for number in (0, 1))
    places = emitter.make("Range", zero, count, one)
    return emitter.make("Equal", emitter.make("Unsqueeze", places, emitter.ints([1])), places)


def _contract(
    left: SSAValue, left_axes: str, right: SSAValue, right_axes: str, later: set[str], emitter: Emitter
) -> tuple[SSAValue, str]:
    """One product of two operands: batch axes stay, shared axes that nobody needs later are summed."""
    shared = [a for a in left_axes if a in right_axes]
    summed = [a for a in shared if a not in later]
    batch = [a for a in shared if a in later]
    rows = [a for a in left_axes if a not in shared]
    columns = [a for a in right_axes if a not in shared]
    if (
        not summed
        or not _mergeable(left, left_axes, summed, rows)
        or not _mergeable(right, right_axes, summed, columns)
    ):
        order = "".join(batch + rows + columns + summed)
        product = emitter.make(
            "Mul", _aligned(left, left_axes, order, emitter), _aligned(right, right_axes, order, emitter)
        )
        if summed:
            first = len(order) - len(summed)
            product = emitter.make("ReduceSum", product, emitter.ints(range(first, len(order))), keepdims=0)
        return product, "".join(batch + rows + columns)
    a = _matrix(left, left_axes, batch, [rows, summed], emitter)
    b = _matrix(right, right_axes, batch, [summed, columns], emitter)
    product = emitter.make("MatMul", a, b)
    extents = [dims_of(left.type)[left_axes.index(x)] for x in rows]
    others = [dims_of(right.type)[right_axes.index(x)] for x in columns]
    if len(rows) != 1 or len(columns) != 1:
        static = [dims_of(product.type)[place] for place in range(len(batch))] + extents + others
        product = emitter.make(
            "Reshape",
            product,
            emitter.ints([d if isinstance(d, int) else -1 for d in static]),
            allowzero=1 if 0 in static else 0,
        )
    return product, "".join(batch + rows + columns)


def _mergeable(value: SSAValue, axes: str, *groups: list[str]) -> bool:
    """Whether each group of axes can be one axis of a reshape: several axes need numbers, and no extent is 1."""
    shape = static_shape(value)
    if shape is None:
        return False
    return (
        all(shape[axes.index(axis)] > 1 for group in groups for axis in group)
        and all(extent > 0 for extent in shape)
        and all(shape[axes.index(axis)] > 1 for axis in axes)
    )


def _matrix(
    value: SSAValue, axes: str, batch: list[str], groups: list[list[str]], emitter: Emitter
) -> SSAValue:
    order = batch + groups[0] + groups[1]
    permutation = [axes.index(axis) for axis in order]
    if permutation != list(range(len(axes))):
        value = emitter.make("Transpose", value, perm=permutation)
    if any(len(group) != 1 for group in groups):
        shape = static_shape(value)
        assert shape is not None, "only static operands are merged"
        merged, at = shape[: len(batch)], len(batch)
        for group in groups:
            merged.append(int(np.prod(shape[at : at + len(group)], dtype=np.int64)))
            at += len(group)
        value = emitter.make("Reshape", value, emitter.ints(merged), allowzero=0)
    return value


def _aligned(value: SSAValue, axes: str, order: str, emitter: Emitter) -> SSAValue:
    """`value` with its axes in the order of `order`, and an axis of extent 1 where it has none."""
    permutation = [axes.index(axis) for axis in order if axis in axes]
    if permutation != list(range(len(axes))):
        value = emitter.make("Transpose", value, perm=permutation)
    missing = [place for place, axis in enumerate(order) if axis not in axes]
    return emitter.make("Unsqueeze", value, emitter.ints(missing)) if missing else value


# --- pooling and reductions ------------------------------------------------------------------------------------------


def _spatial(value: SSAValue) -> list[int]:
    return list(range(2, _rank(value)))


# global_average_pool(x) == reduce_mean(x, space)
def global_pool_as_reduction(op: GraphOp, emitter: Emitter) -> Values:
    (x,) = op.operands
    name = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}[op.ONNX_NAME]
    return [emitter.make(name, x, emitter.ints(_spatial(x)), keepdims=1)]


# global_lp_pool(x) == (sum over space of |x| ** p) ** (1 / p)
def global_lp_pool_as_norm(op: GraphOp, emitter: Emitter) -> Values:
    (x,) = op.operands
    return [_norm(x, op.get("p"), _spatial(x), emitter)]


def _norm(x: SSAValue, order: int, axes: Sequence[int], emitter: Emitter) -> SSAValue:
    places = emitter.ints(axes)
    if order == 1:
        return emitter.make("ReduceSum", emitter.make("Abs", x), places, keepdims=1)
    if order == 2:
        return emitter.make("Sqrt", emitter.make("ReduceSum", emitter.make("Mul", x, x), places, keepdims=1))
    power = emitter.make("Pow", emitter.make("Abs", x), emitter.scalar(x, order))
    return emitter.make(
        "Pow", emitter.make("ReduceSum", power, places, keepdims=1), emitter.scalar(x, 1 / order)
    )


# lp_normalization(x) == x / norm(x), and 0 where the norm is 0
def expand_lp_normalization(op: GraphOp, emitter: Emitter) -> Values:
    (x,) = op.operands
    norm = _norm(x, op.get("p"), [op.get("axis") % _rank(x)], emitter)
    nothing = emitter.make("Equal", norm, emitter.scalar(norm, 0))
    safe = emitter.make("Where", nothing, emitter.scalar(norm, 1), norm)
    return [emitter.make("Div", x, safe)]


# reduce_l1(x) == reduce_sum(|x|);  reduce_l2(x) == sqrt(reduce_sum(x * x));  and so on
def reduction_as_sum(op: GraphOp, emitter: Emitter) -> Values | None:
    x, axes = op.operands[0], _operand(op, 1)
    how = {k: v for k, v in op.properties.items() if k in ("keepdims", "noop_with_empty_axes")}
    name = op.ONNX_NAME
    if op.get("noop_with_empty_axes") and (axes is None or known_integers(axes) == []):
        # No axes: only the element-wise part is left, and the logarithm of an exponential is nothing.
        if name == "ReduceLogSumExp":
            return [x]
    elif (
        op.get("noop_with_empty_axes")
        and name == "ReduceLogSumExp"
        and axes is not None
        and static_shape(axes) is None
    ):
        raise unsupported(op, "noop_with_empty_axes with axes that may be empty", "give the axes a shape")
    element = element_type(x)
    if name == "ReduceLogSumExp":
        real = emitter.make("Cast", x, to=f64) if isinstance(element, IntegerType) else x
        (result,) = _log_sum_exp(op, emitter, real, axes)
        return [result if real is x else emitter.make("Cast", result, to=element)]
    inner = {
        "ReduceL1": lambda: emitter.make("Abs", x),
        "ReduceL2": lambda: emitter.make("Mul", x, x),
        "ReduceSumSquare": lambda: emitter.make("Mul", x, x),
        "ReduceLogSum": lambda: x,
    }[name]()
    total = emitter.make("ReduceSum", inner, axes, **how)
    outer = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(name)
    if outer is None:
        return [total]
    if isinstance(element, IntegerType):
        return [emitter.make("Cast", emitter.make(outer, emitter.make("Cast", total, to=f64)), to=element)]
    return [emitter.make(outer, total)]


# log(sum(exp(x))) == m + log(sum(exp(x - m)))   where m = max(x), or 0 if that is infinite
def _log_sum_exp(op: GraphOp, emitter: Emitter, x: SSAValue, axes: SSAValue | None) -> list[SSAValue]:
    largest = emitter.make("ReduceMax", x, axes, keepdims=1)
    finite = emitter.make("Where", emitter.make("IsInf", largest), emitter.scalar(x, 0), largest)
    total = emitter.make("ReduceSum", emitter.make("Exp", emitter.make("Sub", x, finite)), axes, keepdims=1)
    result = emitter.make("Add", emitter.make("Log", total), finite)
    if op.get("keepdims"):
        return [result]
    # The same reduction over extents of 1 drops the axes, whether they are known or not.
    return [emitter.make("ReduceSum", result, axes, keepdims=0)]


# --- normalisations --------------------------------------------------------------------------------------------------


def _by_channel(value: SSAValue, rank: int, emitter: Emitter) -> SSAValue:
    """One value a channel, shaped to broadcast against `[N, C, ...]`."""
    return value if rank < 3 else emitter.make("Unsqueeze", value, emitter.ints(range(1, rank - 1)))


# batch_normalization(x) == a * x + b   where a = scale / sqrt(var + epsilon), b = bias - mean * a
def batch_norm_as_affine(op: GraphOp, emitter: Emitter) -> Values:
    x, scale, bias, mean, variance = op.operands
    results = op.result_list()
    if len({element_type(v) for v in op.operands}) > 1:
        return _batch_norm_of_one_type(op, emitter)
    if op.get("training_mode"):
        return _batch_norm_of_batch(op, emitter)
    if any(r is not None and r.uses for r in results[1:]):
        raise unsupported(op, "its running statistics without training_mode", "set training_mode")
    rank, element = _rank(x), element_type(x)
    if (affine := affine_of(op, emitter)) is not None:
        shape = [-1] + [1] * (max(rank, 2) - 2)
        factor, shift = (
            emitter.constant(v.reshape(shape).astype(numpy_dtype(element)), element) for v in affine
        )
    else:
        epsilon = emitter.scalar(variance, op.get("epsilon"))
        root = emitter.make("Sqrt", emitter.make("Add", variance, epsilon))
        factor = emitter.make("Div", scale, root)
        shift = emitter.make("Sub", bias, emitter.make("Mul", mean, factor))
        factor, shift = (_by_channel(v, rank, emitter) for v in (factor, shift))
    scaled = emitter.make("Mul", x, factor)
    return [emitter.make("Add", scaled, shift), *[None] * (len(results) - 1)]


# batch_normalization(x: T, scale: U, mean: V) == cast(batch_normalization(cast(x), cast(scale), cast(mean)))   in f32, or f64
def _batch_norm_of_one_type(op: GraphOp, emitter: Emitter) -> Values:
    wide = f64 if f64 in {element_type(v) for v in op.operands} else f32
    operands = [emitter.make("Cast", v, to=wide) for v in op.operands]
    settings = {name: op.get(name) for name in ("epsilon", "momentum", "training_mode", "layout")}
    wanted = [r is not None for r in op.result_list()]
    made = iter(emitter.emit("BatchNormalization", *operands, outputs=wanted, **settings).results)
    return [
        None if r is None else emitter.make("Cast", next(made), to=element_type(r)) for r in op.result_list()
    ]


# y = scale * standardised(x over all but the channels) + bias; running = momentum * input + (1 - momentum) * of the batch
def _batch_norm_of_batch(op: GraphOp, emitter: Emitter) -> Values:
    x, scale, bias, *running = op.operands
    rank, momentum = _rank(x), op.get("momentum")
    if rank < 2:
        raise unsupported(op, f"training_mode with x of rank {rank}", "give x a channel axis")
    axes = emitter.ints([0, *range(2, rank)])
    mean = emitter.make("ReduceMean", x, axes, keepdims=1)
    centred = emitter.make("Sub", x, mean)
    variance = emitter.make("ReduceMean", emitter.make("Mul", centred, centred), axes, keepdims=1)
    root = emitter.make("Sqrt", emitter.make("Add", variance, emitter.scalar(x, op.get("epsilon"))))
    scale, bias = (_by_channel(_like(v, x, emitter), rank, emitter) for v in (scale, bias))
    y = emitter.make("Add", emitter.make("Mul", emitter.make("Div", centred, root), scale), bias)
    found: list[SSAValue | None] = [y]
    for old, new in zip(running, (mean, variance), strict=True):
        new = _like(emitter.make("Squeeze", new, axes), old, emitter)
        kept = emitter.make("Mul", old, emitter.scalar(old, momentum))
        found.append(emitter.make("Add", kept, emitter.make("Mul", new, emitter.scalar(old, 1 - momentum))))
    return found[: len(op.result_list())]


def _like(value: SSAValue, other: SSAValue, emitter: Emitter) -> SSAValue:
    """`value` with the element type of `other`."""
    wanted = element_type(other)
    return value if element_type(value) == wanted else emitter.make("Cast", value, to=wanted)


def _standardised(x: SSAValue, axes: Sequence[int], epsilon: float, emitter: Emitter) -> SSAValue:
    """`(x - mean) / sqrt(variance + epsilon)` over `axes`."""
    places = emitter.ints(axes)
    centred = emitter.make("Sub", x, emitter.make("ReduceMean", x, places, keepdims=1))
    variance = emitter.make("ReduceMean", emitter.make("Mul", centred, centred), places, keepdims=1)
    root = emitter.make("Sqrt", emitter.make("Add", variance, emitter.scalar(x, epsilon)))
    return emitter.make("Div", centred, root)


# instance_normalization(x) == scale * standardised(x over space) + bias
def expand_instance_norm(op: GraphOp, emitter: Emitter) -> Values:
    x, scale, bias = op.operands
    normal = _standardised(x, _spatial(x), op.get("epsilon"), emitter)
    scaled = emitter.make("Mul", normal, _by_channel(scale, _rank(x), emitter))
    return [emitter.make("Add", scaled, _by_channel(bias, _rank(x), emitter))]


# group_normalization(x) == scale * reshape(standardised(x as [N, groups, rest])) + bias
def expand_group_norm(op: GraphOp, emitter: Emitter) -> Values:
    x, scale, bias = op.operands
    element = element_type(x)
    wide = x if op.get("stash_type") == element else emitter.make("Cast", x, to=op.get("stash_type"))
    grouped = emitter.make("Reshape", wide, emitter.ints([0, op.get("num_groups"), -1]), allowzero=0)
    normal = emitter.make(
        "Reshape", _standardised(grouped, [2], op.get("epsilon"), emitter), emitter.make("Shape", x)
    )
    if wide is not x:
        normal = emitter.make("Cast", normal, to=element)
    scaled = emitter.make("Mul", normal, _by_channel(scale, _rank(x), emitter))
    return [emitter.make("Add", scaled, _by_channel(bias, _rank(x), emitter))]


# mean_variance_normalization(x) == (x - mean) / (deviation + 1e-9)
def expand_mvn(op: GraphOp, emitter: Emitter) -> Values:
    (x,) = op.operands
    axes = op.get("axes")
    places = emitter.ints(axes if axes is not None else [0, 2, 3])
    mean = emitter.make("ReduceMean", x, places, keepdims=1)
    squares = emitter.make("ReduceMean", emitter.make("Mul", x, x), places, keepdims=1)
    variance = emitter.make("Sub", squares, emitter.make("Mul", mean, mean))
    deviation = emitter.make("Add", emitter.make("Sqrt", variance), emitter.scalar(x, 1e-9))
    return [emitter.make("Div", emitter.make("Sub", x, mean), deviation)]


# --- data movement ---------------------------------------------------------------------------------------------------


# depth_to_space(x) == reshape . transpose . reshape
def expand_depth_to_space(op: GraphOp, emitter: Emitter) -> Values | None:
    x, block = op.operands[0], op.get("blocksize")
    shape = static_shape(x)
    if shape is None:
        return None
    n, c, h, w = shape
    if op.get("mode") == "DCR":
        split, order = [n, block, block, c // block**2, h, w], [0, 3, 4, 1, 5, 2]
    else:
        split, order = [n, c // block**2, block, block, h, w], [0, 1, 4, 2, 5, 3]
    parts = emitter.make("Reshape", x, emitter.ints(split), allowzero=1)
    moved = emitter.make("Transpose", parts, perm=order)
    extents = emitter.ints([n, c // block**2, h * block, w * block])
    return [emitter.make("Reshape", moved, extents, allowzero=1)]


# space_to_depth(x) == reshape . transpose . reshape
def expand_space_to_depth(op: GraphOp, emitter: Emitter) -> Values | None:
    x, block = op.operands[0], op.get("blocksize")
    shape = static_shape(x)
    if shape is None:
        return None
    n, c, h, w = shape
    split = emitter.ints([n, c, h // block, block, w // block, block])
    order = [0, 1, 3, 5, 2, 4] if op.get("mode") == "CRD" else [0, 3, 5, 1, 2, 4]
    moved = emitter.make("Transpose", emitter.make("Reshape", x, split, allowzero=1), perm=order)
    extents = emitter.ints([n, c * block**2, h // block, w // block])
    return [emitter.make("Reshape", moved, extents, allowzero=1)]


# --- quantised -------------------------------------------------------------------------------------------------------


# dynamic_quantize_linear(x): scale = (max(x, 0) - min(x, 0)) / 255, zero = round(-min / scale) in [0, 255]
def expand_dynamic_quantize(op: GraphOp, emitter: Emitter) -> Values:
    from stepwell.dialects.graph import element_of

    (x,) = op.operands
    zero = emitter.scalar(x, 0)
    low = emitter.make("Min", emitter.make("ReduceMin", x, None, keepdims=0), zero)
    high = emitter.make("Max", emitter.make("ReduceMax", x, None, keepdims=0), zero)
    scale = emitter.make("Div", emitter.make("Sub", high, low), emitter.scalar(x, 255))
    shifted = emitter.make("Div", emitter.make("Sub", zero, low), scale)
    clipped = emitter.make("Clip", shifted, zero, emitter.scalar(x, 255))
    point = emitter.make("Cast", emitter.make("Round", clipped), to=element_of(np.dtype(np.uint8)))
    return [emitter.make("QuantizeLinear", x, scale, point), scale, point]


# matmul_integer(a, b) == (int32(a) - a_zero) @ (int32(b) - b_zero)
def expand_matmul_integer(op: GraphOp, emitter: Emitter) -> Values | None:
    if not (_fit(op.operands[0], [_operand(op, 2)], -2) and _fit(op.operands[1], [_operand(op, 3)], -1)):
        return None
    a = _centred(op.operands[0], _operand(op, 2), emitter, rows=True)
    b = _centred(op.operands[1], _operand(op, 3), emitter, rows=False)
    return [emitter.make("MatMul", a, b)]


def _fit(factor: SSAValue, parameters: Sequence[SSAValue | None], axis: int) -> bool:
    """
    Whether scales and zero points are known to be one, or one for each index of `axis` of the factor: what broadcasts to
    a factor may not make it larger, which only an op of its own says of extents that the run knows.
    """
    shape = dims_of(factor.type)
    for value in parameters:
        own = dims_of(value.type) if value is not None else []
        wanted = [shape[axis] if len(shape) > 1 else 1] if len(own) == 1 else shape[-len(own) :]
        if any(extent not in (1, other) for extent, other in zip(own, wanted, strict=False)):
            return False
    return True


def _centred(value: SSAValue, zero: SSAValue | None, emitter: Emitter, rows: bool) -> SSAValue:
    wide = emitter.make("Cast", value, to=i32)
    if zero is None:
        return wide
    point = emitter.make("Cast", zero, to=i32)
    if rows and _rank(zero) == 1 and static_shape(zero) != [1]:
        point = emitter.make("Unsqueeze", point, emitter.ints([1]))  # one a row
    return emitter.make("Sub", wide, point)


# qlinear_matmul(a, b) == quantise(float((a - a_zero) @ (b - b_zero)) * (a_scale * b_scale))
def expand_qlinear_matmul(op: GraphOp, emitter: Emitter) -> Values | None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = op.operands
    if not (_fit(a, [a_scale, a_zero], -2) and _fit(b, [b_scale, b_zero], -1)):
        return None
    product = emitter.make("MatMul", _centred(a, a_zero, emitter, True), _centred(b, b_zero, emitter, False))
    if _rank(a_scale) == 1 and static_shape(a_scale) != [1]:
        a_scale = emitter.make("Unsqueeze", a_scale, emitter.ints([1]))
    if _rank(y_scale):  # one for the result, whatever its extent is called
        y_scale = emitter.make("Reshape", y_scale, emitter.ints([]))
    a_scale, b_scale, out_scale = (_as_f32(v, emitter) for v in (a_scale, b_scale, y_scale))
    real = emitter.make("Cast", product, to=f32)
    real = emitter.make("Mul", real, emitter.make("Mul", a_scale, b_scale))
    return [emitter.make("QuantizeLinear", real, out_scale, y_zero)]


def _as_f32(value: SSAValue, emitter: Emitter) -> SSAValue:
    return value if element_type(value) == f32 else emitter.make("Cast", value, to=f32)


# --- chance ----------------------------------------------------------------------------------------------------------


# multinomial(x) == how many of the sums over p[0..c] a uniform number is not below, where p = softmax(x)
def expand_multinomial(op: GraphOp, emitter: Emitter) -> Values:
    (x,) = op.operands
    sums = emitter.make(
        "CumSum", emitter.make("Softmax", emitter.make("Cast", x, to=f64), axis=1), emitter.ints([1])
    )
    total = emitter.make("ReduceMax", sums, emitter.ints([1]), keepdims=1)
    each = emitter.make("Expand", total, emitter.ints([1, op.get("sample_size")]))
    seed = {"seed": op.get("seed")} if op.get("seed") is not None else {}
    drawn = emitter.make("Mul", emitter.make("RandomUniformLike", each, **seed), each)
    below = emitter.make(
        "LessOrEqual",
        emitter.make("Unsqueeze", sums, emitter.ints([1])),
        emitter.make("Unsqueeze", drawn, emitter.ints([2])),
    )
    place = emitter.make("ReduceSum", emitter.make("Cast", below, to=i64), emitter.ints([2]), keepdims=0)
    last = emitter.make("Sub", emitter.make("Shape", x, start=1, end=2), emitter.ints([1]))
    return [emitter.make("Cast", emitter.make("Min", place, last), to=op.get("dtype"))]


_RULES: dict[str, list[Rule]] = {
    "SequenceMap": [sequence_map_as_loop],
    "Sum": [chain_sum],
    "Mean": [mean_as_sum],
    "Max": [chain_extremum],
    "Min": [chain_extremum],
    "PRelu": [expand_prelu],
    "CastLike": [cast_like_as_cast],
    "Size": [size_as_product],
    "Gemm": [gemm_as_matmul],
    "Einsum": [expand_einsum],
    "GlobalAveragePool": [global_pool_as_reduction],
    "GlobalMaxPool": [global_pool_as_reduction],
    "GlobalLpPool": [global_lp_pool_as_norm],
    "LpNormalization": [expand_lp_normalization],
    "ReduceL1": [reduction_as_sum],
    "ReduceL2": [reduction_as_sum],
    "ReduceSumSquare": [reduction_as_sum],
    "ReduceLogSum": [reduction_as_sum],
    "ReduceLogSumExp": [reduction_as_sum],
    "BatchNormalization": [batch_norm_as_affine],
    "InstanceNormalization": [expand_instance_norm],
    "GroupNormalization": [expand_group_norm],
    "MeanVarianceNormalization": [expand_mvn],
    "DepthToSpace": [expand_depth_to_space],
    "SpaceToDepth": [expand_space_to_depth],
    "DynamicQuantizeLinear": [expand_dynamic_quantize],
    "MatMulInteger": [expand_matmul_integer],
    "QLinearMatMul": [expand_qlinear_matmul],
    "Multinomial": [expand_multinomial],
}


@dataclass(frozen=True)
class GraphDecomposePass(ModulePass):
    """
    Express operators that have no lowering of their own by simpler ones.
    Requires: verified IR. Ensures: none of the operators in `_RULES` is left (of `graph.max` and `graph.min` none of
    more than two operands).
    """

    name = "graph-decompose"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        apply_rules(op, ctx, _RULES)
