"""The operators of `ai.onnx.ml`, one node each, as the interpreter of graphs sees them, against ONNX Runtime."""

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import stepwell
from stepwell.compat import new_context
from stepwell.conversion.graph_to_linalg import GraphToLinalgPass
from stepwell.errors import Error, RunError, UnsupportedError
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS

_RANDOM = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _own_numbers(request: pytest.FixtureRequest) -> None:
    """Each test draws the same numbers whichever ran before it."""
    global _RANDOM
    _RANDOM = np.random.default_rng(list(request.node.name.encode()))


NAN, INF = float("nan"), float("inf")


def floats(*shape: int) -> np.ndarray:
    return _RANDOM.uniform(-2, 2, shape).astype(np.float32)


def weights(*shape: int) -> list[float]:
    return floats(*shape).reshape(-1).tolist()


def model_of(
    op: str, *inputs: np.ndarray, outputs: int = 1, version: int = 3, dynamic: bool = False, **attributes: Any
) -> onnx.ModelProto:
    names = [f"i{k}" for k in range(len(inputs))]
    results = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, domain="ai.onnx.ml", name="the_node", **attributes)
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(x.dtype), ["rows", *x.shape[1:]] if dynamic else x.shape
        )
        for name, x in zip(names, inputs, strict=True)
    ]
    graph = helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name=name) for name in results])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def with_onnxruntime(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"i{k}": x for k, x in enumerate(inputs)})


def check(op: str, *inputs: np.ndarray, lower: bool = False, **options: Any) -> None:
    model = model_of(op, *inputs, **options)
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    module.verify()
    if lower:
        GraphToLinalgPass().apply(ctx, module)
    got = interpret(module, list(inputs), ctx)
    for have, want in zip(got, with_onnxruntime(model, *inputs), strict=True):
        assert have.shape == want.shape and have.dtype == want.dtype
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-6)


# Trees

_STUMP = {
    "nodes_treeids": [0] * 3,
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0] * 3,
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_values": [0.0] * 3,
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}


def forest(
    modes: list[str], kind: str, columns: int, *, missing: bool = False, depth: int = 3, share: float = 0.8
) -> dict[str, Any]:
    """
    Random trees of random shapes, whose thresholds are small integers, so that rows meet them exactly; a leaf has a
    vote for `share` of the columns.
    """
    nodes: dict[str, list[Any]] = {key: [] for key in _STUMP}
    votes: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}
    tracks: list[int] = []
    for tree in range(4):
        pending, count = [(0, 0)], 1
        while pending:
            node, level = pending.pop(0)
            leaf = level == depth or (level > 0 and _RANDOM.random() < 0.3)
            nodes["nodes_treeids"].append(tree)
            nodes["nodes_nodeids"].append(node)
            nodes["nodes_featureids"].append(int(_RANDOM.integers(3)))
            nodes["nodes_modes"].append("LEAF" if leaf else str(_RANDOM.choice(modes)))
            nodes["nodes_values"].append(float(_RANDOM.integers(-2, 3)))
            tracks.append(int(_RANDOM.integers(2)))
            nodes["nodes_truenodeids"].append(0 if leaf else count)
            nodes["nodes_falsenodeids"].append(0 if leaf else count + 1)
            if leaf:
                for column in range(columns):
                    if columns == 1 or _RANDOM.random() < share:
                        for key, value in zip(votes, (tree, node, column, float(floats(1)[0])), strict=True):
                            votes[key].append(value)
            else:
                pending += [(count, level + 1), (count + 1, level + 1)]
                count += 2
    result: dict[str, Any] = {**nodes, **{f"{kind}_{key}": value for key, value in votes.items()}}
    if missing:
        result["nodes_missing_value_tracks_true"] = tracks
    return result


def table(dtype: Any = np.float32) -> np.ndarray:
    x = _RANDOM.integers(-3, 4, (40, 3)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x[::7, 1], x[3, 0], x[4, 0] = NAN, INF, -INF
    return x


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


@pytest.mark.parametrize("modes", [*([mode] for mode in MODES), MODES], ids=[*MODES, "all"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("lower", [False, True])
def test_every_branch_mode(modes: list[str], missing: bool, lower: bool) -> None:
    check(
        "TreeEnsembleRegressor",
        table(),
        lower=lower,
        n_targets=1,
        **forest(modes, "target", 1, missing=missing),
    )


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("targets", [1, 3])
def test_aggregates_transforms_and_base_values(how: str, transform: str, targets: int) -> None:
    base = {"base_values": weights(targets)} if how in ("SUM", "MAX") else {}
    # A column without votes is its base value; ONNX Runtime makes it 0 where SOFTMAX_ZERO follows.
    share = 1.0 if base and transform == "SOFTMAX_ZERO" else 0.8
    check(
        "TreeEnsembleRegressor",
        table(),
        n_targets=targets,
        aggregate_function=how,
        post_transform=transform,
        **base,
        **forest(MODES[:1], "target", targets, share=share),
    )


def test_probit_of_a_score_in_the_unit_interval() -> None:
    votes = {
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [0.2, 0.9],
    }
    check("TreeEnsembleRegressor", floats(9, 1), n_targets=1, post_transform="PROBIT", **_STUMP, **votes)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_trees_take_numbers_of_every_type(dtype: Any) -> None:
    attributes = forest(MODES[:2], "class", 3)
    if dtype == np.float64:
        for name in ("nodes_values", "class_weights"):
            # the thresholds lie between two float32
            values = np.array(attributes.pop(name)) + 1e-12
            attributes[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(values, name)
    x = table(dtype)
    check("TreeEnsembleClassifier", x, outputs=2, classlabels_int64s=[3, 1, 2], **attributes)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("base", [[], [0.3, -0.4, 0.1]])
def test_classifiers_of_many_classes(transform: str, base: list[float]) -> None:
    more = {"base_values": base} if base else {}
    attributes = forest(MODES[:1], "class", 3)
    check(
        "TreeEnsembleClassifier",
        table(),
        outputs=2,
        classlabels_int64s=[0, 1, 2],
        post_transform=transform,
        **more,
        **attributes,
    )


@pytest.mark.parametrize(
    ("votes", "transform", "base"),
    [
        *product([[0.3, 0.8], [-0.3, 0.8]], ["NONE", "LOGISTIC", "SOFTMAX"], [None, [0.1]]),
    ],
)
@pytest.mark.parametrize("column", [0, 1])
def test_one_score_of_two_classes(votes: list[float], transform: str, base: Any, column: int) -> None:
    more = {"base_values": base} if base else {}
    attributes = {
        **_STUMP, **more, "class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [column] * 2,
        "class_weights": votes, "post_transform": transform, "classlabels_int64s": [5, 7],
    }  # fmt: skip
    x = np.array([[-1.0], [1.0]], np.float32)
    if column and base:
        with pytest.raises(UnsupportedError, match="one score of two classes with 1 base values"):
            check("TreeEnsembleClassifier", x, outputs=2, **attributes)
        return
    check("TreeEnsembleClassifier", x, outputs=2, **attributes)


@pytest.mark.parametrize("vote", [0.3, 0.7, -0.3])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("column", [0, 1])
def test_a_row_of_two_classes_of_which_no_tree_speaks(vote: float, transform: str, column: int) -> None:
    attributes = {
        **_STUMP, "class_treeids": [0], "class_nodeids": [1], "class_ids": [column], "class_weights": [vote],
        "post_transform": transform, "classlabels_int64s": [5, 7],
    }  # fmt: skip
    check("TreeEnsembleClassifier", np.array([[-1.0], [1.0]], np.float32), outputs=2, **attributes)


def ensemble(dtype: Any = np.float32, **more: Any) -> dict[str, Any]:
    def tensor(*values: float, type: Any = dtype) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.array(values, type))

    return {
        "n_targets": 2,
        "tree_roots": [0, 3],
        "nodes_modes": tensor(0, 6, 4, 6, type=np.uint8),
        "nodes_splits": tensor(0.5, 0, 2, 0),
        "nodes_featureids": [0, 1, 2, 0],
        "nodes_truenodeids": [1, 0, 2, 4],
        "nodes_trueleafs": [0, 1, 1, 1],
        "nodes_falsenodeids": [2, 1, 3, 5],
        "nodes_falseleafs": [0, 1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1, 0, 0],
        "leaf_weights": tensor(1.5, -2.5, 3.5, 4.5, 0.25, -0.75),
        "membership_values": tensor(1, -2, 2, NAN, 3),
        **more,
    }


@pytest.mark.parametrize("aggregate", range(4))
@pytest.mark.parametrize("transform", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tree_ensembles_with_sets(aggregate: int, transform: int, dtype: Any) -> None:
    x = table(dtype)
    attributes = ensemble(dtype, aggregate_function=aggregate, post_transform=transform)
    ctx = new_context(DIALECTS)
    (got,) = interpret(import_onnx(model_of("TreeEnsemble", x, version=5, **attributes), ctx), [x], ctx)
    # ONNX Runtime numbers SOFTMAX and LOGISTIC the other way round than the standard.
    attributes["post_transform"] = (0, 2, 1)[transform]
    (want,) = with_onnxruntime(model_of("TreeEnsemble", x, version=5, **attributes), x)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": [9, 0, 0]}, "truenodeids: tree 0 has no node 9"),
        ({"nodes_truenodeids": [0, 0, 0]}, "form a cycle"),
        ({"nodes_modes": ["BRANCH", "LEAF", "LEAF"]}, "the node mode 'BRANCH'"),
        ({"nodes_values": [0.0, 0.0]}, "has 3 entries, nodes_values 2"),
        ({"nodes_nodeids": [0, 1, 1]}, "same number"),
        ({"nodes_featureids": [4, 0, 0]}, "1 features, where the trees test feature 4"),
        ({"nodes_featureids": [-1, 0, 0]}, "number of a feature is negative"),
        ({"target_ids": [0, 7]}, "holds 7, where 1 exist"),
    ],
)
def test_broken_trees_are_refused(change: dict[str, Any], message: str) -> None:
    votes = {
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [0.2, 0.9],
    }
    model = model_of("TreeEnsembleRegressor", floats(2, 1), n_targets=1, **{**_STUMP, **votes, **change})
    with pytest.raises(Error, match=message):
        import_onnx(model, new_context(DIALECTS))


@pytest.mark.parametrize("opt_level", [0, 3])
def test_compiled_trees_agree_and_check_the_number_of_features(opt_level: int) -> None:
    x = table()
    model = model_of(
        "TreeEnsembleRegressor", x, n_targets=3, dynamic=True, **forest(MODES, "target", 3, missing=True)
    )
    compiled = stepwell.compile(model, opt_level=opt_level)
    for rows in (0, 1, 40):
        (want,) = with_onnxruntime(model, x[:rows]) if rows else [np.zeros((0, 3), np.float32)]
        np.testing.assert_allclose(compiled(x[:rows]), want, rtol=1e-6, atol=1e-6)


def test_a_table_with_too_few_features_is_refused_in_the_run() -> None:
    x = table()
    model = model_of("TreeEnsembleRegressor", x, n_targets=1, **forest(MODES[:1], "target", 1))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ("rows", "features"), strict=True):
        dim.dim_param = name
    compiled = stepwell.compile(model, opt_level=0)
    np.testing.assert_allclose(compiled(x), with_onnxruntime(model, x)[0], rtol=1e-6)
    with pytest.raises(RunError, match="features must be at least 3"):
        compiled(x[:, :2])


# Linear models and support vectors


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("count", [1, 3])
def test_linear_models(transform: str, count: int) -> None:
    x = floats(5, 4)
    attributes: dict[str, Any] = {
        "coefficients": weights(count, 4),
        "intercepts": weights(count),
        "post_transform": transform,
    }
    check("LinearRegressor", x, version=1, targets=count, **attributes)
    labels = [4, 6] if count == 1 else [2, 1, 0]
    check("LinearClassifier", x, version=1, outputs=2, classlabels_ints=labels, **attributes)
    check("LinearClassifier", x.astype(np.int64), version=1, outputs=2, classlabels_ints=labels, **attributes)


KERNELS = {
    "LINEAR": [0.0, 0.0, 0.0], "POLY": [0.5, 1.5, 3.0], "RBF": [0.7, 0.0, 0.0], "SIGMOID": [0.3, -0.2, 0.0],
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_support_vector_regression(kernel: str) -> None:
    attributes: dict[str, Any] = {"kernel_type": kernel, "kernel_params": KERNELS[kernel], "rho": [0.4]}
    x = floats(6, 4)
    vectors = {"n_supports": 5, "support_vectors": weights(5, 4), "coefficients": weights(5)}
    check("SVMRegressor", x, version=1, **vectors, **attributes)
    check("SVMRegressor", x, version=1, one_class=1, **vectors, **attributes)
    check("SVMRegressor", x, version=1, n_supports=0, coefficients=weights(4), **attributes)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("chances", [False, True])
def test_support_vector_classification(kernel: str, classes: int, chances: bool) -> None:
    pairs, total = classes * (classes - 1) // 2, 2 * classes + 1
    attributes: dict[str, Any] = {
        "kernel_type": kernel, "kernel_params": KERNELS[kernel], "rho": weights(pairs),
        "vectors_per_class": [2] * (classes - 1) + [3], "support_vectors": weights(total, 4),
        "coefficients": weights(classes - 1, total), "classlabels_ints": list(range(classes, 0, -1)),
    }  # fmt: skip
    if chances:
        attributes |= {"prob_a": weights(pairs), "prob_b": weights(pairs)}
    x = floats(30, 4)
    for transform in ("NONE", "LOGISTIC"):
        check("SVMClassifier", x, version=1, outputs=2, post_transform=transform, **attributes)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_linear_support_vector_classification(classes: int, sign: float) -> None:
    own = (np.abs(floats(classes, 4)) * sign).reshape(-1).tolist()
    attributes = {
        "kernel_params": [0.0] * 3,
        "rho": [0.2],
        "coefficients": own,
        "classlabels_ints": [5, 3, 4][:classes],
    }
    check("SVMClassifier", floats(20, 4), version=1, outputs=2, **attributes)


# What prepares features


def test_scalers_and_normalizers() -> None:
    x = floats(5, 3)
    x[2] = 0
    for data in (x, x.astype(np.float64), (x * 3).astype(np.int64)):
        check("Scaler", data, version=1, offset=[1.0, 2.0, 3.0], scale=[0.5, 1.0, 2.0])
        for norm in ("MAX", "L1", "L2"):
            check("Normalizer", data, version=1, norm=norm)
    check("Scaler", x, version=1, offset=[0.5], scale=[2.0])


def test_binarizer_and_imputer() -> None:
    x = np.array([[1.0, NAN, -2.0], [0.0, 1.0, 3.0]], np.float32)
    check("Binarizer", floats(4, 3), version=1, threshold=0.5)
    check("Imputer", x, version=1, imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=NAN)
    check("Imputer", x, version=1, imputed_value_floats=[7.0], replaced_value_float=1.0)
    check("Imputer", x[1:].astype(np.int64), version=1, imputed_value_int64s=[7], replaced_value_int64=1)


def test_encoders_of_numbers() -> None:
    x = np.array([[1, 5], [9, 3]])
    for data in (x, x.astype(np.float32) + np.float32(0.4)):
        check("OneHotEncoder", data, version=1, cats_int64s=[3, 1, 9], zeros=1)
    check("LabelEncoder", x, keys_int64s=[1, 9, 3], values_int64s=[10, 90, 30], default_int64=-5)
    check("LabelEncoder", x, keys_int64s=[1, 9], values_floats=[0.5, 1.5], default_float=2.5)
    y = np.array([1.5, NAN, 0.25], np.float32)
    check("LabelEncoder", y, version=4, keys_floats=[1.5, NAN], values_int64s=[3, 4])


def test_label_encoder_of_tensors_has_the_last_of_equal_keys() -> None:
    x = np.array([4, 2, 7])
    make = onnx.numpy_helper.from_array
    attributes = {
        "keys_tensor": make(np.array([4, 2, 4])), "values_tensor": make(np.array([1.5, 2.5, 3.5])),
        "default_tensor": make(np.array([9.5])),
    }  # fmt: skip
    ctx = new_context(DIALECTS)
    (got,) = interpret(import_onnx(model_of("LabelEncoder", x, version=4, **attributes), ctx), [x], ctx)
    np.testing.assert_array_equal(got, [3.5, 2.5, 9.5])


def test_feature_extraction_and_vectors() -> None:
    x = floats(3, 4)
    check("ArrayFeatureExtractor", x, np.array([[2, 0]]), version=1)
    check("ArrayFeatureExtractor", x[0], np.array([1, 3, 3]), version=1)
    check("FeatureVectorizer", x, floats(3, 2), version=1, inputdimensions=[3, 4])
