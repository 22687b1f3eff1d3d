"""What the editor asks, answered on one version of one text; offsets in, plain data out."""

import re
from dataclasses import dataclass, field
from functools import cached_property

from stepwell.language_server.analysis import Analysis, types_of
from stepwell.language_server.knowledge import Knowledge
from stepwell.language_server.text import Name, TextIndex

_WORD = re.compile(r"[\w$.\-]+")
_WORD_BEFORE = re.compile(r"[%@^]?[\w$.\-]*\Z")
_RUN_LINE = re.compile(r"\s*//\s*RUN:")
_MOST_VALUES = 200


@dataclass
class Answer:
    """A text for a hover, and what it is about: offsets `start` to `end`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Suggestion:
    """What may be written: `kind` is operation, dialect, attribute, pass, value or symbol."""

    text: str
    kind: str
    detail: str = ""


@dataclass
class Document:
    """One version of a text. `analysis` is that of the newest version that was read, maybe an older one."""

    text: str
    knowledge: Knowledge
    analysis: Analysis = field(default_factory=Analysis)
    current: bool = False
    """Whether `analysis` is of this very text."""

    @cached_property
    def index(self) -> TextIndex:
        return TextIndex(self.text)

    # Hover

    def hover(self, offset: int) -> Answer | None:
        """What stands at `offset`."""
        line, column = self.index.place(offset)
        start_of_line = offset - len(self.index.line(line)[: self._characters(line, column)])
        if _RUN_LINE.match(self.index.line(line)):
            return self._hover_pass(offset, start_of_line, self.index.line(line))
        name = self.index.name_at(offset)
        if name is not None:
            text = self._describe_name(name)
            return Answer(text, name.start, name.end) if text else None
        found = self.index.operation_at(offset)
        if found is None:
            return None
        start, word, _ = found
        end = start + len(word) + 2 * self.text.startswith('"', start)
        if not start <= offset <= end:
            return None
        text = self.knowledge.describe_operation(word)
        if text is None:
            return None
        op = self._operation_from(start)
        if op is not None:
            text += f"\n\n`({types_of(op.operands)}) -> ({types_of(op.results)})`"  # pyright: ignore
        return Answer(text, start, end)

    def _characters(self, line: int, column: int) -> int:
        return self.index.offset(line, column) - self.index.offset(line, 0)

    def _hover_pass(self, offset: int, start_of_line: int, line: str) -> Answer | None:
        for match in _WORD.finditer(line):
            start, end = start_of_line + match.start(), start_of_line + match.end()
            if start <= offset <= end and (text := self.knowledge.describe_pass(match.group())):
                return Answer(text, start, end)
        return None

    def _describe_name(self, name: Name) -> str:
        made = self.index.definition_of(name)
        if made is None:
            return ""
        line = self.index.line(self.index.place(made.start)[0]).strip()
        code = f"```mlir\n{line if len(line) <= 400 else line[:400] + ' ...'}\n```"
        if name.kind == "value" and (type := self.type_of(made)):
            return f"`{name.text}: {type}`\n\n{code}"
        return code

    def type_of(self, made: Name) -> str | None:
        """The type of the value that `made` defines; None where the text was not read."""
        if not self.current:
            return None
        line, column = self.index.place(made.start)
        place = (line, self._characters(line, column))
        if place in self.analysis.arguments:
            return self.analysis.arguments[place]
        found = self.index.operation_defining(made)
        op = self._operation_from(found[0]) if found is not None else None
        if found is None or op is None:
            return None
        results = [r for name, r in zip(found[2], op.results, strict=False) if name == made.text]  # pyright: ignore
        return types_of(results) if results else None

    def _operation_from(self, start: int) -> object | None:
        if not self.current:
            return None
        line, column = self.index.place(start)
        return self.analysis.operations.get((line, self._characters(line, column)))

    # Where things are

    def definition(self, offset: int) -> Name | None:
        """Where the name at `offset` is defined."""
        name = self.index.name_at(offset)
        return self.index.definition_of(name) if name is not None else None

    def references(self, offset: int) -> list[Name]:
        """Every place that means the same as the name at `offset`."""
        name = self.index.name_at(offset)
        return self.index.references_to(name) if name is not None else []

    # Completion

    def suggestions(self, offset: int) -> list[Suggestion]:
        """What may stand at `offset`, whose beginning may be there already."""
        line, column = self.index.place(offset)
        before = self.index.line(line)[: self._characters(line, column)]
        if _RUN_LINE.match(before):
            return [Suggestion(name, "pass") for name in self.knowledge.passes()]
        word = _WORD_BEFORE.search(before)
        assert word is not None, "it matches nothing too"
        start, text = word.start(), word.group()
        if text.startswith("%"):
            return [Suggestion(v, "value") for v in self.index.visible_values(offset)[:_MOST_VALUES]]
        if text.startswith("@"):
            return [Suggestion(s.name, "symbol", s.operation) for s in self.index.symbols]
        if _at_operation(before[:start]):
            return self._operations(text)
        return self._attributes(offset - len(text))

    def _operations(self, text: str) -> list[Suggestion]:
        dialect, dot, _ = text.partition(".")
        if not dot:
            return [Suggestion(name, "dialect") for name in self.knowledge.dialects()]
        operations = self.knowledge.operations(dialect)
        return [
            Suggestion(name, "operation", first_line(cls.__doc__)) for name, cls in sorted(operations.items())
        ]

    def _attributes(self, offset: int) -> list[Suggestion]:
        """Inside the braces of an operation's attributes."""
        found = self.index.operation_at(offset)
        if found is None:
            return []
        inside = self.text[found[0] : offset]
        if inside.count("{") + inside.count("<{") <= inside.count("}") or "\n\n" in inside:
            return []
        return [Suggestion(key, "attribute") for key in self.knowledge.attributes(found[1])]


def _at_operation(before: str) -> bool:
    """Whether an operation may begin behind `before`, the line so far."""
    stripped = before.strip()
    return (
        not stripped
        or (stripped.endswith(("{", "}")) and not stripped.startswith("%"))
        or (re.fullmatch(r"(%[\w$.\-]+(:\d+)?\s*,?\s*)+=", stripped) is not None)
    )


def first_line(document: str | None) -> str:
    return (document or "").strip().split("\n")[0]
