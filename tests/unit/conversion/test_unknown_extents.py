"""Operators that need to know more than a rank, with no extent known: the same library on several shapes."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import stepwell


def model_of(nodes, inputs, outputs, opset=20):
    """A model of `inputs` and `outputs`, names to extents."""
    kinds = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in values.items()]
        for values in (inputs, outputs)
    ]
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(helper.make_graph(nodes, "g", *kinds), opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("inverse", [0, 1])
def test_whether_a_signal_is_complex_is_known_to_the_run(inverse):
    node = helper.make_node("DFT", ["x"], ["y"], inverse=inverse)
    model = stepwell.compile(model_of([node], {"x": ["b", "n", "parts"]}, {"y": [None] * 3}), cache=False)
    rng = np.random.default_rng(0)
    for n, parts in ((6, 1), (7, 2), (16, 2)):
        x = rng.normal(size=(3, n, parts)).astype(np.float32)
        signal = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
        want = (np.fft.ifft if inverse else np.fft.fft)(signal, axis=1)
        np.testing.assert_allclose(model(x), np.stack([want.real, want.imag], -1), rtol=1e-4, atol=1e-5)
    for parts in (0, 3):
        with pytest.raises(stepwell.RunError):
            model(np.zeros((3, 6, parts), np.float32))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scan_stacks_values_whose_extents_its_body_knows(axis):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "x"], ["next"]),
            helper.make_node("Mul", ["x", "w"], ["line"]),  # broadcast, and nobody knows which way
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in ("s", "x")],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * r)
            for n, r in (("next", 1), ("line", 2))
        ],
    )
    node = helper.make_node(
        "Scan", ["s0", "xs"], ["last", "lines"], body=body, num_scan_inputs=1, scan_output_axes=[axis]
    )
    inputs = {"s0": ["a"], "xs": ["t", "b"], "w": ["c", "d"]}
    proto = model_of([node], inputs, {"last": [None], "lines": [None] * 3})
    ours = stepwell.compile(proto, cache=False)
    theirs = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for steps, own, wide in ((5, 3, 3), (21, 4, 1), (2, 1, 6)):
        values = {
            "s0": np.zeros(own, np.float32),
            "xs": rng.normal(size=(steps, own)).astype(np.float32),
            "w": rng.normal(size=(2, wide)).astype(np.float32),
        }
        got = ours.run(values)
        for name, want in zip(("last", "lines"), theirs.run(None, values), strict=True):
            np.testing.assert_allclose(got[name], want, rtol=1e-6)


@pytest.mark.parametrize("activation", ["none", "silu"])
def test_a_causal_convolution_is_that_of_the_standard_s_body(activation):
    names = ["x", "w", "b", "past"]
    node = helper.make_node("CausalConvWithState", names, ["y", "state"], activation=activation)
    outputs = {"y": [None] * 3, "state": [None] * 3}
    unknown = {n: [f"{n}{i}" for i in range(r)] for n, r in zip(names, (3, 3, 1, 3), strict=True)}
    late = stepwell.compile(model_of([node], unknown, outputs, 27), cache=False)
    rng = np.random.default_rng(0)
    for batch, channels, length, taps in ((2, 3, 7, 4), (1, 2, 1, 3), (2, 1, 5, 1)):
        shapes = [(batch, channels, length), (channels, 1, taps), (channels,), (batch, channels, taps - 1)]
        values = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        static = model_of([node], dict(zip(names, shapes, strict=True)), outputs, 27)
        want = stepwell.compile(static, cache=False)(*values)
        for got, expected in zip(late(*values), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(stepwell.RunError):
        late(values[0], values[1], values[2], np.zeros((2, 1, 3), np.float32))


@pytest.mark.parametrize("equation", ["ii->i", "bii->bi", "ibi->", "iji->ji"])
def test_diagonals_keep_what_lies_beside_them_out(equation):
    side = equation.partition("->")[0]
    rank = len(equation.partition("->")[2])
    node = helper.make_node("Einsum", ["x"], ["y"], equation=equation)
    inputs = {"x": [f"x{i}" for i in range(len(side))]}
    model = stepwell.compile(model_of([node], inputs, {"y": [None] * rank}), cache=False)
    for extents in ({"i": 3, "b": 2, "j": 4}, {"i": 5, "b": 1, "j": 1}):
        x = np.full([extents[letter] for letter in side], np.inf, np.float32)
        places = np.indices(x.shape)
        first, last = side.index("i"), side.rindex("i")
        on = places[first] == places[last]
        x[on] = np.arange(on.sum())
        np.testing.assert_array_equal(model(x), np.einsum(equation, x))
    with pytest.raises(stepwell.RunError):
        model(np.zeros([2 + place for place in range(len(side))], np.float32))


_BYTES = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
_SCALES = np.array([0.25, 0.5, 1, 2, 4], np.float32)
_POINTS = np.array([100, 90, 80, 70, 60], np.uint8)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_scales_are_one_or_one_a_channel_as_the_run_has_it(op):
    x = _BYTES if op == "DequantizeLinear" else _BYTES.astype(np.float32) - 20
    proto = model_of([helper.make_node(op, ["x", "scale", "zero"], ["y"])], {}, {"y": [None] * 3}, 21)
    kinds = (TensorProto.FLOAT, TensorProto.UINT8)
    types = dict(zip(("x", "zero", "y"), kinds if op == "QuantizeLinear" else kinds[::-1], strict=False))
    types |= {"scale": TensorProto.FLOAT, "zero": TensorProto.UINT8}
    extents = {"x": ["a", "b", "c"], "scale": ["s"], "zero": ["z"]}
    proto.graph.input.extend(
        helper.make_tensor_value_info(n, types[n], extents[n]) for n in ("x", "scale", "zero")
    )
    proto.graph.output[0].type.tensor_type.elem_type = kinds[op == "QuantizeLinear"]
    ours = stepwell.compile(proto, cache=False)
    theirs = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        values = {"x": x, "scale": _SCALES[:count], "zero": _POINTS[:count]}
        np.testing.assert_array_equal(ours.run(values)["y"], theirs.run(None, values)[0])
    for scales, points in ((4, 4), (5, 2), (5, 4), (1, 5)):
        with pytest.raises(stepwell.RunError, match="must be 1"):
            ours.run({"x": x, "scale": _SCALES[:scales], "zero": _POINTS[:points]})


def test_zero_points_of_another_number_than_scales_are_refused():
    names = {"x": _BYTES, "scale": _SCALES, "zero": _POINTS[:4]}
    proto = model_of([helper.make_node("DequantizeLinear", list(names), ["y"])], {}, {"y": [None] * 3}, 21)
    proto.graph.input.extend(
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in names.items()
    )
    with pytest.raises(stepwell.ImportModelError, match="zero points: 4 of them for extent 5"):
        stepwell.compile(proto, cache=False)


def test_zero_points_of_weights_are_one_or_one_a_channel_as_the_run_has_it():
    node = helper.make_node("ConvInteger", ["x", "w", "", "zero"], ["y"])
    extents = {"x": ["n", "c", "h", "v"], "w": ["m", "k", 2, 2], "zero": ["z"]}
    proto = model_of([node], extents, {"y": [None] * 4}, 21)
    for value in proto.graph.input:
        value.type.tensor_type.elem_type = TensorProto.UINT8
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    model = stepwell.compile(proto, cache=False)
    x, w = np.ones((1, 3, 2, 2), np.uint8), np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2)
    for count in (1, 5):
        zero = _POINTS[:count]
        want = (w.astype(np.int32) - zero.astype(np.int32).reshape(-1, 1, 1, 1)).sum((1, 2, 3))
        np.testing.assert_array_equal(
            model.run({"x": x, "w": w, "zero": zero})["y"], want.reshape(1, 5, 1, 1)
        )
    with pytest.raises(stepwell.RunError, match="must be 1"):
        model.run({"x": x, "w": w, "zero": _POINTS[:4]})


@pytest.mark.parametrize("op", ["ReduceL2", "ReduceLogSum"])
def test_the_rank_that_a_function_s_result_has_says_how_many_axes_it_reduces(op):
    reduce = helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0)
    nodes = [reduce, helper.make_node("Sqrt" if op == "ReduceL2" else "Log", ["sum"], ["y"])]
    proto = model_of(nodes, {"x": ["a", "b", "c"], "axes": ["n"]}, {"y": [None] * 2})
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    model = stepwell.compile(proto, cache=False)
    x = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
    for axis in (0, 2):
        want = (np.sqrt if op == "ReduceL2" else np.log)(x.sum(axis))
        np.testing.assert_allclose(model.run({"x": x, "axes": np.array([axis])})["y"], want, rtol=1e-6)
    with pytest.raises(stepwell.RunError):
        model.run({"x": x, "axes": np.array([0, 1])})


_PRODUCTS = {
    "MatMulInteger": ["a", "b", "a_zero", "b_zero"],
    "QLinearMatMul": ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"],
}
"""The operands of each product, by what they are."""


@pytest.mark.parametrize("op", _PRODUCTS)
@pytest.mark.parametrize("side", ["a", "b"])
def test_zero_points_of_products_are_one_or_one_a_line_also_where_there_is_one_line(op, side):
    names = _PRODUCTS[op]
    extents = {"a": ["m", 4], "b": [4, "k"], f"{side}_zero": ["z"], f"{side}_scale": ["s"]}
    node = helper.make_node(op, names, ["y"])
    given = {name: extents.get(name, []) for name in names}
    proto = model_of([node], given, {"y": [None, None]}, 21)
    integers, scales = [n for n in names if "scale" not in n], [n for n in names if "scale" in n]
    for value in proto.graph.input:
        value.type.tensor_type.elem_type = TensorProto.UINT8 if value.name in integers else TensorProto.FLOAT
    kind = TensorProto.INT32 if op == "MatMulInteger" else TensorProto.UINT8
    proto.graph.output[0].type.tensor_type.elem_type = kind
    ours = stepwell.compile(proto, cache=False)

    def product(fed):
        """In numpy, since ONNX Runtime takes no zero point for each row of `a`."""
        zero, scale = (
            {k: fed.get(f"{k}_{what}", np.float32(1)).astype(np.float64) for k in "ab"}
            for what in ("zero", "scale")
        )
        zero["a"], scale["a"] = (v["a"].reshape(-1, 1) for v in (zero, scale))  # one a row
        total = (fed["a"] - zero["a"]) @ (fed["b"] - zero["b"])
        if not scales:
            return total
        real = total * (scale["a"] * scale["b"]) / fed["y_scale"]
        return np.clip(np.rint(real) + fed["y_zero"], 0, 255)

    def values(lines, count):
        m, k = (lines, 5) if side == "a" else (3, lines)
        found = {"a": _BYTES.ravel()[: m * 4].reshape(m, 4), "b": _BYTES.ravel()[: 4 * k].reshape(4, k)}
        found |= {n: np.array(7, np.uint8) for n in integers if n not in found}
        found |= {n: np.array(0.5, np.float32) for n in scales}
        found[f"{side}_zero"] = _POINTS[:count] // 10
        if scales:
            found[f"{side}_scale"] = _SCALES[:count]
        return found

    for lines in (1, 4):
        for count in {1, lines}:
            fed = values(lines, count)
            np.testing.assert_array_equal(ours.run(fed)["y"], product(fed))
        for count in (2, 3):
            with pytest.raises(stepwell.RunError, match="must be 1 or"):
                ours.run(values(lines, count))
