"""The `scf` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from xdsl.dialects.scf import Scf
from xdsl.ir import Dialect

SCF = Dialect("scf", [*Scf.operations], [*Scf.attributes], Scf._interfaces)
