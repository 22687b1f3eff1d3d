"""Operands whose length only the run knows: axes of any number, and shapes whose rank the file declares."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import stepwell

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def compiled(op, rank, *operands, **attributes):
    """A model of one node on `x` and vectors of any length, whose result is declared to have `rank`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c"])]
    inputs += [helper.make_tensor_value_info(n, TensorProto.INT64, [f"length_{n}"]) for n in operands]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    node = helper.make_node(op, ["x", *operands], ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return stepwell.compile(model, cache=False)


def vector(*values):
    return np.array(values, np.int64)


def test_any_number_of_axes():
    model = compiled("ReduceSum", 3, "axes")
    for axes in [(1,), (0, -1), (2, 0, 1), ()]:
        want = X.sum(axis=axes or None, keepdims=True)
        np.testing.assert_array_equal(model(X, vector(*axes)), want)


def test_no_axes_may_mean_none():
    model = compiled("ReduceSumSquare", 3, "axes", noop_with_empty_axes=1)
    np.testing.assert_array_equal(model(X, vector()), X * X)
    np.testing.assert_array_equal(model(X, vector(1)), (X * X).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("axes", [(1, 1), (3,), (-4,), (0, 1, 2, 0), (1, -2)])
def test_what_names_no_axes_ends_the_run(axes):
    with pytest.raises(stepwell.RunError):
        compiled("ReduceSum", 3, "axes")(X, vector(*axes))


def test_the_declared_rank_says_how_many_axes_go():
    model = compiled("ReduceMax", 2, "axes", keepdims=0)
    np.testing.assert_array_equal(model(X, vector(-2)), X.max(axis=1))
    with pytest.raises(stepwell.RunError):
        model(X, vector(0, 1))


def test_the_declared_rank_says_how_long_a_shape_is():
    model = compiled("Reshape", 2, "shape")
    np.testing.assert_array_equal(model(X, vector(-1, 8)), X.reshape(-1, 8))
    with pytest.raises(stepwell.RunError):
        model(X, vector(2, 3, 4))


def test_expand_to_fewer_extents_than_there_are():
    model = compiled("Expand", 3, "shape")
    np.testing.assert_array_equal(model(X[:, :1], vector(5, 1)), np.broadcast_to(X[:, :1], (2, 5, 4)))
    np.testing.assert_array_equal(model(X[:1], vector(7, 1, 1)), np.broadcast_to(X[:1], (7, 3, 4)))
    with pytest.raises(stepwell.RunError):
        model(X, vector(1, 2, 3, 4))


def test_slices_of_any_number_of_axes():
    model = compiled("Slice", 3, "starts", "ends", "axes", "steps")
    got = model(X, vector(1, -1), vector(3, -9), vector(1, 2), vector(1, -2))
    np.testing.assert_array_equal(got, X[:, 1:3, ::-2])
    np.testing.assert_array_equal(model(X, vector(1), vector(2), vector(0), vector(1)), X[1:2])
    with pytest.raises(stepwell.RunError):
        model(X, vector(1, 0), vector(2), vector(0), vector(1))


def test_pads_on_any_number_of_axes():
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode="edge")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])]
    inputs += [helper.make_tensor_value_info(n, TensorProto.INT64, [f"n_{n}"]) for n in ("pads", "axes")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 3)
    graph = helper.make_graph([node], "g", inputs, [output])
    imports = [helper.make_opsetid("", 21)]
    model = stepwell.compile(helper.make_model(graph, opset_imports=imports, ir_version=10), cache=False)
    got = model(X, vector(1, 0, 2, 3), vector(0, -1))
    np.testing.assert_array_equal(got, np.pad(X, [(1, 2), (0, 0), (0, 3)], mode="edge"))
    with pytest.raises(stepwell.RunError):
        model(X, vector(1, 0, 2), vector(0, -1))


def test_pads_that_only_the_run_knows_may_cut():
    model = compiled("Pad", 3, "pads")
    for before, after in [((-1, 0, -2), (0, 2, -1)), ((1, -3, 0), (-2, 1, 0)), ((0, 0, 0), (0, 0, 0))]:
        cut = tuple(slice(max(0, -b), n - max(0, -a)) for n, b, a in zip(X.shape, before, after, strict=True))
        want = np.pad(X[cut], [(max(0, b), max(0, a)) for b, a in zip(before, after, strict=True)])
        np.testing.assert_array_equal(model(X, vector(*before, *after)), want)
    with pytest.raises(stepwell.RunError):
        model(X, vector(-3, 0, 0, 3, 0, 0))
