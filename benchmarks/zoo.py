"""The models that benchmarks run, as ONNX files: built by torch and transformers from seeded random weights."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]


def _image_classifier(kind: str, config: str, **options: Any) -> Callable[[], tuple[Any, Inputs]]:
    def build() -> tuple[Any, Inputs]:
        import transformers

        settings = getattr(transformers, config)(**options)
        model = getattr(transformers, kind)(settings)
        size = getattr(settings, "image_size", 224)
        return model, {"pixel_values": _image(size)}

    return build


def _image(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)


def _tokens(length: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (1, length))


def _bert() -> tuple[Any, Inputs]:
    from transformers import BertConfig, BertModel

    config = BertConfig(attn_implementation="eager")
    ids = _tokens(128, config.vocab_size)
    return BertModel(config), {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _minilm() -> tuple[Any, Inputs]:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, intermediate_size=1536, attn_implementation="eager"
    )
    ids = _tokens(128, config.vocab_size)
    return BertModel(config), {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _gpt2() -> tuple[Any, Inputs]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(attn_implementation="eager", use_cache=False)
    ids = _tokens(64, config.vocab_size)
    return GPT2LMHeadModel(config), {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _gpt2_decode() -> tuple[Any, Inputs]:
    """One token behind 64 whose keys and values are inputs, two for each layer as in exports for generation."""
    import torch
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(attn_implementation="eager")

    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = GPT2LMHeadModel(config)

        def forward(self, input_ids, attention_mask, *past):
            cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
            result = self.model(
                input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True
            )
            return result.logits

    random = np.random.default_rng(0)
    shape = (1, config.n_head, 64, config.n_embd // config.n_head)
    ids = _tokens(1, config.vocab_size)
    inputs = {"input_ids": ids, "attention_mask": np.ones((1, 65), ids.dtype)}
    for layer in range(config.n_layer):
        for part in ("key", "value"):
            inputs[f"past_key_values.{layer}.{part}"] = random.standard_normal(shape, dtype=np.float32)
    return Decode(), inputs


def _whisper() -> tuple[Any, Inputs]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        attn_implementation="eager",
    )
    features = np.random.default_rng(0).standard_normal((1, 80, 3000), dtype=np.float32)
    return WhisperEncoder(config), {"input_features": features}


def _unet() -> tuple[Any, Inputs]:
    import torch
    from torch import nn

    def double(a: int, b: int) -> nn.Module:
        layers = [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [32, 64, 128, 256]
            self.down = nn.ModuleList(double(a, b) for a, b in zip([3, *widths], widths, strict=False))
            pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
            self.mix = nn.ModuleList(double(2 * b, b) for _, b in pairs)
            self.head = nn.Conv2d(widths[0], 2, 1)

        def forward(self, pixel_values: "torch.Tensor") -> "torch.Tensor":
            x, skips = pixel_values, []
            for layer in self.down:
                x = layer(x if not skips else nn.functional.max_pool2d(x, 2))
                skips.append(x)
            for up, mix, skip in zip(self.up, self.mix, skips[-2::-1], strict=True):
                x = mix(torch.cat([skip, up(x)], 1))
            return self.head(x)

    return UNet(), {"pixel_values": _image(256)}


def _lstm() -> tuple[Any, Inputs]:
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(128, 256, batch_first=True)
            self.gru = nn.GRU(256, 128, batch_first=True)

        def forward(self, x):
            return self.gru(self.lstm(x)[0])[0]

    return Recurrent(), {"x": np.random.default_rng(0).standard_normal((1, 50, 128), dtype=np.float32)}


def _mlp() -> tuple[Any, Inputs]:
    from torch import nn

    layers = [nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    x = np.random.default_rng(0).standard_normal((32, 784), dtype=np.float32)
    return nn.Sequential(*layers), {"x": x}


MODELS: dict[str, Callable[[], tuple[Any, Inputs]]] = {
    "resnet50": _image_classifier("ResNetForImageClassification", "ResNetConfig", num_labels=1000),
    "mobilenet_v2": _image_classifier(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", num_labels=1000
    ),
    "efficientnet_b0": _image_classifier(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        num_labels=1000,
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
    ),
    "convnext_t": _image_classifier("ConvNextForImageClassification", "ConvNextConfig", num_labels=1000),
    "vit_b": _image_classifier(
        "ViTForImageClassification", "ViTConfig", num_labels=1000, attn_implementation="eager"
    ),
    "bert_base": _bert,
    "minilm": _minilm,
    "gpt2": _gpt2,
    "gpt2_decode": _gpt2_decode,
    "whisper_tiny_encoder": _whisper,
    "unet": _unet,
    "lstm_gru": _lstm,
    "mlp": _mlp,
}


def directory() -> Path:
    """Where the built models are kept: `$STEPWELL_BENCH_DIR`, else below the user's cache."""
    base = os.environ.get("STEPWELL_BENCH_DIR") or Path.home() / ".cache/stepwell-bench"
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path


def model_files(name: str) -> tuple[Path, Inputs]:
    """The ONNX file of a model and its inputs; built and kept the first time. A path stands for itself."""
    if name.endswith(".onnx"):
        return Path(name), _made_up_inputs(Path(name))
    path = directory() / f"{name}.onnx"
    saved = path.with_suffix(".npz")
    if not path.exists() or not saved.exists():
        _export(name, path, saved)
    with np.load(saved) as arrays:
        return path, dict(arrays)


def _made_up_inputs(path: Path) -> Inputs:
    import onnx

    from stepwell.tools.values import random_inputs

    class Entry:
        def __init__(self, value: Any):
            self.name = value.name
            tensor = value.type.tensor_type
            self.dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            self.kind = "tensor"
            self.shape = [d.dim_value if d.dim_value > 0 else d.dim_param for d in tensor.shape.dim]

    model = onnx.load(path, load_external_data=False)
    weights = {t.name for t in model.graph.initializer}
    return random_inputs([Entry(v) for v in model.graph.input if v.name not in weights], 0, {})


def build(name: str) -> tuple[Any, Inputs]:
    """
    The torch module of a model, ready for inference, and its inputs; the same weights every time.

    Batch norms take the statistics of the input in one pass: with those of initialisation the activations of a deep
    net of random weights sink until they are denormal, which measures nothing but that.
    """
    import torch

    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(*(torch.from_numpy(value) for value in inputs.values()))
    return model.eval(), inputs


def _export(name: str, path: Path, saved: Path) -> None:
    import torch

    print(f"building {name}", file=sys.stderr)
    warnings.filterwarnings("ignore")
    model, inputs = build(name)

    class First(torch.nn.Module):
        """The model with its first output only, fed by name."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            if not hasattr(model, "config"):
                return self.model(*values)
            result = self.model(**dict(zip(inputs, values, strict=True)), return_dict=False)
            return result[0]

    values = tuple(torch.from_numpy(v) for v in inputs.values())
    temporary = path.with_suffix(".part")
    with torch.no_grad():
        torch.onnx.export(
            First(),
            values,
            str(temporary),
            input_names=list(inputs),
            output_names=["output"],
            opset_version=17,
            dynamo=False,
        )
    np.savez(saved, **inputs)
    os.replace(temporary, path)
