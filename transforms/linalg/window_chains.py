"""
Depthwise convolutions with the product over channels behind them, and the convolution in front: `project(window(expand(x)))`,
the inverted residual block, or the stem of a network. Which of them are one kernel, and how many rows of pixels it computes at a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from xdsl.dialects import tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr

from stepwell.targets import Target
from stepwell.transforms.linalg.indices import linear, packed
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    element_bytes,
    extents_of,
    maps_of,
    output_map,
    parallel_dims,
    reduction_dims,
)

_TILES = 4
"""Blocks of rows that a kernel has at least, and two for each thread: the last to finish should not be waited for long."""
_ROWS_AGAIN = 1 / 16
"""
The share of L2 that rows of a window's result may take until the product reads them (28 rows of 28x192 with it: 98 us by one row
at a time, 85 by two, 81 by four, 83 by seven).
"""
_SHARE_OF_PEAK = 0.7
"""What a product over few channels reaches of the multiply-adds that a core can do."""
_BYTES_PER_NS = 30.0
"""What one core of a server moves that does not stay in its L2 cache, read or written (measured on Sapphire Rapids)."""


@dataclass(frozen=True)
class Window:
    """A depthwise convolution of static extents, channels last."""

    op: linalg.GenericOp
    data: int
    """The operand that the window slides over."""

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.op.results[0])

    def rows_behind(self, rows: int) -> int:
        """Rows of the operand that `rows` rows of the result are computed from."""
        terms = linear(maps_of(self.op)[self.data].results[1])
        assert terms is not None, "an axis of a window is a sum"
        extents = extents_of(self.op)
        steps = {1: rows}
        return 1 + sum(factor * (steps.get(d, extents[d]) - 1) for d, factor in terms[0].items())

    def bytes_behind(self, rows: int) -> int:
        """Bytes of those rows."""
        data = self.op.inputs[self.data]
        return self.rows_behind(rows) * prod(_shape(data)[2:]) * element_bytes(data)

    def leaves_l1(self, target: Target) -> bool:
        """
        Whether the rows that one row of the result is computed from have left L1, one register of channels after the other, when the
        next row reads them again: several rows should then be computed of one register of channels before the next.
        """
        lanes = target.lanes(element_bytes(self.op.results[0]))
        return self.bytes_behind(1) > target.l1_bytes // 2 and self.shape[3] > 2 * lanes


def window_of(ops: Iterable[linalg.GenericOp]) -> Window | None:
    """The one depthwise convolution among `ops`, if it has two axes of pixels and nothing else sums."""
    sums = [op for op in ops if reduction_dims(op)]
    if len(sums) != 1 or (factors := contraction_operands(op := sums[0])) is None:
        return None
    maps, out = maps_of(op), output_map(op)
    if len(out.results) != 4 or DYNAMIC_INDEX in _all_extents(op):
        return None
    if not all(isinstance(e, AffineDimExpr) and e.position == i for i, e in enumerate(out.results)):
        return None
    for data in factors:
        (weights,) = (f for f in factors if f != data)
        read = maps[data].results
        if len(read) != 4 or read[3] != AffineExpr.dimension(3) or 3 not in maps[weights].used_dims():
            continue
        if {0, 1, 2} & maps[weights].used_dims() or not all(_slides(read[axis], axis, op) for axis in (1, 2)):
            continue
        return Window(op, data)
    return None


def _slides(expr: AffineExpr, axis: int, op: linalg.GenericOp) -> bool:
    """Whether `expr` is `stride * axis + dilation * tap`."""
    if (terms := linear(expr)) is None or terms[1] or terms[0].get(axis, 0) < 1:
        return False
    return all(f > 0 for f in terms[0].values()) and {*terms[0]} - {axis} <= {*reduction_dims(op)}


def product_of_pixels(op: Operation) -> int | None:
    """The operand whose last axis, the channels, `op` sums over pixel by pixel; None if it is no such product."""
    factors = contraction_operands(op)
    if factors is None or not isinstance(op, linalg.GenericOp):
        return None
    if len(parallel_dims(op)) != 4 or DYNAMIC_INDEX in _all_extents(op):
        return None
    extents, out = extents_of(op), output_map(op).results
    summed = [d for d in reduction_dims(op) if extents.get(d) != 1]
    if [e.position for e in out if isinstance(e, AffineDimExpr)] != [0, 1, 2, 3] or len(summed) != 1:
        return None
    for place in factors:
        read = [_without_units(e, extents) for e in maps_of(op)[place].results]
        if read == [{0: 1}, {1: 1}, {2: 1}, {summed[0]: 1}]:
            return place
    return None


def is_convolution_of_pixels(op: Operation, target: Target) -> bool:
    """
    Whether `op` is a convolution, channels last, over two axes of pixels and all channels of its operand (1x1: a product of pixels)
    with a panel of weights that stays in L1, since every tile of pixels reads it.
    """
    factors = contraction_operands(op)
    if factors is None or not isinstance(op, linalg.GenericOp) or DYNAMIC_INDEX in _all_extents(op):
        return False
    maps, extents = maps_of(op), extents_of(op)
    out = [e.position for e in output_map(op).results if isinstance(e, AffineDimExpr)]
    if out != [0, 1, 2, 3] or len(parallel_dims(op)) != 4:
        return False
    panel = prod(extents[d] for d in reduction_dims(op)) * element_bytes(op.results[0])
    if panel * step_of_channels(op, target) > target.l1_bytes // 2:
        return False
    for data in factors:
        read = maps[data].results
        if len(read) == 4 and 3 not in maps[data].used_dims():
            return all(_slides(read[axis], axis, op) for axis in (1, 2))
    return False


def _without_units(expr: AffineExpr, extents: dict[int, int]) -> dict[int, int] | None:
    """The coefficients of a sum of dims, those of reductions of extent 1 left out."""
    if (terms := linear(expr)) is None or terms[1]:
        return None
    return {d: f for d, f in terms[0].items() if d < 4 or extents.get(d) != 1}


def rows_at_a_time(window: Window, expands: bool, step: int, target: Target) -> int:
    """
    Rows of pixels of the result in one tile. Without a product in front: what lies in half of L1, or, equally many tiles for each
    thread, in a small part of L2 where rows that the window reads again would have left L1 otherwise. With one (`expands`,
    `step` channels at a time): as many as half of L2 holds, since the rows that a window reaches over are computed twice.
    """
    _, rows, columns, channels = window.shape
    element = element_bytes(window.op.results[0])
    line = columns * channels * element
    padded = prod(_shape(window.op.inputs[window.data])[2:]) // channels * step * element
    most = rows // max(_TILES, 2 * target.threads)
    again = not expands and window.leaves_l1(target)
    best = 1
    for count in (n for n in range(1, most + 1) if rows % n == 0):
        used = count * line + (window.rows_behind(count) * padded if expands else 0)
        room = (target.l2_bytes if expands else target.l1_bytes) // 2
        if again and rows // count % target.threads == 0:
            room = max(room, int(target.l2_bytes * _ROWS_AGAIN))
        if used <= room:
            best = count
    return best


def is_worth_expanding(window: Window, expand: linalg.GenericOp, step: int, target: Target) -> bool:
    """Whether rows of the window's operand that are computed twice take less time than writing and reading all of them."""
    moved = prod(_shape(expand.results[0])) * element_bytes(expand.results[0])
    if moved < target.l2_bytes // 2:
        return False
    block = rows_at_a_time(window, True, step, target)
    tiles = -(-window.shape[1] // block)
    twice = tiles * window.rows_behind(block) / _shape(expand.results[0])[1] - 1
    work = 2 * prod(extents_of(expand).values())
    return twice * work / (_SHARE_OF_PEAK * target.flops_per_ns) < 2 * moved / _BYTES_PER_NS


def step_of_channels(expand: linalg.GenericOp, target: Target) -> int:
    """Channels of the window's operand that are computed at a time: a panel of weights, or one register of them."""
    columns = parallel_dims(expand)
    widths = [p[2] for m in maps_of(expand) for e in m.results if (p := packed(e)) and p[1] in columns]
    return min(widths, default=target.lanes(element_bytes(expand.results[0])))


def pad_behind(value: SSAValue) -> tensor.PadOp | None:
    """The pad that made `value`, if it only surrounds pixels with one constant."""
    if not isinstance(value, OpResult) or not isinstance(pad := value.op, tensor.PadOp):
        return None
    low, high = pad.static_low.get_values(), pad.static_high.get_values()
    if len(low) != 4 or DYNAMIC_INDEX in (*low, *high) or any(low[a] or high[a] for a in (0, 3)):
        return None
    return pad if constant_padding(pad) is not None else None


def constant_padding(op: tensor.PadOp) -> SSAValue | None:
    """The value around a padded tensor if it is the same everywhere and made outside of its region."""
    terminator = op.region.block.last_op
    assert terminator is not None, "the region of a pad yields its value"
    value = terminator.operands[0]
    outside = isinstance(value, OpResult) and value.op.parent is not op.region.block
    return value if outside else None


def _all_extents(op: linalg.GenericOp) -> list[int]:
    return [e for v in op.operands if isinstance(v.type, TensorType) for e in v.type.get_shape()]


def _shape(value: SSAValue) -> tuple[int, ...]:
    assert isinstance(value.type, TensorType)
    return value.type.get_shape()
