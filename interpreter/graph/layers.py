"""What reductions, normalisations, quantisation, recurrent layers and attention compute."""

from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp, numpy_dtype
from stepwell.dialects.graph.types import ui8
from stepwell.interpreter.graph.elementwise import cast, sigmoid, softplus
from stepwell.interpreter.graph.evaluation import EVALUATE, evaluates

Array = Any


def softmax(x: Array, axis: int) -> Array:
    """`exp(x) / sum(exp(x))` without overflow."""
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Array:
    x = x.astype(np.float64) if x.dtype.kind in "iu" else x
    high = x.max(axis=axis, keepdims=True, initial=-np.inf)
    high = np.where(np.isfinite(high), high, 0)
    total = np.log(np.exp(x - high).sum(axis=axis, keepdims=True)) + high
    return total if keepdims else np.squeeze(total, axis)


def _extreme(x: Array, axis: Any, keepdims: bool, largest: bool) -> Array:
    if x.dtype.kind == "b":
        return (np.any if largest else np.all)(x, axis=axis, keepdims=keepdims)
    if x.dtype.kind == "f":
        start = -np.inf if largest else np.inf
    else:
        start = np.iinfo(x.dtype).min if largest else np.iinfo(x.dtype).max
    return (np.max if largest else np.min)(x, axis=axis, keepdims=keepdims, initial=start)


def _sum(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


_REDUCTIONS: dict[str, Any] = {
    "reduce_sum": _sum,
    "reduce_mean": lambda x, a, k: np.mean(x, axis=a, keepdims=k),
    "reduce_prod": lambda x, a, k: np.prod(x, axis=a, keepdims=k, dtype=x.dtype),
    "reduce_max": lambda x, a, k: _extreme(x, a, k, True),
    "reduce_min": lambda x, a, k: _extreme(x, a, k, False),
    "reduce_l1": lambda x, a, k: _sum(np.abs(x), a, k),
    "reduce_l2": lambda x, a, k: np.sqrt(_sum(x * x, a, k)),
    "reduce_log_sum": lambda x, a, k: np.log(_sum(x, a, k)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_sum_square": lambda x, a, k: _sum(x * x, a, k),
}


def _reduction(function: Any) -> Any:
    def run(op: GraphOp, x: Array, axes: Array = None) -> Array:
        listed = [] if axes is None else [int(a) % x.ndim for a in axes.ravel()]
        if not listed and not op.get("noop_with_empty_axes"):
            listed = list(range(x.ndim))
        return function(x, tuple(listed), bool(op.get("keepdims")))

    return run


for _name, _function in _REDUCTIONS.items():
    evaluates(_name)(_reduction(_function))


def _arg(choose: Any) -> Any:
    def run(op: GraphOp, x: Array) -> Array:
        axis = op.get("axis")
        if op.get("select_last_index"):
            found = x.shape[axis] - 1 - choose(np.flip(x, axis), axis=axis)
        else:
            found = choose(x, axis=axis)
        return np.expand_dims(found, axis) if op.get("keepdims") else found

    return run


EVALUATE["graph.arg_max"], EVALUATE["graph.arg_min"] = _arg(np.argmax), _arg(np.argmin)


def _cumulative(accumulate: Any, start: int) -> Any:
    def run(op: GraphOp, x: Array, axis: Array) -> Array:
        at = int(axis.reshape(()))
        x = np.flip(x, at) if op.get("reverse") else x
        if op.get("exclusive"):
            first = np.full_like(np.take(x, [0], axis=at), start) if x.shape[at] else x
            x = np.concatenate([first, np.take(x, range(x.shape[at] - 1), axis=at)], axis=at)
        y = accumulate(x, axis=at, dtype=x.dtype)
        return np.flip(y, at) if op.get("reverse") else y

    return run


EVALUATE["graph.cum_sum"], EVALUATE["graph.cum_prod"] = _cumulative(np.cumsum, 0), _cumulative(np.cumprod, 1)


@evaluates("softmax")
def _softmax(op: GraphOp, x: Array) -> Array:
    return softmax(x, op.get("axis"))


@evaluates("log_softmax")
def _log_softmax(op: GraphOp, x: Array) -> Array:
    return x - _log_sum_exp(x, op.get("axis"), True)


@evaluates("hardmax")
def _hardmax(op: GraphOp, x: Array) -> Array:
    axis = op.get("axis")
    y = np.zeros_like(x)
    np.put_along_axis(y, np.expand_dims(x.argmax(axis), axis), 1, axis)
    return y


@evaluates("lp_normalization")
def _lp_normalization(op: GraphOp, x: Array) -> Array:
    axis, p = op.get("axis"), op.get("p")
    norm = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** x.dtype.type(1 / p)
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm))


def _channels(parameter: Array, x: Array) -> Array:
    return parameter.reshape(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else parameter


@evaluates("batch_normalization")
def _batch_normalization(op: GraphOp, x: Array, scale: Array, b: Array, mean: Array, var: Array) -> Array:
    running_mean, running_var = mean, var
    if op.get("training_mode"):
        axes, momentum = (0, *range(2, x.ndim)), op.get("momentum")
        old_mean, old_var, mean, var = mean, var, x.mean(axis=axes), x.var(axis=axes)
        running_mean = old_mean * momentum + mean * (1 - momentum)
        running_var = old_var * momentum + var * (1 - momentum)
    inverse = 1 / np.sqrt(_channels(var, x) + x.dtype.type(op.get("epsilon")))
    y = _channels(scale, x) * (x - _channels(mean, x)) * inverse + _channels(b, x)
    return y, running_mean, running_var


def _normalised(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    mean = x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + x.dtype.type(epsilon))
    return (x - mean) * inverse, mean, inverse


@evaluates("instance_normalization")
def _instance_normalization(op: GraphOp, x: Array, scale: Array, b: Array) -> Array:
    y, _, _ = _normalised(x, tuple(range(2, x.ndim)), op.get("epsilon"))
    return _channels(scale, x) * y + _channels(b, x)


@evaluates("group_normalization")
def _group_normalization(op: GraphOp, x: Array, scale: Array, b: Array) -> Array:
    grouped = x.reshape(x.shape[0], op.get("num_groups"), -1)
    y, _, _ = _normalised(grouped, (2,), op.get("epsilon"))
    return _channels(scale, x) * y.reshape(x.shape) + _channels(b, x)


@evaluates("layer_normalization")
def _layer_normalization(op: GraphOp, x: Array, scale: Array, b: Array = None) -> Array:
    axes = tuple(range(op.get("axis") % x.ndim, x.ndim))
    wide = x.astype(np.result_type(x.dtype, numpy_dtype(op.properties["stash_type"])))
    y, mean, inverse = _normalised(wide, axes, op.get("epsilon"))
    y = y * scale
    return (y if b is None else y + b), mean, inverse


@evaluates("rms_normalization")
def _rms_normalization(op: GraphOp, x: Array, scale: Array) -> Array:
    axes = tuple(range(op.get("axis") % x.ndim, x.ndim))
    return x / np.sqrt((x * x).mean(axis=axes, keepdims=True) + x.dtype.type(op.get("epsilon"))) * scale


@evaluates("lrn")
def _lrn(op: GraphOp, x: Array) -> Array:
    size = op.get("size")
    square = x * x
    total = np.zeros_like(x)
    for c in range(x.shape[1]):
        low, high = max(0, c - (size - 1) // 2), min(x.shape[1], c + size // 2 + 1)
        total[:, c] = square[:, low:high].sum(axis=1)
    return x / (op.get("bias") + op.get("alpha") / size * total) ** x.dtype.type(op.get("beta"))


@evaluates("mean_variance_normalization")
def _mean_variance_normalization(op: GraphOp, x: Array) -> Array:
    axes = tuple(op.get("axes"))
    return (x - x.mean(axis=axes, keepdims=True)) / (x.std(axis=axes, keepdims=True) + x.dtype.type(1e-9))


# --- quantisation


def _spread(op: GraphOp, parameter: Array, x: Array) -> Array:
    block, axis = op.get("block_size"), op.get("axis")
    if block:
        return np.take(np.repeat(parameter, block, axis=axis), range(x.shape[axis]), axis=axis)
    if parameter.ndim == 1 and parameter.size > 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        return parameter.reshape(shape)
    return parameter.reshape(())


@evaluates("quantize_linear")
def _quantize_linear(op: GraphOp, x: Array, scale: Array, zero: Array = None) -> Array:
    dtype = numpy_dtype(getattr(op.results[0].type, "element_type", ui8))
    real = x / _spread(op, scale, x).astype(x.dtype)
    if dtype.name.startswith("float"):
        return cast(real.astype(np.float32), dtype, bool(op.get("saturate")))
    shifted = np.rint(real).astype(np.float64)
    if zero is not None:
        shifted = shifted + _spread(op, zero, x).astype(np.float64)
    import ml_dtypes

    info = ml_dtypes.iinfo(dtype)
    return np.clip(shifted, int(info.min), int(info.max)).astype(np.int64).astype(dtype)


@evaluates("dequantize_linear")
def _dequantize_linear(op: GraphOp, x: Array, scale: Array, zero: Array = None) -> Array:
    wide = x.astype(np.float32 if x.dtype.kind == "f" else np.int64)
    if zero is not None:
        wide = wide - _spread(op, zero, x).astype(wide.dtype)
    return wide.astype(np.float32) * _spread(op, scale, x)


@evaluates("dynamic_quantize_linear")
def _dynamic_quantize_linear(op: GraphOp, x: Array) -> Array:
    low, high = np.minimum(x.min(initial=0), 0), np.maximum(x.max(initial=0), 0)
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    scale = np.float32(1) if scale == 0 else scale
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), np.asarray(scale), zero


# --- recurrent layers

_ACTIVATIONS: dict[str, Any] = {
    "sigmoid": lambda x, a, b: sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "affine": lambda x, a, b: a * x + b,
    "leakyrelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "thresholdedrelu": lambda x, a, b: np.where(x > a, x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: softplus(x),
}
_DEFAULTS = {
    "leakyrelu": (0.01, 0.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, 0.0),
    "thresholdedrelu": (1.0, 0.0),
    "affine": (1.0, 0.0),
    "scaledtanh": (1.0, 1.0),
}


def _activations(op: GraphOp, standard: list[str], directions: int) -> list[list[Any]]:
    names = [n.lower() for n in (op.get("activations") or standard * directions)]
    names = names[: len(standard) * directions]
    alphas, betas = list(op.get("activation_alpha") or ()), list(op.get("activation_beta") or ())
    limit = op.get("clip")
    made: list[Any] = []
    for name in names:
        a, b = _DEFAULTS.get(name, (0.0, 0.0))
        if name in ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu") and alphas:
            a = alphas.pop(0)
        if name in ("affine", "scaledtanh", "hardsigmoid") and betas:
            b = betas.pop(0)

        def run(x: Array, f: Any = _ACTIVATIONS[name], a: float = a, b: float = b) -> Array:
            return f(x if limit is None else np.clip(x, -limit, limit), a, b).astype(x.dtype)

        made.append(run)
    return [made[i : i + len(standard)] for i in range(0, len(made), len(standard))]


def _recurrent(op: GraphOp, x: Array, w: Array, r: Array, b: Array, lengths: Array, states: list[Array], step:
Any, standard: list[str]) -> tuple[Array, ...]:  # fmt: skip
    layout = op.get("layout")
    x = x.swapaxes(0, 1) if layout else x
    time, batch, _ = x.shape
    directions, hidden = r.shape[0], r.shape[2]
    activations = _activations(op, standard, directions)
    every = np.zeros((time, directions, batch, hidden), x.dtype)
    lasts: list[list[Array]] = []
    counts = np.full(batch, time) if lengths is None else lengths
    for d in range(directions):
        state = [
            np.zeros((batch, hidden), x.dtype) if s is None else (s.swapaxes(0, 1) if layout else s)[d]
            for s in states
        ]
        bias = np.zeros(2 * w.shape[1], x.dtype) if b is None else b[d]
        backward = op.get("direction") == "reverse" or d == 1
        for t in range(time):
            # Each row runs over its own length: a reversed one starts at its last element.
            at = np.where(t < counts, counts - 1 - t, t) if backward else np.full(batch, t)
            new = step(x[at, np.arange(batch)], state, w[d], r[d], bias, activations[d], d)
            live = (t < counts)[:, None]
            state = [np.where(live, n, o) for n, o in zip(new, state, strict=True)]
            every[at, d, np.arange(batch)] = np.where(live, state[0], 0)
        lasts.append(state)
    final = [np.stack([last[i] for last in lasts]) for i in range(len(states))]
    if layout:
        return (every.transpose(2, 0, 1, 3), *(f.swapaxes(0, 1) for f in final))
    return (every, *final)


@evaluates("rnn")
def _rnn(
    op: GraphOp, x: Array, w: Array, r: Array, b: Array = None, lengths: Array = None, h0: Array = None
) -> Array:
    def step(x: Array, state: list[Array], w: Array, r: Array, b: Array, f: Any, d: int) -> list[Array]:
        return [f[0](x @ w.T + state[0] @ r.T + b[: len(b) // 2] + b[len(b) // 2 :])]

    return _recurrent(op, x, w, r, b, lengths, [h0], step, ["Tanh"])


@evaluates("gru")
def _gru(
    op: GraphOp, x: Array, w: Array, r: Array, b: Array = None, lengths: Array = None, h0: Array = None
) -> Array:
    def step(x: Array, state: list[Array], w: Array, r: Array, b: Array, f: Any, d: int) -> list[Array]:
        (h,) = state
        n = h.shape[1]
        wb, rb = b[: 3 * n], b[3 * n :]
        gates = x @ w.T + wb
        z = f[0](gates[:, :n] + h @ r[:n].T + rb[:n])
        reset = f[0](gates[:, n : 2 * n] + h @ r[n : 2 * n].T + rb[n : 2 * n])
        if op.get("linear_before_reset"):
            new = f[1](gates[:, 2 * n :] + reset * (h @ r[2 * n :].T + rb[2 * n :]))
        else:
            new = f[1](gates[:, 2 * n :] + (reset * h) @ r[2 * n :].T + rb[2 * n :])
        return [(1 - z) * new + z * h]

    return _recurrent(op, x, w, r, b, lengths, [h0], step, ["Sigmoid", "Tanh"])


@evaluates("lstm")
def _lstm(op: GraphOp, x: Array, w: Array, r: Array, b: Array = None, lengths: Array = None, h0: Array = None,
          c0: Array = None, p: Array = None) -> Array:  # fmt: skip
    def step(x: Array, state: list[Array], w: Array, r: Array, b: Array, f: Any, d: int) -> list[Array]:
        h, c = state
        n = h.shape[1]
        gates = x @ w.T + h @ r.T + b[: 4 * n] + b[4 * n :]
        i, o, forget, cell = (gates[:, k * n : (k + 1) * n] for k in range(4))
        pi, po, pf = (0, 0, 0) if p is None else (p[d][:n], p[d][n : 2 * n], p[d][2 * n :])
        i = f[0](i + pi * c)
        forget = 1 - i if op.get("input_forget") else f[0](forget + pf * c)
        c = forget * c + i * f[1](cell)
        return [f[0](o + po * c) * f[2](c), c]

    return _recurrent(op, x, w, r, b, lengths, [h0, c0], step, ["Sigmoid", "Tanh", "Tanh"])


# --- attention


@evaluates("attention")
def _attention(op: GraphOp, q: Array, k: Array, v: Array, mask: Array = None, past_k: Array = None,
               past_v: Array = None, lengths: Array = None) -> Array:  # fmt: skip
    flat = q.ndim == 3

    def heads(x: Array, count: int | None) -> Array:
        if x.ndim == 4:
            return x
        assert count, "verified: operands of rank 3 say their number of heads"
        return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(0, 2, 1, 3)

    q = heads(q, op.get("q_num_heads"))
    k, v = heads(k, op.get("kv_num_heads")), heads(v, op.get("kv_num_heads"))
    past = 0
    if past_k is not None:
        past = past_k.shape[2]
        k, v = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
    present = k, v
    repeat = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, repeat, axis=1), np.repeat(v, repeat, axis=1)
    scale = op.get("scale")
    root = np.sqrt(scale if scale is not None else 1 / np.sqrt(q.shape[-1])).astype(q.dtype)
    scores = (q * root) @ (k * root).swapaxes(-1, -2)
    stages = {0: scores}
    rows, columns = np.arange(q.shape[2])[:, None], np.arange(k.shape[2])[None, :]
    # The position of a query among the keys: behind the past, or at the end of what is not padding.
    offset = (
        np.full((q.shape[0], 1, 1, 1), past)
        if lengths is None
        else (lengths - q.shape[2]).reshape(-1, 1, 1, 1)
    )
    allowed = np.ones((q.shape[0], 1, q.shape[2], k.shape[2]), bool)
    if op.get("is_causal"):
        allowed &= columns <= rows + offset
    if (left := op.get("left_window_size")) >= 0:
        allowed &= columns >= rows + offset - left
    if (right := op.get("right_window_size")) >= 0:
        allowed &= columns <= rows + offset + right
    if lengths is not None:
        allowed &= columns < lengths.reshape(-1, 1, 1, 1)
    bias: Array = np.zeros((), scores.dtype)
    if mask is not None:
        if mask.shape[-1] < k.shape[2]:
            widths = [(0, 0)] * (mask.ndim - 1) + [(0, k.shape[2] - mask.shape[-1])]
            mask = np.pad(mask, widths, constant_values=False if mask.dtype == bool else -np.inf)
        if mask.dtype == bool:
            bias = np.where(mask, 0, -np.inf).astype(scores.dtype)
        else:
            bias = mask
    capped = scores
    if cap := op.get("softcap"):
        capped = cap * np.tanh(scores / cap)
    masked = np.where(allowed, capped + bias, -np.inf).astype(scores.dtype)
    high = masked.max(axis=-1, keepdims=True)
    e = np.exp(masked - np.where(np.isfinite(high), high, 0))
    total = e.sum(axis=-1, keepdims=True)
    weights = np.where(total == 0, 0, e / np.where(total == 0, 1, total)).astype(scores.dtype)
    stages |= {1: capped, 2: masked, 3: weights}
    y = weights @ v
    if flat:
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)
    return y, *present, stages[op.get("qk_matmul_output_mode")]


@evaluates("rotary_embedding")
def _rotary_embedding(op: GraphOp, x: Array, cos: Array, sin: Array, positions: Array = None) -> Array:
    shape = x.shape
    if x.ndim == 3:
        x = x.reshape(shape[0], shape[1], op.get("num_heads"), -1)
    else:
        x = x.transpose(0, 2, 1, 3)
    size = op.get("rotary_embedding_dim") or x.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos[:, :, None, : size // 2], sin[:, :, None, : size // 2]
    if op.get("interleaved"):
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned[..., : size // 2], turned[..., size // 2 :]
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if op.get("interleaved"):
        turned = np.stack([real, imaginary], -1).reshape(turned.shape)
    else:
        turned = np.concatenate([real, imaginary], -1)
    y = np.concatenate([turned, rest], -1)
    return y.reshape(shape) if len(shape) == 3 else y.transpose(0, 2, 1, 3)


# --- losses


def _likelihood(op: GraphOp, log_prob: Array, labels: Array, weight: Array) -> Array:
    classes = log_prob.shape[1]
    ignored = (
        np.zeros(labels.shape, bool) if op.get("ignore_index") is None else labels == op.get("ignore_index")
    )
    safe = np.where(ignored, 0, labels)
    safe = np.where(safe < 0, safe + classes, safe).astype(np.int64)
    picked = np.take_along_axis(log_prob, safe[:, None], axis=1)[:, 0]
    share = np.ones(labels.shape, log_prob.dtype) if weight is None else weight[safe]
    share = np.where(ignored, 0, share).astype(log_prob.dtype)
    loss = -picked * share
    loss = np.where(ignored, 0, loss)
    if op.get("reduction") == "mean":
        return loss.sum() / share.sum()
    return loss.sum() if op.get("reduction") == "sum" else loss


@evaluates("negative_log_likelihood_loss")
def _negative_log_likelihood_loss(op: GraphOp, x: Array, target: Array, weight: Array = None) -> Array:
    return _likelihood(op, x, target, weight)


@evaluates("softmax_cross_entropy_loss")
def _softmax_cross_entropy_loss(op: GraphOp, x: Array, labels: Array, weight: Array = None) -> Array:
    log_prob = x - _log_sum_exp(x, 1, True)
    return _likelihood(op, log_prob, labels, weight), log_prob


@evaluates("causal_conv_with_state")
def _causal_conv_with_state(
    op: GraphOp, x: Array, weight: Array, bias: Array = None, past: Array = None
) -> Array:
    taps = weight.shape[-1]
    if past is None:
        past = np.zeros((*x.shape[:2], taps - 1), x.dtype)
    padded = np.concatenate([past, x], axis=-1)
    view = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=-1)
    y = np.einsum("nclk,ck->ncl", view, weight.reshape(weight.shape[0], taps))
    if bias is not None:
        y = y + bias[:, None]
    if op.get("activation") in ("silu", "swish"):
        y = y * sigmoid(y)
    return y, padded[..., padded.shape[-1] - (taps - 1) :]


@evaluates("linear_attention")
def _linear_attention(op: GraphOp, q: Array, k: Array, v: Array, past: Array = None, decay: Array = None,
                      beta: Array = None) -> Array:  # fmt: skip
    heads, kv, rule = op.get("q_num_heads"), op.get("kv_num_heads"), op.get("update_rule")
    batch, length, _ = q.shape

    def split(x: Array, count: int) -> Array:
        return x.reshape(batch, length, count, -1)

    q, k, v = split(q, heads), split(k, kv), split(v, kv)
    size, width = k.shape[-1], v.shape[-1]
    scale = op.get("scale") or 1 / np.sqrt(size)
    state = np.zeros((batch, kv, size, width), np.float32) if past is None else past.astype(np.float32)
    y = np.zeros((batch, length, heads, width), np.float32)
    for t in range(length):
        key, value = k[:, t], v[:, t]
        if decay is not None and "gated" in rule:
            factor = np.exp(decay[:, t].astype(np.float32).reshape(batch, kv, -1))
            state = state * factor[..., None]
        if "delta" in rule:
            held = np.einsum("bhk,bhkv->bhv", key, state)
            rate = 1.0 if beta is None else beta[:, t].reshape(batch, -1, 1)
            value = rate * (value - held)
        state = state + key[..., None] * value[:, :, None, :]
        shared = np.repeat(state, heads // kv, axis=1)
        y[:, t] = scale * np.einsum("bhk,bhkv->bhv", q[:, t], shared)
    return y.reshape(batch, length, -1), state
