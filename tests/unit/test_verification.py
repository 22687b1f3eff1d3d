"""What is valid and what is not: each rule once, with the message that a user sees."""

import pytest

from stepwell.compat import new_context, parse_module
from stepwell.diagnostics import InvalidIR, diagnose
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module


def verify(text):
    module = parse_module(new_context(DIALECTS), text, "t.ir")
    verify_module(module)
    return module


def in_function(body, arguments=""):
    return f"func.func @f({arguments}) {{\n{body}\nfunc.return }}"


VALID = {
    "a loop with nested uses": in_function(
        """%0 = arith.constant 0 : index
        %1 = arith.constant 1 : index
        %r = scf.for %i = %0 to %n step %1 iter_args(%a = %0) -> (index) {
          %b = arith.addi %a, %i : index
          scf.yield %b : index
        }
        %s = arith.addi %r, %r : index""",
        "%n: index",
    ),
    "a value that dominates through a diamond": in_function(
        """%0 = arith.constant 0 : index
        cf.cond_br %c, ^a, ^b
      ^a:
        cf.br ^d(%0 : index)
      ^b:
        cf.br ^d(%0 : index)
      ^d(%x: index):
        %y = arith.addi %x, %0 : index""",
        "%c: i1",
    ),
    "functions in any order": """
      func.func @a() { func.call @b() : () -> ()
        func.return }
      func.func @b() { func.return }""",
    "a slice that drops an axis": in_function(
        "%s = tensor.extract_slice %t[1, 0] [1, 6] [1, 1] : tensor<4x6xf32> to tensor<6xf32>",
        "%t: tensor<4x6xf32>",
    ),
    "a dynamic slice": in_function(
        "%s = tensor.extract_slice %t[%n, 0] [%n, 6] [1, 1] : tensor<?x6xf32> to tensor<?x6xf32>",
        "%t: tensor<?x6xf32>, %n: index",
    ),
}

ONE = "%c = arith.constant 1 : i32\n"
PAD = """%p = tensor.pad %t low[{low}] high[0] {{
        ^bb0(%i: index):
          tensor.yield {yielded}
        }} : tensor<4xf32> to tensor<5xf32>"""
INVALID = {
    "use before definition": (
        in_function(f"%a = arith.addi %c, %c : i32\n{ONE}"),
        "%c does not dominate this use",
    ),
    "use of itself": (
        'func.func @f() { %a = "arith.addi"(%a, %a) : (i32, i32) -> i32\nfunc.return }',
        "%a does not dominate",
    ),
    "use of a value of another block": (
        in_function(
            "cf.cond_br %p, ^a, ^b\n^a:\n%c = arith.constant 1 : i32\ncf.br ^b\n^b:\n%d = arith.addi %c, %c : i32",
            "%p: i1",
        ),
        "%c does not dominate",
    ),
    "use out of a region": (
        'func.func @f(%p: i1) {\n"scf.if"(%p) ({\n%c = arith.constant 1 : i32\n"scf.yield"() : () -> ()\n}, {}) :'
        " (i1) -> ()\n%d = arith.addi %e, %e : i32\n%e = arith.constant 1 : i32\nfunc.return }",
        "%e does not dominate",
    ),
    "branch arguments: count": (
        in_function("cf.br ^a(%c : i32)\n^a:", "%c: i32"),
        "has 1 branch arguments, wanted 0",
    ),
    "branch arguments: type": (
        in_function("cf.br ^a(%c : i32)\n^a(%x: i64):", "%c: i32"),
        "branch arguments 0 is i32, wanted i64",
    ),
    "conditional branch arguments": (
        in_function("cf.cond_br %p, ^a(%p : i1), ^b\n^a(%x: i64):\ncf.br ^b\n^b:", "%p: i1"),
        "branch arguments 0 is i1, wanted i64",
    ),
    "branch to the entry": (
        'func.func @f() {\n"test"() ({\n^a:\n"cf.br"()[^a] : () -> ()\n}) : () -> ()\nfunc.return }',
        "entry block",
    ),
    "huge integers": (in_function('%a = "t"() : () -> i99999999999'), "i99999999999 is wider than"),
    "vector of no elements": (in_function('%a = "t"() : () -> vector<0xf32>'), "not positive"),
    "tensor of tensors": (
        in_function('%a = "t"() : () -> tensor<2xtensor<2xf32>>'),
        "cannot hold elements of type tensor<2xf32>",
    ),
    "memref of functions": (
        in_function('%a = "t"() : () -> memref<2x() -> ()>'),
        "cannot hold elements of type () -> ()",
    ),
    "strides and rank": (
        in_function("", "%m: memref<4x4xf32, strided<[1]>>"),
        "has rank 2 but 1 strides",
    ),
    "layout map and rank": (
        in_function("", "%m: memref<4x4xf32, affine_map<(d0) -> (d0)>>"),
        "layout of 1 dims",
    ),
    "while: forwarded types": (
        in_function(
            """%r = "scf.while"(%x) ({
            ^a(%a: i32):
              "scf.condition"(%p, %a) : (i1, i32) -> ()
            }, {
            ^b(%b: i64):
              "scf.yield"(%x) : (i32) -> ()
            }) : (i32) -> i32""",
            "%x: i32, %p: i1",
        ),
        "expected i32, got i64",
    ),
    "extract: rank": (
        in_function('%a = "tensor.extract"(%t, %i) : (tensor<2x2xf32>, index) -> f32', "%t: tensor<2x2xf32>, %i: index"),
        "has 1 indices for rank 2",
    ),
    "empty: sizes": (
        in_function('%a = "tensor.empty"() : () -> tensor<?xf32>'),
        "has 0 sizes, wanted 1",
    ),
    "slice out of range": (
        in_function(
            "%s = tensor.extract_slice %t[2, 0] [3, 6] [1, 1] : tensor<4x6xf32> to tensor<3x6xf32>", "%t: tensor<4x6xf32>"
        ),
        "element 4 of the slice is outside the extent 4",
    ),
    "slice with a wrong result": (
        in_function(
            "%s = tensor.extract_slice %t[0, 0] [3, 6] [1, 1] : tensor<4x6xf32> to tensor<6xf32>", "%t: tensor<4x6xf32>"
        ),
        "slice of sizes 3x6 cannot have the extents 6",
    ),
    "pad: extent": (
        in_function(PAD.format(low=2, yielded="%x : f32"), "%t: tensor<4xf32>, %x: f32, %y: f64"),
        "axis 0: 2 + 4 + 0 elements cannot have the extent 5",
    ),
    "pad: operands": (
        in_function(
            PAD.format(low=-(1 << 63), yielded="%x : f32").replace("5xf32", "?xf32"), "%t: tensor<4xf32>, %x: f32, %y: f64"
        ),
        "has 0 low paddings that the run knows, wanted 1",
    ),
    "pad: value": (
        in_function(PAD.format(low=1, yielded="%y : f64"), "%t: tensor<4xf32>, %x: f32, %y: f64"),
        "yielded values 0 is f64, wanted f32",
    ),
    "get_global: symbol": (
        in_function("%a = memref.get_global @weights : memref<4xf32>"),
        "@weights is not defined",
    ),
    "get_global: type": (
        'memref.global "private" @w : memref<4xf32> = uninitialized\n'
        + in_function("%a = memref.get_global @w : memref<5xf32>"),
        "results 0 is memref<5xf32>, wanted memref<4xf32>",
    ),
    "from_elements: count": (
        in_function('%a = "tensor.from_elements"(%x) : (f32) -> tensor<2xf32>', "%x: f32"),
        "has 1 elements, wanted 2",
    ),
    "generic: body": (
        in_function(
            """%a = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
              iterator_types = ["parallel"]} ins(%t : tensor<4xf32>) outs(%t : tensor<4xf32>) {
            ^bb0(%p: f64, %q: f32):
              linalg.yield %q : f32
            } -> tensor<4xf32>""",
            "%t: tensor<4xf32>",
        ),
        "(f64)",
    ),
    "fill: type": (
        in_function(
            '"linalg.fill"(%x, %t) <{operandSegmentSizes = array<i32: 1, 1>}> ({\n^bb0(%a: f64, %b: f32):\n'
            '"linalg.yield"(%b) : (f32) -> ()\n}) : (f64, tensor<4xf32>) -> tensor<4xf32>',
            "%x: f64, %t: tensor<4xf32>",
        ),
        "",
    ),
    "llvm.return: type": (
        "llvm.func @f(%a: i32) -> i64 {\nllvm.return %a : i32\n}",
        "returned values 0 is i32, wanted i64",
    ),
    "compare predicate": (
        in_function('%a = "arith.cmpi"(%x, %x) <{predicate = 42 : i64}> : (i32, i32) -> i1', "%x: i32"),
        "predicate 42 must be 0 to 9",
    ),
    "a terminator in the middle": (
        "func.func @f() {\nfunc.return\nfunc.return\n}",
        "terminator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", VALID.values(), ids=VALID.keys())
def test_accepts(text):
    verify(text)


@pytest.mark.parametrize(("text", "message"), INVALID.values(), ids=INVALID.keys())
def test_refuses(text, message):
    module = parse_module(new_context(DIALECTS, allow_unregistered=True), text, "t.ir")
    with pytest.raises(InvalidIR) as caught:
        verify_module(module)
    assert message in str(caught.value)
    assert str(caught.value).startswith("t.ir:"), "the place is named"


def test_the_message_shows_the_line():
    text = (
        "func.func @f() {\n  %a = arith.addi %c, %c : i32\n  %c = arith.constant 1 : i32\n  func.return\n}\n"
    )
    with pytest.raises(InvalidIR) as caught:
        verify(text)
    assert diagnose(caught.value).render({"t.ir": text}) == (
        "t.ir:2:8: error: arith.addi: %c does not dominate this use: it is defined later or in another region\n"
        "  %a = arith.addi %c, %c : i32\n"
        "       ^"
    )
