"""Tile the root of each kernel by one `scf.forall` and pull its producers into the tile."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func, scf, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    I64,
    AffineMapAttr,
    AnyFloat,
    DenseArrayBase,
    IndexType,
    ModuleOp,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.attrs import IteratorTypeAttr
from xdsl.dialects.utils import get_dynamic_index_list, split_dynamic_index_list
from xdsl.ir import Block, BlockArgument, Operation, OpResult, Region, SSAValue
from xdsl.ir.affine import AffineBinaryOpKind, AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from stepwell.dialects.scf import ForallOp, InParallelOp
from stepwell.dialects.schedule import TileAttr
from stepwell.dialects.tensor import ParallelInsertSliceOp
from stepwell.remarks import missed
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.transforms.linalg.indices import (
    Extent,
    IndexBuilder,
    bound_of,
    constant_of,
    domain_of,
    linear,
    packed,
)
from stepwell.transforms.linalg.overwrite import overwrite_dead_tiles
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    maps_of,
    output_map,
    reduction_dims,
)
from stepwell.transforms.linalg.window_chains import constant_padding

KERNEL = "stepwell.kernel"
SCHEDULE = "schedule"
OVERLAP = "stepwell.overlapping_tiles"
"""On a kernel some of whose tiles overlap: no input of it may share memory with an output."""

_BORDER_LANES = 64
"""Lanes of the vectors that fill a border."""
_LINE_BYTES = 64
"""A cache line."""
_VIEWS = (tensor.CastOp, tensor.ExtractSliceOp, tensor.ExpandShapeOp, tensor.CollapseShapeOp)


@dataclass(frozen=True)
class TileAndFusePass(ModulePass):
    """
    Tile the root of each kernel by one `scf.forall` and pull its producers into the tile.

    Requires: kernels with schedules (`assign-schedules`). Ensures: a kernel whose root has `parallel` sizes is
    one `scf.forall` whose body holds the kernel's ops on tiles. A kernel that cannot be cut that way is
    left as it is.
    """

    name = "tile-and-fuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and KERNEL in function.attributes and may_rewrite():
                _tile_kernel(function)
                note_rewrite("tile_kernel", f"@{function.sym_name.data}", function.location)


class _CannotTile(Exception):
    """A map that has no rectangular tile, or an op that is not understood."""


def _tile_kernel(function: func.FuncOp) -> None:
    body = function.body.block
    roots = [op for op in body.ops if isinstance(op, linalg.GenericOp) and any(_schedule(op).parallel_sizes)]
    if not roots:
        return
    root = roots[-1]
    try:
        forall = _Tiling(function, root).build()
    except _CannotTile:
        missed(root, f"kernel @{function.sym_name.data} is not cut into tiles: one thread computes it")
        return
    if forall is None:
        return
    ret = _return_of(body)
    body.insert_op_before(forall, ret)
    for i, result in enumerate(forall.res):
        ret.operands[i] = result
    for op in list(reversed(list(body.ops))):
        if op is not ret and op is not forall and not any(r.uses for r in op.results):
            op.detach()
            op.erase()


def _return_of(body: Block) -> func.ReturnOp:
    assert isinstance(body.last_op, func.ReturnOp), "a kernel ends in func.return"
    return body.last_op


def _schedule(op: Operation) -> TileAttr:
    attr = op.attributes.get(SCHEDULE)
    return attr if isinstance(attr, TileAttr) else TileAttr.of([], [])


@dataclass(frozen=True)
class _Box:
    """A rectangle in an iteration space or in a tensor."""

    offsets: tuple[Extent, ...]
    sizes: tuple[Extent, ...]


class _Tiling:
    def __init__(self, function: func.FuncOp, root: linalg.GenericOp):
        self.function, self.root = function, root
        self.entry = function.body.block
        self.build_index = IndexBuilder(self.entry)
        self.schedule = _schedule(root)
        self.made: dict[tuple[Operation, _Box], Operation] = {}
        self.slices: dict[tuple[SSAValue, _Box], SSAValue] = {}
        self.boxes: dict[Operation, _Box] = {}
        self.shared: dict[SSAValue, SSAValue] = {}
        self.depth: dict[Operation, int] = {}
        """Of ops inside whose own loops we are: inside how many levels of them."""
        self.covers: dict[SSAValue, tuple[_Box, SSAValue]] = {}
        """Tensors of which a part is computed in front of the loops that we are in: where it lies, and the part."""
        self.targets: dict[tuple[SSAValue, _Box], SSAValue] = {}
        """Where the part of a destination is that the loops we are in write."""
        self.aligned: dict[SSAValue, int] = {}
        """For the offset of a tiled dim: the extent it is a multiple of."""

    def build(self) -> ForallOp | None:
        """The `scf.forall`, not yet inserted; None if every tile is the whole of its dim."""
        build, root = self.build_index, self.root
        head = Block()
        with build.attempt(), build.inside(head):
            forall = self._forall(build, root)
        for op in list(head.ops):
            op.detach()
            self.entry.insert_op_before(op, _return_of(self.entry))
        return forall

    def _forall(self, build: IndexBuilder, root: linalg.GenericOp) -> ForallOp | None:
        extents = domain_of(root, build)
        if extents is None:
            raise _CannotTile
        for value in map(_computed, _return_of(self.entry).arguments):
            # Extents that the tiles are compared with are found here, in front of the loop.
            for axis in range(len(value.type.get_shape())):  # pyright: ignore[reportAttributeAccessIssue]
                build.dim(value, axis)
        tiles = self.schedule.parallel_sizes
        looped = [
            d
            for d in self.schedule.loop_order
            if tiles[d] and not (isinstance(e := extents[d], int) and e <= tiles[d])
        ]
        ret = _return_of(self.entry)
        if not looped:
            return None
        outputs = list(self.entry.args[len(self.entry.args) - len(ret.arguments) :])
        block = Block(arg_types=[IndexType()] * len(looped) + [o.type for o in outputs])
        self.shared = dict(zip(outputs, block.args[len(looped) :], strict=True))
        with build.inside(block):
            box = self._root_box(extents, tiles, dict(zip(looped, block.args, strict=False)))
            self._generic(root, box)
            inserts = [self._insert(value, extents, box) for value in ret.arguments]
            parallel = InParallelOp(Region(Block()))
            for value, dest, out, strides in inserts:
                parallel.region.block.add_op(
                    ParallelInsertSliceOp(value, dest, out.offsets, out.sizes, strides)
                )
            block.add_op(parallel)
            overwrite_dead_tiles(block)
        return ForallOp(
            [0] * len(looped),
            [extents[d] for d in looped],
            [tiles[d] for d in looped],
            outputs,
            Region(block),
        )

    def _root_box(
        self, extents: list[Extent], tiles: tuple[int, ...], variables: dict[int, BlockArgument]
    ) -> _Box:
        build = self.build_index
        offsets: list[Extent] = [0] * len(extents)
        sizes = list(extents)
        overlaps = self._may_overlap()
        for dim, variable in variables.items():
            tile, extent = tiles[dim], extents[dim]
            offsets[dim], sizes[dim] = variable, tile
            self.aligned[variable] = tile
            if tile == 1 or (isinstance(extent, int) and extent % tile == 0):
                continue
            if isinstance(extent, int) and dim in overlaps:
                # The last tile starts early and computes some elements twice, with the same values.
                offsets[dim] = build.least(variable, extent - tile)
                self.function.attributes[OVERLAP] = UnitAttr()
            else:
                sizes[dim] = build.least(build.minus(extent, variable), tile)
        return _Box(tuple(offsets), tuple(sizes))

    def _may_overlap(self) -> set[int]:
        """
        The dims of the root whose last tile may start early: in kernels with a contraction (elsewhere a bounded
        tile costs nothing), where no packed operand needs an aligned start and nothing accumulates in place.
        """
        cone = [op for op in self.entry.ops if isinstance(op, linalg.GenericOp)]
        if not any(contraction_operands(op) for op in cone):
            return set()
        for op in cone:
            for i, out in enumerate(op.outputs):
                if isinstance(out, BlockArgument) and op.body.block.args[len(op.inputs) + i].uses:
                    return set()
        dims = set(range(len(self.root.iterator_types)))
        for op in cone:
            if any(packed(e) for m in maps_of(op) for e in m.results):
                written = [e.position for e in output_map(op).results if isinstance(e, AffineDimExpr)]
                fixed = {p[1] for m in maps_of(op) for e in m.results if (p := packed(e))}
                dims -= {axis for axis, dim in enumerate(written) if dim in fixed}
                if op is self.root:
                    dims -= fixed
        return dims

    def _insert(
        self, value: SSAValue, extents: list[Extent], box: _Box
    ) -> tuple[SSAValue, SSAValue, _Box, Sequence[int]]:
        """The tile of the returned `value`, the shared argument it goes into, where, and its strides there."""
        ret = _return_of(self.entry)
        position = list(ret.arguments).index(value)
        outputs = list(self.shared.values())
        rank = len(value.type.get_shape())  # pyright: ignore[reportAttributeAccessIssue]
        start: list[Extent] = [0] * rank
        strides: Sequence[int] = [1] * rank
        if isinstance(insertion := value.owner, tensor.InsertSliceOp):
            strides = insertion.static_strides.get_values()
            if insertion.dest not in self.shared or DYNAMIC_INDEX in strides:
                raise _CannotTile
            start = _mixed(insertion.static_offsets, insertion.offsets)
            value = insertion.source
        if not isinstance(value, OpResult) or not isinstance(op := value.op, linalg.GenericOp):
            raise _CannotTile
        if op not in self.boxes:
            self._sibling(op, extents, box)
        own = self.boxes[op]
        written = output_map(op, value.index)
        out = _Box(
            *(
                tuple(values[e.position] for e in written.results if isinstance(e, AffineDimExpr))
                for values in (own.offsets, own.sizes)
            )
        )
        if len(out.offsets) != len(written.results):
            raise _CannotTile
        rooted = dict(zip(box.offsets, zip(box.sizes, extents, strict=True), strict=True))
        for axis, (offset, size) in enumerate(zip(out.offsets, out.sizes, strict=True)):
            extent = self.build_index.dim(value, axis)
            whole = constant_of(offset) == 0 and (size is extent or size == extent)
            if not whole and (
                offset not in rooted or (rooted[offset][0] is not size and rooted[offset][0] != size)
            ):
                raise _CannotTile
            if not whole and isinstance(extent, int) and rooted[offset][1] != extent:
                raise _CannotTile
        steps = map(self.build_index.times, out.offsets, strides)
        place = _Box(tuple(map(self.build_index.plus, steps, start)), out.sizes)
        return self.made[op, own].results[value.index], outputs[position], place, strides

    def _sibling(self, op: linalg.GenericOp, extents: list[Extent], box: _Box) -> None:
        """Tile an op that is returned but that the root does not read: its leading dims are the root's."""
        own = domain_of(op, self.build_index)
        if own is None:
            raise _CannotTile
        offsets: list[Extent] = [0] * len(own)
        sizes = list(own)
        inner = set(reduction_dims(op))
        for dim, offset in enumerate(box.offsets):
            if constant_of(offset) == 0 and (
                box.sizes[dim] is extents[dim] or box.sizes[dim] == extents[dim]
            ):
                continue
            if dim >= len(own) or dim in inner or own[dim] != extents[dim]:
                raise _CannotTile
            offsets[dim], sizes[dim] = offset, box.sizes[dim]
        self._generic(op, _Box(tuple(offsets), tuple(sizes)))

    def _tile(self, value: SSAValue, box: _Box) -> SSAValue:
        """The tile `box` of a tensor of the kernel, computed once."""
        build = self.build_index
        if (target := self.targets.get((value, box))) is not None:
            return target
        if value in self.covers:
            return self._slice_of_cover(value, box)
        if isinstance(value, OpResult):
            op = value.op
            if isinstance(op, linalg.GenericOp):
                return self._produced(op, value, box)
            if isinstance(op, tensor.PadOp):
                return self._padding(op, box)
            if isinstance(op, linalg.FillOp):
                if (op, box) not in self.made:
                    target = self._tile(op.outputs[0], box)
                    self.made[op, box] = fill = build.add(
                        linalg.FillOp([op.inputs[0]], [target], [target.type])
                    )
                    fill.location = op.location
                return self.made[op, box].results[0]
            if isinstance(op, tensor.EmptyOp):
                if (op, box) not in self.made:
                    type = _tile_type(value, box)
                    self.made[op, box] = build.add(
                        tensor.EmptyOp([s for s in box.sizes if not isinstance(s, int)], type)
                    )
                return self.made[op, box].results[0]
            if not isinstance(op, (*_VIEWS, arith.ConstantOp)):
                raise _CannotTile
        if isinstance(slice_ := value.owner, tensor.ExtractSliceOp) and _keeps_rank(slice_):
            return self._slice_of_slice(slice_, box)
        source = self.shared.get(value, value)
        if all(constant_of(o) == 0 for o in box.offsets) and all(
            s == build.dim(value, axis) for axis, s in enumerate(box.sizes)
        ):
            return source
        if (value, box) not in self.slices:
            slice_op = tensor.ExtractSliceOp(
                source, box.offsets, box.sizes, [1] * len(box.sizes), _tile_type(value, box)
            )
            self.slices[value, box] = build.add(slice_op).result
        return self.slices[value, box]

    def _slice_of_cover(self, value: SSAValue, box: _Box) -> SSAValue:
        """`box` of a tensor, as a slice of the part of it that is there."""
        whole, cover = self.covers[value]
        if box == whole:
            return cover
        if (value, box) not in self.slices:
            places = [self._distance(o, w) for o, w in zip(box.offsets, whole.offsets, strict=True)]
            type = _tile_type(value, box)
            made = tensor.ExtractSliceOp(cover, places, box.sizes, [1] * len(places), type)
            self.slices[value, box] = self.build_index.add(made).result
        return self.slices[value, box]

    def _distance(self, place: Extent, start: Extent) -> Extent:
        return 0 if place is start else self.build_index.minus(place, start)

    # pad(x)[o][s] == zeros of s, with x[max(o, low) - low : min(o + s, low + extent) - low] inserted at max(o, low) - o
    def _padding(self, op: tensor.PadOp, box: _Box) -> SSAValue:
        """A tile of a padded tensor: a buffer whose border is filled; what is inside of it is computed where it lies there."""
        if (op, box) in self.made:
            return self.made[op, box].results[0]
        build, rank = self.build_index, len(box.sizes)
        source, result = op.source, op.result
        padding = constant_padding(op)
        low, shape = op.static_low.get_values(), source.type.get_shape()  # pyright: ignore
        if padding is None or DYNAMIC_INDEX in (*shape, *low, *op.static_high.get_values()):
            raise _CannotTile
        starts: list[Extent] = list(box.offsets)
        sizes: list[Extent] = list(box.sizes)
        places: list[Extent] = [0] * rank
        high = [0] * rank
        padded = result.type.get_shape()  # pyright: ignore
        for axis, (offset, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
            if padded[axis] == shape[axis]:
                continue
            high[axis] = padded[axis] - shape[axis] - low[axis]
            if not isinstance(size, int) or size <= max(low[axis], high[axis]):
                raise _CannotTile  # a tile may lie in the border as a whole
            first = build.most(offset, low[axis])
            beyond = build.plus(offset, size)
            if high[axis]:
                beyond = build.least(beyond, low[axis] + shape[axis])
            starts[axis] = build.minus(first, low[axis])
            sizes[axis] = build.least(self._distance(beyond, first), size)
            places[axis] = self._distance(first, offset)
        inner = _Box(tuple(starts), tuple(sizes))
        into = build.add(
            tensor.EmptyOp([s for s in box.sizes if not isinstance(s, int)], _tile_type(result, box))
        ).tensor
        for axis, extent in enumerate(box.sizes):
            if low[axis]:
                into = self._border(into, box, axis, 0, places[axis], padding)
            if high[axis]:
                beyond = build.plus(places[axis], sizes[axis])
                into = self._border(into, box, axis, beyond, build.minus(extent, beyond), padding)
        target = build.add(tensor.ExtractSliceOp(into, places, sizes, [1] * rank, _tile_type(source, inner)))
        if isinstance(source, OpResult) and isinstance(made := source.op, linalg.GenericOp):
            self.targets[_destination(made, source.index), inner] = target.result
        value = self._tile(source, inner)
        self.made[op, box] = build.add(_insertion(value, into, places, sizes))
        return self.made[op, box].results[0]

    def _border(
        self, into: SSAValue, box: _Box, axis: int, start: Extent, count: Extent, padding: SSAValue
    ) -> SSAValue:
        """`into` with `count` elements from `start` along `axis`, whole rows of them, set to `padding`."""
        build, rank = self.build_index, len(box.sizes)
        places = [start if a == axis else 0 for a in range(rank)]
        sizes = [count if a == axis else size for a, size in enumerate(box.sizes)]
        part = _Box(tuple(places), tuple(sizes))
        cut = build.add(tensor.ExtractSliceOp(into, places, sizes, [1] * rank, _tile_type(into, part))).result
        body = Region(Block(arg_types=[into.type.element_type] * 2))  # pyright: ignore
        body.block.add_op(linalg.YieldOp(body.block.args[0]))
        maps = [AffineMapAttr(AffineMap(rank, 0, ())), AffineMapAttr(AffineMap.identity(rank))]
        parallel = [IteratorTypeAttr.parallel()] * rank
        filled = linalg.GenericOp([padding], [cut], body, maps, parallel, [cut.type])
        filled.attributes[SCHEDULE] = TileAttr.of([0] * rank, self._border_vector(sizes))
        return build.add(_insertion(build.add(filled).results[0], into, places, sizes)).results[0]

    @staticmethod
    def _border_vector(sizes: Sequence[Extent]) -> list[int]:
        """Vectors along the last axis, of as many lanes as there are elements up to the widest."""
        last = sizes[-1]
        lanes = (
            min(_BORDER_LANES, 1 << max(0, last - 1).bit_length()) if isinstance(last, int) else _BORDER_LANES
        )
        return [1] * (len(sizes) - 1) + [lanes]

    # slice(slice(x)[o][s])[p][t] == slice(x)[o + s * p][s * t]
    def _slice_of_slice(self, op: tensor.ExtractSliceOp, box: _Box) -> SSAValue:
        build, strides = self.build_index, op.static_strides.get_values()
        steps = [build.times(o, stride) for o, stride in zip(box.offsets, strides, strict=True)]
        offsets = list(map(build.plus, _mixed(op.static_offsets, op.offsets), steps))
        if set(strides) == {1}:
            return self._tile(op.source, _Box(tuple(offsets), box.sizes))
        if (op.result, box) not in self.slices:
            source = self.shared.get(op.source, op.source)
            made = tensor.ExtractSliceOp(source, offsets, box.sizes, strides, _tile_type(op.result, box))
            self.slices[op.result, box] = build.add(made).result
        return self.slices[op.result, box]

    def _produced(self, op: linalg.GenericOp, value: OpResult, box: _Box) -> SSAValue:
        return self._generic(op, self._box_behind(op, value, box)).results[value.index]

    def _box_behind(self, op: linalg.GenericOp, value: OpResult, box: _Box) -> _Box:
        """The part of its iteration space in which `op` computes the tile `box` of its result `value`."""
        extents = domain_of(op, self.build_index)
        if extents is None:
            raise _CannotTile
        offsets: list[Extent] = [0] * len(extents)
        sizes = list(extents)
        for axis, expr in enumerate(output_map(op, value.index).results):
            if isinstance(expr, AffineDimExpr):
                offsets[expr.position], sizes[expr.position] = box.offsets[axis], box.sizes[axis]
            elif not isinstance(expr, AffineConstantExpr):
                raise _CannotTile
        return _Box(tuple(offsets), tuple(sizes))

    def _generic(self, op: linalg.GenericOp, box: _Box) -> Operation:
        """`op` on the part `box` of its iteration space."""
        if (op, box) in self.made:
            return self.made[op, box]
        self.boxes.setdefault(op, box)
        if (level := self._level(op, box)) is not None:
            return self._on_level(op, box, level)
        operands: list[SSAValue] = []
        maps: list[AffineMapAttr] = []
        for operand, map in zip(op.operands, maps_of(op), strict=True):
            if not isinstance(operand.type, TensorType):
                operands.append(operand)
                maps.append(AffineMapAttr(map))
                continue
            parts = [self._axis(e, box, operand, axis) for axis, e in enumerate(map.results)]
            part = _Box(tuple(p[0] for p in parts), tuple(p[1] for p in parts))
            operands.append(self._tile(operand, part))
            maps.append(AffineMapAttr(AffineMap(map.num_dims, 0, tuple(p[2] for p in parts))))
        body = Region()
        op.body.clone_into(body)
        self._shift_indices(body.block, box)
        inputs, outputs = operands[: len(op.inputs)], operands[len(op.inputs) :]
        tiled = linalg.GenericOp(
            inputs, outputs, body, maps, op.iterator_types, [o.type for o in outputs], op.doc, op.library_call
        )
        tiled.attributes.update(op.attributes)
        tiled.location = op.location
        for old, new in zip(op.results, tiled.results, strict=True):
            new.name_hint = old.name_hint
        self.made[op, box] = tiled
        return self.build_index.add(tiled)

    def _level(self, op: linalg.GenericOp, box: _Box) -> int | None:
        """The next level of own loops that `op` takes more than one step of on `box`; None: `op` is computed whole."""
        levels = self._levels(op)
        for level in range(self.depth.get(op, 0), len(levels)):
            steps = zip(levels[level], box.sizes, strict=False)
            if any(step and ((bound := bound_of(size)) is None or bound > step) for step, size in steps):
                return level
        return None

    def _levels(self, op: linalg.GenericOp) -> list[tuple[int, ...]]:
        """Steps of the loops that `op` has inside the tile."""
        schedule = _schedule(op)
        return [() if op is self.root else schedule.parallel_sizes, schedule.inner_sizes]

    def _on_level(self, op: linalg.GenericOp, box: _Box, level: int) -> Operation:
        """`op` on `box` in the loops of one level."""
        outside, covers = self.depth.get(op, 0), self.covers
        if level == 1:
            self.covers = dict(covers)
            self._cover_producers(op, box)
        self.depth[op] = level + 1
        self.made[op, box] = made = self._in_loops(op, box, self._levels(op)[level])
        self.depth[op], self.covers = outside, covers
        return made

    def _cover_producers(self, op: linalg.GenericOp, box: _Box) -> None:
        """Compute what `op` on `box` reads of producers that have loops of their own, and of padded ones."""
        for operand, map in zip(op.inputs, maps_of(op), strict=False):
            if not isinstance(operand, OpResult) or operand in self.covers:
                continue
            producer = operand.op
            if not isinstance(producer, linalg.GenericOp | tensor.PadOp):
                continue
            parts = [self._axis(e, box, operand, axis) for axis, e in enumerate(map.results)]
            part = _Box(tuple(p[0] for p in parts), tuple(p[1] for p in parts))
            if isinstance(producer, tensor.PadOp) or any(any(steps) for steps in self._levels(producer)):
                self.covers[operand] = part, self._tile(operand, part)
            else:
                self._cover_producers(producer, self._box_behind(producer, operand, part))

    # for each part of a box, op(part) inserted at its place == op(box)
    def _in_loops(self, op: linalg.GenericOp, box: _Box, step_sizes: tuple[int, ...]) -> Operation:
        """`op` on `box`, in steps of `step_sizes`: its producers are computed step by step as well."""
        build = self.build_index
        written, base = output_map(op), _destination(op)
        axes = [e.position for e in written.results if isinstance(e, AffineDimExpr)]
        if (
            not (isinstance(base.owner, tensor.EmptyOp) or op is self.root)
            or len(op.results) != 1
            or len(axes) != len(written.results)
        ):
            raise _CannotTile
        whole = _Box(tuple(box.offsets[d] for d in axes), tuple(box.sizes[d] for d in axes))
        fill, adds = op.outputs[0], any(step_sizes[d] for d in reduction_dims(op))
        if adds and not isinstance(fill.owner, linalg.FillOp):
            raise _CannotTile

        def part(places: dict[int, Extent], sizes: dict[int, Extent], into: SSAValue) -> Operation:
            offsets = tuple(build.plus(o, places.get(d, 0)) for d, o in enumerate(box.offsets))
            inner = _Box(offsets, tuple(sizes.get(d, s) for d, s in enumerate(box.sizes)))
            local = [places.get(d, 0) for d in axes]
            extents = [inner.sizes[d] for d in axes]
            out = _Box(tuple(inner.offsets[d] for d in axes), tuple(extents))
            type = _tile_type(op.results[0], out)
            ones = [1] * len(axes)
            cut = build.add(tensor.ExtractSliceOp(into, local, extents, ones, type))
            # What sums are added to part by part was filled in front of the loops.
            self.targets[fill if adds else base, out] = cut.result
            value = self._generic(op, inner).results[0]
            return build.add(_insertion(value, into, local, extents))

        def steps(
            dims: tuple[int, ...], places: dict[int, Extent], sizes: dict[int, Extent], into: SSAValue
        ) -> Operation:
            if not dims:
                return part(places, sizes, into)
            dim, step, extent = dims[0], step_sizes[dims[0]], box.sizes[dims[0]]
            if (bound := bound_of(extent)) is not None and bound <= step:
                return steps(dims[1:], places, sizes, into)

            def loop(start: Extent, end: Extent, into: SSAValue, size: Extent | None) -> Operation:
                """From `start` to `end`, in steps of `size` elements (None: as many as are left)."""
                block = Block(arg_types=[IndexType(), into.type])
                place = block.args[0]
                first, beyond, by = build.values([start, end, step])
                if constant_of(box.offsets[dim]) == 0:
                    self.aligned[place] = step
                with build.inside(block):
                    own = build.least(build.minus(end, place), step) if size is None else size
                    last = steps(dims[1:], {**places, dim: place}, {**sizes, dim: own}, block.args[1])
                    build.add(scf.YieldOp(last.results[0]))
                return build.add(scf.ForOp(first, beyond, by, [into], Region(block)))

            made, slices, targets = dict(self.made), dict(self.slices), dict(self.targets)

            def forget() -> None:
                self.made, self.slices, self.targets = dict(made), dict(slices), dict(targets)

            if isinstance(extent, int):
                full = extent - extent % step
                one = full == step
                last = (
                    steps(dims[1:], {**places, dim: 0}, {**sizes, dim: step}, into)
                    if one
                    else loop(0, full, into, step)
                )
                if full != extent:
                    forget()
                    rest = {**sizes, dim: extent - full}
                    last = steps(dims[1:], {**places, dim: full}, rest, last.results[0])
            elif step == 1:
                last = loop(0, extent, into, 1)
            else:
                full = build.minus(extent, build.remainder(extent, step))
                last = loop(0, full, into, step)
                forget()
                last = loop(full, extent, last.results[0], None)
            forget()
            return last

        schedule = _schedule(op)
        order = [d for d in schedule.loop_order if step_sizes[d]]
        order += [d for d, step in enumerate(step_sizes) if step and d not in order]
        if isinstance(base.owner, tensor.EmptyOp) and (base, whole) not in self.targets:
            start = self._padded(base.owner, whole)
        else:
            start = self._tile(base, whole)
        if adds:
            assert isinstance(fill.owner, linalg.FillOp), "checked above"
            first = build.add(linalg.FillOp([fill.owner.inputs[0]], [start], [start.type]))
            first.location, start = fill.owner.location, first.results[0]
        return steps(tuple(order), {}, {}, start)

    def _padded(self, empty: tensor.EmptyOp, box: _Box) -> SSAValue:
        """A buffer of the tile whose rows begin at cache lines: a vector never lies in two of them."""
        element = empty.tensor.type.element_type
        last = box.sizes[-1]
        line = _LINE_BYTES * 8 // element.bitwidth if isinstance(element, AnyFloat) else 1
        if not isinstance(last, int) or last % line == 0 or len(box.sizes) < 2:
            return self._tile(empty.tensor, box)
        wide = _Box(box.offsets, (*box.sizes[:-1], last + -last % line))
        buffer = self._tile(empty.tensor, wide)
        rank = len(box.sizes)
        type = _tile_type(empty.tensor, box)
        cut = tensor.ExtractSliceOp(buffer, [0] * rank, box.sizes, [1] * rank, type)
        return self.build_index.add(cut).result

    def _axis(
        self, expr: AffineExpr, box: _Box, operand: SSAValue, axis: int
    ) -> tuple[Extent, Extent, AffineExpr]:
        """
        What `expr` covers when the dims run through `box`: the first index, the extent, and the expression
        that counts from that first index.
        """
        build = self.build_index
        if (terms := linear(expr)) is not None:
            factors, offset = terms
            first: Extent = offset
            extent: Extent = 1
            local: AffineExpr = AffineConstantExpr(0)
            for dim, factor in factors.items():
                steps = build.minus(box.sizes[dim], 1)
                first = build.plus(first, build.times(box.offsets[dim], factor))
                extent = build.plus(extent, build.times(steps, abs(factor)))
                local = local + AffineDimExpr(dim) * factor
                if factor < 0:
                    if not isinstance(steps, int):
                        raise _CannotTile
                    first = build.plus(first, factor * steps)
                    local = local + -factor * steps
            if len(factors) == 1 and 1 in factors.values():
                extent = box.sizes[next(iter(factors))]
            return first, extent, local
        if (pack := packed(expr)) is None:
            raise _CannotTile
        kind, dim, width = pack
        offset, size = box.offsets[dim], box.sizes[dim]
        if constant_of(offset) == 0 and offset not in self.aligned:
            return 0, build.dim(operand, axis), expr
        if (start := constant_of(offset)) is not None and isinstance(size, int):
            if start % width + size > width:
                raise _CannotTile
            if kind == AffineBinaryOpKind.FloorDiv:
                return start // width, 1, AffineConstantExpr(0)
            return start % width, size, AffineDimExpr(dim)
        tile = self.aligned.get(offset) if isinstance(offset, SSAValue) else None
        if tile is None or width % tile:
            raise _CannotTile
        if kind == AffineBinaryOpKind.FloorDiv:
            return build.quotient(offset, width), 1, AffineConstantExpr(0)
        return 0 if tile == width else build.remainder(offset, width), size, AffineDimExpr(dim)

    def _shift_indices(self, body: Block, box: _Box) -> None:
        """`linalg.index d` counts from the start of the tile; add that start."""
        for index in [i for i in body.walk() if isinstance(i, linalg.IndexOp)]:
            offset = box.offsets[index.dim.value.data]
            if isinstance(offset, int) and offset == 0:
                continue
            shifted = arith.AddiOp(index.result, self.build_index.value(offset))
            block = index.parent_block()
            assert block is not None
            block.insert_op_after(shifted, index)
            index.result.replace_uses_with_if(shifted.result, lambda use, s=shifted: use.operation is not s)


def _destination(op: linalg.GenericOp, output: int = 0) -> SSAValue:
    """The tensor that `op` writes, perhaps filled before."""
    value = op.outputs[output]
    return value.owner.outputs[0] if isinstance(value.owner, linalg.FillOp) else value


def _insertion(
    source: SSAValue, into: SSAValue, offsets: Sequence[Extent], sizes: Sequence[Extent]
) -> tensor.InsertSliceOp:
    static_offsets, dynamic_offsets = split_dynamic_index_list(offsets, DYNAMIC_INDEX)
    static_sizes, dynamic_sizes = split_dynamic_index_list(sizes, DYNAMIC_INDEX)
    return tensor.InsertSliceOp.build(
        operands=[source, into, dynamic_offsets, dynamic_sizes, []],
        result_types=[into.type],
        properties={
            "static_offsets": DenseArrayBase.from_list(i64, static_offsets),
            "static_sizes": DenseArrayBase.from_list(i64, static_sizes),
            "static_strides": DenseArrayBase.from_list(i64, [1] * len(sizes)),
        },
    )


def _computed(value: SSAValue) -> SSAValue:
    """The returned `value`, or what is inserted to make it."""
    return value.owner.source if isinstance(value.owner, tensor.InsertSliceOp) else value


def _mixed(static: DenseArrayBase[I64], dynamic: Sequence[SSAValue]) -> list[Extent]:
    return list(get_dynamic_index_list(static.get_values(), dynamic, DYNAMIC_INDEX))


def _keeps_rank(op: tensor.ExtractSliceOp) -> bool:
    return len(op.static_sizes) == len(op.result.type.get_shape()) and DYNAMIC_INDEX not in (  # pyright: ignore
        op.static_strides.get_values()
    )


def _tile_type(value: SSAValue, box: _Box) -> TensorType:
    assert isinstance(value.type, TensorType)
    return TensorType(
        value.type.element_type, [s if isinstance(s, int) else DYNAMIC_INDEX for s in box.sizes]
    )
