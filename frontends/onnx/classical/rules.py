"""How the rules of `ai.onnx.ml` are entered, and what they are written with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.upgrades import Call, Emitter, Rule
from stepwell.frontends.onnx.writing import cast, ints, one, operand

CLASSICAL_DOMAIN = "ai.onnx.ml"

CLASSICAL: dict[str, Rule] = {}
"""Operator name to the rule that returns its results."""


def classical(*ops: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        CLASSICAL.update(dict.fromkeys(ops, rule))
        return rule

    return enter


def rows_of(call: Call, emitter: Emitter, dtype: Any = np.float32) -> SSAValue:
    """The first operand as `[rows, features]` of `dtype`; one row may come as a vector."""
    x = operand(call)
    rank = len(emitter.shape(x))
    if rank == 1:
        x = one(emitter, "Unsqueeze", x, ints(emitter, 0))
    elif rank != 2:
        raise emitter.error(call, f"an input of rank {rank}", "give rows of features")
    return cast(emitter, x, dtype)


def feature_count(call: Call, emitter: Emitter, table: SSAValue) -> int:
    """The number of features, where it has to be known."""
    count = emitter.shape(table)[1]
    if not isinstance(count, int):
        raise emitter.missing(call, "the number of features is not known", "give the extent a number")
    return count


def matrix_of(call: Call, emitter: Emitter, values: Sequence[float], rows: int, what: str) -> np.ndarray:
    if not rows or not values or len(values) % rows:
        raise emitter.error(call, f"{len(values)} {what} for {rows} rows", "export the model again")
    return np.array(values, np.float32).reshape(rows, -1)


def times(emitter: Emitter, table: SSAValue, rows: np.ndarray) -> SSAValue:
    """`table @ rows^T`"""
    return one(emitter, "MatMul", table, emitter.constant(np.ascontiguousarray(rows.T)))


def column(emitter: Emitter, scores: SSAValue, column: int) -> SSAValue:
    """One column of a matrix, as `[rows, 1]`."""
    return one(emitter, "Slice", scores, *(ints(emitter, v) for v in (column, column + 1, 1)))


def pair(emitter: Emitter, left: SSAValue, right: SSAValue) -> SSAValue:
    return one(emitter, "Concat", left, right, axis=1)
