"""Maps down to machine code, against ONNX Runtime where its Python can give them, and every level against the interpreter."""

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import stepwell
from stepwell.compiler import Compilation, Options
from stepwell.errors import ImportModelError, RunError, UnsupportedError
from stepwell.interpreter import interpret
from stepwell.interpreter.graph import interpret as interpret_graph
from stepwell.pipelines import LEVELS
from tests.round_trip import check_round_trips


def ramp(*shape: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7 % 23 - 11).astype(np.float32).reshape(shape) / 4


def model_of(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]> {text}')


def cast_map(cast: str, held: str, made: str, form: str = "DENSE", most: int = 1) -> str:
    attributes = f'cast_to = "{cast}", map_form = "{form}", max_map = {most}'
    return f"m (map(int64,{held}) x) => ({made}[1,k] y) {{ y = ai.onnx.ml.CastMap <{attributes}> (x) }}"


NUMBERS = {5: 1.5, 0: -2.75, 3: 100.0, 2: 0.0625}
WORDS = {"b": 1.5, "zebra": 2.0, "": -3.0, "\u00e9": 4.0}

MODELS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "scores by numbers": (
        """m (float[n,3] x) => (seq(map(int64,float[])) z) {
             z = ai.onnx.ml.ZipMap <classlabels_int64s = [7, -1, 4000000000]> (x)
        }""",
        [{"x": ramp(4, 3)}, {"x": ramp(1, 3)}, {"x": ramp(0, 3)}],
    ),
    "scores by words": (
        """m (float[5,3] x, float[n,m] y) => (seq(map(string,float[])) a, seq(map(string,float[])) b) {
             p = Softmax (x)   a = ai.onnx.ml.ZipMap <classlabels_strings = ["cat", "", "\u00e9t\u00e9"]> (p)
             b = ai.onnx.ml.ZipMap <classlabels_strings = ["twice", "once", "twice"]> (y)
        }""",
        [{"x": ramp(5, 3), "y": ramp(2, 3)}],
    ),
    "the scores of one row": (
        "m (float[n] x) => (seq(map(int64,float[])) z) { z = ai.onnx.ml.ZipMap <classlabels_int64s = [1, 0]> (x) }",
        [{"x": ramp(2)}],
    ),
    "a row by words": (
        """m (map(string,float[]) x) => (float[1,n] y) {
             y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["z", "b", "\u00e9", "", "b"]> (x)
        }""",
        [{"x": WORDS}, {"x": {"other": 1.0}}, {"x": {"b": 3}}],
    ),
    "a row by numbers": (
        """m (map(int64,float[]) x, float[5] bias) => (float[1,5] y) {
             v = ai.onnx.ml.DictVectorizer <int64_vocabulary = [9, 5, 0, -4000000000, 5]> (x)   y = Add (v, bias)
        }""",
        [{"x": NUMBERS, "bias": ramp(5)}, {"x": {-4000000000: 2.5}, "bias": ramp(5)}],
    ),
    "numbers in the order of their keys": (
        cast_map("TO_FLOAT", "float", "float"),
        [{"x": NUMBERS}, {"x": {-7: 1.0}}, {"x": {k * 7919 % 1000 - 500: float(k) for k in range(1000)}}],
    ),
    "numbers at their keys": (cast_map("TO_FLOAT", "float", "float", "SPARSE", 4), [{"x": NUMBERS}, {"x": {9: 1.0}}]),
    "whole numbers": (cast_map("TO_INT64", "float", "int64"), [{"x": NUMBERS}]),
    "whole numbers at their keys": (cast_map("TO_INT64", "float", "int64", "SPARSE", 7), [{"x": NUMBERS}]),
    "numbers as text": (
        cast_map("TO_STRING", "float", "string"),
        [{"x": {**NUMBERS, 9: 1e30, 11: -0.0, 12: float("nan"), 13: float("-inf"), 14: 0.1, 15: 1e-9}}],
    ),
    "numbers as text at their keys": (cast_map("TO_STRING", "float", "string", "SPARSE", 4), [{"x": NUMBERS}]),
}  # fmt: skip

OTHERS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "a row of doubles": (
        """m (map(string,double[]) x) => (double[1,2] y) {
             y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["b", "a"]> (x)
        }""",
        {"x": {"a": 1 / 3}},
        [np.array([[0, 1 / 3]])],
    ),
    "a row of whole numbers": (
        """m (map(string,int64[]) x) => (int64[1,2] y) {
             y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["b", "a"]> (x)
        }""",
        {"x": {"a": 2**62 + 1, "c": 5}},
        [np.array([[0, 2**62 + 1]])],
    ),
    "a row of words": (
        """m (map(int64,string[]) x) => (string[1,3] y) {
             y = ai.onnx.ml.DictVectorizer <int64_vocabulary = [3, 1, 2]> (x)
        }""",
        {"x": {1: "one", 3: "three", 5: "five"}},
        [np.array([["three", "one", ""]], object)],
    ),
    "words as numbers": (
        cast_map("TO_FLOAT", "string", "float"),
        {"x": {5: "1.5", -2: "-7e3"}},
        [np.array([[-7e3, 1.5]], np.float32)],
    ),
    "words as whole numbers at their keys": (
        cast_map("TO_INT64", "string", "int64", "SPARSE", 3),
        {"x": {2: "9007199254740993", 0: "-4", 7: "1"}},
        [np.array([[-4, 0, 9007199254740993]])],
    ),
    "words at their keys": (
        cast_map("TO_STRING", "string", "string", "SPARSE", 3),
        {"x": {2: "x" * 300, 0: ""}},
        [np.array([["", "0.f", "x" * 300]], object)],
    ),
    "nothing at all": (cast_map("TO_FLOAT", "float", "float"), {"x": {}}, [np.zeros((1, 0), np.float32)]),
    "in and out": (
        """m (seq(map(string,double[])) s, map(int64,string[]) x)
             => (seq(map(string,double[])) t, map(int64,string[]) y) { t = Identity (s)   y = Identity (x) }""",
        {"s": [{"a": 0.1, "b": 0.2}, {}, {"": -1.0}], "x": {7: "seven", -1: ""}},
        [[{"a": 0.1, "b": 0.2}, {}, {"": -1.0}], {7: "seven", -1: ""}],
    ),
    "a branch, an optional and an element": (
        """m (map(int64,float[]) x, float[2,2] scores, bool c)
             => (map(int64,float[]) y, optional(map(int64,float[])) o, float[1,2] row, int64 count) {
             zero = Constant <value_int = 0> ()   s = ai.onnx.ml.ZipMap <classlabels_int64s = [5, 6]> (scores)
             first = SequenceAt (s, zero)   less = SequenceErase (s)   count = SequenceLength (less)
             y = If (c) <then_branch = a () => (map(int64,float[]) u) { u = Identity (x) },
                         else_branch = b () => (map(int64,float[]) v) { v = Identity (first) }>
             o = Optional (y)   e = OptionalGetElement (o)   row = ai.onnx.ml.DictVectorizer <int64_vocabulary = [6, 1]> (e)
        }""",
        {"x": {1: 2.5}, "scores": np.array([[1, 2], [3, 4]], np.float32), "c": np.array(False)},
        [{5: 1.0, 6: 2.0}, {5: 1.0, 6: 2.0}, np.array([[2, 0]], np.float32), np.array(1)],
    ),
    "the last map of a loop": (
        """m (float[4,2] x) => (map(string,float[]) y) {
             zero = Constant <value_int = 0> ()   four = Constant <value_int = 4> ()
             s = ai.onnx.ml.ZipMap <classlabels_strings = ["a", "b"]> (x)   first = SequenceAt (s, zero)
             y = Loop (four, , first) <body = b (int64 i, bool go, map(string,float[]) m)
                 => (bool again, map(string,float[]) next) { again = Identity (go)   next = SequenceAt (s, i) }>
        }""",
        {"x": ramp(4, 2)},
        [{"a": float(ramp(4, 2)[3, 0]), "b": float(ramp(4, 2)[3, 1])}],
    ),
}  # fmt: skip
"""What ONNX Runtime does not take, or its Python cannot give: inputs and outputs."""


def same(got: Any, want: Any) -> None:
    """A map equals one whatever the order of its keys; floats are compared as the nearest f32."""
    if isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w)
    elif isinstance(want, dict):
        assert isinstance(got, dict) and set(got) == set(want)
        for key, value in want.items():
            assert type(got[key]) is type(value)
            if isinstance(value, float):
                np.testing.assert_allclose(got[key], value, rtol=1e-6)
            else:
                assert got[key] == value
    else:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_array_equal(got, want)


CASES = {**{name: (text, runs) for name, (text, runs) in MODELS.items()},
         **{name: (text, [inputs]) for name, (text, inputs, _) in OTHERS.items()}}  # fmt: skip


def wanted_of(name: str) -> list[list[Any]]:
    if name in OTHERS:
        return [OTHERS[name][2]]
    data = model_of(MODELS[name][0]).SerializeToString()
    reference = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return [reference.run(None, inputs) for inputs in MODELS[name][1]]


@pytest.mark.parametrize("name", CASES)
def test_results(name, tmp_path):
    """Against ONNX Runtime, or what is written down; run twice, with fresh memory poisoned."""
    text, runs = CASES[name]
    for opt_level in (0, 3) if name in MODELS else (3,):
        stepwell.compile(model_of(text), opt_level=opt_level, cache=False).save(tmp_path / f"{opt_level}.so")
        compiled = stepwell.load(tmp_path / f"{opt_level}.so", poison=True)
        for inputs, want in [*zip(runs, wanted_of(name), strict=True)] * 2:
            same(list(compiled.run(inputs).values()), want)


@pytest.mark.parametrize("name", CASES)
def test_every_level_means_the_same(name):
    text, runs = CASES[name]
    compilation = Compilation(Options())
    compilation.read(model_of(text))
    given = [list(inputs.values()) for inputs in runs]
    wanted = wanted_of(name)
    for inputs, want in zip(given, wanted, strict=True):
        same(interpret_graph(compilation.module, inputs, resources=compilation.ctx.resources), want)
    for level in LEVELS[:-1]:
        module = compilation.lower_to(level)
        for inputs, want in zip(given, wanted, strict=True):
            same(interpret(module, inputs, compilation.ctx), want)


@pytest.mark.parametrize(
    "name", ["scores by words", "numbers as text at their keys", "the last map of a loop"]
)
def test_every_level_is_text(name, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model_of(CASES[name][0]), path)
    check_round_trips(path, tmp_path, Options(), LEVELS[-1:])


def test_results_may_be_fed_back():
    """Keys of maps that were made in the run before share memory, which the next run uses again."""
    text = """m (seq(map(string,float[])) s, float[n,2] x) => (seq(map(string,float[])) t, seq(map(string,float[])) u) {
        t = Identity (s)   u = ai.onnx.ml.ZipMap <classlabels_strings = ["a", "long enough to be no small string"]> (x)
    }"""
    model = stepwell.compile(model_of(text), cache=False)
    held: list[Any] = []
    for count in range(1, 6):
        old, made = model(held, ramp(count, 2))
        same(old, held)
        assert made == [dict(zip(made[0], row, strict=True)) for row in ramp(count, 2).tolist()]
        held = made


def test_session_speaks_of_maps_as_onnxruntime():
    for name in ("scores by words", "a row by numbers"):
        text, runs = MODELS[name]
        data = model_of(text).SerializeToString()
        session, reference = stepwell.InferenceSession(data), ort.InferenceSession(data)
        described = [(a.name, a.type) for a in [*session.get_inputs(), *session.get_outputs()]]
        assert described == [(a.name, a.type) for a in [*reference.get_inputs(), *reference.get_outputs()]]
        same(session.run(None, runs[0]), reference.run(None, runs[0]))


_MAP = "map(int64,float[])"


@pytest.mark.parametrize(
    ("type", "value", "message"),
    [
        (_MAP, [{1: 2.0}], "input 'x': a list, expected a dict"),
        (_MAP, None, "input 'x': None, expected a dict"),
        (_MAP, {"a": 1.0}, "input 'x': the key 'a' is a str, expected an integer"),
        (_MAP, {1.0: 1.0}, "input 'x': the key 1.0 is a float, expected an integer"),
        (_MAP, {2**63: 1.0}, "input 'x': a key does not fit into int64"),
        (_MAP, {1: "2"}, "input 'x': the value '2' is a str, expected a number"),
        ("map(string,float[])", {1: 2.0}, "input 'x': the key 1 is a int, expected a string"),
        ("map(string,int64[])", {"a": 2.5}, "input 'x': the value 2.5 is a float, expected an integer"),
        ("map(int64,string[])", {1: 2.0}, "input 'x': the value 2.0 is a float, expected a string"),
        ("map(string,float[])", {"\ud800": 2.0}, r"input 'x.keys': element \[0\] has a lone surrogate"),
        (f"seq({_MAP})", {1: 2.0}, "input 'x': a dict, expected a list of dicts"),
        (f"seq({_MAP})", [{1: 2.0}, 3], r"input 'x\[1\]': a int, expected a dict"),
        (f"seq({_MAP})", [{1: None}], r"input 'x\[0\]': the value None is None, expected a number"),
    ],
)
def test_what_is_no_map_is_refused(type, value, message):
    model = stepwell.compile(model_of(f"m ({type} x) => ({type} y) {{ y = Identity (x) }}"))
    with pytest.raises(RunError, match=message):
        model.run({"x": value})


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        (cast_map("TO_FLOAT", "float", "float", "SPARSE", 4), {"x": {-1: 1.0}}, "graph.cast_map: a key is negative"),
        (cast_map("TO_FLOAT", "string", "float"), {"x": {1: "one"}}, "'one' is not a number"),
        (MODELS["the scores of one row"][0], {"x": ramp(3)}, "graph.zip_map: the extents n and 2 must be equal"),
    ],
)  # fmt: skip
def test_what_a_run_refuses(text, inputs, message):
    with pytest.raises(RunError, match=message):
        stepwell.compile(model_of(text), cache=False).run(inputs)


@pytest.mark.parametrize(
    ("error", "text", "message"),
    [
        (ImportModelError, "m (float[n,2] x) => (seq(map(int64,float[])) z) { z = ai.onnx.ml.ZipMap (x) }",
         "one of classlabels_int64s and classlabels_strings must list keys, not 0"),
        (ImportModelError, """m (float[n,2] x) => (seq(map(int64,float[])) z) {
            z = ai.onnx.ml.ZipMap <classlabels_strings = ["a", "b"]> (x) }""",
         "output \"z\": declared as .*i64.*, but the graph computes .*string"),
        (ImportModelError, """m (float[n,3] x) => (seq(map(int64,float[])) z) {
            z = ai.onnx.ml.ZipMap <classlabels_int64s = [1, 2]> (x) }""", "number of class labels: 3 is not 2"),
        (ImportModelError, """m (map(int64,float[]) x) => (float[1,n] y) {
            y = ai.onnx.ml.DictVectorizer <string_vocabulary = ["a"]> (x) }""",
         "a vocabulary of !graph.string for a map with keys of type i64"),
        (ImportModelError, "m (float[n] x) => (float[1,n] y) { y = ai.onnx.ml.CastMap (x) }", "must be a map"),
        (ImportModelError, cast_map("TO_BOOL", "float", "float"), "cast_to 'TO_BOOL' must be one of TO_FLOAT"),
        (ImportModelError, cast_map("TO_FLOAT", "float", "float", "THIN"), "map_form 'THIN' must be DENSE or SPARSE"),
        (ImportModelError, cast_map("TO_FLOAT", "float", "float", "SPARSE", 0), "max_map 0 must be positive"),
        (ImportModelError, cast_map("TO_FLOAT", "double", "float"), "must be a map from i64 to f32 or strings"),
        (UnsupportedError, "m (map(int32,float[]) x) => (map(int32,float[]) y) { y = Identity (x) }",
         "keys of type i32 must be i64 or !graph.string"),
        (UnsupportedError, "m (map(int64,float16[]) x) => (map(int64,float16[]) y) { y = Identity (x) }",
         "values of type tensor<f16> must be scalars"),
        (UnsupportedError, "m (map(int64,float[2]) x) => (map(int64,float[2]) y) { y = Identity (x) }",
         "a map whose values are no scalars"),
    ],
)  # fmt: skip
def test_what_an_import_refuses(error, text, message):
    with pytest.raises(error, match=message):
        stepwell.compile(model_of(text), cache=False)


def test_many_rows_share_their_keys():
    """The strings of the labels are read once, however many rows there are."""
    text = """m (float[n,2] x) => (seq(map(string,float[])) z) {
      z = ai.onnx.ml.ZipMap <classlabels_strings = ["yes", "no"]> (x) }"""
    found = stepwell.compile(model_of(text), cache=False)(ramp(20_000, 2))
    first = list(found[0])
    assert all(a is b for item in found for a, b in zip(item, first, strict=True))
    assert [list(item.values()) for item in found] == ramp(20_000, 2).tolist()
