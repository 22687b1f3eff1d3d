"""Programs on tensors mean the same after each pass on the way to one arena of buffers."""

import shutil
import subprocess

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from stepwell.compat import load_entry, new_context, parse_module, print_module
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS, PASSES
from stepwell.verification import verify_module

STAGES = ("linalg-to-loops", "bufferize", "lift-parallel", "promote-scratch", "plan-memory")
MLIR_OPT = shutil.which("mlir-opt-22") or shutil.which("mlir-opt")

F = np.float32


def case(name: str, text: str, *inputs: np.ndarray, copies: int | None = None):
    return pytest.param(text, inputs, copies, id=name)


def ramp(*shape: int, dtype=F) -> np.ndarray:
    size = int(np.prod(shape))
    return (np.arange(size) % 7 - 2).astype(dtype).reshape(shape)


CASES = [
    case(
        "matmul_bias_in_a_kernel",
        """
func.func private @k(%x: tensor<?x7xf32>, %w: tensor<2x7x4xf32>, %b: tensor<6xf32>, %out: tensor<?x6xf32>) -> tensor<?x6xf32> attributes {stepwell.kernel} {
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x7xf32>
  %tmp = tensor.empty(%n) : tensor<?x6xf32>
  %init = linalg.fill ins(%zero : f32) outs(%tmp : tensor<?x6xf32>) -> tensor<?x6xf32>
  %h = linalg.generic {indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n floordiv 4, k, n mod 4)>, affine_map<(m, n, k) -> (m, n)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%x, %w : tensor<?x7xf32>, tensor<2x7x4xf32>) outs(%init : tensor<?x6xf32>) {
  ^bb0(%a: f32, %c: f32, %acc: f32):
    %p = arith.mulf %a, %c : f32
    %s = arith.addf %acc, %p : f32
    linalg.yield %s : f32
  } -> tensor<?x6xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (n)>, affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]} ins(%h, %b : tensor<?x6xf32>, tensor<6xf32>) outs(%out : tensor<?x6xf32>) {
  ^bb0(%a: f32, %c: f32, %acc: f32):
    %s = arith.addf %a, %c : f32
    %j = linalg.index 1 : index
    %ji = arith.index_cast %j : index to i32
    %jf = arith.sitofp %ji : i32 to f32
    %r = arith.maximumf %s, %jf : f32
    linalg.yield %r : f32
  } -> tensor<?x6xf32>
  func.return %y : tensor<?x6xf32>
}
func.func @main(%x: tensor<?x7xf32>, %w: tensor<2x7x4xf32>) -> tensor<?x3x2xf32> {
  %c0 = arith.constant 0 : index
  %b = arith.constant dense<[1.0, 2.0, 3.0, -1.0, 5.0, 6.0]> : tensor<6xf32>
  %n = tensor.dim %x, %c0 : tensor<?x7xf32>
  %e = tensor.empty(%n) : tensor<?x6xf32>
  %1 = func.call @k(%x, %w, %b, %e) : (tensor<?x7xf32>, tensor<2x7x4xf32>, tensor<6xf32>, tensor<?x6xf32>) -> tensor<?x6xf32>
  %2 = tensor.expand_shape %1 [[0], [1, 2]] output_shape [%n, 3, 2] : tensor<?x6xf32> into tensor<?x3x2xf32>
  func.return %2 : tensor<?x3x2xf32>
}
""",
        ramp(5, 7),
        ramp(2, 7, 4),
        copies=0,
    ),
    case(
        "kernels_of_one_op",
        """
func.func private @sum(%x: tensor<?x3x?xf32>, %out: tensor<3x?xf32>) -> tensor<3x?xf32> attributes {stepwell.kernel} {
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%out : tensor<3x?xf32>) -> tensor<3x?xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(r, m, n) -> (r, m, n)>, affine_map<(r, m, n) -> (m, n)>], iterator_types = ["reduction", "parallel", "parallel"]} ins(%x : tensor<?x3x?xf32>) outs(%init : tensor<3x?xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %s = arith.addf %acc, %a : f32
    linalg.yield %s : f32
  } -> tensor<3x?xf32>
  func.return %y : tensor<3x?xf32>
}
func.func private @count(%out: tensor<1x?xi64>) -> tensor<1x?xi64> attributes {stepwell.kernel} {
  %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]} outs(%out : tensor<1x?xi64>) {
  ^bb0(%acc: i64):
    %j = linalg.index 1 : index
    %ji = arith.index_cast %j : index to i64
    linalg.yield %ji : i64
  } -> tensor<1x?xi64>
  func.return %y : tensor<1x?xi64>
}
func.func @main(%x: tensor<?x3x?xf32>) -> (tensor<3x?xf32>, tensor<1x?xi64>) {
  %c2 = arith.constant 2 : index
  %n = tensor.dim %x, %c2 : tensor<?x3x?xf32>
  %e = tensor.empty(%n) : tensor<3x?xf32>
  %1 = func.call @sum(%x, %e) : (tensor<?x3x?xf32>, tensor<3x?xf32>) -> tensor<3x?xf32>
  %f = tensor.empty(%n) : tensor<1x?xi64>
  %2 = func.call @count(%f) : (tensor<1x?xi64>) -> tensor<1x?xi64>
  func.return %1, %2 : tensor<3x?xf32>, tensor<1x?xi64>
}
""",
        ramp(4, 3, 5),
        copies=0,
    ),
    case(
        "padded_strided_convolution",
        """
func.func @main(%x: tensor<1x5x6x3xf32>, %w: tensor<4x3x3x3xf32>) -> tensor<1x3x3x4xf32> {
  %zero = arith.constant 0.0 : f32
  %p = tensor.pad %x low[0, 1, 1, 0] high[0, 1, 0, 0] {
  ^bb0(%i: index, %j: index, %k: index, %l: index):
    tensor.yield %zero : f32
  } : tensor<1x5x6x3xf32> to tensor<1x7x7x3xf32>
  %e = tensor.empty() : tensor<1x3x3x4xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<1x3x3x4xf32>) -> tensor<1x3x3x4xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(n, h, w, o, a, b, c) -> (n, h * 2 + a, w * 2 + b, c)>, affine_map<(n, h, w, o, a, b, c) -> (o, a, b, c)>, affine_map<(n, h, w, o, a, b, c) -> (n, h, w, o)>], iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]} ins(%p, %w : tensor<1x7x7x3xf32>, tensor<4x3x3x3xf32>) outs(%f : tensor<1x3x3x4xf32>) {
  ^bb0(%a: f32, %b: f32, %acc: f32):
    %m = arith.mulf %a, %b : f32
    %s = arith.addf %acc, %m : f32
    linalg.yield %s : f32
  } -> tensor<1x3x3x4xf32>
  func.return %y : tensor<1x3x3x4xf32>
}
""",
        ramp(1, 5, 6, 3),
        ramp(4, 3, 3, 3),
        copies=1,
    ),
    case(
        "rows_by_their_maximum_with_a_temporary",
        """
func.func private @k(%x: tensor<?x?xf32>, %out: tensor<?x?xf32>) -> tensor<?x?xf32> attributes {stepwell.kernel} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %x, %c0 : tensor<?x?xf32>
  %m = tensor.dim %x, %c1 : tensor<?x?xf32>
  %low = arith.constant -1000.0 : f32
  %r = scf.forall (%i) in (%n) shared_outs(%o = %out) -> (tensor<?x?xf32>) {
    %row = tensor.extract_slice %x[%i, 0] [1, %m] [1, 1] : tensor<?x?xf32> to tensor<?xf32>
    %e = tensor.empty(%m) : tensor<?xf32>
    %e0 = tensor.empty() : tensor<f32>
    %f = linalg.fill ins(%low : f32) outs(%e0 : tensor<f32>) -> tensor<f32>
    %d = linalg.generic {indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> (d)>], iterator_types = ["parallel"]} ins(%row : tensor<?xf32>) outs(%e : tensor<?xf32>) {
    ^bb0(%a: f32, %acc: f32):
      %s = arith.addf %a, %a : f32
      linalg.yield %s : f32
    } -> tensor<?xf32>
    %max = linalg.generic {indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> ()>], iterator_types = ["reduction"]} ins(%d : tensor<?xf32>) outs(%f : tensor<f32>) {
    ^bb0(%a: f32, %acc: f32):
      %s = arith.maximumf %a, %acc : f32
      linalg.yield %s : f32
    } -> tensor<f32>
    %e2 = tensor.empty(%m) : tensor<?xf32>
    %z = linalg.generic {indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> ()>, affine_map<(d) -> (d)>], iterator_types = ["parallel"]} ins(%d, %max : tensor<?xf32>, tensor<f32>) outs(%e2 : tensor<?xf32>) {
    ^bb0(%a: f32, %b: f32, %acc: f32):
      %s = arith.subf %a, %b : f32
      linalg.yield %s : f32
    } -> tensor<?xf32>
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %z into %o[%i, 0] [1, %m] [1, 1] : tensor<?xf32> into tensor<?x?xf32>
    }
  }
  func.return %r : tensor<?x?xf32>
}
func.func @main(%x: tensor<?x?xf32>) -> (tensor<?x?xf32>, tensor<?x?xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %n = tensor.dim %x, %c0 : tensor<?x?xf32>
  %m = tensor.dim %x, %c1 : tensor<?x?xf32>
  %e = tensor.empty(%n, %m) : tensor<?x?xf32>
  %1 = func.call @k(%x, %e) : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
  %2 = func.call @k(%1, %e) : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
  %3 = func.call @k(%2, %e) : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
  func.return %3, %3 : tensor<?x?xf32>, tensor<?x?xf32>
}
""",
        ramp(4, 5),
        copies=1,
    ),
    case(
        "scatter_with_duplicates_under_a_condition",
        """
func.func @main(%x: tensor<5xf32>, %at: tensor<6xi64>, %v: tensor<6xf32>) -> (tensor<5xf32>, tensor<5xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c6 = arith.constant 6 : index
  %zero = arith.constant 0.0 : f32
  %r = scf.for %i = %c0 to %c6 step %c1 iter_args(%t = %x) -> (tensor<5xf32>) {
    %j = tensor.extract %at[%i] : tensor<6xi64>
    %k = arith.index_cast %j : i64 to index
    %e = tensor.extract %v[%i] : tensor<6xf32>
    %p = arith.cmpf ogt, %e, %zero : f32
    %n = scf.if %p -> (tensor<5xf32>) {
      %old = tensor.extract %t[%k] : tensor<5xf32>
      %sum = arith.addf %old, %e : f32
      %w = tensor.insert %sum into %t[%k] : tensor<5xf32>
      scf.yield %w : tensor<5xf32>
    } else {
      scf.yield %t : tensor<5xf32>
    }
    scf.yield %n : tensor<5xf32>
  }
  func.return %r, %x : tensor<5xf32>, tensor<5xf32>
}
""",
        ramp(5),
        np.array([0, 3, 3, 1, 0, 4]),
        ramp(6),
        copies=3,
    ),
    case(
        "loop_swaps_its_tensors",
        """
func.func @main(%x: tensor<3xf32>, %y: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c3 = arith.constant 3 : index
  %v = arith.constant 9.0 : f32
  %a, %b = scf.for %i = %c0 to %c3 step %c1 iter_args(%s = %x, %t = %y) -> (tensor<3xf32>, tensor<3xf32>) {
    %n = tensor.insert %v into %s[%i] : tensor<3xf32>
    scf.yield %t, %n : tensor<3xf32>, tensor<3xf32>
  }
  func.return %a, %b : tensor<3xf32>, tensor<3xf32>
}
""",
        ramp(3),
        ramp(3) * 2,
    ),
    case(
        "write_in_a_loop_to_a_tensor_from_outside",
        """
func.func @main(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c3 = arith.constant 3 : index
  %v = arith.constant 9.0 : f32
  %y = tensor.insert %v into %x[%c0] : tensor<3xf32>
  %e = tensor.empty() : tensor<3xf32>
  %f = linalg.fill ins(%v : f32) outs(%e : tensor<3xf32>) -> tensor<3xf32>
  %a = scf.for %i = %c0 to %c3 step %c1 iter_args(%s = %f) -> (tensor<3xf32>) {
    %old = tensor.extract %y[%i] : tensor<3xf32>
    %n = tensor.insert %old into %y[%c1] : tensor<3xf32>
    %z = tensor.extract %n[%i] : tensor<3xf32>
    %w = tensor.insert %z into %s[%i] : tensor<3xf32>
    scf.yield %w : tensor<3xf32>
  }
  func.return %a, %y : tensor<3xf32>, tensor<3xf32>
}
""",
        ramp(3),
    ),
    case(
        "overlapping_slices_shift",
        """
func.func @main(%x: tensor<6xf32>) -> tensor<6xf32> {
  %c0 = arith.constant 0 : index
  %v = arith.constant 9.0 : f32
  %y = tensor.insert %v into %x[%c0] : tensor<6xf32>
  %s = tensor.extract_slice %y[0] [5] [1] : tensor<6xf32> to tensor<5xf32>
  %z = tensor.insert_slice %s into %y[1] [5] [1] : tensor<5xf32> into tensor<6xf32>
  func.return %z : tensor<6xf32>
}
""",
        ramp(6),
    ),
    case(
        "slice_written_and_put_back_in_place",
        """
func.func @main(%x: tensor<4x6xf32>) -> tensor<4x6xf32> {
  %c0 = arith.constant 0 : index
  %c2 = arith.constant 2 : index
  %v = arith.constant 9.0 : f32
  %e = tensor.empty() : tensor<4x6xf32>
  %f = linalg.fill ins(%v : f32) outs(%e : tensor<4x6xf32>) -> tensor<4x6xf32>
  %s = tensor.extract_slice %f[%c2, 0] [1, 3] [1, 2] : tensor<4x6xf32> to tensor<3xf32>
  %w = tensor.extract %x[%c0, %c2] : tensor<4x6xf32>
  %t = tensor.insert %w into %s[%c2] : tensor<3xf32>
  %r = tensor.insert_slice %t into %f[%c2, 0] [1, 3] [1, 2] : tensor<3xf32> into tensor<4x6xf32>
  func.return %r : tensor<4x6xf32>
}
""",
        ramp(4, 6),
        copies=0,
    ),
    case(
        "slice_written_but_the_whole_is_read",
        """
func.func @main(%v: f32) -> (tensor<6xf32>, f32) {
  %c0 = arith.constant 0 : index
  %e = tensor.empty() : tensor<6xf32>
  %f = linalg.fill ins(%v : f32) outs(%e : tensor<6xf32>) -> tensor<6xf32>
  %two = arith.addf %v, %v : f32
  %s = tensor.extract_slice %f[0] [2] [1] : tensor<6xf32> to tensor<2xf32>
  %t = tensor.insert %two into %s[%c0] : tensor<2xf32>
  %old = tensor.extract %f[%c0] : tensor<6xf32>
  %r = tensor.insert_slice %t into %f[0] [2] [1] : tensor<2xf32> into tensor<6xf32>
  func.return %r, %old : tensor<6xf32>, f32
}
""",
        np.array(3, F),
    ),
    case(
        "branches_give_different_tensors",
        """
func.func @main(%x: tensor<?xf32>, %y: tensor<?xf32>, %a: tensor<2xf32>, %b: tensor<2xf32>, %p: i1) -> (tensor<?xf32>, tensor<2xf32>, tensor<2xf32>) {
  %c0 = arith.constant 0 : index
  %v = arith.constant 9.0 : f32
  %r, %s = scf.if %p -> (tensor<?xf32>, tensor<2xf32>) {
    %w = tensor.insert %v into %x[%c0] : tensor<?xf32>
    scf.yield %w, %a : tensor<?xf32>, tensor<2xf32>
  } else {
    %w = tensor.insert %v into %b[%c0] : tensor<2xf32>
    scf.yield %y, %w : tensor<?xf32>, tensor<2xf32>
  }
  %z = arith.select %p, %a, %b : i1, tensor<2xf32>
  func.return %r, %s, %z : tensor<?xf32>, tensor<2xf32>, tensor<2xf32>
}
""".replace(": i1, tensor<2xf32>", ": tensor<2xf32>"),
        ramp(3),
        ramp(5),
        ramp(2),
        ramp(2) + 5,
        np.array(False),
    ),
    case(
        "a_tensor_grows_in_a_loop",
        """
func.func @main(%x: tensor<?xf32>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c3 = arith.constant 3 : index
  %v = arith.constant 9.0 : f32
  %r = scf.for %i = %c0 to %c3 step %c1 iter_args(%t = %x) -> (tensor<?xf32>) {
    %n = tensor.dim %t, %c0 : tensor<?xf32>
    %m = arith.addi %n, %c1 : index
    %e = tensor.empty(%m) : tensor<?xf32>
    %p = tensor.insert_slice %t into %e[0] [%n] [1] : tensor<?xf32> into tensor<?xf32>
    %q = tensor.insert %v into %p[%n] : tensor<?xf32>
    scf.yield %q : tensor<?xf32>
  }
  func.return %r : tensor<?xf32>
}
""",
        ramp(2),
    ),
    case(
        "while_halves_until_small",
        """
func.func @main(%x: tensor<3xf32>, %d: tensor<?xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<?xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %one = arith.constant 1.0 : f32
  %half = arith.constant 0.5 : f32
  %r, %s, %u = scf.while (%t = %x, %g = %d) : (tensor<3xf32>, tensor<?xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<?xf32>) {
    %e = tensor.extract %t[%c0] : tensor<3xf32>
    %p = arith.cmpf ogt, %e, %one : f32
    %other = tensor.insert %half into %t[%c1] : tensor<3xf32>
    scf.condition(%p) %t, %other, %g : tensor<3xf32>, tensor<3xf32>, tensor<?xf32>
  } do {
  ^bb0(%t: tensor<3xf32>, %o: tensor<3xf32>, %g: tensor<?xf32>):
    %e = tensor.extract %t[%c0] : tensor<3xf32>
    %m = arith.mulf %e, %half : f32
    %n = tensor.insert %m into %o[%c0] : tensor<3xf32>
    %l = tensor.dim %g, %c0 : tensor<?xf32>
    %k = arith.subi %l, %c1 : index
    %h = tensor.extract_slice %g[1] [%k] [1] : tensor<?xf32> to tensor<?xf32>
    scf.yield %n, %h : tensor<3xf32>, tensor<?xf32>
  }
  func.return %r, %s, %u : tensor<3xf32>, tensor<3xf32>, tensor<?xf32>
}
""",
        np.array([8, 2, 3], F),
        ramp(9),
    ),
    case(
        "reshapes_of_slices_casts_and_elements",
        """
func.func @main(%x: tensor<4x6xf32>, %i: i64) -> (tensor<8xf32>, tensor<2x2xf32>, tensor<?xf32>, tensor<2xi64>) {
  %s = tensor.extract_slice %x[0, 1] [4, 2] [1, 1] : tensor<4x6xf32> to tensor<4x2xf32>
  %c = tensor.collapse_shape %s [[0, 1]] : tensor<4x2xf32> into tensor<8xf32>
  %l = tensor.extract_slice %x[0, 3] [4, 1] [1, 1] : tensor<4x6xf32> to tensor<4xf32>
  %d = tensor.expand_shape %l [[0, 1]] output_shape [2, 2] : tensor<4xf32> into tensor<2x2xf32>
  %a = tensor.cast %l : tensor<4xf32> to tensor<?xf32>
  %f = tensor.from_elements %i, %i : tensor<2xi64>
  func.return %c, %d, %a, %f : tensor<8xf32>, tensor<2x2xf32>, tensor<?xf32>, tensor<2xi64>
}
""",
        ramp(4, 6),
        np.array(4),
    ),
    case(
        "scalars_booleans_halves_and_nothing",
        """
func.func @main(%x: tensor<f16>, %p: tensor<3xi1>, %none: tensor<0x4xf32>) -> (tensor<f16>, tensor<3xi1>, tensor<0x4xf32>, tensor<4xf32>) {
  %true = arith.constant true
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<3xi1>
  %n = linalg.generic {indexing_maps = [affine_map<(d) -> (d)>, affine_map<(d) -> (d)>], iterator_types = ["parallel"]} ins(%p : tensor<3xi1>) outs(%e : tensor<3xi1>) {
  ^bb0(%a: i1, %acc: i1):
    %s = arith.xori %a, %true : i1
    linalg.yield %s : i1
  } -> tensor<3xi1>
  %h = tensor.empty() : tensor<f16>
  %y = linalg.generic {indexing_maps = [affine_map<() -> ()>, affine_map<() -> ()>], iterator_types = []} ins(%x : tensor<f16>) outs(%h : tensor<f16>) {
  ^bb0(%a: f16, %acc: f16):
    %s = arith.addf %a, %a : f16
    linalg.yield %s : f16
  } -> tensor<f16>
  %z = tensor.empty() : tensor<4xf32>
  %zf = linalg.fill ins(%zero : f32) outs(%z : tensor<4xf32>) -> tensor<4xf32>
  %sum = linalg.generic {indexing_maps = [affine_map<(c, r) -> (r, c)>, affine_map<(c, r) -> (c)>], iterator_types = ["parallel", "reduction"]} ins(%none : tensor<0x4xf32>) outs(%zf : tensor<4xf32>) {
  ^bb0(%a: f32, %acc: f32):
    %s = arith.addf %a, %acc : f32
    linalg.yield %s : f32
  } -> tensor<4xf32>
  func.return %y, %n, %none, %sum : tensor<f16>, tensor<3xi1>, tensor<0x4xf32>, tensor<4xf32>
}
""",
        np.array(1.5, np.float16),
        np.array([True, False, True]),
        np.zeros((0, 4), F),
    ),
    case(
        "returned_twice_argument_and_constant",
        """
func.func @main(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) {
  %c0 = arith.constant 0 : index
  %v = arith.constant 9.0 : f32
  %c = arith.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %y = tensor.insert %v into %c[%c0] : tensor<2xf32>
  func.return %y, %y, %x, %c : tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>
}
""",
        ramp(2),
    ),
]


def parse(text: str) -> tuple[ModuleOp, object]:
    ctx = new_context(DIALECTS)
    return parse_module(ctx, text), ctx


def run_pass(name: str, module: ModuleOp, ctx) -> None:
    load_entry(PASSES[name])().apply(ctx, module)
    verify_module(module)


@pytest.mark.parametrize("text, inputs, copies", CASES)
def test_every_stage_means_the_same(text, inputs, copies):
    module, ctx = parse(text)
    want = interpret(module, inputs, ctx)
    for stage in STAGES:
        run_pass(stage, module, ctx)
        if stage == "bufferize" and copies is not None:
            assert sum(op.name == "memref.copy" for op in module.walk()) == copies
        got = interpret(module, [x.copy() for x in inputs], ctx)
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert g.shape == w.shape and g.dtype == w.dtype, stage
            np.testing.assert_array_equal(g, w, err_msg=stage)


@pytest.mark.skipif(MLIR_OPT is None, reason="needs mlir-opt 22")
def test_upstream_reads_the_buffers():
    for parameter in CASES:
        module, ctx = parse(parameter.values[0])
        for stage in STAGES[:2]:
            run_pass(stage, module, ctx)
        text = print_module(module, generic=True)
        result = subprocess.run([MLIR_OPT], input=text, capture_output=True, text=True)
        assert result.returncode == 0, f"{parameter.id}: {result.stderr}"


class Program:
    """A random function that reads, writes, slices and carries tensors of extents 6 and 3 in every order."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def pick(self, values: list[str]) -> str:
        # Newer values more often, but old ones too: those are the conflicts.
        return values[-1 - min(int(self.random.exponential(1.5)), len(values) - 1)]

    def emit(self, text: str) -> str:
        name = self.name()
        self.lines.append(f"{name} = {text}")
        return name

    def block(self, big: list[str], small: list[str], scalars: list[str], depth: int, length: int) -> None:
        """Append ops that use the values in scope and add to them."""
        for _ in range(length):
            kind = self.random.integers(0, 11 if depth else 9)
            i, j = self.random.integers(0, 6), self.random.integers(0, 4)
            match kind:
                case 0 | 1:
                    big.append(
                        self.emit(
                            f"tensor.insert {self.pick(scalars)} into {self.pick(big)}[%c{i}] : tensor<6xf32>"
                        )
                    )
                case 2:
                    a, b = (
                        self.pick(scalars),
                        self.emit(f"tensor.extract {self.pick(big)}[%c{i}] : tensor<6xf32>"),
                    )
                    scalars.append(self.emit(f"arith.addf {a}, {b} : f32"))
                case 3:
                    small.append(
                        self.emit(
                            f"tensor.extract_slice {self.pick(big)}[{j}] [3] [1] : tensor<6xf32> to tensor<3xf32>"
                        )
                    )
                case 4:
                    small.append(
                        self.emit(
                            f"tensor.insert {self.pick(scalars)} into {self.pick(small)}[%c{i % 3}] : tensor<3xf32>"
                        )
                    )
                case 5:
                    big.append(
                        self.emit(
                            f"tensor.insert_slice {self.pick(small)} into {self.pick(big)}[{j}] [3] [1]"
                            " : tensor<3xf32> into tensor<6xf32>"
                        )
                    )
                case 6:
                    # A slice taken, written and put back: in place where nothing else reads it.
                    whole = self.pick(big)
                    taken = self.emit(
                        f"tensor.extract_slice {whole}[{j}] [3] [1] : tensor<6xf32> to tensor<3xf32>"
                    )
                    new = self.emit(
                        f"tensor.insert {self.pick(scalars)} into {taken}[%c{i % 3}] : tensor<3xf32>"
                    )
                    big.append(
                        self.emit(
                            f"tensor.insert_slice {new} into {whole}[{j}] [3] [1] : tensor<3xf32> into tensor<6xf32>"
                        )
                    )
                case 7:
                    a = self.emit(f"tensor.extract {self.pick(small)}[%c{i % 3}] : tensor<3xf32>")
                    scalars.append(self.emit(f"arith.addf {a}, {self.pick(scalars)} : f32"))
                case 8:
                    view = self.emit(
                        f"tensor.expand_shape {self.pick(big)} [[0, 1]] output_shape [2, 3]"
                        " : tensor<6xf32> into tensor<2x3xf32>"
                    )
                    new = self.emit(
                        f"tensor.insert {self.pick(scalars)} into {view}[%c1, %c{i % 3}] : tensor<2x3xf32>"
                    )
                    big.append(
                        self.emit(
                            f"tensor.collapse_shape {new} [[0, 1]] : tensor<2x3xf32> into tensor<6xf32>"
                        )
                    )
                case 9:
                    self.loop(big, small, scalars, depth)
                case _:
                    self.branch(big, small, scalars, depth)

    def loop(self, big: list[str], small: list[str], scalars: list[str], depth: int) -> None:
        a, b, result = self.name(), self.name(), self.name()
        types = "tensor<6xf32>, tensor<6xf32>"
        self.lines.append(
            f"{result}:2 = scf.for {self.name()} = %c0 to %c3 step %c1 iter_args({a} = {self.pick(big)},"
            f" {b} = {self.pick(big)}) -> ({types}) {{"
        )
        inner = [*big, a, b]
        self.block(inner, list(small), list(scalars), depth - 1, 5)
        self.lines.append(f"scf.yield {self.pick(inner)}, {self.pick(inner)} : {types}")
        self.lines.append("}")
        big += [f"{result}#0", f"{result}#1"]

    def branch(self, big: list[str], small: list[str], scalars: list[str], depth: int) -> None:
        limit = self.emit("arith.constant 4.0 : f32")
        condition = self.emit(f"arith.cmpf ogt, {self.pick(scalars)}, {limit} : f32")
        result = self.name()
        self.lines.append(f"{result} = scf.if {condition} -> (tensor<6xf32>) {{")
        for separator in ("} else {", "}"):
            inner = list(big)
            self.block(inner, list(small), list(scalars), depth - 1, 3)
            self.lines.append(f"scf.yield {self.pick(inner)} : tensor<6xf32>")
            self.lines.append(separator)
        big.append(result)

    def text(self) -> str:
        big, small, scalars = ["%x", "%e"], ["%y"], ["%s"]
        self.lines += [f"%c{i} = arith.constant {i} : index" for i in range(6)]
        empty = self.emit("tensor.empty() : tensor<6xf32>")
        self.lines.append(f"%e = linalg.fill ins(%s : f32) outs({empty} : tensor<6xf32>) -> tensor<6xf32>")
        self.block(big, small, scalars, 2, 12)
        returned = [self.pick(big), self.pick(big), self.pick(small)]
        types = "tensor<6xf32>, tensor<6xf32>, tensor<3xf32>"
        body = "\n".join(self.lines)
        return (
            f"func.func @main(%x: tensor<6xf32>, %y: tensor<3xf32>, %s: f32) -> ({types}) {{\n{body}\n"
            f"func.return {', '.join(returned)} : {types}\n}}"
        )


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_mean_the_same(seed):
    text = Program(seed).text()
    module, ctx = parse(text)
    inputs = (ramp(6), ramp(3) + 2, np.array(3, F))
    want = interpret(module, [x.copy() for x in inputs], ctx)
    for stage in ("linalg-to-loops", "bufferize", "plan-memory"):
        run_pass(stage, module, ctx)
        got = interpret(module, [x.copy() for x in inputs], ctx)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_array_equal(g, w, err_msg=f"{stage}\n{text}")
