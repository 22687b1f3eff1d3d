"""Recurrent layers over a sequence, in one or both directions."""

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    element_type,
    integer,
    operator,
    real,
    reals,
    require_rank,
    require_same,
    string,
    strings,
)
from stepwell.dialects.graph.shape import tensor_type


class RecurrentOp(GraphOp):
    """
    `x[time, batch, input]` (`[batch, time, input]` with `layout` 1), weights `w[directions, gates * hidden,
    input]` and `r[directions, gates * hidden, hidden]`, biases `b[directions, 2 * gates * hidden]`. Results:
    all hidden states `y[time, directions, batch, hidden]`, and the last `y_h[directions, batch, hidden]`.
    """

    GATES: ClassVar[int] = 1

    def output_types(self) -> Sequence[Attribute]:
        x, w, r = self.operands[:3]
        shape, weights = require_rank(self, x, 3), require_rank(self, w, 3)
        recurrent = require_rank(self, r, 3)
        layout, direction = self.get("layout"), self.get("direction")
        if direction not in ("forward", "reverse", "bidirectional") or layout not in (0, 1):
            raise VerifyException(
                f"{self.name}: direction {direction!r} must be forward, reverse or bidirectional,"
                f" layout {layout} 0 or 1"
            )
        directions = 2 if direction == "bidirectional" else 1
        hidden = recurrent[2]
        if (said := self.get("hidden_size")) is not None:
            require_same(self, hidden, said, "last extent of the recurrent weights and hidden_size")
        require_same(self, weights[0], directions, "first extent of the weights and number of directions")
        require_same(self, weights[2], shape[2], "last extent of the weights and of the input")
        require_same(self, weights[1], hidden * self.GATES, f"rows of the weights and {self.GATES} * hidden")
        require_same(
            self, recurrent[0], directions, "first extent of the recurrent weights and of directions"
        )
        require_same(
            self,
            recurrent[1],
            hidden * self.GATES,
            f"rows of the recurrent weights and {self.GATES} * hidden",
        )
        time, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
        state = [batch, directions, hidden] if layout else [directions, batch, hidden]
        operands = {
            "b": [directions, hidden * (2 * self.GATES)],
            "sequence_lens": [batch],
            "initial_h": state,
            "initial_c": state,
            "p": [directions, hidden * 3],
        }
        for name, want in operands.items():
            if (value := getattr(self, name, None)) is None:
                continue
            for axis, (extent, other) in enumerate(
                zip(require_rank(self, value, len(want)), want, strict=True)
            ):
                require_same(self, extent, other, f"extent {axis} of {name} and what the other operands say")
            if name == "sequence_lens" and not isinstance(element_type(value), IntegerType):
                raise VerifyException(
                    f"{self.name}: sequence_lens has elements of type {element_type(value)}, not i32"
                )
            if name != "sequence_lens" and element_type(value) != element_type(x):
                raise VerifyException(f"{self.name}: {name} has other elements than the input")
        found = element_type(x)
        last = tensor_type([batch, directions, hidden] if layout else [directions, batch, hidden], found)
        all_ = [batch, time, directions, hidden] if layout else [time, directions, batch, hidden]
        return [tensor_type(all_, found), last, last][: len(self.RESULT_KINDS)]


@operator
class RNNOp(RecurrentOp):
    """`h' = f(w x + r h + b)`; shapes and directions as in every recurrent layer: see `RecurrentOp`."""

    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    r = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    sequence_lens = opt_operand_def(TENSOR)
    initial_h = opt_operand_def(TENSOR)
    y = opt_result_def(TENSOR)
    y_h = opt_result_def(TENSOR)
    activation_alpha = reals()
    activation_beta = reals()
    activations = strings(["Tanh", "Tanh"])
    clip = real(optional=True)
    direction = string("forward")
    hidden_size = integer(optional=True)
    layout = integer(0)


@operator
class GRUOp(RecurrentOp):
    """
    Gates z, r, h; `linear_before_reset` applies the reset gate after the matrix product. See `RecurrentOp`.
    """

    GATES = 3
    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    r = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    sequence_lens = opt_operand_def(TENSOR)
    initial_h = opt_operand_def(TENSOR)
    y = opt_result_def(TENSOR)
    y_h = opt_result_def(TENSOR)
    activation_alpha = reals()
    activation_beta = reals()
    activations = strings()
    clip = real(optional=True)
    direction = string("forward")
    hidden_size = integer(optional=True)
    layout = integer(0)
    linear_before_reset = integer(0)


@operator
class LSTMOp(RecurrentOp):
    """
    Gates i, o, f, c; peepholes `p[directions, 3 * hidden]`; the last cell state is `y_c`. See `RecurrentOp`.
    """

    GATES = 4
    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    r = operand_def(TENSOR)
    b = opt_operand_def(TENSOR)
    sequence_lens = opt_operand_def(TENSOR)
    initial_h = opt_operand_def(TENSOR)
    initial_c = opt_operand_def(TENSOR)
    p = opt_operand_def(TENSOR)
    y = opt_result_def(TENSOR)
    y_h = opt_result_def(TENSOR)
    y_c = opt_result_def(TENSOR)
    activation_alpha = reals()
    activation_beta = reals()
    activations = strings()
    clip = real(optional=True)
    direction = string("forward")
    hidden_size = integer(optional=True)
    input_forget = integer(0)
    layout = integer(0)
