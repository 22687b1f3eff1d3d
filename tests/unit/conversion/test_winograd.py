"""Winograd's algorithm: its matrices, and its lowering interpreted and run against ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import stepwell
from stepwell.compat import new_context
from stepwell.compiler import Compilation, Options
from stepwell.conversion.graph_to_linalg import GraphToLinalgPass
from stepwell.conversion.graph_to_linalg.winograd import transformed_filters, transforms
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.pipelines import PIPELINES
from stepwell.registry import DIALECTS
from stepwell.transforms.graph.choose_convolution import ChooseConvolutionPass
from stepwell.transforms.graph.infer_shapes import InferShapesPass
from stepwell.transforms.set_target import SetTargetPass
from stepwell.verification import verify_module
from tests.native import needs_clang

_RANDOM = np.random.default_rng(11)
_EPSILON = {2: 4e-6, 4: 1e-5}
"""Error over the largest result: 2^-24 times the amplification of the transforms, 8 and 25, times a few roundings."""


def network(channels: int, out: int, shape: list, pads: list[int], residual: bool = False) -> ModelProto:
    weights = {
        "w": _RANDOM.standard_normal((out, channels, 3, 3)).astype(np.float32),
        "b": _RANDOM.standard_normal(out).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=pads, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["s" if residual else "c"], ["y"]),
    ]
    if residual:
        nodes.insert(1, helper.make_node("Add", ["c", "x"], ["s"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def reference(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def image(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("tile", [2, 4])
def test_matrices_are_a_correlation(tile):
    a, g, b = transforms(tile)
    taps, data = _RANDOM.standard_normal(3), _RANDOM.standard_normal(tile + 2)
    got = a @ ((g @ taps) * (b @ data))
    np.testing.assert_allclose(got, np.correlate(data, taps, "valid"), rtol=0, atol=1e-13)


def test_matrices_of_data_are_exact_in_single_precision():
    for tile in (2, 4):
        a, _, b = transforms(tile)
        assert (a.astype(np.float32) == a).all() and (b.astype(np.float32) == b).all()


def test_filters_are_transformed_in_double_precision():
    weights = _RANDOM.standard_normal((3, 2, 3, 3)).astype(np.float32)
    g = transforms(4)[1]
    want = np.array([[g @ weights[o, c].astype(np.float64) @ g.T for o in range(3)] for c in range(2)])
    got = transformed_filters(weights, 4)
    assert got.shape == (36, 2, 3) and got.dtype == np.float32
    np.testing.assert_allclose(got, want.reshape(2, 3, 36).transpose(2, 0, 1), rtol=2**-24, atol=1e-14)


CASES = [
    ((1, 8, 8, 8), [1, 1, 1, 1]),
    ((2, 3, 7, 9), [1, 1, 1, 1]),
    ((1, 4, 13, 6), [0, 0, 0, 0]),
    ((1, 5, 5, 5), [2, 0, 1, 3]),
    ((1, 2, 3, 4), [0, 0, 0, 0]),
]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("tile", ["2", "4"])
@pytest.mark.parametrize("shape, pads", CASES)
def test_lowering_agrees_with_onnxruntime(shape, pads, tile, dynamic):
    declared = ["n", shape[1], "h", "w"] if dynamic else list(shape)
    model = network(shape[1], 6, declared, pads)
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    SetTargetPass().apply(ctx, module)
    InferShapesPass().apply(ctx, module)
    ChooseConvolutionPass(tile).apply(ctx, module)
    GraphToLinalgPass().apply(ctx, module)
    verify_module(module)
    x = image(*shape)
    want = reference(model, x)
    (got,) = interpret(module, [x], ctx)
    np.testing.assert_allclose(got, want, rtol=0, atol=_EPSILON[int(tile)] * np.abs(want).max())


@needs_clang
@pytest.mark.parametrize("tile", ["2", "4"])
def test_compiled_code_agrees_with_onnxruntime(tile, monkeypatch):
    text = PIPELINES["graph-O3"]
    monkeypatch.setitem(
        PIPELINES, "graph-O3", text.replace("choose-convolution", f"choose-convolution{{tile={tile}}}")
    )
    fixed = network(16, 16, [1, 16, 15, 22], [1, 1, 1, 1], residual=True)
    free = network(24, 40, ["n", 24, "h", "w"], [1, 1, 1, 1])
    for model, shapes in ((fixed, [(1, 16, 15, 22)]), (free, [(1, 24, 9, 14), (3, 24, 8, 5), (1, 24, 1, 1)])):
        compiled = stepwell.compile(model, cache=False)
        for shape in shapes:
            x = image(*shape)
            want = reference(model, x)
            np.testing.assert_allclose(
                compiled(x), want, rtol=0, atol=_EPSILON[int(tile)] * np.abs(want).max()
            )


def test_strict_and_unoptimised_code_is_direct():
    model = network(128, 128, [1, 128, 56, 56], [1, 1, 1, 1])
    for options, is_direct in (
        (Options(fp="strict"), True),
        (Options(opt_level=1), True),
        (Options(), False),
    ):
        compilation = Compilation(options)
        compilation.read(model)
        text = str(compilation.lower_to("graph"))
        assert ("winograd" not in text) == is_direct
