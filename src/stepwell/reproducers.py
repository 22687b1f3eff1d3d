"""
Reproducers: one file with what a failed pass was given, and above it the command that fails on it again.

A fault of ours goes into a new file, since it is to be reported. What a pass refuses goes into the one file that the
last refusal is in, so that a day of trying leaves one file and not a hundred.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from stepwell.errors import CompileError, InternalError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from stepwell.compat import StepwellContext

VARIABLE = "STEPWELL_CRASH_REPRODUCER"
"""The environment's `--crash-reproducer`: a file, or `off`."""

_NAME = "reproducer.ir"
_VALUES_BYTES = 16 << 20
"""Of constants, which are copied unasked for a program that is only refused; more take long and fill the disk."""


@dataclass(frozen=True)
class Reproducers:
    """Which failures leave a reproducer, and where."""

    file: Path | None = None
    """One for all; None: `$STEPWELL_CRASH_REPRODUCER`, else a place by the kind of failure."""
    refusals: bool = True
    """Not our faults alone: whatever makes a pass fail."""
    off: bool = False

    @property
    def asked(self) -> Path | None:
        """The file that somebody named; the values of its constants go there whatever their size."""
        named = os.environ.get(VARIABLE)
        return self.file or (Path(named) if named and named != "off" else None)

    def wants(self, error: BaseException, status: int) -> bool:
        """Whether `error` of a pass, which ends with the exit status `status`, leaves a reproducer."""
        if self.off or (self.file is None and os.environ.get(VARIABLE) == "off"):
            return False
        if isinstance(error.__cause__, MemoryError):
            return False
        if isinstance(error, CompileError) and self.asked is None:
            return False  # of an option, the disk, the tool chain: the program has no part in it
        return status == InternalError.exit_code or self.refusals or self.asked is not None

    def place(self, status: int) -> Path:
        """Where the reproducer of a failure with this exit status goes."""
        from stepwell.backends.cpu.cache import cache_directory

        if self.asked is not None:
            return self.asked
        return new_file() if status == InternalError.exit_code else cache_directory() / _NAME


_IN_A_LIBRARY = Reproducers(refusals=False)
_current: ContextVar[Reproducers] = ContextVar("reproducers", default=_IN_A_LIBRARY)


def current() -> Reproducers:
    """What the command that runs asks for; in a program that uses the library, faults of ours only."""
    return _current.get()


@contextmanager
def reproducers(wanted: Reproducers) -> Iterator[None]:
    """What fails inside leaves reproducers as `wanted` says."""
    token = _current.set(wanted)
    try:
        yield
    finally:
        _current.reset(token)


def new_file() -> Path:
    """A new temporary file for a reproducer."""
    import tempfile

    handle, name = tempfile.mkstemp(prefix="stepwell-reproducer-", suffix=".ir")
    os.close(handle)
    return Path(name)


def reproducer_heading(pipeline: str, flags: str = "") -> str:
    """The first line of a reproducer: the command that fails on it, with the plug-ins and the `flags` that it takes."""
    return f"// RUN: stepwell-opt %s{plugin_arguments()}{flags} -p '{pipeline}'\n"


def plugin_arguments() -> str:
    """`--load-pass` for each plug-in file of this process, as a shell takes them."""
    from stepwell.plugins import given_files

    return "".join(f" --load-pass {quote(path)}" for path in given_files())


def replay_command(path: Path) -> str:
    """What to type to see it fail again."""
    return f"stepwell-opt --run-reproducer {quote(str(path))}{plugin_arguments()}"


def why_none(error: Exception) -> str:
    """What to tell the user where `error` kept a reproducer from being written."""
    if isinstance(error, OSError):
        return f"none: {error.filename}: cannot be written: {error.strerror}"
    from stepwell.diagnostics import one_line

    return f"none: {one_line(error)}"


def leave_reproducer(
    text: str, module: "ModuleOp | None", ctx: "StepwellContext", wanted: Reproducers, status: int
) -> str:
    """
    Write `text`, which prints `module`, and the values of its constants to a sidecar beside it; how to replay it. A
    file that somebody named and that cannot be written gives way, for a fault of ours, to a temporary one.
    """
    from stepwell.files import write_atomically

    try:
        path = wanted.place(status)
        write_atomically(path, text.encode("utf-8"))
    except OSError as error:
        if wanted.asked is None or status != InternalError.exit_code:
            raise OSError(error.errno, error.strerror, str(wanted.place(status))) from error
        path = new_file()
        write_atomically(path, text.encode("utf-8"))
        return (
            f"{_with_values(path, module, ctx, True)} ({wanted.asked}: cannot be written: {error.strerror})"
        )
    return _with_values(path, module, ctx, wanted.asked is not None or status == InternalError.exit_code)


def _with_values(path: Path, module: "ModuleOp | None", ctx: "StepwellContext", any_size: bool) -> str:
    from stepwell.errors import Error
    from stepwell.resources import resource_keys, sidecar_of

    sidecar, replay = sidecar_of(path), replay_command(path)
    keys = resource_keys(module) if module is not None else set()
    if path.name == _NAME:
        sidecar.unlink(missing_ok=True)  # of the refusal before
    if not keys:
        return replay
    try:
        size = sum(ctx.resources.blob(key).nbytes for key in keys)
        if not any_size and size > _VALUES_BYTES:
            return f"{replay} (without the {size / 1e6:.1f} MB of its constants, which --crash-reproducer FILE keeps)"
        ctx.resources.save(sidecar, keys)
    except (Error, OSError) as error:  # the failure itself is what the user has to see
        return f"{replay} (without the values of its constants: {error})"
    return f"{replay} (with {sidecar}, {size / 1e6:.1f} MB)"
