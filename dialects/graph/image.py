"""Resampling of images, and spectra."""

from collections.abc import Sequence
from fractions import Fraction

from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    axes_of,
    axis_of,
    dims,
    element_type,
    integer,
    integers,
    known_integers,
    operator,
    real,
    require_rank,
    require_same,
    string,
    symbolic_value,
)
from stepwell.dialects.graph.data_movement import constant_array
from stepwell.dialects.graph.shape import Dim, floordiv, print_dims, tensor_type
from stepwell.dialects.graph.types import ui8


@operator
class ResizeOp(GraphOp):
    """
    Resample `axes` (all if absent) by `scales` or to `sizes`: `nearest`, `linear` or `cubic`, at places given
    by `coordinate_transformation_mode`.
    """

    x = operand_def(TENSOR)
    roi = opt_operand_def(TENSOR)
    scales = opt_operand_def(TENSOR)
    sizes = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    antialias = integer(0)
    axes = integers()
    coordinate_transformation_mode = string("half_pixel")
    cubic_coeff_a = real(-0.75)
    exclude_outside = integer(0)
    extrapolation_value = real(0.0)
    keep_aspect_ratio_policy = string("stretch")
    mode = string("nearest")
    nearest_mode = string("round_prefer_floor")

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.x)
        found = element_type(self.x)
        axes = self.get("axes")
        axes = list(range(len(shape))) if axes is None else axes_of(self, axes, len(shape))
        given = self.sizes if self.sizes is not None else self.scales
        if given is None:
            raise VerifyException(f"{self.name}: needs scales or sizes")
        (count,) = require_rank(self, given, 1)
        require_same(self, count, len(axes), "number of sizes or scales, and of axes")
        sizes = symbolic_value(self.sizes)
        scales = constant_array(self.scales) if self.sizes is None else None
        result = list(shape)
        policy = self.get("keep_aspect_ratio_policy")
        if sizes is not None and policy != "stretch":
            known = [(s, shape[a]) for s, a in zip(sizes, axes, strict=True)]
            if all(isinstance(s, int) and isinstance(d, int) and d > 0 for s, d in known):
                choose = min if policy == "not_larger" else max
                ratio = choose(s / d for s, d in known if isinstance(s, int) and isinstance(d, int))
                sizes = [int(ratio * d + 0.5) for _, d in known if isinstance(d, int)]
            else:
                sizes = None
        for i, axis in enumerate(axes):
            extent: Dim | None = sizes[i] if sizes is not None else None
            if scales is not None:
                if not 0 < (scale := float(scales[i])) < 1e9:
                    raise VerifyException(
                        f"{self.name}: scale {scale} of axis {axis} must be positive and finite"
                    )
                extent = _scaled(shape[axis], scale)
            result[axis] = self.fresh(0, axis) if extent is None else extent
        return [tensor_type(result, found)]


def _scaled(dim: Dim, scale: float) -> Dim | None:
    """`floor(dim * scale)`; of a symbol only where the scale is a simple fraction."""
    if isinstance(dim, int):
        import math

        return math.floor(dim * scale)
    ratio = Fraction(scale).limit_denominator(256)
    return floordiv(dim * ratio.numerator, ratio.denominator) if float(ratio) == scale else None


@operator
class GridSampleOp(GraphOp):
    """
    `x` at the places in `grid[.., space]`, in units where the image spans -1 to 1; interpolated by `mode`.
    """

    x = operand_def(TENSOR)
    grid = operand_def(TENSOR)
    y = result_def(TENSOR)
    align_corners = integer(0)
    mode = string("linear")
    padding_mode = string("zeros")

    def output_types(self) -> Sequence[Attribute]:
        shape, grid = dims(self.x), dims(self.grid)
        if len(shape) < 3 or len(grid) != len(shape):
            raise VerifyException(
                f"{self.name}: x {self.x.type} and grid {self.grid.type} must have one rank, 3 or more"
            )
        require_same(self, grid[-1], len(shape) - 2, "coordinates a place")
        require_same(self, shape[0], grid[0], "batches of x and grid")
        return [tensor_type([*shape[:2], *grid[1:-1]], element_type(self.x))]


@operator
class AffineGridOp(GraphOp):
    """The grid for `graph.grid_sample` of an affine map `theta`, for an image of extents `size`."""

    theta = operand_def(TENSOR)
    size = operand_def(TENSOR)
    grid = result_def(TENSOR)
    align_corners = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        theta = require_rank(self, self.theta, 3)
        (rank,) = require_rank(self, self.size, 1)
        if rank not in (4, 5):
            raise VerifyException(f"{self.name}: size {self.size.type} must have 4 or 5 extents")
        size = symbolic_value(self.size)
        space = size[2:] if size is not None else [self.fresh(0, 1 + i) for i in range(int(str(rank)) - 2)]
        return [tensor_type([theta[0], *space, len(space)], element_type(self.theta))]


@operator
class ImageDecoderOp(GraphOp):
    """The pixels `[height, width, channels]` of an encoded image."""

    encoded_stream = operand_def(TENSOR)
    image = result_def(TENSOR)
    pixel_format = string("RGB")

    def output_types(self) -> Sequence[Attribute]:
        channels = 1 if self.get("pixel_format") == "Grayscale" else 3
        return [tensor_type([self.fresh(0, 0), self.fresh(0, 1), channels], ui8)]


@operator
class DFTOp(GraphOp):
    """
    The discrete Fourier transform along `axis` (-2 if absent) of real `[.., 1]` or complex `[.., 2]` numbers;
    `onesided` keeps the first `length // 2 + 1` bins, and its inverse makes real numbers.
    """

    input = operand_def(TENSOR)
    dft_length = opt_operand_def(TENSOR)
    axis = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    inverse = integer(0)
    onesided = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.input)
        found = element_type(self.input)
        if len(shape) < 2 or (isinstance(shape[-1], int) and shape[-1] not in (1, 2)):
            raise VerifyException(
                f"{self.name}: the last extent of [{print_dims(shape)}] must be 1 or 2, after an axis"
            )
        axis = [-2] if self.axis is None else known_integers(self.axis)
        length = symbolic_value(self.dft_length)
        onesided, inverse = self.get("onesided"), self.get("inverse")
        result = [*shape[:-1], 1 if onesided and inverse else 2]
        if axis is None:
            return [tensor_type([self.fresh(0, i) for i in range(len(shape) - 1)] + result[-1:], found)]
        at = axis_of(self, axis[0], len(shape))
        if at == len(shape) - 1:
            raise VerifyException(f"{self.name}: axis {axis[0]} must not be the last one")
        if self.dft_length is not None:
            result[at] = length[0] if length else self.fresh(0, at)
            if onesided and not inverse:
                result[at] = result[at] // 2 + 1 if length else result[at]
        elif onesided:
            result[at] = (result[at] - 1) * 2 if inverse else result[at] // 2 + 1
        return [tensor_type(result, found)]


@operator
class STFTOp(GraphOp):
    """The Fourier transforms of frames of `frame_length` samples, `frame_step` apart, under a `window`."""

    signal = operand_def(TENSOR)
    frame_step = operand_def(TENSOR)
    window = opt_operand_def(TENSOR)
    frame_length = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    onesided = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        shape = require_rank(self, self.signal, 2, 3)
        step, length = symbolic_value(self.frame_step), symbolic_value(self.frame_length)
        frame = length[0] if length else None
        if frame is None and self.window is not None:
            (frame,) = require_rank(self, self.window, 1)
        found = element_type(self.signal)
        if frame is None or not step:
            return [tensor_type([shape[0], self.fresh(0, 1), self.fresh(0, 2), 2], found)]
        frames = floordiv(shape[1] - frame, step[0]) + 1
        bins = floordiv(frame, 2) + 1 if self.get("onesided") else frame
        return [tensor_type([shape[0], frames, bins, 2], found)]
