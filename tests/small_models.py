"""Small ONNX models that pass through every level: a convolutional net and an MLP, static or with a named batch."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv_net(batch: int | str = 1) -> onnx.ModelProto:
    """Convolution, ReLU, max pooling, depthwise convolution, global average pooling, softmax."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("MaxPool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p0", "w1"], ["c1"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["c1", "p0"], ["a1"]),
        helper.make_node("GlobalAveragePool", ["a1"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["d"], transB=1),
        helper.make_node("Softmax", ["d"], ["y"]),
    ]
    weights = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 1, 3, 3), "w2": (10, 8), "b2": (10,)}
    return _model(nodes, {name: rng.standard_normal(shape) for name, shape in weights.items()},
                  [batch, 3, 16, 16], [batch, 10])  # fmt: skip


def mlp(batch: int | str = 4) -> onnx.ModelProto:
    """Two matrix products with bias, GELU-like activation, layer normalisation."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"]),
        helper.make_node("Add", ["m0", "b0"], ["a0"]),
        helper.make_node("Tanh", ["a0"], ["t"]),
        helper.make_node("LayerNormalization", ["t", "s", "b1"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w1"], ["y"]),
    ]
    weights = {"w0": (20, 70), "b0": (70,), "s": (70,), "b1": (70,), "w1": (70, 7)}
    return _model(nodes, {name: rng.standard_normal(shape) for name, shape in weights.items()},
                  [batch, 20], [batch, 7])  # fmt: skip


def _model(nodes, weights, given, wanted) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, wanted)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODELS = {
    "conv_net": lambda: conv_net(),
    "conv_net_batch": lambda: conv_net("batch"),
    "mlp": lambda: mlp(),
    "mlp_batch": lambda: mlp("batch"),
}
