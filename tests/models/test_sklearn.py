"""
Pipelines of scikit-learn, exported by skl2onnx, agree with ONNX Runtime. Slow, so only with `--models`; the packages
are not needed otherwise.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stepwell
from tests.models.test_models import tolerance_ratio

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn", reason="needs the package scikit-learn")
pytest.importorskip("skl2onnx", reason="needs the package skl2onnx")

from skl2onnx import to_onnx  # noqa: E402
from skl2onnx.common.data_types import (  # noqa: E402
    DictionaryType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from sklearn import ensemble, feature_extraction, linear_model, neural_network, preprocessing, svm, tree  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402

pytestmark = pytest.mark.models


def data(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight numbers and two columns of categories a row, and the class."""
    x, y = make_classification(400, 8, n_informative=6, n_classes=classes, random_state=classes)
    kinds = np.random.default_rng(classes).integers(0, 5, (400, 2))
    return np.concatenate((x, kinds), axis=1).astype(np.float32), (y + kinds[:, 0]) % classes


def prepared(model: Any) -> Any:
    """`model` behind a scaler for the numbers and a one-hot encoder for the categories."""
    numbers = make_pipeline(SimpleImputer(), preprocessing.StandardScaler())
    kinds = preprocessing.OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(
        ColumnTransformer(
            [("numbers", numbers, list(range(8))), ("kinds", kinds, [8, 9])], sparse_threshold=0
        ),
        model,
    )


MODELS: dict[str, Callable[[], Any]] = {
    "tree": lambda: tree.DecisionTreeClassifier(random_state=0),
    "random_forest": lambda: ensemble.RandomForestClassifier(20, random_state=0),
    "forest_pipeline": lambda: prepared(ensemble.RandomForestClassifier(10, max_depth=5, random_state=0)),
    "extra_trees_regression": lambda: ensemble.ExtraTreesRegressor(10, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
    "boosting_regression": lambda: ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0),
    "ada_boost": lambda: ensemble.AdaBoostClassifier(n_estimators=5, random_state=0),
    "bagging": lambda: ensemble.BaggingClassifier(n_estimators=3, random_state=0),
    "voting": lambda: ensemble.VotingClassifier(
        [
            ("a", linear_model.LogisticRegression(max_iter=500)),
            ("b", tree.DecisionTreeClassifier(max_depth=4)),
        ],
        voting="soft",
        flatten_transform=False,
    ),
    "logistic_pipeline": lambda: prepared(linear_model.LogisticRegression(max_iter=500)),
    "ridge": lambda: make_pipeline(preprocessing.MinMaxScaler(), linear_model.Ridge()),
    "svc": lambda: make_pipeline(preprocessing.StandardScaler(), svm.SVC()),
    "svc_chances": lambda: make_pipeline(
        preprocessing.Normalizer(), svm.SVC(probability=True, random_state=0)
    ),
    "svc_polynomial": lambda: svm.SVC(kernel="poly"),
    "linear_svc": lambda: svm.LinearSVC(),
    "svr": lambda: svm.SVR(),
    "one_class": lambda: svm.OneClassSVM(),
    "perceptron": lambda: neural_network.MLPClassifier((16,), max_iter=100, random_state=0),
}


def same(found: Any, expected: Any) -> None:
    """Arrays of one type whose floats agree; of maps, a list with one a row, the scores of equal labels."""
    if isinstance(expected, list):
        assert [set(row) for row in found] == [set(row) for row in expected]
        assert {type(key) for row in found for key in row} == {type(key) for row in expected for key in row}
        labels = list(expected[0])
        found, expected = ([[row[key] for key in labels] for row in rows] for rows in (found, expected))
        found, expected = np.array(found, np.float32), np.array(expected, np.float32)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    if expected.dtype.kind == "f":
        assert tolerance_ratio(found, expected) <= 1.0
    else:
        np.testing.assert_array_equal(found, expected)


def agree(proto: bytes, feeds: list[dict[str, Any]], opt_level: int) -> list[str]:
    """Compare with ONNX Runtime on each of the inputs; the types of the outputs."""
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    compiled = stepwell.compile(proto, opt_level=opt_level)
    for inputs in feeds:
        got = compiled.run(inputs)
        for output, expected in zip(session.get_outputs(), session.run(None, inputs), strict=True):
            same(got[output.name], expected)
    return [output.type for output in session.get_outputs()]


@pytest.mark.parametrize("opt_level", [3, 0])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_pipeline_agrees_with_onnxruntime(name: str, classes: int, opt_level: int) -> None:
    """As `to_onnx` exports it: the scores of a classifier are a sequence of maps."""
    x, y = data(classes)
    model = MODELS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
        proto = to_onnx(model, x[:1])
    name = proto.graph.input[0].name
    types = agree(proto.SerializeToString(), [{name: x[:rows]} for rows in (1, 7, 400)], opt_level)
    assert not hasattr(model, "predict_proba") or types[1] == "seq(map(int64,tensor(float)))"


@pytest.mark.parametrize("opt_level", [3, 0])
@pytest.mark.parametrize("name", ["logistic_pipeline", "random_forest", "boosting", "svc_chances"])
def test_labels_of_text(name: str, opt_level: int) -> None:
    x, y = data(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MODELS[name]().fit(x, np.array(["no", "perhaps", "\u6f22\u5b57"])[y])
        proto = to_onnx(model, x[:1])
    name = proto.graph.input[0].name
    types = agree(proto.SerializeToString(), [{name: x[:rows]} for rows in (1, 7, 400)], opt_level)
    assert types == ["tensor(string)", "seq(map(string,tensor(float)))"]


@pytest.mark.parametrize("option", [False, "columns"])
def test_scores_without_maps(option: Any) -> None:
    x, y = data(3)
    model = linear_model.LogisticRegression(max_iter=500).fit(x, y)
    proto = to_onnx(model, x[:1], options={id(model): {"zipmap": option}})
    name = proto.graph.input[0].name
    types = agree(proto.SerializeToString(), [{name: x[:rows]} for rows in (1, 7, 400)], 3)
    assert types == ["tensor(int64)", *["tensor(float)"] * (1 if option is False else 3)]


@pytest.mark.parametrize("opt_level", [3, 0])
@pytest.mark.parametrize("key", [StringTensorType, Int64TensorType])
def test_dicts_of_features(key: Any, opt_level: int) -> None:
    """A dict in, a dict out."""
    words: list[Any] = (
        ["weight", "height", "", "\u6f22\u5b57"] if key is StringTensorType else [7, 0, -3, 2**40]
    )
    rng = np.random.default_rng(0)
    rows = [
        {words[i]: float(np.float32(rng.normal())) for i in rng.choice(4, rng.integers(1, 5), replace=False)}
        for _ in range(60)
    ]
    vectors = feature_extraction.DictVectorizer(sparse=False)
    model = make_pipeline(vectors, linear_model.LogisticRegression()).fit(
        rows, [len(row) > 2 for row in rows]
    )
    model.steps[-1][1].classes_ = np.array([0, 1])  # skl2onnx has no labels of type bool
    types = [("x", DictionaryType(key([1]), FloatTensorType([1])))]
    proto = to_onnx(model, initial_types=types).SerializeToString()
    agree(proto, [{"x": row} for row in [*rows[:20], {next(iter(words)): 1.0, words[1]: 2}]], opt_level)


@pytest.mark.parametrize("opt_level", [3, 0])
def test_categories_and_labels_of_text(opt_level: int) -> None:
    rng = np.random.default_rng(0)
    colours = np.array(["red", "green", "blue"], object)[rng.integers(0, 3, (200, 1))]
    sizes = np.array(["small", "large"], object)[rng.integers(0, 2, (200, 1))]
    rows = np.concatenate((colours, sizes), axis=1)
    answers = np.where(rng.random(200) < 0.8, rows[:, 0], "none")
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    model = make_pipeline(encoder, tree.DecisionTreeClassifier(max_depth=4, random_state=0)).fit(
        rows, answers
    )
    proto = to_onnx(model, initial_types=[("words", StringTensorType([None, 2]))]).SerializeToString()
    rows[3] = "purple", "huge"
    agree(proto, [{"words": rows}], opt_level)
