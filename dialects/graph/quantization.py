"""Quantisation: `real = scale * (quantised - zero_point)`."""

from collections.abc import Sequence

from xdsl.dialects.builtin import f32
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    axis_of,
    dims,
    element,
    element_type,
    integer,
    operator,
    require_parameter,
    require_rank,
    require_same,
)
from stepwell.dialects.graph.shape import ceildiv, print_dims, tensor_type
from stepwell.dialects.graph.types import ui8


class _Linear(GraphOp):
    """
    Scales are one (rank 0 or extent 1), one per entry of `axis` (rank 1), or one per block of `block_size` along it;
    of zero points there are as many, or one.
    """

    x = operand_def(TENSOR)

    def _check(self) -> None:
        shape, scale = dims(self.operands[0]), dims(self.operands[1])
        zero = [*self.operand_list(), None][2]
        block = self.get("block_size")
        if block < 0:
            raise VerifyException(f"{self.name}: block_size {block} must not be negative")
        if block:
            if len(scale) != len(shape):
                raise VerifyException(
                    f"{self.name}: blocked scales [{print_dims(scale)}] must have rank {len(shape)}"
                )
            axis = axis_of(self, self.get("axis"), len(shape))
            blocks = [ceildiv(d, block) if a == axis else d for a, d in enumerate(shape)]
            for value in (self.operands[1], zero):
                extents = blocks if value is None else require_rank(self, value, len(shape))
                for extent, wanted in zip(extents, blocks, strict=True):
                    require_same(self, extent, wanted, f"blocks of {block} along axis {axis}")
            return
        if len(scale) > 1:
            raise VerifyException(
                f"{self.name}: scales [{print_dims(scale)}] must have rank 0 or 1 without blocks"
            )
        axis = self.get("axis")
        if scale and scale != [1] and (isinstance(scale[0], int) or -len(shape) <= axis < len(shape)):
            axis = axis_of(self, axis, len(shape))
            require_parameter(self, self.operands[1], shape[axis], f"scales of axis {axis}")
        else:  # one for the tensor, of which the axis says nothing
            require_parameter(self, self.operands[1], 1, "scales")
        require_parameter(self, zero, scale[0] if scale else 1, "zero points")


@operator
class QuantizeLinearOp(_Linear):
    """
    `saturate(round_half_even(x / y_scale) + y_zero_point)` in the type of the zero point, `output_dtype` or
    ui8.
    """

    x = operand_def(TENSOR)
    y_scale = operand_def(TENSOR)
    y_zero_point = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = integer(1)
    block_size = integer(0)
    output_dtype = element(optional=True)
    precision = element(optional=True)
    saturate = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        self._check()
        found = self.output_dtype or ui8
        if self.y_zero_point is not None:
            found = element_type(self.y_zero_point)
        return [tensor_type(dims(self.x), found)]


@operator
class DequantizeLinearOp(_Linear):
    """`(x - x_zero_point) * x_scale` in the type of the scale, or `output_dtype`."""

    x = operand_def(TENSOR)
    x_scale = operand_def(TENSOR)
    x_zero_point = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    axis = integer(1)
    block_size = integer(0)
    output_dtype = element(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        self._check()
        return [tensor_type(dims(self.x), self.output_dtype or element_type(self.x_scale))]


@operator
class DynamicQuantizeLinearOp(GraphOp):
    """`x` in ui8, with the scale and zero point that fit its range (widened to hold 0)."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    y_scale = result_def(TENSOR)
    y_zero_point = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(dims(self.x), ui8), tensor_type([], f32), tensor_type([], ui8)]
