"""
What a random model is made of: each production adds one node or a small known pattern of them to a builder, or raises
`Rejected`. They favour what NNSmith lacks: contractions, pooling, normalisation, attention, resampling, scattering,
control flow, and every element type.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from onnx import helper

from tests.fuzz.build import Builder, Rejected, Value, captured

Production = Callable[[Builder], Any]

UNARY = """Relu Sigmoid Tanh Exp Neg Abs Sqrt Log Erf Softplus Softsign Elu Selu LeakyRelu HardSigmoid HardSwish Celu
Floor Ceil Round Sign Reciprocal Sin Cos Tan Atan Asinh Sinh Cosh ThresholdedRelu Identity Mish Gelu""".split()
POSITIVE = {"Sqrt", "Log", "Reciprocal"}
INTEGERS = (np.int64, np.int32, np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.uint64)
FLOATS = (np.float32, np.float64, np.float16)


def _axis(b: Builder, rank: int) -> int:
    return b.rng.randrange(-rank, rank)


def unary(b: Builder) -> None:
    op, x = b.rng.choice(UNARY), b.floats()
    if op in POSITIVE:
        x = b.add("Abs", [x])[0]
        x = b.add("Add", [x, b.constant(0.1, x.dtype)])[0]
    attributes: dict[str, Any] = {}
    if op == "Gelu":
        attributes["approximate"] = b.rng.choice(["none", "tanh"])
    elif op in ("Elu", "LeakyRelu", "Celu", "ThresholdedRelu") and b.rng.random() < 0.6:
        attributes["alpha"] = b.rng.choice([0.1, 0.5, 1.5])
    b.add(op, [x], **attributes)


def _broadcastable(b: Builder, shape: tuple[int, ...]) -> list[int]:
    """A shape that broadcasts with `shape`, both ways."""
    other = [d if b.rng.random() < 0.7 else 1 for d in shape]
    if b.rng.random() < 0.4:
        other = other[b.rng.randrange(len(other) + 1) :]
    if b.rng.random() < 0.1 and prod(shape) < 2000:
        other = [b.rng.choice([2, 3]), *other] if len(other) == len(shape) else other
    return other


def _partner(b: Builder, x: Value) -> Value:
    """A second operand for an element-wise operator."""

    def fits(v: Value) -> bool:
        if v.dtype != x.dtype:
            return False
        try:
            return prod(np.broadcast_shapes(v.shape, x.shape)) <= 20_000
        except ValueError:
            return False

    if b.rng.random() < 0.5:
        return b.choose(fits)
    return b.operand(_broadcastable(b, x.shape), x.dtype)


def binary(b: Builder) -> None:
    op = b.rng.choice(["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Pow", "Add", "Mul"])
    x = b.floats()
    if op in ("Max", "Min"):
        b.add(op, [x, *(_partner(b, x) for _ in range(b.rng.randrange(0, 3)))])
        return
    y = _partner(b, x)
    if op == "Div":
        y = b.add("Abs", [y])[0]
        y = b.add("Add", [y, b.constant(0.5, x.dtype)])[0]
    elif op == "Pow":
        x = b.add("Abs", [x])[0]
        y = b.constant(b.rng.choice([2, 0.5, 3, 1, -1.5]), x.dtype)
        x = b.add("Add", [x, b.constant(0.25, x.dtype)])[0]
    elif op == "PRelu":
        y = b.operand([d if b.rng.random() < 0.7 else 1 for d in x.shape], x.dtype)
    b.add(op, [x, y] if op in ("PRelu", "Pow") or b.rng.random() < 0.6 else [y, x])


def residual(b: Builder) -> None:
    x = b.floats(1)
    y = b.choose(lambda v: v.shape == x.shape and v.dtype == x.dtype and v.name != x.name)
    b.add("Add", [x, y])


def integers(b: Builder) -> None:
    x = b.choose(lambda v: v.dtype.kind in "iu")
    op = b.rng.choice(["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Abs", "Neg", "Sign", "BitShift", "BitwiseAnd",
                       "BitwiseOr", "BitwiseXor", "BitwiseNot", "Pow", "Clip"])  # fmt: skip
    if op in ("Abs", "Neg", "Sign", "BitwiseNot"):
        b.add(op, [x])
    elif op == "Clip":
        low, high = sorted(b.rng.sample(range(0, 30), 2))
        b.add(op, [x, b.constant(low, x.dtype), b.constant(high, x.dtype)])
    elif op == "Pow":
        b.add(op, [x, b.constant(b.rng.choice([0, 1, 2, 3]), x.dtype)])
    elif op in ("Div", "Mod"):
        values = b.numbers.integers(1, 9, _broadcastable(b, x.shape))
        if x.dtype.kind == "i" and b.rng.random() < 0.5:
            values = np.where(b.numbers.random(values.shape) < 0.5, -values, values)
            # the least integer by -1 is undefined and kills ONNX Runtime
            values = np.where(values == -1, 3, values)
        attributes = {"fmod": b.rng.randrange(2)} if op == "Mod" else {}
        b.add(op, [x, b.constant(values.astype(x.dtype))], **attributes)
    elif op == "BitShift":
        y = b.constant(b.numbers.integers(0, 8, _broadcastable(b, x.shape)).astype(x.dtype))
        b.add(op, [x, y], direction=b.rng.choice(["LEFT", "RIGHT"]))
    else:
        b.add(op, [x, _partner(b, x)])


def cast(b: Builder) -> None:
    x = b.choose()
    dtype = np.dtype(
        b.rng.choice([*FLOATS, *INTEGERS[:4], np.float32, np.float32, np.bool_, b.rng.choice(INTEGERS)])
    )
    if x.dtype.kind == "f" and dtype.kind in "iu":
        if not np.isfinite(x.array).all():
            raise Rejected("a NaN as an integer is anything")
        low, high = (0.0, 100.0) if dtype.kind == "u" else (-100.0, 100.0)
        x = b.add("Clip", [x, b.constant(low, x.dtype), b.constant(high, x.dtype)])[0]
    b.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(dtype))


def compare_and_choose(b: Builder) -> None:
    x = b.choose(lambda v: v.dtype.kind in "fiu")
    op = b.rng.choice(["Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"])
    y = _partner(b, x)
    mask = b.add(op, [x, y])[0]
    if b.rng.random() < 0.3:
        other = b.choose(lambda v: v.dtype == np.bool_)
        mask = b.add(b.rng.choice(["And", "Or", "Xor"]), [mask, other])[0]
    if b.rng.random() < 0.2:
        mask = b.add("Not", [mask])[0]
    if b.rng.random() < 0.8:
        b.add("Where", [mask, x, y] if b.rng.random() < 0.6 else [mask, y, b.constant(1, x.dtype)])


def contraction(b: Builder) -> None:
    x = b.floats(1, 4)
    k = x.shape[-1]
    n = b.rng.choice([1, 2, 3, 7, 16, 17, 33, 64, 65, 130])
    kind = b.rng.randrange(5)
    if kind == 0:
        w = b.operand([k, n], x.dtype)
    elif kind == 1:
        batch = [d if b.rng.random() < 0.6 else 1 for d in x.shape[:-2]]
        w = b.operand([*batch[b.rng.randrange(len(batch) + 1) :], k, n], x.dtype)
    elif kind == 2:
        w = b.operand([k], x.dtype)
    elif kind == 3:
        batch = [b.rng.choice([2, 3]), *([1] * max(0, x.array.ndim - 2))]
        w = b.operand([*batch, k, min(n, 17)], x.dtype)
    else:
        w = b.choose(lambda v: v.dtype == x.dtype and v.array.ndim >= 2 and v.shape[-2] == k)
    y = b.add("MatMul", [x, w])[0]
    y = _tame(b, y, k)
    if y.array.ndim and b.rng.random() < 0.5:
        y = b.add("Add", [y, b.operand([y.shape[-1]], y.dtype)])[0]
        if b.rng.random() < 0.5:
            b.add(b.rng.choice(["Relu", "Tanh", "Sigmoid", "Gelu"]), [y])


def _tame(b: Builder, y: Value, terms: int) -> Value:
    """Keep the sums of many products of the size of their terms, most of the time."""
    if terms > 16 and b.rng.random() < 0.7:
        return b.add("Mul", [y, b.constant(terms**-0.5, y.dtype)])[0]
    return y


def gemm(b: Builder) -> None:
    x = b.floats(2, 2)
    ta, tb = b.rng.randrange(2), b.rng.randrange(2)
    m, k = x.shape[::-1] if ta else x.shape
    n = b.rng.choice([1, 3, 7, 17, 33, 65])
    w = b.operand([n, k] if tb else [k, n], x.dtype)
    inputs = [x, w]
    if b.rng.random() < 0.7:
        inputs.append(b.operand(b.rng.choice([[n], [1, n], [m, 1], [m, n], [1], []]), x.dtype))
    attributes = {"transA": ta, "transB": tb}
    if b.rng.random() < 0.4:
        attributes |= {"alpha": b.rng.choice([0.5, 2.0, 0.0]), "beta": b.rng.choice([0.5, -1.0, 0.0])}
    b.add("Gemm", inputs, **attributes)


def _image(b: Builder) -> Value:
    """A tensor of batch, channels and one to three spatial dims, made if there is none."""
    try:
        if b.rng.random() < 0.7:
            return b.choose(
                lambda v: v.dtype == np.float32 and 3 <= v.array.ndim <= 5 and prod(v.shape) < 10_000
            )
    except Rejected:
        pass
    x = b.floats(1)
    rank = b.rng.choice([1, 2, 2, 2, 3])
    shape = [
        b.rng.choice([1, 2]),
        b.rng.choice([1, 2, 3, 4, 6, 8, 16]),
        *(b.rng.choice([3, 5, 7, 8, 9, 17]) for _ in range(rank)),
    ]
    if prod(shape) > 10_000:
        raise Rejected("large")
    del x
    return b.operand(shape, np.float32)


def _window(b: Builder, spatial: tuple[int, ...], dilations: bool) -> dict[str, Any]:
    rank = len(spatial)
    kernel = [b.rng.choice([1, 2, 3, 3, 3, 5]) for _ in spatial]
    if b.rng.random() < 0.5:
        kernel = [kernel[0]] * rank
    found: dict[str, Any] = {"kernel_shape": kernel}
    if b.rng.random() < 0.4:
        found["strides"] = [b.rng.choice([1, 2, 3]) for _ in spatial]
    if dilations and b.rng.random() < 0.25:
        found["dilations"] = [b.rng.choice([1, 2, 3]) for _ in spatial]
    kind = b.rng.random()
    if kind < 0.5:
        pads = [b.rng.randrange(0, k) for k in kernel]
        found["pads"] = pads + (pads if b.rng.random() < 0.7 else [b.rng.randrange(0, k) for k in kernel])
    elif kind < 0.7:
        found["auto_pad"] = b.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if found["auto_pad"] != "VALID" and "dilations" in found:
            del found["dilations"]
    return found


def convolution(b: Builder) -> None:
    x = _image(b)
    channels = x.shape[1]
    groups = b.rng.choice([g for g in range(1, channels + 1) if channels % g == 0] or [1])
    if b.rng.random() < 0.5:
        groups = 1
    out = groups * b.rng.choice([1, 1, 2, 3, 5, 16 if groups < 3 else 1])
    window = _window(b, x.shape[2:], True)
    w = b.operand([out, channels // groups, *window["kernel_shape"]], x.dtype, known=True)
    inputs = [x, w]
    if b.rng.random() < 0.5:
        inputs.append(b.operand([out], x.dtype))
    if b.rng.random() < 0.3:
        del window["kernel_shape"]
    y = b.add("Conv", inputs, group=groups, **window)[0]
    y = _tame(b, y, prod(w.shape[1:]))
    kind = b.rng.random()
    if kind < 0.3:
        b.add(b.rng.choice(["Relu", "LeakyRelu", "Sigmoid", "HardSwish"]), [y])
    elif kind < 0.5:
        _batch_norm(b, y)


def transposed_convolution(b: Builder) -> None:
    x = _image(b)
    channels = x.shape[1]
    groups = b.rng.choice([g for g in range(1, channels + 1) if channels % g == 0] or [1])
    out = b.rng.choice([1, 2, 3, 5])
    window = _window(b, x.shape[2:], True)
    w = b.operand([channels, out, *window["kernel_shape"]], x.dtype, known=True)
    inputs = [x, w]
    if b.rng.random() < 0.5:
        inputs.append(b.operand([out * groups], x.dtype))
    if "strides" in window and b.rng.random() < 0.4 and "auto_pad" not in window:
        window["output_padding"] = [b.rng.randrange(0, s) for s in window["strides"]]
    if window.get("auto_pad", "").startswith("SAME") and "strides" in window:
        if any(k < s for k, s in zip(window["kernel_shape"], window["strides"], strict=True)):
            raise Rejected(
                "ONNX Runtime makes it smaller than input times stride, which is what the standard says"
            )
    b.add("ConvTranspose", inputs, group=groups, **window)


def pooling(b: Builder) -> None:
    x = _image(b)
    op = b.rng.choice(["MaxPool", "AveragePool", "LpPool", "MaxPool", "AveragePool"])
    if b.rng.random() < 0.15:
        b.add(b.rng.choice(["GlobalAveragePool", "GlobalMaxPool"]), [x])
        return
    attributes = _window(b, x.shape[2:], op == "MaxPool")
    if b.rng.random() < 0.4 and "auto_pad" not in attributes and op != "LpPool":
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and b.rng.random() < 0.5:
        attributes["count_include_pad"] = 1
    b.add(op, [x], outputs=2 if op == "MaxPool" and b.rng.random() < 0.2 else 1, **attributes)


def _batch_norm(b: Builder, x: Value) -> None:
    channels = [x.shape[1]]
    scale, bias, mean = (b.constant(b.random(channels, x.dtype)) for _ in range(3))
    b.add(
        "BatchNormalization",
        [x, scale, bias, mean, b.constant(np.abs(b.random(channels, x.dtype)) + x.dtype.type(0.3))],
    )


def normalisation(b: Builder) -> None:
    kind = b.rng.choice(["layer", "layer", "batch", "instance", "lrn", "softmax", "softmax", "logsoftmax", "lp", "mean",
                         "group", "rms", "hardmax"])  # fmt: skip
    if kind in ("softmax", "logsoftmax", "hardmax"):
        x = b.floats(1)
        op = {"softmax": "Softmax", "logsoftmax": "LogSoftmax", "hardmax": "Hardmax"}[kind]
        b.add(op, [x], axis=_axis(b, x.array.ndim))
    elif kind == "layer":
        x = b.floats(2, 4)
        axis = _axis(b, x.array.ndim)
        inputs = [x, b.operand(x.shape[axis:], x.dtype)]
        if b.rng.random() < 0.7:
            inputs.append(b.operand(inputs[1].shape, x.dtype))
        b.add("LayerNormalization", inputs, axis=axis)
    elif kind == "lp":
        x = b.floats(2, 4)
        b.add("LpNormalization", [x], axis=_axis(b, x.array.ndim), p=b.rng.choice([1, 2]))
    elif kind == "rms":
        x = b.floats(2, 4)
        if b.opset < 23:
            raise Rejected("newer")
        b.add("RMSNormalization", [x, b.operand(x.shape[-1:], x.dtype)])
    else:
        x = _image(b)
        if kind == "batch":
            _batch_norm(b, x)
        elif kind == "instance":
            b.add("InstanceNormalization", [x, *(b.operand([x.shape[1]], x.dtype) for _ in range(2))])
        elif kind == "lrn":
            b.add("LRN", [x], size=b.rng.choice([1, 3, 5]), alpha=0.1, beta=0.75)
        elif kind == "mean":
            b.add("MeanVarianceNormalization", [x], axes=[0, *range(2, x.array.ndim)])
        else:
            if b.opset < 21:
                raise Rejected("newer")
            groups = b.rng.choice([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
            b.add(
                "GroupNormalization",
                [x, *(b.operand([x.shape[1]], x.dtype) for _ in range(2))],
                num_groups=groups,
            )


def attention(b: Builder) -> None:
    """Projections, heads, scaled scores, a mask, softmax, and the way back."""
    x = b.choose(lambda v: v.dtype == np.float32 and v.array.ndim == 3 and prod(v.shape) < 8000)
    batch, length, width = x.shape
    heads = b.rng.choice([1, 2, 3, 4])
    size = b.rng.choice([1, 2, 5, 8, 16])
    split = b.constant(
        b.rng.choice([[batch, length, heads, size], [0, 0, heads, size], [batch, -1, heads, size]]), np.int64
    )
    parts = []
    for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        w = b.constant(b.random([width, heads * size], x.dtype) / np.float32(max(width, 1) ** 0.5))
        y = b.add("MatMul", [x, w])[0]
        if b.rng.random() < 0.5:
            y = b.add("Add", [y, b.operand([heads * size], x.dtype)])[0]
        parts.append(b.add("Transpose", [b.add("Reshape", [y, split])[0]], perm=perm)[0])
    q, k, v = parts
    early = b.rng.random() < 0.3
    if early:
        q = b.add("Mul", [q, b.constant(size**-0.5, x.dtype)])[0]
    scores = b.add("MatMul", [q, k])[0]
    if not early:
        scores = b.add(*(("Mul", [scores, b.constant(size**-0.5, x.dtype)]) if b.rng.random() < 0.5 else
                         ("Div", [scores, b.constant(size**0.5, x.dtype)])))[0]  # fmt: skip
    kind = b.rng.randrange(4)
    if kind == 0:
        scores = b.add("Add", [scores, b.operand([1, 1, length, length], x.dtype)])[0]
    elif kind == 1:
        mask = np.triu(np.full([length, length], -1e9 if b.rng.random() < 0.7 else -np.inf, np.float32), 1)
        scores = b.add("Add", [scores, b.constant(mask)])[0]
    elif kind == 2:
        mask = b.operand([batch, 1, 1, length], np.bool_)
        scores = b.add("Where", [mask, scores, b.constant(-1e9, x.dtype)])[0]
    weights = b.add("Softmax", [scores], axis=-1)[0]
    mixed = b.add("Transpose", [b.add("MatMul", [weights, v])[0]], perm=[0, 2, 1, 3])[0]
    merged = b.add(
        "Reshape", [mixed, b.constant(b.rng.choice([[batch, length, heads * size], [0, 0, -1]]), np.int64)]
    )[0]
    y = b.add("MatMul", [merged, b.operand([heads * size, width], x.dtype)])[0]
    if b.rng.random() < 0.6:
        y = b.add("Add", [x, y])[0]
        b.add("LayerNormalization", [y, b.operand([width], x.dtype), b.operand([width], x.dtype)], axis=-1)


REDUCTIONS = """ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare
ReduceSum ReduceMean ReduceMax""".split()


def reduction(b: Builder) -> None:
    op = b.rng.choice(REDUCTIONS)
    x = b.choose(lambda v: v.array.ndim >= 1 and v.dtype.kind in ("f" if b.rng.random() < 0.8 else "iu"))
    rank = x.array.ndim
    axes = [a - rank * b.rng.randrange(2) for a in b.rng.sample(range(rank), b.rng.randrange(1, rank + 1))]
    attributes: dict[str, Any] = {"keepdims": b.rng.randrange(2)}
    inputs = [x]
    if b.rng.random() < 0.8:
        if b.opset >= 18 or op == "ReduceSum":
            inputs.append(b.constant(axes, np.int64))
        else:
            attributes["axes"] = axes
    elif (b.opset >= 18 or op == "ReduceSum") and b.rng.random() < 0.3:
        inputs.append(b.constant([], np.int64))
        attributes["noop_with_empty_axes"] = 1
    b.add(op, inputs, **attributes)


def arguments(b: Builder) -> None:
    x = b.choose(lambda v: v.array.ndim >= 1 and v.dtype.kind in "fiu" and v.dtype != np.bool_)
    axis = _axis(b, x.array.ndim)
    kind = b.rng.randrange(3)
    if kind == 0:
        b.add(
            b.rng.choice(["ArgMax", "ArgMin"]),
            [x],
            axis=axis,
            keepdims=b.rng.randrange(2),
            select_last_index=b.rng.randrange(2),
        )
    elif kind == 1:
        k = b.rng.randrange(1, min(x.shape[axis], 9) + 1) if x.shape[axis] else 0
        b.add("TopK", [x, b.constant([k], np.int64)], outputs=2, axis=axis, largest=b.rng.randrange(2))
    else:
        b.add(
            "CumSum",
            [x, b.constant(axis, np.int64)],
            exclusive=b.rng.randrange(2),
            reverse=b.rng.randrange(2),
        )


def pad(b: Builder) -> None:
    x = b.choose(lambda v: 1 <= v.array.ndim <= 5 and v.dtype.kind in "fiub")
    mode = b.rng.choice(["constant", "constant", "reflect", "edge", *(["wrap"] if b.opset >= 19 else [])])
    low = -1 if b.rng.random() < 0.2 else 0
    pads = [b.rng.randrange(low, 3) if b.rng.random() < 0.6 else 0 for _ in range(2 * x.array.ndim)]
    inputs: list[Value | None] = [x, b.constant(pads, np.int64)]
    if mode == "constant" and b.rng.random() < 0.5:
        inputs.append(b.constant(b.rng.choice([0, 1, 3]), x.dtype))
        if b.opset >= 18 and b.rng.random() < 0.3:
            axes = b.rng.sample(range(x.array.ndim), b.rng.randrange(1, x.array.ndim + 1))
            inputs[1] = b.constant(pads[: 2 * len(axes)], np.int64)
            inputs.append(b.constant(axes, np.int64))
    b.add("Pad", inputs, mode=mode)


def slice_(b: Builder) -> None:
    x = b.choose(lambda v: v.array.ndim >= 1)
    axes = b.rng.sample(range(x.array.ndim), b.rng.randrange(1, x.array.ndim + 1))
    starts, ends, steps = [], [], []
    for axis in axes:
        n = max(x.shape[axis], 1)
        step = b.rng.choice([1, 1, 1, 2, 3, -1, -2])
        start, end = b.rng.randrange(0, n), b.rng.choice([n, n - 1, n // 2 + 1, 2**31, 2**63 - 1, -1])
        if step < 0:
            start, end = b.rng.choice([-1, n - 1, 2**31]), b.rng.choice([-(2**31), 0, -n - 1, n // 2])
        starts.append(start if b.rng.random() < 0.7 or start > n else start - n)
        ends.append(end)
        steps.append(step)
    kind = np.int64 if max(map(abs, [*starts, *ends])) >= 2**31 or b.rng.random() < 0.8 else np.int32
    signed = [a - x.array.ndim * b.rng.randrange(2) for a in axes]
    inputs = [x, b.constant(starts, kind), b.constant(ends, kind), b.constant(signed, kind)]
    if any(s != 1 for s in steps) or b.rng.random() < 0.3:
        inputs.append(b.constant(steps, kind))
    b.add("Slice", inputs)


def concat(b: Builder) -> None:
    x = b.choose(lambda v: v.array.ndim >= 1)
    axis = _axis(b, x.array.ndim)
    at = axis % x.array.ndim

    def fits(v: Value) -> bool:
        same = v.dtype == x.dtype and v.array.ndim == x.array.ndim
        return same and v.shape[:at] + v.shape[at + 1 :] == x.shape[:at] + x.shape[at + 1 :]

    others = [b.choose(fits) for _ in range(b.rng.randrange(0, 3))]
    if b.rng.random() < 0.5:
        shape = list(x.shape)
        shape[at] = b.rng.choice([1, 2, 5])
        others.append(b.operand(shape, x.dtype))
    parts = [x, *others]
    b.rng.shuffle(parts)
    b.add("Concat", parts, axis=axis)


def split(b: Builder) -> None:
    x = b.choose(lambda v: v.array.ndim >= 1 and max(v.shape) >= 2)
    axis = b.rng.choice([a for a in range(x.array.ndim) if x.shape[a] >= 2])
    n = x.shape[axis]
    parts = b.rng.randrange(1, min(n, 4) + 1)
    if b.rng.random() < 0.5 and b.opset >= 18:
        b.add("Split", [x], outputs=parts, axis=axis, num_outputs=parts)
        return
    cuts = sorted(b.rng.randrange(0, n + 1) for _ in range(parts - 1))
    sizes = [e - s for s, e in zip([0, *cuts], [*cuts, n], strict=True)]
    b.add(
        "Split",
        [x, b.constant(sizes, np.int64)],
        outputs=parts,
        axis=axis - x.array.ndim * b.rng.randrange(2),
    )


def gather(b: Builder) -> None:
    x = b.choose(lambda v: v.array.ndim >= 1 and 0 not in v.shape)
    axis = _axis(b, x.array.ndim)
    n = x.shape[axis]
    kind = b.rng.randrange(4)
    if kind <= 1:
        shape = b.rng.choice([[], [1], [3], [2, 2], [5]])
        b.add(
            "Gather",
            [x, b.constant(b.numbers.integers(-n, n, shape), b.rng.choice([np.int64, np.int32]))],
            axis=axis,
        )
    elif kind == 2:
        shape = [b.rng.randrange(1, d + 1) for d in x.shape]
        shape[axis] = b.rng.choice([1, 2, n])
        indices = b.constant(b.numbers.integers(-n, n, shape), np.int64)
        b.add("GatherElements", [x, indices], axis=axis)
    else:
        depth = b.rng.randrange(1, x.array.ndim + 1)
        rows = [b.numbers.integers(0, d, [b.rng.choice([1, 3])] if False else [3]) for d in x.shape[:depth]]
        b.add("GatherND", [x, b.constant(np.stack(rows, -1), np.int64)])


def scatter(b: Builder) -> None:
    x = b.choose(
        lambda v: v.array.ndim >= 1 and 0 not in v.shape and v.dtype in (np.float32, np.int64, np.int32)
    )
    mode = (
        b.rng.choice(["none", "add", "mul", "max", "min"]) if b.opset >= 18 else b.rng.choice(["none", "add"])
    )
    if b.rng.random() < 0.5:
        axis = _axis(b, x.array.ndim)
        n = x.shape[axis]
        shape = [b.rng.randrange(1, d + 1) for d in x.shape]
        if mode == "none":  # places that repeat have no order
            shape[axis] = b.rng.randrange(1, n + 1)
            indices = np.argsort(
                b.numbers.random([*shape[: axis % x.array.ndim], n, *shape[axis % x.array.ndim + 1 :]]),
                axis % x.array.ndim,
            )
            indices = np.take(indices, range(shape[axis]), axis % x.array.ndim)
        else:
            indices = b.numbers.integers(-n, n, shape)
        b.add(
            "ScatterElements",
            [x, b.constant(indices, np.int64), b.operand(shape, x.dtype)],
            axis=axis,
            reduction=mode,
        )
        return
    depth = b.rng.randrange(1, x.array.ndim + 1)
    places = prod(x.shape[:depth])
    count = b.rng.randrange(1, min(places, 6) + 1)
    flat = b.numbers.choice(places, count, replace=mode != "none")
    indices = np.stack(np.unravel_index(flat, x.shape[:depth]), -1)
    b.add(
        "ScatterND",
        [x, b.constant(indices, np.int64), b.operand([count, *x.shape[depth:]], x.dtype)],
        reduction=mode,
    )


def resize(b: Builder) -> None:
    x = _image(b)
    mode = b.rng.choice(["nearest", "linear", "nearest", "linear", "cubic"])
    if mode == "cubic" and x.array.ndim != 4:
        raise Rejected("planes only")
    attributes: dict[str, Any] = {"mode": mode}
    attributes["coordinate_transformation_mode"] = b.rng.choice(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    )
    if mode == "nearest":
        attributes["nearest_mode"] = b.rng.choice(
            ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
        )
    if b.opset >= 18 and b.rng.random() < 0.25 and mode != "nearest":
        attributes["antialias"] = 1
    none = b.constant([], np.float32)
    if b.rng.random() < 0.5:
        scales = [1.0, 1.0, *(b.rng.choice([0.5, 2.0, 1.5, 3.0, 0.7]) for _ in x.shape[2:])]
        if attributes["coordinate_transformation_mode"] == "align_corners":
            raise Rejected(
                "the standard spreads the corners over extent times scale, ONNX Runtime over whole elements"
            )
        b.add("Resize", [x, none, b.constant(scales, np.float32)], **attributes)
    else:
        sizes = [*x.shape[:2], *(b.rng.choice([1, 3, 7, 10, 17]) for _ in x.shape[2:])]
        b.add("Resize", [x, none, none, b.constant(sizes, np.int64)], **attributes)


def transpose(b: Builder) -> None:
    x = b.choose(lambda v: v.array.ndim >= 2)
    perm = list(range(x.array.ndim))
    b.rng.shuffle(perm)
    b.add("Transpose", [x], **({"perm": perm} if b.rng.random() < 0.9 else {}))


def _factorised(b: Builder, n: int) -> list[int]:
    shape: list[int] = []
    while n > 1 and len(shape) < 4 and b.rng.random() < 0.8:
        d = b.rng.choice([d for d in range(1, n + 1) if n % d == 0])
        shape.append(d)
        n //= d
    shape.append(n)
    b.rng.shuffle(shape)
    return shape


def reshape(b: Builder) -> None:
    x = b.choose(lambda v: v.array.size > 0)
    kind = b.rng.randrange(6)
    if kind == 0:
        axis = b.rng.randrange(x.array.ndim + 1)
        b.add("Flatten", [x], axis=axis)
    elif kind == 1:
        rank = x.array.ndim + 1
        b.add("Unsqueeze", [x, b.constant([_axis(b, rank)], np.int64)])
    elif kind == 2:
        ones = [a for a, d in enumerate(x.shape) if d == 1]
        if not ones:
            raise Rejected("no extent of 1")
        b.add("Squeeze", [x, b.constant([b.rng.choice(ones)], np.int64)])
    elif kind == 3 and x.array.ndim >= 2:
        # the shape is computed from the tensor
        shape = b.add("Shape", [x])[0]
        first = b.add("Slice", [shape, b.constant([0], np.int64), b.constant([1], np.int64)])[0]
        b.add("Reshape", [x, b.add("Concat", [first, b.constant([-1], np.int64)], axis=0)[0]])
    else:
        shape = _factorised(b, x.array.size)
        if b.rng.random() < 0.5:
            shape[b.rng.randrange(len(shape))] = -1
        b.add("Reshape", [x, b.constant(shape, np.int64)])


def expand(b: Builder) -> None:
    x = b.choose(lambda v: v.array.size < 3000)
    if b.rng.random() < 0.4:
        repeats = [b.rng.choice([1, 1, 2, 3]) for _ in x.shape]
        b.add("Tile", [x, b.constant(repeats, np.int64)])
        return
    shape = [
        b.rng.choice([2, 3, 7]) if d == 1 and b.rng.random() < 0.6 else b.rng.choice([d, 1]) for d in x.shape
    ]
    if b.rng.random() < 0.3:
        shape.insert(0, b.rng.choice([2, 3]))
    b.add("Expand", [x, b.constant(shape, np.int64)])


def rearrange(b: Builder) -> None:
    kind = b.rng.randrange(6)
    if kind == 0:
        x = b.choose(lambda v: v.array.ndim == 4 and v.dtype == np.float32 and v.shape[1] % 4 == 0)
        b.add("DepthToSpace", [x], blocksize=2, mode=b.rng.choice(["DCR", "CRD"]))
    elif kind == 1:
        x = b.choose(
            lambda v: v.array.ndim == 4 and v.dtype == np.float32 and v.shape[2] % 2 == v.shape[3] % 2 == 0
        )
        b.add("SpaceToDepth", [x], blocksize=2)
    elif kind == 2:
        x = b.choose(lambda v: v.array.ndim >= 2 and v.dtype in (np.float32, np.int64))
        b.add("Trilu", [x, b.constant(b.rng.randrange(-2, 3), np.int64)], upper=b.rng.randrange(2))
    elif kind == 3:
        x = b.choose(lambda v: v.array.ndim >= 1 and v.dtype.kind in "iu" and v.array.size < 500)
        depth, values = b.constant(b.rng.choice([3, 5, 9]), np.int64), b.constant([0, 1], np.float32)
        b.add("OneHot", [x, depth, values], axis=b.rng.choice([-1, 0, 1]))
    elif kind == 4:
        x = b.choose(lambda v: v.array.ndim >= 1)
        axis = b.rng.randrange(x.array.ndim)
        kept = np.asarray(b.numbers.integers(0, 2, [x.shape[axis]]), bool)
        b.add("Compress", [x, b.constant(kept)], axis=axis)
    else:
        # Of a scalar the standard says (0, n), ONNX Runtime (1, n).
        x = b.choose(lambda v: v.dtype in (np.bool_, np.float32) and v.array.ndim > 0)
        b.add("NonZero", [x])


def einsum(b: Builder) -> None:
    x = b.floats(2, 4)
    letters = "abcd"[: x.array.ndim]
    kind = b.rng.randrange(3)
    if kind == 0:
        kept = b.rng.sample(letters, b.rng.randrange(0, len(letters) + 1))
        b.add("Einsum", [x], equation=f"{letters}->{''.join(kept)}")
        return
    other = b.rng.sample(letters, b.rng.randrange(1, len(letters) + 1)) + (
        ["e"] if b.rng.random() < 0.7 else []
    )
    b.rng.shuffle(other)
    extents = dict(zip(letters, x.shape, strict=True)) | {"e": b.rng.choice([1, 3, 7, 17])}
    all_letters = sorted({*letters, *other})
    kept = b.rng.sample(all_letters, b.rng.randrange(1, min(len(all_letters), 3) + 1))
    y = b.operand([extents[c] for c in other], x.dtype)
    b.add("Einsum", [x, y], equation=f"{letters},{''.join(other)}->{''.join(kept)}")


def quantised(b: Builder) -> None:
    x = b.choose(lambda v: v.dtype == np.float32 and v.array.ndim >= 1)
    if not np.isfinite(x.array).all():
        raise Rejected("a NaN as an integer is anything")
    kind = b.rng.choice([np.uint8, np.int8])
    zero = b.constant(b.rng.randrange(0, 5), kind)
    if b.rng.random() < 0.5:
        q, scale, zero = b.add("DynamicQuantizeLinear", [x], outputs=3)
    else:
        scale = b.constant(b.rng.choice([0.05, 0.1]), np.float32)
        q = b.add("QuantizeLinear", [x, scale, zero])[0]
    if b.rng.random() < 0.3 and q.array.ndim >= 2:
        w = b.constant(b.numbers.integers(0, 20, [q.shape[-1], 5]).astype(q.dtype))
        b.add("MatMulInteger", [q, w, zero])
        return
    b.add("DequantizeLinear", [q, scale, zero])


def recurrent(b: Builder) -> None:
    x = b.choose(lambda v: v.dtype == np.float32 and v.array.ndim == 3 and prod(v.shape) < 3000)
    op, gates = b.rng.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    hidden, direction = b.rng.choice([1, 3, 8]), b.rng.choice(["forward", "reverse", "bidirectional"])
    ways = 2 if direction == "bidirectional" else 1
    scale = np.float32(0.5)
    inputs = [x, b.constant(b.random([ways, gates * hidden, x.shape[2]], np.float32) * scale),
              b.constant(b.random([ways, gates * hidden, hidden], np.float32) * scale)]  # fmt: skip
    if b.rng.random() < 0.6:
        inputs.append(b.constant(b.random([ways, 2 * gates * hidden], np.float32)))
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU" and b.rng.random() < 0.5:
        attributes["linear_before_reset"] = 1
    b.add(op, inputs, outputs=2, **attributes)


# --- control flow ----------------------------------------------------------------------------------


def _some(b: Builder, productions: list[Production], count: int) -> None:
    for _ in range(count):
        try:
            b.rng.choice(productions)(b)
        except Rejected:
            pass


def _body(b: Builder) -> Builder:
    return Builder(b.rng, b.opset, b, b.wild)


def _kept_shape(inner: Builder, value: Value) -> Value:
    """A value of the same shape and type that a body computes from `value` and from what it captures."""
    for _ in range(inner.rng.randrange(1, 4)):
        op = inner.rng.choice(["Tanh", "Add", "Mul", "Sub"]) if value.dtype.kind == "f" else "Add"
        try:
            if op == "Tanh":
                value = inner.add(op, [value])[0]
            else:
                other = inner.choose(lambda v, x=value: v.dtype == x.dtype and _fits_into(v.shape, x.shape))
                value = inner.add(op, [value, other])[0]
        except Rejected:
            continue
    return inner.add("Identity", [value])[0]


def _fits_into(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, into) == into
    except ValueError:
        return False


def _all_reads(b: Builder, node: Any) -> list[Value]:
    names = {n for n in node.input if n}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= captured(attribute.g)
    known = {v.name: v for v in b.values} | {n: Value(n, a) for n, a in b.initializers.items()}
    scope = b.outer
    while scope is not None:
        known = {n: Value(n, a) for n, a in scope.initializers.items()} | known
        scope = scope.outer
    return [known[n] for n in sorted(names)]


def branches(b: Builder) -> None:
    x = b.choose(lambda v: v.dtype.kind in "fiu")
    if b.rng.random() < 0.5:
        flag = b.operand([], np.bool_)
    else:
        total = b.add("ReduceSum", [b.add("Cast", [x], to=1)[0]], keepdims=0)[0]
        flag = b.add("Greater", [total, b.constant(0.0, np.float32)])[0]
    if flag.name not in {v.name for v in b.values}:
        b.values.append(flag)
    count = b.rng.choice([1, 1, 2])
    graphs = []
    for name in ("then", "else"):
        inner = _body(b)
        if b.rng.random() < 0.5:
            _some(inner, SIMPLE, 2)
        graphs.append(inner.graph(name, [_kept_shape(inner, x) for _ in range(count)]))
    node = helper.make_node(
        "If", [flag.name], [b.name() for _ in range(count)], then_branch=graphs[0], else_branch=graphs[1]
    )
    b.append(node, _all_reads(b, node))


def loop(b: Builder) -> None:
    state = b.choose(lambda v: v.dtype.kind in "fi" and v.array.size < 2000)
    inner = _body(b)
    steps = np.array(b.rng.choice([0, 1, 2, 3, 5]))
    trips = b.constant(steps, np.int64) if b.rng.random() < 0.5 or b.outer else b.input(steps)
    number, going = inner.input(np.array(0)), inner.input(np.array(True))
    held = inner.input(state.array)
    result = _kept_shape(inner, held)
    if b.rng.random() < 0.4:
        less = inner.add("Less", [number, inner.constant(b.rng.choice([1, 2, 9]), np.int64)])[0]
        again = inner.add("And", [less, going])[0]
    else:
        again = inner.add("Identity", [going])[0]
    scans = []
    if b.rng.random() < 0.6 and steps > 0:  # of a loop that never runs ONNX Runtime makes unknown extents 0
        _some(inner, SIMPLE, 2)
        scans.append(inner.add("Identity", [inner.choose(lambda v: v.array.size < 2000)])[0])
    body = inner.graph("body", [again, result, *scans])
    node = helper.make_node(
        "Loop", [trips.name, "", state.name], [b.name() for _ in range(1 + len(scans))], body=body
    )
    if trips.name not in {v.name for v in b.values}:
        b.values.append(trips)
    b.append(node, _all_reads(b, node))


def scan(b: Builder) -> None:
    x = b.choose(
        lambda v: v.dtype == np.float32 and v.array.ndim >= 1 and 1 <= v.shape[0] and v.array.size < 3000
    )
    axis = b.rng.randrange(x.array.ndim)
    if x.shape[axis] > 20:
        raise Rejected("long")
    part = np.take(x.array, 0, axis)
    inner = _body(b)
    held, piece = inner.input(np.zeros_like(part)), inner.input(part)
    total = inner.add("Add", [inner.add("Mul", [held, inner.constant(0.5, np.float32)])[0], piece])[0]
    result = _kept_shape(inner, total)
    _some(inner, SIMPLE, 1)
    out = inner.add("Identity", [inner.choose(lambda v: v.array.size < 2000)])[0]
    start = b.operand(part.shape, np.float32)
    if start.name not in {v.name for v in b.values}:
        b.values.append(start)
    node = helper.make_node(
        "Scan", [start.name, x.name], [b.name(), b.name()], num_scan_inputs=1, body=inner.graph("body", [result, out]),
        scan_input_axes=[axis], scan_input_directions=[b.rng.randrange(2)],
        scan_output_directions=[b.rng.randrange(2)],
    )  # fmt: skip
    b.append(node, _all_reads(b, node))


SIMPLE: list[Production] = [
    unary,
    binary,
    transpose,
    reduction,
    slice_,
    concat,
    compare_and_choose,
    contraction,
]

PRODUCTIONS: list[tuple[Production, int]] = [
    (unary, 4), (binary, 5), (residual, 2), (integers, 3), (cast, 3), (compare_and_choose, 3), (contraction, 5), (gemm, 2),
    (convolution, 6), (transposed_convolution, 2), (pooling, 4), (normalisation, 5), (attention, 3), (reduction, 4),
    (arguments, 2), (pad, 2), (slice_, 3), (concat, 3), (split, 2), (gather, 3), (scatter, 2), (resize, 2), (transpose, 3),
    (reshape, 4), (expand, 2), (rearrange, 2), (einsum, 1), (quantised, 1), (recurrent, 1), (branches, 2), (loop, 2),
    (scan, 1),
]  # fmt: skip
"""Each with its weight."""
