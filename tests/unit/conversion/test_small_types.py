"""Casts of floats of 8 bits and less, for every value there is, against ml_dtypes."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import stepwell

ml_dtypes = pytest.importorskip("ml_dtypes")

FORMATS = {
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8_e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "float8_e5m2": TensorProto.FLOAT8E5M2,
    "float8_e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
    "float8_e8m0fnu": TensorProto.FLOAT8E8M0,
    "float4_e2m1fn": TensorProto.FLOAT4E2M1,
}


def model_of(nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "casts", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)


def info(name, kind, count):
    return helper.make_tensor_value_info(name, kind, [count])


def test_every_code_is_decoded():
    nodes, inputs, outputs, feeds = [], [], [], {}
    for name, kind in FORMATS.items():
        count = 16 if name.startswith("float4") else 256
        nodes.append(helper.make_node("Cast", [name], [f"{name}_f32"], to=TensorProto.FLOAT))
        inputs.append(info(name, kind, count))
        outputs.append(info(f"{name}_f32", TensorProto.FLOAT, count))
        feeds[name] = np.arange(count, dtype=np.uint8).view(getattr(ml_dtypes, name))
    results = stepwell.compile(model_of(nodes, inputs, outputs), cache=False).run(feeds)
    for name, codes in feeds.items():
        want = codes.astype(np.float32)
        np.testing.assert_array_equal(results[f"{name}_f32"], want, err_msg=name)
        zero = want == 0
        np.testing.assert_array_equal(np.signbit(results[f"{name}_f32"][zero]), np.signbit(want[zero]))


def test_every_half_is_rounded_to_nearest():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    names = [name for name in FORMATS if name not in ("float8_e8m0fnu", "float4_e2m1fn")]
    nodes = [helper.make_node("Cast", ["x"], [n], to=FORMATS[n], saturate=0) for n in names]
    outputs = [info(n, FORMATS[n], len(halves)) for n in names]
    model = model_of(nodes, [info("x", TensorProto.FLOAT16, len(halves))], outputs)
    results = stepwell.compile(model, cache=False).run({"x": halves})
    for name in names:
        want = halves.astype(getattr(ml_dtypes, name))
        got, wanted = results[name].astype(np.float32), want.astype(np.float32)
        np.testing.assert_array_equal(got, wanted, err_msg=name)


def test_arithmetic_on_them_is_refused_by_name():
    kind = TensorProto.FLOAT8E5M2
    model = model_of([helper.make_node("Add", ["x", "x"], ["y"])], [info("x", kind, 4)], [info("y", kind, 4)])
    with pytest.raises(stepwell.Error, match=r"f8E5M2|float8"):
        stepwell.compile(model, cache=False)


def test_integers_of_four_bits_wrap():
    x = np.array([-9.7, -8, -1.5, 0, 7.9, 8, 17], np.float32)
    model = model_of(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT4)],
        [info("x", TensorProto.FLOAT, len(x))],
        [info("y", TensorProto.INT4, len(x))],
    )
    got = stepwell.compile(model, cache=False).run({"x": x})["y"]
    assert got.astype(np.int8).tolist() == [7, -8, -1, 0, 7, -8, 1]


@pytest.mark.parametrize("operator", ["Identity", "Flatten"])
def test_complex_numbers_are_refused(operator):
    ends = [info(name, TensorProto.COMPLEX64, 3) for name in "xy"]
    model = model_of([helper.make_node(operator, ["x"], ["y"])], ends[:1], [])
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.COMPLEX64, None))
    with pytest.raises(stepwell.UnsupportedError, match="complex<f32>"):
        stepwell.compile(model, cache=False)
