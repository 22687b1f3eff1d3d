"""What ops compute that move, index or make elements."""

from typing import Any

import numpy as np

from stepwell.dialects.graph import STRING, GraphOp
from stepwell.dialects.graph.types import numpy_dtype, numpy_from_dense
from stepwell.errors import RunError
from stepwell.interpreter.graph.elementwise import cast
from stepwell.interpreter.graph.evaluation import evaluates, narrow

Array = Any


@evaluates("identity", exact=True)
def _identity(op: GraphOp, x: Any) -> Any:
    return x


@evaluates("shape", exact=True)
def _shape(op: GraphOp, x: Array) -> Array:
    return np.array(x.shape[slice(op.get("start"), op.get("end"))], np.int64)


@evaluates("size", exact=True)
def _size(op: GraphOp, x: Array) -> Array:
    return np.array(x.size, np.int64)


@evaluates("reshape", exact=True)
def _reshape(op: GraphOp, x: Array, shape: Array) -> Array:
    target = shape.tolist()
    if not op.get("allowzero"):
        target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
    if -1 in target and x.size == 0:
        rest = int(np.prod([d for d in target if d != -1]))
        target[target.index(-1)] = 0 if rest == 0 else x.size // rest
    return x.reshape(target)


@evaluates("flatten", exact=True)
def _flatten(op: GraphOp, x: Array) -> Array:
    axis = op.get("axis")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


@evaluates("transpose", exact=True)
def _transpose(op: GraphOp, x: Array) -> Array:
    return np.transpose(x, op.get("perm"))


@evaluates("concat", exact=True)
def _concat(op: GraphOp, *xs: Array) -> Array:
    return np.concatenate(xs, axis=op.get("axis"))


@evaluates("split", exact=True)
def _split(op: GraphOp, x: Array, split: Array = None) -> Array:
    axis, count = op.get("axis"), len(op.results)
    extent = x.shape[axis]
    piece = -(-extent // count)
    sizes = split.tolist() if split is not None else [piece] * (count - 1) + [extent - piece * (count - 1)]
    return tuple(np.split(x, np.cumsum(sizes)[:-1].astype(np.int64), axis=axis))


@evaluates("slice", exact=True)
def _slice(
    op: GraphOp, x: Array, starts: Array, ends: Array, axes: Array = None, steps: Array = None
) -> Array:
    places = [slice(None)] * x.ndim
    listed = range(len(starts)) if axes is None else axes.tolist()
    for i, axis in enumerate(listed):
        step = 1 if steps is None else int(steps[i])
        start, end = int(starts[i]), int(ends[i])
        if step < 0 and end < -x.shape[axis]:
            places[axis] = slice(start, None, step)
        else:
            places[axis] = slice(start, end, step)
    return x[tuple(places)]


@evaluates("squeeze", exact=True)
def _squeeze(op: GraphOp, x: Array, axes: Array = None) -> Array:
    return np.squeeze(x, None if axes is None else tuple(axes.ravel().tolist()))


@evaluates("unsqueeze", exact=True)
def _unsqueeze(op: GraphOp, x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(axes.ravel().tolist()))


@evaluates("expand", exact=True)
def _expand(op: GraphOp, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


@evaluates("tile", exact=True)
def _tile(op: GraphOp, x: Array, repeats: Array) -> Array:
    return np.tile(x, repeats.tolist())


@evaluates("pad", exact=True)
def _pad(op: GraphOp, x: Array, pads: Array, value: Array = None, axes: Array = None) -> Array:
    listed = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes.tolist()]
    widths = [[0, 0] for _ in range(x.ndim)]
    for i, axis in enumerate(listed):
        widths[axis] = [int(pads[i]), int(pads[len(listed) + i])]
    cut = tuple(slice(max(-b, 0), x.shape[i] - max(-e, 0)) for i, (b, e) in enumerate(widths))
    x = x[cut]
    widths = [(max(b, 0), max(e, 0)) for b, e in widths]
    mode = op.get("mode")
    if mode == "constant":
        fill = np.zeros((), x.dtype) if value is None else value.reshape(())
        out = np.full([d + b + e for d, (b, e) in zip(x.shape, widths, strict=True)], fill, x.dtype)
        out[tuple(slice(b, b + d) for d, (b, _) in zip(x.shape, widths, strict=True))] = x
        return out
    return np.pad(x, widths, mode=mode)


@evaluates("depth_to_space", exact=True)
def _depth_to_space(op: GraphOp, x: Array) -> Array:
    n, c, h, w = x.shape
    b = op.get("blocksize")
    if op.get("mode") == "DCR":
        y = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // (b * b), h * b, w * b)


@evaluates("space_to_depth", exact=True)
def _space_to_depth(op: GraphOp, x: Array) -> Array:
    n, c, h, w = x.shape
    b = op.get("blocksize")
    y = x.reshape(n, c, h // b, b, w // b, b)
    y = y.transpose(0, 3, 5, 1, 2, 4) if op.get("mode") == "DCR" else y.transpose(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)


@evaluates("trilu", exact=True)
def _trilu(op: GraphOp, x: Array, k: Array = None) -> Array:
    k = 0 if k is None else int(k.reshape(()))
    rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
    kept = columns - rows >= k if op.get("upper") else columns - rows <= k
    return np.where(kept, x, np.zeros((), x.dtype))


@evaluates("reverse_sequence", exact=True)
def _reverse_sequence(op: GraphOp, x: Array, lengths: Array) -> Array:
    y = np.moveaxis(x, (op.get("batch_axis"), op.get("time_axis")), (0, 1)).copy()
    for i, length in enumerate(lengths.tolist()):
        y[i, :length] = y[i, :length][::-1]
    return np.moveaxis(y, (0, 1), (op.get("batch_axis"), op.get("time_axis")))


@evaluates("center_crop_pad", exact=True)
def _center_crop_pad(op: GraphOp, x: Array, shape: Array) -> Array:
    axes = op.get("axes") or range(x.ndim)
    for axis, want in zip(axes, shape.tolist(), strict=True):
        extent = x.shape[axis]
        if extent > want:
            begin = (extent - want) // 2
            x = np.take(x, range(begin, begin + want), axis=axis)
        elif extent < want:
            begin = (want - extent) // 2
            width = [(0, 0)] * x.ndim
            width[axis] = (begin, want - extent - begin)
            x = np.pad(x, width)
    return x


@evaluates("gather", exact=True)
def _gather(op: GraphOp, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=op.get("axis"))


@evaluates("gather_elements", exact=True)
def _gather_elements(op: GraphOp, x: Array, indices: Array) -> Array:
    axis = op.get("axis") % x.ndim
    places = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices
    return x[tuple(places)]


@evaluates("gather_nd", exact=True)
def _gather_nd(op: GraphOp, x: Array, indices: Array) -> Array:
    batch = op.get("batch_dims")
    lead = np.indices(indices.shape[:batch], sparse=True) if batch else ()
    extra = indices.ndim - 1 - batch
    places = [p.reshape(p.shape + (1,) * extra) for p in lead]
    return x[(*places, *(indices[..., i] for i in range(indices.shape[-1])))]


_COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(out: Array, places: tuple[Array, ...], updates: Array, reduction: str) -> None:
    if reduction == "none":
        out[places] = updates
    else:
        _COMBINE[reduction].at(out, places, updates)


@evaluates("scatter_elements")
def _scatter_elements(op: GraphOp, x: Array, indices: Array, updates: Array) -> Array:
    axis = op.get("axis") % x.ndim
    places = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    out = x.copy()
    _scatter(out, tuple(places), updates, op.get("reduction"))
    return out


@evaluates("scatter_nd")
def _scatter_nd(op: GraphOp, x: Array, indices: Array, updates: Array) -> Array:
    out = x.copy()
    _scatter(out, tuple(indices[..., i] for i in range(indices.shape[-1])), updates, op.get("reduction"))
    return out


@evaluates("tensor_scatter", exact=True)
def _tensor_scatter(op: GraphOp, past: Array, update: Array, start: Array = None) -> Array:
    axis = op.get("axis") % past.ndim
    out = np.moveaxis(past, axis, 1).copy()
    new = np.moveaxis(update, axis, 1)
    for i in range(past.shape[0]):
        places = np.arange(new.shape[1]) + (0 if start is None else int(start[i]))
        out[i, places % out.shape[1] if op.get("mode") == "circular" else places] = new[i]
    return np.moveaxis(out, 1, axis)


@evaluates("one_hot", exact=True)
def _one_hot(op: GraphOp, indices: Array, depth: Array, values: Array) -> Array:
    count = int(np.asarray(depth).reshape(()))
    places = indices.astype(np.int64)
    places = np.where(places < 0, places + count, places)
    axis = op.get("axis") % (indices.ndim + 1)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = count
    hit = np.expand_dims(places, axis) == np.arange(count).reshape(shape)
    return np.where(hit, values[1], values[0])


@evaluates("top_k")
def _top_k(op: GraphOp, x: Array, k: Array) -> Array:
    axis, count = op.get("axis") % x.ndim, int(k.reshape(()))
    # A stable sort of the mirrored values keeps the first of equal ones first.
    if op.get("largest"):
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    order = np.take(order, range(count), axis=axis)
    return np.take_along_axis(x, order, axis), order


@evaluates("non_zero")
def _non_zero(op: GraphOp, x: Array) -> Array:
    return np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1)


@evaluates("compress", exact=True)
def _compress(op: GraphOp, x: Array, condition: Array) -> Array:
    return np.compress(condition, x, axis=op.get("axis"))


@evaluates("unique")
def _unique(op: GraphOp, x: Array) -> Array:
    axis = op.get("axis")
    y, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not op.get("sorted"):
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        y, first, counts, inverse = (
            np.take(y, order, axis=axis or 0),
            first[order],
            counts[order],
            rank[inverse],
        )
    return y, first, inverse, counts


@evaluates("range")
def _range(op: GraphOp, start: Array, limit: Array, delta: Array) -> Array:
    start, limit, delta = (v.reshape(()) for v in (start, limit, delta))
    count = max(int(np.ceil((limit.astype(np.float64) - start) / delta)), 0)
    return (start + np.arange(count) * delta).astype(start.dtype)


@evaluates("constant_of_shape")
def _constant_of_shape(op: GraphOp, shape: Array) -> Array:
    value = op.properties.get("value")
    array = numpy_from_dense(value) if value is not None else np.zeros(1, np.float32)
    assert array is not None, "the value of constant_of_shape is one inline element"
    return np.full(tuple(shape.tolist()), array.reshape(-1)[0], array.dtype)


@evaluates("eye_like")
def _eye_like(op: GraphOp, x: Array) -> Array:
    return np.eye(x.shape[0], x.shape[1], op.get("k"))


def _window(op: GraphOp, size: Array, a: float, b: float, c: float) -> Array:
    count = int(size.reshape(()))
    angle = 2 * np.pi * np.arange(count) / (count if op.get("periodic") else max(count - 1, 1))
    return a - b * np.cos(angle) + c * np.cos(2 * angle)


@evaluates("hann_window")
def _hann(op: GraphOp, size: Array) -> Array:
    return _window(op, size, 0.5, 0.5, 0)


@evaluates("hamming_window")
def _hamming(op: GraphOp, size: Array) -> Array:
    return _window(op, size, 25 / 46, 21 / 46, 0)


@evaluates("blackman_window")
def _blackman(op: GraphOp, size: Array) -> Array:
    return _window(op, size, 0.42, 0.5, 0.08)


@evaluates("non_max_suppression")
def _non_max_suppression(
    op: GraphOp, boxes: Array, scores: Array, limit: Array = None, overlap: Array = None, least: Array = None
) -> Array:
    most = 0 if limit is None else int(limit.reshape(()))
    threshold = 0.0 if overlap is None else float(overlap.reshape(()))
    if op.get("center_point_box"):
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        low, high = np.stack([x - w / 2, y - h / 2], -1), np.stack([x + w / 2, y + h / 2], -1)
    else:
        a, b = boxes[..., :2], boxes[..., 2:]
        low, high = np.minimum(a, b), np.maximum(a, b)
    rows: list[list[int]] = []
    for batch in range(boxes.shape[0]):
        area = np.prod(high[batch] - low[batch], axis=-1)
        for kind in range(scores.shape[1]):
            score = scores[batch, kind]
            order = [
                i for i in np.argsort(-score, kind="stable") if least is None or score[i] > least.reshape(())
            ]
            kept: list[int] = []
            for i in order:
                if len(kept) >= most:
                    break
                both = np.prod(
                    np.maximum(
                        np.minimum(high[batch, i], high[batch, kept])
                        - np.maximum(low[batch, i], low[batch, kept]),
                        0,
                    ),
                    axis=-1,
                )
                if not np.any(both / (area[i] + area[kept] - both) > threshold):
                    kept.append(int(i))
            rows += [[batch, kind, i] for i in kept]
    return np.array(rows, np.int64).reshape(-1, 3)


# --- sequences, optionals, maps, strings


@evaluates("sequence_empty", exact=True)
def _sequence_empty(op: GraphOp) -> Any:
    return ([],)


@evaluates("sequence_construct", exact=True)
def _sequence_construct(op: GraphOp, *xs: Array) -> Any:
    return (list(xs),)


@evaluates("sequence_at", exact=True)
def _sequence_at(op: GraphOp, xs: list[Array], position: Array) -> Array:
    return xs[int(position.reshape(()))]


@evaluates("sequence_length", exact=True)
def _sequence_length(op: GraphOp, xs: list[Array]) -> Array:
    return np.array(len(xs), np.int64)


@evaluates("sequence_insert", exact=True)
def _sequence_insert(op: GraphOp, xs: list[Array], x: Array, position: Array = None) -> Any:
    at = len(xs) if position is None else int(position.reshape(()))
    return ([*xs[:at], x, *xs[at:]],)


@evaluates("sequence_erase", exact=True)
def _sequence_erase(op: GraphOp, xs: list[Array], position: Array = None) -> Any:
    at = len(xs) - 1 if position is None else int(position.reshape(())) % len(xs)
    return (xs[:at] + xs[at + 1 :],)


@evaluates("concat_from_sequence", exact=True)
def _concat_from_sequence(op: GraphOp, xs: list[Array]) -> Array:
    return (np.stack if op.get("new_axis") else np.concatenate)(xs, axis=op.get("axis"))


@evaluates("split_to_sequence", exact=True)
def _split_to_sequence(op: GraphOp, x: Array, split: Array = None) -> Any:
    axis = op.get("axis")
    if split is None:
        pieces = np.split(x, x.shape[axis], axis=axis)
        return ([p if op.get("keepdims") else np.squeeze(p, axis) for p in pieces],)
    if split.ndim == 0:
        return (np.split(x, range(int(split), x.shape[axis], int(split)), axis=axis),)
    return (np.split(x, np.cumsum(split)[:-1], axis=axis),)


@evaluates("optional", exact=True)
def _optional(op: GraphOp, x: Any = None) -> Any:
    return (x,)


@evaluates("optional_has_element", exact=True)
def _optional_has_element(op: GraphOp, x: Any = None) -> Array:
    return np.array(x is not None)


@evaluates("optional_get_element", exact=True)
def _optional_get_element(op: GraphOp, x: Any) -> Any:
    return (x,)


@evaluates("zip_map", exact=True)
def _zip_map(op: GraphOp, x: Array) -> Any:
    labels = op.get("classlabels_int64s") or op.get("classlabels_strings")
    return ([dict(zip(labels, row, strict=True)) for row in np.atleast_2d(x).tolist()],)


def _is_text(type: Any) -> bool:
    return type.element_type == STRING


@evaluates("dict_vectorizer", exact=True)
def _dict_vectorizer(op: GraphOp, x: dict[Any, Any]) -> Array:
    vocabulary = op.get("int64_vocabulary") or op.get("string_vocabulary")
    absent = "" if _is_text(op.results[0].type) else 0
    values = [x.get(key, absent) for key in vocabulary]
    return np.array([[*values, None]], object)[:, :-1] if absent == "" else np.array([values])


@evaluates("cast_map", exact=True)
def _cast_map(op: GraphOp, x: dict[int, Any]) -> Array:
    target: Any = op.results[0].type
    keys = sorted(x)
    sparse, most = op.get("map_form") == "SPARSE", op.get("max_map")
    if sparse and any(key < 0 for key in keys):
        raise RunError(f"{op.name}: a key is negative; pass keys from 0 to max_map - 1")
    held: Any = op.operands[0].type
    values: Array = np.array([*(x[key] for key in keys), None], object)[:-1]
    numbers = not _is_text(held.element)
    if numbers:
        values = values.astype(np.float32)
    if _is_text(target) and numbers:
        texts = [f"{value:.6f}" for value in values.tolist()]
        row = np.array([*texts, None], object)[:-1]
    else:
        row = cast(values, numpy_dtype(target.element_type))
    if not sparse:
        return row[None]
    every = np.full(most, "0.f" if _is_text(target) else 0, row.dtype)
    for key, value in zip(keys, row.tolist(), strict=True):
        if key < most:
            every[key] = value
    return every[None]


@evaluates("constant", exact=True)
def _constant(op: GraphOp) -> Array:
    array = op.array()  # pyright: ignore[reportAttributeAccessIssue]
    assert array is not None, "resources are read by the machine"
    return narrow(array, op.results[0].type)
