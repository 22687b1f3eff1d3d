"""`stepwell-opt`: read IR, apply passes, print IR."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from stepwell import __version__
from stepwell.tools import pass_reports
from stepwell.tools import rewrite_debugging as debugging
from stepwell.tools.console import (
    Console,
    Exit,
    add_reproducer_arguments,
    load_plugin_files,
    module_text_of,
    reproducers_of,
    spelled_out,
    stages_of,
    warn_of_unwritten,
)

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.passes import ModulePass

    from stepwell.compat import StepwellContext
    from stepwell.pipelines import Stage

_EXAMPLES = """examples:
  stepwell-opt model.ir -p canonicalize,cse            apply two passes
  stepwell-opt model.ir --canonicalize --cse           the same, as mlir-opt takes it
  stepwell-opt model.ir -p 'set-target{threads=2},cpu-O3' -o out.ir
  stepwell-opt model.ir -p tile-and-fuse --print-ir-after-change
  stepwell-opt model.ir -p canonicalize --bisect-rewrites   the first rewrite that is wrong
  stepwell-opt --run-reproducer crash.ir               replay what stepwell wrote
  stepwell-opt --help tile-and-fuse                    what a pass does, and its options
  stepwell-opt --help graph.sigmoid                    what an op takes and gives
  stepwell-opt --list-passes
  stepwell-opt model.ir --load-pass rules.pat -p rules   apply the rewrite rules of a file
  stepwell-opt --check-rules rules.pat                 test them on random programs

exit status: 0 done; 1 the input or a flag is wrong; 2 the input is not supported; 3 our fault
"""
_SPLIT = "// -----"
_NEEDLESS = {
    "--mlir-disable-threading": "passes run one after the other",
    "--mlir-print-local-scope": "attributes are printed where they stand",
}
"""Flags of mlir-opt that ask for what is always so."""


def main(
    argv: Sequence[str] | None = None,
    stdin: IO[str] | None = None,
    stdout: IO[str] | None = None,
    stderr: IO[str] | None = None,
) -> int:
    """Run the tool; the return value is the exit status."""
    console = Console("stepwell-opt", stdin, stdout, stderr)
    return console.run(lambda: _Run(_parse_arguments(argv, console), console).run())


def _parse_arguments(argv: Sequence[str] | None, console: Console) -> argparse.Namespace:
    parser = console.parser("Read IR, apply passes, print IR.", _EXAMPLES)
    add = parser.add_argument
    add("input", nargs="?", default="-", help="the .ir file; - is standard input (default)")
    add("-h", "--help", nargs="?", const="", metavar="NAME", help="this text, or that of a pass or an op")
    add(
        "-p",
        "--pipeline",
        "--pass-pipeline",
        default="",
        metavar="TEXT",
        help="passes to apply: 'a,b{x=1},func.func(c)', or @FILE that holds them",
    )
    add("-o", "--output", metavar="FILE", help="write the IR there instead of to standard output")
    add("--version", action="store_true", help="print the version")
    add("--list-passes", action="store_true", help="list all passes with a line on each")
    add("--show-dialects", action="store_true", help="list the dialects")
    add("--print-pipeline", action="store_true", help="print the pipeline in full and stop")
    add(
        "--dump-pass-pipeline", action="store_true", help="print the pipeline in full to standard error first"
    )
    add(
        "--load-pass", action="append", default=[], metavar="FILE", help="take passes from a .py or .pat file"
    )
    add(
        "--check-rules", action="append", default=[], metavar="FILE.pat", help="test rules on random programs"
    )
    add("--resources", metavar="FILE", help="read values from, and write new ones to, this sidecar file")
    add("--allow-unregistered-dialect", action="store_true", help="accept ops of unknown dialects")
    add("--no-verify-each", action="store_true", help="verify only the input and the result")
    add(
        "--verify-each",
        choices=("true", "false"),
        default="true",
        metavar="true|false",
        help="verify after every pass (true)",
    )
    add(
        "--verify-roundtrip",
        action="store_true",
        help="check that the text of the input reads back to the same",
    )
    add("--split-input-file", action="store_true", help=f"treat parts between '{_SPLIT}' separately")
    add("--verify-diagnostics", action="store_true", help="compare errors with expected-error comments")
    pass_reports.add_arguments(parser)
    add(
        "--print-op-generic",
        "--mlir-print-op-generic",
        dest="mlir_print_op_generic",
        action="store_true",
        help="print every op in generic form",
    )
    add("--print-debuginfo", "--mlir-print-debuginfo", action="store_true", help="print locations")
    add(
        "--statistics",
        "--mlir-pass-statistics",
        action="store_true",
        help="print ops and rewrites of every pass",
    )
    add(
        "--rewrite-limit",
        type=int,
        metavar="N",
        help="stop rewriting after N rewrites in all passes together",
    )
    add("--bisect-rewrites", action="store_true", help="name the first rewrite that breaks or changes values")
    add("--seed", type=int, default=0, help="seed of the inputs of --bisect-rewrites (default 0)")
    add("--expensive-checks", action="store_true", help="verify and fingerprint the IR after every pattern")
    add("--run-reproducer", action="store_true", help="apply the passes that the head of the file names")
    add_reproducer_arguments(parser)
    for flag, why in _NEEDLESS.items():
        add(flag, action="store_true", help=f"accepted: {why}")
    add("--remarks", metavar="missed|applied|all[:json]", help="say what passes did and could not do (all)")
    add("--debug", action="store_true", help="show tracebacks")
    flags = [flag for action in parser._actions for flag in action.option_strings]
    words, passes = _passes_apart(spelled_out(argv, parser), flags)
    options = parser.parse(words)  # pyright: ignore[reportAttributeAccessIssue]
    options.passes, options.flags = passes, flags
    if options.help is not None and not options.help:
        console.stdout.write(parser.format_help())
        raise Exit(0)
    if options.version:
        console.stdout.write(f"stepwell-opt {__version__}\n")
        raise Exit(0)
    return options


def _passes_apart(words: list[str], flags: list[str]) -> tuple[list[str], list[str]]:
    """The words that are not, and those that look like, passes given as flags: `--canonicalize`, `-cse`."""
    from stepwell.registry import PASSES

    ours, passes = [], []
    for word in words:
        match = re.match(r"--?([A-Za-z][\w.-]*)", word)
        is_flag = match is None or match[0] in flags
        # `-pcse` is -p with its value.
        is_attached = match is not None and word[:2] in flags and match[1] not in PASSES
        (ours if is_flag or is_attached else passes).append(word)
    return ours, passes


class _Run:
    """One run of the tool."""

    def __init__(self, options: argparse.Namespace, console: Console):
        self.options, self.console = options, console
        self.stdout, self.stderr = console.stdout, console.stderr
        console.debug = options.debug
        self.passes: dict[str, str | type[ModulePass]] = {}
        self.printing, self.timing = pass_reports.IRPrinting(options, console), pass_reports.Timing()
        self.running: ModulePass | None = None
        self.failed = self.has_left_one = False
        self.statistics = debugging.Statistics() if options.statistics else None

    def run(self) -> int:
        from stepwell.pipelines import print_pipeline

        try:
            self.passes = self._load_passes()
            if self.options.show_dialects:
                return self._show_dialects()
            if self.options.list_passes:
                return self._list_passes()
            if self.options.check_rules:
                return self._check_rules()
            if self.options.help is not None:
                return self._explain_pass(self.options.help)
            if self.options.run_reproducer:
                return self._run_reproducer()
            self._take_passes_given_as_flags()
            self.printing.check_names(self.passes)
            stages = stages_of(self.console, self.options, self.passes)
            if self.options.print_pipeline:
                self.stdout.write(f"{print_pipeline(stages)}\n")
                return 0
            if self.options.dump_pass_pipeline:
                self.stderr.write(f"Pass Manager with {len(stages)} passes:\n{print_pipeline(stages)}\n\n")
            name, text = self.console.read(self.options.input)
            if self.options.bisect_rewrites:
                return debugging.bisect(self.console, self.options, name, text, stages)
        except Exception as error:
            return self._report(error)
        chunks = [text]
        if self.options.split_input_file:
            chunks, line = [], 0
            for chunk in text.split(_SPLIT):
                chunks.append("\n" * line + chunk)  # so that lines are counted as in the file
                line += chunk.count("\n")
        outputs: list[str] = []
        status = 0
        for chunk in chunks:
            status = max(status, self._process(name, chunk, stages, outputs))
        if status == 0 and not self.options.verify_diagnostics:
            try:
                self.console.write(self.options.output, f"{_SPLIT}\n".join(outputs))
            except Exception as error:
                return self._report(error)
        if (layout := pass_reports.timing_layout(self.options)) is not None:
            self.timing.show(layout, self.stderr)
        if self.statistics is not None:
            self.statistics.show(self.stderr)
        return status

    def _take_passes_given_as_flags(self) -> None:
        """`--canonicalize --tile{rows=4}`, in their order, are the pipeline if `-p` gives none."""
        from stepwell.errors import Error
        from stepwell.pipeline_text import did_you_mean
        from stepwell.pipelines import PIPELINES

        known, texts = {*self.passes, *PIPELINES}, []
        for word in self.options.passes:
            name, _, options = word.lstrip("-").partition("=")
            if not word.startswith("-"):
                raise Error(
                    f"unexpected argument {word}: one file is read at a time; see stepwell-opt --help"
                )
            if name not in known:
                flags = {flag.lstrip("-") for flag in self.options.flags}
                hint = did_you_mean(name, {*known, *flags})
                raise Error(f"{word}: there is no such flag or pass{hint}; see stepwell-opt --help")
            texts.append(f"{name}{{{options}}}" if options else name)
        if texts and self.options.pipeline:
            raise Error(
                f"passes are given with -p or as flags, not both: write -p '{self.options.pipeline},{','.join(texts)}'"
            )
        self.options.pipeline = self.options.pipeline or ",".join(texts)

    def _show_dialects(self) -> int:
        from stepwell.registry import DIALECTS

        self.stdout.write(f"Available Dialects: {', '.join(sorted(DIALECTS))}\n")
        return 0

    def _check_roundtrip(self, module: "ModuleOp") -> None:
        """The text of `module`, pretty and generic, reads back to what it prints."""
        from stepwell.compat import new_context, parse_module, print_module
        from stepwell.errors import InternalError
        from stepwell.registry import DIALECTS

        ctx = new_context(DIALECTS, self.options.allow_unregistered_dialect)
        for generic in (False, True):
            if not module.is_structurally_equivalent(
                parse_module(ctx, print_module(module, generic=generic))
            ):
                raise InternalError(
                    f"the {'generic' if generic else 'pretty'} text of the module reads back to another one"
                )

    def _run_reproducer(self) -> int:
        """Replay a file that stepwell-reduce, stepwell check or a failed pass has left."""
        from stepwell.pipelines import resolve_pipeline

        name, text = self.console.read(self.options.input)
        found = debugging.reproducer_in(name, text)
        found.require_plugins(self.options.load_pass)
        found.set_flags(self.options)
        self.options.pipeline = found.pipeline
        if found.before is not None:
            return debugging.replay_miscompile(self.console, name, text, found, self.passes)
        outputs: list[str] = []
        status = self._process(name, text, resolve_pipeline(found.pipeline, self.passes), outputs)
        if status == 0:
            self.console.write(self.options.output, "".join(outputs))
        return status

    def _process(self, name: str, text: str, stages: "list[Stage]", outputs: list[str]) -> int:
        from time import perf_counter

        from stepwell.compat import new_context
        from stepwell.registry import DIALECTS

        ctx = new_context(DIALECTS, self.options.allow_unregistered_dialect)
        errors: list[BaseException] = []
        module: ModuleOp | None = None
        try:
            begin = perf_counter()
            self.failed = False
            module = self._parse(ctx, name, text)
            self.timing.parse_s += perf_counter() - begin
            if self.options.verify_roundtrip:
                self._check_roundtrip(module)
            self._transform(ctx, module, stages)
            begin = perf_counter()
            outputs.append(self._text(ctx, module))
            self.timing.output_s += perf_counter() - begin
        except Exception as error:
            errors.append(error)
        if self.options.verify_diagnostics:
            return self._compare_diagnostics(name, text, errors)
        return self._report(errors[0], text) if errors else 0

    def _parse(self, ctx: "StepwellContext", name: str, text: str) -> "ModuleOp":
        from pathlib import Path

        from stepwell.ir_files import read_module

        resources = self.options.resources
        return read_module(ctx, name, text, Path(resources) if resources else None)

    def _text(self, ctx: "StepwellContext", module: "ModuleOp") -> str:
        """New constants go to --resources, else beside the output: `out.ir` to `out.safetensors`."""
        text, unwritten = module_text_of(self.console, self.options, ctx, module)
        warn_of_unwritten(self.console, unwritten)
        return text

    def _transform(self, ctx: "StepwellContext", module: "ModuleOp", stages: "list[Stage]") -> None:
        from stepwell.errors import InternalError
        from stepwell.pipelines import run_pipeline
        from stepwell.rewriting import logged_rewrites
        from stepwell.tools.console import remarks_to

        options, timing, printing = self.options, self.timing, self.printing
        running: list[Stage] = []

        def before(stage: "Stage", module: "ModuleOp") -> None:
            timing.verified()
            self.running = stage.instance
            printing.before(stage, module)
            if self.statistics is not None:
                self.statistics.before(str(stage), module, log)
            timing.before()
            running[:] = [stage]

        def after(stage: "Stage", module: "ModuleOp") -> None:
            timing.after(stage)
            running.clear()
            if self.statistics is not None:
                self.statistics.after(module, log)
            printing.after(stage, module)
            timing.resumed()

        checks = debugging.ExpensiveChecks(module) if options.expensive_checks else None
        remarks = remarks_to(self.stderr, options.remarks)
        with remarks, logged_rewrites(options.rewrite_limit, *(checks.hooks() if checks else ())) as log:
            verify_each = options.verify_each == "true" and not options.no_verify_each
            try:
                run_pipeline(ctx, module, stages, before=before, after=after, verify_each=verify_each)
            except Exception as error:
                self.failed = bool(running) or isinstance(error, InternalError)
                for stage in running:
                    printing.failed(stage, module)
                raise
            timing.verified()

    # What is wrong

    def _report(self, error: BaseException, text: str | None = None) -> int:
        """Show `error`, and how to replay it if it is of a pass on `text`; its exit status."""
        code = self.console.report(error)
        if text is None:
            return code
        notes = [f"a fault of {self._owner(error)}", "--debug shows where"] if code == 3 else []
        if (replay := self._reproducer(error, code, text)) is not None:
            notes.append(f"reproducer: {replay}")
        if notes:
            self.stderr.write(f"note: {'; '.join(notes)}\n")
        return code

    def _owner(self, error: BaseException) -> str:
        """Whose pass ran last: the file of `--load-pass`, with the line that it got to, or stepwell."""
        import traceback

        module = sys.modules.get(type(self.running).__module__)
        file = getattr(module, "__file__", None)
        mine = [path for path in self.options.load_pass if os.path.realpath(path) == file]
        if not mine:
            return "stepwell"
        frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        return f"{mine[0]}:{lines[-1]}" if lines else mine[0]

    def _reproducer(self, error: BaseException, code: int, text: str) -> str | None:
        """
        How to replay `error`, which a pass has raised on the program `text`. None if it is none of a pass (then the
        input shows it), if none is wanted, or if this run has left one: of a replay, or of a part before.
        """
        from stepwell.pipelines import print_pipeline, resolve_pipeline
        from stepwell.reproducers import leave_reproducer, reproducer_heading, why_none

        wanted = reproducers_of(self.options)
        is_replay = self.options.run_reproducer and wanted.asked is None
        if not self.failed or self.has_left_one or is_replay or not wanted.wants(error, code):
            return None
        if self.options.run_reproducer:
            text = text.removeprefix(text.partition("\n")[0])  # the old heading
        pipeline = self.options.pipeline
        if set(pipeline) & set("'\n"):  # its heading is one line, in quotes
            pipeline = print_pipeline(resolve_pipeline(pipeline, self.passes))
        content = reproducer_heading(pipeline, debugging.replayed_flags(self.options)) + text.lstrip("\n")
        self.has_left_one = True
        try:
            return leave_reproducer(content, *self._with_constants(text), wanted, code)
        except Exception as trouble:  # the failure itself is what the user has to see
            return why_none(trouble)

    def _with_constants(self, text: str) -> "tuple[ModuleOp | None, StepwellContext]":
        """The module of `text` once more if it has values that are not in the text, and the context that holds them."""
        from stepwell.compat import new_context
        from stepwell.registry import DIALECTS

        ctx = new_context(DIALECTS, self.options.allow_unregistered_dialect)
        return self._parse(ctx, self.options.input, text) if "dense_resource<" in text else None, ctx

    def _compare_diagnostics(self, name: str, text: str, errors: list[BaseException]) -> int:
        """0 if the errors are those that `// expected-error@+1 {{text}}` comments announce."""
        from stepwell.diagnostics import diagnose

        expected: list[tuple[int, str]] = []
        for number, line in enumerate(text.split("\n"), 1):
            for match in re.finditer(r"expected-error\s*(?:@([+-]\d+|above|below))?\s*\{\{(.*?)\}\}", line):
                offset = {"above": "-1", "below": "+1", None: "0"}.get(match[1], match[1])
                expected.append((number + int(offset or 0), match[2]))
        status = 0
        for error in errors:
            found = diagnose(error)
            line = found.place.line if found.place is not None else 0
            for entry in expected:
                if entry[1] in f"{found.where}: {found.message}" and (not line or entry[0] == line):
                    expected.remove(entry)
                    break
            else:
                self.stderr.write(f"{name}: unexpected error\n")
                self._report(error)
                status = 1
        for line, message in expected:
            self.stderr.write(f"{name}:{line}: error: expected error not produced: {message}\n")
            status = 1
        return status

    # What there is

    def _load_passes(self) -> "dict[str, str | type[ModulePass]]":
        """The passes of this compiler, of its plug-ins, and of the files of `--load-pass`."""
        from stepwell.registry import PASSES

        load_plugin_files(self.options.load_pass)
        return dict(PASSES)

    def _check_rules(self) -> int:
        """Test each rule of the files of `--check-rules` on random programs made from its declaration."""
        from pathlib import Path

        from stepwell.compat import new_context
        from stepwell.registry import DIALECTS
        from stepwell.transforms.rules.checking import checks_of

        for path in self.options.check_rules:
            for check in checks_of(Path(path), new_context(DIALECTS)):
                check.run()
                self.stdout.write(f"{check}: true of {check.fired} random programs\n")
        return 0

    def _list_passes(self) -> int:
        from stepwell.pipelines import PIPELINES

        lines: list[str] = []
        for name, entry in sorted(self.passes.items()):
            cls = _load_or_none(entry)
            summary = "(not built yet)" if cls is None else _summary(cls)
            lines.append(f"{name:24} {summary}\n")
        lines += (f"{name:24} = {' '.join(text.split())}\n" for name, text in sorted(PIPELINES.items()))
        self.stdout.write("".join(lines))
        return 0

    def _explain_pass(self, name: str) -> int:
        from inspect import getdoc

        from stepwell.errors import Error
        from stepwell.pipeline_text import did_you_mean
        from stepwell.pipelines import PIPELINES, option_docs, print_pipeline, resolve_pipeline

        if "." in name:
            return self._explain_op(name)
        if name in PIPELINES:
            stages = resolve_pipeline(name, self.passes)
            self.stdout.write(f"{name}\n\nA pipeline of {len(stages)} passes.\n\n{print_pipeline(stages)}\n")
            return 0
        if name not in self.passes:
            hint = did_you_mean(name, [*self.passes, *PIPELINES])
            raise Error(f"unknown pass '{name}'{hint or '; see --list-passes'}")
        entry = self.passes[name]
        cls = _load_or_none(entry)
        if cls is None:
            raise Error(f"pass '{name}' is not built yet: {entry}")
        lines = [name, "", getdoc(cls) or ""]
        if documents := option_docs(cls):
            lines += ["", "options:"]
        for option, kind, default, document in documents:
            lines.append(f"  {option}={kind} (default {default})")
            if document:
                lines.append(f"      {document}")
        self.stdout.write("\n".join((*lines, "")))
        return 0

    def _explain_op(self, name: str) -> int:
        from stepwell.compat import new_context
        from stepwell.errors import Error
        from stepwell.language_server.knowledge import Knowledge
        from stepwell.pipeline_text import did_you_mean
        from stepwell.registry import DIALECTS

        knowledge = Knowledge(new_context(DIALECTS))
        cls, text = knowledge.operation(name), knowledge.describe_operation(name)
        if cls is None or text is None:
            dialect = name.partition(".")[0]
            ops = sorted(knowledge.operations(dialect))
            what = f"the ops of {dialect} are {', '.join(ops)}"
            if not ops:
                what = f"the dialects are {', '.join(knowledge.dialects())}"
            near = "" if name.endswith(".") else did_you_mean(name, ops)
            raise Error(f"unknown operation '{name}'{near or f'; {what}'}")
        self.stdout.write(
            f"{text.replace(f'**{name}**', name, 1)}\n\nin Python: {cls.__module__}.{cls.__qualname__}\n"
        )
        return 0


def _load_or_none(entry: "str | type[ModulePass]") -> "type[ModulePass] | None":
    from stepwell.compat import AbsentModuleError, load_entry

    try:
        return load_entry(entry) if isinstance(entry, str) else entry
    except AbsentModuleError:
        return None


def _summary(cls: "type[ModulePass]") -> str:
    from inspect import getdoc

    return " ".join((getdoc(cls) or "").split("\n\n")[0].split()).split(". ")[0]


def _command() -> None:
    sys.exit(main())


if __name__ == "__main__":
    _command()
