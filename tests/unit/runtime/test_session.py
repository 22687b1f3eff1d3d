"""The session against onnxruntime itself: the same program text, the same answers."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from stepwell.errors import RunError, UnsupportedError
from stepwell.runtime import load, session

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
affine (float[batch, 4] x) => (float[batch, 4] y)
<float two = {2.0}, float[4] w = {10, 20, 30, 40}>
{ d = Mul(x, two)  y = Add(d, w) }
"""


@pytest.fixture(scope="module")
def model_bytes() -> bytes:
    return onnx.parser.parse_model(TEXT).SerializeToString()


@pytest.fixture
def our_session(build):
    class Session(session.InferenceSession):
        """The hand-written library stands for what the compiler makes of `TEXT`."""

        def compile_model(self, model, *, threads, opt_level, dims, spin):
            self.asked = (threads, opt_level, dims, spin)
            return load(build("affine"), threads, spin=spin)

    return Session


def test_same_answers(our_session, model_bytes):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    ours, theirs = (make(model_bytes) for make in (our_session, onnxruntime.InferenceSession))
    for names in (None, [], ["y"], ["y", "y"]):
        got, want = ours.run(names, {"x": x}), theirs.run(names, {"x": x})
        assert len(got) == len(want) and all(map(np.array_equal, got, want))
    for attribute in ("name", "type", "shape"):
        for ours_of, theirs_of in (
            (ours.get_inputs(), theirs.get_inputs()),
            (ours.get_outputs(), theirs.get_outputs()),
        ):
            assert [getattr(a, attribute) for a in ours_of] == [getattr(a, attribute) for a in theirs_of]
    assert str(ours.get_inputs()[0]) == str(theirs.get_inputs()[0])
    assert ours.get_providers() == theirs.get_providers()
    assert ours.get_modelmeta().producer_name == "by hand"
    assert ours.get_modelmeta().custom_metadata_map == {}


def test_lists_are_arrays_of_the_inputs_type(our_session, model_bytes):
    ours, theirs = (make(model_bytes) for make in (our_session, onnxruntime.InferenceSession))
    x = [[1, 2, 3, 4], [0.5, 6, 7, 8]]
    assert np.array_equal(ours.run(None, {"x": x})[0], theirs.run(None, {"x": x})[0])
    for wrong in ([[1, 2, 3, 4], [5]], [["a"] * 4]):
        with pytest.raises(RunError, match="input 'x': a list that is no array of float32"):
            ours.run(None, {"x": wrong})


@pytest.mark.parametrize("module", [session, onnxruntime])
def test_options_of_both_kinds(our_session, model_bytes, module):
    options = module.SessionOptions()
    options.intra_op_num_threads = 3
    options.graph_optimization_level = module.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ours = our_session(
        model_bytes, options, providers=["CUDAExecutionProvider", ("CPUExecutionProvider", {})]
    )
    assert ours.asked == (3, 1, {}, False)
    assert ours.get_session_options() is options
    assert our_session(model_bytes).asked == (None, 3, {}, True)


def test_our_options_have_every_attribute_of_onnxruntime_s():
    theirs = {name for name in dir(onnxruntime.SessionOptions()) if not name.startswith("_")}
    unsupported = {
        "add_external_initializers", "add_external_initializers_from_files_in_memory", "add_initializer",
        "add_free_dimension_override_by_denotation", "add_provider", "add_provider_for_devices",
        "register_custom_ops_library", "set_provider_selection_policy",
        "set_provider_selection_policy_delegate", "clear_ep_context_data_read_func",
        "set_ep_context_data_read_func",
        "set_load_cancellation_flag", "enable_ort_custom_ops",
    }  # fmt: skip
    ours = set(dir(session.SessionOptions()))
    assert theirs - ours - unsupported == set()


def test_io_binding(our_session, model_bytes):
    ours = our_session(model_bytes)
    binding = ours.io_binding()
    binding.bind_cpu_input("x", np.ones((1, 4), np.float32))
    binding.bind_output("y")
    ours.run_with_iobinding(binding)
    assert binding.copy_outputs_to_cpu()[0].tolist() == [[12, 22, 32, 42]]
    with pytest.raises(RunError, match="no output 'z'"):
        binding.bind_output("z")


def test_errors(our_session, model_bytes):
    with pytest.raises(UnsupportedError, match="runs on the CPU"):
        our_session(model_bytes, providers=["CUDAExecutionProvider"])
    with pytest.raises(RunError, match="no output 'z'; choose of y"):
        our_session(model_bytes).run(["z"], {"x": np.ones((1, 4), np.float32)})
