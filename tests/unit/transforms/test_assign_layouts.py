"""`assign-layouts` keeps what a network computes, at the graph level and lowered."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stepwell.compat import new_context
from stepwell.conversion.graph_to_linalg import GraphToLinalgPass
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS
from stepwell.transforms.graph.assign_layouts import AssignLayoutsPass
from stepwell.transforms.graph.fold_transposes import FoldTransposesPass
from stepwell.verification import verify_module

_RANDOM = np.random.default_rng(3)


class Net:
    """A network of ONNX nodes on an image of small integers."""

    def __init__(self, *shape: int):
        self.nodes, self.weights, self.shape = [], [], shape

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def small(self, *shape: int) -> str:
        return self.weight(_RANDOM.integers(-2, 3, shape).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.weight(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, into: int, out: int, **attributes: object) -> str:
        return self.add("Conv", x, self.small(out, into, 3, 3), pads=[1, 1, 1, 1], **attributes)

    def model(self, output: str) -> ModelProto:
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shape))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], self.weights,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _residual(n: Net) -> str:
    a = n.conv("x", 3, 4)
    b = n.add("Relu", n.conv(a, 4, 4))
    return n.add("Add", a, b)


def _squeeze_and_excite(n: Net) -> str:
    a = n.conv("x", 3, 4)
    g = n.add("GlobalAveragePool", a)
    s = n.add("Conv", g, n.small(4, 4, 1, 1))
    return n.add("Mul", a, n.add("HardSigmoid", s))


def _bias_of_rank_3(n: Net) -> str:
    a = n.conv("x", 3, 4)
    return n.add("PRelu", n.add("Add", a, n.small(4, 1, 1)), n.small(4, 1, 1))


def _pads_and_slices(n: Net) -> str:
    a = n.conv("x", 3, 4)
    p = n.add("Pad", a, n.ints(0, 1, 2, 0, 0, 0, 1, 3))
    s = n.add("Slice", p, n.ints(1, 0), n.ints(9, 3), n.ints(2, 1))
    return n.add("Relu", s)


def _upsampled_concat(n: Net) -> str:
    a = n.conv("x", 3, 4, strides=[2, 2])
    u = n.add(
        "Resize", a, "", n.weight(np.array([1, 1, 2, 2], np.float32)),
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    return n.conv(n.add("Concat", u, n.conv("x", 3, 2), axis=1), 6, 3)


def _means(n: Net) -> str:
    a = n.conv("x", 3, 4)
    m = n.add("ReduceMax", a, n.ints(1), keepdims=1)
    flat = n.add("ReduceMax", n.add("Mul", a, m), n.ints(2, 3), keepdims=0)
    return n.add("MatMul", flat, n.small(4, 5))


def _shuffled(n: Net) -> str:
    a = n.conv("x", 3, 4)
    r = n.add("Reshape", a, n.ints(1, 2, 2, 8, 8))
    t = n.add("Transpose", r, perm=[0, 2, 1, 3, 4])
    return n.conv(n.add("Reshape", t, n.ints(1, 4, 8, 8)), 4, 2)


def _to_sequence(n: Net) -> str:
    a = n.conv("x", 3, 4)
    return n.add("Transpose", n.add("Reshape", a, n.ints(1, 4, -1)), perm=[0, 2, 1])


def _compared_with_more_axes(n: Net) -> str:
    a = n.conv("x", 3, 4)
    return n.add("Mul", a, n.small(2, 1, 1, 1, 1))


def _already_last(n: Net) -> str:
    return n.add("Transpose", n.conv("x", 3, 4), perm=[0, 2, 3, 1])


@pytest.mark.parametrize(
    "net",
    [
        _residual, _squeeze_and_excite, _bias_of_rank_3, _pads_and_slices, _upsampled_concat, _means, _shuffled,
        _to_sequence, _compared_with_more_axes, _already_last,
    ],
)  # fmt: skip
def test_keeps_results(net: Callable[[Net], str]):
    network = Net(1, 3, 8, 8)
    model = network.model(net(network))
    x = _RANDOM.integers(-2, 3, (1, 3, 8, 8)).astype(np.float32)
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    (want,) = interpret(module, [x], ctx)
    AssignLayoutsPass().apply(ctx, module)
    FoldTransposesPass().apply(ctx, module)
    verify_module(module)
    (laid_out,) = interpret(module, [x], ctx)
    GraphToLinalgPass().apply(ctx, module)
    (lowered,) = interpret(module, [x], ctx)
    assert laid_out.shape == lowered.shape == want.shape
    np.testing.assert_allclose(laid_out, want, rtol=1e-6)
    np.testing.assert_allclose(lowered, want, rtol=1e-6)


def test_transposes_only_at_borders():
    network = Net(1, 3, 8, 8)
    model = network.model(_upsampled_concat(network))
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    AssignLayoutsPass().apply(ctx, module)
    FoldTransposesPass().apply(ctx, module)
    assert sum(op.name == "graph.transpose" for op in module.walk()) == 2
