"""The same for files of rewrite rules (`.pat`): faults, operations, the names of a rule."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stepwell.compat import StepwellContext
from stepwell.diagnostics import diagnose
from stepwell.errors import Error
from stepwell.language_server.analysis import FAULTS, Analysis, Fault, spanning
from stepwell.language_server.answers import Answer, Suggestion, first_line
from stepwell.language_server.knowledge import Knowledge
from stepwell.language_server.text import Name, Places, Symbol
from stepwell.transforms.rules.loading import generate_rules

KEYWORDS = ("rule", "for", "in", "benefit", "fp", "match", "where", "sample", "rewrite", "commutative", "constant",
            "not", "and", "or", "none", "true", "false", "use")  # fmt: skip
_PLACE = re.compile(r"^.*?:(\d+):(\d+): ")
_RULE = re.compile(r"^rule[ \t]+([\w-]+)", re.MULTILINE)
_WORD = re.compile(r'//[^\n]*|"[^"\n]*"?|[A-Za-z_]\w*(?:\.\w+)*(?P<call>\s*\()?')
_WORD_BEFORE = re.compile(r"[\w.]*\Z")


def analyse_rules(ctx: StepwellContext, path: Path, text: str) -> Analysis:
    """The faults of a text of rules; a rule with one is left out, and the others are looked at."""
    analysis = Analysis()
    lines = text.split("\n")
    for _ in range(FAULTS):
        try:
            generate_rules(path, text, ctx)
            break
        except Error as error:
            message = str(error).split("\n")[0]
        except Exception as error:  # an editor shows it, and goes on
            message = diagnose(error).message
        match = _PLACE.match(message)
        if match is None:
            analysis.faults.append(Fault(message, 0, 0, 0, len(lines[0])))
            break
        line, column = int(match[1]) - 1, int(match[2]) - 1
        analysis.faults.append(spanning(message[match.end() :], max(line, 0), max(column, 0), lines))
        shorter = _without_rule_at(text, line)
        if shorter is None:
            break
        text = shorter
    return analysis


def _without_rule_at(text: str, line: int) -> str | None:
    """`text` with blanks in place of the rule on `line` and of the law above it; None if no rule would be left."""
    lines = text.split("\n")
    first = min(line, len(lines) - 1)
    while first >= 0 and not lines[first].startswith("rule"):
        first -= 1
    if first < 0:
        return None
    last = first + 1
    while last < len(lines) and not lines[last].startswith(("rule", "//")):
        last += 1
    while first > 1 and lines[first - 1].startswith("//"):
        first -= 1
    if not any(rest.startswith("rule") for rest in (*lines[:first], *lines[last:])):
        return None  # a file without rules is another fault
    return "\n".join([*lines[:first], *([""] * (last - first)), *lines[last:]])


@dataclass
class RuleIndex(Places):
    """The rules of a text, and the names in each."""

    @cached_property
    def symbols(self) -> list[Symbol]:
        """The rules."""
        found = list(_RULE.finditer(self.text))
        ends = [match.start() for match in found[1:]] + [len(self.text)]
        return [
            Symbol(match[1], "rule", match.start(1), match.start(), len(self.text[:end].rstrip()), 0)
            for match, end in zip(found, ends, strict=True)
        ]

    @cached_property
    def names(self) -> list[Name]:
        """The names of values in the rules; `scope` is the number of the rule."""
        found = []
        for number, rule in enumerate(self.symbols):
            for match in _WORD.finditer(self.text, rule.name_start + len(rule.name), rule.end):
                word = match.group()
                if match["call"] is None and word.isidentifier() and word not in KEYWORDS:
                    found.append(Name("value", word, match.start(), match.end(), number, False))
        return found


@dataclass
class RulesDocument:
    """One version of a text of rules; answers as `answers.Document` does."""

    text: str
    knowledge: Knowledge
    analysis: Analysis = field(default_factory=Analysis)
    current: bool = False

    @cached_property
    def index(self) -> RuleIndex:
        return RuleIndex(self.text)

    def hover(self, offset: int) -> Answer | None:
        """The documentation of the operation at `offset`."""
        for match in re.finditer(r"[A-Za-z_]\w*(?:\.\w+)+", self.text):
            if match.start() <= offset <= match.end():
                text = self.knowledge.describe_operation(match.group())
                return Answer(text, match.start(), match.end()) if text else None
        return None

    def references(self, offset: int) -> list[Name]:
        """Every place of the name at `offset` in its rule."""
        name = next((n for n in self.index.names if n.start <= offset <= n.end), None)
        if name is None:
            return []
        return [n for n in self.index.names if (n.text, n.scope) == (name.text, name.scope)]

    def definition(self, offset: int) -> Name | None:
        """Where the name at `offset` stands first in its rule: that binds it."""
        return next(iter(self.references(offset)), None)

    def suggestions(self, offset: int) -> list[Suggestion]:
        """Operations behind a dialect's name and a dot; else dialects, words of the language and names of the rule."""
        word = _WORD_BEFORE.search(self.text, 0, offset)
        assert word is not None, "it matches nothing too"
        dialect, dot, _ = word.group().partition(".")
        if dot:
            operations = self.knowledge.operations(dialect)
            return [Suggestion(n, "operation", first_line(c.__doc__)) for n, c in sorted(operations.items())]
        rule = sum(symbol.start <= offset for symbol in self.index.symbols) - 1
        own = dict.fromkeys(name.text for name in self.index.names if name.scope == rule)
        return [
            *(Suggestion(name, "value") for name in own),
            *(Suggestion(name, "attribute") for name in KEYWORDS),
            *(Suggestion(name, "dialect") for name in self.knowledge.dialects()),
        ]
