"""Attention as ONNX Runtime spells it: packed weights, masks of several forms, keys and values of the past."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.quantised import real_product
from stepwell.frontends.onnx.contrib.rules import add, contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import (
    cast,
    counting,
    cut,
    extent,
    given,
    ints,
    one,
    operand,
    reshape,
    scalar,
    squeeze,
    transpose,
    unsqueeze,
)


def _width(call: Call, emitter: Emitter, value: SSAValue, axis: int = -1) -> int:
    """An extent that has to be known."""
    found = emitter.shape(value)[axis]
    if not isinstance(found, int):
        raise emitter.missing(call, "the width of a head is not known", "give the extent a number")
    return found


def _heads(emitter: Emitter, value: SSAValue, count: int) -> SSAValue:
    """`[batch, length, heads * width]` as `[batch, heads, length, width]`."""
    return transpose(emitter, reshape(emitter, value, 0, 0, count, -1), 0, 2, 1, 3)


def _merged(emitter: Emitter, value: SSAValue) -> SSAValue:
    """`[batch, heads, length, width]` as `[batch, length, heads * width]`."""
    return reshape(emitter, transpose(emitter, value, 0, 2, 1, 3), 0, 0, -1)


def _length(emitter: Emitter, value: SSAValue, axis: int) -> SSAValue:
    """An extent as a scalar."""
    return squeeze(emitter, extent(emitter, value, axis), 0)


def _attend(
    emitter: Emitter, q: SSAValue, k: SSAValue, v: SSAValue, scale: float, biases: Sequence[SSAValue | None]
) -> tuple[SSAValue, SSAValue]:
    """softmax(scale * q k^T + biases) v, on `[.., length, width]`, and the scores inside."""
    rank = len(emitter.shape(k))
    turned = transpose(emitter, k, *range(rank - 2), rank - 1, rank - 2)
    scores = one(emitter, "MatMul", one(emitter, "Mul", q, scalar(emitter, q, scale)), turned)
    scores = add(emitter, scores, *biases)
    return one(emitter, "MatMul", one(emitter, "Softmax", scores, axis=-1), v), scores


def _mask_bias(emitter: Emitter, keep: SSAValue, like: SSAValue, value: float) -> SSAValue:
    """0 where a position is kept, `value` where it is not."""
    return one(emitter, "Where", keep, scalar(emitter, like, 0.0), scalar(emitter, like, value))


def _causal(emitter: Emitter, q: SSAValue, k: SSAValue, value: float) -> SSAValue:
    """The bias that hides from the last positions of `k`, which are those of `q`, what comes after each."""
    total, own = _length(emitter, k, 2), _length(emitter, q, 2)
    rows = unsqueeze(emitter, counting(emitter, total, one(emitter, "Sub", total, own)), 1)
    seen = one(emitter, "LessOrEqual", unsqueeze(emitter, counting(emitter, total), 0), rows)
    return _mask_bias(emitter, seen, q, value)


def _padding(call: Call, emitter: Emitter, mask: SSAValue, k: SSAValue, like: SSAValue) -> SSAValue:
    """The bias of a mask of keys: lengths `[batch]`, or 0 and 1 as `[batch, keys]` or `[batch, queries, keys]`."""
    value, rank = call.attributes.get("mask_filter_value", -10000.0), len(emitter.shape(mask))
    if rank == 1:
        keep = _between_places(call, emitter, mask, k)
    elif rank in (2, 3):
        keep = cast(emitter, mask, np.bool_)
    else:
        raise emitter.missing(call, f"a mask of rank {rank}", "mask by [batch, keys]")
    return _mask_bias(emitter, unsqueeze(emitter, keep, *((1, 2) if rank < 3 else (1,))), like, value)


def _between_places(call: Call, emitter: Emitter, mask: SSAValue, k: SSAValue) -> SSAValue:
    """
    What a mask of places keeps, as `[batch, keys]`. It says where each row ends; behind that may stand where each row
    begins (twice as many), or what only packed rows need (three times as many and two).
    """
    batch, count = emitter.shape(k)[0], emitter.shape(mask)[0]
    places = unsqueeze(emitter, counting(emitter, _length(emitter, k, 2)), 0)
    mask = cast(emitter, mask, np.int64)
    if batch == count:
        return one(emitter, "Less", places, unsqueeze(emitter, mask, 1))
    if not isinstance(batch, int) or count not in (2 * batch, 3 * batch + 2):
        raise emitter.missing(call, f"a mask of {count} lengths for a batch of {batch}", "mask by 0 and 1")
    keep = one(emitter, "Less", places, unsqueeze(emitter, cut(emitter, mask, 0, 0, batch), 1))
    if count == 2 * batch:
        first = unsqueeze(emitter, cut(emitter, mask, 0, batch, 2 * batch), 1)
        keep = one(emitter, "And", keep, one(emitter, "GreaterOrEqual", places, first))
    return keep


def _refuse(call: Call, emitter: Emitter, places: Sequence[int], what: str) -> None:
    if any(given(call, place) is not None for place in places):
        raise emitter.missing(call, what, "export for inference in the ordinary form")


def _refuse_results(call: Call, emitter: Emitter, first: int, what: str) -> None:
    if any(call.used[first:]):
        raise emitter.missing(call, what, "leave that output out")


# Attention: q, k, v = split(input @ weights + bias)
@contrib("Attention")
def _attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    total = add(emitter, one(emitter, "MatMul", operand(call), operand(call, 1)), given(call, 2))
    _refuse(call, emitter, [6], "a past of a length of its own")
    return _packed_attention(call, emitter, total, given(call, 3), given(call, 4), given(call, 5))


@contrib("QAttention")
def _quantised_attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    scales, zeros = (operand(call, 3), operand(call, 4)), (given(call, 6), given(call, 7))
    total = real_product(emitter, operand(call), operand(call, 1), scales, zeros, given(call, 2))
    return _packed_attention(call, emitter, total, given(call, 5), given(call, 8), None)


def _packed_attention(
    call: Call,
    emitter: Emitter,
    packed: SSAValue,
    mask: SSAValue | None,
    past: SSAValue | None,
    bias: SSAValue | None,
) -> Sequence[SSAValue]:
    attributes, heads = call.attributes, call.attributes["num_heads"]
    if attributes.get("do_rotary"):
        raise emitter.missing(call, "rotary positions in Attention", "use RotaryEmbedding")
    width = _width(call, emitter, packed)
    sizes = attributes.get("qkv_hidden_sizes") or [width // 3] * 3
    ends = np.cumsum([0, *sizes]).tolist()
    if len(sizes) != 3 or ends[-1] != width or any(size % heads for size in sizes):
        raise emitter.error(
            call, f"{width} columns for q, k, v of {sizes} in {heads} heads", "export it again"
        )
    q, k, v = (
        _heads(emitter, cut(emitter, packed, 2, a, b), heads)
        for a, b in pairwise(ends)
    )  # fmt: skip
    if past is not None:
        parts = [squeeze(emitter, cut(emitter, past, 0, place, place + 1), 0) for place in (0, 1)]
        k, v = (one(emitter, "Concat", old, new, axis=2) for old, new in zip(parts, (k, v), strict=True))
    biases = [bias]
    if mask is not None:
        biases.append(_padding(call, emitter, mask, k, q))
    if attributes.get("unidirectional", 0):
        biases.append(_causal(emitter, q, k, attributes.get("mask_filter_value", -10000.0)))
    scale = attributes.get("scale") or 1 / sqrt(sizes[0] // heads)
    result = _merged(emitter, _attend(emitter, q, k, v, scale, biases)[0])
    if len(call.used) < 2 or not call.used[1]:
        return [result]
    present = one(emitter, "Concat", unsqueeze(emitter, k, 0), unsqueeze(emitter, v, 0), axis=0)
    return [result, present]


@contrib("MultiHeadAttention")
def _multi_head_attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, heads = call.attributes, call.attributes["num_heads"]
    _refuse(call, emitter, [8, 9], "a past in a buffer of fixed length")
    q, k, v = _projected(call, emitter, heads)
    past = given(call, 6), given(call, 7)
    if past[0] is not None and past[1] is not None:
        k, v = (one(emitter, "Concat", old, new, axis=2) for old, new in zip(past, (k, v), strict=True))
    biases = [given(call, 5)]
    if (mask := given(call, 4)) is not None:
        biases.append(_padding(call, emitter, mask, k, q))
    if attributes.get("unidirectional", 0):
        biases.append(_causal(emitter, q, k, attributes.get("mask_filter_value", -10000.0)))
    scale = attributes.get("scale") or 1 / sqrt(_width(call, emitter, q))
    result, scores = _attend(emitter, q, k, v, scale, biases)
    return [_merged(emitter, result), k, v, scores][: len(call.used)]


# One query each, with the keys and values of the past: what a decoder does for each token.
@contrib("DecoderMaskedMultiHeadAttention")
def _decoder_attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, heads = call.attributes, call.attributes["num_heads"]
    _refuse(call, emitter, [9], "beams that change places")
    key, value, past = given(call, 1), given(call, 2), (given(call, 5), given(call, 6))
    if key is None or value is None:
        raise emitter.missing(call, "queries packed with keys and values", "give all three")
    bias = given(call, 10)
    own = [operand(call), key, value]
    if bias is not None:
        ends = np.cumsum([0, *(_width(call, emitter, x) for x in own)]).tolist()
        parts = zip(own, pairwise(ends), strict=True)
        own = [add(emitter, x, cut(emitter, bias, 0, a, b)) for x, (a, b) in parts]
    q, k, v = (x if len(emitter.shape(x)) == 4 else _heads(emitter, x, heads) for x in own)
    biases = [given(call, 4)]
    count = given(call, 7)
    if past[0] is not None and past[1] is not None:
        if attributes.get("past_present_share_buffer", 0):
            if count is None:
                raise emitter.error(call, "a buffer of the past without its length", "export the model again")
            place = reshape(emitter, cast(emitter, count, np.int64), 1)
            k, v = _written(emitter, past[0], k, place), _written(emitter, past[1], v, place)
            seen = one(emitter, "LessOrEqual", counting(emitter, _length(emitter, k, 2)), place)
            biases.append(_mask_bias(emitter, seen, q, -np.inf))
        else:
            k, v = (one(emitter, "Concat", old, new, axis=2) for old, new in zip(past, (k, v), strict=True))
    if (mask := given(call, 3)) is not None:
        biases.append(_padding(call, emitter, mask, k, q))
    scale = attributes.get("scale") or 1 / sqrt(_width(call, emitter, q))
    result, scores = _attend(emitter, q, k, v, scale, biases)
    return [_merged(emitter, result), k, v, scores][: len(call.used)]


def _written(emitter: Emitter, buffer: SSAValue, new: SSAValue, place: SSAValue) -> SSAValue:
    """`buffer` `[batch, heads, places, width]` with the one entry of `new` at `place`."""
    here = one(emitter, "Equal", counting(emitter, _length(emitter, buffer, 2)), place)
    return one(emitter, "Where", unsqueeze(emitter, here, 1), new, buffer)


def _projected(call: Call, emitter: Emitter, heads: int) -> list[SSAValue]:
    """Query, key and value as `[batch, heads, length, width]`, with their parts of the bias."""
    query, key, value = operand(call), given(call, 1), given(call, 2)
    rank = len(emitter.shape(query))
    if key is None or value is None or rank != 3:
        raise emitter.missing(
            call, f"queries of rank {rank}, or packed with keys or values", "give all three"
        )
    parts = [x if len(emitter.shape(x)) == 4 else _heads(emitter, x, heads) for x in (query, key, value)]
    return _biased(call, emitter, parts, heads)


def _biased(call: Call, emitter: Emitter, parts: list[SSAValue], heads: int) -> list[SSAValue]:
    bias = given(call, 3)
    if bias is None:
        return parts
    widths = [heads * _width(call, emitter, part) for part in parts]
    ends = np.cumsum([0, *widths]).tolist()
    result = []
    for part, a, b in zip(parts, ends, ends[1:], strict=False):
        own = reshape(emitter, cut(emitter, bias, 0, a, b), 1, heads, 1, -1)
        result.append(add(emitter, part, own))
    return result


# Positions that turn


@contrib("RotaryEmbedding")
def _rotary_embedding(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, x, places = call.attributes, operand(call), operand(call, 1)
    if attributes.get("scale", 1.0) != 1.0:
        raise emitter.missing(call, "scaled positions", "export in the ordinary form")
    attributes.get("is_packed_batching")  # the positions say all
    four, cos, sin = x, operand(call, 2), operand(call, 3)
    rank, turned = len(emitter.shape(x)), attributes.get("rotary_embedding_dim", 0)
    if rank == 3:
        heads = attributes.get("num_heads", 0)
        if not heads:
            heads = _width(call, emitter, x) // (turned or 2 * _width(call, emitter, cos))
        four = _heads(emitter, x, heads)
    if len(emitter.shape(places)) == 1:  # the position of the first
        counts = counting(emitter, _length(emitter, four, 2))
        shape = one(emitter, "Concat", extent(emitter, four, 0), extent(emitter, four, 2), axis=0)
        places = one(emitter, "Expand", unsqueeze(emitter, add(emitter, counts, places), 0), shape)
    result = _turned(emitter, four, cos, sin, places, attributes.get("interleaved", 0), turned)
    return [_merged(emitter, result) if rank == 3 else result]


def _turned(
    emitter: Emitter,
    x: SSAValue,
    cos: SSAValue,
    sin: SSAValue,
    places: SSAValue,
    interleaved: int,
    turned: int = 0,
) -> SSAValue:
    """`x` `[batch, heads, length, width]` turned by its positions `[batch, length]`; all of it, or the first `turned`."""
    half = emitter.shape(cos)[-1]
    width = emitter.shape(x)[-1]
    part = turned or (
        2 * half if isinstance(half, int) and isinstance(width, int) and 2 * half < width else 0
    )
    return one(
        emitter, "RotaryEmbedding", x, cos, sin, places, interleaved=interleaved, rotary_embedding_dim=part
    )


# Grouped queries: each head of the keys and values serves several of the queries.
@contrib("GroupQueryAttention")
def _group_query_attention(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes = call.attributes
    heads, shared = attributes["num_heads"], attributes["kv_num_heads"]
    if any(attributes.get(f"{side}_quant_type", "NONE") != "NONE" for side in "kv"):
        raise emitter.missing(call, "quantised keys and values", "export in the ordinary form")
    if attributes.get("sliding_window_cache", 0):
        raise emitter.missing(call, "a buffer of one window", "export with the whole past")
    query, key, value = operand(call), given(call, 1), given(call, 2)
    if key is None or value is None:
        width = _width(call, emitter, query) // (heads + 2 * shared)
        ends = np.cumsum([0, heads, shared, shared]) * width
        query, key, value = (cut(emitter, query, 2, int(a), int(b)) for a, b in pairwise(ends))
    q, k, v = _heads(emitter, query, heads), _heads(emitter, key, shared), _heads(emitter, value, shared)
    if (weight := given(call, 14)) is not None:
        epsilon = attributes.get("qk_norm_epsilon", 1e-6)
        q = one(emitter, "RMSNormalization", q, weight, axis=-1, epsilon=epsilon, stash_type=1)
        k = one(emitter, "RMSNormalization", k, given(call, 15), axis=-1, epsilon=epsilon, stash_type=1)
    # where the first of the new positions stands, for each row of the batch
    lengths = unsqueeze(emitter, reshape(emitter, cast(emitter, operand(call, 5), np.int64), -1), 1)
    past, total = (given(call, 3), given(call, 4)), operand(call, 6)
    count = _length(emitter, q, 2)
    start = one(emitter, "Sub", one(emitter, "Add", lengths, ints(emitter, 1)), count)
    start = one(emitter, "Max", start, emitter.constant(np.array(0)))
    if past[0] is None:
        start = one(emitter, "Mul", start, emitter.constant(np.array(0)))
    places = one(emitter, "Add", start, unsqueeze(emitter, counting(emitter, count), 0))
    turns, how = given(call, 9) or places, attributes.get("rotary_interleaved", 0)
    cos, sin = given(call, 7), given(call, 8)
    if attributes.get("do_rotary", 0):
        if cos is None or sin is None:
            raise emitter.error(call, "rotary positions without their tables", "export the model again")
        q, k = (_turned(emitter, x, cos, sin, turns, how) for x in (q, k))
    if past[0] is not None and past[1] is not None:
        total = reshape(emitter, cast(emitter, total, np.int64), 1)
        k, v = _remembered(emitter, (past[0], past[1]), (k, v), start, count, total)
    result, scores = _grouped(call, emitter, q, k, v, places)
    return [result, k, v, scores][: len(call.used)]


def _remembered(
    emitter: Emitter,
    past: tuple[SSAValue, SSAValue],
    new: tuple[SSAValue, SSAValue],
    start: SSAValue,
    count: SSAValue,
    total: SSAValue,
) -> list[SSAValue]:
    """
    What is remembered afterwards: as long as the past, or `total` if that is longer, with the new entries of each row
    from `start` (`[batch, 1]`) on, and zeros behind them.
    """
    held = extent(emitter, past[0], 2)
    length = squeeze(emitter, one(emitter, "Max", held, total), 0)
    place = unsqueeze(emitter, counting(emitter, length), 0)
    own = one(emitter, "Sub", place, start)
    zero = emitter.constant(np.array(0))
    used = one(emitter, "Less", own, count)
    is_new = one(emitter, "And", one(emitter, "GreaterOrEqual", own, zero), used)
    last = one(emitter, "Sub", one(emitter, "Add", held, count), ints(emitter, 1))
    source = one(emitter, "Where", is_new, one(emitter, "Add", own, held), one(emitter, "Min", place, last))
    # one index [batch, length, 1] into [batch, length, heads, width]
    source, used = unsqueeze(emitter, source, 2), unsqueeze(emitter, used, 2, 3)
    result = []
    for old, fresh in zip(past, new, strict=True):
        every = transpose(emitter, one(emitter, "Concat", old, fresh, axis=2), 0, 2, 1, 3)
        taken = one(emitter, "GatherND", every, source, batch_dims=1)
        taken = one(emitter, "Where", used, taken, scalar(emitter, taken, 0.0))
        result.append(transpose(emitter, taken, 0, 2, 1, 3))
    return result


def _grouped(
    call: Call, emitter: Emitter, q: SSAValue, k: SSAValue, v: SSAValue, places: SSAValue
) -> tuple[SSAValue, SSAValue]:
    """
    Attention of `q` `[batch, heads, ..]` to `k` and `v` `[batch, shared heads, ..]`, as `[batch, length, all]`, and
    the scores before or after the softmax, `[batch, heads, length, places]`.
    """
    attributes = call.attributes
    heads, shared = attributes["num_heads"], attributes["kv_num_heads"]
    if heads % max(shared, 1):
        raise emitter.error(call, f"{heads} heads for {shared} of the keys", "export the model again")
    width = _width(call, emitter, q)
    scale = attributes.get("scale") or 1 / sqrt(width)
    group = heads // shared
    # [batch, shared, group, length, width]: the keys and values are broadcast over the group
    five = one(
        emitter, "Reshape", q,
        one(emitter, "Concat", extent(emitter, q, 0), ints(emitter, shared, group), extent(emitter, q, 2),
            ints(emitter, width), axis=0),
    )  # fmt: skip
    key_places = reshape(emitter, counting(emitter, _length(emitter, k, 2)), 1, 1, -1)
    own = unsqueeze(emitter, places, 2)
    if attributes.get("causal", 1):
        keep = one(emitter, "LessOrEqual", key_places, own)
    else:
        last = cast(emitter, reshape(emitter, operand(call, 5), -1, 1, 1), np.int64)
        keep = one(emitter, "LessOrEqual", key_places, last)
    if (window := attributes.get("local_window_size", -1)) > 0:
        first = one(emitter, "Sub", own, emitter.constant(np.array(window)))
        keep = one(emitter, "And", keep, one(emitter, "Greater", key_places, first))
    mask = _mask_bias(emitter, unsqueeze(emitter, keep, 1, 2), q, -np.inf)
    biases = [mask]
    if (bias := given(call, 10)) is not None:
        if emitter.shape(bias)[1] == 1:
            biases.append(unsqueeze(emitter, bias, 2))
        else:
            around = [extent(emitter, bias, axis) for axis in (0, 2, 3)]
            split = one(emitter, "Concat", around[0], ints(emitter, shared, group), *around[1:], axis=0)
            biases.append(one(emitter, "Reshape", bias, split))
    keys, values = unsqueeze(emitter, k, 2), unsqueeze(emitter, v, 2)
    turned = transpose(emitter, keys, 0, 1, 2, 4, 3)
    scores = one(emitter, "MatMul", one(emitter, "Mul", five, scalar(emitter, five, scale)), turned)
    if softcap := attributes.get("softcap", 0.0):
        cap = scalar(emitter, scores, softcap)
        scores = one(emitter, "Mul", one(emitter, "Tanh", one(emitter, "Div", scores, cap)), cap)
    scores = add(emitter, scores, *biases)
    weights = _softmax_with_sink(call, emitter, scores)
    result = one(emitter, "MatMul", weights, values)
    merged = transpose(emitter, result, 0, 3, 1, 2, 4)
    shown = scores if attributes.get("qk_output", 0) == 1 else weights
    around = (extent(emitter, shown, 0), ints(emitter, heads), *(extent(emitter, shown, a) for a in (3, 4)))
    shown = one(emitter, "Reshape", shown, one(emitter, "Concat", *around, axis=0))
    return reshape(emitter, merged, 0, 0, heads * width), shown


def _softmax_with_sink(call: Call, emitter: Emitter, scores: SSAValue) -> SSAValue:
    """The softmax of `[batch, shared heads, group, length, places]`; a sink is one place more, whose share goes nowhere."""
    sink, smooth = given(call, 11), call.attributes.get("smooth_softmax", 0) == 1
    if sink is None and not smooth:
        return one(emitter, "Softmax", scores, axis=-1)
    if sink is None:
        column = scalar(emitter, scores, 0.0)
    else:
        shared = call.attributes["kv_num_heads"]
        column = reshape(emitter, sink, 1, shared, -1, 1, 1)
    around = one(
        emitter, "Concat", cut(emitter, one(emitter, "Shape", scores), 0, 0, 4), ints(emitter, 1), axis=0
    )
    column = one(emitter, "Expand", column, around)
    weights = one(emitter, "Softmax", one(emitter, "Concat", scores, column, axis=4), axis=-1)
    return cut(emitter, weights, 4, 0, -1)
