"""`stepwell check`: which pass broke a model; arguments and output only."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stepwell.errors import InternalError

if TYPE_CHECKING:
    from stepwell.checking import Report

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
        progress=progress,
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


def _show(report: "Report", out: TextIO) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(file=out, highlight=False, soft_wrap=True)
    for stage in report.stages:
        style = _STYLES.get(stage.status, "")
        worst = f"{stage.ratio:9.3g} of the tolerance" if stage.status in ("agrees", "differs") else ""
        console.print(
            f"{stage.name:12} [{style}]{stage.status:10}[/{style}]{worst:28} {stage.seconds:6.1f} s"
        )
        if stage.status != "agrees" and stage.detail:
            console.print(f"             {escape(stage.detail)}")
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    if (found := report.finding) is None:
        console.print(
            "[green]all stages agree[/green]" if report.agrees else "[bold red]stages differ[/bold red]"
        )
        return
    console.print(f"\n[bold red]broken by {escape(found.pass_name)}[/bold red] (stage {found.stage})")
    for title, text in (
        ("value", found.difference),
        ("rewrite", f"{found.rewrite} (rewrite {found.rewrite_number} of the pass)" if found.rewrite else ""),
        ("kernel", f"@{found.kernel}" if found.kernel else ""),
        ("layer", found.layer),
        ("pipeline", found.pipeline),
        ("reproducer", f"{found.reproducer} ({found.reproducer_ops} ops)" if found.reproducer else ""),
        ("replay", f"stepwell-opt --run-reproducer {found.reproducer}" if found.reproducer else ""),
    ):
        if text:
            console.print(f"  {title + ':':12}{escape(text)}")
