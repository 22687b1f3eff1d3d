"""The `func` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.func import Func
from xdsl.ir import Dialect

FUNC = Dialect("func", [*Func.operations], [*Func.attributes], Func._interfaces)
