"""The one form of an error that a user can cause: where: what: why; what to do."""

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import CallSiteLoc, FileLineColLoc, FusedLoc, NameLoc, StringAttr, UnregisteredOp
from xdsl.ir import Attribute, Operation
from xdsl.utils.exceptions import ParseError, PassFailedException, VerifyException

from stepwell.errors import CompileError, Error, InternalError, UnsupportedError, VerifyError

_EXCERPT = 200
"""Characters of a source line or a message that are shown."""


@dataclass(frozen=True)
class Place:
    """A position in a file that the user gave us; line 0: the file has no lines."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class CompileFailure(PassFailedException):
    """Raised by a pass when the user's program cannot be compiled."""

    def __init__(self, where: str, what: str, place: Place | None = None):
        super().__init__(f"{where}: {what}")
        self.where, self.what, self.place = where, what, place


class UnsupportedOperation(CompileFailure):
    """Raised by a pass for valid input that it cannot handle yet."""


class InvalidIR(VerifyException):
    """`op` breaks a rule of its dialect or of SSA form."""

    def __init__(self, op: Operation, why: str):
        super().__init__(f"{place_of(op)}: {name_of(op)}: {why}")
        self.where, self.what, self.place = place_of(op), f"{name_of(op)}: {why}", position_of(op)


def position_of(op: Operation) -> Place | None:
    """The file position that `op`, or else the nearest op around it, comes from."""
    scope: Operation | None = op
    while scope is not None:
        if (place := _position(scope.location)) is not None:
            return place
        scope = scope.parent_op()
    return None


def place_of(op: Operation) -> str:
    """Where `op` comes from: `file:line:column`, the source node's name, or the enclosing symbol."""
    if (name := _name(op.location)) is not None:
        return name
    if (place := _position(op.location)) is not None:
        return str(place)
    scope: Operation | None = op
    while scope is not None:
        if isinstance(symbol := getattr(scope, "sym_name", None), StringAttr):
            return f"in @{symbol.data}"
        scope = scope.parent_op()
    return "at an unknown place"


def _position(loc: Attribute) -> Place | None:
    if isinstance(loc, FileLineColLoc):
        return Place(loc.filename.data, loc.line.data, loc.column.data)
    for inner in _inner_locations(loc):
        if (place := _position(inner)) is not None:
            return place
    return None


def _name(loc: Attribute) -> str | None:
    """The name of the source node: `model.onnx: Conv_12`; of ops that were merged, the first."""
    if isinstance(loc, NameLoc):
        inner = _position(loc.location)
        return loc.desc.data if inner is None else f"{inner}: {loc.desc.data}"
    for inner in _inner_locations(loc):
        if (name := _name(inner)) is not None:
            return name
    return None


def name_of(op: Operation) -> str:
    """The name of `op` as it is written, of a dialect that is not registered too."""
    return op.op_name.data if isinstance(op, UnregisteredOp) else op.name


def layers_of(loc: Attribute) -> tuple[str, ...]:
    """The names of all source nodes in a location, each once, in their order."""
    names: dict[str, None] = {}
    todo: list[Attribute] = [loc]
    while todo:
        part = todo.pop()
        if isinstance(part, NameLoc):
            names[part.desc.data] = None
        else:
            todo.extend(reversed(_inner_locations(part)))
    return tuple(names)


def source_names(loc: Attribute) -> list[str]:
    """The source nodes that an op at `loc` stands for, or else their lines: of merged ops several, in order."""
    if names := layers_of(loc):
        return list(names)
    if isinstance(loc, FileLineColLoc):
        return [f"{loc.filename.data}:{loc.line.data}"]
    return [name for inner in _inner_locations(loc) for name in source_names(inner)]


def _inner_locations(loc: Attribute) -> tuple[Attribute, ...]:
    if isinstance(loc, NameLoc):
        return (loc.location,)
    if isinstance(loc, FusedLoc):
        return tuple(loc.locations)  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
    return (loc.callee, loc.caller) if isinstance(loc, CallSiteLoc) else ()


def compile_error(op: Operation, why: str, fix: str) -> PassFailedException:
    """The error to raise when `op` cannot be compiled because of the user; `fix` is an imperative."""
    return CompileFailure(place_of(op), f"{name_of(op)}: {why}; {fix}", position_of(op))


def unsupported(op: Operation, why: str, fix: str) -> UnsupportedOperation:
    """The error to raise when `op` is valid but not supported yet; `fix` says the way out."""
    return UnsupportedOperation(place_of(op), f"{name_of(op)}: {why}; {fix}", position_of(op))


# Errors on their way to the user


@dataclass(frozen=True)
class Diagnostic:
    """One message as it is shown: a place where there is one, and the text."""

    message: str
    place: Place | None = None
    where: str | None = None
    severity: str = "error"

    def render(self, sources: Mapping[str, str] = {}) -> str:
        """`where: error: message`, with the source line and a caret if its file is among `sources`."""
        where = self.where or (str(self.place) if self.place is not None else "")
        text = f"{where}: {self.severity}: {self.message}" if where else f"{self.severity}: {self.message}"
        if self.place is not None and self.place.line and self.place.file in sources:
            lines = sources[self.place.file].split("\n")
            if self.place.line <= len(lines):
                line, column = lines[self.place.line - 1], self.place.column
                shift = max(0, column - _EXCERPT // 2)
                line = line[shift : shift + _EXCERPT].replace("\t", " ")
                text += f"\n{line}\n{' ' * (column - shift - 1)}^"
        return text


def diagnose(error: BaseException) -> Diagnostic:
    """What to tell the user about `error`."""
    if isinstance(error, CompileFailure | InvalidIR):
        return Diagnostic(error.what, error.place, error.where)
    if isinstance(error, ParseError):
        location = error.span.get_location()
        place = Place(location.file, location.line, location.col)
        return Diagnostic(_short(error.msg), place)
    text = str(error)
    if not isinstance(error, Error | PassFailedException | VerifyException):
        text = f"{type(error).__name__}: {_short(text)}" if text else type(error).__name__
    return Diagnostic(text)


def exit_code_of(error: BaseException) -> int:
    """1: the user's fault, 2: not supported yet, 3: ours."""
    if isinstance(error, Error):
        return error.exit_code
    if isinstance(error, UnsupportedOperation):
        return UnsupportedError.exit_code
    if isinstance(error, PassFailedException | VerifyException | ParseError):
        return Error.exit_code
    return InternalError.exit_code


def public_error(error: BaseException) -> Error:
    """The `stepwell.Error` that stands for `error` at the API."""
    if isinstance(error, Error):
        return error
    text = diagnose(error).render()
    if isinstance(error, UnsupportedOperation):
        return UnsupportedError(text)
    if isinstance(error, VerifyException | ParseError):
        return VerifyError(text)
    return CompileError(text) if isinstance(error, PassFailedException) else InternalError(text)


def one_line(error: BaseException) -> str:
    """`error` in one line, its class named."""
    return f"{type(error).__name__}: {_short(str(error).split(chr(10))[0])}"


def first_line(text: str) -> str:
    """What an exception says, in one line of at most three excerpts' length."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= 3 * _EXCERPT else f"{line[: 3 * _EXCERPT]}..."


def _short(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."
