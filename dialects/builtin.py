"""The `builtin` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.builtin import Builtin
from xdsl.ir import Dialect

BUILTIN = Dialect("builtin", [*Builtin.operations], [*Builtin.attributes], Builtin._interfaces)
