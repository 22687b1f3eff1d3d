"""Pooling: a reduction over windows; the extents of the window come from an empty tensor, as in upstream's."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import f32, i64
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.contraction import accumulator_of
from stepwell.conversion.graph_to_linalg.convolution import Window, is_channels_last, window_of
from stepwell.conversion.graph_to_linalg.indexing import delinearized, loop, wrapped
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.reduction import lowest_of, reduce
from stepwell.conversion.graph_to_linalg.runtime_axes import check
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph.shape import Dim, product


def _places(low: Lowering, op: Any) -> tuple[int, int]:
    """The first spatial axis, and the axis of the channels."""
    last = is_channels_last(low, op)
    rank = low.rank(low[op.operands[0]])
    return (1, rank - 1) if last else (2, 1)


def _pool(
    low: Lowering, op: Any, filler: float | int, start: float | int, element: Any, body: Callable[..., Scalar]
) -> tuple[SSAValue, Window, list[Dim]]:
    """The reduction with `body(x, acc)` from `start` over the windows of the op's operand padded with `filler`."""
    x = low[op.operands[0]]
    first, _ = _places(low, op)
    kernel = low.attr(op, "kernel_shape")
    count, rank = len(kernel), low.rank(x)
    shape = low.result_shape(op)
    sizes, out = low.shape(x)[first : first + count], shape[first : first + count]
    window = window_of(low, op, kernel, sizes, out)
    zeros_before, zeros_after = [0] * first, [0] * (rank - first - count)
    padded = low.pad(
        x, [*zeros_before, *window.low, *zeros_after], [*zeros_before, *window.high, *zeros_after], filler
    )
    d = dims(rank + count)
    at = [
        d[a] * window.strides[a - first] + d[rank + a - first] * window.dilations[a - first]
        if first <= a < first + count
        else d[a]
        for a in range(rank)
    ]
    full = tuple(out[a - first] if first <= a < first + count else low.shape(x)[a] for a in range(rank))
    init = low.fill(start, full, element)
    shape_of_window = low.empty(kernel, low.element(x))
    (result,) = low.generic(
        "p" * rank + "r" * count,
        [(padded, at), (shape_of_window, d[rank:])],
        [(init, d[:rank])],
        lambda v, _, acc: body(v, acc),
    )
    return result, window, list(sizes)


@lowers("max_pool")
def _max_pool(low: Lowering, op: Any) -> SSAValue | list[SSAValue]:
    if len(op.results) > 1:
        return _max_pool_with_indices(low, op)
    element = low.element(low[op.operands[0]])
    lowest = lowest_of(element, low.unsigned(op)[0])
    unsigned = low.unsigned(op)[0]

    def body(x: Scalar, acc: Scalar) -> Scalar:
        x.unsigned = unsigned
        return x.maximum(acc)

    return _pool(low, op, lowest, lowest, element, body)[0]


def _max_pool_with_indices(low: Lowering, op: Any) -> list[SSAValue]:
    """The maxima and where they lie: positions in the operand without padding, as ONNX orders its axes."""
    x = low[op.operands[0]]
    first, channel_axis = _places(low, op)
    element, unsigned = low.element(x), low.unsigned(op)[0]
    kernel = low.attr(op, "kernel_shape")
    count, rank = len(kernel), low.rank(x)
    shape = low.result_shape(op)
    sizes, out = low.shape(x)[first : first + count], shape[first : first + count]
    window = window_of(low, op, kernel, sizes, out)
    d = dims(rank + count)
    lowest = lowest_of(element, unsigned)
    full = tuple(out[a - first] if first <= a < first + count else low.shape(x)[a] for a in range(rank))
    column_major = bool(low.attr(op, "storage_order"))

    def body(_: Scalar, top: Scalar, at: Scalar) -> list[Scalar]:
        build = top.body
        places = [build.index(a) for a in range(rank)]
        inside: Scalar | None = None
        for axis in range(count):
            place = build.index(first + axis) * window.strides[axis]
            place = place + build.index(rank + axis) * window.dilations[axis] - build.extent(window.low[axis])
            size = build.extent(sizes[axis])
            within = place.at_least(0) & place.below(size)
            inside = within if inside is None else inside & within
            places[first + axis] = place.maximum(0).minimum(size - 1)
        assert inside is not None
        value = build.extract(x, places, unsigned=unsigned)
        top.unsigned = unsigned
        flat = places[0] * build.extent(low.shape(x)[channel_axis]) + places[channel_axis]
        if column_major:
            inner = places[first + count - 1]
            for axis in range(count - 2, -1, -1):
                inner = inner * build.extent(sizes[axis]) + places[first + axis]
            for size in sizes:
                flat = flat * build.extent(size)
            flat = flat + inner
        else:
            for axis in range(count):
                flat = flat * build.extent(sizes[axis]) + places[first + axis]
        better = inside & (value.above(top) | at.below(0))
        return [build.select(better, value, top), build.select(better, flat.cast(i64), at)]

    inits = [(low.fill(lowest, full, element), d[:rank]), (low.fill(-1, full, i64), d[:rank])]
    shape_of_window = low.empty(kernel, element)
    return low.generic("p" * rank + "r" * count, [(shape_of_window, d[rank:])], inits, body)


# y[.., p] = sum of the columns' elements whose place is p: those taps t with p + pad - t*d a multiple of the stride
@lowers("col2im")
def _col2im(low: Lowering, op: Any) -> SSAValue:
    x, image, block = low.operands(op)
    rank = low.shape(image)[0]
    assert isinstance(rank, int), "shape inference refuses an unknown rank"
    known = low.known(op.operands[2])
    window: list[Dim] = (
        [int(n) for n in known] if known is not None
        else [low.dim_of(low.scalar_index(block, a)) for a in range(rank)]
    )  # fmt: skip
    strides = low.attr(op, "strides") or [1] * rank
    dilations = low.attr(op, "dilations") or [1] * rank
    pads = low.attr(op, "pads") or [0] * (2 * rank)
    shape = list(low.result_shape(op))
    for axis in range(rank):
        if not low.resolvable(shape[2 + axis]):
            shape[2 + axis] = low.dim_of(low.scalar_index(image, axis))
    if not low.resolvable(shape[1]):
        shape[1] = low.shape(x)[1] // product(window)
    counts = [
        (n + pads[a] + pads[rank + a] - (window[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a, n in enumerate(shape[2:])
    ]
    element = low.element(x)
    wide = accumulator_of(element)
    d = dims(2 + 2 * rank)
    rows, columns = low.shape(x)[1], low.shape(x)[2]

    def body(_: Scalar, acc: Scalar) -> Scalar:
        build = acc.body
        row, column = build.index(1), build.constant(0, INDEX)
        inside: Scalar | None = None
        for axis in range(rank):
            tap = build.index(2 + rank + axis)
            row = row * build.extent(window[axis]) + tap
            place = build.index(2 + axis) + pads[axis] - tap * dilations[axis]
            at = place.maximum(0).floor_divided(strides[axis])
            count = build.extent(counts[axis])
            good = place.at_least(0) & (at * strides[axis]).equals(place) & at.below(count)
            inside = good if inside is None else inside & good
            column = column * count + at
        assert inside is not None
        held = [row.minimum(build.extent(rows) - 1), column.minimum(build.extent(columns) - 1).maximum(0)]
        value = build.extract(x, [build.index(0), *held]).cast(wide)
        return acc + build.select(inside, value, 0)

    init = low.fill(0, shape, wide)
    iterators = "p" * (2 + rank) + "r" * rank
    (result,) = low.generic(
        iterators, [(low.empty(window, wide), d[2 + rank :])], [(init, d[: 2 + rank])], body
    )
    return result if wide == element else low.map(lambda v: v, [result], low.shape(result), element)


@lowers("max_unpool")
def _max_unpool(low: Lowering, op: Any) -> SSAValue:
    x, indices, target = [*low.operands(op), None][:3]
    own, element = low.shape(x), low.element(x)
    rank = len(own) - 2
    kernel = low.attr(op, "kernel_shape")
    strides, pads = low.attr(op, "strides") or [1] * rank, low.attr(op, "pads") or [0] * (2 * rank)
    space = [(n - 1) * strides[a] - pads[a] - pads[rank + a] + kernel[a] for a, n in enumerate(own[2:])]
    shape = (*own[:2], *space)
    total = product(shape)
    flat = low.fill(0, (total,), element)

    def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        places = delinearized(low, i, own)
        build = Body(low.block, low, op)
        at = wrapped(build, build.wrap(low.extract(indices, places)), total).value
        value = low.extract(x, places)
        (into,) = carried
        return [low.value(tensor.InsertOp.build(operands=[value, into, [at]], result_types=[into.type]))]

    (written,) = loop(low, product(own), [flat], body)
    result = low.reshape(written, shape)
    if target is None:
        return result
    final = list(low.result_shape(op))
    for axis, extent in enumerate(final):
        if not low.resolvable(extent):
            final[axis] = low.dim_of(low.scalar_index(target, axis))
    for axis, (extent, inner) in enumerate(zip(final, shape, strict=True)):
        if not (isinstance(extent, int) and isinstance(inner, int) and extent >= inner):
            fits = low.value(arith.CmpiOp(low.index(extent), low.index(inner), "sge"))
            check(low, fits, f"graph.max_unpool: output_shape is too small on axis {axis}")
    return low.insert(result, low.fill(0, final, element), [0] * len(final))


def _counts(
    window: Window, axis: int, size: int, out: int, include_pad: bool, pads: Sequence[int]
) -> np.ndarray:
    """For each position of the result on `axis`, how many elements of its window count."""
    starts = np.arange(out) * window.strides[axis] - int(window.low[axis])  # pyright: ignore
    taps = starts[:, None] + np.arange(window.extents[axis]) * window.dilations[axis]  # pyright: ignore
    begin, end = (-pads[axis], size + pads[len(pads) // 2 + axis]) if include_pad else (0, size)
    return ((taps >= begin) & (taps < end)).sum(1)


@lowers("average_pool")
def _average_pool(low: Lowering, op: Any) -> SSAValue:
    element = low.element(low[op.operands[0]])
    wide = accumulator_of(element)
    total, window, sizes = _pool(low, op, 0.0, 0.0, wide, lambda x, acc: acc + x.cast(wide))
    first, _ = _places(low, op)
    count = len(sizes)
    shape = low.shape(total)
    include = bool(low.attr(op, "count_include_pad"))
    full = int(np.prod(window.extents))  # pyright: ignore
    padded = any(p != 0 for p in (*window.low, *window.high))
    if not padded or (include and not low.attr(op, "ceil_mode")):
        return low.map(lambda x: x / float(full), [total], shape, element)
    out = shape[first : first + count]
    if not all(isinstance(n, int) for n in (*sizes, *out)):
        return _divide_by_counts(low, op, total, window, sizes, element, include)
    pads = low.attr(op, "pads") or [0] * (2 * count)
    if (low.attr(op, "auto_pad") or "NOTSET").startswith("SAME"):
        pads = [int(p) for p in (*window.low, *window.high)]  # pyright: ignore
    number = np.ones((), np.float32)
    low.check_table(op, prod(int(n) for n in out))  # pyright: ignore
    for axis in range(count):
        low.check_table(op, int(out[axis]) * window.extents[axis])  # pyright: ignore
        along = _counts(window, axis, int(sizes[axis]), int(out[axis]), include, pads)  # pyright: ignore
        number = np.multiply.outer(number, along.astype(np.float32))
    d = dims(low.rank(total))
    counts = low.tensor_constant(number.astype(np.float32), f32)
    return low.map(
        lambda x, n: x / n.cast(x.type), [total, counts], shape, element, at=[d, d[first : first + count]]
    )  # fmt: skip


def _divide_by_counts(
    low: Lowering, op: Any, total: SSAValue, window: Window, sizes: list[Dim], element: Any, include: bool
) -> SSAValue:
    """Division by the number of elements that count, computed from the position."""
    first, count = _places(low, op)[0], len(sizes)
    pads = low.attr(op, "pads") or [0] * (2 * count)
    if (low.attr(op, "auto_pad") or "NOTSET").startswith("SAME"):
        pads = [*window.low, *window.high]

    def body(x: Scalar) -> Scalar:
        number = None
        for axis, size in enumerate(sizes):
            low_end, high_end = (pads[axis], pads[count + axis]) if include else (0, 0)
            begin, end = x.body.extent(-low_end), x.body.extent(size + high_end)
            start = x.body.index(first + axis) * window.strides[axis] - x.body.extent(window.low[axis])
            # How many of start, start + dilation, ... lie from begin to end.
            step, taps = window.dilations[axis], x.body.extent(window.extents[axis])
            skipped = (begin - start + (step - 1)).maximum(0).floor_divided(step).minimum(taps)
            along = (end - start + (step - 1)).maximum(0).floor_divided(step).minimum(taps) - skipped
            number = along if number is None else number * along
        assert number is not None
        return x / number.cast(x.type)

    return low.map(body, [total], low.shape(total), element)


@lowers("lp_pool")
def _lp_pool(low: Lowering, op: Any) -> SSAValue:
    p = float(low.attr(op, "p") or 2)
    element = low.element(low[op.operands[0]])
    wide = accumulator_of(element)

    def body(x: Scalar, acc: Scalar) -> Scalar:
        x = x.cast(wide)
        return acc + (x * x if p == 2 else x.absolute() if p == 1 else x.absolute().power(x.lift(p)))

    total, _, _ = _pool(low, op, 0.0, 0.0, wide, body)
    if p == 1:
        return low.map(lambda x: x, [total], low.shape(total), element)
    root = (lambda x: x.sqrt()) if p == 2 else (lambda x: x.power(x.lift(1.0 / p)))
    return low.map(root, [total], low.shape(total), element)


def _global_axes(low: Lowering, op: Any) -> list[int]:
    first, _ = _places(low, op)
    rank = low.rank(low[op.operands[0]])
    return list(range(first, first + rank - 2))


@lowers("global_average_pool")
def _global_average_pool(low: Lowering, op: Any) -> SSAValue:
    return reduce(low, low[op.operands[0]], _global_axes(low, op), "mean", True)


@lowers("global_max_pool")
def _global_max_pool(low: Lowering, op: Any) -> SSAValue:
    return reduce(low, low[op.operands[0]], _global_axes(low, op), "max", True)


@lowers("global_lp_pool")
def _global_lp_pool(low: Lowering, op: Any) -> SSAValue:
    p = low.attr(op, "p") or 2
    if p not in (1, 2):
        raise unsupported(op, f"p = {p}", "use p = 1 or 2")
    return reduce(low, low[op.operands[0]], _global_axes(low, op), f"l{p}", True)
