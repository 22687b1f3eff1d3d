"""Symbolic extents: integers and polynomials over named symbols, and the encoding that carries them.

A `Dim` is an `int` or an `Expr`. An `Expr` is kept in normal form (a sum of monomials over atoms, where an
atom is a symbol or an irreducible `floordiv`, `mod`, `max` or `min`), so two expressions that are equal as
polynomials are equal objects. `floordiv` rounds to minus infinity; `ceildiv(a, b)` is written `(a + b - 1)
floordiv b`. Extents are taken to be positive where that decides something (`(a*b) floordiv b` is `a`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from math import prod
from typing import TypeAlias, Union

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    IntAttr,
    StringAttr,
    TensorType,
    UnrankedTensorType,
)
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

_MAX_TERMS = 256
"""A polynomial that grows past this is given up as unknown, so that hostile models cannot blow it up."""
_MAX_DEGREE = 64
"""The same for the number of factors in one term."""
_MAX_NESTING = 100
_identities = count()

Dim: TypeAlias = Union[int, "Expr"]


class Atom:
    """An indivisible factor: a symbol, an unknown, or a call such as `max(a, b)`; compared by its text."""

    __slots__ = ("args", "kind", "text")

    def __init__(self, kind: str, text: str, args: "tuple[Dim, ...]" = ()):
        self.kind, self.text, self.args = kind, text, args

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


Monomial: TypeAlias = tuple[Atom, ...]


class Expr:
    """An integer polynomial in normal form that is not a constant."""

    __slots__ = ("_hash", "terms", "text")

    def __init__(self, terms: dict[Monomial, int]):
        self.terms = terms
        self.text = _print_terms(terms)
        self._hash = hash(self.text)

    @property
    def is_known(self) -> bool:
        """False if an extent without a name takes part."""
        return "?" not in self.text

    @property
    def symbol_name(self) -> str | None:
        """The name if the expression is a bare symbol."""
        if len(self.terms) == 1:
            ((monomial, factor),) = self.terms.items()
            if factor == 1 and len(monomial) == 1 and monomial[0].kind == "symbol":
                return monomial[0].text
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.text == other.text

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Dim({self})"

    def __str__(self) -> str:
        return self.text if self.is_known else "?"

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        for monomial, factor in _terms(other).items():
            terms[monomial] = terms.get(monomial, 0) + factor
        return _make(terms)

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[Monomial, int] = {}
        right = _terms(other)
        if len(self.terms) * len(right) > _MAX_TERMS:
            return unknown()
        for m, a in self.terms.items():
            for n, b in right.items():
                if len(m) + len(n) > _MAX_DEGREE:
                    return unknown()
                key = tuple(sorted(m + n, key=_text)) if m and n else m or n
                terms[key] = terms.get(key, 0) + a * b
        return _make(terms)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Dim:
        return Expr({m: -a for m, a in self.terms.items()})

    def __sub__(self, other: Dim) -> Dim:
        return self + -other

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)


def _text(atom: Atom) -> str:
    return atom.text


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, Expr):
        return dim.terms
    return {(): dim} if dim else {}


def _make(terms: dict[Monomial, int]) -> Dim:
    terms = {m: a for m, a in terms.items() if a}
    if len(terms) > _MAX_TERMS:
        return unknown()
    if not terms or (len(terms) == 1 and () in terms):
        return terms.get((), 0)
    return Expr(terms)


def _print_terms(terms: dict[Monomial, int]) -> str:
    # Positive terms first, the constant last: `2*h + w - 1`.
    ordered = sorted(
        terms.items(), key=lambda t: (t[1] < 0 and bool(t[0]), -len(t[0]), [a.text for a in t[0]])
    )
    text = ""
    for monomial, factor in ordered:
        sign, size = ("-", -factor) if factor < 0 else ("+", factor)
        alone = len(monomial) == 1 and size == 1
        factors = [a.text if alone or a.kind != "infix" else f"({a.text})" for a in monomial]
        if alone and monomial[0].kind == "infix" and sign == "-":
            factors = [f"({monomial[0].text})"]
        if size != 1 or not monomial:
            factors.insert(0, str(size))
        piece = "*".join(factors)
        if text:
            text += f" {sign} {piece}"
        else:
            text = f"-{piece}" if sign == "-" else piece
    return text


def _atom(kind: str, text: str, args: tuple[Dim, ...] = ()) -> Expr:
    return Expr({(Atom(kind, text, args),): 1})


_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*\Z")
_WORDS = frozenset(("floordiv", "ceildiv", "mod", "max", "min"))


@lru_cache(maxsize=4096)
def symbol(name: str) -> Expr:
    """The extent called `name`: an identifier (letters, digits, `_ . $`) that is not an operator's name."""
    if not _SYMBOL.match(name) or name in _WORDS:
        raise ValueError(f"symbol {name!r} must be an identifier and none of {', '.join(sorted(_WORDS))}")
    return _atom("symbol", name)


def unknown() -> Expr:
    """An extent about which nothing is known: equal to itself only; printed `?`."""
    return _atom("unknown", f"?{next(_identities)}")


def _operand(dim: Dim) -> str:
    if isinstance(dim, int):
        return str(dim) if dim >= 0 else f"({dim})"
    ((monomial, factor), *more) = dim.terms.items()
    simple = not more and factor == 1 and len(monomial) == 1 and monomial[0].kind != "infix"
    return dim.text if simple else f"({dim.text})"


def floordiv(a: Dim, b: Dim) -> Dim:
    """`a / b` rounded to minus infinity; division by zero is unknown."""
    if b == 0:
        return unknown()
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if (quotient := exact_div(a, b)) is not None:
        return quotient
    if isinstance(a, Expr) and isinstance(b, int) and b > 0:
        # (b*p + r) floordiv b == p + r floordiv b
        whole = _make({m: f // b for m, f in a.terms.items()})
        rest = _make({m: f % b for m, f in a.terms.items()})
        if whole != 0:
            return whole + floordiv(rest, b)
        # (x floordiv n + c) floordiv b == (x + n*c) floordiv (n*b)
        constant = a.terms.get((), 0)
        core = a - constant
        if isinstance(core, Expr) and len(core.terms) == 1:
            ((monomial, factor),) = core.terms.items()
            if factor == 1 and len(monomial) == 1 and monomial[0].kind == "infix":
                inner, divisor = monomial[0].args
                if isinstance(divisor, int) and divisor > 0:
                    return floordiv(inner + divisor * constant, divisor * b)
    return _atom("infix", f"{_operand(a)} floordiv {_operand(b)}", (a, b))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """`a / b` rounded to plus infinity."""
    return floordiv(a + b - 1, b)


def mod(a: Dim, b: Dim) -> Dim:
    """`a - b * floordiv(a, b)`; by zero it is unknown."""
    if b == 0:
        return unknown()
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if exact_div(a, b) is not None:
        return 0
    if isinstance(a, Expr) and isinstance(b, int) and b > 0:
        a = _make({m: f % b for m, f in a.terms.items()})
        if isinstance(a, int):
            return a % b
    return _atom("mod", f"({_operand(a)} mod {_operand(b)})", (a, b))


def _extremum(name: str, dims: Iterable[Dim]) -> Dim:
    sign = 1 if name == "max" else -1
    kept: list[Dim] = []
    pending = list(dims)
    while pending:
        dim = pending.pop(0)
        if isinstance(dim, Expr) and len(dim.terms) == 1:
            ((monomial, factor),) = dim.terms.items()
            if factor == 1 and len(monomial) == 1 and monomial[0].kind == name:
                pending[:0] = monomial[0].args
                continue
        for i, other in enumerate(kept):
            difference = _decided(dim - other)
            if difference is not None:
                if difference * sign > 0:
                    kept[i] = dim
                break
        else:
            kept.append(dim)
    if len(kept) == 1:
        return kept[0]
    kept.sort(key=str)
    inside = ", ".join(k.text if isinstance(k, Expr) else str(k) for k in kept)
    return _atom(name, f"{name}({inside})", tuple(kept))


def _decided(difference: Dim) -> int | None:
    """An integer of the same sign if the sign is certain: a constant, or symbols with factors of one sign."""
    if isinstance(difference, int):
        return difference
    if all(all(a.kind == "symbol" for a in m) for m in difference.terms):
        if all(f > 0 for f in difference.terms.values()):
            return 1
        if all(f < 0 for f in difference.terms.values()):
            return -1
    return None


def sign_of(dim: Dim) -> int | None:
    """-1 if `dim` is negative, 1 if it is not, None if that depends; symbols are extents, so not negative."""
    decided = _decided(dim)
    if decided is None and isinstance(dim, Expr):
        if all(f > 0 for f in dim.terms.values()):
            return 1
        return -1 if all(f < 0 for f in dim.terms.values()) else None
    return None if decided is None else (-1 if decided < 0 else 1)


def maximum(*dims: Dim) -> Dim:
    """The largest of `dims`."""
    return _extremum("max", dims)


def minimum(*dims: Dim) -> Dim:
    """The smallest of `dims`."""
    return _extremum("min", dims)


def _lead(terms: Mapping[Monomial, int]) -> Monomial:
    return max(terms, key=lambda m: (len(m), [a.text for a in m]))


def exact_div(a: Dim, b: Dim) -> Dim | None:
    """The polynomial `q` with `q * b == a`, or None if there is none (long division by leading terms)."""
    if b == 0:
        return None
    if b == 1 or a == 0:
        return a
    divisor = _terms(b)
    lead = _lead(divisor)
    quotient: Dim = 0
    rest = a
    for _ in range(_MAX_TERMS):
        if rest == 0:
            return quotient
        terms = _terms(rest)
        top = _lead(terms)
        left = list(top)
        for atom in lead:
            if atom not in left:
                return None
            left.remove(atom)
        factor, remainder = divmod(terms[top], divisor[lead])
        if remainder:
            return None
        step = _make({tuple(left): factor})
        quotient = quotient + step
        rest = rest - step * b
    return None


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a tensor with these extents."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def symbols_of(dim: Dim) -> set[str]:
    """The names of all symbols in `dim`."""
    if isinstance(dim, int):
        return set()
    found: set[str] = set()
    for monomial in dim.terms:
        for atom in monomial:
            if atom.kind == "symbol":
                found.add(atom.text)
            for arg in atom.args:
                found |= symbols_of(arg)
    return found


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with the symbols in `values` replaced; the others stay."""
    if isinstance(dim, int):
        return dim
    result: Dim = 0
    for monomial, factor in dim.terms.items():
        term: Dim = factor
        for atom in monomial:
            if atom.kind == "symbol":
                term = term * values.get(atom.text, _wrap(atom))
            elif atom.kind == "unknown":
                term = term * _wrap(atom)
            else:
                args = [substitute(arg, values) for arg in atom.args]
                if atom.kind in ("max", "min"):
                    term = term * _extremum(atom.kind, args)
                else:
                    term = term * (mod if atom.kind == "mod" else floordiv)(args[0], args[1])
        result = result + term
    return result


def broadcast_of(a: Dim, b: Dim) -> Dim | None:
    """
    What two extents broadcast to (1 gives way, a number beats a symbol); None if the run alone can tell. A symbol `s` beats
    `min(512, s)`, as what is 1 wherever `s` is 1 has nothing to stretch it to.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    for one, other in ((a, b), (b, a)):
        if isinstance(one, int):
            return one
        if (name := one.symbol_name) is not None and substitute(other, {name: 1}) == 1:
            return one
    return None


def _wrap(atom: Atom) -> Expr:
    return Expr({(atom,): 1})


def evaluate_dim(dim: Dim, values: Mapping[str, int]) -> int:
    """The number that `dim` stands for; a missing symbol is a KeyError that names it."""
    result = substitute(dim, values)
    if isinstance(result, Expr):
        raise KeyError(
            f"no value for {', '.join(sorted(symbols_of(result))) or 'an unknown extent'} in {dim}"
        )
    return result


_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.$]*|\d+|[-+*(),?])")


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> Dim:
    """Read an extent such as `12*batch` or `(h + 1) floordiv 2`; ValueError says what is wrong."""
    if len(text) > 10_000:
        raise ValueError("the expression of an extent is longer than 10000 characters")
    tokens: list[str] = []
    at = 0
    while at < len(text.rstrip()):
        if (match := _TOKEN.match(text, at)) is None:
            raise ValueError(f"unexpected {text[at : at + 10]!r} in extent {text[:200]!r}")
        tokens.append(match[1])
        at = match.end()
    tokens.append("")
    reader = _Reader(text, tokens)
    result = reader.sum(0)
    if reader.tokens[reader.at] != "":
        raise ValueError(f"unexpected {reader.tokens[reader.at]!r} in extent {text[:200]!r}")
    return result


class _Reader:
    """Recursive descent: sum > product (`* floordiv ceildiv mod`, left to right) > factor."""

    def __init__(self, text: str, tokens: list[str]):
        self.text, self.tokens, self.at = text, tokens, 0

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def expect(self, token: str) -> None:
        if (got := self.take()) != token:
            raise ValueError(f"expected {token!r}, not {got!r}, in extent {self.text[:200]!r}")

    def sum(self, depth: int) -> Dim:
        if depth > _MAX_NESTING:
            raise ValueError(f"an extent nests more than {_MAX_NESTING} deep")
        result = self.product(depth)
        while self.tokens[self.at] in ("+", "-"):
            sign = self.take()
            right = self.product(depth)
            result = result + right if sign == "+" else result - right
        return result

    def product(self, depth: int) -> Dim:
        result = self.factor(depth)
        while self.tokens[self.at] in ("*", "floordiv", "ceildiv", "mod"):
            operator = self.take()
            right = self.factor(depth)
            if operator == "*":
                result = result * right
            else:
                result = {"floordiv": floordiv, "ceildiv": ceildiv, "mod": mod}[operator](result, right)
        return result

    def factor(self, depth: int) -> Dim:
        token = self.take()
        if token == "-":
            if depth > _MAX_NESTING:
                raise ValueError(f"an extent nests more than {_MAX_NESTING} deep")
            return -self.factor(depth + 1)
        if token == "?":
            return unknown()
        if token == "(":
            result = self.sum(depth + 1)
            self.expect(")")
            return result
        if token in ("max", "min"):
            self.expect("(")
            dims = [self.sum(depth + 1)]
            while self.tokens[self.at] == ",":
                self.take()
                dims.append(self.sum(depth + 1))
            self.expect(")")
            return _extremum(token, dims)
        if token.isdigit():
            if len(token) > 19:
                raise ValueError(f"the number {token[:20]}... in an extent does not fit 64 bits")
            return int(token)
        if not token or token in _WORDS or not _SYMBOL.match(token):
            raise ValueError(f"unexpected {token or 'end'!r} in extent {self.text[:200]!r}")
        return symbol(token)


@irdl_attr_definition
class ShapeAttr(ParametrizedAttribute):
    """
    The extents of a tensor with unknown ones, as its type's encoding: `#graph.shape<["batch", 784]>`.

    An integer is a static extent; a string is an expression over symbols in canonical form; `"?"` is an
    extent without a name.
    """

    name = "graph.shape"
    dims: ArrayAttr[Attribute] = param_def()

    def verify(self) -> None:
        for dim in self.dims:
            if isinstance(dim, StringAttr):
                try:
                    parse_dim(dim.data)
                except ValueError as error:
                    raise VerifyException(str(error)) from error
            elif not isinstance(dim, IntAttr):
                raise VerifyException(f"extent {dim} must be an integer or a string")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[Attribute]:
        def one() -> Attribute:
            if (text := parser.parse_optional_str_literal()) is not None:
                try:
                    dim = parse_dim(text)
                except ValueError as error:
                    parser.raise_error(str(error))
                return _dim_attr(dim)
            return IntAttr(parser.parse_integer(allow_boolean=False))

        with parser.in_angle_brackets():
            return [ArrayAttr(parser.parse_comma_separated_list(parser.Delimiter.SQUARE, one))]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets(), printer.in_square_brackets():
            for i, dim in enumerate(self.dims):
                if i:
                    printer.print_string(", ")
                if isinstance(dim, StringAttr):
                    printer.print_string_literal(dim.data)
                elif isinstance(dim, IntAttr):
                    printer.print_string(str(dim.data))


@lru_cache(maxsize=4096)
def _dim_attr(dim: Dim) -> Attribute:
    return IntAttr(dim) if isinstance(dim, int) else StringAttr(str(dim))


@lru_cache(maxsize=8192)
def _static_type(dims: tuple[int, ...], element: Attribute) -> TensorType[Attribute]:
    return TensorType(element, dims)


@lru_cache(maxsize=8192)
def _symbolic_type(dims: tuple[Dim, ...], element: Attribute) -> TensorType[Attribute]:
    shape = [d if isinstance(d, int) else DYNAMIC_INDEX for d in dims]
    return TensorType(element, shape, ShapeAttr(ArrayAttr([_dim_attr(d) for d in dims])))


MAX_RANK = 64
"""numpy's limit as well."""

MAX_ELEMENTS = 1 << 47
"""Bytes of a process's address space; an extent of 0 does not excuse the others."""


def tensor_type(dims: Sequence[Dim], element: Attribute) -> TensorType[Attribute]:
    """The tensor type of these extents; one that is static throughout has no encoding."""
    key = tuple(dims)
    if len(key) > MAX_RANK:
        raise VerifyException(f"a result would have rank {len(key)}, more than {MAX_RANK}")
    if all(type(d) is int for d in key):
        if prod(d or 1 for d in key) > MAX_ELEMENTS:  # pyright: ignore[reportArgumentType, reportOperatorIssue]
            raise VerifyException(f"a result of the extents [{print_dims(key)}] cannot be addressed")
        for d in key:
            if d < 0:  # pyright: ignore[reportOperatorIssue]
                raise VerifyException(f"a result would have the negative extent {d} in [{print_dims(key)}]")
        return _static_type(key, element)  # pyright: ignore[reportArgumentType]
    return _symbolic_type(key, element)


@lru_cache(maxsize=8192)
def _encoded_dims(encoding: Attribute) -> tuple[Dim, ...] | None:
    """The extents in an encoding; None if one has no name, since each use of it is then a different one."""
    assert isinstance(encoding, ShapeAttr)
    if any(isinstance(d, StringAttr) and "?" in d.data for d in encoding.dims):
        return None
    return tuple(parse_dim(d.data) if isinstance(d, StringAttr) else d.data for d in encoding.dims)  # pyright: ignore


def dims_of(type: Attribute) -> list[Dim]:
    """The extents of a ranked tensor type; an extent without a name is `unknown()`."""
    if not isinstance(type, TensorType):
        raise VerifyException(f"expected a ranked tensor, not {type}")
    shape = type.get_shape()
    encoding = type.encoding
    if isinstance(encoding, ShapeAttr) and len(encoding.dims) == len(shape):
        dims = _encoded_dims(encoding)
        if dims is None:
            dims = [
                unknown() if isinstance(d, StringAttr) and "?" in d.data else _read(d) for d in encoding.dims
            ]
        # The plain extents win where they know more.
        return [d if s < 0 else s for d, s in zip(dims, shape, strict=True)]
    return [unknown() if s < 0 else s for s in shape]


def _read(dim: Attribute) -> Dim:
    return parse_dim(dim.data) if isinstance(dim, StringAttr) else dim.data  # pyright: ignore


def print_dims(dims: Iterable[Dim]) -> str:
    """The extents as in messages: `batch, 12*h, 64`."""
    return ", ".join(str(d) for d in dims)


def compatible(a: Attribute, b: Attribute) -> bool:
    """
    Whether one value can have both types: the same element type and rank, no two different numbers. A rank that is
    not known is no contradiction.
    """
    if a == b:
        return True
    loose = [t for t in (a, b) if isinstance(t, UnrankedTensorType) or t.name == "graph.nothing"]
    if loose:
        return len({getattr(t, "element_type", None) for t in (a, b)}) == 1
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        left, right = a.shape.data, b.shape.data
        return (
            a.element_type == b.element_type
            and len(left) == len(right)
            and all(p.data == q.data or p.data < 0 or q.data < 0 for p, q in zip(left, right, strict=True))
        )
    if type(a) is type(b) and isinstance(a, ParametrizedAttribute) and isinstance(b, ParametrizedAttribute):
        if a.name in ("graph.sequence", "graph.optional"):
            return all(compatible(p, q) for p, q in zip(a.parameters, b.parameters, strict=True))
    return False
