"""Weights as a segment of a library, whichever linker made it."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stepwell.backends.cpu.elf import place_weights, reserving_assembly
from stepwell.backends.cpu.toolchain import compile_c, find_driver, link
from stepwell.errors import CompileError
from stepwell.targets import resolve_target

SOURCE = """
extern const unsigned char stepwell_weights[] __attribute__((visibility("hidden")));
static char zeros[70000], *also = zeros;
static _Thread_local char own[300];
__attribute__((visibility("default"))) const unsigned char *weights(void) {
  own[also[69999]]++;
  return stepwell_weights;
}
"""
SCRIPT = "{ global: weights; local: *; };\n"
SIZES = [1, 4096, 70000, (2 << 20) + 64, 5 << 20]


@pytest.fixture
def target():
    return resolve_target("native")


def contents(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def linked(folder: Path, size: int, target, linker: str | None, more: str = "") -> Path:
    """A library with the addresses of `size` bytes of weights, by a linker of this machine, or by clang's own."""
    assembly = reserving_assembly(size, target) + more
    objects = [compile_c(SOURCE, target)]
    if linker is None:
        return link(objects, assembly, SCRIPT, target, folder)
    (folder / "part.o").write_bytes(objects[0])
    (folder / "weights.S").write_text(assembly)
    (folder / "exports.map").write_text(SCRIPT)
    driver = find_driver(target)
    assemble = [*driver.argv, *driver.target_flags(target), "-c", "weights.S", "-o", "weights.o"]
    subprocess.run(
        assemble,
        cwd=folder,
        check=True,
        capture_output=True,
        env=driver.environment(folder) | {"PATH": os.environ["PATH"]},
    )
    options = "-shared --version-script=exports.map -z now -z relro --gc-sections -o library.so".split()
    subprocess.run([linker, *options, "part.o", "weights.o"], cwd=folder, check=True, capture_output=True)
    return folder / "library.so"


def bytes_at_weights(library: Path, size: int) -> bytes:
    function = ctypes.CDLL(str(library)).weights
    function.restype = ctypes.POINTER(ctypes.c_ubyte * size)
    return bytes(function().contents)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("linker", [None, "ld.bfd", "ld.gold", "ld.lld", "ld.lld-22", "mold"])
def test_every_linker(tmp_path, target, linker, size):
    if linker and not shutil.which(linker):
        pytest.skip(f"{linker} is not on this machine")
    library = linked(tmp_path, size, target, linker)
    place_weights(library, size, lambda file: file.write(contents(size)))
    assert bytes_at_weights(library, size) == contents(size)
    assert library.stat().st_size < size + (400 << 10)
    if strip := shutil.which("strip"):
        stripped = tmp_path / "stripped.so"
        done = subprocess.run([strip, "-o", stripped, library], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert bytes_at_weights(stripped, size) == contents(size)


def test_the_bytes_are_read_only_pages_of_the_file(tmp_path, target):
    size = 3 << 20
    library = linked(tmp_path, size, target, None)
    place_weights(library, size, lambda file: file.write(contents(size)))
    handle = ctypes.CDLL(str(library))
    handle.weights.restype = ctypes.c_void_p
    at = handle.weights()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(text, 16) for text in line.split()[0].split("-"))
        if begin <= at < end:
            assert line.split()[1] == "r--p" and line.endswith(str(library))
            return
    raise AssertionError("not mapped")


@pytest.mark.parametrize(
    "more, said",
    [
        ("  .zero 8\n", "the weights do not have the last addresses"),
        (None, "there is no section .lbss"),
    ],
)
def test_a_library_of_another_form_is_refused(tmp_path, target, more, said):
    if more is None:
        library = link(
            [compile_c("int f(void) { return 1; }", target)], None, "{ global: f; };", target, tmp_path
        )
    else:
        library = linked(tmp_path, 64, target, None, more)
    with pytest.raises(CompileError, match=f"{said}; let clang use GNU ld or lld"):
        place_weights(library, 64, lambda file: file.write(bytes(64)))
