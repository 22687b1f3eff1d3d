"""The `linalg` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from typing import Any

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.dialects.linalg import Linalg
from xdsl.dialects.linalg.attrs import IteratorType, IteratorTypeAttr
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Dialect
from xdsl.parser import Parser

LINALG = Dialect("linalg", [*Linalg.operations], [*Linalg.attributes], Linalg._interfaces)


def _parse_generic(cls: type[GenericOp], parser: Parser) -> GenericOp:
    """
    `linalg.generic {...} ins(...) outs(...) attrs = {...} {...} -> (types)`. Repair: xDSL prints a list of
    results in parentheses, as MLIR does, but cannot read it.
    """
    start = parser.pos
    attributes = dict(parser.parse_optional_attr_dict())
    maps, kinds = attributes.pop("indexing_maps", None), attributes.pop("iterator_types", None)
    if not isinstance(maps, ArrayAttr) or not isinstance(kinds, ArrayAttr):
        parser.raise_error("linalg.generic needs the lists indexing_maps and iterator_types", start)
    iterators: list[IteratorTypeAttr] = []
    for kind in kinds:
        if isinstance(kind, StringAttr) and kind.data in {t.value for t in IteratorType}:
            kind = IteratorTypeAttr(IteratorType(kind.data))
        if not isinstance(kind, IteratorTypeAttr):
            parser.raise_error(f"{kind} is no iterator type: write parallel or reduction", start)
        iterators.append(kind)
    inputs, outputs = _parse_operands(parser, "ins"), _parse_operands(parser, "outs")
    if parser.parse_optional_keyword("attrs"):
        parser.parse_punctuation("=")
        attributes |= parser.expect(parser.parse_optional_attr_dict, "expected the dictionary of attrs")
    body = parser.parse_region()
    results: list[Any] = []
    if parser.parse_optional_punctuation("->"):
        listed = parser.parse_optional_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        results = listed if listed is not None else [parser.parse_type()]
    doc, call = attributes.pop("doc", None), attributes.pop("library_call", None)
    op = cls(inputs, outputs, body, maps, ArrayAttr(iterators), results, doc, call)  # pyright: ignore
    op.attributes |= attributes
    return op


def _parse_operands(parser: Parser, keyword: str) -> list[Any]:
    if not parser.parse_optional_keyword(keyword):
        return []
    start = parser.pos
    with parser.in_parens():
        operands = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_unresolved_operand)
        parser.parse_punctuation(":")
        types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_type)
    return list(parser.resolve_operands(operands, types, start))


GenericOp.parse = classmethod(_parse_generic)  # pyright: ignore[reportAttributeAccessIssue]
