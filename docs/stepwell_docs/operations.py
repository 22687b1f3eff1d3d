"""A page for each dialect (for `graph`: for each family of operators), from its op classes."""

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import TypeAttribute
from xdsl.ir import Attribute
from xdsl.irdl import OptionalDef, VariadicDef
from xdsl.traits import Pure

from stepwell.compat import load_entry
from stepwell.dialects.graph import ONNX_NAMES, GraphOp, value_of
from stepwell.registry import DIALECTS
from stepwell_docs.examples import graph_examples

ROOT = Path(__file__).resolve().parents[2]
_MLIR = "https://mlir.llvm.org/docs/Dialects"
_UPSTREAM = {
    "arith": f"{_MLIR}/ArithOps/",
    "builtin": f"{_MLIR}/Builtin/",
    "cf": f"{_MLIR}/ControlFlowDialect/",
    "func": f"{_MLIR}/Func/",
    "linalg": f"{_MLIR}/Linalg/",
    "llvm": f"{_MLIR}/LLVM/",
    "math": f"{_MLIR}/MathOps/",
    "memref": f"{_MLIR}/MemRef/",
    "scf": f"{_MLIR}/SCFDialect/",
    "tensor": f"{_MLIR}/TensorOps/",
    "ub": f"{_MLIR}/UBOps/",
    "vector": f"{_MLIR}/Vector/",
}
_SEGMENTS = ("operandSegmentSizes", "resultSegmentSizes")


def dialect_pages() -> dict[str, str]:
    """File name to text."""
    pages: dict[str, str] = {}
    for name, entry in DIALECTS.items():
        dialect = load_entry(entry)
        if name == "graph":
            pages |= _graph_pages(dialect)
        else:
            pages[f"{name}.md"] = _dialect_page(name, dialect)
    return pages


def _graph_pages(dialect: Any) -> dict[str, str]:
    families: dict[str, list[type]] = {}
    for op in sorted(dialect.operations, key=lambda op: op.name):
        families.setdefault(op.__module__.rpartition(".")[2], []).append(op)
    index = [
        "# graph",
        "",
        f"{len(ONNX_NAMES)} operators of ONNX, by family. Why the dialect is as it is: [the graph dialect](../../dialects/graph.md). Which "
        "versions and element types compile: [ONNX operators](../../onnx-operators.md).",
        "",
    ]
    pages = {}
    for family, ops in sorted(families.items()):
        title = f"graph: {family.replace('_', ' ')}"
        file = f"graph-{family.replace('_', '-')}.md"
        links = (f"[`{op.name.partition('.')[2]}`]({file}#{_anchor(op)})" for op in ops)
        index.append(f"- **{family.replace('_', ' ')}**: {', '.join(links)}")
        module = inspect.getmodule(ops[0])
        lines = [f"# {title}", "", inspect.getdoc(module) or "", ""]
        for op in ops:
            lines += _op(op)
        pages[file] = "\n".join(lines) + "\n"
    index += ["", *_attributes(dialect)]
    return {"graph.md": "\n".join(index) + "\n"} | pages


def rationale_of(name: str) -> tuple[str, str]:
    """Title and file of the page below `docs/dialects` that says why the dialect `name` is as it is."""
    if name in ("linalg", "tensor"):
        return "the linalg and tensor dialects", "linalg.md"
    if name in _UPSTREAM and not (ROOT / "docs" / "dialects" / f"{name}.md").exists():
        return "dialects of upstream MLIR", "upstream.md"
    return f"the {name} dialect", f"{name}.md"


def _dialect_page(name: str, dialect: Any) -> str:
    title, page = rationale_of(name)
    lines = [f"# {name}", ""]
    if name in _UPSTREAM:
        lines.append(
            f"As in [upstream MLIR]({_UPSTREAM[name]}), from xDSL; what stands here in full is added or repaired."
        )
    lines += [f"Why the dialect is as it is: [{title}](../../dialects/{page}).", ""]
    ops = sorted(dialect.operations, key=lambda op: op.name)
    ours = [op for op in ops if op.__module__.startswith("stepwell")]
    theirs = [op for op in ops if op not in ours]
    for op in ours:
        lines += _op(op)
    if theirs:
        lines += ["## From xDSL", "", "| op | |", "| --- | --- |"]
        lines += [f"| `{op.name}` | {_first_sentence(op)} |" for op in theirs]
    return "\n".join([*lines, "", *_attributes(dialect)]) + "\n"


def _attributes(dialect: Any) -> Iterator[str]:
    ours = [a for a in dialect.attributes if a.__module__.startswith("stepwell")]
    if ours:
        yield "## Types and attributes\n"
    for attribute in sorted(ours, key=lambda a: a.name):
        sign = "!" if issubclass(attribute, TypeAttribute) else "#"
        yield f"**`{sign}{attribute.name}`** {inspect.getdoc(attribute) or ''}\n"


def _anchor(op: type[Any]) -> str:
    return op.name.replace(".", "")


def _first_sentence(op: type) -> str:
    text = " ".join(inspect.cleandoc(op.__doc__ or "").split("\n\n")[0].split())
    text = re.sub(r"https?://\S+", "", re.split(r"(?<=[.:])\s", text)[0]) if len(text) < 400 else ""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _op(op: type[Any]) -> Iterator[str]:
    """The section of one op."""
    definition = op.get_irdl_definition()
    yield f"## {op.name} {{#{_anchor(op)}}}\n"
    yield (inspect.cleandoc(op.__doc__) if op.__doc__ else "") + "\n"
    rows = [
        *(("operand", name, _count(kind), "") for name, kind in definition.operands),
        *(
            ("attribute", name, *_property(kind))
            for name, kind in sorted(definition.properties.items())
            if name not in _SEGMENTS
        ),
        *(("region", name, "", "") for name, _ in definition.regions),
        *(("result", name, _count(kind), "") for name, kind in definition.results),
    ]
    if rows:
        yield "| | name | | default |\n| --- | --- | --- | --- |"
        for role, name, kind, default in rows:
            yield f"| {role} | `{name}` | {kind} | {default} |"
        yield ""
    traits = sorted({type(trait).__name__ for trait in op.traits.traits})
    if issubclass(op, GraphOp) and op.PURE and "Pure" not in traits:
        traits.append(Pure.__name__)
    facts = [f"Traits: {', '.join(traits)}."] if traits else []
    if onnx_name := getattr(op, "ONNX_NAME", ""):
        domain = getattr(op, "ONNX_DOMAIN", "").replace(".", "")
        facts.append(f"ONNX: [{onnx_name}](https://onnx.ai/onnx/operators/onnx_{domain}_{onnx_name}.html).")
    if facts:
        yield " ".join(facts) + "\n"
    if example := graph_examples().get(op.name) or _lit_line(op.name):
        yield f"```mlir\n{example}\n```\n"


def _count(kind: Any) -> str:
    if isinstance(kind, OptionalDef):
        return "optional"
    return "any number" if isinstance(kind, VariadicDef) else ""


def _property(kind: Any) -> tuple[str, str]:
    default = getattr(kind, "default_value", None)
    if default is not None:
        value = value_of(default)
        return "", f"`{value if not isinstance(value, Attribute) else default}`"
    return ("optional", "") if isinstance(kind, OptionalDef) else ("required", "")


@cache
def _lit_texts() -> str:
    return "\n".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "lit").glob("**/*.ir"))
    )


def _lit_line(name: str) -> str | None:
    """The first line of the lit tests that is this op."""
    pattern = rf"^\s*((?:%\S+(?:, %\S+)* = )?{re.escape(name)}(?![\w.]).*)$"
    match = re.search(pattern, _lit_texts(), re.MULTILINE)
    return match[1] if match and not match[1].endswith("{") else None
