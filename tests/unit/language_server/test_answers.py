"""What the language server knows of a text: names, types, documentation, what may follow. No server is needed."""

import random
import time
from pathlib import Path

import pytest

from stepwell import registry
from stepwell.language_server.analysis import Reader
from stepwell.language_server.answers import Document
from stepwell.language_server.knowledge import Knowledge
from stepwell.language_server.rules import RulesDocument, analyse_rules
from stepwell.language_server.text import TextIndex
from stepwell.plugins import load_plugin_file
from stepwell.registry import DIALECTS

LIT = Path(__file__).parents[2] / "lit"

TEXT = """// RUN: stepwell-opt %s -p 'fold-transposes,cse' | filecheck %s
#map = affine_map<(d0) -> (d0)>
memref.global "private" constant @table : memref<3xf32> = dense<1.0>
func.func private @helper(tensor<2xf32>) -> tensor<2xf32>
func.func @main(%x: tensor<2x3xf32>, %n: index {llvm.note}) -> tensor<3x2xf32> attributes {a.b = 1 : i64} {
  %t = graph.transpose %x {perm = array<i64: 1, 0>} : (tensor<2x3xf32>) -> tensor<3x2xf32>
  %c0 = arith.constant 0 : index
  %r = scf.for %i = %c0 to %n step %n iter_args(%acc = %c0) -> (index) {
    %u = arith.addi %acc, %i : index
    scf.yield %u : index
  }
  %s = scf.for %i = %c0 to %r step %n iter_args(%acc = %r) -> (index) {
    %u = arith.addi %acc, %i : index
    scf.yield %u : index
  }
  %g = memref.get_global @table : memref<3xf32>
  func.return %t : tensor<3x2xf32>
}
func.func @other(%x: f32) -> f32 {
  cf.br ^end(%x : f32)
^end(%y: f32):
  func.return %y : f32
}
"""


@pytest.fixture(scope="module")
def reader():
    return Reader(DIALECTS)


@pytest.fixture(scope="module")
def document(reader):
    analysis = reader.analyse(TEXT)
    assert analysis.faults == []
    return Document(TEXT, Knowledge(reader.context()), analysis, True)


def at(text, needle, occurrence=0, inside=1):
    """The offset just inside the given occurrence of `needle`."""
    offset = -1
    for _ in range(occurrence + 1):
        offset = text.index(needle, offset + 1)
    return offset + inside


def line_of(document, name):
    return document.index.place(name.start)[0] + 1


@pytest.mark.parametrize(
    ("needle", "occurrence", "line"),
    [
        ("%t", 1, 6),  # a result
        ("%x", 1, 5),  # an argument
        ("%n", 3, 5),
        ("%acc", 1, 8),  # the second loop's `%acc` is another
        ("%acc", 3, 12),
        ("%i,", 0, None),
        ("%u :", 1, 13),
        ("%i :", 1, 12),
        ("@table", 1, 3),
        ("^end", 0, 21),
        ("%y :", 0, 21),
        ("%x :", 0, 19),  # of @other, not of @main
        ("%t", 0, 6),  # a definition is its own
    ],
)
def test_definition(document, needle, occurrence, line):
    if line is not None:
        assert line_of(document, document.definition(at(TEXT, needle, occurrence))) == line


def test_what_is_no_name_has_no_definition(document):
    assert document.definition(at(TEXT, "attributes")) is None
    broken = Document("func.func @f() {\n  func.return %nobody : f32\n}", document.knowledge)
    assert broken.definition(at(broken.text, "%nobody")) is None


def test_references(document):
    found = document.references(at(TEXT, "%i :"))
    assert [line_of(document, name) for name in found] == [8, 9]
    assert [line_of(document, n) for n in document.references(at(TEXT, "@table"))] == [3, 16]
    assert [line_of(document, n) for n in document.references(at(TEXT, "%n", 0))] == [5, 8, 8, 12]


def test_symbols_span_their_bodies(document):
    spans = {
        s.name: (TEXT.count("\n", 0, s.start) + 1, TEXT.count("\n", 0, s.end) + 1)
        for s in document.index.symbols
    }
    assert spans == {"@table": (3, 3), "@helper": (4, 4), "@main": (5, 18), "@other": (19, 23)}


@pytest.mark.parametrize(
    ("needle", "occurrence", "words"),
    [
        ("graph.transpose", 0, ["**graph.transpose**", "perm", "(tensor<2x3xf32>) -> (tensor<3x2xf32>)"]),
        ("%t :", 0, ["`%t: tensor<3x2xf32>`", "graph.transpose %x"]),
        ("%acc,", 1, ["`%acc: index`"]),
        ("%r step", 0, ["`%r: index`"]),
        ("%y :", 0, ["`%y: f32`"]),
        ("@table", 1, ["memref.global"]),
        ("fold-transposes", 0, ["**fold-transposes**", "Requires"]),
        ("scf.yield", 0, ["scf.yield", "(index) -> ()"]),
    ],
)
def test_hover(document, needle, occurrence, words):
    answer = document.hover(at(TEXT, needle, occurrence))
    assert answer is not None
    for word in words:
        assert word in answer.text
    assert TEXT[answer.start : answer.end] in (needle, needle.split()[0].rstrip(",:"))


def test_no_hover_on_types_and_blanks(document):
    assert document.hover(at(TEXT, "tensor<2x3xf32>", 1)) is None and document.hover(at(TEXT, "  %t")) is None


def suggest(document, before, after=""):
    made = Document(before + after, document.knowledge)
    return {s.text for s in made.suggestions(len(before))}


HEAD = "func.func @f(%value: tensor<2x3xf32>) {\n"


def test_completion(document):
    assert "graph.transpose" in suggest(document, HEAD + "  %1 = graph.tr")
    assert all(name.startswith("graph.") for name in suggest(document, HEAD + "  %1 = graph."))
    assert {"graph", "arith", "linalg"} <= suggest(document, HEAD + "  ")
    assert suggest(document, HEAD + "  %1 = graph.relu %") == {"%value"}
    assert "@f" in suggest(document, HEAD + "  func.call @")
    assert "perm" in suggest(document, HEAD + "  %1 = graph.transpose %value {")
    assert "perm" in suggest(document, HEAD + "  %1 = graph.transpose %value {pe", "} : (t) -> t\n}")
    assert {"fold-transposes", "cpu-O3"} <= suggest(document, "// RUN: stepwell-opt %s -p 'cse,fold-")
    assert suggest(document, HEAD + "  %1 = nothing.") == set()
    assert suggest(document, HEAD + "  %1 = graph.relu %value : (ten") == set()


def test_visible_values_end_with_their_scope(document):
    inside = TEXT[: at(TEXT, "scf.yield", 1)] + "arith.addi %"
    assert {"%u", "%acc", "%i", "%r", "%x"} <= suggest(document, inside)
    behind = TEXT[: at(TEXT, "%g =", 0, 0)] + "arith.addi %"
    assert "%u" not in suggest(document, behind) and "%s" in suggest(document, behind)
    assert suggest(document, TEXT[: at(TEXT, "cf.br", 0, 0)] + "math.erf %") == {"%x"}


# Faults


def faults(reader, text):
    return [(f.line + 1, f.column + 1, f.message) for f in reader.analyse(text).faults]


def test_faults_have_places_and_tokens(reader):
    (fault,) = reader.analyse("func.func @f(%x: f32) {\n  %y = grap.relu %x\n  func.return\n}").faults
    assert (fault.line, fault.column, fault.end_column) == (1, 7, 16)
    assert "'grap.relu' is not registered" in fault.message


def test_each_function_shows_its_first_fault(reader):
    text = "func.func @a() {\n  nope.nope\n}\nfunc.func @b() {\n  func.return\n}\nfunc.func @c( {\n}\n"
    found = faults(reader, text)
    assert [line for line, _, _ in found] == [2, 7]


def test_verifier_faults(reader):
    text = (
        "func.func @a(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {\n"
        "  %t = graph.transpose %x {perm = array<i64: 1, 0>} : (tensor<2x3xf32>) -> tensor<2x3xf32>\n"
        "  func.return %t : tensor<2x3xf32>\n}\n"
    )
    (found,) = faults(reader, text)
    assert found[:2] == (2, 8) and "graph.transpose" in found[2]
    assert [line for line, _, _ in faults(reader, text + text.replace("@a", "@b"))] == [2, 6]


def test_split_files_and_unregistered_dialects(reader):
    split = "// RUN: stepwell-opt --split-input-file %s\nfunc.func @f() {\n  func.return\n}\n// -----\nfunc.func @f() {\n  nope.x\n}\n"
    assert [line for line, _, _ in faults(reader, split)] == [7]
    loose = '// RUN: stepwell-opt --allow-unregistered-dialect %s\n"nope.x"() : () -> ()\n'
    assert faults(reader, loose) == [] and faults(reader, loose.split("\n", 1)[1]) != []


def test_every_lit_test_is_understood(reader):
    """Every operation that the parser finds, the index finds; nothing that is used lacks a definition but what is wrong."""
    files = [path for path in sorted(LIT.rglob("*.ir")) if "error" not in path.name]
    assert len(files) > 30
    unread = []
    for path in files:
        text = path.read_text()
        index, analysis = TextIndex(text), reader.analyse(text)
        if analysis.faults:
            unread.append(path.name)
            continue
        for line, column in analysis.operations:
            offset = index.offset(line, 0) + column
            assert offset in (0, *index.operations), f"{path}:{line + 1}:{column + 1}"
        undefined = [n.text for n in index.names if n.kind != "symbol" and index.definition_of(n) is None]
        assert undefined == [], path
    assert len(unread) < len(files) / 10, unread


# Half-typed text


@pytest.mark.parametrize("seed", range(4))
def test_no_text_breaks_it(document, seed):
    rng = random.Random(seed)
    sources = [TEXT, *(p.read_text() for p in rng.sample(sorted(LIT.rglob("*.ir")), 3))]
    for _ in range(120):
        source = rng.choice(sources)
        cut = sorted(rng.randrange(len(source) + 1) for _ in range(2))
        junk = "".join(rng.choice("%@^#!{}()<>[]=:,\"'\n .é𝄞a0-") for _ in range(rng.randrange(6)))
        text = rng.choice([source[: cut[0]], source[: cut[0]] + junk + source[cut[1] :], junk])
        made = Document(text, document.knowledge)
        for _ in range(5):
            offset = rng.randrange(len(text) + 1)
            line, column = made.index.place(offset)
            assert made.index.offset(line, column) == offset
            made.hover(offset), made.suggestions(offset), made.definition(offset), made.references(offset)


def test_half_typed_text_is_a_fault_and_no_exception(reader):
    rng = random.Random(7)
    for _ in range(40):
        cut = rng.randrange(len(TEXT))
        analysis = reader.analyse(TEXT[:cut])
        assert all(fault.line <= TEXT.count("\n") for fault in analysis.faults)


def test_columns_are_utf16():
    index = TextIndex('// 𝄞é\n"x"() {s = "𝄞"} : () -> () // %a\n')
    assert index.place(index.text.index("é")) == (0, 5) and index.offset(0, 5) == index.text.index("é")
    end = index.text.rindex("}")
    assert index.place(end) == (1, end - index.text.index('"x"') + 1)


def test_a_megabyte_is_indexed_while_one_waits():
    one = TEXT.split("\n", 5)[5].split("}\nfunc.func @other", 1)[0]
    functions = [
        f"func.func @f{i}(%x: tensor<2x3xf32>, %n: index) -> tensor<3x2xf32> {{\n{one}}}\n"
        for i in range(1900)
    ]
    text = "".join(functions)
    assert len(text) > 1_000_000
    begin = time.process_time()
    index = TextIndex(text)
    name = index.name_at(text.rindex("%t :") + 1)
    assert name is not None and index.definition_of(name) is not None and len(index.references_to(name)) == 2
    assert time.process_time() - begin < 5, "0.6 s on an idle machine of 2024"


# A project's own passes and dialects

PLUGIN = '''
from dataclasses import dataclass
from xdsl.ir import Dialect
from xdsl.irdl import IRDLOperation, irdl_op_definition, operand_def, opt_attr_def
from xdsl.dialects.builtin import StringAttr
from xdsl.passes import ModulePass

@irdl_op_definition
class NoteOp(IRDLOperation):
    """Remark on a value."""
    name = "mine.note"
    value = operand_def()
    text = opt_attr_def(StringAttr)
    assembly_format = "$value attr-dict `:` type($value)"

MINE = Dialect("mine", [NoteOp])

@dataclass(frozen=True)
class DropNotesPass(ModulePass):
    """Take all remarks away."""
    name = "drop-notes"
    def apply(self, ctx, op):
        pass
'''


def test_plug_ins(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "PASSES", dict(registry.PASSES))
    (tmp_path / "mine.py").write_text(PLUGIN)
    try:
        load_plugin_file(str(tmp_path / "mine.py"))
        reader = Reader(DIALECTS)
        text = (
            "// RUN: stepwell-opt -p drop-notes\nfunc.func @f(%x: f32) {\n"
            '  mine.note %x {text = "a"} : f32\n  func.return\n}\n'
        )
        analysis = reader.analyse(text)
        assert analysis.faults == []
        document = Document(text, Knowledge(reader.context()), analysis, True)
        hovered = document.hover(at(text, "mine.note"))
        assert hovered is not None and "Remark on a value." in hovered.text and "`text`" in hovered.text
        assert suggest(document, HEAD + "  mine.") == {"mine.note"}
    finally:
        DIALECTS.pop("mine", None)


# Rules

RULES = """// What this file is for.

// relu(relu(x)) == relu(x)
rule drop-repeated-relu
  match   graph.relu(inner @ graph.relu(x))
  where   type(x) == type(inner)
  rewrite inner

// neg(neg(x)) == x
rule drop-double-neg
  match   graph.neg(graph.neg(x))
  rewrite x
"""


def test_rules_have_faults(reader):
    ctx = reader.context()
    assert analyse_rules(ctx, Path("a.pat"), RULES).faults == []
    wrong = RULES.replace("graph.relu(x))", "graph.relo(x))").replace("rewrite x", "rewrite y")
    faults = analyse_rules(ctx, Path("a.pat"), wrong).faults
    assert [fault.line + 1 for fault in faults] == [5, 12]
    assert wrong.split("\n")[4][faults[0].column : faults[0].end_column] == "graph.relo"
    for cut in range(0, len(RULES), 7):
        analyse_rules(ctx, Path("a.pat"), RULES[:cut])


def test_rules_are_known(document):
    rules = RulesDocument(RULES, document.knowledge)
    hovered = rules.hover(RULES.index("graph.neg") + 2)
    assert hovered is not None and "graph.neg" in hovered.text
    assert [symbol.name for symbol in rules.index.symbols] == ["drop-repeated-relu", "drop-double-neg"]
    used = rules.references(RULES.rindex("rewrite x") + len("rewrite "))
    assert [RULES.count("\n", 0, name.start) + 1 for name in used] == [11, 12]
    made = rules.definition(RULES.index("rewrite inner") + len("rewrite "))
    assert (
        made is not None and RULES[made.start : made.end] == "inner" and RULES.count("\n", 0, made.start) == 4
    )
    before = RULES[: RULES.index("graph.neg") + len("graph.n")]
    found = {s.text for s in RulesDocument(before, document.knowledge).suggestions(len(before))}
    assert "graph.neg" in found
    assert "rewrite" in {
        s.text for s in RulesDocument(RULES + "\n  re", document.knowledge).suggestions(len(RULES) + 5)
    }
