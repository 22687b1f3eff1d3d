"""Whether IR is valid: every op's own rules, SSA dominance, and rules that xDSL leaves unchecked."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    FunctionType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
    StringAttr,
    TensorType,
    UnrankedMemRefType,
    UnrankedTensorType,
    VectorType,
)
from xdsl.ir import Attribute, Block, BlockArgument, ErasedSSAValue, Operation, Region, SSAValue
from xdsl.traits import IsolatedFromAbove, IsTerminator, NoTerminator, SymbolTable
from xdsl.utils.exceptions import VerifyException

from stepwell.compat import deep_recursion
from stepwell.diagnostics import InvalidIR, first_line
from stepwell.dominance import dominator_tree

_MAX_INTEGER_WIDTH = (1 << 24) - 1
"""As in MLIR."""


_MAX_RANK = 64
_MAX_VECTOR_ELEMENTS = 1 << 16
_MAX_ELEMENTS = 1 << 47
"""Bytes of the address space of a process: sizes and offsets never leave 64 bits."""


def verify_module(module: Operation) -> None:
    """Raise `InvalidIR` on the first op nested in `module` that breaks a rule."""
    with deep_recursion():
        _Verifier().op(module, set())


class _Verifier:
    """One walk over the IR."""

    def __init__(self):
        self.types: dict[int, Attribute] = {}
        """Types that were checked, by identity: they are shared, and hashing them costs more."""
        self.symbols: dict[Operation, dict[str, Operation]] = {}
        """The symbols of each table that a rule asked for: looking one up by a walk is quadratic in a large module."""

    def op(self, op: Operation, defined: set[SSAValue]) -> None:
        """Check `op`; `defined` are the values that it may use."""
        for index, operand in enumerate(op.operands):
            if operand not in defined:
                _raise_undefined(op, index, operand)
        for result in op.results:
            if id(result.type) not in self.types:
                self.type(op, result.type)
        if op.successors:
            _verify_successors(op)
        try:
            op.verify_()
        except InvalidIR:
            raise
        except VerifyException as error:
            if op.has_trait(IsolatedFromAbove, value_if_unregistered=False):
                # xDSL prints the whole function where a value comes from outside: name the use instead.
                for region in op.regions:
                    self.region(op, region, set())
            raise InvalidIR(op, first_line(str(error))) from error
        except Exception as error:
            # xDSL's verifiers assume more of the attributes' types than they check, or raise bare Exceptions.
            what = "" if type(error) is Exception else f"breaks its verifier: {type(error).__name__}: "
            raise InvalidIR(op, first_line(f"{what}{error}")) from error
        for region in op.regions:
            isolated = op.has_trait(IsolatedFromAbove, value_if_unregistered=False)
            self.region(op, region, set() if isolated else defined)
        if (rule := _RULES.get(op.name)) is not None:
            if (why := rule(op)) is not None:
                raise InvalidIR(op, why)
        if (user := _SYMBOL_USERS.get(op.name)) is not None:
            if (why := user(op, self.symbols_of(op))) is not None:
                raise InvalidIR(op, why)

    def symbols_of(self, op: Operation) -> dict[str, Operation]:
        """What the nearest symbol table around `op` defines, by name."""
        table = op.parent_op()
        while table is not None and not table.has_trait(SymbolTable, value_if_unregistered=False):
            table = table.parent_op()
        if table is None:
            return {}
        if table not in self.symbols:
            self.symbols[table] = {
                name.data: inner
                for inner in table.regions[0].block.ops
                if isinstance(name := inner.properties.get("sym_name"), StringAttr)
            }
        return self.symbols[table]

    def type(self, op: Operation, kind: Attribute) -> None:
        self.types[id(kind)] = kind
        if (why := _wrong_type(kind)) is not None:
            raise InvalidIR(op, why)

    def region(self, op: Operation, region: Region, defined: set[SSAValue]) -> None:
        blocks = list(region.blocks)
        if not blocks:
            return
        if isinstance(op, ModuleOp):
            # The body of a module is a graph region: order does not matter there.
            visible = {*defined, *(result for inner in blocks[0].ops for result in inner.results)}
            for inner in blocks[0].ops:
                self.op(inner, visible)
            return
        _verify_terminators(op, blocks)
        if len(blocks) == 1:
            defined.difference_update(self.block(op, blocks[0], defined))
            return
        children = dominator_tree(blocks)
        stack: list[tuple[Block, list[SSAValue] | None]] = [(blocks[0], None)]
        while stack:
            block, added = stack.pop()
            if added is not None:
                defined.difference_update(added)
                continue
            stack.append((block, self.block(op, block, defined)))
            stack.extend((child, None) for child in children.get(block, ()))

    def block(self, parent: Operation, block: Block, defined: set[SSAValue]) -> list[SSAValue]:
        """Check the ops of `block`; the values that it added to `defined`."""
        added: list[SSAValue] = list(block.args)
        for argument in added:
            if id(argument.type) not in self.types:
                self.type(parent, argument.type)
        defined.update(added)
        for op in block.ops:
            self.op(op, defined)
            added.extend(op.results)
            defined.update(op.results)
        return added


def _raise_undefined(op: Operation, index: int, operand: SSAValue) -> None:
    name = f"%{operand.name_hint}" if operand.name_hint else f"operand {index}"
    if isinstance(operand, ErasedSSAValue):
        raise InvalidIR(op, f"{name} was erased")
    if isinstance(operand, BlockArgument):
        raise InvalidIR(op, f"{name} is an argument of a block that does not dominate this use")
    raise InvalidIR(op, f"{name} does not dominate this use: it is defined later or in another region")


def _verify_successors(op: Operation) -> None:
    block = op.parent
    if block is None or block.last_op is not op:
        raise InvalidIR(op, "an op with successors must end its block")
    for successor in op.successors:
        if successor.parent is not block.parent:
            raise InvalidIR(op, "branches to a block of another region")
        if block.parent is not None and successor is block.parent.blocks.first:
            raise InvalidIR(op, "branches to the entry block of its region")


def _verify_terminators(op: Operation, blocks: Sequence[Block]) -> None:
    needed = not op.has_trait(NoTerminator, value_if_unregistered=True) or len(blocks) > 1
    for block in blocks:
        last = block.last_op
        if needed and last is None:
            raise InvalidIR(op, "has a block without a terminator")
        if needed and last is not None and not last.has_trait(IsTerminator, value_if_unregistered=True):
            raise InvalidIR(last, f"ends a block of {op.name} but is no terminator")
        for inner in block.ops:
            if inner is not last and inner.has_trait(IsTerminator, value_if_unregistered=False):
                raise InvalidIR(inner, "is a terminator but does not end its block")


# Types


def _wrong_type(kind: Attribute) -> str | None:
    """Why `kind` is no type of MLIR's."""
    if isinstance(kind, IntegerType):
        width = kind.width.data
        return None if width <= _MAX_INTEGER_WIDTH else f"i{width} is wider than {_MAX_INTEGER_WIDTH} bits"
    if isinstance(kind, VectorType):
        if any(extent <= 0 for extent in kind.get_shape()):
            return f"{kind} has an extent that is not positive"
        if prod(kind.get_shape()) > _MAX_VECTOR_ELEMENTS:
            return f"{kind} has more than {_MAX_VECTOR_ELEMENTS} elements"
        return _wrong_element(kind, kind.element_type, _SHAPED_OR_FUNCTION)
    if isinstance(kind, TensorType | MemRefType):
        shape = kind.get_shape()
        if len(shape) > _MAX_RANK:
            return f"a {kind.name} has rank {len(shape)}, more than {_MAX_RANK}"
        if prod(extent if extent > 0 else 1 for extent in shape) > _MAX_ELEMENTS:
            return f"{kind} holds more elements than can be addressed"
    if isinstance(kind, TensorType):
        return _wrong_element(kind, kind.element_type, _SHAPED_OR_FUNCTION)
    if isinstance(kind, MemRefType):
        rank = len(kind.get_shape())
        layout = kind.layout
        if isinstance(layout, StridedLayoutAttr) and len(layout.strides) != rank:
            return f"{kind} has rank {rank} but {len(layout.strides)} strides"
        if isinstance(layout, AffineMapAttr) and layout.data.num_dims != rank:
            return f"{kind} has rank {rank} but a layout of {layout.data.num_dims} dims"
        return _wrong_element(kind, kind.element_type, (TensorType, UnrankedTensorType, FunctionType))
    return None


_SHAPED_OR_FUNCTION = (TensorType, UnrankedTensorType, MemRefType, UnrankedMemRefType, FunctionType)


def _wrong_element(kind: Attribute, element: Attribute, forbidden: tuple[type, ...]) -> str | None:
    if isinstance(element, forbidden) or (isinstance(kind, VectorType) and isinstance(element, VectorType)):
        return f"{kind} cannot hold elements of type {element}"
    return _wrong_type(element)


# Rules of single ops: None, or what is wrong

_Rule = Callable[[Any], str | None]


def _types(values: Sequence[SSAValue]) -> list[Attribute]:
    return [value.type for value in values]


def _differ(what: str, got: Sequence[Attribute], want: Sequence[Attribute]) -> str | None:
    if len(got) != len(want):
        return f"has {len(got)} {what}, wanted {len(want)}"
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        if a != b:
            return f"{what} {index} is {a}, wanted {b}"
    return None


def _branch(op: Any) -> str | None:
    (target,) = op.successors
    return _differ("branch arguments", _types(op.operands), target.arg_types)


def _conditional_branch(op: Any) -> str | None:
    segments = [int(size) for size in op.properties["operandSegmentSizes"].get_values()]
    start = segments[0]
    for target, size in zip(op.successors, segments[1:], strict=True):
        why = _differ("branch arguments", _types(op.operands[start : start + size]), target.arg_types)
        if why is not None:
            return why
        start += size
    return None


def _while(op: Any) -> str | None:
    before, after = op.before_region.block, op.after_region.block
    forwarded = _types(before.last_op.operands[1:])
    return (
        _differ("arguments of the first region", before.arg_types, _types(op.operands))
        or _differ("forwarded values", forwarded, after.arg_types)
        or _differ("results", op.result_types, forwarded)
        or _differ("yielded values", _types(after.last_op.operands), before.arg_types)
    )


def _compare(bound: int) -> _Rule:
    def rule(op: Any) -> str | None:
        value = op.predicate.value.data
        return None if 0 <= value < bound else f"predicate {value} must be 0 to {bound - 1}"

    return rule


def _indices(shaped: str) -> _Rule:
    def rule(op: Any) -> str | None:
        rank = len(getattr(op, shaped).type.get_shape())
        return None if len(op.indices) == rank else f"has {len(op.indices)} indices for rank {rank}"

    return rule


def _dim(op: Any) -> str | None:
    rank = len(op.source.type.get_shape()) if hasattr(op.source.type, "get_shape") else None
    owner = op.index.owner
    value = (
        owner.properties.get("value")
        if isinstance(owner, Operation) and owner.name == "arith.constant"
        else None
    )
    if rank is None or not isinstance(value, IntegerAttr) or 0 <= value.value.data < rank:
        return None
    return f"has no axis {value.value.data}: its operand has rank {rank}"


def _dynamic_sizes(op: Any) -> str | None:
    (result,) = op.results
    want = sum(extent == DYNAMIC_INDEX for extent in result.type.get_shape())
    return None if len(op.dynamic_sizes) == want else f"has {len(op.dynamic_sizes)} sizes, wanted {want}"


def _from_elements(op: Any) -> str | None:
    count = 1
    for extent in op.result.type.get_shape():
        if extent == DYNAMIC_INDEX:
            return f"result {op.result.type} must have static extents"
        count *= extent
    return None if len(op.elements) == count else f"has {len(op.elements)} elements, wanted {count}"


def _slice(whole: str, part: str, ranks_agree: bool = False) -> _Rule:
    """Rules of the ops with offsets, sizes and strides: `part` is the slice of `whole`."""

    def rule(op: Any) -> str | None:
        shape, sliced = getattr(op, whole).type.get_shape(), getattr(op, part).type.get_shape()
        offsets, sizes, strides = (
            [int(value) for value in getattr(op, f"static_{name}").get_values()]
            for name in ("offsets", "sizes", "strides")
        )
        for name, values in (("offsets", offsets), ("sizes", sizes), ("strides", strides)):
            if len(values) != len(shape):
                return f"has {len(values)} {name} for rank {len(shape)}"
            given, dynamic = len(getattr(op, name)), values.count(DYNAMIC_INDEX)
            if given != dynamic:
                return f"has {given} dynamic {name}, wanted {dynamic}"
        for axis, (offset, size, stride) in enumerate(zip(offsets, sizes, strides, strict=True)):
            known = DYNAMIC_INDEX not in (offset, size, stride, shape[axis])
            if (size != DYNAMIC_INDEX and size < 0) or (offset != DYNAMIC_INDEX and offset < 0):
                return f"axis {axis}: offset {offset} and size {size} must not be negative"
            if known and size > 0 and offset + (size - 1) * stride >= shape[axis]:
                return (
                    f"axis {axis}: element {offset + (size - 1) * stride} of the slice is outside the"
                    f" extent {shape[axis]}"
                )
        # A dropped axis has size 1; what is left keeps its order.
        left = list(sliced)
        for size in sizes:
            if left and left[0] == size:
                left.pop(0)
            elif size != 1:
                return f"slice of sizes {_shape(sizes)} cannot have the extents {_shape(sliced)}"
        return f"slice of sizes {_shape(sizes)} cannot have the extents {_shape(sliced)}" if left else None

    return rule


def _pad(op: Any) -> str | None:
    """Each static extent of the result is the source's with its padding; the padding is of the element type."""
    source, result = op.source.type.get_shape(), op.result.type.get_shape()
    low, high = ([int(n) for n in getattr(op, f"static_{side}").get_values()] for side in ("low", "high"))
    if not len(low) == len(high) == len(source) == len(result):
        return f"pads {op.source.type} to {op.result.type}: the ranks differ"
    for side, given, sizes in (("low", op.low, low), ("high", op.high, high)):
        if len(given) != sizes.count(DYNAMIC_INDEX):
            return f"has {len(given)} {side} paddings that the run knows, wanted {sizes.count(DYNAMIC_INDEX)}"
    for axis, (extent, before, after, padded) in enumerate(zip(source, low, high, result, strict=True)):
        if DYNAMIC_INDEX not in (extent, before, after, padded) and extent + before + after != padded:
            return f"axis {axis}: {before} + {extent} + {after} elements cannot have the extent {padded}"
    value = op.region.block.last_op.operands
    return _differ("yielded values", _types(value), [op.result.type.element_type])


def _get_global(op: Any, symbols: Mapping[str, Operation]) -> str | None:
    name = op.properties["name"].string_value()
    if (found := symbols.get(name)) is None:
        return f"@{name} is not defined"
    kind = found.properties.get("type") if found.name == "memref.global" else None
    return None if kind is None else _differ("results", op.result_types, [kind])


def _shape(extents: Sequence[int]) -> str:
    return "x".join("?" if extent == DYNAMIC_INDEX else str(extent) for extent in extents) or "()"


def _element_type(kind: Attribute) -> Attribute:
    return kind.element_type if isinstance(kind, TensorType | MemRefType | VectorType) else kind


def _generic(op: Any) -> str | None:
    block = op.body.block
    want = [_element_type(operand.type) for operand in op.operands]
    outputs = [_element_type(operand.type) for operand in op.outputs]
    if (why := _differ("arguments of the body", block.arg_types, want)) is not None:
        return why
    if (why := _differ("yielded values", _types(block.last_op.operands), outputs)) is not None:
        return why
    dims = len(op.iterator_types)
    schedule = op.attributes.get("schedule")
    for sizes in (getattr(schedule, "parallel_sizes", ()), getattr(schedule, "vector_sizes", ())):
        if sizes and len(sizes) != dims:
            return f"its schedule speaks of {len(sizes)} dims, it has {dims}"
    maps = [entry.data for entry in op.indexing_maps]
    if len(maps) != len(op.operands):
        return f"has {len(maps)} indexing maps for {len(op.operands)} operands"
    for index, (mapping, operand) in enumerate(zip(maps, op.operands, strict=True)):
        rank = len(operand.type.get_shape()) if hasattr(operand.type, "get_shape") else 0
        if mapping.num_dims != dims or mapping.num_symbols:
            return f"indexing map {index} has {mapping.num_dims} dims, wanted {dims} as iterator types"
        if len(mapping.results) != rank:
            return f"indexing map {index} has {len(mapping.results)} results, its operand rank {rank}"
    tensors = [operand.type for operand in op.outputs if isinstance(operand.type, TensorType)]
    return _differ("results", op.result_types, tensors)


def _fill(op: Any) -> str | None:
    for value, output in zip(op.inputs, op.outputs, strict=False):
        if value.type != _element_type(output.type):
            return f"fills elements of type {_element_type(output.type)} with a {value.type}"
    tensors = [output.type for output in op.outputs if isinstance(output.type, TensorType)]
    return _differ("results", op.result_types, tensors)


def _llvm_call(op: Any, symbols: Mapping[str, Operation]) -> str | None:
    if op.callee is None:
        return None
    function: Any = symbols.get(op.callee.string_value())
    if function is None:
        return f"@{op.callee.string_value()} is not defined"
    kind = getattr(function, "function_type", None)
    if function.name != "llvm.func" or kind is None:
        return f"@{op.callee.string_value()} is not an llvm.func"
    inputs, arguments = list(kind.inputs), _types(op.args)
    if kind.is_variadic:
        arguments = arguments[: len(inputs)]
    outputs = [] if kind.output.name == "llvm.void" else [kind.output]
    return _differ("arguments", arguments, inputs) or _differ("results", op.result_types, outputs)


def _llvm_return(op: Any) -> str | None:
    function = op.parent_op()
    if function is None or function.name != "llvm.func":
        return None
    output = function.function_type.output
    return _differ("returned values", _types(op.operands), [] if output.name == "llvm.void" else [output])


_RULES: dict[str, _Rule] = {
    "arith.cmpf": _compare(16),
    "arith.cmpi": _compare(10),
    "cf.br": _branch,
    "cf.cond_br": _conditional_branch,
    "linalg.fill": _fill,
    "linalg.generic": _generic,
    "llvm.br": _branch,
    "llvm.cond_br": _conditional_branch,
    "llvm.return": _llvm_return,
    "memref.alloc": _dynamic_sizes,
    "memref.alloca": _dynamic_sizes,
    "memref.dim": _dim,
    "memref.load": _indices("memref"),
    "memref.store": _indices("memref"),
    "memref.subview": _slice("source", "result"),
    "scf.while": _while,
    "tensor.dim": _dim,
    "tensor.empty": _dynamic_sizes,
    "tensor.extract": _indices("tensor"),
    "tensor.extract_slice": _slice("source", "result"),
    "tensor.from_elements": _from_elements,
    "tensor.insert": _indices("dest"),
    "tensor.insert_slice": _slice("dest", "source"),
    "tensor.pad": _pad,
    "tensor.parallel_insert_slice": _slice("dest", "source"),
}

_SYMBOL_USERS: dict[str, Callable[[Any, Mapping[str, Operation]], str | None]] = {
    "llvm.call": _llvm_call,
    "memref.get_global": _get_global,
}
"""Rules of the ops that name a symbol: the op and the symbols it can see to what is wrong."""
