"""Collects `tests/lit/**/*.ir` as pytest tests, and gives unit tests their common fixtures."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]

from stepwell.tools.lit_runner import run_test  # noqa: E402

os.environ["STEPWELL_CRASH_REPRODUCER"] = "off"  # what tests make fail is not for who runs them


@pytest.fixture(autouse=True)
def _tables_as_they_were():
    """What a plug-in entered into the tables of the compiler goes with its test."""
    from stepwell import pipelines, plugins, registry

    tables = (registry.PASSES, registry.DIALECTS, pipelines.PIPELINES)
    before = [dict(table) for table in tables]
    yield
    plugins._loaded.clear()
    plugins._given.clear()
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--models", nargs="?", const="all", help="run the whole models, or those named (a,b); slow"
    )
    parser.addoption(
        "--conformance",
        nargs="?",
        const="published",
        choices=("published", "symbolic", "constant"),
        help="run all 2,033 backend tests of onnx, not a sample; or a variant of them",
    )
    parser.addoption(
        "--math", nargs="?", const="all", help="try functions, or those named (Exp,Gelu), on every f32; slow"
    )
    parser.addoption(
        "--miscompiles", action="store_true", help="run all seeded miscompiles, not one in three"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "models: whole models against ONNX Runtime; run with --models")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--models")
    names = set((chosen or "").split(","))
    for item in items:
        if item.get_closest_marker("models") is None:
            continue
        callspec = getattr(item, "callspec", None)
        if chosen is None:
            item.add_marker(pytest.mark.skip(reason="whole models run with --models"))
        elif chosen != "all" and callspec is not None and callspec.params.get("name") not in names:
            item.add_marker(pytest.mark.skip(reason="not among --models"))


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
