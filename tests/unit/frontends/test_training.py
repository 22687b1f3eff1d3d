"""Gradients against finite differences, and steps of optimisers at their first update against numpy."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from stepwell.compat import new_context
from stepwell.errors import UnsupportedError
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS

_RANDOM = np.random.default_rng(11)
TRAINING = "ai.onnx.preview.training"


def doubles(*shape: int) -> np.ndarray:
    return _RANDOM.uniform(0.3, 1.7, shape)


def run(nodes: list[onnx.NodeProto], inputs: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in inputs.items()
    ]
    graph = helper.make_graph(nodes, "g", values, [onnx.ValueInfoProto(name=n) for n in outputs])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(TRAINING, 1)]
    ctx = new_context(DIALECTS)
    module = import_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=9), ctx)
    return interpret(module, list(inputs.values()), ctx)


def node(op: str, *names: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(names), [to], **attributes)


X = {"x": doubles(3, 4)}
PAIR = {"x": doubles(2, 3, 4), "w": doubles(3, 1)}
AXES = node("Constant", to="axes", value_ints=[-1])
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    **{op.lower(): ([node(op, "x", "w")], PAIR) for op in ("Add", "Sub", "Mul", "Div")},
    **{op.lower(): ([node(op, "x")], X) for op in ("Neg", "Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Identity")},
    "relu": ([node("Log", "x", to="l"), node("Relu", "l")], X),
    "matmul": ([node("MatMul", "x", "w")], {"x": doubles(2, 3, 4), "w": doubles(4, 5)}),
    "transpose": ([node("Transpose", "x", to="t", perm=[1, 2, 0]), node("Mul", "t", "t")], {"x": doubles(2, 3, 4)}),
    "sum": ([AXES, node("ReduceSum", "x", "axes", to="s", keepdims=0), node("Exp", "s")], X),
    "mean": ([node("ReduceMean", "x", to="s"), node("Mul", "s", "x")], X),
    "reshape": ([AXES, node("Reshape", "x", "axes", to="r"), node("Exp", "r")], X),
    "layers": (
        [
            node("MatMul", "x", "w", to="a"), node("Tanh", "a", to="b"), node("Add", "b", "c", to="d"),
            node("Mul", "d", "b", to="e"), node("Sigmoid", "e"),
        ],
        {"x": doubles(3, 4), "w": doubles(4, 5), "c": doubles(5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_finite_differences(name: str) -> None:
    nodes, inputs = CASES[name]
    names = list(inputs)
    results = [f"d_{n}" for n in names]
    gradient = helper.make_node("Gradient", names, results, domain=TRAINING, xs=names, y="y")
    found = run([*nodes, gradient], inputs, results)
    step = 1e-6
    for key, got in zip(names, found, strict=True):
        assert got.shape == inputs[key].shape
        for place in np.ndindex(*got.shape):
            ends = []
            for sign in (step, -step):
                moved = {n: x.copy() for n, x in inputs.items()}
                moved[key][place] += sign
                ends.append(run(nodes, moved, ["y"])[0].sum())
            assert abs((ends[0] - ends[1]) / (2 * step) - got[place]) < 1e-6 * max(1.0, abs(got[place]))
            if got.size > 12 and sum(place) > 2:
                break  # a few entries of a large tensor


def test_what_has_no_gradient_is_refused() -> None:
    gradient = helper.make_node("Gradient", ["x"], ["d"], domain=TRAINING, xs=["x"], y="y")
    with pytest.raises(UnsupportedError, match=r"the gradient of graph.floor"):
        run([node("Floor", "x"), gradient], X, ["d"])
    other = helper.make_node("Gradient", ["y"], ["d"], domain=TRAINING, xs=["x"], y="y")
    with pytest.raises(UnsupportedError, match="a gradient at other values"):
        run([node("Exp", "x"), other], X, ["d"])


@pytest.mark.parametrize("count", [0, 3])
def test_adam_corrects_its_rate_from_the_first_update_on(count: int) -> None:
    x, g, v, h = (doubles(4).astype(np.float32) for _ in range(4))
    inputs = {"r": np.array(0.1, np.float32), "t": np.array(count), "x": x, "g": g, "v": v, "h": h}
    made = helper.make_node(
        "Adam", list(inputs), ["x1", "v1", "h1"], domain=TRAINING, alpha=0.9, beta=0.8, epsilon=1e-3
    )
    got = run([made], inputs, ["x1", "v1", "h1"])
    v1, h1 = 0.9 * v + 0.1 * g, 0.8 * h + 0.2 * g * g
    rate = 0.1 if count == 0 else 0.1 * np.sqrt(1 - 0.8**count) / (1 - 0.9**count)
    want = (x - rate * v1 / (np.sqrt(h1) + 1e-3), v1, h1)
    for have, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(have, expected, rtol=1e-5)
