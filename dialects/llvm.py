"""The `llvm` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.llvm import LLVM as _XDSL_LLVM
from xdsl.ir import Dialect

LLVM = Dialect("llvm", [*_XDSL_LLVM.operations], [*_XDSL_LLVM.attributes], _XDSL_LLVM._interfaces)
