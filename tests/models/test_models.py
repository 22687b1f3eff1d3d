"""
Whole models agree with ONNX Runtime: DESIGN's tolerance, the same decoded answer, the same bits for any
number of threads. Slow, so only with `--models` (or `--models NAME,...`).
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

import stepwell
from tests.models import zoo

onnxruntime = pytest.importorskip("onnxruntime")

CASES = {
    "magika": [{}, {"unk__214": 3}],
    "ocr_detector": [
        {"DynamicDimension.0": 1, "DynamicDimension.1": 160, "DynamicDimension.2": 224},
        {"DynamicDimension.0": 1, "DynamicDimension.1": 96, "DynamicDimension.2": 320},
    ],
    "ocr_recogniser": [
        {"DynamicDimension.0": 1, "DynamicDimension.1": 320},
        {"DynamicDimension.0": 2, "DynamicDimension.1": 48},
    ],
    "ocr_classifier": [{"": 48}],
    "nudenet": [
        {"batch": 1, "height": 320, "width": 320},
        {"batch": 2, "height": 160, "width": 192},
    ],
    "basic_pitch": [{}, {"unk__1075": 2}],
}
"""Extents of the symbolic dims, one dict an input."""


def source(name: str):
    """The model as `stepwell.compile` takes it; skips where its package is missing."""
    if name in zoo.LIGHT:
        return zoo.light(name)
    path = zoo.packaged(name)
    if path is None:
        pytest.skip(f"the package {zoo.PACKAGED[name][0]} is not installed")
    return path


def feeds_of(name: str, model) -> list[dict]:
    proto = onnx.load(model) if isinstance(model, Path) else model
    if name == "ocr_classifier":
        rng = np.random.default_rng(0)
        return [{"x": rng.standard_normal((n, 3, 48, 192)).astype(np.float32)} for n in (1, 2)]
    cases = CASES.get(name, [{}, {}])
    return [zoo.random_feeds(proto, seed, dims) for seed, dims in enumerate(cases)]


def tolerance_ratio(got: np.ndarray, want: np.ndarray) -> float:
    """The largest |got - want| as a multiple of 1e-3 |want| + 1e-5 max|want|."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not want.size:
        return 0.0
    assert np.isfinite(got).all() == np.isfinite(want).all()
    allowed = 1e-3 * np.abs(want) + 1e-5 * np.abs(want).max() + 1e-30
    return float((np.abs(got - want) / allowed).max())


@pytest.mark.models
@pytest.mark.parametrize("opt_level", [3, 0])
@pytest.mark.parametrize("name", [*zoo.LIGHT, *zoo.PACKAGED])
def test_model_agrees_with_onnxruntime(name, opt_level, tmp_path):
    model = source(name)
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    compiled = stepwell.compile(model, opt_level=opt_level)
    compiled.save(tmp_path / "model.so")
    loaded = [compiled, stepwell.load(tmp_path / "model.so", threads=2)]
    names = [o.name for o in session.get_outputs()]
    for feeds in feeds_of(name, model):
        expected = session.run(None, feeds)
        results = [copy.run(feeds) for copy in loaded]
        for output, want in zip(names, expected, strict=True):
            got = results[0][output]
            assert got.shape == want.shape and got.dtype == want.dtype
            assert got.tobytes() == results[1][output].tobytes(), "one and two threads differ"
            if want.dtype.kind == "f":
                assert tolerance_ratio(got, want) <= 1.0
                if want.ndim and want.shape[-1] > 1:
                    np.testing.assert_array_equal(got.argmax(-1), want.argmax(-1))
            else:
                np.testing.assert_array_equal(got, want)
