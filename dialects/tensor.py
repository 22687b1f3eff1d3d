"""The `tensor` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from collections.abc import Sequence

from xdsl.dialects.builtin import DYNAMIC_INDEX, DenseArrayBase, IndexType, TensorType, i64
from xdsl.dialects.tensor import Tensor
from xdsl.dialects.utils import (
    DynamicIndexList,
    get_dynamic_index_list,
    split_dynamic_index_list,
    verify_dynamic_index_list,
)
from xdsl.ir import Dialect, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    prop_def,
    var_operand_def,
)
from xdsl.utils.exceptions import VerifyException


@irdl_op_definition
class ParallelInsertSliceOp(IRDLOperation):
    """
    Put `source` into the slice of `dest` (a `shared_outs` argument) that offsets, sizes and strides
    name; only inside `scf.forall.in_parallel`. Errors: a size that is not the source's extent.
    Reference: MLIR `tensor.parallel_insert_slice`.
    """

    name = "tensor.parallel_insert_slice"
    source = operand_def(TensorType)
    dest = operand_def(TensorType)
    offsets = var_operand_def(IndexType)
    sizes = var_operand_def(IndexType)
    strides = var_operand_def(IndexType)
    static_offsets = prop_def(DenseArrayBase.constr(i64))
    static_sizes = prop_def(DenseArrayBase.constr(i64))
    static_strides = prop_def(DenseArrayBase.constr(i64))

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    custom_directives = (DynamicIndexList,)
    assembly_format = (
        "$source `into` $dest ``"
        "custom<DynamicIndexList>($offsets, $static_offsets)"
        "custom<DynamicIndexList>($sizes, $static_sizes)"
        "custom<DynamicIndexList>($strides, $static_strides)"
        "attr-dict `:` type($source) `into` type($dest)"
    )

    def __init__(
        self,
        source: SSAValue,
        dest: SSAValue,
        offsets: Sequence[SSAValue | int],
        sizes: Sequence[SSAValue | int],
        strides: Sequence[SSAValue | int],
    ):
        lists = [split_dynamic_index_list(values, DYNAMIC_INDEX) for values in (offsets, sizes, strides)]
        super().__init__(
            operands=[source, dest, *(dynamic for _, dynamic in lists)],
            properties={
                name: DenseArrayBase.from_list(i64, static)
                for name, (static, _) in zip(
                    ("static_offsets", "static_sizes", "static_strides"), lists, strict=True
                )
            },
        )

    @property
    def mixed_offsets(self) -> list[SSAValue | int]:
        return get_dynamic_index_list(self.static_offsets.get_values(), self.offsets, DYNAMIC_INDEX)

    @property
    def mixed_sizes(self) -> list[SSAValue | int]:
        return get_dynamic_index_list(self.static_sizes.get_values(), self.sizes, DYNAMIC_INDEX)

    @property
    def mixed_strides(self) -> list[SSAValue | int]:
        return get_dynamic_index_list(self.static_strides.get_values(), self.strides, DYNAMIC_INDEX)

    def verify_(self) -> None:
        assert isinstance(self.source.type, TensorType) and isinstance(self.dest.type, TensorType)
        rank = self.dest.type.get_num_dims()
        for name, static, dynamic in (
            ("offset", self.static_offsets, self.offsets),
            ("size", self.static_sizes, self.sizes),
            ("stride", self.static_strides, self.strides),
        ):
            if len(static) != rank:
                raise VerifyException(f"{len(static)} {name}s do not match rank {rank} of {self.dest.type}")
            verify_dynamic_index_list(
                static.get_values(), dynamic, DYNAMIC_INDEX, f" in the {name} arguments"
            )
        sizes, shape = self.static_sizes.get_values(), self.source.type.get_shape()
        if len(shape) == rank and tuple(sizes) != tuple(shape):
            raise VerifyException(f"sizes {list(sizes)} must be the extents of {self.source.type}")


TENSOR = Dialect(
    "tensor", [*Tensor.operations, ParallelInsertSliceOp], [*Tensor.attributes], Tensor._interfaces
)
