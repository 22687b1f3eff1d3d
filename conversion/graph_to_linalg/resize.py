"""Resampling: each element of the result is a weighted sum of elements at computed places."""

from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects.builtin import AnyFloat, IntegerType, f32, i64
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.sampling import cubic_weight
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.diagnostics import unsupported


def _coordinates(mode: str, count: int, extent: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Where the elements of the result lie on the input's axis, as ONNX's `coordinate_transformation_mode` says."""
    i = np.arange(count, dtype=np.float32)
    one = np.float32(1.0)
    s = np.float32(scale)
    half = np.float32(0.5)
    match mode:
        case "half_pixel":
            return (i + half) / s - half
        case "half_pixel_symmetric":
            adjustment = np.float32(count) / (s * np.float32(extent))
            offset = np.float32(extent) / 2 * (one - adjustment)
            return offset + (i + half) / s - half
        case "pytorch_half_pixel":
            return (i + half) / s - half if count > 1 else np.zeros_like(i)
        case "align_corners":
            # The extent before it is rounded down, as in the reference.
            length = s * np.float32(extent)
            return i * np.float32(extent - 1) / (length - one) if count > 1 else np.zeros_like(i)
        case "tf_half_pixel_for_nn":
            return (i + half) / s
        case "tf_crop_and_resize":
            start, end = (np.float32(r) for r in roi)
            if count > 1:
                return start * (extent - 1) + i * (end - start) * (extent - 1) / (count - 1)
            return half * (start + end) * (extent - 1) + 0 * i
        case _:
            return i / s


def _nearest(mode: str, x: np.ndarray) -> np.ndarray:
    match mode:
        case "round_prefer_ceil":
            return np.floor(x + np.float32(0.5))
        case "floor":
            return np.floor(x)
        case "ceil":
            return np.ceil(x)
        case _:
            return np.ceil(x - np.float32(0.5))


def _taps(mode: str, x: np.ndarray, nearest: str, cubic: float) -> tuple[np.ndarray, np.ndarray]:
    """For each element of the result: the places that it reads, and their weights."""
    if mode == "nearest":
        return _nearest(nearest, x)[:, None].astype(np.int64), np.ones((len(x), 1), np.float32)
    base = np.floor(x)
    t = (x - base).astype(np.float32)
    if mode == "linear":
        return np.stack([base, base + 1], 1).astype(np.int64), np.stack([1 - t, t], 1).astype(np.float32)
    a = np.float32(cubic)

    def inner(s: np.ndarray) -> np.ndarray:
        return ((a + 2) * s - (a + 3)) * s * s + 1

    def outer(s: np.ndarray) -> np.ndarray:
        return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a

    weights = np.stack([outer(t + 1), inner(t), inner(1 - t), outer(2 - t)], 1)
    return np.stack([base - 1, base, base + 1, base + 2], 1).astype(np.int64), weights.astype(np.float32)


@lowers("resize")
def _resize(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    shape, out = low.shape(x), low.result_shape(op)
    if not all(isinstance(e, int) for e in out) or not all(
        isinstance(a, int) or a == b for a, b in zip(shape, out, strict=True)
    ):
        return _resize_dynamic(low, op, x)
    listed = [*op.operand_list(), None, None, None]
    mode = low.attr(op, "mode") or "nearest"
    transformation = low.attr(op, "coordinate_transformation_mode") or "half_pixel"
    if low.attr(op, "antialias"):
        return _resize_along_axes(low, op, x)
    rank = len(shape)
    axes = [a % rank for a in (low.attr(op, "axes") or range(rank))]
    scales_value = low.known(listed[2])
    scales = [int(o) / int(n) for n, o in zip(shape, out, strict=True)]  # pyright: ignore
    if scales_value is not None and scales_value.size:
        for axis, scale in zip(axes, scales_value.reshape(-1), strict=True):
            scales[axis] = float(scale)
    roi_value = low.known(listed[1])
    roi = dict.fromkeys(range(rank), (0.0, 1.0))
    if roi_value is not None and roi_value.size == 2 * len(axes):
        roi |= {a: (float(roi_value[i]), float(roi_value[i + len(axes)])) for i, a in enumerate(axes)}
    outside = low.attr(op, "extrapolation_value") or 0.0
    for axis in range(rank):
        if shape[axis] == out[axis] and (scales[axis] == 1.0 and transformation != "tf_crop_and_resize"):
            continue
        low.check_table(op, int(out[axis]))  # pyright: ignore
        place = _coordinates(transformation, int(out[axis]), int(shape[axis]), scales[axis], roi[axis])  # pyright: ignore
        x = _resample(low, op, x, axis, place, mode, int(shape[axis]), transformation, outside)  # pyright: ignore
    return x


def _resample(
    low: Lowering, op: Any, x: SSAValue, axis: int, place: np.ndarray, mode: str, extent: int, transformation: str,
    outside: float,
) -> SSAValue:  # fmt: skip
    """One axis of `x` read at `place`: a generic over the result that reads each tap at a constant index."""
    rank = low.rank(x)
    taps, weights = _taps(mode, place, low.attr(op, "nearest_mode") or "round_prefer_floor", _cubic(low, op))
    inside = (taps >= 0) & (taps < extent)
    if low.attr(op, "exclude_outside"):
        weights = np.where(inside, weights, 0)
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    taps = np.clip(taps, 0, extent - 1)
    d = dims(rank)
    shape = tuple(len(place) if a == axis else e for a, e in enumerate(low.shape(x)))
    indices = [low.tensor_constant(np.ascontiguousarray(taps[:, k]), i64) for k in range(taps.shape[1])]
    factors = [low.tensor_constant(np.ascontiguousarray(weights[:, k]), f32) for k in range(taps.shape[1])]
    if transformation == "tf_crop_and_resize":
        good = ((place >= 0) & (place <= extent - 1)).astype(np.float32)
        factors.append(low.tensor_constant(good, f32))
    count = taps.shape[1]
    unsigned = low.unsigned(op)[0]
    if mode == "nearest" and transformation != "tf_crop_and_resize":
        factors = []

    def body(*scalars: Scalar) -> Scalar:
        build = scalars[0].body
        total: Scalar | None = None
        for k in range(count):
            places = [build.index(a) for a in range(rank)]
            places[axis] = scalars[k].as_index()
            value = build.extract(x, places)
            if not factors:
                return value
            if not value.is_float:
                value = value.cast(f32)
            term = value.widened() * scalars[count + k].cast(value.widened().type)
            total = term if total is None else total + term
        assert total is not None
        if transformation == "tf_crop_and_resize":
            total = build.select(scalars[-1].equals(0.0), outside, total)
        return total.cast(low.element(x), unsigned) if not isinstance(low.element(x), AnyFloat) else total

    values = [*indices, *factors]
    return low.map(body, values, shape, low.element(x), at=[[d[axis]]] * len(values))


def _cubic(low: Lowering, op: Any) -> float:
    value = low.attr(op, "cubic_coeff_a")
    return -0.75 if value is None else value


# Extents known at run time only: the coordinates are computed in the body (nearest and linear).
def _resize_dynamic(low: Lowering, op: Any, x: SSAValue) -> SSAValue:
    from stepwell.conversion.graph_to_linalg.data_movement import known_shape

    mode = low.attr(op, "mode") or "nearest"
    transformation = low.attr(op, "coordinate_transformation_mode") or "half_pixel"
    nearest = low.attr(op, "nearest_mode") or "round_prefer_floor"
    formulas: dict[str, Callable[..., Scalar]] = {
        "half_pixel": lambda i, s, n, m: (i + 0.5) / s - 0.5,
        "pytorch_half_pixel": lambda i, s, n, m: i.body.select(m.above(1.0), (i + 0.5) / s - 0.5, 0.0),
        "asymmetric": lambda i, s, n, m: i / s,
        "align_corners": lambda i, s, n, m: i.body.select(m.above(1.0), i * (n - 1.0) / (n * s - 1.0), 0.0),
        "tf_half_pixel_for_nn": lambda i, s, n, m: (i + 0.5) / s,
    }
    if (
        mode not in ("nearest", "linear")
        or transformation not in formulas
        or low.attr(op, "antialias")
        or low.attr(op, "exclude_outside")
        or (low.attr(op, "keep_aspect_ratio_policy") or "stretch") != "stretch"
    ):
        return _resize_along_axes(low, op, x)
    own = low.shape(x)
    listed = [*low.operands(op), None, None, None][:4]
    scales, sizes = listed[2], listed[3]
    rank = len(own)
    axes = [a % rank for a in (low.attr(op, "axes") or range(rank))]
    if scales is not None and low.shape(scales) == (0,):
        scales = None

    def asked(axis: int) -> Any:
        if axis not in axes:
            return own[axis]
        if sizes is not None:
            return low.dim_of(low.scalar_index(sizes, axes.index(axis)))
        assert scales is not None, "what has no sizes has scales"
        scale = low.extract(scales, [axes.index(axis)])
        build = Body(low.block, low, op)
        extent = build.extent(own[axis]).cast(f32) * Scalar(build, scale)
        return low.dim_of(extent.floor().as_integer(i64, False).as_index().value)

    out = known_shape(low, op, [lambda a=a: asked(a) for a in range(rank)])
    known = low.known(op.operand_list()[2]) if scales is not None else None
    changed = [a for a in range(rank) if own[a] != out[a]]
    element = low.element(x)

    def position(build: Any, axis: int) -> tuple[Scalar, Scalar]:
        n, m = build.extent(own[axis]).cast(f32), build.extent(out[axis]).cast(f32)
        scale = m / n
        if known is not None and known.size and axis in axes:
            scale = build.constant(float(known.reshape(-1)[axes.index(axis)]), f32)
        elif scales is not None and axis in axes:
            scale = build.extract(scales, [build.constant(axes.index(axis), INDEX)])
        return formulas[transformation](build.index(axis).cast(f32), scale, n, m), n

    def held(place: Scalar, axis: int) -> Scalar:
        index = place.as_integer(i64, False).as_index()
        return index.maximum(0).minimum(place.body.extent(own[axis]) - 1)

    def body(result: Scalar) -> Scalar:
        build = result.body
        corners: list[tuple[list[Scalar], Scalar | None]] = [([build.index(a) for a in range(rank)], None)]
        for axis in changed:
            at, _ = position(build, axis)
            if mode == "nearest":
                choose = {
                    "round_prefer_floor": lambda v: (v - 0.5).ceil(),
                    "round_prefer_ceil": lambda v: (v + 0.5).floor(),
                    "floor": lambda v: v.floor(),
                    "ceil": lambda v: v.ceil(),
                }[nearest]
                for places, _ in corners:
                    places[axis] = held(choose(at), axis)
                continue
            base = at.floor()
            t = at - base
            split: list[tuple[list[Scalar], Scalar | None]] = []
            for places, weight in corners:
                for offset, factor in ((base, 1.0 - t), (base + 1.0, t)):
                    moved = list(places)
                    moved[axis] = held(offset, axis)
                    split.append((moved, factor if weight is None else weight * factor))
            corners = split
        total: Scalar | None = None
        for places, weight in corners:
            value = build.extract(x, places)
            if weight is not None:
                value = value.cast(f32) * weight
            total = value if total is None else total + value
        assert total is not None
        return total

    result = low.empty(out, element)
    return low.generic("p" * rank, [], [(result, dims(rank))], body)[0]


def _resize_along_axes(low: Lowering, op: Any, x: SSAValue) -> SSAValue:
    """Every form of resampling at run time, one axis after the other: each result is a weighted mean of a window."""
    listed = [*low.operands(op), None, None, None][:4]
    roi, scales, sizes = (None if v is None or low.shape(v) == (0,) else v for v in listed[1:])
    own = low.shape(x)
    rank, out = len(own), low.result_shape(op)
    axes = [a % rank for a in (low.attr(op, "axes") or range(rank))]
    policy = low.attr(op, "keep_aspect_ratio_policy") or "stretch"
    build = Body(low.block, low, op)
    whole = low.element(x)
    if isinstance(whole, IntegerType) and whole.width.data > 16:
        raise unsupported(op, f"it resamples {whole} in f32", "cast to a float type before it")
    lengths = [build.extent(own[a]).cast(f32) for a in axes]
    if sizes is not None:
        wanted = [build.wrap(low.scalar_index(sizes, k)) for k in range(len(axes))]
        ratios = [w.cast(f32) / n for w, n in zip(wanted, lengths, strict=True)]
        if policy != "stretch":
            ratio = ratios[0]
            for other in ratios[1:]:
                ratio = ratio.minimum(other) if policy == "not_larger" else ratio.maximum(other)
            ratios = [ratio] * len(axes)
            wanted = [(ratio * n + 0.5).floor().as_integer(i64, False).as_index() for n in lengths]
    else:
        assert scales is not None, "what has no sizes has scales"
        ratios = [build.wrap(low.extract(scales, [k])) for k in range(len(axes))]
        wanted = [
            (r * n).floor().as_integer(i64, False).as_index() for r, n in zip(ratios, lengths, strict=True)
        ]
    crops = (low.attr(op, "coordinate_transformation_mode") or "half_pixel") == "tf_crop_and_resize"
    element = low.element(x)
    beyond: list[tuple[int, Callable[[Scalar], Scalar]]] = []
    for k, axis in enumerate(axes):
        target: Any = out[axis] if low.resolvable(out[axis]) else low.dim_of(wanted[k].value)
        region = None
        if crops and roi is not None:
            region = [build.wrap(low.extract(roi, [p])).cast(f32) for p in (k, k + len(axes))]
        place = _place_on(low, op, low.shape(x)[axis], target, ratios[k], region)
        x = _mean_of_window(low, op, x, axis, target, ratios[k], place)
        if crops:
            extent = own[axis]
            beyond.append((axis, lambda i, p=place, e=extent: _is_outside(p(i), e)))
    shape = low.shape(x)
    outside = low.attr(op, "extrapolation_value") or 0.0

    def finish(v: Scalar) -> Scalar:
        for axis, test in beyond:
            v = v.body.select(test(v.body.index(axis)), outside, v)
        return v if isinstance(element, AnyFloat) else v.round_even().cast(element, low.unsigned(op)[0])

    return low.map(finish, [x], shape, element)


def _is_outside(place: Scalar, extent: Any) -> Scalar:
    return place.below(0.0) | place.above(place.body.extent(extent).cast(f32) - 1.0)


def _place_on(
    low: Lowering, op: Any, extent: Any, count: Any, scale: Scalar, roi: list[Scalar] | None
) -> Callable[[Scalar], Scalar]:
    """Where the element of the result at an index lies on the input's axis."""
    mode = low.attr(op, "coordinate_transformation_mode") or "half_pixel"

    def place(index: Scalar) -> Scalar:
        build = index.body
        i, s = index.cast(f32), build.wrap(scale.value)
        n, m = build.extent(extent).cast(f32), build.extent(count).cast(f32)
        several = m.above(1.0)
        match mode:
            case "asymmetric":
                return i / s
            case "align_corners":
                return build.select(several, i * (n - 1.0) / (n * s - 1.0), 0.0)
            case "pytorch_half_pixel":
                return build.select(several, (i + 0.5) / s - 0.5, 0.0)
            case "tf_half_pixel_for_nn":
                return (i + 0.5) / s
            case "half_pixel_symmetric":
                return n * 0.5 * (1.0 - m / (n * s)) + (i + 0.5) / s - 0.5
            case "tf_crop_and_resize":
                first, last = (build.wrap(r.value) for r in roi) if roi else (i * 0.0, i * 0.0 + 1.0)
                along = first * (n - 1.0) + i * (last - first) * (n - 1.0) / (m - 1.0).maximum(1.0)
                return build.select(several, along, (first + last) * 0.5 * (n - 1.0))
            case _:
                return (i + 0.5) / s - 0.5

    return place


# out[i] = sum over j of w(j - place(i)) * x[j] / sum over j of w(j - place(i))
def _mean_of_window(
    low: Lowering, op: Any, x: SSAValue, axis: int, count: Any, scale: Scalar, place: Callable[[Scalar], Scalar]
) -> SSAValue:  # fmt: skip
    """`x` resampled along `axis` to `count` elements, in f32."""
    mode = low.attr(op, "mode") or "nearest"
    nearest = low.attr(op, "nearest_mode") or "round_prefer_floor"
    own, rank = low.shape(x), low.rank(x)
    shape = tuple(count if a == axis else e for a, e in enumerate(own))
    exclude = bool(low.attr(op, "exclude_outside"))
    unsigned = low.unsigned(op)[0]
    build = Body(low.block, low, op)
    stretch = scale.minimum(1.0) if low.attr(op, "antialias") else None
    reach: Scalar | float = 2.0 if mode == "cubic" else 1.0
    if mode == "nearest":
        taps: Any = 1
    elif stretch is None:
        taps = int(2 * reach)
    else:
        reach = build.constant(reach, f32) / stretch
        taps = low.dim_of((reach * 2.0).ceil().as_integer(i64, False).as_index().value)
    d = dims(rank + 1)

    def body(_: Scalar, acc: Scalar, weights: Scalar) -> list[Scalar]:
        inner = acc.body
        at = place(inner.index(axis))
        extent = inner.extent(own[axis]).cast(f32)
        if mode == "nearest":
            spot = {
                "round_prefer_ceil": lambda: (at + 0.5).floor(),
                "floor": at.floor,
                "ceil": at.ceil,
            }.get(nearest, lambda: (at - 0.5).ceil())()
            weight = inner.constant(1.0, f32)
        else:
            span = inner.wrap(reach.value) if isinstance(reach, Scalar) else reach
            spot = (at - span).floor() + 1.0 + inner.index(rank).cast(f32)
            t = (spot - at) if stretch is None else (spot - at) * inner.wrap(stretch.value)
            if mode == "cubic":
                weight = cubic_weight(t, _cubic(low, op))
            else:
                weight = (1.0 - t.absolute()).maximum(0.0)
            if exclude:
                inside = spot.at_least(0.0) & spot.below(extent)
                weight = inner.select(inside, weight, 0.0)
        held = spot.maximum(0.0).minimum(extent - 1.0).as_integer(i64, False).as_index()
        places = [held if a == axis else inner.index(a) for a in range(rank)]
        value = inner.extract(x, places, unsigned=unsigned).cast(f32)
        return [acc + value * weight, weights + weight]

    window = low.empty((taps,), f32)
    inits = [(low.fill(0.0, shape, f32), d[:rank]) for _ in range(2)]
    total, weights = low.generic("p" * rank + "r", [(window, d[rank:])], inits, body)
    return low.map(lambda t, w: t / w, [total, weights], shape, f32)
