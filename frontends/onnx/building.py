"""How a normalised ONNX call becomes an op of the graph dialect: attributes, types, regions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from xdsl.context import Context
from xdsl.dialects.builtin import StringAttr, TensorType, UnrankedTensorType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import BaseAttr
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph import (
    ONNX_ELEMENTS,
    ONNX_NAMES,
    STRING,
    ConstantOp,
    Dim,
    GraphOp,
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    dims_of,
    element_of,
    snake_case,
    symbol,
)
from stepwell.resources import constant_attr, value_of

_NUMBER_OF = {element: number for number, element in ONNX_ELEMENTS.items()}


_BY_THEIR_BODY = {
    "Attention", "BlackmanWindow", "CausalConvWithState", "CenterCropPad", "HammingWindow", "HannWindow",
    "LinearAttention", "NegativeLogLikelihoodLoss", "RotaryEmbedding", "SoftmaxCrossEntropyLoss", "SwiGLU",
}  # fmt: skip
"""Operators that no pass treats as a whole: they are imported as the body that the standard gives them."""

_IMPORTED_WHOLE = {name: kind for name, kind in ONNX_NAMES.items() if name not in _BY_THEIR_BODY}


def operators_of(domain: str) -> dict[str, type[GraphOp]]:
    """The operators of a domain that are imported as one op."""
    if domain == "":
        return _IMPORTED_WHOLE
    return {name: kind for name, kind in ONNX_NAMES.items() if kind.ONNX_DOMAIN == domain}


def is_symbol(name: str) -> bool:
    """Whether an extent's name can be a symbol as it is."""
    try:
        symbol(name)
    except ValueError:
        return False
    return True


def _text(text: str | bytes) -> str:
    try:
        return text.decode() if isinstance(text, bytes) else str(text)
    except UnicodeDecodeError:
        raise VerifyException(f"the string {text[:50]!r} of a constant is not UTF-8") from None


def constant(value: np.ndarray, ctx: Context, element: Attribute | None = None) -> ConstantOp:
    """The constant op of `value`; large values go to the store of `ctx`."""
    element = element_of(value.dtype) if element is None else element
    if element == STRING:
        texts = [_text(text) for text in value.ravel().tolist()]
        strings = np.array(texts, dtype=object).reshape(value.shape)
        return ConstantOp.build([], {"value": strings}, result_types=[TensorType(STRING, value.shape)])
    return ConstantOp.build([], {"value": constant_attr(value, ctx, element)})


def constant_value(value: SSAValue, ctx: Context) -> np.ndarray | None:
    """The value of a constant of numbers, None for anything else."""
    owner = value.owner
    if not isinstance(owner, ConstantOp) or value.type.element_type == STRING:  # pyright: ignore
        return None
    return value_of(owner.properties["value"], ctx)


def properties(kind: type[GraphOp], attributes: dict[str, Any]) -> dict[str, Attribute | Any]:
    """
    The attributes of a call as those of the op: element types by type instead of ONNX's number, and absent where the
    number is 0 (`undefined`).
    """
    declared = kind.get_irdl_definition().properties
    result: dict[str, Any] = {}
    for onnx_name, value in attributes.items():
        name = snake_case(onnx_name)
        definition = declared.get(name)
        if definition is None:
            continue
        is_type = not isinstance(definition.constr, BaseAttr)
        if is_type and isinstance(value, int):
            if value == 0:
                continue
            if value not in ONNX_ELEMENTS:
                raise VerifyException(f"{name} = {value} is no element type")
            value = ONNX_ELEMENTS[value]
        if isinstance(value, bytes):
            value = StringAttr(value.decode("latin-1"))
        result[name] = value
    return result


def build(
    kind: type[GraphOp],
    operands: Sequence[SSAValue | None],
    attributes: dict[str, Any],
    used: Sequence[bool],
) -> GraphOp:
    """The op of a call; `used` says which outputs have a name."""
    kinds = kind.RESULT_KINDS
    wanted = list(used) + [False] * (len(kinds) - len(used))
    # An output that ONNX always makes is a result, whether named or not.
    for place, (_, how) in enumerate(kinds):
        if how == "one":
            wanted[place] = True
    many = bool(kinds) and kinds[-1][1] == "many"
    return kind.build(operands, properties(kind, attributes), outputs=None if many else wanted)


def type_proto(type: Attribute) -> onnx.TypeProto:
    """ONNX's spelling of a type."""
    if isinstance(type, SequenceType):
        return onnx.helper.make_sequence_type_proto(type_proto(type.element))
    if isinstance(type, OptionalType):
        return onnx.helper.make_optional_type_proto(type_proto(type.element))
    if isinstance(type, MapType):
        return onnx.helper.make_map_type_proto(_NUMBER_OF[type.key], type_proto(type.element))
    if isinstance(type, UnrankedTensorType | NothingType):
        return onnx.helper.make_tensor_type_proto(_NUMBER_OF[type.element_type], None)
    assert isinstance(type, TensorType)
    extents = [extent if isinstance(extent, int) else str(extent) for extent in dims_of(type)]
    return onnx.helper.make_tensor_type_proto(_NUMBER_OF[type.element_type], extents)


__all__ = [
    "Dim",
    "build",
    "constant",
    "constant_value",
    "is_symbol",
    "operators_of",
    "properties",
    "type_proto",
]
