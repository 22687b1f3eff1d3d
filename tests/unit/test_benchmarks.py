"""The measuring programs do what they say: optimisations can be left out, and errors are those of float32."""

import sys

import numpy as np
import onnx
import pytest

from stepwell.pipelines import load_pass, option_types
from tests.small_models import MODELS

ablation = pytest.importorskip("benchmarks.ablation")
accuracy = pytest.importorskip("benchmarks.accuracy")
peers = pytest.importorskip("benchmarks.peers")
INPUTS = {
    "conv_net": {"x": np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)},
    "mlp": {"x": np.random.default_rng(0).standard_normal((4, 20), np.float32)},
}


def test_switches_name_passes_and_options():
    for changes in ablation.SWITCHES.values():
        for name, options in changes.items():
            assert (options or {}).keys() <= option_types(load_pass(name)).keys()


@pytest.mark.slow
def test_results_are_the_same_without_any_optimisation(tmp_path):
    onnx.save(MODELS["conv_net"](), tmp_path / "net.onnx")
    found = ablation.worth(tmp_path / "net.onnx", INPUTS["conv_net"], list(ablation.SWITCHES), 0.01)
    assert found.keys() >= {"layouts", "packing", "element-wise fusion", "kernels of several ops"}
    assert "attention" not in found, "the code is the same without what the model has not"
    assert all(difference < 1e-5 and ratio > 0 for ratio, difference in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_errors_against_double_precision(name):
    found = accuracy.measure(name, MODELS[name](), INPUTS[name])
    for error in (found.onnxruntime, found.default, found.strict):
        assert 0 < error < 1e-5
    assert found.strict <= 10 * found.onnxruntime + 1e-6


def test_peers_get_static_shapes(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 13]> net (float[n, 4] x) => (float[n, 2, 2] y) {
        extents = Shape(x)
        one = Constant<value: tensor = int64[1] {1}>()
        zero = Constant<value: tensor = int64[1] {0}>()
        rows = Slice(extents, zero, one)
        two = Constant<value: tensor = int64[2] {2, 2}>()
        shape = Concat<axis: int = 0>(rows, two)
        y = Reshape(x, shape)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    found = peers.static(str(tmp_path / "net.onnx"), {"x": np.zeros((3, 4), np.float32)})
    assert [node.op_type for node in found.graph.node] == ["Reshape"]
    assert [d.dim_value for d in found.graph.output[0].type.tensor_type.shape.dim] == [3, 2, 2]


def test_failed_tool_is_reported_in_its_own_words():
    program = "import sys; sys.exit('remark\\nm.mlir:1:2: error: no such op\\n  context')"
    with pytest.raises(RuntimeError, match=r"^no such op$"):
        peers.tool(sys.executable, "-c", program)
