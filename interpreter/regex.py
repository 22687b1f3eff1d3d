"""
Regular expressions in RE2's syntax (https://github.com/google/re2/wiki/Syntax) as automata over the bytes of UTF-8.

A pattern is parsed to a tree, the tree becomes a nondeterministic automaton whose edges are ranges of bytes, and that a
deterministic one: matching is one table lookup a byte, whatever the pattern. What matters only for where a match ends
(lazy repetition, names of groups) has no effect, since a match is of the whole string.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from stepwell.interpreter.casing import case_map

MAX_NODES = 200_000
MAX_STATES = 20_000
MAX_WORK = 5_000_000
"""Steps of the construction: some seconds."""
MAX_DEPTH = 100
"""Of groups in groups."""
MAX_REPEAT = 1000
"""As in RE2."""


class PatternError(ValueError):
    """A pattern that has no automaton here; `is_legal`: RE2 knows it."""

    def __init__(self, why: str, is_legal: bool = False):
        super().__init__(why)
        self.is_legal = is_legal


@dataclass(frozen=True)
class Automaton:
    """`following[state, classes[byte]]` is the next state; 1 is the first, 0 accepts nothing."""

    classes: np.ndarray
    """uint8[256]"""
    following: np.ndarray
    """int32[states, number of classes]"""
    accepts: np.ndarray
    """bool[states]"""

    def matches(self, data: bytes) -> bool:
        """Whether the automaton accepts all of `data`."""
        state = 1
        for byte in data:
            state = int(self.following[state, self.classes[byte]])
        return bool(self.accepts[state])


@cache
def automaton_of(pattern: str) -> Automaton:
    """The automaton that accepts what the whole `pattern` matches."""
    return _determinise(_Network(_Parser(pattern).parse()))


# --- the tree -------------------------------------------------------------------------------------

Ranges = tuple[tuple[int, int], ...]
_LAST = 0x10FFFF


@dataclass(frozen=True)
class _Set:
    """One character of these ranges."""

    ranges: Ranges


@dataclass(frozen=True)
class _Byte:
    """Any byte (`\\C`)."""


@dataclass(frozen=True)
class _Assertion:
    """`begin`, `end`, `line begin`, `line end`, `boundary` or `no boundary`."""

    kind: str


@dataclass(frozen=True)
class _Sequence:
    parts: tuple["_Node", ...]


@dataclass(frozen=True)
class _Choice:
    branches: tuple["_Node", ...]


@dataclass(frozen=True)
class _Repeat:
    part: "_Node"
    least: int
    most: int | None


_Node = _Set | _Byte | _Assertion | _Sequence | _Choice | _Repeat


def _united(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """The same characters in ascending ranges that do not touch."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], high)
        else:
            result.append((low, high))
    return tuple(result)


def _complement(ranges: Sequence[tuple[int, int]]) -> Ranges:
    result: list[tuple[int, int]] = []
    start = 0
    for low, high in _united(ranges):
        if start < low:
            result.append((start, low - 1))
        start = high + 1
    return (*result, (start, _LAST)) if start <= _LAST else tuple(result)


@cache
def _orbits() -> dict[int, tuple[int, ...]]:
    """For each character that is some other one but for its case: all of those, itself included."""
    lower, upper = case_map("lower"), case_map("upper")
    groups: dict[int, set[int]] = {}
    for code in {*lower, *upper, *lower.values(), *upper.values()}:
        raised = upper.get(code, code)
        groups.setdefault(lower.get(raised, raised), set()).add(code)
    return {code: tuple(sorted(group)) for group in groups.values() for code in group if len(group) > 1}


def _without_case(ranges: Ranges) -> Ranges:
    more = [
        (other, other)
        for code, group in _orbits().items()
        if any(low <= code <= high for low, high in ranges)
        for other in group
    ]
    return _united([*ranges, *more])


def _spans(text: str) -> Ranges:
    """`"az09"`: from a to z and from 0 to 9."""
    return _united([(ord(a), ord(b)) for a, b in zip(text[::2], text[1::2], strict=True)])


_PERL = {"d": _spans("09"), "s": _spans("\t\n\f\r  "), "w": _spans("09AZaz__")}
_POSIX = {
    "alnum": _spans("09AZaz"), "alpha": _spans("AZaz"), "ascii": _spans("\0\x7f"), "blank": _spans("\t\t  "),
    "cntrl": _spans("\0\x1f\x7f\x7f"), "digit": _spans("09"), "graph": _spans("!~"), "lower": _spans("az"),
    "print": _spans(" ~"), "punct": _spans("!/:@[`{~"), "space": _spans("\t\r  "), "upper": _spans("AZ"),
    "word": _spans("09AZaz__"), "xdigit": _spans("09AFaf"),
}  # fmt: skip
_ESCAPES = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_ANY = _complement(())
_NOT_NEWLINE = _complement(_spans("\n\n"))


@cache
def _category(name: str) -> Ranges:
    """The characters of a general category of Unicode (`L`, `Lu`, ...)."""
    found = [
        (code, code)
        for code in range(_LAST + 1)
        if unicodedata.category(chr(code)).startswith(name) and not 0xD800 <= code < 0xE000
    ]
    if not found:
        raise PatternError(f"the class \\p{{{name}}} is no general category of Unicode", is_legal=True)
    return _united(found)


class _Parser:
    """A pattern's characters, read from left to right."""

    def __init__(self, pattern: str):
        self.text = pattern
        self.at = 0
        self.flags = {"i": False, "m": False, "s": False, "U": False}
        self.depth = 0

    def parse(self) -> _Node:
        node = self._choice()
        if self.at < len(self.text):
            raise PatternError(f"')' without '(' at character {self.at}")
        return node

    def _peek(self, word: str) -> bool:
        return self.text.startswith(word, self.at)

    def _take(self, word: str) -> bool:
        if self._peek(word):
            self.at += len(word)
            return True
        return False

    def _next(self, what: str) -> str:
        if self.at >= len(self.text):
            raise PatternError(f"it ends where {what} is expected")
        self.at += 1
        return self.text[self.at - 1]

    def _choice(self) -> _Node:
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else _Choice(tuple(branches))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if self._take("\\Q"):
                end = self.text.find("\\E", self.at)
                quoted = self.text[self.at : end if end >= 0 else len(self.text)]
                self.at = min(len(self.text), self.at + len(quoted) + 2)
                parts += [self._set(((ord(c), ord(c)),)) for c in quoted]
                if quoted:
                    parts[-1] = self._repeated(parts[-1])
                continue
            begin = self.at
            part = self._part()
            if part is None:
                if self._repetition() is not None:
                    raise PatternError(f"nothing to repeat at character {begin}")
                continue
            parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _repeated(self, part: _Node) -> _Node:
        count = self._repetition()
        if count is None:
            return part
        begin = self.at
        if self._repetition() is not None:
            raise PatternError(f"a repetition of a repetition at character {begin}")
        return _Repeat(part, *count)

    def _repetition(self) -> tuple[int, int | None] | None:
        count: tuple[int, int | None] | None = None
        if self._take("*"):
            count = 0, None
        elif self._take("+"):
            count = 1, None
        elif self._take("?"):
            count = 0, 1
        elif self._peek("{") and (end := self.text.find("}", self.at)) > 0:
            least, comma, most = self.text[self.at + 1 : end].partition(",")
            if not _is_number(least) or not (most == "" or _is_number(most)):
                return None  # a brace as it is
            count = int(least), int(least) if not comma else int(most) if most else None
            if max(count[0], count[1] or 0) > MAX_REPEAT or (count[1] is not None and count[1] < count[0]):
                raise PatternError(f"the repetition {self.text[self.at : end + 1]} is out of range")
            self.at = end + 1
        if count is not None:
            self._take("?")  # lazy: the same strings match
        return count

    def _set(self, ranges: Ranges) -> _Node:
        return _Set(_without_case(ranges) if self.flags["i"] else _united(ranges))

    def _part(self) -> _Node | None:
        """What a repetition may follow; None for flags alone."""
        character = self._next("an expression")
        if character == "(":
            return self._group()
        if character == "[":
            return _Set(self._class())
        if character == ".":
            return _Set(_ANY if self.flags["s"] else _NOT_NEWLINE)
        if character == "^":
            return _Assertion("line begin" if self.flags["m"] else "begin")
        if character == "$":
            return _Assertion("line end" if self.flags["m"] else "end")
        if character == "\\":
            return self._escape()
        if character in "*+?":
            raise PatternError(f"nothing to repeat at character {self.at - 1}")
        return self._set(((ord(character), ord(character)),))

    def _group(self) -> _Node | None:
        outer = dict(self.flags)
        if self._take("?"):
            for mark, name in (("=", "lookahead"), ("!", "lookahead"), ("<=", "lookbehind"), ("<!", "lookbehind"),
                               ("#", "comments"), (">", "atomic groups")):  # fmt: skip
                if self._peek(mark):
                    raise PatternError(f"RE2 knows no {name} ((?{mark} at character {self.at - 2})")
            if self._take("P<") or self._take("<"):
                end = self.text.find(">", self.at)
                if end < 0 or not self.text[self.at : end].isidentifier():
                    raise PatternError(f"a group without a name at character {self.at}")
                self.at = end + 1
            elif not self._flags():
                return None
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"its groups are nested more than {MAX_DEPTH} deep", is_legal=True)
        node = self._choice()
        self.depth -= 1
        if not self._take(")"):
            raise PatternError("a ')' is missing")
        self.flags = outer
        return node

    def _flags(self) -> bool:
        """Flags of a group; False where they stand alone and hold to the end of the group around."""
        value = True
        while True:
            character = self._next("a flag")
            if character in self.flags:
                self.flags[character] = value
            elif character == "-" and value:
                value = False
            elif character in ":)":
                return character == ":"
            else:
                raise PatternError(f"'(?{character}' at character {self.at - 1} is no group of RE2")

    def _escape(self) -> _Node:
        character = self._next("an escaped character")
        assertions = {"A": "begin", "z": "end", "b": "boundary", "B": "no boundary"}
        if character in assertions:
            return _Assertion(assertions[character])
        if character == "C":
            return _Byte()
        if (ranges := self._class_escape(character)) is not None:
            return _Set(ranges)
        code = self._character_escape(character)
        return self._set(((code, code),))

    def _class_escape(self, character: str) -> Ranges | None:
        if character.lower() in _PERL:
            found = _PERL[character.lower()]
            return found if character.islower() else _complement(found)
        if character not in "pP":
            return None
        name = self._next("the name of a class")
        if name == "{":
            end = self.text.find("}", self.at)
            if end < 0:
                raise PatternError("a '}' is missing")
            name, self.at = self.text[self.at : end], end + 1
        negated = (character == "P") != name.startswith("^")
        found = _ANY if name.lstrip("^") == "Any" else _category(name.lstrip("^"))
        found = _without_case(found) if self.flags["i"] else found
        return _complement(found) if negated else found

    def _character_escape(self, character: str) -> int:
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character == "x":
            digits = self._next("a hexadecimal digit")
            if digits == "{":
                end = self.text.find("}", self.at)
                digits, self.at = self.text[self.at : max(end, self.at)], end + 1
            else:
                digits += self._next("a hexadecimal digit")
            if (
                not digits
                or any(c not in "0123456789abcdefABCDEF" for c in digits)
                or int(digits, 16) > _LAST
            ):
                raise PatternError(f"\\x{{{digits}}} is no character")
            return int(digits, 16)
        if character in "01234567":
            digits = character
            while len(digits) < 3 and self.at < len(self.text) and self.text[self.at] in "01234567":
                digits += self._next("a digit")
            if character == "0" or len(digits) == 3:
                return int(digits, 8)
            raise PatternError(f"RE2 knows no back-references (\\{digits})")
        if character.isascii() and not character.isalnum() and character != "\n":
            return ord(character)
        raise PatternError(f"'\\{character}' at character {self.at - 2} is no escape of RE2")

    def _class(self) -> Ranges:
        """Behind `[`."""
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while first or not self._peek("]"):
            first = False
            if self._take("[:"):
                end = self.text.find(":]", self.at)
                name = self.text[self.at : max(end, self.at)]
                if name.lstrip("^") not in _POSIX:
                    raise PatternError(f"[:{name}:] is no class of characters")
                self.at = end + 2
                found = _POSIX[name.lstrip("^")]
                ranges += _complement(found) if name.startswith("^") else found
                continue
            low = self._class_member()
            if not isinstance(low, int):
                ranges += low
                continue
            high: int | Ranges = low
            if self._peek("-") and not self._peek("-]"):
                self.at += 1
                high = self._class_member()
            if not isinstance(high, int) or high < low:
                raise PatternError(f"a range that is none before character {self.at}")
            ranges.append((low, high))
        self.at += 1
        united = _without_case(_united(ranges)) if self.flags["i"] else _united(ranges)
        return _complement(united) if negated else united

    def _class_member(self) -> int | Ranges:
        character = self._next("']'")
        if character != "\\":
            return ord(character)
        character = self._next("an escaped character")
        found = self._class_escape(character)
        return self._character_escape(character) if found is None else found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


# --- the nondeterministic automaton ---------------------------------------------------------------


def _encoded(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """Sequences of ranges of bytes: together the UTF-8 of the characters from `low` to `high`."""
    if low <= 0xDFFF and high >= 0xD800:  # surrogates are no characters
        if low < 0xD800:
            yield from _encoded(low, 0xD7FF)
        if high > 0xDFFF:
            yield from _encoded(0xE000, high)
        return
    for last in (0x7F, 0x7FF, 0xFFFF):
        if low <= last < high:
            yield from _encoded(low, last)
            yield from _encoded(last + 1, high)
            return
    if high > 0x7F:
        for count in (1, 2, 3):
            mask = (1 << 6 * count) - 1
            if low & ~mask != high & ~mask:
                if low & mask:
                    yield from _encoded(low, low | mask)
                    yield from _encoded((low | mask) + 1, high)
                    return
                if high & mask != mask:
                    yield from _encoded(low, (high & ~mask) - 1)
                    yield from _encoded(high & ~mask, high)
                    return
    yield list(zip(chr(low).encode(), chr(high).encode(), strict=True))


@dataclass
class _Network:
    """Nodes with edges: (low, high, target) for bytes, (assertion or None, target) for none."""

    tree: _Node
    bytes_out: list[list[tuple[int, int, int]]] = field(default_factory=list)
    free_out: list[list[tuple[str | None, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shared: dict[tuple[Ranges, int], int] = {}
        self.final = self._node()
        self.first = self._build(self.tree, self.final)

    def _node(self) -> int:
        if len(self.bytes_out) >= MAX_NODES:
            raise PatternError(f"its automaton has more than {MAX_NODES} nodes", is_legal=True)
        self.bytes_out.append([])
        self.free_out.append([])
        return len(self.bytes_out) - 1

    def _build(self, tree: _Node, target: int) -> int:
        """A node from which `tree` leads to `target`."""
        match tree:
            case _Set(ranges):
                return self._characters(ranges, target)
            case _Byte():
                node = self._node()
                self.bytes_out[node].append((0, 255, target))
                return node
            case _Assertion(kind):
                node = self._node()
                self.free_out[node].append((kind, target))
                return node
            case _Sequence(parts):
                for part in reversed(parts):
                    target = self._build(part, target)
                return target
            case _Choice(branches):
                node = self._node()
                self.free_out[node] += [(None, self._build(branch, target)) for branch in branches]
                return node
            case _Repeat(part, least, most):
                if most is None:
                    loop = self._node()
                    self.free_out[loop] += [(None, self._build(part, loop)), (None, target)]
                    target = loop
                else:
                    end = target
                    for _ in range(most - least):
                        node = self._node()
                        self.free_out[node] += [(None, self._build(part, target)), (None, end)]
                        target = node
                for _ in range(least):
                    target = self._build(part, target)
                return target

    def _characters(self, ranges: Ranges, target: int) -> int:
        """Sets repeat, and so do the last bytes of their characters: both are shared."""
        if (found := self._shared.get((ranges, target))) is not None:
            return found
        node = self._shared[ranges, target] = self._node()
        for low, high in ranges:
            for first, *rest in _encoded(low, high):
                onward = target
                for span in reversed(rest):
                    key = ((span, (-1, -1)), onward)  # no set of characters
                    if key not in self._shared:
                        self._shared[key] = self._node()
                        self.bytes_out[self._shared[key]].append((*span, onward))
                    onward = self._shared[key]
                self.bytes_out[node].append((*first, onward))
        return node


# --- the deterministic automaton ------------------------------------------------------------------

_EDGE, _NEWLINE, _WORD, _OTHER = range(4)
"""What stands beside a place of the string: its begin or end, or a byte of some kind."""


def _kind(byte: int) -> int:
    if byte == 10:
        return _NEWLINE
    return _WORD if any(low <= byte <= high for low, high in _PERL["w"]) else _OTHER


def _holds(assertion: str, before: int, behind: int) -> bool:
    match assertion:
        case "begin":
            return before == _EDGE
        case "end":
            return behind == _EDGE
        case "line begin":
            return before in (_EDGE, _NEWLINE)
        case "line end":
            return behind in (_EDGE, _NEWLINE)
        case _:
            return ((before == _WORD) != (behind == _WORD)) == (assertion == "boundary")


def _determinise(network: _Network) -> Automaton:
    """A state is a set of nodes and what stands before them; assertions are decided by the byte that follows."""
    asserts = any(kind is not None for edges in network.free_out for kind, _ in edges)
    cuts = {0, 256}
    for edges in network.bytes_out:
        for low, high, _ in edges:
            cuts |= {low, high + 1}
    if asserts:
        cuts |= {byte for byte in range(1, 256) if _kind(byte) != _kind(byte - 1)}
    bounds = sorted(cuts)
    classes = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)).astype(np.uint8)
    firsts = bounds[:-1]

    def closure(nodes: frozenset[int], before: int, behind: int) -> set[int]:
        reached, todo = set(nodes), list(nodes)
        while todo:
            for kind, target in network.free_out[todo.pop()]:
                if target not in reached and (kind is None or _holds(kind, before, behind)):
                    reached.add(target)
                    todo.append(target)
        return reached

    start = frozenset((network.first,)), _EDGE if asserts else _OTHER
    numbers = {(frozenset(), _OTHER): 0, start: 1}
    rows: list[list[int]] = [[0] * len(firsts)]
    accepts = [False]
    pending = [start]
    kinds = [_kind(byte) if asserts else _OTHER for byte in firsts]
    work = 0
    for nodes, before in pending:
        targets: list[set[int]] = [set() for _ in firsts]
        for kind in set(kinds):
            for node in closure(nodes, before, kind):
                for low, high, onward in network.bytes_out[node]:
                    span = range(int(classes[low]), int(classes[high]) + 1)
                    work += len(span)
                    for column in span:
                        if kinds[column] == kind:
                            targets[column].add(onward)
        if work > MAX_WORK:
            raise PatternError("its automaton takes too long to make", is_legal=True)
        row: list[int] = []
        accepts.append(network.final in closure(nodes, before, _EDGE))
        for target, kind in zip(map(frozenset, targets), kinds, strict=True):
            state = target, kind if target else _OTHER
            if state not in numbers:
                if len(numbers) >= MAX_STATES:
                    raise PatternError(f"its automaton has more than {MAX_STATES} states", is_legal=True)
                numbers[state] = len(numbers)
                pending.append(state)
            row.append(numbers[state])
        rows.append(row)
    return Automaton(classes, np.array(rows, np.int32), np.array(accepts, bool))
