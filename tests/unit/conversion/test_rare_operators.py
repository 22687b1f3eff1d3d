"""Operators that few models use, compiled: unique, det, dft, stft, max_roi_pool and others, against numpy and ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import stepwell

_RANDOM = np.random.default_rng(11)
I64 = np.int64


def model_of(
    op: str, inputs: list[Any], constants: tuple[int, ...] = (), outputs: int = 1, opset: int = 22, symbolic: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one node; inputs at the positions in `constants` are initializers, None is absent."""
    names = [f"i{k}" if x is not None else "" for k, x in enumerate(inputs)]
    declared, initializers = [], []
    for k, x in enumerate(inputs):
        if x is None:
            continue
        if k in constants:
            initializers.append(numpy_helper.from_array(x, names[k]))
            continue
        shape = [f"n{k}_{a}" for a in range(x.ndim)] if symbolic else x.shape
        if op == "DFT" and x.ndim:  # whether numbers are complex is always known
            shape = [*shape[:-1], x.shape[-1]]
        declared.append(
            helper.make_tensor_value_info(names[k], helper.np_dtype_to_tensor_dtype(x.dtype), shape)
        )
    results = [helper.make_tensor_value_info(f"o{k}", TensorProto.UNDEFINED, None) for k in range(outputs)]
    for result in results:
        result.ClearField("type")
    node = helper.make_node(op, names, [f"o{k}" for k in range(outputs)], **attributes)
    graph = helper.make_graph([node], "g", declared, results, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(op: str, inputs: list[Any], constants: tuple[int, ...] = (), **options: Any) -> Any:
    given = [x for k, x in enumerate(inputs) if x is not None and k not in constants]
    return stepwell.compile(model_of(op, inputs, constants, **options))(*given)


def peer(op: str, inputs: list[Any], **options: Any) -> list[Any]:
    """What ONNX Runtime makes of the same model."""
    session = onnxruntime.InferenceSession(
        model_of(op, inputs, **options).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = [x for x in inputs if x is not None]
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), given, strict=True)})


UNIQUE_INPUTS = [
    _RANDOM.integers(0, 40, 500), np.full(33, 7), _RANDOM.permutation(64), np.array([3.5]), np.zeros(0),
    np.array([-0.0, 0.0, 2, -1, 2]),
]  # fmt: skip


def unique(x: np.ndarray, ordered: int) -> list[np.ndarray]:
    """numpy's, which always sorts."""
    want = list(np.unique(x, True, True, True))
    if not ordered:
        place = np.argsort(want[1])
        want = [want[0][place], want[1][place], np.argsort(place)[want[2]], want[3][place]]
    return [np.asarray(w).reshape(-1) for w in want]


@pytest.mark.parametrize("ordered", [0, 1])
def test_unique_is_that_of_numpy(ordered: int):
    example = np.zeros(1, np.float32)
    model = stepwell.compile(model_of("Unique", [example], outputs=4, symbolic=True, sorted=ordered))
    for x in UNIQUE_INPUTS:
        x = x.astype(np.float32)
        for g, w in zip(model(x), unique(x, ordered), strict=True):
            np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float64, np.float16])
def test_unique_of_a_matrix(dtype: Any):
    x = (_RANDOM.integers(0, 4, (7, 5)) * 60).astype(dtype)
    for g, w in zip(run("Unique", [x], outputs=4), unique(x, 1), strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize(("axis", "ordered"), [(0, 1), (1, 0), (-1, 0), (-1, 1)])
def test_unique_slices_are_those_of_onnxruntime(axis: int, ordered: int):
    x = _RANDOM.integers(0, 2, (6, 2, 7)).astype(np.float32)
    options: dict[str, Any] = {"outputs": 4, "axis": axis, "sorted": ordered}
    for g, w in zip(run("Unique", [x], **options), peer("Unique", [x], **options), strict=True):
        np.testing.assert_array_equal(g, w)


def test_unique_takes_nan_as_one_value():
    x = np.array([np.nan, 1, np.nan, -np.inf, 1, np.inf], np.float32)
    y, first, inverse, counts = run("Unique", [x], outputs=4)
    np.testing.assert_array_equal(y, [-np.inf, 1, np.inf, np.nan])
    assert first.tolist() == [3, 1, 5, 0] and counts.tolist() == [1, 2, 1, 2]
    assert inverse.tolist() == [3, 1, 3, 0, 1, 2]


@pytest.mark.parametrize("shape", [(1, 1), (2, 3, 17, 17), (2, 0, 0)])
def test_determinants(shape: tuple[int, ...]):
    x = _RANDOM.normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(run("Det", [x]), np.linalg.det(x.astype(np.float64)), rtol=1e-5, atol=1e-7)


def test_determinants_that_need_pivots():
    x = np.array([[[0, 2, 1], [1, 0, 3], [4, 5, 0]], [[1, 2, 3], [2, 4, 6], [1, 0, 1]]], np.float32)
    np.testing.assert_allclose(run("Det", [x]), [29, 0], rtol=1e-6)


def spectrum(x: np.ndarray, length: int | None, axis: int, inverse: int, onesided: int) -> np.ndarray:
    wide = x.astype(np.float64)
    values = wide[..., 0] if x.shape[-1] == 1 else wide[..., 0] + 1j * wide[..., 1]
    if inverse and onesided:
        return np.fft.irfft(values, length, axis=axis)[..., None]
    full = getattr(np.fft, "ifft" if inverse else "rfft" if onesided else "fft")(values, length, axis=axis)
    return np.stack([full.real, full.imag], -1)


def test_fourier_transforms_of_any_length():
    example = np.zeros((2, 1, 3, 2))
    model = stepwell.compile(model_of("DFT", [example, None, np.array(1, I64)], opset=20, symbolic=True))
    for length in (1, 2, 3, 8, 12, 97, 128, 251, 1000, 1024, 1009, 2 * 509):
        x = _RANDOM.normal(size=(2, length, 3, 2))
        want = spectrum(x, None, 1, 0, 0)
        tolerance = 1e-14 * length**0.5 * max(np.log2(length), 1) * 4
        np.testing.assert_allclose(model(x, np.array(1, I64)), want, atol=tolerance, rtol=0)


@pytest.mark.parametrize("length", [509, 1009, 1024])
def test_fourier_transforms_of_a_known_length(length: int):
    x = _RANDOM.normal(size=(3, length, 2))
    got = run("DFT", [x, None, np.array(1, I64)], (2,), opset=20)
    np.testing.assert_allclose(got, spectrum(x, None, 1, 0, 0), atol=1e-11, rtol=0)


@pytest.mark.parametrize(("inverse", "onesided"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_fourier_transforms_along_an_axis_of_the_run(inverse: int, onesided: int):
    parts = 1 if onesided and not inverse else 2
    x = _RANDOM.normal(size=(5, 8, 7, parts)).astype(np.float32)
    operands = [np.array(4, I64), np.array(0, I64)]
    options: dict[str, Any] = {"opset": 20, "inverse": inverse, "onesided": onesided}
    plain = stepwell.compile(model_of("DFT", [x, None, operands[1]], **options))
    cut = stepwell.compile(model_of("DFT", [x, *operands], **options))
    for axis in (0, 1, 2, -2, -4):
        for length in (None, 4, 9, 16):
            at = np.array(axis, I64)
            got = plain(x, at) if length is None else cut(x, np.array(length, I64), at)
            want = spectrum(x, length, axis % 4, inverse, onesided)
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_axis_of_the_run_that_is_none_ends_it():
    x = np.zeros((3, 4, 2), np.float32)
    model = stepwell.compile(model_of("DFT", [x, None, np.array(1, I64)], opset=20))
    for axis in (2, 5, -1):
        with pytest.raises(stepwell.Error, match="axis"):
            model(x, np.array(axis, I64))


@pytest.mark.parametrize(("length", "onesided", "windowed"), [(16, 1, True), (20, 0, False), (20, 1, True)])
def test_short_time_transforms_with_operands_of_the_run(length: int, onesided: int, windowed: bool):
    signal = _RANDOM.normal(size=(2, 100, 1)).astype(np.float32)
    window = np.hanning(length).astype(np.float32) if windowed else None
    operands = [signal, np.array(7, I64), window, np.array(length, I64)]
    got = run("STFT", operands, onesided=onesided)
    frames = np.stack([signal[:, i : i + length, 0] for i in range(0, 100 - length + 1, 7)], 1).astype(
        np.float64
    )
    frames = frames * window if window is not None else frames
    full = (np.fft.rfft if onesided else np.fft.fft)(frames)
    np.testing.assert_allclose(got, np.stack([full.real, full.imag], -1), rtol=1e-5, atol=1e-5)


def test_regions_are_pooled_as_onnxruntime_does():
    x = _RANDOM.normal(size=(2, 3, 12, 15)).astype(np.float32)
    rois = np.array([[0, 0, 0, 14, 11], [1, 3, 2, 9, 10], [0, 5, 5, 5, 5], [1, 7, 1, 20, 30]], np.float32)
    for scale, pooled in ((1.0, [3, 4]), (0.5, [2, 2]), (1.0, [6, 7])):
        options: dict[str, Any] = {"pooled_shape": pooled, "spatial_scale": scale}
        np.testing.assert_array_equal(
            run("MaxRoiPool", [x, rois], **options), peer("MaxRoiPool", [x, rois], opset=21, **options)[0]
        )


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_mel_weights_are_those_of_the_reference(dtype: int):
    from onnx.reference import ReferenceEvaluator

    operands = [np.array(v, I64) for v in (20, 512, 16000)]
    operands += [np.array(v, np.float32) for v in (20.0, 7600.0)]
    options: dict[str, Any] = {"output_datatype": dtype, "opset": 17}
    model = model_of("MelWeightMatrix", operands, **options)
    (want,) = ReferenceEvaluator(model).run(None, {f"i{k}": v for k, v in enumerate(operands)})
    got = stepwell.compile(model)(*operands)
    assert got.shape == (257, 20)
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("transformation", ["half_pixel", "output_half_pixel"])
def test_regions_choose_their_number_of_samples(mode: str, transformation: str):
    x = _RANDOM.normal(size=(2, 3, 12, 15)).astype(np.float32)
    rois = np.array([[0, 0, 14, 11], [3, 2, 9.5, 10], [5, 5, 5.25, 5.5], [7, 1, 20, 30]], np.float32)
    operands = [x, rois, np.array([0, 1, 1, 0], I64)]
    options: dict[str, Any] = {
        "output_height": 3, "output_width": 2, "sampling_ratio": 0, "spatial_scale": 0.75, "mode": mode,
        "coordinate_transformation_mode": transformation, "opset": 16,
    }  # fmt: skip
    (want,) = peer("RoiAlign", operands, **options)
    np.testing.assert_allclose(run("RoiAlign", operands, **options), want, rtol=1e-4, atol=1e-5)


def test_statistics_of_a_layer_norm_have_their_own_type():
    x = _RANDOM.normal(size=(3, 8))
    operands = [x, np.ones(8), np.zeros(8)]
    got = run("LayerNormalization", operands, outputs=3, opset=17)
    assert [v.dtype for v in got] == [np.float64, np.float32, np.float32]
    for g, w in zip(got, peer("LayerNormalization", operands, outputs=3, opset=17), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_shrink_of_integers(dtype: Any):
    x = np.array([0, 1, 2, 3, 100], dtype)
    options: dict[str, Any] = {"lambd": 1.5, "bias": 1.5, "opset": 9}
    np.testing.assert_array_equal(run("Shrink", [x], **options), peer("Shrink", [x], **options)[0])


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_a_normalisation_by_the_root_of_squares_has_the_type_of_its_scale(kind):
    """Checkpoints in half precision keep their scales in single precision."""
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(3, 8)).astype(kind), rng.normal(size=8).astype(np.float32)
    types = {np.float16: "float16", np.float64: "double"}
    text = f'<ir_version: 10, opset_import: ["": 23]> g ({types[kind]}[3,8] x, float[8] s) => (float[3,8] y) {{ y = RMSNormalization (x, s) }}'
    (got,) = stepwell.compile(onnx.parser.parse_model(text), cache=False).run({"x": x, "s": scale}).values()
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + 1e-5) * scale
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=2e-3 if kind == np.float16 else 1e-6)


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("width", [1, 5, 64, 130, 3000])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "ReduceLogSumExp"])
def test_a_nan_reaches_its_whole_row_and_no_other(op, width, symbolic):
    x = _RANDOM.standard_normal((6, width)).astype(np.float32) * 3
    x[0, 0] = x[1, -1] = x[2, width // 2] = np.nan
    x[3] -= 300  # no power of the numbers themselves is left
    x[4, width // 3] = np.inf
    x[5] = -np.inf
    attributes = {"axes": [1], "keepdims": 0} if op == "ReduceLogSumExp" else {"axis": 1}
    (got,) = (np.asarray(v) for v in [run(op, [x], opset=17, symbolic=symbolic, **attributes)])
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        top = wide.max(axis=1, keepdims=True)
        powers = np.exp(wide - top)
        total = powers.sum(axis=1, keepdims=True)
        want = {
            "Softmax": powers / total,
            "LogSoftmax": (wide - top) - np.log(total),
            "ReduceLogSumExp": np.where(np.isinf(top), top, np.log(total) + top)[:, 0],
        }[op]
    # A logarithm near 0 is a difference of terms that are not.
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-37 if op == "Softmax" else 2e-6)
