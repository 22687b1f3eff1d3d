"""The `math` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.math import FloatingPointLikeUnaryMathOperation, Math
from xdsl.ir import Dialect
from xdsl.irdl import irdl_op_definition, traits_def
from xdsl.traits import Pure, SameOperandsAndResultType


@irdl_op_definition
class ErfcOp(FloatingPointLikeUnaryMathOperation):
    """
    1 - erf(x), which keeps its digits where erf(x) is close to 1.
    Reference: upstream MLIR, `math.erfc`.
    """

    name = "math.erfc"
    traits = traits_def(Pure(), SameOperandsAndResultType())


MATH = Dialect("math", [*Math.operations, ErfcOp], [*Math.attributes], Math._interfaces)
