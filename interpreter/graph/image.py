"""What resampling and Fourier transforms compute."""

import itertools
import math
from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp
from stepwell.errors import RunError
from stepwell.interpreter import images
from stepwell.interpreter.graph.evaluation import evaluates

Array = Any


def _cubic(t: float, a: float) -> float:
    t = abs(t)
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return (((t - 5) * t + 8) * t - 4) * a if t < 2 else 0.0


def _place(op: GraphOp, i: float, extent: int, out: int, scale: float, roi: tuple[float, float]) -> float:
    """The coordinate in the input of output element `i`."""
    mode = op.get("coordinate_transformation_mode")
    if mode == "asymmetric":
        return i / scale
    if mode == "align_corners":
        # The tests of ONNX take the extent before it is rounded down.
        length = extent * scale
        return 0.0 if length == 1 or out == 1 else i * (extent - 1) / (length - 1)
    if mode == "pytorch_half_pixel":
        return (i + 0.5) / scale - 0.5 if out > 1 else 0.0
    if mode == "tf_crop_and_resize":
        begin, end = roi
        if out > 1:
            return begin * (extent - 1) + i * (end - begin) * (extent - 1) / (out - 1)
        return 0.5 * (begin + end) * (extent - 1)
    if mode == "half_pixel_symmetric":
        # The rounding of the extent is shared between both ends.
        center = extent / 2
        return center * (1 - out / (extent * scale)) + (i + 0.5) / scale - 0.5
    return (i + 0.5) / scale - 0.5


def _nearest(op: GraphOp, x: float) -> int:
    mode = op.get("nearest_mode")
    if mode == "floor":
        return math.floor(x)
    if mode == "ceil":
        return math.ceil(x)
    return math.floor(x + 0.5) if mode == "round_prefer_ceil" else math.ceil(x - 0.5)


def _matrix(
    op: GraphOp, extent: int, out: int, scale: float, roi: tuple[float, float]
) -> tuple[Array, Array]:
    """The weights `[out, in]` of one axis, and which outputs lie outside the input."""
    weights = np.zeros((out, extent))
    outside = np.zeros(out, bool)
    mode, a = op.get("mode"), op.get("cubic_coeff_a")
    for i in range(out):
        # a tie between two neighbours is one in single precision, as in compiled code and onnxruntime
        place = np.float32(i) if mode == "nearest" else i
        x = _place(op, place, extent, out, np.float32(scale) if mode == "nearest" else scale, roi)
        outside[i] = (
            op.get("coordinate_transformation_mode") == "tf_crop_and_resize" and not 0 <= x <= extent - 1
        )
        if mode == "nearest":
            weights[i, min(max(_nearest(op, x), 0), extent - 1)] = 1
            continue
        stretch = min(scale, 1.0) if op.get("antialias") else 1.0
        reach = (2 if mode == "cubic" else 1) / stretch
        taps: dict[int, float] = {}
        for j in range(math.floor(x - reach) + 1, math.ceil(x + reach)):
            t = (j - x) * stretch
            taps[j] = _cubic(t, a) if mode == "cubic" else max(0.0, 1 - abs(t))
        if not taps:
            taps = {round(x): 1.0}
        if op.get("exclude_outside") or (op.get("antialias") and mode == "linear"):
            inside = {j: w for j, w in taps.items() if 0 <= j < extent}
            taps = inside if op.get("exclude_outside") else taps
        total = sum(taps.values())
        for j, w in taps.items():
            weights[i, min(max(j, 0), extent - 1)] += w / total
    return weights, outside


@evaluates("resize")
def _resize(op: GraphOp, x: Array, roi: Array = None, scales: Array = None, sizes: Array = None) -> Array:
    axes = [a % x.ndim for a in (op.get("axes") or range(x.ndim))]
    policy = op.get("keep_aspect_ratio_policy")
    if sizes is not None and sizes.size:
        wanted = [int(s) for s in sizes]
        ratios = [s / x.shape[a] for s, a in zip(wanted, axes, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            wanted = [math.floor(ratio * x.shape[a] + 0.5) for a in axes]
    else:
        ratios = [float(s) for s in scales]
        wanted = [math.floor(x.shape[a] * s) for a, s in zip(axes, ratios, strict=True)]
    y = x.astype(np.float64)
    beyond = np.zeros((), bool)
    for i, (axis, out, scale) in enumerate(zip(axes, wanted, ratios, strict=True)):
        region = (0.0, 1.0) if roi is None or not roi.size else (float(roi[i]), float(roi[len(axes) + i]))
        if out == x.shape[axis] and scale == 1 and region == (0.0, 1.0):
            continue
        weights, outside = _matrix(op, x.shape[axis], out, scale, region)
        y = _weighted(y, weights, axis)
        shape = [1] * x.ndim
        shape[axis] = -1
        beyond = beyond | outside.reshape(shape)
    y = np.where(beyond, op.get("extrapolation_value"), y)
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        y = np.clip(np.rint(y), info.min, info.max)
    return y.astype(x.dtype)


def _weighted(x: Array, weights: Array, axis: int) -> Array:
    """Sums of `x` along `axis` by each row of `weights`; what has no weight does not count, be it infinite."""
    if np.isfinite(x).all():
        return np.moveaxis(np.tensordot(x, weights, axes=(axis, 1)), -1, axis)
    rows = [
        np.tensordot(np.take(x, np.flatnonzero(row), axis), row[row != 0], axes=(axis, 0)) for row in weights
    ]
    return np.stack(rows, axis)


def _folded(i: Array, extent: int, mode: str, align: bool) -> Array:
    """Integer places brought into the image."""
    if mode == "border":
        return np.clip(i, 0, extent - 1)
    if mode == "reflection":
        if extent == 1:
            return np.zeros_like(i)
        if align:
            period = 2 * (extent - 1)
            i = np.abs(i) % period
            return np.where(i >= extent, period - i, i)
        period = 2 * extent
        i = i % period
        return np.where(i >= extent, period - 1 - i, i)
    return i


@evaluates("grid_sample")
def _grid_sample(op: GraphOp, x: Array, grid: Array) -> Array:
    rank = x.ndim - 2
    align, padding, mode = bool(op.get("align_corners")), op.get("padding_mode"), op.get("mode")
    # The last axis of the grid is x, y, (z): the innermost axis first.
    place = []
    for i in range(rank):
        g, extent = grid[..., rank - 1 - i], x.shape[2 + i]
        c = (g + 1) / 2 * (extent - 1) if align else ((g + 1) * extent - 1) / 2
        if padding == "border" and mode != "cubic":
            c = np.clip(c, 0, extent - 1)
        elif padding == "reflection" and mode != "cubic":
            low, high = (0.0, extent - 1.0) if align else (-0.5, extent - 0.5)
            span = high - low
            if span == 0:
                c = np.zeros_like(c)
            else:
                c = np.abs(c - low) % (2 * span)
                c = np.where(c > span, 2 * span - c, c) + low
                c = np.clip(c, 0, extent - 1)
        place.append(c)
    taps: list[list[tuple[Array, Array]]] = []
    for c in place:
        if mode == "nearest":
            taps.append([(np.rint(c).astype(np.int64), np.ones_like(c))])
        elif mode == "linear":
            low = np.floor(c)
            taps.append([(low.astype(np.int64), 1 - (c - low)), (low.astype(np.int64) + 1, c - low)])
        else:
            low = np.floor(c)
            weight = np.vectorize(lambda t: _cubic(t, -0.75), otypes=[float])
            taps.append([(low.astype(np.int64) + k, weight(c - low - k)) for k in (-1, 0, 1, 2)])
    batch = np.arange(x.shape[0]).reshape(-1, *[1] * rank)
    y = np.zeros((x.shape[0], x.shape[1], *grid.shape[1:-1]))
    for combination in itertools.product(*taps):
        weight: Array = np.ones(())
        inside: Array = np.ones((), bool)
        at = []
        for i, (index, w) in enumerate(combination):
            extent = x.shape[2 + i]
            index = _folded(index, extent, padding, align)
            inside = inside & (index >= 0) & (index < extent)
            at.append(np.clip(index, 0, extent - 1))
            weight = weight * w
        values = np.moveaxis(x[(batch, slice(None), *at)], -1, 1)
        y += values * np.where(inside, weight, 0)[:, None]
    return y.astype(x.dtype)


@evaluates("affine_grid")
def _affine_grid(op: GraphOp, theta: Array, size: Array) -> Array:
    space = [int(s) for s in size[2:]]
    axes = []
    for extent in space:
        steps = np.arange(extent, dtype=theta.dtype)
        axes.append(
            (2 * steps / max(extent - 1, 1) - 1 if extent > 1 else steps) if op.get("align_corners")
            else (2 * steps + 1) / extent - 1
        )  # fmt: skip
    mesh = np.meshgrid(*axes, indexing="ij")
    points = np.stack([*mesh[::-1], np.ones(space)], -1).astype(theta.dtype)
    return np.einsum("...k,njk->n...j", points, theta)


@evaluates("dft")
def _dft(op: GraphOp, x: Array, length: Array = None, axis: Array = None) -> Array:
    at = -2 if axis is None else int(axis.reshape(()))
    at = at % x.ndim
    wide = x.astype(np.float64)
    values = wide[..., 0] if x.shape[-1] == 1 else wide[..., 0] + 1j * wide[..., 1]
    count = None if length is None else int(length.reshape(()))
    if op.get("onesided") and op.get("inverse"):
        return np.fft.irfft(values, count, axis=at)[..., None]
    y = (np.fft.ifft if op.get("inverse") else np.fft.fft)(values, count, axis=at)
    if op.get("onesided"):
        y = np.take(y, range(y.shape[at] // 2 + 1), axis=at)
    return np.stack([y.real, y.imag], -1)


@evaluates("stft")
def _stft(op: GraphOp, signal: Array, step: Array, window: Array = None, length: Array = None) -> Array:
    count = int(length.reshape(())) if length is not None else window.shape[0]
    hop = int(step.reshape(()))
    wide = signal.astype(np.float64)
    if signal.ndim == 3:
        wide = wide[..., 0] if signal.shape[-1] == 1 else wide[..., 0] + 1j * wide[..., 1]
    frames = 1 + (wide.shape[1] - count) // hop
    pieces = np.stack([wide[:, i * hop : i * hop + count] for i in range(frames)], 1)
    if window is not None:
        pieces = pieces * window
    y = np.fft.fft(pieces, axis=-1)
    if op.get("onesided"):
        y = y[..., : count // 2 + 1]
    return np.stack([y.real, y.imag], -1)


@evaluates("mel_weight_matrix")
def _mel_weight_matrix(
    op: GraphOp, bins: Array, length: Array, rate: Array, bottom: Array, top: Array
) -> Array:
    count, samples = int(bins.reshape(())), int(length.reshape(()))
    first, last = (2595 * np.log10(1 + float(v.reshape(())) / 700) for v in (bottom, top))
    mels = first + np.arange(count + 2) * (last - first) / (count + 2)
    edges = np.floor(700 * (10 ** (mels / 2595) - 1) * (samples + 1) / int(rate.reshape(())))
    place = np.arange(samples // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (place - left) / np.maximum(centre - left, 1)
    falling = (right - place) / np.maximum(right - centre, 1)
    value = np.where((place >= left) & (place < centre), rising, 0)
    value = np.where((place >= centre) & (place < right), falling, value)
    return np.where(place == centre, 1.0, value)


@evaluates("max_roi_pool")
def _max_roi_pool(op: GraphOp, x: Array, rois: Array) -> Array:
    rows, columns = op.get("pooled_shape")
    scale = np.float32(op.get("spatial_scale"))
    y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)

    def bins(first: Any, last: Any, count: int, extent: int) -> list[slice]:
        begin, end = (math.floor(np.float32(v) * scale + np.float32(0.5)) for v in (first, last))
        size = np.float32(max(end - begin + 1, 1)) / np.float32(count)
        ends = [(math.floor(np.float32(i) * size), math.ceil(np.float32(i + 1) * size)) for i in range(count)]
        return [slice(min(max(a + begin, 0), extent), min(max(b + begin, 0), extent)) for a, b in ends]

    for r, (image, x1, y1, x2, y2) in enumerate(rois):
        for i, down in enumerate(bins(y1, y2, rows, x.shape[2])):
            for j, across in enumerate(bins(x1, x2, columns, x.shape[3])):
                piece = x[int(image), :, down, across]
                if piece.size:
                    y[r, :, i, j] = piece.max((1, 2))
    return y


def _bilinear(image: Array, row: Array, column: Array) -> Array:
    """`image[c, h, w]` at broken places `[n]`, which lie in it or are held at its border: `[c, n]`."""
    places = []
    for c, extent in ((row, image.shape[1]), (column, image.shape[2])):
        c = np.clip(c, 0, extent - 1)
        low = np.floor(c).astype(np.int64)
        places.append((low, np.minimum(low + 1, extent - 1), c - low))
    (top, bottom, v), (left, right, h) = places
    return np.stack([
        image[:, top, left] * ((1 - v) * (1 - h)), image[:, top, right] * ((1 - v) * h),
        image[:, bottom, left] * (v * (1 - h)), image[:, bottom, right] * (v * h),
    ])  # fmt: skip


@evaluates("roi_align")
def _roi_align(op: GraphOp, x: Array, rois: Array, images: Array) -> Array:
    rows, columns = op.get("output_height"), op.get("output_width")
    scale, largest = op.get("spatial_scale"), op.get("mode") == "max"
    half = 0.5 if op.get("coordinate_transformation_mode") == "half_pixel" else 0.0
    y = np.zeros((len(rois), x.shape[1], rows, columns), x.dtype)
    for r, (region, image) in enumerate(zip(rois, images, strict=True)):
        x1, y1, x2, y2 = (float(v) * scale - half for v in region)
        height, width = y2 - y1, x2 - x1
        if not half:
            height, width = max(height, 1.0), max(width, 1.0)
        down = op.get("sampling_ratio") or math.ceil(height / rows)
        across = op.get("sampling_ratio") or math.ceil(width / columns)
        for i, j in itertools.product(range(rows), range(columns)):
            p = y1 + (i + (np.arange(down) + 0.5) / down) * height / rows
            q = x1 + (j + (np.arange(across) + 0.5) / across) * width / columns
            p, q = (v.reshape(-1) for v in np.meshgrid(p, q, indexing="ij"))
            inside = (p >= -1) & (p <= x.shape[2]) & (q >= -1) & (q <= x.shape[3])
            terms = _bilinear(x[int(image)].astype(np.float64), p, q) * inside
            if p.size:
                y[r, :, i, j] = terms.max((0, 2)) if largest else terms.sum((0, 2)) / p.size
    return y


@evaluates("deform_conv")
def _deform_conv(
    op: GraphOp, x: Array, w: Array, offset: Array, bias: Array = None, mask: Array = None
) -> Array:
    from stepwell.dialects.graph.contraction import Window

    window = Window(op, x.shape[2:], w.shape[2:])
    space, kernel = len(x.shape) - 2, w.shape[2:]
    output = [int(n) for n in window.output if isinstance(n, int)]
    begins = [int(n) for n in window.pads_begin if isinstance(n, int)]
    groups, group = op.get("offset_group"), op.get("group")
    taps = list(np.ndindex(*kernel))
    moved = offset.reshape(len(x), groups, len(taps), space, *output)
    kept = (
        np.ones((len(x), groups, len(taps), *output))
        if mask is None
        else mask.reshape(len(x), groups, len(taps), *output)
    )
    columns = np.zeros((len(x), x.shape[1], len(taps), *output))
    each = x.shape[1] // groups
    for n, c, (t, tap) in itertools.product(range(len(x)), range(x.shape[1]), enumerate(taps)):
        total: Any = 0.0
        corner = []
        for a in range(space):
            shape = [1] * space
            shape[a] = -1
            base = (
                np.arange(output[a]).reshape(shape) * window.strides[a]
                - begins[a]
                + tap[a] * window.dilations[a]
            )
            place = base + moved[n, c // each, t, a]
            low = np.floor(place).astype(np.int64)
            corner.append([(low, 1 - (place - low)), (low + 1, place - low)])
        for choice in itertools.product(*corner):
            weight: Any = 1.0
            at = []
            for a, (index, part) in enumerate(choice):
                extent = x.shape[2 + a]
                weight = weight * part * ((index >= 0) & (index < extent))
                at.append(np.clip(index, 0, extent - 1))
            total = total + x[(n, c, *at)] * weight
        columns[n, c, t] = total * kept[n, c // each, t]
    columns = columns.reshape(len(x), group, -1, *output)
    weights = w.reshape(group, w.shape[0] // group, -1)
    y = np.einsum("gok,ngk...->ngo...", weights, columns).reshape(len(x), w.shape[0], *output)
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * space)
    return y.astype(x.dtype)


@evaluates("image_decoder")
def _image_decoder(op: GraphOp, stream: Array) -> Array:
    try:
        pixels = images.decode(stream.tobytes())
    except images.ImageError as error:
        raise RunError(f"{op.name}: {error}") from None
    order = op.get("pixel_format")
    return (
        images.luminance(pixels) if order == "Grayscale" else pixels[..., ::-1] if order == "BGR" else pixels
    )
