"""The `memref` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from io import StringIO
from typing import cast

from xdsl.dialects import memref as _xdsl
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    IntegerAttr,
    MemRefType,
    NoneAttr,
    StridedLayoutAttr,
    StringAttr,
    SymbolNameConstraint,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.dialects.memref import MemRef
from xdsl.ir import Attribute, Dialect, Operation, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import MemoryReadEffect, MemoryWriteEffect, NoMemoryEffect, SymbolOpInterface
from xdsl.utils.exceptions import VerifyException

AllocOp = _xdsl.AllocOp
AllocaOp = _xdsl.AllocaOp
CollapseShapeOp = _xdsl.CollapseShapeOp
DimOp = _xdsl.DimOp
ExpandShapeOp = _xdsl.ExpandShapeOp
GetGlobalOp = _xdsl.GetGlobalOp
LoadOp = _xdsl.LoadOp
ReinterpretCastOp = _xdsl.ReinterpretCastOp
StoreOp = _xdsl.StoreOp
SubviewOp = _xdsl.SubviewOp
ViewOp = _xdsl.ViewOp

ALIGNMENT = 64
"""Bytes to which every buffer that we allocate is aligned: a cache line, and the widest vector."""


def tensor_of(type: MemRefType) -> TensorType:
    """The tensor type with the shape and element type of `type`."""
    return TensorType(type.element_type, type.get_shape())


def strides_of(type: MemRefType) -> tuple[list[int | None], int | None]:
    """Strides and offset of `type` in elements; None where only known at run time."""
    if isinstance(type.layout, StridedLayoutAttr):
        return list(type.layout.get_strides()), type.layout.get_offset()
    assert isinstance(type.layout, NoneAttr), f"{type} is not strided"
    strides: list[int | None] = []
    stride: int | None = 1
    for extent in reversed(type.get_shape()):
        strides.append(stride)
        stride = None if stride is None or extent < 0 else stride * extent
    return strides[::-1], 0


@irdl_op_definition
class GlobalOp(IRDLOperation):
    """
    A buffer that exists once per module; `constant` ones are never written.
    `initial_value`: dense data, a resource, or unit for uninitialised; absent, an external declaration.
    """

    name = "memref.global"
    sym_name = prop_def(SymbolNameConstraint())
    sym_visibility = opt_prop_def(StringAttr)
    type = prop_def(MemRefType)
    initial_value = opt_prop_def(AnyAttr())
    constant = opt_prop_def(UnitAttr)
    alignment = opt_prop_def(IntegerAttr)
    traits = traits_def(SymbolOpInterface())

    def __init__(
        self,
        sym_name: str,
        type: MemRefType,
        initial_value: Attribute | None,
        constant: bool = True,
        alignment: int | None = None,
        sym_visibility: str | None = "private",
    ):
        super().__init__(
            properties={
                "sym_name": StringAttr(sym_name),
                "sym_visibility": None if sym_visibility is None else StringAttr(sym_visibility),
                "type": type,
                "initial_value": initial_value,
                "constant": UnitAttr() if constant else None,
                "alignment": None if alignment is None else IntegerAttr(alignment, i64),
            }
        )

    def verify_(self) -> None:
        value = self.initial_value
        if isinstance(value, DenseIntOrFPElementsAttr | DenseResourceAttr):
            if value.get_type() != tensor_of(self.type):
                raise VerifyException(
                    f"initial value of type {value.get_type()} must be of {tensor_of(self.type)}"
                )
        elif value is not None and not isinstance(value, UnitAttr):
            raise VerifyException(f"initial value {value} must be dense data, a resource or unit")

    def print(self, printer: Printer) -> None:
        if self.sym_visibility is not None:
            printer.print_string(" ")
            printer.print_attribute(self.sym_visibility)
        if self.constant is not None:
            printer.print_string(" constant")
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        printer.print_string(" : ")
        printer.print_attribute(self.type)
        value = self.initial_value
        if isinstance(value, UnitAttr):
            printer.print_string(" = uninitialized")
        elif isinstance(value, DenseResourceAttr):
            printer.print_string(" = ")
            value.print_without_type(printer)
        elif isinstance(value, DenseIntOrFPElementsAttr):
            printer.print_string(" = ")
            text = StringIO()
            Printer(text).print_attribute(value)
            printer.print_string(text.getvalue().rpartition(" : ")[0])
        attributes = dict(self.attributes)
        if self.alignment is not None:
            attributes["alignment"] = self.alignment
        printer.print_op_attributes(attributes)

    @classmethod
    def parse(cls, parser: Parser) -> "GlobalOp":
        visibility = parser.parse_optional_str_literal()
        constant = parser.parse_optional_keyword("constant") is not None
        name = parser.parse_symbol_name()
        parser.parse_punctuation(":")
        type = cast(MemRefType, parser.parse_type())
        value: Attribute | None = None
        if parser.parse_optional_punctuation("="):
            if parser.parse_optional_keyword("uninitialized"):
                value = UnitAttr()
            elif parser.parse_optional_keyword("dense_resource"):
                parser.parse_characters("<")
                key = parser._parse_dialect_resource_handle(  # pyright: ignore[reportPrivateUsage]
                    "builtin", _resources(parser)
                )
                parser.parse_characters(">")
                value = DenseResourceAttr.from_params(key, tensor_of(type))
            else:
                parser.parse_keyword("dense")
                # The parser itself refuses an element type that no dense value has.
                value = parser.parse_dense_int_or_fp_elements_attr(tensor_of(type))  # pyright: ignore[reportArgumentType]
        attributes = parser.parse_optional_attr_dict()
        alignment = attributes.pop("alignment", None)
        op = cls(name.data, type, value, constant, None, visibility)
        if alignment is not None:
            op.properties["alignment"] = alignment
        op.attributes |= attributes
        return op


def _resources(parser: Parser):
    from xdsl.dialect_interfaces.op_asm import OpAsmDialectInterface

    interface = parser.ctx.get_dialect("builtin").get_interface(OpAsmDialectInterface)
    assert interface is not None, "the builtin dialect keeps the resources"
    return interface


@irdl_op_definition
class CopyOp(IRDLOperation):
    """Write the elements of `source` to `destination`, which has the same shape and does not overlap it."""

    name = "memref.copy"
    source = operand_def(MemRefType)
    destination = operand_def(MemRefType)
    traits = traits_def(MemoryWriteEffect(), MemoryReadEffect())
    assembly_format = "$source `,` $destination attr-dict `:` type($source) `to` type($destination)"

    def __init__(self, source: SSAValue | Operation, destination: SSAValue | Operation):
        super().__init__(operands=[source, destination])

    def verify_(self) -> None:
        source, destination = cast(MemRefType, self.source.type), cast(MemRefType, self.destination.type)
        if source.element_type != destination.element_type:
            raise VerifyException(f"element types of {source} and {destination} must be equal")
        shapes = source.get_shape(), destination.get_shape()
        if len(shapes[0]) != len(shapes[1]) or any(
            a != b and a >= 0 and b >= 0 for a, b in zip(*shapes, strict=True)
        ):
            raise VerifyException(f"shapes of {source} and {destination} must be equal")


@irdl_op_definition
class CastOp(IRDLOperation):
    """The same buffer under a type that knows more or less of its extents, strides and offset."""

    name = "memref.cast"
    source = operand_def(MemRefType)
    dest = result_def(MemRefType)
    traits = traits_def(NoMemoryEffect())
    assembly_format = "$source attr-dict `:` type($source) `to` type($dest)"

    def __init__(self, source: SSAValue | Operation, type: MemRefType):
        super().__init__(operands=[source], result_types=[type])


_OURS = (GlobalOp, CopyOp, CastOp)
_REPLACED = {op.name for op in _OURS}

MEMREF = Dialect(
    "memref",
    [*(op for op in MemRef.operations if op.name not in _REPLACED), *_OURS],
    [*MemRef.attributes],
    MemRef._interfaces,
)
