"""The reference pages, read off the code: dialects, passes, pipelines, commands, targets, errors, interfaces.

`reference_pages` returns them all, path to markdown. To look at them without mkdocs: `PYTHONPATH=docs python -m stepwell_docs.reference DIR`.
"""

import contextlib
import inspect
import io
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import stepwell
from stepwell import errors
from stepwell.compat import load_entry
from stepwell.pipelines import LEVELS, ORDER, PIPELINES, load_pass, option_docs
from stepwell.registry import BACKENDS, DIALECTS, FRONTENDS, PASSES
from stepwell.targets import resolve_target, target_names
from stepwell_docs.operations import dialect_pages

ROOT = Path(__file__).resolve().parents[2]
LIT = ROOT / "tests" / "lit"


@cache
def reference_pages() -> dict[str, str]:
    """Path below `docs/` to the text of each generated page."""
    pages = {f"reference/ops/{name}": text for name, text in dialect_pages().items()}
    pages |= {
        "reference/passes.md": _passes(),
        "reference/pipelines.md": _pipelines(),
        "reference/commands.md": _commands(),
        "reference/targets.md": _targets(),
        "reference/exit-codes.md": _exit_codes(),
        "reference/python.md": _python(),
        "reference/c.md": _c(),
    }
    index = ["# Reference", "", "These pages are written from the code each time the site is built.", ""]
    index += ["- [ONNX operators](../onnx-operators.md): which, in which versions, on which element types"]
    for path, text in pages.items():
        if not path.startswith("reference/ops/"):
            index.append(f"- [{_title(text)}]({path.removeprefix('reference/')})")
    index.append("- Operations by dialect: " + ", ".join(_dialect_links(pages)))
    pages["reference/index.md"] = "\n".join(index) + "\n"
    return pages


def _title(text: str) -> str:
    return text.split("\n", 1)[0].removeprefix("# ")


def _dialect_links(pages: dict[str, str]) -> Iterator[str]:
    for name in DIALECTS:
        if f"reference/ops/{name}.md" in pages:
            yield f"[`{name}`](ops/{name}.md)"


# Passes and pipelines


def _passes() -> str:
    lines = [
        "# Passes",
        "",
        "In the order of the registry: any level, graph, tensor and kernels, memref, llvm. `stepwell-opt --help PASS` prints the same.",
        "",
        "| pass | what it does |",
        "| --- | --- |",
    ]
    for name in PASSES:
        lines.append(f"| [`{name}`](#{name}) | {_summary(load_pass(name))} |")
    for name in PASSES:
        lines += ["", f"## {name}", "", *_pass(name)]
    return "\n".join(lines) + "\n"


def _summary(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def _pass(name: str) -> Iterator[str]:
    cls = load_pass(name)
    text = inspect.getdoc(cls) or ""
    yield re.sub(r"\s*\b(Requires|Ensures):", r"\n\n**\1:**", text)
    yield f"\nSource: `{cls.__module__.removeprefix('stepwell.').replace('.', '/')}`."
    if options := option_docs(cls):
        yield "\n| option | type | default | |\n| --- | --- | --- | --- |"
        for option, kind, default, document in options:
            yield f"| `{option}` | `{_cell(kind)}` | `{_cell(default)}` | {_cell(document)} |"
    if example := lit_example(name):
        path, check, body = example
        yield f"\nExample, from `{path}`:\n\n```mlir\n{body}\n```\n"
        yield f"After `{name}` the test expects:\n\n```text\n{check}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_MAX_LINES = 40


def lit_example(name: str) -> tuple[str, str, str] | None:
    """The first function of the lit test of a pass with its CHECK lines before it: path, checks, function."""
    for path in sorted(LIT.glob(f"*/{name}.ir")):
        checks: list[str] = []
        lines = iter(path.read_text(encoding="utf-8").splitlines())
        for line in lines:
            if match := re.match(r"\s*//\s*(CHECK[A-Z0-9-]*:.*)", line):
                checks.append(match[1])
            elif line.startswith(("func.func", "module")) and checks:
                body = [line]
                for following in lines:
                    body.append(following)
                    if following.startswith("}") or len(body) > _MAX_LINES:
                        break
                if body[-1].startswith("}"):
                    return str(path.relative_to(ROOT)), "\n".join(checks), "\n".join(body)
                return None
    return None


def _pipelines() -> str:
    lines = [
        "# Pipelines",
        "",
        "A pipeline is a text: passes with options, named pipelines, `func.func(...)` around what runs function by function.",
        "`stepwell-opt -p TEXT` runs one, `--print-pipeline` prints it in full. The levels are "
        + ", ".join(f"`{level}`" for level in LEVELS)
        + "; see [the levels](../levels.md) and [-O0 to -O3](../optimisation-levels.md).",
        "",
        "| name | text |",
        "| --- | --- |",
    ]
    for name, text in PIPELINES.items():
        lines.append(f"| `{name}` | `{' '.join(text.split())}` |")
    lines += ["", "## What must stand before what", "", "| first | then | why |", "| --- | --- | --- |"]
    for (first, then), why in ORDER.items():
        lines.append(
            f"| [`{first}`](passes.md#{first}) | [`{then}`](passes.md#{then}) | {' '.join(why.split())} |"
        )
    return "\n".join(lines) + "\n"


# Commands


def _commands() -> str:
    """The `--help` of each command; that of `stepwell` is split over its subcommands."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    lines = ["# Commands", "", "What `--help` prints. [Exit codes](exit-codes.md) are the same for all.", ""]
    for script, entry in scripts.items():
        main = load_entry(entry)
        text = _help(main, [])
        lines += [f"## {script}", "", f"```text\n{text}```", ""]
        if script == "stepwell":
            for name in re.findall(r"^    ([a-z]+) ", text, re.MULTILINE):
                lines += [f"## stepwell {name}", "", f"```text\n{_help(main, [name])}```", ""]
    lines += ["## Formats", "", "`stepwell-translate --from` reads and `--to` writes:", ""]
    lines += ["| format | reads | writes |", "| --- | --- | --- |", "| `ir` | yes | yes |"]
    for name in sorted({*FRONTENDS, *BACKENDS}):
        lines.append(
            f"| `{name}` | {'yes' if name in FRONTENDS else ''} | {'yes' if name in BACKENDS else ''} |"
        )
    return "\n".join(lines) + "\n"


def _help(main: Any, words: list[str]) -> str:
    """The text of `--help`, the same on every terminal."""
    out, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    assert out.getvalue(), f"{words} --help prints nothing"
    return out.getvalue().rstrip() + "\n"


def _targets() -> str:
    lines = [
        "# Targets",
        "",
        "What `--target` and `set-target{target=...}` take. `native`, the default, is read from this machine. The numbers are those that "
        "costs and tiles are computed from; `set-target` writes them into the module.",
        "",
        "| target | vector bits | registers | L1 KiB | L2 KiB | L3 MiB | f32 flops/ns a core |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in target_names():
        if name != "native":
            t = resolve_target(name)
            lines.append(
                f"| `{name}` | {t.vector_bytes * 8} | {t.vector_registers} | {t.l1_bytes >> 10} | {t.l2_bytes >> 10} "
                f"| {t.l3_bytes >> 20} | {t.flops_per_ns:g} |"
            )
    return "\n".join(lines) + "\n"


def _exit_codes() -> str:
    lines = [
        "# Errors and exit codes",
        "",
        "An error is one or two lines: *where: what: why; what to do*. Commands end with the exit code of its class; in Python the class is "
        "what is raised, and `stepwell.Error` catches them all. `--debug` shows the Python traceback.",
        "",
        "| exit code | class | |",
        "| ---: | --- | --- |",
        "| 0 | | done |",
    ]
    for cls in _error_classes():
        lines.append(f"| {cls.exit_code} | `stepwell.{cls.__name__}` | {_summary(cls)} |")
    lines += [
        "| 130 | | interrupted |",
        "",
        "Status 1 is yours to mend, 2 is a gap of stepwell that it knows of, 3 a fault of stepwell. Where a pass failed, a",
        "[reproducer](../how-to/report-a-fault.md) is left: an `.ir` file whose first line is the command to run.",
    ]
    return "\n".join(lines) + "\n"


def _error_classes() -> list[type[errors.Error]]:
    found = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.Error)]
    return sorted(found, key=lambda cls: (cls.exit_code, cls is not errors.Error, cls.__name__))


# Interfaces


def _python() -> str:
    lines = [
        "# Python",
        "",
        "`import stepwell` loads nothing else; each name is imported when first used.",
        "",
    ]
    for name in sorted(set(dir(stepwell)) - set(vars(errors))):
        value = getattr(stepwell, name)
        if getattr(value, "__module__", "").startswith("stepwell"):
            lines += _object(f"stepwell.{name}", value)
    lines += ["", "Errors: [exit codes](exit-codes.md)."]
    return "\n".join(lines) + "\n"


def _object(name: str, value: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"```python\n{_signature(name, value)}\n```\n"
    yield inspect.getdoc(value) or ""
    yield ""
    if inspect.isclass(value):
        for member_name, member in vars(value).items():
            if member_name.startswith("_"):
                continue
            if isinstance(member, property) and inspect.getdoc(member):
                yield f"- `{member_name}`: {_one_line(member)}"
            elif inspect.isfunction(member) and inspect.getdoc(member):
                yield f"- `{_signature(member_name, member)}`: {_one_line(member)}"
        yield ""


def _one_line(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split())


def _signature(name: str, value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return name
    return name + re.sub(r"\bself(, )?", "", text)


def _c() -> str:
    header = (ROOT / "runtime" / "c" / "stepwell.h").read_text(encoding="utf-8")
    return (
        "# C\n\n`runtime/c/stepwell.h` is the whole interface of a compiled model; `examples/c` is a program of one page, and "
        "[the runtime](../runtime.md) says what a call does.\n\n"
        f"```c\n{header.rstrip()}\n```\n"
    )


def main(argv: list[str]) -> int:
    """Write the pages below the directory `argv[0]`."""
    if len(argv) != 1:
        print("usage: PYTHONPATH=docs python -m stepwell_docs.reference DIR", file=sys.stderr)
        return 1
    for path, text in reference_pages().items():
        target = Path(argv[0]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
