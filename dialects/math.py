"""The `math` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.math import Math
from xdsl.ir import Dialect

MATH = Dialect("math", [*Math.operations], [*Math.attributes], Math._interfaces)
