"""What users add: files and installed packages with passes, ops, lowerings, targets, dialects and rules."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "extending" / "squared_relu.py"


def start(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, in a directory outside the repository."""
    path = os.pathsep.join([str(ROOT / "src"), str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


def succeed(folder: Path, code: str, **environment: str) -> str:
    done = start(folder, code, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """A copy of the example and a model with its operator, also written with operators that the standard knows."""
    for file in EXAMPLE.parent.glob("squared_relu.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    nodes = [
        helper.make_node("SquaredRelu", ["x"], ["a"], domain="example"),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["r", "r"], ["c"]),
        helper.make_node("Concat", ["b", "c"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "net.onnx")
    return tmp_path


def test_an_op_of_a_file_compiles_and_runs(folder):
    code = """
import numpy as np, stepwell
x = np.array([[-1, 2, 3]], np.float32)
for cached in range(2):
    model = stepwell.compile("net.onnx", plugins=["squared_relu.py"])
    print(model(x).tolist())
"""
    refused = "import stepwell\ntry: stepwell.compile('net.onnx')\nexcept stepwell.UnsupportedError as error: print(error)"
    cache = str(folder / "cache")
    results = succeed(folder, code, STEPWELL_CACHE_DIR=cache).strip().split("\n")
    assert results == ["[[-0.0, -4.0, -9.0, 0.0, 4.0, 9.0]]"] * 2
    assert "net.onnx: 1 operator not supported: example.SquaredRelu" in succeed(
        folder, refused, STEPWELL_CACHE_DIR=cache
    )


def test_its_pass_joins_the_pipelines_and_its_rules_apply(folder):
    code = """
from stepwell.tools.stepwell import main
main(["compile", "net.onnx", "--load-pass", "squared_relu.py", "--emit", "graph"])
main(["compile", "net.onnx", "--load-pass", "squared_relu.py", "--emit", "graph", "--print-pipeline"])
"""
    text = succeed(folder, code)
    # The op of the model and the one that was recognised are the same computation.
    assert text.count("graph.squared_relu") == 1 and "graph.relu" not in text
    assert "simplify-graph,recognise-squared-relu,cse" in text


def test_rules_of_a_file_join_the_pipelines_where_they_say_so(folder):
    rules = "// Out with it.\n\nafter simplify-graph\n\n// neg(abs(x)) == abs(x)\nrule r match graph.neg(graph.abs(x)) rewrite x\n"
    (folder / "mine.pat").write_text(rules)
    (folder / "cse.pat").write_text(rules)
    code = "from stepwell.tools.stepwell import main; import sys\nsys.exit(main(['compile', 'net.onnx', '--emit', 'graph', '--print-pipeline', '--load-pass', '{}']))"
    assert "simplify-graph,mine,cse" in succeed(folder, code.format("mine.pat"))
    refused = start(folder, code.format("cse.pat"))
    assert refused.returncode == 1 and "there is a pass 'cse' already" in refused.stderr


def test_a_file_that_changes_under_a_process_is_an_error(folder):
    code = """
import os, stepwell
from stepwell.plugins import load_plugin_file
load_plugin_file("squared_relu.py")
load_plugin_file("squared_relu.py")
os.utime("squared_relu.py", (1, 1))
try:
    load_plugin_file("squared_relu.py")
except stepwell.Error as error:
    print(error)
"""
    assert "has changed since this process has loaded it" in succeed(folder, code)


def install(folder: Path, body: str, value: str = "my_plugin") -> None:
    site = folder / "site"
    info = site / "my_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "my_plugin.py").write_text(body)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[stepwell.plugins]\nmine = {value}\n")


PLUGIN = """
from dataclasses import dataclass, replace
from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from stepwell.targets import resolve_target

BOARD = replace(resolve_target("x86-64-v3"), name="my-board", vector_registers=8)
MINE = Dialect("mine", [])
called = 0

def begin():
    global called
    called += 1

@dataclass(frozen=True)
class MyPass(ModulePass):
    '''Says that it was here.'''
    name = "my-pass"
    def apply(self, ctx, op):
        print("called", called, "mine" in ctx.registered_dialect_names)
"""


def test_installed_packages_are_found_by_their_entry_point(folder):
    install(folder, PLUGIN, "my_plugin:begin")
    (folder / "in.ir").write_text("func.func @f() { func.return }\n")
    code = "from stepwell.tools.stepwell_opt import main; import sys\nsys.exit(main(['in.ir', '-p', '{}']))"
    assert "called 1 True" in succeed(folder, code.format("my-pass"))
    text = succeed(folder, code.format("set-target{target=my-board}"))
    assert "my-board" in text
    off = start(folder, code.format("my-pass"), STEPWELL_PLUGINS="off")
    assert off.returncode == 1 and "unknown pass 'my-pass'" in off.stderr


def test_a_broken_package_is_an_error_that_names_it(folder):
    install(folder, "import nowhere")
    done = start(
        folder, "import stepwell; stepwell.compile('net.onnx')", STEPWELL_CACHE_DIR=str(folder / "cache")
    )
    assert "plug-in 'mine' (my_plugin my-plugin 1.0) cannot be loaded: ModuleNotFoundError" in done.stderr


def test_what_is_no_plugin_is_refused(tmp_path, capsys):
    from stepwell.tools.stepwell_opt import main

    (tmp_path / "nothing.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "lost.py").write_text(
        "from xdsl.passes import ModulePass\nclass P(ModulePass):\n  name = 'p'\n  after = 'nowhere'\n"
    )
    cases = {
        "nothing.py": "defines no pass",
        "broken.py": "cannot be loaded: ZeroDivisionError",
        "lost.py": "there is no pass 'nowhere' to stand after",
        "absent.py": "there is no such file; --load-pass takes",
    }
    for name, message in cases.items():
        assert main(["--load-pass", str(tmp_path / name), "--list-passes"]) == 1
        assert message in capsys.readouterr().err


def test_the_meaning_of_the_example_is_what_the_paper_says():
    x = np.array([-2.0, 0.0, 3.0], np.float32)
    code = f"from stepwell.plugins import load_plugin_file; load_plugin_file({str(EXAMPLE)!r})\n"
    code += "from stepwell.interpreter.graph import EVALUATE; import numpy as np\n"
    code += f"print(EVALUATE['graph.squared_relu'](None, np.array({x.tolist()})).tolist())"
    assert succeed(ROOT / "docs", code).strip() == "[0.0, 0.0, 9.0]"


def test_a_model_with_an_op_of_a_file_is_inspected_and_translated(folder):
    code = """
from stepwell.tools import stepwell, stepwell_translate
assert stepwell.main(["inspect", "net.onnx"]) == 0
assert stepwell.main(["inspect", "net.onnx", "--load-pass", "squared_relu.py"]) == 0
assert stepwell_translate.main(["net.onnx", "--load-pass", "squared_relu.py"]) == 0
"""
    out = succeed(folder, code)
    assert "or say what they mean in a plug-in (--load-pass)" in out
    assert "1 graph.squared_relu" in out and "= graph.squared_relu %" in out
