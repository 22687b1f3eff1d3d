"""The tests that do not pass yet. The list may only shrink."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.conformance.running import Result

LIST = Path(__file__).with_name("expected_failures.txt")

_HEADER = """\
# Tests of the onnx package that do not pass yet, with the reason. The list may only shrink: a test that passes
# must leave it (python -m tests.conformance.report --shrink), and none may be added.
"""


def read(path: Path = LIST) -> dict[str, str]:
    """Name of each test that is expected to fail, to the reason."""
    entries = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            entries[name] = reason
    return entries


def write(entries: Mapping[str, str], path: Path = LIST) -> None:
    """Write the list, sorted."""
    path.write_text(_HEADER + "".join(f"{name}: {reason}\n" for name, reason in sorted(entries.items())))


def surprises(results: Iterable[Result], expected: Mapping[str, str]) -> list[str]:
    """A line for each result that is not as expected: a failure that is not listed, a pass that is."""
    lines = []
    for result in results:
        if result.status == "pass" and result.name in expected:
            lines.append(f"{result.name} passes: take it off {LIST.name}")
        elif result.status != "pass" and result.name not in expected:
            lines.append(f"{result.name}: {result.status}: {result.detail}")
    return lines
