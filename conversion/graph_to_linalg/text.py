"""Strings: what looks at their bytes becomes an op of the `text` dialect on whole tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import AnyFloat, IntegerType, f32, f64, i1, i64
from xdsl.ir import Attribute, SSAValue

from stepwell.conversion.graph_to_linalg.lowering import Lowering, Shape, dims, is_unsigned, lowers
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.conversion.graph_to_linalg.selection import true_positions
from stepwell.diagnostics import compile_error, unsupported
from stepwell.dialects import text
from stepwell.dialects.graph.shape import Dim, product
from stepwell.dialects.text import STRING
from stepwell.interpreter.casing import Case, case_ranges, in_case
from stepwell.interpreter.regex import PatternError, automaton_of
from stepwell.interpreter.text import to_bytes

FIXED_DIGITS = 6
"""Digits behind the point where a float becomes a string in the way of C++'s `std::to_string`."""

FLOAT_DIGITS = 8
"""Significant digits of a float as a string, of any width, as ONNX Runtime writes it."""


def apply(
    low: Lowering, kind: type[text.TextOp], inputs: Sequence[SSAValue], shape: Shape, **numbers: int
) -> SSAValue:
    """The result of an op of the `text` dialect on a new tensor of `shape`."""
    out = low.empty(shape, kind.OUTPUT)
    return low.reshaped(low.value(kind(inputs, out, **numbers)), tuple(shape))


def _bytes(low: Lowering, data: bytes) -> SSAValue:
    return low.tensor_constant(np.frombuffer(data, np.int8))


def words(low: Lowering, strings: Sequence[str]) -> tuple[SSAValue, SSAValue]:
    """Strings as two constants: their bytes, and where each begins and the last one ends."""
    parts = [to_bytes(s) for s in strings]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return _bytes(low, b"".join((*parts, b"\0"))), low.tensor_constant(offsets)


def string_constant(low: Lowering, strings: Sequence[str], shape: Sequence[int]) -> SSAValue:
    """A constant tensor of strings."""
    return apply(low, text.ViewOp, words(low, strings), tuple(shape))


def spread(low: Lowering, value: SSAValue, shape: Shape) -> SSAValue:
    """`value` broadcast to `shape`."""
    if low.shape(value) == tuple(shape):
        return value
    return low.map(lambda v: v, [value], shape, low.element(value), widen=False)


def equal(low: Lowering, op: Any) -> SSAValue:
    """`graph.equal` on strings."""
    x, y = low.operands(op)
    shape = low.broadcast_shape([low.shape(x), low.shape(y)])
    return apply(low, text.EqualOp, [spread(low, x, shape), spread(low, y, shape)], shape)


@lowers("string_concat")
def _string_concat(low: Lowering, op: Any) -> SSAValue:
    x, y = low.operands(op)
    shape = low.broadcast_shape([low.shape(x), low.shape(y)])
    return apply(low, text.ConcatOp, [spread(low, x, shape), spread(low, y, shape)], shape)


@lowers("string_split")
def _string_split(low: Lowering, op: Any) -> list[SSAValue]:
    x = low[op.operands[0]]
    shape, limit = low.shape(x), low.attr(op, "maxsplit")
    limit = -1 if limit is None else limit
    delimiter = _bytes(low, to_bytes(low.attr(op, "delimiter") or ""))
    counts = apply(low, text.CountOp, [x, delimiter], shape, limit=limit)
    init = low.fill(0, (), i64)
    d = dims(len(shape))
    (most,) = low.generic("r" * len(d), [(counts, d)], [(init, [])], lambda n, acc: n.maximum(acc))
    width = low.dim_of(low.scalar_index(most))
    return [apply(low, text.SplitOp, [x, delimiter], (*shape, width), limit=limit), counts]


def _in_case(low: Lowering, x: SSAValue, case: Case) -> SSAValue:
    table = np.array(case_ranges(case), np.int32)
    return apply(low, text.MapOp, [x, low.tensor_constant(table)], low.shape(x))


def sorted_words(strings: Sequence[str]) -> list[str]:
    """Each string once, in the order of their bytes, which `text.find` asks for."""
    return sorted(set(strings), key=to_bytes)


# Stop words go, the others move up; where none is left, one empty string stays.
@lowers("string_normalizer")
def _string_normalizer(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    stop, exact = low.attr(op, "stopwords") or [], bool(low.attr(op, "is_case_sensitive"))
    action = low.attr(op, "case_change_action").lower()
    if action not in ("none", "lower", "upper"):
        raise compile_error(op, f"case_change_action is {action!r}", "choose LOWER, UPPER or NONE")
    change: Case | None = None if action == "none" else action
    y = x if change is None else _in_case(low, x, change)
    if not stop:
        return y
    shape = low.shape(x)
    if len(shape) == 2 and shape[0] != 1:
        from stepwell.conversion.graph_to_linalg.runtime_axes import check

        if isinstance(shape[0], int):
            raise compile_error(op, f"it drops words of {shape[0]} rows", "pass one row")
        one = low.value(arith.CmpiOp(low.index(shape[0]), low.constant(1), "eq"))
        check(low, one, "graph.string_normalizer: it drops words of more rows than one")
    flat = (product(shape),)
    compared = low.reshape(x if exact else y if change == "lower" else _in_case(low, x, "lower"), flat)
    sought = sorted_words(stop if exact else [in_case(s, "lower") for s in stop])
    found = apply(low, text.FindOp, [compared, *words(low, sought)], flat)
    kept = low.map(lambda place: place.below(0), [found], flat, i1)
    positions, count = true_positions(low, kept)
    y = low.reshape(y, flat)
    body = _reads(y)
    gathered = low.map(body, [positions], (count,), STRING, widen=False)
    some = low.dim_of(low.value(arith.MaxSIOp(low.index(count), low.constant(1))))
    filled = spread(low, string_constant(low, [""], ()), (some,))
    result = low.insert(gathered, filled, [0], sizes=[count])
    return result if len(shape) == 1 else low.reshape(low.reshaped(result, (some,)), (1, some))


def _reads(source: SSAValue) -> Any:
    """A body that gives the element of `source` at the place it is given."""

    def body(place: Scalar) -> Scalar:
        return place.body.extract(source, [place.as_index()])

    return body


@lowers("regex_full_match")
def _regex_full_match(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    pattern = low.attr(op, "pattern") or ""
    try:
        automaton = automaton_of(pattern)
    except PatternError as error:
        report = unsupported if error.is_legal else compile_error
        raise report(op, f"the pattern {pattern!r:.80}: {error}", "write it in the syntax of RE2") from None
    tables = [
        low.tensor_constant(automaton.classes.astype(np.uint8).view(np.int8)),
        low.tensor_constant(automaton.following),
        low.tensor_constant(automaton.accepts),
    ]
    return apply(low, text.MatchOp, [x, *tables], low.shape(x))


# --- numbers ---------------------------------------------------------------------------------------


def formatted(low: Lowering, x: SSAValue, source: Attribute) -> SSAValue:
    """Numbers as strings; `source` is their element type of the graph."""
    shape = low.shape(x)
    if isinstance(source, AnyFloat):
        wide = low.map(lambda v: v.cast(f64), [x], shape, f64, widen=False)
        return apply(low, text.FormatF64Op, [wide], shape, digits=FLOAT_DIGITS)
    unsigned = is_unsigned(source) or source == i1
    wide = low.map(lambda v: v.cast(i64), [x], shape, i64, unsigned=[unsigned], widen=False)
    return apply(low, text.FormatI64Op, [wide], shape, is_unsigned=int(is_unsigned(source)))


def fixed(low: Lowering, x: SSAValue) -> SSAValue:
    """Floats as strings in the way of C++'s `std::to_string`."""
    shape = low.shape(x)
    wide = low.map(lambda v: v.cast(f64), [x], shape, f64, widen=False)
    return apply(low, text.FormatFixedOp, [wide], shape, digits=FIXED_DIGITS)


def parsed(low: Lowering, x: SSAValue, target: Attribute) -> tuple[SSAValue, Attribute]:
    """The numbers that strings spell, in the type that is wide enough for `target`; and that type."""
    shape = low.shape(x)
    if target == f64:
        return apply(low, text.ParseF64Op, [x], shape), f64
    if isinstance(target, IntegerType):
        return apply(low, text.ParseI64Op, [x], shape, is_unsigned=int(is_unsigned(target))), i64
    return apply(low, text.ParseF32Op, [x], shape), f32


# --- tables ----------------------------------------------------------------------------------------


def _last_of_each(keys: Sequence[Any]) -> dict[Any, int]:
    """Each key to its last place."""
    return {key: place for place, key in enumerate(keys)}


# y[i] = values[the last place at which keys holds x[i]], or the default
@lowers("label_encoder")
def _label_encoder(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    shape = low.shape(x)
    keys, values, default = (_table(low, op, name) for name in ("keys", "values", "default"))
    if low.element(x) == STRING:
        last = _last_of_each([to_bytes(k) for k in keys])
        order = sorted(last)
        places = [last[k] for k in order]
        found = apply(
            low, text.FindOp, [x, *words(low, [k.decode("utf-8", "surrogateescape") for k in order])], shape
        )
    else:
        places = list(range(len(keys)))
        found = find_number(low, x, keys)
    last_place = len(places)
    # The default stands behind the values.
    chosen = np.concatenate([values[places], default.reshape(1)])
    if chosen.dtype == object:
        table = string_constant(low, chosen.tolist(), chosen.shape)
    else:
        table = low.tensor_constant(chosen, low.result_element(op))

    def body(place: Scalar) -> Scalar:
        build = place.body
        known = build.select(place.below(0), build.constant(last_place, i64), place)
        return build.extract(table, [known.as_index()])

    return low.map(body, [found], shape, low.element(table), widen=False)


def _table(low: Lowering, op: Any, name: str) -> np.ndarray:
    from stepwell.dialects.graph import numpy_from_dense

    array = numpy_from_dense(op.properties[name])
    assert array is not None, "the importer keeps tables of labels inline"
    return array.reshape(-1)


def find_number(low: Lowering, x: SSAValue, keys: np.ndarray) -> SSAValue:
    """The last place of each element among `keys`, any NaN being as good as another; -1 where it is none."""
    shape, d = low.shape(x), dims(low.rank(x) + 1)
    table = low.tensor_constant(keys.astype(keys.dtype), low.element(x))
    init = low.fill(-1, shape, i64)

    def body(v: Scalar, key: Scalar, best: Scalar) -> Scalar:
        same = v.equals(key)
        if isinstance(v.type, AnyFloat):
            same = same | (v.differs(v) & key.differs(key))
        here = v.body.index(len(d) - 1).cast(i64)
        return v.body.select(same, here.maximum(best), best)

    iterators = "p" * len(shape) + "r"
    (found,) = low.generic(iterators, [(x, d[:-1]), (table, d[-1:])], [(init, d[:-1])], body)
    return found


@lowers("tf_idf_vectorizer")
def _tf_idf_vectorizer(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    shape = low.shape(x)
    kind = "pool_strings" if low.element(x) == STRING else "pool_int64s"
    pool: Sequence[Any] | None = low.attr(op, kind)
    if pool is None:
        raise compile_error(op, f"it has no {kind}, and x is {op.operands[0].type}", f"give it {kind}")
    places = low.attr(op, "ngram_indexes")
    columns = max(places, default=-1) + 1
    low.check_table(op, columns)
    if low.element(x) == STRING:
        vocabulary = sorted_words(pool)
        numbers = {word: number for number, word in enumerate(vocabulary)}
        pool = [numbers[word] for word in pool]
        items = apply(low, text.FindOp, [x, *words(low, vocabulary)], shape)
    else:
        items = low.map(lambda v: v.cast(i64), [x], shape, i64, widen=False)
    tables = [low.tensor_constant(t) for t in _gram_tables(low, op, pool, places)]
    out: tuple[Dim, ...] = (*shape[:-1], columns)
    most = low.attr(op, "max_skip_count")
    counts = apply(low, text.GramsOp, [items, *tables], out, columns=columns, most_skipped=most)
    mode = low.attr(op, "mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise compile_error(op, f"the mode is {mode!r}", "choose TF, IDF or TFIDF")
    if mode == "TF":
        return counts
    given = low.attr(op, "weights")
    if given and len(given) != len(places):
        raise compile_error(op, f"{len(given)} weights for {len(places)} n-grams", "give one each")
    weights = np.ones(columns, np.float32)
    weights[places] = given or 1.0
    d = dims(len(out))

    def weighted(count: Scalar, weight: Scalar) -> Scalar:
        if mode == "TFIDF":
            return count * weight
        return count.body.select(count.above(0.0), weight, count.body.constant(0.0, f32))

    return low.map(weighted, [counts, low.tensor_constant(weights)], out, f32, at=[d, d[-1:]])


def _gram_tables(low: Lowering, op: Any, pool: Sequence[int], places: Sequence[int]) -> list[np.ndarray]:
    """`grams`, `places` and `table` of `text.grams`: the n-grams of the lengths that count, each length sorted."""
    starts = low.attr(op, "ngram_counts")
    shortest, longest = low.attr(op, "min_gram_length"), low.attr(op, "max_gram_length")
    grams: list[int] = []
    ordered: list[int] = []
    table: list[list[int]] = []
    number = 0
    for n, start in enumerate(starts, 1):
        end = starts[n] if n < len(starts) else len(pool)
        if not 0 <= start <= end <= len(pool) or (end - start) % n:
            raise compile_error(op, f"ngram_counts {list(starts)} cut {len(pool)} items badly", "mend them")
        count = (end - start) // n
        if number + count > len(places) or any(p < 0 for p in places):
            raise compile_error(op, f"{len(places)} ngram_indexes do not place every n-gram", "mend them")
        last = _last_of_each([tuple(pool[at : at + n]) for at in range(start, end, n)])
        if shortest <= n <= longest and last:
            table.append([n, len(grams), len(ordered), len(last)])
            for gram in sorted(last):
                grams += gram
                ordered.append(places[number + last[gram]])
        number += count
    # No constant is empty: what stands behind the last n-gram is never read.
    return [np.array([*rows, 0], np.int64) for rows in (grams, ordered)] + [
        np.array(table, np.int64).reshape(-1) if table else np.array([1, 0, 0, 0], np.int64)
    ]
