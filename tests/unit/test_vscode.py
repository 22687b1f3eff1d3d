"""The VS Code extension: its files say what VS Code expects, and the grammars colour what the lit tests and rules hold."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "editors" / "vscode"
IR_FILES = sorted((ROOT / "tests" / "lit").rglob("*.ir"))
PAT_FILES = sorted((ROOT / "transforms").rglob("*.pat"))


def read(name):
    return json.loads((EXTENSION / name).read_text())


class Grammar:
    """The part of TextMate's grammars that ours use: `match` with `captures`, `begin` and `end` on one line, `include`."""

    def __init__(self, name):
        self.tree = read(f"syntaxes/{name}.tmLanguage.json")
        self.rules = list(self._flat(self.tree["patterns"]))

    def _flat(self, patterns):
        for pattern in patterns:
            if "include" in pattern:
                found = self.tree["repository"][pattern["include"].removeprefix("#")]
                yield from self._flat([found] if "match" in found or "begin" in found else found["patterns"])
            elif "patterns" in pattern and "begin" not in pattern:
                yield from self._flat(pattern["patterns"])
            else:
                yield pattern

    def scopes(self, line):
        """What each character of a line is, by TextMate's rule: the earliest match, of those the first listed."""
        found, at = [""] * len(line), 0
        while at < len(line):
            best = None
            for rule in self.rules:
                match = re.compile(rule.get("match", rule.get("begin"))).search(line, at)
                if (
                    match
                    and match.end() > match.start()
                    and (best is None or match.start() < best[0].start())
                ):
                    best = match, rule
            if best is None:
                break
            match, rule = best
            end = match.end()
            if "begin" in rule:
                end = self._end(rule, line, end)
            for i in range(match.start(), end):
                found[i] = rule.get("name", "")
            for group, capture in rule.get("captures", {}).items():
                for i in range(*match.span(int(group))) if match[int(group)] else ():
                    found[i] = capture["name"]
            at = end
        return found

    def _end(self, rule, line, at):
        """Where a `begin` that ended at `at` is closed; its own patterns come first."""
        while at <= len(line):
            inner = [re.compile(p["match"]).search(line, at) for p in rule.get("patterns", ())]
            closing = re.compile(rule["end"]).search(line, at)
            skipped = min((m for m in inner if m), key=lambda m: m.start(), default=None)
            if closing is None or skipped is None or closing.start() <= skipped.start():
                return closing.end() if closing else len(line)
            at = skipped.end()
        return len(line)

    def scope_of(self, line, text):
        start = line.index(text)
        scopes = set(self.scopes(line)[start : start + len(text)])
        assert len(scopes) == 1, f"{text!r} has {scopes}"
        return scopes.pop()


@pytest.fixture(scope="module")
def ir():
    return Grammar("ir")


@pytest.fixture(scope="module")
def pat():
    return Grammar("pat")


def test_every_file_that_is_named_is_there():
    package = read("package.json")
    paths = [package["main"]]
    for language in package["contributes"]["languages"]:
        paths.append(language["configuration"])
        assert all(extension.startswith(".") for extension in language["extensions"])
    names = {language["id"] for language in package["contributes"]["languages"]}
    for grammar in package["contributes"]["grammars"]:
        paths.append(grammar["path"])
        assert grammar["language"] in names
        assert read(grammar["path"])["scopeName"] == grammar["scopeName"]
    assert all((EXTENSION / path).is_file() for path in paths)
    assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"]) and package["engines"]["vscode"]


def test_the_extension_speaks_of_what_the_package_declares():
    text, package = (EXTENSION / "extension.js").read_text(), read("package.json")
    languages = {language["id"] for language in package["contributes"]["languages"]}
    assert set(re.findall(r'language: "([^"]+)"', text)) == languages
    settings = {f"stepwell.{name}" for name in re.findall(r'settings\.get\("(\w+)"\)', text)}
    assert settings == set(package["contributes"]["configuration"]["properties"])
    assert (
        package["contributes"]["configuration"]["properties"]["stepwell.server"]["default"]
        in (ROOT / "pyproject.toml").read_text()
    )
    for module in re.findall(r'require\("([^"/]+)', text):
        assert module == "vscode" or module in package["dependencies"]


@pytest.mark.parametrize("name", ["language-configuration.json", "pat-configuration.json"])
def test_configurations(name):
    configuration = read(name)
    assert configuration["comments"]["lineComment"] == "//"
    for key in ("wordPattern",):
        if key in configuration:
            assert re.fullmatch(configuration[key], "%value_1") and re.fullmatch(
                configuration[key], "graph.conv"
            )
    for pattern in configuration["indentationRules"].values():
        re.compile(pattern)


@pytest.mark.parametrize(
    ("line", "text", "scope"),
    [
        ("%y = graph.conv %x, %w : t", "%y", "variable.other"),
        ("%y = graph.conv %x, %w : t", "graph", "support.class.dialect"),
        ("%y = graph.conv %x, %w : t", "conv", "keyword.operator.operation"),
        ("%y:2 = llvm.intr.fma(%a)", "intr.fma", "keyword.operator.operation"),
        ("func.func private @main(%x: tensor<?x4xf32>) {", "@main", "entity.name.function"),
        ("func.func private @main(%x: tensor<?x4xf32>) {", "private", "storage.modifier"),
        ("func.func @main(%x: tensor<?x4xf32>) {", "tensor", "storage.type.shaped"),
        ("func.func @main(%x: tensor<?x4xf32>) {", "?x4x", "constant.numeric.shape"),
        ("func.func @main(%x: tensor<?x4xf32>) {", "f32", "storage.type.scalar"),
        ("  func.call @k(%x) : (i64) -> ()", "@k", "entity.name.function.reference"),
        ("  cf.br ^bb1(%x : !llvm.ptr)", "^bb1", "entity.name.label"),
        ("  cf.br ^bb1(%x : !llvm.ptr)", "!llvm.ptr", "storage.type.dialect"),
        ("#map = affine_map<(d0) -> (d0)>", "#map", "support.constant.attribute"),
        ("#map = affine_map<(d0) -> (d0)>", "affine_map", "support.function.attribute"),
        ("{axis = 1 : i64}", "axis", "entity.other.attribute-name"),
        ("{axis = -12 : i64}", "-12", "constant.numeric"),
        ("  %c = arith.constant -1.5e-3 : f32 // no %value", "-1.5e-3", "constant.numeric"),
        ("  %c = arith.constant -1.5e-3 : f32 // no %value", "// no %value", "comment.line.double-slash"),
        ("// CHECK-NEXT: %x", "CHECK-NEXT", "keyword.control.directive"),
        ('  cf.assert %c, "not // a \\" comment"', '"not // a \\" comment"', "string.quoted.double"),
    ],
)
def test_ir_colours(ir, line, text, scope):
    assert ir.scope_of(line, text).startswith(scope)


def test_all_values_operations_and_comments_of_the_lit_tests(ir):
    """Found by simpler means: what is not in a comment or string and looks like it, is it."""
    wrong = []
    for path in IR_FILES:
        for line in path.read_text().split("\n"):
            code = re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: " " * len(m.group()), line).split("//")[0]
            if not code.strip():
                continue
            scopes = ir.scopes(line)
            for match in re.finditer(r"%[\w$.-]+", code):
                if not all(s.startswith("variable") for s in scopes[match.start() : match.end()]):
                    wrong.append((path.name, line, match.group()))
            opening = re.match(r"\s*(?:[%\w:, ]+ = )?(\w+)\.(\w+)[ (\n]", code)
            if opening and not scopes[opening.start(2)].startswith(
                ("keyword.operator", "keyword.declaration")
            ):
                wrong.append((path.name, line, opening.group(2)))
    assert wrong == [] and len(IR_FILES) > 30


def test_all_rules(pat):
    """Every rule's name, and every operation of a pattern."""
    assert PAT_FILES
    for path in PAT_FILES:
        for line in path.read_text().split("\n"):
            scopes = pat.scopes(line)
            assert all(scope for scope, c in zip(scopes, line, strict=True) if c.isalnum()), (
                f"{path.name}: {line}"
            )
            if match := re.match(r"rule\s+([\w-]+)", line):
                assert scopes[match.start(1)].startswith("entity.name.function.rule")
            code = line.split("//")[0]
            for match in re.finditer(r"\b(graph|arith|tensor)\.(\w+)", code):
                assert scopes[match.start(2)].startswith("keyword.operator.operation"), line
