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

_FLAG_ARGUMENT = {
    "llvm.intr.abs": "is_int_min_poison",
    "llvm.intr.ctlz": "is_zero_poison",
    "llvm.intr.cttz": "is_zero_poison",
    "llvm.intr.memcpy": "isVolatile",
    "llvm.intr.memmove": "isVolatile",
    "llvm.intr.memset": "isVolatile",
}
"""Intrinsics whose last argument is a constant i1 that the op holds as a property."""


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
                    text = self._inlined(op, result)
                    if text is None:
                        text = f"%v{number}"
                        number += 1
                    names[result] = text

    def _inlined(self, op: Operation, result: SSAValue) -> str | None:
        match op.name:
            case "llvm.mlir.constant":
                return constant_text(op.properties["value"], result.type)
            case "llvm.mlir.addressof":
                return symbol_text(op.properties["global_name"].root_reference.data)  # pyright: ignore
            case "llvm.mlir.poison":
                return "poison"
            case "llvm.mlir.undef":
                return "undef"
            case "llvm.mlir.zero":
                return "null" if isinstance(result.type, LLVMPointerType) else "zeroinitializer"
        return None

    def _arrivals(self, blocks: list[Block]) -> dict[Block, list[tuple[Block, list[SSAValue]]]]:
        """For each block, who jumps there with which values."""
        found: dict[Block, list[tuple[Block, list[SSAValue]]]] = {block: [] for block in blocks}
        for block in blocks:
            last: Any = block.last_op
            if last.name == "llvm.br":
                found[last.successors[0]].append((block, list(last.operands)))
            elif last.name == "llvm.cond_br":
                for target, values in (
                    (last.then_block, last.then_arguments),
                    (last.else_block, last.else_arguments),
                ):
                    found[target].append((block, list(values)))
            else:
                for target in last.successors:
                    found[target].append((block, []))
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
        overloads = _OVERLOADS.get(name, _by_result)(op)
        if (flag := _FLAG_ARGUMENT.get(op.name)) is not None:
            value = op.properties[flag].value.data  # pyright: ignore
            arguments.append(f"i1 {'true' if value else 'false'}")
            types.append("i1")
        if name == "prefetch":
            for key in ("rw", "hint", "cache"):
                arguments.append(f"i32 {op.properties[key].value.data}")  # pyright: ignore
                types.append("i32")
        if name in _ALIGNED:
            place = _ALIGNED[name]
            arguments.insert(place, f"i32 {op.properties['alignment'].value.data}")  # pyright: ignore
            types.insert(place, "i32")
        callee = f"@llvm.{name}" + "".join(f".{_mangled(type)}" for type in overloads)
        result = type_text(op.results[0].type) if op.results else "void"
        self.module.declarations[callee] = f"declare {result} {callee}({', '.join(types)})"
        self.line(op, f"call{_fast(op)} {result} {callee}({', '.join(arguments)})")


def _by_result(op: Operation) -> list[Attribute]:
    return [op.results[0].type]


def _by_operands(*places: int) -> Callable[[Operation], list[Attribute]]:
    return lambda op: [op.operands[place].type for place in places]


_OVERLOADS: dict[str, Callable[[Operation], list[Attribute]]] = {
    "fptosi.sat": lambda op: [op.results[0].type, op.operands[0].type],
    "fptoui.sat": lambda op: [op.results[0].type, op.operands[0].type],
    "powi": lambda op: [op.results[0].type, op.operands[1].type],
    "masked.load": lambda op: [op.results[0].type, op.operands[0].type],
    "masked.store": _by_operands(0, 1),
    "masked.gather": lambda op: [op.results[0].type, op.operands[0].type],
    "masked.scatter": _by_operands(0, 1),
    "memcpy": _by_operands(0, 1, 2),
    "memmove": _by_operands(0, 1, 2),
    "memset": _by_operands(0, 2),
    "stacksave": lambda op: [op.results[0].type],
    "stackrestore": _by_operands(0),
    "prefetch": _by_operands(0),
    **{
        f"vector.reduce.{kind}": _by_operands(0)
        for kind in (
            "add", "mul", "and", "or", "xor", "smax", "smin", "umax", "umin", "fmax", "fmin", "fmaximum",
            "fminimum",
        )
    },
    "vector.reduce.fadd": _by_operands(1),
    "vector.reduce.fmul": _by_operands(1),
}  # fmt: skip
_ALIGNED = {"masked.load": 1, "masked.store": 2, "masked.gather": 1, "masked.scatter": 2}
"""Where the alignment stands among the arguments (LLVM 22 reads this spelling and upgrades it)."""


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
    p.line(op, f"{_CASTS[op.name]} {p.typed(op.operands[0])} to {type_text(op.results[0].type)}")


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


def _print_gep(p: _FunctionPrinter, op: Any) -> None:
    dynamic = iter(op.operands[1:])
    indices = [
        p.typed(next(dynamic)) if index == GEP_USE_SSA_VAL else f"i32 {index}"
        for index in op.rawConstantIndices.iter_values()
    ]
    flags = op.properties["noWrapFlags"].value.data if "noWrapFlags" in op.properties else 0
    inbounds = " inbounds" if flags & 1 else ""
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
    arguments = ", ".join(p.typed(operand) for operand in operands)
    tail = "" if op.TailCallKind.data.value == "none" else f"{op.TailCallKind.data.value} "
    p.line(op, f"{tail}call{_fast(op)} {result} {callee}({arguments})")


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


def _print_br(p: _FunctionPrinter, op: Any) -> None:
    loop = ""
    if (unroll := op.attributes.get(_UNROLL_KEY)) is not None:
        loop = f", !llvm.loop !{p.module.loop(unroll.value.data)}"
    p.line(op, f"br label %{p.labels[op.successors[0]]}{loop}")


def _print_cond_br(p: _FunctionPrinter, op: Any) -> None:
    then, other = (p.labels[block] for block in op.successors)
    p.line(op, f"br {p.typed(op.cond)}, label %{then}, label %{other}")


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
        for part in parts:
            stream.write(part)
        for name in sorted(self.declarations):
            stream.write(f"{self.declarations[name]}\n")
        for group, number in self.attribute_groups.items():
            stream.write(f"attributes #{number} = {{ {group} }}\n")
        for number, text in enumerate(self.metadata):
            stream.write(f"!{number} = {text}\n")

    def _global(self, op: Any) -> str:
        linkage = op.linkage.linkage.data
        type = op.global_type
        value = f" {constant_text(op.value, type)}" if op.value is not None else ""
        if linkage != "external" and not value:
            value = " zeroinitializer"
        linkage = "" if linkage == "external" and value else f"{linkage} "
        visibility = _VISIBILITY[op.visibility_.value.data] if getattr(op, "visibility_", None) else ""
        unnamed = _UNNAMED[op.unnamed_addr.value.data] if op.unnamed_addr is not None else ""
        kind = "constant" if op.constant is not None else "global"
        align = f", align {op.alignment.value.data}" if op.alignment is not None else ""
        section = f', section "{op.section.data}"' if op.section is not None else ""
        name = symbol_text(op.sym_name.data)
        return f"{name} = {linkage}{visibility}{unnamed}{kind} {type_text(type)}{value}{section}{align}\n"

    def _attributes(self, op: Any) -> str:
        texts = [text for key, text in _FUNCTION_FLAGS.items() if key in op.properties]
        for entry in op.passthrough.data if op.passthrough is not None else ():
            if isinstance(entry, StringAttr):
                texts.append(entry.data)
            else:
                key, value = entry.data
                texts.append(f'"{key.data}"="{value.data}"')
        if op.target_cpu is not None:
            texts.append(f'"target-cpu"="{op.target_cpu.data}"')
        if op.target_features is not None:
            features = ",".join(feature.data for feature in op.target_features.features.data)
            texts.append(f'"target-features"="{features}"')
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
        group = self._attributes(op)
        visibility = _VISIBILITY[op.visibility_.value.data]
        if not op.body.blocks:
            return f"declare {visibility}{result} {name}({', '.join(words)}){group}\n"
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


_ARGUMENT_FLAGS = {
    f"llvm.{flag}": flag for flag in ("noalias", "nocapture", "nonnull", "noundef", "readonly", "writeonly")
}


def _argument_flags(attr: Any) -> str:
    texts = []
    for key, value in attr.data.items():
        if isinstance(value, UnitAttr) and key in _ARGUMENT_FLAGS:
            texts.append(f" {_ARGUMENT_FLAGS[key]}")
        elif key == "llvm.align":
            texts.append(f" align {value.value.data}")
        elif key == "llvm.dereferenceable":
            texts.append(f" dereferenceable({value.value.data})")
    return "".join(texts)


def print_llvm_ir(module: ModuleOp, stream: IO[str]) -> None:
    """Write `module`, which holds only the llvm dialect, as textual LLVM IR."""
    _ModulePrinter().print(module, stream)
