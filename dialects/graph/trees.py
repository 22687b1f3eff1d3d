"""Decision trees: where each row of a table ends up in each tree of a forest."""

from collections.abc import Sequence

from xdsl.dialects.builtin import i32
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    Premise,
    dims,
    element_type,
    integer,
    operator,
    require_rank,
    require_same,
    same_elements,
    string,
    take_for_granted,
)
from stepwell.dialects.graph.shape import tensor_type
from stepwell.dialects.graph.types import ui8

LESS, EQUAL, GREATER, UNORDERED = 1, 2, 4, 8
"""Bits of `relations`: how a feature may compare with the threshold for the test to hold."""

TESTS = {
    "less": LESS,
    "at_most": LESS | EQUAL,
    "greater": GREATER,
    "at_least": GREATER | EQUAL,
    "equal": EQUAL,
}
"""The tests that all nodes of a forest may share; any other mixture is `relations`."""


@operator
class TreeLeavesOp(GraphOp):
    """
    The leaf that each row of `x` reaches in each tree: `[trees, rows]`, entries of `leaves`.

    Tree `t` starts at node `roots[t]` and takes `depths[t]` steps. A step from node `k` compares feature `features[k]`
    of the row with `thresholds[k]` and goes to node `children[k] + 1` where the test holds, else to `children[k]`.
    A leaf is a node that is its own child and whose test never holds: a threshold of NaN, or no relation. The test is the same
    for all nodes, `test`, or for `"relations"` any of the bits of `relations[k]`: 1 less, 2 equal, 4 greater, 8 unordered.
    `width` is one more than the largest feature; the node numbers are taken as they are.
    Shapes: x `[rows, features]`; features, thresholds, children, leaves, relations `[nodes]`; roots, depths `[trees]`.
    Reference: what ONNX's `ai.onnx.ml.TreeEnsemble` (version 5) does before it aggregates.
    """

    x = operand_def(TENSOR)
    features = operand_def(TENSOR)
    thresholds = operand_def(TENSOR)
    children = operand_def(TENSOR)
    leaves = operand_def(TENSOR)
    roots = operand_def(TENSOR)
    depths = operand_def(TENSOR)
    relations = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    test = string("at_most")
    width = integer()

    def output_types(self) -> Sequence[Attribute]:
        rows, features = require_rank(self, self.x, 2)
        width = self.get("width")
        if isinstance(features, int) and features < width:
            raise VerifyException(
                f"{self.name}: {features} features, where the trees test feature {width - 1}"
            )
        take_for_granted(Premise(features, width, "at least"))
        same_elements(self, self.x, self.thresholds)
        (nodes,), (trees,) = require_rank(self, self.thresholds, 1), require_rank(self, self.roots, 1)
        for value in (self.features, self.children, self.leaves):
            (count,) = require_rank(self, value, 1)
            require_same(self, count, nodes, "number of nodes")
        (count,) = require_rank(self, self.depths, 1)
        require_same(self, count, trees, "number of trees")
        for value in (self.features, self.children, self.leaves, self.roots, self.depths):
            if element_type(value) != i32:
                raise VerifyException(f"{self.name}: node numbers of type {element_type(value)} must be i32")
        self._check_test(nodes)
        return [tensor_type([trees, rows], i32)]

    def _check_test(self, nodes: object) -> None:
        test = self.get("test")
        if (self.relations is not None) != (test == "relations") or test not in (*TESTS, "relations"):
            known = ", ".join(TESTS)
            raise VerifyException(f"{self.name}: test {test!r} must be one of {known}, or relations be given")
        if self.relations is not None:
            if dims(self.relations) != [nodes] or element_type(self.relations) != ui8:
                raise VerifyException(f"{self.name}: relations {self.relations.type} must be {nodes} of ui8")
