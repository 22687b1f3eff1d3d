"""What ops on strings compute."""

import re
from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp
from stepwell.interpreter.graph.evaluation import evaluates

Array = Any


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@evaluates("string_split", exact=True)
def _string_split(op: GraphOp, x: Array) -> Array:
    delimiter, limit = op.get("delimiter") or None, op.get("maxsplit")
    parts = [_text(s).split(delimiter, -1 if limit is None else limit) for s in x.ravel()]
    width = max(map(len, parts), default=0)
    rows = [p + [""] * (width - len(p)) for p in parts]
    y = np.array(rows, object).reshape(*x.shape, width)
    return y, np.array([len(p) for p in parts], np.int64).reshape(x.shape)


@evaluates("regex_full_match", exact=True)
def _regex_full_match(op: GraphOp, x: Array) -> Array:
    pattern = re.compile(op.get("pattern") or "")
    return np.array([pattern.fullmatch(_text(s)) is not None for s in x.ravel()], bool).reshape(x.shape)


@evaluates("string_normalizer", exact=True)
def _string_normalizer(op: GraphOp, x: Array) -> Array:
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(op.get("case_change_action"), str)
    exact = bool(op.get("is_case_sensitive"))
    stop = set(op.get("stopwords") or ())
    if not exact:
        stop = {s.lower() for s in stop}
    words = [_text(s) for s in x.ravel()]
    kept = [change(s) for s in words if (s if exact else s.lower()) not in stop]
    y = np.array(kept or [""], object)
    return y.reshape(1, -1) if x.ndim == 2 else y


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
            for skip in range(1, (op.get("max_skip_count") if n > 1 else 0) + 2):
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
