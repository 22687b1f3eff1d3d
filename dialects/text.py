"""
The `text` dialect: strings below the graph level.

An element of type `!text.string` is 16 bytes in memory, a pointer to bytes and their number: the `stepwell_string` of
`runtime/c/stepwell.h`. Moving strings is moving these 16 bytes, by the same ops as any element. What looks at the bytes
is an op here, on whole tensors, in destination style; it becomes one call of the runtime (`runtime/c/text.c`):

    %z = text.concat ins(%x, %y : tensor<3x!text.string>, tensor<3x!text.string>)
                     outs(%o : tensor<3x!text.string>) -> tensor<3x!text.string>

On buffers it has no result. Constants are bytes and offsets: string `i` is `bytes[offsets[i] : offsets[i + 1]]`.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, TypeVar

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    IntegerAttr,
    MemRefType,
    TensorType,
    f32,
    f64,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_result_def,
    prop_def,
    var_operand_def,
)
from xdsl.utils.exceptions import VerifyException


@irdl_attr_definition
class StringType(ParametrizedAttribute, TypeAttribute):
    """A string: a pointer to bytes, UTF-8 as a rule, and their number."""

    name = "text.string"

    @property
    def bitwidth(self) -> int:
        """Bits of one string in memory."""
        return 128


STRING = StringType()

_BYTES, _LEAST_STATES = 256, 2


class TextOp(IRDLOperation):
    """An op on whole tensors (or buffers) of strings; its class says of which elements."""

    irdl_options = (ParsePropInAttrDict(),)

    INPUTS: ClassVar[tuple[Attribute, ...]]
    """The element types of `inputs`."""
    OUTPUT: ClassVar[Attribute]
    ELEMENTWISE: ClassVar[int] = 0
    """How many of the inputs have the shape of the result."""
    NUMBERS: ClassVar[tuple[str, ...]] = ()
    """The `i64` properties, in the order in which the runtime takes them."""

    inputs = var_operand_def(TensorType | MemRefType)
    out = operand_def(TensorType | MemRefType)
    result = opt_result_def(TensorType)

    assembly_format = "`ins` `(` $inputs `:` type($inputs) `)` `outs` `(` $out `:` type($out) `)` attr-dict (`->` type($result)^)?"

    def __init__(self, inputs: Sequence[SSAValue], out: SSAValue, **numbers: int):
        super().__init__(
            operands=[list(inputs), out],
            properties={name: IntegerAttr(value, i64) for name, value in numbers.items()},
            result_types=[out.type if isinstance(out.type, TensorType) else None],
        )

    @property
    def numbers(self) -> list[int]:
        """The values of the `i64` properties, in order."""
        return [self.properties[name].value.data for name in self.NUMBERS]  # pyright: ignore

    def with_buffers(self, inputs: Sequence[SSAValue], out: SSAValue) -> "TextOp":
        """The same op on buffers."""
        return type(self)(inputs, out, **dict(zip(self.NUMBERS, self.numbers, strict=True)))

    def verify_(self) -> None:
        wanted = (*self.INPUTS, self.OUTPUT)
        if len(self.operands) != len(wanted):
            raise VerifyException(f"{len(self.operands)} operands, expected {len(wanted)}")
        for position, (value, want) in enumerate(zip(self.operands, wanted, strict=True)):
            assert isinstance(value.type, TensorType | MemRefType), "the operand's definition says so"
            if value.type.element_type != want:
                raise VerifyException(
                    f"operand {position} has elements of {value.type.element_type}, not of {want}"
                )
            if isinstance(value.type, TensorType) != (self.result is not None):
                raise VerifyException("operands must be tensors where there is a result, else buffers")
        if self.result is not None and self.result.type != self.out.type:
            raise VerifyException(f"the result must have the type of its destination, {self.out.type}")
        shape = self.out.type.get_shape()  # pyright: ignore
        for value in self.inputs[: self.ELEMENTWISE]:
            own = value.type.get_shape()  # pyright: ignore
            if len(own) != len(shape) or any(
                a != b and DYNAMIC_INDEX not in (a, b) for a, b in zip(own, shape, strict=True)
            ):
                raise VerifyException(f"an operand of shape {list(own)} for a result of shape {list(shape)}")


_OPERATIONS: list[type[TextOp]] = []
_OpT = TypeVar("_OpT", bound=TextOp)


def _operation(cls: type[_OpT]) -> type[_OpT]:
    """Define an op, whose constants need no annotation each, and enter it."""
    constants = {key: ClassVar[Any] for key in vars(cls) if key.isupper()}
    cls.__annotations__ = {**constants, **vars(cls).get("__annotations__", {})}
    defined = irdl_op_definition(cls)
    _OPERATIONS.append(defined)
    return defined


@_operation
class ViewOp(TextOp):
    """String `i` of the result is `bytes[offsets[i] : offsets[i + 1]]`; the bytes must outlive the run."""

    name = "text.view"
    INPUTS, OUTPUT = (i8, i64), STRING


@_operation
class EqualOp(TextOp):
    """Whether two strings have the same bytes."""

    name = "text.equal"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING, STRING), i1, 2


@_operation
class ConcatOp(TextOp):
    """One string followed by the other."""

    name = "text.concat"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING, STRING), STRING, 2


@_operation
class MapOp(TextOp):
    """
    Each character by a table whose rows (first, last, step, distance) are ranges of characters in ascending order:
    every `step`-th of them becomes itself plus `distance`. Bytes that are no UTF-8 stay as they are.
    """

    name = "text.map"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING, i32), STRING, 1


@_operation
class FindOp(TextOp):
    """The place of each string in a list of words (bytes and offsets) in ascending order of bytes, or -1."""

    name = "text.find"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING, i8, i64), i64, 1


@_operation
class RankOp(TextOp):
    """For each string, how many different ones of the operand stand before it in the order of their bytes."""

    name = "text.rank"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING,), i64, 1


@_operation
class MatchOp(TextOp):
    """
    Whether an automaton over bytes accepts each string. `classes` gives each of the 256 bytes its column in the table
    of next states, whose rows are states; state 1 is the first, state 0 accepts nothing.
    """

    name = "text.match"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING, i8, i32, i1), i1, 1

    def verify_(self) -> None:
        super().verify_()
        classes, following, states = (prod(value.type.get_shape()) for value in self.inputs[1:])  # pyright: ignore
        if classes != _BYTES or states < _LEAST_STATES or following % states:
            raise VerifyException(
                f"{classes} classes, {following} next states and {states} states are no automaton: it has {_BYTES}"
                f" classes, {_LEAST_STATES} states or more, and as many next states for each"
            )


@_operation
class CountOp(TextOp):
    """How many parts `text.split` makes of each string."""

    name = "text.count"
    INPUTS, OUTPUT, ELEMENTWISE, NUMBERS = (STRING, i8), i64, 1, ("limit",)
    limit = prop_def(IntegerAttr)


@_operation
class SplitOp(TextOp):
    """
    The parts of each string between delimiters, along the last axis of the result, which is filled up with empty
    strings. An empty delimiter is white space: runs of it count once, and at both ends not at all. After `limit` parts
    the rest is one part (a negative `limit`: never).
    """

    name = "text.split"
    INPUTS, OUTPUT, NUMBERS = (STRING, i8), STRING, ("limit",)
    limit = prop_def(IntegerAttr)


@_operation
class ParseF64Op(TextOp):
    """The number that a string spells, as C's `strtod` reads it; anything else ends the run."""

    name = "text.parse_f64"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING,), f64, 1


@_operation
class ParseF32Op(TextOp):
    """`text.parse_f64`, rounded once."""

    name = "text.parse_f32"
    INPUTS, OUTPUT, ELEMENTWISE = (STRING,), f32, 1


@_operation
class ParseI64Op(TextOp):
    """The integer that a string spells; a fraction is cut off. Anything else ends the run."""

    name = "text.parse_i64"
    INPUTS, OUTPUT, ELEMENTWISE, NUMBERS = (STRING,), i64, 1, ("is_unsigned",)
    is_unsigned = prop_def(IntegerAttr)


@_operation
class FormatF64Op(TextOp):
    """A number in at most `digits` significant digits, as C's `%g` writes it; `NaN`, `INF`, `-INF`."""

    name = "text.format_f64"
    INPUTS, OUTPUT, ELEMENTWISE, NUMBERS = (f64,), STRING, 1, ("digits",)
    digits = prop_def(IntegerAttr)


@_operation
class FormatFixedOp(TextOp):
    """A number with `digits` digits behind the point, as C's `%f` writes it; `nan`, `inf`, `-inf`."""

    name = "text.format_fixed"
    INPUTS, OUTPUT, ELEMENTWISE, NUMBERS = (f64,), STRING, 1, ("digits",)
    digits = prop_def(IntegerAttr)


@_operation
class FormatI64Op(TextOp):
    """An integer in decimal digits."""

    name = "text.format_i64"
    INPUTS, OUTPUT, ELEMENTWISE, NUMBERS = (i64,), STRING, 1, ("is_unsigned",)
    is_unsigned = prop_def(IntegerAttr)


@_operation
class GramsOp(TextOp):
    """
    How often each n-gram occurs in each row of `items`, at the column that `places` gives it. The n-grams of one
    length n stand in `grams` in ascending order; `table` has a row (n, first element of `grams`, first of `places`,
    their number) for each n. Up to `most_skipped` items lie between two of an n-gram.
    """

    name = "text.grams"
    INPUTS, OUTPUT, NUMBERS = (i64, i64, i64, i64), f32, ("columns", "most_skipped")
    columns = prop_def(IntegerAttr)
    most_skipped = prop_def(IntegerAttr)


TEXT = Dialect("text", [*_OPERATIONS], [StringType])
