"""Meaning of the llvm dialect: functions of blocks over a memory of bytes in which every access is checked.

A pointer is an integer. Each buffer has a range of addresses of its own with a gap behind it, so that an
access outside of its buffer, or at an address that breaks the alignment it claims, is an error and not a
crash. The runtime's functions (`runtime/c/stepwell_rt.h`) are played by this module, one thread.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import (
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    StringAttr,
    SymbolRefAttr,
    VectorType,
)
from xdsl.dialects.llvm import GEP_USE_SSA_VAL, LLVMArrayType, LLVMPointerType, LLVMStructType
from xdsl.ir import Attribute, Operation

from stepwell.diagnostics import compile_error, unsupported
from stepwell.errors import RunError
from stepwell.interpreter.machine import MEANINGS, Machine, Results, meaning, poison
from stepwell.resources import dtype_of, value_of

_GAP = 4096
"""Addresses between two buffers; an index that is off by a row falls into it."""
_START = 1 << 20
_ADDRESS = np.dtype(np.int64)
_HOST = "stepwell_main"
_WEIGHTS = "stepwell_weights"

_SAME_AS = {
    "add": "arith.addi", "sub": "arith.subi", "mul": "arith.muli", "and": "arith.andi", "or": "arith.ori",
    "xor": "arith.xori", "shl": "arith.shli", "lshr": "arith.shrui", "ashr": "arith.shrsi",
    "icmp": "arith.cmpi", "fcmp": "arith.cmpf", "select": "arith.select",
    "fadd": "arith.addf", "fsub": "arith.subf", "fmul": "arith.mulf", "fdiv": "arith.divf",
    "frem": "arith.remf", "fneg": "arith.negf",
    "intr.smax": "arith.maxsi", "intr.smin": "arith.minsi", "intr.umax": "arith.maxui",
    "intr.umin": "arith.minui", "intr.maximum": "arith.maximumf", "intr.minimum": "arith.minimumf",
    "intr.maxnum": "arith.maxnumf", "intr.minnum": "arith.minnumf",
    "zext": "arith.extui", "uitofp": "arith.uitofp", "trunc": "arith.trunci", "fpext": "arith.extf",
    "fptrunc": "arith.truncf",
    **{f"intr.{name}": f"math.{name}" for name in (
        "copysign", "ceil", "floor", "fma", "round", "roundeven", "sqrt", "trunc", "cos", "exp", "exp2", "log",
        "log2", "log10", "sin", "tan", "ctpop")},
    "intr.fmuladd": "math.fma", "intr.fabs": "math.absf", "intr.abs": "math.absi", "intr.pow": "math.powf",
    "intr.rint": "math.roundeven", "intr.powi": "math.fpowi",
}  # fmt: skip
"""Ops of the llvm dialect that mean what an op of `arith` or `math` means."""

for _name, _other in _SAME_AS.items():
    MEANINGS[f"llvm.{_name}"] = MEANINGS[_other]


# --- types and memory ------------------------------------------------------------------------------


def size_of(type: Attribute) -> int:
    """Bytes of a value of `type` in memory."""
    match type:
        case LLVMPointerType():
            return 8
        case LLVMArrayType():
            return type.size.data * size_of(type.type)
        case LLVMStructType():
            return _field_offset(type, len(type.types.data))
        case VectorType():
            return type.get_shape()[0] * size_of(type.element_type)
        case IntegerType():
            return (type.width.data + 7) // 8
    return dtype_of(type).itemsize


def _field_offset(type: LLVMStructType, index: int) -> int:
    at = 0
    for field in type.types.data[:index]:
        size = size_of(field)
        at = (at + size - 1) // size * size + size
    if index < len(type.types.data):
        size = size_of(type.types.data[index])
        at = (at + size - 1) // size * size
    return at


def _dtype(type: Attribute) -> np.dtype:
    """The dtype of a scalar, or of an element of a vector."""
    element = type.element_type if isinstance(type, VectorType) else type
    return _ADDRESS if isinstance(element, LLVMPointerType) else dtype_of(element)


class Memory:
    """Buffers by address."""

    def __init__(self) -> None:
        self._next = _START
        self._starts: list[int] = []
        self._buffers: list[np.ndarray] = []

    def add(self, data: np.ndarray, misalign: int = 0) -> int:
        """The address of `data`, an array of bytes; a multiple of 64 plus `misalign`."""
        start = self._next + misalign
        self._starts.append(start)
        self._buffers.append(data)
        self._next = (start + data.size + _GAP + 63) // 64 * 64
        return start

    def at(self, op: Operation, address: int, size: int) -> np.ndarray:
        """The `size` bytes at `address`, as a view."""
        place = bisect_right(self._starts, address) - 1
        if place >= 0:
            buffer, offset = self._buffers[place], address - self._starts[place]
            if offset + size <= buffer.size:
                return buffer[offset : offset + size]
            if offset <= buffer.size + _GAP:
                raise compile_error(
                    op,
                    f"bytes {offset} to {offset + size} leave the {buffer.size} of the buffer",
                    "find the pass that computed the address",
                )
        raise compile_error(op, f"no buffer has the address {address:#x}", "find who made the pointer")


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array, as a view."""
    return array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)


def _poisoned(size: int) -> np.ndarray:
    return np.full(max(size, 0), 0xFF, np.uint8)


class Native:
    """What runs llvm functions of one module: their memory, the symbols and the runtime."""

    def __init__(self, machine: Machine):
        self.machine, self.memory = machine, Memory()
        self.addresses: dict[str, int] = {}
        self.kernels: dict[int, str] = {}
        self.outputs: dict[int, tuple[list[int], np.ndarray]] = {}
        self.failure = ""

    def address_of(self, op: Operation, name: str) -> int:
        """The address of a function or global."""
        if name not in self.addresses:
            if name == _WEIGHTS:
                data = _weights(self.machine)
            else:
                definition = self.machine.functions.get(name)
                if definition is None:
                    raise compile_error(op, f"there is no symbol @{name}", "define it")
                data = _initial_bytes(self.machine, definition)
            self.addresses[name] = self.memory.add(data)
            self.kernels[self.addresses[name]] = name
        return self.addresses[name]

    def call(self, op: Operation, name: str, arguments: Sequence[Any]) -> list[Any]:
        """Call a function of the module, of the runtime or of the C library."""
        function = self.machine.functions.get(name)
        if function is not None and function.regions and function.regions[0].blocks:
            return self.run(function, arguments)
        if name in _RUNTIME:
            return [_RUNTIME[name](self, op, *arguments)]
        return [_library_call(op, name, arguments)]

    def run(self, function: Operation, arguments: Sequence[Any]) -> list[Any]:
        """Run the blocks of `function` until it returns."""
        machine, values = self.machine, self.machine.values
        block = function.regions[0].blocks[0]
        passed = list(arguments)
        while True:
            machine.burn()
            values.update(zip(block.args, passed, strict=True))
            last = block.last_op
            assert last is not None, "a block ends in a terminator"
            for op in block.ops:
                if op is not last:
                    machine.run(op)
            match last.name:
                case "llvm.return":
                    return [values[v] for v in last.operands]
                case "llvm.br":
                    passed, block = [values[v] for v in last.operands], last.successors[0]
                case "llvm.cond_br":
                    passed, block = self._branch(last)
                case "llvm.switch":
                    passed, block = self._switch(last)
                case _:
                    raise unsupported(last, "the interpreter does not run this terminator", "add it")

    def _branch(self, op: Any) -> tuple[list[Any], Any]:
        values = self.machine.values
        if values[op.cond]:
            return [values[v] for v in op.then_arguments], op.successors[0]
        return [values[v] for v in op.else_arguments], op.successors[1]

    def _switch(self, op: Any) -> tuple[list[Any], Any]:
        values = self.machine.values
        cases = list(op.case_values.get_values()) if op.case_values is not None else []
        value = int(values[op.operands[0]])
        if value not in cases:
            return [values[v] for v in op.default_operands], op.successors[0]
        place = cases.index(value)
        segments = list(op.case_operand_segments.get_values())
        first = sum(segments[:place])
        operands = list(op.case_operands)[first : first + segments[place]]
        return [values[v] for v in operands], op.successors[1 + place]


def native_of(machine: Machine) -> Native:
    """What the machine runs its llvm functions with."""
    if machine.native is None:
        machine.native = Native(machine)
    return machine.native


def _weights(machine: Machine) -> np.ndarray:
    from stepwell.dialects.stepwell import plain_data

    layout = machine.module.attributes.get("stepwell.weights")
    size = machine.module.attributes.get("stepwell.weights_bytes")
    data = np.zeros(size.value.data if isinstance(size, IntegerAttr) else 0, np.uint8)
    for key, offset in (plain_data(layout) if layout is not None else {}).items():
        blob = np.frombuffer(machine.ctx.resources.blob(key), np.uint8)  # pyright: ignore
        data[int(offset) : int(offset) + blob.size] = blob
    data.flags.writeable = False
    return data


def _initial_bytes(machine: Machine, definition: Operation) -> np.ndarray:
    if definition.name != "llvm.mlir.global":
        return np.zeros(1, np.uint8)  # a function: only its address is used
    value = definition.properties.get("value")
    size = size_of(definition.properties["global_type"])
    if isinstance(value, StringAttr):
        return np.frombuffer(value.data.encode(), np.uint8)
    if isinstance(value, DenseIntOrFPElementsAttr):
        array = np.array(value_of(value, machine.ctx))
        return _bytes(np.ascontiguousarray(array))
    if value is None:
        return _poisoned(size)
    raise unsupported(definition, "the interpreter does not know this initial value", "use a dense one")


# --- values and addresses --------------------------------------------------------------------------


@meaning("llvm.mlir.constant")
def _constant(machine: Machine, op: Operation) -> Results:
    value, type = op.properties["value"], op.results[0].type
    if isinstance(type, VectorType):
        return (np.array(value_of(value, machine.ctx)).astype(_dtype(type)).reshape(type.get_shape()),)
    number = value.value.data  # pyright: ignore
    dtype = _dtype(type)
    if dtype.kind == "i":
        return (np.array(number & ((1 << dtype.itemsize * 8) - 1), f"u{dtype.itemsize}").view(dtype)[()],)
    return (dtype.type(number),)


@meaning("llvm.mlir.zero")
def _zero(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    if isinstance(type, VectorType):
        return (np.zeros(type.get_shape(), _dtype(type)),)
    return (_dtype(type).type(0),)


@meaning("llvm.mlir.poison", "llvm.mlir.undef")
def _poison(machine: Machine, op: Operation) -> Results:
    type = op.results[0].type
    shape = type.get_shape() if isinstance(type, VectorType) else ()
    return (poison(shape, _dtype(type))[()],)


@meaning("llvm.freeze", "llvm.inttoptr", "llvm.ptrtoint")
def _same(machine: Machine, op: Operation) -> Results:
    return (machine[op.operands[0]],)


@meaning("llvm.mlir.addressof")
def _address_of(machine: Machine, op: Operation) -> Results:
    symbol = op.properties["global_name"]
    assert isinstance(symbol, SymbolRefAttr)
    return (np.int64(native_of(machine).address_of(op, symbol.root_reference.data)),)


@meaning("llvm.getelementptr")
def _getelementptr(machine: Machine, op: Any) -> Results:
    dynamic = iter(machine.get(op.ssa_indices))
    type: Any = op.elem_type
    address = machine[op.ptr]
    for place, raw in enumerate(op.rawConstantIndices.iter_values()):
        index = next(dynamic) if raw == GEP_USE_SSA_VAL else raw
        if place == 0:
            address = address + np.asarray(index).astype(np.int64) * size_of(type)
        elif isinstance(type, LLVMStructType):
            address = address + _field_offset(type, int(index))
            type = type.types.data[int(index)]
        else:
            type = type.type
            address = address + np.asarray(index).astype(np.int64) * size_of(type)
    return (address,)


@meaning("llvm.sext")
def _sext(machine: Machine, op: Operation) -> Results:
    value = np.asarray(machine[op.operands[0]])
    value = -value.astype(np.int8) if value.dtype == np.bool_ else value
    return (value.astype(_dtype(op.results[0].type)),)


MEANINGS["llvm.sitofp"] = _sext


@meaning("llvm.udiv", "llvm.sdiv", "llvm.urem", "llvm.srem")
def _divide(machine: Machine, op: Operation) -> Results | None:
    a, b = machine.get(op.operands)
    if not np.all(b):
        raise compile_error(op, "divides by zero, which ends the process", "guard the divisor")
    name = op.name.removeprefix("llvm.")
    signed = name.startswith("s")
    if signed and np.any((np.asarray(b) == -1) & (np.asarray(a) == np.iinfo(np.asarray(a).dtype).min)):
        raise compile_error(op, "divides the smallest number by -1, which ends the process", "guard it")
    same = {"udiv": "arith.divui", "sdiv": "arith.divsi", "urem": "arith.remui", "srem": "arith.remsi"}[name]
    return MEANINGS[same](machine, op)


@meaning("llvm.fptosi", "llvm.fptoui", "llvm.intr.fptosi.sat", "llvm.intr.fptoui.sat")
def _to_integer(machine: Machine, op: Operation) -> Results:
    x = np.asarray(machine[op.operands[0]]).astype(np.float64)
    dtype = _dtype(op.results[0].type)
    if dtype.kind == "b":
        return (np.trunc(x) != 0,)
    target = dtype if "si" in op.name else np.dtype(f"u{dtype.itemsize}")
    info = np.iinfo(target)
    low, high = float(info.min), float(info.max)
    inside = np.where(np.isnan(x), 0, np.clip(x, low, np.nextafter(high, 0) if dtype.itemsize == 8 else high))
    result = inside.astype(target)
    if dtype.itemsize == 8:
        result = np.where(x >= high, target.type(info.max), result)
    return (result.astype(dtype)[()],)


@meaning("llvm.bitcast")
def _bitcast(machine: Machine, op: Operation) -> Results:
    value, type = np.asarray(machine[op.operands[0]]), op.results[0].type
    dtype = _dtype(type)
    if value.dtype == np.bool_ or dtype == np.bool_:
        if value.dtype == dtype:
            return (value,)
        raise unsupported(op, "the interpreter has no bits of i1", "cast through i8")
    if isinstance(type, VectorType):
        return (np.ascontiguousarray(value).reshape(-1).view(dtype).reshape(type.get_shape()),)
    return (np.ascontiguousarray(value).reshape(-1).view(dtype)[0],)


@meaning("llvm.insertelement")
def _insertelement(machine: Machine, op: Operation) -> Results:
    vector, value, position = machine.get(op.operands)
    result = np.array(vector)
    if 0 <= int(position) < result.size:
        result[int(position)] = value
    return (result,)


@meaning("llvm.extractelement")
def _extractelement(machine: Machine, op: Operation) -> Results:
    vector, position = machine.get(op.operands)
    if not 0 <= int(position) < len(vector):
        return (poison((), _dtype(op.results[0].type))[()],)
    return (vector[int(position)],)


@meaning("llvm.shufflevector")
def _shufflevector(machine: Machine, op: Operation) -> Results:
    both = np.concatenate(machine.get(op.operands))
    mask = op.properties["mask"]
    assert isinstance(mask, DenseArrayBase)
    lanes = np.array(list(mask.iter_values()))
    result = both[np.maximum(lanes, 0)]
    unknown = lanes < 0
    if unknown.any():
        result[unknown] = poison((), both.dtype)
    return (result,)


_REDUCE: dict[str, Callable[[Any], Any]] = {
    "add": np.add.reduce, "mul": np.multiply.reduce, "and": np.bitwise_and.reduce, "or": np.bitwise_or.reduce,
    "xor": np.bitwise_xor.reduce, "smax": np.max, "smin": np.min, "fmax": np.fmax.reduce, "fmin": np.fmin.reduce,
    "fmaximum": np.max, "fminimum": np.min,
    "umax": lambda v: np.max(v.view(f"u{v.itemsize}")).astype(v.dtype) if v.dtype != np.bool_ else v.any(),
    "umin": lambda v: np.min(v.view(f"u{v.itemsize}")).astype(v.dtype) if v.dtype != np.bool_ else v.all(),
}  # fmt: skip


def _register_reduction(kind: str, function: Callable[[Any], Any]) -> None:
    def run(machine: Machine, op: Operation) -> Results:
        return (function(machine[op.operands[0]]).astype(_dtype(op.results[0].type)),)

    MEANINGS[f"llvm.intr.vector.reduce.{kind}"] = run


for _name, _function in _REDUCE.items():
    _register_reduction(_name, _function)


@meaning("llvm.intr.vector.reduce.fadd", "llvm.intr.vector.reduce.fmul")
def _ordered_reduction(machine: Machine, op: Operation) -> Results:
    total, vector = machine.get(op.operands)
    for lane in vector:
        total = total + lane if op.name.endswith("fadd") else total * lane
    return (total,)


@meaning("llvm.intr.ctlz", "llvm.intr.cttz")
def _count_zeros(machine: Machine, op: Operation) -> Results:
    value = np.asarray(machine[op.operands[0]])
    width, leading = value.dtype.itemsize * 8, op.name.endswith("ctlz")

    def count(number: int) -> int:
        digits = f"{number & ((1 << width) - 1):0{width}b}"
        return len(digits) - len(digits.lstrip("0") if leading else digits.rstrip("0"))

    return (np.array([count(int(v)) for v in value.reshape(-1)], value.dtype).reshape(value.shape)[()],)


# --- memory ----------------------------------------------------------------------------------------


def _checked_alignment(op: Operation, address: int) -> None:
    wanted = op.properties.get("alignment")
    if isinstance(wanted, IntegerAttr) and wanted.value.data > 1 and address % wanted.value.data:
        raise compile_error(
            op,
            f"address {address:#x} is no multiple of its alignment {wanted.value.data}",
            "claim the alignment that the buffer has",
        )


@meaning("llvm.alloca")
def _alloca(machine: Machine, op: Any) -> Results:
    count = machine.integer(op.operands[0])
    return (np.int64(native_of(machine).memory.add(_poisoned(count * size_of(op.properties["elem_type"])))),)


@meaning("llvm.load")
def _load(machine: Machine, op: Operation) -> Results:
    address, type = machine.integer(op.operands[0]), op.results[0].type
    _checked_alignment(op, address)
    data = native_of(machine).memory.at(op, address, size_of(type))
    if isinstance(type, VectorType):
        return (_values(data, type),)
    return (_values(data, type)[0],)


def _values(data: np.ndarray, type: Attribute) -> np.ndarray:
    """The values of `type` that `data` holds, as a copy."""
    dtype = _dtype(type)
    if dtype == np.bool_:
        return (data & 1).astype(np.bool_)
    return np.frombuffer(data.tobytes(), dtype)


@meaning("llvm.store")
def _store(machine: Machine, op: Operation) -> Results:
    value, address = machine[op.operands[0]], machine.integer(op.operands[1])
    _checked_alignment(op, address)
    array = np.ascontiguousarray(value)
    _write(op, native_of(machine).memory.at(op, address, array.nbytes), array)
    return []


def _write(op: Operation, place: np.ndarray, array: np.ndarray) -> None:
    if not place.flags.writeable:
        raise compile_error(op, "writes to a constant", "write to a buffer")
    place[...] = array.reshape(-1).view(np.uint8)


@meaning("llvm.intr.masked.load")
def _masked_load(machine: Machine, op: Operation) -> Results:
    address, mask, other = machine.get(op.operands)
    return (_gathered(machine, op, int(address) + np.arange(mask.size) * other.dtype.itemsize, mask, other),)


@meaning("llvm.intr.masked.gather")
def _masked_gather(machine: Machine, op: Operation) -> Results:
    return (_gathered(machine, op, *machine.get(op.operands)),)


def _gathered(machine: Machine, op: Operation, addresses: Any, mask: Any, other: Any) -> np.ndarray:
    memory, size, result = native_of(machine).memory, other.dtype.itemsize, np.array(other)
    for lane in np.flatnonzero(mask):
        _checked_alignment(op, int(addresses[lane]))
        data = memory.at(op, int(addresses[lane]), size)
        result[lane] = np.frombuffer(data.tobytes(), other.dtype)[0]
    return result


@meaning("llvm.intr.masked.store")
def _masked_store(machine: Machine, op: Operation) -> Results:
    values, address, mask = machine.get(op.operands)
    _scattered(machine, op, values, int(address) + np.arange(mask.size) * values.dtype.itemsize, mask)
    return []


@meaning("llvm.intr.masked.scatter")
def _masked_scatter(machine: Machine, op: Operation) -> Results:
    _scattered(machine, op, *machine.get(op.operands))
    return []


def _scattered(machine: Machine, op: Operation, values: Any, addresses: Any, mask: Any) -> None:
    memory = native_of(machine).memory
    for lane in np.flatnonzero(mask):
        _checked_alignment(op, int(addresses[lane]))
        place = memory.at(op, int(addresses[lane]), values.dtype.itemsize)
        _write(op, place, np.ascontiguousarray(values[lane]))


@meaning("llvm.intr.memcpy", "llvm.intr.memmove")
def _memcpy(machine: Machine, op: Operation) -> Results:
    to, source, size = (int(v) for v in machine.get(op.operands))
    memory = native_of(machine).memory
    _write(op, memory.at(op, to, size), memory.at(op, source, size).copy())
    return []


@meaning("llvm.intr.memset")
def _memset(machine: Machine, op: Operation) -> Results:
    to, value, size = (int(v) for v in machine.get(op.operands))
    native_of(machine).memory.at(op, to, size)[...] = value & 0xFF
    return []


@meaning("llvm.intr.prefetch")
def _prefetch(machine: Machine, op: Operation) -> Results:
    return []


# --- calls and the runtime -------------------------------------------------------------------------


@meaning("llvm.call")
def _call(machine: Machine, op: Operation) -> Results:
    callee = op.properties.get("callee")
    if not isinstance(callee, SymbolRefAttr):
        raise unsupported(op, "the interpreter calls only named functions", "name the callee")
    return native_of(machine).call(op, callee.root_reference.data, machine.get(op.operands))[
        : len(op.results)
    ]


def _library_call(op: Operation, name: str, arguments: Sequence[Any]) -> Any:
    """A function of the C library: computed in float64 and rounded once."""
    from stepwell.interpreter.arith import FUNCTIONS

    double = name in FUNCTIONS or name == "pow"
    stem = name if double else name.removesuffix("f")
    function = FUNCTIONS.get({"pow": "powf"}.get(stem, stem))
    if function is None:
        raise unsupported(op, f"the interpreter does not know the function {name}", "add it to interpreter/")
    result = np.asarray(function(*(np.float64(x) for x in arguments)))
    return result.astype(np.float64 if double else np.float32)[()]


def _rt_arena(native: Native, op: Operation, context: Any, size: Any) -> Any:
    return np.int64(native.memory.add(_poisoned(int(size))))


def _rt_output(native: Native, op: Operation, context: Any, index: Any, rank: Any, dims: Any) -> Any:
    data = native.memory.at(op, int(dims), 8 * int(rank)) if rank else np.zeros(0, np.uint8)
    extents = np.frombuffer(data.tobytes(), np.int64).tolist()
    elements = int(np.prod(extents, dtype=np.int64))
    if elements < 0 or elements > 1 << 32:
        raise compile_error(op, f"output {int(index)} has the extents {extents}", "compute them anew")
    buffer = _poisoned(elements * 16)  # the runtime knows the element type, this module does not
    native.outputs[int(index)] = (extents, buffer)
    return np.int64(native.memory.add(buffer))


def _rt_launch(
    native: Native, op: Operation, context: Any, kernel: Any, buffers: Any, dims: Any, tiles: Any, work: Any,
    scratch: Any, number: Any,
) -> Any:  # fmt: skip
    """Two ranges, the last first, each with scratch of its own, as two threads might run them."""
    name = native.kernels.get(int(kernel))
    if name is None:
        raise compile_error(op, f"launches {int(kernel):#x}, which is no function", "pass a kernel")
    function = native.machine.functions[name]
    alone = native.machine.native_launch
    if alone is not None and alone(native, op, name, int(buffers), int(dims), int(tiles), int(scratch)):
        return np.int32(0)
    if not function.regions[0].blocks:
        raise unsupported(op, f"the interpreter does not know the kernel {name} of the runtime", "add it")
    middle = int(tiles) // 2
    for begin, end in ((middle, int(tiles)), (0, middle)):
        if begin != end:
            room = np.int64(native.memory.add(_poisoned(int(scratch))))
            native.run(function, [buffers, dims, np.int64(begin), np.int64(end), room])
    return np.int32(0)


def _rt_fail(native: Native, op: Operation, context: Any, message: Any) -> Any:
    text = bytearray()
    while (byte := native.memory.at(op, int(message) + len(text), 1)[0]) != 0:
        text.append(byte)
    native.failure = text.decode("utf-8", "replace")
    return np.int32(1)


_RUNTIME: dict[str, Callable[..., Any]] = {
    "stepwell_rt_arena": _rt_arena,
    "stepwell_rt_alloc": _rt_arena,
    "stepwell_rt_output": _rt_output,
    "stepwell_rt_launch": _rt_launch,
    "stepwell_rt_fail": _rt_fail,
}


def launch_kernel(machine: Machine, op: Any, function: Operation, begin: int, end: int, scratch: int) -> None:
    """Run iterations [begin, end) of a kernel of the llvm dialect on the arguments of the launch `op`."""
    native = native_of(machine)
    pointers, dims, copies = [], [], []
    for value, argument in zip(op.arguments, machine.get(op.arguments), strict=True):
        if not isinstance(value.type, MemRefType):
            dims.append(int(argument))
            continue
        array = np.ascontiguousarray(argument).reshape(argument.shape)
        if not np.shares_memory(array, argument):
            copies.append((argument, array))
        pointers.append(native.memory.add(_bytes(array), array.dtype.itemsize))
        dims += [n for n, known in zip(array.shape, value.type.get_shape(), strict=True) if known < 0]
    slots = native.memory.add(_bytes(np.array([*pointers, 0], np.int64)))
    extents = native.memory.add(_bytes(np.array([*dims, 0], np.int64)))
    room = native.memory.add(_poisoned(scratch))
    native.run(function, [np.int64(v) for v in (slots, extents, begin, end, room)])
    for argument, array in copies:
        argument[...] = array


def interpret_llvm(
    module: ModuleOp, inputs: Sequence[np.ndarray], ctx: Context, arguments: Sequence[Attribute],
    results: Sequence[Attribute], fuel: float = inf, deadline: float = inf, machine: Machine | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """
    Run `@stepwell_main` of a module at the llvm level on `inputs`. `arguments` and `results` are the types of
    the model's inputs and outputs, which this level has forgotten. Errors: an access outside of its buffer or
    against its alignment, a division that traps, an op without a meaning; `RunError` where the model fails.
    """
    machine = machine or Machine(module, ctx)
    machine.fuel, machine.deadline = fuel, deadline
    main = machine.functions.get(_HOST)
    if main is None or main.name != "llvm.func":
        raise compile_error(module, f"there is no function @{_HOST} to run", "lower the module to llvm first")
    native = native_of(machine)
    pointers, dims = [], []
    for value, type in zip(inputs, arguments, strict=True):
        dtype = dtype_of(type.get_element_type())  # pyright: ignore
        array = np.ascontiguousarray(np.asarray(value).astype(dtype, copy=False))
        frozen = _bytes(array).view()
        frozen.flags.writeable = False
        pointers.append(native.memory.add(frozen, dtype.itemsize))
        shape = type.get_shape()  # pyright: ignore
        dims += [n for n, known in zip(np.shape(value), shape, strict=True) if known < 0]
    slots = native.memory.add(_bytes(np.array([*pointers, 0], np.int64)))
    extents = native.memory.add(_bytes(np.array([*dims, 0], np.int64)))
    with np.errstate(all="ignore"):
        (status,) = native.run(main, [np.int64(0), np.int64(slots), np.int64(extents)])
    if status != 0:
        raise RunError(native.failure or f"the model returned the status {int(status)}")
    found = []
    for index, type in enumerate(results):
        if index not in native.outputs:
            raise compile_error(main, f"output {index} was never written", "find the pass that lost it")
        shape, buffer = native.outputs[index]
        dtype = dtype_of(type.get_element_type())  # pyright: ignore
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        found.append(np.frombuffer(buffer[:size].tobytes(), dtype).reshape(shape))
    return found
