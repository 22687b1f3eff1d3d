"""
Run many small cases in a child process with limits of time and memory, and say how each one ended.

Time is that of the processor, so that a busy machine changes no outcome; sleeping is noticed after six times as much.
"""

import contextlib
import faulthandler
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Case = Callable[[], object]


@dataclass(frozen=True)
class Outcome:
    """
    How a case ended: "ok" (the text that it returned), "error" (a message and an exit code), or a fault: "traceback",
    "crash", "hang".
    """

    kind: str
    code: int = 0
    text: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether a user could complain of it."""
        return self.kind not in ("ok", "error") or self.code == 3


def run_boxed(cases: "list[Case]", seconds: float = 10.0, memory: int = 3 << 30) -> Iterator[Outcome]:
    """The outcome of every case, in order; a child that dies is replaced for the cases after."""
    done = 0
    while done < len(cases):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _work(cases[done : done + 200], writer, seconds, memory)
        os.close(writer)
        try:
            for outcome in _listen(reader, child, seconds):
                done += 1
                yield outcome
                if outcome.kind in ("crash", "hang") or done == len(cases):
                    break
        finally:
            os.close(reader)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _listen(reader: int, child: int, seconds: float) -> Iterator[Outcome]:
    pending = b""
    while True:
        ready, _, _ = select.select([reader], [], [], 6 * seconds)
        if not ready:
            yield Outcome("hang", text=f"more than {6 * seconds} s")
            return
        piece = os.read(reader, 1 << 16)
        if not piece:  # the child was killed by a signal
            number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            yield Outcome("hang" if -number == signal.SIGPROF else "crash", text=f"status {number}")
            return
        pending += piece
        *lines, pending = pending.split(b"\n")
        for line in lines:
            if line == b"end":
                return
            yield Outcome(*json.loads(line))


def _work(cases: "list[Case]", writer: int, seconds: float, memory: int) -> None:
    """In the child: one line for each case."""
    faulthandler.enable(file=sys.__stderr__)
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for case in cases:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process
            os.write(writer, json.dumps(outcome_of(case)).encode() + b"\n")
        os.write(writer, b"end\n")
    finally:  # also when nobody listens any more: an ordinary exit may wait for threads that a fork does not copy
        os._exit(0)


def outcome_of(case: Case) -> tuple[str, int, str]:
    from xdsl.utils.exceptions import ParseError, PassFailedException, VerifyException

    from stepwell.diagnostics import diagnose, exit_code_of
    from stepwell.errors import Error

    try:
        said = case()
    except (Error, ParseError, VerifyException, PassFailedException) as error:
        code, text = exit_code_of(error), diagnose(error).render()
        if code == 3:
            text += "\n" + "".join(traceback.format_exception(error))[-3000:]
        return "error", code, text
    except BaseException as error:
        return "traceback", 3, "".join(traceback.format_exception(error))[-3000:]
    return "ok", 0, said if isinstance(said, str) else ""
