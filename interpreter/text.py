"""
Meaning of `text`: strings are str or bytes objects in arrays, looked at as bytes.

A view of strings in an arena is memory of its own, since numpy keeps no objects in bytes (`interpreter/memref.py`).
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from stepwell.diagnostics import compile_error
from stepwell.interpreter.machine import Machine, Results, meaning


def to_bytes(text: Any) -> bytes:
    """The bytes of a string; a str holds those that are no UTF-8 as `os.fsdecode` writes them."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


WHITE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)
"""White space of Unicode."""


def split(text: Any, delimiter: str, limit: int) -> list[str]:
    """The parts of a string between delimiters, at most `limit` + 1 (any number if it is negative)."""
    return to_text(to_bytes(text)).split(delimiter or None, limit)


def format_float(value: float, digits: int) -> str:
    """A number as `%g` writes it."""
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "INF" if value > 0 else "-INF"
    return f"{value:.{digits}g}"


def parse_float(text: Any) -> float | None:
    """The number that a string spells; None where it is none."""
    word = to_text(to_bytes(text)).strip(WHITE)
    try:
        if word.lstrip("+-").lower().startswith("0x"):
            return float.fromhex(word)
        return None if "_" in word or not word.isascii() else float(word)
    except (ValueError, OverflowError):
        return None


def parse_float32(text: Any) -> float | None:
    """The number that a string spells as a float, rounded once: where the double lies midway between two, it is no help."""
    value = parse_float(text)
    if value is None or not isfinite(value):
        return value
    with np.errstate(over="ignore"):
        near = np.float32(value)
    other = np.nextafter(near, np.float32(np.inf if value > float(near) else -np.inf))
    word = to_text(to_bytes(text)).strip(WHITE)
    if abs(value - float(near)) != abs(float(other) - value) or "x" in word.lower():
        return float(near)
    exact = Fraction(word)
    return float(
        near if exact == Fraction(value) else max(near, other) if exact > value else min(near, other)
    )


def parse_integer(text: Any) -> int | None:
    """The integer that a string spells, or the integer part of the number; None where it is none."""
    word = to_text(to_bytes(text)).strip(WHITE)
    digits = word.lstrip("+-") if len(word.lstrip("+-")) >= len(word) - 1 else ""
    if digits.isascii() and digits.isdigit():
        return int(word)
    value = parse_float(text)
    return None if value is None or not np.isfinite(value) else int(value)


def _elementwise(function: Callable[..., Any]) -> Callable[..., Iterable[Any]]:
    def over(machine: Machine, op: Any, *arrays: np.ndarray) -> Iterable[Any]:
        return [function(*row) for row in zip(*(a.ravel().tolist() for a in arrays), strict=True)]

    return over


def _means(name: str) -> Callable[[Callable[..., Iterable[Any]]], Callable[..., Iterable[Any]]]:
    """Enter what gives the elements of the result of `text.<name>`, in order."""

    def enter(function: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
        def run(machine: Machine, op: Any) -> Results:
            *arrays, out = machine.get(op.operands)
            result = np.empty(out.shape, out.dtype)
            values = list(function(machine, op, *arrays))
            result.reshape(-1)[:] = values if out.dtype == object else np.array(values, out.dtype)
            if op.results:
                return (machine.own(result),)
            out[...] = result
            return []

        meaning(f"text.{name}")(run)
        return function

    return enter


_means("equal")(_elementwise(lambda x, y: to_bytes(x) == to_bytes(y)))
_means("concat")(_elementwise(lambda x, y: to_text(to_bytes(x) + to_bytes(y))))


def _words(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    text = data.astype(np.uint8).tobytes()
    return [text[a:b] for a, b in pairwise(offsets)]


@_means("view")
def _view(machine: Machine, op: Any, data: np.ndarray, offsets: np.ndarray) -> Iterable[Any]:
    return [to_text(word) for word in _words(data, offsets)]


@_means("map")
def _map(machine: Machine, op: Any, x: np.ndarray, table: np.ndarray) -> Iterable[Any]:
    moves = {
        character: character + step
        for first, last, stride, step in table.reshape(-1, 4).tolist()
        for character in range(first, last + 1, stride)
    }
    return [to_text(to_bytes(s)).translate(moves) for s in x.ravel()]


@_means("find")
def _find(machine: Machine, op: Any, x: np.ndarray, data: np.ndarray, offsets: np.ndarray) -> Iterable[Any]:
    places = {word: place for place, word in enumerate(_words(data, offsets))}
    return [places.get(to_bytes(s), -1) for s in x.ravel()]


@_means("rank")
def _rank(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    words = [to_bytes(s) for s in x.ravel()]
    ranks = {word: rank for rank, word in enumerate(sorted(set(words)))}
    return [ranks[word] for word in words]


@_means("match")
def _match(
    machine: Machine, op: Any, x: np.ndarray, classes: np.ndarray, following: np.ndarray, accepts: np.ndarray
) -> Iterable[Any]:
    table = following.reshape(accepts.size, -1)
    columns = classes.astype(np.uint8)
    results = []
    for text in x.ravel():
        state = 1
        for byte in to_bytes(text):
            state = int(table[state, columns[byte]])
        results.append(bool(accepts[state]))
    return results


@_means("count")
def _count(machine: Machine, op: Any, x: np.ndarray, delimiter: np.ndarray) -> Iterable[Any]:
    mark = to_text(delimiter.astype(np.uint8).tobytes())
    return [len(split(s, mark, op.numbers[0])) for s in x.ravel()]


@_means("split")
def _split(machine: Machine, op: Any, x: np.ndarray, delimiter: np.ndarray) -> Iterable[Any]:
    mark = to_text(delimiter.astype(np.uint8).tobytes())
    rows = [split(s, mark, op.numbers[0]) for s in x.ravel()]
    width = machine[op.out].shape[-1]
    return [text for row in rows for text in [*row, *[""] * (width - len(row))]]


def _number(op: Any, value: Any, text: Any) -> Any:
    if value is None:
        raise compile_error(op, f"{text!r:.60} is not a number", "pass strings that are")
    return value


@_means("parse_f64")
def _parse_float(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    return [_number(op, parse_float(s), s) for s in x.ravel()]


@_means("parse_f32")
def _parse_float32(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    return [_number(op, parse_float32(s), s) for s in x.ravel()]


@_means("parse_i64")
def _parse_integer(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    values = [_number(op, parse_integer(s), s) for s in x.ravel()]
    return [(v + (1 << 63)) % (1 << 64) - (1 << 63) for v in values]


@_means("format_f64")
def _format_float(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    return [format_float(value, op.numbers[0]) for value in x.ravel().tolist()]


@_means("format_fixed")
def _format_fixed(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    return [f"{value:.{op.numbers[0]}f}" for value in x.ravel().tolist()]


@_means("format_i64")
def _format_integer(machine: Machine, op: Any, x: np.ndarray) -> Iterable[Any]:
    return [str(value % (1 << 64) if op.numbers[0] else value) for value in x.ravel().tolist()]


@_means("grams")
def _grams(
    machine: Machine, op: Any, items: np.ndarray, grams: np.ndarray, places: np.ndarray, table: np.ndarray
) -> Iterable[Any]:
    columns, most_skipped = op.numbers
    counts = np.zeros((machine[op.out].size // max(columns, 1), columns), np.float32)
    for row, line in zip(counts, items.reshape(len(counts), -1).tolist(), strict=True):
        for n, first, first_place, count in table.reshape(-1, 4).tolist():
            known = {
                tuple(grams[first + i * n : first + (i + 1) * n].tolist()): places[first_place + i]
                for i in range(count)
            }
            for step in range(1, min(most_skipped if n > 1 else 0, len(line)) + 2):
                for begin in range(len(line) - (n - 1) * step):
                    place = known.get(tuple(line[begin : begin + n * step : step]))
                    if place is not None:
                        row[place] += 1
    return counts.ravel()
