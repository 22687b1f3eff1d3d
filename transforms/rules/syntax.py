"""The text of `.pat` files as a tree of dataclasses; what cannot be read is an error with its line and a caret."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from stepwell.errors import CompileError


class RuleError(CompileError):
    """A file of rules is wrong: `file:line:column: why; what to do`, with the line and a caret."""


@dataclass(frozen=True)
class Source:
    """The text of a file, for messages."""

    name: str
    text: str

    def error(self, at: int, message: str) -> RuleError:
        """An error at the offset `at`."""
        at = min(max(at, 0), len(self.text))
        start = self.text.rfind("\n", 0, at) + 1
        line = self.text[start:].split("\n", 1)[0].replace("\t", " ")
        place = f"{self.name}:{self.line(at)}:{at - start + 1}"
        return RuleError(f"{place}: {message}\n  {line}\n  {' ' * (at - start)}^")

    def line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


# Values: conditions, attributes, the right side


@dataclass(frozen=True)
class Name:
    name: str
    at: int


@dataclass(frozen=True)
class Rest:
    """`xs...`: several values."""

    name: str
    at: int


@dataclass(frozen=True)
class Number:
    text: str
    at: int

    @property
    def value(self) -> int | float | bool:
        if self.text in ("true", "false"):
            return self.text == "true"
        return float(self.text) if any(c in self.text for c in ".eE") else int(self.text)


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Absent:
    """`none`."""


@dataclass(frozen=True)
class ListOf:
    items: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Item:
    of: "Expression"
    index: "Expression"


@dataclass(frozen=True)
class Infix:
    """`a + b`, `a == b`, `a and b and c`."""

    sign: str
    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Not:
    what: "Expression"


@dataclass(frozen=True)
class Call:
    """A call of a native function, or an op to make."""

    name: str
    arguments: "tuple[Expression, ...]"
    attributes: "tuple[tuple[str, Expression, int], ...]"
    type: "Expression | None"
    at: int


Expression = Name | Rest | Number | Text | Absent | ListOf | Item | Infix | Not | Call


# The left side


@dataclass(frozen=True)
class Operand:
    """A name for an operand: `x`, `x : type`, `x?`, `xs...`, `constant x`."""

    name: str
    kind: str
    type: str | None
    at: int


@dataclass(frozen=True)
class Numbers:
    """A constant that equals one of these."""

    numbers: tuple[Number, ...]
    label: str | None
    at: int


@dataclass(frozen=True)
class OpPattern:
    name: str
    label: str | None
    is_commutative: bool
    operands: "tuple[Operand | Numbers | OpPattern, ...]"
    attributes: tuple[tuple[str, Expression, int], ...]
    at: int


@dataclass(frozen=True)
class Binding:
    name: str
    value: Expression
    at: int


@dataclass
class RuleText:
    """One rule as it is written."""

    name: str
    law: tuple[str, ...]
    line: int
    at: int
    pattern: OpPattern
    outcomes: tuple[str, ...]
    replacements: tuple[Expression, ...]
    conditions: list[Binding | Expression] = field(default_factory=list)
    samples: list[Binding] = field(default_factory=list)
    families: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    """A name for any of some ops, and the ops with their places."""
    benefit: int = 1
    tolerance: float = 0.0


@dataclass
class RuleFile:
    """A file of rules: what its first comment says, the modules of its native functions, its rules."""

    source: Source
    title: str
    uses: list[tuple[str, int]]
    rules: list[RuleText]
    after: str | None = None
    """The pass behind which the rules join the pipelines, as a pass of a plug-in."""


def parse_rules(text: str, name: str = "<rules>") -> RuleFile:
    """The rules written in `text`; an error says at which place it cannot be read."""
    source = Source(name, text)
    tree = _parse(source)
    lines = text.split("\n")
    file = RuleFile(source, _title(lines), [], [])
    for node in tree.children:
        if node.data == "use":
            file.uses.append((str(node.children[0]).strip('"'), node.children[0].start_pos))
        elif node.data == "after":
            file.after = str(node.children[0])
        else:
            file.rules.append(_rule(node, source, lines))
    names: set[str] = set()
    for rule in file.rules:
        if rule.name in names:
            raise source.error(rule.at, f"rule '{rule.name}' stands here twice; rename one")
        names.add(rule.name)
    if not file.rules:
        raise source.error(
            len(text), "there is no rule in this file; write `rule name match ... rewrite ...`"
        )
    return file


@cache
def _parser() -> Any:
    from lark import Lark

    grammar = Path(__file__).with_name("pat.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=True)


_SPELLINGS = {
    "RULE_NAME": "a rule name such as drop-identity", "NAME": "a name", "DOTTED": "an op such as graph.add", "INT": "a number",
    "FLOAT": "a number", "NEGATIVE": "a number", "LPAR": "'('", "RPAR": "')'", "LBRACE": "'{'", "RBRACE": "'}'",
    "LSQB": "'['", "RSQB": "']'", "COMMA": "','", "EQUAL": "'='", "COLON": "':'", "VBAR": "'|'", "$END": "the end",
    "__ANON_0": "'->'", "__ANON_1": "'...'", "STRING": "a string", "TENSOR": "a tensor type", "COMMUTATIVE": "'commutative'",
    "QMARK": "'?'", "AT": "'@'",
}  # fmt: skip


def _parse(source: Source) -> Any:
    from lark.exceptions import UnexpectedInput

    try:
        return _parser().parse(source.text)
    except UnexpectedInput as error:
        token = getattr(error, "token", None)
        at = error.pos_in_stream
        if token is not None and token.type == "$END":
            at = len(source.text.rstrip())
            found = "the end"
        else:
            at = len(source.text) if at is None or at < 0 else at
            word = source.text[at:].split(maxsplit=1)[0] if source.text[at:].strip() else ""
            found = f"'{token if token is not None else word[:20]}'"
        expected = getattr(error, "accepts", None) or getattr(error, "allowed", None) or set()
        words = sorted(
            {_SPELLINGS.get(e, f"'{e.lower()}'") for e in expected if not e.startswith("__IGNORE")}
        )
        hint = did_you_mean(found.strip("'"), [w.strip("'") for w in words])
        wanted = f"; expected {' or '.join(words)}" if 0 < len(words) <= 4 else ""
        raise source.error(at, f"unexpected {found}{hint or wanted}") from None


def _title(lines: Sequence[str]) -> str:
    """The comment at the head of the file, if an empty line or a `use` sets it off from the first rule."""
    title: list[str] = []
    for line in lines:
        if line.startswith("//"):
            title.append(line[2:].strip())
        elif title or line.strip():
            return "" if line.startswith("rule ") else "\n".join(title)
    return ""


def _law(lines: Sequence[str], line: int) -> tuple[str, ...]:
    """The comment right above line `line` (from 1)."""
    law: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("//"):
            break
        law.append(text.strip()[2:].strip())
    return tuple(reversed(law))


def _rule(node: Any, source: Source, lines: Sequence[str]) -> RuleText:
    token = node.children[0]
    law = _law(lines, token.line)
    if not law:
        message = (
            f"rule '{token}' has no law; write it in a comment right above, such as `// neg(neg(x)) == x`"
        )
        raise source.error(token.start_pos, message)
    match = next(child for child in node.children[1:] if child.data == "match")
    rewrite = node.children[-1]
    rule = RuleText(
        str(token),
        law,
        token.line,
        token.start_pos,
        _op_pattern(match.children[0]),
        tuple(str(child.children[0]) for child in match.children[1:] if child is not None),
        tuple(_expression(child) for child in rewrite.children),
    )
    for child in node.children[1:]:
        if child.data == "family":
            rule.families[str(child.children[0])] = tuple(
                (str(member.children[0]), member.children[0].start_pos) for member in child.children[1:]
            )
        elif child.data == "benefit":
            rule.benefit = int(child.children[0])
        elif child.data == "tolerance":
            rule.tolerance = float(child.children[0])
        elif child.data == "where":
            rule.conditions += [_condition(condition) for condition in child.children]
        elif child.data == "sample":
            rule.samples += [_binding(binding) for binding in child.children]
    return rule


def _op_pattern(node: Any) -> OpPattern:
    label, commutative, name, *rest, attributes = node.children
    token = name.children[0]
    return OpPattern(
        str(token),
        None if label is None else str(label),
        commutative is not None,
        tuple(_operand(child) for child in rest if child is not None),
        _attributes(attributes),
        token.start_pos,
    )


def _operand(node: Any) -> "Operand | Numbers | OpPattern":
    if node.data == "op_pattern":
        return _op_pattern(node)
    if node.data == "numbers":
        label, *numbers = node.children
        listed = tuple(_number(child) for child in numbers)
        return Numbers(listed, None if label is None else str(label), listed[0].at)
    token = node.children[0]
    type = node.children[1] if len(node.children) > 1 else None
    text = None if type is None else str(type.children[0])
    return Operand(str(token), str(node.data), text, token.start_pos)


def _attributes(node: Any) -> tuple[tuple[str, Expression, int], ...]:
    if node is None:
        return ()
    return tuple(
        (str(child.children[0]), _expression(child.children[1]), child.children[0].start_pos)
        for child in node.children
    )


def _condition(node: Any) -> "Binding | Expression":
    return _binding(node) if node.data == "binding" else _expression(node)


def _binding(node: Any) -> Binding:
    return Binding(str(node.children[0]), _expression(node.children[1]), node.children[0].start_pos)


def _number(node: Any) -> Number:
    return Number(str(node.children[0]), node.children[0].start_pos)


def _expression(node: Any) -> Expression:
    kind, children = str(node.data), node.children
    if kind in ("any_of", "all_of"):
        parts = tuple(_expression(child) for child in children)
        return parts[0] if len(parts) == 1 else Infix("or" if kind == "any_of" else "and", parts)
    if kind in ("compare", "infix"):
        return Infix(str(children[1]), (_expression(children[0]), _expression(children[2])))
    if kind == "negation":
        return Not(_expression(children[0]))
    if kind == "call":
        name, *arguments, attributes, type = children
        token = name.children[0]
        return Call(
            str(token),
            tuple(_expression(child) for child in arguments if child is not None),
            _attributes(attributes),
            None if type is None else _expression(type),
            token.start_pos,
        )
    if kind == "item":
        return Item(_expression(children[0]), _expression(children[1]))
    if kind == "list":
        return ListOf(tuple(_expression(child) for child in children if child is not None))
    if kind == "name":
        return Name(str(children[0]), children[0].start_pos)
    if kind == "rest":
        return Rest(str(children[0]), children[0].start_pos)
    if kind == "string":
        return Text(str(children[0])[1:-1])
    return Absent() if kind == "none" else _number(node)
