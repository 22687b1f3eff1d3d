"""What the IR means: the reference result of every op of every stage, on numpy arrays."""

from stepwell.interpreter import arith, control, linalg, llvm, memref, runtime, tensor, text, value, vector
from stepwell.interpreter.llvm import interpret_llvm
from stepwell.interpreter.machine import MEANINGS, Machine, OutOfFuel, interpret, meaning, run_main

__all__ = [
    "MEANINGS", "Machine", "OutOfFuel", "arith", "control", "interpret", "interpret_llvm", "linalg", "llvm",
    "meaning", "memref", "run_main", "runtime", "tensor", "text", "value", "vector",
]  # fmt: skip
