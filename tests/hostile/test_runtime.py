"""Misuse of a compiled model is a RunError with the names, and what is computed has no undefined cases."""

import ctypes

import numpy as np
import pytest
from hostile import corpus
from hostile.test_onnx import CASES, NAMES, as_bytes, ints, n, with_names
from onnx import TensorProto as T

import stepwell
from stepwell.errors import RunError
from stepwell.runtime.library import VALUE_WORDS

F = T.FLOAT


def compiled(proto):
    return stepwell.compile(as_bytes(proto), cache=False)


@pytest.fixture(scope="module")
def matmul():
    return compiled(corpus.onnx_models()["matmul"])


class Liar:
    """Says that it is DLPack and is not."""

    def __dlpack__(self, *_, **__):
        raise BufferError("no")

    def __dlpack_device__(self):
        return (1, 0)


X = np.ones((2, 6, 16), np.float32)
WRONG = {
    "nothing": None,
    "a number": 3.0,
    "a list": [[1.0]],
    "text": "x",
    "float64": X.astype(np.float64),
    "big endian": X.astype(">f4"),
    "integers": X.astype(np.int32),
    "objects": np.full((2, 6, 16), None),
    "rank": X[0],
    "extent": X[:, :5],
    "transposed": X.transpose(0, 2, 1),
    "structured": np.zeros((2, 6, 16), [("a", "f4")]),
    "no dlpack": Liar(),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(matmul, name):
    with pytest.raises(RunError) as caught:
        matmul.run({"x": WRONG[name]})
    assert "'x'" in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "feeds", [{}, {"y": X}, {"x": X, "z": X}, None, [X], "x", {"x" * 10_000: X}, {"a\n\x1b": X}, {0: X}]
)
def test_wrong_names(matmul, feeds):
    with pytest.raises(RunError) as caught:
        matmul.run(feeds)
    text = str(caught.value)
    assert len(text) < 800 and text.isprintable()


def test_odd_but_valid_inputs(matmul):
    want = matmul(X)
    readonly = X.copy()
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(X.shape)
    strided = np.zeros((2, 6, 32), np.float32)
    strided[:, :, ::2] = X
    for value in (
        readonly,
        unaligned,
        strided[:, :, ::2],
        X[:, :, ::-1],
        np.broadcast_to(np.float32(1), X.shape),
    ):
        np.testing.assert_array_equal(matmul(value), want)


def test_an_empty_batch(matmul):
    assert matmul(X[:0]).shape == (0, 10)


def test_a_batch_that_fits_no_memory():
    model = compiled(corpus.model([n("MatMul", "x w", "m"), n("Relu", "m", "r"), n("MatMul", "r v", "y")],
                                  [("x", F, ["a", "k"]), ("w", F, ["k", "b"]), ("v", F, ["b", 1])], [("y", F, None)]))  # fmt: skip
    huge = 1 << 40
    x = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (huge, 0), (0, 0))
    w = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (0, huge), (0, 0))
    v = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (huge, 1), (0, 0))
    for feeds in ((x, w, v), (x, w[:, :4], v[:4])):
        with pytest.raises(RunError) as caught:
            model(*feeds)
        assert len(str(caught.value)) < 400
    np.testing.assert_array_equal(
        model(X[0], np.ones((16, 3), np.float32), np.ones((3, 1), np.float32)), np.full((6, 1), 48)
    )


def test_extents_from_data():
    model = compiled(corpus.model([n("Expand", "x s", "e"), n("Neg", "e", "y")], [("x", F, [1]), ("s", T.INT64, [2])],
                                  [("y", F, ["p", "q"])]))  # fmt: skip
    x = np.float32([2])
    np.testing.assert_array_equal(model(x, ints(2, 3)), np.full((2, 3), -2))
    for shape in (
        (1 << 40, 1 << 40),
        (1 << 62, 4),
        (-1, 5),
        (1 << 62, 1 << 62),
        (-(1 << 62), -4),
        (2**63 - 1, 2**63 - 1),
    ):
        with pytest.raises(RunError):
            model(x, ints(*shape))
    np.testing.assert_array_equal(model(x, ints(3, 1)), np.full((3, 1), -2))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32"])
@pytest.mark.parametrize("kind", ["Div", "Mod"])
def test_integer_division_has_no_undefined_case(kind, dtype):
    info = np.iinfo(dtype)
    a = np.array([info.min, info.min, info.max, 7, 0, 5], dtype)
    b = np.array([-1 if info.min else 1, 0, 0, 2, 0, info.max], dtype)
    element = np.dtype(dtype)
    proto_type = {"int8": T.INT8, "int32": T.INT32, "int64": T.INT64, "uint8": T.UINT8, "uint32": T.UINT32}[
        dtype
    ]
    running = compiled(
        corpus.model(
            [n(kind, "a b", "y")], [("a", proto_type, [6]), ("b", proto_type, [6])], [("y", proto_type, [6])]
        )
    )
    folded = compiled(corpus.model([n(kind, "a b", "y")], [], [("y", proto_type, [6])], {"a": a, "b": b}))
    got = running(a, b)
    np.testing.assert_array_equal(got, folded())
    want = [
        0 if y == 0 else (x // y if kind == "Div" else x % y)
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    want[0] = (info.min if info.min else 0) if kind == "Div" else 0
    np.testing.assert_array_equal(got, np.array(want).astype(element))


@pytest.mark.parametrize("name", NAMES)
def test_names_survive(name):
    if name == "nul":
        pytest.skip("C strings end at NUL")
    model = compiled(with_names(NAMES[name]))
    assert model.inputs[0].name == "i" + NAMES[name] and model.outputs[0].name == "o" + NAMES[name]
    x = np.ones((3, 2), np.float32)
    assert model.run({"i" + NAMES[name]: x})["o" + NAMES[name]].shape == (3, 2)
    with pytest.raises(RunError) as caught:
        model.run({"i" + NAMES[name]: x[0]})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 800


@pytest.mark.parametrize("name", ["output_is_input", "output_is_initialiser", "output_twice", "no_inputs", "zero_elements",
                                  "zero_contraction", "zero_softmax", "shift_100", "cast_nan", "loop_negative", "slice_int_min"])  # fmt: skip
def test_odd_models_run(name):
    import onnxruntime

    proto = CASES[name][0]
    model = compiled(proto)
    feeds = corpus.inputs_of(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    want = session.run(None, feeds)
    got = model.run(feeds)
    for info, expected in zip(model.outputs, want, strict=False):
        if name not in ("cast_nan", "shift_100"):
            np.testing.assert_allclose(got[info.name], expected)
        assert got[info.name].shape == expected.shape


def test_session_misuse():
    session = stepwell.InferenceSession(corpus.onnx_models()["gemm"].SerializeToString())
    with pytest.raises(RunError, match="no output"):
        session.run(["nope\n"], {"x": np.ones((1, 8), np.float32)})
    with pytest.raises(stepwell.Error):
        session.run(None, {"x": np.ones((1, 9), np.float32)})
    for path in ("/nonexistent.onnx", "/", "/dev/null", "a\0b", "", b""):
        with pytest.raises(stepwell.Error) as caught:
            stepwell.InferenceSession(path)
        assert caught.value.exit_code == 1


def test_the_c_interface_refuses_what_it_cannot_read(matmul):
    library = matmul._library
    context = library.create_context(1, 0)
    words = (ctypes.c_int64 * (2 * VALUE_WORDS))()
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    for arguments in (
        (pointer(None), words, size(1), words, size(1)),
        (pointer(context), None, size(1), None, size(1)),
        (pointer(context), words, size(0), words, size(1)),
        (pointer(context), words, size(2**63), words, size(1)),
        (pointer(context), words, size(1), words, size(1)),  # kind 0
    ):
        assert library.run(*arguments)
        assert library.error_text(context) != "" or library.error_text(None) != ""
    library.destroy(context)
