"""Collects `tests/lit/**/*.ir` as pytest tests, and gives unit tests their common fixtures."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]

from lit_runner import run_test  # noqa: E402


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "LitFile | None":
    lit_root = Path(__file__).parent / "lit"
    if file_path.suffix == ".ir" and lit_root in file_path.parents and "inputs" not in file_path.parts:
        return LitFile.from_parent(parent, path=file_path)
    return None


class LitFile(pytest.File):
    """One `.ir` file: one test."""

    def collect(self):
        yield LitItem.from_parent(self, name=self.path.stem)


class _Failed(Exception):
    pass


class LitItem(pytest.Item):
    """Runs the RUN lines of its file."""

    def runtest(self) -> None:
        outcome = run_test(self.path)
        if outcome.unsupported is not None:
            pytest.skip(outcome.unsupported)
        if not outcome.passed:
            raise _Failed(outcome.log)

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if isinstance(excinfo.value, _Failed) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, f"lit: {self.path.name}"
