"""What the command line tools share: arguments that raise, files that explain, errors with a place."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass

    from stepwell.compat import StepwellContext
    from stepwell.pipelines import Stage
    from stepwell.reproducers import Reproducers

    Passes = Mapping[str, str | type[ModulePass]]


class Exit(Exception):
    """The tool wants to stop with this status."""

    def __init__(self, status: int):
        self.status = status


class Console:
    """Where one run of a tool reads and writes; never the process's own state."""

    def __init__(
        self,
        tool: str,
        stdin: IO[str] | None = None,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
    ):
        self.tool = tool
        self.stdin, self.stdout, self.stderr = stdin or sys.stdin, stdout or sys.stdout, stderr or sys.stderr
        self.sources: dict[str, str] = {}
        """Text of the files that were read, for source lines in messages."""
        self.debug = False
        self.new_files: list[Path] = []
        """Sidecars that were made for the output; they go if it cannot be written."""

    def parser(self, description: str, epilog: str) -> argparse.ArgumentParser:
        """An argument parser that writes to this console; a wrong argument is status 1."""
        return _Parser(self, description, epilog)

    def read(self, path: str) -> tuple[str, str]:
        """The name to show and the text of the file at `path`; `-` is standard input."""
        from stepwell.errors import Error

        if path == "-":
            self.sources["<stdin>"] = text = self.stdin.read()
            return "<stdin>", text
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise Error(f"{path}: cannot be read: {error.strerror}; give the path of a file") from error
        try:
            self.sources[path] = text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            if path.endswith(".onnx"):
                raise Error(
                    f"{path}: is an ONNX model, {self.tool} reads IR; make it by stepwell-translate {path} -o model.ir, or"
                    f" simplified by stepwell compile {path} --emit graph -o model.ir"
                ) from error
            line = data.count(b"\n", 0, error.start) + 1
            byte = f"{data[error.start]:#04x}"
            raise Error(f"{path}:{line}: byte {byte} is not UTF-8; save it as UTF-8") from error
        return path, text

    def write(self, path: str | None, text: str) -> None:
        """Write `text` to the file at `path`, or to standard output."""
        from pathlib import Path

        from stepwell.errors import Error
        from stepwell.files import write_atomically

        if path is None:
            self.stdout.write(text)
            return
        try:
            write_atomically(Path(path), text.encode("utf-8"))
        except OSError as error:
            for file in self.new_files:
                with contextlib.suppress(OSError, ValueError):
                    file.unlink()
            raise Error(f"{path}: cannot be written: {error.strerror}; give another path") from error

    def run(self, work: Callable[[], int]) -> int:
        """The exit status of a tool that does `work`: what it returns, or what its error means, which is shown."""
        try:
            status = work()
            self.stdout.flush()
            return status
        except Exit as exit:
            return exit.status
        except BrokenPipeError:
            return closed_pipe()
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            return self.report(error)

    def report(self, error: BaseException) -> int:
        """Show `error`; the exit status that it means. That nobody reads the output any more is nothing to show."""
        if isinstance(error, BrokenPipeError):
            raise error
        from xdsl.utils.exceptions import ParseError

        from stepwell.diagnostics import diagnose, exit_code_of

        if isinstance(error, ParseError) and isinstance(error.span.input.content, str):
            self.sources.setdefault(error.span.input.name, error.span.input.content)
        if self.debug:
            import traceback

            traceback.print_exception(error, file=self.stderr)
        self.stderr.write(f"{diagnose(error).render(self.sources)}\n")
        return exit_code_of(error)


def closed_pipe() -> int:
    """
    The exit status where who reads standard output has gone (`stepwell-opt ... | head`): that of a tool which the signal ends.
    What is left to write goes nowhere, so that Python says nothing when it ends.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def load_plugin_files(paths: Sequence[str]) -> None:
    """Adopt the plug-ins of installed packages and those of `--load-pass`."""
    from stepwell.plugins import load_plugin_file, load_plugins

    load_plugins()
    for path in paths:
        load_plugin_file(path)


def stages_of(console: Console, options: argparse.Namespace, passes: "Passes | None" = None) -> "list[Stage]":
    """
    The stages of the pipeline in `options`; `@FILE` is the text of a file, which errors then name, and takes its place
    in the options.
    """
    from stepwell.errors import CompileError
    from stepwell.pipelines import resolve_pipeline
    from stepwell.registry import PASSES

    passes = PASSES if passes is None else passes
    if not options.pipeline.startswith("@"):
        return resolve_pipeline(options.pipeline, passes)
    name, options.pipeline = console.read(options.pipeline[1:])
    try:
        return resolve_pipeline(options.pipeline, passes)
    except CompileError as error:
        raise CompileError(f"{name}:{str(error).removeprefix('pipeline:')}") from error


def module_text_of(
    console: Console, options: argparse.Namespace, ctx: "StepwellContext", module: "ModuleOp"
) -> tuple[str, int]:
    """The text of `module` as the flags ask for it, and how many of its constants have no file."""
    from pathlib import Path

    from stepwell.ir_files import module_text
    from stepwell.resources import sidecar_of

    output = Path(options.output) if options.output else None
    resources = Path(options.resources) if options.resources else None
    sidecar = resources or (sidecar_of(output) if output is not None else None)
    is_new = sidecar is not None and not os.path.exists(sidecar)
    result = module_text(
        module,
        ctx,
        output,
        resources,
        generic=options.mlir_print_op_generic,
        debuginfo=options.print_debuginfo,
        elide_above=getattr(options, "elide_elementsattrs_if_larger", None),
    )
    if sidecar is not None and is_new:
        console.new_files.append(sidecar)
    return result


def warn_of_unwritten(console: Console, unwritten: int) -> None:
    """Say that a text on standard output refers to values that no file holds."""
    if unwritten:
        console.stderr.write(
            f"{console.tool}: warning: the values of {unwritten} new constants are not written;"
            " use --resources FILE or -o FILE\n"
        )


_ALONE = {
    "--remarks": "all",
    "--timing": "tree",
    "--mlir-timing": "tree",
    "--verify-each": "true",
}
"""Flags that may stand without their value, and what it is then."""
_REMARKS = re.compile("(missed|applied|all)(:json)?")


def spelled_out(argv: Sequence[str] | None, parser: argparse.ArgumentParser | None = None) -> list[str]:
    """
    The arguments, with a flag whose value may be left out spelled out (`--remarks` as `--remarks=all`): argparse would
    take the next word for its value, which only the kinds of remarks are here (`--remarks missed`). Long flags of `parser` may have one dash, as those of LLVM's tools; without a
    `parser` only `--remarks` takes a value.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    known = {flag for action in parser._actions for flag in action.option_strings} if parser else set()
    words: list[str] = []
    for before, word in zip(("", *given), given, strict=False):
        if before == "--remarks" and _REMARKS.fullmatch(word):
            words[-1] = f"--remarks={word}"
            continue
        name = word.split("=")[0]
        if len(name) > 2 and name[0] == "-" != name[1] and f"-{name}" in known:
            word = f"-{word}"
        takes_value = word in _ALONE and (parser is not None or word == "--remarks")
        words.append(f"{word}={_ALONE[word]}" if takes_value else word)
    return words


def add_reproducer_arguments(parser: argparse.ArgumentParser) -> None:
    """Where what a failed pass was given goes."""
    parser.add_argument(
        "--crash-reproducer",
        "--mlir-pass-pipeline-crash-reproducer",
        metavar="FILE",
        help="where the reproducer of a pass that fails goes (default: $STEPWELL_CRASH_REPRODUCER, else"
        " reproducer.ir in the cache; of our own faults a new temporary file)",
    )
    parser.add_argument("--no-crash-reproducer", action="store_true", help="write no reproducer")


def reproducers_of(options: argparse.Namespace) -> "Reproducers":
    """What the flags say of reproducers; of a command without them, faults of ours only."""
    from pathlib import Path

    from stepwell.reproducers import Reproducers

    file = getattr(options, "crash_reproducer", None)
    return Reproducers(
        Path(file) if file else None,
        refusals=hasattr(options, "crash_reproducer"),
        off=getattr(options, "no_crash_reproducer", False),
    )


@contextlib.contextmanager
def remarks_to(stream: IO[str], wanted: str | None) -> Iterator[None]:
    """Write the remarks that `--remarks` asks for to `stream` when the passes are done, or have failed."""
    if wanted is None:
        yield
        return
    from stepwell.remarks import Choice, collected

    choice = Choice.of(wanted)
    with collected() as remarks:
        try:
            yield
        finally:
            stream.write(choice.text(remarks))


class _Parser(argparse.ArgumentParser):
    def __init__(self, console: Console, description: str, epilog: str):
        super().__init__(
            prog=console.tool,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.console = console

    def error(self, message: str) -> Any:
        self.console.stderr.write(f"{self.prog}: error: {message}; see {self.prog} --help\n")
        raise Exit(1)

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        return self.parse_args(list(sys.argv[1:] if argv is None else argv))
