"""The `arith` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.arith import Arith
from xdsl.ir import Dialect

ARITH = Dialect("arith", [*Arith.operations], [*Arith.attributes], Arith._interfaces)
