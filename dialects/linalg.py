"""The `linalg` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.linalg import Linalg
from xdsl.ir import Dialect

LINALG = Dialect("linalg", [*Linalg.operations], [*Linalg.attributes], Linalg._interfaces)
