"""What our own conversions emit, built by the real back end and run by the real runtime."""

import numpy as np
import pytest
from native import KERNEL_PASSES, llvm_ir, lower

from stepwell.backends.cpu import build_library
from stepwell.errors import RunError
from stepwell.runtime import load

# y = x + 5 w + step v[1], where step is 2 or 1 by `flag`; flat is x + 5 w, copied out of the arena.
MODEL = """
memref.global "private" constant @w : memref<64xf32> = dense_resource<w_key>
memref.global "private" constant @v : memref<2x64xf32> = dense_resource<v_key>
func.func private @add(%x: memref<?x64xf32>, %w: memref<64xf32>, %s: index, %o: memref<?x64xf32>,
    %begin: index, %end: index, %scratch: memref<?xi8>)
    attributes {stepwell.kernel, stepwell.scratch_bytes = 256 : i64} {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %pad = arith.constant 0.0 : f32
  %tmp = memref.view %scratch[%c0][] : memref<?xi8> to memref<64xf32>
  scf.for %t = %begin to %end step %c1 {
    %a = vector.transfer_read %x[%t, %c0], %pad {in_bounds = [true]} : memref<?x64xf32>, vector<64xf32>
    %b = vector.transfer_read %w[%c0], %pad {in_bounds = [true]} : memref<64xf32>, vector<64xf32>
    %si = arith.index_cast %s : index to i32
    %sf = arith.sitofp %si : i32 to f32
    %sv = vector.broadcast %sf : f32 to vector<64xf32>
    %f = vector.fma %b, %sv, %a : vector<64xf32>
    vector.transfer_write %f, %tmp[%c0] {in_bounds = [true]} : vector<64xf32>, memref<64xf32>
    %g = vector.transfer_read %tmp[%c0], %pad {in_bounds = [true]} : memref<64xf32>, vector<64xf32>
    vector.transfer_write %g, %o[%t, %c0] {in_bounds = [true]} : vector<64xf32>, memref<?x64xf32>
  }
  func.return
}
func.func @main(%x: memref<?x64xf32>, %flag: memref<i1>) -> (memref<?x64xf32>, memref<?xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c5 = arith.constant 5 : index
  %c256 = arith.constant 256 : index
  %c400 = arith.constant 400 : index
  %n = memref.dim %x, %c0 : memref<?x64xf32>
  %bytes = arith.muli %n, %c256 : index
  %arena = schedule.arena [%bytes] : memref<?xi8>
  %h = memref.view %arena[%c0][%n] : memref<?xi8> to memref<?x64xf32>
  %y = memref.alloc(%n) {stepwell.output = 0 : i64} : memref<?x64xf32>
  %w = memref.get_global @w : memref<64xf32>
  %v = memref.get_global @v : memref<2x64xf32>
  %v1 = memref.subview %v[1, 0] [1, 64] [1, 1]
    : memref<2x64xf32> to memref<64xf32, strided<[1], offset: 64>>
  schedule.launch @add [%n] (%x, %w, %c5, %h) {work = 1000 : i64}
    : (memref<?x64xf32>, memref<64xf32>, index, memref<?x64xf32>)
  %go = memref.load %flag[] : memref<i1>
  %step = scf.if %go -> (index) {
    %two = arith.constant 2 : index
    scf.yield %two : index
  } else {
    scf.yield %c1 : index
  }
  %v1c = memref.cast %v1 : memref<64xf32, strided<[1], offset: 64>> to memref<64xf32>
  schedule.launch @add [%n] (%h, %v1c, %step, %y) {work = 1000 : i64}
    : (memref<?x64xf32>, memref<64xf32>, index, memref<?x64xf32>)
  %flat = memref.collapse_shape %h [[0, 1]] : memref<?x64xf32> into memref<?xf32>
  %few = arith.cmpi ult, %n, %c400 : index
  cf.assert %few, "too many rows"
  func.return %y, %flat : memref<?x64xf32>, memref<?xf32>
}
"""
SIGNATURE = {
    "inputs": [
        {"name": "x", "dtype": "f32", "shape": ["n", 64]},
        {"name": "flag", "dtype": "i1", "shape": []},
    ],
    "outputs": [
        {"name": "y", "dtype": "f32", "shape": ["n", 64]},
        {"name": "flat", "dtype": "f32", "shape": ["64*n"]},
    ],
}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_host_with_launches_weights_and_control_flow(tmp_path, target, threads):
    module = lower(MODEL, (*KERNEL_PASSES, "host-to-llvm"))
    offsets = {key: attr.value.data for key, attr in module.attributes["stepwell.weights"].data.items()}
    rng = np.random.default_rng(1)
    arrays = {"w_key": rng.integers(-5, 5, 64), "v_key": rng.integers(-5, 5, (2, 64))}
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    weights = [(offset, arrays[key]) for key, offset in offsets.items()]
    build_library([llvm_ir(module)], weights, SIGNATURE, target, tmp_path / "m.so")
    model = load(tmp_path / "m.so", threads=threads, poison=True)
    for n, flag in ((5, True), (1, False), (333, True), (0, False)):
        x = rng.integers(-5, 5, (n, 64)).astype(np.float32)
        y, flat = model(x, np.array(flag))
        h = x + 5 * arrays["w_key"]
        assert np.array_equal(flat, h.ravel())
        assert np.array_equal(y, h + (2 if flag else 1) * arrays["v_key"][1])
    with pytest.raises(RunError, match="too many rows"):
        model(np.zeros((400, 64), np.float32), np.array(True))
