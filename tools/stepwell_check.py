"""`stepwell check`: which pass broke a model; arguments and output only."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stepwell.errors import InternalError

if TYPE_CHECKING:
    from stepwell.checking import Report, StageResult

EXAMPLES = """examples:
  stepwell check model.onnx                        every level, on random inputs
  stepwell check model.onnx --input x=photo.npy -O2
  stepwell check kernels.ir --last memref          an .ir file, down to the memref level
  stepwell check model.onnx --json --reproducer bad.ir

exit status: 0 all agree; 1 the input or a flag is wrong; 2 not supported; 3 values differ: a pass is at fault
"""
_STYLES = {
    "agrees": "green",
    "reference": "blue",
    "differs": "bold red",
    "fails": "bold red",
    "skipped": "yellow",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of the command besides those of all compilations."""
    add = command.add_argument
    add("model", help="an .onnx file or an .ir file")
    add("--input", action="append", default=[], metavar="NAME=FILE.npy", help="an input; may be repeated")
    add("--random", action="store_true", help="make up the inputs that are not given (the default)")
    add("--seed", type=int, default=0, help="seed of the random inputs (default 0)")
    add("--last", default="so", metavar="STAGE", help="stop behind: graph ... llvm, ll, so (default so)")
    add(
        "--time-limit",
        type=float,
        default=5.0,
        metavar="S",
        help="processor seconds for the interpreter of a stage; one that needs more is run on samples (default 5)",
    )
    add("--samples", action="store_true", help="run the levels below the kernels on samples: quicker")
    add("--thorough", action="store_true", help="let the interpreters run as long as they need")
    add("--no-onnxruntime", action="store_true", help="do not compare with ONNX Runtime")
    add(
        "--reduce",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds for a reproducer; 0: none (default 60)",
    )
    add("--reproducer", metavar="FILE.ir", help="where the reproducer goes (default: a temporary file)")
    add("--json", action="store_true", help="as JSON")


def run(
    arguments: argparse.Namespace,
    options: Any,
    feeds: dict[str, Any],
    progress: Callable[[str, str], None],
    out: TextIO,
) -> int:
    """Check the model; 3 if a pass is at fault."""
    from stepwell.checking import STAGES, Check
    from stepwell.errors import CompileError

    if not arguments.time_limit > 0:
        raise CompileError(f"--time-limit {arguments.time_limit:g}: must be above 0")
    if arguments.last not in STAGES[1:]:
        raise CompileError(f"--last {arguments.last}: no such stage; use one of {', '.join(STAGES[1:])}")
    check = Check(
        options,
        seed=arguments.seed,
        feeds=feeds,
        thorough=arguments.thorough,
        reduce_s=arguments.reduce,
        reproducer=Path(arguments.reproducer) if arguments.reproducer else None,
        with_onnxruntime=not arguments.no_onnxruntime,
        last=arguments.last,
        stage_s=arguments.time_limit,
        samples=arguments.samples,
        progress=progress,
        on_stage=(lambda stage: None) if arguments.json else (lambda stage: _show_stage(stage, out)),
    )
    report = check.run(arguments.model)
    if arguments.json:
        print(json.dumps(_plain(report), indent=2), file=out)
    else:
        _show(report, out)
    return 0 if report.agrees else InternalError.exit_code


def _plain(report: "Report") -> dict[str, Any]:
    from dataclasses import asdict
    from math import isfinite

    stages = [asdict(stage) for stage in report.stages]
    for stage in stages:
        stage["ratio"] = stage["ratio"] if isfinite(stage["ratio"]) else "inf"
    finding = asdict(report.finding) if report.finding else None
    return {"agrees": report.agrees, "stages": stages, "finding": finding, "notes": report.notes}


def _show_stage(stage: "StageResult", out: TextIO) -> None:
    """A line when the stage is done, and what there is to say of it."""
    console = _console(out)
    style = _STYLES.get(stage.status, "")
    worst = f"{stage.ratio:9.3g} of the tolerance" if stage.status in ("agrees", "differs") else ""
    console.print(f"{stage.name:12} [{style}]{stage.status:10}[/{style}]{worst:28} {stage.seconds:6.1f} s")
    for text in ("" if stage.status == "agrees" else stage.detail, stage.sample):
        if text:
            console.print(f"             {_escaped(text)}")
    out.flush()


def _console(out: TextIO) -> Any:
    from rich.console import Console

    return Console(file=out, highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _show(report: "Report", out: TextIO) -> None:
    console = _console(out)
    for note in report.notes:
        console.print(f"note: {_escaped(note)}")
    if (found := report.finding) is None:
        console.print(
            "[green]all stages agree[/green]" if report.agrees else "[bold red]stages differ[/bold red]"
        )
        return
    console.print(f"\n[bold red]broken by {_escaped(found.pass_name)}[/bold red] (stage {found.stage})")
    for title, text in (
        ("value", found.difference),
        ("rewrite", f"{found.rewrite} (rewrite {found.rewrite_number} of the pass)" if found.rewrite else ""),
        ("kernel", f"@{found.kernel}" if found.kernel else ""),
        ("layer", found.layer),
        ("pipeline", found.pipeline),
        ("reproducer", f"{found.reproducer} ({found.reproducer_ops} ops)" if found.reproducer else ""),
        ("replay", found.replay),
    ):
        if text:
            console.print(f"  {title + ':':12}{_escaped(text)}")
