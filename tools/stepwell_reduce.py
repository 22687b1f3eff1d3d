"""`stepwell-reduce`: the smallest IR that still breaks a pass, or is still miscompiled by it; arguments only."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stepwell.tools.console import Console, Exit, load_plugin_files, stages_of

if TYPE_CHECKING:
    from stepwell.pipelines import Stage
    from stepwell.predicates import Miscompile

_EXAMPLES = """examples:
  stepwell-reduce in.ir -p tile-and-fuse -o out.ir                       the pass crashes
  stepwell-reduce in.ir --predicate message --message 'no lowering' -p to-tensor -o out.ir
  stepwell-reduce in.ir --predicate miscompile -p fuse-elementwise -o out.ir
  stepwell-reduce in.ir --predicate miscompile --suspect vectorise -p to-loops -o out.ir
  stepwell-reduce in.ir --predicate miscompile --load-pass mine.py -p my-pass -o out.ir
  stepwell-reduce in.ir --predicate script --script ./is_interesting.sh -o out.ir
  stepwell-opt --run-reproducer out.ir                                   replay the result

exit status: 0 done; 1 the input is not interesting, or a flag is wrong; 2 not supported; 3 our fault
"""


def main(
    argv: Sequence[str] | None = None,
    stdin: IO[str] | None = None,
    stdout: IO[str] | None = None,
    stderr: IO[str] | None = None,
) -> int:
    """Run the tool; the return value is the exit status."""
    console = Console("stepwell-reduce", stdin, stdout, stderr)

    def work() -> int:
        options = _parse_arguments(argv, console)
        console.debug = options.debug
        return _reduce(options, console)

    return console.run(work)


def _parse_arguments(argv: Sequence[str] | None, console: Console) -> argparse.Namespace:
    parser = console.parser("Make IR smaller as long as it stays interesting.", _EXAMPLES)
    add = parser.add_argument
    add("input", help="the .ir file; - is standard input")
    add("-h", "--help", action="store_true", help="this text")
    add("--predicate", choices=("crash", "message", "miscompile", "script"), default="crash", metavar="P",
        help="what is interesting: crash (default), message, miscompile or script")  # fmt: skip
    add("-p", "--pipeline", default="", metavar="TEXT", help="the passes, as for stepwell-opt")
    add(
        "--load-pass", action="append", default=[], metavar="FILE", help="take passes from a .py or .pat file"
    )
    add("--message", default="", metavar="REGEX", help="what the error has to say")
    add("--suspect", default="", metavar="PASS", help="of -p, the pass to blame (default: all of -p)")
    add("--through", choices=("ll",), help="also print the result as LLVM IR and read it back")
    add("--script", metavar="FILE", help="a program that exits 0 on an interesting .ir file")
    add("--seed", type=int, default=0, help="seed of the inputs (default 0)")
    add("--time-limit", type=float, default=300.0, metavar="S", help="seconds (default 300)")
    add("-o", "--output", metavar="FILE", help="write the result there instead of to standard output")
    add("--debug", action="store_true", help="show tracebacks")
    if "-h" in (arguments := list(sys.argv[1:] if argv is None else argv)) or "--help" in arguments:
        console.stdout.write(parser.format_help())
        raise Exit(0)
    return parser.parse(argv)  # pyright: ignore[reportAttributeAccessIssue]


def _reduce(options: argparse.Namespace, console: Console) -> int:
    import tempfile

    from stepwell.compat import new_context
    from stepwell.errors import Error
    from stepwell.ir_files import module_text, read_module
    from stepwell.reduction import Reduction, drop_empty_attributes, inline_constants, op_count
    from stepwell.registry import DIALECTS

    load_plugin_files(options.load_pass)
    name, text = console.read(options.input)
    ctx = new_context(DIALECTS)
    module = read_module(ctx, name, text)
    stages = stages_of(console, options)
    with tempfile.TemporaryDirectory(prefix="stepwell-reduce-") as directory:
        predicate, heading = _predicate(options, stages, Path(directory), module, ctx)
        if not predicate(module, ctx):
            raise Error(f"{name}: is not interesting as it is; {_advice(options)}")

        def say(progress: str) -> None:
            console.stderr.write(f"stepwell-reduce: {progress}\n")

        before = op_count(module)
        reduction = Reduction(predicate, ctx, options.time_limit, say)
        small = reduction.reduce(module)
    inline_constants(small, ctx)
    drop_empty_attributes(small)
    result, _ = module_text(small, ctx, Path(options.output) if options.output else None)
    console.write(options.output, heading + result)
    late = ", stopped by the time limit" if reduction.is_late else ""
    console.stderr.write(
        f"stepwell-reduce: {before} ops to {op_count(small)}, {reduction.tried} tried, {reduction.kept} kept{late}\n"
    )
    return 0


def _advice(options: argparse.Namespace) -> str:
    return {
        "crash": f"'-p {options.pipeline}' does not break down on it; is it --predicate miscompile?",
        "message": f"no error of '-p {options.pipeline}' contains '{options.message}'",
        "miscompile": f"'-p {options.pipeline}' does not change its values; try another --seed",
        "script": f"{options.script} does not exit with 0",
    }[options.predicate]


def _predicate(
    options: argparse.Namespace, stages: "list[Stage]", directory: Path, module: Any, ctx: Any
) -> tuple[Any, str]:
    """The predicate, and the lines above the result."""
    from stepwell.errors import Error
    from stepwell.pipelines import print_pipeline
    from stepwell.predicates import Breakdown, Script
    from stepwell.reproducers import reproducer_heading

    kind = options.predicate
    if kind == "script":
        if not options.script:
            raise Error("--predicate script needs --script FILE")
        script = Path(options.script)
        if not script.is_file():
            raise Error(f"{script}: there is no such file; --script takes a program")
        return Script(script, directory), f"// {script.name} finds this interesting\n"
    if not stages and not (kind == "miscompile" and options.through):
        raise Error(f"--predicate {kind} needs the passes: -p 'a,b'")
    if kind == "miscompile":
        return _miscompile(options, stages, module, ctx)
    if kind == "message" and not options.message:
        raise Error("--predicate message needs --message REGEX")
    pattern = options.message if kind == "message" else ""
    return Breakdown(stages, _checked_pattern(pattern)), reproducer_heading(print_pipeline(stages))


def _miscompile(
    options: argparse.Namespace, stages: "list[Stage]", module: Any, ctx: Any
) -> "tuple[Miscompile, str]":
    from stepwell.checking import miscompile_heading
    from stepwell.errors import Error
    from stepwell.predicates import Miscompile

    prefix, suspect = [], stages
    if options.suspect:
        places = [i for i, s in enumerate(stages) if options.suspect in (str(s), s.instance.name)]
        if not places:
            raise Error(f"--suspect {options.suspect}: is not among the passes of -p")
        prefix, suspect = stages[: places[-1]], stages[places[-1] : places[-1] + 1]
    predicate = Miscompile(prefix, suspect, options.through == "ll", options.seed)
    outcome = predicate.outcome(module, ctx)
    if not outcome.is_bad and outcome.message:
        raise Error(f"{options.input}: cannot be compared: {outcome.message}")
    if outcome.is_bad:
        predicate = predicate.looking_for(outcome)
    return predicate, miscompile_heading(predicate)


def _checked_pattern(pattern: str) -> str:
    import re

    from stepwell.errors import Error

    try:
        re.compile(pattern)
    except re.error as error:
        raise Error(f"--message {pattern}: is no regular expression: {error}") from error
    return pattern


def _command() -> None:
    sys.exit(main())


if __name__ == "__main__":
    _command()
