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
    `session.run(output_names, {"input": x})`. Errors are `stepwell.Error`s. As in onnxruntime,
    `intra_op_num_threads` 0 stands for all processors that the process may use.
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
        threads = threads or len(os.sched_getaffinity(0))
        return compile(model, threads=threads, opt_level=opt_level, dims=dims, spin=spin)
