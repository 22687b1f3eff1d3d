"""Every command line in a process of its own, as a user starts it, and what such a process must not import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

SOURCE = Path(__file__).resolve().parents[2] / "src"
COMMANDS = {
    "stepwell": "from stepwell.tools.stepwell import main",
    "stepwell-opt": "from stepwell.tools.stepwell_opt import main",
    "stepwell-reduce": "from stepwell.tools.stepwell_reduce import main",
    "stepwell-translate": "from stepwell.tools.stepwell_translate import main",
}


def start(
    folder: Path, tool: str, *argv: str, code: str = "", stdin: str = ""
) -> subprocess.CompletedProcess:
    text = f"{COMMANDS[tool]}\nimport sys\nsys.argv[1:] = {list(argv)!r}\nstatus = main()\n{code}\nsys.exit(status)"
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", text], cwd=folder, input=stdin, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path


def test_the_commands_work_together(folder):
    def succeed(tool, *argv, stdin=""):
        done = start(folder, tool, *argv, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    succeed("stepwell-translate", "net.onnx", "-o", "net.ir")
    pipeline = succeed("stepwell", "compile", "net.onnx", "--emit", "loops", "--print-pipeline").strip()
    succeed("stepwell", "compile", "net.onnx", "--emit", "loops", "-o", "one.ir")
    succeed("stepwell-opt", "net.ir", "-p", pipeline, "-o", "two.ir")
    assert (folder / "one.ir").read_bytes() == (folder / "two.ir").read_bytes()
    succeed("stepwell", "compile", "two.ir", "-o", "net.so")
    assert "y: float32[1, 3]" in succeed("stepwell", "run", "net.so", "--random")
    assert "x: float32[n, 3]" in succeed("stepwell", "inspect", "net.so")
    assert succeed("stepwell", "bench", "net.onnx", "--seconds", "0.01").startswith("1 thread: ")
    text = succeed("stepwell-translate", "--to", "dot", stdin="func.func @f() { func.return }")
    assert text.startswith("digraph")


@pytest.mark.parametrize("tool", COMMANDS)
@pytest.mark.parametrize(
    ("argv", "status"), [(["--help"], 0), (["--nothing"], 1), (["none.onnx", "none"], 1)]
)
def test_status(tmp_path, tool, argv, status):
    done = start(tmp_path, tool, *argv)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr and (status == 0) == bool(done.stdout)


@pytest.mark.parametrize("tool", COMMANDS)
def test_help_is_quick_and_imports_nothing_heavy(tmp_path, tool):
    heavy = "('xdsl', 'onnx', 'lark', 'numpy', 'rich')"
    found = f"sorted(m for m in sys.modules if m.split('.')[0] in {heavy})"
    text = f"import atexit, sys\natexit.register(lambda: print({found}, file=sys.stderr))\n{COMMANDS[tool]}\nmain(['--help'])"
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout and done.stderr.strip() == "[]", done.stderr


def test_check_and_reduce(folder):
    done = start(folder, "stepwell", "check", "net.onnx")
    assert done.returncode == 0, done.stderr
    assert "all stages agree" in done.stdout
    done = start(folder, "stepwell", "check", "net.onnx", "--json", "--last", "tensor")
    assert json.loads(done.stdout)["agrees"] and done.returncode == 0
    assert start(folder, "stepwell-translate", "net.onnx", "-o", "net.ir").returncode == 0
    script = folder / "has_neg.sh"
    script.write_text("#!/bin/sh\nexec grep -q graph.neg $1\n")
    script.chmod(0o755)
    arguments = ["net.ir", "--predicate", "script", "--script", str(script), "-o", "small.ir"]
    done = start(folder, "stepwell-reduce", *arguments)
    assert done.returncode == 0 and "1 ops to 1" in done.stderr, done.stderr
    assert "graph.neg" in (folder / "small.ir").read_text()


def test_version(tmp_path):
    assert start(tmp_path, "stepwell", "--version").stdout.startswith("stepwell ")


def test_debug_shows_the_traceback(tmp_path):
    done = start(tmp_path, "stepwell", "compile", "none.onnx", "-o", "x.so", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: none.onnx: cannot be read")


def test_a_cached_model_runs_without_onnx_and_xdsl(folder):
    assert start(folder, "stepwell", "run", "net.onnx", "--random").returncode == 0
    heavy = "('xdsl', 'onnx', 'lark', 'google')"
    check = f"print(sorted(m for m in sys.modules if m.split('.')[0] in {heavy}), file=sys.stderr)"
    done = start(folder, "stepwell", "run", "net.onnx", "--random", code=check)
    assert done.returncode == 0 and done.stderr.strip().endswith("[]"), done.stderr


def test_the_chosen_directory_holds_the_cache(folder, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(folder / "cache"))
    assert start(folder, "stepwell", "run", "net.onnx", "--random").returncode == 0
    assert list((folder / "cache" / "models").glob("*/*.so"))


def test_what_a_pass_refuses_is_replayed_from_the_place_that_the_message_names(folder, monkeypatch):
    monkeypatch.delenv("STEPWELL_CRASH_REPRODUCER")
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(folder / "cache"))
    (folder / "refuse.py").write_text(
        "from dataclasses import dataclass\n"
        "from xdsl.passes import ModulePass\n"
        "from stepwell.diagnostics import unsupported\n"
        '@dataclass(frozen=True)\nclass Refuse(ModulePass):\n    """Refuse."""\n    name = "refuse"\n'
        "    def apply(self, ctx, op):\n        raise unsupported(op, 'too new', 'wait')\n"
    )
    text = "func.func @f() { func.return }"
    done = start(folder, "stepwell-opt", "--load-pass", "refuse.py", "-p", "cse,refuse", stdin=text)
    place = folder / "cache" / "reproducer.ir"
    command = f"--run-reproducer {place} --load-pass refuse.py"
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"note: reproducer: stepwell-opt {command}"
    again = start(folder, "stepwell-opt", *command.split())
    assert again.returncode == 2 and "too new; wait" in again.stderr and "note:" not in again.stderr
