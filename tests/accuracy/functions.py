"""
Functions of one argument, compiled as models, on every f32 there is.

    python -m tests.accuracy.functions                 all functions: ten seconds to a minute each
    python -m tests.accuracy.functions Exp Gelu        some
    python -m tests.accuracy.functions --one-in 4096   every 4096th f32
    python -m tests.accuracy.functions --type f64      samples of another type; f16 and bf16 are tried whole

Printed is the largest error in units of the last place against the C library in double precision (f64: long double), and
how many results are NaN, infinite or a zero of one sign where another is due.
"""

import argparse
import ctypes
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

_SOURCE = Path(__file__).with_name("reference.c")
_OPSET = 28
_CHUNK = 1 << 16
"""Arguments and results of a chunk stay in the caches."""
_OPERATORS = {
    "GeluTanh": ("Gelu", "", {"approximate": "tanh"}),
    "QuickGelu": ("QuickGelu", "com.microsoft", {}),
}
"""Names that are no operator of ONNX: the operator, its domain and its attributes."""

BOUND_ULP = 4.0
FUNCTIONS = (
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "GeluTanh",
    "HardSigmoid", "HardSwish", "Log", "Mish", "QuickGelu", "Reciprocal", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
)  # fmt: skip
LIMITS_ONLY_IN_THE_LIMIT = ("Gelu", "GeluTanh", "HardSwish", "Mish", "QuickGelu", "Softsign", "Swish")
"""Their formula is NaN at an infinity, where the limit is 0 or 1: either is right there."""


class _Verdict(ctypes.Structure):
    _fields_ = (
        ("ulp", ctypes.c_double),
        ("special", ctypes.c_int64),
        ("at", ctypes.c_double),
        ("special_at", ctypes.c_double),
    )


class _Format(ctypes.Structure):
    _fields_ = (("digits", ctypes.c_int), ("least", ctypes.c_int), ("most", ctypes.c_int))


FORMATS = {
    "f16": (_Format(11, -14, 15), TensorProto.FLOAT16),
    "bf16": (_Format(8, -126, 127), TensorProto.BFLOAT16),
    "f32": (_Format(24, -126, 127), TensorProto.FLOAT),
    "f64": (_Format(53, -1022, 1023), TensorProto.DOUBLE),
}


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
def _judge(wide: bool) -> "ctypes._FuncPointer":
    """`judge` of reference.c, for f64 if `wide`, else for f32."""
    from stepwell.backends.cpu.toolchain import find_driver

    driver = find_driver()
    has_vectors = not wide and driver.kind == "clang" and platform.libc_ver()[0] == "glibc"
    has_vectors = has_vectors and platform.machine() == "x86_64"
    options = ["-DWIDE"] if wide else ["-DMVEC", "-lmvec"] if has_vectors else []
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "reference.so"
        command = [*driver.argv, "-O2", "-march=native", "-fno-math-errno", "-shared", "-fPIC", str(_SOURCE)]
        subprocess.run([*command, *options, "-o", str(library), "-lm"], check=True, timeout=300)
        function = ctypes.CDLL(str(library)).judge
    function.argtypes = (
        ctypes.c_char_p,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.POINTER(_Format),
        ctypes.POINTER(_Verdict),
    )
    return function


def compiled(name: str, type: str = "f32", **options: object) -> Callable[[np.ndarray], np.ndarray]:
    """The function as a model of one node and unknown length; of f16 and bf16 it takes and gives the values as f32."""
    import stepwell

    operator, domain, attributes = _OPERATORS.get(name, (name, "", {}))
    element = FORMATS[type][1]
    outside = TensorProto.DOUBLE if type == "f64" else TensorProto.FLOAT
    nodes = [helper.make_node(operator, ["a"], ["b"], domain=domain, **attributes)]
    nodes.insert(0, helper.make_node("Cast", ["x"], ["a"], to=element))
    nodes.append(helper.make_node("Cast", ["b"], ["y"], to=outside))
    slots = [helper.make_tensor_value_info(slot, outside, ["n"]) for slot in "xy"]
    graph = helper.make_graph(nodes, name, slots[:1], slots[1:])
    imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return stepwell.compile(
        helper.make_model(graph, opset_imports=imports, ir_version=10), cache=False, **options
    )


def _singles(one_in: int) -> Iterator[np.ndarray]:
    """Every `one_in`-th f32 by its bits, in chunks of a multiple of 8."""
    count = ((1 << 32) // one_in) & -8
    steps = np.arange(_CHUNK, dtype=np.uint32) * np.uint32(one_in)
    for start in range(0, count, _CHUNK):
        yield (steps[: count - start] + np.uint32(start * one_in)).view(np.float32)


def _doubles(one_in: int) -> Iterator[np.ndarray]:
    """As many f64: one half from their whole range, the other near those f32."""
    rng = np.random.default_rng(0)
    for chunk in _singles(one_in):
        near = chunk.astype(np.float64) * rng.uniform(1 - 2**-20, 1 + 2**-20, len(chunk))
        wide = rng.integers(0, 1 << 64, len(chunk), np.uint64).view(np.float64)
        wide[::2] = near[::2]
        yield wide


def _halves(type: str) -> np.ndarray:
    """All values of f16 or bf16."""
    bits = np.arange(1 << 16, dtype=np.uint32)
    if type == "bf16":
        return (bits << 16).view(np.float32)
    return bits.astype(np.uint16).view(np.float16).astype(np.float32)


def arguments_of(type: str, one_in: int) -> Iterator[np.ndarray]:
    """The arguments on which a function of `type` is tried."""
    if type in ("f16", "bf16"):
        return iter([_halves(type)])
    return _doubles(one_in) if type == "f64" else _singles(one_in)


def measure(name: str, one_in: int = 1, type: str = "f32", **options: object) -> Accuracy:
    """The accuracy of a function on every `one_in`-th f32, of all signs and exponents, or on values of another type."""
    return judged(name, arguments_of(type, one_in), type, **options)


def judged(name: str, arguments: Iterable[np.ndarray], type: str = "f32", **options: object) -> Accuracy:
    """The accuracy of a function on arrays of `arguments`, each of a multiple of 8 values."""
    function, verdict, judge = compiled(name, type, **options), _Verdict(), _judge(type == "f64")
    with np.errstate(all="ignore"):
        for x in arguments:
            got = np.ascontiguousarray(function(x))
            assert got.dtype == x.dtype, f"{name} gives {got.dtype}, not {x.dtype}"
            known = judge(
                name.encode(), len(x), x.ctypes.data, got.ctypes.data, FORMATS[type][0], ctypes.byref(verdict)
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
    parser.add_argument("--type", choices=FORMATS, default="f32")
    parser.add_argument("--target", default="native")
    arguments = parser.parse_args()
    worst = 0.0
    for name in arguments.names:
        started = time.process_time()
        found = measure(name, arguments.one_in, arguments.type, target=arguments.target)
        worst = max(worst, found.ulp if not found.special else float("inf"))
        print(f"{found}  ({time.process_time() - started:.0f} s)", flush=True)
    return 0 if worst <= BOUND_ULP else 1


if __name__ == "__main__":
    sys.exit(main())
