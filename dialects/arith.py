"""The `arith` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from collections.abc import Callable, Sequence
from operator import gt, lt
from typing import ClassVar

from xdsl.dialects import arith
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import (
    I1,
    AnyFloatConstr,
    IndexType,
    IntegerAttr,
    IntegerType,
    TensorType,
    VectorType,
    container_of,
    i1,
)
from xdsl.ir import Attribute, Dialect, Operation, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    VarConstraint,
    base,
    eq,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException


@irdl_op_definition
class SelectOp(arith.SelectOp):
    """
    `lhs` where the condition holds, else `rhs`; the condition is one `i1`, or one per element.
    Reference: MLIR `arith.select`, which xDSL knows with a scalar condition only.
    """

    name = "arith.select"
    _T: ClassVar = VarConstraint("_T", AnyAttr())
    cond = operand_def(eq(i1) | base(VectorType[I1]) | base(TensorType[I1]))
    lhs = operand_def(_T)
    rhs = operand_def(_T)
    result = result_def(_T)
    assembly_format = None

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_list(self.operands, printer.print_operand)
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        if self.cond.type != i1:
            printer.print_attribute(self.cond.type)
            printer.print_string(", ")
        printer.print_attribute(self.result.type)

    @classmethod
    def parse(cls, parser: Parser) -> "SelectOp":
        names = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_unresolved_operand)
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        condition: Attribute = i1
        type = parser.parse_type()
        if parser.parse_optional_punctuation(","):
            condition, type = type, parser.parse_type()
        op = cls(*parser.resolve_operands(names, [condition, type, type], parser.pos))
        op.attributes |= attributes
        return op

    def verify_(self) -> None:
        if isinstance(shaped := self.cond.type, VectorType | TensorType):
            result = self.result.type
            got = result.get_shape() if isinstance(result, VectorType | TensorType) else ()
            if got != shaped.get_shape():
                raise VerifyException(f"condition {shaped} must have the shape of {result}")


_INTEGER = container_of(IntegerType)
_INTEGER_OR_INDEX = container_of(base(IntegerType) | base(IndexType))
_FLOAT = container_of(AnyFloatConstr)
_NO_FLAGS = arith.FastMathFlagsAttr("none")


def _shape(type: Attribute) -> tuple[int, ...] | None:
    return type.get_shape() if isinstance(type, VectorType | TensorType) else None


def _element(type: Attribute) -> Attribute:
    return type.element_type if isinstance(type, VectorType | TensorType) else type


def _like(type: Attribute, element: Attribute) -> Attribute:
    """`element` in the shape of `type`."""
    if isinstance(type, VectorType):
        return VectorType(element, type.get_shape())
    return TensorType(element, type.get_shape()) if isinstance(type, TensorType) else element


def _width(type: Attribute) -> int:
    element = _element(type)
    assert isinstance(element, IntegerType), "the constraint asks for integers"
    return element.width.data


def _verify_cast(op: IRDLOperation, ordered: Callable[[int, int], bool] | None = None) -> None:
    source, result = op.operands[0].type, op.results[0].type
    if _shape(source) != _shape(result):
        raise VerifyException(f"{source} and {result} must have the same shape")
    if ordered is not None and not ordered(_width(source), _width(result)):
        raise VerifyException(f"{source} cannot be cast to the width of {result}")


# xDSL knows the casts and comparisons below on scalars only; upstream takes vectors and tensors of them too.


@irdl_op_definition
class IndexCastOp(arith.IndexCastOp):
    """An index as an integer, sign-extended or truncated, or back. Reference: MLIR `arith.index_cast`."""

    name = "arith.index_cast"
    assembly_format = None  # the one inherited fits
    input = operand_def(_INTEGER_OR_INDEX)
    result = result_def(_INTEGER_OR_INDEX)

    def verify_(self) -> None:
        _verify_cast(self)
        if isinstance(_element(self.input.type), IndexType) == isinstance(
            _element(self.result.type), IndexType
        ):
            raise VerifyException(f"one of {self.input.type} and {self.result.type} must be of index")


@irdl_op_definition
class ExtSIOp(arith.ExtSIOp):
    """A wider integer of the same signed value. Reference: MLIR `arith.extsi`."""

    name = "arith.extsi"
    assembly_format = None  # the one inherited fits
    input = operand_def(_INTEGER)
    result = result_def(_INTEGER)
    traits = traits_def(Pure())

    def verify_(self) -> None:
        _verify_cast(self, lt)


@irdl_op_definition
class ExtUIOp(arith.ExtUIOp):
    """A wider integer of the same unsigned value. Reference: MLIR `arith.extui`."""

    name = "arith.extui"
    assembly_format = None  # the one inherited fits
    input = operand_def(_INTEGER)
    result = result_def(_INTEGER)
    traits = traits_def(Pure())

    def verify_(self) -> None:
        _verify_cast(self, lt)


@irdl_op_definition
class TruncIOp(arith.TruncIOp):
    """The low bits of an integer. Reference: MLIR `arith.trunci`."""

    name = "arith.trunci"
    assembly_format = None  # the one inherited fits
    input = operand_def(_INTEGER)
    result = result_def(_INTEGER)

    def verify_(self) -> None:
        _verify_cast(self, gt)


@irdl_op_definition
class FPToSIOp(arith.FPToSIOp):
    """A float rounded towards zero to a signed integer. Reference: MLIR `arith.fptosi`."""

    name = "arith.fptosi"
    assembly_format = None  # the one inherited fits
    input = operand_def(_FLOAT)
    result = result_def(_INTEGER)

    def verify_(self) -> None:
        _verify_cast(self)


@irdl_op_definition
class FPToUIOp(arith.FPToUIOp):
    """A float rounded towards zero to an unsigned integer. Reference: MLIR `arith.fptoui`."""

    name = "arith.fptoui"
    assembly_format = None  # the one inherited fits
    input = operand_def(_FLOAT)
    result = result_def(_INTEGER)

    def verify_(self) -> None:
        _verify_cast(self)


@irdl_op_definition
class SIToFPOp(arith.SIToFPOp):
    """The nearest float to a signed integer. Reference: MLIR `arith.sitofp`."""

    name = "arith.sitofp"
    assembly_format = None  # the one inherited fits
    input = operand_def(_INTEGER)
    result = result_def(_FLOAT)

    def verify_(self) -> None:
        _verify_cast(self)


@irdl_op_definition
class UIToFPOp(arith.UIToFPOp):
    """The nearest float to an unsigned integer. Reference: MLIR `arith.uitofp`."""

    name = "arith.uitofp"
    assembly_format = None  # the one inherited fits
    input = operand_def(_INTEGER)
    result = result_def(_FLOAT)

    def verify_(self) -> None:
        _verify_cast(self)


class _ElementwiseComparison(IRDLOperation):
    """What both comparisons have: a truth value for each element."""

    def _compare(
        self,
        operands: tuple[Operation | SSAValue, Operation | SSAValue],
        predicate: int | str,
        names: Sequence[str],
        **properties: Attribute,
    ) -> None:
        left, right = (SSAValue.get(operand) for operand in operands)
        number = names.index(predicate) if isinstance(predicate, str) else predicate
        IRDLOperation.__init__(
            self,
            operands=[left, right],
            result_types=[_like(left.type, i1)],
            properties={"predicate": IntegerAttr(number, 64), **properties},
        )

    def _verify(self) -> None:
        want = _like(self.operands[0].type, i1)
        if self.results[0].type != want:
            raise VerifyException(f"the result {self.results[0].type} must be {want}")


@irdl_op_definition
class CmpiOp(arith.CmpiOp, _ElementwiseComparison):
    """Compare integers; `1` where the predicate holds. Reference: MLIR `arith.cmpi`."""

    name = "arith.cmpi"
    predicate = prop_def(IntegerAttr)
    lhs = operand_def(_INTEGER_OR_INDEX)
    rhs = operand_def(_INTEGER_OR_INDEX)
    result = result_def(container_of(eq(i1)))

    def __init__(self, operand1: Operation | SSAValue, operand2: Operation | SSAValue, arg: int | str):
        self._compare((operand1, operand2), arg, arith.CMPI_COMPARISON_OPERATIONS)

    def verify_(self) -> None:
        self._verify()


@irdl_op_definition
class CmpfOp(arith.CmpfOp, _ElementwiseComparison):
    """Compare floats; `1` where the predicate holds. Reference: MLIR `arith.cmpf`."""

    name = "arith.cmpf"
    predicate = prop_def(IntegerAttr)
    lhs = operand_def(_FLOAT)
    rhs = operand_def(_FLOAT)
    fastmath = prop_def(arith.FastMathFlagsAttr, default_value=_NO_FLAGS)
    result = result_def(container_of(eq(i1)))

    def __init__(
        self,
        operand1: Operation | SSAValue,
        operand2: Operation | SSAValue,
        arg: int | str,
        fastmath: arith.FastMathFlagsAttr = _NO_FLAGS,
    ):
        self._compare((operand1, operand2), arg, arith.CMPF_COMPARISON_OPERATIONS, fastmath=fastmath)

    def verify_(self) -> None:
        self._verify()


_EXTENDED = (
    SelectOp, IndexCastOp, ExtSIOp, ExtUIOp, TruncIOp, FPToSIOp, FPToUIOp, SIToFPOp, UIToFPOp, CmpiOp, CmpfOp,
)  # fmt: skip
_NAMES = {op.name for op in _EXTENDED}
ARITH = Dialect(
    "arith",
    [*(op for op in Arith.operations if op.name not in _NAMES), *_EXTENDED],
    [*Arith.attributes],
    Arith._interfaces,
)
