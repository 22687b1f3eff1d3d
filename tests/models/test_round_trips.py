"""The text of every stage of the whole models reads back, and stepwell-opt goes from each to the next."""

from io import StringIO
from pathlib import Path

import onnx
import pytest
from llvm_modules import same_meaning

from stepwell.backends.llvm_ir import parse_llvm_ir, print_llvm_ir
from stepwell.compat import new_context
from stepwell.compiler import Compilation, Options
from stepwell.registry import DIALECTS
from tests.models import zoo
from tests.round_trip import check_round_trips

NAMES = (*zoo.LIGHT, *zoo.PACKAGED, zoo.MINILM)


def model_file(name: str, folder: Path) -> Path:
    """The ONNX file of the model `name`; skips where a package is missing."""
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


@pytest.mark.models
@pytest.mark.parametrize("name", NAMES)
def test_every_level_is_text(name, tmp_path):
    check_round_trips(model_file(name, tmp_path), tmp_path, Options(), ("llvm",))


@pytest.mark.models
@pytest.mark.parametrize("name", NAMES)
def test_the_llvm_ir_reads_back(name, tmp_path):
    compilation = Compilation(Options())
    compilation.read(model_file(name, tmp_path))
    module = compilation.lower_to("llvm")
    text = compilation.llvm_ir()
    again = parse_llvm_ir(text, new_context(DIALECTS))
    stream = StringIO()
    print_llvm_ir(again, stream)
    assert stream.getvalue() == text
    assert same_meaning(module, again)
