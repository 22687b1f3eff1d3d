"""The rarer operators of `com.microsoft`, one node each, against ONNX Runtime."""

from typing import Any

import numpy as np
import pytest
from one_node import RANDOM, bytes_of, check, floats, number

from stepwell.errors import Error

HALVES = {"rtol": 4e-3, "atol": 4e-3}
"""How near results of float16 are."""


# What moves


def test_what_only_moves() -> None:
    x = floats(3, 4, 5)
    check("SampleOp", x)
    check("ExpandDims", x, number(1, np.int32), constants=[1])
    check("ExpandDims", x, np.array([-1], np.int32), constants=[1])
    for kind in (np.int32, np.int64):
        check("GatherND", x, np.array([[0, 1], [2, 3]], kind))
    check("Pad", x, np.array([[0, 1, 0, 2, 0, 1]]), constants=[1])
    check(
        "Pad", x, np.array([0, 1, 0, 2, 0, -1]), np.array([2.5], np.float32), constants=[1], mode="constant"
    )
    check("Pad", x, np.array([0, 1, 1, 2, 0, 1]), constants=[1], mode="reflect")


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int32", "uint64", "bool"])
def test_what_moves_of_every_type(dtype: str) -> None:
    x = RANDOM.integers(0, 2, (3, 4)).astype(dtype)
    check("ExpandDims", x, number(1, np.int32), constants=[1])
    check("GatherND", x, np.array([[0, 1], [2, 3]]))


def test_an_axis_that_only_the_run_knows_is_refused() -> None:
    with pytest.raises(Error, match=r"the_node.*an axis known only when run"):
        check("ExpandDims", floats(3, 4), number(1, np.int32))


def test_unfolded_slices() -> None:
    x = floats(2, 9, 3)
    check("UnfoldTensor", x, dim=1, size=4, step=2)
    check("UnfoldTensor", x.astype(np.int32), size=2)
    check("UnfoldTensor", x.astype(np.float64), size=2)
    check("UnfoldTensor", x, dim=-2, size=3, step=3, dynamic=[(0, 1)])


def test_unique_values_in_their_own_order() -> None:
    check("Unique", np.array([2, 1, 1, 3, 4, 3], np.float32), outputs=3)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode: str) -> None:
    check(
        "GridSample",
        floats(1, 2, 4, 5),
        floats(1, 3, 3, 2),
        mode=mode,
        padding_mode="border",
        align_corners=1,
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 4), (1, 2), (5, 1)])
def test_boxes_of_images(mode: str, size: tuple[int, int]) -> None:
    boxes = np.array(
        [[0, 0, 1, 1], [0.12, 0.23, 0.71, 0.88], [-0.31, 0.11, 0.53, 1.42], [0.81, 0.93, 0.23, 0.14]],
        np.float32,
    )
    owner, crop = np.array([0, 1, 1, 0], np.int32), np.array(size, np.int32)
    check("CropAndResize", floats(2, 3, 6, 5), boxes, owner, crop, mode=mode, extrapolation_value=7.0)


# What computes


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances(metric: str, dtype: Any) -> None:
    check("CDist", floats(4, 3).astype(dtype), floats(5, 3).astype(dtype), metric=metric, dynamic=[(0, 0)])


def test_products_of_shorts() -> None:
    a, b = (
        bytes_of(2, 3, low=-999, high=999, dtype=np.int16),
        bytes_of(3, 4, low=-999, high=999, dtype=np.int16),
    )
    check("MatMulInteger16", a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_inverse(dtype: Any) -> None:
    x = (floats(3, 4, 4) + np.eye(4, dtype=np.float32)[::-1] * 3).astype(dtype)
    x[0, 0, 0] = 0  # a pivot that is not there
    check("Inverse", x, **(HALVES if dtype == np.float16 else {"atol": 1e-4}))
    check("Inverse", x[0], **(HALVES if dtype == np.float16 else {"atol": 1e-4}))


def test_compiled_inverse_of_any_size() -> None:
    x = floats(2, 5, 5) + np.eye(5, dtype=np.float32) * 3
    check("Inverse", x, dynamic=[(0, 0), (0, 1), (0, 2)], compiled=True, atol=1e-4)


def test_transposed_convolution_with_pads_as_an_input() -> None:
    x, w, bias = floats(1, 2, 5, 5), floats(2, 3, 3, 3), floats(3)
    pads = np.array([1, 0, 1, 2])
    check(
        "ConvTransposeWithDynamicPads", x, w, pads, bias, constants=[2], strides=[2, 2], kernel_shape=[3, 3]
    )


# Tokens


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_repeated_runs_are_blocked(size: int) -> None:
    ids = np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]])
    check("NGramRepeatBlock", ids, floats(2, 6), ngram_size=size)
    check("NGramRepeatBlock", ids, floats(2, 6), ngram_size=size, dynamic=[(0, 0), (0, 1), (1, 0)])


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("positive", [0, 1])
def test_hash(dtype: Any, positive: int) -> None:
    x = np.array([0, 1, 5, 77777, 2**31 - 1], dtype)
    check("MurmurHash3", x, positive=positive, seed=42)


# Weights and tables of few bits


@pytest.mark.parametrize("kind", [0, 1])
def test_products_of_codes_of_four_bits(kind: int) -> None:
    rows, depth = 6, 32
    b = np.concatenate([np.arange(16, dtype=np.uint8) * 17 % 251, bytes_of(rows * depth // 2 - 16)])
    scales = np.abs(floats(rows * depth // 16)) + np.float32(0.1)
    a = floats(3, depth)
    check(
        "MatMulBnb4", a, b, scales, constants=[1, 2], N=rows, K=depth, block_size=16, quant_type=kind,
    )  # fmt: skip


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("places", [np.array([[0, 2], [-1, 9]], np.int32), np.array([3, 1]), np.array(1)])
def test_rows_of_a_quantised_table(bits: int, zeros: bool, places: np.ndarray) -> None:
    rows, depth, block = 5, 48, 16
    data, scales = bytes_of(rows, depth * bits // 8), np.abs(floats(rows, 3)) + np.float32(0.1)
    zero = bytes_of(rows, -(-3 * bits // 8)) if zeros else None
    how = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    check("GatherBlockQuantized", data, places, scales, zero, constants=[0, 2, 3] if zeros else [0, 2], **how)
    half = scales.astype(np.float16)
    check(
        "GatherBlockQuantized", data, places, half, zero, constants=[0, 2, 3] if zeros else [0, 2],
        rtol=2e-3, **how,
    )  # fmt: skip


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (0, 2)])
@pytest.mark.parametrize("kind", ["int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
def test_slices_of_a_table_of_small_elements(axes: tuple[int, int], kind: str) -> None:
    import ml_dtypes

    gather, along = axes
    data = RANDOM.integers(0, 7, (16, 32, 16)).astype(getattr(ml_dtypes, kind))
    shape = list(data.shape)
    shape[along] //= 16
    scales = np.abs(floats(*shape)) + np.float32(0.1)
    zero = RANDOM.integers(0, 7, shape).astype(getattr(ml_dtypes, kind)) if "int" in kind else None
    check(
        "GatherBlockQuantized", data, np.array([[1, 0, 3]]), scales, zero, constants=[0, 2, 3] if "int" in kind else [0, 2],
        block_size=16, gather_axis=gather, quantize_axis=along,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("segments", [True, False])
def test_embedding_of_quantised_tables(dtype: Any, segments: bool) -> None:
    def table(*shape: int) -> np.ndarray:
        return RANDOM.integers(0, 100, shape).astype(dtype)

    ids, kinds = (RANDOM.integers(0, 2, (2, 5)).astype(np.int32) for _ in range(2))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32)
    tables = [table(9, 8), table(6, 8), table(2, 8), table(8), table(8)]
    scales = [number(value) for value in (0.03, 0.02, 0.01, 0.04, 0.05)]
    zeros = [number(value, dtype) for value in (30, 20, 10, 5, 90)]
    if not segments:
        kinds = tables[2] = scales[2] = zeros[2] = None
    check(
        "QEmbedLayerNormalization", ids, kinds, *tables, mask, *scales, *zeros, outputs=2, epsilon=1e-5,
        constants=[k for k in range(8, 18) if segments or k not in (10, 15)],
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("columns", [False, True])
def test_lstm_of_quantised_weights(direction: str, columns: bool) -> None:
    """ONNX Runtime rounds the inputs of the products to 8 bits too, hence the tolerance."""
    ways, width, hidden = 1 + (direction == "bidirectional"), 6, 8
    w, r = (bytes_of(ways, n, 4 * hidden, low=-100, high=100, dtype=np.int8) for n in (width, hidden))
    shape = (ways, 4 * hidden) if columns else (ways,)
    scales = [np.full(shape, value, np.float32) for value in (0.004, 0.003)]
    zeros = np.zeros(shape, np.int8)
    check(
        "DynamicQuantizeLSTM", floats(5, 2, width), w, r, floats(ways, 8 * hidden), None, None, None, None,
        scales[0], zeros, scales[1], zeros, outputs=3, hidden_size=hidden, direction=direction,
        constants=[1, 2, 8, 9, 10, 11], atol=1e-2, rtol=1e-2,
    )  # fmt: skip


# Linear attention and what belongs to it


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention(rule: str) -> None:
    batch, length, heads, width = 2, 3, 2, 4
    q, k, v = (floats(batch, length, heads * width) for _ in range(3))
    past = floats(batch, heads, width, width)
    decay = -np.abs(floats(batch, length, heads)) if "gated" in rule else None
    beta = np.abs(floats(batch, length, heads)) if "delta" in rule else None
    check(
        "LinearAttention", q, k, v, past, decay, beta, outputs=2, q_num_heads=heads, kv_num_heads=heads,
        update_rule=rule,
    )  # fmt: skip


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("last", [0, 1])
def test_causal_convolution(past: bool, dilation: int, last: int) -> None:
    batch, channels, length, taps = 2, 6, 7, 3
    held = (taps - 1) * dilation
    x = floats(batch, length, 2, 3) if last else floats(batch, channels, length)
    state = (floats(batch, held, 2, 3) if last else floats(batch, channels, held)) if past else None
    check(
        "CausalConvWithState", x, floats(channels, 1, taps), floats(channels), state, outputs=2,
        dilation=dilation, channels_last=last, activation="silu",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gates_of_linear_attention(dtype: Any) -> None:
    a, b = floats(2, 3, 4).astype(dtype), floats(2, 3, 4).astype(dtype)
    near = HALVES if dtype == np.float16 else {}
    check("LinearAttentionGate", a, floats(4), floats(4), b, outputs=2, **near)
    check("LinearAttentionGate", a, floats(4), floats(4), outputs=1, **near)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gated_layers(dtype: Any) -> None:
    def real(*shape: int) -> np.ndarray:
        return floats(*shape).astype(dtype)

    near = HALVES if dtype == np.float16 else {}
    for activation in ("silu", "swish", "sigmoid"):
        check("GatedRMSNorm", real(2, 3, 8), real(4), real(2, 3, 8), activation=activation, **near)
    check("GatedRMSNorm", real(2, 3, 8), real(8), real(2, 3, 8), epsilon=1e-3, dynamic=[(0, 0)], **near)
    check("GatedAdd", real(2, 3, 8), real(2, 3, 8), real(2, 3, 1), **near)
    check("ScaledSiLU", real(2, 3, 8), alpha=1.7, **near)
    check("ScaledSiLU", real(2, 3, 8), number(0.3), **near)
    keys, queries, scales = real(2, 3, 4, 8), real(2, 3, 4, 8), [real(4, 8) for _ in range(3)]
    check("EngramGate", keys, queries, real(2, 3, 8), *scales, outputs=2, **near)
    check("EngramGate", keys, queries, real(2, 3, 8), *scales[:2], epsilon=1e-3, **near)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("flat", [False, True])
def test_streams_that_mix(dtype: Any, flat: bool) -> None:
    def real(*shape: int) -> np.ndarray:
        return floats(*shape).astype(dtype)

    near = HALVES if dtype == np.float16 else {}
    x = real(2, 3, 32) if flat else real(2, 3, 4, 8)
    how: dict[str, Any] = {"num_branches": 4} if flat else {}
    for shape in ((2, 3, 4), (2, 3, 4, 1), (2, 3, 4, 8)):
        check("HyperConnectionPreMix", x, real(*shape), reduction_scale=0.5, **how, **near)
        check("HyperConnectionPostMix", x, real(2, 3, 8), real(*shape), real(2, 3, 4, 4), **how, **near)
        check("HyperConnectionPostMix", x, real(2, 3, 8), real(*shape), **how, **near)
    for scale in (None, real(8), real(32), real(4, 8)):
        check("BranchwiseRMSNorm", x, scale, epsilon=1e-4, **how, **near)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rotary_embedding_of_three_positions(layout: int, interleaved: int, dtype: Any) -> None:
    cos, sin = (floats(32, 8).astype(dtype) for _ in range(2))
    places = RANDOM.integers(0, 30, (3, 2, 5))
    how = {"mrope_section": [4, 2, 2], "num_heads": 2, "mrope_layout": layout, "interleaved": interleaved}
    near = HALVES if dtype == np.float16 else {}
    check("MRotaryEmbedding", floats(2, 5, 32).astype(dtype), places, cos, sin, **how, **near)
    check("MRotaryEmbedding", floats(2, 2, 5, 16).astype(dtype), places, cos, sin, **how, **near)


# Experts


EXPERTS, WIDTH, INNER = 4, 16, 8


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
@pytest.mark.parametrize("normal", [0, 1])
def test_experts(activation: str, normal: int) -> None:
    check(
        "MoE", floats(2, 3, WIDTH), floats(6, EXPERTS), floats(EXPERTS, INNER, WIDTH), floats(EXPERTS, INNER),
        floats(EXPERTS, WIDTH, INNER), floats(EXPERTS, WIDTH), k=2, activation_type=activation,
        normalize_routing_weights=normal, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [None, 0.5])
def test_experts_of_gated_units(limit: float | None) -> None:
    how = {} if limit is None else {"swiglu_limit": limit}
    check(
        "MoE", floats(6, WIDTH), floats(6, EXPERTS), floats(EXPERTS, 2 * INNER, WIDTH),
        floats(EXPERTS, 2 * INNER), floats(EXPERTS, WIDTH, INNER), None, k=2, activation_type="swiglu",
        swiglu_fusion=1, activation_alpha=1.702, activation_beta=1.0, normalize_routing_weights=1, atol=1e-5,
        **how,
    )  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("weighed", [False, True])
def test_experts_of_quantised_weights(bits: int, block: int, weighed: bool) -> None:
    def layer(rows: int, depth: int) -> list[np.ndarray]:
        shape = (EXPERTS, rows, depth // block) if block else (EXPERTS, rows)
        scales = np.abs(floats(*shape)) / (1 << bits) + np.float32(0.01)
        return [bytes_of(EXPERTS, rows, depth * bits // 8), scales]

    inner = 32
    how = {"block_size": block} if block else {}
    inputs = [
        floats(6, 32), floats(6, EXPERTS), *layer(2 * inner, 32), floats(EXPERTS, 2 * inner),
        *layer(32, inner), floats(EXPERTS, 32),
    ]  # fmt: skip
    if weighed:
        inputs += [None] * 6 + [np.abs(floats(6, EXPERTS))]
    # blocks of 8 bits are multiplied with inputs of 8 bits there
    near = 3.0 if (bits, block) == (8, 16) else 2e-3
    check(
        "QMoE", *inputs, constants=[2, 3, 5, 6], k=2, expert_weight_bits=bits, activation_type="swiglu",
        swiglu_fusion=1, activation_alpha=1.702, activation_beta=1.0, normalize_routing_weights=1,
        rtol=2e-3, atol=near, **how,
    )  # fmt: skip
