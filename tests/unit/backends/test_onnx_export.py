"""Models through the graph level and out again: ONNX's checker accepts them, and ONNX Runtime computes the same."""

from io import StringIO

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from stepwell.backends.onnx import export_onnx, write_onnx
from stepwell.compat import new_context, parse_module
from stepwell.compiler import Compilation, Options
from stepwell.diagnostics import UnsupportedOperation
from stepwell.errors import Error
from stepwell.frontends.onnx import import_onnx
from stepwell.registry import DIALECTS
from stepwell.tools.stepwell_translate import main
from tests.conformance.cases import all_cases
from tests.models.zoo import light, random_feeds
from tests.small_models import MODELS

SAMPLE = 30
"""One of so many of ONNX's backend tests is taken."""

ort.set_default_logger_severity(4)


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def round_trip(model):
    ctx = new_context(DIALECTS)
    exported = export_onnx(import_onnx(model, ctx), ctx)
    onnx.checker.check_model(exported, full_check=infers(model))
    return exported


def infers(model):
    """
    Whether ONNX's own shape inference accepts the original. It is not asked about sequences: it wants the rank of
    what an empty one holds.
    """
    if "Sequence" in str({node.op_type for node in model.graph.node}) or "sequence_type" in str(model.graph):
        return False
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return False
    return True


def assert_same(got, want, rtol=1e-4, atol=1e-5):
    if isinstance(want, list):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other, rtol, atol)
    elif want is None:
        assert got is None
    else:
        got, want = np.asarray(got), np.asarray(want)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind in "fc":
            np.testing.assert_allclose(got, want, rtol, atol)
        else:
            np.testing.assert_array_equal(got, want)


def assert_runs_alike(model, exported, feeds):
    assert_same(session(exported).run(None, feeds), session(model).run(None, feeds))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
def test_small_models_at_every_level_of_optimisation(name, opt_level):
    """From -O2 on convolutions are channels last, which ONNX says with transposes."""
    model = MODELS[name]()
    compilation = Compilation(Options(opt_level=opt_level))
    compilation.read(model)
    compilation.lower_to("graph")
    exported = export_onnx(compilation.module, compilation.ctx)
    onnx.checker.check_model(exported, full_check=True)
    assert ("Transpose" in {n.op_type for n in exported.graph.node}) == (
        opt_level >= 2 and name.startswith("conv")
    )
    assert_runs_alike(model, exported, random_feeds(model, 0, {"batch": 3}))


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_whole_models(name):
    model = light(name)
    assert_runs_alike(model, round_trip(model), random_feeds(model, 0))


def failure_of(case):
    """What is wrong with the export of a backend test: None, or "" where there is nothing to compare."""
    model = case.model()
    names = [info.name for info in model.graph.input]
    feeds = [
        {n: np.asarray(v) if isinstance(v, np.generic) else v for n, v in zip(names, inputs, strict=False)}
        for inputs, _ in case.data_sets()
    ]
    try:
        original = session(model)
        wanted = [original.run(None, feed) for feed in feeds]
    except Exception:  # ONNX Runtime's own limits, as many classes
        return ""
    try:
        exported = round_trip(model)
    except (Error, UnsupportedOperation):
        return ""
    except Exception as error:
        return f"{case.name}: export: {error}"
    try:
        runs = session(exported)
        for feed, want in zip(feeds, wanted, strict=True):
            assert_same(runs.run(None, feed), want, 1e-3, 1e-5)
    except Exception as error:
        return f"{case.name}: {str(error)[:300]}"
    return None


def test_backend_cases():
    random = ("_training_", "bernoulli", "dropout", "random")
    cases = [
        case for name, case in all_cases().items()
        if name.startswith("node/") and not any(word in name for word in random)
    ][::SAMPLE]  # fmt: skip
    results = [failure_of(case) for case in cases]
    assert [result for result in results if result] == []
    assert results.count(None) > 0.6 * len(cases), "most of them are compared"


@pytest.mark.parametrize("labels", ["int64s = [1, 0]", 'strings = ["no", "\u6f22\u5b57"]'])
def test_maps_and_labels(labels):
    """Operators of `ai.onnx.ml` that the graph dialect has as such."""
    kind = labels.split(" ")[0]
    key = "string" if kind == "strings" else "int64"
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
      m (float[n,2] x, map({key},float[]) m, map(int64,float[]) k)
          => (seq(map({key},float[])) scores, float[1,2] row, string[1,s] sparse, string[n] label) {{
        p = Softmax (x)   scores = ai.onnx.ml.ZipMap <classlabels_{labels}> (p)
        row = ai.onnx.ml.DictVectorizer <{kind.removesuffix("s")}_vocabulary = {labels.split(" = ")[1]}> (m)
        sparse = ai.onnx.ml.CastMap <cast_to = "TO_STRING", map_form = "SPARSE", max_map = 3> (k)
        best = ArgMax <axis = 1, keepdims = 0> (x)
        label = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["a", "b"]> (best)
      }}""")
    exported = round_trip(model)
    assert {(n.op_type, n.domain) for n in exported.graph.node if n.domain} == {
        (name, "ai.onnx.ml") for name in ("ZipMap", "DictVectorizer", "CastMap", "LabelEncoder")
    }
    held = {"no": 2.5} if key == "string" else {0: 2.5}
    feeds = {"x": np.array([[1, 2], [4, 3]], np.float32), "m": held, "k": {2: 0.5}}
    for got, want in zip(session(exported).run(None, feeds), session(model).run(None, feeds), strict=True):
        assert got == want if isinstance(want, list) else got.tolist() == want.tolist()


def test_extents_that_nothing_is_known_of_are_not_all_equal():
    """Two sequences of vectors, each of its own lengths."""
    assert failure_of(all_cases()["node/test_sequence_map_identity_2_sequences"]) is None


def tensor(name, dtype, *shape):
    return helper.make_tensor_value_info(name, dtype, list(shape))


def test_control_flow_with_captures_and_repeated_results():
    """A loop whose body reads a value from outside, hands out an argument as it is, and one value twice."""
    body = helper.make_graph(
        [helper.make_node("Add", ["carried", "x"], ["sum"]), helper.make_node("Identity", ["c"], ["c_out"])],
        "body",
        [
            tensor("i", TensorProto.INT64),
            tensor("c", TensorProto.BOOL),
            tensor("carried", TensorProto.FLOAT, 3),
        ],
        [
            tensor("c_out", TensorProto.BOOL),
            tensor("sum", TensorProto.FLOAT, 3),
            tensor("sum", TensorProto.FLOAT, 3),
        ],
    )
    then = helper.make_graph(
        [helper.make_node("Neg", ["last"], ["t"])], "t", [], [tensor("t", TensorProto.FLOAT, 3)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "e", [], [tensor("e", TensorProto.FLOAT, 3)]
    )
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["n", "", "x"], ["last", "all"], body=body),
            helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
        ],
        "g",
        [tensor("x", TensorProto.FLOAT, 3), tensor("n", TensorProto.INT64), tensor("flag", TensorProto.BOOL)],
        [
            tensor("y", TensorProto.FLOAT, 3),
            tensor("all", TensorProto.FLOAT, "steps", 3),
            tensor("last", TensorProto.FLOAT, 3),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    exported = round_trip(model)
    for flag in (True, False):
        feeds = {"x": np.array([1, 2, 4], np.float32), "n": np.array(3), "flag": np.array(flag)}
        assert_runs_alike(model, exported, feeds)


def test_names_and_metadata_survive():
    """Outputs that are inputs, constants or one value twice keep their names; a hint that is taken gets a number."""
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Relu", ["v3"], ["a"], name="first"), helper.make_node("Identity", ["v3"], ["same"]),
         helper.make_node("Identity", ["a"], ["b"]), helper.make_node("Identity", ["w"], ["k"])],
        "g", [tensor("v3", TensorProto.FLOAT, "n", 2)],
        [tensor(name, TensorProto.FLOAT, *shape) for name, shape in
         {"a": ("n", 2), "b": ("n", 2), "same": ("n", 2), "k": (2,)}.items()],
        [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {"author": "someone"})
    exported = round_trip(model)
    assert [i.name for i in exported.graph.input] == ["v3"]
    assert [o.name for o in exported.graph.output] == ["a", "b", "same", "k"]
    assert "first" in {node.name for node in exported.graph.node}
    assert [d.dim_param or d.dim_value for d in exported.graph.input[0].type.tensor_type.shape.dim] == [
        "n",
        2,
    ]
    assert {p.key: p.value for p in exported.metadata_props} == {"author": "someone"}
    assert_runs_alike(model, exported, {"v3": np.array([[-1, 2]], np.float32)})


@pytest.mark.parametrize(
    ("node", "dtype", "opset"),
    [
        (
            helper.make_node("Transpose", ["x"], ["y"]),
            TensorProto.FLOAT,
            21,
        ),  # newer forms only know more types
        (helper.make_node("Transpose", ["x"], ["y"]), TensorProto.FLOAT4E2M1, 23),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16), TensorProto.FLOAT, 21),
        (
            helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0, round_mode="down"),
            TensorProto.FLOAT,
            24,
        ),
        (helper.make_node("Swish", ["x"], ["y"]), TensorProto.FLOAT, 24),  # did not exist before
    ],
)
def test_opset_is_the_oldest_that_says_the_same(node, dtype, opset):
    made = {a.name: a.i for a in node.attribute}.get("to", dtype)
    graph = helper.make_graph(
        [node], "g", [tensor("x", dtype, 2, 3)], [helper.make_tensor_value_info("y", made, None)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=11)
    assert round_trip(model).opset_import[0].version == opset


def test_what_is_no_onnx_is_refused_by_name():
    ctx = new_context(DIALECTS)
    module = parse_module(
        ctx,
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {\n  %y = math.erf %x : tensor<2xf32>\n  func.return %y : tensor<2xf32>\n}",
        "m.ir",
    )
    with pytest.raises(
        UnsupportedOperation, match=r"m.ir:2:8: math.erf: ONNX has no such operator; export the graph level"
    ):
        export_onnx(module, ctx)
    with pytest.raises(UnsupportedOperation, match="no function @main"):
        export_onnx(parse_module(ctx, "func.func @f() {\n  func.return\n}"), ctx)
    text = "func.func @main() -> tensor<99xf32> {\n  %y = graph.constant dense_resource<lost> : tensor<99xf32>\n  func.return %y : tensor<99xf32>\n}"
    with pytest.raises(Error, match=r"put the sidecar file beside the \.ir file"):
        export_onnx(parse_module(ctx, text), ctx)


def run(*argv):
    out, err = StringIO(), StringIO()
    return main([str(word) for word in argv], StringIO(), out, err), out.getvalue(), err.getvalue()


def test_command(tmp_path):
    model = MODELS["conv_net"]()
    onnx.save(model, tmp_path / "a.onnx")
    assert run(tmp_path / "a.onnx", "-o", tmp_path / "a.ir")[0] == 0
    assert run(tmp_path / "a.ir", "--to", "onnx", "-o", tmp_path / "b.onnx") == (0, "", "")
    assert_runs_alike(model, onnx.load(tmp_path / "b.onnx"), random_feeds(model, 0))
    code, _, err = run(tmp_path / "a.ir", "--to", "onnx")
    assert code == 1 and "give -o FILE" in err
    code, _, err = run(tmp_path / "a.ir", "--to", "onnx", "-o", tmp_path / "no" / "b.onnx")
    assert code == 1 and "cannot be written" in err


def test_large_weights_lie_beside_the_model(tmp_path):
    model, ctx = MODELS["mlp"](), new_context(DIALECTS)
    for _ in range(2):  # the second time over files that are there
        write_onnx(import_onnx(model, ctx), ctx, tmp_path / "m.onnx", inside_bytes=100)
    assert (tmp_path / "m.onnx.data").stat().st_size >= 4 * 20 * 70
    assert (tmp_path / "m.onnx").stat().st_size < 4000
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    assert_runs_alike(model, onnx.load(tmp_path / "m.onnx"), random_feeds(model, 0))
