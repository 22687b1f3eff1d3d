"""What the page shows of one compilation: the text after every pass, and what ties its lines to the model's layers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Operation

from stepwell.compat import print_with_starts
from stepwell.compiler import Compilation, Options, Progress
from stepwell.diagnostics import layers_of
from stepwell.explore.memory import Plan, memory_plan
from stepwell.pipelines import LEVELS
from stepwell.remarks import Remark, collected

_MODULE = "module"
"""The name of the part that holds the attributes of a module."""


@dataclass(frozen=True)
class Chunk:
    """The text of one function, and for each of its lines the layers that it comes from."""

    text: str
    layers: tuple[tuple[str, ...], ...]


@dataclass
class Step:
    """The module after one pass: its functions by name, each the number of a chunk."""

    stage: str
    name: str
    seconds: float
    parts: dict[str, int]
    remarks: list[Remark] = field(default_factory=list)
    """What the pass said."""


@dataclass(frozen=True)
class Layer:
    """A node of the model: its name, the operator, what it makes."""

    name: str
    operator: str
    type: str


@dataclass
class Work:
    """One launch: the kernel, its layers, counts, what the compiler thinks it takes, and what it took."""

    kernel: str
    layers: tuple[str, ...]
    operations: int | None
    bytes: int | None
    tiles: int | None
    modelled_ns: int | None
    measured_ns: int | None = None


@dataclass
class Recording:
    """One compilation, as the page shows it."""

    compilation: Compilation
    title: str
    layers: list[Layer] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    launches: list[Work] = field(default_factory=list)
    plan: Plan | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    """`run_ns`, `threads` and `runs`, where kernels were timed."""
    _numbers: dict[Chunk, int] = field(default_factory=dict)

    def note(self, stage: str, name: str, seconds: float, parts: Mapping[str, Chunk]) -> None:
        """Add a step; equal texts are kept once."""
        numbers = {}
        for part, chunk in parts.items():
            if chunk not in self._numbers:
                self._numbers[chunk] = len(self.chunks)
                self.chunks.append(chunk)
            numbers[part] = self._numbers[chunk]
        self.steps.append(Step(stage, name, seconds, numbers))

    def measure(self, feeds_for: Callable[[Sequence[Any]], Mapping[str, Any]], runs: int = 10) -> None:
        """Build the library, run it on what `feeds_for` gives for its inputs, note each launch of the fastest run."""
        from stepwell.backends.cpu.cache import temporary_directory
        from stepwell.runtime import load

        options = self.compilation.options
        with temporary_directory() as directory:
            out = directory / f"{options.symbol_prefix}.so"
            self.compilation.build(out)
            model = load(out, threads=options.threads)
            profile = model.profile(feeds_for(model.inputs), runs)
        times: dict[int, int] = {}
        for event in profile.fastest:
            if event.site >= 0 and event.thread == 0:
                times[event.site] = times.get(event.site, 0) + event.end_ns - event.begin_ns
        for site, launch in enumerate(self.launches):
            launch.measured_ns = times.get(site)
        self.measured = {"run_ns": profile.run_ns, "threads": options.threads, "runs": runs}


def record(
    model: Any, options: Options, title: str, progress: Progress = lambda stage, step: None
) -> Recording:
    """Compile `model` down to assembly, keeping the text after every pass."""
    compilation = Compilation(options, progress)
    recording = Recording(compilation, title)
    compilation.read(model)
    seconds = compilation.timings[-1].seconds
    recording.layers = _layers(compilation.module)
    recording.note("model", "import", seconds, _parts(compilation.module))

    def after_pass(level: str, step: str) -> None:
        recording.note(level, step, compilation.timings[-1].seconds, _parts(compilation.module))
        recording.steps[-1].remarks = said[sum(len(before.remarks) for before in recording.steps) :]

    compilation.after_pass = after_pass
    with collected() as said:
        for level in LEVELS[compilation.start :]:
            compilation.lower_to(level)
            if level == "memref":
                modelled = list(_modelled(compilation.module))
                recording.plan = memory_plan(compilation.module)
    compilation.after_pass = None
    recording.launches = [
        Work(launch.kernel, launch.layers, launch.operations, launch.bytes, *estimate)
        for launch, estimate in zip(
            compilation.launches(),
            _estimates(compilation, modelled if compilation.start < 5 else None),
            strict=True,
        )
    ]
    text = compilation.native_text("ll")
    recording.note(
        "ll", "print", compilation.timings[-1].seconds, _of_kernels(recording, _llvm_functions(text))
    )
    progress("asm", "clang")
    assembly = compilation.native_text("asm")
    recording.note("asm", "clang -S", 0.0, _of_kernels(recording, _assembly_functions(assembly)))
    return recording


def _estimates(compilation: Compilation, modelled: Sequence[tuple[str, int | None, int | None]] | None):
    """Tiles and nanoseconds of each launch; unknown where the module was read at a lower level."""
    launches = compilation.launches()
    if modelled is None:
        return [(None, None)] * len(launches)
    assert [kernel for kernel, _, _ in modelled] == [launch.kernel for launch in launches], (
        "launches are numbered in the order of the program"
    )
    return [(tiles, work) for _, tiles, work in modelled]


def _modelled(module: ModuleOp) -> Iterator[tuple[str, int | None, int | None]]:
    """Kernel, tiles and the compiler's estimate in nanoseconds on one thread, of each launch of a module at "memref"."""
    for op in module.walk():
        if op.name != "schedule.launch":
            continue
        callee: Any = op.properties["callee"]
        tiles, work = _constant(op.operands[0].owner), op.properties.get("work")
        known = tiles is not None and isinstance(work, IntegerAttr)
        yield callee.root_reference.data, tiles, tiles * work.value.data if known else None  # pyright: ignore


def _constant(owner: Any) -> int | None:
    value = owner.properties.get("value") if isinstance(owner, Operation) else None
    return value.value.data if isinstance(value, IntegerAttr) else None


def _layers(module: ModuleOp) -> list[Layer]:
    """The nodes of the model in program order; what only holds a constant is none."""
    found: dict[str, Layer] = {}
    for op in module.walk():
        if op.name.startswith("graph.") and op.name != "graph.constant":
            for name in layers_of(op.location):
                kind = str(op.results[0].type) if op.results else ""
                found.setdefault(name, Layer(name, op.name.removeprefix("graph."), kind))
    return list(found.values())


def _parts(module: ModuleOp) -> dict[str, Chunk]:
    """Each function of the module, globals together, and the module's own attributes."""
    header = ModuleOp([], dict(module.attributes))
    parts = {_MODULE: [_chunk(header)]}
    for op in module.body.block.ops:
        symbol = op.properties.get("sym_name")
        named = isinstance(symbol, StringAttr) and op.regions and op.regions[0].blocks
        name = symbol.data if named else "declarations"  # pyright: ignore
        parts.setdefault(name, []).append(_chunk(op))
    return {name: _joined(chunks) for name, chunks in parts.items()}


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    text = "\n".join(chunk.text for chunk in chunks)
    return Chunk(text, tuple(layers for chunk in chunks for layers in chunk.layers))


def _chunk(op: Operation) -> Chunk:
    """The text of `op`, each line with the layers of the op that begins on it or, failing one, goes on."""
    text, starts = print_with_starts(op)
    count = text.count("\n") + 1
    layers: list[tuple[str, ...]] = [()] * count
    for line, inner in starts:
        layers[line] = layers_of(inner.location)
    return Chunk(text, tuple(layers))


_DEFINE = re.compile(r"^define [^@]*@\"?([^\s(\"]+)")


def _llvm_functions(text: str) -> Iterator[tuple[str, str]]:
    """The functions of an `.ll` text by name, and what stands between them."""
    between: list[str] = []
    name, lines = None, []
    for line in text.splitlines():
        if name is None and (match := _DEFINE.match(line)):
            name, lines = match[1], []
        (between if name is None else lines).append(line)
        if name is not None and line == "}":
            yield name, "\n".join(lines)
            name = None
    yield "declarations", "\n".join(between)


_LABEL = re.compile(r"^([A-Za-z_][\w.$]*):")
_NOISE = re.compile(
    r"^\s*(\.cfi_|\.p2align|\.type|\.globl|\.size|\.section|\.hidden|\.file|\.addrsig|#|$)|^\.L(func|tmp)"
)


def _assembly_functions(text: str) -> Iterator[tuple[str, str]]:
    """The functions of an assembly text by name, without directives; data is left out."""
    name, lines = None, []
    for line in text.splitlines():
        if match := _LABEL.match(line):
            name, lines = match[1], []
        if name is not None and line.startswith((".Lfunc_end", "\t.size")):
            yield name, "\n".join(lines)
            name = None
        elif name is not None and not _NOISE.match(line):
            lines.append(line.partition("#")[0].rstrip() if "#" in line else line)


def _of_kernels(recording: Recording, functions: Iterator[tuple[str, str]]) -> dict[str, Chunk]:
    """Functions whose lines have no places of their own: those of a kernel, all belong to its layers."""
    layers: dict[str, dict[str, None]] = {}
    for launch in recording.launches:
        layers.setdefault(launch.kernel, {}).update(dict.fromkeys(launch.layers))
    parts = {}
    for name, text in functions:
        own = tuple(layers.get(name.removesuffix(".body"), ()))
        parts[name] = Chunk(text, (own,) * (text.count("\n") + 1))
    return parts


def default_output(model: str) -> Path:
    """Where the page of a model goes if nobody says: `resnet.onnx` gives `resnet.html`, here."""
    return Path(f"{Path(model).stem}.html")
