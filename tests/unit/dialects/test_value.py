"""The `value` dialect: its text, its rules, and its numbers for element types."""

import pytest
from xdsl.dialects.builtin import UnrankedTensorType, f16, f32, f64, i1, i8, i64

from stepwell.backends.cpu.signature import DTYPES, canonical_dtype
from stepwell.compat import new_context, parse_module
from stepwell.diagnostics import InvalidIR
from stepwell.dialects.graph import (
    ONNX_ELEMENTS,
    STRING,
    NothingType,
    OptionalType,
    SequenceType,
    dims_of,
    joined,
    numpy_dtype,
    tensor_type,
)
from stepwell.dialects.graph.shape import symbol
from stepwell.dialects.value import dlpack_type
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module
from tests.round_trip import check_reads_back

EVERY_OP = """
func.func @main(%s: !value.any, %t: tensor<?x2xi8>, %m: memref<2xf32>, %i: index) -> (!value.any, i1, index) {
  %a = value.absent
  %e = value.empty
  %w = value.wrap %t as ui8 : tensor<?x2xi8>
  %v = value.wrap %m as f32 : memref<2xf32>
  %n = value.length %s
  %x = value.at %s[%i]
  %u = value.unwrap %x as ui8 : tensor<?x2xi8>
  %p = value.present %a
  %r = value.insert %w into %s[%n]
  %q = value.erase %r[%i]
  %k = value.keys %a
  %y = value.values %a
  %z = value.map %k to %y
  func.return %q, %p, %n : !value.any, i1, index
}
"""


def test_text_of_every_op():
    module = parse_module(new_context(DIALECTS), EVERY_OP)
    verify_module(module)
    check_reads_back(module)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%t as ui8", "%t as f32", "elements of type f32 are not held as i8"),
        ("%t as ui8", "%t as index", "index is no element type"),
        ("%x as ui8", "%x as f64", "elements of type f64 are not held as i8"),
        ("%t as ui8", "%t as !graph.string", "elements of type !graph.string are not held as i8"),
    ],
)
def test_elements_that_do_not_fit(old, new, message):
    module = parse_module(new_context(DIALECTS), EVERY_OP.replace(old, new))
    with pytest.raises(InvalidIR, match=message):
        verify_module(module)


def test_numbers_of_element_types_are_those_of_the_tables():
    for element in ONNX_ELEMENTS.values():
        if element != STRING:
            name = canonical_dtype(numpy_dtype(element).name)
            assert dlpack_type(element) == DTYPES[name], name
    assert dlpack_type(STRING) == DTYPES["string"]


def test_joined_types():
    """What holds values of two types: extents that differ are open, then the rank; no element type is another."""
    n = symbol("n")
    three, four, open_, matrix = (tensor_type(s, f32) for s in ([3], [4], [n], [3, 3]))
    nothing, unranked = NothingType(f32), UnrankedTensorType(f32)
    assert dims_of(joined(three, four))[0] != dims_of(joined(three, open_))[0], "each is one of its own"
    assert joined(three, matrix) == unranked == joined(unranked, three)
    assert joined(nothing, three) == three and joined(nothing, unranked) == unranked
    assert joined(SequenceType(nothing), SequenceType(three)) == SequenceType(three)
    assert joined(OptionalType(SequenceType(three)), SequenceType(matrix)) == OptionalType(
        SequenceType(unranked)
    )
    assert joined(three, OptionalType(nothing)) == OptionalType(three)
    for element in (f16, f64, i1, i8, i64):
        assert joined(three, tensor_type([3], element)) is None
        assert joined(SequenceType(nothing), SequenceType(NothingType(element))) is None
    assert joined(three, SequenceType(three)) is None
