"""The count: every pass, graph operator and rule has its test of the same name and its documentation."""

import re
from inspect import cleandoc
from pathlib import Path

import pytest

from stepwell.compat import load_entry, new_context
from stepwell.dialects.graph import ONNX_NAMES
from stepwell.pipelines import option_docs
from stepwell.registry import DIALECTS, PASSES
from stepwell.transforms.rules import load_rules
from stepwell.transforms.rules.natives import NATIVES
from stepwell.transforms.rules.syntax import parse_rules

ROOT = Path(__file__).resolve().parents[2]
LIT = {path.stem: path for path in (ROOT / "tests" / "lit").rglob("*.ir")}
RULE_FILES = sorted((ROOT / "transforms").rglob("*.pat"))


def hundred_percent(what: str, total: int, lacking: dict[str, str]) -> None:
    """Fail with the share and the list of those that lack something."""
    share = 100 * (total - len(lacking)) / total
    listed = "\n".join(f"  {name}: {why}" for name, why in sorted(lacking.items()))
    assert not lacking, f"{share:.1f} % of {total} {what} are complete; not:\n{listed}"


def test_passes():
    lacking: dict[str, str] = {}
    for name, entry in PASSES.items():
        cls = load_entry(entry)
        document = cleandoc(vars(cls).get("__doc__") or "")
        undocumented = [option for option, _, _, text in option_docs(cls) if not text]
        runs = " ".join(re.findall(r"RUN:(.*)", LIT[name].read_text(encoding="utf-8"))) if name in LIT else ""
        if name not in LIT:
            lacking[name] = f"no tests/lit/<folder>/{name}.ir"
        elif not re.search(rf"(?<![\w-]){name}(?![\w-])", runs):
            lacking[name] = "no RUN line of its lit test applies it"
        elif not re.search(r"CHECK|expected-error", LIT[name].read_text(encoding="utf-8")):
            lacking[name] = "its lit test looks at nothing"
        elif not re.search(r"Requires: \S.*Ensures: \S", document, re.DOTALL):
            lacking[name] = "its docstring does not say what it Requires and Ensures"
        elif undocumented:
            lacking[name] = f"options without a docstring: {', '.join(undocumented)}"
    hundred_percent("passes", len(PASSES), lacking)


def test_graph_operators():
    """Their tests of the same name are those of `dialects/test_graph_operators.py`, one an operator."""
    lacking = {
        cls.name: "no docstring of its own"
        for cls in ONNX_NAMES.values()
        if not (vars(cls).get("__doc__") or "").strip()
    }
    hundred_percent("graph operators", len(ONNX_NAMES), lacking)
    source = (ROOT / "tests" / "unit" / "dialects" / "test_graph_operators.py").read_text(encoding="utf-8")
    assert '@pytest.mark.parametrize("name", ONNX_NAMES' in source


def test_ops_of_every_dialect_are_documented():
    """Ours, of all dialects; what xDSL defines has its documentation there."""
    ours = [
        op
        for entry in DIALECTS.values()
        for op in load_entry(entry).operations
        if op.__module__.startswith("stepwell.")
    ]
    lacking = {
        op.name: "no docstring of its own" for op in ours if not (vars(op).get("__doc__") or "").strip()
    }
    assert len(ours) > 300
    hundred_percent("ops", len(ours), lacking)


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_rules(path):
    """Their tests of the same name are those of `transforms/test_rules.py`, one a rule and op of its family."""
    text = path.read_text(encoding="utf-8")
    file = parse_rules(text, path.name)
    lacking = {rule.name: "no law" for rule in file.rules if not any(line.strip() for line in rule.law)}
    hundred_percent(f"rules of {path.name}", len(file.rules), lacking)
    assert file.title, f"{path.name}: its first comment says what the rules are for"
    assert [cls.RULE for cls in load_rules(path, new_context(DIALECTS)).classes] == [
        rule.name for rule in file.rules
    ]
    collected = (ROOT / "tests" / "unit" / "transforms" / "test_rules.py").read_text(encoding="utf-8")
    assert '(ROOT / "transforms").rglob("*.pat")' in collected


def test_functions_of_rules_are_documented_and_used():
    assert RULE_FILES
    own = [path for path in (ROOT / "transforms").rglob("*.py") if path.name != "natives.py"]
    files = [*RULE_FILES, *own, *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.pat")]
    everything = "\n".join(path.read_text(encoding="utf-8") for path in files)
    lacking = {}
    for name, known in NATIVES.items():
        if known.function.__module__.startswith("stepwell.") and not re.search(rf"\b{name}\(", everything):
            lacking[name] = "no rule and no test calls it"
        elif not known.document.strip():
            lacking[name] = "no docstring"
    hundred_percent("functions of rules", len(NATIVES), lacking)
