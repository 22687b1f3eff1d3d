"""
Code for other machines gives the right values: for AVX2, run here, and for AArch64, run under emulation. A fixed sample of
the backend tests of onnx whose kernels depend on vectors and registers, all of them with `--conformance`.
"""

import os
import platform
import re

import numpy as np
import pytest

from stepwell.compiler import Compilation, Options
from tests import foreign
from tests.small_models import MODELS

pytestmark = pytest.mark.slow
_SAMPLE = 40
_VECTOR_WORK = re.compile(
    "node/.*(conv|matmul|gemm|softmax|attention|resize|lstm|gru|rnn|qlinear|quantize|integer|pool|norm|bf16)"
)
_AVX2, _ARM = "x86-64-v3", foreign.FOREIGN_TARGET
_REGISTERS = {_AVX2: (r"\bymm\d", r"\bzmm\d|%k[0-7]"), _ARM: (r"\bfmla\s+v\d+\.4s", r"\bz\d+\.s|\bsdot\b")}
"""What the code of a target must use, and what the machine has not: 512 bits and masks, SVE and dot products."""


@pytest.fixture(params=[_AVX2, _ARM])
def target(request):
    if request.param == _ARM and (why := foreign.missing()):
        pytest.skip(why)
    if request.param == _AVX2 and platform.machine() != "x86_64":
        pytest.skip("no x86-64 machine")
    return request.param


def test_backend_tests(target, request):
    from tests.conformance import expectations
    from tests.conformance.cases import all_cases, in_sample
    from tests.conformance.running import run_cases

    one_in = 1 if request.config.getoption("--conformance") else _SAMPLE
    cases = [
        case
        for name, case in all_cases().items()
        if _VECTOR_WORK.match(name)
        and in_sample(name, one_in)
        and (target != _ARM or foreign.tensors_only(case.model()))
    ]
    assert cases
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    results = run_cases(cases, workers, limit=180.0, target=target)
    found = expectations.surprises(results, expectations.read("published"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", MODELS)
def test_small_models(target, name):
    import stepwell

    onnxruntime = pytest.importorskip("onnxruntime")
    proto = MODELS[name]()
    shape = [dim.dim_value or 5 for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    inputs = {"x": np.random.default_rng(2).standard_normal(shape).astype(np.float32)}
    if target == _ARM:
        model = foreign.ForeignModel(proto, threads=2)
    else:
        model = stepwell.compile(proto, target=target, cache=False, threads=2)
    (want,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)
    np.testing.assert_allclose(model.run(inputs)["y"], want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["conv_net", "mlp_batch"])
def test_registers_are_those_of_the_target(target, name):
    compilation = Compilation(Options(target=target))
    compilation.read(MODELS[name]())
    compilation.lower_to("llvm")
    assembly = compilation.native_text("asm")
    used, absent = _REGISTERS[target]
    assert re.search(used, assembly)
    assert not re.search(absent, assembly)
