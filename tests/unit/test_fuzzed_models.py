"""Models that differential fuzzing found wrong, crashing or refused (`python -m tests.fuzz`), reduced, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import stepwell
from stepwell.comparison import compare

onnxruntime = pytest.importorskip("onnxruntime")

F, I, U8, B = np.float32, np.int64, np.uint8, np.bool_

MODELS: dict[str, tuple[str, dict[str, tuple[Any, list[int]]]]] = {
    # Its channel, not its space, has the extent of the window once channels come last.
    "a window of one in a row of unknown length is no global pool": (
        "(float[8,1,n] x) => (float[?,?,?] y) { y = AveragePool <kernel_shape=[1], strides=[2]> (x) }",
        {"x": (F, [8, 1, 19])},
    ),
    # Both were refused.
    "depth goes to space of unknown extents": (
        "(float[a,8,b,c] x) => (float[?,?,?,?] y, float[?,?,?,?] z, float[?,?,?,?] w)"
        "{ y = DepthToSpace <blocksize=2> (x) z = DepthToSpace <blocksize=2, mode=\"CRD\"> (x)"
        "  w = SpaceToDepth <blocksize=2> (x) }",
        {"x": (F, [2, 8, 4, 6])},
    ),
    # Merged with the sum, the copies of the scalar left nothing that told how many there are.
    "a scalar is expanded, negated and summed": (
        "(float x) => (float[?,?] y) <int64[3] s = {2,3,4}, int64[1] a = {1}>"
        "{ e = Expand (x, s) n = Neg (e) y = ReduceSum <keepdims=0> (n, a) }",
        {"x": (F, [])},
    ),
    # A slice whose last extent was the value of its first one was taken for contiguous.
    "a square of unknown extent is joined with columns": (
        "(float[n,n] x, float[n,4] y) => (float[?,?] z) { z = Concat <axis=1> (x, y) }",
        {"x": (F, [5, 5]), "y": (F, [5, 4])},
    ),
    # Its type took the window for one inside the row.
    "a window of a pool in ceil mode begins in a row of unknown length and ends behind it": (
        "(float[1,2,n] x) => (float[?,?,?] y, float[?,?,?] z)"
        "{ y = MaxPool <kernel_shape=[3], strides=[2], ceil_mode=1> (x)"
        "  z = AveragePool <kernel_shape=[3], strides=[2], ceil_mode=1> (x) }",
        {"x": (F, [1, 2, 2])},
    ),
    # Its result had the one extent in its type and the other in memory.
    "an extent that turns out to be 1 broadcasts to the slope of a PRelu": (
        "(float[n] x, float[m,k] z, float[j] s) => (float[?] y, float[?,?] w) <float[3] t = {0.5,-2,3}>"
        "{ y = PRelu (x, t) w = PRelu (z, s) }",
        {"x": (F, [1]), "z": (F, [2, 1]), "s": (F, [3])},
    ),
    # LLVM wrote the last element of a row, truncated, as wide as it had been: over the first one of the next row.
    "a row that is truncated and transposed ends in one element": (
        "(int64[49,16] x) => (int32[16,49] y) { c = Cast <to=6> (x) y = Transpose <perm=[1,0]> (c) }",
        {"x": (I, [49, 16])},
    ),
    # Each of the two was a version of the joined buffer without the other, and one of the two was lost.
    "a kernel makes two parts of one concatenation": (
        "(float[9,2,4,1] x) => (float[?,?,?,?] y, float[?,?,?,?] z) <float l = {0.1}, float h = {0.5}>"
        "{ s = Sigmoid (x) r = Relu (s) y = MaxPool <kernel_shape=[3,1]> (r)"
        "  c = Clip (r, l, h) z = Concat <axis=1> (r, c) }",
        {"x": (F, [9, 2, 4, 1])},
    ),
    # Its result had one element, read from beyond the end.
    "a slice backwards of an axis that turns out to be empty": (
        "(float[n] x, float[2,n] z) => (float[?] y, float[?,?] w)"
        "<int64[1] s = {-1}, int64[1] e = {-9000000000}, int64[1] a = {0}, int64[1] p = {-1},"
        " int64[1] t = {3}, int64[1] f = {-6}, int64[1] b = {1}, int64[1] q = {-2}>"
        "{ y = Slice (x, s, e, a, p) w = Slice (z, t, f, b, q) }",
        {"x": (F, [0]), "z": (F, [2, 0])},
    ),
}  # fmt: skip
"""What it shows: the graph in ONNX's own notation, and the type and shape of every input."""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("opt_level", [3, 0])
def test_gives_what_onnx_runtime_gives(name: str, opt_level: int) -> None:
    text, inputs = MODELS[name]
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> fuzzed {text}')
    rng = np.random.default_rng(0)
    feeds = {name: _random(rng, dtype, shape) for name, (dtype, shape) in inputs.items()}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(None, feeds)
    got = stepwell.compile(model, opt_level=opt_level).run(feeds)
    found = compare([got[value.name] for value in model.graph.output], want)
    assert found.agrees, str(found)


def _random(rng: np.random.Generator, dtype: Any, shape: list[int]) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.asarray(rng.integers(0, 2 if dtype is B else 5, shape)).astype(dtype)


def test_loops_of_scalars_give_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    # LLVM's vectors fused other products into sums than the elements behind the last vector did.
    text = "(float[40,3,5,4] x, float[1,3,2,2] w) => (float[40,1,4,4] y) { y = Conv <pads=[0,1,0,0]> (x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> fuzzed {text}')
    rng = np.random.default_rng(0)
    feeds = {"x": _random(rng, F, [40, 3, 5, 4]), "w": _random(rng, F, [1, 3, 2, 2])}
    stepwell.compile(model, opt_level=0).save(str(tmp_path / "model.so"))
    one, two = (stepwell.load(str(tmp_path / "model.so"), threads=threads) for threads in (1, 2))
    assert one.run(feeds)["y"].tobytes() == two.run(feeds)["y"].tobytes()
