"""Which opset a model needs: the graph dialect has the newest forms, most of which only widened the types."""

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import defs
from xdsl.ir import SSAValue

from stepwell.backends.onnx.types import type_name
from stepwell.dialects.graph import ConstantOp, GraphOp, YieldOp, snake_case

_OLDEST_OPSET = 21
"""Up to here every new form of an operator that kept its signature kept its meaning too; read by ONNX Runtime 1.18."""

_MEANS_MORE = {"Attention": 25, "AveragePool": 22, "MaxPool": 22}
"""
The exceptions: forms whose meaning changed and whose signature did not. `Attention` hands out its masked products in
another place; poolings with `ceil_mode` drop a last window that begins in the padding.
"""


def least_opset(ops: Iterable[GraphOp]) -> int:
    """The oldest opset that can say all of `ops`."""
    needed = {_needed(op) for op in ops if not isinstance(op, ConstantOp | YieldOp)}
    return max(_OLDEST_OPSET, *needed, 0)


def _needed(op: GraphOp) -> int:
    version = defs.get_schema(op.ONNX_NAME).since_version
    while version > max(_OLDEST_OPSET, _MEANS_MORE.get(op.ONNX_NAME, 0)):
        try:
            older = defs.get_schema(op.ONNX_NAME, version - 1)
        except defs.SchemaError:
            break  # the operator is no older
        if not _says(older, op):
            break
        version = older.since_version
    return version


def _says(schema: Any, op: GraphOp) -> bool:
    """Whether `op` is what this older form of its operator can say."""
    newest = defs.get_schema(op.ONNX_NAME)
    for name, attribute in newest.attributes.items():
        known = schema.attributes.get(name)
        if known is None and not _is_default(op, snake_case(name)):
            return False
        if known is not None and known.type != attribute.type:
            return False
    if any(name not in newest.attributes for name in schema.attributes):
        return False
    return _takes(schema, schema.inputs, newest.inputs, op.operand_list()) and _takes(
        schema, schema.outputs, newest.outputs, op.result_list()
    )


def _is_default(op: GraphOp, key: str) -> bool:
    declared = op.get_irdl_definition().properties.get(key)
    value = op.properties.get(key)
    return value is None or (declared is not None and value == declared.default_value)


def _takes(
    schema: Any, formal: Sequence[Any], newest: Sequence[Any], values: Sequence[SSAValue | None]
) -> bool:
    """Whether the values may stand for the parameters `formal` of the schema, which are those of `newest`."""
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    variadic = bool(formal) and formal[-1].option == defs.OpSchema.FormalParameterOption.Variadic
    for place, value in enumerate(values):
        if value is None:
            continue
        if place >= len(formal) and not variadic:
            return False
        parameter = formal[min(place, len(formal) - 1)]
        if parameter.name != newest[min(place, len(newest) - 1)].name:
            return False
        if type_name(value.type) not in allowed.get(parameter.type_str, {parameter.type_str}):
            return False
    return True
