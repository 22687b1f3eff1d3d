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
from skl2onnx.common.data_types import StringTensorType  # noqa: E402
from sklearn import ensemble, linear_model, neural_network, preprocessing, svm, tree  # noqa: E402
from sklearn.base import is_classifier  # noqa: E402
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


def exported(model: Any, x: np.ndarray) -> bytes:
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    try:
        return to_onnx(model, x[:1], options=options).SerializeToString()
    except NameError:  # the model knows no such option
        return to_onnx(model, x[:1]).SerializeToString()


@pytest.mark.parametrize("opt_level", [3, 0])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_pipeline_agrees_with_onnxruntime(name: str, classes: int, opt_level: int) -> None:
    x, y = data(classes)
    model = MODELS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
        proto = exported(model, x)
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    compiled = stepwell.compile(proto, opt_level=opt_level)
    (source,) = session.get_inputs()
    for rows in (1, 7, 400):
        want = session.run(None, {source.name: x[:rows]})
        got = compiled.run({source.name: x[:rows]})
        for output, expected in zip(session.get_outputs(), want, strict=True):
            found = got[output.name]
            assert found.shape == expected.shape and found.dtype == expected.dtype
            if expected.dtype.kind == "f":
                assert tolerance_ratio(found, expected) <= 1.0
            else:
                np.testing.assert_array_equal(found, expected)


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
    proto = to_onnx(
        model, initial_types=[("words", StringTensorType([None, 2]))], options={id(model): {"zipmap": False}}
    ).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    rows[3] = "purple", "huge"
    label, scores = session.run(None, {"words": rows})
    got = list(stepwell.compile(proto, opt_level=opt_level).run({"words": rows}).values())
    np.testing.assert_array_equal(got[0], label)
    np.testing.assert_allclose(got[1], scores, rtol=1e-5, atol=1e-6)
