"""Sequences and optionals down to machine code, against ONNX Runtime, and every level against the interpreter."""

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import stepwell
from stepwell.compiler import Compilation, Options
from stepwell.errors import RunError, UnsupportedError
from stepwell.interpreter import interpret
from stepwell.interpreter.graph import interpret as interpret_graph
from stepwell.pipelines import LEVELS
from tests.round_trip import check_round_trips


def ramp(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Small integers that differ, of both signs, so that sums are exact."""
    return (np.arange(np.prod(shape)) * 7 % 23 - 11).astype(dtype).reshape(shape)


def texts(*values: str) -> np.ndarray:
    return np.array(values, object)


def model_of(text: str, opset: int = 18) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    onnx.checker.check_model(model)
    return model


ROWS = [ramp(2, 3), ramp(4, 3) + 1, ramp(1, 3) - 2]
MODELS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "split by a number and put together": (
        """m (float[n,m] x, int64 k) => (float[a,b] y, int64 count, float[c,b] last) {
             s = SplitToSequence <axis = 0> (x, k)   count = SequenceLength (s)
             y = ConcatFromSequence <axis = 0> (s)   end = Constant <value_int = -1> ()   last = SequenceAt (s, end)
        }""",
        [{"x": ramp(7, 3), "k": np.array(k)} for k in (1, 3, 7, 9)],
    ),
    "split by a list along the last axis": (
        """m (float[4,n] x, int32[p] sizes) => (float[4,a] y, float[4,b] first) {
             s = SplitToSequence <axis = -1> (x, sizes)   zero = Constant <value_int = 0> ()
             e = SequenceErase (s, zero)   t = SequenceInsert (e, x)
             y = ConcatFromSequence <axis = 1> (t)   first = SequenceAt (s, zero)
        }""",
        [
            {"x": ramp(4, 6), "sizes": np.array([2, 1, 3], np.int32)},
            {"x": ramp(4, 5), "sizes": np.array([0, 5], np.int32)},
        ],
    ),
    "split into rows and stack them": (
        """m (float[n,m] x) => (float[a,b] y) {
             s = SplitToSequence <axis = 1, keepdims = 0> (x)   y = ConcatFromSequence <axis = 1, new_axis = 1> (s)
        }""",
        [{"x": ramp(3, 5)}, {"x": ramp(1, 1)}],
    ),
    "positions from both ends": (
        """m (seq(float[?,3]) s, float[n,3] x, int64 i, int64 j, int32 k)
             => (seq(float[?,3]) t, float[a,3] at, int64 count) {
             u = SequenceInsert (s, x, i)   v = SequenceErase (u, j)   w = SequenceErase (v)
             t = SequenceInsert (w, x)   at = SequenceAt (v, k)   count = SequenceLength (t)
        }""",
        [
            {"s": ROWS, "x": ramp(5, 3), "i": np.array(i), "j": np.array(j), "k": np.array(k, np.int32)}
            for i, j, k in ((0, 0, 0), (3, 3, 2), (-1, -2, -3), (1, 0, -1), (-3, 2, 1))
        ],
    ),
    "a loop over the elements": (
        """m (seq(float[?,3]) s, float[3,4] w) => (float[4] total, seq(float[?,4]) parts) {
             count = SequenceLength (s)   empty = SequenceEmpty ()   zero = Constant <value_float = 0.0> ()
             four = Constant <value_ints = [4]> ()   start = Expand (zero, four)
             total, parts = Loop (count, , start, empty) <body = b (int64 i, bool go, float[4] sum, seq(float[?,4]) made)
                 => (bool again, float[4] more, seq(float[?,4]) longer) {
               again = Identity (go)   row = SequenceAt (s, i)   product = MatMul (row, w)   part = Relu (product)
               axis = Constant <value_ints = [0]> ()   line = ReduceSum <keepdims = 0> (part, axis)
               more = Add (sum, line)   longer = SequenceInsert (made, part) }>
        }""",
        [{"s": ROWS, "w": ramp(3, 4)}, {"s": [], "w": ramp(3, 4)}, {"s": ROWS * 9, "w": ramp(3, 4)}],
    ),
    "a buffer is used again after its value went into a sequence": (
        """m (float[n] x, int64 zero) => (float[n] y, float[n] z, seq(float[n]) s) {
             one = Constant <value_float = 1.0> ()   a = Relu (x)   s0 = SequenceConstruct (a)
             b = Add (a, one)   s = SequenceInsert (s0, b)   c = Mul (b, b)
             d = SequenceAt (s, zero)   y = Add (c, d)   e = Sub (y, one)   f = Mul (e, e)   z = Sub (f, d)
        }""",
        [{"x": ramp(9), "zero": np.array(0)}],
    ),
    "an element is the start of what a loop writes": (
        """m (seq(float[5]) s, int64 n) => (float[5] y, seq(float[5]) same) {
             zero = Constant <value_int = 0> ()   e = SequenceAt (s, zero)   same = Identity (s)
             y = Loop (n, , e) <body = b (int64 i, bool go, float[5] v) => (bool again, float[5] w) {
               again = Identity (go)   one = Constant <value_floats = [1.0]> ()   at = Constant <value_ints = [2]> ()
               w = ScatterElements <axis = 0> (v, at, one) }>
        }""",
        [{"s": [ramp(5), ramp(5) + 3], "n": np.array(n)} for n in (0, 3)],
    ),
    "a map with a matrix product": (
        """m (seq(float[?,3]) s, float[3,64] w) => (seq(float[?,64]) y, seq(int64[2]) shapes) {
             y, shapes = SequenceMap (s, w) <body = b (float[h,3] x, float[3,64] v)
                 => (float[h,64] p, int64[2] e) { q = MatMul (x, v)   p = Sigmoid (q)   e = Shape (p) }>
        }""",
        [{"s": ROWS, "w": ramp(3, 64) / 8}, {"s": [], "w": ramp(3, 64)}],
    ),
    "branches that hand out sequences": (
        """m (seq(float[?,3]) s, bool c) => (seq(float[?,3]) t, int64 count) {
             t = If (c) <then_branch = a () => (seq(float[?,3]) u) { u = Identity (s) },
                         else_branch = b () => (seq(float[?,3]) v) { v = SequenceErase (s) }>
             count = SequenceLength (t)
        }""",
        [{"s": ROWS, "c": np.array(True)}, {"s": ROWS, "c": np.array(False)}],
    ),
    "elements of every rank": (
        """m (seq(float[]) s, float[2,2] x) => (seq(float[]) t) {
             zero = Constant <value_int = 0> ()   t = SequenceInsert (s, x, zero)
        }""",
        [{"s": [ramp(2), np.array(3, np.float32), ramp(0, 4)], "x": ramp(2, 2)}],
    ),
    "small integers": (
        """m (seq(uint8[?]) s, seq(bool[2]) b) => (uint8[n] y, bool[a,2] z) {
             y = ConcatFromSequence <axis = 0> (s)   z = ConcatFromSequence <axis = 0, new_axis = 1> (b)
        }""",
        [{"s": [ramp(3, dtype=np.uint8), ramp(300, dtype=np.uint8)], "b": [np.array([True, False])] * 3}],
    ),
    "strings": (
        """m (seq(string[?]) s, string[n] x, int64 at, optional(string[1]) o)
             => (seq(string[?]) t, string[k] y, string[a] e, int64 count, optional(string[1]) same) {
             t = SequenceInsert (s, x, at)   y = ConcatFromSequence <axis = 0> (t)   e = SequenceAt (t, at)
             split = SplitToSequence (x)   count = SequenceLength (split)   same = Identity (o)
        }""",
        [
            {"s": [texts("a", "", "\u6f22\u5b57"), texts()], "x": texts("b", "c" * 300), "at": np.array(at),
             "o": texts("z")} for at in (0, 1, 2)
        ],
    ),
}  # fmt: skip


def same(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            same(g, w)
    elif want is None:
        assert got is None
    else:
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype == object:
            assert got.tolist() == want.tolist()
            return
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_against_onnxruntime(name, tmp_path):
    text, runs = MODELS[name]
    model = model_of(text)
    reference = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = [reference.run(None, inputs) for inputs in runs]
    for opt_level in (0, 1, 3):
        stepwell.compile(model, opt_level=opt_level, cache=False).save(tmp_path / f"{opt_level}.so")
        compiled = stepwell.load(tmp_path / f"{opt_level}.so", poison=True)
        for inputs, want in [*zip(runs, wanted, strict=True)] * 2:
            same(list(compiled.run(inputs).values()), want)


@pytest.mark.parametrize("name", MODELS)
def test_every_level_means_the_same(name):
    text, runs = MODELS[name]
    for options in (Options(), Options(opt_level=0)):
        compilation = Compilation(options)
        compilation.read(model_of(text))
        wanted = [
            interpret_graph(compilation.module, list(r.values()), resources=compilation.ctx.resources) for r in runs
        ]  # fmt: skip
        for level in LEVELS[:-1]:
            module = compilation.lower_to(level)
            for inputs, want in zip(runs, wanted, strict=True):
                got = interpret(module, list(inputs.values()), compilation.ctx)
                if level != "graph":  # integers have no signs
                    got = [
                        g.view(w.dtype) if isinstance(w, np.ndarray) else g
                        for g, w in zip(got, want, strict=True)
                    ]
                same(got, want)


@pytest.mark.parametrize("name", ["positions from both ends", "a loop over the elements"])
def test_every_level_is_text(name, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model_of(MODELS[name][0]), path)
    check_round_trips(path, tmp_path, Options(), LEVELS[-1:])


def run(text: str, **inputs: Any) -> list[Any]:
    model = stepwell.compile(model_of(text), cache=False)
    return list(model.run(inputs).values())


def test_optionals_come_and_go():
    """None where an optional is absent, in and out; ONNX Runtime's Python has no way to say so."""
    text = """m (optional(float[n]) x, bool c) => (optional(float[n]) y, bool there, float[k] z) {
      there = OptionalHasElement (x)
      y = If (c) <then_branch = a () => (optional(float[n]) u) { u = Identity (x) },
                  else_branch = b () => (optional(float[n]) v) { v = Optional <type = float[n]> () }>
      z = If (there) <then_branch = d () => (float[k] p) { e = OptionalGetElement (x)  p = Neg (e) },
                      else_branch = f () => (float[k] q) { q = Constant <value_floats = [7.0]> () }>
    }"""
    model = stepwell.compile(model_of(text), cache=False)
    for x in (ramp(3), None):
        for c in (True, False):
            y, there, z = model(x, np.array(c))
            same(y, x if c else None)
            same(there, np.array(x is not None))
            same(z, np.array([7], np.float32) if x is None else -x)


def test_values_in_values():
    """An absent sequence, and sequences of sequences and of optionals: ONNX Runtime's Python has none of them."""
    text = """m (optional(seq(float[?])) s, bool c) => (optional(seq(float[?])) t, bool there) {
      there = OptionalHasElement (s)
      t = If (c) <then_branch = a () => (optional(seq(float[?])) u) { u = Identity (s) },
                  else_branch = b () => (optional(seq(float[?])) v) { v = Optional <type = seq(float[?])> () }>
    }"""
    model = stepwell.compile(model_of(text), cache=False)
    assert [info.kind for info in model.inputs] == ["optional sequence of tensor", "tensor"]
    assert (
        stepwell.InferenceSession(model_of(text).SerializeToString()).get_inputs()[0].type
        == "optional(seq(tensor(float)))"
    )
    for s in (None, [], [ramp(2), ramp(3)]):
        for c in (True, False):
            t, there = model(s, np.array(c))
            same(t, s if c else None)
            assert there == (s is not None)
    value = [[ramp(2), ramp(1)], []]
    same(run("m (seq(seq(float[?])) s) => (seq(seq(float[?])) y) { y = Identity (s) }", s=value)[0], value)
    holes = [ramp(2), None]
    same(
        run("m (seq(optional(float[2])) s) => (seq(optional(float[2])) y) { y = Identity (s) }", s=holes)[0],
        holes,
    )


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        (
            "m (seq(float[n]) s, int64 i) => (float[n] y) { y = SequenceAt (s, i) }",
            {"s": [ramp(3)], "i": np.array(1)},
            "position 1 of a sequence of 1 elements",
        ),
        (
            "m (optional(float[n]) x) => (float[n] y) { y = OptionalGetElement (x) }",
            {"x": None},
            "graph.optional_get_element: the optional is absent",
        ),
        (
            "m (seq(float[?,?]) s) => (float[a,b] y) { y = ConcatFromSequence <axis = 0> (s) }",
            {"s": [ramp(2, 3), ramp(2, 4)]},
            "elements of a sequence differ in other axes",
        ),
        (
            "m (float[n] x, int64[2] k) => (seq(float[?]) s) { s = SplitToSequence (x, k) }",
            {"x": ramp(5), "k": np.array([2, 4])},
            "the pieces are larger than the whole",
        ),
        (
            "m (float[n] x, int64[2] k) => (seq(float[?]) s) { s = SplitToSequence (x, k) }",
            {"x": ramp(5), "k": np.array([2, 2])},
            "the pieces are smaller than the whole",
        ),
        (
            "m (float[n] x, int64 k) => (seq(float[?]) s) { s = SplitToSequence (x, k) }",
            {"x": ramp(5), "k": np.array(0)},
            "the extent of a piece must be positive",
        ),
        (
            "m (seq(float[]) s, int64 i) => (float[n] y) { y = SequenceAt (s, i) }",
            {"s": [ramp(3), ramp(2, 2)], "i": np.array(1)},
            "an element of rank 2 where the model reads rank 1",
        ),
    ],
)
def test_what_a_run_refuses(text, inputs, message):
    with pytest.raises(RunError, match=message):
        run(text, **inputs)


def test_a_rank_that_nothing_says_is_refused():
    text = """m (seq(float[]) s, int64 i) => (float[n] y) {
      e = SequenceAt (s, i)  flat = Constant <value_ints = [-1]> ()  y = Reshape (e, flat)
    }"""
    with pytest.raises(UnsupportedError, match=r"SequenceAt.*rank of the tensor that it reads is not known"):
        run(text, s=[], i=np.array(0))


def test_many_insertions_take_linear_memory():
    """A hundred thousand insertions at the end share their array: quadratic copies would take 280 GB."""
    text = """m (int64 n, float[2] x) => (int64 count) {
      empty = SequenceEmpty ()
      s = Loop (n, , empty) <body = b (int64 i, bool go, seq(float[2]) t) => (bool again, seq(float[2]) u) {
        again = Identity (go)  u = SequenceInsert (t, x) }>
      count = SequenceLength (s)
    }"""
    assert run(text, n=np.array(100_000), x=ramp(2))[0] == 100_000


def test_session_speaks_of_sequences_as_onnxruntime():
    text, runs = MODELS["positions from both ends"]
    data = model_of(text).SerializeToString()
    session, reference = stepwell.InferenceSession(data), ort.InferenceSession(data)
    described = [(a.name, a.type) for a in [*session.get_inputs(), *session.get_outputs()]]
    assert described == [(a.name, a.type) for a in [*reference.get_inputs(), *reference.get_outputs()]]
    same(session.run(["count", "t"], runs[0]), reference.run(["count", "t"], runs[0]))


def test_what_is_known_leaves_no_sequence():
    """Pieces of static extents at constant places: the same numbers, and below the graph level not one value."""
    text = """m (float[6,4] x) => (float[6,a] y, int64 count, float[6,1,k] z, bool there) {
      sizes = Constant <value_ints = [1, 2, 1]> ()  two = Constant <value_int = 2> ()  last = Constant <value_int = -1> ()
      s = SplitToSequence <axis = 1> (x, sizes)  p = SplitToSequence <axis = 0, keepdims = 0> (x)
      a = SequenceAt (s, last)  r = Relu (a)  t = SequenceInsert (s, r, two)  u = SequenceErase (t)
      y = ConcatFromSequence <axis = 1> (u)  count = SequenceLength (u)
      v = SequenceErase (s, two)  w = SequenceErase (v)  z = ConcatFromSequence <axis = 1, new_axis = 1> (w)
      o = Optional (r)  there = OptionalHasElement (o)
    }"""
    model = model_of(text)
    compilation = Compilation(Options())
    compilation.read(model)
    assert "value." not in str(compilation.lower_to("tensor"))
    want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": ramp(6, 4)})
    same(run(text, x=ramp(6, 4)), want)


@pytest.mark.parametrize("seed", range(4))
def test_histories_that_share_elements(seed):
    """Random insertions and erasures, each on any sequence made before: none may change another one."""
    rng = np.random.default_rng(seed)
    x = [ramp(3) + i for i in range(5)]
    made: list[list[np.ndarray]] = [x[:2]]
    places: list[int] = []
    nodes: list[str] = []
    for step in range(1, 40):
        source = int(rng.integers(max(0, step - 4), step))
        held = made[source]
        if held and rng.random() < 0.35:
            place = int(rng.integers(-len(held), len(held)))
            nodes.append(f"s{step} = SequenceErase (s{source}, p{step})")
            made.append([v for i, v in enumerate(held) if i != place % len(held)])
        else:
            place = len(held) if rng.random() < 0.7 else int(rng.integers(-len(held), len(held) + 1))
            new = int(rng.integers(5))
            nodes.append(f"s{step} = SequenceInsert (s{source}, x{new}, p{step})")
            at = place + len(held) if place < 0 else place
            made.append([*held[:at], x[new], *held[at:]])
        places.append(place)
    inputs = ", ".join([f"float[3] x{i}" for i in range(5)] + [f"int64 p{i}" for i in range(1, 40)])
    outputs = ", ".join(f"seq(float[3]) s{i}" for i in range(1, 40))
    text = f"m (seq(float[3]) s0, {inputs}) => ({outputs}) {{ {' '.join(nodes)} }}"
    feeds = {f"x{i}": v for i, v in enumerate(x)} | {f"p{i}": np.array(p) for i, p in enumerate(places, 1)}
    same(run(text, s0=made[0], **feeds), made[1:])
