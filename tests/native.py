"""Compile a module of kernels at memref level to a shared library and call its kernels on numpy arrays."""

import ctypes
import subprocess
from io import StringIO
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from stepwell import compat
from stepwell.backends.llvm_ir.printer import print_llvm_ir
from stepwell.registry import DIALECTS, PASSES

CLANG = which("clang-22") or which("clang")
needs_clang = pytest.mark.skipif(CLANG is None, reason="no clang on PATH")

KERNEL_PASSES = ("unroll-vectors", "expand-math", "kernels-to-llvm")


def parse(text: str) -> tuple[object, ModuleOp]:
    context = compat.new_context(DIALECTS)
    return context, compat.parse_module(context, text)


def lower(text: str, passes: tuple[str, ...] = KERNEL_PASSES) -> ModuleOp:
    """The module after `passes`."""
    context, module = parse(text)
    module.verify()
    for name in passes:
        compat.load_entry(PASSES[name])().apply(context, module)
        module.verify()
    return module


def llvm_ir(module: ModuleOp) -> str:
    stream = StringIO()
    print_llvm_ir(module, stream)
    return stream.getvalue()


def build(ir: str, folder: Path, *extra: str) -> ctypes.CDLL:
    """The library that clang makes of textual LLVM IR."""
    source, library = folder / "kernel.ll", folder / "kernel.so"
    source.write_text(ir)
    command = [str(CLANG), "-O2", "-march=native", "-shared", "-fPIC", "-Wno-override-module"]
    subprocess.run([*command, str(source), *extra, "-o", str(library), "-lm"], check=True, timeout=120)
    return ctypes.CDLL(str(library))


def call(library: ctypes.CDLL, kernel: str, buffers: list[np.ndarray], dims: list[int] = (), tiles: int = 1,
         scratch: int = 0, begin: int = 0) -> None:  # fmt: skip
    """Run iterations [begin, tiles) of a kernel."""
    function = getattr(library, kernel)
    pointers = (ctypes.c_void_p * max(len(buffers), 1))(*(buffer.ctypes.data for buffer in buffers))
    extents = (ctypes.c_int64 * max(len(dims), 1))(*dims)
    room = ctypes.create_string_buffer(scratch + 64)
    at = (ctypes.addressof(room) + 63) & ~63
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2 + [ctypes.c_void_p]
    function.restype = None
    function(pointers, extents, begin, tiles, at)


RUNTIME = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef void (*kernel)(void *const *, const int64_t *, int64_t, int64_t, void *);
typedef struct { void *data; int64_t rank, dims[8]; } output;
output outputs[16];
static void *keep[4096];
static int kept;
char message[256];
static void *room(int64_t n) { return keep[kept++] = aligned_alloc(64, (n + 127) / 64 * 64); }
void release(void) { while (kept) free(keep[--kept]); }
void *stepwell_rt_arena(void *c, int64_t n) { return memset(room(n), 0x5a, n); }
void *stepwell_rt_alloc(void *c, int64_t n) { return memset(room(n), 0x5a, n); }
void *stepwell_rt_output(void *c, int64_t i, int64_t rank, const int64_t *dims) {
  int64_t n = 8;
  outputs[i].rank = rank;
  for (int d = 0; d < rank; d++) n *= outputs[i].dims[d] = dims[d];
  return outputs[i].data = memset(room(n), 0x5a, n);
}
int stepwell_rt_launch(void *c, kernel k, void *const *b, const int64_t *d, int64_t tiles, int64_t w, int64_t s,
                       int64_t site) {
  void *scratch = memset(room(s), 0x5a, s);
  for (int64_t t = 0; t < tiles; t += 2) k(b, d, t, t + 2 < tiles ? t + 2 : tiles, scratch);
  return 0;
}
int stepwell_rt_fail(void *c, const char *m) { strncpy(message, m, 255); return 1; }
"""
"""A runtime of one thread; memory is filled with rubbish, and every launch takes two tiles at a time."""


class _Output(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("rank", ctypes.c_int64), ("dims", ctypes.c_int64 * 8))


def build_models(ir: str, folder: Path) -> ctypes.CDLL:
    """A library of host functions with the runtime above."""
    source = folder / "rt.c"
    source.write_text(RUNTIME)
    subprocess.run([str(CLANG), "-O1", "-c", "-fPIC", str(source), "-o", str(folder / "rt.o")], check=True)
    return build(ir, folder, str(folder / "rt.o"))


def run_model(library: ctypes.CDLL, inputs: list[np.ndarray], dynamic: list[int], like: list[np.ndarray],
              entry: str = "stepwell_main") -> list[np.ndarray]:  # fmt: skip
    """The outputs of a host function, of the element types of `like`."""
    inputs = [np.require(x, requirements="C") for x in inputs]
    pointers = (ctypes.c_void_p * max(len(inputs), 1))(*(x.ctypes.data for x in inputs))
    dims = (ctypes.c_int64 * max(len(dynamic), 1))(*dynamic)
    status = getattr(library, entry)(None, pointers, dims)
    assert status == 0, (ctypes.c_char * 256).in_dll(library, "message").value
    found = []
    for record, want in zip((_Output * 16).in_dll(library, "outputs"), like, strict=False):
        shape = tuple(record.dims[: record.rank])
        size = int(np.prod(shape)) * want.dtype.itemsize
        found.append(np.frombuffer(ctypes.string_at(record.data, size), want.dtype).reshape(shape))
    library.release()
    return found
