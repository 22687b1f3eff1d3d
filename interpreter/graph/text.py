"""What ops on strings compute. A string is a str; bytes that are no UTF-8 are in it as `os.fsdecode` writes them."""

from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp, numpy_from_dense
from stepwell.errors import CompileError
from stepwell.interpreter.casing import in_case
from stepwell.interpreter.graph.evaluation import evaluates
from stepwell.interpreter.regex import PatternError, automaton_of
from stepwell.interpreter.text import split, to_bytes, to_text

Array = Any


@evaluates("string_concat", exact=True)
def _string_concat(op: GraphOp, x: Array, y: Array) -> Array:
    # The halves of a character may be bytes that are none.
    joined = np.frompyfunc(lambda a, b: to_text(to_bytes(a) + to_bytes(b)), 2, 1)(x, y)
    return np.asarray(joined, object)


@evaluates("string_split", exact=True)
def _string_split(op: GraphOp, x: Array) -> Array:
    delimiter, limit = op.get("delimiter") or "", op.get("maxsplit")
    parts = [split(s, delimiter, -1 if limit is None else limit) for s in x.ravel()]
    width = max(map(len, parts), default=0)
    rows = [p + [""] * (width - len(p)) for p in parts]
    y = np.array(rows, object).reshape(*x.shape, width)
    return y, np.array([len(p) for p in parts], np.int64).reshape(x.shape)


@evaluates("regex_full_match", exact=True)
def _regex_full_match(op: GraphOp, x: Array) -> Array:
    try:
        automaton = automaton_of(op.get("pattern") or "")
    except PatternError as error:
        raise CompileError(
            f"graph.regex_full_match: {error}; write the pattern in the syntax of RE2"
        ) from None
    return np.array([automaton.matches(to_bytes(s)) for s in x.ravel()], bool).reshape(x.shape)


@evaluates("string_normalizer", exact=True)
def _string_normalizer(op: GraphOp, x: Array) -> Array:
    change: Any = {"LOWER": "lower", "UPPER": "upper"}.get(op.get("case_change_action"))
    fold = None if op.get("is_case_sensitive") else "lower"
    words = x.ravel().tolist()
    if stop := {in_case(s, fold) for s in op.get("stopwords") or ()}:
        words = [s for s in words if in_case(s, fold) not in stop] or [""]
    y = np.array([*(in_case(s, change) for s in words), None], object)[:-1]
    return y.reshape(1, -1) if x.ndim == 2 else y


@evaluates("label_encoder", exact=True)
def _label_encoder(op: GraphOp, x: Array) -> Array:
    keys, values, default = (numpy_from_dense(op.properties[n]) for n in ("keys", "values", "default"))
    assert keys is not None and values is not None and default is not None, "the importer keeps them inline"
    # No NaN equals another, yet all are one key.
    table = {
        "nan" if k != k else k: v for k, v in zip(keys.ravel().tolist(), values.ravel().tolist(), strict=True)
    }
    other = default.ravel().tolist()[0]
    found = [table.get("nan" if v != v else v, other) for v in x.ravel().tolist()]
    return np.array([*found, other], values.dtype)[:-1].reshape(x.shape)


@evaluates("tf_idf_vectorizer", exact=True)
def _tf_idf_vectorizer(op: GraphOp, x: Array) -> Array:
    pool = op.get("pool_strings") or op.get("pool_int64s") or ()
    starts, places = op.get("ngram_counts"), op.get("ngram_indexes")
    size = max(places, default=-1) + 1
    weights = op.get("weights") or (1.0,) * len(places)
    grams: dict[tuple[Any, ...], int] = {}
    for n, start in enumerate(starts, 1):
        end = starts[n] if n < len(starts) else len(pool)
        for at in range(start, end, n):
            grams[tuple(pool[at : at + n])] = len(grams)
    counts = np.zeros((1 if x.ndim == 1 else x.shape[0], size))
    column_weights = np.ones(size)
    for gram in range(len(places)):
        column_weights[places[gram]] = weights[gram]
    for row, items in enumerate(x.reshape(counts.shape[0], -1).tolist()):
        for n in range(op.get("min_gram_length"), op.get("max_gram_length") + 1):
            # A single word has no gaps to skip.
            for skip in range(1, min(op.get("max_skip_count") if n > 1 else 0, len(items)) + 2):
                for begin in range(len(items) - (n - 1) * skip):
                    gram = tuple(items[begin + k * skip] for k in range(n))
                    if (found := grams.get(gram)) is not None:
                        counts[row, places[found]] += 1
    mode = op.get("mode")
    y = (
        counts
        if mode == "TF"
        else (counts > 0) * column_weights
        if mode == "IDF"
        else counts * column_weights
    )
    return y[0] if x.ndim == 1 else y
