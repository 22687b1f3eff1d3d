"""Normalisations and softmax."""

from collections.abc import Sequence

from xdsl.dialects.builtin import f32
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    axis_of,
    broadcast,
    channels_first,
    dims,
    element,
    element_type,
    integer,
    integers,
    operator,
    real,
    require_rank,
    require_same,
    same_elements,
    string,
)
from stepwell.dialects.graph.shape import tensor_type


class _AlongAxis(GraphOp):
    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    axis = integer(-1)

    def output_types(self) -> Sequence[Attribute]:
        axis_of(self, self.get("axis"), max(len(dims(self.input)), 1))
        return [self.input.type]


@operator
class SoftmaxOp(_AlongAxis):
    """`exp(x) / sum(exp(x))` along `axis`."""


@operator
class LogSoftmaxOp(_AlongAxis):
    """`x - log(sum(exp(x)))` along `axis`."""


@operator
class HardmaxOp(_AlongAxis):
    """1 at the first largest element along `axis`, 0 elsewhere."""


@operator
class LpNormalizationOp(_AlongAxis):
    """`x / norm(x)` along `axis`, by the `p`-norm (1 or 2); 0 where the norm is 0."""

    p = integer(2)


def _per_channel(op: GraphOp, x: SSAValue, *parameters: SSAValue | None) -> None:
    shape = channels_first(op, x)
    channels = shape[1] if len(shape) > 1 else 1
    for parameter in parameters:
        if parameter is not None:
            (extent,) = require_rank(op, parameter, 1)
            require_same(op, extent, channels, f"extent of a parameter and channels of {x.type}")


@operator
class BatchNormalizationOp(GraphOp):
    """
    `scale * (x - mean) / sqrt(var + epsilon) + b` per channel (axis 1), with the given mean and variance;
    with `training_mode` those of the batch, and then `running_mean`, `running_var` mix them with `momentum`.
    """

    x = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    b = operand_def(TENSOR)
    input_mean = operand_def(TENSOR)
    input_var = operand_def(TENSOR)
    y = result_def(TENSOR)
    running_mean = opt_result_def(TENSOR)
    running_var = opt_result_def(TENSOR)
    epsilon = real(1e-5)
    layout = string("nchw")
    momentum = real(0.9)
    training_mode = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        _per_channel(self, self.x, self.scale, self.b, self.input_mean, self.input_var)
        return [self.x.type, self.input_mean.type, self.input_var.type]


@operator
class InstanceNormalizationOp(GraphOp):
    """
    `scale * (x - mean) / sqrt(var + epsilon) + b`, mean and variance over the space of each batch and
    channel.
    """

    input = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    b = operand_def(TENSOR)
    output = result_def(TENSOR)
    epsilon = real(1e-5)

    def output_types(self) -> Sequence[Attribute]:
        _per_channel(self, self.input, self.scale, self.b)
        return [self.input.type]


@operator
class GroupNormalizationOp(GraphOp):
    """As `graph.instance_normalization`, mean and variance over each of `num_groups` groups of channels."""

    x = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    bias = operand_def(TENSOR)
    y = result_def(TENSOR)
    epsilon = real(1e-5)
    num_groups = integer()
    stash_type = element(f32)

    def output_types(self) -> Sequence[Attribute]:
        _per_channel(self, self.x, self.scale, self.bias)
        groups, channels = self.get("num_groups"), dims(self.x)[1]
        if groups < 1 or (isinstance(channels, int) and channels % groups):
            raise VerifyException(f"{self.name}: {channels} channels do not divide into {groups} groups")
        return [self.x.type]


@operator
class LayerNormalizationOp(GraphOp):
    """
    `scale * (x - mean) / sqrt(var + epsilon) + b`, mean and variance over all axes from `axis` on; computed
    in `stash_type`. The statistics are optional results, with extent 1 on those axes.
    """

    x = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    mean = opt_result_def(TENSOR)
    inv_std_dev = opt_result_def(TENSOR)
    axis = integer(-1)
    epsilon = real(1e-5)
    stash_type = element(f32)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.x)
        axis = axis_of(self, self.get("axis"), len(shape))
        for parameter in (self.scale, self.b):
            if parameter is not None:
                broadcast(self, [shape, dims(parameter)])
        statistics = tensor_type(shape[:axis] + [1] * (len(shape) - axis), self.stash_type)
        return [tensor_type(shape, same_elements(self, self.scale, self.b)), statistics, statistics]


@operator
class RMSNormalizationOp(GraphOp):
    """
    `scale * x / sqrt(mean(x^2) + epsilon)`, the mean over all axes from `axis` on; computed in `stash_type`.
    """

    x = operand_def(TENSOR)
    scale = operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = integer(-1)
    epsilon = real(1e-5)
    stash_type = element(f32)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.x)
        axis_of(self, self.get("axis"), len(shape))
        broadcast(self, [shape, dims(self.scale)])
        return [tensor_type(shape, element_type(self.scale))]


@operator
class LRNOp(GraphOp):
    """`x / (bias + alpha/size * sum(x^2))^beta`, the sum over `size` neighbouring channels."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    alpha = real(0.0001)
    beta = real(0.75)
    bias = real(1.0)
    size = integer()

    def output_types(self) -> Sequence[Attribute]:
        if len(dims(self.x)) < 2 or self.get("size") < 1:
            raise VerifyException(
                f"{self.name}: needs a channel axis in {self.x.type} and a size of at least 1"
            )
        return [self.x.type]


@operator
class MeanVarianceNormalizationOp(GraphOp):
    """`(x - mean) / sqrt(var)` over `axes` (`[0, 2, 3]` if absent)."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    axes = integers([0, 2, 3])

    def output_types(self) -> Sequence[Attribute]:
        for axis in self.get("axes"):
            axis_of(self, axis, len(dims(self.x)))
        return [self.x.type]
