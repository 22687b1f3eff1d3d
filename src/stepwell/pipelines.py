"""Named sequences of passes, and running any sequence: the one way in which passes are applied."""

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import PassFailedException, VerifyException

from stepwell.compat import deep_recursion, load_entry, rare_collections
from stepwell.diagnostics import one_line
from stepwell.errors import CompileError, Error, InternalError
from stepwell.pipeline_text import (
    Apply,
    Nest,
    Option,
    Step,
    did_you_mean,
    parse_pipeline,
    pipeline_error,
    quoted,
)
from stepwell.registry import PASSES
from stepwell.remarks import begin_pass
from stepwell.verification import verify_module

LEVELS = ("graph", "tensor", "kernels", "loops", "memref", "llvm")
"""The levels of the IR, from the model down; each is reached by one named pipeline."""

PIPELINES: dict[str, str] = {
    # Shapes first, so that every simplification sees static extents; constants before batch norms, whose
    # statistics may be computed; layouts after all that, when only real data movement is left.
    "graph-O0": "record-signature, infer-shapes, graph-decompose, infer-shapes, dce",
    "graph-O1": """
        record-signature, infer-shapes, fold-constants, fold-sequences, simplify-graph, fold-batch-norm, graph-decompose,
        infer-shapes, fold-constants, simplify-graph, cse, dce
    """,
    "graph-O2": "graph-O1, assign-layouts, fold-transposes, fold-constants, simplify-graph, cse, dce",
    "graph-O3": "graph-O2, choose-convolution, merge-products",
    "tensor-O0": "graph-to-linalg, dce",
    "tensor-O1": "graph-to-linalg, cse, fold-unit-reshapes, fuse-elementwise, dce",
    "tensor-O2": """
        graph-to-linalg, cse, fold-unit-reshapes, fuse-elementwise, move-row-factors, flush-denormals, pack-weights, dce
    """,
    "kernels-O0": "form-kernels{fuse=false}",
    "kernels-O1": "form-kernels",
    "kernels-O2": "form-kernels, absorb-slices",
    "loops-O0": "linalg-to-loops",
    "loops-O1": "collapse-dims, assign-schedules, tile-and-fuse, vectorise, fuse-loops, loop-over-rows, linalg-to-loops, cse, dce",
    "memref-O0": "bufferize, lift-parallel, promote-scratch, plan-memory",
    "memref-O1": "bufferize, lift-parallel, promote-scratch, cse, plan-memory",
    "llvm-O0": "unroll-vectors, expand-math, kernels-to-llvm, host-to-llvm",
    "llvm-O1": "version-masked-tiles, cse, unroll-vectors, expand-math, cse, dce, kernels-to-llvm, host-to-llvm",
}
"""Pipeline name to its text, which may name other pipelines."""

for _number in range(1, 4):
    for _level in LEVELS:
        PIPELINES.setdefault(f"{_level}-O{_number}", f"{_level}-O{_number - 1}")
for _number in range(4):
    PIPELINES[f"cpu-O{_number}"] = ", ".join(["set-target", *(f"{level}-O{_number}" for level in LEVELS)])
for _count, _level in enumerate(LEVELS, 1):
    PIPELINES[f"to-{_level}"] = ", ".join(["set-target", *(f"{level}-O3" for level in LEVELS[:_count])])

ORDER: dict[tuple[str, str], str] = {
    ("record-signature", "infer-shapes"): "the interface is the model's own, before anything refines it",
    (
        "fold-constants",
        "fold-batch-norm",
    ): "statistics that are computed from constants are constants by then",
    ("fold-constants", "fold-sequences"): "places in a sequence are often computed from constants",
    ("fold-sequences", "simplify-graph"): "what reads an element then reads what made it",
    ("fold-sequences", "graph-to-linalg"): "an element in a sequence is a copy of a tensor",
    ("fold-batch-norm", "assign-layouts"): "it reads weights in the order of the model",
    ("fold-constants", "choose-convolution"): "Winograd's algorithm transforms constant filters",
    ("fold-constants", "merge-products"): "products are merged by their constant factors",
    ("merge-products", "graph-to-linalg"): "the merged product is lowered as any other, its parts as slices",
    ("choose-convolution", "graph-to-linalg"): "each algorithm is lowered in its own way",
    ("fold-transposes", "graph-to-linalg"): "composed transposes are one kernel",
    ("graph-to-linalg", "fuse-elementwise"): "fusion merges bodies of linalg.generic",
    ("fold-unit-reshapes", "fuse-elementwise"): "a reshape between two ops keeps them apart",
    (
        "fuse-elementwise",
        "move-row-factors",
    ): "merged with a transpose, the factor of a product's rows would be no epilogue of it",
    ("move-row-factors", "form-kernels"): "a factor of the product's rows is its epilogue",
    ("fuse-elementwise", "form-kernels"): "a merged op is one op of a kernel",
    ("flush-denormals", "pack-weights"): "weights are changed before they are laid out",
    ("pack-weights", "form-kernels"): "the packed layout is part of a kernel's signature",
    ("form-kernels", "collapse-dims"): "a kernel's callers see its tensors through reshapes",
    ("collapse-dims", "assign-schedules"): "tiles are chosen for the dims that are left",
    ("form-kernels", "assign-schedules"): "a schedule belongs to a kernel",
    ("form-kernels", "absorb-slices"): "slices and insertions move into kernels",
    (
        "absorb-slices",
        "collapse-dims",
    ): "which dims of a slice lie side by side is known once it is in the kernel",
    ("absorb-slices", "assign-schedules"): "what moves data is scheduled like all else",
    ("assign-schedules", "tile-and-fuse"): "tiles are read from the schedule",
    ("tile-and-fuse", "vectorise"): "a vector is a tile of static extent",
    ("vectorise", "fuse-loops"): "loops over vectors of one row have the same steps",
    ("vectorise", "loop-over-rows"): "a row of a tile is a vector of its own",
    ("loop-over-rows", "bufferize"): "what a tile is put into is a tensor until then",
    ("fuse-loops", "bufferize"): "what a loop reads of another is told from tensors",
    ("vectorise", "linalg-to-loops"): "only what has no vector form becomes scalar loops",
    ("linalg-to-loops", "bufferize"): "bufferize knows loops, not linalg",
    ("bufferize", "lift-parallel"): "a range of tiles has no results",
    ("lift-parallel", "plan-memory"): "buffers live between launches",
    ("lift-parallel", "version-masked-tiles"): "a tile is a step of the loop over the range",
    ("version-masked-tiles", "unroll-vectors"): "masks are flags of transfers",
    ("unroll-vectors", "expand-math"): "polynomials are written on one-dimensional vectors",
    ("expand-math", "kernels-to-llvm"): "the llvm level has no math",
    ("kernels-to-llvm", "host-to-llvm"): "the host takes the addresses of the kernels",
}
"""Pairs of passes that must keep their order, and why; a test holds every pipeline to it."""


def level_pipeline(
    level: str, opt_level: int, *, target: str, fp: str, threads: int, dims: Mapping[str, int]
) -> str:
    """The pipeline text that takes a module to `level` from the one above."""
    text = f"{level}-O{opt_level}"
    if level != LEVELS[0]:
        return text
    first = f"set-target{{target={quoted(target)} fp={fp} threads={threads}}}"
    if dims:
        pairs = ",".join(quoted(f"{name}:{extent}") for name, extent in dims.items())
        first += f", specialise-dims{{dims={pairs}}}"
    return f"{first}, {text}"


@dataclass(frozen=True)
class Stage:
    """One pass of a pipeline, on the module or on each function of it."""

    instance: ModulePass
    anchor: Literal["builtin.module", "func.func"] = "builtin.module"

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        if self.anchor == "builtin.module":
            self.instance.apply(ctx, module)
            return
        for op in list(module.body.block.ops):
            if isinstance(op, FuncOp) and not op.is_declaration:
                self.instance.apply_to_function(ctx, op)  # pyright: ignore[reportAttributeAccessIssue]

    def __str__(self) -> str:
        text = self.instance.name
        options = [
            _option_text(field.name, value)
            for field in fields(self.instance)
            if (value := getattr(self.instance, field.name)) != _default(field)
        ]
        return f"{text}{{{' '.join(options)}}}" if options else text


def resolve_pipeline(text: str, passes: Mapping[str, "str | type[ModulePass]"] = PASSES) -> list[Stage]:
    """The stages of a pipeline text, with its named pipelines expanded and its options checked."""
    return list(_resolve(text, parse_pipeline(text), passes, "builtin.module", ()))


def print_pipeline(stages: list[Stage]) -> str:
    """The canonical text: `builtin.module(a,func.func(b,c))`, only options that differ from their default."""
    groups: list[tuple[str, list[str]]] = []
    for stage in stages:
        if not groups or groups[-1][0] != stage.anchor:
            groups.append((stage.anchor, []))
        groups[-1][1].append(str(stage))
    texts = [
        ",".join(names) if anchor == "builtin.module" else f"{anchor}({','.join(names)})"
        for anchor, names in groups
    ]
    return f"builtin.module({','.join(texts)})"


def load_pass(name: str) -> type[ModulePass]:
    """The class of the registered pass `name`."""
    return load_entry(PASSES[name])


def _resolve(
    text: str,
    steps: tuple[Step, ...],
    passes: Mapping[str, "str | type[ModulePass]"],
    anchor: Literal["builtin.module", "func.func"],
    outer: tuple[str, ...],
) -> Iterator[Stage]:
    for step in steps:
        if isinstance(step, Nest):
            if step.anchor == "builtin.module" and anchor == "builtin.module":
                yield from _resolve(text, step.steps, passes, anchor, outer)
            elif step.anchor == "func.func" and anchor == "builtin.module":
                yield from _resolve(text, step.steps, passes, "func.func", outer)
            elif step.anchor in ("builtin.module", "func.func"):
                raise pipeline_error(text, step.position, f"{step.anchor} cannot stand inside {anchor}(...)")
            else:
                raise pipeline_error(
                    text, step.position, f"unknown anchor '{step.anchor}'; use builtin.module or func.func"
                )
        elif step.name in passes:
            yield _stage(text, step, passes[step.name], anchor)
        elif step.name in PIPELINES:
            if step.name in outer:
                raise pipeline_error(text, step.position, f"pipeline '{step.name}' contains itself")
            if step.options:
                raise pipeline_error(text, step.position, f"pipeline '{step.name}' takes no options")
            inner = PIPELINES[step.name]
            yield from _resolve(inner, parse_pipeline(inner), passes, anchor, (*outer, step.name))
        else:
            hint = did_you_mean(step.name, [*passes, *PIPELINES]) or "; see --list-passes"
            raise pipeline_error(text, step.position, f"unknown pass '{step.name}'{hint}")


def _stage(
    text: str,
    step: Apply,
    entry: "str | type[ModulePass]",
    anchor: Literal["builtin.module", "func.func"],
) -> Stage:
    try:
        cls: type[ModulePass] = load_entry(entry) if isinstance(entry, str) else entry
    except ImportError as error:
        raise pipeline_error(text, step.position, f"pass '{step.name}' cannot be loaded: {error}") from error
    if anchor == "func.func" and not hasattr(cls, "apply_to_function"):
        raise pipeline_error(
            text, step.position, f"pass '{step.name}' works on whole modules; take it out of func.func(...)"
        )
    known = option_types(cls)
    values: dict[str, Any] = {}
    for option in step.options:
        if option.name not in known:
            hint = did_you_mean(option.name, known)
            if not hint:
                hint = f"; it has {', '.join(known)}" if known else "; it has no options"
            message = f"pass '{step.name}' has no option '{option.name}'{hint}"
            raise pipeline_error(text, option.position, message)
        if option.name in values:
            raise pipeline_error(text, option.position, f"option '{option.name}' is given twice")
        values[option.name] = _convert(text, option, known[option.name])
    for field in fields(cls):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise pipeline_error(text, step.position, f"pass '{step.name}' needs option '{field.name}'")
    try:
        return Stage(cls(**values), anchor)
    except ValueError as error:  # a pass may check its options in __post_init__
        raise pipeline_error(text, step.position, f"pass '{step.name}': {error}") from error


@cache
def option_types(cls: type[ModulePass]) -> dict[str, Any]:
    """The options of a pass: field name to type."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def type_text(kind: Any) -> str:
    """How `--help` and messages call an option type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(a) for a in args if a is not type(None))
    if origin is Literal:
        return "|".join(str(a) for a in args)
    if origin is tuple:
        return f"list of {type_text(args[0])}"
    return getattr(kind, "__name__", str(kind))


def _convert(text: str, option: Option, kind: Any) -> Any:
    try:
        return _converted(option.values, kind)
    except ValueError:
        given = f"'{','.join(option.values)}'" if option.values else "nothing"
        message = f"option '{option.name}' takes {type_text(kind)}, not {given}"
        raise pipeline_error(text, option.position, message) from None


def _converted(values: tuple[str, ...], kind: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for alternative in args:
            if alternative is type(None):
                continue
            try:
                return _converted(values, alternative)
            except ValueError:
                pass
        raise ValueError
    if origin is tuple:
        return tuple(_converted((value,), args[0]) for value in values)
    if kind is bool and not values:
        return True
    if len(values) != 1:
        raise ValueError
    (value,) = values
    if origin is Literal:
        for choice in args:
            if str(choice) == value:
                return choice
        raise ValueError
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError
        return value.lower() == "true"
    if kind in (int, float):
        if kind is int and len(value) > 20:
            raise ValueError
        return kind(value)
    if kind is str:
        return value
    raise TypeError(f"pass options of type {kind} are not supported")


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _option_text(name: str, value: Any) -> str:
    if value is True:
        return name
    if isinstance(value, tuple):
        return f"{name}={','.join(quoted(str(v)) for v in value)}"
    return f"{name}={quoted(str(value).lower() if isinstance(value, bool) else str(value))}"


Observer = Callable[[Stage, ModuleOp], None]


def run_pipeline(
    ctx: Context,
    module: ModuleOp,
    stages: list[Stage],
    *,
    before: Observer | None = None,
    after: Observer | None = None,
    verify_each: bool = False,
) -> None:
    """
    Apply `stages` in order; `before` and `after` see every stage with the module. A pass that breaks
    down, or with `verify_each` leaves invalid IR, is our fault: an `InternalError` that names it.
    """
    for stage in stages:
        if before is not None:
            before(stage, module)
        begin_pass(stage.instance.name)
        try:
            with deep_recursion(), rare_collections():
                stage.apply(ctx, module)
        except (PassFailedException, Error):
            raise
        except MemoryError as error:
            raise CompileError(
                f"pass {stage}: the program does not fit into memory; make it smaller"
            ) from error
        except Exception as error:
            raise InternalError(f"pass {stage} failed: {one_line(error)}") from error
        if after is not None:
            after(stage, module)
        if verify_each:
            try:
                verify_module(module)
            except VerifyException as error:
                raise InternalError(f"the IR is invalid after pass {stage}: {error}") from error


def option_docs(cls: type[ModulePass]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and documentation of each option: the string that follows a field."""
    documents: dict[str, str] = {}
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # a class that was not read from a file
        source = "class _: pass"
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, following in pairwise(body.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                documents[statement.target.id] = " ".join(str(following.value.value).split())
    return [
        (
            field.name,
            type_text(option_types(cls)[field.name]),
            "none" if (default := _default(field)) is MISSING else repr(default),
            documents.get(field.name, ""),
        )
        for field in fields(cls)
    ]
