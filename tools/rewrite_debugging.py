"""What stepwell-opt does for who debugs rewrites: statistics, expensive checks, bisection, reproducers."""

import argparse
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from shlex import quote, split
from typing import IO, TYPE_CHECKING, Any

from stepwell.tools.console import Console

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp
    from xdsl.ir import Operation

    from stepwell.pipelines import Stage
    from stepwell.rewriting import Rewrite, RewriteLog


@dataclass
class Statistics:
    """Ops before and after each pass, and how often each of its rules was applied."""

    passes: list[tuple[str, int, int, Counter[str]]] = field(default_factory=list)
    _open: tuple[str, int, int] = ("", 0, 0)

    def before(self, name: str, module: "ModuleOp", log: "RewriteLog") -> None:
        self._open = (name, sum(1 for _ in module.walk()), len(log.done))

    def after(self, module: "ModuleOp", log: "RewriteLog") -> None:
        name, ops, done = self._open
        rules = Counter(rewrite.rule for rewrite in log.done[done:])
        self.passes.append((name, ops, sum(1 for _ in module.walk()), rules))

    def show(self, stream: IO[str]) -> None:
        for name, before, after, rules in self.passes:
            stream.write(f"{before:8} -> {after:6} ops {rules.total():6} rewrites  {name}\n")
            for rule, count in rules.most_common():
                stream.write(f"{'':22}{count:6}            {rule}\n")


class ExpensiveChecks:
    """
    After every rewrite the IR verifies and is not what it was; a pattern that does not match leaves it alone.
    """

    def __init__(self, module: "ModuleOp"):
        self.module = module
        self.fingerprint = 0

    def hooks(self) -> tuple[Any, ...]:
        """What `logged_rewrites` calls."""
        return self.after_rewrite, self.after_no_match, self.begin

    def begin(self) -> None:
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> int:
        from stepwell.compat import print_module

        return hash(print_module(self.module, generic=True))

    def after_rewrite(self, rewrite: "Rewrite") -> None:
        from xdsl.utils.exceptions import VerifyException

        from stepwell.errors import InternalError
        from stepwell.transforms.graph.emitter import functions_of, update_function_type
        from stepwell.verification import verify_module

        for function in functions_of(self.module):  # passes over the graph do it when they end
            update_function_type(function)
        try:
            verify_module(self.module)
        except VerifyException as error:
            raise InternalError(f"the IR is invalid after the rewrite {rewrite}: {error}") from error
        self.fingerprint = self._fingerprint()

    def after_no_match(self, rule: str, op: "Operation") -> None:
        from stepwell.errors import InternalError

        if (now := self._fingerprint()) != self.fingerprint:
            self.fingerprint = now
            raise InternalError(f"{rule} changed the IR at {op.name} but says that it did not match")


def bisect(console: Console, options: argparse.Namespace, name: str, text: str, stages: "list[Stage]") -> int:
    """
    Name the first rewrite with which the passes break down, leave invalid IR, or change what the module computes
    on random inputs; 3 if there is one.
    """
    from pathlib import Path

    from stepwell.checking import bisect_rewrites
    from stepwell.compat import new_context
    from stepwell.ir_files import read_module
    from stepwell.registry import DIALECTS
    from stepwell.rewriting import logged_rewrites

    resources = Path(options.resources) if options.resources else None
    ctx = new_context(DIALECTS, options.allow_unregistered_dialect)
    module = read_module(ctx, name, text, resources)
    referee = _Referee(ctx, module, stages, options.seed)
    with logged_rewrites() as log:
        problem = referee.problem(None)
    if not problem:
        console.stderr.write(f"{name}: all {len(log.done)} rewrites are right: no error, equal values\n")
        return 0
    if not log.done or referee.problem(0):
        console.stderr.write(f"{name}: error: wrong without any rewrite: {problem}; use stepwell check\n")
        return 3
    number = bisect_rewrites(len(log.done), lambda limit: bool(referee.problem(limit)))
    if number is None:
        console.stderr.write(f"{name}: error: {problem}, but not when rewrites are counted\n")
        return 3
    from stepwell.diagnostics import source_names

    wrong = log.done[number - 1]
    where = ", ".join(source_names(wrong.location))
    place = f" ({where})" if where else ""
    console.stderr.write(
        f"{name}: error: rewrite {number} of {len(log.done)} is wrong: {wrong}{place} in pass"
        f" {referee.pass_of(number)}: {referee.problem(number)}\n"
    )
    return 3


class _Referee:
    """What is wrong with the passes under a limit of rewrites."""

    def __init__(self, ctx: Any, module: "ModuleOp", stages: "list[Stage]", seed: int):
        self.ctx, self.module, self.stages = ctx, module, stages
        self.boundaries: list[tuple[int, str]] = []
        from stepwell.errors import CompileError
        from stepwell.execution import interface_of, run_module
        from stepwell.predicates import FAILURES, exact_values

        self.want: Any = None
        try:
            self.interface = interface_of(module)
            self.inputs = self.interface.random(seed)
            self.want = run_module(module, ctx, self.inputs)
            self.exact = exact_values(module, ctx, self.inputs)
        except (*FAILURES, NotImplementedError, CompileError):
            pass  # then only errors are looked for

    def problem(self, limit: int | None) -> str:
        """What is wrong with at most `limit` rewrites; "" if nothing is."""
        from xdsl.utils.exceptions import PassFailedException

        from stepwell.diagnostics import one_line
        from stepwell.errors import InternalError
        from stepwell.execution import interface_of
        from stepwell.pipelines import run_pipeline
        from stepwell.predicates import outcome_of_run
        from stepwell.rewriting import logged_rewrites

        module, ctx = self.module.clone(), self.ctx.clone()
        ctx.resources = self.ctx.resources.copy()

        def run() -> None:
            run_pipeline(ctx, module, self.stages, verify_each=True)

        try:
            if limit is None:
                run()
            else:
                with logged_rewrites(limit) as log:
                    self.boundaries = []
                    run_pipeline(
                        ctx,
                        module,
                        self.stages,
                        after=lambda stage, _: self.boundaries.append((len(log.done), str(stage))),
                        verify_each=True,
                    )
        except InternalError as error:
            return one_line(error)
        except PassFailedException:
            return ""  # a pass that was held back may leave what the next one refuses
        if self.want is None:
            return ""
        outcome = outcome_of_run(
            module,
            ctx,
            self.inputs,
            self.want,
            self.exact,
            interface_of(module, self.interface),
            float("inf"),
        )
        return str(outcome) if outcome.is_bad else ""

    def pass_of(self, number: int) -> str:
        """The pass that does rewrite `number`."""
        self.problem(number)
        for done, stage in self.boundaries:
            if done >= number:
                return stage
        return str(self.stages[min(len(self.boundaries), len(self.stages) - 1)])


# --- reproducers -----------------------------------------------------------------------------------


REPLAYED = ("--allow-unregistered-dialect", "--no-verify-each", "--expensive-checks")
"""Flags that decide whether a pass fails, so that a reproducer repeats them."""


def replayed_flags(options: argparse.Namespace) -> str:
    """Those of `options`, for the command in a reproducer."""
    options.no_verify_each |= options.verify_each == "false"
    given = [flag for flag in REPLAYED if getattr(options, flag[2:].replace("-", "_"))]
    if options.rewrite_limit is not None:
        given.append(f"--rewrite-limit={options.rewrite_limit}")
    return "".join(f" {flag}" for flag in given)


@dataclass(frozen=True)
class Reproducer:
    """What the head of a reproducer says."""

    pipeline: str
    before: str | None = None
    suspect: str = ""
    seed: int = 0
    through_ll: bool = False
    plugins: tuple[str, ...] = ()
    """The files of `--load-pass`. They are programs: replaying a file from elsewhere does not run them unasked."""
    flags: tuple[str, ...] = ()
    """Those of `REPLAYED` that were given, and `--rewrite-limit=N`."""

    def set_flags(self, options: argparse.Namespace) -> None:
        """Give `options` what was given when the failure was seen."""
        for flag in self.flags:
            name, _, value = flag.removeprefix("--").partition("=")
            setattr(options, name.replace("-", "_"), int(value) if value else True)

    def require_plugins(self, loaded: Sequence[str]) -> None:
        """An error that says what to load, if a file that the head names was not."""
        from stepwell.errors import Error

        names = {os.path.basename(path) for path in loaded}
        for path in self.plugins:
            if os.path.basename(path) not in names:
                raise Error(
                    f"the reproducer needs the plug-in {path}, which is not loaded by itself; add --load-pass {quote(path)}"
                )


def reproducer_in(name: str, text: str) -> Reproducer:
    """The reproducer in a text; an error says what is missing."""
    from stepwell.errors import Error

    head = "\n".join(line for line in text.split("\n", 8)[:8] if line.startswith("//"))
    run = re.search(r"RUN: stepwell-opt %s((?: --(?:load-pass (?:'[^']*'|\S+)|\S+))*) -p '([^']*)'", head)
    if run is None:
        raise Error(f"{name}: has no line '// RUN: stepwell-opt %s -p '...''; give the passes with -p")
    wrong = re.search(r"MISCOMPILE: seed=(\d{1,18})( through=ll)? before='([^']*)' suspect='([^']*)'", head)
    words = split(run[1])
    plugins = tuple(file for flag, file in pairwise(words) if flag == "--load-pass")
    flags = tuple(
        word for word in words if word in REPLAYED or re.fullmatch(r"--rewrite-limit=\d{1,18}", word)
    )
    if wrong is None:
        return Reproducer(run[2], plugins=plugins, flags=flags)
    return Reproducer(run[2], wrong[3], wrong[4], int(wrong[1]), wrong[2] is not None, plugins, flags)


def replay_miscompile(
    console: Console, name: str, text: str, found: Reproducer, passes: Mapping[str, Any]
) -> int:
    """Run the module before and behind the suspect; 3 if the values differ."""
    from stepwell.compat import new_context
    from stepwell.ir_files import read_module
    from stepwell.pipelines import resolve_pipeline
    from stepwell.predicates import Miscompile
    from stepwell.registry import DIALECTS

    ctx = new_context(DIALECTS)
    module = read_module(ctx, name, text)
    before = resolve_pipeline(found.before, passes) if found.before else []
    suspect = resolve_pipeline(found.suspect, passes) if found.suspect else []
    outcome = Miscompile(before, suspect, found.through_ll, found.seed).outcome(module, ctx)
    who = found.suspect or "print-llvm-ir"
    if outcome.is_bad:
        console.stderr.write(f"{name}: error: miscompiled by {who}: {outcome}\n")
        return 3
    why = f": {outcome.message}" if outcome.message else ""
    console.stderr.write(f"{name}: not reproduced: {outcome.kind} behind {who}{why}\n")
    return 0
