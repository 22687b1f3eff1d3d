"""Operators of classical machine learning (the domain `ai.onnx.ml`)."""

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import TensorType, f32, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    VALUE,
    GraphOp,
    dims,
    element_type,
    integer,
    integers,
    operator,
    require_rank,
    require_same,
    string,
    strings,
    tensor_value,
)
from stepwell.dialects.graph.shape import Dim, tensor_type
from stepwell.dialects.graph.types import STRING, MapType, SequenceType, element_of, numpy_from_dense


@operator
class LabelEncoderOp(GraphOp):
    """
    The element of `values` at the last place where `keys` holds the operand's, or `default`. The importer makes these
    three constants of ONNX's twelve attributes.
    """

    ONNX_DOMAIN: ClassVar[str] = "ai.onnx.ml"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    keys = tensor_value(optional=False)
    values = tensor_value(optional=False)
    default = tensor_value(optional=False)

    def output_types(self) -> Sequence[Attribute]:
        keys, values, default = (numpy_from_dense(self.properties[n]) for n in ("keys", "values", "default"))
        if keys is None or values is None or default is None:
            raise VerifyException("keys, values and default must be inline constants")
        if keys.size != values.size or default.size != 1 or default.dtype != values.dtype:
            raise VerifyException(
                f"{keys.size} keys, {values.size} values of {values.dtype} and {default.size} defaults of"
                f" {default.dtype} make no table"
            )
        type_ = self.x.type
        assert isinstance(type_, TensorType), "the operand's definition says so"
        if element_of(keys.dtype) != type_.element_type:
            raise VerifyException(f"keys of {element_of(keys.dtype)} for an operand of {type_.element_type}")
        return [tensor_type(dims(self.x), element_of(values.dtype))]


def _map_type(op: GraphOp, value: SSAValue) -> MapType:
    if not isinstance(value.type, MapType):
        raise VerifyException(f"{op.name}: operand of type {value.type} must be a map")
    return value.type


def _value_type(type_: MapType) -> Attribute:
    """The element type of the values of a map."""
    assert isinstance(type_.element, TensorType), "the rule of the type says so"
    return type_.element.element_type


def _keys_of(op: GraphOp, numbers: str, texts: str) -> tuple[Attribute, int]:
    """The type of the keys that one of two properties lists, and how many there are."""
    listed = {key: op.get(name) for name, key in ((numbers, i64), (texts, STRING)) if op.get(name)}
    if len(listed) != 1:
        raise VerifyException(
            f"{op.name}: one of {numbers} and {texts} must list keys, not {len(listed)} of them"
        )
    ((key, names),) = listed.items()
    return key, len(names)


@operator
class ZipMapOp(GraphOp):
    """
    Each row of `x` as a map from the class labels, of which one list is given, to the row's elements: a sequence of maps. A vector is
    one row. Of a label that is listed twice the last element counts.
    Shapes: x `[rows, labels]` or `[labels]`.
    """

    ONNX_DOMAIN: ClassVar[str] = "ai.onnx.ml"
    x = operand_def(TENSOR)
    z = result_def(VALUE)
    classlabels_int64s = integers()
    classlabels_strings = strings()

    def output_types(self) -> Sequence[Attribute]:
        key, count = _keys_of(self, "classlabels_int64s", "classlabels_strings")
        require_same(self, require_rank(self, self.x, 1, 2)[-1], count, "number of class labels")
        if element_type(self.x) != f32:
            raise VerifyException(f"{self.name}: elements of type {element_type(self.x)} must be f32")
        return [SequenceType(MapType(key, tensor_type([], f32)))]


@operator
class DictVectorizerOp(GraphOp):
    """
    The values of a map as one row: column `c` is the value of key `c` of the vocabulary, of which one list is given, or, where the map
    has no such key, 0 (the empty string). Keys outside the vocabulary are left out.
    """

    ONNX_DOMAIN: ClassVar[str] = "ai.onnx.ml"
    x = operand_def(VALUE)
    y = result_def(TENSOR)
    int64_vocabulary = integers()
    string_vocabulary = strings()

    def output_types(self) -> Sequence[Attribute]:
        type_ = _map_type(self, self.x)
        key, count = _keys_of(self, "int64_vocabulary", "string_vocabulary")
        if key != type_.key:
            raise VerifyException(
                f"{self.name}: a vocabulary of {key} for a map with keys of type {type_.key}"
            )
        return [tensor_type([1, count], _value_type(type_))]


@operator
class CastMapOp(GraphOp):
    """
    The values of a map with keys of `i64` as one row of the type that `cast_to` says: all of them, in the order of their keys, if
    `map_form` is `DENSE`; if `SPARSE`, column `k` is the value of key `k` below `max_map`, 0 where there is none (`"0.f"`
    among strings, as ONNX Runtime has it). A number becomes text with six digits behind the point. Errors, at run time: a negative key in the sparse form, a string that spells no number.
    """

    ONNX_DOMAIN: ClassVar[str] = "ai.onnx.ml"
    CASTS: ClassVar[dict[str, Attribute]] = {"TO_FLOAT": f32, "TO_STRING": STRING, "TO_INT64": i64}
    x = operand_def(VALUE)
    y = result_def(TENSOR)
    cast_to = string("TO_FLOAT")
    map_form = string("DENSE")
    max_map = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        type_, target = _map_type(self, self.x), self.CASTS.get(self.get("cast_to"))
        if type_.key != i64 or _value_type(type_) not in (f32, STRING):
            raise VerifyException(f"{self.name}: {type_} must be a map from i64 to f32 or strings")
        if target is None:
            raise VerifyException(
                f"{self.name}: cast_to {self.get('cast_to')!r} must be one of {', '.join(self.CASTS)}"
            )
        if (form := self.get("map_form")) not in ("DENSE", "SPARSE"):
            raise VerifyException(f"{self.name}: map_form {form!r} must be DENSE or SPARSE")
        if form == "SPARSE" and self.get("max_map") < 1:
            raise VerifyException(f"{self.name}: max_map {self.get('max_map')} must be positive")
        columns: Dim = self.get("max_map") if form == "SPARSE" else self.fresh(0, 1)
        return [tensor_type([1, columns], target)]
