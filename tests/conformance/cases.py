"""The backend tests that the `onnx` package carries: 2,033 models with inputs and expected outputs."""

import json
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.conformance.families import WHOLE, family_of

_DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_GROUPS = ("simple", "light", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """One test: `name` is `group/test`, as in `node/test_relu`."""

    name: str
    family: str
    rtol: float
    atol: float
    source: Any
    """A `TestCase` with its model in memory, or the path of the model."""

    def model(self) -> onnx.ModelProto:
        """The model as it is published."""
        return onnx.load(self.source) if isinstance(self.source, Path) else self.source.model

    def data_sets(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs in the model's order."""
        if not isinstance(self.source, Path):
            for inputs, outputs in self.source.data_sets:
                yield [_value(x) for x in inputs], [_value(x) for x in outputs]
        elif self.name.startswith("light/"):
            yield _light_data(self.source)
        else:
            graph = self.model().graph
            for folder in sorted(self.source.parent.glob("test_data_set_*")):
                yield _read(folder, "input", graph.input), _read(folder, "output", graph.output)


def _value(item: Any) -> Any:
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def _read(folder: Path, role: str, declared: Any) -> list[Any]:
    values = []
    for index, info in enumerate(declared):
        path = folder / f"{role}_{index}.pb"
        if not path.exists():
            break
        data, kind = path.read_bytes(), info.type.WhichOneof("value")
        if kind == "sequence_type":
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif kind == "optional_type":
            values.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            values.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return values


def _light_data(path: Path) -> tuple[list[Any], list[Any]]:
    """The runner of `onnx` feeds these models a ramp."""
    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = []
    for info in graph.input:
        if info.name not in weights:
            shape = [max(dim.dim_value, 1) for dim in info.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    outputs = [
        numpy_helper.to_array(onnx.TensorProto.FromString(Path(f"{path.with_suffix('')}_output_{i}.pb").read_bytes()))
        for i in range(len(graph.output))
    ]  # fmt: skip
    return inputs, outputs


@cache
def all_cases() -> dict[str, Case]:
    """Every test by name. Takes 5 s: the node tests are computed, not stored."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = collect_testcases(None)
    plain = {case.name: _operators(case.model) for case in nodes}
    found = []
    for case in nodes:
        # An expanded test is the function body of the operator of the test it is named after.
        base = plain.get(case.name.split("_expanded")[0], plain[case.name])
        found.append(Case(f"node/{case.name}", family_of(base), case.rtol, case.atol, case))
    for group in _GROUPS:
        pattern = "light_*.onnx" if group == "light" else "*/model.onnx"
        for path in sorted((_DATA / group).glob(pattern)):
            test = path.stem if group == "light" else path.parent.name
            family = WHOLE if group == "light" else family_of(_operators(onnx.load(path)))
            rtol, atol = 1e-3, 1e-7
            settings = path.parent / "data.json"
            if group != "light" and settings.exists():
                given = json.loads(settings.read_text())
                rtol, atol = given.get("rtol", rtol), given.get("atol", atol)
            found.append(Case(f"{group}/{test}", family, rtol, atol, path))
    return {case.name: case for case in found}


def in_sample(name: str, one_in: int) -> bool:
    """Whether a test belongs to a fixed sample of one in so many."""
    return zlib.crc32(name.encode()) % one_in == 0


def _operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}
