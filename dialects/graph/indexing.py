"""Ops that read or write at computed places, and those that find places: gather, scatter, top-k, non-zero."""

from collections.abc import Sequence

from xdsl.dialects.builtin import i64
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    Known,
    axis_of,
    dims,
    element_type,
    integer,
    known_integers,
    operator,
    require_rank,
    require_same,
    same_dim,
    same_elements,
    string,
    symbolic_value,
)
from stepwell.dialects.graph.shape import Dim, print_dims, product, tensor_type


@operator
class GatherOp(GraphOp):
    """
    The slices of `data` along `axis` that `indices` name: `[d.., i.., d..]`. Negative indices count from the
    end.
    """

    data = operand_def(TENSOR)
    indices = operand_def(TENSOR)
    output = result_def(TENSOR)
    axis = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape, places = dims(self.data), dims(self.indices)
        axis = axis_of(self, self.get("axis"), len(shape))
        return [tensor_type([*shape[:axis], *places, *shape[axis + 1 :]], element_type(self.data))]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values, places = known(self.data), known_integers(self.indices)
        if values is None or places is None or len(dims(self.data)) != 1:
            return None
        if any(not -len(values) <= p < len(values) for p in places):
            raise VerifyException(
                f"{self.name}: indices {places} must lie in [{-len(values)}, {len(values)})"
            )
        return [values[p] for p in places]


@operator
class GatherElementsOp(GraphOp):
    """`output[i][j] = data[indices[i][j]][j]` (for `axis` 0): one element per index."""

    data = operand_def(TENSOR)
    indices = operand_def(TENSOR)
    output = result_def(TENSOR)
    axis = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.data)
        axis_of(self, self.get("axis"), len(shape))
        require_rank(self, self.indices, len(shape))
        return [tensor_type(dims(self.indices), element_type(self.data))]


@operator
class GatherNDOp(GraphOp):
    """
    The slices of `data` at the index tuples in the last axis of `indices`, below `batch_dims` common axes.
    """

    data = operand_def(TENSOR)
    indices = operand_def(TENSOR)
    output = result_def(TENSOR)
    batch_dims = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape, places, batch = dims(self.data), dims(self.indices), self.get("batch_dims")
        if not places or not isinstance(places[-1], int):
            raise VerifyException(
                f"{self.name}: the last extent of indices {self.indices.type} must be known"
            )
        if not 0 <= batch < min(len(shape), len(places)) or batch + places[-1] > len(shape):
            raise VerifyException(
                f"{self.name}: indices {self.indices.type} below {batch} batch axes do not"
                f" fit {self.data.type}"
            )
        return [tensor_type(places[:-1] + shape[batch + places[-1] :], element_type(self.data))]


class _Scatter(GraphOp):
    data = operand_def(TENSOR)
    indices = operand_def(TENSOR)
    updates = operand_def(TENSOR)
    output = result_def(TENSOR)
    reduction = string("none")

    def output_types(self) -> Sequence[Attribute]:
        same_elements(self, self.data, self.updates)
        if self.get("reduction") not in ("none", "add", "mul", "max", "min"):
            raise VerifyException(
                f"{self.name}: reduction {self.get('reduction')!r} must be none, add, mul, max or min"
            )
        return [self.data.type]


@operator
class ScatterElementsOp(_Scatter):
    """
    `data` with `output[indices[i][j]][j] = updates[i][j]` (for `axis` 0), or combined by `reduction`, in
    order.
    """

    axis = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        rank = len(dims(self.data))
        axis_of(self, self.get("axis"), rank)
        require_rank(self, self.indices, rank)
        require_rank(self, self.updates, rank)
        return super().output_types()


@operator
class ScatterNDOp(_Scatter):
    """
    `data` with the slices at the index tuples in the last axis of `indices` set to `updates`, or combined, in
    order.
    """

    def output_types(self) -> Sequence[Attribute]:
        shape, places, updates = dims(self.data), dims(self.indices), dims(self.updates)
        if not places:
            raise VerifyException(f"{self.name}: indices {self.indices.type} must have rank 1 or more")
        if isinstance(places[-1], int):
            if places[-1] > len(shape):
                raise VerifyException(
                    f"{self.name}: {places[-1]} indices a tuple exceed the rank of {self.data.type}"
                )
            want = places[:-1] + shape[places[-1] :]
            if len(want) != len(updates) or not all(
                same_dim(a, b) for a, b in zip(want, updates, strict=True)
            ):
                raise VerifyException(
                    f"{self.name}: updates {self.updates.type} must be [{print_dims(want)}]"
                )
        return super().output_types()


@operator
class TensorScatterOp(GraphOp):
    """
    `past_cache` with `update` written along `axis` from `write_indices[batch]` on (0 if absent); `circular`
    wraps.
    """

    past_cache = operand_def(TENSOR)
    update = operand_def(TENSOR)
    write_indices = opt_operand_def(TENSOR)
    present_cache = result_def(TENSOR)
    axis = integer(-2)
    mode = string("linear")

    def output_types(self) -> Sequence[Attribute]:
        same_elements(self, self.past_cache, self.update)
        rank = len(dims(self.past_cache))
        require_rank(self, self.update, rank)
        if axis_of(self, self.get("axis"), rank) == 0:
            raise VerifyException(f"{self.name}: axis must not be the batch axis 0")
        return [self.past_cache.type]


@operator
class OneHotOp(GraphOp):
    """A new axis of extent `depth`: `values[1]` where its position is the index, `values[0]` elsewhere."""

    indices = operand_def(TENSOR)
    depth = operand_def(TENSOR)
    values = operand_def(TENSOR)
    output = result_def(TENSOR)
    axis = integer(-1)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.indices)
        axis = axis_of(self, self.get("axis"), len(shape) + 1)
        (two,) = require_rank(self, self.values, 1)
        require_same(self, two, 2, "extent of values")
        depth = symbolic_value(self.depth)
        extent = depth[0] if depth else self.fresh(0, axis)
        return [tensor_type([*shape[:axis], extent, *shape[axis:]], element_type(self.values))]


@operator
class TopKOp(GraphOp):
    """
    The `k` largest (or smallest) elements along `axis`, in order, and their indices; of equal ones the first
    comes first.
    """

    x = operand_def(TENSOR)
    k = operand_def(TENSOR)
    values = result_def(TENSOR)
    indices = result_def(TENSOR)
    axis = integer(-1)
    largest = integer(1)
    sorted = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.x)
        axis = axis_of(self, self.get("axis"), len(shape))
        k = symbolic_value(self.k)
        count = k[0] if k else self.fresh(0, axis)
        extent = shape[axis]
        if isinstance(count, int) and isinstance(extent, int) and not 0 <= count <= extent:
            raise VerifyException(f"{self.name}: k {count} must lie in [0, {extent}]")
        shape[axis] = count
        return [tensor_type(shape, element_type(self.x)), tensor_type(shape, i64)]


@operator
class NonZeroOp(GraphOp):
    """The indices of all elements that are not zero, one column each: `[rank, n]`, row-major."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type([len(dims(self.x)), self.fresh(0, 1)], i64)]


@operator
class CompressOp(GraphOp):
    """The slices along `axis` (of the flattened input, if absent) where `condition` is true."""

    input = operand_def(TENSOR)
    condition = operand_def(TENSOR)
    output = result_def(TENSOR)
    axis = integer(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        require_rank(self, self.condition, 1)
        shape, axis = dims(self.input), self.get("axis")
        found = element_type(self.input)
        if axis is None:
            return [tensor_type([self._count(0)], found)]
        axis = axis_of(self, axis, len(shape))
        shape[axis] = self._count(axis)
        return [tensor_type(shape, found)]

    def _count(self, axis: int) -> Dim:
        flags = known_integers(self.condition)
        return sum(map(bool, flags)) if flags is not None else self.fresh(0, axis)


@operator
class UniqueOp(GraphOp):
    """
    The different elements (or slices along `axis`), sorted or in order of appearance; the index of each one's
    first occurrence, the position of every input element in them, and how often each occurs.
    """

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    indices = opt_result_def(TENSOR)
    inverse_indices = opt_result_def(TENSOR)
    counts = opt_result_def(TENSOR)
    axis = integer(optional=True)
    sorted = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        shape, axis = dims(self.x), self.get("axis")
        if axis is None:
            total = product(shape)
            shape, axis = [total], 0
        axis = axis_of(self, axis, len(shape))
        total = shape[axis]
        count = self.fresh(0, axis)
        shape[axis] = count
        list_type = tensor_type([count], i64)
        return [tensor_type(shape, element_type(self.x)), list_type, tensor_type([total], i64), list_type]


@operator
class NonMaxSuppressionOp(GraphOp):
    """
    For each batch and class, boxes in order of falling score, those dropped whose overlap (intersection over
    union) with a kept one exceeds `iou_threshold`: rows `[batch, class, box]`.
    """

    boxes = operand_def(TENSOR)
    scores = operand_def(TENSOR)
    max_output_boxes_per_class = opt_operand_def(TENSOR)
    iou_threshold = opt_operand_def(TENSOR)
    score_threshold = opt_operand_def(TENSOR)
    selected_indices = result_def(TENSOR)
    center_point_box = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        boxes, scores = require_rank(self, self.boxes, 3), require_rank(self, self.scores, 3)
        require_same(self, boxes[2], 4, "coordinates of a box")
        require_same(self, boxes[1], scores[2], "number of boxes and of scores")
        return [tensor_type([self.fresh(0, 0), 3], i64)]
