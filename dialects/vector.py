"""The `vector` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.vector import Vector
from xdsl.ir import Dialect

VECTOR = Dialect("vector", [*Vector.operations], [*Vector.attributes], Vector._interfaces)
