"""Reduction of IR, the predicates that guide it, and the comparison that they rest on."""

import numpy as np
import pytest
from xdsl.ir import Operation

from stepwell.comparison import compare, disagreement
from stepwell.compat import new_context, parse_module, print_module
from stepwell.execution import run_in_float64, run_module
from stepwell.pipelines import resolve_pipeline
from stepwell.predicates import Breakdown, Miscompile
from stepwell.reduction import Reduction, op_count
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module

_CHAIN = """
func.func @main(%x: tensor<8x6xf32>, %u: tensor<8x6xf32>) -> (tensor<8x6xf32> {graph.name = "y"}) {
  %a = graph.exp %x : (tensor<8x6xf32>) -> tensor<8x6xf32>
  %b = graph.tanh %a : (tensor<8x6xf32>) -> tensor<8x6xf32>
  %c = graph.add %b, %u : (tensor<8x6xf32>, tensor<8x6xf32>) -> tensor<8x6xf32>
  %d = graph.atan %c : (tensor<8x6xf32>) -> tensor<8x6xf32>
  %e = graph.neg %d : (tensor<8x6xf32>) -> tensor<8x6xf32>
  func.return %e : tensor<8x6xf32>
}
"""


@pytest.fixture
def ctx():
    return new_context(DIALECTS)


def _has(name: str):
    return lambda module, _: any(op.name == name for op in module.walk())


@pytest.mark.parametrize("name", ["graph.exp", "graph.tanh", "graph.add", "graph.neg"])
def test_one_op_is_left(name, ctx):
    module = parse_module(ctx, _CHAIN)
    before = print_module(module)
    small = Reduction(_has(name), ctx).reduce(module)
    assert [op.name for op in small.walk() if op.name.startswith("graph.")] == [name]
    assert op_count(small) == 1 and "tensor<1x1xf32>" in print_module(small)
    verify_module(small)
    assert print_module(module) == before


def test_a_reduction_is_the_same_every_time(ctx):
    texts = {
        print_module(Reduction(_has("graph.add"), ctx).reduce(parse_module(ctx, _CHAIN))) for _ in range(3)
    }
    assert len(texts) == 1


def test_a_time_limit_ends_it_with_something_interesting(ctx):
    small = Reduction(_has("graph.tanh"), ctx, limit_s=0.0).reduce(parse_module(ctx, _CHAIN))
    assert _has("graph.tanh")(small, ctx)


def test_loops_are_unwrapped_and_kernels_lose_arguments(ctx):
    module = parse_module(ctx, """
    func.func private @k(%x: tensor<4xf32>, %n: index, %o: tensor<4xf32>) -> tensor<4xf32> {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c4 = arith.constant 4 : index
      %r = scf.for %i = %c0 to %c4 step %c1 iter_args(%t = %o) -> (tensor<4xf32>) {
        %v = tensor.extract %x[%i] : tensor<4xf32>
        %w = math.exp %v : f32
        %s = tensor.insert %w into %t[%i] : tensor<4xf32>
        scf.yield %s : tensor<4xf32>
      }
      func.return %r : tensor<4xf32>
    }
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %n = arith.constant 3 : index
      %e = tensor.empty() : tensor<4xf32>
      %y = func.call @k(%x, %n, %e) : (tensor<4xf32>, index, tensor<4xf32>) -> tensor<4xf32>
      func.return %y : tensor<4xf32>
    }""")  # fmt: skip
    small = Reduction(_has("math.exp"), ctx).reduce(module)
    names = [op.name for op in small.walk()]
    assert "scf.for" not in names and "math.exp" in names and op_count(small) < op_count(module) - 4


def test_a_sound_pass_is_no_miscompile(ctx):
    module = parse_module(ctx, _CHAIN)
    outcome = Miscompile([], resolve_pipeline("to-tensor")).outcome(module, ctx)
    assert outcome.kind == "agrees"
    assert not Breakdown(resolve_pipeline("to-tensor"))(module, ctx)


def test_a_breakdown_stays_the_same_one(ctx, monkeypatch):
    from stepwell.transforms.dce import DcePass

    def broken(self: object, ctx: object, op: Operation) -> None:
        names = [inner.name for inner in op.walk()]
        assert "graph.atan" not in names, "an angle"
        raise ValueError("nothing")

    monkeypatch.setattr(DcePass, "apply", broken)
    predicate = Breakdown(resolve_pipeline("dce"))
    module = parse_module(ctx, _CHAIN)
    assert predicate(module, ctx)
    small = Reduction(predicate, ctx).reduce(module)
    assert [op.name for op in small.walk() if op.name.startswith("graph.")] == ["graph.atan"]


def test_the_judge_excuses_rounding_and_nothing_else():
    want = np.float32([1.0, 1e-8, -3.0])
    exact = [np.float64([1.0, 1.0001e-8, -3.0])]
    assert compare([want], [want], exact).agrees
    assert compare([want * np.float32(1 + 3e-6)], [want], exact).agrees
    assert not compare([want * np.float32(1.01)], [want], exact).agrees
    assert not compare([np.float32([np.nan, 0, 0])], [want], exact).agrees
    assert compare([np.int64([1])], [np.int64([1])]).agrees
    wrong = compare([np.int64([1, 2])], [np.int64([1, 3])])
    assert not wrong.agrees and "2 instead of 3 at [1]" in str(wrong)
    # float64 decides otherwise than float32, so either decision is right
    assert compare([np.int64([2])], [np.int64([3])], [np.int64([2])]).agrees
    assert not compare([np.zeros((2, 1), np.float32)], [np.zeros(2, np.float32)]).agrees
    assert not compare([None], [want]).agrees and compare([None], [None]).agrees
    assert disagreement(np.float32([np.inf]), np.float32([np.inf])) == 0
    assert disagreement(np.float32([1.0]), np.float32([np.inf])) == float("inf")


def test_a_graph_in_float64_is_closer_to_the_truth(ctx):
    module = parse_module(ctx, """
    func.func @main(%x: tensor<1000xf32>) -> tensor<f32> {
      %axes = graph.constant dense<0> : tensor<1xi64>
      %y = graph.reduce_sum %x, %axes {keepdims = 0 : i64} : (tensor<1000xf32>, tensor<1xi64>) -> tensor<f32>
      func.return %y : tensor<f32>
    }""")  # fmt: skip
    x = np.float32(np.random.default_rng(0).standard_normal(1000))
    (narrow,), (wide,) = run_module(module, ctx, [x]), run_in_float64(module, ctx, [x])
    assert narrow.dtype == np.float32 and wide.dtype == np.float64
    assert abs(wide - x.astype(np.float64).sum()) < 1e-12 and narrow != wide
