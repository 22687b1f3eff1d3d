"""What makes a module interesting to a reduction: it breaks a pass, says something, or is miscompiled."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import ParseError, PassFailedException, VerifyException

from stepwell.comparison import Difference, compare
from stepwell.compat import StepwellContext
from stepwell.diagnostics import UnsupportedOperation, one_line
from stepwell.errors import Error, InternalError
from stepwell.execution import Interface, interface_of, main_of, run_in_float64, run_module, through_ll
from stepwell.interpreter import OutOfFuel
from stepwell.pipelines import Stage, run_pipeline
from stepwell.verification import verify_module

FAILURES = (PassFailedException, VerifyException, ParseError, Error)
"""What a pass, a verifier or an interpreter says; anything else is caught as `Broken`."""

CANNOT_RUN = (OutOfFuel, UnsupportedOperation)
"""What says that a module cannot be judged: it runs too long, or does what no interpreter knows."""

_FUEL = 200_000
"""Blocks that one run of a reduced module may take."""


@dataclass(frozen=True)
class Outcome:
    """How the module behind a pass compares with the one before it."""

    kind: str
    """"agrees", "differs", "fails" (it cannot be run), "breaks" (the pass raised), "unknown" (nothing to compare),
    "late" (it takes too long)."""
    difference: Difference = field(default_factory=lambda: Difference(0.0))
    message: str = ""

    @property
    def is_bad(self) -> bool:
        return self.kind in ("differs", "fails")

    def __str__(self) -> str:
        return self.message or str(self.difference)


def outcome_of_run(
    module: ModuleOp,
    ctx: StepwellContext,
    inputs: Sequence[Any],
    want: Sequence[Any],
    exact: Sequence[Any] | None,
    interface: Interface,
    seconds: float = inf,
    fuel: float = inf,
) -> Outcome:
    """Run `module` and compare; an invalid or failing module is an outcome, one of `CANNOT_RUN` is not."""
    try:
        verify_module(module)
        got = run_module(module, ctx, inputs, interface, fuel=fuel, seconds=seconds)
    except CANNOT_RUN:
        raise
    except Exception as error:  # IR that is wrong enough to break the interpreter itself
        return Outcome("fails", message=one_line(error))
    difference = compare(got, want, exact)
    return Outcome("agrees" if difference.agrees else "differs", difference)


@dataclass
class Miscompile:
    """
    The passes `suspect` change what the module gives, where those in front of them, `prefix`, do not.
    `through_ll` adds that the module is printed as LLVM IR and read back.
    """

    prefix: list[Stage]
    suspect: list[Stage]
    through_ll: bool = False
    seed: int = 0
    kind: str = ""
    """If given, the kind of outcome that is looked for, "differs" or "fails"."""
    head: str = ""
    """If given, how the message of a failure begins."""
    limit_s: float = inf
    """Seconds of processor time for one run of the module."""

    def outcome(self, module: ModuleOp, ctx: StepwellContext) -> Outcome:
        """What the passes do to `module`, which stays as it is."""
        module, own = module.clone(), ctx.clone()
        own.resources = ctx.resources.copy()
        try:
            interface = interface_of(module)
            inputs = interface.random(self.seed)
            first = run_module(module, own, inputs, fuel=_FUEL, seconds=self.limit_s)
            exact = exact_values(module, own, inputs)
            run_pipeline(own, module, self.prefix)
            interface = interface_of(module, interface)
            want = first
            if self.prefix:
                want = run_module(module, own, inputs, interface, fuel=_FUEL, seconds=self.limit_s)
        except OutOfFuel as error:
            return Outcome("late", message=one_line(error))
        except Exception as error:
            return Outcome("unknown", message=one_line(error))
        if not _is_known(want) or not compare(want, first, exact).agrees:
            return Outcome("unknown")
        try:
            run_pipeline(own, module, self.suspect)
            interface = interface_of(module, interface)
            if self.through_ll:
                module = through_ll(module, own)
        except ParseError as error:
            return Outcome("fails", message=one_line(error))
        except Exception as error:
            return Outcome("breaks", message=one_line(error))
        try:
            return outcome_of_run(module, own, inputs, want, exact, interface, self.limit_s, fuel=20 * _FUEL)
        except OutOfFuel as error:
            return Outcome("fails" if self.limit_s == inf else "late", message=one_line(error))
        except UnsupportedOperation as error:
            return Outcome("unknown", message=one_line(error))

    def __call__(self, module: ModuleOp, ctx: StepwellContext) -> bool:
        found = self.outcome(module, ctx)
        if self.kind:
            return found.kind == self.kind and found.message.startswith(self.head)
        return found.is_bad

    def looking_for(self, outcome: Outcome) -> "Miscompile":
        """This predicate, holding to the kind of `outcome`."""
        head = outcome.message.split(":")[0] if outcome.kind == "fails" else ""
        return replace(self, kind=outcome.kind, head=head)


def _is_known(values: Sequence[Any]) -> bool:
    """Whether no result is memory that nobody wrote, which the interpreter makes NaN."""
    for value in values:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            if not _is_known(value):
                return False
        elif isinstance(value, int | float | str):
            if isinstance(value, float) and not np.isfinite(value):
                return False
        elif value is not None and value.dtype.kind in "fc" and not np.isfinite(value).all():
            return False
    return True


def exact_values(module: ModuleOp, ctx: StepwellContext, inputs: Sequence[Any]) -> list[Any] | None:
    """The results in float64; None for a level at which there is no such thing."""
    main: Any = main_of(module)
    if main is None or any(a.type.name == "memref" for a in main.regions[0].block.args):
        return None
    try:
        return run_in_float64(module, ctx, inputs, fuel=_FUEL)
    except (*FAILURES, ValueError, TypeError):
        return None


@dataclass
class Breakdown:
    """
    The passes raise: any error of ours (`pattern` is empty), or an error whose text `pattern` is found in. Without
    a pattern the error has to be of the kind of the first one seen, so that a reduction does not slip to another bug.
    """

    stages: list[Stage]
    pattern: str = ""
    any_error: bool = False
    _first: str = field(default="", init=False)

    def error(self, module: ModuleOp, ctx: StepwellContext) -> BaseException | None:
        """What the passes raise on a copy of `module`."""
        module, own = module.clone(), ctx.clone()
        own.resources = ctx.resources.copy()
        try:
            run_pipeline(own, module, self.stages, verify_each=True)
        except Exception as error:
            return error
        return None

    def __call__(self, module: ModuleOp, ctx: StepwellContext) -> bool:
        error = self.error(module, ctx)
        if error is None:
            return False
        if self.pattern:
            return re.search(self.pattern, str(error)) is not None
        if not isinstance(error, InternalError) and not self.any_error:
            return False
        kind = re.sub(r"[%@#]?\w*\d\w*", "N", str(error))[:80]
        self._first = self._first or kind
        return kind == self._first


@dataclass
class Script:
    """A program, called with the path of an `.ir` file, exits with 0."""

    command: Path
    directory: Path
    limit_s: float = 60.0

    def __call__(self, module: ModuleOp, ctx: StepwellContext) -> bool:
        from stepwell.ir_files import write_module_file

        path = self.directory / "candidate.ir"
        write_module_file(module.clone(), ctx, path)
        try:
            done = subprocess.run(
                [str(self.command.resolve()), str(path)],
                capture_output=True,
                timeout=self.limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0
