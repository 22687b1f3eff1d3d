"""stepwell: an ML compiler you can read, from ONNX to one native library.

    model = stepwell.compile("model.onnx", threads=2)
    outputs = model.run({"input": x})

Names are imported when they are first used, so that `import stepwell` costs nothing and a cached model
loads without onnx and xdsl.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.0.1"

if TYPE_CHECKING:
    from stepwell.compiler import compile as compile
    from stepwell.errors import CompileError as CompileError
    from stepwell.errors import Error as Error
    from stepwell.errors import ImportModelError as ImportModelError
    from stepwell.errors import InternalError as InternalError
    from stepwell.errors import RunError as RunError
    from stepwell.errors import UnsupportedError as UnsupportedError
    from stepwell.errors import VerifyError as VerifyError
    from stepwell.runtime import Model as Model
    from stepwell.runtime import load as load
    from stepwell.session import GraphOptimizationLevel as GraphOptimizationLevel
    from stepwell.session import InferenceSession as InferenceSession
    from stepwell.session import RunOptions as RunOptions
    from stepwell.session import SessionOptions as SessionOptions
    from stepwell.session import get_available_providers as get_available_providers
    from stepwell.session import get_device as get_device

_HOMES = {
    "compile": "compiler",
    "load": "runtime",
    "Model": "runtime",
    "Error": "errors",
    "ImportModelError": "errors",
    "UnsupportedError": "errors",
    "VerifyError": "errors",
    "CompileError": "errors",
    "InternalError": "errors",
    "RunError": "errors",
    "InferenceSession": "session",
    "SessionOptions": "session",
    "RunOptions": "session",
    "GraphOptimizationLevel": "session",
    "get_available_providers": "session",
    "get_device": "session",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}")
    value = getattr(import_module(f"stepwell.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
