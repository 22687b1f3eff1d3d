"""
The backend tests of the onnx package: a fixed sample of them, all with `--conformance`; their variants with no extent
known and with all inputs but the first constant likewise, all with `--conformance=symbolic` and `--conformance=constant`.
What fails must be in the list of expected failures of its variant, and what is in it must fail.
"""

import os

import pytest

from tests.conformance import expectations
from tests.conformance.families import NAMES
from tests.conformance.variants import CONSTANT, PUBLISHED, SYMBOLIC, VARIANTS

SAMPLE = {PUBLISHED: 25, SYMBOLIC: 100, CONSTANT: 100}
"""One test in so many belongs to the ordinary run; of the light models, which take a minute each, none."""


def _cases(variant: str, chosen: str | None) -> list:
    from tests.conformance.cases import all_cases, in_sample
    from tests.conformance.variants import differs

    found = all_cases()
    assert len(found) >= 2033
    if chosen is None:
        found = {
            name: case
            for name, case in found.items()
            if in_sample(name, SAMPLE[variant]) and not name.startswith("light/")
        }
    return [case for case in found.values() if differs(case, variant)]


def _check(cases: list, variant: str) -> None:
    from tests.conformance.running import run_cases

    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    results = run_cases(cases, workers, variant=variant)
    found = expectations.surprises(results, expectations.read(variant))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("family", NAMES)
def test_family(family, request):
    variant = request.config.getoption("--conformance")
    cases = _cases(variant or PUBLISHED, variant)
    _check([case for case in cases if case.family == family], variant or PUBLISHED)


@pytest.mark.parametrize("variant", [SYMBOLIC, CONSTANT])
def test_sample_of_variant(variant, request):
    if request.config.getoption("--conformance") not in (None, PUBLISHED):
        pytest.skip("a whole variant runs by family")
    _check(_cases(variant, None), variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_expected_failures_are_tests_of_the_suite(variant):
    from tests.conformance.cases import all_cases
    from tests.conformance.variants import differs

    expected, cases = expectations.read(variant), all_cases()
    assert not expected.keys() - cases.keys()
    assert all(differs(cases[name], variant) for name in expected), "the variant asks nothing else of it"
    assert all(expected.values()), "an expected failure has its reason"


def test_every_element_type_that_onnxruntime_takes(request):
    from tests.conformance.element_types import compare

    if request.config.getoption("--conformance") != PUBLISHED:
        pytest.skip("a minute; with --conformance")
    taken, wrong = compare()
    assert taken > 900
    assert not wrong, "\n".join(wrong)
