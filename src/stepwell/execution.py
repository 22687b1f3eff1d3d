"""Running a module at whatever level it is: the interpreters behind one call, and the same model in float64."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from math import inf
from time import process_time
from typing import Any

import numpy as np
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    Float32Type,
    FloatAttr,
    FunctionType,
    ModuleOp,
    TensorType,
    f64,
)
from xdsl.ir import Attribute, Operation, ParametrizedAttribute, SSAValue
from xdsl.rewriter import Rewriter

from stepwell.comparison import random_array
from stepwell.compat import StepwellContext
from stepwell.diagnostics import compile_error
from stepwell.interpreter import Machine, interpret_llvm, run_main
from stepwell.resources import constant_attr, dtype_of, value_of

Observer = Callable[[Machine, Operation], None]
"""Sees every op that ran, and its results in the machine."""


@dataclass(frozen=True)
class Interface:
    """The types of a model's inputs and outputs, which the llvm level no longer has."""

    arguments: tuple[Attribute, ...]
    results: tuple[Attribute, ...]

    def random(self, seed: int, dim: int = 3) -> list[Any]:
        """Seeded values for the inputs; unknown extents are `dim`, equal symbols of one extent."""
        rng = np.random.default_rng(seed)
        values = []
        for type in self.arguments:
            if not hasattr(type, "get_shape"):
                raise NotImplementedError(f"no random values of type {type}")
            shape = [dim if extent < 0 else extent for extent in type.get_shape()]  # pyright: ignore
            values.append(random_array(rng, shape, dtype_of(type.get_element_type())))  # pyright: ignore
        return values


def main_of(module: ModuleOp) -> Any | None:
    """The function `@main`, above the llvm level."""
    for op in module.body.block.ops:
        if op.name == "func.func" and op.properties["sym_name"].data == "main":  # pyright: ignore
            return op
    return None


def interface_of(module: ModuleOp, otherwise: Interface | None = None) -> Interface:
    """The interface of `@main`; of a module at the llvm level it is `otherwise`."""
    main = main_of(module)
    if main is not None and main.regions[0].blocks:
        types = main.properties["function_type"]
        return Interface(tuple(types.inputs), tuple(types.outputs))
    if otherwise is None:
        raise compile_error(module, "there is no function @main to run", "give a module above the llvm level")
    return otherwise


def run_module(
    module: ModuleOp,
    ctx: StepwellContext,
    inputs: Sequence[Any],
    interface: Interface | None = None,
    observer: Observer | None = None,
    fuel: float = inf,
    seconds: float = inf,
) -> list[Any]:
    """
    What `module` gives for `inputs`, by the interpreter of its level; `OutOfFuel` after `fuel` blocks or `seconds` of
    processor time.
    """
    deadline = process_time() + seconds
    if main_of(module) is None:
        known = interface_of(module, interface)
        return list(interpret_llvm(module, inputs, ctx, known.arguments, known.results, fuel, deadline))
    machine = Machine(module, ctx)
    machine.observer, machine.fuel, machine.deadline = observer, fuel, deadline
    # A wrong decision about buffers may write to an input.
    return run_main(machine, [np.array(x) if isinstance(x, np.ndarray) else x for x in inputs])


def through_ll(module: ModuleOp, ctx: StepwellContext) -> ModuleOp:
    """The module that the textual LLVM IR of `module` (at the llvm level) stands for, read back."""
    from stepwell.backends.llvm_ir import parse_llvm_ir, print_llvm_ir

    stream = StringIO()
    print_llvm_ir(module, stream)
    return parse_llvm_ir(stream.getvalue(), ctx, "<printed>")


# --- in float64 ------------------------------------------------------------------------------------


def widened(module: ModuleOp, ctx: StepwellContext) -> tuple[ModuleOp, StepwellContext]:
    """A copy of `module`, at a level of tensors, with every f32 an f64, and a Context with its constants."""
    wide, other = module.clone(), ctx.clone()
    other.resources = ctx.resources.copy()
    for op in wide.walk():
        for group in (op.properties, op.attributes):
            for name, attribute in group.items():
                group[name] = _wide_attribute(attribute, other)
        for block in (block for region in op.regions for block in region.blocks):
            _widen_values(block.args)
        _widen_values(op.results)
    return wide, other


def _widen_values(values: Iterable[SSAValue]) -> None:
    for value in list(values):
        if (type := _wide_type(value.type)) != value.type:
            Rewriter.replace_value_with_new_type(value, type)


def _wide_type(type: Attribute) -> Attribute:
    match type:
        case Float32Type():
            return f64
        case TensorType():
            if type.element_type == f64 or not isinstance(type.element_type, Float32Type):
                return type
            return TensorType(f64, type.shape, type.encoding)
        case FunctionType():
            inputs = [_wide_type(t) for t in type.inputs]
            return FunctionType.from_lists(inputs, [_wide_type(t) for t in type.outputs])
        case ParametrizedAttribute() if type.name in ("graph.sequence", "graph.optional", "graph.map"):
            return type.new([_wide_type(t) for t in type.parameters])
    return type


def _wide_attribute(attribute: Attribute, ctx: StepwellContext) -> Attribute:
    if isinstance(attribute, DenseResourceAttr | DenseIntOrFPElementsAttr):
        type = attribute.type
        if isinstance(type, TensorType) and isinstance(type.element_type, Float32Type):
            return constant_attr(value_of(attribute, ctx).astype(np.float64), ctx)
        return attribute
    if isinstance(attribute, FloatAttr) and isinstance(attribute.type, Float32Type):
        return FloatAttr(attribute.value.data, f64)
    return _wide_type(attribute)


def run_in_float64(
    module: ModuleOp,
    ctx: StepwellContext,
    inputs: Sequence[Any],
    observer: Observer | None = None,
    fuel: float = inf,
) -> list[Any]:
    """What `module` gives where every f32 is an f64: the judge of those who compute it in f32."""
    wide, other = widened(module, ctx)
    given = [x.astype(np.float64) if getattr(x, "dtype", None) == np.float32 else x for x in inputs]
    return run_module(wide, other, given, observer=observer, fuel=fuel)
