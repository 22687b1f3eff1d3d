"""Small models written by hand in LLVM IR, built once for all tests of the runtime."""

import platform
from pathlib import Path

import numpy as np
import pytest

from stepwell.backends.cpu import build_library
from stepwell.targets import Target

MODULES = Path(__file__).parent / "modules"

SIGNATURES = {
    "affine": {
        "inputs": [{"name": "x", "dtype": "f32", "shape": ["batch", 4]}],
        "outputs": [{"name": "y", "dtype": "f32", "shape": ["batch", 4]}],
        "metadata": {"producer": "by hand", "quote": 'a "\\ ?? \u00e9'},
    },
    "rows": {
        "inputs": [{"name": "x", "dtype": "f32", "shape": ["n", 1000]}],
        "outputs": [{"name": "y", "dtype": "f32", "shape": ["n"]}],
    },
    "sums": {
        "inputs": [{"name": name, "dtype": "f32", "shape": ["n", 3]} for name in ("a", "b")],
        "outputs": [{"name": name, "dtype": "f32", "shape": ["n", 3]} for name in ("sum", "difference")],
    },
    "positives": {
        "inputs": [{"name": "x", "dtype": "f32", "shape": ["n"]}],
        "outputs": [{"name": "y", "dtype": "f32", "shape": ["positive"]}],
    },
    "values": {
        "inputs": [
            {"name": "s", "dtype": "f32", "shape": None, "kind": "sequence of tensor"},
            {"name": "x", "dtype": "f32", "shape": [3], "kind": "optional tensor"},
        ],
        "outputs": [
            {"name": "appended", "dtype": "f32", "shape": None, "kind": "sequence of tensor"},
            {"name": "count", "dtype": "i64", "shape": []},
        ],
    },
}
BIAS = np.array([10, 20, 30, 40], np.float32)
WEIGHTS = {"affine": [(0, np.zeros(3, np.int8)), (64, BIAS)]}


def baseline_target() -> Target:
    machine = platform.machine()
    cpu = "x86-64-v2" if machine == "x86_64" else "generic"
    return Target(
        name="baseline", triple=f"{machine}-unknown-linux-gnu", cpu=cpu, vector_bytes=16, vector_registers=16,
        l1_bytes=1 << 15, l2_bytes=1 << 20, l3_bytes=1 << 24, flops_per_ns=16.0, dram_bytes_per_ns=10.0,
        cache_bytes_per_ns=20.0, threads=2,
    )  # fmt: skip


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """`build(name, **options)`: the library of one module of `modules/`, built once per set of options."""
    folder, built = tmp_path_factory.mktemp("libraries"), {}

    def build_one(name: str, **options) -> Path:
        key = (name, *sorted(options.items()))
        if key not in built:
            path = folder / f"{name}{len(built)}.so"
            text = (MODULES / f"{name}.ll").read_text()
            build_library([text], WEIGHTS.get(name, []), SIGNATURES[name], baseline_target(), path, **options)
            built[key] = path
        return built[key]

    return build_one


@pytest.fixture(scope="session")
def signatures() -> dict:
    return SIGNATURES


@pytest.fixture(scope="session")
def target() -> Target:
    return baseline_target()
