"""A small model with a bit of everything, down every level as text, with every set of options."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stepwell.compiler import Options
from stepwell.pipelines import LEVELS
from tests.round_trip import check_round_trips


def small_model() -> onnx.ModelProto:
    """A convolution with its normalisation, a residual sum, a symbolic batch, a softmax, a float16 constant."""
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="caf\u00e9/conv"),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "k", "bias"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=-1),
        helper.make_node("ReduceMax", ["y"], ["z"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 9, 9])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, []),
        ],
        [
            weight("w", 8, 8, 3, 3), weight("s", 8), weight("b", 8), weight("m", 8),
            numpy_helper.from_array(rng.random(8).astype(np.float32) + 0.5, "v"), weight("k", 8, 10),
            weight("bias", 10),
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"labels": '\u6f22\u5b57, "quoted" \\ and\nlines'})
    return model


@pytest.mark.parametrize(
    ("options", "in_one_go"),
    [
        (Options(), LEVELS),
        (Options(opt_level=0, fp="strict", threads=2), LEVELS[-1:]),
        (Options(dims=(("batch", 2),), fp="fast"), LEVELS[-1:]),
    ],
    ids=["O3", "O0-strict", "dims"],
)
def test_every_level_is_text(tmp_path, options, in_one_go):
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), path)
    check_round_trips(path, tmp_path, options, in_one_go)
