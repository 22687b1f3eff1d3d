"""Loops whose stacked values are known in the body only, scans of opset 8 and branches of two ranks, against ONNX Runtime."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import stepwell

F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info


def model(nodes, inputs, outputs, opset=21):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def peer(proto, *inputs):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


def stacking_loop(end: str):
    """Stacks `x[begin:end]`, where `begin` is an input and `end` as given."""
    nodes = [
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Unsqueeze", ["i", "zero"], ["at"]),
        helper.make_node("Add", ["begin", "two"], ["fixed"]),
        helper.make_node("Add", ["begin", "at"], ["growing"]),
        helper.make_node("Slice", ["x", "begin", end], ["piece"]),
        helper.make_node("Cast", ["at"], ["factor"], to=F),
        helper.make_node("Mul", ["piece", "factor"], ["row"]),
    ]
    body = helper.make_graph(
        nodes, "body", [info("i", I, []), info("c", B, [])], [info("d", B, []), info("row", F, ["n", 3])]
    )
    before = [
        helper.make_node("Constant", [], ["zero"], value_ints=[0]),
        helper.make_node("Constant", [], ["two"], value_ints=[2]),
        helper.make_node("Loop", ["count", ""], ["rows"], body=body),
    ]
    inputs = [info("count", I, []), info("x", F, ["m", 3]), info("begin", I, [1])]
    return model(before, inputs, [info("rows", F, None)])


def test_a_loop_stacks_values_of_extents_that_its_body_knows():
    proto = stacking_loop("fixed")
    compiled = stepwell.compile(proto)
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    for count, begin in ((1, 0), (7, 3), (40, 8), (5, 9)):
        operands = [np.array(count), x, np.array([begin])]
        np.testing.assert_array_equal(compiled(*operands), peer(proto, *operands)[0])
    assert compiled(np.array(0), x, np.array([0])).size == 0


def test_a_loop_that_stacks_values_of_other_shapes_ends():
    compiled = stepwell.compile(stacking_loop("growing"))
    with pytest.raises(stepwell.Error, match="other shapes"):
        compiled(np.array(4), np.ones((10, 3), np.float32), np.array([1]))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("backwards", [0, 1])
def test_a_scan_stacks_values_of_extents_that_its_body_knows(backwards: int, axis: int):
    body = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["a"], ["t"], keepdims=0),
            helper.make_node("NonZero", ["a"], ["places"]),
            helper.make_node("Cast", ["places"], ["wide"], to=F),
            helper.make_node("Add", ["wide", "s"], ["u"]),
        ],
        "body",
        [info("s", F, []), info("a", F, [4])],
        [info("t", F, None), info("u", F, None)],
    )
    node = helper.make_node(
        "Scan", ["s", "a"], ["t", "u"], body=body, num_scan_inputs=1, scan_output_axes=[axis],
        scan_output_directions=[backwards],
    )  # fmt: skip
    proto = model(
        [node], [info("s", F, []), info("a", F, ["n", 4])], [info("t", F, None), info("u", F, None)]
    )
    compiled = stepwell.compile(proto)
    for lines in ([[0, 1, 2, 0]], [[0, 1, 2, 0], [3, 0, 0, 4], [5, 0, 6, 0]]):
        operands = [np.array(0.5, np.float32), np.array(lines, np.float32)]
        for g, w in zip(compiled(*operands), peer(proto, *operands), strict=True):
            np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("backwards", [0, 1])
def test_a_scan_of_opset_8_works_on_a_batch(backwards: int):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "a"], ["t"]),
            helper.make_node("Mul", ["t", "b"], ["u"]),
        ],
        "body",
        [info("s", F, [2]), info("a", F, [2]), info("b", F, [2])],
        [info("t", F, [2]), info("u", F, [2])],
    )
    node = helper.make_node(
        "Scan", ["", "s", "a", "b"], ["t", "u"], body=body, num_scan_inputs=2, directions=[0, backwards]
    )
    random = np.random.default_rng(5)
    operands = [random.normal(size=shape).astype(np.float32) for shape in ((3, 2), (3, 4, 2), (3, 4, 2))]
    inputs = [info(n, F, v.shape) for n, v in zip("sab", operands, strict=True)]
    proto = model([node], inputs, [info("t", F, None), info("u", F, None)], opset=8)
    for g, w in zip(stepwell.compile(proto)(*operands), peer(proto, *operands), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6)


def of_two_ranks():
    """`s = 3 if c else [4]`."""
    branches = [
        helper.make_graph(
            [helper.make_node("Constant", [], [name], **{kind: value})], name, [], [info(name, F, None)]
        )
        for name, kind, value in (("a", "value_float", 3.0), ("b", "value_floats", [4.0]))
    ]
    return helper.make_node("If", ["c"], ["s"], then_branch=branches[0], else_branch=branches[1])


@pytest.mark.parametrize("teller", ["Identity", "Shape", "Unsqueeze", "Add"])
def test_branches_of_two_ranks_are_refused_by_name_where_an_op_can_tell_them(teller: str):
    inputs = {"Unsqueeze": ["half", "axes"], "Add": ["s", "half"]}.get(teller, ["s"])
    nodes = [
        of_two_ranks(),
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Div", ["s", "two"], ["half"]),
        helper.make_node(teller, inputs, ["y"]),
    ]
    proto = model(nodes, [info("c", B, [])], [info("y", I if teller == "Shape" else F, None)])
    with pytest.raises(stepwell.UnsupportedError, match=r"ranks 0 and 1, and .* can tell them apart"):
        stepwell.compile(proto)


def test_branches_of_two_ranks_broadcast():
    nodes = [
        of_two_ranks(),
        helper.make_node("Sqrt", ["s"], ["root"]),
        helper.make_node("CastLike", ["x", "root"], ["same"]),
        helper.make_node("Mul", ["root", "same"], ["y"]),
    ]
    proto = model(nodes, [info("c", B, []), info("x", F, ["n"])], [info("y", F, ["n"])])
    x, compiled = np.arange(5, dtype=np.float32), stepwell.compile(proto)
    for c in (np.array(True), np.array(False)):
        np.testing.assert_allclose(compiled(c, x), peer(proto, c, x)[0], rtol=1e-6)
