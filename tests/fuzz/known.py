"""What ONNX Runtime itself does wrong, or leaves open, so that a difference there is none of ours."""

from collections.abc import Callable

import onnx

from stepwell.comparison import Difference

KNOWN: list[tuple[str, Callable[[onnx.ModelProto, Difference], bool]]] = []
"""The reason, and whether it explains a difference."""


def reason(model: onnx.ModelProto, found: Difference) -> str:
    """Why the difference is no fault of stepwell; empty if no known reason explains it."""
    return next((why for why, explains in KNOWN if explains(model, found)), "")
