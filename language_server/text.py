"""Where names stand in a text of IR, found without parsing it: it works on half-typed text, at 2 MB a second."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)|(?P<string>"(?:[^"\\\n]|\\.)*"?)
    |(?P<value>%[\w$.\-]+)|(?P<symbol>@(?:[\w$.\-]+|"(?:[^"\\\n]|\\.)*"?))|(?P<block>\^[\w$.\-]+)
    |(?P<alias>[!\#][A-Za-z_][\w$.]*)|(?P<word>[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*)
    |(?P<mark>->|::|[{}()\[\]=:,\#\n])""",
    re.VERBOSE,
)
_FUNCTION = re.compile(r"(?:^|\.)func\Z")
_SYMBOL_OPS = re.compile(r"(?:^|\.)(?:func|global|module)\Z")
_KINDS = ("value", "symbol", "block", "alias")


@dataclass(frozen=True)
class Name:
    """One place where a name stands: `start` to `end` in the text; `kind` is value, symbol, block or alias."""

    kind: str
    text: str
    start: int
    end: int
    scope: int
    defines: bool


@dataclass
class Scope:
    """A pair of braces; `isolated`: names of values do not come in from outside."""

    parent: int
    start: int
    end: int
    isolated: bool


@dataclass
class Symbol:
    """A function, global or module: its name, the word it is defined with, and what it spans."""

    name: str
    operation: str
    name_start: int
    start: int
    end: int
    parent: int


@dataclass
class Places:
    """A text, and its offsets as an editor counts them: lines, and columns in units of UTF-16."""

    text: str

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and a column in UTF-16 units, both from 0; the nearest that there is."""
        if line >= len(self._line_starts):
            return len(self.text)
        start = self._line_starts[max(line, 0)]
        text = self.line(max(line, 0))
        if text.isascii():
            return start + min(max(column, 0), len(text))
        return start + len(text.encode("utf-16-le")[: 2 * max(column, 0)].decode("utf-16-le", "ignore"))

    def place(self, offset: int) -> tuple[int, int]:
        """The line and the column in UTF-16 units of an offset, both from 0."""
        line = bisect_right(self._line_starts, offset) - 1
        before = self.text[self._line_starts[line] : offset]
        return line, len(before) if before.isascii() else len(before.encode("utf-16-le")) // 2

    def line(self, number: int) -> str:
        """The text of a line, without its end."""
        start = self._line_starts[number]
        end = self._line_starts[number + 1] - 1 if number + 1 < len(self._line_starts) else len(self.text)
        return self.text[start:end]


@dataclass
class TextIndex(Places):
    """All names of a text, and which of them mean the same thing."""

    names: list[Name] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    operations: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Where an operation's name starts: the name, and the values that it defines, in order."""

    def __post_init__(self) -> None:
        _Scanner(self).scan()

    # Names

    @cached_property
    def _name_starts(self) -> list[int]:
        return [name.start for name in self.names]

    @cached_property
    def _definitions(self) -> dict[tuple[str, str], list[Name]]:
        found: dict[tuple[str, str], list[Name]] = {}
        for name in self.names:
            if name.defines:
                found.setdefault((name.kind, name.text), []).append(name)
        return found

    @cached_property
    def _uses(self) -> dict[tuple[str, str], list[Name]]:
        found: dict[tuple[str, str], list[Name]] = {}
        for name in self.names:
            found.setdefault((name.kind, name.text), []).append(name)
        return found

    def name_at(self, offset: int) -> Name | None:
        """The name that `offset` stands in or right behind."""
        place = bisect_right(self._name_starts, offset) - 1
        for name in self.names[max(place - 1, 0) : place + 1]:
            if name.start <= offset <= name.end:
                return name
        return None

    def definition_of(self, name: Name) -> Name | None:
        """Where the thing that `name` means is made."""
        candidates = self._definitions.get((name.kind, name.text), ())
        if name.kind in ("symbol", "alias"):
            return candidates[0] if candidates else None
        if name.kind == "value":
            reached = set(self._reach(name.scope))
            candidates = [c for c in candidates if c.scope in reached]
        else:
            candidates = [c for c in candidates if c.scope == name.scope]
        before = [c for c in candidates if c.start <= name.start]
        return before[-1] if before else (candidates[0] if candidates else None)

    def references_to(self, name: Name) -> list[Name]:
        """Every place that means what `name` means, its definition included."""
        made = self.definition_of(name)
        others = self._uses.get((name.kind, name.text), [])
        return [other for other in others if self.definition_of(other) is made]

    def visible_values(self, offset: int) -> list[str]:
        """The values that may be used at `offset`, each once, the latest first."""
        reached = set(self._reach(self._scope_at(offset)))
        end = self.text.rfind("\n", 0, offset) + 1
        operation = self.operation_at(offset)
        own = operation[2] if operation is not None and operation[0] >= end else ()
        found = [
            name.text
            for name in self.names
            if name.kind == "value" and name.defines and name.start < offset and name.scope in reached
            if not (name.start >= end and name.text in own)
        ]
        return list(dict.fromkeys(reversed(found)))

    def operation_at(self, offset: int) -> tuple[int, str, tuple[str, ...]] | None:
        """Where the operation that `offset` is in the text of begins, its name and its values; None before the first."""
        place = bisect_right(self._operation_starts, offset) - 1
        if place < 0:
            return None
        start = self._operation_starts[place]
        return (start, *self.operations[start])

    def operation_defining(self, made: Name) -> tuple[int, str, tuple[str, ...]] | None:
        """The operation whose result list `made` stands in."""
        place = bisect_right(self._operation_starts, made.start)
        if place < len(self._operation_starts):
            start = self._operation_starts[place]
            name, values = self.operations[start]
            if made.text in values and "\n" not in self.text[made.start : start]:
                return start, name, values
        return None

    @cached_property
    def _operation_starts(self) -> list[int]:
        return sorted(self.operations)

    def function_at(self, offset: int) -> Symbol | None:
        """The innermost symbol whose text `offset` is in."""
        inside = [s for s in self.symbols if s.start <= offset <= s.end]
        return inside[-1] if inside else None

    def _scope_at(self, offset: int) -> int:
        best = 0
        for number, scope in enumerate(self.scopes):
            if scope.start <= offset <= scope.end and scope.start >= self.scopes[best].start:
                best = number
        return best

    def _reach(self, scope: int) -> Iterator[int]:
        """The scopes whose values are seen in `scope`."""
        while scope >= 0:
            yield scope
            if self.scopes[scope].isolated:
                return
            scope = self.scopes[scope].parent


class _Scanner:
    """One pass over the tokens."""

    def __init__(self, index: TextIndex):
        self.index = index
        self.open = [0]
        index.scopes.append(Scope(-1, 0, len(index.text), True))
        self.tokens = [
            (match.lastgroup or "", match.group(), match.start(), match.end())
            for match in _TOKEN.finditer(index.text)
            if match.lastgroup != "comment"
        ]

    def scan(self) -> None:
        tokens, scopes, names = self.tokens, self.index.scopes, self.index.names
        header: Symbol | None = None  # a function whose body has not begun
        symbols_open: list[tuple[int, Symbol]] = []
        parens, argument_parens = 0, -1
        begins = True  # whether an operation may begin here
        for place, (kind, text, start, end) in enumerate(tokens):
            if kind == "mark":
                if text == "{":
                    isolated = header is not None and parens == 0 and self._previous(place) != "attributes"
                    scopes.append(Scope(self.open[-1], start, len(self.index.text), isolated))
                    self.open.append(len(scopes) - 1)
                    if isolated and header is not None:
                        self._move_arguments(header, len(scopes) - 1)
                        symbols_open.append((len(scopes) - 1, header))
                        header = None
                    begins = header is None
                elif text == "}":
                    if len(self.open) > 1:
                        closed = self.open.pop()
                        scopes[closed].end = end
                        if symbols_open and symbols_open[-1][0] == closed:
                            symbols_open.pop()[1].end = end
                    begins = False
                elif text == "(":
                    parens += 1
                    if argument_parens < 0 and place and self._takes_arguments(place - 1):
                        argument_parens = parens
                elif text == ")":
                    if argument_parens == parens:
                        argument_parens = -1
                    parens = max(parens - 1, 0)
                elif text == "\n":
                    begins = True
                elif text == "=":
                    begins = True
                elif text not in (",", ":"):
                    begins = False
                continue
            if kind == "value":
                defines = self._is_assigned(place) or (
                    argument_parens > 0 and parens == argument_parens and self._next(place) == ":"
                )
                names.append(Name("value", text, start, end, self.open[-1], defines))
                begins = False
            elif kind == "symbol":
                operation = self._symbol_operation(place)
                names.append(Name("symbol", text, start, end, self.open[-1], operation is not None))
                if operation is not None:
                    begin, word = operation
                    if header is not None:
                        header.end = begin
                    symbol = Symbol(text, word, start, begin, self._line_end(end), self.open[-1])
                    self.index.symbols.append(symbol)
                    header, parens, argument_parens = (symbol if _FUNCTION.search(word) else None), 0, -1
                begins = False
            elif kind == "block":
                defines = begins and self._next(place) in (":", "(")
                names.append(Name("block", text, start, end, self.open[-1], defines))
            elif kind == "alias":
                if "." not in text and self.index.text[end : end + 1] != "<":
                    defines = begins and self._next(place) == "="
                    names.append(Name("alias", text, start, end, 0, defines))
                begins = False
            elif kind in ("word", "string") and begins:
                word = text.strip('"')
                is_key = self._previous(place) in ("{", ",") and self._next(place) in ("=", ",", "}")
                if not is_key and ("." in word or _SYMBOL_OPS.search(word)):
                    self.index.operations[start] = (word, self._results(place))
                    if header is not None and parens == 0:
                        header = None  # a declaration has no body
                begins = False

    def _next(self, place: int) -> str:
        return self.tokens[place + 1][1] if place + 1 < len(self.tokens) else ""

    def _previous(self, place: int) -> str:
        return self.tokens[place - 1][1] if place else ""

    def _is_assigned(self, place: int) -> bool:
        """`%a =`, `%a:2 =`, `%a, %b =`, `(%a, %b) =`, `(%a) in`"""
        tokens, at = self.tokens, place + 1
        while at < len(tokens):
            _, text, _, end = tokens[at]
            if text == "=":
                return True
            if text == ":" and self.index.text[end : end + 1].isdigit():
                at += 1
            elif text == "," and at + 1 < len(tokens) and tokens[at + 1][0] == "value":
                at += 2
            elif text == ")" and at + 1 < len(tokens) and tokens[at + 1][1] in ("=", "in"):
                return True
            else:
                return False
        return False

    def _takes_arguments(self, place: int) -> bool:
        """Whether the parenthesis behind the token lists the arguments of a function or a block."""
        kind, _, start, _ = self.tokens[place]
        if kind == "block":
            return self.index.names[-1].start == start and self.index.names[-1].defines
        return kind == "symbol" and bool(self.index.symbols) and self.index.symbols[-1].name_start == start

    def _symbol_operation(self, place: int) -> tuple[int, str] | None:
        """Where the operation that defines the symbol at `place` begins, and its name; None for a use."""
        at = place - 1
        while at >= 0 and self.tokens[at][0] in ("word", "string"):
            if self.tokens[at][2] in self.index.operations:
                word = self.index.operations[self.tokens[at][2]][0]
                return (self.tokens[at][2], word) if _SYMBOL_OPS.search(word) else None
            at -= 1
        return None

    def _results(self, place: int) -> tuple[str, ...]:
        """The values on the left of the operation at `place`, as often as they have results (`%a:2`)."""
        if place == 0 or self.tokens[place - 1][1] != "=":
            return ()
        found: list[str] = []
        at = place - 2
        while at >= 0 and self.tokens[at][1] != "\n":
            kind, text, _, end = self.tokens[at]
            if kind == "value":
                count = re.match(r"\s*:\s*(\d{1,3})", self.index.text[end : end + 20])
                found += [text] * (int(count[1]) if count else 1)
            at -= 1
        return tuple(reversed(found))

    def _move_arguments(self, header: Symbol, scope: int) -> None:
        """The arguments of a function belong to its body."""
        names = self.index.names
        for at in range(len(names) - 1, -1, -1):
            name = names[at]
            if name.start < header.start:
                return
            if name.kind == "value":
                names[at] = Name(name.kind, name.text, name.start, name.end, scope, name.defines)

    def _line_end(self, offset: int) -> int:
        found = self.index.text.find("\n", offset)
        return len(self.index.text) if found < 0 else found
