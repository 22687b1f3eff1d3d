"""The register tile of a contraction: how many rows, and how many columns side by side, it sums in registers."""

from math import ceil, gcd, prod

from xdsl.dialects import math
from xdsl.dialects.builtin import DYNAMIC_INDEX, TensorType
from xdsl.dialects.linalg import ops as linalg

from stepwell.targets import Target
from stepwell.transforms.linalg.indices import linear
from stepwell.transforms.linalg.structure import (
    element_bytes,
    extents_of,
    is_elementwise,
    maps_of,
    reduction_dims,
)

PANEL_REGISTERS = 4
"""Registers side by side in the widest vector: more gains nothing and leaves fewer rows."""
MAX_LANES = 64
_MAX_ACCUMULATORS = 28
"""Beyond this clang's scheduler decides whether the accumulators of a tile stay in registers."""
_MAX_ROWS, _WAY_BYTES = 8, 4096
"""More rows than this only where they do not fall on the same L1 sets, as rows of a multiple of a way's bytes do."""
_MAX_TALL_ROWS = 24
"""The most of a tile that is one register wide, where `pack-weights` has chosen narrow panels for few rows."""
_DEEP = 64
"""Steps of a contraction from which on a tall tile pays for its longer ends (27 steps of a first convolution: 0.91, 64: 1.03)."""
_SMALL_REACH = 2
"""The reach of a window up to which clang keeps its pixels in registers from tap to tap: 3 taps, or 5 in steps of 2 (with 7, a tile
of 8x2 registers reaches 114 flops/ns, one of 7x1, which would leave room for the pixels, 73)."""
_ROW_LOAD, _PACKED_ROW_LOAD, _PANEL_LOAD = 0.6, 0.8, 2.0
"""
Weights of the loads of a register tile beside its multiply-adds: one element of a row, mostly from L1, and
one vector of a panel, mostly from L2. Fitted to GEMMs of 384x768x768 and 384x512x64 on a Xeon with two 512-bit
multiply-adds a cycle; cores with one are less choosy. With packed panels rows weigh more: 96 and 384 rows, by 768 columns of 768,
take 1 and 6 % less time in tiles of 6x64 than of 12x32, while 128 take 5 % less in those of 13x32, of which two less are idle.
"""


def register_tile(
    row_extent: int | None,
    column_extent: int | None,
    lanes: int,
    target: Target,
    panel: int | None = 0,
    period: int = 0,
    reach: int | None = None,
    tall: int = 0,
    pairs: bool = False,
) -> tuple[int, int]:
    """
    The rows and the width of the register tile with the least padded work and loads. `panel`: the width of packed panels, 0 where
    nothing is packed, None where they will be as wide as the tile; `period`: what the rows must divide, 0 where anything goes.
    `reach`, of a depthwise convolution: the elements that a row of a window reads beside those of the tile's pixels; where they are
    few, all of these are in registers, since several taps read each, and clang spills what does not fit. `tall`: `tall_rows`.
    `pairs`: each column takes two lanes.
    """
    if reach is not None and reach > _SMALL_REACH:
        reach = None
    best: tuple[float, int, int] | None = None
    row_load = _ROW_LOAD if panel == 0 else _PACKED_ROW_LOAD
    widths = [lanes * k for k in (PANEL_REGISTERS, 2, 1) if lanes * k <= MAX_LANES]
    if column_extent is not None and column_extent < lanes:
        widths = [power_of_two(max(1, column_extent))]
    if panel:
        widths = [w for w in widths if panel % w == 0 and panel != 3 * lanes] or [panel]
    for width in widths:
        vectors = max(1, width * (2 if pairs else 1) // lanes)
        most = _MAX_ROWS
        if panel == lanes or (reach is not None and vectors == 1):
            most = _MAX_TALL_ROWS
        elif vectors == 2 and panel in (None, width):  # a tile of half a panel would stride through memory
            most = max(most, tall)
        for rows in range(most, 0, -1):
            if row_extent is not None and rows > max(1, row_extent):
                continue
            if period and period % rows:
                continue
            accumulators = rows * vectors
            spare = target.vector_registers - 1
            if accumulators > _MAX_ACCUMULATORS or accumulators + vectors + 1 > spare:
                continue
            if reach is not None and vectors * (2 * rows + reach) + 1 > max(spare, 2 + reach):
                continue
            cost = 1 + row_load / vectors + _PANEL_LOAD / rows
            cost *= _waste(row_extent, rows) * _waste(column_extent, width)
            if best is None or cost < best[0] - 1e-9:
                best = cost, rows, width
    assert best is not None, "one accumulator of one register always fits"
    return best[1], best[2]


def tall_rows(op: linalg.GenericOp, factor: int, row: int | None, target: Target) -> int:
    """
    The most rows of a tile two registers wide whose rows are those of the operand `factor` of the contraction `op`, along dim `row`;
    0 where a lower tile is better: where it is not known that L1 holds a line of each row, where there are few steps to sum, and
    where functions follow the sums, whose terms would push them out of the registers (Swish: 0.92).
    """
    extents, value = extents_of(op), op.operands[factor]
    sums = [extents.get(d, DYNAMIC_INDEX) for d in reduction_dims(op)]
    if not isinstance(value.type, TensorType) or DYNAMIC_INDEX in sums:
        return 0
    if prod(sums) < _DEEP or _has_function_behind(op):
        return 0
    for axis, expr in enumerate(maps_of(op)[factor].results):
        if row in expr.used_dims():
            terms, inner = linear(expr), value.type.get_shape()[axis + 1 :]
            if terms is None or DYNAMIC_INDEX in inner:
                return 0
            stride = terms[0][row] * prod(inner) * element_bytes(value)
            return _WAY_BYTES // gcd(stride, _WAY_BYTES) * (target.l1_bytes // _WAY_BYTES)
    return 0


def _has_function_behind(op: linalg.GenericOp) -> bool:
    """Whether the element-wise ops behind `op`, which end in its tile, compute a function of `math`."""
    reader = sole_reader(op)
    while reader is not None and is_elementwise(reader):
        if any(
            inner.name.startswith("math.") for inner in reader.body.block.ops if not isinstance(inner, _PLAIN)
        ):
            return True
        reader = sole_reader(reader)
    return False


_PLAIN = (math.AbsFOp, math.FmaOp)
"""Functions that are one instruction."""


def sole_reader(op: linalg.GenericOp) -> linalg.GenericOp | None:
    """The generic that alone reads the one result of `op`."""
    readers = {use.operation for result in op.results for use in result.uses}
    reader = readers.pop() if len(readers) == 1 else None
    return reader if isinstance(reader, linalg.GenericOp) and reader.inputs else None


def power_of_two(extent: int) -> int:
    """The smallest power of two that is not below `extent`."""
    return 1 << max(0, extent - 1).bit_length()


def _waste(extent: int | None, tile: int) -> float:
    """Work done over work asked for, when `extent` is cut into whole tiles."""
    return 1.0 if not extent else ceil(extent / tile) * tile / extent
