"""A smaller model that fails in the same way: nodes, outputs and feeds go as long as it does."""

from collections.abc import Iterator

import onnx
from onnx import helper

from tests.fuzz.oracle import Case
from tests.fuzz.running import replay


def reduce_case(case: Case) -> Case:
    """`case` with as few nodes, outputs and sets of inputs as it takes for the same kind of verdict."""
    from tests.fuzz.oracle import Verdict

    first = replay(case)
    levels = (0,) if "-O0" in first.stage + first.detail else (3,)

    def alike(verdict: Verdict) -> bool:
        return (
            verdict.kind == first.kind
            and verdict.detail[:40].split(":")[0] == first.detail[:40].split(":")[0]
        )

    changed = True
    while changed:
        changed = False
        for smaller in _smaller(case):
            if alike(replay(smaller, levels)):
                case, changed = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with less in them, the boldest first."""
    if len(case.feeds) > 1:
        for feeds in case.feeds:
            yield Case(case.model, [feeds])
    proto = onnx.load_from_string(case.model)
    if len(proto.graph.output) > 1:
        for index in range(len(proto.graph.output)):
            yield _with(case, proto, [proto.graph.output[index].name])
        return
    goal = proto.graph.output[0].name
    makers = {name: node for node in proto.graph.node for name in node.output}
    types = _types(proto)
    if goal in makers:  # what it is made of, as the output
        for name in makers[goal].input:
            if name in makers and name in types:
                yield _with(case, proto, [name])
    for node in reversed(proto.graph.node):  # what a node computes, as an input
        for name in node.output:
            if name in types and name != goal and (value := _value_of(case, proto, name)) is not None:
                yield _cut(case, proto, name, types[name], value)


def _types(proto: onnx.ModelProto) -> dict[str, int]:
    from tests.fuzz.oracle import element_types

    return {name: kind for name, kind in element_types(proto).items() if kind}


def _with(case: Case, proto: onnx.ModelProto, outputs: list[str]) -> Case:
    types = _types(proto)
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    for value in model.graph.output:
        value.type.tensor_type.elem_type = types[value.name]
    return _pruned(model, case)


def _cut(case: Case, proto: onnx.ModelProto, name: str, kind: int, values: list) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    for node in model.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = f"{name}_unused"
    shapes = {value.shape for value in values}
    shape = list(shapes.pop()) if len(shapes) == 1 else [None] * values[0].ndim
    model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    feeds = [{**feeds, name: value} for feeds, value in zip(case.feeds, values, strict=True)]
    return _pruned(model, Case(case.model, feeds))


def _value_of(case: Case, proto: onnx.ModelProto, name: str) -> list | None:
    """What ONNX Runtime gives for one value inside, on each set of inputs."""
    from tests.fuzz.oracle import run_reference

    small = _with(case, proto, [name])
    try:
        return [run_reference(small.model, feeds)[0] for feeds in small.feeds]
    except Exception:
        return None


def _pruned(model: onnx.ModelProto, case: Case) -> Case:
    """Without what no output needs."""
    from tests.fuzz.build import captured

    wanted = {value.name for value in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    wanted |= captured(attribute.g)
    kept = [node for node in model.graph.node if node in nodes]
    inputs = [value for value in model.graph.input if value.name in wanted]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    for field, items in (("node", kept), ("input", inputs), ("initializer", tensors), ("value_info", [])):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(copies)
    names = {value.name for value in inputs}
    feeds = [{n: a for n, a in given.items() if n in names} for given in case.feeds]
    return Case(model.SerializeToString(), feeds)
