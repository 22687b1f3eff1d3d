"""Every decomposition against the operator that it stands for, both run by ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import pytest
from graph_runner import run_with_onnxruntime
from onnx import helper

from stepwell.compat import new_context
from stepwell.dialects.graph import GraphOp
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter.graph import interpret
from stepwell.registry import DIALECTS
from stepwell.transforms.graph.graph_decompose import _RULES, GraphDecomposePass
from stepwell.transforms.graph.infer_shapes import InferShapesPass
from stepwell.transforms.graph.simplify_graph import SimplifyGraphPass


def ramp(*shape: int) -> np.ndarray:
    """Values that differ, of both signs."""
    return ((np.arange(np.prod(shape)) * 7 % 23 - 11) / 4).astype(np.float32).reshape(shape)


def node(op: str, *names: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(names) or ["x"], list(outputs), **attributes)


def model_of(
    node: onnx.NodeProto, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], opset: int = 22
) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in inputs.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    tensors = [onnx.numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph([node], "g", values, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


X, IMAGE, MATRIX = {"x": ramp(2, 3, 4)}, {"x": ramp(1, 4, 6, 6)}, {"x": ramp(4, 5)}
BYTES = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4) * 9}
_AXES = {"ax": np.array([1, -1])}
_CHANNELS = {"a": ramp(4), "b": ramp(4), "c": ramp(4), "d": np.arange(1, 5, dtype=np.float32)}
_QUANTISED = {
    "xs": np.array(0.1, np.float32), "xz": np.array(7, np.uint8), "ws": np.array(0.2, np.float32),
    "wz": np.array(50, np.uint8), "ys": np.array(3.0, np.float32), "yz": np.array(100, np.uint8),
    "w": np.arange(20, dtype=np.uint8).reshape(4, 5) * 5,
}  # fmt: skip

CASES: dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray], dict[str, np.ndarray]]] = {
    "sum": (node("Sum", "x", "x", "x"), X, {}),
    "mean": (node("Mean", "x", "x", "w"), X, {"w": ramp(3, 1)}),
    "max": (node("Max", "x", "a", "w"), X, {"a": ramp(4), "w": ramp(3, 1)}),
    "prelu": (node("PRelu", "x", "a"), X, {"a": ramp(4)}),
    "cast_like": (node("CastLike", "x", "t"), X, {"t": np.array(1)}),
    "size": (node("Size"), X, {}),
    "gemm": (node("Gemm", "x", "w", "c", transB=1, alpha=0.5, beta=2.0), MATRIX, {"w": ramp(3, 5), "c": ramp(3)}),
    "gemm_trans_a": (node("Gemm", "x", "w", transA=1), MATRIX, {"w": ramp(4, 3)}),
    "global_average_pool": (node("GlobalAveragePool"), IMAGE, {}),
    "global_max_pool": (node("GlobalMaxPool"), IMAGE, {}),
    "lp_normalization_1": (node("LpNormalization", p=1, axis=1), X, {}),
    "lp_normalization_2": (node("LpNormalization", p=2), X, {}),
    "reduce_l1": (node("ReduceL1", "x", "ax", keepdims=0), X, _AXES),
    "reduce_l2": (node("ReduceL2", "x", "ax"), X, _AXES),
    "reduce_sum_square": (node("ReduceSumSquare", "x", "ax", keepdims=0), X, _AXES),
    "reduce_log_sum_exp": (node("ReduceLogSumExp", "x", "ax", keepdims=0), X, _AXES),
    "reduce_log_sum_exp_all": (node("ReduceLogSumExp", keepdims=0), X, {}),
    "batch_normalization": (node("BatchNormalization", "x", "a", "b", "c", "d"), IMAGE, _CHANNELS),
    "instance_normalization": (node("InstanceNormalization", "x", "a", "b"), IMAGE, _CHANNELS),
    "group_normalization": (node("GroupNormalization", "x", "a", "b", num_groups=2), IMAGE, _CHANNELS),
    "mean_variance_normalization": (node("MeanVarianceNormalization"), IMAGE, {}),
    "depth_to_space_dcr": (node("DepthToSpace", blocksize=2), IMAGE, {}),
    "depth_to_space_crd": (node("DepthToSpace", blocksize=2, mode="CRD"), IMAGE, {}),
    "space_to_depth": (node("SpaceToDepth", blocksize=3), IMAGE, {}),
    "dynamic_quantize_linear": (node("DynamicQuantizeLinear", outputs=("y", "s", "z")), X, {}),
    "matmul_integer": (
        node("MatMulInteger", "x", "w", "z"), BYTES,
        {"w": np.arange(20, dtype=np.int8).reshape(4, 5) - 9, "z": np.array(7, np.uint8)},
    ),
    "qlinear_matmul": (node("QLinearMatMul", "x", "xs", "xz", "w", "ws", "wz", "ys", "yz"), BYTES, _QUANTISED),
}  # fmt: skip

_EINSUMS = {
    "ij,jk->ik": [(2, 3), (3, 4)],
    "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)],
    "ii->i": [(3, 3)],
    "ij->ji": [(2, 3)],
    "ij->": [(2, 3)],
    "bhid,bhjd->bhij": [(2, 3, 4, 5), (2, 3, 6, 5)],
    "...ij,jk->...ik": [(2, 3, 4), (4, 5)],
    "i,j->ij": [(2,), (3,)],
    "ij,jk,kl->il": [(2, 3), (3, 4), (4, 5)],
    "bhwc,hkc->bhwk": [(2, 3, 4, 5), (3, 6, 5)],
    "iji->j": [(3, 2, 3)],
    "ij,ij->i": [(2, 3), (2, 3)],
    "abc,cd": [(2, 3, 4), (4, 5)],
    "i,i->": [(4,), (4,)],
    "abi,aci->abc": [(2, 1, 4), (2, 3, 4)],
}
for _equation, _shapes in _EINSUMS.items():
    _inputs = {f"x{place}": ramp(*shape) for place, shape in enumerate(_shapes)}
    CASES[f"einsum {_equation}"] = (node("Einsum", *_inputs, equation=_equation), _inputs, {})


def check_decomposition(
    node: onnx.NodeProto,
    inputs: dict[str, np.ndarray],
    want: list[Any],
    weights: dict[str, np.ndarray],
    opset: int,
) -> None:
    ctx = new_context(DIALECTS)
    module = import_onnx(model_of(node, inputs, weights, opset), ctx)
    for passes in (GraphDecomposePass(), SimplifyGraphPass(), InferShapesPass()):
        passes.apply(ctx, module)
        module.verify()
        left = {op.ONNX_NAME for op in module.walk() if isinstance(op, GraphOp)} & set(_RULES) - {
            "Max",
            "Min",
        }
        assert not left
        got = run_with_onnxruntime(module, ctx, list(inputs.values()))
        for ours, theirs in zip(got, want, strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_decomposition_means_the_operator(name: str) -> None:
    node, inputs, weights = CASES[name]
    ctx = new_context(DIALECTS)
    whole = import_onnx(model_of(node, inputs, weights), ctx)
    check_decomposition(node, inputs, run_with_onnxruntime(whole, ctx, list(inputs.values())), weights, 22)


# ONNX Runtime has no kernel for these.
def test_operators_without_a_reference_kernel() -> None:
    x = ramp(1, 2, 3, 3)
    want = (np.abs(x.astype(np.float64)) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    check_decomposition(node("GlobalLpPool", p=3), {"x": x}, [want.astype(np.float32)], {}, 22)


def test_batch_normalization_of_several_element_types() -> None:
    """The image in half, its statistics in single precision: computed in single precision, rounded once."""
    image = ramp(1, 4, 6, 6)
    call = node("BatchNormalization", "x", "a", "b", "c", "d")
    halves = model_of(call, {"x": image.astype(np.float16), **_CHANNELS}, {})
    halves.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    singles = model_of(call, {"x": image, **_CHANNELS}, {})
    results = []
    for model, x in ((halves, image.astype(np.float16)), (singles, image)):
        ctx = new_context(DIALECTS)
        module = import_onnx(model, ctx)
        GraphDecomposePass().apply(ctx, module)
        module.verify()
        results.append(interpret(module, [x, *_CHANNELS.values()])[0])
    assert results[0].dtype == np.float16
    assert np.array_equal(results[0], results[1].astype(np.float16))


@pytest.mark.parametrize(
    "name", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]
)
def test_reductions_of_integers(name: str) -> None:
    """Roots and logarithms of integers are computed in f64 and truncated."""
    x = np.array([[1, 2, 3], [14, 5, 6]], np.int32)
    model = model_of(node(name, "x", "axes"), {"x": x}, {"axes": np.array([1])}, opset=18)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    before = interpret(module, [x])[0]
    GraphDecomposePass().apply(ctx, module)
    module.verify()
    after = interpret(module, [x])[0]
    wide = x.astype(np.float64)
    want = {
        "ReduceL1": np.abs(wide).sum(1),
        "ReduceL2": np.sqrt((wide * wide).sum(1)),
        "ReduceSumSquare": (wide * wide).sum(1),
        "ReduceLogSum": np.log(wide.sum(1)),
        "ReduceLogSumExp": np.log(np.exp(wide).sum(1)),
    }[name]
    assert np.array_equal(before, after)
    assert np.array_equal(after.ravel(), want.astype(np.int32))
