"""Cheap checks of a whole model, before any of it is given a meaning.

Nothing here calls `onnx.checker` or `onnx.shape_inference`: both may never return on a hostile model (an `Einsum`
equation that holds a digit).
"""

import heapq
from collections.abc import Container, Iterable, Iterator

import onnx

from stepwell.frontends.onnx.reading import failure, quoted

NEWEST_OPSET = onnx.defs.onnx_opset_version()
MAX_DEPTH = 64
"""Deepest nesting of subgraphs and function calls together."""

MAX_NODES = 1_000_000
"""Most nodes of a model once its functions are inlined."""

FunctionKey = tuple[str, str, str]
"""Domain, name and overload of a model-local function."""


def domain_of(name: str) -> str:
    """`ai.onnx` is the long spelling of the default domain."""
    return "" if name == "ai.onnx" else name


def node_place(label: str, node: onnx.NodeProto, index: int) -> str:
    """How an error names a node: `model.onnx: node "conv1" (Conv)`."""
    name = quoted(node.name) if node.name else f"#{index}"
    return f"{label}: node {name} ({quoted(node.op_type)[1:-1]})"


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto], label: str) -> dict[str, int]:
    """Version of each domain; errors: one twice, or a default opset that nobody knows yet."""
    versions: dict[str, int] = {}
    for entry in imports:
        _vet_names(label, entry.domain)
        domain = domain_of(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise failure(
                label, f"two opset versions for the domain {quoted(domain)}", "keep one opset_import"
            )
        if entry.version < 1:
            raise failure(
                label, f"opset version {entry.version} of the domain {quoted(domain)}", "use 1 or more"
            )
    if versions.get("", 1) > NEWEST_OPSET:
        why = f"opset {versions['']} is newer than {NEWEST_OPSET}, the newest that the installed onnx package knows"
        raise failure(label, why, "upgrade onnx, or export with an older opset")
    return versions


def key_of(function: onnx.FunctionProto) -> FunctionKey:
    return domain_of(function.domain), function.name, function.overload


def vet(model: onnx.ModelProto, label: str) -> None:
    """Check names, attributes, depth, function calls and opsets of `model`."""
    if model.ir_version < 1:
        raise failure(label, f"IR version {model.ir_version}", "give a model saved by an ONNX exporter")
    if not model.opset_import and model.ir_version >= 3:
        raise failure(label, "the model imports no opset", "add an opset_import")
    _vet_names(label, model.producer_name, model.producer_version, model.domain, model.doc_string)
    _vet_names(label, model.graph.name, model.graph.doc_string)
    _vet_names(label, *(text for entry in model.metadata_props for text in (entry.key, entry.value)))
    for function in model.functions:
        _vet_names(
            label, function.name, function.domain, function.overload, *function.input, *function.output
        )
    opsets_of(model.opset_import, label)
    functions: dict[FunctionKey, onnx.FunctionProto] = {}
    for function in model.functions:
        if functions.setdefault(key_of(function), function) is not function:
            raise failure(label, f"two functions named {quoted(function.name)}", "rename one")
    calls = {
        key: _vet_nodes(function.node, label, functions, function=True) for key, function in functions.items()
    }
    main = _vet_graph(model.graph, label, functions)
    _vet_calls(calls, main, label)


def _vet_graph(
    graph: onnx.GraphProto, label: str, functions: dict[FunctionKey, onnx.FunctionProto]
) -> tuple[int, dict[FunctionKey, int]]:
    _vet_interface(graph, label)
    return _vet_nodes(graph.node, label, functions, function=False)


def _vet_names(where: str, *names: str) -> None:
    for name in names:
        if not isinstance(name, str):
            raise failure(where, f"the name {quoted(name)} is not UTF-8", "export the model again")


def _vet_interface(graph: onnx.GraphProto, label: str) -> None:
    _vet_names(label, *(v.name for v in (*graph.input, *graph.output)), *(t.name for t in graph.initializer))
    _vet_names(label, *(d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim))
    inputs = [value.name for value in graph.input]
    outputs = [value.name for value in graph.output]
    tensors = [tensor.name for tensor in graph.initializer]
    tensors += [tensor.values.name for tensor in graph.sparse_initializer]
    for kind, names in (("input", inputs), ("output", outputs), ("initializer", tensors)):
        seen: set[str] = set()
        for name in names:
            if not name and kind != "output":
                raise failure(label, f"an {kind} without a name", "name it")
            if name in seen and kind != "output":
                raise failure(label, f"two {kind}s named {quoted(name)}", "rename one")
            seen.add(name)
    produced = set(inputs) | set(tensors)
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and name in produced:
                why = f"the value {quoted(name)} is defined twice"
                raise failure(node_place(label, node, index), why, "give each value one definition")
            produced.add(name)


def _vet_nodes(
    nodes: Iterable[onnx.NodeProto],
    label: str,
    functions: dict[FunctionKey, onnx.FunctionProto],
    function: bool,
) -> tuple[int, dict[FunctionKey, int]]:
    """Number of nodes, subgraphs included, and how often each local function is called."""
    total, calls = 0, {}
    pending: list[tuple[Iterator[tuple[int, onnx.NodeProto]], int]] = [(enumerate(nodes), 0)]
    while pending:
        iterator, depth = pending.pop()
        for index, node in iterator:
            total += 1
            where = node_place(label, node, index)
            _vet_names(where, node.op_type, node.domain, node.name, node.overload, *node.input, *node.output)
            _vet_names(where, *(name for a in node.attribute for name in (a.name, a.ref_attr_name)))
            if total > MAX_NODES:
                raise failure(where, f"more than {MAX_NODES} nodes", "split the model")
            key = (domain_of(node.domain), node.op_type, node.overload)
            if key in functions:
                calls[key] = calls.get(key, 0) + 1
            for graph in _vet_attributes(node, where, function):
                if depth >= MAX_DEPTH:
                    raise failure(where, f"subgraphs nested deeper than {MAX_DEPTH}", "flatten the model")
                _vet_interface(graph, label)
                pending.append((enumerate(graph.node), depth + 1))
    return total, calls


_A = onnx.AttributeProto
_FIELD_OF: dict[int, str] = {
    _A.FLOAT: "f",
    _A.INT: "i",
    _A.STRING: "s",
    _A.TENSOR: "t",
    _A.GRAPH: "g",
    _A.SPARSE_TENSOR: "sparse_tensor",
    _A.TYPE_PROTO: "tp",
    _A.FLOATS: "floats",
    _A.INTS: "ints",
    _A.STRINGS: "strings",
    _A.TENSORS: "tensors",
    _A.GRAPHS: "graphs",
    _A.SPARSE_TENSORS: "sparse_tensors",
    _A.TYPE_PROTOS: "type_protos",
}


def attribute_kind(attribute: onnx.AttributeProto) -> int:
    """The type of an attribute; models of IR version 1 leave it out."""
    if attribute.type != _A.UNDEFINED:
        return attribute.type
    for kind, name in _FIELD_OF.items():
        value = getattr(attribute, name)
        if len(value) if kind >= _A.FLOATS and kind in _REPEATED else attribute.HasField(name):
            return kind
    return _A.UNDEFINED


_REPEATED = {_A.FLOATS, _A.INTS, _A.STRINGS, _A.TENSORS, _A.GRAPHS, _A.SPARSE_TENSORS, _A.TYPE_PROTOS}


def _vet_attributes(node: onnx.NodeProto, where: str, function: bool) -> Iterator[onnx.GraphProto]:
    seen: set[str] = set()
    for attribute in node.attribute:
        if attribute.name in seen or not attribute.name:
            raise failure(where, f"the attribute {quoted(attribute.name)} stands twice", "keep one of them")
        seen.add(attribute.name)
        if attribute.ref_attr_name:
            if not function:
                why = f"the attribute {quoted(attribute.name)} refers to a function's attribute"
                raise failure(where, why, "that is allowed in the body of a function only")
            continue
        kind = attribute_kind(attribute)
        if kind not in _FIELD_OF:
            # An empty list of an IR 1 model has no type and no value.
            if kind != _A.UNDEFINED:
                raise failure(
                    where,
                    f"the attribute {quoted(attribute.name)} has the unknown type {kind}",
                    "save it again",
                )
            continue
        if kind not in _REPEATED and not attribute.HasField(_FIELD_OF[kind]):
            # protobuf drops a zero of an implicit field in some exporters; what it would mean is not known.
            if kind not in (_A.INT, _A.FLOAT, _A.STRING):
                raise failure(
                    where, f"the attribute {quoted(attribute.name)} has no value", "save the model again"
                )
        if kind == _A.GRAPH:
            yield attribute.g
        elif kind == _A.GRAPHS:
            yield from attribute.graphs


def _vet_calls(
    calls: dict[FunctionKey, tuple[int, dict[FunctionKey, int]]],
    main: tuple[int, dict[FunctionKey, int]],
    label: str,
) -> None:
    """No function may reach itself, and inlining all of them must stay within the budget of nodes."""
    sizes: dict[FunctionKey, int] = {}
    depths: dict[FunctionKey, int] = {}
    state: dict[FunctionKey, bool] = {}
    for root in calls:
        stack = [root]
        while stack:
            key = stack[-1]
            if key in sizes:
                stack.pop()
                continue
            callees = calls[key][1]
            if key in state:
                sizes[key] = min(calls[key][0] + sum(n * sizes[c] for c, n in callees.items()), 2 * MAX_NODES)
                depths[key] = 1 + max((depths[c] for c in callees), default=0)
                stack.pop()
                continue
            state[key] = True
            for callee in callees:
                if callee in state and callee not in sizes:
                    raise failure(
                        label, f"the function {quoted(callee[1])} calls itself", "unroll the recursion"
                    )
                if callee not in sizes:
                    stack.append(callee)
    if max(depths.values(), default=0) > MAX_DEPTH:
        raise failure(label, f"functions call each other deeper than {MAX_DEPTH}", "inline some of them")
    total = main[0] + sum(n * sizes[key] for key, n in main[1].items())
    if total > MAX_NODES:
        raise failure(label, f"more than {MAX_NODES} nodes once its functions are inlined", "split the model")


def sorted_nodes(
    nodes: Iterable[onnx.NodeProto], known: Container[str], label: str
) -> list[tuple[int, onnx.NodeProto]]:
    """
    The nodes in an order in which values are defined before use; the file's order, where it is one.
    `known` are the values defined before the first node. Errors: a cycle, or an input that nothing defines.
    """
    entries = list(enumerate(nodes))
    available: set[str] = set()
    for _index, node in entries:
        if not all(name in available or name in known for name in _reads(node)):
            break
        available.update(node.output)
    else:
        return entries
    maker = {name: index for index, node in entries for name in node.output if name}
    waiting: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    for index, node in entries:
        needed = set()
        for name in _reads(node):
            if name in maker:
                needed.add(maker[name])
            elif name not in known:
                why = f"reads {quoted(name)}, which nothing defines"
                raise failure(node_place(label, node, index), why, "export the model again")
        waiting[index] = len(needed)
        for source in needed:
            readers.setdefault(source, []).append(index)
    order: list[tuple[int, onnx.NodeProto]] = []
    ready = [index for index, count in waiting.items() if not count]
    heapq.heapify(ready)
    while ready:
        index = heapq.heappop(ready)
        order.append(entries[index])
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(entries):
        done = {index for index, _ in order}
        index, node = next(entry for entry in entries if entry[0] not in done)
        # From any unfinished node, walking to an unfinished maker ends on the cycle.
        for _ in range(len(entries)):
            index = next(maker[n] for n in _reads(node) if n in maker and maker[n] not in done)
            node = entries[index][1]
        raise failure(
            node_place(label, node, index), "needs its own result: the graph has a cycle", "export it again"
        )
    return order


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those that its subgraphs capture included."""
    if not node.attribute:
        return {name for name in node.input if name}
    names = {name for name in node.input if name}
    pending = [(a.g, frozenset[str]()) for a in node.attribute if a.HasField("g")]
    pending += [(g, frozenset[str]()) for a in node.attribute for g in a.graphs]
    while pending:
        graph, outer = pending.pop()
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {t.values.name for t in graph.sparse_initializer}
        own |= {name for inner in graph.node for name in inner.output}
        inside = outer | own
        for inner in graph.node:
            names.update(name for name in inner.input if name and name not in inside)
            for a in inner.attribute:
                if a.HasField("g"):
                    pending.append((a.g, inside))
                pending.extend((g, inside) for g in a.graphs)
        names.update(value.name for value in graph.output if value.name and value.name not in inside)
    return names
