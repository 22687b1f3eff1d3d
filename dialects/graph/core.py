"""The base of every `graph` op: how one is declared, built, inferred, printed, parsed and verified.

An op is declared by its operands, properties and results, and one method, `output_types`:

    @operator
    class FlattenOp(GraphOp):
        \"\"\"...\"\"\"
        input = operand_def(TENSOR)
        axis = integer(1)
        output = result_def(TENSOR)

        def output_types(self): ...

`operator` derives the name (`graph.flatten`) from the class name by the law of names, adds the segment sizes
where several operands or results are optional, and enters the class in `OPERATORS`.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar
from weakref import WeakKeyDictionary

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    f32,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue
from xdsl.ir.core import SSAValues
from xdsl.irdl import (
    AnyAttr,
    AttrSizedOperandSegments,
    AttrSizedResultSegments,
    BaseAttr,
    IRDLOperation,
    OptionalDef,
    ParsePropInAttrDict,
    VariadicDef,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
)
from xdsl.irdl.operations import PropertyDef
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from stepwell.compat import OperandFieldDef, ResultFieldDef
from stepwell.dialects.graph.shape import (
    Dim,
    Expr,
    broadcast_of,
    compatible,
    dims_of,
    print_dims,
    symbol,
    symbols_of,
    unknown,
)
from stepwell.dialects.graph.types import dense_from_numpy

TENSOR = BaseAttr(TensorType)
"""Any ranked tensor."""
VALUE = AnyAttr()
"""A tensor, a sequence, an optional or a map."""

OPERATORS: "dict[str, type[GraphOp]]" = {}
"""ONNX operator name to its class; filled by `operator`."""

_SPELLINGS = {
    "MatMul": "Matmul",
    "QLinear": "Qlinear",
    "PRelu": "Prelu",
    "NaN": "Nan",
    "GLU": "Glu",
    "Col2Im": "Col2im",
}
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """
    The law of names: `BatchNormalization` is `batch_normalization`, `MatMul` is `matmul`, `LSTM` is `lstm`.
    """
    for spelling, plain in _SPELLINGS.items():
        name = name.replace(spelling, plain)
    return _WORD.sub("_", name).lower()


# --- properties -----------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def int_attr(value: int) -> IntegerAttr:
    """The `i64` attribute of `value`."""
    return IntegerAttr(value, i64)


@lru_cache(maxsize=1024)
def float_attr(value: float) -> FloatAttr:
    """The `f32` attribute of the float32 nearest to `value`."""
    return FloatAttr(struct.unpack("<f", struct.pack("<f", value))[0], f32)


def _defined(constraint: Any, default: Attribute | None, optional: bool) -> Any:
    return opt_prop_def(constraint) if optional else prop_def(constraint, default)


def integer(default: int | None = None, *, optional: bool = False) -> Any:
    """An `i64` property."""
    return _defined(BaseAttr(IntegerAttr), None if default is None else int_attr(default), optional)


def real(default: float | None = None, *, optional: bool = False) -> Any:
    """An `f32` property."""
    return _defined(BaseAttr(FloatAttr), None if default is None else float_attr(default), optional)


def string(default: str | None = None, *, optional: bool = False) -> Any:
    """A string property."""
    return _defined(BaseAttr(StringAttr), None if default is None else StringAttr(default), optional)


def integers(default: Sequence[int] | None = None, *, optional: bool = True) -> Any:
    """An `array<i64: ...>` property."""
    attribute = None if default is None else DenseArrayBase.from_list(i64, list(default))
    return _defined(BaseAttr(DenseArrayBase), attribute, optional and default is None)


def reals(*, optional: bool = True) -> Any:
    """An `array<f32: ...>` property."""
    return _defined(BaseAttr(DenseArrayBase), None, optional)


def strings(default: Sequence[str] | None = None) -> Any:
    """A property that is a list of strings; without a default it is optional."""
    attribute = None if default is None else ArrayAttr([StringAttr(s) for s in default])
    return _defined(BaseAttr(ArrayAttr), attribute, default is None)


def element(default: Attribute | None = None, *, optional: bool = False) -> Any:
    """A property that is an element type."""
    return _defined(AnyAttr(), default, optional)


def tensor_value(*, optional: bool = True) -> Any:
    """A property that is a constant tensor."""
    return _defined(AnyAttr(), None, optional)


def value_of(attribute: Attribute | None) -> Any:
    """The Python value of a property: int, float, str, tuple; None if it is absent; a type stays itself."""
    if isinstance(attribute, IntegerAttr | FloatAttr):
        return attribute.value.data
    if isinstance(attribute, StringAttr):
        return attribute.data
    if isinstance(attribute, DenseArrayBase):
        return tuple(attribute.get_values())
    if isinstance(attribute, ArrayAttr):
        return tuple(value_of(a) for a in attribute)
    return attribute


def attribute_of(value: Any, like: PropertyDef | None = None) -> Attribute:
    """The property of a Python value: what `value_of` undoes; `like` decides between `1` and `1.0`."""
    if isinstance(value, Attribute):
        return value
    wants_float = like is not None and isinstance(like.constr, BaseAttr) and like.constr.attr is FloatAttr
    if isinstance(value, bool | int) and not wants_float:
        return int_attr(int(value))
    if isinstance(value, int | float):
        return float_attr(float(value))
    if isinstance(value, str | bytes):
        return StringAttr(value.decode() if isinstance(value, bytes) else value)
    if hasattr(value, "dtype"):
        return dense_from_numpy(value)
    items = list(value)
    if items and isinstance(items[0], str | bytes):
        return ArrayAttr([attribute_of(v) for v in items])
    if items and isinstance(items[0], float):
        return DenseArrayBase.from_list(f32, [float(v) for v in items])
    return DenseArrayBase.from_list(i64, [int(v) for v in items])


# --- the base class -------------------------------------------------------------------------------

_SEGMENTS = ("operandSegmentSizes", "resultSegmentSizes")


class GraphOp(IRDLOperation):
    """An operator of the `graph` dialect; see the module's docstring."""

    irdl_options = (ParsePropInAttrDict(),)
    PURE: ClassVar[bool] = True
    """Whether equal ops have equal results, and one without users may go."""

    OPERAND_KINDS: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(name, `one` | `optional` | `many`) of each declared operand, in order."""
    RESULT_KINDS: ClassVar[tuple[tuple[str, str], ...]] = ()
    REGION_COUNT: ClassVar[int] = 0
    ONNX_NAME: ClassVar[str] = ""
    ONNX_DOMAIN: ClassVar[str] = ""
    """The domain of the operator."""

    @classmethod
    def build(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        operands: Sequence[SSAValue | Operation | None] = (),
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: Sequence[bool] | int | None = None,
        regions: Sequence[Region] = (),
        result_types: Sequence[Attribute] | None = None,
    ) -> Any:
        """
        The op with inferred result types. `operands` are ONNX's inputs in order, None where one is absent;
        `attributes` are attributes or Python values, and missing ones take ONNX's defaults.
        `outputs` says which results are wanted (how many, or a flag each); by default those that are not
        optional.
        """
        present = [SSAValue.get(v) if v is not None else None for v in operands]
        properties: dict[str, Attribute] = {}
        declared = cls.get_irdl_definition().properties
        for key, value in (attributes or {}).items():
            if value is None:
                continue
            if key not in declared:
                raise VerifyException(
                    f"{cls.name} has no attribute {key!r}; it has {', '.join(sorted(declared)) or 'none'}"
                )
            properties[key] = attribute_of(value, declared[key])
        sizes = _segment_sizes(cls, cls.OPERAND_KINDS, [v is not None for v in present], "operand")
        if _needs_segments(cls.OPERAND_KINDS):
            properties["operandSegmentSizes"] = _segments(sizes)
        op = cls.create(
            operands=[v for v in present if v is not None], properties=properties, regions=list(regions)
        )
        for name, definition in declared.items():
            if (
                name not in op.properties
                and name not in _SEGMENTS
                and not isinstance(definition, OptionalDef)
                and definition.default_value is None
            ):
                raise VerifyException(f"{cls.name}: attribute {name!r} is required")
        if result_types is None:
            op.wanted_outputs = outputs if isinstance(outputs, int) else len(outputs or ())
            every = op.output_types()
            kinds = cls.RESULT_KINDS
            if outputs is None:
                optional = [i < len(kinds) and kinds[i][1] == "optional" for i in range(len(every))]
                wanted = [all(optional) or not o for o in optional]
            elif isinstance(outputs, int):
                wanted = [i < outputs for i in range(len(every))]
            else:
                wanted = [i < len(outputs) and bool(outputs[i]) for i in range(len(every))]
            op.set_results([t if keep else None for t, keep in zip(every, wanted, strict=True)])
        else:
            op.set_results(list(result_types))
        return op

    @property
    def wanted_outputs(self) -> int:
        """While the op is built: how many results were asked for; 0 if that was not said."""
        return self.__dict__.get("__wanted__", 0)

    @wanted_outputs.setter
    def wanted_outputs(self, count: int) -> None:
        vars(self)["__wanted__"] = count

    def set_results(self, types: Sequence[Attribute | None]) -> None:
        """Give a new op its results; None marks an optional one that is absent."""
        sizes = _segment_sizes(type(self), self.RESULT_KINDS, [t is not None for t in types], "result")
        if _needs_segments(self.RESULT_KINDS):
            self.properties["resultSegmentSizes"] = _segments(sizes)
        present = [t for t in types if t is not None]
        self.results = SSAValues(OpResult(t, self, i) for i, t in enumerate(present))

    def output_types(self) -> Sequence[Attribute | None]:
        """
        The type of every declared output, the optional ones included (of a variadic one, all its values).
        """
        raise NotImplementedError(f"{self.name} does not infer its types")

    def infer_types(self) -> Sequence[Attribute]:
        """The types of the results that are present."""
        every = self.output_types()
        return [
            t
            for t, keep in zip(every, self.present_outputs(len(every)), strict=True)
            if keep and t is not None
        ]

    def present_outputs(self, count: int | None = None) -> list[bool]:
        """For each declared output, whether it is a result (a variadic one stands for all its values)."""
        kinds = self.RESULT_KINDS
        count = len(kinds) if count is None else count
        if "resultSegmentSizes" in self.properties:
            flags: list[bool] = []
            sizes = value_of(self.properties["resultSegmentSizes"])
            for size, (_, kind) in zip(sizes, kinds, strict=True):
                flags += [True] * size if kind == "many" else [bool(size)]
            return (flags + [False] * count)[:count]
        return [i < len(self.results) for i in range(count)]

    def symbolic_output(self, index: int, known: "Known") -> list[Dim] | None:
        """The elements of result `index` (an integer tensor of rank <= 1) as extents, if they are known."""
        return None

    def get(self, name: str) -> Any:
        """The Python value of a property."""
        return value_of(self.properties.get(name))

    def operand_list(self) -> list[SSAValue | None]:
        """ONNX's inputs in order: None where one is absent, trailing absent ones left out."""
        sizes = self.properties.get("operandSegmentSizes")
        if sizes is None:
            return list(self.operands)
        listed: list[SSAValue | None] = []
        rest = iter(self.operands)
        for size in value_of(sizes):
            listed += [next(rest) for _ in range(size)] or [None]
        kinds = self.OPERAND_KINDS
        if kinds and kinds[-1][1] == "many" and listed and listed[-1] is None:
            listed.pop()
        while listed and listed[-1] is None:
            listed.pop()
        return listed

    def result_list(self) -> list[OpResult | None]:
        """ONNX's outputs in order: None where one is absent, trailing absent ones left out."""
        rest = iter(self.results)
        listed = [
            next(rest) if keep else None for keep in self.present_outputs(max(len(self.RESULT_KINDS), 1))
        ]
        listed += list(rest)
        while listed and listed[-1] is None:
            listed.pop()
        return listed

    def fresh(self, index: int, axis: int) -> Dim:
        """The extent that result `index` itself defines on `axis`: what its type says, or a new symbol."""
        flags = self.present_outputs(max(index + 1, len(self.RESULT_KINDS)))
        position = sum(flags[:index])
        if self.results and (not flags[index] or position >= len(self.results)):
            return unknown()
        if self.results:
            type_ = self.results[position].type
            if isinstance(type_, TensorType) and axis < type_.get_num_dims():
                dim = dims_of(type_)[axis]
                if isinstance(dim, int) or dim.is_known:
                    return dim
        # To verify must not use up symbols, so that the text does not depend on how often it is done.
        return unknown() if self.__dict__.get("__verifying__") else fresh_symbol(self)

    def verify_(self) -> None:
        vars(self)["__verifying__"] = True
        try:
            want = self.infer_types()
        finally:
            del vars(self)["__verifying__"]
        if len(want) != len(self.results):
            raise VerifyException(f"{self.name}: has {len(self.results)} results, must have {len(want)}")
        for i, (expected, result) in enumerate(zip(want, self.results, strict=True)):
            if not compatible(expected, result.type):
                raise VerifyException(f"{self.name}: result {i} has type {result.type}, must be {expected}")

    # `graph.conv %x, %w, none {group = 2 : i64} : (T, T) -> T`, then one `{...}` per region.

    def print(self, printer: Printer) -> None:
        for i, value in enumerate(self.operand_list()):
            printer.print_string(", " if i else " ")
            if value is None:
                printer.print_string("none")
            else:
                printer.print_ssa_value(value)
        shown: dict[str, Attribute] = {}
        declared = self.get_irdl_definition().properties
        for key, attribute in self.properties.items():
            if key not in _SEGMENTS and declared[key].default_value != attribute:
                shown[key] = attribute
        printer.print_op_attributes(dict(sorted(shown.items())) | self.attributes)
        printer.print_string(" : ")
        with printer.in_parens():
            printer.print_list(self.operand_types, printer.print_attribute)
        printer.print_string(" -> ")
        results = self.result_list()
        if len(results) == 1 and results[0] is not None:
            printer.print_attribute(results[0].type)
        else:
            with printer.in_parens():
                for i, result in enumerate(results):
                    if i:
                        printer.print_string(", ")
                    if result is None:
                        printer.print_string("none")
                    else:
                        printer.print_attribute(result.type)
        for region in self.regions:
            printer.print_string(" ")
            printer.print_region(region)

    @classmethod
    def parse(cls, parser: Parser) -> Any:
        position = parser.pos
        unresolved: list[Any] = []
        if (first := _parse_operand(parser)) is not False:
            unresolved.append(first)
            while parser.parse_optional_punctuation(",") is not None:
                unresolved.append(_parse_operand(parser, required=True))
        attributes = dict(parser.parse_optional_attr_dict())
        declared = cls.get_irdl_definition().properties
        properties = {k: attributes.pop(k) for k in list(attributes) if k in declared and k not in _SEGMENTS}
        parser.parse_punctuation(":")
        types = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        parser.parse_punctuation("->")
        results: Sequence[Attribute | None] | None
        results = parser.parse_optional_comma_separated_list(
            parser.Delimiter.PAREN, lambda: _parse_type(parser)
        )
        if results is None:
            results = [parser.parse_type()]
        values = parser.resolve_operands([u for u in unresolved if u is not None], types, position)
        regions: list[Region] = []
        while (region := parser.parse_optional_region()) is not None:
            regions.append(region)
        try:
            sizes = _segment_sizes(cls, cls.OPERAND_KINDS, [u is not None for u in unresolved], "operand")
            if _needs_segments(cls.OPERAND_KINDS):
                properties["operandSegmentSizes"] = _segments(sizes)
            op = cls.create(operands=values, properties=properties, attributes=attributes, regions=regions)
            op.set_results(results)
        except VerifyException as error:
            parser.raise_error(str(error), position)
        return op


def _parse_operand(parser: Parser, required: bool = False) -> Any:
    if parser.parse_optional_keyword("none") is not None:
        return None
    if required:
        return parser.parse_unresolved_operand()
    operand = parser.parse_optional_unresolved_operand()
    return False if operand is None else operand


def _parse_type(parser: Parser) -> Attribute | None:
    if parser.parse_optional_keyword("none") is not None:
        return None
    return parser.parse_type()


@lru_cache(maxsize=256)
def _segment_attr(sizes: tuple[int, ...]) -> DenseArrayBase:
    return DenseArrayBase.from_list(i32, list(sizes))


def _segments(sizes: Sequence[int]) -> DenseArrayBase:
    return _segment_attr(tuple(sizes))


def _needs_segments(kinds: Sequence[tuple[str, str]]) -> bool:
    return sum(kind != "one" for _, kind in kinds) > 1


def _segment_sizes(cls: type[GraphOp], kinds: Any, present: Sequence[bool], what: str) -> list[int]:
    sizes: list[int] = []
    at = 0
    for name, kind in kinds:
        if kind == "many":
            rest = present[at:]
            if not all(rest):
                raise VerifyException(
                    f"{cls.name}: {what} {at + rest.index(False)} of {name!r} must not be absent"
                )
            sizes.append(len(rest))
            at = len(present)
            continue
        here = at < len(present) and present[at]
        if kind == "one" and not here:
            raise VerifyException(f"{cls.name}: {what} {name!r} (number {at}) is required")
        sizes.append(int(here))
        at += 1
    if at < len(present):
        raise VerifyException(f"{cls.name}: has {len(present)} {what}s, takes at most {at}")
    return sizes


_OpT = TypeVar("_OpT", bound=GraphOp)


def _kinds(cls: type[GraphOp], field: type) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for parent in cls.__mro__:
        if not issubclass(parent, GraphOp):
            continue
        for name, value in vars(parent).items():
            if isinstance(value, field) and name not in found:
                definition: Any = value.cls  # pyright: ignore
                found[name] = (
                    "optional" if issubclass(definition, OptionalDef)
                    else "many" if issubclass(definition, VariadicDef)
                    else "one"
                )  # fmt: skip
    return tuple(found.items())


def operator(cls: type[_OpT]) -> type[_OpT]:
    """Define the op of a class `<OnnxName>Op`: name, segments, and its place in `OPERATORS`."""
    onnx_name = cls.__name__.removesuffix("Op")
    cls.name = "graph." + snake_case(onnx_name)
    # Kinds are read before irdl_op_definition replaces the fields by accessors.
    operands, results = _kinds(cls, OperandFieldDef), _kinds(cls, ResultFieldDef)
    options: list[Any] = []
    if _needs_segments(operands):
        options.append(AttrSizedOperandSegments(as_property=True))
    if _needs_segments(results):
        options.append(AttrSizedResultSegments(as_property=True))
    constants = {key: ClassVar[Any] for key in vars(cls) if key.isupper()}
    cls.__annotations__ = {**constants, **vars(cls).get("__annotations__", {})}
    if options:
        cls.irdl_options = (ParsePropInAttrDict(), *options)
    defined = irdl_op_definition(cls)
    defined.OPERAND_KINDS, defined.RESULT_KINDS, defined.ONNX_NAME = operands, results, onnx_name
    if defined.PURE:
        defined.get_irdl_definition().traits.add_trait(Pure())
    defined.REGION_COUNT = len(defined.get_irdl_definition().regions)
    OPERATORS[onnx_name] = defined
    return defined


# --- extents --------------------------------------------------------------------------------------

_counters: "WeakKeyDictionary[Any, int]" = WeakKeyDictionary()
_FRESH = re.compile(r"s(\d+)\Z")


def _root(op: Operation) -> Any:
    """The function (or whatever stands outermost below the module) that `op` or its operands belong to."""
    scope: Any = op
    if op.parent is None:
        for operand in op.operands:
            owner = operand.owner
            if isinstance(owner, Block) or owner.parent is not None:
                scope = owner
                break
    while scope is not None:
        if isinstance(scope, Operation) and scope.name == "func.func":
            return scope
        parent = scope.parent
        if parent is None:
            return scope
        scope = parent
    return op


def fresh_symbol(op: Operation) -> Expr:
    """A symbol (`s0`, `s1`, ...) that the function around `op` does not use yet."""
    root = _root(op)
    if root not in _counters:
        _counters[root] = 1 + _largest_symbol(root)
    number = _counters[root]
    _counters[root] = number + 1
    return symbol(f"s{number}")


def _largest_symbol(root: Any) -> int:
    """The largest `n` of the symbols `s<n>` in the types below `root`, or -1."""
    largest = -1

    def see(type_: Attribute) -> None:
        nonlocal largest
        if isinstance(type_, TensorType) and not type_.has_static_shape():
            for dim in dims_of(type_):
                for name in symbols_of(dim):
                    if match := _FRESH.match(name):
                        largest = max(largest, int(match[1]))

    ops = root.walk() if isinstance(root, Operation | Block | Region) else ()
    if isinstance(root, Block):
        for arg in root.args:
            see(arg.type)
    for op in ops:
        for result in op.results:
            see(result.type)
        for region in op.regions:
            for block in region.blocks:
                for arg in block.args:
                    see(arg.type)
    return largest


def element_type(value: SSAValue) -> Attribute:
    """The element type of a tensor value."""
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a tensor, not {value.type}")
    return value.type.element_type


def dims(value: SSAValue) -> list[Dim]:
    """The extents of a tensor value."""
    return dims_of(value.type)


def channels_first(op: GraphOp, value: SSAValue) -> list[Dim]:
    """The extents of an image operand as `[n, c, ..]`, whatever the `layout` of `op`."""
    shape = dims(value)
    return [shape[0], shape[-1], *shape[1:-1]] if op.get("layout") == "nhwc" and len(shape) > 1 else shape


def laid_out(op: GraphOp, shape: Sequence[Dim]) -> list[Dim]:
    """Extents `[n, c, ..]` in the `layout` of `op`: the inverse of `channels_first`."""
    if op.get("layout") not in (None, "nchw", "nhwc"):
        raise VerifyException(f"{op.name}: layout {op.get('layout')!r} must be nchw or nhwc")
    return [shape[0], *shape[2:], shape[1]] if op.get("layout") == "nhwc" else list(shape)


@dataclass(frozen=True)
class Premise:
    """
    What an op's types take for granted of two extents: that `a` is equal to `b`, broadcasts with it, stretches to it
    (is equal to it or 1), or is no less.
    """

    a: Dim
    b: Dim
    relation: Literal["equal", "broadcasts", "stretches", "at least"] = "equal"


_premises: ContextVar[list[Premise] | None] = ContextVar("premises", default=None)


@contextmanager
def recorded_premises() -> Iterator[list[Premise]]:
    """Collects what the type inference inside takes for granted, since symbols do not tell it."""
    found: list[Premise] = []
    token = _premises.set(found)
    try:
        yield found
    finally:
        _premises.reset(token)


def take_for_granted(premise: Premise) -> None:
    """Record a premise that only the run can decide."""
    decided = premise.a == premise.b or (isinstance(premise.a, int) and isinstance(premise.b, int))
    if not decided and (found := _premises.get()) is not None:
        found.append(premise)


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two extents may be equal: false only if both are numbers, and different."""
    take_for_granted(Premise(a, b))
    return not (isinstance(a, int) and isinstance(b, int) and a != b)


def may_stretch(dim: Dim, to: Dim) -> bool:
    """Whether an axis of extent `dim` may broadcast to `to`: it may be 1, or the same."""
    take_for_granted(Premise(dim, to, "stretches"))
    return not (isinstance(dim, int) and isinstance(to, int) and dim not in (1, to))


def require_same(op: Operation, a: Dim, b: Dim, what: str) -> Dim:
    """`a` and `b` as one extent (the number, if one is); an error if they differ."""
    if not same_dim(a, b):
        raise VerifyException(f"{op.name}: {what}: {a} is not {b}")
    return b if isinstance(b, int) else a


def require_parameter(op: Operation, value: SSAValue | None, extent: Dim, what: str) -> None:
    """An error unless `value` is absent, one number, or one for each index of an axis of `extent`."""
    if value is None:
        return
    for count in require_rank(op, value, 0, 1):
        if not may_stretch(count, extent):
            raise VerifyException(f"{op.name}: {what}: {count} of them for extent {extent}")


def require_rank(op: Operation, value: SSAValue, *ranks: int) -> list[Dim]:
    """The extents of `value`; an error if its rank is none of `ranks`."""
    shape = dims(value)
    if len(shape) not in ranks:
        wanted = " or ".join(str(r) for r in ranks)
        raise VerifyException(f"{op.name}: operand of shape [{print_dims(shape)}] must have rank {wanted}")
    return shape


def axis_of(op: Operation, axis: int, rank: int) -> int:
    """The axis counted from the front; an error if it lies outside `[-rank, rank)`."""
    if not -rank <= axis < rank:
        raise VerifyException(f"{op.name}: axis {axis} must lie in [{-rank}, {rank})")
    return axis % rank


def axes_of(op: Operation, axes: Sequence[int], rank: int) -> list[int]:
    """The axes counted from the front; an error if one lies outside or stands twice."""
    normal = [axis_of(op, a, rank) for a in axes]
    if len(set(normal)) != len(normal):
        raise VerifyException(f"{op.name}: axes {list(axes)} must differ from each other")
    return normal


def broadcast(op: GraphOp, shapes: Sequence[Sequence[Dim]], index: int = 0) -> list[Dim]:
    """
    The extents to which `shapes` broadcast (`broadcast_of`); where the run alone can tell, as with two different symbols,
    an extent that result `index` defines.
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        best: Dim = 1
        clash = False
        met: list[Dim] = []
        for shape in shapes:
            at = axis - rank + len(shape)
            if at < 0:
                continue
            dim = shape[at]
            if dim == 1 or dim == best:
                continue
            for other in met:
                take_for_granted(Premise(dim, other, "broadcasts"))
            met.append(dim)
            if isinstance(dim, int) and isinstance(best, int) and best != 1:
                texts = " and ".join(f"[{print_dims(s)}]" for s in shapes)
                raise VerifyException(f"{op.name}: shapes {texts} do not broadcast: {best} is not {dim}")
            joint = broadcast_of(best, dim)
            clash = joint is None or (clash and not isinstance(joint, int))
            best = best if joint is None else joint
        result.append(op.fresh(index, axis) if clash and not isinstance(best, int) else best)
    return result


def same_elements(op: GraphOp, *values: SSAValue | None) -> Attribute:
    """The element type that all `values` share; an error that names two if they differ."""
    first: Attribute | None = None
    for value in values:
        if value is None:
            continue
        found = element_type(value)
        if first is None:
            first = found
        elif found != first:
            raise VerifyException(f"{op.name}: element types {first} and {found} must be the same")
    assert first is not None, "an op that asks for a common element type has an operand"
    return first


# --- values ---------------------------------------------------------------------------------------

MAX_TRACKED = 1024
"""Longer integer tensors are data, not shapes, and are not tracked."""
_MAX_DEPTH = 100


class Known:
    """One query of symbolic values: remembers what it has found, bounds its depth."""

    def __init__(self) -> None:
        self.found: dict[SSAValue, list[Dim] | None] = {}
        self.depth = 0

    def __call__(self, value: SSAValue | None) -> list[Dim] | None:
        if value is None:
            return None
        if isinstance(value.type, TensorType) and value.type.get_shape() == (0,):
            return []
        if isinstance(value, BlockArgument):
            return None
        if value in self.found:
            return self.found[value]
        type_ = value.type
        owner = value.owner
        if (
            not isinstance(type_, TensorType)
            or not isinstance(owner, GraphOp)
            or type_.get_num_dims() > 1
            or any(not 0 <= d <= MAX_TRACKED for d in type_.get_shape())
            or self.depth > _MAX_DEPTH
        ):
            return None
        self.depth += 1
        assert isinstance(value, OpResult)
        result = owner.symbolic_output(value.index, self)
        self.depth -= 1
        if result is not None and any(isinstance(d, Expr) and not d.is_known for d in result):
            result = None
        self.found[value] = result
        return result


def symbolic_value(value: SSAValue | None) -> list[Dim] | None:
    """
    The elements of a small integer tensor of rank <= 1 (one element for rank 0), each a number or an
    expression over the symbols of the function; None if they are not known.
    """
    return Known()(value)


def known_integers(value: SSAValue | None) -> list[int] | None:
    """The elements of a small integer tensor if all are numbers."""
    found = symbolic_value(value)
    if found is None or not all(isinstance(d, int) for d in found):
        return None
    return [d for d in found if isinstance(d, int)]
