"""Textual LLVM IR from the llvm dialect, in the oldest spelling that LLVM 19 to 22 all read.

One line an op, written as it is met; block arguments become phis, constants are inlined into their uses.
"""

import struct
from collections.abc import Callable
from typing import IO, Any

from xdsl.dialects.builtin import (
    BFloat16Type,
    DenseIntOrFPElementsAttr,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    StringAttr,
    UnitAttr,
    VectorType,
)
from xdsl.dialects.llvm import (
    GEP_USE_SSA_VAL,
    FastMathAttr,
    LLVMArrayType,
    LLVMFunctionType,
    LLVMPointerType,
    LLVMStructType,
    LLVMVoidType,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from stepwell.backends.llvm_ir.intrinsics import ALIGNED, CONSTANT_ARGUMENTS, overloads
from stepwell.diagnostics import unsupported

_types: dict[Attribute, str] = {}


def type_text(type: Attribute) -> str:
    """The LLVM spelling of a type."""
    found = _types.get(type)
    if found is None:
        found = _types[type] = _type_text(type)
    return found


def _type_text(type: Attribute) -> str:
    match type:
        case IntegerType():
            return f"i{type.width.data}"
        case Float32Type():
            return "float"
        case Float64Type():
            return "double"
        case Float16Type():
            return "half"
        case BFloat16Type():
            return "bfloat"
        case LLVMPointerType():
            return "ptr"
        case LLVMVoidType():
            return "void"
        case VectorType():
            (lanes,) = type.get_shape()
            return f"<{lanes} x {type_text(type.element_type)}>"
        case LLVMArrayType():
            return f"[{type.size.data} x {type_text(type.type)}]"
        case LLVMStructType():
            return "{ " + ", ".join(type_text(part) for part in type.types.data) + " }"
        case LLVMFunctionType():
            inputs = ", ".join(type_text(part) for part in type.inputs.data)
            return f"{type_text(type.output)} ({inputs})"
    raise AssertionError(f"{type} is not a type of LLVM IR")


def _mangled(type: Attribute) -> str:
    """How a type stands in the name of an overloaded intrinsic."""
    match type:
        case Float32Type():
            return "f32"
        case Float64Type():
            return "f64"
        case Float16Type():
            return "f16"
        case BFloat16Type():
            return "bf16"
        case LLVMPointerType():
            return "p0"
        case VectorType():
            return f"v{type.get_shape()[0]}{_mangled(type.element_type)}"
    return type_text(type)


# --- constants -------------------------------------------------------------------------------------


def _float_text(value: float, type: Attribute) -> str:
    """
    Hexadecimal, which is exact: f32 and f64 as the bits of a double, half as 0xH, bfloat as 0xR.
    """
    match type:
        case Float16Type():
            return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
        case BFloat16Type():
            return f"0xR{struct.unpack('<I', struct.pack('<f', value))[0] >> 16:04X}"
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _scalar_text(value: Any, type: Attribute) -> str:
    if isinstance(type, IntegerType):
        if type.width.data == 1:
            return "true" if value else "false"
        return str(int(value))
    return _float_text(value, type)


def _dense_text(attr: DenseIntOrFPElementsAttr, type: Attribute) -> str:
    """Zeros, a splat (read by LLVM 18 and later) or every element; an array has no splat."""
    element = attr.get_element_type()
    data = attr.data.data
    if not any(data) and not (len(data) == 0):
        return "zeroinitializer"
    values = list(attr.get_values())
    word = type_text(element)
    count = type.get_shape()[0] if isinstance(type, VectorType) else type.size.data  # pyright: ignore
    if len(values) == 1:
        values = values * count
    is_array = not isinstance(type, VectorType)
    size = len(data) // max(len(attr), 1)
    if not is_array and data == data[:size] * (len(data) // size):
        return f"splat ({word} {_scalar_text(values[0], element)})"
    texts = ", ".join(f"{word} {_scalar_text(value, element)}" for value in values)
    return f"[{texts}]" if is_array else f"<{texts}>"


_constants: dict[tuple[Attribute, Attribute], str] = {}


def constant_text(attr: Attribute, type: Attribute) -> str:
    """The LLVM spelling of a constant."""
    key = (attr, type)
    found = _constants.get(key)
    if found is not None:
        return found
    if isinstance(attr, IntegerAttr | FloatAttr):
        text = _scalar_text(attr.value.data, type)
    elif isinstance(attr, DenseIntOrFPElementsAttr):
        text = _dense_text(attr, type)
    elif isinstance(attr, StringAttr):
        text = 'c"' + "".join(_byte_text(byte) for byte in attr.data.encode()) + '"'
    else:
        raise AssertionError(f"no LLVM constant for {attr}")
    if len(_constants) > 100_000:
        _constants.clear()
    _constants[key] = text
    return text


def _byte_text(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in (34, 92) else f"\\{byte:02X}"


def symbol_text(name: str) -> str:
    """`@name`, quoted where LLVM asks for it."""
    if name and all((c.isalnum() and c.isascii()) or c in "-$._" for c in name) and not name[0].isdigit():
        return f"@{name}"
    return '@"' + "".join(_byte_text(byte) for byte in name.encode()) + '"'


def _flags(flags: FastMathAttr) -> str:
    order = ("reassoc", "nnan", "ninf", "nsz", "arcp", "contract", "afn")
    have = {str(flag.value) for flag in flags.data}
    return " fast" if len(have) == len(order) else "".join(f" {flag}" for flag in order if flag in have)


_fastmath_texts: dict[Attribute, str] = {}


def _fast(op: Operation) -> str:
    flags = op.properties.get("fastmathFlags")
    if flags is None:
        return ""
    text = _fastmath_texts.get(flags)
    if text is None:
        text = _fastmath_texts[flags] = _flags(flags)  # pyright: ignore
    return text


_ICMP = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
_FCMP = ("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord",
         "ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true")  # fmt: skip
_WRAP = ("", " nsw", " nuw", " nuw nsw")
_ORDERINGS = {1: "unordered", 2: "monotonic", 4: "acquire", 5: "release", 6: "acq_rel", 7: "seq_cst"}

_BINARY = {
    f"llvm.{name}": name
    for name in (
        "add", "sub", "mul", "udiv", "sdiv", "urem", "srem", "and", "or", "xor", "shl", "lshr", "ashr",
        "fadd", "fsub", "fmul", "fdiv", "frem",
    )
}  # fmt: skip
_CASTS = {
    f"llvm.{name}": name
    for name in (
        "trunc", "zext", "sext", "fptrunc", "fpext", "fptoui", "fptosi", "uitofp", "sitofp", "ptrtoint",
        "inttoptr", "bitcast",
    )
}  # fmt: skip


def _escaped(text: str) -> str:
    """`text` as the inside of a quoted string of LLVM IR."""
    return "".join(_byte_text(byte) for byte in text.encode())


def _signature_text(type: LLVMFunctionType) -> str:
    """The type of a callee, which a call with a variable number of arguments spells."""
    inputs = [*(type_text(part) for part in type.inputs.data), *(["..."] if type.is_variadic else [])]
    return f"{type_text(type.output)} ({', '.join(inputs)})"


def inlined_text(op: Operation, type: Attribute) -> str | None:
    """What stands for the result of a constant op, of `type`, wherever it is used; None for other ops."""
    match op.name:
        case "llvm.mlir.constant":
            return constant_text(op.properties["value"], type)
        case "llvm.mlir.addressof":
            return symbol_text(op.properties["global_name"].root_reference.data)  # pyright: ignore
        case "llvm.mlir.poison":
            return "poison"
        case "llvm.mlir.undef":
            return "undef"
        case "llvm.mlir.zero":
            return "null" if isinstance(type, LLVMPointerType) else "zeroinitializer"
    return None


def initial_text(op: Any) -> str:
    """The value of a global whose body builds it."""
    parts: dict[SSAValue, Any] = {}
    for inner in op.body.block.ops:
        if inner.name == "llvm.return":
            return _parts_text(parts[inner.operands[0]], inner.operands[0].type)
        result = inner.results[0]
        if (text := inlined_text(inner, result.type)) is not None:
            types = None if text != "poison" else _part_types(result.type)
            parts[result] = text if types is None else [("poison", type) for type in types]
        elif inner.name == "llvm.insertvalue" and len(place := tuple(inner.position.iter_values())) == 1:
            parts[result] = list(parts[inner.operands[0]])
            parts[result][place[0]] = (parts[inner.operands[1]], inner.operands[1].type)
        elif inner.name == "llvm.insertelement":
            place = inner.operands[2].owner.properties["value"].value.data  # pyright: ignore
            parts[result] = list(parts[inner.operands[0]])
            parts[result][place] = (parts[inner.operands[1]], inner.operands[1].type)
        elif inner.name == "llvm.getelementptr" and len(inner.operands) == 1 + len(inner.ssa_indices):
            parts[result] = _constant_address(inner, parts)
        elif inner.name in _CASTS:
            target = type_text(result.type)
            source = f"{type_text(inner.operands[0].type)} {parts[inner.operands[0]]}"
            parts[result] = f"{_CASTS[inner.name]} ({source} to {target})"
        else:
            raise unsupported(inner, "has no spelling in the value of a global", "compute it at run time")
    raise unsupported(op, "its body has no llvm.return", "return the value")


def _constant_address(op: Any, parts: dict[SSAValue, Any]) -> str:
    dynamic = iter(op.operands[1:])
    indices = [
        f"{type_text(value.type)} {parts[value]}"
        if index == GEP_USE_SSA_VAL and (value := next(dynamic))
        else f"i32 {index}"
        for index in op.rawConstantIndices.iter_values()
    ]
    flags = _wraps(op)
    pointer = f"{type_text(op.operands[0].type)} {parts[op.operands[0]]}"
    return f"getelementptr{flags} ({type_text(op.elem_type)}, {pointer}, {', '.join(indices)})"


def _part_types(type: Attribute) -> list[Attribute] | None:
    match type:
        case LLVMStructType():
            return list(type.types.data)
        case LLVMArrayType():
            return [type.type] * type.size.data
        case VectorType():
            return [type.element_type] * type.get_shape()[0]
    return None


def _parts_text(parts: Any, type: Attribute) -> str:
    if isinstance(parts, str):
        return parts
    inside = ", ".join(f"{type_text(of)} {_parts_text(part, of)}" for part, of in parts)
    brackets = (
        "{ }" if isinstance(type, LLVMStructType) else "[]" if isinstance(type, LLVMArrayType) else "<>"
    )
    return f"{brackets[:-1]}{inside}{' }' if brackets == '{ }' else brackets[-1]}"


class _FunctionPrinter:
    """Prints one function; values are numbered in the order of their definition."""

    def __init__(self, module: "_ModulePrinter", func: Any):
        self.module = module
        self.func = func
        self.names: dict[SSAValue, str] = {}
        self.labels: dict[Block, str] = {}
        self.lines: list[str] = []

    # Each value has two spellings: bare (`%3`, `7`) and typed (`i64 %3`, `i64 7`).

    def bare(self, value: SSAValue) -> str:
        return self.names[value]

    def typed(self, value: SSAValue) -> str:
        return f"{type_text(value.type)} {self.names[value]}"

    def print(self) -> list[str]:
        blocks = list(self.func.body.blocks)
        for number, block in enumerate(blocks):
            self.labels[block] = f"b{number}"
        self._name_values(blocks)
        arrivals = self._arrivals(blocks)
        handlers = _HANDLERS
        for number, block in enumerate(blocks):
            if number:
                self.lines.append(f"{self.labels[block]}:")
                self._phis(block, arrivals[block])
            for op in block.ops:
                name = op.name
                handler = handlers.get(name)
                if handler is not None:
                    handler(self, op)
                elif name.startswith("llvm.intr."):
                    self._intrinsic(op)
                else:
                    raise unsupported(op, "has no spelling in LLVM IR", "lower it before printing")
        return self.lines

    def _name_values(self, blocks: list[Block]) -> None:
        number = 0
        names = self.names
        for block in blocks:
            for arg in block.args:
                names[arg] = f"%v{number}"
                number += 1
            for op in block.ops:
                for result in op.results:
                    text = inlined_text(op, result.type)
                    if text is None:
                        text = f"%v{number}"
                        number += 1
                    names[result] = text

    def _arrivals(self, blocks: list[Block]) -> dict[Block, list[tuple[Block, list[SSAValue]]]]:
        """For each block, who jumps there with which values."""
        found: dict[Block, list[tuple[Block, list[SSAValue]]]] = {block: [] for block in blocks}
        for block in blocks:
            last: Any = block.last_op
            if last.name == "llvm.br":
                found[last.successors[0]].append((block, list(last.operands)))
            elif last.name == "llvm.cond_br":
                if last.then_block is last.else_block and [*last.then_arguments] != [*last.else_arguments]:
                    raise unsupported(last, "passes different values to one block", "branch through a block")
                for target, values in (
                    (last.then_block, last.then_arguments),
                    (last.else_block, last.else_arguments),
                ):
                    found[target].append((block, list(values)))
            elif last.name == "llvm.switch":
                operands = iter(last.operands[1:])
                counts = (len(last.default_operands), *last.case_operand_segments.iter_values())
                for target, count in zip(last.successors, counts, strict=True):
                    found[target].append((block, [next(operands) for _ in range(count)]))
        return found

    def _phis(self, block: Block, arrivals: list[tuple[Block, list[SSAValue]]]) -> None:
        for place, arg in enumerate(block.args):
            pairs = ", ".join(
                f"[ {self.names[values[place]]}, %{self.labels[source]} ]" for source, values in arrivals
            )
            self.lines.append(f"  {self.names[arg]} = phi {type_text(arg.type)} {pairs}")

    def line(self, op: Operation, text: str) -> None:
        if op.results:
            self.lines.append(f"  {self.names[op.results[0]]} = {text}")
        else:
            self.lines.append(f"  {text}")

    def _intrinsic(self, op: Operation) -> None:
        name = op.name.removeprefix("llvm.intr.")
        arguments = [self.typed(operand) for operand in op.operands]
        types = [type_text(operand.type) for operand in op.operands]
        for key in CONSTANT_ARGUMENTS.get(op.name, ()):
            attr: Any = op.properties[key]
            types.append(type_text(attr.type))
            arguments.append(f"{types[-1]} {constant_text(attr, attr.type)}")
        if (place := ALIGNED.get(op.name)) is not None:
            arguments.insert(place, f"i32 {op.properties['alignment'].value.data}")  # pyright: ignore
            types.insert(place, "i32")
        callee = f"@llvm.{name}" + "".join(f".{_mangled(type)}" for type in overloads(op))
        result = type_text(op.results[0].type) if op.results else "void"
        self.module.declarations[callee] = f"declare {result} {callee}({', '.join(types)})"
        self.line(op, f"call{_fast(op)} {result} {callee}({', '.join(arguments)})")


def _print_binary(p: _FunctionPrinter, op: Operation) -> None:
    name = _BINARY[op.name]
    flags = _fast(op)
    if (overflow := op.properties.get("overflowFlags")) is not None:
        flags = _WRAP[overflow.value.data]  # pyright: ignore
    elif "isExact" in op.properties:
        flags = " exact"
    elif "isDisjoint" in op.properties:
        flags = " disjoint"
    a, b = op.operands
    p.line(op, f"{name}{flags} {p.typed(a)}, {p.names[b]}")


def _print_cast(p: _FunctionPrinter, op: Operation) -> None:
    flags = " nneg" if "nonNeg" in op.properties else ""
    if (overflow := op.properties.get("overflowFlags")) is not None:
        flags = _WRAP[overflow.value.data if isinstance(overflow, IntegerAttr) else overflow.to_int()]  # pyright: ignore
    p.line(op, f"{_CASTS[op.name]}{flags} {p.typed(op.operands[0])} to {type_text(op.results[0].type)}")


def _print_fneg(p: _FunctionPrinter, op: Operation) -> None:
    p.line(op, f"fneg{_fast(op)} {p.typed(op.operands[0])}")


def _print_icmp(p: _FunctionPrinter, op: Any) -> None:
    a, b = op.operands
    p.line(op, f"icmp {_ICMP[op.properties['predicate'].value.data]} {p.typed(a)}, {p.names[b]}")


def _print_fcmp(p: _FunctionPrinter, op: Any) -> None:
    a, b = op.operands
    p.line(op, f"fcmp{_fast(op)} {_FCMP[op.properties['predicate'].value.data]} {p.typed(a)}, {p.names[b]}")


def _print_select(p: _FunctionPrinter, op: Any) -> None:
    p.line(op, f"select{_fast(op)} " + ", ".join(p.typed(operand) for operand in op.operands))


def _wraps(op: Any) -> str:
    flags = op.properties["noWrapFlags"].value.data if "noWrapFlags" in op.properties else 0
    return (" inbounds" if flags & 1 else " nusw" if flags & 2 else "") + (" nuw" if flags & 4 else "")


def _print_gep(p: _FunctionPrinter, op: Any) -> None:
    dynamic = iter(op.operands[1:])
    indices = [
        p.typed(next(dynamic)) if index == GEP_USE_SSA_VAL else f"i32 {index}"
        for index in op.rawConstantIndices.iter_values()
    ]
    inbounds = _wraps(op)
    element = type_text(op.elem_type)
    p.line(op, f"getelementptr{inbounds} {element}, {p.typed(op.operands[0])}, {', '.join(indices)}")


def _access(op: Any) -> tuple[str, str]:
    """What stands before the type and behind the pointer of a load or store."""
    ordering = op.properties["ordering"].value.data if "ordering" in op.properties else 0
    before = " atomic" if ordering else ""
    if "volatile_" in op.properties:
        before += " volatile"
    behind = f" {_ORDERINGS[ordering]}" if ordering else ""
    if "alignment" in op.properties:
        behind += f", align {op.properties['alignment'].value.data}"
    return before, behind


def _print_load(p: _FunctionPrinter, op: Any) -> None:
    before, behind = _access(op)
    p.line(op, f"load{before} {type_text(op.results[0].type)}, {p.typed(op.operands[0])}{behind}")


def _print_store(p: _FunctionPrinter, op: Any) -> None:
    before, behind = _access(op)
    p.line(op, f"store{before} {p.typed(op.operands[0])}, {p.typed(op.operands[1])}{behind}")


def _print_alloca(p: _FunctionPrinter, op: Any) -> None:
    align = f", align {op.properties['alignment'].value.data}" if "alignment" in op.properties else ""
    p.line(op, f"alloca {type_text(op.properties['elem_type'])}, {p.typed(op.operands[0])}{align}")


def _print_call(p: _FunctionPrinter, op: Any) -> None:
    operands = list(op.args)
    callee = p.names[operands.pop(0)] if op.callee is None else symbol_text(op.callee.root_reference.data)
    result = type_text(op.results[0].type) if op.results else "void"
    if op.var_callee_type is not None:
        result = _signature_text(op.var_callee_type)
    arguments = ", ".join(p.typed(operand) for operand in operands)
    tail = "" if op.TailCallKind.data.value == "none" else f"{op.TailCallKind.data.value} "
    convention = "" if op.CConv.cconv_name == "ccc" else f" {op.CConv.cconv_name}"
    p.line(op, f"{tail}call{_fast(op)}{convention} {result} {callee}({arguments})")


def _print_call_intrinsic(p: _FunctionPrinter, op: Any) -> None:
    callee = f"@{op.intrin.data}"
    result = type_text(op.results[0].type) if op.results else "void"
    types = ", ".join(type_text(operand.type) for operand in op.args)
    p.module.declarations[callee] = f"declare {result} {callee}({types})"
    p.line(op, f"call{_fast(op)} {result} {callee}({', '.join(p.typed(operand) for operand in op.args)})")


def _print_insertelement(p: _FunctionPrinter, op: Any) -> None:
    vector, value, position = op.operands
    p.line(op, f"insertelement {p.typed(vector)}, {p.typed(value)}, {p.typed(position)}")


def _print_extractelement(p: _FunctionPrinter, op: Any) -> None:
    p.line(op, f"extractelement {p.typed(op.operands[0])}, {p.typed(op.operands[1])}")


def _print_shufflevector(p: _FunctionPrinter, op: Any) -> None:
    a, b = op.operands
    lanes = list(op.mask.iter_values())
    if any(lanes):
        mask = "<" + ", ".join("i32 poison" if lane < 0 else f"i32 {lane}" for lane in lanes) + ">"
    else:
        mask = "zeroinitializer"
    p.line(op, f"shufflevector {p.typed(a)}, {p.typed(b)}, <{len(lanes)} x i32> {mask}")


def _print_extractvalue(p: _FunctionPrinter, op: Any) -> None:
    place = ", ".join(str(index) for index in op.position.iter_values())
    p.line(op, f"extractvalue {p.typed(op.operands[0])}, {place}")


def _print_insertvalue(p: _FunctionPrinter, op: Any) -> None:
    place = ", ".join(str(index) for index in op.position.iter_values())
    p.line(op, f"insertvalue {p.typed(op.operands[0])}, {p.typed(op.operands[1])}, {place}")


def _print_freeze(p: _FunctionPrinter, op: Any) -> None:
    p.line(op, f"freeze {p.typed(op.operands[0])}")


def _loop(p: _FunctionPrinter, op: Any) -> str:
    unroll = op.attributes.get(_UNROLL_KEY)
    return "" if unroll is None else f", !llvm.loop !{p.module.loop(unroll.value.data)}"


def _print_br(p: _FunctionPrinter, op: Any) -> None:
    p.line(op, f"br label %{p.labels[op.successors[0]]}{_loop(p, op)}")


def _print_cond_br(p: _FunctionPrinter, op: Any) -> None:
    then, other = (p.labels[block] for block in op.successors)
    p.line(op, f"br {p.typed(op.cond)}, label %{then}, label %{other}{_loop(p, op)}")


def _print_switch(p: _FunctionPrinter, op: Any) -> None:
    default, *targets = (p.labels[block] for block in op.successors)
    values = [] if op.case_values is None else list(op.case_values.get_values())
    word = type_text(op.operands[0].type)
    cases = " ".join(f"{word} {value}, label %{to}" for value, to in zip(values, targets, strict=True))
    p.line(op, f"switch {p.typed(op.operands[0])}, label %{default} [ {cases} ]")


def _print_return(p: _FunctionPrinter, op: Any) -> None:
    p.line(op, f"ret {p.typed(op.operands[0])}" if op.operands else "ret void")


def _print_unreachable(p: _FunctionPrinter, op: Any) -> None:
    p.line(op, "unreachable")


def _print_nothing(p: _FunctionPrinter, op: Any) -> None:
    """A value that its uses spell out."""


_HANDLERS: dict[str, Callable[[_FunctionPrinter, Any], None]] = {
    **dict.fromkeys(_BINARY, _print_binary),
    **dict.fromkeys(_CASTS, _print_cast),
    **{f"llvm.mlir.{name}": _print_nothing for name in ("constant", "addressof", "poison", "undef", "zero")},
    "llvm.fneg": _print_fneg,
    "llvm.icmp": _print_icmp,
    "llvm.fcmp": _print_fcmp,
    "llvm.select": _print_select,
    "llvm.getelementptr": _print_gep,
    "llvm.load": _print_load,
    "llvm.store": _print_store,
    "llvm.alloca": _print_alloca,
    "llvm.call": _print_call,
    "llvm.call_intrinsic": _print_call_intrinsic,
    "llvm.insertelement": _print_insertelement,
    "llvm.extractelement": _print_extractelement,
    "llvm.shufflevector": _print_shufflevector,
    "llvm.extractvalue": _print_extractvalue,
    "llvm.insertvalue": _print_insertvalue,
    "llvm.freeze": _print_freeze,
    "llvm.br": _print_br,
    "llvm.cond_br": _print_cond_br,
    "llvm.switch": _print_switch,
    "llvm.return": _print_return,
    "llvm.unreachable": _print_unreachable,
}

_UNROLL_KEY = "stepwell.unroll"
"""On the branch back of a loop: how many iterations to put into one."""

_FUNCTION_FLAGS = {"no_inline": "noinline", "no_unwind": "nounwind", "optimize_none": "optnone"}
FUNCTION_FLAGS = {text: key for key, text in _FUNCTION_FLAGS.items()}
"""An attribute of functions in LLVM IR to the property that says it."""
MODULE_TEXTS = {"datalayout": "llvm.data_layout", "triple": "llvm.target_triple"}
"""What `target` sets in LLVM IR to the attribute of the module that says it, upstream's name."""
_VISIBILITY = ("", "hidden ", "protected ")
_UNNAMED = ("", "local_unnamed_addr ", "unnamed_addr ")


class _ModulePrinter:
    def __init__(self) -> None:
        self.declarations: dict[str, str] = {}
        self.attribute_groups: dict[str, int] = {}
        self.metadata: list[str] = []

    def loop(self, unroll: int) -> int:
        """The number of a loop's own metadata node, which asks for `unroll` iterations in one."""
        number = len(self.metadata)
        self.metadata.append(f"distinct !{{!{number}, !{number + 1}}}")
        self.metadata.append(f'!{{!"llvm.loop.unroll.count", i32 {unroll}}}')
        return number

    def print(self, module: ModuleOp, stream: IO[str]) -> None:
        parts: list[str] = []
        for op in module.ops:
            match op.name:
                case "llvm.mlir.global":
                    parts.append(self._global(op))
                case "llvm.func":
                    parts.append(self._function(op))
                case _:
                    raise unsupported(op, "has no spelling in LLVM IR", "lower it before printing")
        for word, key in MODULE_TEXTS.items():
            if isinstance(text := module.attributes.get(key), StringAttr):
                stream.write(f'target {word} = "{text.data}"\n')
        for part in parts:
            stream.write(part)
        for name in sorted(self.declarations):
            stream.write(f"{self.declarations[name]}\n")
        for group, number in self.attribute_groups.items():
            stream.write(f"attributes #{number} = {{ {group} }}\n")
        if listed := self._module_attributes(module):
            stream.write(f"!stepwell.attributes = !{{{', '.join(listed)}}}\n")
        for number, text in enumerate(self.metadata):
            stream.write(f"!{number} = {text}\n")

    def _module_attributes(self, module: ModuleOp) -> list[str]:
        """What else is known of the module, as pairs of a name and our IR's text, so that it reads back."""
        listed: list[str] = []
        for key, attr in module.attributes.items():
            if key not in MODULE_TEXTS.values():
                listed.append(f"!{len(self.metadata)}")
                self.metadata.append(f'!{{!"{_escaped(key)}", !"{_escaped(str(attr))}"}}')
        return listed

    def _global(self, op: Any) -> str:
        linkage = op.linkage.linkage.data
        type = op.global_type
        value = f" {constant_text(op.value, type)}" if op.value is not None else ""
        if op.body.blocks:
            value = f" {initial_text(op)}"
        if linkage != "external" and not value:
            value = " zeroinitializer"
        linkage = "" if linkage == "external" and value else f"{linkage} "
        visibility = _VISIBILITY[op.visibility_.value.data] if getattr(op, "visibility_", None) else ""
        unnamed = _UNNAMED[op.unnamed_addr.value.data] if op.unnamed_addr is not None else ""
        kind = "constant" if op.constant is not None else "global"
        if op.addr_space.value.data:
            kind = f"addrspace({op.addr_space.value.data}) {kind}"
        if op.thread_local_ is not None:
            unnamed = f"thread_local {unnamed}"
        if op.dso_local is not None:
            linkage = f"{linkage}dso_local "
        align = f", align {op.alignment.value.data}" if op.alignment is not None else ""
        section = f', section "{op.section.data}"' if op.section is not None else ""
        name = symbol_text(op.sym_name.data)
        return f"{name} = {linkage}{visibility}{unnamed}{kind} {type_text(type)}{value}{section}{align}\n"

    def _attributes(self, op: Any) -> str:
        words = [text for key, text in _FUNCTION_FLAGS.items() if key in op.properties]
        texts: list[str] = []
        for entry in op.passthrough.data if op.passthrough is not None else ():
            if isinstance(entry, StringAttr):
                words.append(entry.data)
            else:
                key, value = entry.data
                texts.append(f'"{key.data}"="{value.data}"')
        if op.target_cpu is not None:
            texts.append(f'"target-cpu"="{op.target_cpu.data}"')
        if op.target_features is not None:
            features = ",".join(feature.data for feature in op.target_features.features.data)
            texts.append(f'"target-features"="{features}"')
        if op.tune_cpu is not None:
            texts.append(f'"tune-cpu"="{op.tune_cpu.data}"')
        if op.frame_pointer is not None:
            texts.append(f'"frame-pointer"="{op.frame_pointer.data.value}"')
        for key, attr in op.attributes.items():
            value = "" if isinstance(attr, UnitAttr) else f'="{_escaped(str(attr))}"'
            texts.append(f'"{_escaped(key)}"{value}')
        texts = [*sorted(words), *texts]
        if not texts:
            return ""
        number = self.attribute_groups.setdefault(" ".join(texts), len(self.attribute_groups))
        return f" #{number}"

    def _function(self, op: Any) -> str:
        type = op.function_type
        name = symbol_text(op.sym_name.data)
        attrs = op.arg_attrs.data if op.arg_attrs is not None else [None] * len(type.inputs.data)
        words = [
            type_text(input) + ("" if attr is None else _argument_flags(attr))
            for input, attr in zip(type.inputs.data, attrs, strict=True)
        ]
        if type.is_variadic:
            words.append("...")
        result = type_text(type.output)
        if op.res_attrs is not None:
            flags = _argument_flags(op.res_attrs.data[0]).lstrip()
            result = f"{flags} {result}" if flags else result
        if op.CConv.cconv_name != "ccc":
            result = f"{op.CConv.cconv_name} {result}"
        group = self._attributes(op)
        if op.unnamed_addr is not None and (word := _UNNAMED[op.unnamed_addr.value.data]):
            group = f" {word.rstrip()}{group}"
        visibility = _VISIBILITY[op.visibility_.value.data]
        if not op.body.blocks:
            linkage = "extern_weak " if op.linkage.linkage.data == "extern_weak" else ""
            return f"declare {linkage}{visibility}{result} {name}({', '.join(words)}){group}\n"
        printer = _FunctionPrinter(self, op)
        lines = printer.print()
        linkage = op.linkage.linkage.data
        linkage = "" if linkage == "external" else f"{linkage} "
        entry = op.body.blocks[0]
        arguments = ", ".join(
            f"{word} {printer.names[arg]}" for word, arg in zip(words, entry.args, strict=True)
        )
        head = f"define {linkage}{visibility}{result} {name}({arguments}){group} {{\n"
        return head + "b0:\n" + "\n".join(lines) + "\n}\n"


ARGUMENT_FLAGS = {
    f"llvm.{flag}": flag
    for flag in ("noalias", "nocapture", "nonnull", "noundef", "readonly", "writeonly", "readnone", "nofree",
                 "returned", "signext", "zeroext", "inreg")
}  # fmt: skip
"""Attributes of an argument or a result that have no argument of their own."""


def _argument_flags(attr: Any) -> str:
    texts = []
    for key, value in attr.data.items():
        if isinstance(value, UnitAttr) and key in ARGUMENT_FLAGS:
            texts.append(f" {ARGUMENT_FLAGS[key]}")
        elif key == "llvm.align":
            assert isinstance(value, IntegerAttr), "a number of bytes"
            texts.append(f" align {value.value.data}")
        elif key == "llvm.dereferenceable":
            assert isinstance(value, IntegerAttr), "a number of bytes"
            texts.append(f" dereferenceable({value.value.data})")
    return "".join(texts)


def print_llvm_ir(module: ModuleOp, stream: IO[str]) -> None:
    """Write `module`, which holds only the llvm dialect, as textual LLVM IR."""
    _ModulePrinter().print(module, stream)
