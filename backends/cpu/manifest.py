"""
The manifest at a library's end: what it is and its hash, readable before the library is opened.

`<ELF><JSON><SHA-256 of the JSON><its length: 8 bytes, little endian><"STEPWELL">`. A loader ignores what
follows the ELF image. Opening a library runs its constructors, so the manifest is verified first; it
proves that the file is whole and ours by form, not that its author is honest: libraries come from trusted
places only.
"""

import contextlib
import hashlib
import json
import mmap
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from stepwell.backends.cpu.signature import ABI_VERSION
from stepwell.errors import RunError

_MAGIC = b"STEPWELL"
_TAIL_BYTES = 48
_LIMIT_BYTES = 64 << 20
_PIECE_BYTES = 64 << 20
"""What is mapped at a time, a multiple of the largest page."""


def digest_of(file: BinaryIO, size_bytes: int) -> str:
    """
    SHA-256 of the first `size_bytes` of `file`, or of what there is of them. Mappings that ask for huge pages
    read them, so that the library's own mapping of the weights finds them in memory in this form.
    """
    digest, size_bytes = hashlib.sha256(), min(size_bytes, os.fstat(file.fileno()).st_size)
    for at in range(0, size_bytes, _PIECE_BYTES):
        piece_bytes = min(_PIECE_BYTES, size_bytes - at)
        with mmap.mmap(file.fileno(), piece_bytes, access=mmap.ACCESS_READ, offset=at) as piece:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a system without them
                    piece.madvise(mmap.MADV_HUGEPAGE)
            digest.update(piece)
    return digest.hexdigest()


def append_manifest(path: Path, entries: dict[str, Any]) -> None:
    """Give the library at `path` its manifest: `entries`, and the size and hash of what is there."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        entries = {**entries, "format": 1, "elf_bytes": size, "elf_sha256": digest_of(file, size)}
        text = json.dumps(entries, sort_keys=True).encode()
        file.write(text + hashlib.sha256(text).digest() + len(text).to_bytes(8, "little") + _MAGIC)


def open_verified(path: Path, check_hash: bool = True) -> tuple[int, dict[str, Any]]:
    """
    An open descriptor of a library whose form, owner, version and hash are right, and its manifest; else a
    `RunError`. What was verified is what the descriptor refers to, whatever happens to the path.
    """
    try:
        # Not blocking: a FIFO under the name of a library must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be opened: {error.strerror}; give the path of a compiled model"
        ) from None
    try:
        status = os.fstat(descriptor)
        _check_trust(path, status)
        with open(descriptor, "rb", closefd=False) as file:
            manifest = _verified(path, file, status.st_size, check_hash)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, manifest


def read_manifest(path: Path, check_hash: bool = True) -> dict[str, Any]:
    """The manifest of a library that `open_verified` accepts."""
    descriptor, manifest = open_verified(path, check_hash)
    os.close(descriptor)
    return manifest


def _verified(path: Path, file: BinaryIO, size: int, check_hash: bool) -> dict[str, Any]:
    manifest = _parse_tail(path, file, size)
    if manifest.get("abi_version") != ABI_VERSION:
        raise RunError(
            f"{path}: built for version {manifest.get('abi_version')} of the interface,"
            f" expected {ABI_VERSION}; compile it again"
        )
    if check_hash and digest_of(file, manifest["elf_bytes"]) != manifest["elf_sha256"]:
        raise RunError(f"{path}: its bytes are not those that were written (damaged?); compile it again")
    return manifest


def _check_trust(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{path}: not a regular file; give the path of a compiled model")
    if status.st_uid not in (0, os.geteuid()) and os.geteuid() != 0:
        raise RunError(f"{path}: owned by user {status.st_uid}, so its code is not run; copy it first")
    if status.st_mode & stat.S_IWOTH:
        raise RunError(f"{path}: anyone may write to it, so its code is not run; chmod o-w it")
    folder = os.stat(path.resolve().parent)
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise RunError(
            f"{path}: anyone may replace it in its directory, so its code is not run; chmod o-w that"
        )


def _parse_tail(path: Path, file: BinaryIO, size: int) -> dict[str, Any]:
    strange = RunError(f"{path}: not a model that stepwell compiled, or cut short; compile it again")
    if size < _TAIL_BYTES:
        raise strange
    file.seek(size - _TAIL_BYTES)
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[32:40], "little")
    if tail[40:] != _MAGIC or length > min(_LIMIT_BYTES, size - _TAIL_BYTES):
        raise strange
    file.seek(size - _TAIL_BYTES - length)
    text = file.read(length)
    if hashlib.sha256(text).digest() != tail[:32]:
        raise strange
    try:
        manifest = json.loads(text)
        whole = manifest["elf_bytes"] == size - _TAIL_BYTES - length
        whole = whole and isinstance(manifest["elf_sha256"], str) and isinstance(manifest["signature"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise strange from None
    if not whole:
        raise strange
    return manifest
