"""The llvm dialect: what is printed reads back the same, and upstream reads it and compiles it to the same thing."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from native import build, call, llvm_ir, lower, needs_clang, parse

from stepwell.compat import print_module

sys.path.append(str(Path(__file__).parents[1] / "conversion"))
from test_host import MODEL
from test_kernels import MATMUL

MLIR_OPT = shutil.which("mlir-opt-22")
MLIR_TRANSLATE = shutil.which("mlir-translate-22")
OPT = shutil.which("opt-22")
needs_mlir = pytest.mark.skipif(MLIR_OPT is None, reason="no mlir-opt 22 on PATH")

OPS = """
llvm.mlir.global external @stepwell_weights() {addr_space = 0 : i32} : !llvm.array<0 x i8>
llvm.func @declared(!llvm.ptr, i64) -> i32
llvm.func internal @ops(%x: vector<16xf32>, %p: !llvm.ptr {llvm.noalias}, %m: vector<16xi1>, %i: vector<16xi32>, %n: i32, %f: f32) attributes {passthrough = [["prefer-vector-width", "512"], "nounwind"], target_cpu = "x86-64-v4"} {
  %0 = llvm.intr.masked.load %p, %m, %x {alignment = 4 : i32} : (!llvm.ptr, vector<16xi1>, vector<16xf32>) -> vector<16xf32>
  llvm.intr.masked.store %x, %p, %m {alignment = 4 : i32} : vector<16xf32>, vector<16xi1> into !llvm.ptr
  %1 = llvm.sext %i : vector<16xi32> to vector<16xi64>
  %2 = llvm.getelementptr inbounds %p[%1] : (!llvm.ptr, vector<16xi64>) -> vector<16x!llvm.ptr>, f32
  %3 = llvm.intr.masked.gather %2, %m, %x {alignment = 4 : i32} : (vector<16x!llvm.ptr>, vector<16xi1>, vector<16xf32>) -> vector<16xf32>
  llvm.intr.masked.scatter %x, %2, %m {alignment = 4 : i32} : vector<16xf32>, vector<16xi1> into vector<16x!llvm.ptr>
  %4 = llvm.intr.smax(%i, %i) : (vector<16xi32>, vector<16xi32>) -> vector<16xi32>
  %5 = "llvm.intr.abs"(%i) <{is_int_min_poison = false}> : (vector<16xi32>) -> vector<16xi32>
  %6 = "llvm.intr.vector.reduce.add"(%i) : (vector<16xi32>) -> i32
  %7 = "llvm.intr.vector.reduce.fmaximum"(%x) <{fastmathFlags = #llvm.fastmath<none>}> : (vector<16xf32>) -> f32
  %8 = llvm.select %m, %i, %4 : vector<16xi1>, vector<16xi32>
  %9 = llvm.freeze %8 : vector<16xi32>
  %10 = llvm.extractelement %9[%n : i32] : vector<16xi32>
  %11 = llvm.mlir.poison : vector<16xf32>
  %12 = llvm.insertelement %f, %11[%n : i32] : vector<16xf32>
  %13 = llvm.intr.maximum(%x, %12) : (vector<16xf32>, vector<16xf32>) -> vector<16xf32>
  %14 = "llvm.intr.ctlz"(%i) <{is_zero_poison = false}> : (vector<16xi32>) -> vector<16xi32>
  %15 = llvm.intr.fptosi.sat(%x) : (vector<16xf32>) -> vector<16xi32>
  %16 = llvm.fcmp "olt" %x, %13 : vector<16xf32>
  %17 = llvm.icmp "eq" %p, %p : !llvm.ptr
  %18 = llvm.uitofp %n : i32 to f32
  %19 = llvm.getelementptr %p[4] : (!llvm.ptr) -> !llvm.ptr, f32
  "llvm.intr.prefetch"(%p) <{cache = 1 : i32, hint = 3 : i32, rw = 0 : i32}> : (!llvm.ptr) -> ()
  "llvm.intr.memcpy"(%p, %19, %n) <{isVolatile = false}> : (!llvm.ptr, !llvm.ptr, i32) -> ()
  "llvm.switch"(%n)[^bb1, ^bb2] <{case_values = dense<1> : vector<1xi32>, case_operand_segments = array<i32: 0>, operandSegmentSizes = array<i32: 1, 0, 0>}> : (i32) -> ()
^bb1:
  llvm.return
^bb2:
  llvm.return
}
"""


def _upstream(text: str, *command: str | None) -> str:
    result = subprocess.run([str(c) for c in command], input=text, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _modules():
    _, ops = parse(OPS)
    return [
        ops,
        lower(MATMUL),
        lower(MODEL, ("unroll-vectors", "expand-math", "kernels-to-llvm", "host-to-llvm")),
    ]


@pytest.mark.parametrize("generic", [False, True])
def test_what_is_printed_reads_back_the_same(generic):
    for module in _modules():
        module.verify()
        text = print_module(module, generic=generic)
        _, again = parse(text)
        again.verify()
        assert print_module(again, generic=generic) == text
        assert again.is_structurally_equivalent(module)


@needs_mlir
def test_upstream_reads_the_generic_form_and_we_read_upstreams():
    for module in _modules():
        text = _upstream(print_module(module, generic=True), MLIR_OPT, "--mlir-print-op-generic",
                         "--mlir-print-local-scope")  # fmt: skip
        _, again = parse(text)
        again.verify()
        assert len(list(again.walk())) == len(list(module.walk()))


@pytest.mark.skipif(OPT is None, reason="no opt 22 on PATH")
def test_llvms_verifier_accepts_what_we_print():
    for module in _modules():
        _upstream(llvm_ir(module), OPT, "-passes=verify", "-S")


@needs_mlir
@needs_clang
def test_upstreams_translation_does_the_same_as_ours(tmp_path):
    module = lower(MATMUL)
    theirs = _upstream(print_module(module, generic=True), MLIR_TRANSLATE, "--mlir-to-llvmir")
    rng = np.random.default_rng(0)
    x, bias = rng.random((32, 784), np.float32), rng.random(100, np.float32)
    packed = rng.random((2, 784, 64), np.float32)
    found = []
    for name, text in (("ours", llvm_ir(module)), ("theirs", theirs)):
        (tmp_path / name).mkdir()
        out = np.zeros((32, 100), np.float32)
        call(build(text, tmp_path / name), "matmul", [x, packed, bias, out], tiles=12)
        found.append(out)
    assert np.array_equal(*found)
