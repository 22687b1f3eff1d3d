"""What the passes over the graph dialect share: emitting ops with inferred types, and one walk with rules by operator.

A rule looks at one op whose operands have been simplified already, and returns the values that take the place of its
results, or None. So a walk in program order applies most chains of rules at once, without a worklist.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import FunctionType, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import Rewriter
from xdsl.traits import is_side_effect_free

from stepwell.dialects.graph import (
    ONNX_NAMES,
    STRING,
    ConstantOp,
    Dim,
    Expr,
    GraphOp,
    dims_of,
    numpy_dtype,
    tensor_type,
)
from stepwell.dialects.graph.shape import substitute, symbols_of
from stepwell.resources import constant_attr, value_of
from stepwell.rewriting import is_logging, may_rewrite, note_rewrite


class Emitter:
    """Makes ops in front of an op, with its location; equal small constants are made once a block."""

    def __init__(self, ctx: Context):
        self.ctx = ctx
        self.anchor: Operation | None = None
        self._values: dict[Attribute, np.ndarray] = {}

    def at(self, anchor: Operation) -> "Emitter":
        self.anchor = anchor
        return self

    def emit(self, name: str, *operands: SSAValue | None, outputs: Any = None, **attributes: Any) -> Any:
        """The op of the ONNX operator `name`, inserted at the anchor."""
        assert self.anchor is not None and self.anchor.parent is not None
        op = ONNX_NAMES[name].build(operands, attributes, outputs=outputs)
        self.insert(op)
        return op

    def insert(self, op: Operation) -> None:
        """Put a new op in front of the anchor."""
        assert self.anchor is not None and self.anchor.parent is not None
        op.location = self.anchor.location
        self.anchor.parent.insert_op_before(op, self.anchor)

    def make(self, name: str, *operands: SSAValue | None, **attributes: Any) -> SSAValue:
        """The first result of `emit`."""
        return self.emit(name, *operands, **attributes).results[0]

    def constant(self, array: Any, element: Attribute | None = None) -> SSAValue:
        """A constant of the values of `array`."""
        return self.emit_constant(constant_attr(np.asarray(array), self.ctx, element))

    def emit_constant(self, attribute: Attribute) -> SSAValue:
        op = ConstantOp.build([], {"value": attribute})
        self.insert(op)
        return op.results[0]

    def attribute_constant(self, attribute: Attribute) -> SSAValue:
        """An `arith.constant` of a scalar attribute."""
        op = arith.ConstantOp(attribute)  # pyright: ignore[reportArgumentType]
        self.insert(op)
        return op.result

    def ints(self, values: Sequence[int]) -> SSAValue:
        """A constant list of int64."""
        return self.constant(np.array(list(values), np.int64))

    def scalar(self, like: SSAValue, value: Any) -> SSAValue:
        """A constant of rank 0 with the element type of `like`."""
        element = element_type(like)
        return self.constant(np.array(value).astype(numpy_dtype(element)), element)

    def value(self, value: SSAValue | None) -> np.ndarray | None:
        """The values of a constant of numbers, None for anything else."""
        if value is None or not isinstance(owner := value.owner, ConstantOp):
            return None
        if element_type(value) == STRING:
            return None
        attribute = owner.properties["value"]
        if (known := self._values.get(attribute)) is None:
            known = self._values[attribute] = value_of(attribute, self.ctx)
        return known

    def splat(self, value: SSAValue | None) -> Any:
        """The one element that every element of a constant equals, None if there is no such."""
        array = self.value(value)
        if array is None or not array.size:
            return None
        if all(stride == 0 for stride in array.strides) or array.size == 1:
            return array.reshape(-1)[0]
        return None


def element_type(value: SSAValue) -> Attribute:
    """The element type of a tensor value."""
    assert isinstance(value.type, TensorType), "only tensors have an element type"
    return value.type.element_type


def static_shape(value: SSAValue) -> list[int] | None:
    """The extents of a tensor if all are numbers."""
    if not isinstance(value.type, TensorType):
        return None
    return list(value.type.get_shape()) if value.type.has_static_shape() else None


def same_extents(a: SSAValue, b: SSAValue) -> bool:
    """Whether two tensors are known to have equal extents and element types."""
    if not isinstance(a.type, TensorType) or not isinstance(b.type, TensorType):
        return False
    return a.type.element_type == b.type.element_type and dims_of(a.type) == dims_of(b.type)


Rule = Callable[[Any, Emitter], Sequence[SSAValue | None] | None]


def functions_of(module: Operation) -> Iterator[FuncOp]:
    """The functions of a module that have a body."""
    for region in module.regions:
        for block in region.blocks:
            yield from [op for op in block.ops if isinstance(op, FuncOp) and op.body.blocks]


def apply_rules(
    module: Operation, ctx: Context, rules: Mapping[str, Sequence[Rule]], limit_walks: int = 8
) -> bool:
    """
    Apply `rules` (by ONNX operator) in program order, drop what is dead, and repeat until nothing changes.
    True if anything changed.
    """
    changed = False
    for _ in range(limit_walks):
        emitter, again = Emitter(ctx), False
        for function in functions_of(module):
            again |= _apply_in_region(function.body, emitter, rules)
            again |= remove_dead_ops(function.body)
            if again:
                update_function_type(function)
        changed |= again
        if not again:
            break
    return changed


def _apply_in_region(region: Region, emitter: Emitter, rules: Mapping[str, Sequence[Rule]]) -> bool:
    changed = False
    for block in region.blocks:
        op = block.first_op
        while op is not None:
            for inner in op.regions:
                changed |= _apply_in_region(inner, emitter, rules)
            following = op.next_op
            if isinstance(op, GraphOp):
                for rule in rules.get(op.ONNX_NAME, ()) if may_rewrite() else ():
                    before, name, location = op.prev_op, op.name, op.location
                    results = rule(op, emitter.at(op))
                    if results is None:
                        continue
                    # Look at what the rule has made, then go on behind it.
                    made = before.next_op if before is not None else block.first_op
                    if made is not op:
                        results = keep_symbols(op, results, made)
                        made = before.next_op if before is not None else block.first_op
                    replace(op, results)
                    following = made if made is not op else following
                    changed = True
                    if is_logging():
                        _update_function_around(block)
                        note_rewrite(rule.__name__, name, location)
                    break
            op = following
    return changed


def _update_function_around(block: Block) -> None:
    parent = block.parent_op()
    while parent is not None and not isinstance(parent, FuncOp):
        parent = parent.parent_op()
    if parent is not None:
        update_function_type(parent)


def set_type(value: SSAValue, type: Attribute) -> SSAValue:
    """Give `value` the type `type`; the value that then stands in its place."""
    if value.type == type:
        return value
    hint = value.name_hint
    value = Rewriter.replace_value_with_new_type(value, type)
    value.name_hint = hint
    return value


def update_function_type(function: FuncOp) -> None:
    """Make the type of `function` that of its arguments and of what it returns."""
    block = function.body.block
    last = block.last_op
    outputs = last.operand_types if isinstance(last, ReturnOp) else function.function_type.outputs
    function.properties["function_type"] = FunctionType.from_lists(
        [a.type for a in block.args], list(outputs)
    )


def keep_symbols(
    op: GraphOp, values: Sequence[SSAValue | None], made: Operation | None
) -> Sequence[SSAValue | None]:
    """Rename the symbols that the ops from `made` to `op` have defined anew to those of the results of `op`."""
    renamed: dict[str, Dim] = {}
    for result, value in zip(op.result_list(), values, strict=False):
        if result is None or value is None or result.type == value.type:
            continue
        if isinstance(result.type, TensorType) and isinstance(value.type, TensorType):
            for old, new in zip(dims_of(result.type), dims_of(value.type), strict=True):
                if isinstance(new, Expr) and new.symbol_name is not None and old != new:
                    renamed[new.symbol_name] = old
    if not renamed:
        return values
    kept = list(values)
    while made is not None and made is not op:
        for result in list(made.results):
            type = result.type
            if not isinstance(type, TensorType) or type.has_static_shape():
                continue
            dims = dims_of(type)
            if any(symbols_of(dim) & renamed.keys() for dim in dims):
                new = set_type(result, tensor_type([substitute(d, renamed) for d in dims], type.element_type))
                kept = [new if value is result else value for value in kept]
        made = made.next_op
    return kept


def replace(op: GraphOp, values: Sequence[SSAValue | None]) -> None:
    """Replace the results of `op` by `values` (those of absent results are ignored) and erase it."""
    present = [v for v, r in zip(values, op.result_list(), strict=False) if r is not None]
    assert len(present) == len(op.results), f"{op.name}: {len(present)} values for {len(op.results)} results"
    for result, value in zip(op.results, present, strict=True):
        if value is None:
            assert not result.uses, f"{op.name}: a result in use is dropped"
            continue
        if value.name_hint is None:
            value.name_hint = result.name_hint
        result.replace_all_uses_with(value)
    op.detach()
    op.erase()


def remove_dead_ops(region: Region) -> bool:
    """Erase the ops of the graph dialect whose results nobody uses; True if there were any."""
    changed = False
    for block in region.blocks:
        op = block.last_op
        while op is not None:
            before = op.prev_op
            if (
                isinstance(op, GraphOp)
                and op.results
                and not any(r.uses for r in op.results)
                and _is_pure(op)
            ):
                op.detach()
                op.erase()
                changed = True
            else:
                for inner in op.regions:
                    changed |= remove_dead_ops(inner)
            op = before
    return changed


def _is_pure(op: Operation) -> bool:
    return is_side_effect_free(op)


def blocks_of(region: Region) -> Iterator[Block]:
    """The blocks of a region and of the regions inside it, outer ones first."""
    for block in region.blocks:
        yield block
        for op in block.ops:
            for inner in op.regions:
                yield from blocks_of(inner)
