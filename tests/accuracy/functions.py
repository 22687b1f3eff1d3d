"""
Functions of one argument, compiled as models, on every f32 there is.

    python -m tests.accuracy.functions                 all functions: one to two minutes each
    python -m tests.accuracy.functions Exp Gelu        some
    python -m tests.accuracy.functions --one-in 4096   every 4096th f32

Printed is the largest error in units of the last place against the C library in double precision, and how many results
are NaN, infinite or a zero of one sign where another is due.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

_SOURCE = Path(__file__).with_name("reference.c")
_CHUNK = 1 << 20
_OPERATORS = {"GeluTanh": ("Gelu", {"approximate": "tanh"})}
"""Names that are no operator: the operator and its attributes."""

BOUND_ULP = 4.0
FUNCTIONS = (
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "GeluTanh", "Log",
    "Mish", "Reciprocal", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
)  # fmt: skip
LIMITS_ONLY_IN_THE_LIMIT = ("Gelu", "GeluTanh", "Mish", "Softsign", "Swish")
"""Their formula is NaN at an infinity, where the limit is 0 or 1: either is right there."""


class _Verdict(ctypes.Structure):
    _fields_ = (
        ("ulp", ctypes.c_double),
        ("special", ctypes.c_int64),
        ("at", ctypes.c_float),
        ("special_at", ctypes.c_float),
    )


@dataclass(frozen=True)
class Accuracy:
    """`ulp`: the largest error, at the argument `at`. `special`: how many special results are wrong, first at `special_at`."""

    name: str
    ulp: float
    at: float
    special: int
    special_at: float

    def __str__(self) -> str:
        wrong = f", {self.special} special values wrong, first at {self.special_at!r}" if self.special else ""
        return f"{self.name:12}{self.ulp:6.2f} ulp at {self.at!r}{wrong}"


@cache
def _judge() -> "ctypes._FuncPointer":
    from stepwell.backends.cpu.toolchain import find_driver

    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "reference.so"
        command = [*find_driver().argv, "-O2", "-shared", "-fPIC", str(_SOURCE), "-o", str(library), "-lm"]
        subprocess.run(command, check=True, timeout=300)
        function = ctypes.CDLL(str(library)).judge
    pointer = ctypes.POINTER(_Verdict)
    function.argtypes = (
        ctypes.c_char_p,
        ctypes.c_uint32,
        ctypes.c_uint32,
        ctypes.c_int64,
        ctypes.c_void_p,
        pointer,
    )
    return function


def compiled(name: str, **options: object) -> Callable[[np.ndarray], np.ndarray]:
    """The function as a model of one node and unknown length."""
    import stepwell

    operator, attributes = _OPERATORS.get(name, (name, {}))
    slots = [helper.make_tensor_value_info(slot, TensorProto.FLOAT, ["n"]) for slot in "xy"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)], name, slots[:1], slots[1:]
    )
    opset = 24 if operator == "Swish" else 22
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return stepwell.compile(model, cache=False, **options)


def measure(name: str, one_in: int = 1, **options: object) -> Accuracy:
    """The accuracy of a function on every `one_in`-th f32, of all signs and exponents."""
    function, verdict = compiled(name, **options), _Verdict()
    count = (1 << 32) // one_in
    for start in range(0, count, _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, count), dtype=np.uint64)
        bits = (indices * one_in).astype(np.uint32)
        got = np.ascontiguousarray(function(bits.view(np.float32)))
        known = _judge()(
            name.encode(), int(bits[0]), one_in, len(bits), got.ctypes.data, ctypes.byref(verdict)
        )
        assert known, f"no reference for {name}"
    special, at = verdict.special, verdict.special_at
    if special and name in LIMITS_ONLY_IN_THE_LIMIT and np.isinf(at):
        special = 0 if special <= 2 else special
    return Accuracy(name, verdict.ulp, verdict.at, special, at)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=FUNCTIONS, help=f"of {', '.join(FUNCTIONS)}")
    parser.add_argument("--one-in", type=int, default=1, help="only one f32 in so many")
    parser.add_argument("--target", default="native")
    arguments = parser.parse_args()
    worst = 0.0
    for name in arguments.names:
        started = time.process_time()
        found = measure(name, arguments.one_in, target=arguments.target)
        worst = max(worst, found.ulp if not found.special else float("inf"))
        print(f"{found}  ({time.process_time() - started:.0f} s)", flush=True)
    return 0 if worst <= BOUND_ULP else 1


if __name__ == "__main__":
    sys.exit(main())
