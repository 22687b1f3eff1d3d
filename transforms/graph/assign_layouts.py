"""Keep images channels-last from one convolution to the next; transposes stay at the borders only.

One walk in program order. A convolution or pooling reads and makes channels-last values; an op that does not
mind the order of the axes follows its operands; any other op gets its operands transposed back. The
transposes of one value are made once, right behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from stepwell.dialects.graph import ONNX_NAMES, ConstantOp, GraphOp, dims_of, tensor_type
from stepwell.dialects.graph.core import attribute_of
from stepwell.resources import constant_attr, value_of

_ANCHORS = {
    f"graph.{name}"
    for name in (
        "conv", "conv_transpose", "conv_integer", "max_pool", "average_pool", "lp_pool", "global_average_pool",
        "global_max_pool", "global_lp_pool", "batch_normalization",
    )
}  # fmt: skip
"""Ops with a `layout`; batch normalisation follows its operand, the others lead."""

_ELEMENTWISE = {
    f"graph.{name}"
    for name in (
        "abs", "acos", "acosh", "add", "and", "asin", "asinh", "atan", "atanh", "bit_shift", "bitwise_and",
        "bitwise_not", "bitwise_or", "bitwise_xor", "cast", "cast_like", "ceil", "celu", "clip", "cos", "cosh",
        "div", "dropout", "elu", "equal", "erf", "exp", "floor", "gelu", "greater", "greater_or_equal",
        "hard_sigmoid", "hard_swish", "identity", "is_inf", "is_nan", "leaky_relu", "less", "less_or_equal",
        "log", "max", "mean", "min", "mish", "mod", "mul", "neg", "not", "or", "pow", "prelu", "reciprocal",
        "relu", "round", "selu", "shrink", "sigmoid", "sign", "sin", "sinh", "softplus", "softsign", "sqrt",
        "sub", "sum", "swish", "tan", "tanh", "thresholded_relu", "where", "xor",
    )
}  # fmt: skip
_ALONG_AXIS = {
    f"graph.{name}"
    for name in (
        "concat",
        "softmax",
        "log_softmax",
        "split",
        "quantize_linear",
        "dequantize_linear",
        "hardmax",
    )
}
_REDUCTIONS = {
    f"graph.reduce_{kind}" for kind in "sum mean max min prod l1 l2 log_sum log_sum_exp sum_square".split()
}


def last(rank: int) -> list[int]:
    """The permutation to channels last: `[0, 2, .., 1]`."""
    return [0, *range(2, rank), 1]


def first(rank: int) -> list[int]:
    """The permutation back: `[0, n-1, 1, ..]`."""
    return [0, rank - 1, *range(1, rank - 1)]


def _rank(value: SSAValue) -> int:
    return value.type.get_num_dims() if isinstance(value.type, TensorType) else -1


def _given(op: GraphOp) -> dict[str, Any]:
    """The attributes of `op`, as `build` takes them."""
    return {k: v for k, v in op.properties.items() if not k.endswith("SegmentSizes")}


def _image_type(value: SSAValue) -> TensorType:
    """The type of the channels-last form of `value`."""
    assert isinstance(value.type, TensorType)
    extents = dims_of(value.type)
    return tensor_type([extents[a] for a in last(len(extents))], value.type.element_type)


def _only_user(op: Operation | None) -> Operation | None:
    """The op that alone reads the one result of `op`."""
    if op is None or len(op.results) != 1:
        return None
    uses = list(op.results[0].uses)
    return uses[0].operation if len(uses) == 1 and uses[0].index == 0 else None


class _Layouts:
    """The walk over one function: `images` maps a value to its channels-last form."""

    def __init__(self, ctx: Context):
        self.ctx = ctx
        self.images: dict[SSAValue, SSAValue] = {}
        self._back: dict[SSAValue, SSAValue] = {}
        self.dead: list[Operation] = []
        self._done: set[Operation] = set()

    def block(self, block: Block) -> None:
        for op in list(block.ops):
            if op not in self._done and not self._convert(op):
                self._restore(op)
                for region in op.regions:
                    for inner in region.blocks:
                        self.block(inner)

    # Values

    def _restore(self, op: Operation) -> None:
        """Give `op` the values of the model's order in place of those that were rewritten."""
        for i, value in enumerate(op.operands):
            if value in self.images:
                op.operands[i] = self._in_order(value)

    def _in_order(self, value: SSAValue) -> SSAValue:
        """A rewritten value in the order of the model."""
        if value not in self._back:
            image = self.images[value]
            owner = image.owner
            if (
                isinstance(owner, Operation)
                and owner.name == "graph.transpose"
                and owner.operands[0] is value
            ):
                return value  # the image is made of it
            self._back[value] = self._transposed(image, first(_rank(image)), value.type)
        return self._back[value]

    def _transposed(self, value: SSAValue, permutation: Sequence[int], type: Any = None) -> SSAValue:
        """`value` transposed right behind its definition; a constant is transposed now."""
        owner = value.owner
        if isinstance(owner, ConstantOp) and (known := self._known(value)) is not None:
            assert isinstance(value.type, TensorType)
            array = np.ascontiguousarray(known.transpose(permutation))
            made = ConstantOp.build([], {"value": constant_attr(array, self.ctx, value.type.element_type)})
        else:
            types = None if type is None else [type]
            made = ONNX_NAMES["Transpose"].build([value], {"perm": list(permutation)}, result_types=types)
        if isinstance(value, BlockArgument):
            block = value.block
            assert block.first_op is not None
            block.insert_op_before(made, block.first_op)
        else:
            assert isinstance(owner, Operation) and owner.parent is not None
            made.location = owner.location
            owner.parent.insert_op_after(made, owner)
        return made.results[0]

    def _image(self, value: SSAValue) -> SSAValue:
        """The channels-last form of a value."""
        if value not in self.images:
            self.images[value] = self._transposed(value, last(_rank(value)))
        return self.images[value]

    def _known(self, value: SSAValue | None) -> np.ndarray | None:
        if value is None or not isinstance(owner := value.owner, ConstantOp):
            return None
        attribute = owner.properties["value"]
        return value_of(attribute, self.ctx) if hasattr(attribute, "get_type") else None

    # Ops

    def _convert(self, op: Operation) -> bool:
        """Rewrite `op` channels-last if it is to be; False if it stays."""
        if not isinstance(op, GraphOp) or not op.results or not op.operands:
            return False
        rank = _rank(op.operands[0])
        if op.name in _ANCHORS:
            follows = op.name == "graph.batch_normalization"
            if rank < 3 or len(op.results) > 1 or (follows and op.operands[0] not in self.images):
                return False
            operands = [self._image(op.operands[0]), *op.operands[1:]]
            return self._rebuild(op, operands, {"layout": "nhwc"})
        if op.name in _ELEMENTWISE:
            return self._elementwise(op)
        if op.operands[0] not in self.images and op.name != "graph.concat":
            return False
        rules: dict[str, Callable[[GraphOp, int], bool]] = {
            "graph.pad": self._pad, "graph.resize": self._resize, "graph.slice": self._slice,
            "graph.transpose": self._transpose, "graph.reshape": self._shuffle,
        }  # fmt: skip
        if op.name in rules:
            return rules[op.name](op, rank)
        if op.name in _ALONG_AXIS:
            return self._along_axis(op, rank)
        if op.name in _REDUCTIONS:
            return self._reduction(op, rank)
        return False

    def _rebuild(self, op: GraphOp, operands: Sequence[SSAValue], changes: dict[str, Any]) -> bool:
        """The same op on channels-last operands; its results become images of the old ones."""
        properties = {**op.properties, **{k: attribute_of(v) for k, v in changes.items()}}
        types = [_image_type(r) for r in op.results]
        new = type(op).create(
            operands=list(operands), result_types=types, properties=properties, attributes=op.attributes
        )
        new.location = op.location
        assert op.parent is not None
        op.parent.insert_op_before(new, op)
        for before, after in zip(op.results, new.results, strict=True):
            after.name_hint = before.name_hint
            self.images[before] = after
        self.dead.append(op)
        return True

    def _elementwise(self, op: GraphOp) -> bool:
        """All operands of full rank are images or constants; those of lower rank are lifted to it."""
        rank = max(_rank(v) for v in op.operands)
        if rank < 3 or not any(v in self.images for v in op.operands):
            return False
        if not all(_rank(v) == rank if v in self.images else self._movable(v, rank) for v in op.operands):
            return False
        operands: list[SSAValue] = []
        for i, value in enumerate(op.operands):
            if op.name in ("graph.clip", "graph.cast_like", "graph.dropout") and i:
                operands.append(value)
            elif value in self.images:
                operands.append(self.images[value])
            else:
                operands.append(self._lifted(value, rank))
        return self._rebuild(op, operands, {})

    def _movable(self, value: SSAValue, rank: int) -> bool:
        """True if bringing `value` into the other order costs nothing at run time, or hardly anything."""
        extents = dims_of(value.type)
        full = [1] * (rank - len(extents)) + list(extents)
        return (
            isinstance(value.owner, ConstantOp)
            or sum(e != 1 for e in full) <= 1
            or (full[0] == 1 and len(extents) < rank)
            or all(e == 1 for e in full[2:])
        )

    def _lifted(self, value: SSAValue, rank: int) -> SSAValue:
        """A broadcast operand in the other order."""
        own = _rank(value)
        if own == 0 or all(e == 1 for e in dims_of(value.type)):
            return value
        if own == rank:
            return self._image(value)
        if (known := self._known(value)) is not None:
            assert isinstance(value.type, TensorType)
            grown = known.reshape((1,) * (rank - own) + known.shape).transpose(last(rank))
            made = ConstantOp.build(
                [], {"value": constant_attr(np.ascontiguousarray(grown), self.ctx, value.type.element_type)}
            )
            value.owner.parent.insert_op_after(made, value.owner)  # pyright: ignore
            return made.results[0]
        axes = ConstantOp.build([], {"value": constant_attr(np.arange(rank - own), self.ctx)})
        grown_op = ONNX_NAMES["Unsqueeze"].build([value, axes.results[0]], {})
        self._behind(value, [axes, grown_op])
        return self._image(grown_op.results[0])

    def _behind(self, value: SSAValue, ops: Sequence[Operation]) -> None:
        """Put `ops` right behind the definition of `value`."""
        if isinstance(value, BlockArgument):
            first_op = value.block.first_op
            assert first_op is not None
            value.block.insert_ops_before(list(ops), first_op)
        else:
            owner = value.owner
            assert isinstance(owner, Operation) and owner.parent is not None
            owner.parent.insert_ops_after(list(ops), owner)

    def _along_axis(self, op: GraphOp, rank: int) -> bool:
        if rank < 3:
            return False
        if op.name == "graph.concat":
            full = list(op.operands)
            if not any(v in self.images for v in full) or not all(
                v in self.images or isinstance(v.owner, ConstantOp) for v in full
            ):
                return False
            operands = [self._image(v) for v in full]
        else:
            operands = [self.images[op.operands[0]], *op.operands[1:]]
        axis = op.get("axis")
        axis = op.get_irdl_definition().properties["axis"].default_value.value.data if axis is None else axis  # pyright: ignore
        return self._rebuild(op, operands, {"axis": last(rank).index(axis % rank)})

    def _constant(self, op: Operation, values: Sequence[int]) -> SSAValue:
        made = ConstantOp.build([], {"value": constant_attr(np.array(values, np.int64), self.ctx)})
        assert op.parent is not None
        op.parent.insert_op_before(made, op)
        return made.results[0]

    def _axes(self, op: GraphOp, value: SSAValue | None, rank: int, count: int) -> list[int] | None:
        """The new places of the axes that an operand lists (all, or the first `count`, where it is absent)."""
        if value is None:
            axes = list(range(count))
        elif (known := self._known(value)) is not None:
            axes = [int(a) % rank for a in known.reshape(-1)]
        else:
            return None
        place = last(rank)
        return [place.index(a) for a in axes]

    def _with_axes(self, op: GraphOp, position: int, rank: int, count: int) -> bool:
        """`op` with its operand `axes` (at `position`) renamed."""
        listed: list[SSAValue | None] = [*op.operand_list(), *[None] * 5]
        axes = self._axes(op, listed[position], rank, count)
        if axes is None:
            return False
        operands = [self.images[op.operands[0]], *listed[1:5]]
        operands[position] = self._constant(op, axes)
        given = operands[: 5 if op.name == "graph.slice" else 4]
        new = type(op).build(given, _given(op), result_types=[_image_type(op.results[0])])
        return self._adopt(op, new)

    def _adopt(self, op: GraphOp, new: GraphOp) -> bool:
        """Put `new` in the place of `op`; its one result is the image."""
        new.location = op.location
        assert op.parent is not None
        op.parent.insert_op_before(new, op)
        self.images[op.results[0]] = new.results[0]
        self.dead.append(op)
        return True

    def _pad(self, op: GraphOp, rank: int) -> bool:
        return self._with_axes(op, 3, rank, rank)

    def _slice(self, op: GraphOp, rank: int) -> bool:
        count = op.operand_list()[1].type.get_shape()[0]  # pyright: ignore
        return self._with_axes(op, 3, rank, count)

    def _resize(self, op: GraphOp, rank: int) -> bool:
        axes = op.get("axes")
        place = last(rank)
        renamed = [place.index(a % rank) for a in (range(rank) if axes is None else axes)]
        return self._rebuild(op, [self.images[op.operands[0]], *op.operands[1:]], {"axes": renamed})

    # transpose(x, p) on the image of x is transpose(image, q)   where q[i] = place of p[i]
    def _transpose(self, op: GraphOp, rank: int) -> bool:
        permutation = op.get("perm") or list(range(rank))[::-1]
        place = last(rank)
        image = self.images[op.operands[0]]
        renamed = [place.index(a) for a in permutation]
        new = ONNX_NAMES["Transpose"].build([image], {"perm": renamed}, result_types=[op.results[0].type])
        new.location = op.location
        assert op.parent is not None
        op.parent.insert_op_before(new, op)
        op.results[0].replace_all_uses_with(new.results[0])
        self.dead.append(op)
        return True

    # reshape [n,c,..] -> [n,g,c/g,..], transpose g with c/g, reshape back: the same on the last axis of the image
    def _shuffle(self, op: GraphOp, rank: int) -> bool:
        shape, split = dims_of(op.operands[0].type), dims_of(op.results[0].type)
        if [split[0], *split[3:]] != [shape[0], *shape[2:]] or len(split) != rank + 1:
            return False
        swap = _only_user(op)
        merge = _only_user(swap)
        if swap is None or merge is None or (swap.name, merge.name) != ("graph.transpose", "graph.reshape"):
            return False
        perm = swap.get("perm")  # pyright: ignore
        if list(perm or []) != [0, 2, 1, *range(3, rank + 1)] or dims_of(merge.results[0].type) != shape:
            return False
        if not all(isinstance(e, int) for e in shape):
            return False
        image = self.images[op.operands[0]]
        wide = self._constant(op, [shape[0], *shape[2:], *split[1:3]])  # pyright: ignore
        narrow = self._constant(op, [shape[0], *shape[2:], shape[1]])  # pyright: ignore
        parted = ONNX_NAMES["Reshape"].build([image, wide], {})
        order = [*range(rank - 1), rank, rank - 1]
        swapped = ONNX_NAMES["Transpose"].build([parted.results[0]], {"perm": order})
        merged = ONNX_NAMES["Reshape"].build([swapped.results[0], narrow], {})
        assert op.parent is not None
        for new, old in ((parted, op), (swapped, swap), (merged, merge)):
            new.location = old.location
            op.parent.insert_op_before(new, op)
        self.images[merge.results[0]] = merged.results[0]
        self.dead += [op, swap, merge]
        self._done |= {swap, merge}
        return True

    def _reduction(self, op: GraphOp, rank: int) -> bool:
        listed = [*op.operand_list(), None]
        if listed[1] is None:
            return False
        axes = self._axes(op, listed[1], rank, rank)
        if axes is None:
            return False
        operands = [self.images[op.operands[0]], self._constant(op, axes)]
        keep = op.get("keepdims")
        if keep is None or keep:
            return self._adopt(
                op, type(op).build(operands, _given(op), result_types=[_image_type(op.results[0])])
            )
        order = [last(rank)[a] for a in range(rank) if a not in axes]
        if order != sorted(order):
            return False
        new = type(op).build(operands, _given(op), result_types=[op.results[0].type])
        new.location = op.location
        assert op.parent is not None
        op.parent.insert_op_before(new, op)
        op.results[0].replace_all_uses_with(new.results[0])
        self.dead.append(op)
        return True


@dataclass(frozen=True)
class AssignLayoutsPass(ModulePass):
    """
    Keep images channels-last from one convolution to the next.
    Requires: inferred shapes. Ensures: every convolution and pooling of rank 3 or more has `layout = "nhwc"`;
    transposes stand where an image enters or leaves.
    """

    name = "assign-layouts"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in op.body.block.ops:
            if not isinstance(function, FuncOp) or not function.body.blocks:
                continue
            if not any(inner.name in _ANCHORS for inner in function.walk()):
                continue
            layouts = _Layouts(ctx)
            layouts.block(function.body.block)
            for dead in reversed(layouts.dead):
                dead.detach()
                dead.erase()
