"""All contact with the private parts of xDSL: contexts, the parser with its repairs, and printing.

Everything here that mends xDSL has a test in `tests/unit/test_compat.py` which fails on the day upstream
mends it, so that the repair can go.
"""

import gc
import importlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from io import StringIO
from math import prod
from sys import getrecursionlimit, setrecursionlimit
from types import MethodType
from typing import Any

from xdsl.context import Context
from xdsl.dialect_interfaces.op_asm import OpAsmDialectInterface
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FileLineColLoc,
    IntAttr,
    LocationAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    UnknownLoc,
)
from xdsl.dialects.func import FuncOp
from xdsl.dialects.utils.format import _parse_func_outputs, _print_func_outputs, print_func_output
from xdsl.ir import Attribute, Block, Dialect, Operation, Region
from xdsl.irdl.operations import _OperandFieldDef as OperandFieldDef
from xdsl.irdl.operations import _ResultFieldDef as ResultFieldDef
from xdsl.parser import Parser, ParserState
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError
from xdsl.utils.lexer import Span, Token
from xdsl.utils.mlir_lexer import (
    KIND_BY_PUNCTUATION_SPELLING,
    MLIRLexer,
    MLIRToken,
    MLIRTokenKind,
    StringLiteral,
)

from stepwell.resources import ResourceStore

MAX_REGION_DEPTH = 256
MAX_ATTRIBUTE_DEPTH = 1000
MAX_ALIAS_SIZE = 10_000
_ALIAS = re.compile(r"[!#][A-Za-z_][\w.$]*")
_MAX_DENSE_BYTES = 1 << 31
_RECURSION_LIMIT = 40_000
"""Python frames that `MAX_REGION_DEPTH` and `MAX_ATTRIBUTE_DEPTH` need, with a margin."""


_WRAPPER = op_type_rewrite_pattern.__qualname__

Matcher = Callable[[Any, PatternRewriter], None]


class AbsentModuleError(ImportError):
    """A dialect or a pass is in the registry, but its module cannot be imported."""


def load_entry(entry: str) -> Any:
    """The object that a registry entry `module:name` stands for."""
    module_name, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise AbsentModuleError(f"module {module_name} does not exist") from error
    except AttributeError as error:
        raise AbsentModuleError(f"module {module_name} does not define {name}") from error


class _ResourceInterface(OpAsmDialectInterface):
    """Keeps the keys of `dense_resource<key>` as they are and their bytes in the Context's store."""

    def __init__(self, store: ResourceStore):
        self._store = store

    def declare_resource(self, key: str) -> str:
        return key

    def parse_resource(self, key: str, val: str) -> None:
        if not val.startswith("0x"):
            raise ValueError(f"the blob of {key} must be a hexadecimal string")
        self._store.add_bytes(key, bytes.fromhex(val[2:])[4:])  # MLIR puts the alignment in front

    def lookup(self, key: str) -> str | None:
        return None

    def build_resources(self, keys: Any) -> dict[str, str]:
        return {}


class StepwellContext(Context):
    """An xDSL Context with the weights (`resources`) of the modules that were read or built with it."""

    resources: ResourceStore

    def __init__(self, allow_unregistered: bool = False):
        super().__init__(allow_unregistered)
        self.resources = ResourceStore()

    def clone(self) -> "StepwellContext":
        copy = StepwellContext(self.allow_unregistered)
        for name, value in vars(super().clone()).items():
            setattr(copy, name, value)
        copy.resources = self.resources
        return copy


def new_context(dialects: Mapping[str, str], allow_unregistered: bool = False) -> StepwellContext:
    """A Context that knows `dialects` (name to registry entry), each imported when first met."""
    ctx = StepwellContext(allow_unregistered)

    def register(name: str, entry: str) -> None:
        def load() -> Dialect:
            dialect: Dialect = load_entry(entry)
            if name != "builtin":
                return dialect
            interfaces = [i for i in dialect._interfaces if not isinstance(i, OpAsmDialectInterface)]
            return Dialect(
                name,
                list(dialect.operations),
                list(dialect.attributes),
                [*interfaces, _ResourceInterface(ctx.resources)],
            )

        ctx.register_dialect(name, load)

    for name, entry in dialects.items():
        register(name, entry)
    return ctx


def extend_dialect(dialect: Dialect, operations: list[type[Operation]]) -> None:
    """Add ops to a dialect that is made already; contexts that are made later know them."""
    names = {op.name for op in operations}
    dialect._operations = [op for op in dialect._operations if op.name not in names] + operations


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Raise Python's recursion limit to what IR at our own limits of nesting needs."""
    before = getrecursionlimit()
    setrecursionlimit(max(before, _RECURSION_LIMIT))
    try:
        yield
    finally:
        setrecursionlimit(before)


@contextmanager
def rare_collections() -> Iterator[None]:
    """
    Let Python look for cycles less often: IR is made of them and most of it is alive, so that a third of a
    compilation's time went into looking. The memory that waits is some 100 MB at most.
    """
    before = gc.get_threshold()
    if before[0]:  # 0: the program has its own ideas
        gc.set_threshold(max(before[0], 100_000), 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Element(Parser._TensorLiteralElement):
    """A literal of a dense attribute. Repair: `0x...` is the bit pattern of a float, not an integer."""

    def to_type(self, parser: Any, type: Any) -> Any:
        from xdsl.dialects.builtin import AnyFloat

        if isinstance(type, AnyFloat) and self.span.text[:2] in ("0x", "0X"):
            size = type.size
            bits = int(self.span.text, 16)
            if bits >> (8 * size):
                parser.raise_error(f"{self.span.text} has more bits than {type}", self.span)
            return type.unpack(bits.to_bytes(size, "little"), 1)[0]
        try:
            return super().to_type(parser, type)
        except OverflowError:
            parser.raise_error(f"{self.span.text[:40]} is out of the range of {type}", self.span)


# Function declarations: xDSL reads and prints `func.func private @g(i32 {a.b})` without the attributes.


def _parse_function(cls: type[FuncOp], parser: Parser) -> FuncOp:
    """As xDSL's, but a declaration keeps the attributes of its arguments."""
    visibility = parser.parse_optional_visibility_keyword()
    name = parser.parse_symbol_name()

    def parse_argument() -> tuple[Parser.Argument | None, Attribute, dict[str, Attribute]]:
        argument = parser.parse_optional_argument()
        kind = parser.parse_type() if argument is None else argument.type
        attributes = parser.parse_optional_dictionary_attr_dict()
        location = parser.parse_optional_location()
        if argument is not None:
            argument.location = location
        return argument, kind, attributes

    parsed = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parse_argument)
    named = [argument for argument, _, _ in parsed if argument is not None]
    if len(named) not in (0, len(parsed)):
        parser.raise_error("expected all arguments to be named or all to be unnamed")
    outputs, res_attrs = _parse_func_outputs(parser)
    reserved = ("sym_name", "function_type", "sym_visibility", "arg_attrs", "res_attrs")
    extra = parser.parse_optional_attr_dict_with_keyword(reserved)
    body = parser.parse_optional_region(named if named else None)
    arg_attrs = None
    if any(attributes for _, _, attributes in parsed):
        arg_attrs = ArrayAttr([DictionaryAttr(attributes) for _, _, attributes in parsed])
    function = cls(
        name.data,
        ([kind for _, kind, _ in parsed], outputs),
        Region() if body is None else body,
        visibility,
        arg_attrs=arg_attrs,
        res_attrs=res_attrs,
    )
    if extra is not None:
        function.attributes |= extra.data
    return function


def _print_function(self: FuncOp, printer: Printer) -> None:
    """As xDSL's, but a declaration keeps the attributes of its arguments."""
    if not self.is_declaration or self.arg_attrs is None:
        _print_function_of_xdsl(self, printer)
        return
    if self.sym_visibility is not None:
        printer.print_string(f" {self.sym_visibility.data}")
    printer.print_string(" ")
    printer.print_symbol_name(self.sym_name.data)
    with printer.in_parens():
        pairs = zip(self.function_type.inputs, self.arg_attrs, strict=True)
        printer.print_list(pairs, lambda pair: print_func_output(printer, pair[0], pair[1]))
    _print_func_outputs(printer, self.function_type.outputs.data, self.res_attrs)
    printer.print_op_attributes(self.attributes, print_keyword=True)


# A string that is not closed: xDSL's expression `(x+|y)*` tries every way to split it, 2^n of them.
MLIRLexer._unescaped_characters_regex = re.compile(r'"(?:[^"\\\n\v\f]|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*"')


def _lex_string(self: MLIRLexer, start_pos: int) -> MLIRToken:
    """As xDSL's, but escaped UTF-8 is a string too: that is how the printer spells what is not ASCII."""
    token = _lex_string_of_xdsl(self, start_pos)
    if token.kind is not MLIRTokenKind.BYTES_LIT:
        return token
    try:
        StringLiteral.from_span(token.span).string_contents  # noqa: B018
    except UnicodeDecodeError:
        return token
    return Token(MLIRTokenKind.STRING_LIT, token.span)


_lex_string_of_xdsl = MLIRLexer._lex_string_literal
MLIRLexer._lex_string_literal = _lex_string

# Tokens in one match each: xDSL's takes a third of the time of reading, most of it for blanks and single characters.
_TOKEN = re.compile(
    r"(?:\s++|//[^\n]*+)*+"
    r"(?:([A-Za-z_][\w$.]*+)|(\{(?!-\#)|-(?!>)|[:,()}\[\]<>=+/*?|]|->)|([%!^\#](?:[0-9]++|[A-Za-z$._][\w$.-]*+))"
    r"|([0-9]++(?![.x]))|(@[A-Za-z_][\w$.]*+))",
    re.ASCII,
)
_PLAIN = {1: MLIRTokenKind.BARE_IDENT, 4: MLIRTokenKind.INTEGER_LIT, 5: MLIRTokenKind.AT_IDENT}
_PREFIXED = {
    "%": MLIRTokenKind.PERCENT_IDENT,
    "!": MLIRTokenKind.EXCLAMATION_IDENT,
    "^": MLIRTokenKind.CARET_IDENT,
    "#": MLIRTokenKind.HASH_IDENT,
}


class _Lexer(MLIRLexer):
    """xDSL's lexer still does what is rare: strings, floats, the end, and what is wrong."""

    def lex(self) -> MLIRToken:
        match = _TOKEN.match(self.input.content, self.pos)
        if match is None:
            return super().lex()
        group: Any = match.lastindex
        start, self.pos = match.span(group)
        if group == 2:
            kind = KIND_BY_PUNCTUATION_SPELLING[match[2]]
        elif group == 3:
            kind = _PREFIXED[match[3][0]]
        else:
            kind = _PLAIN[group]
        return Token(kind, Span(start, self.pos, self.input))


_print_function_of_xdsl = FuncOp.print
FuncOp.print = _print_function
FuncOp.parse = classmethod(_parse_function)  # pyright: ignore[reportAttributeAccessIssue]


_INSIDE = r'(?:[^<>"\n-]++|->?)*+'
for _ in range(3):
    _INSIDE = rf'(?:[^<>"\n-]++|->?|<{_INSIDE}>)*+'
_TYPE = re.compile(rf"!?[A-Za-z_][\w$.]*+<{_INSIDE}>", re.ASCII)
"""A type with parameters, its angle brackets four deep. A text that only looks so is never among those that were read."""


class StepwellParser(Parser):
    """
    xDSL's parser with locations on every op and block argument, limits of nesting, exact NaN and infinity
    in dense attributes, and a diagnostic in every case where xDSL's raises something else.
    """

    _TensorLiteralElement = _Element

    def __init__(self, ctx: Context, input: str, name: str = "<input>"):
        super().__init__(ctx, input, name)
        self._parser_state = ParserState(_Lexer(self.lexer.input))
        self._file = StringAttr(name)
        self._line_starts = [0]
        start = input.find("\n")
        while start >= 0:
            self._line_starts.append(start + 1)
            start = input.find("\n", start + 1)
        self._op_starts: list[int] = []
        self._alias_sizes: dict[str, int] = {}
        self._types: dict[str, Any] = {}
        """Types by their text: most of a program's types stand in it many times."""
        self._region_depth = 0
        self._attribute_depth = 0

    def location_at(self, position: int) -> FileLineColLoc:
        line = bisect_right(self._line_starts, position)
        column = position - self._line_starts[line - 1] + 1
        return FileLineColLoc(self._file, IntAttr(line), IntAttr(column))

    def parse_module(self, allow_implicit_module: bool = True) -> ModuleOp:
        if allow_implicit_module and self._current_token.kind == MLIRTokenKind.EOF:
            return ModuleOp([])  # as for mlir-opt: a part of a split file may be a comment
        with deep_recursion():
            try:
                module = super().parse_module(allow_implicit_module)
            except ParseError as error:
                if error.msg != "Could not parse entire input!":
                    raise
                raise ParseError(
                    error.span, f"an operation is expected, not {_shown_token(error.span.text)}"
                ) from error
            except (KeyboardInterrupt, AbsentModuleError):
                raise
            except RecursionError:
                self.raise_error("the input is nested too deeply")
            except Exception as error:
                # xDSL's parser lets KeyError, ValueError, AssertionError and others through on bad input.
                text = str(error).split("\n")[0][:200] or type(error).__name__
                raise ParseError(self._current_token.span, text) from error
        if isinstance(module.location, UnknownLoc):
            module.location = self.location_at(0)
        return module

    def _parse_op_result_list(self) -> list[tuple[Span, int]]:
        results = super()._parse_op_result_list()
        self._op_starts.append(self._current_token.span.start)
        return results

    def _get_op_by_name(self, name: str) -> type[Operation]:
        found = self.ctx.get_optional_op(name, dialect_stack=self._parser_state.dialect_stack)
        if found is None:
            near = get_close_matches(name, [op.name for op in self.ctx.loaded_ops], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            self.raise_error(f"operation '{name}' is not registered{hint}", self._op_starts[-1])
        return found

    def parse_operation(self) -> Operation:
        depth = len(self._op_starts)
        op = super().parse_operation()
        if isinstance(op.location, UnknownLoc):
            op.location = self.location_at(self._op_starts[depth])
        del self._op_starts[depth:]
        return op

    def _parse_optional_block_arg_list(self, block: Block) -> Block | None:
        if self._current_token.kind != MLIRTokenKind.L_PAREN:
            return None

        def parse_argument() -> None:
            name = self._parse_token(MLIRTokenKind.PERCENT_IDENT, "block argument expected").span
            self.parse_punctuation(":")
            kind = self.parse_attribute()
            location = self.parse_optional_location() or self.location_at(name.start)
            argument = block.insert_arg(kind, len(block.args), location)
            self._register_ssa_definition(name.text[1:], (argument,), name)

        self.parse_comma_separated_list(self.Delimiter.PAREN, parse_argument)
        return block

    def parse_optional_region(self, arguments: Any = None) -> Region | None:
        self._region_depth += 1
        if self._region_depth > MAX_REGION_DEPTH:
            self.raise_error(f"regions are nested more than {MAX_REGION_DEPTH} deep")
        if arguments is not None:
            arguments = list(arguments)
            for argument in arguments:
                if argument.location is None:
                    argument.location = self.location_at(argument.name.start)
        region = super().parse_optional_region(arguments)
        self._region_depth -= 1
        return region

    def _parse_alias_def(self) -> None:
        """Limit: aliases that double each other would be a type of 2^n parts, and to hash one visits them all."""
        start = self._current_token.span.start
        super()._parse_alias_def()
        name, *used = _ALIAS.findall(
            self._current_token.span.input.content, start, self._current_token.span.start
        )
        size = self._alias_sizes[name] = 1 + sum(self._alias_sizes.get(other, 1) for other in used)
        if size > MAX_ALIAS_SIZE:
            self.raise_error(f"the alias {name[:40]} stands for more than {MAX_ALIAS_SIZE} parts", start)

    def _deeper(self) -> None:
        self._attribute_depth += 1
        if self._attribute_depth > MAX_ATTRIBUTE_DEPTH:
            self.raise_error(f"attributes and types are nested more than {MAX_ATTRIBUTE_DEPTH} deep")

    def parse_optional_attribute(self) -> Attribute | None:
        self._deeper()
        attribute = super().parse_optional_attribute()
        self._attribute_depth -= 1
        return attribute

    def parse_optional_type(self) -> Any:
        content, start = self.lexer.input.content, self._current_token.span.start
        match = _TYPE.match(content, start)
        if match is not None and (known := self._types.get(match[0])) is not None:
            self._resume_from(match.end())
            return known
        self._deeper()
        type = super().parse_optional_type()
        self._attribute_depth -= 1
        if match is not None and content[start : self._current_token.span.start].rstrip() == match[0]:
            self._types[match[0]] = type
        return type

    def parse_dense_int_or_fp_elements_attr(self, type: Any) -> DenseIntOrFPElementsAttr:
        """xDSL's makes a list of a splat's elements; this makes its bytes, and refuses to fill the memory."""
        start = self._current_token.span.start
        if self.parse_optional_punctuation("<") is not None:
            scalar = self._parse_optional_bool_int_or_float()
            if scalar is not None and self.parse_optional_punctuation(">") is not None:
                if type is None:
                    self.parse_punctuation(":", " in dense attribute")
                    type = self._parse_dense_literal_type()
                value, span = scalar
                count = prod(type.get_shape())
                if count * 8 > _MAX_DENSE_BYTES:
                    self.raise_error(f"a dense attribute of {count} elements; use dense_resource", span)
                element = _Element(value < 0, value, span).to_type(self, type.element_type)
                if isinstance(element, int | float):
                    one = DenseIntOrFPElementsAttr.from_list(TensorType(type.element_type, [1]), [element])
                    return DenseIntOrFPElementsAttr(type, BytesAttr(one.data.data * count))
        self._resume_from(start)
        return super().parse_dense_int_or_fp_elements_attr(type)


def _shown_token(text: str) -> str:
    return f"'{text}'" if text else "the end"


def parse_module(ctx: Context, text: str, name: str = "<input>") -> ModuleOp:
    """The module written in `text`; a ParseError says where and why it cannot be read."""
    with rare_collections():
        return StepwellParser(ctx, text, name).parse_module()


def print_module(
    module: Operation, *, generic: bool = False, debuginfo: bool = False, elide_above: int | None = None
) -> str:
    """The text of `module`, ending in a newline; `elide_above`: without dense constants of more elements than that."""
    out = StringIO()
    with deep_recursion():
        printer = Printer(out, print_generic_format=generic, print_debuginfo=debuginfo)
        if elide_above is not None:
            printer = _ElidingPrinter(out, generic, debuginfo, elide_above)
        printer.print_op(module)
    out.write("\n")
    return out.getvalue()


class _ElidingPrinter(Printer):
    """Writes `dense_resource<__elided__>` for large constants, as MLIR does."""

    def __init__(self, stream: Any, generic: bool, debuginfo: bool, above: int):
        super().__init__(stream, print_generic_format=generic, print_debuginfo=debuginfo)
        self.above = above

    def print_attribute(self, attribute: Attribute) -> None:
        if (
            isinstance(attribute, DenseIntOrFPElementsAttr)
            and len(attribute) > self.above
            and not attribute.is_splat()
        ):
            self.print_string("dense_resource<__elided__> : ")
            self.print_attribute(attribute.get_type())
        else:
            super().print_attribute(attribute)


class _StartsPrinter(Printer):
    """Notes on which line each op begins."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.starts: list[tuple[int, Operation]] = []

    def print_op(self, op: Operation) -> None:
        self.starts.append((self._current_line, op))
        super().print_op(op)


def print_with_starts(op: Operation) -> tuple[str, list[tuple[int, Operation]]]:
    """The text of `op`, and of it and each op inside the line, from 0, on which it begins; outer ops first."""
    out = StringIO()
    with deep_recursion():
        printer = _StartsPrinter(out)
        printer.print_op(op)
    return out.getvalue(), printer.starts


def matcher_of(pattern: RewritePattern) -> tuple[tuple[type[Operation], ...] | None, Matcher]:
    """
    The op classes that `pattern` matches, None if it has to see every op, and the function to call on an
    op of them. The classes are its `op_class` attribute, or those that `op_type_rewrite_pattern` read from
    the annotation; the function that it wrapped is then called without asking for the class again.
    """
    classes, function = None, pattern.match_and_rewrite
    wrapper = type(pattern).match_and_rewrite
    if wrapper.__module__ == RewritePattern.__module__ or wrapper.__qualname__.startswith(_WRAPPER):
        cells = dict(zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True))
        if "expected_types" in cells and "func" in cells:
            classes = tuple(cells["expected_types"].cell_contents)
            function = MethodType(cells["func"].cell_contents, pattern)
    declared = getattr(pattern, "op_class", None)
    if declared is not None:
        classes = declared if isinstance(declared, tuple) else (declared,)
    return classes, function


def aim(rewriter: PatternRewriter, op: Operation) -> None:
    """Make `op` the one that `rewriter` matches."""
    rewriter._current_operation = op


def location_of(op: Operation) -> LocationAttr:
    """The location of `op`, its nearest enclosing op's where it has none."""
    scope: Operation | None = op
    while scope is not None:
        if not isinstance(scope.location, UnknownLoc):
            return scope.location
        scope = scope.parent_op()
    return op.location


__all__ = [
    "AbsentModuleError",
    "MLIRTokenKind",
    "OperandFieldDef",
    "ResultFieldDef",
    "StepwellContext",
    "StepwellParser",
    "aim",
    "deep_recursion",
    "extend_dialect",
    "load_entry",
    "location_of",
    "matcher_of",
    "new_context",
    "parse_module",
    "print_module",
    "print_with_starts",
    "rare_collections",
]
