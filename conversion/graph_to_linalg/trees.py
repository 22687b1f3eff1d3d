"""Decision trees: one walk for each tree and row, without branches, so that several are under way at once."""

from typing import Any

from xdsl.dialects import scf
from xdsl.dialects.builtin import i32
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.dialects.graph.trees import EQUAL, GREATER, LESS, UNORDERED


def _holds(build: Body, test: str, value: Scalar, threshold: Scalar, relation: Scalar | None) -> Scalar:
    if relation is None:
        compare = {
            "less": value.below, "at_most": value.at_most, "greater": value.above, "at_least": value.at_least,
            "equal": value.equals,
        }  # fmt: skip
        return compare[test](threshold)
    found = build.constant(UNORDERED, relation.type)
    for holds, bit in (
        (value.below(threshold), LESS),
        (value.equals(threshold), EQUAL),
        (value.above(threshold), GREATER),
    ):
        found = build.select(holds, bit, found)
    return (relation & found).differs(0)


# The rows run inside the trees: all steps of one tree have one count, which the processor predicts, and a tree's
# nodes stay in its cache. A walk waits for memory at each step; those of the next rows do not wait for it.
@lowers("tree_leaves")
def _tree_leaves(low: Lowering, op: Any) -> SSAValue:
    x, features, thresholds, children, leaves, roots, depths, relations = [*low.operands(op), None][:8]
    test = low.attr(op, "test")
    unsigned = low.unsigned(op)[0]
    shape = low.result_shape(op)
    d = dims(2)

    def body(root: Scalar, depth: Scalar, _: Scalar) -> Scalar:
        build = root.body
        row = build.index(1)
        block = Block(arg_types=[INDEX, INDEX])
        inner = Body(block, low, op)
        node = inner.wrap(block.args[1])
        feature = inner.extract(features, [node]).as_index()
        value = inner.extract(x, [row, feature], unsigned=unsigned).widened()
        threshold = inner.extract(thresholds, [node], unsigned=unsigned).widened()
        relation = None if relations is None else inner.extract(relations, [node], unsigned=True)
        holds = _holds(inner, test, value, threshold, relation)
        following = inner.extract(children, [node]) + holds.as_integer(i32, False)
        block.add_op(scf.YieldOp(following.as_index().value))
        bounds = (build.constant(0, INDEX).value, depth.as_index().value, build.constant(1, INDEX).value)
        last = build.wrap(build.add(scf.ForOp(*bounds, [root.as_index().value], Region(block))))
        return build.extract(leaves, [last])

    out = low.empty(shape, i32)
    return low.generic("pp", [(roots, d[:1]), (depths, d[:1])], [(out, d)], body)[0]
