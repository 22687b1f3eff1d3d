"""Kernels of memref level, compiled and run, against numpy."""

import numpy as np
from native import build, call, llvm_ir, lower, needs_clang

MATMUL = """
#a = affine_map<(d0, d1) -> (d0, 0)>
#b = affine_map<(d0, d1, d2) -> (0, d2)>
#bias = affine_map<(d0) -> (0, d0)>
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func private @matmul(%x: memref<32x784xf32>, %w: memref<2x784x64xf32>, %bias: memref<100xf32>,
    %o: memref<32x100xf32>, %begin: index, %end: index) attributes {stepwell.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c6 = arith.constant 6 : index
  %c64 = arith.constant 64 : index
  %c26 = arith.constant 26 : index
  %c784 = arith.constant 784 : index
  %pad = arith.constant 0.0 : f32
  %zero = arith.constant dense<0.0> : vector<6x64xf32>
  scf.for %t = %begin to %end step %c1 {
    %ti = arith.divui %t, %c2 : index
    %p = arith.remui %t, %c2 : index
    %i = arith.muli %ti, %c6 : index
    %i0 = arith.minui %i, %c26 : index
    %j = arith.muli %p, %c64 : index
    %acc = scf.for %k = %c0 to %c784 step %c1 iter_args(%c = %zero) -> (vector<6x64xf32>) {
      %a = vector.transfer_read %x[%i0, %k], %pad {permutation_map = #a, in_bounds = [true, true]} : memref<32x784xf32>, vector<6x64xf32>
      %b = vector.transfer_read %w[%p, %k, %c0], %pad {permutation_map = #b, in_bounds = [true, true]} : memref<2x784x64xf32>, vector<6x64xf32>
      %f = vector.fma %a, %b, %c : vector<6x64xf32>
      scf.yield %f : vector<6x64xf32>
    }
    %bb = vector.transfer_read %bias[%j], %pad {permutation_map = #bias, in_bounds = [true, false]} : memref<100xf32>, vector<6x64xf32>
    %s = arith.addf %acc, %bb : vector<6x64xf32>
    %r = arith.maximumf %s, %zero : vector<6x64xf32>
    vector.transfer_write %r, %o[%i0, %j] {permutation_map = #id, in_bounds = [true, false]} : vector<6x64xf32>, memref<32x100xf32>
  }
  func.return
}
func.func private @scale(%x: memref<?xf32>, %o: memref<?xf32>, %begin: index, %end: index) attributes {stepwell.kernel} {
  %c1 = arith.constant 1 : index
  %c64 = arith.constant 64 : index
  %pad = arith.constant 0.0 : f32
  %two = arith.constant dense<2.0> : vector<64xf32>
  scf.for %t = %begin to %end step %c1 {
    %i = arith.muli %t, %c64 : index
    %v = vector.transfer_read %x[%i], %pad {in_bounds = [false]} : memref<?xf32>, vector<64xf32>
    %w = arith.mulf %v, %two : vector<64xf32>
    vector.transfer_write %w, %o[%i] {in_bounds = [false]} : vector<64xf32>, memref<?xf32>
  }
  func.return
}
"""


@needs_clang
def test_a_fused_matmul_and_an_element_wise_kernel_give_numpys_result(tmp_path):
    library = build(llvm_ir(lower(MATMUL)), tmp_path)
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (32, 784)).astype(np.float32)
    w = rng.integers(-3, 4, (784, 128)).astype(np.float32)
    bias = rng.integers(-3, 4, 100).astype(np.float32)
    packed = np.ascontiguousarray(w.reshape(784, 2, 64).transpose(1, 0, 2))
    out = np.full((33, 100), 7.0, np.float32)
    call(library, "matmul", [x, packed, bias, out], tiles=12)
    assert np.array_equal(out[:32], np.maximum(x @ w[:, :100] + bias, 0))
    assert (out[32] == 7).all(), "nothing is written behind the output"
    for n in (0, 1, 63, 64, 100):
        a, b = rng.random(n, np.float32), np.full(n + 70, -1, np.float32)
        call(library, "scale", [a, b], [n, n], tiles=-(-n // 64))
        assert np.array_equal(b[:n], a * 2)
        assert (b[n:] == -1).all()
