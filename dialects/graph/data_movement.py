"""Constants, shapes, and ops that move elements without computing on them."""

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    StringAttr,
    TensorType,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, result_def, var_operand_def, var_result_def
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import ConstantLike
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    MAX_TRACKED,
    TENSOR,
    VALUE,
    GraphOp,
    Known,
    axes_of,
    axis_of,
    broadcast,
    dims,
    element_type,
    integer,
    integers,
    known_integers,
    operator,
    require_rank,
    require_same,
    same_dim,
    same_elements,
    string,
    symbolic_value,
    tensor_value,
)
from stepwell.dialects.graph.shape import (
    Dim,
    ceildiv,
    exact_div,
    floordiv,
    maximum,
    minimum,
    print_dims,
    product,
    sign_of,
    tensor_type,
)
from stepwell.dialects.graph.types import STRING, numpy_from_dense

FAR = 2**31 - 1
"""Slice bounds from here on mean the end of the axis."""


@operator
class ConstantOp(GraphOp):
    """The tensor `value`: inline (`dense<...>`), a resource (`dense_resource<key>`), or a list of strings."""

    output = result_def(TENSOR)
    value = tensor_value(optional=False)

    @classmethod
    def of(cls, array: Any, result_type: Attribute | None = None) -> "ConstantOp":
        """The constant of a numpy array, inline; or of an attribute."""
        import numpy as np

        if not isinstance(array, Attribute):
            array = np.asarray(array)
            if array.dtype.kind in "USO":
                result_type = tensor_type(array.shape, STRING)
        return cls.build([], {"value": array}, result_types=None if result_type is None else [result_type])

    def array(self) -> Any:
        """The value as a read-only numpy array; None for a resource."""
        type_ = self.output.type
        return numpy_from_dense(self.value, type_ if isinstance(type_, TensorType) else None)

    def output_types(self) -> Sequence[Attribute]:
        if isinstance(self.value, DenseIntOrFPElementsAttr | DenseResourceAttr):
            return [self.value.get_type()]
        if isinstance(self.value, ArrayAttr):
            if self.results and isinstance(type_ := self.output.type, TensorType):
                if type_.element_type == STRING and product(type_.get_shape()) == len(self.value.data):
                    return [type_]
            return [tensor_type([len(self.value.data)], STRING)]
        raise VerifyException(
            f"{self.name}: value {self.value} must be dense, a resource or a list of strings"
        )

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        if not isinstance(self.value, DenseIntOrFPElementsAttr):
            return None
        values = numpy_from_dense(self.value)
        if values is None or values.size > MAX_TRACKED or values.dtype.kind not in "biuf":
            return None
        numbers = values.ravel().tolist()
        if any(isinstance(v, float) and not v.is_integer() for v in numbers):
            return None
        return [int(v) for v in numbers]

    def print(self, printer: Printer) -> None:
        printer.print_op_attributes(self.attributes)
        printer.print_string(" ")
        printer.print_attribute(self.value)
        if isinstance(self.value, ArrayAttr):
            printer.print_string(" : ")
            printer.print_attribute(self.output.type)

    @classmethod
    def parse(cls, parser: Parser) -> "ConstantOp":
        attributes = parser.parse_optional_attr_dict()
        value = parser.parse_attribute()
        if isinstance(value, ArrayAttr):
            # The parser reads a string that is not ASCII as bytes.
            value = ArrayAttr([StringAttr(v.data.decode()) if isinstance(v, BytesAttr) else v for v in value])
            parser.parse_punctuation(":")
            type_: Attribute = parser.parse_type()
        elif isinstance(value, DenseIntOrFPElementsAttr | DenseResourceAttr):
            type_ = value.get_type()
        else:
            parser.raise_error(f"expected a tensor, not {value}")
        op = cls.create(properties={"value": value}, attributes=attributes)
        op.set_results([type_])
        return op


ConstantOp.get_irdl_definition().traits.add_trait(ConstantLike())


def constant_array(value: SSAValue | None) -> Any:
    """The numpy array of a value that is an inline constant, else None."""
    if value is None or not isinstance(value.owner, ConstantOp):
        return None
    return value.owner.array()


@operator
class IdentityOp(GraphOp):
    """The operand."""

    input = operand_def(VALUE)
    output = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        return [self.input.type]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return known(self.input)


@operator
class ShapeOp(GraphOp):
    """
    The extents of axes `start` to `end` (all if absent; negative ones count from the back), as
    `tensor<?xi64>`.
    """

    data = operand_def(TENSOR)
    shape = result_def(TENSOR)
    start = integer(0)
    end = integer(optional=True)

    def _range(self) -> list[Dim]:
        shape = dims(self.data)
        return shape[slice(self.get("start"), self.get("end"))]

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type([len(self._range())], i64)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return self._range()


@operator
class SizeOp(GraphOp):
    """The number of elements, as a scalar `i64`."""

    data = operand_def(TENSOR)
    size = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type([], i64)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return [product(dims(self.data))]


def _length(op: GraphOp, value: SSAValue) -> int:
    """The static extent of a 1-D integer operand that says a rank."""
    (length,) = require_rank(op, value, 1)
    if not isinstance(length, int):
        raise VerifyException(
            f"{op.name}: operand {value.type} decides the rank of the result; its extent must be known"
        )
    return length


@operator
class ReshapeOp(GraphOp):
    """
    The elements in the same order under new extents. In `shape`, one -1 is what makes the counts equal, and 0
    copies the extent of the same axis (with `allowzero` it is an extent of 0).
    """

    data = operand_def(TENSOR)
    shape = operand_def(TENSOR)
    reshaped = result_def(TENSOR)
    allowzero = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        source, found = dims(self.data), element_type(self.data)
        length = _length(self, self.shape)
        target = symbolic_value(self.shape)
        if target is None:
            return [tensor_type([self.fresh(0, i) for i in range(length)], found)]
        result: list[Dim] = []
        for i, dim in enumerate(target):
            if dim == 0 and not self.get("allowzero"):
                if i >= len(source):
                    raise VerifyException(
                        f"{self.name}: extent 0 at axis {i} copies from {self.data.type} of lower rank"
                    )
                dim = source[i]
            result.append(dim)
        total = product(source)
        if target.count(-1) > 1 or any(isinstance(d, int) and d < -1 for d in target):
            raise VerifyException(
                f"{self.name}: shape [{print_dims(target)}] may hold one -1 and no other negative extent"
            )
        if -1 in target:
            at = target.index(-1)
            rest = product(result[:at] + result[at + 1 :])
            if isinstance(total, int) and isinstance(rest, int) and (rest == 0 or total % rest):
                raise VerifyException(
                    f"{self.name}: {total} elements do not divide by {rest} for [{print_dims(target)}]"
                )
            missing = exact_div(total, rest)
            result[at] = missing if missing is not None else floordiv(total, rest)
        elif not same_dim(product(result), total):
            raise VerifyException(
                f"{self.name}: {self.data.type} has {total} elements, [{print_dims(result)}] has not"
            )
        return [tensor_type(result, found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return known(self.data)


@operator
class FlattenOp(GraphOp):
    """A matrix: all axes before `axis` become its rows, the others its columns."""

    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    axis = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        shape, axis = dims(self.input), self.get("axis")
        if not -len(shape) <= axis <= len(shape):
            raise VerifyException(f"{self.name}: axis {axis} must lie in [{-len(shape)}, {len(shape)}]")
        axis = axis + len(shape) if axis < 0 else axis
        return [tensor_type([product(shape[:axis]), product(shape[axis:])], element_type(self.input))]


@operator
class TransposeOp(GraphOp):
    """Result axis `i` is input axis `perm[i]`; without `perm` the axes are reversed."""

    data = operand_def(TENSOR)
    transposed = result_def(TENSOR)
    perm = integers()

    def permutation(self) -> list[int]:
        """`perm`, with its default."""
        rank = len(dims(self.data))
        perm = self.get("perm")
        perm = list(perm) if perm is not None else list(range(rank))[::-1]
        if sorted(perm) != list(range(rank)):
            raise VerifyException(f"{self.name}: perm {perm} must name each of the {rank} axes exactly once")
        return perm

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.data)
        return [tensor_type([shape[p] for p in self.permutation()], element_type(self.data))]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return known(self.data)


@operator
class ConcatOp(GraphOp):
    """The operands one after the other along `axis`."""

    inputs = var_operand_def(TENSOR)
    concat_result = result_def(TENSOR)
    axis = integer()

    def output_types(self) -> Sequence[Attribute]:
        if not self.operands:
            raise VerifyException(f"{self.name}: takes at least one operand")
        found = same_elements(self, *self.operands)
        result = dims(self.operands[0])
        axis = axis_of(self, self.get("axis"), len(result))
        for value in self.operands[1:]:
            shape = dims(value)
            if len(shape) != len(result):
                raise VerifyException(
                    f"{self.name}: {value.type} must have rank {len(result)} as the first operand"
                )
            for i, dim in enumerate(shape):
                result[i] = (
                    result[i] + dim
                    if i == axis
                    else require_same(self, result[i], dim, f"extents of axis {i}")
                )
        return [tensor_type(result, found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        joined: list[Dim] = []
        for value in self.operands:
            if (found := known(value)) is None:
                return None
            joined += found
        return joined


@operator
class SplitOp(GraphOp):
    """
    Pieces along `axis`, of the extents in `split`; without it, as many as results of equal extents (with
    `num_outputs` the last may be smaller).
    """

    input = operand_def(TENSOR)
    split = opt_operand_def(TENSOR)
    outputs = var_result_def(TENSOR)
    axis = integer(0)
    num_outputs = integer(optional=True)

    def sizes(self) -> list[Dim]:
        """The extents of the pieces."""
        shape = dims(self.input)
        axis = axis_of(self, self.get("axis"), len(shape))
        if self.split is not None:
            count = _length(self, self.split)
            sizes = symbolic_value(self.split)
            if sizes is None:
                return [self.fresh(i, axis) for i in range(count)]
            if not same_dim(total := sum(sizes[1:], sizes[0]) if sizes else 0, shape[axis]):
                raise VerifyException(
                    f"{self.name}: pieces [{print_dims(sizes)}] sum to {total}, not to {shape[axis]}"
                )
            return sizes
        count = self.get("num_outputs") or len(self.results) or self.wanted_outputs
        if count < 1:
            raise VerifyException(f"{self.name}: needs split, num_outputs, or a number of results")
        piece = ceildiv(shape[axis], count)
        last = shape[axis] - piece * (count - 1)
        if isinstance(last, int) and last < 0:
            raise VerifyException(
                f"{self.name}: extent {shape[axis]} does not split into {count} pieces of {piece}"
            )
        return [piece] * (count - 1) + [last]

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.input)
        axis = axis_of(self, self.get("axis"), len(shape))
        found = element_type(self.input)
        return [tensor_type([*shape[:axis], s, *shape[axis + 1 :]], found) for s in self.sizes()]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values, sizes = known(self.input), self.sizes()
        if values is None or not all(isinstance(s, int) for s in sizes):
            return None
        numbers = [s for s in sizes if isinstance(s, int)]
        begin = sum(numbers[:index])
        return values[begin : begin + numbers[index]]


def slice_extent(dim: Dim, start: Dim, end: Dim, step: int) -> Dim | None:
    """The extent of `[start:end:step]` of an axis, as ONNX clamps it; None if a sign cannot be decided."""

    def bound(at: Dim, low: Dim, high: Dim) -> Dim | None:
        if isinstance(at, int) and at >= FAR:
            return high
        if isinstance(at, int) and at <= -FAR:
            return low
        if (sign := sign_of(at)) is None:
            return None
        return maximum(minimum(at + dim if sign < 0 else at, high), low)

    def last_element(at: Dim) -> Dim | None:
        # An empty axis has none: -1, which is below 0, so the cut at the end comes last, where it is needed at all.
        if at == -1 or (isinstance(at, int) and at >= FAR):
            return dim - 1
        if isinstance(at, int) and at <= -FAR:
            return minimum(0, dim - 1)
        if (sign := sign_of(at)) is None:
            return None
        return minimum(maximum(at + dim, 0) if sign < 0 else at, dim - 1)

    if step > 0:
        first, last = bound(start, 0, dim), bound(end, 0, dim)
        if first is None or last is None:
            return None
        return maximum(ceildiv(last - first, step), 0)
    first, last = last_element(start), bound(end, -1, dim - 1)
    if first is None or last is None:
        return None
    return maximum(ceildiv(first - last, -step), 0)


@operator
class SliceOp(GraphOp):
    """
    `data[start:end:step]` on each of `axes` (the first ones if absent). Negative bounds count from the end;
    bounds beyond it are cut; steps may be negative, not 0.
    """

    data = operand_def(TENSOR)
    starts = operand_def(TENSOR)
    ends = operand_def(TENSOR)
    axes = opt_operand_def(TENSOR)
    steps = opt_operand_def(TENSOR)
    output = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape, found = dims(self.data), element_type(self.data)
        starts, ends = symbolic_value(self.starts), symbolic_value(self.ends)
        (count,) = require_rank(self, self.starts, 1)
        for value in (self.ends, self.axes, self.steps):
            if value is not None:
                require_same(self, require_rank(self, value, 1)[0], count, "numbers of bounds differ")
        if not isinstance(count, int):
            return [tensor_type([self.fresh(0, i) for i in range(len(shape))], found)]
        axes = list(range(count)) if self.axes is None else known_integers(self.axes)
        steps: list[int] | None = [1] * count if self.steps is None else known_integers(self.steps)
        if axes is None:
            return [tensor_type([self.fresh(0, i) for i in range(len(shape))], found)]
        axes = axes_of(self, axes, len(shape))
        for values, what in ((starts, "starts"), (ends, "ends"), (axes, "axes"), (steps, "steps")):
            if values is not None and len(values) != count:
                raise VerifyException(f"{self.name}: has {count} starts and {len(values)} {what}")
        result = list(shape)
        for i, axis in enumerate(axes):
            extent: Dim | None = None
            if steps is not None and steps[i] == 0:
                raise VerifyException(f"{self.name}: step {i} must not be 0")
            if starts is not None and ends is not None and steps is not None:
                extent = slice_extent(shape[axis], starts[i], ends[i], steps[i])
            result[axis] = extent if extent is not None else self.fresh(0, axis)
        return [tensor_type(result, found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values = known(self.data)
        starts, ends = known_integers(self.starts), known_integers(self.ends)
        steps = [1] if self.steps is None else known_integers(self.steps)
        if values is None or starts is None or ends is None or steps is None:
            return None
        if not len(starts) == len(ends) == len(steps) == 1 or steps[0] == 0:
            return None
        return values[slice(starts[0], ends[0] if abs(ends[0]) < FAR else (None), steps[0])]


@operator
class SqueezeOp(GraphOp):
    """Drop `axes`, which have extent 1; without `axes` every axis of extent 1."""

    data = operand_def(TENSOR)
    axes = opt_operand_def(TENSOR)
    squeezed = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.data)
        if self.axes is None:
            axes = [i for i, d in enumerate(shape) if d == 1]
        elif (known := known_integers(self.axes)) is None:
            rank = len(shape) - _length(self, self.axes)
            return [tensor_type([self.fresh(0, i) for i in range(rank)], element_type(self.data))]
        else:
            axes = axes_of(self, known, len(shape))
        for axis in axes:
            if not same_dim(shape[axis], 1):
                raise VerifyException(
                    f"{self.name}: axis {axis} of {self.data.type} has extent {shape[axis]}, not 1"
                )
        return [tensor_type([d for i, d in enumerate(shape) if i not in axes], element_type(self.data))]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return known(self.data)


@operator
class UnsqueezeOp(GraphOp):
    """Insert axes of extent 1, so that they are `axes` of the result."""

    data = operand_def(TENSOR)
    axes = operand_def(TENSOR)
    expanded = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.data)
        if (known := known_integers(self.axes)) is None:
            rank = len(shape) + _length(self, self.axes)
            return [tensor_type([self.fresh(0, i) for i in range(rank)], element_type(self.data))]
        rank = len(shape) + len(known)
        axes = axes_of(self, known, rank)
        rest = iter(shape)
        return [tensor_type([1 if i in axes else next(rest) for i in range(rank)], element_type(self.data))]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        return known(self.data)


@operator
class ExpandOp(GraphOp):
    """Broadcast the operand and `shape` against each other."""

    input = operand_def(TENSOR)
    shape = operand_def(TENSOR)
    output = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape, found = dims(self.input), element_type(self.input)
        length = _length(self, self.shape)
        target = symbolic_value(self.shape)
        if target is None:
            rank = max(length, len(shape))
            target = [self.fresh(0, rank - length + i) for i in range(length)]
            # An unknown target extent stands where the operand's is 1 or unknown; a number is the result.
            known = [1] * (rank - len(shape)) + shape
            result = [
                known[i] if i < rank - length or (isinstance(known[i], int) and known[i] != 1)
                else target[i - rank + length]
                for i in range(rank)
            ]  # fmt: skip
            return [tensor_type(result, found)]
        if any(isinstance(d, int) and d < 0 for d in target):
            raise VerifyException(f"{self.name}: shape [{print_dims(target)}] must not be negative")
        return [tensor_type(broadcast(self, [shape, target]), found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        values = known(self.input)
        extents = dims(self.output)
        if values is None or len(extents) != 1 or not isinstance(extents[0], int) or extents[0] > MAX_TRACKED:
            return None
        return values * extents[0] if len(values) == 1 else values


@operator
class TileOp(GraphOp):
    """The operand repeated `repeats[i]` times along each axis `i`."""

    input = operand_def(TENSOR)
    repeats = operand_def(TENSOR)
    output = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        shape, found = dims(self.input), element_type(self.input)
        repeats = symbolic_value(self.repeats)
        if repeats is None:
            return [tensor_type([self.fresh(0, i) for i in range(len(shape))], found)]
        if len(repeats) != len(shape):
            raise VerifyException(f"{self.name}: has {len(repeats)} repeats for {self.input.type}")
        return [tensor_type([d * r for d, r in zip(shape, repeats, strict=True)], found)]


@operator
class PadOp(GraphOp):
    """
    Add `pads` (all begins, then all ends; negative ones cut) on `axes` (all if absent), filled by `mode`:
    `constant` (`constant_value`, else 0), `reflect`, `edge` or `wrap`.
    """

    data = operand_def(TENSOR)
    pads = operand_def(TENSOR)
    constant_value = opt_operand_def(TENSOR)
    axes = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    mode = string("constant")

    def output_types(self) -> Sequence[Attribute]:
        shape, found = dims(self.data), same_elements(self, self.data, self.constant_value)
        if self.get("mode") not in ("constant", "reflect", "edge", "wrap"):
            raise VerifyException(
                f"{self.name}: mode {self.get('mode')!r} must be constant, reflect, edge or wrap"
            )
        pads = symbolic_value(self.pads)
        axes = list(range(len(shape))) if self.axes is None else known_integers(self.axes)
        (named,) = [len(shape)] if self.axes is None else require_rank(self, self.axes, 1)
        require_same(
            self,
            require_rank(self, self.pads, 1)[0],
            named * 2,
            "the number of pads is not twice that of axes",
        )
        if pads is None or axes is None:
            touched = range(len(shape)) if axes is None else axes_of(self, axes, len(shape))
            return [
                tensor_type([self.fresh(0, i) if i in touched else d for i, d in enumerate(shape)], found)
            ]
        if len(pads) != 2 * len(axes):
            raise VerifyException(
                f"{self.name}: has {len(pads)} pads for {len(axes)} axes, must have {2 * len(axes)}"
            )
        result = list(shape)
        for i, axis in enumerate(axes_of(self, axes, len(shape))):
            result[axis] = result[axis] + pads[i] + pads[len(axes) + i]
        return [tensor_type(result, found)]


class _BlockOp(GraphOp):
    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    blocksize = integer()
    mode = string("DCR")

    def _checked(self) -> tuple[list[Dim], int]:
        block = self.get("blocksize")
        if block < 1 or self.get("mode") not in ("DCR", "CRD"):
            raise VerifyException(
                f"{self.name}: blocksize {block} must be positive, mode {self.get('mode')!r} DCR or CRD"
            )
        return require_rank(self, self.input, 4), block


@operator
class DepthToSpaceOp(_BlockOp):
    """
    `[n, c, h, w] -> [n, c/b^2, h*b, w*b]`: channels become blocks of space, depth-column-row (DCR) or CRD
    order.
    """

    def output_types(self) -> Sequence[Attribute]:
        (n, c, h, w), b = self._checked()
        if not same_dim(c // (b * b) * (b * b), c):
            raise VerifyException(f"{self.name}: {c} channels do not divide by {b * b}")
        return [tensor_type([n, c // (b * b), h * b, w * b], element_type(self.input))]


@operator
class SpaceToDepthOp(_BlockOp):
    """`[n, c, h, w] -> [n, c*b^2, h/b, w/b]`: the inverse of `graph.depth_to_space`."""

    def output_types(self) -> Sequence[Attribute]:
        (n, c, h, w), b = self._checked()
        if not same_dim(h // b * b, h) or not same_dim(w // b * b, w):
            raise VerifyException(f"{self.name}: extents {h} and {w} do not divide by {b}")
        return [tensor_type([n, c * (b * b), h // b, w // b], element_type(self.input))]


@operator
class TriluOp(GraphOp):
    """The upper (or lower) triangle of each matrix, from the `k`-th diagonal on; zero elsewhere."""

    input = operand_def(TENSOR)
    k = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    upper = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        if len(dims(self.input)) < 2:
            raise VerifyException(f"{self.name}: operand {self.input.type} must have rank 2 or more")
        return [self.input.type]


@operator
class ReverseSequenceOp(GraphOp):
    """
    For each entry `i` of `batch_axis`, the first `sequence_lens[i]` entries of `time_axis` in reverse order.
    """

    input = operand_def(TENSOR)
    sequence_lens = operand_def(TENSOR)
    y = result_def(TENSOR)
    batch_axis = integer(1)
    time_axis = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        if {self.get("batch_axis"), self.get("time_axis")} != {0, 1} or len(dims(self.input)) < 2:
            raise VerifyException(
                f"{self.name}: batch_axis and time_axis must be 0 and 1, of a rank of at least 2"
            )
        return [self.input.type]


@operator
class CenterCropPadOp(GraphOp):
    """Cut or zero-pad `axes` (all if absent) at both ends to the extents in `shape`."""

    input_data = operand_def(TENSOR)
    shape = operand_def(TENSOR)
    output_data = result_def(TENSOR)
    axes = integers()

    def output_types(self) -> Sequence[Attribute]:
        result = dims(self.input_data)
        axes = self.get("axes")
        axes = list(range(len(result))) if axes is None else axes_of(self, axes, len(result))
        target = symbolic_value(self.shape)
        if target is not None and len(target) != len(axes):
            raise VerifyException(f"{self.name}: shape [{print_dims(target)}] must have {len(axes)} extents")
        for i, axis in enumerate(axes):
            result[axis] = self.fresh(0, axis) if target is None else target[i]
        return [tensor_type(result, element_type(self.input_data))]
