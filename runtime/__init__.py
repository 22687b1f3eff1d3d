"""Loads and calls what the back end built; imports neither onnx nor xdsl."""

from pathlib import Path

from stepwell.runtime.model import Model, TensorInfo, load
from stepwell.runtime.profile import Profile

INCLUDE = Path(__file__).parent / "c"
"""Where `stepwell.h` is, for a C compiler's `-I`."""

__all__ = ["INCLUDE", "Model", "Profile", "TensorInfo", "load"]
