"""`docs/onnx-operators.md` says what compiles: held against the conformance results, and a sample is tried again."""

import sys
import zlib

import onnx
import onnxruntime
import pytest

from tests.conformance import expectations
from tests.docs.snippets import ROOT

sys.path.append(str(ROOT / "docs"))

from stepwell_docs import onnx_table

HINT = "write the page anew: PYTHONPATH=docs python -m stepwell_docs.onnx_table"
SAMPLE = 12
"""One operator in so many is tried in an ordinary run, all with `--conformance`."""


@pytest.fixture(scope="module")
def page():
    return onnx_table.read_page()


def test_every_operator_has_a_row(page):
    if onnx_table.written_with() != onnx.__version__:
        pytest.skip(f"the page was written with onnx {onnx_table.written_with()}, this is {onnx.__version__}")
    assert page.keys() == onnx_table.operators().keys(), HINT


def test_other_domains_are_those_of_the_importer():
    assert onnx_table.other_domains() in onnx_table.PAGE.read_text(encoding="utf-8"), HINT


def test_what_onnx_runtime_has_is_taken_or_refused_with_a_reason():
    """Every operator of the kernels of its CPU provider, as it lists them itself."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    from stepwell.frontends.onnx.classical import CLASSICAL
    from stepwell.frontends.onnx.contrib import CONTRIB, EXPERIMENTAL

    refused = {name for names in onnx_table.NOT_TAKEN.values() for name in names}
    taken = {
        "": onnx_table.operators().keys() | EXPERIMENTAL,
        "ai.onnx.ml": CLASSICAL,
        "com.microsoft": CONTRIB,
    }
    found: dict[str, set[str]] = {}
    for kernel in get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            found.setdefault(kernel.domain, set()).add(kernel.op_name)
    assert len(found["com.microsoft"]) > 50
    assert not found[""] - taken[""] - {"MemcpyFromHost", "MemcpyToHost"}  # never in a file
    assert not found["ai.onnx.ml"] - taken["ai.onnx.ml"].keys()
    assert not refused & taken["com.microsoft"].keys()
    if not onnxruntime.__version__.startswith(f"{onnx_table.ONNX_RUNTIME}."):
        pytest.skip(
            f"the list is of onnxruntime {onnx_table.ONNX_RUNTIME}, this is {onnxruntime.__version__}"
        )
    assert found["com.microsoft"] - taken["com.microsoft"].keys() == refused


def test_what_passes_the_conformance_suite_is_in_the_table(page):
    """Operator and element type of each of ONNX's tests that is not an expected failure."""
    failing = expectations.read()
    missing = set()
    for name, cases in onnx_table.cases().items():
        for case in cases:
            used = onnx_table.type_of(case.model, name)
            if f"node/{case.name}" not in failing and used is not None and used not in page.get(name, []):
                missing.add(f"{name} on {used} ({case.name})")
    assert not missing, f"{sorted(missing)} pass; {HINT}"


def test_what_is_in_the_table_is_not_refused_everywhere(page):
    """No operator of the table whose tests are all refused."""
    refused = {
        name for name, why in expectations.read().items() if why.startswith(("unsupported", "refused"))
    }
    for name, cases in onnx_table.cases().items():
        if page.get(name) and name not in onnx_table.MADE:
            passes = [case for case in cases if f"node/{case.name}" not in refused]
            assert passes, f"every test of {name} is refused; {HINT}"


@pytest.mark.slow
def test_a_sample_is_as_the_table_says(page, request):
    everything = request.config.getoption("--conformance")
    for name in onnx_table.operators():
        if name in page and (everything or zlib.crc32(name.encode()) % SAMPLE == 0):
            assert onnx_table.row_of(name).types == page[name], f"{name}; {HINT}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "onnx_type"), [("Transpose", "uint16"), ("ReduceMax", "bfloat16"), ("RoiAlign", "double")]
)
def test_what_reaches_the_tensor_level_becomes_a_library(name, onnx_type):
    import stepwell

    model = next(onnx_table.variants(name, onnx_type))
    assert stepwell.compile(model, cache=False).inputs


def test_a_refusal_is_found_and_named():
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.COMPLEX64, [2]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    refusal = onnx_table.refusal_of(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    )
    assert refusal is not None and "complex<f32>" in refusal
    assert f"| {refusal} |" in onnx_table.Row("Identity", [1], [], refusal).markdown()
