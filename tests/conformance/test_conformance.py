"""
The backend tests of the onnx package: a fixed sample of them, all with `--conformance`; their variants with no extent
known and with all inputs but the first constant likewise, all with `--conformance=symbolic` and `--conformance=constant`.
What fails must be in the list of expected failures of its variant, and what is in it must fail.
"""

import os

import pytest

from tests.conformance import expectations
from tests.conformance.families import NAMES
from tests.conformance.running import Result
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_what_draws_without_a_seed_may_pass_by_chance(variant):
    from tests.conformance.cases import all_cases

    cases = all_cases()
    for name, reason in expectations.read(variant).items():
        nodes = cases[name].model().graph.node
        draws = [node for node in nodes if node.op_type in ("Bernoulli", "RandomUniformLike")]
        unseeded = any(all(a.name != "seed" for a in node.attribute) for node in draws)
        assert expectations.may_pass(reason) == unseeded, name


def test_surprises():
    """A pass is one where a failure is expected, unless it may pass by chance; a failure is one where it is not listed."""
    expected = {"listed": "wrong: a reason", "drawn": "wrong: may pass by chance"}

    def found(name, status):
        return expectations.surprises([Result(name, "random", status, "", 0.0)], expected)

    assert found("listed", "pass") == ["listed passes: take it off the list of expected failures"]
    assert not found("listed", "wrong") and not found("drawn", "wrong") and not found("drawn", "pass")
    assert found("other", "wrong") and not found("other", "pass")


def test_every_element_type_that_onnxruntime_takes(request):
    from tests.conformance.element_types import compare

    if request.config.getoption("--conformance") != PUBLISHED:
        pytest.skip("a minute; with --conformance")
    taken, wrong = compare()
    assert taken > 900
    assert not wrong, "\n".join(wrong)
