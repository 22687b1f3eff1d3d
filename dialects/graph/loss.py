"""Losses of classifiers."""

from collections.abc import Sequence

from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    dims,
    element_type,
    integer,
    operator,
    same_dim,
    string,
)
from stepwell.dialects.graph.shape import tensor_type


def _loss_type(op: GraphOp, scores: SSAValue, labels: SSAValue) -> Attribute:
    shape, classes = dims(scores), dims(labels)
    want = shape[:1] + shape[2:]
    if len(shape) < 2 or len(want) != len(classes) or not all(map(same_dim, want, classes)):
        raise VerifyException(f"{op.name}: labels {labels.type} do not fit scores {scores.type}")
    reduction = op.get("reduction")
    if reduction not in ("none", "mean", "sum"):
        raise VerifyException(f"{op.name}: reduction {reduction!r} must be none, mean or sum")
    return tensor_type(classes if reduction == "none" else [], element_type(scores))


@operator
class NegativeLogLikelihoodLossOp(GraphOp):
    """`-weight[target] * input[target]` over classes (axis 1), reduced; `ignore_index` does not count."""

    input = operand_def(TENSOR)
    target = operand_def(TENSOR)
    weight = opt_operand_def(TENSOR)
    loss = result_def(TENSOR)
    ignore_index = integer(optional=True)
    reduction = string("mean")

    def output_types(self) -> Sequence[Attribute]:
        return [_loss_type(self, self.input, self.target)]


@operator
class SoftmaxCrossEntropyLossOp(GraphOp):
    """The negative log-likelihood of the log-softmax (`log_prob`) of `scores` over classes (axis 1)."""

    scores = operand_def(TENSOR)
    labels = operand_def(TENSOR)
    weights = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    log_prob = opt_result_def(TENSOR)
    ignore_index = integer(optional=True)
    reduction = string("mean")

    def output_types(self) -> Sequence[Attribute]:
        return [_loss_type(self, self.scores, self.labels), self.scores.type]
