"""The host function, run against a runtime of a few lines that records what it is asked for."""

import ctypes
import subprocess

import numpy as np
from native import CLANG, KERNEL_PASSES, build, llvm_ir, lower, needs_clang

RUNTIME = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef void (*kernel)(void *const *, const int64_t *, int64_t, int64_t, void *);
int64_t log_[64]; int n_log;
char message[256];
static void *out[8];
void *stepwell_rt_arena(void *c, int64_t n) { log_[n_log++] = n; return aligned_alloc(64, n < 0 ? 64 : (n + 127) / 64 * 64); }
void *stepwell_rt_alloc(void *c, int64_t n) { log_[n_log++] = n; return aligned_alloc(64, n < 0 ? 64 : (n + 127) / 64 * 64); }
void set_output(int i, void *p) { out[i] = p; }
void *stepwell_rt_output(void *c, int64_t i, int64_t rank, const int64_t *dims) {
  log_[n_log++] = i; log_[n_log++] = rank;
  for (int d = 0; d < rank; d++) log_[n_log++] = dims[d];
  return out[i];
}
int stepwell_rt_launch(void *c, kernel k, void *const *b, const int64_t *d, int64_t tiles, int64_t w, int64_t scratch,
                       int64_t site) {
  if (tiles < 0) return 7;
  log_[n_log++] = w; log_[n_log++] = scratch;
  void *s = aligned_alloc(64, (scratch + 127) / 64 * 64);
  for (int64_t t = 0; t < tiles; t += 2) k(b, d, t, t + 2 < tiles ? t + 2 : tiles, s);
  free(s);
  return 0;
}
int stepwell_rt_fail(void *c, const char *m) { strncpy(message, m, 255); return 1; }
"""

MODEL = """
memref.global "private" constant @w : memref<64xf32> = dense_resource<w_key>
memref.global "private" constant @unused : memref<3xi8> = dense_resource<other>
memref.global "private" constant @v : memref<2x64xf32> = dense_resource<v_key>
memref.global "private" constant @small : memref<3xindex> = dense<[5, 1, 2]>
func.func private @add(%x: memref<?x64xf32>, %w: memref<64xf32>, %s: index, %o: memref<?x64xf32>,
    %begin: index, %end: index, %scratch: memref<?xi8>) attributes {stepwell.kernel, stepwell.scratch_bytes = 256 : i64} {
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
  %c64 = arith.constant 64 : index
  %c256 = arith.constant 256 : index
  %n = memref.dim %x, %c0 : memref<?x64xf32>
  %bytes = arith.muli %n, %c256 : index
  %arena = schedule.arena [%bytes] : memref<?xi8>
  %h = memref.view %arena[%c0][%n] : memref<?xi8> to memref<?x64xf32>
  %y = memref.alloc(%n) {stepwell.output = 0 : i64} : memref<?x64xf32>
  %w = memref.get_global @w : memref<64xf32>
  %v = memref.get_global @v : memref<2x64xf32>
  %v1 = memref.subview %v[1, 0] [1, 64] [1, 1] : memref<2x64xf32> to memref<64xf32, strided<[1], offset: 64>>
  %small = memref.get_global @small : memref<3xindex>
  %five = memref.load %small[%c0] : memref<3xindex>
  schedule.launch @add [%n] (%x, %w, %five, %h) {work = 123 : i64} : (memref<?x64xf32>, memref<64xf32>, index, memref<?x64xf32>)
  %go = memref.load %flag[] : memref<i1>
  %step = scf.if %go -> (index) {
    %two = arith.constant 2 : index
    scf.yield %two : index
  } else {
    scf.yield %c1 : index
  }
  %v1c = memref.cast %v1 : memref<64xf32, strided<[1], offset: 64>> to memref<64xf32>
  schedule.launch @add [%n] (%h, %v1c, %step, %y) : (memref<?x64xf32>, memref<64xf32>, index, memref<?x64xf32>)
  %flat = memref.collapse_shape %h [[0, 1]] : memref<?x64xf32> into memref<?xf32>
  %small_n = arith.cmpi ult, %n, %c64 : index
  cf.assert %small_n, "too many rows"
  func.return %y, %flat : memref<?x64xf32>, memref<?xf32>
}
"""


@needs_clang
def test_a_model_of_two_launches_runs_with_views_weights_and_control_flow(tmp_path):
    module = lower(MODEL, (*KERNEL_PASSES, "host-to-llvm"))
    offsets = {key: attr.value.data for key, attr in module.attributes["stepwell.weights"].data.items()}
    assert offsets == {"w_key": 0, "other": 256, "v_key": 320}
    (tmp_path / "rt.c").write_text(RUNTIME)
    rng = np.random.default_rng(1)
    w, v = rng.integers(-5, 5, 64).astype(np.float32), rng.integers(-5, 5, (2, 64)).astype(np.float32)
    (tmp_path / "weights").write_bytes(w.tobytes() + bytes(64) + v.tobytes())
    (tmp_path / "w.s").write_text(
        '.data\n.balign 64\n.globl stepwell_weights\nstepwell_weights:\n.incbin "weights"\n'
    )
    for source in ("rt.c", "w.s"):
        subprocess.run([str(CLANG), "-c", "-fPIC", "-I", tmp_path, source], cwd=tmp_path, check=True)
    library = build(llvm_ir(module), tmp_path, str(tmp_path / "rt.o"), str(tmp_path / "w.o"))
    x = rng.integers(-5, 5, (5, 64)).astype(np.float32)
    y, flat = np.zeros((5, 64), np.float32), np.zeros(320, np.float32)
    for place, buffer in enumerate((y, flat)):
        library.set_output(place, ctypes.c_void_p(buffer.ctypes.data))
    for flag, step in ((True, 2), (False, 1)):
        ctypes.c_int.in_dll(library, "n_log").value = 0
        flags = np.array(flag)
        inputs = (ctypes.c_void_p * 2)(x.ctypes.data, flags.ctypes.data)
        assert library.stepwell_main(None, inputs, (ctypes.c_int64 * 1)(5)) == 0
        h = x + w * 5
        assert np.array_equal(y, h + v[1] * step)
        assert np.array_equal(flat, h.ravel())
        log = list((ctypes.c_int64 * 64).in_dll(library, "log_"))
        assert log[: ctypes.c_int.in_dll(library, "n_log").value] == [
            5 * 256, 0, 2, 5, 64, 123, 256, 1000, 256, 1, 1, 320,
        ]  # fmt: skip
    big = np.zeros((64, 64), np.float32)
    flat = np.zeros(64 * 64, np.float32)
    for place in (0, 1):
        library.set_output(place, ctypes.c_void_p(flat.ctypes.data))
    inputs = (ctypes.c_void_p * 2)(big.ctypes.data, flags.ctypes.data)
    assert library.stepwell_main(None, inputs, (ctypes.c_int64 * 1)(64)) == 1
    assert (ctypes.c_char * 256).in_dll(library, "message").value == b"too many rows"
    assert library.stepwell_main(None, inputs, (ctypes.c_int64 * 1)(-1)) == 7, (
        "a launch that fails stops the run"
    )
