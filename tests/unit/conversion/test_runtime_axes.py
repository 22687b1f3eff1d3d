"""Axes and steps that are inputs of the model: the right elements, and an error for axes that are none."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import stepwell


def compiled(operator, inputs, rank, **attributes):
    node = helper.make_node(operator, [name for name, _, _ in inputs], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "axes",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{i}" for i in range(rank)])],
    )
    opset = [helper.make_opsetid("", 18)]
    return stepwell.compile(helper.make_model(graph, opset_imports=opset, ir_version=9), cache=False)


X = ("x", TensorProto.FLOAT, [2, 3, 4])
x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def axes(*values):
    return np.array(values, np.int64)


def test_one_library_reduces_over_any_axes():
    model = compiled("ReduceSum", [X, ("axes", TensorProto.INT64, [2])], 1, keepdims=0)
    for pair in [(0, 1), (2, 0), (-1, 1)]:
        np.testing.assert_array_equal(model(x, axes(*pair)), x.sum(pair))
    with pytest.raises(stepwell.RunError, match="outside"):
        model(x, axes(0, 3))
    with pytest.raises(stepwell.RunError, match="twice"):
        model(x, axes(1, -2))


def test_one_library_slices_any_way():
    entries = [("starts", 2), ("ends", 2), ("axes", 2), ("steps", 2)]
    model = compiled("Slice", [X, *((n, TensorProto.INT64, [k]) for n, k in entries)], 3)
    far = np.iinfo(np.int64)
    got = model(x, axes(-1, 1), axes(far.min, far.max), axes(2, 1), axes(-2, 1))
    np.testing.assert_array_equal(got, x[:, 1:, ::-2])
    got = model(x, axes(5, 0), axes(9, 2), axes(0, 2), axes(far.max, 3))
    np.testing.assert_array_equal(got, x[5:9, :, 0:2:3])
    with pytest.raises(stepwell.RunError, match="step"):
        model(x, axes(0, 0), axes(1, 1), axes(0, 1), axes(1, 0))


def test_squeeze_drops_only_extents_of_one():
    model = compiled("Squeeze", [("x", TensorProto.FLOAT, [2, 1, 4, 1]), ("axes", TensorProto.INT64, [1])], 3)
    value = x[:, :1, :, None]
    for axis in (1, -1):
        np.testing.assert_array_equal(model(value, axes(axis)), value.squeeze(axis))
    with pytest.raises(stepwell.RunError, match="extent"):
        model(value, axes(0))
