"""
A smaller model that fails in the same way. Nothing is computed twice: what ONNX Runtime gives for every value inside is
known from one run, so a cut is a value that becomes an input, and a candidate costs one compilation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from tests.fuzz.build import captured
from tests.fuzz.oracle import INTERPRETER, Case, Verdict, run_reference
from tests.fuzz.running import message_kind, replay

Judge = Callable[[Case], Verdict]

_MOST = 300
"""Candidates that are judged: some two minutes."""


def reduce_case(case: Case, judge: Judge | None = None, most: int = _MOST) -> Case:
    """`case` with as few nodes, outputs and sets of inputs as it takes for the same kind of verdict, if that is a bad one."""
    first = (judge or replay)(case)
    if first.kind in ("agrees", "invalid"):
        return case
    if judge is None:
        said = first.stage + first.detail
        way = next((way for way in ("-O0", INTERPRETER) if way in said), "-O3")

        def judge(candidate: Case) -> Verdict:
            return replay(candidate, [way])

    tried: set[bytes] = set()
    changed = True
    while changed and len(tried) < most:
        changed = False
        for smaller in _smaller(case):
            if smaller.model in tried and len(smaller.feeds) == len(case.feeds):
                continue
            tried.add(smaller.model)
            if _alike(judge(smaller), first):
                case, changed = smaller, True
                break
            if len(tried) >= most:
                break
    return case


def _alike(one: Verdict, other: Verdict) -> bool:
    """Whether two verdicts tell of the same fault, so far as words can say it."""
    if one.kind != other.kind:
        return False
    if one.kind in ("differs", "known"):
        return _sort(one.detail) == _sort(other.detail)
    return one.kind in ("crash", "hang") or message_kind(one.detail) == message_kind(other.detail)


def _sort(detail: str) -> str:
    """What differs: a shape, a type, the bits of two threads, or a value."""
    return next(
        (words for words in ("two threads", ": shape ", ": type ", "nan instead") if words in detail), ""
    )


def _smaller(case: Case) -> Iterator[Case]:
    """Cases with less in them, the boldest first."""
    if len(case.feeds) > 1:
        for feeds in case.feeds:
            yield Case(case.model, [feeds])
        return
    proto = onnx.load_from_string(case.model)
    if len(proto.graph.output) > 1:
        for index in range(len(proto.graph.output)):
            yield _with(case, proto, [proto.graph.output[index].name])
        for index in range(len(proto.graph.output)):  # it takes several: one less
            names = [value.name for value in proto.graph.output]
            yield _with(case, proto, [*names[:index], *names[index + 1 :]])
    values = _values(case, proto)
    makers = {name: node for node in proto.graph.node for name in node.output}
    yield from _last_nodes(case, proto, makers, values)
    for output in proto.graph.output:  # what it is made of, as the output
        names = [value.name for value in proto.graph.output if value.name != output.name]
        for name in dict.fromkeys(makers[output.name].input if output.name in makers else ()):
            if name in makers and name in values:
                yield _with(case, proto, [*names, name])
    for node in proto.graph.node:  # what a node computes, as an input
        if any(_reads(other) & set(node.output) for other in proto.graph.node):
            yield from _cut(case, proto, [name for name in node.output if name], values)


def _last_nodes(
    case: Case, proto: onnx.ModelProto, makers: Mapping[str, onnx.NodeProto], values: Mapping[str, np.ndarray]
) -> Iterator[Case]:
    """The nodes that are 1, 2, 4, ... steps from an output, on inputs that are what the other nodes compute."""
    depth = 1
    while depth < len(proto.graph.node):
        border = {value.name for value in proto.graph.output}
        for _ in range(depth):
            border = {
                name
                for wanted in border
                for name in (_reads(makers[wanted]) if wanted in makers else [wanted])
            }
        inside = {value.name for value in proto.graph.output}
        cut = sorted(name for name in border if name in makers and name not in inside)
        if not cut:
            return
        yield from _cut(case, proto, cut, values)
        depth *= 2


def _reads(node: onnx.NodeProto) -> set[str]:
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= captured(attribute.g)
    return names


def _values(case: Case, proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """What ONNX Runtime gives for the values inside, on the first set of inputs; not where it gives no tensor."""
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = {value.name for value in (*inferred.value_info, *inferred.output)}
    names = [name for node in proto.graph.node for name in node.output if name in known]
    everything = _with(case, proto, names)
    try:
        found = run_reference(everything.model, everything.feeds[0])
    except Exception:  # whatever it says, nothing can be cut then
        return {}
    return {n: a for n, a in zip(names, found, strict=True) if isinstance(a, np.ndarray)}


def _with(case: Case, proto: onnx.ModelProto, outputs: Sequence[str]) -> Case:
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.graph.output[:]
    model.graph.output.extend(known[name] for name in outputs)
    return _pruned(model, case)


def _cut(
    case: Case, proto: onnx.ModelProto, names: Sequence[str], values: Mapping[str, np.ndarray]
) -> Iterator[Case]:
    """The model with the values `names` as inputs, if they are all known."""
    if not all(name in values for name in names):
        return
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    outputs = {value.name for value in proto.graph.output}
    for node in model.graph.node:
        for index, output in enumerate(node.output):
            if output in names and output not in outputs:
                node.output[index] = f"{output}_unused"
    cut = [name for name in names if name not in outputs]
    for name in cut:
        array = values[name]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    feeds = {**case.feeds[0], **{name: values[name] for name in cut}}
    if cut:
        yield _pruned(model, Case(case.model, [feeds]))


def _pruned(model: onnx.ModelProto, case: Case) -> Case:
    """Without what no output needs."""
    wanted = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.insert(0, node)
            wanted |= _reads(node)
    inputs = [value for value in model.graph.input if value.name in wanted]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    for field, items in (("node", kept), ("input", inputs), ("initializer", tensors), ("value_info", [])):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del getattr(model.graph, field)[:]
        getattr(model.graph, field).extend(copies)
    names = {value.name for value in inputs}
    feeds = [{n: a for n, a in given.items() if n in names} for given in case.feeds]
    return Case(model.SerializeToString(), feeds)
