"""Delta debugging over IR: the smallest module that is still interesting.

A strategy lists its changes of a module by number; each is tried on a copy, which is kept if it verifies and the
predicate finds it interesting. Strategies are applied in turn until none makes progress. Everything is
deterministic, except that a time limit may end it early.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    BytesAttr,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    DictionaryAttr,
    FloatAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    VectorType,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import Rewriter
from xdsl.traits import IsTerminator
from xdsl.utils.exceptions import VerifyException

from stepwell.compat import StepwellContext, deep_recursion
from stepwell.execution import main_of
from stepwell.resources import constant_attr, dtype_of, value_of
from stepwell.transforms.dce import remove_dead_ops
from stepwell.verification import verify_module

Predicate = Callable[[ModuleOp, StepwellContext], bool]
"""Whether a module still shows what is looked for; it must not change the module."""

_FUNCTIONS = ("func.func", "llvm.func")
_INLINE_BYTES = 1 << 20
"""Constants of a reduced module up to this are written into its text."""


def op_count(module: Operation) -> int:
    """The ops that a reader of a reproducer has to understand: all but modules, functions and terminators."""
    return sum(
        not isinstance(op, ModuleOp) and op.name not in _FUNCTIONS and not op.has_trait(IsTerminator)
        for op in module.walk()
    )


@dataclass
class Reduction:
    """One reduction: what it tries, how much of its time is left, and what it did."""

    interesting: Predicate
    ctx: StepwellContext
    limit_s: float = 120.0
    progress: Callable[[str], None] = lambda text: None
    tried: int = 0
    kept: int = 0
    _end: float = field(default=0.0, init=False)

    def reduce(self, module: ModuleOp) -> ModuleOp:
        """The smallest module found; `module` itself stays as it is. It must be interesting."""
        self._end = time.monotonic() + self.limit_s
        best = module.clone()
        while not self.is_late:
            before = self.kept
            for strategy in STRATEGIES:
                best = self._pursue(strategy, best)
            if self.kept == before:
                break
        return best

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self._end

    def _pursue(self, strategy: "Strategy", best: ModuleOp) -> ModuleOp:
        number = 0
        while not self.is_late and number < strategy.count(best, self.ctx):
            candidate = best.clone()
            if strategy.change(candidate, number, self.ctx) and self._keeps(candidate):
                best = candidate
                self.kept += 1
                self.progress(f"{op_count(best)} ops ({strategy.name})")
                number = 0 if strategy.starts_again else number
            else:
                number += 1
        return best

    def _keeps(self, candidate: ModuleOp) -> bool:
        self.tried += 1
        try:
            with deep_recursion():
                _clean(candidate)
                verify_module(candidate)
        except VerifyException:
            return False
        return self.interesting(candidate, self.ctx)


class Strategy:
    """A kind of change, numbered over one module."""

    name = ""
    starts_again = False
    """After a success the numbers mean something else, so begin at 0."""

    def count(self, module: ModuleOp, ctx: StepwellContext) -> int:
        return len(self.places(module))

    def places(self, module: ModuleOp) -> Sequence[Any]:
        """What may be changed; a change that was kept takes at least its own place out of it."""
        raise NotImplementedError

    def change(self, module: ModuleOp, number: int, ctx: StepwellContext) -> bool:
        """Make change `number`; False if it turns out to be none."""
        try:
            return self.change_place(module, self.places(module)[number], ctx)
        except (VerifyException, ValueError, TypeError, KeyError, IndexError, NotImplementedError):
            return False  # an op that cannot be built from what it would get

    def change_place(self, module: ModuleOp, place: Any, ctx: StepwellContext) -> bool:
        raise NotImplementedError


def _clean(module: ModuleOp) -> None:
    """Drop dead ops and the functions and globals that nothing refers to."""
    remove_dead_ops(module)
    changed = True
    while changed:
        changed = False
        used = {
            name
            for op in module.walk()
            for attribute in (*op.properties.values(), *op.attributes.values())
            for name in _symbols_in(attribute)
        }
        for op in list(module.body.block.ops):
            name = op.properties.get("sym_name")
            is_entry = isinstance(name, StringAttr) and name.data in ("main", "stepwell_main")
            if isinstance(name, StringAttr) and not is_entry and name.data not in used:
                op.detach()
                op.erase()
                changed = True


def _symbols_in(attribute: Attribute) -> Iterator[str]:
    if isinstance(attribute, SymbolRefAttr):
        yield attribute.root_reference.data
    elif isinstance(attribute, ArrayAttr):
        for inner in attribute.data:
            yield from _symbols_in(inner)


def _update_type(function: Any) -> None:
    block, last = function.regions[0].blocks[0], function.regions[0].blocks[0].last_op
    old = function.properties["function_type"]
    outputs = (
        [v.type for v in last.operands] if last is not None and last.name == "func.return" else old.outputs
    )
    new = FunctionType.from_lists([a.type for a in block.args], list(outputs))
    function.properties["function_type"] = new
    for key, count in (("arg_attrs", len(block.args)), ("res_attrs", len(list(outputs)))):
        given = function.properties.get(key)
        if isinstance(given, ArrayAttr) and len(given.data) != count:
            del function.properties[key]


def _tensor_main(module: ModuleOp) -> Any | None:
    """`@main` where it is a function of tensors."""
    main = main_of(module)
    if main is None or not main.regions[0].blocks:
        return None
    return None if any(isinstance(a.type, MemRefType) for a in main.regions[0].block.args) else main


class _Truncate(Strategy):
    """Return one value from the middle of `@main`, the first that will do."""

    name = "return an earlier value"

    def places(self, module: ModuleOp) -> list[SSAValue]:
        if (main := _tensor_main(module)) is None:
            return []
        block = main.regions[0].block
        returned = list(block.last_op.operands)
        values = [v for op in block.ops for v in op.results if isinstance(v.type, TensorType)]
        if len(returned) == 1:
            if returned[0] not in values:
                return []
            values = values[: values.index(returned[0])]
        return values

    def change_place(self, module: ModuleOp, place: SSAValue, ctx: StepwellContext) -> bool:
        main = _tensor_main(module)
        assert main is not None
        main.regions[0].block.last_op.operands = [place]
        main.properties.pop("res_attrs", None)
        _update_type(main)
        return True

    def count(self, module: ModuleOp, ctx: StepwellContext) -> int:
        return len(self.places(module))


class _Cut(Strategy):
    """Take the results of an op of `@main` as arguments instead, the last op first."""

    name = "take a value as an argument"

    def places(self, module: ModuleOp) -> list[Operation]:
        if (main := _tensor_main(module)) is None:
            return []
        ops = [op for op in main.regions[0].block.ops if op.results and any(r.uses for r in op.results)]
        return [op for op in reversed(ops) if all(isinstance(r.type, TensorType) for r in op.results)]

    def change_place(self, module: ModuleOp, place: Operation, ctx: StepwellContext) -> bool:
        block = place.parent
        assert block is not None
        for result in place.results:
            if result.uses:
                argument = block.insert_arg(result.type, len(block.args))
                result.replace_all_uses_with(argument)
        main = block.parent_op()
        main.properties.pop("arg_attrs", None)  # pyright: ignore
        _update_type(main)
        return True


class _Forward(Strategy):
    """Put an operand in the place of the result that has its type."""

    name = "replace by an operand"

    def places(self, module: ModuleOp) -> list[tuple[Operation, int]]:
        return [
            (op, i)
            for op in module.walk()
            if len(op.results) == 1 and op.results[0].uses
            for i, operand in enumerate(op.operands)
            if operand.type == op.results[0].type
        ]

    def change_place(self, module: ModuleOp, place: tuple[Operation, int], ctx: StepwellContext) -> bool:
        op, index = place
        op.results[0].replace_all_uses_with(op.operands[index])
        return True


def _constant_of(type: Attribute, op: Operation, ctx: StepwellContext, of_floats: float) -> Operation | None:
    """A constant of `type`: zeros of integers, `of_floats` of floats."""
    element = type.element_type if isinstance(type, TensorType | VectorType) else type
    if not isinstance(element, AnyFloat | IntegerType | IndexType):
        return None
    number = of_floats if isinstance(element, AnyFloat) else 0
    if isinstance(type, TensorType):
        if not type.has_static_shape():
            return None
        value = constant_attr(np.full(type.get_shape(), number).astype(dtype_of(element)), ctx, element)
        if op.name.startswith("graph."):
            from stepwell.dialects.graph import ConstantOp as GraphConstantOp

            return GraphConstantOp.build([], {"value": value})
        return ConstantOp(value)  # pyright: ignore
    if isinstance(type, VectorType):
        return ConstantOp(DenseIntOrFPElementsAttr.from_list(type, [number]))  # pyright: ignore
    is_float = isinstance(element, AnyFloat)
    return ConstantOp(FloatAttr(number, element) if is_float else IntegerAttr(int(number), element))  # pyright: ignore


class _Zero(Strategy):
    """Put a constant in the place of a result: 1, or -1 where that shows the fault and 1 does not."""

    name = "replace by a constant"

    def places(self, module: ModuleOp) -> list[tuple[Operation, float]]:
        return [
            (op, number)
            for op in module.walk()
            for number in ((1.0, -1.0) if op.results and isinstance(op.results[0].type, AnyFloat) else (1.0,))
            if len(op.results) == 1
            and op.results[0].uses
            and op.name not in ("arith.constant", "graph.constant", "tensor.empty", "linalg.fill")
            and not op.name.startswith("llvm.")
        ]

    def change_place(self, module: ModuleOp, place: tuple[Operation, float], ctx: StepwellContext) -> bool:
        op, number = place
        constant = _constant_of(op.results[0].type, op, ctx, number)
        if constant is None or op.parent is None:
            return False
        op.parent.insert_op_before(constant, op)
        op.results[0].replace_all_uses_with(constant.results[0])
        return True


class _Erase(Strategy):
    """Leave out an op without results, or one that is kept only for its effect."""

    name = "leave out an op"

    def places(self, module: ModuleOp) -> list[Operation]:
        return [
            op
            for op in module.walk()
            if not any(r.uses for r in op.results)
            and not op.has_trait(IsTerminator)
            and op.name not in (*_FUNCTIONS, "builtin.module")
        ]

    def change_place(self, module: ModuleOp, place: Operation, ctx: StepwellContext) -> bool:
        place.detach()
        place.erase()
        return True


class _Unwrap(Strategy):
    """Put one iteration in the place of a loop, one side in the place of a branch."""

    name = "unwrap a region"

    def places(self, module: ModuleOp) -> list[tuple[Operation, int]]:
        found = []
        for op in module.walk():
            if op.name == "scf.for":
                found.append((op, 0))
            elif op.name == "scf.if":
                found += [(op, i) for i, region in enumerate(op.regions) if region.blocks]
        return found

    def change_place(self, module: ModuleOp, place: tuple[Operation, int], ctx: StepwellContext) -> bool:
        op, index = place
        block: Block = op.regions[index].block
        given = [op.operands[0], *op.operands[3:]] if op.name == "scf.for" else []
        for argument, value in zip(block.args, given, strict=True):
            argument.replace_all_uses_with(value)
        last, parent = block.last_op, op.parent
        assert parent is not None
        results: list[SSAValue] = []
        if last is not None and last.has_trait(IsTerminator):
            results = list(last.operands)
            last.detach()
            last.erase()
        for inner in list(block.ops):
            inner.detach()
            parent.insert_op_before(inner, op)
        Rewriter.replace_op(op, [], results)
        return True


class _DropArgument(Strategy):
    """Leave out an argument that nothing reads, and a result of `@main`."""

    name = "leave out an argument"

    def places(self, module: ModuleOp) -> list[tuple[Any, int]]:
        return [
            (op, argument.index)
            for op in module.body.block.ops
            if op.name == "func.func" and op.regions[0].blocks
            for argument in op.regions[0].block.args
            if not argument.uses
        ]

    def change_place(self, module: ModuleOp, place: tuple[Any, int], ctx: StepwellContext) -> bool:
        function, index = place
        block = function.regions[0].block
        name = function.properties["sym_name"].data
        for op in list(module.walk()):
            callee = op.properties.get("callee")
            if isinstance(callee, SymbolRefAttr) and callee.root_reference.data == name:
                if op.name != "func.call":
                    return False
                op.operands = [v for i, v in enumerate(op.operands) if i != index]
        attributes = function.properties.get("arg_attrs")
        if isinstance(attributes, ArrayAttr):
            kept = [a for i, a in enumerate(attributes.data) if i != index]
            function.properties["arg_attrs"] = ArrayAttr(kept)
        block.erase_arg(block.args[index])
        _update_type(function)
        return True


class _ShrinkExtents(Strategy):
    """Make every extent N of the module an M that is smaller, constants and static sizes with it."""

    name = "make an extent smaller"
    starts_again = True

    def places(self, module: ModuleOp) -> list[tuple[int, int]]:
        extents: set[int] = set()
        for op in module.walk():
            for value in _values_of(op):
                if isinstance(value.type, TensorType | MemRefType):
                    extents.update(n for n in value.type.get_shape() if n > 1)
        return [
            (n, m)
            for n in sorted(extents, reverse=True)
            for m in sorted({1, 2, n // 4, n // 2, n - n % 16, n - 1})
            if 0 < m < n
        ]

    def change_place(self, module: ModuleOp, place: tuple[int, int], ctx: StepwellContext) -> bool:
        old, new = place
        before = _total_extent(module)
        for op in module.walk():
            for group in (op.properties, op.attributes):
                for name, attribute in group.items():
                    group[name] = _resized(attribute, old, new, ctx)
            for value in _values_of(op):
                if (type := _resized_type(value.type, old, new)) != value.type:
                    Rewriter.replace_value_with_new_type(value, type)
        if any(op.name.startswith("graph.") for op in module.walk()):
            _infer_again(module)
        main = main_of(module)
        if main is not None:
            _update_type(main)
        return _total_extent(module) < before  # inference may bring the old extent back


def _total_extent(module: ModuleOp) -> int:
    types = [v.type for op in module.walk() for v in _values_of(op)]
    return sum(sum(t.get_shape()) for t in types if isinstance(t, TensorType | MemRefType))


def _values_of(op: Operation) -> list[SSAValue]:
    """The results of an op and the arguments of its blocks."""
    return [*op.results, *(a for r in op.regions for b in r.blocks for a in b.args)]


def _resized_type(type: Attribute, old: int, new: int) -> Attribute:
    match type:
        case TensorType():
            shape = [new if n == old else n for n in type.get_shape()]
            return TensorType(type.element_type, shape, type.encoding)
        case MemRefType():
            shape = [new if n == old else n for n in type.get_shape()]
            return MemRefType(type.element_type, shape, type.layout, type.memory_space)
        case FunctionType():
            inputs = [_resized_type(t, old, new) for t in type.inputs]
            return FunctionType.from_lists(inputs, [_resized_type(t, old, new) for t in type.outputs])
    return type


def _resized(attribute: Attribute, old: int, new: int, ctx: StepwellContext) -> Attribute:
    match attribute:
        case DenseIntOrFPElementsAttr() | DenseResourceAttr():
            type = attribute.type
            if not isinstance(type, TensorType):
                return attribute
            array = value_of(attribute, ctx)
            if array.ndim == 1 and array.dtype == np.int64 and old in array:  # a list of extents
                array = np.where(array == old, new, array)
            array = array[tuple(slice(new) if n == old else slice(None) for n in array.shape)]
            return constant_attr(np.ascontiguousarray(array), ctx, type.element_type)
        case DenseArrayBase() if attribute.elt_type == i64:
            values = [new if n == old else n for n in attribute.get_values()]  # pyright: ignore
            return DenseArrayBase.from_list(i64, values)  # pyright: ignore
        case IntegerAttr() if isinstance(attribute.type, IndexType) and attribute.value.data == old:
            return IntegerAttr(new, attribute.type)
    return _resized_type(attribute, old, new)


def _infer_again(module: ModuleOp) -> None:
    """The types of graph ops as they follow from those of the arguments."""
    from stepwell.dialects.graph import GraphOp

    for op in list(module.walk()):
        if isinstance(op, GraphOp) and not op.regions:
            for result, type in zip(list(op.results), op.infer_types(), strict=True):
                if result.type != type:
                    Rewriter.replace_value_with_new_type(result, type)


class _SimplifyConstants(Strategy):
    """Put one number in the place of the values of a constant."""

    name = "simplify a constant"

    def places(self, module: ModuleOp) -> list[tuple[Operation, str]]:
        return [
            (op, name)
            for op in module.walk()
            for name, value in op.properties.items()
            if isinstance(value, DenseResourceAttr) or _has_many_values(value)
        ]

    def change_place(self, module: ModuleOp, place: tuple[Operation, str], ctx: StepwellContext) -> bool:
        op, name = place
        attribute: Any = op.properties[name]
        array = value_of(attribute, ctx)
        if not array.size:
            return False
        one = np.broadcast_to(array.reshape(-1)[:1].reshape((1,) * array.ndim), array.shape)
        if np.array_equal(one, array):
            return False
        type = attribute.type
        if isinstance(type, VectorType):
            number = one.reshape(-1)[0].item()
            op.properties[name] = DenseIntOrFPElementsAttr.from_list(type, [number])  # pyright: ignore
        else:
            op.properties[name] = constant_attr(one, ctx, type.element_type)
        return True


def _has_many_values(value: Attribute) -> bool:
    if not isinstance(value, DenseIntOrFPElementsAttr):
        return False
    data = value.data.data
    width = value.get_element_type().compile_time_size
    return data != data[:width] * (len(data) // max(width, 1))


class _DropAttributes(Strategy):
    """Leave out attributes that only describe."""

    name = "leave out an attribute"

    def places(self, module: ModuleOp) -> list[tuple[Operation, str, bool]]:
        found: list[tuple[Operation, str, bool]] = []
        for op in module.walk():
            found += [(op, name, False) for name in op.attributes]
            if op.name == "func.func":
                found += [(op, name, True) for name in ("arg_attrs", "res_attrs") if name in op.properties]
        return found

    def change_place(
        self, module: ModuleOp, place: tuple[Operation, str, bool], ctx: StepwellContext
    ) -> bool:
        op, name, is_property = place
        del (op.properties if is_property else op.attributes)[name]
        return True


class _SettleDims(Strategy):
    """Give every unknown extent of a graph a number."""

    name = "settle the unknown extents"

    def places(self, module: ModuleOp) -> list[int]:
        main = _tensor_main(module)
        if main is None or not any(op.name.startswith("graph.") for op in module.walk()):
            return []
        types = [a.type for a in main.regions[0].block.args]
        return [2, 3] if any(isinstance(t, TensorType) and not t.has_static_shape() for t in types) else []

    def change_place(self, module: ModuleOp, place: int, ctx: StepwellContext) -> bool:
        main = _tensor_main(module)
        assert main is not None
        for argument in list(main.regions[0].block.args):
            type = argument.type
            if isinstance(type, TensorType) and not type.has_static_shape():
                shape = [place if n < 0 else n for n in type.get_shape()]
                Rewriter.replace_value_with_new_type(argument, TensorType(type.element_type, shape))
        _infer_again(module)
        _update_type(main)
        return True


STRATEGIES: tuple[Strategy, ...] = (
    _Truncate(), _Cut(), _SettleDims(), _Forward(), _Zero(), _Erase(), _Unwrap(), _DropArgument(), _ShrinkExtents(),
    _SimplifyConstants(), _DropAttributes(),
)  # fmt: skip
"""In the order in which they are tried: what removes most comes first."""


def inline_constants(module: ModuleOp, ctx: StepwellContext) -> None:
    """Write the values of resources into the text of the module, as far as they are small together."""
    left = _INLINE_BYTES
    for op in module.walk():
        for name, value in list(op.properties.items()):
            if isinstance(value, DenseResourceAttr):
                array = value_of(value, ctx)
                left -= array.nbytes
                if left < 0:
                    return
                data = array.astype(np.uint8) * np.uint8(255) if array.dtype == np.bool_ else array
                data = BytesAttr(np.ascontiguousarray(data).tobytes())
                op.properties[name] = DenseIntOrFPElementsAttr(value.type, data)  # pyright: ignore


def drop_empty_attributes(module: ModuleOp) -> None:
    """Leave out lists of attributes of arguments and results that are all empty."""
    for op in module.walk():
        for name in ("arg_attrs", "res_attrs"):
            given = op.properties.get(name)
            if isinstance(given, ArrayAttr) and all(
                isinstance(entry, DictionaryAttr) and not entry.data for entry in given.data
            ):
                del op.properties[name]
