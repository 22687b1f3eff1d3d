"""Integer and float ops of one lane or many have the results that the compiler promises; none traps."""

import numpy as np
import pytest
from native import build, call, llvm_ir, lower, needs_clang

from stepwell.dialects.stepwell import TargetAttr
from stepwell.targets import resolve_target

_MIN = {8: -(2**7), 16: -(2**15), 32: -(2**31), 64: -(2**63)}


def _kernel(name: str, op: str, source: str, target: str, operands: int, width: int) -> str:
    """`op` on a vector of `width` lanes (or a scalar), element by element."""

    def wrap(element: str) -> str:
        return element if width == 1 else f"vector<{width}x{element}>"

    arguments = ", ".join(f"%x{i}: memref<?x{source}>" for i in range(operands))
    reads, uses = [], []
    for i in range(operands):
        if width == 1:
            reads.append(f"%v{i} = memref.load %x{i}[%i] : memref<?x{source}>")
        else:
            reads.append(f"%v{i} = vector.load %x{i}[%i] : memref<?x{source}>, {wrap(source)}")
        uses.append(f"%v{i}")
    types = wrap(source) if source == target else f"{wrap(source)} to {wrap(target)}"
    if "cmp" in op:
        types = wrap(source)
    write = (
        f"memref.store %r, %o[%i] : memref<?x{target}>"
        if width == 1
        else f"vector.store %r, %o[%i] : memref<?x{target}>, {wrap(target)}"
    )
    return f"""
func.func private @{name}({arguments}, %o: memref<?x{target}>, %begin: index, %end: index) attributes {{stepwell.kernel}} {{
  %c1 = arith.constant 1 : index
  %w = arith.constant {width} : index
  scf.for %t = %begin to %end step %c1 {{
    %i = arith.muli %t, %w : index
    {chr(10).join(reads)}
    %r = {op} {", ".join(uses)} : {types}
    {write}
  }}
  func.return
}}"""


def _run(tmp_path, rows, width):
    """`rows`: (op, source type, target type, operand arrays, expected); all at once."""
    text = "".join(
        _kernel(f"k{n}", op, source, target, len(arrays), width)
        for n, (op, source, target, arrays, _) in enumerate(rows)
    )
    library = build(llvm_ir(lower(text)), tmp_path)
    for n, (op, _, _, arrays, want) in enumerate(rows):
        size = -(-len(want) // width) * width
        padded = [np.resize(a, size) for a in arrays]
        out = np.zeros(size, want.dtype)
        call(library, f"k{n}", [*padded, out], [size] * (len(arrays) + 1), tiles=size // width)
        np.testing.assert_array_equal(out[: len(want)], want, err_msg=op)


def _divisions(bits: int):
    dtype, unsigned = np.dtype(f"i{bits // 8}"), np.dtype(f"u{bits // 8}")
    low = _MIN[bits]
    values = [low, low + 1, -7, -1, 0, 1, 2, 7, -low - 1]
    a, b = (np.array(v, dtype) for v in zip(*[(x, y) for x in values for y in values], strict=True))

    def each(function, kind=dtype):
        return np.array([function(int(x), int(y)) for x, y in zip(a, b, strict=True)], object).astype(kind)

    def wrap(value: int) -> int:
        return (value - low) % 2**bits + low

    def truncated(x: int, y: int) -> int:
        return 0 if y == 0 else wrap(abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1))

    def word(value: int) -> int:
        return value % 2**bits

    type = f"i{bits}"
    rows = [
        ("arith.divsi", type, type, [a, b], each(truncated)),
        (
            "arith.remsi",
            type,
            type,
            [a, b],
            each(lambda x, y: 0 if y in (0, -1) else x - truncated(x, y) * y),
        ),
        ("arith.divui", type, type, [a, b], each(lambda x, y: 0 if y == 0 else wrap(word(x) // word(y)))),
        ("arith.remui", type, type, [a, b], each(lambda x, y: 0 if y == 0 else wrap(word(x) % word(y)))),
        ("arith.floordivsi", type, type, [a, b], each(lambda x, y: 0 if y == 0 else wrap(x // y))),
        ("arith.ceildivsi", type, type, [a, b], each(lambda x, y: 0 if y == 0 else wrap(-(-x // y)))),
        ("arith.shli", type, type, [a, b], each(lambda x, y: wrap(x << y) if 0 <= y < bits else 0)),
        ("arith.shrsi", type, type, [a, b], each(lambda x, y: x >> y if 0 <= y < bits else 0)),
        ("arith.shrui", type, type, [a, b], each(lambda x, y: wrap(word(x) >> y) if 0 <= y < bits else 0)),
        ("arith.maxsi", type, type, [a, b], np.maximum(a, b)),
        ("arith.minui", type, type, [a, b], np.minimum(a.view(unsigned), b.view(unsigned)).view(dtype)),
        ("arith.muli", type, type, [a, b], each(lambda x, y: wrap(x * y))),
        ("arith.cmpi ult,", type, "i1", [a, b], a.view(unsigned) < b.view(unsigned)),
    ]
    return rows


@needs_clang
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("bits", [8, 32, 64])
def test_integers_never_trap(tmp_path, bits, width):
    _run(tmp_path, _divisions(bits), width)


@needs_clang
@pytest.mark.parametrize("width", [1, 16])
def test_floats_to_integers_saturate_and_maxima_propagate_nan(tmp_path, width):
    x = np.array(
        [0, -0.9, 1.5, -1.5, 2.5, 127, 128, 300, -129, 255.9, 256, 3e9, -3e9, 5e9, np.inf, -np.inf, np.nan],
        "f",
    )
    y = np.roll(x, 1)

    def saturated(dtype):
        info = np.iinfo(dtype)
        whole = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0)
        return np.array([min(max(v, info.min), info.max) for v in whole], object).astype(dtype)

    with np.errstate(all="ignore"):
        rows = [
            *(("arith.fptosi", "f32", f"i{b}", [x], saturated(f"i{b // 8}")) for b in (8, 32)),
            *(("arith.fptoui", "f32", f"i{b}", [x], saturated(f"u{b // 8}")) for b in (8, 32)),
            ("arith.maximumf", "f32", "f32", [x, y], np.maximum(x, y)),
            ("arith.minimumf", "f32", "f32", [x, y], np.minimum(x, y)),
            ("arith.maxnumf", "f32", "f32", [x, y], np.fmax(x, y)),
            ("arith.cmpf ult,", "f32", "i1", [x, y], ~(x >= y)),
            ("arith.cmpf oeq,", "f32", "i1", [x, y], x == y),
            ("math.roundeven", "f32", "f32", [x], np.rint(x)),
            ("math.round", "f32", "f32", [x], np.copysign(np.floor(np.abs(x) + 0.5), x)),
            ("arith.truncf", "f32", "f16", [x], x.astype(np.float16)),
            ("arith.extf", "f32", "f64", [x], x.astype(np.float64)),
            ("arith.sitofp", "i32", "f32", [x.view(np.int32)], x.view(np.int32).astype("f")),
            ("arith.uitofp", "i32", "f32", [x.view(np.int32)], x.view(np.uint32).astype("f")),
            ("arith.bitcast", "f32", "i32", [x], x.view(np.int32)),
        ]
    _run(tmp_path, rows, width)


@needs_clang
def test_sixteen_bit_floats(tmp_path):
    """bf16 adds in f32 and rounds once; f16 to bf16 goes through f32."""
    text = """
func.func private @k(%x: memref<16xbf16>, %h: memref<16xf16>, %o: memref<16xbf16>, %q: memref<16xbf16>, %begin: index, %end: index) attributes {stepwell.kernel} {
  %c0 = arith.constant 0 : index
  %c = arith.constant dense<1.5> : vector<16xbf16>
  %v = vector.load %x[%c0] : memref<16xbf16>, vector<16xbf16>
  %s = arith.addf %v, %c : vector<16xbf16>
  vector.store %s, %o[%c0] : memref<16xbf16>, vector<16xbf16>
  %w = vector.load %h[%c0] : memref<16xf16>, vector<16xf16>
  %f = arith.extf %w : vector<16xf16> to vector<16xf32>
  %t = arith.truncf %f : vector<16xf32> to vector<16xbf16>
  vector.store %t, %q[%c0] : memref<16xbf16>, vector<16xbf16>
  func.return
}"""
    library = build(llvm_ir(lower(text)), tmp_path)

    def rounded(x: np.ndarray) -> np.ndarray:
        bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

    x = rounded(np.linspace(-3, 3, 16))
    h = np.linspace(-100, 100, 16).astype(np.float16)
    o, q = np.zeros(16, np.uint16), np.zeros(16, np.uint16)
    call(library, "k", [x, h, o, q])
    wide = (x.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(o, rounded(wide + np.float32(1.5)))
    assert np.array_equal(q, rounded(h))


@needs_clang
@pytest.mark.parametrize("bound", [0.0, -0.0, 1.5])
@pytest.mark.parametrize("fp", ["default", "strict"])
def test_maxima_with_a_constant_pass_nan_and_if_strict_order_the_zeros(tmp_path, bound, fp):
    target = TargetAttr.of(resolve_target("x86-64-v3", fp=fp))
    text = f"""
module attributes {{stepwell.target = {target}}} {{
func.func private @k(%x: memref<16xf32>, %o: memref<2x16xf32>, %begin: index, %end: index) attributes {{stepwell.kernel}} {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c = arith.constant dense<{bound}> : vector<16xf32>
  %v = vector.load %x[%c0] : memref<16xf32>, vector<16xf32>
  %a = arith.maximumf %c, %v : vector<16xf32>
  %b = arith.minimumf %v, %c : vector<16xf32>
  vector.store %a, %o[%c0, %c0] : memref<2x16xf32>, vector<16xf32>
  vector.store %b, %o[%c1, %c0] : memref<2x16xf32>, vector<16xf32>
  func.return
}}
}}"""
    x = np.array(
        [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1.5, 1e-45, -1e-45, 2, -2, 3, -3, 4, -4], np.float32
    )
    out = np.zeros((2, 16), np.float32)
    call(build(llvm_ir(lower(text)), tmp_path), "k", [x, out])
    for row, sign in zip(out, (1, -1), strict=True):
        for value, got in zip(x, row, strict=True):
            pair = sorted((value, np.float32(bound)), key=lambda v: (v, not np.signbit(v)))
            want = value if np.isnan(value) else pair[-1 if sign > 0 else 0]
            assert np.array_equal(got, want, equal_nan=True)
            either = fp == "default" and want == 0
            assert np.isnan(want) or either or np.signbit(got) == np.signbit(want), (value, got)


@needs_clang
@pytest.mark.parametrize("width", [1, 16])
def test_bf16_is_the_nearest_one_and_needs_no_library(tmp_path, width):
    """Ties to even, denormals kept, f64 rounded once; of a CPU with and of one without the instruction."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 4096, np.uint64).astype(np.uint32)
    ties = (np.arange(64, dtype=np.uint32) << 16) + np.uint32(0x8000)
    edges = np.array([0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 0x00000001, 0x80008001, 0x7F800000], np.uint32)
    x = np.concatenate([bits, ties, ties | np.uint32(0x3F800000), edges]).view(np.float32)
    near = x[np.isfinite(x)].astype(np.float64) * (1 + np.array([0, 2**-40, -(2**-40)])[:, None])
    y = near.ravel()
    x, y = x[~np.isnan(x)], np.append(y, [1e300, -1e300, 1e-300, np.inf])
    text = "".join(
        _kernel(name, "arith.truncf", source, "bf16", 1, width)
        for name, source in (("single", "f32"), ("double", "f64"))
    )
    ir = llvm_ir(lower(text))
    assert "fptrunc" not in ir.replace("fptrunc double", "").replace(f"fptrunc <{width} x double>", "")
    library = build(ir, tmp_path)
    for name, values in (("single", x), ("double", y)):
        padded = np.resize(values, -(-len(values) // width) * width)
        out = np.zeros(len(padded), np.uint16)
        call(library, name, [padded, out], [len(padded)] * 2, tiles=len(padded) // width)
        assert np.array_equal(out, _nearest_bf16(padded)), name


def _nearest_bf16(x: np.ndarray) -> np.ndarray:
    """The bits of the bf16 nearest to each value, by comparing the two around it."""
    size = np.abs(x.astype(np.float64))
    with np.errstate(over="ignore"):
        below = size.astype(np.float32)
    below = np.where(below.astype(np.float64) > size, np.nextafter(below, np.float32(0)), below)
    low = below.view(np.uint32) >> 16
    with np.errstate(invalid="ignore"):
        value = (low << 16).view(np.float32).astype(np.float64)
        step = np.where(low + 1 == 0x7F80, 2.0**128, ((low + 1) << 16).view(np.float32).astype(np.float64))
        up = (size - value > step - size) | ((size - value == step - size) & (low & 1 == 1))
    up &= np.isfinite(size)
    return ((low + up) | np.where(np.signbit(x), 0x8000, 0)).astype(np.uint16)
