"""The graph dialect out to ONNX: each op is the operator that it is named after, of the newest opset."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, SSAValue

from stepwell.compat import location_of
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph import (
    ONNX_ELEMENTS,
    STRING,
    ConstantOp,
    GraphOp,
    OptionalType,
    SequenceType,
    dims_of,
    numpy_from_dense,
    snake_case,
    value_of,
)
from stepwell.resources import value_of as array_of

_NUMBER_OF = {element: number for number, element in ONNX_ELEMENTS.items()}


def export_onnx(module: ModuleOp, ctx: Context, opset: int | None = None) -> onnx.ModelProto:
    """
    The ONNX model of `@main`, which holds ops of the graph dialect only.
    `opset` is what the model claims, for readers that are older than the operators' newest forms.
    """
    for function in module.ops:
        if isinstance(function, FuncOp) and function.sym_name.data == "main":
            return _Exporter(ctx, opset or onnx.defs.onnx_opset_version()).model(function)
    raise unsupported(module, "the module has no function @main", "name the entry function `main`")


class _Exporter:
    def __init__(self, ctx: Context, opset: int):
        self.ctx, self.opset = ctx, opset
        self.names: dict[SSAValue, str] = {}
        self.weights: list[onnx.TensorProto] = []

    def model(self, function: FuncOp) -> onnx.ModelProto:
        block = function.body.block
        inputs = []
        for place, argument in enumerate(block.args):
            self.names[argument] = _name(function.arg_attrs, place, f"input{place}")
            inputs.append(onnx.helper.make_value_info(self.names[argument], _type_proto(argument.type)))
        last = block.last_op
        assert isinstance(last, ReturnOp), "@main ends in a return"
        nodes = list(self._nodes(block))
        outputs = []
        for place, value in enumerate(last.operands):
            name = _name(function.res_attrs, place, f"output{place}")
            nodes.append(onnx.helper.make_node("Identity", [self.names[value]], [f"{name}"]))
            outputs.append(onnx.helper.make_value_info(name, _type_proto(value.type)))
        graph = onnx.helper.make_graph(nodes, "main", inputs, outputs, self.weights)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10, producer_name="stepwell")

    def _nodes(self, block: Block) -> Iterator[onnx.NodeProto]:
        for op in block.ops:
            if isinstance(op, ReturnOp):
                continue
            for result in op.results:
                self.names[result] = f"v{len(self.names)}"
            if isinstance(op, ConstantOp):
                self._constant(op)
            elif isinstance(op, GraphOp) and not op.regions and onnx.defs.has(op.ONNX_NAME):
                yield self._node(op)
            else:
                raise unsupported(
                    op, "it has no form in ONNX", "export before lowering, without control flow"
                )

    def _constant(self, op: ConstantOp) -> None:
        value, type = op.properties["value"], op.results[0].type
        assert isinstance(type, TensorType), "a constant is a tensor"
        array = numpy_from_dense(value, type) if type.element_type == STRING else array_of(value, self.ctx)
        tensor = onnx.TensorProto(
            name=self.names[op.results[0]], data_type=_NUMBER_OF[type.element_type], dims=type.get_shape()
        )
        if type.element_type == STRING:
            assert array is not None
            tensor.string_data.extend(text.encode() for text in array.ravel().tolist())
        else:
            tensor = onnx.numpy_helper.from_array(np.array(array, order="C"), tensor.name)
        self.weights.append(tensor)

    def _node(self, op: GraphOp) -> onnx.NodeProto:
        if not onnx.defs.has(op.ONNX_NAME):
            raise unsupported(op, "it is of another domain than ONNX's own", "export before it")
        schema = onnx.defs.get_schema(op.ONNX_NAME, self.opset)
        node = onnx.helper.make_node(
            op.ONNX_NAME,
            [self.names[v] if v is not None else "" for v in op.operand_list()],
            [self.names[v] if v is not None else "" for v in op.result_list()],
            name=f"{location_of(op)} {len(self.names)}",
        )
        declared = op.get_irdl_definition().properties
        for name, attribute in schema.attributes.items():
            key = snake_case(name)
            value = op.properties.get(key, declared[key].default_value if key in declared else None)
            if value is not None:
                node.attribute.append(_attribute(name, value, attribute.type))
        return node


def _attribute(name: str, value: Attribute, kind: Any) -> onnx.AttributeProto:
    if value in _NUMBER_OF:
        return onnx.helper.make_attribute(name, _NUMBER_OF[value])
    plain = value_of(value)
    if isinstance(plain, Attribute):
        array = numpy_from_dense(plain)
        assert array is not None, "an attribute of an op is written into the IR"
        plain = onnx.numpy_helper.from_array(array)
    return onnx.helper.make_attribute(name, plain, attr_type=int(kind))


def _name(attributes: Any, place: int, default: str) -> str:
    if attributes is None or "graph.name" not in attributes.data[place].data:
        return default
    return attributes.data[place].data["graph.name"].data


def _type_proto(type: Attribute) -> onnx.TypeProto:
    if isinstance(type, SequenceType):
        return onnx.helper.make_sequence_type_proto(_type_proto(type.element))
    if isinstance(type, OptionalType):
        return onnx.helper.make_optional_type_proto(_type_proto(type.element))
    assert isinstance(type, TensorType), f"{type} is no type of the graph dialect"
    extents = [extent if isinstance(extent, int) else str(extent) for extent in dims_of(type)]
    return onnx.helper.make_tensor_type_proto(_NUMBER_OF[type.element_type], extents)
