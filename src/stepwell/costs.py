"""What the kernels of a model cost by count, and which of the user's layers each launch computes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr

from stepwell.diagnostics import layers_of

_SITE_OPERAND = 7
_KERNEL_OPERAND = 1
"""Operands of a call of `stepwell_rt_launch`."""


@dataclass(frozen=True)
class Cost:
    """
    One run of a kernel: arithmetic operations, and bytes of its arguments that it reads or writes, each
    counted once. None where extents are known at run time only.
    """

    operations: int | None
    bytes: int | None


@dataclass(frozen=True)
class Launch:
    """One launch of the host function: the kernel, the layers of the model that it computes, its cost."""

    kernel: str
    layers: tuple[str, ...]
    operations: int | None = None
    bytes: int | None = None

    def plain(self) -> dict[str, Any]:
        """The form that a library's manifest holds."""
        return asdict(self)


def operations(root: Operation) -> int | None:
    """
    Arithmetic operations of the `linalg.generic`s in `root`: iterations times the ops of the body; None where an
    extent is not known.
    """
    total = 0
    for op in root.walk():
        if isinstance(op, GenericOp):
            count = sum(inner.name.startswith(("arith.", "math.")) for inner in op.body.block.ops)
            extents = _extents(op)
            if extents is None:
                return None
            total += prod(extents) * count
    return total


def kernel_costs(module: ModuleOp) -> dict[str, Cost]:
    """The cost of each kernel of a module at "kernels", by name."""
    return {
        op.sym_name.data: Cost(operations(op), _bytes(op))
        for op in module.body.block.ops
        if isinstance(op, FuncOp) and "stepwell.kernel" in op.attributes
    }


def launches(module: ModuleOp, costs: Mapping[str, Cost]) -> list[Launch]:
    """The launches of a module at "llvm", by their number; `costs` may lack kernels."""
    found: dict[int, Launch] = {}
    for op in module.walk():
        if op.name != "llvm.call" or _callee(op) != "stepwell_rt_launch":
            continue
        site, kernel = op.operands[_SITE_OPERAND].owner, op.operands[_KERNEL_OPERAND].owner
        assert isinstance(site, Operation) and isinstance(kernel, Operation), "both are constants"
        number, symbol = site.properties["value"], kernel.properties["global_name"]
        assert isinstance(number, IntegerAttr)
        name = symbol.root_reference.data  # pyright: ignore[reportAttributeAccessIssue]
        cost = costs.get(name, Cost(None, None))
        found[number.value.data] = Launch(name, layers_of(op.location), cost.operations, cost.bytes)
    return [found[number] for number in sorted(found)]


def _callee(op: Operation) -> str:
    callee: Any = op.properties.get("callee")
    return callee.root_reference.data if callee is not None else ""


def _bytes(kernel: FuncOp) -> int | None:
    """Of arguments that are read through slices, what the slices hold; else the whole tensors."""
    total = 0
    for argument in kernel.body.block.args:
        if not isinstance(argument.type, TensorType) or not argument.uses:
            continue
        slices = [use.operation for use in argument.uses if use.operation.name == "tensor.extract_slice"]
        others = [
            use.operation
            for use in argument.uses
            if use.operation.name not in ("tensor.extract_slice", "tensor.insert_slice", "func.return")
        ]
        parts: list[SSAValue] = [argument] if others or not slices else [op.results[0] for op in slices]
        for part in parts:
            size = _size(part)
            if size is None:
                return None
            total += size
    return total


def _size(value: SSAValue) -> int | None:
    type = value.type
    assert isinstance(type, TensorType)
    shape = type.get_shape()
    width = getattr(type.element_type, "bitwidth", 64)
    return None if any(extent < 0 for extent in shape) else prod(shape) * max(1, width // 8)


def _extents(op: GenericOp) -> list[int] | None:
    """The iteration space of a `linalg.generic`, read off the dims that its maps name; None where one is dynamic."""
    found: dict[int, int] = {}
    for operand, attr in zip(op.operands, op.indexing_maps.data, strict=True):
        shape = operand.type.get_shape() if hasattr(operand.type, "get_shape") else ()  # pyright: ignore
        for expression, extent in zip(attr.data.results, shape, strict=False):
            if isinstance(expression, AffineDimExpr):
                found[expression.position] = extent
    count = len(op.iterator_types.data)
    if len(found) < count or any(extent < 0 for extent in found.values()):
        return None
    return [found[dim] for dim in range(count)]
