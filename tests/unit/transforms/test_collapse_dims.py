"""Collapsing dims keeps the meaning of a kernel and of its callers, bit for bit on small integers."""

import numpy as np
import pytest
from xdsl.dialects.builtin import TensorType
from xdsl.dialects.func import FuncOp
from xdsl.dialects.linalg.ops import GenericOp

from stepwell.compat import new_context, parse_module
from stepwell.interpreter import interpret
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module

BODIES = {
    "add": "%v = arith.addf %a, %b : f32",
    "multiply-add": "%t = arith.mulf %a, %b : f32\n%v = arith.addf %o, %t : f32",
}


def _type(shape, dynamic) -> str:
    return f"tensor<{'x'.join([*('?' if dynamic else str(e) for e in shape), 'f32'])}>"


def _module(dims, maps, extents, body, reductions="", dynamic=False) -> tuple[str, list[tuple[int, ...]]]:
    """A kernel of two inputs over named dims, its fill, and a host that calls it with a fresh destination."""
    shapes = [tuple(eval(e, {}, extents) for e in m.split(", ")) for m in maps]
    types = [_type(s, dynamic) for s in shapes]
    axes = "\n".join(
        f"%i{k} = arith.constant {k} : index\n%d{k} = tensor.dim %like, %i{k} : {types[2]}"
        for k in range(len(shapes[2]))
    )
    sizes = ", ".join(f"%d{k}" for k in range(len(shapes[2]))) if dynamic else ""
    index_maps = [m.replace("1 - 1 + ", "") for m in maps]
    texts = ", ".join(f"affine_map<({', '.join(dims)}) -> ({m})>" for m in index_maps)
    kinds = ", ".join('"reduction"' if d in reductions else '"parallel"' for d in dims)
    signature = f"%x: {types[0]}, %y: {types[1]}, %e: {types[2]}"
    return (
        f"""
func.func private @kernel({signature}) -> {types[2]} attributes {{stepwell.kernel}} {{
  %zero = arith.constant 0.0 : f32
  %f = linalg.fill ins(%zero : f32) outs(%e : {types[2]}) -> {types[2]}
  %r = linalg.generic {{indexing_maps = [{texts}], iterator_types = [{kinds}]}} ins(%x, %y : {types[0]}, {types[1]}) outs(%f : {types[2]}) {{
  ^bb0(%a: f32, %b: f32, %o: f32):
    {BODIES[body]}
    linalg.yield %v : f32
  }} -> {types[2]}
  func.return %r : {types[2]}
}}
func.func @main(%x: {types[0]}, %y: {types[1]}, %like: {types[2]}) -> {types[2]} {{
  {axes if dynamic else ""}
  %e = tensor.empty({sizes}) : {types[2]}
  %r = func.call @kernel(%x, %y, %e) : ({types[0]}, {types[1]}, {types[2]}) -> {types[2]}
  func.return %r : {types[2]}
}}""",
        shapes,
    )


def _check(text, shapes, rank, dynamic=False):
    """`rank`: how many dims the kernel's op has afterwards."""
    rng = np.random.default_rng(len(text))
    inputs = [rng.integers(-3, 4, s).astype(np.float32) for s in shapes]
    context = new_context(DIALECTS)
    module = parse_module(context, text)
    verify_module(module)

    def run():
        return interpret(module, [x.copy() for x in inputs], context)

    expected = run()
    run_pipeline(context, module, resolve_pipeline("set-target{target=x86-64-v4}, collapse-dims"))
    verify_module(module)
    np.testing.assert_array_equal(expected[0], run()[0], err_msg=str(module))
    (op,) = [op for op in module.walk() if isinstance(op, GenericOp)]
    assert len(op.iterator_types) == rank, module
    rest = "assign-schedules, tile-and-fuse, vectorise, linalg-to-loops, bufferize, lift-parallel, promote-scratch, plan-memory"
    for name in rest.split(", "):
        run_pipeline(context, module, resolve_pipeline(name))
        verify_module(module)
        np.testing.assert_array_equal(expected[0], run()[0], err_msg=f"{name}\n{module}")
    return module


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("dims", "maps", "body", "reductions", "rank"),
    [
        ("nhwc", ["n, h, w, c", "n, h, w, c", "n, h, w, c"], "add", "", 1),
        ("nhwc", ["n, h, w, c", "c", "n, h, w, c"], "add", "", 2),
        ("nhwc", ["n, h, w, c", "n, c", "n, h, w, c"], "add", "", 3),
        ("nhwc", ["n, h, w, c", "n, h, w, c", "n, c, h, w"], "add", "", 3),
        ("nhwc", ["n, w, h, c", "n, w, h, c", "n, h, w, c"], "add", "", 4),
        ("nhwoc", ["n, h, w, c", "c, o", "n, h, w, o"], "multiply-add", "c", 3),
        ("nhwc", ["n, h, w, c", "n, h, w, c", "n, c"], "multiply-add", "hw", 3),
        ("nhwc", ["n, h, w, c", "c", "n, h"], "multiply-add", "wc", 3),
        ("nhck", ["n, h + k - 1, c", "k, c", "n, h, c"], "multiply-add", "k", 4),
    ],
)
def test_neighbours_become_one_dim_where_every_operand_has_them(dims, maps, body, reductions, rank, dynamic):
    extents = {"n": 2, "h": 3, "w": 5, "c": 7, "o": 18, "k": 2}
    text, shapes = _module(dims, maps, extents, body, reductions, dynamic)
    _check(text.replace(" - 1,", ","), shapes, rank, dynamic)


def test_a_reduction_of_extent_one_goes_and_a_pointwise_convolution_is_a_product():
    extents = {"n": 1, "h": 3, "w": 5, "c": 7, "o": 18, "k": 1}
    text, shapes = _module(
        "nhwock", ["n, h + k - 1, w, c", "k, c, o", "n, h, w, o"], extents, "multiply-add", "kc"
    )
    _check(text.replace(" - 1,", ","), shapes, 3)


def test_a_body_that_asks_for_its_place_keeps_its_dims():
    text = """
func.func private @kernel(%x: tensor<3x4xindex>) -> tensor<3x4xindex> attributes {stepwell.kernel} {
  %r = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} outs(%x : tensor<3x4xindex>) {
  ^bb0(%o: index):
    %i = linalg.index 0 : index
    linalg.yield %i : index
  } -> tensor<3x4xindex>
  func.return %r : tensor<3x4xindex>
}"""
    context = new_context(DIALECTS)
    module = parse_module(context, text)
    run_pipeline(context, module, resolve_pipeline("set-target, collapse-dims"))
    (function,) = [op for op in module.walk() if isinstance(op, FuncOp)]
    assert function.function_type.inputs.data[0] == TensorType(
        function.function_type.inputs.data[0].element_type, [3, 4]
    )  # pyright: ignore
