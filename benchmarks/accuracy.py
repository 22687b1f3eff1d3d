"""
How far results are from those of the same model in double precision, as a share of the largest result.

    python -m benchmarks.accuracy --models resnet50,bert_base
    python -m benchmarks.accuracy --models resnet50 --layers

Engines: ONNX Runtime, stepwell with --fp=default and with --fp=strict. The reference is the model with every float32 made a
float64, compiled by stepwell at -O1: one rounding there is 2^-29 of one in float32, so which order it sums in does not matter,
and a fault would show as a large error of ONNX Runtime. With --layers: each shape of convolution that Winograd's algorithm
computes, alone, on the values that reach it in the model.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

import stepwell
from benchmarks.zoo import MODELS, model_files
from stepwell.compiler import Compilation, Options

_SINGLE_ONLY = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that are float32 whatever the operator computes in."""


def in_double(model: ModelProto) -> ModelProto:
    """`model` with float64 wherever it says float32."""
    changed = ModelProto()
    changed.CopyFrom(model)
    _widen(changed.graph)
    return changed


def _widen(graph: GraphProto) -> None:
    kept = {
        node.input[at]
        for node in graph.node
        for at in _SINGLE_ONLY.get(node.op_type, ())
        if at < len(node.input)
    }
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _widen_tensor(tensor)
    for slot in (*graph.input, *graph.output, *graph.value_info):
        if slot.type.tensor_type.elem_type == TensorProto.FLOAT:
            slot.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.type == AttributeProto.TENSOR and not kept.intersection(node.output):
                _widen_tensor(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                attribute.CopyFrom(
                    helper.make_attribute("value", numpy_helper.from_array(np.array(values, np.float64)))
                )


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        wide = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        tensor.CopyFrom(wide)


def _wide_inputs(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in inputs.items()}


@dataclass(frozen=True)
class Errors:
    """Of each engine: the largest error of any output over the largest value of that output."""

    name: str
    onnxruntime: float
    default: float
    strict: float

    def __str__(self) -> str:
        ratio = self.strict / max(self.onnxruntime, 1e-30)
        return (
            f"| {self.name} | {self.onnxruntime:.1e} | {self.default:.1e} | {self.strict:.1e} | {ratio:.1f} |"
        )


def measure(name: str, model: ModelProto, inputs: dict[str, np.ndarray]) -> Errors:
    """The errors on one model; every output counts."""
    reference = stepwell.compile(in_double(model), opt_level=1, cache=False).run(_wide_inputs(inputs))

    def error(results: dict[str, np.ndarray]) -> float:
        worst = 0.0
        for output, want in reference.items():
            if want.dtype == np.float64 and want.size:
                difference = np.abs(results[output].astype(np.float64) - want).max()
                worst = max(worst, float(difference / max(np.abs(want).max(), 1e-300)))
        return worst

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_outputs()]
    theirs = error(dict(zip(names, session.run(None, inputs), strict=True)))
    ours = [error(stepwell.compile(model, fp=fp, cache=False).run(inputs)) for fp in ("default", "strict")]
    return Errors(name, theirs, *ours)


def winograd_layers(
    model: ModelProto, inputs: dict[str, np.ndarray]
) -> Iterator[tuple[str, ModelProto, Any]]:
    """Convolutions that Winograd's algorithm computes, one of each shape, as models of their own with their inputs."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    candidates = [
        node
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.input[1] in weights
        and list(weights[node.input[1]].dims[2:]) == [3, 3]
    ]
    recording = ModelProto()
    recording.CopyFrom(model)
    del recording.graph.output[:]
    recorded = sorted({node.input[0] for node in candidates} - {slot.name for slot in model.graph.input})
    recording.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in recorded)
    session = onnxruntime.InferenceSession(recording.SerializeToString(), providers=["CPUExecutionProvider"])
    values = {**inputs, **dict(zip(recorded, session.run(None, inputs), strict=True))} if recorded else inputs
    seen = set()
    for node in candidates:
        x = values[node.input[0]]
        constants = [weights[name] for name in node.input[1:]]
        attributes = str(sorted(map(str, node.attribute)))
        key = (x.shape, tuple(constants[0].dims), attributes)
        if key in seen:
            continue
        seen.add(key)
        slots = [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, x.shape)]
        results = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [None] * x.ndim)]
        graph = helper.make_graph([node], "layer", slots, results, constants)
        layer = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        if tile := _winograd_tile(layer):
            name = f"{x.shape[1]}-{constants[0].dims[0]}@{x.shape[2]}, F({tile}x{tile})"
            yield name, layer, {node.input[0]: x}


def _winograd_tile(layer: ModelProto) -> int:
    compilation = Compilation(Options())
    compilation.read(layer)
    for op in compilation.lower_to("graph").walk():
        if op.name == "graph.conv":
            return op.properties["winograd"].value.data  # pyright: ignore[reportAttributeAccessIssue]
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names of the zoo or .onnx files")
    parser.add_argument("--layers", action="store_true", help="single convolutions by Winograd's algorithm")
    options = parser.parse_args()
    print(
        "| model | ONNX Runtime | default | strict | strict / ONNX Runtime |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name in options.models.split(","):
        path, inputs = model_files(name)
        model = onnx.load(path)
        rows = winograd_layers(model, inputs) if options.layers else [(Path(path).stem, model, inputs)]
        for title, each, given in rows:
            print(measure(title, each, given), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
