"""Forests of decision trees: walks through trees, then sums over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.classical.forests import (
    Branches,
    branches_by_id,
    branches_of_ensemble,
    find,
    plant,
)
from stepwell.frontends.onnx.classical.rules import classical, pair, rows_of
from stepwell.frontends.onnx.classical.scores import (
    TRANSFORMS,
    both_scores,
    label_above,
    labels_of,
    top,
    transformed,
)
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, ints, one, operand, scalar


def _leaves(call: Call, emitter: Emitter, table: SSAValue, branches: Branches) -> SSAValue:
    """The leaf of each tree and row: `[trees, rows]`."""
    try:
        forest = plant(branches)
    except ValueError as error:
        raise emitter.error(call, str(error), "export the model again") from None
    operands = [
        emitter.constant(value)
        for value in (
            forest.features, forest.thresholds, forest.children, forest.leaves, forest.roots, forest.depths
        )
    ]  # fmt: skip
    relations = None if forest.relations is None else emitter.constant(forest.relations)
    return one(emitter, "TreeLeaves", table, *operands, relations, test=forest.test, width=forest.width)


def _votes(
    count: int, columns: int, leaves: np.ndarray, targets: np.ndarray, weights: np.ndarray, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """What each leaf says of each target, `[leaves, targets]`, and whether it says anything."""
    combine = {"MIN": np.minimum, "MAX": np.maximum}.get(how, np.add)
    neutral = {"MIN": np.inf, "MAX": -np.inf}.get(how, 0.0)
    values = np.full((count, columns), neutral, weights.dtype)
    combine.at(values, (leaves, targets), weights)
    said = np.zeros((count, columns), bool)
    said[leaves, targets] = True
    return values, said


def _aggregated(emitter: Emitter, leaves: SSAValue, values: np.ndarray, how: str) -> SSAValue:
    """The values of the leaves `[trees, rows]`, over all trees: `[rows, targets]`."""
    reduce = {"MIN": "ReduceMin", "MAX": "ReduceMax"}.get(how, "ReduceSum")
    if values.shape[1] == 1:
        given = one(emitter, "Gather", emitter.constant(np.ascontiguousarray(values[:, 0])), leaves, axis=0)
        total = one(emitter, reduce, given, ints(emitter, 0), keepdims=0)
        return one(emitter, "Unsqueeze", total, ints(emitter, 1))
    given = one(emitter, "Gather", emitter.constant(values), leaves, axis=0)
    return one(emitter, reduce, given, ints(emitter, 0), keepdims=0)


def _regression(
    call: Call,
    emitter: Emitter,
    leaves: SSAValue,
    votes: tuple[np.ndarray, np.ndarray],
    trees: int,
    how: str,
    base: np.ndarray,
) -> SSAValue:
    """The aggregated values of all targets, with base values; what no tree speaks of is 0."""
    if how not in ("SUM", "AVERAGE", "MIN", "MAX"):
        raise emitter.error(call, f"the aggregate_function {how!r}", "use SUM, AVERAGE, MIN or MAX")
    values, said = votes
    scores = _aggregated(emitter, leaves, values, how)
    if how == "AVERAGE":
        scores = one(emitter, "Div", scores, scalar(emitter, scores, trees))
    if how in ("MIN", "MAX") and not said.all():
        silent = one(emitter, "IsInf", scores)
        scores = one(emitter, "Where", silent, scalar(emitter, scores, 0.0), scores)
    if base.size:
        scores = one(emitter, "Add", scores, emitter.constant(base))
    return scores


def _weights(call: Call, emitter: Emitter, name: str, dtype: Any) -> np.ndarray:
    """A list attribute, or the tensor that may stand in its place."""
    tensor = call.attributes.get(f"{name}_as_tensor")
    values = call.attributes.get(name) if tensor is None else tensor.reshape(-1)
    return np.array([] if values is None else values, dtype)


def _named_forest(
    call: Call, emitter: Emitter, kind: str, columns: int, dtype: Any
) -> tuple[Branches, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The nodes of a classifier or regressor, and leaf, target and weight of each vote (`kind`_*)."""
    attributes = call.attributes
    weights = _weights(call, emitter, f"{kind}_weights", dtype)
    try:
        branches, by_key = branches_by_id(attributes, _weights(call, emitter, "nodes_values", dtype))
        ids, trees, nodes = (attributes.get(f"{kind}_{name}") or [] for name in ("ids", "treeids", "nodeids"))
        if not len(ids) == len(trees) == len(nodes) == weights.size:
            raise ValueError(f"the attributes {kind}_* differ in length")
        targets = np.array(ids, np.int64)
        if targets.size and not 0 <= targets.min() <= targets.max() < columns:
            raise ValueError(f"{kind}_ids holds {targets.max()}, where {columns} exist")
        leaves = branches.leaves[find(attributes, by_key, trees, nodes)]
    except ValueError as error:
        raise emitter.error(call, str(error), "export the model again") from None
    voting = leaves >= 0
    return branches, (leaves[voting], targets[voting], weights[voting])


def _tree_dtype(call: Call, emitter: Emitter) -> Any:
    return np.float64 if emitter.dtype(operand(call)) == np.float64 else np.float32


@classical("TreeEnsembleRegressor")
def _tree_regressor(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    dtype, attributes = _tree_dtype(call, emitter), call.attributes
    targets = attributes.get("n_targets", 1)
    if targets < 1:
        raise emitter.error(call, f"{targets} targets", "export the model again")
    branches, votes = _named_forest(call, emitter, "target", targets, dtype)
    base = _weights(call, emitter, "base_values", dtype)
    if base.size not in (0, targets):
        raise emitter.error(call, f"{base.size} base values for {targets} targets", "give one a target")
    leaves = _leaves(call, emitter, rows_of(call, emitter, dtype), branches)
    how = attributes["aggregate_function"]
    table = _votes(int((branches.leaves >= 0).sum()), targets, *votes, how)
    scores = _regression(call, emitter, leaves, table, branches.roots.size, how, base)
    scores = transformed(call, emitter, scores, attributes["post_transform"])
    return [cast(emitter, scores, np.float32)]


@classical("TreeEnsemble")
def _tree_ensemble(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes = call.attributes
    targets, dtype = attributes["n_targets"], emitter.dtype(operand(call))
    numbers = (attributes["aggregate_function"], attributes["post_transform"])
    if not (0 <= numbers[0] < 4 and 0 <= numbers[1] < 5) or targets < 1:
        raise emitter.error(call, f"aggregate_function, post_transform {numbers}", "export the model again")
    how, transform = ("AVERAGE", "SUM", "MIN", "MAX")[numbers[0]], TRANSFORMS[numbers[1]]
    try:
        branches = branches_of_ensemble(attributes)
        ids, weights = (
            np.array(attributes["leaf_targetids"], np.int64),
            attributes["leaf_weights"].reshape(-1),
        )
        if ids.size != weights.size or (ids.size and not 0 <= ids.min() <= ids.max() < targets):
            raise ValueError(
                f"{ids.size} leaf_targetids for {weights.size} leaf_weights and {targets} targets"
            )
    except ValueError as error:
        raise emitter.error(call, str(error), "export the model again") from None
    leaves = _leaves(call, emitter, rows_of(call, emitter, dtype), branches)
    table = _votes(ids.size, targets, np.arange(ids.size), ids, weights.astype(dtype), how)
    scores = _regression(call, emitter, leaves, table, branches.roots.size, how, np.zeros(0, dtype))
    return [transformed(call, emitter, scores, transform)]


@classical("TreeEnsembleClassifier")
def _tree_classifier(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    dtype, attributes = _tree_dtype(call, emitter), call.attributes
    labels = labels_of(call, emitter, "classlabels_int64s")
    if labels.size < 2:
        raise emitter.missing(call, f"a classifier of {labels.size} classes", "leave the node out")
    branches, votes = _named_forest(call, emitter, "class", labels.size, dtype)
    base = _weights(call, emitter, "base_values", dtype)
    count = int((branches.leaves >= 0).sum())
    leaves = _leaves(call, emitter, rows_of(call, emitter, dtype), branches)
    transform, said = attributes["post_transform"], set(votes[1].tolist())
    if labels.size == 2 and len(said) == 1:
        return _one_score(call, emitter, leaves, votes, count, base, labels, transform)
    if base.size not in (0, labels.size):
        raise emitter.missing(call, f"{base.size} base values for {labels.size} classes", "give one a class")
    values, given = _votes(count, labels.size, *votes, "SUM")
    scores = _aggregated(emitter, leaves, values, "SUM")
    if base.size:
        scores = one(emitter, "Add", scores, emitter.constant(base))
    ranked = scores
    if not given.all() and not base.size and (values < 0).any():
        # a class that no tree speaks of is not the top class, even if the others are below 0
        spoken = _aggregated(emitter, leaves, given.astype(np.float32), "SUM")
        known = one(emitter, "Greater", spoken, scalar(emitter, spoken, 0.0))
        ranked = one(emitter, "Where", known, scores, scalar(emitter, scores, -np.inf))
    result = transformed(call, emitter, scores, transform)
    return [top(emitter, ranked, labels), cast(emitter, result, np.float32)][: len(call.used)]


# Two classes of which the trees score one: the limit is 1/2 for probabilities (no weight is negative), else 0.
def _one_score(
    call: Call,
    emitter: Emitter,
    leaves: SSAValue,
    votes: tuple[np.ndarray, np.ndarray, np.ndarray],
    count: int,
    base: np.ndarray,
    labels: np.ndarray,
    transform: str,
) -> Sequence[SSAValue]:
    of_leaf, targets, weights = votes
    values, given = _votes(count, 1, of_leaf, 0 * targets, weights, "SUM")
    score = _aggregated(emitter, leaves, values, "SUM")
    second = bool(targets[0])
    if base.size > 1 or (second and base.size) or (transform == "PROBIT" and not second):
        why = f"one score of two classes with {base.size} base values and post_transform {transform}"
        raise emitter.missing(call, why, "export it with the scores of both classes")
    if base.size:
        score = one(emitter, "Add", score, emitter.constant(base))
    positive = bool((weights >= 0).all())
    label = label_above(emitter, score, 0.5 if positive else 0.0, labels)
    if second:
        zero = one(emitter, "Mul", score, scalar(emitter, score, 0.0))
        scores = transformed(call, emitter, pair(emitter, zero, score), transform)
        if not given.all():
            # a row of which no tree speaks is one of which the first class is scored, with 0
            spoken = _aggregated(emitter, leaves, given.astype(np.float32), "SUM")
            known = one(emitter, "Greater", spoken, scalar(emitter, spoken, 0.0))
            silent = both_scores(emitter, score, transform, positive)
            scores = one(emitter, "Where", known, scores, silent)
    else:
        scores = both_scores(emitter, score, transform, positive)
    return [label, cast(emitter, scores, np.float32)][: len(call.used)]
