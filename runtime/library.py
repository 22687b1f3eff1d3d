"""A compiled model's file: verified, opened, and the C interface as ctypes sees it."""

import _ctypes
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.backends.cpu.manifest import digest_of, read_manifest
from stepwell.errors import RunError

VALUE_WORDS = 7
"""
`stepwell_value` in 64-bit words: kind, then DLTensor's data, device, ndim and dtype, shape, strides,
byte_offset.
"""
KIND, DATA, DEVICE, NDIM_DTYPE, SHAPE, STRIDES, BYTE_OFFSET = range(VALUE_WORDS)
TENSOR_KIND = 1
_CPU_DEVICE = 1
NO_SPIN = 1
POISON = 2


def header_words(rank: int, code: int, bits: int) -> tuple[int, int]:
    """The device word and the word of ndim and dtype, of a CPU tensor (little endian)."""
    return _CPU_DEVICE, rank | (code << 32) | (bits << 40) | (1 << 48)


class _Options(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_uint32), ("threads", ctypes.c_int32), ("flags", ctypes.c_uint64))


@dataclass
class Library:
    """An open library and its functions."""

    path: Path
    manifest: dict[str, Any]
    handle: ctypes.CDLL

    def __post_init__(self) -> None:
        api = self.handle
        self.create = api.stepwell_create
        self.create.restype = ctypes.c_void_p
        self.create.argtypes = (ctypes.POINTER(_Options),)
        # No argtypes: callers pass ready ctypes objects, which saves 0.25 us of conversion a call.
        self.run = api.stepwell_run
        self.run.restype = ctypes.c_int
        self.last_error = api.stepwell_last_error
        self.last_error.restype = ctypes.c_char_p
        self.last_error.argtypes = (ctypes.c_void_p,)
        self.destroy = api.stepwell_destroy
        self.destroy.restype = None
        self.destroy.argtypes = (ctypes.c_void_p,)

    def create_context(self, threads: int, flags: int) -> int:
        options = _Options(ctypes.sizeof(_Options), threads, flags)
        context = self.create(ctypes.byref(options))
        if not context:
            raise RunError(f"{self.path}: {self.error_text(None)}")
        return context

    def error_text(self, context: int | None) -> str:
        return (self.last_error(context) or b"no message").decode(errors="replace")

    def close(self) -> None:
        _ctypes.dlclose(self.handle._handle)


def open_library(path: str | os.PathLike[str], check_hash: bool = True) -> Library:
    """Verify the manifest, the weights beside the library and the CPU, and only then open the library."""
    path = Path(path).absolute()
    manifest = read_manifest(path, check_hash)
    _check_cpu(path, manifest.get("features", []))
    if "weights" in manifest:
        _check_weights(path.with_suffix(".weights"), manifest["weights"], check_hash)
    try:
        handle = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise RunError(f"{path}: the system cannot load it: {error}; compile it for this machine") from None
    return Library(path, manifest, handle)


def _check_cpu(path: Path, features: list[str]) -> None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    present = {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}
    if present and (missing := [feature for feature in features if feature not in present]):
        raise RunError(
            f"{path}: compiled for a CPU with {', '.join(missing)}, which this one has not;"
            " compile it with --target native, or x86-64-v3"
        )


def _check_weights(path: Path, entry: dict[str, Any], check_hash: bool) -> None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - 64
            whole = size == entry["bytes"] and (not check_hash or digest_of(file, size) == entry["sha256"])
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; keep it beside the library") from None
    if not whole:
        raise RunError(f"{path}: these are not the weights of the library beside it; compile again")
