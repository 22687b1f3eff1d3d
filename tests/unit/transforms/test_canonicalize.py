"""canonicalize, cse and dce keep the meaning of random programs, bit for bit."""

import random

import numpy as np
import pytest
from xdsl.dialects.builtin import IntegerAttr

from stepwell.compat import new_context, parse_module, print_module
from stepwell.interpreter import interpret
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS
from stepwell.transforms.canonicalize import canonicalize

CTX = new_context(DIALECTS)
BINARY = (
    "addi", "subi", "muli", "andi", "ori", "xori", "minsi", "maxsi", "minui", "maxui",
    "divui", "divsi", "remui", "remsi", "ceildivui", "ceildivsi", "floordivsi", "shli", "shrui", "shrsi",
)  # fmt: skip
GUARDED = ("divui", "divsi", "remui", "remsi", "ceildivui", "ceildivsi", "floordivsi")


def program(generator: random.Random, width: int) -> str:
    """Integer arithmetic with many constants, equal ops and a loop; no op that has no result."""
    kind = f"i{width}"
    lines = [f"func.func @f(%x: {kind}, %y: {kind}) -> ({kind}, {kind}) {{"]
    for value in (0, 1, 2, 3, -1, -7):
        lines.append(f"  %c{value % 100} = arith.constant {value} : {kind}")
    names = ["x", "y", "c0", "c1", "c2", "c3", "c99", "c93"]
    for index in range(24):
        op = generator.choice(BINARY)
        left = generator.choice(names)
        right = generator.choice(names)
        if op in GUARDED:
            right = generator.choice(["c1", "c2", "c3"])
        if op.startswith("sh"):
            right = generator.choice(["c0", "c1", "c2", "c3"])
        lines.append(f"  %v{index} = arith.{op} %{left}, %{right} : {kind}")
        names.append(f"v{index}")
    lines += [
        "  %i0 = arith.constant 0 : index",
        "  %i1 = arith.constant 1 : index",
        f"  %n = arith.constant {generator.randrange(3)} : index",
        f"  %r = scf.for %i = %i0 to %n step %i1 iter_args(%a = %{names[-1]}) -> ({kind}) {{",
        f"    %s = arith.addi %a, %{names[-2]} : {kind}",
        f"    scf.yield %s : {kind}",
        "  }",
        f"  func.return %r, %{names[-3]} : {kind}, {kind}",
        "}",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("passes", ["canonicalize", "cse", "dce", "cse,canonicalize,cse"])
@pytest.mark.parametrize("width", [8, 64])
def test_random_programs_keep_their_meaning(passes, width):
    stages = resolve_pipeline(passes)
    generator = random.Random(f"{passes} {width}")
    dtype = np.dtype(f"i{width // 8}")
    for _ in range(12):
        text = program(generator, width)
        ctx = new_context(DIALECTS)
        before, after = parse_module(ctx, text), parse_module(ctx, text)
        run_pipeline(ctx, after, stages, verify_each=True)
        for _ in range(4):
            arguments = [np.array(generator.choice([0, 1, -1, 5, -128, 127]), dtype) for _ in range(2)]
            want, got = (interpret(m, arguments, function="f", ctx=ctx) for m in (before, after))
            assert [int(v) for v in want] == [int(v) for v in got], f"{text}\n{print_module(after)}"


def test_canonicalize_has_nothing_left_to_do():
    generator = random.Random(3)
    for _ in range(10):
        module = parse_module(new_context(DIALECTS), program(generator, 32))
        canonicalize(module, CTX)
        assert not canonicalize(module, CTX), print_module(module)


def test_constants_are_in_the_signless_range():
    module = parse_module(
        new_context(DIALECTS),
        "func.func @f() -> i8 { %a = arith.constant -1 : i8 %b = arith.constant 1 : i8\n"
        "%c = arith.shrui %a, %b : i8 func.return %c : i8 }",
    )
    canonicalize(module, CTX)
    (constant,) = (op for op in module.walk() if op.name == "arith.constant")
    assert isinstance(value := constant.properties["value"], IntegerAttr) and value.value.data == 127
