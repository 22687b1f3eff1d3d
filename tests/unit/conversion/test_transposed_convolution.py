"""Transposed convolutions with a stride, interpreted and run against ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from xdsl.context import Context
from xdsl.dialects import tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.linalg.ops import FillOp

import stepwell
from stepwell.compat import new_context
from stepwell.conversion.graph_to_linalg import GraphToLinalgPass
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS
from stepwell.transforms.graph.infer_shapes import InferShapesPass
from stepwell.transforms.set_target import SetTargetPass
from tests.native import needs_clang

_RANDOM = np.random.default_rng(5)
_IC, _OC = 5, 7

CASES = [
    ([5, 6], {"kernel": [2, 2], "strides": [2, 2]}),
    ([5, 6], {"kernel": [3, 3], "strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}),
    ([5, 6], {"kernel": [4, 4], "strides": [2, 2], "pads": [1] * 4}),
    ([4, 6], {"kernel": [2, 3], "strides": [3, 2], "pads": [0, 2, 1, 1], "output_padding": [0, 1]}),
    ([3, 4], {"kernel": [2, 2], "strides": [3, 3], "pads": [4, 4, 0, 0]}),
    ([7], {"kernel": [5], "strides": [3], "pads": [2, 1], "output_padding": [1]}),
    ([4, 3, 5], {"kernel": [3, 2, 1], "strides": [2, 3, 1], "pads": [1, 0, 0, 0, 1, 0]}),
]


def network(spatial: list, kernel: list[int], bias: bool, **attributes) -> ModelProto:
    weights = {"w": _RANDOM.standard_normal((_IC, _OC, *kernel)).astype(np.float32)}
    if bias:
        weights["b"] = _RANDOM.standard_normal(_OC).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", *weights], ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _IC, *spatial])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def reference(model: ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def image(spatial: list[int]) -> np.ndarray:
    return _RANDOM.standard_normal((2, _IC, *spatial)).astype(np.float32)


def lowered(model: ModelProto, context: Context) -> ModuleOp:
    module = import_onnx(model, context)
    for step in (SetTargetPass(), InferShapesPass(), GraphToLinalgPass()):
        step.apply(context, module)
    module.verify()
    return module


@pytest.mark.parametrize("spatial, attributes", CASES)
def test_interpreted(spatial, attributes):
    model, x = network(spatial, bias=True, **attributes), image(spatial)
    context = new_context(DIALECTS)
    (got,) = interpret(lowered(model, context), [x], context)
    want = reference(model, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_no_zeros_are_put_between():
    model = network([5, 6], kernel=[4, 4], bias=False, strides=[2, 2], pads=[1] * 4)
    module = lowered(model, new_context(DIALECTS))
    assert not any(isinstance(op, tensor.InsertSliceOp) for op in module.walk())
    assert sum(isinstance(op, FillOp) for op in module.walk()) == 1, "the accumulators' zero alone"


@needs_clang
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("spatial, attributes", CASES[:4])
def test_compiled(spatial, attributes, unknown):
    model = network([f"d{i}" for i in range(2)] if unknown else spatial, bias=unknown, **attributes)
    x = image(spatial)
    got = next(iter(stepwell.compile(model).run({"x": x}).values()))
    want = reference(model, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())
