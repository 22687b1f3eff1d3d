"""The text of pass pipelines: parsed by `pipeline.lark`, with columns, and printed back canonically."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path

from stepwell.errors import CompileError


@dataclass(frozen=True)
class Option:
    """`name=value,value` of a pass; no values is a flag."""

    name: str
    values: tuple[str, ...]
    position: int


@dataclass(frozen=True)
class Apply:
    """A pass, or a named pipeline, with its options."""

    name: str
    options: tuple[Option, ...]
    position: int


@dataclass(frozen=True)
class Nest:
    """`anchor(...)`: steps that run on each op of that name."""

    anchor: str
    steps: "tuple[Apply | Nest, ...]"
    position: int


Step = Apply | Nest


def pipeline_error(text: str, position: int, message: str) -> CompileError:
    """An error at `position` of the pipeline `text`, with the line and a caret."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    row, column = text.count("\n", 0, position) + 1, position - start + 1
    if len(line) > 160:
        shift = max(0, column - 80)
        line, column = line[shift : shift + 160], column - shift
    return CompileError(
        f"pipeline:{row}:{position - start + 1}: {message}\n  {line}\n  {' ' * (column - 1)}^"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


@lru_cache(maxsize=256)  # every compilation resolves the same few texts
def parse_pipeline(text: str) -> tuple[Step, ...]:
    """The steps written in `text`; an error says at which column it cannot be read."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput

    if text.count("(") > 64:
        raise pipeline_error(text, 0, "pipelines are nested too deeply; use at most 64 parentheses")
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        position = error.pos_in_stream
        if position is None or position < 0 or isinstance(error, UnexpectedEOF):
            position = len(text)
        found = repr(text[position]) if position < len(text) else "the end"
        if not isinstance(error, UnexpectedCharacters) and getattr(error, "token", None) is not None:
            token = error.token  # pyright: ignore[reportAttributeAccessIssue]
            found = "the end" if token.type == "$END" else repr(str(token))
            position = len(text) if token.type == "$END" else position
        wanted = "a pass name" if not text[:position].rstrip() or text[:position].rstrip()[-1] in ",(" else ""
        hint = f"; expected {wanted}" if wanted else "; expected ',' or the end, or {options}"
        raise pipeline_error(text, position, f"unexpected {found} in the pipeline{hint}") from None
    return _steps(tree.children[0])


@cache
def _parser():
    from lark import Lark

    grammar = Path(__file__).with_name("pipeline.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def _steps(pipeline) -> tuple[Step, ...]:
    if pipeline is None:
        return ()
    steps: list[Step] = []
    for node in pipeline.children:
        name = node.children[0]
        if node.data == "nest":
            steps.append(Nest(str(name), _steps(node.children[1]), name.start_pos))
            continue
        options = [_option(child) for child in node.children[1:] if child is not None]
        steps.append(Apply(str(name), tuple(options), name.start_pos))
    return tuple(steps)


def _option(node) -> Option:
    name, *values = node.children
    texts = [_unquoted(str(value)) for value in values if value is not None]
    return Option(str(name).replace("-", "_"), tuple(texts), name.start_pos)


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text[1:-1])


def quoted(value: str) -> str:
    """`value` as an option value, in quotes where the grammar needs them."""
    if re.fullmatch(r'[^\s,{}()="#]+', value) and "//" not in value:
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
