"""Finding the pass that broke a model: every level on its interpreter, then pass by pass, then rewrite by rewrite.

The reference is the module as it was read, on the interpreter of its level; the judge, where there is one, is the same
module in float64, so that another order of additions is no error. The first level whose results differ is taken
apart: the module in front of it goes down again pass by pass, and the first pass behind which the results differ is the
one; then the first of its rewrites, the layer whose value it spoils, and a small module that shows it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp, ShapedType
from xdsl.ir import Operation
from xdsl.utils.exceptions import PassFailedException, VerifyException

from stepwell.comparison import compare, random_array, rounding_of
from stepwell.compat import StepwellContext
from stepwell.compiler import Compilation, Options
from stepwell.diagnostics import one_line, public_error, source_names
from stepwell.errors import Error, InternalError, RunError, UnsupportedError
from stepwell.execution import (
    Interface,
    interface_of,
    main_of,
    run_in_float64,
    run_module,
    through_ll,
)
from stepwell.interpreter import Machine, OutOfFuel
from stepwell.pipelines import LEVELS, Stage, print_pipeline, run_pipeline
from stepwell.predicates import CANNOT_RUN, FAILURES, Miscompile, Outcome, outcome_of_run
from stepwell.reproducers import new_file, replay_command, reproducer_heading
from stepwell.rewriting import logged_rewrites
from stepwell.sampling import Kernels, Sample, SampledMiscompile, alone, run_sampled
from stepwell.verification import verify_module

STAGES = ("import", *LEVELS, "ll", "so")
"""What is compared, from the model down; ONNX Runtime stands beside "import"."""

_WHOLE = ("graph", "tensor", "kernels")
"""The levels whose ops numpy does as a whole."""
_SIGNATURES = "collapse-dims"
"""Behind `form-kernels` the last pass that changes what kernels take; its kernels are made of whole ops yet."""

PRINTER = "print-llvm-ir"
"""The printer of LLVM IR, named as if it were a pass."""
CLANG, LINK = "clang", "link"
"""The compiler of LLVM IR; and what puts kernels, host and weights together and runs them."""
_EXTENT = 3
"""Of an unknown extent that --dim does not give: more than one, so that a mistake in a tail shows."""
STAGE_S = 5.0
"""Seconds of processor time for the interpreter of one stage; `thorough` lifts it."""
_REFERENCE = 20.0
"""Times as much for the levels whose ops numpy does as a whole, which everything else is compared with."""


@dataclass
class StageResult:
    """One line of the report."""

    name: str
    status: str
    """"reference", "agrees", "differs", "fails", "skipped"."""
    detail: str = ""
    ratio: float = 0.0
    """The worst difference as a part of the tolerance."""
    seconds: float = 0.0
    sample: str = ""
    """How much of the stage was run, if not all of it."""


@dataclass
class Finding:
    """What broke it."""

    stage: str
    pass_name: str
    """The first pass behind which the values differ, with its options."""
    difference: str
    rewrite: str = ""
    """The first rewrite of that pass after which they differ, where it works by rewrites."""
    rewrite_number: int = 0
    layer: str = ""
    """The first layer of the model whose value differs."""
    kernel: str = ""
    pipeline: str = ""
    """What `stepwell-opt` runs up to and including the pass."""
    reproducer: str = ""
    reproducer_ops: int = 0
    replay: str = ""
    """The command that replays the reproducer."""


@dataclass
class Report:
    """All that a check found."""

    stages: list[StageResult] = field(default_factory=list)
    finding: Finding | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return self.finding is None and all(s.status not in ("differs", "fails") for s in self.stages)


Progress = Callable[[str, str], None]


@dataclass
class Check:
    """One model under one set of options."""

    options: Options
    seed: int = 0
    feeds: Mapping[str, Any] = field(default_factory=dict)
    thorough: bool = False
    reduce_s: float = 60.0
    """Seconds for a reduced reproducer; 0: none."""
    reproducer: Path | None = None
    """Where it goes; None: a new file in the directory for temporary ones."""
    with_onnxruntime: bool = True
    last: str = "so"
    """The last of `STAGES` to compare."""
    stage_s: float = STAGE_S
    """Seconds of processor time that the interpreter of a stage has; a stage that needs more is run on samples."""
    samples: bool = False
    """Run the levels below the kernels on samples whatever they take."""
    progress: Progress = lambda stage, step: None
    on_stage: Callable[[StageResult], None] = lambda stage: None
    """Told of each stage when it is done."""
    report: Report = field(default_factory=Report, init=False)

    def run(self, model: Any) -> Report:
        """Check `model`: a path, or what `Compilation.read` takes."""
        try:
            return self._run(model)
        except PassFailedException as error:
            raise public_error(error) from error

    def _run(self, model: Any) -> Report:
        self.model = model
        compilation = Compilation(self.options, self.progress)
        compilation.read(model)
        self.start, self.imported = compilation.start, compilation.module.clone()
        self.ctx = _copy_of(compilation.ctx)
        self.interface = interface_of(self.imported)
        self.inputs = self._inputs()
        self.layers = _Layers(self.imported)
        self.kernels: Kernels | None = None
        self._above_kernels = 0
        """The passes behind which `kernels` were taken down."""
        self.sample: Sample | None = None
        self._sampling, self._only, self._level_name = False, None, ""
        if not self._reference():
            return self.report
        self._onnxruntime()
        for level in LEVELS[compilation.start :]:
            if self._is_behind(level):
                return self.report
            if not self._level(compilation, level):
                return self.report
        if not self._is_behind("ll") and self._ll(compilation) and not self._is_behind("so"):
            self._so(compilation)
        return self.report

    def _is_behind(self, stage: str) -> bool:
        return STAGES.index(stage) > STAGES.index(self.last)

    # --- the stages ------------------------------------------------------------------------------

    @property
    def _seconds(self) -> float:
        """For one run of a stage."""
        return inf if self.thorough else self.stage_s

    def _inputs(self) -> list[Any]:
        """Values for the inputs: those given, the others random."""
        main = main_of(self.imported)
        names = _names(main, len(self.interface.arguments))
        if unknown := [name for name in self.feeds if name not in names]:
            raise RunError(f"there is no input {unknown[0]!r}; the inputs are {', '.join(names)}")
        dims = dict(self.options.dims)
        entries = [
            _entry(name, type, dims) for name, type in zip(names, self.interface.arguments, strict=True)
        ]
        wanted = [entry for entry in entries if entry.name not in self.feeds]
        for name, type in zip(names, self.interface.arguments, strict=True):
            if not isinstance(type, ShapedType):
                raise UnsupportedError(
                    f"input {name!r} is no tensor, which is all that check takes; `stepwell run --check onnxruntime` compares the"
                    " whole model"
                )
        if unfit := [entry.name for entry in wanted if entry.dtype is None]:
            raise UnsupportedError(f"input {unfit[0]!r} is no tensor of numbers: give it with --input")
        rng = np.random.default_rng(self.seed)
        feeds = {entry.name: random_array(rng, entry.shape, entry.dtype) for entry in wanted} | dict(
            self.feeds
        )
        return [feeds[name] for name in names]

    def _reference(self) -> bool:
        self.progress("import", "run")
        begin = time.perf_counter()
        self.exact: list[Any] | None = None
        try:
            self.want = run_module(self.imported, self.ctx, self.inputs, seconds=_REFERENCE * self._seconds)
        except OutOfFuel:
            raise UnsupportedError(
                "the interpreter would take too long for this model; use a larger --time-limit, --thorough or smaller --dim"
            ) from None
        except (VerifyException, ValueError, IndexError) as error:
            raise RunError(
                f"the model does not run on these inputs: {one_line(error)}; give real ones with --input, or extents"
                " with --dim (unknown ones are 3)"
            ) from error
        self.want = [w if isinstance(w, list | dict) or w is None else np.array(w) for w in self.want]
        if any(type.name == "memref" for type in self.interface.arguments):
            self.report.notes.append("buffers have no form in float64, so there is no judge")
        else:
            self._judge()
        off = 0.0 if self.exact is None else rounding_of(self.want, self.exact)
        detail = "on the interpreter" + ("" if self.exact is None else f"; float64 judge, {off:.3g} ulp away")
        self._add(StageResult("import", "reference", detail, seconds=time.perf_counter() - begin))
        return True

    def _judge(self) -> None:
        try:
            self.exact = run_in_float64(
                self.imported, self.ctx, self.inputs, self.layers.exact.observe, _REFERENCE * self._seconds
            )
        except (*FAILURES, ValueError, TypeError) as error:
            self.report.notes.append(f"no judge in float64 at this level ({one_line(error)})")

    def _onnxruntime(self) -> None:
        if not isinstance(self.model, str | Path) or not str(self.model).endswith(".onnx"):
            return
        if not self.with_onnxruntime:
            return
        try:
            import onnxruntime
        except ImportError:
            self._add(StageResult("onnxruntime", "skipped", "it is not installed"))
            return
        self.progress("onnxruntime", "run")
        begin = time.perf_counter()
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                str(self.model), options, providers=["CPUExecutionProvider"]
            )
            names = [given.name for given in session.get_inputs()]
            got: Any = session.run(None, dict(zip(names, self.inputs, strict=True)))
        except Exception as error:  # whatever another engine says of the model
            result = StageResult("onnxruntime", "skipped", f"it refuses the model: {one_line(error)}")
            self._add(result)
            return
        difference = compare(got, self.want, self.exact)
        self._enter("onnxruntime", Outcome("agrees" if difference.agrees else "differs", difference), begin)
        if not difference.agrees:
            self.report.notes.append(
                "ONNX Runtime differs from the model as it was imported: the importer, the interpreter or ONNX Runtime"
                " is wrong, no pass"
            )

    def _add(self, stage: StageResult) -> None:
        self.report.stages.append(stage)
        self.on_stage(stage)

    def _enter(self, stage: str, outcome: Outcome, begin: float) -> None:
        seconds = time.perf_counter() - begin
        status = "fails" if outcome.kind == "breaks" else outcome.kind
        ratio = outcome.difference.ratio
        sample = f"on samples: {self.sample}" if self._sampling and stage != "so" else ""
        self._add(StageResult(stage, status, str(outcome), ratio, seconds, sample))

    def _outcome(self, module: ModuleOp, ctx: StepwellContext, interface: Interface) -> Outcome:
        if self._sampling:
            return self._sampled_outcome(module, ctx, interface)
        seconds = self._seconds * (_REFERENCE if self._level_name in _WHOLE else 1.0)
        return outcome_of_run(module, ctx, self.inputs, self.want, self.exact, interface, seconds)

    def _sampled_outcome(self, module: ModuleOp, ctx: StepwellContext, interface: Interface) -> Outcome:
        """Of a level that takes too long as a whole."""
        assert self.kernels is not None, "there is something to compare the kernels with"
        try:
            verify_module(module)
            self.sample = run_sampled(
                module, ctx, self.inputs, self.kernels, interface, self._seconds, self._only
            )
        except CANNOT_RUN:
            raise
        except Exception as error:  # IR that is wrong enough to break the interpreter itself
            return Outcome("fails", message=one_line(error))
        if self.sample.wrong is not None:
            return Outcome("differs", self.sample.wrong.difference, str(self.sample.wrong))
        difference = compare(self.sample.results, self.want, self.exact)
        return Outcome("agrees" if difference.agrees else "differs", difference)

    def _skip(self, stage: str, error: Exception) -> None:
        why = "too long for the interpreter; a larger --time-limit or --thorough runs it"
        self._add(StageResult(stage, "skipped", why if isinstance(error, OutOfFuel) else one_line(error)))

    def _level(self, compilation: Compilation, level: str) -> bool:
        """Lower to `level` and compare; True if the next level is to be looked at."""
        begin = time.perf_counter()
        compilation.after_pass = lambda level, name: self._after_pass(compilation, level, name)
        try:
            compilation.lower_to(level)
        except InternalError as error:
            self._enter(level, Outcome("breaks", message=str(error)), begin)
            self.report.finding = Finding(level, _pass_in(str(error)), str(error))
            return False
        except Error as error:
            # A pass refuses the model; is that the fault of the model, or of a pass before it?
            self._locate(level, compilation)
            if self.report.finding is None:
                raise
            self._enter(level, Outcome("breaks", message=str(error)), begin)
            return False
        self.interface = interface_of(compilation.module, self.interface)
        try:
            outcome = self._outcome_within(level, compilation.module, compilation.ctx)
        except CANNOT_RUN as error:
            self._skip(level, error)
            return True
        finally:
            if level == "kernels":
                self.kernels = Kernels(compilation.module, compilation.ctx)
                self._above_kernels = len(compilation._applied)
        self._enter(level, outcome, begin)
        if outcome.is_bad:
            self._locate(level, compilation)
        return not outcome.is_bad

    def _after_pass(self, compilation: Compilation, level: str, name: str) -> None:
        """The last pass that changes what kernels take makes the kernels that samples are compared with."""
        if name != _SIGNATURES or self.kernels is None:
            return
        module, ctx = compilation.module.clone(), _copy_of(compilation.ctx)
        self._level_name = _WHOLE[-1]
        try:
            outcome = self._outcome(module, ctx, interface_of(module, self.interface))
        except CANNOT_RUN:
            return
        if not outcome.is_bad:
            self.kernels = Kernels(module, ctx)
            self._above_kernels = len(compilation._applied)

    def _outcome_within(self, level: str, module: ModuleOp, ctx: StepwellContext) -> Outcome:
        """The outcome of a level: as a whole, or on samples if that takes too long, as all levels below do then."""
        self._level_name = level
        if self.samples and self.kernels and level not in _WHOLE:
            self._sampling = True
        self.progress(level, "run on samples" if self._sampling else "run")
        try:
            return self._outcome(module, ctx, self.interface)
        except OutOfFuel:
            if self._sampling or not self.kernels:
                raise
            self._sampling = True
            self.progress(level, "run on samples")
            return self._outcome(module, ctx, self.interface)

    def _ll(self, compilation: Compilation) -> bool:
        """The text of LLVM IR, read back and run."""
        begin = time.perf_counter()
        try:
            module = through_ll(compilation.module, compilation.ctx)
            outcome = self._outcome_within("ll", module, compilation.ctx)
        except CANNOT_RUN as error:
            self._skip("ll", error)
            return True
        except FAILURES as error:
            outcome = Outcome("fails", message=one_line(error))
        self._enter("ll", outcome, begin)
        if outcome.is_bad:
            self._found("ll", PRINTER, outcome, compilation.pipeline("llvm"), compilation._applied, [], True)
        return not outcome.is_bad

    def _so(self, compilation: Compilation) -> None:
        """The compiled library; where it differs, kernel by kernel."""
        from stepwell.backends.cpu.cache import temporary_directory
        from stepwell.runtime import load

        self.progress("so", "compile and run")
        begin = time.perf_counter()
        names = _names(main_of(self.imported), len(self.inputs))
        try:
            with temporary_directory() as directory:
                path = directory / "checked.so"
                compilation.build(path)
                model = load(path, threads=self.options.threads)
                got = list(model.run(dict(zip(names, self.inputs, strict=True))).values())
        except InternalError:
            raise
        except Error as error:
            outcome = Outcome("fails", message=one_line(error))
        else:
            difference = compare(got, self.want, self.exact)
            outcome = Outcome("agrees" if difference.agrees else "differs", difference)
        self._enter("so", outcome, begin)
        if outcome.is_bad:
            self._locate_native(outcome, compilation)

    # --- which pass ------------------------------------------------------------------------------

    def _before(self, stages: Sequence[Stage]) -> tuple[ModuleOp, StepwellContext, Interface]:
        """The model as it is behind `stages`."""
        module, ctx = self.imported.clone(), _copy_of(self.ctx)
        run_pipeline(ctx, module, list(stages))
        return module, ctx, interface_of(module, self.interface)

    def _locate(self, level: str, compilation: Compilation) -> None:
        """Name the pass of `level` that breaks it."""
        self._level_name = level
        wrong = self.sample.wrong if self._sampling and self.sample is not None else None
        if self._sampling:
            self._only = wrong.kernel if wrong is not None else ""
        stages = compilation._stages(level)
        applied = [
            s for before in LEVELS[self.start : LEVELS.index(level)] for s in compilation._stages(before)
        ]
        module, ctx, interface = self._before(applied)
        for index, stage in enumerate(stages):
            self.progress(level, str(stage))
            before = module.clone()
            try:
                run_pipeline(ctx, module, [stage])
            except FAILURES:
                return  # it refuses what is still right
            interface = interface_of(module, interface)
            if before.is_structurally_equivalent(module):
                continue
            try:
                outcome = self._outcome(module, ctx, interface)
            except CANNOT_RUN:
                continue
            if outcome.is_bad:
                prefix = [*applied, *stages[:index]]
                finding = self._found(
                    level, str(stage), outcome, print_pipeline([*prefix, stage]), prefix, [stage], False
                )
                self._locate_rewrite(finding, before, ctx, stage, interface)
                if wrong is not None:
                    finding.kernel, finding.layer = wrong.kernel, ", ".join(wrong.layers)
                elif not self._sampling:
                    self._locate_layer(finding, before, module, ctx)
                return
        self.report.finding = Finding(level, str(stages[-1]), "the passes one by one do not show it")

    def _locate_rewrite(
        self, finding: Finding, before: ModuleOp, ctx: StepwellContext, stage: Stage, interface: Interface
    ) -> None:
        """The first rewrite of the pass after which the values differ, by bisection."""

        def is_bad(limit: int) -> bool:
            module = before.clone()
            with logged_rewrites(limit):
                try:
                    stage.apply(_copy_of(ctx), module)
                except PassFailedException:
                    pass  # a conversion that was stopped half way says so
            try:
                return self._outcome(module, ctx, interface_of(module, interface)).is_bad
            except FAILURES:
                return True

        with logged_rewrites() as log:
            stage.apply(_copy_of(ctx), before.clone())
        if not log.done or is_bad(0):
            return
        number = bisect_rewrites(len(log.done), is_bad)
        if number is not None:
            finding.rewrite, finding.rewrite_number = str(log.done[number - 1]), number
            names = source_names(log.done[number - 1].location)
            finding.layer = names[0] if names else ""

    def _locate_layer(
        self, finding: Finding, before: ModuleOp, after: ModuleOp, ctx: StepwellContext
    ) -> None:
        """The first layer whose value is right before the pass and wrong behind it."""
        good, bad = _Values(self.layers.order), _Values(self.layers.order)
        for module, values in ((before, good), (after, bad)):
            try:
                run_module(module, ctx, self.inputs, self.interface, values.observe, seconds=self._seconds)
            except FAILURES:
                pass  # up to where it stops
            except Exception:  # IR that is wrong enough to break the interpreter itself
                pass
        if (layer := self.layers.first_wrong(good, bad)) is not None:
            finding.layer = layer

    def _found(
        self, stage: str, name: str, outcome: Outcome, pipeline: str, prefix: Sequence[Stage],
        suspect: Sequence[Stage], through: bool,
    ) -> Finding:  # fmt: skip
        finding = Finding(stage, name, str(outcome), pipeline=pipeline)
        self.report.finding = finding
        predicate = Miscompile(list(prefix), list(suspect), through, self.seed)
        if self.reduce_s > 0 and not (self._sampling and self._reduce_kernel(finding, predicate)):
            self._reduce(finding, replace(predicate, limit_s=self.stage_s) if self._sampling else predicate)
        return finding

    # --- a reproducer ----------------------------------------------------------------------------

    def _reduce_kernel(self, finding: Finding, whole: Miscompile) -> bool:
        """
        Of a model that takes too long as a whole: the wrong kernel alone, as it was at the kernels level. False if there is
        no such kernel, or it is right by itself.
        """
        from stepwell.reduction import Reduction

        wrong = self.sample.wrong if self.sample is not None else None
        if wrong is None or self.kernels is None or (module := alone(self.kernels, wrong.kernel)) is None:
            return False
        self.progress("reduce", f"@{wrong.kernel}")
        ctx, prefix = _copy_of(self.kernels.ctx), whole.prefix[self._above_kernels :]
        whole = replace(whole, prefix=prefix)
        predicate = SampledMiscompile(
            prefix, whole.suspect, whole.through_ll, self.seed, limit_s=self.stage_s
        )
        outcome = predicate.outcome(module, ctx)
        if not outcome.is_bad:
            return False
        predicate = predicate.looking_for(outcome)
        small = Reduction(predicate, ctx, self.reduce_s, lambda text: self.progress("reduce", text)).reduce(
            module
        )
        if whole.outcome(small, ctx).is_bad:
            self._write_reproducer(finding, small, ctx, whole)
        else:
            self.report.notes.append(
                f"no reproducer: @{wrong.kernel} did not get small enough to be run as a whole; give more time with --reduce"
            )
        return True

    def _write_reproducer(
        self, finding: Finding, module: ModuleOp, ctx: StepwellContext, predicate: Miscompile
    ) -> None:
        from stepwell.reduction import op_count

        path = self.reproducer or new_file()
        write_reproducer(module, ctx, path, predicate)
        finding.reproducer, finding.reproducer_ops = str(path), op_count(module)
        finding.replay = replay_command(path)

    def _reduce(self, finding: Finding, predicate: Miscompile) -> None:
        """First the model as it was imported, with all passes; then what the bad pass is given, if that is smaller."""
        from stepwell.reduction import Reduction, op_count

        self.progress("reduce", finding.pass_name)
        outcome = predicate.outcome(self.imported, self.ctx)
        if outcome.kind == "late":
            self.report.notes.append(
                "no reproducer: a level was run on samples, and it is not one kernel alone that is wrong; give smaller"
                " extents with --dim, or a model of the layer alone"
            )
            return
        if not outcome.is_bad:
            self.report.notes.append("the fault does not show on random inputs, so there is no reproducer")
            return
        predicate = predicate.looking_for(outcome)
        reduction = Reduction(predicate, self.ctx, self.reduce_s, lambda text: self.progress("reduce", text))
        small, ctx = reduction.reduce(self.imported), self.ctx
        lowered, own = small.clone(), _copy_of(ctx)
        run_pipeline(own, lowered, predicate.prefix)
        if main_of(lowered) is not None:
            inner = Miscompile([], predicate.suspect, predicate.through_ll, self.seed)
            inner_outcome = inner.outcome(lowered, own)
            if inner_outcome.is_bad:
                inner = inner.looking_for(inner_outcome)
                lowered = Reduction(inner, own, self.reduce_s / 2).reduce(lowered)
                if op_count(lowered) <= op_count(small):
                    small, ctx, predicate = lowered, own, inner
        self._write_reproducer(finding, small, ctx, predicate)

    # --- the library, kernel by kernel -----------------------------------------------------------

    def _locate_native(self, outcome: Outcome, compilation: Compilation) -> None:
        from stepwell.native_check import first_wrong_kernel

        self.progress("so", "kernel by kernel")
        stages = compilation._stages("llvm")
        applied = [s for level in LEVELS[self.start : -1] for s in compilation._stages(level)]
        module, ctx, _ = self._before(applied)
        wrong = first_wrong_kernel(module, ctx, stages, self.inputs)
        finding = Finding("so", LINK, str(outcome), pipeline=compilation.pipeline("llvm"))
        self.report.finding = finding
        if wrong is None:
            self.report.notes.append(
                "every kernel does on its recorded inputs what its interpreter says: the host function, the layout of"
                " the weights or the runtime is wrong"
            )
            return
        finding.pass_name, finding.kernel, finding.difference = (
            wrong.pass_name,
            wrong.kernel,
            wrong.difference,
        )
        finding.layer = wrong.layer


def bisect_rewrites(count: int, is_bad: Callable[[int], bool]) -> int | None:
    """The least number of rewrites that is bad, if `count` of them are and 0 are not; None if none is."""
    low, high = 0, count
    if not is_bad(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if is_bad(middle):
            high = middle
        else:
            low = middle
    return high


def write_reproducer(module: ModuleOp, ctx: StepwellContext, path: Path, predicate: Miscompile) -> None:
    """One file that `stepwell-opt --run-reproducer` replays."""
    from stepwell.ir_files import write_module_file
    from stepwell.reduction import drop_empty_attributes, inline_constants

    inline_constants(module, ctx)
    drop_empty_attributes(module)
    heading = miscompile_heading(predicate)
    write_module_file(module, ctx, path, heading)


def miscompile_heading(predicate: Miscompile) -> str:
    """The first lines of a reproducer of a miscompile."""
    prefix = print_pipeline(predicate.prefix) if predicate.prefix else ""
    suspect = print_pipeline(predicate.suspect) if predicate.suspect else ""
    through = " through=ll" if predicate.through_ll else ""
    pipeline = print_pipeline([*predicate.prefix, *predicate.suspect])
    return (
        f"{reproducer_heading(pipeline)}"
        f"// MISCOMPILE: seed={predicate.seed}{through} before='{prefix}' suspect='{suspect}'\n"
    )


# --- values by layer -------------------------------------------------------------------------------


class _Values:
    """Takes down the value of each layer as a module runs: the last one of those that bear its name."""

    def __init__(self, order: Mapping[str, int]):
        self.order = order
        self.found: dict[str, np.ndarray] = {}

    def observe(self, machine: Machine, op: Operation) -> None:
        block = op.parent
        function = None if block is None else block.parent_op()
        if function is None or function.name != "func.func":
            return
        if function.properties["sym_name"].data != "main":  # pyright: ignore
            return
        names = [name for name in source_names(op.location) if name in self.order]
        if not names:
            return
        name = max(names, key=self.order.__getitem__)
        if op.results:
            value = machine.values.get(op.results[0])
        else:
            tensors = [v for v in op.operands if v.type.name == "memref"]
            value = machine.values.get(tensors[-1]) if op.name == "schedule.launch" and tensors else None
        if isinstance(value, np.ndarray) and value.ndim and op.name not in ("tensor.empty", "arith.constant"):
            self.found[name] = value.copy()


class _Layers:
    """The layers of the model in order, and their values in float64."""

    def __init__(self, imported: ModuleOp):
        self.order: dict[str, int] = {}
        main: Any = main_of(imported)
        for op in main.regions[0].block.ops:
            if op.name != "graph.constant":
                for name in source_names(op.location):
                    self.order.setdefault(name, len(self.order))
        self.exact = _Values(self.order)

    def first_wrong(self, good: _Values, bad: _Values) -> str | None:
        for name in sorted(self.order, key=self.order.__getitem__):
            if name not in bad.found:
                continue
            reference = self.exact.found.get(name)
            if reference is None:
                reference = good.found.get(name)
            if reference is None:
                continue
            if name in good.found and not _alike(good.found[name], reference):
                continue  # another value bears the name before the pass already
            if not _alike(bad.found[name], reference):
                return name
        return None


def _alike(value: np.ndarray, reference: np.ndarray) -> bool:
    """Whether two values agree; of different shapes, as sets (a layout permutes). Of different sizes nothing is known."""
    if value.size != reference.size or value.dtype.kind != reference.dtype.kind:
        return True
    value, reference = value.astype(np.float64), reference.astype(np.float64)
    if value.shape != reference.shape:
        value, reference = np.sort(value, axis=None), np.sort(reference, axis=None)
    return compare([value], [reference]).agrees


# --- small things ----------------------------------------------------------------------------------


@dataclass
class _Entry:
    name: str
    shape: tuple[int, ...]
    dtype: Any


def _entry(name: str, type: Any, dims: Mapping[str, int]) -> _Entry:
    from xdsl.dialects.builtin import ShapedType, TensorType

    from stepwell.dialects.graph import dims_of
    from stepwell.resources import dtype_of

    if not isinstance(type, ShapedType):
        return _Entry(name, (), None)
    try:
        dtype = dtype_of(type.get_element_type())  # pyright: ignore
    except TypeError:
        return _Entry(name, (), None)
    extents = dims_of(type) if isinstance(type, TensorType) else type.get_shape()
    shape = [d if isinstance(d, int) else str(d).strip('"') for d in extents]
    return _Entry(
        name, tuple(d if isinstance(d, int) and d >= 0 else dims.get(str(d), _EXTENT) for d in shape), dtype
    )


def _names(main: Any, count: int) -> list[str]:
    """The names of the inputs: those of the model, else input0, input1, ..."""
    names = [f"input{i}" for i in range(count)]
    attributes = main.properties.get("arg_attrs")
    for i, entry in enumerate(attributes.data if attributes is not None else ()):
        if (name := entry.data.get("graph.name")) is not None:
            names[i] = name.data
    return names


def _copy_of(ctx: StepwellContext) -> StepwellContext:
    """A Context whose weights are its own."""
    own = ctx.clone()
    own.resources = ctx.resources.copy()
    return own


def _pass_in(message: str) -> str:
    """The pass that an internal error names."""
    import re

    found = re.search(r"pass ([\w-]+(?:\{[^}]*\})?)", message)
    return found[1] if found else ""
