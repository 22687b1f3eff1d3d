"""The `tensor` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.tensor import Tensor
from xdsl.ir import Dialect

TENSOR = Dialect("tensor", [*Tensor.operations], [*Tensor.attributes], Tensor._interfaces)
