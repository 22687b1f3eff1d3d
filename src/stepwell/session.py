"""`stepwell.InferenceSession`: onnxruntime's calling convention, with the compiler behind it."""

import os

from stepwell.compiler import compile
from stepwell.runtime import Model
from stepwell.runtime import session as _session
from stepwell.runtime.session import (
    ExecutionMode,
    GraphOptimizationLevel,
    NodeArg,
    RunOptions,
    SessionOptions,
    get_all_providers,
    get_available_providers,
    get_device,
)

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "NodeArg",
    "RunOptions",
    "SessionOptions",
    "get_all_providers",
    "get_available_providers",
    "get_device",
]


class InferenceSession(_session.InferenceSession):
    """
    A model that is compiled when the session is made (or taken from the cache) and run with
    `session.run(output_names, {"input": x})`. Errors are `stepwell.Error`s.
    """

    def compile_model(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        threads: int | None,
        opt_level: int,
        dims: dict[str, int],
        spin: bool,
    ) -> Model:
        return compile(model, threads=threads or 1, opt_level=opt_level, dims=dims, spin=spin)
