"""Parsing and verifying a text as the tools do, and what that tells: faults with their places, types of values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from xdsl.dialects.builtin import FileLineColLoc, ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.utils.exceptions import ParseError, VerifyException

from stepwell.compat import StepwellContext, new_context, parse_module
from stepwell.diagnostics import diagnose
from stepwell.verification import verify_module

NAME = "<editor>"
"""What the text is called in places; the editor knows its path itself."""
FAULTS = 8
"""Faults that are looked for: behind a part that cannot be read, reading begins again."""
_RETRY_BYTES = 200_000
"""A larger text is read once, since reading and verifying take three to four seconds a megabyte."""
_SPLIT = "// -----"
_RUN = re.compile(r"^\s*//\s*RUN:(.*)$", re.MULTILINE)
_TOKEN = re.compile(r"[%@^!#]?[\w$.\-]+|\S")


@dataclass(frozen=True)
class Fault:
    """What is wrong, from one place to another; lines and columns (in characters) from 0."""

    message: str
    line: int
    column: int
    end_line: int
    end_column: int


@dataclass
class Analysis:
    """What reading a text gave; types of the parts that could be read."""

    faults: list[Fault] = field(default_factory=list)
    operations: dict[tuple[int, int], Operation] = field(default_factory=dict)
    """By the line and column, from 0, where the operation's name stands."""
    arguments: dict[tuple[int, int], str] = field(default_factory=dict)
    """The types of block arguments, by where their names stand."""


@dataclass
class Reader:
    """Reads texts with the dialects of the compiler and of plug-ins."""

    dialects: Mapping[str, str]

    def context(self, text: str = "") -> StepwellContext:
        """A Context as `stepwell-opt` would make it for the file."""
        runs = " ".join(_RUN.findall(text))
        return new_context(self.dialects, "--allow-unregistered-dialect" in runs)

    def analyse(self, text: str) -> Analysis:
        """The faults and types of `text`; whatever goes wrong is a fault, never an exception."""
        analysis = Analysis()
        try:
            ctx = self.context(text)
            for part in _parts(text):
                self._part(analysis, ctx, part, len(text) <= _RETRY_BYTES)
        except RecursionError:
            analysis.faults.append(Fault("nested too deeply", 0, 0, 0, 1))
        except Exception as error:  # an editor shows it, and goes on
            analysis.faults.append(Fault(diagnose(error).message, 0, 0, 0, 1))
        return analysis

    def _part(self, analysis: Analysis, ctx: StepwellContext, text: str, retry: bool) -> None:
        lines = text.split("\n")
        for _ in range(FAULTS if retry else 1):
            try:
                module = parse_module(ctx, text, NAME)
                break
            except ParseError as error:
                fault = _parse_fault(error, lines)
                analysis.faults.append(fault)
                shorter = without_part_at(text, error.span.start) if retry else None
                if shorter is None:
                    return
                text = shorter
        else:
            return
        self._verify(analysis, module, lines)
        _note(analysis, module)

    def _verify(self, analysis: Analysis, module: ModuleOp, lines: list[str]) -> None:
        """One fault of the module, or where functions have their own, one of each."""
        try:
            verify_module(module)
            return
        except VerifyException as error:
            first = _verify_fault(error, lines)
        found = {first}
        for op in module.body.blocks[0].ops if module.body.blocks else ():
            try:
                verify_module(op)
            except VerifyException as error:
                found.add(_verify_fault(error, lines))
        analysis.faults.extend(sorted(found, key=lambda fault: (fault.line, fault.column))[:FAULTS])


def _parts(text: str) -> list[str]:
    """The parts that the file's RUN line wants to be read apart, each with its lines where they are."""
    if "--split-input-file" not in " ".join(_RUN.findall(text)):
        return [text]
    parts, line = [], 0
    for part in text.split(_SPLIT):
        parts.append("\n" * line + part)
        line += part.count("\n")
    return parts


def without_part_at(text: str, offset: int) -> str | None:
    """
    `text` with blanks in place of the part around `offset`: from the last line before that begins at the margin to
    the next one that does. None where that is all there is.
    """
    lines = text.split("\n")
    at = text.count("\n", 0, offset)

    def begins(number: int) -> bool:
        line = lines[number]
        return bool(line.strip()) and not line[0].isspace() and not line.startswith(("}", "//", ")"))

    first = at
    while first > 0 and not begins(first):
        first -= 1
    last = at + 1
    while last < len(lines) and not begins(last):
        last += 1
    if (
        not any(line.strip() for line in lines[first:last])
        or not "".join((*lines[:first], *lines[last:])).strip()
    ):
        return None
    return "\n".join([*lines[:first], *([""] * (last - first)), *lines[last:]])


def _parse_fault(error: ParseError, lines: list[str]) -> Fault:
    start = error.span.get_location()
    message = diagnose(error).message
    line, column = max(start.line - 1, 0), max(start.col - 1, 0)
    return spanning(message, line, column, lines)


def _verify_fault(error: VerifyException, lines: list[str]) -> Fault:
    shown = diagnose(error)
    place = shown.place
    if place is None or not place.line or place.file != NAME:
        return spanning(shown.message, 0, 0, lines)
    return spanning(shown.message, place.line - 1, place.column - 1, lines)


def spanning(message: str, line: int, column: int, lines: list[str]) -> Fault:
    """The fault at the token that begins there."""
    line = min(line, len(lines) - 1)
    match = _TOKEN.match(lines[line], column)
    end = match.end() if match else column + 1
    return Fault(message, line, column, line, end)


def _note(analysis: Analysis, module: Operation) -> None:
    for op in module.walk():
        if isinstance(loc := op.location, FileLineColLoc) and loc.filename.data == NAME:
            analysis.operations[loc.line.data - 1, loc.column.data - 1] = op
        for region in op.regions:
            for block in region.blocks:
                _note_arguments(analysis, block)


def _note_arguments(analysis: Analysis, block: Block) -> None:
    for argument in block.args:
        loc = argument.location
        if isinstance(loc, FileLineColLoc) and loc.filename.data == NAME:
            analysis.arguments[loc.line.data - 1, loc.column.data - 1] = str(argument.type)


def types_of(values: "tuple[SSAValue, ...] | list[SSAValue]") -> str:
    """The types of values as a list."""
    return ", ".join(str(value.type) for value in values)
