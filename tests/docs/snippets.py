"""The fenced blocks of a page of the documentation, and running them as a reader would.

    ```python title="fuse.py"     a file of that name (any language)
    ```sh                         commands, run by bash; a failing one must be expected with `|| true` or `; echo $?`
    ```python                     a script, run by python
    ```text or ```mlir            right behind one of these two: what it prints, errors included; `...` stands for anything
    ```console                    shown only: needs a network, or takes long

Pages that belong together run in one directory, in order, so that a chapter finds the files of those before it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL)  # fmt: skip
_COMMANDS = {
    "python": "",
    "pytest": "-m pytest",
    "filecheck": "-m filecheck",
    "stepwell": "-m stepwell.tools.stepwell",
    "stepwell-opt": "-m stepwell.tools.stepwell_opt",
    "stepwell-reduce": "-m stepwell.tools.stepwell_reduce",
    "stepwell-translate": "-m stepwell.tools.stepwell_translate",
}


class Mismatch(Exception):
    """A snippet does not do what its page says."""


@dataclass
class Block:
    """One fenced block and where it begins."""

    place: str
    language: str
    title: str | None
    body: str
    expected: str | None = None
    """For a command: what it prints, if the page says so."""


def blocks_of(page: Path) -> list[Block]:
    """The files and commands of `page` in order, each command with its expected output."""
    text, end, found = page.read_text(encoding="utf-8"), 0, list[Block]()
    for match in _FENCE.finditer(text):
        place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        block = Block(place, match["language"], match["title"], match["body"])
        adjacent = not text[end : match.start()].strip()
        end = match.end()
        if block.title is not None or block.language in ("sh", "python"):
            found.append(block)
        elif block.language in ("text", "mlir") and adjacent and found and found[-1].title is None:
            found[-1].expected = block.body
    return found


def run_pages(pages: Iterable[Path], directory: Path) -> None:
    """Run all blocks of `pages` in `directory`; `Mismatch` names the first that does not do what it should."""
    environment = _environment(directory)
    for page in pages:
        for block in blocks_of(page):
            if block.title is not None:
                (directory / block.title).parent.mkdir(parents=True, exist_ok=True)
                (directory / block.title).write_text(block.body, encoding="utf-8")
            else:
                _run(block, directory, environment)


def _run(block: Block, directory: Path, environment: dict[str, str]) -> None:
    words = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*words, block.body], cwd=directory, env=environment, timeout=300, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode != 0:
        raise Mismatch(f"{block.place}: status {done.returncode}\n{done.stdout}")
    if block.expected is not None and not matches(block.expected, done.stdout):
        raise Mismatch(f"{block.place}: prints\n{done.stdout}\nand not\n{block.expected}")


def matches(expected: str, printed: str) -> bool:
    """Whether `printed` is `expected`, where `...` stands for any text; spaces at line ends do not count."""
    parts = [re.escape(part) for part in _trimmed(expected).split("...")]
    return re.fullmatch(".*".join(parts), _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


def _environment(directory: Path) -> dict[str, str]:
    """The caller's, with our commands on the path, whether they are installed or not."""
    commands = directory / ".bin"
    commands.mkdir()
    for name, words in _COMMANDS.items():
        path = commands / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "COLUMNS": "100",
        "TMPDIR": str(directory),
        "STEPWELL_CRASH_REPRODUCER": "",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
