"""Compile and run tests in processes of their own, so that a crash or an endless loop is one failed test."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from tests.conformance.cases import Case, all_cases
from tests.conformance.variants import PUBLISHED, programs

_BFLOAT16_RTOL = 2**-6
_TESTS_A_PROCESS = 200
"""A process ends after so many, so that what it holds does not grow without bound."""
_LIGHT_FACTOR = 5
"""The light models have hundreds of layers each."""


@dataclass(frozen=True)
class Result:
    """
    What became of one test. `status`: "pass"; "unsupported", refused by name; "refused", any other error that is
    said to be the model's; "fault", an error of ours; "wrong", other values, shape or type; "crash"; "timeout".
    """

    name: str
    family: str
    status: str
    detail: str
    seconds: float


class Difference(Exception):
    """What was computed is not what was expected."""


def run_case(case: Case, variant: str = PUBLISHED, **options: Any) -> None:
    """Compile and run one test in one of its `VARIANTS`, of AArch64 under emulation; raises where it fails."""
    model, loaded = None, None
    for proto, inputs, expected in programs(case, variant):
        if model is None or proto is not loaded:
            model, loaded = _compiled(proto, options), proto
        results = model.run(inputs)
        for info, want in zip(proto.graph.output, expected, strict=True):
            _compare(info.name, results[info.name], want, case.rtol, case.atol)


def _compiled(proto: Any, options: dict[str, Any]) -> Any:
    import stepwell
    from tests.foreign import FOREIGN_TARGET, ForeignModel

    if options.get("target") == FOREIGN_TARGET:
        return ForeignModel(proto, **options)
    return stepwell.compile(proto, cache=False, **options)


def _compare(name: str, got: Any, want: Any, rtol: float, atol: float) -> None:
    if isinstance(want, list | tuple) or want is None:
        if not isinstance(got, type(want)) or (want is not None and len(got) != len(want)):
            raise Difference(f"output '{name}': {got!r:.60}, expected {want!r:.60}")
        for g, w in zip(got or (), want or (), strict=True):
            _compare(name, g, w, rtol, atol)
        return
    want = np.asarray(want)
    if got.shape != want.shape or got.dtype != want.dtype:
        raise Difference(
            f"output '{name}': {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
        )
    if want.dtype.kind in "OUS":
        if got.tolist() != want.tolist():
            raise Difference(f"output '{name}': other strings")
        return
    if (
        want.dtype.kind == "V" or want.dtype.name not in np.sctypeDict
    ):  # ml_dtypes: bfloat16, float8, int4, ...
        rtol = max(rtol, _BFLOAT16_RTOL) if want.dtype.name == "bfloat16" else rtol
        got, want = got.astype(np.float32), want.astype(np.float32)
    close = np.isclose(got, want, rtol=rtol, atol=atol, equal_nan=True)
    if not close.all():
        at = np.unravel_index(np.argmin(close), close.shape)
        raise Difference(
            f"output '{name}': {close.size - np.count_nonzero(close)} of {close.size} values differ,"
            f" first {got[at]} for {want[at]} at {list(map(int, at))}"
        )


def _judge(case: Case, variant: str, options: dict[str, Any]) -> tuple[str, str]:
    from stepwell.errors import Error, InternalError, UnsupportedError

    try:
        run_case(case, variant, **options)
    except Difference as error:
        return "wrong", str(error)
    except UnsupportedError as error:
        return "unsupported", str(error)
    except Error as error:
        return "fault" if isinstance(error, InternalError) else "refused", str(error)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "fault", f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}:{frame.lineno})"
    return "pass", ""


def _serve(connection: Connection, variant: str, options: dict[str, Any]) -> None:
    cases = all_cases()
    for _ in range(_TESTS_A_PROCESS):
        name = connection.recv()
        if name is None:
            return
        started = time.perf_counter()
        status, detail = _judge(cases[name], variant, options)
        connection.send((status, " ".join(detail.split())[:400], time.perf_counter() - started))


class _Worker:
    """A forked process, which finds the tests and the compiler's modules loaded."""

    def __init__(self, context: Any, variant: str, options: dict[str, Any]):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, variant, options), daemon=True)
        self.process.start()
        theirs.close()
        self.case: Case | None = None
        self.served, self.deadline, self.started = 0, 0.0, 0.0

    def give(self, case: Case, limit: float) -> None:
        self.case, self.started = case, time.monotonic()
        self.deadline = self.started + limit * (_LIGHT_FACTOR if case.name.startswith("light/") else 1)
        self.served += 1
        self.connection.send(case.name)

    def end(self) -> int | None:
        """Stop the process; its exit code, if it had ended by itself."""
        self.process.join(0.5 if self.served >= _TESTS_A_PROCESS or self.case is not None else 0)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.connection.close()
        return code


def run_cases(
    cases: Iterable[Case],
    workers: int = 2,
    limit: float = 60.0,
    report: Callable[[Result], None] = lambda result: None,
    variant: str = PUBLISHED,
    **options: Any,
) -> list[Result]:
    """The results of `cases` in their order; each may take `limit` seconds. `options` are `stepwell.compile`'s."""
    from stepwell.frontends.onnx import import_onnx  # noqa: F401
    from stepwell.pipelines import resolve_pipeline

    resolve_pipeline("cpu-O3")  # loads the passes
    all_cases()
    context = multiprocessing.get_context("fork")
    ordered = list(cases)
    waiting, running, results = ordered[::-1], [], {}

    def finish(worker: _Worker, status: str, detail: str, seconds: float) -> None:
        assert worker.case is not None
        result = Result(worker.case.name, worker.case.family, status, detail, round(seconds, 3))
        results[result.name] = result
        worker.case = None
        report(result)

    while waiting or running:
        while waiting and len(running) < workers:
            running.append(_Worker(context, variant, options))
            running[-1].give(waiting.pop(), limit)
        now = time.monotonic()
        ready = wait([w.connection for w in running], max(0.0, min(w.deadline for w in running) - now))
        for worker in list(running):
            spent = time.monotonic() - worker.started
            if worker.connection in ready:
                try:
                    finish(worker, *worker.connection.recv())
                except EOFError:
                    code = worker.end()
                    said = (
                        signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
                    )
                    finish(worker, "crash", said, spent)
                    running.remove(worker)
                    continue
            elif time.monotonic() >= worker.deadline:
                worker.process.kill()
                worker.end()
                finish(worker, "timeout", f"over {limit:.0f} s", spent)
                running.remove(worker)
                continue
            else:
                continue
            if waiting and worker.served < _TESTS_A_PROCESS:
                worker.give(waiting.pop(), limit)
            else:
                worker.end()
                running.remove(worker)
    return [results[case.name] for case in ordered]
