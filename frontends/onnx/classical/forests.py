"""The trees of `ai.onnx.ml`, in any of their three spellings, as the node arrays of `graph.tree_leaves`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepwell.dialects.graph.trees import EQUAL, GREATER, LESS, TESTS, UNORDERED

MAX_FOREST_NODES = 1 << 26
"""More nodes than this are a cycle, or subtrees shared so often that writing them out is no way."""

RELATIONS = {
    "BRANCH_LEQ": LESS | EQUAL,
    "BRANCH_LT": LESS,
    "BRANCH_GTE": GREATER | EQUAL,
    "BRANCH_GT": GREATER,
    "BRANCH_EQ": EQUAL,
    "BRANCH_NEQ": LESS | GREATER | UNORDERED,
}
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
"""The modes of `TreeEnsemble` by number."""


@dataclass
class Branches:
    """Nodes as a model lists them, leaves included: children are positions in the list."""

    features: np.ndarray
    thresholds: np.ndarray
    relations: np.ndarray
    """What of the test makes it hold (`graph.tree_leaves`); 0 for a leaf."""
    children: np.ndarray
    """Two columns: where to go if the test fails, and where if it holds."""
    leaves: np.ndarray
    """The number of the leaf; -1 for a node that tests."""
    roots: np.ndarray


@dataclass
class Forest:
    """The operands and properties of `graph.tree_leaves`."""

    features: np.ndarray
    thresholds: np.ndarray
    children: np.ndarray
    leaves: np.ndarray
    roots: np.ndarray
    depths: np.ndarray
    relations: np.ndarray | None
    test: str
    width: int


def plant(branches: Branches) -> Forest:
    """
    The nodes in the order of `graph.tree_leaves`: the two children of a node side by side, tree by tree, and in each
    tree level by level, so that the first steps of all walks share cache lines.
    Errors: a `ValueError` for a cycle.
    """
    trees = len(branches.roots)
    origins, owners, levels = [branches.roots], [np.arange(trees)], [np.zeros(trees, np.int64)]
    parents = [np.full(trees, -1)]
    frontier, owner, first, total, level = branches.roots, owners[0], 0, trees, 0
    while True:
        inner = np.flatnonzero(branches.leaves[frontier] < 0)
        if not inner.size:
            break
        level += 1
        parents.append(np.repeat(first + inner, 2))
        first, owner = total, np.repeat(owner[inner], 2)
        frontier = branches.children[frontier[inner]].reshape(-1)
        total += frontier.size
        if total > MAX_FOREST_NODES or level > branches.leaves.size:
            raise ValueError("the nodes of a tree form a cycle, or share too many subtrees")
        origins.append(frontier)
        owners.append(owner)
        levels.append(np.full(frontier.size, level))
    origin, owner = np.concatenate(origins), np.concatenate(owners)
    depths = np.zeros(trees, np.int64)
    np.maximum.at(depths, owner, np.concatenate(levels))
    parent = np.concatenate(parents)
    return _ordered(branches, origin, owner, parent, depths)


def _ordered(
    branches: Branches, origin: np.ndarray, owner: np.ndarray, parent: np.ndarray, depths: np.ndarray
) -> Forest:
    # stable: the levels of a tree stay in order, and siblings side by side
    order = np.argsort(owner, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    origin = origin[order]
    is_leaf = branches.leaves[origin] >= 0
    children = np.arange(origin.size)
    trees = depths.size
    first_child = np.arange(trees, order.size, 2)
    children[place[parent[first_child]]] = place[first_child]
    tests = branches.relations[origin[~is_leaf]]
    test = next((name for name, bits in TESTS.items() if (tests == bits).all()), "relations")
    features = np.where(is_leaf, 0, branches.features[origin])
    thresholds = branches.thresholds[origin]
    if test != "relations":
        thresholds = np.where(is_leaf, np.array(np.nan, thresholds.dtype), thresholds)
    relations = np.where(is_leaf, 0, branches.relations[origin]).astype(np.uint8)
    return Forest(
        features.astype(np.int32),
        thresholds,
        children.astype(np.int32),
        np.maximum(branches.leaves[origin], 0).astype(np.int32),
        place[:trees].astype(np.int32),
        depths.astype(np.int32),
        relations if test == "relations" else None,
        test,
        int(features.max(initial=0)) + 1,
    )


def branches_by_id(attributes: dict[str, Any], thresholds: np.ndarray) -> tuple[Branches, np.ndarray]:
    """
    The nodes of a `TreeEnsembleClassifier` or `TreeEnsembleRegressor`, which are named by tree and number; and the
    positions of the nodes in the order of their names, for `find`.
    Errors: a `ValueError` that says what is wrong with the attributes.
    """
    names = ("featureids", "modes", "nodeids", "treeids", "truenodeids", "falsenodeids")
    columns = {name: attributes.get(f"nodes_{name}") or [] for name in names}
    count = len(thresholds)
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(f"nodes_{name} has {len(column)} entries, nodes_values {count}")
    if not count:
        raise ValueError("a forest without nodes")
    modes = columns.pop("modes")
    numbers = {name: np.array(column, np.int64) for name, column in columns.items()}
    unknown = set(modes) - {*RELATIONS, "LEAF"}
    if unknown:
        raise ValueError(f"the node mode {min(unknown)!r}")
    relations = np.array([0 if mode == "LEAF" else RELATIONS[mode] for mode in modes], np.uint8)
    is_leaf = np.array([mode == "LEAF" for mode in modes])
    relations = _with_missing(relations, attributes.get("nodes_missing_value_tracks_true"), is_leaf)
    trees, nodes = numbers["treeids"], numbers["nodeids"]
    keys = _keys(trees, nodes)
    by_key = np.argsort(keys, kind="stable")
    if (keys[by_key][1:] == keys[by_key][:-1]).any():
        raise ValueError("two nodes of one tree have the same number")
    children = np.tile(np.arange(count)[:, None], (1, 2))
    for column, name in enumerate(("falsenodeids", "truenodeids")):
        wanted = _keys(trees[~is_leaf], numbers[name][~is_leaf])
        children[~is_leaf, column] = _found(keys, by_key, wanted, name)
    leaves = np.full(count, -1)
    leaves[is_leaf] = np.arange(int(is_leaf.sum()))
    # a tree begins where the number of the tree changes
    roots = np.flatnonzero(np.concatenate(([True], trees[1:] != trees[:-1])))
    _check_features(numbers["featureids"][~is_leaf])
    return Branches(numbers["featureids"], thresholds, relations, children, leaves, roots), by_key


def find(
    attributes: dict[str, Any], by_key: np.ndarray, trees: Sequence[int], nodes: Sequence[int]
) -> np.ndarray:
    """The positions of the nodes that are named by tree and number."""
    own = [np.array(attributes[f"nodes_{name}"], np.int64) for name in ("treeids", "nodeids")]
    wanted = _keys(np.array(trees, np.int64), np.array(nodes, np.int64))
    return _found(_keys(*own), by_key, wanted, "the weights")


def _keys(trees: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    if trees.size and (min(trees.min(), nodes.min()) < 0 or max(trees.max(), nodes.max()) >> 31):
        raise ValueError("the number of a tree or a node is negative or above 2^31")
    return (trees << 32) | nodes


def _found(keys: np.ndarray, by_key: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    places = np.minimum(np.searchsorted(keys, wanted, sorter=by_key), keys.size - 1)
    found = by_key[places]
    if (keys[found] != wanted).any():
        missing = int(wanted[keys[found] != wanted][0])
        raise ValueError(f"{what}: tree {missing >> 32} has no node {missing & 0xFFFFFFFF}")
    return found


def _with_missing(relations: np.ndarray, missing: Sequence[int] | None, is_leaf: np.ndarray) -> np.ndarray:
    """The relations, where NaN may make a test hold."""
    if not missing:
        return relations
    tracks = np.zeros(relations.size, bool)
    tracks[: len(missing)] = np.array(missing[: relations.size]) == 1
    return np.where(tracks & ~is_leaf, relations | UNORDERED, relations).astype(np.uint8)


def _check_features(features: np.ndarray) -> None:
    if features.size and (features.min() < 0 or features.max() >> 31):
        raise ValueError("the number of a feature is negative or above 2^31")


def branches_of_ensemble(attributes: dict[str, Any]) -> Branches:
    """
    The nodes of a `TreeEnsemble`, which are named by position; its leaves follow its nodes.
    Errors: a `ValueError` that says what is wrong with the attributes.
    """
    thresholds: np.ndarray = attributes["nodes_splits"].reshape(-1)
    modes: np.ndarray = attributes["nodes_modes"].reshape(-1).astype(np.int64)
    count, leaf_count = thresholds.size, len(attributes["leaf_targetids"])
    if modes.size and not 0 <= modes.min() <= modes.max() < len(MODES):
        raise ValueError(f"the node mode {modes.max()}")
    features = np.array(attributes["nodes_featureids"], np.int64)
    sides = []
    for side in ("false", "true"):
        targets = np.array(attributes[f"nodes_{side}nodeids"], np.int64)
        is_leaf = np.array(attributes[f"nodes_{side}leafs"], np.int64) != 0
        if not targets.size == is_leaf.size == features.size == modes.size == count:
            raise ValueError(f"the attributes nodes_* differ in length from the {count} of nodes_splits")
        limit = np.where(is_leaf, leaf_count, count)
        if ((targets < 0) | (targets >= limit)).any():
            raise ValueError(f"nodes_{side}nodeids names a node or leaf that does not exist")
        sides.append(np.where(is_leaf, targets + count, targets))
    roots = np.array(attributes["tree_roots"], np.int64)
    if roots.size == 0 or roots.min() < 0 or roots.max() >= count:
        raise ValueError("tree_roots names a node that does not exist")
    _check_features(features)
    is_member = modes == MODES.index("BRANCH_MEMBER")
    bits = np.array([RELATIONS.get(mode, EQUAL) for mode in MODES], np.uint8)
    relations = _with_missing(
        bits[modes], attributes.get("nodes_missing_value_tracks_true"), np.zeros(count, bool)
    )
    leaf = np.arange(leaf_count)
    branches = Branches(
        np.concatenate((features, 0 * leaf)),
        np.concatenate((thresholds, np.zeros(leaf_count, thresholds.dtype))),
        np.concatenate((relations, np.zeros(leaf_count, np.uint8))),
        np.concatenate((np.stack(sides, 1), np.stack((leaf + count, leaf + count), 1))),
        np.concatenate((np.full(count, -1), leaf)),
        roots,
    )
    return _with_members(branches, np.flatnonzero(is_member), attributes.get("membership_values"))


# x in {a, b, c} == x == a or x == b or x == c: a chain of tests whose true branches are one
def _with_members(branches: Branches, nodes: np.ndarray, values: np.ndarray | None) -> Branches:
    if not nodes.size:
        return branches
    sets: list[list[float]] = [[]]
    for value in [] if values is None else values.reshape(-1).tolist():
        if value != value:
            sets.append([])
        else:
            sets[-1].append(value)
    if len(sets) == nodes.size + 1 and not sets[-1]:
        sets.pop()
    if len(sets) != nodes.size or not all(sets):
        raise ValueError(f"membership_values has {len(sets)} sets for {nodes.size} nodes, or an empty one")
    count = branches.leaves.size
    more: list[tuple[int, float, int, int]] = []
    for node, members in zip(nodes.tolist(), sets, strict=True):
        otherwise, then = branches.children[node]
        branches.thresholds[node] = members[0]
        previous = node
        for member in members[1:]:
            place = count + len(more)
            if previous == node:
                branches.children[node, 0] = place
            more.append((node, member, place + 1, then))
            previous = place
        if previous != node:
            more[-1] = (*more[-1][:2], otherwise, then)
    if not more:
        return branches
    origin = np.array([entry[0] for entry in more])
    return Branches(
        np.concatenate((branches.features, branches.features[origin])),
        np.concatenate((branches.thresholds, np.array([e[1] for e in more], branches.thresholds.dtype))),
        np.concatenate((branches.relations, branches.relations[origin])),
        np.concatenate((branches.children, np.array([e[2:] for e in more]))),
        np.concatenate((branches.leaves, np.full(len(more), -1))),
        branches.roots,
    )
