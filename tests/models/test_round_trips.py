"""The text of every stage of the whole models reads back, and stepwell-opt goes from each to the next."""

import os
from functools import lru_cache
from io import StringIO
from pathlib import Path

import onnx
import pytest
from llvm_modules import llvm_tool, same_meaning
from xdsl.dialects.builtin import ModuleOp

from benchmarks.zoo import MODELS as BUILT
from stepwell.backends.llvm_ir import parse_llvm_ir, print_llvm_ir
from stepwell.compat import new_context
from stepwell.compiler import Compilation, Options
from stepwell.registry import DIALECTS
from tests.models import zoo
from tests.round_trip import check_round_trips

BENCH_DIR = os.environ.get("STEPWELL_BENCH_DIR")
NAMES = (*zoo.LIGHT, *zoo.PACKAGED, zoo.MINILM, *(f"built_{name}" for name in BUILT))


def model_file(name: str, folder: Path) -> Path:
    """The ONNX file of the model `name`; skips where a package is missing, or no benchmark has built it."""
    if name.startswith("built_"):
        path = Path(BENCH_DIR or "") / f"{name.removeprefix('built_')}.onnx"
        if BENCH_DIR is None or not path.exists():
            pytest.skip(f"needs {path.name} in $STEPWELL_BENCH_DIR; python -m benchmarks.compare builds it")
        return path
    if missing := zoo.missing_for(name):
        pytest.skip(f"needs the package {', '.join(missing)}")
    path = folder / f"{name}.onnx"
    if name in zoo.LIGHT:
        onnx.save(zoo.light(name), path)
    elif name == zoo.MINILM:
        path.write_bytes(zoo.minilm())
    else:
        found = zoo.packaged(name)
        assert found is not None, f"the package {zoo.PACKAGED[name][0]} does not hold {zoo.PACKAGED[name][1]}"
        path = found
    return path


@lru_cache(maxsize=1)
def lowered(name: str, file: Path) -> tuple[ModuleOp, str]:
    """The model in `file` at the llvm level, and its LLVM IR; the tests of one model come one after the other."""
    compilation = Compilation(Options())
    compilation.read(file)
    return compilation.lower_to("llvm"), compilation.llvm_ir()


@pytest.fixture(scope="module")
def model(name, tmp_path_factory):
    return model_file(name, tmp_path_factory.mktemp(name))


models = pytest.mark.parametrize("name", NAMES, scope="module")


@pytest.mark.models
@models
def test_every_level_is_text(name, model, tmp_path):
    check_round_trips(model, tmp_path, Options(), ("llvm",))


@pytest.mark.models
@models
def test_the_llvm_ir_reads_back(name, model):
    module, text = lowered(name, model)
    again = parse_llvm_ir(text, new_context(DIALECTS))
    stream = StringIO()
    print_llvm_ir(again, stream)
    assert stream.getvalue() == text
    assert same_meaning(module, again)


@pytest.mark.models
@models
@pytest.mark.parametrize("opt", ["opt-22", "opt-19"])
def test_llvms_old_and_new_verify_the_llvm_ir(name, opt, model):
    _, text = lowered(name, model)
    llvm_tool(opt, text, "-passes=verify", "-disable-output")
