"""Compute the long functions of a register tile row by row, in a loop, instead of for all rows at once."""

from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects import arith, func, math, scf, tensor, vector
from xdsl.dialects.builtin import (
    AffineMapAttr,
    ArrayAttr,
    BoolAttr,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    Float32Type,
    IndexType,
    ModuleOp,
    TensorType,
    VectorType,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineMap
from xdsl.passes import ModulePass

from stepwell.dialects.stepwell import target_of
from stepwell.remarks import applied
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.targets import Target
from stepwell.transforms.linalg.form_kernels import KERNEL
from stepwell.transforms.linalg.indices import IndexBuilder, constant_of

_LONG = (
    math.ErfOp, math.ExpOp, math.Exp2Op, math.ExpM1Op, math.LogOp, math.Log2Op, math.Log10Op, math.Log1pOp,
    math.PowFOp, math.SinOp, math.CosOp, math.TanOp, math.TanhOp,
)  # fmt: skip
"""What `expand-math` makes a polynomial of."""
_REGISTERS = 7
"""At most as many go through a function side by side: enough for two units of four cycles each, few enough not to be spilled."""
_SAME = -1


@dataclass(frozen=True)
class LoopOverRowsPass(ModulePass):
    """
    What stands between a tile in registers and the write of its result, if it computes a function (erf, exp, ...): put the
    tile into scratch, and compute and write a row after the other, or a few, in a loop.

    clang gives a straight line of 24 such vectors an order in which one waits for its own multiply-adds before the next
    begins: as a loop a Gelu behind a product takes half the time. The values are the same, bit by bit; rows that are masked are
    not computed. Requires: loops over tensors, vectors (`vectorise`), `set-target`. Ensures: at most seven registers go through a
    function of f32 side by side, where nothing else reads what leads to its result.
    """

    name = "loop-over-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = target_of(op)
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and KERNEL in function.attributes:
                build = IndexBuilder(function.body.block)
                for write in [op for op in function.walk() if isinstance(op, vector.TransferWriteOp)]:
                    epilogue = _Epilogue(write, target)
                    if epilogue.is_long() and epilogue.is_whole() and may_rewrite():
                        epilogue.loop(build)


class _Epilogue:
    """The element-wise ops of one block that lead to a write, and the vectors that they are computed of."""

    def __init__(self, write: vector.TransferWriteOp, target: Target):
        type = write.vector.type
        assert isinstance(type, VectorType)
        self.write = write
        self.shape = type.get_shape()
        self.target = target
        self.ops: set[Operation] = set()
        self.tiles: list[SSAValue] = []
        if len(self.shape) == 2:
            self._collect(write.vector)

    def _collect(self, value: SSAValue) -> None:
        owner = value.owner
        if owner in self.ops or value in self.tiles or _is_splat(owner):
            return
        if not isinstance(owner, Operation) or owner.parent is not self.write.parent:
            self.tiles.append(value)
        elif isinstance(owner, vector.TransferReadOp) and self._is_by_rows(owner):
            self.ops.add(owner)
        elif self._is_elementwise(owner):
            self.ops.add(owner)
            for operand in owner.operands:
                self._collect(operand)
        else:
            self.tiles.append(value)

    def _is_by_rows(self, op: vector.TransferReadOp) -> bool:
        """Whether it is made of rows, all of which are there where those of the result are."""
        return _rows_of(op) is not None and (_is_masked(self.write) or not _is_masked(op))

    def _is_elementwise(self, op: Operation) -> bool:
        known = op.name.startswith(("arith.", "math.")) or isinstance(op, vector.FMAOp)
        values = (*op.operands, *op.results)
        return known and not isinstance(op, arith.ConstantOp) and all(map(self._is_tile, values))

    def _is_tile(self, value: SSAValue) -> bool:
        return isinstance(value.type, VectorType) and value.type.get_shape() == self.shape

    def _registers(self, rows: int) -> int:
        return -(-rows * self.shape[1] * 4 // self.target.vector_bytes)

    def _rows_at_once(self) -> int:
        divisors = [k for k in range(1, self.shape[0] + 1) if self.shape[0] % k == 0]
        return max(
            k for k in divisors if k == 1 or (self._registers(k) <= _REGISTERS and not _is_masked(self.write))
        )

    def is_long(self) -> bool:
        is_function = any(isinstance(op, _LONG) for op in self.ops)
        return is_function and self._registers(self.shape[0]) > _REGISTERS

    def is_whole(self) -> bool:
        """Whether all that is read is of f32, and all that is computed goes into the result."""
        tile = VectorType(Float32Type(), self.shape)
        return (
            isinstance(self.write.source.type, TensorType)
            and _rows_of(self.write) not in (None, _SAME)
            and all(value.type == tile for value in self.tiles)
            and all(
                use.operation in self.ops or use.operation is self.write
                for op in self.ops
                for use in op.results[0].uses
            )
        )

    def loop(self, build: IndexBuilder) -> None:
        write, (rows, columns), step = self.write, self.shape, self._rows_at_once()
        block, type = write.parent, write.source.type
        assert block is not None and isinstance(type, TensorType)
        kept = 2 if step > 1 else 1

        def part(type: Attribute) -> VectorType:
            assert isinstance(type, VectorType)
            return VectorType(type.element_type, [step, columns][-kept:])

        def place(op: Operation) -> SSAValue:
            op.location = write.location
            block.insert_op_before(op, write)
            return op.results[0]

        zero, f32 = build.value(0), Float32Type()
        scratch: list[SSAValue] = []
        for value in self.tiles:
            room = place(tensor.EmptyOp([], TensorType(f32, self.shape)))
            whole = vector.TransferWriteOp(
                value, room, [zero, zero], _in_bounds(2), None, _last_axes(2), TensorType(f32, self.shape)
            )
            scratch.append(place(whole))
        body = Block(arg_types=[IndexType(), type])
        row, out = body.args

        def moved(op: vector.TransferReadOp | vector.TransferWriteOp) -> tuple:
            """Indices, bounds and map of the part of `op` that begins at `row`."""
            indices, map = list(op.indices), op.permutation_map.data
            if isinstance(expr := map.results[0], AffineDimExpr):
                start = indices[expr.position]
                indices[expr.position] = build.value(
                    build.plus(row, start if (at := constant_of(start)) is None else at)
                )
            map = AffineMapAttr(AffineMap(map.num_dims, 0, map.results[-kept:]))
            return indices, ArrayAttr(op.in_bounds.data[-kept:]), map

        values: dict[SSAValue, SSAValue] = {}
        with build.inside(body):
            for value, room in zip(self.tiles, scratch, strict=True):
                read = vector.TransferReadOp(
                    room, [row, zero], build.poison(f32), part(value.type), _in_bounds(kept), _last_axes(kept)
                )
                values[value] = build.add(read).result
            for op in [op for op in block.ops if op in self.ops]:
                if isinstance(op, vector.TransferReadOp):
                    indices, bounds, map = moved(op)
                    new: Operation = vector.TransferReadOp(
                        op.source, indices, op.padding, part(op.result.type), bounds, map
                    )
                else:
                    for operand in op.operands:
                        if operand not in values:
                            attr = _splat(operand, part(operand.type))
                            values[operand] = build.attribute(attr, part(operand.type))
                    new = op.__class__.create(
                        operands=[values[v] for v in op.operands],
                        result_types=[part(op.results[0].type)],
                        properties=op.properties,
                        attributes=op.attributes,
                    )
                new.location = op.location
                values[op.results[0]] = build.add(new).results[0]
            indices, bounds, map = moved(write)
            last = vector.TransferWriteOp(values[write.vector], out, indices, bounds, None, map, type)
            last.location = write.location
            build.add(last)
            build.add(scf.YieldOp(*last.results))
        end = build.value(rows)
        if _is_masked(write):
            axis = _rows_of(write)
            assert axis is not None
            extent = place(tensor.DimOp(write.source, build.value(axis)))
            end = place(arith.MinUIOp(end, place(arith.SubiOp(extent, write.indices[axis]))))
        loop = scf.ForOp(zero, end, build.value(step), [write.source], body)
        made = place(loop)
        write.results[0].replace_all_uses_with(made)
        for op in [write, *reversed([op for op in block.ops if op in self.ops])]:
            op.detach()
            op.erase()
        applied(loop, f"{rows} rows of a tile go through a function {step} at a time")
        note_rewrite("loop_over_rows", loop.name, loop.location)


def _in_bounds(rank: int) -> ArrayAttr[BoolAttr]:
    return ArrayAttr([BoolAttr.from_bool(True)] * rank)


def _last_axes(count: int) -> AffineMapAttr:
    """The map of a transfer along the last `count` axes of a tile."""
    return AffineMapAttr(AffineMap(2, 0, AffineMap.identity(2).results[-count:]))


def _rows_of(op: vector.TransferReadOp | vector.TransferWriteOp) -> int | None:
    """
    The axis along which the rows of a transfer of two dims lie, `_SAME` if all rows are the same; None if it is of another form.
    """
    exprs = op.permutation_map.data.results
    if op.mask is not None or len(exprs) != 2:
        return None
    if isinstance(exprs[0], AffineDimExpr):
        return exprs[0].position
    return _SAME if isinstance(exprs[0], AffineConstantExpr) else None


def _is_masked(op: vector.TransferReadOp | vector.TransferWriteOp) -> bool:
    """Whether a transfer of two dims may have rows that are not there."""
    return not op.in_bounds.data[0].value.data


def _is_splat(owner: Operation | Block) -> bool:
    if not isinstance(owner, arith.ConstantOp) or not isinstance(
        attr := owner.value, DenseIntOrFPElementsAttr
    ):
        return False
    data = attr.data.data
    return data == data[: len(data) // len(attr)] * len(attr)


def _splat(value: SSAValue, type: VectorType) -> Attribute:
    """The constant `value`, whose elements are all the same, in the shape of `type`."""
    attr = value.owner.properties["value"]  # pyright: ignore
    assert isinstance(attr, DenseIntOrFPElementsAttr)
    element = attr.data.data[: len(attr.data.data) // len(attr)]
    return DenseIntOrFPElementsAttr(type, BytesAttr(element * prod(type.get_shape())))  # pyright: ignore
