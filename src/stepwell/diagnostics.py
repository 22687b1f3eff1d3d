"""The one form of an error that a user can cause: where: what: why; what to do."""

from xdsl.dialects.builtin import FileLineColLoc, NameLoc, StringAttr
from xdsl.ir import Operation
from xdsl.utils.exceptions import PassFailedException


class UnsupportedOperation(PassFailedException):
    """Raised by a pass for valid input that it cannot handle yet."""


def place_of(op: Operation) -> str:
    """Where `op` comes from: `file:line:column`, the source node's name, or the enclosing symbol."""
    loc = op.location
    if isinstance(loc, NameLoc):
        return loc.name_attr.data if hasattr(loc, "name_attr") else str(loc)
    if isinstance(loc, FileLineColLoc):
        return f"{loc.filename.data}:{loc.line.data}:{loc.column.data}"
    scope: Operation | None = op
    while scope is not None:
        if isinstance(symbol := getattr(scope, "sym_name", None), StringAttr):
            return f"in @{symbol.data}"
        scope = scope.parent_op()
    return "at an unknown place"


def compile_error(op: Operation, why: str, fix: str) -> PassFailedException:
    """The error to raise when `op` cannot be compiled because of the user; `fix` is an imperative."""
    return PassFailedException(f"{place_of(op)}: {op.name}: {why}; {fix}")


def unsupported(op: Operation, why: str, fix: str) -> UnsupportedOperation:
    """The error to raise when `op` is valid but not supported yet; `fix` says the way out."""
    return UnsupportedOperation(f"{place_of(op)}: {op.name}: {why}; {fix}")
