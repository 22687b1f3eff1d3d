"""What `stepwell new` writes: a plug-in that works, with its lit test, for the user to change."""

import keyword
import re
from pathlib import Path
from string import Template

from stepwell.errors import Error
from stepwell.files import write_atomically

_PASS = '''"""Drop what `graph.identity` stands for. (A start: put your own rewrite here.)"""

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from stepwell.dialects.graph import IdentityOp
from stepwell.rewriting import rewrite


# identity(x) == x
class DropIdentity(RewritePattern):
    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: IdentityOp, rewriter: PatternRewriter):
        rewriter.replace(op, [], [op.operands[0]])


@dataclass(frozen=True)
class ${camel}Pass(ModulePass):
    """
    Drop what `graph.identity` stands for.
    Requires: verified IR. Ensures: no `graph.identity` is left.
    """

    name = "$kebab"
    after: ClassVar[str] = "simplify-graph"
    keep: bool = False
    """Change nothing: an option, such as `-p '$kebab{keep}'`."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if not self.keep:
            rewrite(op, [DropIdentity()])
'''

_PASS_TEST = """// What comes out; and that @main computes the same values on random inputs, rewrite by rewrite.
// RUN: stepwell-opt %s --load-pass %S/$snake.py -p $kebab | filecheck %s
// RUN: stepwell-opt %s --load-pass %S/$snake.py -p $kebab --bisect-rewrites

// CHECK-LABEL: @main
// CHECK-SAME:    %[[X:.*]]: tensor<2xf32>
// CHECK-NEXT:    func.return %[[X]]
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %a = graph.identity %x : (tensor<2xf32>) -> tensor<2xf32>
  func.return %a : tensor<2xf32>
}
"""

_OP = '''"""
The operator `$camel` of the ONNX domain `example`. (A start: x * x; put your own operator here.)

    stepwell compile model.onnx --load-pass $snake.py
"""

import numpy as np
from xdsl.ir import SSAValue
from xdsl.irdl import operand_def, result_def

from stepwell.conversion.graph_to_linalg.elementwise import elementwise
from stepwell.conversion.graph_to_linalg.lowering import Lowering, lowers
from stepwell.dialects.graph.core import TENSOR, operator
from stepwell.dialects.graph.elementwise import UnaryOp
from stepwell.interpreter.graph.evaluation import evaluates


@operator
class ${camel}Op(UnaryOp):
    """`x * x`. Shape and element type (a float) are those of `x`."""

    ONNX_DOMAIN = "example"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)


@evaluates("$op")
def _meaning(op: ${camel}Op, x: np.ndarray) -> np.ndarray:
    return x * x


@lowers("$op")
def _lowering(low: Lowering, op: ${camel}Op) -> SSAValue:
    return elementwise(low, op, lambda x: x * x)
'''

_OP_TEST = """// What the op means, and what it is lowered to.
// RUN: stepwell-opt %s --load-pass %S/$snake.py -p fold-constants | filecheck %s --check-prefix=MEANS
// RUN: stepwell-opt %s --load-pass %S/$snake.py -p graph-to-linalg | filecheck %s --check-prefix=LOWERS

// MEANS-LABEL:  @of_a_constant
// MEANS-NEXT:     graph.constant dense<[9.000000e+00, 4.000000e+00]>
// LOWERS-LABEL: @of_a_constant
func.func @of_a_constant() -> tensor<2xf32> {
  %c = graph.constant dense<[-3.0, 2.0]> : tensor<2xf32>
  %y = graph.$op %c : (tensor<2xf32>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}

// LOWERS-LABEL: @of_an_argument
// LOWERS:         linalg.generic
// LOWERS:         %[[P:.*]] = arith.mulf %[[X:.*]], %[[X]]
// LOWERS-NEXT:    linalg.yield %[[P]]
func.func @of_an_argument(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %y = graph.$op %x : (tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
"""

_TARGET = '''"""
The machine `$kebab`. (A start: x86-64-v3 with other caches; put your own figures here.)

    stepwell compile model.onnx --load-pass $snake.py --target $kebab
"""

from dataclasses import replace

from stepwell.targets import resolve_target

$constant = replace(
    resolve_target("x86-64-v3"),
    name="$kebab",
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    l3_bytes=4 << 20,
)
'''

_TARGET_TEST = """// RUN: stepwell-opt %s --load-pass %S/$snake.py -p 'set-target{target=$kebab}' | filecheck %s

// CHECK: name = "$kebab"
// CHECK-SAME: l2_bytes = 1048576
func.func @main() {
  func.return
}
"""

_RULES = """// Rewrite rules. (A start: put your own here; the language is described in docs/rules.md.)

after simplify-graph

// neg(neg(x)) == x
rule $kebab-double-negation
  match   graph.neg(graph.neg(x))
  rewrite x
"""

_RULES_TEST = """// RUN: stepwell-opt --check-rules %S/$snake.pat
// RUN: stepwell-opt %s --load-pass %S/$snake.pat -p $kebab | filecheck %s

// CHECK-LABEL: @a_pair_vanishes
// CHECK-SAME:    %[[X:.*]]: tensor<2xf32>
// CHECK-NEXT:    func.return %[[X]]
func.func @a_pair_vanishes(%x: tensor<2xf32>) -> tensor<2xf32> {
  %a = graph.neg %x : (tensor<2xf32>) -> tensor<2xf32>
  %b = graph.neg %a : (tensor<2xf32>) -> tensor<2xf32>
  func.return %b : tensor<2xf32>
}
"""

_KINDS = {
    "pass": ("py", _PASS, _PASS_TEST),
    "op": ("py", _OP, _OP_TEST),
    "target": ("py", _TARGET, _TARGET_TEST),
    "rules": ("pat", _RULES, _RULES_TEST),
}
KINDS = tuple(_KINDS)
"""What `stepwell new` can begin."""


def write_skeleton(kind: str, name: str, directory: Path) -> list[Path]:
    """Write a plug-in called `name` and its lit test into `directory`; the files. Nothing is overwritten."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise Error(f"new {kind} {name}: a name is words in lower case joined by '-', such as drop-logs")
    ending, text, test = _KINDS[kind]
    camel = "".join(word.capitalize() for word in name.split("-"))
    snake = name.replace("-", "_")
    words = {
        "kebab": name,
        "snake": snake,
        "camel": camel,
        "constant": snake.upper(),
        "op": _op_name(kind, name, camel),
    }
    files = {directory / f"{snake}.{ending}": text, directory / f"{snake}.ir": test}
    for path in files:
        if path.exists():
            raise Error(f"{path}: exists already; choose another name, or another directory with -o")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            write_atomically(path, Template(content).substitute(words).encode())
    except OSError as error:
        raise Error(
            f"{directory}: cannot be written: {error.strerror}; choose another place with -o"
        ) from error
    return list(files)


def _op_name(kind: str, name: str, camel: str) -> str:
    """The name of a new op by the law of names; what is there already is refused."""
    from stepwell.registry import PASSES

    if kind in ("pass", "rules") and name in PASSES:
        raise Error(f"new {kind} {name}: there is such a pass already; choose another name")
    if kind == "target":
        from stepwell.targets import target_names

        if name in target_names():
            raise Error(f"new target {name}: there is such a target already; choose another name")
    if kind != "op":
        return ""
    from stepwell.dialects.graph import ONNX_NAMES, snake_case

    if camel in ONNX_NAMES or f"graph.{snake_case(camel)}" in {cls.name for cls in ONNX_NAMES.values()}:
        raise Error(f"new op {name}: there is such an op already; choose another name")
    return snake_case(camel)
