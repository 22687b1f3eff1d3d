"""The `value` dialect: what is no buffer below the graph level, the sequences, optionals and maps of a model.

A `!value.any` is immutable: a tensor, a sequence of values, a map, which is two 1-D tensors of one length, its keys and
its values, or absent (an optional that holds something is what it holds). Its type says no more; who reads a tensor out of it says which one he expects, and the run checks it.
In the runtime it is a `const stepwell_value *` that lives until the next run begins.
"""

from xdsl.dialects.builtin import IndexType, IntegerType, MemRefType, Signedness, TensorType, i1
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    AnyAttr,
    BaseAttr,
    IRDLOperation,
    eq,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph import STRING
from stepwell.dialects.graph.types import numpy_dtype
from stepwell.dialects.text import STRING as TEXT
from stepwell.resources import dtype_of


@irdl_attr_definition
class AnyValueType(ParametrizedAttribute, TypeAttribute):
    """A tensor, a sequence of values, a map, or absent."""

    name = "value.any"


ANY = AnyValueType()
_ANY = eq(ANY)
_BUFFER = BaseAttr(TensorType) | BaseAttr(MemRefType)


def _verify_element(op: IRDLOperation, element: Attribute, type: Attribute) -> None:
    """`element`, a type of the graph level, may lose its sign or become bytes below it, and nothing else."""
    assert isinstance(type, TensorType | MemRefType), "the constraint of the op"
    try:
        want = numpy_dtype(element)
    except ValueError:
        raise VerifyException(f"{element} is no element type of tensors") from None
    same = element == STRING or dtype_of(type.element_type).itemsize == want.itemsize
    if (element == STRING) != (type.element_type == TEXT) or not same:
        raise VerifyException(f"elements of type {element} are not held as {type.element_type}")


@irdl_op_definition
class WrapOp(IRDLOperation):
    """A value that holds a copy of `input`, whose elements are `element` at the graph level (`ui8` for `i8`)."""

    name = "value.wrap"
    input = operand_def(_BUFFER)
    element = prop_def(AnyAttr())
    output = result_def(_ANY)
    assembly_format = "$input `as` $element attr-dict `:` type($input)"

    def __init__(self, input: SSAValue, element: Attribute):
        super().__init__(operands=[input], properties={"element": element}, result_types=[ANY])

    def verify_(self) -> None:
        _verify_element(self, self.element, self.input.type)


@irdl_op_definition
class UnwrapOp(IRDLOperation):
    """
    The tensor that `input` holds, in memory that nobody may write. Errors, at run time: no tensor, or one of another
    element type than `element`, another rank, or another extent where the result's type has a number.
    """

    name = "value.unwrap"
    input = operand_def(_ANY)
    element = prop_def(AnyAttr())
    output = result_def(_BUFFER)
    assembly_format = "$input `as` $element attr-dict `:` type($output)"
    traits = traits_def(Pure())

    def __init__(self, input: SSAValue, element: Attribute, type: Attribute):
        super().__init__(operands=[input], properties={"element": element}, result_types=[type])

    def verify_(self) -> None:
        _verify_element(self, self.element, self.output.type)


@irdl_op_definition
class AbsentOp(IRDLOperation):
    """The absent value."""

    name = "value.absent"
    output = result_def(_ANY)
    assembly_format = "attr-dict"
    traits = traits_def(Pure())

    def __init__(self):
        super().__init__(result_types=[ANY])


@irdl_op_definition
class PresentOp(IRDLOperation):
    """Whether `input` is not absent."""

    name = "value.present"
    input = operand_def(_ANY)
    output = result_def(eq(i1))
    assembly_format = "$input attr-dict"
    traits = traits_def(Pure())

    def __init__(self, input: SSAValue):
        super().__init__(operands=[input], result_types=[i1])


@irdl_op_definition
class EmptyOp(IRDLOperation):
    """The sequence without elements."""

    name = "value.empty"
    output = result_def(_ANY)
    assembly_format = "attr-dict"
    traits = traits_def(Pure())

    def __init__(self):
        super().__init__(result_types=[ANY])


@irdl_op_definition
class LengthOp(IRDLOperation):
    """The number of elements of a sequence."""

    name = "value.length"
    sequence = operand_def(_ANY)
    output = result_def(IndexType())
    assembly_format = "$sequence attr-dict"
    traits = traits_def(Pure())

    def __init__(self, sequence: SSAValue):
        super().__init__(operands=[sequence], result_types=[IndexType()])


@irdl_op_definition
class AtOp(IRDLOperation):
    """The element at `position`, a negative one from the end. Errors, at run time: there is none."""

    name = "value.at"
    sequence = operand_def(_ANY)
    position = operand_def(IndexType())
    output = result_def(_ANY)
    assembly_format = "$sequence `[` $position `]` attr-dict"
    traits = traits_def(Pure())

    def __init__(self, sequence: SSAValue, position: SSAValue):
        super().__init__(operands=[sequence, position], result_types=[ANY])


@irdl_op_definition
class InsertOp(IRDLOperation):
    """The sequence with `element` in front of `position` (its length: at its end; a negative one from the end)."""

    name = "value.insert"
    element = operand_def(_ANY)
    sequence = operand_def(_ANY)
    position = operand_def(IndexType())
    output = result_def(_ANY)
    assembly_format = "$element `into` $sequence `[` $position `]` attr-dict"
    traits = traits_def(Pure())

    def __init__(self, element: SSAValue, sequence: SSAValue, position: SSAValue):
        super().__init__(operands=[element, sequence, position], result_types=[ANY])


@irdl_op_definition
class EraseOp(IRDLOperation):
    """The sequence without the element at `position`, a negative one from the end."""

    name = "value.erase"
    sequence = operand_def(_ANY)
    position = operand_def(IndexType())
    output = result_def(_ANY)
    assembly_format = "$sequence `[` $position `]` attr-dict"
    traits = traits_def(Pure())

    def __init__(self, sequence: SSAValue, position: SSAValue):
        super().__init__(operands=[sequence, position], result_types=[ANY])


@irdl_op_definition
class MapOp(IRDLOperation):
    """
    The map from each of `keys` to the element of `values` at its place; of equal keys the last counts.
    Errors, at run time: they are no 1-D tensors, or not of one length.
    """

    name = "value.map"
    keys = operand_def(_ANY)
    values = operand_def(_ANY)
    output = result_def(_ANY)
    assembly_format = "$keys `to` $values attr-dict"
    traits = traits_def(Pure())

    def __init__(self, keys: SSAValue, values: SSAValue):
        super().__init__(operands=[keys, values], result_types=[ANY])


@irdl_op_definition
class KeysOp(IRDLOperation):
    """The keys of a map, a 1-D tensor. Errors, at run time: `input` is no map."""

    name = "value.keys"
    input = operand_def(_ANY)
    output = result_def(_ANY)
    assembly_format = "$input attr-dict"
    traits = traits_def(Pure())

    def __init__(self, input: SSAValue):
        super().__init__(operands=[input], result_types=[ANY])


@irdl_op_definition
class ValuesOp(IRDLOperation):
    """The values of a map, a 1-D tensor, in the order of its keys. Errors, at run time: `input` is no map."""

    name = "value.values"
    input = operand_def(_ANY)
    output = result_def(_ANY)
    assembly_format = "$input attr-dict"
    traits = traits_def(Pure())

    def __init__(self, input: SSAValue):
        super().__init__(operands=[input], result_types=[ANY])


_DLPACK_FLOATS = {
    "bfloat16": 4, "float8_e4m3fn": 10, "float8_e4m3fnuz": 11, "float8_e5m2": 12, "float8_e5m2fnuz": 13,
    "float8_e8m0fnu": 14, "float4_e2m1fn": 17,
}  # fmt: skip


def dlpack_type(element: Attribute) -> tuple[int, int]:
    """DLPack's code and width of a type of the graph level, as the tables of a library have them; ours of strings."""
    if element == STRING:
        return 255, 128
    if element == i1:
        return 6, 8
    if isinstance(element, IntegerType):
        return int(element.signedness.data == Signedness.UNSIGNED), element.width.data
    dtype = numpy_dtype(element)
    if dtype.kind == "c":
        return 5, 8 * dtype.itemsize
    bits = 4 if dtype.name == "float4_e2m1fn" else 8 * dtype.itemsize
    return _DLPACK_FLOATS.get(dtype.name, 2), bits


VALUE = Dialect(
    "value",
    [
        WrapOp,
        UnwrapOp,
        AbsentOp,
        PresentOp,
        EmptyOp,
        LengthOp,
        AtOp,
        InsertOp,
        EraseOp,
        MapOp,
        KeysOp,
        ValuesOp,
    ],
    [AnyValueType],
)
