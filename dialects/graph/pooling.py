"""Pooling: a sliding window, reduced to one number."""

from collections.abc import Sequence

from xdsl.dialects.builtin import i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.contraction import Window
from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    channels_first,
    element_type,
    integer,
    integers,
    known_integers,
    laid_out,
    operator,
    real,
    require_rank,
    string,
    symbolic_value,
)
from stepwell.dialects.graph.shape import Dim, tensor_type


def _spatial_rank(op: GraphOp, x: SSAValue) -> list[Dim]:
    shape = channels_first(op, x)
    if len(shape) < 3:
        raise VerifyException(
            f"{op.name}: operand {x.type} must have rank 3 or more (batch, channels, space)"
        )
    return shape


class _Pool(GraphOp):
    """
    `x[n, c, ..] -> y[n, c, ..]`, or channels last with `layout = "nhwc"`; with `ceil_mode` a last window may
    reach over the end.
    """

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    layout = string("nchw")
    auto_pad = string("NOTSET")
    ceil_mode = integer(0)
    dilations = integers()
    kernel_shape = integers(optional=False)
    pads = integers()
    strides = integers()

    def window(self) -> Window:
        """The geometry of the sliding window."""
        shape = _spatial_rank(self, self.x)
        kernel = self.get("kernel_shape")
        if any(k < 1 for k in kernel):
            raise VerifyException(f"{self.name}: kernel_shape {list(kernel)} must be positive")
        return Window(self, shape[2:], kernel, bool(self.get("ceil_mode")))

    def output_types(self) -> Sequence[Attribute]:
        shape = [*channels_first(self, self.x)[:2], *self.window().output]
        return [tensor_type(laid_out(self, shape), element_type(self.x))]


@operator
class AveragePoolOp(_Pool):
    """
    The mean of each window; padding counts only with `count_include_pad` (and never what lies beyond it).
    """

    count_include_pad = integer(0)


@operator
class LpPoolOp(_Pool):
    """The `p`-norm of each window."""

    p = integer(2)


@operator
class MaxPoolOp(_Pool):
    """
    The largest element of each window, and its place in the flattened input (`indices`; column-major if
    `storage_order` is 1). The first of equal ones wins.
    """

    y = result_def(TENSOR)
    indices = opt_result_def(TENSOR)
    storage_order = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape = laid_out(self, [*channels_first(self, self.x)[:2], *self.window().output])
        return [tensor_type(shape, element_type(self.x)), tensor_type(shape, i64)]


class _GlobalPool(GraphOp):
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    layout = string("nchw")

    def output_types(self) -> Sequence[Attribute]:
        shape = channels_first(self, self.x)
        if len(shape) < 2:
            raise VerifyException(f"{self.name}: operand {self.x.type} must have rank 2 or more")
        ones = laid_out(self, [*shape[:2], *[1] * (len(shape) - 2)])
        return [tensor_type(ones, element_type(self.x))]


@operator
class GlobalAveragePoolOp(_GlobalPool):
    """The mean over all spatial axes, which stay with extent 1."""


@operator
class GlobalMaxPoolOp(_GlobalPool):
    """The largest element over all spatial axes, which stay with extent 1."""


@operator
class GlobalLpPoolOp(_GlobalPool):
    """The `p`-norm over all spatial axes, which stay with extent 1."""

    p = integer(2)


@operator
class MaxUnpoolOp(GraphOp):
    """The partial inverse of `graph.max_pool`: each element goes back to its index `i`, the rest is 0."""

    x = operand_def(TENSOR)
    i = operand_def(TENSOR)
    output_shape = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    kernel_shape = integers(optional=False)
    pads = integers()
    strides = integers()

    def output_types(self) -> Sequence[Attribute]:
        shape = _spatial_rank(self, self.x)
        rank = len(shape) - 2
        found = element_type(self.x)
        if self.output_shape is not None:
            known = symbolic_value(self.output_shape)
            if known is not None and len(known) == rank + 2:
                return [tensor_type(known, found)]
            return [tensor_type([self.fresh(0, a) for a in range(rank + 2)], found)]
        kernel = self.get("kernel_shape")
        strides, pads = self.get("strides") or (1,) * rank, self.get("pads") or (0,) * (2 * rank)
        if (len(kernel), len(strides), len(pads)) != (rank, rank, 2 * rank):
            raise VerifyException(f"{self.name}: kernel_shape, strides and pads must fit {rank} spatial axes")
        space = [(d - 1) * strides[a] - pads[a] - pads[rank + a] + kernel[a] for a, d in enumerate(shape[2:])]
        return [tensor_type([*shape[:2], *space], found)]


@operator
class MaxRoiPoolOp(GraphOp):
    """The maximum over a grid of `pooled_shape` cells of each region `[batch, x1, y1, x2, y2]` in `rois`."""

    x = operand_def(TENSOR)
    rois = operand_def(TENSOR)
    y = result_def(TENSOR)
    pooled_shape = integers(optional=False)
    spatial_scale = real(1.0)

    def output_types(self) -> Sequence[Attribute]:
        shape, rois = require_rank(self, self.x, 4), require_rank(self, self.rois, 2)
        return [tensor_type([rois[0], shape[1], *self.get("pooled_shape")], element_type(self.x))]


@operator
class RoiAlignOp(GraphOp):
    """
    The mean (`avg`) or maximum of interpolated samples in a grid of cells of each region `[x1, y1, x2, y2]`.
    """

    x = operand_def(TENSOR)
    rois = operand_def(TENSOR)
    batch_indices = operand_def(TENSOR)
    y = result_def(TENSOR)
    coordinate_transformation_mode = string("half_pixel")
    mode = string("avg")
    output_height = integer(1)
    output_width = integer(1)
    sampling_ratio = integer(0)
    spatial_scale = real(1.0)

    def output_types(self) -> Sequence[Attribute]:
        shape, rois = require_rank(self, self.x, 4), require_rank(self, self.rois, 2)
        cells = [self.get("output_height"), self.get("output_width")]
        return [tensor_type([rois[0], shape[1], *cells], element_type(self.x))]


@operator
class Col2ImOp(GraphOp):
    """
    Add columns `[n, c * block, l]` back into an image `[n, c, ..]` of extents `image_shape`: the transpose of
    taking sliding blocks of extents `block_shape`.
    """

    input = operand_def(TENSOR)
    image_shape = operand_def(TENSOR)
    block_shape = operand_def(TENSOR)
    output = result_def(TENSOR)
    dilations = integers()
    pads = integers()
    strides = integers()

    def output_types(self) -> Sequence[Attribute]:
        shape = require_rank(self, self.input, 3)
        (rank,) = require_rank(self, self.image_shape, 1)
        if not isinstance(rank, int):
            raise VerifyException(
                f"{self.name}: image_shape {self.image_shape.type} must have a static extent"
            )
        image, block = symbolic_value(self.image_shape), known_integers(self.block_shape)
        channels: Dim = self.fresh(0, 1) if block is None else shape[1]
        for extent in block or ():
            if extent < 1 or (isinstance(channels, int) and channels % extent):
                raise VerifyException(f"{self.name}: {shape[1]} rows do not divide by the block {block}")
            channels = channels // extent
        space = image if image is not None else [self.fresh(0, 2 + a) for a in range(rank)]
        return [tensor_type([shape[0], channels, *space], element_type(self.input))]
