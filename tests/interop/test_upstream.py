"""
Upstream MLIR and LLVM read what we write, at every level, and compute the same from it.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from llvm_modules import llvm_tool, same_meaning
from native import build, call, llvm_ir, lower, needs_clang
from onnx import TensorProto, helper
from small_models import MODELS

from stepwell.backends.llvm_ir import parse_llvm_ir
from stepwell.comparison import random_array
from stepwell.compat import new_context, parse_module, print_module
from stepwell.compiler import Compilation, Options
from stepwell.execution import main_of
from stepwell.interpreter import Machine, run_main
from stepwell.registry import DIALECTS

sys.path.append(str(Path(__file__).parents[1] / "unit" / "conversion"))
from test_kernels import MATMUL

LEVELS = ("tensor", "kernels", "loops", "memref", "llvm")
TO_LLVM = (
    "-convert-vector-to-scf=full-unroll=true", "-lower-affine", "-convert-scf-to-cf", "-expand-strided-metadata",
    "-lower-affine", "-convert-vector-to-llvm", "-finalize-memref-to-llvm", "-convert-arith-to-llvm",
    "-convert-func-to-llvm=use-bare-ptr-memref-call-conv=1", "-convert-cf-to-llvm", "-convert-ub-to-llvm",
    "-convert-index-to-llvm", "-canonicalize", "-reconcile-unrealized-casts",
)  # fmt: skip
"""Upstream's own way down from the memref level."""
_MATH_TO_LLVM = ("-math-expand-ops=ops=tanh", "-convert-math-to-llvm")
"""Before it, for kernels that compute exponentials and the like."""


@cache
def levels(name: str, opt_level: int) -> dict:
    """Text of each level in generic form, and the `.ll`."""
    compilation = Compilation(Options(target="x86-64-v4", opt_level=opt_level))
    compilation.read(MODELS[name]())
    texts = {level: print_module(compilation.lower_to(level), generic=True) for level in LEVELS}
    return {**texts, "ll": compilation.llvm_ir()}


def mlir_opt(text: str, *flags: str) -> str:
    return llvm_tool("mlir-opt-22", text, "--allow-unregistered-dialect", *flags)


@pytest.mark.parametrize("opt_level", [3, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODELS)
def test_upstream_accepts_every_level_and_gives_it_back(name, level, opt_level):
    text = levels(name, opt_level)[level]
    theirs = mlir_opt(text, "--mlir-print-op-generic", "--mlir-print-local-scope")
    before, after = (parse_module(new_context(DIALECTS), each) for each in (text, theirs))
    assert same_meaning(before, after) if level == "llvm" else after.is_structurally_equivalent(before)


@pytest.mark.parametrize("opt", ["opt-22", "opt-19"])
@pytest.mark.parametrize("opt_level", [3, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_llvms_old_and_new_verify_the_llvm_ir(name, opt_level, opt):
    llvm_tool(opt, levels(name, opt_level)["ll"], "-passes=verify", "-disable-output")


@pytest.mark.parametrize("opt_level", [3, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_the_llvm_ir_reads_back(name, opt_level):
    texts = levels(name, opt_level)
    module = parse_llvm_ir(texts["ll"], new_context(DIALECTS))
    assert llvm_ir(module) == texts["ll"]
    assert same_meaning(parse_module(new_context(DIALECTS), texts["llvm"]), module)


@pytest.mark.parametrize("name", MODELS)
def test_what_upstream_translates_reads_and_verifies(name):
    text = mlir_opt(levels(name, 3)["llvm"], "--mlir-print-op-generic")
    theirs = llvm_tool("mlir-translate-22", text, "--mlir-to-llvmir", "--allow-unregistered-dialect")
    ours = llvm_ir(parse_llvm_ir(theirs, new_context(DIALECTS)))
    llvm_tool("opt-22", ours, "-passes=verify", "-disable-output")


@pytest.mark.parametrize("name", MODELS)
def test_what_llvm_optimised_reads_and_verifies(name):
    optimised = llvm_tool("opt-22", levels(name, 3)["ll"], "-O2", "-S")
    ours = llvm_ir(parse_llvm_ir(optimised, new_context(DIALECTS)))
    llvm_tool("opt-22", ours, "-passes=verify", "-disable-output")


@needs_clang
def test_a_kernel_lowered_by_upstream_computes_the_same(tmp_path):
    text = MATMUL[: MATMUL.index("func.func private @scale")]
    generic = print_module(parse_module(new_context(DIALECTS), text), generic=True)
    theirs = llvm_tool("mlir-translate-22", mlir_opt(generic, *TO_LLVM), "--mlir-to-llvmir")
    again = llvm_ir(parse_llvm_ir(theirs, new_context(DIALECTS)))
    # Small integers: every sum is exact, so a different order of additions gives the same bits.
    rng = np.random.default_rng(0)
    x, bias, packed = (
        rng.integers(-4, 5, shape).astype(np.float32) for shape in ((32, 784), (100,), (2, 784, 64))
    )
    results = []
    for name, ir in (("ours", llvm_ir(lower(text))), ("theirs", theirs), ("theirs_read_by_us", again)):
        (tmp_path / name).mkdir()
        library = build(ir, tmp_path / name)
        out = np.zeros((32, 100), np.float32)
        if name == "ours":
            call(library, "matmul", [x, packed, bias, out], tiles=12)
        else:
            library.matmul.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 2
            library.matmul(*(array.ctypes.data for array in (x, packed, bias, out)), 0, 12)
        results.append(out)
    weights = packed.transpose(1, 0, 2).reshape(784, 128)[:, :100]
    assert np.array_equal(results[0], np.maximum(x @ weights + bias, 0))
    assert all(np.array_equal(results[0], result) for result in results[1:])


class _BothWays(Machine):
    """Runs `@main` of a module at the memref level; each launch is done by its interpreter and by upstream's library."""

    def __init__(self, module, ctx, library):
        super().__init__(module, ctx)
        self.library, self.compared = library, {}

    def run(self, op):
        if op.name != "schedule.launch":
            super().run(op)
            return
        name, arguments, tiles = (
            op.callee.root_reference.data, self.get(op.arguments), self.integer(op.tiles),
        )  # fmt: skip
        theirs = [np.array(argument) for argument in arguments]
        super().run(op)
        function = getattr(self.library, name)
        function.argtypes = [ctypes.c_void_p] * len(theirs) + [ctypes.c_int64] * 2
        function(*(array.ctypes.data for array in theirs), 0, tiles)
        ours, other = arguments[-1], theirs[-1]  # the output; memory that nobody wrote yet is NaN
        assert np.array_equal(np.isnan(ours), np.isnan(other)), name
        difference = np.nanmax(np.abs(ours - other)) / max(np.nanmax(np.abs(ours)), 1e-30)
        self.compared[name] = max(difference, self.compared.get(name, 0.0))


@needs_clang
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("conv_net", {"conv", "matmul", "rows", "border", "transpose", "pool"}),
        ("mlp", {"matmul", "rows"}),
        ("elementwise", {"elementwise", "reduce"}),
    ],
)
def test_every_kernel_of_a_model_lowered_by_upstream_computes_the_same(name, kinds, tmp_path):
    """Convolutions, pooling, reductions, softmax, normalisation and the rest, each on the arguments that it has there."""
    compilation = Compilation(Options(target="x86-64-v4"))
    compilation.read(MODELS[name]() if name in MODELS else _elementwise())
    module, ctx = compilation.lower_to("memref"), compilation.ctx
    kernels = module.clone()
    kernels.attributes.clear()
    for op in list(kernels.body.block.ops):
        if "stepwell.kernel" in op.attributes:
            op.properties.pop("sym_visibility")
        else:
            op.detach()
            op.erase()
    lowered = mlir_opt(print_module(kernels, generic=True), *_MATH_TO_LLVM, *TO_LLVM)
    library = build(llvm_tool("mlir-translate-22", lowered, "--mlir-to-llvmir"), tmp_path)
    machine = _BothWays(module, ctx, library)
    given = [
        random_array(np.random.default_rng(0), argument.type.get_shape(), np.dtype(np.float32))
        for argument in main_of(module).regions[0].block.args
    ]
    run_main(machine, given)
    assert {kernel.split("_")[0] for kernel in machine.compared} == kinds
    assert all(difference < 2e-6 for difference in machine.compared.values()), machine.compared


def _elementwise() -> onnx.ModelProto:
    """Element-wise functions of two operands that broadcast, and a sum and a maximum over the outer axis."""
    nodes = [
        helper.make_node("Mul", ["x", "r"], ["m"]),
        helper.make_node("Exp", ["m"], ["e"]),
        helper.make_node("Sub", ["e", "x"], ["s"]),
        helper.make_node("LeakyRelu", ["s"], ["y"]),
        helper.make_node("ReduceMax", ["x"], ["z"], axes=[0], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "elementwise",
        [value("x", TensorProto.FLOAT, [37, 53]), value("r", TensorProto.FLOAT, [53])],
        [value("y", TensorProto.FLOAT, [37, 53]), value("z", TensorProto.FLOAT, [53])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
