"""
Write `docs/onnx-operators.md`: which ONNX operators compile, in which versions, on which element types.

    PYTHONPATH=docs python -m stepwell_docs.onnx_table             all operators, about a minute
    PYTHONPATH=docs python -m stepwell_docs.onnx_table Conv Relu   print the rows of some, write nothing

No table of the compiler says this: the answer is what the importer and the lowering do. So each operator is tried. The models
are ONNX's own tests of the operator; the element type of its first type variable is replaced by each one that the schema allows, and the model is
imported and lowered to the tensor level, where all refusals of types lie. This takes too long for each build of the site, so the
page is committed, and `tests/docs/test_onnx_table.py` holds it against the conformance results and tries a sample again.
"""

import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx.parser

from stepwell.compat import new_context
from stepwell.diagnostics import exit_code_of
from stepwell.frontends.onnx import import_onnx
from stepwell.frontends.onnx.classical import CLASSICAL, CLASSICAL_DOMAIN
from stepwell.frontends.onnx.contrib import CONTRIB, EXPERIMENTAL
from stepwell.frontends.onnx.training import TRAINING, TRAINING_DOMAIN
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "onnx-operators.md"
EXPECTED_FAILURES = ROOT / "tests" / "conformance" / "expected_failures.txt"

SHORT = {
    "float": "f32", "float16": "f16", "bfloat16": "bf16", "double": "f64",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64", "int4": "i4", "int2": "i2",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64", "uint4": "u4", "uint2": "u2",
    "bool": "bool", "string": "string", "complex64": "c64", "complex128": "c128",
    "float8e4m3fn": "f8", "float8e4m3fnuz": "f8", "float8e5m2": "f8", "float8e5m2fnuz": "f8", "float8e8m0": "f8",
    "float4e2m1": "f4",
}  # fmt: skip
"""ONNX's name of an element type to the one in the table, in the order of the table."""

_FAULT = "a fault of stepwell: "

MADE = {
    "Constant": "() => (TYPE[1] y) { y = Constant <value = TYPE[1] {1}> () }",
    "ConstantOfShape": "(int64[1] s) => (TYPE[n] y) { y = ConstantOfShape <value = TYPE[1] {1}> (s) }",
    "Identity": "(TYPE[2] x) => (TYPE[2] y) { y = Identity (x) }",
    "If": """(bool c, TYPE[2] x) => (TYPE[2] y) {
        y = If (c) <then_branch = t () => (TYPE[2] a) { a = Identity (x) }, else_branch = e () => (TYPE[2] b) { b = Identity (x) }>
    }""",
    "Loop": """(int64 n, bool c, TYPE[2] x) => (TYPE[2] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, TYPE[2] v) => (bool on, TYPE[2] w) { on = Identity (go) w = Identity (v) }>
    }""",
    "Scan": """(TYPE[2] x, TYPE[3,2] s) => (TYPE[2] y, TYPE[3,2] z) {
        y, z = Scan <num_scan_inputs = 1, body = b (TYPE[2] v, TYPE[2] e) => (TYPE[2] w, TYPE[2] r) { w = Identity (v) r = Identity (e) }> (x, s)
    }""",
    "GlobalLpPool": "(TYPE[1,2,4,4] x) => (TYPE[1,2,1,1] y) { y = GlobalLpPool (x) }",
    "MaxRoiPool": "(TYPE[1,2,8,8] x, TYPE[3,5] r) => (TYPE[3,2,2,2] y) { y = MaxRoiPool <pooled_shape = [2, 2]> (x, r) }",
    "Optional": "(TYPE[2] x) => (TYPE[2] y) { o = Optional (x) y = OptionalGetElement (o) }",
    "OptionalGetElement": "(TYPE[2] x) => (TYPE[2] y) { o = Optional (x) y = OptionalGetElement (o) }",
    "OptionalHasElement": "(TYPE[2] x) => (bool y) { o = Optional (x) y = OptionalHasElement (o) }",
    "SequenceConstruct": "(TYPE[2] x, int64 i) => (TYPE[2] y) { s = SequenceConstruct (x, x) y = SequenceAt (s, i) }",
    "SequenceAt": "(TYPE[2] x, int64 i) => (TYPE[2] y) { s = SequenceConstruct (x, x) y = SequenceAt (s, i) }",
    "SequenceEmpty": "(TYPE[2] x, int64 i) => (TYPE[2] y) { e = SequenceEmpty <dtype = CODE> () s = SequenceInsert (e, x) y = SequenceAt (s, i) }",
    "SequenceInsert": "(TYPE[2] x, int64 i) => (TYPE[2] y) { s = SequenceConstruct (x) t = SequenceInsert (s, x, i) y = SequenceAt (t, i) }",
    "SequenceErase": "(TYPE[2] x, int64 i) => (TYPE[2] y) { s = SequenceConstruct (x, x) t = SequenceErase (s, i) y = SequenceAt (t, i) }",
    "SequenceLength": "(TYPE[2] x) => (int64 y) { s = SequenceConstruct (x, x) y = SequenceLength (s) }",
    "SequenceMap": """(TYPE[2] x, int64 i) => (TYPE[2] y) {
        s = SequenceConstruct (x, x) t = SequenceMap (s) <body = b (TYPE[2] v) => (TYPE[2] w) { w = Identity (v) }> y = SequenceAt (t, i)
    }""",
    "ConcatFromSequence": "(TYPE[2] x) => (TYPE[4] y) { s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s) }",
    "SplitToSequence": "(TYPE[4] x, int64 i) => (TYPE[n] y) { s = SplitToSequence (x) y = SequenceAt (s, i) }",
    "Multinomial": "(TYPE[2,3] x) => (int32[2,4] y) { y = Multinomial <sample_size = 4> (x) }",
    "RandomNormal": "() => (TYPE[2] y) { y = RandomNormal <shape = [2], dtype = CODE> () }",
    "RandomNormalLike": "(TYPE[2] x) => (TYPE[2] y) { y = RandomNormalLike (x) }",
    "RandomUniform": "() => (TYPE[2] y) { y = RandomUniform <shape = [2], dtype = CODE> () }",
    "TfIdfVectorizer": """(TYPE[4] x) => (float[2] y) {
        y = TfIdfVectorizer <mode = "TF", min_gram_length = 1, max_gram_length = 1, max_skip_count = 0, ngram_counts = [0], ngram_indexes = [0, 1], POOL> (x)
    }""",
    "RandomUniformLike": "(TYPE[2] x) => (TYPE[2] y) { y = RandomUniformLike (x) }",
}
"""Models of operators that have no test of their own, whose type is an attribute's, or that hold other operators."""

MADE_OPSET = 23

_PIPELINE = "set-target{target=x86-64-v3}, graph-O1, tensor-O1"
_TRIED = 4
"""Tests of an operator that are tried with a type; one that compiles is enough."""

NOTES = {
    "LpPool": "integer orders",
    "Scan": "not the batched form of opset 8",
    "Tile": "the form of opset 1 with constant operands",
}
"""What the importer refuses of an operator, beyond what is tried here."""


@dataclass
class Row:
    """What is known of one operator."""

    name: str
    versions: list[int]
    types: list[str] = field(default_factory=list)
    """Short names of the element types that compile."""
    reason: str = ""
    """Why none does."""

    def markdown(self) -> str:
        newest = onnx.defs.get_schema(self.name, domain="")
        opsets = (
            f"{self.versions[0]} to {newest.since_version - 1}"
            if newest.deprecated
            else f"from {self.versions[0]}"
        )
        changes = [
            version
            for version in self.versions[1:]
            if not newest.deprecated or version < newest.since_version
        ]
        if changes:
            opsets += f"; changed in {', '.join(map(str, changes))}"
        link = f"[{self.name}](https://onnx.ai/onnx/operators/onnx__{self.name}.html)"
        if not self.types:
            return f"| {link} | - | | {self.reason} |"
        return f"| {link} | {opsets} | {', '.join(self.types)} | {NOTES.get(self.name, '')} |"


@cache
def operators() -> dict[str, list[int]]:
    """Each operator of the default domain to the opset versions that define a form of it."""
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.support_level == onnx.defs.OpSchema.SupportType.COMMON:
            found.setdefault(schema.name, set()).add(schema.since_version)
    return {name: sorted(versions) for name, versions in sorted(found.items())}


@cache
def cases() -> dict[str, list[Any]]:
    """Operator to ONNX's tests of a model that consists of it alone."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            nodes = case.model.graph.node
            telling = [node for node in nodes if node.op_type != "Constant"] or nodes
            if len(telling) == 1 and telling[0].domain == "" and "_expanded" not in case.name:
                found.setdefault(telling[0].op_type, []).append(case)
    return found


def row_of(name: str) -> Row:
    """Try one operator."""
    row = Row(name, operators()[name])
    refusals: list[str] = []
    for onnx_type in SHORT:
        short = SHORT[onnx_type]
        if short in row.types:
            continue
        for variant in variants(name, onnx_type):
            refusal = refusal_of(variant)
            if refusal is None:
                row.types.append(short)
                break
            if refusal.startswith(_FAULT):
                raise AssertionError(f"{name} on {short}: {refusal}")
            refusals.append(refusal)
            if refusals.count(refusal) >= _TRIED:
                break
    row.reason = refusals[0] if refusals else "no test of ONNX's to try it with"
    return row


def variants(name: str, onnx_type: str) -> Iterator[onnx.ModelProto]:
    """Models of the operator on an element type that its schema allows."""
    if name not in MADE:
        models = [case.model for case in cases().get(name, [])]
        models.sort(
            key=lambda model: type_of(model, name) != SHORT[onnx_type]
        )  # those of this type come first
        found = (with_type(model, name, onnx_type) for model in models)
        yield from (model for model in found if model is not None)
        return
    schema = onnx.defs.get_schema(name, MADE_OPSET, "")
    if any(f"tensor({onnx_type})" in kind for c in schema.type_constraints for kind in c.allowed_type_strs):
        code = onnx.TensorProto.DataType.Value(onnx_type.upper())
        body = MADE[name].replace("TYPE", onnx_type).replace("CODE", str(code))
        body = body.replace(
            "POOL", 'pool_strings = ["a", "b"]' if onnx_type == "string" else "pool_int64s = [1, 2]"
        )
        if onnx_type == "string":
            body = body.replace("{1}", '{"a"}')
        yield onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {MADE_OPSET}]> g {body}')


def with_type(model: onnx.ModelProto, name: str, onnx_type: str) -> onnx.ModelProto | None:
    """`model` on another element type, None if the operator's schema does not allow it."""
    schema, node = _schema_and_node(model, name)
    variable = main_variable(schema)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(
        variable, [variable]
    )
    if f"tensor({onnx_type})" not in allowed:
        return None
    element = onnx.TensorProto.DataType.Value(onnx_type.upper())
    changed = {actual for formal, actual in _actual(schema, node) if formal == variable and actual}
    if any(tensor.name in changed for tensor in model.graph.initializer):
        return None
    model = deepcopy(model)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in changed:
            if not value.type.HasField("tensor_type"):
                return None
            value.type.tensor_type.elem_type = element
    return model


def type_of(model: onnx.ModelProto, name: str) -> str | None:
    """The short name of the element type that the operator's main variable has in `model`; None if that is no input or output."""
    schema, node = _schema_and_node(model, name)
    variable = main_variable(schema)
    values = {value.name: value.type for value in (*model.graph.input, *model.graph.output)}
    for formal, actual in _actual(schema, node):
        kind = values.get(actual)
        if formal == variable and kind is not None and kind.HasField("tensor_type"):
            return SHORT[onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type).lower()]
    return None


def _schema_and_node(model: onnx.ModelProto, name: str) -> tuple[Any, Any]:
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return onnx.defs.get_schema(name, version, ""), next(
        node for node in model.graph.node if node.op_type == name
    )


def main_variable(schema: Any) -> str:
    """The type variable of the first input, or, where that is a fixed type or absent, of the first output."""
    variables = {constraint.type_param_str for constraint in schema.type_constraints}
    for formal in (*schema.inputs[:1], *schema.outputs[:1]):
        if formal.type_str in variables:
            return formal.type_str
    return (*schema.inputs[:1], *schema.outputs[:1])[0].type_str


def _actual(schema: Any, node: Any) -> Iterable[tuple[str, str]]:
    """The type variable and the name of each value that the node reads or writes."""
    for formals, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for index, name in enumerate(names):
            formal = formals[min(index, len(formals) - 1)]
            yield formal.type_str, name


def refusal_of(model: onnx.ModelProto) -> str | None:
    """Why `model` does not get to the tensor level; None if it does."""
    ctx = new_context(DIALECTS)
    try:
        module = import_onnx(model, ctx, {})
        run_pipeline(ctx, module, resolve_pipeline(_PIPELINE))
    except Exception as error:
        return f"{_FAULT}{error}" if exit_code_of(error) == 3 else _reason(str(error))
    return None


def _reason(message: str) -> str:
    """A message of the form *where: what: why; what to do*, without place and advice."""
    why = message.split("\n")[0].split("; ")[0].rsplit(": ", 1)[-1]
    return re.sub(r"^it has no lowering to the tensor level yet$", "no lowering yet", why)[:120].replace(
        "|", "\\|"
    )


_HEAD = """\
# ONNX operators

Which operators compile, from which opset on, on which element types of their first operand (of the result, where an operator has no operands of that kind).
Older forms are brought to the newest one by the importer. Computations on 8-bit and smaller floats and on 4-bit integers need a cast in front; what moves data takes them as they are.

This page is written by a program that tries each operator (`PYTHONPATH=docs python -m stepwell_docs.onnx_table`), and tests hold it against the conformance results. `stepwell inspect model.onnx` lists
what of a model is not supported.
"""


def page(rows: Iterable[Row]) -> str:
    """The text of the page."""
    rows = list(rows)
    supported = [row for row in rows if row.types]
    lines = [
        _HEAD,
        f"{len(supported)} of the {len(rows)} operators of the default domain in onnx {onnx.__version__} compile.",
        "",
    ]
    lines += [
        "| operator | opsets | element types | |",
        "| --- | --- | --- | --- |",
        *(row.markdown() for row in supported),
    ]
    lines += [
        "",
        "## Not supported",
        "",
        "| operator | opsets | element types | why |",
        "| --- | --- | --- | --- |",
    ]
    lines += [row.markdown() for row in rows if not row.types]
    lines += ["", "## Other domains", "", other_domains()]
    return "\n".join(lines) + "\n"


ONNX_RUNTIME = "1.31"
"""Whose operators `NOT_TAKEN` was held against; a later one may have more."""
NOT_TAKEN = {
    "a loop around a whole decoder, which the caller can make": [
        "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch",
    ],
    "bookkeeping between runs of a decoder": ["BifurcationDetector", "NGramHashMapping", "VarlenNGramHashMapping"],
    "weights in a layout that is private to ONNX Runtime's kernels": ["MatMulFpQ4"],
    "blocks chosen by a sparse matrix": ["SparseAttention"],
    "a path that is as long as the data has it, found step by step": ["DynamicTimeWarping"],
    "a sparse tensor as an input": ["SparseToDenseMatMul"],
    "strings cut by RE2's expressions": ["Tokenizer"],
    "of a single model or internal, by their own description": ["AttnLSTM", "MaxpoolWithMask", "WordConvEmbedding"],
}  # fmt: skip
"""Why an operator of `com.microsoft` that ONNX Runtime's CPU provider has is refused, to their names."""


def other_domains() -> str:
    """What is imported of the other domains, by the importer's tables."""
    tables = {
        "`com.microsoft`, as onnxruntime's optimiser writes it": CONTRIB,
        f"`{CLASSICAL_DOMAIN}`": CLASSICAL,
        f"`{TRAINING_DOMAIN}`": TRAINING,
    }
    lists = [f"{title}: {', '.join(sorted(table))}." for title, table in tables.items()]
    old = ", ".join(sorted(EXPERIMENTAL))
    lists.append(
        f"What ONNX Runtime takes in the default domain besides the standard's, or before them: {old}."
    )
    refused = "; ".join(f"{', '.join(names)} ({why})" for why, names in NOT_TAKEN.items())
    lists.append(
        f"Of what ONNX Runtime {ONNX_RUNTIME}'s CPU provider has, these operators of `com.microsoft` are refused by name: {refused}."
        " So is `com.microsoft.nchwc`, the layout of the machine that a model was optimised on: save it at a level below"
        " `ORT_ENABLE_ALL`. Of an operator that is taken, an attribute or operand that is not known is refused."
    )
    return "\n\n".join([*lists, "Functions that a model defines itself are inlined."])


def read_page(text: str | None = None) -> dict[str, list[str]]:
    """Operator to the element types that the committed page says it takes."""
    found: dict[str, list[str]] = {}
    for line in (PAGE.read_text(encoding="utf-8") if text is None else text).splitlines():
        if match := re.match(r"\| \[(\w+)\]\(\S+\) \| ([^|]*) \| ([^|]*)\|", line):
            found[match[1]] = [name for name in match[3].strip().split(", ") if name]
    return found


def written_with() -> str:
    """The version of the onnx package that the committed page was written with."""
    match = re.search(r"in onnx (\S+) compile", PAGE.read_text(encoding="utf-8"))
    assert match is not None, "the page says with which version it was written"
    return match[1]


def main(names: list[str]) -> int:
    """Write the page, or print the rows of `names`."""
    if names:
        for name in names:
            print(row_of(name).markdown())
        return 0
    PAGE.write_text(page(row_of(name) for name in operators()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
