"""The judge of differences: what rounding decides it allows, a wrong element it does not."""

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from tests.fuzz import known
from tests.fuzz.oracle import run_reference, settle


def _model(text: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> f {text}')


@pytest.mark.parametrize(
    "opset", [17, 22]
)  # of 22 ONNX Runtime has no random numbers, and no convolution in double
def test_one_wrong_element_is_a_difference(opset: int) -> None:
    proto = _model("(float[1,3,9] x, float[4,3,3] w) => (float[1,4,7] y) { y = Conv (x, w) }", opset)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.normal(size=(1, 3, 9)).astype("f"), "w": rng.normal(size=(4, 3, 3)).astype("f")}
    want = run_reference(proto.SerializeToString(), feeds)
    wrong = want[0].copy()
    wrong[0, 2, 3] += 0.01
    assert settle(proto, feeds, want, want).agrees
    assert settle(proto, feeds, [wrong], want).place == (0, 2, 3)


def test_a_sum_that_nearly_cancels_has_no_digits() -> None:
    proto = _model("(float[1,2] x, float[2,1] w) => (float[1,1] y) { y = MatMul (x, w) }")
    feeds = {"x": np.array([[1, 1]], "f"), "w": np.array([[1], [-1 + 2**-22]], "f")}
    want = run_reference(proto.SerializeToString(), feeds)
    assert settle(proto, feeds, [want[0] * 2], want).agrees
    assert not settle(proto, feeds, [want[0] + 0.01], want).agrees


def test_values_may_be_rounded_to_half_precision_one_by_one() -> None:
    # The smaller share is below the least float16. ONNX Runtime keeps it as a float32 as far as the Ceil.
    text = "(float16[2] x) => (float16[2] y) { s = Softmax (x) m = Mul (s, x) y = Ceil (m) }"
    proto, feeds = _model(text), {"x": np.array([20, 1], np.float16)}
    assert settle(proto, feeds, [np.array([20, 0], np.float16)], [np.array([20, 1], np.float16)]).agrees
    assert not settle(proto, feeds, [np.array([10, 0], np.float16)], [np.array([20, 1], np.float16)]).agrees


def test_only_named_limits_explain_a_refusal() -> None:
    assert known.refusal(
        "model.so: graph.max_pool: the extent n must be at least 3; run with inputs of other shapes"
    )
    assert not known.refusal("model:2:0: graph.max_pool: unknown extents; give the extents with --dim")
