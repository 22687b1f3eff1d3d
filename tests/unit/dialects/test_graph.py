"""The `graph` dialect: text round trips, inference over symbols, messages of the verifier."""

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp, f32, i64
from xdsl.dialects.func import Func
from xdsl.dialects.test import Test, TestOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects import graph
from stepwell.dialects.graph import GRAPH, ONNX_NAMES, symbolic_value, tensor_type
from stepwell.dialects.graph.shape import broadcast_of, evaluate_dim, parse_dim


def values(*types):
    """Values of these types, in a block of their own."""
    op = TestOp(result_types=list(types))
    module = ModuleOp([op])
    return module, list(op.results)


def t(*dims, element=f32):
    return tensor_type([parse_dim(d) if isinstance(d, str) else d for d in dims], element)


def test_operands_attributes_and_results_follow_the_onnx_schemas():
    from onnx import defs

    for name, op in ONNX_NAMES.items():
        # one form of several; attributes that the importer has joined; not an operator of the standard
        if name in ("Constant", "LabelEncoder", "TreeLeaves"):
            continue
        schema = defs.get_schema(name, domain=op.ONNX_DOMAIN)
        definition = op.get_irdl_definition()
        kinds = {0: "one", 1: "optional", 2: "many"}
        inputs = [(graph.snake_case(i.name), kinds[i.option.value]) for i in schema.inputs]
        assert [(n.rstrip("_"), k) for n, k in op.OPERAND_KINDS] == inputs, name
        outputs = [(graph.snake_case(o.name), kinds[o.option.value]) for o in schema.outputs]
        assert [k for _, k in op.RESULT_KINDS] == [k for _, k in outputs], name
        properties = {p for p in definition.properties if not p.endswith("SegmentSizes")}
        attributes = {k: a for k, a in schema.attributes.items() if "GRAPH" not in str(a.type)}
        known = {graph.snake_case(a) for a in attributes}
        ours = {"layout", "winograd"}  # how ops over images are computed
        assert properties - (ours - known) == known, name
        for key, attribute in attributes.items():
            default = definition.properties[graph.snake_case(key)].default_value
            kind = str(attribute.type).split(".")[-1]
            if kind == "FLOAT" and attribute.default_value.type:
                assert graph.value_of(default) == attribute.default_value.f, (name, key)
            if kind == "STRING" and attribute.default_value.type:
                assert graph.value_of(default) == attribute.default_value.s.decode(), (name, key)
            if kind == "INT" and attribute.default_value.type and isinstance(graph.value_of(default), int):
                assert graph.value_of(default) == attribute.default_value.i, (name, key)


def round_trip(module):
    text = str(module)
    context = Context()
    for dialect in (Builtin, Func, Test, GRAPH):
        context.load_dialect(dialect)
    again = Parser(context, text).parse_module()
    again.verify()
    assert module.is_structurally_equivalent(again)
    assert str(again) == text
    return text


def test_text_round_trips_with_absent_operands_and_results():
    module, (x,) = values(t("n", 4, "2*h", 8))
    six = graph.ConstantOp.of(np.float32(6))
    clip = graph.ClipOp.build([x, None, six.output])
    pool = graph.MaxPoolOp.build([clip.output], {"kernel_shape": [2, 2]}, outputs=2)
    norm = graph.LayerNormalizationOp.build([x, six.output], {"axis": 1}, outputs=[True, False, True])
    text = graph.ConstantOp.of(np.array([["a", 'b"c'], ["", "ü"]]))
    module.body.block.add_ops([six, clip, pool, norm, text])
    printed = round_trip(module)
    assert "graph.clip %0, none, %1 :" in printed
    assert '-> (tensor<?x4x?x8xf32, #graph.shape<["n", 4, "2*h", 8]>>, none, tensor<?x1x1x1xf32' in printed


@pytest.mark.parametrize(
    "text",
    [
        "h",
        "12*batch",
        "(h + 1) floordiv 2",
        "3*h*w - 1",
        "4*(h mod 2)",
        "8 - h",
        "max(3, h, w)",
        "min(3, h - w)",
    ],
)
def test_extents_print_as_they_are_read(text):
    assert str(parse_dim(text)) == text.replace("4*(h mod 2)", "4*(h mod 2)")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(2*h + 4) floordiv 2", "h + 2"),
        ("h*w + w*h", "2*w*h"),
        ("h ceildiv 2", "(h + 1) floordiv 2"),
        ("((h - 1) floordiv 2 + 1 - 1) floordiv 2 + 1", "(h + 3) floordiv 4"),
        ("max(h, max(h + 1, 2*w))", "max(2*w, h + 1)"),
        ("(h*w + w) floordiv (h + 1)", "w"),
    ],
)
def test_equal_extents_are_one_object(left, right):
    assert parse_dim(left) == parse_dim(right)


@pytest.mark.parametrize(
    "text", ["", "h +", "(h", "h h", "max()", "(" * 200 + "h" + ")" * 200, "h/2", "9" * 30]
)
def test_malformed_extents_are_value_errors(text):
    with pytest.raises(ValueError):
        parse_dim(text)


def test_reshape_follows_values_computed_from_shapes():
    module, (x,) = values(t("batch", "seq", 768))
    block = module.body.block

    def add(op):
        block.add_op(op)
        return op.results[0]

    def const(array):
        return add(graph.ConstantOp.of(np.array(array)))

    shape = add(graph.ShapeOp.build([x]))
    batch = add(graph.GatherOp.build([shape, const(0)]))
    seq = add(graph.SliceOp.build([shape, const([1]), const([2])]))
    target = add(
        graph.ConcatOp.build(
            [add(graph.UnsqueezeOp.build([batch, const([0])])), seq, const([12]), const([-1])], {"axis": 0}
        )
    )
    assert [str(d) for d in symbolic_value(target)] == ["batch", "seq", "12", "-1"]
    assert add(graph.ReshapeOp.build([x, target])).type == t("batch", "seq", 12, 64)
    pair = add(graph.MulOp.build([batch, seq]))
    flat = add(graph.ConcatOp.build([pair, const([768])], {"axis": 0}))
    assert add(graph.ReshapeOp.build([x, flat])).type == t("batch*seq", 768)
    round_trip(module)


def test_unknown_extents_get_fresh_symbols_and_keep_them():
    module, (x, y, shape) = values(t("s4", 8), t("m", 8), t(2, element=i64))
    add = graph.AddOp.build([x, y])
    module.body.block.add_op(add)
    assert add.c.type == t("s5", 8)
    assert add.infer_types() == [t("s5", 8)]
    reshaped = graph.ReshapeOp.build([x, shape])
    module.body.block.add_op(reshaped)
    assert reshaped.results[0].type == t("s6", "s7")
    module.verify()


@pytest.mark.parametrize(
    ("left", "right", "joint"),
    [
        ("seq", "max(0, min(512, seq))", "seq"),
        ("min(512, seq)", "seq", "seq"),
        ("3*seq - 2", "seq", "seq"),
        ("seq", "1", "seq"),
        ("seq", "7", "7"),
        ("seq", "seq + 1", None),
        ("seq", "min(1, seq) + 1", None),
        ("seq", "batch", None),
        ("min(512, seq)", "max(2, seq)", None),
    ],
)
def test_extents_that_broadcast_to_a_symbol_whatever_it_is(left, right, joint):
    a, b = parse_dim(left), parse_dim(right)
    found = broadcast_of(a, b)
    assert found == broadcast_of(b, a) == (None if joint is None else parse_dim(joint))
    for seq in range(600):  # numpy's rule, wherever it allows the two
        extents = [evaluate_dim(d, {"seq": seq, "batch": 3}) for d in (a, b)]
        if found is not None and (extents[0] == extents[1] or 1 in extents):
            want = extents[1] if extents[0] == 1 else extents[0]
            assert evaluate_dim(found, {"seq": seq}) == want or min(extents) < 0


def test_verifying_uses_up_no_symbols_and_pieces_keep_theirs():
    module, (x, sizes) = values(t("n", 8), t(3, element=i64))
    split = graph.SplitOp.build([x, sizes], {"axis": 0})
    found = graph.NonZeroOp.build([x], result_types=[tensor_type([2, parse_dim("?")], i64)])
    module.body.block.add_ops([split, found])
    assert [r.type for r in split.results] == [t("s0", 8), t("s1", 8), t("s2", 8)] == split.infer_types()
    module.verify()
    module.verify()
    assert found.infer_types() == [t(2, "s3", element=i64)]


@pytest.mark.parametrize(
    ("name", "types", "attributes", "message"),
    [
        ("MatMul", [t(2, 3), t(4, 5)], {}, "3 is not 4"),
        ("Add", [t(2, 3), t(4)], {}, "do not broadcast"),
        ("Add", [t(2), t(2, element=i64)], {}, "element types f32 and i64"),
        ("Conv", [t(1, 3, 8, 8), t(4, 3, 9, 9)], {}, "reaches over 9 elements"),
        ("Conv", [t(1, 3, 8, 8), t(4, 3, 3, 3)], {"group": 0}, "group 0 must be positive"),
        ("Conv", [t(1, 3, 8, 8), t(4, 3, 3, 3)], {"strides": [1, 0]}, r"strides \[1, 0\] must be 2 positive"),
        ("Conv", [t(1, 3, 8, 8), t(4, 3, 3, 3)], {"pads": [1]}, "has 1 pads, must have 4"),
        ("Transpose", [t(2, 3)], {"perm": [0, 0]}, "must name each of the 2 axes"),
        ("RNN", [t(5, 2, 3), t(1, 4, 3), t(1, 4, 4)], {"hidden_size": 1 << 62}, "and hidden_size: 4 is not"),
        ("Softmax", [t(2, 3)], {"axis": 2}, r"axis 2 must lie in \[-2, 2\)"),
        ("Concat", [t(2, 3), t(3, 3)], {"axis": 1}, "2 is not 3"),
        ("Einsum", [t(2, 3)], {"equation": "i1j->i"}, "may hold letters"),
        ("Relu", [t(2), t(2)], {}, "takes at most 1"),
        ("Relu", [], {}, "is required"),
        ("Concat", [t(2)], {}, "attribute 'axis' is required"),
        ("Relu", [t(2)], {"alpha": 1}, "has no attribute 'alpha'"),
    ],
)
def test_what_cannot_be_is_refused_with_numbers(name, types, attributes, message):
    _, operands = values(*types)
    with pytest.raises(VerifyException, match=message):
        ONNX_NAMES[name].build(operands, attributes)


def test_a_wrong_result_type_is_refused_and_a_less_known_one_is_not():
    _, (x,) = values(t(2, 3))
    graph.ReluOp.build([x], result_types=[t("n", 3)]).verify()
    with pytest.raises(VerifyException, match="must be tensor<2x3xf32>"):
        graph.ReluOp.build([x], result_types=[t(2, 4)]).verify()


def test_every_op_says_what_it_does():
    docs = [op.__doc__ for op in ONNX_NAMES.values()]
    assert all(docs) and len(set(docs)) == len(docs)
