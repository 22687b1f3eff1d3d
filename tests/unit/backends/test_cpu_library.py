"""From `.ll` to a library: both compilers, weights, failures that leave nothing behind."""

import gc
import mmap
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stepwell.backends.cpu import build_library, toolchain
from stepwell.backends.cpu.cache import cache_directory
from stepwell.backends.cpu.library import install
from stepwell.backends.cpu.signature import c_source, canonical_signature, prefix_of
from stepwell.errors import CompileError, RunError
from stepwell.runtime import load
from stepwell.targets import Target

MACHINE = platform.machine()
TARGET = Target(
    name="baseline", triple=f"{MACHINE}-unknown-linux-gnu",
    cpu="x86-64-v2" if MACHINE == "x86_64" else "generic",
    vector_bytes=16, vector_registers=16, l1_bytes=1 << 15, l2_bytes=1 << 20, l3_bytes=1 << 24,
    flops_per_ns=16.0, dram_bytes_per_ns=10.0, cache_bytes_per_ns=20.0, threads=2,
)  # fmt: skip

# y = the 8 bytes of weights at OFFSET: a model without inputs.
TEXT = """
@stepwell_weights = external constant i8
declare ptr @stepwell_rt_output(ptr, i64, i64, ptr)
define i32 @stepwell_main(ptr %ctx, ptr %inputs, ptr %dims) {
  %shape = alloca i64
  store i64 8, ptr %shape
  %y = call ptr @stepwell_rt_output(ptr %ctx, i64 0, i64 1, ptr %shape)
  %from = getelementptr i8, ptr @stepwell_weights, i64 OFFSET
  %v = load <8 x i8>, ptr %from, align 8
  store <8 x i8> %v, ptr %y, align 1
  ret i32 0
}
"""
SIGNATURE = {"inputs": [], "outputs": [{"name": "y", "dtype": "ui8", "shape": [8]}]}
TAIL = np.arange(8, dtype=np.uint8)


@pytest.fixture(autouse=True)
def fresh_drivers():
    toolchain._find_driver.cache_clear()
    yield
    toolchain._find_driver.cache_clear()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(out: Path, weights, offset: int, **options) -> Path:
    build_library([TEXT.replace("OFFSET", str(offset))], weights, SIGNATURE, TARGET, out, **options)
    return out


def leftovers(cache: Path) -> list[str]:
    return os.listdir(cache / "tmp") if (cache / "tmp").exists() else []


def test_weights_are_found_at_their_offsets(tmp_path):
    strided = np.arange(64, dtype=">u4").reshape(8, 8)[::2, 1::2]
    weights = [(4096, TAIL), (64, strided), (0, np.zeros((), np.float32)), (512, np.zeros((0, 3)))]
    assert load(build(tmp_path / "m.so", weights, 4096))().tolist() == TAIL.tolist()
    got = load(build(tmp_path / "n.so", weights, 64))()
    assert got.view("<u4").tolist() == strided.ravel()[:2].tolist()


def test_a_copy_has_the_weights(tmp_path):
    model = load(build(tmp_path / "m.so", [(0, np.ones(8)), (1 << 20, TAIL)], 1 << 20))
    assert model().tolist() == TAIL.tolist()
    (tmp_path / "to").mkdir()
    model.save(tmp_path / "to" / "k.so")
    assert os.listdir(tmp_path / "to") == ["k.so"]
    assert load(tmp_path / "to" / "k.so")().tolist() == TAIL.tolist()


@pytest.mark.parametrize("at", [-4096, -(3 << 20)], ids=["weights", "early weights"])
def test_changed_weights_are_found_out(tmp_path, at):
    size = 4 << 20
    path = build(tmp_path / "m.so", [(0, np.ones(size, np.uint8)), (size, TAIL)], size)
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END)
        file.write(b"\x55")
    with pytest.raises(RunError, match="not those that were written"):
        load(path)


def mappings_of(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Of each read-only mapping of the file: its bytes, and what the kernel knows of it."""
    found = re.findall(
        rf"^([0-9a-f]+)-([0-9a-f]+) r--p .* {re.escape(str(path))}\n((?:[A-Z]\w+: .*\n)*)",
        Path("/proc/self/smaps").read_text(),
        re.MULTILINE,
    )
    return [
        (int(end, 16) - int(begin, 16), dict(re.findall(r"(\w+): +(.*)", facts)))
        for begin, end, facts in found
    ]


def test_weights_ask_for_huge_pages_and_lie_in_them(tmp_path):
    """The kernel notes of which mappings huge pages are wanted ("hg"); their pages stay those of the file."""
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("a kernel without huge pages")
    size = 9 << 20
    parts = [(at, np.ones(1 << 16, np.uint8)) for at in range(0, size, 1 << 16)]
    path = build(tmp_path / "m.so", [*parts, (size, TAIL)], size)
    model = load(path)
    assert model().tolist() == TAIL.tolist()
    wanted = [(size, facts) for size, facts in mappings_of(path) if "hg" in facts["VmFlags"].split()]
    assert size - (4 << 20) < sum(bytes for bytes, _ in wanted) <= size
    (tmp_path / "written").write_bytes(b"\x01" * size)
    if huge_bytes_of(tmp_path / "written"):  # a file system that keeps huge pages
        assert sum(int(facts["FilePmdMapped"].split()[0]) << 10 for _, facts in wanted) > size // 2


def huge_bytes_of(path: Path) -> int:
    """How much of the file is mapped by huge pages where that is asked for."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        view.madvise(mmap.MADV_HUGEPAGE)
        assert sum(view[:: mmap.PAGESIZE]) >= 0  # every page is mapped
        return sum(int(facts["FilePmdMapped"].split()[0]) << 10 for _, facts in mappings_of(path))


def test_a_copy_lies_in_huge_pages_where_the_file_system_has_them(tmp_path):
    size = 9 << 20
    (tmp_path / "written").write_bytes(b"\x01" * size)
    if not hasattr(mmap, "MADV_HUGEPAGE") or not huge_bytes_of(tmp_path / "written"):
        pytest.skip("a file system without huge pages")
    with (tmp_path / "linked").open("wb", buffering=0) as file:
        for _ in range(size >> 12):
            file.write(b"\x02" * (1 << 12))
    install(tmp_path / "linked", tmp_path / "library")
    assert (tmp_path / "library").read_bytes() == b"\x02" * size
    assert huge_bytes_of(tmp_path / "library") > 0


def test_several_parts_in_order_and_the_same_bytes_each_time(tmp_path, empty_cache):
    parts = [f"define i32 @f{i}() {{\n  ret i32 {i}\n}}\n" for i in range(5)] + [TEXT.replace("OFFSET", "0")]
    images = []
    for name in ("a.so", "b.so"):
        build_library(parts, [(0, TAIL)], SIGNATURE, TARGET, tmp_path / name)
        images.append((tmp_path / name).read_bytes())
    (empty_cache / "objects").rename(empty_cache / "old")
    build_library(parts, [(0, TAIL)], SIGNATURE, TARGET, tmp_path / "c.so")
    assert images[0] == images[1] == (tmp_path / "c.so").read_bytes()
    assert not leftovers(empty_cache)


@pytest.mark.slow
def test_zig(tmp_path, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("STEPWELL_CLANG", "zig")
    path = build(tmp_path / "m.so", [(0, TAIL)], 0)
    assert load(path)().tolist() == TAIL.tolist()


@pytest.mark.slow
def test_zig_builds_for_another_architecture(tmp_path, monkeypatch):
    pytest.importorskip("ziglang")
    monkeypatch.setenv("STEPWELL_CLANG", "zig")
    other = "aarch64" if MACHINE == "x86_64" else "x86_64"
    cpu = "generic" if other == "aarch64" else "x86-64-v3"
    target = Target(**{**vars(TARGET), "triple": f"{other}-unknown-linux-gnu", "cpu": cpu})
    build_library([TEXT.replace("OFFSET", "0")], [(0, TAIL)], SIGNATURE, target, tmp_path / "m.so")
    assert (tmp_path / "m.so").read_bytes()[18] == {"aarch64": 183, "x86_64": 62}[other]
    with pytest.raises(RunError):
        load(tmp_path / "m.so")


def test_a_foreign_target_is_compiled_by_zig_even_beside_a_clang(tmp_path, monkeypatch):
    pytest.importorskip("ziglang")
    beside = tmp_path / "clang-99"
    beside.write_text("#!/bin/sh\necho clang version 99.0.0\n")
    beside.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("STEPWELL_CLANG", raising=False)
    other = "aarch64" if MACHINE == "x86_64" else "x86_64"
    foreign = Target(**{**vars(TARGET), "triple": f"{other}-unknown-linux-gnu"})
    assert toolchain.find_driver(foreign).kind == "zig"
    monkeypatch.setattr(toolchain, "_zig_driver", lambda: None)
    toolchain._find_driver.cache_clear()
    assert toolchain.find_driver(foreign) == toolchain.find_driver(TARGET)
    assert toolchain.find_driver(foreign).argv == (str(beside),)


def test_a_clang_without_the_foreign_c_library_says_what_to_do():
    driver = toolchain.Driver("clang", ("clang-22",), "clang version 22")
    said = "stdint.h:26:10: fatal error: 'bits/libc-header-start.h' file not found"
    assert "pip install 'stepwell[clang]'" in toolchain._explain(driver, 1, said, foreign=True)
    assert "report it" in toolchain._explain(driver, 1, said, foreign=False)


class TestFailures:
    """One line that says what to do, and nothing left behind."""

    def failing(self, tmp_path, empty_cache, match, **options):
        with pytest.raises(CompileError, match=match) as caught:
            build(tmp_path / "out" / "m.so", [(0, TAIL)], 0, **options)
        assert str(caught.value).count("\n") <= 1 and len(str(caught.value)) < 600
        assert not leftovers(empty_cache)
        if (tmp_path / "out").exists():
            assert os.listdir(tmp_path / "out") == []

    @pytest.fixture
    def out(self, tmp_path):
        (tmp_path / "out").mkdir()
        return tmp_path / "out"

    def test_bad_text(self, tmp_path, empty_cache, out):
        with pytest.raises(CompileError, match=r"exit status 1.*error: .*expected") as caught:
            build_library(["define i32 @f( {"], [], SIGNATURE, TARGET, out / "m.so")
        assert "\n" not in str(caught.value)
        assert os.listdir(out) == [] and not leftovers(empty_cache)

    def test_missing_symbol(self, empty_cache, out):
        text = TEXT.replace("OFFSET", "0").replace("stepwell_rt_output", "no_such_function")
        build_library([text], [(0, TAIL)], SIGNATURE, TARGET, out / "m.so")
        with pytest.raises(RunError, match="no_such_function"):
            load(out / "m.so")

    def test_no_directory(self, tmp_path, empty_cache):
        self.failing(tmp_path, empty_cache, "No such file or directory; choose another place")

    def test_compiler_is_not_one(self, tmp_path, empty_cache, out, monkeypatch):
        for name in ("/no/such/clang", "/bin/true"):
            monkeypatch.setenv("STEPWELL_CLANG", name)
            self.failing(tmp_path, empty_cache, "is no clang 19 or newer")

    def test_no_compiler_at_all(self, tmp_path, empty_cache, out, monkeypatch):
        monkeypatch.setenv("PATH", str(out))
        monkeypatch.delenv("STEPWELL_CLANG", raising=False)
        monkeypatch.setattr(toolchain, "_zig_driver", lambda: None)
        self.failing(tmp_path, empty_cache, r"pip install 'stepwell\[clang\]'")

    def test_an_old_clang_is_passed_over(self, out, monkeypatch):
        for name in ("clang-19", "clang-18", "clang"):
            (out / name).write_text("#!/bin/sh\necho 'clang version 18.1.0'\n")
            (out / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{out}:{os.environ['PATH']}")
        monkeypatch.delenv("STEPWELL_CLANG", raising=False)
        assert not toolchain.find_driver().argv[0].startswith(str(out))

    def test_a_compiler_that_hangs(self, tmp_path, empty_cache, out, monkeypatch):
        monkeypatch.setenv("STEPWELL_CLANG", str(hanging_clang(out)))
        monkeypatch.setattr(toolchain.run_child, "__defaults__", (0.5,))
        with pytest.raises(CompileError, match=r"not done after 0\.5 s"):
            build(tmp_path / "m.so", [], 0)
        assert not leftovers(empty_cache)
        time.sleep(0.2)
        assert not alive(int((out / "grandchild").read_text()))

    def test_prefixes(self, tmp_path, empty_cache, out):
        for prefix in ("3d", "a-b", "a b", "stepwell", 'x"'):
            self.failing(tmp_path, empty_cache, "cannot begin a C name", symbol_prefix=prefix)
        names = {
            "ResNet-50.v2": "resnet_50_v2",
            "3d": "model_3d",
            "é": "model_",
            "stepwell": "model_stepwell",
        }
        assert {stem: prefix_of(stem) for stem in names} == names


def hanging_clang(folder: Path) -> Path:
    """A clang that answers --version, and otherwise waits in a process of its own."""
    path = folder / "clang-slow"
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) echo "clang version 22.0.0"; exit;; esac\n'
        f"sleep 100 &\necho $! > {folder}/pid; mv {folder}/pid {folder}/grandchild; wait\n"
    )
    path.chmod(0o755)
    return path


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_nothing_behind(tmp_path, number):
    code = (  # a job in the background of a shell script is born deaf to SIGINT
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_cpu_library"
        " as t\n"
        "t.build_library(['a', 'b', 'c'], [], t.SIGNATURE, t.TARGET, Path(sys.argv[2]))\n"
    )
    cache = tmp_path / "cache"
    environment = {
        **os.environ, "STEPWELL_CLANG": str(hanging_clang(tmp_path)), "STEPWELL_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "m.so")],
        env=environment,
        stderr=subprocess.PIPE,
    )
    deadline = time.time() + 30
    while not (tmp_path / "grandchild").exists() and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    assert leftovers(cache)
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode != 0
    if number != signal.SIGKILL:
        time.sleep(0.2)
        assert not alive(int((tmp_path / "grandchild").read_text()))
    else:  # nobody could tidy up: the next one does
        os.kill(int((tmp_path / "grandchild").read_text()), signal.SIGKILL)
        from stepwell.backends.cpu import cache as module

        module._sweep(cache / "tmp")
    assert not leftovers(cache)
    assert not (tmp_path / "m.so").exists()


def test_assembly():
    text = toolchain.compile_assembly(TEXT.replace("OFFSET", "0"), TARGET)
    assert "stepwell_main:" in text and "stepwell_rt_output" in text


def test_signature_is_canonical():
    described = canonical_signature(
        {
            "inputs": [{"name": "x", "dtype": "i1", "shape": ["n", "2*n", 3]}],
            "outputs": [{"name": "y", "dtype": "bfloat16", "shape": ["n", "s1"]}],
            "metadata": {"a": "b"},
        },
        {"cpu": "c"},
        4,
    )
    assert described["inputs"][0]["dtype"] == "bool" and described["metadata"] == {"a": "b"}
    source = c_source(described, "")
    assert (
        "{STEPWELL_SYMBOL(0), STEPWELL_ANY, 3}" in source and "{STEPWELL_SYMBOL(0), STEPWELL_ANY}" in source
    )
    with pytest.raises(CompileError, match="'i3' cannot cross the interface"):
        canonical_signature({"inputs": [{"name": "x", "dtype": "i3", "shape": []}]}, {}, 1)


def test_c_callers_too_are_told_of_a_wrong_cpu(tmp_path, monkeypatch):
    import ctypes

    if MACHINE != "x86_64":
        pytest.skip("features of x86")
    present = set(Path("/proc/cpuinfo").read_text().split())
    for name in ("sse9", "avx2", "amx_int8"):
        features = ["sse4_1", name]
        monkeypatch.setattr("stepwell.backends.cpu.library.required_features", lambda _, f=features: f)
        library = ctypes.CDLL(str(build(tmp_path / f"{name}.so", [(0, TAIL)], 0)))
        library.stepwell_create.restype = ctypes.c_void_p
        library.stepwell_last_error.restype = ctypes.c_char_p
        assert bool(library.stepwell_create(None)) == (name in present), name
        if name not in present:
            assert f"a CPU with {name}".encode() in library.stepwell_last_error(None)


def test_the_runtime_knows_every_feature_that_is_asked_for():
    names = set(toolchain._FEATURES.values())
    text = (toolchain._RUNTIME / "cpu.c").read_text()
    assert {name for name in names if f'{{"{name}",' in text} == names


def test_unloading_maps_nothing_more(tmp_path):
    path = build(tmp_path / "m.so", [(64, TAIL)], 64)

    def mappings() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    model = load(path)
    assert mappings() > 0
    del model
    assert mappings() == 0


def test_the_cache_is_private():
    assert cache_directory().stat().st_mode & 0o777 == 0o700
