"""`stepwell`: compile, run, time and inspect models from the command line; arguments only."""

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from stepwell import __version__
from stepwell.errors import CompileError, Error, InternalError, RunError
from stepwell.reproducers import reproducers
from stepwell.tools import stepwell_check
from stepwell.tools.console import (
    add_reproducer_arguments,
    closed_pipe,
    remarks_to,
    reproducers_of,
    spelled_out,
)
from stepwell.tools.values import arrays_of, describe, describe_entry, random_inputs, read_inputs

if TYPE_CHECKING:
    from stepwell.compiler import Compilation, Options, Progress

_EXAMPLES = """examples:
  stepwell compile model.onnx -o model.so --threads 2
  stepwell compile model.onnx --emit kernels            # print the IR of a stage
  stepwell run model.so --input x=photo.npy --output-dir out
  stepwell run model.onnx --random --check onnxruntime
  stepwell bench model.onnx --vs onnxruntime --threads 1,2
  stepwell bench model.onnx --profile --trace trace.json
  stepwell inspect model.onnx
  stepwell explore model.onnx --run -o model.html       # every level, pass and kernel in a page
  stepwell check model.onnx                             # which pass broke it
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CompileError(f"{self.prog}: {message}; see {self.prog} --help")


def main(
    argv: Sequence[str] | None = None, stdout: TextIO | None = None, stderr: TextIO | None = None
) -> int:
    """Run the command; returns its exit code: 0 ok, 1 the user, 2 unsupported, 3 our fault."""
    out, err = stdout or sys.stdout, stderr or sys.stderr
    arguments = spelled_out(argv)
    debug = "--debug" in arguments
    try:
        options = _parser().parse_args(arguments)
        with reproducers(reproducers_of(options)):
            status = options.run(options, out, err)
        out.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=err)
        return 130
    except BrokenPipeError:
        return closed_pipe()
    except Error as error:
        if debug:
            traceback.print_exc(file=err)
        print(f"error: {error}", file=err)
        for note in getattr(error, "__notes__", ()):
            print(f"note: {note}", file=err)
        return error.exit_code
    except OSError as error:
        if debug:
            traceback.print_exc(file=err)
        print(f"error: {error.filename or 'system'}: {error.strerror or error}", file=err)
        return 1
    except (Exception, RecursionError) as error:
        if debug:
            traceback.print_exc(file=err)
        said = str(error).split("\n")[0][:200]
        print(f"error: {type(error).__name__}: {said}; a fault of stepwell: run again with --debug", file=err)
        return InternalError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="stepwell",
        description="Compile ONNX models into native libraries.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stepwell {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("compile", help="compile a model into a native library, or print a stage")
    command.add_argument("model", help="an .onnx file or an .ir file")
    command.add_argument(
        "-o", "--output", help="the file to write (default: the model's name with the stage's ending)"
    )
    _compile_options(command)
    command.add_argument("--emit", metavar="STAGE", help="stop at: " + ", ".join(_emits()) + " (default: so)")
    command.add_argument("--dump-dir", metavar="DIR", help="write the IR of every stage into DIR")
    command.add_argument("--print-pipeline", action="store_true", help="print the stepwell-opt pipeline")
    command.add_argument(
        "--remarks",
        metavar="missed|applied|all[:json]",
        help="say what was fused, vectorised, chosen, copied, and what could not be (all)",
    )
    command.add_argument("--timing", action="store_true", help="print the seconds of each pass")
    command.add_argument("--report", action="store_true", help="print kernels, weights and memory")
    command.add_argument("--verify-each", action="store_true", help="verify the IR after every pass")
    command.add_argument(
        "--symbol-prefix", metavar="P", help="prefix of the library's symbols (default: file)"
    )
    add_reproducer_arguments(command)
    command.set_defaults(run=_compile)

    command = commands.add_parser("run", help="run a model on inputs from files, or on random ones")
    command.add_argument("model", help="an .onnx file or a compiled .so")
    command.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE.npy", help="an input; may be repeated"
    )
    command.add_argument("--random", action="store_true", help="make up the inputs that are not given")
    command.add_argument("--seed", type=int, default=0, help="seed of --random (default 0)")
    command.add_argument("--output-dir", metavar="DIR", help="write each output as DIR/NAME.npy")
    command.add_argument(
        "--check", choices=("onnxruntime", "interpreter"), help="compare with another implementation"
    )
    command.add_argument(
        "--profile",
        metavar="FILE.json",
        help="write a Chrome trace of ten more runs, and print each layer's time",
    )
    _compile_options(command)
    add_reproducer_arguments(command)
    command.set_defaults(run=_run)

    command = commands.add_parser("bench", help="time a model, beside a peer if asked")
    command.add_argument("model", help="an .onnx file")
    command.add_argument("--vs", choices=("onnxruntime",), help="run interleaved with this peer")
    command.add_argument("--seconds", type=float, default=5.0, help="seconds per thread count (default 5)")
    command.add_argument("--seed", type=int, default=0, help="seed of the random inputs")
    command.add_argument("--profile", action="store_true", help="print the time of each layer")
    command.add_argument(
        "--trace", metavar="FILE.json", help="write the profiled runs as a Chrome trace (implies --profile)"
    )
    _compile_options(command, threads_list=True)
    add_reproducer_arguments(command)
    command.set_defaults(run=_bench)

    command = commands.add_parser("explore", help="write a page that shows every level, pass and kernel")
    command.add_argument("model", help="an .onnx file or an .ir file")
    command.add_argument("-o", "--output", metavar="FILE.html", help="the page (default: the model's name)")
    command.add_argument(
        "--run",
        dest="time_kernels",
        action="store_true",
        help="run the model on random inputs and time each kernel",
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the random inputs of --run")
    _compile_options(command)
    add_reproducer_arguments(command)
    command.set_defaults(run=_explore)

    command = commands.add_parser("new", help="begin a pass, an operator, a target or rules of your own")
    command.add_argument("kind", choices=_kinds(), help="what to begin")
    command.add_argument("name", help="its name, in lower case: drop-logs")
    command.add_argument("-o", "--output", metavar="DIR", default=".", help="where to write (default: here)")
    command.add_argument("--debug", action="store_true", help="show Python tracebacks")
    command.set_defaults(run=_new)

    command = commands.add_parser("test", help="run the RUN lines of .ir files: FileCheck tests")
    command.add_argument("files", nargs="+", metavar="FILE", help="tests, or directories of them")
    command.add_argument("--debug", action="store_true", help="show Python tracebacks")
    command.set_defaults(run=_test)

    command = commands.add_parser(
        "check",
        help="find the pass that broke a model",
        epilog=stepwell_check.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stepwell_check.add_arguments(command)
    _compile_options(command)
    command.set_defaults(run=_find_fault)

    command = commands.add_parser("inspect", help="inputs, outputs, operators and what is not supported")
    command.add_argument("model", help="an .onnx file or a compiled .so")
    command.add_argument(
        "--dim", action="append", default=[], metavar="NAME=N", help="fix a symbolic dim; may be repeated"
    )
    _plugin_option(command)
    command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument("--debug", action="store_true", help="show Python tracebacks")
    command.set_defaults(run=_inspect)
    return parser


def _kinds() -> tuple[str, ...]:
    from stepwell.skeletons import KINDS

    return KINDS


def _new(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    from stepwell.skeletons import write_skeleton

    files = write_skeleton(arguments.kind, arguments.name, Path(arguments.output))
    for path in files:
        print(path, file=out)
    option = f"--load-pass {files[0]}"
    print(f"its test: stepwell test {files[1]}; to use it: stepwell compile MODEL {option}", file=err)
    return 0


def _test(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    from stepwell.tools.lit_runner import run_test, tests_in

    failed = 0
    for path in tests_in(arguments.files):
        outcome = run_test(path)
        skipped = f" (skipped: {outcome.unsupported})" if outcome.unsupported else ""
        print(f"{'pass' if outcome.passed else 'FAIL'}  {path}{skipped}", file=out)
        if not outcome.passed:
            print(outcome.log, file=err)
            failed += 1
    return 1 if failed else 0


def _emits() -> tuple[str, ...]:
    from stepwell.compiler import EMITS

    return EMITS


def _plugin_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--load-pass",
        action="append",
        default=[],
        metavar="FILE",
        help="take passes, ops and rules from a .py or .pat file",
    )


def _compile_options(command: argparse.ArgumentParser, threads_list: bool = False) -> None:
    command.add_argument(
        "--target", default="native", help="native, x86-64-v3, x86-64-v4, aarch64 (default native)"
    )
    if threads_list:
        command.add_argument("--threads", default="1", metavar="N,...", help="thread counts (default 1)")
    else:
        command.add_argument("--threads", type=int, default=1, metavar="N", help="default threads (1)")
    for level in range(4):
        document = "-O0 to -O3: how much to optimise (default -O3)" if level == 0 else argparse.SUPPRESS
        command.add_argument(f"-O{level}", dest="opt_level", action="store_const", const=level, help=document)
    command.set_defaults(opt_level=3)
    command.add_argument(
        "--fp", default="default", metavar="M", help="default, strict or fast: what may be reordered"
    )
    command.add_argument(
        "--dim", action="append", default=[], metavar="NAME=N", help="fix a symbolic dim; may be repeated"
    )
    _plugin_option(command)
    command.add_argument("--no-cache", action="store_true", help="compile even if the cache has the model")
    command.add_argument("--debug", action="store_true", help="show Python tracebacks")


def _options(arguments: argparse.Namespace, threads: int) -> "Options":
    from stepwell.compiler import Options, prefix_from

    prefix = getattr(arguments, "symbol_prefix", None) or prefix_from(arguments.model)
    return Options(
        arguments.target,
        threads,
        arguments.opt_level,
        arguments.fp,
        tuple(_dims(arguments).items()),
        prefix,
        tuple(arguments.load_pass),
    )


def _dims(arguments: argparse.Namespace) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in arguments.dim:
        name, _, value = text.rpartition("=")
        if not name or not value.isascii() or not value.isdigit() or len(value) > 12:
            raise CompileError(f"--dim {text}: expected NAME=N with a whole number, such as batch=4")
        dims[name] = int(value)
    return dict(sorted(dims.items()))


@contextlib.contextmanager
def _progress(err: TextIO) -> "Iterator[Progress]":
    """A line that says what is being done: on a terminal one that changes, elsewhere one a level."""
    if not err.isatty():
        seen: set[str] = set()

        def say(stage: str, step: str) -> None:
            if stage not in seen:
                seen.add(stage)
                print(f"stepwell: {stage}", file=err, flush=True)

        yield say
        return
    from rich.console import Console

    with Console(file=err).status("starting") as status:
        yield lambda stage, step: status.update(f"[bold]{stage}[/bold] {_escaped(step)}")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _compile(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    from stepwell.compiler import EMITS, Compilation
    from stepwell.pipelines import LEVELS

    emit = arguments.emit or "so"
    if emit not in EMITS:
        raise CompileError(f"--emit {emit}: no such stage; use one of {', '.join(EMITS)}")
    output = _output_path(arguments, emit)
    compilation = Compilation(_options(arguments, arguments.threads), verify_each=arguments.verify_each)
    level = emit if emit in LEVELS else "llvm"
    if arguments.print_pipeline:
        if arguments.model.endswith((".ir", ".mlir")):
            compilation.read(arguments.model)  # the module says which passes lie behind it
        print(compilation.pipeline(level), file=out)
        return 0
    started = time.perf_counter()
    with remarks_to(err, arguments.remarks), _progress(err) as compilation.progress:
        compilation.read(arguments.model)
        if arguments.dump_dir:
            _dump(compilation, Path(arguments.dump_dir), level)
        compilation.lower_to(level)
        if output is None:
            text, unwritten = compilation.ir_text() if emit in LEVELS else (compilation.native_text(emit), 0)
            out.write(text)
            if unwritten:
                print(f"warning: the values of {unwritten} constants are not written; use -o FILE", file=err)
        elif emit in LEVELS:
            compilation.write_ir(output)
        else:
            compilation.write_native(emit, output)
    if emit == "so" and output is not None:
        size, seconds = output.stat().st_size / 1e6, time.perf_counter() - started
        print(f"{output}: {size:.1f} MB, compiled in {seconds:.1f} s", file=err)
    if arguments.timing:
        _print_timing(compilation, err)
    if arguments.report:
        print(compilation.report(), file=err)
    return 0


def _output_path(arguments: argparse.Namespace, emit: str) -> Path | None:
    """The file to write, None for standard output; whether it can be written is known before compiling."""
    endings = {"obj": ".o", "so": ".so"}
    name = arguments.output or (f"{Path(arguments.model).stem}{endings[emit]}" if emit in endings else "-")
    if name == "-":
        if emit in endings:
            raise CompileError(f"--emit {emit}: bytes are not for standard output; give -o FILE")
        return None
    path = Path(name)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CompileError(f"{path}: there is no directory {folder}; make it first, or choose another place")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise CompileError(f"{path}: cannot be written; choose another place")
    return path


def _dump(compilation: "Compilation", directory: Path, last: str) -> None:
    """Write the IR of every level down to `last` into `directory`."""
    from stepwell.pipelines import LEVELS

    directory.mkdir(parents=True, exist_ok=True)
    for level in LEVELS[compilation.start : LEVELS.index(last) + 1]:
        compilation.lower_to(level)
        compilation.write_ir(directory / f"{level}.ir")


def _print_timing(compilation: Any, err: TextIO) -> None:
    total = sum(t.seconds for t in compilation.timings) or 1.0
    for timing in compilation.timings:
        share = timing.seconds / total
        print(f"{timing.seconds:8.3f} s {share:5.1%}  {timing.stage:8} {timing.name}", file=err)
    print(f"{total:8.3f} s        total", file=err)


def _load(arguments: argparse.Namespace, threads: int, err: TextIO) -> Any:
    """The compiled model named on the command line, compiled first if it is not a library."""
    import stepwell

    if arguments.model.endswith(".so"):
        return stepwell.load(arguments.model, threads=threads)
    with _progress(err) as progress:
        return stepwell.compile(
            arguments.model,
            target=arguments.target,
            threads=threads,
            opt_level=arguments.opt_level,
            fp=arguments.fp,
            dims=_dims(arguments),
            cache=not arguments.no_cache,
            progress=progress,
            plugins=arguments.load_pass,
        )


def _run(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    from io import BytesIO

    import numpy as np

    from stepwell.files import write_atomically

    if arguments.check and arguments.model.endswith(".so"):
        raise RunError("--check needs the model's .onnx file, not the compiled library")
    model = _load(arguments, arguments.threads, err)
    feeds = read_inputs(arguments.input, model.inputs)
    if arguments.random:
        feeds = random_inputs(model.inputs, arguments.seed, _dims(arguments)) | feeds
    outputs = model.run(feeds)
    for name, value in outputs.items():
        print(f"{name}: {describe(value)}", file=out)
    if arguments.output_dir:
        directory = Path(arguments.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        arrays = [pair for name, value in outputs.items() for pair in arrays_of(name, value)]
        for i, (name, value) in enumerate(arrays):
            stream = BytesIO()
            # Strings as NumPy's own type: the file needs no pickle.
            is_text = isinstance(value, np.ndarray) and value.dtype.kind == "O"
            np.save(stream, value.astype(str) if is_text else value)
            write_atomically(directory / f"{_file_name(name, i)}.npy", stream.getvalue())
    if arguments.profile:
        _profile(model, feeds, arguments.profile, out)
    if arguments.check:
        return _check(arguments, model, feeds, outputs, out)
    return 0


def _file_name(name: str, index: int) -> str:
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[:80].lstrip(".")
    return safe or f"output{index}"


def _check(
    arguments: argparse.Namespace, model: Any, feeds: dict[str, Any], outputs: dict[str, Any], out: TextIO
) -> int:
    """Compare with a second implementation; DESIGN's tolerance |d| <= 1e-3 |ref| + 1e-5 max|ref|."""
    import numpy as np

    from stepwell.comparison import disagreement

    if arguments.check == "onnxruntime":
        session = _onnxruntime_session(arguments.model, 1)
        expected = session.run(list(outputs), feeds)
    else:
        from stepwell.compiler import interpret_model

        expected = interpret_model(arguments.model, [feeds[entry.name] for entry in model.inputs])
    worst = 0.0
    pairs = list(zip(outputs.items(), expected, strict=True))
    computed = [pair for (name, result), _ in pairs for pair in arrays_of(name, result)]
    wanted = [pair for (name, _), reference in pairs for pair in arrays_of(name, reference)]
    if [name for name, _ in computed] != [name for name, _ in wanted]:
        print(f"{len(computed)} arrays differ from {len(wanted)}", file=out)
        return 1
    for (name, result), (_, reference) in zip(computed, wanted, strict=True):
        got, want = np.asarray(result), np.asarray(reference)
        if got.shape != want.shape or got.dtype != want.dtype:
            print(
                f"{name}: {got.dtype}{list(got.shape)} differs from {want.dtype}{list(want.shape)}", file=out
            )
            return 1
        ratio = disagreement(got, want)
        worst = max(worst, ratio)
        print(f"{name}: {ratio:.3g} of the tolerance", file=out)
    print("agrees" if worst <= 1.0 else "DIFFERS", f"with {arguments.check}", file=out)
    return 0 if worst <= 1.0 else 1


def _onnxruntime_session(path: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RunError(
            "onnxruntime is not installed; pip install onnxruntime, or leave the option out"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_SETTLE_S = 0.005
"""Pause between two engines in one process."""


def _bench(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    from statistics import median

    counts = _thread_counts(arguments.threads)
    for threads in counts:
        model = _load(arguments, threads, err)
        feeds = random_inputs(model.inputs, arguments.seed, _dims(arguments))
        runs: dict[str, Callable[[], Any]] = {"stepwell": lambda model=model, feeds=feeds: model.run(feeds)}
        if arguments.vs:
            session = _onnxruntime_session(arguments.model, threads)
            runs[arguments.vs] = lambda session=session, feeds=feeds: session.run(None, feeds)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for call in runs.values():
            call()
        end = time.perf_counter() + arguments.seconds
        while time.perf_counter() < end or len(times["stepwell"]) < 3:
            for name, call in runs.items():
                # Threads of the engine before spin on for a while; they must not take our processors.
                time.sleep(_SETTLE_S)
                call()
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
        texts = [f"{name} {median(values) * 1e3:.3f} ms" for name, values in times.items()]
        line = f"{threads} thread{'s' if threads > 1 else ''}: " + ", ".join(texts)
        if arguments.vs:
            line += f", ratio {median(times[arguments.vs]) / median(times['stepwell']):.2f}"
        print(f"{line} (median of {len(times['stepwell'])} interleaved runs)", file=out)
        if arguments.profile or arguments.trace:
            _profile(model, feeds, _trace_path(arguments.trace, threads, counts), out)
    return 0


_PROFILED_RUNS = 10


def _profile(model: Any, feeds: dict[str, Any], trace: str | None, out: TextIO) -> None:
    """Print the time of each layer, and write the trace if asked for."""
    from stepwell.files import write_atomically

    profile = model.profile(feeds, _PROFILED_RUNS)
    print(profile.table(), file=out)
    if trace is not None:
        write_atomically(Path(trace), profile.chrome_trace().encode())


def _trace_path(path: str | None, threads: int, counts: list[int]) -> str | None:
    """Where the trace of one of several thread counts goes: `t.json` alone, else `t-2.json`."""
    if path is None or len(counts) == 1:
        return path
    return str(Path(path).with_suffix("")) + f"-{threads}{Path(path).suffix}"


def _thread_counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(p.isascii() and p.isdigit() and 0 < int(p) <= 1024 for p in parts):
        raise CompileError(f"--threads {text}: expected counts such as 1,2")
    return [int(p) for p in parts]


def _explore(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    from stepwell.explore import record, write_page
    from stepwell.explore.recording import default_output

    output = Path(arguments.output) if arguments.output else default_output(arguments.model)
    with _progress(err) as progress:
        recording = record(
            arguments.model, _options(arguments, arguments.threads), Path(arguments.model).name, progress
        )
        if arguments.time_kernels:
            progress("run", "kernels")
            recording.measure(lambda inputs: random_inputs(inputs, arguments.seed, _dims(arguments)))
    size = write_page(recording, output)
    print(f"{output}: {size / 1e6:.1f} MB", file=err)
    return 0


def _find_fault(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    options, feeds = _options(arguments, arguments.threads), read_inputs(arguments.input, [])
    with _progress(err) as progress:
        return stepwell_check.run(arguments, options, feeds, progress, out)


def _inspect(arguments: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    if arguments.model.endswith(".so"):
        import stepwell

        model = stepwell.load(arguments.model)
        facts: dict[str, Any] = {
            "inputs": [_entry(e) for e in model.inputs],
            "outputs": [_entry(e) for e in model.outputs],
        }
    else:
        from stepwell.compiler import inspect_model

        facts = inspect_model(arguments.model, _dims(arguments), arguments.load_pass)
    if arguments.json:
        print(json.dumps(facts, indent=2), file=out)
        return 0
    for kind in ("inputs", "outputs"):
        print(f"{kind}:", file=out)
        for entry in facts[kind]:
            print(f"  {describe_entry(entry)}", file=out)
    if "operators" in facts:
        print("operators:", file=out)
        for name, count in sorted(facts["operators"].items(), key=lambda item: (-item[1], item[0])):
            print(f"  {count:5} {name}", file=out)
        print(f"weights: {facts['weight_bytes'] / 1e6:.1f} MB", file=out)
        if facts["operations"] is not None:
            print(f"operations: {facts['operations'] / 1e6:.1f} million a run", file=out)
        if facts["arena_bytes"] is not None:
            print(f"working memory: {facts['arena_bytes'] / 1e6:.1f} MB", file=out)
        for reason in facts["unsupported"]:
            print(f"not supported: {reason}", file=out)
    return 0


def _entry(entry: Any) -> dict[str, Any]:
    shape = None if entry.shape is None else list(entry.shape)
    return {"name": entry.name, "dtype": str(entry.dtype), "shape": shape, "kind": entry.kind}


if __name__ == "__main__":
    sys.exit(main())
