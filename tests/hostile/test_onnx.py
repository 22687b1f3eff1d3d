"""Hostile ONNX files: each gives one clear error with the right exit code, or compiles."""

import os
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hostile import corpus
from hostile.box import run_boxed
from hostile.corpus import model
from hostile.fuzz import compile_onnx
from onnx import TensorProto as T
from onnx import helper as h

F = T.FLOAT
X = [("x", F, [2, 3])]
Y = [("y", F, None)]


def n(kind, inputs, outputs, **attributes):
    return corpus._node(kind, inputs, outputs, **attributes)


def ints(*values):
    return np.array(values, np.int64)


def one(kind, inputs="x", weights=None, source=X, result=Y, **attributes):
    """A model of one node."""
    return model([n(kind, inputs, "y", **attributes)], source, result, weights)


def nested_ifs(depth):
    branch = h.make_graph([n("Neg", "x", "r")], "leaf", [], [h.make_tensor_value_info("r", F, [2, 3])])
    for level in range(depth):
        node = n("If", "c", "r", then_branch=branch, else_branch=branch) if level < 6 else n(
            "If", "c", "r", then_branch=branch,
            else_branch=h.make_graph([n("Neg", "x", "r")], "e", [], [h.make_tensor_value_info("r", F, [2, 3])]))  # fmt: skip
        branch = h.make_graph([node], f"level{level}", [], [h.make_tensor_value_info("r", F, [2, 3])])
    top = n("If", "c", "y", then_branch=branch, else_branch=branch)
    return model([top], [*X, ("c", T.BOOL, [])], Y)


def deep_ifs(depth):
    """The bytes of a model with `depth` nested Ifs; put together by hand, since protobuf refuses to."""

    def piece(field, data):
        size, length = b"", len(data)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        tag = field << 3 | 2
        return (
            (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7]))
            + size
            + bytes([length])
            + data
        )

    def attribute(name, graph):
        return piece(5, piece(1, name) + piece(6, graph) + bytes([20 << 3 & 127 | 128, 20 >> 4, 5]))

    leaf = h.make_graph(
        [n("Neg", "x", "r")], "leaf", [], [h.make_tensor_value_info("r", F, [2, 3])]
    ).SerializeToString()
    interface = h.make_graph([], "g", [], [h.make_tensor_value_info("r", F, [2, 3])]).SerializeToString()
    graph = leaf
    for _ in range(depth):
        node = piece(1, b"c") + piece(2, b"r") + piece(4, b"If")
        graph = (
            piece(1, node + attribute(b"then_branch", graph) + attribute(b"else_branch", leaf)) + interface
        )
    outside = model([], [*X, ("c", T.BOOL, [])], [("r", F, None)])
    return outside.SerializeToString() + piece(
        7, piece(1, node + attribute(b"then_branch", graph) + attribute(b"else_branch", leaf))
    )


def functions(bodies, count=1):
    """A model that calls `local.f0`; `bodies` lists what each function calls."""
    made = [
        h.make_function("local", f"f{i}", ["a"], [f"v{len(calls)}"],
                        [h.make_node(name, [f"v{k}" if k else "a"], [f"v{k + 1}"], domain="local" if name[0] == "f" else "")
                         for k, name in enumerate(calls)], [h.make_opsetid("", 21), h.make_opsetid("local", 1)])
        for i, calls in enumerate(bodies)
    ]  # fmt: skip
    return model([h.make_node("f0", ["x"], ["y"], domain="local")], X, Y, functions=made)


def cycle():
    return model([n("Add", "x b", "a"), n("Relu", "a", "b"), n("Neg", "b", "y")], X, Y)


def raw(dims, data, kind=F):
    proto = one("Add", "x w", {"w": np.zeros((2, 3), np.float32)})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = dims
    tensor.data_type = kind
    tensor.raw_data = data
    return proto


def edited(name, change):
    proto = onnx.ModelProto()
    proto.CopyFrom(corpus.onnx_models()[name])
    change(proto)
    return proto


def with_names(name):
    """Inputs, outputs, nodes, symbols and metadata of one name."""
    proto = model(
        [n("MatMul", "x w", "y")],
        [("x", F, ["k", 2])],
        [("y", F, ["k", 2])],
        {"w": np.eye(2, dtype=np.float32)},
    )
    graph = proto.graph
    graph.name = graph.node[0].name = proto.producer_name = proto.doc_string = name
    graph.input[0].name = graph.node[0].input[0] = "i" + name
    graph.output[0].name = graph.node[0].output[0] = "o" + name
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = name
    proto.metadata_props.add(key=name, value=name)
    return proto


def name_in_error(name):
    proto = with_names(name)
    proto.graph.node[0].input[1] = "w" + name
    return proto


def external(proto, location, **more):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = T.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))


def set_initializer(proto, name, value):
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))


NAMES = {
    "quotes": '"; DROP "\'',
    "newline": "a\nb\r\nc\td",
    "escape": "\x1b[31m\x07",
    "unicode": "größe→λ名\u202e\u2028",
    "format": "%s%n%d{0}{x}${HOME}$(id)`id`",
    "long": "n" * 10_000,
    "path": "../../etc/passwd",
    "dash": "--help",
    "mlir": '%0 = "x"() : () -> (f32) // #map -->',
    "nul": "a\0b",
}
INT_MIN = {T.INT32: -(2**31), T.INT64: -(2**63)}

# name: (model or bytes, exit code, or 0 where it must compile, word of the message)
CASES = {
    "empty": (b"", 1, "empty"),
    "text": (b"not a model, but words", 1, "not an ONNX model"),
    "zeros": (bytes(1000), 1, ""),
    "ort_format": (b"\x00" * 4 + b"ORTM" + bytes(64), 1, ".ort"),
    "truncated": (corpus.onnx_models()["conv"].SerializeToString()[:-100], 1, ""),
    "no_graph": (onnx.ModelProto(ir_version=8).SerializeToString(), 1, "no graph"),
    "no_outputs": (model([n("Relu", "x", "y")], X, []), 1, "output"),
    "cycle": (cycle(), 1, "cycle"),
    "self_loop": (model([n("Add", "x y", "y")], X, Y), 1, "cycle"),
    "undefined": (model([n("Add", "x z", "y")], X, Y), 1, "nothing defines"),
    "defined_twice": (model([n("Relu", "x", "y"), n("Neg", "x", "y")], X, Y), 1, "twice"),
    "unsupported": (one("NoSuchOperator"), 2, "not supported"),
    "foreign_domain": (model([h.make_node("Op", ["x"], ["y"], domain="x.y")], X, Y), 2, "x.y.Op"),
    "no_opset": (edited("gemm", lambda m: m.ClearField("opset_import")), 1, "opset"),
    "opset_future": (edited("gemm", lambda m: m.opset_import[0].__setattr__("version", 999)), 1, "newer"),
    "opset_zero": (edited("gemm", lambda m: m.opset_import[0].__setattr__("version", 0)), 1, "opset"),
    "opset_huge": (edited("gemm", lambda m: m.opset_import[0].__setattr__("version", 2**62)), 1, "newer"),
    "dims_lie_large": (raw([1 << 40], b"\0" * 24), 1, "bytes"),
    "dims_lie_overflow": (raw([1 << 32, 1 << 32], b""), 1, "elements"),
    "dims_negative": (raw([-2, -3], b"\0" * 24), 1, "extent"),
    "dims_rank_1000": (raw([1] * 1000, b"\0" * 4), 1, "rank"),
    "dims_zero_huge": (raw([0, 1 << 62], b""), 1, ""),
    "data_short": (raw([2, 3], b"\0" * 23), 1, "23 bytes"),
    "data_type_unknown": (raw([2, 3], b"\0" * 24, 4711), 1, "type"),
    "data_type_complex": (raw([2, 3], b"\0" * 48, T.COMPLEX64), None, ""),
    "input_rank_1000": (one("Relu", source=[("x", F, [1] * 1000)]), 1, "rank"),
    "input_extent_2_62": (one("Relu", source=[("x", F, [1 << 62])]), 1, "addressed"),
    "input_extents_overflow": (one("Relu", source=[("x", F, [1 << 31, 1 << 31, 4])]), 1, "addressed"),
    "input_extent_negative": (one("Relu", source=[("x", F, [-5, 3])]), 0, ""),
    "input_no_shape": (one("Relu", source=[("x", F, None)]), 2, "rank"),
    "input_no_type": (edited("gemm", lambda m: m.graph.input[0].ClearField("type")), 2, "type"),
    "input_string": (one("Relu", source=[("x", T.STRING, [2])]), 1, "elements"),
    "expand_2_40": (one("Expand", "x s", {"s": ints(1 << 40, 2, 3)}), 1, "GiB"),
    "expand_2_40_constant": (one("Expand", "c s", {"c": np.float32([1]), "s": ints(1 << 40)}), 1, "GiB"),
    "expand_mismatch": (one("Expand", "x s", {"s": ints(5, 5)}), 1, "Expand"),
    "tile_2_40": (one("Tile", "x r", {"r": ints(1 << 20, 1 << 20)}), 1, "GiB"),
    "tile_negative": (one("Tile", "x r", {"r": ints(-1, 2)}), 1, "Tile"),
    "range_2_40": (one("Range", "a b c", {"a": np.int64(0), "b": np.int64(1 << 40), "c": np.int64(1)}, source=[], result=[("y", T.INT64, None)]), 1, "GiB"),
    "range_step_zero": (one("Range", "a b c", {"a": np.int64(0), "b": np.int64(9), "c": np.int64(0)}, source=[], result=[("y", T.INT64, None)]), 1, "Range"),
    "constant_of_shape_2_40": (one("ConstantOfShape", "s", {"s": ints(1 << 40)}, source=[]), 1, "GiB"),
    "constant_of_shape_rank_1000": (one("ConstantOfShape", "s", {"s": ints(*[1] * 1000)}, source=[]), 1, "rank"),
    "constant_of_shape_negative": (one("ConstantOfShape", "s", {"s": ints(-1)}, source=[]), 1, ""),
    "one_hot_2_40": (one("OneHot", "i d v", {"i": ints(1, 2), "d": np.int64(1 << 40), "v": np.float32([0, 1])}, source=[]), 1, "GiB"),
    "resize_2_31": (one("Resize", "x - s", {"s": np.float32([2.0**30, 1])}, mode="linear"), 1, ""),
    "resize_nan": (one("Resize", "x - s", {"s": np.float32([np.nan, 1])}, mode="linear"), 1, ""),
    "resize_negative": (one("Resize", "x - s", {"s": np.float32([-2, 1])}, mode="linear"), 1, ""),
    "pad_2_40": (one("Pad", "x p", {"p": ints(1 << 40, 0, 0, 0)}), 1, "GiB"),
    "pad_reflect_too_far": (one("Pad", "x p", {"p": ints(100, 0, 0, 0)}, mode="reflect"), None, ""),
    "concat_2_40": (model([n("Tile", "x r", "t"), n("Concat", "t t", "y", axis=0)], X, Y, {"r": ints(1 << 33, 1)}), 1, "GiB"),
    "conv_pads_2_40": (one("Conv", "x w", {"w": np.ones((1, 1, 3, 3), np.float32)}, source=[("x", F, [1, 1, 8, 8])], pads=[1 << 40] * 4, strides=[1 << 39] * 2), None, ""),
    "conv_group_0": (one("Conv", "x w", {"w": np.ones((1, 1, 3, 3), np.float32)}, source=[("x", F, [1, 1, 8, 8])], group=0), 1, "group"),
    "conv_group_3": (one("Conv", "x w", {"w": np.ones((4, 1, 3, 3), np.float32)}, source=[("x", F, [1, 4, 8, 8])], group=3), 1, "group"),
    "conv_stride_0": (one("Conv", "x w", {"w": np.ones((1, 1, 3, 3), np.float32)}, source=[("x", F, [1, 1, 8, 8])], strides=[0, 1]), 1, "stride"),
    "conv_dilations_rank": (one("Conv", "x w", {"w": np.ones((1, 1, 3, 3), np.float32)}, source=[("x", F, [1, 1, 8, 8])], dilations=[1, 1, 1]), 1, "dilations"),
    "conv_kernel_larger": (one("Conv", "x w", {"w": np.ones((1, 1, 9, 9), np.float32)}, source=[("x", F, [1, 1, 8, 8])]), 1, ""),
    "pool_kernel_0": (one("MaxPool", source=[("x", F, [1, 1, 8, 8])], kernel_shape=[0, 2]), 1, "kernel"),
    "pool_kernel_2_40": (one("AveragePool", source=[("x", F, [1, 1, 8, 8])], kernel_shape=[1 << 40, 2], pads=[1 << 39, 0, 1 << 39, 0]), 1, ""),
    "gather_out_of_range": (one("Gather", "x i", {"i": ints(7)}), None, ""),
    "gather_axis": (one("Gather", "x i", {"i": ints(0)}, axis=5), 1, "axis"),
    "transpose_perm": (one("Transpose", perm=[0, 0]), 1, "perm"),
    "reshape_two_unknown": (one("Reshape", "x s", {"s": ints(-1, -1)}), 1, ""),
    "reshape_count": (one("Reshape", "x s", {"s": ints(7)}), 1, "Reshape"),
    "reshape_overflow": (one("Reshape", "x s", {"s": ints(1 << 33, 1 << 33)}), 1, ""),
    "reshape_rank_1000": (one("Reshape", "x s", {"s": ints(*[1] * 998, 2, 3)}), None, ""),
    "slice_step_0": (one("Slice", "x a b c d", {"a": ints(0), "b": ints(1), "c": ints(0), "d": ints(0)}), 1, "step"),
    "slice_int_min": (one("Slice", "x a b c d", {"a": ints(INT_MIN[7]), "b": ints(2**63 - 1), "c": ints(0), "d": ints(1)}), 0, ""),
    "slice_step_int_min": (one("Slice", "x a b c d", {"a": ints(2**63 - 1), "b": ints(INT_MIN[7]), "c": ints(0), "d": ints(INT_MIN[7])}), 0, ""),
    "einsum_digit": (one("Einsum", equation="i1j->i"), 1, "Einsum"),
    "einsum_empty": (one("Einsum", equation=""), 1, "Einsum"),
    "einsum_arrow": (one("Einsum", equation="->->ij"), 1, "Einsum"),
    "einsum_dots": (one("Einsum", equation="....ij->ij"), 1, "Einsum"),
    "split_zero": (model([n("Split", "x", "y", num_outputs=0)], X, Y), 1, "Split"),
    "split_2_40": (model([n("Split", "x", "y", num_outputs=1 << 40)], X, Y), 1, "Split"),
    "topk_too_many": (model([n("TopK", "x k", "y i")], X, Y, {"k": ints(100)}), 1, "TopK"),
    "squeeze_2": (one("Squeeze", "x a", {"a": ints(0)}), 1, "Squeeze"),
    "unsqueeze_twice": (one("Unsqueeze", "x a", {"a": ints(0, 0)}), 1, "Unsqueeze"),
    "cast_unknown": (one("Cast", to=4711), 1, "Cast"),
    "attribute_type": (one("Softmax", axis="last"), 1, "axis"),
    "attribute_unknown": (one("Relu", bogus=1), 1, "bogus"),
    "attribute_nan": (one("LeakyRelu", alpha=float("nan")), 0, ""),
    "input_count": (model([n("Relu", "x x x", "y")], X, Y), 1, "inputs"),
    "output_count": (model([n("Relu", "x", "y z")], X, Y), 1, "outputs"),
    "types_differ": (one("Add", "x w", {"w": ints(1)}), 1, "elements"),
    "output_declared_wrong": (one("Relu", result=[("y", F, [3, 2])]), 1, "declared"),
    "output_type_wrong": (one("Relu", result=[("y", T.INT64, [2, 3])]), 1, "declared"),
    "external_bytes": (edited("gemm", lambda m: external(m, "w.bin")), 1, "directory"),
    "if_branches_differ": (model([n("If", "c", "y",
        then_branch=h.make_graph([], "t", [], [h.make_tensor_value_info("x", F, [2, 3])]),
        else_branch=h.make_graph([], "e", [], []))], [*X, ("c", T.BOOL, [])], Y), 1, ""),
    "if_256_deep": (deep_ifs(256), 1, "decoded"),
    "if_25_deep": (deep_ifs(25), 0, ""),
    "if_doubled": (nested_ifs(12), None, ""),
    "function_calls_itself": (functions([["f0"]]), 1, "itself"),
    "functions_in_a_ring": (functions([["f1"], ["f2"], ["f0"]]), 1, "itself"),
    "functions_doubling": (functions([[f"f{i + 1}"] * 2 for i in range(30)] + [["Neg"]]), 1, "nodes"),
    "functions_deep": (functions([[f"f{i + 1}"] for i in range(300)] + [["Neg"]]), 1, "deep"),
    "loop_huge": (edited("loop", lambda m: set_initializer(m, "n", np.int64(2**63 - 1))), 0, ""),
    "loop_negative": (edited("loop", lambda m: set_initializer(m, "n", np.int64(-1))), 0, ""),
    "output_is_input": (model([], X, [("x", F, [2, 3])]), 0, ""),
    "output_is_initialiser": (model([], X, [("w", F, [2])], {"w": np.float32([1, 2])}), 0, ""),
    "output_twice": (model([n("Relu", "x", "y")], X, [*Y, *Y]), None, ""),
    "no_inputs": (one("Relu", "w", {"w": np.float32([1, -1])}, source=[]), 0, ""),
    "zero_elements": (model([n("MatMul", "x w", "m"), n("ReduceSum", "m", "y", keepdims=0)], [("x", F, [0, 3])], Y, {"w": np.ones((3, 4), np.float32)}), 0, ""),
    "zero_contraction": (model([n("MatMul", "x w", "y")], [("x", F, [2, 0])], Y, {"w": np.ones((0, 4), np.float32)}), 0, ""),
    "zero_softmax": (one("Softmax", source=[("x", F, [3, 0])]), 0, ""),
    "zero_max": (one("ReduceMax", source=[("x", F, [3, 0])]), None, ""),
    "div_int_min": (model([n("Div", "a b", "y")], [], [("y", T.INT32, [2])], {"a": np.int32([-(2**31)] * 2), "b": np.int32([-1, 0])}), 0, ""),
    "mod_int_min": (model([n("Mod", "a b", "y")], [], [("y", T.INT64, [2])], {"a": ints(-(2**63), 5), "b": ints(-1, 0)}), 0, ""),
    "shift_100": (model([n("BitShift", "a b", "y", direction="LEFT")], [], [("y", T.UINT8, [1])], {"a": np.uint8([255]), "b": np.uint8([200])}), 0, ""),
    "pow_overflow": (model([n("Pow", "a b", "y")], [], [("y", T.INT32, [2])], {"a": np.int32([2, 0]), "b": np.int32([200, -1])}), 0, ""),
    "cast_nan": (model([n("Cast", "a", "y", to=T.INT32)], [], [("y", T.INT32, [3])], {"a": np.float32([np.nan, np.inf, -1e30])}), 0, ""),
    **{f"names_{key}": (with_names(name), None if key == "nul" else 0, "") for key, name in NAMES.items()},
    **{f"error_names_{key}": (name_in_error(name), 1, "nothing defines") for key, name in NAMES.items()},
}  # fmt: skip


def as_bytes(proto):
    return proto if isinstance(proto, bytes) else proto.SerializeToString()


@pytest.fixture(scope="module")
def outcomes():
    """How each case ends, all in one child with limits."""
    compile_onnx(corpus.onnx_models()["gemm"].SerializeToString())
    runs = [partial(compile_onnx, as_bytes(proto)) for proto, _, _ in CASES.values()]
    return dict(zip(CASES, run_boxed(runs), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(name, outcomes):
    _, code, word = CASES[name]
    outcome = outcomes[name]
    assert not outcome.is_fault, outcome.text
    assert code is None or outcome.code == code, outcome
    assert word in outcome.text, outcome
    assert outcome.text.count("\n") <= 2 and len(outcome.text) < 1000, outcome.text
    assert all(c.isprintable() or c == "\n" for c in outcome.text), repr(outcome.text)


def test_a_chain_of_10_000_nodes():
    names = ["x", *(f"v{i}" for i in range(9_999)), "y"]
    nodes = [n("Relu" if i % 2 else "Neg", a, b) for i, (a, b) in enumerate(pairwise(names))]
    started = time.process_time()
    compile_onnx(model(nodes, X, Y).SerializeToString())
    assert time.process_time() - started < 60


LOCATIONS = {
    "../../etc/passwd": "relative",
    "/etc/passwd": "relative",
    "link": "link",
    "hard": "link",
    "pipe": "plain file",
    "folder": "plain file",
    "loop/w.bin": "open",
    "absent.bin": "open",
    "a\0b": "relative",
    "file:///etc/passwd": "relative",
    "short.bin": "bytes",
    "": "location",
    "x" * 5000: "open",
}


@pytest.mark.parametrize("location", LOCATIONS, ids=lambda text: repr(text[:20]))
def test_external_data_stays_beside_the_model(tmp_path, location):
    (tmp_path / "secret").write_bytes(bytes(160))
    os.symlink("secret", tmp_path / "link")
    os.link(tmp_path / "secret", tmp_path / "hard")
    os.symlink("/", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "short.bin").write_bytes(bytes(159))
    proto = edited("gemm", lambda m: external(m, location))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    (outcome,) = run_boxed([lambda: compile_onnx(path)])
    assert (outcome.kind, outcome.code) == ("error", 1), outcome
    assert LOCATIONS[location] in outcome.text and len(outcome.text) < 600, outcome.text


@pytest.mark.parametrize(
    "ranges", [{"offset": 2**63 - 1}, {"offset": 8, "length": 160}, {"length": 2**64}, {"offset": -1}, {"__class__": 1}]
)  # fmt: skip
def test_external_ranges(tmp_path, ranges):
    (tmp_path / "w.bin").write_bytes(bytes(160))
    (tmp_path / "m.onnx").write_bytes(
        edited("gemm", lambda m: external(m, "w.bin", **ranges)).SerializeToString()
    )
    (outcome,) = run_boxed([lambda: compile_onnx(tmp_path / "m.onnx")])
    assert (outcome.kind, outcome.code) == ("error", 1), outcome


@pytest.mark.parametrize("name", ["cycle", "unsupported", "truncated", "error_names_newline", "expand_2_40"])
@pytest.mark.parametrize("emit", ["so", "llvm"])
def test_command_line_in_a_fresh_process(tmp_path, name, emit):
    proto, code, word = CASES[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = tmp_path / "in" / " -a \"b'\n%s.onnx"
    path.write_bytes(as_bytes(proto))
    command = [sys.executable, "-m", "stepwell.tools.stepwell", "compile", str(path), "--emit", emit, "-o", str(tmp_path / "out" / "m")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and word in done.stderr
    said = [line for line in done.stderr.split("\n") if line and not line.startswith("stepwell: ")]
    assert "Traceback" not in done.stderr and 1 <= len(said) <= 2
    assert os.listdir(tmp_path / "out") == [] and done.stdout == ""
