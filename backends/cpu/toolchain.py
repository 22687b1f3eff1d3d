"""clang: where it is, how each way of shipping it is spoken to, and how it is run."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stepwell.backends.cpu.cache import (
    Cache,
    cache_directory,
    key_of,
    temporary_directory,
    unwinding_on_terminate,
)  # fmt: skip
from stepwell.errors import CompileError
from stepwell.targets import Target

_OLDEST = 19
"""The oldest clang whose reader takes the IR we write."""
_LIMIT_S = 600
"""For one child; the largest model we know takes 20 s."""
_GLIBC = "2.28"
"""What zig links against: the oldest that manylinux wheels still support."""
_PARALLEL = 2
_LAYOUT = ("-mllvm", "-align-all-functions=6")
"""Kernels begin at cache lines: where its code lies changed the time of one by up to 5 %, with whatever stood in front of it."""
_RUNTIME = Path(__file__).resolve().parents[1].parent / "runtime" / "c"


@dataclass(frozen=True)
class Driver:
    """One way to call clang. `kind` is the row of the table below."""

    kind: str
    argv: tuple[str, ...]
    version: str

    def target_flags(self, target: Target) -> list[str]:
        """Which machine to compile for."""
        arch = target.triple.split("-")[0]
        option = "-march" if arch in ("x86_64", "i686") else "-mcpu"
        if self.kind == "zig":
            parts = [part for part in target.triple.split("-") if part not in ("unknown", "pc")]
            triple = "-".join(parts)
            if triple.endswith("linux-gnu"):
                triple += f".{_GLIBC}"
            return ["-target", triple, f"{option}={target.cpu.replace('-', '_')}"]
        # The host's own triple is left alone: distributions find their C library by their spelling of it.
        return [
            *([] if _of_this_machine(target) else [f"--target={target.triple}"]),
            f"{option}={target.cpu}",
        ]

    def compile_flags(self) -> list[str]:
        # zig turns undefined-behaviour traps on by default.
        return ["-fPIC", "-Wno-override-module", *(["-fno-sanitize=undefined"] if self.kind == "zig" else [])]

    def environment(self, scratch: Path) -> dict[str, str]:
        """Nothing of the user's environment but where programs are; messages in English."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
        env = {**kept, "LC_ALL": "C", "TMPDIR": str(scratch)}
        if self.kind == "zig":
            store = str(cache_directory() / "zig")
            env |= {"ZIG_GLOBAL_CACHE_DIR": store, "ZIG_LOCAL_CACHE_DIR": store}
        return env


def _probe(argv: Sequence[str]) -> str | None:
    """The version line of a clang that is new enough."""
    try:
        done = subprocess.run(
            [*argv, "--version"],
            capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"clang version (\d+)\.\S*", done.stdout)
    return done.stdout.splitlines()[0] if match and int(match[1]) >= _OLDEST else None


def _clangs_on_path() -> list[str]:
    """`clang-N` on PATH, the newest first, then `clang`."""
    found: dict[int, str] = {}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                if (match := re.fullmatch(r"clang-(\d+)", name)) and int(match[1]) >= _OLDEST:
                    found.setdefault(int(match[1]), os.path.join(folder, name))
    plain = shutil.which("clang")
    return [path for _, path in sorted(found.items(), reverse=True)] + ([plain] if plain else [])


def find_driver(target: Target | None = None) -> Driver:
    """
    `$STEPWELL_CLANG`, else the newest clang on PATH, else the one of the PyPI package ziglang. For a `target` that
    is not of this machine ziglang comes first: it has the C library of every architecture with it.
    """
    foreign = target is not None and not _of_this_machine(target)
    return _find_driver(os.environ.get("STEPWELL_CLANG", ""), os.environ.get("PATH", ""), foreign)


def _of_this_machine(target: Target) -> bool:
    host = os.uname()
    return target.triple.split("-")[0] == host.machine and host.sysname.lower() in target.triple


@lru_cache(maxsize=8)
def _find_driver(chosen: str, _path: str, foreign: bool) -> Driver:
    if foreign and not chosen and (zig := _zig_driver()):
        return zig
    if chosen:
        if chosen == "zig":
            return _zig_driver() or _no_zig()
        if version := _probe([chosen]):
            return Driver("clang", (chosen,), version)
        raise CompileError(
            f"STEPWELL_CLANG: '{chosen}' is no clang {_OLDEST} or newer; name one, or 'zig' for the one"
            f" of ziglang"
        )
    for path in _clangs_on_path():
        if version := _probe([path]):
            return Driver("clang", (path,), version)
    return _zig_driver() or _no_zig()


def _zig_driver() -> Driver | None:
    import importlib.util

    if importlib.util.find_spec("ziglang") is None:
        return None
    argv = (sys.executable, "-m", "ziglang", "cc")
    version = _probe(argv)
    return Driver("zig", argv, version) if version else None


def _no_zig() -> Driver:
    raise CompileError(
        f"no clang {_OLDEST} or newer on PATH, and no ziglang in this Python;"
        " run: pip install 'stepwell[clang]', or set STEPWELL_CLANG"
    )


_children: dict[int, int] = {}
"""The process groups that run now, and the thread that waits for each."""


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def run_child(driver: Driver, arguments: Sequence[str], scratch: Path, limit_s: int = _LIMIT_S) -> str:
    """Run the driver to its end, in a process group that never outlives this call; its standard output."""
    argv = [*driver.argv, *arguments]
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=scratch,
            env=driver.environment(scratch), start_new_session=True, text=True, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise CompileError(f"{argv[0]}: cannot be run: {error.strerror}; set STEPWELL_CLANG") from None
    _children[child.pid] = threading.get_ident()
    try:
        out, err = child.communicate(timeout=limit_s)
    except BaseException as error:
        _kill_group(child.pid)
        child.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CompileError(
                f"{driver.argv[0]}: not done after {limit_s} s, stopped; lower the opt level, or split"
                f" the model"
            ) from None
        raise
    finally:
        _children.pop(child.pid, None)
    if child.returncode:
        foreign = any(argument.startswith("--target=") for argument in arguments)
        raise CompileError(_explain(driver, child.returncode, err, foreign))
    return out


def _explain(driver: Driver, code: int, err: str, foreign: bool) -> str:
    """One or two lines out of a compiler's many."""
    lines = [line for line in err.splitlines() if re.search(r"\berror\b|No space left|cannot", line)]
    text = (lines or err.splitlines() or ["no message"])[0].strip()[:300]
    if "No space left" in err:
        return f"{driver.argv[0]}: {text}; free some space, or set STEPWELL_CACHE_DIR to a larger disk"
    cause = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    if foreign and re.search(r"file not found|cannot find|unrecogni[sz]ed|unable to find", err):
        return (
            f"{driver.argv[0]} ({cause}): {text}; it has no C library or linker for that machine: run"
            " pip install 'stepwell[clang]' and unset STEPWELL_CLANG"
        )
    return f"{driver.argv[0]} ({cause}): {text}; run with --debug and report it with --dump-dir"


_announced = False


def _announce_warm_up(driver: Driver) -> None:
    """zig builds its C library the first time: about 20 s that the user should know about."""
    global _announced
    if driver.kind != "zig" or _announced or (cache_directory() / "zig" / "o").exists():
        return
    _announced = True
    print(
        "stepwell: the first use of zig prepares its C library; this takes about 20 s, once", file=sys.stderr
    )


def _compile_cached(
    driver: Driver, source: bytes, suffix: str, flags: Sequence[str], extra_key: str = ""
) -> bytes:
    """The object of one source text, from the cache where it is there."""
    cache = Cache()
    key = key_of("object", suffix, source, "\0".join(flags), driver.kind, driver.version, extra_key)
    if (data := cache.object(key)) is not None:
        return data
    _announce_warm_up(driver)
    with temporary_directory() as scratch:
        file = scratch / f"source{suffix}"
        try:
            file.write_bytes(source)
            phase = [] if "-S" in flags else ["-c"]  # zig takes the last of the two
            run_child(driver, [*flags, *phase, file.name, "-o", "object.o"], scratch)
            data = (scratch / "object.o").read_bytes()
            cache.put_object(key, data)
        except OSError as error:
            raise CompileError(f"{scratch}: {error.strerror}; free some space") from None
    return data


def compile_object(ll_text: str, target: Target, opt: int = 2) -> bytes:
    """The object file of one module of LLVM IR, position-independent."""
    driver = find_driver(target)
    flags = [f"-O{min(opt, 3)}", *_LAYOUT, *driver.target_flags(target), *driver.compile_flags()]
    return _compile_cached(driver, ll_text.encode(), ".ll", flags)


def compile_assembly(ll_text: str, target: Target, opt: int = 2) -> str:
    """The assembly of one module of LLVM IR."""
    driver = find_driver(target)
    flags = [f"-O{min(opt, 3)}", "-S", *_LAYOUT, *driver.target_flags(target), *driver.compile_flags()]
    return _compile_cached(driver, ll_text.encode(), ".ll", flags).decode()


def in_parallel(jobs: Sequence[Callable[[], bytes]]) -> list[bytes]:
    """The results of jobs that compile, in their order; two children run at a time."""
    find_driver()
    workers, threads = ThreadPoolExecutor(_PARALLEL), set()

    def run(job: Callable[[], bytes]) -> bytes:
        threads.add(threading.get_ident())
        return job()

    try:
        with unwinding_on_terminate():
            return list(workers.map(run, jobs))
    except BaseException:
        # An interrupt reaches this thread only: end the children that the others wait for.
        workers.shutdown(wait=False, cancel_futures=True)
        for pid, thread in list(_children.items()):
            if thread in threads:
                _kill_group(pid)
        raise
    finally:
        workers.shutdown()


def _c_flags(driver: Driver, target: Target) -> list[str]:
    """C is compiled for the baseline of the architecture: it does no arithmetic worth more."""
    machine = [flag for flag in driver.target_flags(target) if not flag.startswith(("-march", "-mcpu"))]
    return [
        "-std=c11",
        "-O2",
        "-fvisibility=hidden",
        "-ffunction-sections",
        "-pthread",
        f"-I{_RUNTIME}",
        *machine,
        *driver.compile_flags(),
    ]


def compile_c(source: str, target: Target) -> bytes:
    """The object of a small C file that includes the runtime's headers."""
    driver = find_driver(target)
    return _compile_cached(driver, source.encode(), ".c", _c_flags(driver, target), _runtime_key())


def runtime_object(target: Target) -> bytes:
    """The C runtime, one object for every model of a target."""
    return compile_c('#include "runtime.c"\n', target)


@lru_cache(maxsize=1)
def _runtime_key() -> str:
    return key_of(*(path.read_bytes() for path in sorted(_RUNTIME.iterdir()) if path.suffix in (".c", ".h")))


@lru_cache(maxsize=16)
def _feature_macros(driver: Driver, target: Target) -> str:
    with temporary_directory() as scratch:
        (scratch / "empty.c").write_text("")
        return run_child(driver, [*driver.target_flags(target), "-dM", "-E", "empty.c"], scratch)


_FEATURES = {
    "__AVX__": "avx", "__AVX2__": "avx2", "__FMA__": "fma", "__F16C__": "f16c", "__BMI__": "bmi1",
    "__BMI2__": "bmi2", "__SSE4_1__": "sse4_1", "__SSE4_2__": "sse4_2", "__AVX512F__": "avx512f",
    "__AVX512BW__": "avx512bw",
    "__AVX512CD__": "avx512cd", "__AVX512DQ__": "avx512dq", "__AVX512VL__": "avx512vl",
    "__AVX512VNNI__": "avx512_vnni", "__AVX512BF16__": "avx512_bf16", "__AVX512FP16__": "avx512_fp16",
    "__AVX512VBMI__": "avx512vbmi", "__AVXVNNI__": "avx_vnni", "__AMX_TILE__": "amx_tile",
    "__AMX_INT8__": "amx_int8", "__AMX_BF16__": "amx_bf16",
}  # fmt: skip
"""A compiler's macro and the kernel's name of the CPU feature it stands for."""


def required_features(target: Target) -> list[str]:
    """The CPU features, as /proc/cpuinfo names them, that code for `target` may use."""
    driver = find_driver(target)
    key = key_of("features", driver.version, *driver.target_flags(target))
    if (data := Cache().object(key)) is None:
        defined = set(re.findall(r"^#define (\w+)", _feature_macros(driver, target), re.MULTILINE))
        data = " ".join(name for macro, name in _FEATURES.items() if macro in defined).encode()
        Cache().put_object(key, data)
    return data.decode().split()


def link(objects: Sequence[bytes], assembly: str | None, script: str, target: Target, scratch: Path) -> Path:
    """
    A shared library of `objects` and, behind them, of `assembly`; it shows what `script` says. In `scratch`, which the
    caller owns.
    """
    driver = find_driver(target)
    _announce_warm_up(driver)
    names = []
    for index, data in enumerate(objects):
        (scratch / f"part{index}.o").write_bytes(data)
        names.append(f"part{index}.o")
    if assembly is not None:
        (scratch / "weights.S").write_text(assembly)
        names.append("weights.S")
    (scratch / "exports.map").write_text(script)
    machine = driver.target_flags(target)
    # No build id: equal inputs give equal libraries. -z now: a missing symbol shows when loading.
    linker = [
        "-Bsymbolic",
        "--version-script=exports.map",
        "-z,now",
        "-z,relro",
        "-z,noexecstack",
        "--build-id=none",
        "--gc-sections",  # what of the runtime a model does not use
        "--strip-debug",  # what zig puts in of its own libc names places in its cache
    ]
    flags = [*machine, "-shared", "-fPIC", "-pthread", *(f"-Wl,{flag}" for flag in linker)]
    run_child(driver, [*flags, "-o", "library.so", *names, "-lm"], scratch)
    return scratch / "library.so"
