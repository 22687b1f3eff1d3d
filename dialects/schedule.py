"""The `schedule` dialect: how a kernel is tiled, and how the host launches it."""

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    MemRefType,
    SymbolRefAttr,
    i64,
)
from xdsl.ir import Dialect, ParametrizedAttribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    param_def,
    prop_def,
    result_def,
    var_operand_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

RUNTIME_KEY = "stepwell.runtime"
"""
On a declaration: a kernel that the C runtime defines. It is called as any kernel is, in destination-passing style, as one
tile; `interpreter.runtime` says what it means.
"""

ALIAS_KEY = "stepwell.may_alias"
"""On an argument of a kernel: its buffer may overlap another argument's, so it is not `noalias`."""

_LISTS = ("parallel", "vector", "order", "inner")
_OPTIONAL = ("order", "inner")


@irdl_attr_definition
class TileAttr(ParametrizedAttribute):
    """
    The schedule of one linalg op, one entry per iteration dim (0: the dim is not touched).

    `parallel`: extents of the tile that one iteration of the kernel's `scf.forall` computes; on an op that is not the
    kernel's root, of the part of that tile that one iteration of the op's own loops computes, its producers with it.
    `vector`: extents of the vectors the op becomes inside its tile; 1 is a scalar loop.
    `order`: the tiled dims from the outermost loop to the innermost; empty: ascending.
    `inner`: extents of the part of one such tile or part that one iteration of loops inside of it computes; producers
    with loops of their own are computed in front of these loops, for all of the part.
    """

    name = "schedule.tile"
    parallel: DenseArrayBase[I64] = param_def(DenseArrayBase.constr(i64))
    vector: DenseArrayBase[I64] = param_def(DenseArrayBase.constr(i64))
    order: DenseArrayBase[I64] = param_def(DenseArrayBase.constr(i64))
    inner: DenseArrayBase[I64] = param_def(DenseArrayBase.constr(i64))

    @staticmethod
    def of(
        parallel: Sequence[int],
        vector: Sequence[int],
        order: Sequence[int] = (),
        inner: Sequence[int] = (),
    ) -> "TileAttr":
        return TileAttr(*(DenseArrayBase.from_list(i64, list(v)) for v in (parallel, vector, order, inner)))

    @property
    def parallel_sizes(self) -> tuple[int, ...]:
        return tuple(int(v) for v in self.parallel.get_values())

    @property
    def vector_sizes(self) -> tuple[int, ...]:
        return tuple(int(v) for v in self.vector.get_values())

    @property
    def inner_sizes(self) -> tuple[int, ...]:
        return tuple(int(v) for v in self.inner.get_values())

    @property
    def loop_order(self) -> tuple[int, ...]:
        """The tiled dims, outermost first."""
        if order := tuple(int(v) for v in self.order.get_values()):
            return order
        return tuple(dim for dim, size in enumerate(self.parallel_sizes) if size)

    def verify(self) -> None:
        tiles, vectors, order = self.parallel_sizes, self.vector_sizes, self.order.get_values()
        if any(not 0 <= size < 1 << 31 for size in (*tiles, *vectors, *self.inner_sizes)):
            raise VerifyException(
                f"extents of tiles {list(tiles)} and vectors {list(vectors)} must be 0 or more"
            )
        if self.inner_sizes and len(self.inner_sizes) != len(tiles):
            raise VerifyException(f"inner {list(self.inner_sizes)} must have as many dims as {list(tiles)}")
        if len(set(order)) != len(order) or any(not 0 <= dim < len(tiles) for dim in order):
            raise VerifyException(
                f"order {list(order)} must name dims of the {len(tiles)} that are tiled, each once"
            )

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[DenseArrayBase]:
        lists: dict[str, list[int]] = {key: [] for key in _OPTIONAL}
        left = iter(_LISTS)
        with parser.in_angle_brackets():
            while True:
                key = next((key for key in left if parser.parse_optional_keyword(key)), None)
                if key is None:
                    parser.raise_error(f"expected one of {', '.join(_LISTS)}, in this order")
                parser.parse_punctuation("=")
                lists[key] = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
                if parser.parse_optional_punctuation(",") is None:
                    break
        if missing := [key for key in _LISTS if key not in lists]:
            parser.raise_error(f"expected {missing[0]}")
        return [DenseArrayBase.from_list(i64, lists[key]) for key in _LISTS]

    def print_parameters(self, printer: Printer) -> None:
        lists = (self.parallel_sizes, self.vector_sizes, self.order.get_values(), self.inner_sizes)
        texts = [
            f"{key} = [{', '.join(map(str, values))}]"
            for key, values in zip(_LISTS, lists, strict=True)
            if values or key not in _OPTIONAL
        ]
        printer.print_string(f"<{', '.join(texts)}>")


@irdl_op_definition
class LaunchOp(IRDLOperation):
    """
    Run a kernel over the tiles `[0, tiles)`, split over the threads of the runtime's pool.

    `arguments` are the kernel's memrefs and index values without its `%begin`, `%end`, `%scratch`.
    `work`: estimated nanoseconds of one tile on one thread, from which the runtime decides whether to
    run serially. Errors: none at run time; the callee must be a kernel.
    """

    name = "schedule.launch"
    irdl_options = (ParsePropInAttrDict(),)
    callee = prop_def(SymbolRefAttr)
    tiles = operand_def(IndexType)
    arguments = var_operand_def()
    work = opt_prop_def(IntegerAttr)
    assembly_format = "$callee `[` $tiles `]` `(` $arguments `)` attr-dict `:` `(` type($arguments) `)`"

    def __init__(
        self,
        callee: str,
        tiles: SSAValue,
        arguments: Sequence[SSAValue],
        work: int | None = None,
    ):
        super().__init__(
            operands=[tiles, list(arguments)],
            properties={
                "callee": SymbolRefAttr(callee),
                "work": None if work is None else IntegerAttr(work, i64),
            },
        )


@irdl_op_definition
class ArenaOp(IRDLOperation):
    """
    The buffer that holds every intermediate of the host function: `bytes` bytes, 64-byte aligned,
    asked for once at entry. Errors: out of memory stops the run.
    """

    name = "schedule.arena"
    bytes = operand_def(IndexType)
    buffer = result_def(MemRefType)
    assembly_format = "`[` $bytes `]` attr-dict `:` type($buffer)"

    def __init__(self, bytes: SSAValue, type: MemRefType):
        super().__init__(operands=[bytes], result_types=[type])


SCHEDULE = Dialect("schedule", [LaunchOp, ArenaOp], [TileAttr])
