"""Models that end in decisions, not in numbers: a detector with its suppression of boxes, a translator with its loop."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import stepwell
from tests.models import zoo

onnxruntime = pytest.importorskip("onnxruntime")


def detector() -> onnx.ModelProto:
    """nudenet's YOLOv8 with what its program does in numpy: the boxes that survive suppression, and their scores."""
    if missing := zoo.missing_for("nudenet"):
        pytest.skip(f"needs the package {', '.join(missing)}")
    model = onnx.load(zoo.packaged("nudenet"))
    graph, head = model.graph, model.graph.output[0].name

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        return name

    axis, four = constant("nms_axis", [1]), constant("nms_four", [4])
    boxes = [constant("nms_zero", [0]), four, axis]
    scores = [four, constant("nms_end", [1 << 30]), axis]
    limits = [
        constant("nms_most", np.array([20], np.int64)), constant("nms_overlap", np.array([0.45], np.float32)),
        constant("nms_least", np.array([0.02], np.float32)),
    ]  # fmt: skip
    graph.node.extend(
        [
            helper.make_node("Slice", [head, *boxes], ["raw_boxes"]),
            helper.make_node("Slice", [head, *scores], ["class_scores"]),
            helper.make_node("Transpose", ["raw_boxes"], ["boxes"], perm=[0, 2, 1]),
            helper.make_node(
                "NonMaxSuppression", ["boxes", "class_scores", *limits], ["selected"], center_point_box=1
            ),
            helper.make_node("GatherND", ["class_scores", "selected"], ["kept_scores"]),
        ]
    )
    for name, kind in (("selected", TensorProto.INT64), ("kept_scores", TensorProto.FLOAT)):
        graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return model


@pytest.mark.models
@pytest.mark.parametrize("opt_level", [3, 0])
def test_detector_keeps_the_same_boxes(opt_level: int) -> None:
    model = detector()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    compiled = stepwell.compile(model, opt_level=opt_level)
    for size, seed in (((320, 320), 0), ((160, 224), 1)):
        rng = np.random.default_rng(seed)
        feeds = {session.get_inputs()[0].name: rng.uniform(0, 1, (1, 3, *size)).astype(np.float32)}
        want = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
        got = compiled.run(feeds)
        np.testing.assert_array_equal(got["selected"], want["selected"])
        np.testing.assert_allclose(got["kept_scores"], want["kept_scores"], rtol=1e-3, atol=1e-5)


WORDS, WIDTH, HIDDEN, END = 40, 12, 16, 1


def translator(seed: int) -> onnx.ModelProto:
    """
    A GRU over the words of a sentence (`[length, batch]`), then a loop around a cell of its own that picks the likeliest
    next word, feeds it back and stops when every row has ended; its number of steps is known in the run only.
    """
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, 0.7, shape).astype(np.float32), name)

    weights = [
        weight("embedding", WORDS, WIDTH), weight("w", 1, 3 * HIDDEN, WIDTH), weight("r", 1, 3 * HIDDEN, HIDDEN),
        weight("b", 1, 6 * HIDDEN), weight("w2", WIDTH, 3 * HIDDEN), weight("r2", HIDDEN, 3 * HIDDEN),
        weight("b2", 3 * HIDDEN), weight("b3", 3 * HIDDEN),
        weight("to_words", HIDDEN, WORDS),
        numpy_helper.from_array(np.array([0]), "first_axis"),
        numpy_helper.from_array(np.array(END), "end"),
        numpy_helper.from_array(np.array(30), "most"),
        numpy_helper.from_array(np.array(True), "true"),
    ]  # fmt: skip
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["embedding", "word"], ["v"]),
            helper.make_node("Gemm", ["v", "w2", "b2"], ["from_input"]),
            helper.make_node("Gemm", ["state", "r2", "b3"], ["from_state"]),
            helper.make_node("Split", ["from_input"], ["zi", "ri", "ni"], axis=1, num_outputs=3),
            helper.make_node("Split", ["from_state"], ["zs", "rs", "ns"], axis=1, num_outputs=3),
            helper.make_node("Add", ["zi", "zs"], ["z_sum"]),
            helper.make_node("Sigmoid", ["z_sum"], ["z"]),
            helper.make_node("Add", ["ri", "rs"], ["r_sum"]),
            helper.make_node("Sigmoid", ["r_sum"], ["reset"]),
            helper.make_node("Mul", ["reset", "ns"], ["kept"]),
            helper.make_node("Add", ["ni", "kept"], ["n_sum"]),
            helper.make_node("Tanh", ["n_sum"], ["n"]),
            helper.make_node("Sub", ["state", "n"], ["change"]),
            helper.make_node("Mul", ["z", "change"], ["part"]),
            helper.make_node("Add", ["n", "part"], ["next_state"]),
            helper.make_node("MatMul", ["next_state", "to_words"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
            helper.make_node("Where", ["open", "best", "end"], ["next_word"]),
            helper.make_node("Equal", ["next_word", "end"], ["ends"]),
            helper.make_node("Not", ["ends"], ["next_open"]),
            helper.make_node("Cast", ["next_open"], ["flags"], to=TensorProto.INT32),
            helper.make_node("ReduceMax", ["flags"], ["any"], keepdims=0),
            helper.make_node("Cast", ["any"], ["again"], to=TensorProto.BOOL),
            helper.make_node("Identity", ["next_word"], ["said"]),
        ],
        "decode",
        [
            info("i", TensorProto.INT64, []), info("going", TensorProto.BOOL, []),
            info("word", TensorProto.INT64, ["batch"]), info("state", TensorProto.FLOAT, ["batch", HIDDEN]),
            info("open", TensorProto.BOOL, ["batch"]),
        ],
        [
            info("again", TensorProto.BOOL, []), info("next_word", TensorProto.INT64, ["batch"]),
            info("next_state", TensorProto.FLOAT, ["batch", HIDDEN]),
            info("next_open", TensorProto.BOOL, ["batch"]), info("said", TensorProto.INT64, ["batch"]),
        ],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["embedding", "words"], ["vectors"]),
            helper.make_node(
                "GRU", ["vectors", "w", "r", "b"], ["all_states", "encoded"], hidden_size=HIDDEN
            ),
            helper.make_node("Squeeze", ["encoded", "first_axis"], ["start"]),
            helper.make_node("Gather", ["words", "end_place"], ["last"], axis=0),
            helper.make_node("Equal", ["last", "last"], ["all_open"]),
            helper.make_node(
                "Loop",
                ["most", "true", "last", "start", "all_open"],
                ["last_word", "final", "still_open", "sentence"],
                body=body,
            ),
        ],
        "translate",
        [info("words", TensorProto.INT64, ["length", "batch"])],
        [
            info("sentence", TensorProto.INT64, ["steps", "batch"]),
            info("final", TensorProto.FLOAT, ["batch", HIDDEN]),
        ],
        [*weights, numpy_helper.from_array(np.array(-1), "end_place")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("opt_level", [3, 0])
def test_translator_says_the_same_words(opt_level: int) -> None:
    lengths = set()
    for seed in (0, 4):
        model = translator(seed)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        compiled = stepwell.compile(model, opt_level=opt_level)
        rng = np.random.default_rng(seed)
        for length, batch in ((5, 1), (9, 3), (2, 1), (7, 1)):
            feeds = {"words": rng.integers(2, WORDS, (length, batch))}
            sentence, final = session.run(None, feeds)
            got = compiled.run(feeds)
            np.testing.assert_array_equal(got["sentence"], sentence)
            np.testing.assert_allclose(got["final"], final, rtol=1e-3, atol=1e-5)
            lengths.add(len(sentence))
    assert len(lengths) > 1, "the sentences end at different words"
