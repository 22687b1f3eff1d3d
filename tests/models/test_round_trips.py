"""The text of every stage of the whole models reads back, and stepwell-opt goes from each to the next."""

import onnx
import pytest

from stepwell.compiler import Options
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
