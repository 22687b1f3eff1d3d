"""From a model to a native library: the one driver behind `stepwell.compile` and the command line."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.errors import CompileError, Error

if TYPE_CHECKING:
    from xdsl.context import Context
    from xdsl.dialects.builtin import ModuleOp

    from stepwell.pipelines import Stage

Progress = Callable[[str, str], None]
"""Told what begins: the stage ("graph", "tensor", ..., "clang") and the pass or step in it."""

EMITS = ("graph", "tensor", "kernels", "loops", "memref", "llvm", "ll", "asm", "obj", "so")
"""What `--emit` can stop at, from the model down."""


@dataclass(frozen=True)
class Options:
    """How to compile; a function of these, the model's bytes and the versions is what the cache holds."""

    target: str = "native"
    threads: int = 1
    """Default number of threads of the compiled model; it can be changed when the model is loaded."""
    opt_level: int = 3
    fp: str = "default"
    dims: tuple[tuple[str, int], ...] = ()
    """Values for symbolic dims, by name."""
    symbol_prefix: str = "model"

    def __post_init__(self) -> None:
        if self.opt_level not in range(4):
            raise CompileError(f"opt_level {self.opt_level}: no such level; use 0, 1, 2 or 3")
        if self.fp not in ("default", "strict", "fast"):
            raise CompileError(f"fp {self.fp!r}: no such mode; use default, strict or fast")
        if self.threads < 1:
            raise CompileError(f"threads {self.threads}: must be at least 1")


@dataclass
class PassTiming:
    """Seconds that one pass took."""

    stage: str
    name: str
    seconds: float


@dataclass
class Compilation:
    """One model on its way down. `lower_to` may be called for one stage after the other."""

    options: Options
    progress: Progress = lambda stage, step: None
    verify_each: bool = False
    ctx: "Context" = field(init=False)
    module: "ModuleOp" = field(init=False)
    timings: list[PassTiming] = field(default_factory=list)
    _next: int = 0

    def read(self, model: Any) -> None:
        """Import `model`: a path, the bytes or the `ModelProto` of an ONNX model, or a `ModuleOp`."""
        from xdsl.dialects.builtin import ModuleOp

        from stepwell.compat import new_context
        from stepwell.frontends.onnx import import_onnx
        from stepwell.registry import DIALECTS

        self.progress("import", "onnx")
        started = time.perf_counter()
        if isinstance(model, tuple):
            self.module, self.ctx = model
        elif isinstance(model, ModuleOp):
            self.ctx, self.module = new_context(DIALECTS), model.clone()
        else:
            self.ctx = new_context(DIALECTS)
            self.module = import_onnx(model, self.ctx)
        self.timings.append(PassTiming("import", "onnx", time.perf_counter() - started))

    def lower_to(self, stage: str) -> "ModuleOp":
        """Run the passes down to and including `stage`, one of `EMITS` up to "llvm"."""
        from stepwell.pipelines import LEVELS

        last = LEVELS.index(stage)
        while self._next <= last:
            self._run(LEVELS[self._next])
            self._next += 1
        return self.module

    def pipeline(self, stage: str) -> str:
        """The `stepwell-opt` pipeline that does what `lower_to(stage)` does to the imported module."""
        from stepwell.pipelines import LEVELS, print_pipeline

        stages: list[Stage] = []
        for level in LEVELS[: LEVELS.index(stage) + 1]:
            stages.extend(self._stages(level))
        return print_pipeline(stages)

    def _stages(self, level: str) -> "list[Stage]":
        from stepwell.pipelines import level_pipeline, resolve_pipeline

        options = self.options
        return resolve_pipeline(
            level_pipeline(
                level,
                options.opt_level,
                target=options.target,
                fp=options.fp,
                threads=options.threads,
                dims=dict(options.dims),
            )
        )

    def _run(self, level: str) -> None:
        from stepwell.verification import verify_module

        for stage in self._stages(level):
            name = str(stage)
            self.progress(level, name)
            started = time.perf_counter()
            with our_fault_unless_said(self, level, stage):
                stage.apply(self.ctx, self.module)
                if self.verify_each:
                    verify_module(self.module)
            self.timings.append(PassTiming(level, name, time.perf_counter() - started))

    def llvm_ir(self) -> str:
        """The textual LLVM IR of the module, which must be at "llvm"."""
        from stepwell.backends.llvm_ir import print_llvm_ir

        self.progress("ll", "print")
        stream = StringIO()
        print_llvm_ir(self.module, stream)
        return stream.getvalue()

    def signature(self) -> dict[str, Any]:
        """The interface as plain data: inputs and outputs with name, dtype and shape, and the metadata."""
        from stepwell.dialects.stepwell import plain_data

        attributes = self.module.attributes
        signature = plain_data(attributes["stepwell.signature"])
        metadata = attributes.get("stepwell.metadata")
        return {**signature, "metadata": plain_data(metadata) if metadata is not None else {}}

    def weights(self) -> "list[tuple[int, Any]]":
        """Offset and bytes of each weight in the library's blob, in order."""
        import numpy as np

        from stepwell.dialects.stepwell import plain_data
        from stepwell.resources import resources_of

        offsets = self.module.attributes.get("stepwell.weights")
        if offsets is None:
            return []
        store = resources_of(self.ctx)
        placed = sorted((int(at), key) for key, at in plain_data(offsets).items())
        return [(at, np.frombuffer(store.blob(key), np.uint8)) for at, key in placed]

    def build(self, out: Path) -> None:
        """Write the native library of the module, lowering what is left to lower."""
        from stepwell.backends.cpu import build_library
        from stepwell.dialects.stepwell import target_of

        self.lower_to("llvm")
        text = self.llvm_ir()
        self.progress("clang", "compile and link")
        started = time.perf_counter()
        build_library(
            [text],
            self.weights(),
            self.signature(),
            target_of(self.module),
            out,
            self.options.symbol_prefix,
            self.options.threads,
        )
        self.timings.append(PassTiming("clang", "clang", time.perf_counter() - started))

    def ir_text(self) -> str:
        """The module as text; its weights stay in the store."""
        from stepwell.compat import print_module

        return print_module(self.module)

    def write_ir(self, path: Path) -> None:
        """Write the module to `path` and the weights that no file holds yet to its sidecar."""
        from stepwell.compat import write_module

        write_module(self.module, self.ctx, path)

    def native_text(self, emit: str) -> str:
        """The LLVM IR ("ll") or the assembly ("asm") of the module, which must be at "llvm"."""
        from stepwell.backends.cpu.toolchain import compile_assembly
        from stepwell.dialects.stepwell import target_of

        text = self.llvm_ir()
        return text if emit == "ll" else compile_assembly(text, target_of(self.module))

    def write_native(self, emit: str, path: Path) -> None:
        """Write what `emit` names ("ll", "asm", "obj", "so") to `path`."""
        from stepwell.backends.cpu.cache import write_atomically
        from stepwell.backends.cpu.toolchain import compile_object
        from stepwell.dialects.stepwell import target_of

        if emit == "so":
            self.build(path)
        elif emit == "obj":
            write_atomically(path, compile_object(self.llvm_ir(), target_of(self.module)))
        else:
            write_atomically(path, self.native_text(emit).encode())

    def report(self) -> str:
        """Kernels, weights and memory in a few lines."""
        from stepwell.dialects.stepwell import plain_data

        weights = sum(array.nbytes for _, array in self.weights())
        names = [op.sym_name.data for op in self.module.body.block.ops if hasattr(op, "sym_name")]
        memory = plain_data(self.module.attributes.get("stepwell.arena_bytes"))
        lines = [f"functions: {len(names)}", f"weights: {weights / 1e6:.1f} MB"]
        if memory is not None:
            lines.append(f"arena: {memory / 1e6:.1f} MB")
        return "\n".join(lines)


class our_fault_unless_said:
    """
    Turn what a pass raises into a `stepwell.Error`: its own errors keep their text, anything else is a
    fault of ours and leaves a reproducer.
    """

    def __init__(self, compilation: Compilation, level: str, stage: "Stage"):
        self.compilation, self.level, self.stage = compilation, level, stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from xdsl.utils.exceptions import PassFailedException

        from stepwell.diagnostics import public_error
        from stepwell.errors import InternalError

        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, Error | PassFailedException):
            raise public_error(error) from error
        said = str(error).strip().split("\n")[0][:200]
        raise InternalError(
            f"{self.stage} ({self.level}): {type(error).__name__}: {said};"
            " this is a fault of stepwell, please report it"
        ) from error


def prefix_from(path: str | Path) -> str:
    """The symbol prefix of a library made from the file `path`: its stem as a C identifier."""
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in Path(path).stem)
    return stem if stem and not stem[0].isdigit() else f"model_{stem}"


def compile_to_file(
    model: Any, out: Path, options: Options, progress: Progress = lambda stage, step: None
) -> Compilation:
    """Compile `model` into the native library `out`, without the cache."""
    compilation = Compilation(options, progress)
    compilation.read(model)
    compilation.build(out)
    return compilation


def compile(
    model: Any,
    *,
    target: str = "native",
    threads: int = 1,
    opt_level: int = 3,
    fp: str = "default",
    dims: Mapping[str, int] | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Any:
    """
    Compile a model and load it.

    `model`: the path of an ONNX file, its bytes, an `onnx.ModelProto`, or an xDSL `ModuleOp`.
    `threads`: the default of the compiled model. `fp`: "default" contracts and reassociates in a fixed
    order, "strict" keeps the source order. `dims` fixes symbolic dims by name. `cache`: reuse the
    library of an earlier compilation of the same bytes with the same options.
    Returns a `stepwell.Model`. Raises a `stepwell.Error`.
    """
    from stepwell.backends.cpu.cache import Cache, model_key, temporary_directory
    from stepwell.runtime import load

    named = isinstance(model, str | os.PathLike)
    options = Options(
        target,
        threads,
        opt_level,
        fp,
        tuple(sorted((dims or {}).items())),
        prefix_from(model) if named else "model",
    )
    progress = progress or (lambda stage, step: None)
    key = model_key(model, asdict(options)) if cache and named else None
    if key is None:
        with temporary_directory() as directory:
            out = directory / f"{options.symbol_prefix}.so"
            compile_to_file(model, out, options, progress)
            return load(out, threads=threads)
    store = Cache()
    if (found := store.model(key)) is not None:
        try:
            return load(found, threads=threads)
        except Error:
            store.drop_model(key)  # damaged on disk: build it again
    compile_to_file(model, store.model_path(key), options, progress)
    return load(store.model_path(key), threads=threads)


def inspect_model(path: str) -> dict[str, Any]:
    """Interface, operators, weights and what is not supported of the ONNX file at `path`."""
    from collections import Counter

    from stepwell.errors import UnsupportedError
    from stepwell.resources import resource_keys, resources_of

    compilation = Compilation(Options())
    unsupported = ""
    compilation.read(path)
    operators = Counter(op.name for op in compilation.module.walk() if op.name.startswith("graph."))
    store = resources_of(compilation.ctx)
    weight_bytes = sum(store.blob(key).nbytes for key in resource_keys(compilation.module))
    try:
        compilation.lower_to("graph")
        signature = compilation.signature()
        compilation.lower_to("tensor")
    except UnsupportedError as error:
        unsupported = str(error)
        signature = {"inputs": [], "outputs": []}
    return {
        "inputs": signature["inputs"],
        "outputs": signature["outputs"],
        "operators": dict(operators),
        "weight_bytes": weight_bytes,
        "unsupported": unsupported,
    }
