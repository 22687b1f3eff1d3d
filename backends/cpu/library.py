"""From LLVM IR text and weights to one shared library."""

import contextlib
import hashlib
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
_MAP_ABOVE_BYTES = 1 << 30
"""A larger `.incbin` does not link: the small code model reaches 2 GiB."""

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
    map_above_bytes: int = _MAP_ABOVE_BYTES,
    launches: Sequence[Mapping[str, Any]] = (),
) -> None:
    """
    Compile `ll_parts`, link them with the runtime and `weights`, and put the library at `out`, whole or
    not at all. Weights above `map_above_bytes` go to `<stem>.weights` beside it. `threads` 0 is the target's
    default. `launches`: what a profile is to call each launch, by number.
    """
    out = Path(out).absolute()
    symbol_prefix = checked_prefix(symbol_prefix)
    described = canonical_signature(signature, asdict(target), threads or target.threads)
    blob_bytes = _blob_bytes(weights)
    mapped = blob_bytes > map_above_bytes
    with temporary_directory() as scratch:
        try:
            with (scratch / "weights").open("wb") as file:
                digest = _write_blob(weights, file, hashed=mapped)
                if mapped:
                    file.write(digest.encode())
            assembly = _mapped_assembly(blob_bytes, target) if mapped else _inside_assembly()
            features = required_features(target)
            table = c_source(described, symbol_prefix, features, blob_bytes, digest)
            jobs = [partial(compile_object, part, target, opt) for part in ll_parts]
            jobs += [partial(compile_c, table, target), partial(runtime_object, target)]
            objects = in_parallel(jobs)
            library = link(objects, assembly, version_script(symbol_prefix), target, scratch)
            manifest: dict[str, Any] = {
                "abi_version": ABI_VERSION,
                "signature": described,
                "features": features,
                "symbol_prefix": symbol_prefix,
                "launches": list(launches),
            }
            if mapped:
                manifest["weights"] = {"bytes": blob_bytes, "sha256": digest}
            append_manifest(library, manifest)
            library.chmod(0o755)
            if mapped:
                install(scratch / "weights", out.with_suffix(".weights"), move=True)
            install(library, out, move=library.stat().st_size not in _WRITTEN_ANEW, flush=False)
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


def _write_blob(weights: Sequence[Weight], file: BinaryIO, hashed: bool) -> str:
    """
    Write the arrays at their offsets, zeros between, never holding more than a piece; the hash if asked for.
    """
    digest, position = hashlib.sha256(), 0

    def write(data: bytes | memoryview) -> None:
        nonlocal position
        file.write(data)
        if hashed:
            digest.update(data)
        position += len(data)

    for offset, array in sorted(weights, key=lambda weight: weight[0]):
        write(bytes(offset - position))
        for piece in _pieces(array):
            write(piece)
    return digest.hexdigest() if hashed else ""


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


def _inside_assembly() -> str:
    return """\
  .section .note.GNU-stack,"",%progbits
  .section .stepwell_weights,"a",%progbits
  .p2align 12
  .globl stepwell_weights
  .hidden stepwell_weights
stepwell_weights:
  .incbin "weights"
  .zero 64
"""


def _mapped_assembly(size: int, target: Target) -> str:
    """
    Addresses without bytes, for the runtime to map the file over: from a huge page's begin, and far from the
    code, so "large" on x86.
    """
    large = "l" if target.triple.startswith("x86_64") else ""
    return f"""\
  .section .note.GNU-stack,"",%progbits
  .section .lbss.stepwell_weights,"aw{large}",%nobits
  .p2align 21
  .globl stepwell_weights
  .hidden stepwell_weights
stepwell_weights:
  .zero {-(-size // 65536) * 65536}
"""


_WRITTEN_ANEW, _PIECE_BYTES = range(2 << 20, 128 << 20), 64 << 20
"""
A file system with large pages keeps a file in pages as large as it is given at once (ext4 from Linux 6.16). A linker gives it small ones:
written anew in pieces, a multiple of the largest page, a library's weights are mapped by pages of 2 MiB from the first load on. Larger libraries
are renamed, since copying would be felt (BERT-base's 440 MB: 0.7 of 10.0 s of compiling).
"""


def install(source: Path, out: Path, move: bool = False, flush: bool = True) -> None:
    """
    Make `out` a copy of `source` in one step, never a partial file; with `move` by renaming it, where both
    lie on one file system. `flush`: wait until a copy is on the disk.
    """
    if move:  # not flushed to disk, which takes seconds: what a power cut tears, the manifest's hash finds
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
            shutil.copyfileobj(origin, to, _PIECE_BYTES)
            to.flush()
            if flush:
                os.fsync(to.fileno())
            os.fchmod(to.fileno(), source.stat().st_mode & 0o777 & ~umask())
        os.replace(name, out)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise
