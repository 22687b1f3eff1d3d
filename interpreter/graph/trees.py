"""What walks through decision trees compute."""

from typing import Any

import numpy as np

from stepwell.dialects.graph import GraphOp
from stepwell.dialects.graph.trees import EQUAL, GREATER, LESS, TESTS, UNORDERED
from stepwell.interpreter.graph.evaluation import evaluates

Array = Any


@evaluates("tree_leaves")
def _tree_leaves(
    op: GraphOp,
    x: Array,
    features: Array,
    thresholds: Array,
    children: Array,
    leaves: Array,
    roots: Array,
    depths: Array,
    relations: Array = None,
) -> Array:
    rows = np.arange(x.shape[0])
    nodes = np.repeat(roots[:, None], x.shape[0], axis=1)
    wanted = relations if relations is not None else np.full(features.shape, TESTS[op.get("test")], np.uint8)
    for step in range(int(depths.max(initial=0))):
        value, threshold = x[rows, features[nodes]], thresholds[nodes]
        found = np.select(
            [value < threshold, value == threshold, value > threshold], [LESS, EQUAL, GREATER], UNORDERED
        )
        following = children[nodes] + ((wanted[nodes] & found) != 0)
        nodes = np.where(step < depths[:, None], following, nodes)
    return leaves[nodes]
