"""onnxruntime's calling convention, so that a program changes its import and nothing else."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from stepwell.backends.cpu.signature import TENSOR, layers_of
from stepwell.errors import RunError, UnsupportedError, shown
from stepwell.runtime.model import Model, TensorInfo, numpy_dtype

PROVIDER = "CPUExecutionProvider"


class GraphOptimizationLevel(IntEnum):
    """How much to optimise; the values are onnxruntime's."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    """Accepted for compatibility: kernels run in order, each on all threads."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class SessionOptions:
    """
    The options of a session. `intra_op_num_threads` (0: all processors), `graph_optimization_level`,
    `add_free_dimension_override_by_name` and the entry `session.intra_op.allow_spinning` have an effect;
    the rest is accepted, since it speaks of mechanisms that a compiled model does not have.
    """

    def __init__(self) -> None:
        self.intra_op_num_threads = 0
        self.inter_op_num_threads = 0
        self.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
        self.execution_mode = ExecutionMode.ORT_SEQUENTIAL
        self.execution_order = 0
        self.enable_cpu_mem_arena = True
        self.enable_mem_pattern = True
        self.enable_mem_reuse = True
        self.enable_profiling = False
        self.use_deterministic_compute = True
        self.use_per_session_threads = True
        self.log_severity_level = 2
        self.log_verbosity_level = 0
        self.logid = ""
        self.optimized_model_filepath = ""
        self.profile_file_prefix = ""
        self._config: dict[str, str] = {}
        self._dims: dict[str, int] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self._config[str(key)] = str(value)

    def get_session_config_entry(self, key: str) -> str:
        if key not in self._config:
            raise RunError(f"session options: no entry '{key}'; add it with add_session_config_entry")
        return self._config[key]

    def has_session_config_entry(self, key: str) -> bool:
        return key in self._config

    def add_free_dimension_override_by_name(self, name: str, extent: int) -> None:
        """Compile for this extent of the symbolic dimension `name`."""
        self._dims[name] = int(extent)

    def has_providers(self) -> bool:
        return False

    @property
    def dims(self) -> dict[str, int]:
        """The extents that were fixed by name."""
        return dict(self._dims)


class RunOptions:
    """The options of one run; accepted, without effect."""

    def __init__(self) -> None:
        self.log_severity_level = 2
        self.log_verbosity_level = 0
        self.logid = ""
        self.only_execute_path_to_fetches = False
        self.terminate = False
        self._config: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._config[str(key)] = str(value)


_ORT_TYPES = {
    "float32": "float", "float64": "double", "float8_e4m3fn": "float8e4m3fn",
    "float8_e4m3fnuz": "float8e4m3fnuz", "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
}  # fmt: skip
"""Element types whose name in onnxruntime is not NumPy's."""


_LAYER_TYPES = {"s": "seq({})", "o": "optional({})", "i": "map(int64,{})", "t": "map(string,{})"}


class NodeArg:
    """
    An input or output: `name`, `shape` (an extent, a symbol's name, or None) and `type`, as `tensor(float)` or
    `seq(tensor(float))`.
    """

    def __init__(self, info: TensorInfo):
        self.name = info.name
        self.shape = list(info.shape or ())
        self.type = f"tensor({_ORT_TYPES.get(info.dtype, info.dtype)})"
        for layer in reversed(layers_of(info.kind)):
            self.type = _LAYER_TYPES[layer].format(self.type)

    def __str__(self) -> str:
        return f"NodeArg(name='{self.name}', type='{self.type}', shape={self.shape})"

    __repr__ = __str__


class ModelMetadata:
    """What the model's file says of itself."""

    def __init__(self, metadata: Mapping[str, Any]):
        self.producer_name = str(metadata.get("producer_name") or metadata.get("producer") or "")
        self.graph_name = str(metadata.get("graph_name", ""))
        self.graph_description = str(metadata.get("graph_description", ""))
        self.domain = str(metadata.get("domain", ""))
        self.description = str(metadata.get("description", ""))
        self.version = int(metadata.get("version", 0))
        custom = metadata.get("custom_metadata_map", metadata.get("properties")) or {}
        self.custom_metadata_map = {str(key): str(value) for key, value in custom.items()}


_OPT_LEVELS = {0: 0, 1: 1, 2: 2}
"""onnxruntime's optimisation level to ours; all others are 3."""


class InferenceSession(ABC):
    """
    A model behind onnxruntime's interface. A subclass says how a model is compiled; this class imports no
    compiler.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        **_ignored: Any,
    ):
        self._options = SessionOptions() if sess_options is None else sess_options
        self._check_providers(providers)
        level = _OPT_LEVELS.get(_level_number(getattr(self._options, "graph_optimization_level", 99)), 3)
        threads = int(getattr(self._options, "intra_op_num_threads", 0) or 0)
        self._model = self.compile_model(
            path_or_bytes,
            threads=threads or None,
            opt_level=level,
            dims=dict(getattr(self._options, "dims", {})),
            spin=_config_entry(self._options, "session.intra_op.allow_spinning") != "0",
        )
        self._model_path = None if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        self._output_names = [info.name for info in self._model.outputs]
        self._places = {name: place for place, name in enumerate(self._output_names)}

    @abstractmethod
    def compile_model(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        threads: int | None,
        opt_level: int,
        dims: dict[str, int],
        spin: bool,
    ) -> Model:
        """Compile a model's file or bytes; `threads` None is the target's default."""

    @staticmethod
    def _check_providers(providers: Sequence[Any] | None) -> None:
        names = [entry[0] if isinstance(entry, tuple | list) else entry for entry in providers or [PROVIDER]]
        if PROVIDER not in names:
            raise UnsupportedError(
                f"InferenceSession: providers {names}: stepwell runs on the CPU; add '{PROVIDER}' to them"
            )

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """The outputs named, in the order named; all of them for None (or an empty list)."""
        for value in input_feed.values():
            if isinstance(value, list):
                input_feed = {name: self._array(name, value) for name, value in input_feed.items()}
                break
        results = self._model.run_in_order(input_feed)
        if not output_names:
            return results
        try:
            return [results[self._places[name]] for name in output_names]
        except KeyError as error:
            names = shown(", ".join(self._output_names))
            raise RunError(
                f"InferenceSession.run: no output '{shown(str(error.args[0]))}'; choose of {names}, or pass None for all"
            ) from None

    def _array(self, name: str, value: Any) -> Any:
        """A nested list as an array of the input's type, as onnxruntime reads it; anything else as it is."""
        if not isinstance(value, list):
            return value
        info = next((info for info in self._model.inputs if info.name == name), None)
        if info is not None and info.kind != TENSOR:
            return value
        dtype = None if info is None else info.dtype
        try:
            return np.asarray(value, None if dtype is None else numpy_dtype(dtype))
        except (TypeError, ValueError, OverflowError) as error:
            raise RunError(f"input '{name}': a list that is no array of {dtype}: {error}") from None

    def get_inputs(self) -> list[NodeArg]:
        return [NodeArg(info) for info in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [NodeArg(info) for info in self._model.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        return []

    def get_modelmeta(self) -> ModelMetadata:
        return ModelMetadata(self._model.metadata)

    def get_providers(self) -> list[str]:
        return [PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {PROVIDER: {}}

    def set_providers(
        self, providers: Sequence[Any] | None = None, provider_options: Sequence[dict[Any, Any]] | None = None
    ) -> None:
        self._check_providers(providers)

    def disable_fallback(self) -> None:
        """There is no fallback to disable."""
        return

    def enable_fallback(self) -> None:
        """There is no fallback to enable."""
        return

    def get_session_options(self) -> Any:
        return self._options

    def end_profiling(self) -> str:
        """The name of the profile that was written: none; `stepwell run --profile` writes one."""
        return ""

    def io_binding(self) -> "IOBinding":
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: "IOBinding", run_options: Any = None) -> None:
        iobinding._run(self._model)


class IOBinding:
    """Inputs and outputs fixed before the run; on the CPU, so that binding shares memory."""

    def __init__(self, session: InferenceSession):
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._wanted: list[str] = []
        self._results: dict[str, np.ndarray] = {}

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self._inputs[name] = array

    def bind_output(self, name: str, device_type: str = "cpu", *_where: Any) -> None:
        if device_type != "cpu":
            raise UnsupportedError(f"IOBinding: output '{name}' on '{device_type}'; bind it to 'cpu'")
        if name not in self._session._output_names:
            names = shown(", ".join(self._session._output_names))
            raise RunError(f"IOBinding: no output '{shown(name)}'; choose of {names}")
        self._wanted.append(name)

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._wanted.clear()

    def synchronize_inputs(self) -> None:
        """Host memory is always in step."""

    def synchronize_outputs(self) -> None:
        """Host memory is always in step."""

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [self._results[name] for name in self._wanted]

    def _run(self, model: Model) -> None:
        self._results = model.run(self._inputs)


def _level_number(level: Any) -> int:
    """The number of an optimisation level of ours or of onnxruntime's own class."""
    return int(getattr(level, "value", level))


def _config_entry(options: Any, key: str) -> str:
    """A configuration entry of options of either kind; "" where there is none."""
    try:
        return options.get_session_config_entry(key)
    except (RunError, RuntimeError, AttributeError):  # ours; onnxruntime's; a plain object
        return ""


def get_available_providers() -> list[str]:
    return [PROVIDER]


def get_all_providers() -> list[str]:
    return [PROVIDER]


def get_device() -> str:
    return "CPU"
