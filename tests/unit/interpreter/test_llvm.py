"""The llvm level on the interpreter: the same values as the level above, and errors where memory is misused."""

import numpy as np
import pytest
from small_models import MODELS
from xdsl.utils.exceptions import PassFailedException

from stepwell.compat import new_context, parse_module
from stepwell.compiler import Compilation, Options
from stepwell.errors import RunError
from stepwell.execution import interface_of, run_module, through_ll
from stepwell.interpreter import Machine, OutOfFuel, interpret_llvm
from stepwell.interpreter.llvm import native_of
from stepwell.registry import DIALECTS


@pytest.mark.parametrize("name", ["conv_net", "mlp_batch"])
def test_a_model_gives_the_same_at_llvm_and_as_text(name):
    compilation = Compilation(Options())
    compilation.read(MODELS[name]().SerializeToString())
    interface = interface_of(compilation.module)
    inputs = interface.random(0)
    want = run_module(compilation.lower_to("memref"), compilation.ctx, inputs)
    module = compilation.lower_to("llvm")
    got = run_module(module, compilation.ctx, inputs, interface)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-6)
    back = run_module(through_ll(module, compilation.ctx), compilation.ctx, inputs, interface)
    np.testing.assert_array_equal(back[0], got[0])


def call(body: str, *arguments: object, types: str = "", result: str = "i32") -> object:
    """What the llvm function with `body` returns."""
    text = f"llvm.func @f({types}) -> {result} {{\n{body}\n}}"
    ctx = new_context(DIALECTS)
    machine = Machine(parse_module(ctx, text), ctx)
    machine.fuel = 1000
    with np.errstate(all="ignore"):
        return native_of(machine).run(machine.functions["f"], list(arguments))[0]


@pytest.mark.parametrize(
    "op, a, b, want",
    [
        ("add", 2**31 - 1, 1, -(2**31)),
        ("sub", 3, 5, -2),
        ("mul", 1 << 20, 1 << 20, 0),
        ("udiv", -1, 2, 2**31 - 1),
        ("sdiv", -7, 2, -3),
        ("srem", -7, 2, -1),
        ("ashr", -8, 1, -4),
        ("lshr", -8, 1, 2**31 - 4),
    ],
)
def test_integers(op, a, b, want):
    body = f"%r = llvm.{op} %a, %b : i32\nllvm.return %r : i32"
    assert call(body, np.int32(a), np.int32(b), types="%a: i32, %b: i32") == want


@pytest.mark.parametrize("op, b", [("udiv", 0), ("srem", 0), ("sdiv", -1)])
def test_a_division_that_traps_is_an_error(op, b):
    body = f"%r = llvm.{op} %a, %b : i32\nllvm.return %r : i32"
    with pytest.raises(PassFailedException, match="ends the process"):
        call(body, np.int32(-(2**31)), np.int32(b), types="%a: i32, %b: i32")


_ROOM = "%n = llvm.mlir.constant(4 : i64) : i64\n%p = llvm.alloca %n x i32 : (i64) -> !llvm.ptr\n"


def test_memory_holds_what_was_written():
    body = f"""{_ROOM}%q = llvm.getelementptr %p[3] : (!llvm.ptr) -> !llvm.ptr, i32
    %v = llvm.mlir.constant(7 : i32) : i32
    llvm.store %v, %q {{alignment = 4 : i64}} : i32, !llvm.ptr
    %r = llvm.load %q {{alignment = 4 : i64}} : !llvm.ptr -> i32
    llvm.return %r : i32"""
    assert call(body) == 7


@pytest.mark.parametrize(
    "place, what", [(4, "leave the 16 of the buffer"), (-1, "no buffer has the address")]
)
def test_an_access_outside_of_its_buffer_is_an_error(place, what):
    body = f"""{_ROOM}%q = llvm.getelementptr %p[{place}] : (!llvm.ptr) -> !llvm.ptr, i32
    %r = llvm.load %q {{alignment = 4 : i64}} : !llvm.ptr -> i32
    llvm.return %r : i32"""
    with pytest.raises(PassFailedException, match=what):
        call(body)


def test_an_alignment_that_does_not_hold_is_an_error():
    body = f"""{_ROOM}%q = llvm.getelementptr %p[1] : (!llvm.ptr) -> !llvm.ptr, i32
    %r = llvm.load %q {{alignment = 16 : i64}} : !llvm.ptr -> i32
    llvm.return %r : i32"""
    with pytest.raises(PassFailedException, match="no multiple of its alignment 16"):
        call(body)


def test_a_loop_without_end_runs_out_of_fuel():
    with pytest.raises(OutOfFuel):
        call("llvm.br ^a\n^a:\nllvm.br ^a")


def test_a_module_without_a_host_says_so():
    ctx = new_context(DIALECTS)
    with pytest.raises(PassFailedException, match="no function @stepwell_main"):
        interpret_llvm(parse_module(ctx, "llvm.func @f() { llvm.return }"), [], ctx, [], [])
    assert issubclass(OutOfFuel, RunError)
