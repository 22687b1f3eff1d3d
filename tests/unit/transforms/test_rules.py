"""Every rule of every `.pat` file is true of random programs that are made from its own declaration."""

from pathlib import Path

import pytest

from stepwell.compat import new_context
from stepwell.registry import DIALECTS
from stepwell.transforms.rules.checking import Check, checks_of

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted([*(ROOT / "transforms").rglob("*.pat"), *(ROOT / "examples").rglob("*.pat")])
CHECKS = [check for path in FILES for check in checks_of(path, new_context(DIALECTS))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{Path(check.file.source.name).stem}-{check}")
def test_rule_keeps_what_programs_compute(check: Check) -> None:
    check.run()
