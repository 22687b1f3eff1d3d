"""From textual LLVM IR to lark's tree by `llvm_ir.lark`, and errors that point into the text."""

import re
import sys
from bisect import bisect_left
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import FileLineColLoc, IntAttr, StringAttr
from xdsl.utils.exceptions import ParseError
from xdsl.utils.lexer import Input, Span

from stepwell.backends.cpu.cache import cache_directory, key_of, write_atomically
from stepwell.diagnostics import Place, UnsupportedOperation
from stepwell.errors import CompileError

_MAX_DEPTH = 200
"""Brackets within brackets, so that no walk of the tree runs out of Python's stack."""


@cache
def _grammar() -> Any:
    """The parser; its tables are kept in the user's cache, since building them takes 0.15 s."""
    import lark

    text = Path(__file__).with_name("llvm_ir.lark").read_text(encoding="utf-8")
    try:
        version = ".".join(str(part) for part in sys.version_info[:3])
        place = cache_directory() / "grammars" / key_of(text, lark.__version__, version)
        place.parent.mkdir(mode=0o700, exist_ok=True)
    except (CompileError, OSError):
        place = None
    if place is not None and place.exists():
        try:
            with place.open("rb") as file:
                return lark.Lark.load(file)
        except Exception:  # a damaged entry is built again
            pass
    built = lark.Lark(text, parser="lalr", lexer="contextual", maybe_placeholders=True)
    if place is not None:
        from io import BytesIO

        data = BytesIO()
        built.save(data)
        try:
            write_atomically(place, data.getvalue())
        except (CompileError, OSError):
            pass
    return built


_column = lru_cache(maxsize=256)(IntAttr)


class _Token(str):
    """A piece of the text; where its line begins is counted only when it is asked for."""

    __slots__ = ("_line_ends", "start_pos", "type")
    type: str
    start_pos: int

    @property
    def line(self) -> int:
        return bisect_left(self._line_ends, self.start_pos) + 1  # pyright: ignore

    @property
    def column(self) -> int:
        line = self.line
        return self.start_pos - (self._line_ends[line - 2] if line > 1 else -1)  # pyright: ignore


class _Scanner:
    """
    Lark's contextual lexer with one match a token: what is ignored goes with the token behind it, and no lines are counted,
    which is most of what lark does. Tokens are the same: those that the parser can take in its state, the ones of higher
    priority first; a word that is also a keyword there is the keyword.
    """

    def __init__(self, grammar: Any):
        self.terminals = sorted(
            grammar.terminals,
            key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name),
        )
        ignored = [t.pattern.to_regexp() for t in self.terminals if t.name in grammar.lexer_conf.ignore]
        self.ignored = f"(?:{'|'.join(ignored)})*"
        self._known: dict[frozenset[str], tuple[Any, dict[str, dict[str, str]]]] = {}

    def of(self, accepted: frozenset[str]) -> tuple[Any, dict[str, dict[str, str]]]:
        """What matches one of these tokens, and the keywords among the words of a type."""
        if (known := self._known.get(accepted)) is not None:
            return known
        keywords: dict[str, dict[str, str]] = {}
        embedded: set[str] = set()
        choice = [t for t in self.terminals if t.name in accepted]
        for word in choice:
            if word.pattern.type != "re":
                continue
            found = {
                t.pattern.value: t.name
                for t in choice
                if t.pattern.type == "str" and t.priority == word.priority
                and re.fullmatch(word.pattern.to_regexp(), t.pattern.value)
            }  # fmt: skip
            if found:
                keywords[word.name] = found
                embedded.update(found.values())
        texts = [f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in choice if t.name not in embedded]
        match = re.compile(self.ignored + f"(?:{'|'.join([*texts, '(?P<_END>' + chr(92) + 'Z)'])})").match
        self._known[accepted] = match, keywords
        return match, keywords


_scanner = cache(_Scanner)


def _tree(text: str) -> Any:
    """The tree of `text`, or None where it is wrong: lark says why."""
    from lark.exceptions import UnexpectedInput

    grammar = _grammar()
    state = grammar.parse_interactive("").parser_state
    states, stack, feed = state.parse_conf.states, state.state_stack, state.feed_token
    scanner, matchers = _scanner(grammar), {}
    line_ends = [match.start() for match in re.finditer("\n", text)]
    position = 0
    try:
        while True:
            top = stack[-1]
            if (found := matchers.get(top)) is None:
                found = matchers[top] = scanner.of(frozenset(states[top]))
            match = found[0](text, position)
            if match is None:
                return None
            type: str = match.lastgroup
            value = match[type]
            token = _Token(value)
            token._line_ends, token.start_pos = line_ends, match.start(type)
            if type == "_END":
                token.type = "$END"
                return feed(token, True)
            position = match.end()
            if (keywords := found[1].get(type)) is not None:
                type = keywords.get(value, type)
            token.type = type
            feed(token)
    except UnexpectedInput:
        return None


class Source:
    """The text that is read, and errors at places in it."""

    def __init__(self, text: str, name: str):
        self.text, self.name = text, name
        self._file, self._line = StringAttr(name), IntAttr(0)

    def error(self, node: Any, message: str) -> ParseError:
        """The error to raise because of `node`: a token, a tree or a position."""
        start = node if isinstance(node, int) else first_token(node).start_pos
        end = min(start + 1, len(self.text)) if isinstance(node, int) else start + 1
        return ParseError(Span(start, end, Input(self.text, self.name)), message)

    def unsupported(self, node: Any, what: str, fix: str) -> UnsupportedOperation:
        """The error to raise where valid LLVM IR cannot be said in the llvm dialect."""
        token = first_token(node)
        place = Place(self.name, token.line, token.column)
        return UnsupportedOperation(str(place), f"{what}; {fix}", place)

    def location(self, token: Any) -> FileLineColLoc:
        line = token.line
        if line != self._line.data:
            self._line = IntAttr(line)
        return FileLineColLoc(self._file, self._line, _column(token.column))

    def parse(self) -> list[Any]:
        """The top-level trees and tokens of the text."""
        from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput

        self._check_depth()
        try:
            tree = _tree(self.text)
            return (_grammar().parse(self.text) if tree is None else tree).children
        except UnexpectedCharacters as error:
            found = self.text[error.pos_in_stream]
            raise self.error(error.pos_in_stream, f"unexpected character {found!r}") from None
        except UnexpectedEOF:
            raise self.error(len(self.text), "the text ends in the middle of a definition") from None
        except UnexpectedInput as error:
            token = error.token  # pyright: ignore[reportAttributeAccessIssue]
            if token.type == "$END":
                what = "the text ends in the middle of a definition"
                raise self.error(len(self.text), what) from None
            for read in (token, *reversed(error.state.value_stack[-6:])):  # pyright: ignore
                unread = first_token(read)
                if getattr(unread, "type", "") == "UNREAD" or str(unread) in _UNREAD:
                    what = f"`{unread}` has no op in the llvm dialect"
                    raise self.unsupported(unread, what, "compile to IR without it") from None
            raise self.error(token, f"unexpected `{str(token)[:40]}`{_hint(error)}") from None

    def _check_depth(self) -> None:
        depth = 0
        for match in re.finditer(r"[([{]|[)\]}]", self.text):
            if match[0] in "([{":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise self.error(match.start(), f"brackets are nested deeper than {_MAX_DEPTH}")
            else:
                depth = max(0, depth - 1)


_UNREAD = {
    "alias",
    "ifunc",
    "asm",
    "blockaddress",
    "dso_local_equivalent",
    "no_cfi",
    "ptrauth",
    "vscale",
    "opaque",
}
"""Words that begin what the dialect does not say, where the grammar takes them for something else."""


def _hint(error: Any) -> str:
    names = {
        "COMMA": "','", "LPAR": "'('", "RPAR": "')'", "LBRACE": "'{'", "LSQB": "'['", "RSQB": "']'",
        "TYPE": "a type", "LOCAL": "a value", "TO": "'to'", "TARGET_LABEL": "a label",
        "RESULT": "an instruction", "INTEGER": "a number",
    }  # fmt: skip
    wanted = [text for name, text in names.items() if name in (error.accepts or error.expected)]
    return f"; expected {' or '.join(wanted[:3])}" if wanted else ""


def first_token(node: Any) -> Any:
    """The token at which `node` begins, passing over those that the grammar does not keep."""
    stack = [node]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if not hasattr(node, "children"):
            return node
        stack.extend(reversed(node.children))
    return _NOWHERE


class _Nowhere:
    """Stands for the place of a tree without tokens."""

    start_pos = 0
    line = 1
    column = 1


_NOWHERE = _Nowhere()
