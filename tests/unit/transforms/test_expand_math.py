"""Accuracy of the polynomials in units in the last place, against numpy's f64."""

import math

import numpy as np
import pytest
from native import KERNEL_PASSES, build, call, llvm_ir, lower, needs_clang

_SPECIALS = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, 1.1754944e-38, 3.4028235e38, -3.4028235e38,
     0.5, 2.0, 88.72283, 88.72284, 89.0, -87.4, -103.9, -104.1, -150.0, 128.0, 127.99999, 1e5, -1e5, 1e30, 1e-10],
    np.float32,
)  # fmt: skip


def _erf(x):
    return np.vectorize(math.erf)(x)


# name: reference, range of the random points, largest error in ulp
FUNCTIONS = {
    "exp": (np.exp, (-105, 90), 1.5),
    "exp2": (np.exp2, (-151, 129), 2.5),
    "expm1": (np.expm1, (-20, 90), 2),
    "log": (np.log, None, 1.5),
    "log2": (np.log2, None, 2),
    "log10": (np.log10, None, 2.5),
    "log1p": (np.log1p, None, 3),
    "tanh": (np.tanh, (-10, 10), 2),
    "erf": (_erf, (-5, 5), 1.5),
    "sin": (np.sin, (-200, 200), 1.5),
    "cos": (np.cos, (-200, 200), 1.5),
    "tan": (np.tan, (-200, 200), 3.5),
    "sqrt": (np.sqrt, None, 0.5),
    "rsqrt": (lambda x: 1 / np.sqrt(x), None, 1.5),
    "asin": (np.arcsin, (-1, 1), 1),
    "cosh": (np.cosh, (-80, 80), 2),
}

_KERNEL = """
func.func private @{name}(%x: memref<?x{type}>, %o: memref<?x{type}>, %begin: index, %end: index) attributes {{stepwell.kernel}} {{
  %c1 = arith.constant 1 : index
  %c64 = arith.constant {lanes} : index
  %pad = arith.constant 1.0 : {type}
  scf.for %t = %begin to %end step %c1 {{
    %i = arith.muli %t, %c64 : index
    %v = vector.transfer_read %x[%i], %pad {{in_bounds = [false]}} : memref<?x{type}>, vector<{lanes}x{type}>
    %w = math.{name} %v : vector<{lanes}x{type}>
    vector.transfer_write %w, %o[%i] {{in_bounds = [false]}} : vector<{lanes}x{type}>, memref<?x{type}>
  }}
  func.return
}}
func.func private @scalar_{name}(%x: memref<?x{type}>, %o: memref<?x{type}>, %begin: index, %end: index) attributes {{stepwell.kernel}} {{
  %c1 = arith.constant 1 : index
  scf.for %t = %begin to %end step %c1 {{
    %v = memref.load %x[%t] : memref<?x{type}>
    %w = math.{name} %v : {type}
    memref.store %w, %o[%t] : memref<?x{type}>
  }}
  func.return
}}
"""


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """|got - want| in units of the last place of the f32 nearest to `want` (an f64)."""
    with np.errstate(all="ignore"):
        nearest = want.astype(np.float32)
        same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
        step = np.spacing(np.maximum(np.abs(nearest), np.float32(1.2e-38))).astype(np.float64)
        step = np.where(np.isfinite(nearest), step, 1.0)
        return np.where(same, 0, np.abs(got.astype(np.float64) - want) / step)


def _points(limits, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, count // 2, np.uint64).astype(np.uint32).view(np.float32)
    if limits is None:
        inside = np.abs(bits[np.isfinite(bits)])
        inside = np.concatenate([inside, rng.uniform(0.5, 2, count // 4).astype(np.float32)])
    else:
        inside = rng.uniform(*limits, count // 2).astype(np.float32)
    return np.concatenate([_SPECIALS, bits, inside]).astype(np.float32)


def _run(library, name: str, x: np.ndarray, lanes: int) -> np.ndarray:
    out = np.empty_like(x)
    call(library, name, [x, out], [len(x), len(x)], tiles=-(-len(x) // lanes))
    return out


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    text = "".join(_KERNEL.format(name=name, type="f32", lanes=64) for name in FUNCTIONS)
    return build(llvm_ir(lower(text, KERNEL_PASSES)), tmp_path_factory.mktemp("math"))


@needs_clang
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_largest_error_is_what_is_claimed(library, name):
    reference, limits, bound = FUNCTIONS[name]
    x = _points(limits, 100_000 if name == "erf" else 1_000_000)
    if name in ("sin", "cos", "tan"):
        x = np.concatenate([x[:2000], x[-500_000:]])
    got = _run(library, name, x, 64)
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64))
    error = ulps(got, want)
    worst = np.argmax(error)
    assert error[worst] <= bound, f"{name}({x[worst]!r}) = {got[worst]!r}, not {want[worst]!r}"
    scalar = _run(library, f"scalar_{name}", x[:1000], 1)
    assert np.array_equal(scalar, got[:1000], equal_nan=True), "a scalar and a lane have the same bits"
    zeros = want == 0
    assert np.array_equal(np.signbit(got[zeros]), np.signbit(want[zeros])), "the sign of zero"


_BOUNDED = {
    "minimum": ("%u = arith.minimumf %v, %zero : vector<64xf32>", lambda x: np.minimum(x, np.float32(0))),
    "minimum_of_twenty": (
        "%u = arith.minimumf %twenty, %v : vector<64xf32>",
        lambda x: np.minimum(x, np.float32(20)),
    ),
    "minimum_of_fifty": (
        "%u = arith.minimumf %v, %fifty : vector<64xf32>",
        lambda x: np.minimum(x, np.float32(50)),
    ),
    "size": ("%a = math.absf %v : vector<64xf32>\n%u = arith.negf %a : vector<64xf32>", lambda x: -np.abs(x)),
    "square": (
        "%a = arith.mulf %v, %v : vector<64xf32>\n%u = arith.mulf %minus_half, %a : vector<64xf32>",
        lambda x: (x * x) * np.float32(-0.5),
    ),
}
"""What bounds an argument from above: ops on `%v`, and the same in numpy."""


@needs_clang
def test_what_is_known_of_an_argument_changes_no_bit(library, tmp_path):
    constants = {"zero": 0.0, "twenty": 20.0, "fifty": 50.0, "minus_half": -0.5}
    lines = [f"%{name} = arith.constant dense<{value}> : vector<64xf32>" for name, value in constants.items()]
    plain = _KERNEL.format(name="exp", type="f32", lanes=64).split("func.func private @scalar_exp")[0]
    text = ""
    for name, (ops, _) in _BOUNDED.items():
        kernel = plain.replace("@exp", f"@{name}").replace("math.exp %v", "math.exp %u")
        text += kernel.replace("%w = ", ops + "\n%w = ").replace(
            "  scf.for", "\n".join([*lines, "  scf.for"])
        )
    expanded = lower(text, KERNEL_PASSES)
    bounded = build(llvm_ir(expanded), tmp_path)
    x = _points((-110, 60), 400_000)
    for name, (_, argument) in _BOUNDED.items():
        with np.errstate(all="ignore"):
            want = _run(library, "exp", argument(x), 64)
        assert np.array_equal(_run(bounded, name, x, 64), want, equal_nan=True), name


_POW = """
func.func private @pow(%x: memref<?xf32>, %y: memref<?xf32>, %o: memref<?xf32>, %begin: index, %end: index) attributes {stepwell.kernel} {
  %c1 = arith.constant 1 : index
  %c16 = arith.constant 16 : index
  %pad = arith.constant 1.0 : f32
  scf.for %t = %begin to %end step %c1 {
    %i = arith.muli %t, %c16 : index
    %v = vector.transfer_read %x[%i], %pad {in_bounds = [false]} : memref<?xf32>, vector<16xf32>
    %u = vector.transfer_read %y[%i], %pad {in_bounds = [false]} : memref<?xf32>, vector<16xf32>
    %w = math.powf %v, %u : vector<16xf32>
    vector.transfer_write %w, %o[%i] {in_bounds = [false]} : vector<16xf32>, memref<?xf32>
  }
  func.return
}
func.func private @powers(%x: memref<16xf32>, %o: memref<5x16xf32>, %begin: index, %end: index) attributes {stepwell.kernel} {
  %c0 = arith.constant 0 : index
  %pad = arith.constant 1.0 : f32
  %v = vector.transfer_read %x[%c0], %pad {in_bounds = [true]} : memref<16xf32>, vector<16xf32>
  BODY
  func.return
}
"""
_EXPONENTS = (1.0, 2.0, 3.0, -1.0, 0.5)


@needs_clang
def test_powers_are_within_one_ulp_and_follow_c_in_every_special_case(tmp_path):
    body = "\n".join(
        f"""
  %e{k} = arith.constant dense<{exponent}> : vector<16xf32>
  %r{k} = math.powf %v, %e{k} : vector<16xf32>
  %i{k} = arith.constant {k} : index
  vector.transfer_write %r{k}, %o[%i{k}, %c0] {{in_bounds = [true]}} : vector<16xf32>, memref<5x16xf32>"""
        for k, exponent in enumerate(_EXPONENTS)
    )
    library = build(llvm_ir(lower(_POW.replace("BODY", body))), tmp_path)
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 20, 200_000).astype(np.float32)
    y = rng.uniform(-30, 30, 200_000).astype(np.float32)
    special = np.concatenate([_SPECIALS, np.array([3, -3, 2.5, -2.5, 16777217, 1e9], np.float32)])
    a, c = (grid.ravel() for grid in np.meshgrid(special, special))
    x, y = np.concatenate([a, x]), np.concatenate([c, y])
    out = np.empty_like(x)
    call(library, "pow", [x, y, out], [len(x)] * 3, tiles=-(-len(x) // 16))
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
        error = ulps(out, want)
    worst = np.argmax(error)
    assert error[worst] <= 1, f"{x[worst]!r} ** {y[worst]!r} = {out[worst]!r}, not {want[worst]!r}"
    assert np.array_equal(np.signbit(out[want == 0]), np.signbit(want[want == 0]))
    x = np.array(
        [-0.0, 0.0, -np.inf, np.inf, np.nan, 2, -3, 0.1, 1e-40, 7, 1e20, -1e20, 1, -1, 0.3, 5], np.float32
    )
    out = np.empty((5, 16), np.float32)
    call(library, "powers", [x, out])
    with np.errstate(all="ignore"):
        for row, exponent in zip(out, _EXPONENTS, strict=True):
            want = np.power(
                x.astype(np.float64), np.full(16, exponent)
            )  # an array: numpy squares by itself else
            assert ulps(row, want).max() <= 1, exponent


@needs_clang
@pytest.mark.parametrize(("type", "dtype"), [("f16", np.float16), ("f64", np.float64)])
def test_other_floats_go_through_f32_or_the_library(tmp_path, type, dtype):
    text = "".join(_KERNEL.format(name=name, type=type, lanes=8) for name in ("exp", "atan"))
    library = build(llvm_ir(lower(text)), tmp_path)
    x = np.linspace(-9, 9, 1001).astype(dtype)
    for name, reference in (("exp", np.exp), ("atan", np.arctan)):
        got = _run(library, name, x, 8)
        want = reference(x.astype(np.float64)).astype(dtype)
        assert np.allclose(got, want, rtol=1e-3 if dtype == np.float16 else 1e-15, atol=0)
        assert np.array_equal(_run(library, f"scalar_{name}", x, 1), got)


@needs_clang
@pytest.mark.parametrize("name", ["exp2", "expm1", "log10", "log1p", "log2", "rsqrt"])
def test_every_f32(library, name, request):
    """What is no operator of ONNX; the operators are tried in `tests/accuracy`."""
    if not request.config.getoption("--math"):
        pytest.skip("four minutes a function; with --math")
    reference, _, bound = FUNCTIONS[name]
    for high in range(256):
        x = (np.arange(1 << 24, dtype=np.uint32) + np.uint32(high << 24)).view(np.float32)
        got = _run(library, name, x, 64)
        with np.errstate(all="ignore"):
            error = ulps(got, reference(x.astype(np.float64)))
        worst = np.argmax(error)
        assert error[worst] <= bound, f"{name}({x[worst]!r}) = {got[worst]!r}: {error[worst]} ulp"
