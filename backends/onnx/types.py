"""Types of the graph dialect as ONNX spells them."""

import onnx
from xdsl.dialects.builtin import TensorType, UnrankedTensorType
from xdsl.ir import Attribute

from stepwell.dialects.graph import ONNX_ELEMENTS, MapType, OptionalType, SequenceType, dims_of
from stepwell.dialects.graph.types import NothingType

NUMBER_OF = {element: number for number, element in ONNX_ELEMENTS.items()}
"""Element type to ONNX's number of it."""


def type_proto(type: Attribute) -> onnx.TypeProto:
    """The type of a value."""
    if isinstance(type, SequenceType):
        return onnx.helper.make_sequence_type_proto(type_proto(type.element))
    if isinstance(type, OptionalType):
        return onnx.helper.make_optional_type_proto(type_proto(type.element))
    if isinstance(type, MapType):
        return onnx.helper.make_map_type_proto(NUMBER_OF[type.key], type_proto(type.element))
    if isinstance(type, UnrankedTensorType | NothingType):
        return onnx.helper.make_tensor_type_proto(NUMBER_OF[type.element_type], None)
    assert isinstance(type, TensorType), f"{type} is no type of the graph dialect"
    # An extent that nothing is known of has no name: equal names are equal extents.
    extents = [d if isinstance(d, int) else None if str(d) == "?" else str(d) for d in dims_of(type)]
    return onnx.helper.make_tensor_type_proto(NUMBER_OF[type.element_type], extents)


def type_name(type: Attribute) -> str:
    """The type as operator schemas spell it: `seq(tensor(float))`."""
    if isinstance(type, SequenceType):
        return f"seq({type_name(type.element)})"
    if isinstance(type, OptionalType):
        return f"optional({type_name(type.element)})"
    if isinstance(type, MapType):
        key = onnx.TensorProto.DataType.Name(NUMBER_OF[type.key]).lower()
        return f"map({key},{type_name(type.element)})"
    assert isinstance(type, TensorType | UnrankedTensorType | NothingType), (
        f"{type} is no type of the graph dialect"
    )
    return f"tensor({onnx.TensorProto.DataType.Name(NUMBER_OF[type.element_type]).lower()})"
