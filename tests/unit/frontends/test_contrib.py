"""The operators of `com.microsoft`, one node each, as the interpreter of graphs sees them, against ONNX Runtime."""

from typing import Any

import numpy as np
import pytest
from one_node import RANDOM, bytes_of, check, floats, model_of, number

import stepwell
from stepwell.compat import new_context
from stepwell.errors import UnsupportedError
from stepwell.frontends.onnx import import_onnx
from stepwell.registry import DIALECTS

# Attention


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", ["none", "lengths", "keys", "queries"])
def test_attention(causal: int, mask: str) -> None:
    keep = {
        "none": None,
        "lengths": np.array([5, 3], np.int32),
        "keys": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32),
        "queries": bytes_of(2, 5, 5, high=2, dtype=np.int32) | np.eye(5, dtype=np.int32),
    }[mask]
    check(
        "Attention",
        floats(2, 5, 8),
        floats(8, 24),
        floats(24),
        keep,
        constants=[1, 2],
        num_heads=2,
        unidirectional=causal,
    )


def test_attention_with_a_past_and_sizes_of_its_own() -> None:
    past = floats(2, 2, 2, 3, 4)
    check(
        "Attention",
        floats(2, 5, 8),
        floats(8, 24),
        floats(24),
        None,
        past,
        outputs=2,
        num_heads=2,
        unidirectional=1,
    )
    check(
        "Attention", floats(2, 5, 8), floats(8, 20), floats(20), None, None, floats(1, 2, 5, 5),
        num_heads=2, qkv_hidden_sizes=[8, 8, 4], scale=0.4,
    )  # fmt: skip


@pytest.mark.parametrize("mask", [None, np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], np.int32)])
def test_multi_head_attention(mask: Any) -> None:
    q, k, v = floats(2, 5, 8), floats(2, 7, 8), floats(2, 7, 12)
    check("MultiHeadAttention", q, k, v, None, mask, floats(1, 1, 5, 7), num_heads=2)
    check("MultiHeadAttention", q, k, v, floats(28), mask, num_heads=2, scale=0.3)


def test_multi_head_attention_across_and_with_a_past() -> None:
    check("MultiHeadAttention", floats(2, 5, 8), floats(2, 2, 7, 4), floats(2, 2, 7, 4), num_heads=2)
    q, k, v, past = floats(2, 3, 8), floats(2, 3, 8), floats(2, 3, 8), floats(2, 2, 4, 4)
    check("MultiHeadAttention", q, k, v, None, None, None, past, past[::-1].copy(), outputs=3, num_heads=2)
    check("MultiHeadAttention", q, k, v, num_heads=2, unidirectional=1)


def tables(width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(32)[:, None] / 10 ** np.arange(width // 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved: int) -> None:
    cos, sin = tables()
    x = floats(2, 5, 16)
    check("RotaryEmbedding", x, np.array([3]), cos, sin, constants=[2, 3], interleaved=interleaved)
    places = RANDOM.integers(0, 30, (2, 5))
    check("RotaryEmbedding", x, places, cos, sin, constants=[2, 3], interleaved=interleaved)
    part = tables(4)
    check("RotaryEmbedding", x, places, *part, rotary_embedding_dim=4, num_heads=2, interleaved=interleaved)


GROUPS = {"num_heads": 4, "kv_num_heads": 2}


def grouped(batch: int, length: int, packed: bool = False) -> list[Any]:
    sizes = (64, 32, 32)
    if packed:
        return [floats(batch, length, sum(sizes)), None, None]
    return [floats(batch, length, size) for size in sizes]


def lengths(*totals: int) -> list[np.ndarray]:
    return [np.array(totals, np.int32) - 1, np.array(max(totals), np.int32)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"local_window_size": 3},
        {"softcap": 2.0, "scale": 0.7},
        {"do_rotary": 1},
        {"do_rotary": 1, "rotary_interleaved": 1},
    ],
    ids=["plain", "window", "softcap", "rotary", "interleaved"],
)
def test_grouped_queries_of_a_prompt_and_of_the_next_token(packed: bool, more: dict[str, Any]) -> None:
    turns = list(tables(16)) if "do_rotary" in more else []
    check(
        "GroupQueryAttention",
        *grouped(2, 6, packed),
        None,
        None,
        *lengths(6, 6),
        *turns,
        outputs=3,
        **GROUPS,
        **more,
    )
    past = [floats(2, 2, 6, 16), floats(2, 2, 6, 16)]
    check(
        "GroupQueryAttention",
        *grouped(2, 1, packed),
        *past,
        *lengths(7, 7),
        *turns,
        outputs=3,
        **GROUPS,
        **more,
    )


@pytest.mark.parametrize("heads", [1, 4])
def test_grouped_queries_with_a_bias(heads: int) -> None:
    bias = floats(2, heads, 6, 6)
    inputs = [*grouped(2, 6), None, None, *lengths(6, 6), None, None, None, bias]
    check("GroupQueryAttention", *inputs, outputs=3, **GROUPS)


def test_grouped_queries_of_rows_of_several_lengths() -> None:
    past = [floats(2, 2, 6, 16), floats(2, 2, 6, 16)]
    # the past is a buffer of 6 here, of which 3 and 5 entries are used
    model_lengths = lengths(4, 6)
    turns = tables(16)
    check(
        "GroupQueryAttention", *grouped(2, 1), *past, *model_lengths, *turns, outputs=3, do_rotary=1, **GROUPS,
        dynamic=[(3, 2), (4, 2)],
    )  # fmt: skip


def test_compiled_attention_with_a_growing_past() -> None:
    past = [floats(1, 2, 6, 16), floats(1, 2, 6, 16)]
    dynamic = [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)]
    check(
        "GroupQueryAttention", *grouped(1, 2), *past, *lengths(8), *tables(16), outputs=3, do_rotary=1,
        dynamic=dynamic, compiled=True, **GROUPS,
    )  # fmt: skip
    q, k, v, old = floats(2, 3, 8), floats(2, 3, 8), floats(2, 3, 8), floats(2, 2, 4, 4)
    dynamic = [(k, 1) for k in range(3)] + [(6, 2), (7, 2)]
    check(
        "MultiHeadAttention", q, k, v, None, None, None, old, old[::-1].copy(), outputs=3, dynamic=dynamic,
        compiled=True, num_heads=2,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["smooth", "sink"])
@pytest.mark.parametrize("batch", [1, 2])
def test_grouped_queries_with_a_sink(form: str, batch: int) -> None:
    sink = floats(4) if form == "sink" else None
    inputs = [*grouped(batch, 6), None, None, *lengths(*[6] * batch), None, None, None, None, sink]
    check("GroupQueryAttention", *inputs, outputs=3, smooth_softmax=int(form == "smooth"), **GROUPS)


def test_grouped_queries_with_normalised_heads() -> None:
    """ONNX Runtime has it on other machines only, so it is held against heads that were normalised before."""
    scales = [floats(16), floats(16)]
    q, k, v = grouped(2, 6)
    rest = [None, None, *lengths(6, 6), *tables(16)]
    how = {"do_rotary": 1, **GROUPS}
    with_scales = [q, k, v, *rest, *[None] * 5, *scales]
    first = model_of("GroupQueryAttention", with_scales, [], 3, [], qk_norm_epsilon=1e-3, **how)
    heads = [x.reshape(2, 6, -1, 16) for x in (q, k)]
    roots = [np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-3) for x in heads]
    normal = [
        (x / root * scale).reshape(2, 6, -1) for x, root, scale in zip(heads, roots, scales, strict=True)
    ]
    without = [*normal, v, *rest]
    second = model_of("GroupQueryAttention", without, [], 3, [], **how)
    got, want = (
        stepwell.compile(model).run({f"i{k}": x for k, x in enumerate(inputs) if x is not None}).values()
        for model, inputs in ((first, with_scales), (second, without))
    )
    for have, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(have, expected, rtol=1e-4, atol=1e-5)


def test_grouped_queries_that_see_what_follows() -> None:
    inputs = [*grouped(2, 6), None, None, *lengths(6, 6)]
    check("GroupQueryAttention", *inputs, outputs=3, causal=0, **GROUPS)


def test_grouped_queries_of_halves() -> None:
    inputs = [x.astype(np.float16) for x in grouped(2, 6)]
    check(
        "GroupQueryAttention", *inputs, None, None, *lengths(6, 6), outputs=3, rtol=1e-2, atol=4e-3, **GROUPS
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_scores_of_grouped_queries(stage: int) -> None:
    inputs = [*grouped(2, 6), None, None, *lengths(6, 6)]
    if stage == 1:
        inputs[0], inputs[1] = (np.abs(x) for x in inputs[:2])  # what is masked is not compared
    check(
        "GroupQueryAttention", *inputs, outputs=4, qk_output=stage, float_outputs=[3], unmasked=stage == 1,
        **GROUPS,
    )  # fmt: skip


@pytest.mark.parametrize("more", [{"sliding_window_cache": 1}, {"k_quant_type": "PER_TENSOR"}])
def test_grouped_queries_that_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"the_node.*GroupQueryAttention"):
        model = model_of(
            "GroupQueryAttention", [*grouped(2, 6), None, None, *lengths(6, 6)], [], 3, [], **GROUPS, **more
        )
        import_onnx(model, new_context(DIALECTS))


def test_what_a_rule_does_not_know_is_refused() -> None:
    x = floats(2, 8)
    for inputs, more, why in (
        ([x], {"sharpness": 2.0}, "the attribute sharpness = 2.0"),
        ([x, x], {}, "an operand at place 1"),
    ):
        model = model_of("ScaledSiLU" if more else "SampleOp", inputs, [], 1, [], **more)
        with pytest.raises(UnsupportedError, match=why):
            import_onnx(model, new_context(DIALECTS))


def test_masks_of_places() -> None:
    ends, begins = [5, 3], [1, 0]
    mask = np.array(ends + begins, np.int32)
    check("Attention", floats(2, 5, 8), floats(8, 24), floats(24), mask, constants=[1, 2], num_heads=2)
    q, k, v = floats(2, 5, 8), floats(2, 7, 8), floats(2, 7, 8)
    packed = np.array([7, 3, 0, 5, 10, 0, 7, 14], np.int32)
    check("MultiHeadAttention", q, k, v, None, packed, num_heads=2)


def test_scores_of_heads() -> None:
    q, k, v = floats(2, 5, 8), floats(2, 7, 8), floats(2, 7, 8)
    bias = floats(1, 2, 5, 7)
    check("MultiHeadAttention", q, k, v, None, None, bias, outputs=4, float_outputs=[3], num_heads=2)


@pytest.mark.parametrize("bias", [False, True])
def test_attention_of_a_decoder(bias: bool) -> None:
    q, k, v = (floats(2, 1, 8) for _ in range(3))
    past = [floats(2, 2, 6, 4) for _ in range(2)]
    rest = [None, None, floats(24) if bias else None]
    inputs = [q, k, v, None, None, *past, np.array([4], np.int32), *rest]
    check(
        "DecoderMaskedMultiHeadAttention", *inputs, outputs=3, num_heads=2, past_present_share_buffer=1,
        unwritten=4,
    )  # fmt: skip
    cross = [floats(2, 2, 7, 4), floats(2, 2, 7, 4)]
    check("DecoderMaskedMultiHeadAttention", q, *cross, num_heads=2)
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7], np.int32)
    check("DecoderMaskedMultiHeadAttention", q, *cross, mask, num_heads=2)


@pytest.mark.parametrize(
    "name",
    [
        "Relu",
        "Tanh",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Elu",
        "LeakyRelu",
        "Selu",
        "HardSigmoid",
        "ThresholdedRelu",
    ],
)
def test_fused_activations(name: str) -> None:
    how = {"activation_alpha": 0.3, "activation_beta": 0.6, "activation_gamma": 1.1}
    check("FusedGemm", floats(3, 4), floats(4, 5), floats(5), activation=name, **how)


def test_channels_last_with_a_sum_and_an_activation() -> None:
    """No provider on a CPU has it, so it is held against FusedConv between transposes."""
    x, w, bias, more = floats(1, 6, 6, 2), floats(3, 2, 3, 3), floats(3), floats(1, 6, 6, 3)
    how = {"activation": "LeakyRelu", "activation_params": [0.2], "pads": [1, 1, 1, 1]}
    first = model_of("NhwcFusedConv", [x, w, bias, more], [], 1, [], **how)
    second = model_of("FusedConv", [np.moveaxis(x, 3, 1), w, bias, np.moveaxis(more, 3, 1)], [], 1, [], **how)
    (got,), (want,) = (
        stepwell.compile(model).run({f"i{k}": np.ascontiguousarray(v) for k, v in enumerate(inputs)}).values()
        for model, inputs in (
            (first, [x, w, bias, more]),
            (second, [np.moveaxis(x, 3, 1), w, bias, np.moveaxis(more, 3, 1)]),
        )
    )
    np.testing.assert_allclose(got, np.moveaxis(want, 1, 3), rtol=1e-5, atol=1e-5)


# Embeddings


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_embed_layer_norm(segments: bool, mask: bool) -> None:
    ids = RANDOM.integers(0, 9, (2, 5)).astype(np.int32)
    kinds = RANDOM.integers(0, 2, (2, 5)).astype(np.int32) if segments else None
    keep = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32) if mask else None
    check(
        "EmbedLayerNormalization", ids, kinds, floats(9, 8), floats(6, 8), floats(2, 8) if segments else None,
        floats(8), floats(8), keep, outputs=2, epsilon=1e-5,
    )  # fmt: skip


# Quantised operators


def test_quantised_shapes_and_pools() -> None:
    x, scale, zero = bytes_of(1, 2, 6, 6), number(0.05), number(9, np.uint8)
    out = number(0.07), number(3, np.uint8)
    check(
        "QLinearConcat",
        *out,
        x,
        scale,
        zero,
        bytes_of(1, 3, 6, 6),
        number(0.02),
        number(100, np.uint8),
        axis=1,
        units=1,
    )
    check("QLinearAveragePool", x, scale, zero, *out, kernel_shape=[2, 2], strides=[2, 2], units=1)
    check("QLinearGlobalAveragePool", x, scale, zero, *out, channels_last=0, units=1)
    check("QLinearGlobalAveragePool", x, scale, zero, *out, channels_last=1, units=1)
    check(
        "QLinearSigmoid",
        x,
        scale,
        zero,
        number(1 / 256),
        number(0, np.uint8),
        constants=[1, 2, 3, 4],
        units=1,
    )
    check("QLinearLeakyRelu", x, scale, zero, *out, constants=[1, 2, 3, 4], alpha=0.2, units=1)
    check(
        "QLinearSoftmax", x[0], scale, zero, number(1 / 256), number(0, np.uint8), opset=11, axis=1, units=1
    )
    check(
        "QLinearSoftmax",
        x[0, 0],
        scale,
        zero,
        number(1 / 256),
        number(0, np.uint8),
        opset=13,
        axis=-1,
        units=1,
    )
    check(
        "QLinearWhere",
        bytes_of(2, 6, 6, high=2).astype(bool),
        x[0],
        scale,
        zero,
        x[0] // 2,
        scale,
        zero,
        *out,
        units=1,
    )


@pytest.mark.parametrize("columns", [False, True])
def test_products_of_quantised_matrices(columns: bool) -> None:
    b = bytes_of(6, 5, low=-100, high=100, dtype=np.int8)
    scale = (np.abs(floats(5)) + 0.1) / 50 if columns else number(0.02)
    zero = bytes_of(5, low=-5, high=5, dtype=np.int8) if columns else number(3, np.int8)
    check(
        "DynamicQuantizeMatMul",
        floats(3, 4, 6),
        b,
        scale,
        zero,
        floats(5),
        constants=[1, 2, 3],
        rtol=1e-3,
        atol=1e-4,
    )
    check("DynamicQuantizeMatMul", floats(4, 6), b, scale, rtol=1e-3, atol=1e-4)
    a = bytes_of(4, 6)
    check("MatMulIntegerToFloat", a, b, number(0.03), scale, number(120, np.uint8), zero, floats(5))


def test_quantised_gemm() -> None:
    a, b = bytes_of(4, 6), bytes_of(5, 6)
    sides = [
        a,
        number(0.03),
        number(120, np.uint8),
        b,
        number(0.02),
        number(9, np.uint8),
        bytes_of(5).astype(np.int32),
    ]
    check("QGemm", *sides, transB=1, alpha=0.5)
    check("QGemm", *sides, number(0.9), number(100, np.uint8), transB=1, units=1)


def test_quantised_attention() -> None:
    check(
        "QAttention", bytes_of(2, 4, 8), bytes_of(8, 24), floats(24), number(0.02), number(0.03),
        np.array([[1, 1, 1, 1], [1, 1, 0, 0]], np.int32), number(128, np.uint8), number(120, np.uint8),
        constants=[1, 2, 3, 4, 6, 7], num_heads=2, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["none", "packed", "real"])
@pytest.mark.parametrize("depth", [32, 40])
def test_weights_of_few_bits(bits: int, zeros: str, depth: int) -> None:
    rows, block = 6, 16
    blocks = -(-depth // block)
    point = {
        "none": None,
        "packed": bytes_of(rows, -(-blocks * bits // 8)),
        "real": (np.abs(floats(rows, blocks)) * 10).astype(np.float32),
    }[zeros]
    if zeros == "real" and bits == 8:
        pytest.skip("ONNX Runtime has no zero points of reals for 8 bits")
    a, b = floats(3, depth), bytes_of(rows, blocks, block * bits // 8)
    scales = np.abs(floats(rows, blocks)) + np.float32(0.1)
    places = [1, 2, 3] if point is not None else [1, 2]
    check(
        "MatMulNBits", a, b, scales, point, constants=places, rtol=1e-4, atol=1e-3, N=rows, K=depth, bits=bits,
        block_size=block,
    )  # fmt: skip


def test_weights_of_few_bits_in_an_order_of_their_own() -> None:
    b, scales = bytes_of(6, 2, 8), np.abs(floats(6, 2)) + np.float32(0.1)
    order = RANDOM.permutation(np.arange(32) // 16).astype(np.int32)
    check(
        "MatMulNBits", floats(3, 32), b, scales, None, order, constants=[1, 2, 4], atol=1e-3, N=6, K=32, bits=4,
        block_size=16,
    )  # fmt: skip
