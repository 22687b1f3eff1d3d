"""The host function `@main` becomes `@stepwell_main`: buffers, launches and control flow as calls of the runtime."""

from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.dialects.builtin import (
    FloatAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    NoneAttr,
    SymbolRefAttr,
    TensorType,
    f64,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.dialects.llvm import GlobalOp, LinkageAttr, LLVMArrayType, LLVMFunctionType
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from stepwell.conversion.to_llvm.control import CONTROL
from stepwell.conversion.to_llvm.core import (
    DYNAMIC,
    PTR,
    UNNAMED,
    Buffer,
    FunctionLowering,
    Handler,
    Size,
    function_type_of,
    prove_converted,
    static_shape,
)
from stepwell.conversion.to_llvm.globals import convert_globals, declare, drop_globals, lower_get_global
from stepwell.conversion.to_llvm.kernels import KERNEL_KEY, SCRATCH_KEY, contracts
from stepwell.conversion.to_llvm.memory import MEMORY, copy, is_row_major
from stepwell.conversion.to_llvm.scalars import SCALARS
from stepwell.conversion.to_llvm.values import VALUE_FUNCTIONS, VALUES, give_value
from stepwell.diagnostics import compile_error, unsupported
from stepwell.dialects.llvm import FuncOp
from stepwell.dialects.text import TEXT
from stepwell.dialects.value import AnyValueType

HOST_SYMBOL = "stepwell_main"
OUTPUT_KEY = "stepwell.output"

_RUNTIME: dict[str, LLVMFunctionType] = {
    "stepwell_rt_arena": LLVMFunctionType([PTR, i64], PTR),
    "stepwell_rt_alloc": LLVMFunctionType([PTR, i64], PTR),
    "stepwell_rt_output": LLVMFunctionType([PTR, i64, i64, PTR], PTR),
    "stepwell_rt_launch": LLVMFunctionType([PTR, PTR, PTR, PTR, i64, i64, i64, i64], i32),
    "stepwell_rt_fail": LLVMFunctionType([PTR, PTR], i32),
    **VALUE_FUNCTIONS,
}
"""What `runtime/c/stepwell_rt.h` declares."""

_FAILED = 1
_UNKNOWN_WORK_NS = 1_000
"""Assumed nanoseconds of a tile where the launch says nothing."""

_LOAD_POINTER: dict[str, Attribute] = {"alignment": IntegerAttr(8, i64), "ordering": IntegerAttr(0, i64)}


_TOO_LARGE = 1 << 48
"""Bytes that no process can have, and sums of some ten thousand of which still fit 64 bits."""

_OLE = 5
"""The predicate of `fcmp`: ordered and less or equal."""


class _HostLowering(FunctionLowering):
    """Adds the context, the argument arrays of launches and the ways out to what every function has."""

    def __init__(self, module: ModuleOp, handlers: dict[str, Handler], entry: Block, contract: bool):
        super().__init__(handlers, entry, contract)
        self.context = entry.args[0]
        self.kernels = {
            op.properties["sym_name"].data: op  # pyright: ignore
            for op in module.ops
            if op.name == "llvm.func" and KERNEL_KEY in op.attributes
        }
        self.messages: dict[str, Operation] = {}
        self.outputs: dict[SSAValue, int] = {}
        """Buffers that the runtime gave for an output."""
        self.dims_of: dict[int, Any] = {}
        self._slots: dict[str, tuple[SSAValue, Operation]] = {}
        self.launches = 0
        """How many launches there are so far: the number of the next."""
        self._failed: Block | None = None

    def multiply(self, a: Size, b: Size) -> Size:
        """
        `a * b` of extents; at least 2^48 where it would be more, which no allocation can give: a size that
        wrapped round would be a small buffer with large extents.
        """
        product = super().multiply(a, b)
        if isinstance(product, int):
            return min(product, _TOO_LARGE)
        if a == 1 or b == 1:
            return product
        return self._cached(("bounded", product), lambda: self._bounded(a, b, product))

    def _bounded(self, a: Size, b: Size, product: SSAValue) -> SSAValue:
        wide = [
            self.constant(FloatAttr(float(x), f64), f64)
            if isinstance(x, int)
            else self.emit("sitofp", (x,), f64)
            for x in (a, b)
        ]
        estimate = self.emit("fmul", wide, f64, {"fastmathFlags": self.strict})
        limit = self.constant(FloatAttr(float(_TOO_LARGE), f64), f64)
        properties = {"predicate": IntegerAttr(_OLE, i64), "fastmathFlags": self.strict}
        fits = self.emit("fcmp", (estimate, limit), i1, properties)
        return self.select(fits, product, self.integer(_TOO_LARGE))

    def runtime(self, name: str, operands: list[SSAValue]) -> SSAValue:
        type = _RUNTIME[name]
        self.declarations[name] = type
        return self.call(name, operands, type.output)

    def slots(self, name: str, element: Attribute, count: int) -> SSAValue:
        """One stack array a function for `name`, as long as its longest use."""
        found = self._slots.get(name)
        if found is None:
            array = self.alloca(element, max(count, 1), 16)
            op = array.owner
            assert isinstance(op, Operation), "an alloca is an op"
            self._slots[name] = (array, op)
            return array
        array, op = found
        (held,) = op.operands
        if self.linear_of(held).constant < count:
            op.operands = [self.integer(count)]
        return array

    def fill(self, name: str, element: Attribute, values: list[SSAValue]) -> SSAValue:
        """The array of `name` holding `values`."""
        array = self.slots(name, element, len(values))
        for place, value in enumerate(values):
            pointer = self.gep_constant_cached(array, place, element)
            self.emit("store", (value, pointer), None, _LOAD_POINTER)
        return array

    def gep_constant_cached(self, base: SSAValue, place: int, element: Attribute) -> SSAValue:
        return self._cached(("slot", base, place), lambda: self.gep_constant(base, place, element))

    def stop_unless(self, good: SSAValue) -> None:
        """Go on where `good` holds, else return 1."""
        self.stop_if_not(good, self.integer(_FAILED, i32))

    def stop_if_not(self, good: SSAValue, status: SSAValue) -> None:
        if self._failed is None:
            self._failed = Block(arg_types=[i32])
        onward = Block()
        self.branch_if(good, onward, self._failed, (), (status,))
        self.start(onward)

    def checked(self, pointer: SSAValue) -> SSAValue:
        """`pointer`, which is not null behind this point."""
        null = self.emit("mlir.zero", (), PTR)
        self.stop_unless(self.compare("ne", pointer, null))
        return pointer

    def message(self, text: str) -> SSAValue:
        """The address of a C string."""
        name = f"stepwell_message_{len(self.messages)}"
        if text not in self.messages:
            data = [*text.encode(), 0]
            value = DenseAttr.from_list(TensorType(i8, [len(data)]), data)
            self.messages[text] = GlobalOp(
                LLVMArrayType(len(data), i8), name, "private", constant=True, value=value
            )
        symbol = self.messages[text].properties["sym_name"]
        assert hasattr(symbol, "data"), "a global has a name"
        return self.emit("mlir.addressof", (), PTR, {"global_name": SymbolRefAttr(symbol.data)})  # pyright: ignore

    def end(self) -> None:
        """The block that every failure goes to."""
        if self._failed is not None:
            self.start(self._failed)
            self.emit("return", (self._failed.args[0],))


def _arena(low: Any, op: Any) -> None:
    size = low.value(op.bytes)
    pointer = low.checked(low.runtime("stepwell_rt_arena", [low.context, size]))
    low.buffers[op.buffer] = low.contiguous(pointer, op.buffer.type, [low.size(op.bytes)])


def _alloc(low: Any, op: Any) -> None:
    """Memory for one run, or the place of an output."""
    type = op.results[0].type
    dynamic = [low.size(size) for size in op.operands if isinstance(size.type, IndexType)]
    layout = low.contiguous(low.context, type, dynamic)
    number = low.outputs.get(op.results[0])
    if number is None:
        size = low.integer_of(low.byte_count(layout))
        pointer = low.checked(low.runtime("stepwell_rt_alloc", [low.context, size]))
    else:
        pointer = _output(low, number, layout)
    low.buffers[op.results[0]] = Buffer(pointer, layout.element, layout.sizes, layout.strides)


def _output(low: Any, number: int, layout: Buffer) -> SSAValue:
    dims = low.fill("output", i64, [low.integer_of(size) for size in layout.sizes])
    rank = low.integer(len(layout.sizes))
    return low.checked(low.runtime("stepwell_rt_output", [low.context, low.integer(number), rank, dims]))


def _dealloc(low: Any, op: Any) -> None:
    """The runtime frees at the end of the run."""


def _launch(low: Any, op: Any) -> None:
    name = op.callee.root_reference.data
    kernel = low.kernels.get(name)
    if kernel is None:
        raise compile_error(op, f"@{name} is not a kernel in the llvm dialect", "run kernels-to-llvm first")
    pointers, dims = [], []
    for argument in op.arguments:
        if not isinstance(type := argument.type, MemRefType):
            dims.append(low.value(argument))
            continue
        if not is_row_major(low, argument):
            raise unsupported(op, f"passes the strided {type}", "copy it to a contiguous buffer")
        pointer, *extents = low.flatten(argument)
        if not isinstance(type.layout, NoneAttr):
            extents = extents[: sum(size == DYNAMIC for size in static_shape(type))]
        pointers.append(pointer)
        dims += extents
    scratch = kernel.attributes.get(SCRATCH_KEY)
    operands = [
        low.context,
        low.emit("mlir.addressof", (), PTR, {"global_name": op.callee}),
        low.fill("buffers", PTR, pointers),
        low.fill("dims", i64, dims),
        low.value(op.tiles),
        low.integer(op.work.value.data if op.work is not None else _UNKNOWN_WORK_NS),
        low.integer(0 if scratch is None else scratch.value.data),
        low.integer(low.launches),
    ]
    low.launches += 1
    status = low.runtime("stepwell_rt_launch", operands)
    low.stop_if_not(low.compare("eq", status, low.integer(0, i32)), status)


def _text(low: Any, op: Any) -> None:
    """An op of the `text` dialect is the runtime's function of its name: pointers and counts, then its numbers."""
    operands, types = [low.context], [PTR]
    for value in op.operands:
        assert is_row_major(low, value), "bufferization copies what is not"
        buffer = low.buffer(value)
        pointer = low.point(buffer.pointer, buffer.offset, buffer.element)
        operands += [pointer, low.integer_of(low.element_count(buffer))]
        types += [PTR, i64]
    operands += map(low.integer, op.numbers)
    types += [i64] * len(op.numbers)
    name = f"stepwell_rt_{op.name.replace('.', '_')}"
    low.declare(name, types, i32)
    status = low.call(name, operands, i32)
    low.stop_if_not(low.compare("eq", status, low.integer(0, i32)), status)


def _assert(low: Any, op: Any) -> None:
    """`cf.assert`: a run-time check of data; its message is the run's error."""
    onward, failing = Block(), Block()
    low.branch_if(low.value(op.operands[0]), onward, failing)
    low.start(failing)
    low.push_scope()
    message = low.message(op.properties["msg"].data)
    status = low.runtime("stepwell_rt_fail", [low.context, message])
    low.emit("return", (status,))
    low.pop_scope()
    low.start(onward)


def _return(low: Any, op: Any) -> None:
    """A result that is not already where the runtime wants it is copied there."""
    for number, result in enumerate(op.operands):
        if isinstance(result.type, AnyValueType):
            give_value(low, number, result)
            continue
        if low.outputs.get(_origin(result)) == number:
            continue
        source = low.buffer(result)
        sizes = tuple(source.sizes)
        pointer = _output(low, number, source)
        target = Buffer(pointer, source.element, sizes, low.row_major(sizes))
        _copy_to(low, result, target)
    low.emit("return", (low.integer(0, i32),))


def _copy_to(low: Any, source: SSAValue, target: Buffer) -> None:
    class _Place:
        type = MemRefType(source.type.element_type, source.type.get_shape())  # pyright: ignore

    place: Any = _Place()
    low.buffers[place] = target
    copy(low, source, place)


_VIEWS = ("memref.cast",)


def _origin(value: SSAValue) -> SSAValue:
    """The buffer behind views that change no extent."""
    owner = value.owner
    while isinstance(owner, Operation) and owner.name in _VIEWS:
        value = owner.operands[0]
        owner = value.owner
    return value


def _find_outputs(low: _HostLowering, main: Any) -> None:
    """The allocations of the outermost block that are returned as the output they say they are."""
    last = main.body.block.last_op
    for number, result in enumerate(last.operands):
        origin = _origin(result)
        owner = origin.owner
        if not isinstance(owner, Operation) or owner.name != "memref.alloc" or origin in low.outputs:
            continue
        attr = owner.attributes.get(OUTPUT_KEY)
        same_block = owner.parent is main.body.block
        if isinstance(attr, IntegerAttr) and attr.value.data == number and same_block:
            low.outputs[origin] = number


def _define_inputs(low: _HostLowering, main: Any) -> None:
    _, inputs, dims = low.entry.args
    used = 0
    for number, arg in enumerate(main.body.block.args):
        type = arg.type
        if isinstance(type, AnyValueType):
            slot = low.gep_constant(inputs, number, PTR)
            low.define(arg, low.emit("load", (slot,), PTR, dict(_LOAD_POINTER)))
            continue
        if not isinstance(type, MemRefType):
            raise unsupported(main, f"takes a {type}", "pass tensors")
        slot = low.gep_constant(inputs, number, PTR)
        pointer = low.emit("load", (slot,), PTR, dict(_LOAD_POINTER))
        sizes = []
        for size in static_shape(type):
            if size == DYNAMIC:
                place = low.gep_constant(dims, used, i64)
                sizes.append(low.emit("load", (place,), i64, dict(_LOAD_POINTER)))
                used += 1
        low.buffers[arg] = low.contiguous(pointer, type, sizes)


def _multiply(low: Any, op: Any) -> None:
    if not isinstance(op.results[0].type, IndexType):
        SCALARS["arith.muli"](low, op)
        return
    product = low.multiply(low.size(op.operands[0]), low.size(op.operands[1]))
    low.define(op.results[0], low.integer_of(product))


_HOST: dict[str, Handler] = {
    "arith.muli": _multiply,
    "schedule.arena": _arena,
    "schedule.launch": _launch,
    "memref.alloc": _alloc,
    "memref.dealloc": _dealloc,
    "cf.assert": _assert,
    "func.return": _return,
    **{op.name: _text for op in TEXT.operations},
}


@dataclass(frozen=True)
class HostToLLVMPass(ModulePass):
    """
    `@main` becomes `@stepwell_main`, and the constants places in the blob of weights, whose layout is written
    on the module as `stepwell.weights`. Requires: kernels-to-llvm, plan-memory. Ensures: only the llvm dialect.
    """

    name = "host-to-llvm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        convert_globals(op)
        main: Any = next((f for f in op.ops if f.name == "func.func" and _name(f) == "main"), None)
        if main is not None:
            self._convert(op, main)
        drop_globals(op)
        prove_converted(op, op.ops)

    def _convert(self, module: ModuleOp, main: Any) -> None:
        handlers = {
            **SCALARS, **MEMORY, **CONTROL, **VALUES, **_HOST, "memref.get_global": lower_get_global(module),
        }  # fmt: skip
        type = LLVMFunctionType([PTR, PTR, PTR], i32)
        entry = Block(arg_types=type.inputs.data)
        low = _HostLowering(module, handlers, entry, contracts(module))
        assert len(function_type_of(main).inputs.data) == len(main.body.block.args), "a function has a body"
        _define_inputs(low, main)
        _find_outputs(low, main)
        low.lower_ops(main.body.block)
        low.end()
        host = FuncOp(
            HOST_SYMBOL,
            type,
            LinkageAttr("external"),
            body=low.finish(),
            other_props={"unnamed_addr": UNNAMED},
        )
        host.location = main.location
        module.body.block.insert_op_before(host, main)
        for message in low.messages.values():
            module.body.block.insert_op_before(message, host)
        main.detach()
        main.erase()
        declare(module, low.declarations)


def _name(func: Operation) -> str:
    symbol: Any = func.properties["sym_name"]
    return symbol.data
