"""
The same tests asked in other ways. "symbolic": every dim of every input has a name of its own, and nothing is said of
the outputs but their rank. "constant": every input but the first is a constant of the model.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.conformance.cases import Case

PUBLISHED, SYMBOLIC, CONSTANT = VARIANTS = ("published", "symbolic", "constant")

_FIRST_IR_VERSION_WITH_FREE_INITIALIZERS = 4


def programs(case: Case, variant: str) -> Iterator[tuple[onnx.ModelProto, dict[str, Any], list[Any]]]:
    """Each model of a test with its inputs by name and its expected outputs."""
    model = case.model()
    weights = {tensor.name for tensor in model.graph.initializer}
    every = [info.name for info in model.graph.input]
    free = [name for name in every if name not in weights]
    if variant == SYMBOLIC:
        model = symbolic(model)
    for values, expected in case.data_sets():
        inputs = dict(zip(every if len(values) == len(every) else free, values, strict=False))
        if variant == CONSTANT:
            first = next(iter(free), "")
            constants = {n: v for n, v in inputs.items() if n != first and isinstance(v, np.ndarray)}
            kept = {name: value for name, value in inputs.items() if name not in constants}
            yield constant(model, constants), kept, expected
        else:
            yield model, inputs, expected


def differs(case: Case, variant: str) -> bool:
    """Whether the variant asks anything that the published test does not."""
    if variant == PUBLISHED:
        return True
    graph = case.model().graph
    weights = {tensor.name for tensor in graph.initializer}
    tensors = [tensor for info in graph.input if info.name not in weights for tensor in _tensors(info.type)]
    if variant == SYMBOLIC:
        return any(dim.HasField("dim_value") for tensor in tensors for dim in tensor.shape.dim)
    return any(info.type.HasField("tensor_type") for info in graph.input[1:] if info.name not in weights)


def symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every dim of its inputs named after the input and the axis, and nothing known of its outputs but their rank."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    weights = {tensor.name for tensor in graph.initializer}
    for info in graph.input:
        if info.name in weights:
            continue
        in_sequence = info.type.WhichOneof("value") == "sequence_type"
        for tensor in _tensors(info.type):
            for axis, dim in enumerate(tensor.shape.dim):
                dim.Clear()
                if not in_sequence:  # its elements differ in shape
                    dim.dim_param = f"{info.name}_{axis}"
    for info in (*graph.output, *graph.value_info):
        for tensor in _tensors(info.type):
            for dim in tensor.shape.dim:
                dim.Clear()
    return changed


def constant(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    """`model` with the inputs `values` as constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.ir_version = max(changed.ir_version, _FIRST_IR_VERSION_WITH_FREE_INITIALIZERS)
    graph = changed.graph
    kept = [tensor for tensor in graph.initializer if tensor.name not in values]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    free = [info for info in graph.input if info.name not in values]
    types = {info.name: info.type.tensor_type.elem_type for info in graph.input}
    del graph.input[:]
    graph.input.extend(free)
    graph.initializer.extend(_tensor(value, name, types[name]) for name, value in values.items())
    return changed


def _tensor(value: np.ndarray, name: str, type: int) -> onnx.TensorProto:
    if type == onnx.TensorProto.STRING:
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in value.reshape(-1)]
        return onnx.helper.make_tensor(name, type, value.shape, texts)
    return numpy_helper.from_array(value, name)


def _tensors(type: onnx.TypeProto) -> Iterable[onnx.TypeProto.Tensor]:
    """The tensor types in `type`."""
    kind = type.WhichOneof("value")
    if kind == "tensor_type":
        return [type.tensor_type]
    return _tensors(getattr(type, kind).elem_type) if kind in ("sequence_type", "optional_type") else []
