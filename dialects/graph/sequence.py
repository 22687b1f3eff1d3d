"""Sequences, optionals and strings."""

from collections.abc import Sequence
from functools import reduce

from xdsl.dialects.builtin import TensorType, UnrankedTensorType, f32, i1, i64
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
from stepwell.dialects.graph.shape import dims_of, tensor_type, unknown
from stepwell.dialects.graph.types import STRING, NothingType, OptionalType, SequenceType, held, joined


def element_of_sequence(op: GraphOp, value: SSAValue) -> Attribute:
    """The type of the elements of a sequence value."""
    if not isinstance(value.type, SequenceType):
        raise VerifyException(f"{op.name}: operand of type {value.type} must be a sequence")
    return value.type.element


def common(op: GraphOp, types: Sequence[Attribute]) -> Attribute:
    """The type of the elements of a sequence that holds values of all of `types`."""

    def both(a: Attribute, b: Attribute) -> Attribute:
        if (result := joined(a, b)) is None:
            raise VerifyException(f"{op.name}: elements of types {a} and {b} in one sequence")
        return result

    return reduce(both, (held(t) for t in types))


def tensor_of(op: GraphOp, type_: Attribute) -> list[Attribute]:
    """
    The type of the one result of `op`, a tensor of `type_` out of a sequence or optional: extents that are not known
    are those of the result, and a rank that is not known is that which the result's type says already.
    """
    if isinstance(type_, UnrankedTensorType | NothingType):
        known = op.results[0].type if op.results else None
        if isinstance(known, TensorType) and known.element_type == type_.element_type:
            return [known]
        raise VerifyException(f"{op.name}: the rank of what it reads is not known; give its result a shape")
    if not isinstance(type_, TensorType):
        return [type_]
    shape = [d if isinstance(d, int) else op.fresh(0, i) for i, d in enumerate(dims_of(type_))]
    return [tensor_type(shape, type_.element_type)]


@operator
class SequenceEmptyOp(GraphOp):
    """An empty sequence of tensors (of `dtype`, f32 if absent)."""

    output = result_def(VALUE)
    dtype = element(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        return [SequenceType(NothingType(self.dtype or f32))]


@operator
class SequenceConstructOp(GraphOp):
    """The sequence of the operands."""

    inputs = var_operand_def(TENSOR)
    output_sequence = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        if not self.operands:
            raise VerifyException(f"{self.name}: takes at least one operand")
        same_elements(self, *self.operands)
        return [SequenceType(common(self, [v.type for v in self.operands]))]


@operator
class SequenceAtOp(GraphOp):
    """The element at `position`; a negative one counts from the end."""

    input_sequence = operand_def(VALUE)
    position = operand_def(TENSOR)
    tensor = result_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        return tensor_of(self, element_of_sequence(self, self.input_sequence))


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
        type_ = element_of_sequence(self, self.input_sequence)
        return [SequenceType(common(self, [type_, self.tensor.type]))]


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
        new = self.get("new_axis")
        if not isinstance(type_, TensorType):
            return tensor_of(self, type_)
        shape = dims_of(type_)
        axis = axis_of(self, self.get("axis"), len(shape) + bool(new))
        shape = [
            d if isinstance(d, int) else self.fresh(0, i + (new and i >= axis)) for i, d in enumerate(shape)
        ]
        shape[axis : axis + (not new)] = [self.fresh(0, axis)]
        return [tensor_type(shape, type_.element_type)]


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
        return [SequenceType(held(tensor_type(shape, element_type(self.input))))]


@operator
class OptionalOp(GraphOp):
    """An optional that holds the operand, or, without one, an absent value of `type`."""

    input = opt_operand_def(VALUE)
    output = result_def(VALUE)
    type = element(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        type_ = self.input.type if self.input is not None else self.type
        if type_ is None:
            raise VerifyException(f"{self.name}: without an operand it needs a type")
        return [OptionalType(held(type_))]


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
        return tensor_of(self, type_.element) if isinstance(type_, OptionalType) else [type_]


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
