"""The tests that do not pass yet, a list for each variant. The lists may only shrink."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.conformance.running import Result
from tests.conformance.variants import PUBLISHED

_FOLDER = Path(__file__).parent

_HEADER = """\
# Tests of the onnx package that do not pass yet{how}, with the reason. The list may only shrink: a test that passes
# must leave it (python -m tests.conformance.report{option} --shrink), and none may be added.
# What "may pass by chance" draws random numbers without a seed: it stays in the list either way.
"""

_BY_CHANCE = "may pass by chance"


def list_of(variant: str) -> Path:
    """The file of the tests that are expected to fail."""
    suffix = "" if variant == PUBLISHED else f"_{variant}"
    return _FOLDER / f"expected_failures{suffix}.txt"


def read(variant: str = PUBLISHED) -> dict[str, str]:
    """Name of each test that is expected to fail, to the reason."""
    entries = {}
    for line in list_of(variant).read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            entries[name] = reason
    return entries


def write(entries: Mapping[str, str], variant: str = PUBLISHED) -> None:
    """Write the list, sorted."""
    plain = variant == PUBLISHED
    header = _HEADER.format(
        how="" if plain else f" in the variant {variant!r}", option="" if plain else f" --variant {variant}"
    )
    lines = [f"{name}: {reason}\n" for name, reason in sorted(entries.items())]
    list_of(variant).write_text(header + "".join(lines))


def may_pass(reason: str) -> bool:
    """Whether a pass of the test says nothing: its reason is that it compares what was drawn without a seed."""
    return _BY_CHANCE in reason


def surprises(results: Iterable[Result], expected: Mapping[str, str]) -> list[str]:
    """
    A line for each result that is not as expected: a failure that is not listed, a pass that is, unless the list says
    that it may pass by chance.
    """
    lines = []
    for result in results:
        if result.status == "pass" and not may_pass(expected.get(result.name, _BY_CHANCE)):
            lines.append(f"{result.name} passes: take it off the list of expected failures")
        elif result.status != "pass" and result.name not in expected:
            lines.append(f"{result.name}: {result.status}: {result.detail}")
    return lines
