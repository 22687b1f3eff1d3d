"""A sum over several axes is made of the sums of its rows, so that its rounding does not grow with its elements."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import stepwell
from stepwell.compiler import Compilation, Options


def _model(op, shape, axes):
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, shape), value("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], axes=axes, keepdims=0)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)


FORMULAS = {
    "ReduceSum": lambda x, axes: x.sum(axes),
    "ReduceMean": lambda x, axes: x.mean(axes),
    "ReduceL1": lambda x, axes: np.abs(x).sum(axes),
    "ReduceL2": lambda x, axes: np.sqrt((x * x).sum(axes)),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes),
    "ReduceLogSum": lambda x, axes: np.log(x.sum(axes)),
}


@pytest.mark.parametrize("op", FORMULAS)
@pytest.mark.parametrize(
    "declared, axes", [((2, 400, 350, 8), (0, 1, 2)), (("n", "h", "w", 8), (1, 2))], ids=str
)
def test_a_long_sum_against_float64(op, declared, axes):
    x = np.random.default_rng(3).random((2, 400, 350, 8), np.float32)
    result = stepwell.compile(_model(op, declared, axes), opt_level=2)(x)
    (y,) = result if isinstance(result, tuple | list) else (result,)
    np.testing.assert_allclose(y, FORMULAS[op](x.astype(np.float64), axes), rtol=2e-6)


@pytest.mark.parametrize(
    "op, shape, axes, steps",
    [
        ("ReduceMean", (1, 7, 7, 64), (1, 2), 1),
        ("ReduceMean", (1, 65, 64, 64), (1, 2), 2),
        ("ReduceMean", (1, "h", "w", 64), (1, 2), 2),
        ("ReduceMean", (8, 100000), (1,), 1),
        ("ReduceMax", (1, 300, 300, 64), (1, 2), 1),
    ],
)
def test_only_long_sums_take_two_steps(op, shape, axes, steps):
    compilation = Compilation(Options(opt_level=2))
    compilation.read(_model(op, shape, axes))
    module = compilation.lower_to("tensor")
    generics = [op for op in module.walk() if op.name == "linalg.generic"]
    assert sum("reduction" in str(op.iterator_types) for op in generics) == steps
