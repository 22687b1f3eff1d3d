"""What the importer keeps, what it refuses, and how it says so."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stepwell.compat import new_context, parse_module, print_module
from stepwell.errors import Error, ImportModelError, UnsupportedError
from stepwell.frontends.onnx import import_onnx
from stepwell.registry import DIALECTS

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))


def imported(source: object, **dims: int) -> str:
    module = import_onnx(source, new_context(DIALECTS), dims or None)  # pyright: ignore[reportArgumentType]
    module.verify()
    return print_module(module)


def model_of(
    nodes: list[onnx.NodeProto], opset: int = 18, shape: object = ("batch", 4), **more: object
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],  # pyright: ignore[reportArgumentType]
        [onnx.ValueInfoProto(name="y")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


def relu() -> onnx.ModelProto:
    return model_of([helper.make_node("Relu", ["x"], ["y"], name="act")])


def test_names_extents_and_metadata_travel() -> None:
    model = relu()
    model.producer_name = "maker"
    model.metadata_props.add(key="author", value="me")
    text = imported(model)
    assert 'tensor<?x4xf32, #graph.shape<["batch", 4]>> {graph.name = "x"}' in text
    assert 'producer = "maker"' in text
    assert 'properties = {author = "me"}' in text
    assert "opset = {ai.onnx = 18 : i64}" in text


def test_location_names_the_node() -> None:
    ctx = new_context(DIALECTS)
    module = import_onnx(relu(), ctx)
    assert 'loc("act"("model":0:0))' in print_module(module, debuginfo=True)


def test_dims_give_numbers_to_extents() -> None:
    assert "tensor<3x4xf32>" in imported(relu(), batch=3)
    with pytest.raises(ImportModelError, match="no input has the extent rows; the named extents: batch"):
        imported(relu(), rows=3)


def test_extents_that_are_no_identifiers_get_symbols() -> None:
    text = imported(model_of([helper.make_node("Relu", ["x"], ["y"])], shape=("batch size", "2*n", None, -1)))
    assert '#graph.shape<["batch_size", "s0", "s1", "s2"]>' in text
    assert 'stepwell.dim_names = {batch_size = "batch size", s0 = "2*n"}' in text


def test_extents_without_a_name_are_not_taken_for_equal() -> None:
    text = imported(
        model_of([helper.make_node("Relu", ["x"], ["y"])], shape=("?", "?", "None", "None", "-1"))
    )
    assert '#graph.shape<["s0", "s1", "s2", "s3", "s4"]>' in text
    text = imported(model_of([helper.make_node("Relu", ["x"], ["y"])], shape=("a b", "?", "a b", "a_b")))
    assert '#graph.shape<["s0", "s1", "s0", "a_b"]>' in text


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [helper.make_node("Neg", ["t"], ["y"]), helper.make_node("Relu", ["x"], ["t"])]
    text = imported(model_of(nodes))
    assert text.index("graph.relu") < text.index("graph.neg")


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("LeakyRelu", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    attribute = body[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    attribute.ref_attr_name = "slope"
    function = helper.make_function(
        "mine", "leak", ["a"], ["b"], body, [helper.make_opsetid("", 18)], ["slope"]
    )
    model = model_of([helper.make_node("leak", ["x"], ["y"], domain="mine", slope=0.5)])
    model.functions.append(function)
    text = imported(model)
    assert "alpha = 5.000000e-01 : f32" in text
    assert "graph.neg" in text


def test_missing_operators_are_listed_together() -> None:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="first", domain="acme"),
        helper.make_node("Foo", ["a"], ["b"], name="second", domain="acme"),
        helper.make_node("Bar", ["b"], ["y"]),
    ]
    with pytest.raises(UnsupportedError) as caught:
        imported(model_of(nodes))
    assert "2 operators not supported" in str(caught.value)
    assert 'acme.Foo x2 (node "first", "second")' in str(caught.value)
    assert "Bar of opset 18 x1 (node #2)" in str(caught.value)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_light_models_import_and_round_trip(path: Path) -> None:
    text = imported(path)
    assert print_module(parse_module(new_context(DIALECTS), text)) == text


def test_large_weights_import_fast(tmp_path: Path) -> None:
    weights = np.arange(1 << 24, dtype=np.float32).reshape(1 << 12, 1 << 12)
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], shape=(1, 1 << 12))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    start = time.process_time()
    assert "dense_resource" in imported(path)
    assert time.process_time() - start < 1.0


# Hostile files: one line that names the place, and never a traceback, a hang or a read outside the directory.


def _external(path: Path, **entries: str) -> onnx.ModelProto:
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])])
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return model


def _weight(**fields: object) -> Callable[[Path], onnx.ModelProto]:
    def make(path: Path) -> onnx.ModelProto:
        model = model_of([helper.make_node("Add", ["x", "w"], ["y"])])
        model.graph.initializer.append(onnx.TensorProto(name="w", **fields))  # pyright: ignore
        return model

    return make


def _nodes(*nodes: onnx.NodeProto) -> Callable[[Path], onnx.ModelProto]:
    return lambda path: model_of(list(nodes))


def _located(**entries: str) -> Callable[[Path], onnx.ModelProto]:
    return lambda path: _external(path, **entries)


def _doubling(path: Path) -> onnx.ModelProto:
    model = model_of([helper.make_node("f30", ["x"], ["y"], domain="d")])
    for level in range(31):
        inner = [helper.make_node(f"f{level - 1}", [a], [b], domain="d") for a, b in (("a", "t"), ("t", "b"))]
        body = inner if level else [helper.make_node("Neg", ["a"], ["b"])]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
        model.functions.append(helper.make_function("d", f"f{level}", ["a"], ["b"], body, imports))
    return model


def _recursive(path: Path) -> onnx.ModelProto:
    model = model_of([helper.make_node("f", ["x"], ["y"], domain="d")])
    body = [helper.make_node("f", ["a"], ["b"], domain="d")]
    model.functions.append(helper.make_function("d", "f", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
    return model


def _opset(path: Path) -> onnx.ModelProto:
    model = relu()
    model.opset_import[0].version = 9999
    return model


def _twice(path: Path) -> onnx.ModelProto:
    model = relu()
    model.graph.input.add().CopyFrom(model.graph.input[0])
    return model


def _lying_output(path: Path) -> onnx.ModelProto:
    model = relu()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 7]))
    return model


def _symlink(path: Path) -> onnx.ModelProto:
    (path / "link.bin").symlink_to("/etc/passwd")
    return _external(path, location="link.bin", length="16")


def _fifo(path: Path) -> onnx.ModelProto:
    os.mkfifo(path / "pipe")
    return _external(path, location="pipe", length="16")


def _hardlink(path: Path) -> onnx.ModelProto:
    (path / "one").write_bytes(bytes(16))
    os.link(path / "one", path / "two")
    return _external(path, location="two", length="16")


def _short(path: Path) -> onnx.ModelProto:
    (path / "w.bin").write_bytes(bytes(12))
    return _external(path, location="w.bin", offset="4", length="16")


_N = helper.make_node
HOSTILE: dict[str, tuple[Callable[[Path], onnx.ModelProto], str]] = {
    "parent directory": (_located(location="../w.bin"), "no relative path below"),
    "absolute path": (_located(location="/etc/passwd"), "no relative path below"),
    "nul in path": (_located(location="a\0b"), "no relative path below"),
    "url": (_located(location="file:w.bin"), "no relative path below"),
    "no location": (_located(offset="0"), "no location"),
    "unknown key": (_located(location="w", __class__="x"), "unknown or repeated key"),
    "negative offset": (_short, "bytes 4 to 20 lie outside"),
    "symbolic link": (_symlink, "cannot open the external data"),
    "fifo": (_fifo, "no plain file"),
    "hard link": (_hardlink, "no plain file"),
    "missing file": (_located(location="absent.bin"), "cannot open the external data"),
    "too little data": (_weight(data_type=1, dims=[4], raw_data=bytes(12)), "12 bytes of data for a tensor"),
    "too much data": (_weight(data_type=1, dims=[4], float_data=[1.0] * 5), "5 numbers for a tensor"),
    "negative extent": (_weight(data_type=1, dims=[-4], raw_data=b""), "extent -4"),
    "overflowing extents": (_weight(data_type=1, dims=[1 << 62, 1 << 62], raw_data=b""), "elements"),
    "unknown type": (_weight(data_type=99, dims=[1], raw_data=b"1"), "unknown"),
    "wrong field": (_weight(data_type=1, dims=[1], int64_data=[1]), "store it as float_data"),
    "cycle": (_nodes(_N("Add", ["x", "b"], ["a"], name="one"), _N("Neg", ["a"], ["b"]), _N("Neg", ["a"], ["y"])), "cycle"),
    "undefined input": (_nodes(_N("Neg", ["nowhere"], ["y"])), 'reads "nowhere", which nothing defines'),
    "defined twice": (_nodes(_N("Neg", ["x"], ["y"]), _N("Neg", ["x"], ["y"])), "defined twice"),
    "einsum digits": (_nodes(_N("Einsum", ["x"], ["y"], equation="i1j->i")), "(Einsum)"),
    "unknown attribute": (_nodes(_N("Relu", ["x"], ["y"], colour=3)), "unknown attribute"),
    "wrong kind": (_nodes(_N("LeakyRelu", ["x"], ["y"], alpha="a")), "alpha is no float"),
    "missing attribute": (_nodes(_N("Concat", ["x"], ["y"])), "axis is missing"),
    "too few inputs": (_nodes(_N("Add", ["x"], ["y"])), "1 inputs, where 2 to 2 belong"),
    "axis out of range": (_nodes(_N("Concat", ["x", "x"], ["y"], axis=7)), "axis 7"),
    "transpose twice": (_nodes(_N("Transpose", ["x"], ["y"], perm=[0, 0])), "(Transpose)"),
    "group zero": (_nodes(_N("Conv", ["x", "x"], ["y"], group=0)), "(Conv)"),
    "recursion": (_recursive, "calls itself"),
    "doubling": (_doubling, "more than 1000000 nodes"),
    "newer opset": (_opset, "opset 9999 is newer"),
    "input twice": (_twice, "two inputs named"),
    "lying output": (_lying_output, "the graph computes"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_model_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, expected = HOSTILE[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make(tmp_path).SerializeToString())
    with pytest.raises(ImportModelError) as caught:
        import_onnx(path, new_context(DIALECTS))
    text = str(caught.value)
    assert expected in text
    assert text.startswith("model.onnx")
    assert "\n" not in text


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    whole = relu().SerializeToString()
    path = tmp_path / "m.onnx"
    for data in (b"", b"\xff" * 100, whole[: len(whole) // 2], b"....ORTM...."):
        path.write_bytes(data)
        with pytest.raises(ImportModelError, match=r"^m\.onnx: "):
            import_onnx(path, new_context(DIALECTS))
    with pytest.raises(ImportModelError, match="cannot be read"):
        import_onnx(tmp_path / "absent.onnx", new_context(DIALECTS))
    with pytest.raises(ImportModelError, match=r"cannot be read|not a regular file"):
        import_onnx(tmp_path, new_context(DIALECTS))


def test_extents_do_not_blow_up() -> None:
    # Each level doubles the number of factors of the symbolic extent.
    nodes = [_N("Shape", ["x"], ["s0"])]
    for level in range(30):
        nodes.append(_N("Concat", [f"s{level}"] * 2, [f"c{level}"], axis=0))
        nodes.append(_N("ReduceProd", [f"c{level}"], [f"s{level + 1}"], keepdims=1))
    nodes.append(_N("ConstantOfShape", ["s30"], ["y"]))
    start = time.perf_counter()
    imported(model_of(nodes))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("seed", range(300))
def test_mutants_raise_our_errors_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = model_of([_N("MatMul", ["x", "w"], ["t"], name="m"), _N("Softmax", ["t"], ["y"], axis=-1)])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    data = bytearray(model.SerializeToString())
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    try:
        import_onnx(bytes(data), new_context(DIALECTS))
    except Error as error:
        assert type(error).__name__ != "InternalError", str(error)


def test_a_guarded_squeeze_of_an_unknown_extent_wants_one() -> None:
    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=nodes[-1].output[0])])

    guard = [
        helper.make_node("Shape", ["x"], ["s"], start=1),
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Equal", ["s", "one"], ["c"]),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch("then", [helper.make_node("Squeeze", ["x", "one"], ["t"])]),
            else_branch=branch("else", [helper.make_node("Identity", ["x"], ["e"])]),
        ),
    ]
    text = imported(model_of(guard, shape=("batch", "n")))
    assert "graph.squeeze" in text and "graph.if" not in text
    for attribute in guard[-1].attribute:
        if attribute.name == "else_branch":
            attribute.g.node[0].op_type = "ReduceSum"
            attribute.g.node[0].input.append("one")
            attribute.g.node[0].attribute.append(helper.make_attribute("keepdims", 0))
    assert "graph.if" in imported(model_of(guard, shape=("batch", "n")))


def test_a_declared_shape_that_clashes_is_said_by_the_names_of_its_extents() -> None:
    model = relu()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 5]))
    with pytest.raises(
        ImportModelError, match=r"declared as \[rows, 5\], but the graph computes \[batch, 4\];"
    ):
        imported(model)
