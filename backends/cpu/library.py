"""From LLVM IR text and weights to one shared library."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stepwell.backends.cpu.cache import Cache, temporary_directory
from stepwell.backends.cpu.elf import WRITTEN_BYTES, place_weights, reserving_assembly
from stepwell.backends.cpu.manifest import append_manifest
from stepwell.backends.cpu.signature import (
    ABI_VERSION,
    c_source,
    canonical_signature,
    checked_prefix,
    version_script,
)  # fmt: skip
from stepwell.backends.cpu.toolchain import (
    compile_c,
    compile_object,
    in_parallel,
    link,
    required_features,
    runtime_object,
)
from stepwell.errors import CompileError
from stepwell.files import umask
from stepwell.targets import Target

ALIGNMENT_BYTES = 64
"""Of every weight in the blob; the blob itself begins on a page."""
Weight = tuple[int, np.ndarray]
"""Where an array lies in the blob, in bytes, and the array; a memory map is read piece by piece."""


def build_library(
    ll_parts: Sequence[str],
    weights: Sequence[Weight],
    signature: Mapping[str, Any],
    target: Target,
    out: Path,
    symbol_prefix: str = "",
    threads: int = 0,
    opt: int = 2,
    launches: Sequence[Mapping[str, Any]] = (),
) -> None:
    """
    Compile `ll_parts`, link them with the runtime, add `weights`, and put the library at `out`, whole or not at
    all. `threads` 0 is the target's default. `launches`: what a profile is to call each launch, by number.
    """
    out = Path(out).absolute()
    symbol_prefix = checked_prefix(symbol_prefix)
    described = canonical_signature(signature, asdict(target), threads or target.threads)
    blob_bytes = _blob_bytes(weights)
    with temporary_directory() as scratch:
        try:
            features = required_features(target)
            table = c_source(described, symbol_prefix, features, blob_bytes)
            jobs = [partial(runtime_object, target)]  # first, being the longest where it is not in the cache
            jobs += [partial(compile_object, part, target, opt) for part in ll_parts]
            jobs += [partial(compile_c, table, target)]
            runtime, *objects = in_parallel(jobs)
            # 64 bytes more, so that whole vectors can be read at the end.
            reserved_bytes = blob_bytes + ALIGNMENT_BYTES if blob_bytes else 0
            assembly = reserving_assembly(reserved_bytes, target) if reserved_bytes else None
            library = link([*objects, runtime], assembly, version_script(symbol_prefix), target, scratch)
            if reserved_bytes:
                place_weights(library, reserved_bytes, partial(_write_blob, weights))
            manifest: dict[str, Any] = {
                "abi_version": ABI_VERSION,
                "signature": described,
                "features": features,
                "symbol_prefix": symbol_prefix,
                "launches": list(launches),
            }
            append_manifest(library, manifest)
            library.chmod(0o755)
            install(library, out, move=True)
            Cache().prune_daily()
        except OSError as error:
            name = error.filename or out
            raise CompileError(
                f"{name}: {error.strerror}; choose another place, or free some space"
            ) from None


def _blob_bytes(weights: Sequence[Weight]) -> int:
    end = 0
    for offset, array in sorted(weights, key=lambda weight: weight[0]):
        assert offset % ALIGNMENT_BYTES == 0, (
            f"weight at offset {offset} is not aligned to {ALIGNMENT_BYTES} bytes"
        )
        assert offset >= end, f"weight at offset {offset} overlaps the one before, which ends at {end}"
        end = offset + array.nbytes
    return end


def _write_blob(weights: Sequence[Weight], file: BinaryIO) -> None:
    """Write the arrays at their offsets from where `file` is, zeros between and behind, never holding more than a piece."""
    position = 0
    for offset, array in sorted(weights, key=lambda weight: weight[0]):
        file.write(bytes(offset - position))
        for piece in _pieces(array):
            file.write(piece)
        position = offset + array.nbytes
    file.write(bytes(ALIGNMENT_BYTES))


def _pieces(array: np.ndarray, piece_bytes: int = 64 << 20) -> Iterator[memoryview]:
    """The array's bytes in row-major order; only a piece is ever copied."""
    if array.nbytes == 0:
        return
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        for at in range(0, flat.size, piece_bytes):
            yield flat[at : at + piece_bytes].data
    elif array.nbytes <= piece_bytes or array.ndim == 0:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    else:
        for row in array:
            yield from _pieces(row, piece_bytes)


def install(source: Path, out: Path, move: bool = False) -> None:
    """
    Make `out` a copy of `source` in one step, never a partial file, and wait until it is on the disk; with `move` by
    renaming it, where both lie on one file system, and without waiting, which takes seconds: what a power cut tears, the
    manifest's hash finds.
    """
    if move:
        with contextlib.suppress(OSError):
            source.chmod(source.stat().st_mode & ~umask())
            os.replace(source, out)
            return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{out.name[:40]}.", dir=out.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out.parent)) from None
    try:
        with open(descriptor, "wb") as to, source.open("rb") as origin:
            shutil.copyfileobj(origin, to, WRITTEN_BYTES)
            to.flush()
            if not move:
                os.fsync(to.fileno())
            os.fchmod(to.fileno(), source.stat().st_mode & 0o777 & ~umask())
        os.replace(name, out)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise
