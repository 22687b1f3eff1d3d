"""Every old form of an operator, imported and interpreted, against ONNX Runtime or numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph_runner import run_with_onnxruntime
from onnx import helper

import stepwell
from stepwell.compat import new_context
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS

ort.set_default_logger_severity(4)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: Sequence[str],
    opset: int,
    weights: dict[str, np.ndarray] | None = None,
    contrib: bool = False,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(v, n) for n, v in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if contrib:
        imports.append(helper.make_opsetid("com.microsoft", 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run_ours(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    module.verify()
    return run_with_onnxruntime(module, ctx, list(inputs.values()))


def run_ort(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def compare(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def ramp(*shape: int) -> np.ndarray:
    """Values that differ, of both signs."""
    return ((np.arange(np.prod(shape)) * 7 % 23 - 11) / 4).astype(np.float32).reshape(shape)


X = {"x": ramp(2, 3, 4)}
IMAGE = {"x": ramp(1, 2, 4, 4)}


def node(
    op: str, *names: str, domain: str = "", outputs: Sequence[str] = ("y",), **attributes: Any
) -> onnx.NodeProto:
    return helper.make_node(op, list(names) or ["x"], list(outputs), domain=domain, **attributes)


# What ONNX Runtime still runs: opset 7 and newer.
AGAINST_ORT = {
    "squeeze_axes": (11, [node("Squeeze", axes=[1])], {"x": ramp(2, 1, 4)}, {}),
    "unsqueeze_axes": (11, [node("Unsqueeze", axes=[0, 3])], X, {}),
    "reduce_sum_axes": (11, [node("ReduceSum", axes=[1], keepdims=0)], X, {}),
    "reduce_mean_axes": (13, [node("ReduceMean", axes=[0, 2])], X, {}),
    "reduce_max_all": (13, [node("ReduceMax", keepdims=0)], X, {}),
    "softmax_2d": (11, [node("Softmax")], X, {}),
    "softmax_2d_axis_0": (11, [node("Softmax", axis=0)], X, {}),
    "softmax_last": (12, [node("Softmax", axis=2)], X, {}),
    "log_softmax_2d": (11, [node("LogSoftmax", axis=1)], X, {}),
    "hardmax_2d": (11, [node("Hardmax", axis=1)], X, {}),
    "clip_attributes": (7, [node("Clip", min=-1.0, max=1.5)], X, {}),
    "clip_default": (9, [node("Clip", min=0.0)], X, {}),
    "pad_attributes": (9, [node("Pad", pads=[0, 1, 0, 0, 0, 2], value=0.5)], X, {}),
    "slice_attributes": (9, [node("Slice", starts=[1, 0], ends=[3, -1], axes=[1, 2])], X, {}),
    "slice_no_axes": (9, [node("Slice", starts=[0, 1], ends=[1, 3])], X, {}),
    "split_attribute": (11, [node("Split", split=[1, 2], axis=1, outputs=("y", "z"))], X, {}),
    "split_equal": (13, [node("Split", axis=2, outputs=("y", "z"))], X, {}),
    "top_k_attribute": (9, [node("TopK", k=2, axis=-1, outputs=("y", "z"))], {"x": ramp(5)}, {}),
    "dropout_ratio": (7, [node("Dropout", ratio=0.3)], X, {}),
    "upsample_attribute": (7, [node("Upsample", scales=[1.0, 1.0, 2.0, 2.0])], IMAGE, {}),
    "upsample_input": (9, [node("Upsample", "x", "s", mode="linear")], IMAGE, {"s": np.array([1, 1, 2, 3], np.float32)}),
    "resize_10": (10, [node("Resize", "x", "s")], IMAGE, {"s": np.array([1, 1, 1.5, 2], np.float32)}),
    "resize_11_empty_roi": (
        11,
        [node("Resize", "x", "r", "s", mode="linear")],
        IMAGE,
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "scatter": (
        9,
        [node("Scatter", "x", "i", "u", axis=1)],
        {"x": ramp(2, 3)},
        {"i": np.array([[1], [0]]), "u": np.array([[9], [8]], np.float32)},
    ),
    "gemm_no_c": (11, [node("Gemm", "x", "w", transB=1, alpha=0.5)], {"x": ramp(2, 3)}, {"w": ramp(4, 3)}),
    "batch_norm_9": (
        9,
        [node("BatchNormalization", "x", "a", "b", "c", "d")],
        IMAGE,
        {n: np.array(v, np.float32) for n, v in {"a": [1, 2], "b": [0, 3], "c": [1, -1], "d": [2, 5]}.items()},
    ),
    "prelu_channels": (7, [node("PRelu", "x", "s")], X, {"s": np.array([[0.1], [0.2], [0.3]], np.float32)}),
    "average_pool_same": (7, [node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")], IMAGE, {}),
    "conv_same_lower": (
        11,
        [node("Conv", "x", "w", kernel_shape=[2, 2], strides=[3, 2], auto_pad="SAME_LOWER")],
        IMAGE,
        {"w": ramp(3, 2, 2, 2)},
    ),
    "layer_norm_function": (17, [node("LayerNormalization", "x", "s")], X, {"s": ramp(4)}),
    "group_norm_18": (
        18,
        [node("GroupNormalization", "x", "s", "b", num_groups=2)],
        {"x": ramp(1, 4, 3)},
        {"s": np.array([1, 2], np.float32), "b": np.array([0, 5], np.float32)},
    ),
    "grid_sample_16": (
        16,
        [node("GridSample", "x", "g", mode="bilinear")],
        IMAGE,
        {"g": np.clip(ramp(1, 2, 3, 2) / 3, -1, 1)},
    ),
    "mean_variance_body": (13, [node("MeanVarianceNormalization")], IMAGE, {}),
    "softsign_and_shrink": (11, [node("Shrink", bias=0.5, lambd=1.0)], X, {}),
    "cross_entropy_body": (
        13,
        [node("SoftmaxCrossEntropyLoss", "x", "t")],
        {"x": ramp(3, 5)},
        {"t": np.array([0, 4, 2])},
    ),
    "constant_forms": (13, [helper.make_node("Constant", [], ["s"], value_ints=[0, -1]), node("Reshape", "x", "s")], X, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAINST_ORT)
def test_old_form_means_what_onnx_runtime_computes(name: str) -> None:
    opset, nodes, inputs, weights = AGAINST_ORT[name]
    outputs = list(nodes[-1].output)
    model = model_of(nodes, inputs, outputs, opset, weights)
    compare(run_ours(model, inputs), run_ort(model, inputs))


_A, _B = ramp(2, 3, 4, 5), ramp(3, 4)

# Older than ONNX Runtime goes: the answer is written in numpy.
AGAINST_NUMPY = {
    "add_axis": (6, [node("Add", "x", "w", broadcast=1, axis=1)], {"x": _A}, {"w": _B}, _A + _B[:, :, None]),
    "mul_axis_negative": (6, [node("Mul", "x", "w", broadcast=1, axis=-3)], {"x": _A}, {"w": _B}, _A * _B[:, :, None]),
    "sub_trailing": (6, [node("Sub", "x", "w", broadcast=1)], {"x": _A}, {"w": ramp(5)}, _A - ramp(5)),
    "cast_by_name": (5, [node("Cast", to="INT32")], {"x": ramp(3)}, {}, ramp(3).astype(np.int32)),
    "reshape_attribute": (1, [node("Reshape", shape=[4, -1])], X, {}, X["x"].reshape(4, -1)),
    "concat_axis_1": (1, [node("Concat", "x", "x")], X, {}, np.concatenate([X["x"]] * 2, 1)),
    "pad_paddings": (
        1, [node("Pad", paddings=[0, 0, 1, 0, 0, 1], mode="constant")], X, {}, np.pad(X["x"], [(0, 0), (0, 0), (1, 1)])
    ),
    "prelu_slope": (
        6, [node("PRelu", "x", "s")], X, {"s": np.array([1, 2, 3], np.float32)},
        np.where(X["x"] < 0, X["x"] * np.array([1, 2, 3], np.float32)[:, None], X["x"]),
    ),
    "upsample_1": (
        1, [node("Upsample", height_scale=2.0, width_scale=1.0)], IMAGE, {}, np.repeat(IMAGE["x"], 2, axis=2)
    ),
    "tile_1": (
        1, [node("Tile", "x", "n", "a")], {"x": ramp(2, 3)},
        {"n": np.array([2], np.float32), "a": np.array([1], np.float32)}, np.tile(ramp(2, 3), (1, 2)),
    ),
    "relu_consumed": (1, [node("Relu", consumed_inputs=[1])], X, {}, np.maximum(X["x"], 0)),
    "selu_1": (
        1, [node("Selu")], {"x": np.array([2.0, -1.0], np.float32)}, {},
        np.array([2 * 1.0507, 1.0507 * (1.6732 * np.exp(-1.0) - 1.6732)], np.float32),
    ),
    "dropout_is_test": (6, [node("Dropout", is_test=1)], X, {}, X["x"]),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAINST_NUMPY)
def test_form_older_than_onnx_runtime(name: str) -> None:
    opset, nodes, inputs, weights, want = AGAINST_NUMPY[name]
    (got,) = run_ours(model_of(nodes, inputs, ["y"], opset, weights), inputs)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def _c(op: str, *names: str, **attributes: Any) -> onnx.NodeProto:
    return node(op, *names, domain="com.microsoft", **attributes)


_ROWS = {"x": ramp(2, 3, 4), "z": ramp(2, 3, 4)[::-1].copy()}
_NORM = {"g": ramp(4) + 1, "b": ramp(4)}

CONTRIB_CASES = {
    "fused_matmul": ([_c("FusedMatMul", "x", "z", transB=1, alpha=0.25)], _ROWS, {}),
    "gelu": ([_c("Gelu", "x")], X, {}),
    "fast_gelu": ([_c("FastGelu", "x", "b")], X, {"b": ramp(4)}),
    "bias_gelu": ([_c("BiasGelu", "x", "b")], X, {"b": ramp(4)}),
    "skip_layer_norm": ([_c("SkipLayerNormalization", "x", "z", "g", "b", epsilon=1e-5)], _ROWS, _NORM),
    "skip_simplified": ([_c("SkipSimplifiedLayerNormalization", "x", "z", "g", epsilon=1e-5)], _ROWS, _NORM),
    "fused_conv": (
        [_c("FusedConv", "x", "w", activation="LeakyRelu", activation_params=[0.2], pads=[1, 1, 1, 1])],
        IMAGE,
        {"w": ramp(3, 2, 3, 3)},
    ),
}


@pytest.mark.parametrize("name", CONTRIB_CASES)
def test_contrib_operator_means_what_onnx_runtime_computes(name: str) -> None:
    nodes, inputs, weights = CONTRIB_CASES[name]
    model = model_of(nodes, inputs, ["y"], 17, weights, contrib=True)
    got, want = run_ours(model, inputs), run_ort(model, inputs)
    # ONNX Runtime approximates erf and tanh in these operators.
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)


# Imported as a Swish, which ONNX Runtime has no kernel for.
@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.7}], ids=["default", "alpha"])
def test_quick_gelu_means_what_onnx_runtime_computes(attributes: dict[str, float]) -> None:
    model = model_of([_c("QuickGelu", "x", **attributes)], X, ["y"], 17, contrib=True)
    ctx = new_context(DIALECTS)
    got = interpret(import_onnx(model, ctx), list(X.values()), ctx)
    np.testing.assert_allclose(got[0], run_ort(model, X)[0], rtol=1e-5, atol=1e-6)


_IMAGES = {"x": ramp(2, 3, 4, 5)}
EXPERIMENTAL_CASES = {
    "affine": ("Affine", {"alpha": 2.0, "beta": 0.5}),
    "scale": ("Scale", {"scale": 3.0}),
    "image_scaler": ("ImageScaler", {"scale": 0.5, "bias": [1.0, 2.0, 3.0]}),
    "scaled_tanh": ("ScaledTanh", {"alpha": 2.0, "beta": 0.1}),
    "parametric_softplus": ("ParametricSoftplus", {"alpha": 2.0, "beta": 0.1}),
    "crop": ("Crop", {"border": [1, 0, 2, 1]}),
    "crop_to_a_size": ("Crop", {"border": [1, 1, 0, 0], "scale": [2, 3]}),
    "thresholded_relu": ("ThresholdedRelu", {"alpha": 0.5}),
    "normalised_channels": ("MeanVarianceNormalization", {}),
    "normalised_images": ("MeanVarianceNormalization", {"across_channels": 1}),
    "centred": ("MeanVarianceNormalization", {"normalize_variance": 0}),
}


@pytest.mark.parametrize("opset", [1, 7])
@pytest.mark.parametrize("name", EXPERIMENTAL_CASES)
def test_experimental_operator_means_what_onnx_runtime_computes(name: str, opset: int) -> None:
    op, attributes = EXPERIMENTAL_CASES[name]
    model = model_of([node(op, "x", **attributes)], _IMAGES, ["y"], opset)
    got, want = run_ours(model, _IMAGES), run_ort(model, _IMAGES)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["IsNaN", "IsInf"])
@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"])
def test_what_is_no_number_among_eight_bits(op: str, kind: str) -> None:
    inputs = {"x": np.array([1.0, np.nan, np.inf, -np.inf, 0.0], np.float32)}
    nodes = [
        helper.make_node("Cast", ["x"], ["e"], to=getattr(onnx.TensorProto, kind), saturate=0),
        helper.make_node(op, ["e"], ["y"]),
    ]
    model = model_of(nodes, inputs, ["y"], 20)
    (got,), (want,) = run_ours(model, inputs), run_ort(model, inputs)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
def test_numbers_of_the_shape_of_strings(op: str) -> None:
    inputs = {"x": np.array([["a", "b", "c"]], object)}
    model = model_of([node(op, "x", dtype=1)], inputs, ["y"], 20)
    (got,) = stepwell.compile(model).run(inputs).values()
    assert got.shape == (1, 3) and got.dtype == np.float32 and len(np.unique(got)) == 3
