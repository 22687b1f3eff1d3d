"""Small models, each of which shows some of the mistakes of the corpus."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def build(
    nodes: Sequence[tuple[str, str, str, Mapping[str, Any]]],
    inputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, np.ndarray] = {},
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A model of `nodes`: operator, names of inputs, names of outputs, attributes."""
    made = [
        helper.make_node(kind, given.split(), results.split(), name=f"{kind}_{i}", **attributes)
        for i, (kind, given, results, attributes) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def transposes() -> onnx.ModelProto:
    return build(
        [
            ("Abs", "x", "a", {}),
            ("Transpose", "a", "b", {"perm": [1, 2, 0]}),
            ("Transpose", "b", "c", {"perm": [0, 2, 1]}),
            ("Mul", "c w", "d", {}),
            ("Tanh", "d", "y", {}),
        ],
        {"x": [2, 3, 4]},
        {"w": _random(2, 4)},
    )


def convolutions() -> onnx.ModelProto:
    """Convolution, batch normalisation with a large epsilon, padding, a second convolution."""
    return build(
        [
            ("Conv", "x w0 b0", "c0", {"pads": [1, 1, 1, 1]}),
            ("BatchNormalization", "c0 s t m v", "n0", {"epsilon": 0.25}),
            ("Relu", "n0", "r0", {}),
            ("Conv", "r0 w1", "c1", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
            ("Add", "c1 b1", "a1", {}),
            ("Sigmoid", "a1", "y", {}),
        ],
        {"x": [1, 3, 6, 8]},
        {
            "w0": _random(4, 3, 3, 3), "b0": _random(4), "s": _random(4), "t": _random(4), "m": _random(4),
            "v": np.full(4, 0.3, np.float32), "w1": _random(5, 4, 3, 3), "b1": _random(5, 1, 1),
        },
    )  # fmt: skip


def subtraction() -> onnx.ModelProto:
    return build(
        [
            ("Exp", "x", "e", {}),
            ("Sub", "zero e", "n", {}),
            ("Mul", "n w", "m", {}),
            ("Add", "m x", "y", {}),
        ],
        {"x": [3, 5]},
        {"zero": np.zeros((), np.float32), "w": _random(5)},
    )


def pooling() -> onnx.ModelProto:
    """A window that misses one element of each axis, over negative numbers."""
    return build(
        [
            ("Abs", "x", "a", {}),
            ("Neg", "a", "n", {}),
            ("MaxPool", "n", "p", {"kernel_shape": [3, 3], "strides": [2, 2]}),
            ("AveragePool", "n", "q", {"kernel_shape": [3, 3], "strides": [2, 2]}),
            ("Add", "p q", "y", {}),
        ],
        {"x": [1, 2, 4, 4]},
    )


def gemm() -> onnx.ModelProto:
    return build(
        [
            ("Gemm", "x w b", "g", {"alpha": 0.5, "beta": 3.0, "transB": 1}),
            ("Tanh", "g", "t", {}),
            ("Softmax", "t", "y", {"axis": -1}),
        ],
        {"x": [4, 6]},
        {"w": _random(5, 6), "b": _random(5)},
    )


def constants() -> onnx.ModelProto:
    """Operators on constants only, and constants that differ in their middle."""
    return build(
        [
            ("Add", "c c", "d", {}),
            ("Mul", "x d", "m", {}),
            ("Sub", "m e", "n", {}),
            ("Relu", "n", "y", {}),
        ],
        {"x": [4, 3]},
        {"c": np.array([0.3, 1.7, -2.2], np.float32), "e": np.array([1.0, 5.0, 1.0], np.float32)},
    )


def two_slopes() -> onnx.ModelProto:
    return build(
        [
            ("Sin", "x", "s", {}),
            ("LeakyRelu", "s", "a", {"alpha": 0.1}),
            ("LeakyRelu", "s", "b", {"alpha": 0.7}),
            ("Sub", "a b", "c", {}),
            ("Add", "c x", "y", {}),
        ],
        {"x": [4, 7]},
    )


def normalised() -> onnx.ModelProto:
    """A row normalisation with a large epsilon between two products."""
    return build(
        [
            ("MatMul", "x w0", "m0", {}),
            ("LayerNormalization", "m0 s t", "n", {"axis": -1, "epsilon": 2.0}),
            ("Tanh", "n", "h", {}),
            ("MatMul", "h w1", "y", {}),
        ],
        {"x": [5, 20]},
        {"w0": _random(20, 70), "s": _random(70), "t": _random(70, 1)[:, 0], "w1": _random(70, 9)},
    )


def pieces() -> onnx.ModelProto:
    """Parts put together, taken apart and read at negative places."""
    return build(
        [
            ("Relu", "x", "a", {}),
            ("Neg", "z", "b", {}),
            ("Concat", "a b", "c", {"axis": 1}),
            ("Gather", "c at", "g", {"axis": 1}),
            ("Clip", "g low high", "y", {}),
        ],
        {"x": [2, 4], "z": [2, 3]},
        {
            "at": np.array([0, -1, 3, -2], np.int64), "low": np.array(-0.5, np.float32),
            "high": np.array(1.0, np.float32),
        },
    )  # fmt: skip


def turned() -> onnx.ModelProto:
    """An element-wise chain that reads a square both ways."""
    return build(
        [
            ("Exp", "x", "a", {}),
            ("Transpose", "a", "b", {"perm": [1, 0]}),
            ("Add", "b x", "c", {}),
            ("Tanh", "c", "y", {}),
        ],
        {"x": [5, 5]},
    )


def reshaped() -> onnx.ModelProto:
    """Reshapes that only add and drop extents of 1."""
    return build(
        [
            ("Exp", "x", "e", {}),
            ("ReduceSum", "e axes", "s", {"keepdims": 1}),
            ("Reshape", "s shape", "r", {}),
            ("Mul", "x r", "y", {}),
        ],
        {"x": [3, 5]},
        {"axes": np.array([0], np.int64), "shape": np.array([1, 5], np.int64)},
    )


def matmuls() -> onnx.ModelProto:
    """A product that does not fill its tiles, and small weights."""
    return build(
        [
            ("MatMul", "x w0", "m0", {}),
            ("LeakyRelu", "m0", "r0", {"alpha": 0.1}),
            ("MatMul", "r0 w1", "m1", {}),
            ("LeakyRelu", "m1", "r1", {"alpha": 0.6}),
            ("Add", "r1 x", "y", {}),
        ],
        {"x": [13, 24]},
        {"w0": _random(24, 24) * np.float32(0.05), "w1": _random(24, 24)},
    )


def two_layers() -> onnx.ModelProto:
    """Two layers that differ in one number."""
    return build(
        [
            ("MatMul", "x w0", "m0", {}),
            ("LeakyRelu", "m0", "r0", {"alpha": 0.1}),
            ("MatMul", "r0 w1", "m1", {}),
            ("LeakyRelu", "m1", "y", {"alpha": 0.6}),
        ],
        {"x": [4, 16]},
        {"w0": _random(16, 16), "w1": _random(16, 16)},
    )


def tall() -> onnx.ModelProto:
    """A chain of products with more rows than a tile."""
    return build(
        [
            ("MatMul", "x w0", "m0", {}),
            ("Tanh", "m0", "t0", {}),
            ("MatMul", "t0 w1", "m1", {}),
            ("Tanh", "m1", "t1", {}),
            ("MatMul", "t1 w0", "y", {}),
        ],
        {"x": [53, 24]},
        {"w0": _random(24, 24), "w1": _random(24, 24)},
    )


def squares() -> onnx.ModelProto:
    """Products that read all of a buffer for each row that they write."""
    return build(
        [
            ("Tanh", "x", "t", {}),
            ("MatMul", "t t", "p", {}),
            ("MatMul", "p p", "q", {}),
            ("MatMul", "q q", "y", {}),
        ],
        {"x": [9, 9]},
    )


def wide_rows() -> onnx.ModelProto:
    """Reductions over rows that are no whole number of vectors, of negative numbers."""
    return build(
        [
            ("Abs", "x", "a", {}),
            ("Neg", "a", "n", {}),
            ("ReduceMax", "n", "m", {"axes": [1], "keepdims": 1}),
            ("Sub", "n m", "d", {}),
            ("Exp", "d", "e", {}),
            ("ReduceSum", "e axes", "s", {"keepdims": 1}),
            ("Add", "s m", "y", {}),
        ],
        {"x": [5, 70]},
        {"axes": np.array([1], np.int64)},
    )


def scattered() -> onnx.ModelProto:
    """A tensor that is changed at some places and read again as it was."""
    return build(
        [
            ("Tanh", "x", "t", {}),
            ("ScatterElements", "t at u", "s", {"axis": 1}),
            ("Sub", "s t", "d", {}),
            ("Abs", "d", "y", {}),
        ],
        {"x": [3, 6], "u": [3, 2]},
        {"at": np.array([[0, 2], [1, 5], [3, 4]], np.int64)},
    )


def two_outputs() -> onnx.ModelProto:
    return build(
        [
            ("Sin", "x", "s", {}),
            ("Softmax", "s", "y", {"axis": 1}),
            ("MatMul", "s w", "z", {}),
        ],
        {"x": [4, 12]},
        {"w": _random(12, 10)},
        ("y", "z"),
    )


def gelu() -> onnx.ModelProto:
    return build(
        [
            ("Div", "x r", "d", {}),
            ("Erf", "d", "e", {}),
            ("Add", "e one", "a", {}),
            ("Mul", "x a", "m", {}),
            ("Exp", "m", "p", {}),
            ("Max", "p a", "q", {}),
            ("Sub", "q m", "y", {}),
        ],
        {"x": [6, 37]},
        {"r": np.array(1.4142135, np.float32), "one": np.array(1.0, np.float32)},
    )
