"""Some hundred mutants of valid models, of IR and of the other texts that are read; `python -m hostile.fuzz` makes as many as one wants."""

import pytest
from hostile import fuzz

COUNT = 300


@pytest.mark.parametrize("kind", ["onnx", "ir", *fuzz.KINDS])
def test_every_mutant_compiles_or_is_refused(kind):
    found = [f"seed {seed}: {outcome}" for seed, outcome in fuzz.faults(kind, range(COUNT))]
    assert not found, "\n".join(found)
