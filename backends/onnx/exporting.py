"""A module of the graph dialect as an ONNX model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, SSAValue

from stepwell.backends.onnx.opsets import least_opset
from stepwell.backends.onnx.types import NUMBER_OF, type_proto
from stepwell.diagnostics import layers_of, unsupported
from stepwell.dialects.graph import (
    STRING,
    ConstantOp,
    GraphOp,
    YieldOp,
    dims_of,
    numpy_from_dense,
    snake_case,
    value_of,
)
from stepwell.resources import value_of as array_of

_VERSIONS = {"ai.onnx.ml": 4}
"""The versions of other domains that are written: the oldest that says all that the graph dialect does."""

_TENSORS = {"keys_tensor": "keys", "values_tensor": "values", "default_tensor": "default"}
"""Attributes of `ai.onnx.ml.LabelEncoder` that are called otherwise in the graph dialect, which has one form of it."""


def export_onnx(module: ModuleOp, ctx: Context, opset: int | None = None) -> onnx.ModelProto:
    """
    The ONNX model of `@main`, which holds ops of the graph dialect only.
    `opset` is what the model claims: by default the oldest that says the same (`opsets.py`), so that as many programs as
    possible read it.
    """
    function = next((f for f in module.ops if isinstance(f, FuncOp) and f.sym_name.data == "main"), None)
    if function is None:
        raise unsupported(module, "the module has no function @main", "name the entry function `main`")
    ops = [op for op in function.body.walk() if not isinstance(op, ReturnOp | YieldOp)]
    for op in ops:
        if not isinstance(op, GraphOp) or not onnx.defs.has(op.ONNX_NAME, domain=op.ONNX_DOMAIN):
            raise unsupported(op, "ONNX has no such operator", "export the graph level, before it is lowered")
    if opset is None:
        opset = least_opset(op for op in ops if isinstance(op, GraphOp) and not op.ONNX_DOMAIN)
    graph = _Exporter(ctx, opset).main(function)
    domains = {op.ONNX_DOMAIN for op in ops if isinstance(op, GraphOp)} - {""}
    imports = [
        onnx.helper.make_opsetid("", opset),
        *(onnx.helper.make_opsetid(d, _VERSIONS[d]) for d in sorted(domains)),
    ]
    model = onnx.helper.make_model(
        graph,
        opset_imports=imports,
        producer_name="stepwell",
        ir_version=onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True),
    )
    metadata = module.attributes.get("stepwell.metadata")
    properties = metadata.data.get("properties") if isinstance(metadata, DictionaryAttr) else None
    if isinstance(properties, DictionaryAttr):
        texts = {key: value.data for key, value in properties.data.items() if isinstance(value, StringAttr)}
        onnx.helper.set_model_props(model, texts)
    return model


@dataclass
class _Graph:
    """One graph as it grows: `@main`, or a branch or body of control flow."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    made: set[str] = field(default_factory=set)
    """Names that nodes of this graph define."""


class _Exporter:
    """Names of values are unique in the whole model, since a body sees the values around it."""

    def __init__(self, ctx: Context, opset: int):
        self.ctx, self.opset = ctx, opset
        self.names: dict[SSAValue, str] = {}
        self.taken: set[str] = set()
        self.node_names: dict[str, int] = {}

    def main(self, function: FuncOp) -> onnx.GraphProto:
        block = function.body.block
        last = block.last_op
        assert isinstance(last, ReturnOp), "@main ends in a return"
        inputs = [_given_name(function.arg_attrs, i, f"input{i}") for i in range(len(block.args))]
        outputs = [_given_name(function.res_attrs, i, f"output{i}") for i in range(len(last.operands))]
        self.taken.update((*inputs, *outputs))
        self.names.update(zip(block.args, inputs, strict=True))
        # A result that is returned once is made under the output's own name.
        for value, name in zip(last.operands, outputs, strict=True):
            if (
                isinstance(value.owner, GraphOp)
                and value.owner.ONNX_NAME != "Constant"
                and value not in self.names
            ):
                self.names[value] = name
        graph = _Graph()
        self.ops(block, graph)
        for value, name in zip(last.operands, outputs, strict=True):
            if self.names[value] != name:
                self.node(graph, "Identity", [self.names[value]], [name])
        infos = [
            onnx.helper.make_value_info(n, type_proto(a.type))
            for n, a in zip(inputs, block.args, strict=True)
        ]
        results = [
            onnx.helper.make_value_info(n, type_proto(v.type))
            for n, v in zip(outputs, last.operands, strict=True)
        ]
        return onnx.helper.make_graph(graph.nodes, "main", infos, results, graph.weights)

    def body(self, block: Block, name: str) -> onnx.GraphProto:
        """A region: its arguments are the inputs, what it hands out the outputs."""
        graph = _Graph()
        infos = [onnx.helper.make_value_info(self.fresh(a), type_proto(a.type)) for a in block.args]
        self.ops(block, graph)
        last = block.last_op
        assert isinstance(last, YieldOp), "a region ends in graph.yield"
        results = []
        for value in last.operands:
            inner = self.names[value]
            # An output must be made here, and be no output twice.
            if inner not in graph.made or any(inner == info.name for info in results):
                inner = self.unique(f"{inner}_out")
                self.node(graph, "Identity", [self.names[value]], [inner])
            results.append(onnx.helper.make_value_info(inner, type_proto(value.type)))
        return onnx.helper.make_graph(graph.nodes, name, infos, results, graph.weights)

    def ops(self, block: Block, graph: _Graph) -> None:
        for op in block.ops:
            if isinstance(op, ReturnOp | YieldOp):
                continue
            assert isinstance(op, GraphOp), "all others are refused before"
            for result in op.results:
                self.fresh(result)
            if isinstance(op, ConstantOp):
                self.constant(op, graph)
            else:
                self.operator(op, graph)

    def fresh(self, value: SSAValue) -> str:
        """The name of `value`: its hint, where it has one, or a number."""
        if value not in self.names:
            self.names[value] = self.unique(value.name_hint or f"v{len(self.names)}")
        return self.names[value]

    def unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken:
            number += 1
            name = f"{wanted}_{number}"
        self.taken.add(name)
        return name

    def constant(self, op: ConstantOp, graph: _Graph) -> None:
        value, type = op.properties["value"], op.results[0].type
        assert isinstance(type, TensorType), "a constant is a tensor"
        name = self.names[op.results[0]]
        array = numpy_from_dense(value, type) if type.element_type == STRING else array_of(value, self.ctx)
        assert array is not None, "a constant has a value"
        if type.element_type == STRING:
            tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.STRING, dims=type.get_shape())
            tensor.string_data.extend(text.encode() for text in array.ravel().tolist())
        else:
            tensor = onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        graph.weights.append(tensor)

    def operator(self, op: GraphOp, graph: _Graph) -> None:
        inputs = [self.names[v] if v is not None else "" for v in op.operand_list()]
        outputs = [self.names[v] if v is not None else "" for v in op.result_list()]
        channels_last = (
            op.get("layout") == "nhwc" if "layout" in op.get_irdl_definition().properties else False
        )
        if not channels_last:
            self.node(graph, op.ONNX_NAME, inputs, outputs, op)
            return
        # ONNX has channels first only: transpose(op(transpose(x)))
        rank = len(dims_of(op.operands[0].type))
        given, made = inputs[0], outputs[0]
        inputs[0], outputs[0] = self.unique(f"{given}_nchw"), self.unique(f"{made}_nchw")
        to_first, to_last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
        self.node(graph, "Transpose", [given], [inputs[0]], perm=to_first)
        self.node(graph, op.ONNX_NAME, inputs, outputs, op)
        self.node(graph, "Transpose", [outputs[0]], [made], perm=to_last)

    def node(
        self,
        graph: _Graph,
        name: str,
        inputs: Iterable[str],
        outputs: Sequence[str],
        op: GraphOp | None = None,
        **attributes: Any,
    ) -> None:
        node = onnx.helper.make_node(name, list(inputs), outputs, name=self.node_name(op, name), **attributes)
        if op is not None:
            node.domain = op.ONNX_DOMAIN
            node.attribute.extend(self.attributes(op))
        graph.nodes.append(node)
        graph.made.update(outputs)

    def node_name(self, op: Operation | None, default: str) -> str:
        """The name that the node had in the model it came from, and a number if several share it."""
        names = layers_of(op.location) if op is not None else ()
        name = names[0] if names else default
        number = self.node_names[name] = self.node_names.get(name, 0) + 1
        return name if number == 1 else f"{name}_{number}"

    def attributes(self, op: GraphOp) -> Iterable[onnx.AttributeProto]:
        version = _VERSIONS.get(op.ONNX_DOMAIN, self.opset)
        schema = onnx.defs.get_schema(op.ONNX_NAME, version, op.ONNX_DOMAIN)
        declared = op.get_irdl_definition().properties
        regions = dict(zip((name for name, _ in op.get_irdl_definition().regions), op.regions, strict=True))
        for name, attribute in schema.attributes.items():
            key = _TENSORS.get(name, snake_case(name))
            if key in regions:
                yield onnx.helper.make_attribute(name, self.body(regions[key].block, name))
                continue
            value = op.properties.get(key, declared[key].default_value if key in declared else None)
            if value is not None:
                yield _attribute(name, value, attribute.type)


def _attribute(name: str, value: Attribute, kind: Any) -> onnx.AttributeProto:
    if int(kind) == onnx.AttributeProto.TYPE_PROTO:
        return onnx.helper.make_attribute(name, type_proto(value))
    if value in NUMBER_OF:
        return onnx.helper.make_attribute(name, NUMBER_OF[value])
    plain = value_of(value)
    if isinstance(plain, Attribute) or int(kind) == onnx.AttributeProto.TENSOR:
        array = numpy_from_dense(value)
        assert array is not None, "an attribute of an op is written into the IR"
        plain = onnx.numpy_helper.from_array(array)
    return onnx.helper.make_attribute(name, plain, attr_type=int(kind))


def _given_name(attributes: ArrayAttr | None, place: int, default: str) -> str:
    entry = attributes.data[place] if attributes is not None else None
    name = entry.data.get("graph.name") if isinstance(entry, DictionaryAttr) else None
    return name.data if isinstance(name, StringAttr) else default
