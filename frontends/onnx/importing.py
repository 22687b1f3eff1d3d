"""From a vetted ONNX model to one function of the graph dialect."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FileLineColLoc,
    FunctionType,
    IntAttr,
    IntegerAttr,
    ModuleOp,
    NameLoc,
    StringAttr,
    TensorType,
    UnrankedTensorType,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import PassFailedException, VerifyException

from stepwell.compat import deep_recursion
from stepwell.diagnostics import UnsupportedOperation
from stepwell.dialects.graph import (
    ONNX_ELEMENTS,
    ONNX_NAMES,
    Dim,
    GraphOp,
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    dims_of,
    fresh_symbol,
    held,
    numpy_dtype,
    symbol,
    tensor_type,
)
from stepwell.dialects.graph.shape import print_dims
from stepwell.dialects.stepwell import DIM_NAMES_KEY
from stepwell.errors import ImportModelError, InternalError, UnsupportedError
from stepwell.frontends.onnx import building
from stepwell.frontends.onnx.classical import CLASSICAL, CLASSICAL_DOMAIN
from stepwell.frontends.onnx.contrib import apply_rule, contrib_rule
from stepwell.frontends.onnx.control_flow import build_with_regions, refuse_told_ranks
from stepwell.frontends.onnx.lengths import declared_ranks, settle_lengths
from stepwell.frontends.onnx.padding import resolve_auto_pad
from stepwell.frontends.onnx.reading import (
    ExternalFiles,
    array_of,
    failure,
    quoted,
    read_model,
    sparse_array_of,
)
from stepwell.frontends.onnx.training import TRAINING, TRAINING_DOMAIN
from stepwell.frontends.onnx.upgrades import UPGRADES, Call, upgrade
from stepwell.frontends.onnx.vetting import (
    MAX_NODES,
    NEWEST_OPSET,
    FunctionKey,
    attribute_kind,
    domain_of,
    key_of,
    node_place,
    opsets_of,
    sorted_nodes,
    vet,
)

_A = onnx.AttributeProto
_DATA_TYPES = onnx.TensorProto.DataType


def _names_an_extent(name: str) -> bool:
    """
    Whether two extents of this name are meant to be equal. Exporters write `?`, `-1` or `None` for extents of
    which they know nothing.
    """
    return name != "None" and any(map(str.isalpha, name))


def import_onnx(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    ctx: Context,
    dims: Mapping[str, int] | None = None,
) -> ModuleOp:
    """
    The module of the graph dialect that means what the model means.

    `source` is a path, the bytes of a file, or a model; `dims` gives numbers to named extents of the inputs. Weights
    go to the store of `ctx`, without a copy where the file holds them as raw bytes.
    Errors: `ImportModelError` for a file that breaks the rules of ONNX, `UnsupportedError` for what this compiler
    lacks, with the whole list of missing operators at once.
    """
    read = read_model(source)
    with read.files, deep_recursion():
        try:
            vet(read.model, read.label)
            return Importer(read.label, read.model, read.files, ctx).module(dict(dims or {}))
        except UnicodeDecodeError:
            raise failure(read.label, "a name in the model is not UTF-8", "export the model again") from None
        except MemoryError:
            raise failure(read.label, "the model does not fit into memory", "use a smaller model") from None


@dataclass
class _Lazy:
    """An initializer that nothing has read yet."""

    tensor: onnx.TensorProto | onnx.SparseTensorProto


@dataclass
class _Scope:
    """Names of one graph or function body; lookups go on in the graph around it."""

    around: "_Scope | None" = None
    values: dict[str, SSAValue | _Lazy] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    """The ranks that the file gives to values; trusted only where they can be known in no other way."""

    def __contains__(self, name: str) -> bool:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return True
            scope = scope.around
        return False


@dataclass(frozen=True)
class Subgraph:
    """A graph-valued attribute, with the names and versions that its nodes see."""

    graph: onnx.GraphProto
    scope: _Scope
    versions: Mapping[str, int]
    bindings: Mapping[str, Any]


class Importer:
    """The state of one import: where new ops go, and what the node at hand is called."""

    def __init__(self, label: str, model: onnx.ModelProto, files: ExternalFiles, ctx: Context):
        self.label, self.model, self.files, self.ctx = label, model, files, ctx
        self.functions: dict[FunctionKey, onnx.FunctionProto] = {key_of(f): f for f in model.functions}
        self.last_constant: Operation | None = None
        self.known_constants: dict[tuple[Any, ...], SSAValue] = {}
        self.scope = _Scope()
        self.main = self.block = Block()
        # Symbols are counted function by function, so the block is in one from the start.
        self.function = FuncOp("main", FunctionType.from_lists([], []), Region(self.main))
        self.where = label
        self.location: Any = None
        self.rank: int | None = None
        """The rank that the file gives to the first result of the node at hand."""
        self.raised: dict[SSAValue, str] = {}
        """Results whose rank the branches of an `If` do not agree on, with the words for an error."""
        self.nodes = 0
        self.file = StringAttr(label)
        self.symbols: set[str] = set()
        self.dim_names: dict[str, str] = {}
        """The file's own names of the symbols that are called otherwise here."""
        self.fresh = 0

    # Types and interface

    def module(self, dims: dict[str, int]) -> ModuleOp:
        graph, versions = self.model.graph, opsets_of(self.model.opset_import, self.label) or {"": 1}
        self._report_missing(versions)
        scope = _Scope(None, self._initializers(graph), declared_ranks(graph))
        self._reserve_symbols(graph)
        renamed: dict[str, Dim] = {}
        arguments = []
        for value in graph.input:
            where = f"{self.label}: input {quoted(value.name)}"
            if value.name in scope.values:
                continue  # a weight, listed among the inputs as before IR version 4
            type = self._type(value.type, where, dims, renamed)
            argument = self.block.insert_arg(type, len(self.block.args))
            scope.values[value.name] = argument
            arguments.append(DictionaryAttr({"graph.name": StringAttr(value.name)}))
        if unknown := sorted(set(dims) - set(renamed)):
            known = ", ".join(sorted(renamed)) or "none"
            raise failure(
                self.label, f"no input has the extent {', '.join(unknown)}", f"the named extents: {known}"
            )
        self._run(graph.node, scope, versions, {})
        outputs, results = [], []
        for value in graph.output:
            where = f"{self.label}: output {quoted(value.name)}"
            result = self._find(value.name, scope, where)
            self._check_declared(value, result.type, where)
            outputs.append(result)
            results.append(DictionaryAttr({"graph.name": StringAttr(value.name)}))
        if not outputs:
            raise failure(self.label, "the model has no output", "export the model again")
        self.block.add_op(ReturnOp(*outputs))
        refuse_told_ranks(self.raised)
        type = FunctionType.from_lists([a.type for a in self.block.args], [v.type for v in outputs])
        main = self.function
        main.properties["function_type"] = type
        main.properties["arg_attrs"], main.properties["res_attrs"] = ArrayAttr(arguments), ArrayAttr(results)
        module = ModuleOp([main], {"stepwell.metadata": self._metadata(versions)})
        if self.dim_names:
            names: dict[str, Attribute] = {s: StringAttr(name) for s, name in self.dim_names.items()}
            module.attributes[DIM_NAMES_KEY] = DictionaryAttr(names)
        module.location = main.location = FileLineColLoc(self.file, IntAttr(0), IntAttr(0))
        return module

    def _metadata(self, versions: Mapping[str, int]) -> DictionaryAttr:
        model = self.model
        texts = {
            "producer": model.producer_name,
            "producer_version": model.producer_version,
            "domain": model.domain,
            "doc": model.doc_string,
            "graph": model.graph.name,
            "graph_doc": model.graph.doc_string,
        }
        entries: dict[str, Attribute] = {name: StringAttr(text) for name, text in texts.items() if text}
        if model.model_version:
            entries["version"] = IntegerAttr(model.model_version, i64)
        entries["opset"] = DictionaryAttr({d or "ai.onnx": IntegerAttr(v, i64) for d, v in versions.items()})
        if model.metadata_props:
            entries["properties"] = DictionaryAttr({e.key: StringAttr(e.value) for e in model.metadata_props})
        return DictionaryAttr(entries)

    def _reserve_symbols(self, graph: onnx.GraphProto) -> None:
        for value in graph.input:
            if value.type.HasField("tensor_type"):
                self.symbols.update(dim.dim_param for dim in value.type.tensor_type.shape.dim)

    def fresh_symbol(self) -> Dim:
        while (name := f"s{self.fresh}") in self.symbols:
            self.fresh += 1
        self.symbols.add(name)
        return symbol(name)

    def _symbol_of(self, name: str) -> Dim:
        """The symbol of an extent that the file calls `name`, as like it as the spelling of symbols allows."""
        named = _names_an_extent(name)
        if named and building.is_symbol(name):
            return symbol(name)
        near = re.sub(r"[^A-Za-z0-9_.$]+", "_", name).strip("_")
        if named and building.is_symbol(near) and near not in self.symbols:
            self.symbols.add(near)
            extent = symbol(near)
        else:
            extent = self.fresh_symbol()
        self.dim_names[str(extent)] = name
        return extent

    def _type(
        self, proto: onnx.TypeProto, where: str, dims: Mapping[str, int], renamed: dict[str, Dim]
    ) -> Attribute:
        kind = proto.WhichOneof("value")
        if kind == "sequence_type":
            return SequenceType(self._element_type(proto.sequence_type.elem_type, where, dims, renamed))
        if kind == "optional_type":
            return OptionalType(self._element_type(proto.optional_type.elem_type, where, dims, renamed))
        if kind == "map_type":
            return self._map_type(proto.map_type, where)
        if kind != "tensor_type":
            what = (kind or "no_type").removesuffix("_type").replace("_", " ")
            raise UnsupportedError(f"{where}: a value of type {what}; export with tensors only")
        tensor = proto.tensor_type
        element = self._element(tensor.elem_type, where)
        if not tensor.HasField("shape"):
            raise UnsupportedError(
                f"{where}: its rank is not known; export with a shape (extents may be symbols)"
            )
        if len(tensor.shape.dim) > 64:
            raise failure(where, f"a rank of {len(tensor.shape.dim)}", "use at most 64 dimensions")
        extents: list[Dim] = []
        for dim in tensor.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                extents.append(dim.dim_value)
            elif name := dim.dim_param:
                if name not in renamed or not (_names_an_extent(name) or name in dims):
                    if dims.get(name, 0) < 0:
                        raise failure(
                            where, f"the extent {name} is set to {dims[name]}", "give a positive number"
                        )
                    renamed[name] = dims[name] if name in dims else self._symbol_of(name)
                extents.append(renamed[name])
            else:
                extents.append(self.fresh_symbol())
        try:
            return tensor_type(extents, element)
        except VerifyException as error:
            raise failure(where, str(error), "use smaller extents") from None

    def _map_type(self, proto: onnx.TypeProto.Map, where: str) -> Attribute:
        """The type of a map; values are scalars, also where an exporter says that they have one extent of 1."""
        value = proto.value_type.tensor_type
        if not proto.value_type.HasField("tensor_type") or any(dim.dim_value != 1 for dim in value.shape.dim):
            raise UnsupportedError(f"{where}: a map whose values are no scalars; export scalars")
        key, element = self._element(proto.key_type, where), self._element(value.elem_type, where)
        try:
            return MapType(key, tensor_type([], element))
        except VerifyException as error:
            reason = str(error).strip().split("\n")[-1]
            raise UnsupportedError(f"{where}: a map: {reason}; export another type") from None

    def _element_type(
        self, proto: onnx.TypeProto, where: str, dims: Mapping[str, int], renamed: dict[str, Dim]
    ) -> Attribute:
        """The type of what a sequence or optional holds: its rank may be open, its symbols name nothing outside."""
        if proto.WhichOneof("value") == "tensor_type" and not proto.tensor_type.HasField("shape"):
            return UnrankedTensorType(self._element(proto.tensor_type.elem_type, where))
        known: dict[str, Dim] = {name: extent for name, extent in renamed.items() if isinstance(extent, int)}
        type = held(self._type(proto, where, dims, known))
        renamed.update((name, extent) for name, extent in known.items() if isinstance(extent, int))
        return type

    def _element(self, kind: int, where: str) -> Attribute:
        element = ONNX_ELEMENTS.get(kind)
        if element is None:
            if kind not in onnx.TensorProto.DataType.values():
                raise failure(where, f"the unknown element type {kind}", "export the model again")
            name = onnx.TensorProto.DataType.Name(kind).lower()
            raise UnsupportedError(f"{where}: elements of type {name}; convert the model to a supported type")
        return element

    def _check_declared(self, value: onnx.ValueInfoProto, type: Attribute, where: str) -> None:
        """The file's own words on an output may not contradict what the graph computes."""
        inner = type.element if isinstance(type, SequenceType) else type
        if isinstance(inner, MapType) and value.type.WhichOneof("value"):
            if (declared := self._type(value.type, where, {}, {})) != type:
                raise failure(
                    where, f"declared as {declared}, but the graph computes {type}", "export it again"
                )
        if value.type.WhichOneof("value") != "tensor_type" or not isinstance(type, TensorType):
            return
        tensor = value.type.tensor_type
        if tensor.elem_type and self._element(tensor.elem_type, where) != type.element_type:
            raise failure(
                where, f"declared with another element type than {type.element_type}", "export it again"
            )
        if not tensor.HasField("shape"):
            return
        declared = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        shape = list(type.get_shape())
        clash = any(d > 0 and s >= 0 and d != s for d, s in zip(declared, shape, strict=False))
        if len(declared) != len(shape) or clash:
            said = ", ".join(
                str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
            )
            found = print_dims(dims_of(type))
            raise failure(
                where, f"declared as [{said}], but the graph computes [{found}]", "export the model again"
            )

    def _initializers(self, graph: onnx.GraphProto) -> dict[str, SSAValue | _Lazy]:
        values: dict[str, SSAValue | _Lazy] = {t.name: _Lazy(t) for t in graph.initializer}
        values.update((t.values.name, _Lazy(t)) for t in graph.sparse_initializer)
        return values

    # What is missing, all at once

    def _report_missing(self, versions: Mapping[str, int]) -> None:
        places: dict[str, list[str]] = {}
        pending: list[tuple[Iterable[onnx.NodeProto], Mapping[str, int]]] = [
            (self.model.graph.node, versions)
        ]
        pending += [
            (f.node, {**versions, **opsets_of(f.opset_import, self.label)}) for f in self.functions.values()
        ]
        while pending:
            nodes, known = pending.pop()
            for index, node in enumerate(nodes):
                domain = domain_of(node.domain)
                if not self._is_known(node, domain, known):
                    name = f"{domain}.{node.op_type}" if domain else node.op_type
                    version = "" if domain else f" of opset {known.get('', 1)}"
                    place = quoted(node.name) if node.name else f"#{index}"
                    places.setdefault(quoted(name)[1:-1] + version, []).append(place)
                for attribute in node.attribute:
                    graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
                    pending += [(graph.node, known) for graph in graphs]
        if places:
            listed = "; ".join(
                f"{name} x{len(where)} (node {', '.join(where[:3])}{', ...' if len(where) > 3 else ''})"
                for name, where in sorted(places.items())
            )
            count = f"{len(places)} operator{'s' if len(places) > 1 else ''}"
            fix = "replace them or export otherwise"
            if all("." in name for name in places):  # of the user's domains
                fix += ", or say what they mean in a plug-in (--load-pass)"
            raise UnsupportedError(f"{self.label}: {count} not supported: {listed}; {fix}")

    def _is_known(self, node: onnx.NodeProto, domain: str, versions: Mapping[str, int]) -> bool:
        if (domain, node.op_type, node.overload) in self.functions:
            return True
        if contrib_rule(node.op_type, domain, versions.get(domain, 1)) is not None:
            return True
        if domain in _RULES_BY_DOMAIN:
            return node.op_type in _RULES_BY_DOMAIN[domain]
        if domain and node.op_type in building.operators_of(domain):
            return True
        schema = _schema(node.op_type, domain, versions.get(domain, 1))
        if not domain and schema is None and node.op_type == "LayerNormalization":
            return True
        if schema is None:
            return False
        if node.op_type in building.operators_of(domain) or (
            not domain and node.op_type in _IMPORTED_SPECIALLY
        ):
            return True
        newest = _schema(node.op_type, domain, 1 << 30)
        return newest is not None and _has_body(newest)

    # Nodes

    def _find(self, name: str, scope: _Scope, where: str) -> SSAValue:
        at: _Scope | None = scope
        while at is not None:
            if (value := at.values.get(name)) is not None:
                if isinstance(value, _Lazy):
                    value = at.values[name] = self._initializer(value.tensor)
                return value
            at = at.around
        raise failure(where, f"reads {quoted(name)}, which nothing defines", "export the model again")

    def _initializer(self, tensor: onnx.TensorProto | onnx.SparseTensorProto) -> SSAValue:
        if isinstance(tensor, onnx.SparseTensorProto):
            where = f"{self.label}: initializer {quoted(tensor.values.name)}"
            return self.constant(sparse_array_of(tensor, self.files, where))
        where = f"{self.label}: initializer {quoted(tensor.name)}"
        element = self._element(tensor.data_type, where)
        value = self.constant(array_of(tensor, self.files, where), element)
        return value

    def _run(
        self,
        nodes: Iterable[onnx.NodeProto],
        scope: _Scope,
        versions: Mapping[str, int],
        bindings: Mapping[str, Any],
    ) -> None:
        inside, around = self.location, self.scope
        self.scope = scope
        for index, node in sorted_nodes(nodes, scope, self.label):
            self.nodes += 1
            self.where = where = node_place(self.label, node, index)
            if self.nodes > MAX_NODES:
                raise failure(
                    where, f"more than {MAX_NODES} nodes once functions are inlined", "split the model"
                )
            if inside is None:
                position = FileLineColLoc(self.file, IntAttr(index), IntAttr(0))
                name = node.name or (node.output[0] if node.output else node.op_type)
                self.location = NameLoc(StringAttr(name), position)
            operands = [self._find(name, scope, where) if name else None for name in node.input]
            attributes = self._attributes(node, scope, versions, bindings, where)
            self.rank = scope.ranks.get(node.output[0]) if node.output else None
            results = self._call(node, operands, attributes, versions)
            for name, result in zip(node.output, results, strict=False):
                if name and result is not None:
                    scope.values[name] = result
        self.location, self.scope = inside, around

    def _attributes(
        self,
        node: onnx.NodeProto,
        scope: _Scope,
        versions: Mapping[str, int],
        bindings: Mapping[str, Any],
        where: str,
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for attribute in node.attribute:
            if reference := attribute.ref_attr_name:
                if reference in bindings:
                    values[attribute.name] = bindings[reference]
                continue
            kind = attribute_kind(attribute)
            if kind == _A.INT:
                value: Any = attribute.i
            elif kind == _A.FLOAT:
                value = attribute.f
            elif kind == _A.STRING:
                value = _text(attribute.s)
                if isinstance(value, bytes) and node.op_type != "Constant":
                    name = quoted(attribute.name)
                    raise failure(where, f"the attribute {name} is not UTF-8", "export the model again")
            elif kind == _A.INTS:
                value = list(attribute.ints)
            elif kind == _A.FLOATS:
                value = list(attribute.floats)
            elif kind == _A.STRINGS:
                value = [_text(text) for text in attribute.strings]
                if not all(isinstance(text, str) for text in value):
                    name = quoted(attribute.name)
                    raise failure(where, f"a string of the attribute {name} is not UTF-8", "export it again")
            elif kind == _A.TENSOR:
                value = array_of(attribute.t, self.files, where)
                self._element(attribute.t.data_type, where)
            elif kind == _A.SPARSE_TENSOR:
                value = sparse_array_of(attribute.sparse_tensor, self.files, where)
            elif kind == _A.GRAPH:
                value = Subgraph(attribute.g, scope, versions, bindings)
            elif kind == _A.TYPE_PROTO:
                value = self._type(attribute.tp, where, {}, {})
            elif kind == _A.UNDEFINED:
                value = []
            else:
                name = _A.AttributeType.Name(kind).lower()
                raise UnsupportedError(f"{where}: an attribute of type {name}; export the model otherwise")
            values[attribute.name] = value
        return values

    def _call(
        self,
        node: onnx.NodeProto,
        operands: list[SSAValue | None],
        attributes: dict[str, Any],
        versions: Mapping[str, int],
    ) -> Sequence[SSAValue | None]:
        domain, op = domain_of(node.domain), node.op_type
        used = [bool(name) for name in node.output]
        if function := self.functions.get((domain, op, node.overload)):
            known = {**versions, **opsets_of(function.opset_import, self.label)}
            return self._inline(function, operands, attributes, known, used)
        where, location = self.where, self.location
        call = Call(op, domain, versions.get(domain, 1), operands, attributes, used, where)
        try:
            results = self._standard(call)
        except _REFUSALS as error:
            raise self._reported(error, where) from error
        finally:
            self.where, self.location = where, location
        if len(results) < len(used):
            raise failure(
                where, f"{len(used)} outputs are named, {len(results)} exist", "export the model again"
            )
        return results

    def _reported(self, error: Exception, where: str) -> Exception:
        text = str(error).strip().split("\n")[-1] if isinstance(error, VerifyException) else str(error)
        if isinstance(error, UnsupportedOperation | NotImplementedError):
            return UnsupportedError(f"{where}: {error}")
        if "must be a constant" in text:
            return UnsupportedError(f"{where}: {text}; export with constant shapes, or give the extents")
        if isinstance(error, VerifyException | PassFailedException):
            return ImportModelError(f"{where}: {text}; correct the model")
        return InternalError(f"{where}: {type(error).__name__}: {text}; please report this model")

    def _standard(self, call: Call) -> Sequence[SSAValue | None]:
        if rule := contrib_rule(call.op, call.domain, call.version):
            return list(apply_rule(rule, call, self))
        of_plugin = call.domain and call.domain not in _RULES_BY_DOMAIN
        if of_plugin and call.op in building.operators_of(call.domain):
            # An op of a plug-in: its class says what it takes.
            return self._build(call.op, call.domain, call.operands, call.attributes, call.used)
        if not call.domain and call.op == "LayerNormalization":
            # ONNX Runtime writes it into opsets that did not have it yet.
            call.version = max(call.version, 17)
        schema = _schema(call.op, call.domain, call.version)
        assert schema is not None, "missing operators were reported before"
        self._check(call, schema)
        _fill_defaults(call.attributes, schema)
        settle_lengths(call, self, self.rank)
        if call.domain in _RULES_BY_DOMAIN:
            results = _RULES_BY_DOMAIN[call.domain][call.op](call, self)
            assert results is not None, "a rule of another domain makes its results"
            return list(results)
        if not call.domain:
            if call.op == "Constant":
                return [self._constant_node(call)]
            if (results := upgrade(call, self)) is not None:
                return list(results)
        return self._build(call.op, call.domain, call.operands, call.attributes, call.used)

    def _check(self, call: Call, schema: onnx.defs.OpSchema) -> None:
        listed = len(call.operands)  # an absent one at the end counts, as in Loop(count, "")
        while call.operands and call.operands[-1] is None:
            call.operands.pop()
        if not schema.min_input <= listed or len(call.operands) > schema.max_input:
            limits = f"{schema.min_input} to {schema.max_input}"
            raise failure(
                call.where, f"{len(call.operands)} inputs, where {limits} belong", "export it again"
            )
        if not schema.min_output <= len(call.used) <= schema.max_output:
            limits = f"{schema.min_output} to {schema.max_output}"
            raise failure(call.where, f"{len(call.used)} outputs, where {limits} belong", "export it again")
        for place, value in enumerate(call.operands):
            formal = schema.inputs[min(place, len(schema.inputs) - 1)]
            if value is None and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
                raise failure(call.where, f"the input {formal.name} is absent", "export the model again")
        self._check_types(call, schema)
        for name, value in call.attributes.items():
            formal = schema.attributes.get(name)
            if formal is None:
                if name.startswith("_") or name == "consumed_inputs":
                    continue
                known = ", ".join(schema.attributes) or "none"
                raise failure(call.where, f"the unknown attribute {quoted(name)}", f"the attributes: {known}")
            # onnx's stubs do not say that its enums are numbers
            if not _ATTRIBUTE_CLASS[int(formal.type)](value):  # pyright: ignore[reportArgumentType]
                kind = str(formal.type).rsplit(".", 1)[-1].lower()
                raise failure(call.where, f"the attribute {name} is no {kind}", "export the model again")
        for name, formal in schema.attributes.items():
            if formal.required and name not in call.attributes:
                raise failure(call.where, f"the attribute {name} is missing", "export the model again")

    def _check_types(self, call: Call, schema: onnx.defs.OpSchema) -> None:
        """Each input has a type that its operator takes, and equal ones where the operator wants them so."""
        allowed, variables = _input_types(schema.name, schema.domain, schema.since_version)
        bound: dict[str, Attribute] = {}
        for place, value in enumerate(call.operands):
            if value is None or not isinstance(value.type, TensorType):
                continue
            at = min(place, len(allowed) - 1)
            element = value.type.element_type
            name = schema.inputs[at].name
            if allowed[at] and element not in allowed[at]:
                raise failure(call.where, f"the input {name} has elements of type {element}", "cast it first")
            if (variable := variables[at]) and bound.setdefault(variable, element) != element:
                why = f"the input {name} has elements of type {element}, others of type {bound[variable]}"
                raise failure(call.where, why, "cast one of them")

    def _constant_node(self, call: Call) -> SSAValue:
        values = [(n, v) for n, v in call.attributes.items() if n.startswith(("value", "sparse_value"))]
        if len(values) != 1:
            raise failure(call.where, f"a constant with {len(values)} values", "give it exactly one")
        name, value = values[0]
        if name in ("value_int", "value_ints"):
            value = np.array(value, np.int64)
        elif name in ("value_float", "value_floats"):
            value = np.array(value, np.float32)
        elif name in ("value_string", "value_strings"):
            value = np.array(value, object)
        return self.constant(value)

    # Emitting

    def constant(self, value: np.ndarray, element: Attribute | None = None) -> SSAValue:
        """A constant at the top of `main`; equal small ones are one."""
        key: tuple[Any, ...] | None = None
        if value.dtype != object and value.nbytes <= 1024:
            key = (value.dtype, element, value.shape, value.tobytes())
            if (known := self.known_constants.get(key)) is not None:
                return known
        op = building.constant(value, self.ctx, element)
        if self.location is not None:
            op.location = self.location
        # They stand first in `main`, in the order of their first use.
        if self.last_constant is not None:
            self.main.insert_op_after(op, self.last_constant)
        elif (first := self.main.first_op) is not None:
            self.main.insert_op_before(op, first)
        else:
            self.main.add_op(op)
        self.last_constant = op
        if key is not None:
            self.known_constants[key] = op.results[0]
        return op.results[0]

    def emit(
        self, op: str, *operands: SSAValue | None, results: int = 1, **attributes: Any
    ) -> list[SSAValue]:
        known = _schema(op, "", 1 << 30) is not None or op in building.operators_of("")
        assert known, f"{op} must be an operator of the newest opset, or one of ours"
        made = self._build(op, "", list(operands), attributes, [True] * results)[:results]
        return [value for value in made if value is not None]

    def inline(self, function: onnx.FunctionProto, *operands: SSAValue) -> list[SSAValue]:
        """The results of a function that calls nothing but operators of the newest opset."""
        used = [True] * len(function.output)
        made = self._inline(function, operands, {}, {"": NEWEST_OPSET}, used)
        return [value for value in made if value is not None]

    def named(self, name: str) -> SSAValue:
        """The value that the nodes at hand call `name`."""
        return self._find(name, self.scope, self.where)

    def shape(self, value: SSAValue) -> list[Any]:
        return list(dims_of(value.type))

    def element_type(self, value: SSAValue) -> Attribute:
        return value.type.element_type  # pyright: ignore[reportAttributeAccessIssue]

    def dtype(self, value: SSAValue) -> np.dtype:
        return numpy_dtype(self.element_type(value))

    def value(self, value: SSAValue) -> np.ndarray | None:
        return building.constant_value(value, self.ctx)

    def error(self, call: Call, why: str, fix: str) -> Exception:
        return failure(call.where, why, fix)

    def missing(self, call: Call, why: str, fix: str) -> Exception:
        return UnsupportedError(f"{call.where}: {why}; {fix}")

    def _build(
        self,
        op: str,
        domain: str,
        operands: Sequence[SSAValue | None],
        attributes: dict[str, Any],
        used: Sequence[bool],
    ) -> list[SSAValue | None]:
        schema = _schema(op, domain, 1 << 30)
        if schema is not None:
            _fill_defaults(attributes, schema)
        while operands and operands[-1] is None:
            operands = operands[:-1]
        kind = building.operators_of(domain).get(op)
        if kind is None:
            if schema is None or not _has_body(schema):
                raise UnsupportedError(
                    f"{self.where}: operator {op} is not supported; export the model otherwise"
                )
            return self._inline_standard(schema, operands, attributes, used)
        if attributes.get("auto_pad", "NOTSET") != "NOTSET":
            shapes = [dims_of(v.type) if v is not None else None for v in operands]
            resolve_auto_pad(op, shapes, attributes)
        regions = {name: value for name, value in attributes.items() if isinstance(value, Subgraph)}
        plain = {name: value for name, value in attributes.items() if name not in regions}
        if regions:
            # Pyright meets this file by two paths (src/stepwell links to it), hence two classes of the name.
            return list(build_with_regions(self, kind, operands, plain, regions))  # pyright: ignore[reportArgumentType]
        if kind.ONNX_NAME in ("SequenceAt", "OptionalGetElement", "ConcatFromSequence"):
            if (type := self._read_type(operands[0], plain)) is not None:
                return self.place(kind.build(operands, building.properties(kind, plain), result_types=[type]))
        return self.place(building.build(kind, operands, plain, used))

    def _read_type(self, value: SSAValue | None, attributes: Mapping[str, Any]) -> Attribute | None:
        """
        The type of a tensor that is read out of a sequence or optional whose type does not say the rank: the rank is
        the one that the file gives the result. None where the type of `value` says enough.
        """
        element = getattr(value.type, "element", None) if value is not None else None
        if not isinstance(element, UnrankedTensorType | NothingType):
            return None
        if self.rank is None:
            raise UnsupportedError(
                f"{self.where}: the rank of the tensor that it reads is not known; declare the shape of its output,"
                f" or of the elements of the sequence (extents may be symbols)"
            )
        return tensor_type([fresh_symbol(self.function) for _ in range(self.rank)], element.element_type)

    def place(self, op: GraphOp) -> list[SSAValue | None]:
        """Append `op` to the block at hand, with the location of the node at hand; its results in ONNX's order."""
        if self.location is not None:
            op.location = self.location
        self.block.add_op(op)
        return list(op.result_list())

    # Functions

    def _inline(
        self,
        function: onnx.FunctionProto,
        operands: Sequence[SSAValue | None],
        attributes: Mapping[str, Any],
        versions: Mapping[str, int],
        used: Sequence[bool],
    ) -> list[SSAValue | None]:
        where = self.where
        if len(operands) > len(function.input):
            why = f"{len(operands)} inputs for a function of {len(function.input)}"
            raise failure(where, why, "export the model again")
        scope = _Scope()
        for name, operand in zip(function.input, operands, strict=False):
            if operand is not None:
                scope.values[name] = operand
        absent = {name for name in function.input if name not in scope.values}
        bindings = self._defaults(function)
        bindings.update(attributes)
        location, self.location = (
            self.location,
            self.location or NameLoc(StringAttr(function.name), self._top()),
        )
        self._run([_without(node, absent) for node in function.node], scope, versions, bindings)
        wanted = [*used, *[False] * len(function.output)]
        results = [
            self._find(name, scope, where) if want or name in scope else None
            for name, want in zip(function.output, wanted, strict=False)
        ]
        self.location = location
        return results

    def _top(self) -> FileLineColLoc:
        return FileLineColLoc(self.file, IntAttr(0), IntAttr(0))

    def _defaults(self, function: onnx.FunctionProto) -> dict[str, Any]:
        node = onnx.NodeProto(attribute=function.attribute_proto)
        return self._attributes(node, _Scope(), {}, {}, self.where)

    def _inline_standard(
        self,
        schema: onnx.defs.OpSchema,
        operands: Sequence[SSAValue | None],
        attributes: Mapping[str, Any],
        used: Sequence[bool],
    ) -> list[SSAValue | None]:
        """Express an operator by the body that the standard gives it."""
        function = self._standard_body(schema, operands, attributes, used)
        if not function.node:  # the standard knows a body for static shapes only
            if (kind := ONNX_NAMES.get(schema.name)) is None:
                raise UnsupportedError(
                    f"{self.where}: operator {schema.name} of unknown extents; give the extents numbers"
                )
            return self.place(building.build(kind, operands, dict(attributes), used))
        versions = opsets_of(function.opset_import, self.label)
        known = {"": NEWEST_OPSET, **versions}
        # An output that nobody reads may be one that the body cannot compute from what is given.
        return self._inline(function, operands, attributes, known, used)

    def _standard_body(
        self,
        schema: Any,  # an OpSchema, with more members than onnx's stubs know
        operands: Sequence[SSAValue | None],
        attributes: Mapping[str, Any],
        used: Sequence[bool],
    ) -> onnx.FunctionProto:
        body = onnx.FunctionProto()
        if schema.has_function:
            body.CopyFrom(schema.function_body)
            return body
        inputs = [f"i{place}" if value is not None else "" for place, value in enumerate(operands)]
        outputs = [f"o{place}" if named else "" for place, named in enumerate(used)]
        node = onnx.helper.make_node(schema.name, inputs, outputs, domain=schema.domain)
        for name, value in attributes.items():
            formal = schema.attributes.get(name)
            if formal is None or value is None:
                continue
            if isinstance(value, np.ndarray):
                value = onnx.numpy_helper.from_array(value)
            elif isinstance(value, Subgraph):
                value = value.graph
            kind = int(formal.type)  # pyright: ignore[reportArgumentType]  # as in `_check_attributes`
            node.attribute.append(onnx.helper.make_attribute(name, value, attr_type=kind))
        types = [building.type_proto(v.type).SerializeToString() if v is not None else b"" for v in operands]
        version = max(schema.context_dependent_function_opset_versions)
        text = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
        body.ParseFromString(text)
        return body

    # Regions

    @contextlib.contextmanager
    def inside(self, block: Block) -> Iterator[None]:
        """New ops go to `block` until the context ends."""
        around, self.block = self.block, block
        try:
            yield
        finally:
            self.block = around

    def run_subgraph(self, subgraph: Subgraph, block: Block | None) -> list[SSAValue]:
        """
        Import the nodes of `subgraph` into `block`, whose arguments are its inputs (without one: where the ops go
        already); its outputs.
        """
        graph, where = subgraph.graph, self.where
        scope = _Scope(subgraph.scope, self._initializers(graph), declared_ranks(graph))
        arguments = list(block.args) if block is not None else []
        if len(graph.input) != len(arguments):
            why = f"a subgraph of {len(graph.input)} inputs, where {len(arguments)} belong"
            raise failure(where, why, "export the model again")
        scope.values.update(zip((v.name for v in graph.input), arguments, strict=True))
        location, self.location = self.location, None  # nodes of a subgraph have names of their own
        with self.inside(block or self.block):
            self._run(graph.node, scope, subgraph.versions, subgraph.bindings)
            results = [self._find(value.name, scope, where) for value in graph.output]
        self.where, self.location = where, location
        return results


_REFUSALS = (VerifyException, PassFailedException, ValueError, TypeError, IndexError, KeyError, AssertionError,
         AttributeError, ZeroDivisionError, OverflowError, NotImplementedError)  # fmt: skip
"""What building an op may raise on a model that breaks its operator's rules."""

_RULES_BY_DOMAIN = {CLASSICAL_DOMAIN: CLASSICAL, TRAINING_DOMAIN: TRAINING}

_IMPORTED_SPECIALLY = {"Constant", *(op for op, rules in UPGRADES.items() if rules[-1][0] == 1 << 30)}


def _is_list_of(value: Any, *kinds: type) -> bool:
    """Whether `value` is a list of nothing but these; one pass, since a forest lists millions."""
    return isinstance(value, list) and set(map(type, value)) <= set(kinds)


_I, _F, _S = (
    (lambda v: isinstance(v, int)),
    (lambda v: isinstance(v, float)),
    (lambda v: isinstance(v, str | bytes)),
)
_ATTRIBUTE_CLASS: dict[int, Any] = {
    _A.INT: _I,
    _A.FLOAT: _F,
    _A.STRING: _S,
    _A.TENSOR: lambda v: isinstance(v, np.ndarray),
    _A.GRAPH: lambda v: isinstance(v, Subgraph),
    _A.SPARSE_TENSOR: lambda v: isinstance(v, np.ndarray),
    _A.TYPE_PROTO: lambda v: isinstance(v, Attribute),
    _A.INTS: lambda v: _is_list_of(v, int),
    _A.FLOATS: lambda v: _is_list_of(v, float),
    _A.STRINGS: lambda v: _is_list_of(v, str, bytes),
}


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _without(node: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """`node` with the inputs in `absent`, which the caller of its function left out, left out too."""
    if not absent.intersection(node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = ["" if name in absent else name for name in node.input]
    return copy


def _has_body(schema: Any) -> bool:
    """Whether ONNX defines the operator by others. `schema` is an OpSchema; onnx's stubs lack what is asked of it."""
    return schema.has_function or schema.has_context_dependent_function


@lru_cache(maxsize=4096)
def _schema(op: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The form of an operator at an opset version, None if there is none."""
    try:
        return onnx.defs.get_schema(op, min(version, (1 << 31) - 1), domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=1024)
def _input_types(op: str, domain: str, version: int) -> tuple[list[frozenset[Attribute]], list[str]]:
    """
    Of each formal input of an operator: the element types it takes (none: it takes more than tensors), and
    the name of the type that it shares with others ("": it shares none).
    """
    schema = _schema(op, domain, version)
    assert schema is not None
    constraints = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    allowed, variables = [], []
    for formal in schema.inputs:
        texts = constraints.get(formal.type_str, [formal.type_str])
        tensors = all(text.startswith("tensor(") for text in texts)
        allowed.append(
            frozenset(_ELEMENTS[t[7:-1]] for t in texts if t[7:-1] in _ELEMENTS) if tensors else frozenset()
        )
        shared = tensors and formal.type_str in constraints and formal.is_homogeneous
        variables.append(formal.type_str if shared else "")
    return allowed, variables


_ELEMENTS = {_DATA_TYPES.Name(kind).lower(): element for kind, element in ONNX_ELEMENTS.items()} | {
    "float": ONNX_ELEMENTS[1],
    "double": ONNX_ELEMENTS[11],
}
"""Element types by their name in the schemas of ONNX."""


@lru_cache(maxsize=1024)
def _defaults_of(op: str, domain: str, version: int) -> dict[str, Any]:
    schema = _schema(op, domain, version)
    assert schema is not None
    values = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            values[name] = value.decode() if isinstance(value, bytes) else value
    return values


def _fill_defaults(attributes: dict[str, Any], schema: onnx.defs.OpSchema) -> None:
    for name, value in _defaults_of(schema.name, schema.domain, schema.since_version).items():
        attributes.setdefault(name, value)
