"""The `llvm` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import (
    I1,
    I32,
    I64,
    AnyFloatConstr,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    IntegerType,
    VectorType,
    i1,
    i32,
    i64,
)
from xdsl.dialects.llvm import (
    GEP_USE_SSA_VAL,
    FastMathAttr,
    FCmpPredicateFlag,
    ICmpPredicateFlag,
    LLVMArrayType,
    LLVMPointerType,
    LLVMStructType,
)
from xdsl.dialects.llvm import LLVM as _XDSL_LLVM
from xdsl.dialects.llvm import FuncOp as _FuncOp
from xdsl.dialects.utils import parse_dynamic_index_list_without_types, print_dynamic_index_list
from xdsl.ir import Attribute, Block, Dialect, Operation, SSAValue
from xdsl.irdl import (
    AnyAttr,
    AttrSizedOperandSegments,
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    base,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    successor_def,
    traits_def,
    var_operand_def,
    var_successor_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsTerminator, NoMemoryEffect, Pure
from xdsl.utils.exceptions import VerifyException

_INBOUNDS = 3
"""`noWrapFlags` of an inbounds `getelementptr`: inbounds (1) and no-unsigned-signed-wrap (2)."""


# --- ops that xDSL has, but narrower than upstream -------------------------------------------------


@irdl_op_definition
class GEPOp(IRDLOperation):
    """
    The address `ptr + index * sizeof(elem_type) + ...`; a vector of indices gives a vector of pointers.

    Differs from xDSL's: `inbounds` is kept in `noWrapFlags`, as upstream, so it survives the generic form.
    """

    name = "llvm.getelementptr"
    ptr = operand_def(LLVMPointerType | VectorType)
    ssa_indices = var_operand_def(IntegerType | VectorType)
    elem_type = prop_def()
    noWrapFlags = prop_def(IntegerAttr[I32], default_value=IntegerAttr(0, i32))
    rawConstantIndices = prop_def(DenseArrayBase.constr(i32))
    result = result_def(LLVMPointerType | VectorType)
    traits = traits_def(NoMemoryEffect())

    def __init__(
        self,
        ptr: SSAValue,
        indices: Sequence[int | SSAValue],
        elem_type: Attribute,
        result_type: Attribute | None = None,
        inbounds: bool = False,
    ):
        dynamic = [index for index in indices if not isinstance(index, int)]
        raw = [index if isinstance(index, int) else GEP_USE_SSA_VAL for index in indices]
        super().__init__(
            operands=[ptr, dynamic],
            result_types=[LLVMPointerType() if result_type is None else result_type],
            properties={
                "elem_type": elem_type,
                "rawConstantIndices": DenseArrayBase.from_list(i32, raw),
                "noWrapFlags": IntegerAttr(_INBOUNDS if inbounds else 0, i32),
            },
        )

    def verify_(self) -> None:
        raw = tuple(self.rawConstantIndices.iter_values())
        dynamic = sum(index == GEP_USE_SSA_VAL for index in raw)
        if dynamic != len(self.ssa_indices):
            raise VerifyException(f"{dynamic} dynamic indices in the list, {len(self.ssa_indices)} operands")
        current: Attribute = self.elem_type
        for place, index in enumerate(raw[1:], start=1):
            if isinstance(current, LLVMArrayType):
                current = current.type
            elif isinstance(current, LLVMStructType):
                if not 0 <= index < len(current.types):
                    raise VerifyException(f"index #{place}: {index} is no field of {current}")
                current = current.types.data[index]
            else:
                raise VerifyException(f"index #{place}: cannot index into {current}")

    def print(self, printer: Printer) -> None:
        printer.print_string(" inbounds " if self.noWrapFlags.value.data == _INBOUNDS else " ")
        printer.print_ssa_value(self.ptr)
        print_dynamic_index_list(
            printer, GEP_USE_SSA_VAL, self.ssa_indices, self.rawConstantIndices.iter_values()
        )
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        printer.print_function_type([operand.type for operand in self.operands], [self.result.type])
        printer.print_string(", ")
        printer.print_attribute(self.elem_type)

    @classmethod
    def parse(cls, parser: Parser) -> "GEPOp":
        inbounds = parser.parse_optional_keyword("inbounds") is not None
        ptr = parser.parse_unresolved_operand()
        refs, raw = parse_dynamic_index_list_without_types(parser, GEP_USE_SSA_VAL)
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        function = parser.parse_function_type()
        parser.parse_punctuation(",")
        elem_type = parser.parse_type()
        operands = parser.resolve_operands([ptr, *refs], function.inputs.data, parser.pos)
        dynamic = iter(operands[1:])
        indices = [next(dynamic) if index == GEP_USE_SSA_VAL else index for index in raw]
        op = cls(operands[0], indices, elem_type, function.outputs.data[0], inbounds)
        op.attributes |= attributes
        return op


_FUNCTION_PROPERTIES = ("passthrough", "target_cpu", "target_features", "tune_cpu", "frame_pointer",
                        "no_inline", "no_unwind", "optimize_none")  # fmt: skip


class FuncOp(_FuncOp):
    """xDSL's function, whose inherent attributes stay properties when the pretty form is read."""

    @classmethod
    def parse(cls, parser: Parser) -> "FuncOp":
        parsed = _FuncOp.parse(parser)
        attributes = dict(parsed.attributes)
        properties = dict(parsed.properties)
        for key in _FUNCTION_PROPERTIES:
            if key in attributes:
                properties[key] = attributes.pop(key)
        return cls.create(
            properties=properties, attributes=attributes, regions=[parsed.detach_region(parsed.body)]
        )


@irdl_op_definition
class ICmpOp(IRDLOperation):
    """Compare integers or pointers, lane by lane for vectors."""

    name = "llvm.icmp"
    T: ClassVar = VarConstraint("T", base(IntegerType) | base(LLVMPointerType) | base(VectorType))
    lhs = operand_def(T)
    rhs = operand_def(T)
    res = result_def(I1 | VectorType[I1])
    predicate = prop_def(IntegerAttr[I64])
    traits = traits_def(Pure())

    def __init__(self, lhs: SSAValue, rhs: SSAValue, predicate: str):
        type = lhs.type
        super().__init__(
            operands=[lhs, rhs],
            properties={"predicate": IntegerAttr(ICmpPredicateFlag(predicate).to_int(), i64)},
            result_types=[VectorType(i1, type.shape) if isinstance(type, VectorType) else i1],
        )

    @classmethod
    def parse(cls, parser: Parser) -> "ICmpOp":
        predicate = parser.parse_str_literal()
        lhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        rhs = parser.parse_unresolved_operand()
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        type = parser.parse_type()
        op = cls(parser.resolve_operand(lhs, type), parser.resolve_operand(rhs, type), predicate)
        op.attributes |= attributes
        return op

    def print(self, printer: Printer) -> None:
        printer.print_string(f' "{ICmpPredicateFlag.from_int(self.predicate.value.data)}" ')
        printer.print_ssa_value(self.lhs)
        printer.print_string(", ")
        printer.print_ssa_value(self.rhs)
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        printer.print_attribute(self.lhs.type)


@irdl_op_definition
class FCmpOp(IRDLOperation):
    """Compare floats, lane by lane for vectors."""

    name = "llvm.fcmp"
    T: ClassVar = VarConstraint("T", AnyFloatConstr | VectorType.constr(AnyFloatConstr))
    lhs = operand_def(T)
    rhs = operand_def(T)
    res = result_def(I1 | VectorType[I1])
    predicate = prop_def(IntegerAttr[I64])
    fastmathFlags = prop_def(FastMathAttr, default_value=FastMathAttr(None))
    traits = traits_def(Pure())

    def __init__(self, lhs: SSAValue, rhs: SSAValue, predicate: str):
        type = lhs.type
        super().__init__(
            operands=[lhs, rhs],
            properties={"predicate": IntegerAttr(FCmpPredicateFlag(predicate).to_int(), i64)},
            result_types=[VectorType(i1, type.shape) if isinstance(type, VectorType) else i1],
        )

    @classmethod
    def parse(cls, parser: Parser) -> "FCmpOp":
        predicate = parser.parse_str_literal()
        lhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        rhs = parser.parse_unresolved_operand()
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        type = parser.parse_type()
        op = cls(parser.resolve_operand(lhs, type), parser.resolve_operand(rhs, type), predicate)
        if isinstance(flags := attributes.pop("fastmathFlags", None), FastMathAttr):
            op.fastmathFlags = flags
        op.attributes |= attributes
        return op

    def print(self, printer: Printer) -> None:
        printer.print_string(f' "{FCmpPredicateFlag.from_int(self.predicate.value.data)}" ')
        printer.print_ssa_value(self.lhs)
        printer.print_string(", ")
        printer.print_ssa_value(self.rhs)
        flags = {} if self.fastmathFlags == FastMathAttr(None) else {"fastmathFlags": self.fastmathFlags}
        printer.print_op_attributes({**flags, **self.attributes})
        printer.print_string(" : ")
        printer.print_attribute(self.lhs.type)


@irdl_op_definition
class SelectOp(IRDLOperation):
    """`lhs` where `cond` is true, else `rhs`; lane by lane if `cond` is a vector."""

    name = "llvm.select"
    T: ClassVar = VarConstraint("T", AnyAttr())
    cond = operand_def(I1 | VectorType[I1])
    lhs = operand_def(T)
    rhs = operand_def(T)
    res = result_def(T)
    fastmathFlags = prop_def(FastMathAttr, default_value=FastMathAttr(None))
    traits = traits_def(Pure())
    assembly_format = "$cond `,` $lhs `,` $rhs attr-dict `:` type($cond) `,` type($res)"
    irdl_options = (ParsePropInAttrDict(),)

    def __init__(self, cond: SSAValue, lhs: SSAValue, rhs: SSAValue):
        super().__init__(operands=[cond, lhs, rhs], result_types=[lhs.type])


# --- ops that xDSL lacks ---------------------------------------------------------------------------


@irdl_op_definition
class PoisonOp(IRDLOperation):
    """A value of any type whose every use is undefined until it is overwritten."""

    name = "llvm.mlir.poison"
    res = result_def()
    traits = traits_def(Pure())
    assembly_format = "attr-dict `:` type($res)"

    def __init__(self, type: Attribute):
        super().__init__(result_types=[type])


@irdl_op_definition
class FreezeOp(IRDLOperation):
    """`val` with undefined bits fixed to arbitrary but consistent ones."""

    name = "llvm.freeze"
    val = operand_def()
    res = result_def()
    traits = traits_def(Pure())

    def __init__(self, val: SSAValue):
        super().__init__(operands=[val], result_types=[val.type])

    @classmethod
    def parse(cls, parser: Parser) -> "FreezeOp":
        val = parser.parse_unresolved_operand()
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        op = cls(parser.resolve_operand(val, parser.parse_type()))
        op.attributes |= attributes
        return op

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_ssa_value(self.val)
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        printer.print_attribute(self.val.type)


@irdl_op_definition
class ExtractElementOp(IRDLOperation):
    """Lane `position` of a vector; poison if it is out of range."""

    name = "llvm.extractelement"
    vector = operand_def(VectorType)
    position = operand_def(IntegerType)
    res = result_def()
    traits = traits_def(Pure())

    def __init__(self, vector: SSAValue, position: SSAValue):
        type = vector.type
        assert isinstance(type, VectorType), "extractelement reads a vector"
        super().__init__(operands=[vector, position], result_types=[type.element_type])

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_ssa_value(self.vector)
        printer.print_string("[")
        printer.print_ssa_value(self.position)
        printer.print_string(" : ")
        printer.print_attribute(self.position.type)
        printer.print_string("]")
        printer.print_op_attributes(self.attributes)
        printer.print_string(" : ")
        printer.print_attribute(self.vector.type)

    @classmethod
    def parse(cls, parser: Parser) -> "ExtractElementOp":
        vector = parser.parse_unresolved_operand()
        parser.parse_punctuation("[")
        position = parser.parse_unresolved_operand()
        parser.parse_punctuation(":")
        position_type = parser.parse_type()
        parser.parse_punctuation("]")
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        op = cls(
            parser.resolve_operand(vector, parser.parse_type()),
            parser.resolve_operand(position, position_type),
        )
        op.attributes |= attributes
        return op


@irdl_op_definition
class SwitchOp(IRDLOperation):
    """Go to the case whose value equals `value`, else to the default; in the generic form only."""

    name = "llvm.switch"
    value = operand_def(IntegerType)
    default_operands = var_operand_def()
    case_operands = var_operand_def()
    case_values = opt_prop_def(DenseIntOrFPElementsAttr)
    case_operand_segments = prop_def(DenseArrayBase.constr(i32))
    default_block = successor_def()
    case_blocks = var_successor_def()
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(IsTerminator())

    def __init__(self, value: SSAValue, default: Block, cases: Sequence[tuple[int, Block]]):
        type = value.type
        assert isinstance(type, IntegerType), "switch is on an integer"
        values = None
        if cases:
            values = DenseIntOrFPElementsAttr.from_list(
                VectorType(type, [len(cases)]), [case for case, _ in cases]
            )
        super().__init__(
            operands=[value, [], []],
            properties={
                "case_values": values,
                "case_operand_segments": DenseArrayBase.from_list(i32, [0] * len(cases)),
            },
            successors=[default, [block for _, block in cases]],
        )


def _named(class_name: str, name: str, doc: str, members: dict[str, object]) -> type[Operation]:
    body = {"name": name, "__doc__": doc, "__module__": __name__, **members}
    return irdl_op_definition(type(class_name, (IRDLOperation,), body))


def _conversion(class_name: str, name: str, doc: str) -> type[Operation]:
    members = {
        "arg": operand_def(),
        "res": result_def(),
        "traits": traits_def(Pure()),
        "assembly_format": "$arg attr-dict `:` type($arg) `to` type($res)",
    }
    return _named(class_name, f"llvm.{name}", doc, members)


@irdl_op_definition
class TruncOp(IRDLOperation):
    """The low bits; upstream spells absent `overflowFlags` in its generic form as `0 : i32`, xDSL otherwise."""

    name = "llvm.trunc"
    arg = operand_def()
    res = result_def()
    overflowFlags = opt_prop_def(AnyAttr())
    traits = traits_def(Pure())
    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$arg attr-dict `:` type($arg) `to` type($res)"

    def __init__(self, arg: SSAValue, type: Attribute):
        super().__init__(operands=[arg], result_types=[type])


FPToSIOp = _conversion(
    "FPToSIOp", "fptosi", "Round towards zero to a signed integer; poison if out of range."
)
FPToUIOp = _conversion("FPToUIOp", "fptoui", "Round towards zero to an unsigned integer; poison if out.")
UIToFPOp = _conversion("UIToFPOp", "uitofp", "The nearest float to an unsigned integer.")

_ORDINALS = ("a", "b", "c")


def _pure(class_name: str, intrinsic: str, arity: int, doc: str, flag: str = "") -> type[Operation]:
    """
    A pure intrinsic of `arity` operands. `flag` is "fastmath" (the op carries `fastmathFlags`) or the name
    of a boolean property; the latter and reductions have no pretty form upstream.
    """
    members: dict[str, object] = {name: operand_def() for name in _ORDINALS[:arity]}
    members["res"] = result_def()
    members["traits"] = traits_def(Pure())
    if flag == "fastmath":
        members["fastmathFlags"] = prop_def(FastMathAttr, default_value=FastMathAttr(None))
    elif flag:
        members[flag] = prop_def(IntegerAttr[I1])
    if flag in ("", "fastmath") and "reduce" not in intrinsic:
        members["assembly_format"] = "`(` operands `)` attr-dict `:` functional-type(operands, results)"
        members["irdl_options"] = (ParsePropInAttrDict(),)
    return _named(class_name, f"llvm.intr.{intrinsic}", doc, members)


SMaxOp = _pure("SMaxOp", "smax", 2, "Signed maximum.")
SMinOp = _pure("SMinOp", "smin", 2, "Signed minimum.")
UMaxOp = _pure("UMaxOp", "umax", 2, "Unsigned maximum.")
UMinOp = _pure("UMinOp", "umin", 2, "Unsigned minimum.")
AbsOp = _pure("AbsOp", "abs", 1, "Absolute value of a signed integer.", "is_int_min_poison")
CtlzOp = _pure("CtlzOp", "ctlz", 1, "Number of leading zero bits.", "is_zero_poison")
CttzOp = _pure("CttzOp", "cttz", 1, "Number of trailing zero bits.", "is_zero_poison")
CtPopOp = _pure("CtPopOp", "ctpop", 1, "Number of one bits.")
FPToSISatOp = _pure("FPToSISatOp", "fptosi.sat", 1, "Round towards zero, saturate; NaN gives 0.")
FPToUISatOp = _pure("FPToUISatOp", "fptoui.sat", 1, "Round towards zero, saturate; NaN gives 0.")
FMaximumOp = _pure("FMaximumOp", "maximum", 2, "Maximum; NaN if either is NaN; -0 < +0.", "fastmath")
FMinimumOp = _pure("FMinimumOp", "minimum", 2, "Minimum; NaN if either is NaN; -0 < +0.", "fastmath")
FRoundOp = _pure("FRoundOp", "round", 1, "Round to nearest, ties away from zero.", "fastmath")
FRoundEvenOp = _pure("FRoundEvenOp", "roundeven", 1, "Round to nearest, ties to even.", "fastmath")
FRintOp = _pure("FRintOp", "rint", 1, "Round in the current rounding mode.", "fastmath")
FTruncOp = _pure("FTruncOp", "trunc", 1, "Round towards zero.", "fastmath")
FLog10Op = _pure("FLog10Op", "log10", 1, "Logarithm to base 10.", "fastmath")
FTanOp = _pure("FTanOp", "tan", 1, "Tangent.", "fastmath")
FMulAddOp = _pure("FMulAddOp", "fmuladd", 3, "`a * b + c`, fused where that is fast.", "fastmath")
PowIOp = _pure("PowIOp", "powi", 2, "`a` to an integer power.", "fastmath")

_REDUCTIONS = [
    _pure(f"VectorReduce{kind.title()}Op", f"vector.reduce.{kind}", 1, f"All lanes combined by {kind}.", flag)
    for kinds, flag in (
        (("add", "mul", "and", "or", "xor", "smax", "smin", "umax", "umin"), ""),
        (("fmax", "fmin", "fmaximum", "fminimum"), "fastmath"),
    )
    for kind in kinds
]
REDUCTIONS = {op.name.removeprefix("llvm.intr.vector.reduce."): op for op in _REDUCTIONS}
"""The reductions without a start value, by the name of what combines the lanes."""


@irdl_op_definition
class MaskedLoadOp(IRDLOperation):
    """The lanes of memory at `data` where `mask` is true, else of `pass_thru`; masked lanes never fault."""

    name = "llvm.intr.masked.load"
    data = operand_def(LLVMPointerType)
    mask = operand_def(VectorType[I1])
    pass_thru = operand_def(VectorType)
    alignment = prop_def(IntegerAttr[I32])
    res = result_def(VectorType)
    assembly_format = "operands attr-dict `:` functional-type(operands, results)"
    irdl_options = (ParsePropInAttrDict(),)

    def __init__(self, data: SSAValue, mask: SSAValue, pass_thru: SSAValue, alignment: int):
        super().__init__(
            operands=[data, mask, pass_thru],
            properties={"alignment": IntegerAttr(alignment, i32)},
            result_types=[pass_thru.type],
        )


@irdl_op_definition
class MaskedStoreOp(IRDLOperation):
    """Write the lanes of `value` where `mask` is true; other memory is untouched and never faults."""

    name = "llvm.intr.masked.store"
    value = operand_def(VectorType)
    data = operand_def(LLVMPointerType)
    mask = operand_def(VectorType[I1])
    alignment = prop_def(IntegerAttr[I32])
    assembly_format = (
        "$value `,` $data `,` $mask attr-dict `:` type($value) `,` type($mask) `into` type($data)"
    )
    irdl_options = (ParsePropInAttrDict(),)

    def __init__(self, value: SSAValue, data: SSAValue, mask: SSAValue, alignment: int):
        super().__init__(operands=[value, data, mask], properties={"alignment": IntegerAttr(alignment, i32)})


@irdl_op_definition
class GatherOp(IRDLOperation):
    """One load for each lane of `ptrs` where `mask` is true, else the lane of `pass_thru`."""

    name = "llvm.intr.masked.gather"
    ptrs = operand_def(VectorType)
    mask = operand_def(VectorType[I1])
    pass_thru = operand_def(VectorType)
    alignment = prop_def(IntegerAttr[I32])
    res = result_def(VectorType)
    assembly_format = "operands attr-dict `:` functional-type(operands, results)"
    irdl_options = (ParsePropInAttrDict(),)

    def __init__(self, ptrs: SSAValue, mask: SSAValue, pass_thru: SSAValue, alignment: int):
        super().__init__(
            operands=[ptrs, mask, pass_thru],
            properties={"alignment": IntegerAttr(alignment, i32)},
            result_types=[pass_thru.type],
        )


@irdl_op_definition
class ScatterOp(IRDLOperation):
    """One store for each lane of `ptrs` where `mask` is true, from the lowest lane to the highest."""

    name = "llvm.intr.masked.scatter"
    value = operand_def(VectorType)
    ptrs = operand_def(VectorType)
    mask = operand_def(VectorType[I1])
    alignment = prop_def(IntegerAttr[I32])
    assembly_format = (
        "$value `,` $ptrs `,` $mask attr-dict `:` type($value) `,` type($mask) `into` type($ptrs)"
    )
    irdl_options = (ParsePropInAttrDict(),)

    def __init__(self, value: SSAValue, ptrs: SSAValue, mask: SSAValue, alignment: int):
        super().__init__(operands=[value, ptrs, mask], properties={"alignment": IntegerAttr(alignment, i32)})


def _memory_transfer(class_name: str, name: str, second: str, doc: str) -> type[Operation]:
    members = {
        "dst": operand_def(LLVMPointerType),
        second: operand_def(),
        "len": operand_def(IntegerType),
        "isVolatile": prop_def(IntegerAttr[I1], default_value=IntegerAttr(0, 1)),
    }
    return _named(class_name, f"llvm.intr.{name}", doc, members)


MemcpyOp = _memory_transfer("MemcpyOp", "memcpy", "src", "Copy `len` bytes between disjoint ranges.")
MemmoveOp = _memory_transfer("MemmoveOp", "memmove", "src", "Copy `len` bytes between any ranges.")
MemsetOp = _memory_transfer("MemsetOp", "memset", "val", "Fill `len` bytes with the byte `val`.")


@irdl_op_definition
class PrefetchOp(IRDLOperation):
    """
    Bring the line at `addr` into a cache; any address is allowed. `rw` 0 to read, 1 to write; `hint` 0 (used once) to
    3 (keep in all caches); `cache` 1 for data.
    """

    name = "llvm.intr.prefetch"
    addr = operand_def(LLVMPointerType)
    rw = prop_def(IntegerAttr[I32])
    hint = prop_def(IntegerAttr[I32])
    cache = prop_def(IntegerAttr[I32])


_OURS: list[type[Operation]] = [
    AbsOp, CtlzOp, CtPopOp, CttzOp, ExtractElementOp, FCmpOp, FLog10Op, FMaximumOp, FMinimumOp, FMulAddOp,
    FPToSIOp, FPToSISatOp, FPToUIOp, FPToUISatOp, FRintOp, FRoundEvenOp, FRoundOp, FTanOp, FTruncOp, FreezeOp,
    FuncOp, GEPOp, ICmpOp, GatherOp, MaskedLoadOp, MaskedStoreOp, MemcpyOp, MemmoveOp, MemsetOp, PoisonOp,
    PowIOp, PrefetchOp, SMaxOp, SMinOp, ScatterOp, SelectOp, SwitchOp, TruncOp, UIToFPOp, UMaxOp, UMinOp, *_REDUCTIONS,
]  # fmt: skip
_replaced = {op.name for op in _OURS}

LLVM = Dialect(
    "llvm",
    [*(op for op in _XDSL_LLVM.operations if op.name not in _replaced), *_OURS],
    [*_XDSL_LLVM.attributes],
    _XDSL_LLVM._interfaces,
)
