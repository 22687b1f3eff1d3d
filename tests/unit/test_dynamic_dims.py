"""Symbolic extents from the model's file to the run: one library for all of them, or fixed by their own names."""

import numpy as np
import onnx.parser
import pytest

import stepwell
from stepwell.errors import Error, RunError

onnxruntime = pytest.importorskip("onnxruntime")

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[B, R, 5] x, float[B, R] scale) => (float[n, m, 7] y, float[n, k] z)
<float[5,7] w = {0.5, 1, -1, 2, 0.25, 3, -2, 1, 1, 0, 2, -0.5, 0.125, 4, -3, 1, 2, 0.5, 1, -1, 0, 2, -4, 1, 0.5, 1,
                 2, 3, 1, 1, -1, -2, 0, 8, 1}>
{ axis = Constant <value_ints = [2]> ()
  wide = Unsqueeze(scale, axis)
  h = MatMul(x, w)
  t = Mul(h, wide)
  y = Softmax <axis = 1> (t)
  one = Constant <value_ints = [1]> ()
  z = ReduceSum <keepdims = 0> (t, one) }
"""


def the_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    for value in model.graph.input:
        batch, rows = value.type.tensor_type.shape.dim[:2]
        batch.dim_param, rows.dim_param = "batch size", "Dim.0"
    return model


def feeds(batch: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch * 100 + rows)
    x = rng.integers(-3, 4, (batch, rows, 5)).astype(np.float32) / 4
    return {"x": x, "scale": rng.integers(-2, 3, (batch, rows)).astype(np.float32)}


@pytest.mark.parametrize("opt_level", [0, 3])
def test_one_library_for_all_extents(opt_level, tmp_path):
    model = the_model()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    stepwell.compile(model, opt_level=opt_level).save(tmp_path / "net.so")
    loaded = [stepwell.load(tmp_path / "net.so", threads=threads) for threads in (1, 2)]
    for batch, rows in [(1, 1), (2, 7), (0, 3), (7, 64), (2, 1), (64, 2), (1, 257), (2, 0)]:
        given = feeds(batch, rows)
        want = session.run(None, given)
        got, again = (list(copy.run(given).values()) for copy in loaded)
        for a, b, c in zip(got, again, want, strict=True):
            assert a.shape == c.shape and a.tobytes() == b.tobytes()
            np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)


def test_extents_are_fixed_by_the_models_own_names():
    model = the_model()
    given = feeds(4, 3)
    want = stepwell.compile(model).run(given)
    for dims in ({"batch size": 4, "Dim.0": 3}, {"batch_size": 4}):
        fixed = stepwell.compile(model, dims=dims)
        assert fixed.inputs[0].shape == (4, 3 if "Dim.0" in dims else "Dim.0", 5)
        for name, value in fixed.run(given).items():
            np.testing.assert_allclose(value, want[name], rtol=1e-6, atol=1e-6)
    with pytest.raises(
        Error, match=r"no argument has the extent rows; the named extents: Dim\.0, batch size"
    ):
        stepwell.compile(model, dims={"rows": 4})
    with pytest.raises(RunError, match="axis 0 has the extent 2, expected 4"):
        fixed.run(feeds(2, 3))


@pytest.mark.parametrize("axis", [0, 1])
def test_extents_of_one_name_must_agree(axis):
    model = stepwell.compile(the_model(), opt_level=0)
    given = feeds(2, 3)
    given["scale"] = np.ones([(3, 3), (2, 4)][axis], np.float32)
    with pytest.raises(RunError, match=f"'{['batch_size', 'Dim.0'][axis]}' is {[2, 3][axis]} elsewhere"):
        model.run(given)


PREMISES = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, A] x, float[N, B] y) => (float[n, m] z)
{ z = OP (x, y) }
"""


@pytest.mark.parametrize("opt_level", [0, 3])
@pytest.mark.parametrize(
    "operator", ["Add", "Concat <axis = 0>", "MatMul", "Squeeze", "Conv <kernel_shape = [3]>"]
)
def test_extents_that_do_not_fit_are_an_error(operator, opt_level):
    """Every pair of extents that onnxruntime takes, with its shape; every other is refused, never read past."""
    text = PREMISES.replace("OP", operator)
    ok = {
        "Add": lambda a, b: a == b or 1 in (a, b),
        "Concat <axis = 0>": lambda a, b: a == b,
    }
    if operator == "MatMul":
        text = text.replace("OP (x, y)", "").replace(
            "z = MatMul (x, y)", "t = Transpose (y)  z = MatMul (x, t)"
        )
        ok["MatMul"] = lambda a, b: a == b
    elif operator == "Squeeze":
        text = text.replace("z = Squeeze (x, y)", "axis = Constant <value_ints = [1]> ()  t = Squeeze (x, axis)"
                            "  u = Unsqueeze (t, axis)  z = Add (u, y)")  # fmt: skip
        ok["Squeeze"] = lambda a, b: a == 1
    elif operator.startswith("Conv"):
        text = text.replace("z = Conv <kernel_shape = [3]> (x, y)",
            "one = Constant <value_ints = [1]> ()  t = Unsqueeze (x, one)"
            "  k = Constant <value = float[1,1,3] {1, 2, 4}> ()  u = Conv (t, k)  v = Squeeze (u, one)"
            "  s = ReduceSum <keepdims = 1> (y, one)  z = Add (v, s)")  # fmt: skip
        ok[operator] = lambda a, b: a >= 3
    model = onnx.parser.parse_model(text)
    compiled = stepwell.compile(model, opt_level=opt_level)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for a, b in [(3, 3), (3, 4), (1, 4), (5, 1), (0, 1), (0, 3), (2, 2), (70, 70), (70, 71)]:
        given = {
            "x": np.arange(2.0 * a, dtype=np.float32).reshape(2, a),
            "y": np.ones((2, b), np.float32),
        }
        if not ok[operator](a, b):
            with pytest.raises(RunError, match=r"must (be (equal|at least)|broadcast)|negative"):
                compiled.run(given)
            continue
        np.testing.assert_array_equal(compiled.run(given)["z"], session.run(None, given)[0])
