"""`memref` and 1-D `vector`: views are arithmetic on `Buffer`s, accesses are loads and stores."""

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    I64,
    BFloat16Type,
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    MemRefType,
    NoneAttr,
    VectorType,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr as DenseAttr
from xdsl.ir import Attribute, SSAValue
from xdsl.ir.affine import AffineDimExpr

from stepwell.conversion.to_llvm.core import (
    DYNAMIC,
    PTR,
    STRING_VALUE,
    TEXT_ALIGNMENT,
    Buffer,
    FunctionLowering,
    Handler,
    Size,
    byte_size,
    layout_strides,
    llvm_type,
    memory_type,
    static_shape,
)
from stepwell.conversion.to_llvm.scalars import (
    LESS,
    MORE,
    better_number,
    element_type,
    is_never_nan,
    narrowed_to_bf16,
    widened_from_bf16,
    with_element,
)
from stepwell.diagnostics import unsupported

STACK_ALIGNMENT = 64
_FALSE = IntegerAttr(0, i1)

# --- loads and stores ------------------------------------------------------------------------------


def _align(element: Attribute) -> int:
    return TEXT_ALIGNMENT if memory_type(element) == STRING_VALUE else byte_size(element)


def load(low: FunctionLowering, pointer: SSAValue, type: Attribute) -> SSAValue:
    """A load of a scalar or vector of memref level; i1 is a byte."""
    element = element_type(type)
    memory = with_element(type, memory_type(element))
    alignment = {"alignment": IntegerAttr(_align(element), i64), "ordering": _ORDERING}
    value = low.emit("load", (pointer,), memory, alignment)
    return from_memory(low, value, type)


_ORDERING = IntegerAttr(0, i64)


def from_memory(low: FunctionLowering, value: SSAValue, type: Attribute) -> SSAValue:
    return low.compare("ne", value, low.splat(0, value.type)) if element_type(type) == i1 else value


def to_memory(low: FunctionLowering, value: SSAValue) -> SSAValue:
    if element_type(value.type) != i1:
        return value
    return low.emit("zext", (value,), with_element(value.type, i8))


def store(low: FunctionLowering, value: SSAValue, pointer: SSAValue) -> None:
    alignment = {"alignment": IntegerAttr(_align(element_type(value.type)), i64), "ordering": _ORDERING}
    low.emit("store", (to_memory(low, value), pointer), None, alignment)


def _address(low: FunctionLowering, buffer: SSAValue, indices: Sequence[SSAValue]) -> SSAValue:
    return low.address(low.buffer(buffer), [low.value(index) for index in indices])


def _load(low: FunctionLowering, op: Any) -> None:
    pointer = _address(low, op.operands[0], op.operands[1:])
    low.define(op.results[0], load(low, pointer, op.results[0].type))


def _store(low: FunctionLowering, op: Any) -> None:
    pointer = _address(low, op.operands[1], op.operands[2:])
    store(low, low.value(op.operands[0]), pointer)


def _check_unit_stride(low: FunctionLowering, op: Any, memref: SSAValue) -> None:
    if low.buffer(memref).strides and low.buffer(memref).strides[-1] != 1:
        raise unsupported(op, "reads a vector along a strided dim", "use vector.transfer_read")


def _vector_load(low: FunctionLowering, op: Any) -> None:
    _check_unit_stride(low, op, op.operands[0])
    _load(low, op)


def _vector_store(low: FunctionLowering, op: Any) -> None:
    _check_unit_stride(low, op, op.operands[1])
    _store(low, op)


def _alignment32(element: Attribute) -> dict[str, Attribute]:
    return {"alignment": IntegerAttr(_align(element), i32)}


def _maskedload(low: FunctionLowering, op: Any) -> None:
    _check_unit_stride(low, op, op.operands[0])
    pointer = _address(low, op.operands[0], op.operands[1:-2])
    mask, other = low.value(op.operands[-2]), to_memory(low, low.value(op.operands[-1]))
    element = element_type(op.results[0].type)
    value = low.emit("intr.masked.load", (pointer, mask, other), other.type, _alignment32(element))
    low.define(op.results[0], from_memory(low, value, op.results[0].type))


def _maskedstore(low: FunctionLowering, op: Any) -> None:
    _check_unit_stride(low, op, op.operands[0])
    pointer = _address(low, op.operands[0], op.operands[1:-2])
    mask, value = low.value(op.operands[-2]), low.value(op.operands[-1])
    element = element_type(value.type)
    low.emit("intr.masked.store", (to_memory(low, value), pointer, mask), None, _alignment32(element))


def _lane_pointers(low: FunctionLowering, buffer: Buffer, indices: Sequence[SSAValue], dim: int, width: int):
    """Pointers to `width` elements that follow each other along `dim`."""
    base = low.address(buffer, indices)
    type = VectorType(i64, [width])
    stride = buffer.strides[dim]
    if isinstance(stride, int):
        lanes = DenseAttr.from_list(type, [stride * lane for lane in range(width)])
        steps = low.constant(lanes, type)
    else:
        lanes = low.constant(DenseAttr.from_list(type, list(range(width))), type)
        steps = low.emit("mul", (lanes, splat(low, stride, width)), type)
    return low.gep(base, steps, buffer.element, VectorType(PTR, [width]))


def _strided_dim(op: Any) -> int:
    (expr,) = op.permutation_map.data.results
    if not isinstance(expr, AffineDimExpr):
        raise unsupported(op, "broadcasts", "run unroll-vectors first")
    return expr.position


def _mask(low: FunctionLowering, op: Any, width: int) -> SSAValue:
    if op.mask is not None:
        return low.value(op.mask)
    if any(not flag.value.data for flag in op.in_bounds.data):
        raise unsupported(op, "is out of bounds", "run unroll-vectors first")
    return low.splat(1, VectorType(i1, [width]))


def _transfer_read(low: FunctionLowering, op: Any) -> None:
    """What `unroll-vectors` leaves as a transfer is 1-D and strided: a gather."""
    (width,) = op.results[0].type.get_shape()
    element = op.results[0].type.element_type
    indices = [low.value(index) for index in op.indices]
    pointers = _lane_pointers(low, low.buffer(op.source), indices, _strided_dim(op), width)
    padding = splat(low, to_memory(low, low.value(op.padding)), width)
    operands = (pointers, _mask(low, op, width), padding)
    value = low.emit("intr.masked.gather", operands, padding.type, _alignment32(element))
    low.define(op.results[0], from_memory(low, value, op.results[0].type))


def _transfer_write(low: FunctionLowering, op: Any) -> None:
    value = low.value(op.vector)
    (width,) = op.vector.type.get_shape()
    indices = [low.value(index) for index in op.indices]
    pointers = _lane_pointers(low, low.buffer(op.source), indices, _strided_dim(op), width)
    operands = (to_memory(low, value), pointers, _mask(low, op, width))
    low.emit("intr.masked.scatter", operands, None, _alignment32(op.vector.type.element_type))


def _gather(low: FunctionLowering, op: Any) -> None:
    """`vector.gather %base[%i...][%lanes], %mask, %pass`: lanes count elements of the last dim."""
    indices, lanes, mask, other = op.operands[1:-3], op.operands[-3], op.operands[-2], op.operands[-1]
    buffer = low.buffer(op.operands[0])
    base = low.address(buffer, [low.value(index) for index in indices])
    steps = low.value(lanes)
    if steps.type.element_type != i64:  # pyright: ignore
        steps = low.emit("sext", (steps,), with_element(steps.type, i64))
    (width,) = steps.type.get_shape()  # pyright: ignore
    stride = buffer.strides[-1] if buffer.strides else 1
    if stride != 1:
        steps = low.emit("mul", (steps, splat(low, low.integer_of(stride), width)), steps.type)
    pointers = low.gep(base, steps, buffer.element, VectorType(PTR, [width]))
    other = to_memory(low, low.value(other))
    operands = (pointers, low.value(mask), other)
    element = op.results[0].type.element_type
    value = low.emit("intr.masked.gather", operands, other.type, _alignment32(element))
    low.define(op.results[0], from_memory(low, value, op.results[0].type))


# --- 1-D vectors -----------------------------------------------------------------------------------


def splat(low: FunctionLowering, value: SSAValue, width: int) -> SSAValue:
    """Every lane `value`."""
    known = value.owner.properties.get("value") if hasattr(value.owner, "properties") else None  # pyright: ignore
    type = VectorType(value.type, [width])
    if isinstance(known, IntegerAttr | FloatAttr):
        return low.splat(known.value.data, type)
    single = low.emit("insertelement", (low.poison(type), value, low.integer(0)), type)
    zeros = {"mask": DenseArrayBase.from_list(i32, [0] * width)}
    return low.emit("shufflevector", (single, single), type, zeros)


def _broadcast(low: FunctionLowering, op: Any) -> None:
    value, type = low.value(op.operands[0]), llvm_type(op.results[0].type)
    if value.type == type:
        low.define(op.results[0], value)
        return
    if isinstance(value.type, VectorType):
        value = low.emit("extractelement", (value, low.integer(0)), value.type.element_type)
    assert isinstance(type, VectorType), "a broadcast makes a vector"
    low.define(op.results[0], splat(low, value, type.get_shape()[0]))


def _step(low: FunctionLowering, op: Any) -> None:
    type = llvm_type(op.results[0].type)
    assert isinstance(type, VectorType), "vector.step makes a vector"
    lanes = DenseAttr.from_list(type, list(range(type.get_shape()[0])))
    low.define(op.results[0], low.constant(lanes, type))


def _create_mask(low: FunctionLowering, op: Any) -> None:
    """Lane l is set where l < n; compared as i32, since n may be any index but a vector is short."""
    (width,) = op.results[0].type.get_shape()
    count = low.value(op.operands[0])
    bounded = low.emit("intr.smax", (count, low.integer(0)), i64)
    bounded = low.emit("intr.smin", (bounded, low.integer(width)), i64)
    narrow = low.emit("trunc", (bounded,), i32)
    type = VectorType(i32, [width])
    lanes = low.constant(DenseAttr.from_list(type, list(range(width))), type)
    low.define(op.results[0], low.compare("ult", lanes, splat(low, narrow, width)))


_REDUCTION = {
    "add": "add", "mul": "mul", "and": "and", "or": "or", "xor": "xor", "minsi": "smin", "maxsi": "smax",
    "minui": "umin", "maxui": "umax", "minimumf": "fminimum", "maximumf": "fmaximum", "minnumf": "fmin",
    "maxnumf": "fmax",
}  # fmt: skip
_COMBINE = {
    "add": "add", "mul": "mul", "and": "and", "or": "or", "xor": "xor", "minsi": "intr.smin",
    "maxsi": "intr.smax", "minui": "intr.umin", "maxui": "intr.umax", "minimumf": "intr.minimum",
    "maximumf": "intr.maximum", "minnumf": "intr.minnum", "maxnumf": "intr.maxnum",
}  # fmt: skip


def _reduction(low: FunctionLowering, op: Any) -> None:
    """
    All lanes combined in a fixed tree: halves are combined until one lane is left. LLVM's own float
    sums are in lane order (slow) unless `reassoc` leaves the order to the compiler. bf16 is combined in f32.
    """
    values, kind = [low.value(operand) for operand in op.operands], str(op.kind.data)
    narrow = isinstance(element_type(values[0].type), BFloat16Type)
    if narrow:
        values = [widened_from_bf16(low, value) for value in values]
    vector = values[0]
    type = vector.type
    assert isinstance(type, VectorType), "a reduction reads a vector"
    element, (width,) = type.element_type, type.get_shape()
    is_float = not hasattr(element, "signedness")
    name = {"add": "fadd", "mul": "fmul"}.get(kind, _COMBINE[kind]) if is_float else _COMBINE[kind]
    properties = None
    if is_float:
        properties = low.extremum if kind in ("maximumf", "minimumf") else low.fastmath
    better = {"maxnumf": MORE, "minnumf": LESS}.get(kind)
    if narrow or not all(is_never_nan(operand) for operand in op.operands):
        better = None

    def combine(a: SSAValue, b: SSAValue) -> SSAValue:
        return (
            low.emit(name, (a, b), a.type, properties) if better is None else better_number(low, a, b, better)
        )

    if is_float and width & (width - 1) == 0:
        while width > 1:
            width //= 2
            half = VectorType(element, [width])
            low_half = {"mask": DenseArrayBase.from_list(i32, list(range(width)))}
            high_half = {"mask": DenseArrayBase.from_list(i32, list(range(width, 2 * width)))}
            halves = [
                low.emit("shufflevector", (vector, vector), half, mask) for mask in (low_half, high_half)
            ]
            vector = combine(*halves)
        result = low.emit("extractelement", (vector, low.integer(0)), element)
    elif is_float:
        lanes = [low.emit("extractelement", (vector, low.integer(i)), element) for i in range(width)]
        result = lanes[0]
        for lane in lanes[1:]:
            result = combine(result, lane)
    else:
        result = low.emit(f"intr.vector.reduce.{_REDUCTION[kind]}", (vector,), element)
    if len(values) > 1:
        result = combine(result, values[1])
    low.define(op.results[0], narrowed_to_bf16(low, result) if narrow else result)


def _position(low: FunctionLowering, op: Any, dynamic: Sequence[SSAValue]) -> SSAValue:
    values = list(op.static_position.iter_values())
    if len(values) != 1:
        raise unsupported(op, "has a vector of rank other than 1", "run unroll-vectors first")
    return low.value(dynamic[0]) if dynamic else low.integer(values[0])


def _extract(low: FunctionLowering, op: Any) -> None:
    vector = low.value(op.operands[0])
    position = _position(low, op, op.operands[1:])
    low.define(op.results[0], low.emit("extractelement", (vector, position), element_type(vector.type)))


def _insert(low: FunctionLowering, op: Any) -> None:
    value, vector = low.value(op.operands[0]), low.value(op.operands[1])
    position = _position(low, op, op.operands[2:])
    low.define(op.results[0], low.emit("insertelement", (vector, value, position), vector.type))


def _from_elements(low: FunctionLowering, op: Any) -> None:
    type = llvm_type(op.results[0].type)
    result = low.poison(type)
    for lane, element in enumerate(op.operands):
        result = low.emit("insertelement", (result, low.value(element), low.integer(lane)), type)
    low.define(op.results[0], result)


def _shuffle(low: FunctionLowering, op: Any) -> None:
    a, b = low.value(op.operands[0]), low.value(op.operands[1])
    mask = DenseArrayBase.from_list(i32, [int(lane) for lane in op.properties["mask"].iter_values()])
    low.define(
        op.results[0], low.emit("shufflevector", (a, b), llvm_type(op.results[0].type), {"mask": mask})
    )


def _vector_bitcast(low: FunctionLowering, op: Any) -> None:
    value = low.value(op.operands[0])
    low.define(op.results[0], low.emit("bitcast", (value,), llvm_type(op.results[0].type)))


# --- views -----------------------------------------------------------------------------------------


def _mixed(low: FunctionLowering, static: DenseArrayBase[I64], dynamic: Sequence[SSAValue]) -> list[Size]:
    values = iter(dynamic)
    return [low.size(next(values)) if v == DYNAMIC_INDEX else int(v) for v in static.iter_values()]


def _kept_dims(spelled: list[int], strides: list[Size], type: MemRefType) -> list[int]:
    """
    The dims of a subview that its (perhaps rank-reduced) type keeps: `spelled` are its sizes as the op
    writes them. Where unit dims are ambiguous by extent, the strides tell which ones were dropped.
    """
    shape, layout = static_shape(type), layout_strides(type)
    kept: list[int] = []
    for dim, (size, stride) in enumerate(zip(spelled, strides, strict=True)):
        at, left = len(kept), len(spelled) - dim
        if at == len(shape):
            break
        fits = shape[at] == (DYNAMIC if size == DYNAMIC_INDEX else size)
        if fits and layout is not None and layout[at] != DYNAMIC:
            fits = stride == layout[at]
        if fits or left == len(shape) - at:
            kept.append(dim)
    return kept


def _subview(low: FunctionLowering, op: Any) -> None:
    source = low.buffer(op.source)
    offsets = _mixed(low, op.static_offsets, op.offsets)
    sizes = _mixed(low, op.static_sizes, op.sizes)
    steps = _mixed(low, op.static_strides, op.strides)
    place = source.offset
    for offset, stride in zip(offsets, source.strides, strict=True):
        place = place.plus(low.scaled(low.linear_of_size(offset), stride))
    strides = [low.multiply(stride, step) for stride, step in zip(source.strides, steps, strict=True)]
    type = op.result.type
    kept = range(len(sizes))
    if len(sizes) != len(static_shape(type)):
        kept = _kept_dims([int(v) for v in op.static_sizes.iter_values()], strides, type)
    low.buffers[op.result] = Buffer(
        source.pointer, source.element, tuple(sizes[d] for d in kept), tuple(strides[d] for d in kept), place
    )


def _same_buffer(low: FunctionLowering, op: Any) -> None:
    """A cast: what is known about the source is still known."""
    low.buffers[op.results[0]] = low.buffer(op.operands[0])


def _view(low: FunctionLowering, op: Any) -> None:
    source, type = low.buffer(op.source), op.result.type
    place = source.offset.plus(low.linear_of(low.value(op.byte_shift)))
    pointer = low.point(source.pointer, place, i8)
    low.buffers[op.result] = low.contiguous(pointer, type, [low.size(size) for size in op.sizes])


def _groups(op: Any) -> list[list[int]]:
    return [[int(dim.value.data) for dim in group.data] for group in op.reassociation.data]


def _collapse_shape(low: FunctionLowering, op: Any) -> None:
    source = low.buffer(op.src)
    sizes: list[Size] = []
    strides: list[Size] = []
    for group in _groups(op):
        size: Size = 1
        stride: Size = 1
        for dim in group:
            size = low.multiply(size, source.sizes[dim])
            if source.sizes[dim] != 1 or dim == group[-1]:
                stride = source.strides[dim]
        if source.sizes[group[-1]] == 1:
            wide = [dim for dim in group if source.sizes[dim] != 1]
            stride = source.strides[wide[-1]] if wide else source.strides[group[-1]]
        sizes.append(size)
        strides.append(stride)
    low.buffers[op.result] = Buffer(
        source.pointer, source.element, tuple(sizes), tuple(strides), source.offset
    )


def _expand_shape(low: FunctionLowering, op: Any) -> None:
    source = low.buffer(op.src)
    wanted = list(static_shape(op.result.type))
    operands = iter(op.operands[1:])
    spelled: list[Size | None] = []
    for size in wanted:
        operand = next(operands, None) if size == DYNAMIC else None
        spelled.append(low.size(operand) if operand is not None else (None if size == DYNAMIC else size))
    sizes: list[Size] = []
    strides: list[Size] = []
    groups = _groups(op)
    if not groups:  # of rank 0: every extent is 1
        ones = (1,) * len(wanted)
        low.buffers[op.result] = Buffer(source.pointer, source.element, ones, ones, source.offset)
        return
    for at, group in enumerate(groups):
        unknown = [dim for dim in group if spelled[dim] is None]
        if unknown:
            known: Size = 1
            for dim in group:
                known = known if dim in unknown else low.multiply(known, spelled[dim])  # pyright: ignore
            spelled[unknown[0]] = _quotient(low, source.sizes[at], known)
        stride = source.strides[at]
        inner: list[Size] = []
        for dim in reversed(group):
            inner.append(stride)
            stride = low.multiply(stride, spelled[dim])  # pyright: ignore
        strides.extend(reversed(inner))
        sizes.extend(spelled[dim] for dim in group)  # pyright: ignore
    low.buffers[op.result] = Buffer(
        source.pointer, source.element, tuple(sizes), tuple(strides), source.offset
    )


def _quotient(low: FunctionLowering, size: Size, known: Size) -> Size:
    if known == 1:
        return size
    if isinstance(size, int) and isinstance(known, int):
        return size // known
    divisor = low.integer_of(known)
    if not isinstance(known, int):
        is_zero = low.compare("eq", divisor, low.integer(0))
        divisor = low.select(is_zero, low.integer(1), divisor)
    return low.emit("udiv", (low.integer_of(size), divisor), i64)


def _reinterpret_cast(low: FunctionLowering, op: Any) -> None:
    source = low.buffer(op.source)
    (offset,) = _mixed(low, op.static_offsets, op.offsets)
    sizes = tuple(_mixed(low, op.static_sizes, op.sizes))
    strides = tuple(_mixed(low, op.static_strides, op.strides))
    low.buffers[op.result] = Buffer(
        source.pointer, source.element, sizes, strides, low.linear_of_size(offset)
    )


def _transpose(low: FunctionLowering, op: Any) -> None:
    source = low.buffer(op.operands[0])
    order = [expr.position for expr in op.properties["permutation"].data.results]
    sizes, strides = tuple(source.sizes[d] for d in order), tuple(source.strides[d] for d in order)
    low.buffers[op.results[0]] = Buffer(source.pointer, source.element, sizes, strides, source.offset)


def _dim(low: FunctionLowering, op: Any) -> None:
    buffer, index = low.buffer(op.source), low.size(op.index)
    if isinstance(index, int):
        low.define(op.result, low.integer_of(buffer.sizes[index]))
        return
    result = low.integer_of(buffer.sizes[0])
    for place, size in enumerate(buffer.sizes[1:], start=1):
        result = low.select(low.compare("eq", index, low.integer(place)), low.integer_of(size), result)
    low.define(op.result, result)


def _alloca(low: FunctionLowering, op: Any) -> None:
    type = op.results[0].type
    if DYNAMIC in static_shape(type):
        raise unsupported(op, "is a stack buffer of dynamic extent", "run promote-scratch first")
    count = 1
    for size in static_shape(type):
        count *= size
    pointer = low.alloca(memory_type(type.element_type), max(count, 1), STACK_ALIGNMENT)
    low.buffers[op.results[0]] = low.contiguous(pointer, type, ())


def _extract_strided_metadata(low: FunctionLowering, op: Any) -> None:
    source = low.buffer(op.operands[0])
    rank = len(source.sizes)
    base, offset, *rest = op.results
    low.buffers[base] = Buffer(source.pointer, source.element, (), ())
    low.define(offset, low.materialise(source.offset))
    for old, size in zip(rest, (*source.sizes, *source.strides), strict=True):
        low.define(old, low.integer_of(size))
    assert len(rest) == 2 * rank, "metadata holds every extent and stride"


def is_row_major(low: FunctionLowering, old: SSAValue) -> bool:
    """Whether a memref is known to be contiguous."""
    type, buffer = old.type, low.buffer(old)
    if isinstance(type, MemRefType) and isinstance(type.layout, NoneAttr):
        return True
    expected: Size = 1
    for axis in reversed(range(len(buffer.sizes))):
        size, stride = buffer.sizes[axis], buffer.strides[axis]
        if size == 1:
            continue
        if stride != expected or not isinstance(size, int):
            return axis == 0 and stride == expected
        expected = expected * size
    return True


def copy(low: FunctionLowering, source: SSAValue, target: SSAValue) -> None:
    """`target[...] = source[...]`: one memcpy if both are contiguous, else a loop nest of elements."""
    a, b = low.buffer(source), low.buffer(target)
    if is_row_major(low, source) and is_row_major(low, target):
        pointers = (low.point(b.pointer, b.offset, b.element), low.point(a.pointer, a.offset, a.element))
        bytes = low.integer_of(low.byte_count(a))
        low.emit("intr.memcpy", (*pointers, bytes), None, {"isVolatile": _FALSE})
        return

    def nest(indices: list[SSAValue]) -> None:
        if len(indices) == len(a.sizes):
            pointer = low.address(a, indices)
            value = load(low, pointer, a.element)
            store(low, value, low.address(b, indices))
            return

        def body(induction: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            nest([*indices, induction])
            return carried

        size = low.integer_of(a.sizes[len(indices)])
        low.loop(low.integer(0), size, low.integer(1), [], body)

    nest([])


def _copy(low: FunctionLowering, op: Any) -> None:
    copy(low, op.operands[0], op.operands[1])


def _aligned_pointer(low: FunctionLowering, op: Any) -> None:
    buffer = low.buffer(op.operands[0])
    low.define(op.results[0], low.emit("ptrtoint", (buffer.pointer,), i64))


MEMORY: dict[str, Handler] = {
    "memref.load": _load,
    "memref.store": _store,
    "memref.subview": _subview,
    "memref.cast": _same_buffer,
    "memref.assume_alignment": _same_buffer,
    "memref.memory_space_cast": _same_buffer,
    "memref.view": _view,
    "memref.collapse_shape": _collapse_shape,
    "memref.expand_shape": _expand_shape,
    "memref.reinterpret_cast": _reinterpret_cast,
    "memref.transpose": _transpose,
    "memref.dim": _dim,
    "memref.alloca": _alloca,
    "memref.copy": _copy,
    "memref.extract_strided_metadata": _extract_strided_metadata,
    "memref.extract_aligned_pointer_as_index": _aligned_pointer,
    "vector.load": _vector_load,
    "vector.store": _vector_store,
    "vector.maskedload": _maskedload,
    "vector.maskedstore": _maskedstore,
    "vector.transfer_read": _transfer_read,
    "vector.transfer_write": _transfer_write,
    "vector.gather": _gather,
    "vector.broadcast": _broadcast,
    "vector.splat": _broadcast,
    "vector.step": _step,
    "vector.create_mask": _create_mask,
    "vector.reduction": _reduction,
    "vector.extract": _extract,
    "vector.insert": _insert,
    "vector.from_elements": _from_elements,
    "vector.shuffle": _shuffle,
    "vector.bitcast": _vector_bitcast,
}
