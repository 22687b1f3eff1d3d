"""
A plug-in in one file: the operator `SquaredRelu` of the ONNX domain `example`, which the compiler does not know.

    stepwell compile model.onnx --load-pass squared_relu.py

It has a class (what can be said), a meaning on numpy (what the interpreter and constant folding compute), a lowering
(what the compiled model computes), and rewrite rules, which a pass applies behind `simplify-graph` in every pipeline.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.irdl import operand_def, result_def
from xdsl.passes import ModulePass

from stepwell.conversion.graph_to_linalg.elementwise import elementwise
from stepwell.conversion.graph_to_linalg.lowering import Lowering, lowers
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.dialects.graph.core import TENSOR, operator
from stepwell.dialects.graph.elementwise import UnaryOp
from stepwell.interpreter.graph.evaluation import evaluates
from stepwell.transforms.rules.loading import apply_patterns, load_rules


@operator
class SquaredReluOp(UnaryOp):
    """
    The square of the positive part, `max(x, 0)^2`. Shape and element type (a float) are those of `x`.
    Reference: So et al., "Primer: Searching for Efficient Transformers" (2021).
    """

    ONNX_DOMAIN = "example"
    x = operand_def(TENSOR)
    y = result_def(TENSOR)


@evaluates("squared_relu")
def _meaning(op: SquaredReluOp, x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) ** 2


@lowers("squared_relu")
def _lowering(low: Lowering, op: SquaredReluOp) -> SSAValue:
    return elementwise(low, op, _squared_relu)


def _squared_relu(x: Scalar) -> Scalar:
    positive = x.maximum(0)
    return positive * positive


@dataclass(frozen=True)
class RecogniseSquaredReluPass(ModulePass):
    """
    Make one op of a relu whose result is multiplied by itself.
    Requires: verified IR. Ensures: no rule of squared_relu.pat matches.
    """

    name = "recognise-squared-relu"
    after: ClassVar[str] = "simplify-graph"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        rules = load_rules(Path(__file__).with_name("squared_relu.pat"), ctx)
        apply_patterns(op, ctx, rules.patterns(ctx))
