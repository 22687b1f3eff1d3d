"""What the generated patterns call: tests of operands, ops to make, and putting values in the place of results."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    AnyFloat,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    Signedness,
    TensorType,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from stepwell.dialects.graph import GraphOp, dims_of
from stepwell.transforms.graph.emitter import Emitter, keep_symbols


class Site(Emitter):
    """Where a pattern works: makes ops in front of the matched one, and tells the driver of them."""

    def __init__(self, ctx: Context):
        super().__init__(ctx)
        self.rewriter: PatternRewriter | None = None
        self.first: Operation | None = None
        """The first op that was made for the matched one."""

    def begin(self, op: Operation, rewriter: PatternRewriter) -> None:
        """From here on ops are made in front of `op`."""
        self.anchor, self.rewriter, self.first = op, rewriter, None

    def insert(self, op: Operation) -> None:
        assert self.rewriter is not None, "a rule makes ops on its right side only"
        self.first = self.first or op
        self.rewriter.insert(op)

    def apply(
        self,
        op_class: type[Operation],
        operands: Sequence[SSAValue | None],
        attributes: dict[str, Any],
        type: Attribute | None = None,
    ) -> SSAValue:
        """The first result of a new op; its type is inferred for ops of the graph."""
        op: Any
        if issubclass(op_class, GraphOp):
            op = op_class.build(operands, attributes)
            if type is not None and op.results[0].type != type:
                op.results = op.results[:0]
                op.set_results([type])
        else:
            assert type is not None, f"{op_class.name} does not infer its type"
            present = [value for value in operands if value is not None]
            properties = {key: value for key, value in attributes.items() if value is not None}
            op = op_class.create(operands=present, result_types=[type], properties=properties)
        self.insert(op)
        return op.results[0]

    def replace(self, values: Sequence[SSAValue | None]) -> None:
        """Put `values` in the place of the results of the matched op, which goes."""
        op, rewriter = self.anchor, self.rewriter
        assert op is not None and rewriter is not None, "a rule has matched"
        present = list(values)
        if isinstance(op, GraphOp):
            if self.first is not None:
                present = list(keep_symbols(op, present, self.first))
            listed = op.result_list()
            present = [value for value, result in zip(present, listed, strict=False) if result is not None]
        rewriter.replace(op, [], present)

    # The left side

    def number(self, value: SSAValue | None) -> Any:
        """The number that a constant is, or that all its elements are; None for anything else."""
        if value is None:
            return None
        owner = value.owner
        if isinstance(owner, GraphOp):
            return self.splat(value)
        if isinstance(owner, arith.ConstantOp):
            attribute = owner.value
            if isinstance(attribute, IntegerAttr | FloatAttr):
                return attribute.value.data
            if isinstance(attribute, DenseIntOrFPElementsAttr) and attribute.is_splat():
                return attribute.get_values()[0]
        return None

    def is_number(self, value: SSAValue | None, *wanted: int | float | bool) -> bool:
        """
        Whether a constant equals one of `wanted`: `1` an integer, `1.0` a float, `true` a truth value. -0.0 is not 0.0.
        """
        found = self.number(value)
        if found is None:
            return False
        assert value is not None
        kind = value.type.element_type if isinstance(value.type, TensorType) else value.type
        for number in wanted:
            if isinstance(number, bool):
                if isinstance(kind, IntegerType) and kind.width.data == 1 and bool(found) == number:
                    return True
            elif isinstance(number, int):
                # Whether 1 is true or -1 is a matter of taste, so of truth values only 0 is a number.
                if isinstance(kind, IntegerType | IndexType) and int(found) == number:
                    if not number or not _is_bool(kind):
                        return True
            elif isinstance(kind, AnyFloat) and float(found) == number:
                if np.signbit(np.float64(float(found))) == np.signbit(number):
                    return True
        return False


class Rule(RewritePattern):
    """The base of generated patterns: `site` reads constants and makes ops."""

    RULE: ClassVar[str] = ""
    """The name of the rule in its file."""
    op_class: ClassVar[Any] = None
    benefit: ClassVar[int] = 1

    def __init__(self, site: Site):
        self.site = site


def _is_bool(kind: Attribute) -> bool:
    return isinstance(kind, IntegerType) and kind.width.data == 1


def _is_unsigned(kind: Attribute) -> bool:
    return isinstance(kind, IntegerType) and kind.signedness.data == Signedness.UNSIGNED


def is_kind(type: Attribute, kind: str) -> bool:
    """Whether a scalar or element type is of a kind: `int`, `uint`, `integer`, `float`, `bool`, `number`, or its own text."""
    if kind == "any":
        return True
    if kind == "int":
        return isinstance(type, IntegerType) and not _is_bool(type)
    if kind == "uint":
        return _is_unsigned(type)
    if kind == "integer":
        return isinstance(type, IntegerType | IndexType)
    if kind == "float":
        return isinstance(type, AnyFloat)
    if kind == "bool":
        return _is_bool(type)
    if kind == "number":
        return isinstance(type, IntegerType | AnyFloat) and not _is_bool(type)
    return str(type) == kind


def is_tensor(value: SSAValue, shape: tuple[int | None, ...] | None, kind: str) -> bool:
    """Whether a value is a tensor of these extents (None: any; no tuple: of any rank) and kind of element."""
    type = value.type
    if not isinstance(type, TensorType) or not is_kind(type.element_type, kind):
        return False
    if shape is None:
        return True
    found = type.get_shape()
    return len(found) == len(shape) and all(
        want is None or got == want for got, want in zip(found, shape, strict=True)
    )


def stands_for(value: SSAValue, op: Operation, index: int) -> bool:
    """Whether `value` has the type of result `index` of `op`, or the one that the op infers for it."""
    if index >= len(op.results) or value.type == op.results[index].type:
        return True
    if not isinstance(op, GraphOp):
        return False
    inferred = op.infer_types()[index]
    if inferred == value.type:
        return True
    if not isinstance(inferred, TensorType) or not isinstance(value.type, TensorType):
        return False
    return inferred.element_type == value.type.element_type and (
        dims_of(value.type) in (dims_of(inferred), dims_of(op.results[index].type))
    )
