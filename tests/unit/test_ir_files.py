"""IR in files: what cannot be read or written is a `stepwell.Error`, and equal modules are equal texts."""

import numpy as np
import pytest

from stepwell.compat import new_context, parse_module
from stepwell.errors import CompileError, VerifyError
from stepwell.ir_files import read_module_file, write_module_file
from stepwell.registry import DIALECTS
from stepwell.resources import constant_attr

GOOD = "func.func @f(%x: index) -> index {\n  func.return %x : index\n}\n"


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"func.func @f() {", VerifyError, r"x\.ir:1:\d+: error: "),
        (b"func.func @f() -> i32 { func.return }", VerifyError, r"x\.ir:1:\d+: error: "),
        (b"\xff\xfe", CompileError, "not UTF-8"),
        (None, CompileError, r"x\.ir: cannot be read: No such file"),
    ],
)
def test_faults_of_the_file(tmp_path, data, kind, message):
    path = tmp_path / "x.ir"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(kind, match=message):
        read_module_file(path, new_context(DIALECTS))


def test_a_place_that_cannot_be_written(tmp_path):
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, GOOD)
    with pytest.raises(CompileError, match="cannot be written"):
        write_module_file(module, ctx, tmp_path / "none" / "x.ir")


def test_the_text_does_not_say_where_the_values_are(tmp_path):
    ctx = new_context(DIALECTS)
    attr = constant_attr(np.arange(100, dtype=np.float32), ctx)
    module = parse_module(ctx, f"func.func @f() {{\n  %w = arith.constant {attr}\n  func.return\n}}\n")
    write_module_file(module, ctx, tmp_path / "a.ir")
    other = new_context(DIALECTS)
    write_module_file(read_module_file(tmp_path / "a.ir", other), other, tmp_path / "b.ir")
    third = new_context(DIALECTS)
    write_module_file(read_module_file(tmp_path / "b.ir", third), third, tmp_path / "c.ir")
    texts = {(tmp_path / f"{name}.ir").read_text() for name in "abc"}
    assert len(texts) == 1
    assert (tmp_path / "c.safetensors").stat().st_size < 400 < (tmp_path / "a.safetensors").stat().st_size
    fourth = new_context(DIALECTS)
    read_module_file(tmp_path / "c.ir", fourth)
    assert len(fourth.resources.keys()) == 1
