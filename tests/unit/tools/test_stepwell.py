"""The `stepwell` command in this process: what each flag writes, and the exit status of everything that is wrong."""

import json
import os
from dataclasses import dataclass
from io import StringIO

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from xdsl.passes import ModulePass

import stepwell
from stepwell import pipelines
from stepwell.compat import new_context
from stepwell.diagnostics import unsupported
from stepwell.ir_files import read_module_file
from stepwell.registry import DIALECTS
from stepwell.tools import stepwell_opt
from stepwell.tools.stepwell import main


def run(*argv):
    out, err = StringIO(), StringIO()
    code = main([str(word) for word in argv], out, err)
    return code, out.getvalue(), err.getvalue()


def tensor(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def save(path, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """`y = relu(x @ w)` with a symbolic batch and a weight that is too large for the text."""
    weight = np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32)
    return save(
        tmp_path_factory.mktemp("model") / "layer.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        [tensor("x", "batch", 16)],
        [tensor("y", "batch", 12)],
        [numpy_helper.from_array(weight, "w")],
    )


@pytest.fixture(scope="module")
def library(model):
    path = model.with_suffix(".so")
    code, _, err = run("compile", model, "-o", path)
    assert code == 0 and f"{path}: " in err
    return path


@pytest.mark.parametrize("emit", ["graph", "tensor", "kernels", "loops", "memref", "llvm"])
def test_levels_are_printed(model, emit):
    code, out, err = run("compile", model, "--emit", emit)
    assert code == 0 and out.startswith("builtin.module")
    assert "1 constants are not written" in err, "the weight"


@pytest.mark.parametrize(
    ("emit", "start"), [("ll", b"define void @"), ("asm", b"\t"), ("obj", b"\x7fELF"), ("so", b"\x7fELF")]
)
def test_native_stages_are_written(model, tmp_path, emit, start):
    path = tmp_path / "out"
    assert run("compile", model, "--emit", emit, "-o", path)[0] == 0
    assert start in path.read_bytes()


def test_dump_and_timing_and_report(model, tmp_path):
    code, _, err = run(
        "compile", model, "--dump-dir", tmp_path / "dump", "-o", tmp_path / "m.so", "--timing", "--report"
    )
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "dump").glob("*.ir")) == [
        "graph.ir", "kernels.ir", "llvm.ir", "loops.ir", "memref.ir", "tensor.ir",
    ]  # fmt: skip
    assert "graph-to-linalg" in err and "clang" in err and "weights: 0.0 MB" in err
    assert "stepwell: kernels\n" in err, "progress in plain lines where there is no terminal"


def test_compilation_goes_on_from_every_level(model, library, tmp_path):
    feeds = {"x": np.ones((3, 16), np.float32)}
    np.save(tmp_path / "x.npy", feeds["x"])
    assert run("compile", model, "--dump-dir", tmp_path, "-o", tmp_path / "m.so")[0] == 0
    for level in ("graph", "tensor", "kernels", "loops", "memref", "llvm"):
        path = tmp_path / f"from_{level}.so"
        code, _, err = run("compile", tmp_path / f"{level}.ir", "-o", path, "--symbol-prefix", "layer")
        assert code == 0, err
        code, out, err = run("run", path, "--input", f"x={tmp_path / 'x.npy'}")
        assert code == 0 and out == run("run", library, "--input", f"x={tmp_path / 'x.npy'}")[1], level
    code, out, _ = run("compile", tmp_path / "memref.ir", "--emit", "llvm", "--print-pipeline")
    assert code == 0 and "unroll-vectors" in out and "bufferize" not in out


def test_run_writes_outputs_and_checks_them(model, library, tmp_path):
    code, out, _ = run("run", library, "--random", "--seed", 3, "--output-dir", tmp_path)
    assert code == 0 and out.startswith("y: float32[1, 12]")
    assert np.load(tmp_path / "y.npy").shape == (1, 12)
    code, out, _ = run("run", model, "--random", "--check", "interpreter")
    assert code == 0 and "agrees with interpreter" in out
    pytest.importorskip("onnxruntime")
    code, out, _ = run("run", model, "--random", "--dim", "batch=2", "--check", "onnxruntime")
    assert code == 0 and "y: float32[2, 12]" in out and "agrees with onnxruntime" in out


def test_bench(model):
    pytest.importorskip("onnxruntime")
    code, out, _ = run("bench", model, "--vs", "onnxruntime", "--threads", "1,2", "--seconds", "0.05")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 2 and "ratio" in lines[0] and lines[1].startswith("2 threads: ")


def test_inspect(model, library):
    code, out, _ = run("inspect", model)
    assert code == 0 and "x: float32[batch, 16]" in out and "1 graph.relu" in out
    facts = json.loads(run("inspect", model, "--json", "--dim", "batch=4")[1])
    assert facts["weight_bytes"] == 16 * 12 * 4 and facts["unsupported"] == []
    assert facts["operations"] >= 2 * 4 * 16 * 12
    assert isinstance(facts["arena_bytes"], int), "all extents are known"
    assert json.loads(run("inspect", library, "--json")[1])["outputs"][0]["name"] == "y"


def test_inspect_says_all_that_is_unsupported(tmp_path):
    path = save(
        tmp_path / "two.onnx",
        [
            helper.make_node("First", ["x"], ["h"], domain="vendor"),
            helper.make_node("Second", ["h"], ["y"], domain="vendor"),
        ],
        [tensor("x", 4)],
        [tensor("y", 4)],
    )
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("vendor", 1))
    onnx.save(model, path)
    code, out, _ = run("inspect", path)
    assert code == 0 and "not supported: " in out and "First" in out and "Second" in out
    code, _, err = run("compile", path, "-o", tmp_path / "two.so")
    assert code == 2 and "First" in err and "Second" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["compile"], "model"),
        (
            ["compile", "MODEL", "--emit", "nothing"],
            "--emit nothing: no such stage; use one of graph, tensor",
        ),
        (["compile", "MODEL", "-O7"], "-O7"),
        (["compile", "MODEL", "--fp", "loose"], "fp 'loose': no such mode"),
        (["compile", "MODEL", "--threads", "0"], "threads 0: must be at least 1"),
        (["compile", "MODEL", "--dim", "batch"], "--dim batch: expected NAME=N"),
        (["compile", "MODEL", "--dim", "rows=3", "--emit", "graph"], "rows"),
        (["compile", "MODEL", "--target", "abacus", "--emit", "graph"], "abacus"),
        (["compile", "MODEL", "-o", "TMP/none/x.so"], "there is no directory"),
        (["compile", "MODEL", "--emit", "graph", "-o", "TMP"], "cannot be written"),
        (["compile", "MODEL", "--emit", "obj", "-o", "-"], "bytes are not for standard output"),
        (["compile", "TMP/absent.onnx"], "absent.onnx"),
        (["compile", "TMP/absent.ir"], "absent.ir: cannot be read"),
        (["compile", "TMP/text.onnx"], "text.onnx"),
        (["compile", "TMP/text.ir"], "text.ir:1:1: error: "),
        (["compile", "TMP/text.ll"], "text.ll"),
        (["compile", "LIBRARY", "-o", "TMP/x.so"], "layer.so"),
        (["run", "TMP/text.so"], "text.so"),
        (["run", "LIBRARY"], "x"),
        (["run", "LIBRARY", "--input", "x"], "--input x: expected NAME=FILE.npy"),
        (["run", "LIBRARY", "--input", "x=TMP/text.ir"], "cannot read"),
        (["run", "LIBRARY", "--random", "--check", "interpreter"], "--check needs the model's .onnx file"),
        (["run", "MODEL", "--check", "someone"], "someone"),
        (["bench", "MODEL", "--threads", "1,x"], "--threads 1,x: expected counts such as 1,2"),
        (["inspect", "TMP/absent.so"], "absent.so"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(model, library, tmp_path, argv, message):
    for suffix in ("onnx", "ir", "ll", "so"):
        (tmp_path / f"text.{suffix}").write_text("nonsense\n")
    words = {"MODEL": str(model), "LIBRARY": str(library)}
    code, out, err = run(*(words.get(word, word.replace("TMP", str(tmp_path))) for word in argv))
    lines = [line for line in err.splitlines() if not line.startswith("stepwell: ")]
    assert code == 1 and out == "", err
    assert lines[0].startswith("error: ") and message in err and "Traceback" not in err


@dataclass(frozen=True)
class _Broken(ModulePass):
    """Has a bug."""

    name = "cse"

    def apply(self, ctx, op):
        raise KeyError("lost")


def test_a_pass_that_breaks_down_leaves_a_reproducer(model, tmp_path, monkeypatch):
    monkeypatch.delenv("STEPWELL_CRASH_REPRODUCER")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("stepwell.transforms.cse.CsePass", _Broken)
    code, _, err = run("compile", model, "-o", tmp_path / "x.so")
    assert code == 3 and "pass cse failed: KeyError: 'lost'" in err
    (path,) = tmp_path.glob("stepwell-reproducer-*.ir")
    assert f"note: reproducer: stepwell-opt --run-reproducer {path} (with " in err
    first = path.read_text().splitlines()[0]
    assert first == "// RUN: stepwell-opt %s -p 'builtin.module(cse)'"
    module = read_module_file(path, new_context(DIALECTS))
    assert "stepwell.target" in module.attributes, "the passes before it are behind it"
    code = stepwell_opt.main([str(path), "-p", "builtin.module(cse)"], StringIO(), StringIO(), StringIO())
    assert code == 3
    code, _, err = run("compile", model, "-o", tmp_path / "x.so", "--debug")
    assert code == 3 and "Traceback" in err


@dataclass(frozen=True)
class _Refusing(ModulePass):
    """Cannot do it yet."""

    name = "cse"

    def apply(self, ctx, op):
        raise unsupported(op, "too new", "wait")


def test_a_pass_that_refuses_a_model_leaves_a_reproducer(model, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.delenv("STEPWELL_CRASH_REPRODUCER")
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(cache))
    monkeypatch.setattr("stepwell.transforms.cse.CsePass", _Refusing)
    place = cache / "reproducer.ir"
    assert run("inspect", model)[0] == 0 and not place.exists(), "what it refuses is its answer"
    code, _, err = run("compile", model, "--target", "vax", "-o", tmp_path / "x.so")
    assert code == 1 and "target 'vax'" in err and "note:" not in err, "the model has no part in it"
    for command in (["compile", "-o", tmp_path / "x.so"], ["run", "--random"], ["bench"], ["explore"]):
        code, _, err = run(*command[:1], model, *command[1:])
        assert code == 2 and "too new; wait" in err, err
        assert f"note: reproducer: stepwell-opt --run-reproducer {place} (with " in err
        assert place.read_text().startswith("// RUN: stepwell-opt %s -p 'builtin.module(cse)'\n")
        stream = StringIO()
        assert stepwell_opt.main(["--run-reproducer", str(place)], StringIO(), StringIO(), stream) == 2
        assert "too new; wait" in stream.getvalue()
        place.unlink()
        code, _, err = run(*command[:1], model, *command[1:], "--no-crash-reproducer")
        assert code == 2 and "note:" not in err and not place.exists()
    code, _, err = run("compile", model, "-o", tmp_path / "x.so", "--crash-reproducer", tmp_path / "mine.ir")
    assert code == 2 and (tmp_path / "mine.ir").exists() and (tmp_path / "mine.safetensors").exists()
    with pytest.raises(stepwell.UnsupportedError, match="too new") as caught:
        stepwell.compile(model, cache=False)
    assert not hasattr(caught.value, "__notes__") and not place.exists(), "a library does not write unasked"


def test_levels_of_modules_that_were_written(model):
    """Each level is told from its ops alone, whatever the optimisation level."""
    from stepwell.compiler import Compilation, Options, levels_done

    for opt_level in (0, 3):
        compilation = Compilation(Options(opt_level=opt_level))
        compilation.read(model)
        assert levels_done(compilation.module, pipelines.LEVELS) == 0
        for done, level in enumerate(pipelines.LEVELS, 1):
            assert levels_done(compilation.lower_to(level), pipelines.LEVELS) == done


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_place_without_permission(model, tmp_path):
    tmp_path.chmod(0o500)
    assert run("compile", model, "-o", tmp_path / "x.so")[0] == 1


def test_bench_profile_and_trace(model, tmp_path):
    trace = tmp_path / "trace.json"
    code, out, _ = run("bench", model, "--seconds", "0.01", "--threads", "1,2", "--trace", trace)
    assert code == 0 and out.count("the run (fastest of 10)") == 2
    assert out.count("h + y") == 2
    for threads in (1, 2):
        entries = json.loads((tmp_path / f"trace-{threads}.json").read_text())["traceEvents"]
        assert any(entry.get("cat") == "kernel" for entry in entries)


def test_run_profile(library, tmp_path):
    trace = tmp_path / "trace.json"
    code, out, _ = run("run", library, "--random", "--profile", trace)
    assert code == 0 and "between launches" in out and json.loads(trace.read_text())["traceEvents"]


@pytest.fixture(scope="module")
def sequence_model(tmp_path_factory):
    """A sequence with a tensor at its end, and its length."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (seq(float[?,2]) s, float[n,2] x, optional(float[3]) o)
      => (seq(float[?,2]) t, int64 count, optional(float[3]) same) {
        t = SequenceInsert (s, x)  count = SequenceLength (t)  same = Identity (o) }"""
    path = tmp_path_factory.mktemp("sequences") / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_sequences_are_files_of_one_name(sequence_model, tmp_path):
    first, second = np.float32([[1, 2], [3, 4]]), np.float32([[5, 6]])
    np.save(tmp_path / "a.npy", first)
    np.save(tmp_path / "b.npy", second)
    inputs = ["--input", f"s={tmp_path}/a.npy", "--input", f"s={tmp_path}/b.npy", "--random"]
    code, out, _ = run(
        "run", sequence_model, *inputs, "--check", "interpreter", "--output-dir", tmp_path / "out"
    )
    assert code == 0 and "t[2]: 0 of the tolerance" in out and "agrees with interpreter" in out
    assert "count: int64[] = [3]" in out and "t: [float32[2, 2] = [1.0, 2.0, 3.0, 4.0], float32[1, 2]" in out
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "t_1_.npy"), second)
    code, _, err = run("run", sequence_model, *inputs, *["--input", f"x={tmp_path}/b.npy"] * 2)
    assert code == 1 and "x is given twice; only a sequence takes several files" in err


def test_maps_are_files_of_keys_and_values(tmp_path):
    path = tmp_path / "model.onnx"
    text = """<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]> g (map(string,float[]) m, seq(map(int64,float[])) s)
      => (float[1,2] y, map(string,float[]) same, seq(map(int64,float[])) t) {
        y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["b", "a"]> (m)  same = Identity (m)  t = Identity (s) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    for name, array in (("k", np.array(["b", "c"])), ("v", np.float32([1.5, 2])), ("i", np.array([7, 3]))):
        np.save(tmp_path / f"{name}.npy", array)
    given = {"m.keys": "k", "m.values": "v", "s.keys": "i", "s.values": "v"}
    inputs = [text for name, file in given.items() for text in ("--input", f"{name}={tmp_path}/{file}.npy")]
    code, out, _ = run("run", path, *inputs, "--check", "interpreter", "--output-dir", tmp_path / "out")
    assert code == 0 and "agrees with interpreter" in out
    assert "same: {'b': 1.5, 'c': 2.0}" in out and "t: [{7: 1.5, 3: 2.0}]" in out
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "same.keys.npy"), ["b", "c"])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "t_0_.values.npy"), [2, 1.5])
    code, out, _ = run("inspect", path)
    assert code == 0 and "m: map from string to float32[]" in out
    assert run("run", path, "--random")[0] == 0 and run("bench", path, "--seconds", "0.1")[0] == 0
    for wrong, message in (
        (["--input", f"m={tmp_path}/v.npy"], "m is a map; give m.keys=FILE.npy and m.values=FILE.npy"),
        ([*inputs, "--input", f"m.keys={tmp_path}/k.npy"], "m: 2 files of keys and 1 of values"),
        ([*inputs, *inputs[:4]], "m is given twice; only a sequence takes several files"),
    ):
        code, _, err = run("run", path, *wrong)
        assert code == 1 and message in err


def test_kinds_are_inspected(sequence_model, tmp_path):
    library = tmp_path / "model.so"
    assert run("compile", sequence_model, "-o", library)[0] == 0
    for path in (sequence_model, library):
        code, out, _ = run("inspect", path)
        assert code == 0 and "s: sequence of float32[?, 2]" in out and "o: optional float32[3]" in out
    code, out, _ = run("run", library, "--random", "--profile", tmp_path / "trace.json")
    assert code == 0 and json.loads((tmp_path / "trace.json").read_text())
