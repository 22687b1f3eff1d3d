"""The C runtime called from C: its promises, two models in one program, the example, and the sanitizers."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

import stepwell
from stepwell.backends.cpu.signature import c_source, canonical_signature
from stepwell.backends.cpu.toolchain import find_driver

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INCLUDE = ROOT / "runtime" / "c"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{INCLUDE}"]


@pytest.fixture(scope="module")
def clang() -> list[str]:
    driver = find_driver()
    if driver.kind != "clang":
        pytest.skip("needs clang itself")
    return list(driver.argv)


def call(argv: list, **options) -> str:
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{argv[0]}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_headers_are_c_and_cxx(clang):
    for language in ("c", "c++"):
        call(
            [
                *clang,
                "-x",
                language,
                "-fsyntax-only",
                "-Wall",
                "-Wextra",
                "-pedantic-errors",
                INCLUDE / "stepwell.h",
            ]
        )


def test_dlpack_layout(clang, tmp_path):
    """Our DLTensor has the offsets of DLPack 1.1 on a 64-bit machine."""
    offsets = {"data": 0, "device": 8, "ndim": 16, "dtype": 20, "shape": 24, "strides": 32, "byte_offset": 40}
    lines = [f'_Static_assert(offsetof(DLTensor, {name}) == {at}, "{name}");' for name, at in offsets.items()]
    lines += ['_Static_assert(sizeof(DLTensor) == 48 && sizeof(stepwell_value) == 56, "sizes");']
    (tmp_path / "layout.c").write_text('#include "stepwell.h"\n' + "\n".join(lines))
    call([*clang, *WARNINGS, "-fsyntax-only", tmp_path / "layout.c"])


def test_promises(build, clang, tmp_path):
    call(
        [*clang, *WARNINGS, HERE / "checks.c", build("sums", symbol_prefix="sums"), "-o", tmp_path / "checks"]
    )
    call([tmp_path / "checks"])


def test_values(clang, signatures, tmp_path):
    call([build_sanitized(clang, signatures["values"], "values", "values.c", "address", tmp_path)])


def test_values_of_strings(clang, signatures, tmp_path):
    described = {role: [dict(slot) for slot in slots] for role, slots in signatures["values"].items()}
    for slot in (*described["inputs"], described["outputs"][0]):
        slot["dtype"] = "string"
    call([build_sanitized(clang, described, "values", "value_strings.c", "address", tmp_path)])


def test_values_of_maps(clang, signatures, tmp_path):
    described = {role: [dict(slot) for slot in slots] for role, slots in signatures["values"].items()}
    for slot in (*described["inputs"], described["outputs"][0]):
        slot["kind"] = slot["kind"].replace("tensor", "map from string to tensor")
        slot["shape"] = []
    call([build_sanitized(clang, described, "values", "value_maps.c", "address", tmp_path)])


def test_threads(build, clang, tmp_path):
    call([*clang, *WARNINGS, HERE / "threads.c", build("rows"), "-o", tmp_path / "threads"])
    call([tmp_path / "threads", "500"])


def test_every_tile_is_computed_once(clang, tmp_path):
    call([*clang, *WARNINGS, HERE / "ranges.c", "-o", tmp_path / "ranges"])
    call([tmp_path / "ranges"])


def test_beside_openmp(build, tmp_path):
    if (gcc := shutil.which("gcc")) is None:
        pytest.skip("needs gcc and its OpenMP library")
    program = tmp_path / "openmp"
    call([gcc, *WARNINGS, "-fopenmp", HERE / "openmp.c", build("rows"), "-o", program])
    assert call([program]) == "3\n"


def test_two_models_in_one_program(build, clang, tmp_path):
    """Each library's own code answers, under the prefixes and where the plain names mean the first one."""
    (tmp_path / "both.c").write_text("""
      #include <string.h>
      #include "stepwell.h"
      STEPWELL_DECLARE(one) STEPWELL_DECLARE(two)
      int main(void) {
        stepwell_context *a = one_create(NULL), *b = two_create(NULL);
        int same = one_signature_json() == two_signature_json();
        int named = strstr(one_signature_json(), "\\"x\\"") &&
                    strstr(two_signature_json(), "\\"difference\\"");
        one_destroy(a), two_destroy(b);
        return same || !named;
      }
    """)
    first, second = build("rows", symbol_prefix="one"), build("sums", symbol_prefix="two")
    call([*clang, *WARNINGS, tmp_path / "both.c", first, second, "-o", tmp_path / "both"])
    call([tmp_path / "both"])


def test_example(build, clang, tmp_path):
    call(
        [
            *clang,
            *WARNINGS,
            ROOT / "examples" / "c" / "run_model.c",
            build("affine"),
            "-o",
            tmp_path / "run_model",
        ]
    )
    lines = call([tmp_path / "run_model", "1", "2x4"]).splitlines()
    want = 2 * np.arange(8) + np.tile([10, 20, 30, 40], 2)
    assert lines[-1] == "output 0, shape [2, 4]: " + " ".join(f"{v:g}" for v in want)
    done = subprocess.run([tmp_path / "run_model", "1", "2x5"], capture_output=True, text=True)
    assert done.returncode == 1 and "axis 1 has the extent 5, expected 4" in done.stderr


TWO_OUTPUTS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 6] x, float[batch] s) => (float[batch, 3] y, float[batch] total)
<float[6,3] w = {1, 0, 2, -1, 0.5, 3, 0, 1, 1, 2, -2, 0, 1, 1, 1, 0.25, 4, -1}>
{ h = MatMul (x, w)  y = Relu (h)
  axis = Constant <value_ints = [1]> ()  sum = ReduceSum <keepdims = 0> (y, axis)  total = Mul (sum, s) }
"""


@pytest.mark.parametrize("opt_level", [0, 3])
def test_example_with_a_compiled_model(clang, tmp_path, opt_level):
    """A model of two inputs and two outputs, from ONNX to the C program, at several extents."""
    model = onnx.parser.parse_model(TWO_OUTPUTS)
    stepwell.compile(model, opt_level=opt_level).save(tmp_path / "net.so")
    source = ROOT / "examples" / "c" / "run_model.c"
    call([*clang, *WARNINGS, source, tmp_path / "net.so", "-o", tmp_path / "run_model"])
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    for batch in (1, 5, 0):
        lines = call([tmp_path / "run_model", "2", f"{batch}x6", f"{batch}"]).splitlines()
        y = np.maximum(np.arange(batch * 6.0).reshape(batch, 6) @ weights, 0)
        total = y.sum(1) * np.arange(batch)
        for line, number, want in ((lines[-2], 0, y), (lines[-1], 1, total)):
            values = "".join(f" {v:g}" for v in want.reshape(-1)[:16])
            assert line == f"output {number}, shape {list(want.shape)}:{values}"
    for shapes, word in ((["3x6", "2"], "batch"), (["3x6"], "inputs")):
        done = subprocess.run([tmp_path / "run_model", "2", *shapes], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("run_model: ") and word in done.stderr


def build_sanitized(clang, described: dict, name: str, program: str, sanitizer: str, folder: Path) -> Path:
    """The program, the runtime and the model as one executable, all of it instrumented."""
    signature = canonical_signature(described, {}, 2)
    (folder / "table.c").write_text(c_source(signature, name))
    text = (HERE / "modules" / f"{name}.ll").read_text()
    # Nothing in IR is instrumented unless its function asks for it.
    (folder / "model.ll").write_text(text.replace(") {\n", f") sanitize_{sanitizer} {{\n"))
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}", "-Wno-override-module"]
    sources = [HERE / program, INCLUDE / "runtime.c", folder / "table.c", folder / "model.ll"]
    call([*clang, *WARNINGS, *flags, *sources, "-lm", "-o", folder / "program"])
    return folder / "program"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "program", "sanitizer"),
    [("sums", "checks.c", "address"), ("rows", "threads.c", "address"), ("rows", "threads.c", "thread")],
)
def test_sanitizers_are_silent(clang, signatures, tmp_path, name, program, sanitizer):
    binary = build_sanitized(clang, signatures[name], name, program, sanitizer, tmp_path)
    call([binary, "1000"], env={"ASAN_OPTIONS": "detect_leaks=1", "TSAN_OPTIONS": "halt_on_error=1"})


WATCHED = """
<ir_version: 8, opset_import: ["" : 17]>
watched (float[n, 64] x, float[64, 96] w) => (BODY_OUT) {
  h = MatMul (x, w)
  s = Softmax <axis = 1> (h)
  BODY
}"""


@pytest.mark.parametrize(
    ("out", "body"),
    [
        ("float[n, 64] y", "t = Transpose <perm = [1, 0]> (w)\n  y = MatMul (s, t)"),
        (
            "int64[2, found] y",
            "zero = Constant <value_float = 0.02> ()\n  g = Greater (s, zero)\n  y = NonZero (g)",
        ),
    ],
    ids=["extents of the inputs", "extents from data"],
)
def test_runs_allocate_nothing_after_the_first(clang, tmp_path, out, body):
    model = onnx.parser.parse_model(WATCHED.replace("BODY_OUT", out).replace("BODY", body))
    weights = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    del model.graph.input[1]
    library = tmp_path / "libwatched.so"
    stepwell.compile(model).save(library)
    program = tmp_path / "heap"
    call([*clang, *WARNINGS, HERE / "heap.c", library, "-o", program])
    assert call([program], env={"LD_LIBRARY_PATH": str(tmp_path)}) == "0\n"


def weights_of_megabytes() -> onnx.ModelProto:
    """A product with 8 MiB of weights, and an intermediate result of 2 MiB and more."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        wide (float[1, 512] x) => (float[1, 512] y) {
          column = Transpose <perm = [1, 0]> (x)  outer = MatMul (column, x)  sums = CumSum (outer, axis)
          repeated = Concat <axis = 1> (sums, sums, sums, sums)
          h = MatMul (x, repeated)  y = MatMul (h, w)
        }""")
    weights = np.random.default_rng(0).normal(size=(2048, 512)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "axis"))
    return model


def test_where_huge_pages_are_refused_nothing_else_changes(clang, tmp_path):
    library = tmp_path / "libwide.so"
    stepwell.compile(weights_of_megabytes()).save(library)
    call([*clang, *WARNINGS, HERE / "pages.c", library, "-o", tmp_path / "pages"])
    environment = {"LD_LIBRARY_PATH": str(tmp_path)}
    asked, *bits = call([tmp_path / "pages"], env=environment).split()
    assert int(asked) >= 1, "for the weights at least"
    assert call([tmp_path / "pages", "refuse"], env=environment).split() == [asked, *bits]
    assert len({*bits}) > 400
