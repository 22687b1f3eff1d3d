"""`auto_pad` turned into `pads`, wherever the extents are numbers."""

from typing import Any

from stepwell.dialects.graph import Dim

WINDOWED = {"AveragePool": 1, "Conv": 1, "ConvInteger": 1, "LpPool": 1, "MaxPool": 1, "QLinearConv": 3}
"""Operators with a window, and which operand holds the weights of a convolution."""


def resolve_auto_pad(op: str, shapes: list[list[Dim] | None], attributes: dict[str, Any]) -> None:
    """
    Replace `auto_pad` in `attributes` by the `pads` that it stands for:
    SAME pads so that `out = ceil(in / stride)`, the odd element last (UPPER) or first (LOWER); VALID does not pad.
    Left as it is where an extent is not a number.
    """
    how = attributes.get("auto_pad", "NOTSET")
    if op not in WINDOWED or how == "NOTSET":
        return
    data = shapes[0]
    place = WINDOWED[op]
    kernel: Any = attributes.get("kernel_shape")
    if not kernel and len(shapes) > place and (weights := shapes[place]) is not None:
        kernel = weights[2:]
    if data is None or not kernel or len(kernel) != len(data) - 2:
        return
    rank = len(kernel)
    strides = attributes.get("strides") or [1] * rank
    dilations = attributes.get("dilations") or [1] * rank
    if len(strides) != rank or len(dilations) != rank or any(not isinstance(k, int) for k in kernel):
        return
    if how == "VALID":
        attributes.update(auto_pad="NOTSET", pads=[0] * 2 * rank)
        return
    if how not in ("SAME_UPPER", "SAME_LOWER"):
        return
    before, after = [], []
    for extent, window, stride, dilation in zip(data[2:], kernel, strides, dilations, strict=True):
        reach = (window - 1) * dilation + 1
        if stride == 1:
            total = reach - 1
        elif isinstance(extent, int) and stride > 0:
            total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
        else:
            return
        small, large = total // 2, total - total // 2
        before.append(small if how == "SAME_UPPER" else large)
        after.append(large if how == "SAME_UPPER" else small)
    attributes.update(auto_pad="NOTSET", pads=before + after)
