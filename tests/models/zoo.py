"""The whole models that tests and benchmarks run: where they come from and how they get meaningful weights."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
"""The models of the `onnx` package. Their weights are all one value, so `light` puts random ones in."""

_NORM_SCALE = {"resnet50": 0.7, "shufflenet": 0.7}
"""Batch-norm scales of residual nets, so that the sums do not grow until the softmax saturates."""

PACKAGED = {
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "ocr_detector": ("rapidocr", "models/PP-OCRv6_det_small.onnx"),
    "ocr_recogniser": ("rapidocr", "models/PP-OCRv6_rec_small.onnx"),
    "ocr_classifier": ("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
    "nudenet": ("nudenet", "320n.onnx"),
    "basic_pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.onnx"),
}
"""Pretrained models that PyPI packages carry: package and the path in it."""


def packaged(name: str) -> Path | None:
    """The file of a packaged model, None if its package is not installed (it is never imported)."""
    package, inside = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / inside
    return path if path.exists() else None


@cache
def light(name: str, seed: int = 0) -> onnx.ModelProto:
    """One of `LIGHT` with seeded random weights, scaled so that activations keep their size."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    model = onnx.load(folder / f"light_{name}.onnx")
    graph = model.graph
    rng = np.random.default_rng(seed)
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for i, source in enumerate(node.input):
            readers.setdefault(source, []).append((node, i))
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in values:
            kept.append(node)
            continue
        shape = [int(v) for v in values[node.input[0]]]
        role = _role(node.output[0], readers)
        array = _weights(shape, role, rng)
        if role == ("BatchNormalization", 1):
            array *= np.float32(_NORM_SCALE.get(name, 1.0))
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    used = {source for node in graph.node for source in node.input}
    for field in (graph.initializer, graph.input):
        unused = [entry for entry in field if entry.name not in used]
        for entry in unused:
            field.remove(entry)
    weights = {t.name for t in graph.initializer}
    for entry in [e for e in graph.input if e.name in weights]:
        graph.input.remove(entry)
    return model


def _role(name: str, readers: dict[str, list[tuple[onnx.NodeProto, int]]]) -> tuple[str, int]:
    """Operator and position of the first reader that computes with the weight `name`."""
    node, position = readers[name][0]
    while node.op_type in ("Unsqueeze", "Reshape", "Identity"):
        node, position = readers[node.output[0]][0]
    return node.op_type, position


def _weights(shape: list[int], role: tuple[str, int], rng: np.random.Generator) -> np.ndarray:
    operator, position = role
    normal = rng.standard_normal(shape, dtype=np.float32)
    if operator == "BatchNormalization" and position == 4:
        return (0.5 + rng.random(shape, dtype=np.float32)).astype(np.float32)
    if (operator == "BatchNormalization" and position == 1) or operator == "Mul":
        return (1 + 0.1 * normal).astype(np.float32)
    if len(shape) >= 2 and position == 1:
        # He initialisation: the variance of a ReLU layer's output is that of its input.
        fan_in = int(np.prod(shape[1:]))
        return (normal * np.sqrt(2.0 / fan_in)).astype(np.float32)
    return (0.1 * normal).astype(np.float32)


def random_feeds(model: onnx.ModelProto, seed: int, dims: dict[str, int] | None = None) -> dict[str, Any]:
    """Seeded inputs of `model`; an unknown extent is `dims[name]`, else 1."""
    rng = np.random.default_rng(seed)
    weights = {t.name for t in model.graph.initializer}
    feeds: dict[str, Any] = {}
    for entry in model.graph.input:
        if entry.name in weights:
            continue
        tensor = entry.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 0 for d in tensor.shape.dim]
        names = [d.dim_param for d in tensor.shape.dim]
        shape = [extent or (dims or {}).get(name, 1) for extent, name in zip(shape, names, strict=True)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            feeds[entry.name] = rng.standard_normal(shape).astype(dtype)
        else:
            feeds[entry.name] = rng.integers(0, 2, shape).astype(dtype)
    return feeds
