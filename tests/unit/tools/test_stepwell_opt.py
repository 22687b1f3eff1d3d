"""The command line of stepwell-opt: flags, exit status, and that no input gives a traceback."""

import json
import os
import random
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from small_models import mlp

from stepwell.tools import stepwell_translate
from stepwell.tools.stepwell_opt import main

GOOD = """func.func @f(%x: index) -> index {
  %0 = arith.constant 0 : index
  %y = arith.addi %x, %0 : index
  func.return %y : index
}
"""


def run(*argv, stdin=""):
    out, err = StringIO(), StringIO()
    code = main(list(argv), StringIO(stdin), out, err)
    return code, out.getvalue(), err.getvalue()


def plugin(tmp_path: Path, body: str) -> str:
    path = tmp_path / "plugin.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from xdsl.passes import ModulePass\n"
        "from stepwell.diagnostics import compile_error, unsupported\n"
        "@dataclass(frozen=True)\nclass MyPass(ModulePass):\n"
        '    """Does a thing. And more."""\n'
        '    name = "my-pass"\n'
        "    count: int = 1\n"
        '    """How often."""\n'
        "    names: tuple[str, ...] = ()\n"
        "    def apply(self, ctx, op):\n"
        "        first = next(iter(op.body.block.ops))\n"
        f"        {body}\n"
    )
    return str(path)


@pytest.fixture
def reproducers(tmp_path, monkeypatch) -> Path:
    """A directory where reproducers go, as they do outside of tests."""
    home = tmp_path / "home"
    (home / "cache").mkdir(mode=0o700, parents=True)
    monkeypatch.delenv("STEPWELL_CRASH_REPRODUCER")
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(home / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(home))
    return home


def test_identity():
    code, out, err = run(stdin=GOOD)
    assert (code, err) == (0, "") and "arith.addi" in out
    assert run(stdin=out)[1] == out


def test_help_lists_flags_and_a_pass_explains_itself(tmp_path):
    code, out, _ = run("--help")
    assert code == 0 and "--print-ir-after-change" in out and "examples:" in out
    code, out, _ = run("--help", "set-target")
    assert code == 0 and "threads=int (default 1)" in out and "default|strict|fast" in out
    code, _, err = run("--help", "set-targets")
    assert code == 1 and "did you mean 'set-target'?" in err


def test_an_op_explains_itself(tmp_path):
    code, out, _ = run("--help", "graph.gemm")
    assert code == 0 and out.startswith("graph.gemm (a, b, c?) -> (y)\n") and "trans_a" in out
    assert "in Python: stepwell.dialects.graph.contraction.GemmOp" in out
    code, _, err = run("--help", "graph.gem")
    assert code == 1 and "did you mean 'graph.gemm'?" in err
    code, _, err = run("--help", "no.thing")
    assert code == 1 and "unknown operation 'no.thing'; the dialects are " in err and "graph, " in err
    code, _, err = run("--help", "text.")
    assert code == 1 and "the ops of text are text.concat, " in err


def test_a_model_is_not_mistaken_for_badly_encoded_text(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x0a\xbd")
    code, _, err = run(str(tmp_path / "m.onnx"))
    assert code == 1 and "is an ONNX model" in err and "stepwell-translate" in err


def test_list_passes():
    code, out, _ = run("--list-passes")
    assert code == 0 and "canonicalize" in out and "Fold integer constants" in out


def test_the_parts_of_a_split_file_are_separate():
    code, out, err = run("--split-input-file", "-p", "canonicalize", stdin=f"{GOOD}// -----\n{GOOD}")
    assert (code, err) == (0, "") and out.count("// -----") == 1 and out.count("@f") == 2
    code, _, err = run("--split-input-file", stdin=f"{GOOD}// -----\n{GOOD}// -----\nnonsense\n")
    assert code == 1 and err.startswith("<stdin>:13:1: error: ")


def test_ir_is_printed_around_passes():
    _, _, err = run("-p", "cse,canonicalize", "--print-ir-after-change", stdin=GOOD)
    assert err.count("//----- //") == 1 and "IR after canonicalize" in err
    _, _, err = run("-p", "cse,canonicalize", "--print-ir-before-all", stdin=GOOD)
    assert "IR before cse" in err and "IR before canonicalize" in err
    _, _, err = run("-p", "cse,canonicalize", "--print-ir-after", "cse", stdin=GOOD)
    assert "IR after cse" in err and "canonicalize" not in err
    _, _, err = run("-p", "cse,canonicalize", "--timing", stdin=GOOD)
    assert "%)  cse\n" in err and "%)  Total\n" in err


def test_debuginfo_is_read_back():
    _, out, _ = run("--print-debuginfo", stdin=GOOD)
    assert 'loc("<stdin>":3:8)' in out
    assert run("--print-debuginfo", stdin=out)[1] == out


def test_expected_errors_are_compared():
    text = "// expected-error@+1 {{is not registered}}\n%x = nowhere.op\n"
    assert run("--verify-diagnostics", stdin=text)[0] == 0
    assert run("--verify-diagnostics", stdin=text.replace("+1", "+2"))[0] == 1
    code, _, err = run("--verify-diagnostics", stdin="// expected-error {{boom}}\n" + GOOD)
    assert code == 1 and "expected error not produced: boom" in err


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise compile_error(first, 'it is wrong', 'mend it')", 1, "<stdin>:1:1: error: func.func: it is wrong; mend it"),
        ("raise unsupported(first, 'too new', 'wait')", 2, "<stdin>:1:1: error: func.func: too new; wait"),
        ("assert False, 'an invariant'", 3, "pass my-pass failed: AssertionError: an invariant"),
        ("first.body.block.erase_op(first.body.block.last_op)", 3, "the IR is invalid after pass my-pass"),
    ],
)  # fmt: skip
def test_exit_status_of_failing_passes(tmp_path, body, code, message, reproducers):
    path = plugin(tmp_path, body)
    got, out, err = run("--load-pass", path, "-p", "my-pass", stdin=GOOD)
    assert (got, out) == (code, "") and message in err
    assert "Traceback" not in err
    (place,) = [*reproducers.rglob("*.ir")]
    assert place.read_text() == f"// RUN: stepwell-opt %s --load-pass {path} -p 'my-pass'\n{GOOD}"
    assert f"reproducer: stepwell-opt --run-reproducer {place} --load-pass {path}\n" in err
    if code == 3:
        line = ":13;" if body.startswith("assert") else ";"  # invalid IR is found when the pass has ended
        assert f"a fault of {path}{line}" in err and place.name.startswith("stepwell-reproducer-")
    else:
        assert place == reproducers / "cache" / "reproducer.ir"
    if code == 1:
        assert err.splitlines()[1:3] == [GOOD.splitlines()[0], "^"]
    again, _, err = run("--run-reproducer", str(place), "--load-pass", path)
    assert again == code and message.split(" error: ")[-1] in err and "reproducer: " not in err
    assert [*reproducers.rglob("*.ir")] == [place]


@pytest.mark.parametrize(
    "argv",
    [["--nonsense"], ["missing.ir"], ["-p"], ["-p", "nope"], ["-o", "/nonexistent/x.ir"], ["/"]],
)
def test_wrong_arguments_are_status_1(argv):
    code, out, err = run(*argv, stdin=GOOD)
    assert (code, out) == (1, "") and "error: " in err and "Traceback" not in err


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "x.ir"
    path.write_bytes(b"func.func @f()\n\xff\n")
    code, _, err = run(str(path))
    assert code == 1 and f"{path}:2: byte 0xff is not UTF-8" in err


HOSTILE = {
    "digits": f"module attributes {{a = {'9' * 5000}}} {{}}",
    "block twice": '"t"() ({\n^a:\n"x"() : () -> ()\n^a:\n"x"() : () -> ()\n}) : () -> ()',
    "function type": '"func.func"() <{function_type = i32, sym_name = "f"}> ({}) : () -> ()',
    "hex float": "%a = arith.constant dense<0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF> : tensor<2xf32>",
    "wide float": "%a = arith.constant dense<1" + "0" * 400 + "> : tensor<2xf32>",
    "floordiv by zero": '"t"() {m = affine_map<(d0) -> (d0 floordiv 0)>} : () -> ()',
    "product of dims": '"t"() {m = affine_map<(d0, d1) -> (d0 * d1)>} : () -> ()',
    "predicate": '%x = arith.constant 1 : i32\n%a = "arith.cmpi"(%x, %x) <{predicate = 42 : i64}> : (i32, i32) -> i1',
    "empty": "",
    "only a comment": "// nothing",
    "unclosed": "func.func @f() {",
    "string": 'func.func @"',
    "resource": "%a = arith.constant dense_resource<",
    "NUL": "func.func @f\0()",
    "alias": "!a = tensor<!a>\nfunc.func private @f(!a)",
    "aliases doubling": "!t0 = i32\n"
    + "".join(f"!t{i + 1} = tuple<!t{i}, !t{i}>\n" for i in range(12))
    + "x",
    "parentheses": '"t"() {m = affine_map<(d0) -> (' + "(" * 20_000 + "d0" + ")" * 20_000 + ")>} : () -> ()",
    "location": "func.func private @f() loc(" + 'fused["a", ' * 5000,
    "negative shape": "func.func private @f(tensor<-1xf32>)",
    "huge shape": f"func.func private @f(tensor<{'9' * 4400}xf32>)",
    "result count": "%a:99999999999 = arith.constant 1 : i32",
    "successor": '"cf.br"()[^nowhere] : () -> ()',
    "duplicate key": '"t"() {a = 1, a = 2} : () -> ()',
    "f16 constant": "%a = arith.constant 1e99 : f16",
    "external resources": "{-# external_resources: {} #-}",
    "unclosed string": 'module attributes {a = "' + "x" * 5000 + "\n}",
    "blob": '{-# dialect_resources: { builtin: { w: "zz" } } #-}\nfunc.func private @f()',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_bad_input_is_diagnosed(text):
    code, out, err = run("--allow-unregistered-dialect", "-p", "canonicalize,cse", stdin=text)
    assert code in (0, 1), err
    assert code == 0 or (out == "" and "error: " in err and "Traceback" not in err)
    assert len(err) < 2000


def test_mutants_of_valid_text_are_diagnosed():
    """Splices and flips of a valid file: any outcome but a fault of ours."""
    source = Path(__file__).resolve().parents[2] / "lit" / "transforms" / "cse.ir"
    text = source.read_text(encoding="utf-8")
    generator = random.Random(7)
    for _ in range(60):
        at, to = sorted(generator.randrange(len(text)) for _ in range(2))
        kind = generator.randrange(3)
        if kind == 0:
            mutant = text[:at] + chr(generator.randrange(32, 127)) + text[at + 1 :]
        elif kind == 1:
            mutant = text[:at] + text[at + (to - at) % 40 :]
        else:
            mutant = text[:at] + text[to : to + 40] + text[at:]
        code, _, err = run("--allow-unregistered-dialect", stdin=mutant)
        assert code in (0, 1) and "Traceback" not in err, (code, err, mutant)


def test_runs_share_nothing(tmp_path):
    before = run(stdin=GOOD)
    run("--allow-unregistered-dialect", stdin='"a.b"() : () -> ()')
    assert run(stdin='"a.b"() : () -> ()')[0] == 1
    assert run(stdin=GOOD) == before


def test_help_does_not_import_xdsl():
    code = (
        "import sys\nfrom stepwell.tools.stepwell_opt import main\n"
        "main(['--help'])\nassert not any(m.split('.')[0] in ('xdsl', 'numpy', 'onnx', 'lark') for m in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_flag_of_mlir_opt_that_a_pass_author_types_is_known(tmp_path):
    path = tmp_path / "in.ir"
    path.write_text(GOOD)
    flags = [
        "--mlir-print-ir-before=canonicalize", "--mlir-print-ir-after=canonicalize", "--mlir-print-ir-before-all",
        "--mlir-print-ir-after-all", "--mlir-print-ir-after-change", "--mlir-print-ir-after-failure",
        "--mlir-print-ir-module-scope", f"--mlir-print-ir-tree-dir={tmp_path / 'tree'}",
        "--mlir-elide-elementsattrs-if-larger=4", "--mlir-elide-resource-strings-if-larger=4",
        "--mlir-print-op-generic", "--mlir-print-debuginfo", "--mlir-timing", "--mlir-timing-display=list",
        "--mlir-output-format=text", "--mlir-pass-statistics", "--verify-each", "--verify-each=false",
        "--dump-pass-pipeline", "--split-input-file", "--allow-unregistered-dialect",
        f"--mlir-pass-pipeline-crash-reproducer={tmp_path / 'crash.ir'}", "--mlir-disable-threading",
        "--mlir-print-local-scope", "--verify-roundtrip",
    ]  # fmt: skip
    for flag in [*flags, *(flag[1:] for flag in flags)]:
        code, out, err = run(str(path), "--pass-pipeline=builtin.module(canonicalize)", flag)
        assert (code, flag) == (0, flag), err
        assert "func" in out


def test_ir_goes_to_a_directory_of_files(tmp_path):
    code, _, err = run(
        "-p", "cse,func.func(canonicalize)", "--print-ir-before=cse", "--print-ir-after-change",
        "--print-ir-tree-dir", str(tmp_path / "tree"), stdin=GOOD,
    )  # fmt: skip
    assert (code, err) == (0, "")
    files = {str(p.relative_to(tmp_path / "tree")) for p in (tmp_path / "tree").rglob("*.ir")}
    assert files == {"0_cse-before.ir", "func_func/1_canonicalize.ir"}
    text = (tmp_path / "tree" / "func_func" / "1_canonicalize.ir").read_text()
    assert "IR after canonicalize" in text and "arith.addi" not in text
    (tmp_path / "file").touch()
    code, _, err = run(
        "-p", "cse", "--print-ir-after-all", "--print-ir-tree-dir", str(tmp_path / "file"), stdin=GOOD
    )
    assert code == 1 and "cannot be made" in err


def test_large_constants_are_left_out_of_the_text():
    text = (
        "%0 = arith.constant dense<[1, 2, 3]> : tensor<3xi32>\n"
        "%1 = arith.constant dense<[1, 2]> : tensor<2xi32>\n"
        "%2 = arith.constant dense<7> : tensor<9xi32>\n"
    )
    code, out, _ = run("--elide-elementsattrs-if-larger=2", stdin=text)
    assert code == 0 and "arith.constant dense_resource<__elided__> : tensor<3xi32>" in out
    assert "dense<[1, 2]> : tensor<2xi32>" in out and "dense<7> : tensor<9xi32>" in out
    code, _, err = run("--elide-elementsattrs-if-larger=2", "-p", "cse", "--print-ir-after-all", stdin=text)
    assert code == 0 and "dense_resource<__elided__>" in err


def test_times_as_a_tree_a_list_and_json():
    _, _, err = run("-p", "cse,func.func(canonicalize,dce)", "--timing", stdin=GOOD)
    lines = [line.rstrip() for line in err.split("\n")]
    assert "Total Execution Time" in err
    names = [line.split(")  ", 1)[1] for line in lines if "%)" in line]
    assert names == [
        "Parser", "cse", "(V) verifier", "'func.func' Pipeline", "  canonicalize", "  (V) verifier", "  dce",
        "  (V) verifier", "Output", "Rest", "Total",
    ]  # fmt: skip
    _, _, err = run("-p", "cse", "--timing=list", stdin=GOOD)
    seconds = [float(line.split("(")[0]) for line in err.split("\n") if "%)" in line and "Total" not in line]
    assert seconds == sorted(seconds, reverse=True)
    _, _, err = run("-p", "func.func(dce)", "--mlir-timing", "--mlir-output-format=json", stdin=GOOD)
    tree = json.loads(err)
    assert [node["name"] for node in tree["children"]] == ["Parser", "'func.func' Pipeline", "Output", "Rest"]
    assert abs(sum(node["seconds"] for node in tree["children"]) - tree["seconds"]) < 1e-6


def test_the_ir_that_a_failing_pass_has_left_and_a_reproducer_of_any_error(tmp_path):
    file = plugin(tmp_path, 'first.attributes["seen"] = op.attributes.get("x", first.properties["sym_name"])\n'
                            '        raise compile_error(first, "no", "do it")')  # fmt: skip
    reproducer = tmp_path / "crash.ir"
    code, _, err = run(
        "-p", "my-pass", "--load-pass", file, "--print-ir-after-failure", "--crash-reproducer", str(reproducer),
        stdin=GOOD,
    )  # fmt: skip
    assert code == 1 and "IR after failed my-pass" in err and 'seen = "f"' in err
    assert f"reproducer: stepwell-opt --run-reproducer {reproducer} --load-pass {file}\n" in err
    assert reproducer.read_text().endswith(GOOD)
    code, _, err = run("--run-reproducer", str(reproducer), "--load-pass", file)
    assert code == 1 and "no; do it" in err


@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_a_reproducer_takes_the_values_of_its_constants_along(tmp_path, where):
    """They are not in the text; a pass that breaks down on a value shows it again far from the model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(mlp().SerializeToString())
    resources = ["--resources", str(tmp_path / "values.safetensors")] if where == "elsewhere" else []
    assert stepwell_translate.main([str(folder / "net.onnx"), "-o", str(folder / "m.ir"), *resources]) == 0
    assert "dense_resource<" in (folder / "m.ir").read_text()
    body = "keys = ctx.resources.keys(); assert not keys, f'{len(keys)} found'"
    file = plugin(tmp_path, body)
    crash = tmp_path / "crash.ir"
    flags = ["--load-pass", file, "-p", "my-pass"]
    code, _, err = run(str(folder / "m.ir"), *flags, *resources, "--crash-reproducer", str(crash))
    assert code == 3 and "5 found" in err, err
    assert (
        f"--run-reproducer {crash} --load-pass {file} (with {crash.with_suffix('.safetensors')}, 0.0 MB)"
        in err
    )
    for path in [*folder.iterdir(), *tmp_path.glob("values.*")]:
        path.unlink()
    code, _, err = run(str(crash), *flags, "--run-reproducer", "--crash-reproducer", str(crash))
    assert code == 3 and "5 found" in err, err


REFUSE = "raise unsupported(first, 'too new', 'wait')"


def test_there_is_one_reproducer_of_refusals_and_none_of_what_no_pass_refuses(
    tmp_path, reproducers, monkeypatch
):
    file = plugin(tmp_path, REFUSE)
    flags = ["--load-pass", file, "-p", "my-pass"]
    place = reproducers / "cache" / "reproducer.ir"
    other = GOOD.replace("@f", "@g")
    for text in ("func.func @f(", GOOD.replace("index", "i7", 1)):  # the input itself shows it
        assert run(*flags, stdin=text)[0] == 1
    assert run("-p", "no-such-pass", stdin=GOOD)[0] == run("-p", "cse", "-o", "/no/x.ir", stdin=GOOD)[0] == 1
    assert run(*flags, "--no-crash-reproducer", stdin=GOOD)[0] == 2
    announced = f"// expected-error@+1 {{{{func.func: too new}}}}\n{GOOD}"
    assert run(*flags, "--verify-diagnostics", stdin=announced) == (0, "", "")
    monkeypatch.setenv("STEPWELL_CRASH_REPRODUCER", "off")
    assert run(*flags, stdin=GOOD)[0] == 2 and not [*reproducers.rglob("*.ir")]
    monkeypatch.setenv("STEPWELL_CRASH_REPRODUCER", str(tmp_path / "mine.ir"))
    assert run(*flags, stdin=GOOD)[0] == 2 and (tmp_path / "mine.ir").exists()
    monkeypatch.delenv("STEPWELL_CRASH_REPRODUCER")
    assert run(*flags, stdin=GOOD)[0] == 2 and "@f" in place.read_text()
    assert run(*flags, stdin=other)[0] == 2 and "@g" in place.read_text()
    code, _, err = run(*flags, "--split-input-file", stdin=f"// a comment\n{GOOD}// -----\n{other}")
    assert code == 2 and err.count("too new") == 2 and err.count("reproducer: ") == 1
    assert place.read_text().endswith(f"-p 'my-pass'\n// a comment\n{GOOD}"), "of the first part that failed"
    assert [*reproducers.rglob("*.ir")] == [place]
    code, _, err = run(*flags, "--crash-reproducer", "/no/such/folder/x.ir", stdin=GOOD)
    assert code == 2 and "reproducer: none: /no/such/folder/x.ir: cannot be written: No such file" in err


def test_a_reproducer_repeats_the_flags_that_decide_whether_it_fails(tmp_path, reproducers):
    file = plugin(tmp_path, REFUSE)
    place = reproducers / "cache" / "reproducer.ir"
    flags = ["--allow-unregistered-dialect", "--verify-each=false", "--expensive-checks", "--rewrite-limit=7"]
    code, _, err = run(
        *flags, "--load-pass", file, "-p", "cse // twice\n, my-pass", stdin='"a.b"() : () -> ()'
    )
    assert code == 2 and "error: a.b: too new; wait" in err
    assert place.read_text().splitlines()[0] == (
        f"// RUN: stepwell-opt %s --load-pass {file} --allow-unregistered-dialect --no-verify-each --expensive-checks"
        " --rewrite-limit=7 -p 'builtin.module(cse,my-pass)'"
    )
    copy = tmp_path / "copy.ir"
    again = ["--run-reproducer", str(place), "--load-pass", file, "--crash-reproducer", str(copy)]
    code, _, err = run(*again)
    assert code == 2 and "error: a.b: too new; wait" in err
    assert copy.read_text() == place.read_text()


def test_large_values_are_not_copied_unasked(tmp_path, reproducers, monkeypatch):
    """A model that is refused ten times a day would fill the disk; what breaks down is to be reported whole."""
    from stepwell import reproducers as module

    monkeypatch.setattr(module, "_VALUES_BYTES", 100)
    (tmp_path / "net.onnx").write_bytes(mlp().SerializeToString())
    model = tmp_path / "m.ir"
    assert stepwell_translate.main([str(tmp_path / "net.onnx"), "-o", str(model)]) == 0
    place = reproducers / "cache" / "reproducer.ir"
    flags = [str(model), "--load-pass", plugin(tmp_path, REFUSE), "-p", "my-pass"]
    code, _, err = run(*flags)
    assert code == 2 and place.exists() and not place.with_suffix(".safetensors").exists()
    assert "(without the 0.0 MB of its constants, which --crash-reproducer FILE keeps)" in err
    assert run("--run-reproducer", str(place), *flags[1:3])[0] == 2
    monkeypatch.setattr(module, "_VALUES_BYTES", 1 << 20)
    code, _, err = run(*flags)
    assert code == 2 and f"(with {place.with_suffix('.safetensors')}, 0.0 MB)" in err
    assert run("--load-pass", flags[2], "-p", "my-pass", stdin=GOOD)[0] == 2
    assert not place.with_suffix(".safetensors").exists(), "those were of the refusal before"


def test_nothing_is_an_empty_module():
    """As for mlir-opt; so a split file may begin with the comment that says how to run it."""
    for text in ("", "\n", "// RUN: stepwell-opt %s\n"):
        assert run(stdin=text) == (0, "builtin.module {\n}\n", "")
    code, _, err = run(stdin="func.func @f() { func.return } }")
    assert code == 1 and "<stdin>:1:32: error: an operation is expected, not '}'" in err


def test_passes_are_flags_as_for_mlir_opt():
    text = "func.func @f(%x: tensor<2xf32>) { func.return }"
    for flags in (["--cse", "--set-target=threads=2 fp=strict"], ["-cse", "-set-target=threads=2 fp=strict"]):
        assert run(*flags, "--print-pipeline") == (
            0, "builtin.module(cse,set-target{fp=strict threads=2})\n", "",
        )  # fmt: skip
        assert 'fp = "strict"' in run(*flags, stdin=text)[1]
    assert run("--to-llvm", "-cpu-O3", "--print-pipeline")[0] == 0
    assert run("-pack-weights", "--print-pipeline")[1] == "builtin.module(pack-weights)\n"
    code, _, err = run("--cse", "-p", "dce")
    assert code == 1 and "passes are given with -p or as flags, not both: write -p 'dce,cse'" in err
    for word, hint in (
        ("--canonicalise", "canonicalize"),
        ("--print-pipelines", "print-pipeline"),
        ("-cs", "cse"),
    ):
        code, _, err = run(word)
        assert code == 1 and f"{word}: there is no such flag or pass; did you mean '{hint}'?" in err
    assert run("-pcse", "--print-pipeline")[1] == "builtin.module(cse)\n"


def test_ir_is_not_printed_around_a_pass_that_does_not_exist():
    for flag in ("before", "after"):
        code, _, err = run("-p", "cse", f"--print-ir-{flag}=cse,csee", stdin=GOOD)
        assert code == 1 and f"--print-ir-{flag}=csee: there is no such pass; did you mean 'cse'?" in err


def test_what_there_is(monkeypatch):
    assert run("--version")[1].startswith("stepwell-opt ")
    assert "arith, builtin, cf," in run("--show-dialects")[1]
    code, out, err = run("--verify-roundtrip", stdin=GOOD)
    assert code == 0 and "arith.addi" in out
    monkeypatch.setattr(
        "stepwell.compat.print_module",
        lambda module, generic=False, **_: "func.func @other() { func.return }",
    )
    code, _, err = run("--verify-roundtrip", stdin=GOOD)
    assert code == 3 and "the pretty text of the module reads back to another one" in err


def test_a_pipeline_is_a_file(tmp_path):
    path = tmp_path / "passes.txt"
    path.write_text("# two passes\ncse,  // sums first\n  func.func(canonicalize)\n")
    code, out, _ = run("-p", f"@{path}", "--print-pipeline")
    assert (code, out) == (0, "builtin.module(cse,func.func(canonicalize))\n")
    assert "arith.addi" not in run("-p", f"@{path}", stdin=GOOD)[1]
    path.write_text("cse,\n  canonicalise\n")
    code, _, err = run("-p", f"@{path}", stdin=GOOD)
    assert (
        code == 1 and f"error: {path}:2:3: unknown pass 'canonicalise'; did you mean 'canonicalize'?" in err
    )
    code, _, err = run("-p", "@nowhere.txt", stdin=GOOD)
    assert code == 1 and "nowhere.txt: cannot be read" in err


def test_a_named_pipeline_explains_itself():
    code, out, _ = run("--help", "to-tensor")
    assert code == 0 and "A pipeline of" in out and "builtin.module(set-target," in out
    code, _, err = run("--help", "to-tensr")
    assert code == 1 and "did you mean 'to-tensor'?" in err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["stepwell_opt", "--list-passes"],
        ["stepwell_opt", "net.ir"],
        ["stepwell", "compile", "net.ir", "--print-pipeline"],
    ],
)
def test_a_reader_that_has_gone_is_no_error(tmp_path, arguments, unbuffered):
    """`stepwell-opt --list-passes | head -n 1`: silence, and the status of a tool that the signal ends."""
    (tmp_path / "net.ir").write_text("func.func @f() { func.return }\n")
    read, write = os.pipe()
    os.close(read)
    module, *rest = arguments
    code = f"import sys; from stepwell.tools.{module} import main; sys.exit(main({rest}))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        cwd=tmp_path, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(write)
    assert (done.stderr, done.returncode) == ("", 141)
