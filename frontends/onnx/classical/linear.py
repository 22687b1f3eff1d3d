"""Linear models."""

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.classical.rules import classical, feature_count, matrix_of, rows_of, times
from stepwell.frontends.onnx.classical.scores import both_scores, label_above, labels_of, top, transformed
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import floats, one


@classical("LinearRegressor")
def _linear_regressor(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, targets = call.attributes, call.attributes["targets"]
    rows = matrix_of(call, emitter, attributes.get("coefficients") or [], targets, "coefficients")
    scores = times(emitter, rows_of(call, emitter), rows)
    intercepts = attributes.get("intercepts") or []
    if len(intercepts) == targets:
        scores = one(emitter, "Add", scores, floats(emitter, intercepts))
    elif intercepts:
        raise emitter.error(call, f"{len(intercepts)} intercepts for {targets} targets", "give one a target")
    return [transformed(call, emitter, scores, attributes["post_transform"])]


@classical("LinearClassifier")
def _linear_classifier(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    attributes, table = call.attributes, rows_of(call, emitter)
    coefficients, intercepts = attributes.get("coefficients") or [], attributes.get("intercepts") or []
    count = len(intercepts) or len(coefficients) // max(1, feature_count(call, emitter, table))
    rows = matrix_of(call, emitter, coefficients, count, "coefficients")
    scores = times(emitter, table, rows)
    if intercepts:
        scores = one(emitter, "Add", scores, floats(emitter, intercepts))
    labels, transform = labels_of(call, emitter, "classlabels_ints"), attributes["post_transform"]
    if count == 1:
        two = labels if labels.size == 2 else np.arange(2)
        label = label_above(emitter, scores, 0.0, two)
        if labels.size == 2 and transform != "PROBIT":
            return [label, both_scores(emitter, scores, transform, True)][: len(call.used)]
        if labels.size == 2:
            raise emitter.missing(call, "PROBIT of one score for two classes", "export both scores")
        return [label, transformed(call, emitter, scores, transform)][: len(call.used)]
    if labels.size != count:
        raise emitter.error(call, f"{labels.size} labels for {count} classes", "give one a class")
    return [top(emitter, scores, labels), transformed(call, emitter, scores, transform)][: len(call.used)]
