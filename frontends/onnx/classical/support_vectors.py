"""Support vector machines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.classical.rules import classical, column, matrix_of, rows_of, times
from stepwell.frontends.onnx.classical.scores import both_scores, label_of, labels_of, top, transformed
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, floats, ints, one


def _kernel(
    call: Call, emitter: Emitter, table: SSAValue, vectors: np.ndarray, linear: float = 0.0
) -> SSAValue:
    """The kernel of each row with each vector: `[rows, vectors]`; `linear` is added to the linear one."""
    kind = call.attributes["kernel_type"]
    gamma, offset, degree = (*(call.attributes.get("kernel_params") or ()), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        # The squares of the differences, not the difference of the squares, which would cancel.
        wide = one(emitter, "Unsqueeze", table, ints(emitter, 1))
        apart = one(emitter, "Sub", wide, emitter.constant(vectors[None]))
        square = one(emitter, "Mul", apart, apart)
        distance = one(emitter, "ReduceSum", square, ints(emitter, 2), keepdims=0)
        return one(emitter, "Exp", one(emitter, "Mul", distance, floats(emitter, -gamma)))
    product = times(emitter, table, vectors)
    if kind == "LINEAR":
        return product if not linear else one(emitter, "Add", product, floats(emitter, linear))
    scaled = one(emitter, "Mul", product, floats(emitter, gamma))
    scaled = one(emitter, "Add", scaled, floats(emitter, offset))
    if kind == "POLY" and degree in (2.0, 3.0):
        square = one(emitter, "Mul", scaled, scaled)
        return square if degree == 2.0 else one(emitter, "Mul", square, scaled)
    if kind == "POLY":
        return one(emitter, "Pow", scaled, floats(emitter, degree))
    if kind == "SIGMOID":
        return one(emitter, "Tanh", scaled)
    raise emitter.error(call, f"the kernel_type {kind!r}", "use LINEAR, POLY, RBF or SIGMOID")


@classical("SVMRegressor")
def _svm_regressor(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, table = call.attributes, rows_of(call, emitter)
    count, coefficients = attributes["n_supports"], attributes.get("coefficients") or []
    offset = (attributes.get("rho") or [0.0])[0]
    if attributes["post_transform"] != "NONE":
        raise emitter.missing(call, f"post_transform {attributes['post_transform']}", "leave it out")
    if count > 0:
        vectors = matrix_of(call, emitter, attributes.get("support_vectors") or [], count, "support vectors")
        if len(coefficients) != count:
            raise emitter.error(
                call, f"{len(coefficients)} coefficients for {count} vectors", "give one each"
            )
        weights = matrix_of(call, emitter, coefficients, 1, "coefficients")
        result = times(emitter, _kernel(call, emitter, table, vectors), weights)
        result = one(emitter, "Add", result, floats(emitter, offset))
    else:
        attributes["kernel_type"] = "LINEAR"
        rows = matrix_of(call, emitter, coefficients, 1, "coefficients")
        result = _kernel(call, emitter, table, rows, offset)
    if attributes["one_class"]:
        inside = one(emitter, "Greater", result, floats(emitter, 0.0))
        result = one(emitter, "Where", inside, floats(emitter, 1.0), floats(emitter, -1.0))
    return [result]


@classical("SVMClassifier")
def _svm_classifier(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, table = call.attributes, rows_of(call, emitter)
    labels, transform = labels_of(call, emitter, "classlabels_ints"), attributes["post_transform"]
    counts = attributes.get("vectors_per_class") or []
    if labels.size < 2:
        raise emitter.missing(call, f"a classifier of {labels.size} classes", "leave the node out")
    if sum(counts):
        results = _svm_by_pairs(call, emitter, table, labels, counts, transform)
    else:
        results = _svm_linear(call, emitter, table, labels, transform)
    return results[: len(call.used)]


def _svm_linear(
    call: Call, emitter: Emitter, table: SSAValue, labels: np.ndarray, transform: str
) -> Sequence[SSAValue]:
    coefficients = call.attributes.get("coefficients") or []
    call.attributes["kernel_type"] = "LINEAR"
    rows = matrix_of(call, emitter, coefficients, labels.size, "coefficients")
    scores = _kernel(call, emitter, table, rows, (call.attributes.get("rho") or [0.0])[0])
    result = transformed(call, emitter, scores, transform)
    if labels.size > 2 or call.attributes.get("prob_a"):
        return [top(emitter, scores, labels), result]
    # of two classes the second is taken if any score is above the limit
    best = one(emitter, "ReduceMax", scores, ints(emitter, 1), keepdims=1)
    positive = min(coefficients) >= 0
    limit = floats(emitter, 0.5 if positive else 0.0)
    sure = one(emitter, "GreaterOrEqual" if positive else "Greater", best, limit)
    sure = cast(emitter, one(emitter, "Squeeze", sure, ints(emitter, 1)), np.int64)
    index = one(emitter, "Max", sure, one(emitter, "ArgMax", scores, axis=1, keepdims=0))
    return [label_of(emitter, labels, index), result]


def _svm_by_pairs(
    call: Call, emitter: Emitter, table: SSAValue, labels: np.ndarray, counts: Sequence[int], transform: str
) -> Sequence[SSAValue]:
    """One classifier for each pair of classes, which vote."""
    attributes, classes, total = call.attributes, labels.size, sum(counts)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    rho, coefficients = attributes.get("rho") or [], attributes.get("coefficients") or []
    if len(counts) != classes or len(coefficients) < (classes - 1) * total or len(rho) < len(pairs):
        why = f"{len(coefficients)} coefficients, {len(rho)} rho for {counts} vectors of {classes} classes"
        raise emitter.error(call, why, "export the model again")
    vectors = matrix_of(call, emitter, attributes.get("support_vectors") or [], total, "support vectors")
    own = np.array(coefficients[: (classes - 1) * total], np.float32).reshape(classes - 1, total)
    starts = np.concatenate(([0], np.cumsum(counts)))
    weights = np.zeros((len(pairs), total), np.float32)
    for row, (i, j) in enumerate(pairs):
        weights[row, starts[i] : starts[i + 1]] = own[j - 1, starts[i] : starts[i + 1]]
        weights[row, starts[j] : starts[j + 1]] = own[i, starts[j] : starts[j + 1]]
    # The terms of a score are large and of both signs.
    kernel = cast(emitter, _kernel(call, emitter, table, vectors), np.float64)
    scores = times(emitter, kernel, weights.astype(np.float64))
    scores = one(emitter, "Add", scores, floats(emitter, rho[: len(pairs)], np.float64))
    scores = cast(emitter, scores, np.float32)
    # a score above 0 is a vote for the first of the pair
    wins = cast(emitter, one(emitter, "Greater", scores, floats(emitter, 0.0)), np.float32)
    for_first, for_second = (np.eye(classes, dtype=np.float32)[[p[k] for p in pairs]] for k in (0, 1))
    votes = one(emitter, "MatMul", wins, emitter.constant(for_first - for_second))
    votes = one(emitter, "Add", votes, emitter.constant(for_second.sum(0)))
    label = top(emitter, votes, labels)
    if attributes.get("prob_a"):
        chances = _pair_chances(call, emitter, scores, len(pairs))
        return [label, transformed(call, emitter, _coupled(emitter, chances, classes), transform)]
    if classes > 2:
        return [label, transformed(call, emitter, scores, transform)]
    return [label, both_scores(emitter, scores, transform, transform != "NONE")]


# Platt: P(first of the pair) = 1 - sigmoid(score * a + b)
def _pair_chances(call: Call, emitter: Emitter, scores: SSAValue, pairs: int) -> SSAValue:
    a, b = call.attributes["prob_a"], call.attributes.get("prob_b") or []
    if len(a) < pairs or len(b) < pairs:
        raise emitter.error(call, f"{len(a)} prob_a, {len(b)} prob_b for {pairs} pairs", "give one each")
    moved = one(
        emitter, "Add", one(emitter, "Mul", scores, floats(emitter, a[:pairs])), floats(emitter, b[:pairs])
    )
    chance = one(emitter, "Sigmoid", one(emitter, "Neg", moved))
    return one(emitter, "Clip", chance, floats(emitter, 1e-7), floats(emitter, 1 - 1e-7))


# Wu, Lin and Weng 2004, second method: the distribution p that minimises sum_ij (r_ji p_i - r_ij p_j)^2, that is
# p^T Q p with Q_ii = sum_j r_ji^2 and Q_ij = -r_ji r_ij, by cyclic coordinate descent.
def _coupled(emitter: Emitter, chances: SSAValue, classes: int) -> SSAValue:
    """The distribution over classes that fits the chances of all pairs `[rows, pairs]` best."""
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    place = np.full((classes, classes), 2 * len(pairs), np.int64)
    for k, (i, j) in enumerate(pairs):
        place[i, j], place[j, i] = k, k + len(pairs)
    others = one(emitter, "Sub", floats(emitter, 1.0), chances)
    zeros = one(emitter, "Mul", column(emitter, chances, 0), floats(emitter, 0.0))
    every = one(emitter, "Concat", chances, others, zeros, axis=1)
    r = one(emitter, "Gather", every, emitter.constant(place), axis=1)
    q = one(emitter, "Neg", one(emitter, "Mul", r, one(emitter, "Transpose", r, perm=[0, 2, 1])))
    diagonal = one(emitter, "ReduceSum", one(emitter, "Mul", r, r), ints(emitter, 1), keepdims=1)
    eye = emitter.constant(np.eye(classes, dtype=bool))
    q = one(emitter, "Where", eye, diagonal, q)
    start = one(
        emitter,
        "Mul",
        column(emitter, one(emitter, "Squeeze", diagonal, ints(emitter, 1)), 0),
        floats(emitter, 0.0),
    )
    start = one(emitter, "Add", start, emitter.constant(np.full((1, classes), 1 / classes, np.float32)))
    (result,) = emitter.inline(_descent(classes), q, start)
    return result


_MOST_ROUNDS = 100
_NEAR_ENOUGH = 0.005
"""Rounds, and the error times the classes at which a row stops: those of libsvm, whose results these are."""


def _descent(classes: int) -> onnx.FunctionProto:
    """`(q, start) -> p`: rounds of coordinate descent, each row until it is near enough."""
    body = _Nodes()
    two, last = body.integers(2), body.integers(1)
    product = body.node("Squeeze", body.node("MatMul", "q", body.node("Unsqueeze", "p", two)), two)
    whole = body.node("ReduceSum", body.node("Mul", "p", product), last)
    error = body.node("ReduceMax", body.node("Abs", body.node("Sub", product, whole)), last)
    done = body.node("Less", error, body.number(_NEAR_ENOUGH / classes))
    p, unit, double = "p", body.number(1.0), body.number(2.0)
    for i in range(classes):
        row = body.node("Gather", "q", body.integer(i), axis=1)
        mine, ours = (
            body.node("Slice", v, *(body.integers(n) for n in (i, i + 1, 1))) for v in (row, product)
        )
        step = body.node("Div", body.node("Sub", whole, ours), mine)
        scale = body.node("Add", step, unit)
        gain = body.node("Add", body.node("Mul", step, mine), body.node("Mul", ours, double))
        whole = body.node("Add", whole, body.node("Mul", step, gain))
        whole = body.node("Div", body.node("Div", whole, scale), scale)
        product = body.node("Div", body.node("Add", product, body.node("Mul", step, row)), scale)
        chosen = body.numbers(np.eye(classes, dtype=np.float32)[i])
        p = body.node("Div", body.node("Add", p, body.node("Mul", step, chosen)), scale)
    following = body.node("Where", done, "p", p)
    running = body.node("Cast", body.node("Not", done), to=onnx.TensorProto.FLOAT)
    more = body.node("Greater", body.node("ReduceMax", running, keepdims=0), body.number(0.0))
    float_, bool_, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL, onnx.TensorProto.INT64
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        body.nodes,
        "round",
        [info("round", int64, []), info("again", bool_, []), info("p", float_, ["n", classes])],
        [info(more, bool_, []), info(following, float_, ["n", classes])],
    )
    outer = _Nodes()
    result = outer.node("Loop", outer.integer(_MOST_ROUNDS), outer.truth(), "start", body=graph)
    return onnx.helper.make_function(
        "stepwell.local", "couple", ["q", "start"], [result], outer.nodes, [onnx.helper.make_opsetid("", 21)]
    )


class _Nodes:
    """Nodes of a graph, each with one output, whose name it returns."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        return self.node("Constant", value=onnx.numpy_helper.from_array(value))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def integer(self, value: int) -> str:
        return self.constant(np.array(value, np.int64))

    def numbers(self, values: np.ndarray) -> str:
        return self.constant(values.astype(np.float32))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def truth(self) -> str:
        return self.constant(np.array(True))
