"""The text of every stage of the whole models reads back, and stepwell-opt goes from each to the next."""

from io import StringIO

import onnx
import pytest
from llvm_modules import same_meaning

from stepwell.backends.llvm_ir import parse_llvm_ir, print_llvm_ir
from stepwell.compat import new_context
from stepwell.compiler import Compilation, Options
from stepwell.registry import DIALECTS
from tests.models import zoo
from tests.round_trip import check_round_trips


@pytest.mark.models
@pytest.mark.parametrize("name", [*zoo.LIGHT, *zoo.PACKAGED])
def test_every_level_is_text(name, tmp_path):
    if name in zoo.LIGHT:
        path = tmp_path / f"{name}.onnx"
        onnx.save(zoo.light(name), path)
    elif (path := zoo.packaged(name)) is None:
        pytest.skip(f"the package {zoo.PACKAGED[name][0]} is not installed")
    check_round_trips(path, tmp_path, Options(), ("llvm",))


@pytest.mark.models
@pytest.mark.parametrize("name", [*zoo.LIGHT, *zoo.PACKAGED])
def test_the_llvm_ir_reads_back(name):
    model = zoo.light(name) if name in zoo.LIGHT else zoo.packaged(name)
    if model is None:
        pytest.skip(f"the package {zoo.PACKAGED[name][0]} is not installed")
    compilation = Compilation(Options())
    compilation.read(model)
    module = compilation.lower_to("llvm")
    text = compilation.llvm_ir()
    again = parse_llvm_ir(text, new_context(DIALECTS))
    stream = StringIO()
    print_llvm_ir(again, stream)
    assert stream.getvalue() == text
    assert same_meaning(module, again)
