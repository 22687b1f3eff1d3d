"""What every lowering is written with: the values and extents of the new function, and how to make ops in it.

An extent is a `Dim`: an integer or an expression over symbols. `Lowering.size` turns one into an `index`
value: a symbol is `tensor.dim` of the value that defines it, right behind it; an expression is `arith`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, TypeAlias

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    AnyFloat,
    ArrayAttr,
    ComplexType,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    Float64Type,
    FloatAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    IntegerType,
    Signedness,
    StringAttr,
    TensorType,
    UnitAttr,
    UnknownLoc,
    f32,
    i8,
    i64,
)
from xdsl.dialects.func import CallOp, FuncOp
from xdsl.dialects.linalg.attrs import IteratorType, IteratorTypeAttr
from xdsl.dialects.linalg.ops import FillOp, GenericOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineExpr, AffineMap
from xdsl.rewriter import Rewriter

from stepwell.conversion.graph_to_linalg.checks import check_extent, check_op, is_extent
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.conversion.graph_to_linalg.small_types import MOVES, is_small
from stepwell.diagnostics import compile_error, unsupported
from stepwell.dialects.graph import STRING, MapType, OptionalType, SequenceType
from stepwell.dialects.graph.shape import Atom, Dim, Expr, broadcast_of, dims_of, maximum, product, unknown
from stepwell.dialects.schedule import RUNTIME_KEY
from stepwell.dialects.text import STRING as TEXT
from stepwell.dialects.value import ANY
from stepwell.resources import constant_attr, value_of

Shape: TypeAlias = tuple[Dim, ...]
Lower: TypeAlias = Callable[["Lowering", Any], "Sequence[SSAValue] | SSAValue"]

INDEX = IndexType()
_PARALLEL = IteratorTypeAttr(IteratorType.PARALLEL)
_REDUCTION = IteratorTypeAttr(IteratorType.REDUCTION)

LOWERINGS: dict[str, Lower] = {}
"""The table of lowerings by op name; a plug-in adds to it with `lowers`."""


def lowers(*names: str) -> Callable[[Lower], Lower]:
    """Enter a function into `LOWERINGS` for the ops `graph.<name>`: it returns the new values of the results."""

    def enter(function: Lower) -> Lower:
        for name in names:
            LOWERINGS[f"graph.{name}"] = function
        return function

    return enter


ON_STRINGS = frozenset(
    f"graph.{name}"
    for name in """
        cast cast_like compress concat constant depth_to_space equal expand flatten gather gather_elements gather_nd
        identity if label_encoder loop one_hot pad regex_full_match reshape reverse_sequence scan scatter_elements scatter_nd
        shape size slice space_to_depth split squeeze string_concat string_normalizer string_split tf_idf_vectorizer
        tile transpose unique unsqueeze where
    """.split()
)
"""Operators whose operands or results may be strings."""

VALUE_OPS = frozenset(
    f"graph.{name}"
    for name in """
        cast_map concat_from_sequence dict_vectorizer identity if loop optional optional_get_element optional_has_element
        sequence_at sequence_construct sequence_empty sequence_erase sequence_insert sequence_length split_to_sequence
        zip_map
    """.split()
)
"""Operators on sequences, optionals and maps."""

_MADE = (SequenceType, OptionalType, MapType)
"""Types of values that are made of tensors."""

MAX_BYTES = 32 << 30
"""No value of a model may take more memory."""

MAX_TABLE = 1 << 26
"""Most elements of a table that a lowering makes of an operator's extents."""


def _bytes_of(element: Attribute) -> int:
    return max(1, getattr(element, "bitwidth", 64) // 8)


def shape_text(type: TensorType[Attribute]) -> str:
    """The extents in a message, cut where there are many."""
    extents = ["?" if extent == DYNAMIC_INDEX else str(extent) for extent in type.get_shape()]
    return "x".join(extents[:8]) + ("x..." if len(extents) > 8 else "")


def dims(count: int) -> list[AffineExpr]:
    """The expressions `d0, d1, ...`."""
    return [AffineExpr.dimension(i) for i in range(count)]


_map_attrs: dict[tuple[int, tuple[AffineExpr, ...]], AffineMapAttr] = {}


def _map_attr(rank: int, results: Sequence[AffineExpr | int]) -> AffineMapAttr:
    exprs = tuple(AffineConstantExpr(e) if isinstance(e, int) else e for e in results)
    found = _map_attrs.get((rank, exprs))
    if found is None:
        found = _map_attrs[rank, exprs] = AffineMapAttr(AffineMap(rank, 0, exprs))
    return found


def signless(element: Attribute) -> Attribute:
    """The element type below graph: integers lose their sign, small types are bytes."""
    if is_small(element):
        return i8
    if element == STRING:
        return TEXT
    if isinstance(element, IntegerType) and element.signedness.data != Signedness.SIGNLESS:
        return IntegerType(element.width.data)
    return element


def lowered_type(type: Attribute) -> Attribute:
    """The type of a value below graph: no encoding, no signs."""
    if isinstance(type, TensorType):
        return TensorType(signless(type.element_type), type.shape)
    return ANY if isinstance(type, _MADE) else signless(type)


def _unknown_kind(op: Operation) -> Attribute | None:
    """What the op works on that is neither a tensor of numbers nor, where it may be, made of such."""
    for value in (*op.operands, *op.results):
        type = value.type
        while isinstance(type, _MADE) and op.name in VALUE_OPS:
            type = type.element
        if isinstance(type, _MADE):
            return type
        element = getattr(type, "element_type", type)
        if isinstance(element, ComplexType):
            return element
        if element == STRING and op.name not in ON_STRINGS and op.name not in VALUE_OPS:
            return element
    return None


def _small_element(op: Operation) -> Attribute | None:
    """The first element type of operands and results that arithmetic does not know."""
    for value in (*op.operands, *op.results):
        if isinstance(value.type, TensorType) and is_small(value.type.element_type):
            return value.type.element_type
    return None


def is_unsigned(element: Attribute) -> bool:
    return isinstance(element, IntegerType) and element.signedness.data == Signedness.UNSIGNED


def property_value(attribute: Attribute | None) -> Any:
    """The Python value of a property of a graph op."""
    match attribute:
        case IntegerAttr() | FloatAttr():
            return attribute.value.data
        case StringAttr():
            return attribute.data
        case DenseArrayBase():
            # xDSL types the method by element type, which a pattern cannot name.
            return list(attribute.get_values())  # pyright: ignore[reportAttributeAccessIssue]
        case ArrayAttr():
            return [property_value(a) for a in attribute]
        case _:
            return attribute


class Lowering:
    """One function on its way from graph to tensor level; see the module's docstring."""

    def __init__(self, ctx: Context, block: Block):
        self.ctx = ctx
        self.entry = block
        self.block = block
        self.op: Operation | None = None
        """The graph op that is being lowered, whose location the new ops get."""
        self._values: dict[SSAValue, SSAValue] = {}
        self._shapes: dict[SSAValue, Shape] = {}
        self._sources: dict[str, tuple[SSAValue, int]] = {}
        self._defined: dict[str, SSAValue] = {}
        self._expressions: dict[str, SSAValue] = {}
        self.checked: set[Any] = set()
        """What is asserted of extents wherever the block that is being made is reached."""
        self._constants: dict[Attribute, SSAValue] = {}
        self._last_constant: Operation | None = None
        self._data: dict[SSAValue, np.ndarray] = {}
        self.runtime_kernels: dict[str, FuncOp] = {}
        """Declarations of the kernels of the C runtime that are called."""

    # Values: old ones and what they became

    def __getitem__(self, old: SSAValue) -> SSAValue:
        """What a value of the graph became."""
        return self._values[old]

    def bind(self, old: SSAValue, new: SSAValue) -> None:
        """Say that the graph's value `old` is now `new`; extents that nobody knew are those of `new`."""
        if isinstance(old.type, TensorType):
            want = lowered_type(old.type)
            extents = tuple(dims_of(old.type))
            if new.type != want:
                assert isinstance(new.type, TensorType), f"{old.type} became {new.type}"
                assert isinstance(want, TensorType), f"{old.type} lowers to {want}"
                assert new.type.element_type == want.element_type, f"{old.type} became {new.type}"
                new = self.add(tensor.CastOp(new, want)).results[0]
            for axis, extent in enumerate(extents):
                if isinstance(extent, Expr):
                    self._define(extent, new, axis)
            self._shapes[new] = extents
        self._values[old] = new

    def _define(self, extent: Expr, value: SSAValue, axis: int) -> None:
        """Note that `value` has `extent` on `axis`, if that is a name that nothing has defined before."""
        if extent.symbol_name is not None or extent.text.startswith("?"):
            self._sources.setdefault(extent.text, (value, axis))

    def operands(self, op: Any) -> list[Any]:
        """The new values of the operands of a graph op in ONNX's order, None where one is absent."""
        return [None if v is None else self._values[v] for v in op.operand_list()]

    def shape(self, value: SSAValue) -> Shape:
        """The extents of a new value."""
        found = self._shapes.get(value)
        if found is None:
            type = value.type
            assert isinstance(type, TensorType), f"{type} has no shape"
            found = tuple(unknown() if n < 0 else n for n in type.get_shape())
            for axis, extent in enumerate(found):
                if isinstance(extent, Expr):
                    self._define(extent, value, axis)
            self._shapes[value] = found
        return found

    def reshaped(self, value: SSAValue, shape: Shape) -> SSAValue:
        """Note that the new value has these extents."""
        self._shapes[value] = tuple(shape)
        return value

    def element(self, value: SSAValue) -> Attribute:
        assert isinstance(value.type, TensorType)
        return value.type.element_type

    def rank(self, value: SSAValue) -> int:
        assert isinstance(value.type, TensorType)
        return value.type.get_num_dims()

    def convert_block(self, old: Block) -> None:
        """Lower every op of `old` to the end of the block that is being made."""
        for op in old.ops:
            self.convert(op)

    def convert(self, op: Operation) -> None:
        """Lower a graph op with the table; copy any other."""
        outer, self.op = self.op, op
        for result in op.results:
            self.check_size(result.type)
        if op.name.startswith("graph."):
            # Pyright meets this file by two paths (src/stepwell links to it), hence two classes of the name.
            check_op(self, op)  # pyright: ignore[reportArgumentType]
            lower = LOWERINGS.get(op.name)
            if lower is None:
                raise unsupported(
                    op, "it has no lowering to the tensor level yet", "express it with other operators"
                )
            if (kind := _unknown_kind(op)) is not None:
                raise unsupported(op, f"it works on {kind}", "keep to tensors of numbers")
            if op.name not in MOVES and (small := _small_element(op)) is not None:
                raise unsupported(op, f"it computes on {small}", "cast to a wider type before it")
            results = lower(self, op)
            results = [results] if isinstance(results, SSAValue) else list(results)
            assert len(results) == len(op.results), (
                f"{op.name}: {len(results)} values for {len(op.results)} results"
            )
        else:
            copy = op.clone(dict(self._values))
            for result in list(copy.results):
                Rewriter.replace_value_with_new_type(result, lowered_type(result.type))
            results = list(self.add(copy).results)
        for before, after in zip(op.results, results, strict=True):
            if after.name_hint is None and before.name_hint is not None:
                after.name_hint = before.name_hint
            self.bind(before, after)
        self.op = outer

    def attr(self, op: Any, name: str) -> Any:
        """The Python value of a property; its default where it is not given."""
        attribute = op.properties.get(name)
        if attribute is None and name in (declared := op.get_irdl_definition().properties):
            attribute = declared[name].default_value
        return property_value(attribute)

    def result_element(self, op: Any, position: int = 0) -> Attribute:
        """The element type that a result of a graph op has below graph."""
        return signless(op.results[position].type.element_type)

    def unsigned(self, op: Any) -> list[bool]:
        """For each operand of a graph op, whether its elements are unsigned integers."""
        return [isinstance(v.type, TensorType) and is_unsigned(v.type.element_type) for v in op.operands]

    def resolvable(self, dim: Dim) -> bool:
        """True if everything that the extent is made of is known here."""
        if isinstance(dim, int) or dim.text in self._defined or dim.text in self._sources:
            return True
        for monomial in dim.terms:
            for atom in monomial:
                if atom.text in self._defined or atom.text in self._sources:
                    continue
                if not atom.args or not all(self.resolvable(a) for a in atom.args):
                    return False
        return True

    # Constants of the graph

    def known(self, old: SSAValue | None) -> np.ndarray | None:
        """The values of a graph value that is a constant, else None."""
        owner = old.owner if old is not None else None
        if isinstance(owner, Operation) and owner.name in ("graph.constant", "arith.constant"):
            value = owner.properties.get("value")
            if isinstance(value, DenseIntOrFPElementsAttr | DenseResourceAttr):
                return value_of(value, self.ctx)
        if old is not None and isinstance(old.type, TensorType) and 0 in old.type.get_shape():
            from stepwell.resources import dtype_of

            shape = [max(n, 0) for n in old.type.get_shape()]
            return np.zeros(shape, dtype_of(old.type.element_type))
        return None

    def known_integers(self, old: SSAValue | None, what: str) -> list[int]:
        """The values of an operand that has to be a constant here."""
        value = self.known(old)
        if value is None:
            assert self.op is not None
            raise unsupported(self.op, f"{what} is not a constant", f"make {what} a constant of the model")
        return [int(v) for v in value.reshape(-1)]

    def data(self, new: SSAValue) -> np.ndarray | None:
        """The values of a new value that is a constant, else None."""
        if new in self._data:
            return self._data[new]
        owner = new.owner
        if isinstance(owner, arith.ConstantOp) and isinstance(
            owner.value, DenseIntOrFPElementsAttr | DenseResourceAttr
        ):
            return value_of(owner.value, self.ctx)
        return None

    def tensor_constant(self, array: np.ndarray, element: Attribute | None = None) -> SSAValue:
        """A constant tensor with the values of `array`."""
        return self.dense(constant_attr(array, self.ctx, None if element is None else element))

    def dense(self, attribute: DenseIntOrFPElementsAttr | DenseResourceAttr) -> SSAValue:
        """A constant tensor; its type loses signs and encoding."""
        want = lowered_type(attribute.type)
        if attribute.type != want:
            if isinstance(attribute, DenseResourceAttr):
                attribute = DenseResourceAttr(attribute.resource_handle, want)  # pyright: ignore
            else:
                attribute = DenseIntOrFPElementsAttr(want, attribute.data)  # pyright: ignore
        found = self._constants.get(attribute)
        if found is None:
            found = self._constants[attribute] = self._head(arith.ConstantOp(attribute)).results[0]
        return found

    def constant(self, value: int | float | bool, element: Attribute = INDEX) -> SSAValue:
        """A scalar constant, one for each value in the function."""
        attribute = scalar_attr(value, element)
        found = self._constants.get(attribute)
        if found is None:
            found = self._constants[attribute] = self._head(arith.ConstantOp(attribute)).results[0]
        return found

    def _head(self, op: Operation) -> Operation:
        """Insert among the constants at the head of the function."""
        if self._last_constant is not None:
            self.entry.insert_op_after(op, self._last_constant)
        elif self.entry.first_op is not None:
            self.entry.insert_op_before(op, self.entry.first_op)
        else:
            self.entry.add_op(op)
        self._last_constant = op
        return op

    # Making ops

    def add(self, op: Operation) -> Operation:
        """Put `op` at the end of the block that is being made."""
        if self.op is not None and isinstance(op.location, UnknownLoc):
            op.location = self.op.location
        self.block.add_op(op)
        return op

    def value(self, op: Operation) -> SSAValue:
        """Put `op` at the end; its result."""
        return self.add(op).results[0]

    @contextmanager
    def inside(self, block: Block) -> Iterator[None]:
        """Make ops in `block`, a region's of the op that is being made."""
        outer, expressions, checked = self.block, dict(self._expressions), set(self.checked)
        self.block = block
        yield
        self.block, self._expressions, self.checked = outer, expressions, checked

    # Extents

    def size(self, dim: Dim) -> SSAValue | int:
        """The extent as an operand of a tensor op: an integer, or an `index` value."""
        return dim if isinstance(dim, int) else self._index_of(dim)

    def index(self, dim: Dim) -> SSAValue:
        """The extent as an `index` value."""
        return self.constant(dim) if isinstance(dim, int) else self._index_of(dim)

    def dim_of(self, index: SSAValue) -> Dim:
        """An extent that is the `index` value."""
        dim = unknown()
        self._defined[dim.text] = index
        return dim

    def _index_of(self, dim: Expr) -> SSAValue:
        found = self._defined.get(dim.text) or self._expressions.get(dim.text)
        if found is not None:
            return found
        if dim.text in self._sources:
            return self._dim_op(dim.text)
        total: SSAValue | None = None
        for monomial, factor in dim.terms.items():
            term: SSAValue | None = None
            for atom in monomial:
                value = self._atom(atom)
                term = value if term is None else self.value(arith.MuliOp(term, value))
            if term is None:
                term = self.constant(factor)
            elif factor != 1:
                term = self.value(arith.MuliOp(term, self.constant(factor)))
            total = term if total is None else self.value(arith.AddiOp(total, term))
        assert total is not None
        self._expressions[dim.text] = total
        return total

    def _dim_op(self, text: str) -> SSAValue:
        """`tensor.dim` right behind the value that defines a symbol."""
        value, axis = self._sources[text]
        op = tensor.DimOp(value, self.constant(axis))
        owner = value.owner
        if isinstance(owner, Operation):
            block = owner.parent
            assert block is not None
            # a result that is passed on by several casts is defined by the first
            block.insert_op_after(op, owner)
        elif owner is self.entry and self._last_constant is not None:
            owner.insert_op_after(op, self._last_constant)
            self._last_constant = op
        else:
            assert owner.first_op is not None
            owner.insert_op_before(op, owner.first_op)
        self._defined[text] = op.results[0]
        return op.results[0]

    def _atom(self, atom: Atom) -> SSAValue:
        if atom.text in self._defined:
            return self._defined[atom.text]
        if atom.text in self._sources:
            return self._dim_op(atom.text)
        if atom.kind in ("symbol", "unknown"):
            assert self.op is not None
            raise unsupported(
                self.op, f"nothing defines the extent {atom.text} before this op", "give the extent a number"
            )
        key = f"({atom.text})"
        if key in self._expressions:
            return self._expressions[key]
        args = [self.index(a) for a in atom.args]
        result = args[0]
        for other in args[1:]:
            match atom.kind:
                case "max":
                    result = self.value(arith.MaxSIOp(result, other))
                case "min":
                    result = self.value(arith.MinSIOp(result, other))
                case "mod":
                    result = self.value(arith.RemSIOp(result, other))
                case _:
                    result = self.value(arith.FloorDivSIOp(result, other))
        self._expressions[key] = result
        return result

    # Tensors

    def type_of(self, shape: Sequence[Dim], element: Attribute) -> TensorType[Attribute]:
        if prod(d for d in shape if isinstance(d, int) and d > 0) * 8 > MAX_BYTES:
            self.check_size(TensorType(element, [d if isinstance(d, int) else DYNAMIC_INDEX for d in shape]))
        return TensorType(element, [d if isinstance(d, int) else DYNAMIC_INDEX for d in shape])

    def check_size(self, type: Attribute) -> None:
        """Refuse a tensor whose known extents alone need more memory than a value may take."""
        if not isinstance(type, TensorType):
            return
        count = prod(extent for extent in type.get_shape() if extent > 0)
        if count > MAX_BYTES // 16 and (size := count * _bytes_of(type.element_type)) > MAX_BYTES:
            assert self.op is not None, "sizes are those of values of a graph op"
            why = f"a value of {size / 2**30:.0f} GiB ({shape_text(type)}) is above the limit of {MAX_BYTES >> 30} GiB"
            raise compile_error(self.op, why, "use smaller extents")

    def check_table(self, op: Operation, entries: int) -> None:
        """Refuse a table of constants, computed from extents, that would fill the memory."""
        if entries > MAX_TABLE:
            raise compile_error(
                op, f"it needs a table of {entries} numbers, above {MAX_TABLE}", "use smaller extents"
            )

    def empty(self, shape: Sequence[Dim], element: Attribute) -> SSAValue:
        sizes = [self.index(d) for d in shape if isinstance(d, Expr)]
        value = self.value(tensor.EmptyOp(sizes, self.type_of(shape, element)))
        return self.reshaped(value, tuple(shape))

    def fill(self, value: SSAValue | int | float, shape: Sequence[Dim], element: Attribute) -> SSAValue:
        """A tensor that holds `value` everywhere."""
        scalar = value if isinstance(value, SSAValue) else self.constant(value, element)
        empty = self.empty(shape, element)
        return self.reshaped(self.value(FillOp([scalar], [empty], [empty.type])), tuple(shape))

    def generic(
        self,
        iterators: str,
        inputs: Sequence[tuple[SSAValue, Sequence[AffineExpr | int]]],
        inits: Sequence[tuple[SSAValue, Sequence[AffineExpr | int]]],
        body: Callable[..., Any],
        *,
        unsigned: Sequence[bool] = (),
        widen: bool = False,
    ) -> list[SSAValue]:
        """
        A `linalg.generic`: one letter of `iterators` per dim (`p` or `r`), operands with the expressions
        they are read at, and `body` from `Scalar`s (inputs, then accumulators) to the yields. With `widen`
        the body sees floats of fewer than 32 bits as f32.
        """
        rank = len(iterators)
        operands = [*inputs, *inits]
        maps = [_map_attr(rank, exprs) for _, exprs in operands]
        block = Block(arg_types=[self.element(v) for v, _ in operands])
        build = Body(block, self, self.op)  # pyright: ignore[reportArgumentType]  # as in `lower`
        flags = [*unsigned, *[False] * (len(operands) - len(unsigned))]
        arguments = [Scalar(build, v, u) for v, u in zip(block.args, flags, strict=True)]
        if widen:
            arguments = [a.widened() for a in arguments]
        yields = body(*arguments)
        yields = list(yields) if isinstance(yields, list | tuple) else [yields]
        results = [build.fit(y, self.element(v)) for y, (v, _) in zip(yields, inits, strict=True)]
        block.add_op(YieldOp(*results))
        for argument, scalar in zip(block.args, arguments, strict=True):
            widening = scalar.value.owner
            if scalar.value is not argument and isinstance(widening, Operation) and not scalar.value.uses:
                widening.detach()  # a body that reads its old output is no element-wise function of its inputs
                widening.erase()
        op = GenericOp(
            [v for v, _ in inputs],
            [v for v, _ in inits],
            Region(block),
            ArrayAttr(maps),
            ArrayAttr([_PARALLEL if i == "p" else _REDUCTION for i in iterators]),
            [v.type for v, _ in inits],
        )
        self.add(op)
        return [
            self.reshaped(result, self.shape(init))
            for result, (init, _) in zip(op.results, inits, strict=True)
        ]

    def call_runtime(
        self, name: str, inputs: Sequence[SSAValue], outputs: Sequence[SSAValue]
    ) -> list[SSAValue]:
        """
        Call a kernel of the C runtime, which sees every tensor with dynamic extents: `outputs` are the tensors that
        it writes; the new values of these.
        """

        def opened(value: SSAValue) -> SSAValue:
            assert isinstance(value.type, TensorType)
            return self._opened(
                value, TensorType(value.type.element_type, [DYNAMIC_INDEX] * self.rank(value))
            )

        given = [opened(v) for v in (*inputs, *outputs)]
        types = [v.type for v in given]
        results = types[len(inputs) :]
        if name not in self.runtime_kernels:
            declaration = FuncOp(
                name, FunctionType.from_lists(types, results), Region(), visibility=StringAttr("private")
            )
            declaration.attributes[RUNTIME_KEY] = UnitAttr()
            self.runtime_kernels[name] = declaration
        call = self.add(CallOp(name, given, results))
        return [
            self.reshaped(self._opened(new, old.type), self.shape(old))
            for new, old in zip(call.results, outputs, strict=True)
        ]

    def _opened(self, value: SSAValue, type: Attribute) -> SSAValue:
        assert isinstance(type, TensorType)
        return value if value.type == type else self.value(tensor.CastOp(value, type))

    def map(
        self,
        body: Callable[..., Any],
        inputs: Sequence[SSAValue],
        shape: Sequence[Dim],
        element: Attribute,
        *,
        at: Sequence[Sequence[AffineExpr | int] | None] | None = None,
        unsigned: Sequence[bool] = (),
        widen: bool = True,
    ) -> SSAValue:
        """
        An element-wise generic over `shape`: each input is broadcast to it from the right, or read at the
        expressions in `at`. An extent that may turn out to be 1 at run time is read at a computed index.
        """
        return self.maps(body, inputs, shape, [element], at=at, unsigned=unsigned, widen=widen)[0]

    def maps(
        self,
        body: Callable[..., Any],
        inputs: Sequence[SSAValue],
        shape: Sequence[Dim],
        elements: Sequence[Attribute],
        *,
        at: Sequence[Sequence[AffineExpr | int] | None] | None = None,
        unsigned: Sequence[bool] = (),
        widen: bool = True,
    ) -> list[SSAValue]:
        """`map` with several results."""
        rank = len(shape)
        d = dims(rank)
        places = list(at) if at is not None else [None] * len(inputs)
        flags = [*unsigned, *[False] * (len(inputs) - len(unsigned))]
        direct: list[tuple[SSAValue, Sequence[AffineExpr | int]]] = []
        order: list[int | None] = []
        for value, place in zip(inputs, places, strict=True):
            if place is None:
                place = self.broadcast_exprs(value, shape)
            if place is None:
                order.append(None)
            else:
                order.append(len(direct))
                direct.append((value, place))
        late = [v for v, o in zip(inputs, order, strict=True) if o is None]
        one_or_more = {v: self._stretch(v, shape) for v in late}

        def full(*scalars: Scalar) -> Any:
            arguments: list[Scalar] = []
            for value, position, flag in zip(inputs, order, flags, strict=True):
                if position is not None:
                    arguments.append(scalars[position])
                    continue
                build = scalars[-1].body
                indices = [
                    build.index(axis + rank - self.rank(value)) if limit is None else
                    build.index(axis + rank - self.rank(value)).minimum(build.wrap(limit))
                    for axis, limit in enumerate(one_or_more[value])
                ]  # fmt: skip
                scalar = build.extract(value, indices, unsigned=flag)
                arguments.append(scalar.widened() if widen else scalar)
            return body(*arguments)

        inits = [(self.empty(shape, e), d) for e in elements]
        kept = [f for f, o in zip(flags, order, strict=True) if o is not None]
        return self.generic("p" * rank, direct, inits, full, unsigned=kept, widen=widen)

    def broadcast_exprs(self, value: SSAValue, shape: Sequence[Dim]) -> list[AffineExpr | int] | None:
        """Where `value`, aligned to the right of `shape`, is read; None if that is known at run time only."""
        own = self.shape(value)
        lead = len(shape) - len(own)
        exprs: list[AffineExpr | int] = []
        for axis, extent in enumerate(own):
            if extent == shape[lead + axis]:
                exprs.append(AffineExpr.dimension(lead + axis))
            elif extent == 1:
                exprs.append(0)
            else:
                return None
        return exprs

    def _stretch(self, value: SSAValue, shape: Sequence[Dim]) -> list[SSAValue | None]:
        """For each axis of `value` the largest index, where it may be below that of `shape`; else None."""
        own = self.shape(value)
        lead = len(shape) - len(own)
        limits: list[SSAValue | None] = []
        for axis, extent in enumerate(own):
            if extent == shape[lead + axis]:
                limits.append(None)
            else:
                limits.append(self.index(extent - 1))
        return limits

    def broadcast_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape that `shapes` broadcast to; where two unknown extents meet, the one that is not 1."""
        rank = max(len(s) for s in shapes)
        result: list[Dim] = []
        for axis in range(rank):
            meet = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
            joint: Dim | None = 1
            for extent in meet:
                joint = None if joint is None else broadcast_of(joint, extent)
            if joint is not None:
                result.append(joint)
            elif static := [m for m in meet if isinstance(m, int) and m != 1]:
                result.append(static[0])
            else:
                values = [self.index(m) for m in dict.fromkeys(meet) if m != 1]
                stretched = values[0]
                for v in values[1:]:
                    is_one = self.value(arith.CmpiOp(stretched, self.constant(1), "eq"))
                    stretched = self.value(arith.SelectOp(is_one, v, stretched))
                result.append(self.dim_of(stretched))
        return tuple(result)

    def result_shape(self, op: Any, position: int = 0) -> Shape:
        """The extents of a result of a graph op, as its type says."""
        return tuple(dims_of(op.results[position].type))

    def transpose(self, value: SSAValue, permutation: Sequence[int]) -> SSAValue:
        """Axis `i` of the result is axis `permutation[i]` of `value`; done now if it is a constant."""
        if list(permutation) == list(range(len(permutation))):
            return value
        if (array := self.data(value)) is not None:
            return self.tensor_constant(
                np.ascontiguousarray(array.transpose(permutation)), self.element(value)
            )
        own = self.shape(value)
        shape = [own[p] for p in permutation]
        at: list[AffineExpr | int] = [0] * len(own)
        for i, p in enumerate(permutation):
            at[p] = AffineExpr.dimension(i)
        return self.map(lambda x: x, [value], shape, self.element(value), at=[at], widen=False)

    def reshape(self, value: SSAValue, shape: Sequence[Dim]) -> SSAValue:
        """The same elements in row-major order under other extents."""
        own = self.shape(value)
        shape = tuple(shape)
        if own == shape:
            return value
        if (array := self.data(value)) is not None and all(isinstance(d, int) for d in shape):
            numbers = [d for d in shape if isinstance(d, int)]
            return self.tensor_constant(np.ascontiguousarray(array).reshape(numbers), self.element(value))
        groups = _reassociate(own, shape)
        if groups is None:
            if not own:  # a scalar; xDSL knows no expand_shape of rank 0
                one = TensorType(self.element(value), [1])
                scalar = self.extract(value, [])
                flat = self.value(tensor.FromElementsOp.build(operands=[[scalar]], result_types=[one]))
                return self.reshape(flat, shape)
            flat = self._collapse(value, [list(range(len(own)))])
            if not shape:
                return flat if not self.rank(flat) else self._collapse_to_scalar(flat)
            return self._expand(flat, shape, [list(range(len(shape)))])
        old, new = groups
        middle = tuple(product(own[a] for a in g) for g in old)
        middle = tuple(
            m if isinstance(m, int) else product(shape[a] for a in g) if len(g) == 1 else m
            for m, g in zip(middle, new, strict=True)
        )
        if len(old) != len(own):
            value = self._collapse(value, old, middle)
        if len(new) != len(shape):
            value = self._expand(value, shape, new)
        return (
            self.reshaped(value, shape)
            if self.type_of(shape, self.element(value)) == value.type
            else self._recast(value, shape)
        )

    def _recast(self, value: SSAValue, shape: Shape) -> SSAValue:
        return self.reshaped(
            self.value(tensor.CastOp(value, self.type_of(shape, self.element(value)))), shape
        )

    def _collapse_to_scalar(self, value: SSAValue) -> SSAValue:
        type = TensorType(self.element(value), [1])
        if value.type != type:
            value = self.value(tensor.CastOp(value, type))
        return self._collapse(value, [], ())

    def _collapse(self, value: SSAValue, groups: list[list[int]], shape: Shape | None = None) -> SSAValue:
        own = self.shape(value)
        shape = tuple(product(own[a] for a in g) for g in groups) if shape is None else shape
        # an extent is static only where all that it is made of are
        kept = tuple(
            s if not isinstance(s, int) or all(isinstance(own[a], int) for a in g) else None
            for s, g in zip(shape, groups, strict=True)
        )
        type = TensorType(self.element(value), [k if isinstance(k, int) else DYNAMIC_INDEX for k in kept])
        op = tensor.CollapseShapeOp.build(
            operands=[value], properties={"reassociation": _groups_attr(groups)}, result_types=[type]
        )
        return self.reshaped(self.value(op), shape)

    def _expand(self, value: SSAValue, shape: Shape, groups: list[list[int]]) -> SSAValue:
        own = self.shape(value)
        type = value.type
        assert isinstance(type, TensorType)
        # the collapsed extent is dynamic exactly where one that it becomes is
        want = [
            DYNAMIC_INDEX if any(isinstance(shape[a], Expr) for a in g) else int(product(shape[a] for a in g))  # pyright: ignore
            for g in groups
        ]
        if list(type.get_shape()) != want and groups:
            value = self.value(tensor.CastOp(value, TensorType(type.element_type, want)))
            self.reshaped(value, own)
        sizes = [self.size(d) for d in shape]
        dynamic = [s for s in sizes if isinstance(s, SSAValue)]
        static = [s if isinstance(s, int) else DYNAMIC_INDEX for s in sizes]
        op = tensor.ExpandShapeOp(
            value, dynamic, _groups_attr(groups), static, self.type_of(shape, type.element_type)
        )
        return self.reshaped(self.value(op), shape)

    def slice(
        self,
        value: SSAValue,
        offsets: Sequence[Dim],
        sizes: Sequence[Dim],
        strides: Sequence[Dim] | None = None,
    ) -> SSAValue:
        """`tensor.extract_slice` with a result of full rank."""
        strides = [1] * len(offsets) if strides is None else strides
        type = self.type_of(sizes, self.element(value))
        op = tensor.ExtractSliceOp(
            value, [self.size(o) for o in offsets], [self.size(s) for s in sizes], [self.size(s) for s in strides], type
        )  # fmt: skip
        return self.reshaped(self.value(op), tuple(sizes))

    def insert(
        self, source: SSAValue, dest: SSAValue, offsets: Sequence[Dim], strides: Sequence[Dim] | None = None,
        sizes: Sequence[Dim] | None = None,
    ) -> SSAValue:  # fmt: skip
        """`tensor.insert_slice` of all of `source`."""
        strides = [1] * len(offsets) if strides is None else strides
        sizes = self.shape(source) if sizes is None else sizes
        op = insert_slice(
            source, dest, [self.size(o) for o in offsets], [self.size(s) for s in sizes], [self.size(s) for s in strides]
        )  # fmt: skip
        return self.reshaped(self.value(op), self.shape(dest))

    def pad(
        self, value: SSAValue, low: Sequence[Dim], high: Sequence[Dim], filler: SSAValue | float | int
    ) -> SSAValue:
        """`tensor.pad` with a constant; amounts below 0, or an expression that may be, crop."""
        if all(x == 0 for x in (*low, *high)):
            return value
        own = self.shape(value)
        if not all(is_extent(x) for x in (*low, *high)):
            # Of an amount that cannot be below 0 nothing is cropped, whatever a maximum makes of it.
            cut = [[0 if is_extent(x) else maximum(0, -x) for x in side] for side in (low, high)]
            added = [[x if is_extent(x) else maximum(0, x) for x in side] for side in (low, high)]
            return self.pad(self.crop(value, *cut), added[0], added[1], filler)
        element = self.element(value)
        scalar = filler if isinstance(filler, SSAValue) else self.constant(filler, element)
        shape = tuple(lo + n + hi for lo, n, hi in zip(low, own, high, strict=True))
        block = Block(arg_types=[INDEX] * len(own))
        block.add_op(tensor.YieldOp(scalar))
        lows, highs = [self.size(x) for x in low], [self.size(x) for x in high]
        minimum = DYNAMIC_INDEX
        type = TensorType(
            element,
            [
                DYNAMIC_INDEX
                if isinstance(n, Expr) or isinstance(lo, SSAValue) or isinstance(hi, SSAValue)
                else n + lo + hi
                for n, lo, hi in zip(own, lows, highs, strict=True)
            ],
        )
        self.check_size(type)
        op = tensor.PadOp(
            value,
            [x for x in lows if isinstance(x, SSAValue)],
            [x for x in highs if isinstance(x, SSAValue)],
            Region(block),
            [x if isinstance(x, int) else minimum for x in lows],
            [x if isinstance(x, int) else minimum for x in highs],
            type,
        )
        return self.reshaped(self.value(op), shape)

    def crop(self, value: SSAValue, low: Sequence[Dim], high: Sequence[Dim]) -> SSAValue:
        """`value` without so many elements on both sides of each axis; the run ends where there are fewer."""
        if all(x == 0 for x in (*low, *high)):
            return value
        sizes = [n - o - e for n, o, e in zip(self.shape(value), low, high, strict=True)]
        for size in sizes:
            check_extent(self, size)  # pyright: ignore[reportArgumentType]
        return self.slice(value, low, sizes)

    def extract(self, value: SSAValue, indices: Sequence[int | SSAValue]) -> SSAValue:
        """One element, as a scalar of the function."""
        places = [self.constant(i) if isinstance(i, int) else i for i in indices]
        return self.value(tensor.ExtractOp(value, places, self.element(value)))

    def scalar_index(self, value: SSAValue, position: int = 0) -> SSAValue:
        """Element `position` of an integer tensor of rank 0 or 1, as an `index`."""
        if (array := self.data(value)) is not None:
            return self.constant(int(array.reshape(-1)[position]))
        element = self.extract(value, [position] if self.rank(value) else [])
        return element if element.type == INDEX else self.value(arith.IndexCastOp(element, INDEX))


def insert_slice(
    source: SSAValue, dest: SSAValue, offsets: Sequence[Any], sizes: Sequence[Any], strides: Sequence[Any]
) -> Operation:
    """`tensor.insert_slice` with numbers and values mixed."""
    minimum = DYNAMIC_INDEX
    properties = {
        f"static_{key}": _int_list([x if isinstance(x, int) else minimum for x in values])
        for key, values in (("offsets", offsets), ("sizes", sizes), ("strides", strides))
    }
    dynamic = [[x for x in values if isinstance(x, SSAValue)] for values in (offsets, sizes, strides)]
    return tensor.InsertSliceOp.build(
        operands=[source, dest, *dynamic], properties=properties, result_types=[dest.type]
    )


def _int_list(values: Sequence[int]) -> Attribute:
    return DenseArrayBase.from_list(i64, list(values))


def scalar_attr(value: int | float | bool, element: Attribute) -> FloatAttr | IntegerAttr:
    """The attribute of a scalar of type `element`."""
    if isinstance(element, AnyFloat):
        if not isinstance(element, Float64Type):
            from stepwell.resources import dtype_of

            with np.errstate(over="ignore"):
                value = float(np.asarray(value).astype(dtype_of(element)))
        return FloatAttr(float(value), element)
    if isinstance(element, IntegerType):
        return IntegerAttr(int(value), element, truncate_bits=True)
    return IntegerAttr(int(value), element)  # pyright: ignore


def _groups_attr(groups: list[list[int]]) -> Any:
    return ArrayAttr([ArrayAttr([IntegerAttr(a, i64) for a in g]) for g in groups])


def _reassociate(old: Shape, new: Shape) -> tuple[list[list[int]], list[list[int]]] | None:
    """Groups of axes of both shapes with equal numbers of elements, as fine as can be; None if there are none."""
    if not old or not new:
        return None
    left: list[list[int]] = []
    right: list[list[int]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        a, b = [i], [j]
        p, q = old[i], new[j]
        i, j = i + 1, j + 1
        while p != q:
            smaller_left = _less(p, q)
            if (smaller_left is True or (smaller_left is None and i < len(old))) and i < len(old):
                p, i = p * old[i], a.append(i) or i + 1
            elif j < len(new):
                q, j = q * new[j], b.append(j) or j + 1
            elif i < len(old):
                p, i = p * old[i], a.append(i) or i + 1
            else:
                return None
        left.append(a)
        right.append(b)
    # what is left on one side are ones
    if any(d != 1 for d in (*old[i:], *new[j:])):
        return None
    left[-1].extend(range(i, len(old)))
    right[-1].extend(range(j, len(new)))
    return _split(left, right)


def _split(left: list[list[int]], right: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    return left, right


def _less(p: Dim, q: Dim) -> bool | None:
    """True if `p` is a proper divisor of `q`, False the other way round, None if unknown."""
    from stepwell.dialects.graph.shape import exact_div

    if isinstance(p, int) and isinstance(q, int):
        return p < q
    if exact_div(q, p) is not None:
        return True
    if exact_div(p, q) is not None:
        return False
    return None


__all__ = ["INDEX", "LOWERINGS", "Lowering", "Scalar", "Shape", "dims", "f32", "lowers", "signless"]
