"""Seeded mutants of bytes, of ONNX models and of IR text."""

import random
import re
from collections.abc import Sequence

import onnx
from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 3, 7, 64, 255, 256, -128, 1 << 16, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62,
            (1 << 63) - 1, -(1 << 63))  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), float("nan"), 1e38, 1e-45)
STRINGS = (
    "",
    "x",
    "y",
    "NOTSET",
    "linear",
    "reflect",
    'a"b',
    "a\nb",
    "%s%n{0}",
    "é",
    "ij->i",
    "i1j->i",
    "../../etc/passwd",
)


def mutate_bytes(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Flip bits, cut, repeat or splice pieces."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(result)) if result else 0
        end = min(len(result), at + rng.choice((1, 2, 4, 8, 32)))
        kind = rng.randrange(7)
        if kind == 0 and result:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and result:
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del result[at:end]
        elif kind == 3:
            result[at:at] = result[at:end]
        elif kind == 4:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            result[at:end] = other[start : start + rng.choice((1, 4, 16, 64))]
        elif kind == 5:
            result[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif rng.randrange(4) == 0:
            del result[at:]
    return bytes(result)


def mutate_model(proto: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """Change one to three fields anywhere in a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_fields(copy.graph)) + [place for f in copy.functions for place in _fields(f)]
        owner, field = rng.choice(places)
        _change(owner, field, rng, copy)
    return copy


def _fields(message: Message):
    pending = [message]
    while pending:
        at = pending.pop()
        for field, value in at.ListFields():
            yield at, field
            if field.type == field.TYPE_MESSAGE:
                pending.extend(value if field.is_repeated else [value])


_NUMBERS = {"int64", "int32", "float", "double", "uint64"}


def _other(value, rng: random.Random, model: onnx.ModelProto):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        chosen = rng.choice((*INTEGERS, value + 1, value - 1, -value, value * 2))
        return chosen
    if isinstance(value, float):
        return rng.choice((*FLOATS, -value, value * 2))
    if isinstance(value, bytes):
        return mutate_bytes(value or b"x", rng, [b"abc", b"\xff\xfe", b"->"])
    names = [n for node in model.graph.node for n in (*node.input, *node.output)]
    kinds = [node.op_type for node in model.graph.node]
    return rng.choice((*STRINGS, rng.choice(names), rng.choice(kinds), rng.choice(_OPERATORS)))


_OPERATORS = ("Add", "Mul", "Div", "Mod", "Relu", "Conv", "MatMul", "Gemm", "Softmax", "Reshape", "Transpose", "Slice", "Concat",
              "Gather", "Shape", "Expand", "Tile", "Range", "ReduceSum", "ArgMax", "Squeeze", "Unsqueeze", "Cast", "Where",
              "Pad", "Resize", "Split", "TopK", "CumSum", "OneHot", "NonZero", "ScatterElements", "GatherND", "Einsum",
              "LSTM", "GRU", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool", "GlobalMaxPool",
              "QuantizeLinear", "DynamicQuantizeLinear", "BitShift", "Not", "And", "Identity", "Trilu", "DepthToSpace",
              "SpaceToDepth", "Compress", "Unique", "NonMaxSuppression", "RoiAlign", "GridSample", "Loop", "If", "Scan",
              "Size", "EyeLike", "ConstantOfShape", "Bernoulli", "StringNormalizer", "SequenceAt", "Optional", "Det",
              "Hardmax", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "Attention")  # fmt: skip


def _change(owner: Message, field, rng: random.Random, model: onnx.ModelProto) -> None:
    value = getattr(owner, field.name)
    if not field.is_repeated:
        if field.type == field.TYPE_MESSAGE or rng.randrange(5) == 0:
            if rng.randrange(3) == 0:
                owner.ClearField(field.name)
            return
        try:
            setattr(owner, field.name, _other(value, rng, model))
        except (ValueError, TypeError):
            owner.ClearField(field.name)
        return
    at = rng.randrange(len(value)) if len(value) else 0
    kind = rng.randrange(4)
    if kind == 0 and len(value):
        del value[at]
    elif field.type == field.TYPE_MESSAGE:
        other = rng.randrange(len(value)) if len(value) else 0
        if kind == 1 and len(value) > 1:
            first = type(value[at])()
            first.CopyFrom(value[at])
            value[at].CopyFrom(value[other])
            value[other].CopyFrom(first)
        elif len(value):
            value.add().CopyFrom(value[at])
    elif kind == 1 and len(value):
        value.append(value[at])
    elif len(value):
        try:
            value[at] = _other(value[at], rng, model)
        except (ValueError, TypeError):
            del value[at]


_TOKEN = re.compile(
    r'"[^"\n]*"|[%@#!^]?[A-Za-z_][\w.$]*|-?\d+\.\d+(?:e[+-]?\d+)?|-?\d+|\s+|->|::|.', re.DOTALL
)
_WORDS = ("f32", "i64", "i32", "i1", "index", "f16", "f64", "tensor<4xf32>", "tensor<?xf32>", "memref<2xf32>", "vector<4xf32>",
          "?", "x", "(", ")", "{", "}", "[", "]", "<", ">", ",", ":", "=", "->", "%0", "@main", "true", "none", '"', "dense<0>",
          "0.0", "1e999", "0x7FC00000", "#schedule.tile<parallel = [0]>", "affine_map<(d0) -> (d0)>", "\x00", "\\", "é")  # fmt: skip


def mutate_text(text: str, rng: random.Random, others: Sequence[str]) -> str:
    """Swap, drop, repeat and replace tokens, numbers, lines and characters."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(10)
        tokens = _TOKEN.findall(text)
        solid = [index for index, token in enumerate(tokens) if not token.isspace()]
        if not solid:
            return text
        at, other = rng.choice(solid), rng.choice(solid)
        numbers = [index for index in solid if tokens[index].lstrip("-").isdigit()]
        if kind <= 1:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 2:
            tokens[at] = rng.choice(_WORDS)
        elif kind in (3, 4) and numbers:
            at = rng.choice(numbers)
            tokens[at] = str(rng.choice((*INTEGERS, int(tokens[at]) + 1, int(tokens[at]) - 1)))
        elif kind == 5:
            same = [i for i in solid if tokens[i][:1] == tokens[at][:1]]
            tokens[at] = tokens[rng.choice(same)]
        elif kind == 6:
            lines = "".join(tokens).split("\n")
            line = rng.randrange(len(lines))
            lines[line : line + 1] = rng.choice(
                ([], [lines[line]] * 2, [rng.choice(rng.choice(others).split("\n"))])
            )
            tokens = ["\n".join(lines)]
        elif kind == 7:
            lines = "".join(tokens).split("\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
            tokens = ["\n".join(lines)]
        elif kind == 8:
            whole = "".join(tokens)
            place = rng.randrange(len(whole))
            changed = chr(ord(whole[place]) ^ (1 << rng.randrange(7)))
            tokens = [whole[:place] + changed + whole[place + 1 :]]
        elif rng.randrange(4) == 0:
            tokens = tokens[:at]
        text = "".join(tokens)
    return text
