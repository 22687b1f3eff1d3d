"""What the IR means: the reference result of every op of every stage, on numpy arrays."""

from stepwell.interpreter import arith, control, linalg, llvm, memref, runtime, tensor, value, vector
from stepwell.interpreter.llvm import interpret_llvm
from stepwell.interpreter.machine import MEANINGS, Machine, interpret, meaning

__all__ = [
    "MEANINGS", "Machine", "arith", "control", "interpret", "interpret_llvm", "linalg", "llvm",
    "meaning", "memref", "runtime", "tensor", "text", "value", "vector",
]  # fmt: skip
