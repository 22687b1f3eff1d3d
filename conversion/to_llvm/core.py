"""What every conversion to the llvm dialect shares: values, buffers, addresses and blocks of one function.

A memref is not one value here but a `Buffer`: a pointer and what is known of its extents and strides.
An index is kept in linear form beside its value, so that the constant parts of addresses meet in one
`getelementptr` and neighbouring rows share a base.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    DenseArrayBase,
    FloatAttr,
    FunctionType,
    IndexType,
    IntAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
    SymbolRefAttr,
    VectorType,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.dialects.llvm import FastMathAttr, FastMathFlag, LLVMFunctionType, LLVMPointerType, LLVMStructType
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from stepwell.diagnostics import unsupported
from stepwell.dialects import llvm
from stepwell.dialects.llvm import GEP_USE_SSA_VAL
from stepwell.dialects.text import StringType
from stepwell.dialects.value import AnyValueType

_ops = {op.name.removeprefix("llvm."): op for op in llvm.LLVM.operations}


def llvm_op(name: str) -> type[Operation]:
    """The class of the op `llvm.<name>`."""
    return _ops[name]


PTR = LLVMPointerType()
UNNAMED = IntegerAttr(0, i64)
"""`unnamed_addr` of a function whose address is its identity."""
STRING_VALUE = LLVMStructType.from_type_list([PTR, i64])
"""A string as a value."""
DYNAMIC = DYNAMIC_INDEX
"""An extent or a stride that is not in the type."""
_GEP_DYNAMIC = DenseArrayBase.from_list(i32, [GEP_USE_SSA_VAL])
_NO_WRAP_FLAGS = IntegerAttr(0, i32)
_NSW = {"overflowFlags": IntegerAttr(1, i32)}
_NO_WRAP: dict[str, Attribute] = {"overflowFlags": IntegerAttr(0, i32)}
_DEFAULTS: dict[str, dict[str, Attribute]] = dict.fromkeys(("add", "sub", "mul", "shl"), _NO_WRAP)
"""Properties that the parser fills in, so that what is printed reads back as the same op."""
_CONTRACT = FastMathAttr([FastMathFlag.ALLOW_CONTRACT])
_NO_SIGNED_ZEROS = FastMathAttr([FastMathFlag.NO_SIGNED_ZEROS])
_STRICT = FastMathAttr(None)
_EMPTY_SEGMENTS = DenseArrayBase.from_list(i32, [])

UNROLL_KEY = "stepwell.unroll"
"""On the branch back of a loop: how many iterations clang is asked to put into one."""

Size = int | SSAValue
"""An extent or stride: known now, or an i64 at run time."""


@dataclass(frozen=True)
class Linear:
    """`constant + sum(coefficient * value)` over i64 values."""

    constant: int = 0
    terms: tuple[tuple[SSAValue, int], ...] = ()

    def plus(self, other: "Linear") -> "Linear":
        if not other.terms:
            return Linear(self.constant + other.constant, self.terms)
        terms = dict(self.terms)
        for value, coefficient in other.terms:
            terms[value] = terms.get(value, 0) + coefficient
        kept = tuple((value, coefficient) for value, coefficient in terms.items() if coefficient)
        return Linear(self.constant + other.constant, kept)

    def times(self, factor: int) -> "Linear":
        if factor == 0:
            return Linear()
        return Linear(self.constant * factor, tuple((v, c * factor) for v, c in self.terms))


@dataclass(frozen=True)
class Buffer:
    """A memref: where it starts, and its extents and strides in elements of `element`."""

    pointer: SSAValue
    element: Attribute
    """The type of one element in memory: i8 for i1."""
    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Linear = field(default_factory=Linear)


TEXT_BYTES, TEXT_ALIGNMENT = 16, 8


def memory_type(element: Attribute) -> Attribute:
    """How an element lies in memory: i1 as a byte, index as i64, a string as a pointer and an i64."""
    if element == i1:
        return i8
    if isinstance(element, StringType):
        return STRING_VALUE
    return i64 if isinstance(element, IndexType) else element


def byte_size(element: Attribute) -> int:
    """Bytes of one element in memory."""
    type = memory_type(element)
    if type == STRING_VALUE:
        return TEXT_BYTES
    assert isinstance(type, IntegerType) or hasattr(type, "bitwidth"), f"no size for {type}"
    return (type.bitwidth + 7) // 8  # pyright: ignore


_types: dict[Attribute, Attribute] = {}


def llvm_type(type: Attribute) -> Attribute:
    """The llvm type of a scalar or a 1-D vector."""
    if (found := _types.get(type)) is not None:
        return found
    result = type
    if isinstance(type, IndexType | StringType):
        result = memory_type(type)
    elif isinstance(type, AnyValueType):
        result = PTR
    elif isinstance(type, VectorType):
        element = type.element_type
        if isinstance(element, IndexType):
            result = VectorType(i64, type.shape)
    _types[type] = result
    return result


def static_shape(type: MemRefType) -> tuple[int, ...]:
    """Extents of a memref type, -1 where dynamic."""
    return tuple(type.get_shape())


def layout_strides(type: MemRefType) -> list[int] | None:
    """The strides that a `strided` layout spells (-1: dynamic); None for the row-major layout."""
    if not isinstance(type.layout, StridedLayoutAttr):
        return None
    return [stride.data if isinstance(stride, IntAttr) else DYNAMIC for stride in type.layout.strides]


Handler = Callable[["FunctionLowering", Operation], None]


class FunctionLowering:
    """Builds the body of one llvm function out of the ops of one function at memref level."""

    def __init__(self, handlers: dict[str, Handler], entry: Block, contract: bool = True):
        self.handlers = handlers
        self.region = Region([entry])
        self.entry = entry
        self.block = entry
        self.values: dict[SSAValue, SSAValue] = {}
        self.buffers: dict[SSAValue, Buffer] = {}
        self.linear: dict[SSAValue, Linear] = {}
        self.fastmath = {"fastmathFlags": _CONTRACT if contract else _STRICT}
        self.extremum = {"fastmathFlags": _NO_SIGNED_ZEROS if contract else _STRICT}
        """Of a maximum or minimum: which zero of two it gives may be left open, for half the instructions."""
        self.strict = _STRICT
        self.prefetch = True
        """Long contractions ask for their panels ahead of time."""
        self.location = None
        self.declarations: dict[str, LLVMFunctionType] = {}
        self._constants: dict[tuple[Attribute, Attribute], Operation] = {}
        self._allocas: list[Operation] = []
        self._scopes: list[dict[object, SSAValue]] = [{}]

    # --- emitting ---------------------------------------------------------------------------------

    def emit(
        self,
        name: str,
        operands: Sequence[SSAValue] = (),
        type: Attribute | None = None,
        properties: Mapping[str, Attribute] | None = None,
        successors: Sequence[Block] = (),
    ) -> SSAValue:
        """Append `llvm.<name>` to the current block; its result, or for an op without one any operand."""
        op = _ops[name].create(
            operands=operands,
            result_types=() if type is None else (type,),
            properties=_DEFAULTS.get(name, {}) if properties is None else properties,
            successors=successors,
        )
        if self.location is not None:
            op.location = self.location
        self.block.add_op(op)
        return op.results[0] if type is not None else None  # pyright: ignore

    def constant(self, attr: Attribute, type: Attribute) -> SSAValue:
        """The constant `attr`, one op a function."""
        key = (attr, type)
        op = self._constants.get(key)
        if op is None:
            op = _ops["mlir.constant"].create(properties={"value": attr}, result_types=(type,))
            self._constants[key] = op
        return op.results[0]

    def integer(self, value: int, type: IntegerType = i64) -> SSAValue:
        """An integer constant; `value` is taken modulo 2^width."""
        width = type.width.data
        if not -(1 << (width - 1)) <= value < (1 << width):
            value &= (1 << width) - 1
        result = self.constant(IntegerAttr(value, type), type)
        if type == i64:
            self.linear.setdefault(result, Linear(value))
        return result

    def splat(self, value: int | float, type: Attribute) -> SSAValue:
        """A constant of scalar or vector `type` with every lane `value`."""
        element = type.element_type if isinstance(type, VectorType) else type
        if isinstance(element, IntegerType):
            if not isinstance(type, VectorType):
                return self.integer(int(value), element)
            return self.constant(DenseAttr.from_list(type, [int(value)]), type)
        if not isinstance(type, VectorType):
            return self.constant(FloatAttr(float(value), type), type)  # pyright: ignore
        return self.constant(DenseAttr.from_list(type, [float(value)]), type)  # pyright: ignore

    def poison(self, type: Attribute) -> SSAValue:
        return self.emit("mlir.poison", (), type)

    def alloca(self, element: Attribute, count: int, alignment: int) -> SSAValue:
        """`count` elements on the stack, in the entry block so that a loop does not grow it."""
        op = _ops["alloca"].create(
            operands=(self.integer(count),),
            properties={"alignment": IntegerAttr(alignment, i64), "elem_type": element},
            result_types=(PTR,),
        )
        self._allocas.append(op)
        return op.results[0]

    def call(self, callee: str, operands: Sequence[SSAValue], type: Attribute | None) -> SSAValue:
        """A direct call; `type` is None for void."""
        properties: dict[str, Attribute] = {
            "callee": SymbolRefAttr(callee),
            "fastmathFlags": _STRICT,
            "op_bundle_sizes": _EMPTY_SEGMENTS,
            "operandSegmentSizes": DenseArrayBase.from_list(i32, [len(operands), 0]),
        }
        return self.emit("call", operands, type, properties)

    def declare(self, name: str, operands: Sequence[Attribute], result: Attribute | None) -> None:
        """Note that the module must declare the external function `name`."""
        if name not in self.declarations:
            self.declarations[name] = LLVMFunctionType(list(operands), result)

    # --- values -----------------------------------------------------------------------------------

    def value(self, old: SSAValue) -> SSAValue:
        return self.values[old]

    def define(self, old: SSAValue, new: SSAValue) -> None:
        self.values[old] = new

    def linear_of(self, new: SSAValue) -> Linear:
        """The linear form of an i64 value of the new function."""
        found = self.linear.get(new)
        return Linear(0, ((new, 1),)) if found is None else found

    def size(self, old: SSAValue) -> Size:
        """An index operand as an extent: an int where it is a constant."""
        new = self.value(old)
        known = self.linear.get(new)
        return known.constant if known is not None and not known.terms else new

    def integer_of(self, size: Size) -> SSAValue:
        return self.integer(size) if isinstance(size, int) else size

    def linear_of_size(self, size: Size) -> Linear:
        return Linear(size) if isinstance(size, int) else self.linear_of(size)

    def _cached(self, key: object, make: Callable[[], SSAValue]) -> SSAValue:
        for scope in self._scopes:
            if (found := scope.get(key)) is not None:
                return found
        value = make()
        self._scopes[-1][key] = value
        return value

    def multiply(self, a: Size, b: Size) -> Size:
        """`a * b` of extents, folded and shared."""
        if isinstance(a, int):
            a, b = b, a
        if isinstance(a, int):
            return a * b  # pyright: ignore
        if isinstance(b, int):
            if b in (0, 1):
                return a if b else 0
            factor = b
            result = self._cached(("mul", a, b), lambda: self.emit("mul", (a, self.integer(factor)), i64))
            self.linear.setdefault(result, self.linear_of(a).times(factor))
            return result
        return self._cached(("mul", a, b), lambda: self.emit("mul", (a, b), i64))

    def materialise(self, linear: Linear) -> SSAValue:
        """The i64 value of a linear form."""
        total: SSAValue | None = None
        for value, coefficient in linear.terms:
            term = value
            if coefficient != 1:
                term = self.multiply(value, coefficient)
                assert isinstance(term, SSAValue), "a term has a non-zero coefficient"
            total = term if total is None else self._added(total, term)
        if total is None:
            return self.integer(linear.constant)
        if linear.constant:
            total = self._added(total, self.integer(linear.constant))
        self.linear.setdefault(total, linear)
        return total

    def _added(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self._cached(("add", a, b), lambda: self.emit("add", (a, b), i64))

    # --- buffers ----------------------------------------------------------------------------------

    def buffer(self, old: SSAValue) -> Buffer:
        return self.buffers[old]

    def row_major(self, sizes: Sequence[Size]) -> tuple[Size, ...]:
        """Strides of a contiguous buffer."""
        strides: list[Size] = []
        stride: Size = 1
        for size in reversed(sizes):
            strides.append(stride)
            stride = self.multiply(stride, size)
        return tuple(reversed(strides))

    def contiguous(self, pointer: SSAValue, type: MemRefType, dynamic: Iterable[Size]) -> Buffer:
        """A row-major buffer of `type` at `pointer`, its dynamic extents given in order."""
        values = iter(dynamic)
        sizes = tuple(next(values) if size == DYNAMIC else size for size in static_shape(type))
        return Buffer(pointer, memory_type(type.element_type), sizes, self.row_major(sizes))

    def element_count(self, buffer: Buffer) -> Size:
        count: Size = 1
        for size in buffer.sizes:
            count = self.multiply(count, size)
        return count

    def byte_count(self, buffer: Buffer) -> Size:
        return self.multiply(self.element_count(buffer), byte_size(buffer.element))

    def gep(self, pointer: SSAValue, index: SSAValue, element: Attribute, type: Attribute = PTR) -> SSAValue:
        return self.emit(
            "getelementptr",
            (pointer, index),
            type,
            {"elem_type": element, "rawConstantIndices": _GEP_DYNAMIC, "noWrapFlags": _NO_WRAP_FLAGS},
        )

    def gep_constant(self, pointer: SSAValue, index: int, element: Attribute) -> SSAValue:
        if index == 0:
            return pointer
        if not -(1 << 31) < index < (1 << 31):
            return self.gep(pointer, self.integer(index), element)
        return self.emit(
            "getelementptr",
            (pointer,),
            PTR,
            {
                "elem_type": element,
                "rawConstantIndices": DenseArrayBase.from_list(i32, [index]),
                "noWrapFlags": _NO_WRAP_FLAGS,
            },
        )

    def place(self, buffer: Buffer, indices: Sequence[SSAValue | int]) -> Linear:
        """The distance in elements of `buffer[indices]` from the buffer's pointer."""
        total = buffer.offset
        for index, stride in zip(indices, buffer.strides, strict=True):
            form = Linear(index) if isinstance(index, int) else self.linear_of(index)
            total = total.plus(self.scaled(form, stride))
        return total

    def scaled(self, form: Linear, stride: Size) -> Linear:
        """`form * stride`."""
        if isinstance(stride, int):
            return form.times(stride)
        result = self.linear_of(stride).times(form.constant)
        if form.terms:
            base = self.materialise(Linear(0, form.terms))
            product = self.multiply(base, stride)
            result = result.plus(self.linear_of_size(product))
        return result

    def address(self, buffer: Buffer, indices: Sequence[SSAValue | int]) -> SSAValue:
        """A pointer to `buffer[indices]`; addresses that differ by a constant share their base."""
        return self.point(buffer.pointer, self.place(buffer, indices), buffer.element)

    def point(self, pointer: SSAValue, place: Linear, element: Attribute) -> SSAValue:
        base = pointer
        if place.terms:
            key = ("gep", pointer, element, frozenset(place.terms))
            form = Linear(0, place.terms)
            base = self._cached(key, lambda: self.gep(pointer, self.materialise(form), element))
        if place.constant == 0:
            return base
        key = ("gep", base, element, place.constant)
        return self._cached(key, lambda: self.gep_constant(base, place.constant, element))

    # --- what a value becomes across a block boundary ------------------------------------------------

    def flat_types(self, type: Attribute) -> list[Attribute]:
        """The llvm types of the block arguments that carry a value of `type`."""
        if not isinstance(type, MemRefType):
            return [llvm_type(type)]
        dynamic = sum(size == DYNAMIC for size in static_shape(type))
        dynamic += sum(stride == DYNAMIC for stride in layout_strides(type) or ())
        return [PTR, *[i64] * dynamic]

    def flatten(self, old: SSAValue) -> list[SSAValue]:
        """The llvm values that carry `old`."""
        if not isinstance(type := old.type, MemRefType):
            return [self.value(old)]
        buffer = self.buffer(old)
        flat = [self.point(buffer.pointer, buffer.offset, buffer.element)]
        for size, known in zip(buffer.sizes, static_shape(type), strict=True):
            if known == DYNAMIC:
                flat.append(self.integer_of(size))
        for stride, known in zip(buffer.strides, layout_strides(type) or [], strict=False):
            if known == DYNAMIC:
                flat.append(self.integer_of(stride))
        return flat

    def unflatten(self, old: SSAValue, flat: Sequence[SSAValue]) -> int:
        """Define `old` by the first values of `flat`; how many were used."""
        if not isinstance(type := old.type, MemRefType):
            self.define(old, flat[0])
            return 1
        values = iter(flat[1:])
        sizes = tuple(next(values) if size == DYNAMIC else size for size in static_shape(type))
        spelled = layout_strides(type)
        if spelled is None:
            strides = self.row_major(sizes)
        else:
            strides = tuple(next(values) if stride == DYNAMIC else stride for stride in spelled)
        self.buffers[old] = Buffer(flat[0], memory_type(type.element_type), sizes, strides)
        return len(self.flat_types(type))

    def flatten_all(self, olds: Sequence[SSAValue]) -> list[SSAValue]:
        return [value for old in olds for value in self.flatten(old)]

    def flat_types_all(self, olds: Iterable[SSAValue]) -> list[Attribute]:
        return [type for old in olds for type in self.flat_types(old.type)]

    def unflatten_all(self, olds: Iterable[SSAValue], flat: Sequence[SSAValue]) -> None:
        done = 0
        for old in olds:
            done += self.unflatten(old, flat[done:])

    # --- blocks -----------------------------------------------------------------------------------

    def start(self, block: Block) -> None:
        """Go on emitting into `block`."""
        self.region.add_block(block)
        self.block = block

    def branch(self, block: Block, operands: Sequence[SSAValue] = ()) -> None:
        self.emit("br", operands, None, None, (block,))

    def branch_if(
        self,
        condition: SSAValue,
        then: Block,
        other: Block,
        then_operands: Sequence[SSAValue] = (),
        other_operands: Sequence[SSAValue] = (),
    ) -> None:
        segments = DenseArrayBase.from_list(i32, [1, len(then_operands), len(other_operands)])
        operands = (condition, *then_operands, *other_operands)
        self.emit("cond_br", operands, None, {"operandSegmentSizes": segments}, (then, other))

    def push_scope(self) -> None:
        self._scopes.append({})

    def pop_scope(self) -> None:
        self._scopes.pop()

    def loop(
        self, low: SSAValue, high: SSAValue, step: SSAValue, initial: Sequence[SSAValue],
        body: Callable[[SSAValue, Sequence[SSAValue]], Sequence[SSAValue]], unroll: int = 1,
    ) -> list[SSAValue]:  # fmt: skip
        """`for (i = low; i < high; i += step)`, signed; `body` maps carried values to the next ones."""
        types = [low.type, *(value.type for value in initial)]
        header, inside, after = Block(arg_types=types), Block(), Block()
        self.branch(header, [low, *initial])
        self.start(header)
        induction, *carried = header.args
        self.branch_if(self.compare("slt", induction, high), inside, after)
        self.start(inside)
        self.push_scope()
        following = body(induction, carried)
        following = [self.emit("add", (induction, step), low.type, _NSW), *following]
        self.branch(header, following)
        if unroll > 1:
            assert self.block.last_op is not None, "the branch back was just emitted"
            self.block.last_op.attributes[UNROLL_KEY] = IntegerAttr(unroll, i64)
        self.pop_scope()
        self.start(after)
        return list(carried)

    def compare(self, predicate: str, a: SSAValue, b: SSAValue) -> SSAValue:
        """`llvm.icmp`."""
        type = VectorType(i1, a.type.shape) if isinstance(a.type, VectorType) else i1
        return self.emit("icmp", (a, b), type, {"predicate": _ICMP[predicate]})

    def select(self, condition: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.emit("select", (condition, a, b), a.type, {"fastmathFlags": _STRICT})

    # --- walking ----------------------------------------------------------------------------------

    def lower_ops(self, block: Block, until_terminator: bool = False) -> None:
        """Lower the ops of an old block; its terminator too, unless told not to."""
        handlers = self.handlers
        last = block.last_op if until_terminator else None
        for op in block.ops:
            if op is last:
                break
            handler = handlers.get(op.name)
            if handler is None:
                raise unsupported(op, "has no lowering to the llvm dialect", "lower it before this pass")
            self.location = op.location
            handler(self, op)

    def finish(self) -> Region:
        """Put constants and stack buffers in front, drop what nobody uses, return the body."""
        first = self.entry.first_op
        leading = [*self._constants.values(), *self._allocas]
        if first is None:
            self.entry.add_ops(leading)
        else:
            self.entry.insert_ops_before(leading, first)
        for block in reversed(self.region.blocks):
            for op in list(reversed(block.ops)):
                if op.name in _REMOVABLE and not any(result.uses for result in op.results):
                    op.detach()
                    op.erase()
        return self.region


_ICMP = {
    name: IntegerAttr(number, i64)
    for number, name in enumerate(("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge"))
}

_REMOVABLE = frozenset(
    f"llvm.{name}"
    for name in (
        "add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "icmp", "fcmp", "select", "fadd",
        "fsub", "fmul", "fdiv", "fneg", "getelementptr", "mlir.constant", "mlir.poison", "zext", "sext",
        "trunc", "bitcast", "alloca", "load", "insertelement", "extractelement", "shufflevector", "intr.smax",
        "intr.smin", "intr.umax", "intr.umin", "mlir.addressof", "udiv", "urem", "sdiv", "srem",
    )
)  # fmt: skip
"""Ops that may go when unused. None of ours traps: divisors are guarded where they are emitted."""


def lower_constant(low: FunctionLowering, op: Any) -> None:
    """`arith.constant`."""
    attr, type = op.value, op.result.type
    target = llvm_type(type)
    if isinstance(attr, IntegerAttr):
        assert isinstance(target, IntegerType), "an integer attribute has an integer type"
        low.define(op.result, low.integer(attr.value.data, target))
        return
    if isinstance(attr, DenseAttr) and attr.type != target:
        attr = DenseAttr(target, attr.data)  # pyright: ignore
    low.define(op.result, low.constant(attr, target))


def function_type_of(op: Operation) -> FunctionType:
    """The type of a `func.func`."""
    type = op.properties["function_type"]
    assert isinstance(type, FunctionType), "a func.func has a function type"
    return type


def prove_converted(module: ModuleOp, roots: Iterable[Operation]) -> None:
    """The promise of both conversions: below `roots` there is only the llvm dialect."""
    for root in roots:
        for op in root.walk():
            if not op.name.startswith("llvm."):
                raise unsupported(op, "is left after the conversion to the llvm dialect", "report this op")
