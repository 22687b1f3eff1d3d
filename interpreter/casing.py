"""
Upper and lower case of single characters: Unicode's simple mappings, one character to one, whatever the language.

So `ß` is its own upper case, and a capital sigma becomes `σ` everywhere; C's `towupper` and `towlower` do the same.
"""

from functools import cache
from typing import Literal

Case = Literal["lower", "upper"]


_CASED_END = 0x20000
"""Letters with a case lie in the first two planes."""


def changed(character: str, case: Case) -> str:
    """One character in the other case; itself where it has none."""
    result = character.lower() if case == "lower" else character.upper()
    if len(result) == 1:
        return result
    if character == "\u0130":  # capital i with a dot: its full mapping keeps the dot as a second character
        return "i"
    title = character.title()
    return title if len(title) == 1 else character


@cache
def case_map(case: Case) -> dict[int, int]:
    """Every character that has another one in this case."""
    return {
        code: ord(other)
        for code in range(_CASED_END)
        if not 0xD800 <= code < 0xE000 and (other := changed(chr(code), case)) != chr(code)
    }


@cache
def case_ranges(case: Case) -> tuple[tuple[int, int, int, int], ...]:
    """The same as ranges (first, last, step, distance) in ascending order."""
    ranges: list[list[int]] = []
    for code, other in sorted(case_map(case).items()):
        distance = other - code
        if ranges and ranges[-1][3] == distance:
            first, last, step, _ = ranges[-1]
            if first == last and code - last in (1, 2):
                ranges[-1][1:3] = [code, code - last]
                continue
            if first != last and code - last == step:
                ranges[-1][1] = code
                continue
        ranges.append([code, code, 1, distance])
    return tuple((a, b, step, distance) for a, b, step, distance in ranges)


def in_case(text: str, case: Case | None) -> str:
    """`text` with every character in this case; as it is for None."""
    return text if case is None else text.translate(case_map(case))
