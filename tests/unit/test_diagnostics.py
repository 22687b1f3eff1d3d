"""What errors say: where, what, why, what to do."""

import pytest

from stepwell.compat import new_context, parse_module
from stepwell.diagnostics import compile_error, diagnose, exit_code_of, place_of, public_error, unsupported
from stepwell.errors import CompileError, InternalError, UnsupportedError, VerifyError
from stepwell.registry import DIALECTS


def op_with(location):
    text = f"func.func @f() {{\n  %a = arith.constant 1 : i32 {location}\n  func.return\n}}"
    module = parse_module(new_context(DIALECTS), text, "f.ir")
    return next(op for op in module.walk() if op.name == "arith.constant")


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("", "f.ir:2:8"),
        ('loc("g.ir":7:9)', "g.ir:7:9"),
        ('loc("Conv_12")', "Conv_12"),
        ('loc("Conv_12"("model.onnx":0:0))', "model.onnx: Conv_12"),
        ('loc(fused["Conv_12"("model.onnx":0:0), "Relu_13"("model.onnx":0:0)])', "model.onnx: Conv_12"),
        ('loc(fused["a.ir":1:2, "b.ir":3:4])', "a.ir:1:2"),
        ('loc(callsite("callee.ir":1:2 at "caller.ir":3:4))', "callee.ir:1:2"),
        ("loc(unknown)", "in @f"),
    ],
)
def test_the_place_is_the_users(location, place):
    op = op_with(location)
    if location == "loc(unknown)":
        from xdsl.dialects.builtin import UnknownLoc

        op.location = UnknownLoc()
    assert place_of(op) == place
    assert str(compile_error(op, "why", "fix")) == f"{place}: arith.constant: why; fix"


def test_the_source_line_is_shown():
    error = compile_error(op_with(""), "it is odd", "make it even")
    source = {"f.ir": "func.func @f() {\n  %a = arith.constant 1 : i32\n"}
    assert diagnose(error).render(source) == (
        "f.ir:2:8: error: arith.constant: it is odd; make it even\n  %a = arith.constant 1 : i32\n       ^"
    )
    assert diagnose(error).render() == "f.ir:2:8: error: arith.constant: it is odd; make it even"


def test_long_lines_are_cut_around_the_place():
    error = compile_error(op_with('loc("f.ir":1:100000)'), "why", "fix")
    rendered = diagnose(error).render({"f.ir": "x" * 1_000_000})
    assert len(rendered) < 600
    _, line, caret = rendered.split("\n")
    assert line[caret.index("^")] == "x"


def test_each_error_has_its_class_and_status():
    op = op_with("")
    for error, kind, status in (
        (compile_error(op, "a", "b"), CompileError, 1),
        (unsupported(op, "a", "b"), UnsupportedError, 2),
        (AssertionError("a"), InternalError, 3),
        (InternalError("a"), InternalError, 3),
    ):
        assert type(public_error(error)) is kind and exit_code_of(error) == status
    with pytest.raises(Exception) as caught:
        parse_module(new_context(DIALECTS), "func.func @f(", "f.ir")
    assert type(public_error(caught.value)) is VerifyError and exit_code_of(caught.value) == 1
