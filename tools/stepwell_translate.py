"""`stepwell-translate`: read one format, write another."""

import argparse
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stepwell.tools.console import Console, Exit, load_plugin_files, module_text_of, warn_of_unwritten

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from stepwell.compat import StepwellContext

_EXAMPLES = """examples:
  stepwell-translate --from onnx --to ir model.onnx -o model.ir     weights go to model.safetensors
  stepwell-translate --to dot kernel.ir | dot -Tsvg > kernel.svg
  stepwell-translate --to ll lowered.ir -o lowered.ll
  stepwell-translate --from ll --to ir lowered.ll
  stepwell-translate --to onnx graph.ir -o graph.onnx               the graph level only
  stepwell-translate --from pat --to python rules.pat  the patterns that rewrite rules stand for

exit status: 0 done; 1 the input or a flag is wrong; 2 the input is not supported; 3 our fault
"""


def main(
    argv: Sequence[str] | None = None,
    stdin: IO[str] | None = None,
    stdout: IO[str] | None = None,
    stderr: IO[str] | None = None,
) -> int:
    """Run the tool; the return value is the exit status."""
    console = Console("stepwell-translate", stdin, stdout, stderr)

    def work() -> int:
        options = _parse_arguments(argv, console)
        console.debug = options.debug
        return _translate(options, console)

    return console.run(work)


def _parse_arguments(argv: Sequence[str] | None, console: Console) -> argparse.Namespace:
    from stepwell.registry import BACKENDS, FILE_BACKENDS, FRONTENDS

    parser = console.parser("Read one format, write another.", _EXAMPLES)
    add = parser.add_argument
    add("input", nargs="?", default="-", help="the file to read; - is standard input (default)")
    add("-h", "--help", action="store_true", help="this text")
    formats = ["ir", "pat", *FRONTENDS]
    targets = ["ir", "python", *BACKENDS, *FILE_BACKENDS]
    add("--from", dest="source", choices=formats, help="its format; default: its extension")
    add("--to", choices=targets, help="the format to write (default ir, of pat: python)")
    add("-o", "--output", metavar="FILE", help="write there instead of to standard output")
    add("--dim", action="append", default=[], metavar="NAME=N", help="give a named extent a number")
    add("--load-pass", action="append", default=[], metavar="FILE", help="take operators from a .py file")
    add("--resources", metavar="FILE", help="the sidecar file for weights")
    add("--mlir-print-op-generic", action="store_true", help="print every op in generic form")
    add("--print-debuginfo", action="store_true", help="print locations")
    add("--debug", action="store_true", help="show tracebacks")
    options = parser.parse(argv)  # pyright: ignore[reportAttributeAccessIssue]
    if options.help:
        console.stdout.write(parser.format_help())
        raise Exit(0)
    if options.source is None:
        extension = Path(options.input).suffix.removeprefix(".")
        options.source = extension if extension in formats else "ir"
    if options.to is None:
        options.to = "python" if options.source == "pat" else "ir"
    if (options.source == "pat") != (options.to == "python"):
        parser.error("rewrite rules are written as Python, and nothing else is: --from pat --to python")
    return options


def _translate(options: argparse.Namespace, console: Console) -> int:
    from stepwell.compat import new_context
    from stepwell.errors import Error
    from stepwell.registry import DIALECTS, FILE_BACKENDS

    load_plugin_files(options.load_pass)
    ctx = new_context(DIALECTS)
    if options.source == "pat":
        from stepwell.transforms.rules.loading import generate_rules

        name, text = console.read(options.input)
        console.write(options.output, generate_rules(Path(name), text, ctx))
        return 0
    module = _read(options, console, ctx)
    if options.to in FILE_BACKENDS:
        if options.output is None:
            raise Error(f"--to {options.to}: bytes are not for standard output; give -o FILE")
        _entry("FILE_BACKENDS", options.to)(module, ctx, Path(options.output))
        return 0
    if options.to != "ir":
        out = StringIO()
        _entry("BACKENDS", options.to)(module, out)
        console.write(options.output, out.getvalue())
        return 0
    text, unwritten = module_text_of(console, options, ctx, module)
    warn_of_unwritten(console, unwritten)
    console.write(options.output, text)
    return 0


def _read(options: argparse.Namespace, console: Console, ctx: "StepwellContext") -> "ModuleOp":
    from xdsl.utils.exceptions import VerifyException

    from stepwell.errors import InternalError
    from stepwell.ir_files import read_module
    from stepwell.verification import verify_module

    if options.source == "ir":
        name, text = console.read(options.input)
        module = read_module(ctx, name, text, Path(options.resources) if options.resources else None)
    else:
        source = options.input
        if options.source == "ll":
            _, text = console.read(options.input)
            source = text.encode() if options.input == "-" else source
        elif options.input == "-":
            source = sys.stdin.buffer.read()
        module = _entry("FRONTENDS", options.source)(source, ctx, _dims(options.dim))
        try:
            verify_module(module)
        except VerifyException as error:
            raise InternalError(f"reading '{options.source}' made invalid IR: {error}") from error
    return module


def _entry(table: str, name: str):
    from stepwell import registry
    from stepwell.compat import AbsentModuleError, load_entry
    from stepwell.errors import UnsupportedError

    try:
        return load_entry(getattr(registry, table)[name])
    except AbsentModuleError as error:
        what = "reading" if table == "FRONTENDS" else "writing"
        raise UnsupportedError(
            f"{what} the format '{name}' is not built yet: {error}; use another"
        ) from error


def _dims(texts: Sequence[str]) -> dict[str, int]:
    from stepwell.errors import Error

    dims: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value.isdigit():
            raise Error(f"--dim {text}: must be NAME=N with a whole number, such as batch=4")
        dims[name] = int(value)
    return dims


if __name__ == "__main__":
    sys.exit(main())
