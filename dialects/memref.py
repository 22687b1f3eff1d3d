"""The `memref` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.memref import MemRef
from xdsl.ir import Dialect

MEMREF = Dialect("memref", [*MemRef.operations], [*MemRef.attributes], MemRef._interfaces)
