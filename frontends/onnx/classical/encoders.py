"""Scalers, encoders and what else prepares features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.classical.rules import classical, feature_count
from stepwell.frontends.onnx.classical.scores import labels_of
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, floats, ints, one, operand, scalar


@classical("Scaler")
def _scaler(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    result = cast(emitter, operand(call), np.float32)
    if offset := call.attributes.get("offset"):
        result = one(emitter, "Sub", result, floats(emitter, offset))
    if scale := call.attributes.get("scale"):
        result = one(emitter, "Mul", result, floats(emitter, scale))
    return [result]


@classical("Normalizer")
def _normalizer(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, norm = cast(emitter, operand(call), np.float32), call.attributes["norm"]
    axis = ints(emitter, len(emitter.shape(x)) - 1)
    if norm == "MAX":
        size = one(emitter, "ReduceMax", x, axis, keepdims=1)
    elif norm == "L1":
        size = one(emitter, "ReduceL1", x, axis, keepdims=1)
    elif norm == "L2":
        size = one(emitter, "ReduceL2", x, axis, keepdims=1)
    else:
        raise emitter.error(call, f"the norm {norm!r}", "use MAX, L1 or L2")
    nothing = one(emitter, "Equal", size, floats(emitter, 0.0))
    return emitter.emit("Div", x, one(emitter, "Where", nothing, floats(emitter, 1.0), size))


@classical("Binarizer")
def _binarizer(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x = operand(call)
    dtype = emitter.dtype(x)
    if dtype.kind == "f":
        above = one(emitter, "Greater", x, scalar(emitter, x, call.attributes["threshold"]))
    else:
        above = one(
            emitter, "Greater", cast(emitter, x, np.float32), floats(emitter, call.attributes["threshold"])
        )
    return [cast(emitter, above, dtype)]


@classical("Imputer")
def _imputer(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, attributes = operand(call), call.attributes
    dtype = emitter.dtype(x)
    kind = ("imputed_value_floats", "replaced_value_float")
    if dtype.kind == "i":
        kind = ("imputed_value_int64s", "replaced_value_int64")
    imputed, replaced = attributes.get(kind[0]) or [], attributes[kind[1]]
    width = emitter.shape(x)[-1] if emitter.shape(x) else 1
    if len(imputed) != 1 and len(imputed) != width:
        raise emitter.error(call, f"{len(imputed)} values of {kind[0]} for {width} features", "give one each")
    if replaced != replaced:
        absent = one(emitter, "IsNaN", x)
    else:
        absent = one(emitter, "Equal", x, emitter.constant(np.array(replaced, dtype)))
    return emitter.emit("Where", absent, emitter.constant(np.array(imputed, dtype)), x)


# A category that is not in the list gives zeros, whatever `zeros` says: a run does not stop for it.
@classical("OneHotEncoder")
def _one_hot_encoder(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x = operand(call)
    categories = labels_of(call, emitter, "cats_int64s", "cats_strings")
    if not categories.size or len(set(categories.tolist())) != categories.size:
        raise emitter.error(call, f"{categories.size} categories, some twice", "list each category once")
    if categories.dtype != object:
        x = cast(emitter, x, np.int64)
    wide = one(emitter, "Unsqueeze", x, ints(emitter, len(emitter.shape(x))))
    return [cast(emitter, one(emitter, "Equal", wide, emitter.constant(categories)), np.float32)]


@classical("ArrayFeatureExtractor")
def _array_feature_extractor(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x, indices = operand(call), operand(call, 1)
    if len(emitter.shape(x)) == 1:
        x = one(emitter, "Unsqueeze", x, ints(emitter, 0))
    flat = one(emitter, "Reshape", indices, ints(emitter, -1))
    return emitter.emit("Gather", x, flat, axis=-1)


@classical("FeatureVectorizer")
def _feature_vectorizer(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    sizes = call.attributes.get("inputdimensions") or []
    if len(sizes) != len(call.operands):
        raise emitter.error(
            call, f"{len(sizes)} inputdimensions for {len(call.operands)} inputs", "give one each"
        )
    parts = []
    for place, wanted in enumerate(sizes):
        x = cast(emitter, operand(call, place), np.float32)
        rank = len(emitter.shape(x))
        x = (
            one(emitter, "Unsqueeze", x, ints(emitter, 0))
            if rank == 1
            else one(emitter, "Flatten", x, axis=1)
        )
        width = feature_count(call, emitter, x)
        if width > wanted:
            x = one(emitter, "Slice", x, *(ints(emitter, v) for v in (0, wanted, 1)))
        elif width < wanted:
            x = one(emitter, "Pad", x, ints(emitter, 0, 0, 0, wanted - width))
        parts.append(x)
    return emitter.emit("Concat", *parts, axis=1)


# A key that stands twice counts where it stands last.
@classical("LabelEncoder")
def _label_encoder(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    x = operand(call)
    keys, values, default = _mapping(call, emitter)
    if keys.size != values.size or not keys.size:
        raise emitter.error(call, f"{keys.size} keys for {values.size} values", "give as many")
    if keys.dtype != object:
        keys = keys.astype(emitter.dtype(x))
    default = np.array([default], values.dtype)
    return emitter.emit(
        "LabelEncoder", x, keys=_decoded(keys), values=_decoded(values), default=_decoded(default)
    )


def _decoded(array: np.ndarray) -> np.ndarray:
    """Strings of a tensor, which are bytes, as str."""
    texts = [
        text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        for text in array.tolist()
    ]
    return np.array([*texts, None], object)[:-1] if array.dtype == object else array


def _mapping(call: Call, emitter: Emitter) -> tuple[np.ndarray, np.ndarray, Any]:
    """Keys, values and what an unknown key gives."""
    attributes = call.attributes
    if "classes_strings" in attributes:  # version 1: strings to their positions, or back
        texts = np.array(attributes["classes_strings"], object)
        numbers = np.arange(texts.size)
        if emitter.dtype(operand(call)).kind == "O":
            return texts, numbers, attributes["default_int64"]
        return numbers, texts, attributes["default_string"]
    found: dict[str, tuple[str, np.ndarray]] = {}
    for side in ("keys", "values"):
        for kind, dtype in (
            ("int64s", np.int64),
            ("floats", np.float32),
            ("strings", object),
            ("tensor", None),
        ):
            value = attributes.get(f"{side}_{kind}")
            if value is not None and len(value):
                found[side] = kind, np.asarray(value).reshape(-1) if dtype is None else np.array(value, dtype)
    if set(found) != {"keys", "values"}:
        raise emitter.error(call, "keys or values are missing", "give keys_* and values_*")
    (_, keys), (kind, values) = found["keys"], found["values"]
    if kind == "tensor":
        default = attributes.get("default_tensor")
        fallback = {"O": "_Unused", "f": -0.0}.get(values.dtype.kind, -1)
        return keys, values, fallback if default is None else default.reshape(-1)[0]
    return (
        keys,
        values,
        attributes[{"int64s": "default_int64", "floats": "default_float"}.get(kind, "default_string")],
    )


@classical("CategoryMapper")
def _category_mapper(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    texts = call.attributes.get("cats_strings") or []
    numbers = call.attributes.get("cats_int64s") or []
    if emitter.dtype(operand(call)).kind == "O":
        call.attributes = {"keys_strings": texts, "values_int64s": numbers, **call.attributes}
    else:
        call.attributes = {"keys_int64s": numbers, "values_strings": texts, **call.attributes}
    return _label_encoder(call, emitter) or []
