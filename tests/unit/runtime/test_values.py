"""Sequences and optionals in and out of a library, through a model written by hand in LLVM IR."""

import numpy as np
import pytest

from stepwell.errors import RunError
from stepwell.runtime.model import load


@pytest.fixture(scope="module")
def model(build):
    return load(build("values"), threads=1, poison=True)


def _ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1


def _same(got: list, want: list) -> None:
    assert [g.shape for g in got] == [w.shape for w in want]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w)


def test_lists_and_none(model):
    elements = [_ramp(2, 2), _ramp(), _ramp(0, 3), _ramp(5)]
    result = model.run({"s": elements, "x": _ramp(3)})
    _same(result["appended"], [*elements, _ramp(3)])
    assert result["count"] == 5 and result["count"].dtype == np.int64
    same, count = model(elements, None)
    _same(same, elements)
    assert count == 4
    empty, count = model([], None)
    assert empty == [] and count == 0


def test_strided_and_fed_back(model):
    strided = _ramp(4, 6)[::2, ::-3]
    (appended, _) = model([strided, strided.T], _ramp(3))
    _same(appended, [strided, strided.T, _ramp(3)])
    for count in range(4, 12):
        appended, got = model(appended, _ramp(3))
        assert got == count
    _same(appended, [strided, strided.T, *[_ramp(3)] * 9])


def test_signature_of_values(model):
    assert [info.kind for info in model.inputs] == ["sequence of tensor", "optional tensor"]
    assert [info.shape for info in model.inputs] == [None, (3,)]
    assert "sequence of float32[...]" in repr(model) and "optional float32[3]" in repr(model)


@pytest.mark.parametrize(
    ("s", "x", "message"),
    [
        (_ramp(3), None, "input 's': a ndarray, expected a list of arrays"),
        (None, None, "input 's': None, expected a list"),
        ([_ramp(2), 3.0], None, r"input 's\[1\]': a float, expected an array"),
        ([_ramp(2).astype(np.int32)], None, r"input 's\[0\]': dtype int32, expected float32"),
        ([], _ramp(4), "input 'x': axis 0 has the extent 4, expected 3"),
        ([], _ramp(3, 1), "input 'x': rank 2, expected 1"),
        ([None], None, r"input 's\[0\]': None, expected an array"),
    ],
)  # fmt: skip
def test_what_is_refused(model, s, x, message):
    with pytest.raises(RunError, match=message):
        model(s, x)
