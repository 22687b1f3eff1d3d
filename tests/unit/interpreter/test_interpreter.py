"""The interpreter of the tensor, loops and memref levels, against numpy."""

import numpy as np
import pytest

from stepwell.compat import new_context, parse_module
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS


def run(text: str, *inputs: np.ndarray) -> list[np.ndarray]:
    ctx = new_context(DIALECTS)
    return interpret(parse_module(ctx, text), inputs, ctx)


def small(*shape: int, seed: int = 0) -> np.ndarray:
    """Small integers as floats, so that sums are exact in any order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


CONTRACTION = """
func.func @main(%a: {a}, %b: {b}, %c: {c}) -> {c} {{
  %r = linalg.generic {{indexing_maps = [{maps}], iterator_types = [{iterators}]}}
      ins(%a, %b : {a}, {b}) outs(%c : {c}) {{
  ^bb0(%x: f32, %y: f32, %acc: f32):
    %m = arith.mulf %x, %y : f32
    %s = arith.addf %acc, %m : f32
    linalg.yield %s : f32
  }} -> {c}
  func.return %r : {c}
}}
"""


def _contraction(a: list[int], b: list[int], c: list[int], maps: list[str], iterators: str) -> str:
    kinds = {"p": '"parallel"', "r": '"reduction"'}
    return CONTRACTION.format(
        a=f"tensor<{'x'.join(map(str, a))}xf32>", b=f"tensor<{'x'.join(map(str, b))}xf32>",
        c=f"tensor<{'x'.join(map(str, c))}xf32>", maps=", ".join(f"affine_map<{m}>" for m in maps),
        iterators=", ".join(kinds[i] for i in iterators),
    )  # fmt: skip


def test_batched_matmul_with_a_transposed_operand():
    d = "(d0, d1, d2, d3) -> "
    text = _contraction(
        [2, 3, 5], [4, 5], [2, 3, 4], [d + "(d0, d1, d3)", d + "(d2, d3)", d + "(d0, d1, d2)"], "pppr"
    )
    a, b, c = small(2, 3, 5), small(4, 5, seed=1), small(2, 3, 4, seed=2)
    np.testing.assert_array_equal(run(text, a, b, c)[0], c + np.einsum("bmk,nk->bmn", a, b))


def test_strided_convolution():
    d = "(d0, d1, d2, d3, d4, d5, d6) -> "
    maps = [d + "(d0, d1 * 2 + d4, d2 * 2 + d5, d6)", d + "(d4, d5, d6, d3)", d + "(d0, d1, d2, d3)"]
    text = _contraction([1, 7, 9, 3], [3, 3, 3, 4], [1, 3, 4, 4], maps, "pppprrr")
    x, w, c = small(1, 7, 9, 3), small(3, 3, 3, 4, seed=1), np.zeros((1, 3, 4, 4), np.float32)
    want = np.zeros_like(c)
    for i in range(3):
        for j in range(4):
            want[0, i, j] = np.einsum("hwc,hwco->o", x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], w)
    np.testing.assert_array_equal(run(text, x, w, c)[0], want)


def test_packed_operand_is_read_through_floordiv_and_mod():
    d = "(d0, d1, d2) -> "
    maps = [d + "(d0, d2)", d + "(d1 floordiv 4, d2, d1 mod 4)", d + "(d0, d1)"]
    text = _contraction([3, 5], [2, 5, 4], [3, 6], maps, "ppr")
    a, p, c = small(3, 5), small(2, 5, 4, seed=1), np.zeros((3, 6), np.float32)
    want = a @ p.transpose(1, 0, 2).reshape(5, 8)[:, :6]
    np.testing.assert_array_equal(run(text, a, p, c)[0], want)


def test_reduction_with_two_results_runs_point_by_point():
    text = """
    func.func @main(%x: tensor<3x5xf32>) -> tensor<3xi64> {
      %low = arith.constant 0xFF800000 : f32
      %zero = arith.constant 0 : i64
      %e = tensor.empty() : tensor<3xf32>
      %i = tensor.empty() : tensor<3xi64>
      %m = linalg.fill ins(%low : f32) outs(%e : tensor<3xf32>) -> tensor<3xf32>
      %z = linalg.fill ins(%zero : i64) outs(%i : tensor<3xi64>) -> tensor<3xi64>
      %r:2 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>,
          affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]}
          ins(%x : tensor<3x5xf32>) outs(%m, %z : tensor<3xf32>, tensor<3xi64>) {
      ^bb0(%v: f32, %best: f32, %at: i64):
        %k = linalg.index 1 : index
        %n = arith.index_cast %k : index to i64
        %more = arith.cmpf ogt, %v, %best : f32
        %b = arith.select %more, %v, %best : f32
        %a = arith.select %more, %n, %at : i64
        linalg.yield %b, %a : f32, i64
      } -> (tensor<3xf32>, tensor<3xi64>)
      func.return %r#1 : tensor<3xi64>
    }"""
    x = small(3, 5, seed=3)
    np.testing.assert_array_equal(run(text, x)[0], x.argmax(1))


def test_maximum_over_windows_keeps_nan():
    text = """
    func.func @main(%x: tensor<6xf32>) -> tensor<4xf32> {
      %low = arith.constant 0xFF800000 : f32
      %e = tensor.empty() : tensor<4xf32>
      %w = tensor.empty() : tensor<3xf32>
      %m = linalg.fill ins(%low : f32) outs(%e : tensor<4xf32>) -> tensor<4xf32>
      %r = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0 + d1)>, affine_map<(d0, d1) -> (d1)>,
          affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]}
          ins(%x, %w : tensor<6xf32>, tensor<3xf32>) outs(%m : tensor<4xf32>) {
      ^bb0(%v: f32, %unused: f32, %best: f32):
        %b = arith.maximumf %v, %best : f32
        linalg.yield %b : f32
      } -> tensor<4xf32>
      func.return %r : tensor<4xf32>
    }"""
    x = np.array([1, 5, 2, np.nan, 0, 0], np.float32)
    np.testing.assert_array_equal(run(text, x)[0], np.array([5, np.nan, np.nan, np.nan], np.float32))


@pytest.mark.parametrize(
    ("op", "a", "b", "want"),
    [
        ("divsi", 7, 0, 0),
        ("divsi", -(2**31), -1, -(2**31)),
        ("divsi", -7, 2, -3),
        ("floordivsi", -7, 2, -4),
        ("remsi", -7, 2, -1),
        ("remsi", 5, 0, 0),
        ("divui", -1, 2, 2**31 - 1),
        ("shli", 1, 32, 0),
        ("shrsi", -8, 1, -4),
        ("shrui", -1, 31, 1),
        ("maxui", -1, 1, -1),
        ("addi", 2**31 - 1, 1, -(2**31)),
    ],
)
def test_integers_never_trap(op: str, a: int, b: int, want: int):
    text = f"""
    func.func @main(%a: tensor<i32>, %b: tensor<i32>) -> tensor<i32> {{
      %x = tensor.extract %a[] : tensor<i32>
      %y = tensor.extract %b[] : tensor<i32>
      %r = arith.{op} %x, %y : i32
      %t = tensor.from_elements %r : tensor<i32>
      func.return %t : tensor<i32>
    }}"""
    (got,) = run(text, np.array(a, np.int32), np.array(b, np.int32))
    assert got == want


def test_extract_outside_is_an_error():
    text = """
    func.func @main(%a: tensor<3xf32>) -> tensor<f32> {
      %i = arith.constant 3 : index
      %x = tensor.extract %a[%i] : tensor<3xf32>
      %t = tensor.from_elements %x : tensor<f32>
      func.return %t : tensor<f32>
    }"""
    with pytest.raises(Exception, match="leaves the extent 3 of axis 0"):
        run(text, small(3))


def test_loop_inserts_in_place_and_leaves_its_input_alone():
    text = """
    func.func @main(%x: tensor<?xf32>) -> (tensor<?xf32>, tensor<?xf32>) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %n = tensor.dim %x, %c0 : tensor<?xf32>
      %r = scf.for %i = %c1 to %n step %c1 iter_args(%t = %x) -> (tensor<?xf32>) {
        %j = arith.subi %i, %c1 : index
        %a = tensor.extract %t[%j] : tensor<?xf32>
        %b = tensor.extract %t[%i] : tensor<?xf32>
        %s = arith.addf %a, %b : f32
        %u = tensor.insert %s into %t[%i] : tensor<?xf32>
        scf.yield %u : tensor<?xf32>
      }
      func.return %r, %x : tensor<?xf32>, tensor<?xf32>
    }"""
    x = small(7)
    total, before = run(text, x.copy())
    np.testing.assert_array_equal(total, x.cumsum())
    np.testing.assert_array_equal(before, x)


def test_pad_and_slices():
    text = """
    func.func @main(%x: tensor<3x4xf32>) -> tensor<4x7xf32> {
      %v = arith.constant 9.0 : f32
      %p = tensor.pad %x low[1, 2] high[0, 1] {
      ^bb0(%i: index, %j: index):
        tensor.yield %v : f32
      } : tensor<3x4xf32> to tensor<4x7xf32>
      %s = tensor.extract_slice %x[0, 1] [3, 2] [1, 2] : tensor<3x4xf32> to tensor<3x2xf32>
      %r = tensor.insert_slice %s into %p[1, 0] [3, 2] [1, 3] : tensor<3x2xf32> into tensor<4x7xf32>
      func.return %r : tensor<4x7xf32>
    }"""
    x = small(3, 4)
    want = np.pad(x, ((1, 0), (2, 1)), constant_values=9)
    want[1:4, 0:6:3] = x[:, 1::2]
    np.testing.assert_array_equal(run(text, x)[0], want)


def test_forall_with_vectors_and_a_masked_tail():
    text = """
    func.func @main(%x: tensor<10xf32>, %o: tensor<10xf32>) -> tensor<10xf32> {
      %pad = arith.constant 0.0 : f32
      %c0 = arith.constant 0 : index
      %r = scf.forall (%i) = (0) to (10) step (4) shared_outs(%out = %o) -> (tensor<10xf32>) {
        %c10 = arith.constant 10 : index
        %c4 = arith.constant 4 : index
        %left = arith.subi %c10, %i : index
        %n = arith.minsi %left, %c4 : index
        %s = tensor.extract_slice %out[%i] [%n] [1] : tensor<10xf32> to tensor<?xf32>
        %v = vector.transfer_read %x[%i], %pad {permutation_map = affine_map<(d0) -> (d0)>, in_bounds = [false]}
            : tensor<10xf32>, vector<4xf32>
        %w = arith.addf %v, %v : vector<4xf32>
        %t = vector.transfer_write %w, %s[%c0] {permutation_map = affine_map<(d0) -> (d0)>, in_bounds = [false]}
            : vector<4xf32>, tensor<?xf32>
        scf.forall.in_parallel {
          tensor.parallel_insert_slice %t into %out[%i] [%n] [1] : tensor<?xf32> into tensor<10xf32>
        }
      }
      func.return %r : tensor<10xf32>
    }"""
    x = small(10)
    np.testing.assert_array_equal(run(text, x, np.zeros(10, np.float32))[0], x + x)


def test_launch_views_of_a_poisoned_arena():
    text = """
    "memref.global"() <{sym_name = "w", sym_visibility = "private", type = memref<4xf32>, constant,
        initial_value = dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>}> : () -> ()
    func.func private @scale(%x: memref<4xf32>, %w: memref<4xf32>, %y: memref<4xf32>, %begin: index, %end: index) {
      %c1 = arith.constant 1 : index
      scf.for %i = %begin to %end step %c1 {
        %a = memref.load %x[%i] : memref<4xf32>
        %b = memref.load %w[%i] : memref<4xf32>
        %p = arith.mulf %a, %b : f32
        memref.store %p, %y[%i] : memref<4xf32>
      }
      func.return
    }
    func.func @main(%x: memref<4xf32>) -> memref<4xf32> {
      %size = arith.constant 128 : index
      %c4 = arith.constant 4 : index
      %c64 = arith.constant 64 : index
      %arena = schedule.arena [%size] : memref<?xi8>
      %t = memref.view %arena[%c64][] : memref<?xi8> to memref<4xf32>
      %w = memref.get_global @w : memref<4xf32>
      %n = arith.constant 3 : index
      schedule.launch @scale [%n] (%x, %w, %t) : (memref<4xf32>, memref<4xf32>, memref<4xf32>)
      %o = memref.alloc() : memref<4xf32>
      "memref.copy"(%t, %o) : (memref<4xf32>, memref<4xf32>) -> ()
      func.return %o : memref<4xf32>
    }"""
    x = small(4)
    (got,) = run(text, x)
    np.testing.assert_array_equal(got[:3], (x * np.arange(1, 5, dtype=np.float32))[:3])
    assert np.isnan(got[3]), "what no tile wrote is poison"


def test_calls_that_share_a_destination_have_results_of_their_own():
    text = """
    func.func private @put(%x: tensor<f32>, %out: tensor<f32>) -> tensor<f32> {
      %v = tensor.extract %x[] : tensor<f32>
      %r = tensor.insert %v into %out[] : tensor<f32>
      func.return %r : tensor<f32>
    }
    func.func @main(%a: tensor<f32>, %b: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
      %e = tensor.empty() : tensor<f32>
      %r = func.call @put(%a, %e) : (tensor<f32>, tensor<f32>) -> tensor<f32>
      %s = func.call @put(%b, %e) : (tensor<f32>, tensor<f32>) -> tensor<f32>
      func.return %r, %s : tensor<f32>, tensor<f32>
    }
    """
    first, second = run(text, np.float32(1), np.float32(2))
    assert (first, second) == (1, 2)
