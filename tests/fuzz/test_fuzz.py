"""Some random models, different ones wherever the time goes further; `python -m tests.fuzz` makes as many as one wants."""

import os
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from tests.fuzz import nnsmith
from tests.fuzz.running import Tally, run_seeds

MINUTES = 0.5


def failures(seeds: range, save: Path, cases: dict | None = None) -> tuple[list[str], Tally]:
    tally, found = Tally(), []
    for seed, verdict in run_seeds(seeds, save, cases, MINUTES):
        tally.count(verdict)
        if verdict.is_bad:
            found.append(
                f"seed {seed}: {verdict.kind} in {verdict.stage}: {verdict.detail} (saved in {save})"
            )
    return found, tally


def test_own_models_agree_with_onnx_runtime(tmp_path: Path) -> None:
    found, tally = failures(range(500), tmp_path)
    assert not found, "\n".join(found)
    assert tally.kinds["agrees"], "none ran to the end"


def test_models_of_nnsmith_agree_with_onnx_runtime(tmp_path: Path) -> None:
    if nnsmith.python() is None:
        pytest.skip("NNSmith is not installed; name a Python that has it in STEPWELL_NNSMITH")
    corpus = Path(os.environ.get("STEPWELL_NNSMITH_CORPUS", tmp_path / "corpus"))
    seeds = range(1000, 1020)
    nnsmith.generate(corpus, seeds)
    found, tally = failures(seeds, tmp_path, nnsmith.cases(corpus, seeds))
    assert not found, "\n".join(found)
    assert tally.kinds["agrees"], "none ran to the end"
