"""Types of the `graph` dialect, and the bridge between element types, ONNX's numbers for them, and numpy."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    ComplexType,
    DenseIntOrFPElementsAttr,
    IntegerType,
    Signedness,
    StringAttr,
    TensorType,
    UnrankedTensorType,
    bf16,
    f4E2M1FN,
    f8E4M3FN,
    f8E4M3FNUZ,
    f8E5M2,
    f8E5M2FNUZ,
    f8E8M0FNU,
    f16,
    f32,
    f64,
    i1,
    i8,
    i16,
    i32,
    i64,
)
from xdsl.ir import Attribute, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.shape import dims_of, tensor_type, unknown

if TYPE_CHECKING:
    import numpy as np


@irdl_attr_definition
class StringType(ParametrizedAttribute, TypeAttribute):
    """The element type of a tensor of strings (bytes in UTF-8, of any length)."""

    name = "graph.string"


@irdl_attr_definition
class NothingType(ParametrizedAttribute, TypeAttribute):
    """The type of the elements of a sequence that has none: tensors of `element_type`, and no rank contradicts it."""

    name = "graph.nothing"
    element_type: Attribute = param_def()


@irdl_attr_definition
class SequenceType(ParametrizedAttribute, TypeAttribute):
    """
    A list of values of one element type, of a length known at run time. An extent of `element` that is no number may
    be another one in each of them; so may the rank, if `element` is `tensor<*x...>`.
    """

    name = "graph.sequence"
    element: Attribute = param_def()


@irdl_attr_definition
class OptionalType(ParametrizedAttribute, TypeAttribute):
    """A value that may be absent; extents of `element` that are no numbers are not known."""

    name = "graph.optional"
    element: Attribute = param_def()


@irdl_attr_definition
class MapType(ParametrizedAttribute, TypeAttribute):
    """
    A finite map from keys (`i64` or `!graph.string`) to values: scalars of the type `element`, which is `tensor<f32>`,
    `tensor<f64>`, `tensor<i64>` or `tensor<!graph.string>`. Which keys there are is known at run time.
    """

    name = "graph.map"
    key: Attribute = param_def()
    element: Attribute = param_def()

    def verify(self) -> None:
        if self.key not in (i64, STRING):
            raise VerifyException(f"keys of type {self.key} must be i64 or {STRING}")
        scalar = isinstance(self.element, TensorType) and not self.element.get_num_dims()
        if not scalar or self.element.element_type not in (f32, f64, i64, STRING):  # pyright: ignore
            raise VerifyException(
                f"values of type {self.element} must be scalars of f32, f64, i64 or {STRING}"
            )


def held(type: Attribute) -> Attribute:
    """`type` as the element of a sequence or optional: it keeps the numbers among its extents."""
    if not isinstance(type, TensorType) or type.has_static_shape():
        return type
    extents = [d if isinstance(d, int) else unknown() for d in dims_of(type)]
    return tensor_type(extents, type.element_type)


def joined(a: Attribute, b: Attribute) -> Attribute | None:
    """The type of a value that may be a sequence, optional or element of either type; None if there is none."""
    if a == b:
        return a
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        inner = [t.element if isinstance(t, OptionalType) else held(t) for t in (a, b)]
        both = joined(*inner)
        return None if both is None else OptionalType(both)
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        both = joined(a.element, b.element)
        return None if both is None else SequenceType(both)
    if not isinstance(a, _ELEMENTS) or not isinstance(b, _ELEMENTS) or a.element_type != b.element_type:
        return None
    if isinstance(a, NothingType) or isinstance(b, NothingType):
        return held(b if isinstance(a, NothingType) else a)
    if not isinstance(a, TensorType) or not isinstance(b, TensorType) or a.get_num_dims() != b.get_num_dims():
        return UnrankedTensorType(a.element_type)
    pairs = zip(a.get_shape(), b.get_shape(), strict=True)
    return tensor_type([p if p == q and p >= 0 else unknown() for p, q in pairs], a.element_type)


_ELEMENTS = (TensorType, UnrankedTensorType, NothingType)
STRING = StringType()
i2, i4 = IntegerType(2), IntegerType(4)
ui2, ui4, ui8, ui16, ui32, ui64 = (IntegerType(w, Signedness.UNSIGNED) for w in (2, 4, 8, 16, 32, 64))

ONNX_ELEMENTS: dict[int, Attribute] = {
    1: f32,
    2: ui8,
    3: i8,
    4: ui16,
    5: i16,
    6: i32,
    7: i64,
    8: STRING,
    9: i1,
    10: f16,
    11: f64,
    12: ui32,
    13: ui64,
    14: ComplexType(f32),
    15: ComplexType(f64),
    16: bf16,
    17: f8E4M3FN,
    18: f8E4M3FNUZ,
    19: f8E5M2,
    20: f8E5M2FNUZ,
    21: ui4,
    22: i4,
    23: f4E2M1FN,
    24: f8E8M0FNU,
    25: ui2,
    26: i2,
}
"""ONNX's `TensorProto.DataType` to the element type."""

_NUMPY_NAMES = {
    i1: "bool",
    i8: "int8",
    i16: "int16",
    i32: "int32",
    i64: "int64",
    ui8: "uint8",
    ui16: "uint16",
    ui32: "uint32",
    ui64: "uint64",
    f16: "float16",
    f32: "float32",
    f64: "float64",
    STRING: "object",
    ComplexType(f32): "complex64",
    ComplexType(f64): "complex128",
}
_ML_DTYPES = {
    bf16: "bfloat16",
    f8E4M3FN: "float8_e4m3fn",
    f8E4M3FNUZ: "float8_e4m3fnuz",
    f8E5M2: "float8_e5m2",
    f8E5M2FNUZ: "float8_e5m2fnuz",
    f8E8M0FNU: "float8_e8m0fnu",
    f4E2M1FN: "float4_e2m1fn",
    i2: "int2",
    i4: "int4",
    ui2: "uint2",
    ui4: "uint4",
}
FLOATS = frozenset(
    (f16, f32, f64, bf16, f8E4M3FN, f8E4M3FNUZ, f8E5M2, f8E5M2FNUZ, f8E8M0FNU, f4E2M1FN),
)
SIGNED = frozenset((i2, i4, i8, i16, i32, i64))
UNSIGNED = frozenset((ui2, ui4, ui8, ui16, ui32, ui64))


@lru_cache
def numpy_dtype(element: Attribute) -> "np.dtype[Any]":
    """The numpy dtype that holds this element type, one value per item (bf16, f8, i4 through ml_dtypes)."""
    import numpy as np

    if (name := _NUMPY_NAMES.get(element)) is not None:  # pyright: ignore
        return np.dtype(name)
    if element in _ML_DTYPES:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _ML_DTYPES[element]))
    raise ValueError(f"element type {element} has no numpy dtype")


@lru_cache
def element_of(dtype: "np.dtype[Any]") -> Attribute:
    """The element type of a numpy dtype; strings (`U`, `S`, `O`) are `!graph.string`."""
    import numpy as np

    if dtype.kind in "USO":
        return STRING
    for element in (*_NUMPY_NAMES, *_ML_DTYPES):
        if np.dtype(dtype) == numpy_dtype(element):
            return element
    raise ValueError(f"numpy dtype {dtype} has no element type here")


def dense_from_numpy(array: "np.ndarray[Any, Any]") -> Attribute:
    """The inline constant of `array`; an array of strings becomes an array attribute of strings."""
    import numpy as np

    element = element_of(array.dtype)
    if element == STRING:
        texts = [s.decode() if isinstance(s, bytes) else str(s) for s in array.ravel().tolist()]
        return ArrayAttr([StringAttr(s) for s in texts])
    type_ = tensor_type(array.shape, element)
    if element == i1:
        # Booleans are stored as xDSL stores them, 0xff for true.
        array = array.astype(np.uint8) * np.uint8(255)
    data = np.ascontiguousarray(array)
    return DenseIntOrFPElementsAttr(type_, BytesAttr(data.tobytes()))  # pyright: ignore[reportArgumentType]


def numpy_from_dense(attribute: Attribute, type_: TensorType[Attribute] | None = None) -> "np.ndarray | None":
    """A read-only array of an inline constant; None for a resource, whose bytes are elsewhere."""
    import numpy as np

    if isinstance(attribute, ArrayAttr):
        texts = np.array([s.data for s in attribute if isinstance(s, StringAttr)], dtype=object)
        return texts.reshape(type_.get_shape()) if type_ is not None else texts
    if not isinstance(attribute, DenseIntOrFPElementsAttr):
        return None
    element = attribute.get_element_type()
    shape = attribute.get_shape()
    if element == i1:
        array = np.frombuffer(attribute.data.data, dtype=np.uint8) != 0
    else:
        array = np.frombuffer(attribute.data.data, dtype=numpy_dtype(element))
    return array.reshape(shape)
