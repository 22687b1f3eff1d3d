"""From a model to a native library: the one driver behind `stepwell.compile` and the command line."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.errors import CompileError, Error, InternalError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from stepwell.compat import StepwellContext
    from stepwell.costs import Cost, Launch
    from stepwell.pipelines import Stage

Progress = Callable[[str, str], None]
"""Told what begins: the stage ("graph", "tensor", ..., "clang") and the pass or step in it."""

EMITS = ("graph", "tensor", "kernels", "loops", "memref", "llvm", "ll", "asm", "obj", "so")
"""What `--emit` can stop at, from the model down."""

_SPLIT_ABOVE = 200_000
"""Characters of LLVM IR that clang compiles in about 0.5 s; a second process costs 0.1 s."""


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
    plugins: tuple[str, ...] = ()
    """Files of passes, ops and rules (`--load-pass`), besides the plug-ins of installed packages."""

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
    """
    One model on its way down: `read` it, then `lower_to` one level after the other. A module that was read
    from an `.ir` file or given as an object goes on from the level that it is at.
    """

    options: Options
    progress: Progress = lambda stage, step: None
    verify_each: bool = False
    ctx: "StepwellContext" = field(init=False)
    module: "ModuleOp" = field(init=False)
    timings: list[PassTiming] = field(default_factory=list)
    arena_bytes: int | None = None
    """Working memory of one run; None before "memref", and where it follows from extents known at run time."""
    after_pass: Callable[[str, str], None] | None = None
    """Called with the level and the pass when the module has changed, its time in `timings` already."""
    start: int = 0
    """The first of `LEVELS` that the model as it was read is not at."""
    _source: Any = None
    _next: int = 0
    _applied: "list[Stage]" = field(default_factory=list)
    _costs: "dict[str, Cost]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        from stepwell.plugins import load_plugin_file, load_plugins

        load_plugins()
        for path in self.options.plugins:
            load_plugin_file(path)

    def read(self, model: Any) -> None:
        """
        Import `model`: the path of an ONNX or `.ir` file, the bytes or the `ModelProto` of an ONNX model, a
        `ModuleOp`, or a pair of a `ModuleOp` and the Context that holds its weights.
        """
        from stepwell.pipelines import LEVELS

        self._source = model
        kind = "ir" if _is_module(model) or _is_ir_file(model) else "onnx"
        self.progress("import", kind)
        with self._timed("import", kind):
            self.module, self.ctx = _imported(model)
        self.start = self._next = 0 if kind == "onnx" else levels_done(self.module, LEVELS)

    def lower_to(self, stage: str) -> "ModuleOp":
        """Run the passes down to and including `stage`, one of `EMITS` up to "llvm"."""
        from stepwell.costs import kernel_costs
        from stepwell.pipelines import LEVELS
        from stepwell.resources import resource_keys

        last = LEVELS.index(stage)
        while self._next <= last:
            self._run(LEVELS[self._next])
            if LEVELS[self._next] == "kernels":
                self._costs = kernel_costs(self.module)
            if LEVELS[self._next] == "memref":
                self.arena_bytes = arena_bytes(self.module)
            self.ctx.resources.keep(resource_keys(self.module))
            self._next += 1
        return self.module

    def pipeline(self, stage: str) -> str:
        """The `stepwell-opt` pipeline that does what `lower_to(stage)` does to the module as it was read."""
        from stepwell.pipelines import LEVELS, print_pipeline

        stages: list[Stage] = []
        for level in LEVELS[self.start : LEVELS.index(stage) + 1]:
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
        from xdsl.utils.exceptions import PassFailedException

        from stepwell.pipelines import run_pipeline

        started = 0.0

        def before(stage: "Stage", _: "ModuleOp") -> None:
            nonlocal started
            self.progress(level, str(stage))
            self._applied.append(stage)
            started = time.perf_counter()

        def after(stage: "Stage", _: "ModuleOp") -> None:
            self.timings.append(PassTiming(level, str(stage), time.perf_counter() - started))
            if self.after_pass is not None:
                self.after_pass(level, str(stage))

        stages = self._stages(level)
        try:
            run_pipeline(
                self.ctx, self.module, stages, before=before, after=after, verify_each=self.verify_each
            )
        except (PassFailedException, Error) as error:
            shown = self._shown(error)
            if shown is error:
                raise
            raise shown from error

    def _shown(self, failure: Exception) -> Error:
        """What the user sees of the `failure` of the last pass: with a note that says how to replay it, if wanted."""
        from stepwell.diagnostics import public_error
        from stepwell.reproducers import current

        error = public_error(failure)
        if isinstance(error, InternalError):
            error = InternalError(f"{error}; a fault of stepwell, please report it")
        if current().wants(failure, error.exit_code):
            error.add_note(f"reproducer: {self._reproducer(error.exit_code)}")
        return error

    def _reproducer(self, status: int) -> str:
        """
        How to replay the last pass on the module that it failed on. That is made by going down once more, so that a
        compilation that succeeds pays nothing for it.
        """
        from stepwell.compat import print_module
        from stepwell.pipelines import print_pipeline, run_pipeline
        from stepwell.reproducers import current, leave_reproducer, reproducer_heading, why_none

        *before, broken = self._applied
        try:
            module, ctx = _imported(self._source)
            run_pipeline(ctx, module, before)
            text = reproducer_heading(print_pipeline([broken])) + print_module(module)
            return leave_reproducer(text, module, ctx, current(), status)
        except Exception as error:  # the failure itself is what the user has to see
            return why_none(error)

    @contextmanager
    def _timed(self, stage: str, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings.append(PassTiming(stage, name, time.perf_counter() - started))

    def llvm_ir(self) -> str:
        """The textual LLVM IR of the module, which must be at "llvm"."""
        from stepwell.backends.llvm_ir import print_llvm_ir

        self.progress("ll", "print")
        stream = StringIO()
        with self._timed("ll", "print"):
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

    def launches(self) -> "list[Launch]":
        """The launches of the host function of the module, which must be at "llvm", by their number."""
        from stepwell.costs import launches

        return launches(self.module, self._costs)

    def build(self, out: Path) -> None:
        """Write the native library of the module, lowering what is left to lower."""
        from stepwell.backends.cpu import build_library
        from stepwell.dialects.stepwell import target_of

        self.lower_to("llvm")
        parts = self.native_parts()
        self.progress("clang", "compile and link")
        with self._timed("clang", "compile and link"):
            build_library(
                parts,
                self.weights(),
                self.signature(),
                target_of(self.module),
                out,
                self.options.symbol_prefix,
                self.options.threads,
                launches=[launch.plain() for launch in self.launches()],
            )

    def native_parts(self) -> list[str]:
        """The textual LLVM IR of the module, a long one in parts for two compilers side by side."""
        from stepwell.backends.llvm_ir import split_llvm_ir

        text = self.llvm_ir()
        return split_llvm_ir(text, 2) if len(text) > _SPLIT_ABOVE else [text]

    def ir_text(self) -> tuple[str, int]:
        """The module as text for a stream, and how many of its constants are in no file."""
        from stepwell.ir_files import module_text

        return module_text(self.module, self.ctx)

    def write_ir(self, path: Path) -> None:
        """Write the module to `path` and the weights that no file holds yet to its sidecar."""
        from stepwell.ir_files import write_module_file

        write_module_file(self.module, self.ctx, path)

    def native_text(self, emit: str) -> str:
        """The LLVM IR ("ll") or the assembly ("asm") of the module, which must be at "llvm"."""
        from stepwell.backends.cpu.toolchain import compile_assembly
        from stepwell.dialects.stepwell import target_of

        text = self.llvm_ir()
        return text if emit == "ll" else compile_assembly(text, target_of(self.module))

    def write_native(self, emit: str, path: Path) -> None:
        """Write what `emit` names ("ll", "asm", "obj", "so") to `path`."""
        from stepwell.backends.cpu.toolchain import compile_object
        from stepwell.dialects.stepwell import target_of
        from stepwell.files import write_atomically

        if emit == "so":
            self.build(path)
            return
        if emit == "obj":
            data = compile_object(self.llvm_ir(), target_of(self.module))
        else:
            data = self.native_text(emit).encode()
        try:
            write_atomically(path, data)
        except OSError as error:
            raise CompileError(
                f"{path}: cannot be written: {error.strerror}; choose another place"
            ) from error

    def report(self) -> str:
        """Kernels, weights and memory in a few lines."""
        weights = sum(array.nbytes for _, array in self.weights())
        functions = sum(hasattr(op, "sym_name") for op in self.module.body.block.ops)
        lines = [f"functions: {functions}", f"weights: {weights / 1e6:.1f} MB"]
        if self.arena_bytes is not None:
            lines.append(f"arena: {self.arena_bytes / 1e6:.1f} MB")
        return "\n".join(lines)


def _is_ir_file(model: Any) -> bool:
    return isinstance(model, str | os.PathLike) and os.fspath(model).endswith((".ir", ".mlir"))


def _is_module(model: Any) -> bool:
    from xdsl.dialects.builtin import ModuleOp

    return isinstance(model, ModuleOp | tuple)


def _imported(model: Any) -> "tuple[ModuleOp, StepwellContext]":
    """`model` as a module of its own: what is done to it, or to its weights, does not show outside."""
    from stepwell.compat import new_context
    from stepwell.frontends.onnx import import_onnx
    from stepwell.ir_files import read_module_file
    from stepwell.registry import DIALECTS

    if isinstance(model, tuple):
        module, given = model
        ctx = given.clone()
        ctx.resources = given.resources.copy()
        return module.clone(), ctx
    ctx = new_context(DIALECTS)
    if _is_module(model):
        return model.clone(), ctx
    if _is_ir_file(model):
        return read_module_file(Path(model), ctx), ctx
    return import_onnx(model, ctx), ctx


def levels_done(module: "ModuleOp", levels: Sequence[str]) -> int:
    """How many of `levels` lie behind `module`, read off its ops: 0 for a model as it was imported."""
    from xdsl.dialects.builtin import MemRefType

    if "stepwell.signature" not in module.attributes:
        return 0
    functions = list(module.body.block.ops)
    if any(op.name == "llvm.func" for op in functions):
        return levels.index("llvm") + 1
    used = {op.name.partition(".")[0] for op in module.walk()}
    if "graph" in used:
        return levels.index("graph") + 1
    arguments = [
        arg.type for op in functions for region in op.regions for block in region.blocks for arg in block.args
    ]
    if "memref" in used or any(isinstance(type, MemRefType) for type in arguments):
        return levels.index("memref") + 1
    kernels = [op for op in functions if "stepwell.kernel" in op.attributes]
    if not kernels:
        return levels.index("tensor") + 1
    inside = {op.name for kernel in kernels for op in kernel.walk()}
    return levels.index("kernels" if "linalg.generic" in inside else "loops") + 1


def prefix_from(path: str | os.PathLike) -> str:
    """The symbol prefix of a library made from the file `path`."""
    from stepwell.backends.cpu.signature import prefix_of

    return prefix_of(Path(path).stem)


def compile_to_file(
    model: Any, out: Path, options: Options, progress: Progress = lambda stage, step: None
) -> Compilation:
    """Compile `model` into the native library `out`, without the cache."""
    from stepwell.compat import rare_collections

    with rare_collections():  # what is imported on the way down stays, too
        compilation = Compilation(options, progress)
        compilation.read(model)
        compilation.build(out)
    return compilation


def _keyed(options: Options) -> dict[str, Any]:
    """All that decides the result of a compilation besides the model: plug-ins by what they are, not by name."""
    from stepwell.plugins import file_fingerprint, installed, loaded_files

    files = {os.path.realpath(path) for path in (*options.plugins, *loaded_files())}
    return asdict(options) | {"plugins": sorted(map(file_fingerprint, files)), "installed": installed()}


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
    spin: bool = True,
    plugins: Sequence[str | Path] = (),
) -> Any:
    """
    Compile a model and load it.

    `model`: the path of an ONNX file, its bytes, an `onnx.ModelProto`, or an xDSL `ModuleOp`.
    `threads`: the default of the compiled model. `fp`: "default" contracts and reassociates in a fixed
    order, "strict" keeps the source order. `dims` fixes symbolic dims by name. `cache`: reuse the
    library of an earlier compilation of the same bytes with the same options. `spin`: idle threads wait a
    little in a loop before they sleep. `plugins`: files of passes, ops and rules, as given to `--load-pass`.
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
        tuple(str(path) for path in plugins),
    )
    progress = progress or (lambda stage, step: None)
    key = model_key(model, _keyed(options)) if cache and named else None
    if key is None:
        with temporary_directory() as directory:
            out = directory / f"{options.symbol_prefix}.so"
            compile_to_file(model, out, options, progress)
            return load(out, threads=threads, spin=spin)
    store = Cache()
    if (found := store.model(key)) is not None:
        try:
            return load(found, threads=threads, spin=spin)
        except Error:
            store.drop_model(key)  # damaged on disk: build it again
    compile_to_file(model, store.model_path(key), options, progress)
    return load(store.model_path(key), threads=threads, spin=spin)


def interpret_model(path: str, inputs: Sequence[Any]) -> list[Any]:
    """What the model in the file at `path` gives for `inputs`, by the reference interpreter: one op at a time."""
    from xdsl.utils.exceptions import PassFailedException

    from stepwell.diagnostics import public_error
    from stepwell.interpreter import interpret

    module, ctx = _imported(path)
    try:
        return interpret(module, inputs, ctx)
    except PassFailedException as error:
        raise public_error(error) from error


def inspect_model(
    path: str, dims: Mapping[str, int] | None = None, plugins: Sequence[str] = ()
) -> dict[str, Any]:
    """
    Interface, operators, cost, memory and all that is not supported of the model in the file at `path`.
    "operations" (additions, multiplications and the like of one run) and "arena_bytes" are None where they
    depend on extents that are not known.
    """
    from collections import Counter

    from stepwell.conversion.graph_to_linalg import LOWERINGS
    from stepwell.costs import operations
    from stepwell.errors import UnsupportedError
    from stepwell.resources import resource_keys

    compilation = Compilation(Options(dims=tuple(sorted((dims or {}).items())), plugins=tuple(plugins)))
    facts: dict[str, Any] = {
        "inputs": [], "outputs": [], "operators": {}, "weight_bytes": 0, "operations": None, "arena_bytes": None,
        "unsupported": [],
    }  # fmt: skip
    try:
        compilation.read(path)
        store, module = compilation.ctx.resources, compilation.module
        facts["operators"] = dict(Counter(op.name for op in module.walk() if op.name.startswith("graph.")))
        facts["weight_bytes"] = sum(store.blob(key).nbytes for key in resource_keys(module) if key in store)
        compilation.lower_to("graph")
        signature = compilation.signature()
        facts |= {"inputs": signature["inputs"], "outputs": signature["outputs"]}
        left = {op.name for op in module.walk() if op.name.startswith("graph.") and op.name not in LOWERINGS}
        facts["unsupported"] = [
            f"{name}: it has no lowering to the tensor level yet" for name in sorted(left)
        ]
        if not left:
            facts["operations"] = operations(compilation.lower_to("tensor"))
            compilation.lower_to("memref")
            facts["arena_bytes"] = compilation.arena_bytes
    except UnsupportedError as error:
        facts["unsupported"] = [line.strip() for line in str(error).split("\n") if line.strip()]
    return facts


def arena_bytes(module: "ModuleOp") -> int | None:
    """The size of the arena of a module at "memref"; None where it is computed at run time."""
    from xdsl.dialects.arith import ConstantOp
    from xdsl.dialects.builtin import IntegerAttr

    for op in module.walk():
        if op.name == "schedule.arena":
            size = op.operands[0].owner
            known = isinstance(size, ConstantOp) and isinstance(size.value, IntegerAttr)
            return size.value.value.data if known else None  # pyright: ignore
    return 0
