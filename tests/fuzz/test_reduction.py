"""The reducer on seeded failures: what a judge complains of is found among nodes that have nothing to do with it."""

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from tests.fuzz.generate import generate
from tests.fuzz.oracle import Case, Verdict
from tests.fuzz.reduction import Judge, reduce_case


def _operators(case: Case) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(case.model).graph.node]


def _complains_of(*operators: str) -> Judge:
    """A judge that finds every model wrong that has all of `operators`."""

    def judge(case: Case) -> Verdict:
        onnx.checker.check_model(onnx.load_from_string(case.model))
        present = set(operators) <= set(_operators(case))
        return Verdict("differs" if present else "agrees", "-O3: output y: 1 instead of 2", "-O3")

    return judge


def test_one_wrong_operator_is_left_alone() -> None:
    case = next(c for c in map(generate, range(100)) if len(_operators(c)) > 12 and "Gather" in _operators(c))
    small = reduce_case(case, _complains_of("Gather"))
    assert _operators(small) == ["Gather"]
    assert len(small.feeds) == 1
    assert {value.name for value in onnx.load_from_string(small.model).graph.input} == set(small.feeds[0])


def test_a_pair_of_operators_stays_together() -> None:
    nodes = "a = Abs (x) t = Tanh (a) n = Neg (t) e = Exp (n) y = Sqrt (e) z = Floor (x)"
    text = f'<ir_version: 10, opset_import: ["" : 20]> f (float[2,3] x) => (float[2,3] y, float[2,3] z) {{ {nodes} }}'
    case = Case(onnx.parser.parse_model(text).SerializeToString(), [{"x": _numbers()}])
    assert _operators(reduce_case(case, _complains_of("Tanh", "Exp"))) == ["Tanh", "Neg", "Exp"]


def test_another_failure_is_not_taken_for_this_one() -> None:
    nodes = "a = Abs (x) t = Tanh (a) y = Exp (t)"
    text = f'<ir_version: 10, opset_import: ["" : 20]> f (float[2,3] x) => (float[2,3] y) {{ {nodes} }}'
    case = Case(onnx.parser.parse_model(text).SerializeToString(), [{"x": _numbers()}])

    def judge(candidate: Case) -> Verdict:
        whole = len(_operators(candidate)) == 3
        return Verdict("fault", "v1: no such value" if whole else "the graph has no node")

    assert len(_operators(reduce_case(case, judge))) == 3


def _numbers() -> np.ndarray:
    return np.arange(6, dtype=np.float32).reshape(2, 3)
