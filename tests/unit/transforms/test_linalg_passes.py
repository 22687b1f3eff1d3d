"""The passes of the tensor stage keep the meaning of a program: the interpreter says the same before and after."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepwell.compat import new_context, parse_module
from stepwell.dialects.stepwell import TargetAttr
from stepwell.interpreter import interpret
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS
from stepwell.resources import constant_attr
from stepwell.targets import resolve_target
from stepwell.verification import verify_module

LIT = Path(__file__).parents[2] / "lit/transforms"


def contraction(rows: int, columns: int, depth: int, groups: int, transposed: bool, rng) -> tuple[str, list]:
    """A grouped contraction with bias, relu and softmax behind it; weights as a constant."""
    w_shape, w_map = [groups, depth, columns], "(d0, d3, d2)"
    if transposed:
        w_shape, w_map = [groups, columns, depth], "(d0, d2, d3)"
    dims = "d0, d1, d2, d3"
    weights = rng.integers(-3, 4, w_shape).astype(np.float32)
    x = rng.integers(-3, 4, [groups, rows, depth]).astype(np.float32)
    b = rng.integers(-3, 4, [columns]).astype(np.float32)
    y = f"tensor<{groups}x{rows}x{columns}xf32>"
    p3 = '["parallel", "parallel", "parallel"]'
    text = f"""
func.func @main(%x: tensor<{groups}x{rows}x{depth}xf32>, %b: tensor<{columns}xf32>) -> {y} {{
  %w = arith.constant WEIGHTS
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : {y}
  %f = linalg.fill ins(%zero : f32) outs(%e : {y}) -> {y}
  %0 = linalg.generic {{indexing_maps = [affine_map<({dims}) -> (d0, d1, d3)>, affine_map<({dims}) -> {w_map}>, affine_map<({dims}) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel", "reduction"]}} ins(%x, %w : tensor<{groups}x{rows}x{depth}xf32>, tensor<{"x".join(map(str, w_shape))}xf32>) outs(%f : {y}) {{
  ^bb0(%p: f32, %q: f32, %o: f32):
    %s = arith.mulf %p, %q : f32
    %t = arith.addf %o, %s : f32
    linalg.yield %t : f32
  }} -> {y}
  %1 = linalg.generic {{indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = {p3}}} ins(%0, %b : {y}, tensor<{columns}xf32>) outs(%e : {y}) {{
  ^bb0(%p: f32, %q: f32, %o: f32):
    %s = arith.addf %p, %q : f32
    linalg.yield %s : f32
  }} -> {y}
  %2 = linalg.generic {{indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = {p3}}} ins(%1 : {y}) outs(%e : {y}) {{
  ^bb0(%p: f32, %o: f32):
    %s = arith.maximumf %p, %zero : f32
    linalg.yield %s : f32
  }} -> {y}
  func.return %2 : {y}
}}
"""
    return text, [weights, x, b]


def run(text: str, pipeline: str, inputs: list, weights=None) -> tuple[list, list, str]:
    ctx = new_context(DIALECTS)
    if weights is not None:
        text = text.replace("WEIGHTS", str(constant_attr(weights, ctx)))
    module = parse_module(ctx, text)
    verify_module(module)
    before = interpret(module, inputs, ctx)
    run_pipeline(ctx, module, resolve_pipeline(pipeline))
    verify_module(module)
    return before, interpret(module, inputs, ctx), str(module)


@pytest.mark.parametrize("columns", [1, 10, 16, 33, 48, 64, 100])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_contraction_keeps_its_meaning(columns, transposed, groups):
    rng = np.random.default_rng(columns)
    text, (weights, *inputs) = contraction(5, columns, 7, groups, transposed, rng)
    for pipeline in (
        "fuse-elementwise",
        "set-target{target=x86-64-v4},pack-weights",
        "set-target{target=x86-64-v3},fuse-elementwise,pack-weights,form-kernels",
        "form-kernels{fuse=false}",
    ):
        before, after, printed = run(text, pipeline, inputs, weights)
        np.testing.assert_array_equal(before[0], after[0])
        if "pack-weights" in pipeline:
            assert "floordiv" in printed
        if "form-kernels" in pipeline:
            main = printed[printed.index("@main") : printed.index("stepwell.kernel")]
            assert "linalg.generic" not in main


@pytest.mark.parametrize(
    ("columns", "steps", "groups", "fp", "pairs"),
    [
        (24, 34, 1, "default", True),
        (40, 64, 1, "default", True),
        (24, 35, 1, "default", False),
        (24, 34, 3, "default", False),
        (24, 34, 1, "strict", False),
        (56, 34, 1, "default", False),
    ],
)
def test_half_a_register_of_columns_lies_in_pairs_of_steps(columns, steps, groups, fp, pairs):
    rng = np.random.default_rng(columns)
    text, (weights, *inputs) = contraction(5, columns, steps, groups, False, rng)
    before, after, printed = run(
        text, f"set-target{{target=x86-64-v4 fp={fp}}},pack-weights", inputs, weights
    )
    np.testing.assert_array_equal(before[0], after[0])
    assert ("mod 2)" in printed) is pairs


def test_lit_programs_keep_their_meaning():
    rng = np.random.default_rng(0)
    text = (LIT / "fuse-elementwise.ir").read_text()
    for name, shape in (
        ("chain_becomes_one_op", [(8, 16), (16,)]),
        ("shared_producer_stays", [(8, 16)]),
        ("broadcast_producer_stays", [(8,)]),
        ("indices_follow_the_transposition", []),
    ):
        inputs = [rng.integers(-2, 3, s).astype(np.float32) for s in shape]
        for pipeline in ("fuse-elementwise", "fuse-elementwise,form-kernels", "form-kernels"):
            before, after, _ = run(text.replace(f"@{name}(", "@main("), pipeline, inputs)
            for b, a in zip(before, after, strict=True):
                np.testing.assert_array_equal(b, a)


def test_attention_is_one_kernel_and_keeps_its_meaning():
    rng = np.random.default_rng(0)
    text = (LIT / "form-kernels.ir").read_text()
    inputs = [rng.integers(-2, 3, s).astype(np.float32) for s in ((20, 8), (8, 24), (24, 16))]
    text = text.replace("@main(", "@other(").replace("@attention(", "@main(")
    before, after, printed = run(text, "form-kernels", inputs)
    np.testing.assert_array_equal(before[0], after[0])
    main = printed[printed.index("@main(") :]
    assert main[: main.index("}")].count("func.call") == 1


@pytest.mark.parametrize(
    "l2_bytes, flops_per_ns, calls, pads",
    [
        (1 << 10, 100.0, 1, 0),  # what is between does not stay in the cache: one kernel
        (1 << 10, 1.0, 2, 1),  # some rows twice would take longer than to write all of them
        (1 << 20, 100.0, 3, 1),  # all of it is small
    ],
)
def test_depthwise_between_products_is_one_kernel_where_that_pays(l2_bytes, flops_per_ns, calls, pads):
    rng = np.random.default_rng(0)
    target = replace(resolve_target("x86-64-v4"), l2_bytes=l2_bytes, flops_per_ns=flops_per_ns)
    text = (LIT / "form-kernels-windows.ir").read_text()
    at = text.index("\nfunc.func @main")
    text = f"{text[:at]}module attributes {{stepwell.target = {TargetAttr.of(target)}}} {{\n{text[at:]}\n}}"
    text = text.replace("@main(", "@other(").replace("@small(", "@main(")
    shapes = ((1, 8, 8, 2), (2, 8), (3, 3, 8), (8, 2))
    inputs = [rng.integers(-2, 3, s).astype(np.float32) for s in shapes]
    before, after, printed = run(text, "form-kernels", inputs)
    np.testing.assert_array_equal(before[0], after[0])
    main = printed[printed.index("@main(") :]
    main = main[: main.index("func.return")]
    assert (main.count("func.call"), main.count("tensor.pad")) == (calls, pads)
    run(text, "form-kernels,absorb-slices,collapse-dims,assign-schedules,tile-and-fuse,vectorise", inputs)


def test_reshapes_of_reshapes_go_in_any_order():
    # One that stayed because of where it lay in memory made a compilation differ from run to run.
    body = "".join(
        f"""
  %c{i} = tensor.collapse_shape %x [[0 : i64], [1 : i64, 2 : i64]] : tensor<4x1x6xf32> into tensor<4x6xf32>
  %e{i} = tensor.expand_shape %c{i} [[0 : i64, 1 : i64], [2 : i64]] output_shape [1, 4, 6] : tensor<4x6xf32> into tensor<1x4x6xf32>
  %t{i} = tensor.empty() : tensor<1x4x6xf32>
  %y{i} = linalg.generic {{indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}}
      ins(%e{i} : tensor<1x4x6xf32>) outs(%t{i} : tensor<1x4x6xf32>) {{
  ^bb0(%a{i}: f32, %o{i}: f32):
    linalg.yield %a{i} : f32
  }} -> tensor<1x4x6xf32>"""
        for i in range(16)
    )
    text = (
        "#id = affine_map<(a, b, c) -> (a, b, c)>\nfunc.func @main(%x: tensor<4x1x6xf32>) -> tensor<1x4x6xf32> {"
        f"{body}\n  func.return %y15 : tensor<1x4x6xf32>\n}}"
    )
    x = np.arange(24, dtype=np.float32).reshape(4, 1, 6)
    before, after, printed = run(text, "fold-unit-reshapes", [x])
    np.testing.assert_array_equal(before[0], after[0])
    assert "_shape" not in printed


def test_reshapes_keep_their_meaning():
    rng = np.random.default_rng(0)
    text = (LIT / "fold-unit-reshapes.ir").read_text()
    for name, inputs in (
        ("dropped_axis_is_read_at_zero", [rng.integers(-3, 4, (8, 1, 16)).astype(np.float32)]),
        ("real_merge_stays", [rng.integers(-3, 4, (2, 4, 16)).astype(np.float32)]),
        (
            "kept_statistic_is_read_directly",
            [
                rng.integers(-3, 4, (5, 16)).astype(np.float32),
                rng.integers(-3, 4, (5,)).astype(np.float32),
                np.int64(5),
            ],
        ),
    ):
        for pipeline in ("fold-unit-reshapes", "fold-unit-reshapes,fuse-elementwise,form-kernels"):
            before, after, _ = run(text.replace(f"@{name}(", "@main("), pipeline, inputs)
            np.testing.assert_array_equal(before[0], after[0])


@pytest.mark.parametrize(("keys", "width", "moves"), [(70, 8, True), (66, 64, True), (8, 70, False)])
@pytest.mark.parametrize("divides", [False, True])
def test_moved_row_factors_keep_their_meaning(keys, width, moves, divides):
    """Random shares of a softmax, wider and narrower than the values that they are multiplied with."""
    shapes = {"5x70x": f"5x{keys}x", "5x8x": f"5x{width}x", "70x8x": f"{keys}x{width}x"}
    text = re.sub(
        "5x70x|5x8x|70x8x", lambda found: shapes[found[0]], (LIT / "move-row-factors.ir").read_text()
    )
    text = text.replace("@shares_of_a_softmax(", "@main(")
    text = text if divides else text.replace("arith.divf", "arith.mulf")
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0.5, 9, n).astype(np.float32) for n in ((5, keys), (5,), (keys, width))]
    before, after, printed = run(text, "set-target,move-row-factors", inputs)
    np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-5 * np.abs(before[0]).max())
    main = printed[printed.index("@main") :].split("func.func")[0]
    assert (f"tensor<5x{width}xf32>, tensor<5xf32>)" in main) == moves
    kept, _, printed = run(text, "set-target{fp=strict},move-row-factors", inputs)
    assert f"tensor<5x{width}xf32>, tensor<5xf32>)" not in printed
    np.testing.assert_array_equal(before[0], kept[0])


def test_rounded_shares_come_out_nearer_where_their_row_factors_move():
    text = (LIT / "move-row-factors.ir").read_text().replace("@rounded_shares(", "@main(")
    rng = np.random.default_rng(0)
    x, v = (rng.normal(size=shape).astype(np.float16) for shape in ((4, 6), (6, 9)))
    powers = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    factors = (1 / powers.sum(1)).astype(np.float32)
    before, after, _ = run(text, "set-target,move-row-factors", [x, factors, v])
    exact = powers * factors[:, None] @ v.astype(np.float64)
    assert np.abs(after[0] - exact).max() < 1e-6 < np.abs(before[0] - exact).max()
