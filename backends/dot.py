"""A picture of a module for Graphviz: ops are boxes, values are arrows, regions are frames."""

from typing import IO

from xdsl.dialects.builtin import FloatAttr, IntegerAttr, ModuleOp, StringAttr, SymbolRefAttr
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.irdl import IRDLOperation

from stepwell.diagnostics import layers_of

_MAX_LABEL = 40


def print_dot(module: ModuleOp, stream: IO[str]) -> None:
    """Write `module` in the DOT language."""
    _Drawing(stream).draw(module)


class _Drawing:
    def __init__(self, stream: IO[str]):
        self.stream = stream
        self.nodes: dict[Operation | SSAValue, str] = {}
        self.edges: list[str] = []
        self.depth = 1

    def draw(self, module: ModuleOp) -> None:
        self.stream.write('digraph module {\n  node [shape=box, fontname="monospace"]\n')
        for op in module.body.block.ops:
            self.op(op)
        for edge in self.edges:
            self.line(edge)
        self.stream.write("}\n")

    def line(self, text: str) -> None:
        self.stream.write(f"{'  ' * self.depth}{text}\n")

    def op(self, op: Operation) -> None:
        name = self.nodes[op] = f"n{len(self.nodes)}"
        regions = [(place, region) for place, region in enumerate(op.regions) if region.blocks]
        if not regions or op.operands or op.results:  # a function is its frame and nothing else
            layers = ", ".join(layers_of(op.location))
            self.line(
                f"{name} [label={_quoted(_label(op))}{f', tooltip={_quoted(layers)}' if layers else ''}]"
            )
        for operand in op.operands:
            self.edge(operand, name)
        for place, region in regions:
            self.line(f"subgraph cluster_{name}_{len(self.nodes)} {{")
            self.depth += 1
            self.line(f"label={_quoted(_frame_label(op, place))}")
            for block in region.blocks:
                for argument in block.args:
                    self.argument(argument)
                for inner in block.ops:
                    self.op(inner)
            self.depth -= 1
            self.line("}")

    def argument(self, argument: BlockArgument) -> None:
        name = self.nodes[argument] = f"n{len(self.nodes)}"
        label = f"%{argument.name_hint or f'arg{argument.index}'}"
        self.line(f"{name} [shape=ellipse, label={_quoted(label)}]")

    def edge(self, value: SSAValue, to: str) -> None:
        source = value if isinstance(value, BlockArgument) else value.owner
        start = self.nodes.get(source)  # pyright: ignore[reportArgumentType]
        if start is not None:
            self.edges.append(f"{start} -> {to} [label={_quoted(str(value.type))}]")


def _label(op: Operation) -> str:
    parts = [op.name]
    for name, attribute in {**op.properties, **op.attributes}.items():
        text = _short(attribute)
        if text:
            parts.append(text if name in ("sym_name", "callee", "value") else f"{name}={text}")
    return " ".join(parts)


def _frame_label(op: Operation, place: int) -> str:
    """What a region is called: its op, and its own name where the op has several."""
    if len(op.regions) < 2 or not isinstance(op, IRDLOperation):
        return _label(op)
    return f"{op.name} {op.get_irdl_definition().regions[min(place, len(op.get_irdl_definition().regions) - 1)][0]}"


def _short(attribute: Attribute) -> str:
    """Attributes that tell ops apart at a glance, and no others."""
    if isinstance(attribute, IntegerAttr | FloatAttr):
        return str(attribute.value.data)
    if isinstance(attribute, StringAttr):
        return attribute.data[:_MAX_LABEL]
    return f"@{attribute.string_value()}" if isinstance(attribute, SymbolRefAttr) else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
