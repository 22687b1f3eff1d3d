"""Operators of classical machine learning (the domain `ai.onnx.ml`)."""

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import TENSOR, GraphOp, dims, operator, tensor_value
from stepwell.dialects.graph.shape import tensor_type
from stepwell.dialects.graph.types import element_of, numpy_from_dense


@operator
class LabelEncoderOp(GraphOp):
    """
    The element of `values` at the last place where `keys` holds the operand's, or `default`. The importer makes these
    three constants of ONNX's twelve attributes.
    """

    x = operand_def(TENSOR)
    y = result_def(TENSOR)
    keys = tensor_value(optional=False)
    values = tensor_value(optional=False)
    default = tensor_value(optional=False)

    def output_types(self) -> Sequence[Attribute]:
        keys, values, default = (numpy_from_dense(self.properties[n]) for n in ("keys", "values", "default"))
        if keys is None or values is None or default is None:
            raise VerifyException("keys, values and default must be inline constants")
        if keys.size != values.size or default.size != 1 or default.dtype != values.dtype:
            raise VerifyException(
                f"{keys.size} keys, {values.size} values of {values.dtype} and {default.size} defaults of"
                f" {default.dtype} make no table"
            )
        type_ = self.x.type
        assert isinstance(type_, TensorType), "the operand's definition says so"
        if element_of(keys.dtype) != type_.element_type:
            raise VerifyException(f"keys of {element_of(keys.dtype)} for an operand of {type_.element_type}")
        return [tensor_type(dims(self.x), element_of(values.dtype))]
