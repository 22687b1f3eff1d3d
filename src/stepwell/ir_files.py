"""IR in files: the text of a module and, beside it, the sidecar with the values of its large constants."""

import contextlib
import os
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import ParseError, VerifyException

from stepwell.compat import StepwellContext, parse_module, print_module
from stepwell.diagnostics import diagnose
from stepwell.errors import CompileError, VerifyError
from stepwell.files import write_atomically
from stepwell.resources import sidecar_of
from stepwell.verification import verify_module


def read_module(ctx: StepwellContext, name: str, text: str, resources: Path | None = None) -> ModuleOp:
    """
    The verified module of an `.ir` text that stands in the file `name`; its values come from the sidecars
    that it lists, the one beside it and the file `resources`.
    """
    module = parse_module(ctx, text, name)
    ctx.resources.attach_listed(module, Path(name).parent)
    if os.path.isfile(own := sidecar_of(Path(name))):
        ctx.resources.attach(own)
    if resources is not None and os.path.isfile(resources):
        ctx.resources.attach(resources)
    verify_module(module)
    return module


def read_module_file(path: Path, ctx: StepwellContext) -> ModuleOp:
    """The verified module in the file at `path`; every fault of the file is a `stepwell.Error`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror}; give the path of a file") from error
    except UnicodeDecodeError as error:
        raise CompileError(
            f"{path}: byte {error.start} is not UTF-8; give an .onnx file or MLIR text"
        ) from error
    try:
        return read_module(ctx, str(path), text)
    except (ParseError, VerifyException) as error:
        raise VerifyError(diagnose(error).render({str(path): text})) from error


def module_text(
    module: ModuleOp,
    ctx: StepwellContext,
    output: Path | None = None,
    resources: Path | None = None,
    *,
    generic: bool = False,
    debuginfo: bool = False,
    elide_above: int | None = None,
) -> tuple[str, int]:
    """
    The text of `module` for the file `output` (None: a stream). Values that no file holds yet go to
    `resources`, else to the sidecar of `output`; the second result is how many could go nowhere.
    """
    if resources is None and output is not None:
        unwritten = ctx.resources.bind_beside(module, output)
    else:
        unwritten = ctx.resources.bind(module, output.parent if output is not None else Path(), resources)
    text = print_module(module, generic=generic, debuginfo=debuginfo, elide_above=elide_above)
    return text, unwritten


def write_module_file(module: ModuleOp, ctx: StepwellContext, path: Path, heading: str = "") -> None:
    """Write `module` to `path`, `heading` above it, and the values that no file holds yet to its sidecar."""
    had_sidecar = os.path.exists(sidecar_of(path))
    text, _ = module_text(module, ctx, path)
    try:
        write_atomically(path, (heading + text).encode("utf-8"))
    except OSError as error:
        if not had_sidecar:
            with contextlib.suppress(OSError, ValueError):
                sidecar_of(path).unlink()
        raise CompileError(f"{path}: cannot be written: {error.strerror}; give another path") from error
