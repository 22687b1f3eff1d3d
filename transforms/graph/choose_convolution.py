"""Choose how each convolution is computed: directly, or by Winograd's algorithm where that is faster."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import AnyFloat, ModuleOp
from xdsl.passes import ModulePass

from stepwell.dialects.graph import ConstantOp, GraphOp, dims_of
from stepwell.dialects.graph.core import int_attr
from stepwell.dialects.stepwell import target_of
from stepwell.remarks import applied, listening, missed
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.targets import Target
from stepwell.transforms.graph.emitter import element_type, static_shape

_TILES = (2, 4)
_GUESS = 56
"""What a spatial extent that is known at run time only is taken for."""
_LEAST_GAIN = 0.85
"""What of the time of a direct convolution another may take to be chosen: it needs more memory and rounds more."""
_FEW_TILES = 48
"""So many rows are one tile: they are multiplied by a panel of filters as it comes from memory."""
_PRODUCT_SPEED = 0.72
"""Speed of the products inside a network, over the peak: weights come from memory, panels of them from L2."""
_STREAM_SPEED = 0.7
"""Speed of reading filters that are used for one tile of rows each, over that of memory."""
_TRANSFORM_COST = 2.0
"""Time of a multiply-add of a transform, in those of a product: it loads its operands for each."""


@dataclass(frozen=True)
class ChooseConvolutionPass(ModulePass):
    """
    Choose how each convolution is computed: directly, or by Winograd's algorithm where that is faster.

    Requires: `set-target`; weights folded. Ensures: `winograd` is the tile of every `graph.conv`, 0 where it is direct. With
    fp = "strict" all are direct, since Winograd's algorithm sums in another order.
    """

    name = "choose-convolution"
    tile: Literal["auto", "0", "2", "4"] = "auto"
    """The outputs of a tile along an axis wherever Winograd's algorithm is possible; 0: direct; auto: the fastest."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = target_of(op)
        for conv in op.walk():
            if isinstance(conv, GraphOp) and conv.ONNX_NAME == "Conv":
                tile = 0
                obstacle = _obstacle(conv) if target.fp != "strict" else "fp=strict keeps the order of sums"
                if obstacle is None:
                    costs = _costs(conv, target)
                    tile = min(costs, key=costs.__getitem__) if self.tile == "auto" else int(self.tile)
                    if tile and not may_rewrite():
                        tile = 0
                    if listening():
                        _remark(conv, tile, costs)
                else:
                    missed(conv, f"direct convolution: {obstacle}")
                conv.properties["winograd"] = int_attr(tile)
                if tile:
                    note_rewrite(f"winograd_{tile}", conv.name, conv.location)


def _obstacle(conv: GraphOp) -> str | None:
    """Why Winograd's algorithm is not possible: it takes 3x3, strides and dilations 1, one group, constant float weights."""
    weights = conv.operands[1]
    shape = static_shape(weights)
    if shape is None or not isinstance(weights.owner, ConstantOp):
        return "the weights are not constant"
    if shape[2:] != [3, 3]:
        return f"the window is {'x'.join(map(str, shape[2:]))}, Winograd's algorithm takes 3x3"
    if any(s != 1 for s in (*(conv.get("strides") or ()), *(conv.get("dilations") or ()))):
        return "a stride or a dilation is not 1"
    element = element_type(weights)
    if conv.get("group") != 1:
        return f"it has {conv.get('group')} groups"
    return None if isinstance(element, AnyFloat) and element.bitwidth >= 32 else f"it computes on {element}"


def _remark(conv: GraphOp, tile: int, costs: dict[int, float]) -> None:
    """Say what was chosen, with the modelled microseconds of each algorithm (what is multiplied in is taken out)."""
    micros = {f"winograd{t}_us": round(ns / 1e3, 2) for t, ns in costs.items() if t}
    micros["direct_us"] = round(costs[0] / _LEAST_GAIN / 1e3, 2)
    if tile:
        applied(conv, f"Winograd's algorithm F({tile}x{tile}, 3x3)", **micros)
    else:
        missed(
            conv, "direct convolution: Winograd's algorithm would take longer or gain too little", **micros
        )


def _costs(conv: GraphOp, target: Target) -> dict[int, float]:
    """Nanoseconds by tile, 0 the direct convolution; the least is chosen."""
    output = dims_of(conv.results[0].type)
    last = conv.get("layout") == "nhwc"
    extents = [d if isinstance(d, int) else _GUESS for d in (output[1:-1] if last else output[2:])]
    batch = output[0] if isinstance(output[0], int) else 1
    weights = static_shape(conv.operands[1])
    assert weights is not None, "a convolution with a choice has weights of known shape"
    oc, ic, *_ = weights
    lanes = target.lanes(4)
    oc = -(-oc // lanes) * lanes
    costs = {0: _LEAST_GAIN * _direct_ns(batch, extents, ic, oc, target)}
    costs |= {tile: _winograd_ns(tile, batch, extents, ic, oc, target) for tile in _TILES}
    return costs


def _direct_ns(batch: int, extents: list[int], ic: int, oc: int, target: Target) -> float:
    products = 9 * ic * oc
    return _products_ns(products, batch * int(np.prod(extents)), target)


def _products_ns(products: int, rows: int, target: Target) -> float:
    """
    `products` multiply-adds for each of `rows`. While tiles of rows multiply one panel of weights, the next comes from memory; few rows
    are one tile (`pack-weights`), which waits for it.
    """
    multiply = 2 * products * rows / (_PRODUCT_SPEED * target.flops_per_ns)
    speed = _STREAM_SPEED if rows <= _FEW_TILES else 1.0
    return max(multiply, 4 * products / (speed * target.dram_bytes_per_ns))


def _winograd_ns(tile: int, batch: int, extents: list[int], ic: int, oc: int, target: Target) -> float:
    """Products on transformed tiles, transforms, transformed activations through caches."""
    n = tile + 2
    tiles = batch * int(np.prod([-(-extent // tile) for extent in extents]))
    lanes = target.lanes(4)
    vectors = -(-ic // lanes) * lanes  # the channels of a transform are a vector, those of a product its sum
    transforms = 2 * tiles * (vectors * n * n * (tile + n) + oc * tile * n * (n + tile))
    moved = 4 * 2 * tiles * n * (vectors * (tile + n) + oc * (n + tile))
    return (
        _products_ns(n * n * ic * oc, tiles, target)
        + transforms * _TRANSFORM_COST / target.flops_per_ns
        + moved / target.cache_bytes_per_ns
    )
