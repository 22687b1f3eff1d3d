"""No function of one argument is off by more than 4 units in the last place: a sample of f32, all of them with `--math`."""

import numpy as np
import pytest

from tests.accuracy.functions import BOUND_ULP, FUNCTIONS, judged, measure

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


CANCELLING = {
    "Celu": [-1e-24, -1e-7, -0.5, 0.0, -0.0, 1.0, np.inf, -100.0],
    "HardSigmoid": [-2.5, -2.4999998, -2.5000002, 2.4999998, 2.5, 0.0, np.inf, -np.inf],
    "HardSwish": [-3.0, -2.9999998, -2.99, 2.9999998, 3.0, 3.4e38, -3.4e38, -0.0],
    "QuickGelu": [
        -46.67606735229492,
        -3.60280442237854,
        -60.1,
        -52.86037826538086,
        3.4e38,
        -3.4e38,
        np.inf,
        -0.0,
    ],
}
"""Where the formula as it stands in the standard, computed in f32, has few digits or none."""


@pytest.mark.parametrize("name", CANCELLING)
@pytest.mark.parametrize("fp", ["default", "strict"])
def test_no_digits_are_lost_where_the_formula_cancels(name, fp):
    found = judged(name, [np.array(CANCELLING[name], np.float32)], fp=fp)
    assert found.ulp <= BOUND_ULP and not found.special, str(found)


@pytest.mark.parametrize("type", ["f16", "bf16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_half_is_the_nearest_or_nearly_so(name, type):
    found = measure(name, type=type)
    assert found.ulp <= 0.51 and not found.special, str(found)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "Gelu"])
def test_doubles(name):
    found = measure(name, 1 << 16, "f64")
    assert found.ulp <= BOUND_ULP and not found.special, str(found)
