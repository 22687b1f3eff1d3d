"""Files of rules: what they mean, what is wrong in them, that a false rule is found, and the code that is kept."""

import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.compat import new_context, parse_module, print_module
from stepwell.errors import CompileError
from stepwell.registry import DIALECTS
from stepwell.tools.stepwell_opt import main as opt
from stepwell.tools.stepwell_translate import main as translate
from stepwell.transforms.rules import load_rules
from stepwell.transforms.rules.checking import RuleFault, checks_of
from stepwell.transforms.rules.loading import apply_patterns, generate_rules
from stepwell.transforms.rules.syntax import RuleError

ROOT = Path(__file__).resolve().parents[3]


def written(folder: Path, text: str, name: str = "rules.pat") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rewritten(path: Path, body: str) -> str:
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, body)
    apply_patterns(module, ctx, load_rules(path, ctx).patterns(ctx))
    module.verify()
    return print_module(module)


def test_higher_benefit_goes_first(tmp_path):
    path = written(
        tmp_path,
        "// relu(relu(x)) == relu(x)\nrule outer match graph.relu(y @ graph.relu(x)) rewrite y\n"
        "// relu(x) is max(x, 0) here\nrule inner benefit 3 match graph.relu(graph.relu(x)) rewrite graph.abs(x)\n",
    )
    text = rewritten(
        path,
        "func.func @f(%x: tensor<2xf32>) -> tensor<2xf32> {\n"
        "%a = graph.relu %x : (tensor<2xf32>) -> tensor<2xf32>\n"
        "%b = graph.relu %a : (tensor<2xf32>) -> tensor<2xf32>\nfunc.return %b : tensor<2xf32> }",
    )
    assert "graph.abs" in text and "graph.relu" not in text


def test_commutative_ops_match_in_both_orders_also_inside(tmp_path):
    law = "// (x * 2) + y == y + x + x\n"
    path = written(
        tmp_path,
        f"{law}rule twice match commutative graph.add(commutative graph.mul(x, 2.0), y) rewrite graph.sum(y, x, x)\n",
    )
    product = {
        "left": "graph.mul %x, %c : (tensor<3xf32>, tensor<f32>)",
        "right": "graph.mul %c, %x : (tensor<f32>, tensor<3xf32>)",
    }
    for side, mul in product.items():
        for operands in ("%m, %y", "%y, %m"):
            text = rewritten(
                path,
                "func.func @f(%x: tensor<3xf32>, %y: tensor<3xf32>) -> tensor<3xf32> {\n"
                "%c = graph.constant dense<2.0> : tensor<f32>\n"
                f"%m = {mul} -> tensor<3xf32>\n"
                f"%r = graph.add {operands} : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>\n"
                "func.return %r : tensor<3xf32> }",
            )
            assert "graph.sum %y, %x, %x" in text, (side, operands)


def test_locations_are_carried(tmp_path):
    path = written(
        tmp_path, "// neg(abs(x)) is what it is\nrule r match graph.neg(graph.abs(x)) rewrite graph.sign(x)\n"
    )
    ctx = new_context(DIALECTS)
    module = parse_module(
        ctx,
        "func.func @f(%x: tensor<3xf32>) -> tensor<3xf32> {\n"
        '%a = graph.abs %x : (tensor<3xf32>) -> tensor<3xf32> loc("abs_1")\n'
        '%b = graph.neg %a : (tensor<3xf32>) -> tensor<3xf32> loc("neg_2")\nfunc.return %b : tensor<3xf32> }',
    )
    apply_patterns(module, ctx, load_rules(path, ctx).patterns(ctx))
    (sign,) = (op for op in module.walk() if op.name == "graph.sign")
    assert "neg_2" in str(sign.location)


LAW = "// a law\n"
WRONG = {
    "no law": ("rule r match graph.relu(x) rewrite x", "1:6: rule 'r' has no law"),
    "unknown op": (LAW + "rule r match graph.rellu(x) rewrite x", "2:14: there is no op 'graph.rellu'; did you mean 'graph.relu'?"),
    "unknown family": (LAW + "rule r match f(x) rewrite x", "there is no op 'f'; a family is declared by"),
    "keyword": (LAW + "rule r mach graph.relu(x) rewrite x", "2:8: unexpected 'mach'; did you mean 'match'?"),
    "end": (LAW + "rule r match graph.relu(x)", "unexpected the end"),
    "operands": (LAW + "rule r match graph.relu(x, y) rewrite x", "2:14: 'graph.relu' takes 1 operands, not 2"),
    "attribute": (
        LAW + "rule r match graph.transpose(x) {prem = p} rewrite x",
        "2:34: 'graph.transpose' has no attribute 'prem'; did you mean 'perm'?",
    ),
    "name": (LAW + "rule r match graph.relu(value) rewrite valu", "'valu' is not a name of the left side; did you mean 'value'?"),
    "function": (LAW + "rule r match graph.relu(x) where one_us(x) rewrite x", "no function 'one_us'; did you mean 'one_use'?"),
    "arguments": (LAW + "rule r match graph.relu(x) where one_use(x, x) rewrite x", "'one_use(x)' is called with 2 arguments"),
    "type": (LAW + "rule r match graph.relu(x : tensor<2y3>) rewrite x", "'tensor<2y3>' is no type of a rule"),
    "scalar": (LAW + "rule r match arith.addi(x : integr, y) rewrite x", "'integr' is no type of a rule; did you mean 'integer'?"),
    "order": (LAW + "rule r match commutative graph.sub(x, 0.0) rewrite x", "'graph.sub' is not commutative"),
    "results": (LAW + "rule r match graph.relu(x) rewrite x, x", "the op has 1 results here and 2 values take their place"),
    "twice": (LAW + "rule r match graph.relu(x) rewrite x\n" + LAW + "rule r match graph.abs(x) rewrite x", "stands here twice"),
    "untyped": (
        LAW + "rule r match arith.addi(x, y) rewrite arith.addi(arith.addi(x, y), y)",
        "the type of 'arith.addi' is not known; write arith.addi(...) : type(x)",
    ),
    "rest": (LAW + "rule r match graph.concat(xs..., y) rewrite y", "'xs...' must stand last"),
    "use": (f"use no_such_module\n{LAW}rule r match graph.relu(x) rewrite x", "1:5: 'no_such_module' cannot be loaded"),
    "empty": ("// nothing\n", "there is no rule in this file"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path, case):
    text, message = WRONG[case]
    path = written(tmp_path, text)
    with pytest.raises(RuleError) as caught:
        load_rules(path, new_context(DIALECTS))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
    assert str(caught.value).splitlines()[-1].strip() == "^"


FALSE = {
    "zeros have signs": "rule r match graph.add(x, 0.0) rewrite x",
    "the wrong way round": (
        "rule r match graph.transpose(i @ graph.transpose(x)) -> y where p = permutation(i), q = permutation(y)"
        " rewrite graph.transpose(x) {perm = compose(q, p)}"
    ),
    "NaN": "rule r match graph.sub(x : tensor<2x3xf32>, x) rewrite constant_like(0.0, x)",
    "endless": "rule r match graph.mul(x, y) rewrite graph.mul(y, x)",
    "integers truncate": "rule r match graph.mul(graph.div(x, y), y) rewrite x",
    "minus the lowest": "rule r match arith.divsi(x : integer, -1) rewrite x",
    "loose": "rule r fp 1e-3 match graph.exp(x : tensor<*xf32>) rewrite graph.relu(x)",
}


@pytest.mark.parametrize("case", FALSE)
def test_a_false_rule_is_found(tmp_path, case):
    path = written(tmp_path, LAW + FALSE[case])
    (check,) = checks_of(path, new_context(DIALECTS))
    with pytest.raises(
        RuleFault, match=r"changes the result|is off by|the result is invalid|not come to an end"
    ):
        check.run()


TRUE = {
    "transposes move": (
        "rule r match graph.relu(graph.transpose(x) {perm = p}) sample p = permutations(x)"
        " rewrite graph.transpose(graph.relu(x)) {perm = p}"
    ),
    "twice": (
        "rule r match graph.mul(x : tensor<*xi64>, c) -> y where splat(c) == 2, same_extents(x, y)"
        " sample c = repeated(2, 1) rewrite graph.add(x, x)"
    ),
    "own element": "rule r match graph.cast(x) -> y where element(x) == element(y) rewrite x",
    "some axis": (
        "rule r match graph.relu(graph.flatten(x) {axis = a}) sample a = between(0, 1)"
        " rewrite graph.flatten(graph.relu(x)) {axis = a}"
    ),
    "either axis": (
        "rule r match graph.relu(graph.flatten(x) {axis = a}) sample a = choose(0, 1)"
        " rewrite graph.flatten(graph.relu(x)) {axis = a}"
    ),
    "rounds": (
        "rule r fp 1e-5 match graph.mul(graph.exp(x : tensor<?x2xf32>), graph.exp(y : tensor<1x2xf32>))"
        " rewrite graph.exp(graph.add(x, y))"
    ),
}


@pytest.mark.parametrize("case", TRUE)
def test_a_true_rule_passes(tmp_path, case):
    (check,) = checks_of(written(tmp_path, LAW + TRUE[case]), new_context(DIALECTS))
    check.run()
    assert check.fired == 12


def test_a_rule_that_never_matches_is_found(tmp_path):
    path = written(tmp_path, LAW + "rule r match graph.relu(x) where rank(x) == 9 rewrite x")
    (check,) = checks_of(path, new_context(DIALECTS))
    with pytest.raises(RuleFault, match="matched 0 of"):
        check.run()


def test_generated_python_is_what_runs_and_is_readable(tmp_path):
    path = ROOT / "transforms" / "graph" / "fold_transposes.pat"
    source = generate_rules(path, path.read_text(), new_context(DIALECTS))
    assert (
        "# transpose(transpose(x, p), q) == transpose(x, r)   where r[i] = p[q[i]]\nclass ComposeTransposes(Rule):"
        in source
    )
    out = tmp_path / "rules.py"
    assert translate(["--from", "pat", "--to", "python", str(path), "-o", str(out)]) == 0
    assert out.read_text() == source


def test_code_is_kept_and_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = written(tmp_path, LAW + "rule first match graph.relu(x) rewrite x")
    assert load_rules(path, new_context(DIALECTS)).source
    program = (
        "from pathlib import Path; from stepwell.compat import new_context; from stepwell.registry import DIALECTS\n"
        "from stepwell.transforms.rules import load_rules; import sys\n"
        f"rules = load_rules(Path({str(path)!r}), new_context(DIALECTS))\n"
        "print([c.RULE for c in rules.classes], bool(rules.source), 'lark' in sys.modules)"
    )

    def run() -> str:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run() == "['first'] False False"
    written(tmp_path, LAW + "rule second match graph.relu(x) rewrite x")
    assert run() == "['second'] True True"
    next((tmp_path / "__pycache__").iterdir()).write_bytes(b"damaged")
    assert run() == "['second'] True True"


def test_rules_are_a_pass_of_the_tool(tmp_path, capsys):
    path = written(
        tmp_path, f"// Take relus out.\n\n{LAW}rule r match graph.relu(x) rewrite x", "take-out.pat"
    )
    given = written(
        tmp_path,
        "func.func @f(%x: tensor<2xf32>) -> tensor<2xf32> {\n%a = graph.relu %x : (tensor<2xf32>) -> tensor<2xf32>\n"
        "func.return %a : tensor<2xf32> }",
        "in.ir",
    )
    assert opt(["--load-pass", str(path), "-p", "take-out", str(given)]) == 0
    assert "graph.relu" not in capsys.readouterr().out
    assert opt(["--load-pass", str(path), "--help", "take-out"]) == 0
    assert "Take relus out." in capsys.readouterr().out
    assert opt(["--load-pass", str(written(tmp_path, "rule", "bad.pat")), "-p", "bad"]) == 1
    assert "bad.pat:1:5: unexpected the end" in capsys.readouterr().err


def test_missing_file_is_an_error():
    with pytest.raises(CompileError, match=r"missing\.pat: cannot be read"):
        load_rules(Path("missing.pat"), new_context(DIALECTS))
