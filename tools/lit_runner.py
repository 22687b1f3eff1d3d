"""`stepwell test`, and the tests of the repository: the RUN lines of a lit test, about ten milliseconds each in this process.

`stepwell-opt`, `stepwell-translate`, `stepwell-reduce`, `filecheck` and `not` are called as functions; a line with any other
word goes to a real shell. The same tree runs under plain `lit` (`tests/lit/lit.cfg.py`).
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import IO

from stepwell.errors import Error
from stepwell.reproducers import VARIABLE

Tool = Callable[[list[str], IO[str], IO[str], IO[str]], int]
_CONTROL = {"|", "&&", ";", ">", ">>", "<", "2>", "2>&1", "&>"}


@dataclass
class Outcome:
    """What a test did: passed, or the log to show."""

    passed: bool
    log: str = ""
    unsupported: str | None = None


@dataclass
class _Command:
    words: list[str]
    redirects: list[tuple[str, str]] = field(default_factory=list)


def tests_in(names: Sequence[str]) -> list[Path]:
    """The files named, and those with RUN lines in the directories named, sorted; an error if one is no test."""
    tests: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = [
                p
                for p in sorted(path.rglob("*.ir"))
                if "RUN:" in p.read_text(encoding="utf-8", errors="replace")
            ]
            if not found:
                raise Error(
                    f"{name}: holds no test; a test is an .ir file with a line '// RUN: stepwell-opt %s ...'"
                )
            tests += found
        elif path.is_file():
            tests.append(path)
        else:
            raise Error(f"{name}: there is no such file; give a test, or a directory of tests")
    return tests


def run_test(path: Path) -> Outcome:
    """
    Run all RUN lines of the test at `path`; it fails at the first line that does. What a test makes fail takes the
    place of no reproducer that its user may want.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "off"
    try:
        return _run_lines_of(path)
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _run_lines_of(path: Path) -> Outcome:
    path = path.absolute()
    text = path.read_text(encoding="utf-8")
    for program in re.findall(r"REQUIRES:\s*(\S+)", text):
        if shutil.which(program) is None:
            return Outcome(True, unsupported=f"{program} is not installed")
    lines = _run_lines(text)
    if not lines:
        return Outcome(False, f"{path}: no RUN line")
    with tempfile.TemporaryDirectory(prefix="stepwell-lit-") as directory:
        values = {
            "%s": shlex.quote(str(path)),
            "%S": shlex.quote(str(path.parent)),
            "%t": shlex.quote(f"{directory}/t"),
            "%T": shlex.quote(directory),
            "%stepwell-opt": "stepwell-opt",
            "%stepwell-translate": "stepwell-translate",
            "%%": "%",
        }
        names = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
        for line in lines:
            command = re.sub(rf"({names})(?![A-Za-z0-9_])", lambda match: values[match[1]], line)
            status, stdout, stderr = _run_line(command)
            if status != 0:
                log = [f"{path}: status {status} from RUN line:", f"  {line}", stdout, stderr]
                return Outcome(False, "\n".join(part for part in log if part))
    return Outcome(True)


def _run_lines(text: str) -> list[str]:
    lines: list[str] = []
    joined = ""
    for match in re.finditer(r"\bRUN:[ \t]*(.*)$", text, re.MULTILINE):
        part = match[1].rstrip()
        if part.endswith("\\"):
            joined += part[:-1]
        else:
            lines.append(joined + part)
            joined = ""
    return lines


def _run_line(line: str) -> tuple[int, str, str]:
    """Status and output of one line: in this process if all its words are ours."""
    sequence = _split(line)
    if sequence is None:
        return _run_shell(line)
    outputs: tuple[int, str, str] = (0, "", "")
    for pipeline in sequence:
        outputs = _run_pipeline(pipeline)
        if outputs[0] != 0:
            break
    return outputs


def _split(line: str) -> list[list[_Command]] | None:
    """The line as pipelines of commands, None if it holds a word of the shell or a foreign program."""
    if "`" in line or "$" in line:
        return None
    tokens = _tokens(line)
    sequence: list[list[_Command]] = [[_Command([])]]
    index = 0
    while index < len(tokens):
        token = tokens[index]
        command = sequence[-1][-1]
        if token == "|":
            sequence[-1].append(_Command([]))
        elif token == "&&":
            sequence.append([_Command([])])
        elif token in (">", "<", ">>"):
            index += 1
            stream = token
            if token == ">" and command.words and command.words[-1] == "2":
                command.words.pop()
                stream = "2>"
            if index == len(tokens):
                return None
            command.redirects.append((stream, tokens[index]))
        elif token == ">&":
            if index + 1 == len(tokens) or tokens[index + 1] != "1" or command.words[-1:] != ["2"]:
                return None
            command.words.pop()
            command.redirects.append(("2>&1", ""))
            index += 1
        elif token and set(token) <= set("|&;<>()"):
            return None
        else:
            command.words.append(token.removeprefix(_QUOTE))
        index += 1
    commands = [command for pipeline in sequence for command in pipeline]
    return sequence if all(_program(command.words) in _TOOLS for command in commands) else None


_QUOTE = "\0"


_TOKEN = re.compile(
    r"""[|&;<>()]+ | (?: [^\s|&;<>()'"] | '[^']*' | "(?:\\.|[^"\\])*" )+""",
    re.VERBOSE,
)


def _tokens(line: str) -> list[str]:
    """As a shell splits; a word (other than an operator) that was quoted begins with a mark."""
    tokens: list[str] = []
    for match in _TOKEN.finditer(line):
        text = match[0]
        if text[0] in "|&;<>()":
            tokens.append(text)
        else:
            mark = _QUOTE if text[0] in "'\"" else ""
            tokens.append(mark + "".join(shlex.split(text)))
    return tokens


def _program(words: list[str]) -> str:
    return words[1] if words[:1] == ["not"] and len(words) > 1 else (words[0] if words else "")


def _run_pipeline(commands: list[_Command]) -> tuple[int, str, str]:
    """As a shell with `pipefail`: the last status that is not 0."""
    data, errors, status = "", "", 0
    for command in commands:
        words, inverted = command.words, False
        if words[0] == "not":
            words, inverted = words[1:], True
        redirects = dict(command.redirects)
        if "<" in redirects:
            data = Path(redirects["<"]).read_text(encoding="utf-8")
        stdout, stderr = StringIO(), StringIO()
        if "2>&1" in redirects:
            stderr = stdout
        code = _TOOLS[words[0]](words[1:], StringIO(data), stdout, stderr)
        if inverted:
            code = 0 if code != 0 else 1
        if code != 0:
            status = code
        data = stdout.getvalue()
        if stderr is not stdout:
            if "2>" in redirects:
                Path(redirects["2>"]).write_text(stderr.getvalue(), encoding="utf-8")
            else:
                errors += stderr.getvalue()
        for stream, mode in ((">", "w"), (">>", "a")):
            if stream in redirects:
                with open(redirects[stream], mode, encoding="utf-8") as file:
                    file.write(data)
                data = ""
    return status, data, errors


def _run_shell(line: str) -> tuple[int, str, str]:
    """The line in a real shell, with our tools as functions of it."""
    source = Path(__file__).resolve().parent.parent / "src"
    python = shlex.quote(sys.executable)
    functions = [
        f'stepwell-opt() {{ {python} -m stepwell.tools.stepwell_opt "$@"; }}',
        f'stepwell-translate() {{ {python} -m stepwell.tools.stepwell_translate "$@"; }}',
        f'stepwell-reduce() {{ {python} -m stepwell.tools.stepwell_reduce "$@"; }}',
        f'filecheck() {{ {python} -m filecheck "$@"; }}',
        'not() { if "$@"; then return 1; else return 0; fi; }',
    ]
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    script = "set -o pipefail\n" + "\n".join(functions) + "\n" + line
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


# Our tools


def _opt(argv: list[str], stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> int:
    from stepwell.tools.stepwell_opt import main

    return main(argv, stdin, stdout, stderr)


def _translate(argv: list[str], stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> int:
    from stepwell.tools.stepwell_translate import main

    return main(argv, stdin, stdout, stderr)


def _reduce(argv: list[str], stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> int:
    from stepwell.tools.stepwell_reduce import main

    return main(argv, stdin, stdout, stderr)


def _filecheck(argv: list[str], stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> int:
    try:
        from filecheck.finput import FInput
    except ImportError as error:
        raise Error(
            "tests need the package filecheck, which is not installed; pip install filecheck"
        ) from error
    from filecheck.matcher import Matcher
    from filecheck.options import parse_argv_options
    from filecheck.parser import Parser

    options = parse_argv_options(["filecheck", *argv])
    content = stdin.read()
    with contextlib.redirect_stderr(stderr):  # type: ignore[type-var]
        matcher = Matcher(options, FInput("<stdin>", content), Parser.from_opts(options))
        status = matcher.run()
    if status != 0:
        stderr.write("input was:\n")
        for number, line in enumerate(content.split("\n"), 1):
            stderr.write(f"{number:5} | {line}\n")
    return status


_TOOLS: dict[str, Tool] = {
    "stepwell-opt": _opt,
    "stepwell-translate": _translate,
    "stepwell-reduce": _reduce,
    "filecheck": _filecheck,
    "FileCheck": _filecheck,
}
