"""Vectors of any rank and every kind of transfer, unrolled, compiled and run, against numpy."""

import numpy as np
import pytest
from native import build, call, llvm_ir, lower, needs_clang
from xdsl.dialects.builtin import VectorType
from xdsl.utils.exceptions import PassFailedException

from stepwell.transforms.vector.unroller import widths

_HEAD = """
#id = affine_map<(d0, d1) -> (d0, d1)>
#swap = affine_map<(d0, d1) -> (d1, d0)>
#row = affine_map<(d0, d1) -> (d0, 0)>
#col = affine_map<(d0, d1) -> (0, d1)>
#down = affine_map<(d0, d1) -> (d0)>
"""


def _kernel(name: str, arguments: str, body: str) -> str:
    return f"""
func.func private @{name}({arguments}, %begin: index, %end: index) attributes {{stepwell.kernel}} {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c2 = arith.constant 2 : index
  %c3 = arith.constant 3 : index
  %pad = arith.constant -7.0 : f32
  {body}
  func.return
}}"""


def _run(tmp_path, text: str, buffers, dims=(), name: str = "k") -> None:
    module = lower(_HEAD + text)
    call(build(llvm_ir(module), tmp_path), name, list(buffers), list(dims))


def _padded(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, -7, x.dtype)
    part = tuple(slice(0, min(a, b)) for a, b in zip(shape, x.shape, strict=True))
    out[part] = x[part]
    return out


_RNG = np.random.default_rng(0)


def _floats(*shape: int) -> np.ndarray:
    return _RNG.integers(-9, 9, shape).astype(np.float32)


def test_widths_are_falling_powers_of_two():
    assert widths(48, 64) == [32, 16]
    assert widths(200, 64) == [64, 64, 64, 8]
    assert widths(1, 64) == [1]


@needs_clang
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 1), (2, 5), (3, 16), (4, 17), (9, 40)])
def test_a_masked_tile_reads_padding_and_writes_only_what_exists(tmp_path, rows, columns):
    text = _kernel(
        "k",
        "%x: memref<?x?xf32>, %o: memref<4x20xf32>, %p: memref<?x?xf32>",
        """
  %v = vector.transfer_read %x[%c0, %c0], %pad {permutation_map = #id, in_bounds = [false, false]} : memref<?x?xf32>, vector<4x20xf32>
  vector.transfer_write %v, %o[%c0, %c0] {permutation_map = #id, in_bounds = [true, true]} : vector<4x20xf32>, memref<4x20xf32>
  vector.transfer_write %v, %p[%c0, %c0] {permutation_map = #id, in_bounds = [false, false]} : vector<4x20xf32>, memref<?x?xf32>""",
    )
    x, o = _floats(rows, columns), np.zeros((4, 20), np.float32)
    p = np.full((rows, columns), 3, np.float32)
    _run(tmp_path, text, [x, o, p], [rows, columns, rows, columns])
    assert np.array_equal(o, _padded(x, (4, 20)))
    want = np.full((rows, columns), 3, np.float32)
    want[:4, :20] = x[:4, :20]
    assert np.array_equal(p, want)


@needs_clang
@pytest.mark.parametrize(("rows", "columns"), [(4, 20), (3, 17), (1, 1), (2, 3)])
def test_a_row_that_does_not_exist_is_the_last_one_where_nobody_keeps_it(tmp_path, rows, columns):
    x, y = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns), np.zeros((4, 20), np.float32)
    text = _kernel(
        "k",
        "%x: memref<?x?xf32>, %y: memref<4x20xf32>",
        """%any = ub.poison : f32
  %v = vector.transfer_read %x[%c0, %c0], %any {permutation_map = #id, in_bounds = [false, false]} : memref<?x?xf32>, vector<4x20xf32>
  vector.transfer_write %v, %y[%c0, %c0] {permutation_map = #id, in_bounds = [true, true]} : vector<4x20xf32>, memref<4x20xf32>""",
    )
    _run(tmp_path, text, [x, y], [rows, columns])
    read = [min(row, rows - 1) for row in range(4)]
    np.testing.assert_array_equal(y[:, :columns], x[read])


@needs_clang
def test_permuted_broadcast_and_strided_reads(tmp_path):
    text = _kernel(
        "k",
        "%x: memref<5x?xf32>, %o: memref<7x8x4xf32>, %i: index",
        """
  %s = memref.subview %x[0, 1] [5, 3] [1, 2] : memref<5x?xf32> to memref<5x3xf32, strided<[?, 2], offset: 1>>
  %d = memref.subview %x[%i, 1] [3, 4] [1, 1] : memref<5x?xf32> to memref<3x4xf32, strided<[?, 1], offset: ?>>
  %a = vector.transfer_read %x[%c0, %c1], %pad {permutation_map = #swap, in_bounds = [false, false]} : memref<5x?xf32>, vector<8x4xf32>
  %b = vector.transfer_read %s[%c0, %c0], %pad {permutation_map = #id, in_bounds = [false, false]} : memref<5x3xf32, strided<[?, 2], offset: 1>>, vector<8x4xf32>
  %c = vector.transfer_read %d[%c0, %c0], %pad {permutation_map = #row, in_bounds = [false, true]} : memref<3x4xf32, strided<[?, 1], offset: ?>>, vector<8x4xf32>
  %e = vector.transfer_read %d[%c1, %c2], %pad {permutation_map = #col, in_bounds = [true, false]} : memref<3x4xf32, strided<[?, 1], offset: ?>>, vector<8x4xf32>
  %f = vector.transfer_read %x[%c0, %c3], %pad {permutation_map = #down, in_bounds = [false]} : memref<5x?xf32>, vector<8xf32>
  %g = vector.shape_cast %f : vector<8xf32> to vector<8x1xf32>
  %h = vector.broadcast %g : vector<8x1xf32> to vector<8x4xf32>
  %t = vector.transpose %a, [1, 0] : vector<8x4xf32> to vector<4x8xf32>
  %u = vector.shape_cast %t : vector<4x8xf32> to vector<8x4xf32>
  %w = vector.shape_cast %a : vector<8x4xf32> to vector<4x8xf32>
  %v0, %v1 = vector.deinterleave %w : vector<4x8xf32> -> vector<4x4xf32>
  %v2 = arith.subf %v1, %v0 : vector<4x4xf32>
  %v3 = vector.shape_cast %v2 : vector<4x4xf32> to vector<1x4x4xf32>
  %v4 = vector.broadcast %v3 : vector<1x4x4xf32> to vector<2x4x4xf32>
  %v = vector.shape_cast %v4 : vector<2x4x4xf32> to vector<8x4xf32>
  """
        + "\n".join(
            f"""  %k{n} = arith.constant {n} : index
  vector.transfer_write %{v}, %o[%k{n}, %c0, %c0] {{permutation_map = affine_map<(d0, d1, d2) -> (d1, d2)>, in_bounds = [true, true]}} : vector<8x4xf32>, memref<7x8x4xf32>"""
            for n, v in enumerate("abcehuv")
        ),
    )
    x, o = _floats(5, 9), np.zeros((7, 8, 4), np.float32)
    _run(tmp_path, text, [x, o], [9, 2])
    assert np.array_equal(o[0], _padded(x.T[1:], (8, 4)))
    assert np.array_equal(o[1], _padded(x[:, 1:7:2], (8, 4)))
    assert np.array_equal(o[2], _padded(np.repeat(x[2:5, 1:2], 4, 1), (8, 4)))
    assert np.array_equal(o[3], np.repeat(_padded(x[3:4, 3:5], (1, 4)), 8, 0))
    assert np.array_equal(o[4], np.repeat(_padded(x[:, 3:4], (8, 1)), 4, 1))
    assert np.array_equal(o[5], o[0].T.reshape(8, 4))
    pairs = o[0].reshape(4, 4, 2)
    assert np.array_equal(o[6].reshape(2, 4, 4), np.stack([pairs[..., 1] - pairs[..., 0]] * 2))


@needs_clang
def test_reductions_over_any_dims_and_odd_widths(tmp_path):
    text = _kernel(
        "k",
        "%x: memref<5x21xf32>, %n: memref<5x21xi32>, %o: memref<32xf32>, %m: memref<32xi32>",
        """
  %z = arith.constant 0 : i32
  %zero = arith.constant 0.0 : f32
  %zr = arith.constant dense<1.0> : vector<5xf32>
  %zc = arith.constant dense<1.0> : vector<21xf32>
  %mr = arith.constant dense<100> : vector<5xi32>
  %v = vector.transfer_read %x[%c0, %c0], %pad {permutation_map = #id, in_bounds = [true, true]} : memref<5x21xf32>, vector<5x21xf32>
  %w = vector.transfer_read %n[%c0, %c0], %z {permutation_map = #id, in_bounds = [true, true]} : memref<5x21xi32>, vector<5x21xi32>
  %r = vector.multi_reduction <add>, %v, %zr [1] : vector<5x21xf32> to vector<5xf32>
  %c = vector.multi_reduction <maximumf>, %v, %zc [0] : vector<5x21xf32> to vector<21xf32>
  %s = vector.multi_reduction <add>, %v, %zero [0, 1] : vector<5x21xf32> to f32
  %i = vector.multi_reduction <minsi>, %w, %mr [1] : vector<5x21xi32> to vector<5xi32>
  %j = vector.reduction <maxui>, %i : vector<5xi32> into i32
  %e = vector.extract %c[20] : f32 from vector<21xf32>
  %k5 = arith.constant 5 : index
  %k26 = arith.constant 26 : index
  %k27 = arith.constant 27 : index
  vector.transfer_write %r, %o[%c0] {in_bounds = [true]} : vector<5xf32>, memref<32xf32>
  vector.transfer_write %c, %o[%k5] {in_bounds = [true]} : vector<21xf32>, memref<32xf32>
  memref.store %s, %o[%k26] : memref<32xf32>
  memref.store %e, %o[%k27] : memref<32xf32>
  vector.transfer_write %i, %m[%c0] {in_bounds = [true]} : vector<5xi32>, memref<32xi32>
  memref.store %j, %m[%k5] : memref<32xi32>""",
    )
    x, n = _floats(5, 21), _RNG.integers(-99, 99, (5, 21)).astype(np.int32)
    o, m = np.zeros(32, np.float32), np.zeros(32, np.int32)
    _run(tmp_path, text, [x, n, o, m])
    assert np.array_equal(o[:5], x.sum(1) + 1)
    assert np.array_equal(o[5:26], np.maximum(x.max(0), 1))
    assert o[26] == x.sum()
    assert o[27] == max(x[:, 20].max(), 1)
    assert np.array_equal(m[:5], n.min(1))
    assert m[5] == n.min(1).view(np.uint32).max().view(np.int32)


@needs_clang
def test_carried_vectors_masks_steps_and_bools(tmp_path):
    text = _kernel(
        "k",
        "%x: memref<?xf32>, %b: memref<3x6xi1>, %o: memref<3x6xf32>, %q: memref<3x6xi1>, %s: memref<f32>",
        """
  %f = arith.constant false
  %zero = arith.constant dense<[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0], [12.0, 13.0, 14.0, 15.0, 16.0, 17.0]]> : vector<3x6xf32>
  %n = memref.dim %x, %c0 : memref<?xf32>
  %w:2 = scf.while (%i = %c0, %v = %zero) : (index, vector<3x6xf32>) -> (index, vector<3x6xf32>) {
    %more = arith.cmpi slt, %i, %n : index
    scf.condition(%more) %i, %v : index, vector<3x6xf32>
  } do {
  ^bb0(%i: index, %v: vector<3x6xf32>):
    %e = vector.transfer_read %x[%i], %pad {permutation_map = affine_map<(d0) -> ()>, in_bounds = []} : memref<?xf32>, vector<f32>
    %eb = vector.broadcast %e : vector<f32> to vector<3x6xf32>
    %odd = arith.remui %i, %c2 : index
    %is = arith.cmpi eq, %odd, %c1 : index
    %y = scf.if %is -> (vector<3x6xf32>) {
      %a = arith.addf %v, %eb : vector<3x6xf32>
      scf.yield %a : vector<3x6xf32>
    } else {
      %a = arith.subf %v, %eb : vector<3x6xf32>
      scf.yield %a : vector<3x6xf32>
    }
    %next = arith.addi %i, %c1 : index
    scf.yield %next, %y : index, vector<3x6xf32>
  }
  %mask = vector.create_mask %c2, %n : vector<3x6xi1>
  %step = vector.step : vector<6xindex>
  %si = arith.index_cast %step : vector<6xindex> to vector<6xi32>
  %sf = arith.sitofp %si : vector<6xi32> to vector<6xf32>
  %sb = vector.broadcast %sf : vector<6xf32> to vector<3x6xf32>
  %bv = vector.transfer_read %b[%c0, %c0], %f {permutation_map = #id, in_bounds = [true, true]} : memref<3x6xi1>, vector<3x6xi1>
  %both = arith.xori %bv, %mask : vector<3x6xi1>
  %r = arith.select %both, %w#1, %sb : vector<3x6xi1>, vector<3x6xf32>
  vector.transfer_write %r, %o[%c0, %c0] {permutation_map = #id, in_bounds = [true, true]} : vector<3x6xf32>, memref<3x6xf32>
  vector.transfer_write %both, %q[%c0, %c0] {permutation_map = #id, in_bounds = [true, true]} : vector<3x6xi1>, memref<3x6xi1>
  %t = vector.extract %w#1[2, 5] : f32 from vector<3x6xf32>
  %u = vector.broadcast %t : f32 to vector<f32>
  vector.transfer_write %u, %s[] {permutation_map = affine_map<() -> ()>, in_bounds = []} : vector<f32>, memref<f32>""",
    )
    x, b = _floats(5), _RNG.random((3, 6)) < 0.5
    o, q, s = np.zeros((3, 6), np.float32), np.zeros((3, 6), bool), np.zeros((), np.float32)
    _run(tmp_path, text, [x, b, o, q, s], [5])
    value = np.arange(18, dtype=np.float32).reshape(3, 6) + sum(v if i % 2 else -v for i, v in enumerate(x))
    mask = (np.arange(3)[:, None] < 2) & (np.arange(6) < 5)
    assert np.array_equal(q, b ^ mask)
    assert np.array_equal(o, np.where(b ^ mask, value, np.arange(6)))
    assert s == value[2, 5]


def test_the_vectors_left_are_of_rank_one_and_a_power_of_two_wide():
    text = _kernel(
        "k",
        "%x: memref<3x70xf32>, %o: memref<3x70xf32>",
        """
  %v = vector.transfer_read %x[%c0, %c0], %pad {permutation_map = #id, in_bounds = [true, true]} : memref<3x70xf32>, vector<3x70xf32>
  %w = arith.addf %v, %v : vector<3x70xf32>
  vector.transfer_write %w, %o[%c0, %c0] {permutation_map = #id, in_bounds = [true, true]} : vector<3x70xf32>, memref<3x70xf32>""",
    )
    module = lower(_HEAD + text, ("unroll-vectors",))
    shapes = [
        value.type.get_shape()
        for op in module.walk()
        for value in op.results
        if isinstance(value.type, VectorType)
    ]
    assert {shape[0] for shape in shapes} == {64, 4, 2}
    assert {len(shape) for shape in shapes} == {1}


def test_what_cannot_be_unrolled_is_an_error_that_says_what_to_do():
    text = _kernel(
        "k",
        "%x: memref<8x4xf32>, %i: index",
        """
  %v = vector.transfer_read %x[%c0, %c0], %pad {permutation_map = #id, in_bounds = [true, true]} : memref<8x4xf32>, vector<8x4xf32>
  %e = vector.extract %v[%i] : vector<4xf32> from vector<8x4xf32>
  vector.transfer_write %e, %x[%c0, %c0] {in_bounds = [true]} : vector<4xf32>, memref<8x4xf32>""",
    )
    with pytest.raises(
        PassFailedException, match=r"vector\.extract: extracts at a position known only at run time"
    ):
        lower(_HEAD + text, ("unroll-vectors",))
