"""
The content-addressed store of compiled objects and models.

It imports neither onnx nor xdsl, so that a model that was compiled before is found without them. An entry is
written aside and renamed into place, so a reader sees all of it or nothing, whatever is killed; it is
verified when it is read, and a damaged one is removed and built again.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from stepwell.errors import CompileError
from stepwell.files import write_atomically

_LIMIT_BYTES = 8 << 30
"""Of all entries; the least recently used go first."""
_FRESH_NS = 2_000_000_000
"""
A file changed this recently may change again within one tick of its mtime, so its hash is not remembered.
"""


def _private_directory(path: Path) -> Path:
    """`path`, made with mode 0700 where missing; a directory that others own or may write to is refused."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.stat(path)
    except OSError as error:
        raise CompileError(
            f"{path}: cannot be made the cache: {error.strerror}; set STEPWELL_CACHE_DIR to a directory"
            f" of your own"
        ) from None
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise CompileError(
            f"{path}: others may write to it, so it cannot hold compiled code;"
            " chmod 700 it, or set STEPWELL_CACHE_DIR to a directory of your own"
        )
    return path


def cache_directory() -> Path:
    """`$STEPWELL_CACHE_DIR`, else `stepwell` in the user's cache directory."""
    if chosen := os.environ.get("STEPWELL_CACHE_DIR"):
        return _private_directory(Path(chosen).absolute())
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return _private_directory(Path(base).absolute() / "stepwell")


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """
    A directory of mode 0700 in the cache, removed on the way out, SIGINT and SIGTERM included. What a
    killed process left behind is removed by the next one.
    """
    base = _private_directory(cache_directory() / "tmp")
    _sweep(base)
    try:
        path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        lock = _lock(path)
    except OSError as error:
        raise CompileError(f"{base}: no temporary directory: {error.strerror}; free some space") from None
    with unwinding_on_terminate():
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(path: Path | str) -> int:
    """A descriptor whose lock says that the directory is in use; `BlockingIOError` if it is already."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(base: Path) -> None:
    """
    Remove directories whose process is gone: by its id, and by its lock, since ids differ between containers.
    """
    for entry in os.scandir(base):
        owner = entry.name.split("-")[0]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            with contextlib.suppress(OSError):
                descriptor = _lock(entry.path)
                shutil.rmtree(entry.path, ignore_errors=True)
                os.close(descriptor)


@contextlib.contextmanager
def unwinding_on_terminate() -> Iterator[None]:
    """Let SIGTERM unwind the stack, unless the program has a handler of its own."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def key_of(*parts: bytes | str) -> str:
    """A key that differs whenever any part does: every part is preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class Cache:
    """Entries of two kinds under one directory: objects (bytes) and models (files that carry a manifest)."""

    def __init__(self, directory: Path | None = None):
        self.directory = _private_directory(directory) if directory else cache_directory()

    def _path(self, kind: str, key: str, suffix: str = "") -> Path:
        return self.directory / kind / key[:2] / (key + suffix)

    def object(self, key: str) -> bytes | None:
        """The object stored under `key`, if it is there and whole."""
        path = self._path("objects", key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != digest:
            path.unlink(missing_ok=True)
            return None
        _touch(path)
        return body

    def put_object(self, key: str, data: bytes) -> None:
        path = self._path("objects", key)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(data).digest() + data)

    def model_path(self, key: str) -> Path:
        """Where the model of `key` is, or is to be built (`build_library` writes it atomically)."""
        path = self._path("models", key, ".so")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def model(self, key: str) -> Path | None:
        """
        The library stored under `key`, if there is one. The loader verifies it; `drop_model` if it fails.
        """
        path = self._path("models", key, ".so")
        if not path.exists():
            return None
        _touch(path)
        return path

    def drop_model(self, key: str) -> None:
        self._path("models", key, ".so").unlink(missing_ok=True)

    def prune_daily(self) -> None:
        """`prune`, if nobody did so today."""
        stamp = self.directory / "pruned"
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > 86400:
            stamp.touch()
            self.prune()

    def prune(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        """Remove the least recently used entries until the rest fits `limit_bytes`."""
        entries = []
        for kind in ("objects", "models"):
            for path in (self.directory / kind).glob("*/*"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


# --- keys of whole models ---


@lru_cache(maxsize=1)
def compiler_fingerprint() -> str:
    """Changes with any source file of the compiler; sizes and times are read, not contents."""
    root = Path(__file__).resolve().parents[2]
    package = root / "src" / "stepwell"
    if package.is_dir():
        folders = sorted(
            folder.resolve() for folder in package.iterdir() if folder.is_symlink() and folder.is_dir()
        )
        folders.append(package)
    else:
        folders = [root]
    rows = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".lark", ".pat", ".c", ".h"):
                status = path.stat()
                rows.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return key_of(*sorted(rows))


@lru_cache(maxsize=1)
def machine_fingerprint() -> str:
    """Changes with the CPU model and its features: what "native" means."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "cache size", "CPU part", "Features")
    return key_of(os.uname().machine, *sorted({line for line in lines if line.startswith(names)}))


_LOCATION = re.compile(rb"\x0a\x08location")


def external_locations(data: bytes | mmap.mmap) -> list[str] | None:
    """
    The external data files that a serialised ONNX model names, found without a protobuf reader: the entries
    `key = "location"`. None where one is not in the usual form, so that the answer would be a guess.
    """
    found = set()
    for match in _LOCATION.finditer(data):
        at = match.end()
        if data[at : at + 1] != b"\x12":
            return None
        at, length, shift = at + 1, 0, 0
        while True:
            byte = data[at : at + 1]
            if not byte or shift > 28:
                return None
            at += 1
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        try:
            found.add(data[at : at + length].decode())
        except UnicodeDecodeError:
            return None
    return sorted(found)


def _file_digest(path: Path, memo: Path) -> tuple[str, list[str] | None]:
    """SHA-256 and external files of a model file, remembered by device, inode, size and mtime."""
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # to open a pipe waits for a writer
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        entry = memo / key_of(*map(str, identity))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            remembered = json.loads(entry.read_text())
            return remembered["sha256"], remembered["locations"]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        locations: list[str] | None = []
        if status.st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                locations = external_locations(data)
    if time.time_ns() - status.st_mtime_ns > _FRESH_NS:
        text = json.dumps({"sha256": digest, "locations": locations})
        with contextlib.suppress(OSError):
            write_atomically(entry, text.encode())
    return digest, locations


def model_key(path: str | os.PathLike[str], options: Sequence[str] | dict[str, Any] = ()) -> str | None:
    """
    The key of a whole compilation: the bytes of the model file and of its external data, `options` (all that
    decides the result: target, level, fp, dims, threads), the compiler and, for "native", this machine.
    None where the model cannot be keyed (unreadable, unusual); it is then compiled without the model cache.
    """
    path = Path(path)
    try:
        memo = _private_directory(cache_directory() / "memo")
        digest, locations = _file_digest(path, memo)
        if locations is None:
            return None
        parts = ["model", digest, compiler_fingerprint(), machine_fingerprint()]
        parts.append(json.dumps(options, sort_keys=True))
        for location in locations:
            if os.path.isabs(location) or ".." in Path(location).parts:
                return None
            parts += [location, _file_digest(path.parent / location, memo)[0]]
    except (OSError, ValueError, CompileError):  # ValueError: a name with a NUL
        return None
    return key_of(*parts)
