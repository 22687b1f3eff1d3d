"""No function of one argument is off by more than 4 units in the last place: a sample of f32, all of them with `--math`."""

import pytest

from tests.accuracy.functions import BOUND_ULP, FUNCTIONS, measure

SAMPLE = 8191
"""One f32 in so many; a prime, so that every pattern of low bits is met."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_and_special_values(name, request):
    chosen = request.config.getoption("--math")
    if chosen not in (None, "all") and name not in chosen.split(","):
        pytest.skip("not among --math")
    found = measure(name, 1 if chosen else SAMPLE)
    assert found.ulp <= BOUND_ULP, str(found)
    assert not found.special, str(found)
