"""Scores: which label they give, and how they are transformed."""

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.classical.rules import pair
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, ints, one, scalar


def labels_of(call: Call, emitter: Emitter, ints: str, strings: str = "classlabels_strings") -> np.ndarray:
    numbers, texts = call.attributes.get(ints), call.attributes.get(strings)
    if texts:
        return np.array(texts, object)
    return np.array(numbers or [], np.int64)


def label_of(emitter: Emitter, labels: np.ndarray, index: SSAValue) -> SSAValue:
    """The label at each index; nothing is looked up where labels are their own numbers."""
    if labels.dtype != object and (labels == np.arange(labels.size)).all():
        return cast(emitter, index, np.int64)
    return one(emitter, "Gather", emitter.constant(labels), index)


def top(emitter: Emitter, scores: SSAValue, labels: np.ndarray) -> SSAValue:
    """The label of the largest score of each row; of equal ones the first."""
    return label_of(emitter, labels, one(emitter, "ArgMax", scores, axis=1, keepdims=0))


def label_above(emitter: Emitter, score: SSAValue, limit: float, labels: np.ndarray) -> SSAValue:
    """The second label where the score `[rows, 1]` is above `limit`, else the first."""
    above = one(emitter, "Greater", score, scalar(emitter, score, limit))
    flat = one(emitter, "Squeeze", above, ints(emitter, 1))
    return label_of(emitter, labels, cast(emitter, flat, np.int64))


# probit(p) = sqrt(2) * erfinv(2p - 1), with Winitzki's approximation of erfinv, as in ONNX Runtime
def _probit(emitter: Emitter, scores: SSAValue) -> SSAValue:
    def number(value: float) -> SSAValue:
        return scalar(emitter, scores, value)

    x = one(emitter, "Sub", one(emitter, "Mul", scores, number(2.0)), number(1.0))
    inner = one(emitter, "Mul", one(emitter, "Sub", number(1.0), x), one(emitter, "Add", number(1.0), x))
    log = one(emitter, "Log", inner)
    v = one(emitter, "Add", number(2 / (3.14159 * 0.147)), one(emitter, "Mul", log, number(0.5)))
    square = one(emitter, "Sub", one(emitter, "Mul", v, v), one(emitter, "Mul", log, number(1 / 0.147)))
    size = one(emitter, "Sqrt", one(emitter, "Sub", one(emitter, "Sqrt", square), v))
    negative = one(emitter, "Less", x, number(0.0))
    signed = one(emitter, "Where", negative, one(emitter, "Neg", size), size)
    return one(emitter, "Mul", signed, number(1.41421356))


# softmax_zero(x) = softmax over the scores that are not 0; those that are stay 0
def _softmax_zero(emitter: Emitter, scores: SSAValue) -> SSAValue:
    largest = one(emitter, "ReduceMax", scores, ints(emitter, 1), keepdims=1)
    size = one(emitter, "Abs", scores)
    counts = one(emitter, "Greater", size, scalar(emitter, scores, 1e-7))
    grown = one(emitter, "Exp", one(emitter, "Sub", scores, largest))
    zero = scalar(emitter, scores, 0.0)
    total = one(
        emitter, "ReduceSum", one(emitter, "Where", counts, grown, zero), ints(emitter, 1), keepdims=1
    )
    tiny = one(emitter, "Mul", scores, one(emitter, "Exp", one(emitter, "Neg", largest)))
    return one(emitter, "Div", one(emitter, "Where", counts, grown, tiny), total)


TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""The transforms of `TreeEnsemble` by number."""


def transformed(call: Call, emitter: Emitter, scores: SSAValue, transform: str) -> SSAValue:
    """The scores `[rows, columns]` transformed; of a single column PROBIT alone changes anything."""
    if transform == "NONE" or (emitter.shape(scores)[1] == 1 and transform in TRANSFORMS[1:4]):
        return scores
    if transform == "LOGISTIC":
        return one(emitter, "Sigmoid", scores)
    if transform == "SOFTMAX":
        return one(emitter, "Softmax", scores, axis=1)
    if transform == "SOFTMAX_ZERO":
        return _softmax_zero(emitter, scores)
    if transform == "PROBIT":
        return _probit(emitter, scores)
    raise emitter.error(call, f"the post_transform {transform!r}", f"use one of {', '.join(TRANSFORMS)}")


# One score s of two classes: logistic(-s), logistic(s), or else what the class that has no score gets is 1 - s or -s.
def both_scores(emitter: Emitter, score: SSAValue, transform: str, probability: bool) -> SSAValue:
    """The scores of both classes `[rows, 2]` from that of the second, which may be a `probability`."""
    if transform == "LOGISTIC":
        return one(emitter, "Sigmoid", pair(emitter, one(emitter, "Neg", score), score))
    if probability:
        return pair(emitter, one(emitter, "Sub", scalar(emitter, score, 1.0), score), score)
    return pair(emitter, one(emitter, "Neg", score), score)
