"""Sequences, optionals and strings."""

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType, f32, i1, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, result_def, var_operand_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    VALUE,
    GraphOp,
    axis_of,
    broadcast,
    dims,
    element,
    element_type,
    integer,
    integers,
    operator,
    reals,
    require_rank,
    same_elements,
    string,
    strings,
    symbolic_value,
)
from stepwell.dialects.graph.shape import Dim, dims_of, tensor_type, unknown
from stepwell.dialects.graph.types import STRING, OptionalType, SequenceType


def element_of_sequence(op: GraphOp, value: SSAValue) -> Attribute:
    """The type of the elements of a sequence value."""
    if not isinstance(value.type, SequenceType):
        raise VerifyException(f"{op.name}: operand of type {value.type} must be a sequence")
    return value.type.element


def widen(op: GraphOp, types: Sequence[Attribute]) -> Attribute:
    """A tensor type for all of `types`: extents that differ lose their names."""
    first = types[0]
    if not isinstance(first, TensorType):
        return first
    shapes = [dims_of(t) for t in types]
    if len({len(s) for s in shapes}) != 1:
        raise VerifyException(
            f"{op.name}: elements of ranks {sorted({len(s) for s in shapes})} in one sequence"
        )
    merged: list[Dim] = [e[0] if all(d == e[0] for d in e) else unknown() for e in zip(*shapes, strict=True)]
    return tensor_type(merged, first.element_type)


@operator
class SequenceEmptyOp(GraphOp):
    """An empty sequence of tensors (of `dtype`, f32 if absent)."""

    output = result_def(VALUE)
    dtype = element(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        if self.results and isinstance(self.output.type, SequenceType):
            return [self.output.type]
        return [SequenceType(tensor_type([], self.dtype or f32))]


@operator
class SequenceConstructOp(GraphOp):
    """The sequence of the operands."""

    inputs = var_operand_def(TENSOR)
    output_sequence = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        if not self.operands:
            raise VerifyException(f"{self.name}: takes at least one operand")
        same_elements(self, *self.operands)
        return [SequenceType(widen(self, [v.type for v in self.operands]))]


@operator
class SequenceAtOp(GraphOp):
    """The element at `position`; a negative one counts from the end."""

    input_sequence = operand_def(VALUE)
    position = operand_def(TENSOR)
    tensor = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        type_ = element_of_sequence(self, self.input_sequence)
        if not isinstance(type_, TensorType):
            return [type_]
        shape = [d if isinstance(d, int) else self.fresh(0, i) for i, d in enumerate(dims_of(type_))]
        return [tensor_type(shape, type_.element_type)]


@operator
class SequenceLengthOp(GraphOp):
    """The length of a sequence, as a scalar `i64`."""

    input_sequence = operand_def(VALUE)
    length = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        element_of_sequence(self, self.input_sequence)
        return [tensor_type([], i64)]


@operator
class SequenceInsertOp(GraphOp):
    """The sequence with `tensor` inserted before `position` (at the end if absent)."""

    input_sequence = operand_def(VALUE)
    tensor = operand_def(TENSOR)
    position = opt_operand_def(TENSOR)
    output_sequence = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        held = element_of_sequence(self, self.input_sequence)
        if isinstance(held, TensorType) and held.get_num_dims() != len(dims(self.tensor)):
            # An empty sequence does not know the rank of what it will hold.
            return [SequenceType(self.tensor.type)]
        return [SequenceType(widen(self, [held, self.tensor.type]))]


@operator
class SequenceEraseOp(GraphOp):
    """The sequence without the element at `position` (the last if absent)."""

    input_sequence = operand_def(VALUE)
    position = opt_operand_def(TENSOR)
    output_sequence = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        element_of_sequence(self, self.input_sequence)
        return [self.input_sequence.type]


@operator
class ConcatFromSequenceOp(GraphOp):
    """The elements one after the other along `axis`, or (`new_axis`) stacked along a new one."""

    input_sequence = operand_def(VALUE)
    concat_result = result_def(TENSOR)
    axis = integer()
    new_axis = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        type_ = element_of_sequence(self, self.input_sequence)
        shape, new = dims_of(type_), self.get("new_axis")
        axis = axis_of(self, self.get("axis"), len(shape) + bool(new))
        shape = [
            d if isinstance(d, int) else self.fresh(0, i + (new and i >= axis)) for i, d in enumerate(shape)
        ]
        shape[axis : axis + (not new)] = [self.fresh(0, axis)]
        return [tensor_type(shape, type_.element_type)] if isinstance(type_, TensorType) else [type_]


@operator
class SplitToSequenceOp(GraphOp):
    """
    Pieces along `axis` as a sequence: of the extents in `split`, of that extent each, or of extent 1 if
    absent.
    """

    input = operand_def(TENSOR)
    split = opt_operand_def(TENSOR)
    output_sequence = result_def(VALUE)
    axis = integer(0)
    keepdims = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.input)
        axis = axis_of(self, self.get("axis"), len(shape))
        if self.split is None:
            shape[axis : axis + 1] = [1] if self.get("keepdims") else []
        else:
            sizes = symbolic_value(self.split)
            each = (
                sizes
                and dims(self.split) == []
                and isinstance(shape[axis], int)
                and isinstance(sizes[0], int)
            )
            exact = each and sizes and sizes[0] and shape[axis] % sizes[0] == 0
            equal = sizes and dims(self.split) != [] and all(s == sizes[0] for s in sizes)
            shape[axis] = sizes[0] if sizes and (exact or equal) else unknown()
        return [SequenceType(tensor_type(shape, element_type(self.input)))]


@operator
class OptionalOp(GraphOp):
    """An optional that holds the operand, or, without one, an absent value of `type`."""

    input = opt_operand_def(VALUE)
    output = result_def(VALUE)
    type = element(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        held = self.input.type if self.input is not None else self.type
        if held is None:
            raise VerifyException(f"{self.name}: without an operand it needs a type")
        return [OptionalType(held)]


@operator
class OptionalHasElementOp(GraphOp):
    """Whether an optional holds a value; of any other value true, of no operand false."""

    input = opt_operand_def(VALUE)
    output = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type([], i1)]


@operator
class OptionalGetElementOp(GraphOp):
    """The value that an optional holds; of any other value itself."""

    input = operand_def(VALUE)
    output = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        type_ = self.input.type
        return [type_.element if isinstance(type_, OptionalType) else type_]


@operator
class StringConcatOp(GraphOp):
    """`x` followed by `y`, element by element."""

    x = operand_def(TENSOR)
    y = operand_def(TENSOR)
    z = result_def(TENSOR)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(broadcast(self, [dims(self.x), dims(self.y)]), STRING)]


@operator
class StringNormalizerOp(GraphOp):
    """
    The strings without `stopwords`, in lower or upper case (`case_change_action`); one empty string if none
    is left.
    """

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    case_change_action = string("NONE")
    is_case_sensitive = integer(0)
    locale = string(optional=True)
    stopwords = strings()

    def output_types(self) -> Sequence[Attribute]:
        shape = require_rank(self, self.x, 1, 2)
        if self.get("stopwords"):
            shape[-1] = self.fresh(0, len(shape) - 1)
        return [tensor_type(shape, STRING)]


@operator
class StringSplitOp(GraphOp):
    """
    The parts of each string between `delimiter`s (white space if absent), padded by empty ones; and their
    number.
    """

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    z = result_def(TENSOR)
    delimiter = string(optional=True)
    maxsplit = integer(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        shape = dims(self.x)
        return [tensor_type([*shape, self.fresh(0, len(shape))], STRING), tensor_type(shape, i64)]


@operator
class RegexFullMatchOp(GraphOp):
    """Whether each string as a whole matches the regular expression `pattern` (in the syntax of RE2)."""

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    pattern = string(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(dims(self.x), i1)]


@operator
class TfIdfVectorizerOp(GraphOp):
    """
    How often each n-gram of a pool occurs in the operand (skipping up to `max_skip_count`), weighted by
    `mode`.
    """

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    max_gram_length = integer()
    max_skip_count = integer()
    min_gram_length = integer()
    mode = string()
    ngram_counts = integers(optional=False)
    ngram_indexes = integers(optional=False)
    pool_int64s = integers()
    pool_strings = strings()
    weights = reals()

    def output_types(self) -> Sequence[Attribute]:
        shape = require_rank(self, self.x, 1, 2)
        return [tensor_type([*shape[:-1], max(self.get("ngram_indexes"), default=-1) + 1], f32)]
