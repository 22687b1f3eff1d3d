"""Hostile `.ir` files: what xDSL accepts or breaks down on is one error with its place, from both tools."""

import os
from functools import partial
from io import StringIO

import pytest
from hostile.box import Outcome, run_boxed

from stepwell.tools import stepwell, stepwell_opt


def function(body, arguments=""):
    return f"func.func @main({arguments}) {{\n{body}\n  func.return\n}}\n"


LOOPS = "%0 = arith.constant 0 : index\n%1 = arith.constant 1 : index\n"
BRANCH = "%c = arith.constant 1 : i32\ncf.br ^b({})\n^b({}):"
ACCEPTED_BY_XDSL = {
    "use before definition": function("%a = arith.addi %c, %c : i32\n%c = arith.constant 1 : i32"),
    "self use": function("%a = arith.addi %a, %a : i32"),
    "use out of a region": function(LOOPS + "scf.for %i = %0 to %1 step %1 { %v = arith.constant 1 : i32\n scf.yield }\n%w = arith.addi %v, %v : i32"),
    "no dominance": function("cf.cond_br %c, ^a, ^b\n^a:\n%v = arith.constant 1 : i32\ncf.br ^b\n^b:\n%w = arith.addi %v, %v : i32", "%c: i1"),
    "branch argument type": function(BRANCH.format("%c : i32", "%x: i64")),
    "branch argument count": function(BRANCH.format("%c, %c : i32, i32", "%x: i32")),
    "branch to the entry": '"func.func"() ({\n^a:\n  "cf.br"()[^a] : () -> ()\n}) {sym_name = "main", function_type = () -> ()} : () -> ()',
    "wide integer": function("", "%x: i99999999999"),
    "tensor of tensors": function("", "%x: tensor<2xtensor<2xf32>>"),
    "memref of functions": function("", "%x: memref<2x() -> ()>"),
    "empty vector": function("", "%x: vector<0xf32>"),
    "stride count": function("", "%x: memref<2x3xf32, strided<[1], offset: 0>>"),
    "layout rank": function("", "%x: memref<2x3xf32, affine_map<(d0) -> (d0)>>"),
    "resource of nothing": function("%x = arith.constant dense_resource<w_0> : tensor<4096xf32>\n%y = arith.constant dense_resource<> : tensor<2xf32>"),
    "resource blob": '{-# dialect_resources: { builtin: { w: "0xZZ" } } #-}',
    "while types": function("%r = scf.while (%a = %x) : (i32) -> i64 { %c = arith.constant 1 : i1\n scf.condition(%c) %a : i32 } do {\n^b(%b: i32): scf.yield %b : i32 }", "%x: i32"),
    "subview type": function("%s = memref.subview %x[0, 0] [2, 2] [1, 1] : memref<4x4xf32> to memref<3x2xf32, strided<[4, 1]>>", "%x: memref<4x4xf32>"),
    "extract rank": function('%i = arith.constant 0 : index\n%e = tensor.extract %x[%i] : tensor<4x4xf32>', "%x: tensor<4x4xf32>"),
    "empty dims": function("%e = tensor.empty() : tensor<?xf32>"),
    "slice out of range": function("%s = tensor.extract_slice %x[3, 0] [2, 4] [1, 1] : tensor<4x4xf32> to tensor<2x4xf32>", "%x: tensor<4x4xf32>"),
    "from_elements count": function("%s = tensor.from_elements %x, %x : tensor<3xf32>", "%x: f32"),
    "linalg body type": function("%r = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = [\"parallel\"]} outs(%x : tensor<4xf32>) {\n^b(%a: f64):\n linalg.yield %a : f64 } -> tensor<4xf32>", "%x: tensor<4xf32>"),
    "linalg map count": function("%r = linalg.generic {indexing_maps = [], iterator_types = [\"parallel\"]} outs(%x : tensor<4xf32>) {\n^b(%a: f32):\n linalg.yield %a : f32 } -> tensor<4xf32>", "%x: tensor<4xf32>"),
    "fill type": function("%r = linalg.fill ins(%v : f64) outs(%x : tensor<4xf32>) -> tensor<4xf32>", "%x: tensor<4xf32>, %v: f64"),
    "call arity": "llvm.func @g(i32) -> i32\nllvm.func @main(%x: i32) {\n  %r = llvm.call @g(%x, %x) : (i32, i32) -> i32\n  llvm.return\n}",
    "call of nothing": "llvm.func @main() {\n  llvm.call @g() : () -> ()\n  llvm.return\n}",
    "return type": "llvm.func @main(%x: i32) -> i64 {\n  llvm.return %x : i32\n}",
    "no terminator": '"func.func"() ({\n^a:\n  %c = "arith.constant"() {value = 1 : i32} : () -> i32\n}) {sym_name = "main", function_type = () -> ()} : () -> ()',
}  # fmt: skip
"""The 28 kinds of invalid IR that xDSL 0.74 accepts."""

BREAKS_XDSL = {
    "nested loops": function(LOOPS + "scf.for %i = %0 to %1 step %1 {\n" * 300 + "}\n" * 300),
    "nested modules": "module {\n" * 10_000 + "}\n" * 10_000,
    "nested attributes": 'module attributes {a = ' + "[" * 100_000 + "]" * 100_000 + "} {}",
    "nested types": function("", "%x: " + "tuple<" * 5000 + ">" * 5000),
    "nested parentheses": function("", "%x: memref<2xf32, affine_map<(d0) -> (" + "(" * 20_000 + "d0" + ")" * 20_000 + ")>>"),
    "many digits": function(f"%x = arith.constant {'9' * 1_000_000} : i32"),
    "block twice": '"func.func"() ({\n^a:\n  "func.return"() : () -> ()\n^a:\n  "func.return"() : () -> ()\n}) {sym_name = "main", function_type = () -> ()} : () -> ()',
    "predicate": function('%r = "arith.cmpi"(%x, %x) {predicate = 42 : i64} : (i32, i32) -> i1', "%x: i32"),
    "function type": '"func.func"() ({}) {sym_name = "main", function_type = i32} : () -> ()',
    "hex float": function("%x = arith.constant 0xFFFFFFFFFFFFFFFFFFFF : f32"),
    "floordiv 0": function("", "%x: memref<2xf32, affine_map<(d0) -> (d0 floordiv 0)>>"),
    "not affine": function("", "%x: memref<2x2xf32, affine_map<(d0, d1) -> (d0 * d1)>>"),
    "a splat of 4 TiB": function("%x = arith.constant dense<0> : tensor<1099511627776xi32>"),
    "aliases doubled": "\n".join(["!a0 = tuple<i32, i32>"] + [f"!a{i} = tuple<!a{i - 1}, !a{i - 1}>" for i in range(1, 41)]) + function("", "\n%x: !a40"),
    "open string": 'module attributes {a = "' + "x" * 200_000,
    "one long line": function("%x = " + "y" * 1_000_000),
    "not UTF-8": b"func.func @main() { // \xff\xfe\n func.return }",
    "NUL": b"func.func @main() {\0 func.return }",
    "a binary": bytes(range(256)) * 40,
    "unknown op": function("stepwell.bogus"),
    "unknown dialect": function('"no.such"() : () -> ()'),
    "extents of 2^62": function("", "%x: tensor<4611686018427387904x4611686018427387904xf32>"),
    "a vector of 2^40": function("", "%x: vector<1099511627776xf32>"),
    "rank 1000": function("", "%x: tensor<" + "1x" * 1000 + "f32>"),
    "target": "module attributes {stepwell.target = #stepwell.target<{cpu = 1}>} {}",
    "sidecar": 'module attributes {stepwell.resources = ["../../../../etc/passwd"]} {}',
}  # fmt: skip

ALL = ACCEPTED_BY_XDSL | BREAKS_XDSL
MAY_PASS = {"sidecar", "not affine", "floordiv 0", "NUL", "resource blob"}
"""Where no rule of the text itself is broken, an answer without an error is right too."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ir")
    runs = []

    def run(main, arguments):
        import stepwell.errors as errors

        said = StringIO()
        before = sorted(os.listdir(out))
        status = main(arguments, stdout=StringIO(), stderr=said)
        if status:
            assert sorted(os.listdir(out)) == before, "a file is left after a failure"
            kinds = {1: errors.Error, 2: errors.UnsupportedError, 3: errors.InternalError}
            raise kinds[status](said.getvalue())

    out = folder / "out"
    out.mkdir()
    for number, text in enumerate(ALL.values()):
        path = folder / f"{number}.ir"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        runs.append(
            partial(run, stepwell_opt.main, [str(path), "-p", "canonicalize", "-o", str(out / "o.ir")])
        )
        runs.append(
            partial(run, stepwell.main, ["compile", str(path), "--emit", "llvm", "-o", str(out / "c.ir")])
        )
    found = list(run_boxed(runs))
    return dict(zip(ALL, zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.parametrize("tool", [0, 1], ids=["stepwell-opt", "stepwell compile"])
@pytest.mark.parametrize("name", ALL)
def test_one_error_with_its_place(name, tool, outcomes):
    outcome: Outcome = outcomes[name][tool]
    assert not outcome.is_fault, outcome.text
    assert outcome.code == 1 or (name in MAY_PASS and outcome.code in (0, 2)), outcome
    assert len(outcome.text) < 1500 and outcome.text.strip().count("\n") <= 5, outcome.text
