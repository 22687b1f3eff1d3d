"""What the rules of `simplify_graph.pat` ask about windows and steps, and samples for their test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from stepwell.dialects.graph import GraphOp, dims_of, known_integers
from stepwell.transforms.rules.natives import any_shape_of, native, rank


@native
def unit_steps(steps: SSAValue | None) -> bool:
    """Whether the steps of a slice are absent or known to be 1."""
    known = known_integers(steps) if steps is not None else []
    return known is not None and all(step == 1 for step in known)


@native
def covers_all(y: SSAValue, x: SSAValue) -> bool:
    """
    Whether the one window of the pooling that made `y` covers every element of its operand `x`, and no padding.
    What a window of `ceil_mode` reaches beyond `x` is no padding, so `count_include_pad` never counts it.
    """
    op = y.owner
    assert isinstance(op, GraphOp), "a pooling made it"
    space = slice(1, -1) if op.get("layout") == "nhwc" else slice(2, None)
    spatial = dims_of(x.type)[space]
    window = op.get("kernel_shape")
    if not all(isinstance(d, int) for d in spatial) or any(d != 1 for d in dims_of(y.type)[space]):
        return False
    if any(op.get("pads") or ()) or any(d != 1 for d in op.get("dilations") or ()):
        return False
    if op.get("auto_pad") not in (None, "NOTSET", "VALID"):
        return False
    return all(w >= d for w, d in zip(window, spatial, strict=True))


# Samples


@native
def reshaping(rng: np.random.Generator, op: str, x: SSAValue) -> list[np.ndarray]:
    """The operands of the reshape, flatten, squeeze or unsqueeze `op` of a tensor like `x`, but for the tensor."""
    if op == "graph.reshape":
        return [any_shape_of(rng, x)]
    if op == "graph.unsqueeze":
        return [np.array([rng.integers(0, rank(x) + 1)], np.int64)]
    return []


@native
def shape_arithmetic(rng: np.random.Generator, op: str) -> Sequence[Any]:
    """Operands of `op` as they stand in computations of shapes: small constants of rank 0 or 1."""
    a, b = (rng.integers(-3, 7, 3).astype(np.int64) for _ in range(2))
    one = np.array([rng.integers(0, 3)], np.int64)
    operands: dict[str, list[Any]] = {
        "cast": [a], "concat": [a, b], "constant_of_shape": [one + 1], "expand": [one, np.array([3])], "gather": [a, one],
        "max": [a, b, one], "min": [a, b], "neg": [a], "range": [one[0], np.int64(9), one[0] + 1], "reduce_max": [a, np.array([0])],
        "reduce_min": [a, np.array([0])], "reduce_prod": [a, np.array([0])], "reduce_sum": [a, np.array([0])],
        "reshape": [a, np.array([-1])], "shape": [a], "size": [a], "slice": [a, one, np.array([3])], "split": [a],
        "squeeze": [one, np.array([0])], "unsqueeze": [one[0], np.array([0])], "where": [a > b, a, b],
    }  # fmt: skip
    return operands.get(op.removeprefix("graph."), [a, b])
