"""What a model computes in float64: the judge where two engines disagree in float32."""

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from stepwell.compat import new_context
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter.graph import interpret
from stepwell.registry import DIALECTS
from stepwell.resources import resources_of


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float32 made a float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen(wide.graph)
    return wide


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
            if node.op_type == "Constant" and attribute.name == "value_float":
                value = numpy_helper.from_array(np.float64(attribute.f))
                attribute.CopyFrom(onnx.helper.make_attribute("value", value))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def run_in_float64(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """The outputs of the model in float64, by the interpreter of the graph level."""
    ctx = new_context(DIALECTS)
    module = import_onnx(in_float64(model).SerializeToString(), ctx)
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
    results = interpret(module, wide, resources=resources_of(ctx))
    assert isinstance(results, dict)
    return results
