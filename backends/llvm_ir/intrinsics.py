"""How the ops `llvm.intr.*` are spelled as calls of intrinsics; the printer and the reader agree on it."""

from collections.abc import Callable

from xdsl.ir import Attribute, Operation


def _by_result(op: Operation) -> list[Attribute]:
    return [op.results[0].type]


def _by_operands(*places: int) -> Callable[[Operation], list[Attribute]]:
    return lambda op: [op.operands[place].type for place in places]


_OVERLOADS: dict[str, Callable[[Operation], list[Attribute]]] = {
    "fptosi.sat": lambda op: [op.results[0].type, op.operands[0].type],
    "fptoui.sat": lambda op: [op.results[0].type, op.operands[0].type],
    "powi": lambda op: [op.results[0].type, op.operands[1].type],
    "masked.load": lambda op: [op.results[0].type, op.operands[0].type],
    "masked.store": _by_operands(0, 1),
    "masked.gather": lambda op: [op.results[0].type, op.operands[0].type],
    "masked.scatter": _by_operands(0, 1),
    "memcpy": _by_operands(0, 1, 2),
    "memmove": _by_operands(0, 1, 2),
    "memset": _by_operands(0, 2),
    "stacksave": lambda op: [op.results[0].type],
    "stackrestore": _by_operands(0),
    "prefetch": _by_operands(0),
    **{
        f"vector.reduce.{kind}": _by_operands(0)
        for kind in (
            "add", "mul", "and", "or", "xor", "smax", "smin", "umax", "umin", "fmax", "fmin", "fmaximum",
            "fminimum",
        )
    },
    "vector.reduce.fadd": _by_operands(1),
    "vector.reduce.fmul": _by_operands(1),
}  # fmt: skip


def overloads(op: Operation) -> list[Attribute]:
    """The types that stand, mangled, behind the name of the intrinsic that `op` calls."""
    return _OVERLOADS.get(op.name.removeprefix("llvm.intr."), _by_result)(op)


CONSTANT_ARGUMENTS = {
    "llvm.intr.abs": ("is_int_min_poison",),
    "llvm.intr.ctlz": ("is_zero_poison",),
    "llvm.intr.cttz": ("is_zero_poison",),
    "llvm.intr.memcpy": ("isVolatile",),
    "llvm.intr.memmove": ("isVolatile",),
    "llvm.intr.memset": ("isVolatile",),
    "llvm.intr.prefetch": ("rw", "hint", "cache"),
}
"""Intrinsics whose last arguments are constants that the op holds as properties."""

ALIGNED = {
    "llvm.intr.masked.load": 1,
    "llvm.intr.masked.store": 2,
    "llvm.intr.masked.gather": 1,
    "llvm.intr.masked.scatter": 2,
}
"""
Where the alignment stands among the arguments. LLVM 22 writes it as an attribute of the pointer in front of
it instead, and reads both.
"""
