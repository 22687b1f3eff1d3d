"""Every named pipeline keeps the order that `ORDER` gives reasons for, and names known passes only."""

import pytest

from stepwell.pipeline_text import Apply, parse_pipeline
from stepwell.pipelines import LEVELS, ORDER, PIPELINES
from stepwell.registry import PASSES


def names(text: str) -> list[str]:
    """The passes of a pipeline in order, named pipelines expanded."""
    found: list[str] = []
    for step in parse_pipeline(text):
        assert isinstance(step, Apply)
        found.extend([step.name] if step.name in PASSES else names(PIPELINES[step.name]))
    return found


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_pipeline_keeps_the_order(pipeline):
    passes = names(PIPELINES[pipeline])
    for (first, second), reason in ORDER.items():
        if first in passes and second in passes:
            first_at = passes.index(first)
            last_at = len(passes) - 1 - passes[::-1].index(second)
            assert first_at < last_at, f"{first} before {second}: {reason}"


@pytest.mark.parametrize("opt_level", range(4))
def test_every_level_has_a_pipeline(opt_level):
    assert all(f"{level}-O{opt_level}" in PIPELINES for level in LEVELS)
