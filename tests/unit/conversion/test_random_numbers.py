"""Random operators: a known generator, the right distributions, the same bits on any number of threads."""

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper
from xdsl.dialects.builtin import FunctionType, ModuleOp, TensorType, i32
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region

import stepwell
from stepwell.compat import new_context
from stepwell.conversion.graph_to_linalg.lowering import Lowering, dims
from stepwell.conversion.graph_to_linalg.randomness import philox
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.interpreter.graph import interpret as interpret_graph
from stepwell.interpreter.graph.chance import philox as reference_philox
from stepwell.registry import DIALECTS

# (counter, key, words) of the Random123 library's kat_vectors for philox4x32-10.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
):
    column = np.array(counter, np.uint64)[:, None]
    assert reference_philox(column, key)[:, 0].tolist() == list(words)
    ctx = new_context(DIALECTS)
    type = TensorType(i32, [6])
    block = Block(arg_types=[type])
    low = Lowering(ctx, block)

    def body(*given: Any) -> list[Any]:
        for word in given:
            word.unsigned = True
        return philox(list(given[:4]), list(given[4:6]))

    ends = [(low.empty((1,), i32), dims(1)) for _ in range(4)]
    results = low.generic("p", [(block.args[0], [k]) for k in range(6)], ends, body)
    block.add_op(ReturnOp(*results))
    function = FuncOp("main", FunctionType.from_lists([type], [r.type for r in results]), Region(block))
    given = np.array([*counter, *key], np.uint32).view(np.int32)
    got = interpret(ModuleOp([function]), [given], ctx)
    assert [int(v.view(np.uint32)[0]) for v in got] == list(words)


def model_of(op: str, inputs: list[np.ndarray], **attributes: Any) -> onnx.ModelProto:
    names = [f"i{k}" for k in range(len(inputs))]
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, inputs, strict=True)
    ]
    output = helper.make_tensor_value_info("o", TensorProto.UNDEFINED, None)
    output.ClearField("type")
    graph = helper.make_graph([helper.make_node(op, names, ["o"], **attributes)], "g", declared, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def run(op: str, *inputs: np.ndarray, threads: int = 1, **attributes: Any) -> np.ndarray:
    model = stepwell.compile(model_of(op, list(inputs), **attributes), threads=threads)
    return model(*inputs)


def test_uniform_numbers_fill_their_interval():
    x = run("RandomUniform", shape=[64, 1000], low=-3.0, high=5.0, seed=7.0)
    assert x.shape == (64, 1000) and x.dtype == np.float32
    assert x.min() >= -3 and x.max() < 5
    counts, _ = np.histogram(x, 64, (-3, 5))
    # chi-squared with 63 degrees of freedom lies below 125 but for one time in 200,000
    assert ((counts - 1000) ** 2 / 1000).sum() < 125
    assert abs(np.corrcoef(x.ravel()[:-1], x.ravel()[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_normal_numbers_have_their_moments(dtype: int):
    x = run("RandomNormal", shape=[100_000], mean=2.0, scale=3.0, seed=1.0, dtype=dtype)
    z = (x.astype(np.float64) - 2) / 3
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n) and abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / n) and abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)


def test_like_takes_the_shape_and_type_of_its_operand():
    x = np.zeros((3, 5, 7), np.float64)
    for op in ("RandomUniformLike", "RandomNormalLike"):
        assert (y := run(op, x)).shape == x.shape and y.dtype == np.float64 and len(np.unique(y)) == x.size
    assert run("RandomUniformLike", x, dtype=TensorProto.FLOAT).dtype == np.float32


def test_a_seed_gives_the_same_bits_on_any_number_of_threads_and_in_the_interpreter():
    attributes = {"shape": [300, 1111], "seed": 3.0}
    one = run("RandomUniform", threads=1, **attributes)
    assert np.array_equal(one, run("RandomUniform", threads=2, **attributes))
    assert not np.array_equal(one, run("RandomUniform", threads=1, **{**attributes, "seed": 4.0}))
    module = import_onnx(model_of("RandomUniform", [], **attributes), new_context(DIALECTS))
    (reference,) = interpret_graph(module, [])
    assert np.array_equal(one, reference)


def test_without_a_seed_each_run_and_each_operator_draws_anew():
    nodes = [helper.make_node("RandomUniform", [], [name], shape=[100]) for name in "ab"]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [100]) for n in "ab"]
    model = stepwell.compile(
        helper.make_model(
            helper.make_graph(nodes, "g", [], outputs),
            opset_imports=[helper.make_opsetid("", 22)],
            ir_version=10,
        )
    )
    drawn = [row for _ in range(2) for row in model()]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert not np.array_equal(a, b)


def test_bernoulli_hits_with_the_given_probability():
    p = np.repeat(np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)[:, None], 40_000, 1)
    hits = run("Bernoulli", p, seed=2.0, dtype=TensorProto.INT32)
    assert hits.dtype == np.int32 and set(np.unique(hits)) == {0, 1}
    rates = hits.mean(1)
    assert rates[0] == 0 and rates[4] == 1
    spread = 5 * np.sqrt(p[1:4, 0] * (1 - p[1:4, 0]) / p.shape[1])
    assert (np.abs(rates[1:4] - p[1:4, 0]) < spread).all()


def test_multinomial_draws_classes_by_their_weight():
    weights = np.array([[1, 2, 3, 4, 0], [0, 0, 5, 0, 5]], np.float64)
    x = np.log(weights + 1e-300).astype(np.float32)
    classes = run("Multinomial", x, sample_size=20_000, seed=9.0, dtype=TensorProto.INT64)
    assert classes.shape == (2, 20_000) and classes.dtype == np.int64
    for row, weight in zip(classes, weights / weights.sum(1, keepdims=True), strict=True):
        share = np.bincount(row, minlength=5) / row.size
        assert (share[weight == 0] == 0).all()
        assert (np.abs(share - weight) <= 5 * np.sqrt(weight * (1 - weight) / row.size)).all()


def test_dropout_keeps_and_scales():
    x = np.ones((100, 1000), np.float32)
    for attributes in ({"seed": 5}, {}):
        y = run("Dropout", x, np.array(0.25, np.float32), np.array(True), **attributes)
        kept = y != 0
        assert abs(kept.mean() - 0.75) < 0.01
        np.testing.assert_allclose(y[kept], 1 / 0.75, rtol=1e-6)
    assert np.array_equal(run("Dropout", x, np.array(0.25, np.float32), np.array(False)), x)


def test_a_seeded_dropout_has_the_mask_of_numpy():
    x = np.ones((7, 11), np.float32)
    y = run("Dropout", x, np.array(0.5, np.float32), np.array(True), seed=42)
    assert np.array_equal(y != 0, np.random.RandomState(42).uniform(0, 1, x.shape) >= 0.5)


def test_each_iteration_of_a_loop_draws_anew():
    body = helper.make_graph(
        [
            helper.make_node("RandomUniform", [], ["r"], shape=[4]),
            helper.make_node("Identity", ["c"], ["d"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("r", TensorProto.FLOAT, [4]),
        ],
    )
    rows = run("Loop", np.array(5, np.int64), np.array(True), body=body)
    assert rows.shape == (5, 4) and len(np.unique(rows)) == 20


def test_batch_normalisation_in_training_has_the_statistics_of_the_batch():
    random = np.random.default_rng(3)
    x = random.normal(2, 3, (4, 3, 5, 6)).astype(np.float32)
    scale, bias, mean, variance = random.uniform(0.5, 2, (4, 3)).astype(np.float32)
    names = ["x", "s", "b", "m", "v"]
    node = helper.make_node(
        "BatchNormalization", names, ["y", "rm", "rv"], training_mode=1, momentum=0.75, epsilon=1e-3
    )
    inputs = [x, scale, bias, mean, variance]
    declared = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape)
        for n, v in zip(names, inputs, strict=True)
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "rm", "rv")]
    proto = helper.make_model(
        helper.make_graph([node], "g", declared, outputs),
        opset_imports=[helper.make_opsetid("", 15)],
        ir_version=10,
    )
    got = stepwell.compile(proto)(*inputs)
    want = onnx.reference.ReferenceEvaluator(proto).run(None, dict(zip(names, inputs, strict=True)))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5)
