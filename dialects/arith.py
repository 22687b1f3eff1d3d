"""The `arith` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from typing import ClassVar

from xdsl.dialects import arith
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import I1, TensorType, VectorType, i1
from xdsl.ir import Attribute, Dialect
from xdsl.irdl import AnyAttr, VarConstraint, base, eq, irdl_op_definition, operand_def, result_def
from xdsl.parser import Parser
from xdsl.printer import Printer
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


ARITH = Dialect(
    "arith",
    [op for op in Arith.operations if op is not arith.SelectOp] + [SelectOp],
    [*Arith.attributes],
    Arith._interfaces,
)
