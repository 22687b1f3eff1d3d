"""The rewrite driver: what it applies, in which order, and what it carries along."""

import ast
from pathlib import Path

import pytest
from xdsl.dialects import arith
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from stepwell.compat import new_context, parse_module, print_module
from stepwell.errors import InternalError
from stepwell.registry import DIALECTS
from stepwell.rewriting import rewrite

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """func.func @f(%x: i32, %y: i32) -> i32 {
  %a = arith.addi %x, %y : i32
  %b = arith.muli %a, %y : i32
  %c = arith.subi %b, %x : i32
  func.return %c : i32
}
"""


def module():
    return parse_module(new_context(DIALECTS), SOURCE, "f.ir")


class AddToXor(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: arith.AddiOp, rewriter: PatternRewriter):
        rewriter.replace(op, arith.XOrIOp(op.lhs, op.rhs))


class XorToAdd(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: arith.XOrIOp, rewriter: PatternRewriter):
        rewriter.replace(op, arith.AddiOp(op.lhs, op.rhs))


class AddToOr(RewritePattern):
    benefit = 2

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: arith.AddiOp, rewriter: PatternRewriter):
        rewriter.replace(op, arith.OrIOp(op.lhs, op.rhs))


class MergeMulIntoSub(RewritePattern):
    """Not a law; it only erases one op while it replaces another."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: arith.SubiOp, rewriter: PatternRewriter):
        if isinstance(product := op.lhs.owner, arith.MuliOp):
            rewriter.replace(op, arith.AndIOp(product.lhs, product.rhs))
            rewriter.erase(product)


class ForgetUsers(RewritePattern):
    """Leaves its operand's producer dead: the driver must not clean up behind it."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: arith.MuliOp, rewriter: PatternRewriter):
        rewriter.replace(op, [], [op.rhs])


def names(m):
    return [op.name for op in m.walk()][2:]


def test_rewrites_and_reports_whether_anything_changed():
    m = module()
    assert rewrite(m, [AddToXor()])
    assert names(m) == ["arith.xori", "arith.muli", "arith.subi", "func.return"]
    assert not rewrite(m, [AddToXor()])


def test_higher_benefit_goes_first():
    m = module()
    rewrite(m, [AddToXor(), AddToOr()])
    assert "arith.ori" in names(m)


def test_endless_rewriting_names_the_patterns():
    with pytest.raises(InternalError, match=r"does not end.*AddToXor.*XorToAdd|XorToAdd.*AddToXor"):
        rewrite(module(), [AddToXor(), XorToAdd()])


def test_a_new_op_takes_the_location_of_the_one_it_replaces():
    m = module()
    rewrite(m, [AddToXor()])
    assert '%a = arith.xori %x, %y : i32 loc("f.ir":2:8)' in print_module(m, debuginfo=True)


def test_merged_ops_have_a_fused_location():
    m = module()
    rewrite(m, [MergeMulIntoSub()])
    assert 'arith.andi %a, %y : i32 loc(fused["f.ir":4:8, "f.ir":3:8])' in print_module(m, debuginfo=True)


def test_dead_ops_stay():
    m = module()
    rewrite(m, [ForgetUsers()])
    assert names(m) == ["arith.addi", "arith.subi", "func.return"]


def test_patterns_without_annotation_see_every_op():
    seen = []

    class See(RewritePattern):
        def match_and_rewrite(self, op, rewriter):
            seen.append(op.name)

    rewrite(module(), [See()])
    assert seen == ["func.func", "arith.addi", "arith.muli", "arith.subi", "func.return"]


def test_op_class_attribute_selects_ops():
    seen = []

    class See(RewritePattern):
        op_class = (arith.MuliOp, arith.SubiOp)

        def match_and_rewrite(self, op, rewriter):
            seen.append(op.name)

    rewrite(module(), [See()])
    assert seen == ["arith.muli", "arith.subi"]


def test_the_stock_walker_is_used_nowhere():
    forbidden = {"PatternRewriteWalker", "GreedyRewritePatternApplier"}
    users = []
    for top in (
        "src/stepwell",
        "dialects",
        "interpreter",
        "transforms",
        "conversion",
        "frontends",
        "backends",
    ):
        for path in (ROOT / top).glob("*.py" if top.startswith("src") else "**/*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and forbidden & {alias.name for alias in node.names}:
                    users.append(str(path))
    assert users == []
