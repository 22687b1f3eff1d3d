"""
The backend tests of the onnx package: a fixed sample of them, all with `--conformance`. What fails must be in
`expected_failures.txt`, and what is in it must fail.
"""

import os
import zlib

import pytest

from tests.conformance import expectations
from tests.conformance.families import NAMES

SAMPLE = 25
"""One test in so many belongs to the ordinary run; of the light models, which take a minute each, none."""


@pytest.fixture(scope="module")
def cases(request):
    from tests.conformance.cases import all_cases

    found = all_cases()
    assert len(found) >= 2033
    if request.config.getoption("--conformance"):
        return found
    return {
        name: case
        for name, case in found.items()
        if zlib.crc32(name.encode()) % SAMPLE == 0 and not name.startswith("light/")
    }


@pytest.mark.parametrize("family", NAMES)
def test_family(family, cases):
    from tests.conformance.running import run_cases

    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    results = run_cases([case for case in cases.values() if case.family == family], workers)
    found = expectations.surprises(results, expectations.read())
    assert not found, "\n".join(found)


def test_expected_failures_are_tests_of_the_suite():
    from tests.conformance.cases import all_cases

    expected = expectations.read()
    assert not expected.keys() - all_cases().keys()
    assert all(expected.values()), "an expected failure has its reason"


def test_every_element_type_that_onnxruntime_takes(request):
    from tests.conformance.element_types import compare

    if not request.config.getoption("--conformance"):
        pytest.skip("a minute; with --conformance")
    taken, wrong = compare()
    assert taken > 900
    assert not wrong, "\n".join(wrong)
