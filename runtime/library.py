"""A compiled model's file: verified, opened, and the C interface as ctypes sees it."""

import _ctypes
import ctypes
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.backends.cpu.manifest import open_verified
from stepwell.errors import RunError, shown
from stepwell.runtime.profile import Event, events_at

VALUE_WORDS = 7
"""
`stepwell_value` in 64-bit words: kind, then DLTensor's data, device, ndim and dtype, shape, strides,
byte_offset.
"""
KIND, DATA, DEVICE, NDIM_DTYPE, SHAPE, STRIDES, BYTE_OFFSET = range(VALUE_WORDS)
TENSOR_KIND = 1
TEXT_KIND, TEXT_SHAPE, TEXT_NDIM = 2, 2, 3
"""Of a tensor of strings: its kind, and the words of its shape and rank; its data lies where a tensor's does."""
_CPU_DEVICE = 1
NO_SPIN = 1
POISON = 2
PROFILE = 4


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
    file: int
    """A descriptor of the library's file, so that it can be saved after its path is gone."""

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
        return shown((self.last_error(context) or b"no message").decode(errors="replace"), 1024)

    def events(self, context: int) -> list[Event]:
        """What happened in the last run of a context that profiles."""
        try:
            function = self.handle.stepwell_events
        except AttributeError:
            raise RunError(f"{self.path}: built before there were profiles; compile it again") from None
        function.restype = ctypes.c_void_p
        function.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t))
        count = ctypes.c_size_t()
        address = function(context, ctypes.byref(count))
        return list(events_at(address, count.value))

    def close(self) -> None:
        _ctypes.dlclose(self.handle._handle)
        os.close(self.file)

    def save(self, out: Path) -> None:
        """Write the library to `out`."""
        from stepwell.backends.cpu.library import install

        install(Path(f"/proc/self/fd/{self.file}"), out)


_loads = itertools.count(1)


def _alias_of(descriptor: int) -> str:
    """
    A path to an open file that no other load has used: the loader takes a library that is already open
    under the same name for the one asked for, even if the file was replaced since. The number of the load
    is spelled in empty path components.
    """
    bits = f"{next(_loads):b}"
    return "/proc/self/fd/" + bits.replace("0", "/").replace("1", "./") + str(descriptor)


def open_library(path: str | os.PathLike[str], check_hash: bool = True) -> Library:
    """Verify the manifest and the CPU, and only then open the library."""
    path = Path(path).absolute()
    file, manifest = open_verified(path, check_hash)
    try:
        _check_cpu(path, manifest.get("features", []))
        try:
            handle = ctypes.CDLL(_alias_of(file), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as error:
            reason = re.sub(r"/proc/self/fd/[./]*\d+: ", "", str(error))
            raise RunError(
                f"{path}: the system cannot load it: {reason}; compile it for this machine"
            ) from None
        return Library(path, manifest, handle, file)
    except BaseException:
        os.close(file)
        raise


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
