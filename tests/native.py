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
