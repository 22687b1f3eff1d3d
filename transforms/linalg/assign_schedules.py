"""Choose how each kernel is tiled and vectorised, from the target's numbers."""

from dataclasses import dataclass, field
from math import ceil, gcd, prod

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    AnyFloat,
    IntegerType,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Attribute, OpResult
from xdsl.ir.affine import AffineBinaryOpKind, AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from stepwell.dialects.schedule import TileAttr
from stepwell.dialects.stepwell import target_of
from stepwell.remarks import applied, listening, missed
from stepwell.targets import Target
from stepwell.transforms.linalg.indices import linear, packed, paired
from stepwell.transforms.linalg.register_tiles import (
    MAX_LANES,
    PANEL_REGISTERS,
    power_of_two,
    register_tile,
    sole_reader,
    tall_rows,
)
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    is_elementwise,
    is_identity,
    maps_of,
    output_map,
    parallel_dims,
    reduction_dims,
)
from stepwell.transforms.linalg.window_chains import Window, rows_at_a_time, step_of_channels, window_of

KERNEL = "stepwell.kernel"
SCHEDULE = "schedule"

_GUESS = 64
"""What a dynamic extent is taken for where operands are weighed."""
_LONG_PANEL, _PART, _LARGE_PART, _SUMS = 1 / 8, 2 / 3, 1 / 16, 2
"""
A panel that fills this share of L2 is walked through in parts, each for all rows before the next: of this share of L1 where the
sums of all rows, which go through memory for each part, fit beside, else of this share of L2, so that they do so less often. 3x3
convolution 512@7: 1960 -> 1490 us; against panels in one piece 49 rows of 3072x768 1.22, 128 rows 1.15 and large parts 1.20, 197 rows
1.03 and 1.14, 384 rows 0.93 and 1.04. Sums of more than the last times L1 gain nothing (512 rows), or lose in small parts (1024: 0.84).
"""
_FEWEST_TILES, _FEWEST_PANELS = 4, 8
"""Tiles of rows from which on that pays, and panels that must be left as work for several cores."""
_LINES = 1 / 4
"""The share of L2 that a block of lines of a depthwise convolution's operand may take: it is read once for each register of channels."""
_SOONER = 0.8
"""What is left of a kernel's time where its rows are divided too, since each block reads the panel again."""
_UNROLL = 4
"""Steps of a contraction that become one iteration (`kernels-to-llvm`)."""
_DOT_ROWS = 4
"""Rows and columns of a tile of dot products: 16 accumulators."""
_BLOCK, _CHUNK_SIDE = 16, 64
"""Sides of the block that is turned in registers, and of the tile around it, where an operand is transposed."""
_CHUNK = 4096
"""Elements of the tile of an element-wise kernel, about a microsecond of work."""


@dataclass(frozen=True)
class AssignSchedulesPass(ModulePass):
    """
    Choose how each kernel is tiled and vectorised, from the target's numbers.

    Requires: kernels stage; `set-target`. Ensures: the root of a kernel carries `parallel` sizes and every op in it
    carries `vector` sizes, as `#schedule.tile`; an op of a form it does not know carries none and becomes scalar loops.
    """

    name = "assign-schedules"
    rows_outside: bool = True
    """Lines of pixels, or all rows, may be the loop outside of panels; those of a depthwise convolution inside of channels."""
    tall_tiles: bool = True
    """Tiles two registers wide may have more than eight rows."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = target_of(op)
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and KERNEL in function.attributes:
                _fill_as_generic(function)
                _Kernel(function, target, self).assign()


def _fill_as_generic(function: func.FuncOp) -> None:
    """A fill that is returned becomes a generic, so that a root is always one."""
    body = function.body.block
    assert body.last_op is not None, "a kernel ends in func.return"
    for value in body.last_op.operands:
        fill = value.owner
        if not isinstance(fill, linalg.FillOp):
            continue
        rank = len(fill.outputs[0].type.get_shape())  # pyright: ignore
        region = linalg.FillOp.get_hidden_region(fill.inputs, fill.outputs)
        generic = linalg.GenericOp(
            fill.inputs,
            fill.outputs,
            region,
            [AffineMapAttr(AffineMap(rank, 0, ())), AffineMapAttr(AffineMap.identity(rank))],
            fill.get_iterator_types(),
            [fill.results[0].type],
        )
        generic.location = fill.location
        body.insert_op_before(generic, fill)
        fill.results[0].replace_all_uses_with(generic.results[0])
        fill.detach()
        fill.erase()


@dataclass
class _Node:
    """One generic of a kernel, in terms of the root's iteration dims."""

    op: linalg.GenericOp
    extents: list[int | None]
    root_dims: dict[int, int] = field(default_factory=dict)
    """Own dim to the root's dim that is the same index."""


class _Kernel:
    def __init__(self, function: func.FuncOp, target: Target, options: AssignSchedulesPass):
        self.function, self.target, self.options = function, target, options
        self.ops = [op for op in function.body.block.ops if isinstance(op, linalg.GenericOp)]
        self.nodes = {op: _Node(op, _extents(op)) for op in self.ops}
        self.sizes: dict[linalg.GenericOp, list[int]] = {}
        """Vector sizes of the ops that have their own whatever the root's are."""
        self.loops: dict[linalg.GenericOp, TileAttr] = {}
        """Schedules of ops that have loops of their own inside the tile."""
        self.root_inner: list[int] = []
        """Steps of the root's loops inside the tile."""

    def assign(self) -> None:
        if not self.ops:
            return
        root = self.nodes[self.ops[-1]]
        root.root_dims = {d: d for d in range(len(root.extents))}
        self._relate(root)
        contractions = [n for n in self.nodes.values() if _is_window_or_contraction(n.op)]
        choice = None
        self.inner: dict[linalg.GenericOp, int | None] = {}
        shared = parallel_dims(root.op)
        block = any(n.root_dims.get(d) not in shared for n in contractions for d in parallel_dims(n.op))
        if len(contractions) > 1 and (window := window_of([contractions[-2].op])) is not None:
            choice = self._pixel_rows(contractions, window, root)
            if choice is None:
                self.sizes, self.loops, self.root_inner = {}, {}, []
        elif len(contractions) > 1 and block:
            choice = self._row_block(contractions, root)
        elif contractions:
            # Others beside it have the same dims (the two branches of a residual block): one tile is all of theirs.
            choice = self._register_tile(contractions[-1], root)
            if choice and len(contractions) == 1:
                choice = self._in_parts(contractions[0], root, *choice)
        tile, vector, order = choice or self._rows(root)
        if listening():
            self._remark(
                root,
                ("rows and register tiles" if block else "register tile") if choice else "rows",
                tile,
                vector,
                bool(contractions),
            )
        for node in self.nodes.values():
            sizes = self._vector_sizes(node, tile, vector)
            if node is root:
                node.op.attributes[SCHEDULE] = TileAttr.of(tile, sizes, order, self.root_inner)
            else:
                own = self.loops.get(node.op, TileAttr.of([0] * len(sizes), sizes))
                node.op.attributes[SCHEDULE] = own

    def _remark(self, root: _Node, form: str, tile: list[int], vector: dict[int, int], is_sum: bool) -> None:
        """Say which schedule the kernel got."""
        tiles = " x ".join(str(n) if n else "all" for n in tile) or "one point"
        lanes = " x ".join(str(vector[d]) for d in sorted(vector)) or "the op's own choice"
        name = self.function.sym_name.data
        applied(root.op, f"kernel @{name}: {form}, tiles of {tiles}, vectors of {lanes}")
        if is_sum and form == "rows":
            missed(
                root.op, f"kernel @{name}: no register tile for its contraction: no form of it that we tile"
            )

    def _relate(self, root: _Node) -> None:
        """Follow the maps from the root to its producers: which of their dims is which dim of the root."""
        for op in reversed(self.ops):
            consumer = self.nodes[op]
            for value, map in zip(op.operands, maps_of(op), strict=True):
                if not isinstance(value, OpResult) or not isinstance(producer := value.op, linalg.GenericOp):
                    continue
                node = self.nodes[producer]
                for read, written in zip(map.results, output_map(producer, value.index).results, strict=True):
                    if isinstance(read, AffineDimExpr) and isinstance(written, AffineDimExpr):
                        dim = consumer.root_dims.get(read.position)
                        if dim is not None:
                            node.root_dims.setdefault(written.position, dim)
            if op is not root.op and not any(r.uses for r in op.results):
                continue
        for node in self.nodes.values():
            if not node.root_dims and node is not root:
                # A result beside the root's: its leading dims are the root's.
                for dim in parallel_dims(node.op):
                    if dim < len(root.extents) and node.extents[dim] == root.extents[dim]:
                        node.root_dims[dim] = dim

    # Contractions and windows: a register tile.

    def _register_tile(self, node: _Node, root: _Node) -> tuple[list[int], dict[int, int], list[int]] | None:
        """Tile, vector sizes by root dim, and loop order around the contraction `node`; None: not one we tile."""
        shape = _Contraction.of(node)
        if shape is None:
            return None
        to_root = node.root_dims
        if any(d not in to_root for d in parallel_dims(node.op)):
            return None
        if len({to_root[d] for d in parallel_dims(node.op)}) != len(root.extents) - len(
            reduction_dims(root.op)
        ):
            return None
        lanes = min(self.target.lanes(_accumulator_bytes(node.op)), MAX_LANES)
        tile = [0] * len(root.extents)
        for d in parallel_dims(root.op):
            tile[d] = 1
        vector: dict[int, int] = {}
        n = shape.columns
        if n is not None:
            rows, width = self._rows_and_width(node, shape, lanes)
            tile[to_root[n]] = width
            vector[to_root[n]] = width
        else:
            rows = _DOT_ROWS if self.target.vector_registers >= 32 else 2
            for dim, extent, most in (
                (shape.row, shape.row_extent, rows),
                (shape.second_row, shape.second_extent, _DOT_ROWS),
            ):
                if dim is not None:
                    tile[to_root[dim]] = most if extent is None else max(1, min(most, extent))
                    vector[to_root[dim]] = power_of_two(tile[to_root[dim]])
            rows = 0
        if shape.row is not None and rows:
            tile[to_root[shape.row]] = rows
            if rows > 1:
                vector[to_root[shape.row]] = rows
        self.inner = {node.op: shape.inner}
        order = [to_root[d] for d in shape.batch]
        if n is not None and not shape.depthwise:
            rows = tile[to_root[shape.row]] if shape.row is not None else 1
            if not self.options.rows_outside:
                order.append(to_root[n])
            elif self._rows_outside(node, shape, rows, tile[to_root[n]]):
                order = [to_root[d] for d in _result_dims(node.op)]
            else:
                order += [to_root[d] for d in (*self._lines(node, shape), n)]
        order += [d for d in sorted(to_root.values()) if d not in order and tile[d]]
        if shape.depthwise and (window := window_of([node.op])) and (lines := self._block_of_lines(window)):
            self.root_inner = list(tile)
            tile[to_root[1]] = lines
        return tile, vector, order

    def _block_of_lines(self, window: Window) -> int:
        """
        Lines of pixels that a depthwise convolution computes of one register of channels before the next, 0 where the lines that it
        reads stay in L1 anyway. Not where threads share the work: its result then begins where another's was, and stores that
        stride through memory wait for that (MobileNet-v2: 1.01 on one thread, 0.99 on two).
        """
        rows = window.shape[1]
        if not self.options.rows_outside or self.target.threads > 1 or not window.leaves_l1(self.target):
            return 0
        near = int(self.target.l2_bytes * _LINES)
        return max(
            (n for n in range(2, rows // 2 + 1) if rows % n == 0 and window.bytes_behind(n) <= near),
            default=0,
        )

    def _in_parts(
        self, node: _Node, root: _Node, tile: list[int], vector: dict[int, int], order: list[int]
    ) -> tuple[list[int], dict[int, int], list[int]]:
        """
        The tile and loop order where a panel of weights is too long for the caches: the tile is all rows, and the contraction has
        loops of its own, over parts of the panel that stay in L1 and inside of them over the rows, which add to sums in memory.
        """
        shape = _Contraction.of(node)
        assert shape is not None, "it has a register tile"
        sums, extents = reduction_dims(node.op), node.extents
        if node is root or not shape.panel or shape.columns is None or shape.batch or None in extents:
            return tile, vector, order
        if shape.in_pairs:
            return tile, vector, order
        rows = [d for d in parallel_dims(node.op) if d != shape.columns and extents[d] != 1]
        width = tile[node.root_dims[shape.columns]]
        row_bytes = width * _accumulator_bytes(node.op)
        steps = [(extents[d] or 1, tile[node.root_dims[d]]) for d in rows]
        tiles = prod(ceil(extent / step) for extent, step in steps)
        sums_bytes = prod(extent for extent, _ in steps) * row_bytes
        if (
            prod(extents[d] or 1 for d in sums) * row_bytes < self.target.l2_bytes * _LONG_PANEL
            or sums_bytes > self.target.l1_bytes * _SUMS
            or tiles < _FEWEST_TILES
            or (shape.column_extent or 1) < _FEWEST_PANELS * width
        ):
            return tile, vector, order
        stays_near = sums_bytes <= self.target.l1_bytes * (1 - _PART)
        part = int(self.target.l1_bytes * _PART if stays_near else self.target.l2_bytes * _LARGE_PART)
        parts, left = [0] * len(extents), prod(extents[d] or 1 for d in sums)
        for d in sums:
            extent = extents[d] or 1
            left //= extent
            room = part // (left * row_bytes)
            parts[d] = 1 if room < 2 else ceil(ceil(extent / ceil(extent / room)) / _UNROLL) * _UNROLL
            if room > 1:
                break
        own = [d for d in sums if parts[d]] + rows
        for d in rows:
            parts[d] = tile[node.root_dims[d]]
        self.loops[node.op] = TileAttr.of(parts, self._vector_sizes(node, tile, vector), own)
        whole = [size if d == node.root_dims[shape.columns] else 0 for d, size in enumerate(tile)]
        whole[node.root_dims[rows[0]]] = self._block(*steps[0], ceil((shape.column_extent or 1) / width))
        return whole, vector, [d for d in order if whole[d]]

    def _block(self, rows: int, least: int, panels: int) -> int:
        """
        How many of `rows` one tile takes, 0 for all of them: equal blocks of at least `least` where the threads would end
        clearly sooner than with a panel for each tile. (16 threads, 12 panels: blocks of a quarter.)
        """

        def turns(blocks: int) -> float:
            return ceil(panels * blocks / self.target.threads) / blocks

        even = [n for n in range(1, rows // least + 1) if rows % n == 0]
        blocks = next(
            (n for n in even if turns(n) <= _SOONER * turns(1) and turns(n) <= 1.1 * min(map(turns, even))), 1
        )
        return rows // blocks if blocks > 1 else 0

    def _rows_outside(self, node: _Node, shape: "_Contraction", rows: int, width: int) -> bool:
        """
        Whether the loop over rows is outside of the one over panels, and the result is written in the order in which it
        lies (two threads then do not write to the same cache lines): where that moves fewer bytes. Panels that stay in L1
        beside a tile cost nothing to read again; others come from L2 for every tile of rows, as the rows would for every
        panel. What lies in pairs of steps is one panel, which any order reads once for each tile of rows.
        """
        if shape.in_pairs:
            return False
        column = shape.columns
        panels = left = moved = 0
        for value, map in zip(node.op.operands, maps_of(node.op), strict=True):
            if value in node.op.inputs and map.results and column in map.results[-1].used_dims():
                panels += _size_bytes(value.type)
            else:
                left += _size_bytes(value.type) if value in node.op.inputs else 0
                moved += _size_bytes(value.type)
        if not 0 < panels or moved <= self.target.l1_bytes:
            return False
        if panels <= self.target.l1_bytes // 2:
            return True
        places = _result_dims(node.op)
        if panels > self.target.l2_bytes // 2 or shape.column_extent is None or shape.row not in places:
            return False
        if (
            panels <= self.target.l1_bytes
            and self.target.threads > 1
            and self._shares_lines(node, shape, places)
        ):
            return True
        if any(places.index(d) < places.index(shape.row) for d in shape.batch):
            return False  # each of a batch has panels of its own
        if panels < left and all(d in (column, shape.row) or node.extents[d] == 1 for d in places):
            return True  # no lines of rows: `_lines` has the reason
        blocks = -(-(shape.row_extent or 0) // rows)
        for d in places:
            if d not in (column, shape.row, *shape.batch):
                blocks *= node.extents[d] or 0
        if not blocks:
            return False
        return left + panels * blocks < panels + left * -(-shape.column_extent // width)

    def _shares_lines(self, node: _Node, shape: "_Contraction", places: list[int]) -> bool:
        """Whether threads that have a group each, of a convolution, would write to the same cache lines: 34 channels of 136."""
        line = self.target.lanes(_accumulator_bytes(node.op))
        inside = [d for d in shape.batch if d in places and places.index(d) > places.index(shape.row or 0)]
        return bool(inside) and (shape.column_extent or 1) % line != 0

    def _lines(self, node: _Node, shape: "_Contraction") -> list[int]:
        """
        The dim that is the outermost loop where panels would be: one that cuts the larger factor and the result into the longest runs
        (a convolution's rows of pixels). The other factor must stay in L2, from where each line reads it again. Threads then read
        what they wrote in the kernel before, not what is in the other's cache (two threads: ResNet-50 1.06, DenseNet-121 1.13).
        The panels are the other factor also where only the result is larger (MobileNet-v2's expansions on 14x14: 1.04).
        """
        op = node.op
        sizes = [_size_bytes(value.type) for value in op.operands]
        smaller, larger = sorted(range(len(op.inputs)), key=sizes.__getitem__)[-2:]
        if shape.panel and larger != shape.factor and sizes[larger] <= sizes[-1]:
            smaller, larger = larger, smaller
        if sizes[smaller] > self.target.l2_bytes // 2:
            return []
        runs: dict[int, int] = {}
        for i in (larger, len(op.inputs)):
            outside = 1
            type = op.operands[i].type
            assert isinstance(type, TensorType), "a factor has an axis of rows or of panels"
            for extent, expr in zip(type.get_shape(), maps_of(op)[i].results, strict=True):
                for d in expr.used_dims():
                    runs[d] = runs.get(d, 0) + outside
                outside *= _GUESS if extent == DYNAMIC_INDEX else extent
        both = maps_of(op)[larger].used_dims() & output_map(op).used_dims()
        inner = {shape.columns, shape.row, *shape.batch}
        candidates = [d for d in both if d not in inner and node.extents[d] != 1]
        return [min(candidates, key=lambda d: (runs[d], d))] if candidates else []

    def _rows_and_width(self, node: _Node, shape: "_Contraction", lanes: int) -> tuple[int, int]:
        """The register tile with the least padded work and loads; its rows and its vector's width."""
        tall = tall_rows(node.op, shape.factor, shape.row, self.target) if self.options.tall_tiles else 0
        return register_tile(
            shape.row_extent,
            shape.column_extent,
            lanes,
            self.target,
            shape.panel,
            shape.period,
            shape.reach,
            tall,
            shape.in_pairs,
        )

    # Attention: blocks of the rows that all its ops share, each contraction with a register tile of its own.

    def _row_block(
        self, contractions: list[_Node], root: _Node
    ) -> tuple[list[int], dict[int, int], list[int]] | None:
        shared = self._shared_dims(root)
        shapes = [_Contraction.of(node) for node in contractions]
        tiles: list[tuple[int, int]] = []
        for node, shape in zip(contractions, shapes, strict=True):
            if shape is None or shape.columns is None or shape.depthwise:
                return None
            if shape.row is not None and node.root_dims.get(shape.row) not in shared:
                return None
            lanes = min(self.target.lanes(_accumulator_bytes(node.op)), MAX_LANES)
            tiles.append(self._rows_and_width(node, shape, lanes))
        block = min(rows for rows, _ in tiles)
        row_dims = {
            node.root_dims[s.row]
            for node, s in zip(contractions, shapes, strict=True)
            if s and s.row is not None
        }
        if len(row_dims) > 1:
            return None
        tile = [block if d in row_dims else 1 if d in shared else 0 for d in range(len(root.extents))]
        for node, shape, (_, width) in zip(contractions, shapes, tiles, strict=True):
            sizes = [1] * len(node.extents)
            assert shape is not None and shape.columns is not None
            sizes[shape.columns] = width
            if shape.row is not None:
                sizes[shape.row] = block
            self.sizes[node.op] = sizes
            if node is not root:
                self._loop_over_tiles(node, shape, sizes)
        for node in self.nodes.values():
            if node.op in self.sizes:
                continue
            sizes = [1] * len(node.extents)
            rows = {d for d, root_dim in node.root_dims.items() if tile[root_dim]}
            if (dim := self._vector_dim(node, rows)) is not None:
                sizes[dim] = self._width(node.op, node.extents[dim])
            self.sizes[node.op] = sizes
        return tile, {}, []

    def _loop_over_tiles(self, node: _Node, shape: "_Contraction", sizes: list[int]) -> None:
        """
        Loops over the register tiles of a contraction, with the element-wise ops behind it in the same loops: their
        operand is still in registers. Columns outside, so that all rows of the block read a panel from the nearest cache.
        """
        last = self._chain_behind(node, sizes)
        assert shape.columns is not None, "a register tile has columns"
        order = [shape.columns] if shape.row is None else [shape.columns, shape.row]
        tile = [sizes[d] if d in order else 0 for d in range(len(last.extents))]
        self.loops[last.op] = TileAttr.of(tile, self.sizes[last.op], order)

    # A depthwise convolution between products over channels: blocks of rows of pixels.

    def _pixel_rows(
        self, contractions: list[_Node], window: Window, root: _Node
    ) -> tuple[list[int], dict[int, int], list[int]] | None:
        """
        Some rows of pixels are a tile. With a convolution in front, a panel of its channels at a time is computed for all rows that
        the windows reach, then the window's; the product behind it sums over all of them.
        """
        *first, middle, last = contractions
        step = step_of_channels(first[0].op, self.target) if first else 0
        for node in contractions:
            shape = _Contraction.of(node)
            if shape is None or shape.columns is None or shape.row is None:
                return None
            lanes = min(self.target.lanes(_accumulator_bytes(node.op)), MAX_LANES)
            panel = shape.panel if node is last else step
            rows, width = register_tile(
                shape.row_extent,
                shape.column_extent,
                lanes,
                self.target,
                panel,
                shape.period,
                shape.reach,
                pairs=shape.in_pairs,
            )
            sizes = [1] * len(node.extents)
            sizes[shape.row], sizes[shape.columns] = rows, width
            chain = self._chain_behind(node, sizes)
            if (chain is root) != (node is last):
                return None
            rank = len(chain.extents)
            tile, vector = [0, 1, rows, width] + [0] * (rank - 4), sizes[:rank]
            if node is last:
                self.root_inner = tile
            elif node is middle and first:
                panels, pixels = [0] * rank, [*tile[:3], *[0] * (rank - 3)]
                panels[3] = step
                self.loops[chain.op] = TileAttr.of(panels, vector, [], pixels)
            else:
                self.loops[chain.op] = TileAttr.of(tile, vector, [3, 1, 2])
        block = rows_at_a_time(window, bool(first), step, self.target)
        return [1, block] + [0] * (len(root.extents) - 2), {}, []

    def _chain_behind(self, node: _Node, sizes: list[int]) -> _Node:
        """The last of the element-wise ops behind a contraction that are computed while its result is in registers."""
        last = node
        self.sizes[node.op] = sizes
        while (reader := sole_reader(last.op)) and reader in self.nodes and is_elementwise(reader):
            reads = [
                m for v, m in zip(reader.inputs, maps_of(reader), strict=False) if v is last.op.results[0]
            ]
            if not is_identity(output_map(reader)) or not all(map(is_identity, reads)):
                break
            last = self.nodes[reader]
            self.sizes[reader] = sizes[: len(last.extents)]
        return last

    # Everything else: rows and chunks.

    def _shared_dims(self, root: _Node) -> set[int]:
        """The parallel dims of the root that are parallel dims of every op of the kernel."""
        shared = set(parallel_dims(root.op))
        for node in self.nodes.values():
            if node is not root:
                own = parallel_dims(node.op)
                shared &= {node.root_dims[d] for d in own if d in node.root_dims}
        return shared

    def _rows(self, root: _Node) -> tuple[list[int], dict[int, int], list[int]]:
        """Tile the dims that every op of the kernel shares, one row each; the others stay whole in the tile."""
        self.inner = {}
        rank = len(root.extents)
        shared = self._shared_dims(root)
        tile = [1 if d in shared else 0 for d in range(rank)]
        elementwise = all(not reduction_dims(n.op) for n in self.nodes.values())
        dim = _written_along(root) if elementwise else None
        if dim is None:
            dim = self._vector_dim(root)
        if dim is not None and not elementwise and self._reads_across(dim):
            dim = None
        vector: dict[int, int] = {}
        if dim is not None:
            width = self._width(root.op, root.extents[dim])
            vector[dim] = width
            if dim in shared:
                tile[dim] = width
        if elementwise and shared:
            if dim is not None and (other := self._turned(root, dim)) is not None:
                lanes = min(self.target.lanes(_widest(root.op)), _BLOCK)
                for d in (dim, other):
                    extent = root.extents[d]
                    vector[d] = lanes if extent is None else min(lanes, power_of_two(extent))
                    tile[d] = _CHUNK_SIDE
                return tile, vector, []
            self._chunk(root, tile, vector)
        return tile, vector, []

    def _reads_across(self, dim: int) -> bool:
        """
        Whether vectors along `dim` of the root would stride through what most of the work reads: a sum over rows with
        something small behind it runs along the rows.
        """
        reductions = [n for n in self.nodes.values() if reduction_dims(n.op)]
        largest = max(reductions, key=_read_elements)
        along = self._vector_dim(largest)
        return (
            along is not None and largest.root_dims.get(along) != dim and along in reduction_dims(largest.op)
        )

    def _turned(self, root: _Node, dim: int) -> int | None:
        """The dim along which an operand of as many elements as the result lies, if it is not `dim`."""
        rank = len(root.extents)
        for value, map in zip(root.op.inputs, maps_of(root.op), strict=False):
            if isinstance(value.type, TensorType) and len(map.used_dims()) == rank and map.results:
                runs = _contiguous_dims(map.results[-1])
                if len(runs) == 1 and runs[0] != dim and root.extents[runs[0]] != 1:
                    return runs[0]
        return None

    def _chunk(self, root: _Node, tile: list[int], vector: dict[int, int]) -> None:
        """Grow the tile from the innermost dim until it holds enough work."""
        elements = 1
        for d in reversed([d for d in range(len(tile)) if tile[d]]):
            extent = root.extents[d]
            room = max(1, _CHUNK // elements)
            unit = vector.get(d, 1)
            if extent is not None and extent <= max(room, unit):
                tile[d] = max(extent, unit)
            elif extent is not None:
                count = ceil(extent / max(room, unit))
                size = ceil(extent / count)
                tile[d] = ceil(size / unit) * unit
            else:
                tile[d] = max(room // unit, 1) * unit
            elements *= max(1, min(tile[d], extent or tile[d]))
            if elements >= _CHUNK:
                break

    def _vector_dim(self, node: _Node, not_along: set[int] | None = None) -> int | None:
        """
        The dim to lay vectors along: the one that moves by one element where most elements are, the result first
        among equals. Dims of `not_along` are out of the question.
        """
        votes: dict[int, float] = {}
        op = node.op
        for i, (value, map) in enumerate(zip(op.operands, maps_of(op), strict=True)):
            if not isinstance(value.type, TensorType) or not map.results:
                continue
            elements = prod(_GUESS if e == DYNAMIC_INDEX else e for e in value.type.get_shape())
            for dim in _contiguous_dims(map.results[-1]):
                votes[dim] = votes.get(dim, 0.0) + elements * (1.5 if i >= len(op.inputs) else 1.0)
        candidates = [d for d in votes if node.extents[d] != 1 and d not in (not_along or ())]
        return max(candidates, key=lambda d: (votes[d], d), default=None)

    def _width(self, op: linalg.GenericOp, extent: int | None) -> int:
        width = min(MAX_LANES, PANEL_REGISTERS * self.target.lanes(_widest(op)))
        return width if extent is None else min(width, power_of_two(extent))

    def _vector_sizes(self, node: _Node, tile: list[int], vector: dict[int, int]) -> list[int]:
        """
        The vector sizes of one op: the root's where the dims are the same, its own along its reductions, two along a sum in pairs.
        """
        sizes = self._sizes(node, tile, vector)
        sums = reduction_dims(node.op)
        for read in maps_of(node.op):
            if (pairs := paired(read, sums)) and sizes[pairs.column] == pairs.width:
                sizes[pairs.step] = 2
        return sizes

    def _sizes(self, node: _Node, tile: list[int], vector: dict[int, int]) -> list[int]:
        if node.op in self.sizes:
            return self.sizes[node.op]
        sizes = [1] * len(node.extents)
        for dim, root_dim in node.root_dims.items():
            sizes[dim] = vector.get(root_dim, 1)
        if (inner := self.inner.get(node.op)) is not None:
            lanes = self.target.lanes(_accumulator_bytes(node.op))
            extent = node.extents[inner]
            sizes[inner] = lanes if extent is None else min(lanes, power_of_two(extent))
        elif all(s == 1 for s in sizes):
            rows = {d for d, root_dim in node.root_dims.items() if tile[root_dim] == 1}
            if (dim := self._vector_dim(node, rows)) is not None:
                sizes[dim] = self._width(node.op, node.extents[dim])
        return sizes


@dataclass(frozen=True)
class _Contraction:
    """The roles of the dims of a contraction or a window reduction."""

    columns: int | None
    """The dim that runs along vectors; None if only a reduction dim can."""
    column_extent: int | None
    row: int | None
    row_extent: int | None
    panel: int
    """Width of the packed panels of the right-hand side, 0 if it is not packed."""
    batch: tuple[int, ...]
    depthwise: bool
    """Both operands have the columns: each lane is its own channel."""
    inner: int | None = None
    """The reduction dim to vectorise where no parallel dim is contiguous."""
    second_row: int | None = None
    second_extent: int | None = None
    period: int = 0
    """What the number of rows of a tile must divide, 0 if anything will do: a factor is read at `row mod period`."""
    factor: int = 0
    """The operand that has the rows of a tile with columns."""
    in_pairs: bool = False
    """Two steps of the sum are side by side behind each column."""
    reach: int | None = None
    """Elements along `row` that the window of a depthwise contraction reads beside one for each row, if extents are known."""

    @staticmethod
    def of(node: _Node) -> "_Contraction | None":
        op = node.op
        parallel = parallel_dims(op)
        out = output_map(op)
        if not all(isinstance(e, AffineDimExpr) for e in out.results):
            return None
        factors = contraction_operands(op)
        maps = maps_of(op)
        positions = factors if factors is not None else (_window_operand(op),) * 2
        k, other = positions
        a, b = maps[k], maps[other]
        if not parallel or not a.results or not b.results:
            return None
        last = out.results[-1]
        columns = last.position if isinstance(last, AffineDimExpr) else None
        strided = factors is None and columns in b.results[-1].used_dims()
        sums = reduction_dims(op)
        if columns is not None and not strided and columns not in _run_dims(b, sums):
            if columns in _run_dims(a, sums):
                a, b, k = b, a, other
            else:
                columns = None
        if columns is None:
            return _Contraction._dot(node, a, b) if factors is not None else None
        in_a, in_b = a.used_dims(), b.used_dims()
        depthwise = columns in in_a and columns in in_b
        split = {p[1] for e in a.results if (p := packed(e)) and p[0] == AffineBinaryOpKind.Mod}
        # d mod w in one factor and d floordiv w in the other: within w elements `d` is a row
        split &= {p[1] for e in b.results if (p := packed(e)) and p[0] == AffineBinaryOpKind.FloorDiv}
        batch = [d for d in parallel if d in in_a and d in in_b and d != columns and d not in split]
        if depthwise and factors is None:
            batch = []
        rows = [d for d in parallel if d != columns and d not in batch and (d in in_a)]
        if depthwise:
            rows = [d for d in parallel if d != columns and (d in in_a) != (d in in_b or factors is None)]
            if factors is None:
                rows = [d for d in parallel if d != columns]
                batch = []
        rows = [d for d in rows if node.extents[d] != 1]
        row = max(rows, key=lambda d: (_long_enough(node.extents[d]), d), default=None)
        row_extent = node.extents[row] if row is not None else 1
        period = next((p[2] for e in a.results if (p := packed(e)) and p[1] == row), 0)
        if row in split and row_extent is not None:
            period = gcd(period, row_extent)
        pairs = paired(b, sums)
        return _Contraction(
            columns,
            node.extents[columns],
            row,
            row_extent,
            pairs.width if pairs else pack[2] if (pack := packed(b.results[-1])) else 0,
            tuple(batch),
            depthwise,
            period=period,
            factor=k,
            reach=_reach(node, a, b, row) if depthwise and factors is not None else None,
            in_pairs=pairs is not None,
        )

    @staticmethod
    def _dot(node: _Node, a: AffineMap, b: AffineMap) -> "_Contraction | None":
        """Both operands run along a reduction dim: tiles of dot products."""
        inner = set(_contiguous_dims(a.results[-1])) & set(_contiguous_dims(b.results[-1]))
        inner &= set(reduction_dims(node.op))
        if len(inner) != 1:
            return None
        parallel = parallel_dims(node.op)
        in_a, in_b = a.used_dims(), b.used_dims()
        batch = tuple(d for d in parallel if d in in_a and d in in_b)
        left = [d for d in parallel if d in in_a and d not in in_b and node.extents[d] != 1]
        right = [d for d in parallel if d in in_b and d not in in_a and node.extents[d] != 1]
        row, second = max(left, default=None), max(right, default=None)
        return _Contraction(
            None,
            None,
            row,
            node.extents[row] if row is not None else 1,
            0,
            batch,
            False,
            inner.pop(),
            second,
            node.extents[second] if second is not None else 1,
        )


def _reach(node: _Node, a: AffineMap, b: AffineMap, row: int | None) -> int | None:
    """How many elements more than its rows a window covers along `row`, those that its stride passes over left out."""
    for expr in (*a.results, *b.results):
        if row in expr.used_dims() and (terms := linear(expr)) is not None and len(terms[0]) > 1:
            steps = [factor * ((node.extents[d] or 1) - 1) for d, factor in terms[0].items() if d != row]
            return sum(steps) // abs(terms[0][row])
    return None


def _is_window_or_contraction(op: linalg.GenericOp) -> bool:
    """A multiply-add over a reduction, or a reduction of a sliding window."""
    if contraction_operands(op) is not None:
        return True
    if not reduction_dims(op) or len(op.outputs) != 1:
        return False
    return _window_operand(op, default=-1) >= 0


def _read_elements(node: _Node) -> int:
    """Elements of the largest operand, unknown extents guessed."""
    shapes = [v.type.get_shape() for v in node.op.operands if isinstance(v.type, TensorType)]
    return max((prod(_GUESS if e == DYNAMIC_INDEX else e for e in shape) for shape in shapes), default=0)


def _result_dims(op: linalg.GenericOp) -> list[int]:
    """The dims of `op` along the axes of its result."""
    return [e.position for e in output_map(op).results if isinstance(e, AffineDimExpr)]


def _written_along(node: _Node) -> int | None:
    """The dim along which the result lies in memory: reads can be turned in registers, scattered writes not."""
    for expr in reversed(output_map(node.op).results):
        if isinstance(expr, AffineDimExpr) and node.extents[expr.position] != 1:
            return expr.position
    return None


def _window_operand(op: linalg.GenericOp, default: int = 0) -> int:
    """The input that a window slides over: an axis is a sum of a parallel and a reduction dim."""
    inner = set(reduction_dims(op))
    for i, map in enumerate(maps_of(op)[: len(op.inputs)]):
        for expr in map.results:
            used = expr.used_dims()
            if len(used) > 1 and used & inner and used - inner:
                return i
    return default


def _contiguous_dims(expr: AffineExpr) -> list[int]:
    """The dims along which the last axis of an operand moves by one element."""
    if (terms := linear(expr)) is not None:
        return [dim for dim, factor in terms[0].items() if factor == 1]
    if (pack := packed(expr)) is not None and "mod" in str(expr):
        return [pack[1]]
    return []


def _run_dims(map: AffineMap, reductions: list[int]) -> list[int]:
    """The dims along which a factor lies in memory: those of its last axis, or the columns of its pairs of steps."""
    return [pairs.column] if (pairs := paired(map, reductions)) else _contiguous_dims(map.results[-1])


def _extents(op: linalg.GenericOp) -> list[int | None]:
    extents: list[int | None] = [None] * len(op.iterator_types)
    for value, map in zip(op.operands, maps_of(op), strict=True):
        if not isinstance(value.type, TensorType):
            continue
        for extent, expr in zip(value.type.get_shape(), map.results, strict=True):
            if isinstance(expr, AffineDimExpr) and extent != DYNAMIC_INDEX:
                extents[expr.position] = extent
    return extents


def _bytes(type: object) -> int:
    element = type.element_type if isinstance(type, TensorType) else type
    if isinstance(element, IntegerType):
        return max(1, element.width.data // 8)
    return element.bitwidth // 8 if isinstance(element, AnyFloat) else 8


def _size_bytes(type: Attribute) -> int:
    """Bytes of a tensor, unknown extents guessed; 0 for a scalar."""
    if not isinstance(type, TensorType):
        return 0
    return prod(_GUESS if e == DYNAMIC_INDEX else e for e in type.get_shape()) * _bytes(type)


def _widest(op: linalg.GenericOp) -> int:
    return max((_bytes(v.type) for v in op.operands), default=4)


def _accumulator_bytes(op: linalg.GenericOp) -> int:
    return _bytes(op.outputs[0].type)


def _long_enough(extent: int | None) -> bool:
    return extent is None or extent >= 4
