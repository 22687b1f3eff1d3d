"""The repairs of xDSL: each holds, and each is still needed."""

import math
import random
import struct
from pathlib import Path

import pytest
from xdsl.context import Context
from xdsl.dialects import arith, builtin, func
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, UnknownLoc
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError
from xdsl.utils.lexer import Input
from xdsl.utils.mlir_lexer import MLIRLexer, MLIRTokenKind

from stepwell import compat
from stepwell.compat import _Lexer, new_context, parse_module, print_module
from stepwell.registry import DIALECTS


def context():
    return new_context(DIALECTS)


def upstream():
    ctx = Context()
    for dialect in (builtin.Builtin, func.Func, arith.Arith):
        ctx.load_dialect(dialect)
    return ctx


INFINITY = 'builtin.module { "test.op"() {v = dense<0xFF800000> : tensor<2xf32>} : () -> () }'
DECLARATION = "func.func private @g(i32 {a.b}, i32) -> (i32 {c.d = 1 : i32})"


def test_nan_and_infinity_survive_in_dense_attributes():
    for type, _size, code in (("f32", 4, "<I"), ("f64", 8, "<Q"), ("f16", 2, "<H"), ("bf16", 2, "<H")):
        for value in (math.inf, -math.inf, math.nan):
            element = getattr(builtin, type)
            raw = element.pack([value])
            (bits,) = struct.unpack(code, raw)
            for literal in (f"0x{bits:X}", f"[0x{bits:X}, 0x{bits:X}]"):
                text = f"arith.constant dense<{literal}> : tensor<2x{type}>"
                module = parse_module(context(), text)
                (constant,) = module.body.block.ops
                attr = constant.properties["value"]
                assert isinstance(attr, DenseIntOrFPElementsAttr) and attr.data.data == raw * 2
                again = parse_module(context(), print_module(module))
                assert again.is_structurally_equivalent(module)


def test_upstream_still_reads_dense_infinity_as_an_integer():
    ctx = upstream()
    ctx.allow_unregistered = True
    module = Parser(ctx, INFINITY).parse_module()
    (op,) = module.body.block.ops
    assert tuple(op.attributes["v"].get_values()) == (float(0xFF800000),) * 2, "remove compat._Element"


def test_declarations_keep_the_attributes_of_their_arguments():
    module = parse_module(context(), DECLARATION)
    text = print_module(module)
    assert "func.func private @g(i32 {a.b}, i32) -> (i32 {c.d = 1 : i32})" in text
    assert parse_module(context(), text).is_structurally_equivalent(module)
    generic = print_module(module, generic=True)
    assert parse_module(context(), generic).is_structurally_equivalent(module)


def test_upstream_still_drops_the_attributes_of_declarations():
    from io import StringIO

    (op,) = parse_module(context(), DECLARATION).body.block.ops
    out = StringIO()
    printer = Printer(out)
    compat._print_function_of_xdsl(op, printer)
    assert "a.b" not in out.getvalue(), "remove compat._print_function"


def test_every_op_and_argument_knows_its_place():
    text = """func.func @f(%x: i32,
    %y: i32) -> i32 {
  %a, %b = "test.two"() ({
  ^bb0(%z: i32):
    "test.end"() : () -> ()
  }) : () -> (i32, i32)
  func.return %a : i32
}
"""
    ctx = new_context(DIALECTS, allow_unregistered=True)
    module = parse_module(ctx, text, "f.ir")
    places = {}
    for op in module.walk():
        places[op.attributes["op_name__"].data if op.name == "builtin.unregistered" else op.name] = str(
            op.location
        )
        for region in op.regions:
            for block in region.blocks:
                for arg in block.args:
                    places[arg.name_hint] = str(arg.location)
    assert places == {
        "builtin.module": 'loc("f.ir":1:1)',
        "func.func": 'loc("f.ir":1:1)',
        "x": 'loc("f.ir":1:14)',
        "y": 'loc("f.ir":2:5)',
        "test.two": 'loc("f.ir":3:12)',
        "z": 'loc("f.ir":4:8)',
        "test.end": 'loc("f.ir":5:5)',
        "func.return": 'loc("f.ir":7:3)',
    }


def test_a_written_location_is_kept():
    module = parse_module(context(), '%a = arith.constant 1 : i32 loc("layer")', "f.ir")
    (op,) = module.body.block.ops
    assert str(op.location) == 'loc("layer")'
    text = print_module(module, debuginfo=True)
    assert print_module(parse_module(context(), text), debuginfo=True) == text


@pytest.mark.parametrize("name", ["caf\u00e9", '\u6f22\u5b57 "q" \\ \n', "plain"])
def test_strings_are_strings_in_any_script(name):
    import xdsl.dialects.builtin as builtin

    module = parse_module(context(), "module {}")
    module.attributes["said"] = builtin.StringAttr(name)
    module.location = builtin.NameLoc(builtin.StringAttr(name), builtin.UnknownLoc())
    again = parse_module(context(), print_module(module, debuginfo=True))
    assert again.attributes["said"] == builtin.StringAttr(name)
    assert again.location == module.location
    raw = parse_module(context(), 'module attributes {said = "\\FF\\FE"} {}').attributes["said"]
    assert raw == builtin.BytesAttr(b"\xff\xfe")


def test_upstream_still_leaves_locations_unknown():
    module = Parser(upstream(), "%a = arith.constant 1 : i32").parse_module()
    assert all(isinstance(op.location, UnknownLoc) for op in module.walk()), "remove the stamps"


def nested_ifs(depth):
    return "func.func @f(%c: i1) {\n" + "scf.if %c {\n" * depth + "}\n" * depth + "func.return }\n"


def test_nesting_up_to_the_limit_is_read_and_printed():
    from stepwell.verification import verify_module

    module = parse_module(context(), nested_ifs(200))
    verify_module(module)
    text = print_module(module)
    assert print_module(parse_module(context(), text)) == text


def test_deeper_regions_are_a_diagnostic():
    with pytest.raises(ParseError, match="nested more than 256 deep"):
        parse_module(context(), nested_ifs(10_000))


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_attributes(brackets):
    def text(depth):
        open, close = brackets
        item = open if open == "[" else "{a = "
        inner = "1"
        return f"module attributes {{x = {item * depth}{inner}{close * depth}}} {{ }}"

    module = parse_module(context(), text(900))
    assert print_module(parse_module(context(), print_module(module))) == print_module(module)
    with pytest.raises(ParseError, match="nested more than 1000 deep"):
        parse_module(context(), text(100_000))


def test_deep_types():
    with pytest.raises(ParseError, match="nested more than 1000 deep"):
        text = f"func.func private @f({'tuple<' * 50_000}i1{'>' * 50_000})"
        parse_module(context(), text)


def test_splats_are_quick_and_bounded():
    module = parse_module(context(), "arith.constant dense<1.5> : tensor<4000000xf32>")
    (op,) = module.body.block.ops
    assert len(op.properties["value"].data.data) == 16_000_000
    with pytest.raises(ParseError, match="use dense_resource"):
        parse_module(context(), "arith.constant dense<1.5> : tensor<1099511627776xf32>")


def test_resources_belong_to_one_context():
    import numpy as np

    a, b = context(), context()
    key = a.resources.add(np.arange(100))
    assert key in a.resources and key not in b.resources
    assert a.clone().resources is a.resources


def test_absent_modules_are_named_when_they_are_wanted():
    ctx = new_context({**DIALECTS, "nowhere": "stepwell.dialects.nowhere:NOWHERE"})
    parse_module(ctx, "func.func private @f()")
    with pytest.raises(compat.AbsentModuleError, match=r"stepwell\.dialects\.nowhere does not exist"):
        parse_module(ctx, '"nowhere.op"() : () -> ()')


def tokens(lexer: MLIRLexer) -> list[tuple]:
    """Kinds and places of all tokens, and what is wrong with the last."""
    found: list[tuple] = []
    try:
        while not found or found[-1][0] is not MLIRTokenKind.EOF:
            token = lexer.lex()
            found.append((token.kind, token.span.start, token.span.end))
    except ParseError as error:
        found.append((error.msg, error.span.start, error.span.end))
    return found


def test_tokens_are_those_of_xdsl():
    rng = random.Random(0)
    texts = [
        path.read_text() for path in sorted(Path(__file__).parents[1].joinpath("lit").rglob("*.ir"))[:40]
    ]
    signs = '{}()[]<>-#>!%^@"\\/\n\t .,:=+*?|0x1.5e-3$_aé²'
    texts += ["".join(rng.choices(signs, k=30)) for _ in range(3000)]
    for text in list(texts[:40]):
        for _ in range(5):
            at = rng.randrange(len(text))
            texts.append(text[max(0, at - 300) : at] + rng.choice(signs) + text[at + 1 : at + 300])
    for text in texts:
        assert tokens(_Lexer(Input(text, "t"))) == tokens(MLIRLexer(Input(text, "t"))), text


def test_types_are_read_once():
    text = """
    "a.b"() {a = tensor<2x3xf32>, b = [tensor<2x3xf32>, vector<4xf32>], c = memref<4xf32, affine_map<(d0) -> (d0)>>,
      d = memref<2x3xf32, strided<[3, 1], offset: ?>>, e = memref<2x3xf32, strided<[3, 1], offset: ?>>,
      f = memref<4xf32, affine_map<(d0) -> (-d0)>>, g = memref<4xf32, affine_map<(d0) -> (d0)>>, h = tensor<2x3xf32>} : () -> ()
    """
    op = parse_module(new_context(DIALECTS, True), text).body.block.first_op
    assert op is not None
    attributes = op.attributes
    assert attributes["a"] is attributes["h"] is attributes["b"].data[0]
    assert attributes["d"] is attributes["e"] and str(attributes["e"]) == str(attributes["d"])
    assert attributes["c"] is attributes["g"] and attributes["c"] != attributes["f"]
