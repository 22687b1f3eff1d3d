"""How long a model of one node takes: the user's and the system's time of this process and of clang."""

import resource

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import stepwell

LIMIT_S = 0.5
_WEIGHTS = np.linspace(-1, 1, 16 * 8 * 9, dtype=np.float32).reshape(16, 8, 3, 3)
_SCALES = np.array([1, 1, 2, 2], np.float32)
_MODELS = {
    "Add": (["x", "x"], [2, 3, 4], {}, {}),
    "Softmax": (["x"], [4, 100], {}, {}),
    "Conv": (["x", "w"], [1, 8, 16, 16], {"w": _WEIGHTS}, {"pads": [1, 1, 1, 1]}),
    "Resize": (["x", "", "s"], [1, 1, 4, 4], {"s": _SCALES}, {"mode": "cubic"}),
}


def _model(op, operands, shape, weights, attributes):
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", shape), ("y", [None] * len(shape)))
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    node = helper.make_node(op, operands, ["y"], **attributes)
    graph = helper.make_graph([node], "g", info[:1], info[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _loop_model():
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in ("x", "c", "sum", "y")}
    count = helper.make_tensor_value_info("n", TensorProto.INT64, [])
    flags = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("go", "again")]
    nodes = [helper.make_node("Add", ["c", "x"], ["sum"]), helper.make_node("Identity", ["go"], ["again"])]
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(nodes, "b", [number, flags[0], values["c"]], [flags[1], values["sum"]])
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    graph = helper.make_graph([node], "g", [count, values["x"]], [values["y"]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@pytest.fixture(scope="module", autouse=True)
def _cache_without_kernels(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPWELL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        stepwell.compile(_model("Relu", ["x"], [7], {}, {}), cache=False)  # the C runtime, once for all
        yield


@pytest.mark.parametrize("op", [*_MODELS, "Loop"])
def test_a_model_of_one_node_compiles_in_half_a_second(op):
    model = _loop_model() if op == "Loop" else _model(op, *_MODELS[op])
    started = _seconds()
    stepwell.compile(model, cache=False)
    assert _seconds() - started <= LIMIT_S
