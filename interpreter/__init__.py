"""What the IR means: the reference result of every op of every stage, on numpy arrays."""

from stepwell.interpreter import arith, control, linalg, memref, runtime, tensor, value, vector
from stepwell.interpreter.machine import MEANINGS, Machine, interpret, meaning

__all__ = [
    "MEANINGS", "Machine", "arith", "control", "interpret", "linalg", "meaning", "memref", "runtime", "tensor",
    "text", "value", "vector",
]  # fmt: skip
