"""The `vector` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import DenseArrayBase, IndexType, MemRefType, TensorType, VectorType, i64
from xdsl.dialects.vector import CombiningKindAttr, CombiningKindFlag, Vector
from xdsl.ir import Dialect, SSAValue
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import NoMemoryEffect, Pure
from xdsl.utils.exceptions import VerifyException


@irdl_op_definition
class MultiReductionOp(IRDLOperation):
    """
    Combine the elements of `source` along `reduction_dims` into `acc`; the order is not fixed.
    Shapes: the result is the source without those dims, a scalar if none is left.
    Reference: MLIR `vector.multi_reduction`.
    """

    name = "vector.multi_reduction"
    _T: ClassVar = VarConstraint("T", AnyAttr())

    source = operand_def(VectorType)
    acc = operand_def(_T)
    kind = prop_def(CombiningKindAttr)
    reduction_dims = prop_def(DenseArrayBase.constr(i64))
    dest = result_def(_T)
    traits = traits_def(Pure())
    assembly_format = (
        "$kind `,` $source `,` $acc $reduction_dims attr-dict `:` type($source) `to` type($dest)"
    )
    irdl_options = (ParsePropInAttrDict(),)

    def __init__(
        self, kind: CombiningKindFlag, source: SSAValue, acc: SSAValue, reduction_dims: Sequence[int]
    ):
        super().__init__(
            operands=[source, acc],
            properties={
                "kind": CombiningKindAttr(kind),
                "reduction_dims": DenseArrayBase.from_list(i64, list(reduction_dims)),
            },
            result_types=[acc.type],
        )

    def verify_(self) -> None:
        dims = self.reduction_dims.get_values()
        assert isinstance(self.source.type, VectorType)
        kept = [d for i, d in enumerate(self.source.type.get_shape()) if i not in dims]
        got = list(self.dest.type.get_shape()) if isinstance(self.dest.type, VectorType) else []
        if got != kept:
            raise VerifyException(f"the result's shape {got} must be {kept}")
        if self.acc.type != self.dest.type:
            raise VerifyException(
                f"the accumulator {self.acc.type} must have the result's type {self.dest.type}"
            )


@irdl_op_definition
class ShapeCastOp(IRDLOperation):
    """
    The same elements in row-major order under another shape.
    Errors: shapes of different sizes. Reference: MLIR `vector.shape_cast`.
    """

    name = "vector.shape_cast"
    source = operand_def(VectorType)
    result = result_def(VectorType)
    traits = traits_def(Pure())
    assembly_format = "$source attr-dict `:` type($source) `to` type($result)"

    def __init__(self, source: SSAValue, result_type: VectorType):
        super().__init__(operands=[source], result_types=[result_type])

    def verify_(self) -> None:
        assert isinstance(self.source.type, VectorType) and isinstance(self.result.type, VectorType)
        if prod(self.source.type.get_shape()) != prod(self.result.type.get_shape()):
            raise VerifyException(f"{self.source.type} and {self.result.type} differ in size")


@irdl_op_definition
class TransposeOp(IRDLOperation):
    """
    Reorder dims: result dim `i` is source dim `permutation[i]`. Reference: MLIR `vector.transpose`.
    """

    name = "vector.transpose"
    vector = operand_def(VectorType)
    permutation = prop_def(DenseArrayBase.constr(i64))
    result = result_def(VectorType)
    traits = traits_def(Pure())
    assembly_format = "$vector `,` $permutation attr-dict `:` type($vector) `to` type($result)"

    def __init__(self, vector: SSAValue, permutation: Sequence[int]):
        assert isinstance(vector.type, VectorType)
        shape = vector.type.get_shape()
        super().__init__(
            operands=[vector],
            properties={"permutation": DenseArrayBase.from_list(i64, list(permutation))},
            result_types=[VectorType(vector.type.element_type, [shape[p] for p in permutation])],
        )

    def verify_(self) -> None:
        assert isinstance(self.vector.type, VectorType)
        permutation, shape = self.permutation.get_values(), self.vector.type.get_shape()
        if sorted(permutation) != list(range(len(shape))):
            raise VerifyException(f"{list(permutation)} must permute the {len(shape)} dims of the source")
        want = tuple(shape[p] for p in permutation)
        if self.result.type.get_shape() != want:
            raise VerifyException(f"result shape {list(self.result.type.get_shape())} must be {list(want)}")


@irdl_op_definition
class StepOp(IRDLOperation):
    """The vector `[0, 1, 2, ...]` of index. Reference: MLIR `vector.step`."""

    name = "vector.step"
    result = result_def(VectorType)
    traits = traits_def(Pure())
    assembly_format = "attr-dict `:` type($result)"

    def __init__(self, lanes: int):
        super().__init__(result_types=[VectorType(IndexType(), [lanes])])


@irdl_op_definition
class DeinterleaveOp(IRDLOperation):
    """
    The elements at even and those at odd places along the last dim, which is half as long in each result.
    Errors: a last dim of odd length. Reference: MLIR `vector.deinterleave`.
    """

    name = "vector.deinterleave"
    _T: ClassVar = VarConstraint("T", AnyAttr())

    source = operand_def(VectorType)
    res1 = result_def(_T)
    res2 = result_def(_T)
    traits = traits_def(Pure())
    assembly_format = "$source attr-dict `:` type($source) `->` type($res1)"

    def __init__(self, source: SSAValue):
        assert isinstance(source.type, VectorType)
        *outer, last = source.type.get_shape()
        half = VectorType(source.type.element_type, [*outer, last // 2])
        super().__init__(operands=[source], result_types=[half, half])

    def verify_(self) -> None:
        source, result = self.source.type, self.res1.type
        assert isinstance(source, VectorType)
        *outer, last = source.get_shape()
        if last % 2 or result != VectorType(source.element_type, [*outer, last // 2]):
            raise VerifyException(f"{result} must be {source} with a last dim half as long")


@irdl_op_definition
class GatherOp(IRDLOperation):
    """
    Lane `i` is the element of `base` at `offsets` with `indices[i]` added to the last one where the mask
    holds, else `pass_thru`.
    Errors: a masked-in lane outside of `base` is undefined. Reference: MLIR `vector.gather`.
    """

    name = "vector.gather"
    base = operand_def(MemRefType | TensorType)
    offsets = var_operand_def(IndexType)
    indices = operand_def(VectorType)
    mask = operand_def(VectorType)
    pass_thru = operand_def(VectorType)
    result = result_def(VectorType)
    traits = traits_def(NoMemoryEffect())
    assembly_format = (
        "$base `[` $offsets `]` `[` $indices `]` `,` $mask `,` $pass_thru attr-dict `:` type($base) `,`"
        " type($indices) `,` type($mask) `,` type($pass_thru) `into` type($result)"
    )

    def __init__(
        self,
        base: SSAValue,
        offsets: Sequence[SSAValue],
        indices: SSAValue,
        mask: SSAValue,
        pass_thru: SSAValue,
    ):
        super().__init__(
            operands=[base, list(offsets), indices, mask, pass_thru], result_types=[pass_thru.type]
        )


VECTOR = Dialect(
    "vector",
    [*Vector.operations, DeinterleaveOp, GatherOp, MultiReductionOp, ShapeCastOp, StepOp, TransposeOp],
    [*Vector.attributes],
    Vector._interfaces,
)
