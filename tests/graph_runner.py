"""Runs modules of the graph dialect through ONNX Runtime: a reference that is not ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from stepwell.backends.onnx import export_onnx

NEWEST_OPSET = 26
"""The newest that ONNX Runtime reads; the operators that the tests use have not changed since."""

ort.set_default_logger_severity(4)


def run_with_onnxruntime(module: ModuleOp, ctx: Context, inputs: Sequence[np.ndarray]) -> list[Any]:
    """The outputs of `@main`, computed by ONNX Runtime without its graph optimisations."""
    model = export_onnx(module, ctx, NEWEST_OPSET)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))
