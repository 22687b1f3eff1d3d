"""What a compilation may cost: seconds per operator, seconds and memory of whole models. Slow: only with --models."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.models import zoo

ROOT = Path(__file__).resolve().parents[2]

_MEASURED = """
import resource, sys, time
from pathlib import Path
from stepwell.compiler import Options, compile_to_file
begin = time.process_time()
done = compile_to_file(sys.argv[1], Path(sys.argv[2]), Options())
own = time.process_time() - begin
children = resource.getrusage(resource.RUSAGE_CHILDREN)
weights = sum(array.nbytes for _, array in done.weights())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(own + children.ru_utime + children.ru_stime, peak, weights)
"""


def measure(path: Path, folder: Path) -> tuple[float, int, int]:
    """CPU seconds (clang's included), peak bytes and bytes of weights of a compilation in a fresh process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "STEPWELL_CACHE_DIR": str(folder / "cache")}
    argv = [sys.executable, "-c", _MEASURED, str(path), str(folder / "out.so")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    seconds, peak, weights = done.stdout.split()
    return float(seconds), int(peak), int(weights)


def chain(length: int, operators: list[tuple[str, dict]], path: Path) -> Path:
    """A model of `length` operators, one after the other."""
    nodes = []
    for i in range(length):
        operator, attributes = operators[i % len(operators)]
        nodes.append(helper.make_node(operator, [f"v{i}"], [f"v{i + 1}"], **attributes))
    ends = [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [8, 8]) for i in (0, length)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.models
@pytest.mark.parametrize(
    "operators",
    [
        [("Relu", {}), ("Neg", {}), ("Abs", {}), ("Sigmoid", {})],
        [("Softmax", {"axis": -1}), ("Transpose", {"perm": [1, 0]})],
    ],
    ids=["fusible", "not-fusible"],
)
def test_time_grows_with_the_number_of_operators(operators, tmp_path):
    short, *_ = measure(chain(1000, operators, tmp_path / "short.onnx"), tmp_path)
    long, *_ = measure(chain(5000, operators, tmp_path / "long.onnx"), tmp_path)
    print(f"{short:.1f} s for 1,000 operators, {long:.1f} s for 5,000: {long / short:.1f}")
    assert long <= 6 * short, f"{long:.1f} s for 5,000 operators, {short:.1f} s for 1,000"


@pytest.mark.models
@pytest.mark.parametrize(("name", "limit_s"), [("resnet50", 20), ("vgg19", 60)])
def test_whole_models(name, limit_s, tmp_path):
    path = tmp_path / f"{name}.onnx"
    onnx.save(zoo.light(name), path)
    seconds, peak, weights = measure(path, tmp_path)
    print(f"{name}: {seconds:.1f} s of CPU, {peak / 1e6:.0f} MB for {weights / 1e6:.0f} MB of weights")
    assert seconds <= limit_s
    assert peak <= 3 * weights + 500e6, f"{peak / 1e6:.0f} MB for {weights / 1e6:.0f} MB of weights"
