"""Reading images between their pixels: affine_grid, grid_sample, roi_align, max_roi_pool, deform_conv."""

from itertools import product as every
from typing import Any

from xdsl.dialects.builtin import f32, f64, i64
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.contraction import matmul
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.dialects.graph.shape import Dim, product

_CUBIC = -0.75
"""The coefficient of grid_sample's cubic convolution, as in PyTorch."""


def cubic_weight(t: Scalar, a: float) -> Scalar:
    """The weight of cubic convolution at distance `t`."""
    t = t.absolute()
    near = ((t * (a + 2) - (a + 3)) * t) * t + 1.0
    far = (((t - 5.0) * t + 8.0) * t - 4.0) * a
    select = t.body.select
    return select(t.at_most(1.0), near, select(t.below(2.0), far, 0.0))


# grid[n, .., j] = sum over k of theta[n, j, k] * (.., y, x, 1)[k], where an axis runs from -1 to 1
@lowers("affine_grid")
def _affine_grid(low: Lowering, op: Any) -> SSAValue:
    theta, size = low.operands(op)
    shape = list(low.result_shape(op))
    space = len(shape) - 2
    for axis in range(space):
        if not low.resolvable(shape[1 + axis]):
            shape[1 + axis] = low.dim_of(low.scalar_index(size, 2 + axis))
    element = low.element(theta)
    align = bool(low.attr(op, "align_corners"))
    d = dims(len(shape))
    last = len(shape) - 1

    def coordinate(build: Body, axis: int) -> Scalar:
        i, n = build.index(1 + axis).cast(f32), build.extent(shape[1 + axis]).cast(f32)
        if not align:
            return (i * 2.0 + 1.0) / n - 1.0
        # A single place lies at 0.
        return build.select(n.above(1.0), i * (2.0 / (n - 1.0).maximum(1.0)) - 1.0, 0.0)

    def body(*row: Scalar) -> Scalar:
        total = row[space]
        for k in range(space):
            total = total + row[k] * coordinate(total.body, space - 1 - k).cast(total.type)
        return total

    at: list[Any] = [[d[0], d[last], k] for k in range(space + 1)]
    return low.map(body, [theta] * (space + 1), shape, element, at=at)


def _folded(c: Scalar, extent: Scalar, align: bool) -> Scalar:
    """A coordinate reflected into the image: at the centres of the outer pixels, or at their outer edges."""
    bottom, span = (0.0, extent - 1.0) if align else (-0.5, extent)
    c = (c - bottom).absolute()
    period = (span * 2.0).maximum(1.0)
    c = c - (c / period).floor() * period
    c = c.minimum(span * 2.0 - c) + bottom
    return c.maximum(0.0).minimum(extent - 1.0)


def _taps(mode: str, c: Scalar) -> list[tuple[Scalar, Scalar | None]]:
    """Whole places to read for the coordinate `c`, with their weights (None is 1)."""
    if mode == "nearest":
        return [(c.round_even(), None)]
    base = c.floor()
    t = c - base
    if mode == "linear":
        return [(base, 1.0 - t), (base + 1.0, t)]
    return [(base + float(k), cubic_weight(t - float(k), _CUBIC)) for k in (-1, 0, 1, 2)]


@lowers("grid_sample")
def _grid_sample(low: Lowering, op: Any) -> SSAValue:
    x, grid = low.operands(op)
    own, space = low.shape(x), low.rank(x) - 2
    shape = low.result_shape(op)
    align, mode = bool(low.attr(op, "align_corners")), low.attr(op, "mode") or "linear"
    padding = low.attr(op, "padding_mode") or "zeros"
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    d = dims(len(shape))

    def body(*where: Scalar) -> Scalar:
        build = where[0].body
        taps: list[list[tuple[Scalar, Scalar | None, Scalar | None]]] = []
        for axis in range(space):
            extent = build.extent(own[2 + axis]).cast(f32)
            g = where[space - 1 - axis].cast(f32)
            c = (g + 1.0) * 0.5 * (extent - 1.0) if align else ((g + 1.0) * extent - 1.0) * 0.5
            c = build.select(c.is_nan(), -1.0, c)
            if mode != "cubic":
                c = _folded(c, extent, align) if padding == "reflection" else c
                c = c.maximum(0.0).minimum(extent - 1.0) if padding == "border" else c
            found = []
            for place, weight in _taps(mode, c):
                inside = None
                if padding == "zeros":
                    inside = place.at_least(0.0) & place.below(extent)
                elif padding == "reflection" and mode == "cubic":
                    place = _folded(place, extent, align)
                held = place.maximum(0.0).minimum(extent - 1.0)
                found.append((held.as_integer(i64, False).as_index(), weight, inside))
            taps.append(found)
        total: Scalar | None = None
        for corner in every(*taps):
            value = build.extract(x, [build.index(0), build.index(1), *(place for place, _, _ in corner)])
            term = value.cast(f32) if mode != "nearest" else value
            inside = None
            for _, weight, within in corner:
                term = term if weight is None else term * weight
                if within is not None:
                    inside = within if inside is None else inside & within
            if inside is not None:
                term = build.select(inside, term, 0)
            total = term if total is None else total + term
        assert total is not None
        return total.cast(low.element(x), low.unsigned(op)[0]) if total.type != low.element(x) else total

    at: list[Any] = [[d[0], *d[2:], k] for k in range(space)]
    return low.map(body, [grid] * space, shape, low.element(x), at=at, widen=False)


_MOST_SAMPLES = 1 << 12
"""Of a cell along one axis, whatever the region says."""


# Each cell of a region is the mean (or the largest) of samples on a regular grid inside it.
@lowers("roi_align")
def _roi_align(low: Lowering, op: Any) -> SSAValue:
    x, rois, batch = low.operands(op)
    _, _, height, width = low.shape(x)
    shape = low.result_shape(op)
    cells = [int(low.attr(op, name) or 1) for name in ("output_height", "output_width")]
    ratio = int(low.attr(op, "sampling_ratio") or 0)
    scale = float(low.attr(op, "spatial_scale") or 1.0)
    offset = 0.5 if (low.attr(op, "coordinate_transformation_mode") or "half_pixel") == "half_pixel" else 0.0
    largest = (low.attr(op, "mode") or "avg") == "max"
    d, real = dims(6), f64 if low.element(x) == f64 else f32

    def extent_of(first: Scalar, last: Scalar) -> Scalar:
        extent = last * scale - first * scale
        return extent if offset else extent.maximum(1.0)

    def count_of(first: Scalar, last: Scalar, axis: int) -> Scalar:
        """How many samples a cell has along an axis: where no number is given, one for each pixel that it spans."""
        if ratio > 0:
            return first.lift(float(ratio))
        return (extent_of(first, last) / float(cells[axis])).ceil().maximum(0.0).minimum(float(_MOST_SAMPLES))

    def samples(first: Scalar, last: Scalar, axis: int) -> tuple[Scalar, Scalar]:
        """Where the sample of this iteration lies, and whether the cell has it."""
        build = first.body
        cell, sample = build.index(2 + axis).cast(real), build.index(4 + axis).cast(real)
        count = count_of(first, last, axis)
        step = extent_of(first, last) / float(cells[axis])
        place = first * scale - offset + cell * step + (sample + 0.5) * step / count.maximum(1.0)
        return place, sample.below(count)

    def one_axis(build: Body, c: Scalar, size: Dim) -> tuple[list[tuple[Scalar, Scalar]], Scalar]:
        extent = build.extent(size).cast(real)
        inside = c.at_least(-1.0) & c.at_most(extent)
        c = c.maximum(0.0).minimum(extent - 1.0)
        base = c.floor()
        t = c - base
        above = (base + 1.0).minimum(extent - 1.0)
        places = [(p.as_integer(i64, False).as_index(), w) for p, w in ((base, 1.0 - t), (above, t))]
        return places, inside

    def body(x1: Scalar, y1: Scalar, x2: Scalar, y2: Scalar, which: Scalar, _: Scalar, acc: Scalar) -> Scalar:
        build = acc.body
        y, has_row = samples(y1, y2, 0)
        z, has_column = samples(x1, x2, 1)
        vertical, in_rows = one_axis(build, y, height)
        horizontal, in_columns = one_axis(build, z, width)
        image = which.as_index().maximum(0).minimum(build.extent(low.shape(x)[0]) - 1)
        total: Scalar | None = None
        for (row, a), (column, b) in every(vertical, horizontal):
            term = build.extract(x, [image, build.index(1), row, column]).cast(real) * (a * b)
            if largest:
                total = term if total is None else total.maximum(term)
            else:
                total = term if total is None else total + term
        assert total is not None
        value = build.select(in_rows & in_columns, total, 0.0)
        combined = acc.maximum(value) if largest else acc + value
        return combined if ratio > 0 else build.select(has_row & has_column, combined, acc)

    def most(axis: int) -> Dim:
        """The most samples that any cell has along an axis."""
        if ratio > 0:
            return ratio
        init = low.fill(0.0, (), real)
        ends = [(rois, [dims(1)[0], 1 - axis]), (rois, [dims(1)[0], 3 - axis])]

        def larger(first: Scalar, last: Scalar, acc: Scalar) -> Scalar:
            return acc.maximum(count_of(first.cast(real), last.cast(real), axis))

        (found,) = low.generic("r", ends, [(init, [])], larger, widen=True)
        build = Body(low.block, low, op)
        return low.dim_of(build.wrap(low.extract(found, [])).as_integer(i64, False).as_index().value)

    inputs: list[Any] = [(rois, [d[0], k]) for k in range(4)]
    inputs += [(batch, [d[0]]), (low.empty((most(0), most(1)), real), d[4:])]
    init = low.fill(float("-inf") if largest else 0.0, shape, real)
    (result,) = low.generic("pppprr", inputs, [(init, d[:4])], body, widen=True)

    def finished(v: Scalar, *region: Scalar) -> Scalar:
        if largest:
            return v.body.select(v.equals(float("-inf")), 0.0, v)
        x1, y1, x2, y2 = (r.cast(real) for r in region)
        return v / (count_of(y1, y2, 0) * count_of(x1, x2, 1)).maximum(1.0)

    at: list[Any] = [d[:4], *([d[0], k] for k in range(4))]
    return low.map(finished, [result, *[rois] * 4], shape, low.element(x), at=at)


# out[n, oc, o] = sum over taps and channels of w[oc, ic, k] * mask[n, k, o] * x at (o*s - pad + k*d + offset[n, k, o])
@lowers("deform_conv")
def _deform_conv(low: Lowering, op: Any) -> SSAValue:
    x, w, offset, bias, mask = [*low.operands(op), None, None][:5]
    own, kernel = low.shape(x), low.shape(w)
    space = len(own) - 2
    group, groups = int(low.attr(op, "group") or 1), int(low.attr(op, "offset_group") or 1)
    shape = low.result_shape(op)
    strides = low.attr(op, "strides") or [1] * space
    dilations = low.attr(op, "dilations") or [1] * space
    pads = low.attr(op, "pads") or [0] * (2 * space)
    channels, each, out_channels = own[1], kernel[1], kernel[0]
    taps = product(kernel[2:])
    # samples[n, c, k, o..]
    sampled = (own[0], channels, taps, *shape[2:])
    element = low.element(x)

    def sample(_: Scalar) -> Scalar:
        build = _.body
        c, k = build.index(1), build.index(2)
        each_group = build.extent(channels // groups)
        which = c.floor_divided_by(each_group) if groups > 1 else build.constant(0, INDEX)
        outer = [build.index(3 + a) for a in range(space)]
        rest, corners = k, []
        tap: list[Scalar] = []
        for a in range(space - 1, -1, -1):
            size = build.extent(kernel[2 + a])
            quotient = rest.floor_divided_by(size)
            tap.insert(0, rest - quotient * size)
            rest = quotient
        row = which * build.extent(taps) + k
        for a in range(space):
            moved = build.extract(offset, [build.index(0), row * space + a, *outer]).cast(f32)
            base = outer[a] * strides[a] - pads[a] + tap[a] * dilations[a]
            place = base.cast(f32) + moved
            extent = build.extent(own[2 + a]).cast(f32)
            pair = []
            for spot, weight in _taps("linear", place):
                inside = spot.at_least(0.0) & spot.below(extent)
                held = spot.maximum(0.0).minimum(extent - 1.0).as_integer(i64, False).as_index()
                pair.append((held, build.select(inside, weight, 0.0)))  # pyright: ignore
            corners.append(pair)
        total: Scalar | None = None
        for corner in every(*corners):
            value = build.extract(x, [build.index(0), c, *(spot for spot, _ in corner)]).cast(f32)
            for _, weight in corner:
                value = value * weight
            total = value if total is None else total + value
        assert total is not None
        if mask is not None:
            total = total * build.extract(mask, [build.index(0), row, *outer]).cast(f32)
        return total

    columns = low.empty(sampled, f32)
    (columns,) = low.generic("p" * len(sampled), [], [(columns, dims(len(sampled)))], sample)
    pixels = product(shape[2:])
    inner = each * taps
    columns = low.reshape(columns, (own[0], group, inner, pixels))
    weights = low.reshape(w, (1, group, out_channels // group, inner))
    weights = low.map(lambda v: v.cast(f32), [weights], low.shape(weights), f32, widen=False)
    result = low.reshape(matmul(low, weights, columns), shape)
    inputs = [result] if bias is None else [result, low.reshape(bias, (out_channels, *[1] * space))]
    return low.map(lambda v, *b: v + b[0].cast(f32) if b else v, inputs, shape, element)


# Bin (i, j) of a region is the largest element of the rows of bin i and the columns of bin j; 0 where there is none.
@lowers("max_roi_pool")
def _max_roi_pool(low: Lowering, op: Any) -> SSAValue:
    x, rois = low.operands(op)
    own, element = low.shape(x), low.element(x)
    regions, channels, *pooled = low.result_shape(op)
    scale = float(low.attr(op, "spatial_scale"))
    d = dims(5)

    def inside(low_end: Scalar, high_end: Scalar, bin_: Scalar, place: Scalar, count: Dim) -> Scalar:
        """Whether `place` lies in the bin."""
        build = place.body
        begin, end = ((v.cast(f32) * scale + 0.5).floor() for v in (low_end, high_end))
        extent = (end - begin + 1.0).maximum(1.0) / build.extent(count).cast(f32)
        first = (bin_.cast(f32) * extent).floor() + begin
        last = ((bin_ + 1).cast(f32) * extent).ceil() + begin
        spot = place.cast(f32)
        return spot.at_least(first) & spot.below(last)

    def columns(which: Scalar, a: Scalar, b: Scalar, _: Scalar, acc: Scalar) -> Scalar:
        build = acc.body
        image = which.cast(i64).as_index().maximum(0).minimum(build.extent(own[0]) - 1)
        value = build.extract(x, [image, build.index(1), build.index(2), build.index(4)])
        taken = inside(a, b, build.index(3), build.index(4), pooled[1])
        return build.select(taken, value.cast(acc.type).maximum(acc), acc)

    def rows(value: Scalar, a: Scalar, b: Scalar, acc: Scalar) -> Scalar:
        build = acc.body
        taken = inside(a, b, build.index(2), build.index(4), pooled[0])
        return build.select(taken, value.maximum(acc), acc)

    kind = f64 if element == f64 else f32
    narrow = (regions, channels, own[2], pooled[1])
    across = low.fill(float("-inf"), narrow, kind)
    read: list[Any] = [
        (rois, [d[0], 0]),
        (rois, [d[0], 1]),
        (rois, [d[0], 3]),
        (low.empty((own[3],), f32), [d[4]]),
    ]
    (across,) = low.generic("ppppr", read, [(across, d[:4])], columns)
    result = low.fill(float("-inf"), (regions, channels, *pooled), kind)
    read = [(across, [d[0], d[1], d[4], d[3]]), (rois, [d[0], 2]), (rois, [d[0], 4])]
    (result,) = low.generic("ppppr", read, [(result, d[:4])], rows)

    def finished(v: Scalar) -> Scalar:
        return v.body.select(v.equals(float("-inf")), 0.0, v).cast(element)

    return low.map(finished, [result], low.shape(result), element, widen=False)
