"""The measuring programs do what they say: optimisations can be left out, and errors are those of float32."""

import numpy as np
import onnx
import pytest

from stepwell.pipelines import load_pass, option_types
from tests.small_models import MODELS

ablation = pytest.importorskip("benchmarks.ablation")
accuracy = pytest.importorskip("benchmarks.accuracy")
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
