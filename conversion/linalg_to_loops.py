"""Turn linalg on tensors into scalar loops over `tensor.extract` and `tensor.insert`."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, IntegerAttr, ModuleOp, ShapedType, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)
from xdsl.passes import ModulePass

from stepwell.diagnostics import unsupported
from stepwell.dialects.scf import ForallOp, InParallelOp
from stepwell.dialects.tensor import ParallelInsertSliceOp

_INDEX = IndexType()
_Structured = linalg.GenericOp | linalg.FillOp


class IndexConstants:
    """`index` constants of one function, each made once, at the head of its entry block."""

    def __init__(self, func: FuncOp):
        self._block = func.body.block
        self._values: dict[int, SSAValue] = {}
        self._last: Operation | None = None

    def __call__(self, value: int) -> SSAValue:
        if value not in self._values:
            op = arith.ConstantOp(IntegerAttr(value, _INDEX))
            if self._last is not None:
                self._block.insert_op_after(op, self._last)
            elif first := self._block.first_op:
                self._block.insert_op_before(op, first)
            else:
                self._block.add_op(op)
            self._last = op
            self._values[value] = op.result
        return self._values[value]


def _never_negative(expr: AffineExpr) -> bool:
    """Whether `expr` is at least 0 for all dims at least 0, by its form."""
    if isinstance(expr, AffineBinaryOpExpr):
        return _never_negative(expr.lhs) and _never_negative(expr.rhs)
    return not isinstance(expr, AffineConstantExpr) or expr.value >= 0


class _Nest:
    """
    The loop nest of one structured op while it is built: a block per depth, 0 being the place of the op.
    An index expression or a load stands at the depth of the innermost loop it depends on.
    """

    def __init__(self, op: _Structured, constants: IndexConstants):
        block = op.parent
        assert block is not None
        self.op, self.constant = op, constants
        self.blocks: list[Block] = [block]
        self.loop_of_dim: dict[int, tuple[int, SSAValue]] = {}
        self._indices: dict[AffineExpr, tuple[int, SSAValue]] = {}

    def add(self, depth: int, op: Operation) -> None:
        if depth == 0:
            self.blocks[0].insert_op_before(op, self.op)
        else:
            self.blocks[depth].add_op(op)

    def emit(self, depth: int, op: Operation) -> SSAValue:
        op.location = self.op.location
        self.add(depth, op)
        return op.results[0]

    def open(self, dim: int, carried: Sequence[SSAValue]) -> Sequence[BlockArgument]:
        """Start the loop over `dim` inside the innermost one; its block's arguments for `carried`."""
        block = Block(arg_types=[_INDEX, *(value.type for value in carried)])
        self.blocks.append(block)
        self.loop_of_dim[dim] = (len(self.blocks) - 1, block.args[0])
        return block.args[1:]

    def open_parallel(self, dims: Sequence[int], carried: Sequence[SSAValue]) -> Sequence[BlockArgument]:
        """Start one `scf.forall` over `dims`; its block's arguments for `carried`."""
        block = Block(arg_types=[_INDEX] * len(dims) + [value.type for value in carried])
        self.blocks.append(block)
        for dim, variable in zip(dims, block.args, strict=False):
            self.loop_of_dim[dim] = (len(self.blocks) - 1, variable)
        return block.args[len(dims) :]

    def close_parallel(
        self,
        extents: Sequence[SSAValue],
        shared: Sequence[SSAValue],
        tiles: Sequence[tuple[SSAValue, tensor.ExtractSliceOp]],
    ) -> list[SSAValue]:
        """End the `scf.forall`, which puts each tile back where it was taken; its results."""
        block = self.blocks.pop()
        puts = Block()
        for value, taken in tiles:
            segments = [list(taken.offsets), list(taken.sizes), list(taken.strides)]
            statics = {k: v for k, v in taken.properties.items() if k != "operandSegmentSizes"}
            put = ParallelInsertSliceOp.build(operands=[value, taken.source, *segments], properties=statics)
            put.location = self.op.location
            puts.add_op(put)
        block.add_op(InParallelOp(Region(puts)))
        bounds = [_static(extent) for extent in extents]
        zeros, ones = [0] * len(bounds), [1] * len(bounds)
        loop = ForallOp(zeros, bounds, ones, shared, Region(block))
        loop.location = self.op.location
        self.add(len(self.blocks) - 1, loop)
        return list(loop.results)

    def close(
        self, extent: SSAValue, initial: Sequence[SSAValue], yielded: Sequence[SSAValue]
    ) -> list[SSAValue]:
        """End the innermost loop; its results."""
        block = self.blocks.pop()
        block.add_op(scf.YieldOp(*yielded))
        loop = scf.ForOp(self.constant(0), extent, self.constant(1), initial, Region(block))
        loop.location = self.op.location
        self.add(len(self.blocks) - 1, loop)
        return list(loop.results)

    def index(self, expr: AffineExpr) -> tuple[int, SSAValue]:
        """The depth at which the value of `expr` is known, and that value."""
        if isinstance(expr, AffineDimExpr):
            return self.loop_of_dim[expr.position]
        if isinstance(expr, AffineConstantExpr):
            return 0, self.constant(expr.value)
        if expr in self._indices:
            return self._indices[expr]
        assert isinstance(expr, AffineBinaryOpExpr), "maps of linalg ops have no symbols"
        (left, lhs), (right, rhs) = self.index(expr.lhs), self.index(expr.rhs)
        depth = max(left, right)
        unsigned = _never_negative(expr)
        match expr.kind:
            case AffineBinaryOpKind.Add:
                value = self.emit(depth, arith.AddiOp(lhs, rhs))
            case AffineBinaryOpKind.Mul:
                value = self.emit(depth, arith.MuliOp(lhs, rhs))
            case AffineBinaryOpKind.FloorDiv:
                value = self.emit(depth, (arith.DivUIOp if unsigned else arith.FloorDivSIOp)(lhs, rhs))
            case AffineBinaryOpKind.CeilDiv:
                value = self.emit(depth, (arith.CeilDivUIOp if unsigned else arith.CeilDivSIOp)(lhs, rhs))
            case AffineBinaryOpKind.Mod if unsigned:
                value = self.emit(depth, arith.RemUIOp(lhs, rhs))
            case AffineBinaryOpKind.Mod:
                # a mod b == a - floor(a / b) * b
                floor = self.emit(depth, arith.FloorDivSIOp(lhs, rhs))
                value = self.emit(depth, arith.SubiOp(lhs, self.emit(depth, arith.MuliOp(floor, rhs))))
        self._indices[expr] = (depth, value)
        return depth, value

    def load(self, value: SSAValue, map: AffineMap, at_least: int = 0) -> SSAValue:
        """The element of `value` that `map` names (a scalar operand is its own element)."""
        if not isinstance(value.type, TensorType):
            return value
        indices = [self.index(expr) for expr in map.results]
        depth = max([at_least, *(depth for depth, _ in indices)])
        element = value.type.element_type
        return self.emit(depth, tensor.ExtractOp(value, [index for _, index in indices], element))


def _static(value: SSAValue) -> SSAValue | int:
    """`value`, or its number where it is a constant."""
    owner = value.owner
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return value


def _maps(op: _Structured) -> list[AffineMap]:
    if isinstance(op, linalg.GenericOp):
        return [attr.data for attr in op.indexing_maps]
    rank = len(op.outputs[0].type.get_shape())  # pyright: ignore
    return [AffineMap(rank, 0, ()), AffineMap.identity(rank)]


def _extents(op: _Structured, maps: Sequence[AffineMap], nest: _Nest, dims: int) -> list[SSAValue]:
    """The number of iterations of each dim: the extent of an operand that the dim alone indexes."""
    extents: dict[int, tuple[SSAValue, int, int]] = {}
    for value, map in zip(op.operands, maps, strict=True):
        for axis, expr in enumerate(map.results):
            if isinstance(expr, AffineDimExpr):
                known = extents.get(expr.position)
                assert isinstance(value.type, ShapedType), "what a map indexes has a shape"
                extent = value.type.get_shape()[axis]
                if known is None or (extent != DYNAMIC_INDEX and known[2] == DYNAMIC_INDEX):
                    extents[expr.position] = (value, axis, extent)
    values: list[SSAValue] = []
    for dim in range(dims):
        if dim not in extents:
            raise unsupported(
                op,
                f"no operand is indexed by d{dim} alone, so its number of iterations is unknown",
                f"add an operand with the map (...) -> (d{dim})",
            )
        value, axis, extent = extents[dim]
        if extent == DYNAMIC_INDEX:
            values.append(nest.emit(0, tensor.DimOp(value, nest.constant(axis))))
        else:
            values.append(nest.constant(extent))
    return values


def _used_dims(map: AffineMap) -> set[int]:
    return set().union(*(expr.used_dims() for expr in map.results)) if map.results else set()


def _is_permutation(map: AffineMap, dims: Sequence[int]) -> bool:
    """Whether `map` names each of `dims` once and alone, so that the loops over them write every element."""
    return sorted(e.position if isinstance(e, AffineDimExpr) else -1 for e in map.results) == sorted(dims)


def _inline_body(op: _Structured, nest: _Nest, arguments: Sequence[SSAValue]) -> list[SSAValue]:
    """Copy the body of `op` to the innermost block; what it yields."""
    block = op.body.block
    mapping: dict[SSAValue, SSAValue] = dict(zip(block.args, arguments, strict=True))
    for inner in block.ops:
        if isinstance(inner, linalg.YieldOp):
            return [mapping.get(value, value) for value in inner.operands]
        if isinstance(inner, linalg.IndexOp):
            mapping[inner.result] = nest.loop_of_dim[inner.dim.value.data][1]
            continue
        copy = inner.clone(mapping)
        nest.add(len(nest.blocks) - 1, copy)
        for nested in list(copy.walk()):
            if isinstance(nested, linalg.IndexOp):
                nested.result.replace_all_uses_with(nest.loop_of_dim[nested.dim.value.data][1])
                nested.detach()
                nested.erase()
    raise AssertionError("the body of a linalg op ends in linalg.yield")


def _take_tiles(
    shared: Sequence[SSAValue],
    maps: Sequence[AffineMap],
    dims: Sequence[int],
    extents: Sequence[SSAValue],
    nest: _Nest,
) -> list[tensor.ExtractSliceOp]:
    """The part of each shared result that one point of `dims` computes."""
    tiles: list[tensor.ExtractSliceOp] = []
    for value, map in zip(shared, maps, strict=True):
        positions = [expr.position for expr in map.results if isinstance(expr, AffineDimExpr)]
        offsets = [nest.loop_of_dim[d][1] if d in dims else 0 for d in positions]
        # An extent is static in the tile where it is in the tensor.
        shape = value.type.get_shape()  # pyright: ignore
        sizes = [
            1 if d in dims else (extents[d] if extent == DYNAMIC_INDEX else extent)
            for d, extent in zip(positions, shape, strict=True)
        ]
        type = TensorType(
            value.type.element_type,  # pyright: ignore
            [size if isinstance(size, int) else DYNAMIC_INDEX for size in sizes],
        )
        tile = tensor.ExtractSliceOp(value, offsets, sizes, [1] * len(sizes), type)
        nest.emit(1, tile)
        tiles.append(tile)
    return tiles


def _shared_dims(parallel: Sequence[int], extents: Sequence[SSAValue]) -> list[int]:
    """All parallel dims but the last, whose loop is worth a call; all where those have one iteration."""
    outer = list(parallel[:-1])
    return outer if any(_static(extents[dim]) != 1 for dim in outer) else list(parallel)


def _lower(op: _Structured, constants: IndexConstants, is_kernel: bool = False) -> None:
    """
    Parallel dims outside, carrying the tensors; reduction dims inside, carrying one scalar per result.
    Parallel iterations are independent and each element sees its reductions in the order written, so
    this order of loops gives the same results. Where a result is indexed by a reduction dim (a scan), the
    loops keep the order written and all carry tensors. An op that is its whole kernel gets a `scf.forall`.
    """
    maps = _maps(op)
    kinds = [attr.data.value for attr in op.get_iterator_types()]
    n_in = len(op.inputs)
    parallel = [d for d, kind in enumerate(kinds) if kind == "parallel"]
    reductions = [d for d, kind in enumerate(kinds) if kind != "parallel"]
    out_maps = maps[n_in:]
    if any(_used_dims(map) & set(reductions) for map in out_maps):
        parallel, reductions = list(range(len(kinds))), []

    nest = _Nest(op, constants)
    extents = _extents(op, maps, nest, len(kinds))

    # The initial value of an accumulator that a fill sets is the fill's scalar: the filled tensor is
    # never read, so its destination is ours.
    destinations: list[SSAValue] = []
    scalars: list[SSAValue | None] = []
    for value, map in zip(op.outputs, out_maps, strict=True):
        fill = value.owner
        if isinstance(fill, linalg.FillOp) and _is_permutation(map, parallel):
            destinations.append(fill.outputs[0])
            scalars.append(fill.inputs[0])
        else:
            destinations.append(value)
            scalars.append(None)

    carried: list[Sequence[SSAValue]] = [destinations]
    shared: list[int] = []
    tiles: list[tensor.ExtractSliceOp] = []
    if is_kernel and parallel and all(_is_permutation(map, parallel) for map in out_maps):
        shared = _shared_dims(parallel, extents)
        tiles = _take_tiles(nest.open_parallel(shared, destinations), out_maps, shared, extents, nest)
        parallel = [dim for dim in parallel if dim not in shared]
        carried = [[tile.result for tile in tiles]]
        zero = AffineConstantExpr(0)
        out_maps = [
            AffineMap(
                map.num_dims,
                0,
                tuple(
                    zero if isinstance(e, AffineDimExpr) and e.position in shared else e for e in map.results
                ),
            )
            for map in out_maps
        ]
    for dim in parallel:
        carried.append(nest.open(dim, carried[-1]))
    depth = len(nest.blocks) - 1
    tensors = carried[-1]

    accumulators: list[SSAValue] = []
    out_args = op.body.block.args[n_in:]
    read = [bool(reductions) or bool(arg.first_use) for arg in out_args]
    for value, map, scalar, needed, arg in zip(tensors, out_maps, scalars, read, out_args, strict=True):
        if scalar is not None and scalar.type == arg.type:
            accumulators.append(scalar)
        elif needed:
            accumulators.append(nest.load(value, map, at_least=depth))
        else:
            accumulators.append(value)  # stands for an argument that nothing reads
    carried_scalars: list[Sequence[SSAValue]] = [accumulators]
    for dim in reductions:
        carried_scalars.append(nest.open(dim, carried_scalars[-1]))

    arguments = [
        nest.load(value, map) if arg.first_use else value
        for value, map, arg in zip(op.inputs, maps[:n_in], op.body.block.args[:n_in], strict=True)
    ]
    results = _inline_body(op, nest, [*arguments, *carried_scalars[-1]])
    for i, dim in reversed(list(enumerate(reductions))):
        results = nest.close(extents[dim], carried_scalars[i], results)
    outs = [
        nest.emit(depth, tensor.InsertOp(scalar, value, [nest.index(expr)[1] for expr in map.results]))
        for scalar, value, map in zip(results, tensors, out_maps, strict=True)
    ]
    for i, dim in reversed(list(enumerate(parallel))):
        outs = nest.close(extents[dim], carried[i], outs)
    if shared:
        bounds = [extents[dim] for dim in shared]
        outs = nest.close_parallel(bounds, destinations, list(zip(outs, tiles, strict=True)))
    for old, new in zip(op.results, outs, strict=True):
        new.name_hint = old.name_hint
        old.replace_all_uses_with(new)
    fills = {value.owner for value in op.outputs if isinstance(value.owner, linalg.FillOp)}
    op.detach()
    op.erase()
    for fill in fills:
        if not any(result.first_use for result in fill.results):
            fill.detach()
            fill.erase()


def _lower_pad(op: tensor.PadOp, constants: IndexConstants) -> linalg.FillOp:
    """pad(x) == insert_slice(x, fill(value)) at offsets `low`; the fill, still to be lowered."""
    block = op.parent
    assert block is not None
    body = op.region.block
    terminator = body.last_op
    assert isinstance(terminator, tensor.YieldOp)
    if any(arg.first_use for arg in body.args):
        raise unsupported(op, "the padding value depends on the position", "pad with one constant value")
    new: list[Operation] = []

    def emit(op: Operation) -> SSAValue:
        new.append(op)
        return op.results[0]

    value = terminator.operands[0]
    if value.owner is not block and isinstance(value.owner, Operation) and value.owner.parent is body:
        mapping: dict[SSAValue, SSAValue] = {}
        for inner in list(body.ops)[:-1]:
            new.append(inner.clone(mapping))
        value = mapping[value]
    source_type, type = op.source.type, op.result.type
    assert isinstance(source_type, TensorType) and isinstance(type, TensorType)
    low, high = list(op.low), list(op.high)
    offsets: list[SSAValue | int] = []
    extents: list[SSAValue | int] = []
    sizes: list[SSAValue] = []
    for axis, (before, after, extent, total) in enumerate(
        zip(
            op.static_low.get_values(),
            op.static_high.get_values(),
            source_type.get_shape(),
            type.get_shape(),
            strict=True,
        )
    ):
        offset = low.pop(0) if before == DYNAMIC_INDEX else before
        margin = high.pop(0) if after == DYNAMIC_INDEX else after
        size = emit(tensor.DimOp(op.source, constants(axis))) if extent == DYNAMIC_INDEX else extent
        offsets.append(offset)
        extents.append(size)
        if total == DYNAMIC_INDEX:
            whole: SSAValue = constants(size) if isinstance(size, int) else size
            for part in (offset, margin):
                if part != 0:
                    whole = emit(arith.AddiOp(whole, constants(part) if isinstance(part, int) else part))
            sizes.append(whole)
    empty = emit(tensor.EmptyOp(sizes, type))
    fill = linalg.FillOp([value], [empty])
    new.append(fill)
    rank = len(offsets)
    result = emit(insert_slice(op.source, fill.results[0], offsets, extents, [1] * rank))
    for inner in new:
        inner.location = op.location
    block.insert_ops_before(new, op)
    result.name_hint = op.result.name_hint
    op.result.replace_all_uses_with(result)
    op.detach()
    op.erase()
    return fill


def lower_pads(func: FuncOp) -> None:
    """
    Turn every `tensor.pad` of `func` into loops that fill and an insertion. This is bufferization's to ask
    for: between the two, equal fills of several pads would be merged, and each then copied.
    """
    constants: IndexConstants | None = None
    for op in list(func.walk()):
        if isinstance(op, tensor.PadOp):
            constants = constants or IndexConstants(func)
            _lower(_lower_pad(op, constants), constants)


def insert_slice(
    source: SSAValue,
    dest: SSAValue,
    offsets: Sequence[SSAValue | int],
    sizes: Sequence[SSAValue | int],
    strides: Sequence[SSAValue | int],
) -> tensor.InsertSliceOp:
    """A `tensor.insert_slice` whose positions may each be static or an SSA value."""
    lists = [offsets, sizes, strides]
    static = [[v if isinstance(v, int) else DYNAMIC_INDEX for v in values] for values in lists]
    dynamic = [[v for v in values if not isinstance(v, int)] for values in lists]
    return tensor.InsertSliceOp.get(
        source=source,
        dest=dest,
        static_sizes=static[1],
        static_offsets=static[0],
        static_strides=static[2],
        offsets=dynamic[0],
        sizes=dynamic[1],
        strides=dynamic[2],
        result_type=dest.type,
    )


@dataclass(frozen=True)
class LinalgToLoopsPass(ModulePass):
    """
    Turn every linalg op on tensors into scalar loops.
    Requires: structured ops are `linalg.generic` and `linalg.fill`. Ensures: no linalg op is left.
    """

    name = "linalg-to-loops"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for func in op.body.block.ops:
            if isinstance(func, FuncOp) and not func.is_declaration:
                _lower_function(func)


def _lower_function(func: FuncOp) -> None:
    constants = IndexConstants(func)
    todo: list[_Structured] = []
    for op in list(func.walk()):
        if isinstance(op, _Structured):
            todo.append(op)
        elif op.name.startswith("linalg.") and op.name not in ("linalg.yield", "linalg.index"):
            raise unsupported(op, "only linalg.generic and linalg.fill have loops", "generalise it first")
    # Consumers first: they take over their fills.
    sole = _sole_op(func, todo)
    for op in reversed(todo):
        if op.parent is not None:
            _lower(op, constants, op is sole)


def _sole_op(func: FuncOp, ops: Sequence[_Structured]) -> _Structured | None:
    """The op that a kernel consists of, with the fills it takes over."""
    if "stepwell.kernel" not in func.attributes or not ops or ops[-1].parent is not func.body.block:
        return None
    root = ops[-1]
    parallel = [i for i, kind in enumerate(root.get_iterator_types()) if kind.data.value == "parallel"]
    for op, map in zip(root.outputs, _maps(root)[len(root.inputs) :], strict=True):
        if isinstance(op.owner, linalg.FillOp) and not _is_permutation(map, parallel):
            return None
    rest = set(ops[:-1]) - {value.owner for value in root.outputs}
    if rest or any(isinstance(op, ForallOp) for op in func.body.block.ops):
        return None
    return root
