"""Flags of stepwell-opt for who debugs rewrites, stepwell-reduce, and what stepwell check says to its user."""

import json
from io import StringIO

import onnx
import pytest
from small_models import mlp
from xdsl.dialects.arith import AddiOp
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from stepwell.rewriting import logged_rewrites, rewrite
from stepwell.tools import stepwell, stepwell_opt, stepwell_reduce

SUMS = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %a = graph.identity %x : (tensor<4xf32>) -> tensor<4xf32>
  %b = graph.neg %a : (tensor<4xf32>) -> tensor<4xf32>
  %c = graph.neg %b : (tensor<4xf32>) -> tensor<4xf32>
  %d = graph.exp %c : (tensor<4xf32>) -> tensor<4xf32>
  func.return %d : tensor<4xf32>
}
"""

# A rule that is wrong on its second match.
WRONG = """
from dataclasses import dataclass
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from stepwell.dialects.graph import IdentityOp, NegOp
from stepwell.rewriting import rewrite

class DropIdentity(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: IdentityOp, rewriter: PatternRewriter):
        rewriter.replace(op, [], [op.operands[0]])

class DropNegation(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: NegOp, rewriter: PatternRewriter):
        if any(use.operation.name == "graph.exp" for use in op.results[0].uses):
            rewriter.replace(op, [], [op.operands[0]])

@dataclass(frozen=True)
class WrongPass(ModulePass):
    name = "wrong"
    def apply(self, ctx, op):
        rewrite(op, [DropIdentity(), DropNegation()])
"""


def run(tool, *argv, stdin=""):
    out, err = StringIO(), StringIO()
    code = tool.main(list(argv), StringIO(stdin), out, err)
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    (tmp_path / "sums.ir").write_text(SUMS.replace("%b = graph.neg", "%b = graph.tanh"))
    return str(tmp_path / "sums.ir"), "--load-pass", str(path), "-p", "wrong"


def test_a_limit_stops_rewrites():
    texts = [
        run(stepwell_opt, "-p", "simplify-graph", "--rewrite-limit", str(n), stdin=SUMS)[1] for n in range(4)
    ]
    counts = [text.count("graph.") for text in texts]
    assert counts[0] == 4 and counts[1] == 3 and counts[2] == counts[3] == 1


def test_statistics_count_rules_and_ops():
    code, _, err = run(stepwell_opt, "-p", "simplify-graph", "--statistics", stdin=SUMS)
    assert code == 0 and "drop-identity" in err and "drop-double-negation" in err and "2 rewrites" in err


def test_bisection_names_the_rewrite(wrong):
    code, _, err = run(stepwell_opt, *wrong, "--bisect-rewrites")
    assert code == 3 and "rewrite 2 of 2 is wrong: DropNegation on graph.neg" in err
    assert "in pass wrong" in err and "instead of" in err


def test_bisection_of_sound_passes_finds_nothing():
    code, _, err = run(stepwell_opt, "-p", "simplify-graph,cse", "--bisect-rewrites", stdin=SUMS)
    assert code == 0 and "all 2 rewrites are right" in err


def test_expensive_checks_pass_on_sound_passes():
    code, out, err = run(stepwell_opt, "-p", "simplify-graph,cse", "--expensive-checks", stdin=SUMS)
    assert code == 0 and "graph.exp" in out, err


def test_expensive_checks_do_not_blame_a_pattern_for_the_pass_before():
    """Passes that walk the IR themselves change it too: behind set-target the first rule found another module."""
    text = SUMS.replace("graph.identity", "graph.abs")
    code, _, err = run(
        stepwell_opt, "-p", "set-target,simplify-graph,to-tensor", "--expensive-checks", stdin=text
    )
    assert code == 0, err


def test_expensive_checks_see_a_pattern_that_hides_its_change(tmp_path):
    path = tmp_path / "hides.py"
    change = "op.operands[0].name_hint = None\n        op.attributes['seen'] = UnitAttr()"
    body = WRONG.replace("rewriter.replace(op, [], [op.operands[0]])", change, 1)
    path.write_text(f"from xdsl.dialects.builtin import UnitAttr\n{body}")
    code, _, err = run(
        stepwell_opt, "--load-pass", str(path), "-p", "wrong", "--expensive-checks", stdin=SUMS
    )
    assert code == 3 and "DropIdentity changed the IR at graph.identity but says that it did not match" in err


def test_a_miscompile_is_reduced_and_replayed(wrong, tmp_path):
    from stepwell.pipelines import resolve_pipeline
    from stepwell.transforms.graph.simplify_graph import SimplifyGraphPass

    # Once the fault is mended the reproducer says so: put the wrong patterns behind a registered name.
    scope: dict = {"__name__": "wrong"}
    exec(WRONG.replace("@dataclass(frozen=True)\n", ""), scope)
    good = SimplifyGraphPass.apply
    SimplifyGraphPass.apply = scope["WrongPass"].apply
    try:
        small = tmp_path / "small.ir"
        arguments = [wrong[0], "--predicate", "miscompile", "-p", "simplify-graph", "-o", str(small)]
        code, _, err = run(stepwell_reduce, *arguments)
        assert code == 0 and "4 ops to 2" in err
        assert run(stepwell_opt, "--run-reproducer", str(small))[0] == 3
    finally:
        SimplifyGraphPass.apply = good
    code, _, err = run(stepwell_opt, "--run-reproducer", str(small))
    assert code == 0 and "not reproduced: agrees behind" in err
    assert resolve_pipeline("simplify-graph")


def test_a_miscompile_by_a_plugin_is_reduced_and_names_it(wrong, tmp_path):
    source, *plugin = wrong
    small = str(tmp_path / "small.ir")
    code, _, err = run(stepwell_reduce, source, *plugin, "--predicate", "miscompile", "-o", small)
    assert code == 0 and "4 ops to 2" in err
    assert f"// RUN: stepwell-opt %s --load-pass {plugin[1]} -p " in open(small).read()
    assert run(stepwell_opt, "--run-reproducer", small, *plugin[:2])[0] == 3
    code, _, err = run(stepwell_opt, "--run-reproducer", small)
    assert code == 1 and f"add --load-pass {plugin[1]}" in err, "a program is not run unasked"


def test_a_path_with_a_space_is_read_back(tmp_path):
    from stepwell.tools.rewrite_debugging import reproducer_in

    found = reproducer_in(
        "x.ir", "// RUN: stepwell-opt %s --load-pass 'my passes/a.py' --load-pass b.pat -p 'cse,dce'\n"
    )
    assert found.plugins == ("my passes/a.py", "b.pat") and found.pipeline == "cse,dce"


def test_the_replay_that_check_prints_takes_the_plugin(tmp_path, capsys):
    (tmp_path / "wrong.py").write_text(
        WRONG.replace('name = "wrong"', 'name, after = "wrong", "simplify-graph"')
    )
    (tmp_path / "sums.ir").write_text(SUMS.replace("%b = graph.neg", "%b = graph.tanh"))
    arguments = [
        "check",
        str(tmp_path / "sums.ir"),
        "--load-pass",
        str(tmp_path / "wrong.py"),
        "--last",
        "graph",
    ]
    assert stepwell.main([*arguments, "--reproducer", str(tmp_path / "bad.ir"), "--no-onnxruntime"]) == 3
    out = capsys.readouterr().out
    replay = next(line.split("replay:")[1].split() for line in out.split("\n") if "replay:" in line)
    assert replay[0] == "stepwell-opt" and run(stepwell_opt, *replay[1:])[0] == 3


def test_a_reproducer_of_a_crash_is_run(tmp_path):
    path = tmp_path / "crash.ir"
    path.write_text(f"// RUN: stepwell-opt %s -p 'simplify-graph'\n{SUMS}")
    code, out, _ = run(stepwell_opt, "--run-reproducer", str(path))
    assert code == 0 and out.count("graph.") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-p", "dce"], "is not interesting as it is; '-p dce' does not break down on it"),
        (["--predicate", "crash"], "needs the passes"),
        (["--predicate", "message", "-p", "dce"], "needs --message"),
        (["--predicate", "message", "-p", "dce", "--message", "("], "is no regular expression"),
        (["--predicate", "script"], "needs --script"),
        (["--predicate", "script", "--script", "nothing"], "there is no such file"),
        (["--predicate", "miscompile", "-p", "dce", "--suspect", "cse"], "is not among the passes"),
        (["--predicate", "miscompile", "-p", "dce"], "does not change its values"),
        (["-p", "dcee"], "did you mean"),
        (["--predicate", "nonsense"], "invalid choice"),
    ],
)
def test_what_reduce_says_of_wrong_flags(argv, said):
    code, _, err = run(stepwell_reduce, "-", *argv, stdin=SUMS)
    assert code == 1 and said in err


@pytest.mark.parametrize("text", ["", "func.func @main(", "// RUN: stepwell-opt\nmodule {}"])
def test_a_file_that_is_no_reproducer(text):
    code, _, err = run(stepwell_opt, "--run-reproducer", stdin=text)
    assert code == 1 and "has no line '// RUN: stepwell-opt" in err


def check(*argv):
    out, err = StringIO(), StringIO()
    code = stepwell.main(["check", *argv], out, err)
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def test_what_check_says(tmp_path):
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp(), path)
    code, out, _ = check(str(path), "--last", "kernels", "--no-onnxruntime")
    assert code == 0 and "all stages agree" in out and "float64 judge" in out
    report = json.loads(check(str(path), "--last", "tensor", "--json")[1])
    assert [stage["name"] for stage in report["stages"]] == ["import", "onnxruntime", "graph", "tensor"]
    assert check(str(path), "--last", "nowhere")[0] == 1
    assert "there is no input 'z'" in check(str(path), "--input", f"z={_array(tmp_path)}")[2]
    assert check(str(tmp_path / "none.onnx"))[0] == 1


def _array(folder):
    import numpy as np

    np.save(folder / "z.npy", np.zeros(3, np.float32))
    return folder / "z.npy"


def test_check_refuses_what_is_no_tensor(tmp_path):
    path = tmp_path / "vector.onnx"
    text = """<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        vector (map(string, float) m) => (float[1, N] y) { y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["a"]> (m) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    code, _, err = check(str(path))
    assert code == 2 and "input 'm' is no tensor" in err and "stepwell run --check onnxruntime" in err


def test_ir_without_a_main_is_refused(tmp_path):
    path = tmp_path / "k.ir"
    path.write_text("llvm.func @f() { llvm.return }\n")
    code, _, err = check(str(path))
    assert code == 1 and "there is no function @main" in err


def test_the_log_knows_rules_places_and_order():
    class Swap(RewritePattern):
        @op_type_rewrite_pattern
        def match_and_rewrite(self, op: AddiOp, rewriter: PatternRewriter):
            if "done" not in op.attributes:
                from xdsl.dialects.builtin import UnitAttr

                op.attributes["done"] = UnitAttr()
                rewriter.notify_op_modified(op)

    from stepwell.compat import new_context, parse_module
    from stepwell.registry import DIALECTS

    text = "func.func @f(%x: i32) -> i32 {\n %a = arith.addi %x, %x : i32\n %b = arith.addi %a, %x : i32\n func.return %b : i32\n}"
    module = parse_module(new_context(DIALECTS), text)
    with logged_rewrites(1) as log:
        rewrite(module, [Swap()])
    assert [str(entry) for entry in log.done] == ["Swap on arith.addi"]
    assert sum("done" in op.attributes for op in module.walk()) == 1
    rewrite(module, [Swap()])
    assert sum("done" in op.attributes for op in module.walk()) == 2


@pytest.mark.parametrize(("level", "first"), [("kernels", "loops"), ("memref", "llvm")])
def test_check_goes_on_from_the_level_of_an_ir_file(tmp_path, level, first):
    onnx.save(mlp(), tmp_path / "mlp.onnx")
    path = tmp_path / f"{level}.ir"
    stepwell.main(
        ["compile", str(tmp_path / "mlp.onnx"), "--emit", level, "-o", str(path)], StringIO(), StringIO()
    )
    code, out, err = check(str(path), "--json", "--last", "llvm")
    stages = json.loads(out)["stages"]
    assert code == 0 and [stage["name"] for stage in stages][:2] == ["import", first], err


def test_extents_that_do_not_suit_the_model_are_the_users(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, "time"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    w = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 1, 9], [1.0] * 9)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "long", [x], [y], [w])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "long.onnx")
    code, _, err = check(str(tmp_path / "long.onnx"), "--last", "graph")
    assert code == 1 and "does not run on these inputs" in err and "--dim" in err
    assert check(str(tmp_path / "long.onnx"), "--last", "tensor", "--dim", "time=12")[0] == 0
