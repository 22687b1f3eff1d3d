"""Reductions over axes, and prefix sums."""

from collections.abc import Sequence

from xdsl.dialects.builtin import i64
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    Known,
    axes_of,
    axis_of,
    dims,
    element_type,
    integer,
    known_integers,
    operator,
    require_rank,
)
from stepwell.dialects.graph.shape import Dim, maximum, minimum, product, tensor_type


class ReduceOp(GraphOp):
    """
    `data` reduced over `axes` (over all if absent or empty, unless `noop_with_empty_axes`, which leaves it as
    it is up to the element-wise part). The axes stay with extent 1 if `keepdims`.
    """

    data = operand_def(TENSOR)
    axes = opt_operand_def(TENSOR)
    reduced = result_def(TENSOR)
    keepdims = integer(1)
    noop_with_empty_axes = integer(0)

    def axis_list(self) -> list[int] | None:
        """The axes that are reduced, counted from the front, in order; None if they are not known."""
        rank = len(dims(self.data))
        axes = [] if self.axes is None else known_integers(self.axes)
        if axes is None:
            return None
        if not axes:
            return [] if self.get("noop_with_empty_axes") else list(range(rank))
        return sorted(axes_of(self, axes, rank))

    def output_types(self) -> Sequence[Attribute]:
        shape, found = dims(self.data), element_type(self.data)
        axes, keep = self.axis_list(), self.get("keepdims")
        if axes is not None:
            kept = [1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes]
            return [tensor_type(kept, found)]
        assert self.axes is not None, "axes that are not known are an operand"
        if keep:
            return [tensor_type([self.fresh(0, i) for i in range(len(shape))], found)]
        (count,) = require_rank(self, self.axes, 1)
        if not isinstance(count, int) or count == 0:
            raise VerifyException(
                f"{self.name}: axes {self.axes.type} decide the rank of the result; they must be known"
            )
        return [tensor_type([self.fresh(0, i) for i in range(len(shape) - count)], found)]


@operator
class ReduceSumOp(ReduceOp):
    """The sum; 0 of nothing. Axes as in every reduction: see `ReduceOp`."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values = known(self.data)
        return (
            None
            if values is None or self.axis_list() != [0]
            else [sum(values[1:], values[0]) if values else 0]
        )


@operator
class ReduceMeanOp(ReduceOp):
    """The arithmetic mean; NaN of nothing."""


@operator
class ReduceProdOp(ReduceOp):
    """The product; 1 of nothing."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values = known(self.data)
        return None if values is None or self.axis_list() != [0] else [product(values)]


@operator
class ReduceMaxOp(ReduceOp):
    """The largest element; minus infinity (or the smallest integer) of nothing."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values = known(self.data)
        return None if not values or self.axis_list() != [0] else [maximum(*values)]


@operator
class ReduceMinOp(ReduceOp):
    """The smallest element; infinity (or the largest integer) of nothing."""

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values = known(self.data)
        return None if not values or self.axis_list() != [0] else [minimum(*values)]


@operator
class ReduceL1Op(ReduceOp):
    """The sum of absolute values."""


@operator
class ReduceL2Op(ReduceOp):
    """The square root of the sum of squares."""


@operator
class ReduceLogSumOp(ReduceOp):
    """The logarithm of the sum."""


@operator
class ReduceLogSumExpOp(ReduceOp):
    """The logarithm of the sum of exponentials, without overflow."""


@operator
class ReduceSumSquareOp(ReduceOp):
    """The sum of squares."""


class _Arg(GraphOp):
    data = operand_def(TENSOR)
    reduced = result_def(TENSOR)
    axis = integer(0)
    keepdims = integer(1)
    select_last_index = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.data)
        axis = axis_of(self, self.get("axis"), len(shape))
        middle = [1] if self.get("keepdims") else []
        return [tensor_type([*shape[:axis], *middle, *shape[axis + 1 :]], i64)]


@operator
class ArgMaxOp(_Arg):
    """The index of the largest element along `axis`: the first of equal ones, or the last."""


@operator
class ArgMinOp(_Arg):
    """The index of the smallest element along `axis`: the first of equal ones, or the last."""


class _Cumulative(GraphOp):
    x = operand_def(TENSOR)
    axis = operand_def(TENSOR)
    y = result_def(TENSOR)
    exclusive = integer(0)
    reverse = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        axis = known_integers(self.axis)
        if axis is not None and len(axis) == 1:
            axis_of(self, axis[0], len(dims(self.x)))
        return [self.x.type]


@operator
class CumSumOp(_Cumulative):
    """
    Sums of all elements up to here along `axis` (without this one if `exclusive`; from the end if `reverse`).
    """


@operator
class CumProdOp(_Cumulative):
    """
    Products of all elements up to here along `axis` (without this one if `exclusive`; from the end if
    `reverse`).
    """
